"""The codec against the packages ``ismrmrd`` and ``gadgetron``, byte for byte, at every split, and on rubbish."""

import ctypes
import io
import struct

import ismrmrd
import numpy as np
import pytest
from helpers import gadgetron, random_acquisition
from hypothesis import given, settings
from hypothesis import strategies as st
from isocenter.wire import (
    Close,
    ConfigFile,
    ConfigScript,
    Decoder,
    DicomFile,
    ErrorReport,
    Header,
    Limits,
    ProtocolError,
    Query,
    Response,
    Text,
    TruncatedError,
    UnknownMessageError,
    encode,
)
from isocenter.wire.items import (
    ACQUISITION_HEADER,
    IMAGE_DTYPES,
    AcquisitionBucket,
    DependencyReport,
    ImageArray,
    ReconBit,
    ReconBuffer,
    ReconData,
    header_of,
    make_image,
)

CONTROL = [
    (ConfigFile("default.xml"), b"\x01\x00" + b"default.xml".ljust(1024, b"\0")),
    (ConfigScript(b"<configuration/>"), b"\x02\x00\x10\x00\x00\x00<configuration/>"),
    (ConfigScript(b"<a/>", terminated=True), b"\x02\x00\x05\x00\x00\x00<a/>\0"),
    (Header(b"<h/>"), b"\x03\x00\x04\x00\x00\x00<h/>"),
    (Close(), b"\x04\x00"),
    (Text("hello\n"), b"\x05\x00\x06\x00\x00\x00hello\n"),
    (Query("gadgetron::info", 7), b"\x06\x00" + struct.pack("<QQQ", 0, 7, 15) + b"gadgetron::info"),
    (Response("42", 7), b"\x07\x00" + struct.pack("<QQ", 7, 2) + b"42"),
    (ErrorReport("broken"), b"\x08\x00" + struct.pack("<Q", 6) + b"broken"),
    (
        DicomFile(b"DICM", b"a.dcm", b"<m/>"),
        b"\xfa\x03\x04\0\0\0DICM" + struct.pack("<Q", 5) + b"a.dcm" + struct.pack("<Q", 4) + b"<m/>",
    ),
]


def joined(message):
    return b"".join(bytes(buffer) for buffer in encode(message))


def written(write, item):
    """Bytes that a writer of the gadgetron package produces."""
    stream = io.BytesIO()
    write(stream, item)
    return stream.getvalue()


class _Source:
    """What the readers of the gadgetron package read from."""

    def __init__(self, data):
        self._stream = io.BytesIO(data)

    def read(self, count):
        return self._stream.read(count)


def acquisitions():
    return st.builds(
        random_acquisition,
        channels=st.integers(1, 5),
        samples=st.integers(0, 40),
        trajectory=st.integers(0, 3),
        seed=st.integers(0, 1000),
        flags=st.integers(0, 2**50),
        scan_counter=st.integers(0, 2**32 - 1),
        center_sample=st.integers(0, 2**16 - 1),
    )


@pytest.mark.parametrize(("message", "expected"), CONTROL, ids=lambda value: type(value).__name__)
def test_control_messages_have_the_bytes_of_the_protocol(message, expected):
    assert joined(message) == expected
    assert Decoder().feed(expected) == [message]


@given(acquisitions())
@settings(max_examples=50, deadline=None)
def test_acquisition_is_that_of_the_packages(acquisition):
    ours = joined(acquisition)
    assert ours == written(gadgetron("external.writers").write_acquisition, acquisition)
    (decoded,) = Decoder().feed(ours)
    assert decoded == acquisition
    assert ismrmrd.Acquisition.from_bytes(ours[2:]) == decoded


@given(st.integers(1, 3), st.integers(0, 30), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_waveform_is_that_of_the_packages(channels, samples, seed):
    data = np.random.default_rng(seed).integers(0, 2**32, (channels, samples), np.uint32)
    waveform = ismrmrd.Waveform.from_array(data, waveform_id=3, time_stamp=12345, sample_time_us=2500.0)
    assert joined(waveform) == written(gadgetron("external.writers").write_waveform, waveform)
    (decoded,) = Decoder().feed(joined(waveform))
    assert bytes(decoded.getHead()) == bytes(waveform.getHead())
    assert np.array_equal(decoded.data, data)


@pytest.mark.parametrize("dtype", IMAGE_DTYPES.values(), ids=str)
def test_image_of_every_data_type(dtype):
    data = (np.arange(2 * 1 * 3 * 5).reshape(2, 1, 3, 5) - 7).astype(dtype)
    meta = ismrmrd.Meta({"DataRole": "Image", "ImageRowDir": ["1", "0", "0"], "Umlaut": "ä"})
    image = make_image(data, ismrmrd.ImageHeader(), meta)
    encoded = joined(image)
    if dtype != np.int32:  # which the ismrmrd package cannot hold
        assert encoded == written(gadgetron("external.writers").write_image, image)
        assert np.array_equal(ismrmrd.Image.from_bytes(encoded[2:]).data, data)
    (decoded,) = Decoder().feed(encoded)
    assert decoded.data.dtype == dtype
    assert np.array_equal(decoded.data, data)
    assert decoded.meta == meta
    assert joined(decoded) == encoded


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": ""},
        {"<a>": "1 < 2 & \"3\" > 'ä' \n😀", "b": [1, 2.5, ""], "c": ("x", 1), "d": None, "e": []},
        {"broken": "half a \ud83d pair"},
    ],
)
def test_image_attributes_are_those_that_ismrmrd_writes(values):
    image = make_image(np.ones((1, 1, 2, 2), np.float32), ismrmrd.ImageHeader(), ismrmrd.Meta(values))
    head = bytes(encode(image)[0])
    xml = head[len(head) - struct.unpack_from("<Q", head, 200)[0] :]
    assert xml == ismrmrd.Meta(values).serialize().replace("<value />", "<value></value>").encode()


def test_image_attributes_with_a_trailing_nul_as_gadgetron_sends_them():
    image = make_image(np.ones((1, 1, 2, 2), np.float32), ismrmrd.ImageHeader(), ismrmrd.Meta({"a": "b"}))
    head, pixels = encode(image)
    attributes = image.attribute_string.encode()
    with_nul = bytes(head)[: 2 + 198] + struct.pack("<Q", len(attributes) + 1) + attributes + b"\0" + bytes(pixels)
    (decoded,) = Decoder().feed(with_nul)
    assert decoded.meta == {"a": "b"}


# numpy warns about the ctypes headers that the gadgetron package puts into object arrays
PEP3118 = pytest.mark.filterwarnings("ignore:A builtin ctypes object")


def recon_buffer(seed=0):
    random = np.random.default_rng(seed)
    data = (random.standard_normal((1, 2, 1, 3, 1, 4, 5)) + 0j).astype(np.complex64)
    headers = np.zeros((1, 2, 1, 1, 4), ACQUISITION_HEADER)
    headers["number_of_samples"] = 5
    trajectory = random.standard_normal((1, 2, 1, 1, 4, 5, 2)).astype(np.float32)
    return ReconBuffer(data, trajectory, None, headers, bytes(range(56)))


@PEP3118
def test_recon_data_is_that_of_the_gadgetron_package():
    message = ReconData([ReconBit(recon_buffer(0), recon_buffer(1)), ReconBit(recon_buffer(2))])
    encoded = joined(message)
    theirs = gadgetron("types.recon_data").read_recon_data(_Source(encoded[2:]))
    assert np.array_equal(theirs.bits[0].data.data, message.bits[0].data.data.transpose())
    assert theirs.bits[1].ref is None
    assert theirs.bits[0].data.headers.shape == (4, 1, 1, 2, 1)
    assert written(gadgetron("types.recon_data").write_recon_data, theirs) == encoded
    (decoded,) = Decoder().feed(encoded)
    assert joined(decoded) == encoded


def test_recon_data_with_an_empty_encoding_space():
    empty = ReconBuffer(np.zeros(0, np.complex64), None, None, np.zeros(0, ACQUISITION_HEADER), bytes(56))
    encoded = joined(ReconData([ReconBit(empty)]))
    (decoded,) = Decoder().feed(encoded)
    assert decoded.bits[0].data.data.size == 0
    assert joined(decoded) == encoded


@PEP3118
def test_image_array_is_that_of_the_gadgetron_package():
    data = (np.arange(1 * 2 * 3 * 1 * 1 * 4 * 5).reshape(1, 2, 3, 1, 1, 4, 5) * 1j).astype(np.complex64)
    headers = [ismrmrd.ImageHeader() for _ in range(6)]
    for index, header in enumerate(headers):
        header.image_index = index
    message = ImageArray(
        data, headers, (1, 2, 3), ["<ismrmrdMeta/>"] * 6, None, np.zeros((1, 2, 3, 1, 4), ACQUISITION_HEADER)
    )
    encoded = joined(message)
    theirs = gadgetron("types.image_array").read_image_array(_Source(encoded[2:]))
    assert theirs.data.shape == (5, 4, 1, 1, 3, 2, 1)
    assert theirs.headers[2, 1, 0].image_index == 5
    assert written(gadgetron("types.image_array").write_image_array, theirs) == encoded
    (decoded,) = Decoder().feed(encoded)
    assert joined(decoded) == encoded


def test_image_array_with_waveforms_carries_no_message_ids_inside():
    waveform = ismrmrd.Waveform.from_array(np.ones((1, 3), np.uint32))
    message = ImageArray(
        np.ones((1, 1, 1, 1, 1, 2, 2), np.complex64), [ismrmrd.ImageHeader()], (1, 1, 1), [], [waveform]
    )
    (decoded,) = Decoder().feed(joined(message))
    assert np.array_equal(decoded.waveforms[0].data, waveform.data)
    assert joined(decoded) == joined(message)


def test_bucket_is_that_of_the_gadgetron_package():
    stats = [[[0, 1], [0], [0], [0], [0], [0], [0], [0], [0]]]
    data = [random_acquisition(seed=1, trajectory=2), random_acquisition(seed=2)]
    bucket = AcquisitionBucket(data, [random_acquisition(samples=4, seed=3)], stats, stats)
    encoded = joined(bucket)
    theirs = gadgetron("types.acquisition_bucket").read_acquisition_bucket(_Source(encoded[2:]))
    assert theirs.data == data
    assert theirs.ref == bucket.reference
    assert theirs.datastats[0].kspace_encode_step_1 == {0, 1}
    (decoded,) = Decoder().feed(encoded)
    assert decoded.data == data
    assert joined(decoded) == encoded


def test_bucket_with_waveforms():
    waveform = ismrmrd.Waveform.from_array(np.arange(6, dtype=np.uint32).reshape(2, 3), waveform_id=1)
    bucket = AcquisitionBucket([random_acquisition()], [], [], [], [waveform])
    (decoded,) = Decoder().feed(joined(bucket))
    assert np.array_equal(decoded.waveforms[0].data, waveform.data)
    assert joined(decoded) == joined(bucket)


def short_scan():
    image = make_image(np.ones((1, 1, 2, 2), np.float32), ismrmrd.ImageHeader(), ismrmrd.Meta({"a": "b"}))
    return [
        ConfigFile("rss.xml"),
        Header(b"<ismrmrdHeader/>"),
        Text("{}"),
        random_acquisition(trajectory=2),
        ismrmrd.Waveform.from_array(np.ones((1, 3), np.uint32)),
        image,
        ReconData([ReconBit(recon_buffer())]),
        AcquisitionBucket([random_acquisition()], [], [], []),
        DependencyReport({"status": "success"}),
        Close(),
    ]


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])
def test_every_split_gives_the_same_messages(step):
    scan = short_scan()
    stream = b"".join(joined(message) for message in scan)
    for split in range(0, len(stream), step):
        decoder = Decoder(slab_bytes=4096)
        messages = decoder.feed(stream[:split]) + decoder.feed(stream[split:])
        decoder.finish()
        assert [type(message) for message in messages] == [type(message) for message in scan]
        assert b"".join(joined(message) for message in messages) == stream


def test_a_stream_that_ends_inside_a_message_is_noticed_at_every_byte():
    boundaries, stream = {0}, b""
    for message in short_scan():
        stream += joined(message)
        boundaries.add(len(stream))
    for end in range(len(stream)):
        decoder = Decoder()
        decoder.feed(stream[:end])
        if end in boundaries:
            decoder.finish()
        else:
            with pytest.raises(TruncatedError, match="ended inside a message"):
                decoder.finish()


def test_byte_by_byte_through_small_slabs():
    stream = b"".join(joined(random_acquisition(seed=seed, samples=64)) for seed in range(20))
    decoder = Decoder(slab_bytes=2048)
    messages = [message for byte in stream for message in decoder.feed(bytes([byte]))]
    assert messages == [random_acquisition(seed=seed, samples=64) for seed in range(20)]


def test_large_messages_in_a_row():
    """The second one announces less at first than the first one had."""
    image = make_image(
        np.ones((1, 1, 4, 4), np.float32), ismrmrd.ImageHeader(), ismrmrd.Meta({"note": "x" * 3 * 2**20})
    )
    data = 3 * b"".join(bytes(part) for part in encode(image))
    decoder, count = Decoder(), 0
    for start in range(0, len(data), 2**16):
        piece = memoryview(data)[start : start + 2**16]
        while piece:
            memory = decoder.writable()[: len(piece)]
            assert memory
            memory[:] = piece[: len(memory)]
            count += len(decoder.received(len(memory)))
            piece = piece[len(memory) :]
    assert count == 3


def test_memory_is_used_again_only_when_nothing_refers_to_it():
    stream = b"".join(joined(random_acquisition(seed=seed, samples=600)) for seed in range(60))
    kept = Decoder(slab_bytes=32768).feed(stream)
    assert kept == [random_acquisition(seed=seed, samples=600) for seed in range(60)]
    decoder = Decoder(slab_bytes=32768)
    for start in range(0, len(stream), 5000):
        decoder.feed(stream[start : start + 5000])
    assert len(decoder._pool) <= 2


@pytest.mark.parametrize("name", ["data", "header"])
def test_memory_is_not_used_again_while_any_part_of_one_readout_refers_to_it(name):
    def part(readout):
        return readout.data if name == "data" else header_of(readout)

    first = random_acquisition(samples=600)
    decoder = Decoder(slab_bytes=32768)
    kept = part(decoder.feed(joined(first))[0])
    for seed in range(1, 60):
        decoder.feed(joined(random_acquisition(samples=600, seed=seed, scan_counter=seed)))
    assert bytes(memoryview(kept).cast("B")) == bytes(memoryview(part(first)).cast("B"))
    assert len(decoder._pool) <= 3


@pytest.mark.parametrize(
    ("rubbish", "complaint"),
    [
        (struct.pack("<H", 999), "message id 999 is not known"),
        (struct.pack("<HI", 3, 2**32 - 1), "announces a length of 4294967295"),
        (struct.pack("<HI", 5, 2**24 + 1), "the limit is 16777216"),
        (struct.pack("<HQQQ", 6, 1, 0, 0), "reserved"),
        (b"\x01\x00" + b"x" * 1024, "not NUL-terminated"),
        (struct.pack("<H", 1050) + struct.pack("<13Q", 2**60, *[0] * 12), "1152921504606846976 readouts"),
        (struct.pack("<HQQ", 1023, 1, 2**40), "number of dimensions"),
        (struct.pack("<HQQQQ", 1023, 1, 2, 2**40, 2**40), "exceeds the limit"),
        (struct.pack("<H", 1022) + bytes(198) + struct.pack("<Q", 0), "data type 0"),
        (struct.pack("<H", 1022) + bytes(198) + struct.pack("<Q", 2**63), "image attributes announces"),
    ],
)
def test_rubbish_is_refused_with_the_reason(rubbish, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        Decoder().feed(rubbish)


def test_an_absurd_readout_is_refused_before_memory_is_taken():
    header = ismrmrd.AcquisitionHeader()
    header.number_of_samples, header.active_channels = 65535, 65535
    with pytest.raises(ProtocolError, match="samples of an acquisition"):
        Decoder(Limits(message=2**30)).feed(struct.pack("<H", 1008) + bytes(header))


@pytest.mark.parametrize("trajectory", [0, 2])
@pytest.mark.parametrize("piece", [200, 10**6])
def test_a_readout_may_be_as_long_as_the_limit_and_no_longer(trajectory, piece):
    readout = random_acquisition(4, 200, trajectory)
    data = joined(readout)

    def decode(limit):
        decoder = Decoder(Limits(message=limit))
        return [m for start in range(0, len(data), piece) for m in decoder.feed(data[start : start + piece])]

    assert decode(len(data)) == [readout]
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        decode(len(data) - 1)


def test_messages_before_a_fault_are_delivered():
    decoder = Decoder()
    assert decoder.feed(joined(Text("good")) + b"\xff\xff") == [Text("good")]
    assert isinstance(decoder.fault, UnknownMessageError)
    with pytest.raises(UnknownMessageError):
        decoder.feed(b"\0")


def test_meta_attributes_with_a_doctype_are_refused():
    bomb = b'<!DOCTYPE x [<!ENTITY a "b">]><ismrmrdMeta/>'
    header = ismrmrd.ImageHeader()
    header.data_type = 1
    with pytest.raises(ProtocolError, match="DOCTYPE"):
        Decoder().feed(struct.pack("<H", 1022) + bytes(header) + struct.pack("<Q", len(bomb)) + bomb)


@given(st.binary(min_size=2, max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_do_anything_but_decode_or_raise(data):
    decoder = Decoder(Limits(text=1000, message=10_000))
    try:
        decoder.feed(data)
        decoder.finish()
    except ProtocolError:
        pass


def test_gadgetron_struct_sizes():
    assert ctypes.sizeof(gadgetron("types.recon_data").SamplingDescription) == 56
    assert ctypes.sizeof(gadgetron("types.acquisition_bucket").bucket_meta) == 104
    assert ACQUISITION_HEADER.itemsize == 340
    assert gadgetron("external.readers").constants.GADGET_MESSAGE_BUCKET == 1050

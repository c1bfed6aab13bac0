"""MRD files and recorded streams as other programs write them, and images of several kinds."""

import re
import socket
import threading
from contextlib import contextmanager

import h5py
import ismrmrd
import numpy as np
import pytest
from helpers import joined
from isocenter.commands.client import ClientError
from isocenter.commands.replay import Options, ReplayError, replay
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, Header, Text
from isocenter.wire.errors import FileError
from isocenter.wire.files import ImageWriter, MrdFile
from isocenter.wire.header import NO_HEADER
from isocenter.wire.items import ACQUISITION_HEADER, Acquisition, ImageHeader, Waveform, make_image
from isocenter.wire.streams import RecordedStream

READOUTS, CHANNELS, SAMPLES = 5, 3, 8
FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
PYTHON_WORDS = re.compile(r"__|Error|Unable to|invalid literal|NoneType|argument|could not|object|dtype|reshape")


def headers(**values):
    heads = np.zeros(READOUTS, ACQUISITION_HEADER)
    heads["number_of_samples"], heads["active_channels"], heads["version"] = SAMPLES, CHANNELS, 1
    heads["idx"]["kspace_encode_step_1"] = np.arange(READOUTS)
    heads["idx"]["user"][:, 5] = 2
    heads["position"] = (1.5, -2.5, 3.0)
    heads["flags"] = 1 << 40
    heads["acquisition_time_stamp"] = 100 + np.arange(READOUTS)
    for name, value in values.items():
        heads[name] = value
    return heads


def measured():
    random = np.random.default_rng(1)
    shape = (READOUTS, CHANNELS, SAMPLES)
    return (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(np.complex64)


def write(
    path,
    heads=None,
    data=None,
    *,
    head_type=None,
    data_type=FLOATS,
    traj=FLOATS,
    points=None,
    xml=NO_HEADER,
    shape=None,
):
    """Write a scan with types of its own; values are converted from native ones by name."""
    heads = headers() if heads is None else heads
    data = [sample.ravel().view(np.float32) for sample in measured()] if data is None else data
    members = [("head", head_type or heads.dtype), *([("traj", traj)] if traj else []), ("data", data_type)]
    rows = np.zeros(len(heads), members)
    copy(heads, rows["head"])
    for index in range(len(heads)):
        if traj:
            rows["traj"][index] = np.zeros(0, np.float32) if points is None else points[index]
        rows["data"][index] = data[index]
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.string_dtype())[0] = xml
        group.create_dataset("data", data=rows.reshape(shape or rows.shape))
    return path


def copy(source, target):
    for name in target.dtype.names:
        if target.dtype[name].names:
            copy(source[name], target[name])
        else:
            target[name] = source[name]


def layout(change, source=ACQUISITION_HEADER):
    """The header's type with every number changed, and members left out for which that is None."""
    members = []
    for name in source.names:
        kind = source[name]
        if kind.names:
            members.append((name, layout(change, kind)))
        elif (new := change(name, kind.base)) is not None:
            members.append((name, new, kind.shape))
    return np.dtype(members)


def reversed_order(source=ACQUISITION_HEADER):
    return np.dtype([(name, source[name]) for name in reversed(source.names)])


def pairs(real, imaginary, kind):
    dtype = np.dtype([(real, kind), (imaginary, kind)])
    values = np.zeros((READOUTS, CHANNELS * SAMPLES), dtype)
    values[real], values[imaginary] = (part(measured().reshape(READOUTS, -1)) for part in (np.real, np.imag))
    return values


BIG = layout(lambda _, kind: kind.newbyteorder(">"))
WIDE = layout(lambda _, kind: {"u": np.int64, "i": np.int64, "f": np.float64}[kind.kind])
DOUBLES = [sample.ravel().view(np.float32).astype(np.float64) for sample in measured()]
BIG_TYPE = h5py.vlen_dtype(np.dtype(">f4"))
BIG_FLOATS = [sample.ravel().view(np.float32).astype(">f4") for sample in measured()]
COMPLEX = measured().reshape(READOUTS, -1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head_type": BIG, "data_type": BIG_TYPE, "traj": BIG_TYPE, "data": BIG_FLOATS},
        {"head_type": reversed_order()},
        {"head_type": WIDE},
        {"head_type": layout(lambda name, kind: None if name in ("version", "user_int", "scan_counter") else kind)},
        {"traj": None},
        {"data": DOUBLES, "data_type": h5py.vlen_dtype(np.dtype("<f8"))},
        {"data": DOUBLES, "data_type": np.dtype((np.float64, 2 * CHANNELS * SAMPLES))},
        {"data": pairs("r", "i", "<f4"), "data_type": np.dtype((np.dtype([("r", "<f4"), ("i", "<f4")]), CHANNELS * SAMPLES))},
        {"data": pairs("real", "imag", "<f8"), "data_type": np.dtype((np.dtype([("real", "<f8"), ("imag", "<f8")]), 24))},
        {"data": COMPLEX, "data_type": h5py.vlen_dtype(np.dtype(np.complex64))},
        {"shape": (READOUTS, 1)},
    ],
)  # fmt: skip
def test_members_are_read_by_name_whatever_their_type(tmp_path, options):
    file = MrdFile(write(tmp_path / "scan.h5", **options))
    read = list(file.items())
    assert file.acquisition_count == len(read) == READOUTS
    assert not file.problems
    for index, (acquisition, expected) in enumerate(zip(read, measured(), strict=True)):
        assert acquisition.data.dtype == np.complex64
        assert np.array_equal(acquisition.data, expected)
        assert acquisition.idx.kspace_encode_step_1 == index
        assert acquisition.idx.user[5] == 2
        assert list(acquisition.position) == [1.5, -2.5, 3.0]
        assert acquisition.flags == 1 << 40
        assert acquisition.acquisition_time_stamp == 100 + index
        assert acquisition.traj.shape == (SAMPLES, 0)


def test_counters_of_an_older_version_are_zero(tmp_path):
    old = layout(lambda name, kind: None if name in ("user", "segment") else kind)
    read = list(MrdFile(write(tmp_path / "scan.h5", head_type=old)).items())
    assert [list(each.idx.user) for each in read] == [[0] * 8] * READOUTS
    assert [each.idx.kspace_encode_step_1 for each in read] == list(range(READOUTS))


@pytest.mark.parametrize(
    "make",
    [
        lambda group: group.create_dataset("xml", data=NO_HEADER),
        lambda group: group.create_dataset("xml", data=NO_HEADER.encode()),
        lambda group: group.create_dataset("xml", data=np.array([NO_HEADER.encode()], "S2000")),
        lambda group: group.create_dataset("xml", data=np.array([[NO_HEADER.encode()]], "S2000")),
        lambda group: group.create_dataset("xml", data=np.frombuffer(NO_HEADER.encode(), np.uint8)),
        lambda group: group.create_dataset("xml", data=np.frombuffer(NO_HEADER.encode(), "S1")),
        lambda group: group.create_dataset("xml", (1,), h5py.string_dtype("ascii"), data=[NO_HEADER.encode()]),
    ],
)
def test_the_header_is_read_in_whatever_form_it_is_kept(tmp_path, make):
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        make(file["dataset"])
    assert MrdFile(path).header == NO_HEADER.encode()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"number_of_samples": [8, 0, 8, 8, 8]}, "readout 1: its header says 0 samples of 3 channels, taken as 8 of 3"),
        ({"active_channels": [3, 3, 0, 3, 0]}, "8 samples of 0 channels, taken as 8 of 3 (2 times)"),
    ],
)
def test_a_size_that_the_other_tells_is_mended(tmp_path, values, problem):
    file = MrdFile(write(tmp_path / "scan.h5", headers(**values)))
    read = list(file.items())
    assert all(np.array_equal(each.data, expected) for each, expected in zip(read, measured(), strict=True))
    assert all((each.number_of_samples, each.active_channels) == (SAMPLES, CHANNELS) for each in read)
    assert len(file.problems) == 1
    assert problem in file.problems[0]


def test_a_readout_of_which_nothing_was_recorded_stays_empty(tmp_path):
    heads = headers(number_of_samples=[8, 0, 8, 8, 8])
    data = [sample.ravel().view(np.float32) for sample in measured()]
    data[1] = np.zeros(0, np.float32)
    file = MrdFile(write(tmp_path / "scan.h5", heads, data))
    assert [each.data.shape for each in file.items()] == [(3, 8), (3, 0), (3, 8), (3, 8), (3, 8)]
    assert not file.problems


@pytest.mark.parametrize(
    ("values", "options", "problem"),
    [
        ({"number_of_samples": [8, 0, 8, 8, 8], "active_channels": [3, 0, 3, 3, 3]}, {}, "0 samples of 0 channels"),
        ({"number_of_samples": [8, 7, 8, 8, 8]}, {}, "7 samples of 3 channels, its data are 24 samples in all; accepted"),
        ({"trajectory_dimensions": [0, 2, 0, 0, 0]}, {}, "a trajectory of 2 dimensions, the trajectory has 0 values"),
        ({"trajectory_dimensions": [0, 2, 0, 0, 0]}, {"traj": None}, "a trajectory of 2 dimensions"),
    ],
)  # fmt: skip
def test_one_bad_readout_costs_only_itself(tmp_path, values, options, problem):
    file = MrdFile(write(tmp_path / "scan.h5", headers(**values), **options))
    assert [each.idx.kspace_encode_step_1 for each in file.items()] == [0, 2, 3, 4]
    assert len(file.problems) == 1
    assert file.problems[0].startswith("readout 1 is left out: ")
    assert problem in file.problems[0]
    assert list(file.items())  # anew
    assert len(file.problems) == 1


def test_a_counter_that_does_not_fit_costs_only_its_readout(tmp_path):
    heads = np.zeros(READOUTS, WIDE)
    copy(headers(), heads)
    heads["idx"]["slice"][2] = -1
    heads["number_of_samples"][3] = 2**16 + SAMPLES
    heads["measurement_uid"] = -1  # of no consequence
    file = MrdFile(write(tmp_path / "scan.h5", heads))
    assert [each.idx.kspace_encode_step_1 for each in file.items()] == [0, 1, 4]
    assert file.problems == ["readout 2 is left out: slice is -1; accepted: a whole number from 0 to 65535 (2 times)"]


def test_trajectories(tmp_path):
    points = np.random.default_rng(2).standard_normal((READOUTS, 2 * SAMPLES)).astype(np.float32)
    file = MrdFile(write(tmp_path / "scan.h5", headers(trajectory_dimensions=[2, 2, 2, 0, 2]), points=points))
    read = list(file.items())
    assert all(
        np.array_equal(each.traj, expected.reshape(SAMPLES, 2)) for each, expected in zip(read, points, strict=True)
    )
    assert all(each.trajectory_dimensions == 2 for each in read)
    assert file.problems == ["readout 3: its header says 0 dimensions of the trajectory, taken as 2"]


def test_a_damaged_piece_costs_only_its_readouts(tmp_path):
    path = tmp_path / "scan.h5"
    write(path)
    with h5py.File(path, "a") as file:
        rows = file["dataset/data"][()]
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=rows, chunks=(1,), compression="gzip")
        place = file["dataset/data"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
    path.write_bytes(content)
    file = MrdFile(path)
    assert [each.idx.kspace_encode_step_1 for each in file.items()] == [0, 1, 2, 4]
    assert file.problems == ["readout 3 is left out: the file is damaged there"]


def test_a_scan_of_which_nothing_can_be_used_is_refused(tmp_path):
    file = MrdFile(write(tmp_path / "scan.h5", headers(number_of_samples=0, active_channels=0)))
    with pytest.raises(
        FileError, match=r"no readout .* 0 samples of 0 channels, its data are 24 samples .*\(5 times\)"
    ):
        list(file.items())


@pytest.mark.parametrize("big", [False, True])
def test_waveforms(tmp_path, big):
    path, order = write(tmp_path / "scan.h5"), ">" if big else "<"
    head = np.dtype([(name, f"{order}u4") for name in ("time_stamp", "number_of_samples", "channels", "waveform_id")])
    rows = np.zeros(3, [("head", head), ("data", h5py.vlen_dtype(np.dtype(f"{order}u4")))])
    rows["head"]["time_stamp"], rows["head"]["waveform_id"] = (50, 102, 103), 7
    rows["head"]["number_of_samples"], rows["head"]["channels"] = (4, 0, 5), 2
    for index in range(3):
        rows["data"][index] = np.arange(8, dtype=f"{order}u4")
    with h5py.File(path, "a") as file:
        file["dataset"].create_dataset("waveforms", data=rows)
    file = MrdFile(path)
    read = list(file.items())
    assert [isinstance(each, Waveform) for each in read] == [True, False, False, True, False, False, False]
    assert all(np.array_equal(read[index].data, np.arange(8).reshape(2, 4)) for index in (0, 3))
    assert read[0].waveform_id == 7
    assert len(file.problems) == 2
    assert any("waveform 2 is left out: its header says 5 samples of 2 channels" in each for each in file.problems)


def other_group(path):
    write(path)
    with h5py.File(path, "a") as file:
        file.move("dataset", "scans/first")


def without_header(path):
    write(path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]


def empty_header(path):
    write(path, xml=" ")


def other_members(path):
    with h5py.File(write(path), "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros(3)


def cut_off(path):
    write(path)
    path.write_bytes(path.read_bytes()[:3000])


def read_all(path):
    file = MrdFile(path)
    return file.header, list(file.items())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "does not exist or is no file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"x" * 5000), "is no HDF5 file"),
        (cut_off, "is damaged or cut off"),
        (other_group, "has no group 'dataset'; accepted: scans/first"),
        (without_header, r"holds no MRD header \(xml\)"),
        (empty_header, r"\(xml\) .* is empty"),
        (other_members, "'data' .* has the members none; accepted: head, traj, data"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path, make, complaint):
    path = tmp_path / "scan.h5"
    make(path)
    with pytest.raises(FileError, match=complaint) as caught:
        read_all(path)
    assert not PYTHON_WORDS.search(str(caught.value))


def image(shape, dtype=np.float32, series=1):
    header = ImageHeader()
    header.image_series_index = series
    return make_image(np.arange(np.prod(shape)).reshape(shape).astype(dtype), header)


def written(path):
    with h5py.File(path) as file:
        return {name: series["data"][()] for name, series in file["images"].items()}


def test_images_of_several_sizes_and_types_are_all_in_the_file(tmp_path):
    path, said = tmp_path / "out.h5", []
    images = [
        *(image((1, 1, 4, 4)), image((1, 1, 2, 6)), image((1, 1, 4, 4)), image((1, 1, 4, 4), np.complex64)),
        *(image((1, 1, 2, 6)), image((1, 1, 2, 6), series=2), image((2, 1, 4, 4), np.int16)),
    ]
    for _ in range(2):  # the second time into the same file
        writer = ImageWriter(path, "images", said.append)
        for each in images:
            writer.write(each)
        writer.close()
    found = written(path)
    assert {name: data.shape for name, data in found.items()} == {
        "image_1": (4, 1, 1, 4, 4),
        "image_1_2": (4, 1, 1, 2, 6),
        "image_1_3": (2, 1, 1, 4, 4),
        "image_1_4": (2, 2, 1, 4, 4),
        "image_2": (2, 1, 1, 2, 6),
    }
    assert np.array_equal(found["image_1_2"][3], images[1].data)
    assert len(said) == 6
    assert said[0] == (
        "images of series 1 differ in size or type: those of [channels, z, y, x] 1 x 1 x 2 x 6 (float32) are in image_1_2"
    )


def test_places_that_cannot_be_written_to_are_refused_at_once(tmp_path):
    (tmp_path / "text.h5").write_text("something else")
    for path in (tmp_path / "missing" / "out.h5", tmp_path / "text.h5"):
        with pytest.raises(FileError, match=re.escape(str(path))):
            ImageWriter(path, "images")
    assert (tmp_path / "text.h5").read_text() == "something else"


def test_what_cannot_be_written_is_told_without_a_trace_of_python(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file["images"] = 1.0
    with pytest.raises(FileError, match="images cannot be written to") as caught:
        ImageWriter(tmp_path / "out.h5", "images").write(image((1, 1, 2, 2)))
    assert not PYTHON_WORDS.search(str(caught.value))

    def full(*_arguments):
        raise OSError(28, "Can't write data")

    monkeypatch.setattr(ismrmrd.Dataset, "append_image", full)
    with pytest.raises(FileError, match="No space left on device"):
        ImageWriter(tmp_path / "new.h5", "images").write(image((1, 1, 2, 2)))


def acquisitions(count=4, samples=16):
    return [ismrmrd.Acquisition.from_array(np.full((2, samples), index + 1j, np.complex64)) for index in range(count)]


SCAN = joined(Header(NO_HEADER.encode()), *acquisitions())
WHOLE = SCAN + joined(Close())


@contextmanager
def listener():
    """A server that notes what it gets until CLOSE or the end, and answers CLOSE."""
    received = bytearray()

    def serve():
        connection, _ = server.accept()
        with connection:
            decoder = Decoder()
            while piece := connection.recv(2**16):
                received.extend(piece)
                if any(isinstance(message, Close) for message in decoder.feed(piece)):
                    break
            connection.sendall(joined(Close()))
            while piece := connection.recv(2**16):  # what comes after CLOSE
                received.extend(piece)

    with socket.create_server(("localhost", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], received
        thread.join(10)
        assert not thread.is_alive()


def send(tmp_path, content, **options):
    """What a server gets of a recorded stream, what the user is told, and the result."""
    (tmp_path / "scan.stream").write_bytes(content)
    said, sent = [], []
    with listener() as (port, received):
        result = replay(
            Options(filename=tmp_path / "scan.stream", outfile=tmp_path / "out.h5", port=port, **options),
            on_start=lambda _: None,
            on_acquisition=lambda: sent.append(1),
            on_image=lambda _: None,
            on_text=said.append,
        )
    assert len(sent) == result.acquisitions
    return bytes(received), said, result


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (WHOLE, {"config": "rss.xml"}, joined(ConfigFile("rss.xml")) + SCAN),
        (SCAN, {"config": "rss.xml"}, joined(ConfigFile("rss.xml")) + SCAN),
        (SCAN, {}, joined(ConfigFile("default.xml")) + SCAN),
        (joined(ConfigFile("sense.xml")) + WHOLE, {}, joined(ConfigFile("sense.xml")) + SCAN),
        (joined(ConfigFile("sense.xml")) + WHOLE, {"config": "rss.xml"}, joined(ConfigFile("rss.xml")) + SCAN),
        (joined(ConfigScript(b"<a/>", True)) + WHOLE, {}, joined(ConfigScript(b"<a/>", True)) + SCAN),
        (joined(ConfigScript(b"<a/>")) + WHOLE, {"config": "default.xml"}, joined(ConfigFile("default.xml")) + SCAN),
    ],
)
def test_a_recorded_stream_has_one_configuration_and_one_end(tmp_path, content, options, expected):
    received, said, result = send(tmp_path, content, **options)
    assert received == expected + joined(Close())
    assert said == []
    assert result.acquisitions == 4


def test_a_local_pipeline_and_parameters_go_with_a_recorded_stream(tmp_path):
    (tmp_path / "own.xml").write_bytes(b"<own/>")
    received, _, _ = send(tmp_path, SCAN, config_local=tmp_path / "own.xml", parameters=["a=1"])
    messages = Decoder().feed(received)
    assert messages[0] == ConfigScript(b"<own/>")
    assert isinstance(messages[1], Header)
    assert messages[2] == Text('{"parameters": {"a": "1"}}')
    assert sum(isinstance(message, Acquisition) for message in messages) == 4


def test_a_stream_that_ends_inside_a_message_is_sent_up_to_there(tmp_path):
    """And as a scan that was cut off, without the end marker."""
    received, said, result = send(tmp_path, SCAN[:-10], config="rss.xml")
    assert received == joined(ConfigFile("rss.xml"), Header(NO_HEADER.encode()), *acquisitions(3))
    assert said == [f"{tmp_path / 'scan.stream'} ends inside a message; what came before it was sent"]
    assert result.acquisitions == 3


def test_a_spooled_stream_without_its_end_marker_is_a_scan_that_was_cut_off(tmp_path):
    content = joined(ConfigFile("sense.xml")) + SCAN
    received, said, _ = send(tmp_path, content)
    assert received == content
    assert said == [f"{tmp_path / 'scan.stream'} ends without the end of its scan; what is there was sent"]


def test_what_is_no_message_is_sent_as_it_was_recorded(tmp_path):
    content = SCAN + b"\xff\xffsomething" * 10
    (tmp_path / "scan.stream").write_bytes(content)
    stream = RecordedStream(tmp_path / "scan.stream")
    assert stream.header + b"".join(piece for piece, _ in stream.pieces()) == content
    assert not stream.is_cut_off


def test_a_long_stream_comes_in_pieces(tmp_path):
    lines = acquisitions(40, 2**15)
    (tmp_path / "scan.stream").write_bytes(joined(Header(NO_HEADER.encode()), *lines))
    pieces = list(RecordedStream(tmp_path / "scan.stream").pieces())
    assert b"".join(piece for piece, _ in pieces) == joined(*lines)
    assert max(len(piece) for piece, _ in pieces) < 2**21
    assert sum(len(messages) for _, messages in pieces) == 40


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (
            b"hello, this is a text",
            "is neither an MRD file .HDF5. nor a stream of messages; accepted: HDF5, or a stream",
        ),
        (b"\0" * 5000, "is neither"),
        (b"\x03\0\x10\0\0\0" + b"\1" * 16, "is neither"),
        (b"\x01\0" + b"x" * 2000, "is neither"),
        (joined(*acquisitions()), "is neither"),
        (SCAN[:100], "ends inside its configuration or MRD header"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 1000, "is damaged or cut off"),
    ],
)
def test_files_that_hold_no_scan_are_refused_before_anything_is_sent(tmp_path, content, complaint):
    (tmp_path / "scan.stream").write_bytes(content)
    options = Options(
        filename=tmp_path / "scan.stream", outfile=tmp_path / "out.h5", port=1, timeout=0, config="rss.xml"
    )
    with pytest.raises(FileError, match=complaint):
        replay(options, on_start=lambda _: None, on_acquisition=lambda: None, on_image=lambda _: None, on_text=print)


def test_a_scan_of_which_nothing_can_be_used_is_refused_before_anything_is_sent(tmp_path):
    path = write(tmp_path / "scan.h5", headers(number_of_samples=0, active_channels=0))
    nothing = {"on_start": lambda _: None, "on_acquisition": lambda: None, "on_image": lambda _: None, "on_text": print}
    options = {"outfile": tmp_path / "out.h5", "port": 1, "timeout": 0}
    with pytest.raises(FileError, match="samples of 0 channels"):
        replay(Options(filename=path, **options), **nothing)
    with pytest.raises(ClientError):
        replay(Options(filename=write(tmp_path / "scan.h5"), **options), **nothing)


def test_what_a_recorded_stream_cannot_do_is_refused(tmp_path):
    (tmp_path / "scan.stream").write_bytes(SCAN)
    for option in ({"realtime": True}, {"precision": 12}):
        send_options = Options(filename=tmp_path / "scan.stream", outfile=tmp_path / "out.h5", port=1, **option)
        with pytest.raises(ReplayError, match="a recorded stream is sent as it is"):
            replay(send_options, on_start=print, on_acquisition=print, on_image=print, on_text=print)


def test_what_a_file_lacks_is_told_to_the_user(tmp_path):
    path, said = write(tmp_path / "scan.h5", headers(number_of_samples=[8, 7, 8, 8, 8])), []
    with listener() as (port, received):
        result = replay(
            Options(filename=path, outfile=tmp_path / "out.h5", port=port),
            on_start=lambda _: None,
            on_acquisition=lambda: None,
            on_image=lambda _: None,
            on_text=said.append,
        )
    assert result.acquisitions == sum(isinstance(each, Acquisition) for each in Decoder().feed(bytes(received))) == 4
    assert len(said) == 1
    assert "readout 1 is left out: its header says 7 samples of 3 channels" in said[0]

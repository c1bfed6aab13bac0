"""What asks for more memory than a scan may hold is refused with the number, costs only itself, and all of it comes back."""

import math
import re
import socket
import struct

import ismrmrd
import pytest
from helpers import joined, random_acquisition, wait_until
from isocenter.flow import ledger
from isocenter.gadgets.readouts import flag_mask
from isocenter.service.settings import MIB, Settings, load_settings
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, Decoder, Header, Query, Text
from isocenter.wire.items import AcquisitionHeader, Image, ImageHeader

SCAN = 32 * MIB
NOISE = flag_mask(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
CALIBRATION = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
LAST = flag_mask(ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def readout(channels, samples=64, flags=0, **counters):
    acquisition = random_acquisition(channels, samples, flags=flags, center_sample=samples // 2)
    for name, value in counters.items():
        setattr(acquisition.idx, name, value)
    return acquisition


def announced(kind, header, content=b""):
    return struct.pack("<H", kind) + bytes(header) + content


def large_readout(flags=0):
    return AcquisitionHeader(number_of_samples=65535, active_channels=200, flags=flags)


def zfp_that_claims_more():
    sizes = (65535 - 1) | (2**24 - 1) << 24
    blob = b"zfp\5" + (2 | 1 << 2 | sizes << 4).to_bytes(8, "little") + bytes(64)
    header = AcquisitionHeader(number_of_samples=64, active_channels=2, flags=1 << (ismrmrd.ACQ_COMPRESSION1 - 1))
    return announced(1008, header, struct.pack("<I", len(blob)) + blob)


def nhlbi(samples, channels):
    count = 2 * samples * channels
    blob = struct.pack("<QfB", count, 1.0, 1) + bytes(math.ceil(count / 8))
    flags = 1 << (ismrmrd.ACQ_COMPRESSION2 - 1)
    header = AcquisitionHeader(number_of_samples=samples, active_channels=channels, flags=flags)
    return announced(1008, header, struct.pack("<I", len(blob)) + blob)


def large_grid(header):
    return header.replace("<x>64</x><y>32</y>", "<x>30000</x><y>30000</y>")


FAULTS = {
    "noise of ever new channels": (
        [readout(channels, 2, NOISE) for channels in range(100, 700, 20)],
        "noise readouts are not used: it needs .* more; the scan may keep 25.2 MB .*; all scans may hold",
    ),
    "noise of more channels than there are": (
        [readout(2000, 2, NOISE)],
        "noise readouts of more than 1024 channels are not used",
    ),
    "calibration lines of ever new slices": (
        [readout(8, 64, CALIBRATION, slice=number) for number in range(300)],
        "there is no memory for a block .*: it needs .* more; the scan may keep 25.2 MB",
    ),
    "ever new blocks": (
        [readout(8, 64, slice=number % 20, repetition=number // 20) for number in range(300)],
        "there is no memory for a block",
    ),
    "readouts of ever new shapes": (
        [readout(40 + number % 4, 64, slice=number // 12) for number in range(600)],
        "there is no memory for a block|channels where most readouts have",
    ),
    "a counter far outside": (
        [readout(32, 64, kspace_encode_step_2=4000)],
        "there is no memory for a block .* it needs .* more",
    ),
    "a readout larger than a message may be": (
        [announced(1008, large_readout(), bytes(100_000))],
        "samples of an acquisition of 104856000 bytes exceeds the limit of 8388608 bytes a message",
    ),
    "a compressed readout that grows": (
        [nhlbi(65535, 100)],
        "decompressed samples of a message would take 52428000 bytes, the limit is 8388608 bytes a message",
    ),
    "ZFP that claims more than its readout": (
        [zfp_that_claims_more()],
        "ZFP-compressed readout says that it holds .* values; accepted: 256 values",
    ),
    "a bucket of too many readouts": (
        [struct.pack("<H13Q", 1050, 10**6, *[0] * 12)],
        "a message announces 1000000 readouts, of which 8192 fit in the limit of 8388608 bytes a message",
    ),
    "a bucket of too many spaces": (
        [struct.pack("<H13QQ", 1050, *[0] * 13, 10**6)],
        "a message announces 1000000 encoding spaces",
    ),
    "a waveform that claims more": (
        [announced(1026, ismrmrd.WaveformHeader(channels=65535, number_of_samples=65535))],
        "waveform samples of a message would take 17179344900 bytes",
    ),
    "an image that claims more": (
        [announced(1022, ImageHeader(data_type=5, channels=1, matrix_size=(65535, 65535, 1)), bytes(8))],
        "pixels of an image of .* bytes exceeds the limit",
    ),
    "buffers that claim more": (
        [struct.pack("<HQQQQ", 1023, 1, 2, 2**20, 2**20)],
        "buffer announces .* exceeds the limit|buffer of .* bytes exceeds the limit",
    ),
    "meta attributes that grow": (
        [announced(1022, ImageHeader(data_type=5), struct.pack("<Q", 2 * MIB) + b"<" * 2 * MIB)],
        "meta attributes of a message would take",
    ),
}


@pytest.fixture
def small_service(make_service):
    service = make_service(
        scan_bytes=SCAN, memory_bytes=4 * SCAN, drain_timeout=1.0, send_timeout=1.0, idle_timeout=5.0
    )
    yield service
    wait_until(lambda: not service.server.memory.held)


@pytest.fixture(scope="module")
def scan():
    return simulate(ScanProtocol(matrix=32, coils=4, slices=2, noise_scan=False))


def exchange(service, *parts, until=20):
    """Stream parts, and return what is said and the images."""
    with service.connect() as sock:
        sock.settimeout(until)
        for part in parts:
            try:
                sock.sendall(part if isinstance(part, bytes) else joined(part))
            except OSError:
                break
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    messages = Decoder().feed(received)
    said = "".join(message.text for message in messages if isinstance(message, Text))
    return said, [message.data.tobytes() for message in messages if isinstance(message, Image)]


def opening(scan, config="rss.xml", header=None):
    return joined(ConfigFile(config), Header((header or scan.header).encode()))


def honest(service, scan):
    said, images = exchange(service, opening(scan), *scan.items, Close())
    assert not said
    return images


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_too_large_is_refused_with_the_number_and_costs_only_itself(small_service, scan, name):
    parts, complaint = FAULTS[name]
    before = honest(small_service, scan)
    said, _ = exchange(small_service, opening(scan), *parts, *scan.items, Close())
    assert_says(said, complaint)
    wait_until(lambda: not small_service.server.memory.held)
    assert honest(small_service, scan) == before
    assert len(before) == 2


def assert_says(said, complaint):
    assert re.search(complaint, said), said
    assert "internal" not in said


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (large_grid, "there is no memory for a block .* it needs 86.4 GB more; the scan may keep 25.2 MB"),
        (lambda _: "<ismrmrdHeader>" + "<a>" * 1000, "more than 64 within each other"),
        (lambda _: "<ismrmrdHeader>" + "<a/>" * 200_000 + "</ismrmrdHeader>", "more than 131072 elements"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused(small_service, scan, header, complaint):
    said, images = exchange(small_service, opening(scan, header=header(scan.header)), *scan.items, Close())
    assert_says(said, complaint)
    assert not images
    assert len(honest(small_service, scan)) == 2


def test_parameters_nested_without_end_are_a_text(small_service, scan):
    deep = Text('{"parameters": ' + "[" * 200_000)
    _, images = exchange(small_service, opening(scan), deep, *scan.items, Close())
    assert images == honest(small_service, scan)


@pytest.mark.parametrize("flood", [Text("x"), Query("gadgetron::info", 1), readout(1, 0), readout(4, 64, NOISE)])
def test_a_flood_of_small_messages_is_held_back_and_gives_all_back(small_service, scan, flood):
    with small_service.connect() as sock:
        sock.settimeout(0.5)
        data = joined(flood) * 1000
        try:
            sock.sendall(opening(scan))
            for _ in range(30):
                sock.sendall(data)
                assert small_service.server.memory.held <= 2 * SCAN
        except TimeoutError:
            pass
        assert len(honest(small_service, scan)) == 2
    wait_until(lambda: not small_service.server.memory.held)


def test_images_that_nobody_reads_are_bounded(small_service, scan):
    repeated = joined(*scan.items)
    with small_service.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(2)
        try:
            sock.sendall(opening(scan))
            for _ in range(300):
                sock.sendall(repeated)
                assert small_service.server.memory.held <= 2 * SCAN
        except OSError:
            pass
        assert len(honest(small_service, scan)) == 2
    wait_until(lambda: not small_service.server.memory.held)


def test_a_large_message_for_which_the_service_has_no_room_is_refused(make_service, scan, monkeypatch):
    monkeypatch.setattr(ledger, "PATIENCE", 0.2)
    service = make_service(scan_bytes=4 * SCAN, memory_bytes=4 * SCAN, drain_timeout=1.0)
    others = service.server.memory.account("other scans")
    assert others.keep(3 * SCAN + SCAN // 2)
    large = announced(1008, AcquisitionHeader(number_of_samples=65535, active_channels=40), bytes(65535 * 40 * 8))
    said, _ = exchange(service, opening(scan), large, Close())
    assert_says(said, "there is no memory for a message of 20971542 bytes: it needs .*; all scans may hold 134.2 MB")
    others.close()
    assert len(honest(service, scan)) == 2


class TestSettings:
    def test_a_scan_may_hold_half_of_what_the_service_may(self):
        assert Settings(memory_bytes=64 * MIB).scan_memory == (8 * MIB, 24 * MIB)
        assert Settings(memory_bytes=64 * MIB, scan_bytes=16 * MIB).scan_memory == (4 * MIB, 12 * MIB)
        assert Settings(memory_bytes=64 * MIB, scan_bytes=640 * MIB).scan_memory == (16 * MIB, 48 * MIB)

    def test_a_message_may_hold_no_more_than_may_wait_of_a_scan(self):
        assert Settings(memory_bytes=64 * MIB).limits.message == 8 * MIB
        assert Settings(memory_bytes=64 * MIB, max_message_bytes=2 * MIB).limits.message == 2 * MIB

    def test_the_name_of_earlier_versions_is_read_with_a_warning(self, tmp_path):
        path = tmp_path / "isocenter.yaml"
        path.write_text("queue_bytes: 1048576\nport: 9010\n")
        settings = load_settings(path)
        assert settings.port == 9010
        assert settings.notes == (
            "the setting queue_bytes is not used any more: a quarter of scan_bytes takes its place",
        )

"""What comes is handled in time that grows with it, and no faster: operations are counted while sizes are doubled."""

import sys
from pathlib import Path

import ismrmrd
import isocenter
import numpy as np
import pytest
from helpers import joined, random_acquisition
from isocenter.commands.client import Compression, _encode_compressed
from isocenter.flow.ledger import Ledger
from isocenter.gadgets.accumulate import accumulate
from isocenter.gadgets.image_header import ImageNumbers
from isocenter.gadgets.prewhiten import prewhiten
from isocenter.gadgets.readouts import flag_mask
from isocenter.gadgets.scan import Scan
from isocenter.service.series import SeriesNumbers
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import (
    Close,
    ConfigFile,
    ConfigScript,
    Decoder,
    DicomFile,
    ErrorReport,
    Header,
    Query,
    Response,
    Text,
)
from isocenter.wire.cursor import Cursor
from isocenter.wire.header import parse_header
from isocenter.wire.items import (
    ACQUISITION_HEADER,
    AcquisitionBucket,
    DependencyReport,
    Feedback,
    ImageArray,
    ImageHeader,
    ReconBit,
    ReconBuffer,
    ReconData,
    header_of,
    make_image,
)
from isocenter.wire.messages import MessageId

EIGHT_TIMES = 8 * 1.1**3
"""Eight times the size may take so many times the operations: a tenth more with each doubling, as some sizes are rounded."""

OURS = str(Path(isocenter.__file__).parent)
TESTS = str(Path(OURS, "tests"))
LINE_BYTES = 64
"""Bytes whose copying counts as much as a line of code."""


def operations(work):
    """How many lines of our own code are run, each turn of a loop within one counted."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        name = frame.f_code.co_filename
        if not name.startswith(OURS) or name.startswith(TESTS):
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def assert_linear(cost, size):
    few, many = cost(size), cost(8 * size)
    assert few
    assert many <= EIGHT_TIMES * few, (few, many)


def waveform(samples):
    return ismrmrd.Waveform.from_array(np.zeros((2, samples), np.uint32))


def readouts(count, samples=4, **options):
    return [random_acquisition(1, samples, **options) for _ in range(count)]


def bit():
    headers = np.zeros((1, 1, 1, 1, 2), ACQUISITION_HEADER)
    return ReconBit(ReconBuffer(np.zeros((1, 1, 1, 1, 1, 2, 4), np.complex64), None, None, headers, bytes(56)))


def image(pixels, attributes):
    meta = ismrmrd.Meta({f"name{number}": "value" for number in range(attributes)})
    return make_image(np.zeros((1, 1, 1, pixels), np.float32), ImageHeader(), meta)


def image_array(images, waveforms=0):
    data = np.zeros((images, 1, 1, 1, 1, 1, 4), np.complex64)
    waves = [waveform(2) for _ in range(waveforms)]
    return ImageArray(data, [ImageHeader()] * images, (images, 1, 1), ["<m/>"] * images, waves)


def compressed(count, samples):
    readout = random_acquisition(1, samples)
    encoded = b"".join(bytes(part) for part in _encode_compressed(readout, Compression("nhlbi", tolerance=1e-2), 1.0))
    return encoded * count


MESSAGES = {
    MessageId.CONFIG_FILE: [lambda n: joined(ConfigFile("default.xml")) * n],
    MessageId.CONFIG_SCRIPT: [lambda n: joined(ConfigScript(b"<a/>" * n))],
    MessageId.HEADER: [lambda n: joined(Header(b"<a/>" * n))],
    MessageId.CLOSE: [lambda n: joined(Close()) * n],
    MessageId.TEXT: [lambda n: joined(Text("text" * n)), lambda n: joined(Text("text")) * n],
    MessageId.QUERY: [lambda n: joined(Query("question" * n, 1)), lambda n: joined(Query("question", 1)) * n],
    MessageId.RESPONSE: [lambda n: joined(Response("answer" * n, 1)), lambda n: joined(Response("answer", 1)) * n],
    MessageId.ERROR: [lambda n: joined(ErrorReport("error" * n)), lambda n: joined(ErrorReport("error")) * n],
    MessageId.ACQUISITION: [
        lambda n: joined(*readouts(n)),
        lambda n: joined(*readouts(n, trajectory=2)),
        lambda n: joined(*readouts(1, 8 * n)),
        lambda n: joined(*readouts(1, 8 * n, trajectory=2)),
        lambda n: compressed(n, 16),
        lambda n: compressed(1, 200 * n),
    ],
    MessageId.DICOM: [lambda n: joined(DicomFile(b"DICM" * n, b"name", b"<m/>"))],
    MessageId.DEPENDENCY: [lambda n: joined(DependencyReport({f"name{k}": "value" for k in range(n)}))],
    MessageId.IMAGE: [
        lambda n: joined(image(8 * n, 1)),
        lambda n: joined(image(1, n)),
        lambda n: joined(image(1, 1)) * n,
    ],
    MessageId.RECON_DATA: [lambda n: joined(ReconData([bit() for _ in range(n)]))],
    MessageId.IMAGE_ARRAY: [lambda n: joined(image_array(n)), lambda n: joined(image_array(1, waveforms=n))],
    MessageId.WAVEFORM: [lambda n: joined(waveform(8 * n)), lambda n: joined(waveform(2)) * n],
    MessageId.BUCKET: [
        lambda n: joined(AcquisitionBucket(data=readouts(n, trajectory=2), reference=readouts(n))),
        lambda n: joined(AcquisitionBucket(waveforms=[waveform(2) for _ in range(n)])),
        lambda n: joined(AcquisitionBucket(data_stats=[[[1, 2]] * 9] * n)),
        lambda n: joined(AcquisitionBucket(data_stats=[[[*range(n)]] * 9])),
    ],
    MessageId.FEEDBACK: [lambda n: joined(Feedback("name", b"data" * n))],
}
CASES = [(kind, number) for kind, makes in MESSAGES.items() for number in range(len(makes))]


def test_every_kind_of_message_is_looked_at():
    assert set(MESSAGES) == set(MessageId)


@pytest.mark.parametrize("piece", [7, 2**20], ids=["in small pieces", "at once"])
@pytest.mark.parametrize(("kind", "number"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_message_decodes_in_linear_time(monkeypatch, kind, number, piece):
    copied = 0

    class Copies(Decoder):
        def _change_slab(self):
            nonlocal copied
            copied += self.held
            super()._change_slab()

    blob = Cursor.blob

    def counted(self, *arguments):
        nonlocal copied
        value = blob(self, *arguments)
        copied += len(value)
        return value

    monkeypatch.setattr(Cursor, "blob", counted)

    def cost(size):
        nonlocal copied
        copied = 0
        data = MESSAGES[kind][number](size)
        decoder = Copies(slab_bytes=128)

        def work():
            messages = []
            for first in range(0, len(data), piece):
                messages += decoder.feed(data[first : first + piece])
            assert messages
            decoder.finish()

        return operations(work) + copied // LINE_BYTES

    assert_linear(cost, 20)


@pytest.mark.parametrize(
    "content",
    [
        lambda n: b"".join(
            b"<userParameterLong><name>n%d</name><value>1</value></userParameterLong>" % k for k in range(n)
        ),
        lambda n: b"".join(
            b"<userParameterLong><name>n</name><value>x%d</value></userParameterLong>" % k for k in range(n)
        ),
        lambda n: b"<unknown/>" * n,
        lambda n: b"<!-- a comment -->" * n,
        lambda n: b"<userParameterString><name>&unknown; < &</name></userParameterString>" * n,
    ],
)
def test_a_header_is_read_in_linear_time(content):
    scan = simulate(ScanProtocol(matrix=8, coils=1)).header.encode()

    def cost(size):
        end = scan.index(b"</ismrmrdHeader>")
        data = scan[:end] + b"<userParameters>" + content(size) + b"</userParameters>" + scan[end:]
        return operations(lambda: parse_header(data))

    assert_linear(cost, 20)


def test_a_header_of_many_encodings_is_read_in_linear_time():
    scan = simulate(ScanProtocol(matrix=8, coils=1)).header
    start, end = scan.index("<encoding>"), scan.index("</encoding>") + len("</encoding>")
    encoding = scan[start:end].replace("<y>8</y>", "<y>8.0</y>")
    assert_linear(lambda size: operations(lambda: Scan(scan[:start] + encoding * size + scan[end:])), 10)


LAST_IN_SLICE = flag_mask(ismrmrd.ACQ_LAST_IN_SLICE)
LAST_IN_MEASUREMENT = flag_mask(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
LAST_IN_REPETITION = flag_mask(ismrmrd.ACQ_LAST_IN_REPETITION)
CALIBRATION = flag_mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
QUIET = {"matrix": 8, "coils": 1, "noise_scan": False}


def simulated(**protocol):
    return simulate(ScanProtocol(**QUIET, **protocol))


def changed(change, **protocol):
    """A scan whose readouts were changed by their number."""
    simulation = simulated(**protocol)
    for number, item in enumerate(simulation.items):
        change(header_of(item), number)
    return simulation


def flagged(flags, keep=0):
    def change(header, _number):
        header.flags = header.flags & keep | flags

    return change


def backwards(header, number):
    """Repetitions whose readouts come in turns, the last one first."""
    header.idx.repetition = 10000 - number // 2
    header.flags = LAST_IN_REPETITION


def lone(header, number):
    """Every readout of an image of its own."""
    header.idx.set, header.idx.contrast, header.flags = number, number % 7, LAST_IN_MEASUREMENT


def lone_calibration(header, number):
    lone(header, number)
    header.flags |= CALIBRATION


SCANS = {
    "lines": (lambda n: simulated(repeats=n), {}),
    "slices": (lambda n: simulated(slices=n), {}),
    "slices that are all at the end": (lambda n: changed(flagged(0), slices=n), {"trigger": "end"}),
    "slices by their counter": (lambda n: simulated(slices=n), {"trigger": "slice"}),
    "repetitions": (lambda n: simulated(frames=n, frame_counter="repetition"), {}),
    "repetitions as frames": (lambda n: simulated(frames=n, frame_counter="repetition"), {"frames": "repetition"}),
    "undersampled repetitions": (lambda n: simulated(frames=n, frame_counter="repetition", acceleration=2, acs=4), {}),
    "undersampled repetitions as frames": (
        lambda n: simulated(frames=n, frame_counter="repetition", acceleration=2, acs=4),
        {"frames": "repetition"},
    ),
    "undersampled slices": (lambda n: simulated(slices=n, acceleration=2, acs=4), {}),
    "undersampled contrasts": (lambda n: simulated(contrasts=n, acceleration=2, acs=4), {}),
    "all flags": (lambda n: changed(flagged(LAST_IN_SLICE | LAST_IN_MEASUREMENT), slices=n), {}),
    "all flags, undersampled": (
        lambda n: changed(flagged(LAST_IN_SLICE | LAST_IN_MEASUREMENT, CALIBRATION), slices=n, acceleration=2, acs=4),
        {},
    ),
    "backwards": (lambda n: changed(backwards, slices=n), {}),
    "lone readouts": (lambda n: changed(lone, slices=n), {}),
    "lone calibration lines": (lambda n: changed(lone_calibration, slices=n), {}),
}


@pytest.mark.parametrize("name", SCANS)
def test_readouts_are_sorted_in_linear_time(name):
    make, options = SCANS[name]

    def cost(size):
        simulation = make(size)
        return operations(lambda: list(accumulate(iter(simulation.items), Scan(simulation.header), **options)))

    assert_linear(cost, 5)


@pytest.mark.parametrize("flags", [0, LAST_IN_MEASUREMENT])
def test_readouts_without_room_are_refused_in_linear_time(flags):
    def cost(size):
        simulation = changed(flagged(flags), slices=size)
        scan = Scan(simulation.header, ledger=Ledger(keeps=50_000))
        count = operations(lambda: list(accumulate(iter(simulation.items), scan, trigger="end")))
        assert "memory" in scan.problems
        return count

    assert_linear(cost, 16)


def test_noise_is_summed_in_linear_time():
    noise = flag_mask(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)

    def cost(size):
        items = [random_acquisition(2, 8, flags=noise) for _ in range(size)]
        return operations(lambda: list(prewhiten(iter(items), Scan(simulated().header))))

    assert_linear(cost, 10)


def test_images_are_numbered_in_linear_time():
    def cost(size):
        numbers = ImageNumbers()
        return operations(lambda: [numbers.take(1, 1) for _ in range(size)])

    assert_linear(cost, 20)


def test_series_are_numbered_in_linear_time():
    scan = Scan(simulated().header)

    def cost(size):
        images, series = [image(pixels + 1, 0) for pixels in range(size)], SeriesNumbers()
        return operations(lambda: [series.settle(each, scan) for each in images])

    assert_linear(cost, 20)

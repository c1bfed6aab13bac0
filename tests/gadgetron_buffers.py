"""What Gadgetron makes of a scan for an external node: buckets, and buffers filled as BucketToBufferGadget fills them."""

from collections import defaultdict

import ismrmrd
import numpy as np
from isocenter.wire.header import parse_encodings, parse_header
from isocenter.wire.items import ACQUISITION_HEADER, AcquisitionBucket, ReconBit, ReconBuffer, ReconData

ONLY, BOTH = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set", "segment")


def bucket(items):
    """One bucket of all readouts: what the accumulating gadget hands on at the end of a scan."""
    readouts = [a for a in items if isinstance(a, ismrmrd.Acquisition) and not a.is_flag_set(19)]
    return AcquisitionBucket(
        [a for a in readouts if not a.is_flag_set(ONLY) and not a.is_flag_set(ismrmrd.ACQ_IS_PHASECORR_DATA)],
        [a for a in readouts if a.is_flag_set(ONLY) or a.is_flag_set(BOTH)],
    )


def buffers(header, collected, n_dimension="", s_dimension="", split_slices=True):
    """The messages that a bucket becomes, one for each group of counters."""
    encodings = parse_encodings(parse_header(header))
    parallel = parse_header(header).encoding[0].parallelImaging is not None
    groups = defaultdict(lambda: ([], []))
    for which, readouts in enumerate((collected.data, collected.reference)):
        for readout in readouts:
            groups[_group(readout, n_dimension, s_dimension, split_slices)][which].append(readout)
    for _, (data, reference) in sorted(groups.items()):
        first = (data or reference)[0]
        encoding = encodings[first.encoding_space_ref]
        make = _Maker(encoding, parallel, n_dimension, s_dimension, split_slices)
        empty = ReconBuffer(
            np.zeros((0,) * 7, np.complex64), None, None, np.zeros((0,) * 5, ACQUISITION_HEADER), bytes(56)
        )
        yield ReconData([ReconBit(make(data, False) if data else empty, make(reference, True) if reference else None)])


def _group(readout, n_dimension, s_dimension, split_slices):
    cleared = {n_dimension, s_dimension, "segment", *([] if split_slices else ["slice"])}
    return tuple(0 if name in cleared else getattr(readout.idx, name) for name in COUNTERS)


class _Maker:
    def __init__(self, encoding, parallel, n_dimension, s_dimension, split_slices):
        self.encoding, self.parallel = encoding, parallel
        self.n_dimension, self.s_dimension, self.split_slices = n_dimension, s_dimension, split_slices
        self.apart = encoding.calibration_mode in ("separate", "external")

    def __call__(self, readouts, reference):
        first = readouts[0]
        kept = first.discard_pre + first.discard_post
        e0 = first.number_of_samples if self.parallel else first.number_of_samples - kept
        e1, e2 = self._rows(readouts, reference, 1), self._rows(readouts, reference, 2)
        sizes = [self._span(readouts, name) for name in (self.n_dimension, self.s_dimension)]
        slices = 1 if self.split_slices else self._span(readouts, "slice")
        shape = (slices, sizes[1], sizes[0], e2, e1)
        data = np.zeros((*shape[:3], first.active_channels, e2, e1, e0), np.complex64)
        headers = np.zeros(shape, ACQUISITION_HEADER)
        headers["version"] = headers["available_channels"] = 1
        for readout in readouts:
            y, z = (self._row(readouts, readout, reference, step) for step in (1, 2))
            if not (0 <= y < e1 and 0 <= z < e2):
                continue  # with a warning in its log
            n, s = (
                min(getattr(readout.idx, name), size - 1) if name else 0
                for name, size in zip((self.n_dimension, self.s_dimension), sizes, strict=True)
            )
            place = (0 if self.split_slices else readout.idx.slice, s, n)
            count = readout.number_of_samples - readout.discard_pre - readout.discard_post
            centred = readout.number_of_samples == e0 and (
                readout.center_sample == e0 // 2 or readout.center_sample >= e0
            )
            start = readout.discard_pre if centred else first.number_of_samples // 2 - readout.center_sample
            samples = readout.data[:, readout.discard_pre : readout.discard_pre + count]
            data[(*place, slice(None), z, y, slice(start, start + count))] = samples
            headers[(*place, z, y)] = np.frombuffer(bytes(readout.getHead()), ACQUISITION_HEADER)[0]
        return ReconBuffer(data, None, None, headers, bytes(56))

    def _span(self, readouts, name):
        if not name:
            return 1
        values = [getattr(readout.idx, name) for readout in readouts]
        return max(values) - min(values) + 1

    def _rows(self, readouts, reference, step):
        limit = self.encoding.limits.get(f"kspace_encoding_step_{step}")
        if self.parallel and reference and self.apart:
            if step == 2:
                return limit.maximum - limit.minimum + 1
            lines = [getattr(readout.idx, f"kspace_encode_step_{step}") for readout in readouts]
            return max(lines) - min(lines) + 1
        if self.parallel or limit is None:
            return self.encoding.encoded_matrix[step]
        return limit.maximum - limit.minimum + 1

    def _row(self, readouts, readout, reference, step):
        name = f"kspace_encode_step_{step}"
        line = getattr(readout.idx, name)
        if reference and self.apart:
            return line - min(getattr(each.idx, name) for each in readouts)
        if reference and self.encoding.calibration_mode in ("interleaved", "other"):
            return line
        if step == 2 and self.encoding.encoded_matrix[2] == 1:
            return line
        return (
            line
            + self.encoding.encoded_matrix[step] // 2
            - self.encoding.limits[name.replace("encode", "encoding")].center
        )

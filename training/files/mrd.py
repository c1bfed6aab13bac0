"""MRD files, read by the gadgets that a live scan passes: what they leave out, average, flip and whiten is so here as well."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

from ...gadgets.accumulate import accumulate
from ...gadgets.assembly import KEY_COUNTERS, FrameCounter
from ...gadgets.kspace import Kspace
from ...gadgets.kspace_buffer import read_fields
from ...gadgets.prewhiten import prewhiten
from ...gadgets.readouts import NOT_FOR_THE_IMAGE, flag_mask
from ...gadgets.scan import Scan
from ...wire.errors import FileError
from ...wire.files import MrdFile
from ...wire.items import Acquisition, Waveform
from .hdf5 import open_file
from .layouts import Block, Reading, layout

_USUAL = "dataset"
_NOT_FOR_THE_IMAGE = flag_mask(*NOT_FOR_THE_IMAGE)

_quiet = logging.getLogger("isocenter.training.quiet")
"""What a scan says while it is read is among the file's remarks."""
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


def _groups(path: Path) -> list[str]:
    """Groups of a file that hold a header and readouts."""
    with open_file(path) as file:
        groups = [name for name in ("/", *file) if isinstance(file.get(name), h5py.Group)]
        return [name for name in groups if f"{name}/xml" in file and f"{name}/data" in file]


@layout("mrd", holds="MRD files (a group with xml and data)", recognises=lambda path: bool(_groups(path)))
def read_mrd(reading: Reading) -> Iterator[Block]:
    """Read a scan as the service does: ``accumulate`` and ``prewhiten``; averages are averaged, every other image is a block."""
    groups = _groups(reading.path)
    group = _USUAL if _USUAL in groups else groups[0]
    if len(groups) > 1:
        others = ", ".join(repr(name) for name in groups if name != group)
        reading.remark(f"its group {group!r} is read, and {others} left out: a file of its own is needed for each scan")
    file = MrdFile(reading.path, group)
    try:
        scan = Scan(file.header, log=_quiet)
        reading.patient = getattr(scan.header.subjectInformation, "patientID", None) or ""
        items: Iterable[Acquisition | Waveform] = file.items()
        frames: FrameCounter = "none"
        if reading.series:
            items = list(items)
            frames = _frames(items)
        stream: Any = prewhiten(accumulate(iter(items), scan, frames=frames), scan)
        found = False
        for item in stream:
            if isinstance(item, Kspace):
                found = True
                counters = item.central_header(0).idx
                if "Incomplete" in item.notes:  # the block will be refused: why lines are missing
                    reasons = [text for text in scan.problem_messages() if text != item.notes["Incomplete"]]
                    item.notes["Incomplete"] = "; ".join([item.notes["Incomplete"], *reasons])
                yield Block(item, counters.slice, _volume(item.encoding_index, counters))
    finally:
        file.close()
    said = [*file.problems, *scan.problem_messages()]
    if not found:
        raise FileError("; ".join(["it makes no image", *said]), where=str(reading.path), accepted="Cartesian scans")
    for text in said:
        reading.remark(text)


def _frames(items: Iterable[Acquisition | Waveform]) -> FrameCounter:
    """Counter that numbers the frames: phases, or repetitions where there is one phase only."""
    heads = [read_fields(item) for item in items if isinstance(item, Acquisition)]
    phases = {head.phase for head in heads if not head.flags & _NOT_FOR_THE_IMAGE}
    return "phase" if len(phases) > 1 else "repetition"


def _volume(encoding: int, counters: Any) -> str:
    """Name what tells volumes of a scan apart."""
    parts = [f"{name} {getattr(counters, name)}" for name in KEY_COUNTERS[1:] if getattr(counters, name)]
    return ", ".join([f"encoding {encoding}", *parts] if encoding else parts)

"""A recorded scan: what its header and its readouts say, k-space, sampling, coils, and what Isocenter would say of it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ...engine.device import Shelf
from ...gadgets import load as load_gadget
from ...gadgets.domain import describe_sampling, measure_acceleration, misfits
from ...gadgets.kspace import Kspace
from ...gadgets.scan import Scan
from ...models.fourier import ifft
from ...service.provenance import PREFIX, amiss
from ...service.settings import Settings
from ...wire import Header
from ...wire.errors import FileError, IsocenterError
from ...wire.files import MrdFile
from ...wire.header import Encoding
from ...wire.items import Acquisition, Waveform, header_of
from ...wire.streams import RecordedStream, read_messages
from ..picture import Facts, Geometry, Panel, Row, Sheet
from ..picture.geometry import make_geometry, radiological
from ..picture.images import some
from ..picture.panel import brightest, in_rows

_FLAGS = {
    value - 1: name.removeprefix("ACQ_").removeprefix("IS_").lower().replace("_", " ")
    for name, value in vars(ismrmrd).items()
    if re.fullmatch(r"ACQ_(FIRST|LAST|IS)_\w+", name)
}
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set", "average", "segment")
_DECADES = 4
_MOST_PLANES = 12
_COLUMNS = 4
_MOST_NOISE = 100_000
_TILE = 96
_IMAGING, _CALIBRATION, _BOTH = (235, 235, 235), (255, 150, 40), (255, 225, 120)
_NOISE = 1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1)
_CALIBRATION_FLAG = 1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION - 1)
_BOTH_FLAG = 1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING - 1)


@dataclass
class Tally:
    """What the readouts of a scan are, counted as they pass."""

    readouts: int = 0
    waveforms: int = 0
    noise_readouts: int = 0
    flags: Counter[int] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    counters: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in _COUNTERS})
    dwell: set[float] = field(default_factory=set)
    noise: list[NDArray[np.complex64]] = field(default_factory=list)

    def watch(self, items: Iterable[Acquisition | Waveform]) -> Iterator[Acquisition | Waveform]:
        """Count items, and pass them on."""
        for item in items:
            if isinstance(item, Acquisition):
                self._count(item)
            else:
                self.waveforms += 1
            yield item

    def _count(self, item: Acquisition) -> None:
        head = header_of(item)
        self.readouts += 1
        self.flags.update(bit for bit in range(64) if head.flags >> bit & 1)
        if head.flags & _NOISE:
            self.noise_readouts += 1
            if sum(each.shape[1] for each in self.noise) < _MOST_NOISE:
                self.noise.append(item.data.copy())
            return
        self.shapes[item.data.shape[0], item.data.shape[1]] += 1
        self.dwell.add(round(head.sample_time_us, 3))
        for name, values in self.counters.items():
            values.add(getattr(head.idx, name))

    def noise_correlation(self) -> NDArray[np.float32] | None:
        """Magnitude of the correlation of the channels' noise [coils, coils]; None without a noise scan."""
        channels = {each.shape[0] for each in self.noise}
        if len(channels) != 1:
            return None
        samples = np.nan_to_num(np.concatenate(self.noise, axis=1).astype(np.complex128), posinf=0, neginf=0)
        covariance = samples @ samples.conj().T
        scale = np.sqrt(np.maximum(np.diag(covariance).real, np.finfo(float).tiny))
        return np.abs(covariance / scale / scale[:, None]).astype(np.float32)


def scan_sheet(path: Path, settings: Settings, group: str = "dataset") -> Sheet:
    """Read a scan and make a sheet of it.

    Parameters
    ----------
    path
        MRD file, or a recorded stream.
    settings
        Of the service whose bundles are asked whether they were made for such scans.
    group
        Of the scan in an MRD file.

    Raises
    ------
    FileError, HeaderError
        It is no scan, or is damaged.
    """
    header, items, problems = _open(path, group)
    scan, tally = Scan(header), Tally()
    blocks, remarks = _blocks(scan, tally, items)
    remarks = list(dict.fromkeys([*remarks, *scan.problem_messages(), *problems]))
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    facts: Facts = [("size", size), *_header_facts(scan), *_tally_facts(tally)]
    if blocks.middle is None:
        return Sheet(f"scan {path}", [], [*remarks, "it holds no line of an image"], facts)
    facts += [*_block_facts(blocks.middle, blocks.count), *_verdicts(blocks.middle, scan, settings)]
    return Sheet(f"scan {path}", _rows(blocks, blocks.middle, tally), remarks, facts)


def _open(path: Path, group: str) -> tuple[bytes, Iterator[Acquisition | Waveform], list[str]]:
    """Return header and items, and a list that has what was left out once the items are read."""
    if h5py.is_hdf5(path):
        file = MrdFile(path, group)
        problems: list[str] = []

        def items() -> Iterator[Acquisition | Waveform]:
            yield from file.items()
            problems.extend(file.problems)
            file.close()

        return file.header, items(), problems
    RecordedStream(path)  # looks whether it is one
    messages = read_messages(path)
    header = next((message.xml for message in messages if isinstance(message, Header)), None)
    if header is None:
        raise FileError(f"{path} is a recorded stream without an MRD header", accepted="a scan")
    return header, (message for message in messages if isinstance(message, Acquisition | Waveform)), []


@dataclass
class _Blocks:
    """What is kept of the blocks: one, near the middle of the stack, as a whole; of each slice an image, and its lines."""

    count: int = 0
    middle: Kspace | None = None
    images: dict[int, Panel] = field(default_factory=dict)
    masks: dict[int, list[Tensor]] = field(default_factory=dict)

    def add(self, block: Kspace) -> None:
        """Look at a block."""
        self.count += 1
        number = _slice(block)
        if number not in self.images:
            volume = _zero_filled(block)
            self.images[number] = _image_panel(volume[len(volume) // 2], f"slice {number}", _geometry(block))
            if self.middle is None or number == block.encoding.count("slice") // 2:
                self.middle = block
        self.masks.setdefault(number, []).append(block.mask[0].any(dim=0))


def _blocks(scan: Scan, tally: Tally, items: Iterator[Acquisition | Waveform]) -> tuple[_Blocks, list[str]]:
    """Buffer all blocks; what goes wrong on the way is told, and what there is by then is shown."""
    blocks = _Blocks()
    stream: Any = tally.watch(items)
    for name in ("accumulate", "prewhiten", "remove_oversampling"):
        stream = load_gadget(name)(stream, scan)
    remarks: list[str] = []
    try:
        for item in stream:
            if isinstance(item, Kspace):
                blocks.add(item)
                remarks += amiss({f"{PREFIX}{name}": text for name, text in item.notes.items()}).values()
    except FileError:
        raise
    except IsocenterError as error:
        remarks.append(str(error))
    return blocks, list(dict.fromkeys(remarks))


def _header_facts(scan: Scan) -> Facts:
    header, facts = scan.header, []
    system = header.acquisitionSystemInformation
    if system is not None:
        field_strength = system.systemFieldStrength_T
        parts = [system.systemVendor, system.systemModel, f"{field_strength:g} T" if field_strength else None]
        facts.append(("scanner", ", ".join(part for part in parts if part) or "not in the header"))
    sequence = header.sequenceParameters
    if sequence is not None:
        named = (("TR", sequence.TR, "ms"), ("TE", sequence.TE, "ms"), ("TI", sequence.TI, "ms"))
        parts = [f"{name} {_numbers(values)} {unit}" for name, values, unit in named if values]
        if sequence.flipAngle_deg:
            parts.append(f"flip angle {_numbers(sequence.flipAngle_deg)} deg")
        facts += [("sequence", ", ".join(parts))] if parts else []
    for index, encoding in enumerate(scan.encodings):
        facts += _encoding_facts(encoding, f"encoding {index}: " if len(scan.encodings) > 1 else "")
    return facts


def _encoding_facts(encoding: Encoding, name: str) -> Facts:
    pixel = [fov / count for fov, count in zip(encoding.recon_fov, encoding.recon_matrix, strict=True)]
    facts = [
        (f"{name}matrix", f"{_times(encoding.encoded_matrix)} encoded, {_times(encoding.recon_matrix)} reconstructed"),
        (f"{name}field of view", f"{_times(encoding.encoded_fov)} mm encoded, {_times(encoding.recon_fov)} mm"),
        (f"{name}voxel", f"{' x '.join(f'{length:.3g}' for length in pixel)} mm"),
    ]
    along_y, along_z = encoding.acceleration
    announced = f"R {along_y}" + (f" x {along_z}" if along_z > 1 else "")
    parts = [encoding.trajectory, announced, f"calibration {encoding.calibration_mode or 'not told'}"]
    if encoding.multiband > 1:
        parts.append(f"{encoding.multiband} slices at once")
    return [*facts, (f"{name}header says", ", ".join(parts))]


def _tally_facts(tally: Tally) -> Facts:
    shapes = [f"{coils} coils x {samples} samples" for (coils, samples), _ in tally.shapes.most_common(3)]
    waveforms = f", {tally.waveforms} waveforms" if tally.waveforms else ""
    facts = [("readouts", f"{tally.readouts}{waveforms}: {'; '.join(shapes) or 'none of an image'}")]
    if tally.dwell:
        facts.append(("dwell time", f"{_numbers(sorted(tally.dwell))} us"))
    ranges = [f"{len(values)} {name}s" for name, values in tally.counters.items() if len(values) > 1]
    facts.append(("counters", ", ".join(ranges) or "one image"))
    if not tally.noise_readouts:
        facts.append(("noise scan", "none: nothing is whitened unless the header names one that was kept"))
    else:
        facts.append(("noise scan", _noise_text(tally)))
    flags = [f"{_FLAGS.get(bit, f'flag {bit + 1}')} {count}" for bit, count in sorted(tally.flags.items())]
    facts.append(("flags", ", ".join(flags) or "none"))
    return facts


def _noise_text(tally: Tally) -> str:
    samples = sum(each.shape[1] for each in tally.noise)
    readouts = f"{tally.noise_readouts} readout{'s' if tally.noise_readouts > 1 else ''}"
    text = f"{readouts}, {samples} samples"
    correlation = tally.noise_correlation()
    if correlation is None or len(correlation) < 2:
        return text
    largest = float((correlation - np.eye(len(correlation))).max())
    return f"{text}; channels are correlated by up to {largest:.2f}"


def _block_facts(block: Kspace, count: int) -> Facts:
    mask = block.mask[0]
    sampling = describe_sampling(mask.any(dim=0))
    planes = f" in {mask.shape[0]} partitions" if mask.shape[0] > 1 else ""
    partial = f", partial Fourier {sampling.partial_fourier:.3g}" if sampling.partial_fourier < 1 else ""
    if bool(mask.all()):
        own = "complete"
    elif sampling.pattern == "full":  # points that were chosen one by one, or partitions that were left out
        own = f"R {mask.numel() / int(mask.sum()):.3g}"
    else:
        own = f"R {measure_acceleration(mask):.3g} {sampling.pattern}"
    head = block.central_header(0)
    geometry = _geometry(block)
    where = ", ".join(f"{value:.1f}" for value in head.position)
    return [
        (
            "lines",
            f"{int(mask.sum())} of {mask.numel()}{planes} measured: {own}, {sampling.acs} adjacent in the middle{partial}",
        ),
        ("coils", str(block.data.shape[0])),
        ("blocks", f"{count}, each of which becomes an image"),
        ("lies", f"{(geometry.plane if geometry else '') or 'directions not told'}, middle at ({where}) mm LPS"),
    ]


def _verdicts(block: Kspace, scan: Scan, settings: Settings) -> Facts:
    """Say for the bundles of the pipelines whether they were made for such a scan."""
    shelf = Shelf(settings.bundle_folders)
    facts: Facts = []
    for name in dict.fromkeys(each for each in (settings.default_bundle, "sense") if each):
        try:
            found = misfits(shelf.manifest(name), block, scan)
        except IsocenterError as error:
            facts.append((f"bundle {name}", str(error)))
            continue
        verdict = "; ".join(map(str, found))
        facts.append((f"bundle {name}", f"not made for it: {verdict}" if found else "was made for such scans"))
    return facts


def _rows(blocks: _Blocks, middle: Kspace, tally: Tally) -> list[Row]:
    geometry, number = _geometry(middle), _slice(middle)
    shown = blocks.images[number]
    main = [
        replace(shown, title=f"zero-filled, without coil maps\n{shown.title}"),
        _kspace_panel(middle),
        _sampling_panel(middle, blocks.masks[number]),
        _coil_panel(middle, geometry),
    ]
    correlation = tally.noise_correlation()
    if correlation is not None and len(correlation) > 1:
        main.append(Panel(correlation, "noise correlation of the channels\n0 black, 1 white", (0.0, 1.0), legend=""))
    others, heading = [blocks.images[each] for each in sorted(blocks.images)], "zero-filled slices"
    if middle.data.shape[2] > 1:
        volume, heading = _zero_filled(middle), f"zero-filled partitions of slice {number}"
        others = [_image_panel(plane, f"partition {z}", geometry) for z, plane in enumerate(volume)]
    rows = [Row(main)]
    if len(others) > 1:
        rows += in_rows([others[index] for index in some(len(others), _MOST_PLANES)], heading, _COLUMNS)
    return rows


def _image_panel(plane: NDArray[np.float32], title: str, geometry: Geometry | None) -> Panel:
    image, turned, _ = radiological(plane, geometry)
    return Panel(np.ascontiguousarray(image), title, (0.0, brightest(image)), turned)


def _zero_filled(block: Kspace) -> NDArray[np.float32]:
    """Root of the sum of squares of the coils' images [z, y, x], coil by coil, as volumes are large."""
    squares = torch.zeros(block.data.shape[2:])
    for coil in block.data[:, 0]:
        squares += ifft(coil, [-3, -2, -1]).abs().square()
    return squares.sqrt().numpy()


def _kspace_panel(block: Kspace) -> Panel:
    plane = block.data[:, 0, block.data.shape[2] // 2]
    magnitude = torch.linalg.vector_norm(plane, dim=0).numpy()
    largest = float(magnitude.max()) or 1.0
    logarithm = np.log10(np.maximum(magnitude / largest, 10.0 ** -(_DECADES + 1))).astype(np.float32)
    legend = f"log, {_DECADES} decades"
    return Panel(logarithm, "k-space of all coils\nkx to the right, ky down", (-float(_DECADES), 0.0), legend=legend)


def _sampling_panel(block: Kspace, masks: list[Tensor]) -> Panel:
    """Which lines were measured: ky over kx, over kz of a volume, or over the frames of a series."""
    mask = block.mask[0].numpy()
    flags = block.headers[0]["flags"]
    colours = np.zeros((*mask.shape, 3), np.uint8)
    colours[mask] = _IMAGING
    colours[mask & ((flags & _CALIBRATION_FLAG) > 0)] = _CALIBRATION
    colours[mask & ((flags & _BOTH_FLAG) > 0)] = _BOTH
    if block.calibration is not None:
        separate = (block.calibration.abs().amax(dim=(0, -1)) > 0).numpy() & ~mask
        colours[separate] = _CALIBRATION
    what = "white: image, orange: calibration, yellow: both"
    if mask.shape[0] > 1:
        return Panel(colours, f"sampling, ky to the right, kz down\n{what}")
    alike = all(bool((each == masks[0]).all()) for each in masks if each.shape == masks[0].shape)
    if len(masks) > 1 and not alike:
        lines = torch.stack([each for each in masks if each.shape == masks[0].shape], dim=1).to(torch.float32)
        return Panel(
            _widened(lines.numpy()),
            f"sampling of {lines.shape[1]} frames\nframes to the right, ky down",
            (0, 1),
            legend="",
        )
    return Panel(np.repeat(colours[0][:, None], block.data.shape[-1], axis=1), f"sampling, ky down\n{what}")


def _widened(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat frames until the panel is about as wide as high."""
    return np.repeat(lines, max(1, round(lines.shape[0] / lines.shape[1])), axis=1)


def _coil_panel(block: Kspace, geometry: Geometry | None) -> Panel:
    """A mosaic of the coils' images: of the calibration lines, or zero-filled."""
    calibrated = block.calibration is not None
    data = block.calibration if block.calibration is not None else block.data[:, 0]
    tiles: list[NDArray[np.float32]] = []
    for coil in data:
        volume = ifft(coil, [-3, -2, -1]).abs()
        tile, _, _ = radiological(volume[volume.shape[0] // 2].numpy(), geometry)
        tiles.append(np.ascontiguousarray(tile))
    columns = math.ceil(math.sqrt(len(tiles)))
    stack = torch.from_numpy(np.stack(tiles))[:, None]
    factor = min(1.0, _TILE / max(stack.shape[-2:]))
    height, width = (max(1, round(length * factor)) for length in stack.shape[-2:])
    small = interpolate(stack, size=(height, width), mode="area")[:, 0].numpy()
    mosaic = np.zeros((math.ceil(len(tiles) / columns) * (height + 1), columns * (width + 1)), np.float32)
    for index, tile in enumerate(small):
        row, column = divmod(index, columns)
        mosaic[row * (height + 1) :][:height, column * (width + 1) :][:, :width] = tile
    what = "of the calibration lines" if calibrated else "zero-filled"
    return Panel(mosaic, f"images of the {len(tiles)} coils, {what}\nrow by row", (0.0, brightest(mosaic)))


def _slice(block: Kspace) -> int:
    return int(block.central_header(0).idx.slice)


def _geometry(block: Kspace) -> Geometry | None:
    head, encoding = block.central_header(0), block.encoding
    pixel = encoding.encoded_fov[1] / encoding.encoded_matrix[1], encoding.encoded_fov[0] / encoding.encoded_matrix[0]
    return make_geometry(pixel, head.read_dir, head.phase_dir)


def _times(values: Iterable[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

"""From a block of k-space, as a file's adapter hands it on, to fully sampled scans: the checks, and what a live scan undergoes.

A block is refused that is not finite, lacks lines or samples that its header or its own pattern announce, reaches farther to one
side of k-space (partial Fourier, asymmetric echo), has its signal elsewhere than around the middle, or is an image. Zeros at both
sides of the lines, or of the readout, are padding: they are kept, and the lines among them count as not measured.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...gadgets.kspace import Kspace
from ...gadgets.remove_oversampling import crop_readout
from ...models.fourier import fft, ifft
from ...wire.errors import FileError
from ...wire.header import Encoding
from ..data import FullScan
from .layouts import Block, Reading

_REFUSED_NOTES = ("Incomplete", "Middle")
"""Notes of the service on blocks that are no truth."""
_UNEVEN = 20
"""Padding may differ between the two sides by this fraction of the lines, and by two in any case."""
_SMALLEST = 1e-15
"""Largest sample of k-space below which squares of what is small in it vanish in float32."""
_IMAGE, _KSPACE = 0.25, 0.5
"""Share of the energy in the middle below which data may be an image, and above which it is k-space."""
_FEWEST = 16
"""Samples along an axis from which on its middle is told from the rest."""
_LOST_POINTS = 0.01
"""Fraction of single samples that may be zero in all coils by chance."""
_CLEARLY = 4.0
"""Ratio of energies from which on the brightest line says that the middle of k-space is elsewhere."""


def full_scans(block: Block, reading: Reading) -> Iterator[tuple[int, FullScan]]:
    """Check a block and make fully sampled scans of it: one a partition, and a frame unless series are wanted.

    Parameters
    ----------
    block
        From an adapter.
    reading
        What is wanted; gets the remarks.

    Yields
    ------
    int
        Number of the slice, partitions counted on.
    FullScan
        Its ``name`` is its place in the file, its ``volume`` what tells the file's volumes apart. The readout is cropped as
        ``remove_oversampling`` does it, and partitions are those of the slab that is reconstructed.

    Raises
    ------
    FileError
        The block is no truth: it says which part of the file, what is wrong and what is accepted.
    """
    kspace, where = block.kspace, f"{reading.path}, {block.place}"
    largest = float(torch.linalg.vector_norm(torch.view_as_real(kspace.data), torch.inf))
    if 0 < largest < _SMALLEST:
        raise FileError(
            f"its largest sample is {largest:.1e}, too small to be squared",
            where=where,
            accepted="k-space in larger units",
        )
    power = _power(kspace.data)
    if not np.isfinite(power).all():
        raise FileError(
            "it holds NaN, infinite samples or some too large to be squared", where=where, accepted="finite numbers"
        )
    if not power.any():
        reading.remark(f"{block.place} is left out: all its samples are zero")
        return
    for note in (kspace.notes[name] for name in _REFUSED_NOTES if name in kspace.notes):
        raise FileError(
            note,
            where=where,
            accepted="fully sampled scans with their signal around the middle of k-space",
        )
    if reading.series and kspace.data.shape[1] == 1:
        raise FileError("it is of one frame", where=where, accepted="series with several, for a network of series")
    if kspace.data.shape[0] == 1:
        reading.remark("its k-space is of a single coil")
    measured = _measured(kspace, power, where, reading)
    _check_middle(power, where)
    _check_domain(kspace.data[:, 0], where)
    present = kspace.data != 0
    _check_points(present, kspace.mask, power, where)
    _check_coils(present, kspace.mask, where, reading)
    data = crop_readout(kspace.data, kspace.encoding.cropped_readout) if _is_oversampled(kspace) else kspace.data
    wanted = kspace.encoding.recon_matrix[1::-1]
    if wanted[0] > data.shape[-2] or wanted[1] > data.shape[-1]:
        reading.remark(
            f"its header wants an image of {wanted[0]} x {wanted[1]} pixels, more than the "
            f"{data.shape[-2]} x {data.shape[-1]} that its k-space has: images are not interpolated"
        )
    matrix = block.matrix or _image_matrix(kspace.encoding, data.shape[-2], data.shape[-1])
    matrix = None if matrix == tuple(data.shape[-2:]) else matrix
    partitions = data.shape[2]
    for index, lines in _partitions(data, kspace.encoding):
        partition = f"partition {index}" if partitions > 1 else ""
        stills = {"": lines} if reading.series or lines.shape[1] == 1 else _frames(lines)
        for frame, part in stills.items():
            scan = FullScan(
                part.contiguous() if reading.series else part.squeeze(1).contiguous(),
                measured=measured,
                matrix=matrix,
                name=_words(block.place, partition, frame),
                volume=_words(block.volume, frame),
            )
            yield block.slice * partitions + index, scan


def _frames(lines: Tensor) -> dict[str, Tensor]:
    """Frames [coils, 1, ky, kx] of [coils, frames, ky, kx], by name."""
    return {f"frame {index}": frame for index, frame in enumerate(lines.split(1, dim=1))}


def _words(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _power(data: Tensor) -> NDArray[np.float32]:
    """Power [kz, ky, kx] of [coils, frames, kz, ky, kx], summed over coils and frames."""
    total = torch.zeros((*data.shape[2:], 2))
    for image in torch.view_as_real(data).flatten(0, 1):
        total.addcmul_(image, image)
    return total.sum(-1).numpy()


def _is_oversampled(kspace: Kspace) -> bool:
    return kspace.data.shape[-1] == kspace.encoding.encoded_matrix[0]


def _measured(kspace: Kspace, power: NDArray[np.float32], where: str, reading: Reading) -> Tensor | None:
    """Lines that were measured, bool [ky]; None for all.

    Raises
    ------
    FileError
        Lines, partitions or samples are missing, or are on one side only.
    """
    mask = kspace.mask.numpy()
    for frame, own in enumerate(mask):
        if not np.array_equal(own, mask[0]):
            raise FileError(f"frame {frame} has other lines than frame 0", where=where, accepted="fully sampled series")
    plane = mask[0]
    lines, partitions = plane.any(axis=0), plane.any(axis=1)
    samples = np.asarray((power > 0).any(axis=(0, 1)))
    for present, what in ((lines, "lines"), (partitions, "partitions"), (samples, "samples of the readout")):
        check_lines(present, what, where)
    if not samples.all():
        reading.remark("its readouts are padded with zeros: the resolution along them is lower")
    if not lines.all():
        count = int((~lines).sum())
        reading.remark(f"{count} of {lines.size} lines are zeros at both sides, and count as not measured")
    if not plane[np.ix_(partitions, lines)].all():
        for kz in np.flatnonzero(partitions):
            check_lines(plane[kz], "lines", f"{where}, kz {kz}")
        reading.remark("the corners of its volume of k-space were not measured (elliptical scanning), and are zero")
    return None if lines.all() else torch.from_numpy(lines)


def _check_points(present: Tensor, mask: Tensor, power: NDArray[np.float32], where: str) -> None:
    """Refuse lines of which single samples are zero in all coils: undersampled by points, where the others have them.

    ``present`` is bool [coils, frames, kz, ky, kx], where a sample is not zero; ``mask`` bool [frames, kz, ky].
    """
    samples = (power > 0).any(axis=(0, 1))
    for frame, lines in enumerate(mask.numpy()):
        points = present[:, frame].any(dim=0).numpy()[lines][:, samples]
        missing = int((~points).sum())
        if missing > _LOST_POINTS * points.size:
            raise FileError(
                f"{missing} of the {points.size} samples of its lines were not measured"
                + (f" (frame {frame})" if mask.shape[0] > 1 else ""),
                where=where,
                accepted="fully sampled scans",
            )


def _check_coils(present: Tensor, mask: Tensor, where: str, reading: Reading) -> None:
    """Refuse lines that only some coils have; a coil without any signal is told. Parameters are those of ``_check_points``."""
    for coil, lines in enumerate(present.any(dim=-1)):
        missing = int((mask & ~lines).sum())
        if not lines.any():
            reading.remark(f"coil {coil} has no signal")
        elif missing:
            raise FileError(
                f"{missing} of {int(mask.sum())} lines are zero in coil {coil} and not in others",
                where=where,
                accepted="fully sampled scans",
            )


def check_lines(present: NDArray[np.bool_], what: str, where: str) -> None:
    """Refuse lines that have gaps or reach farther to one side than to the other.

    Parameters
    ----------
    present
        bool [lines].
    what, where
        What they are, and of which part of which file, for messages.

    Raises
    ------
    FileError
        It names them.
    """
    found = np.flatnonzero(present)
    if not found.size:
        raise FileError(f"no {what} were measured", where=where, accepted="fully sampled scans")
    first, last = int(found[0]), int(found[-1])
    missing = np.flatnonzero(~present[first : last + 1]) + first
    if missing.size:
        count, all_lines = int((~present).sum()), present.size
        raise FileError(
            f"{count} of {all_lines} {what} were not measured ({_spell(missing)})",
            where=where,
            accepted="fully sampled scans",
        )
    before, after = first, present.size - 1 - last
    if abs(before - after) > max(2, present.size // _UNEVEN):
        missing = np.flatnonzero(~present)
        why = "an asymmetric echo" if "readout" in what else "partial Fourier"
        raise FileError(
            f"{missing.size} of {present.size} {what} were not measured ({_spell(missing)}), more on one side of k-space: {why}",
            where=where,
            accepted="scans of both sides of k-space; filled up before, where the missing part is known",
        )


def _spell(rows: NDArray[np.intp]) -> str:
    """Name rows: ``12 to 21, 30``."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    words = [str(run[0]) if run.size == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(words[:6]) + (" and others" if len(words) > 6 else "")


def _check_middle(power: NDArray[np.float32], where: str) -> None:
    """Refuse k-space, given its power [kz, ky, kx], most of whose signal is elsewhere than around its middle."""
    for axis, name in enumerate(("kz", "ky", "kx")):
        energy = power.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        size, brightest = energy.size, int(energy.argmax())
        reach = max(2, size // (16 if name == "kx" else 32))
        if size < 8 or abs(brightest - size // 2) <= reach:
            continue
        there, middle = (energy[max(at - 2, 0) : at + 3].mean() for at in (brightest, size // 2))
        if there > _CLEARLY * middle:
            raise FileError(
                f"most of the signal lies around {brightest} along {name}, and the middle is {size // 2} of {size}",
                where=where,
                accepted="k-space whose middle is at n // 2",
            )


def _check_domain(data: Tensor, where: str) -> None:
    """Refuse data [coils, kz, ky, kx] that is an image along an axis, so that the transform is what has all in its middle."""
    for axis, name in enumerate(("kz", "ky", "kx"), start=1):
        own, other = (_share_of_middle(each, axis) for each in (data, fft(data, [axis])))
        if data.shape[axis] >= _FEWEST and own < _IMAGE < _KSPACE < other:
            raise FileError(
                f"along {name} it is an image and no k-space: the middle has {own:.0%} of the signal, and after a Fourier "
                f"transform {other:.0%}",
                where=where,
                accepted="k-space as it was measured",
            )


def _share_of_middle(data: Tensor, axis: int) -> float:
    """Return what part of the energy is in the middle sixteenth of an axis."""
    energy = torch.view_as_real(data).square().sum(-1).transpose(0, axis).flatten(1).sum(1)
    middle, reach = len(energy) // 2, max(len(energy) // 32, 1)
    return float(energy[middle - reach : middle + reach + 1].sum() / energy.sum())


def _image_matrix(encoding: Encoding, lines: int, samples: int) -> tuple[int, int]:
    """Pixels (y, x) of the field of view that is reconstructed."""
    return min(lines, max(1, round(lines * encoding.recon_fov[1] / encoding.encoded_fov[1]))), samples


def _partitions(data: Tensor, encoding: Encoding) -> Iterator[tuple[int, Tensor]]:
    """Partitions [coils, frames, ky, kx] of [coils, frames, kz, ky, kx], without the oversampling of the slab."""
    count = data.shape[2]
    if count == 1:
        yield 0, data[:, :, 0]
        return
    kept = round(count * encoding.recon_fov[2] / encoding.encoded_fov[2])
    # a header may name the thickness of a partition there
    kept = kept if kept == encoding.recon_matrix[2] and 0 < kept < count else count
    images = ifft(data, [2])
    start = count // 2 - kept // 2
    for index in range(start, start + kept):
        yield index - start, images[:, :, index]

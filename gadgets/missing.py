"""What a block of k-space lacks of what header and pattern announce."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kspace_buffer import KspaceBuffer
from .plan import Grid


@dataclass(frozen=True)
class Missing:
    """What a block lacks of what was announced.

    Attributes
    ----------
    readouts
        How many readouts have to come before it can be complete; 0 if it is.
    least
        How many at least, if its frames may hold fewer lines than those of a regular pattern.
    lines
        How many lines never came.
    text
        Which.
    """

    readouts: int = 0
    lines: int = 0
    text: str = ""
    least: int = 0


COMPLETE = Missing()

_FAR_ENOUGH = 0.9
"""Of the way to the farthest announced line, where the farthest that came is taken for it."""


def find_missing(
    grid: Grid, buffer: KspaceBuffer, also: NDArray[np.bool_] | None, frames: int, averages: int
) -> Missing:
    """Compare what came of a block with what is announced: by limits, acceleration, frames and averages.

    Parameters
    ----------
    grid
        Where its lines belong.
    buffer
        The block.
    also
        Lines [kz, ky] on the grid that calibration readouts fill.
    frames, averages
        How many of each are announced.
    """
    times = buffer.on_grid(buffer.count, grid.place)
    extra = np.zeros(times.shape[1:], bool) if also is None else also
    came = np.flatnonzero(times.any(axis=(1, 2)))
    nothing = np.zeros_like(times[0])
    regular = not _are_irregular((times > 0) | extra, grid.encoding.acceleration)
    found = [
        _missing_in_frame(times[frame] if frame < len(times) else nothing, extra, grid, averages, regular=regular)
        for frame in range(max(frames, came[-1] + 1 if came.size else 0))
    ]
    lacking = [entry for entry in found if entry.readouts]
    if not lacking:
        return COMPLETE
    worst = max(lacking, key=lambda entry: entry.lines)
    return Missing(
        sum(entry.readouts for entry in lacking),
        worst.lines,
        worst.text,
        sum(max(1, entry.least) for entry in lacking),
    )


def short_reach(mask: NDArray[np.bool_], grid: Grid) -> str:
    """Say along which axis lines [kz, ky] end nearer to the middle of k-space than the header announces; empty if along none.

    Only of lines without gaps it is said: those of a random pattern end where they end.
    """
    for axis, name in enumerate(("kz", "ky")):
        rows, middle = np.flatnonzero(mask.any(axis=1 - axis)), mask.shape[axis] // 2
        first, last = grid.expected[axis]
        announced, reach = max(middle - first, last + 1 - middle), max(middle - rows[0], rows[-1] + 1 - middle)
        adjacent = rows.size == rows[-1] + 1 - rows[0]
        if adjacent and reach + grid.encoding.acceleration[1 - axis] < _FAR_ENOUGH * announced:
            return (
                f"lines reach {reach} rows from the middle of k-space along {name} where the header announces {announced}: the "
                f"resolution along {name} is {100 * reach / announced:.0f} % of what the pixels suggest"
            )
    return ""


def _are_irregular(frames: NDArray[np.bool_], acceleration: tuple[int, int]) -> bool:
    """Whether frames [frames, kz, ky] of one partition were undersampled at random.

    Few lines of a frame may lie on a regular pattern by chance; those of all frames do not. A few frames with a line elsewhere
    tell nothing yet.
    """
    if frames.shape[0] == 1 or frames.shape[1] > 1 or acceleration[0] == 1:
        return False
    lines = frames[:, 0]
    alone = lines.copy()
    alone[:, 1:] &= ~lines[:, :-1]
    alone[:, :-1] &= ~lines[:, 1:]
    patterns = sum(alone[:, first :: acceleration[0]].any(axis=1).astype(int) for first in range(acceleration[0]))
    told = np.asarray(patterns) > 1
    return bool(told.any()) and 4 * int(told.sum()) >= int((alone.sum(axis=1) > 1).sum())


def _missing_in_frame(
    times: NDArray[np.int32], extra: NDArray[np.bool_], grid: Grid, averages: int, *, regular: bool
) -> Missing:
    """Compare the lines [kz, ky] of one frame with what is announced; ``regular`` if they can lie on a regular pattern."""
    (z0, z1), (y0, y1) = grid.expected
    part = times[z0 : z1 + 1, y0 : y1 + 1]
    calibration = extra[z0 : z1 + 1, y0 : y1 + 1]
    mask = (part > 0) | calibration
    again = int(np.maximum(0, averages - part[part > 0]).sum()) if averages > 1 else 0
    wanted = _wanted(part > 0, calibration, grid, (z0, y0), regular=regular)
    lacking = wanted & ~mask
    if not (part > 0).any():
        least = _fewest(grid, mask) - int(calibration.sum())
        return Missing(max(1, int(wanted.sum())), int(wanted.sum()), "none came", least)
    lines = int(lacking.sum())
    if not lines:
        few, came = _too_few(mask, grid), int(mask.sum())
        text = f"only {came} line{'s' if came > 1 else ''} came, of at least {came + few}"
        return Missing(few + again, few, text, few) if few + again else COMPLETE
    text = f"{lines} of {int((wanted | mask).sum())} lines are missing ({_spell(lacking, (z0, y0), grid)})"
    return Missing(lines + again, lines, text)


def _wanted(
    image: NDArray[np.bool_], calibration: NDArray[np.bool_], grid: Grid, first: tuple[int, int], *, regular: bool
) -> NDArray[np.bool_]:
    """Lines [kz, ky] that have to be there: all, or those of the regular pattern on which the measured ones lie.

    Parameters
    ----------
    image, calibration
        Lines [kz, ky] of the image, and calibration lines that fill it.
    grid
        Where they lie.
    first
        Row (kz, ky) of the first of them.
    regular
        Whether there can be such a pattern.
    """
    acceleration = grid.encoding.acceleration
    mask = image | calibration
    inside = _inside_ellipse(mask, grid, first)
    if acceleration == (1, 1):
        return np.ones_like(mask) if inside is None else inside | mask
    wanted = np.zeros_like(mask)
    volume = len(mask) > 1
    for plane in range(len(mask)):
        lines = np.flatnonzero(mask[plane])
        # planes with calibration lines alone, which reach less far, are not of the image
        whole = image[plane].any() and 2 * lines.size >= mask.shape[1]
        if volume and acceleration[0] == 1 and whole:
            wanted[plane, slice(lines[0], lines[-1] + 1) if inside is not None else slice(None)] = True
        pattern = _pattern(np.flatnonzero(image[plane]), lines, acceleration[0], volume=volume) if regular else None
        if pattern is not None:
            wanted[plane, pattern] = True
        lines = np.flatnonzero(calibration[plane])
        if lines.size > 2 and lines.size > 0.7 * (lines[-1] - lines[0] + 1):
            wanted[plane, lines[0] : lines[-1] + 1] = True
    return wanted


def _inside_ellipse(mask: NDArray[np.bool_], grid: Grid, first: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Lines [kz, ky] that elliptical scanning measures in any case; None if the corners of the volume were not left out."""
    corners = mask[0, 0] or mask[0, -1] or mask[-1, 0] or mask[-1, -1]
    planes = np.asarray(mask.any(axis=1))
    step = grid.encoding.acceleration[1]
    if mask.shape[0] == 1 or corners or not planes[-step:].any() or not planes[1 : 1 + step].any():
        return None
    z, y = (
        (np.arange(size) + start - full // 2 + (0.5 if full % 2 == 0 else 0)) / (full / 2)
        for size, start, full in zip(mask.shape, first, grid.place.grid, strict=True)
    )
    inside = z[:, None] ** 2 + y**2 <= (1 - 2 / min(grid.place.grid)) ** 2
    return inside if grid.encoding.acceleration != (1, 1) or (inside & mask).sum() > 0.8 * inside.sum() else None


def _pattern(image: NDArray[np.intp], rows: NDArray[np.intp], acceleration: int, *, volume: bool) -> slice | None:
    """Rows of a regular pattern, from those of the image, and those that came; None if there is none.

    All lines of the image lie on it, if calibration lines are flagged as such; else those without neighbours do. In a volume,
    a plane may have more than the acceleration between its lines (CAIPIRINHA), and less than the whole extent.
    """
    if acceleration == 1 or rows.size < 2:
        return None
    gaps = np.diff(rows)
    alone = rows[np.append(True, gaps > 1) & np.append(gaps > 1, True)]
    step = int(np.bincount(gaps[gaps > 1]).argmax()) if volume and (gaps > 1).any() else acceleration
    for lines, least in ((image, 3), (alone, 2)):
        if lines.size >= least and np.unique(lines % step).size == 1:
            phase = int(lines[0]) % step
            return slice(int(lines[0]), int(lines[-1]) + 1, step) if volume else slice(phase, None, step)
    return None


def _too_few(mask: NDArray[np.bool_], grid: Grid) -> int:
    """How many lines an irregular pattern lacks at least of what its acceleration announces."""
    r_y, r_z = grid.encoding.acceleration
    if r_y * r_z == 1:
        return 0
    least = _fewest(grid, mask)
    if mask.shape[0] > 1:
        planes = np.flatnonzero(mask.any(axis=1))
        edges = max(int(planes[0]), mask.shape[0] - 1 - int(planes[-1]))
        if edges > r_z or (np.diff(planes) > r_z).any():
            least = max(least, int(mask.sum()) + 1)
    return max(0, least - int(mask.sum()))


def _fewest(grid: Grid, mask: NDArray[np.bool_]) -> int:
    """How many lines an irregular pattern has at least."""
    share = 0.9 if mask.shape[0] == 1 else 0.7  # the corners of a volume may be left out
    return int(share * mask.size / math.prod(grid.encoding.acceleration))


def _spell(lacking: NDArray[np.bool_], first: tuple[int, int], grid: Grid) -> str:
    """Name lines by their counters: ``12 to 21, 30``; in a volume the partitions that lack some."""
    axis = 0 if lacking.shape[0] > 1 else 1
    rows = np.flatnonzero(lacking.any(axis=1 - axis)) + first[axis] - grid.place.offsets[axis]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    words = [str(run[0]) if run.size == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    shown = ", ".join(words[:6]) + (" and others" if len(words) > 6 else "")
    return f"of partitions {shown}" if axis == 0 else shown

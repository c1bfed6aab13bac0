"""A sheet as PNG. matplotlib's figure is used without its windows, so no display is needed.

Everything is placed in pixels, so that each pixel of an image becomes a whole number of the picture's: an image that is resampled
shows stripes that it does not have.
"""

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ...wire.errors import FileError
from .panel import Panel, Row, Sheet

_DPI = 100
_EDGE = 288
"""Pixels that the longer edge of an image has in the picture, if it has not more itself."""
_LARGEST = 640
"""Pixels of the longer edge from which on an image is made smaller."""
_GAP, _LINE, _MARGIN = 10, 15, 12
_LETTER = 6.3
"""Width of a letter of the texts, on average."""
_BOLD = 1.25
"""How much wider bold letters are."""
_BACK, _TEXT, _DIM, _WARN = "black", "#f2f2f2", "#a8a8a8", "#ffb454"


def draw(sheet: Sheet, path: Path) -> None:
    """Write a sheet as PNG.

    Raises
    ------
    FileError
        It cannot be written there.
    """
    rows = [_RowLayout(row) for row in sheet.rows if row.panels]
    width = max([480, *(row.width for row in rows)]) + 2 * _MARGIN
    title = _wrap(sheet.title, (width - 2 * _MARGIN) / _BOLD)
    notes = _wrap("\n".join(sheet.notes), width - 2 * _MARGIN)
    indent = int(_LETTER * max((len(name) for name, _ in sheet.facts), default=0)) + 2 * _GAP
    told = [(name, _wrap(text, width - 2 * _MARGIN - indent)) for name, text in sheet.facts]
    texts = sum(_LINE * len(lines) + _GAP * bool(lines) for lines in (title, notes))
    texts += _LINE * sum(len(lines) for _, lines in told)
    height = sum(row.height for row in rows) + texts + 2 * _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_BACK)
    canvas = _Canvas(figure, width, height)
    top = canvas.text(title, _MARGIN, _MARGIN, size=9, weight="bold") + _GAP * bool(title)
    for row in rows:
        row.draw(canvas, top)
        top += row.height
    top = canvas.text(notes, _MARGIN, top, colour=_WARN) + _GAP * bool(notes)
    for name, lines in told:
        canvas.text([name], _MARGIN, top, colour=_DIM)
        top = canvas.text(lines, _MARGIN + indent, top)
    try:
        figure.savefig(path, dpi=_DPI, facecolor=_BACK, format="png")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise FileError(f"the picture cannot be written to {path}: {reason}") from error


@dataclass(frozen=True)
class _Canvas:
    """A figure on which things are placed in pixels from the upper left corner."""

    figure: Figure
    width: int
    height: int

    def text(
        self, lines: list[str], left: float, top: float, *, size: float = 8, colour: str = _TEXT, weight: str = "normal"
    ) -> float:
        """Write lines; return where the next one goes."""
        for line in lines:
            self.figure.text(
                left / self.width,
                1 - (top + _LINE / 2) / self.height,
                line,
                size=size,
                color=colour,
                weight=weight,
                va="center_baseline",
                parse_math=False,
            )
            top += _LINE
        return top

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.axis("off")
        return axes


class _RowLayout:
    """How a row is placed."""

    def __init__(self, row: Row) -> None:
        self._panels = row.panels
        self._sizes = [_size(panel) for panel in row.panels]
        self._columns = [max(160, width) for width, _ in self._sizes]
        self._titles = [
            (_wrap(panel.title, column), _wrap(panel.warning, column))
            for panel, column in zip(row.panels, self._columns, strict=True)
        ]
        self.width = sum(self._columns) + _GAP * (len(self._columns) - 1)
        self._heading = _wrap(row.heading, max(self.width, 480) / _BOLD)
        self._top = _LINE * (max(len(title) + len(warning) for title, warning in self._titles) + len(self._heading))
        self.height = self._top + max(height for _, height in self._sizes) + _GAP + _LINE // 2

    def draw(self, canvas: _Canvas, top: float) -> None:
        """Draw it below ``top``."""
        left: float = _MARGIN
        below = canvas.text(self._heading, left, top, colour=_TEXT, weight="bold")
        for panel, (width, height), column, (title, warning) in zip(
            self._panels, self._sizes, self._columns, self._titles, strict=True
        ):
            after = canvas.text(title, left, below)
            canvas.text(warning, left, after, colour=_WARN)
            _draw_panel(canvas.axes(left, top + self._top, width, height), panel, width, height)
            left += column + _GAP


def _draw_panel(axes: Any, panel: Panel, width: int, height: int) -> None:
    rows, columns = panel.image.shape[:2]
    whole = width % columns == 0 and height % rows == 0
    low, high = panel.limits if panel.image.ndim == 2 else (None, None)
    axes.imshow(
        panel.image,
        cmap="gray",
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest" if whole else "antialiased",
        interpolation_stage="data",
    )
    outline = [withStroke(linewidth=2, foreground="black")]
    common = {"transform": axes.transAxes, "path_effects": outline, "color": _TEXT, "size": 9}
    if panel.geometry is not None:
        left, right, upper, lower = panel.geometry.letters
        x, y = 6 / width, 6 / height
        axes.text(x, 0.5, left, ha="left", va="center", **common)
        axes.text(1 - x, 0.5, right, ha="right", va="center", **common)
        axes.text(0.5, 1 - y, upper, ha="center", va="top", **common)
        axes.text(0.5, y, lower, ha="center", va="bottom", **common)
        _draw_bar(axes, panel, width, height, common)
    small = {**common, "size": 7, "color": _DIM}
    axes.text(1 - 4 / width, 4 / height, panel.corner, ha="right", va="bottom", **small)


def _draw_bar(axes: Any, panel: Panel, width: int, height: int, common: dict[str, Any]) -> None:
    columns = panel.image.shape[1]
    geometry = panel.geometry
    if geometry is None or not (length := geometry.bar(columns)):
        return
    end = length / geometry.pixel[1] / columns
    x, y = 6 / width, 7 / height
    bar = Line2D([x, x + end], [y, y], transform=axes.transAxes, color=_TEXT, linewidth=2, solid_capstyle="butt")
    bar.set_path_effects(common["path_effects"])
    axes.add_line(bar)
    axes.text(x, y + 5 / height, f"{length} mm", ha="left", va="bottom", **{**common, "size": 7})


def _size(panel: Panel) -> tuple[int, int]:
    """Width and height in the picture: whole multiples of the image where its pixels are square and it is not too large."""
    rows, columns = panel.image.shape[:2]
    longest = max(rows * panel.aspect, columns)
    if panel.image.ndim > 2 and longest > _EDGE:  # colours are drawings, which are not made smaller
        return columns, rows
    if abs(panel.aspect - 1) < 1e-3 and longest <= _LARGEST:
        factor = max(1, round(_EDGE / longest))
        return columns * factor, rows * factor
    factor = (_EDGE if longest < _EDGE else min(longest, _LARGEST)) / longest
    return max(1, round(columns * factor)), max(1, round(rows * panel.aspect * factor))


def _wrap(text: str, width: float) -> list[str]:
    """Break a text into lines that are not wider than so many pixels."""
    letters = max(16, int(width / _LETTER))
    return [part for line in text.splitlines() for part in textwrap.wrap(line, letters) or [""]]

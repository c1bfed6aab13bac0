"""A sheet in the terminal: half-block characters, each of which shows two pixels in colours; or characters of different darkness.

rich finds out what the terminal can do: 24-bit or 256 colours, or none (no terminal, ``NO_COLOR``).
"""

import torch
from rich.color import Color
from rich.console import Console, Group
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch.nn.functional import interpolate

from ..frame import print_table
from .panel import Panel, Row, Sheet

_RAMP = " .:-=+*#%@"
_LEAST, _MOST = 34, 64
"""Characters across a panel."""


def show(sheet: Sheet, console: Console, most: int = 6) -> None:
    """Print a sheet.

    Parameters
    ----------
    sheet
        What to print.
    console
        Where; how wide the panels are follows from its width.
    most
        Panels to print at most; how many there are beyond is said.
    """
    if sheet.title:
        console.print(sheet.title, style="bold", markup=False)
    if sheet.facts:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in sheet.facts:
            grid.add_row(Text(name), Text(text))
        print_table(grid, console)
    left = most
    for row in sheet.rows:
        if left > 0 and row.panels:
            _show_row(Row(row.panels[:left], row.heading), console)
        left -= len(row.panels)
    if left < 0:
        console.print(f"{-left} more panels are in the picture that -o writes", markup=False)
    for note in sheet.notes:
        console.print(note, style="yellow", markup=False)


def _show_row(row: Row, console: Console) -> None:
    if row.heading:
        console.print(row.heading, style="bold", markup=False)
    beside = max(1, min(len(row.panels), console.width // (_LEAST + 2)))
    columns = max(8, min(_MOST, console.width // beside - 2))
    for start in range(0, len(row.panels), beside):
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(beside):
            grid.add_column(width=columns, no_wrap=False)
        grid.add_row(*(_panel(panel, columns, console) for panel in row.panels[start : start + beside]))
        console.print(grid)


def _panel(panel: Panel, columns: int, console: Console) -> Group:
    left, right, upper, lower = ("", "", "", "") if panel.geometry is None else panel.geometry.letters
    margin = max(len(left), len(right)) + 1 if left else 0
    picture = _pixels(panel, columns - 2 * margin, console)
    middle = len(picture) // 2
    lines = [Text(panel.title)]
    if panel.warning:
        lines.append(Text(panel.warning, style="yellow"))
    if upper:
        lines.append(Text(upper.center(columns).rstrip()))
    for number, line in enumerate(picture):
        before = (left if number == middle else "").ljust(margin)
        after = (right if number == middle else "").rjust(margin)
        lines.append(Text.assemble(before, line, after, no_wrap=True))
    below = lower.center(columns).rstrip() if lower else ""
    lines.append(Text("  ".join(part for part in (below, "") if part)))
    corner = panel.corner
    if panel.geometry is not None:
        height, width = panel.image.shape[:2]
        size = f"{width * panel.geometry.pixel[1]:.0f} x {height * panel.geometry.pixel[0]:.0f} mm"
        corner = f"{corner}  {size}".strip()
    if corner:
        lines.append(Text(corner, style="dim"))
    return Group(*lines)


def _pixels(panel: Panel, columns: int, console: Console) -> list[Text]:
    """Lines of characters that show the image."""
    rows, width = panel.image.shape[:2]
    lines = max(1, round(columns * rows * panel.aspect / width / 2))
    if not has_colours(console):
        shades = _resized(torch.from_numpy(panel.grey())[None], lines, columns)[0]
        indices = (shades * (len(_RAMP) - 1)).round().int().tolist()
        return [Text("".join(_RAMP[index] for index in line), no_wrap=True) for line in indices]
    grey = torch.from_numpy(panel.grey())[None].expand(3, -1, -1)
    colours = grey if panel.image.ndim == 2 else torch.from_numpy(panel.image.copy()).movedim(-1, 0) / 255
    small = (255 * _resized(colours, 2 * lines, columns)).round().int().movedim(0, -1).tolist()
    picture: list[Text] = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        line = Text(no_wrap=True)
        for above, below in zip(upper, lower, strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        picture.append(line)
    return picture


def has_colours(console: Console) -> bool:
    """Whether half-blocks can be printed in shades of grey."""
    colourful = not console.no_color and console.color_system in ("256", "truecolor")
    return colourful and console.encoding.lower().startswith("utf")


def _resized(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Average [colour, y, x] over areas."""
    return interpolate(image[None].float(), size=(rows, columns), mode="area")[0]

"""Pictures that read themselves: panels with titles, orientation, window and scale, to PNG and to the terminal."""

from .draw import draw
from .geometry import Geometry
from .panel import Facts, Panel, Row, Sheet, error_panels
from .terminal import show

__all__ = ["Facts", "Geometry", "Panel", "Row", "Sheet", "draw", "error_panels", "show"]

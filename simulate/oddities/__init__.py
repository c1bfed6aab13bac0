"""What real scanners, sequences and converters do against their own headers, done to a simulated scan on purpose."""

from . import files, headers, order, readouts, references
from .registry import ODDITIES, Oddity, check_oddity, make_odd

__all__ = ["ODDITIES", "Oddity", "check_oddity", "files", "headers", "make_odd", "order", "readouts", "references"]

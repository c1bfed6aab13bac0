"""What can go wrong on the way to a model file."""

from ..wire.errors import IsocenterError


class ExportError(IsocenterError):
    """A module cannot be written in this format, or not so that it computes the same."""

    kind = "export"


class UnknownOperationError(ExportError):
    """There is no rule for an operation, or not with these arguments; it may have another form."""


def cause_of(error: BaseException) -> str:
    """What the first cause of an error says, without its listing of code."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: " + " ".join(lines[:4])[:600]

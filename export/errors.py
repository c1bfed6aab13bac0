"""What can go wrong on the way to a model file."""

from ..wire.errors import IsocenterError


class ExportError(IsocenterError):
    """A module cannot be written in this format."""

    kind = "export"


class UnknownOperationError(ExportError):
    """There is no rule for an operation, or not with these arguments; it may have another form."""

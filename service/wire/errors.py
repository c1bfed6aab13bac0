"""Limits on what a peer may send, and the errors of the protocol."""

from dataclasses import dataclass

from ...gadgets.errors import IsocenterError


@dataclass(frozen=True)
class Limits:
    """The longest lengths that are accepted, in bytes; they are checked before memory is taken."""

    text: int = 16 * 2**20
    message: int = 4 * 2**30


class ProtocolError(IsocenterError):
    """Bytes that are no message of the protocol, or exceed the limits. The stream cannot be followed any further."""


class UnknownMessageError(ProtocolError):
    """A message id that this end does not read."""


class TruncatedError(ProtocolError):
    """The stream ended inside a message."""

"""The wire protocol of Gadgetron and FIRE as a codec without I/O: bytes in, messages out, and back.

What a name needs is imported when it is first used: whoever wants the errors or the entries of a file alone, as a service before
its port is open, does not wait for what reads scans.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import encode
    from .errors import Limits, ProtocolError, TruncatedError, UnknownMessageError
    from .messages import (
        Close,
        ConfigFile,
        ConfigScript,
        DicomFile,
        ErrorReport,
        Header,
        Message,
        MessageId,
        Query,
        Response,
        Text,
    )

__all__ = [
    "Close",
    "ConfigFile",
    "ConfigScript",
    "Decoder",
    "DicomFile",
    "ErrorReport",
    "Header",
    "Limits",
    "Message",
    "MessageId",
    "ProtocolError",
    "Query",
    "Response",
    "Text",
    "TruncatedError",
    "UnknownMessageError",
    "encode",
]

_ELSEWHERE = {"Decoder": "decoder", "encode": "encoder"} | dict.fromkeys(
    ("Limits", "ProtocolError", "TruncatedError", "UnknownMessageError"), "errors"
)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ELSEWHERE.get(name, 'messages')}", __name__), name)

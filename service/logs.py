"""Structured logs: every line of a scan carries its id, no line carries patient data."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal


class ScanLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for one scan; ``extra={"fields": {...}}`` adds named values to a line."""

    def __init__(self, scan_id: str) -> None:
        super().__init__(logging.getLogger("isocenter.scan"), {"scan": scan_id})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the scan's id to what the caller gave."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


class _Format(logging.Formatter):
    def __init__(self, style: Literal["text", "json"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, scan, message, named values."""
        fields = {"scan": getattr(record, "scan", None), **getattr(record, "fields", {})}
        fields = {name: value for name, value in fields.items() if value is not None}
        time = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        if self._json:
            return json.dumps({"time": time, "level": record.levelname, "message": message, **fields}, default=str)
        values = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{time} {record.levelname:<7} {message}" + (f"  [{values}]" if values else "")


def configure_logging(style: Literal["text", "json"] = "text", *, verbose: bool = False) -> None:
    """Send the service's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format(style))
    logger = logging.getLogger("isocenter")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False

"""The service's log: one line for each thing, with the scan's id, and with nothing that a scan or a program brought along.

Texts of the project put what comes from outside between quotes (``!r``), and the log shows of what is quoted only names that the
site itself has given, see ``show_names``. Of errors it shows the kind and the place; the text only of our own. Control characters
are escaped, and lines are bounded. A site that has no patients may have everything shown, see ``configure_logging``.
"""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..wire.errors import IsocenterError
from .log_writer import Writer

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

_PACKAGE = str(Path(__file__).parent.parent)
_LONGEST = 2000
"""Characters of a message or value; what is longer is cut."""
_LONGEST_SIGN = 3
"""A single character between quotes is punctuation."""
_MOST_VALUES = 100
_MOST_FRAMES = 12
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*(?:'|\\?\Z)|"(?:[^"\\]|\\.)*(?:"|\\?\Z))""", re.DOTALL)
"""As ``repr`` writes it; where a text was cut, up to its end."""
_PLAIN_VALUE = re.compile(r"[^\s\"=\[\]]+")
_names: set[str] = set()
_private = False


def show_names(names: Iterable[str]) -> None:
    """Let the log show these names where they are quoted: the site has given them, no scan has."""
    _names.update(names)


def show_everything() -> None:
    """Let the log show whatever is quoted: no scan has come yet, and none will."""
    global _private
    _private = True


def safe(text: str) -> str:
    """Return a text without what came from outside, on one line, and cut where it is too long.

    Parameters
    ----------
    text
        What comes from outside is between quotes in it.
    """
    start = text[: 4 * _LONGEST]
    shown = start if _private else _QUOTED.sub(_shown, start)
    is_whole = len(start) == len(text) and len(shown) <= _LONGEST
    return _printable(shown[:_LONGEST]) + ("" if is_whole else f"… ({len(text)} characters)")


def _shown(quoted: re.Match[str]) -> str:
    is_shown = quoted[0][1:-1] in _names or len(quoted[0]) <= _LONGEST_SIGN
    return quoted[0] if is_shown else f"{quoted[0][0]}…{quoted[0][0]}"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def reason(error: BaseException) -> str:
    """Say what an error is without what it may hold of a scan."""
    if _private or isinstance(error, IsocenterError):
        return safe(str(error) or type(error).__name__)
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and _was_raised_here(error):
        return safe(str(error))
    return type(error).__name__


def _was_raised_here(error: BaseException) -> bool:
    """Whether code of the project raised it, and so wrote its text."""
    places = _places(error)
    return bool(places) and places[-1][0].startswith(_PACKAGE)


def _places(error: BaseException) -> list[tuple[str, int, str]]:
    """File, line and function of every frame that an error came through, the one that raised it last."""
    places, traceback = [], error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return places


def trace(error: BaseException) -> str:
    """Say of what kind an error is and where it was raised, and the same of those that it comes from."""
    seen: list[str] = []
    following: BaseException | None = error
    while following is not None and len(seen) < _MOST_FRAMES:
        places = [f"{Path(file).name}:{line} {name}" for file, line, name in _places(following)[-_MOST_FRAMES:]]
        what, kind = reason(following), type(following).__name__
        said = kind if what == kind else f"{kind} ({what})"
        seen.append(f"{said} in {' > '.join(places)}" if places else said)
        following = following.__cause__ or following.__context__
    return _printable(" from ".join(seen))


def _message(message: object, arguments: object) -> str:
    """Put a message together, with errors among its arguments as ``reason`` has them."""
    if not arguments:
        return safe(str(message))
    if not isinstance(arguments, tuple):
        return safe(str(message) % arguments)
    return safe(str(message) % tuple(reason(each) if isinstance(each, BaseException) else each for each in arguments))


def _error_of(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exc_info()[1]
    error = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) > 1 else exc_info
    return error if isinstance(error, BaseException) else None


class ScanLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for one scan; ``extra={"fields": {...}}`` adds named values to a line.

    Its records are safe as they are made, whoever gets them.
    """

    def __init__(self, scan_id: str) -> None:
        super().__init__(logging.getLogger("isocenter.scan"), {"scan": scan_id})

    def log(self, level: int, msg: object, *args: object, exc_info: Any = None, extra: Any = None, **_: Any) -> None:
        """Write a line with the scan's id."""
        if not self.isEnabledFor(level):
            return
        given: dict[str, Any] = {**(self.extra or {}), **(extra or {})}
        if (error := _error_of(exc_info)) is not None:
            given["fields"] = {**given.get("fields", {}), "error": trace(error)}
        self.logger.log(level, "%s", _message(msg, args), extra=given)


class _Format(logging.Formatter):
    def __init__(self, style: Literal["text", "json"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, scan, message, named values."""
        fields = {"scan": getattr(record, "scan", None), **getattr(record, "fields", {})}
        if (error := _error_of(record.exc_info)) is not None:
            fields["error"] = trace(error)
        fields = {name: _plain(value) for name, value in fields.items() if value is not None}
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}"
        message = _message(record.msg, record.args)
        if self._json:
            return json.dumps({"time": moment, "level": record.levelname, "message": message, **fields})
        values = " ".join(f"{name}={_written(value)}" for name, value in fields.items())
        return f"{moment} {record.levelname:<7} {message}" + (f"  [{values}]" if values else "")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_printable(str(key)[:_LONGEST]): _plain(each) for key, each in list(value.items())[:_MOST_VALUES]}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value[:_MOST_VALUES]]
    return safe(str(value))


def _written(value: Any) -> str:
    """Return a value as text in which no other value can hide."""
    text = str(value)
    return text if not isinstance(value, str) or _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def limited(log: Logger, level: int, key: str, message: str, *args: object, most: int = 10, **options: Any) -> None:
    """Write a line that others may cause as often as they like: so many of a kind a minute, and how many there were besides.

    Parameters
    ----------
    log, level
        As usual.
    key
        Of a fixed set, not from outside: lines of one key count together.
    message, args, options
        As usual.
    most
        Lines a minute.
    """
    if not log.isEnabledFor(level):
        return
    skipped = _limits.setdefault(key, _Limit()).pass_on(most)
    if skipped is None:
        return
    if skipped:
        log.log(level, "%d more lines like the next one were left out", skipped)
    log.log(level, message, *args, **options)


class _Limit:
    """Lines of one kind in the present minute."""

    def __init__(self) -> None:
        self._begin = 0.0
        self._written = 0
        self._skipped = 0

    def pass_on(self, most: int) -> int | None:
        """Return how many were skipped before, None if this one is to be skipped as well."""
        now = time.monotonic()
        if not self._written or now - self._begin >= _MINUTE:
            self._begin, self._written = now, 0
        if self._written >= most:
            self._skipped += 1
            return None
        self._written += 1
        skipped, self._skipped = self._skipped, 0
        return skipped


_MINUTE = 60.0
_limits: dict[str, _Limit] = {}


def configure_logging(style: Literal["text", "json"] = "text", *, verbose: bool = False, private: bool = False) -> None:
    """Send the log to standard error.

    Parameters
    ----------
    style
        Of its lines.
    verbose
        Whether lines for developers are written, too.
    private
        Whether the log may show what comes from outside, such as names and the texts of errors. Patient data may be among it.
    """
    logger = logging.getLogger("isocenter")
    for former in _writers():
        former.close()
    logger.handlers[:] = [Writer(sys.stderr)]
    logger.propagate = False
    change_logging(style, verbose=verbose, private=private)


def change_logging(style: Literal["text", "json"], *, verbose: bool = False, private: bool = False) -> None:
    """Change what lines look like from now on; they go where they went before. Parameters as for ``configure_logging``."""
    global _private
    _private = private
    logging.getLogger("isocenter").setLevel(logging.DEBUG if verbose else logging.INFO)
    for writer in _writers():
        writer.setFormatter(_Format(style))


def _writers() -> list[Writer]:
    return [handler for handler in logging.getLogger("isocenter").handlers if isinstance(handler, Writer)]


def finish(seconds: float = 2.0) -> bool:
    """Wait until what was logged is written, but not for ever: nobody may read it.

    Returns
    -------
    bool
        Whether it is.
    """
    return all(writer.finish(seconds) for writer in _writers())

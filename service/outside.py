"""What others would write to standard error: libraries' warnings and logs, errors that nobody caught, and what is printed.

In a service all of it becomes lines of the log, of which each says what happened where, and none what it was about.
"""

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ..wire.errors import IsocenterError
from .logs import limited

log: logging.Logger = logging.getLogger("isocenter.outside")


@contextmanager
def only_the_log() -> Iterator[None]:
    """Let nothing else write to standard error, as far as Python has it in its hands, until the context ends.

    Errors that are not for users become lines of the log as well, and then the process ends.
    """
    before = threading.excepthook, sys.unraisablehook, warnings.showwarning
    libraries, printed = _Libraries(logging.WARNING), _Printed()
    threading.excepthook, sys.unraisablehook, warnings.showwarning = _uncaught, _unraisable, _warned
    logging.getLogger().addHandler(libraries)
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            yield
    except (IsocenterError, OSError):
        raise
    except Exception as error:
        log.critical("an error ended the service", exc_info=error)
        raise SystemExit(1) from None
    finally:
        logging.getLogger().removeHandler(libraries)
        threading.excepthook, sys.unraisablehook, warnings.showwarning = before


def _uncaught(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread is not None else "?"
    if failure.exc_value is not None:
        limited(log, logging.ERROR, "thread", "an error ended thread %s", name, exc_info=failure.exc_value)


def _unraisable(failure: Any) -> None:
    if failure.exc_value is not None:
        limited(log, logging.ERROR, "unraisable", "an error could not be raised", exc_info=failure.exc_value)


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    where = f"{Path(filename).name}:{lineno}"
    limited(log, logging.INFO, "warning", "%s in %s: %r", category.__name__, where, str(message))


class _Libraries(logging.Handler):
    """Takes what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        where = f"{record.filename}:{record.lineno}"
        try:
            said = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's own mistake
            said = ""
        limited(log, record.levelno, "library", "%s logs in %s: %r", record.name, where, said)


class _Printed(io.TextIOBase):
    """Stands in for standard output and error."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip():
            limited(log, logging.INFO, "printed", "something was printed: %r", text)
        return len(text)

"""Writes lines in a thread of its own, so that whoever logs never waits for whoever reads the log."""

import logging
import os
import select
import threading
from collections import deque
from typing import TextIO

_MOST_LINES = 4096
"""Lines that may wait; further ones are lost, and counted."""
_MOST_AT_ONCE = 64


class Writer(logging.Handler):
    """Writes the lines of a log to a stream. It never raises, and never makes anybody wait who logs.

    Parameters
    ----------
    stream
        Where the lines go; None, as where a process was started without standard error, drops them.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._lost = 0
        self._writing = False
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; it is lost where too many wait, or where it cannot be put together."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - what is wrong with a line is no trouble of whoever logs it
            line = None
        with self._changed:
            if line is None or len(self._lines) >= _MOST_LINES or self._closed:
                self._lost += 1
            else:
                self._lines.append(line)
                self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._lines and not self._closed:
                    self._changed.wait()
                if not self._lines:
                    return
                self._writing = True
                lines = [self._lines.popleft() for _ in range(min(len(self._lines), _MOST_AT_ONCE))]
                lost = 0 if self._lines else self._lost
                self._lost -= lost
            notes = [self._note(lost)] if lost else []
            if not self._write("".join(f"{line}\n" for line in (*lines, *notes))):
                with self._changed:
                    self._lost += len(lines) + lost

    def _note(self, lost: int) -> str:
        """Say that lines were lost, where those that waited before them have been written."""
        values = {
            "name": __name__,
            "levelname": "WARNING",
            "msg": "lines of the log that were lost: %d",
            "args": (lost,),
        }
        return self.format(logging.makeLogRecord(values))

    def _write(self, text: str) -> bool:
        """Write in this thread, however long that takes; False where nothing can be written."""
        if self._stream is None:
            return False
        try:
            number = self._stream.fileno()
        except (OSError, ValueError):  # a stream in memory, or a closed one
            return self._write_as_text(text)
        try:
            _write_all(number, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return False
        return True

    def _write_as_text(self, text: str) -> bool:
        assert self._stream is not None
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True

    def finish(self, seconds: float) -> bool:
        """Wait until every line that was taken is written, at most so long; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, seconds)

    def flush(self) -> None:
        """Wait a moment until every line is written."""
        self.finish(2.0)

    def close(self) -> None:
        """Take no more lines; the thread ends when those that wait are written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()


def _write_all(number: int, data: bytes) -> None:
    """Write to a file descriptor, not to Python's stream: its lock would stop the interpreter's end while a write hangs.

    Raises
    ------
    OSError
        It cannot be written to.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:  # whoever has the other end made it so
            poll = select.poll()
            poll.register(number, select.POLLOUT)
            poll.poll()


def open_closed_streams() -> None:
    """Let standard input, output and error lead nowhere where they are closed, before a file of ours gets their numbers."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, number <= 2)
    os.close(number)

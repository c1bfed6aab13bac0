"""Turns whatever is written to standard error into lines of JSON, in a program of its own: ``python json_lines.py [private]``.

Python has in its hands what is written in Python. Libraries in C, programs that were started, and the last words of a process
that crashes write to the file itself. So the service's standard error becomes a pipe to this program, which passes on lines that
are objects already, and makes one of each other line. It imports little, and goes on until the last writer is gone.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import BinaryIO

_LONGEST = 2000


def translate(lines: Iterable[bytes], output: BinaryIO, *, private: bool) -> None:
    """Pass on what is JSON, and make an object of what is not; its text is shown only where the log may show anything."""
    for line in lines:
        text = line.decode("utf-8", "replace").strip()
        if text:
            output.write((text if _is_object(text) else _object(text, private=private)).encode() + b"\n")
            output.flush()


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _object(text: str, *, private: bool) -> str:
    now = time.time()
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
    message = "something was written to standard error"
    shown = {"text": text[:_LONGEST]} if private else {"characters": len(text)}
    return json.dumps({"time": moment, "level": "WARNING", "message": message, **shown})


def only_json(*, private: bool) -> None:
    """Let a program of this kind have the standard error of this process, and of those that it starts, from now on."""
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", __file__, *(["private"] if private else [])]
    # it is not waited for: it ends after this process
    os.posix_spawn(sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)


if __name__ == "__main__":
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # they are for the service, whose end is the end of its lines
        signal.signal(number, signal.SIG_IGN)
    translate(sys.stdin.buffer, sys.stderr.buffer, private=sys.argv[1:] == ["private"])

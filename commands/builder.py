"""Builds bundles while a service runs, in a program of its own, those first that a scan waits for.

The service that serves scans needs no network's class, nor the memory for building. The program gets names on standard input, one
a line, and answers each with a line of JSON: why it could not be built, or nothing. It has a low priority, so that a scan that
runs has the processor; it ends when the service does.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from ..bundle.manifest import MANIFEST
from ..service.settings import Settings
from ..service.systemd import notify
from ..wire.errors import IsocenterError
from . import stamp

if TYPE_CHECKING:
    from ..engine import Supply

log: logging.Logger = logging.getLogger("isocenter.builder")

_NICENESS = 10
_MOST_SECONDS = 1200.0
"""No bundle takes that long, also on a host that has other things to do: whatever builds it hangs."""


def supply_of(settings: Settings) -> "Supply":
    """Return what has to be built for a service, or looked at, before it can be used."""
    from ..engine import Supply

    missing = stamp.missing(settings)
    return Supply(missing, [name for name in missing if (settings.home / "bundles" / name / MANIFEST).is_file()])


class Builder:
    """Builds what a supply lacks as it is wanted, in a thread that waits for the program, until all is there or ``close``.

    Parameters
    ----------
    settings
        Of the service: where bundles go, which model files they must have, and whether they are signed.
    supply
        What is missing; told what has been built.
    """

    def __init__(self, settings: Settings, supply: "Supply") -> None:
        self._settings = settings
        self._supply = supply
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def build(self) -> None:
        """Build what is wanted, until nothing is missing; returns then, or after ``close``."""
        try:
            while (name := self._supply.take()) is not None:
                notify(status=self._supply.state)
                start = time.monotonic()
                failure = self._failure(name)
                if self._closed:
                    break
                self._supply.done(name, failure)
                left = len(self._supply.missing)
                if failure:
                    log.error("bundle %r could not be built: %s; %d to go", name, failure, left)
                else:
                    log.info("bundle %r is there after %.0f s; %d to go", name, time.monotonic() - start, left)
        finally:
            self._supply.close()
            self._end()

    def _failure(self, name: str) -> str:
        """Build a bundle; return why it could not be built, or nothing."""
        try:
            answer = self._ask(name)
        except OSError as error:
            answer = ""
            log.debug("the program that builds bundles cannot be used: %s", error)
        if answer:
            return str(json.loads(answer)["failure"])
        self._end()
        return "the program that builds it ended, or had to be ended; the lines above may say why"

    def _ask(self, name: str) -> str:
        with self._lock:
            if self._closed:
                return ""
            process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        overrun = threading.Timer(_MOST_SECONDS, process.kill)
        overrun.daemon = True
        overrun.start()
        try:
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return process.stdout.readline()
        finally:
            overrun.cancel()

    def _start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "isocenter.commands.cli", "bundle", "build-wanted"]
        options = ["--home", str(self._settings.home), "--runtime", self._settings.runtime]
        options += ["--log-format", self._settings.log_format]
        if self._settings.keys:
            options.append("--sign")
        # a group of its own: Ctrl-C is for the service, which ends it
        return subprocess.Popen(  # noqa: S603 - this program
            [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )

    def close(self) -> None:
        """Build nothing more, and let nobody wait for it."""
        self._supply.close()
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()  # what is half built is no bundle, and is removed by whoever builds next

    def _end(self) -> None:
        """Let go of the program, in the thread that listens to it."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def build_wanted(settings: Settings, names: Iterable[str], answers: TextIO, *, sign: bool) -> None:
    """Be the program: build each bundle that is named, and answer why it could not be built, or nothing."""
    os.nice(_NICENESS)
    from .prepare import prepare_bundles

    for name in names:
        failure = ""
        try:
            prepare_bundles(settings, sign=sign, only=[name.strip()])
        except IsocenterError as error:
            failure = str(error)
        except Exception as error:
            log.exception("bundle %r could not be built", name.strip())
            failure = f"{type(error).__name__}, of which the log tells more"
        with suppress(BrokenPipeError):  # the service is gone; then no further name comes
            print(json.dumps({"failure": failure}), file=answers, flush=True)

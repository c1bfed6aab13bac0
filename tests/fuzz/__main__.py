"""Fuzzes decoder, conversation and service with sessions that are changed at random: ``python -m tests.fuzz --seconds 60``.

Cases follow from the seed. One that breaks a rule is made smaller and written to a file of bytes, to be tried again with
``--replay FILE``. Cases that show something new join the corpus; ``--grow`` keeps them in a folder.
"""

import argparse
import faulthandler
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from .corpus import LARGEST, load, save, split
from .modes import MODES, Broken, shape
from .mutate import mutate

HANG_SECONDS = 60.0
CASE_MB = 512
"""How far one case may raise the memory of the process."""
MINIMISE_SECONDS = 20.0


class Watchdog:
    """Ends the process when a case takes too long, after the case has been written."""

    def __init__(self, write: Callable[[bytes, str], Path]) -> None:
        self._write = write
        self._case = b""
        self._began = 0.0
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self, case: bytes) -> None:
        self._case, self._began = case, time.monotonic()

    def end(self) -> None:
        self._began = 0.0

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            if self._began and time.monotonic() - self._began > HANG_SECONDS:
                print(f"hangs: {self._write(self._case, 'hangs')}", flush=True)
                faulthandler.dump_traceback()
                os._exit(2)


class Fuzzer:
    """Tries cases in one mode.

    Parameters
    ----------
    mode
        Name of what is tried.
    seed
        Decides on all cases.
    folder
        Where cases that fail are written.
    """

    def __init__(self, mode: str, seed: int, folder: Path) -> None:
        self._folder = folder
        self._watchdog = Watchdog(self._write)
        self.mode = MODES[mode]()
        self.seed = seed
        self.corpus = load()
        self.grown: list[bytes] = []
        self.seen: set[str] = set()
        self.failures: dict[str, Path] = {}
        self.cases = 0
        for session in list(self.corpus):
            self.seen |= self._try(b"".join(session))

    def run(self, seconds: float, cases: int) -> None:
        """Try cases until the time is over, or there were so many."""
        end = time.monotonic() + seconds
        while self.cases < cases and time.monotonic() < end:
            random = Random(f"{self.seed} {self.cases}")
            session = mutate(random.choice(self.corpus), self.corpus, random)
            self.cases += 1
            self._learn(session, self._try(b"".join(session)))

    def _learn(self, session: list[bytes], seen: set[str]) -> None:
        """Keep a session that shows something new."""
        if seen <= self.seen:
            return
        self.seen |= seen
        data = b"".join(session)
        if 0 < len(data) <= LARGEST:
            self.corpus.append([message for message in session if message])
            self.grown.append(data)

    def _try(self, data: bytes) -> set[str]:
        reason, seen = self.attempt(data)
        if reason and shape(reason) not in self.failures:
            path = self._write(self._smaller(data, shape(reason)), f"{self.seed}-{self.cases}")
            self.failures[shape(reason)] = path
            print(f"  case {self.cases}: {reason[:300]}\n    {path}", flush=True)
        return seen

    def attempt(self, data: bytes) -> tuple[str, set[str]]:
        """Try one case; return what is wrong, empty if nothing is, and what was seen."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._watchdog.begin(data)
        try:
            seen = self.mode.run(data)
        except Broken as error:
            return str(error), set()
        except Exception as error:  # noqa: BLE001 - a finding
            return f"{type(error).__name__}: {error}", set()
        finally:
            self._watchdog.end()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        return (f"it takes {grown} MB of memory" if grown > CASE_MB else ""), seen

    def _smaller(self, data: bytes, reason: str) -> bytes:
        """Leave out messages as long as the same thing goes wrong."""
        end, session = time.monotonic() + MINIMISE_SECONDS, split(data)
        for place in reversed(range(len(session))):
            shorter = session[:place] + session[place + 1 :]
            if time.monotonic() < end and shape(self.attempt(b"".join(shorter))[0]) == reason:
                session = shorter
        return b"".join(session)

    def _write(self, data: bytes, name: str) -> Path:
        return save(self._folder, f"{self.mode.name}-{name}", data)


def replay(path: Path, mode_name: str) -> int:
    """Try the case in a file again."""
    fuzzer = Fuzzer(mode_name, 0, path.parent)
    reason, seen = fuzzer.attempt(path.read_bytes())
    print(*sorted(seen), f"{path}: {reason or 'nothing is wrong'}", sep="\n")
    fuzzer.mode.close()
    return 1 if reason else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="time for all modes together")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="at most so many cases of each mode")
    parser.add_argument("--mode", choices=MODES, action="append", help="all of them by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grow", type=Path, help="folder for cases that show something new")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for cases that fail")
    parser.add_argument("--replay", type=Path, help="try the case in this file again; its name says in which mode")
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(arguments.replay, (arguments.mode or [arguments.replay.name.partition("-")[0]])[0])
    modes, failures = arguments.mode or list(MODES), 0
    for name in modes:
        start = time.monotonic()
        fuzzer = Fuzzer(name, arguments.seed, arguments.failures)
        fuzzer.run(arguments.seconds / len(modes), arguments.cases)
        taken = time.monotonic() - start
        print(
            f"{name}: {fuzzer.cases} cases, {fuzzer.mode.messages} messages in {taken:.0f} s; {len(fuzzer.seen)} behaviours, "
            f"corpus {len(fuzzer.corpus)}, failures {len(fuzzer.failures)}",
            flush=True,
        )
        failures += len(fuzzer.failures)
        fuzzer.mode.close()
        if arguments.grow:
            for number, data in enumerate(fuzzer.grown):
                save(arguments.grow, f"{name}-{arguments.seed}-{number:05d}", data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Bars for what takes longer than a few seconds: on a terminal; elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .frame import err

_SECONDS = 15.0
"""Between two lines where there is no terminal."""


class Bars:
    """Shows how far things are, each by a name. Nothing is shown of what is done within seconds where there is no terminal.

    Parameters
    ----------
    progress
        Draws the bars; None: lines are written instead.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._said = time.monotonic()

    def update(self, name: str, done: int, total: int | None = None) -> None:
        """Say that so much of a thing is done.

        Parameters
        ----------
        name
            Of the thing; one that is new gets a bar of its own.
        done, total
            Steps; without a total, the bar says only that something goes on, and for how long.
        """
        if self._progress is not None:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total)
            self._progress.update(self._tasks[name], completed=done, total=total)
        elif time.monotonic() - self._said > _SECONDS:
            self._said = time.monotonic()
            err.print(f"{name}: {done}" + ("" if total is None else f" of {total}"), markup=False)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on standard error while something takes long; they vanish when it is done.

    Results that are printed meanwhile stand above them, and still go to standard output where that is no terminal.
    """
    if not (sys.stderr.isatty() and err.is_terminal) or err.is_dumb_terminal:
        yield Bars(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    with Progress(*columns, console=err, transient=True, redirect_stdout=on_terminal) as progress:
        yield Bars(progress)

"""Bars for what takes longer than a few seconds: on a terminal; elsewhere a plain line now and then."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .frame import err

_SECONDS = 15.0
"""Between two lines where there is no terminal."""


class Bars:
    """Shows how far things are, each by a name.

    Parameters
    ----------
    progress
        Draws the bars; None: there is no terminal.

    Attributes
    ----------
    are_drawn
        Whether there are bars, which lines of a log would tear.
    state
        What was told last, as a line has it; empty before.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.are_drawn = progress is not None
        self.state = ""
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int | None = None, at: str = "") -> None:
        """Say that so much of a thing is done.

        Parameters
        ----------
        name
            Of the thing; one that is new gets a bar of its own.
        done, total
            Steps; without a total, the bar says only that something goes on, and for how long.
        at
            What is being worked at.
        """
        steps = f"{done} of {total}" if total is not None else str(done or "")
        title = " ".join(filter(None, (name, at)))
        self.state = ": ".join(filter(None, (title, steps)))
        if self._progress is not None:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(title, total=total)
            self._progress.update(self._tasks[name], description=title, completed=done, total=total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on standard error while something takes long; they vanish when it is done.

    Results that are printed meanwhile stand above them, and still go to standard output where that is no terminal. Where there
    is no terminal a line every 15 seconds says the same, also while a single step takes long; nothing is said of what is done
    within seconds.
    """
    if not (sys.stderr.isatty() and err.is_terminal) or err.is_dumb_terminal:
        shown, ended = Bars(None), threading.Event()
        lines = threading.Thread(target=_lines, args=(shown, ended), name="progress", daemon=True)
        lines.start()
        try:
            yield shown
        finally:
            ended.set()
            lines.join()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    with Progress(*columns, console=err, transient=True, redirect_stdout=on_terminal) as progress:
        yield Bars(progress)


def _lines(shown: Bars, ended: threading.Event) -> None:
    begin = time.monotonic()
    while not ended.wait(_SECONDS):
        if shown.state:
            with suppress(OSError):  # nobody reads it any more: the work goes on
                err.print(f"{shown.state}, {time.monotonic() - begin:.0f} s", markup=False)

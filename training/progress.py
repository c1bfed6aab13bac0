"""What a run tells while it goes on: a line that moves, where there is a terminal, and one line for each epoch."""

import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .folder import Row

_TOLD = ("train_loss", "validation_loss", "ssim", "psnr", "nmse", "random_nrmse")


def tell(words: str) -> None:
    """Tell the user a sentence."""
    Console(highlight=False, soft_wrap=True).print(words, markup=False)


class ProgressLine:
    """Tells of a run's steps and epochs.

    Parameters
    ----------
    epochs, steps
        How many there are, and steps in each.
    shown
        Whether to tell anything.
    """

    def __init__(self, epochs: int, steps: int, *, shown: bool) -> None:
        self._epochs = epochs
        self._shown = shown
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not (shown and sys.stdout.isatty() and self._console.is_terminal),
        )
        self._task = self._progress.add_task("", total=steps)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def show(self, epoch: int, steps: int, loss: float) -> None:
        """Show that a step was taken."""
        words = f"epoch {epoch + 1} of {self._epochs}, loss {loss:.4g}"
        self._progress.update(self._task, completed=steps, description=words)

    def end_epoch(self, row: Row, *, best: bool) -> None:
        """Tell the figures of an epoch."""
        if self._shown:
            figures = ", ".join(f"{name} {row[name]:.4g}" for name in _TOLD if name in row)
            self._console.print(f"epoch {row['epoch']}: {figures}{' (best)' if best else ''}", markup=False)

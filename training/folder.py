"""The folder of a run: what is in it, and when a run may write there.

::

    recipe.yaml             what is trained, with all defaults
    metrics.csv             one line for each epoch
    curves.png              the same, drawn
    samples/epoch-000.png   a validation image after each epoch
    weights.pt              the best epoch's weights, its figures and the recipe
    reconstructor.pt        of a sampler's run: the network that reconstructs
    checkpoints/last.ckpt   what a resumed run goes on from
    labels/                 of a sampler's run with reference masks: these
    .lock                   is locked while a process trains here

Files are written beside their place and moved there whole, so that a run that is killed leaves none half-written.
"""

import csv
import fcntl
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..wire.entries import write_entries
from .recipe import Recipe, RecipeError, load_recipe

Row = dict[str, int | float]
"""The figures of an epoch."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is there whole, or as it was before.

    Raises
    ------
    RecipeError
        It cannot be written, as where there is no room.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RecipeError(
            f"{path} cannot be written: {error.strerror or error}",
            accepted="a folder with room that can be written to; a run that was stopped goes on with --resume",
        ) from error


class RunFolder:
    """The folder of a run.

    Parameters
    ----------
    path
        Need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.last = path / "checkpoints" / "last.ckpt"
        self.weights = path / "weights.pt"
        self.reconstructor = path / "reconstructor.pt"
        self.metrics = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.samples = path / "samples"
        self.labels = path / "labels"

    def has_run(self) -> bool:
        """Return whether there is anything of a run."""
        return any(file.exists() for file in (self.recipe, self.last, self.weights, self.metrics))

    def check_folder(self) -> None:
        """Refuse a file in its place.

        Raises
        ------
        RecipeError
            There is one.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RecipeError(f"{self.path} is a file", where="--output", accepted="a folder, which need not exist")

    def check_free(self) -> None:
        """Refuse to begin a run where there is one.

        Raises
        ------
        RecipeError
            There is one.
        """
        if self.has_run():
            raise RecipeError(
                f"{self.path} has a run already", accepted="--resume goes on with it, --overwrite begins anew"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training here meanwhile; where nothing can be locked, nobody is kept from it.

        Raises
        ------
        RecipeError
            Another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecipeError(
                    f"another process is training in {self.path}",
                    accepted="another folder, or --resume when it has ended",
                ) from None
            except OSError:  # of a file system without locks
                pass
            yield

    def check_resumable(self, recipe: Recipe) -> None:
        """Refuse to go on with another recipe than the run's; more epochs are accepted, but for a cosine schedule.

        Raises
        ------
        RecipeError
            There is no run, or its recipe is another; the message names the entries.
        """
        if not self.recipe.is_file():
            raise RecipeError(f"{self.path} has no run to go on with", accepted="a folder with a run's recipe.yaml")
        if not self.last.is_file() and self.weights.is_file():
            raise RecipeError(f"{self.last} is missing, without which the run cannot go on")
        before = load_recipe(self.recipe)
        changed = _changes(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
        other = [name for name in changed if name not in ("epochs", "data.cache")]
        if other:
            raise RecipeError(
                f"the run in {self.path} has another recipe: {', '.join(f'{name} {changed[name]}' for name in other)}",
                accepted="a change of 'epochs' or 'data.cache'; for all else a folder of its own, with start_from: "
                "[weights.pt of this run]",
            )
        if "epochs" in changed and recipe.optimizer.schedule == "cosine":
            raise RecipeError(
                f"the cosine schedule of the run in {self.path} is for {before.epochs} epochs and cannot become one "
                f"for {recipe.epochs}; a run of its own can start_from: [{self.weights}]"
            )

    def begin(self, recipe: Recipe, *, anew: bool) -> None:
        """Write down what is trained here; ``anew``: remove what an earlier run left."""
        if anew:
            for file in (self.last, self.weights, self.reconstructor, self.metrics, self.curves):
                file.unlink(missing_ok=True)
            for folder in (self.samples, self.labels):
                shutil.rmtree(folder, ignore_errors=True)
        content = write_entries(recipe.model_dump(mode="json"))
        write_whole(self.recipe, lambda file: file.write(content))

    def write_metrics(self, rows: list[Row]) -> None:
        """Write the figures of all epochs so far."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names)
        table.writeheader()
        table.writerows(rows)
        write_whole(self.metrics, lambda file: file.write(text.getvalue().encode()))

    def epochs_done(self) -> int:
        """Return how many epochs are done."""
        state = self.state()
        return 0 if state is None else state["progress"]["epoch"]

    def state(self) -> dict[str, Any] | None:
        """Return the state to go on from, if any was kept.

        Raises
        ------
        RecipeError
            The file is damaged, or of another version.
        """
        if not self.last.is_file():
            return None
        content = read_checkpoint(self.last, accepted="--overwrite, which begins anew")
        if not {"progress", "data"} <= content.keys():
            raise RecipeError(f"{self.last} is of another version, with which this one cannot go on")
        return content


def read_checkpoint(path: Path, *, accepted: str = "weights.pt of a run") -> dict[str, Any]:
    """Read a checkpoint of this project, or Lightning's.

    Raises
    ------
    RecipeError
        It cannot be read, or has no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"].items()
    except FileNotFoundError:
        raise RecipeError(f"{path} is not there") from None
    except Exception as error:
        raise RecipeError(f"{path} is no checkpoint of a training, or is damaged", accepted=accepted) from error
    return content


def _changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the entries that differ, by dotted name, with both values in words."""
    changes: dict[str, str] = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes |= _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            changes[prefix + name] = f"({old!r} there, {new!r} now)"
    return dict(sorted(changes.items()))

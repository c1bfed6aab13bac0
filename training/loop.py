"""The training itself: steps, epochs, validation, and the state from which it goes on exactly.

All that is random is a function of the recipe's seed and of a step's number: the order of samples (`batches.py`), their masks
(`samples.py`), and what a network draws. So the state is small - weights, their average, optimisers, schedules, and where the run
stands - and a run that was interrupted anywhere ends with the weights of one that was not, bit for bit on one device.

With several processes each computes its part of every batch, the gradients are added up, and all take the same step.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..flow.interruption import on_interruption
from .batches import Batch, Batches, Order, size, to_device
from .devices import Rank, autocast
from .folder import Row, RunFolder, write_whole
from .optimizer import Schedule, clip_gradients
from .packages import packages
from .pictures import draw_curves, draw_sample
from .progress import ProgressLine
from .recompute import recompute_activations
from .samples import Sample, TrainingSamples
from .seen import Seen, joined, seen_in
from .task import Task, check_finite, check_learns
from .weights import write_weights

_SAVE_AFTER = 600.0
"""Seconds within an epoch after which the state is kept."""


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    """The epoch that it is in, from 0."""
    steps: int = 0
    """Steps of the optimiser in this epoch."""
    step: int = 0
    """Steps of the optimiser in all."""
    loss: float = 0.0
    """Sum of this epoch's losses over its samples."""
    seconds: float = 0.0
    """Time spent in this epoch."""
    rows: list[Row] = field(default_factory=list)
    """The figures of all epochs before."""
    seen: Seen = field(default_factory=dict)
    """What the network has seen, in validation as well."""


class Loop:
    """A run on one device, or one process's part of it.

    Parameters
    ----------
    task
        What is trained, on its device.
    rank
        Which process, and its device.
    folder
        Where the first process writes.
    training, validation
        The samples.
    workers
        Processes that make samples.
    progress
        Whether to tell how it goes.
    """

    def __init__(
        self,
        task: Task,
        rank: Rank,
        folder: RunFolder,
        training: TrainingSamples,
        validation: TrainingSamples,
        *,
        workers: int = 0,
        progress: bool = True,
    ) -> None:
        recipe = task.recipe
        self._task, self._recipe, self._rank, self._folder = task, recipe, rank, folder
        self._average = None if recipe.ema is None else copy.deepcopy(task).eval().requires_grad_(False)
        if recipe.checkpoint_gradients:
            for network in task.children():
                recompute_activations(network)
        self._training, self._picture = training, validation[0]
        self._content = [training.content, validation.content]
        self._order = Order(len(training), recipe, rank)
        self._batches = Batches(training, self._order, task.needs, rank.device, workers)
        self._validation_part = [[index] for index in range(rank.index, len(validation), rank.count)]
        self._validation = Batches(validation, self._validation_part, task.needs, rank.device)
        self._learners = task.learners()
        self._optimizers = [learner.optimizer() for learner in self._learners]
        total = self._order.steps * recipe.epochs
        self._schedules = [
            Schedule(optimizer, learner.settings, total)
            for learner, optimizer in zip(self._learners, self._optimizers, strict=True)
        ]
        self._progress = Progress()
        self._line = ProgressLine(recipe.epochs, self._order.steps, shown=progress and rank.index == 0)
        self._stopping = False

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._task.load_state_dict(state["state_dict"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        for schedule, kept in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(kept)
        self._progress = Progress(**state["progress"])

    def run(self) -> None:
        """Train up to the recipe's last epoch.

        Raises
        ------
        RecipeError
            The loss is not finite.
        KeyboardInterrupt
            It was interrupted, and the state is kept.
        """
        with on_interruption(self._stop), self._line:
            if self._progress.step == 0:
                self._save()  # from here on there always is a state
            while self._progress.epoch < self._recipe.epochs:
                self._train_epoch()
                self._end_epoch()

    def _stop(self, number: int, _frame: Any) -> None:
        """Stop after this step; at once, if asked again."""
        if self._stopping and self._rank.count == 1:
            raise KeyboardInterrupt(f"stopped at once by signal {number}; {self._how_to_go_on()}")
        self._stopping = True

    def _how_to_go_on(self) -> str:
        return f"go on with --resume -o {self._folder.path}"

    def _train_epoch(self) -> None:
        progress = self._progress
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        self._task.train()
        self._training.start(progress.epoch)
        self._order.start(progress.epoch, progress.steps)
        batches = iter(self._batches)
        while progress.steps < self._order.steps:
            loss, stop = self._step(batches)
            progress.loss += loss * self._order.samples_of(progress.steps)
            progress.steps += 1
            progress.step += 1
            progress.seconds = time.monotonic() - began
            self._line.show(progress.epoch, progress.steps, loss)
            if stop or time.monotonic() - saved > _SAVE_AFTER:
                self._save()
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt(
                    f"stopped after {progress.steps} of {self._order.steps} steps of epoch {progress.epoch}, which are "
                    f"kept; {self._how_to_go_on()}"
                )

    def _step(self, batches: Iterator[Batch]) -> tuple[float, bool]:
        """Take a step of the optimiser; return its loss, the mean over its samples, and whether any process is to stop."""
        progress, order = self._progress, self._order
        turn = self._task.turn(progress.step)
        learner, optimizer = self._learners[turn], self._optimizers[turn]
        self._task.zero_grad()
        total = torch.zeros((), device=self._rank.device)
        for batch in range(order.batches_of(progress.steps)):
            stacks = next(batches)  # before the seed: a loader that begins draws as well
            self._seed(progress.step, batch)
            for stack in stacks:
                progress.seen = joined(progress.seen, seen_in(stack))
                total += self._backward(to_device(stack, self._rank.device), turn, order.samples_of(progress.steps))
        total, stop = self._rank.total(torch.stack([total, total.new_tensor(float(self._stopping))])).tolist()
        check_finite(total, progress.step)
        self._rank.add_gradients(learner.network.parameters())
        clip_gradients(learner.network.parameters(), learner.settings)
        optimizer.step()
        self._schedules[turn].step(epoch_ends=False)
        self._follow()
        return total, stop > 0

    def _seed(self, step: int, batch: int) -> None:
        """Let what a network draws be a function of the step, the same on all devices."""
        torch.manual_seed(int(np.random.SeedSequence((self._recipe.seed, step, batch)).generate_state(1)[0]))

    def _backward(self, stack: Sample, turn: int, samples: int) -> Tensor:
        """Add a stack's part to the gradients of the mean over a step's samples; return its part of the loss."""
        with autocast(self._recipe.precision, self._rank.device):
            loss = self._task.loss(stack, turn) * (size(stack) / samples)
        check_learns(loss, self._recipe.network, self._recipe.configuration)
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the average follow the weights; what is no weight, such as running statistics, it takes over."""
        if self._average is None or self._recipe.ema is None:
            return
        for mean, weight in zip(self._average.parameters(), self._task.parameters(), strict=True):
            mean.lerp_(weight, 1 - self._recipe.ema)
        for mean, value in zip(self._average.buffers(), self._task.buffers(), strict=True):
            mean.copy_(value)

    def _end_epoch(self) -> None:
        progress = self._progress
        row: Row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "learning_rate": self._optimizers[0].param_groups[0]["lr"],
            "train_loss": progress.loss / len(self._training),
            **self._validate(),
            "seconds": round(progress.seconds, 1),
        }
        for schedule in self._schedules:
            schedule.step(epoch_ends=True)
        best = all(row["validation_loss"] < before["validation_loss"] for before in progress.rows)
        for part in self._rank.gather(progress.seen):
            progress.seen = joined(progress.seen, part)
        self._progress = Progress(
            epoch=progress.epoch + 1, step=progress.step, rows=[*progress.rows, row], seen=progress.seen
        )
        self._line.end_epoch(row, best=best)
        if self._rank.index == 0:
            self._keep(row, best=best)

    @torch.no_grad()
    def _validate(self) -> Row:
        """Return the mean figures of all validation samples, of which each process takes a part."""
        judged = self._judged()
        mine: list[Row] = []
        for (index,), (stack,) in zip(self._validation_part, self._validation, strict=True):
            stack = to_device(stack, self._rank.device)
            self._progress.seen = joined(self._progress.seen, seen_in(stack))
            with autocast(self._recipe.precision, self._rank.device):
                figures = judged.figures(stack, index)
            mine.append({name: float(value) for name, value in figures.items()})
        every = [row for part in self._rank.gather(mine) for row in part]
        means = {name: sum(row[name] for row in every) / len(every) for name in every[0]}
        check_finite(means["validation_loss"], self._progress.step)
        return means

    def _judged(self) -> Task:
        """Return what is validated and kept: the average of the weights, if there is one."""
        return (self._task if self._average is None else self._average).eval()

    def _keep(self, row: Row, *, best: bool) -> None:
        """Write what an epoch gave, the state last: a run killed between ends up with the same files."""
        judged, folder = self._judged(), self._folder
        if best:
            write_weights(judged, folder, row, self._progress.seen)
        folder.write_metrics(self._progress.rows)
        draw_curves(self._progress.rows, folder.curves)
        stack = {name: value[None] for name, value in self._picture.items()}
        draw_sample(judged, to_device(stack, self._rank.device), folder.samples / f"epoch-{row['epoch']:03d}.png")
        self._save()

    def _save(self) -> None:
        """Keep the state."""
        if self._rank.index > 0:
            return
        state = {
            "state_dict": self._task.state_dict(),
            "hyper_parameters": {"recipe": self._recipe.model_dump(mode="json"), "packages": packages()},
            "average": None if self._average is None else self._average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "progress": asdict(self._progress),
            "data": self._content,
        }
        write_whole(self._folder.last, lambda file: torch.save(state, file))

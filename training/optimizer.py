"""How weights move: the recipe's section ``optimizer``, and the optimiser and schedule that it describes."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from .section import Section

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
_WARM_UP = 0.05
"""Part of a cosine schedule in which the learning rate rises."""

Limit = Annotated[float, Field(gt=0)]


class Optimizer(Section):
    """Optimiser and schedule of the learning rate."""

    name: Literal["adam", "adamw", "rmsprop"] = "adam"
    learning_rate: Limit = 3e-4
    scalar_rate: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the learning rate for parameters of one number, such as step sizes, which move far and slowly otherwise."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of PyTorch's optimiser of that name, such as ``weight_decay``."""
    schedule: Literal["constant", "step", "cosine", "exponential"] = "constant"
    step: Annotated[int, Field(gt=0)] = 40
    """Epochs between two steps of ``step``."""
    gamma: Limit = 0.1
    """Factor of ``step`` and ``exponential``."""
    clip_norm: Limit | None = None
    clip_value: Limit | None = None

    @model_validator(mode="after")
    def _check_options(self) -> "Optimizer":
        if "lr" in self.options:
            raise ValueError("the learning rate is 'learning_rate', not an option")
        if not self.options:  # an optimiser takes seconds to import what it may compile with
            return self
        try:
            make_optimizer([nn.Parameter(torch.zeros(2))], self)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options of {self.name}: {error}") from error
        return self


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe describes: one group of weights, one of parameters of one number."""
    every = list(parameters)
    groups = [
        {"params": [parameter for parameter in every if parameter.numel() > 1], "lr": settings.learning_rate},
        {
            "params": [parameter for parameter in every if parameter.numel() == 1],
            "lr": settings.learning_rate * settings.scalar_rate,
        },
    ]
    return _OPTIMIZERS[settings.name](groups, **settings.options)


def clip_gradients(parameters: Iterable[nn.Parameter], settings: Optimizer) -> None:
    """Clip gradients as a recipe says."""
    every = list(parameters)
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(every, settings.clip_norm)
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(every, settings.clip_value)


class Schedule:
    """The learning rate's schedule: a step after every one of the optimiser (``cosine``), or after every epoch.

    Parameters
    ----------
    optimizer
        Whose learning rates it sets.
    settings
        The recipe's section.
    total_steps
        Of the optimiser in the whole run, which ``cosine`` ends with.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Optimizer, total_steps: int) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        schedules = torch.optim.lr_scheduler
        self._scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self._every_step = settings.schedule == "cosine"
        if settings.schedule == "step":
            self._scheduler = schedules.StepLR(optimizer, settings.step, settings.gamma)
        elif settings.schedule == "exponential":
            self._scheduler = schedules.ExponentialLR(optimizer, settings.gamma)
        elif settings.schedule == "cosine":
            self._scheduler = schedules.OneCycleLR(optimizer, rates, total_steps, pct_start=_WARM_UP)

    def step(self, *, epoch_ends: bool) -> None:
        """Go on by a step of the optimiser, or by an epoch."""
        if self._scheduler is not None and epoch_ends != self._every_step:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state)

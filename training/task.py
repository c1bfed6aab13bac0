"""What is trained, by which loss, and how it is judged."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models import metrics
from ..models.networks.mnet import Loupe
from ..models.networks.registry import NETWORKS, Network
from ..models.planar import center_crop, coil_reduce, magnitude
from ..models.scaling import Scaling, scaled
from .losses import log_error
from .optimizer import Optimizer, make_optimizer
from .projection import keep_projected
from .recipe import Recipe, RecipeError
from .samples import Sample

_BACKGROUND = 1e-3
_SMALLEST = 1e-12


def check_finite(loss: float, step: int) -> None:
    """Stop a training that has gone wrong, instead of going on for hours.

    Raises
    ------
    RecipeError
        The loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise RecipeError(f"the loss is {loss} in step {step}; a smaller learning rate or clip_norm may help")


def check_learns(loss: Tensor, network: str, configuration: dict[str, Any]) -> None:
    """Refuse a network whose result is none of its weights', as it is without any iterations.

    Raises
    ------
    RecipeError
        The loss has no gradient.
    """
    if not loss.requires_grad:
        raise RecipeError(
            f"network {network!r} has no weights that its image depends on with its configuration {configuration}",
            where="configuration",
        )


def relative_squares(output: Tensor, truth: Tensor) -> Tensor:
    """Return the squared error of each entry of a batch, relative to the truth's squares: [batch]."""
    return (output - truth).square().flatten(1).sum(1) / truth.square().flatten(1).sum(1)


@dataclass(frozen=True)
class Learner:
    """A network that learns, and by which optimiser."""

    network: nn.Module
    settings: Optimizer

    def optimizer(self) -> torch.optim.Optimizer:
        """Make its optimiser."""
        optimizer = make_optimizer(self.network.parameters(), self.settings)
        keep_projected(optimizer, self.network)
        return optimizer


def build(network: str, configuration: dict[str, Any]) -> nn.Module:
    """Build a network of the registry.

    Raises
    ------
    RecipeError
        It cannot be built so.
    """
    try:
        return NETWORKS[network].build(**configuration)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise RecipeError(f"network {network!r} cannot be built: {error}", where="configuration") from error


class Task(nn.Module, ABC):
    """What all tasks share: the recipe, the network that it names, and how images are made and judged.

    Its weights are those of the recipe's network, under ``network.``, and of others that it trains beside.

    Parameters
    ----------
    recipe
        The recipe, as a dictionary or an object.
    """

    def __init__(self, recipe: Recipe | dict[str, Any]) -> None:
        super().__init__()
        self.recipe: Recipe = recipe if isinstance(recipe, Recipe) else Recipe.model_validate(recipe)
        self.network: nn.Module = build(self.recipe.network, self.recipe.configuration)
        reconstructs = self.recipe.sampler or self.recipe
        self.entry: Network = NETWORKS[reconstructs.network]
        self.scaling: Scaling = reconstructs.scaling or "none"
        self.compares_complex: bool = self.entry.output == "complex" and self.recipe.true_image == "combined"

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Names of what it needs of a sample."""

    @abstractmethod
    def learners(self) -> list[Learner]:
        """Return what learns."""

    def turn(self, step: int) -> int:  # noqa: ARG002
        """Return which of the learners takes a step, counted through all epochs."""
        return 0

    @abstractmethod
    def loss(self, stack: Sample, turn: int) -> Tensor:
        """Return the loss of the learner whose turn it is: the mean over a stack's samples."""

    @abstractmethod
    def figures(self, stack: Sample, index: int) -> dict[str, Tensor]:
        """Return what validation tells of a stack, the mean over its samples: ``validation_loss`` and the quality."""

    @abstractmethod
    def measured(self, stack: Sample) -> tuple[Tensor, Tensor]:
        """Return the k-space of a stack's samples that the network sees, and the mask that broadcasts against it."""

    def apply_network(self, network: torch.nn.Module, batch: Sample) -> Tensor:
        """Return what a network that reconstructs makes of a batch, as it is compared with the truth.

        This is the part of the image that a reader gets, complex [batch, (frames,) y, x, 2] where the truth has a phase too, and
        else its magnitude [batch, (frames,) y, x].
        """
        # made anew, so that the checkpoint holds the network's own names only
        run = scaled(network, self.scaling, self.entry.inputs)
        try:
            image = run(*(batch[name] for name in self.entry.inputs)).float()  # where it computes in bfloat16
        except (TypeError, ArithmeticError, LookupError, AttributeError, NameError) as error:
            used = self.recipe.sampler or self.recipe
            raise RecipeError(
                f"network {used.network!r} does not run with its configuration {used.configuration}: {error}",
                where="configuration" if self.recipe.sampler is None else "sampler.configuration",
            ) from error
        height, width = batch["target"].shape[-3:-1]
        if self.entry.output == "magnitude":
            return center_crop(image, (height, width))
        image = center_crop(image, (height, width), (-3, -2))
        return image if self.compares_complex else _magnitude(image)

    def magnitude(self, output: Tensor) -> Tensor:
        """Return the magnitude [images, y, x] of what is compared; each frame of a series is an image."""
        return (_magnitude(output) if self.compares_complex else output).flatten(0, -3)

    def truth(self, batch: Sample) -> Tensor:
        """Return what the network should have returned."""
        return batch["target"] if self.compares_complex else magnitude(batch["target"])

    def quality(self, output: Tensor, stack: Sample) -> dict[str, Tensor]:
        """Return the mean SSIM, PSNR and NMSE of what the network returned."""
        image, truth = self.magnitude(output), self.magnitude(self.truth(stack))
        measures = {"ssim": metrics.ssim, "psnr": metrics.psnr, "nmse": metrics.nmse}
        return {name: measure(image, truth).mean() for name, measure in measures.items()}


class ReconstructionTask(Task):
    """Trains a network that reconstructs."""

    def __init__(self, recipe: Recipe | dict[str, Any]) -> None:
        super().__init__(recipe)
        self._estimated_maps = torch.zeros(0)
        if "maps" in self.recipe.loss:
            self.network.get_submodule("sens_net").register_forward_hook(self._keep_maps)

    def _keep_maps(self, _module: torch.nn.Module, _inputs: Any, maps: Tensor) -> None:
        self._estimated_maps = maps

    def forward(self, batch: Sample) -> Tensor:
        """Return what the network makes of a batch."""
        return self.apply_network(self.network, batch)

    @property
    def needs(self) -> frozenset[str]:
        """Names of what it needs of a sample."""
        return frozenset({*self.entry.inputs, "target", *({"true_maps"} if "maps" in self.recipe.loss else ())})

    def learners(self) -> list[Learner]:
        """Return the network."""
        return [Learner(self.network, self.recipe.optimizer)]

    def loss(self, stack: Sample, turn: int) -> Tensor:  # noqa: ARG002
        """Return the recipe's loss."""
        return self._loss(self(stack), stack)

    def figures(self, stack: Sample, index: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return loss and quality."""
        output = self(stack)
        return {"validation_loss": self._loss(output, stack), **self.quality(output, stack)}

    def measured(self, stack: Sample) -> tuple[Tensor, Tensor]:
        """Return k-space and mask of the samples, or what LOUPE takes of the former."""
        mask = self.network.mask()[..., None] if isinstance(self.network, Loupe) else stack["mask"]
        return stack["kspace"] * mask, mask

    def _loss(self, output: Tensor, batch: Sample) -> Tensor:
        truth = self.truth(batch)
        total = torch.zeros((), device=output.device)
        for name, weight in self.recipe.loss.items():
            if name == "ssim":
                part = 1 - metrics.ssim(self.magnitude(output), self.magnitude(truth))
            elif name == "l1":
                part = (output - truth).abs()
            elif name == "mse":
                part = (output - truth).square()
            elif name == "log-mse":
                squares = (output - truth).square()
                squares = squares.sum(-1) if self.compares_complex else squares
                part = log_error(squares.flatten(0, -3), self.magnitude(truth).square())
            elif name == "maps":
                image = magnitude(batch["target"])
                maps, true_maps = (
                    center_crop(each, (image.shape[-2], image.shape[-1]), (-3, -2))
                    for each in (self._estimated_maps, batch["true_maps"])
                )
                part = maps_error(maps, true_maps, image)
            else:
                part = relative_squares(output, truth)
                part = part if name == "nmse" else part.sqrt()
            total = total + weight * part.mean()
        return total


def _magnitude(image: Tensor) -> Tensor:
    # the root has no gradient at zero, which images have where there are no coil maps
    return (image.square().sum(-1) + _SMALLEST).sqrt()


def maps_error(maps: Tensor, true_maps: Tensor, image: Tensor) -> Tensor:
    """Return how far coil maps are from the true ones, up to a phase at every pixel: one minus their squared correlation.

    Parameters
    ----------
    maps, true_maps
        [batch, coils, y, x, 2] of unit norm over the coils.
    image
        [batch, y, x], largest magnitude one. Its square is the weight of a pixel; the background has a small weight as well.

    Returns
    -------
    Tensor
        [batch].
    """
    correlation = coil_reduce(true_maps, maps).square().sum(-1)
    weight = image.square() + _BACKGROUND
    return ((1 - correlation) * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)

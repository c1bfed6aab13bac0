"""The Lightning module that trains a network by a recipe."""

from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor

from ..models import metrics
from ..models.networks.registry import NETWORKS, Network
from ..models.planar import coil_reduce, magnitude
from ..models.scaling import Scaling, scaled
from .batches import Batch, count, mean_over_samples
from .projection import keep_projected
from .recipe import Optimizer, Recipe, RecipeError
from .samples import Sample

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
_BACKGROUND = 1e-3
_SMALLEST = 1e-12


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
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


def clip_gradients(parameters: Iterable[torch.nn.Parameter], settings: Optimizer) -> None:
    """Clip gradients as a recipe says."""
    every = list(parameters)
    if settings.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(every, settings.clip_norm)
    if settings.clip_value is not None:
        torch.nn.utils.clip_grad_value_(every, settings.clip_value)


def check_finite(loss: Tensor, step: int) -> None:
    """Stop a training that has gone wrong, instead of going on for hours.

    Raises
    ------
    RecipeError
        The loss is NaN or infinite.
    """
    if not torch.isfinite(loss):
        raise RecipeError(f"the loss is {float(loss)} in step {step}; a smaller learning rate or clip_norm may help")


def relative_squares(output: Tensor, truth: Tensor) -> Tensor:
    """Return the squared error of each entry of a batch, relative to the truth's squares: [batch]."""
    return (output - truth).square().flatten(1).sum(1) / truth.square().flatten(1).sum(1)


class Task(lightning.LightningModule):
    """What all tasks share: the recipe, the network that it names, and how images are made and judged.

    Checkpoints hold that network's weights under ``network.`` and the recipe as hyper-parameter.

    Parameters
    ----------
    recipe
        The recipe, as a dictionary or an object.
    """

    def __init__(self, recipe: Recipe | dict[str, Any]) -> None:
        super().__init__()
        self.recipe: Recipe = recipe if isinstance(recipe, Recipe) else Recipe.model_validate(recipe)
        self.save_hyperparameters({"recipe": self.recipe.model_dump(mode="json")})
        self.network: torch.nn.Module = NETWORKS[self.recipe.network].build(**self.recipe.configuration)
        reconstructs = self.recipe.sampler or self.recipe
        self.entry: Network = NETWORKS[reconstructs.network]
        self.scaling: Scaling = reconstructs.scaling or "none"

    def apply_network(self, network: torch.nn.Module, batch: Sample) -> Tensor:
        """Return what a network that reconstructs makes of a batch."""
        # made anew, so that the checkpoint holds the network's own names only
        return scaled(network, self.scaling, self.entry.inputs)(*(batch[name] for name in self.entry.inputs))

    def magnitude(self, output: Tensor) -> Tensor:
        """Return the magnitude [images, y, x] of what the network returned; each frame of a series is an image."""
        # the root has no gradient at zero, which images have where there are no coil maps
        image = output if self.entry.output == "magnitude" else (output.square().sum(-1) + _SMALLEST).sqrt()
        return image.flatten(0, -3)

    def truth(self, batch: Sample) -> Tensor:
        """Return what the network should have returned."""
        return magnitude(batch["target"]) if self.entry.output == "magnitude" else batch["target"]

    def log_quality(self, output: Tensor, batch: Sample, loss: Tensor) -> None:
        """Log the validation's loss, SSIM, PSNR and NMSE."""
        size = len(output)
        self.log("validation_loss", loss, prog_bar=True, batch_size=size)
        image, truth = self.magnitude(output), self.magnitude(self.truth(batch))
        for name, measure in (("ssim", metrics.ssim), ("psnr", metrics.psnr), ("nmse", metrics.nmse)):
            self.log(name, measure(image, truth).mean(), prog_bar=name == "ssim", batch_size=size)


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

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of a batch."""
        loss = mean_over_samples(batch, lambda stack: self._loss(self(stack), stack))
        check_finite(loss, self.global_step)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=count(batch))
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Log loss, SSIM, PSNR and NMSE of a batch."""
        for stack in batch:
            output = self(stack)
            self.log_quality(output, stack, self._loss(output, stack))

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
            elif name == "maps":
                part = maps_error(self._estimated_maps, batch["true_maps"], magnitude(batch["target"]))
            else:
                part = relative_squares(output, truth)
                part = part if name == "nmse" else part.sqrt()
            total = total + weight * part.mean()
        return total

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule of the recipe."""
        settings = self.recipe.optimizer
        optimizer = make_optimizer(self.parameters(), settings)
        keep_projected(optimizer, self.network)
        if settings.schedule == "constant":
            return optimizer
        if settings.schedule == "step":
            schedule: Any = torch.optim.lr_scheduler.StepLR(optimizer, settings.step, settings.gamma)
        elif settings.schedule == "exponential":
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.gamma)
        else:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=int(self.trainer.estimated_stepping_batches),
                pct_start=0.05,
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_before_optimizer_step(self, optimizer: Any) -> None:  # noqa: ARG002
        """Clip the gradients as the recipe says."""
        clip_gradients(self.parameters(), self.recipe.optimizer)


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

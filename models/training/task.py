"""The Lightning module that trains a network by a recipe."""

from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor

from .. import metrics
from ..networks.registry import NETWORKS
from ..planar import magnitude
from ..scaling import Scaling, scaled
from .data import Sample
from .recipe import Optimizer, Recipe

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe describes."""
    return _OPTIMIZERS[settings.name](parameters, lr=settings.learning_rate, **settings.options)


def clip_gradients(parameters: Iterable[torch.nn.Parameter], settings: Optimizer) -> None:
    """Clip gradients as a recipe says."""
    every = list(parameters)
    if settings.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(every, settings.clip_norm)
    if settings.clip_value is not None:
        torch.nn.utils.clip_grad_value_(every, settings.clip_value)


class ReconstructionTask(lightning.LightningModule):
    """Trains a network; its checkpoints hold the weights under ``network.`` and the recipe as hyper-parameter.

    Parameters
    ----------
    recipe
        The recipe, as a dictionary or an object.
    """

    def __init__(self, recipe: Recipe | dict[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.model_validate(recipe)
        self.save_hyperparameters({"recipe": self.recipe.model_dump(mode="json")})
        self.entry = NETWORKS[self.recipe.network]
        self.scaling: Scaling = self.recipe.scaling or self.entry.scaling
        self.network = self.entry.build(**self.recipe.configuration)

    def forward(self, batch: Sample) -> Tensor:
        """Return what the network makes of a batch."""
        # made anew, so that the checkpoint holds the network's own names only
        network = scaled(self.network, self.scaling, self.entry.inputs)
        return network(*(batch[name] for name in self.entry.inputs))

    def training_step(self, batch: Sample, _index: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self._loss(self(batch), batch["target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["target"]))
        return loss

    def validation_step(self, batch: Sample, _index: int) -> None:
        """Log loss, SSIM, PSNR and NMSE of a batch."""
        output, size = self(batch), len(batch["target"])
        self.log("validation_loss", self._loss(output, batch["target"]), prog_bar=True, batch_size=size)
        image, truth = self.magnitude(output), magnitude(batch["target"])
        for name, measure in (("ssim", metrics.ssim), ("psnr", metrics.psnr), ("nmse", metrics.nmse)):
            self.log(name, measure(image, truth).mean(), prog_bar=name == "ssim", batch_size=size)

    def magnitude(self, output: Tensor) -> Tensor:
        """Return the magnitude of what the network returned."""
        return output if self.entry.output == "magnitude" else magnitude(output)

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        image, truth = self.magnitude(output), magnitude(target)
        compared = (image, truth) if self.entry.output == "magnitude" else (output, target)
        total = torch.zeros((), device=output.device)
        for name, weight in self.recipe.loss.items():
            if name == "ssim":
                total = total + weight * (1 - metrics.ssim(image, truth)).mean()
            elif name == "l1":
                total = total + weight * (compared[0] - compared[1]).abs().mean()
            else:
                error = (compared[0] - compared[1]).square().flatten(1)
                if name == "mse":
                    total = total + weight * error.mean()
                else:
                    ratio = error.sum(1) / compared[1].square().flatten(1).sum(1)
                    total = total + weight * (ratio if name == "nmse" else ratio.sqrt()).mean()
        return total

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule of the recipe."""
        settings = self.recipe.optimizer
        optimizer = make_optimizer(self.parameters(), settings)
        if settings.schedule == "constant":
            return optimizer
        if settings.schedule == "step":
            schedule: Any = torch.optim.lr_scheduler.StepLR(optimizer, settings.step, settings.gamma)
        elif settings.schedule == "exponential":
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.gamma)
        else:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                settings.learning_rate,
                total_steps=int(self.trainer.estimated_stepping_batches),
                pct_start=0.05,
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_before_optimizer_step(self, optimizer: Any) -> None:  # noqa: ARG002
        """Clip the gradients as the recipe says."""
        clip_gradients(self.parameters(), self.recipe.optimizer)

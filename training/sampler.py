"""The Lightning module that trains MNet together with, or for, a network that reconstructs (arXiv:2509.16846)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models.networks.mnet import StraightThrough
from ..models.planar import magnitude
from ..models.scaling import scaled
from .batches import Batch, count, mean_over_samples
from .icd import descend, middle_lines, variable_density
from .projection import keep_projected
from .recipe import Recipe, Sampler
from .samples import Sample
from .start import find_weights
from .task import Task, check_finite, clip_gradients, make_optimizer, relative_squares

_CANDIDATES = 16
"""Masks of the coordinate descent that are reconstructed together."""


class SamplerTask(Task):
    """Trains a sampler by the recipe's section ``sampler``.

    The sampler sees the middle lines and chooses the others; the reconstruction from both is compared with the truth. Its
    loss is the reconstruction's error and, where there are reference masks, the cross-entropy with them; gradients pass
    the choice unchanged (straight-through). With ``scheme: fixed`` the reconstructor stays as it is; with ``alternating``
    it takes so many steps, then the sampler takes so many.

    Parameters
    ----------
    recipe
        The recipe, as a dictionary or an object.
    """

    def __init__(self, recipe: Recipe | dict[str, Any]) -> None:
        super().__init__(recipe)
        assert self.recipe.sampler is not None
        self.settings: Sampler = self.recipe.sampler
        self.automatic_optimization = False
        self.reconstructor: torch.nn.Module = self.entry.build(**self.settings.configuration)
        if self.settings.start_from is not None:
            content = torch.load(find_weights(self.settings.start_from), map_location="cpu", weights_only=True)["state_dict"]
            weights = {key.removeprefix("network."): value for key, value in content.items()}
            self.reconstructor.load_state_dict(weights)

    def choose(self, kspace: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [batch, lines - base] and the mask [batch, 1, lines, 1, 1] for fully sampled k-space."""
        lines = kspace.shape[2]
        middle = middle_lines(lines, self.settings.base).to(kspace.device)
        logits = scaled(self.network, self.recipe.scaling or "none", ("kspace",))(kspace * middle[:, None, None])
        threshold = logits.topk(self.settings.budget + 1, dim=1).values[:, -2:].mean(dim=1, keepdim=True)
        chosen = StraightThrough.apply(torch.sigmoid(logits - threshold))
        mask = middle.to(kspace.dtype).repeat(len(kspace), 1).masked_scatter(~middle.repeat(len(kspace), 1), chosen)
        return logits, mask[:, None, :, None, None]

    def reconstruct(self, batch: Sample, mask: Tensor) -> Tensor:
        """Return what the reconstructor makes of the chosen lines."""
        return self.apply_network(self.reconstructor, {**batch, "kspace": batch["kspace"] * mask, "mask": mask})

    def forward(self, batch: Sample) -> Tensor:
        """Return the reconstruction from the lines that the sampler chooses."""
        return self.reconstruct(batch, self.choose(batch["kspace"])[1])

    def training_step(self, batch: Batch, index: int) -> None:
        """Take a step with the reconstructor or the sampler, whose turn it is."""
        settings = self.settings
        turn = index % (settings.reconstructor_steps + settings.sampler_steps)
        sampler_turn = settings.scheme == "fixed" or turn >= settings.reconstructor_steps
        optimizers: Any = self.optimizers()
        optimizer = optimizers[0] if sampler_turn else optimizers[1]
        loss = mean_over_samples(batch, lambda stack: self._loss(stack, sampler_turn))
        check_finite(loss, self.global_step)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self._clip(sampler_turn)
        optimizer.step()
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=count(batch))

    def _loss(self, batch: Sample, sampler_turn: bool) -> Tensor:
        logits, mask = self.choose(batch["kspace"])
        if not sampler_turn:
            return self._nrmse(self.reconstruct(batch, mask.detach()), batch)
        loss = self.settings.error_weight * self._nrmse(self.reconstruct(batch, mask), batch)
        if "label" in batch:
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["label"])
        return loss

    def _clip(self, sampler_turn: bool) -> None:
        network = self.network if sampler_turn else self.reconstructor
        settings = self.recipe.optimizer if sampler_turn else self.settings.optimizer
        clip_gradients(network.parameters(), settings)

    def validation_step(self, batches: Batch, index: int) -> None:
        """Log the error with the chosen lines, and with random ones of the same number."""
        (batch,) = batches  # of one sample
        output = self(batch)
        self.log_quality(output, batch, self._nrmse(output, batch))
        lines = batch["kspace"].shape[2]
        draw = torch.Generator().manual_seed(index)
        mask = variable_density(lines, self.settings.base, self.settings.budget, draw).to(output)
        random = self.reconstruct(batch, mask[None, None, :, None, None])
        self.log("random_nrmse", self._nrmse(random, batch), batch_size=len(output))

    def _nrmse(self, output: Tensor, batch: Sample) -> Tensor:
        """Error relative to the truth, of complex images where the reconstructor returns them."""
        return relative_squares(output, self.truth(batch)).sqrt().mean()

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the sampler, and that of the reconstructor."""
        reconstructs = make_optimizer(self.reconstructor.parameters(), self.settings.optimizer)
        keep_projected(reconstructs, self.reconstructor)
        return [make_optimizer(self.network.parameters(), self.recipe.optimizer), reconstructs]

    def labels(self) -> Callable[[Sample], Tensor] | None:
        """Return what makes the reference mask [lines - base] of a fully sampled slice; None if the recipe wants none."""
        if not self.settings.icd:
            return None
        base, budget = self.settings.base, self.settings.budget

        @torch.no_grad()
        def label(sample: Sample) -> Tensor:
            lines = sample["kspace"].shape[1]
            batch = {name: tensor[None] for name, tensor in sample.items()}

            def error(masks: Tensor) -> Tensor:
                errors = []
                for part in masks.split(_CANDIDATES):
                    many = {name: tensor.expand(len(part), *tensor.shape[1:]) for name, tensor in batch.items()}
                    output = self.magnitude(self.reconstruct(many, part.to(torch.float32)[:, None, :, None, None]))
                    errors.append(relative_squares(output, magnitude(many["target"])))
                return torch.cat(errors)

            start = variable_density(lines, base, budget, torch.Generator().manual_seed(lines))
            middle = middle_lines(lines, base)
            return descend(start, middle, error)[~middle].to(torch.float32)

        return label

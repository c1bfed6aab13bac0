"""Trains MNet together with, or for, a network that reconstructs (arXiv:2509.16846)."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.networks.mnet import StraightThrough
from ..models.planar import magnitude
from .folder import read_checkpoint
from .icd import descend, middle_lines, variable_density
from .recipe import Recipe, RecipeError, Sampler
from .samples import Sample
from .task import Learner, Task, build, relative_squares

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
        self.reconstructor: nn.Module = build(self.settings.network, self.settings.configuration)
        if self.settings.start_from is not None:
            self._start_reconstructor(self.settings.start_from)
        if self.settings.scheme == "fixed":
            self.reconstructor.requires_grad_(False)

    def _start_reconstructor(self, checkpoint: Path) -> None:
        content = read_checkpoint(checkpoint)["state_dict"]
        weights = {key.removeprefix("network."): value for key, value in content.items()}
        try:
            self.reconstructor.load_state_dict(weights)
        except RuntimeError as error:
            raise RecipeError(f"{checkpoint} is not for {self.settings.network!r}: {error}") from error

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a fixed reconstructor keeps its statistics."""
        super().train(mode)
        self.reconstructor.train(mode and self.settings.scheme != "fixed")
        return self

    def choose(self, kspace: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [batch, lines - base] and the mask [batch, 1, lines, 1, 1] for fully sampled k-space."""
        lines = kspace.shape[2]
        middle = middle_lines(lines, self.settings.base).to(kspace.device)
        logits = self.network(kspace * middle[:, None, None])
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

    @property
    def needs(self) -> frozenset[str]:
        """Names of what it needs of a sample."""
        return frozenset({*self.entry.inputs, "kspace", "target", "label"}) - {"mask"}

    def learners(self) -> list[Learner]:
        """Return the sampler and, where both learn, the reconstructor."""
        sampler = Learner(self.network, self.recipe.optimizer)
        if self.settings.scheme == "fixed":
            return [sampler]
        return [sampler, Learner(self.reconstructor, self.settings.optimizer)]

    def turn(self, step: int) -> int:
        """Return 0 for the sampler, 1 for the reconstructor, which begins."""
        settings = self.settings
        place = step % (settings.reconstructor_steps + settings.sampler_steps)
        return int(settings.scheme == "alternating" and place < settings.reconstructor_steps)

    def loss(self, stack: Sample, turn: int) -> Tensor:
        """Return the error of the reconstruction; for the sampler weighted, with the cross-entropy."""
        logits, mask = self.choose(stack["kspace"])
        if turn == 1:
            return self._nrmse(self.reconstruct(stack, mask.detach()), stack)
        loss = self.settings.error_weight * self._nrmse(self.reconstruct(stack, mask), stack)
        if "label" in stack:
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, stack["label"])
        return loss

    def figures(self, stack: Sample, index: int) -> dict[str, Tensor]:
        """Return error and quality with the chosen lines, and the error with random ones of the same number."""
        output = self(stack)
        lines = stack["kspace"].shape[2]
        draw = torch.Generator().manual_seed(index)
        mask = variable_density(lines, self.settings.base, self.settings.budget, draw).to(output)
        random = self.reconstruct(stack, mask[None, None, :, None, None])
        return {
            "validation_loss": self._nrmse(output, stack),
            **self.quality(output, stack),
            "random_nrmse": self._nrmse(random, stack),
        }

    def measured(self, stack: Sample) -> tuple[Tensor, Tensor]:
        """Return the chosen lines and their mask."""
        mask = self.choose(stack["kspace"])[1]
        return stack["kspace"] * mask, mask

    def _nrmse(self, output: Tensor, batch: Sample) -> Tensor:
        """Error relative to the truth, of complex images where the reconstructor returns them."""
        return relative_squares(output, self.truth(batch)).sqrt().mean()

    @torch.no_grad()
    def label(self, sample: Sample) -> Tensor:
        """Make the reference mask [lines - base] of a fully sampled slice by coordinate descent."""
        base, budget = self.settings.base, self.settings.budget
        lines = sample["kspace"].shape[1]
        stack = {name: tensor[None] for name, tensor in sample.items()}

        def error(masks: Tensor) -> Tensor:
            errors = []
            for part in masks.split(_CANDIDATES):
                many = {name: tensor.expand(len(part), *tensor.shape[1:]) for name, tensor in stack.items()}
                output = self.magnitude(self.reconstruct(many, part.to(many["kspace"])[:, None, :, None, None]))
                errors.append(relative_squares(output, magnitude(many["target"])).cpu())
            return torch.cat(errors)

        start = variable_density(lines, base, budget, torch.Generator().manual_seed(lines))
        middle = middle_lines(lines, base)
        return descend(start, middle, error)[~middle].to(torch.float32)

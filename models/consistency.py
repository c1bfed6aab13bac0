"""Data consistency: what the unrolled methods do with the measured k-space between two regularisers.

All functions work on k-space [batch, coils, ..., ky, kx, 2] and images [batch, ..., ky, kx, 2] as real tensors. Coil maps
and masks broadcast against k-space. ``axes`` are the in-plane axes that are in k-space; along the others the data are in
image space already (``sampling.to_hybrid``).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .fourier import fft_planar, ifft_planar, keep_measured
from .planar import coil_expand, coil_reduce, ratio_or_zero


def forward_model(image: Tensor, maps: Tensor, axes: list[int]) -> Tensor:
    """Coil weighting and Fourier transform, without the mask: ``F S x``."""
    return fft_planar(coil_expand(image, maps), axes)


def adjoint_model(kspace: Tensor, maps: Tensor, axes: list[int]) -> Tensor:
    """Adjoint of ``forward_model``: ``S^H F^H k``."""
    return coil_reduce(ifft_planar(kspace, axes), maps)


def normal_model(image: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
    """Return ``A^H A x`` with ``A = M F S``."""
    return coil_reduce(keep_measured(coil_expand(image, maps), mask, axes), maps)


def data_gradient(image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int]) -> Tensor:
    """Gradient ``A^H (A x - y)`` of half the squared misfit; ``kspace`` is zero where nothing was measured."""
    return adjoint_model(forward_model(image, maps, axes) * mask - kspace, maps, axes)


def replace_measured(
    image: Tensor, kspace: Tensor, maps: Tensor, mask: Tensor, axes: list[int], noise: Tensor | None = None
) -> Tensor:
    """Predict k-space, put the measured samples in their places, combine the coils.

    Without ``noise`` the measured samples replace the predicted ones (Schlemper et al., IEEE TMI 2018;37:491, eq. 5 with
    infinite weight); with it they are mixed as ``noise * predicted + (1 - noise) * measured`` (Duan et al., MICCAI 2019, eq. 8).
    """
    predicted = forward_model(image, maps, axes)
    if noise is None:
        completed = predicted * (1 - mask) + kspace
    else:
        completed = predicted * (1 - mask) + noise * (predicted * mask) + (1 - noise) * kspace
    return adjoint_model(completed, maps, axes)


class CgState(NamedTuple):
    """Where a conjugate gradient iteration stands; all real tensors, ``energy`` is the squared residual per batch entry."""

    solution: Tensor
    residual: Tensor
    direction: Tensor
    energy: Tensor


def energy(x: Tensor) -> Tensor:
    """Squared norm of every batch entry of [batch, ...], kept broadcastable."""
    return inner(x, x)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Real inner product of every batch entry of [batch, ...], kept broadcastable."""
    dims = [axis for axis in range(1, x.dim())]  # noqa: C416  (TorchScript knows no list(range))
    return (x * y).sum(dim=dims, keepdim=True)


def cg_start(solution: Tensor, residual: Tensor) -> CgState:
    """Begin at a solution with its residual."""
    return CgState(solution, residual, residual, energy(residual))


def cg_step(state: CgState, product: Tensor, tolerance: float = 0.0) -> CgState:
    """Take one conjugate gradient step, given the operator's product with ``state.direction``.

    A batch entry whose squared residual is not above ``tolerance`` stays where it is. So a fixed number of steps gives what a
    loop that stops there gives, in a graph without control flow, and exact convergence does not end in 0/0.
    """
    going = (state.energy > tolerance).to(product.dtype)
    step = ratio_or_zero(state.energy, inner(state.direction, product)) * going
    solution = state.solution + step * state.direction
    residual = state.residual - step * product
    energy_next = energy(residual)
    direction = residual + ratio_or_zero(energy_next, state.energy) * state.direction
    return CgState(solution, residual, direction, energy_next)


class ProximalStep(nn.Module):
    """Solve ``(A^H A + w) x = b`` by conjugate gradients with a fixed number of guarded steps.

    Parameters
    ----------
    iterations
        Number of steps in the graph.
    tolerance
        Squared residual at which an image stays as it is.
    """

    def __init__(self, iterations: int, tolerance: float = 0.0) -> None:
        super().__init__()
        self.iterations = iterations
        self.tolerance = tolerance

    def forward(
        self, target: Tensor, maps: Tensor, mask: Tensor, axes: list[int], weight: Tensor, start: Tensor | None = None
    ) -> Tensor:
        """Return x; ``target`` is b, ``weight`` w broadcasts against images, ``start`` is where to begin (default zero)."""
        if -3 not in axes or -2 in axes:
            return self.iterate(target, maps, mask, axes, weight, start)
        # only ky is in k-space: Fourier transforms along the last axis take half the time
        turned = [-2 if axis == -3 else axis for axis in axes]
        weight = weight if weight.dim() < 3 else turn(weight)
        start = None if start is None else turn(start)
        return turn(self.iterate(turn(target), turn(maps), turn(mask), turned, weight, start))

    def iterate(
        self, target: Tensor, maps: Tensor, mask: Tensor, axes: list[int], weight: Tensor, start: Tensor | None
    ) -> Tensor:
        """Return x, with all tensors as they are."""
        if start is None:
            state = cg_start(torch.zeros_like(target), target)
        else:
            state = cg_start(start, target - normal_model(start, maps, mask, axes) - weight * start)
        for _ in range(self.iterations):
            product = normal_model(state.direction, maps, mask, axes) + weight * state.direction
            state = cg_step(state, product, self.tolerance)
        return state.solution


def turn(x: Tensor) -> Tensor:
    """Swap the in-plane axes of [..., y, x, 2]."""
    return x.transpose(-3, -2).contiguous()

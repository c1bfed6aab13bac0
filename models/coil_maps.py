"""Coil sensitivity maps from calibration data: ESPIRiT, and the faster adaptive combination."""

import math
from typing import Literal

import torch
from torch import Tensor

from .fourier import ifft
from .map_ends import ComputedMaps, interpolated, scaled
from .map_misfit import compared_pixels, misfit_energy
from .planar import box_mean

Shape = tuple[int, int, int]
_FINE = 8
"""How many pixels are computed for each edge of a patch; those between them are interpolated."""
_CLEARLY = 0.85
"""What maps that are followed must at most leave unexplained, of what dominant vectors leave of the calibration data's energy."""
_CROPPED_ENERGY = 1e-4
"""Fraction of the energy of the calibration image that an adapted crop may cut away at most."""
_CROPS = (0.5, 0.99)
"""Smallest and largest adapted crop."""
_CACHED_PIXELS = 4096
"""Pixels whose matrices are iterated on together; few enough that they stay in the processor's cache."""


def espirit(
    calibration: Tensor,
    shape: Shape,
    *,
    kernel: int = 6,
    threshold: float = 0.01,
    crop: float | Literal["auto"] = "auto",
    iterations: int = 1024,
    mask: Tensor | None = None,
) -> Tensor:
    """Estimate coil maps by ESPIRiT, first set of maps (Uecker et al., MRM 2014;71:990).

    1. The patches of the calibration data span a subspace; its projector is kept where singular values exceed the threshold.
    2. The projector, averaged over all positions of a patch, is a matrix of coils x coils at every pixel, eq. 12.
    3. Its dominant eigenvector is the map; where the eigenvalue is not close to one there is no signal. How close it comes to
       one where there is signal depends on how well the patches span the subspace, so that of few lines less is to be asked.
    4. At the ends of a field of view that the object fills, where patches see both at once, the eigenvector that continues the
       map of its side is taken, if the calibration data is clearly better explained so (``map_ends``).

    Parameters
    ----------
    calibration
        complex64 [coils, kz, ky, kx], a fully sampled block around the middle of k-space.
    shape
        Size (z, y, x) of the maps.
    kernel
        Largest edge of a patch; along each axis at most a third of the calibration data, so that there are enough patches to
        span the subspace.
    threshold
        Singular values below this fraction of the largest are noise. BART's default is 0.0316, which leaves out of few lines what
        belongs to the signal (8 lines: up to 3 dB); noise that comes through does little, even at an SNR of 5.
    crop
        Maps are zero where the eigenvalue is below. ``auto``: between 0.5 and 0.99, as large as cuts away no more than 0.01 % of
        the energy of the calibration data's image, as combined by the maps.
    iterations
        Power iterations at every pixel. 30, as in BART, leave the maps of scans with little noise far from convergence, and 256
        those of pixels at the edges of a filled field of view.
    mask
        bool [kz, ky], lines of the calibration data that were measured, where some are missing; None if none is.

    Returns
    -------
    Tensor
        complex64 [coils, z, y, x], unit norm over the coils where not zero. The phase is that of the calibration data's
        principal component. With 30 iterations, a threshold of 0.0316 and a crop of 0.8 the maps of 16 lines and more are those
        of BART, up to one phase for all of them.
    """
    coils = calibration.shape[0]
    edges = tuple(min(kernel, (n + 2) // 3) for n in calibration.shape[1:])
    projector = _patch_projector(calibration, edges, threshold, mask)
    correlation = _correlate_offsets(projector, coils, edges)
    principal = _principal_component(calibration)
    maps = torch.zeros((coils, *shape), dtype=torch.complex64, device=calibration.device)
    eigenvalues = torch.zeros(shape, device=calibration.device)
    signal: list[tuple[Tensor, Tensor]] = []
    strides = [max(size // (_FINE * edge), 1) for size, edge in zip(shape[1:], edges[1:], strict=True)]
    partial = correlation @ _fourier_rows(shape[2], correlation.shape[4], correlation)[:: strides[1]].T
    planes = _fourier_rows(shape[0], partial.shape[2], partial)
    for z in range(shape[0]):
        plane = (partial.movedim(2, -1) @ planes[z]).permute(2, 3, 0, 1).contiguous()
        transform = _fourier_rows(shape[1], plane.shape[0], plane)[:: strides[0]]
        image = _calibration_image(calibration, shape, z, strides)
        vectors, values = _eigenvectors_of_plane(plane, transform, image, iterations)
        if crop == "auto":
            signal.append((values, (vectors.conj() * image).sum(dim=1).abs().square()))
        computed = ComputedMaps(
            vectors.unflatten(0, (len(transform), -1)), values.unflatten(0, (len(transform), -1)), plane, transform
        )
        vectors = _best(computed, shape, strides, image, _plane_of(calibration, shape, z), mask)
        values = computed.values_everywhere(shape[1:], strides)
        maps[:, z] = _align_phase(vectors.flatten(0, 1).T, principal).unflatten(1, shape[1:])
        eigenvalues[z] = values
    return maps * (eigenvalues >= (_adapted_crop(signal) if crop == "auto" else crop))


def _plane_of(calibration: Tensor, shape: Shape, z: int) -> Tensor:
    """K-space [coils, 1, ky, kx] of a plane, of the resolution along z that the calibration data has."""
    part = calibration.shape[1]
    row = _fourier_rows(shape[0], part, calibration)[z] * _window(part, shape[0], calibration.device)
    return torch.einsum("czyx,z->cyx", calibration, row)[:, None]


def _calibration_image(calibration: Tensor, shape: Shape, z: int, strides: list[int]) -> Tensor:
    """Image [pixels, coils] of the calibration data in a plane, at the pixels whose maps are computed."""
    image = _plane_of(calibration, shape, z)[:, 0]
    for axis, stride in enumerate(strides, start=1):
        full, part = shape[axis], image.shape[1]
        rows = _fourier_rows(full, part, image)[::stride] * _window(part, full, image.device)
        image = image.movedim(1, -1) @ rows.T  # the axis after it comes first now
    return image.flatten(1).T


def _best(
    computed: ComputedMaps, shape: Shape, strides: list[int], image: Tensor, data: Tensor, mask: Tensor | None
) -> Tensor:
    """Maps [y, x, coils] at all pixels of a plane: dominant vectors, or those that are followed to the ends of an axis.

    Where an object reaches both ends, only vectors that are followed are those of either side; where it is larger than the field
    of view, they are those of one of its parts and miss the other. The calibration data tells: they must explain clearly more.

    Parameters
    ----------
    computed
        The vectors.
    shape, strides
        Of the maps, and how many pixels there are for each computed one.
    image
        Calibration data's [pixels, coils] at the computed pixels.
    data, mask
        Its k-space [coils, 1, ky, kx], and which of its lines were measured.
    """
    vectors = computed.extended(())
    if len(data) == 1 or (mask is not None and len(mask) > 1):
        return interpolated(vectors, shape[1:], strides)
    lines = torch.ones(1, data.shape[2], dtype=torch.bool, device=data.device) if mask is None else mask
    pixels = [compared_pixels(size, samples) for size, samples in zip(shape[1:], data.shape[2:], strict=True)]

    def unexplained(vectors: Tensor) -> float:
        return misfit_energy(data, lines, interpolated(vectors, shape[1:], strides, pixels).permute(2, 0, 1)[:, None])

    followed: tuple[int, ...] = ()
    left = -1.0
    for axis in (0, 1):
        others = computed.extended((*followed, axis))
        if computed.alike(vectors, others, image):
            continue
        left = unexplained(vectors) if left < 0 else left
        less = unexplained(others)
        if less < _CLEARLY * left:
            vectors, left, followed = others, less, (*followed, axis)
    return interpolated(vectors, shape[1:], strides)


def _adapted_crop(signal: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Largest crop that cuts away little of the energy, given the eigenvalues and energies of all planes."""
    values, order = torch.cat([value for value, _ in signal]).sort()
    below = torch.cat([energy for _, energy in signal])[order].cumsum(0)
    least = (below <= _CROPPED_ENERGY * below[-1]).sum().clamp(max=len(values) - 1)
    return values.index_select(0, least[None])[0].clamp(*_CROPS)


def _eigenvectors_of_plane(plane: Tensor, transform: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Transform [dy, x, coils, coils] along y, some lines at a time, and return vectors [pixels, coils] and values [pixels].

    So the matrices of a pixel lie side by side, and those of few enough pixels exist at once to stay in the cache. The
    iteration starts from the calibration data's image [pixels, coils]: where an object reaches the edge of the field of view,
    the patches see both edges at once, two eigenvalues are close to one, and the image tells which belongs to the pixel.
    """
    lines, samples, coils = len(transform), plane.shape[1], plane.shape[2]
    parts = []
    pixels = _CACHED_PIXELS if plane.device.type == "cpu" else lines * samples
    lines_at_once = max(pixels // samples, 1)
    for rows, begin in zip(transform.split(lines_at_once), start.split(lines_at_once * samples), strict=True):
        matrices = (rows @ plane.flatten(1)).reshape(-1, coils, coils)
        parts.append(_power_iteration(matrices, scaled(begin[..., None]), iterations))
    return torch.cat([vector for vector, _ in parts]), torch.cat([value for _, value in parts])


def _patch_projector(
    calibration: Tensor, edges: tuple[int, ...], threshold: float, mask: Tensor | None = None
) -> Tensor:
    """Projector [coils * patch, coils * patch] onto the signal subspace of all patches that were measured completely.

    The rows of the calibration matrix ``A`` are the patches. Of ``A = U S V^H`` those right singular vectors ``V_s`` count whose
    singular values exceed the threshold, and ``V_s V_s^H`` is returned. They are the eigenvectors of ``A^H A``, or, where there
    are fewer patches than samples in one, ``A^H U_s / S_s`` with those of ``A A^H``, which is smaller.
    """
    patches = calibration
    for axis, edge in enumerate(edges, start=1):
        patches = patches.unfold(axis, edge, 1)
    positions = math.prod(patches.shape[1:4])
    rows = patches.movedim(0, 3).reshape(positions, -1).to(torch.complex128)
    if mask is not None:
        whole = mask.unfold(0, edges[0], 1).unfold(1, edges[1], 1).all(dim=-1).all(dim=-1)
        rows = rows[whole[:, :, None].expand(*whole.shape, patches.shape[3]).reshape(-1)]
    wide = rows.shape[1] > rows.shape[0]
    values, vectors = torch.linalg.eigh(rows @ rows.mH if wide else rows.mH @ rows)
    strong = values > threshold**2 * values[-1]
    signal = vectors[:, strong]
    if wide:
        signal = rows.mH @ (signal * values[strong].rsqrt())
    return (signal @ signal.mH).conj().to(calibration.dtype)


def _correlate_offsets(projector: Tensor, coils: int, edges: tuple[int, ...]) -> Tensor:
    """Sum the projector over all pairs of patch positions with equal offset: [coils, coils, dz, dy, dx].

    Applying ``P = V_s V_s^H`` to every patch of k-space and averaging what the patches say of one sample is a convolution of
    k-space by ``W(d) = sum over q - p = d of P(p, q) / patch``, and thus a multiplication by its Fourier transform, a matrix of
    coils x coils, at every pixel (eq. 12).
    """
    blocks = projector.reshape(coils, *edges, coils, *edges)
    sizes = [2 * edge - 1 for edge in edges]
    result = torch.zeros((coils, coils, *sizes), dtype=projector.dtype, device=projector.device)
    for z in range(edges[0]):
        for y in range(edges[1]):
            for x in range(edges[2]):
                block = blocks[:, z, y, x].flip(2, 3, 4)
                result[:, :, z : z + edges[0], y : y + edges[1], x : x + edges[2]] += block
    return result / math.prod(edges)


def _fourier_rows(size: int, count: int, like: Tensor) -> Tensor:
    """Fourier matrix [size pixels, count offsets], offsets and pixels centred."""
    pixel = torch.arange(size, device=like.device) - size // 2
    offset = torch.arange(count, device=like.device) - count // 2
    return torch.exp(2j * math.pi / size * pixel[:, None] * offset[None, :]).to(like.dtype)


def _principal_component(data: Tensor) -> Tensor:
    """Dominant eigenvector [coils] of the coil covariance, its product with a chirp along the coils real.

    So its phase follows all coils: if the strongest one decided, noise would choose between two that are equally strong, and sets
    of a scan would differ by a constant phase. No mode of a ring of coils is orthogonal to a chirp, whose spectrum is flat.
    """
    coils = data.shape[0]
    flat = data.reshape(coils, -1)
    vector = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    chirp = torch.exp(1j * math.pi / coils * torch.arange(coils, device=data.device).square()).to(vector.dtype)
    return vector * torch.exp(-1j * torch.angle((chirp.conj() * vector).sum()))


def _align_phase(vectors: Tensor, principal: Tensor) -> Tensor:
    """Make the component of [coils, pixels] along the principal component real."""
    along = principal.conj() @ vectors
    return vectors * (along.conj() / along.abs().clamp_min(1e-30))


def dominant_eigenvector(matrices: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """Dominant eigenvector and eigenvalue of Hermitian positive matrices, by power iteration from the first unit vector.

    Parameters
    ----------
    matrices
        complex64 [n, n, pixels].
    iterations
        Number of multiplications.

    Returns
    -------
    tuple
        Vectors complex64 [n, pixels] of unit norm and values float32 [pixels].
    """
    pixels = matrices.permute(2, 0, 1)
    first = torch.zeros_like(matrices[0, :, 0, None])
    first[0] = 1
    parts = [_power_iteration(part.contiguous(), first, iterations) for part in pixels.split(_CACHED_PIXELS)]
    return torch.cat([vector for vector, _ in parts]).T, torch.cat([value for _, value in parts])


def _power_iteration(matrices: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Iterate on [pixels, n, n] from a start [pixels, n, 1] or [n, 1]; return vectors [pixels, n] and values [pixels].

    ``A^k x`` is taken as a product of the powers ``A, A^2, A^4, ...``; the vector is scaled between them.
    """
    powers = [matrices]
    for _ in range(_squarings(matrices.shape[1], iterations)):
        squared = torch.bmm(powers[-1], powers[-1])
        # high powers of small eigenvalues would be rounded to zero
        trace = squared.diagonal(dim1=1, dim2=2).real.sum(dim=1)
        powers.append(squared * trace.clamp_min(1e-30).reciprocal()[:, None, None])
    vector = matrices @ start
    left = iterations - 2  # one was just now, and one more gives the eigenvalue
    for exponent in reversed(range(len(powers))):
        for _ in range(left // 2**exponent):
            vector = torch.bmm(powers[exponent], scaled(vector))
        left %= 2**exponent
    vector = scaled(vector)
    vector = vector * torch.view_as_real(vector).square().sum(dim=(1, 3), keepdim=True)[..., 0].clamp_min(1e-30).rsqrt()
    value = (vector.conj() * torch.bmm(matrices, vector)).sum(dim=(1, 2)).real
    return vector.squeeze(-1), value


def _squarings(n: int, iterations: int) -> int:
    """How often matrices of n x n are worth squaring, which halves the multiplications and costs about n / 6 of them."""
    return max(round(math.log2(iterations * 6 / n * math.log(2))), 0)


def adaptive(calibration: Tensor, shape: Shape, *, smoothing: int = 5) -> Tensor:
    """Estimate coil maps from local coil correlations (Walsh et al., MRM 2000;43:682).

    Parameters
    ----------
    calibration
        complex64 [coils, kz, ky, kx], calibration data or all of k-space.
    shape
        Size (z, y, x) of the maps.
    smoothing
        Edge in pixels of the block over which correlations are averaged.

    Returns
    -------
    Tensor
        complex64 [coils, z, y, x] of unit norm; the phase is that of the principal component.
    """
    coils = calibration.shape[0]
    padded = torch.zeros((coils, *shape), dtype=calibration.dtype, device=calibration.device)
    z, y, x = (_window(n, full, calibration.device) for n, full in zip(calibration.shape[1:], shape, strict=True))
    middle = [_centered(n, full) for n, full in zip(calibration.shape[1:], shape, strict=True)]
    padded[:, middle[0], middle[1], middle[2]] = calibration * z[:, None, None] * y[:, None] * x
    images = ifft(padded, [1, 2, 3])
    principal = _principal_component(calibration)
    maps = torch.empty_like(images)
    for z in range(shape[0]):
        pair = images[:, None, z] * images[None, :, z].conj()
        vectors, _ = dominant_eigenvector(_box_mean(pair, smoothing).flatten(2), iterations=10)
        maps[:, z] = _align_phase(vectors, principal).unflatten(1, shape[1:])
    return maps


def _centered(part: int, full: int) -> slice:
    start = full // 2 - part // 2
    return slice(start, start + part)


def _window(part: int, full: int, device: torch.device) -> Tensor:
    """Hann window against ringing where only part of an axis was measured."""
    if part == full:
        return torch.ones(part, device=device)
    return torch.hann_window(part + 2, periodic=False, device=device)[1:-1]


def _box_mean(x: Tensor, edge: int) -> Tensor:
    """Mean of complex [..., y, x] over blocks of edge x edge pixels, any odd edge."""
    planes = torch.view_as_real(x.flatten(0, -3)).contiguous()
    return torch.view_as_complex(box_mean(planes, edge).contiguous()).reshape(x.shape)

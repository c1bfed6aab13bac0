"""How training undersamples: the recipe's section ``masks``, and a mask drawn by it."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..simulate import sampling
from ..simulate.sampling import Request, SamplingError
from .section import Range, Section, listed, pair

Fractions = tuple[float, float]


def _fractions_below_one(value: Any) -> Any:
    """Refuse decimals from one on, which would be taken for numbers of lines; one number stands for both ends."""
    ends = pair(value)
    wrong = [end for end in ends if isinstance(end, float) and not end < 1] if isinstance(ends, (list, tuple)) else []
    if wrong:
        raise ValueError(
            f"{wrong[0]} is a decimal, and so a fraction, which must be below 1; numbers of lines are whole"
        )
    return ends


class Masks(Section):
    """Undersampling of k-space, drawn anew for every slice and epoch; the patterns are those of ``simulate.sampling``.

    A pattern with a budget measures exactly ``round(n / acceleration)`` of n lines or points, the calibration region counted.
    """

    kinds: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(listed)] = ("equispaced", "variable-density")
    """Names of patterns, or files (``.npy``, ``.mat``, ``.h5``, ``.txt``); one is drawn each time."""
    accelerations: Annotated[
        tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1), BeforeValidator(listed)
    ] = (
        2,
        4,
        6,
        8,
    )
    """One is drawn each time, of those that leave room for the calibration lines."""
    acs: Annotated[Range | Fractions, BeforeValidator(_fractions_below_one)] = (0.08, 0.12)
    """Smallest and largest number of calibration lines, or fraction of all lines; one number is for both."""
    offset: int | None = None
    """Line beside the middle that equispaced lines go through; without it, it is drawn."""
    frames: Literal["own", "same"] = "own"
    """Whether each frame of a series has lines of its own."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(sampling.current_name(name) for name in kinds)
        except SamplingError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.acs
        if not 0 <= low <= high or (isinstance(high, float) and high >= 1):
            raise ValueError(
                f"acs is [{low:g}, {high:g}]; accepted are two numbers of lines, or two fractions below 1, in order"
            )
        return self

    @property
    def points(self) -> bool:
        """Whether two directions may be undersampled, as far as names say so: a file's mask is looked at when it is drawn."""
        return any(sampling.find_pattern(kind).points for kind in self.kinds)

    def fills_middle(self, series: bool) -> bool:
        """Whether the middle of k-space is measured whatever the calibration lines: by files, by moving lines."""
        moving = series and self.frames == "own"
        return max(self.accelerations) == 1 or all(
            kind not in sampling.PATTERNS or (moving and sampling.find_pattern(kind).whole) for kind in self.kinds
        )

    def check_acs(self, lines: int | None, least: int) -> None:
        """Refuse calibration lines, drawn of a range, that may be too few for coil maps.

        Parameters
        ----------
        lines
            That are measured of a fully sampled scan; None: not known yet, so that fractions are not looked at.
        least
            That coil maps need.

        Raises
        ------
        SamplingError
            There may be fewer.
        """
        if lines is None and isinstance(self.acs[0], float):
            return
        low, _ = self.acs_range(lines or 0)
        if low < (least if lines is None else min(least, lines)):
            of = "" if lines is None else f" of {lines}"
            raise SamplingError(
                f"coil maps need at least {least} calibration lines, and {low}{of} may be drawn",
                where="masks.acs",
                accepted=f"a smallest value of at least {least} lines",
            )

    def acs_range(self, lines: int) -> Range:
        """Smallest and largest number of calibration lines of a scan of so many lines."""
        low, high = (round(value * lines) if isinstance(value, float) else value for value in self.acs)
        return low, high

    def check(self, lines: int, samples: int, measured: NDArray[np.bool_] | None = None) -> None:
        """Refuse what cannot be drawn for a scan of this size, whatever is drawn later.

        Parameters
        ----------
        lines, samples
            Of the scan, along ky and kx.
        measured
            bool [ky], the lines that are no padding; None: all.

        Raises
        ------
        SamplingError
            There are fewer lines than calibration lines, or an acceleration leaves nothing beyond the fewest calibration lines,
            or the offset is outside the grid.
        """
        low, high = self.acs_range(lines if measured is None else int(measured.sum()))
        for kind in self.kinds:
            for acceleration in self.accelerations:
                sampling.check(kind, Request(lines, samples, acceleration=acceleration, acs=low, measured=measured))
        if self.offset is not None and not 0 <= lines // 2 + self.offset < lines:
            raise SamplingError(
                f"line {self.offset} beside the middle is none of {lines} lines",
                where="masks.offset",
                accepted=f"{-(lines // 2)} to {lines - 1 - lines // 2}",
            )
        Request(lines, samples, acs=high, measured=measured).check_acs()
        for kind in self.kinds:
            request = Request(lines, samples, acceleration=max(self.accelerations), acs=low, measured=measured)
            _check_beyond(kind, request)


def _check_beyond(kind: str, request: Request) -> None:
    """Refuse an acceleration that leaves nothing beyond the calibration region.

    Raises
    ------
    SamplingError
        It does.
    """
    pattern, total = sampling.find_pattern(kind), int(request.rows.sum())
    if pattern.whole:
        nothing = request.acceleration >= total > 1
    elif pattern.points:
        nothing = request.point_budget <= request.calibration_block.sum() < total * request.samples
    else:
        nothing = pattern.budget and request.line_budget <= request.calibration.sum() < total
    if nothing:
        raise SamplingError(
            f"an acceleration of {request.acceleration:g} leaves nothing of {total} lines beyond the calibration region, "
            f"which has {request.acs}",
            where="masks.accelerations",
            accepted="smaller ones, or a smaller calibration region",
        )


def random_mask(
    random: np.random.Generator,
    lines: int,
    acs: int,
    masks: Masks,
    frames: int = 1,
    *,
    samples: int = 1,
    measured: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Draw what is measured.

    Parameters
    ----------
    random
        Where chance comes from.
    lines, samples, frames
        Size of the scan along ky, kx and time.
    acs
        Number of calibration lines.
    masks
        The recipe's section. Of its accelerations those are drawn from that leave room for the calibration lines.
    measured
        bool [ky], the lines that are no padding; None: all.

    Returns
    -------
    ndarray
        bool [frames, ky]; [frames, ky, kx] where a pattern of the recipe undersamples both directions.

    Raises
    ------
    SamplingError
        There are fewer lines than calibration lines, or none of the accelerations leaves as many.
    """
    kind = str(random.choice(masks.kinds))
    requests = [
        Request(lines, samples, frames, acceleration, acs, masks.offset, measured)
        for acceleration in masks.accelerations
    ]
    fitting = [request for request in requests if sampling.possible(kind, request)]
    if not fitting:
        sampling.check(kind, min(requests, key=lambda request: request.acceleration))
    chosen = fitting[int(random.integers(len(fitting)))]
    mask = sampling.draw(kind, chosen, random, alike=masks.frames == "same")
    if masks.points and mask.ndim == 2:  # that masks of several kinds go into one batch
        return np.repeat(mask[..., None], samples, axis=-1)
    return mask

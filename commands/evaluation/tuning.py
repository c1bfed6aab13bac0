"""The best strength of a classical method, found on the truth: what nobody has outside of a comparison."""

from collections.abc import Callable

_FACTORS = (4.0, 2.0, 2.0**0.5)
"""Steps between the strengths that are tried, from coarse to fine."""
_MOST = 8
"""Steps of one size at most: far beyond is nothing left to find."""


def best_strength(figure: Callable[[float], float], start: float) -> float:
    """Climb from ``start`` to the strength of the largest figure, by steps of a factor that gets smaller.

    Parameters
    ----------
    figure
        Returns how good a strength is; a peak's flanks may not rise again.
    start
        Where to begin, positive.

    Returns
    -------
    float
        The best of those tried, to a factor of 1.4.
    """
    tried: dict[float, float] = {start: figure(start)}

    def figure_of(strength: float) -> float:
        if strength not in tried:
            tried[strength] = figure(strength)
        return tried[strength]

    best = start
    for factor in _FACTORS:
        for _ in range(_MOST):
            following = max((best, best * factor, best / factor), key=figure_of)
            if following == best:
                break
            best = following
    return best

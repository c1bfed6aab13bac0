"""Shares in percent, as messages tell them."""

import numpy as np


def percent_up_to(share: float) -> str:
    """Return a share as a whole percentage, rounded up: what exceeds a limit is never told to be at it."""
    return f"{np.ceil(100 * share):.0f} %"

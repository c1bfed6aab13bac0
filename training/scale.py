"""The scale at which a network sees k-space: found from what was measured, and so the same in training and at the scanner.

A fully sampled scan has others, such as the largest magnitude of its image. They are for the loss only.
"""

from typing import Any

from ..models.networks.registry import NETWORKS
from ..models.scaling import Scaling

_FALLBACK: Scaling = "zero-filled"


def with_scaling(values: Any) -> Any:
    """Complete a recipe's section that names a network: the scaling of its paper, or else by the zero-filled image.

    So it stands in the checkpoint, and export does the same.
    """
    entry = NETWORKS.get(str(values.get("network"))) if isinstance(values, dict) else None
    if entry is None or values.get("scaling") is not None:
        return values
    needs_one = entry.scaling == "none" and not entry.equivariant and "kspace" in entry.inputs
    return {**values, "scaling": _FALLBACK if needs_one else entry.scaling}


def check_scaling(network: str, scaling: Scaling | None) -> None:
    """Refuse a scaling with which a network would not see in training what it sees at the scanner.

    Raises
    ------
    ValueError
        There is none though the network needs it, or one that cannot be computed from what the network takes.
    """
    entry = NETWORKS[network]
    if "kspace" not in entry.inputs:
        if scaling not in ("none", None):
            raise ValueError(f"network {network!r} takes no k-space, which a scaling could divide; accepted is none")
    elif "mask" not in entry.inputs:
        if scaling != "kspace":
            raise ValueError(f"network {network!r} takes the scaling kspace only, not {scaling!r}")
    elif scaling == "none" and not entry.equivariant:
        free = ", ".join(sorted(name for name, other in NETWORKS.items() if other.equivariant))
        raise ValueError(
            f"scaling 'none' is not for network {network!r}: it would have to see at the scanner the scale of fully sampled "
            f"images, which a scan does not have. Accepted are kspace, calibration, zero-filled and coil-images; networks "
            f"that can do without, as they normalise inside, are {free}"
        )

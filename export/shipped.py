"""The networks whose weights come with Isocenter, as bundles."""

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.folder import Bundle
from ..bundle.manifest import Domain, Uncertainty
from ..bundle.minisign import SecretKey
from .build import SHIPPED_FORMATS, find_current
from .card import with_shipped_card
from .compose import BundlePlan
from .network import plan_network
from .options import ExportOptions, load_options

log: logging.Logger = logging.getLogger("isocenter.export")

WEIGHTS = Path(__file__).parent / "weights"
_USE = "research only; not a medical device"


@dataclass(frozen=True)
class ShippedNetwork:
    """Weights that come with Isocenter.

    Parameters
    ----------
    network
        Name of the network.
    file
        Checkpoint, of this project's own training.
    sense_step
        Weight of the last step, where the network has none itself.
    domain
        What they were trained for.
    data
        What they were trained on, beside the recipe of the same name.
    uncertainty
        File with the calibration of its error, as ``benchmarks/uncertainty.py`` writes it; None: it tells none.
    """

    network: str
    file: Path
    sense_step: float | None = None
    data: str = "simulated scans of the MNI152 template"
    uncertainty: Path | None = None
    domain: Domain = field(
        default=Domain(
            dimensions=("2d",),
            # at less, classical methods are as good, and safer
            acceleration=(2.5, 8),
            acs=(12, 512),
            sampling=("uniform", "random"),
            partial_fourier=(0.95, 1),
            coils=(4, 32),
            matrix=(96, 512),
            anatomy=("brain",),
        )
    )


SHIPPED: dict[str, ShippedNetwork] = {
    "ridge": ShippedNetwork(
        "ridge-net",
        WEIGHTS / "ridge.pt",
        data="simulated scans of photographs and of a head, out of Debian packages",
        uncertainty=WEIGHTS / "ridge-uncertainty.yaml",
        domain=Domain(
            dimensions=("2d",),
            acceleration=(1, 8),
            acs=(12, 512),
            sampling=("uniform", "random"),
            partial_fourier=(0.95, 1),
            # as it was trained; with fewer, total variation is as good
            coils=(4, 64),
            matrix=(64, 640),
        ),
    ),
    "ridge-cine": ShippedNetwork(
        "ridge-cine",
        WEIGHTS / "ridge-cine.pt",
        data="simulated scans of hearts that beat in photographs and in a head, out of Debian packages",
        domain=Domain(
            dimensions=("2d+t",),
            # of fewer frames than are undersampled in turns, none completes the others
            frames=(6, 64),
            acceleration=(1, 8),
            # with fewer lines a frame, what moves comes out still
            net_acceleration=(1, 5.5),
            partial_fourier=(0.95, 1),
            coils=(2, 32),
            matrix=(48, 320),
        ),
    ),
    "varnet-brain": ShippedNetwork("varnet-complex", WEIGHTS / "varnet-brain.pt", sense_step=0.05),
    "modl-brain": ShippedNetwork("modl", WEIGHTS / "modl-brain.pt", sense_step=0.05),
}
"""The shipped networks by the name of their bundle; their recipes have the same names."""


def ensure_shipped(
    folder: Path,
    formats: Sequence[str] = SHIPPED_FORMATS,
    only: Collection[str] | None = None,
    key: SecretKey | None = None,
) -> list[Bundle]:
    """Build bundles of the shipped networks, all or ``only`` some, that are missing, lack a format, or were made from others.

    With a key they are signed, and those that it has not signed are built again.
    """
    return [
        with_shipped_card(_ensure(name, shipped, folder / name, formats, key), key)
        for name, shipped in SHIPPED.items()
        if only is None or name in only
    ]


def plan_shipped(name: str) -> BundlePlan:
    """Plan the bundle of a shipped network, by its name."""
    shipped = SHIPPED[name]
    options = ExportOptions(
        domain=shipped.domain,
        uncertainty=_uncertainty(shipped),
        sense_step=shipped.sense_step,
        licence="MIT",
        training_data=f"{shipped.data}; see the recipe of the same name",
        intended_use=_USE,
    )
    return plan_network(shipped.network, shipped.file, options)


def _uncertainty(shipped: ShippedNetwork) -> Uncertainty | None:
    return None if shipped.uncertainty is None else load_options(shipped.uncertainty).uncertainty


def _ensure(name: str, shipped: ShippedNetwork, folder: Path, formats: Sequence[str], key: SecretKey | None) -> Bundle:
    bundle = find_current(folder, hashlib.sha256(shipped.file.read_bytes()).hexdigest(), formats, key)
    if bundle is not None:
        same_step = bundle.manifest.conventions.sense_step == shipped.sense_step
        if (
            same_step
            and bundle.manifest.domain == shipped.domain
            and bundle.manifest.uncertainty == _uncertainty(shipped)
        ):
            return bundle
        log.info("building bundle %s: its domain, its last step or its uncertainty have changed", name)
    return plan_shipped(name).write(folder, formats, key)

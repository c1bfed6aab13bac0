"""How an evaluation undersamples and judges, and the options of the command line that say so."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...engine import LoadedModel
from ...models.metrics import SSIM_WINDOW, Convention
from ...simulate import sampling
from ...simulate.sampling import Request, SamplingError
from ...training.section import Truth
from ...wire.errors import OptionError

Region = Literal["all", "object"]


@dataclass(frozen=True)
class Protocol:
    """How to undersample, and how to judge.

    Parameters
    ----------
    accelerations
        As the pattern takes them: the distance of equispaced lines, else samples of the grid for each one measured.
    acs
        Calibration lines: whole numbers, or fractions of all lines. Both count for patterns alone, not for a file.
    scans
        Number of slices or series.
    sampling
        A pattern of `simulate.sampling`, or a file.
    seed
        Of scans, masks and the bootstrap.
    convention
        ``fastmri`` or ``slice``, as in `models.metrics.judge`.
    truth
        ``rss``, ``combined`` by coil maps, or ``auto``: ``combined`` where all bundles take maps.
    region
        What is judged: ``all`` pixels, the ``object``, or ``auto``: ``object`` where the truth is ``rss``, which has noise in the
        air where images that are combined by maps have nothing, so that SSIM would tell of the air; else ``all``.
    crop
        ``matrix``: the middle of the image that a reader gets, by the scan's header; ``none``; or pixels along y and x.
    fit_scale
        Whether images are scaled to fit the truth best before they are judged.
    reference
        The method that the others are compared with.
    leave_out
        Whether to go on without files that cannot be used.
    keep_images
        Whether to write all images, in fastMRI's layout of reconstructions.
    tune
        Whether the classical methods are compared with their best strength as well, found on the truth of every scan.
    """

    accelerations: list[float]
    acs: list[float]
    scans: int = 10
    sampling: str = "equispaced"
    seed: int = 1
    convention: Convention = "fastmri"
    truth: Truth | Literal["auto"] = "auto"
    region: Region | Literal["auto"] = "auto"
    crop: tuple[int, int] | Literal["matrix", "none"] = "matrix"
    fit_scale: bool = False
    reference: str = "SENSE"
    leave_out: bool = False
    keep_images: bool = False
    tune: bool = False

    @property
    def from_file(self) -> bool:
        """Whether the mask is that of a file, which has an acceleration and calibration lines of its own."""
        return self.sampling not in sampling.PATTERNS

    @property
    def cells(self) -> list[tuple[float, float]]:
        """Accelerations and calibration lines to ask a pattern for; a file is asked for none."""
        if self.from_file:
            return [(1.0, 0.0)]
        return [(acceleration, acs) for acs in self.acs for acceleration in self.accelerations]

    def truth_for(self, models: dict[str, LoadedModel]) -> Truth:
        """How the coils of the true image are combined: as the bundles do it, unless the option says otherwise."""
        if self.truth != "auto":
            return self.truth
        takes_maps = ["maps" in {spec.name for spec in model.manifest.inputs} for model in models.values()]
        return "combined" if all(takes_maps) else "rss"

    def region_for(self, truth: Truth) -> Region:
        """What is judged, unless the option says so: what the truth allows to compare."""
        return self.region if self.region != "auto" else "object" if truth == "rss" else "all"

    def describe(self, data: str, truth: Truth) -> dict[str, str]:
        """Return what a reader of the tables must know, by name."""
        auto = ", as the bundles combine coils" if self.truth == "auto" else ""
        return {
            "data": data,
            "sampling": f"{self.sampling}, slices of a volume alike, seed {self.seed}",
            "convention": {
                "fastmri": "fastmri (a value per volume: volume maximum, squared errors of the volume, SSIM mean over slices)",
                "slice": "slice (a value per slice, with its own maximum; of a series the mean over frames)",
            }[self.convention],
            "SSIM": "uniform 7 x 7 window, k1 = 0.01, k2 = 0.03",
            "truth": {
                "rss": "rss (root of the sum of squares of the fully sampled coil images)",
                "combined": "combined (fully sampled coil images, combined by ESPIRiT maps or the true ones)",
            }[truth]
            + auto,
            "pixels": {"all": "all of the crop", "object": "inside the object (threshold on the smoothed truth)"}[
                self.region_for(truth)
            ],
            "crop": {"matrix": "the image matrix of the header", "none": "none"}.get(
                str(self.crop), " x ".join(map(str, self.crop))
            ),
            "scale": "fitted to the truth by least squares" if self.fit_scale else "as reconstructed",
        }


def parse_protocol(
    *,
    accelerations: str,
    acs: str,
    scans: int,
    seed: int,
    crop: str,
    fit_scale: bool,
    reference: str,
    leave_out: bool = False,
    keep_images: bool,
    tune: bool = False,
    **names: str,
) -> Protocol:
    """Read the options of the command line.

    Parameters
    ----------
    accelerations, acs
        Numbers, separated by commas.
    crop
        ``matrix``, ``none``, or a size such as ``320`` or ``320x256``.
    scans, seed, fit_scale, reference, leave_out, keep_images, tune
        As in `Protocol`.
    names
        ``sampling``, ``convention``, ``truth`` and ``region``.

    Raises
    ------
    OptionError
        One is not valid; it is named.
    """
    accepted = {
        "convention": get_args(Convention),
        "truth": ("auto", *get_args(Truth)),
        "region": ("auto", *get_args(Region)),
    }
    for name, values in accepted.items():
        if names[name] not in values:
            raise OptionError(f"{names[name]!r} is not known", where=f"option --{name}", accepted=", ".join(values))
    factors, lines = _numbers(accelerations, "--accelerations"), _numbers(acs, "--acs")
    if not all(factor >= 1 for factor in factors):
        raise OptionError(f"{accelerations!r}", where="option --accelerations", accepted="numbers from 1")
    if not all(0 < value < 1 or (value >= 1 and value == round(value)) for value in lines):
        raise OptionError(
            f"{acs!r}", where="option --acs", accepted="whole numbers of lines, or fractions of all lines"
        )
    size = crop.lower().split("x")
    if crop not in ("matrix", "none") and not (len(size) <= 2 and all(part.isdecimal() and int(part) for part in size)):
        raise OptionError(f"{crop!r}", where="option --crop", accepted="matrix, none, or a size such as 320 or 320x256")
    if size[0].isdecimal() and min(map(int, size)) < SSIM_WINDOW:
        raise OptionError(
            f"{crop!r} is smaller than the window of SSIM", where="option --crop", accepted=f"sizes from {SSIM_WINDOW}"
        )
    try:
        pattern = sampling.current_name(names["sampling"])
        for factor in factors:
            sampling.find_pattern(pattern).check(Request(2**16, 2**16, acceleration=factor))
    except SamplingError as error:
        raise OptionError(error.what, where="option --sampling", accepted=error.accepted) from error
    return Protocol(
        factors,
        lines,
        scans,
        pattern,
        seed,
        convention="slice" if names["convention"] == "slice" else "fastmri",
        truth="auto" if names["truth"] == "auto" else "rss" if names["truth"] == "rss" else "combined",
        region="auto" if names["region"] == "auto" else "object" if names["region"] == "object" else "all",
        crop="matrix" if crop == "matrix" else "none" if crop == "none" else (int(size[0]), int(size[-1])),
        fit_scale=fit_scale,
        reference=reference,
        leave_out=leave_out,
        keep_images=keep_images,
        tune=tune,
    )


def _numbers(text: str, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(f"{text!r}", where=f"option {option}", accepted="numbers, separated by commas") from error
    if not values or not np.isfinite(values).all():
        raise OptionError(f"{text!r}", where=f"option {option}", accepted="numbers, separated by commas")
    return list(dict.fromkeys(values))

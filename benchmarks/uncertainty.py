"""Whether a bundle's standard deviations are those of its errors, on fully sampled scans; and their calibration.

Every scan of a folder is undersampled in several ways, as it is and with noise added, and reconstructed with coil maps of what is
left, as the service does it. An error is the difference of the magnitude from that of the fully sampled scan as it was measured,
whose coils are combined by maps of all of its lines: noise of lines that were left out is an error that no method avoids. Told is
how many pixels of the object lie within one, two and three standard deviations, and both are drawn against one another. Sizes of
errors are relative to the median of the object. Told is, too, whether images whose error is visible say so (``IsocenterError``).

Run with ``python benchmarks/uncertainty.py SCANS [--bundle ridge] [--accelerations 3,4,6] [--acs 12,24] [--snr 0,20,8]
[--sampling equispaced] [--every 1] [--plot errors.png]``. With ``--fit OUT.yaml --checkpoint WEIGHTS`` the error of ridge-net's
weights is calibrated instead, by maximum likelihood, and written as a configuration of ``isocenter export``; what comes with
Isocenter was made with ``--accelerations 2,3,4,6,8 --acs 12,24,40 --sampling equispaced,uniform-random --every 4``.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import yaml
from isocenter.bundle.folder import sha256
from isocenter.bundle.manifest import Domain, Uncertainty
from isocenter.commands.evaluation.methods import open_bundles
from isocenter.commands.evaluation.volume import object_masks
from isocenter.engine import LoadedModel
from isocenter.export.importers.load import load_network
from isocenter.flow.deferred import Deferred, settled
from isocenter.gadgets.domain import uncalibrated
from isocenter.gadgets.error_check import ACCEPTED, local_error
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.model_inputs import arrange_inputs, arrange_output
from isocenter.gadgets.scan import Scan
from isocenter.models.error_map import error_terms
from isocenter.models.fourier import ifft
from isocenter.models.networks.ridge_net import RidgeNet
from isocenter.simulate import sampling
from isocenter.simulate.sampling import Request, SamplingError
from isocenter.training.files.folder import FileScans
from isocenter.training.samples import block_of_lines, maps_of_truth, measured_maps, true_image
from isocenter.training.seen import Seen, joined, seen_in
from isocenter.wire.header import NO_HEADER
from matplotlib.figure import Figure
from torch import Tensor

PIXELS = 3000
"""Of each comparison, what a fit and a plot get."""
LARGEST = 8
"""Acceleration, as the service counts it, up to which the network may be used: random lines lie farther apart than on average."""
BINS = np.geomspace(1e-3, 1, 31)


@dataclass(frozen=True)
class Case:
    """A way to undersample a scan: an SNR of 0 adds no noise."""

    acceleration: float
    acs: int
    snr: float
    pattern: str

    def __str__(self) -> str:
        noise = f", SNR {self.snr:g}" if self.snr else ""
        return f"R {self.acceleration:g} {self.pattern}, {self.acs} lines{noise}"


@dataclass(frozen=True)
class Comparison:
    """What came of a case: errors [pixels] in the object, variances [terms, pixels] that tell them, both over its median."""

    scan: str
    case: Case
    errors: Tensor
    variances: Tensor
    seen: Seen
    outside: str
    largest: tuple[float, float]
    """Largest error of a neighbourhood over the brightest pixel, true and told."""

    def deviations(self, shares: Tensor) -> Tensor:
        """Return standard deviations [pixels] for shares [terms] of the variances."""
        return (shares @ self.variances).sqrt()


Told = Callable[[Kspace], tuple[Tensor, Tensor, str]]
"""From a block to the magnitude [y, x], variances of its error [terms, y, x], and where it lies outside of what is calibrated."""


def by_bundle(model: LoadedModel) -> Told:
    """What a bundle returns at the scanner."""
    manifest = model.manifest
    if manifest.uncertainty is None:
        raise SystemExit(f"bundle {manifest.name!r} tells no uncertainty")

    def told(block: Kspace) -> tuple[Tensor, Tensor, str]:
        outputs = model.infer(settled(arrange_inputs(manifest, block)))
        image, error = (arrange_output(manifest, outputs[name], block, name)[0, 0] for name in ("image", "error"))
        return image.abs(), error.square()[None], uncalibrated(manifest, block, Scan(NO_HEADER))

    return told


def by_network(network: RidgeNet) -> Told:
    """The terms of which the error of a network's weights is to be made."""

    def told(block: Kspace) -> tuple[Tensor, Tensor, str]:
        kspace, maps = (
            torch.view_as_real(x[None, :, 0].contiguous()) for x in (block.data[:, 0], block.coil_maps.get())
        )
        with torch.inference_mode():
            image, start = network.unroll(kspace, block.mask.to(torch.float32).reshape(1, 1, -1, 1, 1), maps)
            variances = error_terms(image, start)[:, 0] * start.scale.square()[0, 0, 0]
        return (image * start.scale)[0].square().sum(dim=-1).sqrt(), variances, ""

    return told


def compare(told: Told, folder: Path, cases: list[Case], every: int) -> Iterator[Comparison]:
    """Undersample all scans in all ways, or in one of so many, drawn anew for each scan."""
    scans = FileScans(folder)
    for index in range(len(scans)):
        scan = scans.scan(index)
        truth = true_image(ifft(scan.kspace, [-2, -1]), maps_of_truth(scan), "combined").abs()
        inside = object_masks([truth[None]])[0][0]
        median = truth[inside].median()
        chosen = np.random.default_rng(index).permutation(len(cases))[: len(cases) // every]
        for number, case in ((number, cases[number]) for number in sorted(chosen)):
            random = np.random.default_rng((index, int(number)))
            request = Request(*scan.kspace.shape[1:], 1, case.acceleration, case.acs)
            try:
                lines = torch.from_numpy(sampling.draw(case.pattern, request, random))
            except SamplingError:  # a small scan has no so many lines
                continue
            if case.acceleration > 2 * len(scan.kspace):  # nobody measures so little
                continue
            noise = torch.from_numpy(random.standard_normal((*scan.kspace.shape, 2), np.float32))
            added = torch.view_as_complex(noise) * (median / case.snr) if case.snr else 0
            block = block_of_lines(scan.kspace + added, lines)
            block.coil_maps = Deferred.known(measured_maps(block)[:, None])
            image, variances, outside = told(block)
            top = float(image.max())
            yield Comparison(
                scan.name,
                case,
                (image - truth)[inside] / median,
                variances[:, inside] / median.square(),
                seen_in(
                    {"kspace": torch.view_as_real(block.data[None, :, 0, 0]), "mask": lines[None, :, :, None, None]}
                ),
                outside,
                largest=(largest((image - truth) * inside) / top, largest(variances.sum(dim=0).sqrt()) / top),
            )


def largest(error: Tensor) -> float:
    """Return the largest error of a neighbourhood of [y, x]."""
    return float(local_error(error[None, None]).max())


def some(values: Tensor) -> Tensor:
    """Take some pixels, the same of all values."""
    chosen = torch.randperm(values.shape[-1], generator=torch.Generator().manual_seed(0))[:PIXELS]
    return values[..., chosen]


def coverage(errors: Tensor, deviations: Tensor) -> list[float]:
    """Return how many errors are within one, two and three standard deviations."""
    return [float((errors.abs() <= times * deviations).to(torch.float64).mean()) for times in (1, 2, 3)]


def likeliest(comparisons: list[Comparison]) -> Tensor:
    """Return the shares of the variances [terms] under which normally distributed errors are likeliest."""
    variances = torch.cat([some(each.variances) for each in comparisons], dim=1).double()
    squares = torch.cat([some(each.errors) for each in comparisons]).double().square()
    logarithms = torch.full((len(variances),), -2.0, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logarithms], max_iter=300, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        variance = logarithms.exp() @ variances + 1e-12
        result = (variance.log() + squares / variance).mean()
        result.backward()
        return result

    search.step(cost)
    return logarithms.detach().exp().float()


def report(comparisons: Iterator[Comparison]) -> list[Comparison]:
    """Print the figures of each, of each scan, and of all together; a pixel counts as much in every comparison."""
    done: list[Comparison] = []
    print("within 1, 2, 3 standard deviations | error, and predicted, root of mean squares")
    for each in comparisons:
        done.append(each)
        _print(f"{each.scan}: {each.case}", [each])
        if each.outside:
            print(f"    {each.outside}")
    for scan in dict.fromkeys(each.scan for each in done):
        _print(f"{scan}, all", [each for each in done if each.scan == scan])
    _print("all", done)
    shares = _coverage(done)
    bad, good = ([each.largest for each in done if (each.largest[0] > ACCEPTED) == is_bad] for is_bad in (True, False))
    unmarked = [true for true, told in bad if told <= ACCEPTED]
    print(
        f"figure uncertainty.bad_unmarked {len(unmarked)}  (of {len(bad)}, of at most {max(unmarked, default=0):.3f})"
    )
    print(f"figure uncertainty.good_marked {sum(told > ACCEPTED for _, told in good)}  (of {len(good)})")
    print("\n".join(f"figure uncertainty.within_{times} {share:.3f}" for times, share in enumerate(shares, start=1)))
    return done


def _print(label: str, comparisons: list[Comparison]) -> None:
    true, told = (
        float(np.sqrt(np.mean([float(value(each).mean()) for each in comparisons])))
        for value in (lambda each: each.errors.square(), lambda each: each.variances.sum(dim=0))
    )
    shares = " ".join(f"{share:.3f}" for share in _coverage(comparisons))
    print(f"{shares} | {true:.4f} {told:.4f} | {label}", flush=True)


def _coverage(comparisons: list[Comparison]) -> list[float]:
    one = torch.ones(1)
    return [float(x) for x in np.mean([coverage(each.errors, each.deviations(one)) for each in comparisons], axis=0)]


def draw(comparisons: list[Comparison], file: Path) -> None:
    """Draw true against predicted errors: of the pixels of a scan whose prediction is alike, the root of the mean square."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="predicted error / median of the object", ylabel="true error, root of the mean square"
    )
    axes.loglog(BINS[[0, -1]], BINS[[0, -1]], color="0.6", label="as predicted")
    for scan in dict.fromkeys(each.scan for each in comparisons):
        own = [each for each in comparisons if each.scan == scan]
        predicted = torch.cat([some(each.deviations(torch.ones(1))) for each in own]).numpy()
        errors = torch.cat([some(each.errors) for each in own]).numpy()
        places = np.digitize(predicted, BINS)
        bins = [place for place in np.unique(places) if (places == place).sum() >= PIXELS / 10]
        axes.loglog(
            [np.sqrt((predicted[places == place] ** 2).mean()) for place in bins],
            [np.sqrt((errors[places == place] ** 2).mean()) for place in bins],
            "o-",
            markersize=3,
            label=scan.partition(".")[0],
        )
    axes.set(xlim=(3e-3, 0.5), ylim=(3e-3, 0.5), aspect="equal")
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=110)
    print(f"{file}: predicted against true errors")


def fit(comparisons: Iterator[Comparison], checkpoint: Path) -> Uncertainty:
    """Calibrate, and tell how many pixels are covered in scans that were left out of the fit in turn."""
    done = []
    seen: Seen = {}
    for each in comparisons:
        if each.seen["sampling"] != ["full"] and each.seen["acceleration"][1] <= LARGEST:
            done.append(each)
            seen = joined(seen, each.seen)
            print(f"{each.scan}: {each.case}", flush=True)
    scans = list(dict.fromkeys(each.scan for each in done))
    shares: list[list[float]] = []
    for scan in scans:
        others = likeliest([each for each in done if each.scan != scan])
        own = [coverage(each.errors, each.deviations(others)) for each in done if each.scan == scan]
        shares += own
        print(f"{scan}: {np.round(np.mean(own, axis=0), 3)} by the others, whose shares are {others.numpy().round(3)}")
    noise, missing, floor = (round(float(share), 4) for share in likeliest(done))
    return Uncertainty(
        weights=sha256(checkpoint),
        noise=noise,
        missing=missing,
        floor=floor,
        domain=Domain(
            dimensions=("2d",),
            acceleration=tuple(seen["acceleration"]),
            acs=tuple(seen["acs"]),
            sampling=tuple(kind for kind in seen["sampling"] if kind != "full"),
            partial_fourier=(0.95, 1),
            coils=tuple(seen["coils"]),
        ),
        scans=len(scans),
        coverage=tuple(round(float(share), 3) for share in np.mean(shares, axis=0)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="folder of fully sampled scans")
    parser.add_argument("--bundle", type=Path, default=Path("ridge"))
    parser.add_argument("--accelerations", default="3,4,6")
    parser.add_argument("--acs", default="12,24")
    parser.add_argument("--snr", default="0,20,8")
    parser.add_argument("--sampling", default="equispaced")
    parser.add_argument("--every", type=int, default=1, help="take one way to undersample of so many")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    lists = (given.accelerations, given.acs, given.snr)
    values = product(*([float(text) for text in each.split(",")] for each in lists), given.sampling.split(","))
    cases = [Case(acceleration, int(acs), snr, pattern) for acceleration, acs, snr, pattern in values]
    if given.fit is not None:
        network = load_network("ridge-net", given.checkpoint, {}).module.eval()
        calibrated = fit(compare(by_network(network), given.scans, cases, given.every), given.checkpoint)
        text = yaml.safe_dump({"uncertainty": calibrated.model_dump(mode="json")}, sort_keys=False)
        given.fit.write_text(text, encoding="utf-8")
        print(text)
        return
    (model,) = open_bundles([given.bundle]).values()
    done = report(compare(by_bundle(model), given.scans, cases, given.every))
    if given.plot is not None:
        draw(done, given.plot)


if __name__ == "__main__":
    main()

"""What tests of training share: a network that a recipe trained, exported, and its validation's scans as a service has them."""

import csv
from pathlib import Path

import isocenter
import numpy as np
import torch
from isocenter.export.importers.load import load_network
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled
from isocenter.service.settings import Settings
from isocenter.training.run import datasets, train
from isocenter.training.scans import write_scan

FACTOR = 3e-6
"""Of k-space at the scanner, of whose scale no network is told."""


def train_and_export(recipe, folder: Path) -> dict[str, float]:
    """Return the validation's figures of a run in ``folder/run``, whose bundle is ``folder/bundles/trained``."""
    train(recipe, folder / "run", progress=False)
    export(recipe.network, folder / "run" / "weights.pt", folder)
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("validation_loss")]
    return {name: float(rows[-1][name]) for name in ("validation_loss", "ssim", "psnr", "nmse")}


def export(network: str, weights: Path, folder: Path) -> None:
    export_network(network, weights, folder / "bundles" / "trained", ExportOptions(), ["torchscript"])


def pipeline(folder: Path) -> Path:
    """The steps of network.xml, but for its fallback and what leaves less than a complex image."""
    names = ("remove_oversampling", "prewhiten", "estimate_coil_maps", "reconstruct", "adjust_field_of_view", "finish")
    steps = "".join(f'<gadget name="{name}"/>' for name in names)
    path = folder / "complex.xml"
    path.write_text(
        "<configuration><version>2</version>"
        "<readers><reader><dll>gadgetron_mricore</dll>"
        "<classname>GadgetIsmrmrdAcquisitionMessageReader</classname></reader></readers>"
        "<writers><writer><dll>gadgetron_mricore</dll><classname>MRIImageWriter</classname></writer></writers>"
        '<stream><external><connect address="127.0.0.1" port="9012"/><configuration>'
        f'<gadget name="accumulate"><property name="frames" value="auto"/></gadget>{steps}'
        "</configuration></external></stream></configuration>"
    )
    return path


def write(sample, path: Path) -> Path:
    write_scan(path, sample, FACTOR)
    return path


def stream(sample, folder: Path, *, series: bool = False) -> torch.Tensor:
    """What the bundle makes at the scanner of a sample, [(frames,) y, x], at the sample's scale."""
    # a published size takes long to load on a busy machine
    settings = Settings(home=folder / "home", bundles=(folder / "bundles",), deadline=600)
    scan = write(sample, folder / "scan.h5")
    images = isocenter.reconstruct(scan, pipeline(folder), settings=settings, bundle="trained")
    assert {image.meta["IsocenterBundle"] for image in images} == {"trained"}
    assert not any("IsocenterOutsideDomain" in image.meta for image in images)
    frames = np.stack([image.data[0, 0] for image in images])
    return torch.from_numpy((frames if series else frames[0]) / np.float32(FACTOR))


def as_returned(image: torch.Tensor) -> torch.Tensor:
    """An image as networks return it, in a batch of one: complex numbers as pairs."""
    return (torch.view_as_real(image.contiguous()) if image.is_complex() else image)[None]


def validation(recipe):
    """The validation's samples."""
    samples = datasets(recipe)[1]
    return [samples[index] for index in range(len(samples))]


def network_of(recipe, weights: Path):
    """The trained network, from a sample to its image."""
    entry = NETWORKS[recipe.network]
    network = scaled(load_network(recipe.network, weights).module, recipe.scaling, entry.inputs)

    @torch.inference_mode()
    def run(sample):
        return network(*(sample[name][None] for name in entry.inputs))

    return run

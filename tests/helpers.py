"""What several tests need."""

import ismrmrd
import numpy as np
from isocenter.gadgets.scan import Scan


def collect(gadgets, scan_or_simulation, items=None, **scan_options):
    """Run items through (gadget, options) pairs and return what comes out, with the scan."""
    simulation = scan_or_simulation
    scan = Scan(simulation.header, **scan_options)
    stream = iter(simulation.items if items is None else items)
    for gadget, options in gadgets:
        stream = gadget(stream, scan, **options)
    return list(stream), scan


def random_acquisition(channels=2, samples=8, trajectory=0, seed=0, **header):
    random = np.random.default_rng(seed)
    data = (random.standard_normal((channels, samples)) + 1j * random.standard_normal((channels, samples))).astype(
        np.complex64
    )
    points = random.standard_normal((samples, trajectory)).astype(np.float32) if trajectory else None
    return ismrmrd.Acquisition.from_array(data, points, **header)

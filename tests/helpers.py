"""What several tests need."""

import threading
import time

import ismrmrd
import numpy as np
import pytest
import torch
from isocenter.engine import Result
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import _dynamic_kspace
from isocenter.wire import Close, ConfigFile, Header, encode


def gadgetron(module):
    """A module of Gadgetron's own package; whoever asks for it is skipped where it is not installed."""
    return pytest.importorskip(
        f"gadgetron.{module}", reason="Gadgetron's package is not here: make setup GADGETRON=yes"
    )


def joined(*messages):
    """Messages as they are on the wire."""
    return b"".join(bytes(part) for message in messages for part in encode(message))


def stream(scan, config="rss.xml", items=None):
    """A whole scan as a client sends it; with other items, or its own."""
    return joined(ConfigFile(config), Header(scan.header.encode()), *(scan.items if items is None else items), Close())


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


class Recorder:
    """A device that notes what it is given and waits until it may go on."""

    def __init__(self, name="recorder", batch=1):
        self.name = name
        self.size = batch
        self.runs = []
        self.go = threading.Event()

    def load(self, bundle):
        pass

    def batch(self, bundle):
        return self.size

    def pace(self, bundle):
        return 0.0

    def prepare(self, bundle, sizes):
        self.runs.append((bundle, sizes))

    def compute(self, bundle, inputs):
        self.go.wait(20)
        self.runs.append([float(value) for value in inputs["x"].flatten()])
        entries = len(inputs["x"])
        return Result({"y": 2 * inputs["x"]}, "recorder", self.name, 0.0, parts=(entries,), last=entries)

    def reset(self):
        pass

    def is_alive(self):
        return True

    def close(self):
        pass


def numbered(value, shape=(1, 1)):
    return {"x": torch.full(shape, float(value))}


def rss_inputs(**sizes):
    return make_case(METHODS["rss"].inputs, {"coils": 2, "ky": 16, "kx": 16, **sizes})


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def frame_kspace(protocol, frame=0):
    """Noise-free k-space [slices, coils, kz, ky, kx] of a simulated scan's frame."""
    return _dynamic_kspace(protocol, protocol.dynamics[frame])


def every(lines, acceleration=1, middle=0):
    """Mask bool [1, ky] of every so many-th line, and of so many around the middle."""
    mask = torch.zeros(1, lines, dtype=torch.bool)
    mask[:, lines // 2 % acceleration :: acceleration] = True
    mask[:, lines // 2 - middle // 2 : lines // 2 + middle // 2] = True
    return mask


def noise(*shape, seed=0):
    """Complex noise of unit variance, complex64."""
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))

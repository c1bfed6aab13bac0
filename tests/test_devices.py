"""Everything that runs on a GPU keeps to the device of its inputs; shown without one, on tensors that have a device and no data.

Torch's fake tensors compute shapes, types and devices, and raise an error where two devices meet, as CUDA does.
"""

import pytest
import torch
from helpers import collect, rss_inputs
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS
from isocenter.export.half_precision import in_precision
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.gadgets import load
from isocenter.gadgets.early import chain_context
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.models import coil_maps, map_ends
from isocenter.models.coil_maps import adaptive, espirit
from isocenter.models.networks.last_step import FinishedBySense
from isocenter.models.networks.registry import NETWORKS
from isocenter.models.scaling import scaled
from isocenter.simulate.scan import ScanProtocol, simulate
from test_networks import SMALL
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

ELSEWHERE = "lazy:0"
"""A device other than the CPU whose tensors can be made without its library."""
SIZES = {"batch": 2, "coils": 3, "frames": 4, "kz": 1, "ky": 64, "kx": 48}


def elsewhere(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=ELSEWHERE)


def outputs_elsewhere(module, inputs):
    """Run a module on another device; return the devices of its outputs."""
    module.eval()
    with FakeTensorMode():
        state = {name: elsewhere(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
        result = torch.func.functional_call(module, state, tuple(elsewhere(tensor) for tensor in inputs.values()))
    return {str(output.device) for output in (result if isinstance(result, tuple) else (result,))}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "loupe"])
def test_networks_keep_to_the_device(name):
    network = NETWORKS[name]
    specs, _ = network_specs(network, ExportOptions(matrix=(256, 256) if network.output == "logits" else None))
    sizes = {**SIZES, "ky": 256, "kx": 256} if network.output == "logits" else SIZES
    module = scaled(network.build(**SMALL.get(name, {})), network.scaling, network.inputs)
    assert outputs_elsewhere(module, make_case(specs, sizes)) == {ELSEWHERE}


@pytest.mark.parametrize("name", METHODS)
def test_classical_methods_keep_to_the_device(name):
    method = METHODS[name]
    few = {key: min(value, 2) if "iterations" in key else value for key, value in method.configuration.items()}
    module = method.make(**few)
    assert outputs_elsewhere(module, make_case(method.inputs, SIZES)) == {ELSEWHERE}


def test_the_last_step_and_half_precision_keep_to_the_device():
    network = NETWORKS["modl"]
    module = FinishedBySense(scaled(network.build(**SMALL["modl"]), network.scaling, network.inputs), 0.05)
    specs, _ = network_specs(network, ExportOptions())
    assert outputs_elsewhere(in_precision(module, "fp16"), make_case(specs, SIZES)) == {ELSEWHERE}


@pytest.mark.parametrize("estimate", [espirit, adaptive])
def test_coil_maps_keep_to_the_device(estimate, monkeypatch):
    monkeypatch.setattr(map_ends, "_interpolation", map_ends._interpolation.__wrapped__)  # it keeps tensors of one kind
    # what depends on values: both ways are gone, and no value is known
    monkeypatch.setattr(map_ends.ComputedMaps, "alike", lambda *_: False)
    monkeypatch.setattr(coil_maps, "misfit_energy", lambda *inputs: len({each.device for each in inputs}) - 1)
    with FakeTensorMode(shape_env=ShapeEnv()):
        region = torch.empty((4, 1, 20, 24), dtype=torch.complex64, device=ELSEWHERE)
        maps = estimate(region, (1, 64, 48))
    assert str(maps.device) == ELSEWHERE
    assert maps.shape == (4, 1, 64, 48)


@pytest.mark.parametrize("early", [False, True])
def test_blocks_stay_on_the_host(early):
    """Buffered, whitened and cropped, while the lines come or afterwards: a card that is lost must not take them with it."""
    recorded = simulate(ScanProtocol(matrix=48, coils=4, acceleration=2, noise=0.1, slices=2))
    scan = Scan(recorded.header, device=ELSEWHERE)
    steps = [(load(name), {}) for name in ("accumulate", "prewhiten", "remove_oversampling")]
    context = chain_context(steps, scan, begin_maps=False) if early else {}
    stream = iter(recorded.items)
    for step, _ in steps:
        stream = step(stream, scan, **{name: context[name] for name in step.from_chain & context.keys()})
    blocks = [item for item in stream if isinstance(item, Kspace)]
    assert [block.data.shape for block in blocks] == [(4, 1, 1, 48, 48)] * 2
    assert {str(tensor.device) for block in blocks for tensor in (block.data, block.mask)} == {"cpu"}
    assert [block.whitened for block in blocks] == [early] * 2


def test_coil_maps_that_a_device_cannot_compute_are_computed_on_the_cpu(caplog):
    recorded = simulate(ScanProtocol(matrix=48, coils=4, acceleration=2, noise=0.1))
    steps = [(load(name), {}) for name in ("accumulate", "estimate_coil_maps")]
    (*_, block), _ = collect(steps, recorded)
    (*_, other), _ = collect(steps, recorded, device=ELSEWHERE)
    assert torch.equal(other.coil_maps.get(), block.coil_maps.get())
    assert f"coil maps cannot be computed on {ELSEWHERE}" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card; test_cuda.py loses it")
class TestACardThatDoesNotAnswer:
    def test_the_cpu_takes_its_place_and_the_result_says_so(self, make_engine, caplog):
        engine = make_engine(devices=["cuda:0"])
        result = engine.submit("rss", rss_inputs()).result(60)
        assert (result.device, result.stands_in) == ("cpu", "cuda:0 is lost")
        assert engine.device == torch.device("cpu")
        assert "cuda:0 is lost until the service is started again; the CPU takes its place" in caplog.text
        assert not engine.close()  # the process is to leave at once

    def test_other_devices_do_its_work(self, make_engine):
        engine = make_engine(devices=["cuda:0", "cpu"])
        results = [engine.submit("rss", rss_inputs()).result(60) for _ in range(3)]
        assert {(result.device, result.stands_in) for result in results} == {("cpu", "")}
        assert engine.devices[0].device == torch.device("cuda:0")

    def test_of_several_that_are_lost_one_is_replaced(self, make_engine):
        engine = make_engine(devices=["cuda:0", "cuda:1"])
        assert engine.submit("rss", rss_inputs()).result(60).device == "cpu"
        assert sorted(str(device.device.type) for device in engine.devices) == ["cpu", "cuda"]

    def test_images_are_marked_and_the_client_is_told(self, make_engine, small_scan):
        engine = make_engine(devices=["cuda:0"])
        steps = [(load("accumulate"), {}), (load("reconstruct"), {"bundle": "rss"})]
        (*_, image), scan = collect(steps, small_scan, engine=engine, device=engine.device)
        assert image.meta["IsocenterDevice"] == "cpu"
        assert image.meta["IsocenterFallback"] == "cpu made the images, as cuda:0 is lost"
        assert image.meta["ImageComment"].endswith("(fallback)")
        assert "as cuda:0 is lost" in scan.problems["device"]

"""Everything that runs on a GPU keeps to the device of its inputs; shown without one, on tensors that have a device and no data.

Torch's fake tensors compute shapes, types and devices, and raise an error where two devices meet, as CUDA does.
"""

import pytest
import torch
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS
from isocenter.export.half_precision import in_precision
from isocenter.export.network import network_specs
from isocenter.export.options import ExportOptions
from isocenter.gadgets import load
from isocenter.gadgets.early import chain_context
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
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
def test_coil_maps_keep_to_the_device(estimate):
    with FakeTensorMode(shape_env=ShapeEnv()):
        region = torch.empty((4, 1, 20, 24), dtype=torch.complex64, device=ELSEWHERE)
        maps = estimate(region, (1, 64, 48))
    assert str(maps.device) == ELSEWHERE
    assert maps.shape == (4, 1, 64, 48)


@pytest.mark.parametrize("early", [False, True])
def test_blocks_keep_to_the_device(early):
    """Buffered, whitened and cropped, while the lines come or afterwards."""
    recorded = simulate(ScanProtocol(matrix=48, coils=4, acceleration=2, noise=0.1, slices=2))
    scan = Scan(recorded.header, device=ELSEWHERE)
    steps = [(load(name), {}) for name in ("accumulate", "prewhiten", "remove_oversampling")]
    context = chain_context(steps, scan, begin_maps=False) if early else {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        stream = iter(recorded.items)
        for step, _ in steps:
            stream = step(stream, scan, **{name: context[name] for name in step.from_chain & context.keys()})
        blocks = [item for item in stream if isinstance(item, Kspace)]
    assert [block.data.shape for block in blocks] == [(4, 1, 1, 48, 48)] * 2
    assert {str(tensor.device) for block in blocks for tensor in (block.data, block.mask)} == {ELSEWHERE}
    assert [block.whitened for block in blocks] == [early] * 2

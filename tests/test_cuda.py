"""What only a card can show: streams, threads, memory that runs out, and a card that fails for good."""

import copy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import collect
from isocenter.bundle.folder import Bundle, relative_error
from isocenter.engine import Engine
from isocenter.engine.commission import commission
from isocenter.engine.model import LoadedModel
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS
from isocenter.export.shipped import SHIPPED
from isocenter.gadgets import load
from isocenter.models.coil_maps import adaptive, espirit
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.items import Image
from test_networks import SMALL, small_network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

CARD = torch.device("cuda:0")
SIZES = {"batch": 2, "coils": 3, "frames": 4, "ky": 64, "kx": 48}
SLICE = {"batch": 1, "coils": 8, "frames": 8, "kz": 1, "ky": 128, "kx": 128}
ACCELERATED = ScanProtocol(matrix=96, coils=6, slices=3, acceleration=3, noise=0.2)
LOSE_THE_CARD = """
import os
import sys
from pathlib import Path
import torch
from isocenter.engine import Engine
from isocenter.export.cases import make_case
from isocenter.export.classical import METHODS

if __name__ == "__main__":
    engine = Engine([Path(sys.argv[1])], devices=["cuda:0"])
    inputs = make_case(METHODS["rss"].inputs, {"coils": 2, "ky": 32, "kx": 32})
    before = engine.submit("rss", inputs).result(60)
    try:
        torch.zeros(8, device="cuda")[torch.tensor([10**6], device="cuda")].sum().item()
    except RuntimeError as error:
        print(type(error).__name__, str(error).splitlines()[0])
    after = engine.submit("rss", inputs).result(60)
    print(torch.allclose(before.outputs["image"], after.outputs["image"], atol=1e-4 * float(before.outputs["image"].max())))
    print(before.device, repr(before.stands_in), after.device, repr(after.stands_in))
    del before, after
    print("results are freed", flush=True)
    closed = engine.close()
    print("closed", closed, flush=True)
    if not closed:
        os._exit(0)
"""


@pytest.fixture(autouse=True)
def exact_convolutions():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def little_memory():
    """Give this process only so much of the card; back at the end."""
    total = torch.cuda.get_device_properties(CARD).total_memory

    def limit(size):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total, CARD)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, CARD)
    torch.cuda.empty_cache()


def images(engine, steps):
    recorded = simulate(ACCELERATED)
    chain = [(load(name), options) for name, options in steps.items()]
    items, scan = collect(chain, recorded, engine=engine, device=engine.device)
    assert not scan.problems
    return [item for item in items if isinstance(item, Image)]


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_as_exact_as_on_the_cpu(name):
    module, specs = small_network(name)
    inputs = make_case(specs, SIZES).values()
    with torch.inference_mode():
        truth = {"image": copy.deepcopy(module).double()(*(value.double() for value in inputs))}
        on_cpu = {"image": module(*inputs)}
        on_card = {"image": module.to(CARD)(*(value.to(CARD) for value in inputs)).cpu()}
    error = relative_error(on_card, truth)
    assert error <= max(4 * relative_error(on_cpu, truth), 1e-5), error


@pytest.mark.parametrize("name", [*METHODS, *SHIPPED])
def test_bundles_pass_their_probe_and_are_as_exact_as_on_the_cpu(bundles, name):
    bundle = Bundle.open(bundles / name)
    inputs = make_case(bundle.manifest.inputs, SLICE, acs=16, spacing=3, phantom=True)
    expected = LoadedModel(bundle, torch.device("cpu"), "torchscript").infer(inputs)
    runtimes = commission(bundle, CARD)
    assert runtimes
    for runtime in runtimes.values():
        outputs = runtime.infer(inputs)
        assert {tensor.device.type for tensor in outputs.values()} == {"cpu"}
        assert relative_error(outputs, expected) <= bundle.manifest.tolerance, runtime.description


@pytest.mark.parametrize("name", ["sense", "modl-brain"])
def test_what_is_recorded_computes_what_is_launched_step_by_step(bundles, name):
    bundle = Bundle.open(bundles / name)
    plain, recorded = (LoadedModel(bundle, CARD, runtime) for runtime in ("torchscript", "torchscript-graph"))
    assert recorded.runtime == "torchscript-graph"
    cases = [make_case(bundle.manifest.inputs, {**SLICE, "ky": ky}, phantom=True) for ky in (96, 128, 96, 160)]
    expected = [plain.infer(case) for case in cases]
    for _ in range(2):
        for case, outputs in zip(cases, expected, strict=True):
            assert relative_error(recorded.infer(case), outputs) < 1e-6


def test_what_others_do_on_the_card_meanwhile_is_not_recorded(bundles):
    bundle, done = Bundle.open(bundles / "modl-brain"), threading.Event()
    plain = LoadedModel(bundle, CARD, "torchscript")
    case = make_case(bundle.manifest.inputs, SLICE, phantom=True)
    expected = plain.infer(case)

    def keep_busy():
        while not done.is_set():
            assert relative_error(plain.infer(case), expected) < 1e-6
            LoadedModel(bundle, CARD, "torchscript")

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_busy) for _ in range(2)]
        try:
            for _ in range(5):
                assert relative_error(LoadedModel(bundle, CARD, "torchscript-graph").infer(case), expected) < 1e-6
        finally:
            done.set()
        for each in busy:
            each.result()


def test_a_run_waits_for_what_makes_its_inputs_on_the_card(bundles):
    model = LoadedModel(Bundle.open(bundles / "rss"), CARD, "torchscript")
    kspace = make_case(METHODS["rss"].inputs, SLICE)["kspace"]
    expected = model.infer({"kspace": kspace})["image"]
    large = torch.randn(8192, 8192, device=CARD)
    source, late = kspace.to(CARD), torch.zeros_like(kspace, device=CARD)
    for _ in range(3):
        late.zero_()
        for _ in range(4):
            large @ large
        late.copy_(source)
        assert torch.equal(model.infer({"kspace": late})["image"], expected)


def test_threads_may_share_a_model(bundles):
    model = LoadedModel(Bundle.open(bundles / "rss"), CARD, "torchscript")
    cases = [make_case(METHODS["rss"].inputs, SLICE, acs=acs) for acs in range(4, 12)]
    expected = [model.infer(case)["image"] for case in cases]

    def repeat(index):
        return all(torch.equal(model.infer(cases[index])["image"], expected[index]) for _ in range(20))

    with ThreadPoolExecutor(len(cases)) as pool:
        assert all(pool.map(repeat, range(len(cases))))
    assert torch.cuda.current_stream(CARD) == torch.cuda.default_stream(CARD)


def test_a_batch_without_memory_is_split(bundles, little_memory):
    model = LoadedModel(Bundle.open(bundles / "rss"), CARD, "torchscript")
    inputs = make_case(METHODS["rss"].inputs, {**SLICE, "batch": 16, "ky": 256, "kx": 256})
    expected = model.compute(inputs)
    assert expected.parts == (16,)
    used = torch.cuda.memory_allocated(CARD)
    little_memory(used + 2 * inputs["kspace"].nbytes)
    result = model.compute(inputs)
    assert len(result.parts) > 1
    assert sum(result.parts) == 16
    assert relative_error(result.outputs, expected.outputs) < 1e-5


def test_what_the_card_has_no_memory_for_is_computed_on_the_cpu(bundles, little_memory):
    engine = Engine([bundles], devices=[str(CARD)])
    inputs = make_case(METHODS["rss"].inputs, {**SLICE, "coils": 32, "ky": 512, "kx": 512})
    expected = engine.submit("rss", inputs).result(60)
    assert (expected.device, expected.stands_in) == (str(CARD), "")
    little_memory(torch.cuda.memory_allocated(CARD) + inputs["kspace"].nbytes // 2)
    result = engine.submit("rss", inputs).result(60)
    assert (result.device, result.stands_in) == ("cpu", f"{CARD} had no memory for it")
    assert relative_error(result.outputs, expected.outputs) < 1e-5
    little_memory(torch.cuda.get_device_properties(CARD).total_memory)
    assert engine.submit("rss", inputs).result(60).device == str(CARD)
    assert engine.close()


@pytest.mark.parametrize("estimate", [espirit, adaptive])
@pytest.mark.parametrize("shape", [(1, 128, 120), (6, 64, 48)])
def test_coil_maps_are_those_of_the_cpu(estimate, shape):
    kspace = make_case(METHODS["rss"].inputs, {"coils": 8, "kz": min(shape[0], 8), "ky": 24, "kx": 24}, phantom=True)
    region = torch.view_as_complex(kspace["kspace"][0])
    expected, maps = estimate(region, shape), estimate(region.to(CARD), shape).cpu()
    here, there = (maps != 0).any(0), (expected != 0).any(0)
    assert float((here != there).float().mean()) < 1e-3  # pixels whose eigenvalue is at the threshold
    maps, expected = maps[:, here & there], expected[:, here & there]
    assert float((maps - expected).norm() / expected.norm()) < 1e-2
    assert float(((maps - expected).abs() > 1e-3).float().mean()) < 1e-2


@pytest.mark.parametrize("bundle", ["sense", "modl-brain"])
def test_a_scan_gives_the_images_of_the_cpu(bundles, bundle):
    steps = {"accumulate": {}, "remove_oversampling": {}, "prewhiten": {}}
    steps |= {"estimate_coil_maps": {}, "reconstruct": {"bundle": bundle}}
    made = {}
    for device in ("cpu", str(CARD)):
        engine = Engine([bundles], devices=[device])
        made[device] = images(engine, steps)
        assert engine.close()
    assert len(made["cpu"]) == len(made[str(CARD)]) == ACCELERATED.slices
    for image, expected in zip(made[str(CARD)], made["cpu"], strict=True):
        assert image.meta["IsocenterDevice"] == str(CARD)
        difference = torch.from_numpy(image.data - expected.data)
        assert float(difference.norm() / torch.from_numpy(expected.data).norm()) < 5e-3


def test_the_cpu_takes_the_place_of_a_card_that_fails_for_good(bundles, tmp_path):
    script = tmp_path / "lose_the_card.py"
    script.write_text(LOSE_THE_CARD)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, bundles], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[1:] == [
        *("True", "cuda:0 '' cpu 'cuda:0 is lost'", "results are freed", "closed False")
    ], done.stderr
    assert done.returncode == 0, done.stderr

"""The engine on a Ray cluster of several nodes, each with processes of its own."""

import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import wait_until
from isocenter.engine import Engine, EngineError
from isocenter.export.cases import make_case
from isocenter.export.options import ExportOptions
from isocenter.export.own_module import export_module
from isocenter.service.host import make_engine
from isocenter.service.settings import Settings

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.long]


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    export_module("faulty:Hangs", None, folder / "Hangs", ExportOptions(), formats=["torchscript"])
    return folder


def test_a_cluster_that_is_not_there_is_named(bundles):
    with pytest.raises(EngineError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        make_engine(Settings(home=bundles.parent, ray="127.0.0.1:1"))


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def remote(cluster, bundles, slow_bundle):
    engine = make_engine(Settings(home=bundles.parent, bundles=(slow_bundle,), ray=cluster.address))
    yield engine
    engine.close()


def rss_case(model, seed):
    return make_case(model.manifest.inputs, {"batch": 1, "coils": 4, "ky": 32 + seed, "kx": 24})


def test_slices_are_shared_out_and_equal_local_ones(remote, bundles):
    local = Engine([bundles])
    model = local.load("sense")
    cases = [rss_case(model, seed) for seed in range(8)]
    for future in remote.prepare("sense", {"batch": 1, "coils": 4, "ky": 32, "kx": 24}):
        future.result(120)
    results = [future.result(120) for future in [remote.submit("sense", case) for case in cases]]
    for case, result in zip(cases, results, strict=True):
        expected = local.run("sense", case)["image"]
        assert (result.outputs["image"] - expected).abs().max() < 1e-5 * expected.abs().max()
    assert {result.device for result in results} <= {"ray:0 (cpu)", "ray:1 (cpu)"}
    assert len({device.process() for device in remote.devices}) == 2
    local.close()


def test_errors_of_a_worker_name_their_cause(remote):
    with pytest.raises(Exception, match="there is no bundle 'nothing'"):
        remote.run("nothing", {"kspace": torch.ones(1, 2, 8, 8, 2)})


def ticks(process):
    """How long a process has computed, in hundredths of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.long
def test_a_worker_that_is_killed_within_a_slice_is_replaced_and_the_slice_is_done_again(remote):
    strong = {"kspace": torch.full((1, 2, 8, 8, 2), 200.0)}
    for device in remote.devices:
        device.load("Hangs")
    before = [device.process() for device in remote.devices]
    rest = {process: ticks(process) for process in before}
    future = remote.submit("Hangs", strong)
    wait_until(lambda: any(ticks(process) > rest[process] + 20 for process in before))
    for process in before:
        os.kill(process, signal.SIGKILL)
    image = future.result(120).outputs["image"]
    assert torch.allclose(image, strong["kspace"].square().sum((1, 4)).sqrt())
    for device in remote.devices:
        wait_until(lambda device=device: device.is_alive(), 60)  # a new process takes its time on a busy machine
    assert not {device.process() for device in remote.devices} & set(before)


def test_a_slice_that_hangs_is_given_up_and_its_worker_is_replaced(remote, bundles):
    for device in remote.devices:
        device.load("Hangs"), device.load("rss")
    remote._crew._deadline = 0.5  # only now, as loading takes longer
    future = remote.submit("Hangs", {"kspace": torch.full((1, 2, 8, 8, 2), 200.0)})
    with pytest.raises(EngineError, match=r"0\.5 seconds"):
        future.result(20)
    remote._crew._deadline = 60.0
    done = [remote.submit("rss", rss_case(remote.load("rss"), 0)) for _ in range(4)]
    assert all(each.result(60).outputs["image"].shape == (1, 1, 32, 24) for each in done)
    with pytest.raises(EngineError, match="suspended"):
        remote.run("Hangs", {"kspace": torch.ones(1, 2, 8, 8, 2)})


@pytest.mark.long
def test_a_host_that_goes_away_leaves_its_work_to_the_others(cluster, bundles):
    node = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    engine = make_engine(Settings(home=bundles.parent, ray=cluster.address))
    model = engine.load("rss")
    assert len({device.process() for device in engine.devices}) == 3
    # it goes away while it loads the bundle, or computes: before it has answered
    futures = [engine.submit("rss", rss_case(model, seed)) for seed in range(20)]
    cluster.remove_node(node, allow_graceful=False)
    futures += [engine.submit("rss", rss_case(model, seed)) for seed in range(20)]
    assert all(future.result(120).outputs["image"].shape[0] == 1 for future in futures)
    engine.close()

"""What Ray costs: the time of a slice through a Ray actor, and through this process, minus that of the runtime itself.

A Ray cluster of two nodes is started on this machine. The same slices go, in turn, through the engine with a device of this
process and through the engine with one Ray device; the overhead is what the slice takes longer than the runtime reports.
Sizes from a small slice to a large one show what depends on the bytes that travel.

Run with ``python benchmarks/scaling.py``; it needs ``pip install 'isocenter[ray]'``.
"""

import argparse
import statistics
import time

import torch
from isocenter.engine import Engine
from isocenter.engine.remote import RayDevice
from isocenter.export.cases import make_case
from isocenter.export.classical import ensure_classical
from isocenter.service.settings import default_home

SIZES = {
    "1 MB": {"batch": 1, "coils": 4, "kz": 1, "ky": 128, "kx": 256},
    "8 MB": {"batch": 1, "coils": 16, "kz": 1, "ky": 256, "kx": 256},
    "29 MB": {"batch": 1, "coils": 15, "kz": 1, "ky": 372, "kx": 640},
}


def overhead(engine, inputs):
    """Milliseconds that a slice takes longer than its runtime."""
    start = time.perf_counter()
    result = engine.submit("rss", inputs).result()
    return 1000 * (time.perf_counter() - start - result.seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    folder = default_home() / "bundles"
    ensure_classical(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 5 * 10**8})
    cluster.add_node(num_cpus=1, object_store_memory=5 * 10**8)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    local = Engine([folder])
    remote = Engine([folder], devices=[RayDevice("ray:0", [folder])])
    figures = []
    try:
        axes = local.load("rss").manifest.inputs
        for name, sizes in SIZES.items():
            inputs = make_case(axes, sizes)
            times = {"local": [], "ray": []}
            for index in range(arguments.rounds + 3):
                for kind, engine in (("local", local), ("ray", remote)):
                    value = overhead(engine, inputs)
                    if index >= 3:
                        times[kind].append(value)
            for kind, values in times.items():
                ordered = sorted(values)
                median, high = statistics.median(ordered), ordered[int(0.95 * len(ordered))]
                print(f"{name:>6} {kind:<6} overhead {median:7.2f} ms, 95 % {high:7.2f} ms")
                figures.append(f"figure {kind}_overhead_{name.replace(' ', '_').lower()}_ms {median:.3f}")
    finally:
        remote.close()
        local.close()
        ray.shutdown()
        cluster.shutdown()
    print(f"{torch.get_num_threads()} threads")
    print("\n".join(figures))


if __name__ == "__main__":
    main()

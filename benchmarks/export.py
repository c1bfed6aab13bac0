"""How long it takes to export a network at its published size, in seconds of processor time, and how exact what was written is.

Weights are random. Each network is exported in a process of its own, whose time counts from its start.

    python benchmarks/export.py [--networks ls-net,jotlasnet] [--formats torchscript,onnx]
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from isocenter.bundle.manifest import BundleError
from isocenter.export.network import export_network
from isocenter.export.options import ExportOptions
from isocenter.models.networks.registry import NETWORKS

MATRIX = (320, 320)
"""Of networks that work for one size only."""


def measure(name, formats):
    network = NETWORKS[name]
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save(network.build().state_dict(), place / "weights.pt")
        options = ExportOptions(matrix=MATRIX) if network.output == "logits" else ExportOptions()
        try:
            bundle = export_network(name, place / "weights.pt", place / name, options, formats)
        except BundleError as error:
            print(f"{name:<22} {error}")
            return
    for runtime, parity in bundle.manifest.parity.items():
        print(f"{name:<22} {runtime:<12} deviates by {parity.error:.1e}; accepted {parity.accepted:.1e}")
        print(f"figure export.{name}.{runtime}.error {parity.error:.2e}")
    print(f"figure export.{name}.cpu_seconds {time.process_time():.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=",".join(name for name in NETWORKS if name != "loupe"))
    parser.add_argument("--formats", default="", help="that must be there; without, what the network can have")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.one:
        measure(arguments.one, arguments.formats.split(",") if arguments.formats else None)
        return
    for name in arguments.networks.split(","):
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--formats", arguments.formats]
        subprocess.run(command, check=False)


if __name__ == "__main__":
    main()

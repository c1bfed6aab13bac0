"""Whether a slice or series of some size can be computed in the memory that there is, found out on a small one."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ..bundle.manifest import TensorSpec
from ..engine.runtimes import Runtime
from ..export.cases import Sizes, case_bytes, make_case
from ..wire.home import available_memory
from .frame import usage

_MAKING = 4
"""Times the inputs' bytes that making them takes, at least."""
_RUNNING = 100
"""Times the inputs' bytes that no bundle has needed."""
_TRIAL = {"batch": 1, "coils": 4, "frames": 4, "kz": 1, "ky": 192, "kx": 192}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def check_memory(specs: Sequence[TensorSpec], sizes: Sizes, runtimes: Mapping[str, Runtime] | None = None) -> None:
    """End the command where sizes do not fit into the host's memory, before it is taken.

    Parameters
    ----------
    specs
        Inputs of the bundle.
    sizes
        Lengths of their axes.
    runtimes
        That are to compute them on the CPU; what they need grows with the inputs, and is measured on small ones. None: the inputs
        alone are looked at.
    """
    there, asked = available_memory(), case_bytes(specs, sizes)
    needed = _MAKING * asked
    if runtimes and needed <= there < _RUNNING * asked:
        trial = {axis: min(length, _TRIAL[axis]) for axis, length in sizes.items()}
        needed = max(needed, round(_peak(specs, trial, runtimes) * asked / case_bytes(specs, trial)))
    if needed > there:
        named = {axis for spec in specs for axis in spec.axes}
        lengths = ", ".join(f"{axis} {length}" for axis, length in sizes.items() if axis in named and length > 1)
        usage(
            f"{lengths} need {needed / 1e9:,.1f} GB of memory or more, and {there / 1e9:,.1f} GB are free here; "
            "accepted: a smaller matrix, or fewer coils or frames"
        )


def _peak(specs: Sequence[TensorSpec], sizes: Sizes, runtimes: Mapping[str, Runtime]) -> int:
    """Bytes that inputs and the most demanding runtime take."""
    inputs = make_case(specs, sizes)
    size = sum(tensor.nbytes for tensor in inputs.values())
    return size + max(_growth(lambda runtime=runtime: runtime.infer(inputs)) for runtime in runtimes.values())


def _growth(call: Callable[[], Mapping[str, torch.Tensor]]) -> int:
    """Bytes that this process has grown by, at most, during a call; 0 where Linux does not say."""
    try:
        _CLEAR.write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return 0


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"))
    return 1024 * int(found[1]) if found else 0

"""Which devices train, how they compute, and how they add up what each of them found."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .recipe import Precision, RecipeError

T = TypeVar("T")
_ACCEPTED = "'auto', 'cpu', a number of devices such as 2, or GPUs by their names or numbers such as cuda:0 or 0,1"


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together; each has its own device and a part of every batch.

    Attributes
    ----------
    index, count
        Which of how many.
    device
        What it computes on.
    """

    index: int
    count: int
    device: torch.device

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the first process do what follows before the others, which find what it leaves on disk."""
        if self.index > 0:
            self.wait()
        yield
        if self.index == 0:
            self.wait()

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; what has none anywhere stays without."""
        if self.count == 1:
            return
        every = [parameter for parameter in parameters if parameter.requires_grad]
        has = self.total(torch.tensor([float(parameter.grad is not None) for parameter in every], device=self.device))
        used = [parameter for parameter, number in zip(every, has.tolist(), strict=True) if number > 0]
        if not used:
            return
        zeros_where_none = [torch.zeros_like(one) if one.grad is None else one.grad for one in used]
        sums = self.total(torch.cat([gradient.flatten() for gradient in zeros_where_none]))
        for parameter, part in zip(used, sums.split([one.numel() for one in used]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def choose_devices(text: str, batch: int) -> list[torch.device]:
    """Return the devices that a command line's ``--devices`` means, one for each process.

    Parameters
    ----------
    text
        ``auto``: as many GPUs as divide a batch, or the CPU. ``cpu``. A number: of GPUs, or of processes on the CPU where
        there are no GPUs. ``0,1``, ``cuda:1``: these GPUs.
    batch
        Samples of a batch, which are divided among the devices.

    Raises
    ------
    RecipeError
        It is none of these, there are no such GPUs, or a batch cannot be divided among so many.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "cpu":
        return [torch.device("cpu")]
    if text == "auto":
        number = max((count for count in range(1, gpus + 1) if batch % count == 0), default=0)
        return [torch.device("cuda", index) for index in range(number)] or [torch.device("cpu")]
    try:
        numbers = [int(part.strip().removeprefix("cuda:")) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"{text!r} names no devices", where="--devices", accepted=_ACCEPTED) from None
    devices = _of_list(numbers, gpus) if "," in text or "cuda:" in text else _of_number(numbers[0], gpus)
    if batch % len(devices):
        raise RecipeError(
            f"a batch of {batch} cannot be divided among {len(devices)} devices",
            where="--devices",
            accepted="a number of devices that divides the recipe's batch",
        )
    return devices


def _of_list(indices: list[int], gpus: int) -> list[torch.device]:
    missing = [index for index in indices if not 0 <= index < gpus]
    if missing:
        there = f"there are GPUs 0 to {gpus - 1}" if gpus else "there is none here"
        raise RecipeError(f"no GPU {missing[0]}: {there}", where="--devices", accepted=_ACCEPTED)
    if len(set(indices)) < len(indices):
        raise RecipeError("a GPU is named twice", where="--devices", accepted=_ACCEPTED)
    return [torch.device("cuda", index) for index in indices]


def _of_number(number: int, gpus: int) -> list[torch.device]:
    if number < 1 or (gpus and number > gpus):
        if number < 1:
            what = f"a number alone says on how many devices to train, and {number} are none; the first GPU alone is cuda:0"
        else:
            what = f"cannot train on {number} devices: there are {gpus} GPUs"
        raise RecipeError(what, where="--devices", accepted=_ACCEPTED)
    return [torch.device("cuda", index) if gpus else torch.device("cpu") for index in range(number)]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse arithmetic that a device does not have.

    Raises
    ------
    RecipeError
        ``tf32`` without an NVIDIA GPU, or ``bf16`` on a GPU that cannot.
    """
    if precision == "tf32" and device.type != "cuda":
        raise RecipeError("'tf32' is the arithmetic of NVIDIA GPUs, and this run is on the CPU", where="precision")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError(f"{torch.cuda.get_device_name(device)} has no 'bf16'", where="precision")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in this precision, and twice the same where the device can."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    cudnn.benchmark = False
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products of matrices may differ
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
        torch.use_deterministic_algorithms(before[3], warn_only=torch.is_deterministic_algorithms_warn_only_enabled())


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which convolutions and matrix products are computed in ``bf16``, if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

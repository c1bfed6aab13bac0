"""The devices of this host by the names that settings and commands give them."""

import re

from ..engine.jobs import EngineError

_NAME = re.compile(r"cpu|cuda(:\d+)?")


def _accepted() -> str:
    """The names that this host's devices have."""
    import torch

    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ", ".join(["auto", "cpu", *cards])


def device_names(wanted: str) -> list[str]:
    """Return the devices that a setting names: ``auto``, or names separated by commas.

    Raises
    ------
    EngineError
        One of them is no name of a device, is not there, or is named twice.
    """
    import torch

    if wanted == "auto":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        check_device(name)
    if len({name if name != "cuda" else "cuda:0" for name in names}) < len(names):
        raise EngineError(f"device {wanted!r} names one twice", accepted=_accepted())
    return names


def check_device(name: str) -> None:
    """Make sure that a device is there.

    Raises
    ------
    EngineError
        It is no name of a device, or this host has none of that name.
    """
    if not _NAME.fullmatch(name):
        raise EngineError(f"there is no device {name!r}", accepted=_accepted())
    if name == "cpu":
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        raise EngineError(
            f"there is no device {name!r}: torch {torch.__version__} was built without CUDA", accepted=_accepted()
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise EngineError(f"there is no device {name!r}: torch finds no CUDA device on this host", accepted=_accepted())
    if int(name.partition(":")[2] or 0) >= count:
        raise EngineError(f"there is no device {name!r} on this host", accepted=_accepted())

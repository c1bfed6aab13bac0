"""Answers to the questions that clients ask (message 6), in the wording that Gadgetron's tools parse."""

import os
import platform

import torch

from ..engine import Engine
from .version import version


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _info(engine: Engine) -> str:
    cuda = torch.cuda.is_available()
    lines = [
        f"Isocenter Version Info\n  -- Version            : {version()}",
        "  -- Git SHA1           : NA",
        f"  -- System Memory size : {_memory_mb()} MB",
        "  -- Python Support     : YES",
        "  -- Julia Support      : NO",
        "  -- Matlab Support     : NO",
        f"  -- CUDA Support       : {'YES' if cuda else 'NO'}",
    ]
    if cuda:
        memory = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        lines.append(f"    + Total amount of global GPU memory: {memory // 2**20} MB")
    lines.append(f"  -- Ready              : {_ready(engine)}")
    return "\n".join(lines) + "\n"


def _ready(engine: Engine) -> str:
    """Whether no scan has to wait for its bundle; what has to be waited for otherwise, and what could not be built."""
    failures = [f"bundle {name!r} could not be built" for name in engine.supply.failures]
    state = engine.supply.state
    return "; ".join([f"NO, {state}" if state else "YES", *failures])


def answer(question: str, engine: Engine) -> str:
    """Answer a question; "Unknown query" for what is not known, as Gadgetron does."""
    answers = {
        "isocenter::version": lambda: f"isocenter {version()}",
        "isocenter::bundles": lambda: "\n".join(sorted(engine.available())),
        "gadgetron::version": lambda: f"isocenter {version()}",
        "gadgetron::build": lambda: f"isocenter {version()}",
        "isocenter::ready": lambda: _ready(engine),
        "gadgetron::info": lambda: _info(engine),
        "gadgetron::info::memory": lambda: str(_memory_mb()),
        "gadgetron::info::python": lambda: "YES",
        "gadgetron::info::matlab": lambda: "NO",
        "gadgetron::info::cuda": lambda: "YES" if torch.cuda.is_available() else "NO",
        "gadgetron::cuda::devices": lambda: str(torch.cuda.device_count()),
        "gadgetron::cuda::runtime": lambda: str(torch.version.cuda),
        "ismrmrd::version": lambda: version("ismrmrd"),
        "isocenter::platform": platform.platform,
    }
    known = answers.get(question)
    return known() if known else "Unknown query"

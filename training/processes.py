"""One process for each device: starts them, passes interruptions on, and says why one failed."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from ..flow.interruption import on_interruption
from ..wire.errors import IsocenterError
from .devices import Rank
from .recipe import RecipeError


def run_on(devices: list[torch.device], work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(rank, *arguments)``, in this process if it is for one device, else in one process for each.

    Raises
    ------
    IsocenterError, OSError, KeyboardInterrupt
        As ``work`` raises them, in whichever process.
    RecipeError
        A process ended otherwise.
    """
    if len(devices) == 1:
        work(Rank(0, 1, devices[0]), *arguments)
        return
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what happens is told in our words
    told = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        context = start_processes(
            _work, (devices, meeting, told, work, arguments), len(devices), join=False, start_method="spawn"
        )
        assert context is not None
        with _passed_on(context.pids()):
            try:
                while not context.join():
                    pass
            except (ProcessRaisedException, ProcessExitedException) as error:
                if told.empty():
                    raise RecipeError(
                        f"a process of the training failed: {str(error).strip().splitlines()[-1]}"
                    ) from error
    if not told.empty():
        raise told.get()


def _work(
    index: int,
    devices: list[torch.device],
    meeting: str,
    told: Any,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Be one of the processes; what ``work`` raises that a user can mend is told to the parent."""
    device = devices[index]
    log = logging.getLogger("isocenter.training")
    if index == 0:  # the others would say the same
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO)
    log.propagate = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(torch.get_num_threads() // len(devices), 1))
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", init_method=meeting, rank=index, world_size=len(devices)
    )
    try:
        work(Rank(index, len(devices), device), *arguments)
    except (IsocenterError, OSError) as error:
        told.put(error)
        raise  # so that the others, which wait for this one, are ended
    except KeyboardInterrupt as stop:
        if index == 0:  # all of them stop at the same step
            told.put(KeyboardInterrupt(*stop.args))
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _passed_on(processes: list[int]) -> Iterator[None]:
    """Pass interruptions on to these processes."""

    def pass_on(number: int, _frame: Any) -> None:
        for process in processes:
            with suppress(ProcessLookupError):  # it may have ended
                os.kill(process, number)

    with on_interruption(pass_on):
        yield

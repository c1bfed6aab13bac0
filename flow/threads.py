"""Which threads may use more than one core."""

import ctypes
import logging
from pathlib import Path

log: logging.Logger = logging.getLogger("isocenter.threads")


def keep_to_one_core() -> None:
    """Let torch compute on one core in this thread, and in this thread only.

    OpenMP keeps a team of threads for every thread that asks for one. Once there are more of them than cores, they stop
    waiting actively for the next operation, and all become slower by a tenth or more. So the teams belong to the engine's
    threads. ``torch.set_num_threads`` would change the whole process. Without GNU's OpenMP nothing is done.
    """
    import torch  # whoever only passes bytes on needs none

    torch.ones(1).add(1)  # torch sets the number of a thread's threads when it first computes
    library = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    try:
        ctypes.CDLL(str(library)).omp_set_num_threads(1)
    except OSError:
        log.debug("torch does not use GNU's OpenMP here: every thread may use all cores")

"""How the service's process holds memory."""

import ctypes
import logging

log: logging.Logger = logging.getLogger("isocenter.memory")

MUCH = 2**29
"""Bytes that scans have to have held together before what they have freed is returned."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks instead of returning them to the kernel.

    Blocks of k-space are allocated and freed with every slice. Returned to the kernel, each costs a page fault every 4 KiB
    when it is allocated again, which takes longer than the reconstruction's arithmetic. Only glibc is told.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except OSError:
        log.debug("no glibc: the allocator stays as it is")
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1)):
        if not mallopt(option, value):
            log.debug("the allocator refused option %d", option)


def return_freed_memory() -> None:
    """Let the C library return all freed blocks to the kernel; the next scan pays for it with page faults."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        log.debug("no glibc: freed memory stays as it is")

"""Gadgets that do to a card in mid-scan what may happen to it, for ``gpu_acceptance.py``. Without one, nothing."""

from collections.abc import Iterator

import torch
from isocenter.gadgets.gadget import Stream, gadget
from isocenter.gadgets.kspace import Item, Kspace
from isocenter.gadgets.scan import Scan

_SMALLEST = 2**20


@gadget
def lose_card(items: Stream, scan: Scan, *, after: int = 2) -> Stream:
    """Run a kernel that asserts after so many blocks: every later call of CUDA in this process fails."""
    for item, is_time in _with_time(items, after):
        if is_time:
            try:
                torch.zeros(8, device="cuda")[torch.tensor([10**6], device="cuda")].sum().item()
            except RuntimeError as error:
                scan.log.warning("the card is lost: %s", type(error).__name__)
        yield item


@gadget
def fill_card(items: Stream, scan: Scan, *, after: int = 2) -> Stream:
    """Take all memory of the card after so many blocks, and keep it until the scan has ended."""
    held = []
    for item, is_time in _with_time(items, after):
        if is_time:
            held = _take_all()
            scan.log.warning("%d bytes of the card are taken", sum(map(len, held)))
        yield item
    del held


def _with_time(items: Stream, after: int) -> Iterator[tuple[Item, bool]]:
    """Say of each item whether so many blocks have come before it, and it is the next one; never where there is no card."""
    blocks = 0
    for item in items:
        is_block = isinstance(item, Kspace)
        yield item, is_block and blocks == after and torch.cuda.is_available()
        blocks += is_block


def _take_all() -> list[torch.Tensor]:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held, size = [], torch.cuda.mem_get_info()[0]
    while size >= _SMALLEST:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return held

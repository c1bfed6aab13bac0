"""Hand on the last frames of a series together while the scan runs, so that bundles of series need not wait for its end."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from ..flow.ledger import Account
from ..wire.errors import OptionError
from ..wire.header import Encoding
from .gadget import Options, Stream, gadget
from .kspace import Kspace
from .scan import Scan

_COUNTERS = ("phase", "repetition")
"""Counters along which a series runs."""


def _sizes(encoding: Encoding, options: Options) -> dict[str, int]:
    announced = int(np.prod([encoding.count(name) for name in _COUNTERS]))
    return {"frames": min(options["frames"], announced)}


@gadget(waits=True, joins=True, sizes=_sizes)
def sliding_window(
    items: Stream,
    scan: Scan,
    *,
    frames: Annotated[int, Field(ge=2, le=1024)] = 16,
    step: Annotated[int, Field(ge=1)] = 12,
    behind: Annotated[int, Field(ge=0)] = 2,
) -> Stream:
    """Join blocks of one frame to blocks of the last frames of their slice, of which the new ones become images.

    It stands before ``estimate_coil_maps``, so that frames that are undersampled in turns give the calibration lines of one
    another. Every frame becomes one image, in order. Those of the beginning wait until ``frames`` have come; what is left at
    the end comes then, with the frames before it. A frame that comes late, as it has waited for lines in vain, is put among those
    of its time, if the window still has them.

    Parameters
    ----------
    items
        Blocks of one frame each; others, and other items, pass by.
    scan
        Told where it may not hold a whole window; it is made of fewer frames then.
    frames
        Length of the window.
    step
        After how many new frames the window is handed on: fewer make images come sooner, and cost more.
    behind
        The newest frames of a window, which become images with the next one: those after them, which a bundle of series looks at,
        are not there yet.

    Raises
    ------
    OptionError
        The window is too short for the new frames.

    Yields
    ------
    Kspace
        Of several frames, ``shown`` of which become images. What is to be said of the image of a frame stays with it; that
        others of the window are incomplete is said of all.
    """
    if step + behind > frames:
        raise OptionError(
            f"a window of {frames} frames is too short for {step} new ones and {behind} that wait",
            where="gadget 'sliding_window'",
            accepted=f"frames of {step + behind} and more",
        )
    windows: dict[tuple[int | bool, ...], _Window] = {}
    account = scan.ledger.account("window")
    try:
        for item in items:
            if not isinstance(item, Kspace) or item.data.shape[1] != 1:
                yield item
                continue
            window = windows.setdefault(_place(item), _Window(frames, account))
            if window.is_late(item):
                yield window.among(item)
                continue
            if not window.add(item):
                scan.report("window", "the scan may not hold a whole window of frames: images are made of fewer")
                yield from window.rest()
                window.clear()
                if not window.add(item):
                    yield item
                    continue
            if window.new >= step + behind and len(window.blocks) == frames:
                yield window.joined(behind)
        for window in windows.values():
            yield from window.rest()
    finally:
        account.close()


def _place(kspace: Kspace) -> tuple[int | bool, ...]:
    """What all frames of a series have in common."""
    counters = kspace.central_header(0).idx
    own = (kspace.encoding_index, counters.slice, counters.contrast, counters.set)
    return (*own, kspace.whitened, *kspace.data.shape)


class _Window:
    """The last frames of a slice, and how many of them are no image yet."""

    def __init__(self, frames: int, account: Account) -> None:
        self.frames = frames
        self.blocks: deque[Kspace] = deque()
        self.new = 0
        self._account = account
        self._left = False
        """Whether frames have left the window."""

    def add(self, block: Kspace) -> bool:
        """Take a frame in, for which the oldest one goes; False if there is no room for it."""
        if len(self.blocks) == self.frames:
            self._drop()
        size = block.nbytes
        # the other half is for the frames that are being filled
        if self._account.kept + size > self._account.ledger.keeps // 2 or not self._account.keep(size):
            return False
        self.blocks.append(block)
        self.new += 1
        return True

    def is_late(self, block: Kspace) -> bool:
        """Whether a frame was measured before the newest one here, and has waited for lines that did not come."""
        return bool(self.blocks) and _order(block) < _order(self.blocks[-1])

    def among(self, block: Kspace) -> Kspace:
        """Return a late frame among those of its time, or by itself where they have left."""
        after = sum(_order(block) < _order(other) for other in self.blocks)
        place = len(self.blocks) - after
        if place == 0 and self._left:
            return block
        blocks = [*self.blocks]
        blocks.insert(place, block)
        return _join(blocks, slice(place, place + 1))

    def joined(self, behind: int) -> Kspace:
        """Return the frames as one block; all new ones become images but the last ``behind``."""
        shown = slice(len(self.blocks) - self.new, len(self.blocks) - behind)
        self.new = behind
        return _join(list(self.blocks), shown)

    def rest(self) -> Iterator[Kspace]:
        """Return what no image was made of."""
        if self.new:
            yield self.joined(0)

    def clear(self) -> None:
        """Forget all frames."""
        while self.blocks:
            self._drop()

    def _drop(self) -> None:
        self._account.release(self.blocks.popleft().nbytes)
        self._left = True


def _order(kspace: Kspace) -> int:
    """When a frame was measured: the number of its central line in the scan."""
    return kspace.central_header(0).scan_counter


def _join(blocks: list[Kspace], shown: slice) -> Kspace:
    """Make one block of frames."""
    incomplete = sum(block.is_incomplete for block in blocks)
    text = f"{incomplete} of the {len(blocks)} frames that the image was made of are incomplete"
    return replace(
        blocks[-1],
        data=torch.cat([block.data for block in blocks], dim=1),
        mask=torch.cat([block.mask for block in blocks]),
        headers=np.concatenate([block.headers for block in blocks]),
        notes={"Neighbours": text} if incomplete else {},
        frame_notes=tuple(block.notes for block in blocks),
        shown=shown,
    )

"""Hand on the last frames of a series together while the scan runs, so that bundles of series need not wait for its end."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from ..wire.errors import OptionError
from .gadget import Stream, gadget
from .kspace import Kspace
from .scan import Scan


@gadget(waits=True)
def sliding_window(
    items: Stream,
    scan: Scan,  # noqa: ARG001
    *,
    frames: Annotated[int, Field(ge=2)] = 16,
    step: Annotated[int, Field(ge=1)] = 4,
    behind: Annotated[int, Field(ge=0)] = 2,
) -> Stream:
    """Join blocks of one frame to blocks of the last frames of their slice, of which the new ones become images.

    It stands after ``estimate_coil_maps``; ``accumulate`` makes a block of every frame (``frames`` none), which is
    handed on as soon as it is complete. Every frame becomes one image, in order. Those of the beginning wait until ``frames``
    have come.

    Parameters
    ----------
    items
        Blocks of one frame each; others, and other items, pass by.
    scan
        Not used.
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
        Of several frames, ``shown`` of which become images. A slice of fewer frames is handed on at the end.
    """
    if step + behind > frames:
        raise OptionError(
            f"a window of {frames} frames is too short for {step} new ones and {behind} that wait",
            where="gadget 'sliding_window'",
            accepted=f"frames of {step + behind} and more",
        )
    windows: dict[tuple[int, ...], _Window] = {}
    for item in items:
        if not isinstance(item, Kspace) or item.data.shape[1] != 1:
            yield item
            continue
        counters = item.central_header(0).idx
        key = (item.encoding_index, counters.slice, counters.contrast, counters.set, *item.data.shape)
        window = windows.setdefault(key, _Window(frames))
        window.add(item)
        if window.new >= step + behind and len(window.blocks) == frames:
            yield window.joined(behind)
    for window in windows.values():
        yield from window.rest()


@dataclass
class _Window:
    """The last frames of a slice."""

    frames: int
    blocks: deque[Kspace] = field(default_factory=deque)
    new: int = 0
    """How many of them are no image yet."""

    def add(self, block: Kspace) -> None:
        self.blocks.append(block)
        self.new += 1
        if len(self.blocks) > self.frames:
            self.blocks.popleft()

    def joined(self, behind: int) -> Kspace:
        """Return the frames as one block; all new ones become images but the last ``behind``."""
        blocks, last = list(self.blocks), self.blocks[-1]
        shown = slice(len(blocks) - self.new, len(blocks) - behind)
        self.new = behind
        return replace(
            last,
            data=torch.cat([block.data for block in blocks], dim=1),
            mask=torch.cat([block.mask for block in blocks]),
            headers=np.concatenate([block.headers for block in blocks]),
            notes={name: note for block in blocks for name, note in block.notes.items()},
            shown=shown,
        )

    def rest(self) -> Iterator[Kspace]:
        """Return what no image was made of."""
        if self.new:
            yield self.joined(0)

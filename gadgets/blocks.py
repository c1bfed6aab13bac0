"""The blocks of a scan that are being filled, and those for which there was no memory."""

from collections.abc import Iterator
from itertools import islice

from .block import Block, Refusals
from .calibration import Key
from .kspace_buffer import KspaceBuffer

_WITNESSES = 8
"""Other blocks that are asked where lines belong, before the first one leaves."""
_REPETITION = 4


class Blocks:
    """Blocks by their counters. What is done for each readout takes the same time however many blocks there are.

    Attributes
    ----------
    largest
        Readouts of the largest block so far, as of the last ``weigh``.
    readouts
        How many came for which no look was had at all blocks.
    refused
        Those for which there was no memory.
    """

    def __init__(self) -> None:
        self._blocks: dict[Key, Block] = {}
        self._by_encoding: dict[int, dict[Key, Block]] = {}
        self.refused: Refusals = Refusals()
        self.readouts: int = 0
        self.largest: int = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._blocks

    def __getitem__(self, key: Key) -> Block:
        return self._blocks[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._blocks)

    def get(self, key: Key) -> Block | None:
        """Return a block, None if there is none."""
        return self._blocks.get(key)

    def open(self, key: Key, block: Block) -> None:
        """Add a block."""
        self._blocks[key] = block
        self._by_encoding.setdefault(key[0], {})[key] = block

    def pop(self, key: Key) -> Block:
        """Remove a block."""
        del self._by_encoding[key[0]][key]
        block = self._blocks.pop(key)
        self.largest = max(self.largest, block.readouts)
        return block

    def weigh(self) -> None:
        """Look for the largest block."""
        self.largest = max(self.largest, *(block.readouts for block in self._blocks.values()), 0)

    def witnesses(self, key: Key) -> list[KspaceBuffer]:
        """Buffers of some other blocks of the same encoding space."""
        alike = islice(self._by_encoding[key[0]].items(), 4 * _WITNESSES)
        return [block.buffer for other, block in alike if other != key and block.readouts][:_WITNESSES]

    def over(self, repetition: int | None) -> list[Key]:
        """Blocks for which nothing more comes, up to a repetition or of the whole measurement, in ascending order."""
        return sorted(key for key in self._all() if repetition is None or key[_REPETITION] <= repetition)

    def ended(self, but: Key) -> list[Key]:
        """Blocks, but for one, that wait for what may never come."""
        return [key for key in self._all() if self._blocks[key].ended and key != but]

    def _all(self) -> list[Key]:
        """All blocks, as often as there were readouts for looking at each.

        Where every readout says that everything is over, most are not believed.
        """
        if self.readouts < len(self._blocks):
            return []
        self.readouts -= len(self._blocks)
        return list(self._blocks)

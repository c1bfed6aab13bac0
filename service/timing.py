"""What a session counts and how long its steps take."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ..gadgets.kspace import Item, Kspace
from ..pipelines.loader import GadgetStep
from ..wire.items import (
    Acquisition,
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Image,
    ImageArray,
    ReconData,
    Waveform,
)

_NAMES: dict[type, str] = {
    Acquisition: "readout",
    Waveform: "waveform",
    AcquisitionBucket: "acquisition bucket",
    ReconData: "buffer of k-space",
    Kspace: "block of k-space",
    ImageArray: "image array",
    Image: "image",
    DicomFile: "DICOM file",
    DependencyReport: "report",
}
"""What items are called; what is not among them is meant for some peers only."""
_PASS_BY = (Acquisition, Waveform)
"""Readouts and waveforms of all sorts come with every scan; those that are no part of an image are nobody's loss."""


class Timing:
    """Counts and times of one session. Times are in seconds."""

    def __init__(self) -> None:
        self.received_items: int = 0
        self.acquisitions: int = 0
        self.images: int = 0
        self.sent_items: int = 0
        self._left: Counter[type] = Counter()
        self.stages: defaultdict[str, float] = defaultdict(float)
        self._start = time.perf_counter()
        self._last_data = 0.0
        self._first_image = 0.0

    def received(self, item: Item) -> None:
        """Take note of an item of the stream."""
        self.received_items += 1
        self.acquisitions += isinstance(item, Acquisition)
        self._last_data = time.perf_counter()

    def sent(self, item: Item) -> None:
        """Take note of an item that was sent."""
        self.sent_items += 1
        if isinstance(item, Image):
            self.images += 1
            self._first_image = self._first_image or time.perf_counter()

    def left(self, item: Item) -> None:
        """Take note of an item that no gadget took, and that the peer does not take."""
        self._left[type(item)] += 1

    def unused(self, *, everything: bool) -> str:
        """Say what was left, in a sentence; empty if there is nothing to say.

        Parameters
        ----------
        everything
            Whether readouts and waveforms count.
        """
        counts = {
            name: self._left[kind]
            for kind, name in _NAMES.items()
            if self._left[kind] and (everything or kind not in _PASS_BY)
        }
        if not counts:
            return ""
        items = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items())
        items = items.replace("buffer of k-spaces", "buffers of k-space").replace(
            "block of k-spaces", "blocks of k-space"
        )
        one = sum(counts.values()) == 1
        return f"{items} {'was' if one else 'were'} not used: no gadget of the pipeline takes {'it' if one else 'them'}"

    def timed(self, step: GadgetStep, items: Iterator[Item], scan: Any, context: Mapping[str, Any]) -> Iterator[Item]:
        """Run a gadget and add up the time that it takes itself, without that of the steps before it."""
        options = {**step.settled, **{name: context[name] for name in step.gadget.from_chain if name in context}}
        if step.gadget.traits.waits:
            return step.gadget(items, scan, **options)
        return self._clocked(step.gadget.name, lambda upstream: step.gadget(upstream, scan, **options), items)

    def _clocked(self, name: str, chain: Any, items: Iterator[Item]) -> Iterator[Item]:
        waited = 0.0

        def upstream() -> Iterator[Item]:
            nonlocal waited
            while True:
                start = time.perf_counter()
                item = next(items, None)
                waited += time.perf_counter() - start
                if item is None:
                    return
                yield item

        output = chain(upstream())
        while True:
            start, waited = time.perf_counter(), 0.0
            item = next(output, None)
            self.stages[name] += time.perf_counter() - start - waited
            if item is None:
                return
            yield item

    def figures(self) -> dict[str, Any]:
        """Everything by name, for the log; times of stages in ms."""
        counts = {"acquisitions": self.acquisitions, "images": self.images, "not sent": self._left.total()}
        figures: dict[str, Any] = {name: count for name, count in counts.items() if count}
        figures["seconds"] = round(time.perf_counter() - self._start, 3)
        if self._first_image and self._last_data:
            figures["last_readout_to_first_image_ms"] = round(1000 * (self._first_image - self._last_data), 2)
            figures["stages_ms"] = {name: round(1000 * seconds, 2) for name, seconds in self.stages.items()}
        return figures

"""A pipeline's steps on one scan: what is made ready as soon as the header is known, and the chain that runs."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..bundle.manifest import TensorSpec
from ..engine import Engine
from ..gadgets.early import chain_context
from ..gadgets.kspace import Item
from ..gadgets.scan import Scan
from ..pipelines.loader import GadgetStep, Pipeline
from ..wire.errors import IsocenterError
from ..wire.items import Image
from .external import process_externally
from .provenance import Provenance
from .settings import Settings
from .timing import Timing


class Chain:
    """The steps of a pipeline, to be run on one scan.

    Parameters
    ----------
    pipeline, scan
        What to run, and on what.
    engine
        Loads and runs the bundles that gadgets name.
    """

    def __init__(self, pipeline: Pipeline, scan: Scan, engine: Engine) -> None:
        self.pipeline = pipeline
        self.scan = scan
        self.engine = engine

    @property
    def makes_images(self) -> bool:
        """Whether a gadget of this process makes images of the scan."""
        return any(Image in step.gadget.traits.makes for step in self._gadget_steps())

    def warm_up(self) -> None:
        """Load the bundles while the scan begins, the first of each step for the announced sizes; faults show when it is used.

        Where one is being built, that is asked for before others, and nothing is loaded yet.
        """
        if self.engine.supply.want(itertools.chain.from_iterable(self.bundles())):
            return
        sizes = self._announced_sizes()
        for names in self.bundles():
            self.engine.prepare(names[0], sizes, scan=self.scan.name)
            self.engine.preload(names[1:])

    def await_bundles(self, leave: Callable[[], bool]) -> Iterator[str]:
        """Wait until the bundles are built, or until ``leave`` says so; yields what the client may be told meanwhile."""
        names = list(itertools.chain.from_iterable(self.bundles()))
        if self.engine.supply.want(names):
            yield from self.engine.supply.wait(names, leave)
            self.warm_up()

    def process(
        self, items: Iterator[Item], settings: Settings, timing: Timing, say: Callable[[str], None]
    ) -> Iterator[Item]:
        """Chain the steps onto a stream.

        Parameters
        ----------
        items
            The stream.
        settings
            Of the service.
        timing
            Gets the time of each gadget.
        say
            Called with text that an external program has for the user.
        """
        context = self._context()
        for step in self.pipeline.steps:
            if isinstance(step, GadgetStep):
                items = timing.timed(step, items, self.scan, context)
            else:
                items = process_externally(step, items, self.scan, settings, say)
        return map(Provenance(self.pipeline, self.scan).stamp, items)

    def _context(self) -> Mapping[str, Any]:
        steps = [(s.gadget, s.settled) if isinstance(s, GadgetStep) else None for s in self.pipeline.steps]
        adjusts = any(step.gadget.name == "adjust_field_of_view" for step in self._gadget_steps())
        context = chain_context(steps, self.scan, begin_maps=self._needs_maps())
        return {**context, "recon_grid": adjusts, "series": self._wants_series()}

    def _gadget_steps(self) -> Iterator[GadgetStep]:
        return (step for step in self.pipeline.steps if isinstance(step, GadgetStep))

    def bundles(self) -> list[list[str]]:
        """Names of the bundles that each gadget tries, in order."""
        found = []
        for step in self._gadget_steps():
            if step.gadget.traits.bundles is not None:
                with suppress(IsocenterError):  # said when the bundle is used
                    found.append(step.gadget.traits.bundles(self.engine.default_bundle, step.complete))
        return found

    def _needs_maps(self) -> bool:
        """Whether a bundle that the pipeline tries first takes coil maps."""
        inputs = self._inputs_of_the_first()
        return not inputs or any(spec is None or spec.name == "maps" for spec in inputs)

    def _wants_series(self) -> bool:
        """Whether a bundle that the pipeline tries first reconstructs series."""
        return any(spec is not None and "frames" in spec.axes for spec in self._inputs_of_the_first())

    def _inputs_of_the_first(self) -> list[TensorSpec | None]:
        """Inputs of the bundles that the gadgets try first; None for one that cannot be loaded, which is said when it is used."""
        found: list[TensorSpec | None] = []
        for names in self.bundles():
            try:
                found += self.engine.load(names[0]).manifest.inputs
            except IsocenterError:
                found.append(None)
        return found

    def _announced_sizes(self) -> dict[str, int]:
        """Sizes that a bundle's inputs will have, as far as header and gadgets tell."""
        encoding = self.scan.encodings[0]
        system = self.scan.header.acquisitionSystemInformation
        sizes = {"batch": 1, "coils": int(getattr(system, "receiverChannels", None) or 8)}
        series = {"series": self._wants_series()}
        for step in self._gadget_steps():
            if step.gadget.traits.sizes is not None:
                sizes |= step.gadget.traits.sizes(encoding, {**step.complete, **series})
        # a block that the scan may not hold will never come
        return sizes if 8 * math.prod(sizes.values()) <= self.scan.ledger.keeps else {}

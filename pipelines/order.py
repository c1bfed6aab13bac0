"""Whether the steps of a pipeline come in an order in which they have something to do."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..gadgets.gadget import Gadget
from ..gadgets.kspace import Kspace
from ..wire.errors import PipelineError
from ..wire.items import Image

if TYPE_CHECKING:
    from .loader import Pipeline


def check_order(gadgets: Sequence[Gadget | None], name: str) -> None:
    """Refuse a gadget before the one that makes what it takes: it would let everything pass by.

    Parameters
    ----------
    gadgets
        In their order; None for another program, which may make anything.
    name
        Of the pipeline.

    Raises
    ------
    PipelineError
        There is such a gadget.
    """
    for index, gadget in enumerate(gadgets):
        if gadget is None:
            return
        if not gadget.traits.takes or _makers(gadgets[:index], gadget.traits.takes):
            continue
        if later := _makers(gadgets[index + 1 :], gadget.traits.takes):
            what = f"gadget {gadget.name!r} comes before {later[0]!r}, which makes what it works on"
            raise PipelineError(what, where=name)


def _makers(gadgets: Sequence[Gadget | None], types: tuple[type, ...]) -> list[str]:
    return [each.name for each in gadgets if each is not None and set(each.traits.makes) & set(types)]


def limits(pipeline: "Pipeline") -> Iterator[str]:
    """Say what a pipeline does not do of a scan's readouts, as far as its gadgets tell; it may be meant so."""
    from .loader import GadgetStep

    gadgets = [step.gadget if isinstance(step, GadgetStep) else None for step in pipeline.steps]
    if None in gadgets:
        return
    if not _makers(gadgets, (Image,)):
        yield "none of its gadgets makes images (reconstruct does)"
    elif not _makers(gadgets, (Kspace,)):
        yield "none of its gadgets makes blocks of readouts (accumulate does): they must come from a Gadgetron"

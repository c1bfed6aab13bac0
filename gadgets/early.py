"""What of the steps after ``accumulate`` is begun before the last line is in, as the gadgets say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimate_coil_maps import MapsOptions
    from .gadget import Gadget
    from .scan import Scan
    from .whitener import Whitener


@dataclass(frozen=True)
class EarlyWork:
    """What is done to lines and blocks that are not complete.

    Attributes
    ----------
    whitener
        Whitens lines; the gadget that whitens blocks shares it.
    crop
        Whether the readout oversampling of lines is removed.
    maps
        How coil maps are made once the calibration lines are in; None makes none.
    """

    whitener: Whitener | None = None
    crop: bool = False
    maps: MapsOptions | None = None


def chain_context(
    steps: Sequence[tuple[Gadget, Mapping[str, Any]] | None], scan: Scan, *, begin_maps: bool
) -> dict[str, Any]:
    """Return what the gadgets of one chain share, by the names of the arguments that they mark with ``FromChain``.

    Parameters
    ----------
    steps
        Gadgets with their options, in order; None for another program.
    scan
        That they will run on.
    begin_maps
        Whether coil maps are begun as soon as they can be; else only for a bundle that asks for them.
    """
    work = _early_work(steps, scan)
    if work is not None and not begin_maps:
        work = EarlyWork(work.whitener, work.crop)
    if work == EarlyWork():
        work = None
    return {
        "early": work,
        "whitener": work.whitener if work is not None else None,
        "begin_maps": begin_maps,
        "joined": any(step is not None and step[0].traits.joins for step in steps),
    }


def _early_work(steps: Sequence[tuple[Gadget, Mapping[str, Any]] | None], scan: Scan) -> EarlyWork | None:
    """Collect what can begin early: of the gadgets right after the one that takes early work, up to the coil maps."""
    places = [index for index, step in enumerate(steps) if step is not None and "early" in step[0].from_chain]
    if not places:
        return None
    before = {step[0].name for step in steps[: places[0]] if step is not None}
    work = EarlyWork()
    for step in steps[places[0] + 1 :]:
        begin = step[0].traits.early if step is not None else None
        if step is None or begin is None or work.maps is not None:
            break
        gadget, options = step
        if gadget.name not in before:  # what was done to every readout already leaves nothing to do early
            work = begin(work, scan, {**gadget.defaults, **options})
    return work

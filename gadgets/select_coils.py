"""Keep the first coils."""

from typing import Annotated

from pydantic import Field

from .gadget import Stream, gadget
from .kspace import Kspace
from .scan import Scan


@gadget
def select_coils(items: Stream, scan: Scan, *, coils_out: Annotated[int, Field(ge=1, le=65535)]) -> Stream:  # noqa: ARG001
    """Keep the first ``coils_out`` channels of a block, which after ``compress_coils`` are the strongest.

    Parameters
    ----------
    items
        Blocks; others pass by.
    scan
        Not used.
    coils_out
        How many to keep, at most.
    """
    for item in items:
        if isinstance(item, Kspace):
            item.data = item.data[:coils_out]
            if item.calibration is not None:
                item.calibration = item.calibration[:coils_out]
        yield item

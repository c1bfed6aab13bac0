"""The steps of a reconstruction: MRD items in, MRD items out.

``load(name)`` returns a gadget; importing this package loads none, so that it is fast. ``external`` is what Gadgetron
calls when it starts ``python -m gadgetron PORT isocenter.gadgets external``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .external import external

if TYPE_CHECKING:
    from .gadget import Gadget

__all__ = ["GADGETS", "external", "load"]

GADGETS: dict[str, str] = {
    "accumulate": "accumulate",
    "adjust_field_of_view": "adjust_field_of_view",
    "complex_to_float": "extract",
    "compress_coils": "compress_coils",
    "estimate_coil_maps": "estimate_coil_maps",
    "extract": "extract",
    "filter_kspace": "filter_kspace",
    "filter_partial_fourier": "filter_kspace",
    "finish": "finish",
    "noise_summary": "noise_summary",
    "pad_asymmetric_echo": "pad_asymmetric_echo",
    "prewhiten": "prewhiten",
    "reconstruct": "reconstruct",
    "remove_oversampling": "remove_oversampling",
    "scale": "scale",
    "select_coils": "select_coils",
    "to_integer": "to_integer",
}
"""Every gadget, with the module of this package that holds it."""


def load(name: str) -> "Gadget":
    """Return a gadget by name.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    module = GADGETS.get(name)
    if module is None:
        from ..wire.errors import OptionError  # what Gadgetron starts needs nothing of it, and must be up at once

        raise OptionError(f"there is no gadget {name!r}; there are: {', '.join(sorted(GADGETS))}")
    return getattr(import_module(f".{module}", __name__), name)

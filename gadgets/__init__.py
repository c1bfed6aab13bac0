"""The steps of a reconstruction: MRD items in, MRD items out.

``load(name)`` returns a gadget; importing this package loads none, so that it is fast. ``external`` is what Gadgetron
calls when it starts ``python -m gadgetron PORT isocenter.gadgets external``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .external import external

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .gadget import Gadget

__all__ = ["ENTRY_POINTS", "GADGETS", "available", "external", "load", "register"]

GADGETS: dict[str, str] = {
    "accumulate": "accumulate",
    "adjust_field_of_view": "adjust_field_of_view",
    "complex_to_float": "extract",
    "compress_coils": "compress_coils",
    "convert": "convert",
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
    "sliding_window": "sliding_window",
    "to_integer": "to_integer",
}
"""Every gadget, with the module of this package that holds it."""


ENTRY_POINTS = "isocenter.gadgets"
"""Installed packages add gadgets under this group: ``name = "package.module:function"``."""

_registered: dict[str, str] = {}


def register(own: "Mapping[str, str]") -> None:
    """Add a site's own gadgets.

    Parameters
    ----------
    own
        ``module:function`` of each, by the name that pipelines use.

    Raises
    ------
    OptionError
        One has the name of another gadget, or cannot be imported, or is none.
    """
    for name, target in own.items():
        _import_own(name, target)
        _registered[name] = target


def available() -> dict[str, str]:
    """Return every gadget, with where it comes from."""
    from importlib.metadata import entry_points

    installed = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**installed, **_registered, **{name: f"{__name__}.{module}" for name, module in GADGETS.items()}}


def load(name: str) -> "Gadget":
    """Return a gadget by name: ours, one from the settings, or one that an installed package brings.

    Raises
    ------
    OptionError
        There is none of that name, or it cannot be imported.
    """
    if name in GADGETS:
        return getattr(import_module(f".{GADGETS[name]}", __name__), name)
    others = available()
    if name not in others:
        # what Gadgetron starts needs nothing of it, and must be up at once
        from ..wire.errors import OptionError, nearest

        what = f"there is no gadget {name!r}{nearest(name, others)}"
        raise OptionError(what, accepted=", ".join(sorted(others)), kind="gadget")
    return _import_own(name, others[name])


def _import_own(name: str, target: str) -> "Gadget":
    from ..wire.errors import OptionError
    from .gadget import Gadget

    where = f"gadget {name!r} from {target!r}"
    if name in GADGETS:
        raise OptionError("Isocenter has a gadget of this name", where=where, accepted="another name", kind="gadget")
    module, _, function = target.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(str(error), where=where, accepted="package.module:function", kind="gadget") from error
    if not isinstance(found, Gadget):
        raise OptionError(
            f"it is a {type(found).__name__}",
            where=where,
            accepted="a function with the decorator isocenter.gadgets.gadget.gadget",
            kind="gadget",
        )
    return found

"""Whether the runtime that settings pin can run the bundles that there are, told without running any."""

from typing import TYPE_CHECKING

from ..bundle.trust import Trust
from ..service.settings import Settings
from ..wire.errors import IsocenterError
from . import stamp

if TYPE_CHECKING:
    from ..bundle.folder import Bundle


def cannot_run(settings: Settings) -> dict[str, str]:
    """Return by name the bundles that the pinned runtime cannot run, and why.

    Parameters
    ----------
    settings
        Where they pin none, or bundles run on other hosts, nothing is said. Bundles that cannot be opened are left out: that is
        said elsewhere.

    Returns
    -------
    dict of str
        What completes a sentence that begins with the bundle's name.
    """
    if settings.runtime == "auto" or settings.ray is not None:
        return {}
    from ..engine.device import Shelf
    from ..service.devices import device_names

    try:
        kinds = {name.partition(":")[0] for name in device_names(settings.device)}
        shelf = Shelf(settings.bundle_folders, Trust.of(settings.home, settings.keys))
    except IsocenterError:
        return {}
    unbuilt = stamp.missing(settings)
    nothing_builds_it = settings.runtime == "aoti"
    found = {name: "is built without a model for aoti" for name in unbuilt if nothing_builds_it}
    for name in shelf.available().keys() - unbuilt:
        try:
            reason = _why(shelf.open(name), settings.runtime, kinds)
        except IsocenterError:
            continue
        if reason:
            found[name] = reason
    return dict(sorted(found.items()))


def _why(bundle: "Bundle", runtime: str, kinds: set[str]) -> str:
    """Why a runtime cannot run a bundle on every one of some kinds of devices; empty if it can."""
    from ..engine.runtimes import MACHINE_CODE, readers

    there = readers(bundle)
    if runtime not in there:
        return f"has no model for {runtime}, but for {' and '.join(sorted(bundle.runtime_files()))}"
    if runtime not in MACHINE_CODE:
        return ""
    if not bundle.may_hold_machine_code:
        return f"holds machine code ({there[runtime].name}), and no key that is trusted here has signed it"
    compiled = bundle.manifest.compiled_for
    others = sorted(kinds - {compiled})
    return f"was compiled for {compiled}, not for {' and '.join(others)}" if others else ""

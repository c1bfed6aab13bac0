"""Build the bundles that come with Isocenter, where they are missing or were made from something else."""

import fcntl
import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..bundle.manifest import BundleError
from ..bundle.trust import host_key
from ..export.build import DEFAULT_FORMATS, PARTIAL, SHIPPED_FORMATS
from ..export.classical import METHODS, ensure_classical
from ..export.formats import check_formats
from ..export.shipped import SHIPPED, ensure_shipped
from ..service.settings import Settings
from . import stamp
from .home import make_home
from .progress import Bars, bars
from .shipped import NAMES

log: logging.Logger = logging.getLogger("isocenter.prepare")


def formats_of(settings: Settings, *, onnx: bool = False) -> tuple[str, ...]:
    """Return the formats that bundles must have.

    Parameters
    ----------
    settings
        Where they pin a runtime that reads ONNX, the bundles must have it.
    onnx
        Whether they must have it anyway.

    Raises
    ------
    MissingExtraError
        What writes them is not installed.
    """
    formats = DEFAULT_FORMATS if onnx or settings.runtime in ("onnx", "tensorrt") else SHIPPED_FORMATS
    check_formats(formats)
    return formats


def prepare_bundles(
    settings: Settings,
    *,
    onnx: bool = False,
    sign: bool = False,
    only: Collection[str] | None = None,
    shown: Bars | None = None,
) -> None:
    """Build what is missing, or was made from something else. Several processes with one home share them out.

    Parameters
    ----------
    settings
        Bundles go to ``bundles`` in their home.
    onnx
        Whether the bundles that can have ONNX must have it, too, which takes longer to prepare; they also must where the settings
        pin a runtime that reads it.
    sign
        Whether this host must have signed them; it must, too, where the settings name keys.
    only
        Names of the bundles to look at; None: all.
    shown
        Told how far it is.

    Raises
    ------
    MissingExtraError
        ONNX files must be had, and what writes them is not installed.
    BundleError
        Some of them cannot be built; the others are there.
    """
    make_home(settings.home)
    folder = settings.home / "bundles"
    formats = formats_of(settings, onnx=onnx)
    builders = dict.fromkeys(METHODS, ensure_classical) | dict.fromkeys(SHIPPED, ensure_shipped)
    chosen = [name for name in builders if only is None or name in only]
    failures = []
    with _locked(settings.home, "key"):
        key = host_key(settings.home) if sign or settings.keys else None
    for number, name in enumerate(_in_turn(settings.home, chosen)):
        if shown is not None:
            shown.update("bundles made ready", number, len(chosen), at=f"({name})")
        for left in folder.glob(f".{name}.*{PARTIAL}"):  # nobody else builds it now
            shutil.rmtree(left, ignore_errors=True)
        try:
            builders[name](folder, formats, [name], key)
            with suppress(OSError), _locked(settings.home, "stamp"):  # without it, it is looked at again
                stamp.note(settings, name)
        except BundleError as error:
            failures.append(str(error))
    if failures:
        raise BundleError("; ".join(failures))


def build_if_missing(name: str, settings: Settings, available: Collection[str]) -> None:
    """Build a bundle that comes with Isocenter, if it is missing or was made by another version of it.

    Parameters
    ----------
    name
        Of the bundle; nothing happens if none of this name comes with Isocenter.
    settings
        As for ``prepare_bundles``.
    available
        Names of the bundles that there are: one of the user's own goes before ours.

    Raises
    ------
    BundleError
        It cannot be built.
    """
    ours = settings.home / "bundles" / name
    if name not in NAMES or (not ours.exists() and name in available):
        return
    with bars() as shown:
        prepare_bundles(settings, only=[name], shown=shown)


def _in_turn(home: Path, names: Collection[str]) -> Iterator[str]:
    """Yield each name while no other process builds the bundle; those come last that another one is at."""
    others: list[str] = []
    for name in names:
        with _locked(home, name, wait=False) as free:
            if free:
                yield name
            else:
                others.append(name)
    for name in others:
        log.info("waiting for another process that builds bundle %s in %s", name, home)
        with _locked(home, name):
            yield name


@contextmanager
def _locked(home: Path, what: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of this home, and tell whether it could be had; where there can be none, nothing can be built either."""
    with ExitStack() as stack:
        free = True
        try:
            folder = home / ".locks"
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / what).open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except OSError as error:
            log.warning("%s cannot be locked (%s): no other process may build bundles there now", home, error.strerror)
        yield free

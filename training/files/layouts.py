"""Layouts of files with scans, and how a new one is added.

An adapter is a generator function with the decorator ``layout``: it is given what is wanted of a file and yields ``Block``s of
k-space as they were measured, in any order. Everything else, from checks to cropping and from averaging to the cache, is done for
all of them in ``full_scans`` and ``prepared``. For example, for NumPy files [coils, ky, kx]::

    @layout("numpy", holds="NumPy files [coils, ky, kx]", recognises=lambda path: path.suffix == ".npy", suffixes=(".npy",))
    def read_numpy(reading):
        kspace = numpy.load(reading.path)
        yield Block(make_kspace(kspace[:, None, None]))

A module that defines one is named in the recipe (``data.layouts: [package.module]``), or by an installed package under the entry
point group ``isocenter.layouts``.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...gadgets.kspace import Kspace, block_of
from ...wire.errors import FileError, IsocenterError, OptionError
from ...wire.header import Encoding
from .hdf5 import describe

_DUST = 1e-8
"""Largest magnitude of a line, relative to that of all lines, that was not measured: single precision ends at 6e-8."""
ENTRY_POINTS = "isocenter.layouts"
"""Installed packages add layouts under this group: ``name = "package.module"``."""


@dataclass
class Reading:
    """What is wanted of a file, and what its adapter has to say of it.

    Attributes
    ----------
    path
        The file.
    series
        Whether the dynamic images of a slice belong together as frames.
    slices
        How many slices from the middle of the volume are wanted; None: all.
    remarks
        What a reader of results must know of the file, a sentence each.
    patient
        Identifies the patient, where the file tells; it is hashed, and neither shown nor kept.
    """

    path: Path
    series: bool = False
    slices: int | None = None
    remarks: list[str] = field(default_factory=list)
    patient: str = ""

    def middle(self, total: int) -> range:
        """Numbers of the wanted slices of ``total``. An adapter need not read others; if it does, they are left out later."""
        if self.slices is None:
            return range(total)
        return range(max((total - self.slices) // 2, 0), min((total + self.slices) // 2, total))

    def remark(self, text: str) -> None:
        """Say something once."""
        if text not in self.remarks:
            self.remarks.append(text)


@dataclass(frozen=True)
class Block:
    """Dynamic images of one slice or volume, as an adapter hands them on: as measured, neither cropped nor averaged.

    Attributes
    ----------
    kspace
        Data complex64 [coils, frames, kz, ky, kx]; lines and samples that were not measured are zero. Its ``encoding`` says what
        of the readout is oversampling.
    slice
        Number of the slice, by which the middle ones are chosen.
    volume
        Which of the file's volumes it belongs to, in words, such as ``repetition 2``; empty where there is one.
    matrix
        Pixels along y and x that a reader gets, where that is not what the encoding says.
    """

    kspace: Kspace
    slice: int = 0
    volume: str = ""
    matrix: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """Which part of the file it is, in words."""
        return f"slice {self.slice}, {self.volume}" if self.volume else f"slice {self.slice}"


Adapter = Callable[[Reading], Iterator[Block]]


@dataclass(frozen=True)
class Layout:
    """A layout of files.

    Attributes
    ----------
    name
        Short name.
    holds
        What such files hold, for messages.
    recognises
        Whether a file is of this layout.
    read
        Reads one.
    suffixes
        How names of such files end.
    """

    name: str
    holds: str
    recognises: Callable[[Path], bool]
    read: Adapter
    suffixes: tuple[str, ...]

    @cached_property
    def version(self) -> str:
        """Digest of the source of the adapter's module, so that what was prepared by another one is prepared anew."""
        try:
            source = inspect.getsource(inspect.getmodule(self.read) or self.read)
        except (OSError, TypeError):  # written in a prompt
            source = ""
        return hashlib.sha256(source.encode()).hexdigest()[:16]


_layouts: dict[str, Layout] = {}


def layout(
    name: str, *, holds: str, recognises: Callable[[Path], bool], suffixes: Sequence[str] = (".h5", ".hdf5")
) -> Callable[[Adapter], Adapter]:
    """Register an adapter, with the attributes of its ``Layout``; one of the same name is replaced."""

    def register(read: Adapter) -> Adapter:
        _layouts.pop(name, None)
        _layouts[name] = Layout(name, holds, recognises, read, tuple(suffixes))
        return read

    return register


def load_layouts(modules: Sequence[str] = ()) -> list[Layout]:
    """Return all layouts in the order in which they are asked: those of modules, of installed packages, and ours.

    Raises
    ------
    OptionError
        A module cannot be imported.
    """
    for own in ("mrd", "fastmri", "cmrxrecon"):
        importlib.import_module(f".{own}", __package__)
    for module in (*(point.value for point in entry_points(group=ENTRY_POINTS)), *modules):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a module does while it is imported
            raise OptionError(
                f"the layout {module!r} cannot be imported: {type(error).__name__}: {error}",
                where="data.layouts",
                accepted="package.module",
            ) from error
    return list(_layouts.values())[::-1]


def find_layout(path: Path, layouts: Sequence[Layout]) -> Layout:
    """Return the layout of a file.

    Raises
    ------
    FileError
        It is of none of them, or cannot be read.
    """
    for entry in layouts:
        with refusing(path, entry.name):
            if path.suffix.lower() in entry.suffixes and entry.recognises(path):
                return entry
    raise FileError(
        f"its layout is not known: it holds {describe(path)}",
        where=str(path),
        accepted="; ".join(entry.holds for entry in layouts),
        kind="layout",
    )


@contextmanager
def refusing(path: Path, layout: str) -> Iterator[None]:
    """Refuse a file that makes its adapter fail, as damaged files and such of unknown layouts do in many ways.

    Raises
    ------
    FileError
        In place of what an adapter or HDF5 raises.
    """
    try:
        yield
    except IsocenterError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise FileError(
            f"it cannot be read as {layout}: {type(error).__name__}: {reason}", where=str(path), accepted="a whole file"
        ) from error


def make_kspace(data: NDArray[np.complex64], encoding: Encoding | None = None) -> Kspace:
    """Make a block of data whose lines were measured where they are not zero, nor nothing but what rounding left.

    Parameters
    ----------
    data
        complex64 [coils, frames, kz, ky, kx].
    encoding
        Encoding space; without one, nothing is oversampled.
    """
    largest = np.abs(data).max(axis=(0, -1), initial=0)
    mask = torch.from_numpy(largest > _DUST * largest.max(initial=0))
    kspace = block_of(torch.from_numpy(np.ascontiguousarray(data, np.complex64)), mask)
    return kspace if encoding is None else replace(kspace, encoding=encoding)

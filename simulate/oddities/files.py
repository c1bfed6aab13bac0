"""Files that are written in another way than the ISMRMRD library does."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..scan import SimulatedScan
from .registry import oddity


@oddity
def big_endian(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The file holds big-endian numbers."""
    return _written(scan, big_endian=True)


@oddity
def header_scalar(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The header is a string in the file instead of an array of one."""
    return _written(scan, xml="scalar")


@oddity
def header_fixed_length(scan: SimulatedScan, _random: np.random.Generator, *, scalar: bool = False) -> SimulatedScan:
    """The header is a string of fixed length in the file."""
    return _written(scan, xml="fixed scalar" if scalar else "fixed array")


@oddity
def members_reversed(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The file lists the members of its compound types in the opposite order."""
    return _written(scan, reversed_members=True)


@oddity
def no_trajectory_member(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The file's acquisitions have no member for a trajectory."""
    return _written(scan, trajectory=False)


@oddity
def sizes_zero(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The heads in the file say 0 samples and 0 channels, and the samples are there."""
    return _written(scan, sizes=False)


@oddity
def stream(scan: SimulatedScan, _random: np.random.Generator) -> SimulatedScan:
    """The file is an ISMRMRD stream: header, items and close as messages."""
    return _written(scan, stream=True)


@oddity
def other_group(scan: SimulatedScan, _random: np.random.Generator, *, name: str = "scan_1") -> SimulatedScan:
    """The scan is in another group of the file than ``dataset``."""
    return _written(scan, group=name)


def _written(scan: SimulatedScan, **layout: Any) -> SimulatedScan:
    """The scan with other ways of writing it."""
    return replace(scan, layout=replace(scan.layout, **layout))

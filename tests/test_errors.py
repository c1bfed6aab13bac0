"""One tree of errors: each says what was wrong, where and what is accepted, and carries its kind as data."""

import importlib
import inspect
import pickle

import pytest
from isocenter.flow.channel import Stopped
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.cursor import NeedMoreError
from isocenter.wire.errors import DataError, IsocenterError, OptionError
from test_architecture import MODULES

NO_FAULTS = {Stopped, NeedMoreError}
"""How threads and the codec say that something else comes first; nobody outside sees them."""


def classes():
    for module in MODULES:
        try:
            members = vars(importlib.import_module("isocenter" if module == "__init__" else f"isocenter.{module}"))
        except ImportError:
            continue  # an extra that is not installed
        for member in members.values():
            if inspect.isclass(member) and issubclass(member, Exception) and member.__module__.startswith("isocenter"):
                yield member


@pytest.mark.parametrize("error", sorted(set(classes()) - NO_FAULTS, key=lambda each: each.__name__))
def test_every_error_is_in_the_tree(error):
    if issubclass(error, Warning):
        return
    assert issubclass(error, IsocenterError)
    assert error is IsocenterError or error.kind != IsocenterError.kind
    one = error("it is odd", where="here", accepted="even", kind="parity")
    assert str(one) == "here: it is odd; accepted: even"
    assert (one.what, one.where, one.accepted, one.kind) == ("it is odd", "here", "even", "parity")
    assert str(error("it is odd")) == "it is odd"
    assert error("it is odd").kind == error.kind
    copied = pickle.loads(pickle.dumps(one))
    assert type(copied) is error
    assert vars(copied) == vars(one)


def test_problems_of_a_scan_are_counted_by_their_kind():
    scan = Scan(simulate(ScanProtocol(matrix=16, coils=2)).header)
    for error in (DataError("line 1", kind="counter"), DataError("line 2", kind="counter"), OptionError("odd")):
        scan.report(error.kind, str(error))
    assert scan.problem_messages() == ["line 1 (2 times)", "odd"]

"""The type stubs of ``ismrmrd`` say what the library has: it comes without types, and ours must not drift from it."""

import ast
import dataclasses
from pathlib import Path

import ismrmrd
import pytest
from ismrmrd import constants, hdf5, xsd

STUBS = Path(__file__).parent.parent / "typings" / "ismrmrd"


def classes(stub: str) -> dict[str, set[str]]:
    """Names of the members of the public classes of a stub, with those of the classes that it inherits from."""
    tree = ast.parse((STUBS / stub).read_text(encoding="utf-8"))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def members(name: str) -> set[str]:
        if name not in nodes:
            return set()
        own = {
            node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.target)
            for node in nodes[name].body
            if isinstance(node, ast.FunctionDef | ast.AnnAssign)
        }
        return own.union(*(members(ast.unparse(base)) for base in nodes[name].bases))

    return {name: members(name) for name in nodes if not name.startswith("_")}


@pytest.mark.parametrize("name", ["EncodingCounters", "AcquisitionHeader", "ImageHeader", "WaveformHeader"])
def test_headers_have_the_fields_of_the_format(name):
    fields = {field for field, *_ in getattr(ismrmrd, name)._fields_}
    stub = classes("__init__.pyi")[name]
    assert fields <= stub
    assert {member for member in stub - fields if not hasattr(getattr(ismrmrd, name), member)} == set()


@pytest.mark.parametrize("name", ["Acquisition", "Image", "Waveform", "Meta", "File"])
def test_classes_have_what_the_stub_says(name):
    instance = getattr(ismrmrd, name)() if name != "File" else ismrmrd.File
    assert {member for member in classes("__init__.pyi")[name] if not hasattr(instance, member)} == set()


def test_the_writer_has_what_the_stub_says():
    members = classes("hdf5.pyi")["Dataset"] - {"_file"}
    assert {member for member in members if not hasattr(hdf5.Dataset, member)} == set()


def test_every_type_of_the_header_is_in_the_stub_with_its_fields():
    stub = classes("xsd.pyi")
    types = {name: kind for name, kind in vars(xsd).items() if dataclasses.is_dataclass(kind)}
    assert types
    for name, kind in types.items():
        methods = {"toXML", "toDOM"} if kind is xsd.ismrmrdHeader else set()
        assert stub[name] - methods == {field.name for field in dataclasses.fields(kind)}


def test_constants_have_their_values():
    tree = ast.parse((STUBS / "constants.pyi").read_text(encoding="utf-8"))
    values = {
        ast.unparse(node.target): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.value is not None
    }
    assert values == {name: value for name, value in vars(constants).items() if name.isupper()}

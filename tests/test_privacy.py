"""Nothing that a scan brings along is in the log, in a text to the client or in a file's name, whatever goes wrong.

Every field that the schema of the header has, and every other place where a scanner can put a text, gets a value of its own.
"""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from isocenter.commands.client import Client, connect
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, ErrorReport, Header, Query, Text, encode
from isocenter.wire.items import DicomFile, Waveform, make_image
from xsdata.models.datatype import XmlDate, XmlTime

OUR_MODULE = """
from isocenter.gadgets.gadget import gadget

def values(scan):
    header = scan.header
    subject = header.subjectInformation
    return f"{subject.patientName} {subject.patientID} {header.measurementInformation.measurementID} {dict(scan.parameters)}"

@gadget
def careless(items, scan):
    print("in process", values(scan))
    import logging, sys, threading, warnings
    print("in process", values(scan), file=sys.stderr)
    warnings.warn(values(scan))
    logging.getLogger("careless").error(values(scan))
    thread = threading.Thread(target=lambda: int(values(scan)))
    thread.start()
    thread.join()
    raise RuntimeError(values(scan))
    yield
"""
FIRE_MODULE = """
import logging, sys, warnings

def process(connection, config, metadata):
    logging.error("header %s", metadata)
    warnings.warn(str(metadata))
    print(metadata)
    print(metadata, file=sys.stderr)
    raise ValueError(f"{metadata} {config}")
"""
HANDLER = """
def fail(connection):
    raise ValueError(connection.raw_bytes.header)
"""


class Canaries:
    """Values that are found again; ``wrong`` ones are texts where the schema wants something else."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = count(1)
        self.values: list[str] = []

    def text(self) -> str:
        return self._keep(f"{self._name}{next(self._numbers):04d}Zq")

    def value(self, kind: type) -> str:
        number = next(self._numbers)
        if kind is float:
            return self._keep(f"{83000 + number}.7391")
        if kind is int:
            return self._keep(f"{7391000000 + number}")
        if kind is XmlDate:
            return self._keep(f"{1000 + number:04d}-03-07")
        if kind is XmlTime:
            return self._keep(f"{number % 24:02d}:{number // 24 % 60:02d}:17.7391")
        if isinstance(kind, type) and issubclass(kind, Enum):
            return next(iter(kind)).value
        return self.text()

    def _keep(self, value: str) -> str:
        self.values.append(value)
        return value

    def found_in(self, text: str) -> list[str]:
        return [value for value in self.values if value in text or value.encode("utf-16-le").decode("latin-1") in text]


SIZES = {"encodedSpace", "reconSpace", "encodingLimits", "trajectory"}
"""What a scan cannot do without."""


def element(kind: type, canaries: Canaries, wrong: bool, skip: frozenset[str] = frozenset()) -> str:
    """Every element that a dataclass of the schema can hold, each with a value of its own."""
    parts = []
    hints = get_type_hints(kind)
    for each in fields(kind):
        if each.name in skip or each.name == "receiverChannels":  # a number that a text about channels tells
            continue
        hint = hints[each.name]
        inner = [part for part in get_args(hint) if part is not type(None)]
        inner = inner[0] if inner else hint
        if get_origin(inner) is list:
            (inner,) = get_args(inner)
        content = (
            element(inner, canaries, wrong)
            if is_dataclass(inner)
            else canaries.text()
            if wrong
            else canaries.value(inner)
        )
        parts.append(f"<{each.name}>{content}</{each.name}>")
    return "".join(parts)


def full_header(scan, canaries, *, wrong=False, extra=""):
    """The header of a scan with everything else that the schema has."""
    encoding = re.search(r"<encoding>.*</encoding>", scan.header, re.DOTALL)[0]
    more = element(xsd.encodingType, canaries, wrong, frozenset(SIZES))
    more = re.sub(r">[\d.]{9,}<", ">1<", more)  # numbers of the encoding are what texts are about
    encoding = encoding.replace("</encoding>", f"{more}</encoding>")
    rest = element(xsd.ismrmrdHeader, canaries, wrong, frozenset({"encoding"}))
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{rest}{encoding}{extra}</ismrmrdHeader>'


def oddities(canaries):
    """Other places of a header where a text can be."""
    new = canaries.text
    return (
        f'<!-- {new()} --><?{new()} {new()}?><{new()} {new()}="{new()}">{new()}</{new()[:0] or canaries.values[-5]}>'
        f"<![CDATA[{new()}]]><unknown>{new()} & {new()}</unknown>{new()}"
    )


def headers(scan, canaries):
    """Headers that are right, and headers with what goes wrong at scanners and converters."""
    right = full_header(scan, canaries)
    odd = full_header(scan, canaries, wrong=True, extra=oddities(canaries))
    sizes = re.sub(r"<x>\d+</x>", lambda _: f"<x>{canaries.text()}</x>", right)
    return {
        "right": right.encode(),
        "wrong types": odd.encode(),
        "sizes are texts": sizes.encode(),
        "decimal commas": full_header(scan, canaries).replace(".7391<", ",7391<").encode(),
        "cut off": right.encode()[: len(right) * 2 // 3],
        "broken": right.replace("</patientName>", "<").encode(),
        "doctype": f"<!DOCTYPE x [<!ENTITY e '{canaries.text()}'>]>{right}".encode(),
        "entity": right.replace("</patientName>", f"&{canaries.text()};</patientName>").encode(),
        "another encoding": f'<?xml version="1.0" encoding="{canaries.text()}"?>{right}'.encode("cp1252"),
        "not utf-8": right.replace("</patientName>", "\xfc</patientName>").encode("latin-1"),
        "utf-16": right.encode("utf-16"),
        "half a character": right.encode("utf-16")[:-1],
        "around": f"{canaries.text()} {right} {canaries.text()}".encode(),
        "no xml": canaries.text().encode(),
        "no encoding": right.replace("encoding>", "other>").encode(),
    }


class Log:
    """A service in a process of its own, with everything that it writes."""

    def __init__(self, folder: Path, bundles: Path, style: str) -> None:
        self.folder, self.style = folder, style
        for name, code in (("own", OUR_MODULE), ("leaks", FIRE_MODULE), ("handler", HANDLER)):
            (folder / f"lab_{name}.py").write_text(code)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        settings = {
            "home": str(folder / "home"),
            "bundles": [str(bundles)],
            "python_path": [str(folder)],
            "gadgets": {"careless": "lab_own:careless"},
            "fire_modules": {"leaks": "lab_leaks"},
            **({"handlers": ["lab_handler.fail"]} if find_spec("gadgetron") else {}),
            "spool": str(folder / "spool"),
            "log_format": style,
            "drain_timeout": 1,
        }
        (folder / "isocenter.yaml").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "isocenter.commands.cli", "serve", "-v", "--config", folder / "isocenter.yaml"]
        self._path = folder / "log"
        environment = {**os.environ, "ISOCENTER_HOME": str(bundles.parent)}
        with self._path.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)], stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def connect(self):
        return connect("127.0.0.1", self.port, 120)

    def close(self) -> str:
        self._process.terminate()
        try:
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()
        return self._path.read_text("utf-8")


@pytest.fixture(scope="module", params=["json", pytest.param("text", marks=pytest.mark.long)])
def log(request, tmp_path_factory, bundles):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "home").mkdir()
    (folder / "home" / "bundles").symlink_to(bundles)
    service = Log(folder, bundles, request.param)
    yield service
    service.close()


OWN = (
    b"<configuration><version>2</version><stream><external><connect port='1'/><configuration>"
    b"<gadget name='careless'/></configuration></external></stream></configuration>"
)
PROGRAM = (
    b"<configuration><version>2</version><stream><external><execute name='lab_handler' target='fail' type='python'/>"
    b"<configuration/></external></stream></configuration>"
)


def image_with(canaries):
    meta = ismrmrd.Meta({canaries.text(): canaries.text()})
    return make_image(np.ones((1, 1, 4, 4), np.float32), ismrmrd.ImageHeader(), meta)


def items_with(scan, canaries):
    """A scan's items, among them others with texts of their own."""
    name = canaries.text().encode()
    image = image_with(canaries)
    waveform = Waveform.from_array(np.zeros((1, 4), np.uint32))
    texts = [Text(canaries.text()), Query(canaries.text(), 1)]
    return [*texts, image, waveform, DicomFile(name, name, f"<{canaries.text()}".encode()), *scan.items]


def converse(service, messages):
    """Send messages, or bytes as they are, and return the texts that come back."""
    sock = service.connect()
    client = Client(sock)
    for message in messages:
        if isinstance(message, bytes):
            sock.sendall(message)
        else:
            client.send(message)
    return "".join(client.finish().texts)


def test_no_log_no_text_and_no_name_of_a_file_has_it(log):
    scan = simulate(ScanProtocol(matrix=32, coils=2))
    theirs, asked = Canaries("Cnry"), Canaries("Qstn")  # what a client asks for, it may be told again
    texts = {}
    for name, header in headers(scan, theirs).items():
        for config in ("rss.xml", "leaks", OWN, PROGRAM) if name in ("right", "wrong types") else ("rss.xml",):
            message = ConfigScript(config) if isinstance(config, bytes) else ConfigFile(config)
            parameters = Text(json.dumps({"parameters": {asked.text(): theirs.text()}}))
            opening = [message, Header(header), parameters]
            texts[name, config] = converse(log, [*opening, *items_with(scan, theirs), Close()])
    right = full_header(scan, theirs).encode()
    image = b"".join(bytes(part) for part in encode(image_with(theirs)))
    for damaged in (image.replace(b"<meta>", b"<mexa>"), image.replace(b"</value>", b"<value/>"), b"\xee" + image):
        texts[repr(damaged)] = converse(log, [ConfigFile("rss.xml"), Header(right), *scan.items[:40], damaged])
    new = asked.text
    for opening in (
        [ConfigFile(new())],
        [ConfigFile("rss.xml\n2026-01-01T00:00:00.000 ERROR   forged")],
        [ConfigScript(f"<{new()}/>".encode())],
        [ConfigScript(f"<configuration>&{new()};</configuration>".encode())],
        [ConfigScript(f"<configuration><gadget name='{new()}'/></configuration>".encode())],
        [ConfigScript(OWN.replace(b"careless", new().encode()))],
        [
            ConfigScript(
                OWN.replace(b"'careless'/", f"'scale'><property name='factor' value='{new()}'/></gadget".encode())
            )
        ],
        [ConfigScript(PROGRAM.replace(b"lab_handler", new().encode()))],
        [ConfigScript(PROGRAM.replace(b"execute name=", f"connect address='{new()}' port='7' name=".encode()))],
        [ConfigFile("network.xml"), Header(right), Text(json.dumps({"parameters": {"bundle": new(), "config": ""}}))],
        [ConfigFile("rss.xml"), Header(right), Text(json.dumps({"parameters": {"config": new()}}))],
        [ConfigFile("rss.xml"), Header(right), Text(f'{{"parameters": "{new()}')],
        [Header(right)],
        [ConfigFile("rss.xml"), Header(right), Header(right)],
        [ConfigFile("rss.xml"), Header(right.replace(b"ismrmrdHeader", new().encode()))],
        [ConfigFile("rss.xml"), Header(right), ErrorReport(theirs.text())],
    ):
        texts[repr(opening)] = converse(log, [*opening, *scan.items, Close()])
    written = log.close()
    assert not {case: theirs.found_in(text) for case, text in texts.items() if theirs.found_in(text)}
    lines = written.splitlines()
    assert not [line for line in lines if theirs.found_in(line) or asked.found_in(line)]
    names = "\n".join(str(path) for folder in ("home", "spool") for path in (log.folder / folder).rglob("*"))
    assert not theirs.found_in(names) + asked.found_in(names)
    assert len(lines) > 100
    assert any("lab_own.py" in line for line in lines)
    assert any("lab_leaks.py" in line for line in lines)
    if log.style == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
    else:
        assert all(
            re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR)", line) for line in lines
        )
        assert not [line for line in lines if line.startswith("2026-01-01")]

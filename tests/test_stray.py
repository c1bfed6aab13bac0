"""Messages that may not come within a stream, on a real connection: they cost nothing of what had come before them."""

import socket
import struct

import numpy as np
import pytest
from helpers import joined
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, ErrorReport, Header, Response, Text
from isocenter.wire.items import DependencyReport, Feedback, Image

LINES = 32
BEFORE = 1 + LINES + LINES // 2
"""Items before the stray message: the noise, a slice, and half of another."""


@pytest.fixture(scope="module")
def scan():
    return simulate(ScanProtocol(matrix=LINES, coils=4, slices=3, noise=0.5))


def images_and_text(service, scan, stray, *, at=BEFORE, half_close=False):
    """Stream a scan with bytes in the middle of it; return its images by slice, and what the client was told."""
    opening = joined(ConfigFile("rss.xml"), Header(scan.header.encode()), *scan.items[:at])
    with service.connect() as sock:
        sock.settimeout(20)
        sock.sendall(opening + stray + joined(*scan.items[at:], Close()))
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while part := sock.recv(65536):
            received += part
    messages = Decoder().feed(received)
    assert isinstance(messages[-1], Close)
    images = {message._head.slice: message for message in messages if isinstance(message, Image)}
    return images, "".join(message.text for message in messages if isinstance(message, Text))


HARMLESS = [Response("r", 1), DependencyReport({"a": "b"}), Feedback("f", b"x"), ErrorReport("Jane Doe 1970-01-01")]


@pytest.mark.parametrize("stray", HARMLESS, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("at", [0, BEFORE])
def test_what_tells_nothing_of_the_data_is_passed_over(service, scan, stray, at):
    images, told = images_and_text(service, scan, joined(stray), at=at)
    expected = {image._head.slice: image for image in service.replay(scan).images}
    assert images.keys() == expected.keys()
    assert all(np.array_equal(images[number].data, expected[number].data) for number in images)
    assert not any("IsocenterIncomplete" in image.meta for image in images.values())
    assert f"WARNING: a message of type {type(stray).__name__} came after the header" in told
    assert "Jane" not in told


def test_the_same_header_again_is_passed_over(service, scan):
    images, told = images_and_text(service, scan, joined(Header(scan.header.encode())))
    assert sorted(images) == [0, 1, 2]
    assert not any("IsocenterIncomplete" in image.meta for image in images.values())
    assert "the same MRD header again" in told


def test_parameters_that_come_too_late_are_not_taken_for_used(service, scan):
    images, told = images_and_text(service, scan, joined(Text('{"parameters": {"bundle": "sense"}}')))
    assert sorted(images) == [0, 1, 2]
    assert "parameters came after the first data" in told
    for text in ("hello", "{}", "{"):
        _, told = images_and_text(service, scan, joined(Text(text)))
        assert not told


OTHER_HEADER = joined(Header(b"<ismrmrdHeader/>"))


@pytest.mark.parametrize(
    ("stray", "reason"),
    [
        (OTHER_HEADER, "type Header is not accepted within the stream"),
        (joined(ConfigFile("sense.xml")), "type ConfigFile is not accepted within the stream"),
        (joined(ConfigScript(b"<configuration/>")), "type ConfigScript is not accepted"),
        (struct.pack("<H", 4711), "message id 4711 is not known"),
        (b"\xff" * 999, "message id 65535 is not known"),
    ],
)
def test_what_may_belong_to_another_scan_ends_the_stream_there(service, scan, stray, reason):
    images, told = images_and_text(service, scan, stray, half_close=True)
    expected = {image._head.slice: image for image in service.replay(scan).images}
    whole, half = scan.items[1].idx.slice, scan.items[BEFORE].idx.slice
    assert images.keys() == {whole, half}
    assert np.array_equal(images[whole].data, expected[whole].data)
    assert "IsocenterIncomplete" not in images[whole].meta
    assert "16 of 32 lines are missing" in images[half].meta["IsocenterIncomplete"]
    assert "the scan was interrupted" in told
    assert reason in told
    assert len(service.replay(scan).images) == 3

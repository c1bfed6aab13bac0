"""Nodes of others that a pipeline connects to and that go wrong: the scan says so, and nothing waits for them without end."""

import re
import time

import pytest
from helpers import wait_until
from isocenter.wire import Close, ErrorReport, Header, encode
from test_external import node, threads


def silent(sock):
    while sock.recv(65536):
        pass


def deaf(_sock):
    """Reads nothing."""


def garbage(sock):
    sock.sendall(b"\xfe" * 4096)
    silent(sock)


def enormous(sock):
    """Announces an image of 1 GiB and begins to send it."""
    sock.sendall(b"\xfe\x03" + bytes(198))
    silent(sock)


def error(sock):
    for buffer in (*encode(ErrorReport("patient CANARY")), *encode(Close())):
        sock.sendall(buffer)
    silent(sock)


def header(sock):
    for buffer in encode(Header(b"<x/>")):
        sock.sendall(buffer)
    silent(sock)


def gone(sock):
    sock.recv(10)
    sock.close()


class TestNodesThatGoWrong:
    @pytest.mark.parametrize(
        ("behaviour", "said"),
        [
            (silent, "kept the scan waiting for 1 seconds"),
            (deaf, "kept the scan waiting for 1 seconds"),
            (garbage, "message id 65278 is not known"),
            (enormous, "kept the scan waiting for 1 seconds"),
            (error, "failed; the service's log tells more about scan"),
            (header, "sent a message that has no place here"),
            (gone, "Connection reset|ended without CLOSE"),
        ],
    )
    def test_the_scan_says_so(self, make_service, small_scan, large_scan, behaviour, said, caplog):
        with node(behaviour) as port, caplog.at_level("DEBUG", logger="isocenter"):
            service = make_service(connect=(f"localhost:{port}",), program_timeout=1, drain_timeout=1)
            xml = (
                "<configuration><version>2</version><stream>"
                f'<external><connect address="localhost" port="{port}"/><configuration><x/></configuration></external>'
                '<external><connect port="1"/><configuration><pipeline name="rss"/></configuration></external>'
                "</stream></configuration>"
            )
            start = time.monotonic()
            result = service.replay(large_scan, xml.encode())
        assert re.search(said, "".join(result.texts))
        assert f"external program localhost:{port}" in "".join(result.texts)
        assert "CANARY" not in "".join(result.texts) + caplog.text
        assert time.monotonic() - start < 15
        assert len(service.replay(small_scan, "rss.xml").images) == 1
        wait_until(lambda: not [thread for thread in threads() if thread.name == "external"])
        wait_until(lambda: service.server.memory.held == 0)

    def test_one_that_is_not_there(self, make_service, small_scan, monkeypatch):
        monkeypatch.setattr("isocenter.service.program._CONNECT_SECONDS", 0.05)
        service = make_service(connect=("localhost:1",))
        xml = (
            b"<configuration><version>2</version><stream>"
            b'<external><connect address="localhost" port="1"/><configuration><x/></configuration></external>'
            b"</stream></configuration>"
        )
        said = "".join(service.replay(small_scan, xml).texts)
        assert "external program localhost:1 cannot be reached: Connection refused" in said

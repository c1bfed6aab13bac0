"""The log: nothing from outside in it, one line for each thing, bounded, and never waited for."""

import errno
import fcntl
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import pytest
from isocenter.commands.client import Client, connect, replay
from isocenter.service import logs
from isocenter.service.log_writer import Writer
from isocenter.service.logs import ScanLog, change_logging, configure_logging, finish, limited, show_names
from isocenter.service.outside import only_the_log
from isocenter.wire import ConfigFile
from isocenter.wire.errors import DataError

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


@contextmanager
def written(monkeypatch, style="text", **options):
    """Collect the lines of the log."""
    stream, lines = io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(style, verbose=True, **options)
    yield lines
    assert finish(10)
    lines += stream.getvalue().splitlines()
    configure_logging(style)


@pytest.fixture
def log():
    return logging.getLogger("isocenter.test")


@pytest.fixture(autouse=True)
def new_limits(monkeypatch):
    monkeypatch.setattr(logs, "_limits", {})


FORGED = "x\n2026-01-01T00:00:00.000 ERROR   forged\r\x1b[2J\u2028\u202e\ud800\x00"


@pytest.mark.parametrize("style", ["text", "json"])
def test_whatever_comes_from_outside_a_line_stays_one(monkeypatch, log, style):
    with written(monkeypatch, style, private=True) as lines:
        log.info("%s and %r", FORGED, FORGED)
        log.info("peer", extra={"scan": FORGED, "fields": {"peer": FORGED, "deep": {FORGED: [FORGED, float("nan")]}}})
        log.error("failed", exc_info=ValueError(FORGED))
        log.info(FORGED)
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    for line in lines:
        assert isinstance(json.loads(line), dict) if style == "json" else LINE.match(line)


def test_a_value_cannot_pass_for_another(monkeypatch, log):
    with written(monkeypatch) as (lines):
        log.info("connected", extra={"fields": {"peer": 'fe80::1%a] pipeline=rss "'}})
    assert lines[0].endswith(r'connected  [peer="fe80::1%a] pipeline=rss \""]')


@pytest.mark.parametrize("style", ["text", "json"])
def test_lines_are_bounded(monkeypatch, log, style):
    with written(monkeypatch, style, private=True) as lines:
        log.info("%s", "x" * 2**24)
        log.info("%r", "'" * 2**24, extra={"fields": {"name": "x" * 2**24, "many": ["x"] * 2**16}})
    assert all(len(line) < 10_000 for line in lines)
    assert "(16777216 characters)" in lines[0]


def test_what_is_quoted_is_shown_only_if_the_site_has_named_it(monkeypatch, log):
    show_names(["known.xml"])
    with written(monkeypatch) as lines:
        log.info("the service's settings have no %r, the gadget's %r, %r, %r", "Doe", "known.xml", "O'Doe", "a'\"Doe\\")
        log.error("%s", DataError("it has no 'Doe'", where="gadget 'Doe'", accepted='"Doe", x'))
        log.info("cut 'Doe %s", "x" * 9000)
    assert "Doe" not in "".join(lines)
    assert "the service's settings have no '…', the gadget's 'known.xml', \"…\", '…'" in lines[0]
    assert "gadget '…': it has no '…'; accepted: \"…\", x" in lines[1]


def fail():
    try:
        int("Doe")
    except ValueError as error:
        raise RuntimeError("Doe") from error


@pytest.mark.parametrize("style", ["text", "json"])
def test_errors_show_kind_and_place_and_no_text(monkeypatch, log, style):
    with written(monkeypatch, style) as lines:
        try:
            fail()
        except RuntimeError as error:
            log.exception("it failed: %s", error)
            log.warning("%s", FileNotFoundError(errno.ENOENT, "No such file", "/data/Doe"))
            log.warning("%s", OSError("cannot open Doe"))
    assert len(lines) == 3
    assert "Doe" not in "".join(lines)
    assert re.search(r"RuntimeError in .*test_logs.py:\d+ fail from ValueError in test_logs.py:\d+ fail", lines[0])
    assert "No such file or directory" in lines[1]


def test_records_of_a_scan_are_safe_whoever_reads_them(caplog):
    with caplog.at_level("DEBUG", logger="isocenter"):
        try:
            fail()
        except RuntimeError as error:
            ScanLog("s1").exception("it failed with %s and %r", error, "Doe")
    assert "Doe" not in caplog.text + str([vars(record) for record in caplog.records])
    assert caplog.records[0].scan == "s1"
    assert "RuntimeError in" in caplog.records[0].fields["error"]


def test_with_log_private_all_is_shown(monkeypatch, log):
    with written(monkeypatch, private=True) as lines:
        log.error("%r", "Doe", exc_info=ValueError("Jane"))
    assert "'Doe'" in lines[0]
    assert "ValueError (Jane)" in lines[0]


def test_lines_change_when_settings_do(monkeypatch, log):
    with written(monkeypatch) as lines, only_the_log():
        log.debug("%r", "Doe")
        finish()
        change_logging("json", private=True)
        log.debug("not said")
        log.info("%r", "Doe")
    assert len(lines) == 2
    assert lines[0].endswith("DEBUG   '…'")
    assert json.loads(lines[1])["message"] == "'Doe'"


def test_what_others_write_becomes_lines_without_what_it_is_about(monkeypatch, log):
    def in_thread():
        int("Doe")

    with written(monkeypatch, "json") as lines, warnings.catch_warnings(), only_the_log():
        warnings.simplefilter("always")
        sys.stdout.write("Doe\n")
        sys.stderr.write("Doe\n")
        warnings.warn("Doe", stacklevel=1)
        logging.getLogger("xsdata").warning("Doe %s", "Doe")
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        log.info("number %d", "Doe")
    messages = [json.loads(line)["message"] for line in lines]
    assert "Doe" not in "".join(lines)
    assert sum("something was printed" in message for message in messages) == 2
    assert any(message.startswith("UserWarning in test_logs.py:") for message in messages)
    assert any("xsdata logs in test_logs.py" in message for message in messages)
    assert any("ended thread" in message for message in messages)


def test_an_error_that_ends_the_service_shows_no_text(monkeypatch):
    with written(monkeypatch) as lines, pytest.raises(SystemExit), only_the_log():
        fail()
    assert "CRITICAL an error ended the service" in lines[0]
    assert "Doe" not in lines[0]


def test_lines_that_others_can_cause_are_limited_and_counted(monkeypatch, log):
    with written(monkeypatch) as lines:
        for number in range(1000):
            limited(log, logging.INFO, "refused", "refused %d", number)
        monkeypatch.setattr(logs, "_MINUTE", 0.0)
        limited(log, logging.INFO, "refused", "refused %d", 1000)
    assert len(lines) == 12
    assert "990 more lines like the next one" in lines[10]


@pytest.mark.parametrize("private", [False, True])
def test_what_is_written_past_python_becomes_json_too(private):
    code = (
        "import os, logging\n"
        "from isocenter.service.json_lines import only_json\n"
        "from isocenter.service.logs import configure_logging, finish\n"
        f"only_json(private={private})\n"
        "configure_logging('json')\n"
        "logging.getLogger('isocenter.x').info('ours')\n"
        "finish()\n"
        "os.write(2, b'Doe 1\\n\\n[2]\\n')\n"
        "os.system('echo theirs >&2')\n"
        "os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["message"] for line in lines] == ["ours", *["something was written to standard error"] * 3]
    assert all(line["time"] and line["level"] for line in lines)
    assert [line.get("text") for line in lines[1:]] == (["Doe 1", "[2]", "theirs"] if private else [None] * 3)


class TestWriter:
    @pytest.fixture
    def pipe(self):
        reader, number = os.pipe()
        fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, 4096)
        with os.fdopen(reader, "rb", buffering=0) as ours, os.fdopen(number, "w") as theirs:
            yield ours, theirs

    def test_nobody_waits_for_whoever_does_not_read(self, pipe):
        ours, theirs = pipe
        writer = Writer(theirs)
        start = time.monotonic()
        for number in range(10_000):
            writer.handle(logging.makeLogRecord({"msg": f"line {number}"}))
        assert time.monotonic() - start < 5
        assert not writer.finish(0.1)
        received = b""
        while b"lost" not in received:
            received += ours.read(4096)
        lines = received.decode().splitlines()
        assert lines[0] == "line 0"
        lost = int(lines[-1].rpartition("lost: ")[2])
        assert lost + len(lines) - 1 == 10_000
        assert lost > 5000
        assert writer.finish(5)
        writer.close()

    def test_a_reader_that_is_gone_is_no_error_and_loses_lines_only(self, pipe):
        ours, theirs = pipe
        ours.close()
        writer = Writer(theirs)
        writer.handle(logging.makeLogRecord({"msg": "line"}))
        assert writer.finish(5)
        theirs.close()
        writer.handle(logging.makeLogRecord({"msg": "line"}))
        assert writer.finish(5)
        writer.close()

    def test_without_standard_error_nothing_happens(self):
        writer = Writer(None)
        writer.handle(logging.makeLogRecord({"msg": "line"}))
        assert writer.finish(5)
        writer.close()
        assert not any(thread.name == "log" and not thread.daemon for thread in threading.enumerate())


@pytest.mark.parametrize(("closed", "number"), [(False, signal.SIGTERM), (True, signal.SIGINT)])
def test_a_service_whose_log_nobody_reads_serves_and_stops(bundles, small_scan, closed, number):
    """Its standard error is a full pipe, or was closed before it started."""
    reader, full = os.pipe()
    fcntl.fcntl(full, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(full, False)
    while True:
        try:
            os.write(full, b"x" * 1024)
        except BlockingIOError:
            break
    os.set_blocking(full, True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "isocenter.commands.cli", "serve", "-v", "--port", str(port)]
    shell = ["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash", *command]
    environment = {**os.environ, "ISOCENTER_HOME": str(bundles.parent)}
    process = subprocess.Popen(shell if closed else command, env=environment, stderr=full)
    try:
        connect("localhost", port, 60).close()
        for _ in range(4):
            client = Client(connect("localhost", port, 60))
            result = replay(client, small_scan.header.encode(), small_scan.items, ConfigFile("rss.xml"))
            assert len(result.images) == 1
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(full)

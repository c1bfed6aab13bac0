"""The service as a whole: who is served, what one connection can do to it, and how it is told to stop and to reload."""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from helpers import stream, wait_until
from isocenter.commands.client import ClientError, ask, connect
from isocenter.engine import Engine
from isocenter.service import server as server_module
from isocenter.service.admission import refusal
from isocenter.service.settings import Settings, SettingsError, load_settings, reloaded
from isocenter.wire import Decoder, Text


def said(sock, timeout=10):
    """Return what is said until the connection ends."""
    sock.settimeout(timeout)
    received = b""
    while part := sock.recv(65536):
        received += part
    return "".join(message.text for message in Decoder().feed(received) if isinstance(message, Text))


def descriptors(process):
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


class TestAdmission:
    @pytest.mark.parametrize(
        ("peer", "served"),
        [
            ("10.1.2.3", True),
            ("::ffff:10.1.2.3", True),
            ("10.2.2.3", False),
            ("192.168.7.1", True),
            ("192.168.7.2", False),
            ("fe80::1%eth0", True),
            ("fe81::1", False),
            ("", False),
            ("nonsense", False),
        ],
    )
    def test_only_listed_addresses_are_served(self, peer, served):
        settings = Settings(allow=["10.1.0.0/16", "192.168.7.1", "fe80::/16"])
        assert (refusal(peer, [], settings) is None) == served

    def test_all_limits_are_off_unless_set(self):
        assert refusal("1.2.3.4", ["1.2.3.4"] * 31, Settings()) is None
        assert refusal("1.2.3.4", ["1.2.3.4"] * 32, Settings()).kind == "no slot"

    def test_an_address_has_no_more_than_its_share(self):
        settings = Settings(max_per_address=2)
        assert refusal("1.2.3.4", ["1.2.3.4", "1.2.3.5"], settings) is None
        assert refusal("1.2.3.4", ["1.2.3.4", "::ffff:1.2.3.4"], settings).kind == "address limit"

    def test_the_last_slots_are_for_scanners(self):
        settings = Settings(max_connections=4, reserved_slots=2, scanners=["10.0.0.1", "10.0.0.2"])
        other, one, two = "10.9.9.9", "10.0.0.1", "10.0.0.2"
        assert refusal(other, [other], settings) is None
        assert refusal(other, [other, other], settings).kind == "reserved"
        assert refusal(one, [other, other], settings) is None
        assert refusal(other, [other, other, one], settings).kind == "reserved"
        assert refusal(other, [other, one, two], settings) is None
        assert refusal(one, [other, other, one, two], settings).kind == "no slot"

    def test_other_limits_are_not_for_scanners(self):
        settings = Settings(max_per_address=1, allow=["192.0.2.1"], scanners=["10.0.0.1"])
        assert refusal("10.0.0.1", ["10.0.0.1"], settings) is None
        assert refusal("192.0.2.1", ["192.0.2.1"], settings).reason.startswith("1 scan is running already from this")

    @pytest.mark.parametrize("wrong", [{"reserved_slots": 1}, {"reserved_slots": 40, "scanners": ["10.0.0.1"]}])
    def test_slots_are_reserved_for_somebody(self, wrong):
        with pytest.raises(SettingsError, match="reserved_slots"):
            load_settings(None, **wrong)

    def test_who_is_refused_is_told_although_it_sends_at_once(self, make_service, small_scan):
        service = make_service(allow=["192.0.2.0/24"])
        with service.connect() as sock:
            sock.sendall(stream(small_scan))
            assert "not among those that this service is for" in said(sock)
        assert service.server.refused == {"not allowed": 1}

    def test_many_that_are_refused_and_stay_leave_nothing_behind(self, make_service, small_scan):
        service = make_service(max_connections=1)
        ask(service.connect(), "isocenter::version")  # it listens now
        wait_until(lambda: not service.server.sessions)
        before = descriptors(os.getpid())
        with ExitStack() as stack:
            stack.enter_context(service.connect())
            wait_until(lambda: service.server.sessions)
            for _ in range(150):
                stack.enter_context(service.connect())
            wait_until(lambda: service.server.refused["no slot"] == 150)
        wait_until(lambda: descriptors(os.getpid()) <= before)
        assert len(service.replay(small_scan).images) == 1


class TestAcceptGoesOn:
    """Whatever opening one session raises ends that session."""

    def _fails_once(self, service, small_scan, kind):
        with service.connect() as sock:
            assert "could not open a session" in said(sock)
        assert service.server.refused == {kind: 1}
        assert not service.server.sessions
        assert len(service.replay(small_scan).images) == 1

    def test_without_threads(self, service, small_scan, monkeypatch):
        start, left = threading.Thread.start, [1]

        def refuse(thread):
            if thread.name.startswith("session") and left:
                left.pop()
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        self._fails_once(service, small_scan, "failed")

    @pytest.mark.parametrize("which", ["receiver", "sender"])
    def test_without_threads_of_a_session(self, service, small_scan, monkeypatch, which):
        start, left = threading.Thread.start, [1]

        def refuse(thread):
            if thread.name == which and left:
                left.pop()
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        self._fails_once(service, small_scan, "failed")

    @pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left"), SystemExit(1)])
    def test_whatever_a_session_raises(self, service, small_scan, monkeypatch, error):
        session, left = server_module.Session, [1]

        def refuse(*arguments, **options):
            if left:
                left.pop()
                raise error
            return session(*arguments, **options)

        monkeypatch.setattr(server_module, "Session", refuse)
        self._fails_once(service, small_scan, "failed")

    def test_a_gadget_that_ends_its_thread_ends_its_scan(self, service, small_scan, monkeypatch):
        monkeypatch.setattr("isocenter.service.chain.Chain.warm_up", lambda self: sys.exit(3))
        with service.connect() as sock:
            sock.sendall(stream(small_scan))
            assert "internal error" in said(sock)
        wait_until(lambda: not service.server.sessions)


def test_who_only_looks_whether_the_port_is_open_leaves_no_line(service, small_scan, caplog):
    with caplog.at_level("INFO", logger="isocenter"):
        for _ in range(3):
            service.connect().close()
        with service.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset
        service.replay(small_scan)
        wait_until(lambda: "session ended" in caplog.messages)  # its client may know that before
        service.stop()
    said = [record.getMessage() for record in caplog.records if record.name != "isocenter.engine"]
    assert said == ["connected", "scan started", "session ended", "stopped"]


@contextmanager
def serving(tmp_path, bundles, **settings):
    """Run ``isocenter serve``; yields the process, its port and its settings file."""
    file, log = tmp_path / "isocenter.yaml", tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    lines = {"bundles": f"[{bundles}]", "port": port, **settings}
    file.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    command = [sys.executable, "-m", "isocenter.commands.cli", "serve", "--config", str(file)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stderr=output, env={**os.environ, "ISOCENTER_HOME": str(bundles.parent), "OMP_NUM_THREADS": "1"}
        )
    try:
        ask(connect("127.0.0.1", port, 60), "isocenter::version")
        yield process, port, file
    finally:
        process.kill()
        process.wait()


def version(port):
    return ask(connect("127.0.0.1", port, 5), "isocenter::version")


def is_served(port):
    try:
        return version(port).startswith("isocenter")
    except (ClientError, OSError):
        return False


def test_no_descriptors_left(tmp_path, bundles, small_scan):
    """Who finds none is told, and as soon as there are some, others are served."""
    with serving(tmp_path, bundles, max_connections=200) as (process, port, _):
        number = descriptors(process.pid) + 8  # some of them are those of files that are being loaded
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (number, number))
        with ExitStack() as stack:
            socks = [stack.enter_context(connect("127.0.0.1", port, 5)) for _ in range(60)]
            told, _, _ = select.select(socks, [], [], 20)  # others wait, or have a session
            heard = said(told[0])
            assert "file descriptor" in heard or "could not open a session" in heard
        wait_until(lambda: is_served(port))  # the last of them are let go of one after the other


def test_sighup_reloads_what_can_be(tmp_path, bundles):
    with serving(tmp_path, bundles) as (process, port, file):
        log = tmp_path / "log"
        settings = file.read_text()
        file.write_text(settings + "allow: [192.0.2.1]\ndeadline: 5\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "need a restart: deadline" in log.read_text())
        assert "changed: allow" in log.read_text()
        with connect("127.0.0.1", port, 5) as sock:
            assert "not among those" in said(sock)
        file.write_text("allow: nobody\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the settings stay as they are" in log.read_text())
        file.write_text(settings)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("settings are read again") == 2)
        assert version(port).startswith("isocenter")


def test_what_a_site_should_know_is_said_with_the_open_port(tmp_path, bundles):
    """That its home is new, and that its default bundle has not passed the gate: nothing is loaded before."""
    with serving(tmp_path, bundles, default_bundle="sense", home=tmp_path / "home"):
        assert (tmp_path / "home").is_dir()
        first, *others = (tmp_path / "log").read_text().splitlines()
        assert "listening on" in first
        assert f"WARNING home: there is no folder {tmp_path}/home: it is made" in others[0]
        assert "WARNING the default bundle 'sense' has not been through the gate" in others[1]


def test_a_second_sigterm_does_not_wait_for_scans(tmp_path, bundles, small_scan):
    with serving(tmp_path, bundles, shutdown_timeout=100) as (process, port, _):
        with connect("127.0.0.1", port, 5) as sock:
            sock.sendall(stream(small_scan)[:110_000])
            version(port)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping: waiting for" in (tmp_path / "log").read_text())
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            heard = said(sock)
        assert process.wait(20) == 0
        assert "the service is stopping" in heard
        assert "interrupted: the service was stopped" in heard
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_recovery_beside_it_is_a_program_of_its_own(tmp_path, bundles, small_scan):
    """It makes what a client did not get that vanished before its images were made."""
    spool = tmp_path / "spool"
    with serving(tmp_path, bundles, spool=spool) as (process, port, _), connect("127.0.0.1", port, 5) as sock:
        sock.sendall(stream(small_scan)[:110_000])
        wait_until(lambda: any(path.stat().st_size >= 110_000 for path in spool.glob("*.stream.partial")))
        process.kill()
        process.wait()
    with serving(tmp_path, bundles, spool=spool, recover_at_start="true", log_format="json", queue_bytes=2**20):
        wait_until(lambda: list(spool.glob("*.images")), 60)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert any("queue_bytes is not used any more" in line["message"] for line in lines)


class _Hangs:
    """A device whose runs do not end."""

    name = "cpu"

    def __init__(self):
        self.go = threading.Event()

    def load(self, bundle):
        pass

    def batch(self, bundle):
        return 1

    def pace(self, bundle):
        return 0.0

    def prepare(self, bundle, sizes):
        pass

    def compute(self, bundle, inputs):
        self.go.wait()
        raise RuntimeError

    def reset(self):
        pass

    def is_alive(self):
        return True

    def close(self):
        pass


def test_a_stop_ends_in_time_though_a_model_hangs_and_the_client_is_told(
    make_service_with, bundles, small_scan, monkeypatch
):
    monkeypatch.setattr(server_module, "_ABORT_SECONDS", 0.5)
    device = _Hangs()
    engine = Engine([bundles], devices=[device])
    service = make_service_with(engine, shutdown_timeout=0.5)
    with service.connect() as sock:
        sock.sendall(stream(small_scan))
        wait_until(lambda: service.server.sessions)
        start = time.monotonic()
        service.stop()
        assert time.monotonic() - start < 8
        assert "the service was stopped before the scan was done" in said(sock)
    device.go.set()
    engine.close()


def test_what_needs_a_restart_stays():
    old, new = Settings(port=1, allow=["10.0.0.0/8"]), Settings(port=2, max_connections=5)
    kept, changed, fixed = reloaded(old, new)
    assert (kept.port, kept.allow, kept.max_connections) == (1, (), 5)
    assert (sorted(changed), fixed) == (["allow", "max_connections"], ["port"])

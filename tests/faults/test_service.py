"""Faults of many clients at once, and of what the service stands on; honest scans beside them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import cycle

import pytest
from faults.faults import FAULTS
from faults.house import PATIENCE, TIMEOUT, HonestScan, House, wait_for
from faults.peer import Peer
from faults.phases import small_scan
from isocenter.commands.client import connect

SPARE = 4
"""Slots that are left for the honest scan and the question."""


class TestFloods:
    def test_port_probes(self, house):
        with house.unharmed():
            for _ in range(300):
                house.connect().close()

    def test_probes_by_reset(self, house):
        with house.unharmed():
            for _ in range(100):
                Peer(house.connect(), small_scan()).vanish(reset=True)

    def test_questions_on_connections_of_their_own(self, house):
        with house.unharmed():
            for _ in range(30):
                assert house.ask("isocenter::version")

    def test_nearly_all_slots_by_clients_that_stop(self, house):
        """Before the first message, after it, and within the scan."""
        with house.unharmed(), ExitStack() as stack:
            peers = [
                Peer(stack.enter_context(house.connect()), small_scan())
                for _ in range(house.server.settings.max_connections - SPARE)
            ]
            for peer, count in zip(peers, cycle((0, 1, 3))):
                peer.advance(count)
            for peer in peers:
                assert not peer.listen(seconds=PATIENCE).ended.startswith("nothing")

    def test_nearly_all_slots_by_a_byte_now_and_then(self, house):
        """A byte comes before any time-out from byte to byte would end; what counts is the time in all."""
        with house.unharmed(), ExitStack() as stack:
            peers = [
                Peer(stack.enter_context(house.connect()), small_scan())
                for _ in range(house.server.settings.max_connections - SPARE)
            ]
            end = time.monotonic() + 4 * TIMEOUT
            while any(not peer.answer.ended for peer in peers) and time.monotonic() < end + PATIENCE:
                for peer in peers:
                    peer.send(b"\1")
                time.sleep(0.1)
            assert all(peer.answer.ended for peer in peers)

    def test_more_clients_than_slots(self, house):
        """Those that are refused are told; the others are served once slots are free."""
        with ExitStack() as stack:
            count = house.server.settings.max_connections
            idle = [Peer(stack.enter_context(house.connect()), small_scan()) for _ in range(count)]
            wait_for(lambda: count - len(house.server._slots), PATIENCE)
            for _ in range(5):
                answer = Peer(stack.enter_context(house.connect()), small_scan()).listen(seconds=PATIENCE)
                assert answer.is_told
                assert answer.closed
            assert len(idle) == count
        house.wait_until_empty()
        assert house.honest.send() == house.honest.alone


class TestSurroundings:
    def test_damaged_noise_files(self, house):
        folder = house.server.settings.noise_folder
        with house.unharmed():
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert files
            for path in files:
                path.write_bytes(os.urandom(200))

    def test_the_noise_folder_is_gone(self, house):
        with house.unharmed():
            # at once, as something may just be written there
            noise = house.server.settings.noise_folder
            shutil.rmtree(noise.rename(noise.with_name("gone")))

    @pytest.mark.parametrize("seconds", [-1e6, 1e6, 1e10])
    def test_the_clock_jumps(self, house, monkeypatch, seconds):
        now = time.time
        with house.unharmed():
            monkeypatch.setattr(time, "time", lambda: now() + seconds)
            Peer(house.connect(), small_scan()).vanish()
            time.sleep(0.1)
            monkeypatch.undo()

    def test_a_damaged_bundle(self, bundles, make_engine, tmp_path):
        """A scan that asks for it is told; others do not notice."""
        shutil.copytree(bundles / "rss", tmp_path / "bundles" / "bad")
        for path in (tmp_path / "bundles" / "bad").iterdir():
            if path.suffix != ".json":
                path.write_bytes(path.read_bytes()[:-100] + bytes(100))
        engine = make_engine(tmp_path / "bundles")
        with House(engine, tmp_path, bundles=(tmp_path / "bundles", bundles)) as house, house.unharmed():
            with house.connect() as sock:
                parameters = json.dumps({"parameters": {"bundle": "bad"}})
                peer = Peer(sock, small_scan(), "network.xml", parameters=parameters)
                peer.finish()
                answer = peer.listen(seconds=PATIENCE)
            assert answer.closed
            assert answer.is_told


@contextmanager
def running(folder, bundles, *options, **popen):
    """The service as a program."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "isocenter.commands.cli",
        "serve",
        "--port",
        "0",
        "--home",
        str(folder),
    ]
    settings = folder / "settings.yaml"
    settings.write_text(f"bundles: [{bundles}]\nspool: {folder / 'spool'}\n")
    process = subprocess.Popen([*command, "--config", str(settings), *options], **popen)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def port_of(lines):
    for line in lines:
        if found := re.search(rb"listening on \S+:(\d+)", line):
            return int(found.group(1))
    raise AssertionError("the service does not listen")


@pytest.mark.long
class TestProgram:
    def test_signals_floods_and_a_log_that_nobody_reads(self, bundles, tmp_path):
        with running(tmp_path, bundles, "--verbose", stderr=subprocess.PIPE) as process:
            port = port_of(process.stderr)
            honest = HonestScan(port)
            with honest.beside():
                for _ in range(2000):
                    connect("localhost", port, 5).close()
                for _ in range(5):
                    process.send_signal(signal.SIGHUP)
                shutil.rmtree(tmp_path / "spool", ignore_errors=True)
            assert honest.send() == honest.alone
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            reader = threading.Thread(target=process.stderr.read, daemon=True)
            reader.start()
            assert process.wait(30) == 0

    @pytest.mark.parametrize("fault", ["vanishes (RST)", "garbage", "flags at random"])
    def test_faults_while_it_is_stopped(self, bundles, tmp_path, fault):
        with running(tmp_path, bundles, stderr=subprocess.PIPE) as process:
            port = port_of(process.stderr)
            threading.Thread(target=process.stderr.read, daemon=True).start()
            with connect("localhost", port, 5) as sock:
                peer = Peer(sock, small_scan())
                peer.advance(peer.opening + 2)
                process.send_signal(signal.SIGTERM)
                FAULTS[fault].act(peer)
                if fault != "vanishes (RST)":
                    peer.end()
                    peer.listen(seconds=PATIENCE)
            assert process.wait(90) == 0

"""Isocenter inside Gadgetron, and other programs inside Isocenter: real processes, real sockets."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from helpers import collect, gadgetron, wait_until
from isocenter.commands.client import connect
from isocenter.gadgets import load
from isocenter.gadgets.external import connect_resident
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.recon_data import from_kspace
from isocenter.service.logs import configure_logging, finish
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, ErrorReport, Header, encode
from isocenter.wire.items import AcquisitionBucket, Image, Waveform

RECONSTRUCT = b"""<?xml version="1.0"?>
<configuration><gadget name="accumulate"/><gadget name="remove_oversampling"/><gadget name="prewhiten"/>
<gadget name="reconstruct"><property name="bundle" value="rss"/></gadget><gadget name="extract"/></configuration>
"""


def as_gadgetron(sock, configuration, header, items):
    """Speak as Gadgetron's external node does, and return what comes back up to CLOSE."""
    received = bytearray()

    def receive():
        while part := sock.recv(65536):
            received.extend(part)

    reader = threading.Thread(target=receive)
    reader.start()
    for message in (ConfigScript(configuration), Header(header.encode()), *items, Close()):
        for buffer in encode(message):
            sock.sendall(buffer)
    reader.join(60)
    return Decoder().feed(bytes(received))


@contextmanager
def node(behaviour):
    """Listen as someone else's program that does what ``behaviour`` does with its connection."""
    with socket.create_server(("localhost", 0)) as listener:
        over = threading.Event()

        def serve():
            sock, _ = listener.accept()
            with sock:
                try:
                    behaviour(sock)
                    over.wait(20)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
    over.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def scan():
    return simulate(ScanProtocol(matrix=32, coils=3, slices=2, waveforms=True))


@pytest.fixture
def expected(service, scan):
    return service.replay(scan, "rss.xml").images


def of_type(messages, kind):
    return [message for message in messages if isinstance(message, kind)]


class TestConnectedByGadgetron:
    def test_before_its_buffering_readouts_come_and_images_go(self, service, scan, expected):
        with service.connect() as sock:
            messages = as_gadgetron(sock, RECONSTRUCT, scan.header, scan.items)
        images = of_type(messages, Image)
        assert [np.array_equal(ours.data, theirs.data) for ours, theirs in zip(images, expected, strict=True)] == [
            True,
            True,
        ]
        assert len(of_type(messages, Waveform)) == sum(isinstance(item, Waveform) for item in scan.items)
        assert isinstance(messages[-1], Close)

    def test_after_its_trigger_buckets_come(self, service, scan, expected):
        readouts = [item for item in scan.items if isinstance(item, ismrmrd.Acquisition)]
        waveforms = [item for item in scan.items if isinstance(item, Waveform)]
        noise, rest = readouts[:1], readouts[1:]
        buckets = [AcquisitionBucket([a for a in rest if a.idx.slice == n], waveforms=waveforms) for n in (1, 0)]
        with service.connect() as sock:
            messages = as_gadgetron(sock, RECONSTRUCT, scan.header, [*noise, *buckets])
        images = of_type(messages, Image)
        assert [np.array_equal(ours.data, theirs.data) for ours, theirs in zip(images, expected, strict=True)] == [
            True,
            True,
        ]

    def test_after_its_buffering_recon_data_comes(self, service, scan, expected):
        front = [(load(name), {}) for name in ("accumulate", "remove_oversampling", "prewhiten")]
        blocks = [item for item in collect(front, scan)[0] if isinstance(item, Kspace)]
        with service.connect() as sock:
            messages = as_gadgetron(sock, RECONSTRUCT, scan.header, [from_kspace(block) for block in blocks])
        images = of_type(messages, Image)
        for ours, theirs in zip(images, expected, strict=True):
            assert np.abs(ours.data - theirs.data).max() < 1e-5 * theirs.data.max()
            assert ours.slice == theirs.slice

    def test_blocks_that_no_gadget_reconstructs_go_back_as_buffers(self, service, scan):
        from isocenter.wire.items import ReconData

        with service.connect() as sock:
            configuration = b'<configuration><gadget name="accumulate"/></configuration>'
            messages = as_gadgetron(sock, configuration, scan.header, scan.items)
        assert len(of_type(messages, ReconData)) == 2

    @pytest.mark.parametrize(
        ("configuration", "complaint"),
        [
            (b'<?xml version="1.0"?>\n', "not readable as XML"),
            (b"<configuration/>", "lists no gadgets"),
            (RECONSTRUCT.replace(b'"rss"', b'"nothing"'), "there is no bundle 'nothing'"),
        ],
    )
    def test_errors_are_sent_as_errors_and_the_session_is_closed(self, service, scan, configuration, complaint):
        with service.connect() as sock:
            messages = as_gadgetron(sock, configuration, scan.header, scan.items)
        assert [type(message) for message in messages] == [ErrorReport, Close]
        assert complaint in messages[0].text

    def test_a_gadgetron_that_sends_on_until_close_gets_it_with_the_error(self, make_service, scan):
        """It ends its own stream when ours has ended, so nobody may wait for that."""
        service = make_service(drain_timeout=1000)
        with service.connect() as sock:
            sock.settimeout(10)
            for buffer in (*encode(ConfigScript(b"<configuration/>")), *encode(Header(scan.header.encode()))):
                sock.sendall(buffer)
            decoder, messages = Decoder(), []
            while len(messages) < 2:
                messages += decoder.feed(sock.recv(65536))
        assert [type(message) for message in messages] == [ErrorReport, Close]

    @pytest.mark.parametrize("damaged", [1, 32])
    def test_problems_are_an_error_only_where_no_image_was_made(self, service, damaged):
        scan = simulate(ScanProtocol(matrix=32, coils=3))
        for item in scan.items[1 : 1 + damaged]:
            item.data[:] = np.nan
        with service.connect() as sock:
            messages = as_gadgetron(sock, RECONSTRUCT, scan.header, scan.items)
        assert [type(message) for message in messages] == [Image if damaged == 1 else ErrorReport, Close]
        if damaged > 1:
            assert "NaN" in messages[0].text
            assert "no image was made from 33 acquisitions" in messages[0].text


def started_by_gadgetron(scan, configuration, environment):
    """Start ``python -m gadgetron PORT isocenter.gadgets external`` as Gadgetron does, and speak to it."""
    gadgetron("external")
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "gadgetron", str(port), "isocenter.gadgets", "external"],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
        )
        listener.settimeout(60)
        sock, _ = listener.accept()
    with sock:
        sock.settimeout(120)
        messages = as_gadgetron(sock, configuration, scan.header, scan.items)
    log = process.communicate(timeout=60)[1].decode()
    return messages, process.returncode, log


class TestStartedByGadgetron:
    def test_it_hands_over_to_a_resident_service(self, service, scan, expected):
        environment = {"ISOCENTER_ADDRESS": f"localhost:{service.port}"}
        messages, status, log = started_by_gadgetron(scan, RECONSTRUCT, environment)
        images = of_type(messages, Image)
        assert [np.array_equal(ours.data, theirs.data) for ours, theirs in zip(images, expected, strict=True)] == [
            True,
            True,
        ]
        assert of_type(messages, Close) == [Close()]
        assert status == 0, log

    def test_without_one_it_starts_its_own(self, bundles, scan, expected):
        environment = {"ISOCENTER_ADDRESS": "localhost:1", "ISOCENTER_HOME": str(bundles.parent)}
        messages, status, log = started_by_gadgetron(scan, RECONSTRUCT, environment)
        assert len(of_type(messages, Image)) == len(expected)
        assert status == 0, log
        assert "no resident service" in log

    def test_it_does_not_take_another_server_for_a_resident_service(self, scan):
        with socket.create_server(("localhost", 0)) as listener:

            def answer():
                sock, _ = listener.accept()
                with sock:
                    sock.recv(100)
                    sock.sendall(
                        b"\x07\x00" + (1).to_bytes(8, "little") + (13).to_bytes(8, "little") + b"Unknown query"
                    )

            threading.Thread(target=answer).start()
            os.environ["ISOCENTER_ADDRESS"] = f"localhost:{listener.getsockname()[1]}"
            try:
                assert connect_resident() is None
            finally:
                del os.environ["ISOCENTER_ADDRESS"]

    def test_a_server_that_answers_a_byte_at_a_time_is_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(sys.modules["isocenter.gadgets.external"], "_RESIDENT_SECONDS", 0.5)

        def drip(sock):
            while True:
                sock.sendall(b"\x07")
                time.sleep(0.1)

        with node(drip) as port:
            monkeypatch.setenv("ISOCENTER_ADDRESS", f"localhost:{port}")
            start = time.monotonic()
            assert connect_resident() is None
            assert time.monotonic() - start < 5

    @pytest.mark.parametrize(
        "address", ["localhost", "localhost:", "localhost:x", ":9012", "localhost:0", "a:65536", "a:²"]
    )
    def test_an_address_that_is_none_ends_it_in_a_sentence(self, monkeypatch, caplog, address):
        monkeypatch.setenv("ISOCENTER_ADDRESS", address)
        with pytest.raises(SystemExit) as ended:
            connect_resident()
        assert ended.value.code == 2
        assert f"variable ISOCENTER_ADDRESS: {address!r} is no address; accepted: host:port" in caplog.text

    def test_starting_imports_no_torch(self):
        code = "import sys, isocenter.gadgets; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HANDLER = """
import os
import numpy as np

def negate(connection):
    connection.filter(lambda item: type(item).__name__ == "Acquisition")
    strength = float(connection.config.find("property").get("value"))
    for acquisition in connection:
        acquisition.data[:] *= -strength
        connection.send(acquisition)

def fail(connection):
    raise RuntimeError("deliberate")

def die(connection):
    for number, item in enumerate(connection):
        if number <= 60:
            connection.send(item)
    os._exit(1)  # all is read: what is left unread would take back what was sent
"""

FIRE = """
import logging, numpy as np, ismrmrd

def process(connection, config, metadata):
    lines = {}
    for item in connection:
        if item is None:
            break
        if isinstance(item, ismrmrd.Acquisition) and not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            lines.setdefault(item.idx.slice, {})[item.idx.kspace_encode_step_1] = item
    connection.send_logging("INFO    ", "config is %s" % (config if isinstance(config, str) else sorted(config["parameters"])))
    for number, group in sorted(lines.items()):
        data = np.stack([group[line].data for line in sorted(group)], axis=1)
        image = np.abs(np.fft.ifft2(data, axes=(1, 2))).max(axis=0).astype(np.float32)
        out = ismrmrd.Image.from_array(image, acquisition=group[0], image_series_index=5)
        connection.send_image(out)
    connection.send_close()
"""

PROGRAM = """<configuration><version>2</version><stream>
<external><execute name="lab_handlers" target="{target}" type="python"/>
<configuration><property name="strength" value="2"/></configuration></external>
<external><connect port="1"/><configuration><pipeline name="rss"/></configuration></external>
</stream></configuration>"""


@pytest.fixture
def lab(tmp_path):
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "lab_handlers.py").write_text(textwrap.dedent(HANDLER))
    (folder / "lab_fire.py").write_text(textwrap.dedent(FIRE))
    return folder


class TestProgramsOfOthers:
    def test_a_handler_for_the_gadgetron_package_runs_unchanged(self, make_service, lab, scan, expected):
        gadgetron("external")
        service = make_service(handlers=("lab_handlers.negate",), python_path=(lab,))
        result = service.replay(scan, PROGRAM.format(target="negate").encode())
        assert not result.texts
        for ours, theirs in zip(result.images, expected, strict=True):
            assert np.allclose(ours.data, theirs.data, rtol=1e-4)

    def test_a_handler_that_the_site_does_not_list_is_refused(self, make_service, lab, scan):
        service = make_service(python_path=(lab,))
        result = service.replay(scan, PROGRAM.format(target="negate").encode())
        assert "'lab_handlers.negate' is not listed under 'handlers'" in result.texts[0]

    def test_an_address_that_a_peer_sends_must_be_listed(self, service, scan):
        node = b'<external><connect address="127.0.0.1" port="22"/></external>'
        xml = b"<configuration><version>2</version><stream>" + node + b"</stream></configuration>"
        assert "'127.0.0.1:22' is not listed under 'connect'" in service.replay(scan, xml).texts[0]

    def test_a_fire_module_runs_unchanged(self, make_service, lab, scan):
        service = make_service(fire_modules={"labfire": "lab_fire"}, python_path=(lab,))
        result = service.replay(scan, "labfire")
        assert [image.image_series_index for image in result.images] == [5, 5]
        assert "config is labfire" in "".join(result.texts)
        result = service.replay(scan, "labfire", parameters='{"parameters": {"strength": "3"}}')
        assert "config is ['strength']" in "".join(result.texts)

    def test_a_fire_module_that_is_not_listed_is_not_imported(self, make_service, lab, scan):
        service = make_service(python_path=(lab,))
        assert "there is no pipeline 'lab_fire'" in service.replay(scan, "lab_fire").texts[0]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package leaves its socket open
    def test_a_program_that_is_connected_to(self, make_service, scan, expected):
        """The gadgetron package listens as a resident program of someone else."""
        with socket.create_server(("localhost", 0)) as probe:
            port = probe.getsockname()[1]

        def handle(connection):
            connection.filter(ismrmrd.Acquisition)
            for acquisition in connection:
                acquisition.data[:] *= 2
                connection.send(acquisition)

        program = threading.Thread(target=gadgetron("external").listen, args=(port, handle))
        program.start()
        service = make_service(connect=(f"localhost:{port}",))
        xml = (
            "<configuration><version>2</version><stream>"
            f'<external><connect address="localhost" port="{port}"/><configuration><x/></configuration></external>'
            '<external><connect port="1"/><configuration><pipeline name="rss"/></configuration></external>'
            "</stream></configuration>"
        )
        result = service.replay(scan, xml.encode())
        program.join(20)
        assert not result.texts
        for ours, theirs in zip(result.images, expected, strict=True):
            assert np.allclose(ours.data, theirs.data, rtol=1e-4)

    def test_a_program_that_cannot_be_started_is_reported(self, make_service, scan):
        service = make_service(fire_modules={"broken": "no_such_module"})
        result = service.replay(scan, "broken")
        assert "no_such_module" in "".join(result.texts)
        assert result.failed


FAULTY = """
import os, subprocess, sys, time
import numpy as np, ismrmrd

def child():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code]).pid

def process(connection, config, metadata):
    with open(os.environ["LAB_PIDS"], "a") as file:
        print(os.getpid(), child(), file=file)
    first = next(connection)
    image = ismrmrd.Image.from_array(np.ones((4, 4), np.float32), acquisition=first)
    if config == "hangs":
        connection.send_image(image)
        time.sleep(600)
    if config == "hangs_at_the_end":
        for item in connection:
            pass
        time.sleep(600)
    if config == "drips":
        for item in connection:
            pass
        while True:
            connection.send_text(".")
            time.sleep(0.05)
    if config == "floods":
        while True:
            connection.send_image(image)
    if config == "dies":
        connection.send_image(image)
        os._exit(3)
    if config == "raises":
        connection.send_image(image)
        print("printed CANARY")
        raise ValueError("CANARY is no number")
    if config == "exits":
        sys.exit("CANARY")
    if config == "dawdles":
        connection.send_image(image)
        connection.send_close()
        time.sleep(600)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def threads():
    """Threads that an exchange with a program has."""
    return [thread for thread in threading.enumerate() if thread.name in ("external", "program output", "receiver")]


@pytest.fixture
def faulty(make_service, tmp_path, monkeypatch):
    """Make a service with FIRE modules that go wrong; at the end nothing of them may be left."""
    (tmp_path / "lab_faulty.py").write_text(FAULTY)
    monkeypatch.setenv("LAB_PIDS", str(tmp_path / "pids"))
    names = ("hangs", "hangs_at_the_end", "drips", "floods", "dies", "raises", "exits", "dawdles")

    def make(**settings):
        modules = dict.fromkeys(names, "lab_faulty")
        return make_service(fire_modules=modules, python_path=(tmp_path,), drain_timeout=1, **settings)

    yield make
    wait_until(lambda: not any(map(is_running, pids_of(tmp_path))))
    wait_until(lambda: not threads())


def pids_of(folder):
    return [int(pid) for pid in (folder / "pids").read_text().split()] if (folder / "pids").exists() else []


class TestProgramsThatGoWrong:
    @pytest.mark.parametrize(
        ("name", "said", "images"),
        [
            ("hangs", "kept the scan waiting for 1 seconds", 1),
            ("hangs_at_the_end", "kept the scan waiting for 1 seconds", 0),
            ("drips", "kept the scan waiting for 1 seconds", 0),
            ("dies", "ended without CLOSE", 1),
            ("raises", "failed; the service's log tells more about scan", 1),
            ("exits", "failed; the service's log tells more about scan", 0),
        ],
    )
    def test_the_scan_says_so_and_keeps_what_was_made(self, faulty, scan, name, said, images, caplog):
        service = faulty(program_timeout=1)
        with caplog.at_level("DEBUG", logger="isocenter"):
            result = service.replay(scan, name)
        assert len(result.images) == images
        texts = "".join(result.texts)
        assert f"FIRE module lab_faulty{': it' if name == 'dies' else ''}" in texts
        assert said in texts
        assert result.failed == (images == 0)
        assert "CANARY" not in texts
        assert "CANARY" not in caplog.text
        if name == "raises":
            assert "ValueError in" in caplog.text
            assert "lab_faulty.py:" in caplog.text
            assert "has printed" in caplog.text

    @pytest.mark.parametrize("size", ["scan", "large_scan"])
    def test_a_module_that_never_stops_sending_ends_with_the_time_it_has(self, faulty, size, request):
        """It has taken everything, or takes nothing any more."""
        service = faulty(program_timeout=1)
        scan = request.getfixturevalue(size)
        start = time.monotonic()
        result = service.replay(scan, "floods")
        assert result.images
        assert "kept the scan waiting" in "".join(result.texts)
        assert time.monotonic() - start < 20

    def test_one_that_does_not_end_after_its_last_word_is_ended(self, faulty, scan, monkeypatch):
        monkeypatch.setattr("isocenter.service.program._GOODBYE_SECONDS", 0.2)
        result = faulty().replay(scan, "dawdles")
        assert len(result.images) == 1
        assert not result.texts

    def test_what_it_prints_is_in_the_log_if_the_site_wants_that(self, faulty, scan, capsys):
        configure_logging(private=True)
        try:
            faulty(log_private=True).replay(scan, "raises")
            finish()
            log = capsys.readouterr().err
        finally:
            configure_logging()
        assert "prints: printed CANARY" in log
        assert "prints: ValueError: CANARY is no number" in log
        assert 'lab_faulty.py", line' in log

    def test_what_a_handler_has_sent_before_it_died_is_reconstructed(self, make_service, lab, scan, expected):
        gadgetron("external")
        service = make_service(handlers=("lab_handlers.die",), python_path=(lab,))
        result = service.replay(scan, PROGRAM.format(target="die").encode())
        whole, part = result.images
        assert np.array_equal(whole.data, next(image for image in expected if image.slice == whole.slice).data)
        assert "IsocenterIncomplete" not in whole.meta
        assert "IsocenterIncomplete" in part.meta
        assert "the scan was interrupted: external program lab_handlers.die" in "".join(result.texts)

    def test_a_handler_that_fails_says_goodbye_and_yet_has_failed(self, make_service, lab, scan, caplog):
        """The gadgetron package sends CLOSE in any case."""
        gadgetron("external")
        service = make_service(handlers=("lab_handlers.fail",), python_path=(lab,))
        result = service.replay(scan, PROGRAM.format(target="fail").encode())
        assert "external program lab_handlers.fail ended with status 1" in "".join(result.texts)
        assert "deliberate" not in "".join(result.texts) + caplog.text

    def test_a_program_that_does_not_connect_is_not_waited_for(self, faulty, scan, tmp_path, monkeypatch):
        monkeypatch.setattr("isocenter.service.program._START_SECONDS", 1.0)
        (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(600)")
        result = faulty().replay(scan, "dies")
        assert "FIRE module lab_faulty did not connect within 1 seconds" in "".join(result.texts)

    def test_a_scan_that_is_aborted_ends_its_programs(self, faulty, scan, tmp_path):
        service = faulty(shutdown_timeout=0.5)
        with service.connect() as sock:
            for message in (ConfigFile("hangs"), Header(scan.header.encode()), *scan.items):
                for buffer in encode(message):
                    sock.sendall(buffer)
            wait_until(lambda: len(pids_of(tmp_path)) == 2)
            start = time.monotonic()
            service.stop()
            assert time.monotonic() - start < 8

    def test_a_client_that_vanishes_is_not_waited_for_long(self, faulty, scan, tmp_path):
        service = faulty(shutdown_timeout=0.5)
        with service.connect() as sock:
            for message in (ConfigFile("hangs_at_the_end"), Header(scan.header.encode()), *scan.items[:20]):
                for buffer in encode(message):
                    sock.sendall(buffer)
            wait_until(lambda: len(pids_of(tmp_path)) == 2)
        wait_until(lambda: not service.server.sessions)

    def test_nothing_of_it_outlives_a_service_that_is_killed(self, bundles, lab, tmp_path, scan):
        (lab / "lab_faulty.py").write_text(FAULTY)
        settings = tmp_path / "isocenter.yaml"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        settings.write_text(f"port: {port}\nfire_modules: {{hangs: lab_faulty}}\npython_path: [{lab}]\n")
        environment = {**os.environ, "ISOCENTER_HOME": str(bundles.parent), "LAB_PIDS": str(tmp_path / "pids")}
        command = [sys.executable, "-m", "isocenter.commands.cli", "serve", "--config", str(settings)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            with connect("127.0.0.1", port, 60) as sock:
                for message in (ConfigFile("hangs"), Header(scan.header.encode()), *scan.items):
                    for buffer in encode(message):
                        sock.sendall(buffer)
                wait_until(lambda: len(pids_of(tmp_path)) == 2, 60)
                assert all(map(is_running, pids_of(tmp_path)))
                process.send_signal(signal.SIGKILL)
                process.wait()
                wait_until(lambda: not any(map(is_running, pids_of(tmp_path))))
        finally:
            process.kill()
            process.wait()

"""Scans that a service left behind are reconstructed from whatever bytes there are of them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import joined, wait_until
from isocenter.commands import recover as recovery
from isocenter.commands.cli import app
from isocenter.service.settings import Settings
from isocenter.service.spooled import Index, create, read_spool
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, Decoder, Header
from isocenter.wire.errors import IsocenterError
from isocenter.wire.items import Acquisition, Image
from isocenter.wire.streams import read_messages
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def slices():
    return simulate(ScanProtocol(matrix=32, coils=4, slices=3, noise=0.5))


@pytest.fixture(scope="module")
def opening(slices):
    return joined(ConfigFile("rss.xml"), Header(slices.header.encode()))


@pytest.fixture(scope="module")
def recorded(slices, opening):
    return opening + joined(*slices.items, Close())


@pytest.fixture
def settings(bundles, tmp_path):
    (tmp_path / "spool").mkdir()
    return Settings(home=tmp_path, bundles=(bundles,), spool=tmp_path / "spool")


@pytest.fixture
def command(settings, monkeypatch):
    """Run ``isocenter recover`` on the spool."""
    monkeypatch.setattr(recovery.stamp, "missing", lambda _settings: [])
    path = settings.home / "settings.yaml"
    path.write_text(settings.model_dump_json())

    def run(*arguments):
        outfile = settings.home / "out.h5"
        return CliRunner().invoke(app, ["recover", "--config", str(path), "-o", str(outfile), *arguments])

    return run


@pytest.fixture
def recover(settings, monkeypatch):
    """Recover bytes that are left of a scan; what is made of them and what is said."""
    monkeypatch.setattr(recovery.stamp, "missing", lambda _settings: [])
    with recovery.Recovery(settings) as recovers:

        def run(content, name="scan"):
            for path in settings.spool.glob(f"{name}.*"):
                path.unlink()
            (settings.spool / f"{name}.stream.partial").write_bytes(content)
            kept, said = [], []
            (scan,) = recovery.find(settings.spool, [name])
            recovers.reconstruct(scan, lambda _scan, images: kept.extend(images), said.append)
            return kept, "".join(said)

        yield run


def whole_readouts(content):
    return sum(isinstance(message, Acquisition) for message in Decoder().feed(content))


class TestEveryWholeReadout:
    @pytest.fixture
    def expected(self, service, slices):
        return service.replay(slices).images

    def cuts(self, slices, opening):
        """After every readout, in its header, its samples, and just before its end; sampled."""
        ends = np.cumsum([len(opening), *(len(joined(item)) for item in slices.items)])
        return [int(end) + shift for end in ends[1:-1:9] for shift in (-1, 0, 1, 200, 700)] + [int(ends[-1])]

    def test_is_used_wherever_the_stream_was_cut(self, recover, slices, opening, recorded, expected):
        """Slices that are whole are what they would have been; the last one has its lines, and says what it lacks."""
        for cut in self.cuts(slices, opening):
            content = recorded[:cut]
            readouts = whole_readouts(content) - 1  # the first is noise
            if readouts == 0:
                with pytest.raises(IsocenterError, match="no image could be made"):
                    recover(content)
                continue
            images, said = recover(content)
            assert "interrupted" in said
            if readouts < 0:
                assert not images
                continue
            complete, lines = divmod(readouts, 32)
            assert len(images) == complete + (lines > 0), cut
            for ours, theirs in zip(images[:complete], expected, strict=False):
                assert np.array_equal(ours.data, theirs.data)
                assert ours.meta == theirs.meta
            if lines:
                assert f"{32 - lines} of 32 lines are missing" in images[-1].meta["IsocenterIncomplete"]

    def test_before_the_first_one_there_is_nothing(self, recover, settings, opening):
        for cut in (0, 1, 700, len(opening) - 1, len(opening), len(opening) + 100):
            assert recover(b"".join([opening, bytes(200)])[:cut])[0] == []
            (scan,) = read_spool(settings.spool)
            assert scan.state == "empty"
            assert scan.is_done

    def test_of_a_whole_stream_the_images_are_the_same(self, recover, recorded, expected):
        images, said = recover(recorded)
        assert said == ""
        assert all(np.array_equal(a.data, b.data) and a.meta == b.meta for a, b in zip(images, expected, strict=True))


def write_images(folder, name, images):
    (folder / f"{name}.images").write_bytes(joined(*images))


class TestCommand:
    @pytest.fixture
    def spool(self, settings, recorded):
        """A scan of each sort."""
        folder = settings.spool
        for name, content, outcome in (
            ("crashed", recorded[:-100_000], None),
            ("failed", recorded.replace(b"rss.xml", b"bad.xml"), "failed"),
            ("fine", recorded, "finished"),
        ):
            (folder / f"{name}.stream{'' if outcome else '.partial'}").write_bytes(content)
            Index(folder).append(name, time="2026-01-01T00:00:00", peer="10.0.0.1")
            if outcome:
                Index(folder).append(name, outcome=outcome, pipeline="rss.xml", images=3, sent=3)
        return folder

    def test_list(self, command, spool):
        descriptor = create(spool / "now.stream.partial")
        lines = command("--list").output.splitlines()
        assert [line.split()[:2] for line in sorted(lines)] == [
            ["crashed", "unfinished"],
            ["failed", "failed"],
            ["now", "running"],
        ]
        assert "10.0.0.1" in lines[0]
        every = command("--list-all").output
        assert "fine" in every
        assert "images 3" in every
        os.close(descriptor)

    def test_recovers_what_needs_it_once_and_says_what_failed(self, command, spool, settings):
        result = command()
        assert result.exit_code == 1
        assert "2 images in" in result.output
        assert "scan failed is not recovered" in result.output
        states = {scan.scan: scan.state for scan in read_spool(spool)}
        assert states == {"crashed": "recovered", "failed": "failed", "fine": "finished"}
        with h5py.File(settings.home / "out.h5") as file:
            assert list(file) == ["crashed"]
            assert len(file["crashed/image_1/data"]) == 2
        result = command("--pipeline", "rss.xml")
        assert result.exit_code == 0
        assert "3 images in" in result.output
        assert "there is nothing to reconstruct" in command().output

    def test_a_scan_that_is_named(self, command, spool):
        result = command("fine")
        assert "3 images in" in result.output
        assert command("crash").exit_code == 2
        assert "has no scan crash" in command("crash").output

    def test_a_scan_that_runs_is_left_alone(self, command, spool):
        descriptor = create(spool / "now.stream.partial")
        assert "scan now is running" in command("now").output
        os.close(descriptor)

    def test_images_that_the_spool_has(self, command, spool, settings, service, slices):
        images = service.replay(slices).images
        write_images(spool, "fine", images)
        result = command("--images", "fine")
        assert "3 images in" in result.output
        with h5py.File(settings.home / "out.h5") as file:
            assert np.array_equal(file["fine/image_1/data"][:, 0], np.concatenate([each.data for each in images]))
        assert "the spool has no images of scan crashed" in command("--images", "crashed").output
        assert "no scan is named" in command("--images").output

    def test_images_that_were_cut_off(self, command, spool, service, slices):
        content = joined(*service.replay(slices).images)
        (spool / "crashed.images.partial").write_bytes(content[:-1])
        assert "2 images in" in command("--images", "crashed").output

    def test_images_that_were_fetched_are_no_longer_waiting(self, command, spool, service, slices):
        write_images(spool, "gone", service.replay(slices).images)
        (spool / "gone.stream").write_bytes(b"")
        Index(spool).append("gone", outcome="undelivered")
        assert "images that were not sent are in the spool, for --images: gone" in command().output
        assert "3 images in" in command("--images", "gone").output
        assert "gone" not in command("--list").output

    def test_what_cannot_be_recovered_is_tried_three_times(self, command, spool):
        for _ in range(3):
            assert "scan failed is not recovered" in command().output
        result = command()
        assert result.exit_code == 0
        assert "tried 3 times and left; name it to try again: failed" in result.output
        assert "scan failed is not recovered" in command("failed").output

    def test_a_damaged_index_costs_the_lines_that_are(self, command, spool):
        with (spool / "index.jsonl").open("a") as index:
            index.write(
                "[" * 100_000
                + "\n"
                + '{"scan": "crashed", "tried": "abc", "time": []}\n{"scan": "crashed", "peer": 7}\n'
            )
        assert "10.0.0.1" in command("--list").output
        assert "2 images in" in command().output

    def test_without_a_spool(self, command, settings):
        settings.spool.rmdir()
        result = command("--list")
        assert result.exit_code == 2
        assert "there is no spool" in result.output

    def test_beside_a_service_images_stay_in_the_spool(self, command, spool):
        niceness = os.nice(0)
        try:
            assert command("--beside-service").exit_code == 0
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
        scans = {scan.scan: scan for scan in read_spool(spool)}
        assert scans["crashed"].state == "recovered"
        assert len(list(read_messages(scans["crashed"].images))) == 2
        assert scans["failed"].fields["tried"] == 1


def test_a_stream_that_is_cut_is_replayed_and_said(make_service, recorded, opening, tmp_path):
    """By the command, wherever it is cut."""
    service = make_service()
    path = tmp_path / "cut.stream.partial"
    for cut in (0, 500, len(opening) - 1, len(opening) + 1, len(recorded) // 2, len(recorded) - 2, len(recorded) - 1):
        path.write_bytes(recorded[:cut])
        result = CliRunner().invoke(
            app, ["replay", "-f", str(path), "-p", str(service.port), "-o", str(tmp_path / "out.h5")]
        )
        if cut < len(opening):
            assert result.exit_code == 2
            assert "is empty" in result.output or "ends inside its configuration or MRD header" in result.output
        else:
            said = "without the end of its scan" if cut == len(recorded) - 2 else "ends inside a message"
            assert said in result.output.replace("\n", "")
            assert "interrupted" in result.output
            assert result.exit_code == (1 if cut < len(recorded) // 2 else 0)


class Program:
    """``isocenter serve`` as a program of its own."""

    def __init__(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "serve.yaml"
        path.write_text(settings.model_dump_json())
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVE, str(path)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())


SERVE = """
import signal, sys
from pathlib import Path
from isocenter.service.host import make_engine
from isocenter.service.server import Server
from isocenter.service.settings import load_settings
settings = load_settings(Path(sys.argv[1]))
server = Server(settings, make_engine(settings))
signal.signal(signal.SIGTERM, lambda *_: server.stop())
print(server.port, flush=True)
server.serve()
"""


@pytest.fixture
def program(settings, tmp_path):
    running = []

    def start(**changes):
        running.append(Program(settings.model_copy(update={"port": 0, **changes}), tmp_path))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate()


def test_a_service_whose_file_may_not_grow_and_that_is_killed_in_the_middle_of_a_message(
    program, settings, recorded, command
):
    """What a quota does, and what a loss of power does."""
    resource = pytest.importorskip("resource")
    service = program()
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with socket.create_connection(("localhost", service.port)) as sock:
        sock.sendall(recorded)
        received = b""
        while part := sock.recv(65536):
            received += part
    images = [message for message in Decoder().feed(received) if isinstance(message, Image)]
    assert len(images) == 3
    reason = "only the first 100000 bytes of the raw data of this scan are kept: File too large"
    assert reason in images[-1].meta["IsocenterSpool"]
    wait_until(lambda: [scan.state for scan in read_spool(settings.spool)] == ["finished"])
    (limited,) = read_spool(settings.spool)
    assert limited.stream.read_bytes() == recorded[:100_000]
    assert limited.stream.name.endswith(".partial")
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    cut = len(recorded) * 2 // 3 + 17
    with socket.create_connection(("localhost", service.port)) as sock:
        sock.sendall(recorded[:cut])
        wait_until(lambda: any(path.stat().st_size == cut for path in settings.spool.glob("*.stream.partial")))
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    (killed,) = [scan for scan in read_spool(settings.spool) if scan.scan != limited.scan]
    assert killed.state == "unfinished"
    assert killed.stream.read_bytes() == recorded[:cut]
    result = command()
    assert result.exit_code == 0, result.output
    readouts = whole_readouts(recorded[:cut]) - 1
    assert f"{-(-readouts // 32)} images in" in result.output
    assert f"{32 - readouts % 32} of 32 lines are missing" in result.output


@pytest.mark.long
def test_a_service_recovers_beside_its_work_when_it_starts(settings, recorded, bundles, tmp_path):
    """The program that ``isocenter serve`` starts for it."""
    (settings.spool / "left.stream.partial").write_bytes(recorded[:-100_000])
    with recovery.beside_service(settings) as process:
        assert process is None
    with recovery.beside_service(settings.model_copy(update={"recover_at_start": True})) as process:
        assert process.wait(300) == 0
    (scan,) = read_spool(settings.spool)
    assert scan.state == "recovered"
    assert len(list(read_messages(scan.images))) == 2

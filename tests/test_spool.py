"""The spool: what it keeps, with which marks and rights, and that none of its troubles costs a scan."""

import os
import shutil
import socket
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import joined, stream, wait_until
from isocenter.commands.client import ask
from isocenter.service import server as server_module
from isocenter.service import spool as spool_module
from isocenter.service.session import Session
from isocenter.service.settings import Settings
from isocenter.service.spool import Spool
from isocenter.service.spooled import Index, Retention, SpooledScan, create, locked, read_spool
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, Header, Text
from isocenter.wire.streams import read_messages


def texts(result):
    return "".join(result.texts)


@pytest.fixture(scope="module")
def slices():
    return simulate(ScanProtocol(matrix=32, coils=4, slices=3, noise=0.5))


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def only_scan(service, spool):
    """The one scan in the spool, once everything is on the disk."""
    service.stop()
    (scan,) = read_spool(spool)
    return scan


def same_images(ours, others):
    return len(ours) == len(others) and all(
        np.array_equal(a.data, b.data) and a.meta == b.meta for a, b in zip(ours, others, strict=True)
    )


class TestWhatIsKept:
    def test_bytes_and_images_under_the_rights_of_their_owner_alone(self, make_service, slices, spool):
        before = os.umask(0o022)
        try:
            service = make_service(spool=spool)
            result = service.replay(slices)
            scan = only_scan(service, spool)
        finally:
            os.umask(before)
        assert scan.stream.read_bytes() == stream(slices)
        assert scan.stream.name == f"{scan.scan}.stream"
        assert same_images(list(read_messages(scan.images)), result.images)
        assert not texts(result)
        assert "IsocenterSpool" not in result.images[0].meta
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in spool.iterdir()} == {0o600}

    def test_the_index_says_how_it_ended(self, make_service, slices, spool):
        service = make_service(spool=spool)
        service.replay(slices)
        scan = only_scan(service, spool)
        size = scan.stream.stat().st_size
        expected = {"pipeline": "rss.xml", "outcome": "finished", "bytes": size, "whole": True, "images": 3, "sent": 3}
        assert expected.items() <= scan.fields.items()
        assert scan.fields["peer"] in ("127.0.0.1", "::1")
        assert set(scan.fields) == {*expected, "scan", "time", "peer"}
        assert scan.state == "finished"

    def test_no_byte_and_a_question_leave_nothing(self, make_service, spool):
        service = make_service(spool=spool)
        service.connect().close()
        ask(service.connect(), "isocenter::version")
        with service.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1000):
                pass
        service.stop()
        assert list(spool.iterdir()) == []

    def test_while_it_runs_it_is_marked_and_locked(self, make_service, slices, spool):
        service = make_service(spool=spool)
        with service.connect() as sock:
            sock.sendall(stream(slices)[:-2])
            partial = wait_until_there(spool, "*.stream.partial")
            wait_until(lambda: partial.stat().st_size == len(stream(slices)) - 2)
            with locked(partial) as free:
                assert not free
            assert [scan.state for scan in read_spool(spool)] == ["running"]
            sock.sendall(joined(Close()))
            while sock.recv(65536):
                pass
        assert only_scan(service, spool).state == "finished"

    def test_what_comes_after_a_failure_is_kept_to_its_end(self, make_service, slices, spool):
        """However long that takes: the raw data are worth as much as ever."""
        service = make_service(spool=spool, drain_timeout=0.5)
        data = stream(slices, "there_is_no_such_pipeline.xml")
        with service.connect() as sock:
            for start in range(0, len(data), len(data) // 8):
                sock.sendall(data[start : start + len(data) // 8])
                time.sleep(0.1)
        scan = only_scan(service, spool)
        assert scan.stream.read_bytes() == data
        assert scan.state == "failed"

    def test_images_of_a_client_that_has_gone_are_made_and_kept(self, make_service, engine, bundles, slices, spool):
        expected = make_service().replay(slices).images
        settings = Settings(home=spool.parent, bundles=(bundles,), spool=spool)
        ours, theirs = socket.socketpair()
        keeper = Spool(settings)
        session = threading.Thread(target=Session(theirs, settings, engine, "scan", spool=keeper).serve)
        with ours:
            ours.sendall(stream(slices))
        session.start()
        session.join(30)
        keeper.finish(10)
        (scan,) = read_spool(spool)
        assert same_images(list(read_messages(scan.images)), expected)
        assert scan.fields["images"] == 3
        assert scan.fields["sent"] < 3
        assert scan.state == "undelivered"

    def test_a_stream_that_ends_too_soon(self, make_service, slices, spool):
        service = make_service(spool=spool)
        with service.connect() as sock:
            sock.sendall(stream(slices)[:-30_000])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        scan = only_scan(service, spool)
        assert scan.state == "interrupted"
        assert scan.stream.read_bytes() == stream(slices)[:-30_000]

    def test_an_old_folder_that_others_may_read(self, make_service, slices, spool, caplog):
        spool.mkdir(mode=0o755)
        (spool / "something").touch()
        service = make_service(spool=spool)
        service.replay(slices)
        service.stop()
        assert "is open to other users" in caplog.text
        assert stat.S_IMODE(spool.stat().st_mode) == 0o755

    def test_two_services_share_a_folder(self, make_service, slices, spool):
        services = [make_service(spool=spool, spool_bytes=0) for _ in range(2)]
        with services[0].connect() as sock:
            sock.sendall(stream(slices)[:-2])
            partial = wait_until_there(spool, "*.stream.partial")
            services[1].replay(slices)
            services[1].stop()
            assert partial.exists()
            assert list(spool.glob("*.stream")) == []
            sock.sendall(joined(Close()))
            while sock.recv(65536):
                pass


def wait_until_there(folder, pattern) -> Path:
    wait_until(lambda: list(folder.glob(pattern)))
    (path,) = folder.glob(pattern)
    return path


class TestTroubles:
    """Each costs the spool, is told, and costs no scan."""

    def check(self, service, scan, reason):
        """The images are those of a service without a spool, and say that they are the only ones there will be."""
        result = service.replay(scan)
        assert [image.data.shape for image in result.images] == [(1, 1, 32, 32)] * 3
        assert reason in texts(result)
        assert "WARNING" in texts(result)
        assert all(reason in image.meta["IsocenterSpool"] for image in result.images)
        return result

    def test_a_file_in_the_place_of_the_folder(self, make_service, slices, spool, caplog):
        spool.write_text("in the way")
        service = make_service(spool=spool)
        self.check(service, slices, "the raw data of this scan are not kept: Not a directory")
        self.check(service, slices, "the raw data of this scan are not kept: Not a directory")
        assert caplog.text.count("the raw data of this scan are not kept: Not a directory (") == 2
        spool.unlink()
        result = service.replay(slices)
        assert not texts(result)
        assert only_scan(service, spool).state == "finished"

    def test_a_folder_that_is_removed_between_scans_is_made_anew(self, make_service, slices, spool):
        service = make_service(spool=spool)
        assert not texts(service.replay(slices))
        wait_until(lambda: "finished" in (spool / "index.jsonl").read_text())
        shutil.rmtree(spool)
        assert not texts(service.replay(slices))
        assert only_scan(service, spool).state == "finished"

    def test_a_folder_that_is_removed_while_a_scan_runs(self, make_service, slices, spool):
        service = make_service(spool=spool)
        data = stream(slices)
        with service.connect() as sock:
            sock.sendall(data[:30_000])
            partial = wait_until_there(spool, "*.stream.partial")
            wait_until(lambda: partial.stat().st_size == 30_000)
            shutil.rmtree(spool)
            sock.sendall(data[30_000:])
            received = b""
            while part := sock.recv(65536):
                received += part
        assert received.count(b"only the first") >= 3
        assert not texts(service.replay(slices))

    def test_no_room_from_some_byte_on(self, make_service, slices, spool, monkeypatch):
        """A device that is full, behind what was written before."""
        write, full = os.write, os.open("/dev/full", os.O_WRONLY)

        def write_until_full(descriptor, data):
            if len(data) < 1000:  # a line of the index
                return write(descriptor, data)
            if written[0] >= 50_000:
                return write(full, data)
            count = write(descriptor, data[: 50_000 - written[0]])
            written[0] += count
            return count

        written = [0]
        monkeypatch.setattr(spool_module.os, "write", write_until_full)
        service = make_service(spool=spool)
        self.check(service, slices, "only the first 50000 bytes of the raw data of this scan are kept: No space left")
        monkeypatch.undo()
        os.close(full)
        scan = only_scan(service, spool)
        assert scan.stream.name == f"{scan.scan}.stream.partial"
        assert scan.stream.read_bytes() == stream(slices)[:50_000]
        assert scan.fields["outcome"] == "finished"
        assert not scan.fields["whole"]

    def test_no_room_from_the_start(self, make_service, slices, spool, monkeypatch):
        full = os.open("/dev/full", os.O_WRONLY)
        write = os.write
        monkeypatch.setattr(spool_module.os, "write", lambda _descriptor, data: write(full, data))
        service = make_service(spool=spool)
        self.check(service, slices, "are not kept: No space left on device")
        service.stop()
        os.close(full)
        assert [path.name for path in spool.iterdir() if path.stat().st_size] == []

    def test_a_disk_that_hangs(self, make_service, slices, spool, monkeypatch):
        """A pipe that nobody reads takes 64 KiB, and then waits for ever."""
        reader, writer = os.pipe()

        def into_the_pipe(path):
            path.touch()
            return os.dup(writer)

        monkeypatch.setattr(spool_module, "create", into_the_pipe)
        monkeypatch.setattr(spool_module, "_SLOW_SECONDS", 0.01)
        monkeypatch.setattr(spool_module, "_STUCK_SECONDS", 0.05)
        monkeypatch.setattr(server_module, "_SPOOL_SECONDS", 0.1)
        service = make_service(spool=spool)
        start = time.monotonic()
        self.check(service, slices, "the disk does not answer")
        time.sleep(0.1)
        self.check(service, slices, "the raw data of this scan are not kept: the disk does not answer")
        assert time.monotonic() - start < 10
        service.stop()
        os.close(reader)  # ends the thread that waits
        os.close(writer)

    def test_a_disk_that_cannot_keep_up(self, slices, spool, tmp_path, monkeypatch):
        """What was taken until then is written; nobody waits for longer than the patience that there is in all."""
        reader, writer = os.pipe()
        write = os.write
        monkeypatch.setattr(spool_module.os, "write", lambda *given: (os.read(reader, 1), write(*given))[1])
        monkeypatch.setattr(spool_module, "_PATIENCE", 0.2)
        keeper = Spool(Settings(home=tmp_path, spool=spool, spool_queue_bytes=2**20))
        recording = keeper.recording("scan")
        recording.follow([Header(slices.header.encode())])
        start = time.monotonic()
        for number in range(100):
            recording.write(memoryview(bytes([number]) * 2**18))
        assert time.monotonic() - start < 2
        assert "the disk cannot keep up" in recording.problems()[0]
        assert recording.end(outcome="finished") == ""
        monkeypatch.undo()
        write(writer, b"go on" * 100)
        keeper.finish(10)
        os.close(reader)
        os.close(writer)
        (scan,) = read_spool(spool)
        kept = scan.stream.read_bytes()
        assert scan.stream.name == "scan.stream.partial"
        assert f"only the first {len(kept)} bytes" in recording.problems()[0]
        assert kept == b"".join(bytes([number]) * 2**18 for number in range(100))[: len(kept)]
        assert len(kept) >= 2**20
        assert scan.fields["whole"] is False

    def test_an_id_that_was_there_already(self, make_service, slices, spool, monkeypatch):
        monkeypatch.setattr(server_module, "new_scan_id", lambda: "always-the-same")
        service = make_service(spool=spool)
        first = service.replay(slices)
        wait_until(lambda: list(spool.glob("*.stream")))
        assert same_images(service.replay(slices).images, first.images)
        assert (spool / "always-the-same.stream").read_bytes() == stream(slices)

    def test_more_text_than_any_opening_has(self, slices, spool, tmp_path):
        keeper = Spool(Settings(home=tmp_path, spool=spool))
        recording = keeper.recording("scan")
        for _ in range(80):
            recording.write(memoryview(bytes(2**20)))
        recording.follow([Text("t")])
        assert recording.problems() == []
        recording.follow([Header(slices.header.encode())])
        assert recording.problems() == ["the raw data of this scan are not kept: too much came before its header"]
        recording.end()
        keeper.finish(10)
        assert list(tmp_path.rglob("*.stream*")) == []


def test_ids_do_not_collide():
    assert len(server_module.new_scan_id().partition("-")[2]) == 16


class TestIndex:
    def test_later_lines_hold_and_a_torn_one_costs_itself(self, tmp_path):
        index = Index(tmp_path)
        index.append("a", time="then", outcome="running")
        index.append("b", time="now")
        with (tmp_path / "index.jsonl").open("ab") as file:
            file.write(b'{"scan": "c", "ti')
        index.append("a", outcome="finished")
        assert index.read() == {
            "a": {"scan": "a", "time": "then", "outcome": "finished"},
            "b": {"scan": "b", "time": "now"},
        }
        with (tmp_path / "index.jsonl").open("ab") as file:
            file.write(b'\n[1]\n{"scan": 7}\n\xff\xfe\n')
        assert set(index.read()) == {"a", "b"}

    def test_files_without_an_entry_are_found(self, tmp_path):
        (tmp_path / "x.stream.partial").write_bytes(b"12")
        (tmp_path / "y.stream").write_bytes(b"1")
        (tmp_path / "y.images.partial").write_bytes(b"1")
        (tmp_path / "notes.txt").write_bytes(b"1")
        (tmp_path / "folder.stream").mkdir()
        os.mkfifo(tmp_path / "pipe.stream")
        found = {scan.scan: scan for scan in read_spool(tmp_path)}
        assert found["x"] == SpooledScan("x", {}, tmp_path / "x.stream.partial", None)
        assert found["y"].files == [tmp_path / "y.stream", tmp_path / "y.images.partial"]
        assert set(found) == {"x", "y"}
        assert {scan.state for scan in found.values()} == {"unfinished"}


class TestRetention:
    @pytest.fixture
    def folder(self, tmp_path):
        """Scans of 1000 bytes, some days old."""
        for days, name, outcome in (
            (9, "old", "finished"),
            (8, "again", "failed"),
            (7, "crashed", None),
            (6, "failed", "failed"),
            (2, "young", "finished"),
            (1, "newest", "finished"),
        ):
            path = tmp_path / f"{name}.stream{'' if outcome else '.partial'}"
            path.write_bytes(b"x" * 900)
            images = tmp_path / f"{name}.images"
            images.write_bytes(b"x" * 100)
            for each in (path, images):
                os.utime(each, (time.time() - days * 86400,) * 2)
            if outcome:
                Index(tmp_path).append(name, outcome=outcome)
        Index(tmp_path).append("again", recovered="now")
        return tmp_path

    @pytest.mark.parametrize(
        ("retention", "removed"),
        [
            (Retention(), set()),
            (Retention(days=5), {"old", "again"}),
            (Retention(days=100, unfinished_days=100, size=10**6), set()),
            (Retention(unfinished_days=6.5), {"crashed"}),
            (Retention(days=1.5, unfinished_days=0.5), {"old", "again", "crashed", "failed", "young"}),
            (Retention(size=5000), {"old"}),
            (Retention(size=3999), {"old", "again", "young"}),
            (Retention(size=0), {"old", "again", "young", "newest"}),
        ],
    )
    def test_what_goes_and_what_stays(self, folder, retention, removed):
        before = {scan.scan for scan in read_spool(folder)}
        retention.tidy(folder)
        assert before - {scan.scan for scan in read_spool(folder)} == removed
        assert {name for name, fields in Index(folder).read().items() if "deleted" in fields} == removed
        assert not [path for path in folder.iterdir() if path.name.partition(".")[0] in removed]

    def test_what_is_being_written_stays(self, folder):
        descriptor = create(folder / "running.stream.partial")
        os.utime(folder / "running.stream.partial", (0, 0))
        Retention(days=0, unfinished_days=0, size=0).tidy(folder)
        assert [scan.scan for scan in read_spool(folder)] == ["running"]
        os.close(descriptor)

    def test_what_cannot_be_removed_costs_nothing_else(self, folder, caplog, monkeypatch):
        unlink = Path.unlink

        def fails_for_one(path, **options):
            if path.name == "old.stream":
                raise PermissionError(1, "Operation not permitted")
            unlink(path, **options)

        monkeypatch.setattr(Path, "unlink", fails_for_one)
        Retention(days=5).tidy(folder)
        assert (folder / "old.stream").exists()
        assert not (folder / "again.stream").exists()
        assert "scan old cannot be removed from the spool: Operation not permitted" in caplog.text

    def test_it_says_where_only_unfinished_scans_are_left(self, folder, caplog):
        Retention(size=100).tidy(folder)
        assert "more than the" in caplog.text

    def test_a_service_tidies_when_it_starts_and_after_every_scan(self, make_service, slices, folder):
        service = make_service(spool=folder, spool_days=5, spool_bytes=1_000_000)
        wait_until(lambda: not (folder / "old.stream").exists())
        for _ in range(4):
            service.replay(slices)
        service.stop()
        kept = {scan.scan for scan in read_spool(folder)}
        assert {"crashed", "failed"} <= kept
        assert sum(scan.size for scan in read_spool(folder)) <= 1_000_000


def test_a_service_without_a_thread_to_be_had(slices, spool, tmp_path, monkeypatch):
    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    recording = Spool(Settings(home=tmp_path, spool=spool)).recording("scan")
    monkeypatch.setattr(spool_module.threading.Thread, "start", no_thread)
    recording.write(memoryview(stream(slices)))
    recording.follow([Header(slices.header.encode())])
    assert recording.problems() == ["the raw data of this scan are not kept: the service can start no thread for it"]
    assert not recording.end(outcome="finished")

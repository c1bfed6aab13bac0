"""`isocenter replay` where something is amiss: what it refuses before it sends, and what it keeps when it ends early."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import h5py
import ismrmrd
import numpy as np
import pytest
from helpers import joined
from isocenter.commands import silence
from isocenter.commands.cli import app
from isocenter.commands.client import Client, ClientError
from isocenter.commands.picture.images import complaints
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, Text
from isocenter.wire.files import ENDED_EARLY, ImageWriter
from isocenter.wire.image_files import image_series
from isocenter.wire.items import ImageHeader, make_image
from typer.testing import CliRunner

TOLD = """
import signal
from isocenter.commands import cli, replay
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what runs beside it
take = replay.Client._take
def told(client, message):
    take(client, message)
    print("image", flush=True)
replay.Client._take = told
cli.app()
"""
"""The command line, which says when an image has come."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    simulate(ScanProtocol(matrix=8, coils=1, slices=3, extra_readouts=True)).save(path)
    return path


def images(count):
    return [
        make_image(np.full((1, 1, 4, 4), number, np.float32), ImageHeader(), ismrmrd.Meta()) for number in range(count)
    ]


@contextmanager
def server(answer, *, holds=False):
    """A server that answers what is sent first, and then ends, or holds the connection until the test is over."""
    over = threading.Event()

    def serve():
        sock, _ = listening.accept()
        with sock:
            sock.recv(1)
            sock.sendall(answer)
            if holds:
                over.wait(60)
            else:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        over.set()
        thread.join(20)


def replay(*arguments, status):
    result = CliRunner().invoke(app, ["replay", "-a", "127.0.0.1", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.stderr


def kept(path):
    (series,) = image_series(path)
    assert series.name == "g/image_0"
    found = list(series.images())
    assert [image.data.max() for image in found] == list(range(len(found)))
    return [image.meta.get(ENDED_EARLY) for image in found]


class TestEndsEarly:
    """What had come is in the file, and says that it is not all."""

    @pytest.mark.parametrize(
        ("last", "reason"),
        [
            (b"", "the server ended the connection without CLOSE"),
            (b"\xff\xff", "unknown message"),
            (joined(Text("ERROR: no more"), Close()), "the server reported an error"),
        ],
        ids=["the connection ends", "no message", "the server fails"],
    )
    def test_because_of_the_server(self, scan, tmp_path, last, reason):
        with server(joined(*images(2)) + last) as port:
            said = replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", "-G", "g", status=1)
        marks = kept(tmp_path / "out.h5")
        assert len(marks) == 2
        assert all(mark.startswith("2 of 3 images had come when the session ended: ") for mark in marks)
        assert reason.split()[-1] in marks[0] or "closed the connection while" in marks[0]
        assert f"2 of 3 images had come when the session ended: in {tmp_path / 'out.h5'}, group 'g', marked" in said

    @pytest.mark.parametrize(
        "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGTERM]]
    )
    def test_because_of_the_user(self, scan, tmp_path, numbers):
        """Who asks more than once, as it takes a moment, loses no images."""
        options = ("-f", str(scan), "-o", str(tmp_path / "out.h5"), "-G", "g", "-a", "127.0.0.1")
        with server(joined(*images(2)), holds=True) as port:
            command = [sys.executable, "-W", "ignore", "-c", TOLD, "replay", "-p", str(port), *options]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert [process.stdout.readline() for _ in range(2)] == ["image\n"] * 2
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.02)  # for the client to begin with what it was asked
            _, said = process.communicate(timeout=60)
        # one that comes when all is done may end the process as it is
        assert process.returncode in (130, *(-number for number in numbers[1:])), said
        assert said.splitlines()[-1] == "interrupted"
        mark = "2 of 3 images had come when the session ended: the client was interrupted"
        assert kept(tmp_path / "out.h5") == [mark, mark]

    def test_because_of_the_user_while_images_are_written(self, scan, tmp_path, monkeypatch):
        """All are written: the file has no images that nothing tells to be a part."""
        write = ImageWriter.write

        def interrupted(writer, image):
            os.kill(os.getpid(), signal.SIGTERM)
            write(writer, image)

        monkeypatch.setattr(ImageWriter, "write", interrupted)
        with server(joined(*images(3), Close())) as port:
            said = replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", "-G", "g", status=130)
        assert said.splitlines()[-1] == "interrupted"
        assert kept(tmp_path / "out.h5") == [None, None, None]

    def test_before_an_image_came(self, scan, tmp_path):
        with server(b"") as port:
            said = replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", status=1)
        assert "0 of 3 images had come when the session ended\n" in said
        assert not (tmp_path / "out.h5").exists()

    def test_images_of_a_session_that_came_to_its_end_have_no_mark(self, scan, tmp_path):
        with server(joined(*images(2), Close())) as port:
            replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", "-G", "g", status=0)
        assert kept(tmp_path / "out.h5") == [None, None]

    def test_a_picture_shows_the_mark(self, scan, tmp_path):
        with server(joined(*images(1))) as port:
            replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", "-G", "g", status=1)
        (image,) = image_series(tmp_path / "out.h5")[0].images()
        assert complaints(image)[0].startswith("EndedEarly: 1 of 3 images had come")


class TestRefused:
    """Nothing is sent, nothing is written, and the status is 2: nobody listens at port 1."""

    def refused(self, *arguments, tmp_path):
        said = replay("-p", 1, "-t", 1, "-o", tmp_path / "out.h5", *arguments, status=2)
        assert said.count("\n") == 1
        assert not (tmp_path / "out.h5").exists()
        return said

    def test_a_parameter_that_is_given_twice(self, scan, tmp_path):
        said = self.refused("-f", scan, "--parameter", "a=1", "--parameter", "a=2", tmp_path=tmp_path)
        assert said == "error: --parameter: 'a' is given twice: '1' and '2'\n"

    @pytest.mark.parametrize("entry", ["a", "=1", " =1"])
    def test_a_parameter_without_name_or_value(self, scan, tmp_path, entry):
        assert f"{entry!r} must be name=value" in self.refused("-f", scan, "--parameter", entry, tmp_path=tmp_path)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("-c", ""), "an empty text names no pipeline"),
            (("-c", "x" * 1024), "too long for a name"),
            (("-c", "rss", "-C", "mine.xml"), "not both"),
            (("-C", "/dev/zero"), "/dev/zero cannot be read: it is a device"),
        ],
    )
    def test_pipelines(self, scan, tmp_path, options, complaint):
        assert complaint in self.refused("-f", scan, *options, tmp_path=tmp_path)

    @pytest.mark.parametrize(
        ("header", "complaint"),
        [("no markup", "the MRD header is not readable XML"), ("<html/>", "the header's root element is 'html'")],
    )
    def test_a_header_that_is_none(self, tmp_path, header, complaint):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file["dataset/xml"] = header
        said = self.refused("-f", tmp_path / "scan.h5", tmp_path=tmp_path)
        assert f"{tmp_path / 'scan.h5'}: " in said
        assert complaint in said

    def test_a_scan_without_readouts(self, scan, tmp_path):
        with h5py.File(scan) as source, h5py.File(tmp_path / "scan.h5", "w") as file:
            source.copy("dataset/xml", file.create_group("dataset"))
        assert "holds no readouts" in self.refused("-f", tmp_path / "scan.h5", tmp_path=tmp_path)

    @pytest.mark.parametrize(("flag", "options"), [("-q", ()), ("-Q", ("gadgetron::info",))])
    def test_what_a_question_does_not_read(self, scan, tmp_path, flag, options):
        said = self.refused(flag, *options, "-f", scan, "--parameter", "a=1", tmp_path=tmp_path)
        assert "does not read --filename, --parameter: leave it out" in said


def test_a_query_that_fails_is_one_line_and_has_status_1(tmp_path):
    with server(joined(Text("[Isocenter] ERROR: there is no pipeline 'x'\n"), Close())) as port:
        said = replay("-p", port, "-q", "-c", "x", "-o", tmp_path / "out.txt", status=1)
    assert said == "error: [Isocenter] ERROR: there is no pipeline 'x'\n"
    assert not (tmp_path / "out.txt").exists()


def test_a_server_that_is_silent_is_waited_for_aloud_and_not_for_ever(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(silence, "_TELL_SECONDS", 0.3)
    with server(b"", holds=True) as port:
        said = replay("-p", port, "-f", scan, "-o", tmp_path / "out.h5", "--silence", 1, status=1)
        *_, last = said.splitlines()
        assert re.search(r"waiting for the server's answer to \d+ readouts: it is silent for [01] of 1 seconds\n", said)
        assert re.fullmatch(
            r"error: gave up waiting for the server's answer to \d+ readouts: it was silent for 1 seconds \(--silence\)",
            last,
        )
        said = replay("-p", port, "-Q", "isocenter::version", "--silence", 1, status=1)
        assert said == "error: gave up waiting for the server's answer: it was silent for 1 seconds (--silence)\n"


def test_a_server_that_says_something_now_and_then_is_waited_for():
    ours, theirs = socket.socketpair()

    def speak():
        for _ in range(4):
            time.sleep(0.4)  # shorter than the limit, and all together longer
            theirs.sendall(joined(Text("still at it")))
        theirs.sendall(joined(Close()))

    speaker = threading.Thread(target=speak)
    speaker.start()
    with theirs:
        assert len(Client(ours, silence=1).finish().texts) == 4
        speaker.join()


def test_a_server_that_does_not_read_is_given_up_as_well():
    ours, theirs = socket.socketpair()
    client = Client(ours, silence=1)
    with theirs, pytest.raises(BrokenPipeError):
        client.send(Text("x" * 2**24))
    with pytest.raises(ClientError, match="gave up waiting for the server to read what is sent"):
        client.finish()

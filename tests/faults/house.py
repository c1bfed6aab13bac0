"""A service in this process, honest scans beside whatever is done to it, and what must be as it was afterwards."""

import gc
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from isocenter.commands.client import Client, ask, connect
from isocenter.service.server import Server
from isocenter.service.settings import Settings
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import ConfigFile, Header

from .peer import Peer
from .phases import small_scan

PATIENCE = 20.0
"""Seconds that anything may take on a busy machine before it counts as hanging."""
TIMEOUT = 2.0
"""Seconds of the service's time-outs in these tests."""
PACE = 0.004
"""Seconds between readouts of an honest scan while a fault lasts."""
HONEST = {
    "rss.xml": ScanProtocol(matrix=32, coils=4, slices=2, noise=0.5, measurement_id="honest_rss_1_1"),
    "sense.xml": ScanProtocol(
        matrix=32, coils=4, slices=2, noise=0.5, acceleration=2, acs=16, measurement_id="honest_sense_1_1"
    ),
}
SETTINGS = {
    "handshake_timeout": TIMEOUT,
    "idle_timeout": TIMEOUT,
    "message_timeout": TIMEOUT,
    "send_timeout": TIMEOUT,
    "drain_timeout": TIMEOUT,
    "shutdown_timeout": 5.0,
}


def fingerprint(images):
    """All that images say: header, attributes, pixels."""
    prints = []
    for image in images:
        header = image.getHead()
        header.attribute_string_len = 0
        prints.append((bytes(header), {name: image.meta[name] for name in image.meta}, image.data.tobytes()))
    return prints


class HonestScan:
    """A scan, how it comes out alone, and a client that sends it again and again."""

    def __init__(self, port, pipeline="rss.xml"):
        self._port, self._pipeline = port, pipeline
        self._scan = simulate(HONEST[pipeline])
        self._hurry = threading.Event()
        self._hurry.set()
        self._begun = threading.Event()
        self.alone = self.send()
        assert len(self.alone) == self._scan.protocol.slices

    def send(self):
        """Send it once, slowly while it is not to hurry; return the fingerprint of its images."""
        client = Client(connect("localhost", self._port, PATIENCE))
        client.send(ConfigFile(self._pipeline))
        client.send(Header(self._scan.header.encode()))
        self._begun.set()
        client.send_scan(self._paced())
        result = client.finish(timeout=PATIENCE)
        problems = [text for text in result.texts if "INFO" not in text]
        assert not problems, problems
        return fingerprint(result.images)

    def _paced(self):
        for item in self._scan.items:
            self._hurry.wait(PACE)
            yield item

    @contextmanager
    def beside(self):
        """Send it scan after scan while the block runs; each must come out as it does alone."""
        wrong = []

        def work():
            try:
                while not wrong:
                    if self.send() != self.alone:
                        wrong.append("an image beside differs from the one alone")
                    if self._hurry.is_set():
                        return
            except Exception as error:  # noqa: BLE001 - raised where the block ends
                wrong.append(f"a scan beside was lost: {error!r}")

        self._begun.clear()
        self._hurry.clear()
        thread = threading.Thread(target=work, name="honest")
        thread.start()
        try:
            assert self._begun.wait(PATIENCE), wrong
            yield
        finally:
            self._hurry.set()
            thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a scan beside hangs"
        assert not wrong, wrong[0]


def alone(house):
    """Fingerprint of the images of the scan that faulty clients send, where nothing goes wrong."""
    with house.connect() as sock:
        peer = Peer(sock, small_scan())
        peer.finish()
        answer = peer.listen()
    assert not answer.is_told, answer.said
    return fingerprint(answer.images)


class House:
    """A service with small time-outs. Use it in a ``with`` statement.

    Parameters
    ----------
    engine
        Runs the bundles; it is not closed.
    home
        Folder for noise and pipelines.
    settings
        Further settings of the service.

    Attributes
    ----------
    honest
        The scan beside.
    small
        Fingerprint of the images of the scan that faulty clients send, where nothing goes wrong.
    """

    def __init__(self, engine, home, **settings):
        self.server = Server(Settings(port=0, home=home, **{**SETTINGS, **settings}), engine)
        self.port = self.server.port
        self._thread = threading.Thread(target=self.server.serve)

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *_):
        self.close()

    def open(self):
        """Serve, and see what honest scans look like alone."""
        self._thread.start()
        self.honest = HonestScan(self.port)
        self.small = alone(self)
        self._fill_pools()
        gc.collect()
        self._before = usage()

    def close(self):
        self.server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _fill_pools(self):
        """Use all that is made once and kept, such as threads of a pool."""
        sockets = [self.connect() for _ in range(self.server.settings.max_connections)]
        wait_for(lambda: len(sockets) - len(self.server._slots), PATIENCE)
        for sock in sockets:
            sock.close()
        self.wait_until_empty()

    def connect(self, receive_bytes=None):
        """Connect; ``receive_bytes`` is the size of the socket's receive buffer."""
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def ask(self, question):
        """Ask as commands do, on a connection without a time-out of its own: a receiver would sit it out."""
        return ask(connect("localhost", self.port, PATIENCE), question)

    @contextmanager
    def unharmed(self):
        """Run a fault in the block; an honest scan beside it, and all that must be as it was afterwards."""
        with self.honest.beside():
            yield
            start = time.monotonic()
            assert self.ask("isocenter::version").startswith("isocenter ")
            assert time.monotonic() - start < PATIENCE / 4
        self.wait_until_empty()
        assert self.honest.send() == self.honest.alone
        self.wait_until_empty()

    def wait_until_empty(self):
        """Wait until no session is left, and nothing that one held."""
        wait_for(lambda: self.left_over(), PATIENCE)

    def left_over(self):
        """Say what is still held; empty if nothing is."""
        held = {"slots": len(self.server._slots), "bytes": self.server.memory.held}
        before = getattr(self, "_before", None)
        if before is not None and not any(held.values()):
            now = usage()
            held |= {name: max(0, now[name] - before[name]) for name in now}
        return {name: count for name, count in held.items() if count}


def usage():
    """Threads and file descriptors of this process."""
    return {"threads": threading.active_count(), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}


def wait_for(left_over, seconds):
    """Wait until nothing is left over."""
    end, pause = time.monotonic() + seconds, 0.001
    while left := left_over():
        assert time.monotonic() < end, f"left after {seconds:g} seconds: {left}"
        time.sleep(pause)
        pause = min(2 * pause, 0.05)

"""The threads of a connection: what they wait for, for how long, and how they end."""

import socket
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from itertools import islice

import numpy as np
import pytest
from helpers import joined, random_acquisition, wait_until
from isocenter.flow.channel import Stopped
from isocenter.flow.ledger import Ledger
from isocenter.service.patience import Patience
from isocenter.service.transport import Receiver, Sender
from isocenter.wire import Close, ProtocolError, Text
from isocenter.wire.items import AcquisitionBucket


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def patience(seconds, message_seconds=None, progress=()):
    granted = Patience(message_seconds)
    granted.grant(seconds, progress=progress)
    return granted


def test_a_changed_time_reaches_whoever_waits_already(pair):
    ours, _theirs = pair
    receiver = Receiver(ours, patience=patience(1000.0))
    start = time.monotonic()
    receiver.patience.grant(0.05, "news")
    assert list(receiver) == []
    assert time.monotonic() - start < 5
    assert str(receiver.error) == "news did not come within 0.05 seconds"


def test_a_longer_time_counts_as_well(pair):
    ours, theirs = pair
    receiver = Receiver(ours, patience=patience(0.3))
    receiver.patience.grant(1000.0)
    threading.Timer(0.6, theirs.sendall, [joined(Text("late"))]).start()
    assert next(receiver) == Text("late")
    receiver.stop()


def drip(sock, data, seconds=0.01):
    """Send a byte at a time until the other end has had enough."""
    with suppress(OSError):
        for value in data:
            sock.sendall(bytes([value]))
            time.sleep(seconds)


@pytest.mark.parametrize(
    ("granted", "reason"),
    [
        (lambda: patience(0.3), "a message did not come within 0.3 seconds"),
        (lambda: patience(1000.0, 0.3), "a message was not complete within 0.3"),
    ],
)
def test_single_bytes_do_not_set_the_clock_back(pair, granted, reason):
    ours, theirs = pair
    receiver = Receiver(ours, patience=granted())
    threading.Thread(target=drip, args=(theirs, joined(random_acquisition(4, 128)))).start()
    start = time.monotonic()
    assert list(receiver) == []
    assert time.monotonic() - start < 5
    assert reason in str(receiver.error)
    receiver.stop()
    ours.shutdown(socket.SHUT_RDWR)


def test_only_what_is_awaited_sets_the_clock_back(pair):
    ours, theirs = pair
    receiver = Receiver(ours, patience=patience(0.6, progress=(AcquisitionBucket,)))
    for message in (Text("chatter"), AcquisitionBucket(), Text("chatter"), Text("chatter")):
        theirs.sendall(joined(message))
        time.sleep(0.25)
    arrived = list(receiver)
    assert [type(message) for message in arrived] == [Text, AcquisitionBucket, Text, Text]
    assert "did not come" in str(receiver.error)


def test_the_clock_stands_still_while_this_end_has_no_room(pair):
    """A slow reconstruction is not the peer's fault."""
    ours, theirs = pair
    readout = random_acquisition(16, 1024)
    receiver = Receiver(ours, account=Ledger(2**18).account("receiver"), patience=patience(0.5, 0.5))
    sent = threading.Thread(target=lambda: theirs.sendall(joined(*[readout] * 40, Close())))
    sent.start()
    time.sleep(1.0)
    assert len(list(islice(receiver, 41))) == 41
    sent.join(10)
    receiver.stop()


def test_stopping_ends_a_thread_that_waits_for_messages(pair):
    ours, theirs = pair
    receiver = Receiver(ours)
    ended = []

    def read():
        try:
            ended.extend(receiver)
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=read)
    thread.start()
    theirs.sendall(joined(Text("first")))
    receiver.drain(0.05)
    thread.join(10)
    assert ended in ([Text("first"), "stopped"], ["stopped"])
    receiver.stop()


def test_an_aborted_connection_gives_what_had_come(pair):
    ours, theirs = pair
    receiver = Receiver(ours)
    theirs.sendall(joined(Text("first"), Text("second")))
    assert next(receiver) == Text("first")
    receiver.abort()
    assert list(receiver) == [Text("second")]


@pytest.mark.parametrize("rubbish", [b"", b"\xff" * 10_000])
def test_draining_reads_on_until_close_or_silence(pair, rubbish):
    """What lies unread in a socket when it is closed resets the connection, and the reason is lost."""
    ours, theirs = pair
    receiver = Receiver(ours)
    if rubbish:
        theirs.sendall(rubbish)
        assert list(receiver) == []
        assert isinstance(receiver.error, ProtocolError)
    sent = threading.Thread(
        target=lambda: (
            [theirs.sendall(joined(random_acquisition(32, 4000))) for _ in range(30)]
            + [theirs.sendall(joined(Close()))]
        )
    )
    sent.start()
    receiver.drain(20)
    sent.join(20)
    assert not sent.is_alive()
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    receiver.stop()


@pytest.mark.parametrize("rubbish", [b"", b"\xff" * 10_000])
def test_a_peer_that_never_stops_sending_is_read_no_longer_than_the_drain_may_take(pair, rubbish):
    ours, theirs = pair
    receiver = Receiver(ours)
    if rubbish:
        theirs.sendall(rubbish)
        assert list(receiver) == []
    theirs.settimeout(0.5)
    stalled = threading.Event()

    def send():
        data = joined(Text("still here")) * 1000
        try:
            while not stalled.is_set():
                theirs.sendall(data)
        except OSError:
            stalled.set()

    thread = threading.Thread(target=send)
    thread.start()
    receiver.drain(0.2)
    try:
        wait_until(stalled.is_set, 5)
        # what it received last is decoded before it looks at the time: thousands of texts
        wait_until(lambda: not receiver._thread.is_alive(), 10)
    finally:
        stalled.set()
        receiver.stop()
        thread.join(10)


def test_readouts_that_wait_hold_the_peer_back(pair):
    """A scan that may hold 1 MiB, readouts of 64 kB, and nobody who takes them."""
    ours, theirs = pair
    ledger = Ledger(2**20)
    receiver = Receiver(ours, account=ledger.account("receiver"))
    data, sent = joined(random_acquisition(16, 512)), []

    def send():
        try:
            for _ in range(200):
                theirs.sendall(data)
                sent.append(1)
        except OSError:
            sent.append("the end")

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: ledger.condition._waiters)
    assert ledger.waiting <= 2**20 + 2 * 2**20
    count = len(sent)
    assert count < 200
    receiver.stop()
    ours.close()
    thread.join(10)
    assert ledger.waiting == 0


def test_memory_for_a_large_message_is_charged_before_it_is_taken(pair):
    ours, theirs = pair
    ledger = Ledger(2**20)
    account = ledger.account("receiver")
    account.charge(2**20)
    receiver = Receiver(ours, account=account)
    bucket = joined(AcquisitionBucket(data=[random_acquisition(64, 1 << 14) for _ in range(8)]))
    assert len(bucket) > 64 * 2**20
    tracemalloc.start()
    thread = threading.Thread(target=theirs.sendall, args=(bucket,))
    thread.start()
    wait_until(lambda: ledger.condition._waiters)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 16 * 2**20
    account.credit(2**20)
    message = next(receiver)
    assert isinstance(message, AcquisitionBucket)
    assert len(message.data) == 8
    thread.join(10)
    receiver.stop()
    assert ledger.waiting == 0


def test_what_waits_to_be_sent_holds_the_scan_back(pair):
    ours, theirs = pair
    ledger = Ledger(2**20)
    sender = Sender(ours, account=ledger.account("sender"), timeout=20)
    image, sent = [bytes(2**18)], []

    def send():
        for _ in range(40):
            sender.send(image)
            sent.append(1)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: ledger.condition._waiters)
    assert ledger.waiting <= 2**20
    assert len(sent) < 40
    received = 0
    while received < 40 * 2**18:
        received += len(theirs.recv(2**20))
    thread.join(10)
    sender.finish()
    assert len(sent) == 40
    assert ledger.waiting == 0


def test_a_peer_that_does_not_read_is_an_error_of_who_sends(pair):
    ours, _theirs = pair
    sender = Sender(ours, account=Ledger(2**20).account("sender"), timeout=0.05)

    def send():
        for _ in range(1000):
            sender.send([bytes(2**18)])

    with pytest.raises(TimeoutError):
        send()
    sender.finish()


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_peer_that_reads_byte_by_byte_is_waited_for_no_longer_than_a_message_may_take(pair, at_the_end):
    ours, theirs = pair
    sender = Sender(ours, timeout=0.4)
    for _ in range(1 if not at_the_end else 20):
        sender.send([bytes(2**20)])
    stop = threading.Event()

    def read():
        while not stop.wait(0.01):
            theirs.recv(1)

    reader = threading.Thread(target=read)
    reader.start()
    start = time.monotonic()
    sender.finish(0.5 if at_the_end else None)
    assert time.monotonic() - start < 10
    assert isinstance(sender.error, OSError)
    stop.set()
    reader.join(10)


def test_receive_memory_is_not_used_again_while_a_readout_refers_to_it(pair):
    """More bytes than all pieces of receive memory hold, and the first readouts are still what they were."""
    ours, theirs = pair
    receiver = Receiver(ours)
    items = [random_acquisition(16, 1024, seed=seed) for seed in range(8)]

    def send():
        theirs.sendall(joined(*items))
        other = joined(random_acquisition(16, 1024, seed=99))
        for _ in range(300):
            theirs.sendall(other)
        theirs.sendall(struct.pack("<H", 4))

    thread = threading.Thread(target=send)
    thread.start()
    first = [next(receiver) for _ in items]
    assert isinstance(list(islice(receiver, 301))[-1], Close)
    thread.join(10)
    assert all(np.array_equal(ours.data, theirs.data) for ours, theirs in zip(first, items, strict=True))
    receiver.stop()

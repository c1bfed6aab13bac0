import socket
import threading
import time

import pytest
from isocenter.flow.ahead import run_ahead
from isocenter.service.transport import Receiver, TakenOver
from isocenter.wire import Close, Text, encode


def test_what_is_started_comes_in_order():
    assert list(run_ahead(range(100), lambda item: 2 * item, depth=3)) == list(range(0, 200, 2))


def test_items_are_taken_while_the_results_are_worked_on():
    taken = []

    def items():
        for item in range(4):
            taken.append(item)
            yield item

    results = run_ahead(items(), lambda item: item)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while len(taken) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert list(results) == [1, 2, 3]


@pytest.mark.parametrize("where", ["items", "start"])
def test_errors_come_after_what_was_started_before_them(where):
    def items():
        yield 1
        if where == "items":
            raise ValueError("no more")
        yield 2

    def start(item):
        if item == 2:
            raise ValueError("no more")
        return item

    results = run_ahead(items(), start)
    assert next(results) == 1
    with pytest.raises(ValueError, match="no more"):
        next(results)


def test_whoever_stops_early_stops_the_taking():
    ended = threading.Event()

    def items():
        try:
            for item in range(10**6):
                yield item
                time.sleep(0.001)
        finally:
            ended.set()

    results = run_ahead(items(), lambda item: item, depth=2)
    assert next(results) == 0
    results.close()
    assert ended.wait(10)


def test_a_receiver_can_be_taken_over_from_a_thread_that_waits_for_it():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = Receiver(ours)
        ended = []

        def read():
            try:
                for message in receiver:
                    ended.append(message)
            except TakenOver:
                ended.append("taken over")

        thread = threading.Thread(target=read)
        thread.start()
        theirs.sendall(b"".join(bytes(part) for part in encode(Text("first"))))
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.001)
        messages = iter(receiver)
        thread.join(10)
        assert ended == [Text("first"), "taken over"]
        theirs.sendall(b"".join(bytes(part) for message in (Text("second"), Close()) for part in encode(message)))
        assert next(messages) == Text("second")
        assert next(messages) == Close()
        receiver.stop()

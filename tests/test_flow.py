"""Bytes are charged before they are taken, and threads hand over no more than that."""

import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from helpers import wait_until
from hypothesis import given
from hypothesis import strategies as st
from isocenter.flow.ahead import run_ahead
from isocenter.flow.channel import Channel, Stopped
from isocenter.flow.ledger import Account, Ledger
from isocenter.gadgets import load
from isocenter.gadgets.early import EarlyWork
from isocenter.gadgets.kspace import Kspace, size_of
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate


def in_thread(function, *arguments):
    """Start a thread, and return it with the list that gets what the function returns or raises."""
    outcome = []

    def run():
        try:
            outcome.append(function(*arguments))
        except (Exception, Stopped) as error:  # noqa: BLE001 - looked at by the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def is_waiting(condition):
    """Whether a thread waits for a condition."""
    return bool(condition._waiters)


class TestLedger:
    def test_what_waits_in_all_accounts_is_bounded_together(self):
        ledger = Ledger(10)
        first, second = ledger.account("first"), ledger.account("second")
        assert first.charge(6)
        assert second.charge(4)
        assert not second.charge(1, timeout=0)
        first.credit(6)
        assert second.charge(1, timeout=0)
        assert (ledger.waiting, second.waiting) == (5, 5)

    def test_an_empty_account_may_always_take_one_entry(self):
        ledger = Ledger(10)
        first, second = ledger.account("first"), ledger.account("second")
        assert first.charge(10)
        assert second.charge(1000, timeout=0)
        assert not second.charge(1, timeout=0)

    def test_whoever_makes_something_of_unknown_size_waits_for_room(self):
        ledger = Ledger(10)
        first, second = ledger.account("first"), ledger.account("second")
        assert first.wait_for_room(timeout=0)
        assert first.charge(10)
        assert not first.wait_for_room(timeout=0)
        assert second.wait_for_room(timeout=0)  # which holds nothing
        first.credit(1)
        assert first.wait_for_room(timeout=0)
        assert ledger.waiting == 9
        assert not first.wait_for_room(leave=lambda: True)

    def test_what_all_scans_keep_takes_the_room_of_what_waits(self):
        whole = Ledger(10)
        assert Ledger(whole=whole).account("buffer").keep(10)
        queue = Ledger(whole=whole).account("queue")
        assert queue.charge(1, timeout=0)
        assert not queue.charge(1, timeout=0)

    def test_a_release_wakes_who_waits(self):
        whole = Ledger(10)
        buffer, queue = Ledger(whole=whole).account("buffer"), Ledger(whole=whole).account("queue")
        assert buffer.keep(10)
        assert queue.charge(1)
        thread, outcome = in_thread(queue.charge, 1)
        wait_until(lambda: is_waiting(whole.condition))
        buffer.release(10)
        thread.join(10)
        assert outcome == [True]

    def test_a_credit_wakes_who_waits(self):
        ledger = Ledger(10)
        account = ledger.account("queue")
        account.charge(10)
        thread, outcome = in_thread(account.charge, 5)
        wait_until(lambda: is_waiting(ledger.condition))
        account.credit(10)
        thread.join(10)
        assert outcome == [True]

    def test_whoever_waits_can_leave(self):
        ledger, gone = Ledger(1), threading.Event()
        account = ledger.account("queue")
        account.charge(1)
        thread, outcome = in_thread(lambda: account.charge(1, leave=gone.is_set))
        wait_until(lambda: is_waiting(ledger.condition))
        gone.set()
        ledger.wake()
        thread.join(10)
        assert outcome == [False]
        assert account.waiting == 1

    def test_all_scans_together_are_bounded_and_each_can_go_on(self):
        whole = Ledger(10)
        scans = [Ledger(100, whole=whole).account("queue") for _ in range(2)]
        assert scans[0].charge(10)
        assert scans[1].charge(1, timeout=0)
        assert not scans[1].charge(1, timeout=0)
        scans[0].credit(10)
        assert scans[1].charge(1, timeout=0)
        assert whole.waiting == 2

    def test_what_is_kept_is_refused_and_does_not_hold_up_what_waits(self):
        whole = Ledger(50)
        ledger = Ledger(10, keeps=30, whole=whole)
        buffer, queue = ledger.account("buffer"), ledger.account("queue")
        assert buffer.keep(30)
        assert not buffer.keep(1)
        assert queue.charge(5, timeout=0)
        assert queue.charge(5, timeout=0)
        other = Ledger(10, whole=whole)
        other.patience = 0.05
        assert not other.account("another").keep(11)
        buffer.close()
        queue.close()
        assert (whole.waiting, whole.kept, ledger.held) == (0, 0, 0)

    def test_what_is_refused_is_said_with_what_would_fit(self):
        ledger = Ledger(10, keeps=3_000_000, whole=Ledger(10_000_000))
        account = ledger.account("buffer")
        assert account.keep(2_500_000)
        assert not account.keep(1_234_567)
        assert ledger.shortage(1_234_567) == (
            "it needs 1.2 MB more; the scan may keep 3.0 MB (three quarters of scan_bytes), of which 500.0 kB are free; "
            "all scans may hold 10.0 MB (memory_bytes), of which 7.5 MB are free"
        )

    def test_room_for_what_will_be_made_must_be_free_and_is_not_taken(self):
        account = Ledger(keeps=30).account("buffer")
        assert not account.keep(10, spare=21)
        assert account.keep(10, spare=20)
        assert account.keep(10, spare=10)
        assert account.kept == 20

    def test_a_block_waits_for_those_that_were_handed_on(self):
        ledger = Ledger(keeps=30)
        buffer, ahead = ledger.account("buffer"), ledger.account("ahead", of_blocks=True)
        assert ahead.charge(20)
        thread, outcome = in_thread(buffer.keep, 20)
        wait_until(lambda: is_waiting(ledger.condition))
        assert not buffer.keep(31)
        ahead.credit(20)
        thread.join(10)
        assert outcome == [True]
        assert (ledger.in_flight, ledger.kept) == (0, 20)

    def test_a_scan_is_patient_with_others_for_a_while_in_all(self):
        whole = Ledger(10)
        other, ledger = Ledger(whole=whole).account("other"), Ledger(whole=whole)
        assert other.keep(10)
        ledger.patience = 0.05
        assert not ledger.account("buffer").keep(1)
        assert ledger.patience <= 0
        assert not ledger.account("receiver").admit(1)
        patient = Ledger(whole=whole)
        thread, outcome = in_thread(patient.account("buffer").keep, 1)
        wait_until(lambda: is_waiting(whole.condition))
        other.close()
        thread.join(10)
        assert outcome == [True]

    def test_a_large_entry_needs_room_in_the_service_and_waits_for_the_scan(self):
        whole = Ledger(100)
        ledger = Ledger(10, whole=whole)
        account = ledger.account("receiver")
        assert account.admit(20)
        thread, outcome = in_thread(account.admit, 20)
        wait_until(lambda: is_waiting(whole.condition))
        account.credit(20)
        thread.join(10)
        assert outcome == [True]
        ledger.patience = 0
        assert not ledger.account("another").admit(81)
        assert not account.admit(1, leave=lambda: True)

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.booleans()), max_size=60))
    def test_no_more_than_its_capacity_and_one_entry_for_each_account(self, steps):
        whole = Ledger(40)
        ledger = Ledger(20, whole=whole)
        accounts = [ledger.account(str(number)) for number in range(3)]
        entries = [[] for _ in accounts]
        for number, size, gives in steps:
            if gives and entries[number]:
                accounts[number].credit(entries[number].pop(0))
            elif not gives and accounts[number].charge(size, timeout=0):
                entries[number].append(size)
            assert ledger.waiting == whole.waiting == sum(map(sum, entries))
            assert ledger.waiting <= 20 + sum(max(each, default=0) for each in entries)
        for number, each in enumerate(entries):
            for size in each:
                accounts[number].credit(size)
        assert whole.held == 0


class TestKept:
    """What a block that is being filled takes of a ledger: samples, and bytes for each line and for itself."""

    LINES, COILS, SAMPLES = 16, 2, 32
    SPARE = 8 * LINES * COILS * SAMPLES
    BLOCK = SPARE + 352 * LINES + 24576
    PROTOCOL = ScanProtocol(matrix=LINES, coils=COILS, noise_scan=False)

    def items(self, **change):
        return simulate(replace(self.PROTOCOL, **change)).items

    def accumulate(self, items, ledger, early=None, **change):
        scan = Scan(simulate(replace(self.PROTOCOL, **change)).header, ledger=ledger)
        return load("accumulate")(items, scan, early=early), scan

    @pytest.mark.parametrize("early", [False, True])
    def test_a_block_is_kept_from_its_first_line_until_it_is_handed_on(self, early):
        ledger, held = Ledger(), []

        def watched():
            for item in self.items(slices=2):
                yield item
                held.append(ledger.kept)

        work = EarlyWork(crop=True) if early else None
        expected = self.BLOCK + (self.SPARE if early else 0)
        stream, _ = self.accumulate(watched(), ledger, early=work, slices=2)
        for _ in range(2):
            assert isinstance(next(stream), Kspace)
            assert ledger.kept == 0
        assert list(stream) == []
        assert held == [*[expected] * 15, 0] * 2

    def test_a_block_whose_lines_were_all_refused_is_not_kept(self):
        ledger = Ledger()
        items = self.items(slices=2)
        for item in items[: self.LINES]:
            item.data[:] = np.nan
        stream, scan = self.accumulate(iter(items), ledger, slices=2)
        (block,) = stream
        assert block.central_headers[0].idx.slice == 0
        assert ledger.kept == 0
        assert "not finite" in scan.problems

    def test_of_calibration_lines_only_the_last_ones_of_each_slice_are_kept(self):
        ledger = Ledger()
        change = {"frames": 6, "slices": 2, "acceleration": 2, "acs": 4}
        stream, scan = self.accumulate(iter(self.items(**change)), ledger, **change)
        kept = [ledger.kept for _ in stream]
        assert kept == [self.BLOCK, *[2 * self.BLOCK] * 11]
        assert not scan.problem_messages()
        assert ledger.kept == 0

    def test_nothing_is_kept_when_a_stream_is_closed_early(self):
        ledger = Ledger()
        change = {"frames": 2, "acceleration": 2, "acs": 4}
        stream, _ = self.accumulate(iter(self.items(**change)), ledger, **change)
        next(stream)
        assert ledger.kept == self.BLOCK
        stream.close()
        assert ledger.held == 0

    def test_a_block_that_may_not_be_kept_is_refused_before_its_memory_is_taken(self):
        ledger = Ledger(keeps=2 * self.BLOCK + self.SPARE - 1)
        items = self.items(slices=2)
        first, last = items[: self.LINES - 1], items[self.LINES - 1]
        stream, scan = self.accumulate(iter([*first, *items[self.LINES :], last]), ledger, slices=2)
        (block,) = stream
        assert block.mask.all()
        assert (
            "there is no memory for a block [frames, kz, ky, coils, kx] of (1, 1, 16, 2, 32): it needs 46.6 kB more; "
            "the scan may keep 85.0 kB (three quarters of scan_bytes), of which 46.6 kB are free"
        ) in scan.problems["memory"]
        assert ledger.held == 0


class TestChannel:
    def test_entries_come_in_order_and_then_the_end(self):
        channel = Channel()
        for number in range(5):
            assert channel.put(number)
        channel.finish()
        assert not channel.put(5)
        assert list(channel) == [0, 1, 2, 3, 4]

    def test_an_error_comes_after_what_was_put_before_it(self):
        channel = Channel()
        channel.put(1)
        channel.finish(ValueError("no more"))
        channel.finish(KeyError("what was said first holds"))
        assert next(channel) == 1
        with pytest.raises(ValueError, match="no more"):
            next(channel)

    def test_a_full_channel_holds_back_who_puts(self):
        ledger = Ledger(10)
        channel = Channel(ledger.account("channel"))
        channel.put("first", 10)
        thread, outcome = in_thread(channel.put, "second", 1)
        wait_until(lambda: is_waiting(ledger.condition))
        assert not outcome
        assert channel.take() == "first"
        thread.join(10)
        assert outcome == [True]
        assert ledger.waiting == 1

    @pytest.mark.parametrize("end", ["finish", "stop"])
    def test_either_end_wakes_who_waits_to_put(self, end):
        ledger = Ledger(10)
        channel = Channel(ledger.account("channel"))
        channel.put("first", 10)
        thread, outcome = in_thread(channel.put, "second", 1)
        wait_until(lambda: is_waiting(ledger.condition))
        getattr(channel, end)()
        thread.join(10)
        assert outcome == [False]
        assert ledger.waiting == (10 if end == "finish" else 0)

    @pytest.mark.parametrize(("end", "expected"), [("finish", StopIteration), ("stop", Stopped)])
    def test_either_end_wakes_who_waits_to_take(self, end, expected):
        channel = Channel()
        thread, outcome = in_thread(channel.take)
        wait_until(lambda: is_waiting(channel._condition))
        getattr(channel, end)()
        thread.join(10)
        assert isinstance(outcome[0], expected)

    def test_what_a_stopped_channel_held_is_room_for_others(self):
        ledger = Ledger(10)
        channel, other = Channel(ledger.account("channel")), ledger.account("other")
        channel.put("first", 6)
        channel.put("second", 3)
        assert other.charge(1)
        assert not other.charge(1, timeout=0)
        channel.stop()
        assert ledger.waiting == 1
        assert other.charge(9, timeout=0)

    @pytest.mark.parametrize("end", ["finish", "stop"])
    def test_what_a_closed_channel_does_not_take_is_not_charged(self, end):
        ledger = Ledger(10)
        channel = Channel(ledger.account("channel"))
        getattr(channel, end)()
        assert not channel.put("late", 4)
        assert not channel.wait_for_room()
        assert ledger.waiting == 0

    def test_an_entry_that_got_room_as_the_channel_closed_gives_it_back(self):
        class Closing(Account):
            def charge(self, size, **options):
                charged = super().charge(size, **options)
                channel.finish()
                return charged

        ledger = Ledger(10)
        channel = Channel(Closing(ledger, "channel"))
        assert not channel.put("late", 4)
        assert ledger.waiting == 0

    def test_the_time_that_both_may_take_is_limited_in_all(self):
        channel = Channel(Ledger(1).account("channel"))
        with pytest.raises(TimeoutError, match=r"within 0.01 seconds"):
            channel.take(timeout=0.01)
        assert channel.put("first", 1)
        assert not channel.put("second", 1, timeout=0.01)


class TestAhead:
    def test_what_is_started_comes_in_order(self):
        account = Ledger(3).account("ahead")
        results = run_ahead(range(100), lambda item: 2 * item, account=account, size=lambda _: 1)
        assert list(results) == list(range(0, 200, 2))
        assert account.waiting == 0

    def test_items_are_taken_while_the_results_are_worked_on(self):
        taken = []

        def items():
            for item in range(4):
                taken.append(item)
                yield item

        results = run_ahead(items(), lambda item: item)
        assert next(results) == 0
        wait_until(lambda: len(taken) == 4)
        assert list(results) == [1, 2, 3]

    def test_no_item_is_made_before_there_is_room_for_it(self):
        ledger, made = Ledger(2), []

        def items():
            for item in range(6):
                made.append(item)
                yield item

        results = run_ahead(items(), lambda item: item, account=ledger.account("ahead"), size=lambda _: 1)
        assert next(results) == 0
        for last in range(3, 6):
            wait_until(lambda: is_waiting(ledger.condition))
            assert made == list(range(last))
            assert ledger.waiting == 2
            assert next(results) == last - 2
        assert list(results) == [4, 5]

    @pytest.mark.parametrize("where", ["items", "start"])
    def test_errors_come_after_what_was_started_before_them(self, where):
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

    def test_whoever_stops_early_stops_the_taking(self):
        ended = threading.Event()

        def items():
            try:
                yield from range(10**9)
            finally:
                ended.set()

        results = run_ahead(items(), lambda item: item, account=Ledger(2).account("ahead"), size=lambda _: 1)
        assert next(results) == 0
        results.close()
        assert ended.wait(10)

    def test_many_nested_in_one_another_do_not_wait_for_threads(self):
        before = [iter(range(3)) for _ in range(2)]
        for index, stream in enumerate(before):
            for _ in range(300):
                stream = run_ahead(stream, lambda item: item)
            before[index] = stream
        assert [list(stream) for stream in before] == [[0, 1, 2], [0, 1, 2]]

    def test_blocks_are_not_made_while_nobody_takes_them(self):
        """60 blocks of 4 MiB, a scan that may hold 1 MiB, and a consumer that takes one and then nothing."""
        repetitions, block = 60, 4 * 2**20
        recorded = simulate(
            ScanProtocol(matrix=8, coils=2, oversampling=1, frame_counter="repetition", noise_scan=False)
        )
        header = recorded.header.replace("<x>8</x><y>8</y>", "<x>1024</x><y>8</y>")
        samples = np.ones((64, 1024), np.complex64)
        made = []

        def readouts():
            for repetition in range(repetitions):
                made.append(repetition)
                for item in recorded.items:
                    readout = type(item).from_array(samples, center_sample=512)
                    readout.idx.kspace_encode_step_1 = item.idx.kspace_encode_step_1
                    readout.idx.repetition = repetition
                    yield readout

        scan = Scan(header, ledger=Ledger(2**20))
        blocks = load("accumulate")(readouts(), scan)
        account = scan.ledger.account("ahead")
        tracemalloc.start()
        results = run_ahead(blocks, lambda item: item, account=account, size=size_of)
        first = next(results)
        assert isinstance(first, Kspace)
        assert first.data.nbytes == block
        wait_until(lambda: is_waiting(scan.ledger.condition))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made) <= 4
        assert held < 4.5 * block
        rest = list(results)
        assert len(rest) == repetitions - 1
        assert scan.ledger.held == 0


def test_a_ledger_that_is_settled_leaves_nothing_on_that_of_all_scans():
    """Threads that end late may still give back what they hold."""
    whole = Ledger(1000)
    scan, other = Ledger(500, keeps=500, whole=whole), Ledger(500, keeps=500, whole=whole)
    waiting, kept = scan.account("waiting", of_blocks=True), scan.account("kept")
    assert waiting.charge(100)
    assert kept.keep(200)
    assert other.account("waiting").charge(10)
    scan.settle()
    assert (whole.held, whole.in_flight) == (10, 0)
    waiting.credit(100)
    kept.release(200)
    scan.settle()
    assert whole.held == 10

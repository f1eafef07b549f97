"""Guard: what it tells, in which thread, and what it writes to the log."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import threading
import time

import pytest

from stillalive import _backend as b
from stillalive import _guarding
from stillalive._events import Dispatcher, Journal, event_of
from stillalive.guard import Guard, LivenessEvent

from . import guarding
from .guarding import NOBODY, FakeWatcher
from .serving import until

fake, real = guarding.fake, guarding.real


# ---- events -----------------------------------------------------------------


def test_an_event_says_everything(fake):
    event = event_of(NOBODY)
    assert event == LivenessEvent(
        why="never_spoke",
        connection_class="never_spoke",
        done="shutdown",
        dry_run=False,
        local=("192.0.2.1", 80),
        peer=("198.51.100.7", 50000),
        idle_for=10.25,
        heard_ago=10.24,
        received_ago=None,
        sent_ago=None,
        bytes_received=0,
        bytes_sent=0,
        unread=0,
        unsent=0,
        errno=None,
        fd=7,
        identity=77,
        at=1000.0,
    )
    assert event.reason == "not a byte either way for 10.25 s; shut down"
    assert str(event) == f"198.51.100.7:50000 -> 192.0.2.1:80: never_spoke: {event.reason}"
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.why = "idle"


def test_every_cause_has_a_name_and_a_sentence():
    names = [name for name in vars(b) if name.startswith("FOR_")]
    assert len(names) == 13
    for name in names:
        cause = getattr(b, name)
        if cause in (b.FOR_GONE, b.FOR_LOST):
            continue
        event = event_of(NOBODY._replace(cause=cause))
        assert event.why == name.removeprefix("FOR_").lower()
        assert "{" not in event.reason
        assert f"told_{event.why}" in _guarding.NO_STATS


def test_what_is_not_told_is_none():
    event = event_of(NOBODY._replace(klass=0, deed=0, peer=None, clock_ms=-1, unsent=-1, err=104))
    assert (event.connection_class, event.peer, event.idle_for) == (None, None, None)
    assert (event.unsent, event.errno, event.done) == (None, 104, "nothing")
    assert str(event) == "? -> 192.0.2.1:80: never_spoke: not a byte either way for some time"
    far = event_of(NOBODY._replace(peer=(bytes(15) + b"\1", 5, 0), local=(b"\xfe\x80" * 8, 6, 3)))
    assert far.peer == ("::1", 5)
    assert far.local[0].endswith("%3")
    assert str(far).startswith("[::1]:5 -> [fe80:")
    would = event_of(NOBODY._replace(dry_run=True))
    assert would.reason.endswith("would have been shut down (dry run)")


def test_events_reach_the_callback_in_one_daemon_thread(fake):
    seen = []
    with Guard(answered=5, on_event=lambda event: seen.append((event, threading.current_thread()))):
        for number in range(100):
            fake[0].told.put(NOBODY._replace(fd=number))
        until(lambda: len(seen) == 100)
    assert [event.fd for event, _ in seen] == list(range(100))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1].daemon
    assert not seen[0][1].is_alive()


def test_stop_tells_what_was_waiting(fake):
    seen = []
    guard = Guard(answered=5, on_event=lambda event: (time.sleep(0.01), seen.append(event)))
    guard.start()
    for _ in range(20):
        fake[0].told.put(NOBODY)
    guard.stop()
    assert len(seen) == 20


@pytest.mark.parametrize("failure", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_stops_nothing(fake, caplog, failure):
    seen = []

    def broken(event):
        seen.append(event)
        raise failure("of the callback")

    with Guard(answered=5, on_event=broken) as guard:
        fake[0].told.put(NOBODY)
        fake[0].told.put(NOBODY)
        until(lambda: guard.stats()["callback_errors"] == 2)
    assert len(seen) == 2
    assert guard.stats()["callback_errors"] == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert errors[0].name == "stillalive.guard"
    assert "broken" in errors[0].getMessage()
    assert errors[0].exc_info[0] is failure
    assert errors[0].exc_info[2] is not None


class Awkward:
    def __call__(self, event):
        raise ValueError("no")

    def __repr__(self):
        raise SystemExit("no repr either")


def test_not_even_its_repr(fake):
    with Guard(answered=5, on_event=Awkward()) as guard:
        fake[0].told.put(NOBODY)
        fake[0].told.put(NOBODY)
        until(lambda: guard.stats()["callback_errors"] == 2)


def test_a_watchs_events_are_its_own(fake, tcp_pair):
    a, _ = tcp_pair()
    of_guard, of_watch = [], []
    with Guard(answered=5, on_event=of_guard.append) as guard:
        watching = guard.watch(a, idle_timeout=5, on_event=of_watch.append)
        fake[0].end(watching._token, cause=b.FOR_IDLE)
        watching.wait(10)
        fake[0].told.put(NOBODY._replace(token=12345))  # nobody's
        fake[0].told.put(NOBODY)
        until(lambda: of_guard)
    assert [event.why for event in of_watch] == ["idle"]
    assert [event.why for event in of_guard] == ["never_spoke"]


def test_a_slow_callback_delays_nobody_who_waits(fake, tcp_pair, monkeypatch):
    monkeypatch.setattr(Dispatcher, "ROOM", 20)
    a, _ = tcp_pair()
    go_on, seen, of_watch = threading.Event(), [], []
    begun = threading.Event()

    def slow(event):
        begun.set()
        seen.append(event)
        go_on.wait(10)

    with Guard(answered=5, on_event=slow) as guard:
        fake[0].told.put(NOBODY)
        begun.wait(10)
        watches = [guard.watch(a, idle_timeout=5, on_event=of_watch.append) for _ in range(30)]
        for number in range(50):
            fake[0].told.put(NOBODY._replace(fd=number))
        for watching in watches:
            fake[0].end(watching._token, cause=b.FOR_IDLE)
        for watching in watches:
            assert watching.wait(10).why == "idle"
        assert of_watch == []
        until(lambda: guard.stats()["dropped"] == 30)
        go_on.set()
    assert [event.fd for event in seen] == [7, *range(20)]  # the newest are dropped
    assert len(of_watch) == 30  # and none of a watch


def test_subscribers_are_told_beside_it_and_of_the_end(fake):
    told, first, second = [], [], []
    guard = Guard(answered=5, on_event=told.append)
    guard.subscribe(first.append)()
    assert first == [None]
    first.clear()

    def broken(event):
        first.append(event)
        raise ValueError("no")

    with guard:
        guard.subscribe(broken)
        leave = guard.subscribe(second.append)
        fake[0].told.put(NOBODY)
        until(lambda: second)
        leave()
        leave()
        fake[0].told.put(NOBODY)
        until(lambda: len(told) == 2)
    assert told == [event_of(NOBODY)] * 2
    assert first == [*told, None]
    assert second == told[:1]
    assert guard.stats()["callback_errors"] == 2


def test_a_take_that_fails_is_tried_again(fake, monkeypatch, caplog):
    seen = []
    take, failures = FakeWatcher.take, [MemoryError()]

    def once(self, room, timeout_ms):
        if failures:
            raise failures.pop()
        return take(self, room, timeout_ms)

    monkeypatch.setattr(FakeWatcher, "take", once)
    with Guard(answered=5, on_event=seen.append):
        fake[0].told.put(NOBODY)
        until(lambda: seen)
    assert "taking from" in caplog.text


# ---- the log ----------------------------------------------------------------


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_ten_lines_a_second_and_one_that_sums_up(caplog):
    caplog.set_level(logging.INFO, "stillalive.guard")
    now = [100.0]
    journal = Journal(lambda: now[0])
    event = event_of(NOBODY)
    assert journal.wait_ms() == -1
    for _ in range(25):
        journal.note(event)
    assert lines(caplog) == [str(event)] * 10
    assert journal.wait_ms() == 1000
    now[0] += 0.75
    journal.due()
    journal.note(event)
    assert journal.wait_ms() == 250
    assert len(lines(caplog)) == 10
    now[0] += 0.25
    journal.due()
    assert lines(caplog)[10:] == ["and 16 more connections, each as its event says"]
    assert journal.wait_ms() == -1
    journal.note(event)
    assert lines(caplog)[11:] == [str(event)]
    for _ in range(11):
        journal.note(event)
    now[0] += 5
    journal.note(event)  # sums up first
    assert lines(caplog)[-2:] == ["and 2 more connections, each as its event says", str(event)]
    journal.close()
    assert len(lines(caplog)) == 23


def test_the_sum_is_written_in_time_and_at_the_end(fake, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "stillalive.guard")
    monkeypatch.setattr(Journal, "SECONDS", 0.1)
    with Guard(answered=5):
        for _ in range(12):
            fake[0].told.put(NOBODY)
        until(lambda: len(lines(caplog)) == 11)
        assert "and 2 more" in lines(caplog)[-1]
        monkeypatch.setattr(Journal, "SECONDS", 100)
        for _ in range(30):
            fake[0].told.put(NOBODY)
    assert "more connections" in lines(caplog)[-1]


def test_without_the_level_nothing_is_written_out(fake, monkeypatch):
    monkeypatch.setattr(LivenessEvent, "reason", None)
    assert not logging.getLogger("stillalive.guard").isEnabledFor(logging.INFO)
    seen = []
    with Guard(answered=5, on_event=seen.append):
        fake[0].told.put(NOBODY)
        until(lambda: seen)


def test_stopping_in_the_thread_of_the_events_does_not_wait_for_callbacks(real, tcp_pair):
    a, b = tcp_pair()
    took = []
    over = threading.Event()
    with Guard(never_spoke=100) as guard:
        guard.watch(a, idle_timeout=0.1, action=None, on_event=lambda event: None).wait(10)

        def stop(event):
            began = time.monotonic()
            guard.stop()
            took.append(time.monotonic() - began)
            over.set()

        guard.watch(b, idle_timeout=0.3, action=None).subscribe(stop)
        assert over.wait(10)
    assert took[0] < 3

"""Random use of Selector against a naive record of what was done."""

from __future__ import annotations

import math
import os
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

from .selecting import TICK, grace

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741
LATE_TICKS = 3

events_of = st.sampled_from((R, W, R | W, R, R))
limits = st.sampled_from((0.05, 0.01, 0.014, 0.001, 0.1, 0.03, 0.07, None, 1, 0.02, 10_000_000))
ticks = st.sampled_from((3, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 30, 101, 102, 103, 70_000))
which = st.integers(0, 5)
starts = st.one_of(
    st.sampled_from((0, 1, 15, 2**31 - 60, 2**32 - 1, 2**32 - 60)), st.integers(0, 2**32 - 1)
)


class Record:
    """What is known of one registration."""

    def __init__(self, handle: Any, now: int, events: int, data: Any, limit: Any) -> None:
        self.handle, self.events, self.data, self.limit = handle, events, data, limit
        self.touched, self.paused, self.reported = now, False, False

    def counted(self) -> int:
        """Return the latest tick at which the last touch may count."""
        return self.touched + grace(self.touched)

    def timed(self) -> bool:
        return self.limit is not None and not self.paused

    def may_be_idle(self, now: int) -> bool:
        silent = (now - self.touched) * TICK
        return self.timed() and not self.reported and silent >= self.limit - 1e-9

    def must_be_idle(self, now: int) -> bool:
        if not self.timed() or self.reported:
            return False
        return now - self.counted() >= math.ceil(self.limit / TICK - 1e-6) + LATE_TICKS

    def activity(self, now: int) -> None:
        if not self.paused:
            self.touched, self.reported = now, False


class Wire:
    """A pair of sockets, of which one end is given to the selector."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.unread = 0
        self.record: Record | None = None

    def shows(self) -> int:
        if self.record is None:
            return 0
        return self.record.events & (W | (R if self.unread else 0))

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Machine(RuleBasedStateMachine):
    """Every rule does the same to the selector and to the record, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.selector = Selector()
        self.names = self.reports = 0
        self.wires = [Wire() for _ in range(6)]
        self.stale: list[Any] = []

    def teardown(self) -> None:
        self.selector.close()
        for handle in self.stale + [wire.record.handle for wire in self.registered()]:
            assert handle.touch() is False
        for wire in self.wires:
            wire.close()

    @initialize(tick=starts, first=st.lists(limits, min_size=6, max_size=6))
    def begin(self, tick: int, first: list[Any]) -> None:
        self.selector._engine.freeze(tick)
        self.now = tick  # goes on where the selector's own ticks wrap round
        for at, limit in enumerate(first):
            self.register(at, R, limit)

    def data(self) -> str:
        self.names += 1
        return f"data {self.names}"

    def registered(self) -> list[Wire]:
        return [wire for wire in self.wires if wire.record is not None]

    @rule(at=which, events=events_of, limit=limits)
    def register(self, at: int, events: int, limit: Any) -> None:
        wire = self.wires[at]
        data = self.data()
        if wire.record is not None:
            with pytest.raises(KeyError):
                self.selector.register(wire.near, events, data, idle_timeout=limit)
            return
        key = self.selector.register(wire.near, events, data, idle_timeout=limit)
        assert key == (wire.near, wire.near.fileno(), events, data)
        wire.record = Record(self.selector.handle(wire.near), self.now, events, data, limit)

    def forget(self, wire: Wire, fileobj: Any) -> None:
        if wire.record is None:
            with pytest.raises(KeyError):
                self.selector.unregister(fileobj)
            return
        assert self.selector.unregister(fileobj).data == wire.record.data
        self.stale.append(wire.record.handle)
        wire.record = None

    @rule(at=which, by_number=st.booleans())
    def unregister(self, at: int, by_number: bool) -> None:
        wire = self.wires[at]
        self.forget(wire, wire.near.fileno() if by_number else wire.near)

    @rule(at=which, way=st.integers(0, 2), limit=limits)
    def close_and_reopen(self, at: int, way: int, limit: Any) -> None:
        """The numbers come back at once; in one way somebody else has them in between."""
        wire = self.wires[at]
        if wire.record is None or way == 0:
            self.forget(wire, wire.near)
            wire.close()
        else:
            wire.close()
            taken = os.open(os.devnull, os.O_RDONLY) if way == 2 else None
            self.forget(wire, wire.near)
            if taken is not None:
                os.close(taken)
        self.wires[at] = Wire()
        self.register(at, R, limit)

    @rule(at=which, events=events_of)
    def modify(self, at: int, events: int) -> None:
        wire = self.wires[at]
        if wire.record is None:
            with pytest.raises(KeyError):
                self.selector.modify(wire.near, events)
            return
        wire.record.events, wire.record.data = events, self.data()
        key = self.selector.modify(wire.near, events, wire.record.data)
        assert key == (wire.near, wire.near.fileno(), events, wire.record.data)

    @rule(at=which, by_handle=st.booleans())
    def touch(self, at: int, by_handle: bool) -> None:
        wire = self.wires[at]
        if wire.record is None:
            with pytest.raises(KeyError):
                self.selector.touch(wire.near)
            return
        if by_handle:
            assert wire.record.handle.touch() is True
        else:
            self.selector.touch(wire.near)
        wire.record.activity(self.now)

    @rule(at=which)
    def pause(self, at: int) -> None:
        record = self.wires[at].record
        if record is not None:
            record.handle.pause()
            record.paused, record.reported = True, False

    @rule(at=which)
    def resume(self, at: int) -> None:
        record = self.wires[at].record
        if record is not None:
            record.handle.resume()
            if record.paused:
                record.paused, record.touched, record.reported = False, self.now, False

    @rule(at=which, limit=limits)
    def set_limit(self, at: int, limit: Any) -> None:
        wire = self.wires[at]
        if wire.record is not None:
            wire.record.handle.idle_timeout = limit
            assert wire.record.handle.idle_timeout == limit
            if wire.record.reported:  # it begins anew
                wire.record.touched, wire.record.reported = self.now, False
            wire.record.limit = limit

    @rule(at=which)
    def send(self, at: int) -> None:
        wire = self.wires[at]
        wire.far.send(b"1")
        wire.unread += 1

    @rule(at=which)
    def drain(self, at: int) -> None:
        wire = self.wires[at]
        if wire.unread:
            assert len(wire.near.recv(4096)) == wire.unread
            wire.unread = 0

    @rule(ticks=ticks)
    def advance(self, ticks: int) -> None:
        self.selector._engine.advance(ticks * TICK)
        self.now += ticks

    @rule(ticks=st.integers(1, 12))
    def pass_time(self, ticks: int) -> None:
        self.advance(ticks)
        self.select()

    pass_more_time = pass_time
    pass_yet_more_time = pass_time

    @rule()
    def select(self) -> None:
        batch = self.selector.select(0)
        found = {key.data: (key, mask) for key, mask in batch}
        assert len(found) == len(batch)
        for wire in self.registered():
            record = wire.record
            key, mask = found.pop(record.data, (None, 0))
            assert key is None or key == self.selector.get_key(wire.near)
            ready = wire.shows()
            if ready:
                assert mask == ready
                record.activity(self.now)
            elif mask:
                assert mask == I
                assert record.may_be_idle(self.now)
                record.reported = True
                self.reports += 1
            else:
                assert not record.must_be_idle(self.now)
        assert found == {}

    @rule(n=st.integers(1, 8))
    def shed(self, n: int) -> None:
        timed = {w.record.data: w.record.counted() for w in self.registered() if w.record.timed()}
        given = [key.data for key in self.selector.shed(n)]
        assert len(set(given)) == len(given)
        assert [timed[data] for data in given] == sorted(timed.values())[:n]

    @precondition(lambda self: self.stale)
    @rule(choose=st.randoms(use_true_random=False))
    def use_a_stale_handle(self, choose: Any) -> None:
        handle = choose.choice(self.stale)
        assert handle.touch() is False
        for act in (handle.idle_for, handle.pause, handle.resume):
            with pytest.raises(KeyError):
                act()

    @invariant()
    def the_map_is_right(self) -> None:
        expected = {wire.near.fileno(): wire.record.data for wire in self.registered()}
        assert {fd: key.data for fd, key in self.selector.get_map().items()} == expected

    @invariant()
    def idle_times_are_right(self) -> None:
        for wire in self.registered():
            record = wire.record
            told = round(record.handle.idle_for() / TICK)
            if record.paused:
                assert told == 0
            else:
                assert max(0, self.now - record.counted()) <= told <= self.now - record.touched


def run(machine: type[Machine], **chosen: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **chosen,
        ),
    )


def test_random_use(impl, mechanism):
    total = 0

    class Counted(Machine):
        def teardown(self) -> None:
            nonlocal total
            total += self.reports
            super().teardown()

    run(Counted, max_examples=80)
    assert total > 50, "too little happened"


class Forgetful(Machine):
    """A record that is wrong on purpose: it does not know of every touch."""

    @rule(at=which)
    def touch_unseen(self, at: int) -> None:
        if self.wires[at].record is not None:
            self.wires[at].record.handle.touch()

    idle_times_are_right = None


def test_a_wrong_record_is_found(impl):
    with pytest.raises(AssertionError):
        run(Forgetful, max_examples=200, database=None, derandomize=True, phases=[Phase.generate])

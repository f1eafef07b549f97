"""What breaks selectors: numbers that are used again, duplicates, collectors, re-entry, crowds."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import signal
import socket
import threading
import time
import weakref
from typing import Any

import pytest

from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

from .. import needs
from ..needs import resource
from .selecting import LATE, TICK, advance, grace, just_before, seen

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741


START = 2**32 - 300


class Life:
    """One registration from birth to end, as a naive record."""

    def __init__(self, selector: Selector, now: int, limit: int, sock: socket.socket) -> None:
        self.touched, self.limit, self.sock = now, limit, sock
        self.ended = self.reported = False
        selector.register(sock, R, self, idle_timeout=limit * TICK)
        self.handle = selector.handle(sock)

    def must_be_idle(self, now: int) -> bool:
        late = round(LATE / TICK) + grace(START + self.touched)
        return not self.reported and now >= self.touched + self.limit + late

    def check_report(self, now: int) -> None:
        assert not self.ended, "one that has ended was reported"
        assert not self.reported, "reported twice"
        assert now >= self.touched + self.limit, "early"
        self.reported = True


class Storm:
    """Sockets are closed and opened as fast as can be, so their numbers come back at once."""

    def __init__(self, selector: Selector, seed: int) -> None:
        self.selector, self.random, self.now = selector, random.Random(seed), 0
        self.lives: list[Life] = []
        self.peers: list[socket.socket] = []
        self.dead: list[Life] = []
        self.reports = self.reuses = 0
        for _ in range(24):
            self.open()

    def open(self) -> None:
        sock, peer = socket.socketpair()
        self.peers.append(peer)
        limit = self.random.choice((1, 2, 3, 5, 9, 30))
        self.lives.append(Life(self.selector, self.now, limit, sock))

    def end(self, index: int) -> None:
        """Unregister and close, in either order, and use the number again."""
        life, peer = self.lives.pop(index), self.peers.pop(index)
        life.ended = True
        number = life.sock.fileno()
        way = self.random.randrange(3)
        if way == 0:
            self.selector.unregister(life.sock)
            life.sock.close()
        else:
            life.sock.close()
        if way == 2:  # the number has a new owner before it is unregistered
            spare = socket.socket()
            self.selector.unregister(life.sock)
            spare.close()
        elif way == 1:
            self.selector.unregister(life.sock)
        peer.close()
        self.dead.append(life)
        self.open()
        self.reuses += self.lives[-1].sock.fileno() == number

    def step(self) -> None:
        chance = self.random.random()
        index = self.random.randrange(len(self.lives))
        if chance < 0.55:
            self.end(index)
        elif chance < 0.7:
            assert self.lives[index].handle.touch() is True
            self.lives[index].touched, self.lives[index].reported = self.now, False
        elif chance < 0.8 and self.dead:
            assert self.random.choice(self.dead).handle.touch() is False
        else:
            ticks = self.random.choice((1, 1, 2, 3))
            advance(self.selector, ticks * TICK)
            self.now += ticks
        if self.random.random() < 0.5:
            for life, mask in seen(self.selector).items():
                assert mask == I
                life.check_report(self.now)
                self.reports += 1
            assert [life for life in self.lives if life.must_be_idle(self.now)] == []

    def close(self) -> None:
        for life, peer in zip(self.lives, self.peers, strict=True):
            life.sock.close()
            peer.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_numbers_used_again_hits_no_innocent(selector, seed):
    selector._engine.freeze(START)
    storm = Storm(selector, seed)
    try:
        for _ in range(1500):
            storm.step()
    finally:
        storm.close()
    assert storm.reports > 100
    assert storm.reuses > 100


@needs.chosen_numbers
def test_a_duplicate_left_open_speaks_for_nobody(still, pair):
    """The set cannot forget a description that a duplicate keeps alive: it must be made anew."""
    a, peer = pair()
    number = a.fileno()
    still.register(a, R, "gone", idle_timeout=1)
    spare = os.dup(number)
    a.close()
    still.unregister(a)
    innocent, innocent_peer = pair()
    if innocent.fileno() != number:
        os.dup2(innocent.fileno(), number)
    still.register(number, R, "innocent", idle_timeout=1)
    try:
        advance(still, 0.5)
        peer.send(b"for the one that is gone")
        for _ in range(20):
            assert seen(still) == {}
        assert still.handle(number).idle_for() == pytest.approx(0.5)
        advance(still, 0.5 + LATE)
        assert seen(still) == {"innocent": I}
        begin = time.process_time()
        assert seen(still, 0.1) == {}  # and does not spin
        assert time.process_time() - begin < 0.09
        stats = still.stats()
        assert stats["rebuilds"] <= 1
        assert stats["stale_events"] <= 1
        innocent_peer.send(b"1")
        assert seen(still) == {"innocent": R}
    finally:
        still.unregister(number)
        os.close(spare)
        if innocent.fileno() != number:
            os.close(number)


def test_a_stale_event_is_counted(epoll, pair):
    """With epoll the test above has its danger: without a rebuild it would spin."""
    with Selector() as selector:
        others = [pair() for _ in range(5)]
        for number, (other, _) in enumerate(others):
            selector.register(other, R, number, idle_timeout=100)
        a, peer = pair()
        selector.register(a, R, "gone", idle_timeout=1)
        spare = os.dup(a.fileno())
        a.close()
        selector.unregister(a)
        peer.send(b"1")
        others[3][1].send(b"1")
        assert seen(selector) == {3: R}
        assert selector.select(0.01) or True
        assert selector.stats()["stale_events"] == 1
        assert selector.stats()["rebuilds"] == 1
        for number, (_, other) in enumerate(others):
            other.send(b"1")
            assert seen(selector)[number] == R
        os.close(spare)


def test_closed_and_forgotten_becomes_idle(still, pair):
    """Nothing is known of a close behind the selector's back; silence is silence."""
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=1)
    a.close()
    just_before(still, 1)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}
    begin = time.process_time()
    assert seen(still, 0.05) == {}  # and does not spin
    assert time.process_time() - begin < 0.04
    assert still.unregister(a).data == "a"
    assert seen(still) == {}


def dup_many(selector: Selector, out: int, count: int) -> list[int]:
    fds = [os.dup(out) for _ in range(count)]
    for fd in fds:
        selector.register(fd, R, fd, idle_timeout=1)
    return fds


@contextlib.contextmanager
def many_descriptors(count: int) -> Any:
    """Raise the soft limit as far as is needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"the limit of {hard} descriptors is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs.limits
def test_a_crowd_of_idle_ones_comes_in_slices(selector):
    selector._engine.freeze(2**32 - 50)
    out, into = os.pipe()
    fds: list[int] = []
    with many_descriptors(6000):
        try:
            fds = dup_many(selector, out, 4700)
            advance(selector, 1 + LATE)
            slices = []
            begin = time.monotonic()
            while sum(map(len, slices)) < 4700:
                slices.append(seen(selector, 60))
                assert 0 < len(slices[-1]) <= 4096
            assert time.monotonic() - begin < 30, "a slice waited"
            assert len(slices) == 2
            assert sorted(fd for found in slices for fd in found) == sorted(fds)
            assert {mask for found in slices for mask in found.values()} == {I}
            assert selector.select(0) == []
        finally:
            for fd in (out, into, *fds):
                os.close(fd)


@needs.limits
def test_readiness_is_seen_beside_a_crowd(selector, pair):
    """A slice of idle ones does not keep those with data away, nor expire them."""
    selector._engine.freeze(0)
    out, into = os.pipe()
    fds: list[int] = []
    a, b = pair()
    with many_descriptors(6000):
        try:
            fds = dup_many(selector, out, 4500)
            selector.register(a, R, "a", idle_timeout=1)
            b.send(b"1")
            advance(selector, 1 + LATE)
            assert seen(selector)["a"] == R
            assert seen(selector)["a"] == R
        finally:
            for fd in (out, into, *fds):
                os.close(fd)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@needs.proc
def test_a_forgotten_selector_is_collected(impl, mechanism, pair):
    gc.collect()
    before = open_descriptors()
    a, _ = pair()
    mine = open_descriptors() - before

    class Box:
        pass

    box = Box()
    box.selector = Selector()
    box.key = box.selector.register(a, R, box, idle_timeout=1)
    box.handle = box.selector.handle(a)
    box.select = box.selector.select
    gone = weakref.ref(box)
    assert box.selector.select(0) == []
    assert open_descriptors() - before > mine
    del box
    gc.collect()
    assert gone() is None
    assert open_descriptors() - before == mine


def test_a_handle_outlives_its_selector(impl, mechanism, pair):
    a, _ = pair()
    selector = Selector()
    selector.register(a, R, idle_timeout=1)
    handle = selector.handle(a)
    del selector
    gc.collect()
    handle.touch()
    selector = Selector()
    selector.register(a, R, idle_timeout=1)
    other = selector.handle(a)
    selector.close()
    assert other.touch() is False
    with pytest.raises(KeyError):
        other.pause()


class Owner:
    """Unregisters when it dies, as owners of sockets do."""

    def __init__(self, selector: Selector, fd: int, deaths: list[Any]) -> None:
        self.selector, self.fd, self.deaths, self.me = selector, fd, deaths, self
        selector.register(fd, R | W, ("data", fd), idle_timeout=1)

    def __del__(self) -> None:
        try:
            self.selector.unregister(self.fd)
            self.deaths.append(None)
        except Exception as failure:
            self.deaths.append(failure)


def test_owners_die_while_results_are_made(still):
    """The collector runs in the middle of select; results are whole, no one is lost."""
    deaths: list[Any] = []
    threshold = gc.get_threshold()
    with (
        needs.many_descriptors(50, writable=True) as fds,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(gc.set_threshold, *threshold)
        for round_ in range(4):
            owners = [Owner(still, fd, deaths) for fd in fds]
            if round_ % 2:
                advance(still, 1 + LATE)
            keep = owners[::2]
            gc.collect()
            gc.set_threshold(1)
            del owners
            events = still.select(0)
            gc.set_threshold(*threshold)
            assert all(key.data[0] == "data" and mask == W for key, mask in events)
            assert {owner.fd for owner in keep} <= {key.fd for key, _ in events}
            gc.collect()
            assert set(still.get_map()) == {owner.fd for owner in keep}
            del keep
            gc.collect()
            assert len(still.get_map()) == 0
        assert deaths == [None] * len(fds) * 4


def test_an_owner_that_selects_while_it_dies(selector, pair):
    """From a finaliser inside select it is refused; outside it is an ordinary call."""
    a, _ = pair()
    selector.register(a, W, "a")
    outcomes: list[Any] = []

    class Curious:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                outcomes.append(seen(selector))
            except RuntimeError as refusal:
                outcomes.append(refusal)

    Curious()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(3):
            assert seen(selector) == {"a": W}
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(outcomes) == 1
    assert outcomes[0] == {"a": W} or isinstance(outcomes[0], RuntimeError)


@needs.thread_signals
def test_select_inside_select_is_refused(selector, pair):
    """A signal handler runs inside select: it may wake and touch, and nothing else."""
    a, b = pair()
    selector.register(a, R, "a", idle_timeout=100)
    handle = selector.handle(a)
    outcomes: dict[str, Any] = {}
    acts = {
        "select": lambda: selector.select(0),
        "register": lambda: selector.register(b, R),
        "unregister": lambda: selector.unregister(a),
        "modify": lambda: selector.modify(a, W),
        "touch": handle.touch,
        "wake": selector.wake,
    }

    def handler(*_: Any) -> None:
        for name, act in acts.items():
            try:
                outcomes[name] = act()
            except RuntimeError as refusal:
                outcomes[name] = refusal

    before = signal.signal(signal.SIGUSR1, handler)
    me = threading.get_ident()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(me, signal.SIGUSR1))
    try:
        timer.start()
        assert selector.select(20) == []
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    for name in ("select", "register", "unregister", "modify"):
        assert isinstance(outcomes[name], RuntimeError), (name, outcomes)
    assert outcomes["touch"] is True
    assert outcomes["wake"] is None
    assert set(selector.get_map()) == {a.fileno()}


@needs.limits
def test_no_descriptor_left_for_a_selector(impl, mechanism):
    """Whichever of the descriptors it needs is the one too many, the others are given back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    with open(os.devnull) as lowest:
        free = lowest.fileno()
    outcomes = []
    for spare in range(6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
        try:
            Selector().close()
            outcomes.append(None)
        except OSError as failure:
            outcomes.append(failure.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.collect()
        assert open_descriptors() == before
    assert outcomes[0] == errno.EMFILE
    assert set(outcomes[1:]) <= {errno.EMFILE, None}

"""Idleness: never early, exactly once, and what counts as activity. Time is moved by hand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

from .. import needs
from .selecting import LATE, TICK, advance, just_before, seen

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741

LIMITS = [0.001, 0.01, 0.015, 1, 1.004, 2.5, 59.999, 3600, 10_000_000]


@pytest.mark.parametrize("limit", LIMITS)
def test_never_early_and_reported_soon(still, pair, limit):
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=limit)
    assert seen(still) == {}
    just_before(still, limit)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}


def test_reported_exactly_once(still, pair):
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=1)
    advance(still, 1 + LATE)
    assert seen(still) == {"a": I}
    for seconds in (0, TICK, 1, 100, 100_000):
        advance(still, seconds)
        assert seen(still) == {}


def test_an_idle_one_goes_on_as_before(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    advance(still, 1 + LATE)
    assert seen(still) == {"a": I}
    b.send(b"1")
    assert seen(still) == {"a": R}


def readiness(selector: Selector, a: socket.socket, b: socket.socket) -> None:
    b.send(b"1")
    assert seen(selector) == {"a": R}
    assert a.recv(1) == b"1"


def new_limit(selector: Selector, a: socket.socket, _: socket.socket) -> None:
    """The silence so far counts, so one that is longer is needed to begin anew."""
    handle = selector.handle(a)
    handle.idle_timeout = handle.idle_for() + 1


def paused_and_resumed(selector: Selector, a: socket.socket, _: socket.socket) -> None:
    selector.handle(a).pause()
    selector.handle(a).resume()


AGAIN: dict[str, Callable[[Selector, socket.socket, socket.socket], Any]] = {
    "readiness": readiness,
    "touch of the handle": lambda s, a, b: s.handle(a).touch(),
    "touch of the object": lambda s, a, b: s.touch(a),
    "touch of the number": lambda s, a, b: s.touch(a.fileno()),
    "pause and resume": paused_and_resumed,
    "a new limit": new_limit,
}


@pytest.mark.parametrize("how", AGAIN)
def test_reported_again_after(still, pair, how):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    handle = still.handle(a)
    for _ in range(4):
        advance(still, handle.idle_timeout - handle.idle_for() + LATE)
        assert seen(still) == {"a": I}
        assert seen(still) == {}
        AGAIN[how](still, a, b)
        assert seen(still) == {}
        just_before(still, handle.idle_timeout - handle.idle_for())
        assert seen(still) == {}
    assert still.stats()["idle"] == 4


@pytest.mark.parametrize("how", AGAIN)
def test_activity_before_the_deadline_moves_it(still, pair, how):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    handle = still.handle(a)
    for _ in range(4):
        just_before(still, handle.idle_timeout - handle.idle_for())
        AGAIN[how](still, a, b)
        assert seen(still) == {}
    advance(still, handle.idle_timeout - handle.idle_for() + LATE)
    assert seen(still) == {"a": I}


def test_a_handle_knows_its_key_and_times(still, pair):
    a, b = pair()
    key = still.register(a, R, "a", idle_timeout=2.5)
    still.register(b, R)
    handle, other = still.handle(a), still.handle(b.fileno())
    assert still.handle(a.fileno()) is handle
    assert handle.key == key
    assert handle.idle_timeout == 2.5
    assert other.idle_timeout is None
    assert handle.idle_for() == other.idle_for() == 0
    advance(still, 0.37)
    assert handle.idle_for() == pytest.approx(0.37)
    assert other.idle_for() == pytest.approx(0.37)
    assert handle.touch() is True
    assert handle.idle_for() == 0
    advance(still, 4000)
    still.select(0)
    assert handle.idle_for() == pytest.approx(4000)
    assert other.idle_for() == pytest.approx(4000.37)


def test_without_a_limit_never_idle(still, pair):
    a, b = pair()
    still.register(a, R, "a")
    still.register(b, R, "b", idle_timeout=5)
    for _ in range(20):
        advance(still, 900_000)
        assert seen(still).get("a") is None
    assert still.handle(a).idle_for() > 0


def test_the_silence_so_far_counts_for_a_new_limit(still, pair):
    a, _ = pair()
    still.register(a, R, "a")
    advance(still, 100)
    assert seen(still) == {}
    handle = still.handle(a)
    handle.idle_timeout = 200
    assert seen(still) == {}
    handle.idle_timeout = 30
    assert handle.idle_timeout == 30
    assert seen(still) == {"a": I}
    assert seen(still) == {}
    handle.idle_timeout = None
    assert handle.idle_timeout is None
    advance(still, 1000)
    assert seen(still) == {}
    handle.idle_timeout = 30
    assert seen(still) == {"a": I}


def test_a_new_limit_of_one_that_was_told_begins_anew(still, pair):
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=5)
    handle = still.handle(a)
    for limit in (5, 2, 2, 3):
        advance(still, handle.idle_timeout + LATE)
        assert seen(still) == {"a": I}
        handle.idle_timeout = limit
        assert handle.idle_for() == 0
        just_before(still, limit)
        assert seen(still) == {}


WRONG = [
    (0, ValueError, "more than 0 seconds"),
    (0.0, ValueError, "more than 0 seconds"),
    (-1, ValueError, "more than 0 seconds"),
    (float("nan"), ValueError, "finite"),
    (float("inf"), ValueError, "finite"),
    (10_000_001, ValueError, "at most 10000000 seconds"),
    (10**400, ValueError, ""),
    ("5", TypeError, "a number of seconds (int or float)"),
    (True, TypeError, "a number of seconds (int or float)"),
    (1j, TypeError, "a number of seconds (int or float)"),
    ([1], TypeError, "a number of seconds (int or float)"),
]


@pytest.mark.parametrize(("value", "kind", "allowed"), WRONG, ids=[str(w[0])[:9] for w in WRONG])
def test_a_wrong_limit_is_refused_by_name(selector, pair, value, kind, allowed):
    a, b = pair()
    text = re.escape(f"idle_timeout={value!r}: ") + ".*" + re.escape(allowed)
    with pytest.raises(kind, match=text):
        selector.register(a, R, idle_timeout=value)
    assert len(selector.get_map()) == 0
    selector.register(b, R, idle_timeout=7)
    with pytest.raises(kind, match=text):
        selector.handle(b).idle_timeout = value
    assert selector.handle(b).idle_timeout == 7


def test_a_fraction_is_a_number_of_seconds(still, pair):
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=Fraction(1, 2))
    just_before(still, 0.5)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}


def test_the_limit_is_given_by_name_only(selector, pair):
    a, _ = pair()
    with pytest.raises(TypeError):
        selector.register(a, R, None, 5)
    with pytest.raises(TypeError):
        selector.modify(a, R, None, idle_timeout=5)


def test_a_paused_one_is_never_idle(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    handle = still.handle(a)
    advance(still, 0.5)
    handle.pause()
    handle.pause()
    advance(still, 100)
    assert seen(still) == {}
    assert handle.idle_for() == 0
    assert handle.touch() is True
    b.send(b"1")
    assert seen(still) == {"a": R}
    a.recv(1)
    advance(still, 100)
    assert seen(still) == {}
    assert handle.idle_for() == 0
    handle.resume()
    just_before(still, 1)
    assert seen(still) == {}
    handle.resume()  # was not paused: the clock goes on
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}


def test_a_limit_set_while_paused_holds_after(still, pair):
    a, _ = pair()
    still.register(a, R, "a", idle_timeout=100)
    handle = still.handle(a)
    handle.pause()
    handle.idle_timeout = 2
    advance(still, 50)
    assert seen(still) == {}
    assert handle.idle_for() == 0
    handle.resume()
    just_before(still, 2)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}


STALE: dict[str, Callable[[Any], Any]] = {
    "idle_for": lambda handle: handle.idle_for(),
    "pause": lambda handle: handle.pause(),
    "resume": lambda handle: handle.resume(),
    "idle_timeout": lambda handle: handle.idle_timeout,
    "set idle_timeout": lambda handle: setattr(handle, "idle_timeout", 5),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_handle_reaches_nobody(still, pair, name):
    a, _ = pair()
    still.register(a, R, "old", idle_timeout=1)
    old = still.handle(a)
    still.unregister(a)
    still.register(a, R, "new", idle_timeout=1)
    just_before(still, 1)
    for _ in range(2):
        assert old.touch() is False
        with pytest.raises(KeyError):
            STALE[name](old)
    assert still.handle(a) is not old
    advance(still, TICK + LATE)
    assert seen(still) == {"new": I}


def test_touch_of_what_is_not_registered(selector, pair):
    a, _ = pair()
    with pytest.raises(KeyError):
        selector.touch(a)
    with pytest.raises(KeyError):
        selector.handle(a)


def test_readiness_and_idleness_in_the_same_call(still, pair):
    ends = [pair() for _ in range(6)]
    for number, (a, _) in enumerate(ends):
        still.register(a, R, number, idle_timeout=1)
    advance(still, 1 + LATE)
    for _, b in ends[::2]:
        b.send(b"1")
    assert seen(still) == {0: R, 1: I, 2: R, 3: I, 4: R, 5: I}


def test_what_has_arrived_is_activity_however_late_it_is_seen(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    b.send(b"1")
    advance(still, 500)
    assert seen(still) == {"a": R}
    assert still.handle(a).idle_for() == 0
    a.recv(1)
    just_before(still, 1)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}


def test_unread_data_is_not_idle(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    b.send(b"1")
    for _ in range(5):
        advance(still, 50)
        assert seen(still) == {"a": R}


def test_an_end_that_was_not_closed_is_not_idle(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    b.close()
    for _ in range(5):
        advance(still, 50)
        assert seen(still) == {"a": R}


def test_room_to_write_is_readiness_and_none_is_silence(still, pair):
    a, b = pair()
    still.register(a, W, "a", idle_timeout=1)
    for _ in range(3):
        advance(still, 50)
        assert seen(still) == {"a": W}
    while True:  # until the peer, who does not read, holds all it can
        try:
            a.send(bytes(65536))
        except BlockingIOError:
            break
    just_before(still, 1)
    assert seen(still) == {}
    advance(still, TICK + LATE)
    assert seen(still) == {"a": I}
    while True:
        try:
            b.recv(1 << 20)
        except BlockingIOError:
            break
    assert seen(still) == {"a": W}


def test_modify_keeps_handle_clock_and_limit(still, pair):
    a, b = pair()
    still.register(a, R, "a", idle_timeout=1)
    handle = still.handle(a)
    just_before(still, 1)
    key = still.modify(a, W, "b")
    assert still.handle(a) is handle
    assert handle.key == key == still.get_key(a)
    assert handle.idle_timeout == 1
    assert handle.idle_for() == pytest.approx(0.99)
    still.modify(a, R, "c")
    still.modify(a, R, "d")
    b.send(b"1")
    assert seen(still) == {"d": R}
    a.recv(1)
    advance(still, 1 + LATE)
    still.modify(a, R, "e")
    assert seen(still) == {"e": I}
    still.modify(a, R, "f")
    assert seen(still) == {}


def test_data_that_cannot_be_compared_is_kept(selector, pair):
    class Odd:
        def __eq__(self, other):
            return NotImplemented

        __hash__ = None

    a, _ = pair()
    first, second = Odd(), Odd()
    selector.register(a, W, first)
    assert selector.modify(a, W, second).data is second
    ((key, mask),) = selector.select(0)
    assert (key.data is second, mask) == (True, W)


def test_shed_gives_the_longest_idle_first(still, pair):
    socks = [pair()[0] for _ in range(10)]
    for number, sock in enumerate(socks):
        still.register(sock, R, number, idle_timeout=100 + number)
        advance(still, 1)
    still.touch(socks[0])
    still.handle(socks[1]).pause()
    still.handle(socks[2]).idle_timeout = None
    advance(still, 5)
    expected = [3, 4, 5, 6, 7, 8, 9, 0]
    for n in (1, 3, 7, 8, 9, 1000):
        assert [key.data for key in still.shed(n)] == expected[:n]
    assert still.shed(1) == [still.get_key(socks[3])]
    assert seen(still) == {}
    still.unregister(socks[3])
    assert [key.data for key in still.shed(2)] == [4, 5]


def test_shed_knows_those_that_were_reported(still, pair):
    socks = [pair()[0] for _ in range(3)]
    for number, sock in enumerate(socks):
        still.register(sock, R, number, idle_timeout=1 if number == 1 else 50)
        advance(still, 1)
    advance(still, 1)
    assert seen(still) == {1: I}
    assert [key.data for key in still.shed(5)] == [0, 1, 2]
    assert seen(still) == {}


@pytest.mark.parametrize(
    ("n", "kind"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError)]
)
def test_shed_wants_a_count(selector, n, kind):
    with pytest.raises(kind, match="n="):
        selector.shed(n)


def test_a_batch_is_a_record_not_a_view(still, pair):
    """Closing and reopening others while a batch is handled changes nothing in it."""
    socks = [pair()[0] for _ in range(4)]
    for number, sock in enumerate(socks):
        still.register(sock, R, number, idle_timeout=1)
    advance(still, 1 + LATE)
    batch = still.select(0)
    assert sorted(key.data for key, _ in batch) == [0, 1, 2, 3]
    stale = [still.handle(sock) for sock in socks]
    for key, _ in batch:
        still.unregister(key.fileobj)
    numbers = {sock.fileno() for sock in socks}
    for sock in socks:
        sock.close()
    again = [pair()[0] for _ in range(2)]
    assert {sock.fileno() for sock in again} <= numbers
    for sock in again:
        still.register(sock, R, "new", idle_timeout=1)
    assert [handle.touch() for handle in stale] == [False] * 4
    assert still.select(0) == []
    advance(still, 1 + LATE)
    assert [(key.data, mask) for key, mask in still.select(0)] == [("new", I)] * 2


def test_many_with_all_kinds_of_limits(still):
    """Each is reported in the right step, though they share blocks and bounds."""
    with needs.many_descriptors(300) as fds:
        limits = {fd: 0.05 * (1 + number * 7 % 40) for number, fd in enumerate(fds)}
        for fd in fds:
            still.register(fd, R, fd, idle_timeout=limits[fd])
        found: dict[int, int] = {}
        for step in range(1, 210):
            advance(still, TICK)
            found |= dict.fromkeys(seen(still), step)
        assert found.keys() == limits.keys()
        for fd, step in found.items():
            assert limits[fd] - 1e-9 <= step * TICK <= limits[fd] + LATE + 1e-9


def test_in_real_time_never_early_and_soon(selector, pair):
    """The only test here that sleeps; the rest of the second is for a busy machine."""
    begin: dict[float, float] = {}
    for number in range(6):
        limit = 0.05 + 0.0021 * number
        begin[limit] = time.monotonic()
        selector.register(pair()[0], R, limit, idle_timeout=limit)
        time.sleep(0.0013)
    while begin:
        for limit, mask in seen(selector, 5).items():
            elapsed = time.monotonic() - begin.pop(limit)
            assert mask == I
            assert limit <= elapsed < limit + 1


def test_select_waits_no_longer_than_the_nearest_deadline(selector, pair):
    selector.register(pair()[0], R, "far", idle_timeout=500)
    selector.register(pair()[0], R, "near", idle_timeout=0.05)
    selector.register(pair()[0], R, "none")
    assert seen(selector, None) == {"near": I}


def udp() -> tuple[Any, Callable[[], Any], list[Any]]:
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    a.bind(("127.0.0.1", 0))
    return a, lambda: b.sendto(b"1", a.getsockname()), [a.close, b.close]


def listener() -> tuple[Any, Callable[[], Any], list[Any]]:
    a, b = socket.create_server(("127.0.0.1", 0)), socket.socket()
    return a, lambda: b.connect(a.getsockname()), [a.close, b.close]


def local() -> tuple[Any, Callable[[], Any], list[Any]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return a, lambda: b.send(b"1"), [a.close, b.close]


def pipe() -> tuple[Any, Callable[[], Any], list[Any]]:
    a, b = os.pipe()
    return a, lambda: os.write(b, b"1"), [lambda: os.close(a), lambda: os.close(b)]


def terminal() -> tuple[Any, Callable[[], Any], list[Any]]:
    a, b = os.openpty()
    return a, lambda: os.write(b, b"1\n"), [lambda: os.close(a), lambda: os.close(b)]


def counter() -> tuple[Any, Callable[[], Any], list[Any]]:
    fd = os.eventfd(0)
    return fd, lambda: os.eventfd_write(fd, 1), [lambda: os.close(fd)]


def process() -> tuple[Any, Callable[[], Any], list[Any]]:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        fd = os.pidfd_open(child.pid)
    except OSError:
        child.communicate()
        pytest.skip("this kernel gives no descriptor of a process")
    return fd, child.stdin.close, [lambda: os.close(fd), child.communicate]


@pytest.mark.parametrize(
    "kind",
    [
        udp,
        listener,
        pytest.param(local, marks=needs.local_sockets),
        *(
            pytest.param(kind, marks=needs.any_descriptor)
            for kind in (pipe, terminal, counter, process)
        ),
    ],
)
def test_any_descriptor_that_can_be_polled(still, kind):
    fileobj, rouse, undo = kind()
    try:
        still.register(fileobj, R, "it", idle_timeout=1)
        just_before(still, 1)
        assert seen(still) == {}
        advance(still, TICK + LATE)
        assert seen(still) == {"it": I}
        rouse()
        assert seen(still, 5) == {"it": R}
        advance(still, 100)
        assert seen(still) == {"it": R}
        still.unregister(fileobj)
        assert seen(still) == {}
    finally:
        for act in undo:
            act()

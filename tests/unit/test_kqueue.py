"""The pure-Python kqueue, on the system's if there is one, else on a model of it."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import threading
import time

import pytest

pytest.importorskip("fcntl", reason="the model of a kqueue asks whether numbers are open")

from stillalive import _backend as b
from stillalive import _impl
from stillalive._pure import _pollers
from stillalive.selector import EVENT_IDLE, Selector

from .model_kqueue import (
    KQ_EV_ADD,
    KQ_EV_DELETE,
    KQ_EV_EOF,
    KQ_EV_ERROR,
    KQ_FILTER_READ,
    KQ_FILTER_WRITE,
    Model,
    kevent,
)

R, W = selectors.EVENT_READ, selectors.EVENT_WRITE
IN, OUT, BROKEN, HANGUP = 1, 4, 8, 16


@pytest.fixture
def model(monkeypatch):
    made = Model()
    monkeypatch.setattr(_pollers, "_system", made)
    monkeypatch.setattr(_pollers, "_inherited", [])
    return made


@pytest.fixture
def poller(model):
    made = _pollers._Kqueue()
    yield made
    made.close()


@pytest.fixture
def ends(pair):
    return pair()


def held(model: Model, fd: int) -> set[int]:
    return {name for number, name in model.made[0].notes if number == fd}


def test_one_entry_for_both_filters(poller, pair):
    pairs = [pair() for _ in range(6)]
    for number, (a, peer) in enumerate(pairs):
        peer.send(b"1")
        poller.add(a.fileno(), number % 3 + 1)
    expected = {a.fileno(): (IN, OUT, IN | OUT)[number % 3] for number, (a, _) in enumerate(pairs)}
    found = poller.wait(0, 7)
    assert len(found) == 6
    assert dict(found) == expected
    assert dict(poller.wait(None, 7)) == expected  # level-triggered


def test_modify_says_what_is_wanted_and_no_more(model, poller, ends):
    a, peer = ends
    peer.send(b"1")
    fd = a.fileno()
    poller.add(fd, b.READ)
    assert poller.modify(fd, b.WRITE)
    assert poller.wait(0, 2) == [(fd, OUT)]
    assert model.log == [
        (fd, KQ_FILTER_READ, KQ_EV_ADD),
        (fd, KQ_FILTER_WRITE, KQ_EV_ADD),
        (fd, KQ_FILTER_READ, KQ_EV_DELETE),
    ]
    assert poller.modify(fd, b.READ | b.WRITE)
    assert poller.wait(0, 2) == [(fd, IN | OUT)]
    assert poller.remove(fd)
    assert poller.wait(0, 2) == []
    assert poller.remove(fd)


@pytest.mark.parametrize("name", [KQ_FILTER_READ, KQ_FILTER_WRITE])
def test_half_an_add_is_undone(model, poller, ends, name):
    fd = ends[0].fileno()
    model.refuse[name] = errno.ENOMEM
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        poller.add(fd, b.READ | b.WRITE)
    assert held(model, fd) == set()
    model.refuse.clear()
    poller.add(fd, b.WRITE)
    assert held(model, fd) == {KQ_FILTER_WRITE}


def test_a_failed_modify_changes_nothing(model, poller, ends):
    fd = ends[0].fileno()
    poller.add(fd, b.READ)
    model.refuse[KQ_FILTER_WRITE] = errno.ENOMEM
    for events in (b.WRITE, b.READ | b.WRITE):
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
            poller.modify(fd, events)
        assert held(model, fd) == {KQ_FILTER_READ}


@pytest.mark.parametrize("word", [errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP])
def test_what_cannot_be_waited_for_is_refused_alike(model, poller, ends, word):
    model.refuse[KQ_FILTER_READ] = word
    with pytest.raises(PermissionError):
        poller.add(ends[0].fileno(), b.READ)
    model.refuse[KQ_FILTER_READ] = errno.EPIPE
    with pytest.raises(BrokenPipeError):
        poller.add(ends[0].fileno(), b.READ)


def test_a_closed_descriptor_is_refused(poller, ends):
    a, _ = ends
    fd = a.detach()
    os.close(fd)
    for number in (fd, 2**31 - 1):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            poller.add(number, b.READ)
        assert caught.value.errno == errno.EBADF


def test_a_number_that_has_come_back(model, poller, pair):
    (old, _), (new, peer) = pair(), pair()
    fd = old.fileno()
    poller.add(fd, b.READ | b.WRITE)
    os.dup2(new.fileno(), fd)
    assert poller.wait(0, 2) == []
    poller.modify(fd, b.READ)
    peer.send(b"1")
    assert poller.wait(0, 2) == [(fd, IN)]
    assert held(model, fd) == {KQ_FILTER_READ}


@pytest.mark.parametrize(
    ("event", "flags"),
    [
        (kevent(5, KQ_FILTER_READ, 0, 1, 9), IN),
        (kevent(5, KQ_FILTER_READ, KQ_EV_EOF), IN),
        (kevent(5, KQ_FILTER_READ, KQ_EV_EOF, errno.ECONNRESET), IN | BROKEN | HANGUP),
        (kevent(5, KQ_FILTER_WRITE, KQ_EV_EOF), OUT),
        (kevent(5, KQ_FILTER_WRITE, KQ_EV_EOF, errno.EPIPE), OUT | BROKEN | HANGUP),
        (kevent(5, KQ_FILTER_READ, KQ_EV_ERROR, 0, errno.EIO), IN | BROKEN),
    ],
)
def test_ends(model, poller, event, flags):
    model.inject.append([event])
    assert poller.wait(0, 2) == [(5, flags)]


@pytest.mark.parametrize("error", [errno.EBADF, errno.ENOENT])
def test_what_was_closed_at_this_moment_is_not_told(model, poller, error):
    model.inject.append([kevent(5, KQ_FILTER_READ, KQ_EV_ERROR, 0, error)])
    assert poller.wait(0, 2) == []


def test_all_that_is_ready_fits(model, poller, pair):
    pairs = [pair() for _ in range(4)]
    for a, peer in pairs:
        peer.send(b"1")
        poller.add(a.fileno(), b.READ | b.WRITE)
    assert len(poller.wait(0, len(pairs) + 1)) == 4


def test_an_error_of_the_set_is_raised(model, poller):
    model.inject.append(OSError(errno.EIO, "x"))
    with pytest.raises(OSError, match="x"):
        poller.wait(0, 1)


def test_a_child_does_not_close_a_number(model, monkeypatch):
    poller = _pollers._Kqueue()
    [made] = model.made
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    model.inject.extend([ValueError("closed"), OSError(errno.EBADF, "closed")])
    assert poller.wait(None, 1) == []
    assert poller.wait(None, 1) == []
    poller.close()
    poller.close()
    assert not made.closed
    assert _pollers._inherited == [made]  # or its end would close the number
    own = _pollers._Kqueue()
    own.close()
    assert model.made[1].closed
    forgotten = _pollers._Kqueue()
    del forgotten
    assert model.made[2].closed


# ---- Selector on it -----------------------------------------------------------


@pytest.fixture
def selector(monkeypatch):
    """Make one on the system's kqueue, else on the model."""
    if not hasattr(select, "kqueue"):
        monkeypatch.setattr(_pollers, "_system", Model())
        monkeypatch.setitem(_pollers._ALL, "kqueue", _pollers._Kqueue)
    monkeypatch.setattr(_impl, "backend", _impl.choose("pure"))
    monkeypatch.setenv("STILLALIVE_BACKEND", "kqueue")
    with Selector() as made:
        assert made._engine.mechanism == "kqueue"
        yield made


def told(selector: Selector, timeout: float = 0) -> dict[object, int]:
    return {key.data: mask for key, mask in selector.select(timeout)}


def test_readiness_and_idleness(selector, pair):
    (a, peer), (silent, _) = pair(), pair()
    selector._engine.freeze(100)
    selector.register(a, R | W, "a", idle_timeout=1)
    selector.register(silent, R, "silent", idle_timeout=1)
    assert told(selector) == {"a": W}
    selector.modify(a, R, "a")
    assert told(selector) == {}
    selector._engine.advance(1.1)
    peer.send(b"1")
    assert told(selector) == {"a": R, "silent": EVENT_IDLE}
    assert a.recv(9) == b"1"
    peer.close()
    assert told(selector) == {"a": R}
    assert a.recv(9) == b""


def test_a_reset_can_be_read_and_written(selector, tcp_pair):
    near, far = tcp_pair()
    selector.register(near, R | W, "near")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    while told(selector, 5) != {"near": R | W}:
        time.sleep(0.001)
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_a_duplicate_left_open_is_not_told(selector, pair):
    a, peer = pair()
    selector.register(a, R, "gone")
    twin = os.dup(a.fileno())
    a.close()
    selector.unregister(a)
    peer.send(b"1")
    assert selector.select(0) == []
    assert selector.stats()["rebuilds"] == 0
    os.close(twin)


def test_another_thread_wakes(selector):
    thread = threading.Thread(target=selector.wake)
    thread.start()
    assert selector.select(None) == []
    thread.join()


def test_a_child_makes_a_set_of_its_own(selector, pair):
    a, peer = pair()
    selector.register(a, R, "a")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            peer.send(b"1")
            status = 0 if told(selector, 5) == {"a": R} else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0) == (child, 0)
    assert told(selector, 5) == {"a": R}

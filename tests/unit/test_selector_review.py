"""What comes at the worst moment: finalisers, handlers, forks, no memory; and reused numbers."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import stillalive
from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

from .. import needs
from .selecting import LATE, advance, seen

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741


class Data:
    """What may be known by a weak reference."""


class File:
    """Closes its descriptor when it dies, without a warning."""

    def __init__(self, sock: socket.socket) -> None:
        self.fd = sock.detach()

    def fileno(self) -> int:
        return self.fd

    def __del__(self) -> None:
        socket.close(self.fd)


@contextlib.contextmanager
def at_call(number: int, act: Callable[[], Any]) -> Iterator[list[int]]:
    """Act where a signal handler may run: at the n-th call inside the pure-Python backend.

    The list has what is left of `number`: 0 when it has acted. The compiled
    backend makes no such calls.
    """
    left = [number]

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_return") and f"{os.sep}_pure{os.sep}" in frame.f_code.co_filename:
            left[0] -= 1
            if left[0] == 0:
                sys.setprofile(None)
                act()

    sys.setprofile(hook)
    try:
        yield left
    finally:
        sys.setprofile(None)


def crowded(selector: Selector, fds: list[int]) -> None:
    """Register with limits so that a sweep drops some, puts some back, and finds some."""
    for place, fd in enumerate(fds):
        selector.register(fd, R, place, idle_timeout=1 + place % 2)
    advance(selector, 0.5)
    for fd in fds[::4]:
        selector.touch(fd)
    for fd in fds[2::8]:
        selector.handle(fd).pause()


# Finalisers and handlers in the middle of things.


def test_data_that_dies_during_a_sweep_and_unregisters(selector):
    selector._engine.freeze(100)
    with needs.many_descriptors(200) as fds:
        victims, kept = fds[1:180], fds[180:]

        class Owner:
            def __del__(self) -> None:
                for fd in victims:
                    selector.unregister(fd)

        selector.register(fds[0], R, Owner(), idle_timeout=1)
        for fd in victims:
            selector.register(fd, R, "victim", idle_timeout=50)
        for fd in kept:
            selector.register(fd, R, fd, idle_timeout=2)
        selector.unregister(fds[0])
        advance(selector, 1.5)
        for fd in kept:
            selector.touch(fd)
        advance(selector, 1)
        assert seen(selector) == {}
        advance(selector, 1 + LATE)
        assert seen(selector) == dict.fromkeys(kept, I)
        assert sorted(selector.get_map()) == kept


def test_a_handler_unregisters_most_during_a_sweep(impl):
    with needs.many_descriptors(128) as fds:
        victims, kept = fds[:120], fds[120:]
        for number in itertools.count(1):
            with Selector() as selector:
                selector._engine.freeze(100)
                for fd in victims:
                    selector.register(fd, R, "victim", idle_timeout=50)
                for fd in kept:
                    selector.register(fd, R, fd, idle_timeout=1)
                advance(selector, 0.5)
                for fd in kept:
                    selector.touch(fd)
                advance(selector, 0.5 + LATE)

                def act(selector: Selector = selector) -> None:
                    with contextlib.suppress(RuntimeError):
                        for fd in victims:
                            selector.unregister(fd)

                with at_call(number, act) as left:
                    assert seen(selector) == {}
                if left[0] > 0:
                    break
                advance(selector, 0.5 + LATE)
                assert seen(selector) == dict.fromkeys(kept, I)


@pytest.mark.parametrize("early", [False, True])
def test_a_handler_changes_everything_during_a_sweep(impl, early):
    """Whatever it does, and wherever: those that stay are told, once, and nobody else."""
    with needs.many_descriptors(12) as fds:
        for number in itertools.count(1):
            with Selector() as selector:
                selector._engine.freeze(100)
                crowded(selector, fds[:10])
                advance(selector, (0.5 if early else 2) + LATE)

                def act(selector: Selector = selector) -> None:
                    with contextlib.suppress(RuntimeError):  # it waits
                        selector.unregister(fds[1])
                        selector.unregister(fds[2])
                        selector.register(fds[10], R, 10, idle_timeout=1)
                        selector.register(fds[2], R, 11, idle_timeout=1)
                        selector.handle(fds[3]).idle_timeout = 0.1
                        selector.handle(fds[4]).idle_timeout = 0.2
                        selector.handle(fds[5]).pause()
                        selector.handle(fds[6]).resume()

                with at_call(number, act) as left:
                    found = [key.data for key, _ in selector.select(0)]
                if left[0] > 0:
                    break
                for _ in range(3):
                    advance(selector, 1 + LATE)
                    found += [key.data for key, _ in selector.select(0)]
                    with contextlib.suppress(KeyError):
                        selector.handle(fds[5]).resume()
                mine = {key.data for key in selector.get_map().values()}
                paused = set() if 10 in mine else {2}
                assert mine - paused <= set(found)
                twice = {place for place in found if found.count(place) > 1}
                assert twice <= {3, 4, 5, 6}  # it has changed those that had been told


@pytest.mark.parametrize("what", ["shed", "rebuild"])
def test_a_handler_unregisters_while_all_are_looked_at(epoll, pair, what):
    with needs.many_descriptors(6) as fds:
        for number in itertools.count(1):
            with Selector() as selector:
                for fd in fds:
                    selector.register(fd, R, fd, idle_timeout=5)
                a, peer = pair()
                selector.register(a, R, "gone")
                spare = os.dup(a.fileno())
                a.close()
                selector.unregister(a)  # the set cannot forget it
                peer.send(b"1")

                def act(selector: Selector = selector) -> None:
                    with contextlib.suppress(RuntimeError):
                        selector.unregister(fds[-1])

                try:
                    with at_call(number, act) as left:
                        if what == "shed":
                            assert {key.data for key in selector.shed(9)} >= set(fds[:-1])
                        else:
                            assert selector.select(0) == []
                finally:
                    os.close(spare)
            if left[0] > 0:
                break


def test_what_is_unregistered_is_let_go_at_once(selector):
    """However far away its deadline is; and though it waits for being armed again."""
    gc.collect()
    for due in (False, True):
        a, b = socket.socketpair()
        with b:
            b.setblocking(False)
            file, data = File(a), Data()
            gone = weakref.ref(data), weakref.ref(file)
            selector.register(file, R, data, idle_timeout=0.01 if due else 3600)
            if due:
                assert [mask for _, mask in selector.select(20)] == [I]
                selector.touch(file)
            selector.unregister(file)
            del file, data
            assert [ref() for ref in gone] == [None, None]
            assert b.recv(1) == b""


def test_a_handle_keeps_its_last_key_to_itself(selector, pair):
    a, _ = pair()
    data = Data()
    gone = weakref.ref(data)
    key = selector.register(a, R, data, idle_timeout=3600)
    handle = selector.handle(a)
    for changed in (None, key):
        with pytest.raises(AttributeError):
            handle.key = changed
    selector.unregister(a)
    assert handle.key == key
    del data, key, changed
    assert gone() is not None
    del handle
    assert gone() is None


# Interrupts, and no memory.


def told_after(selector: Selector, early: list[Any]) -> list[Any]:
    found = list(early)
    for _ in range(3):
        found += [key.data for key, _ in selector.select(0)]
    return sorted(found)


def test_an_interrupt_takes_no_idle_one_away(mechanism):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with needs.many_descriptors(6) as fds:
        for number in itertools.count(1):
            with Selector() as selector:
                selector._engine.freeze(100)
                for fd in fds:
                    selector.register(fd, R, fd, idle_timeout=1)
                advance(selector, 0.5)
                selector.touch(fds[0])
                advance(selector, 0.5 + LATE)
                early: list[Any] = []
                with at_call(number, interrupt) as left, contextlib.suppress(KeyboardInterrupt):
                    early = [key.data for key, _ in selector.select(0)]
                assert told_after(selector, early) == fds[1:]
                advance(selector, 0.5)
                assert told_after(selector, []) == fds[:1]
                selector.touch(fds[1])
                advance(selector, 1 + LATE)
                assert told_after(selector, []) == fds[1:2]
            if left[0] > 0:
                break


def test_no_memory_takes_no_idle_one_away(mechanism):
    testcapi = pytest.importorskip("_testcapi")
    if not hasattr(testcapi, "set_nomemory"):
        pytest.skip("this Python cannot be without memory")
    with needs.many_descriptors(6) as fds:
        for number in range(50):
            with Selector() as selector:
                selector._engine.freeze(100)
                for fd in fds:
                    selector.register(fd, R, fd, idle_timeout=1)
                advance(selector, 1 + LATE)
                events: list[Any] = []
                testcapi.set_nomemory(number, number + 1)
                try:
                    events = selector.select(0)
                except MemoryError:
                    pass
                finally:
                    testcapi.remove_mem_hooks()
                assert told_after(selector, [key.data for key, _ in events]) == fds, number


# Time in which nobody looked.


def test_what_begins_after_a_long_callback_begins_then(impl, pair):
    """It does not get the length of the callback as a gift."""
    ends = [pair()[0] for _ in range(3)]
    new, paused, due = ends
    with Selector() as selector:
        selector.register(paused, R, "paused", idle_timeout=50)
        selector.register(due, R, "due", idle_timeout=0.01)
        assert seen(selector, 20) == {"due": I}
        selector.handle(paused).pause()
        time.sleep(1.15)
        selector.register(new, R, "new", idle_timeout=50)
        selector.handle(paused).resume()
        selector.handle(due).idle_timeout = 50
        handles = [selector.handle(end) for end in ends]
        assert [handle.idle_for() for handle in handles] == pytest.approx([0, 0, 0], abs=0.2)
        selector.select(0)
        time.sleep(0.08)
        assert [handle for handle in handles if handle.idle_for() < 0.05] == []


# Numbers that are used again.


@needs.chosen_numbers
def test_a_description_comes_back_to_its_number(selector, pair):
    a, b = pair()
    number = a.fileno()
    spare = os.dup(number)
    selector.register(a, R, "before")
    a.close()
    selector.unregister(a)
    os.dup2(spare, number)
    try:
        selector.register(number, R, "again", idle_timeout=5)
        b.send(b"1")
        assert seen(selector, 5) == {"again": R}
        assert seen(selector) == {"again": R}
        selector.unregister(number)
        assert seen(selector) == {}
    finally:
        os.close(number)
        os.close(spare)


@needs.chosen_numbers
@pytest.mark.parametrize("looked", [False, True])
def test_modify_reaches_what_has_the_number_now(selector, pair, looked):
    a, _ = pair()
    b, peer = pair()
    number = a.fileno()
    selector.register(number, R, "a", idle_timeout=5)
    a.close()
    if looked:
        assert seen(selector) == {}
    os.dup2(b.fileno(), number)
    try:
        assert selector.modify(number, R | W, "b").events == R | W
        assert seen(selector, 5) == {"b": W}
        peer.send(b"1")
        assert seen(selector, 5) == {"b": R | W}
    finally:
        os.close(number)


@pytest.mark.parametrize("looked", [False, True])
def test_modify_of_a_closed_one_is_refused_and_changes_nothing(selector, pair, looked):
    a, _ = pair()
    key = selector.register(a, R, "a", idle_timeout=5)
    a.close()
    if looked:
        assert seen(selector) == {}
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file") as refusal:
            selector.modify(a, R | W, "b")
        assert refusal.value.errno == errno.EBADF
    assert selector.unregister(a) == key


# How long.


@pytest.mark.parametrize(
    ("timeout", "error", "text"),
    [
        ("x", TypeError, "timeout='x': must be a number of seconds (int or float), or None"),
        ("1", TypeError, "timeout='1': must be a number of seconds (int or float), or None"),
        (b"", TypeError, "timeout=b'': must be a number of seconds (int or float), or None"),
        ([], TypeError, "timeout=[]: must be a number of seconds (int or float), or None"),
        (1j, TypeError, "timeout=1j: must be a number of seconds (int or float), or None"),
        (math.nan, ValueError, "timeout=nan: must not be NaN"),
    ],
    ids=repr,
)
def test_a_timeout_that_is_none(impl, timeout, error, text):
    with Selector() as selector:
        selector.wake()
        with pytest.raises(error) as refusal:
            selector.select(timeout)
        assert str(refusal.value) == text
        assert selector.select(None) == []  # the wake is kept


@pytest.mark.parametrize(
    "timeout", [math.inf, 1e300, 10**400, Fraction(10**400), Fraction(100, 3), 2**63, True]
)
def test_a_timeout_that_waits(impl, pair, timeout):
    a, _ = pair()
    with Selector() as selector:
        selector.register(a, R, "a", idle_timeout=0.01)
        assert seen(selector, timeout) == {"a": I}


@pytest.mark.parametrize(
    "timeout", [-math.inf, -1, -1e300, -(10**400), Fraction(-(10**400)), False, Fraction(0)]
)
def test_a_timeout_that_does_not_wait(impl, timeout):
    with Selector() as selector:
        assert selector.select(timeout) == []


# Forks, in a process of their own.


@pytest.fixture
def run(impl: Any) -> Callable[[str], Any]:
    """Run a script; return what it prints as JSON."""
    sources = str(Path(stillalive.__file__).parents[1])
    prelude = "import json, os, signal, socket, threading, time\nfrom stillalive import Selector\n"

    def act(script: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", prelude + script],
            env={
                **os.environ,
                "STILLALIVE_IMPL": "pure" if impl.NAME == "pure" else "c",
                "PYTHONPATH": os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")]),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return lambda script: act(textwrap.dedent(script))


@needs.fork
def test_a_fork_while_another_thread_is_inside_wake(run):
    """Used or dropped, the child's selector does not wait for a thread that is no more."""
    found = run("""
        write, inside, go = os.write, threading.Event(), threading.Event()
        selector = Selector()
        def slow(*given):
            inside.set()
            go.wait(20)
            return write(*given)
        os.write = slow
        waker = threading.Thread(target=selector.wake, daemon=True)
        waker.start()
        inside.wait(0.1)
        answers = []
        for use in (lambda: selector.select(0), lambda: globals().pop("selector")):
            pid = os.fork()
            if pid == 0:
                os.write = write
                signal.alarm(5)
                use()
                os._exit(7)
            answers.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        go.set()
        waker.join()
        print(json.dumps(answers))
    """)
    assert found == [7, 7]


@needs.fork
def test_a_signal_handler_forks_while_select_waits(run):
    """The child's wait is not disturbed from inside, and ends; then the set is its own."""
    found = run("""
        a, b = socket.socketpair()
        selector = Selector()
        selector.register(a, 1, "a")
        refusals = []
        pid = None
        def fork(*_):
            global pid
            pid = os.fork()
            for act in (lambda: selector.unregister(a), lambda: selector.select(0), selector.close):
                try:
                    act()
                except RuntimeError:
                    refusals.append(1)
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        answers = [len(selector.select(0.7)), len(refusals)]
        if pid == 0:
            b.send(b"1")
            answers += [[key.data for key, _ in selector.select(5)], selector.unregister(a).data]
            print(json.dumps(answers), flush=True)
            os._exit(len(answers))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert answers in ([0, 3], [1, 3]), answers  # the child may have sent meanwhile
        assert status == 4, status
        assert selector.select(5)[0][0].data == "a"
        assert selector.stats()["rebuilds"] == 0
    """)
    assert found == [0, 3, ["a"], "a"]

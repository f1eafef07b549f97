"""Everything that any thread may call, called by many at once; without a GIL they really meet.

Each test is bounded by its rounds or by its time, not by what it finds. What needs two threads
within the same few instructions is seen at once where there is no GIL, and seldom otherwise.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stillalive import (
    KeepAlive,
    State,
    _asking,
    _guarding,
    _pacing,
    _pending,
    _watching,
    autotune,
    check,
    describe,
    probe,
    tune,
)
from stillalive.guard import Guard
from stillalive.selector import EVENT_READ, EVENT_WRITE, Selector

from . import guarding
from .guarding import Blocked, FakeWatcher, child, served
from .serving import until

fake, real = guarding.fake, guarding.real

LONG = 20
SHORT = 1.0
"""Seconds that a test without a number of rounds goes on."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="the values are Linux's")


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Switch threads as often as can be, where only one runs at a time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*acts: Callable[[], object]) -> None:
    """Do all at once; what any of them raises is the test's failure."""
    ready = threading.Barrier(len(acts))

    def begin(act: Callable[[], object]) -> None:
        ready.wait(LONG)
        act()

    threads = [Blocked(begin, act) for act in acts]
    failures = [failure for thread in threads if (failure := thread.end()) is not None]
    if failures:
        raise failures[0]


def for_a_while(act: Callable[[], object], seconds: float = SHORT) -> Callable[[], None]:
    """Do it again and again."""

    def work() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            act()

    return work


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL"
)
def test_the_import_leaves_the_gil_off(impl):
    switched_off = "import sys, stillalive; print(stillalive.IMPLEMENTATION, sys._is_gil_enabled())"
    assert child(impl, switched_off) == f"{impl.NAME} False\n"
    assert not sys._is_gil_enabled(), "something else has switched it on: these tests show little"


# ---- autotune ---------------------------------------------------------------


POLICY = KeepAlive(idle=61, interval=11, count=4)


@linux
def test_the_hook_is_installed_by_one_thread_at_a_time(impl, monkeypatch):
    """Two would install two hooks, or each take the other's beginning for a refusal."""
    inside: list[int] = []
    most: list[int] = []

    def audit_install() -> bool:
        inside.append(1)
        time.sleep(0.005)
        most.append(len(inside))
        inside.pop()
        return install()

    install = impl.audit_install
    monkeypatch.setattr(impl, "audit_install", audit_install)
    together(*[lambda: autotune(POLICY).disable()] * 4)
    assert most == [1] * 4


@linux
def test_autotune_in_many_threads_is_never_refused(impl):
    def switch() -> None:
        for _ in range(300):
            autotune(POLICY).disable()

    together(*[switch] * 4)


def idle_of(sock: socket.socket) -> tuple[int, int]:
    """Ask the kernel whether keepalive is on, and after how long."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.getsockopt(socket.IPPROTO_TCP, 4),
    )


@linux
def test_each_socket_is_tuned_and_given_back_whoever_binds_beside_it(impl):
    """Of the last 64 bound it is known what they were: no more are under way at a time."""
    threads, batch, rounds = 4, 10, 40
    pace = threading.Barrier(threads)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        handle = autotune(POLICY)
        address = listener.getsockname()

        def bind_and_connect() -> None:
            for _ in range(rounds):
                pace.wait(LONG)
                for _ in range(batch):
                    with socket.socket() as sock:
                        sock.bind(("127.0.0.1", 0))
                        assert idle_of(sock) == (1, 61)
                        sock.setblocking(False)
                        sock.connect_ex(address)
                        assert idle_of(sock)[0] == 0

        try:
            together(*[bind_and_connect] * threads)
        finally:
            handle.disable()
    bound = threads * batch * rounds
    assert handle.stats() == {"tuned": bound, "given_back": bound}


@linux
def test_rules_come_and_go_while_others_bind_and_connect(impl):
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        address, before = listener.getsockname(), idle_of(listener)

        def switch() -> None:
            rule = autotune(POLICY, outgoing=True)
            assert rule.enabled
            repr(rule)
            rule.disable()

        def bind() -> None:
            with socket.create_server(("127.0.0.1", 0)) as sock:
                assert idle_of(sock) in (before, (1, 61))

        def connect() -> None:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.connect_ex(address)
                assert idle_of(sock) in (before, (1, 61))

        together(*map(for_a_while, (switch, switch, bind, connect)))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            assert idle_of(sock) == before


# ---- one socket, many who tune and ask --------------------------------------


@linux
def test_one_connection_is_tuned_described_and_asked_by_all(impl, tcp_pair):
    a, _ = tcp_pair()
    idles = (61, 62, 63)

    def tuning(idle: int) -> Callable[[], object]:
        def act() -> None:
            assert tune(a, idle=idle, interval=11, count=5).idle in idles

        return act

    def describing() -> None:
        found = describe(a)
        assert found.user_timeout in (None, 0)
        assert found.count in (None, 5, 9)

    def asking() -> None:
        assert probe(a, timeout=5).state is State.ALIVE
        assert check(a).usable

    tune(a, idle=61, interval=11, count=5)
    acts = (*map(tuning, idles), describing, asking, asking)
    together(*map(for_a_while, acts))
    held = describe(a)
    assert held.idle in idles
    assert (held.interval, held.count, held.user_timeout) == (11, 5, 0)
    assert not _asking._sessions
    until(lambda: not _pending._by_identity)


@linux
def test_many_connections_are_tuned_and_asked_at_once(impl, tcp_pair):
    def work(number: int) -> Callable[[], object]:
        a, b = tcp_pair()
        idles = itertools.count(100 * number + 60)

        def act() -> None:
            idle = next(idles)
            assert tune(a, idle=idle, interval=7, count=3).idle == idle
            assert probe(b, timeout=5).state is State.ALIVE
            assert describe(a).idle == idle
            assert check(b).usable

        return act

    together(*(for_a_while(work(number)) for number in range(4)))
    assert not _asking._sessions


# ---- watches ----------------------------------------------------------------


def test_what_is_lent_is_given_back_once(impl, monkeypatch):
    """Twice would take the pace away from another watch of the same socket."""
    given: list[int] = []
    monkeypatch.setattr(_pacing, "give_back", lambda fd, identity, restore: given.append(fd))
    wish = _watching.Wish(8, None, "abort", None)
    for _ in range(40):
        made = [_watching.Watch(fd, fd, wish, _pacing.NO_BOUNDS, lent=True) for fd in range(1000)]

        def give_back(all_of_them: list[_watching.Watch] = made) -> None:
            for watch in all_of_them:
                watch._give_back(restore=True)

        together(*[give_back] * 2)
        assert sorted(given) == list(range(1000))
        given.clear()


def test_a_listener_is_watched_by_another_still_when_cancel_and_stop_meet(real):
    with socket.create_server(("127.0.0.1", 0)) as listener, Guard(answered=60) as stays:
        stays.watch(listener, detect_within=8)
        lent = real.read_options(listener.fileno())
        for _ in range(30):
            guard = Guard(answered=60).start()
            watching = [guard.watch(listener, detect_within=8) for _ in range(3)]
            together(guard.stop, *(one.cancel for one in watching))
            assert real.read_options(listener.fileno()) == lent
        (loan,) = _pacing._loans.values()
        assert loan.users == 1


def test_many_wait_for_one_end(fake, tcp_pair):
    """Those who come just when it ends are not left waiting."""
    a, _ = tcp_pair()
    with Guard(answered=60) as guard:
        for _ in range(150):
            watching = guard.watch(a, idle_timeout=5)
            together(watching.cancel, *[lambda one=watching: one.wait(LONG)] * 3)


# ---- a Guard ----------------------------------------------------------------


def test_a_second_stop_waits_for_every_run_that_ends(fake, monkeypatch):
    """Also when another thread has started and stopped it meanwhile."""
    release, stop = threading.Event(), FakeWatcher.stop
    guard = Guard(answered=60).start()

    def slowly(watcher: FakeWatcher) -> None:
        release.wait(LONG)
        stop(watcher)

    slow = fake[0]
    monkeypatch.setattr(slow, "stop", lambda: slowly(slow), raising=False)
    first = Blocked(guard.stop)
    until(lambda: guard._run is None)
    guard.start()
    second = Blocked(guard.stop)
    until(lambda: guard._run is None)
    third = Blocked(guard.stop)
    time.sleep(0.1)
    assert all(thread.is_running() for thread in (first, second, third))
    release.set()
    assert [thread.end() for thread in (first, second, third)] == [None] * 3
    assert not guard._ending


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_a_stop_of_its_parent(real):
    out = child(
        real,
        """
import os, threading, time
from stillalive import _guarding
from stillalive.guard import Guard
inside, release, end = threading.Event(), threading.Event(), _guarding.Run.end
def slowly(run, seconds):
    inside.set()
    release.wait(10)
    end(run, seconds)
_guarding.Run.end = slowly
guard = Guard(never_spoke=5).start()
thread = threading.Thread(target=guard.stop)
thread.start()
inside.wait(10)
pid = os.fork()
if not pid:
    _guarding.Run.end = end
    guard.stop()
    guard.start()
    guard.stop()
    os._exit(7)
found, limit = (0, 0), time.monotonic() + 10
while found == (0, 0) and time.monotonic() < limit:
    found = os.waitpid(pid, os.WNOHANG)
    time.sleep(0.01)
if found == (0, 0):
    os.kill(pid, 9)
    os.waitpid(pid, 0)
release.set()
thread.join()
print(os.waitstatus_to_exitcode(found[1]) if found[0] else "the child waits")
""",
    )
    assert out == "7\n"


def test_everything_of_a_guard_at_once(real):
    told: list[object] = []
    guard = Guard(answered=60, never_spoke=30, on_event=told.append)
    with served() as (listener, accept):
        ends = [accept() for _ in range(6)]
        before = [real.read_options(a.fileno()) for a, _ in ends]
        choose = random.Random(1).choice

        def started_and_stopped() -> None:
            with guard:
                time.sleep(0.01)

        def updated() -> None:
            guard.update(answered=random.uniform(50, 70), exempt=["192.0.2.0/24"])

        def watched() -> None:
            with contextlib.suppress(RuntimeError):  # it does not run
                watching = guard.watch(choose(ends)[0], detect_within=8, idle_timeout=30)
                unsubscribe = watching.subscribe(told.append)
                together(watching.cancel, watching.cancel, lambda: watching.wait(LONG))
                unsubscribe()
                assert watching.event is None
                repr(watching)

        def listened() -> None:
            with contextlib.suppress(RuntimeError):
                guard.watch(listener, detect_within=8).cancel()

        def held() -> None:
            with guard.hold(choose(ends)[1]):
                guard.stats()

        def asked() -> None:
            guard.subscribe(lambda event: None)()
            assert guard.stats().keys() == _guarding.NO_STATS.keys()
            repr(guard)

        def drained() -> None:
            with contextlib.suppress(RuntimeError):
                guard.drain(timeout=0)

        acts = (started_and_stopped, updated, watched, watched, listened, held, asked, drained)
        together(*(for_a_while(act, 1.5) for act in acts))
        guard.stop()
        assert [real.read_options(a.fileno()) for a, _ in ends] == before
    assert not _pacing._loans
    assert not guard._holds
    assert not guard._ending


def test_events_of_watches_while_others_cancel_and_stop(real):
    """Each watch has one end: the event, or none."""
    with served() as (_, accept):
        for _ in range(6):
            ends = [accept()[1] for _ in range(8)]
            told: list[Any] = []
            guard = Guard(answered=60).start()
            watching = [
                guard.watch(end, idle_timeout=0.1, action=None, on_event=told.append)
                for end in ends
            ]
            time.sleep(0.09)

            def cancel(mine: list[Any] = watching[:4]) -> None:
                for one in mine:
                    time.sleep(0.01)
                    one.cancel()

            together(cancel, lambda last=watching[-1]: last.wait(LONG))
            guard.stop()
            events = [one.wait(LONG) for one in watching]
            assert events[-1] is not None
            assert sorted(map(id, told)) == sorted(id(event) for event in events if event)


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGINT)"])
def test_the_interpreter_ends_while_threads_use_a_guard(real, ending):
    """Daemon threads are in the middle of its calls when it does."""
    code = f"""
import os, signal, socket, sys, threading, time
from stillalive import KeepAlive, autotune, probe, tune
from stillalive.guard import Guard
signal.signal(signal.SIGINT, lambda *_: sys.exit(3))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
guard = Guard(answered=60, on_event=print).start()
autotune(KeepAlive(idle=61))
def work():
    while True:
        try:
            watching = guard.watch(client, detect_within=8)
            guard.stats()
            tune(server, idle=60, interval=10, count=5)
            probe(server)
            watching.cancel()
        except RuntimeError:
            return
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
{ending or "sys.exit(3)"}
"""
    with pytest.raises(AssertionError) as ended:
        child(real, code)
    status, out, err = ended.value.args[0]
    assert (status, out, err) == (3, "", "")


# ---- a Selector -------------------------------------------------------------


HAMMER = """
import contextlib, socket, sys, threading, time
from stillalive.selector import EVENT_READ, EVENT_WRITE, Selector
sys.setswitchinterval(1e-5)
end = time.monotonic() + 1.5
box, failures = [], []

def owner():
    while time.monotonic() < end:
        with Selector() as selector, contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(8)]
            for one in pairs:
                stack.enter_context(one[0]), stack.enter_context(one[1])
            selector.register(pairs[0][0], EVENT_READ, ["first"], idle_timeout=50)
            handle = selector.handle(pairs[0][0])
            box[:] = [(selector, handle)]
            for number in range(200):
                with contextlib.suppress(RuntimeError, KeyError):  # another is in it, or was
                    selector.modify(pairs[0][0], EVENT_READ | EVENT_WRITE, [number, "both"])
                    selector.select(0)
                    selector.modify(pairs[0][0], EVENT_READ, [number, "one"])
                    handle.idle_timeout = 50.0 + number
                    selector.register(pairs[1][0], EVENT_WRITE, [number])
                    selector.select(0)
                    selector.unregister(pairs[1][0])
            while True:
                try:
                    selector.close()
                    break
                except RuntimeError:
                    pass

def other(act):
    while time.monotonic() < end:
        for selector, handle in list(box):
            try:
                act(selector, handle)
            except (RuntimeError, KeyError, ValueError):
                pass  # refused, stale, closed
            except BaseException as failure:
                failures.append(failure)

acts = [
    lambda selector, handle: [type(handle.key.data[0]) for _ in range(50)],
    lambda selector, handle: [handle.idle_timeout for _ in range(50)],
    lambda selector, handle: (handle.touch(), handle.idle_for(), selector.wake()),
    lambda selector, handle: (selector.touch(handle.key.fd), len(selector.get_map() or ())),
    lambda selector, handle: (handle.pause(), handle.resume()),
]
threads = [threading.Thread(target=owner)]
threads += [threading.Thread(target=other, args=(act,)) for act in acts]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(failures)
"""


def test_what_belongs_to_the_owner_alone_is_refused_to_others_and_does_no_harm(impl):
    assert child(impl, HAMMER) == "[]\n"


def test_one_register_and_close_at_once(impl):
    """Whoever comes second finds it closed."""
    with contextlib.ExitStack() as stack:
        near, far = socket.socketpair()
        stack.enter_context(near)
        stack.enter_context(far)
        for _ in range(1000):
            selector = Selector()

            def act(one: Selector = selector) -> None:
                # Closed, or another is in it; the pure path's set may be closed in between.
                with contextlib.suppress(RuntimeError, ValueError, OSError):
                    one.register(near, EVENT_READ | EVENT_WRITE, idle_timeout=5)

            def close(one: Selector = selector) -> None:
                while True:
                    with contextlib.suppress(RuntimeError):  # another is in it
                        return one.close()

            together(act, close)
            with pytest.raises(RuntimeError, match="closed"):
                selector.select(0)

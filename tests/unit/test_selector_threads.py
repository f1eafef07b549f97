"""Other threads and signals beside a waiting Selector. They hold without a GIL, too."""

from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE

from .selecting import LATE, advance, seen

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741
LONG = 20
"""A wait that must be ended by something else."""


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End a wait without a timeout that nothing else has ended."""

    if not hasattr(signal, "setitimer"):  # pytest's own limit must do
        yield
        return

    def bark(*_: Any) -> None:
        raise TimeoutError("this took too long")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, 2 * LONG)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


Start = Callable[[Callable[[], Any]], threading.Thread]


@pytest.fixture
def soon() -> Iterator[Start]:
    """Run something in another thread after a moment; what it raises fails the test."""
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def start(act: Callable[[], Any], delay: float = 0.05) -> threading.Thread:
        def run() -> None:
            time.sleep(delay)
            try:
                act()
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert failures == []


class Stopwatch:
    def __enter__(self) -> Self:
        self.begin = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed = time.monotonic() - self.begin


def test_wake_from_a_thread(selector, soon):
    for timeout in (None, LONG):
        with Stopwatch() as watch:
            soon(selector.wake)
            assert selector.select(timeout) == []
        assert 0.04 <= watch.elapsed < LONG / 2


def test_wake_before_select_is_kept_and_many_are_one(selector):
    assert selector.select(0) == []
    for _ in range(3):
        for _ in range(1000):
            selector.wake()
        with Stopwatch() as watch:
            assert selector.select(LONG) == []
        assert watch.elapsed < LONG / 2
        with Stopwatch() as watch:
            assert selector.select(0.03) == []
        assert watch.elapsed >= 0.03
    assert selector.stats()["wakes"] >= 3


def test_wake_never_blocks(selector, soon):
    """More of them than a pipe can hold."""
    done = soon(lambda: [selector.wake() for _ in range(70_000)], delay=0)
    done.join(LONG)
    assert not done.is_alive()
    assert selector.select(LONG) == []
    assert selector.select(0) == []


def test_wake_takes_no_events_away(selector, pair, soon):
    a, b = pair()
    selector.register(a, R, "a")
    b.send(b"1")
    selector.wake()
    found = seen(selector, LONG) or seen(selector, LONG)
    assert found == {"a": R}
    assert seen(selector) == {"a": R}


def test_a_selector_may_be_used_where_it_was_not_made(selector, pair, soon):
    a, _ = pair()
    found: list[Any] = []

    def use() -> None:
        selector.register(a, W, "a", idle_timeout=5)
        found.append(seen(selector, LONG))
        selector.unregister(a)

    soon(use).join(LONG)
    assert found == [{"a": W}]
    assert len(selector.get_map()) == 0


def refusals(acts: dict[str, Callable[[], Any]]) -> dict[str, type]:
    outcomes = {}
    for name, act in acts.items():
        try:
            act()
            outcomes[name] = type(None)
        except Exception as failure:
            outcomes[name] = type(failure)
    return outcomes


def test_while_the_owner_waits_others_may_only_wake_and_touch(selector, pair, soon):
    a, b = pair()
    selector.register(a, R, "a", idle_timeout=500)
    handle = selector.handle(a)
    outcomes: dict[str, type] = {}

    def disturb() -> None:
        outcomes.update(
            refusals(
                {
                    "register": lambda: selector.register(b, R),
                    "unregister": lambda: selector.unregister(a),
                    "modify": lambda: selector.modify(a, W),
                    "select": lambda: selector.select(0),
                    "shed": lambda: selector.shed(1),
                    "pause": handle.pause,
                    "resume": handle.resume,
                    "limit": lambda: setattr(handle, "idle_timeout", 1),
                    "touch": handle.touch,
                    "touch the object": lambda: selector.touch(a),
                }
            )
        )
        selector.wake()

    soon(disturb)
    assert selector.select(LONG) == []
    allowed = {name for name, outcome in outcomes.items() if outcome is type(None)}
    assert allowed == {"touch", "touch the object"}
    assert set(outcomes.values()) == {type(None), RuntimeError}
    # Nothing of it has left a trace.
    assert list(selector.get_map()) == [a.fileno()]
    assert handle.idle_timeout == 500
    b.send(b"1")
    assert seen(selector, LONG) == {"a": R}


def test_close_by_another_thread_is_refused_and_changes_nothing(selector, pair, soon):
    a, b = pair()
    selector.register(a, R, "a", idle_timeout=500)
    engine, outcomes = selector._engine, {}

    def disturb() -> None:
        outcomes.update(refusals({"close": selector.close}))
        engine.wake()

    soon(disturb)
    assert selector.select(LONG) == []
    assert outcomes == {"close": RuntimeError}
    b.send(b"1")
    assert seen(selector, LONG) == {"a": R}


def test_a_due_one_is_rescued_while_the_owner_waits_for_ever(selector, pair, soon):
    """Nothing has a deadline when the wait begins; the touch gives it one."""
    a, _ = pair()
    selector.register(a, R, "a", idle_timeout=0.05)
    handle = selector.handle(a)
    touched: list[float] = []
    for _ in range(2):
        assert seen(selector, LONG) == {"a": I}
        assert selector.select(0) == []

        def touch() -> None:
            touched.append(time.monotonic())
            assert handle.touch() is True

        soon(touch)
        with Stopwatch() as watch:
            while not (found := seen(selector, None)):
                pass
        assert found == {"a": I}
        assert time.monotonic() - touched[-1] >= 0.05
        assert watch.elapsed < LONG / 2
        handle.touch()


def test_a_touch_beside_the_wait_moves_the_deadline(selector, pair, soon):
    a, _ = pair()
    selector.register(a, R, "a", idle_timeout=0.1)
    handle = selector.handle(a)
    times: list[float] = []

    def keep_alive() -> None:
        for _ in range(12):
            time.sleep(0.01)
            times.append(time.monotonic())
            handle.touch()

    soon(keep_alive, delay=0)
    while not (found := seen(selector, LONG)):
        pass
    assert found == {"a": I}
    late = max((b - a for a, b in itertools.pairwise(times)), default=0)
    assert time.monotonic() - times[-1] >= 0.1 or late >= 0.1


def test_touches_from_many_threads(selector, pair):
    """Touched ones are never called idle, silent ones are, once each; by frozen time."""
    selector._engine.freeze(2**32 - 20)
    ends = [pair()[0] for _ in range(60)]
    for number, end in enumerate(ends):
        selector.register(end, R, number, idle_timeout=0.2)
    handles = [selector.handle(end) for end in ends]
    touched = list(range(0, 60, 2))
    stop, gate = threading.Event(), threading.Barrier(4)
    failures: list[Any] = []

    def touch(seed: int) -> None:
        order = random.Random(seed)
        gate.wait(LONG)
        while not stop.is_set():
            order.shuffle(touched_copy := touched.copy())
            failures.extend(n for n in touched_copy if handles[n].touch() is not True)
            time.sleep(0)

    threads = [threading.Thread(target=touch, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    gate.wait(LONG)
    found: Counter[int] = Counter()
    try:
        for _ in range(25):
            for number in touched:
                handles[number].touch()
            advance(selector, 0.03)
            found.update(list(seen(selector)))
            selector.wake()
            selector.select(0.002)
    finally:
        stop.set()
        for thread in threads:
            thread.join(LONG)
    assert failures == []
    assert found == dict.fromkeys(range(1, 60, 2), 1)
    advance(selector, 0.2 + LATE)
    assert seen(selector) == dict.fromkeys(touched, I)


def test_stale_handles_in_other_threads(selector, pair):
    """Registrations end and begin while others touch them: wrong ones are never reached."""
    a, _ = pair()
    box = [None]
    stop = threading.Event()
    failures: list[Any] = []

    def touch() -> None:
        while not stop.is_set():
            handle = box[0]
            if handle is not None and handle.touch() not in (True, False):
                failures.append(handle)

    threads = [threading.Thread(target=touch, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            for _ in range(20):
                selector.register(a, R, "a", idle_timeout=100)
                box[0] = selector.handle(a)
                selector.select(0)
                selector.unregister(a)
                assert box[0].touch() is False
    finally:
        stop.set()
        for thread in threads:
            thread.join(LONG)
    assert failures == []


@pytest.fixture
def handle_signal() -> Iterator[Callable[..., None]]:
    """Install a handler for a signal and put the old one back."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signal of this system ends a wait")
    before: list[tuple[int, Any]] = []

    def install(number: int, handler: Any) -> None:
        before.append((number, signal.signal(number, handler)))

    yield install
    for number, handler in reversed(before):
        signal.signal(number, handler)


def to_me(number: int) -> Callable[[], None]:
    """Return what sends a signal to the thread that is running now."""
    me = threading.get_ident()
    return lambda: signal.pthread_kill(me, number)


def test_wake_from_a_signal_handler(selector, soon, handle_signal):
    handle_signal(signal.SIGUSR1, lambda *_: selector.wake())
    with Stopwatch() as watch:
        soon(to_me(signal.SIGUSR1))
        assert selector.select(None) == []
    assert 0.04 <= watch.elapsed < LONG


def test_a_signal_without_exception_does_not_end_the_wait(selector, soon, handle_signal):
    calls: list[Any] = []
    handle_signal(signal.SIGUSR1, lambda *_: calls.append(None))
    kill = to_me(signal.SIGUSR1)
    soon(lambda: [(kill(), time.sleep(0.03)) for _ in range(5)])
    with Stopwatch() as watch:
        assert selector.select(0.25) == []
    assert 0.25 <= watch.elapsed < LONG
    assert len(calls) == 5


def test_events_are_found_after_a_signal(selector, pair, soon, handle_signal):
    a, b = pair()
    handle_signal(signal.SIGUSR1, lambda *_: b.send(b"1"))
    selector.register(a, R, "a", idle_timeout=LONG)
    soon(to_me(signal.SIGUSR1))
    assert seen(selector, None) == {"a": R}


@pytest.mark.parametrize("whole_process", [False, True])
def test_an_interrupt_ends_the_wait_at_once(selector, pair, soon, handle_signal, whole_process):
    a, b = pair()
    selector.register(a, R, "a", idle_timeout=500)
    handle_signal(signal.SIGINT, signal.default_int_handler)
    kill = to_me(signal.SIGINT)
    if whole_process:
        kill = functools.partial(os.kill, os.getpid(), signal.SIGINT)

    def wait() -> None:
        soon(kill)
        selector.select(None)

    for _ in range(2):
        with Stopwatch() as watch, pytest.raises(KeyboardInterrupt):
            wait()
        assert watch.elapsed < LONG
    # It goes on as if nothing had been.
    b.send(b"1")
    assert seen(selector, LONG) == {"a": R}
    selector.unregister(a)


def test_an_exception_of_a_handler_comes_through(selector, soon, handle_signal):
    class Stop(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Stop

    handle_signal(signal.SIGUSR1, handler)

    def wait() -> None:
        soon(to_me(signal.SIGUSR1))
        selector.select(None)

    with pytest.raises(Stop):
        wait()
    assert selector.select(0) == []

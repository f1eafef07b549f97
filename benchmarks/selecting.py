"""Seeing readiness of some of thousands of connections."""

from __future__ import annotations

import contextlib
import os
import select as system_select
import selectors
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import stillalive
from stillalive._backend import Backend

from .sockets import Pair, pairs, using
from .timing import Contender, Row, measure, statement
from .topic import Bench, Facts, Goal, Topic

__all__ = ["select"]

_LIMIT = "raw C, epoll_wait and a stamp"
_OURS = "c: Selector.select(0)"
_PURE = "pure: Selector.select(0)"
_STDLIB = "selectors.EpollSelector.select(0)"
_READY = (1, 100, 5_000)
_CONNECTIONS = 5_200
_GOALS = {1: (2.2, 1 / 3), 100: (1.15, 1 / 3), 5_000: (1.15, 1 / 3)}
_BESIDE_READY = (1, 50)
_BESIDE_CONNECTIONS = 200


def select(bench: Bench) -> Topic:
    """Measure polls at 1, 100 and 5,000 ready, and beside a thread that computes."""
    connections = min(_CONNECTIONS, bench.effort.many)
    rows: list[Row] = []
    goals: list[Goal] = []
    with pairs(connections) as made, contextlib.ExitStack() as stack:
        ways = _ways(bench, stack, made)
        sent = 0
        for ready in (min(one, connections) for one in _READY):
            sent = _send(made, sent, ready)
            found = measure(
                [_named(way, ready) for way in ways], bench.effort, f"{_LIMIT}, {ready} ready"
            )
            rows += found
            goals += _goals({row.name: row for row in found}, ready)
    beside = _beside(bench)
    return Topic(
        key="select",
        title=f"select: {connections} connections registered, time of one poll",
        limit=_LIMIT,
        rows=rows,
        notes=(
            (
                "Level-triggered and unread: every poll reports the same ones. x limit is against "
                "raw C with as many ready. Ours knows an idle timeout of 60 s for each; the others "
                "know none."
            ),
        ),
        goals=[*goals, *_beside_goals(beside)],
        facts=_beside_facts(beside),
    )


def _send(made: list[Pair], sent: int, ready: int) -> int:
    """Have so many ready, of which the first `sent` are already."""
    for client, _ in made[sent:ready]:
        client.send(b"x")
    time.sleep(0.05)
    return ready


def _named(way: Contender, ready: int) -> Contender:
    twin = None if way.twin is None else f"{way.twin}, {ready} ready"
    return Contender(f"{way.name}, {ready} ready", way.run, twin, way.interpreted)


def _goals(found: dict[str, Row], ready: int) -> Iterator[Goal]:
    ours, stdlib = found[f"{_OURS}, {ready} ready"], found[f"{_STDLIB}, {ready} ready"]
    if ready in _GOALS and ours.to_limit is not None:
        to_limit, to_stdlib = _GOALS[ready]
        yield Goal(f"select, {ready} ready: c / raw C", ours.to_limit, to_limit)
        yield Goal(
            f"select, {ready} ready: c / EpollSelector", ours.median / stdlib.median, to_stdlib
        )


def _filled(backend: Backend, stack: contextlib.ExitStack, made: list[Pair]) -> stillalive.Selector:
    with using(backend):
        selector = stack.enter_context(stillalive.Selector())
        for _, server in made:
            selector.register(server, selectors.EVENT_READ, idle_timeout=60)
    return selector


def _ways(bench: Bench, stack: contextlib.ExitStack, made: list[Pair]) -> list[Contender]:
    native, n = bench.native, len(made)
    raw = native.epoll_open([server.fileno() for _, server in made])
    stack.callback(os.close, raw)
    plain = stack.enter_context(selectors.EpollSelector())
    epoll = stack.enter_context(system_select.epoll())
    for _, server in made:
        plain.register(server, selectors.EVENT_READ)
        epoll.register(server, system_select.EPOLLIN)
    ours = _filled(bench.compiled, stack, made)
    twin = _filled(bench.pure, stack, made)
    return [
        Contender(_LIMIT, lambda k: native.epoll_poll(raw, n, k), interpreted=False),
        Contender(
            "select.epoll.poll(0)", statement("poll(0, n)", {"poll": epoll.poll, "n": n + 1})
        ),
        Contender(_OURS, statement("one.select(0)", {"one": ours}), twin=_PURE),
        Contender(_PURE, statement("one.select(0)", {"one": twin})),
        Contender(_STDLIB, statement("one.select(0)", {"one": plain})),
    ]


# ---- beside a thread that computes -----------------------------------------------------------


@dataclass(frozen=True)
class _Polls:
    """How long single polls took; nanoseconds."""

    number: int
    mean: float
    median: float
    p90: float
    p99: float


def _beside(bench: Bench) -> dict[tuple[str, int], _Polls]:
    """Poll while another thread never lets the interpreter go by itself.

    Everyone polls for as long in one round, however often that is: who holds
    the lock has to give it away once in a switch interval, and that counts.
    """
    effort = bench.effort
    found: dict[tuple[str, int], _Polls] = {}
    with pairs(_BESIDE_CONNECTIONS) as made, contextlib.ExitStack() as stack:
        plain = stack.enter_context(selectors.EpollSelector())
        for _, server in made:
            plain.register(server, selectors.EVENT_READ)
        chosen = {
            _OURS: _filled(bench.compiled, stack, made).select,
            _PURE: _filled(bench.pure, stack, made).select,
            _STDLIB: plain.select,
        }
        sent = 0
        for ready in _BESIDE_READY:
            sent = _send(made, sent, ready)
            taken: dict[str, list[int]] = {name: [] for name in chosen}
            with _computing():
                for _ in range(effort.serve_rounds):
                    for name, poll in chosen.items():
                        _poll_for(poll, effort.serve_ms * 300_000, taken[name])
            found |= {(name, ready): _summary(times) for name, times in taken.items()}
    return found


def _poll_for(poll: Callable[[float], object], ns: int, taken: list[int]) -> None:
    clock = time.perf_counter_ns
    now = clock()
    end = now + ns
    while now < end:
        poll(0)
        before, now = now, clock()
        taken.append(now - before)


def _summary(times: list[int]) -> _Polls:
    ordered = sorted(times)
    return _Polls(
        len(ordered),
        statistics.mean(ordered),
        statistics.median(ordered),
        ordered[len(ordered) * 9 // 10],
        ordered[len(ordered) * 99 // 100],
    )


def _beside_goals(found: dict[tuple[str, int], _Polls]) -> Iterator[Goal]:
    ours, stdlib = found[_OURS, 1], found[_STDLIB, 1]
    what = "select beside a computing thread, 1 ready: c / EpollSelector"
    yield Goal(f"{what}, mean", ours.mean / stdlib.mean, 0.01)
    yield Goal(f"{what}, 99th percentile", ours.p99 / stdlib.p99, 0.01)


def _beside_facts(found: dict[tuple[str, int], _Polls]) -> Facts:
    return Facts(
        title=f"select beside a thread that computes: one poll, {_BESIDE_CONNECTIONS} registered",
        columns=("", "mean", "median", "90th percentile", "99th percentile", "polls"),
        rows=[
            (
                f"{name}, {ready} ready",
                *map(_us, (one.mean, one.median, one.p90, one.p99)),
                f"{one.number:,}",
            )
            for (name, ready), one in found.items()
        ],
        notes=(
            (
                f"Switch interval {sys.getswitchinterval() * 1000:g} ms, and each polls for as "
                "long. Who gives the interpreter's lock away for a poll that does not wait, gets "
                "it back an interval later if the other thread was quick enough, which takes a "
                "core for each; who keeps it loses it once in an interval, which the mean "
                "contains."
            ),
        ),
    )


def _us(ns: float) -> str:
    return f"{ns / 1000:.1f} us"


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

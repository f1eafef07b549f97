"""Noting activity of one connection of thousands.

Every rival has as many objects, and meets them in the same random order: a
touch of a thing that is not in the cache is what a server does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
import selectors
import socket
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import stillalive
from stillalive._backend import Backend

from .native import empty_type
from .sockets import allow_descriptors, using
from .timing import Contender, Row, measure
from .topic import Bench, Goal, Topic

__all__ = ["touch"]

_LIMIT = "empty C method"
_OURS = "c: Handle.touch()"
_FIRST = "c: Handle.touch(), first in its tick"
_PURE = "pure: Handle.touch()"
_ASYNCIO = "asyncio: cancel + call_later"
_UVLOOP = "uvloop: cancel + call_later"
_GEVENT = "gevent: timer.again()"
_RE_ARM = "one.timer.cancel(); one.timer = one.later(60, nothing)"
_CONNECTIONS = 8_000
_SPARE = 256  # descriptors for everything else


def touch(bench: Bench) -> Topic:
    """Measure what one activity costs, in random order over many connections."""
    wanted = min(_CONNECTIONS, bench.effort.many)
    allow_descriptors(2 * wanted + _SPARE)
    connections = _allowed(wanted)
    with ExitStack() as stack:
        ways = list(_ways(bench, stack, connections))
        rows = measure(ways, bench.effort, _LIMIT)
    found = {one.name: one for one in rows}
    goals = [goal for ours in (_OURS, _FIRST) for goal in _goals(found, ours)]
    rows.insert([*found].index(_OURS) + 1, rows.pop())
    return Topic(
        key="touch",
        title=f"touch: note activity of one of {connections} connections",
        limit=_LIMIT,
        rows=rows,
        notes=(
            "Python's own loop over the same objects is subtracted.",
            (
                "Between slices, untimed, each event loop runs once: so it drops what was "
                "cancelled, as it does in a server, and its clock goes on."
            ),
            (
                "A second touch in one tick of 10 ms stores nothing: the first row of ours goes "
                "round and round, the second once in a slice, as the slow rivals do."
            ),
            "Readiness notes activity by itself: a touch is only for what the loop does not see.",
        ),
        goals=goals,
    )


def _goals(found: dict[str, Row], ours: str) -> Iterator[Goal]:
    for rival, at_most in ((_LIMIT, 1.5), (_ASYNCIO, 1 / 100), (_UVLOOP, 1 / 50), (_GEVENT, 1 / 5)):
        if rival in found:
            yield Goal(f"{ours} / {rival}", found[ours].median / found[rival].median, at_most)


def _allowed(wanted: int) -> int:
    """Return how many there can be: two selectors watch as many sockets each."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, (soft - _SPARE) // 4 * 2)


def _ways(bench: Bench, stack: ExitStack, n: int) -> Iterator[Contender]:
    native = bench.native
    order = random.Random(1).sample(range(n), n)

    def each(
        name: str,
        objects: Sequence[object],
        code: str,
        twin: str | None = None,
        once: bool = False,
        between: Callable[[], object] = _nothing,
        **names: object,
    ) -> Contender:
        shuffled = [objects[index] for index in order]
        most = n if once else sys.maxsize
        run = _over(shuffled, code, names | {"nothing": _nothing}, between, most)
        return Contender(name, run, twin=twin, interpreted=False)

    empty = empty_type()
    yield each(_LIMIT, [empty() for _ in range(n)], "one.nothing()")
    yield Contender(
        "C core: touch, every one in a new tick",
        lambda k: native.touch(n, k, clock=False),
        interpreted=False,
    )
    yield Contender(
        "C core: touch, the clock read", lambda k: native.touch(n, k, clock=True), interpreted=False
    )
    handles = stack.enter_context(_handles(bench.compiled, n))
    yield each(_OURS, handles, "one.touch()", _PURE)
    yield each(_PURE, stack.enter_context(_handles(bench.pure, n)), "one.touch()")
    stamps = [_Stamp() for _ in range(n)]
    yield each("conn.last = monotonic()", stamps, "one.last = now()", now=time.monotonic)
    loop = _closed_later(stack, asyncio.new_event_loop())
    yield each(_ASYNCIO, _timers(loop, n), _RE_ARM, between=lambda: _turn(loop))
    with suppress(ImportError):
        import uvloop

        other = _closed_later(stack, uvloop.new_event_loop())
        yield each(_UVLOOP, _timers(other, n), _RE_ARM, between=lambda: _turn(other))
    with suppress(ImportError):
        import gevent

        hub = gevent.get_hub().loop
        timers = _gevent_timers(stack, hub, n)
        yield each(_GEVENT, timers, "one.again(nothing)", between=hub.update_now)
    # The last one: the same handles were touched several slices ago, more than a tick.
    yield each(_FIRST, handles, "one.touch()", _PURE, once=True)


def _over(
    objects: list[object],
    code: str,
    names: dict[str, object],
    between: Callable[[], object],
    most: int,
) -> Callable[[int], float]:
    """Return a loop that goes round and round many objects, without what the bare loop costs."""

    def loop(code: str) -> tuple[timeit.Timer, dict[str, object]]:
        given = names | {"many": itertools.cycle(objects), "islice": itertools.islice, "n": 0}
        text = f"for one in islice(many, n): {code}"
        return timeit.Timer(text, timer=time.perf_counter_ns, globals=given), given

    (body, in_body), (bare, in_bare) = loop(code), loop("pass")

    def run(repeats: int) -> float:
        done = min(repeats, most)
        in_body["n"] = in_bare["n"] = done
        spent = body.timeit(1) - bare.timeit(1)
        between()
        return max(1.0, spent * repeats / done)

    return run


@contextmanager
def _handles(backend: Backend, n: int) -> Iterator[list[stillalive.Handle]]:
    """Register as many sockets, and return their handles."""
    with using(backend), ExitStack() as stack:
        selector = stack.enter_context(stillalive.Selector())
        handles: list[stillalive.Handle] = []
        for _ in range(n // 2):
            for end in socket.socketpair():
                stack.enter_context(end)
                selector.register(end, selectors.EVENT_READ, idle_timeout=60)
                handles.append(selector.handle(end))
        yield handles


class _Stamp:
    __slots__ = ("last",)


class _Timer:
    __slots__ = ("later", "timer")

    def __init__(self, later):
        self.later = later
        self.timer = later(60, _nothing)


def _nothing() -> None:
    return None


def _closed_later(stack: ExitStack, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    stack.callback(loop.close)
    return loop


def _timers(loop: asyncio.AbstractEventLoop, n: int) -> list[_Timer]:
    return [_Timer(loop.call_later) for _ in range(n)]


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def _gevent_timers(stack: ExitStack, loop: Any, n: int) -> list[Any]:
    timers = [loop.timer(60, 60) for _ in range(n)]
    for timer in timers:
        timer.start(_nothing)
        stack.callback(timer.close)
        stack.callback(timer.stop)
    return timers

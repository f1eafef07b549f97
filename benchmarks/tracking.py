"""A thousand to a million connections in the deadline table."""

from __future__ import annotations

import asyncio
import heapq
import time
import tracemalloc
from collections.abc import Callable

from .timing import Row, row, without_gc
from .topic import Bench, Facts, Goal, Topic

__all__ = ["tracked"]

_SWEEP_EVERY_NS = 100_000_000
_LIMIT = "plain C, full scan of 4-byte deadlines"
_OURS = "deadline table of the C core"
_SECONDS = 180
"""Of the table's time; nothing is due in the first 60."""
_RIVALS_MOST = 100_000
"""Rivals made of Python objects take seconds to fill beyond."""


def tracked(bench: Bench) -> Topic:
    """Measure sweeps with 1 % touched per 100 ms, expiry of all, and memory."""
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= bench.effort.tracked]
    runs = bench.effort.serve_rounds // 3 or 1
    lines: list[tuple[str, ...]] = []
    series: dict[str, list[float]] = {}
    goals: list[Goal] = []
    for n in sizes:
        best = [bench.native.tracked(n, _SECONDS) for _ in range(runs)]
        scans = [bench.native.scan(n, 100) for _ in range(runs)]
        swept = sorted(best, key=lambda one: one.mean_sweep)[runs // 2]
        series[_named(_OURS, n)] = [float(one.mean_sweep) for one in best]
        series[_named(_LIMIT, n)] = [float(mean) for mean, _ in scans]
        worst = sorted(one.worst_slice for one in best)[runs // 2]
        all_at_once = sorted(one.expire_all for one in best)[runs // 2]
        lines.append(
            (
                f"{n:,}",
                f"{swept.hot_bytes / n:.2f}",
                f"{swept.all_bytes / n:.1f}",
                f"{swept.add} ns",
                _time(swept.mean_sweep),
                f"{swept.mean_sweep / _SWEEP_EVERY_NS:.4%}",
                _time(worst),
                _time(all_at_once),
                f"{swept.expire_spread / n:.0f} ns",
            )
        )
        if n == 1_000_000:
            goals += [
                Goal("1,000,000 tracked: hot bytes each", swept.hot_bytes / n, 10),
                Goal(
                    "1,000,000 tracked: sweep, % of a core",
                    100 * swept.mean_sweep / _SWEEP_EVERY_NS,
                    0.1,
                ),
                Goal("1,000,000 tracked: worst slice, ms", worst / 1e6, 1.0),
                Goal("1,000,000 tracked: all expired, ms", all_at_once / 1e6, 25.0),
            ]
    rows: list[Row] = []
    for n in sizes:
        rows += [row(_named(name, n), series, limit=_named(_LIMIT, n)) for name in (_LIMIT, _OURS)]
    lines += _rivals(min(_RIVALS_MOST, bench.effort.tracked))
    return Topic(
        key="tracked",
        title="tracked: one sweep, 1 % of all touched since the last",
        limit=_LIMIT,
        rows=rows,
        notes=(
            "Limit 60 s; a sweep every 100 ms. A slice opens at most 1,024 blocks of 64.",
            "The sweep alone: a touch is in the table above that, readiness in the one before.",
        ),
        goals=goals,
        facts=Facts(
            title="tracked: from a thousand to a million",
            columns=(
                "connections",
                "bytes swept, each",
                "bytes, each",
                "add",
                "mean sweep",
                "of a core",
                "worst slice",
                "all at once",
                "spread over 60 s, each",
            ),
            rows=lines,
            notes=(
                (
                    "The kernel keeps about 4,900 bytes for each end of a connection. Expiry: "
                    "found due and released. Rivals are made of Python objects; their sweep is one "
                    "look with nothing due."
                ),
            ),
        ),
    )


def _named(name: str, n: int) -> str:
    return f"{name}, {n:,}"


def _time(ns: float) -> str:
    return f"{ns / 1000:.1f} us" if ns < 1_000_000 else f"{ns / 1_000_000:.2f} ms"


def _rivals(n: int) -> list[tuple[str, ...]]:
    """Fill, look once with nothing due, and expire all at once."""
    found = []
    made: dict[str, Callable[[int], tuple[object, Callable[[], object], Callable[[], int]]]] = {
        "heapq, lazy": _heap,
        "asyncio call_later": lambda k: _loop(asyncio.new_event_loop(), k),
    }
    try:
        import uvloop
    except ImportError:
        pass
    else:
        made["uvloop call_later"] = lambda k: _loop(uvloop.new_event_loop(), k)
    for name, make in made.items():
        with without_gc():
            tracemalloc.start()
            kept, look, _ = make(n)
            size = tracemalloc.get_traced_memory()[0] / n
            tracemalloc.stop()
            del kept, look
            began = time.perf_counter_ns()
            kept, look, expire = make(n)
            add = (time.perf_counter_ns() - began) / n
            began = time.perf_counter_ns()
            look()
            sweep = time.perf_counter_ns() - began
            all_at_once = expire()
            del kept
        found.append(
            (f"{name}, {n:,}", "", f"{size:.0f}", f"{add:.0f} ns", _time(sweep), "", "",
             _time(all_at_once), "")
        )  # fmt: skip
    return found


def _heap(n: int) -> tuple[object, Callable[[], object], Callable[[], int]]:
    last = dict.fromkeys(range(n), 0.0)
    heap = [(60.0, fd) for fd in range(n)]
    heapq.heapify(heap)

    def expire() -> int:
        began = time.perf_counter_ns()
        while heap and heap[0][0] <= 61.0:
            _, fd = heapq.heappop(heap)
            del last[fd]
        return time.perf_counter_ns() - began

    return (last, heap), lambda: heap[0][0] <= 1.0, expire


def _loop(
    loop: asyncio.AbstractEventLoop, n: int
) -> tuple[object, Callable[[], object], Callable[[], int]]:
    at = loop.time() + 60
    timers = [loop.call_at(at, _nothing) for _ in range(n)]

    async def turn() -> None:
        return None

    def expire() -> int:
        for timer in timers:
            timer.cancel()
        soon = loop.time()
        due = [loop.call_at(soon, _nothing) for _ in range(n)]
        began = time.perf_counter_ns()
        loop.run_until_complete(asyncio.sleep(0.001))
        took = time.perf_counter_ns() - began
        due.clear()
        loop.close()
        return took

    return timers, lambda: loop.run_until_complete(turn()), expire


def _nothing() -> None:
    return None

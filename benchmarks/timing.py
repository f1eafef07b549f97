"""Time contenders against each other: round-robin, many short rounds, medians.

Neighbours on the machine make single figures useless: they move by a factor
of two within minutes. In one round every contender runs once, a few
milliseconds each, so all of them meet the same neighbours; ratios are taken
within a round, and the median over the rounds is what is reported.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Contender",
    "Effort",
    "Row",
    "measure",
    "ratio_of_means",
    "row",
    "statement",
    "without_gc",
]

Ratio = Callable[[Sequence[float], Sequence[float]], float | None]


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    rounds: int
    """Rounds per topic."""
    slice_ns: int
    """What one contender may take in one round."""
    probe_rounds: int
    """Latencies taken per kind of probe."""
    burst: int
    """How many aprobes run at once."""
    burst_rounds: int
    few: int
    """Connections of the busy echo."""
    many: int
    """Connections of the echo that is mostly idle."""
    backlog: int
    """Connections that wait to be accepted."""
    serve_rounds: int
    wide_rounds: int
    """The same, where each round connects thousands."""
    serve_ms: int
    """What one server may take in one round."""
    tracked: int
    """Connections in the largest deadline table."""
    stuck: int
    """Connections of each server that a Guard is to end."""


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str
    run: Callable[[int], float]
    """Do it so many times, return the nanoseconds."""
    twin: str | None = None
    """The row that does the same on the pure path."""
    interpreted: bool = True
    """Called from a Python loop, whose own cost is subtracted."""


@dataclass(frozen=True)
class Row:
    """What came out for one contender; times are nanoseconds."""

    name: str
    median: float
    mean: float
    low: float
    """10 % of the rounds were faster."""
    high: float
    """10 % of the rounds were slower."""
    to_limit: float | None
    """This / limit."""
    to_pure: float | None
    """Pure twin / this."""
    rounds: int
    cpu: float | None = None
    """CPU time of this process per call, where it was taken."""
    note: str = ""
    user: float | None = None
    """How the median divides, where the row is CPU time."""
    system: float | None = None


def statement(code: str, names: Mapping[str, object]) -> Callable[[int], float]:
    """Return a loop over a Python statement, as the timeit module writes it."""
    timer = timeit.Timer(code, timer=time.perf_counter_ns, globals=dict(names))
    return timer.timeit


_EMPTY = Contender("empty Python loop", statement("pass", {}))


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Keep the cyclic collector out of a measurement."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def measure(contenders: Sequence[Contender], effort: Effort, limit: str) -> list[Row]:
    """Run all contenders round-robin and compare each with the one named `limit`."""
    everyone = [_EMPTY, *contenders]
    with without_gc():
        repeats = [_calibrated(contender, effort.slice_ns) for contender in everyone]
        taken: list[list[float]] = [[] for _ in everyone]
        for turn in range(effort.rounds):
            for step in range(len(everyone)):
                which = (turn + step) % len(everyone)  # nobody always runs after the same one
                spent = everyone[which].run(repeats[which])
                taken[which].append(spent / repeats[which])
    empty, rest = taken[0], taken[1:]
    series = {
        contender.name: [
            max(0.0, time_ - loop) if contender.interpreted else time_
            for time_, loop in zip(times, empty, strict=True)
        ]
        for contender, times in zip(contenders, rest, strict=True)
    }
    return [row(one.name, series, limit=limit, twin=one.twin) for one in contenders]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float | None:
    """Compare within each round: both were taken a few milliseconds apart."""
    ratios = [a / b for a, b in zip(over, under, strict=True) if b > 0]
    return statistics.median(ratios) if ratios else None


def ratio_of_means(over: Sequence[float], under: Sequence[float]) -> float | None:
    """Compare samples that chance spreads, such as waits for a timer tick."""
    below = statistics.mean(under)
    return statistics.mean(over) / below if below > 0 else None


def row(
    name: str,
    series: Mapping[str, Sequence[float]],
    *,
    limit: str | None,
    twin: str | None = None,
    ratio: Ratio = median_ratio,
    cpu: float | None = None,
    note: str = "",
) -> Row:
    """Summarise one of several series that were taken round-robin."""
    times = series[name]
    return Row(
        name=name,
        median=statistics.median(times),
        mean=statistics.mean(times),
        low=_quantile(times, 0.1),
        high=_quantile(times, 0.9),
        to_limit=None if limit is None else ratio(times, series[limit]),
        to_pure=None if twin is None else ratio(series[twin], times),
        rounds=len(times),
        cpu=cpu,
        note=note,
    )


def _calibrated(contender: Contender, slice_ns: int) -> int:
    """Warm up, and find how many repetitions fill a slice."""
    repeats = 1
    while True:
        spent = contender.run(repeats)
        if spent * 2 >= slice_ns or repeats >= 1_000_000:
            return max(1, round(repeats * slice_ns / max(spent, 1.0)))
        repeats *= 2


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[round(share * (len(ordered) - 1))]

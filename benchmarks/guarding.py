"""What a Guard costs the server beside it, and what it costs itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .processes import Load, Programs, Served
from .timing import row
from .topic import Bench, Facts, Goal, Topic

__all__ = ["guard"]

_SERVERS = {"echo": "asyncio echo", "uvicorn": "uvicorn", "gunicorn": "gunicorn, 4 threads"}
_MILLION = 1_000_000
_LIMIT_S = 60


@dataclass(frozen=True)
class _Pair:
    """The same server twice."""

    kind: str
    plain: Served
    guarded: Served


@dataclass(frozen=True)
class _Spent:
    """What was spent while every connection was looked at again and again."""

    looks: int
    look_us: float
    passes: int
    pass_us: float
    share: float


def guard(bench: Bench) -> Topic:
    """Measure requests with and without a Guard, and the Guard's own CPU."""
    kinds = [k for k in _SERVERS if k == "echo" or importlib.util.find_spec(k) is not None]
    series: dict[str, list[float]] = {}
    with Programs.compiled() as programs:
        with contextlib.ExitStack() as stack:
            pairs = [
                _Pair(
                    kind,
                    stack.enter_context(_serving(kind, "plain")),
                    stack.enter_context(_serving(kind, "guard")),
                )
                for kind in kinds
            ]
            for turn in range(bench.effort.serve_rounds):
                for pair in pairs:
                    for guarded in (turn % 2 == 0, turn % 2 == 1):
                        name = _name(pair.kind, guarded=guarded)
                        server = pair.guarded if guarded else pair.plain
                        taken = _round(bench, programs, pair.kind, server)
                        series.setdefault(name, []).append(taken)
        looks = _looks(bench, programs)
    rows = []
    for kind in kinds:
        plain = _name(kind, guarded=False)
        rows.append(row(plain, series, limit=plain))
        rows.append(row(_name(kind, guarded=True), series, limit=plain))
    return Topic(
        key="guard",
        title=f"a Guard beside a server: time per request, {bench.effort.few} connections",
        limit="the same server without a Guard",
        rows=rows,
        notes=(
            (
                "Guard(never_spoke=60, unanswered=60, answered=60); clients are plain C on a core "
                "of their own."
            ),
        ),
        goals=[_goal(looks["c"])],
        facts=_facts(looks, bench.effort.many),
    )


def _name(kind: str, *, guarded: bool) -> str:
    return f"{_SERVERS[kind]}, {'guarded' if guarded else 'alone'}"


@contextlib.contextmanager
def _serving(kind: str, how: str, *, pure: bool = False) -> Iterator[Served]:
    environment = dict(os.environ, STILLALIVE_IMPL="pure" if pure else "c")
    command = [sys.executable, "-m", "benchmarks.guarded_servers", kind, how]
    with Served(command, 0, environment) as served:
        served.port = int(served.line())
        yield served


def _round(bench: Bench, programs: Programs, kind: str, server: Served) -> float:
    """Return the nanoseconds per request."""
    few = bench.effort.few
    way, size = ("echo", 64) if kind == "echo" else ("http", 0)
    with Load(programs, [way, server.port, few, few, size, bench.effort.serve_ms]) as load:
        load.begin()
        made, took = load.result()
    server.settle()
    return took / made


def _looks(bench: Bench, programs: Programs) -> dict[str, _Spent]:
    """Measure a Guard and the looks alone in turn, the pure twin once; return the median ones."""
    guarded, alone = [], []
    for _ in range(bench.effort.serve_rounds // 3 or 1):
        guarded.append(_spent(bench, programs, "stats"))
        alone.append(_spent(bench, programs, "limit"))
    return {
        "c": _median(guarded),
        "plain C": _median(alone),
        "pure": _spent(bench, programs, "stats", pure=True),
    }


def _median(found: list[_Spent]) -> _Spent:
    return sorted(found, key=lambda spent: spent.look_us)[len(found) // 2]


def _spent(bench: Bench, programs: Programs, how: str, *, pure: bool = False) -> _Spent:
    """Let thousands of connections talk, so that each is looked at every two seconds."""
    many = bench.effort.many
    ms = bench.effort.serve_ms * 12
    with (
        _serving("echo", how, pure=pure) as server,
        Load(programs, ["echo", server.port, many, many, 64, ms]) as load,
    ):
        load.begin()
        before, began = _stats(server), time.monotonic()
        load.result()
        after, took = _stats(server), time.monotonic() - began
    difference = {key: after[key] - before[key] for key in before}
    looking = difference["cpu_us"] - difference["pass_cpu_us"]
    looks, passes = difference["looks"], difference["passes"]
    return _Spent(
        looks=looks,
        look_us=looking / max(1, looks),
        passes=passes,
        pass_us=difference["pass_cpu_us"] / max(1, passes),
        share=difference["cpu_us"] / 1e6 / took,
    )


def _stats(server: Served) -> dict[str, int]:
    server.tell("stats")
    found: dict[str, int] = json.loads(server.line())
    return found


def _per_million(spent: _Spent) -> float:
    """Return the per cent of a core for looking at a million, once in each limit."""
    return spent.look_us * _MILLION / _LIMIT_S / 1e6 * 100


def _goal(spent: _Spent) -> Goal:
    text = f"guard: % of a core per {_MILLION:,} connections with {_LIMIT_S} s limits"
    return Goal(text, _per_million(spent), 2.5)


def _facts(looks: dict[str, _Spent], connections: int) -> Facts:
    def line(what: str, show: Callable[[_Spent], str]) -> tuple[str, ...]:
        return (what, *map(show, looks.values()))

    return Facts(
        title=f"a Guard's own CPU, {connections:,} busy connections, limits of 2 s",
        columns=("", *looks),
        rows=[
            line("looks", lambda spent: f"{spent.looks:,}"),
            line("CPU per look", lambda spent: f"{spent.look_us:.2f} us"),
            line(
                "CPU per discovery pass",
                lambda spent: f"{spent.pass_us:,.0f} us" if spent.passes else "",
            ),
            line("all of it, of a core", lambda spent: f"{spent.share:.2%}"),
            line(
                f"a million connections, {_LIMIT_S} s limits, of a core",
                lambda spent: f"{_per_million(spent):.2f} %",
            ),
        ],
        notes=(
            (
                "Plain C is a thread that asks the same connections for TCP_INFO as often, in "
                "random order, and nothing else. The server has one core, which it fills."
            ),
            "Discovery has 1 % of a core at most, whatever the number of descriptors.",
        ),
    )

"""Whole servers: CPU per echoed message, and accepting storms of connections."""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .processes import Load, Programs, Served, serving
from .timing import Row, row
from .topic import Bench, Facts, Goal, Topic

__all__ = ["accept", "echo", "echo_idle"]

_BYTES = 64
_LIMIT = "plain C, epoll, idle timeout by scan"
_OURS = "c: Server(idle_timeout=60)"
_PURE = "pure: Server(idle_timeout=60)"
_UVLOOP = "uvloop protocol, no timeout"


@dataclass(frozen=True)
class _Kind:
    name: str
    kind: str
    pure: bool = False
    twin: str | None = None
    wide: bool = True
    """Taken with thousands of connections, too."""
    needs: str = ""
    """What must be installed."""

    @property
    def possible(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


_KINDS = (
    _Kind(_LIMIT, "limit"),
    _Kind(_OURS, "stillalive", twin=_PURE),
    _Kind(_PURE, "stillalive", pure=True),
    _Kind("our Selector(idle_timeout=60), Python recv and send", "stillalive-selector"),
    _Kind("selectors + heap, Python recv and send", "heap"),
    _Kind(_UVLOOP, "uvloop", needs="uvloop"),
    _Kind("uvloop protocol, stamp + scan", "uvloop-stamp", needs="uvloop"),
    _Kind("uvloop protocol, call_later per message", "uvloop-timer", needs="uvloop"),
    _Kind("uvloop streams, asyncio.timeout per read", "uvloop-streams", wide=False, needs="uvloop"),
    _Kind("gevent StreamServer, no timeout", "gevent", needs="gevent"),
    _Kind("gevent StreamServer, Timeout per read", "gevent-timeout", needs="gevent"),
    _Kind("asyncio protocol, no timeout", "asyncio"),
    _Kind("asyncio protocol, no timeout, on our Selector", "asyncio-our-selector", wide=False),
    _Kind("asyncio protocol, stamp + scan", "asyncio-stamp"),
    _Kind("asyncio protocol, call_later per message", "asyncio-timer"),
    _Kind("asyncio streams, asyncio.timeout per read", "asyncio-streams", wide=False),
)


@dataclass
class _Taken:
    """What the rounds of one server gave; nanoseconds of CPU per message."""

    user: list[float] = field(default_factory=list)
    system: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        return [user + system for user, system in zip(self.user, self.system, strict=True)]


def echo(bench: Bench) -> Topic:
    """Measure 100 connections that all have a message on its way."""
    kinds = [kind for kind in _KINDS if kind.possible]
    few = bench.effort.few
    return _echo(bench, "echo", few, few, kinds, bench.effort.serve_rounds)


def echo_idle(bench: Bench) -> Topic:
    """Measure thousands of connections of which one in a hundred is active."""
    kinds = [kind for kind in _KINDS if kind.possible and kind.wide]
    many = bench.effort.many
    return _echo(bench, "echo-idle", many, max(1, many // 100), kinds, bench.effort.wide_rounds)


def _echo(
    bench: Bench, key: str, connections: int, active: int, kinds: Sequence[_Kind], rounds: int
) -> Topic:
    taken = {kind.name: _Taken() for kind in kinds}
    with Programs.compiled() as programs, contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(serving(programs, kind.kind, pure=kind.pure)) for kind in kinds
        ]
        for turn in range(rounds):
            for step in range(len(kinds)):
                which = (turn + step) % len(kinds)
                arguments = ["echo", served[which].port, connections, active, _BYTES]
                arguments.append(bench.effort.serve_ms)
                _one_round(programs, served[which], taken[kinds[which].name], arguments)
    rows = [_echo_row(kind, taken) for kind in kinds]
    return Topic(
        key=key,
        title=f"echo of {_BYTES} bytes, {connections} connections, {active} active: "
        "CPU of the server per message",
        limit=_LIMIT,
        rows=rows,
        notes=(
            "User and system time of the server's process; its clients are plain C.",
            "All servers run all the time; only one at a time has connections.",
        ),
        goals=_echo_goals(rows, f"{key}: "),
        facts=_split(taken, f"echo, {connections} connections, {active} active: where it goes"),
    )


def _echo_row(kind: _Kind, taken: dict[str, _Taken]) -> Row:
    totals = {name: one.total for name, one in taken.items()}
    made = row(kind.name, totals, limit=_LIMIT, twin=kind.twin)
    user, system = (
        statistics.median(times) for times in (taken[kind.name].user, taken[kind.name].system)
    )
    share = user / (user + system)
    return replace(made, user=made.median * share, system=made.median * (1 - share))


def _one_round(
    programs: Programs, served: Served, taken: _Taken, arguments: Sequence[object]
) -> None:
    """Let one client work on one server, which rests before and after."""
    with Load(programs, arguments) as load:
        load.begin()
        before = served.cpu()
        made, took = load.result()
        after = served.cpu()
    served.settle()
    user, system = after.since(before)
    taken.user.append(user / made)
    taken.system.append(system / made)
    taken.rate.append(made * 1e9 / took)


def _echo_goals(rows: Sequence[Row], label: str) -> list[Goal]:
    found = {one.name: one for one in rows}
    ours, rival = found[_OURS], found.get(_UVLOOP)
    goals = []
    if ours.to_limit is not None:
        goals.append(Goal(f"{label}{_OURS} / {_LIMIT}", ours.to_limit, 1.15))
    if rival is not None and rival.median > 0:
        goals.append(Goal(f"{label}{_OURS} / {_UVLOOP}", ours.median / rival.median, 1.0))
    return goals


def _split(taken: dict[str, _Taken], title: str, what: str = "messages") -> Facts:
    return Facts(
        title=title,
        columns=("", "user", "system", f"{what} a second"),
        rows=[
            (
                name,
                f"{statistics.median(one.user) / 1000:.2f} us",
                f"{statistics.median(one.system) / 1000:.2f} us",
                f"{statistics.median(one.rate):,.0f}",
            )
            for name, one in taken.items()
        ],
        notes=("Medians over the rounds; server and clients have a core each.",),
    )


# ---- accept ----------------------------------------------------------------------------------

_HAND = "plain Python: accept, four setsockopt, register"
_ACCEPT_KINDS = (
    _Kind("plain C, listener tuned, accept4 and epoll_ctl", "limit"),
    _Kind(_OURS, "stillalive", twin=_PURE),
    _Kind(_PURE, "stillalive", pure=True),
    _Kind("our Selector, Python accept, listener tuned", "stillalive-selector"),
    _Kind(_HAND, "heap-tuned"),
    _Kind("uvloop, keepalive left as it is", "uvloop", needs="uvloop"),
    _Kind("gevent, keepalive left as it is", "gevent", needs="gevent"),
    _Kind("asyncio, keepalive left as it is", "asyncio"),
)
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


def accept(bench: Bench) -> Topic:
    """Measure taking connections that wait in the backlog, and a storm of resets."""
    kinds = [kind for kind in _ACCEPT_KINDS if kind.possible]
    waiting = min(bench.effort.backlog, int(_SOMAXCONN.read_text()))
    filled: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    with Programs.compiled() as programs:
        for turn in range(bench.effort.serve_rounds):
            for step in range(len(kinds)):
                kind = kinds[(turn + step) % len(kinds)]
                filled[kind.name].append(_fill(programs, kind, waiting))
        storms = _storms(bench, programs, kinds)
    rows = [row(one.name, filled, limit=kinds[0].name, twin=one.twin) for one in kinds]
    return Topic(
        key="accept",
        title=f"accept: {waiting} connections that wait, CPU for each",
        limit=kinds[0].name,
        rows=rows,
        notes=_accept_notes(bench.effort.backlog, waiting),
        goals=_accept_goals(rows),
        facts=_split(storms, "accept: connect and reset as fast as one client can", "connections"),
    )


def _accept_notes(wanted: int, waiting: int) -> list[str]:
    notes = [
        (
            "Accepted, keepalive set or inherited, registered with an idle timeout, told to the "
            "protocol; the clients do nothing meanwhile. uvloop, gevent and asyncio neither tune "
            "nor time."
        )
    ]
    if waiting < wanted:
        notes.append(f"net.core.somaxconn lets {waiting} wait here, not {wanted}.")
    return notes


def _fill(programs: Programs, kind: _Kind, wanted: int) -> float:
    """Let connections wait, then the server take them; it says what CPU that took."""
    with (
        serving(programs, kind.kind, pure=kind.pure, accept=wanted) as served,
        Load(programs, ["fill", served.port, wanted]) as load,
    ):
        load.begin()
        served.tell("accept")
        return int(served.line()) / wanted


def _storms(bench: Bench, programs: Programs, kinds: Sequence[_Kind]) -> dict[str, _Taken]:
    taken = {kind.name: _Taken() for kind in kinds}
    with contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(serving(programs, kind.kind, pure=kind.pure)) for kind in kinds
        ]
        for turn in range(bench.effort.wide_rounds):
            for step in range(len(kinds)):
                which = (turn + step) % len(kinds)
                arguments = ["storm", served[which].port, bench.effort.serve_ms]
                _one_round(programs, served[which], taken[kinds[which].name], arguments)
    return taken


def _accept_goals(rows: Sequence[Row]) -> list[Goal]:
    found = {one.name: one.median for one in rows}
    return [
        Goal(f"accept: {_OURS} / {rival}", found[_OURS] / found[rival], 0.33)
        for rival in (_PURE, _HAND)
    ]

"""Try the package on real loopback connections, and measure how fast an answer comes."""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .. import _systems
from .._errors import NotSupportedError
from ..liveness import Liveness, State, aprobe, check, probe
from ..tuning import describe, tune
from ._examine import OPTION_NAMES, options_of
from ._groups import can_vanish, drop_everything
from ._words import counted, latency, seconds

__all__ = ["Step", "self_check"]

_PAIRS = 20
_WITHIN = 30
_QUIET = 1.1
"""Longer than the second for which a segment is taken for an answer."""
_SILENCE = 1.0

Pair = tuple[socket.socket, socket.socket]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried; `seconds` is the measured latency, where there is one."""

    name: str
    ok: bool
    detail: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """Connections that have been quiet long enough; the vanished one's peer drops everything."""

    pairs: list[Pair]
    vanished: Pair | None


Finding = tuple[bool, str, float | None]
"""(ok, detail, latency in seconds)"""


def self_check() -> list[Step]:
    """Try every call; a step that raises has failed, and says why."""
    with ExitStack() as stack:
        try:
            pairs = [stack.enter_context(_pair()) for _ in range(_PAIRS)]
            vanished = stack.enter_context(_pair()) if can_vanish() else None
        except OSError as error:
            return [Step("connect", False, f"no connection on loopback: {error}")]
        if vanished is not None:
            drop_everything(vanished[1], True)
        time.sleep(_QUIET)
        bench = Bench(pairs, vanished)
        asks = _systems.system().call("probe").supported
        steps = [
            _tried(name, attempt, bench)
            for name, attempt in _ATTEMPTS.items()
            if asks or name != "probe"
        ]
        if vanished is not None and asks:
            steps.append(_tried("vanished peer", _vanished, bench))
            drop_everything(vanished[1], False)
        return steps


def _tried(name: str, attempt: Callable[[Bench], Finding], bench: Bench) -> Step:
    try:
        return Step(name, *attempt(bench))
    except OSError as error:
        return Step(name, False, error.strerror or str(error))


def _tuned(bench: Bench) -> Finding:
    sock = bench.pairs[0][0]
    try:
        held = tune(sock, detect_within=_WITHIN)
    except NotSupportedError:
        held = tune(sock, detect_within=_WITHIN, best_effort=True)
    found = describe(sock)
    shown = [(getattr(held, name), getattr(found, name)) for name in OPTION_NAMES]
    same = all(mine == theirs or theirs is None for mine, theirs in shown)
    bounds = (found.detects_idle_within, found.detects_in_flight_within)
    in_time = all(bound is not None and bound <= _WITHIN for bound in bounds)
    # What is pending is not the kernel's yet.
    in_time = in_time or held.pending or bool(held.unsupported)
    idle, in_flight = ("never" if bound is None else seconds(bound) for bound in bounds)
    text = f"detect_within={_WITHIN}: idle {idle}, in flight {in_flight}"
    text += "; the count is pending" if held.pending else ""
    return same and in_time, text if same else f"{text}; not what was read back", None


def _answers(bench: Bench) -> Finding:
    asked = [mine for mine, _ in bench.pairs]
    before = [options_of(sock) for sock in asked]
    found = asyncio.run(_ask(asked))
    unchanged = before == [options_of(sock) for sock in asked]
    times = [liveness.elapsed for liveness in found]
    right = sum(liveness.state is State.ALIVE and liveness.asked > 0 for liveness in found)
    text = (
        f"{counted(right, len(found))} peers answered, median "
        f"{latency(statistics.median(times))}, slowest {latency(max(times))}; options "
        + ("unchanged" if unchanged else "CHANGED")
    )
    return unchanged and right == len(found), text, statistics.median(times)


async def _ask(socks: list[socket.socket]) -> list[Liveness]:
    return await asyncio.gather(*(aprobe(sock, timeout=3) for sock in socks))


def _closed(bench: Bench) -> Finding:
    mine, theirs = bench.pairs[1]
    theirs.sendall(b"unread")
    theirs.close()
    return _seen(mine, State.PEER_CLOSED)


def _reset(bench: Bench) -> Finding:
    mine, theirs = bench.pairs[2]
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    return _seen(mine, State.RESET)


def _seen(sock: socket.socket, right: State) -> Finding:
    began = time.perf_counter()
    found = check(sock)
    elapsed = time.perf_counter() - began
    return found.state is right, f"{found.reason}, in {latency(elapsed)}", elapsed


def _vanished(bench: Bench) -> Finding:
    assert bench.vanished is not None
    found = probe(bench.vanished[0], timeout=_SILENCE)
    return found.state is State.SILENT, found.reason, found.elapsed


_ATTEMPTS = {
    "tune": _tuned,
    "probe": _answers,
    "closed peer": _closed,
    "reset peer": _reset,
}


@contextmanager
def _pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = socket.create_connection(listener.getsockname(), timeout=5)
        theirs, _ = listener.accept()
    with mine, theirs:
        yield mine, theirs

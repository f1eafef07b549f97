"""Asking the peer's kernel: how long an answered probe takes, and how much CPU."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import stillalive
from stillalive import Liveness
from stillalive._backend import Backend

from .checking import by_peek, by_poll
from .sockets import Pair, pairs, using
from .timing import Row, ratio_of_means, row, without_gc
from .topic import Bench, Topic

__all__ = ["probe"]

_LIMIT = "raw C, KEEPIDLE and spin on TCP_INFO"
_IDLE_S = 1.25  # the kernel sends no probe before one second of silence
_PHASES_S = 0.01  # a tick of the slowest kernel
_ASKS, _ASKS_NOT = "asks the peer", "does not ask the peer"

Sample = tuple[int, int]
"""Nanoseconds that passed, and CPU nanoseconds of this process."""


@dataclass(frozen=True)
class _Way:
    name: str
    sample: Callable[[Pair], Sample]
    twin: str | None = None
    note: str = _ASKS


def probe(bench: Bench) -> Topic:
    """Measure probes of connections that have been idle for more than a second."""
    effort = bench.effort
    loop = asyncio.new_event_loop()
    try:
        ways = _ways(bench, loop)
        with pairs(max(effort.probe_rounds * len(ways), 2 * effort.burst)) as idle, without_gc():
            time.sleep(_IDLE_S)
            rows = _one_by_one(ways, idle, effort.probe_rounds)
            bursts = list(_bursts(bench, loop, idle))
    finally:
        loop.close()
    return Topic(
        key="probe",
        title="probe: ask the peer's kernel on an idle connection",
        limit=_LIMIT,
        rows=[*rows, *bursts],
        notes=(
            (
                "An answer needs the kernel's next timer tick, 1 to 10 ms by its HZ: that is what "
                "the limit waits for, on the CPU all the while; probe sleeps and looks."
            ),
            (
                "Ratios are of the means here: where in a tick a probe begins is chance, and "
                "between its looks probe sleeps, longer and longer."
            ),
            (
                "CPU is that of this process per probe. A burst row is the time of all "
                f"{effort.burst} aprobes together, its CPU that of one of them."
            ),
        ),
    )


def _ways(bench: Bench, loop: asyncio.AbstractEventLoop) -> list[_Way]:
    def sync(backend: Backend) -> Callable[[Pair], Sample]:
        return lambda ends: _probe(backend, ends)

    def coroutine(backend: Backend) -> Callable[[Pair], Sample]:
        return lambda ends: loop.run_until_complete(_aprobe(backend, ends))

    return [
        _Way(_LIMIT, lambda ends: _raw(bench, ends)),
        _Way("c: probe(sock)", sync(bench.compiled), twin="pure: probe(sock)"),
        _Way("pure: probe(sock)", sync(bench.pure)),
        _Way("c: await aprobe(sock)", coroutine(bench.compiled), twin="pure: await aprobe(sock)"),
        _Way("pure: await aprobe(sock)", coroutine(bench.pure)),
        _Way("select.poll + recv(MSG_PEEK)", _look_only, note=_ASKS_NOT),
    ]


def _raw(bench: Bench, ends: Pair) -> Sample:
    idle_before = ends[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    cpu = time.process_time_ns()
    took = bench.native.probe(ends[0].fileno(), idle_before, 3000)
    return took, time.process_time_ns() - cpu


def _probe(backend: Backend, ends: Pair) -> Sample:
    with using(backend):
        cpu, began = time.process_time_ns(), time.perf_counter_ns()
        found = stillalive.probe(ends[0])
        took, cpu = time.perf_counter_ns() - began, time.process_time_ns() - cpu
    _must_have_answered(found)
    return took, cpu


async def _aprobe(backend: Backend, ends: Pair) -> Sample:
    with using(backend):
        cpu, began = time.process_time_ns(), time.perf_counter_ns()
        found = await stillalive.aprobe(ends[0])
        took, cpu = time.perf_counter_ns() - began, time.process_time_ns() - cpu
    _must_have_answered(found)
    return took, cpu


def _look_only(ends: Pair) -> Sample:
    cpu, began = time.process_time_ns(), time.perf_counter_ns()
    by_poll(ends[0])
    by_peek(ends[0])
    return time.perf_counter_ns() - began, time.process_time_ns() - cpu


def _must_have_answered(found: Liveness) -> None:
    if found.state is not stillalive.State.ALIVE or found.asked < 1:
        raise OSError(errno.ETIMEDOUT, f"{os.strerror(errno.ETIMEDOUT)}: {found!r}")


def _one_by_one(ways: Sequence[_Way], idle: Sequence[Pair], rounds: int) -> list[Row]:
    """Take one sample of each way in turn, every one on a connection of its own."""
    fresh = iter(idle)
    phase = random.Random(1)  # else each would begin where in the tick the one before ended
    taken: dict[str, list[Sample]] = {way.name: [] for way in ways}
    for turn in range(rounds):
        for step in range(len(ways)):
            way = ways[(turn + step) % len(ways)]
            time.sleep(phase.uniform(0, _PHASES_S))
            taken[way.name].append(way.sample(next(fresh)))
    times = {name: [took for took, _ in samples] for name, samples in taken.items()}
    cpu = {name: sum(cpu for _, cpu in taken[name]) / rounds for name in taken}
    return [
        row(
            way.name,
            times,
            limit=_LIMIT,
            twin=way.twin,
            ratio=ratio_of_means,
            cpu=cpu[way.name],
            note=way.note,
        )
        for way in ways
    ]


def _bursts(bench: Bench, loop: asyncio.AbstractEventLoop, idle: Sequence[Pair]) -> Iterator[Row]:
    """Run many aprobes at once on one event loop, compiled and pure in turn."""
    number = bench.effort.burst
    names = {f"c: {number} aprobes at once": bench.compiled}
    names[f"pure: {number} aprobes at once"] = bench.pure
    compiled, pure = names
    taken: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(bench.effort.burst_rounds):
        time.sleep(_IDLE_S)
        halves = (idle[:number], idle[number : 2 * number])
        order = (compiled, pure) if turn % 2 == 0 else (pure, compiled)
        for name, half in zip(order, halves, strict=True):
            with using(names[name]):
                taken[name].append(loop.run_until_complete(_all_at_once(half)))
    times = {name: [took for took, _ in samples] for name, samples in taken.items()}
    for name, twin in ((compiled, pure), (pure, None)):
        cpu = sum(cpu for _, cpu in taken[name]) / len(taken[name]) / number
        yield row(name, times, limit=None, twin=twin, cpu=cpu, note=_ASKS)


async def _all_at_once(half: Sequence[Pair]) -> Sample:
    cpu, began = time.process_time_ns(), time.perf_counter_ns()
    found = await asyncio.gather(*(stillalive.aprobe(client) for client, _ in half))
    took, cpu = time.perf_counter_ns() - began, time.process_time_ns() - cpu
    for one in found:
        _must_have_answered(one)
    return took, cpu

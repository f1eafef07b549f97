"""A peer that is gone is told in time, and never earlier than the options say.

Every scenario has a connection of its own and they all run at once, so the module takes about as
long as its slowest one. A scenario states the moment its clock starts, the earliest and the latest
moment to be told; the tests compare.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

import stillalive

from .netlab import (
    Connection,
    Ending,
    NetLab,
    background_reader,
    fill,
    idle_death,
    receive_exactly,
    retransmission_timeout,
    small_buffers,
    tcp_option,
    user_timeout,
    wait_for_end,
)

# Room for a busy machine to wake the waiting thread; the kernel's own timers are finer.
ALLOWANCE = 0.5
# The kernel counts silence in whole ticks, so it may see one more than has passed.
TICK = 0.01
# How long after the promise a scenario keeps watching before it says "never told".
EXTRA_WATCH = 3.0
RESULT_TIMEOUT = 90.0


@dataclass(frozen=True)
class Tuning:
    """Arguments of one tune() call and the bound they promise (None: by the exact values)."""

    label: str
    keywords: dict[str, Any]
    promised: float | None = None

    def apply(self, sock: socket.socket) -> stillalive.KeepAlive:
        return stillalive.tune(sock, **self.keywords)

    @property
    def tolerated(self) -> float:
        """The longest outage that must not be told."""
        return (self.promised or 0.0) / 3

    def idle_bound(self, sock: socket.socket) -> float:
        return self.promised or idle_death(sock)

    def busy_bound(self, sock: socket.socket) -> float:
        # The user timeout starts with the second retransmission timer.
        return self.promised or user_timeout(sock) + 2 * retransmission_timeout(sock)


def within(seconds: float, **more: bool) -> Tuning:
    label = "-".join([f"within{seconds:g}", *more])
    return Tuning(label, {"detect_within": seconds, **more}, seconds)


EXPLICIT = Tuning("explicit", {"idle": 1, "interval": 1, "count": 3, "user_timeout": 2.5})
SPARING = within(16, spare_stalled=True)
KEEPALIVE_ONLY = Tuning("keepalive", {"idle": 1, "interval": 1, "count": 3, "user_timeout": 0})
# For the controls, which are watched as long as the slowest ordinary promise.
UNTUNED = Tuning("untuned", {}, 6)


@dataclass(frozen=True)
class Told:
    """What a scenario saw; `earliest` counts from its origin, `latest` from when the peer was gone.

    Sixty peers are cut at once, each by a command: the last of them may answer a probe yet.
    """

    ending: Ending | None
    origin: float
    gone: float
    earliest: float
    latest: float


@dataclass(frozen=True)
class Case:
    run: Callable[[NetLab, Tuning], Told]
    tuning: Tuning
    error: int | None
    nat: bool

    @property
    def name(self) -> str:
        return f"{self.run.__name__}-{self.tuning.label}"


CASES: list[Case] = []
Scenario = Callable[[NetLab, Tuning], Told]


def case(
    *tunings: Tuning, error: int | None = errno.ETIMEDOUT, nat: bool = False
) -> Callable[[Scenario], Scenario]:
    """Register a scenario to be run once per tuning."""

    def register(run: Scenario) -> Scenario:
        CASES.extend(Case(run, tuning, error, nat) for tuning in tunings)
        return run

    return register


def watch(
    sock: socket.socket, origin: float, earliest: float, latest: float, *, gone: float | None = None
) -> Told:
    """Wait for the end; without `gone` the peer has just been cut."""
    if gone is None:
        gone = time.monotonic()
    remaining = gone + latest + EXTRA_WATCH - time.monotonic()
    return Told(wait_for_end(sock, remaining), origin, gone, earliest, latest)


def watch_idle(sock: socket.socket, tuning: Tuning, origin: float) -> Told:
    return watch(sock, origin, max(tuning.tolerated, idle_death(sock)), tuning.idle_bound(sock))


def watch_busy(sock: socket.socket, tuning: Tuning, origin: float) -> Told:
    earliest = max(tuning.tolerated, user_timeout(sock))
    return watch(sock, origin, earliest, tuning.busy_bound(sock), gone=origin)


def last_exchange(connection: Connection) -> float:
    """Exchange data; the moment before it is a safe start for the clock of silence."""
    origin = time.monotonic()
    connection.exchange()
    return origin


@case(within(3), within(4), within(6), EXPLICIT, SPARING)
def idle_vanished(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.cut()
    return watch_idle(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def idle_vanished_ipv6(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(socket.AF_INET6)
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.cut()
    return watch_idle(connection.client, tuning, origin)


@case(within(6), EXPLICIT)
def tuned_before_connect(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(prepare=tuning.apply)
    origin = last_exchange(connection)
    connection.cut()
    return watch_idle(connection.client, tuning, origin)


@case(within(6), EXPLICIT)
def tuned_before_connect_one_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(prepare=tuning.apply)
    connection.cut()
    origin = time.monotonic()
    connection.client.sendall(b"x")
    return watch_busy(connection.client, tuning, origin)


@case(within(6), EXPLICIT)
def inherited_from_listener(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.connect(lab.listen(prepare=tuning.apply))
    origin = last_exchange(connection)
    connection.cut()
    return watch_idle(connection.server, tuning, origin)


@case(within(6), EXPLICIT)
def inherited_from_listener_one_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.connect(lab.listen(prepare=tuning.apply))
    connection.exchange()
    connection.cut()
    origin = time.monotonic()
    connection.server.sendall(b"x")
    return watch_busy(connection.server, tuning, origin)


@case(within(3), within(4), within(6), EXPLICIT, SPARING)
def one_unacked_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    connection.exchange()
    connection.cut()
    origin = time.monotonic()
    connection.client.sendall(b"x")
    return watch_busy(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def one_unacked_write_ipv6(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(socket.AF_INET6)
    tuning.apply(connection.client)
    connection.exchange()
    connection.cut()
    origin = time.monotonic()
    connection.client.sendall(b"x")
    return watch_busy(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def bulk_transfer(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    with background_reader(connection.server) as reader:
        send_until(connection.client, time.monotonic() + 0.5)
        origin = time.monotonic()
        connection.cut()
        gone = time.monotonic()
        latest = tuning.busy_bound(connection.client)
        ending = send_until(connection.client, gone + latest + EXTRA_WATCH)
    if not reader.received:
        raise AssertionError("the transfer was not in progress when the peer vanished")
    return Told(ending, origin, gone, user_timeout(connection.client), latest)


def send_until(sock: socket.socket, deadline: float) -> Ending | None:
    """Send blocks as an application does, until the deadline or the end of the connection."""
    sock.settimeout(0.05)
    block = os.urandom(1 << 16)
    while time.monotonic() < deadline:
        ending = wait_for_end(sock, 0.005)
        if ending is not None:
            return ending
        try:
            sock.send(block)
        except TimeoutError as exc:
            # A full buffer has no errno; the end of the connection has.
            if exc.errno:
                return Ending(time.monotonic(), exc.errno)
        except OSError as exc:
            return Ending(time.monotonic(), exc.errno or 0)
    return None


@case(within(4), within(6), EXPLICIT)
def writes_into_the_void(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    sock = connection.client
    tuning.apply(sock)
    connection.exchange()
    connection.cut()
    origin = time.monotonic()
    sock.sendall(b"x")
    earliest, latest = user_timeout(sock), tuning.busy_bound(sock)
    ending = None
    while ending is None and time.monotonic() < origin + latest + EXTRA_WATCH:
        ending = wait_for_end(sock, 0.4)
        try:
            if ending is None:
                sock.sendall(b"x")
        except OSError as exc:
            ending = Ending(time.monotonic(), exc.errno or 0)
    return Told(ending, origin, gone=origin, earliest=earliest, latest=latest)


@case(within(4), within(6), EXPLICIT)
def late_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    sock = connection.client
    policy = tuning.apply(sock)
    origin = last_exchange(connection)
    connection.cut()
    gone = time.monotonic()
    delay = idle_death(sock) - 0.5
    # What is left of an explicit tuning is the sum of its two exact bounds.
    latest = idle_death(sock) + tuning.busy_bound(sock)
    if tuning.promised is not None:
        latest = policy.detects_any_within or math.inf
        if latest > 2 * tuning.promised:
            raise AssertionError(f"detects_any_within={latest} is more than the sum of two bounds")
    earliest = delay + user_timeout(sock)
    time.sleep(max(0.0, origin + delay - time.monotonic()))
    sock.sendall(b"x")
    return watch(sock, origin, earliest, latest, gone=gone)


@case(within(4), within(6), EXPLICIT)
def half_closed_by_us(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.client.shutdown(socket.SHUT_WR)
    if receive_exactly(connection.server, 1):
        raise AssertionError("the server got data where the end of the stream belongs")
    connection.settle()
    connection.cut()
    return watch_idle(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def half_closed_by_peer(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.server.shutdown(socket.SHUT_WR)
    if receive_exactly(connection.client, 1):
        raise AssertionError("the client got data where the end of the stream belongs")
    connection.settle()
    connection.cut()
    return watch_idle(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def fin_unacked(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    connection.exchange()
    connection.cut()
    origin = time.monotonic()
    connection.client.shutdown(socket.SHUT_WR)
    return watch_busy(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def return_path_cut(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.cut_return()
    return watch_idle(connection.client, tuning, origin)


@case(within(4), within(6), EXPLICIT)
def unreachable_reported_by_icmp(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.make_unreachable()
    return watch_idle(connection.client, tuning, origin)


@case(within(6), nat=True)
def nat_expired_silent(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    return watch_idle(connection.client, tuning, origin)


@case(within(6), error=errno.ECONNRESET, nat=True)
def nat_expired_with_reset(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(nat_resets=True)
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    first_probe = tcp_option(connection.client, socket.TCP_KEEPIDLE)
    return watch(connection.client, origin, first_probe, first_probe)


@case(within(4), within(6), nat=True)
def nat_expired_before_tuning(lab: NetLab, tuning: Tuning) -> Told:
    """The deadline passed before the tuning: it can only count from there."""
    connection = lab.open()
    time.sleep((tuning.promised or 0) + 1)
    origin = time.monotonic()
    policy = tuning.apply(connection.client)
    if not policy.pending:
        raise AssertionError("tuning a connection idle beyond its deadline is not pending")
    return watch(connection.client, origin, 0, tuning.idle_bound(connection.client), gone=origin)


@case(within(4), within(6), EXPLICIT)
def slow_path_idle(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(rtt=0.3)
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.cut()
    # The last sign of life is the end of an exchange that takes three round trips here.
    heard = time.monotonic()
    told = watch_idle(connection.client, tuning, heard)
    return replace(told, earliest=told.earliest - (heard - origin))


@case(within(4), within(6), EXPLICIT)
def slow_path_one_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open(rtt=0.3)
    connection.exchange()
    tuning.apply(connection.client)
    connection.cut()
    latest = tuning.busy_bound(connection.client)
    origin = time.monotonic()
    connection.client.sendall(b"x")
    return watch(connection.client, origin, user_timeout(connection.client), latest)


@case(within(4), within(6), EXPLICIT, error=errno.ECONNRESET)
def rebooted_idle(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    origin = last_exchange(connection)
    connection.reboot_server()
    first_probe = tcp_option(connection.client, socket.TCP_KEEPIDLE)
    return watch(connection.client, origin, first_probe, first_probe)


@case(within(4), within(6), EXPLICIT, error=errno.ECONNRESET)
def rebooted_one_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    tuning.apply(connection.client)
    connection.exchange()
    connection.reboot_server()
    origin = time.monotonic()
    connection.client.sendall(b"x")
    return watch(connection.client, origin, 0, 0.1, gone=origin)


@case(SPARING)
def stalled_then_vanished(lab: NetLab, tuning: Tuning) -> Told:
    """The peer stops reading, and later vanishes with its window shut."""
    listener = lab.listen(prepare=small_buffers)
    connection = lab.connect(listener, small_buffers)
    tuning.apply(connection.client)
    connection.exchange()
    fill(connection.client)
    time.sleep(2)
    origin = time.monotonic()
    connection.cut()
    return watch(connection.client, origin, 0, tuning.idle_bound(connection.client))


@case(UNTUNED, error=None)
def control_idle(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    connection.cut()
    return watch(connection.client, time.monotonic(), 0, tuning.promised or 0)


@case(UNTUNED, error=None)
def control_one_write(lab: NetLab, tuning: Tuning) -> Told:
    connection = lab.open()
    connection.cut()
    connection.client.sendall(b"x")
    return watch(connection.client, time.monotonic(), 0, tuning.promised or 0)


@case(KEEPALIVE_ONLY, error=None)
def control_one_write_under_keepalive(lab: NetLab, tuning: Tuning) -> Told:
    """Keepalive alone does not see a peer that vanishes with data in flight."""
    connection = lab.open()
    tuning.apply(connection.client)
    connection.cut()
    connection.client.sendall(b"x")
    return watch(connection.client, time.monotonic(), 0, idle_death(connection.client))


@pytest.fixture(scope="module")
def outcomes(lab: NetLab, nat_lab: NetLab) -> Iterator[dict[str, Future[Told]]]:
    """Start every scenario; the tests wait each for its own."""
    with ThreadPoolExecutor(max_workers=len(CASES)) as pool:
        yield {
            case.name: pool.submit(case.run, nat_lab if case.nat else lab, case.tuning)
            for case in CASES
        }


@pytest.mark.parametrize("scenario", CASES, ids=lambda case: case.name)
def test_dead_peer_is_told_in_time(scenario: Case, outcomes: dict[str, Future[Told]]) -> None:
    told = outcomes[scenario.name].result(timeout=RESULT_TIMEOUT)
    if scenario.error is None:
        assert told.ending is None
        return
    assert told.ending is not None, f"not told within {told.latest + EXTRA_WATCH:.1f} s"
    assert told.ending.moment - told.origin >= told.earliest - TICK
    assert told.ending.moment - told.gone <= told.latest + ALLOWANCE
    assert errno.errorcode[told.ending.error] == errno.errorcode[scenario.error]

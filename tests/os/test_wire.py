"""Probes leave at the times that tune() promised: seen by a third party on the wire.

A packet socket in the router notes what the client sends, with the kernel's own time stamps. A
keepalive probe is an empty segment whose number lies one before the next byte (RFC 1122 4.2.3.6).
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import stillalive

from .netlab import Connection, NetLab, wait_for_end

pytestmark = pytest.mark.usefixtures("impl")

SO_TIMESTAMPNS, ETH_P_ALL = 35, 3
EARLY = 0.02
"""The kernel's tick, and the time stamp's own path."""
RST, SYN = 0x04, 0x02


@dataclass(frozen=True)
class Segment:
    moment: float
    from_client: bool
    flags: int
    number: int
    size: int


class Sniffer:
    """Everything TCP that passes the router, by the client's port."""

    def __init__(self, lab: NetLab) -> None:
        self.seen: dict[int, list[Segment]] = defaultdict(list)
        self._stop = threading.Event()
        self._sock = lab.router.call(
            socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)
        )
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sock.bind(("client", ETH_P_ALL))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._sock], [], [], 0.1)[0]:
                continue
            data, extra, _, _ = self._sock.recvmsg(2048, 64)
            stamps = [raw for _, kind, raw in extra if kind == SO_TIMESTAMPNS]
            if stamps:
                seconds, nanoseconds = struct.unpack("=qq", stamps[0])
                self._note(seconds + nanoseconds / 1e9, data)

    def _note(self, moment: float, packet: bytes) -> None:
        if packet[0] >> 4 == 4:
            header, protocol = (packet[0] & 15) * 4, packet[9]
            total = struct.unpack_from("!H", packet, 2)[0]
        else:
            header, protocol = 40, packet[6]
            total = 40 + struct.unpack_from("!H", packet, 4)[0]
        if protocol != socket.IPPROTO_TCP:
            return
        source, target, number = struct.unpack_from("!HHI", packet, header)
        offset, flags = packet[header + 12] >> 4, packet[header + 13]
        from_client = source >= 20000 > target
        segment = Segment(moment, from_client, flags, number, total - header - offset * 4)
        self.seen[source if from_client else target].append(segment)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self._sock.close()

    def probes(self, port: int) -> list[float]:
        """When the client's keepalive probes passed."""
        found, following = [], None
        for segment in self.seen[port]:
            if not segment.from_client or segment.flags & RST:
                continue
            if following is not None and segment.size == 0 and segment.number + 1 == following:
                found.append(segment.moment)
            else:
                following = segment.number + segment.size + bool(segment.flags & SYN)
        return found

    def heard(self, port: int, before: float) -> float:
        """When the server was last heard of until then."""
        return max(s.moment for s in self.seen[port] if not s.from_client and s.moment <= before)

    def last(self, port: int, from_client: bool, flags: int = 0) -> float | None:
        moments = [
            s.moment
            for s in self.seen[port]
            if s.from_client == from_client and s.flags & flags == flags
        ]
        return max(moments, default=None)


@pytest.fixture
def sniffer(lab: NetLab):
    watching = Sniffer(lab)
    yield watching
    watching.close()


FAMILIES = (socket.AF_INET, socket.AF_INET6)
POLICIES = (
    {"idle": 1, "interval": 1, "count": 3},
    {"idle": 2, "interval": 1, "count": 2},
    {"idle": 1, "interval": 2, "count": 2},
    {"detect_within": 5},
    {"detect_within": 8},
    {"middlebox": 4, "idle": 2},
)


def all_of(
    run: Callable[[tuple[socket.AddressFamily, dict[str, int]]], str | None],
) -> list[str]:
    """What is wrong with any policy over any family, all at the same time."""
    cases = list(itertools.product(FAMILIES, POLICIES))
    with ThreadPoolExecutor(len(cases)) as pool:
        return [
            f"{c[0].name}: {text}"
            for c, text in zip(cases, pool.map(run, cases), strict=True)
            if text
        ]


def late(seconds: float) -> float:
    """How late a timer of so many seconds may be: the timer wheel, and a busy machine."""
    return seconds / 8 + 0.5


def is_about(moment: float, due: float, after: float) -> bool:
    return due - EARLY <= moment <= due + late(due - after)


def test_a_silent_peer_is_asked_when_promised_and_given_up_when_promised(
    lab: NetLab, sniffer: Sniffer
) -> None:
    def run(case: tuple[socket.AddressFamily, dict[str, int]]) -> str | None:
        family, policy = case
        connection = lab.open(family)
        connection.cut()
        held = stillalive.tune(connection.client, **policy)
        assert held.idle and held.interval and held.detects_idle_within
        tuned = time.time()
        ending = wait_for_end(connection.client, held.detects_idle_within + 4)
        told = time.time()
        time.sleep(0.2)
        probes, heard = sniffer.probes(connection.port), sniffer.heard(connection.port, tuned)
        if ending is None or not probes:
            return f"{policy}: no end, or no probe: {ending} {probes}"
        if not is_about(probes[0], heard + held.idle, heard):
            return f"{policy}: first probe after {probes[0] - heard:.2f} s, not {held.idle}"
        for earlier, later in itertools.pairwise(probes):
            if not is_about(later, earlier + held.interval, earlier):
                return f"{policy}: next probe after {later - earlier:.2f} s, not {held.interval}"
        due = heard + held.detects_idle_within
        wish = policy.get("detect_within")
        if not is_about(told, due, heard) or (wish and told - heard > wish):
            return f"{policy}: told after {told - heard:.2f} s, not {held.detects_idle_within}"
        return None

    assert all_of(run) == []


def test_a_living_peer_is_asked_once_per_idle_time_and_left_alone(
    lab: NetLab, sniffer: Sniffer
) -> None:
    def run(case: tuple[socket.AddressFamily, dict[str, int]]) -> str | None:
        family, policy = case
        connection = lab.open(family)
        held = stillalive.tune(connection.client, **policy)
        assert held.idle and held.interval
        # An answered probe has started the interval, and the timer looks at the idle time then.
        period = max(held.idle, held.interval)
        tuned = time.time()
        if wait_for_end(connection.client, held.idle + 2.5 * period + 1) is not None:
            return f"{policy}: ended"
        probes, heard = sniffer.probes(connection.port), sniffer.heard(connection.port, tuned)
        if len(probes) < 3:
            return f"{policy}: only {len(probes)} probes"
        if not is_about(probes[0], heard + held.idle, heard):
            return f"{policy}: first probe after {probes[0] - heard:.2f} s, not {held.idle}"
        for earlier, later in itertools.pairwise(probes):
            if not is_about(later, earlier + period, earlier):
                return f"{policy}: a probe after {later - earlier:.2f} s, not {period}"
        if sniffer.last(connection.port, from_client=False, flags=RST) is not None:
            return f"{policy}: the peer answered with a reset"
        connection.exchange(b"as good as new")
        return None

    assert all_of(run) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_times_of_a_listener_hold_for_what_it_accepts(
    lab: NetLab, sniffer: Sniffer, family: socket.AddressFamily
) -> None:
    listener = lab.listen(
        family, prepare=lambda sock: stillalive.tune(sock, idle=1, interval=1, count=3)
    )
    connection: Connection = lab.connect(listener)
    connection.exchange()
    heard = time.time()
    assert wait_for_end(connection.server, 3.3) is None
    # Seen from the accepting side: an empty segment, one before its next byte.
    following, probes = None, []
    for segment in sniffer.seen[connection.port]:
        if segment.from_client:
            continue
        if following is not None and segment.size == 0 and segment.number + 1 == following:
            probes.append(segment.moment)
        else:
            following = segment.number + segment.size + bool(segment.flags & SYN)
    assert len(probes) >= 2
    assert is_about(probes[0], heard + 1, heard)


def test_a_probe_on_request_puts_one_empty_segment_on_the_wire(
    lab: NetLab, sniffer: Sniffer
) -> None:
    connection = lab.open()
    time.sleep(1.3)
    before = len(sniffer.probes(connection.port))
    assert stillalive.probe(connection.client).state is stillalive.State.ALIVE
    time.sleep(0.2)
    probes = sniffer.probes(connection.port)
    assert (before, len(probes)) == (0, 1)
    payload = sum(s.size for s in sniffer.seen[connection.port] if s.moment > probes[0] - 0.05)
    assert payload == 0
    connection.exchange()


def test_check_puts_nothing_on_the_wire(lab: NetLab, sniffer: Sniffer) -> None:
    connection = lab.open()
    time.sleep(0.3)
    before = len(sniffer.seen[connection.port])
    assert before > 4  # the sniffer does see this connection
    for _ in range(50):
        assert stillalive.check(connection.client)
    time.sleep(0.3)
    assert len(sniffer.seen[connection.port]) == before

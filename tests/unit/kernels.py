"""Other systems' kernels, as far as this package sees them: a backend made of the table.

A socket is a number. Time stands still until ``run_until``. The keepalive
timer is that of 4.4BSD as its descendants have it: when it fires, the
connection is dropped if it has been silent for idle + interval * count, and
probed otherwise. A late kernel fires every timer as late as the table allows,
an eager one also between any two settings. Interval and count are multiplied
in 32 bits of milliseconds, as on macOS and FreeBSD.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from stillalive import _backend as b
from stillalive import _host, _impl, _pending, _systems
from stillalive._errors import fault, not_supported

SET_ORDER = (b.COUNT, b.INTERVAL, b.ENABLED, b.USER_TIMEOUT, b.RTO_MAX, b.IDLE)
NETBSD_ORDER = (b.COUNT, b.INTERVAL, b.IDLE, b.USER_TIMEOUT, b.RTO_MAX, b.ENABLED)
RTT = 0.01
ELSEWHERE = ("darwin", "freebsd", "netbsd", "openbsd", "windows")
DROPPING = tuple(key for key in ELSEWHERE if _systems.SYSTEMS[key].drops_long_idle)
WITH_TIMES = tuple(key for key in ELSEWHERE if _systems.SYSTEMS[key].option(b.IDLE))


@dataclass
class Socket:
    """One socket of a Kernel."""

    values: list[int]
    state: int = b.ESTABLISHED
    heard_at: float = 0.0
    timer_at: float = math.inf
    peer_alive: bool = True
    dead_at: float | None = None
    probes: list[float] = field(default_factory=list)

    @property
    def times(self) -> tuple[int, int, int]:
        idle, interval, count = self.values[b.IDLE : b.COUNT + 1]
        return idle, interval, count


class Kernel:
    """A backend that behaves as one system's kernel does."""

    NAME = "fake"

    def __init__(self, system: _systems.System, late: bool = False, eager: bool = False) -> None:
        self.system = system
        self.late = late
        self.eager = eager
        self.now = 1_000_000.0
        self.sockets: dict[int, Socket] = {}
        self.calls: list[tuple[int, int]] = []
        self.without: set[int] = set()
        """Options that this version lacks,"""
        self.by_ioctl: set[int] = set()
        """and those that setsockopt does not set."""

    # ---- what a test does -------------------------------------------------

    def connect(self, silent: float = 0.0, enabled: bool = False) -> int:
        made = Socket([int(enabled), *self._defaults()], heard_at=self.now - silent)
        if self.system.option(b.IDLE) is not None:  # armed anew each time while keepalive is off
            period = made.times[0]
            made.timer_at = made.heard_at + period * (1 + silent // period)
        self.sockets[len(self.sockets) + 100] = made
        return len(self.sockets) + 99

    def listen(self) -> int:
        fd = self.connect()
        self.sockets[fd].state = b.LISTEN
        self.sockets[fd].timer_at = math.inf
        return fd

    def accept(self, listener: int) -> int:
        fd = self.connect()
        for number, name in enumerate(_systems.OPTION_NAMES):
            if name in self.system.inherited:
                self.sockets[fd].values[number] = self.sockets[listener].values[number]
        return fd

    def run_until(self, end: float) -> None:
        while True:
            due = min((s.timer_at, fd) for fd, s in self.sockets.items())
            if due[0] > end:
                break
            self.now = max(self.now, due[0])
            self._fire(self.sockets[due[1]])
        self.now = max(self.now, end)

    def _fire(self, sock: Socket) -> None:
        idle, interval, count = sock.times
        silence = self.now - sock.heard_at
        if not sock.values[b.ENABLED]:
            self._arm(sock, idle)
        elif silence >= idle + self._budget(interval, count):
            sock.dead_at, sock.timer_at = self.now, math.inf
        elif silence < idle:
            self._arm(sock, idle - silence)
        else:
            sock.probes.append(self.now)
            self._arm(sock, interval)
            if sock.peer_alive:
                sock.heard_at = self.now + RTT
                self._arm(sock, RTT + idle)

    def _budget(self, interval: int, count: int) -> float:
        if self.system.key == "netbsd":
            return interval * count
        return interval * count * 1000 % 2**32 / 1000

    def _arm(self, sock: Socket, seconds: float) -> None:
        timing = self.system.timing
        delay = seconds * timing.late_share + timing.late_each if self.late else 0.0
        sock.timer_at = self.now + seconds + delay

    def _defaults(self) -> list[int]:
        rows = self.system.options[1:]
        return [b.LEAVE if row is None else row.default or 0 for row in rows]

    # ---- what the package calls -------------------------------------------

    def supported(self) -> int:
        here = (n for n, row in enumerate(self.system.options) if row is not None)
        return sum(1 << number for number in here if number not in self.without)

    def option_name(self, option: int) -> str:
        row = self.system.option(option)
        return "?" if row is None else row.native

    def option_range(self, option: int) -> tuple[int, int] | None:
        row = self.system.option(option)
        return None if row is None else (row.low, row.high)

    def mechanisms(self) -> tuple[str, ...]:
        return ("poll",)

    def kind(self, fd: int) -> tuple[int, int, int, bool]:
        listening = self.sockets[fd].state == b.LISTEN
        return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, listening

    def identify(self, fd: int) -> int:
        return fd * 7

    def read_options(self, fd: int) -> b.Values:
        shown = []
        for number, value in enumerate(self.sockets[fd].values):
            row = self.system.option(number)
            if row is None or number in self.without:
                shown.append(b.LEAVE)
            else:
                shown.append(value if row.readable else b.UNREADABLE)
        return tuple(shown)  # type: ignore[return-value]

    def apply_options(self, fd: int, values: b.Values) -> b.Values:
        for number in NETBSD_ORDER if self.system.key == "netbsd" else SET_ORDER:
            if values[number] != b.LEAVE:
                self._set(fd, number, values[number])
        pairs = zip(self.read_options(fd), values, strict=True)
        folded = (own if held == b.UNREADABLE and own >= 0 else held for held, own in pairs)
        return tuple(folded)  # type: ignore[return-value]

    def _set(self, fd: int, number: int, value: int) -> None:
        row, sock = self.system.option(number), self.sockets[fd]
        if row is None or number in self.without:
            raise not_supported(f"setsockopt({self.option_name(number)})", self.kind(fd))
        if not row.low <= value <= row.high or value % row.step:
            raise fault(errno.EINVAL, f"setsockopt({row.native})", self.kind(fd))
        self.calls.append((number, value))
        sock.values[number] = value
        enabled = sock.values[b.ENABLED]
        if sock.state == b.LISTEN:
            return
        if self.system.key == "netbsd":
            if number in (b.IDLE, b.INTERVAL, b.COUNT):
                self._arm(sock, sock.values[b.INTERVAL if enabled else b.IDLE])
        elif number == b.IDLE and (enabled or self.system.key == "freebsd"):
            self._arm(sock, value)
        if self.eager:
            self._fire(sock)

    def tcp_info(self, fd: int) -> tuple[int, ...]:
        sock = self.sockets[fd]
        if sock.state == b.LISTEN and self.system.key == "windows":
            raise fault(errno.EOPNOTSUPP, "WSAIoctl(SIO_TCP_INFO)", self.kind(fd))
        info = b.Info(*(-1 for _ in b.Info._fields))
        state = sock.state if sock.dead_at is None else b.CLOSE
        info = info._replace(state=state, rtt_us=10_000)
        if self.system.key == "freebsd":
            info = info._replace(rto_us=230_000)
        if self.system.answers_show:
            silent = max(0, int((self.now - sock.heard_at) * 1000))
            silent = silent % (2**32 // 1000) if self.system.ages_wrap else silent
            info = info._replace(last_ack_recv_ms=silent)
        return tuple(info)


@contextmanager
def installed(
    key: str, late: bool = False, *, eager: bool = False, **traits: bool
) -> Iterator[Kernel]:
    """Have the package believe that it runs on another system, perhaps with other traits."""
    kernel = Kernel(dataclasses.replace(_systems.SYSTEMS[key], **traits), late, eager)
    defaults = _host.SystemDefaults(*kernel._defaults()[:3], None, None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_impl, "backend", kernel)
        patch.setattr(_systems, "system", lambda *unused: kernel.system)
        patch.setattr("stillalive._captable._reads_probes", lambda: True)
        patch.setattr("stillalive.policy.can_set", lambda number: number not in kernel.by_ioctl)
        patch.setattr(_pending, "_clock", lambda: kernel.now)
        patch.setattr(_pending, "_duplicate", lambda fd: fd)
        patch.setattr(_pending, "_close", lambda fd: None)
        patch.setattr(_pending, "_thread", object())  # the test does its work
        for module in ("stillalive._host", "stillalive.tuning"):
            patch.setattr(f"{module}.system_defaults", lambda: defaults)
        try:
            yield kernel
        finally:
            _pending._by_identity.clear()
            _pending._heap.clear()


def live(kernel: Kernel, seconds: float) -> None:
    """Let time pass: the kernel's timers fire, and what is pending is looked at after each."""
    end = kernel.now + seconds
    while kernel.now < end:
        entries = list(_pending._by_identity.values())
        due = [s.timer_at for s in kernel.sockets.values()]
        due += [entry.began + entry.patience for entry in entries]
        kernel.run_until(min(end, max(kernel.now + RTT, min(due))))
        for entry in entries:
            if _pending._look(entry):
                _pending._by_identity.pop(entry.identity, None)

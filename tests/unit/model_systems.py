"""Sockets of systems that are not here: what a kernel of each would hold, take and refuse.

A model knows nothing of the code under test but the numbers of the options. It
writes down every option that is set, with the raw value, and can refuse one.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Self

from stillalive._pure._unix import Unix
from stillalive._pure._windows import Windows
from stillalive._systems import SYSTEMS

FD = 7
SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
HERE, THERE = ("127.0.0.1", 40000), ("127.0.0.1", 80)

KEEPALIVE = "SO_KEEPALIVE"
NUMBERS: dict[str, dict[tuple[int, int], tuple[str, int]]] = {
    # (level, number): (name, what a fresh socket holds)
    "darwin": {
        (SOCKET, 0x8): (KEEPALIVE, 0),
        (TCP, 0x10): ("TCP_KEEPALIVE", 7200),
        (TCP, 0x101): ("TCP_KEEPINTVL", 75),
        (TCP, 0x102): ("TCP_KEEPCNT", 8),
        (TCP, 0x80): ("TCP_RXT_CONNDROPTIME", 0),
        (TCP, 0x20): ("TCP_CONNECTIONTIMEOUT", 0),
    },
    "freebsd": {
        (SOCKET, 0x8): (KEEPALIVE, 0),
        (TCP, 256): ("TCP_KEEPIDLE", 7200),
        (TCP, 512): ("TCP_KEEPINTVL", 75),
        (TCP, 1024): ("TCP_KEEPCNT", 8),
        (TCP, 68): ("TCP_MAXUNACKTIME", 0),
    },
    "netbsd": {
        (SOCKET, 0x8): (KEEPALIVE, 0),
        (TCP, 3): ("TCP_KEEPIDLE", 14400),
        (TCP, 5): ("TCP_KEEPINTVL", 150),
        (TCP, 6): ("TCP_KEEPCNT", 8),
    },
    "openbsd": {(SOCKET, 0x8): (KEEPALIVE, 0)},
    "windows": {
        (SOCKET, 0x8): (KEEPALIVE, 0),
        (TCP, 3): ("TCP_KEEPIDLE", 7200),
        (TCP, 17): ("TCP_KEEPINTVL", 1),
        (TCP, 16): ("TCP_KEEPCNT", 10),
        (TCP, 14): ("TCP_MAXRTMS", 21000),
        (TCP, 5): ("TCP_MAXRT", 21),
    },
}
INFO = {"darwin": 0x106, "freebsd": 32, "netbsd": 9, "openbsd": 9}
ON = {"darwin": 8, "freebsd": 8, "netbsd": 8, "openbsd": 8, "windows": 1}
"""What a kernel shows of SO_KEEPALIVE when it is on."""

Log = list[tuple[str, object]]


@contextmanager
def fails(code: int, text: str = "") -> Iterator[None]:
    """Expect an OSError with this number, and this text in it."""
    try:
        yield
    except OSError as error:
        assert error.errno == code, error
        assert text in str(error)
    else:
        raise AssertionError("nothing was raised")


def refusal(code: int) -> OSError:
    return OSError(code, "refused by the model")


class ModelSocket:
    """One socket; a TCP connection unless it is changed."""

    def __init__(self, key: str, absent: Iterable[str] = ()) -> None:
        self.key = key
        self.held = {k: v for k, (name, v) in NUMBERS[key].items() if name not in absent}
        self.log: Log = []
        self.fails_at: int | None = None
        """Of the settings, counted from 0."""
        self.type, self.listening = socket.SOCK_STREAM, False
        self.local: object = HERE
        self.peer: object = THERE
        self.info: bytes | int = b""
        """The struct, or the error."""
        self.queued: int | None = None
        """Bytes in the send buffer; None is not told."""
        self.looks: list[str] = []
        """At its counters and its send buffer, in order."""
        self.not_tcp: int | None = None
        """What level TCP answers on a socket of another kind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def named(self, name: str) -> int:
        """Return what is held, by the option's name."""
        return next(self.held[k] for k, (n, _) in NUMBERS[self.key].items() if n == name)

    def getsockopt(self, level: int, number: int, size: int | None = None) -> int | bytes:
        if level == SOCKET and number == socket.SO_TYPE:
            return self.type
        if level == SOCKET and number == socket.SO_ACCEPTCONN:
            return int(self.listening)
        if level == TCP and self.not_tcp is not None:
            raise refusal(self.not_tcp)
        if size is not None:
            assert (level, number) == (TCP, INFO[self.key])
            self.looks.append("info")
            if isinstance(self.info, int):
                raise refusal(self.info)
            return self.info[:size]
        if (level, number) not in self.held:
            raise refusal(errno.ENOPROTOOPT)
        if self.key == "netbsd" and level == TCP:
            raise refusal(errno.ENOPROTOOPT)
        held = self.held[level, number]
        return (ON[self.key] if held else 0) if level == SOCKET else held

    def setsockopt(self, level: int, number: int, value: int) -> None:
        if (level, number) not in self.held:
            raise refusal(errno.ENOPROTOOPT)
        self.write_down(NUMBERS[self.key][level, number][0], value)
        self.held[level, number] = value

    def ioctl(self, code: int, value: tuple[int, int, int]) -> None:
        """Take what SIO_KEEPALIVE_VALS has to give."""
        assert code == 0x98000004
        self.write_down("SIO_KEEPALIVE_VALS", value)
        self.held[SOCKET, 0x8] = value[0]

    def write_down(self, name: str, value: object) -> None:
        if self.fails_at == len(self.log):
            self.fails_at = None
            raise refusal(errno.ENOBUFS)
        self.log.append((name, value))

    def getsockname(self) -> object:
        if isinstance(self.local, int):
            raise refusal(self.local)
        return self.local

    def getpeername(self) -> object:
        if isinstance(self.peer, int):
            raise refusal(self.peer)
        return self.peer

    def connect(self, fresh: bool) -> None:
        """Make it one that was never connected, or one that is."""
        self.peer = errno.ENOTCONN if fresh else THERE


class ModelUnix(Unix):
    """A Mac or a BSD with one socket."""

    def __init__(self, key: str, sock: ModelSocket | None = None) -> None:
        super().__init__(SYSTEMS[key])
        self.sock = ModelSocket(key) if sock is None else sock
        self.own: list[ModelSocket] = []

    @contextmanager
    def borrowed(self, fd: int) -> Iterator[ModelSocket]:
        if fd != FD:
            raise refusal(errno.EBADF)
        yield self.sock

    def _ioctl(self, sock: socket.socket, code: int) -> bytes:
        assert sock is self.sock
        assert code == {"freebsd": 0x40046677, "netbsd": 0x40046679}[self.row.key]
        self.sock.looks.append("queue")
        if self.sock.queued is None:
            raise refusal(errno.ENOTTY)
        return struct.pack("=i", self.sock.queued)

    def _own(self) -> ModelSocket:
        absent = {n for k, (n, _) in NUMBERS[self.row.key].items() if k not in self.sock.held}
        self.own.append(ModelSocket(self.row.key, absent))
        return self.own[-1]


class ModelWinsock:
    """The calls that go by the handle itself."""

    def __init__(self) -> None:
        self.info: bytes | int = 10045
        self.shown: int = 0
        self.waiting: int = 0

    def tcp_info(self, fd: int) -> bytes:
        if isinstance(self.info, int):
            raise refusal({10045: errno.EOPNOTSUPP}.get(self.info, self.info))
        return self.info

    def poll(self, fd: int) -> int:
        return self.shown

    def unread(self, fd: int) -> int:
        return self.waiting


class ModelWindows(Windows):
    """A Windows with one socket."""

    def __init__(self, absent: Iterable[str] = ()) -> None:
        super().__init__(SYSTEMS["windows"])
        self.absent = tuple(absent)
        self.sock = ModelSocket("windows", self.absent)
        self.winsock = ModelWinsock()

    @contextmanager
    def borrowed(self, fd: int) -> Iterator[ModelSocket]:
        if fd != FD:
            raise refusal(errno.EBADF)
        yield self.sock

    def _own(self) -> ModelSocket:
        return ModelSocket("windows", self.absent)


TIMES = ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
OLD = (*TIMES, "TCP_KEEPCNT", "TCP_MAXRTMS")
"""What a Windows before 1607 lacks."""


class Keepalive(ModelSocket):
    """FreeBSD's keepalive timer, with a peer that answers or not; times are seconds."""

    HZ = 1000

    def __init__(self, *, answers: bool = True, pause: float = 0.0) -> None:
        super().__init__("freebsd")
        self.answers = answers
        self.pause = pause
        """The thread rests so long after each setting."""
        self.now = self.heard = 0.0
        self.alarm = 7200.0
        self.probes = 0
        self.dropped = False

    def live(self, idle: int, interval: int, count: int, silent: float) -> Keepalive:
        """Give it the owner's values, and a time without a segment."""
        self.held[TCP, 256], self.held[TCP, 512] = idle, interval
        self.held[TCP, 1024] = count
        self.now, self.heard = silent, 0.0
        self.alarm = idle if silent < idle else silent + 0.5
        self.log.clear()
        return self

    def setsockopt(self, level: int, number: int, value: int) -> None:
        super().setsockopt(level, number, value)
        if (level, number) == (TCP, 256):
            self.alarm = self.now + value
        self.advance(self.pause)

    def advance(self, seconds: float) -> None:
        """Let time pass; always_keepalive is on, so the timer never rests."""
        until = self.now + seconds
        while not self.dropped and self.alarm <= until:
            self.now = self.alarm
            self._fire()
        self.now = until
        self.show()

    def _fire(self) -> None:
        idle, interval, count = (self.held[TCP, n] for n in (256, 512, 1024))
        ticks = count * interval * self.HZ & 0xFFFFFFFF  # in 32 bits, as the kernel does
        longest = (ticks - 2**32 if ticks >= 2**31 else ticks) / self.HZ
        silent = self.now - self.heard
        if silent < idle:
            self.alarm = self.heard + idle
        elif silent >= idle + longest:
            self.dropped = True
        else:
            self.probes += 1
            self.alarm = self.now + interval
            if self.answers:
                self.heard = self.now

    def show(self) -> None:
        """Fill TCP_INFO."""
        raw = bytearray(256)
        raw[0] = 4
        struct.pack_into("=I", raw, 52, int((self.now - self.heard) * 1e6) & 0xFFFFFFFF)
        self.info = bytes(raw)


class Queue:
    """A kqueue that shows what a test says; closing it is counted."""

    def __init__(self) -> None:
        self.shown: list[SimpleNamespace] = []
        self.wanted: list[SimpleNamespace] = []
        self.opened = self.closed = 0
        self.waits: object = "never asked"

    def control(self, wanted: list[SimpleNamespace], room: int, timeout: float | None) -> object:
        self.wanted, self.waits = list(wanted), timeout
        return self.shown[:room]

    def close(self) -> None:
        self.closed += 1

    def show(self, *, read: str = "", write: str = "", data: int = 0, code: int = 0) -> None:
        """Make either direction "ready" or at its "end"."""
        self.shown = [
            SimpleNamespace(
                ident=FD,
                filter=kind,
                flags=0x8000 if state == "end" else 0,
                fflags=code if state == "end" else 0,
                data=data if kind == -1 else 65536,
            )
            for kind, state in ((-1, read), (-2, write))
            if state
        ]

    def module(self) -> SimpleNamespace:
        """Return what stands in for `select`."""

        def kqueue() -> Queue:
            self.opened += 1
            return self

        def kevent(
            ident: int, kind: int, flags: int, fflags: int = 0, data: int = 0
        ) -> SimpleNamespace:
            return SimpleNamespace(ident=ident, filter=kind, flags=flags, fflags=fflags, data=data)

        return SimpleNamespace(
            kqueue=kqueue,
            kevent=kevent,
            KQ_FILTER_READ=-1,
            KQ_FILTER_WRITE=-2,
            KQ_EV_ADD=1,
            KQ_EV_EOF=0x8000,
            KQ_EV_ERROR=0x4000,
            KQ_NOTE_LOWAT=1,
        )

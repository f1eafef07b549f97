"""Keepalive options and connection counters on macOS and the BSDs, with the standard library.

What surprises there is told in ext/sockopt/darwin.c and its neighbours. In short:

Order. The count comes first, because a Mac or a BSD drops a connection that
has been silent for idle + interval * count before it asks once; then
SO_KEEPALIVE, without which a Mac takes the idle time for the system's own; the
idle time comes last, because setting it starts the timer.

Units. NetBSD counts half-seconds and reads nothing back. TCP_RXT_CONNDROPTIME
and TCP_MAXUNACKTIME count seconds.

The end. A kernel has forgotten all counters of a connection that has ended
(ECONNRESET). A kqueue of a moment still shows the end and the error's number,
and leaves it for the owner.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .. import _backend as b
from .._backend import COUNT, ENABLED, IDLE, INTERVAL, RTO_MAX, USER_TIMEOUT, Info, Values
from .._errors import fault
from .._systems import system
from ._kernel import BoundPolicy, Field, Kernel, Pending, decoded

assert not TYPE_CHECKING or (sys.platform != "linux" and sys.platform != "win32")

_STATES = (
    b.CLOSE,
    b.LISTEN,
    b.SYN_SENT,
    b.SYN_RECV,
    b.ESTABLISHED,
    b.CLOSE_WAIT,
    b.FIN_WAIT1,
    b.CLOSING,
    b.LAST_ACK,
    b.FIN_WAIT2,
    b.TIME_WAIT,
)
"""In the order of the BSDs' numbers."""


class _Layout(NamedTuple):
    name: str
    number: int
    size: int
    fields: dict[str, Field]


_TIMES = {"rto_us": Field(8, "I"), "rtt_us": Field(68, "I"), "rttvar_us": Field(72, "I")}
_FREEBSD = {
    # The name says data, but the kernel counts from the last segment of any kind.
    "last_ack_recv_ms": Field(52, "I", over=1000),
    "snd_wnd": Field(100, "I"),
    "total_retrans": Field(120, "I"),
}
_LAYOUTS = {
    "darwin": _Layout(
        "TCP_CONNECTION_INFO",
        0x106,
        112,
        {
            "rto_us": Field(12, "I", times=1000),
            "snd_wnd": Field(28, "I"),
            "notsent_bytes": Field(32, "I"),
            "rtt_us": Field(44, "I", times=1000),
            "rttvar_us": Field(48, "I", times=1000),
            "data_segs_out": Field(56, "Q"),
            "bytes_sent": Field(64, "Q"),
            "bytes_retrans": Field(72, "Q"),
            "data_segs_in": Field(80, "Q"),
            "bytes_received": Field(88, "Q"),
            "total_retrans": Field(104, "Q"),
        },
    ),
    "freebsd": _Layout("TCP_INFO", 32, 256, _TIMES | _FREEBSD),
    "netbsd": _Layout("TCP_INFO", 9, 236, _TIMES | _FREEBSD),
    "openbsd": _Layout(
        "TCP_INFO",
        9,
        212,
        # From the window on it shows zeros to all but root.
        _TIMES
        | {
            "last_data_sent_ms": Field(44, "I"),
            "last_data_recv_ms": Field(52, "I"),
            "last_ack_recv_ms": Field(56, "I"),
        },
    ),
}

_MOST_SECONDS = 2_000_000
"""Of interval * count: more overflows FreeBSD's ticks."""

_SYSCTLS = {
    IDLE: "net.inet.tcp.keepidle",
    INTERVAL: "net.inet.tcp.keepintvl",
    COUNT: "net.inet.tcp.keepcnt",
}
_HALVES = {IDLE: 14400, INTERVAL: 150, COUNT: 8}
"""NetBSD's defaults, in its own half-seconds."""


def _patient(interval: int) -> int:
    """Return the highest count that goes with an interval."""
    return max(1, (_MOST_SECONDS - 1) // max(1, interval))


def sysctl(name: str) -> int | None:
    """Return a number that the system keeps, None where it cannot be read."""
    try:
        import ctypes

        call = ctypes.CDLL(None).sysctlbyname
    except (ImportError, OSError, AttributeError):
        return None
    held, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    rc: int = call(name.encode(), ctypes.byref(held), ctypes.byref(size), None, ctypes.c_size_t(0))
    return held.value if rc == 0 and held.value > 0 else None


class Unix(Kernel):
    """macOS, FreeBSD, NetBSD or OpenBSD."""

    ORDER = (COUNT, ENABLED, INTERVAL, USER_TIMEOUT, RTO_MAX, IDLE)

    @contextmanager
    def borrowed(self, fd: int) -> Iterator[socket.socket]:
        # A duplicate, and one that never blocks: see _linux.borrowed. Where
        # that cannot be said, the owner's mode is put back. AF_UNIX has room
        # for every family's address.
        nonblock: int = getattr(socket, "SOCK_NONBLOCK", 0)
        blocks = None
        if not nonblock and socket.getdefaulttimeout() is not None:
            blocks = os.get_blocking(fd)
        with socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM | nonblock) as sock:
            if blocks is not None:
                os.set_blocking(fd, blocks)
            yield sock

    # ---- options -----------------------------------------------------------

    def _to_kernel(self, option: int, value: int) -> int:
        if self.row.key == "netbsd" and option in (IDLE, INTERVAL):
            return value * 2
        return super()._to_kernel(option, value)

    def _give_back(self, sock: socket.socket, option: int, value: int) -> None:
        if value == b.UNREADABLE and self.row.key == "netbsd":
            raw = sysctl(_SYSCTLS[option]) or _HALVES[option]
            try:
                self._put(sock, option, raw)
            except OSError as error:
                raise self._fault(error, f"setsockopt({self.option_name(option)})", sock) from None
        else:
            super()._give_back(sock, option, value)

    # ---- the probe ---------------------------------------------------------

    def ask(self, fd: int, saved: Values, guard: int) -> None:
        if not self.ASKS:
            super().ask(fd, saved, guard)
        if guard == b.UNGUARDED:
            return  # the kernel asks every second by itself, and a set idle time starts anew
        with self.borrowed(fd) as sock:
            # The count first, as far as it goes with the owner's interval: the
            # timer may fire between any two of these.
            self._set_named(sock, COUNT, _patient(saved[INTERVAL]))
            self._set_named(sock, ENABLED, 1)
            self._set_named(sock, INTERVAL, 1)
            self._set_named(sock, COUNT, _patient(1))
            self._set_named(sock, IDLE, 1)

    def unask(self, fd: int, saved: Values) -> None:
        if not self.ASKS:
            super().unask(fd, saved)
        # Off first where it was off: then the rest arms no timer. The owner's
        # count last, or the silence so far could end the connection; and one
        # in between that does not overflow with the owner's interval.
        steps = [(IDLE, saved[IDLE]), (COUNT, _patient(saved[INTERVAL]))]
        steps += [(INTERVAL, saved[INTERVAL]), (COUNT, saved[COUNT])]
        steps.insert(0 if saved[ENABLED] == 0 else len(steps), (ENABLED, saved[ENABLED]))
        failed: OSError | None = None
        with self.borrowed(fd) as sock:
            for option, value in steps:
                try:
                    self._give_back(sock, option, value)
                except OSError as error:  # go on: one lost option is better than four
                    failed = error
        if failed is not None:
            raise failed

    # ---- what the kernel shows ---------------------------------------------

    def tcp_info(self, fd: int) -> Info:
        layout = _LAYOUTS.get(self.row.key)
        call = f"getsockopt({layout.name if layout is not None else 'TCP_INFO'})"
        with self.borrowed(fd) as sock:
            try:
                if layout is None:
                    raise OSError(errno.ENOPROTOOPT, call)
                raw = sock.getsockopt(socket.IPPROTO_TCP, layout.number, layout.size)
                if not raw:
                    raise OSError(errno.ENOPROTOOPT, call)
            except OSError as error:
                return self._untold(sock, error, call)
        info = decoded(raw, _STATES, layout.fields)
        # No timer is armed: then there is no timeout to tell.
        return info._replace(rto_us=-1) if info.rto_us == 0 else info

    def pending(self, fd: int) -> Pending:
        with contextlib.closing(select.kqueue()) as queue:
            wanted = [
                select.kevent(fd, kind, select.KQ_EV_ADD)
                for kind in (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE)
            ]
            shown = queue.control(wanted, 4, 0)
        code = unread = 0
        ended = {select.KQ_FILTER_READ: False, select.KQ_FILTER_WRITE: False}
        for event in shown:
            if event.flags & select.KQ_EV_ERROR:
                if event.data:
                    raise fault(event.data, "kevent", None)
                continue
            if event.filter == select.KQ_FILTER_READ:
                unread = max(0, event.data)
            if event.flags & select.KQ_EV_EOF:
                ended[event.filter] = True
                code = code or event.fflags
        reading, writing = ended[select.KQ_FILTER_READ], ended[select.KQ_FILTER_WRITE]
        return Pending(
            error=code != 0,
            hangup=reading and writing,
            rdhup=reading,
            fin=False,
            unread=unread,
            code=code,
        )


_here = Unix(system())

ASKS = _here.ASKS
apply_options = _here.apply_options
ask = _here.ask
identify = _here.identify
identities = _here.identities
kind = _here.kind
option_name = _here.option_name
option_range = _here.option_range
pending = _here.pending
put_back = _here.put_back
read_options = _here.read_options
set_option = _here.set_option
supported = _here.supported
tcp_info = _here.tcp_info
unask = _here.unask


class Policy(BoundPolicy):
    """Six values ready to be set on a socket of this system."""

    __slots__ = ()

    def __init__(self, values: Values) -> None:
        super().__init__(_here, values)

"""Keepalive options and connection counters on macOS and the BSDs, with the standard library.

What surprises there is told in ext/sockopt/darwin.c and its neighbours, and
the steps here are the same. In short:

Order. Each system arms its timer by another option, and drops a connection
that has been silent for idle + interval * count before it asks once.

Units. NetBSD counts half-seconds and reads nothing back. TCP_RXT_CONNDROPTIME
and TCP_MAXUNACKTIME count seconds.

Connecting. On macOS the handshake has a time of its own, which goes along with
the user timeout as long as the two are equal.

The end. A kernel has forgotten all counters of a connection that has ended. A
kqueue of a moment still shows the end and the error's number, and leaves it
for the owner.

Moving. The BSDs count no payload: that their sequence numbers move shows it,
unless a network card keeps them (FreeBSD), to root alone (OpenBSD). What waits
in the send buffer moves none. It is asked first: what leaves between the two
looks would be in neither.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .. import _backend as b
from .._backend import COUNT, ENABLED, IDLE, INTERVAL, RTO_MAX, USER_TIMEOUT, Info, Values
from .._errors import fault, not_supported
from .._systems import System, system
from ._kernel import UNTOLD, BoundPolicy, Field, Kernel, Pending, decoded, is_tcp

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


_TIMES = {
    "rto_us": Field(8, "I"),
    "rtt_us": Field(68, "I"),
    "rttvar_us": Field(72, "I"),
    # The name says data, but the kernel counts from the last segment of any kind.
    "last_ack_recv_ms": Field(52, "I", over=1000),
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
    "freebsd": _Layout(
        "TCP_INFO",
        32,
        256,
        _TIMES
        | {
            "snd_wnd": Field(100, "I"),
            "snd_nxt": Field(108, "I"),
            "rcv_nxt": Field(112, "I"),
            "total_retrans": Field(120, "I"),
            "snd_max": Field(180, "I"),
        },
    ),
    # Its clock is the difference of two clocks with different units, and says nothing.
    "netbsd": _Layout(
        *("TCP_INFO", 9, 236),
        {
            "snd_nxt": Field(108, "I"),
            "rcv_nxt": Field(112, "I"),
            "total_retrans": Field(120, "I"),
        },
    ),
    # From the window on it shows zeros to all but root.
    "openbsd": _Layout(
        *("TCP_INFO", 9, 212),
        _TIMES
        | {
            "last_data_sent_ms": Field(44, "I", over=1000),
            "snd_nxt": Field(104, "I"),
            "rcv_nxt": Field(108, "I"),
            "snd_max": Field(160, "I"),
            "queued_bytes": Field(196, "I"),
        },
    ),
}
_FIONWRITE = {"freebsd": 0x40046677, "netbsd": 0x40046679}
_OPTIONS_AT, _OFFLOADED = 5, 0x10
_NUMBERS = {"snd_nxt": -1, "snd_max": -1, "rcv_nxt": -1}

_CONNDROPTIME, _CONNECTIONTIMEOUT = 0x80, 0x20
_ORDERS = {
    "darwin": (COUNT, ENABLED, INTERVAL, USER_TIMEOUT, RTO_MAX, IDLE),
    "freebsd": (COUNT, INTERVAL, ENABLED, USER_TIMEOUT, RTO_MAX, IDLE),
    "netbsd": (COUNT, INTERVAL, IDLE, USER_TIMEOUT, RTO_MAX, ENABLED),
}

_FAR = 2_000_000
"""Seconds, which still are less than 2^31 of FreeBSD's ticks."""
_ASKING = ((IDLE, _FAR), (INTERVAL, 1), (COUNT, _FAR), (ENABLED, 1), (IDLE, 1))
_LEAVES_MS, _ANSWERED_MS = 1000, 3000
"""From the last step until the question leaves; who answers one a second was heard within this."""
_CLOCK_ROUND, _ASKED_MOST = 4295, 3600
"""Seconds: the clock's 32 bits of microseconds, and the longest that one question is put."""
_UNTIMED = (b.CLOSE, b.LISTEN, b.SYN_SENT, b.SYN_RECV)
"""Here the timer is the handshake's, or nobody's."""

_SYSCTLS = {
    IDLE: "net.inet.tcp.keepidle",
    INTERVAL: "net.inet.tcp.keepintvl",
    COUNT: "net.inet.tcp.keepcnt",
}
_HALVES = {IDLE: 14400, INTERVAL: 150, COUNT: 8}
"""NetBSD's defaults, in its own half-seconds."""


def _safe_count(saved: Values, silent_ms: int) -> int:
    """Return the count with which the connection lives until the kernel asks again.

    The timer that is given back goes off after another idle time, and the
    kernel then drops what has been silent for long before it asks.
    """
    count, idle, interval = saved[COUNT], saved[IDLE], saved[INTERVAL]
    budget = count * interval
    # A kernel that asks drops who is silent for longer than idle + budget:
    # with so little, the clock cannot have begun anew.
    good = idle + budget + _ASKED_MOST < _CLOCK_ROUND
    too_silent = not 0 <= silent_ms < budget * 1000 or (silent_ms >= _ANSWERED_MS and not good)
    if budget <= 0 or not too_silent:
        return count
    silent = silent_ms // 1000 if silent_ms >= 0 and good else idle + budget + _CLOCK_ROUND
    return max(count, min(_FAR // interval, count + silent // interval + 1))


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


def _has_numbers(key: str, raw: bytes, info: Info) -> bool:
    if key == "freebsd":
        return len(raw) > _OPTIONS_AT and not raw[_OPTIONS_AT] & _OFFLOADED
    return key != "openbsd" or info.snd_nxt > 0 or info.rcv_nxt > 0


class Unix(Kernel):
    """macOS, FreeBSD, NetBSD or OpenBSD."""

    def __init__(self, row: System) -> None:
        super().__init__(row, _ORDERS.get(row.key, _ORDERS["darwin"]))

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

    def _put(self, sock: socket.socket, option: int, raw: int) -> None:
        if option != USER_TIMEOUT or self.row.key != "darwin":
            super()._put(sock, option, raw)
            return
        held, handshake = -1, -2
        with contextlib.suppress(OSError):
            held = sock.getsockopt(socket.IPPROTO_TCP, _CONNDROPTIME)
            handshake = sock.getsockopt(socket.IPPROTO_TCP, _CONNECTIONTIMEOUT)
        super()._put(sock, option, raw)
        if handshake != held:  # its owner has given it a time
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _CONNECTIONTIMEOUT, raw)
        except OSError:
            super()._put(sock, option, held)
            raise

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

    def ask(self, fd: int, saved: Values, guard: int) -> int:
        if not self.ASKS:
            return super().ask(fd, saved, guard)
        if guard == b.UNGUARDED:
            return 0  # the kernel asks every second by itself
        if self.tcp_info(fd).state in _UNTIMED:
            raise OSError(errno.ENOTCONN, "setsockopt(TCP_KEEPIDLE): it is not connected")
        with self.borrowed(fd) as sock:
            for option, value in _ASKING:
                self._give_back(sock, option, value)
        return _LEAVES_MS

    def unask(self, fd: int, saved: Values) -> None:
        if not self.ASKS:
            super().unask(fd, saved)
        info = self.tcp_info(fd)
        if info.state in _UNTIMED:  # ended: nothing is left to mend
            return
        count = _safe_count(saved, info.last_ack_recv_ms)
        steps = ((IDLE, _FAR), (ENABLED, saved[ENABLED]), (COUNT, count))
        failed: OSError | None = None
        with self.borrowed(fd) as sock:
            for option, value in (*steps, (INTERVAL, saved[INTERVAL]), (IDLE, saved[IDLE])):
                try:
                    self._give_back(sock, option, value)
                except OSError as error:  # go on: one lost option is better than four
                    failed = error
        if failed is not None and failed.errno != errno.ECONNRESET:  # that: it has ended
            raise failed

    # ---- what the kernel shows ---------------------------------------------

    def tcp_info(self, fd: int) -> Info:
        layout = _LAYOUTS.get(self.row.key, _LAYOUTS["freebsd"])
        call = f"getsockopt({layout.name})"
        with self.borrowed(fd) as sock:
            queued = self._queued(sock)
            try:
                raw = sock.getsockopt(socket.IPPROTO_TCP, layout.number, layout.size)
            except OSError as error:
                kind = self._kind(sock)
                if error.errno == errno.EINVAL and not is_tcp(kind):
                    raise not_supported(call, kind) from None
                if error.errno in (errno.ECONNRESET, errno.EINVAL):
                    return UNTOLD._replace(state=b.CLOSE)  # ended, its counters gone with it
                raise fault(error.errno or 0, call, kind) from None
            if not raw:
                raise not_supported(call, self._kind(sock))
        info = decoded(raw, _STATES, layout.fields)
        if info.state in (b.CLOSE, b.LISTEN):
            return UNTOLD._replace(state=info.state)
        if self.row.key in _FIONWRITE:
            info = info._replace(queued_bytes=queued)
        if not _has_numbers(self.row.key, raw, info):
            info = info._replace(**_NUMBERS)
        # Zeros to all but root: then that of the buffer is none, too.
        if self.row.key == "openbsd" and info.snd_nxt < 0:
            info = info._replace(queued_bytes=-1)
        # No timer is armed on a Mac: then there is no timeout to tell.
        return info._replace(rto_us=-1) if info.rto_us == 0 else info

    def _queued(self, sock: socket.socket) -> int:
        code = _FIONWRITE.get(self.row.key)
        if code is None:
            return -1
        try:
            found: int = struct.unpack("=i", self._ioctl(sock, code))[0]
        except OSError:
            return -1
        return max(found, -1)

    def _ioctl(self, sock: socket.socket, code: int) -> bytes:
        import fcntl

        return fcntl.ioctl(sock, code, bytes(4))

    def pending(self, fd: int) -> Pending:
        reading, writing = select.KQ_FILTER_READ, select.KQ_FILTER_WRITE
        wanted = [
            select.kevent(fd, reading, select.KQ_EV_ADD, select.KQ_NOTE_LOWAT, 1),
            select.kevent(fd, writing, select.KQ_EV_ADD),
        ]
        with contextlib.closing(select.kqueue()) as queue:
            shown = queue.control(wanted, 4, 0)
        code = unread = 0
        ended = set()
        for event in shown:
            if event.flags & select.KQ_EV_ERROR:
                raise fault(event.data, "kevent", None)
            if event.filter == reading:
                unread = event.data
            if event.flags & select.KQ_EV_EOF:
                ended.add(event.filter)
                code = event.fflags or code
        rdhup = reading in ended
        if unread > 0 and not rdhup and self.kind(fd)[3]:  # a listening socket's backlog
            unread = 0
        return Pending(
            error=code != 0,
            hangup=rdhup and writing in ended,
            rdhup=rdhup,
            fin=False,
            unread=unread,
            code=code,
        )


_here = Unix(system())

ASKS = _here.ASKS
apply_options = _here.apply_options
ask = _here.ask
identify = _here.identify
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

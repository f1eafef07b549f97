"""Keepalive options and connection counters on Windows, with the standard library.

What surprises there is told in ext/sockopt/windows.c. In short: before Windows
10 1709 idle and interval are set by one call, SIO_KEEPALIVE_VALS, which wipes
whichever it is not given and which nothing reads back; before 1703 the count
is 10, and the interval is stretched or shortened so that the total stays what
was asked for. Which of these a system is, a socket of our own tells.

SIO_TCP_INFO has neither segments nor the time of the last one, and is missing
from older systems: then WSAPoll alone tells that a connection has ended, never
by what.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import _backend as b
from .._backend import COUNT, ENABLED, IDLE, INTERVAL, LEAVE, RTO_MAX, USER_TIMEOUT, Info, Values
from .._errors import fault, not_supported
from .._systems import System, system
from ._kernel import ABSENT, UNTOLD, BoundPolicy, Field, Kernel, Pending, decoded, is_tcp

assert not TYPE_CHECKING or sys.platform == "win32"

_SIO_KEEPALIVE_VALS = 0x98000004
_SIO_TCP_INFO = 0xD8000027
_FIONREAD = 0x4004667F
_TCP_MAXRT = 5
_NEVER = -1
"""What TCP_MAXRT and TCP_MAXRTMS hold where a connection is never given up."""

_POLLRDNORM, _POLLERR, _POLLHUP, _POLLNVAL = 0x100, 1, 2, 4

_NEVER_MS = 2**31 - 1

_FIXED_COUNT = 10
_DEFAULT_IDLE_MS, _DEFAULT_INTERVAL_MS = 7_200_000, 1000
_MOST_MS = 2**32 - 1

_STATES = (
    b.CLOSE,
    b.LISTEN,
    b.SYN_SENT,
    b.SYN_RECV,
    b.ESTABLISHED,
    b.FIN_WAIT1,
    b.FIN_WAIT2,
    b.CLOSE_WAIT,
    b.CLOSING,
    b.LAST_ACK,
    b.TIME_WAIT,
)
"""In the order of TCPSTATE."""

_INFO_BYTES = 88
_FIELDS = {
    "rtt_us": Field(20, "I"),
    "min_rtt_us": Field(24, "I"),
    "snd_wnd": Field(36, "I"),
    "bytes_sent": Field(48, "Q"),
    "bytes_received": Field(56, "Q"),
    "bytes_retrans": Field(68, "I"),
}
_IN_FLIGHT, _SEGMENT = Field(28, "I"), Field(4, "I")


class _PollEntry(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_size_t), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Winsock:
    """The three calls that Python's own sockets do not have."""

    def __init__(self) -> None:
        self._library = ctypes.WinDLL("ws2_32", use_last_error=True)

    def tcp_info(self, fd: int) -> bytes:
        """Return TCP_INFO_v0."""
        version, told = ctypes.c_ulong(0), ctypes.c_ulong(0)
        raw = ctypes.create_string_buffer(_INFO_BYTES)
        rc = self._library.WSAIoctl(
            ctypes.c_size_t(fd),
            ctypes.c_ulong(_SIO_TCP_INFO),
            ctypes.byref(version),
            ctypes.c_ulong(ctypes.sizeof(version)),
            raw,
            ctypes.c_ulong(len(raw)),
            ctypes.byref(told),
            None,
            None,
        )
        self._check(rc, "WSAIoctl(SIO_TCP_INFO)")
        return raw.raw[: told.value]

    def poll(self, fd: int) -> int:
        """Return what WSAPoll shows, without waiting."""
        entry = _PollEntry(fd, _POLLRDNORM, 0)
        self._check(self._library.WSAPoll(ctypes.byref(entry), ctypes.c_ulong(1), 0), "WSAPoll")
        shown: int = entry.revents
        return shown

    def unread(self, fd: int) -> int:
        """Return how many bytes wait to be read."""
        waiting = ctypes.c_ulong(0)
        command = ctypes.c_long(_FIONREAD)
        rc = self._library.ioctlsocket(ctypes.c_size_t(fd), command, ctypes.byref(waiting))
        self._check(rc, "ioctlsocket(FIONREAD)")
        return waiting.value

    def _check(self, rc: int, call: str) -> None:
        if rc == -1:
            raise OSError(_errno_of(ctypes.get_last_error()), call)


def _errno_of(code: int) -> int:
    """Return an error of winsock as Python's sockets would raise it."""
    known = {10004: errno.EINTR, 10009: errno.EBADF, 10013: errno.EACCES}
    known |= {10014: errno.EFAULT, 10022: errno.EINVAL, 10024: errno.EMFILE}
    return known.get(code, code)


_default_timeout = threading.Lock()


class Windows(Kernel):
    """Any Windows from Vista on."""

    def __init__(self, row: System) -> None:
        super().__init__(row, (ENABLED, INTERVAL, COUNT, USER_TIMEOUT, RTO_MAX, IDLE))

    @functools.cached_property
    def winsock(self) -> Winsock:
        return Winsock()

    @contextmanager
    def borrowed(self, fd: int) -> Iterator[socket.socket]:
        # A duplicate, see _linux.borrowed. Both share one blocking mode, which
        # a default timeout would change and nothing reads. IPv6 has room for
        # the addresses of both families.
        try:
            with _default_timeout:
                timeout = socket.getdefaulttimeout()
                if timeout is None:
                    sock = socket.fromfd(fd, socket.AF_INET6, socket.SOCK_STREAM)
                else:
                    socket.setdefaulttimeout(None)
                    try:
                        sock = socket.fromfd(fd, socket.AF_INET6, socket.SOCK_STREAM)
                    finally:
                        socket.setdefaulttimeout(timeout)
        except OSError as error:
            raise _closed(error) from None
        with sock:
            yield sock

    # ---- which Windows -----------------------------------------------------

    @functools.cached_property
    def _direct(self) -> bool:
        """Idle and interval are options of their own."""
        return self._answers(IDLE, "TCP_KEEPIDLE") and self._answers(INTERVAL, "TCP_KEEPINTVL")

    @functools.cached_property
    def _counts(self) -> bool:
        """The count is one, too."""
        return self._answers(COUNT, "TCP_KEEPCNT")

    @functools.cached_property
    def _give_up(self) -> tuple[int, int, int]:
        """The option that bounds retransmission, its unit in ms, and a fresh socket's value."""
        entry = self.row.options[USER_TIMEOUT]
        assert entry is not None
        for number, unit in ((entry.number, 1), (_TCP_MAXRT, 1000)):
            usual = self._usual(number)
            if usual is not None:
                return number, unit, usual
        return entry.number, 1, 0

    def _answers(self, option: int, name: str) -> bool:
        # Python takes the name away on a Windows that is too old for it.
        entry = self.row.options[option]
        return entry is not None and hasattr(socket, name) and self._usual(entry.number) is not None

    def _usual(self, number: int) -> int | None:
        """Return what a fresh socket holds, None where there is no such option."""
        with self._own() as sock:
            try:
                return sock.getsockopt(socket.IPPROTO_TCP, number)
            except OSError:
                return None

    def _has(self, sock: socket.socket, option: int) -> bool:
        if self._is_pair(option):
            try:
                self._keepalive_vals(sock, _DEFAULT_IDLE_MS, _DEFAULT_INTERVAL_MS)
            except OSError:
                return False
            return True
        return super()._has(sock, option)

    def _is_pair(self, option: int) -> bool:
        """Tell whether an option goes by SIO_KEEPALIVE_VALS, and cannot be read."""
        if option == COUNT:
            return not self._direct and not self._counts
        return option in (IDLE, INTERVAL) and not self._direct

    # ---- options -----------------------------------------------------------

    def _held(self, sock: socket.socket, option: int) -> int:
        if self._is_pair(option):
            return b.UNREADABLE if self.supported() >> option & 1 else LEAVE
        return super()._held(sock, option)

    def _get(self, sock: socket.socket, option: int) -> int:
        if option != USER_TIMEOUT:
            return super()._get(sock, option)
        number, unit, usual = self._give_up
        held = sock.getsockopt(socket.IPPROTO_TCP, number)
        if held == usual:  # the system's own limit is what "off" is elsewhere
            return 0
        return _NEVER_MS if held < 0 else min(held * unit, _NEVER_MS)

    def _put(self, sock: socket.socket, option: int, raw: int) -> None:
        if option != USER_TIMEOUT:
            super()._put(sock, option, raw)
            return
        number, unit, usual = self._give_up
        wanted = {0: usual, _NEVER_MS: _NEVER}.get(raw, -(-raw // unit))
        sock.setsockopt(socket.IPPROTO_TCP, number, wanted)

    def _set(self, sock: socket.socket, option: int, value: int) -> None:
        if self._is_pair(option):  # never half of it
            raise OSError(errno.ENOPROTOOPT, self.option_name(option))
        super()._set(sock, option, value)

    def _set_all(self, sock: socket.socket, values: Values, changed: list[int]) -> None:
        pair = None
        if not self._direct:  # refused, if at all, before anything is touched
            self._check_ranges(sock, values)
            pair = self._pair_of(sock, values)
        for option in self.order:
            if values[option] != LEAVE and not self._is_pair(option):
                self._set_named(sock, option, values[option])
                changed.append(option)
            if option == ENABLED and pair is not None:
                self._set_pair(sock, pair, changed)

    def _set_pair(self, sock: socket.socket, pair: tuple[int, int], changed: list[int]) -> None:
        enabled = self._get(sock, ENABLED)
        try:
            self._keepalive_vals(sock, *pair)
            changed.append(IDLE)  # which stands for both
            if not enabled:  # the call needs it on; off again, the values stay and wait
                changed.append(ENABLED)
                self._put(sock, ENABLED, 0)
        except OSError as error:
            raise self._fault(error, "WSAIoctl(SIO_KEEPALIVE_VALS)", sock) from None

    def _check_ranges(self, sock: socket.socket, values: Values) -> None:
        for option, value in enumerate(values):
            allowed = self.option_range(option)
            if value == LEAVE or (allowed and allowed[0] <= value <= allowed[1]):
                continue
            error = OSError(errno.EINVAL, "")
            raise self._fault(error, f"setsockopt({self.option_name(option)})", sock)

    def _pair_of(self, sock: socket.socket, values: Values) -> tuple[int, int] | None:
        """Return the milliseconds that SIO_KEEPALIVE_VALS is to have, if it is needed."""
        given = [o for o in (IDLE, INTERVAL, COUNT) if self._is_pair(o) and values[o] != LEAVE]
        if not given:
            return None
        missing = [self.option_name(o) for o in (IDLE, INTERVAL) if values[o] == LEAVE]
        if missing:
            call = f"setsockopt({self.option_name(given[0])}) without {' and '.join(missing)}"
            raise not_supported(call, self._kind(sock))
        interval_ms = values[INTERVAL] * 1000
        if COUNT in given:
            interval_ms = interval_ms * values[COUNT] // _FIXED_COUNT
        if interval_ms > _MOST_MS:
            raise fault(errno.EINVAL, f"setsockopt({self.option_name(INTERVAL)})", None)
        return values[IDLE] * 1000, interval_ms

    def _keepalive_vals(self, sock: socket.socket, idle_ms: int, interval_ms: int) -> None:
        sock.ioctl(_SIO_KEEPALIVE_VALS, (1, idle_ms, interval_ms))

    def _give_back(self, sock: socket.socket, option: int, value: int) -> None:
        if not self._is_pair(option):
            super()._give_back(sock, option, value)
        elif value == b.UNREADABLE:
            self._set_pair(sock, (_DEFAULT_IDLE_MS, _DEFAULT_INTERVAL_MS), [])
        else:  # half of a pair
            raise not_supported(f"setsockopt({self.option_name(option)})", self._kind(sock))

    # ---- which socket ------------------------------------------------------

    def _has_ended(self, fd: int) -> bool:
        shown = self.pending(fd)  # a socket that was never connected shows neither
        return shown.rdhup or shown.error

    # ---- what the kernel shows ---------------------------------------------

    def tcp_info(self, fd: int) -> Info:
        call = "WSAIoctl(SIO_TCP_INFO)"
        try:
            raw = self.winsock.tcp_info(fd)
            if not raw:
                raise OSError(errno.EOPNOTSUPP, call)
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                raise _closed(error) from None
            return self._untold(fd, error, call)
        info = decoded(raw, _STATES, _FIELDS)
        if info.state in (-1, b.CLOSE):  # ended, or never begun: WSAPoll knows
            with self.borrowed(fd) as sock:
                self._must_be_connected(fd, sock, call)
            info = info._replace(state=-1)
        in_flight, segment = (
            int.from_bytes(raw[field.offset : field.offset + 4], "little")
            for field in (_IN_FLIGHT, _SEGMENT)
        )
        # What had room and is not in flight does not wait either.
        waits = -1 if in_flight or info.snd_wnd < max(1, segment) else 0
        return info._replace(unacked=-(-in_flight // max(1, segment)), notsent_bytes=waits)

    def _untold(self, fd: int, error: OSError, call: str) -> Info:
        """Return nothing but -1 if this is a connection of which the system says no more."""
        with self.borrowed(fd) as sock:
            self._must_be_connected(fd, sock, call)
            if error.errno not in (*ABSENT, errno.EINVAL, errno.ENOTCONN):
                raise self._fault(error, call, sock)
        return UNTOLD

    def _must_be_connected(self, fd: int, sock: socket.socket, call: str) -> None:
        """Say so if there is no connection, and never was one."""
        kind = self._kind(sock)
        if not is_tcp(kind):
            raise not_supported(call, kind)
        if kind[3]:
            raise fault(errno.EOPNOTSUPP, call, kind)
        try:
            sock.getpeername()
        except OSError:
            if not self.pending(fd).error:  # else a connect that failed
                raise fault(errno.ENOTCONN, call, kind) from None

    def pending(self, fd: int) -> Pending:
        try:
            shown = self.winsock.poll(fd)
        except OSError as error:
            raise _closed(error) from None
        if shown & _POLLNVAL:
            raise fault(errno.EBADF, "WSAPoll", None)
        unread = 0
        if shown & _POLLRDNORM:
            with contextlib.suppress(OSError):  # a listening socket has no bytes
                unread = self.winsock.unread(fd)
        # A hang-up alone is the peer's end; with an error it is everything's.
        broken, over = bool(shown & _POLLERR), bool(shown & _POLLHUP)
        return Pending(broken, hangup=broken and over, rdhup=over, fin=False, unread=unread)


def _closed(error: OSError) -> OSError:
    """Say of a handle that is no socket any more what other systems say."""
    if error.errno in (errno.ENOTSOCK, errno.EBADF):
        return fault(errno.EBADF, "WSADuplicateSocket", None)
    return error


_here = Windows(system())

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

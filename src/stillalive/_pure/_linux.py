"""Keepalive options and TCP_INFO on Linux, with the standard library alone.

The order in which a policy is set, and why, is told in ext/sockopt/linux.c;
a policy that cannot be set whole leaves the socket as it was.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import select
import socket
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import _backend as b
from .._backend import COUNT, ENABLED, IDLE, INTERVAL, LEAVE, RTO_MAX, USER_TIMEOUT, Info, Values
from .._errors import Kind, fault, not_supported
from ._kernel import Pending

if TYPE_CHECKING:
    from collections.abc import Iterator

assert not TYPE_CHECKING or sys.platform == "linux"

ASKS = True

SO_PROTOCOL, _SO_DOMAIN, SO_COOKIE = 38, 39, 57
TCP_INFO = 11
_IPPROTO_MPTCP = 262
SIOCINQ = 0x541B
SIOCOUTQ = 0x5411

# (level, number, name, lowest, highest)
_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, "SO_KEEPALIVE", 0, 1),
    (socket.IPPROTO_TCP, 4, "TCP_KEEPIDLE", 1, 32767),
    (socket.IPPROTO_TCP, 5, "TCP_KEEPINTVL", 1, 32767),
    (socket.IPPROTO_TCP, 6, "TCP_KEEPCNT", 1, 127),
    (socket.IPPROTO_TCP, 18, "TCP_USER_TIMEOUT", 0, 2**31 - 1),
    (socket.IPPROTO_TCP, 44, "TCP_RTO_MAX_MS", 1000, 120000),
)
_SET_ORDER = (ENABLED, INTERVAL, COUNT, USER_TIMEOUT, RTO_MAX, IDLE)

# Where Info's fields lie in struct tcp_info: (offset, struct code).
INFO_FIELDS = (
    (0, "B"),
    (2, "B"),
    (3, "B"),
    (4, "B"),
    (8, "I"),
    (68, "I"),
    (72, "I"),
    (148, "I"),
    (24, "I"),
    (44, "I"),
    (52, "I"),
    (56, "I"),
    (100, "I"),
    (120, "Q"),
    (128, "Q"),
    (136, "I"),
    (140, "I"),
    (144, "I"),
    (152, "I"),
    (156, "I"),
    (200, "Q"),
    (208, "Q"),
    (228, "I"),
)
INFO_BYTES = 280


@contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """Use a descriptor that somebody else owns as a socket object."""
    # A duplicate: an exception raised anywhere here (Ctrl-C is one) drops the
    # object, and its finalizer must not close the owner's descriptor.
    # SOCK_NONBLOCK: without it socket.setdefaulttimeout() would make the
    # constructor change the owner's blocking mode.
    with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        yield sock


def _raise(code: int, call: str, sock: socket.socket) -> OSError:
    return fault(code, call, _kind(sock))


def option_name(option: int) -> str:
    return _OPTIONS[option][2] if 0 <= option < len(_OPTIONS) else "?"


def option_range(option: int) -> tuple[int, int] | None:
    return _OPTIONS[option][3:] if 0 <= option < len(_OPTIONS) else None


@functools.cache
def supported() -> int:
    found = 0
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:  # a host without IPv4
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with sock:
        for option, (level, number, *_) in enumerate(_OPTIONS):
            try:
                sock.getsockopt(level, number)
            except OSError:
                continue
            found |= 1 << option
    return found


def _kind(sock: socket.socket) -> Kind:
    family, type_, protocol, listening = (
        sock.getsockopt(socket.SOL_SOCKET, number)
        for number in (_SO_DOMAIN, socket.SO_TYPE, SO_PROTOCOL, socket.SO_ACCEPTCONN)
    )
    return family, type_, protocol, bool(listening)


def kind(fd: int) -> Kind:
    with borrowed(fd) as sock:
        return _kind(sock)


def identify(fd: int) -> int:
    with borrowed(fd) as sock:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        except OSError as error:
            raise _raise(error.errno or 0, "getsockopt(SO_COOKIE)", sock) from None
    cookie: int = struct.unpack("=Q", raw)[0]
    return cookie


def _read(sock: socket.socket) -> Values:
    held = []
    for option, (level, number, name, *_) in enumerate(_OPTIONS):
        try:
            held.append(sock.getsockopt(level, number))
        except OSError as error:
            if option == IDLE or error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                raise _raise(error.errno or 0, f"getsockopt({name})", sock) from None
            held.append(LEAVE)
    enabled, idle, interval, count, user_timeout, rto_max = held
    return enabled, idle, interval, count, user_timeout, rto_max


def read_options(fd: int) -> Values:
    with borrowed(fd) as sock:
        return _read(sock)


def _set(sock: socket.socket, option: int, value: int) -> None:
    level, number, name, *_ = _OPTIONS[option]
    try:
        sock.setsockopt(level, number, value)
    except OSError as error:
        raise _raise(error.errno or 0, f"setsockopt({name})", sock) from None


def set_option(fd: int, option: int, value: int) -> None:
    """Set one option, for the probe."""
    with borrowed(fd) as sock:
        _set(sock, option, value)


def _settable(option: int, value: int) -> int:
    """Return the nearest that setsockopt takes: a default from sysctl may lie beyond."""
    return min(value, _OPTIONS[option][4])


def put_back(fd: int, option: int, value: int) -> None:
    """Give an option back."""
    set_option(fd, option, _settable(option, value))


def apply_options(fd: int, values: Values) -> Values:
    with borrowed(fd) as sock:
        before = _read(sock)
        for option, value in enumerate(values):
            if value != LEAVE and before[option] == LEAVE:
                raise not_supported(f"getsockopt({_OPTIONS[option][2]})", kind(fd))
        done: list[int] = []
        try:
            for option in _SET_ORDER:
                if values[option] != LEAVE:
                    _set(sock, option, values[option])
                    done.append(option)
            return _read(sock)
        except BaseException:
            for option in reversed(done):
                _set(sock, option, _settable(option, before[option]))
            raise


class Policy:
    """Six values ready to be set, for sockets just made or accepted."""

    __slots__ = ("_steps",)

    def __init__(self, values: Values) -> None:
        self._steps = [(option, values[option]) for option in _SET_ORDER if values[option] != LEAVE]

    def apply(self, fd: int) -> None:
        with borrowed(fd) as sock:
            for option, value in self._steps:
                _set(sock, option, value)


def tcp_info(fd: int) -> Info:
    with borrowed(fd) as sock:
        try:
            raw = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO_BYTES)
        except OSError as error:
            raise _raise(error.errno or 0, "getsockopt(TCP_INFO)", sock) from None
    if len(raw) < 104:  # Linux 2.6's; nothing older is worth decoding
        raise not_supported("getsockopt(TCP_INFO)", kind(fd))
    return Info(
        *(
            struct.unpack_from("=" + code, raw, offset)[0]
            if offset + struct.calcsize("=" + code) <= len(raw)
            else -1
            for offset, code in INFO_FIELDS
        )
    )


def queued(fd: int, request: int) -> int:
    """Return the bytes of a queue: SIOCINQ, not read; SIOCOUTQ, not acknowledged."""
    found: int = struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return found


def pending(fd: int) -> Pending:
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLRDHUP)
    shown = poller.poll(0)
    events = shown[0][1] if shown else 0
    if events & select.POLLNVAL:
        raise fault(errno.EBADF, "poll", None)
    unread = 0
    if events & select.POLLIN:
        try:
            unread = queued(fd, SIOCINQ)
        except OSError:  # a listening socket has no bytes
            unread = 0
    # On TCP POLLRDHUP may be our own shutdown(SHUT_RD), and the state tells the
    # peer's FIN. An MPTCP connection ends above its subflows, whose states
    # TCP_INFO shows.
    fin = bool(events & select.POLLRDHUP) and kind(fd)[2] == _IPPROTO_MPTCP
    if fin and unread > 0:  # MPTCP counts its DATA_FIN as a byte
        unread -= 1
    error, hangup, rdhup = (
        bool(events & bit) for bit in (select.POLLERR, select.POLLHUP, select.POLLRDHUP)
    )
    return Pending(error, hangup, rdhup, fin, unread)


def ask(fd: int, saved: Values, guard: int) -> int:
    """Make the kernel send a question; return in how many ms at the earliest."""
    if guard != b.UNGUARDED:
        _protect(fd, saved, guard)
    set_option(fd, IDLE, 1)
    return 0


def _protect(fd: int, saved: Values, guard: int) -> None:
    """Set what keeps a probe from killing."""
    if guard == b.GUARD_TIMEOUT:  # it overrules the count, which can go no higher
        set_option(fd, USER_TIMEOUT, 2**31 - 1)
    set_option(fd, ENABLED, 1)
    set_option(fd, COUNT, 127)
    if guard == b.GUARD_COUNT and saved[USER_TIMEOUT] > 0:
        set_option(fd, USER_TIMEOUT, 0)


def unask(fd: int, saved: Values) -> None:
    """Put back what `ask` changed."""
    # Off first where it was off: then the rest arms no timer.
    for option in (ENABLED, IDLE, COUNT, USER_TIMEOUT):
        if saved[option] != LEAVE:
            put_back(fd, option, saved[option])

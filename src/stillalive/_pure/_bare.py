"""What the kernel says about a descriptor, asked by its number alone.

No duplicate is made: at the limit of open files there is no number for one,
and it would keep open what its owner closes. Nothing but questions may be put
this way, because the number may mean another socket by the time of the next.
"""

from __future__ import annotations

import errno
import operator
import resource
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from .. import _backend as b
from .._backend import Info

if sys.platform == "linux":
    from ._linux import (
        INFO_BYTES,
        INFO_FIELDS,
        SIOCINQ,
        SO_COOKIE,
        SO_PROTOCOL,
        TCP_INFO,
        queued,
    )

assert not TYPE_CHECKING or sys.platform == "linux"

Address = tuple[bytes, int, int]
"""(packed address, port, scope)."""

_BOUND_MOST = 1 << 20
_SOL_MPTCP, _MPTCP_INFO = 284, 1
_PROTOCOLS = (socket.IPPROTO_TCP, 262)
"""TCP's and MPTCP's."""

MAPPED = bytes(10) + b"\xff\xff"

# SOCK_NONBLOCK keeps the constructor from changing the owner's blocking mode
# under socket.setdefaulttimeout(); AF_INET6 has room for the addresses of both.
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def _whole() -> tuple[struct.Struct, operator.itemgetter[tuple[int, ...]]]:
    """Return how to take all of Info out of struct tcp_info at once."""
    layout, end = "=", 0
    order = sorted(range(len(INFO_FIELDS)), key=lambda field: INFO_FIELDS[field][0])
    for field in order:
        offset, code = INFO_FIELDS[field]
        layout += "x" * (offset - end) + code
        end = offset + struct.calcsize("=" + code)
    places = [order.index(field) for field in range(len(INFO_FIELDS))]
    return struct.Struct(layout), operator.itemgetter(*places)


_WHOLE, _IN_ORDER = _whole()


def lens(number: int) -> socket.SocketType:
    """Return an object for questions about a number; `detach` it in any case.

    One that is not detached closes the number, which belongs to somebody else.
    """
    return socket.SocketType(socket.AF_INET6, _TYPE, 0, number)


def identity_of(sock: socket.SocketType) -> int:
    """Return what names the socket itself."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)


def info_of(sock: socket.SocketType) -> Info:
    """Return the kernel's counters."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO_BYTES)
    if len(raw) >= _WHOLE.size:
        return Info(*_IN_ORDER(_WHOLE.unpack_from(raw)))
    return Info(
        *(
            struct.unpack_from("=" + code, raw, offset)[0]
            if offset + struct.calcsize("=" + code) <= len(raw)
            else -1
            for offset, code in INFO_FIELDS
        )
    )


def identity(number: int) -> int:
    """Return what names the socket behind a number."""
    sock = lens(number)
    try:
        return identity_of(sock)
    finally:
        sock.detach()


def look(number: int) -> tuple[int, Info]:
    """Return who is behind a number, and its counters; those may be of the next one."""
    sock = lens(number)
    try:
        return identity_of(sock), info_of(sock)
    finally:
        sock.detach()


class Found(NamedTuple):
    """What discovery must know of a socket."""

    port: int
    listening: bool
    connected: bool
    """Has been: also half-closed, also ended."""


def was_connected(info: Info) -> bool:
    """Tell whether there is, or has been, a connection."""
    if info.state == b.CLOSE:
        refused = info.rtt_us <= 0 and info.segs_in == 1
        return info.segs_in > 0 and not refused
    return info.state not in (b.LISTEN, b.SYN_SENT, b.SYN_RECV)


def examine(number: int) -> Found | None:
    """Return what is behind a number, None when it is no TCP socket."""
    sock = lens(number)
    try:
        if sock.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL) not in _PROTOCOLS:
            return None
        info = info_of(sock)
        name = sock.getsockname()
        if not isinstance(name, tuple):  # not of the Internet
            return None
        return Found(name[1], info.state == b.LISTEN, was_connected(info))
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return None  # 6 is also a protocol of raw and of netlink sockets
    finally:
        sock.detach()


def _packed(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    if len(name) == 2:
        return socket.inet_pton(socket.AF_INET, name[0]), name[1], 0
    packed = socket.inet_pton(socket.AF_INET6, name[0].partition("%")[0])
    if packed.startswith(MAPPED):
        return packed[12:], name[1], 0
    return packed, name[1], name[3]


def endpoints(sock: socket.SocketType) -> tuple[Address | None, Address | None]:
    """Return the local address and the peer's."""
    try:
        local = _packed(sock.getsockname())
    except OSError:
        local = None
    try:
        return local, _packed(sock.getpeername())
    except OSError:  # it has ended
        return local, None


def addresses(number: int, identity: int) -> tuple[Address | None, Address | None]:
    """Return the addresses of the socket behind a number, if it is the one that is meant."""
    try:
        sock = lens(number)
    except OSError:
        return None, None
    try:
        found = endpoints(sock)
        # Asked afterwards, it cannot have been another in between.
        return found if identity_of(sock) == identity else (None, None)
    except OSError:
        return None, None
    finally:
        sock.detach()


def has_paths(sock: socket.SocketType) -> bool:
    """Tell whether it is MPTCP, with more than the path whose counters can be seen."""
    try:
        return sock.getsockopt(_SOL_MPTCP, _MPTCP_INFO, 1) > b"\0"
    except OSError:
        return False


def unread(sock: socket.SocketType) -> int:
    """Return how many bytes the owner has not read."""
    try:
        return queued(sock.fileno(), SIOCINQ)
    except OSError:  # a listening socket has none
        return 0


def bound() -> int:
    """Return a number that is above those of all open descriptors."""
    try:
        # Not /proc/self: a process whose first thread has ended shows 0 there.
        with open("/proc/thread-self/status", "rb") as status:
            for line in status:
                if line.startswith(b"FDSize:"):
                    return min(int(line.split()[1]), _BOUND_MOST)
    except OSError:  # no /proc, or no number left: then those below the limit are taken
        pass
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _BOUND_MOST if soft == resource.RLIM_INFINITY else min(soft, _BOUND_MOST)

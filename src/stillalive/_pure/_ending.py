"""How a connection under watch begins, and how it has ended: the twin of ext/core/ending.c."""

from __future__ import annotations

import errno
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import _backend as b
from .._backend import Info
from ._verdict import verdict_of

if sys.platform == "linux":
    from . import _bare as bare
    from . import _linux as system

assert not TYPE_CHECKING or sys.platform == "linux"

_CAUSES = {b.RESET: b.FOR_RESET, b.DEAD: b.FOR_TIMED_OUT, b.PEER_CLOSED: b.FOR_GONE}
_NO_CONNECTION = (errno.ENOTCONN, errno.EOPNOTSUPP)
"""Its owner has disconnected it, and may be listening by now."""


class FirstLook:
    """How a connection looks before anything is asked of its peer.

    The answer can be a reset, and when the owner's blocked call takes that
    error, only who has seen the connection open can tell how it has ended.
    """

    __slots__ = ("at_ms", "ends", "identity", "info")

    def __init__(self, fd: int) -> None:
        self.identity = system.identify(fd)
        self.at_ms = time.monotonic_ns() // 1_000_000
        self.info = system.tcp_info(fd)
        self.ends = bare.addresses(fd, self.identity)


class End(NamedTuple):
    """What is told of it."""

    cause: int
    err: int
    info: Info
    unread: int


def acked_beyond(info: Info) -> int | None:
    """Return what was acknowledged beyond the bytes that were sent.

    That is a SYN where we connected, and a FIN; negative while bytes are under
    way. None: it is not told.
    """
    if min(info.bytes_acked, info.bytes_sent, info.bytes_retrans) < 0:
        return None
    return info.bytes_acked - (info.bytes_sent - info.bytes_retrans)


def how_it_ended(fd: int, info: Info, seen: Info | None, waited_ms: int, beyond: int) -> End | None:
    """Return the end; None when only a part of an MPTCP connection has ended.

    `seen` is the last look at it open, `waited_ms` ago: who has seen that can
    tell a reset from a timeout. `beyond` is :func:`acked_beyond` of a time when
    nothing was under way.
    """
    try:
        info, (state, reason, err, _, _, unread, _) = verdict_of(fd, info, seen, waited_ms)
    except OSError as error:
        if error.errno not in _NO_CONNECTION:
            raise
        return End(b.FOR_GONE, 0, info, 0)
    if state not in _CAUSES:
        return None
    cause = _CAUSES[state]
    if reason == b.WHY_CLOSED and seen is not None and _has_broken(fd, info, seen, beyond):
        cause, err = _ask_counters(info, seen)
    return End(cause, err, info, unread)


def _unacked(fd: int) -> int:
    """Return the bytes, and the end, that the peer has not acknowledged."""
    return system.queued(fd, system.SIOCOUTQ)


def _has_broken(fd: int, info: Info, seen: Info, beyond: int) -> bool:
    """Tell whether an end that shows no error has not come in order.

    The owner's blocked call may have taken the error. But two who close in
    order acknowledge everything, each other's FIN too. Where all is, the
    counters show whether there was a FIN; they must be the same as before it,
    because what our own host dropped counts twice as sent.
    """
    if info.segs_in <= 0:  # disconnected by its owner
        return False
    if seen.state == b.SYN_SENT and info.rtt_us <= 0:  # never connected
        return False
    return _unacked(fd) > 0 or acked_beyond(info) == beyond


def _ask_counters(info: Info, seen: Info) -> tuple[int, int]:
    """Return the cause, and the error, of what has broken."""
    # Nothing came, and we had asked: our own timers. Linux reads the state
    # before it locks the counters, so these may hold a reset already.
    if info.segs_in == seen.segs_in and max(info.retransmits, info.probes) > 0:
        return b.FOR_TIMED_OUT, errno.ETIMEDOUT
    return b.FOR_RESET, errno.EPIPE if seen.state == b.CLOSE_WAIT else errno.ECONNRESET

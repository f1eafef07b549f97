"""How a connection under watch has ended: the twin of the end of ext/core/deed.c."""

from __future__ import annotations

import errno
from typing import NamedTuple

from .. import _backend as b
from .._backend import Info
from ._verdict import verdict_of

_CAUSES = {b.RESET: b.FOR_RESET, b.DEAD: b.FOR_TIMED_OUT, b.PEER_CLOSED: b.FOR_GONE}
_NO_CONNECTION = (errno.ENOTCONN, errno.EOPNOTSUPP)
"""Its owner has disconnected it, and may be listening by now."""


class End(NamedTuple):
    """What is told of it."""

    cause: int
    err: int
    info: Info
    unread: int


def acked_beyond(info: Info) -> int:
    """Return what was acknowledged beyond the bytes that were sent: a SYN, a FIN. -1: not told."""
    if min(info.bytes_acked, info.bytes_sent, info.bytes_retrans) < 0:
        return -1
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
    if reason == b.WHY_CLOSED and seen is not None:
        cause, err = _ask_counters(info, seen, beyond)
    return End(cause, err, info, unread)


def _ask_counters(info: Info, seen: Info, beyond: int) -> tuple[int, int]:
    """Return the cause, and the error, of an end that shows none.

    The owner's blocked call may have taken it. But two who close in order
    acknowledge each other's FIN; where ours was not, it has broken.
    """
    if beyond < 0 or info.segs_in <= 0 or acked_beyond(info) > beyond:
        return b.FOR_GONE, 0
    if info.segs_in == seen.segs_in:  # nothing came: our own timers
        return b.FOR_TIMED_OUT, errno.ETIMEDOUT
    return b.FOR_RESET, errno.EPIPE if seen.state == b.CLOSE_WAIT else errno.ECONNRESET

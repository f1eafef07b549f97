"""What TCP_INFO and poll() prove about the peer.

The rules, and the dangers behind them, are those of ext/core/liveness.c: the
state before the counters, an end named only as far as it is known, and no
silence without a question. Neither SO_ERROR nor recv is used: both would take
the error away from the socket's owner.
"""

from __future__ import annotations

import contextlib
import errno

from .. import _backend as b
from .._backend import Info, Values, Verdict
from .._errors import fault
from ._kernel import Pending
from ._system import system

_JUST_HEARD_MS = 1000
_TCP_INFO = "getsockopt(TCP_INFO)"
_ENDED = (errno.ENOTCONN, errno.ECONNRESET)
"""What systems answer that forget a connection with its end; Linux does not."""


def _heard_ms(info: Info) -> int:
    told = [ms for ms in (info.last_ack_recv_ms, info.last_data_recv_ms) if ms >= 0]
    return min(told, default=-1)


def _unanswered(info: Info) -> int:
    return max(info.probes, info.retransmits, 0)


def _may_have_timed_out(fd: int, info: Info) -> bool:
    if info.retransmits > 0 or (info.probes < 0 and info.retransmits < 0):
        return True  # or it is not told
    if info.probes <= 0:
        return False
    held = system.read_options(fd)
    if held[b.USER_TIMEOUT] > 0:
        return _heard_ms(info) >= held[b.USER_TIMEOUT]
    return info.probes >= held[b.COUNT]


def _reset(first: Info | None) -> tuple[int, int, int]:
    """Name what the owner of a connection that a reset ended is told."""
    if first is not None and first.state == b.SYN_SENT:
        return b.RESET, b.WHY_RST, errno.ECONNREFUSED
    half_closed = first is not None and first.state == b.CLOSE_WAIT
    return b.RESET, b.WHY_RST, errno.EPIPE if half_closed else errno.ECONNRESET


def _ended_by(code: int) -> tuple[int, int, int]:
    """Name an end whose error the system shows."""
    if code in (errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE, errno.ECONNABORTED):
        return b.RESET, b.WHY_RST, code
    return b.DEAD, b.WHY_TIMED_OUT, code


def _ended(
    fd: int, info: Info, pending: Pending, first: Info | None, waited_ms: int
) -> tuple[int, int, int]:
    error = pending.error
    seen_open = first is not None and first.state != b.CLOSE and first.segs_in >= 0
    timers = _may_have_timed_out(fd, info)
    if pending.code:
        return _ended_by(pending.code)
    if seen_open and first is not None and info.segs_in == first.segs_in and (error or timers):
        return b.DEAD, b.WHY_TIMED_OUT, errno.ETIMEDOUT  # nothing came: our own timers
    if not error:
        return b.PEER_CLOSED, b.WHY_CLOSED, 0
    if seen_open and (_heard_ms(info) >= waited_ms or not timers):
        return _reset(first)
    if not timers:
        return _reset(None)
    return b.DEAD, b.WHY_RST_OR_TIMEOUT, 0


def _open(info: Info, answered: bool, waited_ms: int) -> tuple[int, int, int]:
    heard = _heard_ms(info)
    if answered or 0 <= heard < waited_ms:
        return b.ALIVE, b.WHY_ANSWERED, 0
    if 0 <= heard <= _JUST_HEARD_MS:
        return b.ALIVE, b.WHY_HEARD, 0
    return b.OPEN, b.WHY_UNANSWERED if _unanswered(info) else b.WHY_QUIET, 0


def _by_poll(pending: Pending) -> tuple[int, int, int]:
    """Judge where the state is not told."""
    if pending.code:
        return _ended_by(pending.code)
    if pending.error:
        return b.DEAD, b.WHY_RST_OR_TIMEOUT, 0
    if pending.rdhup:
        return b.PEER_CLOSED, b.WHY_FIN, 0
    if pending.hangup:
        return b.PEER_CLOSED, b.WHY_CLOSED, 0
    return b.OPEN, b.WHY_QUIET, 0


def _outdated(info: Info, pending: Pending) -> bool:
    """Tell whether poll() shows the end, but TCP_INFO did not yet."""
    if info.state < 0:
        return False
    if pending.hangup or pending.error:
        return info.state not in (b.CLOSE, b.LISTEN)
    return pending.rdhup and info.state == b.ESTABLISHED


def _never_was(info: Info, pending: Pending) -> bool:
    """Tell a socket that was never connected from a connection that has ended."""
    if pending.error or info.segs_in > 0 or info.segs_out > 0:
        return False
    # Where the end takes the counters with it hanging up tells them apart; Linux does so in both.
    return not pending.hangup or info.rtt_us >= 0


def verdict_of(
    fd: int,
    info: Info,
    first: Info | None = None,
    waited_ms: int = 0,
    answered: bool = False,
) -> tuple[Info, Verdict]:
    """Return the counters that were judged, and the verdict; `first` was seen `waited_ms` ago."""
    pending = system.pending(fd)
    if _outdated(info, pending):
        info = system.tcp_info(fd)
    heard = _heard_ms(info)
    if pending.fin and not pending.error:
        state, reason, code = b.PEER_CLOSED, b.WHY_FIN, 0
    elif info.state < 0:
        state, reason, code = _by_poll(pending)
    elif info.state == b.LISTEN:
        raise fault(errno.EOPNOTSUPP, _TCP_INFO, system.kind(fd))
    elif info.state == b.CLOSE:
        if info.rtt_us <= 0 and info.segs_in == 1:  # refused
            heard = -1
        if _never_was(info, pending):
            raise fault(errno.ENOTCONN, _TCP_INFO, None)
        if pending.hangup or pending.error:
            state, reason, code = _ended(fd, info, pending, first, waited_ms)
        else:  # MPTCP: its first subflow is gone, others carry on
            state, reason, code = b.OPEN, b.WHY_QUIET, 0
    elif info.state in (b.SYN_SENT, b.SYN_RECV):
        state, reason, code, heard = b.OPEN, b.WHY_CONNECTING, 0, -1
    elif info.state in (b.CLOSE_WAIT, b.LAST_ACK, b.CLOSING, b.TIME_WAIT):
        state, reason, code = b.PEER_CLOSED, b.WHY_FIN, 0
    else:
        state, reason, code = _open(info, answered, waited_ms)
    return info, (state, reason, code, 0, heard, pending.unread, _unanswered(info))


def check(fd: int) -> Verdict:
    return verdict_of(fd, system.tcp_info(fd))[1]


def _kernel_asks(info: Info) -> bool:
    return (
        info.unacked > 0
        or info.notsent_bytes > 0
        or info.state in (b.SYN_SENT, b.SYN_RECV, b.FIN_WAIT1)
    )


def _keep_asking(info: Info, verdict: Verdict) -> Verdict:
    # Blind: an answer to a probe would show in nothing that this kernel tells.
    blind = info.segs_in < 0 and _heard_ms(info) < 0
    if verdict[0] != b.OPEN or (blind and verdict[1] == b.WHY_CONNECTING):
        return verdict
    if blind:
        return b.UNKNOWN, b.WHY_CANNOT_TELL, *verdict[2:]
    if _kernel_asks(info):
        return b.ASKING, b.WHY_KERNEL_ASKS, *verdict[2:]
    if system.ASKS:
        return b.ASKING, b.WHY_MUST_ASK, *verdict[2:]
    return b.UNKNOWN, b.WHY_CANNOT_ASK, *verdict[2:]


def _is_named(fd: int, identity: int, ended: bool = False) -> bool:
    """Tell whether it is the socket that is meant, or, with `ended`, may have been."""
    try:
        return system.identify(fd) == identity
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # its end has taken the name
            raise
        return ended


class Witness:
    """Say whether the peer of one socket was heard since begin()."""

    __slots__ = ("_began_ms", "_fd", "_first", "_segs_in", "identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.identity = 0

    def begin(self, now_ms: int) -> Verdict:
        self._began_ms = now_ms
        self._first = system.tcp_info(self._fd)
        self._segs_in = self._first.segs_in
        try:
            self.identity = system.identify(self._fd)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.identity = 0  # its end has taken the name; what follows tells which end
        return _keep_asking(*verdict_of(self._fd, self._first))

    def _look(self, asked: int, now_ms: int) -> tuple[Info, Verdict]:
        if not _is_named(self._fd, self.identity, ended=True):
            raise fault(errno.EBADF, _TCP_INFO, None)
        # What shows in nothing but the counter may be a reset on its way in:
        # it is an answer only if the connection still stands at the next look.
        answered = self._segs_in != self._first.segs_in
        waited_ms = now_ms - self._began_ms
        info, verdict = verdict_of(
            self._fd, system.tcp_info(self._fd), self._first, waited_ms, answered
        )
        self._segs_in = info.segs_in
        own = max(0, info.total_retrans - self._first.total_retrans)
        if asked == 0:
            own += max(0, info.probes - self._first.probes)
        return info, (*verdict[:3], asked + own, *verdict[4:])

    def look(self, asked: int, now_ms: int) -> Verdict:
        return _keep_asking(*self._look(asked, now_ms))

    def give_up(self, asked: int, now_ms: int) -> Verdict:
        _, verdict = self._look(asked, now_ms)
        if self._segs_in != self._first.segs_in:
            _, verdict = self._look(asked, now_ms)
        if verdict[0] != b.OPEN:
            return verdict
        if verdict[3] > 0 or verdict[6] >= b.UNANSWERED_MAX:
            return b.SILENT, b.WHY_NO_ANSWER, *verdict[2:]
        return b.OPEN, b.WHY_NO_QUESTION, *verdict[2:]


class Question:
    """Borrow the options of one socket to ask its peer, and give them back."""

    __slots__ = ("_asked_ms", "_fd", "_guard", "_identity", "asked", "saved")

    def __init__(self, fd: int, identity: int) -> None:
        self._fd = fd
        self._identity = identity
        self._asked_ms = 0
        self._guard = b.UNGUARDED
        self.asked = 0
        self.saved: Values | None = None

    def __del__(self) -> None:
        # The last resort, after an exception in the caller's own bookkeeping.
        with contextlib.suppress(OSError):
            self.end()

    def ask(self, now_ms: int) -> bool:
        if self.asked > 0 and now_ms - self._asked_ms < b.ASK_SPACING_MS:
            return False
        if self.saved is not None and now_ms < self._asked_ms:
            return False  # the last one has not left yet
        try:
            return self._put(now_ms)
        except OSError as error:
            if error.errno not in _ENDED:
                raise
            return False  # as the next look will tell

    def _put(self, now_ms: int) -> bool:
        if system.identify(self._fd) != self._identity:
            raise fault(errno.EBADF, "getsockopt(SO_COOKIE)", None)
        probes = system.tcp_info(self._fd).probes
        if self.saved is None:
            self.saved = system.read_options(self._fd)
        guard = b.GUARD_COUNT if probes < b.UNANSWERED_MAX else b.GUARD_TIMEOUT
        if guard == b.GUARD_TIMEOUT and self.saved[b.USER_TIMEOUT] == b.LEAVE:
            self.end()
            return False
        try:
            leaves_ms = system.ask(
                self._fd, self.saved, guard if self._guard < guard else b.UNGUARDED
            )
        except OSError:
            if self._guard < guard:  # half a guard is none
                with contextlib.suppress(OSError):
                    self.end()
            raise
        self._guard = max(self._guard, guard)
        self._asked_ms = now_ms + leaves_ms
        if leaves_ms > 0:  # what has not left is no question yet
            return False
        self.asked += 1
        return True

    def end(self) -> None:
        if self.saved is None:
            return
        try:
            same = _is_named(self._fd, self._identity)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            same = False
        saved, self.saved, self._guard = self.saved, None, b.UNGUARDED
        if same:  # else closed or ended: nothing of the owner's is left to mend
            system.unask(self._fd, saved)

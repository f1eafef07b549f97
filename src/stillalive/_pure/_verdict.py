"""What TCP_INFO and poll() prove about the peer.

The rules, and the dangers behind them, are those of ext/core/liveness.c: the
state before the counters, an end named only as far as it is known, and no
silence without a question. Neither SO_ERROR nor recv is used: both would take
the error away from the socket's owner.
"""

from __future__ import annotations

import errno
import sys

from .. import _backend as b
from .._backend import Info, Values, Verdict
from .._errors import fault

if sys.platform == "linux":
    from . import _linux as system
else:
    from . import _none as system

_JUST_HEARD_MS = 1000
_TCP_INFO = "getsockopt(TCP_INFO)"


def _heard_ms(info: Info) -> int:
    told = [ms for ms in (info.last_ack_recv_ms, info.last_data_recv_ms) if ms >= 0]
    return min(told, default=-1)


def _may_have_timed_out(fd: int, info: Info) -> bool:
    if info.retransmits > 0:
        return True
    if info.probes <= 0:
        return False
    held = system.read_options(fd)
    if held[b.USER_TIMEOUT] > 0:
        return _heard_ms(info) >= held[b.USER_TIMEOUT]
    return info.probes >= held[b.COUNT]


def _ended(fd: int, info: Info, error: bool, first: Info | None) -> tuple[int, int, int]:
    if not error:
        return b.PEER_CLOSED, b.WHY_CLOSED, 0
    if first is not None and first.state != b.CLOSE and first.segs_in >= 0:
        reset, told = info.segs_in != first.segs_in, True
    else:
        reset = told = not _may_have_timed_out(fd, info)
    if reset:
        return b.RESET, b.WHY_RST, errno.ECONNRESET
    if told:
        return b.DEAD, b.WHY_TIMED_OUT, errno.ETIMEDOUT
    return b.DEAD, b.WHY_RST_OR_TIMEOUT, 0


def _open(info: Info, first: Info | None, waited_ms: int) -> tuple[int, int, int]:
    heard = _heard_ms(info)
    if first is not None and (info.segs_in != first.segs_in or 0 <= heard < waited_ms):
        return b.ALIVE, b.WHY_ANSWERED, 0
    if 0 <= heard <= _JUST_HEARD_MS:
        return b.ALIVE, b.WHY_HEARD, 0
    unanswered = max(info.probes, info.retransmits)
    return b.OPEN, b.WHY_UNANSWERED if unanswered > 0 else b.WHY_QUIET, 0


def _judge(fd: int, info: Info, first: Info | None, waited_ms: int) -> Verdict:
    pending = system.pending(fd)
    heard = _heard_ms(info)
    if info.state == b.LISTEN:
        raise fault(errno.EOPNOTSUPP, _TCP_INFO, system.kind(fd))
    if pending.fin and not pending.error:
        state, reason, code = b.PEER_CLOSED, b.WHY_FIN, 0
    elif info.state == b.CLOSE:
        if not pending.error and info.segs_in <= 0 and info.segs_out <= 0:
            raise fault(errno.ENOTCONN, _TCP_INFO, None)
        if pending.hangup or pending.error:
            state, reason, code = _ended(fd, info, pending.error, first)
        else:  # MPTCP: its first subflow is gone, others carry on
            state, reason, code = b.OPEN, b.WHY_QUIET, 0
    elif info.state in (b.SYN_SENT, b.SYN_RECV):
        state, reason, code, heard = b.OPEN, b.WHY_CONNECTING, 0, -1
    elif info.state in (b.CLOSE_WAIT, b.LAST_ACK, b.CLOSING, b.TIME_WAIT):
        state, reason, code = b.PEER_CLOSED, b.WHY_FIN, 0
    else:
        state, reason, code = _open(info, first, waited_ms)
    return state, reason, code, 0, heard, pending.unread, max(info.probes, info.retransmits)


def check(fd: int) -> Verdict:
    return _judge(fd, system.tcp_info(fd), None, 0)


def _kernel_asks(info: Info) -> bool:
    return (
        info.unacked > 0
        or info.notsent_bytes > 0
        or info.state in (b.SYN_SENT, b.SYN_RECV, b.FIN_WAIT1)
    )


def _keep_asking(info: Info, verdict: Verdict) -> Verdict:
    if verdict[0] != b.OPEN:
        return verdict
    return b.ASKING, b.WHY_KERNEL_ASKS if _kernel_asks(info) else b.WHY_MUST_ASK, *verdict[2:]


class Witness:
    """Say whether the peer of one socket was heard since begin()."""

    __slots__ = ("_began_ms", "_fd", "_first", "identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.identity = 0

    def begin(self, now_ms: int) -> Verdict:
        self._began_ms = now_ms
        self._first = system.tcp_info(self._fd)
        self.identity = system.identify(self._fd)
        return _keep_asking(self._first, _judge(self._fd, self._first, None, 0))

    def _look(self, asked: int, now_ms: int) -> tuple[Info, Verdict]:
        if system.identify(self._fd) != self.identity:
            raise fault(errno.EBADF, _TCP_INFO, None)
        info = system.tcp_info(self._fd)
        verdict = _judge(self._fd, info, self._first, now_ms - self._began_ms)
        own = max(0, info.total_retrans - self._first.total_retrans)
        if asked == 0:
            own += max(0, info.probes - self._first.probes)
        return info, (*verdict[:3], asked + own, *verdict[4:])

    def look(self, asked: int, now_ms: int) -> Verdict:
        return _keep_asking(*self._look(asked, now_ms))

    def give_up(self, asked: int, now_ms: int) -> Verdict:
        _, verdict = self._look(asked, now_ms)
        if verdict[0] != b.OPEN:
            return verdict
        if verdict[3] > 0:
            return b.SILENT, b.WHY_NO_ANSWER, *verdict[2:]
        return b.OPEN, b.WHY_NO_QUESTION, *verdict[2:]


class Question:
    """Borrow the options of one socket to ask its peer, and give them back."""

    __slots__ = ("_asked_ms", "_fd", "_identity", "asked", "saved")

    def __init__(self, fd: int, identity: int) -> None:
        self._fd = fd
        self._identity = identity
        self._asked_ms = 0
        self.asked = 0
        self.saved: Values | None = None

    def ask(self, now_ms: int) -> bool:
        if self.asked > 0 and now_ms - self._asked_ms < b.ASK_SPACING_MS:
            return False
        if system.identify(self._fd) != self._identity:
            raise fault(errno.EBADF, "getsockopt(SO_COOKIE)", None)
        if self.saved is None:
            self.saved = system.read_options(self._fd)
            system.set_option(self._fd, b.ENABLED, 1)
            system.set_option(self._fd, b.COUNT, 127)
            if self.saved[b.USER_TIMEOUT] > 0:
                system.set_option(self._fd, b.USER_TIMEOUT, 0)
        system.set_option(self._fd, b.IDLE, 1)
        self.asked += 1
        self._asked_ms = now_ms
        return True

    def end(self) -> None:
        saved, self.saved = self.saved, None
        if saved is None:
            return
        try:
            if system.identify(self._fd) != self._identity:
                return
        except OSError:  # closed meanwhile: nothing of the owner's is left to mend
            return
        # Off first where it was off: then the rest arms no timer.
        for option in (b.ENABLED, b.IDLE, b.COUNT, b.USER_TIMEOUT):
            if saved[option] == b.LEAVE or (option == b.USER_TIMEOUT and saved[option] == 0):
                continue
            system.set_option(self._fd, option, saved[option])

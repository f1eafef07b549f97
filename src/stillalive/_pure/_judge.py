"""Which connections have been let down, by the kernel's counters.

The twin of ext/core/judge.c, whose essay tells what each class means, which
innocent traffic looks alike, and why the counters can be trusted. Arithmetic
on TCP_INFO and the time, in milliseconds; no system call. A number below 0 is
not told, a limit below 0 is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import _backend as b
from .._backend import NO_TIME, Info

RATE_STRETCH_MS = 5000
"""How long a low rate must last: two stretches, with bytes in each."""

QUESTIONS = 2
"""What must be unanswered before silence counts."""

_SENDING_PACE_MS = 100
_ASKED_PACE_MS = 100
_ASKED_ALMOST_PACE_MS = 50
_SOONEST_MS = 10

_IN_CLASS = frozenset({b.ESTABLISHED, b.CLOSE_WAIT})
_OPEN = _IN_CLASS | {b.FIN_WAIT1, b.FIN_WAIT2, b.CLOSING, b.LAST_ACK}
_ENDING = _OPEN - _IN_CLASS | {b.TIME_WAIT}


class Limits(NamedTuple):
    """What a connection may do for how long; min_rate is in bytes per second."""

    never_spoke_ms: int = NO_TIME
    unanswered_ms: int = NO_TIME
    answered_ms: int = NO_TIME
    stalled_ms: int = NO_TIME
    min_rate: int = NO_TIME
    detect_ms: int = NO_TIME
    idle_ms: int = NO_TIME


@dataclass(slots=True)
class Past:
    """What is remembered of one connection between two looks."""

    since_ms: int
    """Silence before this does not count; when it is moved forward, all begins anew."""
    began_ms: int
    """The since_ms that the rest belongs to."""
    first_retrans: int
    first_probes: int
    acked: int
    acked_ms: int
    """When the peer was last seen to take bytes."""
    heard: bool
    """A segment came since began_ms, or that is 0."""
    marks: list[tuple[int, int]] = field(default_factory=list)
    """(time, bytes received), at most three, RATE_STRETCH_MS apart at least."""
    mark_out: int = 0
    slow: bool = False
    """Below min_rate, when the last mark was made."""
    klass: int = b.NO_CLASS
    """At the last look."""


class Judgement(NamedTuple):
    klass: int
    cause: int
    clock_ms: int
    """How long the limit's clock has run; of the class when there is no cause."""
    again_ms: int
    """From now: nothing can be due before; NO_TIME never."""


class _Found(NamedTuple):
    """What one limit has to say: a cause and its clock if it is due, and when to look again."""

    cause: int
    clock_ms: int
    again_ms: int


def _heard_ms(info: Info) -> int:
    told = [ms for ms in (info.last_ack_recv_ms, info.last_data_recv_ms) if ms >= 0]
    return min(told, default=-1)


def payload_idle_ms(info: Info) -> int:
    """Tell how long ago the last payload went either way; -1 not told."""
    return max(-1, min(info.last_data_recv_ms, info.last_data_sent_ms))


def _is_sending(info: Info) -> bool:
    return info.unacked > 0 or info.notsent_bytes > 0 or info.queued_bytes > 0


def _peer_spoke(info: Info) -> bool | None:
    if info.bytes_received >= 0:  # the peer's end counts as one byte
        return info.bytes_received > (info.state == b.CLOSE_WAIT)
    return None if info.data_segs_in < 0 else info.data_segs_in > 0


def _owner_spoke(info: Info) -> bool | None:
    if info.data_segs_out >= 0:
        return info.data_segs_out > 0
    return None if info.bytes_acked < 0 else info.bytes_acked > 1  # the SYN is one


def _by_last_word(info: Info) -> int:
    """Tell the class as if nothing were under way."""
    peer, owner = _peer_spoke(info), _owner_spoke(info)
    if peer is None or owner is None or payload_idle_ms(info) < 0:
        return b.NO_CLASS
    if not peer:
        return b.ANSWERED if owner else b.NEVER_SPOKE
    if not owner or info.last_data_recv_ms < info.last_data_sent_ms:
        return b.UNANSWERED
    return b.ANSWERED


def classify(info: Info) -> int:
    """Tell the class, by who spoke last."""
    if info.state not in _IN_CLASS:
        return b.NO_CLASS
    return b.SENDING if _is_sending(info) else _by_last_word(info)


def begin(info: Info, since_ms: int, now_ms: int) -> Past:
    """Begin to remember; `since_ms` is 0 where the kernel's clocks hold from the start."""
    return Past(
        since_ms=since_ms,
        began_ms=since_ms,
        first_retrans=info.total_retrans,
        first_probes=info.probes,
        acked=info.bytes_acked,
        acked_ms=now_ms,
        heard=since_ms == 0,
    )


def _begin_anew(past: Past, info: Info, now_ms: int) -> None:
    fresh = begin(info, past.since_ms, now_ms)
    for name in Past.__slots__:
        setattr(past, name, getattr(fresh, name))


def _elapsed(now_ms: int, then_ms: int) -> int:
    return max(0, now_ms - then_ms)


def _age(past: Past, kernel_ms: int, now_ms: int) -> int:
    return -1 if kernel_ms < 0 else min(kernel_ms, _elapsed(now_ms, past.since_ms))


def _too_slow(past: Past, received: int, rate: int, now_ms: int) -> bool:
    first_ms, first = past.marks[0]
    return max(0, received - first) * 1000 < rate * _elapsed(now_ms, first_ms)


def _has_rate(limits: Limits, info: Info) -> bool:
    return limits.min_rate > 0 and info.bytes_received >= 0


def _remember_rate(limits: Limits, past: Past, info: Info, klass: int, now_ms: int) -> None:
    sent = info.data_segs_out if info.data_segs_out >= 0 else info.bytes_acked
    wanted = _has_rate(limits, info) and klass == b.UNANSWERED
    if not wanted or klass != past.klass or sent != past.mark_out:
        past.marks.clear()
        past.slow = False
    past.mark_out = sent
    if not wanted:
        return
    marks, received = past.marks, info.bytes_received
    if marks and _elapsed(now_ms, marks[-1][0]) < RATE_STRETCH_MS:
        if not _too_slow(past, received, limits.min_rate, now_ms):
            past.slow = False  # it has caught up since the mark
        return
    del marks[:-2]
    marks.append((now_ms, received))
    past.slow = (
        len(marks) == 3
        and marks[0][1] < marks[1][1] < marks[2][1]
        and info.last_data_recv_ms < RATE_STRETCH_MS
        and _too_slow(past, received, limits.min_rate, now_ms)
    )


def _remember(limits: Limits, past: Past, info: Info, klass: int, now_ms: int) -> None:
    if past.since_ms > past.began_ms:
        _begin_anew(past, info, now_ms)
    if 0 <= _heard_ms(info) < _elapsed(now_ms, past.since_ms):
        past.heard = True
    if klass != b.SENDING or past.klass != b.SENDING or info.bytes_acked != past.acked:
        past.acked = info.bytes_acked
        past.acked_ms = now_ms
    _remember_rate(limits, past, info, klass, now_ms)
    past.klass = klass


def _limit(cause: int, limit: int, clock_ms: int, due: bool = True) -> _Found:
    """Check a limit whose clock runs; one that is not told may start any time."""
    if limit < 0:
        return _Found(b.NO_CAUSE, 0, NO_TIME)
    left = max(limit - max(clock_ms, 0), 0 if due else _SENDING_PACE_MS)
    return _Found(cause if due and clock_ms >= limit else b.NO_CAUSE, clock_ms, left)


def _unanswered(info: Info) -> int:
    """Count the questions that nobody has answered, as far as they matter."""
    probes, retransmits = max(info.probes, 0), max(info.retransmits, 0)
    # All from before it was last heard: that did not take what they carry.
    if info.state in _IN_CLASS and info.last_data_sent_ms >= _heard_ms(info):
        retransmits = 0
    return probes + retransmits


def _silent(limits: Limits, past: Past, info: Info, now_ms: int) -> Iterator[_Found]:
    limit = limits.detect_ms
    if limit < 0 or info.state == b.TIME_WAIT:
        return
    silence = _age(past, _heard_ms(info), now_ms) if info.state in _OPEN else -1
    if silence < limit:
        yield _Found(b.NO_CAUSE, 0, limit - max(silence, 0))
        return
    asked = _unanswered(info)
    fresh = past.heard or info.total_retrans > past.first_retrans or info.probes > past.first_probes
    enough = asked >= QUESTIONS and fresh
    pace = _ASKED_ALMOST_PACE_MS if asked >= QUESTIONS - 1 else _ASKED_PACE_MS
    yield _Found(b.FOR_SILENT if enough else b.NO_CAUSE, silence, pace)


def _idle(limits: Limits, past: Past, info: Info, now_ms: int) -> Iterator[_Found]:
    if info.state in _OPEN:
        clock_ms = _age(past, payload_idle_ms(info), now_ms)
        yield _limit(b.FOR_IDLE, limits.idle_ms, clock_ms, not _is_sending(info))
    elif info.state not in _ENDING:
        yield _limit(b.FOR_IDLE, limits.idle_ms, -1)


def _rate(limits: Limits, past: Past, info: Info, now_ms: int) -> Iterator[_Found]:
    if not _has_rate(limits, info) or info.state in _ENDING or info.state == b.CLOSE_WAIT:
        return
    marks = past.marks
    clock_ms = _elapsed(now_ms, marks[0][0]) if marks else 0
    left = RATE_STRETCH_MS - (_elapsed(now_ms, marks[-1][0]) if marks else 0)
    yield _Found(b.FOR_MIN_RATE if past.slow else b.NO_CAUSE, clock_ms, max(0, left))


def _stalled_for(past: Past, now_ms: int) -> int:
    return _age(past, _elapsed(now_ms, past.acked_ms), now_ms)


def _stalled(limits: Limits, past: Past, info: Info, now_ms: int) -> Iterator[_Found]:
    limit = limits.stalled_ms
    if limit < 0 or info.bytes_acked < 0 or info.state in _ENDING:
        return
    pace = max(limit // 8, 100)
    if classify(info) != b.SENDING:
        yield _Found(b.NO_CAUSE, 0, pace)
        return
    clock_ms = _stalled_for(past, now_ms)
    cause = b.FOR_STALLED if clock_ms >= limit else b.NO_CAUSE
    yield _Found(cause, clock_ms, max(0, min(pace, 400, limit - clock_ms)))


def _class_clock(past: Past, info: Info, klass: int, now_ms: int) -> int:
    if klass == b.NO_CLASS:
        return 0
    if klass == b.SENDING:
        return _stalled_for(past, now_ms)
    spoke_ms = payload_idle_ms(info) if klass == b.ANSWERED else info.last_data_recv_ms
    return _age(past, spoke_ms, now_ms)


def _of_class(limits: Limits, past: Past, info: Info, now_ms: int) -> Iterator[_Found]:
    if info.state in _ENDING:
        return
    now_in = _by_last_word(info) if info.state in _IN_CLASS else b.NO_CLASS
    for klass, limit in (
        (b.NEVER_SPOKE, limits.never_spoke_ms),
        (b.UNANSWERED, limits.unanswered_ms),
        (b.ANSWERED, limits.answered_ms),
    ):
        if klass == now_in:  # FOR_* of a class is its number
            clock_ms = _class_clock(past, info, klass, now_ms)
            yield _limit(klass, limit, clock_ms, not _is_sending(info))
        elif klass != b.NEVER_SPOKE or now_in == b.NO_CLASS:
            yield _limit(klass, limit, -1)


def judge(limits: Limits, past: Past, info: Info, now_ms: int) -> Judgement:
    """Judge; doing so twice with the same info and time changes nothing more."""
    klass = classify(info)
    _remember(limits, past, info, klass, now_ms)
    found = [
        one
        for check in (_silent, _idle, _rate, _stalled, _of_class)
        for one in check(limits, past, info, now_ms)
    ]
    again_ms = min(
        (max(_SOONEST_MS, one.again_ms) for one in found if one.again_ms >= 0), default=NO_TIME
    )
    for one in found:
        if one.cause != b.NO_CAUSE:
            return Judgement(klass, one.cause, one.clock_ms, again_ms)
    return Judgement(klass, b.NO_CAUSE, _class_clock(past, info, klass, now_ms), again_ms)

"""What a kernel must do so that a watcher can tell silence: the pace of its questions.

A watcher decides by one clock, the time since the last segment, and only when
questions went unanswered. Asking is the kernel's part: keepalive probes while
idle, retransmissions with data in flight, window probes into a shut window.
For a deadline D each must come about every D/4:

* keepalive on, idle and interval D/4, a little less from socket to socket, so
  that thousands of connections made together do not ask together;
* rto_max D/4, else retransmissions and window probes back off to 120 s;
* no user timeout: it ends a live peer that does not read, and a connection
  that had been idle for longer than it at the first lost probe;
* the highest count: the kernel's own decision would come at a tick of its
  timer, in the middle of an outage as well as after it, and without a word
  to anyone. With 127 the watcher decides, and the kernel still does, later,
  should the process be stopped.

Where the kernel has to decide, a count is also how long a connection may have
been silent before. So it is set before anything that would make it matter, is
high enough for three weeks, and the watcher lowers it when the first probes
have had the time to be answered. On Windows no count is high enough for that;
there the interval is long as well, and the watcher sees to both.

What it gives: an outage of D/3 costs at most two probes, and the third is
answered before the deadline; the deadline is D less a margin for the pace of
the watcher's own looks.

The values are lent: the socket's own are kept here, by the identity of the
socket, and come back when the last watch of it ends. What somebody sets in
the meantime is not undone. A shorter idle or interval of the owner's stays,
because a middlebox may need it; what waits in ``_pending`` belongs to what
comes back.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from dataclasses import dataclass
from typing import NamedTuple

from . import _asking, _impl, _pending, _seeing, _systems, tuning
from . import _backend as b
from . import _bounds as limits
from . import _rules as rules
from ._host import system_defaults
from ._sockets import close as _close
from ._sockets import duplicate as _duplicate

__all__ = [
    "DetectsWithin",
    "borrow",
    "bounds",
    "detect_ms",
    "give_back",
    "has_rto_max",
    "idle_bound",
    "inherited",
    "is_lent",
    "jitter",
    "pace",
]

_MOST_COUNT, _MOST_TIME = 127, 32767
_PATIENT = 2_000_000
"""Seconds: a kernel that counts them in ticks of 1 ms holds no more."""
_JITTER_SHARE = 5
_SYN_RETRIES = 6
_RTO_MAX_DEFAULT = 120.0


class DetectsWithin(NamedTuple):
    """Hold how many seconds after its peer has vanished a watch tells, per case.

    None: no bound. Nothing of it counts time in which the process was stopped
    or the machine suspended.
    """

    idle: float | None
    """Nothing under way."""
    in_flight: float | None
    """Bytes under way when the peer vanished."""
    late_write: float | None
    """Idle then, and written to later."""
    zero_window: float | None
    """The peer had stopped reading. None before Linux 6.15 (TCP_RTO_MAX_MS): the next question
    may be two minutes off."""
    half_closed: float | None
    """One side had ended its half."""
    connecting: float | None
    """Not connected yet, counted from ``connect()``: when the kernel's own tries
    (tcp_syn_retries) run out, which a watch does not shorten. None: connected."""


NO_BOUNDS = DetectsWithin(None, None, None, None, None, None)


def has_rto_max() -> bool:
    """Tell whether this kernel bounds the pace of retransmissions."""
    return bool(_impl.backend.supported() >> b.RTO_MAX & 1)


def detect_ms(seconds: float) -> int:
    """Return the silence that a watcher is to act on, so that it is told in time."""
    return math.floor((seconds - max(0.2, seconds / 20)) * 1000)


def _quarter(seconds: float) -> int:
    return min(max(1, math.floor(seconds / 4)), _MOST_TIME)


def _rto_max(seconds: float) -> int:
    return min(_quarter(seconds), 120)


def jitter(seconds: float) -> int:
    """Return by how many seconds idle and interval may be lowered."""
    return _quarter(seconds) // _JITTER_SHARE


def pace(seconds: float, rto_bounded: bool, identity: int = 0) -> b.Values:
    """Return the kernel's values for a deadline."""
    beat = _quarter(seconds) - identity % (jitter(seconds) + 1)
    rto_max = _rto_max(seconds) * 1000 if rto_bounded else b.LEAVE
    interval, count = _patience(beat)
    return 1, beat, interval, count, 0, rto_max


def _patience(beat: int) -> tuple[int, int]:
    if not _seeing.decides_itself():
        return beat, _MOST_COUNT
    allowed = _impl.backend.option_range(b.COUNT)
    most = _MOST_COUNT if allowed is None else allowed[1]
    if _PATIENT // beat <= most:
        return beat, _PATIENT // beat
    # Not as high as Windows allows: wine, which has Linux's counts, can be asked then.
    count = min(most, _MOST_COUNT)
    return math.ceil(_PATIENT / count), count


def bounds(seconds: float, rto_bounded: bool, rto: float | None) -> DetectsWithin:
    """Return when a watch tells, per case.

    `rto` is the live retransmission timeout, None where there is no connection yet.
    """
    if not _seeing.asks_while_sending():
        return NO_BOUNDS._replace(idle=_kernels_bound(seconds))
    told = float(seconds)
    connecting = _connecting(_RTO_MAX_DEFAULT) if rto is None else None
    if rto_bounded:
        return DetectsWithin(told, told, told, told, told, connecting)
    # Two retransmissions must go unanswered, and nothing bounds their backoff:
    # a tail loss probe after one timeout, then one after two and after four.
    asked = rules.with_lateness(4 * (rules.RTO_UNKNOWN if rto is None else rto))
    late = max(told, _quarter(seconds) + asked)
    return DetectsWithin(told, max(told, asked), late, None, told, None)


def _kernels_bound(seconds: float) -> float:
    # Idle, all intervals, and a timer for each, as late as is assumed; and a
    # look of the watcher's own.
    total, beat = detect_ms(seconds) // 1000, _quarter(seconds)
    timers = 2 + max(1, (total - beat) // beat)
    late = limits.with_lateness(_systems.system(), total, timers)
    return max(float(seconds), late + min(max(0.1, seconds / 40), 1.0))


def _connecting(rto_max: float) -> float:
    # As rules.retries_limit, with the timeout of a first SYN: 1 s. What has
    # run out is noticed when the next timer fires.
    retries = system_defaults().syn_retries or _SYN_RETRIES
    doublings = min(math.floor(math.log2(rto_max)), retries)
    limit = (2 << doublings) - 1 + (retries - doublings) * rto_max
    return rules.with_lateness(limit + rto_max)


def inherited(seconds: float, rto_bounded: bool) -> b.Values:
    """Return what a listener passes on: the kernel alone must meet the deadline while idle."""
    budget = min(rules.whole_budget(seconds), _MOST_TIME)
    count = 3 if budget >= 4 else 2
    interval = max(1, budget // (count + 1))
    rto_max = _rto_max(seconds) * 1000 if rto_bounded else b.LEAVE
    return 1, budget - interval * count, interval, count, 0, rto_max


def idle_bound(values: b.Values) -> float:
    """Return the idle death of what :func:`inherited` returned, with every timer late."""
    return rules.with_lateness(values[b.IDLE] + values[b.INTERVAL] * values[b.COUNT])


@dataclass(slots=True)
class _Loan:
    """What was on a socket, and what is there now."""

    fd: int
    wish: b.Values
    saved: b.Values
    put: b.Values
    users: int = 0


_lock = threading.RLock()  # a signal handler may cancel a watch
_loans: dict[int, _Loan] = {}
_SWEEP_AT = 64


def borrow(fd: int, identity: int, wanted: b.Values, *, connected: bool = True) -> None:
    """Put values on a socket, keeping its own; :func:`give_back` must follow.

    While it is not connected the pace of retransmissions would shorten the
    attempt: the watcher sets rto_max, and it counts as put already.
    """
    with _lock, _asking.owned(fd):
        held = _impl.backend.read_options(fd)
        waiting = _pending.target(fd)
        loan = _loans.get(identity)
        if loan is None:
            if len(_loans) >= _SWEEP_AT and len(_loans) & (len(_loans) - 1) == 0:
                _sweep()
            saved = held
        else:
            saved = _owners(held, loan)
            wanted = _tighter(wanted, loan.wish)
        if waiting is not None:
            saved = _over(waiting, saved)
        values = _beside(wanted, saved)
        if loan is not None:
            values = _as_lowered(values, held)
        if connected:
            put = _put(fd, held, values)
        else:
            put = _put(fd, held, tuning._replace(values, b.RTO_MAX, b.LEAVE))
            if values[b.RTO_MAX] != b.LEAVE:
                put = tuning._replace(put, b.RTO_MAX, values[b.RTO_MAX])
        if waiting is not None:
            _pending.forget(identity)
        if loan is None:
            loan = _loans[identity] = _Loan(fd, wanted, saved, put)
        loan.wish, loan.saved, loan.put = wanted, saved, put
        loan.users += 1


def _as_lowered(values: b.Values, held: b.Values) -> b.Values:
    """Leave what the watcher has lowered for another watch, which may outlast this one."""
    if _seeing.decides_itself():
        for option in (b.INTERVAL, b.COUNT):
            if 0 < held[option] < values[option]:
                values = tuning._replace(values, option, held[option])
    return values


def _put(fd: int, held: b.Values, values: b.Values) -> b.Values:
    """Put values on a socket, and nothing that would end it on the way."""
    apply = _impl.backend.apply_options
    if held[b.ENABLED] == 1 or not _seeing.decides_itself():
        return apply(fd, values)
    # Switched on first, its own count would be in force for a moment.
    apply(fd, _only(values, b.INTERVAL, b.COUNT))
    try:
        return apply(fd, values)
    except BaseException:
        with contextlib.suppress(OSError):
            apply(fd, _only(held, b.INTERVAL, b.COUNT))
        raise


def _only(values: b.Values, *options: int) -> b.Values:
    return _values(
        _settable(option, value) if option in options else b.LEAVE
        for option, value in enumerate(values)
    )


def is_lent(identity: int) -> bool:
    """Tell whether something has been put on a socket, and is still there."""
    return identity in _loans


def give_back(fd: int, identity: int, restore: bool = True) -> None:
    """Put a socket's own values back, once nobody needs the others any more.

    `restore` is False where nothing must be touched: the owner has closed
    the socket, or it is being aborted by options of its own.
    """
    with _lock, contextlib.ExitStack() as stack:
        loan = _loans.get(identity)
        if loan is None:
            return
        loan.users -= 1
        if loan.users > 0:
            return
        del _loans[identity]
        if not restore:
            return
        try:
            duplicate = _duplicate(fd)
        except OSError:  # closed; or no number is left, and it keeps the pace
            return
        stack.callback(_close, duplicate)
        # It may end between two calls: then there is nothing left to mend.
        with contextlib.suppress(OSError):
            if _impl.backend.identify(duplicate) == identity:
                with _asking.owned(duplicate):
                    _restore(fd, duplicate, identity, loan)


def _restore(fd: int, duplicate: int, identity: int, loan: _Loan) -> None:
    backend = _impl.backend
    held = backend.read_options(duplicate)
    waiting = _pending.target(duplicate)
    back = _values(
        b.LEAVE
        if now == own or (waiting is not None and waiting[option] != b.LEAVE)
        else _settable(option, own)
        for option, (now, own) in enumerate(zip(held, _owners(held, loan), strict=True))
    )
    if all(value == b.LEAVE for value in back):
        return
    if _seeing.decides_itself() and back[b.IDLE] > held[b.IDLE]:
        # First: with the shorter one a count of its own may be too low.
        backend.apply_options(duplicate, _only(back, b.IDLE))
    info = b.Info(*backend.tcp_info(duplicate))
    before = tuning._Socket(held, info, identity)
    final = _over(back, held)
    if waiting is not None or not tuning._must_wait(before, final, back):
        backend.apply_options(duplicate, back)
        return
    # As in tune(): one lost probe must not end a connection that was quiet.
    safe, rest = tuning._divided(before, back, final)
    backend.apply_options(duplicate, safe)
    patience = final[b.IDLE] + final[b.INTERVAL] * final[b.COUNT]
    _pending.add(fd, identity, rest, patience)


def _owners(held: b.Values, loan: _Loan) -> b.Values:
    """Return the owner's values: what is not as it was put is his later word."""
    put = loan.put
    if _seeing.decides_itself():
        lowered = [b.COUNT]  # the watcher's, see pace()
        if loan.wish[b.INTERVAL] > loan.wish[b.IDLE]:
            lowered.append(b.INTERVAL)
        for option in lowered:
            if 0 < held[option] < put[option]:
                put = tuning._replace(put, option, held[option])
    triples = list(zip(held, put, loan.saved, strict=True))
    found = _values(own if now == put else now for now, put, own in triples)
    if any(now not in (put, own) for now, put, own in triples[b.IDLE :]):
        found = _values((held[b.ENABLED], *found[b.IDLE :]))  # a value that is set implies it
    return found


def _sweep() -> None:
    """Forget sockets that were closed without a word: listeners are not looked at."""
    for identity, loan in list(_loans.items()):
        try:
            gone = _impl.backend.identify(loan.fd) != identity
        except OSError:
            gone = True
        if gone:
            del _loans[identity]


def _beside(wanted: b.Values, own: b.Values) -> b.Values:
    """Leave what the socket lacks, and what its owner has set to be quicker."""
    values = list(wanted)
    for option, value in enumerate(own):
        if value == b.LEAVE:
            values[option] = b.LEAVE
    if own[b.ENABLED] == 1:
        values[b.IDLE] = min(wanted[b.IDLE], own[b.IDLE])
        # Not so quick that the count runs out before the deadline.
        least = math.ceil(wanted[b.INTERVAL] * 5 / wanted[b.COUNT])
        if not _seeing.decides_itself() and own[b.INTERVAL] > 0:
            values[b.INTERVAL] = max(min(wanted[b.INTERVAL], own[b.INTERVAL]), least)
    if values[b.RTO_MAX] != b.LEAVE:
        values[b.RTO_MAX] = min(wanted[b.RTO_MAX], own[b.RTO_MAX])
    return _values(values)


def _tighter(wanted: b.Values, other: b.Values) -> b.Values:
    """Return the quicker of two paces: two watches of one socket share it."""
    values = list(wanted)
    for option in (b.IDLE, b.INTERVAL, b.RTO_MAX):
        values[option] = min(wanted[option], other[option])
    return _values(values)


def _over(first: b.Values, second: b.Values) -> b.Values:
    return tuning._merged(first, second)


def _values(numbers: object) -> b.Values:
    return tuple(numbers)  # type: ignore[arg-type,return-value]


def _settable(option: int, value: int) -> int:
    """Return the nearest that setsockopt takes: a system's default may lie beyond."""
    allowed = _impl.backend.option_range(option)
    return value if allowed is None else min(value, allowed[1])


def _after_fork() -> None:
    # The parent goes on watching, and gives back.
    global _lock
    _lock = threading.RLock()
    _loans.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

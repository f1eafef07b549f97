"""Set the kernel's keepalive on a socket, and read back what it will do.

A retune can kill a healthy connection, in two ways.

Linux: under a user timeout one lost probe ends a connection that has been
idle for longer than it, and probes that went unanswered before count against a
new count. The danger is known, because the kernel tells how long the silence
is; `_one_loss_kills` says when there is one.

macOS and the BSDs (`drops_long_idle`): whenever their keepalive timer fires it
first asks whether the silence has reached idle + interval * count, and drops
the connection then, without a probe. Setting the idle time arms the timer anew
for a full idle period from now (NetBSD: for an interval), so at that moment
the silence is what it is now plus that period. A healthy connection is
therefore dropped as soon as it has been silent for interval * count, however
long the idle time is: 60 / 10 / 5 kills one that was silent for 50 s, and even
raising an idle time can. Nor is the silence known: macOS and NetBSD do not
tell it, and FreeBSD's clock starts again every 71 minutes, so a connection
that was used a moment ago looks like one idle since then.

What helps is the same in all cases: set what cannot harm first and the rest
when the peer has answered. On Linux the rest is the user timeout (and a small
count), elsewhere the count: it is set so high that no silence reaches it, the
probes go out as planned, and each answer sets the silence back to nothing.
`_pending` sets the real count after an answer, or, where none can be seen, when
the planned probes have had their time. The kernels multiply interval and count
in 32 bits of milliseconds and may look at any moment in between, so a high
count never meets a long interval that has yet to be lowered.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from . import _asking, _impl, _pending, _systems
from . import _backend as b
from . import _rules as rules
from ._describing import Description, bounds, tcp_info_of, warnings_for
from ._errors import not_supported
from ._host import host, restoring, system_defaults
from ._planning import Wishes
from ._sockets import SocketLike, as_fd
from ._systems import OPTION_NAMES as _NAMES
from ._values import Seconds, plain
from .policy import KeepAlive, as_wishes, from_values, marked, planned

__all__ = ["describe", "tune"]

_CONNECTED = frozenset((b.ESTABLISHED, b.FIN_WAIT1, b.FIN_WAIT2, b.CLOSE_WAIT))
_MOST_PATIENT = 2_000_000
"""Seconds: more would not fit the kernels' 32 bits of milliseconds."""
_NO_INFO = b.Info(*(-1 for _ in b.Info._fields))

_NO_VALUES = KeepAlive()
_NO_WISHES = Wishes()


def tune(
    sock: SocketLike,
    policy: KeepAlive | None = None,
    /,
    *,
    idle: Seconds | None = None,
    interval: Seconds | None = None,
    count: int | None = None,
    user_timeout: Seconds | None = None,
    rto_max: Seconds | None = None,
    detect_within: Seconds | None = None,
    middlebox: Seconds | str | None = None,
    tolerate: Seconds | None = None,
    spare_stalled: bool = False,
    best_effort: bool = False,
) -> KeepAlive:
    """Set keepalive on a socket, by values or by wishes, and return what the kernel holds.

    :param sock: TCP socket: socket, TLS socket, descriptor, object with
        fileno(), asyncio or uvloop transport, StreamWriter; connected,
        unconnected or listening.
    :param policy: a :class:`KeepAlive`; else keywords. Values as in
        :class:`KeepAlive`, wishes as in :meth:`KeepAlive.plan`; on a
        connected socket detect_within may be 3 s, and the live round trip
        time is used. Values given beside wishes replace planned ones if the
        wishes still hold.
    :param best_effort: leave out what this system or socket cannot do and
        name it in ``.unsupported`` instead of raising.

    Seconds, int or float. All or nothing: a failure restores what was
    changed. ``.pending`` is True where user_timeout and count are set a
    moment later: a connection that has been idle for longer than the new
    deadline, or has probes unanswered, must first answer one, because a
    single lost probe would end it (macOS, BSD: the timer alone, without one).
    ``.not_inherited`` names what sockets accepted by a listener lack.

    Linux: accepted sockets inherit everything from a tuned listener. MPTCP
    sockets have no user_timeout. macOS: accepted sockets do not inherit idle
    and user_timeout; on a connected socket the count is always pending, for
    idle + interval * count. FreeBSD: no user_timeout before 14; the count is
    pending until a segment arrives. NetBSD: as macOS, without user_timeout;
    nothing but `enabled` is inherited, and nothing of the rest can be read
    back, so None is shown for what was not set here; a count of 1 ends
    healthy connections there, take 2 or more. OpenBSD: only `enabled`. Windows: before 10
    1709 idle and interval are set together, before 10 1703 the count is 10.
    DragonFly BSD, illumos, Solaris, AIX: NotSupportedError.

    Threads: any. Errors: TypeError, ValueError (before the first system
    call), NotSupportedError naming the option, OSError naming the call.
    Source: tcp(7), net/ipv4/tcp.c (Linux), netinet/tcp_usrreq.c and
    tcp_timer.c (BSD, macOS), RFC 1122 4.2.3.6, RFC 5482.

    >>> a, b = tcp_pair()
    >>> held = tune(a, detect_within=30)
    >>> held.detects_idle_within <= 30 and held.detects_in_flight_within <= 30
    True
    >>> tune(a, KeepAlive.OFF).enabled
    False
    """
    wishes, given = _NO_WISHES, _NO_VALUES
    if spare_stalled is not False or not (detect_within is middlebox is tolerate is None):
        wishes = as_wishes(detect_within, middlebox, tolerate, spare_stalled)
    if not (idle is interval is count is user_timeout is rto_max is None):
        given = KeepAlive(
            idle=idle, interval=interval, count=count, user_timeout=user_timeout, rto_max=rto_max
        )
    if policy is not None and not isinstance(policy, KeepAlive):
        raise TypeError(f"policy={policy!r}: must be a KeepAlive (values and wishes are keywords)")
    if (policy is None) == (given.enabled is None and not wishes.any()):
        raise TypeError("tune() takes either a KeepAlive or keywords, not both and not neither")
    explicit = given if policy is None else policy
    explicit.values()  # the ranges, before anything is asked of the socket
    fd = as_fd(sock)
    with _asking.owned(fd):
        return _tune(fd, explicit, wishes, best_effort)


class _Socket(NamedTuple):
    """What a socket holds before it is tuned."""

    held: b.Values
    info: b.Info
    identity: int

    @property
    def options(self) -> int:
        return sum(1 << option for option, value in enumerate(self.held) if value != b.LEAVE)

    @property
    def connected(self) -> bool:
        # Where the state is not told, what is not connected is an error.
        return self.info.state in _CONNECTED or self.info.state < 0

    @property
    def rto(self) -> float | None:
        """The live retransmission timeout, or the best guess at it; None if not connected."""
        if not self.connected:
            return None
        if self.info.rto_us > 0:
            return self.info.rto_us / 1_000_000
        rtt = self.info.rtt_us
        return rules.rto_of(rtt / 1_000_000) if rtt > 0 else rules.RTO_UNKNOWN


def _info_of(fd: int) -> b.Info:
    """Ask for the kernel's view; where it has none, say what the socket is all the same."""
    try:
        info = b.Info(*_impl.backend.tcp_info(fd))
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return _NO_INFO._replace(state=b.CLOSE)
        if error.errno != errno.EOPNOTSUPP or not _impl.backend.kind(fd)[3]:
            raise
        return _NO_INFO._replace(state=b.LISTEN)
    return info


def _tune(fd: int, explicit: KeepAlive, wishes: Wishes, best_effort: bool) -> KeepAlive:
    backend = _impl.backend
    before = _Socket(backend.read_options(fd), _info_of(fd), _pending.identity_of(fd))
    rto = before.rto
    values, lacking = _wanted(before, explicit, wishes, best_effort)
    values, missing = _supported(before, values, best_effort)
    unsupported = missing if not lacking else tuple(dict.fromkeys((*lacking, *missing)))
    waiting = _pending.target(fd)
    if waiting is not None:
        values = _merged(values, waiting)
    final = _merged(values, before.held)
    later = _must_wait(before, final, values)
    if later:
        safe, rest = _divided(before, values, final)
        after = _set_safely(fd, before, safe)
        _pending.add(fd, before.identity, rest, _patience(final), before.info)
    else:
        after = backend.apply_options(fd, values)
        _pending.forget(before.identity)
    held = from_values(after, rto)
    lost = _not_inherited(values) if before.info.state == b.LISTEN else ()
    if not (later or unsupported or lost):
        return held
    return marked(held, pending=later, unsupported=unsupported, not_inherited=lost)


def _set_safely(fd: int, before: _Socket, safe: b.Values) -> b.Values:
    """Set the safe part; where the count is high, after a long interval has been lowered."""
    apply = _impl.backend.apply_options
    if not _systems.system().drops_long_idle or safe[b.INTERVAL] == b.LEAVE:
        return apply(fd, safe)
    idle, held, _ = _times(before.held)
    fits = _patient(idle, max(held, safe[b.INTERVAL]))
    if safe[b.COUNT] <= fits:
        return apply(fd, safe)
    apply(fd, (b.LEAVE, b.LEAVE, safe[b.INTERVAL], fits, b.LEAVE, b.LEAVE))
    try:
        return apply(fd, safe)
    except BaseException:
        apply(fd, restoring(before.held, safe))
        raise


def _not_inherited(values: b.Values) -> tuple[str, ...]:
    inherited = _systems.system().inherited
    return tuple(
        name
        for name, value in zip(_NAMES, values, strict=True)
        if value != b.LEAVE and name not in inherited
    )


def _wanted(
    before: _Socket,
    explicit: KeepAlive,
    wishes: Wishes,
    best_effort: bool,
) -> tuple[b.Values, tuple[str, ...]]:
    """Return what to set, and what a wish would need beyond it."""
    chosen = explicit.values()
    if not wishes.any():
        return chosen, ()
    rtt = before.info.rtt_us / 1_000_000
    live = Wishes(
        wishes.detect_within,
        wishes.middlebox,
        wishes.tolerate,
        wishes.spare_stalled,
        rto=before.rto,
        rtt=rtt if before.connected and rtt >= 0 else None,
    )
    policy = planned(live, before.options, best_effort)
    plan = policy.values()
    if explicit.enabled is None:
        return plan, policy.unsupported
    merged = _merged(chosen, plan)
    _still_holds(from_values(merged, live.assumed_rto), live, explicit)
    return merged, policy.unsupported


def _still_holds(merged: KeepAlive, wishes: Wishes, explicit: KeepAlive) -> None:
    problem = None
    wish = wishes.detect_within
    for bound in (merged.detects_idle_within, merged.detects_in_flight_within):
        if wish is not None and bound is not None and bound > wish:
            problem = f"detect_within={plain(wish)}: the peer would be told after {plain(bound)} s"
    middlebox, idle = wishes.middlebox, merged.idle
    if middlebox is not None and idle is not None and idle > middlebox / 2:
        problem = f"middlebox={plain(middlebox)}: idle must not exceed half of it"
    if wishes.spare_stalled and merged.user_timeout:
        problem = "spare_stalled=True: a user_timeout ends a peer that does not read"
    if wishes.tolerate is not None and merged.interval is not None and merged.count is not None:
        longest = merged.interval * (merged.count - 1)
        if longest < wishes.tolerate:
            problem = f"tolerate={plain(wishes.tolerate)}: at most {plain(longest)} s would be"
    if problem is not None:
        raise ValueError(f"{explicit!r} contradicts {problem}")


def _supported(
    before: _Socket, values: b.Values, best_effort: bool
) -> tuple[b.Values, tuple[str, ...]]:
    if b.LEAVE not in before.held:
        return values, ()
    missing = [
        option
        for option, value in enumerate(values)
        if value != b.LEAVE and before.held[option] == b.LEAVE
    ]
    for option in missing:
        if not best_effort:
            backend = _impl.backend
            raise not_supported(f"{_NAMES[option]} ({backend.option_name(option)})", None)
        values = _replace(values, option, b.LEAVE)
    return values, tuple(_NAMES[option] for option in missing)


def _merged(first: b.Values, second: b.Values) -> b.Values:
    """Take the first, and the second where the first leaves it."""
    both = zip(first, second, strict=True)
    return tuple(f if f != b.LEAVE else s for f, s in both)  # type: ignore[return-value]


def _replace(values: b.Values, option: int, value: int) -> b.Values:
    changed = list(values)
    changed[option] = value
    return tuple(changed)  # type: ignore[return-value]


def _must_wait(before: _Socket, final: b.Values, values: b.Values) -> bool:
    """Tell whether the final values could end a live connection."""
    if not before.connected or final[b.ENABLED] != 1:
        return False
    if final == before.held or all(value == b.LEAVE for value in values):
        return False
    if _systems.system().drops_long_idle:
        return before.held[b.COUNT] != b.LEAVE and _timer_kills(before.info, final)
    return _one_loss_kills(before.info, final)


def _one_loss_kills(info: b.Info, final: b.Values) -> bool:
    """Tell whether one lost probe could end a live connection, by Linux's rules."""
    if not _systems.system().user_timeout_overrules_count:
        return False
    user_timeout = final[b.USER_TIMEOUT]
    if user_timeout <= 0:  # the count decides, and has begun to
        return info.probes > 0 and info.probes + 1 >= final[b.COUNT]
    if info.retransmits > 0:
        return True
    silent_ms = min(info.last_ack_recv_ms, info.last_data_recv_ms)
    first_decision_ms = silent_ms + final[b.INTERVAL] * 1000
    return silent_ms > final[b.IDLE] * 1000 and first_decision_ms >= user_timeout


def _timer_kills(info: b.Info, final: b.Values) -> bool:
    """Tell whether the timer could end a live connection without a probe (macOS, BSD)."""
    here = _systems.system()
    silent_ms = _pending.heard_ms(info)
    if silent_ms < 0 or here.ages_wrap or not here.answers_show:
        return True
    idle, interval, count = _times(final)
    margin = 1 + 2 * here.timing.late_each
    return silent_ms / 1000 + margin + max(idle, interval) >= idle + interval * count


def _times(final: b.Values) -> tuple[int, int, int]:
    """Return idle, interval and count; the system's default for what it does not tell."""
    idle, interval, count = final[b.IDLE : b.COUNT + 1]
    if min(idle, interval, count) >= 0:
        return idle, interval, count
    defaults, here = system_defaults(), _systems.system()
    for_all = (defaults.idle, defaults.interval, defaults.count)
    found = []
    for option, value, default in zip(
        (b.IDLE, b.INTERVAL, b.COUNT), (idle, interval, count), for_all, strict=True
    ):
        row = here.option(option)
        documented = 0 if row is None or row.default is None else row.default
        found.append(value if value >= 0 else default or documented)
    return found[0], found[1], found[2]


def _patience(final: b.Values) -> float:
    """Return after how many seconds the probes have decided, answered or not."""
    here = _systems.system()
    if not here.drops_long_idle:
        return final[b.IDLE] + final[b.INTERVAL] * final[b.COUNT]
    idle, interval, count = _times(final)
    return idle + interval * count + 1 + 2 * here.timing.late_each


def _divided(before: _Socket, values: b.Values, final: b.Values) -> tuple[b.Values, b.Values]:
    """Divide what to set into what cannot harm now, and the rest."""
    if _systems.system().drops_long_idle:
        idle, interval, count = _times(final)
        safe = _replace(values, b.COUNT, max(count, _patient(idle, interval)))
        return safe, (b.LEAVE, b.LEAVE, b.LEAVE, count, b.LEAVE, b.LEAVE)
    patient = min(127, before.info.probes + final[b.COUNT])
    safe = _replace(values, b.COUNT, patient)
    rest = (b.LEAVE, b.LEAVE, b.LEAVE, final[b.COUNT], b.LEAVE, b.LEAVE)
    if final[b.USER_TIMEOUT] > 0:
        safe = _replace(safe, b.USER_TIMEOUT, 0)
        rest = _replace(rest, b.USER_TIMEOUT, final[b.USER_TIMEOUT])
    return safe, rest


def _patient(idle: int, interval: int) -> int:
    """Return the highest count whose time still fits the kernel's arithmetic."""
    room = max(_MOST_PATIENT - idle, _MOST_PATIENT // 2)
    return max(1, room // max(1, interval))


def describe(sock: SocketLike) -> Description:
    """Say what the kernel will do about a peer that vanishes.

    :param sock: as for :func:`tune`.

    Reads the values (the system's defaults folded in), the kernel's view of
    the connection, and derives the bounds in seconds; changes nothing. While
    a probe has borrowed options, the owner's are shown. ``warnings`` says in
    plain words, with the number, what may surprise.

    Linux tells all of it. None is what a system does not tell, and a warning
    names it: NetBSD's times, all but `enabled` on OpenBSD, most of
    ``tcp_info`` on macOS and Windows, ``detects_in_flight_within`` where
    nothing bounds it. DragonFly BSD, illumos, Solaris, AIX:
    NotSupportedError. Threads: any. Errors: NotSupportedError for UDP and
    AF_UNIX, OSError(EBADF) for a closed socket, TypeError. Source: tcp(7),
    net/ipv4/tcp_timer.c, tcp(4) and netinet/tcp_timer.c of the BSDs.

    >>> a, b = tcp_pair()
    >>> describe(a).warnings[0]
    'keepalive is off: a peer that vanishes is never noticed while idle'
    """
    fd = as_fd(sock)
    info = _info_of(fd)
    values = _asking.held_by_owner(fd)
    waiting = _pending.target(fd)
    held = from_values(values, _Socket(values, info, 0).rto)
    idle, in_flight, any_ = bounds(held)
    retries2 = 0 if held.user_timeout else host().retries2
    shown = tcp_info_of(info)
    return Description(
        enabled=values[b.ENABLED] == 1,
        idle=_told(values[b.IDLE]),
        interval=_told(values[b.INTERVAL]),
        count=_told(values[b.COUNT]),
        user_timeout=held.user_timeout,
        rto_max=held.rto_max,
        pending=waiting is not None,
        detects_idle_within=idle,
        detects_in_flight_within=in_flight,
        detects_any_within=any_,
        tcp_info=shown,
        warnings=warnings_for(held, shown, waiting, retries2, values),
    )


def _told(value: int) -> int | None:
    return None if value < 0 else value

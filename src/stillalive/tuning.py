"""Set the kernel's keepalive on a socket, and read back what it will do."""

from __future__ import annotations

from typing import NamedTuple

from . import _asking, _impl, _pending
from . import _backend as b
from ._describing import Description, bounds, tcp_info_of, warnings_for
from ._errors import not_supported
from ._host import host
from ._planning import Wishes
from ._sockets import SocketLike, as_fd
from ._values import Seconds, plain
from .policy import KeepAlive, as_wishes, from_values, marked, planned

__all__ = ["describe", "tune"]

_CONNECTED = frozenset((b.ESTABLISHED, b.FIN_WAIT1, b.FIN_WAIT2, b.CLOSE_WAIT))
_NAMES = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")


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
    single lost probe would end it.

    Linux: accepted sockets inherit everything from a tuned listener. MPTCP
    sockets have no user_timeout. Other systems: NotSupportedError so far.
    Threads: any. Errors: TypeError, ValueError (before the first system
    call), NotSupportedError naming the option, OSError naming the call.
    Source: tcp(7), net/ipv4/tcp.c, RFC 1122 4.2.3.6, RFC 5482.

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
        return self.info.state in _CONNECTED


def _tune(fd: int, explicit: KeepAlive, wishes: Wishes, best_effort: bool) -> KeepAlive:
    backend = _impl.backend
    before = _Socket(backend.read_options(fd), b.Info(*backend.tcp_info(fd)), backend.identify(fd))
    rto = before.info.rto_us / 1_000_000 if before.connected else None
    values = _wanted(before, explicit, wishes, rto, best_effort)
    values, unsupported = _supported(before, values, best_effort)
    waiting = _pending.target(fd)
    if waiting is not None:
        values = _merged(values, waiting)
    final = _merged(values, before.held)
    later = _must_wait(before, final, values)
    if later:
        safe, rest = _divided(before, values, final)
        after = backend.apply_options(fd, safe)
        patience = final[b.IDLE] + final[b.INTERVAL] * final[b.COUNT]
        _pending.add(fd, before.identity, rest, patience)
    else:
        after = backend.apply_options(fd, values)
        _pending.forget(before.identity)
    held = from_values(after, rto)
    return marked(held, pending=later, unsupported=unsupported) if later or unsupported else held


def _wanted(
    before: _Socket,
    explicit: KeepAlive,
    wishes: Wishes,
    rto: float | None,
    best_effort: bool,
) -> b.Values:
    chosen = explicit.values()
    if not wishes.any():
        return chosen
    live = Wishes(
        wishes.detect_within,
        wishes.middlebox,
        wishes.tolerate,
        wishes.spare_stalled,
        rto=rto,
        rtt=before.info.rtt_us / 1_000_000 if before.connected else None,
    )
    plan = planned(live, before.options, best_effort).values()
    if explicit.enabled is None:
        return plan
    merged = _merged(chosen, plan)
    _still_holds(from_values(merged, live.assumed_rto), live, explicit)
    return merged


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
    """Tell whether one lost probe could end a live connection under the final values."""
    if not before.connected or final[b.ENABLED] != 1:
        return False
    if final == before.held or all(value == b.LEAVE for value in values):
        return False
    info = before.info
    user_timeout = final[b.USER_TIMEOUT]
    if user_timeout <= 0:  # the count decides, and has begun to
        return info.probes > 0 and info.probes + 1 >= final[b.COUNT]
    if info.retransmits > 0:
        return True
    silent_ms = min(info.last_ack_recv_ms, info.last_data_recv_ms)
    first_decision_ms = silent_ms + final[b.INTERVAL] * 1000
    return silent_ms > final[b.IDLE] * 1000 and first_decision_ms >= user_timeout


def _divided(before: _Socket, values: b.Values, final: b.Values) -> tuple[b.Values, b.Values]:
    """Divide what to set into what cannot harm now, and the rest."""
    patient = min(127, before.info.probes + final[b.COUNT])
    safe = _replace(values, b.COUNT, patient)
    rest = (b.LEAVE, b.LEAVE, b.LEAVE, final[b.COUNT], b.LEAVE, b.LEAVE)
    if final[b.USER_TIMEOUT] > 0:
        safe = _replace(safe, b.USER_TIMEOUT, 0)
        rest = _replace(rest, b.USER_TIMEOUT, final[b.USER_TIMEOUT])
    return safe, rest


def describe(sock: SocketLike) -> Description:
    """Say what the kernel will do about a peer that vanishes.

    :param sock: as for :func:`tune`.

    Reads the values (the system's defaults folded in), the kernel's view of
    the connection, and derives the bounds in seconds; changes nothing. While
    a probe has borrowed options, the owner's are shown. ``warnings`` says in
    plain words, with the number, what may surprise.

    Other systems than Linux: NotSupportedError so far. Threads: any. Errors:
    NotSupportedError for UDP and AF_UNIX, OSError(EBADF) for a closed socket,
    TypeError. Source: tcp(7), net/ipv4/tcp_timer.c.

    >>> a, b = tcp_pair()
    >>> describe(a).warnings[0]
    'keepalive is off: a peer that vanishes is never noticed while idle'
    """
    fd = as_fd(sock)
    info = b.Info(*_impl.backend.tcp_info(fd))
    values = _asking.held_by_owner(fd)
    waiting = _pending.target(fd)
    rto = info.rto_us / 1_000_000 if info.state in _CONNECTED else None
    held = from_values(values, rto)
    idle, in_flight, any_ = bounds(held)
    retries2 = 0 if held.user_timeout else host().retries2
    shown = tcp_info_of(info)
    return Description(
        enabled=values[b.ENABLED] == 1,
        idle=values[b.IDLE],
        interval=values[b.INTERVAL],
        count=values[b.COUNT],
        user_timeout=held.user_timeout,
        rto_max=held.rto_max,
        pending=waiting is not None,
        detects_idle_within=idle,
        detects_in_flight_within=in_flight,
        detects_any_within=any_,
        tcp_info=shown,
        warnings=warnings_for(held, shown, waiting, retries2),
    )

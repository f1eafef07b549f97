"""Keepalive policies: values, the wishes they come from, and their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar

from . import _backend as b
from . import _impl
from . import _rules as rules
from ._errors import not_supported
from ._host import host, options_by_number
from ._planning import Planned, Wishes, plan
from ._values import Seconds, as_count, as_flag, as_seconds, plain
from .presets import PRESETS

__all__ = ["KeepAlive"]

_NAMES = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class KeepAlive:
    """Hold keepalive values; ``None`` leaves a value as it is.

    :param idle: seconds of silence before the first probe.
    :param interval: seconds between unanswered probes.
    :param count: unanswered probes that end the connection (int).
    :param user_timeout: seconds that sent data may stay unacknowledged; 0 is
        off. On Linux it replaces `count` when it is set.
    :param rto_max: seconds, upper bound of the retransmission timer.
    :param enabled: keepalive on or off; any value above implies True.

    Defaults: all None. Waits are rounded up to what the OS can express
    (Linux: whole seconds, milliseconds for the last two). Ranges are checked
    when the policy meets a system: in :func:`tune` and
    :meth:`socket_options`. Linux: idle and interval 1 to 32767 s, count 1 to
    127, user_timeout up to 2147483 s, rto_max 1 to 120 s (Linux 6.15+).

    Threads: immutable, share it freely. Errors: TypeError, ValueError naming
    the argument, its value and what is allowed. Source: tcp(7), RFC 1122
    4.2.3.6, RFC 5482.

    >>> KeepAlive(idle=10, interval=5, count=3).detects_idle_within
    25.0
    """

    idle: Seconds | None = None
    interval: Seconds | None = None
    count: int | None = None
    user_timeout: Seconds | None = None
    rto_max: Seconds | None = None
    enabled: bool | None = None
    pending: bool = field(default=False, init=False, compare=False)
    unsupported: tuple[str, ...] = field(default=(), init=False, compare=False)
    _rto: float = field(default=rules.RTO_UNKNOWN, init=False, compare=False)
    _values: b.Values | None = field(default=None, init=False, compare=False)

    OFF: ClassVar[KeepAlive]
    """Switch keepalive off; everything else stays as it is."""

    def __post_init__(self) -> None:
        for name in ("idle", "interval", "user_timeout", "rto_max"):
            value = getattr(self, name)
            if value is not None:
                self._put(name, as_seconds(name, value, zero=name == "user_timeout"))
        if self.count is not None:
            self._put("count", as_count("count", self.count))
        if self.enabled is not None:
            as_flag("enabled", self.enabled)
        given = [name for name in _NAMES[1:] if getattr(self, name) is not None]
        if given and self.enabled is False:
            raise ValueError(f"enabled=False: cannot be combined with {', '.join(given)}")
        if given:
            self._put("enabled", True)

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.init]
        shown = [text for text in shown if not text.endswith("=None")]
        if self.pending:
            shown.append("pending=True")
        if self.unsupported:
            shown.append(f"unsupported={self.unsupported!r}")
        return f"KeepAlive({', '.join(shown)})"

    @classmethod
    def plan(
        cls,
        *,
        detect_within: Seconds | None = None,
        middlebox: Seconds | str | None = None,
        tolerate: Seconds | None = None,
        spare_stalled: bool = False,
        rtt: Seconds | None = None,
    ) -> KeepAlive:
        """Choose the values that make wishes come true on this system.

        :param detect_within: seconds in which a vanished peer is told: since
            its last sign of life when idle, since the first unanswered write
            otherwise. At least 5 here; :func:`tune` on a connected socket,
            which knows the round trip time, takes 3.
        :param middlebox: seconds after which a NAT, firewall or balancer
            forgets an idle flow, or a name from :data:`PRESETS`.
        :param tolerate: seconds; a shorter outage never ends the connection.
            With `detect_within` alone a third of it is tolerated from 6 s on.
        :param spare_stalled: do not end a live peer that does not read. Needs
            Linux 6.15+ and, with `detect_within`, at least 16 s.
        :param rtt: seconds of round trip, if known; otherwise a path whose
            retransmission timeout is at most 1 s is assumed (0.2 s with
            `spare_stalled`).

        Bounds are rounded down with room for late timers. Threads: any.
        Errors: ValueError for wishes that contradict each other or the
        system, saying what would be possible; NotSupportedError where the
        system cannot do it at all. Source: net/ipv4/tcp_timer.c.

        >>> KeepAlive.plan(detect_within=30)
        KeepAlive(idle=8, interval=6, count=3, user_timeout=23.0, ...enabled=True)
        """
        wishes = as_wishes(detect_within, middlebox, tolerate, spare_stalled, rtt)
        if not wishes.any():
            raise TypeError(
                "plan() needs at least one of detect_within, middlebox, tolerate, spare_stalled"
            )
        return planned(wishes)

    @property
    def detects_idle_within(self) -> float | None:
        """Tell after how many seconds of silence an idle connection is given up (nominal).

        None if keepalive is off, or a value is left to the socket. Timers may
        be late by an eighth; :meth:`plan` leaves room for that.
        """
        if not self.enabled or self.idle is None or self.interval is None or self.count is None:
            return None
        values = self.values()
        user_timeout = max(0, values[b.USER_TIMEOUT]) / 1000
        return float(
            rules.idle_death(values[b.IDLE], values[b.INTERVAL], values[b.COUNT], user_timeout)
        )

    @property
    def detects_in_flight_within(self) -> float | None:
        """Tell how many seconds after an unanswered write the connection is given up.

        Without a user timeout that is when tcp_retries2 runs out. None if
        user_timeout is left to the socket.
        """
        if self.user_timeout is None:
            return None
        values = self.values()
        rto_max = values[b.RTO_MAX] / 1000 if values[b.RTO_MAX] > 0 else rules.RTO_MAX_DEFAULT
        retries2 = 0 if values[b.USER_TIMEOUT] > 0 else host().retries2
        return rules.in_flight_death(values[b.USER_TIMEOUT] / 1000, self._rto, rto_max, retries2)

    @property
    def detects_any_within(self) -> float | None:
        """Tell the worst case: a first write just before the idle death would come.

        It is the sum of the two bounds, because a write suspends keepalive.
        """
        idle, in_flight = self.detects_idle_within, self.detects_in_flight_within
        return None if idle is None or in_flight is None else idle + in_flight

    def values(self) -> b.Values:
        """Return the kernel's integers, rounded up and range-checked.

        (enabled, idle s, interval s, count, user_timeout ms, rto_max ms); -1
        where nothing is to be set. ValueError names what is out of range.
        """
        if self._values is not None:
            return self._values
        numbers = (
            b.LEAVE if self.enabled is None else int(self.enabled),
            _up("idle", self.idle, 1),
            _up("interval", self.interval, 1),
            b.LEAVE if self.count is None else self.count,
            _up("user_timeout", self.user_timeout, 1000),
            _up("rto_max", self.rto_max, 1000),
        )
        for option, number in enumerate(numbers):
            _check_range(option, number, getattr(self, _NAMES[option]))
        self._put("_values", numbers)
        return numbers

    def socket_options(self) -> list[tuple[int, int, int]]:
        """Return (level, option, value) triples for libraries that set them.

        urllib3, httpcore, kafka-python and others take such a list. It is in
        the order in which the options must be set. Errors: ValueError for a
        value out of range, NotSupportedError for an option that this kernel
        lacks. Threads: any.

        >>> KeepAlive(idle=60, interval=10, count=4).socket_options()[0] == (
        ...     socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        True
        """
        table = options_by_number()
        triples = []
        for option, number in enumerate(self.values()):
            if number == b.LEAVE:
                continue
            if not _impl.backend.supported() >> option & 1:
                raise not_supported(f"{_NAMES[option]} ({_impl.backend.option_name(option)})")
            triples.append((*table[option], number))
        return triples


KeepAlive.OFF = KeepAlive(enabled=False)


def _up(name: str, value: Seconds | None, scale: int) -> int:
    if value is None:
        return b.LEAVE
    # 6 digits: 2.3 s is 2300 ms, not the 2301 that binary fractions make of it.
    return math.ceil(round(value * scale, 6))


def _check_range(option: int, number: int, given: object) -> None:
    allowed = _impl.backend.option_range(option)
    if number == b.LEAVE or allowed is None or allowed[0] <= number <= allowed[1]:
        return
    scale, unit = (1000, " s") if option in (b.USER_TIMEOUT, b.RTO_MAX) else (1, " s")
    if option == b.COUNT:
        unit = ""
    low, high = (plain(bound / scale) for bound in allowed)
    raise ValueError(
        f"{_NAMES[option]}={given!r}: out of range (allowed: {low} to {high}{unit} for "
        f"{_impl.backend.option_name(option)})"
    )


def as_wishes(
    detect_within: Seconds | None,
    middlebox: Seconds | str | None,
    tolerate: Seconds | None,
    spare_stalled: bool,
    rtt: Seconds | None = None,
    rto: float | None = None,
) -> Wishes:
    """Check the wishes one by one."""
    return Wishes(
        detect_within=_optional("detect_within", detect_within),
        middlebox=_middlebox(middlebox),
        tolerate=_optional("tolerate", tolerate, zero=True),
        spare_stalled=as_flag("spare_stalled", spare_stalled),
        rtt=_optional("rtt", rtt, zero=True),
        rto=rto,
    )


def _optional(name: str, value: object, *, zero: bool = False) -> float | None:
    return None if value is None else float(as_seconds(name, value, zero=zero))


def _middlebox(value: object) -> float | None:
    if not isinstance(value, str):
        return _optional("middlebox", value)
    preset = PRESETS.get(value)
    if preset is None:
        raise ValueError(
            f"middlebox={value!r}: no such preset (allowed: seconds, or one of "
            f"{', '.join(sorted(PRESETS))})"
        )
    if preset.layer == "L7":
        raise ValueError(
            f"middlebox={value!r}: keepalive cannot refresh it, because it counts payload "
            f"(HTTP or stream bytes) and forgets after {plain(preset.timeout)} s. What can: "
            "bytes of the application, such as a request, a WebSocket or HTTP/2 message, more "
            "often than that; or close idle connections before it does"
        )
    return preset.timeout


def planned(wishes: Wishes, can: int | None = None, best_effort: bool = False) -> KeepAlive:
    """Turn checked wishes into a policy; `can` is the option bit set of the socket."""
    here = host(can)
    if not here.has_idle:
        raise not_supported("planning keepalive values")
    if wishes.detect_within is not None and not best_effort:
        if wishes.spare_stalled and not here.linux.has_rto_max:
            raise not_supported("spare_stalled with detect_within (TCP_RTO_MAX_MS)")
        if not wishes.spare_stalled and not here.linux.has_user_timeout:
            raise not_supported("detect_within (TCP_USER_TIMEOUT)")
    return from_planned(plan(wishes, here.linux), wishes.assumed_rto)


def from_planned(found: Planned, rto: float) -> KeepAlive:
    policy = KeepAlive(
        idle=found.idle,
        interval=found.interval,
        count=found.count,
        user_timeout=found.user_timeout,
        rto_max=found.rto_max,
        enabled=True,
    )
    return marked(policy, rto=rto)


def from_values(values: b.Values, rto: float | None) -> KeepAlive:
    """Return what the kernel holds as a policy."""
    enabled, idle, interval, count, user_timeout, rto_max = (
        None if value == b.LEAVE else value for value in values
    )
    policy = object.__new__(KeepAlive)
    put = object.__setattr__
    put(policy, "enabled", enabled == 1)
    put(policy, "idle", idle)
    put(policy, "interval", interval)
    put(policy, "count", count)
    put(policy, "user_timeout", None if user_timeout is None else user_timeout / 1000)
    put(policy, "rto_max", None if rto_max is None else rto_max / 1000)
    put(policy, "pending", False)
    put(policy, "unsupported", ())
    put(policy, "_rto", rules.RTO_UNKNOWN if rto is None else rto)
    put(policy, "_values", values)
    return policy


def marked(
    policy: KeepAlive,
    *,
    rto: float | None = None,
    pending: bool = False,
    unsupported: tuple[str, ...] = (),
) -> KeepAlive:
    """Attach to a policy what its constructor does not take."""
    if rto is not None:
        policy._put("_rto", rto)
    policy._put("pending", pending)
    policy._put("unsupported", unsupported)
    return policy

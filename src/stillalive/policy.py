"""Keepalive policies: values, the wishes they come from, and their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar

from . import _backend as b
from . import _bounds, _elsewhere, _impl, _planning, _systems
from . import _rules as rules
from ._errors import not_supported
from ._host import can_set, host, options_by_number
from ._planning import Planned, Wishes
from ._systems import OPTION_NAMES as _NAMES
from ._values import Seconds, as_count, as_flag, as_seconds, plain
from .presets import PRESETS

__all__ = ["KeepAlive"]


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

    Defaults: all None. Waits are rounded up to what the OS can express: whole
    seconds for idle and interval; milliseconds for the last two on Linux and
    Windows, whole seconds on macOS and FreeBSD. Ranges are checked when the
    policy meets a system: in :func:`tune` and :meth:`socket_options`. Linux:
    idle and interval 1 to 32767 s, count 1 to 127, user_timeout up to
    2147483 s, rto_max 1 to 120 s (Linux 6.15+). The others have no rto_max,
    NetBSD no user_timeout, OpenBSD nothing but `enabled`;
    :func:`capabilities` has the ranges.

    What :func:`tune` returns also has ``pending``, ``unsupported`` (names of
    options left out with ``best_effort``) and ``not_inherited``: names of
    options set on a listener that accepted sockets do not take over on this
    system. None is also what a system does not tell (NetBSD's times).

    Threads: immutable, share it freely. Errors: TypeError, ValueError naming
    the argument, its value and what is allowed. Source: tcp(7), tcp(4) of
    the BSDs, RFC 1122 4.2.3.6, RFC 5482.

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
    not_inherited: tuple[str, ...] = field(default=(), init=False, compare=False)
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
        if self.not_inherited:
            shown.append(f"not_inherited={self.not_inherited!r}")
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
            With `detect_within` alone a third of it is tolerated from 6 s on;
            elsewhere than on Linux from 10 s on, about a quarter while data is
            in flight, and nothing can keep retransmissions from running out.
        :param spare_stalled: do not end a live peer that does not read. Linux
            only; with `detect_within` Linux 6.15+ and at least 16 s.
        :param rtt: seconds of round trip, if known; otherwise a path whose
            retransmission timeout is at most 1 s is assumed (0.2 s with
            `spare_stalled`).

        Bounds are rounded down with room for late timers. On Linux, macOS,
        FreeBSD 14+ and Windows 10 1607+ `detect_within` bounds data in flight
        too; where nothing does it is a NotSupportedError. macOS and FreeBSD
        look at their user timeout only when a retransmission is due, so it is
        about half of `detect_within`. OpenBSD has no times: NotSupportedError.

        Threads: any. Errors: ValueError for wishes that contradict each other
        or the system, saying what would be possible; NotSupportedError where
        the system cannot do it at all. Source: net/ipv4/tcp_timer.c (Linux),
        netinet/tcp_timer.c (BSD, macOS).

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

        None if keepalive is off, or a value is left to the socket, or is not
        told. Timers may be late: by an eighth on Linux, by half a second each
        on macOS; :meth:`plan` leaves room for that.
        """
        if not self.enabled or self.idle is None or self.interval is None or self.count is None:
            return None
        _, idle, interval, count, user_timeout, _ = self.values()
        here, seconds = _systems.system(), max(0, user_timeout) / 1000
        return float(_bounds.idle_death(here, idle, interval, count, seconds))

    @property
    def detects_in_flight_within(self) -> float | None:
        """Tell how many seconds after an unanswered write the connection is given up.

        Without a user timeout that is when the retransmissions run out (Linux:
        tcp_retries2; macOS, FreeBSD: 12). None if user_timeout is left to the
        socket, and where the system gives no bound.
        """
        if self.user_timeout is None:
            return None
        values = self.values()
        rto_max = values[b.RTO_MAX] / 1000 if values[b.RTO_MAX] > 0 else rules.RTO_MAX_DEFAULT
        retries2 = 0 if values[b.USER_TIMEOUT] > 0 else host().retries2
        user_timeout = values[b.USER_TIMEOUT] / 1000
        here = _systems.system()
        return _bounds.in_flight_death(here, user_timeout, self._rto, rto_max, retries2)

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
        rows = _systems.system().options
        numbers = (
            b.LEAVE if self.enabled is None else int(self.enabled),
            _up(rows[b.IDLE], self.idle, 1),
            _up(rows[b.INTERVAL], self.interval, 1),
            b.LEAVE if self.count is None else self.count,
            _up(rows[b.USER_TIMEOUT], self.user_timeout, 1000),
            _up(rows[b.RTO_MAX], self.rto_max, 1000),
        )
        for number, row in enumerate(rows):
            value = numbers[number]
            if value != b.LEAVE and row is not None and not row.low <= value <= row.high:
                raise _out_of_range(number, row, getattr(self, _NAMES[number]))
        self._put("_values", numbers)
        return numbers

    def socket_options(self) -> list[tuple[int, int, int]]:
        """Return (level, option, value) triples for libraries that set them.

        urllib3, httpcore, kafka-python and others take such a list. It is in
        the order in which the options must be set, with this system's numbers
        and units (NetBSD: half-seconds). Errors: ValueError for a value out
        of range, NotSupportedError for an option that this kernel lacks, or
        that setsockopt does not set (Windows before 10 1709). Threads: any.

        >>> KeepAlive(idle=60, interval=10, count=4).socket_options()[0] == (
        ...     socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        True
        """
        table = options_by_number()
        triples = []
        for number, value in enumerate(self.values()):
            if value == b.LEAVE:
                continue
            option, pair = _systems.system().option(number), table[number]
            known = _impl.backend.supported() >> number & 1
            if option is None or pair is None or not known or not can_set(number):
                raise not_supported(f"{_NAMES[number]} ({_impl.backend.option_name(number)})")
            triples.append((*pair, option.native_value(value)))
        return triples


KeepAlive.OFF = KeepAlive(enabled=False)


def _up(row: _systems.Option | None, value: Seconds | None, scale: int) -> int:
    if value is None:
        return b.LEAVE
    # 6 digits: 2.3 s is 2300 ms, not the 2301 that binary fractions make of it.
    units = math.ceil(round(value * scale, 6))
    return units if row is None or row.step == 1 else row.rounded(units)


def _out_of_range(number: int, row: _systems.Option, given: object) -> ValueError:
    scale, unit = (1000, " s") if number in (b.USER_TIMEOUT, b.RTO_MAX) else (1, " s")
    if number == b.COUNT:
        unit = ""
    low, high = (plain(bound / scale) for bound in (row.low, row.high))
    return ValueError(
        f"{_NAMES[number]}={given!r}: out of range (allowed: {low} to {high}{unit} for "
        f"{row.native})"
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
    linux = here.linux.system.key == "linux"
    if not here.has_idle:
        if best_effort and here.has_enabled:
            return marked(KeepAlive(enabled=True), unsupported=_lacking(wishes, here.linux, True))
        what = "planning keepalive values"
        raise not_supported(what if linux else f"{what} (idle, interval, count)")
    if wishes.spare_stalled and not linux and not best_effort:
        raise not_supported("spare_stalled (rto_max)")
    if wishes.detect_within is not None and not best_effort:
        if wishes.spare_stalled and not here.linux.has_rto_max:
            raise not_supported("spare_stalled with detect_within (TCP_RTO_MAX_MS)")
        if not wishes.spare_stalled and not here.linux.has_user_timeout:
            raise not_supported(f"detect_within for data in flight ({_in_flight_option()})")
    if linux:
        return from_planned(_planning.plan(wishes, here.linux), wishes.assumed_rto)
    policy = from_planned(_elsewhere.plan(wishes, here.linux), wishes.assumed_rto)
    return marked(policy, unsupported=_lacking(wishes, here.linux, False))


def _in_flight_option() -> str:
    option = _systems.system().option(b.USER_TIMEOUT)
    return "user_timeout" if option is None else option.native


def _lacking(wishes: Wishes, here: _planning.Host, no_times: bool) -> tuple[str, ...]:
    """Name the options without which a wish is met in part only."""
    found = ("idle", "interval", "count") if no_times else ()
    if wishes.spare_stalled:
        return (*found, "rto_max")
    bounded = wishes.detect_within is None or here.has_user_timeout
    return found if bounded else (*found, "user_timeout")


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
        None if value < 0 else value for value in values
    )
    if b.UNREADABLE in values:  # never to be set
        values = tuple(max(value, b.LEAVE) for value in values)  # type: ignore[assignment]
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
    put(policy, "not_inherited", ())
    put(policy, "_rto", rules.RTO_UNKNOWN if rto is None else rto)
    put(policy, "_values", values)
    return policy


def marked(
    policy: KeepAlive,
    *,
    rto: float | None = None,
    pending: bool = False,
    unsupported: tuple[str, ...] = (),
    not_inherited: tuple[str, ...] = (),
) -> KeepAlive:
    """Attach to a policy what its constructor does not take."""
    if rto is not None:
        policy._put("_rto", rto)
    policy._put("pending", pending)
    policy._put("unsupported", unsupported)
    policy._put("not_inherited", not_inherited)
    return policy

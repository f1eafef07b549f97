"""From wishes to values: how ``KeepAlive.plan`` chooses, on Linux. `_elsewhere` has the others.

A deadline D leaves three numbers open. They are chosen so that

* the idle death, with every timer late, is not after D;
* the user timeout and its head start are not after D;
* the user timeout lies between the last two ticks, so that it agrees with the
  count and does not sit on a tick that may be a few milliseconds early;
* an outage of D/3, and with it one lost probe, is survived where D allows;
* a middlebox hears a probe at T/2 and, if that one is lost, again before T.

Where the head start is long (a slow path, or an unknown one) the idle time is
lowered until the user timeout fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import _rules as rules
from ._systems import SYSTEMS, System
from ._values import plain

__all__ = ["Host", "Planned", "Wishes", "plan"]

SMALLEST_UNKNOWN = 5
SMALLEST_CONNECTED = 3
SMALLEST_SPARE_STALLED = 16
_MAX_TIME, _MAX_COUNT = 32767, 127
_MAX_USER_TIMEOUT = 2147483.0
_COUNTS = (3, 4, 5, 6, 8, 10, 16, 2, 1)


@dataclass(frozen=True)
class Wishes:
    """What the caller asked for; None is no wish."""

    detect_within: float | None = None
    middlebox: float | None = None
    tolerate: float | None = None
    spare_stalled: bool = False
    rtt: float | None = None
    rto: float | None = None
    """The live retransmission timeout, when there is a connection."""

    def any(self) -> bool:
        return self.spare_stalled or not (
            self.detect_within is self.middlebox is self.tolerate is None
        )

    @property
    def connected(self) -> bool:
        return self.rto is not None

    @property
    def assumed_rto(self) -> float:
        if self.rto is not None:
            return self.rto
        if self.rtt is not None:
            return rules.rto_of(self.rtt)
        return rules.RTO_MIN if self.spare_stalled else rules.RTO_UNKNOWN


@dataclass(frozen=True)
class Host:
    """What this kernel can do."""

    has_user_timeout: bool = True
    has_rto_max: bool = True
    retries2: int = rules.RETRIES2_DEFAULT
    system: System = SYSTEMS["linux"]


@dataclass(frozen=True)
class Planned:
    """Values in seconds; None leaves as it is."""

    idle: int | None = None
    interval: int | None = None
    count: int | None = None
    user_timeout: float | None = None
    rto_max: float | None = None


def plan(wishes: Wishes, host: Host) -> Planned:
    """Return values that meet every wish, or raise ValueError saying what would."""
    if wishes.detect_within is not None:
        return _with_deadline(wishes, wishes.detect_within, host)
    if wishes.middlebox is not None:
        return _for_middlebox(wishes, wishes.middlebox, host)
    if wishes.tolerate is not None:
        return _tolerant(wishes.tolerate, host, idle=None)
    return Planned(user_timeout=0.0)  # spare_stalled alone


def _with_deadline(wishes: Wishes, deadline: float, host: Host) -> Planned:
    smallest = _smallest(wishes, host)
    if deadline < smallest:
        raise ValueError(
            f"detect_within={plain(deadline)}: too short, the shortest possible here is "
            f"{plain(smallest)} s{_why_smallest(wishes)}"
        )
    deadline = min(deadline, 2.0 * _MAX_TIME)  # longer ones are met by being told earlier
    soft = wishes.tolerate is None
    outage = deadline / 3 if wishes.tolerate is None else wishes.tolerate
    found = _search(wishes, deadline, host, outage)
    if found is None and soft:  # at least one lost probe, else whatever is told in time
        found = _search(wishes, deadline, host, 0.0, _COUNTS[:-1])
    if found is None and soft:
        found = _search(wishes, deadline, host, 0.0)
    if found is None and soft and wishes.connected:
        found = _clamped(wishes, deadline, host)
    if found is None:
        raise _contradiction(wishes, deadline, host)
    return found


def _smallest(wishes: Wishes, host: Host) -> float:
    if not wishes.spare_stalled:
        return SMALLEST_CONNECTED if wishes.connected else SMALLEST_UNKNOWN
    if wishes.connected or wishes.rtt is not None or host.retries2 != rules.RETRIES2_DEFAULT:
        least = rules.in_flight_death(0.0, wishes.assumed_rto, 1.0, host.retries2)
        return max(float(SMALLEST_SPARE_STALLED), math.ceil(least * 10) / 10)
    return SMALLEST_SPARE_STALLED


def _why_smallest(wishes: Wishes) -> str:
    if wishes.spare_stalled:
        return " with spare_stalled: without a user_timeout the retransmissions must run out"
    return " on a connected socket" if wishes.connected else " before the connection is there"


def _search(
    wishes: Wishes,
    deadline: float,
    host: Host,
    outage: float,
    counts: tuple[int, ...] = _COUNTS,
) -> Planned | None:
    sparing = _sparing(wishes, deadline, host, outage) if wishes.spare_stalled else None
    if wishes.spare_stalled and sparing is None:
        return None
    most = rules.whole_budget(deadline)
    for total in range(most, 1, -max(1, most // 256)):
        for count in counts:
            probes = _probes(wishes, outage, total, count)
            if probes is None:
                continue
            if sparing is not None:
                return _planned(probes, 0.0, sparing)
            found = _bounding(wishes, deadline, host, outage, probes)
            if found is not None:
                return found
    return None


def _probes(wishes: Wishes, outage: float, total: int, count: int) -> tuple[int, int, int] | None:
    """Divide `total` seconds into idle and `count` intervals, if the wishes allow it."""
    interval = min(max(1, total // (count + 1)), _MAX_TIME)
    idle = min(total - interval * count, _MAX_TIME)
    if wishes.middlebox is not None:
        idle = min(idle, math.floor(wishes.middlebox / 2))
        if rules.with_lateness(idle + interval) > wishes.middlebox:
            return None
    rtt = wishes.rtt if wishes.rtt is not None else 0.0
    if idle < 1 or not rules.survives_idle(outage, interval, count, rtt):
        return None
    return idle, interval, count


def _bounding(
    wishes: Wishes, deadline: float, host: Host, outage: float, probes: tuple[int, int, int]
) -> Planned | None:
    idle, interval, count = probes
    rto_max = min(max(1.0, float(math.floor(deadline / 10))), 120.0) if host.has_rto_max else None
    limit = rto_max or rules.RTO_MAX_DEFAULT
    head = rules.head_start(wishes.assumed_rto, limit)
    least = idle + interval * (count - 1) + 0.25
    user_timeout = min(idle + interval * (count - 0.5), deadline - head, _MAX_USER_TIMEOUT)
    user_timeout = math.floor(user_timeout * 1000) / 1000
    if user_timeout < least:
        return None
    rtt = wishes.rtt or 0.0
    if outage > 0 and not rules.survives_in_flight(outage, user_timeout, limit, rtt):
        if rto_max is None:
            return None if wishes.tolerate is not None else _planned(probes, user_timeout, None)
        rto_max = user_timeout - outage - rtt - 0.25
        if rto_max < 1.0:
            return None
        rto_max = math.floor(rto_max * 1000) / 1000
    return _planned(probes, user_timeout, rto_max)


def _sparing(wishes: Wishes, deadline: float, host: Host, outage: float) -> float | None:
    """Find the longest rto_max with which retransmissions run out in time, not too early."""
    for rto_max in range(120, 0, -1):
        death = rules.in_flight_death(0.0, wishes.assumed_rto, rto_max, host.retries2)
        shortest_life = rules.retries_limit(rto_max, host.retries2)
        if death <= deadline and shortest_life - outage >= rto_max + (wishes.rtt or 0.0):
            return float(rto_max)
    return None


def _planned(probes: tuple[int, int, int], user_timeout: float, rto_max: float | None) -> Planned:
    idle, interval, count = probes
    return Planned(idle, interval, count, user_timeout, rto_max)


def _clamped(wishes: Wishes, deadline: float, host: Host) -> Planned | None:
    """Accept a later in-flight bound: the live rto is long, perhaps not settled yet."""
    if wishes.spare_stalled or wishes.middlebox is not None:
        return None
    count = 2 if rules.whole_budget(deadline) >= 3 else 1
    return Planned(1, 1, count, count + 0.5, 1.0 if host.has_rto_max else None)


def _contradiction(wishes: Wishes, deadline: float, host: Host) -> ValueError:
    given = f"detect_within={plain(deadline)}"
    if wishes.tolerate is not None:
        steps = [deadline * share / 64 for share in range(63, 0, -1)]
        best = next((s for s in steps if _search(wishes, deadline, host, s) is not None), None)
        if best is not None:
            return ValueError(
                f"tolerate={plain(wishes.tolerate)} cannot hold together with {given}: "
                f"at most {plain(math.floor(best * 100) / 100)} s is possible"
            )
    if wishes.middlebox is not None:
        return ValueError(
            f"middlebox={plain(wishes.middlebox)} cannot hold together with {given}: a flow that "
            "is forgotten so early needs a probe more often than once a second"
        )
    return ValueError(
        f"{given} cannot hold with a retransmission timeout of {plain(wishes.assumed_rto)} s: "
        f"a longer one, or rtt= as measured, is needed"
    )


def _for_middlebox(wishes: Wishes, forgets: float, host: Host) -> Planned:
    if rules.with_lateness(2) > forgets:
        raise ValueError(
            f"middlebox={plain(forgets)}: too short, the shortest possible is "
            f"{plain(rules.with_lateness(2))} s (probes come in whole seconds)"
        )
    # 0.48 and 0.13: the first probe before T/2, the second before 0.66 T.
    idle = min(max(1, math.floor(0.48 * forgets)), _MAX_TIME)
    interval = min(max(1, math.floor(0.13 * forgets)), _MAX_TIME)
    if wishes.tolerate is None:
        return Planned(idle, interval, 4, 0.0 if wishes.spare_stalled else None, None)
    if math.ceil(wishes.tolerate / interval) + 2 > _MAX_COUNT:
        idle = min(max(1, math.floor(0.2 * forgets)), _MAX_TIME)
        interval = min(max(1, math.floor(0.5 * forgets)), _MAX_TIME)
    if math.ceil(wishes.tolerate / interval) + 2 > _MAX_COUNT:
        raise ValueError(
            f"tolerate={plain(wishes.tolerate)} cannot hold together with "
            f"middlebox={plain(forgets)}: at most {interval * (_MAX_COUNT - 2)} s is possible"
        )
    return _tolerant(wishes.tolerate, host, idle=idle, interval=interval)


def _tolerant(
    outage: float, host: Host, *, idle: int | None, interval: int | None = None
) -> Planned:
    if interval is None:
        interval = min(max(1, math.ceil(outage / 8)), _MAX_TIME)
    count = max(4, math.ceil(outage / interval) + 2)
    longest = min(_MAX_TIME * (_MAX_COUNT - 2), _MAX_USER_TIMEOUT - 2 * rules.RTO_MAX_DEFAULT)
    if count > _MAX_COUNT or outage > longest:
        raise ValueError(
            f"tolerate={plain(outage)}: too long, at most {plain(longest)} s is possible"
        )
    # Off, unless the retransmissions themselves would run out too early.
    enough = rules.retries_limit(rules.RTO_MAX_DEFAULT, host.retries2) - rules.RTO_MAX_DEFAULT
    user_timeout = 0.0 if outage <= enough else outage + 2 * rules.RTO_MAX_DEFAULT
    # The bound of the retransmissions is part of it: a small one left on the
    # socket would have them run out within seconds.
    rto_max = rules.RTO_MAX_DEFAULT if host.has_rto_max else None
    return Planned(idle, interval, count, user_timeout, rto_max)

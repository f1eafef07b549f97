"""From wishes to values, on every system but Linux.

Nothing couples the two bounds here: the count decides when an idle connection
is given up, and the user timeout, where there is one, when one with data in
flight is. So both are chosen apart, each as late as its deadline allows,
because the later the end the longer the outage that is survived:

* idle + interval * count, with every timer late, is not after D;
* the user timeout, looked at when the retransmission timer fires, whose
  pauses double, leads to an end that is not after D. That makes it about half
  of D; an outage of D/3 is survived while idle, one of about D/4 in flight;
* a middlebox hears a probe at T/2 and, if that one is lost, again before T.

Where nothing bounds data in flight the caller has decided whether the rest is
worth having. That retransmissions run out cannot be changed here: an outage
that is to be tolerated is tolerated while idle, and no value set here ends it
earlier in flight.
"""

from __future__ import annotations

import math

from . import _bounds as bounds
from . import _rules as rules
from ._planning import SMALLEST_CONNECTED, SMALLEST_UNKNOWN, Host, Planned, Wishes
from ._systems import System
from ._values import plain

__all__ = ["plan"]

_MAX_TIME, _MAX_COUNT = 32767, 127
_COUNTS = (3, 4, 5, 6, 8, 10, 16, 24, 32, 48, 64, 96, 127, 2, 1)
_LOST_PROBE = _COUNTS[:-1]
_USER_TIMEOUT = 4
_RTO_MAX = rules.RTO_MAX_DEFAULT


def plan(wishes: Wishes, host: Host) -> Planned:
    """Return values that meet every wish, or raise ValueError saying what would."""
    if wishes.detect_within is not None:
        return _with_deadline(wishes, wishes.detect_within, host)
    if wishes.middlebox is not None:
        return _for_middlebox(wishes.middlebox, wishes.tolerate, host)
    if wishes.tolerate is not None:
        return _tolerant(wishes.tolerate, host, idle=None, interval=None)
    return Planned(user_timeout=_off(host))


def _off(host: Host) -> float | None:
    return 0.0 if host.has_user_timeout else None


def _with_deadline(wishes: Wishes, deadline: float, host: Host) -> Planned:
    floor = SMALLEST_CONNECTED if wishes.connected else SMALLEST_UNKNOWN
    found = _chosen(wishes, deadline, host) if deadline >= floor else None
    if found is not None:
        return found
    if wishes.tolerate is not None or wishes.middlebox is not None:
        _blame_other_wishes(wishes, deadline, host)
    halves = (half / 2 for half in range(2 * floor, 2 * _MAX_TIME))
    least = next((d for d in halves if d > deadline and _chosen(wishes, d, host)), None)
    raise ValueError(
        f"detect_within={plain(deadline)}: too short, the shortest possible here is "
        f"{plain(floor if least is None else least)} s with a retransmission timeout of "
        f"{plain(wishes.assumed_rto)} s"
    )


def _blame_other_wishes(wishes: Wishes, deadline: float, host: Host) -> None:
    given = f"detect_within={plain(deadline)}"
    if wishes.tolerate is not None:
        steps = (deadline * share / 64 for share in range(63, 0, -1))
        best = next((s for s in steps if _chosen(_tolerating(wishes, s), deadline, host)), None)
        if best is not None:
            raise ValueError(
                f"tolerate={plain(wishes.tolerate)} cannot hold together with {given}: "
                f"at most {plain(math.floor(best * 100) / 100)} s is possible"
            )
    if wishes.middlebox is not None:
        raise ValueError(
            f"middlebox={plain(wishes.middlebox)} cannot hold together with {given}: a flow that "
            "is forgotten so early needs a probe more often than once a second"
        )


def _tolerating(wishes: Wishes, outage: float) -> Wishes:
    return Wishes(wishes.detect_within, wishes.middlebox, outage, False, wishes.rtt, wishes.rto)


def _chosen(wishes: Wishes, deadline: float, host: Host) -> Planned | None:
    deadline = min(deadline, 2.0 * _MAX_TIME)  # longer ones are met by being told earlier
    user_timeout = _off(host)
    if host.has_user_timeout and not wishes.spare_stalled:
        user_timeout = _user_timeout(wishes, deadline, host.system)
        if user_timeout is None:
            return None
    if wishes.tolerate is not None:
        probes = _probes(wishes, deadline, host.system, wishes.tolerate, _COUNTS)
    else:
        probes = (
            _probes(wishes, deadline, host.system, deadline / 3, _COUNTS)
            or _probes(wishes, deadline, host.system, 0.0, _LOST_PROBE)
            or _probes(wishes, deadline, host.system, 0.0, _COUNTS)
        )
    return None if probes is None else Planned(*probes, user_timeout)


def _user_timeout(wishes: Wishes, deadline: float, system: System) -> float | None:
    """Find the latest user timeout that ends a connection in time, and not too early."""
    option = system.option(_USER_TIMEOUT)
    step = 1 if option is None else option.step
    low, high = 0, math.floor(deadline * 1000 / step)
    while low < high:
        middle = (low + high + 1) // 2
        death = bounds.in_flight_death(
            system, middle * step / 1000, wishes.assumed_rto, _RTO_MAX, 0
        )
        if death is not None and death <= deadline:
            low = middle
        else:
            high = middle - 1
    found = low * step / 1000
    # Without a wish too, one retransmission leaves before the end.
    return found if _survives(wishes, wishes.tolerate or 0.0, found, system) else None


def _survives(wishes: Wishes, outage: float, user_timeout: float, system: System) -> bool:
    """Tell whether a retransmission leaves after an outage and before the end."""
    timing, rto = system.timing, wishes.assumed_rto
    started = rto if timing.clock_from_retransmit else 0.0
    pause = min(timing.rto_cap, outage + rto)
    return user_timeout > 0 and outage + pause + timing.late_each < started + user_timeout


def _probes(
    wishes: Wishes, deadline: float, system: System, outage: float, counts: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """Divide the deadline into idle and intervals, if the wishes allow it."""
    for count in counts:
        total = bounds.most_total(system, deadline, count)
        interval = min(max(1, total // (count + 1)), _MAX_TIME)
        idle = min(total - interval * count, _MAX_TIME)
        if wishes.middlebox is not None:
            idle = min(idle, math.floor(wishes.middlebox / 2))
            interval = min(interval, _most_interval(wishes.middlebox, idle, system))
        rtt = wishes.rtt or 0.0
        if idle >= 1 and interval >= 1 and rules.survives_idle(outage, interval, count, rtt):
            return idle, interval, count
    return None


def _most_interval(forgets: float, idle: int, system: System) -> int:
    """Return the longest interval after which a second probe is still in time."""
    timing = system.timing
    return math.floor((forgets - 2 * timing.late_each) / (1 + timing.late_share)) - idle


def _for_middlebox(forgets: float, outage: float | None, host: Host) -> Planned:
    least = bounds.with_lateness(host.system, 2, 2)
    if least > forgets:
        raise ValueError(
            f"middlebox={plain(forgets)}: too short, the shortest possible is {plain(least)} s "
            "(probes come in whole seconds)"
        )
    # 0.48 and 0.13: the first probe before T/2, the second before 0.66 T.
    idle, interval = _refreshing(forgets, 0.48, 0.13, host.system)
    if outage is None:
        return Planned(idle, interval, 4)
    if math.ceil(outage / interval) + 2 > _MAX_COUNT:
        idle, interval = _refreshing(forgets, 0.2, 0.5, host.system)
    if math.ceil(outage / interval) + 2 > _MAX_COUNT:
        raise ValueError(
            f"tolerate={plain(outage)} cannot hold together with middlebox={plain(forgets)}: "
            f"at most {interval * (_MAX_COUNT - 2)} s is possible"
        )
    return _tolerant(outage, host, idle=idle, interval=interval)


def _refreshing(
    forgets: float, idle_share: float, interval_share: float, system: System
) -> tuple[int, int]:
    idle = min(max(1, math.floor(idle_share * forgets)), _MAX_TIME)
    interval = min(max(1, math.floor(interval_share * forgets)), _MAX_TIME)
    return max(1, min(idle, _most_interval(forgets, interval, system))), interval


def _tolerant(outage: float, host: Host, *, idle: int | None, interval: int | None) -> Planned:
    if interval is None:
        interval = min(max(1, math.ceil(outage / 8)), _MAX_TIME)
    count = max(4, math.ceil(outage / interval) + 2)
    if count > _MAX_COUNT:
        longest = _MAX_TIME * (_MAX_COUNT - 2)
        raise ValueError(
            f"tolerate={plain(outage)}: too long, at most {plain(longest)} s is possible"
        )
    return Planned(idle, interval, count, _off(host))

"""When each system gives a connection up: one set of questions, one answer per system.

Linux's arithmetic is measured and stands in `_rules`. The others share their
ancestor's, read in their sources:

Idle. E counts from the last segment received. Probes leave at E = idle,
idle + interval, ...; each time the timer fires, it is first asked whether
E >= idle + interval * count, and then the connection is dropped. No user
timeout changes that.

In flight. The user timeout is looked at only when the retransmission timer
fires, whose pauses double. The last time before the end came earlier than the
timeout, so the pause after it is at most as long as all that went before, and
never longer than the cap. Where nothing is set the retransmissions run out
after a fixed number, if it is known; else there is no bound.

Their keepalive timer also runs while data is in flight. That is read, not
measured, and no promise is built on it.

Lateness. A timer fires late by a share of its length and a constant
(`_systems.Timing`); a chain of timers is late by the sum.
"""

from __future__ import annotations

import math

from . import _rules as rules
from ._systems import System

__all__ = ["idle_death", "in_flight_death", "is_linux", "most_total", "with_lateness"]


def is_linux(system: System) -> bool:
    """Tell whether Linux's own rules apply; what is unknown is refused before it matters."""
    return system.key == "linux"


def idle_death(
    system: System, idle: float, interval: float, count: int, user_timeout: float
) -> float:
    """Return the silence after which an idle connection is given up (nominal)."""
    if system.user_timeout_overrules_count:
        return rules.idle_death(idle, interval, count, user_timeout)
    return idle + interval * count


def with_lateness(system: System, nominal: float, timers: int) -> float:
    """Return when a chain of timers has fired at the latest."""
    if is_linux(system):
        return rules.with_lateness(nominal)
    return nominal * (1 + system.timing.late_share) + system.timing.late_each * timers


def most_total(system: System, bound: float, count: int) -> int:
    """Return the most whole seconds of idle + interval * count that still meet `bound`."""
    if is_linux(system):
        return rules.whole_budget(bound)
    timing = system.timing
    return max(0, math.floor((bound - timing.late_each * (count + 1)) / (1 + timing.late_share)))


def in_flight_death(
    system: System, user_timeout: float, rto: float, rto_max: float, retries2: int
) -> float | None:
    """Return when unacknowledged data is given up, counted from the write; None: no bound."""
    if is_linux(system):
        return rules.in_flight_death(user_timeout, rto, rto_max, retries2)
    if user_timeout <= 0:
        return _retries_death(system, rto)
    timing = system.timing
    start = rto + timing.late_each if timing.clock_from_retransmit else 0.0
    least = start + user_timeout
    pause = min(timing.rto_cap, least + rto)
    return (least + pause) * (1 + timing.late_share) + timing.late_each


def _retries_death(system: System, rto: float) -> float | None:
    timing = system.timing
    if timing.retries is None:
        return None
    factors = (min(1 << retry, timing.backoff_top) for retry in range(timing.retries + 1))
    pauses = sum(min(timing.rto_cap, rto * factor) for factor in factors)
    return pauses + (timing.retries + 1) * (timing.late_each + rules.RTO_MIN)

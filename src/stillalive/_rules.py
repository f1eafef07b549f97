"""When Linux gives a connection up: the arithmetic behind every bound.

All of it was measured on Linux 6.18 and read in net/ipv4/tcp_timer.c. Times
are seconds.

Idle. E counts from the last segment received. Probes leave at E = idle,
idle + interval, ...; death is decided only at such a tick. Without a user
timeout it comes at idle + interval * count. With one the count is ignored and
death comes at the first tick, from idle + interval on, that is not earlier
than the user timeout.

In flight. Keepalive rests while data is unacknowledged. The user timeout then
counts from the first retransmission that the retransmission timer makes, two
timeouts after the write (the first one sends a tail loss probe). Without a
user timeout tcp_retries2 counts: the kernel does not count retransmissions but
compares the time with that of an ideal backoff that starts at 200 ms.

Lateness. Timers never fire early. The kernel's timer wheel delays one by at
most an eighth of its length, plus a tick.
"""

from __future__ import annotations

import math

RTO_MIN = 0.2
RTO_UNKNOWN = 1.0
"""Before the first round trip: the kernel's initial retransmission timeout."""
RTO_MAX_DEFAULT = 120.0
RETRIES2_DEFAULT = 15

_LATE_SHARE = 1 / 8
_LATE_TICK = 0.1
_SETTLE = 0.2
"""Lateness of the last, short timers of a retransmission."""


def with_lateness(nominal: float) -> float:
    """Return when a chain of timers has fired at the latest."""
    return nominal * (1 + _LATE_SHARE) + _LATE_TICK


def whole_budget(bound: float) -> int:
    """Return the most whole seconds of timers that still meet `bound`."""
    return max(0, math.floor((bound - _LATE_TICK) / (1 + _LATE_SHARE)))


def idle_death(idle: float, interval: float, count: int, user_timeout: float) -> float:
    """Return the silence after which an idle connection is given up."""
    if user_timeout <= 0:
        return idle + interval * count
    return idle + interval * max(1, math.ceil((user_timeout - idle) / interval))


def head_start(rto: float, rto_max: float = RTO_MAX_DEFAULT) -> float:
    """Return how long after a write the user timeout has started at the latest."""
    return 2.1 * min(rto, rto_max) + _SETTLE


def rto_of(rtt: float) -> float:
    """Estimate the retransmission timeout that a round trip time leads to."""
    return max(rtt + RTO_MIN, 2.2 * rtt)


def retries_limit(rto_max: float, retries2: int) -> float:
    """Return the time that tcp_retries2 stands for (tcp_model_timeout)."""
    doublings = math.floor(math.log2(rto_max / RTO_MIN))
    if retries2 <= doublings:
        return float((2 << retries2) - 1) * RTO_MIN
    return ((2 << doublings) - 1) * RTO_MIN + (retries2 - doublings) * rto_max


def in_flight_death(user_timeout: float, rto: float, rto_max: float, retries2: int) -> float:
    """Return when a connection with unacknowledged data is given up, counted from the write."""
    if user_timeout > 0:
        return user_timeout + head_start(rto, rto_max)
    # Decided only when the timer fires, up to one more rto_max later.
    return retries_limit(rto_max, retries2) + rto_max + 2.1 * min(rto, rto_max)


def survives_idle(outage: float, interval: float, count: int, rtt: float) -> bool:
    """Tell whether a probe is answered after an outage and before the end."""
    first_after = math.ceil(outage / interval) * interval
    return first_after + rtt + 0.25 <= interval * count


def survives_in_flight(outage: float, user_timeout: float, rto_max: float, rtt: float) -> bool:
    """Tell whether a retransmission is answered after an outage and before the end."""
    # Retransmissions double their distance up to rto_max: the next one after
    # the outage comes at most that much, or one outage, later.
    gap = min(rto_max, outage + 2 * RTO_MIN)
    return user_timeout - outage >= gap + rtt + 0.25

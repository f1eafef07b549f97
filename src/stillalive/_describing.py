"""What ``describe`` returns, and the warnings it gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from . import _backend as b
from . import _bounds, _systems
from . import _rules as rules
from ._systems import OPTION_NAMES
from ._values import plain
from .policy import KeepAlive
from .presets import PRESETS

__all__ = ["Description", "TcpInfo", "TcpState", "tcp_info_of", "warnings_for"]


_NOT_MEASURED = 2**32 - 1
"""What Linux gives for min_rtt before the first round trip."""

_WELL_KNOWN = ("aws-nlb", "azure-lb")
"""One of these is named when idle is longer than it takes them to forget."""


class TcpState(enum.IntEnum):
    """Name the state of a TCP connection (RFC 9293), with Linux's numbers."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Hold the kernel's view of a connection; times are seconds, None is not told here."""

    state: TcpState | None
    retransmits: int | None
    """Retransmissions of the oldest segment, not answered so far."""
    probes: int | None
    """Keepalive or zero-window probes, not answered so far."""
    backoff: int | None
    rto: float | None
    rtt: float | None
    rttvar: float | None
    min_rtt: float | None
    unacked: int | None
    """Segments sent and not acknowledged."""
    last_data_sent: float | None
    last_data_recv: float | None
    last_ack_recv: float | None
    total_retrans: int | None
    bytes_acked: int | None
    bytes_received: int | None
    segs_out: int | None
    segs_in: int | None
    notsent_bytes: int | None
    data_segs_in: int | None
    data_segs_out: int | None
    bytes_sent: int | None
    bytes_retrans: int | None
    snd_wnd: int | None
    snd_nxt: int | None
    """Sequence number of the next byte to send; it, snd_max and rcv_nxt: FreeBSD, NetBSD, and
    OpenBSD as root, modulo 2**32. They start anywhere: only that they move tells something."""
    snd_max: int | None
    """The highest that was sent."""
    rcv_nxt: int | None
    """The next that is expected."""
    queued_bytes: int | None
    """Bytes in the send buffer, unsent or not acknowledged; of the same systems."""

    @property
    def heard_ago(self) -> float | None:
        """Seconds since the last segment from the peer."""
        told = [t for t in (self.last_data_recv, self.last_ack_recv) if t is not None]
        return min(told, default=None)


_SCALES = tuple(
    1_000_000 if name.endswith("_us") else 1000 if name.endswith("_ms") else 0
    for name in b.Info._fields[1:]
)
"""What each counter is divided by to be seconds; 0 leaves it an int."""


def tcp_info_of(info: b.Info) -> TcpInfo:
    """Translate the backends' integers; a listener's counters mean something else."""
    silent = info.state == b.LISTEN
    counters = [
        None if silent or value < 0 or value == _NOT_MEASURED else value / scale if scale else value
        for value, scale in zip(info[1:], _SCALES, strict=True)
    ]
    state = None if info.state < 0 else TcpState(info.state)
    return TcpInfo(state, *counters)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Description:
    """Hold what the kernel will do about a peer that vanishes; times are seconds."""

    enabled: bool
    idle: int | None
    """None, as those below: this system has none, or does not tell it."""
    interval: int | None
    count: int | None
    user_timeout: float | None
    rto_max: float | None
    pending: bool
    """True while a user_timeout or a count waits for the connection to prove itself."""
    detects_idle_within: float | None
    """Silence after which an idle connection is given up (nominal); None is never."""
    detects_in_flight_within: float | None
    """Time from an unanswered write to the end of the connection."""
    detects_any_within: float | None
    """Worst case: the first write comes just before the idle death would."""
    tcp_info: TcpInfo
    warnings: list[str]


def bounds(held: KeepAlive) -> tuple[float | None, float | None, float | None]:
    """Return the idle, in-flight and any bound of what a socket holds."""
    idle, in_flight = held.detects_idle_within, held.detects_in_flight_within
    any_ = None if idle is None or in_flight is None else idle + in_flight
    return idle, in_flight, any_


def warnings_for(
    held: KeepAlive,
    info: TcpInfo,
    waiting: b.Values | None,
    retries2: int,
    values: b.Values | None = None,
) -> list[str]:
    """Say in plain words, with the number, what may surprise the owner.

    `values` are the backends' own, which know what cannot be read.
    """
    found = _about_idle(held) if held.enabled else _about_off(held)
    found += _about_untold(values or held.values())
    found += _about_in_flight(held, info, retries2)
    if waiting is not None:
        found.append(_about_waiting(waiting))
    if info.state is TcpState.LISTEN:
        found += _about_listener()
    return found


def _about_waiting(waiting: b.Values) -> str:
    here = _systems.system()
    if here.drops_long_idle:
        when = "the peer has answered" if here.answers_show else "its probes have had their time"
        return (
            f"count {waiting[b.COUNT]} is set as soon as {when}: until then {here.title} could "
            "end the connection without asking"
        )
    user_timeout = max(0, waiting[b.USER_TIMEOUT]) / 1000
    return (
        f"user_timeout {plain(user_timeout)} s and count {waiting[b.COUNT]} are set as soon "
        "as the peer has answered: until then one lost probe could end the connection"
    )


def _about_listener() -> list[str]:
    here = _systems.system()
    lost = [
        name
        for number, name in enumerate(OPTION_NAMES)
        if here.option(number) is not None and name not in here.inherited
    ]
    found = []
    if lost:
        found.append(
            f"this socket listens: on {here.title} accepted connections do not inherit "
            f"{', '.join(lost)}; they must be tuned one by one"
        )
    if here.inherited:
        these = "the other" if lost else "these"
        found.append(
            f"this socket listens: connections accepted from now on inherit {these} values, "
            "those already in the queue do not"
        )
    return found


def _about_untold(values: b.Values) -> list[str]:
    here = _systems.system()
    untold = [
        name for name, value in zip(OPTION_NAMES, values, strict=True) if value == b.UNREADABLE
    ]
    if untold:
        return [f"{here.title} does not tell {', '.join(untold)} of a socket: None is shown"]
    if here.option(b.IDLE) is None and values[b.ENABLED] == 1:
        return [f"{here.title} has no times per socket: the system's own decide"]
    return []


def _about_off(held: KeepAlive) -> list[str]:
    always = _systems.system().always
    found = ["keepalive is off: a peer that vanishes is never noticed while idle"]
    if always:
        found = [
            f"keepalive is off, and {always} decides: as long as it is on, which is the default"
        ]
        found[0] += ", the connection is probed all the same"
    if held.user_timeout:
        found.append(
            f"user_timeout {plain(held.user_timeout)} s without keepalive bounds only unanswered "
            "writes"
        )
    return found


def _about_idle(held: KeepAlive) -> list[str]:
    idle, interval, count = held.idle or 0, held.interval or 0, held.count or 0
    found: list[str] = []
    for preset in (PRESETS[name] for name in _WELL_KNOWN):
        if preset.timeout < idle:
            found.append(
                f"idle {plain(idle)} s is longer than the {plain(preset.timeout)} s after which "
                f"{preset.title} forgets the flow"
            )
            break
    user_timeout = held.user_timeout or 0.0
    if user_timeout > 0 and _systems.system().user_timeout_overrules_count:
        found += _about_agreement(idle, interval, count, user_timeout)
    elif count == 1:
        found.append(f"count 1: a single lost probe ends the connection after {plain(interval)} s")
    return found


def _about_agreement(idle: float, interval: float, count: int, user_timeout: float) -> list[str]:
    found = []
    death = rules.idle_death(idle, interval, count, user_timeout)
    nominal = idle + interval * count
    if death != nominal:
        found.append(
            f"user_timeout {plain(user_timeout)} s overrides count {count}: an idle connection is "
            f"given up after {plain(death)} s, not {plain(nominal)} s"
        )
    if user_timeout <= idle + interval:
        found.append(
            f"user_timeout {plain(user_timeout)} s is not longer than idle + interval "
            f"({plain(idle + interval)} s): a single lost probe ends the connection"
        )
    if user_timeout > idle and (user_timeout - idle) % interval == 0:
        found.append(
            f"user_timeout {plain(user_timeout)} s falls on a probe: a few milliseconds decide "
            f"between {plain(user_timeout)} s and {plain(user_timeout + interval)} s"
        )
    return found


_SPARING = "; spare_stalled avoids that"


def _about_retries(held: KeepAlive, retries2: int) -> str:
    here, values = _systems.system(), held.values()
    rto_max = values[b.RTO_MAX] / 1000 if values[b.RTO_MAX] > 0 else rules.RTO_MAX_DEFAULT
    within = _bounds.in_flight_death(here, 0.0, held._rto, rto_max, retries2)
    text = "user_timeout is off: a peer that vanishes with data in flight is noticed only "
    if within is None:
        return text + "when the system's own retransmissions run out"
    text += f"after about {plain(round(within))} s"
    return f"{text} (tcp_retries2 = {retries2})" if here.key == "linux" else text


def _about_in_flight(held: KeepAlive, info: TcpInfo, retries2: int) -> list[str]:
    found = []
    if held.user_timeout:
        found.append(
            f"a live peer that does not read for {plain(held.user_timeout)} s (zero window) is "
            f"ended by user_timeout{_SPARING if _systems.system().option(b.RTO_MAX) else ''}"
        )
    elif held.user_timeout is not None:
        found.append(_about_retries(held, retries2))
    elif held.enabled and _systems.system().key != "linux":
        found.append("nothing set here bounds how long an unanswered write waits")
    if info.rto is not None and info.rto >= 1 and info.state is TcpState.ESTABLISHED:
        found.append(
            f"the retransmission timeout is {plain(info.rto)} s now: until a shorter round trip "
            "is measured, an unanswered write is noticed twice that much later"
        )
    interval, count = held.interval or 0, held.count or 0
    if held.enabled and info.rtt and interval * count and info.rtt >= interval * count:
        found.append(
            f"the round trip of {plain(info.rtt)} s is not shorter than interval * count "
            f"({plain(interval * count)} s): a live peer cannot answer in time"
        )
    return found

"""What the system's defaults mean for a connection whose peer vanishes."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from .. import _rules as rules
from .._errors import NotSupportedError
from .._host import SystemDefaults
from ..presets import PRESETS, Preset
from ..tuning import describe
from ._limits import descriptor_limit, somaxconn, syn_linear_timeouts
from ._words import duration

__all__ = ["Meaning", "forgetful", "meanings"]

_SYN_FIRST = 1.0
_SYN_LONGEST = 120.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """One situation, and how long it lasts by the defaults; None is for ever."""

    about: str
    text: str
    seconds: float | None = None


def meanings(defaults: SystemDefaults) -> list[Meaning]:
    """Say what happens by default, in words and numbers; empty where nothing is known."""
    found = [*_idle(defaults), *_in_flight(defaults), *_connecting(defaults)]
    limit, backlog = descriptor_limit(), somaxconn()
    if limit is not None:
        soft, hard = limit
        found.append(Meaning("descriptors", f"{soft} for this process, the hard limit is {hard}"))
    if backlog is not None:
        found.append(Meaning("accept queue", f"{backlog} at most, whatever listen() asks for"))
    return found


def _idle(defaults: SystemDefaults) -> list[Meaning]:
    found = []
    if keepalive_by_default() is False:
        text = "a vanished peer is never noticed: keepalive is off"
        found.append(Meaning("idle", text))
    if defaults.idle is None or defaults.interval is None or defaults.count is None:
        return found
    after = rules.idle_death(defaults.idle, defaults.interval, defaults.count, 0)
    text = (
        f"a vanished peer is noticed after {duration(after)} "
        f"({defaults.idle} s + {defaults.count} * {defaults.interval} s)"
    )
    return [*found, Meaning("idle, keepalive just on", text, after)]


def _in_flight(defaults: SystemDefaults) -> list[Meaning]:
    if defaults.retries2 is None:
        return []
    rto_max = defaults.rto_max or rules.RTO_MAX_DEFAULT
    least = rules.retries_limit(rto_max, defaults.retries2)
    most = rules.in_flight_death(0, rules.RTO_MIN, rto_max, defaults.retries2)
    text = (
        f"a vanished peer is noticed after {duration(least)} to {duration(most)} "
        f"(tcp_retries2 = {defaults.retries2})"
    )
    return [Meaning("data in flight", text, most)]


def _connecting(defaults: SystemDefaults) -> list[Meaning]:
    if defaults.syn_retries is None:
        return []
    after = syn_linear_timeouts() * _SYN_FIRST + sum(
        min(_SYN_FIRST * 2**retry, _SYN_LONGEST) for retry in range(defaults.syn_retries + 1)
    )
    text = f"connect() gives up after {duration(after)} (tcp_syn_retries = {defaults.syn_retries})"
    return [Meaning("connecting", text, after)]


def keepalive_by_default() -> bool | None:
    """Tell whether a new socket has keepalive switched on; None if it cannot be told."""
    try:
        with socket.socket() as fresh:
            return describe(fresh).enabled
    except NotSupportedError:
        return None


def forgetful(idle: float, layer: str) -> list[Preset]:
    """Return the middleboxes that forget a flow which is idle for that long."""
    found = [p for p in PRESETS.values() if p.layer == layer and p.timeout < idle]
    return sorted(found, key=lambda preset: (preset.timeout, preset.name))

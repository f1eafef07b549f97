"""What the system's defaults mean for a connection whose peer vanishes."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from .. import _rules as rules
from .. import _systems
from .._errors import NotSupportedError
from .._host import SystemDefaults
from ..presets import PRESETS, Preset
from ..tuning import describe
from ._limits import syn_linear_timeouts
from ._words import duration

__all__ = ["Meaning", "forgetful", "meanings"]

_SYN_FIRST = 1.0
_SYN_LONGEST = 120.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """When a peer vanishes, what happens then, and after how many seconds; None is never."""

    about: str
    text: str
    seconds: float | None = None


def meanings(defaults: SystemDefaults) -> list[Meaning]:
    """Say what happens by default, in words and numbers; empty where nothing is known."""
    return [*_idle(defaults), *_in_flight(defaults), *_connecting(defaults)]


def _idle(defaults: SystemDefaults) -> list[Meaning]:
    found = []
    if keepalive_by_default() is False and not _systems.system().always:
        found.append(Meaning("while idle", "never noticed: keepalive is off by default"))
    if defaults.idle is None or defaults.interval is None or defaults.count is None:
        return found
    after = rules.idle_death(defaults.idle, defaults.interval, defaults.count, 0)
    text = (
        f"noticed after {duration(after)} "
        f"({defaults.idle} s + {defaults.count} * {defaults.interval} s)"
    )
    return [*found, Meaning("while idle, keepalive on", text, after)]


def _in_flight(defaults: SystemDefaults) -> list[Meaning]:
    if defaults.retries2 is None:
        return []
    least = rules.retries_limit(defaults.rto_max or rules.RTO_MAX_DEFAULT, defaults.retries2)
    text = f"noticed after {duration(least)} or more (tcp_retries2 = {defaults.retries2})"
    return [Meaning("with data in flight", text, least)]


def _connecting(defaults: SystemDefaults) -> list[Meaning]:
    if defaults.syn_retries is None:
        return []
    after = syn_linear_timeouts() * _SYN_FIRST + sum(
        min(_SYN_FIRST * 2**retry, _SYN_LONGEST) for retry in range(defaults.syn_retries + 1)
    )
    text = f"connect() fails after {duration(after)} (tcp_syn_retries = {defaults.syn_retries})"
    return [Meaning("while connecting", text, after)]


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

"""Which option and call each system has: the one table behind texts and tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import _backend as b
from . import _evidence, _impl, _systems
from ._errors import os_name
from ._systems import OPTION_NAMES, Option, System

__all__ = ["Capabilities", "Capability", "capabilities"]


@dataclass(frozen=True, slots=True)
class Capability:
    """Say whether one option or call works here, in what unit and range, and how we know."""

    name: str
    supported: bool
    native: str
    """The kernel's own name."""
    unit: str
    """The unit of the kernel's value; "" where there is none."""
    range: tuple[int, int] | None
    """The kernel's lowest and highest value, in `unit`."""
    since: str
    evidence: str

    def __bool__(self) -> bool:
        return self.supported


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Hold what this host can do: ``.options`` and ``.calls`` by name."""

    system: str
    implementation: str
    options: Mapping[str, Capability]
    calls: Mapping[str, Capability]

    def __getitem__(self, name: str) -> Capability:
        known = {**self.options, **self.calls}
        if name not in known:
            raise KeyError(f"{name!r} (allowed: {', '.join(known)})")
        return known[name]


LOOPS = ("Selector", "Server")
"""What every system can do, by one of its mechanisms."""

WATCHING = ("watch", "Guard")

CALLS = (
    *("tune", "describe", "tcp_info", "check", "probe", "aprobe"),
    *("watch", "Guard", "autotune", *LOOPS),
)


def capabilities() -> Capabilities:
    """Say what this host can do, per option and per call.

    Asks the kernel once, with a socket of its own, and remembers; what a call
    is built on, since when there is what it needs, and how that is known come
    from one table for all systems. ``range`` and ``unit`` are the kernel's
    own (NetBSD: half-seconds). A call that is not supported raises
    NotSupportedError, except ``probe`` and ``aprobe``, which then answer
    UNKNOWN. An option that a socket of another kind lacks (MPTCP has no user
    timeout) is found when that socket is used. Threads: any. Errors: none.

    >>> capabilities()["idle"].unit
    's'
    """
    here, bits = _systems.system(), _impl.backend.supported()
    pure = _impl.backend.NAME == "pure"
    options = {
        name: _option(here, number, bool(bits >> number & 1), pure)
        for number, name in enumerate(OPTION_NAMES)
    }
    calls = {name: _call(here, name, bits != 0, pure) for name in CALLS}
    return Capabilities(
        os_name(), _impl.backend.NAME, MappingProxyType(options), MappingProxyType(calls)
    )


def _option(here: System, number: int, supported: bool, pure: bool) -> Capability:
    name, row = OPTION_NAMES[number], here.option(number)
    native = _impl.backend.option_name(number) if row is None else row.native
    return Capability(
        name=name,
        supported=supported,
        native=native,
        unit="" if row is None else row.unit,
        range=_range(row),
        since="" if row is None else row.since,
        evidence=_evidence.of(name, here.key, pure) if supported else _evidence.NOT,
    )


def _range(row: Option | None) -> tuple[int, int] | None:
    return None if row is None else row.native_range


def _reads_probes() -> bool:
    with socket.socket() as sock:
        held = _impl.backend.read_options(sock.fileno())
    return min(held[b.IDLE], held[b.INTERVAL], held[b.COUNT]) >= 0


def _call(here: System, name: str, has_options: bool, pure: bool) -> Capability:
    row = here.call(name)
    loop = name in LOOPS
    supported = row.supported and (has_options or loop)
    if pure and name in WATCHING and here.key != "linux":  # its watcher is Linux's
        supported = False
    if name == "watch" and os.name == "nt" and supported:  # older ones have other options
        supported = _reads_probes()
    native = " or ".join(_impl.backend.mechanisms()) if loop else row.native
    return Capability(
        name=name,
        supported=supported,
        native=native,
        unit="",
        range=None,
        since=row.since,
        evidence=_evidence.of(name, here.key, pure) if supported else _evidence.NOT,
    )

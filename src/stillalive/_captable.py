"""Which option and call each system has: the one table behind texts and tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import _impl
from ._errors import os_name

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


_OPTIONS = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")
_UNITS = ("", "s", "s", "", "ms", "ms")
_LINUX_SINCE = (
    "Linux 2.0",
    "Linux 2.4",
    "Linux 2.4",
    "Linux 2.4",
    "Linux 2.6.37, not for MPTCP",
    "Linux 6.15, not for MPTCP",
)
_RAN = "ran on Linux 6.18"
_COMPILED = "compiled only"

_CALLS = {
    "tune": ("setsockopt, all or nothing", "Linux 4.12 (SO_COOKIE)"),
    "describe": ("getsockopt, TCP_INFO", "Linux 2.6.17"),
    "tcp_info": ("getsockopt(TCP_INFO)", "Linux 2.4"),
    "check": ("poll, TCP_INFO, SIOCINQ", "Linux 2.6.17"),
    "probe": ("TCP_KEEPIDLE re-arming the timer", "Linux 4.12 (SO_COOKIE)"),
    "aprobe": ("as probe, without a thread", "Linux 4.12 (SO_COOKIE)"),
    "watch": ("keepalive, TCP_INFO, TCP_RTO_MAX_MS", "Linux 4.12, behind a shut window 6.15"),
    "Guard": ("TCP_INFO, SO_COOKIE, shutdown on a duplicate", "Linux 4.12 (SO_COOKIE)"),
    "autotune": ("an audit hook, setsockopt", "Linux 4.12 (SO_COOKIE)"),
}
_LOOPS = {"Selector": "Linux 2.6.27 (epoll_create1)", "Server": "Linux 2.6.28 (accept4)"}
"""What every system can do, by one of its mechanisms."""


def capabilities() -> Capabilities:
    """Say what this host can do, per option and per call.

    Asks the kernel once, with a socket of its own, and remembers. An option
    that a socket of another kind lacks (MPTCP has no user timeout) is found
    when that socket is used. Threads: any. Errors: none.

    >>> capabilities()["idle"].unit
    's'
    """
    bits = _impl.backend.supported()
    linux = sys.platform == "linux"
    options = {
        name: Capability(
            name=name,
            supported=bool(bits >> number & 1),
            native=_impl.backend.option_name(number),
            unit=_UNITS[number],
            range=_impl.backend.option_range(number),
            since=_LINUX_SINCE[number] if linux else "",
            evidence=_RAN if linux else _COMPILED,
        )
        for number, name in enumerate(_OPTIONS)
    }
    calls = {
        name: Capability(
            name=name,
            supported=linux,
            native=native if linux else "",
            unit="",
            range=None,
            since=since if linux else "",
            evidence=_RAN if linux else _COMPILED,
        )
        for name, (native, since) in _CALLS.items()
    } | {
        name: Capability(
            name=name,
            supported=True,
            native=" or ".join(_impl.backend.mechanisms()),
            unit="",
            range=None,
            since=since if linux else "",
            evidence=_RAN if linux else _COMPILED,
        )
        for name, since in _LOOPS.items()
    }
    return Capabilities(
        os_name(), _impl.backend.NAME, MappingProxyType(options), MappingProxyType(calls)
    )

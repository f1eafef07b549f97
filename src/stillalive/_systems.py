"""What each operating system has: the one table behind errors, capabilities, docs and tests.

The C core's files in ext/sockopt hold the same numbers; a test compares them
with this table on every system it runs on. Values are in the backends' units:
seconds for idle and interval, milliseconds for user_timeout and rto_max.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["SYSTEMS", "Option", "System", "system"]

OPTION_NAMES = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")
"""In the order of the backends' numbers."""

SOCKET, TCP = "SOL_SOCKET", "IPPROTO_TCP"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of one system."""

    native: str
    level: str
    number: int
    low: int
    high: int
    """The lowest and highest value, in the backends' unit."""
    since: str
    default: int | None
    """What a socket starts with, unless an administrator has changed it; None is not known."""
    step: int = 1
    """What the kernel counts in, in the backends' unit: 1000 where it takes ms as seconds."""
    readable: bool = True


@dataclass(frozen=True, slots=True)
class System:
    """One operating system."""

    key: str
    title: str
    options: tuple[Option | None, ...]
    """By the backends' numbers; None where the system has nothing of the kind."""
    inherited: frozenset[str] = frozenset()
    """What an accepted socket takes over from its listener."""
    drops_long_idle: bool = False
    """Lowering the idle time of a connection that has been idle for long ends it unasked."""
    user_timeout_overrules_count: bool = False
    asks: bool = False
    """A probe can be made to leave at once, and all that it takes can be given back."""
    answers_show: bool = False
    """The kernel tells when it has last heard of the peer."""
    payload_clocks: bool = False
    """The kernel tells when data was last received and sent."""
    payload_counters: bool = False
    """The kernel counts the bytes received and sent."""


def _linux() -> System:
    return System(
        key="linux",
        title="Linux",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 9, 0, 1, "Linux 2.0", 0),
            Option("TCP_KEEPIDLE", TCP, 4, 1, 32767, "Linux 2.4", 7200),
            Option("TCP_KEEPINTVL", TCP, 5, 1, 32767, "Linux 2.4", 75),
            Option("TCP_KEEPCNT", TCP, 6, 1, 127, "Linux 2.4", 9),
            Option(
                "TCP_USER_TIMEOUT", TCP, 18, 0, 2**31 - 1, "Linux 2.6.37, and never for MPTCP", 0
            ),
            Option(
                "TCP_RTO_MAX_MS", TCP, 44, 1000, 120000, "Linux 6.15, and never for MPTCP", 120000
            ),
        ),
        inherited=frozenset(OPTION_NAMES),
        user_timeout_overrules_count=True,
        asks=True,
        answers_show=True,
        payload_clocks=True,
        payload_counters=True,
    )


def _darwin() -> System:
    return System(
        key="darwin",
        title="macOS",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "Mac OS X 10.0", 0),
            Option("TCP_KEEPALIVE", TCP, 0x10, 1, 4294967, "Mac OS X 10.0", 7200),
            Option("TCP_KEEPINTVL", TCP, 0x101, 1, 4294967, "OS X 10.9", 75),
            Option("TCP_KEEPCNT", TCP, 0x102, 1, 2**31 - 1, "OS X 10.9", 8),
            Option("TCP_RXT_CONNDROPTIME", TCP, 0x80, 0, 2147483000, "OS X 10.7", 0, step=1000),
            None,
        ),
        inherited=frozenset(("enabled", "interval", "count")),
        drops_long_idle=True,
        payload_counters=True,
    )


def _freebsd() -> System:
    return System(
        key="freebsd",
        title="FreeBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "FreeBSD 1.0", 0),
            Option("TCP_KEEPIDLE", TCP, 256, 1, 4294967, "FreeBSD 9.0", 7200),
            Option("TCP_KEEPINTVL", TCP, 512, 1, 4294967, "FreeBSD 9.0", 75),
            Option("TCP_KEEPCNT", TCP, 1024, 1, 2**31 - 1, "FreeBSD 9.0", 8),
            Option("TCP_MAXUNACKTIME", TCP, 68, 0, 2147483000, "FreeBSD 14.0", 0, step=1000),
            None,
        ),
        inherited=frozenset(("enabled", "idle", "interval", "count")),
        drops_long_idle=True,
        asks=True,
        answers_show=True,
    )


def _netbsd() -> System:
    return System(
        key="netbsd",
        title="NetBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "NetBSD 1.0", 0),
            Option("TCP_KEEPIDLE", TCP, 3, 1, 2147483, "NetBSD 5.0", 7200, readable=False),
            Option("TCP_KEEPINTVL", TCP, 5, 1, 2147483, "NetBSD 5.0", 75, readable=False),
            Option("TCP_KEEPCNT", TCP, 6, 1, 2**31 - 1, "NetBSD 5.0", 8, readable=False),
            None,
            None,
        ),
        inherited=frozenset(("enabled",)),
        drops_long_idle=True,
    )


def _openbsd() -> System:
    return System(
        key="openbsd",
        title="OpenBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "OpenBSD 2.0", 0),
            None,
            None,
            None,
            None,
            None,
        ),
        inherited=frozenset(("enabled",)),
        answers_show=True,
    )


def _windows() -> System:
    return System(
        key="windows",
        title="Windows",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "Windows 2000", 0),
            Option("TCP_KEEPIDLE", TCP, 3, 1, 2147483, "Windows 10 1709", 7200),
            Option("TCP_KEEPINTVL", TCP, 17, 1, 2147483, "Windows 10 1709", 1),
            Option("TCP_KEEPCNT", TCP, 16, 1, 255, "Windows 10 1703", 10),
            Option("TCP_MAXRTMS", TCP, 14, 0, 2**31 - 1, "Windows 10 1607", None),
            None,
        ),
        inherited=frozenset(("enabled", "idle", "interval", "count")),
        payload_counters=True,
    )


def _other() -> System:
    return System(key="other", title="another system", options=(None,) * len(OPTION_NAMES))


SYSTEMS = {
    found.key: found
    for found in (_linux(), _darwin(), _freebsd(), _netbsd(), _openbsd(), _windows(), _other())
}
_PREFIXES = {
    "linux": "linux",
    "darwin": "darwin",
    "freebsd": "freebsd",
    "netbsd": "netbsd",
    "openbsd": "openbsd",
    "win32": "windows",
}


def system(platform: str = sys.platform) -> System:
    """Return the row of an operating system, by ``sys.platform``'s name."""
    key = next((k for prefix, k in _PREFIXES.items() if platform.startswith(prefix)), "other")
    return SYSTEMS[key]

"""What each operating system has: the one table behind errors, capabilities, docs and tests.

The C core's files in ext/sockopt hold the same numbers; a test compares them
with this table on every system it runs on. Values are in the backends' units:
seconds for idle and interval, milliseconds for user_timeout and rto_max.

What is known about a system's timers stands here too, because a promised
bound is only as good as it: `Timing`. For Linux it was measured, for the
others it was read in their sources; Windows' is assumed to be no better than
the others'.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LISTED", "SYSTEMS", "Call", "Option", "System", "Timing", "system"]

OPTION_NAMES = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")
"""In the order of the backends' numbers."""

SOCKET, TCP = "SOL_SOCKET", "IPPROTO_TCP"

LISTED = ("DragonFly BSD", "illumos", "Solaris", "AIX")
"""Systems that have options of the kind, but that this package does not support."""

_SYSCTLS_MS = (
    ("net.inet.tcp.keepidle", 1000),
    ("net.inet.tcp.keepintvl", 1000),
    ("net.inet.tcp.keepcnt", 1),
)


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
    factor: int = 1
    """The kernel's numbers for one of the backends' unit: 2 where it counts half-seconds."""
    unit: str = "s"
    """The unit of the kernel's value; "" where there is none."""

    def rounded(self, value: int) -> int:
        """Return the value, in the backends' unit, rounded up to what the kernel counts in."""
        return -(-value // self.step) * self.step

    def native_value(self, value: int) -> int:
        """Return the kernel's own number for a value in the backends' unit."""
        return -(-value // self.step) * self.factor

    @property
    def native_range(self) -> tuple[int, int]:
        """The lowest and highest of the kernel's own numbers."""
        return self.native_value(self.low), self.high // self.step * self.factor


@dataclass(frozen=True, slots=True)
class Call:
    """One call of this package on one system."""

    native: str = ""
    """What it is built on."""
    since: str = ""
    supported: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """When the timers of one system fire, and when it gives a connection up."""

    late_share: float
    """A timer is late by at most this share of its length,"""
    late_each: float
    """and every timer of a chain by at most so many seconds more."""
    rto_cap: float = 64.0
    """The longest pause between two retransmissions, in seconds."""
    backoff_top: int = 64
    """How far the first pause is multiplied."""
    retries: int | None = None
    """Retransmissions that go unanswered before a connection is given up; None is not known."""
    clock_from_retransmit: bool = False
    """The user timeout counts from the first retransmission, not from the write."""


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
    sequence_numbers: bool = False
    """The kernel tells the sequence numbers of a connection, and what is in its send buffer."""
    numbers_for_root: bool = False
    """It does so to root alone."""
    ages_wrap: bool = False
    """The clock of the last segment has 32 bits of microseconds and starts again after 71 minutes:
    a difference can be told, an age cannot."""
    timing: Timing = field(default_factory=lambda: Timing(1 / 8, 0.5))
    calls: Mapping[str, Call] = field(default_factory=dict)
    """What each call of this package is built on here."""
    always: str = ""
    """The system-wide switch that has every connection probed, where it is on by default."""
    fixed_count: int | None = None
    """The count of every socket, where none can be set."""
    sysctls: tuple[tuple[str, int], ...] = ()
    """System-wide idle, interval and count: (name, or numbers, of the sysctl; its units in one
    second)."""

    def option(self, number: int) -> Option | None:
        """Return an option by the backends' number, None where there is nothing of the kind."""
        return self.options[number] if 0 <= number < len(self.options) else None

    def call(self, name: str) -> Call:
        """Return what a call is built on; one that is not listed is not supported."""
        return self.calls.get(name, Call(supported=False))


def _loops(selector: str, server: str, since: str = "") -> dict[str, Call]:
    return {"Selector": Call(selector, since), "Server": Call(server, since)}


def _calls(tune: Call, info: Call, check: str, probe: Call | None = None) -> dict[str, Call]:
    """Return what the BSDs, macOS and Windows share: everything but the Guard."""
    found = {
        "tune": tune,
        "describe": Call(f"getsockopt, {info.native}", info.since),
        "tcp_info": info,
        "check": Call(check, info.since),
        "autotune": Call(f"an audit hook, {tune.native}", tune.since),
    }
    return found if probe is None else found | {"probe": probe, "aprobe": probe}


def _linux() -> System:
    return System(
        key="linux",
        title="Linux",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 9, 0, 1, "Linux 2.0", 0, unit=""),
            Option("TCP_KEEPIDLE", TCP, 4, 1, 32767, "Linux 2.4", 7200),
            Option("TCP_KEEPINTVL", TCP, 5, 1, 32767, "Linux 2.4", 75),
            Option("TCP_KEEPCNT", TCP, 6, 1, 127, "Linux 2.4", 9, unit=""),
            Option(
                *("TCP_USER_TIMEOUT", TCP, 18, 0, 2**31 - 1),
                *("Linux 2.6.37, and never for MPTCP", 0),
                unit="ms",
            ),
            Option(
                *("TCP_RTO_MAX_MS", TCP, 44, 1000, 120000),
                *("Linux 6.15, and never for MPTCP", 120000),
                unit="ms",
            ),
        ),
        inherited=frozenset(OPTION_NAMES),
        user_timeout_overrules_count=True,
        asks=True,
        answers_show=True,
        payload_clocks=True,
        payload_counters=True,
        timing=Timing(1 / 8, 0.0, rto_cap=120.0),
        calls=_linux_calls(),
    )


def _linux_calls() -> dict[str, Call]:
    cookie = "Linux 4.12 (SO_COOKIE)"
    return {
        "tune": Call("setsockopt, all or nothing", cookie),
        "describe": Call("getsockopt, TCP_INFO", "Linux 2.6.17"),
        "tcp_info": Call("getsockopt(TCP_INFO)", "Linux 2.4"),
        "check": Call("poll, TCP_INFO, SIOCINQ", "Linux 2.6.17"),
        "probe": Call("TCP_KEEPIDLE re-arming the timer", cookie),
        "aprobe": Call("as probe, without a thread", cookie),
        "watch": Call(
            "keepalive, TCP_INFO, TCP_RTO_MAX_MS", "Linux 4.12, behind a shut window 6.15"
        ),
        "Guard": Call("TCP_INFO, SO_COOKIE, shutdown on a duplicate", cookie),
        "autotune": Call("an audit hook, setsockopt", cookie),
        "Selector": Call("epoll or poll", "Linux 2.6.27 (epoll_create1)"),
        "Server": Call("epoll or poll, accept4", "Linux 2.6.28 (accept4)"),
    }


def _darwin() -> System:
    return System(
        key="darwin",
        title="macOS",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "Mac OS X 10.0", 0, unit=""),
            Option("TCP_KEEPALIVE", TCP, 0x10, 1, 4294967, "Mac OS X 10.0", 7200),
            Option("TCP_KEEPINTVL", TCP, 0x101, 1, 4294967, "OS X 10.9", 75),
            Option("TCP_KEEPCNT", TCP, 0x102, 1, 2**31 - 1, "OS X 10.9", 8, unit=""),
            Option("TCP_RXT_CONNDROPTIME", TCP, 0x80, 0, 2147483000, "OS X 10.7", 0, step=1000),
            None,
        ),
        inherited=frozenset(("enabled", "interval", "count")),
        drops_long_idle=True,
        payload_counters=True,
        timing=Timing(0.0, 0.5, retries=12, clock_from_retransmit=True),
        calls=_calls(
            Call("setsockopt, SO_KEEPALIVE first", "OS X 10.9"),
            Call("getsockopt(TCP_CONNECTION_INFO)", "OS X 10.11"),
            "kqueue, TCP_CONNECTION_INFO",
        )
        | {
            "watch": Call(
                "TCP_KEEPCNT, TCP_CONNECTION_INFO looked at again and again", "OS X 10.11"
            ),
            "Guard": Call(
                "TCP_CONNECTION_INFO looked at again and again, shutdown on a duplicate",
                "OS X 10.11",
            ),
        }
        | _loops("kqueue or poll", "kqueue or poll"),
        sysctls=_SYSCTLS_MS,
    )


def _freebsd() -> System:
    return System(
        key="freebsd",
        title="FreeBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "FreeBSD 1.0", 0, unit=""),
            Option("TCP_KEEPIDLE", TCP, 256, 1, 4294967, "FreeBSD 9.0", 7200),
            Option("TCP_KEEPINTVL", TCP, 512, 1, 4294967, "FreeBSD 9.0", 75),
            Option("TCP_KEEPCNT", TCP, 1024, 1, 2**31 - 1, "FreeBSD 9.0", 8, unit=""),
            Option("TCP_MAXUNACKTIME", TCP, 68, 0, 2147483000, "FreeBSD 14.0", 0, step=1000),
            None,
        ),
        inherited=frozenset(("enabled", "idle", "interval", "count")),
        drops_long_idle=True,
        asks=True,
        answers_show=True,
        ages_wrap=True,
        sequence_numbers=True,
        always="net.inet.tcp.always_keepalive",
        timing=Timing(0.0, 0.1, backoff_top=512, retries=12),
        calls=_calls(
            Call("setsockopt", "FreeBSD 9.0"),
            Call("getsockopt(TCP_INFO)", "FreeBSD 6.0"),
            "kqueue, TCP_INFO",
            Call("TCP_KEEPIDLE of 1 s, which arms the timer anew", "FreeBSD 9.0"),
        )
        | {
            "watch": Call("TCP_KEEPCNT, TCP_INFO looked at again and again", "FreeBSD 9.0"),
            "Guard": Call("TCP_KEEPCNT; detect_within alone", "FreeBSD 9.0"),
        }
        | _loops("kqueue or poll", "kqueue or poll"),
        sysctls=_SYSCTLS_MS,
    )


def _halves(native: str, number: int, default: int) -> Option:
    """Return an option that NetBSD counts in half-seconds, whatever its manual says."""
    low, high, since = 1, 2147483, "NetBSD 5.0"
    return Option(
        *(native, TCP, number, low, high, since, default),
        readable=False,
        factor=2,
        unit="half-seconds",
    )


def _netbsd() -> System:
    return System(
        key="netbsd",
        title="NetBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "NetBSD 1.0", 0, unit=""),
            _halves("TCP_KEEPIDLE", 3, 7200),
            _halves("TCP_KEEPINTVL", 5, 75),
            Option("TCP_KEEPCNT", TCP, 6, 1, 2**31 - 1, "NetBSD 5.0", 8, readable=False, unit=""),
            None,
            None,
        ),
        inherited=frozenset(("enabled",)),
        drops_long_idle=True,
        sequence_numbers=True,
        timing=Timing(0.0, 0.6),
        calls=_calls(
            Call("setsockopt, in half-seconds", "NetBSD 5.0"),
            Call("getsockopt(TCP_INFO)", "NetBSD 8.0"),
            "kqueue, TCP_INFO",
        )
        | {
            "watch": Call(
                "TCP_INFO looked at again and again; idle_timeout alone, no abort", "NetBSD 8.0"
            )
        }
        | _loops("kqueue or poll", "kqueue or poll"),
        sysctls=(
            ("net.inet.tcp.keepidle", 2),
            ("net.inet.tcp.keepintvl", 2),
            ("net.inet.tcp.keepcnt", 1),
        ),
    )


def _openbsd() -> System:
    return System(
        key="openbsd",
        title="OpenBSD",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "OpenBSD 2.0", 0, unit=""),
            None,
            None,
            None,
            None,
            None,
        ),
        inherited=frozenset(("enabled",)),
        answers_show=True,
        ages_wrap=True,
        sequence_numbers=True,
        numbers_for_root=True,
        timing=Timing(0.0, 0.6),
        calls=_calls(
            Call("setsockopt(SO_KEEPALIVE), on and off", "OpenBSD 2.0"),
            Call("getsockopt(TCP_INFO)", "OpenBSD 7.3"),
            "kqueue, TCP_INFO",
        )
        | {
            "watch": Call(
                "TCP_INFO as root, looked at again and again; idle_timeout alone, no abort",
                "OpenBSD 7.3",
            )
        }
        | _loops("kqueue or poll", "kqueue or poll"),
        fixed_count=8,
        sysctls=(("4.2.6.3", 1), ("4.2.6.4", 1)),
    )


def _windows() -> System:
    return System(
        key="windows",
        title="Windows",
        options=(
            Option("SO_KEEPALIVE", SOCKET, 0x8, 0, 1, "Windows 2000", 0, unit=""),
            Option("TCP_KEEPIDLE", TCP, 3, 1, 2147483, "Windows 10 1709", 7200),
            Option("TCP_KEEPINTVL", TCP, 17, 1, 2147483, "Windows 10 1709", 1),
            Option("TCP_KEEPCNT", TCP, 16, 1, 255, "Windows 10 1703", 10, unit=""),
            Option("TCP_MAXRTMS", TCP, 14, 0, 2**31 - 1, "Windows 10 1607", None, unit="ms"),
            None,
        ),
        inherited=frozenset(("enabled", "idle", "interval", "count")),
        payload_counters=True,
        timing=Timing(1 / 8, 0.5, rto_cap=60.0),
        calls=_calls(
            Call("setsockopt, or SIO_KEEPALIVE_VALS", "Windows 2000"),
            Call("WSAIoctl(SIO_TCP_INFO)", "Windows 10 1703"),
            "WSAPoll, SIO_TCP_INFO",
        )
        | {
            "watch": Call(
                "TCP_KEEPCNT, SIO_TCP_INFO looked at again and again, WSADuplicateSocket",
                "Windows 10 1709",
            )
        }
        | _loops("WSAPoll; the pure-Python path select", "WSAPoll; the pure-Python path select"),
    )


def _other() -> System:
    return System(
        key="other",
        title="another system",
        options=(None,) * len(OPTION_NAMES),
        calls=_loops("poll", "poll"),
    )


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


@functools.cache
def system(platform: str = sys.platform) -> System:
    """Return the row of an operating system, by ``sys.platform``'s name."""
    key = next((k for prefix, k in _PREFIXES.items() if platform.startswith(prefix)), "other")
    return SYSTEMS[key]

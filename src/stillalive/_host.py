"""What this host can do, and its system-wide defaults."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

from . import _backend as b
from . import _impl
from . import _rules as rules
from ._planning import Host

__all__ = ["SystemDefaults", "host", "options_by_number", "system_defaults"]

_SYSCTL = "/proc/sys/net/ipv4/"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The options that are there, and what planning needs to know."""

    has_idle: bool
    linux: Host

    @property
    def retries2(self) -> int:
        return self.linux.retries2


@dataclass(frozen=True, slots=True)
class SystemDefaults:
    """Hold the system-wide values that a socket starts with; None is not known."""

    idle: int | None
    interval: int | None
    count: int | None
    rto_max: float | None
    retries2: int | None
    syn_retries: int | None


def _sysctl(name: str) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        fd = os.open(_SYSCTL + name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 64))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None


def system_defaults() -> SystemDefaults:
    """Read the system's defaults now: an administrator may change them any time."""
    if sys.platform != "linux":
        return SystemDefaults(None, None, None, None, None, None)
    rto_max = _sysctl("tcp_rto_max_ms")
    return SystemDefaults(
        idle=_sysctl("tcp_keepalive_time"),
        interval=_sysctl("tcp_keepalive_intvl"),
        count=_sysctl("tcp_keepalive_probes"),
        rto_max=None if rto_max is None else rto_max / 1000,
        retries2=_sysctl("tcp_retries2"),
        syn_retries=_sysctl("tcp_syn_retries"),
    )


def host(can: int | None = None) -> HostFacts:
    """Return what planning needs; `can` narrows it to one socket's options."""
    bits = _impl.backend.supported() if can is None else can
    retries2 = _sysctl("tcp_retries2") if sys.platform == "linux" else None
    return HostFacts(
        has_idle=bool(bits >> b.IDLE & 1),
        linux=Host(
            has_user_timeout=bool(bits >> b.USER_TIMEOUT & 1),
            has_rto_max=bool(bits >> b.RTO_MAX & 1),
            retries2=rules.RETRIES2_DEFAULT if retries2 is None else retries2,
        ),
    )


def options_by_number() -> tuple[tuple[int, int], ...]:
    """Return (level, number) of each option, in the backends' order."""
    if sys.platform != "linux":
        return ()
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, 4),
        (socket.IPPROTO_TCP, 5),
        (socket.IPPROTO_TCP, 6),
        (socket.IPPROTO_TCP, 18),
        (socket.IPPROTO_TCP, 44),
    )

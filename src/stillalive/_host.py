"""What this host can do, and its system-wide defaults."""

from __future__ import annotations

import functools
import os
import socket
import sys
from dataclasses import dataclass

from . import _backend as b
from . import _impl, _systems
from . import _rules as rules
from ._planning import Host

__all__ = ["SystemDefaults", "can_set", "host", "options_by_number", "restoring", "system_defaults"]

_SYSCTL = "/proc/sys/net/ipv4/"
_REGISTRY = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The options that are there, and what planning needs to know."""

    has_idle: bool
    has_enabled: bool
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
    """Read the system's defaults now: an administrator may change them any time.

    Linux: /proc. macOS and the BSDs: sysctl(3). Windows: the registry, else
    what is documented. Elsewhere, and where reading fails: None.
    """
    here = _systems.system()
    if here.key == "windows":
        return SystemDefaults(*_from_registry(here), None, None, None)
    if here.key != "linux":
        idle, interval, count = (_from_sysctl(here, part) for part in range(3))
        return SystemDefaults(idle, interval, count or here.fixed_count, None, None, None)
    rto_max = _sysctl("tcp_rto_max_ms")
    return SystemDefaults(
        idle=_sysctl("tcp_keepalive_time"),
        interval=_sysctl("tcp_keepalive_intvl"),
        count=_sysctl("tcp_keepalive_probes"),
        rto_max=None if rto_max is None else rto_max / 1000,
        retries2=_sysctl("tcp_retries2"),
        syn_retries=_sysctl("tcp_syn_retries"),
    )


def _documented(here: _systems.System, number: int) -> int | None:
    option = here.option(number)
    return None if option is None else option.default


def _from_sysctl(here: _systems.System, part: int) -> int | None:
    if part >= len(here.sysctls):
        return None
    name, scale = here.sysctls[part]
    value = _asked_of_kernel(name)
    return None if value is None else -(-value // scale)


def _asked_of_kernel(name: str) -> int | None:
    """Return an int that sysctl(3) knows by name, or by numbers with dots between."""
    import ctypes  # only here: it costs as much as the rest of the package

    try:
        libc = ctypes.CDLL(None)
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        out = (ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
        if name[0].isdigit():
            numbers = [int(part) for part in name.split(".")]
            mib = (ctypes.c_int * len(numbers))(*numbers)
            failed = libc.sysctl(mib, ctypes.c_uint(len(numbers)), *out)
        else:
            failed = libc.sysctlbyname(name.encode(), *out)
    except (OSError, AttributeError, TypeError):
        return None
    return None if failed or size.value != ctypes.sizeof(ctypes.c_int) else value.value


def _from_registry(here: _systems.System) -> tuple[int | None, int | None, int | None]:
    """Return idle, interval and count: milliseconds in the registry; absent is as documented."""
    names = ("KeepAliveTime", "KeepAliveInterval")
    found = [_registered(name) for name in names]
    idle, interval = (None if value is None else -(-value // 1000) for value in found)
    return (
        _documented(here, b.IDLE) if idle is None else idle,
        _documented(here, b.INTERVAL) if interval is None else interval,
        _documented(here, b.COUNT),
    )


def _registered(name: str) -> int | None:
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _REGISTRY) as key:
            value, kind = winreg.QueryValueEx(key, name)
    except OSError:
        return None
    return value if kind == winreg.REG_DWORD else None


def host(can: int | None = None) -> HostFacts:
    """Return what planning needs; `can` narrows it to one socket's options."""
    bits = _impl.backend.supported() if can is None else can
    here = _systems.system()
    retries2 = _sysctl("tcp_retries2") if here.key == "linux" else None
    return HostFacts(
        has_idle=bool(bits >> b.IDLE & 1),
        has_enabled=bool(bits >> b.ENABLED & 1),
        linux=Host(
            has_user_timeout=bool(bits >> b.USER_TIMEOUT & 1),
            has_rto_max=bool(bits >> b.RTO_MAX & 1),
            retries2=rules.RETRIES2_DEFAULT if retries2 is None else retries2,
            system=here,
        ),
    )


def options_by_number() -> tuple[tuple[int, int] | None, ...]:
    """Return (level, number) of each option of this system, in the backends' order."""
    return tuple(
        None if option is None else (_level(option), _number(option))
        for option in _systems.system().options
    )


def _level(option: _systems.Option) -> int:
    return socket.SOL_SOCKET if option.level == _systems.SOCKET else socket.IPPROTO_TCP


def _number(option: _systems.Option) -> int:
    # SO_KEEPALIVE differs between the processors that Linux runs on.
    return socket.SO_KEEPALIVE if option.native == "SO_KEEPALIVE" else option.number


@functools.cache
def can_set(number: int) -> bool:
    """Tell whether setsockopt itself knows an option, and no other call stands in for it."""
    pair = options_by_number()[number]
    if pair is None:
        return False
    if _systems.system().key != "windows":
        return True
    try:
        with socket.socket() as fresh:
            fresh.getsockopt(*pair)
    except OSError:
        return False
    return True


def restoring(before: b.Values, changed: b.Values) -> b.Values:
    """Return what to set to undo `changed`; what could not be read goes to the default."""
    defaults = system_defaults() if b.UNREADABLE in before else None
    known = {} if defaults is None else _by_option(defaults)
    values = [
        known.get(option, b.LEAVE)
        if value == b.UNREADABLE and changed[option] != b.LEAVE
        else max(value, b.LEAVE)
        for option, value in enumerate(before)
    ]
    return tuple(values)  # type: ignore[return-value]


def _by_option(defaults: SystemDefaults) -> dict[int, int]:
    found = {b.IDLE: defaults.idle, b.INTERVAL: defaults.interval, b.COUNT: defaults.count}
    return {option: value for option, value in found.items() if value is not None}

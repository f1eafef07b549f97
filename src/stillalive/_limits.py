"""Check what a Guard is asked to do, and turn it into a watcher's settings."""

from __future__ import annotations

import errno
import ipaddress
import math
import socket
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from . import _backend as b
from . import _impl, _seeing
from . import _pacing as pacing
from ._errors import describe_kind
from ._sockets import as_fd
from ._values import as_count, as_flag, as_seconds, plain

__all__ = ["Limits", "as_detect", "as_ms", "as_span", "check", "ports_of", "settings_of"]

SHORTEST: Final = 1.0
SHORTEST_DETECT: Final = 4.0
SHORTEST_EVICT_IDLE: Final = 0.1
LONGEST: Final = 4_000_000.0
"""The kernel's clocks of a connection wrap round after 49 days."""
_EVICT_IDLE: Final = 1.0
_MOST = 2**31 - 1
_TICK_MS = 10  # at 100 Hz, the slowest
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)

LIMITS: Final = (
    "never_spoke",
    "unanswered",
    "answered",
    "min_rate",
    "stalled",
    "detect_within",
    "evict_above",
)


class Network(NamedTuple):
    """A network of peers that are left alone."""

    packed: bytes
    length: int


def as_span(name: str, value: object, least: float) -> float:
    """Return `value` as seconds from `least` on."""
    seconds = as_seconds(name, value)
    if not least <= seconds <= LONGEST:
        raise ValueError(
            f"{name}={value!r}: out of range (allowed: {plain(least)} to {plain(LONGEST)} seconds)"
        )
    return float(seconds)


def as_detect(value: object) -> float:
    """Return `value` as a deadline that a watcher can meet."""
    seconds = as_seconds("detect_within", value)
    if seconds < SHORTEST_DETECT:
        raise ValueError(
            f"detect_within={value!r}: too short, the shortest possible here is "
            f"{plain(SHORTEST_DETECT)} s (probes come in whole seconds, and several must have "
            "the time to be answered)"
        )
    return as_span("detect_within", value, SHORTEST_DETECT)


def as_ms(seconds: float | None) -> int:
    """Return milliseconds, rounded up, and a tick of the kernel's more; NO_TIME for None.

    The kernel's stamps are whole ticks, rounded down: what it calls 1000 ms
    may be 990.
    """
    # 6 digits: 2.3 s is 2300 ms, not the 2301 that binary fractions make of it.
    return b.NO_TIME if seconds is None else math.ceil(round(seconds * 1000, 6)) + _TICK_MS


def _as_number(name: str, value: object) -> int:
    number = as_count(name, value)
    if number > _MOST:
        raise ValueError(f"{name}={value!r}: out of range (allowed: 1 to {_MOST})")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hold what may be changed in a Guard; None is off, times are seconds."""

    never_spoke: float | None
    unanswered: float | None
    answered: float | None
    min_rate: int | None
    stalled: float | None
    detect_within: float | None
    evict_above: int | None
    evict_idle: float | None
    exempt: tuple[Network, ...]
    dry_run: bool
    max_closes_per_second: int

    def given(self) -> dict[str, object]:
        """Return them by name, as :func:`check` takes them."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def check(
    *,
    detect_within: object,
    evict_above: object,
    evict_idle: object,
    min_rate: object,
    exempt: object,
    dry_run: object,
    max_closes_per_second: object,
    **times: object,
) -> Limits:
    """Return the limits that these arguments of a Guard stand for."""
    spans = {
        name: None if value is None else as_span(name, value, SHORTEST)
        for name, value in times.items()
    }
    if evict_idle is not None and evict_above is None:
        raise ValueError(f"evict_idle={evict_idle!r}: says nothing without evict_above")
    limits = Limits(
        **spans,
        min_rate=_optional_number("min_rate", min_rate),
        detect_within=None if detect_within is None else as_detect(detect_within),
        evict_above=_optional_number("evict_above", evict_above),
        evict_idle=None
        if evict_idle is None
        else as_span("evict_idle", evict_idle, SHORTEST_EVICT_IDLE),
        exempt=_networks(exempt),
        dry_run=as_flag("dry_run", dry_run),
        max_closes_per_second=_as_number("max_closes_per_second", max_closes_per_second),
    )
    if all(getattr(limits, name) is None for name in LIMITS):
        raise ValueError(f"a Guard needs a limit, at least one of: {', '.join(LIMITS)}")
    wanted = [name for name in LIMITS if getattr(limits, name) is not None]
    _seeing.refuse(wanted, found=True)
    return limits


def _optional_number(name: str, value: object) -> int | None:
    return None if value is None else _as_number(name, value)


def _networks(value: object) -> tuple[Network, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(
            f"exempt={value!r}: must be an iterable of addresses and networks (str or ipaddress)"
        )
    found = tuple(_network(one) for one in value)
    if len(found) > b.MOST_NETWORKS:
        raise ValueError(f"exempt: {len(found)} networks are too many (allowed: {b.MOST_NETWORKS})")
    return found


def _network(one: object) -> Network:
    if isinstance(one, Network):  # what an earlier call has made of it
        return one
    kinds = (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
    )
    if not isinstance(one, (str, *kinds)):
        raise TypeError(f"exempt: {one!r} is no address and no network (str or ipaddress)")
    try:
        network = ipaddress.ip_network(one)
    except ValueError as wrong:
        raise ValueError(
            f"exempt: {wrong} (allowed: an address, or a network such as 10.0.0.0/8)"
        ) from None
    return Network(network.network_address.packed, network.prefixlen)


def ports_of(listeners: object) -> tuple[int, ...]:
    """Return the ports that `listeners` names; none stands for all."""
    if isinstance(listeners, str) and listeners == "all":
        return ()
    if isinstance(listeners, (str, bytes)) or not isinstance(listeners, Iterable):
        raise TypeError(
            f"listeners={listeners!r}: must be 'all', or an iterable of ports and listening sockets"
        )
    ports = tuple(dict.fromkeys(_port(one) for one in listeners))
    if not ports:
        raise ValueError(f"listeners={listeners!r}: is empty ('all' is for all)")
    if len(ports) > b.MOST_PORTS:
        raise ValueError(
            f"listeners: {len(ports)} ports are too many (allowed: {b.MOST_PORTS}, or 'all')"
        )
    return ports


def _port(one: object) -> int:
    if isinstance(one, bool):
        raise TypeError(f"listeners: {one!r} is no port and no socket")
    if isinstance(one, int):
        if not 1 <= one <= 65535:
            raise ValueError(f"listeners: {one} is no port (allowed: 1 to 65535)")
        return one
    try:
        fd = as_fd(one)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"listeners: {one!r} is no port and no socket") from None
    kind = _impl.backend.kind(fd)
    if not kind[3]:
        raise ValueError(f"listeners: {one!r} is {describe_kind(kind)}, not a listening one")
    if kind[0] not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"listeners: {one!r} is {describe_kind(kind)}, not a listening TCP one")
    # SOCK_NONBLOCK: without it socket.setdefaulttimeout() would make the
    # constructor change the owner's blocking mode.
    with socket.fromfd(fd, kind[0], socket.SOCK_STREAM | _NONBLOCK) as duplicate:
        port: int = duplicate.getsockname()[1]
    if not port:
        raise OSError(errno.EINVAL, f"listeners: {one!r} has no port")
    return port


def settings_of(limits: Limits, ports: tuple[int, ...]) -> b.WatcherSettings:
    """Return the settings of a watcher that keeps these limits."""
    settings = b.WatcherSettings(
        never_spoke_ms=as_ms(limits.never_spoke),
        unanswered_ms=as_ms(limits.unanswered),
        answered_ms=as_ms(limits.answered),
        stalled_ms=as_ms(limits.stalled),
        min_rate=b.NO_TIME if limits.min_rate is None else limits.min_rate,
        discover=True,
        ports=ports,
        exempt=limits.exempt,
        evict_above=b.NO_TIME if limits.evict_above is None else limits.evict_above,
        evict_idle_ms=as_ms(limits.evict_idle or _EVICT_IDLE),
        dry_run=limits.dry_run,
        closes_per_second=limits.max_closes_per_second,
    )
    if limits.detect_within is None:
        return settings
    return settings._replace(
        detect_ms=pacing.detect_ms(limits.detect_within),
        pace=pacing.pace(limits.detect_within, pacing.has_rto_max()),
        pace_jitter=pacing.jitter(limits.detect_within),
    )

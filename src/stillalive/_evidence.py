"""How it is known that something works on a system: the one table behind docs and capabilities.

A line is raised when something has been run, by whoever ran it, and never
because it ought to work. Wine and libkqueue have the calls of Windows and of
the BSDs on Linux's own TCP: they show that the calls are made rightly, and
nothing about times or about what the kernel does afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["COLUMNS", "EVIDENCE", "KINDS", "NOT", "PURE", "of"]

RAN = "ran natively"
WINE8, WINE10 = "under wine 8", "under wine 10"
LIBKQUEUE = "on libkqueue"
BUILT = "compiled and linked"
SOURCE = "by source only"
NOT = "not supported"
KINDS = (RAN, WINE8, WINE10, LIBKQUEUE, BUILT, SOURCE, NOT)

COLUMNS = ("linux", "darwin", "freebsd", "netbsd", "openbsd", "windows")
"""Systems, as `_systems` calls them."""

PURE = "the pure-Python path"

_ROWS: dict[str, tuple[str, str, str, str, str, str]] = {
    # options
    "enabled": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    "idle": (RAN, BUILT, BUILT, BUILT, NOT, WINE8),
    "interval": (RAN, BUILT, BUILT, BUILT, NOT, WINE8),
    "count": (RAN, BUILT, BUILT, BUILT, NOT, WINE10),
    "user_timeout": (RAN, BUILT, BUILT, NOT, NOT, BUILT),
    "rto_max": (RAN, NOT, NOT, NOT, NOT, NOT),
    # calls
    "tune": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    "describe": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    "tcp_info": (RAN, BUILT, BUILT, BUILT, BUILT, BUILT),
    "check": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    "probe": (RAN, NOT, BUILT, NOT, NOT, NOT),
    "aprobe": (RAN, NOT, BUILT, NOT, NOT, NOT),
    "watch": (RAN, BUILT, BUILT, BUILT, BUILT, WINE10),
    "Guard": (RAN, BUILT, BUILT, NOT, NOT, NOT),
    "autotune": (RAN, BUILT, BUILT, BUILT, BUILT, BUILT),
    "Selector": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    "Server": (RAN, BUILT, BUILT, BUILT, BUILT, WINE8),
    # what is under them
    "the loop on epoll": (RAN, NOT, NOT, NOT, NOT, NOT),
    "the loop on kqueue": (NOT, LIBKQUEUE, LIBKQUEUE, LIBKQUEUE, LIBKQUEUE, NOT),
    "the loop on poll": (RAN, BUILT, BUILT, BUILT, BUILT, NOT),
    "the loop on WSAPoll": (NOT, NOT, NOT, NOT, NOT, WINE8),
    PURE: (RAN, SOURCE, SOURCE, SOURCE, SOURCE, WINE8),
    # 2026-11-30, CPython 3.13.5 built with --disable-gil; docs/platforms.md says what ran.
    "CPython without a GIL": (RAN, SOURCE, SOURCE, SOURCE, SOURCE, SOURCE),
}

EVIDENCE: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        feature: MappingProxyType(dict(zip(COLUMNS, cells, strict=True)))
        for feature, cells in _ROWS.items()
    }
)
"""By feature (an option, a call, or what is under them) and system."""


def of(feature: str, system: str, pure: bool = False) -> str:
    """Return the evidence for a feature on a system; the pure path has its own."""
    if system not in COLUMNS:
        return SOURCE if feature in ("Selector", "Server") else NOT
    found = EVIDENCE[feature][system]
    if pure and found != NOT:
        return EVIDENCE[PURE][system]
    return found

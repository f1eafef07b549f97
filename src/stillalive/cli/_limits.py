"""What this process may open, and the errors that end a command before it could judge."""

from __future__ import annotations

import contextlib
import os
import sys

from . import _guarding, _idle
from ._groups import GROUPS

__all__ = [
    "LEAST_CONNECTIONS",
    "MOST_CONNECTIONS",
    "CommandError",
    "UsageError",
    "descriptor_limit",
    "room_for",
    "somaxconn",
    "syn_linear_timeouts",
]

LEAST_CONNECTIONS = len(GROUPS)
MOST_CONNECTIONS = 5000
"""The demo's server has a thread per connection."""
_SPARE = 40 + _idle.DESCRIPTORS + _guarding.DESCRIPTORS
"""For the event loop, the listener, new clients, what is imported, and the second server."""


class CommandError(Exception):
    """The command could not do its work: exit status 1."""


class UsageError(CommandError):
    """The arguments ask for what cannot be: exit status 2."""


def descriptor_limit() -> tuple[int, int] | None:
    """Return the soft and the hard limit of open descriptors; None where there is none."""
    if sys.platform == "win32":
        return None
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limits[0] == resource.RLIM_INFINITY else limits


def room_for(wanted: int | None, default: int) -> int:
    """Return how many connections to open: what was asked for, or what there is room for."""
    limit = descriptor_limit()
    if limit is None:
        return wanted or default
    room = (limit[0] - _open_now() - _SPARE) // 2
    total = wanted or default
    if total <= room:
        return total
    why = (
        f"{total} connections need {2 * total + _SPARE} descriptors, both ends being in this "
        f"process, and RLIMIT_NOFILE is {limit[0]} (ulimit -n)"
    )
    if room < LEAST_CONNECTIONS:
        raise CommandError(f"{why}; at least {LEAST_CONNECTIONS} connections are needed")
    if wanted is not None:
        raise UsageError(f"argument --connections: {why}: at most {room}")
    print(f"{why}: {room} are opened", file=sys.stderr)
    return room


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))
    return 16


def somaxconn() -> int | None:
    """Return the longest accept queue; None if it cannot be read."""
    return _number_in("/proc/sys/net/core/somaxconn")


def syn_linear_timeouts() -> int:
    """Return how many connection attempts come 1 s apart before the distance doubles."""
    return _number_in("/proc/sys/net/ipv4/tcp_syn_linear_timeouts") or 0


def _number_in(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return None

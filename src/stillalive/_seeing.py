"""Which limits a watcher can keep on an operating system, by what its kernel tells.

Who spoke last takes counters of the payload (Linux dates them too, elsewhere
the watcher does). Silence takes answers that show, or a kernel whose own count
of probes can be set and read: then it decides instead. What is done takes a
descriptor that can be duplicated onto a number of our own.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from . import _backend as b
from ._errors import NotSupportedError, os_name
from ._systems import System, system

__all__ = ["decides_itself", "names_its_own", "refuse"]

_WATCHED = frozenset(("linux", "darwin", "freebsd", "netbsd", "openbsd"))
_COUNTED = "its kernel does not count the payload of a connection, so nobody can tell who spoke"
_DEADLINE = "its kernel's own probes cannot be set and read for one connection"
_NOTHING = "it has no way to act on another's socket that cannot hit a wrong one"


def names_its_own(row: System | None = None) -> bool:
    """Tell whether a connection has a name of its own, also before and after it stands."""
    return (row or system()).key == "linux"


def decides_itself(row: System | None = None) -> bool:
    """Tell whether the kernel must end a silent peer, because the watcher cannot hear it."""
    row = row or system()
    return not (row.payload_clocks and row.answers_show)


def _keeps_deadline(row: System) -> bool:
    if not decides_itself(row):
        return True
    options = (row.options[number] for number in (b.IDLE, b.INTERVAL, b.COUNT))
    return all(option is not None and option.readable for option in options)


def refuse(names: Iterable[str], row: System | None = None) -> None:
    """Raise NotSupportedError for the first of these limits that cannot be kept here."""
    row = row or system()
    for name in names:
        if row.key not in _WATCHED:
            why = _NOTHING
        elif name == "detect_within":
            if _keeps_deadline(row):
                continue
            why = _DEADLINE
        elif row.payload_counters:
            continue
        else:
            why = _COUNTED
        raise NotSupportedError(
            errno.ENOPROTOOPT, f"{name}: not supported on {row.title} ({os_name()}): {why}"
        )

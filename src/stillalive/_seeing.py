"""Which limits a watcher can keep on an operating system, by what its kernel tells.

Who spoke last takes counters of the payload (Linux dates them too, elsewhere
the watcher does). Since when nobody has, while somebody looks, takes no more
than sequence numbers: they move when payload does. Silence takes answers that
show, or a kernel whose own count of probes can be set and read: then it
decides instead. What is done takes a duplicate of the descriptor, and an abort
takes a call that disconnects, or a keepalive timer that can be pressed: see
ext/core/deed.c. A Guard finds its connections by the numbers of descriptors;
Windows has no such numbers, and what is watched is given there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NoReturn

from . import _backend as b
from ._errors import NotSupportedError, os_name
from ._systems import System, system

__all__ = [
    "asks_while_sending",
    "decides_itself",
    "names_its_own",
    "refuse",
    "refuse_abort",
    "refuse_here",
    "varies",
]

_WATCHED = frozenset(("linux", "darwin", "freebsd", "netbsd", "openbsd", "windows"))
_COUNTED = "its kernel does not count the payload of a connection, so nobody can tell who spoke"
_NUMBERED = (
    f"{_COUNTED}: its sequence numbers say that payload moves, and not who had spoken before "
    "the first look at them"
)
_DEADLINE = "its kernel's own probes cannot be set and read for one connection"
_NOTHING = "it has no way to act on another's socket that cannot hit a wrong one"
_ROOT = "its kernel tells the sequence numbers of a connection to root alone"
_UNLISTED = (
    "no call lists the sockets of a process, and asking each of its handles would send requests "
    "to what is no socket; watch() takes a socket that it is given"
)
_NO_ABORT = {
    "netbsd": "nothing disconnects another's socket, and its keepalive timer, which could make "
    "the kernel do it, has values that cannot be read and given back",
    "openbsd": "nothing disconnects another's socket, and its keepalive timer, which could make "
    "the kernel do it, cannot be set for one connection",
    "windows": "no call there is sure to give the owner of a living peer's connection an error "
    "and never an end",
}
_OTHER_ACTIONS = "action='shutdown' and action=None are supported"
_OLD_PROBES = "TCP_KEEPIDLE and TCP_KEEPINTVL are there from Windows 10 1709 on, TCP_KEEPCNT too"
_OLD_COUNTERS = "SIO_TCP_INFO is there from Windows 10 1703 on"


def names_its_own(row: System | None = None) -> bool:
    """Tell whether a connection has a name of its own, also before and after it stands."""
    return (row or system()).key == "linux"


def decides_itself(row: System | None = None) -> bool:
    """Tell whether the kernel must end a silent peer, because the watcher cannot hear it."""
    row = row or system()
    return not (row.payload_clocks and row.answers_show)


def asks_while_sending(row: System | None = None) -> bool:
    """Tell whether such a kernel also asks while bytes are under way, by all that is known."""
    return (row or system()).key != "windows"


def _keeps_deadline(row: System) -> bool:
    if not decides_itself(row):
        return True
    options = (row.options[number] for number in (b.IDLE, b.INTERVAL, b.COUNT))
    return all(option is not None and option.readable for option in options)


def _is_root() -> bool:
    return os.geteuid() == 0 if hasattr(os, "geteuid") else False


def _why_not(name: str, row: System, found: bool) -> str:
    """Return why a limit cannot be kept, "" when it can."""
    if row.key not in _WATCHED:
        return _NOTHING
    if found and row.key == "windows":
        return _UNLISTED
    if name == "detect_within":
        return "" if _keeps_deadline(row) else _DEADLINE
    if row.payload_counters:
        return ""
    if not row.sequence_numbers:
        return _COUNTED
    if name != "idle_timeout":
        return _NUMBERED
    return _ROOT if row.numbers_for_root and not _is_root() else ""


def refuse(names: Iterable[str], row: System | None = None, *, found: bool = False) -> None:
    """Raise NotSupportedError for the first of these limits that cannot be kept here.

    `found`: of connections that a Guard is to find by itself.
    """
    row = row or system()
    for name in names:
        why = _why_not(name, row, found)
        if why:
            _refuse(name, why, row)


def refuse_abort(row: System | None = None) -> None:
    """Raise NotSupportedError where the connection of a living peer cannot be aborted."""
    row = row or system()
    if row.key in _NO_ABORT:
        why = f"{_NO_ABORT[row.key]} ({_OTHER_ACTIONS})"
        _refuse("idle_timeout with action='abort'", why, row)


def varies(row: System | None = None) -> bool:
    """Tell whether what can be watched here is also a matter of the system's version."""
    return (row or system()).key == "windows"


def refuse_here(held: b.Values | None, info: b.Info | None, row: System | None = None) -> None:
    """Raise NotSupportedError for what an older version of this system lacks.

    `held` are the options of the socket, for a deadline, `info` its counters,
    for an idle limit; None where it is not needed.
    """
    row = row or system()
    if not varies(row):
        return
    if held is not None and min(held[b.IDLE], held[b.INTERVAL], held[b.COUNT]) < 0:
        _refuse("detect_within", _OLD_PROBES, row)
    if info is not None and info.bytes_received < 0:
        _refuse("idle_timeout", _OLD_COUNTERS, row)


def _refuse(what: str, why: str, row: System) -> NoReturn:
    raise NotSupportedError(
        errno.ENOPROTOOPT, f"{what}: not supported on {row.title} ({os_name()}): {why}"
    )

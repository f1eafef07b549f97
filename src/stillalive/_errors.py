"""The exceptions of this package, and the one place that builds them."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import weakref

from . import _systems

__all__ = ["ConnectionEndedError", "NotSupportedError", "StillAliveError"]

Kind = tuple[int, int, int, bool]

_MPTCP = 262


class StillAliveError(Exception):
    """Be the base of the exceptions that only this package raises."""


class NotSupportedError(StillAliveError, OSError):
    """Say that this OS, or this kind of socket, cannot do what was asked.

    ``errno`` is ``ENOPROTOOPT`` or ``EOPNOTSUPP``; the message names the
    option or call, what the socket is, and the version that has it.
    """


_ENDED = {
    "idle": "nothing was received or sent for idle_timeout",
    "shed": "more than max_connections: it had been idle for longest",
    "age": "max_age is over",
    "shutdown": "the server was closed",
}


class ConnectionEndedError(StillAliveError, ConnectionError):
    """Say why a ``Server`` ended a connection by itself; ``connection_lost`` gets it.

    ``reason``: ``"idle"`` (``idle_timeout``), ``"shed"`` (``max_connections``),
    ``"age"`` (``max_age``) or ``"shutdown"`` (the server's ``close``).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"connection ended by the server: {_ENDED[reason]}")
        self.reason = reason

    def __reduce__(self) -> tuple[type[ConnectionEndedError], tuple[str]]:
        return type(self), (self.reason,)


class _Raiser:
    """A callback that raises; its repr is what the report says it happened in."""

    def __init__(self, exception: BaseException, where: str) -> None:
        self._exception: BaseException | None = exception
        self._where = where

    def __call__(self, _gone: object) -> None:
        exception, self._exception = self._exception, None
        try:
            if exception is not None:
                raise exception
        finally:
            del exception  # or it would hold this frame, and the frame it

    def __repr__(self) -> str:
        return self._where


class _Gone:
    __slots__ = ("__weakref__",)


def report_unraisable(exception: BaseException, where: str) -> None:
    """Hand an exception that nobody can catch to ``sys.unraisablehook``, traceback and all.

    The hook takes an object that only the interpreter can make, so it must be
    the one that calls: it does when the callback of a weak reference raises.
    """
    gone = _Gone()
    reference = weakref.ref(gone, _Raiser(exception, where))
    del gone, reference


def os_name() -> str:
    """Name this operating system and its release, for messages."""
    if sys.platform == "win32":
        found = sys.getwindowsversion()
        return f"Windows {found.major}.{found.minor}.{found.build}"
    return f"{os.uname().sysname} {os.uname().release}" if hasattr(os, "uname") else sys.platform


def describe_kind(kind: Kind | None) -> str:
    """Say in words what (family, type, protocol, listening) is."""
    if kind is None:
        return "this socket"
    family, type_, protocol, listening = kind
    if family == getattr(socket, "AF_UNIX", None):
        return "an AF_UNIX socket"
    if type_ == socket.SOCK_DGRAM:
        return "a UDP socket"
    if type_ != socket.SOCK_STREAM or family not in (socket.AF_INET, socket.AF_INET6):
        return f"a socket of family {family}, type {type_}"
    if protocol == _MPTCP:
        return "an MPTCP socket"
    return "a listening TCP socket" if listening else "a TCP socket"


def _is_tcp(kind: Kind) -> bool:
    family, type_, _, _ = kind
    return type_ == socket.SOCK_STREAM and family in (socket.AF_INET, socket.AF_INET6)


def not_supported(what: str, kind: Kind | None = None, code: int = errno.ENOPROTOOPT) -> OSError:
    """Build the error for something this OS or this socket does not have."""
    # A socket of another kind lacks it in every version.
    needs = _needs(what) if kind is None or _is_tcp(kind) else ""
    text = f"{what}: not supported on {describe_kind(kind)} by {os_name()}"
    return NotSupportedError(code, f"{text} ({needs})" if needs else text)


def _needs(what: str) -> str:
    """Say which version of this system has an option, or else which systems have it."""
    here = _systems.system()
    for option in here.options:
        if option is not None and option.native in what:
            return f"it needs {option.since}"
    words = set(re.findall(r"\w+", what))
    for number, name in enumerate(_systems.OPTION_NAMES):
        rows = [row.option(number) for row in _systems.SYSTEMS.values()]
        known = [row for row in rows if row is not None]
        if here.option(number) is None and words & {name, *(row.native for row in known)}:
            return "there is one since " + ", ".join(row.since for row in known)
    return ""


def meaning(code: int) -> str:
    """Say what an error number means; on Windows ``os.strerror`` does not know those of sockets."""
    of_sockets: dict[int, str] = getattr(socket, "errorTab", {})
    return of_sockets.get(code) or os.strerror(code)


def os_error(code: int) -> OSError:
    """Build the error that has nothing to say but its number."""
    return OSError(code, meaning(code))


def fault(code: int, call: str, kind: Kind | None) -> OSError:
    """Build the error for a system call that failed with `code`."""
    if code in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
        return not_supported(call, kind, code)
    if code == errno.ENOTCONN:
        return OSError(code, f"{call}: this socket was never connected")
    return OSError(code, f"{call}: {meaning(code)}")

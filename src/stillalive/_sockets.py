"""Find the descriptor behind whatever a caller calls a socket."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Protocol

__all__ = ["HasFileno", "HasSocket", "SocketLike", "as_fd", "close", "duplicate"]

# A SOCKET of Windows is no file descriptor.
duplicate = socket.dup if sys.platform == "win32" else os.dup
close = socket.close if sys.platform == "win32" else os.close


class HasFileno(Protocol):
    """Anything with a ``fileno()``: sockets, TLS sockets, pseudo sockets."""

    def fileno(self) -> int: ...


class HasSocket(Protocol):
    """An asyncio or uvloop transport, or a ``StreamWriter``."""

    def get_extra_info(self, name: str, default: object = None, /) -> object: ...


SocketLike = HasFileno | HasSocket | int

_MAX_FD = 2**31 - 1


def as_fd(sock: SocketLike) -> int:
    """Return the descriptor of `sock`, or say why there is none.

    ``TypeError`` for what is no socket, ``ValueError`` for a number that can
    be no descriptor, ``OSError(EBADF)`` for a socket that is closed.
    """
    if type(sock) is not int:
        fileno = getattr(sock, "fileno", None)
        if fileno is None:
            return _behind(sock)
        fd = fileno()
        if type(fd) is not int:
            raise TypeError(f"sock: fileno() of {sock!r} returned {fd!r}, not an int")
        if fd < 0:
            raise OSError(errno.EBADF, f"sock: {sock!r} is closed")
        return fd
    if not 0 <= sock <= _MAX_FD:
        raise ValueError(f"sock: {sock} is no file descriptor (allowed: 0 to {_MAX_FD})")
    return sock


def _behind(sock: object) -> int:
    extra = getattr(sock, "get_extra_info", None)
    if extra is None:
        raise TypeError(
            f"sock: {sock!r} is not a socket (allowed: a socket, an int descriptor, an object "
            "with fileno(), an asyncio transport or StreamWriter)"
        )
    inner = extra("socket")
    if inner is None:
        closing = getattr(sock, "is_closing", None)
        if closing is not None and closing():
            raise OSError(errno.EBADF, f"sock: {sock!r} is closed")
        raise TypeError(f"sock: {sock!r} has no socket behind it")
    return as_fd(inner)

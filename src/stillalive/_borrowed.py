"""Show a connection's socket without giving it away."""

from __future__ import annotations

import socket
from typing import Any, overload

__all__ = ["BorrowedSocket"]


class _Unowned(socket.socket):
    """A socket object that never closes its descriptor, whatever interrupts its owner."""

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()


class BorrowedSocket:
    """A view of a connection's socket: ask it and set options, but not read, write or close it.

    ``transport.get_extra_info("socket")`` of a ``Server`` returns it. The
    descriptor belongs to the server. After the connection's end ``fileno()``
    is -1 and every call raises ``OSError(EBADF)``, so a number that the system
    has given to another connection is never reached.

    Threads: the server's own; what another thread asks may meet the end.
    """

    __slots__ = ("__weakref__", "_socket")

    def __init__(self, fd: int) -> None:
        self._socket = _Unowned(fileno=fd)

    @property
    def family(self) -> int:
        """The address family."""
        return self._socket.family

    @property
    def type(self) -> int:
        """The kind of socket: ``SOCK_STREAM``."""
        return self._socket.type

    @property
    def proto(self) -> int:
        """The protocol's number."""
        return self._socket.proto

    def fileno(self) -> int:
        """Return the descriptor, or -1 after the end."""
        return self._socket.fileno()

    def getpeername(self) -> object:
        """Return the peer's address."""
        return self._socket.getpeername()

    def getsockname(self) -> object:
        """Return the address of this side."""
        return self._socket.getsockname()

    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...

    @overload
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...

    def getsockopt(self, level: int, option: int, *size: int) -> int | bytes:
        """Return an option's value, as ``socket.getsockopt`` does."""
        return self._socket.getsockopt(level, option, *size)

    @overload
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...

    @overload
    def setsockopt(self, level: int, option: int, value: None, size: int, /) -> None: ...

    def setsockopt(self, *arguments: Any) -> None:
        """Set an option, as ``socket.setsockopt`` does."""
        self._socket.setsockopt(*arguments)

    def __repr__(self) -> str:
        return f"<BorrowedSocket of {self._socket!r}>"

    def _end(self) -> None:
        """Forget the descriptor: the connection has ended."""
        self._socket.detach()

"""The socket of a connection that has ended, for a little while."""

from __future__ import annotations

import socket
from selectors import SelectorKey
from typing import TYPE_CHECKING

from .. import _backend as b
from ._engine import Handle

if TYPE_CHECKING:
    from ._server import ServerEngine

__all__ = ["Linger"]

_SECONDS = 2.0
_READ_SIZE = 65536


class Linger:
    """A socket whose protocol is gone: read and drop until the peer's end, or 2 s.

    Closing with bytes unread, or getting more, makes the system send a reset,
    and the peer's system then throws away what its program has not read yet.
    """

    __slots__ = ("_handle", "_server", "_sock", "_timer")

    def __init__(self, server: ServerEngine, sock: socket.socket) -> None:
        self._server, self._sock = server, sock
        self._handle: Handle | None = None
        self._timer: Handle | None = None
        try:
            sock.shutdown(socket.SHUT_WR)
            if self._is_over():
                sock.close()
                return
            fd = sock.fileno()
            self._handle = server.engine.add(SelectorKey(fd, fd, b.READ, self._ready), None)
        except OSError:
            sock.close()
            return
        self._timer = server.engine.timer(_SECONDS, self.end)
        server.lingering[self] = None

    def _ready(self, mask: int) -> None:
        if self._sock.fileno() >= 0 and self._is_over():
            self.end()

    def _is_over(self) -> bool:
        """Drop what has come; tell whether that was all."""
        try:
            return not self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def end(self, mask: int = 0) -> None:
        """Close."""
        if self not in self._server.lingering:
            return
        del self._server.lingering[self]
        for handle in (self._handle, self._timer):
            if handle is not None:
                self._server.engine.remove(handle)
        self._sock.close()
        self._server.has_room()

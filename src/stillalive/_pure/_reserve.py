"""One descriptor number, kept to act on other people's sockets.

The rules, and the dangers behind them, are those of ext/core/reserve.h:
nothing is ever done to a number of somebody else, only to a duplicate of ours
that has said who it is; and nothing is put onto a number of ours that is not
the pipe we left there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

# Not when it is needed: a child that is forked while some thread imports it
# would wait for ever for that import, and an import needs numbers.
try:
    import ctypes
except ImportError:
    ctypes = None  # type: ignore[assignment]

if sys.platform == "linux":
    from . import _bare as bare

assert not TYPE_CHECKING or sys.platform == "linux"

_LOWEST = 3
_RTO_MAX_MS = 44
_ABORT = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),  # last: it starts the timer
)


class LostError(Exception):
    """Our own numbers are no longer ours: nothing may be touched any more."""


def _disconnecter() -> Callable[[int], object] | None:
    """Return connect(AF_UNSPEC), which Python's own connect has no address for.

    None on an interpreter without ctypes. What is aborted there ends by the
    kernel's user timeout alone, and lives on if its peer answers.
    """
    if ctypes is None:
        return None
    try:
        connect = ctypes.CDLL(None).connect
    except (OSError, AttributeError):
        return None
    unspec = ctypes.create_string_buffer(socket.AF_UNSPEC.to_bytes(2, sys.byteorder), 16)
    return lambda number: connect(number, unspec, 16)


def _file(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _moved_up(number: int) -> int:
    """Keep clear of the standard numbers: in a daemon they may be free, and are written to."""
    if number >= _LOWEST:
        return number
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    os.close(number)
    return moved


class Reserve:
    """A number that is a pipe, or while taken a duplicate. One thread at a time."""

    def __init__(self) -> None:
        self._disconnect = _disconnecter()
        self.number = self._filler = -1
        self._pipe: tuple[int, int] | None = None
        self._taken: int | None = None
        """The identity of what was taken."""
        self.open()

    def open(self) -> None:
        """Get the numbers, unless they are there."""
        if self._is_ours(self.number) and self._is_ours(self._filler):
            return
        self.close()
        self.number, self._filler = (_moved_up(end) for end in os.pipe())
        os.set_blocking(self.number, False)
        os.set_blocking(self._filler, False)
        self._pipe = _file(self.number)

    def _is_ours(self, number: int) -> bool:
        return number >= 0 and _file(number) == self._pipe

    def _is_taken(self) -> bool:
        """Tell whether our number is still what we have put there."""
        try:
            return self._taken is not None and bare.identity(self.number) == self._taken
        except OSError:
            return False

    @contextlib.contextmanager
    def take(self, number: int) -> Iterator[socket.SocketType]:
        """Use a duplicate of `number`, which the caller asks first who it is.

        OSError: EBADF or ENOTSOCK when it is no open socket, EMFILE when the
        limit of open files was lowered below our number. LostError.
        """
        if not (self._is_ours(self.number) and self._is_ours(self._filler)):
            raise LostError
        if number in (self.number, self._filler):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._taken = bare.identity(number)  # before, for a child that is forked meanwhile
        try:
            self._put(number)
        except BaseException:
            self._taken = None
            raise
        try:
            self._taken = bare.identity(self.number)
            sock = bare.lens(self.number)
        except OSError:  # no socket
            self._taken = None
            self._put(self._filler)
            raise
        try:
            yield sock
        finally:
            sock.detach()
            self._give()

    def _put(self, number: int) -> None:
        try:
            os.dup2(number, self.number, inheritable=False)
        except OSError as error:
            if error.errno == errno.EBUSY:  # somebody is opening what was ours
                raise LostError from None
            if error.errno == errno.EBADF and _file(number) is not None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
            raise

    def _give(self) -> None:
        """Close the duplicate by putting the pipe back in its place.

        Without the pipe it is closed all the same: it would keep open what its
        owner closes. That it is gone shows when the next is taken.
        """
        if self._is_taken():
            if self._is_ours(self._filler):
                self._put(self._filler)
            else:
                os.close(self.number)
        self._taken = None

    def close(self) -> None:
        """Close what is still ours."""
        if self._is_ours(self.number) or self._is_taken():
            os.close(self.number)
        if self._is_ours(self._filler):
            os.close(self._filler)
        self.number = self._filler = -1
        self._taken = None

    # What is done to a connection, on the duplicate.

    def shutdown(self, sock: socket.SocketType) -> bool:
        """End it both ways: the owner reads an end. False when it has just ended by itself."""
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        return True

    def abort(self, sock: socket.SocketType) -> None:
        """Make the kernel give up at its next tick, unless the peer answers."""
        for level, option, value in _ABORT:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)

    def disconnect(self, sock: socket.SocketType) -> bool:
        """Reset it: the owner's calls fail. False where that cannot be done."""
        if self._disconnect is None:
            return False
        self._disconnect(sock.fileno())
        return True

    def quicken(self, sock: socket.SocketType, most_ms: int) -> None:
        """Keep retransmissions from lying further apart, on a kernel that can."""
        with contextlib.suppress(OSError):
            if sock.getsockopt(socket.IPPROTO_TCP, _RTO_MAX_MS) > most_ms:
                sock.setsockopt(socket.IPPROTO_TCP, _RTO_MAX_MS, most_ms)

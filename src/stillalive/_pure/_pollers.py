"""What the system has for waiting on many descriptors, behind one small interface.

Level-triggered. Found flags are those of poll(2), which epoll shares.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import threading
import time
from typing import Any, Protocol

from .. import _backend as b

__all__ = ["IN", "OUT", "Bell", "Poller", "mechanisms", "open_poller", "ready_now"]

IN, OUT = 1, 4
"""POLLIN and POLLOUT, and the numbers that epoll has for the same."""
_BROKEN, _HANGUP = 8, 16
"""POLLERR and POLLHUP."""

_FLAGS = {0: 0, b.READ: IN, b.WRITE: OUT, b.READ | b.WRITE: IN | OUT}


class Poller(Protocol):
    """A set of descriptors. `events` are READ and WRITE, not 0."""

    def add(self, fd: int, events: int) -> None: ...
    def modify(self, fd: int, events: int) -> bool:
        """Return False when the system no longer knew it; what has its number now is added."""
        ...

    def remove(self, fd: int) -> bool:
        """Return False when the system no longer knew it: it had been closed."""
        ...

    def wait(self, seconds: float | None, room: int) -> list[tuple[int, int]]:
        """Return (descriptor, flags) of up to `room` ready ones; None waits for ever."""
        ...

    def close(self) -> None: ...


if sys.platform == "linux":

    class _Epoll:
        def __init__(self) -> None:
            self._epoll = select.epoll()

        def add(self, fd: int, events: int) -> None:
            try:
                self._epoll.register(fd, _FLAGS[events])
            except FileExistsError:  # it outlived its number, and has come back to it
                self._epoll.modify(fd, _FLAGS[events])

        def modify(self, fd: int, events: int) -> bool:
            try:
                self._epoll.modify(fd, _FLAGS[events])
            except FileNotFoundError:
                self._epoll.register(fd, _FLAGS[events])
                return False
            return True

        def remove(self, fd: int) -> bool:
            try:
                self._epoll.unregister(fd)
            except OSError:
                return False
            return True

        def wait(self, seconds: float | None, room: int) -> list[tuple[int, int]]:
            return self._epoll.poll(seconds, room)

        def close(self) -> None:
            self._epoll.close()


if sys.platform != "win32":

    class _Poll:
        def __init__(self) -> None:
            self._poll = select.poll()

        def add(self, fd: int, events: int) -> None:
            os.fstat(fd)  # a closed one is an error now, as with epoll
            self._poll.register(fd, _FLAGS[events])

        def modify(self, fd: int, events: int) -> bool:
            self.add(fd, events)  # which replaces
            return True

        def remove(self, fd: int) -> bool:
            with contextlib.suppress(KeyError):  # dropped already
                self._poll.unregister(fd)
            return True

        def wait(self, seconds: float | None, room: int) -> list[tuple[int, int]]:
            end = None if seconds is None else time.monotonic() + seconds
            while True:
                found = self._poll.poll(None if seconds is None else -int(-seconds * 1000 // 1))
                closed = [fd for fd, flags in found if flags & select.POLLNVAL]
                if not closed:
                    return found
                # Dropped, as epoll does; poll would report them at once and for ever.
                for fd in closed:
                    self._poll.unregister(fd)
                if len(found) > len(closed):
                    return [pair for pair in found if not pair[1] & select.POLLNVAL]
                if end is not None:
                    seconds = max(0.0, end - time.monotonic())

        def close(self) -> None:
            pass


_system: Any = select
"""What `_Kqueue` takes for the module; the tests put a model there."""
_inherited: list[Any] = []
"""Sets that a forked child has an object of, and no set. See `_Kqueue.close`."""
_CANNOT_WAIT = frozenset((errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP))
"""The words that systems have for a device with no readiness; epoll's is EPERM."""


class _Kqueue:
    """Reading and writing are two filters of one descriptor, changed one by one.

    What a failed call has added is taken out again. The kernel forgets what is
    closed, even while a duplicate lives, and takes what is added twice for a
    change: all that is wanted is added at every change.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._held: dict[int, int] = {}
        """Events by descriptor; some may have been closed, so this only says what to drop."""
        self._filters = ((b.READ, _system.KQ_FILTER_READ), (b.WRITE, _system.KQ_FILTER_WRITE))
        self._kqueue: Any = _system.kqueue()

    def __del__(self) -> None:
        self.close()

    def _change(self, fd: int, events: int, action: int) -> None:
        for event, name in self._filters:
            if events & event:
                self._kqueue.control([_system.kevent(fd, name, action)], 0, 0)

    def _drop(self, fd: int, events: int) -> None:
        for event, _ in self._filters:
            with contextlib.suppress(OSError):  # closed, or never added
                self._change(fd, events & event, _system.KQ_EV_DELETE)

    def _put(self, fd: int, events: int, kept: int) -> None:
        held = self._held.get(fd, 0)
        try:
            self._change(fd, events, _system.KQ_EV_ADD)
        except OSError as error:
            self._drop(fd, (events | held) & ~kept)
            self._held[fd] = held & kept
            if error.errno in _CANNOT_WAIT:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error
            raise
        self._drop(fd, held & ~events)
        self._held[fd] = events

    def add(self, fd: int, events: int) -> None:
        self._put(fd, events, 0)

    def modify(self, fd: int, events: int) -> bool:
        self._put(fd, events, self._held.get(fd, 0))
        return True

    def remove(self, fd: int) -> bool:
        self._drop(fd, self._held.pop(fd, 0))
        return True

    def wait(self, seconds: float | None, room: int) -> list[tuple[int, int]]:
        try:
            events = self._kqueue.control(None, 2 * room, seconds)
        except (OSError, ValueError):
            if self._pid == os.getpid():
                raise
            return []  # a signal handler has forked, and this is the child
        found: dict[int, int] = {}
        for event in events:
            flags = OUT if event.filter == _system.KQ_FILTER_WRITE else IN
            if event.flags & _system.KQ_EV_ERROR:
                if event.data in (errno.EBADF, errno.ENOENT):
                    continue  # closed at this moment
                flags |= _BROKEN
            elif event.flags & _system.KQ_EV_EOF and event.fflags:
                flags |= _BROKEN | _HANGUP
            found[event.ident] = found.get(event.ident, 0) | flags
        return list(found.items())

    def close(self) -> None:
        """Close it, but not in a child: there its number is free, or means another file.

        Older releases of Python close that number whenever the object goes, so it stays.
        """
        held, self._kqueue = getattr(self, "_kqueue", None), None
        if held is None:
            return
        if self._pid == os.getpid():
            held.close()
        else:
            _inherited.append(held)


def _is_closed(fd: int) -> bool:
    try:
        select.select([fd], (), (), 0)
    except OSError:
        return True
    return False


def _need_open(fd: int) -> None:
    if _is_closed(fd):  # an error now, as with epoll
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Select:
    """What Windows has: sockets only, and 512 of them at most."""

    def __init__(self) -> None:
        self._readers: set[int] = set()
        self._writers: set[int] = set()

    def add(self, fd: int, events: int) -> None:
        _need_open(fd)
        if events & b.READ:
            self._readers.add(fd)
        if events & b.WRITE:
            self._writers.add(fd)

    def modify(self, fd: int, events: int) -> bool:
        _need_open(fd)
        self.remove(fd)
        self.add(fd, events)
        return True

    def remove(self, fd: int) -> bool:
        self._readers.discard(fd)
        self._writers.discard(fd)
        return True

    def wait(self, seconds: float | None, room: int) -> list[tuple[int, int]]:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                # Windows tells of a failed connection among the exceptions.
                readers, writers, failed = select.select(
                    self._readers, self._writers, self._writers, seconds
                )
                break
            except OSError:
                # Dropped, as epoll does; select would refuse the set for ever.
                closed = {fd for fd in self._readers | self._writers if _is_closed(fd)}
                if not closed:
                    raise
                self._readers -= closed
                self._writers -= closed
                if end is not None:
                    seconds = max(0.0, end - time.monotonic())
        found = dict.fromkeys(readers, IN)
        for fd in {*writers, *failed}:
            found[fd] = found.get(fd, 0) | OUT
        return list(found.items())

    def close(self) -> None:
        pass


_ALL: dict[str, type[Poller]] = {}
if sys.platform == "linux":
    _ALL["epoll"] = _Epoll
if hasattr(select, "kqueue"):
    _ALL["kqueue"] = _Kqueue
if sys.platform != "win32":
    _ALL["poll"] = _Poll
else:
    _ALL["select"] = _Select


def mechanisms() -> tuple[str, ...]:
    """Name what there is, the best first."""
    return tuple(_ALL)


def open_poller(mechanism: str) -> Poller:
    """Make an empty set."""
    return _ALL[mechanism]()


def ready_now(fd: int, flags: int) -> bool:
    """Tell whether one descriptor, asked by itself, has any of `flags` to show."""
    if sys.platform == "win32":  # only epoll remembers what is closed
        return False
    alone = select.poll()
    alone.register(fd, IN | OUT)
    return any(found & flags for _, found in alone.poll(0))


class Bell:
    """A descriptor that becomes readable when any thread, or a signal handler, rings.

    Numbers, not objects: a forgotten one must be closed without a warning. The
    lock keeps a ring from reaching a number that `close` has just given up. A
    forked child only closes: a thread that had the lock is no more, and the
    lock stays locked there for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.fd = self._far = -1
        self._sockets: tuple[socket.socket, socket.socket] | tuple[()] = ()
        if sys.platform == "win32":  # select() there knows only sockets
            near, far = self._sockets = socket.socketpair()
            self.fd, self._far = near.fileno(), far.fileno()
            near.setblocking(False)
            far.setblocking(False)
        else:
            self.fd, self._far = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._far, False)

    def __del__(self) -> None:
        self.close()

    def ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._sockets:
                self._sockets[1].send(b"!")
            elif self._far >= 0:
                os.write(self._far, b"!")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._sockets:
                self._sockets[0].recv(4096)
            else:
                os.read(self.fd, 4096)

    def close(self) -> None:
        if self._pid != os.getpid():
            self._lock, self._pid = threading.RLock(), os.getpid()
        with self._lock:
            near, far, self.fd, self._far = self.fd, self._far, -1, -1
            sockets, self._sockets = self._sockets, ()
            for end in sockets:
                end.close()
            if not sockets and near >= 0:
                os.close(near)
                os.close(far)

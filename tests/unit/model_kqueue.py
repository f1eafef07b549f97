"""A kqueue made of poll(2), with what `select` has of it: for systems without one.

It keeps to what the BSDs do where `_Kqueue` depends on it: a filter that is
added twice is changed, what is closed is forgotten, reading and writing are
reported apart, a failed change raises. `refuse` makes changes fail, `inject`
replaces an answer, and `log` tells what was asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import time
from collections import deque
from typing import Any, NamedTuple

KQ_FILTER_READ, KQ_FILTER_WRITE = -1, -2
KQ_EV_ADD, KQ_EV_DELETE, KQ_EV_ERROR, KQ_EV_EOF = 0x1, 0x2, 0x4000, 0x8000


class kevent(NamedTuple):  # noqa: N801 - as in select
    ident: int
    filter: int
    flags: int = KQ_EV_ADD
    fflags: int = 0
    data: int = 0


def _identity(fd: int) -> tuple[int, int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFD)


class Model:
    """Stands for the module `select`."""

    KQ_FILTER_READ, KQ_FILTER_WRITE = KQ_FILTER_READ, KQ_FILTER_WRITE
    KQ_EV_ADD, KQ_EV_DELETE = KQ_EV_ADD, KQ_EV_DELETE
    KQ_EV_ERROR, KQ_EV_EOF = KQ_EV_ERROR, KQ_EV_EOF
    kevent = kevent

    def __init__(self) -> None:
        self.refuse: dict[int, int] = {}
        """errno for an added filter."""
        self.inject: deque[list[kevent] | Exception] = deque()
        self.log: list[tuple[int, int, int]] = []
        self.made: list[Kqueue] = []

    def kqueue(self) -> Kqueue:
        self.made.append(Kqueue(self))
        return self.made[-1]


class Kqueue:
    def __init__(self, model: Model) -> None:
        self._model = model
        self.notes: dict[tuple[int, int], Any] = {}
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def control(
        self, changes: list[kevent] | None, most: int, seconds: float | None = None
    ) -> list[kevent]:
        if self.closed:
            raise ValueError("I/O operation on closed kqueue object")
        for change in changes or ():
            self._apply(change)
        if not most:
            return []
        if self._model.inject:
            answer = self._model.inject.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer[:most]
        end = None if seconds is None else time.monotonic() + seconds
        while True:  # whoever closes one meanwhile is seen at the next look
            self._forget_the_closed()
            left = 0.05 if end is None else min(0.05, max(0.0, end - time.monotonic()))
            found = self._look(left, most)
            if found or (end is not None and time.monotonic() >= end):
                return found

    def _forget_the_closed(self) -> None:
        for note, was in list(self.notes.items()):
            if _identity(note[0]) != was:
                del self.notes[note]

    def _apply(self, change: kevent) -> None:
        self._forget_the_closed()
        self._model.log.append((change.ident, change.filter, change.flags))
        note = change.ident, change.filter
        error = 0
        if change.ident >= 2**31 or _identity(change.ident) is None:
            error = errno.EBADF
        elif change.flags & KQ_EV_DELETE:
            error = 0 if note in self.notes else errno.ENOENT
        elif stat.S_ISCHR(os.fstat(change.ident).st_mode) and not os.isatty(change.ident):
            error = errno.EINVAL
        else:
            error = self._model.refuse.get(change.filter, 0)
        if error:
            raise OSError(error, os.strerror(error))
        if change.flags & KQ_EV_DELETE:
            del self.notes[note]
        else:
            self.notes[note] = _identity(change.ident)

    def _look(self, seconds: float, most: int) -> list[kevent]:
        poller = select.poll()
        for fd in {fd for fd, _ in self.notes}:
            wanted = select.POLLIN if (fd, KQ_FILTER_READ) in self.notes else 0
            wanted |= select.POLLOUT if (fd, KQ_FILTER_WRITE) in self.notes else 0
            poller.register(fd, wanted)
        seen = poller.poll(seconds * 1000)
        ends = select.POLLHUP | select.POLLERR
        found = []
        for name, flag in (KQ_FILTER_READ, select.POLLIN), (KQ_FILTER_WRITE, select.POLLOUT):
            for fd, flags in seen:
                if (fd, name) in self.notes and flags & (flag | ends):
                    eof = KQ_EV_EOF if flags & ends else 0
                    error = errno.ECONNRESET if flags & select.POLLERR else 0
                    found.append(kevent(fd, name, eof, error))
        return found[:most]

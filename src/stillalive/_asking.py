"""Keep probes and tuning of one socket out of each other's way.

A probe borrows the options of a socket. Whoever else reads or sets them
meanwhile would see the borrowed values, or have his own undone when they are
given back. Therefore every borrowing, giving back and tuning happens under
one lock, held for a few system calls and never while waiting.

All probers of a socket share one question: the first borrows, the last gives
back. An exception can strike anywhere, Ctrl-C between any two instructions; so
the registry holds sessions weakly, and a question that is dropped gives back
what it borrowed. The socket is known by its identity, so duplicates of a descriptor share
it too. Probers in different processes do not.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from typing import TYPE_CHECKING

from . import _impl

if TYPE_CHECKING:
    from ._backend import QuestionLike, Values

__all__ = ["Session", "held_by_owner", "join", "owned"]

_lock = threading.Lock()
_sessions: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()


class Session:
    """The one question that all probers of a socket share."""

    __slots__ = ("__weakref__", "identity", "question", "users")

    def __init__(self, fd: int, identity: int) -> None:
        self.identity = identity
        self.question: QuestionLike = _impl.backend.Question(fd, identity)
        self.users = 0

    @property
    def asked(self) -> int:
        return self.question.asked

    def ask(self, now_ms: int) -> None:
        with _lock:
            self.question.ask(now_ms)

    def leave(self) -> None:
        with _lock:
            self.users -= 1
            if self.users == 0:
                _sessions.pop(self.identity, None)
                self.question.end()


def join(fd: int, identity: int) -> Session:
    """Take part in the question to the socket; ``leave()`` must follow."""
    with _lock:
        session = _sessions.get(identity)
        if session is None:
            session = _sessions[identity] = Session(fd, identity)
        session.users += 1
        return session


def _current(fd: int) -> Session | None:
    if not _sessions:
        return None
    try:
        return _sessions.get(_impl.backend.identify(fd))
    except OSError as error:  # not every system names a socket that is not connected
        if error.errno != errno.ENOTCONN:
            raise
        return None


class owned:  # noqa: N801 - reads as the function it stands for
    """Have the owner's own options in force while setting some of them."""

    __slots__ = ("_fd", "_held")

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        self._held = _lock  # a fork meanwhile replaces the global one
        self._held.acquire()
        try:
            session = _current(self._fd)
            if session is not None:
                session.question.end()
        except BaseException:
            self._held.release()
            raise

    def __exit__(self, *unused: object) -> None:
        self._held.release()


def held_by_owner(fd: int) -> Values:
    """Read the options as the owner set them, whatever a probe has borrowed."""
    with _lock:
        session = _current(fd)
        saved = session.question.saved if session is not None else None
        return saved if saved is not None else _impl.backend.read_options(fd)


def _after_fork() -> None:
    # The parent's probes go on in the parent and give back what they borrowed.
    global _lock
    _lock = threading.Lock()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""One watch on one connection: who waits for it, and what it has to say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator

from . import _backend as b
from . import _pacing as pacing
from ._events import (
    LivenessEvent,
    OnEvent,
    Subscriber,
    Told,
    check_callback,
    event_of,
    quietly,
)
from ._limits import as_ms
from ._pacing import DetectsWithin
from ._values import Seconds, as_seconds

__all__ = ["Watch", "Wish"]

_lock = threading.RLock()  # a signal handler may cancel


class Wish:
    """What a watch is to notice and to do, checked."""

    __slots__ = ("deed", "detect", "idle", "on_event")

    def __init__(
        self,
        detect: float | None,
        idle: float | None,
        action: str | None,
        on_event: OnEvent | None,
    ) -> None:
        self.detect: float | None = detect
        self.idle: float | None = idle
        self.deed: int = _DEEDS[action]
        self.on_event: OnEvent | None = on_event

    @property
    def detect_ms(self) -> int:
        return b.NO_TIME if self.detect is None else pacing.detect_ms(self.detect)

    @property
    def idle_ms(self) -> int:
        return as_ms(self.idle)


_DEEDS = {None: b.DEED_NONE, "shutdown": b.DEED_SHUTDOWN, "abort": b.DEED_ABORT}


class _End:
    """An event that a signal handler may set while the thread it interrupts waits for it.

    A threading.Event has a lock that is not reentrant.
    """

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[threading.Lock] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Let all go on; called once."""
        with _lock:
            self._set = True
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.release()

    def wait(self, seconds: float | None) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        with _lock:
            self._waiters.append(waiter)
        try:
            if not self._set:  # asked after: who sets it has set first, and looks then
                waiter.acquire(timeout=-1 if seconds is None else seconds)
        finally:
            with _lock, contextlib.suppress(ValueError):
                self._waiters.remove(waiter)


class Watch:
    """Say when the peer of one connection has vanished, or has been idle for too long.

    :func:`watch` and :meth:`Guard.watch` return it; it is never made by hand.
    It works whether or not it is kept, and keeps nothing of the socket alive.
    It ends with an event, with ``cancel()``, or when the owner closes the
    socket; the socket's options are then put back.

    ``wait()`` blocks a thread, ``await`` a coroutine of any asyncio loop; both
    return the event, or None if it ended without one. Threads: any, any number.

    >>> client, server = tcp_pair()
    >>> watching = watch(client, detect_within=10)
    >>> watching.detects_within.idle
    10.0
    >>> watching.cancel()
    >>> print(watching.wait())
    None
    """

    __slots__ = (
        "__weakref__",
        "_canceller",
        "_done",
        "_event",
        "_fd",
        "_futures",
        "_identity",
        "_lent",
        "_subscribers",
        "_token",
        "_wish",
        "detects_within",
    )

    detects_within: DetectsWithin
    """Seconds in which a vanished peer is told, per case, on this kernel; None is no bound."""

    def __init__(
        self, fd: int, identity: int, wish: Wish, within: DetectsWithin, lent: bool
    ) -> None:
        self._fd, self._identity = fd, identity
        self._wish = wish
        self._lent = lent
        self._token = 0
        self._event: LivenessEvent | None = None
        self._done = _End()
        self._futures: list[asyncio.Future[None]] = []
        self._subscribers: list[Subscriber] = []
        self._canceller: Callable[[Watch], None] = _nothing
        self.detects_within = within

    @property
    def event(self) -> LivenessEvent | None:
        """What ended it, None as long as nothing has."""
        return self._event

    def wait(self, timeout: Seconds | None = None) -> LivenessEvent | None:
        """Wait until it has ended, and return the event, or None if there is none.

        :param timeout: seconds, 0 or more; None (the default) for no limit.

        None after the timeout, after ``cancel()``, and when the owner has
        closed the socket. Threads: any. Errors: TypeError, ValueError.
        """
        seconds = None if timeout is None else as_seconds("timeout", timeout, zero=True)
        if seconds is not None:
            seconds = min(seconds, threading.TIMEOUT_MAX)
        self._done.wait(seconds)
        return self._event

    def __await__(self) -> Generator[object, None, LivenessEvent | None]:
        return self._arrival().__await__()

    async def _arrival(self) -> LivenessEvent | None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _lock:
            if self._done.is_set():
                return self._event
            self._futures.append(future)
        try:
            await future
        finally:
            with _lock, contextlib.suppress(ValueError):
                self._futures.remove(future)
        return self._event

    def cancel(self) -> None:
        """End it without an event; again, or after the event, is harmless.

        Nothing is told or done after it has returned, except by the callbacks
        of an event that came before. Those who wait get None. The socket has its
        own options back.
        """
        self._canceller(self)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with the event, if there is one, and with None when it has ended.

        At once if it has ended already; else in the thread that ends it. What
        is returned ends the subscription. What it raises is logged.
        """
        check_callback("callback", callback)
        with _lock:
            over = self._done.is_set()
            if not over:
                self._subscribers.append(callback)
        if over:
            _finish(callback, self._event)

        def unsubscribe() -> None:
            with _lock, contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    # What the Guard does with it.

    def _attach(self, canceller: Callable[[Watch], None]) -> None:
        self._canceller = canceller

    def _tell(self, seen: b.Occurrence) -> Told | None:
        """Take the end that a watcher saw; return what is to be told."""
        gone, first = seen.cause == b.FOR_GONE, False
        try:
            # An abort works by options of its own, and ends a moment later.
            self._give_back(restore=not gone and seen.deed != b.DEED_ABORT)
        finally:
            event = None if gone else event_of(seen)
            first = self._settle(event)  # not if it has just been cancelled
        if event is None:
            return None
        callback = self._wish.on_event if first else None
        return event, () if callback is None else (callback,)

    def _settle(self, event: LivenessEvent | None) -> bool:
        """Let those who wait come back; False if it had ended before."""
        with _lock:
            if self._done.is_set():
                return False
            self._event = event
            self._canceller = _nothing
            self._done.set()
            futures, self._futures = self._futures, []
            subscribers, self._subscribers = self._subscribers, []
        for callback in subscribers:
            _finish(callback, event)
        for future in futures:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(_resolve, future)
        return True

    def _give_back(self, *, restore: bool) -> None:
        """Put the socket's own options back."""
        with _lock:  # who cancels and who stops the Guard may meet here
            lent, self._lent = self._lent, False
        if lent:
            pacing.give_back(self._fd, self._identity, restore)

    def _orphan(self) -> None:
        """End it in a forked child: the parent goes on watching, and gives back."""
        self._done = _End()  # the old one's waiters are threads of the parent
        self._done.set()
        self._futures, self._subscribers = [], []
        self._lent = False
        self._canceller = _nothing

    def __repr__(self) -> str:
        state = "ended" if self._done.is_set() else "on"
        return f"<Watch of fd {self._fd}: {state if self._event is None else self._event.reason}>"


def _nothing(watch: Watch) -> None:
    """Be the cancelling of what has ended."""


def _finish(callback: Subscriber, event: LivenessEvent | None) -> None:
    if event is None or quietly(callback, event):
        quietly(callback, None)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

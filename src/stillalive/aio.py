"""asyncio: idle timeout and dead peers for transports and streams, at no cost per message.

No timer is set, moved or cancelled when a message comes: the kernel's counters
know when the connection was used last, and the Guard's thread asks for them
when the limit can have been reached. Works on any event loop whose transports
tell their socket, uvloop too, and beneath TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Literal, Protocol

from ._errors import StillAliveError
from ._events import LivenessEvent
from ._sockets import SocketLike
from ._values import Seconds, as_count
from .guard import Guard, Watch
from .guard import watch as _watch

__all__ = ["PeerGoneError", "alive", "events", "watch"]

_EVENT_LAG = 0.25

Action = Literal["abort", "shutdown"] | None


class PeerGoneError(StillAliveError, ConnectionError):
    """Say that a watch ended the connection, and why; ``event`` has the details.

    ``errno`` is what the owner's calls were told, where it is known.
    """

    def __init__(self, event: LivenessEvent) -> None:
        if event.errno is None:
            super().__init__(event.reason)
        else:
            super().__init__(event.errno, event.reason)
        self.event = event

    def __reduce__(self) -> tuple[type[PeerGoneError], tuple[LivenessEvent]]:
        return type(self), (self.event,)


class Source(Protocol):
    """What tells events: a Guard or a Watch."""

    def subscribe(self, callback: Callable[[LivenessEvent | None], object]) -> Callable[[], None]:
        """Call back with each event, None after the last; return what ends the calls."""
        ...


def watch(
    sock: SocketLike,
    *,
    detect_within: Seconds | None = None,
    idle_timeout: Seconds | None = None,
    action: Action = "abort",
    on_event: Callable[[LivenessEvent], object] | None = None,
) -> Watch:
    """Watch one connection, and call back in the running loop.

    As :func:`stillalive.watch`, but `on_event` is called by the event loop
    that runs now, between other callbacks. With ``action="abort"`` the
    protocol's ``connection_lost`` gets the error as usual, a ``StreamReader``
    raises it.

    Threads: the loop's. Errors: as :func:`stillalive.watch`, and RuntimeError
    without a running loop.

    >>> async def main():
    ...     a, b = tcp_pair()
    ...     watch = aio.watch(a, idle_timeout=60, on_event=print)
    ...     watch.cancel()
    ...     return watch.event
    >>> asyncio.run(main())
    """
    loop = asyncio.get_running_loop()
    callback = _in_loop(loop, on_event) if callable(on_event) else on_event
    return _watch(
        sock,
        detect_within=detect_within,
        idle_timeout=idle_timeout,
        action=action,
        on_event=callback,
    )


def _in_loop(
    loop: asyncio.AbstractEventLoop, callback: Callable[[LivenessEvent], object]
) -> Callable[[LivenessEvent], None]:
    def call(event: LivenessEvent) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback, event)

    return call


@contextlib.asynccontextmanager
async def alive(
    sock: SocketLike,
    *,
    detect_within: Seconds | None = None,
    idle_timeout: Seconds | None = None,
) -> AsyncIterator[Watch]:
    """Work on a connection as long as its peer is there.

    :param sock: a transport, a ``StreamWriter``, a socket.
    :param detect_within: as for :func:`stillalive.watch`, seconds.
    :param idle_timeout: as for :func:`stillalive.watch`, seconds.

    Inside the block the connection is watched. If the watch ends it, whatever
    the block then raises as an ``OSError`` or ``EOFError``, and also leaving
    the block in peace, becomes :class:`PeerGoneError`, which holds the event;
    any other exception stays what it is. Leaving the block ends the watch.

    Threads: the loop's. Errors: as :func:`stillalive.watch`.

    >>> async def main():
    ...     a, b = tcp_pair()
    ...     async with aio.alive(a, detect_within=10):
    ...         return "work"
    >>> asyncio.run(main())
    'work'
    """
    watched = watch(sock, detect_within=detect_within, idle_timeout=idle_timeout)
    try:
        yield watched
    except (OSError, EOFError) as error:
        event = await _event_of(watched)
        if event is None:
            raise
        raise PeerGoneError(event) from error
    else:
        if watched.event is not None:
            raise PeerGoneError(watched.event)
    finally:
        watched.cancel()


async def _event_of(watched: Watch) -> LivenessEvent | None:
    """Return what ended the connection; the error is there a moment before the event."""
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(watched, _EVENT_LAG)
    return watched.event


async def events(source: Source, *, room: int = 1000) -> AsyncGenerator[LivenessEvent, None]:
    """Iterate over what a Guard or a Watch tells.

    :param source: a Guard: without end until it is stopped; a Watch: one event
        at most.
    :param room: events that wait at most; the oldest is dropped beyond.

    Events that were told before the first step of the iteration are not
    repeated, but for the one of a Watch. Threads: the loop's. Errors:
    TypeError, ValueError, at the first step.

    >>> async def main():
    ...     with Guard(never_spoke=60) as guard:
    ...         told = aio.events(guard)
    ...         guard.stop()
    ...         return [event async for event in told]
    >>> asyncio.run(main())
    []
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[LivenessEvent | None] = asyncio.Queue()
    most = as_count("room", room)
    if not isinstance(source, (Guard, Watch)) and not callable(getattr(source, "subscribe", None)):
        raise TypeError(f"source={source!r}: must be a Guard or a Watch")

    def put(event: LivenessEvent | None) -> None:
        while event is not None and waiting.qsize() >= most:
            waiting.get_nowait()
        waiting.put_nowait(event)

    def call(event: LivenessEvent | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(put, event)

    unsubscribe = source.subscribe(call)
    try:
        while (event := await waiting.get()) is not None:
            yield event
    finally:
        unsubscribe()

"""A selector that also says who has been silent for too long."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import Any, Protocol

from . import _backend as b
from . import _impl
from ._values import as_count, as_timeout

__all__ = ["EVENT_IDLE", "EVENT_READ", "EVENT_WRITE", "Handle", "Selector", "mechanism_wish"]

EVENT_IDLE = b.IDLE_EVENT
"""In a mask that :meth:`Selector.select` returns: nothing has happened for ``idle_timeout``."""

_ALLOWED = EVENT_READ | EVENT_WRITE
_MOST_FD = 2**31 - 1


class Handle(Protocol):
    """One registration of a :class:`Selector`: its clock, and how long it may be silent.

    ``Selector.handle()`` returns it; it is never made by hand. A handle whose
    registration has ended is *stale*: ``touch`` returns False, ``key`` is the last
    one, the rest raises ``KeyError``, and nothing else is reached through it.

    Threads: any thread may call ``touch``; the rest belongs to the selector's owner.
    """

    @property
    def key(self) -> SelectorKey:
        """The key it was registered with, or modified to."""
        ...

    def touch(self) -> bool:
        """Note activity now; return False if the handle is stale.

        Readiness notes activity by itself; this is for what the selector does
        not see, such as work that is still going on. A paused one stays paused.
        """
        ...

    def idle_for(self) -> float:
        """Return the seconds since the last activity, 0 while paused, in steps of 10 ms."""
        ...

    @property
    def idle_timeout(self) -> float | None:
        """The seconds of silence that are allowed, or None.

        Setting it keeps the time of the last activity; if that is longer ago
        than the new limit, the next ``select`` says so. One that has been
        told idle already begins anew.
        """
        ...

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None: ...

    def pause(self) -> None:
        """Stop the clock, for a request that is being worked on; again is harmless."""
        ...

    def resume(self) -> None:
        """Start the clock anew if it was paused."""
        ...


class Selector(selectors.BaseSelector):
    """See readiness of any number of descriptors, and their idleness, in one call.

    A ``selectors.BaseSelector``: whatever takes one takes this, asyncio
    included (``asyncio.SelectorEventLoop(Selector())``). What is added:
    ``register(..., idle_timeout=S)``. A key that shows no readiness and gets
    no ``touch`` for S seconds is returned by ``select`` with ``EVENT_IDLE``,
    once; again only after new activity. Noting activity costs one store.

    Never early. Late by at most 40 ms plus the time in which ``select`` is not
    called. Time in which nobody looked does not count as silence beyond one
    second at a stretch: a stopped process, a suspended machine and a callback
    that takes for ever expire nobody. Unread data is readiness, and so is
    room to write while ``EVENT_WRITE`` is asked for: neither is idle.

    Systems: epoll on Linux, kqueue on macOS and the BSDs, else ``poll``;
    ``STILLALIVE_BACKEND=poll`` forces it.

    Threads: one owner; others may call ``wake`` and ``Handle.touch``. A call by
    another thread while the owner waits raises ``RuntimeError``. After a fork
    the child's first use makes a set of its own; the parent's is not touched.

    Raises ``OSError`` as the system's mechanism does, ``ValueError``,
    ``TypeError`` and ``KeyError`` as ``selectors`` does.

    >>> with Selector() as selector:
    ...     client, server = tcp_pair()
    ...     key = selector.register(server, EVENT_READ, "who", idle_timeout=0.05)
    ...     [(key.data, mask == EVENT_IDLE) for key, mask in selector.select(timeout=5)]
    [('who', True)]
    """

    def __init__(self) -> None:
        self._engine: b.EngineLike | None = _impl.backend.Engine(mechanism_wish())
        if type(self).select is Selector.select:
            # An attribute of the instance: one call less on the hot path.
            self.select = self._engine.select  # type: ignore[method-assign]
        self._map = _Map(self)

    def register(
        self,
        fileobj: Any,
        events: int,
        data: Any = None,
        *,
        idle_timeout: float | None = None,
    ) -> SelectorKey:
        """Watch a descriptor, or an object with ``fileno()``, and return its key.

        ``events``: ``EVENT_READ``, ``EVENT_WRITE`` or both. ``idle_timeout``:
        seconds, at most 10 million; None (the default) for never. The clock
        starts now.

        Raises ``ValueError`` for other events and for what has no descriptor,
        ``KeyError`` for what is registered already, ``OSError`` as the system
        does (``PermissionError`` for a regular file with epoll, and for a device
        that kqueue cannot wait for).

        >>> selector = Selector()
        >>> client, server = tcp_pair()
        >>> selector.register(server, EVENT_READ, idle_timeout=30).fd == server.fileno()
        True
        """
        self._check_events(events)
        seconds = as_timeout("idle_timeout", idle_timeout)
        key = SelectorKey(fileobj, self._fd(fileobj), events, data)
        engine = self._open()
        if key.fd in engine.handles:
            raise KeyError(f"{fileobj!r} (FD {key.fd}) is already registered")
        if key.fd > _MOST_FD:
            raise OverflowError(f"Invalid file descriptor: {key.fd} (allowed: 0 to {_MOST_FD})")
        engine.add(key, seconds)
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Stop watching, and return the key. A closed object is found, too."""
        engine = self._open()
        handle = self._handle(fileobj)
        key = handle.key
        engine.remove(handle)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Change events and data, keep handle, idle timeout and clock; return the new key.

        If the system refuses, nothing is changed and the ``OSError`` is raised.
        """
        self._check_events(events)
        engine = self._open()
        handle = self._handle(fileobj)
        key = handle.key
        if events != key.events or data != key.data:
            key = key._replace(events=events, data=data)
            engine.modify(handle, key)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait until something is ready or idle, and return all of it.

        ``timeout``: seconds; None waits for ever, 0 or less does not wait.
        Returns pairs of key and mask of ``EVENT_READ``, ``EVENT_WRITE`` and
        ``EVENT_IDLE``; an empty list when the time is over or after ``wake``.
        A signal without an exception does not end the wait.

        Up to 4,096 idle ones come in one call; the rest in the next, which does not wait.
        """
        return self._open().select(timeout)

    def close(self) -> None:
        """Forget everything; descriptors stay open. Again is harmless."""
        engine = self._engine
        if engine is not None:
            engine.close()  # another thread may be refused: then it stays open
            self._engine = None
            vars(self).pop("select", None)

    def get_key(self, fileobj: Any) -> SelectorKey:
        """Return the key of a registered object or descriptor; ``KeyError`` if there is none."""
        if self._engine is None:
            raise RuntimeError("Selector is closed")
        return self._handle(fileobj).key

    def get_map(self) -> Mapping[Any, SelectorKey] | None:  # type: ignore[override]
        """Return a live, read-only mapping from objects to keys, or None when closed."""
        return None if self._engine is None else self._map

    def handle(self, fileobj: Any) -> Handle:
        """Return the handle of a registered object: keep it, to touch without a search.

        >>> selector = Selector()
        >>> client, server = tcp_pair()
        >>> _ = selector.register(server, EVENT_READ, idle_timeout=30)
        >>> handle = selector.handle(server)
        >>> handle.touch(), handle.idle_timeout
        (True, 30)
        >>> _ = selector.unregister(server)
        >>> handle.touch()
        False
        """
        self._open()
        return self._handle(fileobj)

    def touch(self, fileobj: Any) -> None:
        """Note activity of a registered object now; ``KeyError`` if it is not registered."""
        self._open()
        self._handle(fileobj).touch()

    def shed(self, n: int) -> list[SelectorKey]:
        """Return the keys of the `n` longest idle, longest first, for closing under pressure.

        Only keys with an ``idle_timeout`` that are not paused. Nothing is
        changed: unregister and close what you take.
        """
        as_count("n", n)
        return self._open().shed(n)

    def wake(self) -> None:
        """Let ``select`` return now, or at its next call. For any thread, and signal handlers."""
        self._open().wake()

    def stats(self) -> dict[str, int]:
        """Return counters: waits, events, idle, stale_events, rebuilds, wakes, stalls and more."""
        return self._open().stats()

    def _open(self) -> b.EngineLike:
        engine = self._engine  # read once: its owner may close it now
        if engine is None:
            raise RuntimeError("Selector is closed")
        return engine

    @staticmethod
    def _check_events(events: int) -> None:
        if events and not isinstance(events, int):
            raise TypeError(f"events={events!r}: must be EVENT_READ, EVENT_WRITE or both")
        if not events or events & ~_ALLOWED:
            raise ValueError(
                f"Invalid events: {events!r} (allowed: EVENT_READ, EVENT_WRITE or both)"
            )

    @staticmethod
    def _fd(fileobj: Any) -> int:
        if isinstance(fileobj, int):
            fd = fileobj
        else:
            try:
                fd = int(fileobj.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fileobj!r}") from None
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        return fd

    def _find(self, fileobj: Any) -> b.HandleLike | None:
        """Find a registration by descriptor, or by the object itself once that is closed."""
        handles = self._open().handles
        try:
            return handles.get(self._fd(fileobj))
        except ValueError:
            for handle in list(handles.values()):  # finalisers may run meanwhile
                if handle.key.fileobj is fileobj:
                    return handle
            raise

    def _handle(self, fileobj: Any) -> b.HandleLike:
        handle = self._find(fileobj)
        if handle is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return handle


class _Map(Mapping[Any, SelectorKey]):
    """Registered objects and their keys, as they are now."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def _handles(self) -> dict[int, b.HandleLike]:
        engine = self._selector._engine
        return {} if engine is None else engine.handles

    def __len__(self) -> int:
        return len(self._handles())

    def __getitem__(self, fileobj: Any) -> SelectorKey:
        handle = self._selector._find(fileobj) if self._handles() else None
        if handle is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return handle.key

    def __iter__(self) -> Iterator[int]:
        return iter(self._handles())


def mechanism_wish() -> str | None:
    """Return the mechanism that ``STILLALIVE_BACKEND`` asks for, or None for the best."""
    wish = os.environ.get("STILLALIVE_BACKEND") or None
    allowed = _impl.backend.mechanisms()
    if wish is not None and wish not in allowed:
        raise ValueError(
            f"STILLALIVE_BACKEND={wish!r}: not on this system (allowed: {', '.join(allowed)})"
        )
    return wish

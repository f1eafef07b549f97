"""One thread's descriptors, their readiness and their idleness.

What may go wrong, and what stops it:

* Calling somebody idle whose bytes had arrived. The clock is read first, then
  the system is asked without waiting, what is ready is stamped, and only then
  expires what was due at the time read.
* Expiring everybody because the process was stopped or a callback took for
  ever. Time in which nobody looked counts up to one second at a stretch.
* A descriptor closed behind our back whose twin keeps it open: epoll would
  report it for ever and no longer lets it be removed. The set is made anew.
* A fork. The set is shared with the parent: the child makes its own and only
  closes the number it inherited. If a signal handler has forked in the middle
  of a wait, the child does so when the wait is over.
* Use by another thread, or by a signal handler, while the owner waits. It is
  refused, except for `touch` and `wake`.
* An interrupt, or no memory, before the result has been returned. What was
  called idle in it is given back, and comes with the next one.
"""

from __future__ import annotations

import os
from selectors import SelectorKey
from threading import get_ident
from time import monotonic_ns

from .. import _backend as b
from .._values import as_timeout
from ._deadlines import Deadline, Deadlines, longest_idle
from ._pollers import IN, OUT, Bell, Poller, mechanisms, open_poller, ready_now

__all__ = ["Engine", "Handle", "mechanisms"]

TICK = 10_000_000
_SECOND = 1_000_000_000
_STALL = _SECOND
_BATCH = 4096
_LONGEST = 1e9
_LONGEST_WAIT = 86_400.0
"""More would not fit in the milliseconds of the system."""


_REFUSAL = "select() is waiting: other threads and signal handlers may only touch and wake"

_COUNTED = (
    "waits events idle stale_events rebuilds interrupted wakes stalls skipped_ticks"
).split()


def nanoseconds(seconds: float | None) -> int | None:
    """Return a limit in ns."""
    return None if seconds is None else max(1, round(seconds * _SECOND))


def as_wait(timeout: float) -> int:
    """Return in ns how long `select` may take."""
    if type(timeout) not in (int, float):
        try:
            if not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
                raise TypeError  # float() would read a str
            timeout = float(timeout)
        except OverflowError:
            timeout = _LONGEST if timeout > 0 else 0
        except TypeError:
            raise TypeError(
                f"timeout={timeout!r}: must be a number of seconds (int or float), or None"
            ) from None
    if timeout != timeout:
        raise ValueError(f"timeout={timeout!r}: must not be NaN")
    return int(min(max(timeout, 0), _LONGEST) * _SECOND)


class Clock:
    """The time that counts as idleness, in ns."""

    __slots__ = ("_frozen", "_skipped")

    def __init__(self) -> None:
        self._frozen: int | None = None
        self._skipped = 0

    @property
    def frozen(self) -> bool:
        return self._frozen is not None

    def now(self) -> int:
        return (monotonic_ns() if self._frozen is None else self._frozen) - self._skipped

    def skip(self, ns: int) -> None:
        if self._frozen is None:
            self._skipped += ns

    def freeze(self, tick: int) -> None:
        self._frozen, self._skipped = tick * TICK, 0

    def advance(self, seconds: float) -> None:
        if self._frozen is None:
            raise RuntimeError("only a frozen clock can be advanced")
        self._frozen += -(-round(seconds * _SECOND) // TICK) * TICK


class Handle(Deadline):
    """One registration, or a timer (`fd` -1)."""

    __slots__ = ("__weakref__", "_engine", "_key", "_now", "_polled", "_seconds")

    def __init__(self, engine: Engine, key: SelectorKey, seconds: float | None) -> None:
        super().__init__(engine.now(), nanoseconds(seconds))
        self._engine: Engine | None = engine
        self._now = engine.clock.now
        self._polled = 0
        """The events that the poller has been asked for; 0 when it does not have it."""
        self._seconds = seconds
        self._key = key

    @property
    def key(self) -> SelectorKey:
        return self._key

    @property
    def due(self) -> bool:
        """Whether it has been called idle, and nothing has happened since."""
        return self._due

    @property
    def touched(self) -> int:
        """The time of the last activity."""
        return self._touched

    def touch(self) -> bool:
        engine = self._engine
        if engine is None:
            return False
        self._touched = self._now()
        if self._due:
            engine.rescue(self)
        return True

    def idle_for(self) -> float:
        engine = self._alive()
        if self._paused:
            return 0.0
        return max(0, engine.now() - self._touched) // TICK / 100

    @property
    def idle_timeout(self) -> float | None:
        self._alive()
        return self._seconds

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        seconds = as_timeout("idle_timeout", seconds)
        engine = self._alive()
        engine.enter()
        if self._due:  # it begins anew
            self._touched = engine.now()
        self._seconds, self._limit, self._due = seconds, nanoseconds(seconds), False
        engine.deadlines.arm(self)

    def pause(self) -> None:
        engine = self._alive()
        engine.enter()
        self._paused, self._due = True, False

    def resume(self) -> None:
        engine = self._alive()
        engine.enter()
        if self._paused:
            self._paused, self._touched = False, engine.now()
            engine.deadlines.arm(self)

    def _alive(self) -> Engine:
        engine = self._engine  # read once: it may end now, in another thread
        if engine is None:
            raise KeyError("this handle is stale: its registration has ended")
        return engine


class Engine:
    """See the module. Arguments come checked."""

    def __init__(self, mechanism: str | None) -> None:
        self._poller: Poller | None = None
        self._bell = Bell()
        self.mechanism = mechanism or mechanisms()[0]
        self.handles: dict[int, b.HandleLike] = {}
        self.deadlines = Deadlines()
        self.clock = Clock()
        self._pid = os.getpid()
        self._inside = self._waiting = 0
        """The thread that is in `select`, and the one that waits there; 0 for none."""
        self._woken = False
        self._ghosts: set[int] = set()
        """Numbers that were closed before they were removed: a twin may live."""
        self._looked = monotonic_ns()
        self._stats = dict.fromkeys(_COUNTED, 0)
        self._poller = self._new_poller()

    def add(self, key: SelectorKey, idle_timeout: float | None) -> Handle:
        """Register; with events 0 it is known, but not polled."""
        self.enter()
        handle = Handle(self, key, idle_timeout)
        if key.events:
            self._open().add(key.fd, key.events)
            handle._polled = key.events
        self.handles[key.fd] = handle
        self.deadlines.add(handle)
        return handle

    def timer(self, seconds: float, data: object) -> Handle:
        """Add what has no descriptor, only a deadline."""
        self.enter()
        handle = Handle(self, SelectorKey(None, -1, 0, data), seconds)  # type: ignore[arg-type]
        self.deadlines.add(handle)
        return handle

    def modify(self, handle: b.HandleLike, key: SelectorKey) -> None:
        """Change key and events; nothing, if the system refuses."""
        assert isinstance(handle, Handle)
        self.enter()
        if key.events != handle._polled:
            poller = self._open()
            if not key.events:
                self._forget(key.fd)
            elif handle._polled:
                if not poller.modify(key.fd, key.events):
                    self._ghosts.add(key.fd)
            else:
                poller.add(key.fd, key.events)
            handle._polled = key.events
        handle._key = key

    def remove(self, handle: b.HandleLike) -> None:
        """End a registration or a timer; a closed descriptor is no error."""
        assert isinstance(handle, Handle)
        self.enter()
        if handle._engine is None:
            return
        fd = handle._key.fd
        if self.handles.get(fd) is handle:
            del self.handles[fd]
        if handle._polled:
            self._forget(fd)
        self._end(handle)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait for what is ready or idle."""
        longest = None if timeout is None else as_wait(timeout)
        self.enter()
        me = get_ident()
        if self._inside:
            raise RuntimeError(
                "select() was called inside select()" if self._inside == me else _REFUSAL
            )
        idle: list[Deadline] = []
        self._inside = me
        try:
            return self._rounds(longest, idle)
        except BaseException:
            self.deadlines.give_back(idle)
            raise
        finally:
            self._inside = 0

    def _rounds(self, longest: int | None, idle: list[Deadline]) -> list[tuple[SelectorKey, int]]:
        """Look until there is something to tell; `idle` gets those that are told idle."""
        began = monotonic_ns()
        self._stalled(began - self._looked)
        self._looked = began
        until = None if longest is None else began + longest
        deadlines = self.deadlines
        while True:
            if deadlines.rescued or deadlines.returned:
                deadlines.settle()
            now = self.clock.now()
            found = self._wait(self._patience(now, until))
            batch = self._ready(found) if found else []
            at = deadlines.next()
            if at is not None and at <= now:
                idle.clear()
                deadlines.expire(now, _BATCH, idle)
                for entry in idle:  # finalisers may run meanwhile, and unregister
                    if isinstance(entry, Handle) and entry._engine is not None:
                        batch.append((entry._key, b.IDLE_EVENT))
                        self._stats["idle"] += 1
            if batch or self._woken or (until is not None and self._looked >= until):
                if self._woken:
                    self._stats["wakes"] += 1
                    self._woken = False
                return batch

    def shed(self, n: int) -> list[SelectorKey]:
        """Return the keys of the longest idle."""
        self.enter()
        timed = [
            handle
            for handle in list(self.handles.values())
            if isinstance(handle, Handle) and handle._limit is not None and not handle._paused
        ]
        return [entry._key for entry in longest_idle(timed, n) if isinstance(entry, Handle)]

    def wake(self) -> None:
        """Let the wait end now, or the next one at once."""
        self._woken = True
        if self._pid == os.getpid():  # else nobody waits here, and the bell is the parent's
            self._bell.ring()

    def rescue(self, handle: Handle) -> None:
        """Take back that a handle is due; any thread."""
        self.deadlines.rescue(handle)
        if self._waiting and self._pid == os.getpid():
            self._bell.ring()

    def stats(self) -> dict[str, int]:
        """Return the counters, with the names that the compiled backend has."""
        deadlines = self.deadlines
        return {
            **self._stats,
            "claims": deadlines.claims,
            "opened": deadlines.opened,
            "registered": len(self.handles),
            "bytes_hot": 0,
            "bytes_all": 0,
        }

    def close(self) -> None:
        """Forget everything."""
        self.enter()
        handles, self.handles = self.handles, {}
        for handle in handles.values():
            self._end(handle)  # type: ignore[arg-type]
        self.deadlines.clear()
        if self._poller is not None:
            self._poller.close()
        self._poller = None
        self._bell.close()

    def freeze(self, tick: int) -> None:
        """Stop the clock, for tests."""
        self.clock.freeze(tick)

    def advance(self, seconds: float) -> None:
        """Move the frozen clock."""
        self.clock.advance(seconds)

    def now(self) -> int:
        """Return the time as it will be: what nobody has looked by now counts up to a second."""
        now = self.clock.now()
        if self.clock.frozen:
            return now
        return now - max(0, monotonic_ns() - self._looked - _STALL)

    def enter(self) -> None:
        """Refuse what would disturb a wait; notice a fork."""
        if self._pid != os.getpid() and self._waiting != get_ident():
            self._forked()
        if self._waiting:
            raise RuntimeError(_REFUSAL)

    def _open(self) -> Poller:
        poller = self._poller
        if poller is None:
            raise RuntimeError("the engine is closed")
        return poller

    def _end(self, handle: Handle) -> None:
        if handle._engine is not None:
            handle._engine = None
            self.deadlines.discard(handle)

    def _forget(self, fd: int) -> None:
        if not self._open().remove(fd):
            self._ghosts.add(fd)

    def _patience(self, now: int, until: int | None) -> float | None:
        """Return the seconds that the next wait may take."""
        at = self.deadlines.next()
        if self._woken or (at is not None and at <= now):
            return 0
        longest = None
        if at is not None:  # at the end of a tick, so that one wait serves many
            longest = -(-at // TICK) * TICK - now
        if until is not None:
            rest = max(0, until - monotonic_ns())
            longest = rest if longest is None else min(longest, rest)
        return None if longest is None else min(longest / _SECOND, _LONGEST_WAIT)

    def _wait(self, seconds: float | None) -> list[tuple[int, int]]:
        began = monotonic_ns()
        self._waiting = self._inside
        try:
            if self.deadlines.rescued and seconds != 0:
                seconds = 0  # rescued while nobody could ring: arm it first
            found = self._open().wait(seconds, len(self.handles) + 1)
        finally:
            self._waiting = 0
            self._looked = monotonic_ns()
        if self._pid != os.getpid():  # that was the parent's set
            self._forked()
            found = self._open().wait(0, len(self.handles) + 1)
        self._stats["waits"] += 1
        if seconds is not None:
            self._stalled(self._looked - began - int(seconds * _SECOND))
        return found

    def _stalled(self, ns: int) -> None:
        """Take time in which nobody looked out of what counts."""
        if ns <= _STALL:
            return
        ticks = -(-(ns - _STALL) // TICK)
        self.clock.skip(ticks * TICK)
        self._stats["stalls"] += 1
        self._stats["skipped_ticks"] += ticks

    def _ready(self, found: list[tuple[int, int]]) -> list[tuple[SelectorKey, int]]:
        """Stamp what is ready, and return it as `select` does."""
        batch = []
        handles, now, stale = self.handles, self.clock.now(), 0
        for fd, flags in found:
            handle = handles.get(fd)
            if not isinstance(handle, Handle) or not handle._polled:
                if fd == self._bell.fd:
                    self._bell.hush()
                else:
                    stale += 1
                continue
            if self._ghosts and fd in self._ghosts and not ready_now(fd, flags):
                stale += 1
                continue
            key = handle._key
            handle._touched = now
            if handle._due:
                self.rescue(handle)
            mask = (b.WRITE if flags & ~IN else 0) | (b.READ if flags & ~OUT else 0)
            mask &= key.events
            if mask:
                batch.append((key, mask))
        self._stats["events"] += len(batch)
        if stale:
            self._stats["stale_events"] += stale
            self._rebuild()
        return batch

    def _new_poller(self) -> Poller:
        poller = open_poller(self.mechanism)
        poller.add(self._bell.fd, b.READ)
        for handle in list(self.handles.values()):
            assert isinstance(handle, Handle)
            if handle._polled:
                try:
                    poller.add(handle._key.fd, handle._polled)
                except OSError:  # closed: it can still become idle
                    continue
        return poller

    def _rebuild(self) -> None:
        """Make the set anew, without what could not be removed from the old one."""
        old, self._poller = self._poller, self._new_poller()
        self._ghosts.clear()
        self._stats["rebuilds"] += 1
        if old is not None:
            old.close()

    def _forked(self) -> None:
        """Make a set and a bell of the child's own; the inherited ones are only closed."""
        if self._poller is not None:
            inherited, self._bell = self._bell, Bell()
            try:
                self._rebuild()
            except BaseException:  # the next call tries again
                self._bell.close()
                self._bell = inherited
                raise
            inherited.close()
        if self._inside != get_ident():  # that thread is no more
            self._inside = self._waiting = 0
            self.deadlines.inherit()
        self._pid = os.getpid()

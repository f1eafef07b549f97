"""Deadlines of many things, most of which never come.

A heap of lower bounds. A touch only moves a deadline later, so it stores the
time and leaves the heap alone; when the bound comes up, the true deadline is
looked at, and the entry goes back into the heap if that is still to come.

Time is passed in, as integer nanoseconds. Another thread may touch at any
moment: it stores the time first and looks at `due` afterwards, a sweep sets
`due` first and looks at the time again afterwards, so one of the two sees the
other. What was rescued waits in a queue until the owner arms it again.

Making a tuple may run the collector, and any call a signal handler; both may
add, discard and arm here, or raise. So a tuple is made first, then everything
is asked anew, and from there to the change of the heap nothing is called. An
entry leaves the heap only once the caller's list has it. The heap stays the
same list for ever, and is not made smaller during a sweep.

The heap does not hold the entries themselves: one that is discarded is let go
at once, though its bound may come up much later.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Iterable

__all__ = ["Deadline", "Deadlines"]

_WHOLE = slice(None)


class _Cell:
    """What the heap holds in place of an entry."""

    __slots__ = ("entry",)

    def __init__(self, entry: Deadline) -> None:
        self.entry: Deadline | None = entry


class Deadline:
    """One thing that may be silent for `limit` ns; without a limit, None, for ever."""

    __slots__ = ("_armed", "_cell", "_due", "_limit", "_paused", "_touched")

    def __init__(self, now: int, limit: int | None) -> None:
        self._touched = now
        self._limit = limit
        self._paused = False
        self._due = False
        self._armed: int | None = None
        """The deadline under which the heap has it, never later than the true one."""
        self._cell = _Cell(self)


class Deadlines:
    """The heap. One owner; other threads may touch entries and call `rescue`."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Cell]] = []
        self._order = itertools.count()
        self._changes = 0
        self._live = 0
        self._busy = False
        """A sweep goes on, or the heap is being made smaller."""
        self.rescued: deque[_Cell] = deque()
        self.returned: list[Deadline] = []
        """What waits for `settle`, like `rescued`."""
        self.opened = 0
        self.claims = 0

    def add(self, entry: Deadline) -> None:
        """Take a new entry."""
        self._live += 1
        self.opened += 1
        self.arm(entry)

    def discard(self, entry: Deadline) -> None:
        """Forget an entry; the bound that the heap may still have is dropped when it comes up."""
        entry._cell.entry = None
        entry._limit = entry._armed = None
        entry._due = False
        self._live -= 1
        self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        for _, _, cell in self._heap:
            cell.entry = None
        self._heap.clear()
        self.rescued.clear()
        self.returned = []

    def inherit(self) -> None:
        """Begin in a forked child: whoever was in the middle of something is no more."""
        self._busy = False

    def arm(self, entry: Deadline) -> None:
        """See to it that the heap has the entry no later than its deadline."""
        if entry._limit is None or entry._paused or entry._due:
            return
        at = entry._touched + entry._limit
        if entry._armed is not None and at >= entry._armed:
            return
        item = (at, next(self._order), entry._cell)
        before = entry._armed
        if before is not None and at >= before:  # armed meanwhile
            return
        self._changes += 1
        entry._armed = at
        try:
            heapq.heappush(self._heap, item)
        except MemoryError:
            entry._armed = before
            raise

    def rescue(self, entry: Deadline) -> None:
        """Take back that an entry is due; any thread."""
        entry._due = False
        self.rescued.append(entry._cell)

    def give_back(self, entries: list[Deadline]) -> None:
        """Take back that they are due: nobody was told. What cannot be done now, `settle` does."""
        if entries:
            self.returned = entries
            for entry in entries:
                entry._due = False

    def settle(self) -> None:
        """Arm what has been rescued or given back since."""
        while self.returned:
            entry = self.returned[-1]
            entry._due = False
            self.arm(entry)
            self.returned.pop()
        while self.rescued:  # what cannot be armed now stays in the queue
            rescued = self.rescued[0].entry
            if rescued is not None:
                self.arm(rescued)
            self.rescued.popleft()

    def next(self) -> int | None:
        """Return the time before which nothing becomes due, or None for never."""
        return self._heap[0][0] if self._heap else None

    def expire(self, now: int, room: int, found: list[Deadline]) -> None:
        """Mark as due up to `room` entries whose deadline has come, and append them to `found`.

        If that is cut short, the caller gives back what it has found.
        """
        heap, busy = self._heap, self._busy
        self._busy = True
        self._changes += 1
        try:
            while heap and heap[0][0] <= now and len(found) < room:
                top = heap[0]
                at, cell = top[0], top[2]
                entry = cell.entry
                if entry is None or entry._armed != at:
                    heapq.heappop(heap)
                elif entry._limit is None or entry._paused:
                    entry._armed = None
                elif (deadline := entry._touched + entry._limit) > now:
                    item = (deadline, next(self._order), cell)
                    if (
                        heap[0] is top
                        and entry._armed == at
                        and entry._limit is not None
                        and entry._touched + entry._limit >= deadline
                    ):
                        entry._armed = deadline
                        heapq.heapreplace(heap, item)
                else:
                    found.append(entry)
                    entry._due = True
                    if (
                        heap[0] is top
                        and entry._armed == at
                        and entry._limit is not None
                        and not entry._paused
                        and entry._touched + entry._limit <= now  # not by another thread, just now
                    ):
                        entry._armed = None
                        heapq.heappop(heap)
                    else:
                        entry._due = False
                        found.pop()
        finally:
            self._busy = busy
        self.claims += len(found)
        self._shrink()

    def _shrink(self) -> None:
        """Drop the bounds of what has been discarded, once they are the greater part."""
        if self._busy or len(self._heap) <= 2 * self._live + 64:
            return
        self._busy = True
        try:
            with contextlib.suppress(MemoryError):  # another time
                changes, kept = -1, self._heap
                while changes != self._changes:
                    changes = self._changes
                    kept = [
                        item
                        for item in self._heap
                        if (entry := item[2].entry) is not None and entry._armed == item[0]
                    ]
                    heapq.heapify(kept)
                self._heap[_WHOLE] = kept
        finally:
            self._busy = False


def longest_idle(entries: Iterable[Deadline], n: int) -> list[Deadline]:
    """Return the `n` entries whose last touch is longest ago, longest first."""
    return heapq.nsmallest(n, entries, key=lambda entry: entry._touched)

"""Deadlines of many things, most of which never come.

A heap of lower bounds. A touch only moves a deadline later, so it stores the
time and leaves the heap alone; when the bound comes up, the true deadline is
looked at, and the entry goes back into the heap if that is still to come.

Time is passed in, as integer nanoseconds. Another thread may touch at any
moment: it stores the time first and looks at `due` afterwards, a sweep sets
`due` first and looks at the time again afterwards, so one of the two sees the
other. What was rescued waits in a queue until the owner arms it again.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable

__all__ = ["Deadline", "Deadlines"]


class Deadline:
    """One thing that may be silent for `limit` ns; without a limit, None, for ever."""

    __slots__ = ("armed", "due", "limit", "paused", "touched")

    def __init__(self, now: int, limit: int | None) -> None:
        self.touched = now
        self.limit = limit
        self.paused = False
        self.due = False
        self.armed: int | None = None
        """The deadline under which the heap has it, never later than the true one."""


class Deadlines:
    """The heap. One owner; other threads may touch entries and append to `rescued`."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Deadline]] = []
        self._order = itertools.count()
        self._live = 0
        self.rescued: deque[Deadline] = deque()
        self.opened = 0
        self.claims = 0

    def add(self, entry: Deadline) -> None:
        """Take a new entry."""
        self._live += 1
        self.opened += 1
        self.arm(entry)

    def discard(self, entry: Deadline) -> None:
        """Forget an entry; what the heap still has of it is dropped when it comes up."""
        entry.limit = entry.armed = None
        entry.due = False
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [item for item in self._heap if item[2].armed == item[0]]
            heapq.heapify(self._heap)

    def arm(self, entry: Deadline) -> None:
        """See to it that the heap has the entry no later than its deadline."""
        if entry.limit is None or entry.paused or entry.due:
            return
        at = entry.touched + entry.limit
        if entry.armed is None or at < entry.armed:
            entry.armed = at
            heapq.heappush(self._heap, (at, next(self._order), entry))

    def settle(self) -> None:
        """Arm what has been rescued since."""
        while self.rescued:
            self.arm(self.rescued.popleft())

    def next(self) -> int | None:
        """Return the time before which nothing becomes due, or None for never."""
        return self._heap[0][0] if self._heap else None

    def expire(self, now: int, room: int) -> list[Deadline]:
        """Mark as due and return up to `room` entries whose deadline has come."""
        heap = self._heap
        found: list[Deadline] = []
        while heap and heap[0][0] <= now and len(found) < room:
            at, _, entry = heap[0]
            if entry.armed != at or entry.limit is None or entry.paused:
                heapq.heappop(heap)
                if entry.armed == at:
                    entry.armed = None
                continue
            deadline = entry.touched + entry.limit
            if deadline > now:
                entry.armed = deadline
                heapq.heapreplace(heap, (deadline, next(self._order), entry))
                continue
            heapq.heappop(heap)
            entry.armed, entry.due = None, True
            if entry.touched + entry.limit > now:  # by another thread, just now
                entry.due = False
                self.arm(entry)
            else:
                found.append(entry)
        self.claims += len(found)
        return found


def longest_idle(entries: Iterable[Deadline], n: int) -> list[Deadline]:
    """Return the `n` entries whose last touch is longest ago, longest first."""
    return heapq.nsmallest(n, entries, key=lambda entry: entry.touched)

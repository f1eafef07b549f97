"""One thread that looks at connections of others, and acts: the twin of ext/core/watcher.h."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import _backend as b
from .._backend import Occurrence, WatcherSettings
from ._judge import Limits

if sys.platform == "linux":
    from ._discovery import Discovery
    from ._ending import FirstLook
    from ._reserve import LostError
    from ._wards import Keeper, Ward

assert not TYPE_CHECKING or sys.platform == "linux"

__all__ = ["Watcher"]

_LOOKS = 256
"""Of one slice, so that calls from other threads get their turn."""
_LATE_MS = 1000
_SHORTEST_PASS_MS, _LONGEST_PASS_MS = 250, 2000
_PASS_SHARE, _DRAIN_SHARE = 100, 10
"""Discovery takes at most one part in so many of a core."""
_WAY_IN_SECONDS = 0.0005
"""Between slices: whoever gives a lock back and takes it again has it first, as a rule."""
_SCAN_MS = 1000
_FAILED_MS = 5000

_SPARED = ("spared_unread", "spared_rate", "spared_exempt", "spared_held")

_log = logging.getLogger("stillalive.guard")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Queue:
    """What has happened, for somebody who takes it. When it is full the newest is dropped.

    But not the end of a watch: somebody waits for it, and each has only one.
    Nor that of the watcher, which is all that is told of it.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[Occurrence] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, occurrence: Occurrence) -> None:
        with self._changed:
            last = occurrence.token or occurrence.cause == b.FOR_LOST
            if len(self._waiting) >= self._room and not last:
                self.dropped += 1
                return
            self._waiting.append(occurrence)
            self._changed.notify()

    def take(self, room: int, timeout_ms: int) -> list[Occurrence] | None:
        """Return what is there, empty after the time; None when it is closed and empty."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._closed,
                None if timeout_ms < 0 else timeout_ms / 1000,
            )
            if not self._waiting and self._closed:
                return None
            return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Watcher:
    """Look at connections, and act. Any thread may call; arguments come checked."""

    def __init__(self, settings: WatcherSettings, queue: int) -> None:
        self._queue = _Queue(max(1, queue))
        self._changed = threading.Condition()  # reentrant: a signal handler may call
        self._thread: threading.Thread | None = None
        self._stopping = self._lost = False
        self._tokens = itertools.count(1)
        self._logged: set[type[Exception]] = set()
        self._failures: list[Exception] = []
        self._keeper = Keeper(settings, self._tell)
        self._wards: dict[int, Ward] = {}
        """What was discovered, by identity."""
        self._watches: dict[int, Ward] = {}
        """By token."""
        self._released: dict[int, int] = {}
        """Holds that have ended before their socket was discovered, and the pass of that time."""
        self._order = itertools.count()
        self._heap: list[tuple[int, int, Ward]] = []
        """Looks that are due, and some that are no more."""
        self._discovery = Discovery(self._adopt, self._part, settings.ports)
        self._pass_ms = 0
        """When discovery begins or goes on."""
        self._pass_began_ms = self._pass_cost_ns = 0
        self._evict_at_ms = self._scan_at_ms = 0
        self._resting: deque[Ward] = deque()
        """Those to evict, the longest idle first."""
        self._due_ms: int | None = None
        """When the next slice is due; None: nothing is."""
        self._cpu = Counter[str]()

    def __del__(self) -> None:
        # A thread, while there is one, keeps it alive: nobody is in there.
        keeper = getattr(self, "_keeper", None)
        if keeper is not None:
            keeper.reserve.close()

    # What others call.

    def start(self) -> None:
        """Start the thread, unless there is one. After `stop` it takes a new Watcher."""
        with self._changed:
            if self._stopping:
                raise OSError(errno.ESHUTDOWN, "this Watcher has been stopped")
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="stillalive-guard", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """End the thread and wait for that; may be repeated."""
        # From a signal handler that has interrupted one of our own calls there
        # is no waiting: the thread ends when that call is over.
        interrupted = self._is_inside()
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
            thread = self._thread
            if thread is None:
                self._keeper.reserve.close()
        if thread is not None and not interrupted:
            thread.join()
        self._queue.close()

    def _is_inside(self) -> bool:
        """Tell whether this very thread holds the lock."""
        try:
            self._changed.notify_all()  # refused to all others
        except RuntimeError:
            return False
        return True

    def abandon(self) -> None:
        """In a forked child, instead of stop: locks may be held by threads that are no more."""
        self._changed = threading.Condition()
        self._queue = _Queue(1)
        self._queue.close()
        self._thread = None
        self._stopping = True
        self._keeper.reserve.close()
        self._wards, self._watches, self._heap = {}, {}, []

    def update(self, settings: WatcherSettings) -> None:
        """Go on with other settings."""
        with self._changed:
            self._keeper.use(settings)
            for ward in list(self._wards.values()):
                wanted = not settings.ports or ward.port in settings.ports
                if not (settings.discover and wanted) and ward.aborting_ms is None:
                    self._part(ward)
                    continue
                ward.paced = ward.exempt = False
                ward.told = None
                self._arm(ward, 0)
            self._discovery.want(settings.ports)
            self._pass_ms = 0
            self._evict_at_ms = self._scan_at_ms = 0
            self._changed.notify_all()

    def watch(
        self,
        fd: int,
        identity: int,
        detect_ms: int,
        idle_ms: int,
        deed: int,
        first: FirstLook | None = None,
    ) -> int:
        """Look after one socket; an event with the token ends that."""
        if first is None:
            with contextlib.suppress(OSError):
                first = FirstLook(fd)
        ward = Ward(fd, identity)
        ward.limits = Limits(detect_ms=detect_ms, idle_ms=idle_ms)
        ward.deed = deed
        limit_ms = detect_ms if detect_ms >= 0 else idle_ms
        ward.pace_ms = 1000 if limit_ms < 0 else min(max(limit_ms // 40, 100), 1000)
        with self._changed:
            ward.token = next(self._tokens)
            self._watches[ward.token] = ward
            if first is not None and first.identity == identity:
                self._keeper.begin(ward, first)
            self._arm(ward, 0)
            self._changed.notify_all()
            return ward.token

    def cancel(self, token: int) -> bool:
        """End a watch without an event. False when it has ended before."""
        with self._changed:
            ward = self._watches.pop(token, None)
            if ward is None:
                return False
            self._part(ward)
            return True

    def hold(self, identity: int) -> None:
        """Keep a connection from being acted on; counted."""
        with self._changed:
            self._keeper.held[identity] += 1

    def release(self, identity: int) -> None:
        """End a hold; with the last its clocks begin anew."""
        with self._changed:
            held = self._keeper.held
            held[identity] -= 1
            if held[identity] > 0:
                return
            del held[identity]
            if self._keeper.settings.discover and identity not in self._wards:
                self._released[identity] = self._cpu["passes"]
            for ward in (*self._wards.values(), *self._watches.values()):
                if ward.identity == identity:
                    ward.restart = True
                    self._arm(ward, 0)
            self._changed.notify_all()

    def drain(self, on: bool) -> None:
        """End what is at rest, as soon as it has been for evict_idle_ms."""
        with self._changed:
            self._keeper.draining = on
            for ward in self._wards.values():
                self._arm(ward, 0)
            self._pass_ms = 0
            self._changed.notify_all()

    def take(self, room: int, timeout_ms: int) -> list[Occurrence] | None:
        """Return up to `room` events, after waiting; None once stopped and empty."""
        return self._queue.take(room, timeout_ms)

    def stats(self) -> dict[str, int]:
        """Return the counters, with the names that the compiled backend has."""
        with self._changed:
            keeper, cpu = self._keeper, self._cpu
            counts = keeper.counts
            return {
                "tracked": keeper.tracked,
                "watched": len(self._watches),
                "held": len(keeper.held),
                "looks": counts["looks"],
                "told": keeper.told.total(),
                "ended": counts["ended"],
                **{f"told_{name}": keeper.told[n] for n, name in enumerate(b.CAUSES) if name},
                **{name: counts[name] for name in _SPARED},
                "passes": cpu["passes"],
                "pass_cpu_us": cpu["pass_ns"] // 1000,
                "cpu_us": cpu["ns"] // 1000,
                "stalls": cpu["stalls"],
                "dropped": self._queue.dropped,
            }

    def step(self, now_ms: int) -> int:
        """Do one slice of work. Return the ms until the next, NO_TIME when there is nothing."""
        with self._changed:
            wait_ms = self._slice(now_ms)
        self._report()
        return wait_ms

    # The thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping or self._lost:
                    self._keeper.reserve.close()
                    return
                wait_ms = self._slice(_now_ms())
                if wait_ms != 0 and not self._failures:
                    self._changed.wait(None if wait_ms < 0 else wait_ms / 1000)
            self._report()
            if wait_ms == 0:
                time.sleep(_WAY_IN_SECONDS)

    def _report(self) -> None:
        """Log what should not have happened, outside the lock: handlers do anything."""
        failures, self._failures = self._failures, []
        for failure in failures:
            if type(failure) not in self._logged:
                self._logged.add(type(failure))
                _log.error("the guard goes on after an error of its own", exc_info=failure)

    def _slice(self, now_ms: int) -> int:
        began = time.thread_time_ns()
        try:
            return self._work(now_ms)
        except LostError:
            self._lost = True
            self._keeper.lost(now_ms)
            return b.NO_TIME
        finally:
            self._cpu["ns"] += time.thread_time_ns() - began

    def _work(self, now_ms: int) -> int:
        if self._lost:
            return b.NO_TIME
        overdue = self._due_ms is not None and now_ms - self._due_ms > _LATE_MS
        if overdue or self._keeper.late:
            self._cpu["stalls"] += 1
            self._keeper.epoch_ms = now_ms
        self._keeper.enter()
        if self._is_discovering() and self._pass_ms <= now_ms:
            self._discover(now_ms)
        for _ in range(_LOOKS):
            ward = self._next_due(now_ms)
            if ward is None:
                break
            self._try(ward, now_ms, lambda ward: self._keeper.look(ward, now_ms))
        if self._is_crowded() and self._evict_at_ms <= now_ms:
            self._evict(now_ms)
        if len(self._heap) > 4 * (len(self._wards) + len(self._watches)) + _LOOKS:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)
        wait_ms = self._wait_ms(now_ms)
        self._due_ms = None if wait_ms < 0 else now_ms + wait_ms
        return wait_ms

    def _wait_ms(self, now_ms: int) -> int:
        due = []
        if self._is_discovering():
            due.append(self._pass_ms)
        if self._is_crowded():
            due.append(self._evict_at_ms)
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)
        if self._heap:
            due.append(self._heap[0][0])
        return max(0, min(due) - now_ms) if due else b.NO_TIME

    def _try(self, ward: Ward, now_ms: int, do: Callable[[Ward], int | None]) -> None:
        """Look at a ward, or act on it, and see when to look again."""
        try:
            again_ms = do(ward)
        except LostError:
            raise
        except Exception as failure:
            self._failures.append(failure)
            again_ms = _FAILED_MS
        if again_ms is None:
            self._part(ward)
        elif again_ms >= 0:
            self._arm(ward, now_ms + max(1, again_ms))  # once a slice

    # The time of looks.

    def _arm(self, ward: Ward, due_ms: int) -> None:
        ward.due_ms = due_ms
        heapq.heappush(self._heap, (due_ms, next(self._order), ward))

    @staticmethod
    def _is_stale(entry: tuple[int, int, Ward]) -> bool:
        due_ms, _, ward = entry
        return ward.ended or ward.due_ms != due_ms

    def _next_due(self, now_ms: int) -> Ward | None:
        while self._heap and self._heap[0][0] <= now_ms:
            entry = heapq.heappop(self._heap)
            if not self._is_stale(entry):
                entry[2].due_ms = None
                return entry[2]
        return None

    # What is discovered.

    def _is_discovering(self) -> bool:
        return self._keeper.settings.discover

    def _discover(self, now_ms: int) -> None:
        if not self._discovery.under_way():
            self._pass_began_ms, self._pass_cost_ns = now_ms, 0
        began = time.thread_time_ns()
        try:
            over = self._discovery.slice()
        except Exception as failure:
            self._failures.append(failure)
            self._discovery.want(self._keeper.settings.ports)
            self._pass_ms = now_ms + _LONGEST_PASS_MS
            return
        finally:
            cost_ns = time.thread_time_ns() - began
            self._pass_cost_ns += cost_ns
            self._cpu["pass_ns"] += cost_ns
        if over:
            self._cpu["passes"] += 1
            self._pass_ms = self._pass_began_ms + self._pass_pause_ms()
            for identity, passes in list(self._released.items()):
                if self._cpu["passes"] - passes > 1:
                    del self._released[identity]

    def _pass_pause_ms(self) -> int:
        """Return how long after the beginning of a pass the next one begins."""
        pause_ms = _SHORTEST_PASS_MS
        share = _DRAIN_SHARE
        if not self._keeper.draining:
            pause_ms = min(max(self._keeper.least_ms // 4, _SHORTEST_PASS_MS), _LONGEST_PASS_MS)
            share = _PASS_SHARE
        return max(pause_ms, self._pass_cost_ns * share // 1_000_000)

    def _adopt(self, fd: int, identity: int, port: int) -> Ward | None:
        if identity in self._wards:  # under another number
            return None
        ward = self._wards[identity] = Ward(fd, identity)
        ward.port = port
        ward.restart = self._released.pop(identity, None) is not None
        self._keeper.tracked += 1
        self._arm(ward, 0)
        return ward

    def _part(self, ward: Ward) -> None:
        if ward.ended:
            return
        if ward.is_discovered():
            del self._wards[ward.identity]
        self._keeper.forget(ward)

    def _is_crowded(self) -> bool:
        above = self._keeper.settings.evict_above
        return 0 <= above < self._keeper.tracked

    def _too_many(self) -> int:
        """Return how many should be evicted; a dry run has told of some, as if they were gone."""
        told = sum(ward.told is not None for ward in self._wards.values())
        return self._keeper.tracked - told - self._keeper.settings.evict_above

    def _evict(self, now_ms: int) -> None:
        """End those that have been at rest for longest, as many as there are too many."""
        keeper = self._keeper
        if self._scan_at_ms <= now_ms:
            self._scan_at_ms = now_ms + _SCAN_MS
            resting = [(keeper.idle_ms(ward, now_ms), ward) for ward in self._wards.values()]
            longest = heapq.nlargest(
                self._too_many(),
                (pair for pair in resting if pair[0] >= 0),
                key=lambda pair: pair[0],
            )
            self._resting = deque(ward for _, ward in longest)
        while self._resting and self._is_crowded() and keeper.wait_ms(now_ms) == 0:
            ward = self._resting.popleft()
            if not (ward.ended or ward.acted):
                self._try(ward, now_ms, lambda ward: keeper.act(ward, b.FOR_EVICTED, now_ms))
        self._evict_at_ms = self._scan_at_ms
        if self._resting and self._is_crowded():
            self._evict_at_ms = min(self._scan_at_ms, now_ms + keeper.wait_ms(now_ms))

    def _tell(self, occurrence: Occurrence) -> None:
        self._watches.pop(occurrence.token, None)
        self._queue.put(occurrence)

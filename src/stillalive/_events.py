"""What a Guard tells, and the threads that tell it.

The watcher's own thread never knows Python: it puts what happened into a
bounded queue and goes on. A daemon thread takes it from there, ends watches
and logs. Callbacks have a second one, which is there once there is something
to call: a callback that takes long delays other callbacks, but nobody who
waits for a watch, whoever's that is. One that raises is logged and counted, and
stops nothing.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import TypeVar

from . import _backend as b
from ._values import plain

__all__ = [
    "Dispatcher",
    "LivenessEvent",
    "OnEvent",
    "Subscriber",
    "Told",
    "check_callback",
    "event_of",
    "logger",
    "quietly",
]

logger = logging.getLogger("stillalive.guard")

_CLASSES = (None, "never_spoke", "unanswered", "answered", "sending")
_DEEDS = ("nothing", "shutdown", "abort")

_GREEN_PAUSE = 0.1
_AFTER_FAILURE = 0.1

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessEvent:
    """Hold why a connection was ended, or told, and what was known of it then.

    Times are seconds, sizes bytes; None is not told by this system. Immutable:
    threads may share it. ``str()`` gives addresses and reason in one line.
    """

    why: str
    """Which limit: ``never_spoke``, ``unanswered``, ``answered``, ``min_rate``, ``stalled``,
    ``evicted`` or ``drained`` of a Guard, ``idle``, ``reset`` or ``timed_out`` of a watch,
    ``silent`` of both."""
    connection_class: str | None
    """Who spoke last: ``never_spoke``, ``unanswered`` (the peer), ``answered`` (the owner) or
    ``sending`` (bytes are under way)."""
    done: str
    """``shutdown``, ``abort`` or ``nothing``."""
    dry_run: bool
    """True if ``done`` is only what would have been done."""
    local: Address | None
    peer: Address | None
    idle_for: float | None
    """How long the clock of the limit had run."""
    heard_ago: float | None
    """Since the last segment from the peer."""
    received_ago: float | None
    """Since the last payload from the peer."""
    sent_ago: float | None
    """Since the last payload to the peer."""
    bytes_received: int | None
    bytes_sent: int | None
    """Without what was sent again; Linux counts each time what this host itself has dropped."""
    unread: int | None
    """Bytes that the owner had not read."""
    unsent: int | None
    """Bytes that the peer had not taken."""
    errno: int | None
    """The error that the owner is told, None if unknown or none. Of ``timed_out`` None says that
    this system does not tell a reset from it."""
    fd: int
    """The descriptor's number at that time, for messages only: it may be another's now."""
    identity: int
    """The kernel's own number of the socket (SO_COOKIE), never used twice."""
    at: float
    """When, by the clock of ``time.monotonic()``."""

    @property
    def reason(self) -> str:
        """Say in plain words, with numbers, what happened and what was done."""
        untold = self.why == "timed_out" and self.errno is None
        text = (_RESET_OR_TIMEOUT if untold else _REASONS[self.why]).format(
            idle="some time" if self.idle_for is None else plain(self.idle_for) + " s",
            received=_number(self.bytes_received),
            unsent=_number(self.unsent),
        )
        if self.done == "nothing":
            return text
        deed = "shut down" if self.done == "shutdown" else "aborted"
        return f"{text}; would have been {deed} (dry run)" if self.dry_run else f"{text}; {deed}"

    def __str__(self) -> str:
        return f"{_written(self.peer)} -> {_written(self.local)}: {self.why}: {self.reason}"


OnEvent = Callable[[LivenessEvent], object]
Subscriber = Callable[[LivenessEvent | None], object]
"""Called with None after the last event, too."""

_REASONS = {
    "never_spoke": "not a byte either way for {idle}",
    "unanswered": "the last byte came {idle} ago, and nothing was sent since",
    "answered": "nothing came for {idle} after the last byte sent",
    "min_rate": "too slow for {idle}: {received} bytes in all, and no answer yet",
    "stalled": "the peer took none of {unsent} bytes for {idle}",
    "evicted": "idle for {idle} while there were too many",
    "drained": "idle for {idle} while the guard drains",
    "idle": "not a byte either way for {idle}",
    "silent": "asked, and not heard for {idle}",
    "reset": "the connection was reset",
    "timed_out": "the kernel gave the connection up",
}
_RESET_OR_TIMEOUT = "the connection was reset, or the kernel gave it up"


def _number(value: int | None) -> str:
    return "some" if value is None else str(value)


def _written(address: Address | None) -> str:
    if address is None:
        return "?"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(end: tuple[bytes, int, int] | None) -> Address | None:
    if end is None:
        return None
    packed, port, scope = end
    host = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return (f"{host}%{scope}" if scope else host), port


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000


def _known(number: int) -> int | None:
    return None if number < 0 else number


def event_of(seen: b.Occurrence) -> LivenessEvent:
    """Translate what a watcher tells."""
    return LivenessEvent(
        why=b.CAUSES[seen.cause],
        connection_class=_CLASSES[seen.klass],
        done=_DEEDS[seen.deed],
        dry_run=seen.dry_run,
        local=_address(seen.local),
        peer=_address(seen.peer),
        idle_for=_seconds(seen.clock_ms),
        heard_ago=_seconds(seen.heard_ms),
        received_ago=_seconds(seen.data_in_ms),
        sent_ago=_seconds(seen.data_out_ms),
        bytes_received=_known(seen.bytes_in),
        bytes_sent=_known(seen.bytes_out),
        unread=_known(seen.unread),
        unsent=_known(seen.unsent),
        errno=seen.err or None,
        fd=seen.fd,
        identity=seen.identity,
        at=seen.at_ms / 1000,
    )


class Journal:
    """Write what happened to the log, at most ten lines a second and one that sums up."""

    LINES = 10
    SECONDS = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = -math.inf
        self._written = self._more = 0

    def note(self, event: LivenessEvent) -> None:
        """Write a line, or count what is one too many."""
        if not logger.isEnabledFor(logging.INFO):
            return
        if self._clock() - self._since >= self.SECONDS:
            self.close()
            self._since, self._written = self._clock(), 0
        if self._written < self.LINES:
            self._written += 1
            logger.info("%s", event)
        else:
            self._more += 1

    def wait_ms(self) -> int:
        """Return when the line that sums up is due; -1 if there is nothing to sum up."""
        if not self._more:
            return -1
        return max(0, math.ceil((self._since + self.SECONDS - self._clock()) * 1000))

    def due(self) -> None:
        """Sum up if it is time to."""
        if self._more and self._clock() - self._since >= self.SECONDS:
            self.close()

    def close(self) -> None:
        """Sum up."""
        more, self._more = self._more, 0
        if more:
            logger.info("and %d more connections, each as its event says", more)


Event = TypeVar("Event", LivenessEvent, LivenessEvent | None)
Told = tuple[LivenessEvent, tuple[OnEvent, ...]]
"""What is to be logged, and the callbacks to be told."""
Deliver = Callable[[b.Occurrence], Told | None]


def _threads_are_green() -> bool:
    """Tell whether gevent or eventlet has made greenlets of threads.

    They share one thread, which must not wait where the library cannot see it.
    """
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


class Caller:
    """Call back in a daemon thread of its own, one call at a time."""

    def __init__(self) -> None:
        self.errors = 0
        """Callbacks that have raised."""
        self.retired = False
        self._calls: queue.SimpleQueue[tuple[OnEvent, LivenessEvent] | None]
        self._calls = queue.SimpleQueue()
        self._green = _threads_are_green()
        self._thread: threading.Thread | None = None

    def waiting(self) -> int:
        return self._calls.qsize()

    def put(self, callback: OnEvent, event: LivenessEvent) -> None:
        """Have it called; does not wait for it, as far as threads are threads."""
        if self._thread is None:
            if not self._green and _threads_are_green():
                # Patched since: a greenlet that is made here would never run.
                self.errors += not quietly(callback, event)
                return
            self._thread = threading.Thread(
                target=self._run, name="stillalive-callbacks", daemon=True
            )
            self._thread.start()
        self._calls.put((callback, event))

    def end(self) -> None:
        """Take no more."""
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Wait until everything is called, unless a callback is what asks."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not quietly(*call):
                self.errors += 1
            del call  # or it would keep what it has called, until the next
            if self.retired:
                return


class Dispatcher:
    """Take what a watcher tells, and hand it on, in a daemon thread.

    `deliver` is called with one occurrence at a time.
    """

    _BATCH = 64
    ROOM = 4096
    """Of what a Guard has found: so much waits for callbacks at most."""

    def __init__(self, watcher: b.WatcherLike, deliver: Deliver) -> None:
        self.watcher = watcher
        self.dropped = 0
        self._green = _threads_are_green()
        self._caller = Caller()
        self._journal = Journal()
        # The thread alone holds `deliver`, and drops it at its end: no circle
        # keeps a watcher's descriptors until the garbage is collected.
        self._thread = threading.Thread(
            target=self._run, args=(deliver,), name="stillalive-events", daemon=True
        )

    @property
    def errors(self) -> int:
        return self._caller.errors

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until everything is told, but not for the thread that asks."""
        if self._thread is threading.current_thread():
            return  # callbacks end after it
        deadline = time.monotonic() + seconds
        self._thread.join(seconds)
        self._caller.join(max(0.0, deadline - time.monotonic()))

    def retire(self) -> None:
        """Do no more in a forked child, where the watcher's thread is not."""
        self._caller.retired = True

    def _run(self, deliver: Deliver) -> None:
        while True:
            try:
                found = self._take()
            except Exception as failure:  # out of memory
                _complain(failure, "taking from %r", self.watcher)
                time.sleep(_AFTER_FAILURE)
                continue
            if found is None:
                break
            for seen in found:
                try:
                    self._tell(seen, deliver(seen))
                except BaseException as failure:  # the thread serves other connections, too
                    _complain(failure, "telling of fd %d", seen.fd)
            self._journal.due()
        self._journal.close()
        self._caller.end()

    def _take(self) -> list[b.Occurrence] | None:
        if not self._green:
            return self.watcher.take(self._BATCH, self._journal.wait_ms())
        found = self.watcher.take(self._BATCH, 0)
        if not found and found is not None:
            time.sleep(_GREEN_PAUSE)  # lets the other greenlets go on
        return found

    def _tell(self, seen: b.Occurrence, told: Told | None) -> None:
        if told is None:
            return
        event, callbacks = told
        self._journal.note(event)
        # There are no more events of watches than watches: they always have room.
        if callbacks and not seen.token and self._caller.waiting() >= self.ROOM:
            self.dropped += 1
            return
        for callback in callbacks:
            self._caller.put(callback, event)


def check_callback(name: str, value: object) -> None:
    """Raise TypeError naming `name` for what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name}={value!r}: must be callable")


def quietly(callback: Callable[[Event], object], event: Event) -> bool:
    """Call back; log what it raises, and return False then."""
    try:
        callback(event)
    except BaseException as failure:
        _complain(failure, "on_event=%r has raised", callback)
        return False
    return True


def _complain(failure: BaseException, what: str, value: object) -> None:
    # A handler, or the callback's repr, may raise, too.
    with contextlib.suppress(BaseException):
        logger.error(what, value, exc_info=failure)

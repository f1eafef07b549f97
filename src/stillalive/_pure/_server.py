"""Accept, read, write and end connections in one thread."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections import deque
from collections.abc import Callable
from selectors import SelectorKey

from .. import _backend as b
from ._engine import Engine, Handle
from ._linger import Linger
from ._system import system
from ._transport import Transport

__all__ = ["ServerEngine"]

_ACCEPTS = 64
"""Of one round, so that those who are there get their turn."""

_REST_SECONDS = 0.1
_REASONS = ("peer", "owner", "error", "idle", "shed", "age", "shutdown")
_COUNTED = "accepted shed refused aborted_accepts untuned".split()

_ABORTED = frozenset(
    getattr(errno, name)
    for name in """
        ECONNABORTED ECONNRESET EPROTO EPERM ETIMEDOUT ENETDOWN ENETUNREACH EHOSTUNREACH
        ENOPROTOOPT EOPNOTSUPP EHOSTDOWN ENONET
    """.split()
    if hasattr(errno, name)
)
"""The connection was broken before we had it; the next may be whole."""


class ServerEngine:
    """See ``stillalive.server.Server``. Arguments come checked."""

    def __init__(
        self,
        listener: int,
        factory: Callable[[], object],
        on_error: Callable[[BaseException, object], None],
        idle_timeout: float | None,
        max_age: float | None,
        max_connections: int | None,
        values: b.Values | None,
        mechanism: str | None,
    ) -> None:
        self._factory, self.on_error = factory, on_error
        self._idle_timeout, self.max_age = idle_timeout, max_age
        self._max_connections = max_connections
        self._policy = None if values is None else system.Policy(values)
        self.engine = Engine(mechanism)
        self.connections: dict[Transport, None] = {}
        """The oldest first."""
        self.lingering: dict[Linger, None] = {}
        """The oldest first."""
        self.lost: deque[Transport] = deque()
        """Ended, and not told yet."""
        self.unsettled: deque[Transport] = deque()
        """Something may have to be done once the callback is over."""
        self.received = self.sent = self.buffered = 0
        self._stats = dict.fromkeys(_COUNTED, 0) | {f"ended_{reason}": 0 for reason in _REASONS}
        self._batch: deque[tuple[SelectorKey, int]] = deque()
        self._requests: deque[int | None] = deque()
        """Times until which `close` waits; any thread appends."""
        self._closing = False
        self._give_up_at: int | None = None
        self._give_up: Handle | None = None
        self._rest: Handle | None = None
        self._exhausted = self._full = False
        self._listening: Handle = self.engine.add(
            SelectorKey(listener, listener, b.READ, self._accept), None
        )
        self._listener = socket.socket(fileno=listener)  # last: from here on it is ours
        with contextlib.suppress(OSError):  # accepted sockets inherit it
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Serve until a request to close has been fulfilled."""
        while True:
            self._settle()
            while self._requests:
                self._start_closing(self._requests[0])
                self._requests.popleft()
                self._settle()
            self._work()
            if self._requests:
                continue
            if self._closing and not self.connections and not self.lingering:
                break
            self._batch.extend(self.engine.select())
        self.engine.close()

    def close(self, timeout: float | None) -> None:
        """Ask `run` to come to its end; any thread, and signal handlers."""
        until = None if timeout is None else self.engine.clock.now() + round(timeout * 1e9)
        self._requests.append(until)
        self.engine.wake()

    def stats(self) -> dict[str, int]:
        """Return the counters, with the names that the compiled backend has."""
        stats = self._stats
        return {
            **{name: stats[name] for name in _COUNTED},
            "open": len(self.connections),
            "lingering": len(self.lingering),
            "received": self.received,
            "sent": self.sent,
            "buffered": self.buffered,
            **{f"ended_{reason}": stats[f"ended_{reason}"] for reason in _REASONS},
        }

    def freeze(self, tick: int) -> None:
        """Stop the clock, for tests."""
        self.engine.freeze(tick)

    def advance(self, seconds: float) -> None:
        """Move the frozen clock, for tests; from a callback, or before `run`."""
        self.engine.advance(seconds)

    # What transports call.

    def forget(self, transport: Transport, reason: str) -> None:
        """Count a connection out."""
        self.connections.pop(transport, None)
        self._stats[f"ended_{reason}"] += 1
        self.has_room()

    def has_room(self) -> None:
        """Listen again, if there were too many who could not be sent away."""
        if self._full:
            self._full = False
            self._listen()

    # The loop. An event, and one that is lost, leaves its queue only after it
    # has been dealt with: an interrupt in between must not lose it.

    def _work(self) -> None:
        self._settle()
        batch = self._batch
        while batch:
            key, mask = batch[0]
            key.data(mask)
            batch.popleft()
            if self.lost or self.unsettled:
                self._settle()

    def _settle(self) -> None:
        while self.unsettled:
            self.unsettled[0].settle()
            self.unsettled.popleft()
        while self.lost:
            self.lost[0].tell()
            self.lost.popleft()

    # Accepting.

    def _accept(self, mask: int) -> None:
        for _ in range(_ACCEPTS):
            if self._closing:
                return
            if not self._make_room():
                self._full = True
                self._listen()
                return
            try:
                sock, peername = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _ABORTED:
                    self._stats["aborted_accepts"] += 1
                elif self.lingering:
                    next(iter(self.lingering)).end()
                else:
                    self._rest_a_while(error)
                    return
                continue
            self._exhausted = False
            sock.setblocking(False)
            if self._policy is not None:
                try:
                    self._policy.apply(sock.fileno())
                except OSError:
                    self._stats["untuned"] += 1
            self._begin(sock, peername)
            self._settle()
            if self._is_full():  # whether one more waits, the system must say first
                return

    def _begin(self, sock: socket.socket, peername: object) -> None:
        try:
            transport = Transport(self, sock, peername, self._idle_timeout)
        except OSError as error:
            sock.close()
            self._rest_a_while(error)
            return
        self._stats["accepted"] += 1
        self.connections[transport] = None
        age = self.max_age
        try:
            protocol = self._factory()
            transport.begin(protocol, None if age is None else age * random.uniform(0.9, 1))
        except (KeyboardInterrupt, SystemExit):
            if transport.get_protocol() is None:
                transport.abort()
            raise
        except BaseException as failure:
            self.on_error(failure, None)
            transport.fail(failure)

    def _is_full(self) -> bool:
        most = self._max_connections
        return most is not None and len(self.connections) + len(self.lingering) >= most

    def _make_room(self) -> bool:
        """End those that linger, or the one that has been idle for longest, if it is full."""
        while self._is_full() and self.lingering:
            next(iter(self.lingering)).end()
        if not self._is_full():
            return True
        resting = [t for t in self.connections if t.resting_since is not None]
        if not resting:
            return False
        min(resting, key=lambda transport: transport.resting_since or 0).shed()
        self._stats["shed"] += 1
        self._settle()
        return True

    def _rest_a_while(self, error: OSError) -> None:
        """Accept nothing for a moment: the system has nothing to give."""
        self._stats["refused"] += 1
        if self._rest is None:
            self._rest = self.engine.timer(_REST_SECONDS, self._rested)
        self._listen()
        if not self._exhausted:
            self._exhausted = True
            self.on_error(error, None)

    def _rested(self, mask: int) -> None:
        if self._rest is not None:
            self.engine.remove(self._rest)
            self._rest = None
            self._listen()

    def _listen(self) -> None:
        """Ask the system for those who wait, or not."""
        if self._closing:
            return
        events = 0 if self._full or self._rest is not None else b.READ
        key = self._listening.key
        if key.events != events:
            self.engine.modify(self._listening, key._replace(events=events))

    # Closing.

    def _start_closing(self, until: int | None) -> None:
        if not self._closing:
            self._closing = True
            if self._rest is not None:
                self.engine.remove(self._rest)
                self._rest = None
            self.engine.remove(self._listening)
            self._listener.close()
        left = None if until is None else until - self.engine.clock.now()
        if left is not None and left <= 0:  # before those that owe nothing part in peace
            self._end_all()
        for transport in list(self.connections):
            transport.finish_soon("shutdown")
        if until is None or (self._give_up_at is not None and self._give_up_at <= until):
            return
        self._give_up_at = until
        if self._give_up is not None:
            self.engine.remove(self._give_up)
            self._give_up = None
        if left is not None and left > 0:
            self._give_up = self.engine.timer(left / 1e9, self._end_all)

    def _end_all(self, mask: int = 0) -> None:
        for transport in list(self.connections):
            transport.give_up("shutdown")
        for linger in list(self.lingering):
            linger.end()

"""Set user timeout and count once the connection has proved itself.

Under TCP_USER_TIMEOUT one lost probe ends a connection that has been idle for
longer than it, and probes that went unanswered before, a prober's too, count
against a new TCP_KEEPCNT. So `tune` leaves the one off and the other high on
such a connection, and they are set here after the peer has answered: a
segment has arrived since the tuning. If none comes for as long as the probes
themselves need to decide, they are set all the same.

On macOS and the BSDs only the count waits, because there a small one ends a
connection that has been silent for long without any probe (`tuning` has the
reasons). Whether the peer has answered is seen where the kernel tells when it
has last heard of it. A clock that starts again every 71 minutes is compared
with what it would show had nothing come: less alone proves nothing. macOS and
NetBSD tell nothing: there the count is set when the probes have had their time, and
an answer to any of them has set the silence back by then.

One daemon thread, started when there is work and ended when there is none. It
keeps no descriptor: each look duplicates the owner's, verifies that it is
still the same socket, acts on the duplicate and closes it.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import threading
import time
from dataclasses import dataclass, field

from . import _asking, _impl, _systems
from . import _backend as b
from ._sockets import close as _close
from ._sockets import duplicate as _duplicate

__all__ = ["add", "forget", "heard_ms", "identity_of", "target"]

_FIRST_LOOK = 0.01
_LONGEST_PAUSE = 0.5
_WRAP_MS = 2**32 / 1000
_WRAP_SLACK_MS = 500.0
"""How far two looks at a clock that wraps may differ without a segment between them."""

_clock = time.monotonic
_lock = threading.Lock()
_wake = threading.Condition(_lock)
_heap: list[_Entry] = []
_by_identity: dict[int, _Entry] = {}
_thread: threading.Thread | None = None


@dataclass(order=True)
class _Entry:
    due: float
    identity: int
    fd: int = field(compare=False)
    values: b.Values = field(compare=False)
    began: float = field(compare=False)
    patience: float = field(compare=False)
    pause: float = field(compare=False, default=_FIRST_LOOK)
    silent_ms: int = field(compare=False, default=-1)


def heard_ms(info: b.Info) -> int:
    """Return how long ago the last segment came; -1 if this system does not tell."""
    told = [ms for ms in (info.last_ack_recv_ms, info.last_data_recv_ms) if ms >= 0]
    return min(told, default=-1)


def identity_of(fd: int) -> int:
    """Return the socket's identity; 0 where it has none before it is connected."""
    try:
        return _impl.backend.identify(fd)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return 0


def add(
    fd: int, identity: int, values: b.Values, patience: float, info: b.Info | None = None
) -> None:
    """Set the values of a socket after an answer, or after `patience` seconds.

    `info` is what the kernel said just before the tuning; without it an answer is not seen where
    the clock wraps.
    """
    global _thread
    now = _clock()
    entry = _Entry(now + _FIRST_LOOK, identity, fd, values, now, patience)
    entry.silent_ms = -1 if info is None else heard_ms(info)
    with _wake:
        _by_identity[identity] = entry
        heapq.heappush(_heap, entry)
        if _thread is None:
            _thread = threading.Thread(target=_run, name="stillalive-pending", daemon=True)
            _thread.start()
        else:
            _wake.notify()


def forget(identity: int) -> None:
    """Drop what is pending for a socket: it has been tuned anew."""
    if identity not in _by_identity:
        return
    with _lock:
        _by_identity.pop(identity, None)


def target(fd: int) -> b.Values | None:
    """Return the values that are pending for a socket, or None."""
    if not _by_identity:
        return None
    entry = _by_identity.get(identity_of(fd))
    return None if entry is None else entry.values


def _run() -> None:
    global _thread
    while True:
        with _wake:
            while _heap and _by_identity.get(_heap[0].identity) is not _heap[0]:
                heapq.heappop(_heap)  # forgotten or replaced
            if not _heap:
                _thread = None
                return
            wait = _heap[0].due - _clock()
            if wait > 0:
                _wake.wait(wait)
                continue
            entry = heapq.heappop(_heap)
        try:
            done = _look(entry)
        except Exception:  # the thread serves other sockets too
            logging.getLogger("stillalive").exception("completing tune() of fd %d", entry.fd)
            done = True
        with _lock:
            if _by_identity.get(entry.identity) is not entry:
                continue
            if done:
                del _by_identity[entry.identity]
            else:
                entry.pause = min(entry.pause * 2, _LONGEST_PAUSE)
                entry.due = _clock() + entry.pause
                heapq.heappush(_heap, entry)


def _look(entry: _Entry) -> bool:
    """Return True when nothing is left to do for this socket."""
    try:
        fd = _duplicate(entry.fd)
    except OSError as error:
        return error.errno != errno.EMFILE
    try:
        if _impl.backend.identify(fd) != entry.identity:
            return True
        info = b.Info(*_impl.backend.tcp_info(fd))
        if info.state == b.CLOSE:
            return True
        waited = _clock() - entry.began
        if waited < entry.patience and not _answered(entry, heard_ms(info), waited * 1000):
            return False
        with _asking.owned(fd):
            # A tune() that came meanwhile has the last word.
            if _by_identity.get(entry.identity) is entry:
                _impl.backend.apply_options(fd, entry.values)
        return True
    except OSError:  # it ended between two calls: nothing left to protect
        return True
    finally:
        _close(fd)


def _answered(entry: _Entry, heard: int, waited_ms: float) -> bool:
    """Tell whether a segment has arrived since the tuning."""
    if heard < 0:
        return False
    if not _systems.system().ages_wrap:
        return heard < waited_ms
    if entry.silent_ms < 0:
        return False
    off = (entry.silent_ms + waited_ms - heard) % _WRAP_MS
    return min(off, _WRAP_MS - off) > _WRAP_SLACK_MS


def _after_fork() -> None:
    # The socket is shared with the parent, whose thread completes it.
    global _lock, _wake, _thread
    _lock = threading.Lock()
    _wake = threading.Condition(_lock)
    _heap.clear()
    _by_identity.clear()
    _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

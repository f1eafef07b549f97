"""Set user timeout and count once the connection has proved itself.

Under TCP_USER_TIMEOUT one lost probe ends a connection that has been idle for
longer than it, and probes that went unanswered before, a prober's too, count
against a new TCP_KEEPCNT. So `tune` leaves the one off and the other high on
such a connection, and they are set here after the peer has answered: a
segment has arrived since the tuning. If none comes for as long as the probes
themselves need to decide, they are set all the same.

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

from . import _asking, _impl
from . import _backend as b

__all__ = ["add", "forget", "target"]

_FIRST_LOOK = 0.01
_LONGEST_PAUSE = 0.5

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


def add(fd: int, identity: int, values: b.Values, patience: float) -> None:
    """Set the values of a socket after an answer, or after `patience` seconds."""
    global _thread
    now = _clock()
    entry = _Entry(now + _FIRST_LOOK, identity, fd, values, now, patience)
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
    entry = _by_identity.get(_impl.backend.identify(fd))
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
        fd = os.dup(entry.fd)
    except OSError as error:
        return error.errno != errno.EMFILE
    try:
        if _impl.backend.identify(fd) != entry.identity:
            return True
        info = b.Info(*_impl.backend.tcp_info(fd))
        if info.state == b.CLOSE:
            return True
        waited = _clock() - entry.began
        heard = min(info.last_ack_recv_ms, info.last_data_recv_ms) / 1000
        if heard >= waited and waited < entry.patience:
            return False
        with _asking.owned(fd):
            # A tune() that came meanwhile has the last word.
            if _by_identity.get(entry.identity) is entry:
                _impl.backend.apply_options(fd, entry.values)
        return True
    except OSError:  # it ended between two calls: nothing left to protect
        return True
    finally:
        os.close(fd)


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

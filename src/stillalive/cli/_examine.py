"""Two ways to look at the server's sockets: with this package, and as plain code does."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import Protocol

from .._host import options_by_number
from ..liveness import Liveness, State, aprobe, check
from ..policy import KeepAlive
from ..tuning import describe, tune

__all__ = ["Examiner", "Guarded", "Plain", "Verdict", "options_of"]

OPTION_NAMES = ("enabled", "idle", "interval", "count", "user_timeout", "rto_max")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about a connection; `seconds` is how long that took."""

    state: State
    reason: str
    seconds: float


class Examiner(Protocol):
    """What the demo needs to know about the sockets of a server."""

    guards: bool

    def prepare(self, listener: socket.socket, within: float) -> KeepAlive | None:
        """Do to the listener what has to be done, once."""
        ...

    def tuned(self, sock: socket.socket) -> bool:
        """Tell whether the kernel will give up a vanished peer of this socket in time."""
        ...

    def heard_ago(self, sock: socket.socket) -> float:
        """Return the seconds since the peer's last sign of life, as far as known."""
        ...

    def look(self, sock: socket.socket) -> Verdict:
        """Say what is known now."""
        ...

    async def ask(self, sock: socket.socket, known: Verdict) -> Verdict:
        """Find out, if there is more to find out than is known."""
        ...


class Guarded:
    """tune, describe, check and aprobe."""

    guards = True

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._within = 0.0
        self._held: tuple[object, ...] = ()

    def prepare(self, listener: socket.socket, within: float) -> KeepAlive:
        held = tune(listener, detect_within=within)
        self._within = within
        self._held = _six(listener)
        return held

    def tuned(self, sock: socket.socket) -> bool:
        found = describe(sock)
        bounds = (found.detects_idle_within, found.detects_in_flight_within)
        in_time = all(bound is not None and bound <= self._within for bound in bounds)
        return in_time and _six(sock) == self._held

    def heard_ago(self, sock: socket.socket) -> float:
        return describe(sock).tcp_info.heard_ago or 0.0

    def look(self, sock: socket.socket) -> Verdict:
        began = time.perf_counter()
        return _verdict(check(sock), began)

    async def ask(self, sock: socket.socket, known: Verdict) -> Verdict:
        began = time.perf_counter()
        return _verdict(await aprobe(sock, timeout=self._timeout), began)


class Plain:
    """poll and recv(MSG_PEEK): how pools and servers check without this package."""

    guards = False

    def prepare(self, listener: socket.socket, within: float) -> None:
        return None

    def tuned(self, sock: socket.socket) -> bool:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0

    def heard_ago(self, sock: socket.socket) -> float:
        return 0.0

    def look(self, sock: socket.socket) -> Verdict:
        began = time.perf_counter()
        state, reason = _peek(sock)
        return Verdict(state, reason, time.perf_counter() - began)

    async def ask(self, sock: socket.socket, known: Verdict) -> Verdict:
        # Once more would be wrong: the first look has taken a pending error away.
        return known


def options_of(sock: socket.socket) -> dict[str, int]:
    """Read the options with getsockopt, past this package; a missing one is left out."""
    found = {}
    for name, pair in zip(OPTION_NAMES, options_by_number(), strict=True):
        if pair is None:
            continue
        try:
            found[name] = sock.getsockopt(*pair)
        except OSError as error:
            if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                raise
    return found


def _six(sock: socket.socket) -> tuple[object, ...]:
    found = describe(sock)
    return tuple(getattr(found, name) for name in OPTION_NAMES)


def _verdict(found: Liveness, began: float) -> Verdict:
    return Verdict(found.state, found.reason, time.perf_counter() - began)


def _peek(sock: socket.socket) -> tuple[State, str]:
    if sys.platform == "win32":
        return State.UNKNOWN, "no poll() here"
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if not poller.poll(0):
        return State.OPEN, "not readable"
    try:
        data = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return State.OPEN, "not readable"
    except OSError as error:
        timed_out = error.errno == errno.ETIMEDOUT
        return State.DEAD if timed_out else State.RESET, os.strerror(error.errno or 0)
    if data:
        return State.OPEN, "readable, and there is data"
    return State.PEER_CLOSED, "readable, and the end of the stream"

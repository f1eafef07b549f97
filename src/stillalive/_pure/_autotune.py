"""Tune sockets when they are bound or connected: the audit hook in Python.

What may be touched and what not, and why, is told in ext/core/autotune.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import weakref
from collections import deque
from typing import NamedTuple

from .. import _backend as b
from .._backend import Values
from ._kernel import as_values
from ._system import system

_BOUND = 64
"""Of so many sockets bound lately it is known what they were before."""
_SELF = "stillalive.autotune"
_BIND, _CONNECT = "socket.bind", "socket.connect"

_rules: tuple[Rule, ...] = ()
"""The newest first; replaced as a whole, because a hook may be reading it."""
_seen = False
_lock = threading.RLock()
"""Of the counters and of `_bound`. A signal handler may bind a socket while it is held."""


class Rule:
    """What is done with sockets when they are bound or connected."""

    __slots__ = ("_given_back", "_tuned", "connects", "listens", "values")

    def __init__(self, values: Values, listeners: bool, outgoing: bool) -> None:
        global _rules
        self.values = values
        self.listens = listeners
        self.connects = outgoing
        self._tuned = self._given_back = 0
        _rules = (self, *_rules)

    def end(self) -> None:
        global _rules
        _rules = tuple(rule for rule in _rules if rule is not self)

    def stats(self) -> dict[str, int]:
        return {"tuned": self._tuned, "given_back": self._given_back}

    def count(self, *, given_back: bool = False) -> None:
        with _lock:
            if given_back:
                self._given_back += 1
            else:
                self._tuned += 1


class _Bound(NamedTuple):
    identity: object
    rule: Rule
    before: Values
    after: Values
    """As it can be read back."""


_bound: deque[_Bound] = deque(maxlen=_BOUND)


def audit_install() -> bool:
    global _seen
    _seen = False
    sys.audit(_SELF)
    if not _seen:
        sys.addaudithook(_hook)
        sys.audit(_SELF)
    return _seen


def _hook(event: str, args: tuple[object, ...]) -> None:
    global _seen
    if event != _BIND and event != _CONNECT:
        if event == _SELF:
            _seen = True
        return
    if not _rules:
        return
    with contextlib.suppress(Exception):  # whatever a socket answers, the audited call goes on
        _look(event, args)


def _look(event: str, args: tuple[object, ...]) -> None:
    rule = next((r for r in _rules if (r.listens if event == _BIND else r.connects)), None)
    if rule is None and (event == _BIND or not _bound):
        return
    # AF_UNIX has text for an address; what is no socket comes from who raises
    # events of this name himself.
    sock, address = args[:2]
    if not isinstance(address, tuple) or isinstance(sock, int):
        return
    fd = sock.fileno()  # type: ignore[attr-defined]
    if event == _CONNECT and _bound and _undo_bind(sock, fd, rule):
        return
    if rule is not None:
        _tune(sock, fd, rule, event)


def _identity(sock: object, fd: int) -> object:
    """Return what still names the socket once it is bound: an address does not."""
    return system.identify(fd) if sys.platform == "linux" else weakref.ref(sock)


def _undo_bind(sock: object, fd: int, now: Rule | None) -> bool:
    """Return True when it was bound under the very rule that now applies."""
    identity = _identity(sock, fd)
    with _lock:
        entry = next((one for one in list(_bound) if one.identity == identity), None)
        if entry is None:
            return False
        _bound.remove(entry)
    if entry.rule is now:
        return True
    if system.read_options(fd) == entry.after:
        _put_back(fd, entry.before, entry.after)
        entry.rule.count(given_back=True)
    return False


def _put_back(fd: int, before: Values, after: Values) -> None:
    for option, value in enumerate(before):
        if value != after[option] or value == b.UNREADABLE:
            system.put_back(fd, option, value)


def _tune(sock: object, fd: int, rule: Rule, event: str) -> None:
    held = system.read_options(fd)  # raises for everything but TCP
    if held[b.ENABLED] != 0 or held[b.USER_TIMEOUT] > 0:
        return
    if not _is_unconnected(fd) or not _is_fresh(held):
        return
    wanted = list(rule.values)
    for option, value in enumerate(held):
        if value == b.LEAVE:  # MPTCP has no user timeout
            wanted[option] = b.LEAVE
    after = system.apply_options(fd, as_values(wanted))
    if event == _BIND:
        both = zip(held, after, strict=True)
        shown = as_values([h if h == b.UNREADABLE else a for h, a in both])
        entry = _Bound(_identity(sock, fd), rule, held, shown)
        with _lock:
            _bound.append(entry)
    rule.count()


def _is_unconnected(fd: int) -> bool:
    try:
        return system.tcp_info(fd).state == b.CLOSE
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # what a system says that tells no states
            raise
        return True


def _is_fresh(held: Values) -> bool:
    """Compare with a socket of this moment: the system's defaults may change."""
    with _untouched() as sock:
        usual = system.read_options(sock.fileno())
    return all(h == u for h, u in zip(held, usual, strict=True) if b.LEAVE not in (h, u))


def _untouched() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:  # a host without IPv4
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""Tune every socket of this process when it is bound or connected, whoever makes it."""

from __future__ import annotations

import os
import threading

from . import _impl
from ._errors import StillAliveError
from ._values import as_flag
from .policy import KeepAlive

__all__ = ["Autotune", "autotune"]

_lock = threading.RLock()  # a signal handler may come in again


class Autotune:
    """One policy in force for the sockets of this process; :func:`autotune` makes it.

    It stays in force until :meth:`disable`, also when nobody holds this
    object. Threads: any.
    """

    def __init__(self, policy: KeepAlive, *, listeners: bool, outgoing: bool) -> None:
        self._policy = policy
        self._listeners = listeners
        self._outgoing = outgoing
        with _lock:  # two at once would install two hooks, or each think that it was refused
            if not _impl.backend.audit_install():
                raise StillAliveError("autotune: an audit hook of this process refuses another one")
            self._rule = _impl.backend.Rule(policy.values(), listeners, outgoing)
            self._enabled = True

    def disable(self) -> None:
        """Tune nothing more; what is tuned stays so. It may be called twice."""
        with _lock:
            self._enabled = False
            self._rule.end()

    @property
    def enabled(self) -> bool:
        """Whether it is in force."""
        return self._enabled

    @property
    def policy(self) -> KeepAlive:
        """What sockets are given."""
        return self._policy

    @property
    def listeners(self) -> bool:
        """Whether sockets are tuned that are bound."""
        return self._listeners

    @property
    def outgoing(self) -> bool:
        """Whether sockets are tuned that are connected."""
        return self._outgoing

    def stats(self) -> dict[str, int]:
        """Count sockets: ``tuned``, and of those ``given_back`` because they connected."""
        return self._rule.stats()

    def __repr__(self) -> str:
        state = "in force" if self._enabled else "disabled"
        return (
            f"<Autotune {self._policy!r} listeners={self._listeners} outgoing={self._outgoing}, "
            f"{state}, {self.stats()['tuned']} tuned>"
        )


def autotune(policy: KeepAlive, *, listeners: bool = True, outgoing: bool = False) -> Autotune:
    """Tune the sockets that this process binds or connects from now on, whoever makes them.

    :param policy: a :class:`KeepAlive`, or ``KeepAlive.plan(...)``.
    :param listeners: those that are bound; what they accept inherits the
        values, so that it costs nothing per connection. Default True.
    :param outgoing: those that are connected. Default False.

    It listens to the interpreter's audit events ``socket.bind`` and
    ``socket.connect``, which come before the call. It therefore reaches what
    makes its sockets through Python's ``socket`` module, and nothing else:
    not uvloop's outgoing connections, not libpq, not gRPC, not servers
    written in Rust. Sockets that exist already are not touched: use
    :func:`tune` for these.

    Only TCP, and only sockets as the system hands them out: one with
    keepalive on, a user timeout, or other times than a fresh one's is its
    owner's. A socket that is bound and then connects, without `outgoing`,
    gets its values back (the last 64 bound ones are known). What a socket
    cannot hold is left out. Errors never reach the audited call.

    Several may be in force: for each socket the newest that applies counts.
    An audit hook cannot be taken out; after ``disable()`` it does nothing.
    One is installed however often this is called; each call keeps 100 bytes.
    Forked children keep it.

    What accepted sockets do not inherit (macOS: idle and user_timeout;
    FreeBSD and Windows: user_timeout; NetBSD: all but keepalive itself) they
    lack: an audit hook sees no accept. Where :func:`tune` has nothing to set:
    NotSupportedError. Threads: any. Errors:
    TypeError, ValueError for a policy that sets nothing, or nothing to tune;
    NotSupportedError; StillAliveError if another audit hook forbids it.
    Source: PEP 578, tcp(7).

    >>> handle = autotune(KeepAlive(idle=60, interval=10, count=4))
    >>> with socket.create_server(("127.0.0.1", 0)) as listener:
    ...     describe(listener).idle
    60
    >>> handle.disable()
    """
    if not isinstance(policy, KeepAlive):
        raise TypeError(f"policy={policy!r}: must be a KeepAlive")
    if not policy.enabled:
        raise ValueError(f"policy={policy!r}: it must set something (keepalive is off by default)")
    as_flag("listeners", listeners)
    as_flag("outgoing", outgoing)
    if not listeners and not outgoing:
        raise ValueError("listeners=False, outgoing=False: nothing would be tuned")
    policy.socket_options()  # a value out of range, or an option that is missing here
    return Autotune(policy, listeners=listeners, outgoing=outgoing)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

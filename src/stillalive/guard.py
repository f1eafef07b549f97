"""End the connections of servers that have no deadline for them, and watch single ones.

A ``Guard`` finds the connections that this process has accepted and looks at
the kernel's counters of each when it can be due; the server's own path pays
nothing. ``watch`` does the same for one socket, on a Guard without limits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal, Self

from . import _backend as b
from . import _guarding, _impl, _limits, _seeing
from ._events import LivenessEvent, OnEvent, Subscriber, check_callback, logger
from ._guarding import NO_STATS, Run
from ._pacing import DetectsWithin
from ._sockets import HasFileno, SocketLike, as_fd
from ._values import Seconds, as_seconds
from ._watching import Watch, Wish

__all__ = ["DetectsWithin", "Guard", "LivenessEvent", "Watch", "watch"]

Address = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
Action = Literal["abort", "shutdown"]

_SHORTEST_IDLE = 0.1
_JOIN_SECONDS = 5.0
_EXIT_SECONDS = 1.0
_DRAIN_LOOK = 0.05
_DRAIN_PASSES = 2
_NOW = dict.fromkeys(("tracked", "watched", "held"), 0)

_started: set[Guard] = set()
_default_guard: Guard | None = None


def watch(
    sock: SocketLike,
    *,
    detect_within: Seconds | None = None,
    idle_timeout: Seconds | None = None,
    action: Action | None = "abort",
    on_event: OnEvent | None = None,
) -> Watch:
    """Notice it when the peer of a connection vanishes, or stays idle, and end the connection.

    :param sock: TCP socket: socket, TLS socket, descriptor, object with
        fileno(), asyncio or uvloop transport, StreamWriter; connected or not
        yet (the clock starts with the connection), or listening.
    :param detect_within: seconds, at least 4, in which a peer that has
        vanished is told, whatever the connection does: idle, bytes in flight,
        first written to later, a shut window, one half closed. A live peer is
        left alone: a slow reader, a lost packet, a long round trip, an outage
        of a third of it. Asks about every quarter of it.
    :param idle_timeout: seconds, at least 0.1, without a byte of payload in
        either direction, counted from now on.
    :param action: ``"abort"`` (the default): blocked and later calls of the
        owner get an error, never what looks like a complete end;
        ``"shutdown"``: they read an end; None: it is only told. NetBSD and
        OpenBSD have no way to abort: name one of the other two there.
    :param on_event: called with the :class:`LivenessEvent`, in a thread of
        the Guard: keep it short, and go over to your loop by
        ``call_soon_threadsafe``.

    Only what is final is an event: a silent peer, a reset, a timeout of the
    kernel, the idle limit. An end of stream (FIN) is not. ``idle_timeout``
    cannot tell an idle client from a WebSocket or a stream of server-sent
    events that has nothing to say.

    Never early; ``idle_timeout`` late by at most a fortieth of it (at least
    0.1 s, at most 1 s), ``detect_within`` never. Meanwhile the socket has
    keepalive values of the watch's and no user timeout; its own come back at
    the end, except what :func:`tune` sets in the meantime. A shorter idle or
    interval of its own stays. The socket is not kept alive: closing it
    cancels. On a listening socket ``detect_within`` sets what accepted
    sockets inherit, so that the kernel alone gives up an idle dead peer in
    time; that Watch tells nothing.

    Linux: the bounds are those of :attr:`Watch.detects_within`; a shut window
    has one from 6.15 on. If a timer has backed off already when the
    watch begins, they hold from its next tick on. Before a correction of its
    own (gh-115627) CPython's ``ssl`` shows even a reset as an end, unless the
    socket was wrapped with ``suppress_ragged_eofs=False``. A forked child does
    not go on watching, the parent does. macOS and FreeBSD: see the manual's
    page on it. NetBSD, and OpenBSD as root: ``idle_timeout`` alone, and not with
    ``"abort"``. Windows (10 1709): an idle peer only, and ``idle_timeout`` not
    with ``"abort"``. Other systems: NotSupportedError.
    Threads: any. Errors: TypeError, ValueError naming the argument,
    NotSupportedError for UDP, AF_UNIX and MPTCP, OSError(EBADF) for a closed
    socket, ConnectionError for a connection that is over. Source: tcp(7),
    net/ipv4/tcp_timer.c.

    >>> client, server = tcp_pair()
    >>> watching = watch(client, idle_timeout=0.2, action="shutdown")
    >>> watching.wait(timeout=5).why
    'idle'
    """
    wish = _wish(detect_within, idle_timeout, action, on_event)
    return _default()._watch(sock, wish)


class Guard:
    """End connections that hold a server's resources and give nothing back.

    :param listeners: ``"all"`` (the default): whatever this process listens
        on, now or later, and has accepted; or the ports, or the listening
        sockets, that count (up to 64).
    :param never_spoke: seconds without a byte of payload either way since the
        connection was made. Innocent traffic that looks alike: a client that
        connects ahead of need (browsers and pools do), a protocol in which
        the server speaks first and is slow to.
    :param unanswered: seconds since the last byte of a peer that has got no
        byte since: half a request, a request trickling in slower than that.
        Innocent: a request that the server works on for so long; set it above
        the slowest answer. Uploads are not meant: each byte starts it anew.
    :param answered: seconds since the last byte from a peer that the server
        spoke to last: idle keep-alive. Innocent: server-sent events,
        WebSockets and long polls, where only the server speaks; and, with TLS
        1.3 or a fast network, a request that is worked on: not below `unanswered`.
    :param min_rate: bytes per second, int, that an unanswered peer must reach
        over 10 s or more. Innocent: WebSocket, HTTP/2 and MQTT, whose
        messages are small and far apart by nature; slow phones.
    :param stalled: seconds in which the peer took none of the bytes that wait
        for it. Innocent: a paused player or download, a consumer that works
        between reads.
    :param detect_within: seconds, at least 4, in which a vanished peer is
        found, as by :func:`watch`. The kernel's keepalive is set on
        connections that have a slower one, and stays. Innocent: none that is
        alive; a host that sleeps looks like a dead one.
    :param evict_above: connections, int; beyond so many those that were
        answered and have been idle for longest are ended. Innocent: the same
        as for `answered`, sooner.
    :param evict_idle: seconds, at least 0.1 (1 if not given): nobody who has
        been idle for less is evicted. Only with `evict_above`.
    :param exempt: addresses and networks of peers that are left alone (str or
        ``ipaddress``, up to 64): monitoring, load balancers.
    :param dry_run: tell what would be done, do nothing.
    :param max_closes_per_second: how many are ended in one second at most
        (100), so that a wrong limit cannot end all at once.
    :param on_event: called with a :class:`LivenessEvent` for each.

    Limits are seconds, int or float, from 1 to 4 million; None (the default)
    is no limit; without any a Guard is a ``ValueError``. Nobody is ended
    early, nor with bytes unread by the server. From 2 s on it happens within
    half a second after the limit. Ending is a shutdown of both directions:
    the server reads an end and closes, as if the peer had left; a dead peer's
    connection is aborted, so that its owner gets an error. Time in which the
    process or the machine slept does not count.

    ``start()`` makes it work until ``stop()``, referenced or not. `on_event`
    runs in one daemon thread, one call at a time; what it raises is logged to
    ``stillalive.guard`` and counted. Up to 4,096 events wait for it, more are
    dropped and counted. Each ending is an INFO line, at most ten a second.
    After a fork the child has a Guard of its own; at exit all are stopped.
    TLS, HTTP versions and frameworks do not matter: only counters are read.

    Linux 4.12+. macOS: the same limits, from counters looked at again and
    again, so up to 1 s later; connections must stand. FreeBSD: `detect_within`
    alone. Other systems (Windows does not list a process's sockets), and the
    pure-Python path but on Linux: NotSupportedError naming the limit.
    Threads: any, for every method. Errors: TypeError, ValueError naming
    argument, value and what is allowed. Source: tcp(7), net/ipv4/tcp.c.

    >>> with Guard(never_spoke=10, unanswered=60, answered=75, dry_run=True) as guard:
    ...     guard.update(answered=90)
    ...     guard.stats()["ended"]
    0
    """

    def __init__(
        self,
        *,
        listeners: Literal["all"] | Iterable[int | HasFileno] = "all",
        never_spoke: Seconds | None = None,
        unanswered: Seconds | None = None,
        answered: Seconds | None = None,
        min_rate: int | None = None,
        stalled: Seconds | None = None,
        detect_within: Seconds | None = None,
        evict_above: int | None = None,
        evict_idle: Seconds | None = None,
        exempt: Iterable[Address] = (),
        dry_run: bool = False,
        max_closes_per_second: int = 100,
        on_event: OnEvent | None = None,
    ) -> None:
        limits = _limits.check(
            never_spoke=never_spoke,
            unanswered=unanswered,
            answered=answered,
            min_rate=min_rate,
            stalled=stalled,
            detect_within=detect_within,
            evict_above=evict_above,
            evict_idle=evict_idle,
            exempt=exempt,
            dry_run=dry_run,
            max_closes_per_second=max_closes_per_second,
        )
        _check_callback(on_event)
        ports = _limits.ports_of(listeners)
        self._prepare(limits, ports, _limits.settings_of(limits, ports), on_event)

    def _prepare(
        self,
        limits: _limits.Limits | None,
        ports: tuple[int, ...],
        settings: b.WatcherSettings,
        on_event: OnEvent | None,
    ) -> None:
        self._limits, self._ports, self._settings = limits, ports, settings
        self._on_event = on_event
        self._run: Run | None = None
        self._ending: set[Run] = set()
        self._holds: Counter[int] = Counter()
        self._past = dict(NO_STATS)

    @classmethod
    def _without_limits(cls) -> Guard:
        guard = cls.__new__(cls)
        guard._prepare(None, (), b.WatcherSettings(), None)
        return guard

    def start(self) -> Self:
        """Begin, and return the Guard; if it has begun, that is all.

        Errors: NotSupportedError, OSError if there are no descriptors left
        (it needs two).
        """
        with _guarding._lock:
            if self._run is None:
                self._launch()
                _started.add(self)
        return self

    def _launch(self) -> None:
        self._run = Run(self._settings, self._holds, self._on_event, self._ended)

    def stop(self) -> None:
        """End, and wait for its threads; nothing is touched after it has returned.

        A callback that runs is waited for, for at most 5 s, unless it is what
        calls. Watches end as if cancelled. Again is harmless, also from another
        thread meanwhile, which waits too; and so is a ``start()`` later.
        """
        self._stop(_JOIN_SECONDS)

    def _stop(self, seconds: float) -> None:
        with _guarding._lock:
            run, self._run = self._run, None
            others = list(self._ending)
            if run is not None:
                run.ender = threading.get_ident()
                self._ending.add(run)
            _started.discard(self)
        if run is not None:
            run.end(seconds)
            with _guarding._lock:
                self._past = run.stats() | _NOW
                self._ending.discard(run)
        for other in others:
            other.wait()

    def _ended(self, run: Run) -> None:
        """Take note that a run has ended by itself."""
        with _guarding._lock:
            if self._run is run:
                self._run = None
                _started.discard(self)
                self._past = run.stats() | _NOW

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def watch(
        self,
        sock: SocketLike,
        *,
        detect_within: Seconds | None = None,
        idle_timeout: Seconds | None = None,
        action: Action | None = "abort",
        on_event: OnEvent | None = None,
    ) -> Watch:
        """Watch one connection, as :func:`watch` does, as long as this Guard runs.

        What the Guard does by itself goes on beside it. Its `dry_run`,
        `exempt` and `max_closes_per_second` do not apply, its `on_event` is
        not called. Errors: as :func:`watch`, RuntimeError if it is not started.
        """
        return self._watch(sock, _wish(detect_within, idle_timeout, action, on_event))

    def _watch(self, sock: SocketLike, wish: Wish) -> Watch:
        return self._running().watch(as_fd(sock), wish)

    def _running(self) -> Run:
        run = self._run
        if run is None:
            raise RuntimeError("this Guard is not running: start() it first")
        return run

    def hold(self, sock: SocketLike) -> Hold:
        """Leave a connection alone as long as the ``with`` block lasts.

        For work that takes long by design: a report, a long poll. Its clocks
        begin anew at the end. Nested holds count. In a coroutine it is a
        plain ``with``, too. Errors: as :func:`check` for what is no socket.

        >>> client, server = tcp_pair()
        >>> guard = Guard(unanswered=30)
        >>> with guard.hold(server):
        ...     pass  # answer in peace
        """
        return Hold(self, _impl.backend.identify(as_fd(sock)))

    def update(self, **changes: Any) -> None:  # noqa: ANN401
        """Change limits while it runs: all of them or, on an error, none.

        :param changes: the constructor's limits, `evict_idle`, `exempt`,
            `dry_run` and `max_closes_per_second`; None switches a limit off.

        Clocks go on. At least one limit must be left (ValueError).

        >>> guard = Guard(never_spoke=10)
        >>> guard.update(never_spoke=None, answered=75)
        """
        with _guarding._lock:
            if self._limits is None:
                raise RuntimeError("this Guard has no limits")
            now = self._limits.given()
            unknown = [name for name in changes if name not in now]
            if unknown:
                raise TypeError(f"update() has no {unknown[0]!r} (allowed: {', '.join(now)})")
            if changes.get("evict_above", 1) is None:
                now["evict_idle"] = None
            if changes.get("exempt", ()) is None:
                changes["exempt"] = ()
            limits = _limits.check(**now | changes)
            settings = _limits.settings_of(limits, self._ports)
            if self._run is not None:
                self._run.update(settings)
            self._limits, self._settings = limits, settings

    def drain(self, timeout: Seconds) -> int:
        """End connections as they become idle, and return how many are still open.

        :param timeout: seconds, 0 or more, to wait for the busy ones.

        For a server that shuts down: close the listeners first. A connection
        whose last request was answered, or that never spoke, ends as soon as
        it has been idle for `evict_idle` (1 s if not given); one that owes an
        answer, or has bytes unsent, is waited for. Returns as soon as all
        have ended. Errors: TypeError, ValueError, RuntimeError if it is not
        started.

        >>> with socket.create_server(("127.0.0.1", 0)) as listener:
        ...     with Guard(listeners=[listener], answered=75) as guard:
        ...         guard.drain(timeout=1)
        0
        """
        deadline = time.monotonic() + as_seconds("timeout", timeout, zero=True)
        run = self._running()
        run.drain(1)
        try:
            found = run.watcher.stats()
            seen = found["passes"] + _DRAIN_PASSES  # the first may have begun before
            while found["tracked"] or found["passes"] < seen:
                left = deadline - time.monotonic()
                if left <= 0 or self._run is not run:
                    break
                time.sleep(min(left, _DRAIN_LOOK))
                found = run.watcher.stats()
            return found["tracked"]
        finally:
            run.drain(-1)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with each event until the Guard stops, and with None then.

        Beside `on_event`, and in the same thread; the None comes from the
        thread that stops it, at once if it is not running. What is returned
        ends the subscription. ``aio.events`` makes an iterator of it.
        """
        check_callback("callback", callback)
        run = self._run
        if run is not None:
            return run.subscribe(callback)
        callback(None)
        return lambda: None

    def stats(self) -> dict[str, int]:
        """Return counters since ``start()``; after ``stop()`` those at the end.

        ``tracked``, ``watched`` and ``held`` are connections now; ``told_*``
        events by reason, ``ended`` those that something was done about;
        ``spared_unread``, ``spared_rate``, ``spared_exempt`` and
        ``spared_held`` occasions on which a due one was left alone;
        ``looks``, ``passes`` (of discovery), ``pass_cpu_us`` and ``cpu_us``
        what it cost; ``stalls`` times that the process had been stopped and
        all clocks began anew; ``no_memory`` times that something had to wait
        for memory; ``dropped`` events for which there was no room;
        ``callback_errors`` callbacks that raised.
        """
        run = self._run
        return dict(self._past) if run is None else run.stats()

    def __repr__(self) -> str:
        state = "stopped" if self._run is None else "running"
        shown = (
            []
            if self._limits is None
            else [
                f"{name}={value!r}"
                for name in _limits.LIMITS
                if (value := getattr(self._limits, name)) is not None
            ]
        )
        return f"<Guard {state}: {', '.join(shown) or 'no limits'}>"


class Hold:
    """Keep a Guard's hands off one connection: ``Guard.hold()`` returns it, ``with`` uses it."""

    __slots__ = ("_guard", "_identity")

    def __init__(self, guard: Guard, identity: int) -> None:
        self._guard, self._identity = guard, identity

    def __enter__(self) -> Self:
        guard = self._guard
        with _guarding._lock:
            if guard._run is not None:
                guard._run.watcher.hold(self._identity)
            guard._holds[self._identity] += 1
        return self

    def __exit__(self, *unused: object) -> None:
        guard = self._guard
        with _guarding._lock:
            guard._holds[self._identity] -= 1
            if guard._holds[self._identity] <= 0:
                del guard._holds[self._identity]
            if guard._run is not None:
                guard._run.watcher.release(self._identity)


def _wish(detect: object, idle: object, action: object, on_event: OnEvent | None) -> Wish:
    if detect is None and idle is None:
        raise TypeError("watch() needs detect_within, idle_timeout or both")
    if action is not None and not isinstance(action, str):
        raise TypeError(f"action={action!r}: must be 'abort', 'shutdown' or None")
    if action not in (None, "abort", "shutdown"):
        raise ValueError(f"action={action!r}: not known (allowed: 'abort', 'shutdown', None)")
    _check_callback(on_event)
    wish = Wish(
        None if detect is None else _limits.as_detect(detect),
        None if idle is None else _limits.as_span("idle_timeout", idle, _SHORTEST_IDLE),
        action,
        on_event,
    )
    wanted = {"detect_within": wish.detect, "idle_timeout": wish.idle}
    _seeing.refuse(name for name, value in wanted.items() if value is not None)
    if wish.idle is not None and action == "abort":
        _seeing.refuse_abort()
    return wish


def _check_callback(on_event: object) -> None:
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event={on_event!r}: must be callable, or None")


def _default() -> Guard:
    """Return the Guard behind :func:`watch`, running."""
    global _default_guard
    with _guarding._lock:
        if _default_guard is None:
            _default_guard = Guard._without_limits()
        return _default_guard.start()


def _at_exit() -> None:
    # No thread may run into the interpreter's end. A callback that goes on
    # for ever is left behind: the thread is a daemon.
    deadline = time.monotonic() + _EXIT_SECONDS
    for guard in list(_started):
        with contextlib.suppress(Exception):
            guard._stop(max(0.0, deadline - time.monotonic()))


def _after_fork() -> None:
    # Threads are not there in the child. What was started goes on with new
    # ones; the Guard behind watch() when it is used again.
    for guard in list(_started):
        run, guard._run, guard._ending = guard._run, None, set()
        if run is not None:
            run.abandon()
        if guard is _default_guard:
            _started.discard(guard)
            continue
        try:
            guard._launch()
        except Exception:  # the child lives without it
            _started.discard(guard)
            logger.exception("starting the guard in a forked child")


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

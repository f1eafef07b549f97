"""One stretch of a Guard's life, from start to stop: a watcher, its dispatcher, its watches."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

from . import _asking, _impl, _seeing
from . import _backend as b
from . import _pacing as pacing
from ._errors import not_supported
from ._events import Dispatcher, OnEvent, Subscriber, Told, event_of, logger, quietly
from ._watching import Watch, Wish
from .liveness import Liveness, State

__all__ = ["NO_STATS", "Run"]

_QUEUE = 16384
"""What waits for the dispatcher at most: a host with so many watched connections may vanish."""
_LOST_AGAIN = 1.0
"""Whoever closes the watcher's descriptors twice in so many seconds goes on doing so."""
_MPTCP = 262

_clock = time.monotonic
_CONNECTING = frozenset((b.CLOSE, b.SYN_SENT, b.SYN_RECV))
_UNTOLD = -1

NO_STATS: Mapping[str, int] = dict.fromkeys(
    (
        *("tracked", "watched", "held", "looks", "told", "ended"),
        *(f"told_{why}" for why in b.CAUSES[1:]),
        *("spared_unread", "spared_rate", "spared_exempt", "spared_held"),
        *("passes", "pass_cpu_us", "cpu_us", "stalls", "no_memory", "dropped"),
        "callback_errors",
    ),
    0,
)

_lock = threading.RLock()  # of all Guards; a signal handler may stop one


class Run:
    """Own a watcher and a dispatcher that work, and the watches on them.

    Watches are found by the watcher's token: they work unreferenced. Its Guard
    calls `update` and the constructor under the lock.
    """

    def __init__(
        self,
        settings: b.WatcherSettings,
        holds: Mapping[int, int],
        on_event: OnEvent | None,
        ended: Callable[[Run], None],
    ) -> None:
        self._settings, self._holds = settings, holds
        self._callbacks = () if on_event is None else (on_event,)
        self._subscribers: list[Subscriber] = []
        self._ended = ended
        self._watches: dict[int, Watch] = {}
        self._listening: set[Watch] = set()
        """Those of listeners, which the watcher does not know."""
        self._over = False
        self._at_rest = threading.Event()
        self.ender: int | None = None
        """The thread that ends it."""
        self._process = os.getpid()
        self._drains = 0
        self._began = _clock()
        self.watcher = self._new_watcher()
        self._dispatcher = Dispatcher(self.watcher, self._deliver)
        try:
            self._dispatcher.start()
        except BaseException:
            self.watcher.stop()
            raise

    def _new_watcher(self) -> b.WatcherLike:
        kind = getattr(_impl.backend, "Watcher", None)
        if kind is None:
            raise not_supported("watch and Guard")
        watcher: b.WatcherLike = kind(self._settings, _QUEUE)
        for identity, times in list(self._holds.items()):
            for _ in range(times):
                watcher.hold(identity)
        watcher.drain(self._drains > 0)
        watcher.start()
        return watcher

    def update(self, settings: b.WatcherSettings) -> None:
        """Go on with other settings."""
        self.watcher.update(settings)
        self._settings = settings

    def drain(self, more: int) -> None:
        """Count who wants it drained: two may at a time."""
        with _lock:
            self._drains += more
            self.watcher.drain(self._drains > 0)

    def stats(self) -> dict[str, int]:
        """Return the watcher's counters, and the dispatcher's."""
        found = {**NO_STATS, **self.watcher.stats()}
        found["dropped"] += self._dispatcher.dropped
        found["callback_errors"] = self._dispatcher.errors
        return found

    # Watches.

    def watch(self, fd: int, wish: Wish) -> Watch:
        """Watch one socket."""
        kind = _impl.backend.kind(fd)
        family, type_, protocol, listening = kind
        tcp = family in (socket.AF_INET, socket.AF_INET6) and type_ == socket.SOCK_STREAM
        if not tcp or protocol == _MPTCP:
            raise not_supported("watch", kind, errno.EOPNOTSUPP)
        if listening:
            if wish.detect is None or wish.idle is not None:
                raise not_supported("watch(idle_timeout=...)", kind, errno.EOPNOTSUPP)
            _refuse_if_old(fd, wish, None)
            return self._watch_listener(fd, _impl.backend.identify(fd), wish, wish.detect)
        first = _first_look(fd)
        info = None if first is None else b.Info(*first.info)
        if info is None or info.state in (b.CLOSE, _UNTOLD):
            _refuse_if_over(fd, ended=info is None or info.state == b.CLOSE)
        if (info is None or info.state in _CONNECTING) and not _seeing.names_its_own():
            raise not_supported("watch before it is connected", kind, errno.EOPNOTSUPP)
        assert info is not None  # Linux always tells
        _refuse_if_old(fd, wish, info)
        identity = _impl.backend.identify(fd)
        within = pacing.NO_BOUNDS
        if wish.detect is not None:
            connected = info.state not in _CONNECTING
            rto = info.rto_us / 1_000_000 if connected else None
            can = pacing.has_rto_max()
            within = pacing.bounds(wish.detect, can, rto)
            values = pacing.pace(wish.detect, can, identity)
            pacing.borrow(fd, identity, values, connected=connected)
        made = Watch(fd, identity, wish, within, lent=wish.detect is not None)
        try:
            with _lock:
                if self._over:
                    raise RuntimeError("this Guard has just been stopped")
                made._attach(self._cancel)
                self._register(made, first)
        except BaseException:
            self._cancel(made)
            made._give_back(restore=True)
            raise
        return made

    def _watch_listener(self, fd: int, identity: int, wish: Wish, deadline: float) -> Watch:
        values = pacing.inherited(deadline, pacing.has_rto_max())
        pacing.borrow(fd, identity, values)
        within = pacing.NO_BOUNDS._replace(idle=pacing.idle_bound(values))
        made = Watch(fd, identity, wish, within, lent=True)
        with _lock:
            if self._over:
                made._give_back(restore=True)
                raise RuntimeError("this Guard has just been stopped")
            made._attach(self._cancel_listener)
            kept = {one for one in self._listening if pacing.is_lent(one._identity)}
            self._listening = kept | {made}
        return made

    def _cancel_listener(self, made: Watch) -> None:
        with _lock:
            self._listening.discard(made)
        if made._settle(None):
            made._give_back(restore=True)

    def _register(self, made: Watch, first: b.FirstLookLike | None = None) -> None:
        wish = made._wish
        made._token = token = self.watcher.watch(
            made._fd, made._identity, wish.detect_ms, wish.idle_ms, wish.deed, first
        )
        self._watches[token] = made

    def _register_again(self, made: Watch) -> bool:
        if made._done.is_set():  # cancelled, when it had just ended
            return False
        try:
            self._register(made)
        except Exception:  # the others go on
            logger.exception("watching fd %d again", made._fd)
            return False
        return True

    def _cancel(self, made: Watch) -> None:
        with _lock:
            # What has ended already tells so in a moment, and is found then:
            # an abort must not be undone by putting options back.
            known = self._watches.get(made._token) is made
            mine = known and self.watcher.cancel(made._token)
            if mine:
                del self._watches[made._token]
        # It calls back: without the lock.
        made._settle(None)
        if mine:
            made._give_back(restore=True)

    # Who else is told.

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with each event, and with None after the last."""
        with _lock:
            over = self._over
            if not over:
                self._subscribers.append(callback)
        if over:
            quietly(callback, None)
        return lambda: self._unsubscribe(callback)

    def _unsubscribe(self, callback: Subscriber) -> None:
        with _lock, contextlib.suppress(ValueError):
            self._subscribers.remove(callback)

    # What the dispatcher's thread does.

    def _deliver(self, seen: b.Occurrence) -> Told | None:
        if seen.cause == b.FOR_LOST:
            self._begin_anew()
            return None
        if not seen.token:
            return event_of(seen), (*self._callbacks, *self._subscribers)
        with _lock:
            made = self._watches.pop(seen.token, None)
        return None if made is None else made._tell(seen)

    def _begin_anew(self) -> None:
        """Replace a watcher whose descriptors somebody has closed, as daemons do."""
        now = _clock()
        with _lock:
            if self._over:
                return
            lost, again = self.watcher, now - self._began < _LOST_AGAIN
            self._began = now
            if not again:
                try:
                    self.watcher = self._dispatcher.watcher = self._new_watcher()
                except OSError as error:
                    logger.warning("the guard cannot begin anew: %s", error)
                    again = True
            left = list(self._watches.values())
            self._watches.clear()
            if again:
                left += self._listening
                self._listening = set()
            else:
                logger.warning("the guard's own descriptors were closed: it has begun anew")
                left = [made for made in left if not self._register_again(made)]
            self._over = again
        lost.stop()
        self._let_go(left)
        if again:
            logger.warning("the guard's own descriptors were closed: it has stopped")
            self._ended(self)
            self._sign_off()

    # The end.

    def end(self, seconds: float) -> None:
        """End the threads, the callbacks in `seconds`, and the watches."""
        with _lock:
            self._over = True
            watcher = self.watcher
        try:
            watcher.stop()
        finally:
            self._at_rest.set()
        self._dispatcher.join(seconds)
        with _lock:
            left = [*self._watches.values(), *self._listening]
            self._watches.clear()
            self._listening = set()
        self._let_go(left)
        self._sign_off()

    def wait(self) -> None:
        """Wait until nothing is touched any more, while another thread ends it."""
        # Not a signal handler inside end(), nor the child of a fork meanwhile.
        if self.ender != threading.get_ident() and self._process == os.getpid():
            self._at_rest.wait()

    def _sign_off(self) -> None:
        with _lock:
            subscribers, self._subscribers = self._subscribers, []
        for callback in subscribers:
            quietly(callback, None)

    def _let_go(self, left: list[Watch]) -> None:
        for made in left:
            made._settle(None)
            made._give_back(restore=True)

    def abandon(self) -> None:
        """Let go in a forked child, which has none of the threads."""
        self._over = True
        self._dispatcher.retire()
        for made in (*self._watches.values(), *self._listening):
            made._orphan()
        self._watches.clear()
        self._listening = set()
        self._subscribers.clear()
        with contextlib.suppress(Exception):  # a child must live, whatever it inherits
            self.watcher.abandon()


def _first_look(fd: int) -> b.FirstLookLike | None:
    """Return what the kernel says; None where it says nothing before it is connected."""
    try:
        return _impl.backend.FirstLook(fd)
    except OSError as error:
        if error.errno != errno.ENOTCONN or _seeing.names_its_own():
            raise
        return None


def _refuse_if_old(fd: int, wish: Wish, info: b.Info | None) -> None:
    if not _seeing.varies():
        return
    held = None if wish.detect is None else _asking.held_by_owner(fd)
    _seeing.refuse_here(held, None if wish.idle is None else info)


def _refuse_if_over(fd: int, *, ended: bool) -> None:
    """Raise ConnectionError if it was connected, and is so no more.

    Where it is not told to have `ended`, an end of the peer's alone is none.
    """
    try:
        found = Liveness(_impl.backend.check(fd))
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return
        raise
    if ended or found.state is not State.PEER_CLOSED:
        found.raise_if_unusable()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

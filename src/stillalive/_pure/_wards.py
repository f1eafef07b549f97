"""One connection that is looked after: looking, and acting.

A look asks the bare number. Before anything is done or told, the socket is
duplicated onto the reserved number, says who it is, and is judged again there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import _backend as b
from .._backend import Info, Occurrence, WatcherSettings
from .._errors import NotSupportedError
from ._judge import RATE_STRETCH_MS, Judgement, Limits, Past, begin, classify, judge
from ._turns import Turns

if sys.platform == "linux":
    from . import _aborting as aborting
    from . import _bare as bare
    from . import _linux as system
    from ._bare import Address
    from ._ending import FirstLook, acked_beyond, how_it_ended
    from ._reserve import Reserve

assert not TYPE_CHECKING or sys.platform == "linux"

ACTED_MS = 5000
"""Between looks at what only its owner has to close."""
_SPARED_MS, _SPARED_EACH_MS = 50, 0.075
"""Between looks at who has unread bytes: 1.5 us each, and at most 2 % of a core."""
_RETRY_MS = 50
_LEAST_EVICT_MS, _LEAST_MOST_MS = 4000, 8000
_LATE_MS = 1000
DRAIN_MS = 250
_LEISURE_MS, _TOGETHER_MS = 1000, 100
_LEAST_MARGIN_MS, _MARGIN_SHARE = 200, 19
"""By how much the silence that a watch acts on is less than its deadline."""

_GONE = (errno.EBADF, errno.ENOTSOCK)
_NO_NUMBERS = (errno.EMFILE, errno.ENFILE)
_NO_INFO = Info(*(-1 for _ in Info._fields))
_NO_JUDGEMENT = Judgement(b.NO_CLASS, b.NO_CAUSE, b.NO_TIME, b.NO_TIME)
_UNCONNECTED = (b.SYN_SENT, b.SYN_RECV, b.LISTEN, b.CLOSE)
_RECEIVING = (b.ESTABLISHED, b.CLOSE_WAIT)
"""Our own half is open."""
_NO_ENDS = (None, None)


class Ward:
    """What is remembered of one connection."""

    __slots__ = (
        "aborting_ms",
        "acted",
        "beyond",
        "connecting",
        "deed",
        "due_ms",
        "ended",
        "ends",
        "exempt",
        "fd",
        "identity",
        "limits",
        "pace_ms",
        "paced",
        "past",
        "port",
        "restart",
        "seen",
        "seen_ms",
        "spared",
        "token",
        "told",
        "waits",
    )

    def __init__(self, fd: int, identity: int) -> None:
        self.fd, self.identity = fd, identity
        self.token = 0
        """Of the watch; 0: found by discovery, or the watch has ended."""
        self.limits: Limits | None = None
        """Those of a watch; None: those of the settings."""
        self.deed = b.DEED_NONE
        self.pace_ms = b.NO_TIME
        self.port = 0
        self.past: Past | None = None
        self.restart = False
        """Its clocks begin anew at the next look."""
        self.seen: Info | None = None
        """Of a watch: the last look that found it open, or about to be."""
        self.seen_ms = 0
        self.beyond = 0
        """What :func:`acked_beyond` was then, or before, while nothing was under way."""
        self.connecting = False
        """Of a watch: it was not connected yet."""
        self.ends: tuple[Address | None, Address | None] = _NO_ENDS
        """Its addresses then: one that was reset cannot tell its peer any more."""
        self.paced = False
        self.exempt = False
        self.acted = False
        self.spared = False
        """The owner has not read all."""
        self.waits = False
        """For its turn among closes_per_second."""
        self.aborting_ms: int | None = None
        """When an abort began that has not been seen to end."""
        self.told: tuple[int, int] | None = None
        """The bytes of the silence that a dry run has told."""
        self.ended = False
        self.due_ms: int | None = None

    def is_discovered(self) -> bool:
        return self.limits is None


def _soonest(*times_ms: int) -> int:
    return min((ms for ms in times_ms if ms >= 0), default=b.NO_TIME)


def _together(again_ms: int, now_ms: int) -> int:
    """Let looks that are far away meet: to wake up, and to take the GIL, has its price."""
    if again_ms < _LEISURE_MS:
        return again_ms
    return again_ms + -(now_ms + again_ms) % _TOGETHER_MS


def _limits_of(settings: WatcherSettings) -> Limits:
    return Limits(
        never_spoke_ms=settings.never_spoke_ms,
        unanswered_ms=settings.unanswered_ms,
        answered_ms=settings.answered_ms,
        stalled_ms=settings.stalled_ms,
        min_rate=settings.min_rate,
        detect_ms=settings.detect_ms,
        idle_ms=b.NO_TIME,
    )


def _least_of(settings: WatcherSettings) -> int:
    """Return the smallest of the limits: nobody who comes now is due before."""
    least = _soonest(
        settings.never_spoke_ms,
        settings.unanswered_ms,
        settings.answered_ms,
        settings.stalled_ms,
        settings.detect_ms,
        RATE_STRETCH_MS if settings.min_rate >= 0 else b.NO_TIME,
        _LEAST_EVICT_MS if settings.evict_above >= 0 else b.NO_TIME,
        _LEAST_MOST_MS,
    )
    return max(_SPARED_MS, least)


def _unmapped(prefix: bytes, bits: int) -> tuple[bytes, int]:
    """Return a network of v4 that was written as v6 as what it is."""
    if bits >= 96 and len(prefix) == 16 and prefix.startswith(bare.MAPPED):
        return prefix[12:], bits - 96
    return prefix, bits


def _is_inside(address: bytes, network: tuple[bytes, int]) -> bool:
    prefix, bits = network
    if len(address) != len(prefix):
        return False
    shift = 8 * len(prefix) - bits
    return int.from_bytes(address, "big") >> shift == int.from_bytes(prefix, "big") >> shift


class Keeper:
    """Look at wards, and act on them. One thread at a time."""

    def __init__(self, settings: WatcherSettings, tell: Callable[[Occurrence], None]) -> None:
        self._tell = tell
        self.reserve = Reserve()
        self.held: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.told: Counter[int] = Counter()
        """By cause."""
        self.epoch_ms = 0
        """Silence before this does not count: nobody looked."""
        self.draining = False
        self.tracked = 0
        """Discovered, and not acted on yet."""
        self.late = False
        """So much time went by within a slice that what was read may be old."""
        self._entered_ns = 0
        self._spared = self._waiting = 0
        self.use(settings)

    def use(self, settings: WatcherSettings) -> None:
        """Take new settings."""
        self.settings = settings
        self.limits = _limits_of(settings)
        self.least_ms = _least_of(settings)
        self._exempt = [_unmapped(*network) for network in settings.exempt]
        self._turns = Turns(settings.closes_per_second)

    def enter(self) -> None:
        """Begin a slice."""
        self.late = False
        self._entered_ns = time.monotonic_ns()

    def _is_late(self) -> bool:
        if time.monotonic_ns() - self._entered_ns > _LATE_MS * 1_000_000:
            self.late = True
        return self.late

    def forget(self, ward: Ward) -> None:
        """Look after a ward no more."""
        ward.ended = True
        self._settle(ward)
        if ward.is_discovered() and not ward.acted:
            self.tracked -= 1

    # Looking. Each look returns the ms until the next, NO_TIME when nothing
    # can become due by itself, None when the ward is to be released.

    def look(self, ward: Ward, now_ms: int) -> int | None:
        """Look at a ward, and act if its time is over."""
        self.counts["looks"] += 1
        try:
            identity, info = bare.look(ward.fd)
        except OSError:
            return self._gone(ward, now_ms)
        if identity != ward.identity:
            return self._gone(ward, now_ms)
        if ward.aborting_ms is not None:
            return self._keep_aborting(ward, info, now_ms)
        if ward.acted:
            return ACTED_MS
        if ward.is_discovered():
            again = self._look_at_found(ward, info, now_ms)
            return again if again is None else _together(again, now_ms)
        return self._look_at_watch(ward, info, now_ms)

    def _look_at_found(self, ward: Ward, info: Info, now_ms: int) -> int | None:
        if ward.exempt or info.state in _UNCONNECTED:
            return b.NO_TIME
        if ward.told is not None:
            if ward.told == (info.bytes_received, info.bytes_sent):
                return self.least_ms
            ward.told = None
        if self.settings.detect_ms >= 0 and not ward.paced:
            again = self._keep_pace(ward, now_ms)
            if again != b.NO_TIME:
                return again
        cause, judgement = self._decide(ward, info, now_ms, b.NO_CAUSE)
        if cause != b.NO_CAUSE:
            return self.act(ward, cause, now_ms)
        again = judgement.again_ms
        if self.draining:
            again = _soonest(again, DRAIN_MS)
            if judgement.klass in (b.ANSWERED, b.NEVER_SPOKE):
                again = min(again, self.settings.evict_idle_ms - judgement.clock_ms)
        return again

    def _look_at_watch(self, ward: Ward, info: Info, now_ms: int) -> int | None:
        if info.state == b.CLOSE and (ward.seen is not None or info.rtt_us > 0):
            again = self._on_duplicate(ward, now_ms, self._tell_end)
            return again if again is None else _soonest(again, ward.pace_ms)
        if info.state in _UNCONNECTED:
            ward.connecting, ward.past = True, None  # the clock starts with the connection
            if info.state == b.SYN_SENT:
                self._see(ward, info, now_ms)
            return ward.pace_ms
        if not ward.paced:
            again = self._quicken(ward, now_ms)
            if again != b.NO_TIME:
                return again
            ward.paced = True
        if ward.connecting:
            ward.connecting, ward.ends = False, _NO_ENDS
        self._see(ward, info, now_ms)
        cause, judgement = self._decide(ward, info, now_ms, b.NO_CAUSE)
        if cause == b.NO_CAUSE:
            return _soonest(judgement.again_ms, ward.pace_ms)
        again = self.act(ward, cause, now_ms)
        if again is None or ward.aborting_ms is not None:
            return again
        return _soonest(again, ward.pace_ms)

    def begin(self, ward: Ward, first: FirstLook) -> None:
        """See how a watch begins."""
        info = first.info
        if info.state in _RECEIVING or info.state == b.SYN_SENT:
            ward.ends = first.ends
            self._see(ward, info, first.at_ms)
        ward.connecting = info.state in _UNCONNECTED

    def _see(self, ward: Ward, info: Info, now_ms: int) -> None:
        if ward.ends[1] is None:
            ward.ends = bare.addresses(ward.fd, ward.identity)
        ward.seen, ward.seen_ms = info, now_ms
        if info.state == b.SYN_SENT:
            ward.beyond = 1  # as soon as it is connected
        beyond = acked_beyond(info)
        quiet = info.unacked == 0 and info.notsent_bytes == 0
        if quiet and beyond is not None and info.state in _RECEIVING:
            ward.beyond = beyond

    def _decide(self, ward: Ward, info: Info, now_ms: int, wish: int) -> tuple[int, Judgement]:
        """Return the cause to act, if any. `wish`: what the whole of all wards asks for."""
        past = ward.past
        if past is None:
            since_ms = 0 if ward.is_discovered() else now_ms
            past = ward.past = begin(info, since_ms, now_ms)
        past.since_ms = max(past.since_ms, now_ms if ward.restart else self.epoch_ms)
        ward.restart = False
        judgement = judge(self.limits if ward.limits is None else ward.limits, past, info, now_ms)
        cause = judgement.cause
        if cause == b.NO_CAUSE and ward.is_discovered():
            idle = judgement.clock_ms >= self.settings.evict_idle_ms
            if idle and wish == b.FOR_EVICTED and judgement.klass == b.ANSWERED:
                cause = b.FOR_EVICTED
            elif idle and self.draining and judgement.klass in (b.ANSWERED, b.NEVER_SPOKE):
                cause = b.FOR_DRAINED
        if cause == b.NO_CAUSE:
            self._settle(ward)
        return cause, judgement

    def idle_ms(self, ward: Ward, now_ms: int) -> int:
        """Return for how long a ward could have been evicted; -1 when it must not be."""
        if ward.acted or ward.exempt or ward.told is not None or ward.identity in self.held:
            return -1
        try:
            identity, info = bare.look(ward.fd)
        except OSError:
            return -1
        if identity != ward.identity or classify(info) != b.ANSWERED:
            return -1
        cause, judgement = self._decide(ward, info, now_ms, b.FOR_EVICTED)
        return judgement.clock_ms if cause == b.FOR_EVICTED else -1

    # Acting.

    def act(self, ward: Ward, cause: int, now_ms: int) -> int | None:
        """Do what `cause` asks for, if it still does on a duplicate."""
        return self._on_duplicate(
            ward, now_ms, lambda sock, ward, now_ms: self._act_on(sock, ward, cause, now_ms)
        )

    def _on_duplicate(
        self,
        ward: Ward,
        now_ms: int,
        do: Callable[[socket.SocketType, Ward, int], int | None],
    ) -> int | None:
        try:
            with self.reserve.take(ward.fd) as sock:
                if bare.identity_of(sock) != ward.identity:
                    return self._gone(ward, now_ms)
                return do(sock, ward, now_ms)
        except OSError as error:
            if error.errno in _GONE:
                return self._gone(ward, now_ms)
            if error.errno in _NO_NUMBERS:
                return _RETRY_MS
            raise

    def wait_ms(self, now_ms: int) -> int:
        """Return when the next may be ended."""
        return 0 if self.settings.dry_run else self._turns.wait_ms(now_ms)

    def _act_on(self, sock: socket.SocketType, ward: Ward, wanted: int, now_ms: int) -> int | None:
        info = bare.info_of(sock)
        cause, judgement = self._decide(ward, info, now_ms, wanted)
        if cause != wanted:
            if cause != b.NO_CAUSE:
                return 0
            draining = self.draining and ward.is_discovered()
            return _soonest(judgement.again_ms, DRAIN_MS if draining else b.NO_TIME)
        dry_run = ward.is_discovered() and self.settings.dry_run
        deed = ward.deed
        if ward.is_discovered():
            deed = b.DEED_ABORT if cause == b.FOR_SILENT else b.DEED_SHUTDOWN
        again = self._spares(sock, ward, cause, now_ms)
        if again is not None:
            return again
        ends, unread = bare.endpoints(sock), bare.unread(sock)  # the deed may take them away
        if dry_run:
            ward.told = info.bytes_received, info.bytes_sent
            self._settle(ward)
        elif not self._do(sock, ward, cause, deed, now_ms):
            return _RETRY_MS
        self._emit(ward, now_ms, cause, info, ends, unread, judgement, deed, dry_run)
        if dry_run:
            return self.least_ms
        self._settle(ward)
        ward.token = 0
        if ward.is_discovered():
            ward.acted = True
            self.tracked -= 1
        if ward.aborting_ms is not None:
            return aborting.PACE_MS
        return ACTED_MS if ward.is_discovered() else None

    def _spares(self, sock: socket.SocketType, ward: Ward, cause: int, now_ms: int) -> int | None:
        """Return when to look again if nothing may be done now."""
        if ward.is_discovered() and self._is_exempt(sock):
            self.counts["spared_exempt"] += 1
            ward.exempt = True
            return b.NO_TIME
        if ward.identity in self.held:
            self.counts["spared_held"] += 1
            return b.NO_TIME  # until it is released
        if cause != b.FOR_SILENT and bare.unread(sock) > 0:
            if not ward.spared:
                ward.spared = True
                self._spared += 1
                self.counts["spared_unread"] += 1
            return max(_SPARED_MS, round(self._spared * _SPARED_EACH_MS))
        if self._is_late():
            return 0
        if not ward.is_discovered() or self.settings.dry_run:
            return None
        wait_ms = self._turns.take(now_ms, self._waiting)
        if wait_ms > 0 and not ward.waits:
            ward.waits = True
            self._waiting += 1
            self.counts["spared_rate"] += 1
        return wait_ms or None

    def _settle(self, ward: Ward) -> None:
        """Count a ward out of those that have to be looked at soon."""
        self._spared -= ward.spared
        self._waiting -= ward.waits
        ward.spared = ward.waits = False

    def _is_exempt(self, sock: socket.SocketType) -> bool:
        """Tell whether the peer is in an exempt network; one that is not known may be.

        Nor is one with other paths to its peer judged by the first of them.
        """
        if bare.has_paths(sock):
            return True
        if not self._exempt:
            return False
        _, peer = bare.endpoints(sock)
        return peer is None or any(_is_inside(peer[0], network) for network in self._exempt)

    def _do(self, sock: socket.SocketType, ward: Ward, cause: int, deed: int, now_ms: int) -> bool:
        if deed == b.DEED_SHUTDOWN and not self.reserve.shutdown(sock):
            return False
        if deed == b.DEED_ABORT and not aborting.begin(self.reserve, sock, cause):
            ward.aborting_ms = now_ms
        if deed != b.DEED_NONE:
            self.counts["ended"] += 1
        return True

    def _keep_aborting(self, ward: Ward, info: Info, now_ms: int) -> int | None:
        """See the kernel end it, or end it when it does not."""
        if aborting.may_wait(info, self._aborted_for(ward, now_ms)):
            return aborting.PACE_MS
        return self._on_duplicate(ward, now_ms, self._finish_abort)

    def _aborted_for(self, ward: Ward, now_ms: int) -> int:
        # A process that was stopped has had no time to read.
        return 0 if ward.aborting_ms is None else now_ms - max(ward.aborting_ms, self.epoch_ms)

    def _finish_abort(self, sock: socket.SocketType, ward: Ward, now_ms: int) -> int | None:
        if not aborting.finish(self.reserve, sock, self._aborted_for(ward, now_ms)):
            return aborting.PACE_MS
        ward.aborting_ms = None
        return ACTED_MS if ward.is_discovered() else None

    # A connection needs questions, if its peer's silence is to count.

    def _quicken(self, ward: Ward, now_ms: int) -> int | None:
        """Bound the pace of retransmissions, which would have shortened the connecting."""
        if ward.limits is None or ward.limits.detect_ms < 0:
            return b.NO_TIME
        detect_ms = ward.limits.detect_ms
        within_ms = detect_ms + max(_LEAST_MARGIN_MS, detect_ms // _MARGIN_SHARE) + 2
        most_ms = min(max(within_ms // 4000, 1), 120) * 1000

        def set_most(sock: socket.SocketType, _ward: Ward, _now_ms: int) -> int:
            self.reserve.quicken(sock, most_ms)
            return b.NO_TIME

        return self._on_duplicate(ward, now_ms, set_most)

    def _keep_pace(self, ward: Ward, now_ms: int) -> int | None:
        """Give it a keepalive that is fast enough. Return when to try again, if at all."""
        if ward.identity in self.held:
            return b.NO_TIME
        return self._on_duplicate(ward, now_ms, self._set_pace)

    def _set_pace(self, _sock: socket.SocketType, ward: Ward, _now_ms: int) -> int:
        with contextlib.suppress(ConnectionError, NotSupportedError):
            self._make_pace(ward.identity)
        ward.paced = True
        return b.NO_TIME

    def _make_pace(self, identity: int) -> None:
        pace = list(self.settings.pace)
        held = system.read_options(self.reserve.number)
        if held[b.USER_TIMEOUT] > 0:
            return
        slower = held[b.IDLE] + held[b.INTERVAL] > pace[b.IDLE] + pace[b.INTERVAL]
        if held[b.ENABLED] and not slower:
            return
        lower = identity % (self.settings.pace_jitter + 1)
        for option in (b.IDLE, b.INTERVAL):
            if pace[option] != b.LEAVE:
                pace[option] = max(1, pace[option] - lower)
        for option, value in enumerate(held):
            if value == b.LEAVE:
                pace[option] = b.LEAVE
        enabled, idle, interval, count, user_timeout, rto_max = pace
        system.apply_options(
            self.reserve.number, (enabled, idle, interval, count, user_timeout, rto_max)
        )

    # Telling.

    def _gone(self, ward: Ward, now_ms: int) -> int | None:
        """Let a ward go: its number means another socket, or none."""
        if ward.token:
            self._emit(ward, now_ms, b.FOR_GONE, _NO_INFO, ward.ends)
        return None

    def _tell_end(self, sock: socket.SocketType, ward: Ward, now_ms: int) -> int | None:
        """Tell how a watched connection has ended."""
        info = bare.info_of(sock)
        waited_ms = now_ms - ward.seen_ms if ward.seen is not None else 0
        end = how_it_ended(self.reserve.number, info, ward.seen, waited_ms, ward.beyond)
        if end is None:
            return b.NO_TIME
        self._emit(ward, now_ms, end.cause, end.info, ward.ends, end.unread, err=end.err)
        return None

    def lost(self, now_ms: int) -> None:
        """Tell that our own descriptors are gone."""
        nobody = Ward(self.reserve.number, 0)
        self._emit(nobody, now_ms, b.FOR_LOST, _NO_INFO, nobody.ends)

    def _emit(
        self,
        ward: Ward,
        now_ms: int,
        cause: int,
        info: Info,
        ends: tuple[Address | None, Address | None],
        unread: int = b.NO_TIME,
        judgement: Judgement = _NO_JUDGEMENT,
        deed: int = b.DEED_NONE,
        dry_run: bool = False,
        err: int = 0,
    ) -> None:
        self.told[cause] += 1
        self._tell(
            Occurrence(
                token=ward.token,
                cause=cause,
                klass=judgement.klass,
                deed=deed,
                dry_run=dry_run,
                err=err,
                fd=ward.fd,
                identity=ward.identity,
                local=ends[0],
                peer=ends[1],
                at_ms=now_ms,
                clock_ms=judgement.clock_ms,
                heard_ms=_soonest(info.last_ack_recv_ms, info.last_data_recv_ms),
                # The kernel's clocks run from the handshake when there was no payload.
                data_in_ms=info.last_data_recv_ms if info.bytes_received > 0 else b.NO_TIME,
                data_out_ms=info.last_data_sent_ms if info.bytes_sent > 0 else b.NO_TIME,
                bytes_in=info.bytes_received,
                bytes_out=info.bytes_sent - max(0, info.bytes_retrans),
                unread=unread,
                unsent=info.notsent_bytes,
            )
        )

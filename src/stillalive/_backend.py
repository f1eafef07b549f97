"""What both backends provide, and the numbers they share with the C core."""

from __future__ import annotations

from collections.abc import Callable
from selectors import SelectorKey
from typing import NamedTuple, Protocol

Values = tuple[int, int, int, int, int, int]
"""(enabled, idle s, interval s, count, user_timeout ms, rto_max ms); LEAVE where not set."""

Verdict = tuple[int, int, int, int, int, int, int]
"""(state, reason, errno, asked, heard_ms, unread, unanswered)."""

LEAVE = -1
UNREADABLE = -2
"""Read back: the option can be set, but this system does not tell it."""
ENABLED, IDLE, INTERVAL, COUNT, USER_TIMEOUT, RTO_MAX = range(6)

ALIVE, OPEN, PEER_CLOSED, RESET, DEAD, SILENT, UNKNOWN, ASKING = range(8)

(
    WHY_HEARD,
    WHY_ANSWERED,
    WHY_QUIET,
    WHY_UNANSWERED,
    WHY_CONNECTING,
    WHY_FIN,
    WHY_RST,
    WHY_TIMED_OUT,
    WHY_RST_OR_TIMEOUT,
    WHY_CLOSED,
    WHY_NO_ANSWER,
    WHY_NO_QUESTION,
    WHY_MUST_ASK,
    WHY_KERNEL_ASKS,
    WHY_CANNOT_ASK,
    WHY_CANNOT_TELL,
) = range(16)

ASK_SPACING_MS = 750
UNANSWERED_MAX = 120
UNGUARDED, GUARD_COUNT, GUARD_TIMEOUT = range(3)
"""What keeps a probe from killing: the highest count, or a long user timeout."""

ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = range(1, 7)
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = range(7, 12)


class Info(NamedTuple):
    """The kernel's counters of one connection, in its own units; -1 is not told."""

    state: int
    retransmits: int
    probes: int
    backoff: int
    rto_us: int
    rtt_us: int
    rttvar_us: int
    min_rtt_us: int
    unacked: int
    last_data_sent_ms: int
    last_data_recv_ms: int
    last_ack_recv_ms: int
    total_retrans: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    notsent_bytes: int
    data_segs_in: int
    data_segs_out: int
    bytes_sent: int
    bytes_retrans: int
    snd_wnd: int
    snd_nxt: int = -1
    snd_max: int = -1
    rcv_nxt: int = -1
    queued_bytes: int = -1


class PolicyLike(Protocol):
    def __init__(self, values: Values) -> None: ...
    def apply(self, fd: int) -> None: ...


class WitnessLike(Protocol):
    def __init__(self, fd: int) -> None: ...
    @property
    def identity(self) -> int: ...
    def begin(self, now_ms: int) -> Verdict: ...
    def look(self, asked: int, now_ms: int) -> Verdict: ...
    def give_up(self, asked: int, now_ms: int) -> Verdict: ...


class QuestionLike(Protocol):
    def __init__(self, fd: int, identity: int) -> None: ...
    @property
    def asked(self) -> int: ...
    @property
    def saved(self) -> Values | None: ...
    def ask(self, now_ms: int) -> bool: ...
    def end(self) -> None: ...


READ, WRITE, IDLE_EVENT = 1, 2, 4
"""Bits of an event mask, as in `selectors`."""

MOST_SECONDS = 10_000_000
"""The longest idle timeout or age: ticks of 10 ms wrap round at 32 bits."""


class HandleLike(Protocol):
    """One registration: what a Selector's owner, and other threads, touch."""

    @property
    def key(self) -> SelectorKey: ...
    def touch(self) -> bool: ...
    def idle_for(self) -> float: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    @property
    def idle_timeout(self) -> float | None: ...
    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None: ...


class EngineLike(Protocol):
    """Descriptors, readiness and idleness of one thread. Arguments come checked."""

    def __init__(self, mechanism: str | None) -> None: ...
    @property
    def mechanism(self) -> str: ...
    @property
    def handles(self) -> dict[int, HandleLike]: ...
    def add(self, key: SelectorKey, idle_timeout: float | None) -> HandleLike: ...
    def modify(self, handle: HandleLike, key: SelectorKey) -> None: ...
    def remove(self, handle: HandleLike) -> None: ...
    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]: ...
    def shed(self, n: int) -> list[SelectorKey]: ...
    def wake(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...
    def freeze(self, tick: int) -> None: ...
    def advance(self, seconds: float) -> None: ...


class ServerLike(Protocol):
    """Accept, read, write and end connections. Arguments come checked."""

    def __init__(
        self,
        listener: int,
        factory: Callable[[], object],
        on_error: Callable[[BaseException, object], None],
        idle_timeout: float | None,
        max_age: float | None,
        max_connections: int | None,
        values: Values | None,
        mechanism: str | None,
    ) -> None: ...
    def run(self) -> None: ...
    def close(self, timeout: float | None) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def freeze(self, tick: int) -> None: ...
    def advance(self, seconds: float) -> None: ...


NO_TIME = -1
"""No limit; never."""

NO_CLASS, NEVER_SPOKE, UNANSWERED, ANSWERED, SENDING = range(5)
"""Classes of connections, by who spoke last."""

(
    NO_CAUSE,
    FOR_NEVER_SPOKE,
    FOR_UNANSWERED,
    FOR_ANSWERED,
    FOR_MIN_RATE,
    FOR_STALLED,
    FOR_EVICTED,
    FOR_DRAINED,
    FOR_IDLE,
    FOR_SILENT,
    FOR_RESET,
    FOR_TIMED_OUT,
    FOR_GONE,
    FOR_LOST,
) = range(14)
"""Why something is done about a connection, or told."""
CAUSES = (
    *("", "never_spoke", "unanswered", "answered", "min_rate", "stalled", "evicted", "drained"),
    *("idle", "silent", "reset", "timed_out", "gone", "lost"),
)
"""Their names, by number."""

DEED_NONE, DEED_SHUTDOWN, DEED_ABORT = range(3)
"""What is done."""


class WatcherSettings(NamedTuple):
    """What a Watcher does by itself; times are milliseconds, NO_TIME is no limit."""

    never_spoke_ms: int = NO_TIME
    unanswered_ms: int = NO_TIME
    answered_ms: int = NO_TIME
    stalled_ms: int = NO_TIME
    min_rate: int = NO_TIME
    detect_ms: int = NO_TIME
    discover: bool = False
    ports: tuple[int, ...] = ()
    exempt: tuple[tuple[bytes, int], ...] = ()
    """(packed address of 4 or 16 bytes, prefix length)."""
    evict_above: int = NO_TIME
    evict_idle_ms: int = 1000
    dry_run: bool = False
    closes_per_second: int = 100
    pace: Values = (LEAVE, LEAVE, LEAVE, LEAVE, LEAVE, LEAVE)
    pace_jitter: int = 0


MOST_PORTS = MOST_NETWORKS = 64


class Occurrence(NamedTuple):
    """What a Watcher tells, as the C core has it; -1 is not told."""

    token: int
    cause: int
    klass: int
    deed: int
    dry_run: bool
    err: int
    fd: int
    identity: int
    local: tuple[bytes, int, int] | None
    """(packed address, port, scope)."""
    peer: tuple[bytes, int, int] | None
    at_ms: int
    clock_ms: int
    heard_ms: int
    data_in_ms: int
    data_out_ms: int
    bytes_in: int
    bytes_out: int
    unread: int
    unsent: int


class FirstLookLike(Protocol):
    """How a connection looks before anything is asked of its peer."""

    def __init__(self, fd: int) -> None: ...
    @property
    def identity(self) -> int: ...
    @property
    def info(self) -> tuple[int, ...]: ...


class WatcherLike(Protocol):
    """One thread that looks at connections of others, and acts. Arguments come checked."""

    def __init__(self, settings: WatcherSettings, queue: int) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def update(self, settings: WatcherSettings) -> None: ...
    def watch(
        self,
        fd: int,
        identity: int,
        detect_ms: int,
        idle_ms: int,
        deed: int,
        first: FirstLookLike | None = None,
    ) -> int: ...
    def cancel(self, token: int) -> bool: ...
    def hold(self, identity: int) -> None: ...
    def release(self, identity: int) -> None: ...
    def drain(self, on: bool) -> None: ...
    def take(self, room: int, timeout_ms: int) -> list[Occurrence] | None: ...
    def stats(self) -> dict[str, int]: ...
    def step(self, now_ms: int) -> int: ...


class RuleLike(Protocol):
    """What is done with sockets when they are bound or connected."""

    def __init__(self, values: Values, listeners: bool, outgoing: bool) -> None: ...
    def end(self) -> None: ...
    def stats(self) -> dict[str, int]: ...


class Backend(Protocol):
    """A module that talks to the kernel."""

    NAME: str
    Policy: type[PolicyLike]
    Witness: type[WitnessLike]
    Question: type[QuestionLike]
    Engine: type[EngineLike]
    ServerEngine: type[ServerLike]
    Rule: type[RuleLike]
    FirstLook: type[FirstLookLike]
    Watcher: type[WatcherLike]

    def supported(self) -> int: ...
    def option_name(self, option: int) -> str: ...
    def option_range(self, option: int) -> tuple[int, int] | None: ...
    def kind(self, fd: int) -> tuple[int, int, int, bool]: ...
    def identify(self, fd: int) -> int: ...
    def read_options(self, fd: int) -> Values: ...
    def apply_options(self, fd: int, values: Values) -> Values: ...
    def tcp_info(self, fd: int) -> tuple[int, ...]: ...
    def check(self, fd: int) -> Verdict: ...
    def mechanisms(self) -> tuple[str, ...]: ...
    def audit_install(self) -> bool: ...

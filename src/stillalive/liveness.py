"""Is the peer still there: ``check`` without asking, ``probe`` by asking its kernel."""

from __future__ import annotations

import asyncio
import enum
import errno as codes
import time

from . import _asking, _impl
from . import _backend as b
from ._sockets import SocketLike, as_fd
from ._values import as_seconds, plain

__all__ = ["Liveness", "State", "aprobe", "check", "probe"]

_clock = time.monotonic
_sleep = time.sleep
# Four looks a millisecond apart: the kernel's tick, at which probe and answer
# are handled, is 1 to 4 ms long on most systems.
_PAUSES = (0.001, 0.001, 0.001, 0.001, 0.002, 0.002, 0.004, 0.008, 0.016, 0.02)
_LONGEST_TIMEOUT = 3600.0


class State(enum.Enum):
    """Say what is known about a connection."""

    ALIVE = "alive"
    """A segment arrived after the call began, or at most 1 s before."""
    OPEN = "open"
    """Nothing wrong was seen, nothing was proved."""
    PEER_CLOSED = "peer_closed"
    """The peer has ended its sending side (FIN), perhaps behind unread data."""
    RESET = "reset"
    """The connection was reset."""
    DEAD = "dead"
    """The kernel ended the connection by timeout."""
    SILENT = "silent"
    """The peer was asked and did not answer in time."""
    UNKNOWN = "unknown"
    """This system cannot tell."""

    @property
    def usable(self) -> bool:
        """Tell whether a connection in this state may be used."""
        return self in _USABLE


_USABLE = frozenset((State.ALIVE, State.OPEN, State.UNKNOWN))
_STATES = tuple(State)  # in the order of the backends' numbers


class Liveness:
    """Hold the answer of :func:`check`, :func:`probe` or :func:`aprobe`.

    True in a condition if the connection may be used. Times are seconds.
    Immutable by convention; threads may share it.

    >>> a, b = tcp_pair()  # two connected TCP sockets
    >>> bool(check(a))
    True
    """

    __slots__ = (
        "_errno",
        "_extra",
        "_reason",
        "_unanswered",
        "asked",
        "elapsed",
        "heard_ago",
        "readable",
        "state",
    )

    state: State
    heard_ago: float | None
    """Seconds since the last segment from the peer, None if the system does not tell."""
    readable: int
    """Bytes that wait to be read; stray data is reported, not judged."""
    asked: int
    """Questions sent: probes, and the kernel's own retransmissions meanwhile."""
    elapsed: float
    """Seconds that the call took (0 for check)."""

    def __init__(self, verdict: b.Verdict, elapsed: float = 0.0, extra: str = "") -> None:
        state, self._reason, self._errno, self.asked, heard, self.readable, self._unanswered = (
            verdict
        )
        self.state = _STATES[state]
        self.heard_ago = None if heard < 0 else heard / 1000
        self.elapsed = elapsed
        self._extra = extra

    @property
    def errno(self) -> int | None:
        """Return the error that the owner will be told, None if unknown or none."""
        return self._errno or None

    @property
    def usable(self) -> bool:
        """Tell whether the connection may be used: ALIVE, OPEN or UNKNOWN."""
        return self.state in _USABLE

    def __bool__(self) -> bool:
        return self.state in _USABLE

    @property
    def reason(self) -> str:
        """Say in plain words, with numbers, why the state is what it is."""
        text = _REASONS[self._reason].format(
            heard="never" if self.heard_ago is None else plain(self.heard_ago) + " s ago",
            elapsed=plain(self.elapsed),
            unanswered=self._unanswered,
            asked=self.asked,
            readable=self.readable,
        )
        if self._reason == b.WHY_FIN and self.readable:
            text += f", behind {self.readable} unread bytes"
        return f"{text}; {self._extra}" if self._extra else text

    def raise_if_unusable(self) -> Liveness:
        """Return self, or raise ConnectionError saying why the connection is unusable.

        ConnectionResetError for RESET; for the others a ConnectionError whose
        errno is ETIMEDOUT (DEAD, SILENT) or EPIPE (PEER_CLOSED).
        """
        if self.usable:
            return self
        if self.state is State.RESET:
            raise ConnectionResetError(self._errno or codes.ECONNRESET, self.reason)
        closed = self.state is State.PEER_CLOSED
        code = self._errno or (codes.EPIPE if closed else codes.ETIMEDOUT)
        raise ConnectionError(code, self.reason)

    def __repr__(self) -> str:
        return f"<Liveness {self.state.name}: {self.reason}>"


_REASONS = {
    b.WHY_HEARD: "a segment arrived {heard}",
    b.WHY_ANSWERED: "the peer answered within {elapsed} s",
    b.WHY_QUIET: "nothing wrong seen, last segment {heard}",
    b.WHY_UNANSWERED: "open, but {unanswered} probes or retransmissions are unanswered so far, "
    "last segment {heard}",
    b.WHY_CONNECTING: "the connection is still being made",
    b.WHY_FIN: "the peer has closed its sending side",
    b.WHY_RST: "the connection was reset",
    b.WHY_TIMED_OUT: "the kernel gave the connection up after {unanswered} unanswered probes or "
    "retransmissions",
    b.WHY_RST_OR_TIMEOUT: "the connection has ended by timeout or by a reset, the kernel's "
    "counters do not tell which ({unanswered} probes or retransmissions were unanswered)",
    b.WHY_CLOSED: "the connection is over: both sides have closed, or its error has been read "
    "already",
    b.WHY_NO_ANSWER: "no answer to {asked} questions in {elapsed} s, last segment {heard}",
    b.WHY_CANNOT_ASK: "nothing wrong seen, last segment {heard}; this system cannot ask the peer",
    b.WHY_CANNOT_TELL: "nothing wrong seen; this system does not tell whether the peer answers",
    b.WHY_NO_QUESTION: "data is in flight and the kernel had no occasion to ask in {elapsed} s, "
    "last segment {heard}",
}


def check(sock: SocketLike) -> Liveness:
    """Say what is known about the peer, without sending or waiting.

    :param sock: a connected TCP socket: socket, TLS socket, descriptor,
        object with fileno(), asyncio or uvloop transport, StreamWriter.

    Costs two or three system calls. Nothing is taken from the owner: neither
    data nor a pending error is consumed. What no local knowledge can show, a
    silently vanished peer, is OPEN; ask with :func:`probe`.

    Linux: poll(2), TCP_INFO, SIOCINQ; all of it is told. FreeBSD, OpenBSD:
    kqueue(2), TCP_INFO; ``heard_ago`` is told modulo 71 minutes, how many
    probes are unanswered is not. macOS, NetBSD, Windows: a FIN, a reset and
    a timeout are seen; ``heard_ago`` is None, so a live peer is OPEN, never
    ALIVE. DragonFly BSD, illumos, Solaris, AIX:
    NotSupportedError.

    Threads: any, beside any other use of the socket. Errors:
    NotSupportedError for UDP, AF_UNIX and listening sockets, OSError(EBADF)
    for a closed one, OSError(ENOTCONN) for one that was never connected,
    TypeError for what is no socket. Source: tcp(7), net/ipv4/tcp.c (Linux),
    kqueue(2), tcp(4), netinet/tcp_usrreq.c (BSD, macOS), SIO_TCP_INFO.

    >>> a, b = tcp_pair()
    >>> check(a).state
    <State.ALIVE: 'alive'>
    >>> b.close()
    >>> check(a).state
    <State.PEER_CLOSED: 'peer_closed'>
    """
    return Liveness(_impl.backend.check(as_fd(sock)))


def probe(sock: SocketLike, timeout: float = 3.0) -> Liveness:
    """Ask the peer's kernel whether the connection still exists.

    :param sock: as for :func:`check`.
    :param timeout: seconds to wait for the answer, more than 0, at most 3600.

    Not a byte enters the stream: the kernel sends a keepalive probe at once,
    again every 0.75 s, and the peer's kernel answers it, whatever its process
    does. A segment at most 1 s old is answer enough. With data in flight or a
    shut window no probe leaves; retransmissions and window probes are the
    questions then, and a user_timeout goes on. The connection is never ended
    by asking: meanwhile user_timeout is off and the count 127, and from 120
    unanswered probes on no more are sent. Every option is restored on every
    path. After SILENT the kernel goes on counting the unanswered
    probes; `reason` warns if its next tick ends the connection by that.

    Linux: answered after a round trip and one or two ticks of the kernel
    (4 ms each at 250 Hz). An option that followed the system's default
    follows it no more: it holds the same number, or the largest that can be
    set (idle 32767 s, count 127). FreeBSD: the first question leaves after
    1 s, because the timer is armed for a whole second. OpenBSD: a segment
    that arrives shows, but no question can be put: UNKNOWN if none has come.
    macOS, NetBSD, Windows: an answer would show in nothing that the kernel
    tells: UNKNOWN, unless the connection has ended. UNKNOWN comes at once,
    without waiting. DragonFly BSD, illumos, Solaris, AIX:
    NotSupportedError.

    Threads: any; probers of one socket share one question. Errors: as
    :func:`check`, and ValueError, TypeError for timeout. Source:
    net/ipv4/tcp_timer.c (Linux), netinet/tcp_timer.c (FreeBSD).

    >>> a, b = tcp_pair()
    >>> probe(a, timeout=2).usable
    True
    """
    run = _Run(sock, timeout)
    try:
        while (found := run.step()) is None:
            _sleep(run.pause())
        return found
    finally:
        run.close()


async def aprobe(sock: SocketLike, timeout: float = 3.0) -> Liveness:
    """Ask the peer's kernel from a coroutine; no thread is used.

    The same as :func:`probe` for asyncio (any event loop, uvloop too).
    Cancelling it restores every option.

    >>> async def main():
    ...     a, b = tcp_pair()
    ...     return (await aprobe(a)).state
    >>> asyncio.run(main())
    <State.ALIVE: 'alive'>
    """
    run = _Run(sock, timeout)
    try:
        while (found := run.step()) is None:
            await asyncio.sleep(run.pause())
        return found
    finally:
        run.close()


class _Run:
    """One prober: a witness of its own, and a share in the socket's question."""

    __slots__ = ("_began", "_deadline", "_fd", "_looks", "_session", "_witness")

    def __init__(self, sock: SocketLike, timeout: float) -> None:
        seconds = as_seconds("timeout", timeout)
        if seconds > _LONGEST_TIMEOUT:
            raise ValueError(
                f"timeout={timeout!r}: out of range (allowed: more than 0, up to "
                f"{plain(_LONGEST_TIMEOUT)} s)"
            )
        self._fd = as_fd(sock)
        self._began = _clock()
        self._deadline = self._began + seconds
        self._looks = 0
        self._witness: b.WitnessLike | None = None
        self._session: _asking.Session | None = None

    def step(self) -> Liveness | None:
        """Look, and ask if it is time to; return the answer once there is one."""
        now = _clock()
        verdict = self._look(now)
        if verdict[0] == b.ASKING and now >= self._deadline:
            verdict = self._give_up(now)
            return Liveness(verdict, now - self._began, self._warning(verdict))
        if verdict[0] != b.ASKING:
            return Liveness(verdict, now - self._began)
        if verdict[1] == b.WHY_MUST_ASK:
            if self._session is None:
                assert self._witness is not None
                self._session = _asking.join(self._fd, self._witness.identity)
            self._session.ask(_ms(now))
        return None

    def pause(self) -> float:
        """Return how long to wait before the next look."""
        pause = _PAUSES[min(self._looks, len(_PAUSES) - 1)]
        self._looks += 1
        return min(pause, max(0.0, self._deadline - _clock()))

    def close(self) -> None:
        """Give back what was borrowed."""
        session, self._session = self._session, None
        if session is not None:
            session.leave()

    def _look(self, now: float) -> b.Verdict:
        if self._witness is None:
            self._witness = _impl.backend.Witness(self._fd)
            return self._witness.begin(_ms(now))
        return self._witness.look(self._count(), _ms(now))

    def _give_up(self, now: float) -> b.Verdict:
        assert self._witness is not None
        return self._witness.give_up(self._count(), _ms(now))

    def _count(self) -> int:
        return 0 if self._session is None else self._session.asked

    def _warning(self, verdict: b.Verdict) -> str:
        if verdict[0] != b.SILENT:
            return ""
        enabled, _, _, count, user_timeout, _ = _asking.held_by_owner(self._fd)
        if enabled != 1:
            return ""
        heard, unanswered = verdict[4], verdict[6]
        if 0 < user_timeout <= heard:
            return (
                "the kernel counts these probes: its next tick ends the connection, because "
                f"user_timeout {plain(user_timeout / 1000)} s has passed"
            )
        if user_timeout <= 0 and 0 < count <= unanswered:
            return (
                "the kernel counts these probes: its next tick ends the connection, because "
                f"{unanswered} are unanswered and count is {count}"
            )
        return ""


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

"""What a scenario of a watched connection needs, what it returns, and the list of all.

Every scenario has a thread, a connection and a timeline of its own, and all of them run at the
same time. So the faults that are wanted at about the same moment go to the router in one command:
one after the other they would come seconds late.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from stillalive import guard
from stillalive.tuning import describe

from .netlab import (
    ADDRESSES,
    COMMAND_TIMEOUT,
    Connection,
    NetLab,
    receive_exactly,
    small_buffers,
    wait_for_end,
    wait_for_error,
)

D = 4.0
"""The promise that most scenarios are run with: detect_within."""

# The router silently drops what is sent there.
BLACK_HOLE = "10.99.0.1"

ERROR, EOF, SPARED = "gets an error", "gets the end of the stream", "is not touched"
"""What becomes of the owner's blocked call."""

# How long after the promise a scenario waits before it says "never told".
EXTRA_WATCH = 3.0
# From the event until a call that is blocked meanwhile gets its error: the kernel's tick or next
# retransmission, or else the disconnection after 300 ms; the rest is for a busy machine.
OWNER_IS_TOLD = 1.5


class GroupLab(NetLab):
    """A network whose router takes what is asked of it at the same time in one transaction."""

    def __init__(self) -> None:
        self._mutex, self._turn = threading.Lock(), threading.Lock()
        self._waiting: list[str] = []
        self._done: Future[None] = Future()
        super().__init__()
        self.router.ip(f"route add blackhole {BLACK_HOLE}")

    def nft(self, *lines: str) -> None:
        with self._mutex:
            self._waiting += lines
            done = self._done
        with self._turn:
            if not done.done():
                self._commit(done)
        done.result()

    def _commit(self, done: Future[None]) -> None:
        with self._mutex:
            lines, self._waiting = self._waiting, []
            self._done = Future()
        try:
            super().nft(*lines)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)


class Lateness(threading.Thread):
    """Ask for short sleeps and see how much longer they take: the machine's own lateness."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.seen: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self._over.is_set():
            begin = time.monotonic()
            time.sleep(0.01)
            end = time.monotonic()
            if end - begin > 0.02:
                self.seen.append((end, end - begin - 0.01))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def around(self, moment: float) -> float:
        """The worst in the second before a moment, and just after it."""
        return max((late for end, late in self.seen if -1 < end - moment < 0.2), default=0.0)


@dataclass(frozen=True)
class Ended:
    """How an owner's call ended."""

    moment: float
    error: int
    result: object = None

    def __str__(self) -> str:
        return errno.errorcode[self.error] if self.error else f"returned {self.result!r}"


def call(function: Callable[..., object], *args: object) -> Ended:
    """Call as an owner does, and keep how it ended."""
    try:
        result = function(*args)
    except OSError as exc:
        return Ended(time.monotonic(), exc.errno or -1)
    return Ended(time.monotonic(), 0, result)


@dataclass
class Told:
    """What a scenario of a dead peer saw."""

    origin: float
    """When the peer had vanished for certain, and could not have a moment later."""
    event: guard.LivenessEvent | None = None
    moment: float = 0.0
    owner: Ended | None = None

    @property
    def after(self) -> float:
        return self.moment - self.origin


@dataclass
class Stage:
    """What one run of a scenario works with."""

    lab: NetLab
    within: float
    watched: bool = True
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _events: list[tuple[guard.LivenessEvent, float]] = field(default_factory=list)
    _told: threading.Event = field(default_factory=threading.Event)
    _owner: Future[Ended] | None = None
    _sock: socket.socket | None = None
    _blocked: socket.socket | None = None
    _watch: guard.Watch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()
        # An owner whose call is still blocked would keep its thread, and so the test, for ever.
        if self._blocked is not None and self._owner is not None and not self._owner.done():
            with contextlib.suppress(OSError):
                self._blocked.shutdown(socket.SHUT_RDWR)
        self._stack.close()

    def open(self, *args: Any, **keywords: Any) -> Connection:
        return self.lab.open(*args, **keywords)

    # What the owner does.

    def watch(self, sock: socket.socket, action: str | None = "abort", **keywords: Any) -> None:
        """Begin to watch; a control only remembers the socket."""
        self._sock = sock
        if self.watched:
            self._watch = guard.watch(
                sock, detect_within=self.within, action=action, on_event=self._on_event, **keywords
            )

    def _on_event(self, event: guard.LivenessEvent) -> None:
        self._events.append((event, time.monotonic()))
        self._told.set()

    def cancel(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def blocked_in(self, sock: socket.socket, function: Callable[..., object], arg: object) -> None:
        """Let a thread of the owner be blocked in a call on this socket."""
        sock.settimeout(None)
        self._blocked = sock
        pool = self._stack.enter_context(ThreadPoolExecutor(max_workers=1))
        self._owner = pool.submit(call, function, arg)

    def reads(self, sock: socket.socket) -> None:
        """Let the owner be blocked in recv(), as most owners are."""
        self.blocked_in(sock, sock.recv, 1)

    def sends(self, sock: socket.socket) -> None:
        """Let the owner be blocked in sendall(): it never stops."""
        self.blocked_in(sock, send_for_ever, sock)

    def vanish(self, connection: Connection) -> float:
        """Cut both ways; the moment at which that was done for certain."""
        connection.cut()
        return time.monotonic()

    # What came of it.

    @property
    def event(self) -> guard.LivenessEvent | None:
        return self._events[0][0] if self._events else None

    def told(self, origin: float, owner: Callable[[], object] | None = None) -> Told:
        """Wait for what is told of a peer that vanished at `origin`.

        After that `owner` is what the owner calls; else it is blocked already, or only waits.
        """
        assert self._sock is not None
        end = origin + self.within + (EXTRA_WATCH if self.watched else 0.5)
        if not self.watched:
            ended = wait_for_error(self._sock, end - time.monotonic())
            return Told(origin, moment=time.monotonic() if ended else 0.0)
        if not self.is_told(end - time.monotonic()):
            return Told(origin)
        event, moment = self._events[0]
        assert self._watch is not None
        if self._watch.wait(1) is not event or len(self._events) > 1:
            raise AssertionError(f"told {self._events}, but wait() gave {self._watch.event}")
        saw = self.owner_saw(OWNER_IS_TOLD) if owner is None else call(owner)
        return Told(origin, event, moment, saw)

    def owner_saw(self, seconds: float) -> Ended | None:
        """How the owner's blocked call ended, or what a poll() of its would have seen."""
        if self._owner is not None:
            with contextlib.suppress(TimeoutError):
                return self._owner.result(timeout=seconds)
            return None
        ending = wait_for_end(self._sock, seconds) if self._sock is not None else None
        return Ended(ending.moment, ending.error) if ending is not None else None

    def is_told(self, seconds: float) -> bool:
        return self._told.wait(max(0.0, seconds))

    def sleep_until(self, moment: float) -> None:
        """Sleep; what is told meanwhile is told too early."""
        if self._told.wait(max(0.0, moment - time.monotonic())):
            raise AssertionError(f"told too early: {self._events}")

    def untouched(self, connection: Connection, data: bytes = b"still there") -> None:
        """Nothing was told, neither end was ended, and data still passes both ways."""
        if self._events:
            raise AssertionError(f"told of a peer that is alive: {self._events}")
        for sock in (connection.client, connection.server):
            ending = wait_for_end(sock, 0)
            if ending is not None:
                raise AssertionError(f"ended: {ending}")
        connection.exchange(data)

    def process(self) -> ProcessPeer:
        """A connection whose peer is a process of its own."""
        peer = ProcessPeer(self.lab)
        self._stack.callback(peer.close)
        return peer


ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sock, _ = listener.accept()
while data := sock.recv(65536):
    sock.sendall(data)
"""


class ProcessPeer:
    """A process that echoes in the server namespace, and a connection to it."""

    def __init__(self, lab: NetLab) -> None:
        address = ADDRESSES[socket.AF_INET][1]
        self.process: subprocess.Popen[str] = lab.server.call(
            lambda: subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", ECHO, address],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        self.client: socket.socket = lab.client.call(
            lambda: socket.create_connection((address, port), timeout=COMMAND_TIMEOUT)
        )
        self.echo(b"begin")

    def echo(self, data: bytes) -> None:
        self.client.sendall(data)
        if receive_exactly(self.client, len(data)) != data:
            raise AssertionError("the peer sent other bytes than it received")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        # The signal may be delivered a moment later: until then the process may still read.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> float:
        """Kill the process; the moment at which it was gone."""
        self.process.kill()
        self.process.wait(timeout=COMMAND_TIMEOUT)
        return time.monotonic()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()


@dataclass(frozen=True)
class Case:
    """One scenario with its arguments: of a dead peer when `why` is not None.

    An empty `why` is a death that the kernel alone tells, `watched` is False in a control.
    """

    run: Callable[..., Told | None]
    row: tuple[Any, ...]
    within: float
    why: str | None
    owner: str = ERROR
    nat: bool = False
    watched: bool = True

    @property
    def name(self) -> str:
        return "-".join([self.run.__name__, *map(str, self.row), f"within{self.within:g}"])

    @property
    def done(self) -> str:
        """What the watch does; there is nothing left to do when the kernel knows already."""
        if self.why != "silent" or self.owner == SPARED:
            return "nothing"
        return "abort" if self.owner == ERROR else "shutdown"

    def __call__(self, lab: NetLab) -> Told | None:
        with Stage(lab, self.within, self.watched) as stage:
            return self.run(stage, *self.row)


CASES: list[Case] = []
Scenario = Callable[..., Told | None]
ScenarioT = TypeVar("ScenarioT", bound=Scenario)


def dead(
    *rows: tuple[Any, ...],
    why: str = "silent",
    within: tuple[float, ...] = (D,),
    control: bool = True,
    **more: Any,
) -> Callable[[ScenarioT], ScenarioT]:
    """Register a scenario of a dead peer, and a control; other promises with the first row."""

    def register(run: ScenarioT) -> ScenarioT:
        first = rows[0] if rows else ()
        CASES.extend(Case(run, row, within[0], why, **more) for row in rows or ((),))
        CASES.extend(Case(run, first, other, why, **more) for other in within[1:])
        if control:
            CASES.append(Case(run, first, within[0], why, watched=False, **more))
        return run

    return register


def alive(
    *rows: tuple[Any, ...], within: tuple[float, ...] = (D,)
) -> Callable[[ScenarioT], ScenarioT]:
    """Register a scenario of a peer that is alive; other promises with the first row."""

    def register(run: ScenarioT) -> ScenarioT:
        first = rows[0] if rows else ()
        CASES.extend(Case(run, row, within[0], None) for row in rows or ((),))
        CASES.extend(Case(run, first, other, None) for other in within[1:])
        return run

    return register


def options(sock: socket.socket) -> tuple[object, ...]:
    """The options that a watch may set, as they are now."""
    shown = describe(sock)
    return shown.enabled, shown.idle, shown.interval, shown.count, shown.user_timeout


def stalled_connection(stage: Stage) -> Connection:
    """A connection that little fills."""
    connection = stage.lab.connect(stage.lab.listen(prepare=small_buffers), small_buffers)
    connection.exchange()
    return connection


def send_for_ever(sock: socket.socket) -> None:
    block = os.urandom(1 << 16)
    while True:
        sock.sendall(block)


@contextlib.contextmanager
def steady_writes(sock: socket.socket, pause: float) -> Iterator[list[Ended]]:
    """Write a few bytes every so often; how the first write that failed did."""
    over, failed = threading.Event(), list[Ended]()

    def write() -> None:
        while not over.wait(pause):
            ended = call(sock.sendall, b"x" * 100)
            if ended.error:
                failed.append(ended)
                return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()

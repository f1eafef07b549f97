"""A healthy connection is never hit, whatever its server is going through.

Each case is a process with a Guard, whose limits are those that its healthy connections would
tempt: they last longer, and their traffic looks like what the limit is against. Beside them are
guilty twins, which must be ended in the same run. All cases run at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

import stillalive

from . import bad_day_server
from .bad_day_clients import (
    BUSY,
    LIMIT,
    PATIENCE,
    PROMISED,
    Client,
    answers_pings,
    asks_again,
    downloads,
    half_a_line,
    half_a_line_after_the_banner,
    hears_a_banner,
    idle_after_a_while,
    idle_after_an_answer,
    keeps_talking,
    listens,
    moves,
    moves_and_falls_silent,
    moves_and_rests,
    never_answered,
    never_reads,
    pauses_in_a_download,
    reads_in_gulps,
    rests_then_goes_on,
    silent,
    speaks_late,
    trickles,
    uploads,
    waits,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

# The rate of a slow upload is only judged after two stretches.
RATE_TAKES = 10.0
RESULT_TIMEOUT = 120.0
# The kernel counts in whole ticks.
TICK = 0.01

T = TypeVar("T")


Innocent = Callable[..., None]
Guilty = Callable[..., float]
"""What a client does; a guilty one returns the moment at which its clock began to run."""


@dataclass
class Verdict:
    """What became of a guilty connection."""

    name: str
    port: int
    why: str
    before: float
    """No clock began to run before this,"""
    began: float
    """and the one that counts not after this."""
    limit: float

    def problem(self, event: dict[str, Any] | None) -> str | None:
        """What is wrong with how it was ended."""
        if event is None:
            return f"{self.name} was not ended: {self}"
        early = event["at"] < self.before + self.limit - TICK
        late = event["at"] > self.began + self.limit + PROMISED + BUSY
        if event["why"] == self.why and not early and not late:
            return None
        return f"{self.name} was ended early={early} late={late}: {event}, {self}"


class Day:
    """One server, its clients, and what became of them."""

    def __init__(self, name: str, limits: list[dict[str, Any]], **options: Any) -> None:
        self.name = name
        self.stack = contextlib.ExitStack()
        self._clients: list[Future[None]] = []
        self._guilty: list[Future[Verdict]] = []
        self._innocent: dict[int, tuple[str, float]] = {}
        sources = str(Path(stillalive.__file__).parents[1])
        path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
        wishes = {"guards": limits, "banner": False, "forking": False, "descriptors": 0, **options}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", bad_day_server.__file__, json.dumps(wishes)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(self._kill)
        self.ports: list[int] = self._read()["ports"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server has died"
        return dict(json.loads(line))

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()

    def client(self, listener: int = 0, **options: bool) -> Client:
        client = Client(self.ports[listener], **options)
        self.stack.callback(client.sock.close)
        return client

    def innocent(self, does: Innocent, *args: Any, **options: Any) -> None:
        """Let a client do something that must come to its end."""

        def run(client: Client) -> None:
            self._innocent[client.port] = (does.__name__, math.inf)
            with client.sock:
                does(client, *args)
                # What is left of it in other processes may be ended from now on.
                self._innocent[client.port] = (does.__name__, time.monotonic())

        self._clients.append(self._begin(run, options))

    def guilty(
        self, why: str, does: Guilty, *args: Any, limit: float = LIMIT, **options: Any
    ) -> None:
        """Let a client do something for which it must be ended."""

        def run(client: Client) -> Verdict:
            before = client.connecting
            began = does(client, *args)
            client.read_to_the_end()
            return Verdict(does.__name__, client.port, why, before, began, limit)

        self._guilty.append(self._begin(run, options))

    def _begin(self, run: Callable[[Client], T], options: dict[str, Any]) -> Future[T]:
        """Let a thread connect and go on; it is connected when this returns."""
        future: Future[T] = Future()
        connected = threading.Event()

        def body() -> None:
            try:
                client = self.client(**options)
                connected.set()
                future.set_result(run(client))
            except BaseException as error:
                connected.set()
                future.set_exception(error)

        threading.Thread(target=body, daemon=True).start()
        connected.wait(PATIENCE)
        return future

    def beside(self, does: Callable[..., None], *args: Any) -> None:
        """Let something go on that is no client to be judged."""
        thread = threading.Thread(target=does, args=args, daemon=True)
        thread.start()
        self.stack.callback(thread.join, PATIENCE)

    def close(self) -> None:
        self.stack.close()

    def judge(self) -> None:
        """Wait for all clients; compare what was ended, and told, with what should be."""
        problems = []
        for client in self._clients:
            try:
                client.result(timeout=RESULT_TIMEOUT)
            except Exception as error:
                problems += traceback.format_exception(error)
        verdicts = [guilty.result(timeout=RESULT_TIMEOUT) for guilty in self._guilty]
        events = self._events()
        told = {event["port"]: event for event in events}
        problems += [f"told of nobody: {event}" for event in events if event["port"] is None]
        for event in events:
            name, over = self._innocent.get(event["port"], ("", 0.0))
            if event["at"] < over:
                problems.append(f"{name} was ended: {event}")
        problems += filter(None, (guilty.problem(told.get(guilty.port)) for guilty in verdicts))
        assert not problems, "\n".join([self.name, *problems])

    def _events(self) -> list[dict[str, Any]]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        events = []
        while "stats" not in (said := self._read()):
            events.append(said)
        return events


# The cases.

Case = Callable[[Day], None]
CASES: dict[str, tuple[Case, list[dict[str, Any]], dict[str, Any]]] = {}


def case(*more_limits: dict[str, Any], **options: Any) -> Callable[[Case], Case]:
    """Register a case with the limits of its Guards, and what else its server is told."""
    limits = {name: options.pop(name) for name in list(options) if name not in OPTIONS}

    def register(run: Case) -> Case:
        CASES[run.__name__] = (run, [limits, *more_limits], options)
        return run

    return register


OPTIONS = ("banner", "forking", "descriptors")


@case(unanswered=LIMIT)
def slow_handler(day: Day) -> None:
    day.innocent(waits, "wait", 1.5, 4)
    day.innocent(waits, "held", 5, 1)
    day.innocent(waits, "held", 3, 2)
    day.guilty("unanswered", never_answered)
    day.guilty("unanswered", half_a_line)


@case(answered=LIMIT, unanswered=5)
def slow_second_request(day: Day) -> None:
    for _ in range(12):
        day.innocent(asks_again, 3.5)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("unanswered", never_answered, limit=5)


@case(unanswered=LIMIT, answered=LIMIT, never_spoke=LIMIT)
def long_poll(day: Day) -> None:
    for _ in range(4):
        day.innocent(waits, "held", 2.6, 3)
        day.innocent(waits, "wait", 1.7, 4)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("unanswered", never_answered)
    day.guilty("never_spoke", silent)


@case(answered=LIMIT, unanswered=LIMIT)
def streams(day: Day) -> None:
    day.innocent(listens)
    day.innocent(answers_pings)
    day.guilty("answered", idle_after_an_answer)


@case(never_spoke=LIMIT, unanswered=LIMIT, banner=True)
def server_first(day: Day) -> None:
    day.innocent(hears_a_banner, 5, listener=1)
    day.guilty("never_spoke", silent)
    day.guilty("unanswered", half_a_line_after_the_banner, listener=1)


@case(unanswered=LIMIT, min_rate=100)
def slow_steady_upload(day: Day) -> None:
    day.innocent(uploads, 400, 13)
    day.innocent(uploads, 20_000, 13)
    day.guilty("min_rate", trickles, limit=RATE_TAKES)
    day.guilty("unanswered", half_a_line)


@case(answered=LIMIT, unanswered=LIMIT, stalled=LIMIT)
def slow_steady_download(day: Day) -> None:
    day.innocent(downloads, 60_000, 0.5)
    day.innocent(downloads, 3_000_000, 0.01)
    day.innocent(reads_in_gulps, 1.4, slow=True)
    day.guilty("stalled", never_reads, slow=True)
    day.guilty("answered", idle_after_an_answer)


@case(answered=LIMIT, unanswered=LIMIT)
def bytes_unsent(day: Day) -> None:
    """What the owner has written and the peer has not taken is not idleness."""
    day.innocent(pauses_in_a_download, 5, slow=True)
    day.innocent(pauses_in_a_download, 3, slow=True)
    day.guilty("answered", idle_after_an_answer)


@case(never_spoke=LIMIT, unanswered=LIMIT, answered=LIMIT)
def descriptor_reuse(day: Day) -> None:
    """Numbers go from one connection to another while deadlines fire."""
    day.beside(storm, day, 8.0)
    for number in range(12):
        day.innocent(keeps_talking, 7 + number / 20, 0.1)
    for number in range(24):
        day.guilty("answered", idle_after_a_while, number / 6)
    for _ in range(6):
        day.guilty("never_spoke", silent)
        day.guilty("unanswered", half_a_line)


def storm(day: Day, seconds: float) -> None:
    """Short connections, several at a time, that let numbers be reused all the time."""
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as all_of_them, contextlib.suppress(OSError):
        held: list[Client] = []
        while time.monotonic() < end:
            held.append(Client(day.ports[0]))
            all_of_them.callback(held[-1].sock.close)
            if random.random() < 0.5:
                held[-1].echo(10)
            if len(held) > 20:
                held.pop(random.randrange(len(held))).sock.close()
            time.sleep(0.003)


@case(answered=LIMIT, unanswered=LIMIT)
def handed_over(day: Day) -> None:
    """What another process serves is no longer ours to end."""
    day.innocent(moves_and_rests, "hand", 5)
    day.innocent(moves, "hand", 5)
    day.guilty("answered", idle_after_an_answer)


@case(answered=LIMIT, unanswered=LIMIT)
def served_by_a_fork(day: Day) -> None:
    day.innocent(moves, "fork close", 5)
    day.innocent(moves, "fork keep", 5)
    day.guilty("answered", moves_and_falls_silent, "fork keep")
    day.guilty("answered", idle_after_an_answer)


@case(answered=LIMIT, unanswered=LIMIT)
def duplicates(day: Day) -> None:
    day.innocent(moves, "twin", 5)
    day.innocent(moves, "twin", 5)
    day.guilty("answered", moves_and_falls_silent, "twin")
    day.guilty("answered", idle_after_an_answer)


@case(answered=LIMIT, unanswered=LIMIT, never_spoke=LIMIT)
def listener_reopened(day: Day) -> None:
    day.innocent(keeps_talking, 6)
    day.guilty("answered", idle_after_an_answer)
    day.innocent(waits, "reopen", 1.2, 1)
    time.sleep(1.8)
    day.innocent(keeps_talking, 5)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("never_spoke", silent)


@case(answered=LIMIT, unanswered=LIMIT, never_spoke=LIMIT)
def own_outgoing_connections(day: Day) -> None:
    """Only what was accepted is guarded; a connection to a database may be as idle as it likes."""
    listener = day.stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def database() -> None:
        listener.settimeout(PATIENCE)
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(100):
                sock.sendall(data)

    day.beside(database)
    day.innocent(waits, f"call {listener.getsockname()[1]}", 5, 1)
    day.guilty("answered", idle_after_an_answer)


@case(unanswered=LIMIT, answered=LIMIT, never_spoke=LIMIT)
def stopped_and_continued(day: Day) -> None:
    """The process stands still for longer than all limits, with requests in progress."""
    for _ in range(5):
        day.innocent(waits, "wait", 1.0, 1)
        day.innocent(rests_then_goes_on, 6.2)
        day.innocent(speaks_late, 6.2)
    day.guilty("never_spoke", silent, limit=LIMIT + 5)
    day.guilty("answered", idle_after_an_answer, limit=LIMIT + 5)
    time.sleep(0.5)
    day.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        day.innocent(waits, "wait", 0.5, 1)
    time.sleep(5)
    day.process.send_signal(signal.SIGCONT)
    day.guilty("answered", idle_after_an_answer)


@case(unanswered=LIMIT, answered=LIMIT, never_spoke=LIMIT, descriptors=100)
def no_descriptors_left(day: Day) -> None:
    day.innocent(keeps_talking, 6)
    day.innocent(keeps_talking, 6)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("unanswered", never_answered)
    filler = day.client()
    day.guilty("never_spoke", silent)
    time.sleep(0.3)
    filler.say("held 0")
    assert filler.line() == "ok"
    filler.say("fill 4")
    time.sleep(1)


@case(unanswered=LIMIT, answered=LIMIT, forking=True)
def threads_and_forks(day: Day) -> None:
    """Every child has copies of all descriptors, and a Guard of its own."""
    for number in range(4):
        day.innocent(keeps_talking, 6, 0.3)
        day.innocent(waits, "wait", 1.5 - number / 10, 3)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("unanswered", never_answered)


@case(*({"answered": 3 + n, "unanswered": 3 + n} for n in range(20)), answered=LIMIT, unanswered=9)
def many_guards(day: Day) -> None:
    for _ in range(4):
        day.innocent(keeps_talking, 6)
        day.innocent(waits, "wait", 2.5, 2)
        day.innocent(waits, "held", 5, 1)
    day.guilty("answered", idle_after_an_answer)
    day.guilty("unanswered", never_answered, limit=3)


@pytest.fixture(scope="module")
def days() -> Iterator[dict[str, Future[Day]]]:
    """Start every case; the tests wait each for its own.

    First all processes, for a machine that is busy starting them is late with everything else.
    """
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=len(CASES)))

        def start(name: str) -> Day:
            _, limits, options = CASES[name]
            return Day(name, limits, **options)

        started = dict(zip(CASES, pool.map(start, CASES), strict=True))
        for day in started.values():
            stack.callback(day.close)

        def run(name: str) -> Day:
            CASES[name][0](started[name])
            return started[name]

        yield {name: pool.submit(run, name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_healthy_connections_are_never_hit(name: str, days: dict[str, Future[Day]]) -> None:
    days[name].result(timeout=RESULT_TIMEOUT).judge()

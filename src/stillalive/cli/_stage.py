"""The demo itself: what is done, in order, and what is observed."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from http.server import ThreadingHTTPServer

from ..liveness import State
from ._examine import Examiner, Verdict, options_of
from ._groups import GROUPS, Client, Group, Server, shares
from ._guarding import GuardedPart
from ._http_server import Board, serve
from ._idle import LIMIT, run_idle_part
from ._judge import Connection, Run
from ._limits import CommandError
from ._show import Show, Table, Tone
from ._words import counted, joined, seconds

__all__ = ["PROBE_TIMEOUT", "Demo"]

_QUIET = 1.2
"""Probes take a segment that is at most 1 s old for an answer: wait until none is."""
PROBE_TIMEOUT = 2.0


class Demo:
    """One run: a server, its clients, and the one who looks at the server's sockets."""

    def __init__(self, examiner: Examiner, within: float, show: Show, stack: ExitStack) -> None:
        self._examiner = examiner
        self._show = show
        self._stack = stack
        self._board: Board = {}
        self._server: ThreadingHTTPServer
        self._began = time.monotonic()
        self._part = GuardedPart(examiner.guards)
        self.run = Run(examiner.guards, within, None, [])

    def say(self, text: str, tone: Tone = "") -> None:
        self._show.line(f"{time.monotonic() - self._began:6.2f} s  {text}", tone)

    def phases(self, total: int) -> tuple[Callable[[], None], ...]:
        """Return what is done, in order."""
        opened = partial(self.open, total)
        return (
            self.start,
            opened,
            self.misbehave,
            self.look,
            self.act,
            self.await_ends,
            self.idle,
            self.guard,
            self.finish,
        )

    def start(self) -> None:
        """Start the servers, and tune the first one's listener."""
        self._part.start()
        self._stack.callback(self._part.stop)
        self._server = server = serve(self._board)
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        self._stack.callback(self._release)
        port = server.server_address[1]
        self.say(f"http.server.ThreadingHTTPServer, unmodified, on 127.0.0.1:{port}")
        held = self.run.held = self._examiner.prepare(server.socket, self.run.within)
        if held is None:
            self.say("its listener is left as it is")
            return
        idle, in_flight = held.detects_idle_within or 0.0, held.detects_in_flight_within or 0.0
        self.say(
            f"listener tuned, detect_within={self.run.within:g}: noticed in {seconds(idle)} idle, "
            f"{seconds(in_flight)} in flight"
        )

    def open(self, total: int) -> None:
        """Let every client connect, get an answer, and ask for what its group asks for."""
        for number, group in enumerate(shares(total), 1):
            try:
                connection = self._open(number, group)
            except (OSError, HTTPException) as error:
                raise CommandError(f"connection {number} of {total}: {error}") from error
            self.run.connections.append(connection)
        tuned = sum(c.tuned for c in self.run.connections)
        self.say(
            f"{total} clients connected; {counted(tuned, total)} accepted sockets have the deadline"
        )

    def misbehave(self) -> None:
        """Let every client do what its group is named for."""
        time.sleep(0.1)  # the last delayed acknowledgements are in
        for connection in self.run.connections:
            connection.group.act(connection.client)
            if not connection.group.ends:
                continue
            heard_ago = self._examiner.heard_ago(connection.session.sock)
            connection.vanished_at = time.monotonic() - heard_ago
        bad = [c.group.name.split("-")[0] for c in self.run.connections if not c.group.healthy]
        kinds = [f"{bad.count(kind)} {kind}" for kind in dict.fromkeys(bad)]
        living = len(self.run.connections) - len(bad)
        self.say(f"{living} clients wait or idle; now {joined(kinds)}")
        time.sleep(_QUIET)
        for connection in self.run.connections:
            if connection.group.server is Server.ANSWERING and connection.session.job is not None:
                connection.vanished_at = time.monotonic()
                connection.session.job.finish()
        time.sleep(0.1)

    def look(self) -> None:
        """Examine every accepted socket: at once without asking, then asking all together."""
        for connection in self.run.connections:
            connection.known = self._look(connection)
        known = [c.known for c in self.run.connections]
        gone = [verdict for verdict in known if verdict and not verdict.state.usable]
        name = "check" if self.run.guarded else "poll and MSG_PEEK"
        self.say(f"{name}: {counted(len(gone), len(known))} are gone, known without a packet")
        asyncio.run(self._ask_all())
        name = "aprobe, all at once" if self.run.guarded else "the verdict"
        self.say(f"{name}: {_tally([c.found for c in self.run.connections])}")

    def act(self) -> None:
        """Stop the work for clients that are known to be gone."""
        stopped = 0
        for connection in self.run.connections:
            job, found = connection.session.job, connection.found
            if connection.group.ends or job is None or found is None or found.state.usable:
                continue
            job.abandon()
            stopped += 1
        self.say(f"work stopped for {stopped} clients that are gone")

    def await_ends(self) -> None:
        """See how long the server keeps the connections of clients that vanished."""
        mortal = [c for c in self.run.connections if c.group.ends]
        deadline = max(c.vanished_at for c in mortal) + self.run.within + 0.5
        left, shown = mortal, len(mortal)
        while left and time.monotonic() < deadline:
            for connection in left:
                self._see_end(connection)
            left = [c for c in left if c.ended_after is None]
            if len(left) < shown:
                ended = len(mortal) - len(left)
                self.say(
                    f"kernel: {counted(ended, len(mortal))} vanished clients' connections ended"
                )
            shown = len(left)
            time.sleep(0.05)
        if left:
            self.say(
                f"{counted(len(left), len(mortal))} vanished clients' connections are still open"
            )

    def idle(self) -> None:
        """Serve with an idle timeout of our own, and see who is ended."""
        clients = self.run.idle_clients = run_idle_part(self._examiner.guards)
        silent = [c for c in clients if c.must_end]
        ended = [c.ended_after for c in silent if c.ended_after is not None]
        name = f"idle_timeout={LIMIT:g}" if self.run.guarded else "no idle timeout"
        when = f" after {min(ended):.2f} to {max(ended):.2f} s" if ended else ""
        self.say(f"{name}: {counted(len(ended), len(silent))} silent clients ended{when}")

    def guard(self) -> None:
        """Wait for the other server's clients, and see which of them it still has."""
        clients = self.run.guarded_clients = self._part.finish()
        bad = [c for c in clients if c.kind.limit is not None]
        ended = sum(c.ended_after is not None for c in bad)
        spared = len(clients) - len(bad)
        alive = sum(c.kind.limit is None and c.ended_after is None for c in clients)
        name = "guard" if self.run.guarded else "no guard"
        self.say(
            f"{name}: {counted(ended, len(bad))} bad connections ended, "
            f"{counted(alive, spared)} healthy ones left"
        )

    def finish(self) -> None:
        """Give the healthy clients their answers, and let them and new ones ask again."""
        for connection in self.run.connections:
            if connection.group.healthy:
                connection.later_answer = self._ask_again(connection)
        healthy = [c for c in self.run.connections if c.group.healthy]
        right = sum(c.later_answer == "right" for c in healthy)
        self.say(f"{counted(right, len(healthy))} healthy clients got the right answers")
        for number in range(10):
            self.run.server_asked += 1
            try:
                client = self._client()
                client.ask(f"/hello/new{number}")
                self.run.server_answers += client.answer() == f"answer to /hello/new{number}"
            except (OSError, HTTPException):
                continue
        self.say(f"{counted(self.run.server_answers, self.run.server_asked)} new clients answered")

    def progress(self) -> Table:
        """Return the table that is shown while the demo runs."""
        table = Table(("client", ">count", ">tuned", "known at once", "found", ">ended"))
        for group in GROUPS:
            members = [c for c in self.run.connections if c.group is group]
            ended = sum(c.ended_after is not None for c in members)
            table.add(
                group.title,
                str(len(members)),
                str(sum(c.tuned for c in members)),
                _tally([c.known for c in members]),
                _tally([c.found for c in members]),
                str(ended) if group.ends else "",
                tone="good" if group.healthy else "",
            )
        return table

    def _release(self) -> None:
        for session in self._board.values():
            if session.job is not None:
                session.job.abandon()

    def _open(self, number: int, group: Group) -> Connection:
        client = self._client()
        client.ask(f"/hello/{number}")
        answer = client.answer()
        if answer != f"answer to /hello/{number}":
            raise CommandError(f"connection {number}: the server answered {answer!r}")
        session = self._board[client.address]
        if group.server is not Server.READING:
            client.ask(f"/work/{number}")
            if not session.at_work.wait(10):
                raise CommandError(f"connection {number}: the server did not read the request")
        connection = Connection(number, group, client, session)
        connection.options_before = options_of(session.sock)
        connection.tuned = self._examiner.tuned(session.sock)
        return connection

    def _client(self) -> Client:
        address = self._server.server_address
        client = Client(("127.0.0.1", address[1]))
        self._stack.callback(client.leave)
        return client

    def _look(self, connection: Connection) -> Verdict:
        began = time.perf_counter()
        try:
            return self._examiner.look(connection.session.sock)
        except OSError as error:
            return _failed(connection, error, began)

    async def _ask_all(self) -> None:
        await asyncio.gather(*map(self._ask, self.run.connections))

    async def _ask(self, connection: Connection) -> None:
        sock, began = connection.session.sock, time.perf_counter()
        known = connection.known or self._look(connection)
        try:
            connection.found = await self._examiner.ask(sock, known)
            connection.options_after = options_of(sock)
        except OSError as error:
            connection.found = connection.found or _failed(connection, error, began)
            connection.options_after = connection.options_before  # no socket, no option left

    def _see_end(self, connection: Connection) -> None:
        session = connection.session
        if session.ended_at is not None:
            connection.ended_after = session.ended_at - connection.vanished_at
            timed_out = session.error is not None and session.error.errno == errno.ETIMEDOUT
            connection.ended_by = "timeout" if timed_out else f"{session.error or 'the server'}"
        elif connection.group.server is Server.WORKING and session.job is not None:
            found = self._look(connection)
            if not found.state.usable and found.state is not State.SILENT:
                connection.ended_after = time.monotonic() - connection.vanished_at
                dead = found.state is State.DEAD
                connection.ended_by = "timeout" if dead else found.state.value
                session.job.abandon()

    def _ask_again(self, connection: Connection) -> str:
        client, number = connection.client, connection.number
        expected = [f"answer to /hello/later{number}"]
        answers = []
        try:
            if connection.session.job is not None:
                connection.session.job.finish()
                expected.insert(0, f"answer to /work/{number}")
                answers.append(client.answer())
            client.ask(f"/hello/later{number}")
            answers.append(client.answer())
        except (OSError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return "right" if answers == expected else f"{answers!r}"


def _failed(connection: Connection, error: OSError, began: float) -> Verdict:
    """Say what a socket is that cannot be examined: closed after the kernel's timeout, or why."""
    took = time.perf_counter() - began
    cause = connection.session.error
    if error.errno == errno.EBADF and cause is not None and cause.errno == errno.ETIMEDOUT:
        return Verdict(State.DEAD, "the kernel ended it, and the server closed it", took)
    return Verdict(State.UNKNOWN, str(error), took)


def _tally(verdicts: list[Verdict | None]) -> str:
    states = [verdict.state.value for verdict in verdicts if verdict is not None]
    return joined((f"{states.count(s)} {s}" for s in dict.fromkeys(states)), "")

"""Clients of real servers: those that a Guard is to end, and those that it is to leave alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from .servers import Running, Server

LIMITS: dict[str, float] = {"never_spoke": 2, "answered": 3, "unanswered": 4, "min_rate": 200}
RATE_AFTER = 10.0
"""Seconds for which a rate has to be low."""
HEALTHY_FOR = 12
"""Seconds: several times each of the limits."""
PATIENCE = 30.0
FREED_WITHIN = 12.0

CUT = (OSError, EOFError, ssl.SSLError, asyncio.IncompleteReadError)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HELLO = bytes.fromhex("16030102000100 01fc0303".replace(" ", "")) + bytes(40)
"""How a TLS client begins; it promises more than it sends."""


@dataclass
class Stuck:
    """One connection that the server would keep."""

    limit: float
    """Seconds from its last activity until the Guard may end it."""
    began: float = 0
    """When its last activity that counts began."""
    ended: float | None = None
    """Seconds until it was ended; None: it was not."""
    freed: float | None = None
    """Seconds from then until the server had closed it."""
    got: bytes = b""


@dataclass
class Outcome:
    """What the clients of one server saw."""

    stuck: dict[str, list[Stuck]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Of those that are to be left alone."""
    waits: list[float] = field(default_factory=list)
    """Seconds until a normal request was answered."""
    stalled: float = 0
    """Seconds for which the clients themselves did not get the processor."""


class Clients:
    """The clients of one server."""

    def __init__(self, server: Running, outcome: Outcome, authority: ssl.SSLContext) -> None:
        self.server, self.outcome = server, outcome
        self.context = authority if server.secured else None
        self._opened: list[asyncio.StreamWriter] = []

    async def open(
        self, *, plain: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = None if plain else self.context
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, ssl=context)
        self._opened.append(writer)
        return reader, writer

    def close(self) -> None:
        """Drop what is still open."""
        for writer in self._opened:
            writer.transport.abort()

    # Those that are stuck. Each calls `_await_end` with the time of its last activity.

    async def sticky(self, kind: Callable[[Stuck], Awaitable[None]], stuck: Stuck) -> None:
        """Be such a client; one that cannot even begin is one that nobody ended."""
        with contextlib.suppress(*CUT, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await kind(stuck)

    async def _await_end(
        self,
        stuck: Stuck,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        drip: Callable[[], None] | None = None,
    ) -> None:
        port = writer.get_extra_info("sockname")[1]
        identity, _ = server_end(self.server.port, port)
        dripping = asyncio.create_task(self._drip(drip)) if drip else None
        try:
            with contextlib.suppress(*CUT):
                while piece := await reader.read(1000):
                    stuck.got += piece
            stuck.ended = time.monotonic() - stuck.began
            if dripping:
                dripping.cancel()
            stuck.freed = await self._until_freed(port, identity)
        finally:
            if dripping:
                dripping.cancel()
            writer.transport.abort()

    async def _drip(self, drip: Callable[[], None]) -> None:
        while True:
            drip()
            await asyncio.sleep(0.5)

    async def _until_freed(self, port: int, identity: int) -> float | None:
        since = time.monotonic()
        while (passed := time.monotonic() - since) < FREED_WITHIN:
            found, inode = server_end(self.server.port, port)
            if found != identity or not inode:
                return passed
            await asyncio.sleep(0.05)
        return None

    async def silent(self, stuck: Stuck) -> None:
        stuck.began = time.monotonic()
        await self._await_end(stuck, *await self.open(plain=True))

    async def hello(self, stuck: Stuck) -> None:
        """Send a part of a TLS handshake."""
        reader, writer = await self.open(plain=True)
        stuck.began = time.monotonic()
        writer.write(HELLO)
        await self._await_end(stuck, reader, writer)

    async def shaken(self, stuck: Stuck) -> None:
        """Send nothing after the handshake; the server's tickets are the last that was sent."""
        stuck.began = time.monotonic()
        await self._await_end(stuck, *await self.open())

    async def head(self, stuck: Stuck) -> None:
        """Send half a request."""
        reader, writer = await self.open()
        stuck.began = time.monotonic()
        writer.write(b"GET /fast HTTP/1.1\r\nHost: here\r\nX-Part: ")
        await self._await_end(stuck, reader, writer)

    async def trickle(self, stuck: Stuck) -> None:
        """Send a request, a byte at a time."""
        stuck.began = time.monotonic()
        reader, writer = await self.open()
        writer.write(b"GET /fast HTTP/1.1\r\nHost: here\r\nX-Part: ")
        await self._await_end(stuck, reader, writer, drip=lambda: writer.write(b"x"))

    async def idle(self, stuck: Stuck) -> None:
        """Send nothing after an answer."""
        reader, writer = await self.open()
        stuck.began = time.monotonic()
        writer.write(request("/fast", keep=True))
        await read_answer(reader)
        await self._await_end(stuck, reader, writer)

    async def mute(self, stuck: Stuck) -> None:
        """Open a WebSocket and answer nothing."""
        reader, writer = await self.open()
        writer.write(UPGRADE)
        while b"\r\n\r\n" not in stuck.got:
            stuck.got += await reader.read(1000)
        stuck.began = time.monotonic() - 0.05
        await self._await_end(stuck, reader, writer)

    async def banner(self, stuck: Stuck) -> None:
        """Send half of an SSH client's first line."""
        reader, writer = await self.open()
        stuck.got = await reader.readline()
        await asyncio.sleep(0.05)  # in the same tick of the kernel it would be a tie, and answered
        stuck.began = time.monotonic()
        writer.write(b"SSH-2.0-")
        await self._await_end(stuck, reader, writer)

    # Those that are to be left alone.

    async def slow(self) -> None:
        """Wait for an answer that takes its time."""
        for _ in range(HEALTHY_FOR // 4):
            reader, writer = await self.open()
            with contextlib.closing(writer):
                writer.write(request("/slow?s=1.5"))
                await read_answer(reader)

    async def stream(self) -> None:
        """Read events, one a second."""
        reader, writer = await self.open()
        with contextlib.closing(writer):
            writer.write(request(f"/stream?n={HEALTHY_FOR}"))
            got = b""
            with contextlib.suppress(ssl.SSLError):  # not every server says that it ends
                while piece := await reader.read(1000):
                    got += piece
            assert got.count(b"data: ") == HEALTHY_FOR, f"events are missing: {got!r}"

    async def regular(self) -> None:
        """Ask every half a second over one connection."""
        reader, writer = await self.open()
        with contextlib.closing(writer):
            for _ in range(HEALTHY_FOR * 2):
                writer.write(request("/fast", keep=True))
                await read_answer(reader)
                await asyncio.sleep(0.5)

    async def upload(self) -> None:
        """Send a body slowly but steadily."""
        pieces, piece = HEALTHY_FOR * 4, bytes(500)
        reader, writer = await self.open()
        with contextlib.closing(writer):
            writer.write(request("/upload", body=pieces * len(piece)))
            for _ in range(pieces):
                await asyncio.sleep(0.25)
                writer.write(piece)
                await writer.drain()
            answer = await read_answer(reader)
            assert b"%d bytes" % (pieces * len(piece)) in answer, answer

    async def fresh(self) -> None:
        """Ask once over a new connection."""
        began = time.monotonic()
        reader, writer = await self.open()
        with contextlib.closing(writer):
            writer.write(request("/fast"))
            await read_answer(reader)
        self.outcome.waits.append(time.monotonic() - began)

    async def websocket_quiet(self) -> None:
        """Say nothing over a WebSocket; the library answers pings."""
        async with self._websocket() as connection:
            await asyncio.sleep(HEALTHY_FOR)
            await connection.send("still here")
            assert await connection.recv() == "still here"

    async def websocket_busy(self) -> None:
        async with self._websocket() as connection:
            for number in range(HEALTHY_FOR * 2):
                await connection.send(str(number))
                assert await connection.recv() == str(number)
                await asyncio.sleep(0.5)

    async def websocket_fresh(self) -> None:
        began = time.monotonic()
        async with self._websocket() as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"
        self.outcome.waits.append(time.monotonic() - began)

    def _websocket(self) -> Any:
        from websockets.asyncio.client import connect

        scheme = "ws" if self.context is None else "wss"
        return connect(f"{scheme}://127.0.0.1:{self.server.port}", ssl=self.context, proxy=None)

    async def ssh_quiet(self) -> None:
        """Say nothing in a session; the library answers the server's keepalive."""
        async with self._ssh() as connection, connection.create_process() as process:
            await asyncio.sleep(HEALTHY_FOR)
            process.stdin.write("still here\n")
            assert await process.stdout.readline() == "still here\n"

    async def ssh_fresh(self) -> None:
        began = time.monotonic()
        async with self._ssh() as connection, connection.create_process() as process:
            process.stdin.write("hello\n")
            assert await process.stdout.readline() == "hello\n"
        self.outcome.waits.append(time.monotonic() - began)

    def _ssh(self) -> Any:
        import asyncssh

        return asyncssh.connect(
            "127.0.0.1", self.server.port, username="me", known_hosts=None, config=None
        )

    async def healthy(self, kind: Callable[[], Awaitable[None]]) -> None:
        """Be such a client; note what went wrong."""
        try:
            async with asyncio.timeout(PATIENCE):
                await kind()
        except Exception as error:  # the libraries have names of their own for one that was cut
            self.outcome.problems.append(f"{kind.__name__}: {error!r}")


STUCK = {
    "silent": "never_spoke",
    "hello": "unanswered",
    "shaken": "answered",
    "head": "unanswered",
    "trickle": "min_rate",
    "idle": "answered",
    "mute": "answered",
    "banner": "unanswered",
}
"""Kinds of stuck clients, and which limit is theirs."""


@dataclass(frozen=True)
class Speech:
    """What the clients of a server are."""

    stuck: dict[str, int]
    healthy: tuple[str, ...]
    """If there are none a normal request is sent only when all that are stuck have ended."""
    normal: str


SPEECHES = {
    "http": Speech(
        {"silent": 20, "head": 20, "trickle": 20, "idle": 20},
        ("slow", "slow", "stream", "stream", "regular", "regular", "upload", "upload"),
        "fresh",
    ),
    "one-by-one": Speech({"silent": 3, "head": 3}, (), "fresh"),
    "websocket": Speech(
        {"silent": 20, "head": 20, "mute": 20},
        ("websocket_quiet", "websocket_quiet", "websocket_busy", "websocket_busy"),
        "websocket_fresh",
    ),
    "ssh": Speech({"silent": 20, "banner": 20}, ("ssh_quiet", "ssh_quiet"), "ssh_fresh"),
}


def speech_of(server: Server, *, secured: bool) -> Speech:
    """Return what the clients of this server are."""
    if secured and server.shakes_in_turn:
        return SPEECHES["one-by-one"]
    speech = SPEECHES[server.talks]
    stuck, healthy = dict(speech.stuck), list(speech.healthy)
    if secured and server.talks != "one-by-one":
        stuck |= {"hello": 5, "shaken": 5}
    if server.talks == "http" and not server.keeps_alive:
        del stuck["idle"]
        healthy = [kind for kind in healthy if kind != "regular"]
    if server.own_idle < RATE_AFTER:
        del stuck["trickle"]
    return Speech(stuck, tuple(healthy), speech.normal)


def limit_of(server: Server, kind: str) -> float:
    """Return how long such a client has from its last activity, in seconds."""
    if kind == "trickle":
        return RATE_AFTER
    if kind == "silent" and server.talks == "ssh":  # the server speaks first
        return LIMITS["answered"]
    return LIMITS[STUCK[kind]]


async def attend(
    server: Running, authority: ssl.SSLContext, speech: Speech | None = None
) -> Outcome:
    """Be all clients of one server."""
    outcome = Outcome()
    clients = Clients(server, outcome, authority)
    speech = speech or speech_of(server.server, secured=server.secured)
    throughout = bool(speech.healthy)
    looking = asyncio.create_task(look_for_stalls(outcome))
    async with asyncio.TaskGroup() as group:
        for kind, count in speech.stuck.items():
            outcome.stuck[kind] = [Stuck(limit_of(server.server, kind)) for _ in range(count)]
            for stuck in outcome.stuck[kind]:
                group.create_task(clients.sticky(getattr(clients, kind), stuck))
        for kind in speech.healthy:
            group.create_task(clients.healthy(getattr(clients, kind)))
        if throughout:
            group.create_task(ask_again_and_again(clients, getattr(clients, speech.normal)))
    if not throughout:
        await clients.healthy(getattr(clients, speech.normal))
    clients.close()
    looking.cancel()
    return outcome


async def look_for_stalls(outcome: Outcome) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.1)
        outcome.stalled = max(outcome.stalled, time.monotonic() - began - 0.1)


async def ask_again_and_again(clients: Clients, kind: Callable[[], Awaitable[None]]) -> None:
    for _ in range(HEALTHY_FOR * 2):
        await clients.healthy(kind)
        if clients.outcome.problems:
            return
        await asyncio.sleep(0.5)


def request(path: str, *, keep: bool = False, body: int | None = None) -> bytes:
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        "Host: here",
        f"Connection: {'keep-alive' if keep else 'close'}",
    ]
    if body is not None:
        lines.append(f"Content-Length: {body}")
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read an answer; each ends in the same word."""
    got = b""
    while not got.endswith(b" bytes"):
        piece = await reader.read(1000)
        assert piece, f"ended before the answer was there: {got!r}"
        got += piece
    assert got.startswith(b"HTTP/1.1 200"), got
    return got


_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_FOUND = struct.Struct("=4xH10x44xQ16xI")
"""Of the answer: its type, the socket's cookie, its inode."""


def server_end(port: int, client_port: int) -> tuple[int, int]:
    """Return the identity of the server's end of a connection, and its inode.

    The inode is 0 before it is accepted and after it is closed; the identity is
    0 when it is gone. The kernel is asked for that one: the list of all takes
    long where there are many.
    """
    home = socket.inet_aton("127.0.0.1") + bytes(12)
    wish = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, 0xFFF)
    end = struct.pack("!HH", port, client_port) + home + home + struct.pack("=I", 0) + b"\xff" * 8
    head = struct.pack("=IHHII", 16 + len(wish + end), _SOCK_DIAG_BY_FAMILY, 1, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.send(head + wish + end)
        answer = sock.recv(8192)
    if struct.unpack_from("=4xH", answer)[0] != _SOCK_DIAG_BY_FAMILY:
        return 0, 0
    _, identity, inode = _FOUND.unpack_from(answer)
    return identity, inode

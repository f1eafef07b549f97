"""The clients of the demo: one row per kind of client, and what each kind does to the server."""

from __future__ import annotations

import enum
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection

from ..liveness import State
from ._http_server import Address

__all__ = ["GROUPS", "Client", "Group", "Server", "can_vanish", "drop_everything", "shares"]

_PATIENCE = 10.0
_IP_MINTTL = {"linux": 21}
"""Its number is not in the socket module."""


def can_vanish() -> bool:
    """Tell whether a client can be made to vanish on this system."""
    return sys.platform in _IP_MINTTL


def drop_everything(sock: socket.socket, on: bool) -> None:
    """Pull the cable of one IPv4 connection, or plug it in again; no privileges needed.

    The peer's packets come with a time to live of 64; whatever has less than
    required is dropped before TCP sees it.
    """
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL[sys.platform], 255 if on else 0)


class Client:
    """One HTTP client with one connection."""

    def __init__(self, server: Address) -> None:
        self.http = HTTPConnection(*server, timeout=_PATIENCE)
        self.http.connect()
        self.address: Address = self.http.sock.getsockname()

    def ask(self, path: str) -> None:
        self.http.request("GET", path)

    def answer(self) -> str:
        return self.http.getresponse().read().decode()

    def stay(self) -> None:
        pass

    def close(self) -> None:
        self.http.close()

    def reset(self) -> None:
        self.http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.http.close()

    def close_behind_data(self) -> None:
        self._send_more()
        self.close()

    def reset_behind_data(self) -> None:
        self._send_more()
        self.reset()

    def vanish(self) -> None:
        drop_everything(self.http.sock, True)

    def leave(self) -> None:
        """Go for good, so that the server's kernel may forget the connection too."""
        if self.http.sock is not None and can_vanish():
            drop_everything(self.http.sock, False)
        self.http.close()

    def _send_more(self) -> None:
        self.http.sock.sendall(b"GET /unread HTTP/1.1\r\nHost: localhost\r\n\r\n")


class Server(enum.Enum):
    """What the server is doing meanwhile with a connection."""

    READING = "waits for the next request"
    WORKING = "works on the answer and does not read the socket"
    ANSWERING = "writes its answer to a client that is gone"


@dataclass(frozen=True, slots=True)
class Group:
    """One kind of client, and what must be found out about it."""

    name: str
    title: str
    weight: int
    server: Server
    act: Callable[[Client], None]
    right: tuple[State, ...]
    """The right verdicts, the expected one first."""

    @property
    def healthy(self) -> bool:
        return self.right[0].usable

    @property
    def ends(self) -> bool:
        """Tell whether the kernel must end the connection within the limit."""
        return State.SILENT in self.right


_LIVING = (State.ALIVE, State.OPEN)
_CLOSED = (State.PEER_CLOSED,)
_RESET = (State.RESET,)
_GONE = (State.SILENT, State.DEAD)
_READING, _WORKING, _ANSWERING = Server

GROUPS = (
    Group("waiting", "waits for its answer", 75, _WORKING, Client.stay, _LIVING),
    Group("idle", "idle after an answer", 75, _READING, Client.stay, _LIVING),
    Group("closed", "closed (FIN)", 30, _WORKING, Client.close, _CLOSED),
    Group("reset", "reset (RST)", 30, _WORKING, Client.reset, _RESET),
    Group("closed-unread", "closed behind data", 25, _WORKING, Client.close_behind_data, _CLOSED),
    Group("reset-unread", "reset behind data", 20, _WORKING, Client.reset_behind_data, _RESET),
    Group("vanished-idle", "vanished while idle", 15, _READING, Client.vanish, _GONE),
    Group("vanished-working", "vanished during work", 15, _WORKING, Client.vanish, _GONE),
    Group("vanished-answering", "vanished, answer sent", 15, _ANSWERING, Client.vanish, _GONE),
)


def shares(total: int) -> list[Group]:
    """Return a group for each of `total` connections: at least one of each, mixed evenly."""
    weights = sum(group.weight for group in GROUPS)
    counts = [max(1, total * group.weight // weights) for group in GROUPS]
    while sum(counts) > total:
        counts[counts.index(max(counts))] -= 1
    counts[0] += total - sum(counts)
    places = [
        ((place + 0.5) / count, group)
        for group, count in zip(GROUPS, counts, strict=True)
        for place in range(count)
    ]
    return [group for _, group in sorted(places, key=lambda entry: entry[0])]

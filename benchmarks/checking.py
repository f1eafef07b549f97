"""Asking no one: check() beside what connection pools do today, and what each of them sees."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import stillalive
from stillalive._backend import Backend

from .sockets import Pair, on_path, pair, reset, using, wait_for
from .timing import Contender, measure, statement
from .topic import Bench, Facts, Goal, Topic

__all__ = ["check"]

_LIMIT = "raw C, poll + TCP_INFO"
_COMPILED = "c: check(sock)"
_PURE = "pure: check(sock)"
_POLL = "select.poll, zero timeout"
_PEEK = "recv(1, MSG_PEEK | MSG_DONTWAIT)"
_INFO = "getsockopt(TCP_INFO) + struct"
_HEAD = struct.Struct("=BBBBB3x24I")
_PEEK_FLAGS = socket.MSG_PEEK | socket.MSG_DONTWAIT
_ESTABLISHED, _CLOSE, _CLOSE_WAIT = 1, 7, 8
_USABLE = ("quiet", "nothing to read", "a byte", _ESTABLISHED)


def by_poll(sock: socket.socket) -> str:
    """Look as urllib3 and httpcore do: what is readable while idle is dropped."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return "readable" if poller.poll(0) else "quiet"


def by_peek(sock: socket.socket) -> str:
    """Look at the next byte."""
    try:
        return "a byte" if sock.recv(1, _PEEK_FLAGS) else "end of stream"
    except BlockingIOError:
        return "nothing to read"
    except OSError as error:
        return type(error).__name__


def by_info(sock: socket.socket) -> int:
    """Look at the kernel's state of the connection alone."""
    state: int = _HEAD.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 280))[0]
    return state


def _judge(seen: object) -> tuple[bool, str]:
    """Say whether a pool would use the connection, and what was seen."""
    if isinstance(seen, stillalive.Liveness):
        unread = f", {seen.readable} unread" if seen.readable else ""
        return seen.usable, seen.state.name + unread
    return seen in _USABLE, f"state {seen}" if isinstance(seen, int) else str(seen)


def check(bench: Bench) -> Topic:
    """Measure check() and its rivals on a healthy, quiet connection."""
    with pair() as (client, _):
        rows = measure(_ways_to_check(bench, client), bench.effort, _LIMIT)
    compiled = next(row.median for row in rows if row.name == _COMPILED)
    return Topic(
        key="check",
        title="check: is this connection still usable, without asking",
        limit=_LIMIT,
        rows=rows,
        notes=(
            "The rivals are judged as pools judge them; see the next table for what they miss.",
        ),
        goals=(Goal("check(), microseconds", compiled / 1000, 3.0),),
        facts=_what_each_sees(bench),
    )


def _ways_to_check(bench: Bench, client: socket.socket) -> list[Contender]:
    fd = client.fileno()
    names = {
        "sock": client,
        "check": stillalive.check,
        "by_poll": by_poll,
        "by_peek": by_peek,
        "by_info": by_info,
    }
    public = statement("check(sock)", names)
    native = bench.native
    return [
        Contender(_LIMIT, lambda n: native.check(fd, n), interpreted=False),
        Contender("C core: ka_check", lambda n: native.core_check(fd, n), interpreted=False),
        Contender(_COMPILED, on_path(bench.compiled, public), twin=_PURE),
        Contender(_PURE, on_path(bench.pure, public)),
        Contender(_POLL, statement("by_poll(sock)", names)),
        Contender(_PEEK, statement("by_peek(sock)", names)),
        Contender(_INFO, statement("by_info(sock)", names)),
    ]


_Look = Callable[[socket.socket], object]


@dataclass(frozen=True)
class _Case:
    name: str
    usable: bool
    make: Callable[[Pair], None]


def _tcp_state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


def _healthy(_: Pair) -> None:
    pass


def _unread(ends: Pair) -> None:
    client, server = ends
    server.sendall(b"stray")
    wait_for(lambda: by_poll(client) == "readable", "data")


def _fin(ends: Pair) -> None:
    client, server = ends
    server.close()
    wait_for(lambda: _tcp_state(client) == _CLOSE_WAIT, "FIN")


def _rst(ends: Pair) -> None:
    client, server = ends
    reset(server)
    wait_for(lambda: _tcp_state(client) == _CLOSE, "RST")


def _fin_behind_unread(ends: Pair) -> None:
    _unread(ends)
    _fin(ends)


_CASES = (
    _Case("healthy", True, _healthy),
    _Case("unread data", True, _unread),
    _Case("FIN", False, _fin),
    _Case("RST", False, _rst),
    _Case("FIN behind unread data", False, _fin_behind_unread),
)


@contextlib.contextmanager
def _made(case: _Case) -> Iterator[socket.socket]:
    with pair() as ends:
        case.make(ends)
        yield ends[0]


def _what_each_sees(bench: Bench) -> Facts:
    """Make every case anew for every way, and write down what it answers."""

    def on(backend: Backend) -> _Look:
        def look(sock: socket.socket) -> object:
            with using(backend):
                return stillalive.check(sock)

        return look

    ways: dict[str, _Look] = {
        _COMPILED: on(bench.compiled),
        _PURE: on(bench.pure),
        _POLL: by_poll,
        _PEEK: by_peek,
        _INFO: by_info,
    }
    return Facts(
        title="check: what each of them saw in this run",
        columns=("", *(case.name for case in _CASES), "owner still gets the reset"),
        rows=[
            (name, *(_seen(look, case) for case in _CASES), _left_for_owner(look))
            for name, look in ways.items()
        ],
        notes=(
            (
                "Cell: right or WRONG about usable, and what was seen. An idle TLS 1.3 connection "
                "may hold unread session tickets and is usable."
            ),
            (
                "Last column: after the look at the reset connection, does the owner's recv raise "
                "ConnectionResetError, or read a clean end of stream?"
            ),
            "A peer that has vanished silently looks healthy to all of them: only a probe tells.",
        ),
    )


def _seen(look: _Look, case: _Case) -> str:
    with _made(case) as sock:
        usable, shown = _judge(look(sock))
    return f"{'right' if usable is case.usable else 'WRONG'}: {shown}"


def _left_for_owner(look: _Look) -> str:
    with pair() as ends:
        _rst(ends)
        look(ends[0])
        try:
            ends[0].recv(1)
        except ConnectionResetError:
            return "yes"
        return "NO, a clean end"

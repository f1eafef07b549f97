"""The demo's guarded server: the standard library's, which itself ends nobody.

Some clients do what exhausts such servers, others what looks alike and is
healthy. A Guard with limits of seconds must end the first and spare the second.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..guard import Guard

__all__ = ["DESCRIPTORS", "KINDS", "LATE", "GuardedClient", "GuardedPart"]

LATE = 1.0
"""What is allowed beyond a limit: the promise is half of it, the rest is for a busy machine."""
_STEP = 0.25
_SLOW_ANSWER = 2.0
_BLOCK = b"x" * 500
_UPLOAD = 100_000_000
_LARGE = b"x" * 8_000_000
"""More than both kernels hold for a client that does not read."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a client does, and in how many seconds of it it must be ended."""

    name: str
    title: str
    number: int
    limit: float | None = None
    late: float = LATE
    first: bytes = b""
    every: bytes = b""
    """Sent again and again, once in a step; an answer is not waited for."""


_GET = b"GET /%s HTTP/1.1\r\nHost: demo\r\n\r\n"
KINDS = (
    Kind("silent", "never says a word", 10, 2.0),
    Kind("half", "sends half a request", 10, 3.0, first=b"GET / HTTP/1.1\r\nHost:"),
    Kind("finished", "idle after an answer", 10, 4.0, first=_GET % b"now"),
    # Two stretches of 5 s, and up to one more until the first begins.
    Kind(
        "trickling",
        "sends a byte now and then",
        6,
        10.0,
        5.5 + LATE,
        b"GET / HTTP/1.1\r\nX: ",
        b"x",
    ),
    Kind("asking", "asks again and again", 10, first=_GET % b"now", every=_GET % b"now"),
    Kind("waiting", "waits for slow answers", 8, first=_GET % b"slow"),
    Kind("listening", "listens to events", 6, first=_GET % b"events"),
    Kind(
        "uploading",
        "uploads slowly",
        6,
        first=b"POST / HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n" % _UPLOAD,
        every=_BLOCK,
    ),
    Kind("reading", "does not read its answer for long", 4, first=_GET % b"large"),
)
DESCRIPTORS = 2 * sum(kind.number for kind in KINDS) + 8
_LONGEST = max((kind.limit or 0.0) + kind.late for kind in KINDS)

_WANTED = {
    "asking": (int(_LONGEST / _STEP / 2), b"hello"),
    "waiting": (int(_LONGEST / _SLOW_ANSWER / 2), b"hello"),
    "listening": (int(_LONGEST / 2), b"data: "),
    "reading": (1, _LARGE),
}
"""How much of what."""


@dataclass(slots=True)
class GuardedClient:
    """One client, and what became of its connection."""

    kind: Kind
    sock: socket.socket
    address: str
    since: float
    """When it began what it is ended for; taken before the call, as the server's clock is later."""
    ended_after: float | None = None
    received: bytearray = field(default_factory=bytearray)
    answered: int = 0

    @property
    def content(self) -> bool:
        """Tell whether it has got what a client of its kind must have got by the end."""
        wanted = _WANTED.get(self.kind.name)
        if wanted is None:
            return True
        least, text = wanted
        return self.received.count(text) >= least


class _Handler(BaseHTTPRequestHandler):
    """An application; it has no deadline, as most have none."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(_SLOW_ANSWER)
        if self.path == "/events":
            self._events()
        else:
            self._answer(_LARGE if self.path == "/large" else b"hello")

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left > 0 and (data := self.rfile.read1(min(left, 65536))):
            left -= len(data)
        self._answer(b"thanks")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(int(_LONGEST / _STEP) + 8):
            self.wfile.write(b"data: %d\n\n" % number)
            time.sleep(4 * _STEP)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # clients go without a word
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the demo's own output readable."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class GuardedPart:
    """Runs in a thread of its own, beside the rest of the demo."""

    def __init__(self, guarded: bool) -> None:
        self._guarded = guarded
        self._thread = threading.Thread(target=self._run, name="stillalive demo: guard")
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self.clients: list[GuardedClient] = []
        self.events = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it early; a part that has ended stays as it is."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def finish(self) -> list[GuardedClient]:
        """Wait for its end, and return what became of every client."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.clients

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                address = self._serve(stack)
                for kind in KINDS:
                    for _ in range(kind.number):
                        self.clients.append(_connect(kind, address, stack))
                self._watch()
                for client in self.clients:
                    _say_goodbye(client)
        except BaseException as failure:  # raised again by finish()
            self._failure = failure

    def _serve(self, stack: ExitStack) -> tuple[str, int]:
        server = _Server(("127.0.0.1", 0), _Handler)
        stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        host, port = server.server_address[:2]
        if self._guarded:
            limits = {kind.name: kind.limit for kind in KINDS}
            guard = Guard(
                listeners=[port],
                never_spoke=limits["silent"],
                unanswered=limits["half"],
                answered=limits["finished"],
                min_rate=100,
                on_event=self._count,
            )
            stack.enter_context(guard)
        return str(host), port

    def _count(self, event: object) -> None:
        self.events += 1

    def _watch(self) -> None:
        """Let every client do what its kind does, and see when connections end."""
        began = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                client.sock.setblocking(False)
                if client.kind.name != "reading":
                    selector.register(client.sock, selectors.EVENT_READ, client)
            for moment in _moments(began, began + _LONGEST + 0.5):
                for client in self.clients:
                    _go_on(client)
                while (left := moment - time.monotonic()) > 0:
                    for key, _ in selector.select(left):
                        if not _hear(key.data):
                            selector.unregister(key.fileobj)
                if self._stop.is_set():
                    return


def _moments(first: float, last: float) -> Iterator[float]:
    while first < last:
        first += _STEP
        yield first


def _connect(kind: Kind, address: tuple[str, int], stack: ExitStack) -> GuardedClient:
    before = time.monotonic()
    sock = stack.enter_context(socket.create_connection(address, timeout=5))
    if kind.first:
        before = time.monotonic()
        sock.sendall(kind.first)
    return GuardedClient(kind, sock, "{}:{}".format(*sock.getsockname()[:2]), before)


def _go_on(client: GuardedClient) -> None:
    """Send what a client sends again and again; the slow answer is asked for anew."""
    if client.ended_after is not None:
        return
    more = client.kind.every
    if client.kind.name == "waiting" and client.answered < client.received.count(b"hello"):
        client.answered += 1
        more = client.kind.first
    if more:
        with contextlib.suppress(OSError):
            client.sock.send(more)


def _hear(client: GuardedClient) -> bool:
    """Take what has come; False at the end of the stream."""
    with contextlib.suppress(OSError):
        data = client.sock.recv(1 << 16)
        if data:
            client.received += data
            return True
    client.ended_after = time.monotonic() - client.since
    return False


def _say_goodbye(client: GuardedClient) -> None:
    """Find out whether one that was to be spared still works, to the last byte."""
    if client.kind.name != "reading" or client.ended_after is not None:
        return
    client.sock.settimeout(5)
    with contextlib.suppress(OSError):
        while not client.content and (data := client.sock.recv(1 << 20)):
            client.received += data

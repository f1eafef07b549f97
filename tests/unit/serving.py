"""A Server in a thread, and protocols that write down what happens to them.

Time: `Serving(frozen=True)` freezes the server's clock before it starts, and
only `advance` moves it, inside the serving thread: a client sends `RUN`, and
the callback that it causes runs what `in_server` was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from stillalive.server import Server

from .. import needs

RUN = b"\0run\0"
PATIENCE = 10


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition, and return what it returned."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {what or condition}"
        time.sleep(0.003)
    return found


class Recorder(asyncio.Protocol):
    """Writes down each callback; `answer` is what the test wants done with data."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.log: list[Any] = []
        self.data = b""
        self.transport: Any = None
        self.exception: BaseException | None = None
        self.lost = threading.Event()
        serving.made.append(self)

    def connection_made(self, transport):
        self.transport = transport
        self.log.append("made")
        self.peername = transport.get_extra_info("peername")

    def data_received(self, data):
        self.serving.on_data(self, data)

    def eof_received(self):
        self.log.append("eof")
        return self.serving.stay_open

    def pause_writing(self):
        self.log.append("pause")

    def resume_writing(self):
        self.log.append("resume")

    def connection_lost(self, exc):
        self.log.append("lost")
        self.exception = exc
        self.reason = self.transport.get_extra_info("end_reason")
        self.lost.set()

    def was_lost(self) -> Recorder:
        assert self.lost.wait(PATIENCE)
        return self


class Serving:
    """A Server that runs in a thread until the block is left."""

    def __init__(
        self,
        factory: Callable[[], object] | None = None,
        *,
        answer: Callable[[Recorder, bytes], object] | None = None,
        stay_open: bool = False,
        frozen: bool = False,
        listener: socket.socket | None = None,
        start: bool = True,
        **options: Any,
    ) -> None:
        self.made: list[Recorder] = []
        self.errors: list[tuple[BaseException, Any]] = []
        self.answer, self.stay_open = answer, stay_open
        self._work: queue.Queue[Callable[[], object]] = queue.Queue()
        self._results: queue.Queue[object] = queue.Queue()
        listener = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
        self.family, self.address = listener.family, listener.getsockname()
        options.setdefault("on_error", lambda *told: self.errors.append(told))
        self.server = Server(listener, factory or (lambda: Recorder(self)), **options)
        if frozen:
            self.server._engine.freeze(1000)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.raised: BaseException | None = None
        self._clients = contextlib.ExitStack()
        self._start = start

    def _serve(self) -> None:
        try:
            self.server.serve_forever()
        except (KeyboardInterrupt, SystemExit) as error:
            self.raised = error

    def __enter__(self) -> Self:
        if self._start:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()
        self.server.close(0)
        if self._start:
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive()

    def connect(self, *, wait: bool = True) -> socket.socket:
        """Return a client; by default once the server has accepted it."""
        known = len(self.made)
        client = socket.socket(self.family, socket.SOCK_STREAM)
        self._clients.enter_context(client)
        client.settimeout(PATIENCE)
        with contextlib.suppress(() if wait else ConnectionResetError):  # ended already
            client.connect(self.address)
        if wait:
            until(lambda: len(self.made) > known and self.made[-1].log, "accepted")
        return client

    def on_data(self, protocol: Recorder, data: bytes) -> None:
        while RUN in data:
            data = data.replace(RUN, b"", 1)
            self._results.put(self._work.get_nowait()())
        if data:
            protocol.log.append("data")
            protocol.data += data
            if self.answer is not None:
                self.answer(protocol, data)

    def in_server(self, client: socket.socket, work: Callable[[], object]) -> Any:
        """Run `work` in a callback of `client`'s connection, and return its result."""
        self._work.put(work)
        client.sendall(RUN)
        return self._results.get(timeout=PATIENCE)

    def advance(self, client: socket.socket, seconds: float) -> None:
        """Move the frozen clock, and return once the server has ended who had to end.

        Who is idle comes last in a batch, so the third answer comes after them.
        """
        self.in_server(client, lambda: self.server._engine.advance(seconds))
        for _ in range(2):
            self.in_server(client, lambda: None)

    def stats(self) -> dict[str, int]:
        return self.server.stats()


def echo(protocol: Recorder, data: bytes) -> None:
    protocol.transport.write(data)


def read_all(client: socket.socket) -> bytes:
    """Return everything up to the end of the stream."""
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(min(65536, size - len(data)))
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return data


def reset(client: socket.socket) -> None:
    """Close with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, needs.RESET_ON_CLOSE)
    client.close()


def run(serving: Serving, client: socket.socket, work: Callable[[Any], object]) -> Any:
    """Run `work(transport)` for the newest connection in the server; return what it does."""
    outcome: list[tuple[object, Exception | None]] = []

    def attempt() -> None:
        try:
            outcome.append((work(serving.made[-1].transport), None))
        except Exception as error:
            outcome.append((None, error))

    serving.in_server(client, attempt)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value

"""The server of the demo, as its owner wrote it: standard library, blocking, unaware of us.

Nothing here imports stillalive, and `http.server.ThreadingHTTPServer` is used
as it is: a thread per connection, no timeouts. A request for ``/hello`` is
answered at once; one for ``/work`` takes as long as its job takes, as a query
or a long poll does, and meanwhile the handler does not read the socket.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Address", "Board", "Job", "Session", "serve"]

Address = tuple[str, int]


@dataclass(slots=True)
class Job:
    """A slow answer that somebody waits for."""

    wanted: bool = True
    _over: threading.Event = field(default_factory=threading.Event)

    def finish(self) -> None:
        self._over.set()

    def abandon(self) -> None:
        self.wanted = False
        self._over.set()

    def wait(self) -> bool:
        """Return True when the answer is there, False when nobody wants it."""
        self._over.wait()
        return self.wanted


@dataclass(slots=True)
class Session:
    """What the server knows about one accepted connection."""

    sock: socket.socket
    job: Job | None = None
    at_work: threading.Event = field(default_factory=threading.Event)
    ended_at: float | None = None
    """When its thread was done with it, on the monotonic clock."""
    error: OSError | None = None


Board = dict[Address, Session]
"""The sessions by the client's address."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    session: Session

    def __init__(self, board: Board, *args: object) -> None:
        self.board = board
        super().__init__(*args)  # type: ignore[arg-type]

    def setup(self) -> None:
        super().setup()
        self.session = self.board[self.client_address] = Session(self.connection)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError as error:
            self.session.error = error

    def do_GET(self) -> None:
        if self.path.startswith("/work/"):
            job = self.session.job = Job()
            self.session.at_work.set()
            if not job.wait():
                self.close_connection = True
                return
        body = f"answer to {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        super().finish()
        self.session.ended_at = time.monotonic()

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002
        self.session.error = next((a for a in args if isinstance(a, OSError)), None)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def serve(board: Board) -> ThreadingHTTPServer:
    """Start the server on a free port of 127.0.0.1; its sessions go into `board`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, board))
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="server", daemon=True
    ).start()
    return server

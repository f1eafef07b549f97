"""A guarded server whose clients tell it what to do: one process of the bad day's many.

    python bad_day_server.py OPTIONS   (JSON; see test_bad_day.py)

It prints the ports of its listeners, and then each event of its Guards as a
line of JSON. A line on its standard input ends it.

A client sends a line, a command with arguments, perhaps followed by data. The
commands are the methods of Serving.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from stillalive.guard import Guard, LivenessEvent

BLOCK = bytes(range(256)) * 16
BANNER = b"220 ready\n"
RECEIVER = "receiver"


def say(**words: Any) -> None:
    # One write: children that were forked say things on the same pipe.
    os.write(1, json.dumps(words).encode() + b"\n")


def tell(event: LivenessEvent) -> None:
    port = event.peer[1] if event.peer is not None else None
    say(port=port, why=event.why, at=time.monotonic(), reason=event.reason, process=os.getpid())


class Serving:
    """One connection."""

    def __init__(self, server: BadServer, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.buffer = b""

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while line := self.line():
                command, *arguments = line.split()
                if getattr(self, command)(*arguments) is not None:
                    break
        self.sock.close()

    def line(self) -> str:
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                return ""
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def exactly(self, size: int) -> bytes:
        parts = [self.buffer[:size]]
        self.buffer = self.buffer[size:]
        left = size - len(parts[0])
        while left:
            data = self.sock.recv(min(left, 65536))
            if not data:
                raise ConnectionError("the client sent less than it had announced")
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def answer(self, text: str = "ok") -> None:
        self.sock.sendall(text.encode() + b"\n")

    # Commands. One that returns something ends the connection.

    def echo(self, size: str) -> None:
        self.sock.sendall(self.exactly(int(size)))

    def wait(self, seconds: str) -> None:
        """A handler that takes its time."""
        time.sleep(float(seconds))
        self.answer()

    def held(self, seconds: str) -> None:
        with self.hold():
            time.sleep(float(seconds))
            self.answer()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for guard in self.server.guards:
                stack.enter_context(guard.hold(self.sock))
            yield

    def events(self, count: str, pause: str) -> None:
        """A stream that only the server speaks in."""
        for number in range(int(count)):
            time.sleep(float(pause))
            self.answer(f"event {number}")

    def pings(self, count: str, pause: str) -> None:
        for number in range(int(count)):
            self.answer(f"ping {number}")
            if self.line() != f"pong {number}":
                raise ConnectionError("not the pong that belongs to the ping")
            time.sleep(float(pause))

    def download(self, size: str, pause: str) -> None:
        """Send blocks; with a pause after each the reader is never behind."""
        left = int(size)
        while left > 0:
            self.sock.sendall(BLOCK[:left])
            left -= len(BLOCK)
            if float(pause):
                time.sleep(float(pause))

    def upload(self, size: str) -> None:
        self.answer(hashlib.sha256(self.exactly(int(size))).hexdigest())

    def twin(self) -> None:
        """Go on with a duplicate, under another number."""
        # Something else must not get the old number while it is looked for.
        duplicate = socket.socket(fileno=os.dup(self.sock.fileno()))
        self.sock.close()
        self.sock = duplicate
        self.answer()

    def hand(self) -> str:
        """Let another process serve the connection from here on."""
        self.answer()
        socket.send_fds(self.server.receiver, [b"s"], [self.sock.fileno()])
        return RECEIVER

    def fork(self, keep: str) -> str | None:
        """Let a child serve the connection from here on; keep a copy, or none."""
        self.answer()
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                self.run()
                self.server.stop()  # what is to be told is told by then
            os._exit(0)
        if keep == "close":
            return "child"
        while self.server.running:
            time.sleep(0.1)
        return "child"

    def reopen(self, closed: str) -> None:
        """Close the listener; listen again, at the same port, some time later."""
        self.server.close_listener()
        time.sleep(float(closed))
        self.server.listen(self.server.port)
        self.answer()

    def fill(self, seconds: str) -> None:
        """Leave no descriptor for a while."""
        files = []
        with contextlib.suppress(OSError):
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        time.sleep(float(seconds))
        for fd in files:
            os.close(fd)
        self.answer(str(len(files)))

    def call(self, port: str, seconds: str) -> None:
        """Have a connection to somewhere else, as to a database, and use it rarely."""
        with self.hold(), socket.create_connection(("127.0.0.1", int(port))) as sock:
            sock.sendall(b"first")
            self.expect(sock, b"first")
            time.sleep(float(seconds))
            sock.sendall(b"again")
            self.expect(sock, b"again")
        self.answer()

    @staticmethod
    def expect(sock: socket.socket, data: bytes) -> None:
        if sock.recv(100) != data:
            raise ConnectionError("the own connection to elsewhere was ended")


class BadServer:
    """Listeners, a thread for each connection, and one or many Guards."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.running = True
        self._receiver: socket.socket | None = None
        self._starting = threading.Lock()
        self.listener = socket.socket()
        self.port = self.listen(0)
        ports = [self.port]
        if options["banner"]:
            banner = socket.create_server(("127.0.0.1", 0))
            ports.append(banner.getsockname()[1])
            threading.Thread(target=self.accept, args=(banner, BANNER), daemon=True).start()
        self.guards = [Guard(**limits, on_event=tell).start() for limits in options["guards"]]
        if options["forking"]:
            threading.Thread(target=self.fork_and_fork, daemon=True).start()
        if options["descriptors"]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (options["descriptors"],) * 2)
        say(ports=ports)

    @property
    def receiver(self) -> socket.socket:
        with self._starting:  # a second one would end the first, and who is served there
            if self._receiver is None:
                self._receiver = start_receiver()
            return self._receiver

    def listen(self, port: int) -> int:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self.accept, args=(self.listener, b""), daemon=True).start()
        return int(self.listener.getsockname()[1])

    def close_listener(self) -> None:
        # A close() alone does not wake the thread that is blocked in accept().
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self, listener: socket.socket, banner: bytes) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as exc:
                if exc.errno is None or listener.fileno() < 0 or not self.running:
                    return
                if not listening(listener):
                    return
                time.sleep(0.01)  # no descriptors left
                continue
            if banner:
                sock.sendall(banner)
            threading.Thread(target=Serving(self, sock).run, daemon=True).start()

    def fork_and_fork(self) -> None:
        """Fork children that live for a while, and run programs."""
        while self.running:
            if os.fork() == 0:
                with contextlib.suppress(BaseException):
                    time.sleep(4)
                    self.stop()
                os._exit(0)
            subprocess.run(["true"], check=True)
            time.sleep(0.5)

    def stop(self) -> None:
        self.running = False
        for guard in self.guards:
            guard.stop()


def listening(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


def start_receiver() -> socket.socket:
    """Start the process that serves what is handed to it, without any Guard."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, __file__, RECEIVER, str(theirs.fileno())]
    # Its standard output is not ours to share: it ends when we do, and not before.
    subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours


def receive(control: socket.socket) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        serving = Serving(None, socket.socket(fileno=fds[0]))
        threading.Thread(target=serving.run, daemon=True).start()


def main() -> None:
    if sys.argv[1] == RECEIVER:
        receive(socket.socket(fileno=int(sys.argv[2])))
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = BadServer(json.loads(sys.argv[1]))
    sys.stdin.readline()
    server.stop()
    say(stats=[guard.stats() for guard in server.guards])
    sys.stdout.flush()
    # Threads that still serve are of no more use.
    os._exit(0)


if __name__ == "__main__":
    main()

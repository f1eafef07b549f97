"""What the clients of the bad day do: the innocent ones, and the guilty ones.

A guilty one returns the moment at which its clock began to run; then it waits for its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import socket
import time

from . import bad_day_server

LIMIT = 2.0
"""What most limits are, in seconds."""
# How late a limit may be, as is promised, and what a machine may add on which so much is going on.
PROMISED, BUSY = 0.5, 1.0
PATIENCE = 30.0


class Client:
    """One connection to a server of the bad day."""

    def __init__(self, port: int, *, slow: bool = False) -> None:
        self.sock = socket.socket()
        if slow:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.sock.settimeout(PATIENCE)
        self.connecting = time.monotonic()
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        self.port: int = self.sock.getsockname()[1]

    def say(self, line: str, data: bytes = b"") -> None:
        self.sock.sendall(line.encode() + b"\n" + data)

    def exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = self.sock.recv(min(size - len(received), 65536))
            assert data, f"ended after {len(received)} bytes of {size}"
            received += data
        return bytes(received)

    def line(self) -> str:
        received = b""
        while not received.endswith(b"\n"):
            received += self.exactly(1)
        return received[:-1].decode()

    def echo(self, size: int = 3000) -> None:
        data = os.urandom(size)
        self.say(f"echo {size}", data)
        assert self.exactly(size) == data

    def read_to_the_end(self) -> None:
        """Wait for the end of the stream, or a reset."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass


# What guilty clients do.


def silent(client: Client) -> float:
    return time.monotonic()


def half_a_line(client: Client) -> float:
    client.sock.sendall(b"ech")
    return time.monotonic()


def half_a_line_after_the_banner(client: Client) -> float:
    assert client.exactly(len(bad_day_server.BANNER)) == bad_day_server.BANNER
    time.sleep(0.05)
    return half_a_line(client)


def never_answered(client: Client) -> float:
    client.say("wait 15")
    return time.monotonic()


def idle_after_an_answer(client: Client) -> float:
    client.echo()
    return time.monotonic()


def idle_after_a_while(client: Client, seconds: float) -> float:
    keeps_talking(client, seconds)
    return idle_after_an_answer(client)


def trickles(client: Client) -> float:
    client.say("upload 1000000")
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for _ in range(100):
            client.sock.sendall(b"x")
            time.sleep(0.2)
            if select.select([client.sock], [], [], 0)[0]:
                break
    return began


def never_reads(client: Client) -> float:
    client.say("download 20000000 0")
    began = time.monotonic()
    # The end would be behind what is never read, so there is nothing to see until then.
    time.sleep(LIMIT + PROMISED + BUSY)
    return began


# What innocent clients do.


def keeps_talking(client: Client, seconds: float, pause: float = 0.7) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.echo(random.choice((1, 3000, 100_000)))
        time.sleep(pause)


def waits(client: Client, command: str, seconds: float, times: int) -> None:
    for _ in range(times):
        client.say(f"{command} {seconds}")
        assert client.line() == "ok"
        time.sleep(0.05)


def asks_again(client: Client, seconds: float) -> None:
    """Not within a tick of the kernel: its clocks would not tell who spoke last."""
    client.say("wait 0")
    assert client.line() == "ok"
    time.sleep(0.05)
    client.say(f"wait {seconds}")
    assert client.line() == "ok"


def listens(client: Client) -> None:
    client.say("events 8 0.8")
    assert [client.line() for _ in range(8)] == [f"event {n}" for n in range(8)]


def answers_pings(client: Client) -> None:
    client.say("pings 8 0.8")
    for number in range(8):
        assert client.line() == f"ping {number}"
        client.say(f"pong {number}")


def hears_a_banner(client: Client, seconds: float) -> None:
    """The server speaks first; who reads that may think about it."""
    assert client.exactly(len(bad_day_server.BANNER)) == bad_day_server.BANNER
    time.sleep(seconds)
    client.echo()


def uploads(client: Client, rate: int, seconds: float) -> None:
    """Send slowly, but steadily."""
    step, count = 0.25, int(seconds / 0.25)
    data = os.urandom(int(rate * step) * count)
    client.say(f"upload {len(data)}")
    for at in range(0, len(data), len(data) // count):
        client.sock.sendall(data[at : at + len(data) // count])
        time.sleep(step)
    assert client.line() == hashlib.sha256(data).hexdigest()


def expected_blocks(size: int) -> bytes:
    block = bad_day_server.BLOCK
    return (block * (size // len(block) + 1))[:size]


def downloads(client: Client, size: int, pause: float) -> None:
    client.say(f"download {size} {pause}")
    assert client.exactly(size) == expected_blocks(size)


def reads_in_gulps(client: Client, pause: float) -> None:
    size = 300_000
    client.say(f"download {size} 0")
    received = b""
    while len(received) < size:
        time.sleep(pause)
        received += client.exactly(min(60_000, size - len(received)))
    assert received == expected_blocks(size)


def pauses_in_a_download(client: Client, pause: float) -> None:
    """The server has long finished when the rest is read."""
    size = 400_000
    client.say(f"download {size} 0")
    first = client.exactly(100_000)
    time.sleep(pause)
    assert first + client.exactly(size - 100_000) == expected_blocks(size)
    client.echo()


def moves(client: Client, command: str, seconds: float) -> None:
    """Something becomes of the server's descriptor; the conversation goes on."""
    client.echo()
    client.say(command)
    assert client.line() == "ok"
    keeps_talking(client, seconds)


def moves_and_rests(client: Client, command: str, seconds: float) -> None:
    client.echo()
    client.say(command)
    assert client.line() == "ok"
    time.sleep(seconds)
    client.echo()


def moves_and_falls_silent(client: Client, command: str) -> float:
    client.echo()
    client.say(command)
    assert client.line() == "ok"
    return time.monotonic()


def rests_then_goes_on(client: Client, seconds: float) -> None:
    client.echo()
    time.sleep(seconds)
    keeps_talking(client, 2)


def speaks_late(client: Client, seconds: float) -> None:
    time.sleep(seconds)
    keeps_talking(client, 2)

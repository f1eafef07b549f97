"""A guarded server under abuse of all kinds, mixed with healthy clients, for as long as one likes.

    python soak_guard.py SECONDS [--seed N] [--sabotage WHAT]

The server is a process of its own, with a thread for each connection, a Guard
with small limits, and descriptors of other kinds that come and go. No healthy
connection may be lost, no byte damaged, every abuser must be ended, and
descriptors, threads and memory must not grow. Prints a report as JSON; the
exit status is 1 if it names problems. Sabotage is what the report must find.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stillalive
from stillalive.guard import Guard, LivenessEvent

LIMITS: dict[str, Any] = {
    "never_spoke": 2,
    "unanswered": 2.5,
    "answered": 4,
    "min_rate": 40,
    "stalled": 3,
    "max_closes_per_second": 1000,
}
RATE_TAKES = 10.0
LATE = 3.0
"""How late an end may be; a busy machine is no error here."""
PATIENCE = 40.0
CROWD = 70
MOST_GROWTH = 16 << 20
RESET = struct.pack("ii", 1, 0)
BLOCK = random.Random(1).randbytes(1 << 16)

KINDS = {
    "talks": 30,
    "held": 3,
    "gulps": 3,
    "silent": 6,
    "half_head": 6,
    "rests": 6,
    "trickles": 3,
    "never_reads": 3,
    "resets": 8,
    "leaves": 8,
}
"""How often each kind of client comes; the first three are healthy."""


# The server.


class Service:
    """The server's process: its connections, its Guard, and what else it has open."""

    def __init__(self, sabotage: str | None) -> None:
        self.sabotage = sabotage
        self.over = threading.Event()
        self.problems: list[str] = []
        self.kept: list[Any] = []
        self.told: Counter[str] = Counter()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.guard = Guard(**LIMITS, on_event=self.on_event)
        self.samples: list[dict[str, int]] = []
        self.sampling = True

    def on_event(self, event: LivenessEvent) -> None:
        self.told[event.why] += 1

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        rng = random.Random()
        with contextlib.suppress(OSError), sock:
            if rng.random() < 0.2:
                # It ends when the socket is closed; nobody vanishes on this machine.
                self.guard.watch(sock, detect_within=4, on_event=self.on_watched)
            stream = sock.makefile("rb")
            with stream:
                while (line := stream.readline()).endswith(b"\n"):
                    self.obey(sock, stream, line.split())
        if self.sabotage == "leak" and rng.random() < 0.3:
            self.kept.append(os.dup(0))
        if self.sabotage == "grow":
            self.kept.append(random.randbytes(800_000))

    def on_watched(self, event: LivenessEvent) -> None:
        if event.why == "silent":
            self.problems.append(f"server: a watch told {event}")

    def obey(self, sock: socket.socket, stream: Any, words: list[bytes]) -> None:
        command, argument = words[0], float(words[1])
        if command == b"echo":
            data = stream.read(int(argument))
            digest = hashlib.sha256(data).digest()
            sock.sendall(digest + data)
        elif command == b"hold":
            with self.guard.hold(sock):
                time.sleep(argument)
                sock.sendall(b"ok")
        elif command == b"send":
            for _ in range(int(argument)):
                sock.sendall(BLOCK)
        if self.sabotage == "hit" and random.random() < 0.02:
            sock.shutdown(socket.SHUT_RDWR)

    def churn(self) -> None:
        """Let numbers be taken and given back, by what is no connection of a client."""
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            while not self.over.wait(0.05):
                files = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
                files += [*socket.socketpair()]
                files += [socket.socket() for _ in range(random.randrange(8))]
                random.shuffle(files)
                self.use_elsewhere(elsewhere)
                for file in files:
                    file.close()

    @staticmethod
    def use_elsewhere(listener: socket.socket) -> None:
        with socket.create_connection(listener.getsockname()) as ours:
            theirs, _ = listener.accept()
            with theirs:
                ours.sendall(b"x")
                assert theirs.recv(1) == b"x"

    def programs(self) -> None:
        while not self.over.wait(1):
            subprocess.run(["true"], check=True)
            # The limits stay as they are, but are set anew.
            self.guard.update(answered=LIMITS["answered"])

    def sample(self) -> None:
        while self.sampling:
            time.sleep(0.1)
            self.samples.append(usage())

    def run(self) -> None:
        self.guard.start()
        before = count() | self.looked_after()
        targets = (self.accept, self.churn, self.programs, self.sample)
        workers = [threading.Thread(target=target) for target in targets]
        for worker in workers:
            worker.start()
        print(self.listener.getsockname()[1], flush=True)
        sys.stdin.readline()
        # No more clients come, so from here on less is used by the minute.
        self.sampling = False
        sys.stdin.readline()
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        for worker in workers:
            worker.join(PATIENCE)
        self.listener.close()
        print(json.dumps(self.report(before)), flush=True)

    def looked_after(self) -> dict[str, int]:
        stats = self.guard.stats()
        return {name: stats[name] for name in ("tracked", "watched", "held")}

    def report(self, before: dict[str, int]) -> dict[str, Any]:
        # The listener is closed by now; it was there before.
        before["descriptors"] -= 1
        deadline = time.monotonic() + 10
        while (after := count() | self.looked_after()) != before:
            if time.monotonic() > deadline:
                self.problems.append(f"server: left over: {after} instead of {before}")
                break
            time.sleep(0.1)
        stats = self.guard.stats()
        self.guard.stop()
        quarter = len(self.samples) // 4
        growth = {}
        for what in self.samples[0]:
            early, late = (
                max(sample[what] for sample in self.samples[begin : begin + quarter])
                for begin in (quarter, 3 * quarter)
            )
            growth[what] = [early, late]
        if growth["resident"][1] - growth["resident"][0] > MOST_GROWTH:
            self.problems.append(f"server: memory grows: {growth['resident']}")
        for what in ("descriptors", "threads"):
            # Crowds differ from moment to moment; a leak makes more than a crowd.
            if growth[what][1] > 1.3 * growth[what][0] + 30:
                self.problems.append(f"server: {what} grow: {growth[what]}")
        return {"problems": self.problems, "growth": growth, "told": self.told, "stats": stats}


def threads() -> int:
    """Count them, but for the one that a Guard makes at its first callback."""
    return sum(thread.name != "stillalive-callbacks" for thread in threading.enumerate())


def count() -> dict[str, int]:
    gc.collect()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threads()}


def usage() -> dict[str, int]:
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = len(os.listdir("/proc/self/fd"))
    return {"resident": resident, "descriptors": descriptors, "threads": threads()}


# The clients.


class Client:
    """One connection, from its beginning to its end."""

    def __init__(self, soak: Soak, kind: str, seed: int) -> None:
        self.soak, self.kind, self.rng = soak, kind, random.Random(seed)
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        if kind in ("gulps", "never_reads"):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.sock.connect(soak.address)

    def run(self) -> None:
        began = time.monotonic()
        with self.sock:
            try:
                getattr(self, self.kind)()
            except Exception as error:
                after = time.monotonic() - began
                self.soak.problems.append(f"client: {self.kind} after {after:.1f} s: {error!r}")

    def exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = self.sock.recv(min(size - len(received), 1 << 16))
            if not data:
                raise ConnectionError(f"ended after {len(received)} bytes of {size}")
            received += data
        return bytes(received)

    def echo(self, size: int) -> None:
        data = self.rng.randbytes(size)
        self.sock.sendall(b"echo %d\n" % size + data)
        digest = hashlib.sha256(data).digest()
        if self.exactly(len(digest)) != digest or self.exactly(size) != data:
            raise ValueError("other bytes came back than were sent")

    def must_end(self, limit: float) -> None:
        """Wait for the end; there is a time for it."""
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(1 << 16):
                pass
        after = time.monotonic() - began
        if not limit - 0.2 <= after <= limit + LATE:
            raise TimeoutError(f"ended after {after:.2f} s, but the limit is {limit}")
        self.soak.ended[self.kind] += 1

    # Healthy ones.

    def talks(self) -> None:
        end = time.monotonic() + self.rng.uniform(0.5, 15)
        while time.monotonic() < end and not self.soak.over.is_set():
            self.echo(self.rng.choice((0, 1, 500, 20_000, self.rng.randrange(300_000))))
            self.soak.echoes += 1
            self.soak.over.wait(self.rng.choice((0, 0.02, 0.3, 1.5)))

    def held(self) -> None:
        """A request that is worked on for longer than the limit."""
        self.sock.sendall(b"hold %d\n" % self.rng.randint(3, 6))
        if self.exactly(2) != b"ok":
            raise ValueError("no answer")
        self.echo(100)

    def gulps(self) -> None:
        """A reader that pauses, and then takes some more."""
        self.sock.sendall(b"send 4\n")
        received = b""
        while len(received) < 4 * len(BLOCK):
            time.sleep(self.rng.uniform(0.2, 1.5))
            received += self.exactly(min(70_000, 4 * len(BLOCK) - len(received)))
        if received != BLOCK * 4:
            raise ValueError("other bytes came than were sent")

    # Abusers.

    def silent(self) -> None:
        self.must_end(LIMITS["never_spoke"])

    def half_head(self) -> None:
        self.sock.sendall(b"ec")
        self.must_end(LIMITS["unanswered"])

    def rests(self) -> None:
        self.echo(1000)
        self.must_end(LIMITS["answered"])

    def trickles(self) -> None:
        """A byte now and then, for ever."""
        self.sock.sendall(b"echo 100000\n")
        end = time.monotonic() + RATE_TAKES + 3 * LATE
        while not select.select([self.sock], [], [], 0.3)[0]:
            if time.monotonic() > end:
                raise TimeoutError("trickles on and on")
            with contextlib.suppress(ConnectionError):
                self.sock.sendall(b"x")
        self.soak.ended[self.kind] += 1

    def never_reads(self) -> None:
        self.sock.sendall(b"send 200\n")
        # Its end is behind all that it does not read, so it has to look late.
        time.sleep(LIMITS["stalled"] + LATE)
        self.must_end(0)

    def resets(self) -> None:
        if self.rng.random() < 0.7:
            self.sock.sendall(b"echo 100000\n" + BLOCK[: self.rng.randrange(60_000)])
        time.sleep(self.rng.choice((0, 0.01, 1)))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def leaves(self) -> None:
        if self.rng.random() < 0.5:
            self.echo(10)
        time.sleep(self.rng.choice((0, 0.01, 0.5)))


class Soak:
    """A server's process and the crowd of its clients."""

    def __init__(self, seconds: float, seed: int, sabotage: str | None) -> None:
        self.rng, self.seconds = random.Random(seed), seconds
        self.over = threading.Event()
        self.problems: list[str] = []
        self.ended: Counter[str] = Counter()
        self.came: Counter[str] = Counter()
        self.echoes = 0
        self.process = start_server(sabotage)
        assert self.process.stdout is not None
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    def run(self) -> dict[str, Any]:
        clients: list[threading.Thread] = []
        names, weights = list(KINDS), list(KINDS.values())
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            clients = [client for client in clients if client.is_alive()]
            if len(clients) < CROWD:
                kind = self.rng.choices(names, weights)[0]
                self.came[kind] += 1
                client = Client(self, kind, self.rng.getrandbits(40))
                clients.append(threading.Thread(target=client.run, daemon=True))
                clients[-1].start()
            time.sleep(0.01)
        self.over.set()
        self.say()
        for thread in clients:
            thread.join(PATIENCE)
            if thread.is_alive():
                self.problems.append("client: never came to its end")
        report = json.loads(self.process.communicate("\n", timeout=2 * PATIENCE)[0])
        report["problems"] += self.problems
        return {**report, "echoes": self.echoes, "came": self.came, "ended": self.ended}

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def start_server(sabotage: str | None) -> subprocess.Popen[str]:
    sources = str(Path(stillalive.__file__).parents[1])
    path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, __file__, "0", "--serve", *(["--sabotage", sabotage] if sabotage else [])],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def soak(seconds: float, seed: int = 0, sabotage: str | None = None) -> dict[str, Any]:
    """Run it all, and return the report."""
    seed = seed or random.SystemRandom().getrandbits(40)
    soaking = Soak(seconds, seed, sabotage)
    try:
        return {"seed": seed, **soaking.run()}
    finally:
        soaking.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="A guarded server under abuse.")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sabotage", choices=("hit", "leak", "grow"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.serve:
        Service(wish.sabotage).run()
        return 0
    report = soak(wish.seconds, wish.seed, wish.sabotage)
    print(json.dumps(report, indent=2))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

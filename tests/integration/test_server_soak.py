"""A Server under many connections of all kinds for seconds: no byte, callback or resource is lost.

``STILLALIVE_SOAK_SECONDS`` makes each run longer, ``STILLALIVE_SOAK_SEED``
repeats what a run's clients did (not the order in which threads did it).
"""

from __future__ import annotations

import errno
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

import pytest

import stillalive

from . import soak_server
from .soak_server import DIGEST, answer, body

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

SECONDS = float(os.environ.get("STILLALIVE_SOAK_SECONDS", "8"))
SEED = int(os.environ.get("STILLALIVE_SOAK_SEED", "0")) or random.SystemRandom().getrandbits(40)
PATIENCE = 25
MOST_GROWTH = 24 << 20
LATE = 5.0  # of an idle timeout, on a busy machine

MIXED = {
    "echo": 30,
    "upload": 6,
    "slow": 8,
    "half": 8,
    "last-word": 8,
    "reset": 8,
    "vanish": 8,
    "fail": 8,
    "close": 8,
    "leave": 3,
    "parked": 4,
    "abort": 5,
}
CROWD = {"echo": 6, "rest": 4, "slow": 1, "close": 3, "half": 2, "last-word": 1}

GONE = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNREFUSED}

SMALL = {"slow", "close", "leave", "parked", "abort"}
"""Kinds that take little at a time, so that the server has to keep the rest."""

_RESET = struct.pack("ii", 1, 0)


class CutShort(Exception):
    """The stream ended, or was reset, before the answer did."""


class Client:
    """One connection, from the first byte to the last."""

    def __init__(self, soak: Soak, kind: str, seed: int) -> None:
        self.soak, self.kind, self.seed = soak, kind, seed
        self.id = f"{kind}-{seed}"
        self.rng = random.Random(seed)
        self.said = 0.0  # when the last message began to be sent
        self.heard = 0  # bytes of the answer that is being read
        self.wish: dict[str, Any] = {}
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)

    def run(self) -> None:
        with self.sock:
            if self.kind in SMALL or self.rng.random() < 0.1:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            try:
                self.sock.connect(self.soak.address)
                getattr(self, self.kind.replace("-", "_"))()
            except (CutShort, OSError) as error:
                if isinstance(error, OSError) and error.errno not in GONE:
                    raise
                whole = self.kind not in {"echo", "abort", "reset", "fail", "leave"}
                if self.heard and whole:
                    self.wrong(f"got {self.heard} bytes of {self.wish}, then {error!r}")
                self.soak.cut_short(self, error)

    def wrong(self, text: str) -> None:
        self.soak.problems.append(f"client: {self.id}: {text}")

    # Messages.

    def message(self, size: int, **wish: Any) -> bytes:
        rng = self.rng
        self.wish = wish = {
            "id": self.id,
            "kind": self.kind,
            "size": size,
            "seed": rng.getrandbits(40),
            "answer": rng.choice((0, 100, 5000, 200_000)),
            "polite": rng.random() < 0.5,
            "sndbuf": rng.choice((0, 0, 16384)),
            "limits": rng.choice(((None, None), (0, 0), (1000, 1000), (200_000, 50_000))),
            **wish,
        }
        content = body(wish["seed"] // 7, size)
        digest = hashlib.sha256(content).digest()
        if self.soak.sabotage == "spoil":
            content = content[:-10] + bytes(10)
        return json.dumps(wish).encode() + b"\n" + content + digest

    def expected(self) -> bytes:
        """Return the answer to the message made last."""
        if self.kind == "echo":
            wish = self.wish
            content = body(wish["seed"] // 7, wish["size"])
            size = wish["size"].to_bytes(8, "big")
            return size + content + hashlib.sha256(content).digest()
        return answer(self.wish["seed"], self.wish["answer"])

    def small(self) -> int:
        return self.rng.choice((0, 1, 100, 3000, self.rng.randrange(20_000)))

    def big(self) -> int:
        return self.rng.randrange(100_000, 700_000)

    def send(self, data: bytes) -> None:
        """Send in pieces of random sizes."""
        view, at = memoryview(data), 0
        while at < len(view):
            self.said = time.monotonic()
            at += self.sock.send(view[at : at + self.piece(len(view))])

    def piece(self, size: int) -> int:
        if size < 3000:
            return self.rng.choice((1, 20, 1000, 3000))
        return self.rng.choice((1000, 1460, 30_000, 100_000))

    def ask(self, data: bytes, *, slowly: bool = False) -> None:
        """Send a message and read the answer at the same time."""
        expected, view, at = self.expected(), memoryview(data), 0
        poll = select.poll()
        self.heard, digest = 0, hashlib.sha256()
        while at < len(view) or self.heard < len(expected):
            sending = select.POLLOUT if at < len(view) else 0
            poll.register(self.sock, select.POLLIN | sending)
            if not (found := poll.poll(PATIENCE * 1000)):
                raise TimeoutError
            flags = found[0][1]
            if flags & select.POLLOUT:
                self.said = time.monotonic()
                piece = view[at : at + self.piece(len(view))]
                at += self.sock.send(piece, socket.MSG_DONTWAIT)
            if flags & ~select.POLLOUT:
                self.read_some(expected, digest, slowly)
        if expected and digest.digest() != expected[-DIGEST:]:
            self.wrong("the hashes differ")

    def read_some(self, expected: bytes, digest: Any, slowly: bool) -> None:
        if slowly and self.rng.random() < 0.3:
            time.sleep(0.003)
        room = self.rng.randrange(1, 8000) if slowly else 65536
        # Bytes that nobody has sent must not be left unseen.
        piece = self.sock.recv(min(room, len(expected) - self.heard) or 1)
        if not piece:
            raise CutShort("end of stream")
        if piece != expected[self.heard : self.heard + len(piece)]:
            self.wrong(f"damaged between {self.heard} and {self.heard + len(piece)}: {self.wish}")
            raise CutShort("damaged")
        end = len(expected) - DIGEST
        digest.update(piece[max(0, 8 - self.heard) : max(0, end - self.heard)])
        self.heard += len(piece)

    def end(self, *, reset: bool = False) -> None:
        """Look that nothing more comes than the end of the stream, or a reset."""
        self.heard = 0
        try:
            more = self.sock.recv(100)
        except ConnectionResetError:
            if not reset:
                raise
            return
        if more:
            self.wrong(f"more came than was sent: {more!r}")
        elif reset:
            raise CutShort("end of stream")

    def drop(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    # Kinds.

    def echo(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            size = self.big() if self.rng.random() < 0.2 else self.small()
            self.ask(self.message(size))

    def upload(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            self.ask(self.message(self.big(), answer=10))

    def slow(self) -> None:
        """Do not read for longer than the idle timeout, and then slowly."""
        idle = self.rng.choice((0.2, 60))
        data = self.message(self.small(), answer=self.big(), idle=idle, sndbuf=16384)
        self.send(data)
        time.sleep(0.5)
        self.ask(b"", slowly=True)

    def half(self) -> None:
        keep = self.rng.random() < 0.7
        wish = {"keep": keep, "polite": keep and self.rng.random() < 0.5}
        self.send(self.message(self.small(), answer=self.big(), **wish))
        self.sock.shutdown(socket.SHUT_WR)
        self.ask(b"", slowly=self.rng.random() < 0.2)
        self.end()

    def last_word(self) -> None:
        self.ask(self.message(self.small(), answer=self.rng.choice((0, 1000, self.big()))))
        self.end()
        for _ in range(self.rng.randint(0, 2)):
            self.send(self.message(self.big(), after=True))

    def reset(self) -> None:
        self.send(self.message(self.big())[: self.rng.randrange(50_000, 100_000)])
        self.sock.recv(1)
        if self.rng.random() < 0.5:
            time.sleep(self.rng.random() * 0.02)
        self.drop()

    def vanish(self) -> None:
        idle = self.rng.choice((0.1, 0.3, 0.7))
        for _ in range(self.rng.randint(1, 3)):
            time.sleep(self.rng.random() * 0.05)
            self.ask(self.message(self.small(), idle=idle))
        said = self.said
        self.end()
        passed = time.monotonic() - said
        self.soak.passed(self, passed, idle)

    def fail(self) -> None:
        where, close = self.rng.choice(("data", "eof")), self.rng.random() < 0.2
        data = self.message(self.big(), where=where, close=close)
        try:
            self.send(data)
            if where == "eof":
                self.sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            return
        self.end(reset=not close)

    def close(self) -> None:
        self.send(self.message(self.small(), answer=self.big() * 3, whole=self.rng.random() < 0.5))
        # Nobody reads that; but where places are short, nobody waits for it to come, either.
        if self.soak.most is None and self.rng.random() < 0.5:
            self.sock.send(bytes(10_000))
        self.ask(b"", slowly=self.rng.random() < 0.1)
        self.end()

    def parked(self) -> None:
        self.send(self.message(self.small(), answer=self.big()))
        self.ask(b"")
        self.end()

    def leave(self) -> None:
        self.send(self.message(self.small(), answer=self.big() * 3, whole=True))
        self.sock.recv(1)
        self.drop()

    def abort(self) -> None:
        wish = {"answer": self.big() * 3, "sndbuf": 16384, "whole": True, "polite": False}
        self.send(self.message(self.small(), **wish))
        try:
            self.ask(b"")
        except ConnectionResetError:
            return
        self.wrong("got all of an answer that was aborted")

    def rest(self) -> None:
        self.ask(self.message(0, answer=1))
        self.end()

    def tick(self) -> None:
        """Give the server callbacks from which it looks after other connections."""
        self.send(self.message(0))
        while self.soak.ticking:
            self.sock.send(b".")
            time.sleep(0.002)


class Soak:
    """A server process, and what its clients find."""

    def __init__(
        self,
        impl: str,
        mechanism: str,
        kinds: dict[str, int],
        most: int | None,
        sabotage: str | None,
    ) -> None:
        self.kinds, self.most, self.sabotage = kinds, most, sabotage
        self.rng = random.Random(f"{SEED} {most}")
        sources = str(Path(stillalive.__file__).parents[1])
        path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
        chosen = {"STILLALIVE_IMPL": impl, "STILLALIVE_BACKEND": mechanism, "PYTHONPATH": path}
        options = {"seed": SEED, "most": most, "sabotage": sabotage}
        self.process = subprocess.Popen(
            [sys.executable, soak_server.__file__, json.dumps(options)],
            env={**os.environ, **chosen},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))
        self.closing, self.ticking = False, True
        self.problems: list[str] = []
        self.cuts: list[tuple[str, str]] = []
        self.waits: list[tuple[str, float, float]] = []
        self.done: Counter[str] = Counter()

    def cut_short(self, client: Client, error: Exception) -> None:
        self.cuts.append((client.id, repr(error)))
        time.sleep(client.rng.random() * 0.1)

    def passed(self, client: Client, passed: float, idle: float) -> None:
        self.waits.append((client.id, passed, idle))

    def work(self, seed: int) -> None:
        """Be one client after the other."""
        rng = random.Random(seed)
        names, weights = list(self.kinds), list(self.kinds.values())
        while not self.closing:
            self.one(rng.choices(names, weights)[0], rng.getrandbits(48))

    def tick(self) -> None:
        rng = random.Random(SEED)
        while self.ticking:
            self.one("tick", rng.getrandbits(48))
            time.sleep(0.002)  # it was sent away, or the server is closed

    def one(self, kind: str, seed: int) -> None:
        client = Client(self, kind, seed)
        try:
            client.run()
        except BaseException as error:
            client.wrong(f"{error!r} of {client.wish}, got {client.heard}")
        self.done[kind] += 1

    def run(self, clients: int, seconds: float) -> dict[str, Any]:
        seeds = [self.rng.getrandbits(48) for _ in range(clients)]
        threads = [threading.Thread(target=self.work, args=(seed,), daemon=True) for seed in seeds]
        ticker = threading.Thread(target=self.tick, daemon=True)
        for thread in (*threads, ticker):
            thread.start()
        time.sleep(seconds)
        self.closing = True
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        for thread in threads:
            thread.join(PATIENCE + 5)
        self.ticking = False
        ticker.join(PATIENCE)
        assert not any(thread.is_alive() for thread in (*threads, ticker))
        report: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        self.judge(report)
        return report

    def judge(self, report: dict[str, Any]) -> None:
        """Compare what the clients saw with what the server says."""
        reasons = report["reasons"]
        allowed = {None, "shutdown", "shed"}  # None: before it had said who it was
        for name, error in self.cuts:
            may_rest = name.startswith("vanish") and reasons.get(name) == "idle"
            if not may_rest and reasons.get(name) not in allowed:
                self.problems.append(f"client: {name}: {error}, but {reasons.get(name)}")
        for name, passed, idle in self.waits:
            if reasons[name] == "idle" and not idle <= passed < idle + LATE:
                self.problems.append(f"client: {name}: idle after {passed}, not {idle}")
        for what, n in report["grown"].items():
            if n:
                self.problems.append(f"server: {n} {what} more than before")
        for what in ("transports", "protocols"):
            if report[what]:
                self.problems.append(f"server: {report[what]} {what} left")
        if report["took"] > soak_server.CLOSE_TIMEOUT - 1:
            self.problems.append(f"server: close took {report['took']}")
        middle, end = report["resident"]
        if end - middle > MOST_GROWTH:
            self.problems.append(f"server: memory grew from {middle} to {end}")
        self.problems += report["problems"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def soaked(
    impl: str,
    seconds: float,
    *,
    clients: int = 70,
    kinds: dict[str, int] = MIXED,
    most: int | None = None,
    mechanism: str = "epoll",
    sabotage: str | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Return what went wrong, and the server's report."""
    soak = Soak(impl, mechanism, kinds, most, sabotage)
    try:
        report = soak.run(clients, seconds)
    finally:
        soak.stop()
    print(f"STILLALIVE_SOAK_SEED={SEED}: {impl} {mechanism} {seconds:.1f} s, most={most}")
    print(f"done: {dict(soak.done)}; cut short: {len(soak.cuts)}; close: {report['took']:.2f} s")
    print(f"ends: {report['ends']}\nstats: {report['stats']}")
    print(f"pauses: {report['pauses']}; resident: {report['resident']}; failures: {report['told']}")
    return soak.problems, report


def check(impl: str, seconds: float, mechanism: str) -> None:
    problems, report = soaked(impl, seconds * 0.65, mechanism=mechanism)
    assert problems == []
    for kind in MIXED:
        assert any(end.startswith(f"{kind} ") for end in report["ends"]), kind
    assert report["pauses"] > 0
    assert report["told"] > 0
    assert report["stats"]["ended_idle"] > 0
    problems, report = soaked(
        impl, seconds * 0.2, clients=50, kinds=CROWD, most=16, mechanism=mechanism
    )
    assert problems == []
    assert report["stats"]["shed"] > 0


def test_nothing_is_lost(impl):
    check(impl.NAME, SECONDS, "epoll")


def test_nothing_is_lost_with_poll(impl):
    if impl.NAME == "pure":
        pytest.skip("the engine's tests have both; what is built on it does not know")
    check(impl.NAME, SECONDS * 0.4, "poll")


@pytest.mark.parametrize(
    ("sabotage", "kinds", "sign"),
    [
        ("drop", {"echo": 1}, ": damaged between"),
        ("swap", {"close": 1}, ": damaged between"),
        ("spoil", {"upload": 1}, "came in damaged"),
        ("early", {"vanish": 1}, ": idle after 0."),
        ("twice", {"echo": 1}, "made 1 times, lost 2 times"),
        ("keep", {"echo": 1}, "transports left"),
        ("leak", {"echo": 1}, "1 descriptors more"),
    ],
)
def test_damage_is_noticed(sabotage, kinds, sign):
    problems, _ = soaked("pure", 0.7, clients=12, kinds=kinds, sabotage=sabotage)
    assert any(sign in problem for problem in problems)

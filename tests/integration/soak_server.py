"""The server of the soak test: a process of its own, which keeps accounts of every connection.

    python soak_server.py OPTIONS   (JSON; see test_server_soak.py)

A client sends messages: a line of JSON (what it is and what it wants), a body,
the body's SHA-256. The answer is 8 bytes of length, a body, its SHA-256. All
bodies are cut out of POOL, so that each side knows what the other must send.

It prints its port; a line on its standard input closes it, and then it prints
its report.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import random
import select
import socket
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

from stillalive import ConnectionEndedError, Server

POOL = random.Random(1).randbytes(3_000_017)
DIGEST = 32
CLOSE_TIMEOUT = 20.0

ENDS = {
    "echo": {"peer"},
    "upload": {"peer"},
    "slow": {"peer", "idle"},
    "half": {"peer"},
    "last-word": {"peer"},
    "reset": {"error"},
    "vanish": {"idle"},
    "fail": {"error", "owner", "peer"},  # not the first if it has closed before it raises
    "close": {"owner"},
    "leave": {"owner", "error"},  # the client resets while the server flushes
    "parked": {"owner"},
    "abort": {"owner"},
    "rest": {"peer"},
    "tick": {"peer"},
    "unknown": {"peer", "error"},  # it said nothing
}
"""How a connection of each kind may end, besides being shed, and the shutdown."""


def body(seed: int, size: int) -> bytes:
    start = seed % (len(POOL) - size)
    return POOL[start : start + size]


def answer(seed: int, size: int) -> bytes:
    """Return the whole answer that is sent for a seed."""
    content = body(seed, size)
    return size.to_bytes(8, "big") + content + hashlib.sha256(content).digest()


class Planned(Exception):
    """What a protocol raises here."""


class Session:
    """One connection: reads messages, does what they ask for, and judges the server."""

    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.id: str | None = None
        self.kind = "unknown"
        self.wish: dict[str, Any] = {}
        self.rng = random.Random(len(soak.reasons))
        self.transport: Any = None
        self.made = self.lost = 0
        self.closed = False  # by us
        self.eof = False
        self.raised: BaseException | None = None
        self.told = 0
        self.reading_paused = self.writing_paused = False
        self.line = bytearray()
        self.left = -1  # of the body; -1: a line comes
        self.hash = hashlib.sha256()
        self.digest = b""
        self.rest: Iterator[list[bytes]] | None = None

    def wrong(self, text: str) -> None:
        self.soak.problems.append(f"server: {self.kind} {self.id}: {text}")

    # Callbacks.

    def begin(self, transport: Any) -> None:
        self.made += 1
        self.transport = transport
        self.soak.live.add(self)
        self.soak.transports.add(transport)
        self.soak.look_round()
        if transport.get_extra_info("end_reason") is not None or transport.is_closing():
            self.wrong("ended before it began")

    def take(self, data: bytes) -> None:
        self.soak.received += len(data)
        if self.lost or self.closed or self.reading_paused or self.raised or self.eof:
            self.wrong(
                f"data although lost={self.lost} closed={self.closed} eof={self.eof}"
                f" paused={self.reading_paused} raised={self.raised}"
            )
        self.soak.look_round()
        if self.kind == "tick":
            return
        at = 0
        while at < len(data) and not self.closed:
            at = self.take_part(data, at)
        if self.rng.random() < 0.1 and not self.closed:
            self.pause()
        if self.rng.random() < 0.05 and not self.closed:  # what follows is for the other one
            self.transport.set_protocol(self.soak.protocol(self))

    def take_part(self, data: bytes, at: int) -> int:
        if self.left < 0:
            end = data.find(b"\n", at)
            if end < 0:
                self.line += data[at:]
                return len(data)
            self.line += data[at:end]
            self.take_wish(json.loads(self.line))
            self.line.clear()
            return end + 1
        if self.left > 0:
            piece = data[at : at + self.left]
            self.left -= len(piece)
            self.hash.update(piece)
            self.take_piece(piece)
            return at + len(piece)
        piece = data[at : at + DIGEST - len(self.digest)]
        self.digest += piece
        if len(self.digest) == DIGEST:
            self.take_end()
        return at + len(piece)

    def eof_received(self) -> bool:
        if self.eof or self.closed or self.lost or self.reading_paused:
            self.wrong(
                f"eof although eof={self.eof} closed={self.closed} lost={self.lost}"
                f" paused={self.reading_paused}"
            )
        self.eof = True
        if self.kind == "fail":
            self.fail("eof_received")
        if self.kind != "half":
            return False
        self.reply("close" if self.wish["keep"] else "")
        return bool(self.wish["keep"])

    def pause_writing(self) -> None:
        size, (_, high) = self.transport.get_write_buffer_size(), self.limits()
        if self.writing_paused or size <= high or self.lost:
            self.wrong(f"pause_writing at {size}, twice={self.writing_paused} lost={self.lost}")
        self.writing_paused = True
        self.soak.pauses += 1
        if self.wish.get("polite") and not self.closed:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        size, (low, _) = self.transport.get_write_buffer_size(), self.limits()
        if not self.writing_paused or size > low or self.lost:
            self.wrong(f"resume_writing at {size}, paused={self.writing_paused} lost={self.lost}")
        self.writing_paused = False
        if self.wish.get("polite") and not (self.closed or self.reading_paused):
            self.transport.resume_reading()
        self.pump()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost += 1
        reason = self.transport.get_extra_info("end_reason")
        self.judge(exc, reason)
        if self.soak.sabotage == "twice" and self.lost == 1:
            self.connection_lost(exc)
        if self.id is not None:
            self.soak.reasons[self.id] = reason
        self.soak.ends[f"{self.kind} {reason}"] += 1
        self.soak.live.discard(self)
        if self in self.soak.parked:
            self.soak.parked.remove(self)
        if self.kind != "last-word":
            self.transport.write(b"nobody gets this")
        self.rest = None
        if self.soak.sabotage == "keep":
            self.soak.kept.append(self.transport)

    def judge(self, exc: BaseException | None, reason: str) -> None:
        if (self.made, self.lost) != (1, 1):
            self.wrong(f"made {self.made} times, lost {self.lost} times")
        allowed = set() if self.raised else {"shed", "shutdown"}
        if reason not in ENDS[self.kind] | allowed:
            self.wrong(f"ended by {reason}: {exc!r}")
        if self.raised and self.closed:
            fits = exc is None and reason != "error" and self.told == 1
        elif self.raised:
            fits = exc is self.raised and reason == "error" and self.told == 1
        elif reason in {"peer", "owner"}:
            fits = exc is None
        elif reason == "error":
            fits = isinstance(exc, OSError) and not isinstance(exc, ConnectionEndedError)
        else:
            fits = isinstance(exc, ConnectionEndedError) and exc.reason == reason
        if not fits:
            self.wrong(f"ended by {reason}, told {exc!r}, raised {self.raised!r} ({self.told})")
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.wrong("looks alive when lost")
        if self.writing_paused and reason != "error" and self.kind != "abort":
            self.wrong(f"ended by {reason} with no resume_writing after the last pause_writing")
        if reason == "idle" and self.rest is not None:
            self.wrong("idle before all was sent")

    # What messages ask for.

    def take_wish(self, wish: dict[str, Any]) -> None:
        first = self.id is None
        self.wish, self.id, self.kind = wish, wish["id"], wish["kind"]
        self.left, self.digest, self.hash = wish["size"], b"", hashlib.sha256()
        if first:
            self.rng = random.Random(self.id)
            self.prepare()
        if self.kind == "echo":
            self.write([self.left.to_bytes(8, "big")])

    def prepare(self) -> None:
        if "idle" in self.wish:
            early = 0.6 if self.soak.sabotage == "early" else 1
            self.transport.idle_timeout = self.wish["idle"] * early
        self.transport.set_write_buffer_limits(*self.wish["limits"])
        if self.wish["sndbuf"]:
            shown = self.transport.get_extra_info("socket")
            shown.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.wish["sndbuf"])

    def take_piece(self, piece: bytes) -> None:
        if self.kind == "fail" and self.wish["where"] == "data" and self.rng.random() < 0.3:
            self.fail("data_received")
        if self.kind in {"echo", "reset"}:
            self.write(self.cut(self.damage(piece)))

    def take_end(self) -> None:
        if self.hash.digest() != self.digest:
            self.wrong(f"a body of {self.wish['size']} bytes came in damaged")
        self.left = -1
        kind = self.kind
        if kind == "echo":
            self.write([self.digest])
        elif kind == "fail" and self.wish["where"] == "data":
            self.fail("data_received, at last")
        elif kind == "parked":
            self.soak.parked.append(self)
        elif kind in {"upload", "slow", "rest", "vanish", "reset"}:
            self.reply("")
        elif kind == "last-word" and not self.wish.get("after"):
            self.reply("write_eof")
        elif kind in {"close", "leave"}:
            self.reply("close")
        elif kind == "abort":
            self.reply("abort")

    def reply(self, then: str) -> None:
        """Send an answer, and then do something with the transport."""
        self.rest = self.pieces(self.damage(answer(self.wish["seed"], self.wish["answer"])), then)
        self.pump()

    def pieces(self, data: bytes, then: str) -> Iterator[list[bytes]]:
        if self.wish.get("whole"):
            yield [data]
        else:
            for start in range(0, len(data), 100_000):
                yield self.cut(data[start : start + 100_000])
        self.rest = None
        if then:
            self.closed = then != "write_eof"
            getattr(self.transport, then)()
        if self.closed and not self.transport.get_write_buffer_size():
            self.transport.abort()  # too late

    def pump(self) -> None:
        while self.rest is not None and not self.lost:
            if self.writing_paused and self.wish.get("polite"):
                return
            pieces = next(self.rest, None)
            if pieces is not None:
                self.write(pieces)

    def fail(self, where: str) -> None:
        if self.wish.get("close"):
            self.closed = True
            self.transport.close()
        self.raised = Planned(f"in {where} of {self.id}")
        raise self.raised

    # Help.

    def limits(self) -> tuple[int, int]:
        return self.transport.get_write_buffer_limits()

    def pause(self) -> None:
        """Let another connection's callback resume it; a crowd may have sent that one away."""
        if self.soak.most is not None:
            return
        self.transport.pause_reading()
        self.reading_paused = True
        self.soak.paused.append(self)

    def cut(self, data: bytes) -> list[bytes]:
        """Cut into a few pieces at random."""
        count = min(self.rng.randint(0, 6), len(data))
        at = sorted({0, len(data), *self.rng.sample(range(len(data)), count)})
        return [data[a:b] for a, b in itertools.pairwise(at)]

    def damage(self, data: bytes) -> bytes:
        """Do what the check must notice."""
        if self.rng.random() < 0.3 and len(data) > 100:
            if self.soak.sabotage == "drop":
                return data[:50] + data[51:]
            if self.soak.sabotage == "swap":
                return data[:50] + data[70:90] + data[50:70] + data[90:]
        return data

    def write(self, pieces: list[bytes]) -> None:
        how = self.rng.random()
        if how < 0.3:
            self.transport.writelines(pieces)
            return
        kind = bytes if how < 0.7 else bytearray if how < 0.85 else memoryview
        for piece in pieces:
            self.transport.write(kind(piece))


class Common:
    """What both kinds of protocol have."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def connection_made(self, transport: Any) -> None:
        self.session.begin(transport)

    def eof_received(self) -> bool:
        return self.session.eof_received()

    def pause_writing(self) -> None:
        self.session.pause_writing()

    def resume_writing(self) -> None:
        self.session.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.session.connection_lost(exc)


class Plain(Common, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.session.take(data)


class Buffered(Common, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> memoryview:
        size = self.session.rng.choice((1, 100, 5000, 100_000))
        self.buffer = bytearray(size)
        if self.session.kind not in {"unknown", "tick"} and self.session.rng.random() < 0.05:
            self.session.pause()
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.session.take(bytes(self.buffer[:nbytes]))


class Soak:
    """All connections of one server."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.rng = random.Random(options["seed"])
        self.most: int | None = options["most"]
        self.sabotage: str | None = options["sabotage"]
        self.server: Server | None = None
        self.problems: list[str] = []
        self.live: set[Session] = set()
        self.paused: list[Session] = []
        self.parked: list[Session] = []
        self.kept: list[object] = []
        self.transports: weakref.WeakSet[Any] = weakref.WeakSet()
        self.protocols: weakref.WeakSet[Any] = weakref.WeakSet()
        self.ends: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.made = self.received = self.pauses = self.told = 0

    def make(self) -> object:
        self.made += 1
        return self.protocol(Session(self))

    def protocol(self, session: Session) -> object:
        made = self.rng.choice((Plain, Buffered))(session)
        self.protocols.add(made)
        return made

    def on_error(self, exception: BaseException, transport: Any) -> None:
        self.told += 1
        session = transport.get_protocol().session if transport is not None else None
        if session is None or session.raised is not exception:
            self.problems.append(f"server: on_error: {exception!r} of {transport!r}")
        else:
            session.told += 1

    def look_round(self) -> None:
        """Act on other connections than the one whose callback runs."""
        if self.paused and self.rng.random() < 0.3:
            session = self.paused.pop(self.rng.randrange(len(self.paused)))
            if session.reading_paused:
                session.reading_paused = False
                if not (session.writing_paused and session.wish.get("polite")):
                    session.transport.resume_reading()
        if self.parked and self.rng.random() < 0.3:
            session = self.parked.pop(self.rng.randrange(len(self.parked)))
            if not session.lost and not session.transport.is_closing():
                session.reply("close")
        if self.most is not None:
            self.look_for_room()

    def look_for_room(self) -> None:
        stats = self.server.stats()
        # The one that was sent away last may linger.
        if stats["open"] > self.most or stats["open"] + stats["lingering"] > self.most + 1:
            self.problems.append(f"server: too many: {stats}")
        for session in self.live:
            transport, ours = session.transport, session.closed or session.eof
            if not ours and transport.is_closing() and transport.get_write_buffer_size():
                session.wrong("sent away with unsent bytes")

    def judge(self, stats: dict[str, int]) -> None:
        """Look whether everything adds up when all is over."""
        ended = {name: n for name, n in stats.items() if name.startswith("ended_")}
        by_reason = Counter()
        for end, n in self.ends.items():
            by_reason[f"ended_{end.split()[1]}"] += n
        for what, one, other in (
            ("accepted, ended", stats["accepted"], sum(ended.values())),
            ("accepted, made", stats["accepted"], self.made),
            ("reasons", ended, {name: by_reason[name] for name in ended}),
            ("shed", stats["shed"], stats["ended_shed"]),
            ("received", stats["received"], self.received),
            ("still there", [stats[n] for n in ("open", "lingering", "buffered")], [0, 0, 0]),
            ("sessions left", [str(s.id) for s in self.live], []),
        ):
            if one != other:
                self.problems.append(f"server: {what}: {one} != {other}")


def count() -> dict[str, int]:
    gc.collect()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    options = json.loads(sys.argv[1])
    soak = Soak(options)
    before = count()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    server = soak.server = Server(
        listener,
        soak.make,
        idle_timeout=60,
        max_connections=soak.most,
        on_error=soak.on_error,
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    print(port, flush=True)
    sizes = []
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        sizes.append(resident())
    began = time.monotonic()
    server.close(timeout=CLOSE_TIMEOUT)
    took = time.monotonic() - began
    thread.join(5)
    stats = server.stats()
    if soak.sabotage == "leak":
        soak.kept.append(os.dup(0))
    soak.judge(stats)
    soak.paused.clear()
    after = count()
    quarter = len(sizes) // 4
    report = {
        "problems": soak.problems,
        "grown": {name: after[name] - before[name] for name in before},
        "transports": len(soak.transports),
        "protocols": len(soak.protocols),
        "resident": [max(sizes[quarter : 2 * quarter]), max(sizes[3 * quarter :])],
        "took": took,
        "told": soak.told,
        "pauses": soak.pauses,
        "ends": soak.ends,
        "reasons": soak.reasons,
        "stats": stats,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

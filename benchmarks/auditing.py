"""The audit hook: what autotune costs the events that it does not concern, and those it does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

from stillalive import KeepAlive, autotune

from .sockets import using
from .timing import Contender, Row, measure, statement
from .topic import Bench, Facts, Goal, Topic

__all__ = ["audit"]

_POLICY = KeepAlive(idle=60, interval=10, count=4)
_JOBS = {
    "an audited event alone": "audit('os.listdir', path)",
    "open and close a file": "close(open_(path, 0))",
    "make and close a socket": "sock().close()",
    "bind a TCP socket": "with sock() as s: s.bind(anywhere)",
    "bind a UDP socket": "with udp() as s: s.bind(anywhere)",
    "connect over loopback": "with sock() as s: s.connect(listening)",
}
_HOOKS = ("none", "c", "pure", "empty")
_SAID = {
    "none": "no hook",
    "c": "c: autotune",
    "pure": "pure: autotune",
    "empty": "an empty hook in Python",
}


def audit(bench: Bench) -> Topic:
    """Measure jobs in processes with and without a hook, round-robin.

    A hook cannot be taken out again, so each kind lives in a process of its
    own, which runs a job when it is told to.
    """
    workers = {kind: _Worker(kind) for kind in _HOOKS}
    try:
        rows: list[Row] = []
        for job in _JOBS:
            rows += measure(_contenders(workers, job), bench.effort, _name(job, "none"))
    finally:
        for worker in workers.values():
            worker.end()
    median = {row.name: row.median for row in rows}
    alone = "an audited event alone"
    added = median[_name(alone, "c")] - median[_name(alone, "none")]
    opened = "open and close a file"
    ratio = median[_name(opened, "c")] / median[_name(opened, "none")]
    return Topic(
        key="audit",
        title="autotune: what the audit hook costs",
        limit="the same without a hook",
        rows=rows,
        notes=(
            "Without any hook the interpreter does not even gather an event's arguments.",
            "bind and connect with autotune include the tuning: about 15 system calls.",
        ),
        goals=(
            Goal("audit: added to an event of no concern, microseconds", added / 1000, 0.2),
            Goal("audit: open and close a file, with / without", ratio, 1.15),
        ),
        facts=_what_is_tuned(bench),
    )


def _name(job: str, kind: str) -> str:
    return f"{job}, {_SAID[kind]}"


def _contenders(workers: dict[str, _Worker], job: str) -> list[Contender]:
    return [
        Contender(
            _name(job, kind),
            workers[kind].runner(job),
            twin=_name(job, "pure") if kind == "c" else None,
        )
        for kind in _HOOKS
    ]


def _what_is_tuned(bench: Bench) -> Facts:
    rows = []
    for backend in (bench.compiled, bench.pure):
        with using(backend):
            handle = autotune(_POLICY, outgoing=True)
            with (
                closing(socket.create_server(("127.0.0.1", 0))) as listener,
                closing(socket.create_connection(listener.getsockname())) as client,
            ):
                idle = [s.getsockopt(socket.IPPROTO_TCP, 4) for s in (listener, client)]
            handle.disable()
        rows.append((backend.NAME, *map(str, idle), str(handle.stats()["tuned"])))
    return Facts(
        title="autotune: idle time of a listener and of a connection in this run",
        columns=("", "listener", "outgoing", "tuned"),
        rows=rows,
    )


class _Worker:
    """A process with one kind of hook."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask("ready")

    def runner(self, job: str) -> Callable[[int], float]:
        return lambda repeats: self._ask(f"{repeats} {job}")

    def _ask(self, line: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _hook(kind: str) -> None:
    if kind == "empty":
        sys.addaudithook(lambda event, arguments: None)
    elif kind != "none":
        autotune(_POLICY, outgoing=True)


def _serve(kind: str) -> None:
    """Run the jobs that are asked for, and answer with nanoseconds."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    names = {
        "audit": sys.audit,
        "path": os.devnull,
        "open_": os.open,
        "close": os.close,
        "sock": socket.socket,
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "anywhere": ("127.0.0.1", 0),
        "listening": listener.getsockname(),
    }
    loops = {job: statement(code, names) for job, code in _JOBS.items()}
    _hook(kind)
    listener.setblocking(False)
    for line in sys.stdin:
        repeats, _, job = line.strip().partition(" ")
        spent = 0.0
        left = int(repeats) if job else 0
        while left > 0:  # the backlog is emptied between
            spent += loops[job](min(left, 256))
            left -= 256
            _drain(listener)
        print(spent, flush=True)


def _drain(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return


if __name__ == "__main__":
    _kind = sys.argv[1]
    if _kind in ("c", "pure"):
        os.environ["STILLALIVE_IMPL"] = _kind
        from stillalive import _impl

        _impl.backend = _impl.choose(_kind)
    _serve(_kind)

"""Servers and their clients as processes, and the CPU they take."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .native import compiler

__all__ = ["Cpu", "Load", "Programs", "Served", "serving"]

_ROOT = Path(__file__).resolve().parent.parent
_FLAGS = ("-std=gnu11", "-O2")
_PATIENCE = 60
_GOODBYE = 20
_CPUCLOCK_SCHED = 2  # as in the kernel's posix-timers.h: what the scheduler has counted
_QUIET_NS, _LOOK_S = 2_000_000, 0.03


@dataclass(frozen=True)
class Programs:
    """The C programs of the server benchmarks, compiled."""

    load: str
    echo_limit: str

    @classmethod
    @contextlib.contextmanager
    def compiled(cls) -> Iterator[Programs]:
        folder = tempfile.mkdtemp(prefix="stillalive-bench-")
        try:
            made = {}
            for name in ("load", "echo_limit"):
                made[name] = str(Path(folder, name))
                source = str(_ROOT / "benchmarks" / f"{name}.c")
                subprocess.run([*compiler(), *_FLAGS, source, "-o", made[name]], check=True)
            yield cls(**made)
        finally:
            shutil.rmtree(folder)


class _Child:
    """A process that speaks in lines, and ends when its stdin does.

    No wait is for ever: a server that hangs fails the run, and leaving the
    context ends the process whatever has happened.
    """

    def __init__(
        self, command: Sequence[str], core: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = " ".join(map(os.path.basename, command))
        self._read = b""
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self._process.pid
        cores = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(ProcessLookupError):  # it has failed; line() says so
            os.sched_setaffinity(self.pid, {cores[min(core, len(cores) - 1)]})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_GOODBYE)
        except BaseException as failed:
            self._process.kill()
            self._process.wait()
            if not isinstance(failed, subprocess.TimeoutExpired):
                raise
            print(f"benchmarks: had to kill {self._name}", file=sys.stderr)
        finally:
            self._process.stdout.close()

    def line(self) -> str:
        """Return the next line of its stdout."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        end = time.monotonic() + _PATIENCE
        while b"\n" not in self._read:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"{self._name} has said nothing for {_PATIENCE} s")
            more = os.read(fd, 4096)
            if not more:
                raise RuntimeError(f"{self._name} has failed; exit code {self._process.wait()}")
            self._read += more
        found, _, self._read = self._read.partition(b"\n")
        return found.decode()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")


@dataclass(frozen=True)
class Cpu:
    """CPU time of a process: the scheduler's sum, and how the kernel divides it."""

    ns: int
    user_ticks: int
    system_ticks: int

    def since(self, before: Cpu) -> tuple[float, float]:
        """Return the (user, system) nanoseconds from then to now."""
        whole = self.ns - before.ns
        user = self.user_ticks - before.user_ticks
        system = self.system_ticks - before.system_ticks
        share = user / (user + system) if user + system else 0.0
        return whole * share, whole * (1 - share)


class Served(_Child):
    """A server that runs."""

    port: int

    def cpu(self) -> Cpu:
        """Return what it has taken so far."""
        whole = time.clock_gettime_ns((~self.pid << 3) | _CPUCLOCK_SCHED)
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return Cpu(whole, int(fields[11]), int(fields[12]))

    def settle(self) -> None:
        """Wait until it has nothing more to do, such as closing thousands of connections."""
        end = time.monotonic() + _PATIENCE
        before = self.cpu().ns
        while time.monotonic() < end:
            time.sleep(_LOOK_S)
            now = self.cpu().ns
            if now - before < _QUIET_NS:
                return
            before = now
        raise RuntimeError(f"{self._name} does not come to rest")


@contextlib.contextmanager
def serving(
    programs: Programs, kind: str, *, pure: bool = False, accept: int = 0
) -> Iterator[Served]:
    """Start a server of `kind` ("limit" is plain C) on the first core; end it at the end."""
    mode = ["accept", str(accept)] if accept else []
    if kind == "limit":
        command = [programs.echo_limit, *(mode or ["echo"])]
    else:
        command = [sys.executable, "-m", "benchmarks.servers", kind, *mode]
    environment = dict(os.environ, STILLALIVE_IMPL="pure" if pure else "c")
    with Served(command, 0, environment) as served:
        served.port = int(served.line())
        yield served


class Load(_Child):
    """The client process, on the second core."""

    def __init__(self, programs: Programs, arguments: Sequence[object]) -> None:
        super().__init__([programs.load, *map(str, arguments)], 1)

    def begin(self) -> None:
        """Wait until all connections are there."""
        if self.line() != "begin":
            raise RuntimeError("the client of the benchmark speaks another language")

    def result(self) -> tuple[int, int]:
        """Return what was done, and the nanoseconds it took."""
        done, took = self.line().split()
        return int(done), int(took)

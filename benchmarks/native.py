"""Compile limit.c and the C core, and call them: the limits that the package is held against."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillalive._backend import Values

__all__ = ["Looked", "Native", "Swept", "compiler", "empty_type"]

_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = (
    "benchmarks/limit.c",
    "benchmarks/limit_loop.c",
    *(
        f"ext/{path}"
        for path in (
            "sockopt/linux.c",
            "poll/epoll.c",
            "poll/pollfallback.c",
            "diag/linux.c",
        )
    ),
)
_FOLDERS = ("ext/include", "ext/sockopt", "ext/core", "ext/poll", "ext/diag")
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", *(f"-I{folder}" for folder in _FOLDERS))


def compiler() -> list[str]:
    """Return the system's C compiler as a command: $CC, else cc."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _compile() -> ctypes.CDLL:
    folder = tempfile.mkdtemp(prefix="stillalive-bench-")
    try:
        library = Path(folder, "limit.so")
        core = [path for path in _ROOT.glob("ext/core/*.c") if "_windows" not in path.name]
        command = [*compiler(), *_FLAGS, *_SOURCES, *map(str, core), "-o", str(library)]
        subprocess.run(command, cwd=_ROOT, check=True)
        return ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)


def empty_type() -> Any:
    """Compile and return a type whose method ``nothing`` does nothing, in C."""
    with tempfile.TemporaryDirectory(prefix="stillalive-bench-") as folder:
        made = Path(folder, "empty.so")
        include = f"-I{sysconfig.get_path('include')}"
        command = [*compiler(), "-O2", "-fPIC", "-shared", include, "benchmarks/empty.c"]
        subprocess.run([*command, "-o", str(made)], cwd=_ROOT, check=True)
        spec = importlib.util.spec_from_file_location("empty", made)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Empty


class Swept(ctypes.Structure):
    """What limit_tracked found; nanoseconds but for bytes and counts."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "add",
            "mean_sweep",
            "worst_slice",
            "touches",
            "expire_all",
            "expire_spread",
            "hot_bytes",
            "all_bytes",
            "claimed",
            "compared",
        )
    ]
    add: int
    mean_sweep: int
    worst_slice: int
    touches: int
    expire_all: int
    expire_spread: int
    hot_bytes: int
    all_bytes: int
    claimed: int


class Looked(ctypes.Structure):
    """What limit_looks has done so far; nanoseconds of its CPU."""

    _fields_ = [("looks", ctypes.c_int64), ("took", ctypes.c_int64)]
    looks: int
    took: int


class Native:
    """The loops of limit.c; each returns the nanoseconds that `rounds` took."""

    def __init__(self) -> None:
        self._library = _compile()

    def _call(self, name: str, *arguments: object) -> int:
        function = self._library[name]
        function.restype = ctypes.c_int64
        took: int = function(*arguments)
        if took < 0:
            raise OSError(-took, f"{name}: {os.strerror(-took)}")
        return took

    def five_getppid(self, rounds: int) -> int:
        return self._call("limit_five_getppid", ctypes.c_long(rounds))

    def tune(self, fd: int, values: Values, rounds: int) -> int:
        return self._call("limit_tune", fd, *values[1:5], ctypes.c_long(rounds))

    def apply_fresh(self, fd: int, values: Values, rounds: int) -> int:
        return self._call("limit_apply_fresh", fd, _policy(values), ctypes.c_long(rounds))

    def apply(self, fd: int, values: Values, rounds: int) -> int:
        return self._call("limit_apply", fd, _policy(values), ctypes.c_long(rounds))

    def check(self, fd: int, rounds: int) -> int:
        return self._call("limit_check", fd, ctypes.c_long(rounds))

    def core_check(self, fd: int, rounds: int) -> int:
        return self._call("limit_core_check", fd, ctypes.c_long(rounds))

    def describe(self, fd: int, rounds: int) -> int:
        return self._call("limit_describe", fd, ctypes.c_long(rounds))

    def probe(self, fd: int, idle_before: int, timeout_ms: int) -> int:
        return self._call("limit_probe", fd, idle_before, ctypes.c_long(timeout_ms))

    def epoll_open(self, fds: Sequence[int]) -> int:
        return self._call("limit_epoll_open", (ctypes.c_int * len(fds))(*fds), len(fds))

    def epoll_poll(self, epoll: int, connections: int, rounds: int) -> int:
        return self._call("limit_epoll_poll", epoll, connections, ctypes.c_long(rounds))

    def looks(self, fds: Sequence[int], limit_ms: int) -> Looked:
        """Have a thread ask each of `fds` once in `limit_ms`, until the process ends."""
        looked = Looked()
        numbers = (ctypes.c_int * len(fds))(*fds)
        arguments = (numbers, len(fds), ctypes.c_long(limit_ms), ctypes.byref(looked))
        function = self._library.limit_looks
        threading.Thread(target=function, args=arguments, daemon=True).start()
        return looked

    def touch(self, entries: int, rounds: int, *, clock: bool) -> int:
        return self._call("limit_touch", entries, ctypes.c_long(rounds), int(clock))

    def tracked(self, entries: int, seconds: int) -> Swept:
        found = Swept()
        self._call("limit_tracked", entries, seconds, ctypes.byref(found))
        if found.claimed != entries:
            raise RuntimeError(f"{entries} entries were silent, {found.claimed} were found due")
        return found

    def scan(self, entries: int, sweeps: int) -> tuple[int, int]:
        """Return the mean and the worst time of a full scan."""
        worst = ctypes.c_int64()
        return self._call("limit_scan", entries, sweeps, ctypes.byref(worst)), worst.value


def _policy(values: Values) -> ctypes.Array[ctypes.c_int32]:
    """Lay the values out as struct ka_policy."""
    return (ctypes.c_int32 * len(values))(*values)

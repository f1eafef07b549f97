"""Compile limit.c and the C core, and call them: the limits that the package is held against."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from stillalive._backend import Values

__all__ = ["Native", "compiler"]

_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = (
    "benchmarks/limit.c",
    "ext/core/policy.c",
    "ext/core/liveness.c",
    "ext/sockopt/linux.c",
)
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-Iext/include", "-Iext/sockopt")


def compiler() -> list[str]:
    """Return the system's C compiler as a command: $CC, else cc."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _compile() -> ctypes.CDLL:
    folder = tempfile.mkdtemp(prefix="stillalive-bench-")
    try:
        library = Path(folder, "limit.so")
        command = [*compiler(), *_FLAGS, *_SOURCES, "-o", str(library)]
        subprocess.run(command, cwd=_ROOT, check=True)
        return ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)


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


def _policy(values: Values) -> ctypes.Array[ctypes.c_int32]:
    """Lay the values out as struct ka_policy."""
    return (ctypes.c_int32 * len(values))(*values)

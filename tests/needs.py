"""What not every system has: marks that skip with the reason, and stand-ins."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from stillalive import _backend
from stillalive._backend import Backend

try:
    import fcntl
    import resource
except ModuleNotFoundError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

WINDOWS = sys.platform == "win32"
WINE = WINDOWS and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
thread_signals = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="no signal of this system ends a wait"
)
limits = pytest.mark.skipif(resource is None, reason="this system has no RLIMIT_NOFILE")
local_sockets = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="this Python has no AF_UNIX"
)
any_descriptor = pytest.mark.skipif(WINDOWS, reason="Windows waits for sockets only")
chosen_numbers = pytest.mark.skipif(
    WINDOWS, reason="no SOCKET of Windows can be put where another was"
)
proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts in /proc")
resets = pytest.mark.skipif(
    WINE, reason="wine shuts a socket down before it closes it: its peer sees no reset"
)
_OPTIONS = {
    "idle": _backend.IDLE,
    "interval": _backend.INTERVAL,
    "count": _backend.COUNT,
    "user_timeout": _backend.USER_TIMEOUT,
}


def options(impl: Backend, *names: str) -> None:
    """Skip where this implementation cannot set these options of a socket."""
    missing = [name for name in names or ("idle",) if not impl.supported() >> _OPTIONS[name] & 1]
    if missing:
        pytest.skip(f"the {impl.NAME} path has no {', '.join(missing)} on this system")


RESET_ON_CLOSE = struct.pack("hh" if WINDOWS else "ii", 1, 0)
"""For SO_LINGER."""


@contextlib.contextmanager
def many_descriptors(count: int, *, writable: bool = False) -> Iterator[list[int]]:
    """Make descriptors that never become readable."""
    if WINDOWS:
        with contextlib.ExitStack() as stack:
            socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(count)]
            yield [stack.enter_context(sock).fileno() for sock in socks]
        return
    ends = os.pipe()
    fds = [os.dup(ends[writable]) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in (*ends, *fds):
            os.close(fd)


def descriptors_in_use() -> int:
    """Count what this process has open."""
    if not WINDOWS:
        return len(os.listdir("/proc/self/fd"))
    count = ctypes.c_uint32()
    kernel = ctypes.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    assert kernel.GetProcessHandleCount(process, ctypes.byref(count))
    return count.value

"""What the tests of Guard and watch share: a clean slate, and a watcher that does as it is told."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stillalive import _backend as b
from stillalive import _guarding, _impl, _pacing, guard

_SO_ATTACH_FILTER = 26

NOBODY = b.Occurrence(
    token=0,
    cause=b.FOR_NEVER_SPOKE,
    klass=b.NEVER_SPOKE,
    deed=b.DEED_SHUTDOWN,
    dry_run=False,
    err=0,
    fd=7,
    identity=77,
    local=(bytes((192, 0, 2, 1)), 80, 0),
    peer=(bytes((198, 51, 100, 7)), 50000, 0),
    at_ms=1_000_000,
    clock_ms=10_250,
    heard_ms=10_240,
    data_in_ms=-1,
    data_out_ms=-1,
    bytes_in=0,
    bytes_out=0,
    unread=0,
    unsent=0,
)


@pytest.fixture
def real(impl: b.Backend) -> b.Backend:
    """Run on each implementation that has a watcher."""
    if not hasattr(impl, "Watcher") or sys.platform != "linux":
        pytest.skip("no watcher here")
    return impl


def clean_up() -> None:
    """Leave no Guard behind: its watcher is of the implementation that it began with."""
    for one in list(guard._started):
        one.stop()
    assert not guard._started
    assert not _pacing._loans


class FakeWatcher:
    """A watcher that looks at nothing: tests say what it tells."""

    made: list[FakeWatcher]
    fails: BaseException | None = None

    def __init__(self, settings: b.WatcherSettings, room: int) -> None:
        if FakeWatcher.fails is not None:
            raise FakeWatcher.fails
        self.settings, self.room = settings, room
        self.told: queue.Queue[b.Occurrence | None] = queue.Queue()
        self.watched: dict[int, tuple[object, ...]] = {}
        self.held: list[int] = []
        self.calls: list[Any] = []
        self.tracked: list[int] = []
        self.passes = 0
        self.stopped = self.abandoned = False
        FakeWatcher.made.append(self)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.stopped = True
        self.told.put(None)

    def abandon(self) -> None:
        self.abandoned = True

    def update(self, settings: b.WatcherSettings) -> None:
        self.settings = settings

    def watch(self, *arguments: object) -> int:
        token = 100 * len(FakeWatcher.made) + len(self.watched) + 1
        self.watched[token] = arguments
        return token

    def cancel(self, token: int) -> bool:
        self.calls.append(("cancel", token))
        return self.watched.pop(token, None) is not None

    def hold(self, identity: int) -> None:
        self.held.append(identity)

    def release(self, identity: int) -> None:
        self.held.remove(identity)

    def drain(self, on: bool) -> None:
        self.calls.append(("drain", on))

    def take(self, room: int, timeout_ms: int) -> list[b.Occurrence] | None:
        try:
            found = self.told.get(timeout=None if timeout_ms < 0 else timeout_ms / 1000)
        except queue.Empty:
            return []
        return None if found is None else [found]

    def stats(self) -> dict[str, int]:
        self.passes += 1
        tracked = self.tracked.pop(0) if len(self.tracked) > 1 else sum(self.tracked)
        return dict(_guarding.NO_STATS) | {"tracked": tracked, "passes": self.passes}

    def end(self, token: int, **what: Any) -> None:
        """End a watch, as a watcher does."""
        fd, identity, *_ = self.watched.pop(token)
        self.told.put(NOBODY._replace(token=token, fd=fd, identity=identity, **what))


class _Faked:
    """A backend with a fake watcher."""

    def __init__(self, impl: b.Backend) -> None:
        self._impl = impl
        self.Watcher = FakeWatcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._impl, name)


@pytest.fixture
def fake(impl: b.Backend, monkeypatch: pytest.MonkeyPatch) -> list[FakeWatcher]:
    """Give Guards a fake watcher; the list has those that were made."""
    monkeypatch.setattr(_impl, "backend", _Faked(impl))
    monkeypatch.setattr(FakeWatcher, "made", [], raising=False)
    monkeypatch.setattr(FakeWatcher, "fails", None)
    monkeypatch.setattr(guard, "_default_guard", None)
    return FakeWatcher.made


def deafen(sock: socket.socket) -> None:
    """Have the kernel drop every segment for this end, as if its host had vanished."""
    program = (ctypes.c_ulonglong * 1)(6)  # BPF_RET of 0 bytes
    header = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


class Blocked:
    """A thread that is inside a call of the owner's."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call, self._arguments = call, arguments
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call(*self._arguments)
        except BaseException as error:
            self.error = error

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> BaseException | None:
        self._thread.join(10)
        assert not self._thread.is_alive(), "nobody has ended it"
        return self.error


@contextlib.contextmanager
def served() -> Iterator[tuple[socket.socket, Any]]:
    """Listen, and make (client, accepted) pairs that are closed at the end."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def accept() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server, _ = listener.accept()
            stack.enter_context(server)
            client.settimeout(10)
            server.settimeout(10)
            return client, server

        yield listener, accept


def child(impl: b.Backend, code: str, seconds: float = 30) -> str:
    """Run a program of its own on this implementation; it must end by itself, in time."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", code],
        env=dict(os.environ, STILLALIVE_IMPL=impl.NAME),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert done.stderr == ""
    return done.stdout

"""The audit hook in Python on systems that tell less than Linux, on models."""

from __future__ import annotations

import contextlib
import errno
from types import SimpleNamespace

import pytest

from stillalive import _backend as b
from stillalive._pure import _autotune, _unix

from .model_systems import FD, OLD, Keepalive, ModelUnix, ModelWindows

L = b.LEAVE
WANTED = (1, 60, 10, 5, L, L)


class Sock:
    """What an audit hook is given."""

    def fileno(self) -> int:
        return FD


@pytest.fixture
def bound(monkeypatch):
    """Let no socket of another test be known, and this be a system without cookies."""
    monkeypatch.setattr(_autotune, "sys", SimpleNamespace(platform="netbsd10"))
    monkeypatch.setattr(_autotune, "_untouched", lambda: contextlib.nullcontext(Sock()))
    monkeypatch.setattr(_autotune, "_rules", ())
    monkeypatch.setattr(_unix, "sysctl", lambda name: None)
    _autotune._bound.clear()
    yield _autotune._bound
    _autotune._bound.clear()


def fresh(monkeypatch, kernel):
    """Put a socket there that was never connected."""
    kernel.sock.connect(fresh=True)
    if kernel.row.key != "windows":
        kernel.sock.info = bytes(256)
        monkeypatch.setattr(kernel, "_has_ended", lambda fd: False)
    monkeypatch.setattr(_autotune, "system", kernel)
    return kernel


KERNELS = [
    lambda: ModelUnix("darwin"),
    lambda: ModelUnix("freebsd"),
    lambda: ModelUnix("netbsd"),
    ModelWindows,
    lambda: ModelWindows(OLD),
]


@pytest.mark.parametrize("make", KERNELS)
def test_a_bound_one_is_tuned_and_given_back_when_it_connects(monkeypatch, bound, make):
    kernel = fresh(monkeypatch, make())
    before, told = dict(kernel.sock.held), kernel.read_options(FD)
    rule = _autotune.Rule(WANTED, True, False)
    sock = Sock()
    _autotune._look("socket.bind", (sock, ("127.0.0.1", 0)))
    assert rule.stats() == {"tuned": 1, "given_back": 0}
    assert kernel.sock.held[next(iter(before))] == 1
    kernel.sock.local = ("127.0.0.1", 999)  # it has an address now
    _autotune._look("socket.connect", (sock, ("127.0.0.1", 80)))
    assert rule.stats() == {"tuned": 1, "given_back": 1}
    assert kernel.sock.held == before
    assert kernel.read_options(FD) == told


def test_another_socket_that_connects_is_left_alone(monkeypatch, bound):
    kernel = fresh(monkeypatch, ModelUnix("darwin"))
    rule, first = _autotune.Rule(WANTED, True, False), Sock()
    _autotune._look("socket.bind", (first, ("127.0.0.1", 0)))
    held = dict(kernel.sock.held)
    _autotune._look("socket.connect", (Sock(), ("127.0.0.1", 80)))
    assert kernel.sock.held == held
    assert rule.stats()["given_back"] == 0


def test_what_its_owner_has_set_since_is_left_alone(monkeypatch, bound):
    kernel = fresh(monkeypatch, ModelUnix("darwin"))
    _autotune.Rule(WANTED, True, False)
    sock = Sock()
    _autotune._look("socket.bind", (sock, ("127.0.0.1", 0)))
    kernel.set_option(FD, b.IDLE, 61)
    held = dict(kernel.sock.held)
    _autotune._look("socket.connect", (sock, ("127.0.0.1", 80)))
    assert kernel.sock.held == held


def test_half_a_pair_is_set_on_no_old_windows(monkeypatch, bound):
    kernel = fresh(monkeypatch, ModelWindows(OLD))
    rule = _autotune.Rule((1, 60, L, L, L, L), True, False)
    with pytest.raises(OSError, match="without"):  # which the hook suppresses
        _autotune._look("socket.bind", (Sock(), ("127.0.0.1", 0)))
    assert kernel.sock.log == []
    assert rule.stats()["tuned"] == 0


def test_a_connection_is_left_alone(monkeypatch, bound):
    kernel = ModelUnix("freebsd", Keepalive())
    kernel.sock.show()
    monkeypatch.setattr(_autotune, "system", kernel)
    rule = _autotune.Rule(WANTED, True, True)
    _autotune._look("socket.connect", (Sock(), ("127.0.0.1", 80)))
    assert kernel.sock.log == []
    assert rule.stats()["tuned"] == 0


def test_what_cannot_be_looked_at_is_left_alone(monkeypatch, bound):
    kernel = fresh(monkeypatch, ModelWindows())
    kernel.winsock.info = errno.ENOBUFS
    _autotune.Rule(WANTED, True, False)
    kernel.sock.connect(fresh=False)
    with pytest.raises(OSError, match="refused by the model|SIO_TCP_INFO"):
        _autotune._look("socket.bind", (Sock(), ("127.0.0.1", 0)))
    assert kernel.sock.log == []

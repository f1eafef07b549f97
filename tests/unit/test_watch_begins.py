"""watch() of what ends while it begins, and whose error the owner's blocked call takes."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from stillalive import _backend as b
from stillalive import _pacing
from stillalive.guard import watch

from . import guarding
from .guarding import Blocked
from .serving import reset, until

real = guarding.real


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something happen while watch() puts the options: a probe of theirs may bring it."""

    def arrange(happen, when):
        borrow = _pacing.borrow

        def lend(*arguments, **more):
            if when == "before the options":
                happen()
            borrow(*arguments, **more)
            if when == "after the options":
                happen()

        monkeypatch.setattr(_pacing, "borrow", lend)

    return arrange


WHEN = pytest.mark.parametrize("when", ["before the options", "after the options"])


@WHEN
def test_a_reset_while_the_watch_begins_is_told(real, tcp_pair, meanwhile, when):
    a, z = tcp_pair()
    peer = z.getsockname()
    owner = Blocked(a.recv, 1)

    def happen():
        reset(z)
        assert isinstance(owner.end(), ConnectionResetError)

    meanwhile(happen, when)
    event = watch(a, detect_within=30).wait(10)
    assert (event.why, event.peer, event.errno) == ("reset", peer, errno.ECONNRESET)
    assert not _pacing._loans


@WHEN
def test_an_end_in_order_while_the_watch_begins_is_no_event(real, tcp_pair, meanwhile, when):
    a, z = tcp_pair()
    owner = Blocked(a.recv, 1)

    def happen():
        z.shutdown(socket.SHUT_WR)
        assert owner.end() is None
        a.shutdown(socket.SHUT_WR)
        until(lambda: b.Info(*real.tcp_info(a.fileno())).state == b.CLOSE)

    meanwhile(happen, when)
    watching = watch(a, detect_within=30)
    began = time.monotonic()
    assert watching.wait(10) is None
    assert time.monotonic() < began + 10
    assert not _pacing._loans

"""On a Mac the handshake has a time of its own, which goes along with the user timeout."""

from __future__ import annotations

import errno

from stillalive import _backend as b

from .model_systems import FD, TCP, ModelSocket, ModelUnix, fails

HANDSHAKE, DROP = "TCP_CONNECTIONTIMEOUT", "TCP_RXT_CONNDROPTIME"


def test_the_handshake_goes_along_with_a_macs_user_timeout():
    kernel = ModelUnix("darwin")
    for value in (4000, 0):
        kernel.set_option(FD, b.USER_TIMEOUT, value)
        assert kernel.sock.named(HANDSHAKE) == value // 1000
    kernel.set_option(FD, b.IDLE, 9)
    assert kernel.sock.named(HANDSHAKE) == 0


def test_a_time_that_its_owner_gave_the_handshake_is_left():
    kernel = ModelUnix("darwin")
    kernel.sock.setsockopt(TCP, 0x20, 20)
    kernel.set_option(FD, b.USER_TIMEOUT, 4000)
    assert kernel.sock.named(HANDSHAKE) == 20
    assert kernel.sock.named(DROP) == 4


def test_half_of_the_two_is_put_back():
    kernel = ModelUnix("darwin")
    kernel.sock.fails_at = 1
    with fails(errno.ENOBUFS, DROP):
        kernel.set_option(FD, b.USER_TIMEOUT, 4000)
    assert kernel.sock.log == [(DROP, 4), (DROP, 0)]
    assert kernel.sock.named(HANDSHAKE) == 0


def test_an_older_mac_without_it_still_has_the_user_timeout():
    kernel = ModelUnix("darwin", ModelSocket("darwin", absent=[HANDSHAKE]))
    kernel.set_option(FD, b.USER_TIMEOUT, 4000)
    assert kernel.sock.log == [(DROP, 4)]

"""KeepAlive: its values, its errors, its bounds."""

from __future__ import annotations

import dataclasses
import fractions
import math
import pickle
import socket
import sys

import pytest

from stillalive import KeepAlive, NotSupportedError
from stillalive._backend import LEAVE

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's option numbers and ranges")


def test_any_value_implies_enabled():
    assert KeepAlive(idle=5).enabled is True
    assert KeepAlive(user_timeout=0).enabled is True
    assert KeepAlive().enabled is None
    assert KeepAlive.OFF.enabled is False


def test_off_cannot_carry_values():
    with pytest.raises(ValueError, match="enabled=False: cannot be combined with idle, count"):
        KeepAlive(enabled=False, idle=5, count=3)


def test_it_is_frozen_comparable_hashable_and_picklable():
    policy = KeepAlive(idle=5, interval=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.idle = 6  # type: ignore[misc]
    assert policy == KeepAlive(interval=2, idle=5)
    assert len({policy, KeepAlive(idle=5, interval=2)}) == 1
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(TypeError):
        KeepAlive(5)  # type: ignore[misc]


def test_repr_shows_what_is_set():
    assert repr(KeepAlive(idle=5, user_timeout=2.5)) == (
        "KeepAlive(idle=5, user_timeout=2.5, enabled=True)"
    )
    assert repr(KeepAlive()) == "KeepAlive()"


@pytest.mark.parametrize("name", ["idle", "interval", "user_timeout", "rto_max"])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_seconds_that_make_no_sense_name_argument_and_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be finite and"):
        KeepAlive(**{name: value})


@pytest.mark.parametrize("name", ["idle", "interval", "rto_max"])
def test_zero_seconds_are_refused_but_for_the_user_timeout(name):
    with pytest.raises(ValueError, match="more than 0"):
        KeepAlive(**{name: 0})
    assert KeepAlive(user_timeout=0).user_timeout == 0


@pytest.mark.parametrize("name", ["idle", "interval", "user_timeout", "rto_max"])
@pytest.mark.parametrize("value", ["5", b"5", [5], True, 5j, object()])
def test_what_is_no_number_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=f"{name}=.*must be a number of seconds"):
        KeepAlive(**{name: value})


@pytest.mark.parametrize("value", [3.0, "3", True, 2.5])
def test_count_is_an_int(value):
    with pytest.raises(TypeError, match="count=.*must be an int"):
        KeepAlive(count=value)


@pytest.mark.parametrize("value", [0, -1])
def test_count_is_positive(value):
    with pytest.raises(ValueError, match=f"count={value}: must be 1 or more"):
        KeepAlive(count=value)


@pytest.mark.parametrize("value", [1, 0, "yes"])
def test_enabled_is_a_bool(value):
    with pytest.raises(TypeError, match="enabled=.*must be True or False"):
        KeepAlive(enabled=value)


@linux
def test_waits_are_rounded_up_to_the_kernels_unit(impl):
    values = KeepAlive(idle=1.01, interval=fractions.Fraction(5, 2), user_timeout=2.3).values()
    assert values == (1, 2, 3, LEAVE, 2300, LEAVE)
    assert KeepAlive(user_timeout=0.0001).values()[4] == 1


@linux
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"idle": 32768}, r"idle=32768: out of range \(allowed: 1 to 32767 s for TCP_KEEPIDLE\)"),
        ({"interval": 1e9}, r"interval=1000000000.0: out of range \(allowed: 1 to 32767 s"),
        ({"count": 128}, r"count=128: out of range \(allowed: 1 to 127 for TCP_KEEPCNT\)"),
        ({"user_timeout": 2147484}, r"user_timeout=2147484: out of range \(allowed: 0 to 2147483"),
        ({"rto_max": 0.9}, r"rto_max=0.9: out of range \(allowed: 1 to 120 s for TCP_RTO_MAX_MS"),
        ({"rto_max": 121}, r"rto_max=121: out of range"),
    ],
)
def test_out_of_range_names_the_range(impl, values, message):
    with pytest.raises(ValueError, match=message):
        KeepAlive(**values).values()


def test_bounds_need_all_the_values_they_come_from():
    assert KeepAlive(idle=5).detects_idle_within is None
    assert KeepAlive.OFF.detects_idle_within is None
    assert KeepAlive(idle=5, interval=1, count=2).detects_in_flight_within is None
    assert KeepAlive(idle=5, interval=1, count=2).detects_any_within is None


@linux
def test_bounds_follow_the_kernels_rules(impl):
    assert KeepAlive(idle=10, interval=5, count=3).detects_idle_within == 25
    overriding = KeepAlive(idle=1, interval=1, count=2, user_timeout=9)
    assert overriding.detects_idle_within == 9
    assert overriding.detects_in_flight_within == pytest.approx(9 + 2.1 + 0.2)
    assert overriding.detects_any_within == pytest.approx(9 + 9 + 2.1 + 0.2)


@linux
def test_socket_options_set_the_same_on_a_plain_socket(impl):
    policy = KeepAlive(idle=61, interval=11, count=4, user_timeout=2.5)
    triples = policy.socket_options()
    assert triples[0] == (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with socket.socket() as sock:
        for triple in triples:
            sock.setsockopt(*triple)
        for level, option, value in triples:
            assert sock.getsockopt(level, option) == value
    assert [value for *_, value in triples] == [1, 61, 11, 4, 2500]


@linux
def test_socket_options_refuse_what_this_kernel_lacks(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0b011111)
    with pytest.raises(NotSupportedError, match=r"rto_max \(TCP_RTO_MAX_MS\).*Linux 6\.15"):
        KeepAlive(rto_max=5).socket_options()

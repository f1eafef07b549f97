"""describe: effective values, bounds, and warnings that carry the number."""

from __future__ import annotations

import socket
import sys

import pytest

from stillalive import KeepAlive, TcpState, capabilities, describe, tune
from stillalive import _backend as b
from stillalive._describing import tcp_info_of, warnings_for
from stillalive._host import system_defaults

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")


def test_the_systems_defaults_are_folded_in(impl, tcp_pair):
    a, _ = tcp_pair()
    shown = describe(a)
    defaults = system_defaults()
    assert (shown.idle, shown.interval, shown.count) == (
        defaults.idle,
        defaults.interval,
        defaults.count,
    )
    assert shown.rto_max in (None, defaults.rto_max)
    assert shown.enabled is False
    assert shown.detects_idle_within is None
    assert shown.detects_any_within is None
    assert shown.detects_in_flight_within > 900


def test_off_is_said_in_plain_words(impl, tcp_pair):
    a, _ = tcp_pair()
    assert describe(a).warnings[0] == (
        "keepalive is off: a peer that vanishes is never noticed while idle"
    )


def test_bare_keepalive_is_longer_than_what_forgets_the_flow(impl, tcp_pair):
    a, _ = tcp_pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
    warnings = describe(a).warnings
    assert (
        "idle 7200 s is longer than the 350 s after which an AWS NLB forgets the flow" in warnings
    )
    assert any("user_timeout is off" in text and "tcp_retries2 = " in text for text in warnings)
    assert describe(a).detects_idle_within == 7200 + 75 * 9


def test_a_planned_policy_warns_only_of_the_stalled_reader(impl, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=30)
    (only,) = describe(a).warnings
    assert "does not read for 23 s (zero window)" in only


def test_a_spared_reader_leaves_only_the_retries_to_mention(impl, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=30, spare_stalled=True)
    shown = describe(a)
    assert shown.user_timeout == 0
    assert shown.detects_in_flight_within <= 30
    assert not any("zero window" in text for text in shown.warnings)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            {"idle": 1, "interval": 1, "count": 2, "user_timeout": 9},
            "user_timeout 9 s overrides count 2: an idle connection is given up after 9 s, not 3 s",
        ),
        (
            {"idle": 10, "interval": 5, "count": 3, "user_timeout": 12},
            "user_timeout 12 s is not longer than idle + interval (15 s): a single lost probe",
        ),
        (
            {"idle": 10, "interval": 5, "count": 3, "user_timeout": 20},
            "user_timeout 20 s falls on a probe",
        ),
        (
            {"idle": 10, "interval": 5, "count": 1},
            "count 1: a single lost probe ends the connection after 5 s",
        ),
        (
            {"idle": 300, "interval": 5, "count": 3},
            "idle 300 s is longer than the 240 s after which an Azure Load Balancer",
        ),
    ],
)
def test_unwise_combinations_are_told(impl, tcp_pair, policy, expected):
    a, _ = tcp_pair()
    tune(a, **policy)
    assert any(text.startswith(expected) for text in describe(a).warnings), describe(a).warnings


def test_user_timeout_without_keepalive_is_told(impl, tcp_pair):
    a, _ = tcp_pair()
    a.setsockopt(socket.IPPROTO_TCP, 18, 5000)
    assert any(
        "without keepalive bounds only unanswered writes" in text for text in describe(a).warnings
    )


def counters(**changed: int) -> b.Info:
    return b.Info(**(dict.fromkeys(b.Info._fields, 0) | {"state": b.ESTABLISHED} | changed))


def test_a_long_rto_and_a_long_round_trip_are_told():
    held = KeepAlive(idle=1, interval=1, count=1, user_timeout=1.5)
    slow = tcp_info_of(counters(rto_us=6_000_000, rtt_us=1_600_000))
    warnings = warnings_for(held, slow, None, 15)
    assert any("the retransmission timeout is 6 s now" in text for text in warnings)
    assert any(
        "round trip of 1.6 s is not shorter than interval * count" in text for text in warnings
    )


def test_tcp_info_is_in_seconds_and_honest_about_what_is_missing():
    info = tcp_info_of(
        counters(rto_us=204_000, last_ack_recv_ms=1500, segs_in=-1, min_rtt_us=2**32 - 1)
    )
    assert info.state is TcpState.ESTABLISHED
    assert info.rto == 0.204
    assert info.last_ack_recv == 1.5
    assert info.segs_in is None
    assert info.min_rtt is None
    assert info.heard_ago == 0


def test_tcp_info_follows_the_traffic(impl, tcp_pair):
    a, c = tcp_pair()
    a.sendall(b"x" * 1000)
    assert c.recv(2000) == b"x" * 1000
    c.sendall(b"y" * 10)
    assert a.recv(100) == b"y" * 10
    info = describe(a).tcp_info
    assert info.state is TcpState.ESTABLISHED
    assert info.bytes_received == 10
    assert info.bytes_sent == 1000
    assert info.data_segs_in == 1
    assert info.rtt > 0


def test_a_listener_has_values_and_no_counters(impl):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tune(listener, detect_within=30)
        shown = describe(listener)
        assert shown.tcp_info.state is TcpState.LISTEN
        assert shown.tcp_info.unacked is None
        assert shown.enabled
        assert any(text.startswith("this socket listens") for text in shown.warnings)


def test_capabilities_say_unit_range_and_since(impl):
    found = capabilities()
    assert found.implementation == impl.NAME
    assert found["idle"].range == (1, 32767)
    assert found["idle"].unit == "s"
    assert found["user_timeout"].native == "TCP_USER_TIMEOUT"
    assert bool(found["probe"]) is True
    assert "6.15" in found["rto_max"].since
    with pytest.raises(KeyError, match="allowed: enabled, idle"):
        found["nonsense"]


def test_capabilities_are_probed_not_assumed(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0b011111)
    assert not capabilities()["rto_max"]
    assert capabilities()["user_timeout"]

"""KeepAlive.plan: every plan meets its own bounds by the kernel's rules, or it raises."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillalive import KeepAlive, NotSupportedError
from stillalive import _backend as b
from stillalive import _rules as rules
from stillalive._planning import Host, Wishes, plan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="plans by Linux's rules")

deadlines = st.floats(3, 100_000) | st.integers(3, 60)
rtos = st.floats(0.2, 120)
hosts = st.builds(
    Host, has_user_timeout=st.just(True), has_rto_max=st.booleans(), retries2=st.integers(3, 15)
)


def meets_idle(found, bound):
    death = rules.idle_death(found.idle, found.interval, found.count, found.user_timeout or 0.0)
    return rules.with_lateness(death) <= bound + 1e-6


def agrees_with_count(found):
    """The user timeout lies between the last two probes and on neither."""
    low = found.idle + found.interval * (found.count - 1)
    return low + 0.25 <= found.user_timeout <= low + found.interval - 0.25


@given(detect_within=deadlines, rtt=st.none() | st.floats(0, 2), here=hosts)
def test_an_unconnected_plan_meets_its_deadline_or_raises(detect_within, rtt, here):
    try:
        found = plan(Wishes(detect_within=detect_within, rtt=rtt), here)
    except ValueError as error:
        assert f"detect_within={detect_within:.3f}".rstrip("0").rstrip(".") in str(error)
        # Only what is too short, or a path too slow to tell sooner, is refused.
        assert detect_within < 5 or (rtt or 0) > 0.4
        return
    rto = rules.RTO_UNKNOWN if rtt is None else rules.rto_of(rtt)
    limit = found.rto_max or rules.RTO_MAX_DEFAULT
    assert meets_idle(found, detect_within)
    assert agrees_with_count(found)
    assert 0 < found.user_timeout <= detect_within
    assert rules.in_flight_death(found.user_timeout, rto, limit, 15) <= detect_within + 1e-6
    assert rules.survives_idle(0, found.interval, found.count, rtt or 0.0)
    if detect_within >= 6 and rtt is None:
        assert found.count >= 2, "a lost probe is tolerated from 6 s on"


@given(detect_within=deadlines, rto=rtos, here=hosts)
def test_a_connected_plan_never_has_a_user_timeout_that_is_too_small(detect_within, rto, here):
    found = plan(Wishes(detect_within=detect_within, rto=rto), here)
    assert found.idle >= 1
    assert agrees_with_count(found)
    assert meets_idle(found, detect_within)


@given(detect_within=st.floats(6, 3600), here=hosts)
def test_a_third_of_the_deadline_is_tolerated_as_outage(detect_within, here):
    found = plan(Wishes(detect_within=detect_within, rto=0.2), here)
    outage = detect_within / 3
    assert rules.survives_idle(outage, found.interval, found.count, 0.0)
    if here.has_rto_max:
        assert rules.survives_in_flight(outage, found.user_timeout, found.rto_max, 0.0)


@settings(deadline=None)  # a busy machine is no defect
@given(
    detect_within=st.none() | st.floats(5, 10_000),
    tolerate=st.none() | st.floats(0, 20_000),
    middlebox=st.none() | st.floats(1, 50_000),
    spare=st.booleans(),
    here=hosts,
)
def test_wishes_hold_together_or_raise(detect_within, tolerate, middlebox, spare, here):
    wishes = Wishes(detect_within, middlebox, tolerate, spare)
    if not wishes.any():
        return
    try:
        found = plan(wishes, here)
    except ValueError as error:
        assert "=" in str(error)
        return
    if spare:
        assert found.user_timeout == 0 or tolerate is not None
    if middlebox is not None:
        assert found.idle <= middlebox / 2
        assert rules.with_lateness(found.idle + found.interval) <= middlebox
    if tolerate is not None:
        assert rules.survives_idle(tolerate, found.interval, found.count, 0.0)
        if found.user_timeout:
            limit = found.rto_max or rules.RTO_MAX_DEFAULT
            assert rules.survives_in_flight(tolerate, found.user_timeout, limit, 0.0)
    if detect_within is not None:
        assert meets_idle(found, detect_within)
        limit = found.rto_max or rules.RTO_MAX_DEFAULT
        in_flight = rules.in_flight_death(
            found.user_timeout, wishes.assumed_rto, limit, here.retries2
        )
        assert in_flight <= detect_within + 1e-6


@given(wishes=st.builds(Wishes, detect_within=deadlines, rto=rtos), here=hosts)
def test_what_is_planned_is_what_the_kernel_takes(wishes, here):
    found = plan(wishes, here)
    assert 1 <= found.idle <= 32767
    assert 1 <= found.interval <= 32767
    assert 1 <= found.count <= 127
    assert found.rto_max is None or 1 <= found.rto_max <= 120
    assert math.isfinite(found.user_timeout)


@pytest.mark.parametrize("detect_within", [0.1, 1, 4.99])
def test_too_short_says_what_is_possible(detect_within):
    with pytest.raises(ValueError, match=r"detect_within=.*shortest possible here is 5 s"):
        KeepAlive.plan(detect_within=detect_within)


def test_a_stalled_reader_is_spared_without_a_user_timeout():
    found = KeepAlive.plan(detect_within=16, spare_stalled=True)
    assert found.user_timeout == 0
    assert found.rto_max == 1
    assert found.detects_in_flight_within <= 18  # by the rules with an unknown rto
    with pytest.raises(ValueError, match="shortest possible here is 16 s with spare_stalled"):
        KeepAlive.plan(detect_within=15.9, spare_stalled=True)


def test_sparing_needs_a_kernel_that_can(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0b011111)
    with pytest.raises(NotSupportedError, match=r"TCP_RTO_MAX_MS.*Linux 6\.15"):
        KeepAlive.plan(detect_within=30, spare_stalled=True)
    assert KeepAlive.plan(detect_within=30).rto_max is None


def test_an_older_kernel_without_user_timeout_cannot_promise(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0b001111)
    with pytest.raises(NotSupportedError, match=r"TCP_USER_TIMEOUT.*2\.6\.37"):
        KeepAlive.plan(detect_within=30)
    assert KeepAlive.plan(middlebox=350).idle == 168


def test_a_system_without_options_says_so(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0)
    with pytest.raises(NotSupportedError, match="planning keepalive values: not supported"):
        KeepAlive.plan(detect_within=30)


def test_contradictions_name_what_would_be_possible():
    with pytest.raises(ValueError, match=r"tolerate=29 cannot hold together with detect_within=30"):
        KeepAlive.plan(detect_within=30, tolerate=29)
    with pytest.raises(ValueError, match=r"middlebox=1: too short"):
        KeepAlive.plan(middlebox=1)
    with pytest.raises(ValueError, match=r"middlebox=2.* cannot hold together"):
        KeepAlive.plan(middlebox=2, detect_within=30)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(ValueError, match="no such preset.*aws-nlb"):
        KeepAlive.plan(middlebox="aws-nbl")


def test_no_wish_is_a_type_error():
    with pytest.raises(TypeError, match="needs at least one"):
        KeepAlive.plan()


@pytest.mark.parametrize(
    ("wish", "value"),
    [
        ("detect_within", True),
        ("middlebox", object()),
        ("tolerate", "5"),
        ("rtt", []),
        ("spare_stalled", 1),
    ],
)
def test_wishes_of_the_wrong_type_are_named(wish, value):
    with pytest.raises(TypeError, match=f"{wish}="):
        KeepAlive.plan(**{"detect_within": 30, wish: value})


@pytest.mark.parametrize("wish", ["detect_within", "middlebox", "tolerate", "rtt"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
def test_wishes_that_make_no_sense_are_named(wish, value):
    with pytest.raises(ValueError, match=f"{wish}={value!r}"):
        KeepAlive.plan(**{"detect_within": 30, wish: value})


def test_the_lowest_options_are_enough_for_a_plan_with_values():
    found = KeepAlive.plan(detect_within=30)
    assert found.values()[b.ENABLED] == 1
    assert found.detects_idle_within <= 30
    assert found.detects_in_flight_within <= 30
    assert found.detects_any_within == pytest.approx(
        found.detects_idle_within + found.detects_in_flight_within
    )

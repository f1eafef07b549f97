"""Plans on other systems: every wish holds by that system's own timers, or it is an error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillalive import KeepAlive, NotSupportedError, tune
from stillalive import _backend as b
from stillalive._systems import SYSTEMS

from .kernels import ELSEWHERE, WITH_TIMES, installed

BOUNDED = tuple(key for key in WITH_TIMES if SYSTEMS[key].option(b.USER_TIMEOUT))


def late(system, seconds):
    return seconds * (1 + system.timing.late_share) + system.timing.late_each


def idle_end(system, policy, timer=late):
    """Let the keepalive timer fire, as late as it may, until it ends a silent connection."""
    now = timer(system, policy.idle)
    while now < policy.idle + policy.interval * policy.count:
        now += timer(system, policy.interval)
    return now


def in_flight_end(system, user_timeout, rto, timer=late):
    """Let the retransmission timer fire, as late as it may, until it ends the connection."""
    started = None if system.timing.clock_from_retransmit else 0.0
    now, pause = 0.0, rto
    while True:
        now += timer(system, pause)
        if started is not None and now - started >= user_timeout:
            return now
        started = now if started is None else started
        pause = min(2 * pause, system.timing.rto_cap)


def retransmissions(system, rto, until):
    now, pause = 0.0, rto
    while now <= until:
        now += pause
        yield now
        pause = min(2 * pause, system.timing.rto_cap)


@settings(max_examples=250, deadline=None)
@given(
    key=st.sampled_from(ELSEWHERE),
    detect_within=st.none() | st.floats(3, 200) | st.floats(5, 100_000),
    tolerate=st.none() | st.floats(0, 200) | st.floats(0, 20_000),
    middlebox=st.none() | st.floats(1, 1000),
    spare=st.booleans(),
    rtt=st.none() | st.floats(0, 1),
)
def test_wishes_hold_by_the_systems_own_timers_or_raise(
    key, detect_within, tolerate, middlebox, spare, rtt
):
    with installed(key) as kernel:
        if detect_within is middlebox is tolerate is None and not spare:
            return
        system = kernel.system
        try:
            policy = KeepAlive.plan(
                detect_within=detect_within,
                tolerate=tolerate,
                middlebox=middlebox,
                spare_stalled=spare,
                rtt=rtt,
            )
        except NotSupportedError as error:
            lacks = key not in WITH_TIMES or spare
            assert lacks or (detect_within is not None and key not in BOUNDED)
            assert "since" in str(error) or "needs" in str(error)
            return
        except ValueError as error:
            assert "=" in str(error)
            assert "possible" in str(error) or "cannot hold" in str(error)
            return
        assert not spare
        policy.socket_options()  # within the ranges
        rto = 1.0 if rtt is None else max(rtt + 0.2, 2.2 * rtt)
        if detect_within is not None:
            assert idle_end(system, policy) <= detect_within + 1e-6
            assert in_flight_end(system, policy.user_timeout, rto) <= detect_within + 1e-6
            assert policy.detects_in_flight_within <= detect_within + 1e-6
        if middlebox is not None:
            assert policy.idle <= middlebox / 2
            second = late(system, policy.idle) + late(system, policy.interval)
            assert second <= middlebox + 1e-6
        if tolerate is not None:
            survives(policy, tolerate, rtt or 0.0)
            if policy.user_timeout:
                started = rto if system.timing.clock_from_retransmit else 0.0
                last = [t for t in retransmissions(system, rto, tolerate) if t >= tolerate]
                assert last[0] - started < policy.user_timeout


def survives(policy, outage, rtt):
    """Just after a probe was answered nothing comes through for `outage` seconds."""
    probes = [policy.interval * k for k in range(1, policy.count)]
    answered = [p for p in [0, *probes] if p >= outage]
    assert answered
    assert answered[0] + rtt < policy.interval * policy.count


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from(BOUNDED),
    user_timeout=st.floats(0.001, 5000),
    rto=st.floats(0.2, 60),
)
def test_the_bound_of_a_user_timeout_holds_for_every_backoff(key, user_timeout, rto):
    with installed(key) as kernel:
        policy = KeepAlive(user_timeout=user_timeout)
        policy._put("_rto", rto)
        seconds = policy.values()[b.USER_TIMEOUT] / 1000
        end = in_flight_end(kernel.system, seconds, rto)
        assert end <= policy.detects_in_flight_within + 1e-6


def test_that_bound_is_not_far_off():
    """Or any number would do: with the worst rto, punctual timers come close to it."""
    for key in BOUNDED:
        with installed(key) as kernel:
            policy, gaps = KeepAlive(user_timeout=10), []
            for rto in (0.2 + step / 100 for step in range(200)):
                policy._put("_rto", rto)
                end = in_flight_end(kernel.system, 10, rto, lambda system, seconds: seconds)
                gaps.append(policy.detects_in_flight_within - end)
            assert 0 <= min(gaps) <= 2 + 20 * kernel.system.timing.late_share, key


@pytest.mark.parametrize("key", WITH_TIMES)
@pytest.mark.parametrize("detect_within", [10, 30, 60, 300, 3600])
def test_a_third_of_the_deadline_is_tolerated_while_idle(key, detect_within):
    with installed(key):
        policy = tune_unconnected(detect_within)
        survives(policy, detect_within / 3, 0.0)
        assert policy.count >= 2


def tune_unconnected(detect_within):
    from stillalive import _impl

    kernel = _impl.backend
    fd = kernel.connect()
    kernel.sockets[fd].state = b.CLOSE
    return tune(fd, detect_within=detect_within, best_effort=True)


@pytest.mark.parametrize("key", BOUNDED)
def test_too_short_names_what_is_possible_and_that_is(key):
    with installed(key) as kernel:
        with pytest.raises(ValueError, match="shortest possible here is") as caught:
            KeepAlive.plan(detect_within=2)
        least = float(str(caught.value).split(" here is ")[1].split(" s")[0])
        assert KeepAlive.plan(detect_within=least).detects_in_flight_within <= least
        assert least == {"darwin": 6.5, "freebsd": 5.5, "windows": 5.5}[key]  # as the docs say
        fd = kernel.connect()
        with pytest.raises(ValueError, match="shortest possible here is"):
            tune(fd, detect_within=2)


def test_contradictions_name_what_would_be_possible():
    with installed("darwin"):
        with pytest.raises(ValueError, match="tolerate=29 cannot hold together") as caught:
            KeepAlive.plan(detect_within=30, tolerate=29)
        best = float(str(caught.value).split("at most ")[1].split(" s")[0])
        assert 5 < best < 10
        assert KeepAlive.plan(detect_within=30, tolerate=best)
        with pytest.raises(ValueError, match="middlebox=1: too short"):
            KeepAlive.plan(middlebox=1)
        with pytest.raises(ValueError, match=r"middlebox=2\.5.* cannot hold together"):
            KeepAlive.plan(middlebox=2.5, detect_within=30)
        with pytest.raises(ValueError, match="tolerate=100000000: too long"):
            KeepAlive.plan(tolerate=100_000_000)


@pytest.mark.parametrize("key", WITH_TIMES)
def test_middlebox_and_tolerate_go_wherever_there_are_times(key):
    with installed(key):
        policy = KeepAlive.plan(middlebox=350, tolerate=600)
        assert policy.idle <= 175
        assert policy.interval * (policy.count - 1) >= 600
        assert not policy.user_timeout


@pytest.mark.parametrize(
    ("key", "without", "message"),
    [
        ("netbsd", None, r"detect_within for data in flight \(user_timeout\).*FreeBSD 14\.0"),
        ("freebsd", b.USER_TIMEOUT, r"\(TCP_MAXUNACKTIME\).*needs FreeBSD 14\.0"),
        ("windows", b.USER_TIMEOUT, r"\(TCP_MAXRTMS\).*needs Windows 10 1607"),
        ("openbsd", None, r"planning keepalive values \(idle, interval, count\).*Linux 2\.4"),
        ("other", None, "planning keepalive values"),
    ],
)
def test_what_cannot_be_promised_is_refused_and_named(key, without, message):
    with installed(key) as kernel:
        kernel.without |= set() if without is None else {without}
        with pytest.raises(NotSupportedError, match=message):
            KeepAlive.plan(detect_within=30)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_live_peer_that_does_not_read_is_spared_on_linux_only(key):
    with installed(key), pytest.raises(NotSupportedError, match=r"Linux|planning"):
        KeepAlive.plan(spare_stalled=True)


@pytest.mark.parametrize("key", ["netbsd", "windows", "freebsd"])
def test_best_effort_does_the_rest_and_says_what_is_missing(key):
    with installed(key) as kernel:
        kernel.without.add(b.USER_TIMEOUT)
        fd = kernel.connect()
        with pytest.raises(NotSupportedError, match="detect_within for data in flight"):
            tune(fd, detect_within=30)
        assert kernel.calls == []
        result = tune(fd, detect_within=30, best_effort=True)
        assert result.unsupported == ("user_timeout",)
        assert result.detects_in_flight_within is None
        assert result.idle is not None
        assert idle_end(kernel.system, result) <= 30 or result.pending


def test_best_effort_on_openbsd_switches_keepalive_on():
    with installed("openbsd") as kernel:
        fd = kernel.connect()
        result = tune(fd, detect_within=30, best_effort=True)
        assert result.enabled
        assert result.unsupported == ("idle", "interval", "count", "user_timeout")
        assert result.idle is None
        assert tune(fd, idle=5, best_effort=True).unsupported == ("idle",)


def test_without_a_user_timeout_the_retransmissions_run_out():
    for key, known in (("darwin", True), ("freebsd", True), ("windows", False)):
        with installed(key):
            within = KeepAlive(user_timeout=0).detects_in_flight_within
            assert (within is not None) == known
            if within is not None:
                assert math.isclose(within, 511, rel_tol=0.05)

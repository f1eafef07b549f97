"""Which connections have been let down: what is concluded from the kernel's counters."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from stillalive import _backend as b
from stillalive._backend import NO_TIME, Info
from stillalive._pure import _judge as judging
from stillalive._pure._judge import Limits

NOW = 1_000_000

# A connection that nobody has used since its handshake, 5 s ago.
QUIET = dict.fromkeys(Info._fields, 0) | {
    "state": b.ESTABLISHED,
    "last_data_sent_ms": 5000,
    "last_data_recv_ms": 5000,
    "last_ack_recv_ms": 5000,
}
REQUEST = {"data_segs_in": 1, "bytes_received": 100}
ANSWER = {"data_segs_out": 1, "bytes_acked": 100}
BOTH = REQUEST | ANSWER
OLD = {"data_segs_in": -1, "data_segs_out": -1}
"""A kernel before 4.6."""


class Row(NamedTuple):
    label: str
    klass: int
    info: dict[str, int] = {}
    limits: dict[str, int] = {}
    cause: int = b.NO_CAUSE
    clock: int = 5000
    again: int = NO_TIME
    since: int = 0
    """Before now; 0 from the connection's birth."""


def sent(ms: int) -> dict[str, int]:
    return {"last_data_sent_ms": ms}


def heard(ms: int) -> dict[str, int]:
    return {"last_data_recv_ms": ms}


NEVER, UNANSWERED, ANSWERED = b.NEVER_SPOKE, b.UNANSWERED, b.ANSWERED
SENDING, NONE = b.SENDING, b.NO_CLASS
WAY = {"unacked": 1}
AGAIN = WAY | sent(4999)
UNSENT = {"notsent_bytes": 1}
N, U, A = {"never_spoke_ms": 8000}, {"unanswered_ms": 8000}, {"answered_ms": 8000}
S, R, D = {"stalled_ms": 8000}, {"min_rate": 100}, {"detect_ms": 4000}
IDLE = {"idle_ms": 4000}
TINY = {"never_spoke_ms": 1, "unanswered_ms": 1, "answered_ms": 1, "idle_ms": 1}


def state(number: int) -> dict[str, int]:
    return {"state": number}


ROWS = [
    # ---- classes
    Row("never spoke", NEVER),
    Row("never spoke, closed by the peer", NEVER, state(b.CLOSE_WAIT) | {"bytes_received": 1}),
    Row("a probe with a byte is no word", NEVER, {"data_segs_in": 3}),
    Row("asked", UNANSWERED, REQUEST),
    Row("asked, closed by the peer", UNANSWERED, state(b.CLOSE_WAIT) | REQUEST),
    Row("asked again", UNANSWERED, BOTH | heard(4996), clock=4996),
    Row("a tie is answered", ANSWERED, BOTH),
    Row("answered", ANSWERED, BOTH | sent(4996), clock=4996),
    Row("answered, closed by the peer", ANSWERED, state(b.CLOSE_WAIT) | BOTH),
    Row("the owner spoke first", ANSWERED, ANSWER | sent(4000) | heard(3000), clock=3000),
    Row("under way", SENDING, BOTH | WAY, clock=0),
    Row("unsent", SENDING, BOTH | UNSENT, clock=0),
    Row("old kernel, never spoke", NEVER, OLD | {"bytes_acked": 1}),
    Row("old kernel, asked", UNANSWERED, OLD | {"bytes_received": 1}),
    Row("old kernel, answered", ANSWERED, OLD | {"bytes_received": 1, "bytes_acked": 2}),
    Row("no byte counts, asked", UNANSWERED, {"data_segs_in": 1, "bytes_received": -1}),
    Row("nothing is told of the peer", NONE, {"data_segs_in": -1, "bytes_received": -1}, clock=0),
    Row("nothing is told of the owner", NONE, {"data_segs_out": -1, "bytes_acked": -1}, clock=0),
    Row("no clock", NONE, BOTH | sent(-1), TINY, clock=0, again=10),
    *(
        Row(f"state {number}", NONE, state(number) | BOTH, TINY | S | {"idle_ms": -1}, clock=0)
        for number in (b.FIN_WAIT1, b.FIN_WAIT2, b.TIME_WAIT, b.LAST_ACK, b.CLOSING)
    ),
    *(
        Row(f"state {number}", NONE, state(number), {"answered_ms": 900}, clock=0, again=900)
        for number in (b.SYN_SENT, b.SYN_RECV, b.CLOSE, b.LISTEN)
    ),
    # ---- limits of the classes
    Row("never spoke, not yet", NEVER, {}, N, again=3000),
    Row("never spoke, nearly", NEVER, heard(7999), N, clock=7999, again=10),
    Row("never spoke for too long", NEVER, heard(8000), N, b.FOR_NEVER_SPOKE, 8000, 10),
    Row("the others begin when it speaks", NEVER, heard(7000), U | A, 0, 7000, 8000),
    Row("unanswered, not yet", UNANSWERED, REQUEST, U, again=3000),
    Row("unanswered for too long", UNANSWERED, REQUEST | heard(8000), U, UNANSWERED, 8000, 10),
    Row("unanswered, may be answered", UNANSWERED, REQUEST, A, again=8000),
    Row("it has spoken for ever", UNANSWERED, REQUEST, N),
    Row("answered, not yet", ANSWERED, BOTH, A, again=3000),
    Row("answered for too long", ANSWERED, BOTH | sent(8000) | heard(9000), A, ANSWERED, 8000, 10),
    Row("answered, may ask", ANSWERED, BOTH, U, again=8000),
    Row("under way, the answered clock runs", SENDING, BOTH | WAY, A, clock=0, again=3000),
    Row("under way beyond it", SENDING, BOTH | WAY | sent(9000) | heard(9000), A, 0, 0, 100),
    Row("under way, asked again", SENDING, BOTH | WAY | heard(1), U, clock=0, again=7999),
    Row("under way, answered before", SENDING, BOTH | WAY | heard(7999), U, clock=0, again=8000),
    Row("since later", NEVER, heard(9000), N, clock=600, again=7400, since=600),
    Row("since earlier", NEVER, heard(9000), N, b.FOR_NEVER_SPOKE, 9000, 10, since=9001),
    Row("since later, answered", ANSWERED, BOTH, A, clock=4999, again=3001, since=4999),
    Row("since now", UNANSWERED, REQUEST, U, clock=0, again=8000, since=-1),
    # ---- stalled, as a first look has it
    Row("stalled, nothing under way", ANSWERED, BOTH, S, again=1000),
    Row("stalled, under way", SENDING, BOTH | WAY, S, clock=0, again=400),
    Row("stalled, short", SENDING, BOTH | UNSENT, {"stalled_ms": 1600}, clock=0, again=200),
    Row("stalled, shorter", SENDING, BOTH | WAY, {"stalled_ms": 90}, clock=0, again=90),
    Row("stalled cannot be told", SENDING, WAY | {"bytes_acked": -1}, S, clock=0),
    # ---- the rate, as a first look has it
    Row("rate, unanswered", UNANSWERED, REQUEST, R, again=5000),
    Row("rate, answered", ANSWERED, BOTH, R, again=5000),
    Row("rate, half closed", UNANSWERED, REQUEST | state(b.CLOSE_WAIT), R),
    Row("rate cannot be told", UNANSWERED, {"data_segs_in": 1, "bytes_received": -1}, R),
    # ---- silence
    Row("silent, not yet", NEVER, {"last_ack_recv_ms": 1000, "probes": 9}, D, again=3000),
    Row("payload is heard too", NEVER, heard(100) | {"probes": 9}, D, clock=100, again=3900),
    Row("silent, not asked", NEVER, {}, D, again=100),
    Row("silent, asked once", NEVER, {"probes": 1}, D, again=50),
    Row("silent, asked twice", NEVER, {"probes": 2}, D, b.FOR_SILENT, 5000, 50),
    Row("retransmitted once", SENDING, AGAIN | {"retransmits": 1}, D, clock=0, again=50),
    Row("retransmitted", SENDING, AGAIN | {"retransmits": 2}, D, b.FOR_SILENT, 5000, 50),
    Row("heard after it", SENDING, WAY | {"retransmits": 9}, D, clock=0, again=100),
    Row("heard after it, probed", SENDING, WAY | {"retransmits": 9, "probes": 1}, D, 0, 0, 50),
    Row("its FIN retransmitted", NONE, state(b.FIN_WAIT1) | WAY | {"retransmits": 2}, D, 9, 5000,
        50),
    Row("sent is not told", SENDING, WAY | {"retransmits": 2} | sent(-1), D, 9, 5000, 50),
    Row("one each", SENDING, AGAIN | {"retransmits": 1, "probes": 1}, D, b.FOR_SILENT, 5000, 50),
    *(
        Row(f"silent in state {number}", NONE, state(number) | {"probes": 2}, D, 9, 5000, 50)
        for number in (b.FIN_WAIT1, b.FIN_WAIT2, b.CLOSING, b.LAST_ACK)
    ),
    *(
        Row(f"nobody to hear, {number}", NONE, state(number) | {"probes": 2}, D, 0, 0, 4000)
        for number in (b.SYN_SENT, b.SYN_RECV, b.CLOSE, b.LISTEN)
    ),
    Row("over", NONE, state(b.TIME_WAIT) | {"probes": 2}, D, clock=0),
    Row("one clock is enough to hear", NONE, heard(-1) | {"probes": 2}, D, 9, 5000, 50),
    Row("silence is not told", NONE, heard(-1) | {"last_ack_recv_ms": -1, "probes": 2}, D, 0, 0,
        4000),
    Row("old questions", NEVER, {"probes": 2, "total_retrans": 7}, D, 0, 4500, 50, since=4500),
    Row("heard since, then asked", NEVER, {"probes": 2, "last_ack_recv_ms": 4499}, D, 9, 4499, 50,
        since=4500),
    Row("silent since later", NEVER, {"probes": 2}, D, 0, 1500, 2500, since=1500),
    # ---- a watch's idle limit
    Row("idle", NEVER, {}, IDLE, b.FOR_IDLE, 5000, 10),
    Row("idle, either way", ANSWERED, BOTH | sent(3999), IDLE, 0, 3999, 10),
    Row("unsent is not idle", SENDING, BOTH | UNSENT, IDLE, 0, 0, 100),
    Row("idle, half closed", NONE, state(b.FIN_WAIT2), IDLE, b.FOR_IDLE, 5000, 10),
    Row("its end is under way", NONE, state(b.FIN_WAIT1) | WAY, IDLE, 0, 0, 100),
    Row("idle cannot begin", NONE, state(b.SYN_SENT), IDLE, 0, 0, 4000),
    Row("idle since later", NEVER, {}, IDLE, 0, 3000, 1000, since=3000),
    # ---- several at once
    Row("silence first", NEVER, {"probes": 2}, D | IDLE | TINY, b.FOR_SILENT, 5000, 10),
    Row("idle before the class", NEVER, {}, TINY, b.FOR_IDLE, 5000, 10),
    Row("the earliest look", NEVER, {}, N | U | {"answered_ms": 2500} | {"detect_ms": 7000},
        again=2000),
]  # fmt: skip


def info_of(**changes: int) -> Info:
    return Info(**QUIET | changes)


def past_of(info: Info, since: int) -> judging.Past:
    """Begin `since` ms ago (-1 now, 0 with the connection), without having looked since."""
    since_ms = {0: 0, -1: NOW}.get(since, NOW - since)
    return judging.begin(info, since_ms, NOW)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_one_look(row):
    info = info_of(**row.info)
    past = past_of(info, row.since)
    want = (row.klass, row.cause, row.clock, row.again)
    assert judging.judge(Limits(**row.limits), past, info, NOW) == want
    assert judging.judge(Limits(**row.limits), past, info, NOW) == want


def test_idle_of_payload_needs_both_clocks():
    assert judging.payload_idle_ms(info_of(**heard(7) | sent(9))) == 7
    assert judging.payload_idle_ms(info_of(**heard(9) | sent(7))) == 7
    assert judging.payload_idle_ms(info_of(**heard(-1))) == -1
    assert judging.payload_idle_ms(info_of(**sent(-1))) == -1


class Looks:
    """One connection, looked at again and again; ages count from the last change of each."""

    def __init__(self, since_ms: int = 0, **limits: int) -> None:
        self.now = NOW
        self.limits = Limits(**limits)
        self.at = {"last_data_sent_ms": NOW, "last_data_recv_ms": NOW, "last_ack_recv_ms": NOW}
        self.counters = dict.fromkeys(Info._fields, 0) | {"state": b.ESTABLISHED}
        self.past = judging.begin(self.info(), since_ms, NOW)

    def info(self) -> Info:
        return Info(**self.counters | {name: self.now - at for name, at in self.at.items()})

    def receive(self, count: int = 1) -> None:
        self.counters["bytes_received"] += count
        self.counters["data_segs_in"] += 1
        self.at |= {"last_data_recv_ms": self.now, "last_ack_recv_ms": self.now}

    def send(self) -> None:
        self.counters["data_segs_out"] += 1
        self.counters["unacked"] = 1
        self.at["last_data_sent_ms"] = self.now

    def acknowledge(self, *, all_of_it: bool = True) -> None:
        self.counters["bytes_acked"] += 1
        self.at["last_ack_recv_ms"] = self.now
        if all_of_it:
            self.counters["unacked"] = 0

    def look(self, after: int = 0) -> judging.Judgement:
        self.now += after
        return judging.judge(self.limits, self.past, self.info(), self.now)


def test_a_reader_that_takes_nothing_is_stalled():
    looks = Looks(stalled_ms=2000)
    assert looks.look(3000).cause == b.NO_CAUSE
    looks.now += 40
    looks.send()
    assert looks.look(0)[2:] == (0, 250)
    assert looks.look(1999) == (SENDING, b.NO_CAUSE, 1999, 10)
    assert looks.look(1) == (SENDING, b.FOR_STALLED, 2000, 10)


def test_a_slow_reader_is_not_stalled():
    looks = Looks(stalled_ms=2000)
    looks.send()
    for _ in range(50):
        looks.look(250)
        assert looks.look(1700).cause == b.NO_CAUSE
        looks.acknowledge(all_of_it=False)


def test_what_was_sent_after_a_silence_is_not_stalled_yet():
    looks = Looks(stalled_ms=2000)
    for _ in range(5):
        looks.look(1900)
        looks.now += 90
        looks.send()
        assert looks.look(10) == (SENDING, b.NO_CAUSE, 0, 250)
        looks.acknowledge()


def test_acknowledged_and_sent_again_between_two_looks():
    looks = Looks(stalled_ms=2000)
    looks.send()
    looks.look()
    looks.now += 1000
    looks.acknowledge()
    looks.send()
    assert looks.look(1000).clock_ms == 0


def trickle(looks: Looks, seconds: int, count: int = 1) -> list[int]:
    """Receive `count` bytes a second; look when that is asked for."""
    causes, due = [], looks.now
    for _ in range(seconds * 100):
        looks.now += 10
        if looks.now % 1000 == 0:
            looks.receive(count)
        if looks.now >= due:
            judgement = looks.look()
            due = looks.now + judgement.again_ms
            causes.append(judgement.cause)
    return causes


def test_a_trickle_is_too_slow_after_two_stretches():
    looks = Looks(min_rate=100)
    looks.receive()
    assert trickle(looks, 9) == [0, 0]
    assert trickle(looks, 2)[-1] == b.FOR_MIN_RATE
    assert looks.look().clock_ms >= 10_000


def test_the_rate_asked_for_is_enough():
    looks = Looks(min_rate=100)
    assert set(trickle(looks, 60, count=101)) == {b.NO_CAUSE}


def test_what_comes_after_the_mark_counts():
    looks = Looks(min_rate=100)
    looks.receive()
    assert trickle(looks, 11)[-1] == b.FOR_MIN_RATE
    looks.receive(5000)
    assert looks.look(10).cause == b.NO_CAUSE


def test_a_slow_handler_is_not_a_slow_client():
    looks = Looks(min_rate=100)
    looks.receive(50)
    for _ in range(9):
        assert looks.look(5000).cause == b.NO_CAUSE
    looks.receive(50)  # one byte too many after a long time is no trickle either
    assert looks.look(100).cause == b.NO_CAUSE
    assert looks.look(4900).cause == b.NO_CAUSE


@pytest.mark.parametrize("silence", [4999, 5000])
def test_a_client_that_stopped_is_waiting(silence):
    looks = Looks(min_rate=100)
    looks.receive()
    looks.look()
    looks.receive()
    looks.look(5000)
    looks.now += 100
    looks.receive()
    assert (looks.look(silence).cause == b.FOR_MIN_RATE) == (silence < 5000)


def test_an_answer_begins_the_marks_anew():
    looks = Looks(min_rate=100)
    looks.receive()
    assert trickle(looks, 9)[-1] == b.NO_CAUSE
    looks.send()
    looks.acknowledge()
    looks.receive()
    assert set(trickle(looks, 9)) == {b.NO_CAUSE}
    assert trickle(looks, 7)[-1] == b.FOR_MIN_RATE


def test_a_client_that_has_closed_cannot_be_slow():
    looks = Looks(min_rate=100)
    looks.receive()
    assert trickle(looks, 11)[-1] == b.FOR_MIN_RATE
    looks.counters["state"] = b.CLOSE_WAIT
    looks.counters["bytes_received"] += 1
    assert looks.look().cause == b.NO_CAUSE


def test_questions_of_before_do_not_count():
    looks = Looks(since_ms=NOW, detect_ms=4000)
    looks.at["last_ack_recv_ms"] = looks.at["last_data_recv_ms"] = NOW - 60_000
    looks.counters |= {"probes": 5, "total_retrans": 5}
    looks.past = judging.begin(looks.info(), NOW, NOW)
    assert looks.look(3999).again_ms == 10
    assert looks.look(500) == (NEVER, b.NO_CAUSE, 4499, 50)
    looks.counters["probes"] = 6
    assert looks.look().cause == b.FOR_SILENT
    looks.counters |= {"probes": 5, "total_retrans": 6}
    assert looks.look().cause == b.FOR_SILENT


def test_one_answer_makes_old_questions_new():
    looks = Looks(since_ms=NOW, detect_ms=4000)
    looks.counters["probes"] = 5
    looks.past = judging.begin(looks.info(), NOW, NOW)
    looks.now += 10
    looks.at["last_ack_recv_ms"] = looks.now
    looks.counters["probes"] = 0
    looks.look(10)
    looks.counters["probes"] = 2
    assert looks.look(3980).cause == b.NO_CAUSE
    assert looks.look(10).cause == b.FOR_SILENT


def test_all_begins_anew_when_since_moves():
    looks = Looks(never_spoke_ms=8000, detect_ms=4000, stalled_ms=2000, min_rate=100)
    looks.counters["probes"] = 2
    assert looks.look(9000).cause == b.FOR_SILENT
    looks.past.since_ms = looks.now
    assert looks.look().cause == b.NO_CAUSE
    assert looks.look(4500).cause == b.NO_CAUSE  # nothing was asked since
    assert looks.look(3499).cause == b.NO_CAUSE
    assert looks.look(1).cause == b.FOR_NEVER_SPOKE
    looks.receive()
    looks.look()
    assert trickle(looks, 9)[-1] == b.NO_CAUSE
    looks.past.since_ms = looks.now
    assert set(trickle(looks, 9)) == {b.NO_CAUSE}
    looks.send()
    looks.counters["probes"] = 0
    looks.look()
    assert looks.look(1999).cause == b.NO_CAUSE
    looks.past.since_ms = looks.now
    assert looks.look(1).clock_ms == 0


def test_a_quiet_connection_costs_two_looks():
    looks = Looks(never_spoke_ms=30_000)
    assert looks.look().again_ms == 30_000
    assert looks.look(30_000).cause == b.FOR_NEVER_SPOKE

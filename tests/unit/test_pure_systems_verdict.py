"""What is said of a peer on systems that tell less than Linux, in pure Python on models."""

from __future__ import annotations

import errno
import struct
import sys

import pytest

from stillalive import NotSupportedError
from stillalive import _backend as b
from stillalive._pure import _unix, _verdict
from stillalive._pure._kernel import Pending

from .model_systems import FD, Keepalive, ModelUnix, ModelWindows, Queue, fails
from .test_pure_systems import LAYOUTS, struct_of

UNIX = ("darwin", "freebsd", "netbsd", "openbsd")
ESTABLISHED, CLOSE_WAIT, SYN_SENT, LISTEN, CLOSED = 4, 5, 2, 1, 0


@pytest.fixture
def queue(monkeypatch):
    made = Queue()
    monkeypatch.setattr(_unix, "select", made.module())
    return made


def on(monkeypatch, key: str, state: int = ESTABLISHED, silent_ms: int = 5000) -> ModelUnix:
    kernel = ModelUnix(key)
    fields = dict(LAYOUTS[key][1])
    if 52 in fields:
        fields[52] = ("I", silent_ms * 1000)
    kernel.sock.info = struct_of(LAYOUTS[key][0], fields, state)
    monkeypatch.setattr(_verdict, "system", kernel)
    return kernel


def said(verdict: b.Verdict) -> tuple[int, int, int]:
    return verdict[:3]


# ---- judged without a question --------------------------------------------


@pytest.mark.parametrize("key", UNIX)
def test_a_quiet_connection_is_open(monkeypatch, queue, key):
    on(monkeypatch, key)
    queue.show(write="ready")
    heard = 5000 if key in ("freebsd", "openbsd") else -1
    assert _verdict.check(FD) == (b.OPEN, b.WHY_QUIET, 0, 0, heard, 0, 0)


@pytest.mark.parametrize("key", ["freebsd", "openbsd"])
def test_one_that_was_heard_just_now_is_alive(monkeypatch, queue, key):
    on(monkeypatch, key, silent_ms=1000)
    assert said(_verdict.check(FD)) == (b.ALIVE, b.WHY_HEARD, 0)
    on(monkeypatch, key, silent_ms=1001)
    assert said(_verdict.check(FD)) == (b.OPEN, b.WHY_QUIET, 0)


@pytest.mark.parametrize("key", UNIX)
def test_the_peers_end_behind_unread_data(monkeypatch, queue, key):
    on(monkeypatch, key, CLOSE_WAIT)
    queue.show(read="end", write="ready", data=9)
    verdict = _verdict.check(FD)
    assert said(verdict) == (b.PEER_CLOSED, b.WHY_FIN, 0)
    assert verdict[5] == 9


ENDS = [
    (errno.ECONNRESET, b.RESET, b.WHY_RST),
    (errno.ECONNREFUSED, b.RESET, b.WHY_RST),
    (errno.EPIPE, b.RESET, b.WHY_RST),
    (errno.ECONNABORTED, b.RESET, b.WHY_RST),
    (errno.ETIMEDOUT, b.DEAD, b.WHY_TIMED_OUT),
    (errno.EHOSTUNREACH, b.DEAD, b.WHY_TIMED_OUT),
]


def end(kernel: ModelUnix, queue: Queue, code: int) -> None:
    kernel.sock.info = errno.ECONNRESET  # whatever it was that ended it
    kernel.sock.peer = errno.ENOTCONN
    queue.show(read="end", write="end", code=code)


@pytest.mark.parametrize("key", UNIX)
@pytest.mark.parametrize(("code", "state", "reason"), ENDS)
def test_an_error_that_shows_names_the_end(monkeypatch, queue, key, code, state, reason):
    end(on(monkeypatch, key), queue, code)
    assert said(_verdict.check(FD)) == (state, reason, code)


@pytest.mark.parametrize("key", UNIX)
def test_an_end_whose_error_the_owner_has_had(monkeypatch, queue, key):
    end(on(monkeypatch, key), queue, 0)
    assert said(_verdict.check(FD)) == (b.PEER_CLOSED, b.WHY_CLOSED, 0)


@pytest.mark.parametrize("key", UNIX)
def test_an_error_without_a_number_may_be_either(monkeypatch, queue, key):
    kernel = on(monkeypatch, key)
    end(kernel, queue, 0)
    shown = Pending(error=True, hangup=True, rdhup=True, fin=False, unread=0)
    monkeypatch.setattr(kernel, "pending", lambda fd: shown)
    assert said(_verdict.check(FD)) == (b.DEAD, b.WHY_RST_OR_TIMEOUT, 0)


@pytest.mark.parametrize("key", UNIX)
def test_one_that_never_was_is_no_connection(monkeypatch, queue, key):
    kernel = on(monkeypatch, key, CLOSED)
    kernel.sock.peer = errno.ENOTCONN
    queue.show(write="ready")
    with fails(errno.ENOTCONN):
        _verdict.check(FD)


@pytest.mark.parametrize("key", UNIX)
def test_a_listening_one_is_no_connection(monkeypatch, queue, key):
    kernel = on(monkeypatch, key, LISTEN)
    kernel.sock.listening = True
    with pytest.raises(NotSupportedError, match="listening"):
        _verdict.check(FD)


def test_an_end_between_two_calls_is_seen(monkeypatch, queue):
    """TCP_INFO says established, then the queue shows the end: the kernel is asked again."""
    kernel = on(monkeypatch, "freebsd")
    before = kernel.tcp_info(FD)
    end(kernel, queue, errno.ECONNRESET)
    info, verdict = _verdict.verdict_of(FD, before)
    assert info.state == b.CLOSE
    assert said(verdict) == (b.RESET, b.WHY_RST, errno.ECONNRESET)


# ---- witnesses ------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "state", "reason"),
    [
        ("darwin", b.UNKNOWN, b.WHY_CANNOT_TELL),
        ("netbsd", b.UNKNOWN, b.WHY_CANNOT_TELL),
        ("openbsd", b.UNKNOWN, b.WHY_CANNOT_ASK),
        ("freebsd", b.ASKING, b.WHY_MUST_ASK),
    ],
)
def test_what_cannot_be_asked_or_told_is_unknown(monkeypatch, queue, key, state, reason):
    on(monkeypatch, key)
    witness = _verdict.Witness(FD)
    assert said(witness.begin(0)) == (state, reason, 0)
    assert said(witness.look(0, 100)) == (state, reason, 0)


def test_a_mac_with_data_in_flight_cannot_tell_either(monkeypatch, queue):
    kernel = on(monkeypatch, "darwin")
    assert kernel.tcp_info(FD).notsent_bytes > 0
    assert said(_verdict.Witness(FD).begin(0)) == (b.UNKNOWN, b.WHY_CANNOT_TELL, 0)


@pytest.mark.parametrize("key", UNIX)
def test_a_handshake_is_waited_for_where_that_can_be_told(monkeypatch, queue, key):
    on(monkeypatch, key, SYN_SENT)
    blind = key in ("darwin", "netbsd")
    want = (b.OPEN, b.WHY_CONNECTING) if blind else (b.ASKING, b.WHY_KERNEL_ASKS)
    # Its clock is no sign of the peer, but a clock.
    assert said(_verdict.Witness(FD).begin(0))[:2] == want


@pytest.mark.parametrize("key", UNIX)
@pytest.mark.parametrize(("code", "state", "reason"), ENDS)
def test_a_witness_sees_the_end_that_takes_the_name(monkeypatch, queue, key, code, state, reason):
    kernel = on(monkeypatch, key)
    witness = _verdict.Witness(FD)
    witness.begin(0)
    end(kernel, queue, code)
    assert said(witness.look(0, 50)) == (state, reason, code)
    assert said(witness.give_up(0, 50)) == (state, reason, code)


@pytest.mark.parametrize("key", UNIX)
@pytest.mark.parametrize(("code", "state", "reason"), ENDS)
def test_a_witness_of_what_had_ended_before(monkeypatch, queue, key, code, state, reason):
    end(on(monkeypatch, key), queue, code)
    witness = _verdict.Witness(FD)
    assert said(witness.begin(0)) == (state, reason, code)
    assert said(witness.look(0, 50)) == (state, reason, code)


def test_a_witness_knows_another_socket(monkeypatch, queue):
    kernel = on(monkeypatch, "freebsd")
    witness = _verdict.Witness(FD)
    witness.begin(0)
    kernel.sock.peer = ("127.0.0.1", 81)
    with fails(errno.EBADF):
        witness.look(0, 50)


# ---- Windows --------------------------------------------------------------


def windows(monkeypatch, *, info: bytes | int = 10045, shown: int = 0) -> ModelWindows:
    kernel = ModelWindows()
    kernel.winsock.info, kernel.winsock.shown = info, shown
    monkeypatch.setattr(_verdict, "system", kernel)
    return kernel


ERR, HUP, READ = 1, 2, 0x100


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        (0, (b.OPEN, b.WHY_QUIET, 0)),
        (READ, (b.OPEN, b.WHY_QUIET, 0)),
        (HUP, (b.PEER_CLOSED, b.WHY_FIN, 0)),
        (READ | HUP, (b.PEER_CLOSED, b.WHY_FIN, 0)),
        (ERR | HUP, (b.DEAD, b.WHY_RST_OR_TIMEOUT, 0)),
        (ERR, (b.DEAD, b.WHY_RST_OR_TIMEOUT, 0)),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_without_a_state_poll_has_to_do(monkeypatch, shown, want, ended):
    """Before Windows 10 1703; and of a connection that has ended the state is "closed"."""
    windows(monkeypatch, info=bytes(88) if ended else 10045, shown=shown)
    assert said(_verdict.check(FD)) == want


def test_windows_can_tell_an_end_but_no_answer(monkeypatch):
    kernel = windows(monkeypatch, info=struct.pack("<I", 4) + bytes(84))
    witness = _verdict.Witness(FD)
    assert said(witness.begin(0)) == (b.UNKNOWN, b.WHY_CANNOT_TELL, 0)
    kernel.winsock.info, kernel.winsock.shown = struct.pack("<I", 7) + bytes(84), HUP
    assert said(witness.look(0, 9)) == (b.PEER_CLOSED, b.WHY_FIN, 0)


@pytest.mark.parametrize("gone", [False, True])
def test_a_witness_sees_an_end_that_takes_the_peers_address(monkeypatch, gone):
    kernel = windows(monkeypatch)
    witness = _verdict.Witness(FD)
    witness.begin(0)
    kernel.winsock.shown = ERR | HUP
    kernel.sock.connect(fresh=gone)
    assert said(witness.look(0, 9)) == (b.DEAD, b.WHY_RST_OR_TIMEOUT, 0)
    assert said(_verdict.Witness(FD).begin(0)) == (b.DEAD, b.WHY_RST_OR_TIMEOUT, 0)


# ---- the question on FreeBSD ----------------------------------------------

OWNERS = [
    # idle, interval, count, seconds without a segment
    (7200, 75, 8, 7000.0),
    (7200, 75, 8, 7650.0),  # the kernel has begun to ask
    (40000, 3600, 24, 100_000.0),
    (5, 1, 3, 4.0),
    (4_000_000, 60, 8, 900_000.0),
]


def asked(monkeypatch, timer: Keepalive) -> tuple[ModelUnix, _verdict.Question]:
    kernel = ModelUnix("freebsd", timer)
    timer.show()
    monkeypatch.setattr(_verdict, "system", kernel)
    return kernel, _verdict.Question(FD, kernel.identify(FD))


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("pause", [0.0, 30.0, 600.0])
@pytest.mark.parametrize("answers", [True, False])
def test_no_question_ends_a_connection(monkeypatch, queue, owner, pause, answers):
    """However long the thread rests between any two settings, with always_keepalive on."""
    timer = Keepalive(answers=answers, pause=pause).live(*owner)
    _, question = asked(monkeypatch, timer)
    before = dict(timer.held)
    assert not question.ask(0)  # it has not left yet
    assert not timer.dropped
    timer.advance(1.5)
    assert timer.probes >= 1
    assert question.ask(1500)
    timer.advance(3)
    timer.pause = 0.0  # the owner's own values are as deadly as he has made them
    question.end()
    assert not timer.dropped
    if answers:
        assert timer.held == before
    # An outage that ends now: the peer is asked before it is given up.
    timer.answers = True
    timer.advance(owner[0] + 1)
    assert not timer.dropped
    assert timer.heard > timer.now - owner[0] - 2


def test_the_steps_of_a_question_and_of_giving_back(monkeypatch, queue):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    _, question = asked(monkeypatch, timer)
    assert not question.ask(0)  # it leaves a second later
    assert timer.log == [
        ("TCP_KEEPIDLE", 2_000_000),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 2_000_000),
        ("SO_KEEPALIVE", 1),
        ("TCP_KEEPIDLE", 1),
    ]
    timer.log.clear()
    timer.advance(0.9)
    assert not question.ask(999)
    assert question.asked == 0
    timer.advance(0.2)
    assert question.ask(1100)
    assert timer.log == []  # set again, the idle time would put the question off
    assert not question.ask(1800)
    assert question.ask(1850)
    assert question.asked == 2
    question.end()
    assert timer.log == [
        ("TCP_KEEPIDLE", 2_000_000),
        ("SO_KEEPALIVE", 0),
        ("TCP_KEEPCNT", 8),
        ("TCP_KEEPINTVL", 75),
        ("TCP_KEEPIDLE", 7200),
    ]
    timer.log.clear()
    question.end()
    assert timer.log == []


@pytest.mark.parametrize(
    ("owner", "count"),
    [
        ((60, 10, 6, 30.0), 6),  # the timer will ask before the budget is over
        ((60, 10, 6, 59.0), 6 + 60 // 10 + 1),  # and here not
        ((7200, 75, 8, 2.0), 8),  # answered: who is asked every second
        ((7200, 75, 8, 30.0), 8 + (7200 + 600 + 4295) // 75 + 1),  # or 71 minutes ago
    ],
)
def test_the_count_is_raised_only_where_it_must_be(monkeypatch, queue, owner, count):
    timer = Keepalive(answers=False).live(*owner)
    _, question = asked(monkeypatch, timer)
    question.ask(0)
    timer.advance(1.0 if owner[3] == 59.0 else 0.9)
    question.end()
    assert timer.named("TCP_KEEPCNT") == count


def test_an_owner_without_an_answer_gets_a_higher_count(monkeypatch, queue):
    timer = Keepalive(answers=False).live(5, 1, 3, 4.0)
    _, question = asked(monkeypatch, timer)
    question.ask(0)
    timer.advance(3)
    question.end()
    assert timer.named("TCP_KEEPCNT") > 3
    assert (timer.named("TCP_KEEPIDLE"), timer.named("TCP_KEEPINTVL")) == (5, 1)


@pytest.mark.parametrize("step", range(5))
def test_half_a_question_is_none(monkeypatch, queue, step):
    timer = Keepalive().live(7200, 75, 8, 2.0)
    _, question = asked(monkeypatch, timer)
    before = dict(timer.held)
    timer.fails_at = step
    with fails(errno.ENOBUFS):
        question.ask(0)
    assert timer.held == before
    assert question.asked == 0
    assert question.saved is None


@pytest.mark.parametrize("step", range(5))
def test_giving_back_goes_on_after_a_failure(monkeypatch, queue, step):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    _, question = asked(monkeypatch, timer)
    question.ask(0)
    timer.log.clear()
    timer.fails_at = step
    with fails(errno.ENOBUFS):
        question.end()
    assert len(timer.log) == 4


def test_a_connection_that_ends_meanwhile_is_not_asked(monkeypatch, queue):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    kernel, question = asked(monkeypatch, timer)
    end(kernel, queue, errno.ETIMEDOUT)
    assert not question.ask(0)  # the witness tells
    assert timer.log == []


def test_what_was_borrowed_of_an_ended_connection_is_let_go(monkeypatch, queue):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    kernel, question = asked(monkeypatch, timer)
    question.ask(0)
    end(kernel, queue, errno.ETIMEDOUT)
    timer.log.clear()
    question.end()
    assert timer.log == []
    assert question.saved is None


def test_another_socket_is_not_asked(monkeypatch, queue):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    _, question = asked(monkeypatch, timer)
    timer.peer = ("127.0.0.1", 81)
    with fails(errno.EBADF):
        question.ask(0)
    assert timer.log == []


@pytest.mark.parametrize("state", [CLOSED, LISTEN, SYN_SENT, 3])
def test_what_is_not_connected_is_neither_asked_nor_mended(monkeypatch, queue, state):
    kernel = on(monkeypatch, "freebsd", state)
    saved = kernel.read_options(FD)
    with fails(errno.ENOTCONN):
        kernel.ask(FD, saved, b.GUARD_COUNT)
    kernel.unask(FD, saved)
    assert kernel.sock.log == []


def test_a_whole_probe(monkeypatch, queue):
    timer = Keepalive().live(7200, 75, 8, 600.0)
    _, question = asked(monkeypatch, timer)
    witness = _verdict.Witness(FD)
    assert said(witness.begin(0))[0] == b.ASKING
    question.ask(0)
    timer.advance(0.5)
    assert said(witness.look(question.asked, 500))[0] == b.ASKING
    timer.advance(0.6)
    assert said(witness.look(question.asked, 1100)) == (b.ALIVE, b.WHY_ANSWERED, 0)


def test_a_whole_probe_in_vain(monkeypatch, queue):
    timer = Keepalive(answers=False).live(7200, 75, 8, 600.0)
    _, question = asked(monkeypatch, timer)
    witness = _verdict.Witness(FD)
    witness.begin(0)
    question.ask(0)
    assert said(witness.give_up(question.asked, 500)) == (b.OPEN, b.WHY_NO_QUESTION, 0)
    timer.advance(3)
    question.ask(1000)
    assert said(witness.give_up(question.asked, 3000)) == (b.SILENT, b.WHY_NO_ANSWER, 0)


@pytest.mark.parametrize("key", ["darwin", "netbsd", "openbsd"])
def test_no_other_bsd_is_asked(monkeypatch, queue, key):
    kernel = on(monkeypatch, key)
    saved = kernel.read_options(FD)
    with pytest.raises(NotSupportedError):
        kernel.ask(FD, saved, b.GUARD_COUNT)
    with pytest.raises(NotSupportedError):
        kernel.unask(FD, saved)
    assert kernel.sock.log == []


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux does, on Linux")
def test_linux_is_asked_as_before(tcp_pair):
    """The step that every later question repeats is the idle time alone."""
    from stillalive._pure import _linux

    a, _ = tcp_pair()
    question = _verdict.Question(a.fileno(), _linux.identify(a.fileno()))
    before = _linux.read_options(a.fileno())
    assert question.ask(0)
    assert _linux.read_options(a.fileno()) == (1, 1, before[2], 127, 0, before[5])
    question.end()
    assert _linux.read_options(a.fileno()) == before

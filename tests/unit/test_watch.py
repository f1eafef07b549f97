"""watch(): one connection, from the call to its end, on real sockets where they can show it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import struct
import sys
import threading
import time
import weakref

import pytest

from stillalive import _backend as b
from stillalive import _impl, _pacing
from stillalive import guard as guards
from stillalive._errors import NotSupportedError
from stillalive.guard import Watch, watch

from . import guarding
from .guarding import Blocked, deafen
from .serving import until

fake, real = guarding.fake, guarding.real

SOON = 0.2
RESET = struct.pack("ii", 1, 0)


def options(sock):
    return _impl.backend.read_options(sock.fileno())


# ---- arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs detect_within, idle_timeout or both"),
        ({"detect_within": 3.9}, ValueError, "detect_within=3.9: too short.*possible here is 4 s"),
        ({"detect_within": 0}, ValueError, "detect_within=0: must be finite and more than 0"),
        ({"detect_within": float("nan")}, ValueError, "detect_within=nan"),
        ({"detect_within": 5_000_000}, ValueError, "allowed: 4 to 4000000 seconds"),
        ({"detect_within": "30"}, TypeError, "detect_within='30': must be a number"),
        ({"detect_within": True}, TypeError, "detect_within=True"),
        ({"idle_timeout": 0.05}, ValueError, "idle_timeout=0.05.*allowed: 0.1 to 4000000"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout=-1"),
        ({"idle_timeout": 5, "action": "kill"}, ValueError, "action='kill'.*'abort', 'shutdown'"),
        ({"idle_timeout": 5, "action": 1}, TypeError, "action=1"),
        ({"idle_timeout": 5, "on_event": 3}, TypeError, "on_event=3: must be callable"),
    ],
)
def test_what_is_asked_for_is_checked(fake, tcp_pair, arguments, error, says):
    a, _ = tcp_pair()
    before = options(a)
    with pytest.raises(error, match=says):
        watch(a, **arguments)
    assert options(a) == before
    assert fake == []  # not even a thread was started


def test_what_cannot_be_watched_is_refused(real):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp, pytest.raises(NotSupportedError, match="watch.*UDP"):
        watch(udp, idle_timeout=5)
    left, right = socket.socketpair()
    with left, right, pytest.raises(NotSupportedError, match="watch.*AF_UNIX"):
        watch(left, detect_within=5)
    with pytest.raises(OSError, match="closed") as closed:
        watch(left, detect_within=5)
    assert closed.value.errno == errno.EBADF
    with pytest.raises(TypeError, match="not a socket"):
        watch(object(), detect_within=5)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, pytest.raises(NotSupportedError, match="idle_timeout.*listening"):
        watch(listener, idle_timeout=5)


def test_a_connection_that_is_over_is_an_error(real, tcp_pair):
    a, z = tcp_pair()
    z.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    z.close()
    until(lambda: b.Info(*real.tcp_info(a.fileno())).state == b.CLOSE)
    with pytest.raises(ConnectionResetError):
        watch(a, detect_within=5)
    with pytest.raises(ConnectionResetError):  # nothing was taken from its owner
        a.recv(1)


def test_it_is_exported_for_each_kind_of_socket(fake, tcp_pair):
    a, _ = tcp_pair()
    for sock in (a, a.fileno()):
        watch(sock, idle_timeout=5).cancel()
    assert len(fake) == 1
    assert fake[0].settings == b.WatcherSettings()


# ---- ends -------------------------------------------------------------------


def test_idle_is_told_and_never_early(real, tcp_pair):
    a, _ = tcp_pair()
    seen = []
    began = time.monotonic()
    watching = watch(a, idle_timeout=0.5, action=None, on_event=seen.append)
    assert watching.event is None
    event = watching.wait(10)
    assert time.monotonic() - began >= 0.5
    assert time.monotonic() - began < 0.5 + 1.0
    assert (event.why, event.done, event.dry_run) == ("idle", "nothing", False)
    assert event.connection_class == "never_spoke"
    assert 0.5 <= event.idle_for < 1.5
    assert event.fd == a.fileno()
    assert event.local == a.getsockname()
    assert event.peer == a.getpeername()
    assert abs(event.at - time.monotonic()) < 5
    until(lambda: seen)
    assert seen == [event]
    assert watching.event is event is watching.wait()
    a.sendall(b"it was only told")


def test_payload_keeps_it_alive(real, tcp_pair):
    a, z = tcp_pair()
    watching = watch(a, idle_timeout=0.6)
    for _ in range(8):
        assert watching.wait(0.2) is None
        z.sendall(b"x")
        assert a.recv(1) == b"x"
    assert watching.wait(10).why == "idle"


def test_abort_ends_a_blocked_recv_with_an_error(real, tcp_pair):
    a, _ = tcp_pair()
    owner = Blocked(a.recv, 1)
    event = watch(a, idle_timeout=SOON).wait(10)
    assert (event.why, event.done) == ("idle", "abort")
    assert isinstance(owner.end(), OSError), owner.result
    with pytest.raises(OSError, match="Errno"):
        a.sendall(b"x")


def test_who_does_not_read_is_neither_idle_nor_dead(real, tcp_pair):
    a, z = tcp_pair()
    owner = Blocked(a.sendall, bytes(20_000_000))
    watching = watch(a, idle_timeout=SOON, detect_within=4)
    assert watching.wait(1) is None
    reader = Blocked(lambda: sum(len(z.recv(1 << 20, socket.MSG_WAITALL)) for _ in range(25)))
    assert owner.end() is None
    a.shutdown(socket.SHUT_WR)
    assert reader.end() is None
    assert reader.result == 20_000_000
    watching.cancel()


def test_a_vanished_peer_is_told_in_time_whatever_goes_on(real, tcp_pair):
    deadline = 4
    names = ("recv", "sendall", "late", "window", "fin out", "fin in")
    pairs = {name: tcp_pair() for name in names}
    healthy = {name: tcp_pair() for name in ("idle", "slow")}
    filling = bytes(8_000_000)
    slow = Blocked(healthy["slow"][0].sendall, filling)
    stuck = Blocked(pairs["window"][0].sendall, filling)
    pairs["fin out"][0].shutdown(socket.SHUT_WR)
    pairs["fin in"][1].shutdown(socket.SHUT_WR)
    assert pairs["fin in"][0].recv(1) == b""
    time.sleep(0.3)  # the windows are shut
    watches = {name: watch(a, detect_within=deadline) for name, (a, _) in pairs.items()}
    unharmed = [watch(a, detect_within=deadline) for a, _ in healthy.values()]
    vanished = time.monotonic()
    for _, z in pairs.values():
        deafen(z)
    owners = {
        "recv": Blocked(pairs["recv"][0].recv, 1),
        "sendall": Blocked(pairs["sendall"][0].sendall, filling),
        "fin out": Blocked(pairs["fin out"][0].recv, 1),
        "window": stuck,
    }
    late = threading.Timer(2.5, pairs["late"][0].send, (b"late",))
    late.start()
    for name, watching in watches.items():
        event = watching.wait(deadline + 0.1 - (time.monotonic() - vanished))
        assert event is not None, f"{name}: not told in time"
        assert (event.why, event.done) == ("silent", "abort")
        assert 2 < event.at - vanished <= deadline, name
    for name, owner in owners.items():
        assert isinstance(owner.end(), OSError), f"{name}: {owner.result!r}"
    late.join()
    time.sleep(0.5)
    for watching in unharmed:
        assert watching.event is None
        watching.cancel()
    z = healthy["slow"][1]
    assert len(z.recv(len(filling), socket.MSG_WAITALL)) == len(filling)
    assert slow.end() is None
    healthy["idle"][1].sendall(b"x")
    assert healthy["idle"][0].recv(1) == b"x"


def test_shutdown_reads_as_an_end(real, tcp_pair):
    a, z = tcp_pair()
    owner = Blocked(a.recv, 1)
    event = watch(a, idle_timeout=SOON, action="shutdown").wait(10)
    assert event.done == "shutdown"
    assert owner.end() is None
    assert owner.result == b""
    z.settimeout(10)
    assert z.recv(1) == b""


def test_a_reset_is_told_and_left_to_its_owner(real, tcp_pair):
    a, z = tcp_pair()
    watching = watch(a, detect_within=30)
    time.sleep(0.05)
    z.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    z.close()
    event = watching.wait(10)
    assert (event.why, event.done) == ("reset", "nothing")
    with pytest.raises(ConnectionResetError):
        a.recv(1)


def test_an_end_of_stream_is_no_event(real, tcp_pair):
    a, z = tcp_pair()
    watching = watch(a, detect_within=30)
    z.shutdown(socket.SHUT_WR)
    assert a.recv(1) == b""
    assert watching.wait(1.2) is None
    assert watching.event is None
    watching.cancel()


def test_closing_the_socket_cancels(real, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, detect_within=4)
    waiting = Blocked(watching.wait)
    a.close()
    assert waiting.end() is None
    assert waiting.result is None
    assert watching.event is None
    assert not _pacing._loans


def test_a_number_used_again_is_left_alone(real, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, detect_within=4)
    number = a.detach()
    c, _ = tcp_pair()
    os.dup2(c.fileno(), number)
    again = socket.socket(fileno=number)
    try:
        before = options(c)
        assert watching.wait(10) is None
        watching.cancel()
        assert options(c) == before
        c.sendall(b"x")
    finally:
        again.close()


def test_the_socket_is_not_kept_alive(real):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = [socket.create_connection(listener.getsockname())]
        server, _ = listener.accept()
        watching = watch(left[0], detect_within=4)
        gone = weakref.ref(left[0])
        with pytest.warns(ResourceWarning):
            left.clear()
        gc.collect()
        assert gone() is None
        server.settimeout(10)
        assert server.recv(1) == b""
        assert watching.wait(10) is None
        server.close()


def test_it_works_unreferenced(real, tcp_pair):
    a, _ = tcp_pair()
    seen = []
    watch(a, idle_timeout=SOON, on_event=seen.append)
    gc.collect()
    until(lambda: seen)


def test_an_unconnected_socket_can_be_watched(real):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        watching = watch(sock, idle_timeout=0.3, detect_within=8)
        assert watching.wait(0.7) is None  # the clock starts with the connection
        sock.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            assert watching.wait(10).why == "idle"


# ---- waiting ----------------------------------------------------------------


def test_many_threads_wait_for_one_event(fake, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, idle_timeout=5)
    waiting = [Blocked(watching.wait) for _ in range(5)]
    assert watching.wait(0) is None
    fake[0].end(watching._token, cause=b.FOR_IDLE, deed=b.DEED_ABORT)
    for one in waiting:
        assert one.end() is None
        assert one.result.why == "idle"
    assert watching.wait(0).done == "abort"


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_a_wrong_timeout_is_an_error(fake, tcp_pair, timeout):
    a, _ = tcp_pair()
    watching = watch(a, idle_timeout=5)
    with pytest.raises((ValueError, TypeError), match="timeout="):
        watching.wait(timeout)
    watching.cancel()


def test_cancelling(fake, tcp_pair):
    a, _ = tcp_pair()
    seen = []
    watching = watch(a, idle_timeout=5, on_event=seen.append)
    waiting = Blocked(watching.wait)
    watching.cancel()
    watching.cancel()
    assert waiting.end() is None
    assert waiting.result is None
    assert watching.wait() is None
    assert fake[0].calls.count(("cancel", watching._token)) == 1
    assert fake[0].watched == {}
    assert "ended" in repr(watching)
    assert seen == []


def test_cancelled_too_late_nobody_is_told(fake, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    seen = []
    watching = watch(a, detect_within=8, on_event=seen.append)
    aborting = options(a)
    held = threading.Event()
    blocker = watch(a, idle_timeout=5, on_event=lambda event: held.wait(10))
    fake[0].end(blocker._token, cause=b.FOR_IDLE, deed=b.DEED_NONE)
    blocker.wait(10)
    fake[0].end(watching._token, cause=b.FOR_SILENT, deed=b.DEED_ABORT)
    watching.cancel()
    assert watching.wait() is None
    assert options(a) == aborting != before  # an abort under way is not undone
    held.set()
    until(lambda: not _pacing._loans)
    assert options(a) == aborting
    assert seen == []
    assert watching.event is None


def test_cancelled_while_its_event_is_taken_nobody_is_told(fake, tcp_pair, monkeypatch):
    """The socket's options are given back first; another thread cancels in between."""
    a, _ = tcp_pair()
    told, give_back = [], _pacing.give_back
    watching = watch(a, detect_within=5, on_event=told.append)

    def cancelled_meanwhile(*arguments):
        watching.cancel()
        give_back(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_pacing, "give_back", cancelled_meanwhile)
        fake[0].end(watching._token, cause=b.FOR_SILENT)
        assert watching.wait(10) is None
        until(lambda: not _pacing._loans)
    for guard in list(guards._started):
        guard.stop()  # after its callbacks
    assert told == []
    assert watching.event is None


def test_subscribers_get_the_event_and_the_end(fake, tcp_pair):
    a, _ = tcp_pair()
    early, left, late, of_cancelled = [], [], [], []
    watching = watch(a, idle_timeout=5)
    watching.subscribe(early.append)
    watching.subscribe(left.append)()
    fake[0].end(watching._token, cause=b.FOR_IDLE)
    event = watching.wait(10)
    watching.subscribe(late.append)()
    until(lambda: len(early) == 2)
    assert early == late == [event, None]
    assert left == []
    cancelled = watch(a, idle_timeout=5)
    cancelled.subscribe(of_cancelled.append)
    cancelled.cancel()
    assert of_cancelled == [None]


def test_a_coroutine_waits(fake, tcp_pair):
    a, _ = tcp_pair()

    async def main():
        watching = watch(a, idle_timeout=5)
        waiting = [asyncio.ensure_future(wait_for(watching)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        assert len(watching._futures) == 2
        fake[0].end(watching._token, cause=b.FOR_IDLE)
        events = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(events[0], asyncio.CancelledError)
        assert events[1] is events[2] is await watching
        cancelled = watch(a, idle_timeout=5)
        task = asyncio.ensure_future(wait_for(cancelled))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        assert await task is None
        assert await cancelled is None

    asyncio.run(main())


async def wait_for(watching):
    return await watching


def test_a_loop_that_is_gone_hinders_nobody(fake, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, idle_timeout=5)
    loop = asyncio.new_event_loop()
    task = loop.create_task(wait_for(watching))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    fake[0].end(watching._token, cause=b.FOR_IDLE)
    assert watching.wait(10).why == "idle"
    task._log_destroy_pending = False


def runners():
    yield pytest.param(asyncio.run, id="asyncio")
    try:
        import uvloop
    except ImportError:
        return
    yield pytest.param(uvloop.run, id="uvloop")


@pytest.mark.parametrize("run", list(runners()))
def test_streams_get_an_error_and_never_an_end(real, run):
    async def main():
        over = asyncio.Event()

        async def serve(reader, writer):
            await over.wait()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        watching = watch(writer, idle_timeout=SOON)
        with pytest.raises(OSError, match="Errno"):
            await asyncio.wait_for(reader.read(1), 10)
        event = await watching
        assert (event.why, event.done) == ("idle", "abort")
        over.set()
        writer.close()
        with pytest.raises(OSError, match="Errno"):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_tls_gets_an_error_and_never_an_end(real):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    asking = ssl.create_default_context()
    authority.configure_trust(asking)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        other = Blocked(lambda: serving.wrap_socket(accepted, server_side=True))
        # Without this, CPython 3.11 reads even a reset as an end (gh-115627).
        strict = {"server_hostname": "localhost", "suppress_ragged_eofs": False}
        with asking.wrap_socket(plain, **strict) as client:
            other.end()
            with other.result as server:
                server.sendall(b"half")
                assert client.recv(4) == b"half"
                owner = Blocked(client.recv, 1)
                watching = watch(client, idle_timeout=SOON)
                assert watching.wait(10).done == "abort"
                assert isinstance(owner.end(), OSError), owner.result


def test_a_watch_is_never_made_by_its_users(fake, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, idle_timeout=5)
    assert type(watching) is Watch
    assert guards._default_guard is not None
    watching.cancel()


@pytest.mark.parametrize("moment", range(16))
def test_a_signal_handler_may_cancel_at_any_moment_of_a_wait(fake, tcp_pair, moment):
    a, _ = tcp_pair()
    watching = watch(a, idle_timeout=5)
    left = moment

    def at_each_line(frame, what, argument):
        nonlocal left
        left -= what == "line"
        if left < 0:
            sys.settrace(None)
            frame.f_trace = None
            watching.cancel()
            return None
        return at_each_line

    def wait():
        sys.settrace(at_each_line)
        try:
            return watching.wait(10)
        finally:
            sys.settrace(None)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(5)
    late = waiting.is_alive()
    watching.cancel()
    assert left < 0
    assert not late, "it waits for ever"


def test_who_is_told_of_the_end_may_need_the_lock_elsewhere(fake, tcp_pair):
    a, b = tcp_pair()
    watching, other = watch(a, idle_timeout=5), watch(b, idle_timeout=5)
    ended = []

    def told(event):
        thread = threading.Thread(target=other.cancel, daemon=True)
        thread.start()
        thread.join(5)
        ended.append(not thread.is_alive())

    watching.subscribe(told)
    watching.cancel()
    assert ended == [True]
    with pytest.raises(TypeError, match="callback=5: must be callable"):
        watching.subscribe(5)

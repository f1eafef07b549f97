"""Guard and watch when somebody closes the descriptors of the watcher."""

from __future__ import annotations

from stillalive import _backend as b
from stillalive import _guarding, _impl
from stillalive import guard as guards
from stillalive.guard import Guard

from . import guarding
from .guarding import NOBODY, child
from .serving import until

fake, real = guarding.fake, guarding.real


def test_lost_descriptors_are_replaced_and_watches_go_on(fake, tcp_pair, caplog, monkeypatch):
    a, _ = tcp_pair()
    seen = []
    now = [1000.0]
    monkeypatch.setattr(_guarding, "_clock", lambda: now[0])
    guard = Guard(answered=5, on_event=seen.append).start()
    watching = guard.watch(a, detect_within=8)
    with guard.hold(a):
        now[0] += 60
        fake[0].told.put(NOBODY._replace(cause=b.FOR_LOST, token=0))
        until(lambda: len(fake) == 2 and fake[1].watched)
        assert fake[0].stopped
        assert len(fake[1].held) == 1
    assert fake[1].watched == {watching._token: (a.fileno(), watching._identity, 7600, -1, 2, None)}
    assert "begun anew" in caplog.text
    fake[1].end(watching._token, cause=b.FOR_SILENT)
    assert watching.wait(10).why == "silent"
    fake[1].told.put(NOBODY)
    until(lambda: seen)
    guard.stop()


def test_whoever_closes_them_again_at_once_has_no_guard(fake, tcp_pair, caplog):
    a, _ = tcp_pair()
    before = _impl.backend.read_options(a.fileno())
    guard = Guard(answered=5).start()
    watching = guard.watch(a, detect_within=8)
    fake[0].told.put(NOBODY._replace(cause=b.FOR_LOST, token=0))
    assert watching.wait(10) is None
    until(lambda: guard not in guards._started)
    until(lambda: "it has stopped" in caplog.text)
    assert len(fake) == 1
    assert _impl.backend.read_options(a.fileno()) == before
    guard.start()
    assert len(fake) == 2
    guard.stop()


def test_really_lost_descriptors(real):
    out = child(
        real,
        """
import logging, os, socket, time
from stillalive.guard import Guard
seen = []
with socket.create_server(("127.0.0.1", 0)) as listener:
    before = set(os.listdir("/proc/self/fd"))
    guard = Guard(never_spoke=1, on_event=seen.append).start()
    logging.getLogger("stillalive.guard").setLevel(100)
    time.sleep(1.2)
    for number in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(number))
        except OSError:
            pass
    mine = os.pipe()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(10)
    print(server.recv(1))
    os.write(mine[1], b"untouched")
    guard.stop()
    print(os.read(mine[0], 9), [event.why for event in seen])
""",
    )
    assert out == "b''\nb'untouched' ['never_spoke']\n"

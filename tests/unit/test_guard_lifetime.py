"""Guard and watch: starting, stopping, forking, and the end of the interpreter."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref

import pytest

from stillalive import _backend as b
from stillalive import _impl, _pacing
from stillalive import guard as guards
from stillalive.guard import Guard, watch

from . import guarding
from .guarding import NOBODY, Blocked, FakeWatcher, child, served
from .serving import until

fake, real = guarding.fake, guarding.real

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def count_threads():
    return len(os.listdir("/proc/self/task"))


def count_fds():
    return len(os.listdir("/proc/self/fd"))


# ---- start and stop ---------------------------------------------------------


def test_starting_and_stopping_again_and_again(fake):
    guard = Guard(answered=5)
    assert "stopped" in repr(guard)
    guard.stop()
    assert guard.start() is guard
    assert guard.start() is guard
    assert len(fake) == 1
    guard.stop()
    guard.stop()
    assert fake[0].stopped
    with guard as same:
        assert same is guard
        assert len(fake) == 2
    assert fake[1].stopped


def test_threads_and_descriptors_stay_flat(real, tcp_pair):
    a, _ = tcp_pair()
    guard = Guard(answered=5)
    with guard:
        pass
    threads, fds = count_threads(), count_fds()
    for _ in range(200):
        with guard:
            guard.watch(a, detect_within=8)
    until(lambda: count_threads() <= threads)
    assert count_fds() == fds
    assert _impl.backend.read_options(a.fileno())[b.ENABLED] == 0


def test_a_started_guard_lives_unreferenced(fake):
    seen = []
    Guard(answered=5, on_event=seen.append).start()
    gc.collect()
    fake[0].told.put(NOBODY)
    until(lambda: seen)
    (guard,) = guards._started
    gone = weakref.ref(guard)
    guard.stop()
    del guard
    until(lambda: gc.collect() is not None and gone() is None)


def test_stop_ends_watches_and_gives_back(fake, tcp_pair):
    a, z = tcp_pair()
    before = _impl.backend.read_options(a.fileno())
    guard = Guard(answered=5).start()
    watches = [guard.watch(a, detect_within=8), guard.watch(z, idle_timeout=5)]
    waiting = [Blocked(one.wait) for one in watches]
    guard.stop()
    for one in waiting:
        assert one.end() is None
        assert one.result is None
    assert _impl.backend.read_options(a.fileno()) == before
    watches[0].cancel()


def test_a_callback_may_stop_its_guard(fake):
    done = threading.Event()

    def stop(event):
        guard.stop()
        done.set()

    guard = Guard(answered=5, on_event=stop).start()
    fake[0].told.put(NOBODY)
    assert done.wait(3)  # not the 5 s of a join
    guard.stop()
    assert "stopped" in repr(guard)


def test_stop_waits_for_a_callback_but_not_for_ever(fake, monkeypatch):
    monkeypatch.setattr(guards, "_JOIN_SECONDS", 0.3)
    begun, go_on = threading.Event(), threading.Event()

    def slow(event):
        begun.set()
        go_on.wait(10)

    guard = Guard(answered=5, on_event=slow).start()
    fake[0].told.put(NOBODY)
    begun.wait(5)
    began = time.monotonic()
    guard.stop()
    assert 0.3 <= time.monotonic() - began < 5
    go_on.set()


def test_whoever_stops_it_meanwhile_waits_too(fake, monkeypatch):
    ending, go_on = threading.Event(), threading.Event()
    stop = FakeWatcher.stop

    def slow(self):
        ending.set()
        go_on.wait(10)
        stop(self)

    guard = Guard(answered=5).start()
    monkeypatch.setattr(FakeWatcher, "stop", slow)
    first = Blocked(guard.stop)
    assert ending.wait(5)
    second = Blocked(guard.stop)
    time.sleep(0.05)
    assert second.is_running()  # or what it touches would be touched after a stop()
    go_on.set()
    assert (first.end(), second.end()) == (None, None)


def test_a_signal_handler_inside_stop_does_not_wait_for_itself(fake, monkeypatch):
    stop = FakeWatcher.stop
    guard = Guard(answered=5).start()

    def interrupted(self):
        guard.stop()  # as a handler would, in the same thread
        stop(self)

    monkeypatch.setattr(FakeWatcher, "stop", interrupted)
    assert Blocked(guard.stop).end() is None
    assert fake[0].stopped


def test_a_start_that_fails_leaves_nothing(fake, monkeypatch):
    guard = Guard(answered=5)
    monkeypatch.setattr(FakeWatcher, "fails", OSError(24, "no descriptors left"))
    with pytest.raises(OSError, match="no descriptors left"):
        guard.start()
    assert guard not in guards._started
    monkeypatch.setattr(FakeWatcher, "fails", None)

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            guard.start()
    assert fake[-1].stopped
    assert guard.start() is guard
    guard.stop()


def test_many_threads_start_stop_and_watch(real, tcp_pair):
    a, _ = tcp_pair()
    before = real.read_options(a.fileno())
    guard = Guard(answered=60)
    end = time.monotonic() + 1

    def work(number):
        while time.monotonic() < end:
            guard.start()
            try:
                with guard.hold(a):
                    watching = guard.watch(a, detect_within=8)
                    guard.update(answered=60 + number)
                    watching.cancel()
                    assert watching.wait() is None
            except RuntimeError:
                pass  # another has stopped it
            guard.stop()

    threads = [Blocked(work, number) for number in range(6)]
    assert [thread.end() for thread in threads] == [None] * 6
    guard.stop()
    assert real.read_options(a.fileno()) == before
    assert not _pacing._loans
    assert not guard._holds


# ---- forks ------------------------------------------------------------------

FORK = """
import os, socket, sys, threading, time
from stillalive import _impl, describe
from stillalive.guard import Guard, watch
from stillalive import guard as guards

def within(seconds, true):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            sys.exit("waited in vain")
        time.sleep(0.01)

def pair(listener):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(10)
    return client, server

def join(pid):
    end = time.monotonic() + 15
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            assert status == 0, status
            return
        assert time.monotonic() < end, "the child hangs"
        time.sleep(0.01)

listener = socket.create_server(("127.0.0.1", 0))
"""


@needs_fork
def test_a_started_guard_goes_on_in_the_child(real):
    out = child(
        real,
        FORK
        + """
seen = []
guard = Guard(never_spoke=1, on_event=seen.append).start()
time.sleep(0.3)
for generation in range(3):  # a child's child, too
    pid = os.fork()
    if pid:
        break
    client, server = pair(listener)
    assert server.recv(1) == b""
    within(5, lambda: len(seen) == 1)
    seen.clear()
else:
    sys.exit(0)
join(pid)
client, server = pair(listener)
assert server.recv(1) == b""
within(5, lambda: seen)
guard.stop()
within(5, lambda: len(os.listdir("/proc/self/task")) == 1)
print("through")
""",
    )
    assert set(out.split()) == {"through"}


@needs_fork
def test_the_parent_goes_on_watching_and_the_child_does_not(real):
    out = child(
        real,
        FORK
        + """
client, server = pair(listener)
before = describe(client).idle
watching = watch(client, detect_within=8)
idle = watch(server, idle_timeout=1.5, action=None)  # an abort would be told to the other
pid = os.fork()
if not pid:
    assert watching.wait() is None and idle.wait() is None
    watching.cancel()
    idle.cancel()
    assert describe(client).idle == 2  # the parent's
    assert guards._default_guard not in guards._started
    mine, other = pair(listener)
    assert watch(mine, idle_timeout=0.3).wait(5).why == "idle"
    os._exit(0)
assert idle.wait(10).why == "idle"
join(pid)
assert watching.event is None
watching.cancel()
print(describe(client).idle == before)
""",
    )
    assert out == "True\n"


@needs_fork
def test_forks_while_other_threads_hold_every_lock(real):
    out = child(
        real,
        FORK
        + """
client, server = pair(listener)
guard = Guard(never_spoke=60, on_event=print)
stop = False

def busy():
    while not stop:
        guard.start()
        with guard.hold(client):
            watch(client, detect_within=8).cancel()
        guard.update(never_spoke=60)
        guard.stats()
        guard.stop()

threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for number in range(30):
    pid = os.fork()
    if not pid:
        guard.start()
        watching = watch(server, detect_within=8)
        watching.cancel()
        assert watching.wait(5) is None
        guard.stop()
        os._exit(0)
    join(pid)
stop = True
for thread in threads:
    thread.join(10)
    assert not thread.is_alive()
print("through")
""",
        seconds=90,
    )
    assert out == "through\n"


@needs_fork
def test_a_fork_in_a_callback(real):
    out = child(
        real,
        FORK
        + """
pids = []

def fork(event):
    pid = os.fork()
    if pid:
        pids.append(pid)
        return
    ended = watch(other, idle_timeout=0.3).wait(5)
    os._exit(0 if ended is not None else 1)

guard = Guard(never_spoke=1, on_event=fork).start()
client, server = pair(listener)
talking, other = pair(listener)
talking.sendall(b"x")
other.recv(1)
within(10, lambda: pids)
join(pids[0])
guard.stop()
print("through")
""",
    )
    assert out == "through\n"


@needs_fork
def test_a_fork_in_a_thread(real):
    out = child(
        real,
        FORK
        + """
guard = Guard(never_spoke=1).start()

def fork():
    pid = os.fork()
    if not pid:
        client, server = pair(listener)
        os._exit(0 if server.recv(1) == b"" else 1)
    join(pid)

thread = threading.Thread(target=fork)
thread.start()
thread.join(20)
guard.stop()
print("through")
""",
    )
    assert out == "through\n"


@needs_fork
def test_a_child_that_cannot_have_a_guard_lives(fake, monkeypatch, caplog):
    guard = Guard(answered=5).start()
    old = guard._run
    monkeypatch.setattr(FakeWatcher, "fails", OSError(24, "no descriptors left"))
    guards._after_fork()
    assert fake[0].abandoned
    assert guard not in guards._started
    assert "in a forked child" in caplog.text
    monkeypatch.setattr(FakeWatcher, "fails", None)
    old._dispatcher.watcher.told.put(None)
    guard.start()
    guard.stop()


def test_programs_are_run_from_beside_a_guard(real):
    out = child(
        real,
        FORK
        + """
import subprocess
guard = Guard(never_spoke=60).start()
for before in (None, os.getpid):
    done = subprocess.run([sys.executable, "-c", "print(1)"], preexec_fn=before, timeout=20)
    assert done.returncode == 0
guard.stop()
""",
    )
    assert out.split() == ["1", "1"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(real, tmp_path, method):
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, socket, sys
from stillalive.guard import Guard

def work(queue):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Guard(never_spoke=1):
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            server.settimeout(10)
            queue.put(server.recv(1))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    guard = Guard(never_spoke=1).start()
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=20))
    process.join(20)
    print(process.exitcode)
""",
        encoding="utf-8",
    )
    code = f"import runpy, sys; sys.argv = ['p', {method!r}]; sys.path.insert(0, {str(tmp_path)!r})"
    out = child(real, f"{code}; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert out == "b''\n0\n"


# ---- the end of the interpreter ---------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "watch(client, detect_within=8)",
        "threading.Thread(target=watch(client, detect_within=8).wait, daemon=True).start()",
        "watch(client, idle_timeout=0.1, on_event=lambda event: time.sleep(60)); time.sleep(0.5)",
        """watch(client, idle_timeout=0.1, on_event=lambda event: [0 for _ in iter(int, 1)])
time.sleep(0.5)""",
        "kept = [guard, watch(client, idle_timeout=8)]; kept.append(kept); sys.modules['x'] = kept",
        "import atexit; atexit.register(lambda: watch(client, idle_timeout=0.1).wait(5))",
        """class Late:
    def __del__(self, guard=guard):
        try:
            guard.stop()
        except AttributeError:
            pass  # without a GIL the modules are emptied before this
late = Late()""",
        "sys.exit(0)",
    ],
)
def test_the_interpreter_ends_in_time(real, ending):
    if "atexit" in ending and sys.version_info[:2] == (3, 12):
        pytest.skip("Python 3.12 starts no thread once its exit handlers run")
    began = time.monotonic()
    child(
        real,
        FORK
        + """
guard = Guard(never_spoke=1, answered=1, dry_run=True, on_event=lambda event: None).start()
client, server = pair(listener)
"""
        + ending,
    )
    assert time.monotonic() - began < 15


def test_an_interrupted_program_ends(real):
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may ignore it
client, server = pair(listener)
with Guard(never_spoke=60) as guard:
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        guard.watch(client, detect_within=8).wait()
    except KeyboardInterrupt:
        print("interrupted")
"""
    assert child(real, FORK + code) == "interrupted\n"


def test_the_default_guard_is_started_on_first_use(fake, tcp_pair):
    a, _ = tcp_pair()
    assert guards._default_guard is None
    watch(a, idle_timeout=5).cancel()
    default = guards._default_guard
    watch(a, idle_timeout=5).cancel()
    assert guards._default_guard is default
    assert len(fake) == 1
    default.stop()
    watch(a, idle_timeout=5).cancel()
    assert len(fake) == 2


def test_signal_handlers_may_cancel_and_stop(real):
    code = (
        FORK
        + """
import signal
client, server = pair(listener)
guard = Guard(never_spoke=60).start()
watching = guard.watch(client, detect_within=8)

def handler(number, frame):
    watching.cancel()
    guard.stop()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
print(watching.wait(10), guard)
"""
    )
    assert child(real, code) == "None <Guard stopped: never_spoke=60.0>\n"


def test_a_server_that_is_served_while_it_starts_and_stops(real):
    with served() as (listener, accept):
        for _ in range(20):
            with Guard(listeners=[listener], never_spoke=60):
                client, server = accept()
                client.sendall(b"x")
                assert server.recv(1) == b"x"

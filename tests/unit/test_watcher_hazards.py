"""The Watcher of both backends: reused numbers, no numbers, stolen ones, forks, stops, threads."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import random
import signal
import socket
import tempfile
import threading
import time

import pytest

from stillalive import _backend as b

from ..needs import resource
from .serving import reset, until
from .watchers import (
    PATIENCE,
    TICK,
    Place,
    answer,
    ask,
    bare_watcher,
    is_open,
    make_watcher,
    now_ms,
    open_numbers,
)

LIMIT = 200


@pytest.fixture
def place():
    with Place() as made:
        yield made


def guarding(impl, place, **settings):
    return make_watcher(impl, discover=True, ports=(place.port,), **settings)


# ---- numbers that change their meaning -------------------------------------------------------


def test_a_number_that_means_another_socket_by_now_is_not_hit(impl, place):
    victim, server = place.connect()
    number = server.fileno()
    limit = 1000  # a pass that was interrupted for long finds nothing: there is time for another
    with guarding(impl, place, never_spoke_ms=limit) as driver:
        driver.until(lambda: driver.stats("tracked"))
        assert driver.stats("tracked") == 1
        innocent = place.answered()
        os.dup2(innocent[1].fileno(), number)  # closes the one, and the number goes on
        assert driver.run(2 * limit) == []
        assert victim.recv(1) == b""
    assert is_open(*innocent)


def test_a_watch_is_over_when_its_number_means_another_socket(impl, place):
    _, server = place.answered()
    innocent = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT)
        driver.step()
        os.dup2(innocent[1].fileno(), server.fileno())
        (event,) = driver.tell()
        assert event.cause == b.FOR_GONE
        assert driver.run(2 * LIMIT) == []
    assert is_open(*innocent)


def test_a_watch_with_the_wrong_identity_is_over_at_once(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        wrong = impl.identify(client.fileno())
        token = driver.watcher.watch(server.fileno(), wrong, 60_000, -1, b.DEED_ABORT)
        (event,) = driver.tell()
        assert (event.token, event.cause) == (token, b.FOR_GONE)
    assert is_open(client, server)


@pytest.mark.parametrize("cause", [b.FOR_IDLE, b.FOR_RESET])
def test_a_number_that_changes_between_the_look_and_the_act(impl, place, monkeypatch, cause):
    if impl.NAME != "pure":
        pytest.skip("nothing can come in between from here")
    from stillalive._pure import _bare

    client, server = place.answered()
    innocent = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT if cause == b.FOR_IDLE else -1, detect=60_000)
        driver.run(150)
        real = _bare.look
        if cause == b.FOR_RESET:
            reset(client)

        def look(number):
            found = real(number)
            if found[1].state == b.CLOSE or found[1].last_data_sent_ms >= LIMIT:
                os.dup2(innocent[1].fileno(), number)
            return found

        monkeypatch.setattr(_bare, "look", look)
        assert [event.cause for event in driver.tell()] == [b.FOR_GONE]
        assert driver.run(500) == []
    assert is_open(*innocent)


def test_a_storm_of_reused_numbers_hits_nobody_who_is_busy(impl, place):
    """Connections come and go under the same few numbers, and every one of them talks."""
    stop = threading.Event()
    wrong: list[str] = []

    def storm():
        dice = random.Random(7)
        while not stop.is_set():
            with socket.create_connection(place.address) as client:
                server, _ = place.listener.accept()
                with server:
                    for _ in range(dice.randrange(1, 4)):
                        ask(client, server)
                        answer(client, server)
                    client.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        wrong.append(repr(client.recv(1)))

    watcher = bare_watcher(
        impl, discover=True, ports=(place.port,), answered_ms=1000, unanswered_ms=1000
    )
    watcher.start()
    resting, _ = place.answered()
    resting.settimeout(PATIENCE)
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        assert resting.recv(1) == b""
        time.sleep(0.5)  # more of the storm
    finally:
        stop.set()
        thread.join()
        watcher.stop()
    assert wrong == []
    assert watcher.stats()["told"] == 1


# ---- no number left, and stolen ones ---------------------------------------------------------


@pytest.fixture
def no_numbers():
    """Return a function that takes all numbers that are left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take():
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_numbers()) + 20, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))

    yield take
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_all_of_it_works_when_no_number_is_left(impl, place, no_numbers):
    idle, _ = place.answered()
    silent, watched = place.connect()
    with guarding(impl, place, answered_ms=LIMIT) as driver:
        driver.watch(watched, idle=2 * LIMIT)
        no_numbers()
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        causes = {event.cause for event in driver.tell(2)}
        assert causes == {b.FOR_ANSWERED, b.FOR_IDLE}
        assert idle.recv(1) == b""
        driver.run(600)
        with pytest.raises(ConnectionResetError):
            silent.recv(1)


def test_without_numbers_to_begin_with_it_says_so(impl, no_numbers):
    bare_watcher(impl).stop()
    no_numbers()
    with pytest.raises(OSError, match="Too many open files") as caught:
        bare_watcher(impl)
    assert caught.value.errno == errno.EMFILE


def own_numbers(impl, **settings):
    """Return a watcher, and the numbers that it has taken."""
    gc.collect()
    before = open_numbers()
    watcher = bare_watcher(impl, **settings)
    return watcher, sorted(set(open_numbers()) - set(before))


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
def test_stolen_numbers_are_told_and_their_new_owner_keeps_them(impl, place, which):
    client, server = place.connect()
    watcher, numbers = own_numbers(impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT)
    assert len(numbers) == 2
    with tempfile.TemporaryFile() as file:
        for index in which:
            os.dup2(file.fileno(), numbers[index])
        end = time.monotonic() + PATIENCE
        told = []
        while not told and time.monotonic() < end:
            watcher.step(now_ms())
            told += watcher.take(64, 10)
        assert [event.cause for event in told] == [b.FOR_LOST]
        assert watcher.step(now_ms() + 500) == b.NO_TIME
        watcher.stop()
        del watcher
        gc.collect()
        for index in which:
            assert os.write(numbers[index], b"mine") == 4
            os.close(numbers[index])
    assert is_open(client, server)


def test_a_thread_whose_numbers_were_stolen_ends(impl, place):
    pair = place.connect()
    before = threading.active_count()
    watcher, numbers = own_numbers(impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT)
    for number in numbers:
        os.close(number)
    watcher.start()
    (event,) = watcher.take(64, 5000)
    assert event.cause == b.FOR_LOST
    watcher.stop()
    assert watcher.take(64, -1) is None
    assert threading.active_count() == before
    assert is_open(*pair)


# ---- time that nobody looked -----------------------------------------------------------------


def test_after_a_stall_all_silences_begin_anew(impl, place):
    pairs = [place.connect() for _ in range(3)]
    with guarding(impl, place, never_spoke_ms=2 * LIMIT) as driver:
        driver.run(LIMIT)
        driver.ahead_ms += 5000  # as if the process had been stopped
        began = now_ms()
        driver.step()
        assert (driver.told, driver.stats("stalls")) == ([], 1)
        assert all(event.at_ms - 5000 - began >= 2 * LIMIT - TICK for event in driver.tell(3))
    assert all(client.recv(1) == b"" for client, _ in pairs)


def test_a_late_step_is_no_stall_when_nothing_was_due(impl):
    with make_watcher(impl) as driver:
        assert driver.step() == b.NO_TIME
        driver.ahead_ms += 60_000
        driver.step()
        assert driver.stats("stalls") == 0


def test_a_stopped_process_finds_everybody_alive(impl, place):
    """The whole process is stopped for longer than the limit, and goes on."""
    pair = place.answered()
    settings = {"discover": True, "ports": (place.port,), "answered_ms": 1500}
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            watcher = bare_watcher(impl, **settings)
            watcher.start()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGSTOP)
            ended = watcher.take(64, 700)
            code = 0 if ended == [] and watcher.stats()["stalls"] == 1 else 2
        os._exit(code)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(2.0)  # it is the process that must be without time
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_open(*pair)


# ---- forks -----------------------------------------------------------------------------------


def test_a_forked_child_abandons_its_copy_and_the_parent_goes_on(impl, place):
    client, _ = place.connect()
    watcher, numbers = own_numbers(impl, discover=True, ports=(place.port,), never_spoke_ms=1000)
    watcher.start()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            before = open_numbers()
            watcher.abandon()
            left = set(before) - set(open_numbers())
            del watcher
            gc.collect()
            fresh = bare_watcher(impl)  # a child may have one of its own
            fresh.start()
            fresh.stop()
            code = 0 if left == set(numbers) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (event,) = watcher.take(64, 5000)
    assert event.cause == b.FOR_NEVER_SPOKE
    assert client.recv(1) == b""
    watcher.stop()


def test_forks_at_any_moment_of_a_slice_leave_no_child_behind(impl, place):
    for _ in range(20):
        place.answered()
    watcher = bare_watcher(
        impl, discover=True, ports=(place.port,), answered_ms=60_000, evict_idle_ms=60_000
    )
    watcher.drain(True)  # looks all the time
    watcher.start()
    for _ in range(20):
        watcher.drain(True)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            watcher.abandon()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watcher.stop()


# ---- threads ---------------------------------------------------------------------------------


def native_threads():
    return set(os.listdir("/proc/self/task"))


def test_no_thread_and_no_number_is_left(impl, place):
    place.connect()
    bare_watcher(impl).stop()
    gc.collect()
    before, threads = open_numbers(), native_threads()

    def is_alone():
        return native_threads() <= threads

    for _ in range(5):
        watcher = bare_watcher(impl, discover=True, ports=(place.port,), never_spoke_ms=60_000)
        watcher.start()
        watcher.start()  # the same thread
        assert len(native_threads() - threads) == 1
        watcher.watch(place.ends[1].fileno(), 1, 1000, -1, b.DEED_NONE)
        watcher.stop()
        watcher.stop()
        until(is_alone)  # the system's part of a thread ends after the join
        del watcher
        gc.collect()
        assert open_numbers() == before


def test_the_thread_of_the_twin_is_a_daemon_with_a_name(impl):
    before = threading.active_count()
    watcher = bare_watcher(impl)
    watcher.start()
    if impl.NAME == "pure":
        (thread,) = (one for one in threading.enumerate() if one.name == "stillalive-guard")
        assert thread.daemon
    else:
        assert threading.active_count() == before
    watcher.stop()


def test_who_waits_for_events_comes_back_when_it_is_stopped(impl):
    watcher = bare_watcher(impl)
    watcher.start()
    taken = []
    taker = threading.Thread(target=lambda: taken.append(watcher.take(64, -1)))
    taker.start()
    time.sleep(0.05)
    assert taken == []
    watcher.stop()
    taker.join(PATIENCE)
    assert taken == [None]


def test_events_are_kept_until_they_are_taken_also_after_the_stop(impl, place):
    place.connect()
    with guarding(impl, place, never_spoke_ms=LIMIT) as driver:
        driver.until(lambda: driver.watcher.step(now_ms()) and driver.stats("told"))
        driver.watcher.stop()
        left = driver.told + (driver.watcher.take(64, -1) or [])
        assert len(left) == 1
        assert driver.watcher.take(64, -1) is None


def test_a_full_queue_drops_the_newest_and_counts(impl, place):
    for _ in range(5):
        place.connect()
    watcher = bare_watcher(
        impl, 2, discover=True, ports=(place.port,), never_spoke_ms=100, dry_run=True
    )
    end = time.monotonic() + PATIENCE
    while watcher.stats()["told"] < 5 and time.monotonic() < end:
        watcher.step(now_ms())
        time.sleep(0.01)
    assert watcher.stats()["dropped"] == 3
    assert len(watcher.take(64, 0)) == 2
    assert watcher.take(64, 0) == []
    assert watcher.take(64, 20) == []
    watcher.stop()


def test_a_stopped_watcher_does_not_start_again(impl):
    watcher = bare_watcher(impl)
    watcher.start()
    watcher.stop()
    with pytest.raises(OSError, match="stopped|shutdown") as caught:
        watcher.start()
    assert caught.value.errno == errno.ESHUTDOWN


def test_a_signal_handler_may_stop_it_in_the_middle_of_a_call(impl):
    handled = 0

    def stop(number, frame):
        nonlocal handled
        watcher.stop()
        handled += 1

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for times in range(1, 21):
            watcher = bare_watcher(impl, never_spoke_ms=60_000)
            watcher.start()
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            end = time.monotonic() + PATIENCE
            while handled < times and time.monotonic() < end:
                watcher.stats()
            watcher.stop()
            assert handled == times
    finally:
        signal.signal(signal.SIGALRM, before)


def test_callers_and_the_thread_share_it(impl, place):
    """Everything at once, from several threads: nobody waits for ever, nothing breaks."""
    pairs = [place.answered() for _ in range(10)]
    settings = b.WatcherSettings(discover=True, ports=(place.port,), answered_ms=60_000)
    watcher = bare_watcher(impl, **settings._asdict())
    watcher.start()
    end = time.monotonic() + 1.0
    failed = []

    def call(seed):
        dice = random.Random(seed)
        try:
            while time.monotonic() < end:
                _, server = dice.choice(pairs)
                identity = impl.identify(server.fileno())
                watcher.hold(identity)
                token = watcher.watch(server.fileno(), identity, 60_000, -1, b.DEED_ABORT)
                if dice.random() < 0.1:
                    watcher.update(settings._replace(answered_ms=50_000))
                assert watcher.cancel(token)
                watcher.release(identity)
                watcher.take(64, 0)
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE + 5)
    stats = watcher.stats()
    watcher.stop()
    assert (failed, stats["held"], stats["watched"], stats["told"]) == ([], 0, 0, 0)
    assert all(is_open(*pair) for pair in pairs)


def test_an_error_of_its_own_is_logged_once_and_it_goes_on(impl, place, monkeypatch, caplog):
    if impl.NAME != "pure":
        pytest.skip("C has no exceptions")
    from stillalive._pure import _wards

    place.connect()
    client, server = place.answered()
    real = _wards.judge

    def judge(limits, past, info, now):
        if info.bytes_received == 0:
            raise ZeroDivisionError
        return real(limits, past, info, now)

    monkeypatch.setattr(_wards, "judge", judge)
    with (
        caplog.at_level(logging.ERROR, "stillalive.guard"),
        guarding(impl, place, never_spoke_ms=50, answered_ms=LIMIT) as driver,
    ):
        (event,) = driver.tell()
        assert event.fd == server.fileno()
        place.connect()
        driver.run(600)
        assert client.recv(1) == b""
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]

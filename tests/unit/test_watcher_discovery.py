"""The Watcher of both backends: how it finds the connections of this process's listeners."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time

import pytest

from stillalive import _backend as b

from ..needs import fcntl, resource
from .watchers import TICK, Place, answer, ask, is_open, make_watcher, now_ms

LIMIT = 200
LONG = 60_000


def two_passes(driver):
    """Let discovery see all that is there."""
    passes = driver.stats("passes")
    while driver.stats("passes") < passes + 2:
        driver.leap(400)


def test_a_listener_that_comes_later_is_found_and_what_it_accepts(impl):
    with make_watcher(impl, discover=True, never_spoke_ms=LIMIT) as driver:
        two_passes(driver)
        before = driver.stats("tracked")
        with Place() as place:
            client, _ = place.connect()
            began = now_ms()
            (event,) = driver.tell()
            assert event.local[1] == place.port
            assert event.at_ms - began < 10_000  # passes are rare where they cost much
            assert client.recv(1) == b""
        driver.until(lambda: driver.stats("tracked") == before)


def test_what_was_there_before_is_found_and_a_long_silence_is_over_at_once(impl):
    with Place() as place:
        client, _ = place.connect()
        time.sleep(0.4)  # the kernel's clock
        with make_watcher(impl, discover=True, ports=(place.port,), never_spoke_ms=300) as driver:
            began = now_ms()
            (event,) = driver.tell()
            assert event.cause == b.FOR_NEVER_SPOKE
            assert event.clock_ms >= 400 - TICK
            assert event.at_ms - began < 200
        assert client.recv(1) == b""


def test_the_other_end_and_outgoing_connections_are_not_guarded(impl):
    with Place() as place, make_watcher(impl, discover=True, never_spoke_ms=LONG) as driver:
        two_passes(driver)
        before = driver.stats("tracked")
        for _ in range(3):
            place.connect()
        two_passes(driver)
        assert driver.stats("tracked") == before + 3


def test_only_chosen_ports_are_guarded(impl):
    with Place() as chosen, Place() as other:
        spared = other.connect()
        client, _ = chosen.connect()
        with make_watcher(
            impl, discover=True, ports=(chosen.port,), never_spoke_ms=LIMIT
        ) as driver:
            driver.tell()
            assert client.recv(1) == b""
            assert driver.run(2 * LIMIT) == []
            assert driver.stats("tracked") == 0
        assert is_open(*spared)


def test_without_discovery_nothing_is_guarded(impl):
    with Place() as place:
        pair = place.connect()
        with make_watcher(impl, never_spoke_ms=50) as driver:
            assert driver.run(LIMIT) == []
            assert driver.stats("passes") == 0
        assert is_open(*pair)


def test_ipv6_is_guarded_with_its_addresses(impl):
    with Place(socket.AF_INET6) as place:
        client, _ = place.connect()
        with make_watcher(impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT) as driver:
            (event,) = driver.tell()
            local = socket.inet_pton(socket.AF_INET6, "::1")
            assert event.local == (local, place.port, 0)
            assert event.peer == (local, client.getsockname()[1], 0)
            assert client.recv(1) == b""


def test_a_v4_client_of_a_v6_listener_has_a_v4_address(impl):
    with Place(socket.AF_INET6, "::") as place:
        place.address = ("127.0.0.1", place.port)
        place.connect()
        exempt = ((socket.inet_aton("10.0.0.0"), 8),)
        with make_watcher(
            impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT, exempt=exempt
        ) as driver:
            (event,) = driver.tell()
            assert event.peer[0] == socket.inet_aton("127.0.0.1")


def test_listeners_that_share_a_port_are_both_guarded(impl):
    with Place() as first, Place(port=first.port) as second:
        first.listener.setblocking(False)
        second.listener.setblocking(False)
        clients = [socket.create_connection(first.address) for _ in range(8)]
        for place in (first, second):
            with contextlib.suppress(BlockingIOError):
                while True:
                    place.ends.append(place.listener.accept()[0])
        assert len(first.ends) + len(second.ends) == 8
        with make_watcher(impl, discover=True, ports=(first.port,), never_spoke_ms=LIMIT) as driver:
            driver.tell(8)
        for client in clients:
            assert client.recv(1) == b""
            client.close()


def test_connections_outlive_their_listener(impl):
    with Place() as place, make_watcher(impl, discover=True, answered_ms=LIMIT) as driver:
        client, server = place.asked()
        two_passes(driver)
        place.listener.close()
        two_passes(driver)
        two_passes(driver)
        answer(client, server)
        driver.tell()
        assert client.recv(1) == b""


def test_the_last_that_a_closed_listener_has_accepted_is_found(impl):
    with Place() as place, make_watcher(impl, discover=True, never_spoke_ms=LIMIT) as driver:
        two_passes(driver)
        client, _ = place.connect()
        place.listener.close()
        driver.tell()
        assert client.recv(1) == b""


def test_a_listener_is_opened_again_at_another_port(impl):
    with make_watcher(impl, discover=True, never_spoke_ms=LIMIT) as driver:
        for _ in range(3):
            with Place() as place:
                client, _ = place.connect()
                (event,) = driver.tell()
                assert event.local[1] == place.port
                assert client.recv(1) == b""


def test_a_connection_under_a_lower_number_than_its_listener_is_found(impl):
    with Place() as place:
        high = fcntl.fcntl(place.listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 200)
        place.listener.close()
        place.listener = socket.socket(fileno=high)
        client, server = place.connect()
        assert server.fileno() < high
        with make_watcher(impl, discover=True, never_spoke_ms=50) as driver:
            driver.until(lambda: driver.told)
            assert driver.stats("passes") <= 2
        assert client.recv(1) == b""


def test_a_socket_that_begins_to_listen_late_is_one(impl):
    with (
        make_watcher(impl, discover=True, never_spoke_ms=LIMIT) as driver,
        Place() as place,
        socket.socket() as late,
    ):
        late.bind(("127.0.0.1", 0))
        two_passes(driver)
        late.listen()
        place.listener, old = late, place.listener
        old.close()
        place.address = late.getsockname()
        client, _ = place.connect()
        driver.tell()
        assert client.recv(1) == b""


def test_a_duplicated_socket_is_told_once_and_guarded_by_either_number(impl):
    with Place() as place:
        client, server = place.connect()
        twin = server.dup()
        place.ends.append(twin)
        with make_watcher(
            impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT, answered_ms=LIMIT
        ) as driver:
            driver.step()
            assert driver.stats("tracked") == 1
            server.close()
            driver.step()
            ask(client, twin)
            answer(client, twin)
            two_passes(driver)
            (event,) = driver.tell()
            assert event.fd == twin.fileno()
            assert driver.run(2 * LIMIT) == []
        assert client.recv(1) == b""


def test_whatever_else_is_open_is_passed_over(impl):
    with tempfile.TemporaryFile() as file, Place() as place:
        others = [
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6),
            *socket.socketpair(),
            socket.socket(),
        ]
        client, _ = place.connect()
        with make_watcher(impl, discover=True, never_spoke_ms=LIMIT) as driver:
            driver.tell()
            assert driver.run(LIMIT) == []
        assert client.recv(1) == b""
        assert file.write(b"x") == 1
        for other in others:
            other.close()


@pytest.fixture
def many_numbers():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 12_000:
        pytest.skip("the limit of open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_high_numbers_are_reached_slice_by_slice(impl, many_numbers):
    with Place() as place:
        client, server = place.connect()
        high = fcntl.fcntl(server.fileno(), fcntl.F_DUPFD_CLOEXEC, 11_000)
        server.close()
        with make_watcher(impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT) as driver:
            (event,) = driver.tell()
            assert event.fd == high
        assert client.recv(1) == b""
        os.close(high)


def test_discovery_keeps_to_its_share_of_the_processor(impl, many_numbers):
    with Place() as place:
        high = fcntl.fcntl(place.listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 11_000)
        with make_watcher(impl, discover=True, never_spoke_ms=1000) as driver:
            began = now_ms()
            driver.run(1500)
            share = driver.stats("pass_cpu_us") / 1000 / (now_ms() - began)
            passes = driver.stats("passes")
            assert share < 0.02 + driver.stats("pass_cpu_us") / 1000 / passes / 1500
        os.close(high)


def test_the_next_connection_under_the_same_number_is_found(impl):
    with Place() as place:
        first, server = place.answered()
        with make_watcher(
            impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT, answered_ms=LONG
        ) as driver:
            driver.step()
            assert driver.stats("tracked") == 1
            client, other = place.connect()
            os.dup2(other.fileno(), server.fileno())
            other.close()
            assert first.recv(1) == b""
            (event,) = driver.tell()
            assert (event.fd, event.cause) == (server.fileno(), b.FOR_NEVER_SPOKE)
            assert client.recv(1) == b""


def test_closed_connections_are_let_go(impl):
    with Place() as place:
        pairs = [place.answered() for _ in range(10)]
        with make_watcher(
            impl, discover=True, ports=(place.port,), answered_ms=LONG, evict_above=100
        ) as driver:
            driver.step()
            assert driver.stats("tracked") == 10
            for client, server in pairs[:4]:
                client.close()
                server.close()
            two_passes(driver)
            assert driver.stats("tracked") == 6
            assert driver.told == []


def test_a_released_hold_counts_also_for_who_was_not_found_yet(impl):
    if impl.NAME == "c":
        pytest.skip("the compiled backend asks its next pass")
    with Place() as place:
        _, server = place.connect()
        time.sleep(0.3)  # the kernel's clock
        identity = impl.identify(server.fileno())
        with make_watcher(impl, discover=True, ports=(place.port,), never_spoke_ms=LIMIT) as driver:
            driver.watcher.hold(identity)
            released = now_ms()
            driver.watcher.release(identity)
            (event,) = driver.tell()
            assert LIMIT <= event.clock_ms <= event.at_ms - released + TICK

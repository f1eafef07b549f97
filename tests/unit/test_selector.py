"""Selector beside the selectors of the standard library: same actions, same outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

from .. import needs
from .selecting import seen

R, W = EVENT_READ, EVENT_WRITE


class Holder:
    """Has ``fileno()`` and nothing else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> Any:
        return self.answer


class Stage:
    """The same things for both selectors, with names that do not depend on numbers."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.a, self.b = (stack.enter_context(end) for end in socket.socketpair())
        self.c, self.d = (stack.enter_context(end) for end in socket.socketpair())
        self.file = stack.enter_context(os.fdopen(os.open(__file__, os.O_RDONLY), "rb"))
        if needs.WINDOWS:  # a pair of sockets ends as a pipe does
            self.pipe_out, self.pipe_in = map(stack.enter_context, socket.socketpair())
        else:
            out, into = os.pipe()
            self.pipe_out = stack.enter_context(os.fdopen(out, "rb", 0))
            self.pipe_in = stack.enter_context(os.fdopen(into, "wb", 0))
        self.closed = socket.socket()
        self.closed.close()
        self.holder = Holder(self.a.fileno())
        self.names: dict[int, str] = {}
        for name in ("a", "b", "c", "d", "file", "pipe_out", "pipe_in"):
            self.names[getattr(self, name).fileno()] = name

    def plain(self, value: Any) -> Any:
        """Return the value without numbers and addresses that differ from run to run."""
        if isinstance(value, selectors.SelectorKey):
            kind = type(value.fileobj).__name__
            return ("key", kind, self.names[value.fd], value.events, value.data)
        if isinstance(value, Mapping):
            return {self.plain(key): self.plain(found) for key, found in value.items()}
        if isinstance(value, (list, tuple)):
            return sorted((self.plain(one) for one in value), key=repr)
        if type(value) is int and value in self.names:
            return self.names[value]
        return value

    def do(self, act: Callable[[Any, Stage], Any], selector: Any) -> Any:
        try:
            return ("returned", self.plain(act(selector, self)))
        except OSError as failure:
            return ("raised", type(failure), failure.errno)
        except Exception as failure:
            return ("raised", type(failure))


def shut(*ends: Any) -> None:
    for end in ends:
        end.close()


SCRIPTS: dict[str, list[Callable[[Any, Any], Any]]] = {
    "register": [
        lambda s, x: s.register(x.a, R, "data"),
        lambda s, x: s.register(x.b, R | W),
        lambda s, x: s.get_map(),
        lambda s, x: s.register(x.a, R),
        lambda s, x: s.register(x.a.fileno(), W),
        lambda s, x: s.register(x.holder, W),
        lambda s, x: s.get_map(),
    ],
    "by number and by holder": [
        lambda s, x: s.register(x.a.fileno(), R, "number"),
        lambda s, x: s.get_key(x.a),
        lambda s, x: s.unregister(x.holder),
        lambda s, x: s.register(x.holder, W, "holder"),
        lambda s, x: s.select(0),
        lambda s, x: s.unregister(x.a.fileno()),
        lambda s, x: s.unregister(x.a),
    ],
    "bad events": [
        *(
            lambda s, x, bad=bad: s.register(x.a, bad)
            for bad in (0, 4, 8, -1, R | 4, 2**40, None, "r", 1.5)
        ),
        lambda s, x: s.get_map(),
    ],
    "bad objects": [
        *(
            lambda s, x, bad=bad: s.register(bad, R)
            for bad in (-1, -(2**40), object(), None, 1.5, "a", b"a", Holder("x"), Holder(-1))
        ),
        lambda s, x: s.register(x.closed, R),
        lambda s, x: s.register(Holder(None), R),
        lambda s, x: s.get_map(),
    ],
    "unknown ones": [
        lambda s, x: s.unregister(x.a),
        lambda s, x: s.modify(x.a, R),
        lambda s, x: s.get_key(x.a),
        lambda s, x: s.unregister(999_999),
        lambda s, x: s.unregister(-1),
        lambda s, x: s.unregister(object()),
        lambda s, x: s.unregister(x.closed),
        lambda s, x: s.modify(x.closed, R),
        lambda s, x: s.get_key(x.closed),
        lambda s, x: s.register(x.a, R),
        lambda s, x: s.unregister(x.closed),
        lambda s, x: x.b in s.get_map(),
        lambda s, x: x.a in s.get_map(),
        lambda s, x: s.get_map()[x.b],
        lambda s, x: s.get_map()[object()],
        lambda s, x: s.get_map().get(x.b, "no"),
    ],
    "modify": [
        lambda s, x: s.register(x.a, R, 1),
        lambda s, x: s.modify(x.a, W, 2),
        lambda s, x: s.select(0),
        lambda s, x: s.modify(x.a, R | W),
        lambda s, x: s.modify(x.a.fileno(), R, 3),
        lambda s, x: s.modify(x.a, R, 3),
        lambda s, x: s.get_key(x.a),
        lambda s, x: s.select(0),
    ],
    "readiness": [
        lambda s, x: s.register(x.a, R | W, "a"),
        lambda s, x: s.register(x.b, R, "b"),
        lambda s, x: s.register(x.c, W, "c"),
        lambda s, x: s.select(0),
        lambda s, x: x.a.send(b"1"),
        lambda s, x: s.select(),
        lambda s, x: s.select(-1),
        lambda s, x: x.b.recv(1),
        lambda s, x: s.select(0),
    ],
    "the peer closes": [
        lambda s, x: s.register(x.a, R, "a"),
        lambda s, x: s.register(x.c, W, "c"),
        lambda s, x: s.register(x.pipe_out, R, "out"),
        lambda s, x: s.register(x.pipe_in, W, "in"),
        lambda s, x: s.select(0),
        lambda s, x: shut(x.b, x.d),
        lambda s, x: s.select(1),
        lambda s, x: s.modify(x.a, R | W, "both"),
        lambda s, x: s.select(1),
    ],
    "a pipe hangs up": [
        lambda s, x: s.register(x.pipe_out, R, "out"),
        lambda s, x: s.select(0),
        lambda s, x: x.pipe_in.close(),
        lambda s, x: s.select(1),
    ],
    "a pipe breaks": [
        lambda s, x: s.register(x.pipe_in, W, "in"),
        lambda s, x: s.select(0),
        lambda s, x: x.pipe_out.close(),
        lambda s, x: s.select(1),
    ],
    "closed before unregister": [
        lambda s, x: s.register(x.a, R, "a"),
        lambda s, x: s.register(x.c.fileno(), R, "c"),
        lambda s, x: shut(x.a, x.c),
        lambda s, x: s.unregister(x.a),
        lambda s, x: s.unregister(x.c),
        lambda s, x: s.get_map(),
    ],
    "a number that is used again": [
        lambda s, x: s.register(x.a, R, "old"),
        lambda s, x: os.dup2(x.c.fileno(), x.a.fileno()) and None,
        lambda s, x: s.unregister(x.a),
        lambda s, x: s.register(x.a, W, "new"),
        lambda s, x: s.select(0),
    ],
    "after close": [
        lambda s, x: s.register(x.a, R),
        lambda s, x: s.close(),
        lambda s, x: s.close(),
        lambda s, x: s.get_map(),
        lambda s, x: s.get_key(x.a),
        lambda s, x: s.get_key(x.b),
    ],
    "context": [
        lambda s, x: s.__enter__() is s,
        lambda s, x: s.register(x.a, R),
        lambda s, x: s.__exit__(None, None, None),
        lambda s, x: s.get_map(),
    ],
}
if needs.WINDOWS:
    del SCRIPTS["a number that is used again"]  # no SOCKET can be put where another was
    del SCRIPTS["modify"][4]  # with select the library takes over the number as the object
ONLY_EPOLL: dict[str, list[Callable[[Any, Any], Any]]] = {
    # poll of the standard library notices neither before it waits.
    "a regular file": [
        lambda s, x: s.register(x.file, R),
        lambda s, x: s.get_map(),
        lambda s, x: s.register(x.file, R),
    ],
    "a closed number": [
        lambda s, x: s.register(999_999, R),
        lambda s, x: s.register(2**40, R),
        lambda s, x: len(s.get_map()),
    ],
}


def outcomes(make: Callable[[], Any], script: list[Callable[[Any, Any], Any]]) -> list[Any]:
    with contextlib.ExitStack() as stack:
        stage = Stage(stack)
        chosen = make()
        stack.callback(chosen.close)
        return [stage.do(act, chosen) for act in script]


def twin_of(mechanism: str) -> Callable[[], Any]:
    name = {"epoll": "EpollSelector", "kqueue": "KqueueSelector", "poll": "PollSelector"}.get(
        mechanism
    )
    # What the library has on Windows is select alone.
    return getattr(selectors, name or "", selectors.DefaultSelector)


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_outcomes_as_the_standard_library(mechanism, name):
    expected = outcomes(twin_of(mechanism), SCRIPTS[name])
    assert outcomes(Selector, SCRIPTS[name]) == expected


@pytest.mark.parametrize("name", ONLY_EPOLL)
def test_same_outcomes_as_epoll(epoll, name):
    expected = outcomes(selectors.EpollSelector, ONLY_EPOLL[name])
    assert outcomes(Selector, ONLY_EPOLL[name]) == expected


def test_the_comparison_sees_a_difference():
    class Lax(selectors.DefaultSelector):
        def unregister(self, fileobj):
            try:
                return super().unregister(fileobj)
            except KeyError:
                return None

    script = SCRIPTS["unknown ones"]
    assert outcomes(Lax, script) != outcomes(selectors.DefaultSelector, script)


def test_errors_name_the_value(selector, pair):
    a, b = pair()
    selector.register(a, R)
    with pytest.raises(KeyError, match=rf"FD {a.fileno()}\) is already registered"):
        selector.register(a, R)
    with pytest.raises(KeyError, match="is not registered"):
        selector.unregister(b)
    with pytest.raises(ValueError, match=r"Invalid events: 8 \(allowed: EVENT_READ"):
        selector.register(b, 8)
    with pytest.raises(TypeError, match=r"events='r': must be EVENT_READ, EVENT_WRITE or both"):
        selector.register(b, "r")
    with pytest.raises(OverflowError, match=r"Invalid file descriptor: 2147483648 \(allowed: 0 to"):
        selector.register(2**31, 1)
    with pytest.raises(ValueError, match=r"Invalid events: 4 \(allowed: EVENT_READ"):
        selector.modify(a, EVENT_IDLE)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        selector.register(-1, R)
    with pytest.raises(ValueError, match="Invalid file object: 'x'"):
        selector.register("x", R)


def test_it_is_a_selector(selector, mechanism):
    assert isinstance(selector, selectors.BaseSelector)
    assert selector._engine.mechanism == mechanism
    assert EVENT_IDLE not in (R, W, R | W)


def test_the_best_mechanism_is_the_default(impl, monkeypatch):
    monkeypatch.delenv("STILLALIVE_BACKEND", raising=False)
    with Selector() as selector:
        assert selector._engine.mechanism == impl.mechanisms()[0]
        wanted = {"linux": "epoll", "win32": "select" if impl.NAME == "pure" else "poll"}
        built = "kqueue" in impl.mechanisms()  # also on Linux, over a model
        expected = "kqueue" if built else wanted.get(sys.platform)
        assert selector._engine.mechanism == expected
    monkeypatch.setenv("STILLALIVE_BACKEND", "")
    with Selector() as selector:
        assert selector._engine.mechanism == impl.mechanisms()[0]


@pytest.mark.parametrize("name", ["iocp", "EPOLL", " poll"])
def test_an_unknown_mechanism_is_refused(impl, monkeypatch, name):
    monkeypatch.setenv("STILLALIVE_BACKEND", name)
    allowed = rf"allowed: {', '.join(impl.mechanisms())}\)"
    with pytest.raises(ValueError, match=allowed) as caught:
        Selector()
    assert f"STILLALIVE_BACKEND={name!r}" in str(caught.value)


def test_the_map_is_live_and_read_only(selector, pair):
    a, b = pair()
    mapping = selector.get_map()
    assert len(mapping) == 0
    assert list(mapping) == []
    key = selector.register(a, R, "data")
    other = selector.register(b, R)
    assert list(mapping) == [a.fileno(), b.fileno()]
    assert list(mapping.values()) == [key, other]
    assert mapping[a] is mapping[a.fileno()] is key
    with pytest.raises(TypeError):
        mapping[a] = key
    with pytest.raises(TypeError):
        del mapping[a]
    changed = selector.modify(a, W, "new")
    assert mapping[a] == changed
    selector.unregister(a)
    assert a not in mapping
    assert selector.get_map() is mapping
    selector.close()
    assert selector.get_map() is None
    assert len(mapping) == 0
    with pytest.raises(KeyError):
        mapping[b]
    assert mapping.get(b) is None


def test_nothing_is_left_of_a_refused_registration(epoll):
    with Selector() as selector, tempfile.TemporaryFile() as file:
        for _ in range(3):
            with pytest.raises(PermissionError):
                selector.register(file, R, idle_timeout=1)
        assert len(selector.get_map()) == 0
        with pytest.raises(KeyError):
            selector.handle(file)
        assert selector.shed(5) == []
        selector._engine.freeze(100)
        selector._engine.advance(50)
        assert selector.select(0) == []


def test_a_closed_number_is_refused(selector):
    with socket.socket() as sock:
        number = sock.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        selector.register(number, R, idle_timeout=1)
    assert len(selector.get_map()) == 0


def test_a_failed_modify_changes_nothing(selector, pair):
    a, _ = pair()
    key = selector.register(a, R, "old", idle_timeout=5)
    handle = selector.handle(a)
    number = a.fileno()
    spare = a.dup()
    a.close()
    with contextlib.suppress(OSError):  # poll may look at the descriptor, or not
        selector.modify(number, W, "new")
        key = selector.get_key(number)
    assert selector.get_key(number) == handle.key == key
    assert selector.unregister(number) == key
    spare.close()


CLOSED: dict[str, Callable[[Any, Any], Any]] = {
    "register": lambda s, a: s.register(a, R),
    "unregister": lambda s, a: s.unregister(a),
    "modify": lambda s, a: s.modify(a, W),
    "select": lambda s, a: s.select(0),
    "get_key": lambda s, a: s.get_key(a),
    "handle": lambda s, a: s.handle(a),
    "touch": lambda s, a: s.touch(a),
    "shed": lambda s, a: s.shed(1),
    "wake": lambda s, a: s.wake(),
    "stats": lambda s, a: s.stats(),
}


@pytest.mark.parametrize("name", CLOSED)
def test_after_close_everything_says_so(selector, pair, name):
    a, _ = pair()
    selector.register(a, R, idle_timeout=1)
    selector.close()
    with pytest.raises(RuntimeError, match="closed"):
        CLOSED[name](selector, a)
    selector.close()
    assert a.fileno() >= 0


def test_what_was_taken_before_close_is_harmless_after(selector, pair):
    a, _ = pair()
    selector.register(a, R, idle_timeout=1)
    select, handle, engine = selector.select, selector.handle(a), selector._engine
    selector.close()
    with pytest.raises(RuntimeError):
        select(0)
    with contextlib.suppress(RuntimeError):  # a wake may come at any time
        engine.wake()
    assert handle.touch() is False
    with pytest.raises(KeyError):
        handle.idle_for()


def test_close_gives_every_descriptor_back(impl, mechanism, pair):
    a, _ = pair()
    before = needs.descriptors_in_use()
    for _ in range(3):
        with Selector() as selector:
            selector.register(a, R)
            assert selector.select(0) == []
            selector.wake()
    assert needs.descriptors_in_use() == before


def test_a_subclass_may_have_a_select_of_its_own(impl, pair):
    class Counting(Selector):
        calls = 0

        def select(self, timeout=None):
            self.calls += 1
            return super().select(timeout)

    a, _ = pair()
    with Counting() as selector:
        selector.register(a, W, "a")
        assert seen(selector) == {"a": W}
        assert selector.calls == 1


@pytest.mark.parametrize("timeout", [0.0004, 0.0011, 0.0205, 0.05])
def test_select_never_returns_early(selector, timeout):
    begin = time.monotonic()
    assert selector.select(timeout) == []
    assert time.monotonic() - begin >= timeout


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, -1, -1e300, False])
def test_select_does_not_wait(selector, timeout):
    begin = time.monotonic()
    assert selector.select(timeout) == []
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("timeout", [1e5, 3e6, 1e9, 10**9])
def test_select_takes_a_long_timeout(selector, timeout):
    selector.wake()
    assert selector.select(timeout) == []


@pytest.mark.parametrize(("timeout", "kind"), [("1", TypeError), (float("nan"), ValueError)])
def test_select_refuses_what_is_no_time(selector, timeout, kind):
    selector.wake()
    with pytest.raises(kind):
        selector.select(timeout)


def test_everything_ready_comes_in_one_call(selector):
    with needs.many_descriptors(400, writable=True) as fds:
        for fd in fds:
            selector.register(fd, W, fd)
        assert seen(selector) == dict.fromkeys(fds, W)


@needs.resets
def test_a_reset_connection_is_readable(selector, tcp_pair):
    client, server = tcp_pair()
    selector.register(server, R, "server")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, needs.RESET_ON_CLOSE)
    client.close()
    assert seen(selector, 5) == {"server": R}
    selector.modify(server, R | W, "server")
    assert seen(selector, 5) == {"server": R | W}
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_asyncio_runs_on_it(impl, mechanism):
    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> list[bytes]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            lines = []
            for number in range(20):
                writer.write(b"%d\n" % number)
                lines.append(await reader.readline())
            await asyncio.to_thread(time.sleep, 0.01)
            await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()
            return lines

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Selector())) as runner:
        assert runner.run(main()) == [b"%d\n" % number for number in range(20)]

"""asyncio on top of watch and Guard: errors with the event, callbacks in the loop, iterators."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

import stillalive
from stillalive import aio
from stillalive.guard import Guard

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="idle limits that abort, and a Guard, are not for Windows"
)

LIMIT = 1.0


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, impl: object) -> Callable[..., object]:
    """Run a coroutine on each event loop, with a watch on each implementation."""
    factory = None
    if request.param == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
        factory = uvloop.new_event_loop

    def run(main: Callable[..., object], *arguments: object) -> object:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(main(*arguments), 20))  # type: ignore[arg-type]

    return run


async def streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]:
    """Return one end as streams, the other as a socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        mine, _ = listener.accept()
    reader, writer = await asyncio.open_connection(sock=mine)
    return reader, writer, other


async def let_go(writer: asyncio.StreamWriter, other: socket.socket) -> None:
    other.close()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def test_an_idle_block_ends_with_the_event(run):
    async def main():
        reader, writer, other = await streams()
        began = time.monotonic()
        with pytest.raises(aio.PeerGoneError) as caught:
            async with aio.alive(writer, idle_timeout=LIMIT):
                await reader.read(100)
        took = time.monotonic() - began
        await let_go(writer, other)
        return caught.value, took

    error, took = run(main)
    assert error.event.why == "idle"
    assert error.event.done == "abort"
    assert LIMIT <= took < LIMIT + 3
    assert isinstance(error, (ConnectionError, stillalive.StillAliveError))
    assert isinstance(error.__cause__, OSError)
    assert "not a byte" in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert copied.event == error.event


def test_traffic_keeps_a_block_going(run):
    async def main():
        reader, writer, other = await streams()
        other.settimeout(5)
        async with aio.alive(writer, idle_timeout=LIMIT) as watch:
            for _ in range(8):
                other.sendall(b"x")
                assert await reader.readexactly(1) == b"x"
                await asyncio.sleep(LIMIT / 4)
            assert watch.event is None
        writer.write(b"still there")
        assert other.recv(100) == b"still there"
        await asyncio.sleep(LIMIT * 1.5)  # the watch has ended with the block
        other.sendall(b"y")
        assert await reader.readexactly(1) == b"y"
        await let_go(writer, other)

    run(main)


def test_other_exceptions_stay_what_they_are(run):
    async def main():
        _, writer, other = await streams()
        with pytest.raises(ZeroDivisionError):
            async with aio.alive(writer, idle_timeout=60):
                raise ZeroDivisionError
        with pytest.raises(ConnectionResetError):
            async with aio.alive(writer, idle_timeout=60):
                raise ConnectionResetError
        await let_go(writer, other)

    run(main)


def test_leaving_in_peace_after_the_end_says_so(run):
    async def main():
        _, writer, other = await streams()
        with pytest.raises(aio.PeerGoneError):
            async with aio.alive(writer, idle_timeout=LIMIT) as watch:
                await watch
        await let_go(writer, other)

    run(main)


def test_callbacks_come_in_the_loop(run):
    async def main():
        _, writer, other = await streams()
        told = asyncio.get_running_loop().create_future()

        def tell(event):
            told.set_result((event, threading.current_thread()))

        aio.watch(writer, idle_timeout=LIMIT, on_event=tell)
        event, thread = await told
        await let_go(writer, other)
        return event, thread

    event, thread = run(main)
    assert event.why == "idle"
    assert thread is threading.current_thread()


def test_a_watch_is_iterated_once(run):
    async def main():
        _, writer, other = await streams()
        watch = aio.watch(writer, idle_timeout=LIMIT, action=None)
        first = [event.why async for event in aio.events(watch)]
        again = [event.why async for event in aio.events(watch)]
        assert first == again == ["idle"]
        cancelled = aio.watch(writer, idle_timeout=60)
        cancelled.cancel()
        assert [event async for event in aio.events(cancelled)] == []
        await let_go(writer, other)

    run(main)


def test_a_guard_is_iterated_until_it_stops(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            heard = []
            guard = Guard(listeners=[port], never_spoke=LIMIT, on_event=heard.append).start()
            pairs = []
            for _ in range(3):
                client = socket.create_connection(listener.getsockname())
                pairs.append((client, listener.accept()[0]))
            seen = []
            async for event in aio.events(guard):
                seen.append(event)
                if len(seen) == 3:
                    break
            rest = aio.events(guard)
            asyncio.get_running_loop().call_later(0.2, guard.stop)
            assert [event async for event in rest] == []
            assert seen == heard
            for pair in pairs:
                for sock in pair:
                    sock.close()

    run(main)


def test_room_is_bounded_and_the_newest_stay(run):
    async def main():
        callbacks = []

        class Source:
            def subscribe(self, callback):
                callbacks.append(callback)
                return lambda: callbacks.remove(callback)

        told = aio.events(Source(), room=2)
        first = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        for number in range(4):
            callbacks[0](number)
        assert await first in (0, 2)  # taken before, or dropped with the oldest
        await told.aclose()
        assert callbacks == []

    run(main)


@pytest.mark.parametrize("room", [0, -1, 1.5, "2"])
def test_room_is_checked(room):
    async def main():
        await anext(aio.events(Guard(never_spoke=60), room=room))

    with pytest.raises((ValueError, TypeError), match="room="):
        asyncio.run(main())


def test_watch_needs_a_running_loop(tcp_pair):
    with pytest.raises(RuntimeError):
        aio.watch(tcp_pair()[0], idle_timeout=60)


@pytest.mark.parametrize("room", [1, 2])
def test_the_end_does_not_push_out_the_event(run, room):
    async def main() -> list[str]:
        _, writer, other = await streams()
        with other:
            watching = aio.watch(writer, idle_timeout=0.1)
            await watching
            told = [event.why async for event in aio.events(watching, room=room)]
        writer.close()
        return told

    assert run(main) == ["idle"]


def test_wrong_arguments_are_told_at_once(run):
    async def main() -> None:
        _, writer, other = await streams()
        with other:
            with pytest.raises(TypeError, match="on_event=5: must be callable"):
                aio.watch(writer, idle_timeout=5, on_event=5)
            with pytest.raises(TypeError, match="source='x': must be a Guard or a Watch"):
                await anext(aio.events("x"))
            async with contextlib.aclosing(aio.events(Guard(answered=5))) as events:
                assert [event async for event in events] == []
        writer.close()

    run(main)

"""One connection of a server: what its protocol holds, and how it ends.

It is open; then it may be closing, which means that only unsent bytes keep
it; then it has ended, and waits in the server's queue; then `connection_lost`
is called, from the loop and never from inside `write`. The socket may live a
little longer (`Linger`).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable
from selectors import SelectorKey
from typing import TYPE_CHECKING, Any

from .. import _backend as b
from .._borrowed import BorrowedSocket
from .._errors import ConnectionEndedError
from .._values import as_timeout
from ._engine import Handle
from ._linger import Linger

if TYPE_CHECKING:
    from ._server import ServerEngine

__all__ = ["Transport"]

_BytesLike = bytes | bytearray | memoryview
_READ_SIZE = 65536
_GRACE_SECONDS = 10.0
_MOST_CHUNKS = 64
_RESET = struct.pack("ii", 1, 0) if sys.platform != "win32" else struct.pack("hh", 1, 0)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_NOT_NOW = (BlockingIOError, InterruptedError)


class Transport:
    """What ``connection_made`` gets: asyncio's transport, with an idle timeout.

    Threads: the one that serves.
    """

    __slots__ = (
        "__weakref__",
        "_age",
        "_borrowed",
        "_buffered",
        "_chunks",
        "_dropped",
        "_due_reason",
        "_ended",
        "_eof_received",
        "_eof_wanted",
        "_exception",
        "_handle",
        "_high",
        "_low",
        "_owes",
        "_peername",
        "_protocol",
        "_reading_paused",
        "_reason",
        "_server",
        "_size",
        "_sock",
        "_sockname",
        "_told",
        "_writing_paused",
    )

    def __init__(
        self, server: ServerEngine, sock: socket.socket, peername: object, idle: float | None
    ) -> None:
        self._server = server
        self._sock = sock
        self._peername, self._sockname = peername, None
        self._borrowed: BorrowedSocket | None = None
        self._protocol: Any = None
        self._buffered = False
        self._chunks: deque[bytes | memoryview] = deque()
        self._size, self._high, self._low = 0, 65536, 16384
        self._reading_paused = self._writing_paused = False
        self._eof_received = self._eof_wanted = False
        self._owes = False
        """Bytes came in, and none have been written since."""
        self._due_reason: str | None = None
        """Why it ends as soon as it owes nothing: age or shutdown."""
        self._reason: str | None = None
        self._exception: BaseException | None = None
        self._ended = self._dropped = self._told = False
        fd = sock.fileno()
        self._handle: Handle = server.engine.add(SelectorKey(fd, fd, b.READ, self._ready), idle)
        self._age: Handle | None = None

    # What a protocol calls.

    def write(self, data: _BytesLike) -> None:
        """Send now what can be sent, keep the rest; nothing once closing."""
        if not isinstance(data, bytes):
            data = _as_bytes(data)
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._reason is not None:
            return
        self._owes = False
        if self._due_reason is not None:
            self._server.unsettled.append(self)
        rest: bytes | memoryview = data
        if not self._chunks:
            try:
                sent = self._sock.send(data, _NO_SIGNAL)
            except _NOT_NOW:
                sent = 0
            except OSError as error:
                self._drop("error", error)
                return
            self._server.sent += sent
            self._handle.touch()
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
            self._handle.pause()
        self._chunks.append(rest)
        self._grow(len(rest))
        self._watch()
        self._maybe_pause_writing()

    def writelines(self, list_of_data: Iterable[_BytesLike]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """End the sending side once everything is sent; reading goes on."""
        if self._eof_wanted or self._reason is not None:
            return
        self._eof_wanted = True
        self._owes = False
        if self._due_reason is not None:
            self._server.unsettled.append(self)
        if not self._chunks:
            self._shut_writing()

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Read no more, send what is kept, then end."""
        self._close("peer" if self._eof_received else "owner")

    def abort(self) -> None:
        """Drop what is kept, and end with a reset."""
        self._drop("owner")

    def is_closing(self) -> bool:
        """Tell whether it is closing or has ended."""
        return self._reason is not None

    def pause_reading(self) -> None:
        """Receive nothing until ``resume_reading``; again is harmless."""
        if not self._reading_paused and self._reason is None:
            self._reading_paused = True
            self._watch()

    def resume_reading(self) -> None:
        """Receive again; harmless if it was not paused."""
        if self._reading_paused and self._reason is None:
            self._reading_paused = False
            self._watch()

    def is_reading(self) -> bool:
        """Tell whether it receives."""
        return not (self._reading_paused or self._eof_received) and self._reason is None

    def get_extra_info(self, name: str, default: object = None) -> Any:  # noqa: ANN401
        """Return ``peername``, ``sockname``, ``socket`` or ``end_reason``."""
        value: object = None
        if name == "peername":
            value = self._peername
        elif name == "sockname":
            if self._sockname is None and not self._told:
                with contextlib.suppress(OSError):
                    self._sockname = self._sock.getsockname()
            value = self._sockname
        elif name == "socket":
            value = self._borrow()
        elif name == "end_reason":
            value = self._reason if self._told else None
        return default if value is None else value

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes, at which the protocol pauses and resumes writing."""
        if high is None:
            high = 65536 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._maybe_pause_writing()
        if self._writing_paused and self._size <= low:
            self._server.unsettled.append(self)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks, low and high."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are kept."""
        return self._size

    def set_protocol(self, protocol: object) -> None:
        """Give another protocol all that follows."""
        self._buffered = is_buffered(protocol)
        self._protocol = protocol

    def get_protocol(self) -> Any:  # noqa: ANN401
        """Return the protocol, or None after the end."""
        return self._protocol

    @property
    def idle_timeout(self) -> float | None:
        """The seconds of silence that are allowed; None for no limit, and after the end."""
        return None if self._ended else self._handle.idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        seconds = as_timeout("idle_timeout", seconds)
        if not self._ended:
            self._handle.idle_timeout = seconds

    def touch(self) -> bool:
        """Note activity; return False after the end."""
        return self._handle.touch()

    def __repr__(self) -> str:
        state = "ended" if self._told else "closing" if self._reason else "open"
        return f"<stillalive Transport to {self._peername!r} {state}>"

    # What the server calls.

    def begin(self, protocol: object, age: float | None) -> None:
        """Tell the protocol that there is a connection."""
        self.set_protocol(protocol)
        if age is not None:
            self._age = self._server.engine.timer(age, self._aged)
        self._call("connection_made", self)

    def settle(self) -> None:
        """Do what had to wait until the callback was over."""
        if self._writing_paused and self._size <= self._low and not self._dropped:
            self._writing_paused = False
            self._inform("resume_writing")
        reason = self._due_reason
        if reason is not None and not self._owes and not self._chunks:
            self._close(reason, ConnectionEndedError(reason))

    def finish_soon(self, reason: str) -> None:
        """End once it owes no answer and everything is sent; now, if that is so now."""
        self._due_reason = reason
        self.settle()

    def give_up(self, reason: str) -> None:
        """End now, whatever is owed."""
        if self._chunks or reason == "shutdown":
            self._drop(reason, ConnectionEndedError(reason))
        else:
            self._close(reason, ConnectionEndedError(reason))

    def fail(self, exception: BaseException) -> None:
        """End it because its beginning has failed; whoever calls this has reported it."""
        self._drop("error", exception)

    def shed(self) -> None:
        """Make room."""
        self._close("shed", ConnectionEndedError("shed"))

    def tell(self) -> None:
        """Call ``connection_lost``, and let the socket go."""
        if self._told:
            return
        self._told = True
        if self._borrowed is not None:
            self._borrowed._end()
        self._server.forget(self, self._reason or "error")
        try:
            lost = getattr(self._protocol, "connection_lost", None)
            if lost is not None:
                lost(self._exception)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self._server.on_error(failure, self)
        finally:
            self._protocol = self._exception = None
            self.let_go()

    def let_go(self) -> None:
        """Close the socket, with a reset or with care for the answer's tail."""
        sock = self._sock
        if self._dropped:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif not self._eof_received:
            Linger(self._server, sock)
            return
        sock.close()

    @property
    def resting_since(self) -> int | None:
        """The time of the last activity, in ns; None when it cannot be shed."""
        return None if self._chunks or self._reason is not None else self._handle.touched

    # Events.

    def _ready(self, mask: int) -> None:
        if self._ended:
            return
        if mask & b.IDLE_EVENT and self._handle.due and self._reason is None:
            self._close("idle", ConnectionEndedError("idle"))
        if mask & b.READ and self.is_reading():
            self._receive()
        if mask & b.WRITE and self._chunks:
            self._flush()

    def _receive(self) -> None:
        protocol = self._protocol  # get_buffer() may set another
        try:
            data: bytes | int = (
                self._receive_into() if self._buffered else self._sock.recv(_READ_SIZE)
            )
        except _NOT_NOW:
            return
        except _CallbackError as failed:
            self._failed(failed.exception)
            return
        except OSError as error:
            self._drop("error", error)
            return
        if not data:
            self._receive_eof()
            return
        self._owes = True
        self._server.received += data if isinstance(data, int) else len(data)
        try:
            if isinstance(data, int):
                protocol.buffer_updated(data)
            else:
                protocol.data_received(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self._failed(failure)

    def _receive_into(self) -> int:
        try:
            buffer = memoryview(self._protocol.get_buffer(-1))
            if not buffer.nbytes:
                raise RuntimeError("get_buffer() returned an empty buffer")
            if buffer.readonly or not buffer.c_contiguous:
                raise BufferError("get_buffer() returned a buffer that cannot be filled")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            raise _CallbackError(failure) from None
        if not self.is_reading():  # get_buffer() has paused or closed
            raise BlockingIOError
        return self._sock.recv_into(buffer)

    def _receive_eof(self) -> None:
        self._eof_received = True
        self._watch()
        if self._eof_wanted and not self._chunks:
            self._close("peer")
        if not self._call("eof_received"):
            self._close("peer")

    def _flush(self) -> None:
        chunks = self._chunks
        try:
            if sys.platform == "win32" or len(chunks) == 1:
                sent = self._sock.send(chunks[0], _NO_SIGNAL)
            else:
                pieces = itertools.islice(chunks, _MOST_CHUNKS)
                sent = self._sock.sendmsg(pieces, (), _NO_SIGNAL)
        except _NOT_NOW:
            return
        except OSError as error:
            self._drop("error", error)
            return
        self._server.sent += sent
        self._grow(-sent)
        while sent:
            first = chunks.popleft()
            if sent < len(first):
                chunks.appendleft(memoryview(first)[sent:])
                break
            sent -= len(first)
        if not chunks:
            self._handle.resume()
            self._watch()
            self._server.has_room()
            if self._reason is not None and not self._ended:
                self._end()
            elif self._eof_wanted and not self._ended:
                self._shut_writing()
        self.settle()

    def _aged(self, mask: int) -> None:
        if self._ended:
            return
        if self._due_reason is None and (self._owes or self._chunks):
            self._due_reason = "age"
            grace = min(self._server.max_age or _GRACE_SECONDS, _GRACE_SECONDS)
            self._remove_age()
            self._age = self._server.engine.timer(grace, self._aged)
        else:
            self.give_up("age")

    # Ending.

    def _close(self, reason: str, exception: BaseException | None = None) -> None:
        if self._reason is not None:
            return
        self._reason, self._exception = reason, exception
        if self._chunks:
            self._watch()
        else:
            self._end()

    def _drop(self, reason: str, exception: BaseException | None = None) -> None:
        if self._ended:  # what came first counts
            return
        self._reason, self._exception, self._dropped = reason, exception, True
        self._grow(-self._size)
        self._chunks.clear()
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._server.engine.remove(self._handle)
        self._remove_age()
        self._server.lost.append(self)

    def _failed(self, exception: BaseException) -> None:
        """End it because a callback has failed."""
        try:
            self._server.on_error(exception, self)
        finally:
            self._drop("error", exception)

    # Help.

    def _call(self, name: str, *arguments: object) -> bool:
        """Return whether the protocol answered with something true."""
        try:
            callback = getattr(self._protocol, name, None)
            return callback is not None and bool(callback(*arguments))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self._failed(failure)
            return True

    def _inform(self, name: str) -> None:
        """Call what may fail without ending the connection, as in asyncio."""
        try:
            callback = getattr(self._protocol, name, None)
            if callback is not None:
                callback()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self._server.on_error(failure, self)

    def _maybe_pause_writing(self) -> None:
        if self._size > self._high and not self._writing_paused:
            self._writing_paused = True
            self._inform("pause_writing")

    def _watch(self) -> None:
        events = (b.READ if self.is_reading() else 0) | (b.WRITE if self._chunks else 0)
        key = self._handle.key
        if events == key.events or self._ended:
            return
        try:
            self._server.engine.modify(self._handle, key._replace(events=events))
        except OSError as error:
            self._drop("error", error)

    def _shut_writing(self) -> None:
        """Send our end of the stream; with the peer's it is the end."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._drop("error", error)
            return
        if self._eof_received:
            self._close("peer")

    def _grow(self, size: int) -> None:
        self._size += size
        self._server.buffered += size

    def _borrow(self) -> BorrowedSocket | None:
        if self._borrowed is None and not self._told:
            self._borrowed = BorrowedSocket(self._sock.fileno())
        return self._borrowed

    def _remove_age(self) -> None:
        if self._age is not None:
            self._server.engine.remove(self._age)
            self._age = None


class _CallbackError(Exception):
    """An exception of get_buffer(), which may be an OSError, apart from those of recv()."""

    def __init__(self, exception: BaseException) -> None:
        super().__init__(exception)
        self.exception = exception


def is_buffered(protocol: object) -> bool:
    """Tell whether a protocol brings its own buffer; ``TypeError`` if it cannot receive."""
    own = hasattr(protocol, "get_buffer") and hasattr(protocol, "buffer_updated")
    asyncio = sys.modules.get("asyncio")  # what has not been imported has no instances
    if own and asyncio is not None and isinstance(protocol, asyncio.BufferedProtocol):
        return True
    if hasattr(protocol, "data_received"):
        return False
    if own:
        return True
    raise TypeError(f"{protocol!r} has no data_received(), nor get_buffer() and buffer_updated()")


def _as_bytes(data: _BytesLike) -> bytes:
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(
            f"data argument must be a bytes-like object, not {type(data).__name__!r}"
        ) from None

"""A TCP server that knows who has been silent for too long."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _backend as b
from . import _impl
from ._errors import report_unraisable
from ._host import restoring
from ._values import Seconds, as_count, as_seconds, as_timeout
from .policy import KeepAlive
from .selector import mechanism_wish
from .tuning import tune

__all__ = ["Server"]

_MOST_CONNECTIONS = 2**31 - 1

OnError = Callable[[BaseException, Any], object]


class Server:
    """Serve protocols over TCP in one thread, and end connections that stay silent.

    :param listener: a listening stream socket (TCP or AF_UNIX). The server
        takes it over: the object is detached, the socket closed by ``close``.
        If the constructor raises, nothing is taken and nothing is changed.
    :param protocol_factory: called without arguments for each connection.
        What it returns has the callbacks of ``asyncio.Protocol``, or of
        ``asyncio.BufferedProtocol``, with the same arguments and meaning.
        Only ``data_received`` must be there (or ``get_buffer`` and
        ``buffer_updated``).
    :param idle_timeout: seconds, up to 10 million, without a byte in either
        direction after which a connection is ended; None (the default) for
        never. A connection with unsent bytes is not idle. Each transport has
        ``idle_timeout`` too, to be changed while it lives.
    :param keepalive: a :class:`KeepAlive` for all connections. It is set once,
        on the listener; where connections do not inherit all of it (everywhere
        but on Linux, unless FreeBSD or Windows is given no user_timeout) it
        is set on each, right after it was accepted.
    :param max_connections: with so many open a new one takes the place of the
        one that has been idle for longest; those with unsent bytes are busy,
        and if all are, the new one waits in the backlog. None (the default)
        for no limit.
    :param max_age: seconds after which a connection is ended; up to a tenth
        less, at random, so that those that came together do not all come
        back together. One that owes an answer has until ``max_age`` again,
        at most 10 s, to give it.
    :param on_error: called with an exception and the transport it happened
        on, or None. Default: ``sys.unraisablehook`` reports it.

    Callbacks run in the thread that serves, one at a time. The transport has
    ``write``, ``writelines``, ``write_eof``, ``can_write_eof``, ``close``,
    ``abort``, ``is_closing``, ``pause_reading``, ``resume_reading``,
    ``is_reading``, ``get_extra_info`` (``peername``, ``sockname``,
    ``socket``, ``end_reason``), ``set_write_buffer_limits``,
    ``get_write_buffer_limits``, ``get_write_buffer_size``, ``set_protocol``,
    ``get_protocol`` as in asyncio, and ``idle_timeout`` and ``touch()``.

    ``connection_lost`` comes once: with None after the peer's end of stream
    and after one's own ``close`` or ``abort``, with the ``OSError`` of a
    broken connection, with :class:`ConnectionEndedError` where the server
    ended it, with the exception of a callback that failed: that one ends its
    own connection, nobody else's. Afterwards
    ``get_extra_info("end_reason")`` is ``peer``, ``owner``, ``error``,
    ``idle``, ``shed``, ``age`` or ``shutdown``.

    An answer's last bytes are not lost to a reset: after the end of the stream
    has been sent, what still comes in is read and dropped until the peer ends
    its side, for up to 2 s. ``TCP_NODELAY`` is set, as in asyncio.
    When descriptors run out, accepting rests for 0.1 s, and ``on_error`` is
    told once. Timeouts are never early, and late by at most 40 ms plus the
    time spent in callbacks.

    No TLS and no HTTP here. Use asyncio, with its own timeouts, for TLS, for
    coroutines, and where callbacks wait for anything; use this where one
    thread answers many connections from memory.

    Systems: all; ``max_connections`` and the rest do not differ, only
    ``keepalive`` needs what :func:`tune` supports. Threads: ``close`` and
    ``stats`` may be called by any; a transport belongs to the thread that
    serves. A server made before a fork may serve in the child; one that
    serves already belongs to the process it serves in.

    Raises ``TypeError``, ``ValueError`` naming the argument,
    ``OSError(EBADF)`` for a closed listener, ``NotSupportedError`` for a
    ``keepalive`` that cannot be set.

    >>> import threading
    >>> class Echo(asyncio.Protocol):
    ...     def connection_made(self, transport):
    ...         self.transport = transport
    ...     def data_received(self, data):
    ...         self.transport.write(data)
    >>> listener = socket.create_server(("127.0.0.1", 0))
    >>> address = listener.getsockname()
    >>> server = Server(listener, Echo, idle_timeout=30)
    >>> thread = threading.Thread(target=server.serve_forever)
    >>> thread.start()
    >>> with socket.create_connection(address) as client:
    ...     client.sendall(b"hello")
    ...     client.recv(100)
    b'hello'
    >>> server.close(timeout=5)
    >>> thread.join()
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol_factory: Callable[[], Any],
        *,
        idle_timeout: Seconds | None = None,
        keepalive: KeepAlive | None = None,
        max_connections: int | None = None,
        max_age: Seconds | None = None,
        on_error: OnError | None = None,
    ) -> None:
        if not callable(protocol_factory):
            raise TypeError(f"protocol_factory={protocol_factory!r}: must be callable")
        if on_error is not None and not callable(on_error):
            raise TypeError(f"on_error={on_error!r}: must be callable, or None")
        if keepalive is not None and not isinstance(keepalive, KeepAlive):
            raise TypeError(f"keepalive={keepalive!r}: must be a KeepAlive, or None")
        idle = as_timeout("idle_timeout", idle_timeout)
        age = as_timeout("max_age", max_age)
        most = None if max_connections is None else as_count("max_connections", max_connections)
        _check_listener(listener)
        mechanism = mechanism_wish()
        with _restored(listener, keepalive):
            held = None if keepalive is None else tune(listener, keepalive)
            listener.setblocking(False)
            self._engine: b.ServerLike = _impl.backend.ServerEngine(
                listener.fileno(),
                protocol_factory,
                _never_raising(on_error),
                idle,
                age,
                None if most is None else min(most, _MOST_CONNECTIONS),
                None if held is None or not held.not_inherited else held.values(),
                mechanism,
            )
            listener.detach()
        # Held for moments, and re-entrant: a signal handler may call close.
        self._changed = threading.Condition(threading.RLock())
        self._runner: int | None = None
        self._process: int | None = None
        self._served = False
        self._over = False

    def serve_forever(self) -> None:
        """Accept and serve until ``close``; returns when the last connection has ended.

        What a signal handler or a callback raises as ``KeyboardInterrupt`` or
        ``SystemExit`` comes out of here; ``close`` then ends the rest.
        Returns at once if ``close`` came first. A second call raises
        ``RuntimeError``.
        """
        with self._changed:
            if self._served:
                raise RuntimeError("Server.serve_forever() can only be called once")
            self._served = True
        self._run()

    def close(self, timeout: Seconds | None = None) -> None:
        """Accept no more, let connections finish, and wait until all have ended.

        :param timeout: seconds, 0 or more, for connections that owe an answer
            (the last bytes came in, none have gone out since) or have unsent
            bytes; None (the default) waits as long as they need, 0 ends all
            at once, with a reset. Connections that owe nothing end at once;
            their sockets may linger for up to 2 s. Of several calls the
            shortest time counts.

        From another thread: waits until ``serve_forever`` has returned. From a
        callback, or a signal handler in the thread that serves: asks, and
        returns at once. If nothing serves: ends all in the caller's thread.
        Again is harmless. Raises ``RuntimeError`` in a child that was forked
        while the server served.
        """
        seconds = None if timeout is None else as_seconds("timeout", timeout, zero=True)
        if seconds is not None:
            seconds = float(min(seconds, b.MOST_SECONDS))
        me = threading.get_ident()
        while True:
            with self._changed:
                if self._over:
                    return
                if self._process not in (None, os.getpid()):
                    raise RuntimeError(f"this Server belongs to process {self._process}")
                self._engine.close(seconds)
                if self._runner == me:
                    return
                if self._runner is not None:
                    self._changed.wait()
                    continue
            self._run()

    def stats(self) -> dict[str, int]:
        """Return counters: accepted, open, received, sent, shed, ended by reason and more.

        ``received``, ``sent`` and ``buffered`` are bytes; ``ended_peer``,
        ``ended_owner``, ``ended_error``, ``ended_idle``, ``ended_shed``,
        ``ended_age`` and ``ended_shutdown`` are connections.
        """
        return self._engine.stats()

    def _run(self) -> None:
        """Serve in this thread, unless another does or all is over."""
        me, over = threading.get_ident(), False
        try:  # whatever a signal handler raises from here on, it is given back
            with self._changed:
                if self._over or self._runner is not None:
                    return
                self._runner, self._process = me, os.getpid()
            self._engine.run()
            over = True
        finally:
            with self._changed:
                if self._runner == me:
                    self._runner, self._over = None, over
                    self._changed.notify_all()


def _check_listener(listener: object) -> None:
    ssl = sys.modules.get("ssl")  # what has not been imported has no instances
    if ssl is not None and isinstance(listener, ssl.SSLSocket):
        raise TypeError(f"listener={listener!r}: no TLS here, use asyncio for that")
    if not isinstance(listener, socket.socket):
        raise TypeError(f"listener={listener!r}: must be a listening socket.socket")
    if listener.fileno() < 0:
        raise OSError(errno.EBADF, f"listener={listener!r}: is closed")
    if listener.type != socket.SOCK_STREAM:
        raise ValueError(f"listener={listener!r}: must be a stream socket")
    try:
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except (AttributeError, OSError):  # not every system tells
        return
    if not listening:
        raise ValueError(f"listener={listener!r}: must be listening (call listen() first)")


@contextlib.contextmanager
def _restored(listener: socket.socket, keepalive: KeepAlive | None) -> Iterator[None]:
    """Give the listener back as it was if the body fails."""
    timeout = listener.gettimeout()
    before = None
    if keepalive is not None:
        before = restoring(_impl.backend.read_options(listener.fileno()), keepalive.values())
    try:
        yield
    except BaseException:
        listener.settimeout(timeout)
        if before is not None:
            _impl.backend.apply_options(listener.fileno(), before)
        raise


def _never_raising(on_error: OnError | None) -> Callable[[BaseException, object], None]:
    """Wrap what is to be told of exceptions; its own go to ``sys.unraisablehook``."""

    def tell(exception: BaseException, transport: object) -> None:
        if on_error is None:
            report_unraisable(exception, "a stillalive.Server")
            return
        try:
            on_error(exception, transport)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            report_unraisable(failure, f"on_error={on_error!r} of a stillalive.Server")

    return tell

# What a protocol writes to: asyncio's transport around one ka_conn.
#
# `conn` is the one thing that can go stale. It is set when the connection is
# accepted and cleared before connection_lost is called, and nothing here uses
# it without looking; so a transport that somebody kept is harmless for ever.
# The stream lies inside the engine, and the transport holds the engine.
#
# The core keeps the socket's number until LOST has been told, so that who
# borrows it until then cannot reach the next connection.
#
# no_gc_clear: the collector must not take `engine` away from a transport that
# a finaliser may still write to. What breaks a ring is the engine's set, or
# the protocol's own dict.
from cpython.buffer cimport (PyBUF_FULL_RO, PyBUF_WRITABLE,
                             PyBuffer_IsContiguous, PyBuffer_Release,
                             PyObject_CheckBuffer, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AsStringAndSize, PyBytes_CheckExact
from libc.stdint cimport SIZE_MAX

from socket import AF_INET as _AF_INET, AF_INET6 as _AF_INET6
from socket import inet_ntop as _inet_ntop
from sys import modules as _modules

from stillalive._borrowed import BorrowedSocket as _BorrowedSocket
from stillalive._errors import ConnectionEndedError as _ConnectionEndedError

cdef tuple _END_REASONS = ("peer", "owner", "error", "idle", "shed", "age",
                           "shutdown")


cdef int64_t _milliseconds(object seconds) except -1:
    """The fewest that are no shorter; 0 for None."""
    return 0 if seconds is None else <int64_t>ceil(<double>seconds * 1e3)


cdef bint _is_buffered(object protocol) except -1:
    cdef bint own = (hasattr(protocol, "get_buffer")
                     and hasattr(protocol, "buffer_updated"))
    if own:
        # What has not been imported has no instances.
        asyncio = _modules.get("asyncio")
        if (asyncio is not None
                and isinstance(protocol, asyncio.BufferedProtocol)):
            return True
    if hasattr(protocol, "data_received"):
        return False
    if own:
        return True
    raise TypeError("%r has no data_received(), nor get_buffer() and"
                    " buffer_updated()" % (protocol,))


cdef object _why_lost(int reason, int error):
    if reason == KA_BY_PEER or reason == KA_BY_OWNER:
        return None
    if reason == KA_BY_ERROR:
        return _new_os_error(_python_errno(error))
    return _ConnectionEndedError(_END_REASONS[reason])


cdef object _peer_address(const ka_os_peer *peer):
    """None for a link-local address, which has a name in it, and AF_UNIX."""
    if peer.family == 4:
        return (_inet_ntop(_AF_INET, peer.address[:4]), peer.port)
    if peer.family == 6 and peer.scope == 0:
        return (_inet_ntop(_AF_INET6, peer.address[:16]), peer.port, peer.flow,
                0)
    return None


cdef class ServerEngine


@cython.final
@cython.no_gc_clear
@cython.freelist(256)
cdef class Transport:
    """What connection_made gets: asyncio's transport, with an idle timeout."""
    cdef ka_conn *conn  # NULL before the beginning and after the end
    cdef ka_stream *stream
    cdef ServerEngine engine
    cdef object protocol
    cdef object receive  # protocol.data_received; None if it has a buffer
    cdef object get_buffer
    cdef object buffer_updated
    cdef object idle
    cdef ka_os_peer peer
    cdef object peername
    cdef object sockname
    cdef object borrowed
    cdef object failure  # of a callback: what connection_lost is to get
    cdef object __weakref__
    cdef size_t high, low
    cdef int reason  # enum ka_stream_reason, -1 before the end
    cdef bint wrote_eof

    def __cinit__(self):
        self.high = 64 * 1024
        self.low = 16 * 1024
        self.reason = -1

    # ---- what a protocol calls

    def write(self, data):
        cdef char *start
        cdef Py_ssize_t size
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            PyBytes_AsStringAndSize(data, &start, &size)
            self.send(start, size)
            return
        if not PyObject_CheckBuffer(data):
            raise TypeError("data argument must be a bytes-like object, not %r"
                            % type(data).__name__)
        PyObject_GetBuffer(data, &view, PyBUF_FULL_RO)
        try:
            if PyBuffer_IsContiguous(&view, c"C"):
                self.send(<char *>view.buf, view.len)
            else:
                self.write(memoryview(data).tobytes())
        finally:
            PyBuffer_Release(&view)

    def writelines(self, list_of_data):
        self.write(b"".join(list_of_data))

    def write_eof(self):
        if self.conn is NULL or self.wrote_eof or ka_conn_closing(self.conn):
            return
        self.wrote_eof = True
        ka_conn_write_eof(self.stream, self.conn)

    def can_write_eof(self):
        return True

    def close(self):
        if self.conn is not NULL:
            ka_conn_close(self.stream, self.conn)

    def abort(self):
        if self.conn is not NULL:
            ka_conn_abort(self.stream, self.conn, KA_BY_OWNER, 0)

    def is_closing(self):
        return self.conn is NULL or ka_conn_closing(self.conn) != 0

    def pause_reading(self):
        if self.conn is not NULL:
            ka_conn_pause_reading(self.stream, self.conn)

    def resume_reading(self):
        if self.conn is not NULL:
            ka_conn_resume_reading(self.stream, self.conn)

    def is_reading(self):
        return self.conn is not NULL and ka_conn_is_reading(self.conn) != 0

    def get_extra_info(self, name, default=None):
        value = None
        if name == "peername":
            self.find_names()
            value = self.peername
        elif name == "sockname":
            self.find_names()
            value = self.sockname
        elif name == "socket":
            value = self.borrow()
        elif name == "end_reason" and self.reason >= 0:
            value = _END_REASONS[self.reason]
        return default if value is None else value

    def set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError("high (%r) must be >= low (%r) must be >= 0"
                             % (high, low))
        self.high = min(high, SIZE_MAX)
        self.low = min(low, SIZE_MAX)
        if self.conn is not NULL and ka_conn_set_marks(
                self.stream, self.conn, self.high, self.low) == 1:
            self.tell("pause_writing")

    def get_write_buffer_limits(self):
        return (self.low, self.high)

    def get_write_buffer_size(self):
        return 0 if self.conn is NULL else self.conn.buffered

    def set_protocol(self, protocol):
        cdef bint buffered = _is_buffered(protocol)
        receive = None if buffered else protocol.data_received
        get_buffer = protocol.get_buffer if buffered else None
        buffer_updated = protocol.buffer_updated if buffered else None
        self.protocol = protocol
        self.receive = receive
        self.get_buffer = get_buffer
        self.buffer_updated = buffer_updated
        if self.conn is not NULL:
            self.conn.own_buffer = buffered

    def get_protocol(self):
        return self.protocol

    @property
    def idle_timeout(self):
        return None if self.is_over() else self.idle

    @idle_timeout.setter
    def idle_timeout(self, seconds):
        seconds = _as_timeout("idle_timeout", seconds)
        if self.conn is not NULL:
            _need(ka_conn_set_idle(self.stream, self.conn,
                                   _milliseconds(seconds)))
            self.idle = seconds

    def touch(self):
        return (not self.is_over()
                and ka_loop_touch(&self.stream.loop, self.conn.id) != 0)

    def __repr__(self):
        state = ("ended" if self.conn is NULL else
                 "closing" if ka_conn_closing(self.conn) else "open")
        return "<stillalive Transport to %r %s>" % (
            self.get_extra_info("peername"), state)

    # ---- what the engine calls

    cdef int fill(self) except -1:
        """Receive into the protocol's buffer, and tell it."""
        cdef Py_buffer view
        cdef int64_t got = 0
        updated = self.buffer_updated  # get_buffer may set another protocol
        buffer = self.get_buffer(-1)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            if ka_conn_is_reading(self.conn):  # get_buffer may have closed
                got = ka_stream_receive(self.stream, self.conn, view.buf,
                                        <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        if got > 0:
            updated(got)
        return 0

    cdef int tell(self, str name) except -1:
        """Call what may fail without ending the connection."""
        try:
            method = getattr(self.protocol, name, None)
            if method is not None:
                method()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self.engine.report(failure, self)
        return 0

    cdef int tell_lost(self, int reason, int error) except -1:
        self.end_borrowing()
        self.conn = NULL
        self.reason = KA_BY_ERROR if self.failure is not None else reason
        try:
            why = self.failure
            if why is None:
                why = _why_lost(reason, error)
            method = getattr(self.protocol, "connection_lost", None)
            if method is not None:
                method(why)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            self.engine.report(failure, self)
        finally:
            # Rings of protocol and transport need not wait for the collector.
            self.protocol = self.receive = self.failure = None
            self.get_buffer = self.buffer_updated = None
        return 0

    # ---- help

    cdef inline int send(self, const char *data, Py_ssize_t size) except -1:
        cdef int rc
        if self.wrote_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.conn is NULL or size == 0:
            return 0
        rc = ka_conn_write(self.stream, self.conn, data, <size_t>size)
        if rc == 1:
            self.tell("pause_writing")
        elif rc == -ENOMEM:
            raise MemoryError()
        return 0

    cdef inline bint is_over(self) noexcept:
        """Tell whether it has ended, told or not: only unsent bytes keep it."""
        return self.conn is NULL or (ka_conn_closing(self.conn)
                                     and self.conn.buffered == 0)

    cdef int end_borrowing(self) except -1:
        if self.borrowed is not None:
            self.borrowed._end()
        return 0

    cdef object borrow(self):
        if self.borrowed is None and self.conn is not NULL:
            self.borrowed = _BorrowedSocket(self.conn.fd)
        return self.borrowed

    cdef int find_names(self) except -1:
        """Ask once; after the end only the peer's address is known."""
        if self.peername is None:
            self.peername = _peer_address(&self.peer)
        if self.conn is NULL or self.sockname is not None:
            return 0
        try:
            self.sockname = self.borrow().getsockname()
            if self.peername is None:
                self.peername = self.borrow().getpeername()
        except OSError:
            pass
        return 0

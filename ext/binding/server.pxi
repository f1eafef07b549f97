# The server's loop: events of ka_stream become calls of a protocol's methods.
#
# A callback may do anything: close its connection or another, close the
# server, let the collector run, raise. So
# * events are pulled one at a time, and of an event nothing is read again
#   after a callback has run;
# * an exception leaves serve(), which has no `try` to pay for on every
#   message; go_on() then asks `guilty` whose callback it was. While the stream
#   or a signal handler works, nobody is guilty. What these raise, and
#   KeyboardInterrupt and SystemExit from anywhere, come out of run(), which
#   may be called again;
# * conn.user is a borrowed pointer. The set `transports` owns it until LOST,
#   so what only the server holds is alive, and the collector sees it.
#
# Threads: close() may come from any. It leaves a request and wakes the loop;
# the critical sections are for builds without a GIL.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals

from stream cimport *

from stillalive._errors import report_unraisable as _report_unraisable

include "transport.pxi"

cdef enum:
    _NO_BOUND = -1  # close(None)
    _NOT_ASKED = -2


cdef inline int _need(int rc) except -1:
    if rc < 0:
        _os_error(rc)
    return rc


@cython.final
@cython.no_gc_clear
cdef class ServerEngine:
    """Accept, read, write and end connections in one thread."""
    cdef ka_stream stream
    cdef ka_stream_event event
    cdef ka_conn *guilty  # whose callback is running
    cdef ka_stream_stats final  # when there is no stream any more
    cdef object factory
    cdef object on_error
    cdef object idle_timeout
    cdef set transports
    cdef int64_t asked  # of close: milliseconds, _NO_BOUND or _NOT_ASKED
    cdef bint alive  # there is a stream
    cdef bint running

    def __init__(self, ka_sock listener, factory, on_error, idle_timeout,
                 max_age, max_connections, values, mechanism):
        cdef ka_stream_limits limits
        cdef ka_policy policy
        cdef const ka_backend *backend = NULL
        cdef bytes name
        if self.transports is not None:
            raise RuntimeError("this ServerEngine has been made already")
        limits.idle_ms = _milliseconds(idle_timeout)
        limits.age_ms = _milliseconds(max_age)
        limits.max_connections = (0 if max_connections is None
                                  else max_connections)
        limits.policy = NULL
        if values is not None:
            _fill(&policy, values)
            limits.policy = &policy
        if mechanism is not None:
            name = mechanism.encode()
            backend = ka_loop_backend(name)
            if backend is NULL:
                raise ValueError("mechanism=%r: not on this system"
                                 " (allowed: %s)"
                                 % (mechanism, ", ".join(mechanisms())))
        self.factory = factory
        self.on_error = on_error
        self.idle_timeout = idle_timeout
        self.asked = _NOT_ASKED
        _need(ka_stream_init(&self.stream, listener, &limits, backend))
        self.transports = set()
        self.alive = True

    def __dealloc__(self):
        if self.alive:
            ka_stream_free(&self.stream)

    def run(self):
        with cython.critical_section(self):
            if self.running:
                raise RuntimeError("the server is running already")
            self.running = True
        try:
            while not self.go_on():
                pass
        finally:
            self.running = False

    def close(self, timeout):
        cdef int64_t asked = (_NO_BOUND if timeout is None
                              else _milliseconds(timeout))
        cdef int rc = 0
        with cython.critical_section(self):
            if self.asked < 0 or 0 <= asked < self.asked:
                self.asked = asked
            if self.alive:
                rc = ka_stream_wake(&self.stream)
        _need(rc)

    def stats(self):
        cdef ka_stream_stats found
        with cython.critical_section(self):
            found = self.stream.stats if self.alive else self.final
        return _stream_stats(&found)

    def freeze(self, ka_tick tick):
        if self.alive:
            ka_loop_freeze(&self.stream.loop, tick)

    def advance(self, double seconds):
        cdef int64_t us = llround(seconds * 1e6)
        cdef int64_t tick = KA_TICK_MS * 1000
        if self.alive:
            ka_loop_advance(&self.stream.loop,
                            <uint32_t>((us + tick - 1) // tick))
            ka_stream_wake(&self.stream)

    cdef bint go_on(self) except -1:
        """Return True when all is over, False after a callback has raised."""
        self.guilty = NULL
        try:
            self.serve()
            return True
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            if self.guilty is NULL:
                raise
            self.fail(<Transport>self.guilty.user, failure)
            return False

    cdef int serve(self) except -1:
        """Serve until all is over; whatever callbacks raise comes out."""
        cdef int kind
        while self.alive:
            if self.asked != _NOT_ASKED:
                self.take_request()
            kind = ka_stream_next(&self.stream, &self.event)
            if kind == KA_STREAM_DATA:
                self.deliver(self.event.conn)
            elif kind == KA_STREAM_WAIT:
                PyErr_CheckSignals()
                with nogil:
                    ka_stream_wait(&self.stream)
            else:
                self.tell(_need(kind), self.event.conn)
        return 0

    cdef inline int deliver(self, ka_conn *conn) except -1:
        cdef Transport transport = <Transport>conn.user
        self.guilty = conn
        transport.receive(PyBytes_FromStringAndSize(
            self.event.data, <Py_ssize_t>self.event.size))
        self.guilty = NULL
        return 0

    cdef int tell(self, int kind, ka_conn *conn) except -1:
        """Do what comes less often than data."""
        if kind == KA_STREAM_INTERRUPTED:
            PyErr_CheckSignals()
        elif kind == KA_STREAM_ACCEPTED:
            self.begin(conn)
        elif kind == KA_STREAM_REFUSED:
            self.report(_new_os_error(_python_errno(self.event.error)), None)
        elif kind == KA_STREAM_OVER:
            self.release()
        elif conn.user is not NULL:  # else its factory has failed
            self.tell_of(kind, conn, <Transport>conn.user)
        return 0

    cdef int tell_of(self, int kind, ka_conn *conn,
                     Transport transport) except -1:
        if kind == KA_STREAM_LOST:
            conn.user = NULL
            self.transports.discard(transport)
            transport.tell_lost(self.event.reason, self.event.error)
        elif kind == KA_STREAM_WRITABLE:
            transport.tell("resume_writing")
        else:
            self.guilty = conn
            if kind == KA_STREAM_FILL:
                transport.fill()
            elif kind == KA_STREAM_EOF:
                method = getattr(transport.protocol, "eof_received", None)
                if method is None or not method():
                    transport.close()
            self.guilty = NULL
        return 0

    cdef int begin(self, ka_conn *conn) except -1:
        cdef Transport transport
        try:
            transport = Transport.__new__(Transport)
            transport.set_protocol(self.factory())
            self.transports.add(transport)
        except (KeyboardInterrupt, SystemExit):
            ka_conn_abort(&self.stream, conn, KA_BY_OWNER, 0)
            raise
        except BaseException as failure:
            ka_conn_abort(&self.stream, conn, KA_BY_ERROR, 0)
            return self.report(failure, None)
        transport.idle = self.idle_timeout
        transport.engine = self
        transport.stream = &self.stream
        transport.conn = conn
        transport.peer = conn.peer
        conn.user = <void *>transport
        conn.own_buffer = transport.get_buffer is not None
        self.guilty = conn
        method = getattr(transport.protocol, "connection_made", None)
        if method is not None:
            method(transport)
        self.guilty = NULL
        return 0

    cdef int fail(self, Transport transport, object failure) except -1:
        """End the connection whose callback has raised; others go on."""
        if not transport.is_over():  # what came first counts
            transport.failure = failure
        try:
            self.report(failure, transport)
        finally:
            ka_conn_abort(&self.stream, transport.conn, KA_BY_ERROR, 0)
        return 0

    cdef int report(self, object failure, object transport) except -1:
        try:
            self.on_error(failure, transport)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as another:
            _report_unraisable(another, "on_error of a stillalive server")
        return 0

    cdef int take_request(self) except -1:
        cdef int64_t asked
        with cython.critical_section(self):
            asked = self.asked
            self.asked = _NOT_ASKED
        return _need(ka_stream_close(&self.stream, asked))

    cdef int release(self) except -1:
        with cython.critical_section(self):
            self.final = self.stream.stats
            self.alive = False
            ka_stream_free(&self.stream)
        return 0


cdef dict _stream_stats(const ka_stream_stats *s):
    cdef dict found = {
        "accepted": s.accepted,
        "shed": s.shed,
        "refused": s.refused,
        "aborted_accepts": s.aborted_accepts,
        "untuned": s.untuned,
        "open": s.open,
        "lingering": s.lingering,
        "received": s.received,
        "sent": s.sent,
        "buffered": s.buffered,
    }
    cdef int reason
    for reason in range(7):
        found["ended_" + _END_REASONS[reason]] = s.ended[reason]
    return found

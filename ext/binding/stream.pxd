# ext/core/stream.h for the binding; what it says holds here.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from loop cimport ka_backend, ka_id, ka_loop
from stillalive cimport ka_policy, ka_sock

cdef extern from "loop.h":
    int ka_loop_touch(ka_loop *loop, ka_id id)

cdef extern from "os.h":
    struct ka_os_peer:
        unsigned char address[16]
        uint32_t flow
        uint32_t scope
        uint16_t port
        uint8_t family

cdef extern from "stream.h":
    enum:
        KA_STREAM_WAIT
        KA_STREAM_ACCEPTED
        KA_STREAM_DATA
        KA_STREAM_FILL
        KA_STREAM_EOF
        KA_STREAM_WRITABLE
        KA_STREAM_LOST
        KA_STREAM_REFUSED
        KA_STREAM_INTERRUPTED
        KA_STREAM_OVER

    enum:
        KA_BY_PEER
        KA_BY_OWNER
        KA_BY_ERROR
        KA_BY_IDLE
        KA_BY_SHED
        KA_BY_AGE
        KA_BY_SHUTDOWN

    struct ka_conn:
        ka_id id
        ka_sock fd
        ka_os_peer peer
        void *user
        uint8_t own_buffer
        size_t buffered
        size_t high
        size_t low

    struct ka_stream_limits:
        int64_t idle_ms
        int64_t age_ms
        uint32_t max_connections
        const ka_policy *policy

    struct ka_stream_stats:
        uint64_t accepted
        uint64_t aborted_accepts
        uint64_t refused
        uint64_t untuned
        uint64_t received
        uint64_t sent
        uint64_t shed
        uint64_t ended[7]
        uint32_t open
        uint32_t lingering
        uint64_t buffered

    struct ka_stream:
        ka_loop loop
        ka_stream_stats stats

    struct ka_stream_event:
        int32_t kind
        int32_t reason
        int32_t error
        ka_conn *conn
        const char *data
        size_t size

    int ka_stream_init(ka_stream *stream, ka_sock listener,
                       const ka_stream_limits *limits,
                       const ka_backend *backend)
    void ka_stream_free(ka_stream *stream)
    int ka_stream_next(ka_stream *stream, ka_stream_event *event)
    void ka_stream_wait(ka_stream *stream) nogil
    int ka_stream_wake(ka_stream *stream)
    int ka_stream_close(ka_stream *stream, int64_t timeout_ms)
    int64_t ka_stream_receive(ka_stream *stream, ka_conn *conn, void *buffer,
                              size_t size)

    int ka_conn_write(ka_stream *stream, ka_conn *conn, const void *data,
                      size_t size)
    int ka_conn_write_eof(ka_stream *stream, ka_conn *conn)
    void ka_conn_close(ka_stream *stream, ka_conn *conn)
    void ka_conn_abort(ka_stream *stream, ka_conn *conn, int reason,
                       int error)
    int ka_conn_closing(const ka_conn *conn)
    int ka_conn_pause_reading(ka_stream *stream, ka_conn *conn)
    int ka_conn_resume_reading(ka_stream *stream, ka_conn *conn)
    int ka_conn_is_reading(const ka_conn *conn)
    int ka_conn_set_marks(ka_stream *stream, ka_conn *conn, size_t high,
                          size_t low)
    int ka_conn_set_idle(ka_stream *stream, ka_conn *conn, int64_t idle_ms)

/* stream.h - a small TCP server: accept, read, write, end; no Python.
 *
 * The owner pulls events one at a time with ka_stream_next and may call
 * anything else between two of them. Nothing is called back, so no callback
 * can pull the floor away from under a loop.
 *
 * A connection ends exactly once, by one KA_STREAM_LOST event with the
 * reason; after it the struct is dead to the owner, who must drop it. The
 * socket may live a little longer (lingering close, see conn.c).
 *
 * Threads: one owner. Any thread may call ka_stream_wake.
 */
#ifndef KA_STREAM_H
#define KA_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "loop.h"

enum ka_stream_kind {
    KA_STREAM_WAIT = 0,     /* nothing now: sleep, then next again */
    KA_STREAM_ACCEPTED = 1, /* a new conn; user is NULL, set it */
    KA_STREAM_DATA = 2,     /* data, size: valid until the next call */
    KA_STREAM_FILL = 3,     /* readable, conn->own_buffer: call receive */
    KA_STREAM_EOF = 4,      /* the peer has ended its sending side */
    KA_STREAM_WRITABLE = 5, /* buffered fell to the low mark after KA_HIGH */
    KA_STREAM_LOST = 6,     /* reason, error; conn is dead afterwards */
    KA_STREAM_REFUSED = 7,  /* accept failed (error); accepting rests */
    KA_STREAM_INTERRUPTED = 8, /* a signal came, or a wake: look around */
    KA_STREAM_OVER = 9         /* closed, and no connection is left */
};

enum ka_stream_reason {
    KA_BY_PEER = 0,    /* EOF from the peer, answered by ours */
    KA_BY_OWNER = 1,   /* close() or abort() */
    KA_BY_ERROR = 2,   /* errno in error */
    KA_BY_IDLE = 3,    /* idle_timeout */
    KA_BY_SHED = 4,    /* max_connections */
    KA_BY_AGE = 5,     /* max_age */
    KA_BY_SHUTDOWN = 6 /* close() of the server */
};

struct ka_chunk; /* one piece of unsent data */

struct ka_conn {
    ka_id id;     /* in the loop; the idle deadline */
    ka_id age_id; /* timer of max_age, 0 none */
    ka_sock fd;   /* open until LOST has been told */
    struct ka_os_peer peer;
    void *user; /* the owner's; not touched here */
    uint32_t flags;
    uint8_t state, reason;
    uint8_t interest;   /* what the poller is asked for */
    uint8_t own_buffer; /* set by the owner: FILL instead of DATA */
    int32_t error;
    size_t buffered;  /* unsent bytes */
    size_t high, low; /* water marks; default 64 KiB, 16 KiB */
    struct ka_chunk *first, *last;
    struct ka_conn *next, *previous; /* in `all` or in `lingering` */
    struct ka_conn *next_pending;    /* something is to be told of it */
    ka_tick lingers_since;
    uint64_t received, sent;
};

struct ka_stream_limits {
    int64_t idle_ms;          /* 0 none */
    int64_t age_ms;           /* 0 none; jitter takes up to a tenth off */
    uint32_t max_connections; /* 0 none */
    const struct ka_policy *policy; /* to be set on accepted sockets, or NULL
                                     * when they inherit */
};

struct ka_stream_stats {
    /* accepted == open + the sum of ended[] at any time */
    uint64_t accepted, aborted_accepts, refused, untuned, received, sent, shed,
        ended[7]; /* by enum ka_stream_reason */
    uint32_t open, lingering;
    uint64_t buffered;
};

struct ka_conn_list {
    struct ka_conn *first, *last;
};

/* Who has to go when one more comes, found out for many at a time. */
#define KA_VICTIMS 64
struct ka_victims {
    ka_id id[KA_VICTIMS];
    int next, count;
    ka_tick found; /* who spoke since is none any more */
};

struct ka_stream {
    struct ka_loop loop;
    ka_sock listener;
    ka_id listener_id, rest_id, linger_id, close_id;
    uint32_t flags;
    struct ka_policy policy;
    int has_policy;
    ka_tick idle_limit, age_limit;
    ka_tick close_by;
    uint32_t max_connections;
    struct ka_conn_list all;       /* but those that linger */
    struct ka_conn_list lingering; /* the oldest first */
    struct ka_conn *pending_first, *pending_last;
    struct ka_conn *told;   /* by the last event, that it is lost */
    int next_event, events; /* the loop's batch */
    int waited;             /* finish, not begin, comes next */
    int accepts_left;
    uint64_t wakes;  /* of the loop, told so far */
    uint64_t random; /* jitter */
    char *buffer;    /* one for all reads */
    size_t buffer_size;
    struct ka_victims victims;
    struct ka_stream_stats stats;
};
#define KA_READ_SIZE 65536

struct ka_stream_event {
    int32_t kind;
    int32_t reason, error;
    struct ka_conn *conn;
    const char *data;
    size_t size;
};

/* The listener must be listening and non-blocking; it stays the caller's
 * until this succeeds, then the stream closes it. */
int ka_stream_init(struct ka_stream *stream, ka_sock listener,
                   const struct ka_stream_limits *limits,
                   const struct ka_backend *backend);
/* Closes everything at once, without events. */
void ka_stream_free(struct ka_stream *stream);

/* enum ka_stream_kind, also in event->kind; -errno when the loop itself is
 * broken. KA_STREAM_WAIT: call ka_stream_wait (needs no lock), then next
 * again. */
int ka_stream_next(struct ka_stream *stream, struct ka_stream_event *event);
void ka_stream_wait(struct ka_stream *stream);
int ka_stream_wake(struct ka_stream *stream);

/* Accept no more; a connection that owes no answer ends now, the others when
 * they have answered, all after timeout_ms (< 0: no such bound). */
int ka_stream_close(struct ka_stream *stream, int64_t timeout_ms);

/* For KA_STREAM_FILL: receive into the owner's buffer. > 0 bytes; 0: EOF, an
 * EOF event follows; -EAGAIN: nothing after all; other: LOST follows. */
int64_t ka_stream_receive(struct ka_stream *stream, struct ka_conn *conn,
                          void *buffer, size_t size);

/* Send now what can be sent, keep the rest. 1 when the high mark was passed
 * by this call (tell the protocol to pause), 0 otherwise; -ENOMEM: nothing
 * of this call was taken; -EPIPE after write_eof; a broken connection is
 * told by LOST, not here. */
int ka_conn_write(struct ka_stream *stream, struct ka_conn *conn,
                  const void *data, size_t size);
int ka_conn_write_eof(struct ka_stream *stream, struct ka_conn *conn);
/* Send what is buffered, end, LOST (by_owner). Nothing is read any more. */
void ka_conn_close(struct ka_stream *stream, struct ka_conn *conn);
/* Drop everything, RST, LOST. */
void ka_conn_abort(struct ka_stream *stream, struct ka_conn *conn, int reason,
                   int error);
int ka_conn_closing(const struct ka_conn *conn);
int ka_conn_pause_reading(struct ka_stream *stream, struct ka_conn *conn);
int ka_conn_resume_reading(struct ka_stream *stream, struct ka_conn *conn);
int ka_conn_is_reading(const struct ka_conn *conn);
/* 1 when buffered is above the new high mark (tell pause), 2 when it had
 * been and is at or below the new low mark (WRITABLE follows). */
int ka_conn_set_marks(struct ka_stream *stream, struct ka_conn *conn,
                      size_t high, size_t low);
int ka_conn_set_idle(struct ka_stream *stream, struct ka_conn *conn,
                     int64_t idle_ms);

#endif

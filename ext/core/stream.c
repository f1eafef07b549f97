/* stream.c - what happens to the connections of a server, one event a call.
 *
 * What can go wrong, and how this file stops it:
 *
 * The owner acts between two events. A connection of the batch may be paused,
 * closed or freed before its turn comes. Every event is looked up by its id
 * again, and the state is asked before anything else. An idle one that was
 * spoken to meanwhile is no longer idle.
 *
 * One connection starves the others. Each readiness gets one recv and one
 * send; level-triggered polling brings it again. A listener gets KA_ACCEPTS.
 * What the batch has not had yet comes before the next look.
 *
 * Timers fail when memory is short. Those that must not are made at the
 * start and rest until they are needed.
 */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KA_LINGER_MS 2000
#define KA_GRACE_MS 10000 /* for an answer that is owed when age is over */
#define KA_FAINT (KA_NO_LIMIT - 1) /* no limit, but longest_idle sees it */
#define KA_LOOKED 1000             /* of look(): there are events */

/* ---- what is ready ------------------------------------------------------ */

static void count_received(struct ka_stream *stream, struct ka_conn *conn,
                           int64_t got) {
    conn->received += (uint64_t)got;
    stream->stats.received += (uint64_t)got;
    conn->flags |= KA_CONN_OWES;
}

static int read_some(struct ka_stream *stream, struct ka_conn *conn,
                     struct ka_stream_event *event) {
    int64_t got;

    event->conn = conn;
    if (conn->own_buffer)
        return KA_STREAM_FILL;
    got = ka_os_receive(conn->fd, stream->buffer, stream->buffer_size);
    if (got > 0) {
        count_received(stream, conn, got);
        event->data = stream->buffer;
        event->size = (size_t)got;
        return KA_STREAM_DATA;
    }
    if (got == 0) {
        ka_conn_peer_done(stream, conn);
        return KA_STREAM_EOF;
    }
    if (got != -EAGAIN)
        ka_conn_lose(stream, conn, KA_BY_ERROR, (int)-got);
    return 0;
}

int64_t ka_stream_receive(struct ka_stream *stream, struct ka_conn *conn,
                          void *buffer, size_t size) {
    int64_t got;

    if (!ka_conn_is_reading(conn) || size == 0)
        return -EAGAIN;
    got = ka_os_receive(conn->fd, buffer, size);
    if (got > 0) {
        count_received(stream, conn, got);
    } else if (got == 0) {
        ka_conn_queue(stream, conn, KA_CONN_TELL_EOF);
        ka_conn_peer_done(stream, conn);
    } else if (got != -EAGAIN) {
        ka_conn_lose(stream, conn, KA_BY_ERROR, (int)-got);
    }
    return got;
}

static void fell_idle(struct ka_stream *stream, struct ka_conn *conn) {
    ka_tick limit = ka_table_limit(&stream->loop.table, conn->id);
    int64_t idle_ms = ka_loop_idle_ms(&stream->loop, conn->id);

    if (idle_ms < (int64_t)limit * KA_TICK_MS)
        return;
    if (limit >= KA_FAINT) /* it has none: begin again */
        (void)ka_loop_set_limit(&stream->loop, conn->id, limit);
    else
        ka_conn_end(stream, conn, KA_BY_IDLE);
}

static int conn_ready(struct ka_stream *stream, struct ka_conn *conn,
                      uint32_t events, struct ka_stream_event *event) {
    int error;

    if (conn->state == KA_CONN_LINGERING) {
        ka_conn_drain(stream, conn);
        return 0;
    }
    if (events & KA_IDLENESS) {
        fell_idle(stream, conn);
        return 0;
    }
    if (events & (KA_BROKEN | KA_HANGUP)) {
        /* A reader hears of it by recv, after the last data. */
        if (ka_conn_is_reading(conn))
            return read_some(stream, conn, event);
        error = events & KA_BROKEN ? ka_os_pending_error(conn->fd) : 0;
        if (error > 0) {
            ka_conn_lose(stream, conn, KA_BY_ERROR, error);
            return 0;
        }
        events |= KA_WRITE;
    }
    if ((events & KA_WRITE) && conn->buffered > 0)
        ka_conn_flush(stream, conn);
    if ((events & KA_READ) && ka_conn_is_reading(conn))
        return read_some(stream, conn, event);
    return 0;
}

/* ---- timers ------------------------------------------------------------- */

static void aged(struct ka_stream *stream, struct ka_conn *conn) {
    ka_tick grace = ka_ms_ticks(KA_GRACE_MS);

    if (conn->flags & KA_CONN_AGED) {
        if (conn->buffered > 0)
            ka_conn_abort(stream, conn, KA_BY_AGE, 0);
        else
            ka_conn_end(stream, conn, KA_BY_AGE);
        return;
    }
    conn->flags |= KA_CONN_AGED;
    if (grace > stream->age_limit)
        grace = stream->age_limit;
    ka_start_timer(&stream->loop, conn->age_id, grace);
    ka_conn_leave(stream, conn, KA_BY_AGE);
}

void ka_stream_linger(struct ka_stream *stream) {
    const struct ka_conn *first = stream->lingering.first;
    ka_tick now = ka_clock_now(&stream->loop.clock);
    int32_t left;

    if (!first)
        return;
    left = ka_tick_since(first->lingers_since, now) +
           (int32_t)ka_ms_ticks(KA_LINGER_MS);
    ka_start_timer(&stream->loop, stream->linger_id,
                   left > 0 ? (ka_tick)left : 0);
}

static void lingered(struct ka_stream *stream) {
    ka_tick now = ka_clock_now(&stream->loop.clock);
    struct ka_conn *conn = stream->lingering.first;

    for (; conn; conn = stream->lingering.first) {
        if (ka_tick_since(now, conn->lingers_since) <
            (int32_t)ka_ms_ticks(KA_LINGER_MS))
            break;
        ka_conn_drop(stream, conn);
    }
    ka_stream_linger(stream);
}

static void cut_all(struct ka_stream *stream) {
    struct ka_conn *conn;

    while (stream->lingering.first)
        ka_conn_drop(stream, stream->lingering.first);
    for (conn = stream->all.first; conn; conn = conn->next)
        ka_conn_abort(stream, conn, KA_BY_SHUTDOWN, 0);
}

static void timer_due(struct ka_stream *stream, ka_id id) {
    if (id == stream->linger_id) {
        lingered(stream);
    } else if (id == stream->rest_id) {
        stream->flags &= ~(uint32_t)KA_STREAM_RESTING;
        ka_stream_listen(stream);
    } else if (id == stream->close_id) {
        cut_all(stream);
    }
}

/* ---- one event ---------------------------------------------------------- */

/* What waits to be told of one connection, in the order in which it came. */
static int tell(struct ka_stream *stream, struct ka_stream_event *event) {
    struct ka_conn *conn = stream->pending_first;
    uint32_t flags = conn->flags;
    int kind = 0;

    stream->pending_first = conn->next_pending;
    if (!stream->pending_first)
        stream->pending_last = NULL;
    conn->flags &=
        ~(uint32_t)(KA_CONN_QUEUED | KA_CONN_LOOK | KA_CONN_TELL_EOF |
                    KA_CONN_TELL_WRITABLE | KA_CONN_TELL_LOST);
    event->conn = conn;
    if (flags & KA_CONN_TELL_EOF) {
        kind = KA_STREAM_EOF;
        flags &= ~(uint32_t)KA_CONN_TELL_EOF;
    } else if ((flags & KA_CONN_TELL_WRITABLE) &&
               conn->buffered <= conn->low) {
        kind = KA_STREAM_WRITABLE; /* before LOST, if all has been sent */
        conn->flags &= ~(uint32_t)KA_CONN_HIGH;
        flags &= ~(uint32_t)KA_CONN_TELL_WRITABLE;
    } else if (flags & KA_CONN_TELL_LOST) {
        event->reason = conn->reason;
        event->error = conn->error;
        stream->told = conn;
        return KA_STREAM_LOST;
    } else if (flags & KA_CONN_LOOK) {
        ka_conn_may_leave(stream, conn);
        return 0;
    }
    flags &= KA_CONN_LOOK | KA_CONN_TELL_WRITABLE | KA_CONN_TELL_LOST;
    if (kind && flags)
        ka_conn_queue(stream, conn, flags);
    return kind;
}

static int take_event(struct ka_stream *stream,
                      struct ka_stream_event *event) {
    const struct ka_event *ready = &stream->loop.event[stream->next_event++];
    struct ka_conn *conn = ready->user;

    if (!ka_loop_entry(&stream->loop, ready->id))
        return 0;
    if (conn && ready->id == conn->id)
        return conn_ready(stream, conn, ready->events, event);
    if (conn)
        aged(stream, conn);
    else if (ready->id == stream->listener_id)
        stream->accepts_left = KA_ACCEPTS;
    else
        timer_due(stream, ready->id);
    return 0;
}

/* The next batch: KA_LOOKED, or what to return. */
static int look(struct ka_stream *stream) {
    struct ka_loop *loop = &stream->loop;
    int interrupted = stream->waited && loop->waited == -EINTR;
    int rc = stream->waited ? ka_loop_finish(loop) : ka_loop_begin(loop, -1);

    stream->waited = 0;
    stream->next_event = 0;
    stream->events = rc > 0 ? rc : 0;
    if (rc < 0 && rc != KA_LOOP_WAIT)
        return rc;
    if (interrupted || stream->wakes != loop->stats.wakes) {
        stream->wakes = loop->stats.wakes;
        return KA_STREAM_INTERRUPTED;
    }
    return rc > 0 ? KA_LOOKED : KA_STREAM_WAIT;
}

static int is_over(const struct ka_stream *stream) {
    return (stream->flags & KA_STREAM_CLOSED) && !stream->all.first &&
           !stream->lingering.first;
}

int ka_stream_next(struct ka_stream *stream, struct ka_stream_event *event) {
    int kind = 0;

    if (stream->told) {
        ka_conn_let_go(stream, stream->told);
        stream->told = NULL;
    }
    event->conn = NULL;
    event->data = NULL;
    event->size = 0;
    event->reason = event->error = 0;
    while (kind == 0) {
        if (stream->pending_first) {
            kind = tell(stream, event);
        } else if (stream->accepts_left > 0) {
            kind = ka_stream_accept(stream, event);
        } else if (stream->next_event < stream->events) {
            kind = take_event(stream, event);
        } else if (is_over(stream)) {
            kind = KA_STREAM_OVER;
        } else {
            kind = look(stream);
            if (kind == KA_STREAM_WAIT)
                break;
            if (kind == KA_LOOKED)
                kind = 0;
        }
    }
    if (kind == KA_STREAM_WAIT || kind > KA_STREAM_LOST)
        event->conn = NULL;
    event->kind = kind;
    return kind;
}

void ka_stream_wait(struct ka_stream *stream) {
    ka_loop_wait(&stream->loop);
    stream->waited = 1;
}

int ka_stream_wake(struct ka_stream *stream) {
    return ka_loop_wake(&stream->loop);
}

/* ---- birth and end ------------------------------------------------------ */

int ka_stream_idle_limit(const struct ka_stream *stream, int64_t idle_ms,
                         ka_tick *out) {
    int64_t limit;

    if (idle_ms < 0)
        return -EINVAL;
    if (idle_ms == 0) {
        *out = stream->max_connections > 0 ? KA_FAINT : KA_NO_LIMIT;
        return 0;
    }
    limit = ka_clock_ticks(idle_ms);
    if (limit < 0)
        return (int)limit;
    *out = limit < KA_FAINT ? (ka_tick)limit : KA_FAINT - 1;
    return 0;
}

static int take_limits(struct ka_stream *stream,
                       const struct ka_stream_limits *limits) {
    int64_t age = 0;

    stream->max_connections = limits->max_connections;
    if (limits->policy) {
        stream->policy = *limits->policy;
        stream->has_policy = 1;
    }
    if (limits->age_ms < 0)
        return -EINVAL;
    if (limits->age_ms > 0)
        age = ka_clock_ticks(limits->age_ms);
    if (age < 0)
        return (int)age;
    stream->age_limit = age < KA_FAINT ? (ka_tick)age : KA_FAINT;
    return ka_stream_idle_limit(stream, limits->idle_ms, &stream->idle_limit);
}

static int resting_timer(struct ka_loop *loop, ka_id *out) {
    int rc =
        ka_loop_add(loop, KA_NO_FD, 0, ka_ms_ticks(KA_REST_MS), NULL, out);

    if (rc >= 0)
        (void)ka_loop_pause(loop, *out);
    return rc;
}

static int open_parts(struct ka_stream *stream) {
    struct ka_loop *loop = &stream->loop;
    int rc;

    stream->buffer_size = KA_READ_SIZE;
    stream->buffer = malloc(stream->buffer_size);
    if (!stream->buffer)
        return -ENOMEM;
    rc = resting_timer(loop, &stream->rest_id);
    if (rc >= 0)
        rc = resting_timer(loop, &stream->linger_id);
    if (rc >= 0)
        rc = resting_timer(loop, &stream->close_id);
    if (rc >= 0)
        rc = ka_loop_add(loop, stream->listener, KA_READ, KA_NO_LIMIT, NULL,
                         &stream->listener_id);
    return rc < 0 ? rc : 0;
}

int ka_stream_init(struct ka_stream *stream, ka_sock listener,
                   const struct ka_stream_limits *limits,
                   const struct ka_backend *backend) {
    int rc;

    memset(stream, 0, sizeof *stream);
    stream->listener = listener;
    rc = take_limits(stream, limits);
    if (rc < 0)
        return rc;
    rc = ka_loop_init(&stream->loop, backend);
    if (rc < 0)
        return rc;
    rc = open_parts(stream);
    if (rc < 0) {
        ka_loop_close(&stream->loop);
        free(stream->buffer);
        stream->buffer = NULL;
        return rc;
    }
    ka_os_no_delay(listener);
    stream->random = (uint64_t)ka_os_now_ms() * UINT64_C(0x9E3779B97F4A7C15);
    stream->random ^= (uint64_t)(uintptr_t)stream;
    stream->random |= 1;
    return 0;
}

static void free_list(struct ka_stream *stream, struct ka_conn_list *list) {
    struct ka_conn *conn = list->first, *next;

    for (; conn; conn = next) {
        next = conn->next;
        ka_conn_free(stream, conn);
    }
    list->first = list->last = NULL;
}

static void stop_listening(struct ka_stream *stream) {
    if (stream->flags & KA_STREAM_CLOSED)
        return;
    stream->flags |= KA_STREAM_CLOSED;
    stream->accepts_left = 0;
    (void)ka_loop_remove(&stream->loop, stream->listener_id);
    ka_os_close(stream->listener);
    stream->listener = KA_NO_FD;
}

void ka_stream_free(struct ka_stream *stream) {
    if (!stream->buffer)
        return;
    free_list(stream, &stream->all);
    free_list(stream, &stream->lingering);
    stream->pending_first = stream->pending_last = stream->told = NULL;
    stop_listening(stream);
    ka_loop_close(&stream->loop);
    free(stream->buffer);
    stream->buffer = NULL;
}

/* Of several times the first to come counts. */
static void close_within(struct ka_stream *stream, ka_tick limit) {
    ka_tick until = ka_clock_now(&stream->loop.clock) + limit;

    if ((stream->flags & KA_STREAM_TIMED) &&
        ka_tick_since(until, stream->close_by) >= 0)
        return;
    stream->flags |= KA_STREAM_TIMED;
    stream->close_by = until;
    ka_start_timer(&stream->loop, stream->close_id, limit);
}

int ka_stream_close(struct ka_stream *stream, int64_t timeout_ms) {
    int64_t limit = timeout_ms < 0 ? 0 : ka_clock_ticks(timeout_ms);
    struct ka_conn *conn, *next;

    if (limit < 0)
        return (int)limit;
    stop_listening(stream);
    if (timeout_ms == 0) /* before those that owe nothing part in peace */
        cut_all(stream);
    for (conn = stream->all.first; conn; conn = next) {
        next = conn->next;
        ka_conn_leave(stream, conn, KA_BY_SHUTDOWN);
    }
    if (timeout_ms > 0)
        close_within(stream, (ka_tick)limit);
    return 0;
}

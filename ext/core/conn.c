/* conn.c - one connection: what it has not sent yet, and how it ends.
 *
 * What can go wrong, and how this file stops it:
 *
 * The tail of an answer is lost. A socket that is closed while input waits
 * unread makes the kernel send RST, and the peer's kernel then throws away
 * what its program has not read yet. So a graceful end is: flush, FIN, and
 * the socket lingers without an owner. What comes is read and thrown away
 * until the peer's FIN, an error, or KA_LINGER_MS. The owner is told of the
 * end before that, and need not wait for it.
 *
 * The floor is pulled away. An error found while sending is told by an event
 * later, never by a callback out of write. Until LOST has been pulled, and
 * the call after that, the struct stays; whatever the owner does to it
 * meanwhile does nothing, because the state says that it is over.
 *
 * LOST twice, or never. lost() is the only place that queues it, behind the
 * states OPEN and FLUSHING, which it ends.
 *
 * A ready descriptor that nobody wants. A paused reader with data, or one
 * that has read EOF, would be reported for ever. With neither READ nor WRITE
 * wanted the descriptor leaves the poller, so that HUP and ERR cannot spin.
 *
 * Unsent bytes are called idle. The deadline is paused as long as there are
 * any, and starts anew with the last of them. What was sent counts as
 * activity.
 *
 * Half an answer. One that is to leave when it owes nothing is looked at in
 * the next ka_stream_next, not in the write that pays: a second write of the
 * same callback belongs to the answer.
 *
 * Memory runs out. With nothing sent yet a write is refused whole. When the
 * kernel has taken a part, the rest cannot be refused any more: the
 * connection ends by that error.
 */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KA_HIGH_MARK 65536
#define KA_CHUNK_SIZE 16384 /* at least, so that small writes share one */
#define KA_SLICES 16        /* chunks to a call */
#define KA_GLANCE 1024      /* bytes read to see whether FIN is there */

struct ka_chunk {
    struct ka_chunk *next;
    size_t start, end, room;
    char data[];
};

/* ---- birth and death ---------------------------------------------------- */

static uint32_t jitter(struct ka_stream *stream) {
    stream->random ^= stream->random << 13;
    stream->random ^= stream->random >> 7;
    stream->random ^= stream->random << 17;
    return (uint32_t)(stream->random >> 32);
}

static int start_age(struct ka_stream *stream, struct ka_conn *conn) {
    ka_tick limit = stream->age_limit;

    if (limit == 0)
        return 0;
    limit -= (ka_tick)(((uint64_t)limit * jitter(stream) / 10) >> 32);
    return ka_loop_add(&stream->loop, KA_NO_FD, 0, limit, conn, &conn->age_id);
}

int ka_conn_new(struct ka_stream *stream, ka_sock sock, struct ka_conn **out) {
    struct ka_conn *conn = calloc(1, sizeof *conn);
    int rc;

    if (!conn)
        return -ENOMEM;
    conn->fd = sock;
    conn->high = KA_HIGH_MARK;
    conn->low = KA_HIGH_MARK / 4;
    rc = start_age(stream, conn);
    if (rc >= 0)
        rc = ka_loop_add(&stream->loop, sock, KA_READ, stream->idle_limit,
                         conn, &conn->id);
    if (rc < 0) {
        (void)ka_loop_remove(&stream->loop, conn->age_id);
        free(conn);
        return rc;
    }
    conn->interest = KA_READ;
    ka_list_add(&stream->all, conn);
    stream->stats.accepted++;
    stream->stats.open++;
    *out = conn;
    return 0;
}

static void forget_unsent(struct ka_stream *stream, struct ka_conn *conn) {
    struct ka_chunk *next;

    for (; conn->first; conn->first = next) {
        next = conn->first->next;
        free(conn->first);
    }
    conn->last = NULL;
    stream->stats.buffered -= conn->buffered;
    conn->buffered = 0;
}

/* Until the owner knows of the end the number stays taken: who still looks at
 * conn->fd must not reach the next connection that would get it. */
static void give_back(struct ka_conn *conn) {
    if (conn->fd != KA_NO_FD)
        ka_os_close(conn->fd);
    conn->fd = KA_NO_FD;
}

static void close_socket(struct ka_stream *stream, struct ka_conn *conn) {
    (void)ka_loop_remove(&stream->loop, conn->id);
    (void)ka_loop_remove(&stream->loop, conn->age_id);
    if (conn->flags & KA_CONN_TOLD)
        give_back(conn);
    conn->interest = 0;
    conn->state = KA_CONN_GONE;
    forget_unsent(stream, conn);
}

void ka_conn_free(struct ka_stream *stream, struct ka_conn *conn) {
    if (conn->state != KA_CONN_GONE)
        close_socket(stream, conn);
    give_back(conn);
    free(conn);
}

void ka_conn_drop(struct ka_stream *stream, struct ka_conn *conn) {
    ka_list_take(&stream->lingering, conn);
    ka_list_add(&stream->all, conn);
    stream->stats.lingering--;
    close_socket(stream, conn);
    ka_stream_has_room(stream);
    if (conn->flags & KA_CONN_TOLD)
        ka_conn_let_go(stream, conn);
}

void ka_conn_let_go(struct ka_stream *stream, struct ka_conn *conn) {
    conn->user = NULL;
    conn->flags |= KA_CONN_TOLD;
    if (conn->state != KA_CONN_GONE)
        return;
    ka_list_take(&stream->all, conn);
    give_back(conn);
    free(conn);
}

/* ---- what is to be told ------------------------------------------------- */

void ka_conn_queue(struct ka_stream *stream, struct ka_conn *conn,
                   uint32_t what) {
    conn->flags |= what;
    if (conn->flags & KA_CONN_QUEUED)
        return;
    conn->flags |= KA_CONN_QUEUED;
    conn->next_pending = NULL;
    if (stream->pending_last)
        stream->pending_last->next_pending = conn;
    else
        stream->pending_first = conn;
    stream->pending_last = conn;
}

static void lost(struct ka_stream *stream, struct ka_conn *conn, int reason,
                 int error) {
    conn->reason = (uint8_t)reason;
    conn->error = error;
    stream->stats.open--;
    stream->stats.ended[reason]++;
    ka_conn_queue(stream, conn, KA_CONN_TELL_LOST);
}

void ka_conn_lose(struct ka_stream *stream, struct ka_conn *conn, int reason,
                  int error) {
    if (conn->state == KA_CONN_LINGERING) {
        ka_conn_drop(stream, conn); /* and maybe freed */
        return;
    }
    if (conn->state == KA_CONN_GONE)
        return;
    if (reason != KA_BY_PEER) /* what was unsent will not be */
        conn->flags &= ~(uint32_t)KA_CONN_TELL_WRITABLE;
    lost(stream, conn, reason, error);
    close_socket(stream, conn);
    ka_stream_has_room(stream);
}

/* ---- what the poller is asked for --------------------------------------- */

static uint32_t wanted(const struct ka_conn *conn) {
    uint32_t events = conn->buffered > 0 ? KA_WRITE : 0;

    if (conn->state == KA_CONN_LINGERING ||
        (conn->state == KA_CONN_OPEN &&
         !(conn->flags & (KA_CONN_PAUSED | KA_CONN_PEER_DONE))))
        events |= KA_READ;
    return events;
}

/* A connection that cannot be polled any more would hang for ever. */
static int set_interest(struct ka_stream *stream, struct ka_conn *conn) {
    uint32_t events = wanted(conn);
    int rc;

    if (events == conn->interest)
        return 0;
    rc = ka_loop_modify(&stream->loop, conn->id, events);
    if (rc < 0) {
        ka_conn_lose(stream, conn, KA_BY_ERROR, -rc);
        return rc;
    }
    conn->interest = (uint8_t)events;
    return 0;
}

/* ---- the end ------------------------------------------------------------ */

/* Whether the peer's end, or an error, is all that is left to read. The
 * stream's buffer may hold what the owner looks at right now. */
static int nothing_to_wait_for(const struct ka_conn *conn) {
    char glance[KA_GLANCE];
    int64_t got;

    if (conn->flags & KA_CONN_PEER_DONE)
        return 1;
    got = ka_os_receive(conn->fd, glance, sizeof glance);
    return got == 0 || (got < 0 && got != -EAGAIN);
}

static void linger(struct ka_stream *stream, struct ka_conn *conn) {
    (void)ka_loop_remove(&stream->loop, conn->age_id);
    conn->age_id = 0;
    (void)ka_loop_pause(&stream->loop, conn->id);
    conn->state = KA_CONN_LINGERING;
    conn->lingers_since = ka_clock_now(&stream->loop.clock);
    ka_list_take(&stream->all, conn);
    ka_list_add(&stream->lingering, conn);
    if (++stream->stats.lingering == 1)
        ka_stream_linger(stream);
    (void)set_interest(stream, conn);
}

/* Everything is with the kernel. */
static void part(struct ka_stream *stream, struct ka_conn *conn) {
    int rc = 0;

    lost(stream, conn, conn->reason, 0);
    if (!(conn->flags & KA_CONN_SHUT))
        rc = ka_os_shut_write(conn->fd);
    conn->flags |= KA_CONN_SHUT;
    if (rc < 0 || nothing_to_wait_for(conn))
        close_socket(stream, conn);
    else
        linger(stream, conn);
    ka_stream_has_room(stream);
}

void ka_conn_end(struct ka_stream *stream, struct ka_conn *conn, int reason) {
    if (conn->state != KA_CONN_OPEN)
        return;
    if (reason == KA_BY_OWNER && (conn->flags & KA_CONN_PEER_DONE))
        reason = KA_BY_PEER;
    conn->state = KA_CONN_FLUSHING;
    conn->reason = (uint8_t)reason;
    conn->flags &= ~(uint32_t)KA_CONN_TELL_EOF;
    if (conn->buffered > 0)
        (void)set_interest(stream, conn);
    else
        part(stream, conn);
}

/* Our FIN; with the peer's it is the end. */
static void shut(struct ka_stream *stream, struct ka_conn *conn) {
    int rc = ka_os_shut_write(conn->fd);

    conn->flags |= KA_CONN_SHUT;
    if (rc < 0)
        ka_conn_lose(stream, conn, KA_BY_ERROR, -rc);
    else if (conn->flags & KA_CONN_PEER_DONE)
        ka_conn_lose(stream, conn, KA_BY_PEER, 0);
}

void ka_conn_peer_done(struct ka_stream *stream, struct ka_conn *conn) {
    conn->flags |= KA_CONN_PEER_DONE;
    if (conn->flags & KA_CONN_SHUT)
        ka_conn_lose(stream, conn, KA_BY_PEER, 0);
    else
        (void)set_interest(stream, conn);
}

void ka_conn_may_leave(struct ka_stream *stream, struct ka_conn *conn) {
    if ((conn->flags & KA_CONN_LEAVING) && !(conn->flags & KA_CONN_OWES) &&
        conn->buffered == 0)
        ka_conn_end(stream, conn, conn->reason);
}

void ka_conn_leave(struct ka_stream *stream, struct ka_conn *conn,
                   int reason) {
    if (conn->state != KA_CONN_OPEN)
        return;
    conn->flags |= KA_CONN_LEAVING;
    conn->reason = (uint8_t)reason;
    ka_conn_may_leave(stream, conn);
}

void ka_conn_drain(struct ka_stream *stream, struct ka_conn *conn) {
    int64_t got = ka_os_receive(conn->fd, stream->buffer, stream->buffer_size);

    if (got == 0 || (got < 0 && got != -EAGAIN))
        ka_conn_drop(stream, conn);
}

/* ---- unsent bytes ------------------------------------------------------- */

/* All of it or nothing. */
static int keep(struct ka_conn *conn, const char *data, size_t size) {
    struct ka_chunk *last = conn->last, *chunk;
    size_t fits = last ? last->room - last->end : 0;
    size_t room;

    if (fits > size)
        fits = size;
    if (fits < size) {
        room = size - fits;
        if (room < KA_CHUNK_SIZE)
            room = KA_CHUNK_SIZE;
        if (room > SIZE_MAX / 2)
            return -ENOMEM;
        chunk = malloc(sizeof *chunk + room);
        if (!chunk)
            return -ENOMEM;
        chunk->next = NULL;
        chunk->start = 0;
        chunk->end = size - fits;
        chunk->room = room;
        memcpy(chunk->data, data + fits, size - fits);
        if (last)
            last->next = chunk;
        else
            conn->first = chunk;
        conn->last = chunk;
    }
    if (fits > 0) {
        memcpy(last->data + last->end, data, fits);
        last->end += fits;
    }
    return 0;
}

static void count_sent(struct ka_stream *stream, struct ka_conn *conn,
                       size_t sent) {
    conn->sent += sent;
    stream->stats.sent += sent;
}

static void take_sent(struct ka_stream *stream, struct ka_conn *conn,
                      size_t sent) {
    struct ka_chunk *chunk;
    size_t part;

    count_sent(stream, conn, sent);
    conn->buffered -= sent;
    stream->stats.buffered -= sent;
    while (sent > 0) {
        chunk = conn->first;
        part = chunk->end - chunk->start;
        if (part > sent) {
            chunk->start += sent;
            return;
        }
        sent -= part;
        conn->first = chunk->next;
        if (!conn->first)
            conn->last = NULL;
        free(chunk);
    }
}

static void drained(struct ka_stream *stream, struct ka_conn *conn) {
    if (conn->state == KA_CONN_FLUSHING) {
        part(stream, conn);
        return;
    }
    if (set_interest(stream, conn) < 0)
        return;
    (void)ka_loop_resume(&stream->loop, conn->id);
    ka_stream_has_room(stream);
    if (conn->flags & KA_CONN_LEAVING)
        ka_conn_queue(stream, conn, KA_CONN_LOOK);
    if (conn->flags & KA_CONN_LAST_WORD)
        shut(stream, conn);
}

/* One call for each readiness: it comes again, and others wait. */
void ka_conn_flush(struct ka_stream *stream, struct ka_conn *conn) {
    struct ka_os_slice slices[KA_SLICES];
    const struct ka_chunk *chunk;
    int64_t sent;
    int count = 0;

    for (chunk = conn->first; chunk && count < KA_SLICES; count++) {
        slices[count].data = chunk->data + chunk->start;
        slices[count].size = chunk->end - chunk->start;
        chunk = chunk->next;
    }
    if (count == 0)
        return;
    sent = ka_os_send(conn->fd, slices, count);
    if (sent == -EAGAIN)
        return;
    if (sent < 0) {
        ka_conn_lose(stream, conn, KA_BY_ERROR, (int)-sent);
        return;
    }
    take_sent(stream, conn, (size_t)sent);
    if ((conn->flags & KA_CONN_HIGH) && conn->buffered <= conn->low)
        ka_conn_queue(stream, conn, KA_CONN_TELL_WRITABLE);
    if (conn->buffered == 0)
        drained(stream, conn);
}

static int rose_above(struct ka_conn *conn) {
    if (conn->buffered <= conn->high || (conn->flags & KA_CONN_HIGH))
        return 0;
    conn->flags |= KA_CONN_HIGH;
    return 1;
}

/* The kernel has taken `sent` of it, and no more just now. */
static int buffer(struct ka_stream *stream, struct ka_conn *conn,
                  const char *data, size_t size, size_t sent) {
    size_t before = conn->buffered;
    int rc = keep(conn, data + sent, size - sent);

    if (rc < 0 && sent == 0)
        return rc;
    if (rc < 0) {
        ka_conn_abort(stream, conn, KA_BY_ERROR, -rc);
        return 0;
    }
    conn->buffered += size - sent;
    stream->stats.buffered += size - sent;
    if (before == 0) {
        (void)ka_loop_pause(&stream->loop, conn->id);
        if (set_interest(stream, conn) < 0)
            return 0;
    }
    return rose_above(conn);
}

/* ---- what the owner calls ----------------------------------------------- */

int ka_conn_write(struct ka_stream *stream, struct ka_conn *conn,
                  const void *data, size_t size) {
    struct ka_os_slice slice = {data, size};
    int64_t sent = 0;
    int rc = 0;

    if (conn->state != KA_CONN_OPEN)
        return 0;
    if (conn->flags & KA_CONN_LAST_WORD)
        return -EPIPE;
    if (size == 0)
        return 0;
    if (conn->buffered == 0) {
        sent = ka_os_send(conn->fd, &slice, 1);
        if (sent == -EAGAIN)
            sent = 0;
        if (sent < 0) {
            ka_conn_lose(stream, conn, KA_BY_ERROR, (int)-sent);
            return 0;
        }
        count_sent(stream, conn, (size_t)sent);
        (void)ka_loop_touch(&stream->loop, conn->id);
    }
    if ((size_t)sent < size)
        rc = buffer(stream, conn, data, size, (size_t)sent);
    if (rc < 0 || conn->state != KA_CONN_OPEN)
        return rc;
    conn->flags &= ~(uint32_t)KA_CONN_OWES;
    if (conn->flags & KA_CONN_LEAVING)
        ka_conn_queue(stream, conn, KA_CONN_LOOK);
    return rc;
}

int ka_conn_write_eof(struct ka_stream *stream, struct ka_conn *conn) {
    if (conn->state != KA_CONN_OPEN || (conn->flags & KA_CONN_LAST_WORD))
        return 0;
    conn->flags |= KA_CONN_LAST_WORD;
    conn->flags &= ~(uint32_t)KA_CONN_OWES;
    if (conn->flags & KA_CONN_LEAVING)
        ka_conn_queue(stream, conn, KA_CONN_LOOK);
    if (conn->buffered == 0)
        shut(stream, conn);
    return 0;
}

void ka_conn_close(struct ka_stream *stream, struct ka_conn *conn) {
    ka_conn_end(stream, conn, KA_BY_OWNER);
}

void ka_conn_abort(struct ka_stream *stream, struct ka_conn *conn, int reason,
                   int error) {
    if (conn->state >= KA_CONN_LINGERING)
        return;
    conn->flags &= ~(uint32_t)KA_CONN_TELL_EOF;
    ka_os_reset_on_close(conn->fd);
    ka_conn_lose(stream, conn, reason, error);
}

int ka_conn_closing(const struct ka_conn *conn) {
    return conn->state != KA_CONN_OPEN;
}

int ka_conn_pause_reading(struct ka_stream *stream, struct ka_conn *conn) {
    if (conn->state != KA_CONN_OPEN)
        return 0;
    conn->flags |= KA_CONN_PAUSED;
    return set_interest(stream, conn);
}

int ka_conn_resume_reading(struct ka_stream *stream, struct ka_conn *conn) {
    if (conn->state != KA_CONN_OPEN)
        return 0;
    conn->flags &= ~(uint32_t)KA_CONN_PAUSED;
    return set_interest(stream, conn);
}

int ka_conn_is_reading(const struct ka_conn *conn) {
    return conn->state == KA_CONN_OPEN &&
           !(conn->flags & (KA_CONN_PAUSED | KA_CONN_PEER_DONE));
}

int ka_conn_set_marks(struct ka_stream *stream, struct ka_conn *conn,
                      size_t high, size_t low) {
    if (low > high)
        return -EINVAL;
    conn->high = high;
    conn->low = low;
    if (conn->state != KA_CONN_OPEN)
        return 0;
    if (rose_above(conn))
        return 1;
    if (!(conn->flags & KA_CONN_HIGH) || conn->buffered > low)
        return 0;
    ka_conn_queue(stream, conn, KA_CONN_TELL_WRITABLE);
    return 2;
}

int ka_conn_set_idle(struct ka_stream *stream, struct ka_conn *conn,
                     int64_t idle_ms) {
    ka_tick limit;
    int rc = ka_stream_idle_limit(stream, idle_ms, &limit);

    if (rc < 0 || conn->state != KA_CONN_OPEN)
        return rc < 0 ? rc : 0;
    (void)ka_loop_set_limit(&stream->loop, conn->id, limit);
    return 0;
}

/* accept.c - who comes in, and who has to go for it.
 *
 * What can go wrong, and how this file stops it:
 *
 * A listener that cannot accept. Out of descriptors or memory, the waiting
 * connection stays in the queue and would be reported for ever. It is told
 * once, the listener rests KA_REST_MS, and the oldest lingering socket goes.
 * A connection that broke while it waited is counted and skipped.
 *
 * Too many. Before one more is accepted a lingering socket goes, or else the
 * longest idle connection. Only when the poller says that one waits, or
 * somebody would be sent away for nobody. Those with unsent bytes are busy;
 * with none but busy ones the listener leaves the poller until one ends or
 * has sent everything.
 */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>

#include "sockopt.h"

/* ---- the listener ------------------------------------------------------- */

void ka_stream_listen(struct ka_stream *stream) {
    uint32_t off = KA_STREAM_CLOSED | KA_STREAM_FULL | KA_STREAM_RESTING;
    uint32_t events = stream->flags & off ? 0 : KA_READ;

    if (stream->flags & KA_STREAM_CLOSED)
        return;
    if (ka_loop_modify(&stream->loop, stream->listener_id, events) >= 0)
        return;
    stream->flags |= KA_STREAM_RESTING; /* and try again */
    ka_start_timer(&stream->loop, stream->rest_id, ka_ms_ticks(KA_REST_MS));
}

void ka_stream_has_room(struct ka_stream *stream) {
    if (!(stream->flags & KA_STREAM_FULL))
        return;
    stream->flags &= ~(uint32_t)KA_STREAM_FULL;
    ka_stream_listen(stream);
}

static int is_full(const struct ka_stream *stream) {
    return stream->max_connections > 0 &&
           stream->stats.open + stream->stats.lingering >=
               stream->max_connections;
}

/* The connection that an id means, if it can be sent away. */
static struct ka_conn *idle_conn(struct ka_stream *stream, ka_id id) {
    const struct ka_entry *entry = ka_loop_entry(&stream->loop, id);
    struct ka_conn *conn = entry ? entry->user : NULL;

    if (!conn || conn->id != id || conn->state != KA_CONN_OPEN ||
        conn->buffered > 0)
        return NULL;
    return conn;
}

/* The table holds the timers of max_age too: ask for more until there is a
 * connection among them. */
static int find_victims(struct ka_stream *stream) {
    struct ka_victims *victims = &stream->victims;
    int room = KA_VICTIMS, found, i;
    ka_id *ids;

    victims->next = victims->count = 0;
    victims->found = ka_clock_now(&stream->loop.clock);
    do {
        ids = malloc((size_t)room * sizeof *ids);
        if (!ids)
            return 0;
        found = ka_loop_longest_idle(&stream->loop, ids, room);
        for (i = 0; i < found && victims->count < KA_VICTIMS; i++) {
            if (idle_conn(stream, ids[i]))
                victims->id[victims->count++] = ids[i];
        }
        free(ids);
        if (found < room || room > INT32_MAX / 16)
            break;
        room *= 8;
    } while (victims->count == 0);
    return victims->count;
}

/* Who has not spoken since they were found is the longest idle still. */
static struct ka_conn *next_victim(struct ka_stream *stream) {
    struct ka_victims *victims = &stream->victims;
    ka_tick now = ka_clock_now(&stream->loop.clock);
    int64_t since = (int64_t)(ka_tick)(now - victims->found);
    struct ka_conn *conn;
    ka_id id;

    while (victims->next < victims->count) {
        id = victims->id[victims->next++];
        conn = idle_conn(stream, id);
        if (conn && ka_table_idle(&stream->loop.table, id, now) >= since)
            return conn;
    }
    return NULL;
}

static int make_room(struct ka_stream *stream) {
    struct ka_conn *conn;

    while (is_full(stream) && stream->lingering.first)
        ka_conn_drop(stream, stream->lingering.first);
    if (!is_full(stream))
        return 1;
    conn = next_victim(stream);
    if (!conn && find_victims(stream) > 0)
        conn = next_victim(stream);
    if (!conn)
        return 0;
    stream->stats.shed++;
    ka_conn_end(stream, conn, KA_BY_SHED);
    return 1;
}

/* ---- accept ------------------------------------------------------------- */

/* The connection was broken before we had it; the next may be whole. */
static int is_aborted(int error) {
    switch (error) {
        case ECONNABORTED:
        case ECONNRESET:
        case EPROTO:
        case EPERM:
        case EINTR:
        case ETIMEDOUT:
        case ENETDOWN:
        case ENETUNREACH:
        case EHOSTUNREACH:
        case ENOPROTOOPT:
        case EOPNOTSUPP:
#ifdef EHOSTDOWN
        case EHOSTDOWN:
#endif
#ifdef ENONET
        case ENONET:
#endif
            return 1;
        default:
            return 0;
    }
}

static int adopt(struct ka_stream *stream, ka_sock sock,
                 const struct ka_os_peer *peer, struct ka_conn **out) {
    struct ka_fault fault;
    int rc;

    if (stream->has_policy &&
        ka_apply_fresh(sock, &stream->policy, &fault) < 0)
        stream->stats.untuned++;
    rc = ka_conn_new(stream, sock, out);
    if (rc < 0)
        ka_os_close(sock);
    else
        (*out)->peer = *peer;
    return rc;
}

static int refuse(struct ka_stream *stream, int error,
                  struct ka_stream_event *event) {
    stream->stats.refused++;
    stream->accepts_left = 0;
    stream->flags |= KA_STREAM_RESTING;
    ka_stream_listen(stream);
    ka_start_timer(&stream->loop, stream->rest_id, ka_ms_ticks(KA_REST_MS));
    if (stream->flags & KA_STREAM_REFUSING)
        return 0;
    stream->flags |= KA_STREAM_REFUSING;
    event->error = error;
    return KA_STREAM_REFUSED;
}

int ka_stream_accept(struct ka_stream *stream, struct ka_stream_event *event) {
    struct ka_os_peer peer;
    ka_sock sock;
    int rc;

    if (is_full(stream) &&
        (stream->accepts_left < KA_ACCEPTS || !make_room(stream))) {
        if (stream->accepts_left == KA_ACCEPTS) {
            stream->flags |= KA_STREAM_FULL;
            ka_stream_listen(stream);
        }
        stream->accepts_left = 0;
        return 0;
    }
    stream->accepts_left--;
    rc = ka_os_accept(stream->listener, &sock, &peer);
    if (rc == 0)
        rc = adopt(stream, sock, &peer, &event->conn);
    if (rc == 0) {
        stream->flags &= ~(uint32_t)KA_STREAM_REFUSING;
        return KA_STREAM_ACCEPTED;
    }
    if (rc == -EAGAIN) {
        stream->accepts_left = 0;
        return 0;
    }
    if (is_aborted(-rc)) {
        stream->stats.aborted_accepts++;
        return 0;
    }
    if (stream->lingering.first) {
        ka_conn_drop(stream, stream->lingering.first);
        return 0;
    }
    return refuse(stream, -rc, event);
}

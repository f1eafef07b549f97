/* conn.h - what stream.c and conn.c need of each other.
 *
 * stream.c finds out what happens and in which order it is told; conn.c is
 * what one connection holds, sends, and how it ends.
 *
 * Threads: the stream's owner.
 */
#ifndef KA_CONN_H
#define KA_CONN_H

#include <stddef.h>
#include <stdint.h>

#include "stream.h"

enum ka_conn_state {
    KA_CONN_OPEN = 0,
    KA_CONN_FLUSHING = 1,  /* ends when the unsent bytes have gone */
    KA_CONN_LINGERING = 2, /* lost; the kernel still sends our last bytes */
    KA_CONN_GONE = 3       /* lost; the socket is closed */
};

enum ka_conn_flag {
    KA_CONN_PAUSED = 1,    /* by the owner: not reading */
    KA_CONN_PEER_DONE = 2, /* EOF was read */
    KA_CONN_LAST_WORD = 4, /* write_eof was called */
    KA_CONN_SHUT = 8,      /* our FIN is with the kernel */
    KA_CONN_HIGH = 16,     /* the high mark was told, the low one not yet */
    KA_CONN_OWES = 32,     /* it has read since it wrote last */
    KA_CONN_LEAVING = 64,  /* to end, for `reason`, when it owes nothing */
    KA_CONN_AGED = 128,    /* max_age is over, a last delay runs */
    /* pending, and for what */
    KA_CONN_QUEUED = 256,
    KA_CONN_TELL_EOF = 512,
    KA_CONN_TELL_WRITABLE = 1024,
    KA_CONN_LOOK = 2048, /* whether it may leave now */
    KA_CONN_TELL_LOST = 4096,
    KA_CONN_TOLD = 8192 /* lost; the owner has let go of the struct */
};

enum ka_stream_flag {
    KA_STREAM_CLOSED = 1,   /* ka_stream_close was called */
    KA_STREAM_FULL = 2,     /* not accepting: max_connections, all busy */
    KA_STREAM_RESTING = 4,  /* not accepting: no descriptors or memory */
    KA_STREAM_REFUSING = 8, /* that has been told */
    KA_STREAM_TIMED = 16    /* close_id runs, until close_by */
};

/* ---- conn.c ------------------------------------------------------------- */

/* -errno: nothing happened, the socket is still the caller's. */
int ka_conn_new(struct ka_stream *stream, ka_sock sock, struct ka_conn **out);
/* Gracefully: flush, FIN, LOST, linger. */
void ka_conn_end(struct ka_stream *stream, struct ka_conn *conn, int reason);
/* At once, without RST of our own. */
void ka_conn_lose(struct ka_stream *stream, struct ka_conn *conn, int reason,
                  int error);
/* EOF was read. */
void ka_conn_peer_done(struct ka_stream *stream, struct ka_conn *conn);
void ka_conn_flush(struct ka_stream *stream, struct ka_conn *conn);
/* End it if it was to leave and owes nothing. */
void ka_conn_may_leave(struct ka_stream *stream, struct ka_conn *conn);
void ka_conn_leave(struct ka_stream *stream, struct ka_conn *conn, int reason);
/* Throw away what a lingering one has read. */
void ka_conn_drain(struct ka_stream *stream, struct ka_conn *conn);
/* Close the socket of one that is lost; free it if the owner let go. */
void ka_conn_drop(struct ka_stream *stream, struct ka_conn *conn);
void ka_conn_let_go(struct ka_stream *stream, struct ka_conn *conn);
void ka_conn_free(struct ka_stream *stream, struct ka_conn *conn);
void ka_conn_queue(struct ka_stream *stream, struct ka_conn *conn,
                   uint32_t what);

/* ---- accept.c ----------------------------------------------------------- */

#define KA_ACCEPTS 64  /* to a readiness of the listener */
#define KA_REST_MS 100 /* after it could not accept */

/* Poll the listener unless something speaks against it. */
void ka_stream_listen(struct ka_stream *stream);
/* A place is free, or somebody can be sent away. */
void ka_stream_has_room(struct ka_stream *stream);
/* One of accepts_left: KA_STREAM_ACCEPTED, KA_STREAM_REFUSED, or 0. */
int ka_stream_accept(struct ka_stream *stream, struct ka_stream_event *event);

/* ---- stream.c ----------------------------------------------------------- */

/* Have the lingering ones dropped in time. */
void ka_stream_linger(struct ka_stream *stream);
/* A limit in ticks. -EINVAL, -ERANGE. */
int ka_stream_idle_limit(const struct ka_stream *stream, int64_t idle_ms,
                         ka_tick *out);

/* Of the limits in this code, which are in range. */
static inline ka_tick ka_ms_ticks(int64_t ms) {
    return (ka_tick)ka_clock_ticks(ms);
}

/* (Re)start a timer of the loop, which may be due, running or resting. */
static inline void ka_start_timer(struct ka_loop *loop, ka_id id,
                                  ka_tick limit) {
    (void)ka_loop_pause(loop, id);
    (void)ka_loop_set_limit(loop, id, limit);
    (void)ka_loop_resume(loop, id);
}

static inline void ka_list_add(struct ka_conn_list *list,
                               struct ka_conn *conn) {
    conn->next = NULL;
    conn->previous = list->last;
    if (list->last)
        list->last->next = conn;
    else
        list->first = conn;
    list->last = conn;
}

static inline void ka_list_take(struct ka_conn_list *list,
                                struct ka_conn *conn) {
    if (conn->next)
        conn->next->previous = conn->previous;
    else
        list->last = conn->previous;
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        list->first = conn->next;
}

#endif

/* ring.h - what has happened, for somebody who comes and takes it.
 *
 * Bounded: when it is full the newest is dropped and counted, because the
 * thread that puts must never wait. Threads: any may put, any may take.
 */
#ifndef KA_RING_H
#define KA_RING_H

#include <stdint.h>

#include <errno.h>

#include "judge.h"
#include "reserve.h"

#ifndef ESHUTDOWN /* some C libraries of Windows; the system's number */
#define ESHUTDOWN 10058
#endif

/* What was done. */
enum ka_deed { KA_DEED_NONE = 0, KA_DEED_SHUTDOWN = 1, KA_DEED_ABORT = 2 };

/* Not "event": the loop has those. */
struct ka_occurrence {
    int64_t token;   /* of the watch; 0: found by discovery */
    int32_t cause;   /* enum ka_cause */
    int32_t klass;   /* enum ka_class */
    int32_t deed;    /* enum ka_deed */
    int32_t dry_run; /* 1: this is what would have been done */
    int32_t err;     /* errno that the owner is told, 0 unknown */
    ka_sock sock;    /* its number at that time, for messages only */
    uint64_t identity;
    struct ka_endpoint local, peer;
    int64_t at_ms;                   /* ka_os_now_ms */
    int64_t clock_ms;                /* how long the limit's clock had run */
    int64_t heard_ms;                /* since the last segment */
    int64_t data_in_ms, data_out_ms; /* since the last payload each way */
    int64_t bytes_in, bytes_out, unread, unsent;
};

struct ka_ring;

struct ka_ring *ka_ring_new(uint32_t room); /* NULL: no memory */
void ka_ring_free(struct ka_ring *ring);
/* Whether the next would be dropped; only the one who puts can rely on it. */
int ka_ring_is_full(struct ka_ring *ring);
/* 1, or 0 when it was dropped. */
int ka_ring_put(struct ka_ring *ring, const struct ka_occurrence *event);
/* Take up to `room`; wait up to timeout_ms (< 0: for ever) for the first. The
 * number; 0 after the time; -ESHUTDOWN when it is closed and empty. */
int ka_ring_take(struct ka_ring *ring, struct ka_occurrence *out, int room,
                 int64_t timeout_ms);
void ka_ring_close(struct ka_ring *ring); /* those who wait come back */
uint64_t ka_ring_dropped(struct ka_ring *ring);

#endif

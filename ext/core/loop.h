/* loop.h - one thread's descriptors, their readiness and their idleness.
 *
 * A poller and a deadline table under one id. Readiness stamps activity;
 * entries whose deadline has come are events like any other, in the same
 * batch. The essay on what may go wrong stands in loop.c.
 *
 * Threads: one owner. Any thread may call ka_loop_wake, ka_touch_now.
 * Results are >= 0, or -errno.
 */
#ifndef KA_LOOP_H
#define KA_LOOP_H

#include <stddef.h>
#include <stdint.h>

#include "atomics.h"
#include "backend.h"
#include "clock.h"
#include "table.h"

struct ka_entry { /* what a slot stands for */
    void *user;
    ka_sock fd; /* KA_NO_FD: a timer only */
    uint32_t generation;
    uint32_t events; /* asked of the poller; 0: not in its set */
    uint32_t next;   /* in the chain of its descriptor's hash bucket */
};
#define KA_NO_FD ((ka_sock) - 1)

struct ka_event {
    ka_id id;
    void *user;
    uint32_t events; /* KA_READ KA_WRITE KA_IDLENESS KA_BROKEN KA_HANGUP */
};

struct ka_loop_stats {
    uint64_t waits, events, idle, stale_events, rebuilds, interrupted, wakes,
        stalls, skipped_ticks;
};

struct ka_loop {
    const struct ka_backend *backend;
    KA_ATOMIC(struct ka_poller *) poller; /* wakers on other threads read it */
    struct ka_poller *retired;            /* a waker may still hold it */
    struct ka_table table;
    struct ka_clock clock;
    struct ka_entry **page; /* KA_PAGE entries each, never moved */
    uint32_t pages;
    uint32_t *bucket; /* descriptor -> slot + 1; grows */
    uint32_t buckets;
    uint32_t registered;    /* entries with a descriptor */
    struct ka_event *event; /* the batch */
    int count, room;
    ka_id *expired;            /* scratch of KA_SLICE */
    KA_ATOMIC(ka_tick) looked; /* when the loop looked last; others read it */
    ka_tick asked;      /* when it asked the table for its next deadline */
    int64_t next;       /* what that said */
    int ends;           /* this wait lasts until the caller's time is over */
    int wait_ms;        /* of the last ka_loop_wait */
    int waited;         /* what it returned */
    int64_t timeout_ms; /* the caller's, < 0 for ever */
    int64_t until_ms;   /* its end, -1 before the first wait */
    int64_t lag_ms;     /* of the clock */
    const struct ka_ready *ready;
    KA_ATOMIC(unsigned) fork_generation;
    KA_ATOMIC(uint32_t) moved;  /* `next` may be too late: ask again */
    KA_ATOMIC(uint32_t) wakers; /* threads that hold the poller now */
    KA_ATOMIC(uint32_t) woken;  /* by ka_loop_wake, until a round returns */
    KA_ATOMIC(uint32_t) asleep; /* a rescue from another thread must wake */
    struct ka_loop_stats stats;
};
#define KA_SLICE 4096    /* idle ones in a batch, at most */
#define KA_STALL_MS 1000 /* not looking counts as silence so long */

/* backend NULL: the best of this system. */
int ka_loop_init(struct ka_loop *loop, const struct ka_backend *backend);
/* Close the poller, every id becomes stale. Other threads may touch and wake
 * until ka_loop_close; the owner may ask about ids and nothing else. */
void ka_loop_shut(struct ka_loop *loop);
/* Give the memory back; once. */
void ka_loop_close(struct ka_loop *loop);
/* By name ("epoll", "kqueue", "poll"); NULL when this system has no such. */
const struct ka_backend *ka_loop_backend(const char *name);
const char *ka_loop_backend_names(void); /* "epoll, poll" for messages */

/* limit in ticks or KA_NO_LIMIT. events 0: known, but not polled. -EEXIST
 * when the descriptor is registered. fd KA_NO_FD: a timer only. */
int ka_loop_add(struct ka_loop *loop, ka_sock fd, uint32_t events,
                ka_tick limit, void *user, ka_id *out);
int ka_loop_modify(struct ka_loop *loop, ka_id id,
                   uint32_t events); /* -ENOENT stale */
/* 1, 0 stale. A closed descriptor is no error. */
int ka_loop_remove(struct ka_loop *loop, ka_id id);
ka_id ka_loop_find(const struct ka_loop *loop, ka_sock fd); /* 0: none */
struct ka_entry *ka_loop_entry(const struct ka_loop *loop, ka_id id);

/* One round, in steps so that a binding can give its lock away only to
 * sleep:
 *
 *   rc = ka_loop_begin(loop, timeout_ms);      looks, without waiting
 *   while (rc == KA_LOOP_WAIT) {
 *       ka_loop_wait(loop);                    sleeps; needs no lock
 *       (handle signals if loop->waited == -EINTR)
 *       rc = ka_loop_finish(loop);
 *   }
 *   rc >= 0: loop->event[0 .. rc); 0 when the time is over or a wake came
 *
 * timeout_ms < 0 waits for ever. Between begin and finish, and while the
 * batch is read, anything may be called but begin. */
#define KA_LOOP_WAIT (-100000)
int ka_loop_begin(struct ka_loop *loop, int64_t timeout_ms);
void ka_loop_wait(struct ka_loop *loop);
int ka_loop_finish(struct ka_loop *loop);

int ka_loop_wake(struct ka_loop *loop);            /* signal handlers, too */
int ka_loop_touch(struct ka_loop *loop, ka_id id); /* enum ka_touched */
int ka_loop_set_limit(struct ka_loop *loop, ka_id id, ka_tick limit);
int ka_loop_pause(struct ka_loop *loop, ka_id id);
int ka_loop_resume(struct ka_loop *loop, ka_id id);
/* The idle ones of the last batch could not be told: tell them again. */
void ka_loop_put_back(struct ka_loop *loop);
int64_t ka_loop_idle_ms(struct ka_loop *loop, ka_id id); /* -1 stale */
int ka_loop_longest_idle(struct ka_loop *loop, ka_id *out, int n);

/* For tests. The clock stands still; an advance is time in which the loop
 * has looked, where ka_clock_advance is time in which it has not. */
void ka_loop_freeze(struct ka_loop *loop, ka_tick tick);
void ka_loop_advance(struct ka_loop *loop, uint32_t ticks);

/* Fill the mark (stillalive.h) that other extensions touch through. 1, 0
 * stale. */
int ka_loop_mark(struct ka_loop *loop, ka_id id, struct ka_mark *out);

/* ka_touch_now. A second touch in one tick is one comparison. */
int ka_mark_touch_slow(const struct ka_mark *mark, ka_tick now);
static inline int ka_mark_touch(const struct ka_mark *mark) {
    struct ka_loop *loop = mark->loop;
    const KA_ATOMIC(uint64_t) *word = mark->word;
    ka_tick now = ka_clock_now(&loop->clock);

    if (now >= KA_FIRST && atomic_load_explicit(word, memory_order_relaxed) ==
                               ((uint64_t)mark->generation << 32 | now))
        return 1;
    return ka_mark_touch_slow(mark, now);
}

#endif

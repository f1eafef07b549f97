/* table.h - deadlines of a million connections, most of which never come.
 *
 * A dense array of words, generation beside the tick of the last touch,
 * indexed by slot, in pages that grow and never move. A touch writes its word
 * and nothing else: it only moves a deadline later, so a lower bound per
 * block of 64 words, and one per page of 64 blocks, stay valid without being
 * updated. A sweep looks at the bounds and opens only the blocks whose bound
 * has passed.
 *
 * Time is passed in, as ticks. Nothing here knows sockets or Python.
 *
 * Threads: one owner calls everything; any other thread may call ka_touch,
 * ka_place_touch and ka_table_idle. The proof of the races stands in table.c.
 *
 * Never early: an entry is claimed no sooner than limit + 1 ticks after the
 * tick of its last touch. Every sweep that is not cut short by `room` or
 * `budget` claims all whose time has come; only when the ticks wrap (once in
 * 497 days) one may come KA_FIRST ticks later.
 */
#ifndef KA_TABLE_H
#define KA_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "atomics.h"
#include "clock.h"

/* What callers hold: generation << 32 | slot; 0 is never valid. */
typedef uint64_t ka_id;

#define KA_BLOCK 64  /* words to a bound */
#define KA_PAGE 4096 /* words to a page, 64 blocks */
#define KA_SLOT(id) ((uint32_t)(id))
#define KA_GENERATION(id) ((uint32_t)((id) >> 32)) /* of a word, too */

/* What a word holds in place of a tick; the first ticks after a wrap count
 * as KA_FIRST. */
#define KA_FREE 0u
#define KA_DUE 1u    /* claimed by a sweep, until it is touched or released */
#define KA_PAUSED 2u /* no deadline */
#define KA_FIRST 3u
#define KA_NO_SLOT UINT32_MAX /* the end of the free list */
#define KA_NEVER 0u           /* as a bound: nothing below it has a deadline */

#define KA_MIXED UINT32_MAX /* no limit */
/* As a limit: never due, but how long it has been idle is still known. */
#define KA_NO_LIMIT KA_MOST_TICKS

struct ka_cold { /* read when a word changes its meaning */
    KA_ATOMIC(uint32_t)
    aside; /* of KA_DUE: the tick of the last touch; of
            * KA_FREE: the slot that is free next */
};

struct ka_page {
    KA_ATOMIC(uint64_t) word[KA_PAGE];
    KA_ATOMIC(ka_tick) bound[KA_PAGE / KA_BLOCK];
    KA_ATOMIC(ka_tick) page_bound;
    /* The limit of all in a block, so that a sweep need not read each. */
    KA_ATOMIC(ka_tick) common[KA_PAGE / KA_BLOCK];
    uint8_t live[KA_PAGE / KA_BLOCK];
    KA_ATOMIC(ka_tick) limit[KA_PAGE]; /* in blocks whose common is KA_MIXED */
    struct ka_cold cold[KA_PAGE];
};

struct ka_table {
    struct ka_page **page; /* grows; old directories are kept until close, so
                            * that other threads may read through them */
    KA_ATOMIC(struct ka_page **) shared; /* what other threads read */
    KA_ATOMIC(uint32_t) shared_pages;
    uint32_t pages;
    uint32_t room; /* of the directory */
    uint32_t live;
    uint32_t free_first; /* FIFO, so that a slot rests before it is reused */
    uint32_t free_last;
    uint32_t cursor;         /* block at which an interrupted sweep goes on */
    uint64_t claims, opened; /* for stats */
};

/* What a toucher keeps, so that it need not search. Valid for the life of
 * the table, also when stale. */
struct ka_place {
    KA_ATOMIC(uint64_t) * word;
    struct ka_cold *cold;
    struct ka_page *page;
    uint32_t generation;
    uint32_t slot;
};

enum ka_touched {
    KA_STALE = 0,
    KA_LIVE = 1,
    KA_RESCUED = 2 /* it was due: a sleeping owner must look again */
};

void ka_table_init(struct ka_table *table);
void ka_table_close(struct ka_table *table);

int ka_table_add(struct ka_table *table, ka_tick limit, ka_tick now,
                 ka_id *out);                           /* 0, -ENOMEM */
int ka_table_release(struct ka_table *table, ka_id id); /* 1, 0 stale */
int ka_table_live(const struct ka_table *table, ka_id id);
int ka_table_place(const struct ka_table *table, ka_id id,
                   struct ka_place *out); /* 1, 0 stale */

/* enum ka_touched. A paused entry stays paused. */
int ka_touch(struct ka_table *table, ka_id id, ka_tick now);
int ka_place_touch_slow(const struct ka_place *place, ka_tick now);

/* Keep the time of the last touch, change what is allowed. A due entry is due
 * no more; it begins anew, and so does one that is resumed. 1, 0 stale. */
int ka_table_set_limit(struct ka_table *table, ka_id id, ka_tick limit,
                       ka_tick now);
ka_tick ka_table_limit(const struct ka_table *table, ka_id id); /* 0 stale */
int ka_table_pause(struct ka_table *table, ka_id id);
int ka_table_resume(struct ka_table *table, ka_id id, ka_tick now);
int ka_table_paused(const struct ka_table *table, ka_id id);
/* A due entry of which nobody could be told is live again, and as idle as it
 * was: the next sweep claims it. 1, 0 stale. */
int ka_table_put_back(struct ka_table *table, ka_id id);

/* Ticks since the last touch, 0 when paused, -1 when stale. Without a limit
 * the answer stays near KA_MOST_TICKS once it has got there. */
int64_t ka_table_idle(const struct ka_table *table, ka_id id, ka_tick now);

/* Claim up to `room` entries whose deadline has come, opening at most
 * `budget` blocks. The number claimed; *more says that work is left. */
#define KA_BUDGET 1024
int ka_table_expire(struct ka_table *table, ka_tick now, ka_id *out, int room,
                    int budget, int *more);
/* Ticks until a sweep can find something, 0 now, -1 never. */
int64_t ka_table_next(const struct ka_table *table, ka_tick now);

/* The ids of the `n` longest idle, longest first; paused ones and those
 * without a limit are left out. Changes nothing. -ENOMEM. */
int ka_table_longest_idle(const struct ka_table *table, ka_tick now,
                          ka_id *out, int n);

/* Bytes that a sweep may read, and all bytes, for stats. */
void ka_table_bytes(const struct ka_table *table, size_t *hot, size_t *all);

/* For tests: NULL, or which invariant is broken. */
const char *ka_table_verify(const struct ka_table *table);

/* As a word holds it: without the values that mean something else. */
static inline ka_tick ka_word_tick(ka_tick now) {
    return now < KA_FIRST ? KA_FIRST : now;
}

/* Never KA_NEVER, so that it can be a bound. */
static inline ka_tick ka_deadline(ka_tick last, ka_tick limit) {
    ka_tick at = last + limit + 1;

    return at == KA_NEVER ? at + 1 : at;
}

/* The clock may have been set back a little since `last`; a due entry may
 * have been left for longer than ticks are otherwise compared. */
static inline ka_tick ka_idle_ticks(ka_tick last, ka_tick now) {
    ka_tick idle = now - last;

    return idle > UINT32_MAX - KA_MOST_TICKS ? 0 : idle;
}

static inline ka_tick ka_limit_at(const struct ka_page *page, uint32_t at) {
    ka_tick common = atomic_load_explicit(&page->common[at / KA_BLOCK],
                                          memory_order_acquire);

    if (common != KA_MIXED)
        return common;
    return atomic_load_explicit(&page->limit[at], memory_order_relaxed);
}

/* The hot path: a load, and a compare-exchange when the tick has changed. */
static inline int ka_place_touch(const struct ka_place *place, ka_tick now) {
    uint64_t seen = atomic_load_explicit(place->word, memory_order_relaxed);
    ka_tick held = (ka_tick)seen;

    if ((uint32_t)(seen >> 32) != place->generation)
        return KA_STALE;
    if (held >= KA_FIRST && ka_tick_since(now, held) <= 0)
        return KA_LIVE;
    return ka_place_touch_slow(place, now);
}

#endif

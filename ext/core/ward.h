/* ward.h - what the files of the watcher need of each other.
 *
 *   watcher.c   the functions of watcher.h, the thread, a step
 *   ward.c      one connection: where it is kept, a look at it
 *   deed.c      whatever is done on a duplicate
 *   ending.c    how a watched one has ended
 *   pace.c      the keepalive of what is watched or was found
 *   discover.c  which connections there are, and which of them are too many
 *
 * All of it runs inside the watcher's monitor, or in a test's only thread.
 */
#ifndef KA_WARD_H
#define KA_WARD_H

#include "atomics.h"
#include "os.h"
#include "reserve.h"
#include "sample.h"
#include "table.h"
#include "monitor.h"
#include "watcher.h"

/* ---- one connection ----------------------------------------------------- */

enum ka_ward_flags {
    KA_WARD_WATCHED = 1,  /* by ka_watcher_watch; otherwise it was found */
    KA_WARD_BEGUN = 2,    /* `past` holds something */
    KA_WARD_PACED = 4,    /* its keepalive has been seen to */
    KA_WARD_EXEMPT = 8,   /* its peer is in a network that is left alone */
    KA_WARD_TOLD = 16,    /* in a dry run, and it is still as silent */
    KA_WARD_SPARED = 32,  /* bytes are unread */
    KA_WARD_WAITS = 64,   /* for its turn among closes_per_second */
    KA_WARD_ENDING = 128, /* an abort is under way */
    KA_WARD_HELD = 256,   /* was due and is held: its release looks again */
    KA_WARD_ENDED = 512   /* it was told, or a deed was done: no more of it */
};

struct ka_ward {
    ka_id id; /* 0: the slot is nobody's */
    uint64_t identity;
    ka_sock sock;
    uint32_t next; /* slot + 1, in the chain of its identity's bucket */
    uint32_t flags;
    uint16_t port; /* local; of what was found */
    int32_t deed;  /* a watch's own, and its limits */
    int64_t detect_ms, idle_ms;
    int64_t from_ms;  /* silence before this does not count */
    int64_t abort_ms; /* when it began */
    int64_t count_ms; /* when its count may be lowered; 0: it need not be */
    int32_t paced_idle, paced_interval;
    int64_t told_in, told_out;
    /* The last look at it open; KA_SEEN where the state is not told. */
    int64_t seen_ms, seen_segs, seen_state;
    int64_t seen_beyond;      /* ka_acked_beyond with nothing under way */
    struct ka_endpoint *ends; /* local and peer of a watch; NULL not known */
    struct ka_past past;
    struct ka_sample sample;
};
#define KA_NOT_YET INT64_MAX /* as from_ms: it is not connected */
#define KA_SEEN 0            /* no state has this number */

/* What a look returns in place of milliseconds: the ward is to be dropped. */
#define KA_LET_GO (-2)

#define KA_SPARE_MS 50
#define KA_ENDED_MS 5000 /* between looks at what has been ended */
#define KA_DRAIN_MS 250
#define KA_TAKES 64 /* duplicates to a step, give or take a handful */

/* ---- discovery ---------------------------------------------------------- */

struct ka_seen { /* what stands behind a number */
    uint64_t identity;
    ka_id ward;
    uint16_t port;
    uint8_t what; /* discover.c's */
};

struct ka_candidate {
    int64_t idle_ms;
    ka_id id;
};

#define KA_SEEN_PAGES 256 /* of KA_PAGE numbers */
#define KA_PORT_WORDS (65536 / 64)

struct ka_discovery {
    struct ka_seen *page[KA_SEEN_PAGES];
    int32_t running;       /* a pass */
    int32_t grew;          /* ports were found in this pass */
    int32_t extra;         /* it follows, or will follow, one that did */
    int64_t cursor, bound; /* numbers */
    int64_t top;           /* numbers that the map may hold */
    int64_t began_ms, next_ms, cost_us;
    uint64_t listens[KA_PORT_WORDS];  /* found in this pass */
    uint64_t listened[KA_PORT_WORDS]; /* in the one before */
    uint64_t chosen[KA_PORT_WORDS];   /* those of the settings */
};

struct ka_eviction {
    struct ka_candidate *heap; /* the least idle first, while it is scanned */
    uint32_t room, count;
    uint32_t done;   /* of `count`, when the scan is over */
    uint32_t cursor; /* slot */
    int32_t scanning, ending;
    int64_t began_ms, next_ms, cost_us;
};

/* ---- the watcher -------------------------------------------------------- */

struct ka_hold {
    uint64_t identity;
    uint64_t count;
    /* When there are none any more, for a socket that is still to be found:
     * when the last one ended, and in which pass. */
    int64_t ended_ms;
    uint64_t ended_pass;
    struct ka_hold *next;
};

struct ka_watcher {
    struct ka_monitor *monitor;
    struct ka_thread *thread;
    struct ka_ring *ring;
    KA_ATOMIC(int) busy;    /* somebody is inside */
    KA_ATOMIC(int) callers; /* who want in */
    int32_t stopping, stopped;
    int32_t lost; /* our numbers are not ours: nothing is touched */
    int32_t late; /* time went by within a step */
    int32_t draining;
    struct ka_reserve reserve;
    struct ka_watcher_settings settings;
    int64_t least_ms; /* of all limits of the settings */
    struct ka_watcher_stats stats;

    int64_t epoch_ms;   /* silence before this counts for nobody */
    int64_t due_ms;     /* when a step was to come, or KA_NO_TIME */
    int64_t entered_ms; /* this step, by the real clock */
    int32_t taken;      /* duplicates in this step */
    ka_tick tick;

    struct ka_table table;
    struct ka_ward **page; /* KA_PAGE wards each, beside the table's */
    uint32_t pages;
    uint32_t *bucket; /* identity -> slot + 1; grows */
    uint32_t buckets, wards;
    uint32_t review; /* slot up to which all are to be looked at anew */
    uint64_t spared, waiting, silent; /* wards of these flags */
    struct ka_hold **held;
    uint32_t held_buckets;
    uint32_t released; /* holds that have ended and are kept */

    int64_t budget;    /* thousandths of a close */
    int64_t budget_ms; /* when it was that */
    int64_t line_ms;   /* when the next who waits may try */

    struct ka_discovery discovery;
    struct ka_eviction eviction;
};

/* Acknowledged sequence numbers beyond the bytes that were sent: a SYN where
 * we connected, and a FIN. Negative while bytes are under way. */
#define KA_UNTOLD INT64_MAX
static inline int64_t ka_acked_beyond(const struct ka_info *info) {
    if (info->bytes_acked < 0 || info->bytes_sent < 0 ||
        info->bytes_retrans < 0)
        return KA_UNTOLD;
    return info->bytes_acked - (info->bytes_sent - info->bytes_retrans);
}

/* ---- holds: watcher.c --------------------------------------------------- */

int ka_is_held(const struct ka_watcher *watcher, uint64_t identity);
/* When the holds of one that has just been found ended; 0 there were none. */
int64_t ka_held_until(struct ka_watcher *watcher, uint64_t identity);
/* A pass is over: those who were to be found have been. */
void ka_holds_forget(struct ka_watcher *watcher);

/* ---- ward.c ------------------------------------------------------------- */

static inline struct ka_ward *ka_ward_at(const struct ka_watcher *watcher,
                                         uint32_t slot) {
    return &watcher->page[slot / KA_PAGE][slot % KA_PAGE];
}

/* NULL when it is no more. */
struct ka_ward *ka_ward_of(const struct ka_watcher *watcher, ka_id id);
/* The first of an identity, or the one after `ward`. */
struct ka_ward *ka_ward_next(const struct ka_watcher *watcher,
                             uint64_t identity, const struct ka_ward *ward);
/* Due at once. NULL: no memory. */
struct ka_ward *ka_ward_add(struct ka_watcher *watcher, ka_sock sock,
                            uint64_t identity, uint32_t flags);
void ka_ward_drop(struct ka_watcher *watcher, struct ka_ward *ward);
void ka_wards_free(struct ka_watcher *watcher);
/* To be looked at in `again_ms` from now; KA_NO_TIME not by itself;
 * KA_LET_GO drops it. */
void ka_ward_arm(struct ka_watcher *watcher, struct ka_ward *ward,
                 int64_t again_ms, int64_t now_ms);
/* One of TOLD, SPARED, WAITS, and its count. 1: it has changed. */
int ka_ward_mark(struct ka_watcher *watcher, struct ka_ward *ward,
                 uint32_t flag, int on);
/* No more is told of it, and nothing done, but for an abort under way. */
void ka_ward_end(struct ka_watcher *watcher, struct ka_ward *ward);
/* Silence before this does not count. */
int64_t ka_ward_since(const struct ka_watcher *watcher,
                      const struct ka_ward *ward);
/* ka_info of `sock`, which the ward is by name, with what is known from
 * earlier looks where the kernel does not tell. -ESTALE: it is another one. */
int ka_ward_ask(struct ka_ward *ward, ka_sock sock, struct ka_info *info,
                int64_t now_ms);
/* By the limits that hold for it. */
void ka_ward_judge(const struct ka_watcher *watcher, struct ka_ward *ward,
                   const struct ka_info *info, int64_t now_ms,
                   struct ka_judgement *out);
/* Note how a connection that is open looks. */
void ka_ward_see(struct ka_ward *ward, const struct ka_info *info,
                 int64_t now_ms);
/* The same when a watch begins: what is not connected yet has no clock. */
void ka_ward_first(struct ka_ward *ward, const struct ka_first_look *first);
/* Look, and arm anew. */
void ka_ward_look(struct ka_watcher *watcher, struct ka_ward *ward,
                  int64_t now_ms);
/* Settings have changed: a slice of all. 1: there is more. */
int ka_wards_review(struct ka_watcher *watcher, int64_t now_ms);

static inline int64_t ka_sooner(int64_t a, int64_t b) {
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

static inline int64_t ka_clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* ---- deed.c: each returns as a look does -------------------------------- */

/* Judge again on a duplicate and do what is to be done for `cause`. */
int64_t ka_deed_act(struct ka_watcher *watcher, struct ka_ward *ward,
                    int32_t cause, int64_t now_ms);
/* An abort that is under way. */
int64_t ka_deed_go_on(struct ka_watcher *watcher, struct ka_ward *ward,
                      const struct ka_info *info, int64_t now_ms);
/* A watched connection is closed: tell how. KA_NO_TIME: it is not. */
int64_t ka_deed_closed(struct ka_watcher *watcher, struct ka_ward *ward,
                       int64_t now_ms);
/* The same where it has lost its name with its end. */
int64_t ka_deed_nameless(struct ka_watcher *watcher, struct ka_ward *ward,
                         int64_t now_ms);
/* The number means another socket, or none. */
int64_t ka_deed_gone(struct ka_watcher *watcher, struct ka_ward *ward,
                     int64_t now_ms);
/* 1: reserve.sock is this very connection, until ka_reserve_give, and not the
 * number that it was before. 0: *again is what the look returns. */
int ka_deed_take(struct ka_watcher *watcher, struct ka_ward *ward,
                 int64_t now_ms, int64_t *again);
/* Milliseconds until something may be ended; 0 now. */
int64_t ka_budget_wait(struct ka_watcher *watcher, int64_t now_ms);

/* ---- ending.c ----------------------------------------------------------- */

struct ka_ending {
    int32_t cause; /* RESET, TIMED_OUT, or GONE: in order */
    int32_t err;
    struct ka_info info;
};

/* How the connection of a watch has ended; `sock` is it by name. 0: only a
 * part of an MPTCP connection has. */
int ka_how_it_ended(const struct ka_ward *ward, ka_sock sock, int64_t now_ms,
                    struct ka_ending *out);

/* ---- pace.c: each returns KA_NO_TIME, or as a look does ------------------
 */

/* A watched one is connected now: retransmissions at its pace. */
int64_t ka_pace_watched(struct ka_watcher *watcher, struct ka_ward *ward,
                        const struct ka_info *info, int64_t now_ms);
/* See to the keepalive of what was found. */
int64_t ka_pace_found(struct ka_watcher *watcher, struct ka_ward *ward,
                      const struct ka_info *info, int64_t now_ms);
/* Where the kernel is to decide: its count, as soon as that may be. */
int64_t ka_pace_count(struct ka_watcher *watcher, struct ka_ward *ward,
                      int64_t now_ms);
static inline int ka_pace_is_due(const struct ka_ward *ward, int64_t now_ms) {
    return ward->count_ms > 0 && now_ms >= ward->count_ms;
}
/* 1 when the watcher cannot see whether questions go unanswered. */
static inline int ka_is_deaf(const struct ka_info *info) {
    return info->probes < 0;
}

/* ---- discover.c --------------------------------------------------------- */

void ka_discover(struct ka_watcher *watcher, int64_t now_ms); /* a slice */
int64_t ka_discover_next(const struct ka_watcher *watcher, int64_t now_ms);
void ka_evict(struct ka_watcher *watcher, int64_t now_ms);
int64_t ka_evict_next(struct ka_watcher *watcher, int64_t now_ms);
void ka_discovery_free(struct ka_watcher *watcher);
void ka_discovery_settings(struct ka_watcher *watcher);

#endif

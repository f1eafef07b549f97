/* watcher.h - one thread that looks at connections of others, and acts.
 *
 * It sleeps until something can be due, asks the kernel, re-arms or acts. It
 * never knows Python. Connections come in two ways: by ka_watcher_watch, one
 * at a time, with limits of their own; or by discovery, all that the
 * listeners of this process have accepted, with the limits of the settings.
 *
 * Threads: every function may be called by any thread, except _free, _step
 * and _abandon, whose callers are alone. A call waits for the slice of work
 * that the thread is in, at most a few milliseconds.
 */
#ifndef KA_WATCHER_H
#define KA_WATCHER_H

#include "judge.h"
#include "ring.h"
#include "stillalive.h"

struct ka_network {
    unsigned char address[16];
    uint8_t family; /* 4 or 6 */
    uint8_t bits;
};

#define KA_MOST_PORTS 64
#define KA_MOST_NETWORKS 64

struct ka_watcher_settings {
    struct ka_limits limits; /* of what is discovered; idle_ms is not used */
    int32_t discover;        /* 0: only what is watched */
    int32_t ports;           /* 0: those of all listeners */
    uint16_t port[KA_MOST_PORTS];
    int32_t networks;
    struct ka_network exempt[KA_MOST_NETWORKS];
    int64_t evict_above; /* connections; KA_NO_TIME: any number */
    int64_t evict_idle_ms;
    int32_t dry_run;
    int32_t closes_per_second;
    /* What the kernel must hold for detect_ms, set on what is discovered and
     * has a slower keepalive or none; jitter: idle and interval are lowered by
     * up to so many seconds, by identity. */
    struct ka_policy pace;
    int32_t pace_jitter;
};

struct ka_watcher_stats {
    uint64_t tracked, watched, held; /* now */
    uint64_t looks, told, ended;
    uint64_t by_cause[16]; /* told, by enum ka_cause; also in a dry run */
    uint64_t spared_unread, spared_rate, spared_exempt, spared_held;
    uint64_t passes, pass_cpu_us, cpu_us; /* discovery, and the whole thread */
    uint64_t stalls;    /* times that nobody looked, and all began anew */
    uint64_t dropped;   /* events */
    uint64_t no_memory; /* times that something had to wait for memory */
};

struct ka_first_look {
    uint64_t identity; /* 0: none was told */
    int64_t at_ms;
    int32_t open; /* our own half */
    struct ka_info info;
    struct ka_endpoint local, peer;
};

struct ka_watcher;

/* `queue`: events that wait at most. 0, -ENOMEM, -EMFILE, -ENOPROTOOPT. */
int ka_watcher_new(struct ka_watcher **out,
                   const struct ka_watcher_settings *settings, uint32_t queue);
/* Once; 0 also when it runs, -ESHUTDOWN when it was stopped. */
int ka_watcher_start(struct ka_watcher *watcher);
/* Joins; may be repeated. Who waits in _take comes back. */
void ka_watcher_stop(struct ka_watcher *watcher);
void ka_watcher_free(struct ka_watcher *watcher); /* stops first */
/* In a forked child, instead of stop and free: no lock, no thread, only the
 * child's copies of descriptors and memory. Not while another thread of the
 * child uses it. */
void ka_watcher_abandon(struct ka_watcher *watcher);

int ka_watcher_update(struct ka_watcher *watcher,
                      const struct ka_watcher_settings *settings);
/* Taken before anything is asked of the peer: the answer can be a reset, and
 * when the owner's blocked call takes that error, only who has seen the
 * connection open can tell how it has ended. 0, or as ka_info. */
int ka_first_look(ka_sock sock, struct ka_first_look *out);
/* first: NULL to look now. detect_ms, idle_ms: KA_NO_TIME for none. deed: enum
 * ka_deed. The token, or -ENOMEM. An event with the token ends the watch;
 * KA_FOR_GONE too. */
int64_t ka_watcher_watch(struct ka_watcher *watcher, ka_sock sock,
                         uint64_t identity, const struct ka_first_look *first,
                         int64_t detect_ms, int64_t idle_ms, int32_t deed);
int ka_watcher_cancel(struct ka_watcher *watcher, int64_t token); /* 1, 0 */
/* While held at least once a connection is not acted on; when the last hold
 * ends its clocks begin anew. */
int ka_watcher_hold(struct ka_watcher *watcher, uint64_t identity);
void ka_watcher_release(struct ka_watcher *watcher, uint64_t identity);
/* 1: end every connection that is answered or never spoke, as soon as it has
 * been idle for evict_idle_ms; 0: no more. */
void ka_watcher_drain(struct ka_watcher *watcher, int on);
int ka_watcher_take(struct ka_watcher *watcher, struct ka_occurrence *out,
                    int room, int64_t timeout_ms); /* as ka_ring_take */
void ka_watcher_stats(struct ka_watcher *watcher,
                      struct ka_watcher_stats *out);

/* One slice of the thread's work at `now_ms`, for tests without the thread.
 * Milliseconds until the next, 0 at once, KA_NO_TIME nothing to do. */
int64_t ka_watcher_step(struct ka_watcher *watcher, int64_t now_ms);

#endif

/* backend.h - what each operating system's readiness mechanism must provide.
 *
 * One file per mechanism, the same functions in each, behind a table so that
 * one build holds several and tests can force any of them. Level-triggered,
 * as selectors are. Nothing here knows deadlines, generations or Python: a
 * tag is 64 bits that come back.
 *
 * Threads: one at a time, except `wake`, which any thread and any signal
 * handler may call. Results are >= 0, or -errno.
 */
#ifndef KA_BACKEND_H
#define KA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "os.h"

struct ka_poller; /* each mechanism's own */

struct ka_ready {
    uint64_t tag;
    uint32_t events; /* KA_READ KA_WRITE KA_BROKEN KA_HANGUP */
};

/* The tag of `wake`; no descriptor may have it. */
#define KA_WAKE_TAG UINT64_MAX

struct ka_backend {
    const char *name;
    int (*open)(struct ka_poller **out);
    void (*close)(struct ka_poller *poller);
    /* events: KA_READ | KA_WRITE, not 0. -EEXIST, -EBADF, -EPERM (nothing to
     * wait for: with epoll a regular file), -ENOMEM, -ENOSPC as the system
     * says. poll and kqueue do not know the first, poll not the third: a
     * number that is there gets the new events and the new tag. When it
     * fails nothing of it is in the set. */
    int (*add)(struct ka_poller *poller, ka_sock fd, uint32_t events,
               uint64_t tag);
    /* When it fails the old events and the old tag stand. kqueue adds what
     * has been closed and has come back as another open file. */
    int (*modify)(struct ka_poller *poller, ka_sock fd, uint32_t events,
                  uint64_t tag);
    /* -ENOENT, -EBADF when the descriptor is closed or was never added. */
    int (*remove)(struct ka_poller *poller, ka_sock fd);
    /* Everything that is ready, in one call: *out points at the poller's own
     * array, valid until the next call. timeout_ms < 0 waits for ever.
     * -EINTR when a signal came. A wake shows as an entry of KA_WAKE_TAG and
     * is drained. */
    int (*wait)(struct ka_poller *poller, int timeout_ms,
                const struct ka_ready **out);
    int (*wake)(const struct ka_poller *poller);
    int (*fileno)(const struct ka_poller *poller); /* -1: has none */
};

/* KA_FORCE_KQUEUE: a kqueue in place of epoll on Linux, for tests. */
#if defined(KA_FORCE_KQUEUE) || defined(__APPLE__) || defined(__FreeBSD__) || \
    defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
#define KA_HAS_KQUEUE 1
#elif defined(__linux__)
#define KA_HAS_EPOLL 1
#endif

extern const struct ka_backend ka_backend_epoll;  /* where KA_HAS_EPOLL */
extern const struct ka_backend ka_backend_kqueue; /* where KA_HAS_KQUEUE */
extern const struct ka_backend ka_backend_poll;

#endif

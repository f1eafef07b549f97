/* kqueue.c - macOS, FreeBSD, NetBSD, OpenBSD, DragonFly.
 *
 * Level-triggered. Reading and writing are two filters of one descriptor,
 * and what is known of it beside them lies in an array by its number: the
 * tag, and where the last answer has put it. The kernel's own place for a
 * pointer is not used: it has 32 bits on some systems and another type on
 * others, and it would have to be changed twice for one descriptor. What
 * can go wrong:
 *
 * Half a registration. One filter is there and the other is refused. Every
 * change is answered with a receipt of its own (EV_RECEIPT), and what has
 * been added by a call that failed is taken out again; what was there before
 * stays. Filters that are wanted no more go last, when nothing can fail.
 * Receipts fill their array, so no event is taken by such a call.
 *
 * Two answers for one descriptor, one for each filter. They become one
 * entry. Where the first went stands in the array; that is trusted only if
 * the tag is there, so nothing is ever cleared.
 *
 * Added twice. The kernel takes it for a change, and no way to tell exists:
 * the new tag and filters replace the old ones, as in pollfallback.c. A
 * modify adds what the kernel has forgotten.
 *
 * A closed descriptor is forgotten with its filters, even while a duplicate
 * lives. Nothing stale is ever reported. The array may believe in filters
 * that have gone; so it decides only what is taken out, and taking out what
 * is not there is no error.
 *
 * An end is a flag (EV_EOF) beside the filter, with the error, if there is
 * one, and the data may come before it. Without an error the descriptor is
 * readable, or writable, and the next call tells the rest. With an error it
 * is broken and hung up as well. The error stays for its owner to take.
 *
 * Too much at once, as in epoll.c: ask again into a larger array. But a wake
 * is told once and would be lost with the first answer; it is carried over.
 *
 * A wake must be safe in signal handlers: it is one system call, EVFILT_USER,
 * and leaves errno alone. Kernels that have no such filter get a pipe.
 *
 * Fork. The child does not inherit the set: its number means nothing there,
 * or a file that the child has opened since. `close` closes it only in the
 * process that has made it. The pipe is inherited, and closed.
 *
 * Exec. The number is marked at once; between the two calls no fork of
 * another thread can carry it away, for it is not inherited.
 *
 * Files. A regular file is readable while its offset is not at its end,
 * where poll says always and epoll refuses. Devices that the kernel cannot
 * wait for (on some systems /dev/null, or a terminal) are refused in various
 * words: here with EPERM, as by epoll. A pipe for writing whose reader has
 * gone is refused with EPIPE, by NetBSD with EBADF.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE
#endif
#ifndef _NETBSD_SOURCE
#define _NETBSD_SOURCE
#endif
#include "backend.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/event.h>
#include <time.h>
#include <unistd.h>

#if defined(EVFILT_USER) && !defined(KA_WAKE_BY_PIPE)
#define KA_WAKE_IS_A_FILTER 1
#else
#define KA_WAKE_IS_A_FILTER 0
#endif

#define KA_FIRST_ROOM 64
#define KA_MOST_ROOM (INT_MAX / (int)sizeof(struct kevent) / 4)
#define KA_FILTERS 2 /* KA_READ, KA_WRITE are the bits 0 and 1 */

static_assert(sizeof(struct ka_ready) * (KA_FIRST_ROOM + 1) <=
                  sizeof(struct kevent) * KA_FIRST_ROOM,
              "events are unpacked in place, and a wake is added");
static_assert(KA_READ == 1 << 0 && KA_WRITE == 1 << 1, "filters by their bit");

struct ka_place { /* of a descriptor, by its number */
    uint64_t tag;
    uint32_t held; /* filters, unless the descriptor has been closed */
    uint32_t at;   /* in the last answer, if its tag is there */
};

struct ka_poller {
    int set;
    unsigned born; /* in which process: the count of forks */
    ka_sock wake[2];
    int room;
    struct kevent *event;
    struct ka_place *place;
    int places;
};

static const struct timespec no_time;

/* ---- changes ------------------------------------------------------------ */

/* Add some filters and drop others; error[] is 0 or an errno for each. */
static int change(const struct ka_poller *poller, int fd, uint32_t add,
                  uint32_t drop, int error[KA_FILTERS]) {
    struct kevent made[KA_FILTERS], receipt[KA_FILTERS];
    int count = 0, got, i, interrupted = 0;

    memset(made, 0, sizeof made);
    for (i = 0; i < KA_FILTERS; i++) {
        error[i] = 0;
        if (!((add | drop) >> i & 1))
            continue;
        made[count].ident = (uintptr_t)fd;
        made[count].filter = i == 0 ? EVFILT_READ : EVFILT_WRITE;
        made[count].flags = (add >> i & 1 ? EV_ADD : EV_DELETE) | EV_RECEIPT;
        count++;
    }
    while ((got = kevent(poller->set, made, count, receipt, count, &no_time)) <
           0) {
        if (errno != EINTR)
            return -errno;
        interrupted = 1; /* it may all have been done */
    }
    for (i = 0; i < got; i++) {
        int which = receipt[i].filter == EVFILT_WRITE;
        int found = receipt[i].flags & EV_ERROR ? (int)receipt[i].data : 0;

        if (found == ENOENT && interrupted && drop >> which & 1)
            found = 0;
        error[which] = found;
    }
    return 0;
}

/* What the loop knows; see the essay on files. */
static int refusal(int error) {
    if (error == EINVAL || error == ENODEV || error == EOPNOTSUPP)
        error = EPERM;
    return -error;
}

/* Make the filters of a descriptor those that are wanted. When it fails,
 * those in `kept` stay, and no other. */
static int put(struct ka_poller *poller, int fd, uint32_t wanted,
               uint32_t kept, uint64_t tag) {
    struct ka_place *place = &poller->place[fd];
    uint32_t unwanted = place->held & ~wanted;
    uint32_t fresh = wanted & ~kept, failed = 0;
    int error[KA_FILTERS], ignored[KA_FILTERS];
    int i, rc = change(poller, fd, wanted, fresh ? 0 : unwanted, error);

    for (i = KA_FILTERS - 1; i >= 0; i--)
        if (wanted >> i & 1 && error[i]) {
            rc = refusal(error[i]);
            failed |= 1u << i;
        }
    if (rc < 0)
        unwanted = (fresh & ~failed) | (place->held & ~kept & ~wanted);
    if (unwanted && (rc < 0 || fresh))
        (void)change(poller, fd, 0, unwanted, ignored);
    if (rc < 0) {
        place->held &= kept;
        return rc;
    }
    place->held = wanted;
    place->tag = tag;
    return 0;
}

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

/* The array must reach to its number. A number that is no descriptor's may
 * be very high. */
static int reserve(struct ka_poller *poller, int fd) {
    int places = poller->places ? poller->places : KA_FIRST_ROOM;
    struct ka_place *larger;

    if (fd >= 0 && fd < poller->places)
        return 0;
    if (fd < 0 || !is_open(fd))
        return -EBADF;
    while (places <= fd)
        places = places <= INT_MAX / 2 ? places * 2 : INT_MAX;
    if ((size_t)places > SIZE_MAX / sizeof *larger)
        return -ENOMEM;
    larger = realloc(poller->place, (size_t)places * sizeof *larger);
    if (!larger)
        return -ENOMEM;
    memset(larger + poller->places, 0,
           (size_t)(places - poller->places) * sizeof *larger);
    poller->place = larger;
    poller->places = places;
    return 0;
}

/* ---- wake --------------------------------------------------------------- */

#if KA_WAKE_IS_A_FILTER

static int wake_change(const struct ka_poller *poller, int flags,
                       unsigned fflags) {
    struct kevent made;

    memset(&made, 0, sizeof made);
    made.filter = EVFILT_USER;
    made.flags = flags;
    made.fflags = fflags;
    while (kevent(poller->set, &made, 1, NULL, 0, &no_time) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static int wake_open(struct ka_poller *poller) {
    return wake_change(poller, EV_ADD | EV_CLEAR, 0);
}

static void wake_close(struct ka_poller *poller) {
    (void)poller; /* it goes with the set */
}

static int is_wake(const struct ka_poller *poller,
                   const struct kevent *event) {
    (void)poller;
    return event->filter == EVFILT_USER;
}

static void wake_drain(const struct ka_poller *poller) {
    (void)poller; /* EV_CLEAR has done it */
}

static int kqueue_wake(const struct ka_poller *poller) {
    int before = errno;
    int rc = wake_change(poller, 0, NOTE_TRIGGER);

    errno = before;
    return rc;
}

#else

static int wake_open(struct ka_poller *poller) {
    int error[KA_FILTERS];
    int rc = ka_os_wake_open(poller->wake);

    if (rc == 0)
        rc = change(poller, poller->wake[0], KA_READ, 0, error);
    return rc < 0 ? rc : -error[0];
}

static void wake_close(struct ka_poller *poller) {
    if (poller->wake[0] >= 0)
        ka_os_wake_close(poller->wake);
}

static int is_wake(const struct ka_poller *poller,
                   const struct kevent *event) {
    return event->ident == (uintptr_t)poller->wake[0];
}

static void wake_drain(const struct ka_poller *poller) {
    ka_os_wake_drain(poller->wake);
}

static int kqueue_wake(const struct ka_poller *poller) {
    return ka_os_wake(poller->wake);
}

#endif

/* ---- the backend -------------------------------------------------------- */

static void kqueue_close(struct ka_poller *poller) {
    if (poller->set >= 0 && poller->born == ka_os_fork_generation())
        (void)close(poller->set);
    wake_close(poller);
    free(poller->event);
    free(poller->place);
    free(poller);
}

static int kqueue_open(struct ka_poller **out) {
    struct ka_poller *poller = calloc(1, sizeof *poller);
    int rc = 0;

    if (!poller)
        return -ENOMEM;
    poller->born = ka_os_fork_generation();
    poller->wake[0] = poller->wake[1] = -1;
    poller->room = KA_FIRST_ROOM;
    poller->event = malloc(KA_FIRST_ROOM * sizeof *poller->event);
    poller->set = poller->event ? kqueue() : -1;
    if (!poller->event)
        rc = -ENOMEM;
    else if (poller->set < 0 || fcntl(poller->set, F_SETFD, FD_CLOEXEC) < 0)
        rc = -errno;
    else
        rc = wake_open(poller);
    if (rc < 0)
        kqueue_close(poller);
    else
        *out = poller;
    return rc;
}

static int kqueue_add(struct ka_poller *poller, ka_sock fd, uint32_t events,
                      uint64_t tag) {
    int rc = reserve(poller, fd);

    if (rc < 0)
        return rc;
    return put(poller, fd, events & (KA_READ | KA_WRITE), 0, tag);
}

static int kqueue_modify(struct ka_poller *poller, ka_sock fd, uint32_t events,
                         uint64_t tag) {
    if (fd < 0 || fd >= poller->places || !poller->place[fd].held)
        return is_open(fd) ? -ENOENT : -EBADF;
    return put(poller, fd, events & (KA_READ | KA_WRITE),
               poller->place[fd].held, tag);
}

static int kqueue_remove(struct ka_poller *poller, ka_sock fd) {
    int error[KA_FILTERS];
    int rc;

    if (fd < 0 || fd >= poller->places || !poller->place[fd].held)
        return is_open(fd) ? -ENOENT : -EBADF;
    rc = change(poller, fd, 0, poller->place[fd].held, error);
    if (rc < 0)
        return rc;
    poller->place[fd].held = 0;
    return error[0] ? -error[0] : -error[1];
}

static int ask(const struct ka_poller *poller, struct kevent *event, int room,
               int timeout_ms) {
    struct timespec timeout;

    timeout.tv_sec = timeout_ms / 1000;
    timeout.tv_nsec = timeout_ms % 1000 * 1000000L;
    return kevent(poller->set, NULL, 0, event, room,
                  timeout_ms < 0 ? NULL : &timeout);
}

/* Ask again into larger arrays while the answer fills them. */
static int take_all(struct ka_poller *poller, int count, int *woken) {
    struct kevent *event;
    int room, more, i;

    while (count == poller->room && count <= KA_MOST_ROOM) {
        room = count * 4;
        event = malloc((size_t)room * sizeof *event);
        if (!event)
            break;
        more = ask(poller, event, room, 0);
        if (more <= 0) { /* the first answer stands */
            free(event);
            break;
        }
        for (i = 0; i < count; i++)
            *woken |= is_wake(poller, &poller->event[i]);
        free(poller->event);
        poller->event = event;
        poller->room = room;
        count = more;
    }
    return count;
}

static uint32_t found_of(const struct kevent *event) {
    uint32_t found = event->filter == EVFILT_WRITE ? KA_WRITE : KA_READ;

    if (event->flags & EV_ERROR) /* closed at this moment, or out of order */
        return event->data == EBADF || event->data == ENOENT
                   ? 0
                   : found | KA_BROKEN;
    if (event->flags & EV_EOF && event->fflags)
        found |= KA_BROKEN | KA_HANGUP;
    return found;
}

/* One entry for each descriptor, over the events that have been read. */
static int unpack(struct ka_poller *poller, int count, int woken) {
    struct ka_ready *ready = (struct ka_ready *)poller->event;
    struct ka_place *place;
    struct kevent event;
    uint32_t found, made = 0;
    int i;

    for (i = 0; i < count; i++) {
        memcpy(&event, &poller->event[i], sizeof event);
        if (is_wake(poller, &event)) {
            woken = 1;
            continue;
        }
        found = found_of(&event);
        if (!found || event.ident >= (uintptr_t)poller->places)
            continue;
        place = &poller->place[event.ident];
        if (place->at < made && ready[place->at].tag == place->tag) {
            ready[place->at].events |= found;
            continue;
        }
        place->at = made;
        ready[made].tag = place->tag;
        ready[made++].events = found;
    }
    if (woken) {
        ready[made].tag = KA_WAKE_TAG;
        ready[made++].events = KA_READ;
        wake_drain(poller);
    }
    return (int)made;
}

static int kqueue_wait(struct ka_poller *poller, int timeout_ms,
                       const struct ka_ready **out) {
    int woken = 0;
    int count = ask(poller, poller->event, poller->room, timeout_ms);

    *out = (struct ka_ready *)poller->event;
    if (count < 0)
        return -errno;
    if (count == poller->room)
        count = take_all(poller, count, &woken);
    *out = (struct ka_ready *)poller->event;
    return unpack(poller, count, woken);
}

static int kqueue_fileno(const struct ka_poller *poller) {
    return poller->set;
}

const struct ka_backend ka_backend_kqueue = {
    "kqueue",      kqueue_open, kqueue_close, kqueue_add,   kqueue_modify,
    kqueue_remove, kqueue_wait, kqueue_wake,  kqueue_fileno};

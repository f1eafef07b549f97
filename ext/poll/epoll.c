/* epoll.c - Linux.
 *
 * Level-triggered, one set and one eventfd per poller. What can go wrong:
 *
 * Too much at once. A full array says that more may be ready than it holds.
 * It grows and the kernel is asked again, without waiting: what was ready
 * still is, so the second answer replaces the first. When there is no memory
 * the first one stands, and the next call brings the rest.
 *
 * A closed descriptor is forgotten by the kernel, but not while a duplicate
 * keeps its open file alive: then it goes on being reported, and nobody can
 * take it out by its number. That shows as a tag that the caller has given
 * up; only a new set helps.
 *
 * Fork. The set is shared with the child, so that what the child takes out
 * of it is gone for the parent. `close` therefore closes and does no more.
 *
 * The kernel's events, 12 bytes each on x86 and 16 elsewhere, are unpacked
 * where they lie: they are put at the end of the array and move to its
 * front. The i-th result ends at or before the end of the i-th event, which
 * has been read by then.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "backend.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define KA_FIRST_ROOM 64
#define KA_MOST_ROOM (INT_MAX / (int)sizeof(struct ka_ready) / 4)

static_assert(sizeof(struct epoll_event) <= sizeof(struct ka_ready),
              "events are unpacked in place");
static_assert((int)EPOLLIN == KA_READ && (int)EPOLLOUT == KA_WRITE << 1 &&
                  (int)EPOLLERR == KA_BROKEN && (int)EPOLLHUP == KA_HANGUP,
              "flags are translated by a shift");

struct ka_poller {
    int set;
    int wake;
    int room;
    struct ka_ready *ready;
};

static uint32_t to_epoll(uint32_t events) {
    return (events & KA_READ) | (events & KA_WRITE) << 1;
}

static uint32_t from_epoll(uint32_t events) {
    return (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) |
           (events & EPOLLOUT) >> 1;
}

static int control(struct ka_poller *poller, int what, int fd, uint32_t events,
                   uint64_t tag) {
    struct epoll_event event;

    memset(&event, 0, sizeof event);
    event.events = to_epoll(events);
    event.data.u64 = tag;
    return epoll_ctl(poller->set, what, fd, &event) < 0 ? -errno : 0;
}

static void epoll_close(struct ka_poller *poller) {
    if (poller->set >= 0)
        close(poller->set);
    if (poller->wake >= 0)
        close(poller->wake);
    free(poller->ready);
    free(poller);
}

static int epoll_open(struct ka_poller **out) {
    struct ka_poller *poller = malloc(sizeof *poller);
    int rc = 0;

    if (!poller)
        return -ENOMEM;
    poller->room = KA_FIRST_ROOM;
    poller->ready = malloc(KA_FIRST_ROOM * sizeof *poller->ready);
    poller->wake = -1;
    poller->set = epoll_create1(EPOLL_CLOEXEC);
    if (poller->set >= 0)
        poller->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (poller->wake < 0)
        rc = -errno;
    else if (!poller->ready)
        rc = -ENOMEM;
    else
        rc =
            control(poller, EPOLL_CTL_ADD, poller->wake, KA_READ, KA_WAKE_TAG);
    if (rc < 0)
        epoll_close(poller);
    else
        *out = poller;
    return rc;
}

static int epoll_add(struct ka_poller *poller, ka_sock fd, uint32_t events,
                     uint64_t tag) {
    return control(poller, EPOLL_CTL_ADD, fd, events, tag);
}

static int epoll_modify(struct ka_poller *poller, ka_sock fd, uint32_t events,
                        uint64_t tag) {
    return control(poller, EPOLL_CTL_MOD, fd, events, tag);
}

static int epoll_remove(struct ka_poller *poller, ka_sock fd) {
    return control(poller, EPOLL_CTL_DEL, fd, 0, 0);
}

/* The kernel's events are put at the end of the array. */
static struct epoll_event *tail_of(struct ka_ready *ready, int room) {
    size_t spare = sizeof *ready - sizeof(struct epoll_event);

    return (struct epoll_event *)((char *)ready + (size_t)room * spare);
}

/* Ask again into larger arrays while the answer fills them. */
static int take_all(struct ka_poller *poller, int count) {
    struct ka_ready *ready;
    int room, more;

    while (count == poller->room && count <= KA_MOST_ROOM) {
        room = count * 4;
        ready = malloc((size_t)room * sizeof *ready);
        if (!ready)
            break;
        more = epoll_wait(poller->set, tail_of(ready, room), room, 0);
        if (more <= 0) { /* the first answer stands */
            free(ready);
            break;
        }
        free(poller->ready);
        poller->ready = ready;
        poller->room = room;
        count = more;
    }
    return count;
}

/* Whether one of them is the wake's. */
static int unpack(struct ka_ready *ready, int room, int count) {
    const char *from = (const char *)tail_of(ready, room);
    struct epoll_event event;
    int woken = 0;
    int i;

    for (i = 0; i < count; i++) {
        memcpy(&event, from + (size_t)i * sizeof event, sizeof event);
        ready[i].tag = event.data.u64;
        ready[i].events = from_epoll(event.events);
        woken |= event.data.u64 == KA_WAKE_TAG;
    }
    return woken;
}

static void drain(const struct ka_poller *poller) {
    uint64_t wakes;

    if (read(poller->wake, &wakes, sizeof wakes) < 0)
        return; /* EAGAIN: a child of a fork has drained it */
}

static int wait_all(struct ka_poller *poller, int timeout_ms,
                    const struct ka_ready **out) {
    int count;

    *out = poller->ready;
    count = epoll_wait(poller->set, tail_of(poller->ready, poller->room),
                       poller->room, timeout_ms < 0 ? -1 : timeout_ms);
    if (count < 0)
        return -errno;
    if (count == poller->room)
        count = take_all(poller, count);
    *out = poller->ready;
    if (unpack(poller->ready, poller->room, count))
        drain(poller);
    return count;
}

static int epoll_wake(const struct ka_poller *poller) {
    uint64_t one = 1;
    int before = errno;
    int rc = 0;

    /* EAGAIN: woken 2^64 times already, that will do. */
    if (write(poller->wake, &one, sizeof one) < 0 && errno != EAGAIN)
        rc = -errno;
    errno = before;
    return rc;
}

static int epoll_fileno(const struct ka_poller *poller) {
    return poller->set;
}

const struct ka_backend ka_backend_epoll = {
    "epoll",      epoll_open, epoll_close, epoll_add,   epoll_modify,
    epoll_remove, wait_all,   epoll_wake,  epoll_fileno};

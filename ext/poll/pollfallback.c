/* pollfallback.c - poll(2), which every system has in some form.
 *
 * A dense array is what the system takes, so an entry that is removed is
 * replaced by the last one, and a hash table leads from a descriptor to its
 * place: descriptors are small numbers on some systems only. Costs what poll
 * costs, time in the number of descriptors for each wait.
 *
 * It behaves as epoll does where it can:
 *
 * A closed descriptor is dropped without a word when a wait finds it, and
 * the wait goes on; poll alone would report it at once and for ever.
 *
 * A number that is in the array and is added again has been closed and has
 * come back as another open file, for the caller has each number once. The
 * new tag replaces the old one. No way to tell the two open files apart
 * exists here, hence no -EEXIST, and a number that comes back unasked is
 * reported under the old tag.
 *
 * A regular file is always ready; epoll refuses it.
 */
#include "backend.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#define KA_FIRST_ROOM 64

struct ka_poller {
    ka_sock wake[2];
    size_t count; /* [0] is the wake's */
    size_t room;  /* a power of two */
    struct ka_os_polled *polled;
    uint64_t *tag;
    struct ka_ready *ready;
    void *scratch;
    uint32_t *bucket; /* 2 * room: a place + 1, or 0; probed linearly */
};

/* ---- from a descriptor to its place ------------------------------------- */

static size_t home_of(const struct ka_poller *poller, ka_sock fd) {
    uint64_t mixed = (uint64_t)fd * UINT64_C(0x9E3779B97F4A7C15);

    return (size_t)(mixed >> 32) & (2 * poller->room - 1);
}

static size_t after(const struct ka_poller *poller, size_t bucket) {
    return (bucket + 1) & (2 * poller->room - 1);
}

/* Its bucket, or the empty one that it would take. */
static size_t bucket_of(const struct ka_poller *poller, ka_sock fd) {
    size_t bucket = home_of(poller, fd);

    while (poller->bucket[bucket] &&
           poller->polled[poller->bucket[bucket] - 1].fd != fd)
        bucket = after(poller, bucket);
    return bucket;
}

/* Empty a bucket, and let those that had to make way for it move up. */
static void vacate(struct ka_poller *poller, size_t hole) {
    size_t mask = 2 * poller->room - 1;
    size_t bucket = hole;
    size_t home;

    for (;;) {
        bucket = after(poller, bucket);
        if (!poller->bucket[bucket])
            break;
        home = home_of(poller, poller->polled[poller->bucket[bucket] - 1].fd);
        if (((bucket - home) & mask) < ((bucket - hole) & mask))
            continue; /* its home lies behind the hole */
        poller->bucket[hole] = poller->bucket[bucket];
        hole = bucket;
    }
    poller->bucket[hole] = 0;
}

/* ---- the array ---------------------------------------------------------- */

static int enlarge(void *array, size_t size) {
    void **held = array;
    void *larger = realloc(*held, size);

    if (!larger)
        return -ENOMEM;
    *held = larger;
    return 0;
}

/* When it fails some arrays are larger than they need be. */
static int grow(struct ka_poller *poller, size_t room) {
    uint32_t *bucket;
    size_t i;

    if (room > UINT32_MAX / 4 || room > SIZE_MAX / 64)
        return -ENOMEM;
    if (enlarge(&poller->polled, room * sizeof *poller->polled) < 0 ||
        enlarge(&poller->tag, room * sizeof *poller->tag) < 0 ||
        enlarge(&poller->ready, room * sizeof *poller->ready) < 0 ||
        enlarge(&poller->scratch, ka_os_poll_room(room)) < 0)
        return -ENOMEM;
    bucket = calloc(2 * room, sizeof *bucket);
    if (!bucket)
        return -ENOMEM;
    free(poller->bucket);
    poller->bucket = bucket;
    poller->room = room;
    for (i = 1; i < poller->count; i++)
        bucket[bucket_of(poller, poller->polled[i].fd)] = (uint32_t)i + 1;
    return 0;
}

static void drop(struct ka_poller *poller, size_t place) {
    size_t last = poller->count - 1;

    vacate(poller, bucket_of(poller, poller->polled[place].fd));
    if (place != last) {
        poller->bucket[bucket_of(poller, poller->polled[last].fd)] =
            (uint32_t)place + 1;
        poller->polled[place] = poller->polled[last];
        poller->tag[place] = poller->tag[last];
    }
    poller->count = last;
}

/* ---- the backend -------------------------------------------------------- */

static void poll_close(struct ka_poller *poller) {
    ka_os_wake_close(poller->wake);
    free(poller->polled);
    free(poller->tag);
    free(poller->ready);
    free(poller->scratch);
    free(poller->bucket);
    free(poller);
}

static int poll_open(struct ka_poller **out) {
    struct ka_poller *poller = calloc(1, sizeof *poller);
    int rc;

    if (!poller)
        return -ENOMEM;
    rc = ka_os_wake_open(poller->wake);
    if (rc < 0) {
        free(poller);
        return rc;
    }
    rc = grow(poller, KA_FIRST_ROOM);
    if (rc < 0) {
        poll_close(poller);
        return rc;
    }
    poller->polled[0].fd = poller->wake[0];
    poller->polled[0].wanted = KA_READ;
    poller->tag[0] = KA_WAKE_TAG;
    poller->count = 1;
    *out = poller;
    return 0;
}

/* 0 or -EBADF. The last place of `scratch` is enough for one. */
static int look_at(struct ka_poller *poller, ka_sock fd) {
    struct ka_os_polled one = {fd, KA_READ, 0};
    int rc;

    do
        rc = ka_os_poll(&one, 1, 0, poller->scratch);
    while (rc == -EINTR);
    if (rc < 0)
        return rc;
    return one.found & KA_CLOSED ? -EBADF : 0;
}

static int poll_add(struct ka_poller *poller, ka_sock fd, uint32_t events,
                    uint64_t tag) {
    size_t bucket, place;
    int rc = look_at(poller, fd);

    if (rc < 0)
        return rc;
    bucket = bucket_of(poller, fd);
    if (poller->bucket[bucket]) {
        place = poller->bucket[bucket] - 1;
    } else {
        if (poller->count == poller->room) {
            rc = grow(poller, poller->room * 2);
            if (rc < 0)
                return rc;
            bucket = bucket_of(poller, fd);
        }
        place = poller->count++;
        poller->bucket[bucket] = (uint32_t)place + 1;
    }
    poller->polled[place].fd = fd;
    poller->polled[place].wanted = events & (KA_READ | KA_WRITE);
    poller->polled[place].found = 0;
    poller->tag[place] = tag;
    return 0;
}

static int poll_modify(struct ka_poller *poller, ka_sock fd, uint32_t events,
                       uint64_t tag) {
    uint32_t place = poller->bucket[bucket_of(poller, fd)];
    int rc = look_at(poller, fd);

    if (rc < 0)
        return rc;
    if (!place)
        return -ENOENT;
    poller->polled[place - 1].wanted = events & (KA_READ | KA_WRITE);
    poller->tag[place - 1] = tag;
    return 0;
}

static int poll_remove(struct ka_poller *poller, ka_sock fd) {
    uint32_t place = poller->bucket[bucket_of(poller, fd)];
    int rc = look_at(poller, fd);

    if (place)
        drop(poller, place - 1);
    if (rc < 0)
        return rc;
    return place ? 0 : -ENOENT;
}

/* The entries with something found, without those that are closed. */
static int collect(struct ka_poller *poller, int found) {
    size_t place = 0;
    int count = 0;

    while (found > 0 && place < poller->count) {
        uint32_t events = poller->polled[place].found;

        if (events)
            found--;
        if (events & KA_CLOSED) {
            if (place == 0)
                return -EBADF; /* nobody could wake us any more */
            drop(poller, place);
            continue; /* another has taken its place */
        }
        if (events) {
            poller->ready[count].tag = poller->tag[place];
            poller->ready[count++].events = events;
        }
        place++;
    }
    if (count > 0 && poller->ready[0].tag == KA_WAKE_TAG)
        ka_os_wake_drain(poller->wake);
    return count;
}

static int poll_wait(struct ka_poller *poller, int timeout_ms,
                     const struct ka_ready **out) {
    int64_t began = timeout_ms > 0 ? ka_os_now_ms() : 0;
    int64_t left = timeout_ms;
    int rc;

    *out = poller->ready;
    for (;;) {
        rc = ka_os_poll(poller->polled, poller->count, (int)left,
                        poller->scratch);
        if (rc <= 0)
            return rc;
        rc = collect(poller, rc);
        if (rc != 0 || left == 0)
            return rc;
        /* Only closed ones: go on with the time that is left. The clock may
         * have lagged at the beginning, and nobody may wait too short. */
        if (timeout_ms > 0) {
            left = began + timeout_ms + ka_os_clock_lag_ms() - ka_os_now_ms();
            left = left < 0 ? 0 : left > timeout_ms ? timeout_ms : left;
        }
    }
}

static int poll_wake(const struct ka_poller *poller) {
    return ka_os_wake(poller->wake);
}

static int poll_fileno(const struct ka_poller *poller) {
    (void)poller;
    return -1;
}

const struct ka_backend ka_backend_poll = {
    "poll",      poll_open, poll_close, poll_add,   poll_modify,
    poll_remove, poll_wait, poll_wake,  poll_fileno};

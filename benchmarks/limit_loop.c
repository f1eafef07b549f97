/* limit_loop.c - what readiness, touching and sweeping cost in plain C.
 *
 * Compiled by native.py together with the C core. Each function returns
 * nanoseconds, or -errno; the rivals of the deadline table were written for
 * this comparison.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "loop.h"
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- readiness -------------------------------------------------------- */

int limit_epoll_open(const int *fds, int n) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), i;

    for (i = 0; epoll >= 0 && i < n; i++) {
        struct epoll_event event = {.events = EPOLLIN};

        event.data.u64 = (uint64_t)i;
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0) {
            close(epoll);
            return -errno;
        }
    }
    return epoll < 0 ? -errno : epoll;
}

/* Poll, and stamp what is ready with the coarse clock. */
int64_t limit_epoll_poll(int epoll, int n, long rounds) {
    struct epoll_event *event = malloc(sizeof *event * (size_t)(n + 1));
    uint32_t *stamp = calloc((size_t)n + 1, sizeof *stamp);
    int64_t began = now_ns();

    while (event && stamp && rounds-- > 0) {
        int got = epoll_wait(epoll, event, n + 1, 0), i;
        uint32_t tick = ka_os_tick();

        for (i = 0; i < got; i++)
            stamp[event[i].data.u64 % ((uint64_t)n + 1)] = tick;
    }
    began = now_ns() - began;
    free(event);
    free(stamp);
    return began;
}

/* ---- touching --------------------------------------------------------- */

/* `entries` of a table in an order that a cache cannot foresee. */
int64_t limit_touch(int entries, long rounds, int with_clock) {
    struct ka_table table;
    struct ka_place *place = malloc(sizeof *place * (size_t)entries);
    int64_t began, i, at = 0, stride = 7919 % entries;
    ka_tick now = 1000;
    ka_id id;

    ka_table_init(&table);
    for (i = 0; place && i < entries; i++) {
        if (ka_table_add(&table, 6000, now, &id) < 0)
            return -ENOMEM;
        ka_table_place(&table, id, &place[i]);
    }
    began = now_ns();
    for (i = 0; place && i < rounds; i++) {
        at += stride;
        if (at >= entries)
            at -= entries;
        if (with_clock)
            now = ka_os_tick();
        else if (at == 0)
            now++;
        ka_place_touch(&place[at], now);
    }
    began = now_ns() - began;
    free(place);
    ka_table_close(&table);
    return began;
}

/* ---- sweeping --------------------------------------------------------- */

struct swept { /* nanoseconds, but for what is named otherwise */
    int64_t add, mean_sweep, worst_slice, touches, expire_all, expire_spread,
        hot_bytes, all_bytes, claimed, compared;
};

static uint64_t state = 88172645463325252u;

static uint32_t chance(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state % below);
}

/* A sweep in slices, as the loop makes them. What is due is touched, which is
 * the simulation's doing, or released, which counts. */
static int64_t sweep(struct ka_table *table, ka_tick now, ka_id *out,
                     int64_t *worst, int64_t *claimed, int release) {
    int64_t all = 0, took;
    int more = 1, n, i;

    while (more) {
        int64_t began = now_ns();

        n = ka_table_expire(table, now, out, 4096, KA_BUDGET, &more);
        took = now_ns() - began;
        *worst = took > *worst ? took : *worst;
        *claimed += n;
        for (i = 0; i < n; i++)
            if (release)
                ka_table_release(table, out[i]);
            else
                ka_touch(table, out[i], now);
        all += release ? now_ns() - began : took;
    }
    return all;
}

/* `entries` with a limit of 60 s; a hundredth of them touched every 100 ms,
 * for `seconds` of table time, of which the first 60 find nothing due and do
 * not count in the means; then silence until all are due. */
int64_t limit_tracked(int entries, int seconds, struct swept *found) {
    static ka_id out[4096];
    ka_id *id = malloc(sizeof *id * (size_t)entries);
    struct ka_place *place = malloc(sizeof *place * (size_t)entries);
    struct ka_table table;
    ka_tick now = 100;
    int64_t began, touching, sweeping, sweeps = 0, worst = 0;
    size_t hot, all;
    int i, step;

    if (!id || !place)
        return -ENOMEM;
    memset(found, 0, sizeof *found);
    ka_table_init(&table);
    began = now_ns();
    for (i = 0; i < entries; i++)
        if (ka_table_add(&table, 6000, now, &id[i]) < 0)
            return -ENOMEM;
    found->add = (now_ns() - began) / entries;
    for (i = 0; i < entries; i++)
        ka_table_place(&table, id[i], &place[i]);
    ka_table_bytes(&table, &hot, &all);
    found->hot_bytes = (int64_t)hot;
    found->all_bytes = (int64_t)all;
    for (step = 0; step < seconds * 10; step++) {
        began = now_ns();
        for (i = 0; i < entries / 100; i++)
            ka_place_touch(&place[chance((uint32_t)entries)], now);
        touching = now_ns() - began;
        now += 10;
        sweeping =
            sweep(&table, now, out, &found->worst_slice, &found->compared, 0);
        if (step < 600)
            continue;
        found->touches += touching;
        found->mean_sweep += sweeping;
        sweeps++;
    }
    found->mean_sweep /= sweeps;
    found->touches /= sweeps;
    /* Silence: what was touched at different times expires over 60 s. */
    for (step = 0; step < 620; step++) {
        now += 10;
        found->expire_spread +=
            sweep(&table, now, out, &worst, &found->compared, 1);
    }
    if (worst > found->worst_slice)
        found->worst_slice = worst;
    for (i = 0; i < entries; i++)
        if (ka_table_add(&table, 6000, now, &id[i]) < 0)
            return -ENOMEM;
    now += 6100;
    found->expire_all =
        sweep(&table, now, out, &found->worst_slice, &found->claimed, 1);
    ka_table_close(&table);
    free(id);
    free(place);
    return 0;
}

/* Rival: a deadline per connection, all of them compared at each sweep. */
int64_t limit_scan(int entries, int sweeps, int64_t *worst) {
    uint32_t *deadline = malloc(sizeof *deadline * (size_t)entries);
    int64_t all = 0;
    uint32_t now = 100, due = 0;
    int i, step;

    if (!deadline)
        return -ENOMEM;
    for (i = 0; i < entries; i++)
        deadline[i] = now + 6000;
    *worst = 0;
    for (step = 0; step < sweeps; step++) {
        int64_t began;

        for (i = 0; i < entries / 100; i++)
            deadline[chance((uint32_t)entries)] = now + 6000;
        now += 10;
        began = now_ns();
        for (i = 0; i < entries; i++)
            due += (int32_t)(now - deadline[i]) >= 0;
        began = now_ns() - began;
        all += began;
        *worst = began > *worst ? began : *worst;
        for (i = 0; due && i < entries; i++)
            if ((int32_t)(now - deadline[i]) >= 0)
                deadline[i] = now + 6000;
        due = 0;
    }
    free(deadline);
    return all / sweeps;
}

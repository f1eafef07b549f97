/* watcher.c - the thread that looks, a step of it, and who may talk to it.
 *
 * What can go wrong, and how this file stops it:
 *
 * Nobody looked. The process was stopped, the machine was asleep, the thread
 * got no time: then every connection has been silent for that long, and it
 * was not the peers' doing. A step that comes more than a second later than
 * it was due begins an epoch, and silence before it counts for nobody. The
 * same when the time went by within a step; deed.c sees that before it acts.
 *
 * Callers starve. A lock that is given back and taken again at once is taken
 * by the same thread, as a rule. So when slices follow each other, the thread
 * asks whether somebody wants in, and then waits for a notice, or a
 * millisecond, in place of the next slice.
 *
 * A caller's wish sleeps. Who makes something due sooner leaves a notice,
 * from inside; the thread is either waiting for one, or will ask for the next
 * deadline before it waits.
 *
 * Fork. The child has no thread, a lock that is held by nobody, and possibly
 * half of a change. Nothing there is locked, joined or waited for. When
 * somebody was inside at that moment the memory is left as it is: a leak is
 * better than a walk through a list that is half-way between two states.
 *
 * Memory. What cannot be had stops nothing: discovery tries again at its next
 * pass, callers are told.
 */
#include "ward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KA_STALLED_MS 1000
#define KA_FIRST_BUCKETS 64
#define KA_HANDFUL 64       /* looks */
#define KA_HANDFULS 8       /* to a step */
#define KA_STEP_BUDGET 1024 /* blocks of the table */
#define KA_WAY_IN_MS 1

/* ---- settings ----------------------------------------------------------- */

/* A v4 network that was written as v6. */
static void unmap(struct ka_network *network) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0,    0,
                                             0, 0, 0, 0, 0xff, 0xff};

    if (network->family != 6 || network->bits < 96 ||
        memcmp(network->address, mapped, sizeof mapped) != 0)
        return;
    memmove(network->address, network->address + 12, 4);
    network->family = 4;
    network->bits -= 96;
}

static int64_t least_of(const struct ka_watcher_settings *settings) {
    const struct ka_limits *limits = &settings->limits;
    int64_t least = ka_sooner(limits->never_spoke_ms, limits->unanswered_ms);

    least = ka_sooner(least, limits->answered_ms);
    least = ka_sooner(least, limits->stalled_ms);
    least = ka_sooner(least, limits->detect_ms);
    if (limits->min_rate >= 0)
        least = ka_sooner(least, KA_RATE_STRETCH_MS);
    if (settings->evict_above >= 0)
        least = ka_sooner(least, 4000);
    return ka_clamp(least < 0 ? 8000 : least, KA_SPARE_MS, 86400000);
}

static void adopt(struct ka_watcher *watcher,
                  const struct ka_watcher_settings *settings) {
    struct ka_watcher_settings *own = &watcher->settings;
    int i;

    *own = *settings;
    own->ports = (int32_t)ka_clamp(own->ports, 0, KA_MOST_PORTS);
    own->networks = (int32_t)ka_clamp(own->networks, 0, KA_MOST_NETWORKS);
    own->limits.idle_ms = KA_NO_TIME;
    for (i = 0; i < own->networks; i++) {
        if (own->exempt[i].bits > 128)
            own->exempt[i].bits = 128;
        unmap(&own->exempt[i]);
        if (own->exempt[i].family == 4 && own->exempt[i].bits > 32)
            own->exempt[i].bits = 32;
    }
    watcher->least_ms = least_of(own);
    ka_discovery_settings(watcher);
}

/* ---- birth and end ------------------------------------------------------ */

static void free_holds(struct ka_watcher *watcher) {
    struct ka_hold *hold, *next;
    uint32_t i;

    for (i = 0; i < watcher->held_buckets; i++)
        for (hold = watcher->held[i]; hold; hold = next) {
            next = hold->next;
            free(hold);
        }
    free(watcher->held);
}

static void free_memory(struct ka_watcher *watcher) {
    if (watcher->ring)
        ka_ring_free(watcher->ring);
    if (watcher->monitor)
        ka_monitor_free(watcher->monitor);
    ka_wards_free(watcher);
    ka_discovery_free(watcher);
    free_holds(watcher);
    free(watcher);
}

int ka_watcher_new(struct ka_watcher **out,
                   const struct ka_watcher_settings *settings,
                   uint32_t queue) {
    struct ka_watcher *watcher = calloc(1, sizeof *watcher);
    uint64_t identity;
    int rc;

    if (watcher == NULL)
        return -ENOMEM;
    ka_table_init(&watcher->table);
    watcher->due_ms = KA_NO_TIME;
    watcher->tick = (ka_tick)(ka_os_now_ms() / KA_TICK_MS);
    watcher->monitor = ka_monitor_new();
    watcher->ring = ka_ring_new(queue > 0 ? queue : 1);
    watcher->bucket = calloc(KA_FIRST_BUCKETS, sizeof *watcher->bucket);
    watcher->held = calloc(KA_FIRST_BUCKETS, sizeof(struct ka_hold *));
    if (!watcher->monitor || !watcher->ring || !watcher->bucket ||
        !watcher->held) {
        free_memory(watcher);
        return -ENOMEM;
    }
    watcher->buckets = watcher->held_buckets = KA_FIRST_BUCKETS;
    adopt(watcher, settings);
    rc = ka_reserve_open(&watcher->reserve);
    /* A pipe has no identity; it is another matter when nothing has. */
    if (rc == 0 &&
        ka_identify(watcher->reserve.sock, &identity) == -ENOPROTOOPT) {
        ka_reserve_close(&watcher->reserve);
        rc = -ENOPROTOOPT;
    }
    if (rc < 0) {
        free_memory(watcher);
        return rc;
    }
    *out = watcher;
    return 0;
}

static void enter(struct ka_watcher *watcher) {
    atomic_fetch_add(&watcher->callers, 1);
    ka_monitor_enter(watcher->monitor);
    atomic_fetch_sub(&watcher->callers, 1);
    atomic_store(&watcher->busy, 1);
}

static void leave(struct ka_watcher *watcher) {
    atomic_store(&watcher->busy, 0);
    ka_monitor_leave(watcher->monitor);
}

/* Something is due sooner than the thread may know. */
static void leave_with_notice(struct ka_watcher *watcher) {
    ka_monitor_notify(watcher->monitor);
    leave(watcher);
}

void ka_watcher_stop(struct ka_watcher *watcher) {
    struct ka_thread *thread;

    enter(watcher);
    watcher->stopping = watcher->stopped = 1;
    thread = watcher->thread;
    watcher->thread = NULL;
    leave_with_notice(watcher);
    if (thread)
        ka_thread_join(thread);
    ka_ring_close(watcher->ring);
}

void ka_watcher_free(struct ka_watcher *watcher) {
    if (watcher == NULL)
        return;
    ka_watcher_stop(watcher);
    ka_reserve_close(&watcher->reserve);
    free_memory(watcher);
}

void ka_watcher_abandon(struct ka_watcher *watcher) {
    if (watcher == NULL)
        return;
    ka_reserve_abandon(&watcher->reserve);
    if (watcher->thread)
        ka_thread_forget(watcher->thread);
    watcher->thread = NULL;
    if (!atomic_load(&watcher->busy))
        free_memory(watcher);
}

/* ---- the thread --------------------------------------------------------- */

static void run(void *argument) {
    struct ka_watcher *watcher = argument;
    int64_t delay;

    ka_monitor_enter(watcher->monitor);
    while (!watcher->stopping && !watcher->lost) {
        atomic_store(&watcher->busy, 1);
        delay = ka_watcher_step(watcher, ka_os_now_ms());
        atomic_store(&watcher->busy, 0);
        if (watcher->lost)
            break;
        if (delay > 0) /* the clock shows it so much later */
            delay += ka_os_clock_lag_ms();
        else if (delay == 0 && atomic_load(&watcher->callers) > 0)
            delay = KA_WAY_IN_MS;
        if (delay != 0) {
            ka_monitor_wait(watcher->monitor, delay);
        } else {
            ka_monitor_leave(watcher->monitor);
            ka_monitor_enter(watcher->monitor);
        }
    }
    ka_monitor_leave(watcher->monitor);
}

int ka_watcher_start(struct ka_watcher *watcher) {
    int rc = 0;

    enter(watcher);
    if (watcher->stopped)
        rc = -ESHUTDOWN;
    else if (watcher->thread == NULL)
        rc = ka_thread_start(&watcher->thread, run, watcher, "stillalive");
    leave(watcher);
    return rc;
}

/* ---- a step ------------------------------------------------------------- */

static void begin_step(struct ka_watcher *watcher, int64_t now_ms) {
    if (watcher->late || (watcher->due_ms != KA_NO_TIME &&
                          now_ms - watcher->due_ms > KA_STALLED_MS)) {
        watcher->epoch_ms = now_ms;
        watcher->stats.stalls++;
    }
    watcher->late = 0;
    watcher->taken = 0;
    watcher->entered_ms = ka_os_now_ms();
    watcher->tick = (ka_tick)(now_ms / KA_TICK_MS);
}

/* Look at a handful of those that are due. 1: there is more. */
static int look_at_some(struct ka_watcher *watcher, int64_t now_ms) {
    ka_id due[KA_HANDFUL];
    struct ka_ward *ward;
    int more = 0, count, i;

    count = ka_table_expire(&watcher->table, watcher->tick, due, KA_HANDFUL,
                            KA_STEP_BUDGET, &more);
    for (i = 0; i < count && !watcher->lost && !watcher->late; i++) {
        ward = ka_ward_of(watcher, due[i]);
        if (ward)
            ka_ward_look(watcher, ward, now_ms);
    }
    for (; i < count; i++)
        (void)ka_table_put_back(&watcher->table, due[i]);
    return more;
}

/* A look takes a microsecond, and a deed some dozens. */
static int look_round(struct ka_watcher *watcher, int64_t now_ms) {
    int handfuls = KA_HANDFULS, more = 1;

    if (watcher->table.live == 0)
        return 0;
    while (more && handfuls-- > 0 && watcher->taken < KA_TAKES &&
           !watcher->lost && !watcher->late)
        more = look_at_some(watcher, now_ms);
    return more;
}

static int64_t next_step(struct ka_watcher *watcher, int64_t now_ms) {
    /* Bounds of what has been released stay behind until a sweep. */
    int64_t ticks = watcher->table.live > 0
                        ? ka_table_next(&watcher->table, watcher->tick)
                        : KA_NO_TIME;
    int64_t next = ticks;

    if (ticks > 0)
        next = ticks * KA_TICK_MS - now_ms % KA_TICK_MS;
    next = ka_sooner(next, ka_discover_next(watcher, now_ms));
    return ka_sooner(next, ka_evict_next(watcher, now_ms));
}

int64_t ka_watcher_step(struct ka_watcher *watcher, int64_t now_ms) {
    int64_t before = ka_thread_cpu_us(), after, delay;
    int more;

    if (watcher->lost)
        return KA_NO_TIME;
    begin_step(watcher, now_ms);
    more = ka_wards_review(watcher, now_ms);
    more |= look_round(watcher, now_ms);
    if (!watcher->lost && !watcher->late) {
        ka_discover(watcher, now_ms);
        ka_evict(watcher, now_ms);
    }
    after = ka_thread_cpu_us();
    if (before >= 0 && after > before)
        watcher->stats.cpu_us += (uint64_t)(after - before);
    if (watcher->lost)
        return KA_NO_TIME;
    delay = more || watcher->late ? 0 : next_step(watcher, now_ms);
    watcher->due_ms = delay < 0 ? KA_NO_TIME : now_ms + delay;
    return delay;
}

/* ---- callers ------------------------------------------------------------ */

/* Callers come at any time, and a ward's deadline counts from the tick. */
static void catch_up(struct ka_watcher *watcher) {
    ka_tick now = (ka_tick)(ka_os_now_ms() / KA_TICK_MS);

    if (ka_tick_since(now, watcher->tick) > 0)
        watcher->tick = now;
}

int ka_watcher_update(struct ka_watcher *watcher,
                      const struct ka_watcher_settings *settings) {
    enter(watcher);
    adopt(watcher, settings);
    watcher->review = watcher->pages * KA_PAGE;
    leave_with_notice(watcher);
    return 0;
}

/* The clock lags; a limit that begins now must not begin before. */
static int64_t latest_now(void) {
    return ka_os_now_ms() + ka_os_clock_lag_ms();
}

int64_t ka_watcher_watch(struct ka_watcher *watcher, ka_sock sock,
                         uint64_t identity, const struct ka_first_look *first,
                         int64_t detect_ms, int64_t idle_ms, int32_t deed) {
    struct ka_first_look now;
    struct ka_ward *ward;
    int64_t token = -ENOMEM;

    if (first == NULL)
        first = ka_first_look(sock, &now) == 0 ? &now : NULL;
    enter(watcher);
    catch_up(watcher);
    ward = ka_ward_add(watcher, sock, identity, KA_WARD_WATCHED);
    if (ward) {
        ward->detect_ms = detect_ms < 0 ? KA_NO_TIME : detect_ms;
        ward->idle_ms = idle_ms < 0 ? KA_NO_TIME : idle_ms;
        ward->deed = deed;
        ward->from_ms = latest_now();
        if (first && first->identity == identity)
            ka_ward_first(ward, first);
        token = (int64_t)ward->id;
    }
    leave_with_notice(watcher);
    return token;
}

int ka_watcher_cancel(struct ka_watcher *watcher, int64_t token) {
    struct ka_ward *ward;
    int found;

    enter(watcher);
    ward = ka_ward_of(watcher, (ka_id)token);
    found = ward && (ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDED)) ==
                        KA_WARD_WATCHED;
    if (found)
        ka_ward_drop(watcher, ward);
    leave(watcher);
    return found;
}

void ka_watcher_drain(struct ka_watcher *watcher, int on) {
    enter(watcher);
    watcher->draining = on != 0;
    watcher->discovery.next_ms = 0;
    if (on)
        watcher->review = watcher->pages * KA_PAGE;
    leave_with_notice(watcher);
}

int ka_watcher_take(struct ka_watcher *watcher, struct ka_occurrence *out,
                    int room, int64_t timeout_ms) {
    return ka_ring_take(watcher->ring, out, room, timeout_ms);
}

void ka_watcher_stats(struct ka_watcher *watcher,
                      struct ka_watcher_stats *out) {
    enter(watcher);
    *out = watcher->stats;
    out->dropped = ka_ring_dropped(watcher->ring);
    leave(watcher);
}

/* ---- holds -------------------------------------------------------------- */

static struct ka_hold **hold_link(const struct ka_watcher *watcher,
                                  uint64_t identity) {
    uint64_t mixed = identity * UINT64_C(0x9E3779B97F4A7C15);
    struct ka_hold **link =
        &watcher->held[(uint32_t)(mixed >> 32) & (watcher->held_buckets - 1)];

    while (*link && (*link)->identity != identity)
        link = &(*link)->next;
    return link;
}

/* Without memory for it the chains get longer. */
static void widen_holds(struct ka_watcher *watcher) {
    uint32_t old_buckets = watcher->held_buckets, i;
    struct ka_hold **old = watcher->held, **fresh, **link, *hold, *next;

    if (watcher->stats.held + watcher->released < old_buckets ||
        old_buckets > UINT32_MAX / 4)
        return;
    fresh = calloc(old_buckets * (size_t)2, sizeof *fresh);
    if (fresh == NULL)
        return;
    watcher->held = fresh;
    watcher->held_buckets = old_buckets * 2;
    for (i = 0; i < old_buckets; i++)
        for (hold = old[i]; hold; hold = next) {
            next = hold->next;
            link = hold_link(watcher, hold->identity);
            hold->next = NULL;
            *link = hold;
        }
    free(old);
}

int ka_is_held(const struct ka_watcher *watcher, uint64_t identity) {
    const struct ka_hold *hold;

    if (watcher->stats.held == 0)
        return 0;
    hold = *hold_link(watcher, identity);
    return hold != NULL && hold->count > 0;
}

int ka_watcher_hold(struct ka_watcher *watcher, uint64_t identity) {
    struct ka_hold *hold, **link;

    enter(watcher);
    link = hold_link(watcher, identity);
    hold = *link;
    if (hold == NULL) {
        hold = calloc(1, sizeof *hold);
        if (hold == NULL) {
            leave(watcher);
            return -ENOMEM;
        }
        hold->identity = identity;
        *link = hold;
    } else if (hold->count == 0) {
        watcher->released--;
    }
    if (hold->count++ == 0)
        watcher->stats.held++;
    widen_holds(watcher);
    leave(watcher);
    return 0;
}

static void unlink_hold(struct ka_hold **link) {
    struct ka_hold *hold = *link;

    *link = hold->next;
    free(hold);
}

/* A pass that is under way may have been at its number before; the one after
 * that finds it. */
static int is_to_be_found(const struct ka_watcher *watcher,
                          uint64_t identity) {
    const struct ka_ward *ward = NULL;

    do
        ward = ka_ward_next(watcher, identity, ward);
    while (ward && (ward->flags & KA_WARD_WATCHED));
    return ward == NULL && watcher->settings.discover;
}

int64_t ka_held_until(struct ka_watcher *watcher, uint64_t identity) {
    struct ka_hold **link;
    int64_t ended_ms;

    if (watcher->released == 0)
        return 0;
    link = hold_link(watcher, identity);
    if (*link == NULL || (*link)->count > 0)
        return 0;
    ended_ms = (*link)->ended_ms;
    unlink_hold(link);
    watcher->released--;
    return ended_ms;
}

void ka_holds_forget(struct ka_watcher *watcher) {
    uint64_t passes = watcher->stats.passes;
    struct ka_hold **link;
    uint32_t i;

    for (i = 0; i < watcher->held_buckets && watcher->released > 0; i++)
        for (link = &watcher->held[i]; *link;)
            if ((*link)->count == 0 && passes - (*link)->ended_pass > 1) {
                unlink_hold(link);
                watcher->released--;
            } else {
                link = &(*link)->next;
            }
}

/* Most have not been due meanwhile; those will find at their next look that
 * their clocks began anew. */
static int begin_anew(struct ka_watcher *watcher, uint64_t identity) {
    int64_t now_ms = ka_os_now_ms(), from_ms = latest_now();
    struct ka_ward *ward = NULL;
    int waited = 0;

    catch_up(watcher);
    while ((ward = ka_ward_next(watcher, identity, ward)) != NULL) {
        if (ward->from_ms < from_ms)
            ward->from_ms = from_ms;
        if (!(ward->flags & KA_WARD_HELD))
            continue;
        ward->flags &= ~(uint32_t)KA_WARD_HELD;
        ka_ward_arm(watcher, ward, 0, now_ms);
        waited = 1;
    }
    return waited;
}

void ka_watcher_release(struct ka_watcher *watcher, uint64_t identity) {
    struct ka_hold **link, *hold;

    enter(watcher);
    link = hold_link(watcher, identity);
    hold = *link;
    if (hold && hold->count > 0 && --hold->count == 0) {
        watcher->stats.held--;
        if (is_to_be_found(watcher, identity)) {
            hold->ended_ms = latest_now();
            hold->ended_pass = watcher->stats.passes;
            watcher->released++;
        } else {
            unlink_hold(link);
        }
        if (begin_anew(watcher, identity))
            ka_monitor_notify(watcher->monitor);
    }
    leave(watcher);
}

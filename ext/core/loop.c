/* loop.c - what is ready and what is idle, in one batch.
 *
 * What can go wrong, and how this file stops it:
 *
 * Idle is said of one who has just spoken. Data may have come while nobody
 * looked. So the order is fixed: read the clock, then poll without waiting,
 * then stamp what is ready with a clock read after it, and only then expire,
 * with the time read first. Whatever had come by that time counts. A poll
 * that a signal cut short has not looked and expires nobody; it is made
 * again. The second answer replaces the first: it contains it.
 *
 * Time in which nobody looked. After a stop, a suspended machine or a callback
 * that took for ever all would be idle at once. More than KA_STALL_MS at a
 * stretch is taken out of the clock. The clock goes back by that: what
 * another thread touched in between is due later than it need be, by no more
 * than was taken out, and never earlier. The owner's own calls use the time
 * as it will be (ka_owner_now), so that an entry added in a long callback does
 * not get the length of the callback as a gift.
 *
 * A number means another. Each tag carries a generation that changes when
 * the slot is released. Removing an entry ends its tag at once, so reading a
 * batch the owner sees by ka_loop_entry that an event's entry has gone. The
 * batch holds no pointer into the entries, `user` is copied and never
 * followed, and adding may move nothing but the directories.
 *
 * A dup is left open after close. Then epoll reports the old tag for ever,
 * and by the number it cannot be taken out. A tag of the wrong generation
 * therefore gets the poller replaced, once per batch. Who closes a
 * descriptor that is registered still must not expect that its number means
 * nothing when something else has it: the new set takes what it finds.
 *
 * Fork. The child shares the parent's set: what it takes out of it is gone
 * for the parent, and a wake of its is one for the parent. Whatever touches
 * the poller asks first whether this is still the process (ka_at_home), and
 * makes a poller of its own if not. The flag of a wake needs no descriptor.
 *
 * A wake is lost, or is one too many. ka_loop_wake leaves a flag and then
 * makes the poller readable; the round that returns takes the flag. A poller
 * that becomes readable without the flag is a rescue: another thread has
 * touched an entry that was due, and its new deadline may come before the
 * end of the sleep. That ends the sleep and not the round. To miss neither,
 * the owner says that it sleeps, then looks at flag and table, then sleeps;
 * the others change flag or table, then ask whether it sleeps. Both ask and
 * say by a read-modify-write of `asleep`, so one sees what the other did.
 *
 * A poller is replaced while another thread wakes through it. Wakers are
 * counted; the old one is closed when none holds it, or at a later
 * replacement. Nobody waits for anybody. The same holds at the end: shut
 * closes what nobody holds, close comes when no other thread is left.
 *
 * Re-entrancy. Between begin and the reading of the batch anything but begin
 * may be called; the batch is data of its own.
 */
#include "loop.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "registry.h"

#define KA_FIRST_ROOM 64
#define KA_MOST_WAIT_MS 86400000
#define KA_MOST_TIMEOUT_MS (INT64_MAX / 4)
#define KA_STALL_TICKS (KA_STALL_MS / KA_TICK_MS)
#define KA_TRIES 8 /* of a poll that signals cut short */

/* The best first. */
static const struct ka_backend *const backends[] = {
#ifdef KA_HAS_EPOLL
    &ka_backend_epoll,
#endif
#ifdef KA_HAS_KQUEUE
    &ka_backend_kqueue,
#endif
    &ka_backend_poll,
};

const struct ka_backend *ka_loop_backend(const char *name) {
    size_t i;

    for (i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return NULL;
}

const char *ka_loop_backend_names(void) {
#if defined(KA_HAS_EPOLL)
    return "epoll, poll";
#elif defined(KA_HAS_KQUEUE)
    return "kqueue, poll";
#else
    return "poll";
#endif
}

/* ---- birth and end ------------------------------------------------------ */

static void looked_at(struct ka_loop *loop, ka_tick now) {
    atomic_store_explicit(&loop->looked, now, memory_order_relaxed);
}

int ka_loop_init(struct ka_loop *loop, const struct ka_backend *backend) {
    struct ka_poller *poller = NULL;
    int rc;

    memset(loop, 0, sizeof *loop);
    loop->backend = backend ? backend : backends[0];
    atomic_store(&loop->fork_generation, ka_os_fork_generation());
    rc = loop->backend->open(&poller);
    if (rc < 0)
        return rc;
    atomic_store(&loop->poller, poller);
    ka_table_init(&loop->table);
    ka_clock_init(&loop->clock);
    loop->room = KA_FIRST_ROOM;
    loop->event = malloc(KA_FIRST_ROOM * sizeof *loop->event);
    loop->expired = malloc(KA_SLICE * sizeof *loop->expired);
    if (!loop->event || !loop->expired) {
        ka_loop_close(loop);
        return -ENOMEM;
    }
    loop->lag_ms = ka_os_clock_lag_ms();
    looked_at(loop, ka_clock_now(&loop->clock));
    ka_moved(loop);
    return 0;
}

void ka_loop_close(struct ka_loop *loop) {
    ka_loop_shut(loop);
    if (loop->poller)
        loop->backend->close(loop->poller);
    if (loop->retired)
        loop->backend->close(loop->retired);
    loop->poller = loop->retired = NULL;
    ka_table_close(&loop->table);
    ka_registry_free(loop);
    free(loop->event);
    free(loop->expired);
    loop->event = NULL;
    loop->expired = NULL;
}

/* ---- the poller, in this process ---------------------------------------- */

/* Whether nothing is left to be closed. */
static int let_go(struct ka_loop *loop) {
    if (loop->retired && atomic_load(&loop->wakers) == 0) {
        loop->backend->close(loop->retired);
        loop->retired = NULL;
    }
    return !loop->retired;
}

/* Put everything that is polled into a new set, without what is closed. */
static int fill(const struct ka_loop *loop, struct ka_poller *poller) {
    uint32_t slot, slots = loop->pages * KA_PAGE;
    const struct ka_entry *entry;
    int rc;

    for (slot = 0; slot < slots; slot++) {
        entry = ka_entry_at(loop, slot);
        if (!entry->generation || !entry->events)
            continue;
        rc = loop->backend->add(poller, entry->fd, entry->events,
                                (ka_id)entry->generation << 32 | slot);
        if (rc == -ENOMEM || rc == -ENOSPC)
            return rc;
    }
    return 0;
}

static int renew(struct ka_loop *loop) {
    struct ka_poller *fresh = NULL;
    int rc;

    if (!let_go(loop))
        return -EAGAIN;
    rc = loop->backend->open(&fresh);
    if (rc < 0)
        return rc;
    rc = fill(loop, fresh);
    if (rc < 0) {
        loop->backend->close(fresh);
        return rc;
    }
    loop->retired = atomic_exchange(&loop->poller, fresh);
    loop->waited = -EINTR; /* what the old one has answered is gone */
    loop->stats.rebuilds++;
    (void)let_go(loop);
    return 0;
}

void ka_loop_shut(struct ka_loop *loop) {
    uint32_t slot, slots = loop->pages * KA_PAGE;
    struct ka_entry *entry;

    for (slot = 0; slot < slots; slot++) {
        entry = ka_entry_at(loop, slot);
        if (!entry->generation)
            continue;
        (void)ka_table_release(&loop->table,
                               (ka_id)entry->generation << 32 | slot);
        memset(entry, 0, sizeof *entry);
    }
    loop->registered = loop->buckets = 0;
    if (!let_go(loop))
        return; /* ka_loop_close will */
    loop->retired = atomic_exchange(&loop->poller, NULL);
    (void)let_go(loop);
}

int ka_at_home(struct ka_loop *loop) {
    unsigned generation = ka_os_fork_generation();
    int rc;

    if (atomic_load_explicit(&loop->fork_generation, memory_order_relaxed) ==
        generation)
        return 0;
    /* No thread but this one has survived: none wakes, none sleeps. Others
     * that begin meanwhile leave the poller alone until the last line. */
    atomic_store(&loop->wakers, 0);
    atomic_store(&loop->asleep, 0);
    rc = renew(loop);
    if (rc < 0)
        return rc;
    atomic_store(&loop->fork_generation, generation);
    return 0;
}

int ka_wake_poller(struct ka_loop *loop) {
    struct ka_poller *poller;
    int rc;

    if (atomic_load(&loop->fork_generation) != ka_os_fork_generation())
        return 0; /* it is the parent's; the owner will look at the flag */
    atomic_fetch_add(&loop->wakers, 1);
    poller = atomic_load(&loop->poller);
    rc = poller ? loop->backend->wake(poller) : 0;
    atomic_fetch_sub(&loop->wakers, 1);
    return rc;
}

int ka_loop_wake(struct ka_loop *loop) {
    atomic_store(&loop->woken, 1);
    return ka_wake_poller(loop);
}

/* Whether the round is to return, which it is told once. */
static int take_wake(struct ka_loop *loop) {
    if (!atomic_load(&loop->woken) || !atomic_exchange(&loop->woken, 0))
        return 0;
    loop->stats.wakes++;
    return 1;
}

/* ---- the time that counts ----------------------------------------------- */

ka_tick ka_owner_now(struct ka_loop *loop) {
    ka_tick now = ka_clock_now(&loop->clock);
    ka_tick looked = atomic_load_explicit(&loop->looked, memory_order_relaxed);

    if (ka_tick_since(now, looked) > KA_STALL_TICKS)
        return looked + KA_STALL_TICKS;
    return now;
}

/* The time now. What the loop has not looked beyond `asked` and a second does
 * not count. */
static ka_tick without_stall(struct ka_loop *loop, int32_t asked) {
    ka_tick now = ka_clock_now(&loop->clock);
    int32_t excess = ka_tick_since(now, loop->looked) - asked - KA_STALL_TICKS;

    if (excess <= 0)
        return now;
    ka_clock_skip(&loop->clock, (uint32_t)excess);
    loop->stats.stalls++;
    loop->stats.skipped_ticks += (uint64_t)excess;
    return now - (uint32_t)excess;
}

/* ---- one look ----------------------------------------------------------- */

/* How many events fit now, `wanted` if there is memory. */
static int make_room(struct ka_loop *loop, int wanted) {
    int room = loop->room;
    struct ka_event *larger;

    if (wanted <= room)
        return wanted;
    while (room < wanted && room <= INT32_MAX / 2)
        room *= 2;
    larger = realloc(loop->event, (size_t)room * sizeof *larger);
    if (!larger || room < wanted) {
        if (larger)
            loop->event = larger;
        return loop->room;
    }
    loop->event = larger;
    loop->room = room;
    return wanted;
}

/* Stamp what is ready and make it the batch. What does not fit is ready
 * still at the next look. */
static void take(struct ka_loop *loop, int count, ka_tick now) {
    const struct ka_ready *ready = loop->ready;
    const struct ka_ready *end;
    struct ka_entry *const *entries = loop->page;
    struct ka_page *const *pages = loop->table.page;
    const uint32_t known = loop->pages * KA_PAGE;
    const struct ka_entry *entry;
    struct ka_event *event;
    struct ka_place place;
    uint32_t at;
    int stale = 0, touched = 0;

    looked_at(loop, now);
    end = ready + make_room(loop, count);
    event = loop->event;
    for (; ready != end; ready++) {
        place.slot = KA_SLOT(ready->tag);
        place.generation = KA_GENERATION(ready->tag);
        if (place.slot >= known) /* the wake's tag */
            continue;
        at = place.slot % KA_PAGE;
        entry = &entries[place.slot / KA_PAGE][at];
        if (entry->generation != place.generation) {
            stale++;
            continue;
        }
        place.page = pages[place.slot / KA_PAGE];
        place.word = &place.page->word[at];
        place.cold = &place.page->cold[at];
        touched |= ka_place_touch(&place, now);
        event->id = ready->tag;
        event->user = entry->user;
        event->events = ready->events;
        event++;
    }
    loop->count = (int)(event - loop->event);
    loop->stats.events += (uint64_t)loop->count;
    if (touched & KA_RESCUED)
        ka_moved(loop);
    if (stale) {
        loop->stats.stale_events += (uint64_t)stale;
        (void)renew(loop); /* if it fails they come again */
    }
}

/* Add those to the batch whose deadline had come at `now`. */
static void expire(struct ka_loop *loop, ka_tick now) {
    uint32_t live = loop->table.live;
    /* Not 0: bounds of entries that have gone must be looked at, too. */
    int room = live == 0 ? 1 : live < KA_SLICE ? (int)live : KA_SLICE;
    int more = 0;
    int count, i;
    struct ka_event *event;

    ka_moved(loop);
    room = make_room(loop, loop->count + room) - loop->count;
    if (room <= 0) /* no memory: they stay due */
        return;
    count = ka_table_expire(&loop->table, now, loop->expired, room, KA_BUDGET,
                            &more);
    event = loop->event + loop->count;
    for (i = 0; i < count; i++, event++) {
        event->id = loop->expired[i];
        event->user = ka_entry_at(loop, KA_SLOT(event->id))->user;
        event->events = KA_IDLENESS;
    }
    loop->count += count;
    loop->stats.idle += (uint64_t)count;
}

/* Ticks from `now` to the table's next deadline, 0 due, -1 none. The table
 * is asked once per tick, for its directory is as long as the millions in it,
 * or when a deadline may have come nearer. */
static int64_t next_deadline(struct ka_loop *loop, ka_tick now) {
    if (now != loop->asked ||
        atomic_load_explicit(&loop->moved, memory_order_relaxed)) {
        (void)atomic_exchange(&loop->moved, 0); /* then read the table */
        loop->asked = now;
        loop->next = ka_table_next(&loop->table, now);
    }
    return loop->next;
}

/* Poll without waiting, and expire by the time read before. */
static int look(struct ka_loop *loop, ka_tick before, int due) {
    int tries = KA_TRIES;
    int rc;

    do {
        rc = loop->backend->wait(
            atomic_load_explicit(&loop->poller, memory_order_relaxed), 0,
            &loop->ready);
        loop->stats.interrupted += rc == -EINTR;
    } while (rc == -EINTR && --tries > 0);
    loop->count = 0;
    if (rc < 0)
        return rc == -EINTR ? 0 : rc;
    loop->looked = before; /* it may be stopped during the poll, too */
    take(loop, rc, without_stall(loop, 0));
    if (due)
        expire(loop, before);
    return loop->count;
}

/* ---- a round ------------------------------------------------------------ */

int ka_loop_begin(struct ka_loop *loop, int64_t timeout_ms) {
    ka_tick now;
    int rc = ka_at_home(loop);

    if (rc < 0)
        return rc;
    loop->stats.waits++;
    loop->timeout_ms =
        timeout_ms > KA_MOST_TIMEOUT_MS ? KA_MOST_TIMEOUT_MS : timeout_ms;
    loop->until_ms = -1;
    now = without_stall(loop, 0);
    rc = look(loop, now, next_deadline(loop, now) == 0);
    if (rc < 0 || take_wake(loop) || rc > 0 || timeout_ms == 0)
        return rc;
    return KA_LOOP_WAIT;
}

/* What is left of the caller's time, -1 for ever. The first wait gets all of
 * it; the clock may have lagged when it began. */
static int64_t time_left(struct ka_loop *loop, int64_t now_ms) {
    if (loop->timeout_ms < 0)
        return -1;
    if (loop->until_ms < 0) {
        loop->until_ms = now_ms + loop->timeout_ms + loop->lag_ms;
        return loop->timeout_ms;
    }
    return loop->until_ms > now_ms ? loop->until_ms - now_ms : 0;
}

/* Until the table's next deadline, -1 for ever. It comes with a tick of the
 * clock, and the clock shows it `lag_ms` later. */
static int64_t table_left(struct ka_loop *loop, int64_t now_ms) {
    int64_t ticks = next_deadline(loop, ka_clock_now(&loop->clock));

    if (ticks <= 0)
        return ticks;
    if (atomic_load_explicit(&loop->clock.frozen, memory_order_relaxed))
        return -1; /* sleeping would not bring it nearer */
    return ticks * KA_TICK_MS - now_ms % KA_TICK_MS + loop->lag_ms;
}

static int time_to_wait(struct ka_loop *loop) {
    int64_t now_ms = ka_os_now_ms();
    int64_t left = time_left(loop, now_ms);
    int64_t next = table_left(loop, now_ms);

    loop->ends = left >= 0;
    if (next >= 0 && (left < 0 || next < left)) {
        left = next;
        loop->ends = 0;
    }
    if (left > KA_MOST_WAIT_MS) {
        left = KA_MOST_WAIT_MS;
        loop->ends = 0;
    }
    if (atomic_load(&loop->woken)) {
        left = 0;
        loop->ends = 0;
    }
    return (int)left;
}

void ka_loop_wait(struct ka_loop *loop) {
    loop->wait_ms = 0;
    loop->waited = ka_at_home(loop);
    if (loop->waited < 0)
        return;
    (void)atomic_exchange(&loop->asleep, 1);
    loop->wait_ms = time_to_wait(loop);
    loop->waited = loop->backend->wait(atomic_load(&loop->poller),
                                       loop->wait_ms, &loop->ready);
    atomic_store(&loop->asleep, 0);
}

int ka_loop_finish(struct ka_loop *loop) {
    int rc = ka_at_home(loop);
    ka_tick now;
    int due;

    if (rc < 0)
        return rc;
    rc = loop->waited;
    if (rc < 0 && rc != -EINTR)
        return rc;
    loop->stats.interrupted += rc == -EINTR;
    now = loop->wait_ms < 0
              ? ka_clock_now(&loop->clock)
              : without_stall(loop, loop->wait_ms / KA_TICK_MS + 1);
    due = next_deadline(loop, now) == 0;
    if (due || rc < 0) {
        rc = look(loop, now, due);
        if (rc < 0)
            return rc;
    } else {
        take(loop, rc, now);
    }
    if (take_wake(loop) || loop->count > 0)
        return loop->count;
    if (loop->timeout_ms >= 0 && ((loop->waited == 0 && loop->ends) ||
                                  ka_os_now_ms() >= loop->until_ms))
        return 0;
    return KA_LOOP_WAIT;
}

/* ---- tests -------------------------------------------------------------- */

void ka_loop_freeze(struct ka_loop *loop, ka_tick tick) {
    ka_clock_freeze(&loop->clock, tick);
    looked_at(loop, ka_clock_now(&loop->clock));
}

void ka_loop_advance(struct ka_loop *loop, uint32_t ticks) {
    ka_clock_advance(&loop->clock, ticks);
    looked_at(loop, loop->looked + ticks);
}

/* registry.c - entries: from a descriptor to its slot, from an id to what it
 * stands for, and what may be done with one.
 *
 * Whatever fails leaves everything as it was: memory is taken first, the
 * poller is asked last. An entry that is gone has generation 0, which no id
 * has. What the poller says to a removal is of no interest: the descriptor
 * may be closed.
 *
 * The hash has chains through the entries, so that nothing but the array of
 * their heads ever grows.
 */
#include "registry.h"

#include <errno.h>
#include <stdlib.h>

#define KA_FIRST_BUCKETS 64
#define KA_MOST_BUCKETS (1u << 30)

/* ---- memory, and the hash ------------------------------------------------
 */

static uint32_t *bucket_of(const struct ka_loop *loop, ka_sock fd) {
    uint64_t mixed = (uint64_t)fd * UINT64_C(0x9E3779B97F4A7C15);

    return &loop->bucket[(uint32_t)(mixed >> 32) & (loop->buckets - 1)];
}

static int reserve_slot(struct ka_loop *loop, uint32_t slot) {
    uint32_t page = slot / KA_PAGE;
    struct ka_entry **larger;

    while (loop->pages <= page) { /* slots come in order: once */
        larger = realloc(loop->page, (loop->pages + 1) * sizeof *larger);
        if (!larger)
            return -ENOMEM;
        loop->page = larger;
        larger[loop->pages] = calloc(KA_PAGE, sizeof **larger);
        if (!larger[loop->pages])
            return -ENOMEM;
        loop->pages++;
    }
    return 0;
}

static void chain(struct ka_loop *loop, uint32_t slot) {
    struct ka_entry *entry = ka_entry_at(loop, slot);
    uint32_t *bucket = bucket_of(loop, entry->fd);

    entry->next = *bucket;
    *bucket = slot + 1;
    loop->registered++;
}

static void unchain(struct ka_loop *loop, uint32_t slot) {
    struct ka_entry *entry = ka_entry_at(loop, slot);
    uint32_t *link = bucket_of(loop, entry->fd);

    while (*link != slot + 1)
        link = &ka_entry_at(loop, *link - 1)->next;
    *link = entry->next;
    loop->registered--;
}

static int reserve_fd(struct ka_loop *loop) {
    uint32_t buckets = loop->buckets ? loop->buckets * 2 : KA_FIRST_BUCKETS;
    uint32_t *old = loop->bucket, *fresh;
    uint32_t old_buckets = loop->buckets;
    uint32_t i, link, next;

    if (loop->registered < loop->buckets || loop->buckets == KA_MOST_BUCKETS)
        return 0;
    fresh = calloc(buckets, sizeof *fresh);
    if (!fresh)
        return -ENOMEM;
    loop->bucket = fresh;
    loop->buckets = buckets;
    loop->registered = 0;
    for (i = 0; i < old_buckets; i++) {
        for (link = old[i]; link; link = next) {
            next = ka_entry_at(loop, link - 1)->next;
            chain(loop, link - 1);
        }
    }
    free(old);
    return 0;
}

void ka_registry_free(struct ka_loop *loop) {
    uint32_t i;

    for (i = 0; i < loop->pages; i++)
        free(loop->page[i]);
    free(loop->page);
    free(loop->bucket);
    loop->page = NULL;
    loop->bucket = NULL;
    loop->pages = loop->buckets = loop->registered = 0;
}

/* ---- add, modify, remove ------------------------------------------------ */

ka_id ka_loop_find(const struct ka_loop *loop, ka_sock fd) {
    uint32_t link = loop->buckets ? *bucket_of(loop, fd) : 0;
    const struct ka_entry *entry;

    for (; link; link = entry->next) {
        entry = ka_entry_at(loop, link - 1);
        if (entry->fd == fd)
            return (ka_id)entry->generation << 32 | (link - 1);
    }
    return 0;
}

struct ka_entry *ka_loop_entry(const struct ka_loop *loop, ka_id id) {
    uint32_t slot = KA_SLOT(id);
    struct ka_entry *entry;

    if (slot / KA_PAGE >= loop->pages || KA_GENERATION(id) == 0)
        return NULL;
    entry = ka_entry_at(loop, slot);
    return entry->generation == KA_GENERATION(id) ? entry : NULL;
}

/* -EEXIST: a description that outlived its number has come back to it. */
static int poll_it(struct ka_loop *loop, ka_sock fd, uint32_t events,
                   ka_id id) {
    struct ka_poller *poller = atomic_load(&loop->poller);
    int rc = loop->backend->add(poller, fd, events, id);

    if (rc == -EEXIST)
        rc = loop->backend->modify(poller, fd, events, id);
    return rc;
}

static int add_entry(struct ka_loop *loop, ka_id id, ka_sock fd,
                     uint32_t events, void *user) {
    uint32_t slot = KA_SLOT(id);
    struct ka_entry *entry;
    int rc = reserve_slot(loop, slot);

    if (rc == 0 && events)
        rc = poll_it(loop, fd, events, id);
    if (rc < 0)
        return rc;
    entry = ka_entry_at(loop, slot);
    entry->user = user;
    entry->fd = fd;
    entry->generation = KA_GENERATION(id);
    entry->events = events;
    if (fd != KA_NO_FD)
        chain(loop, slot);
    return 0;
}

int ka_loop_add(struct ka_loop *loop, ka_sock fd, uint32_t events,
                ka_tick limit, void *user, ka_id *out) {
    ka_id id;
    int rc = 0;

    events = fd == KA_NO_FD ? 0 : events & (KA_READ | KA_WRITE);
    if (fd != KA_NO_FD) {
        if (ka_loop_find(loop, fd))
            return -EEXIST;
        rc = reserve_fd(loop);
    }
    if (rc == 0)
        rc = ka_at_home(loop);
    if (rc >= 0)
        rc = ka_table_add(&loop->table, limit, ka_owner_now(loop), &id);
    if (rc < 0)
        return rc;
    rc = add_entry(loop, id, fd, events, user);
    if (rc < 0) {
        (void)ka_table_release(&loop->table, id);
        return rc;
    }
    if (loop->next < 0 || limit < loop->next)
        ka_moved(loop);
    *out = id;
    return 0;
}

int ka_loop_modify(struct ka_loop *loop, ka_id id, uint32_t events) {
    struct ka_entry *entry = ka_loop_entry(loop, id);
    int rc;

    events &= KA_READ | KA_WRITE;
    if (!entry)
        return -ENOENT;
    if (entry->fd == KA_NO_FD)
        return events ? -EINVAL : 0;
    if (events == entry->events)
        return 0;
    rc = ka_at_home(loop);
    if (rc < 0)
        return rc;
    if (!events) {
        (void)loop->backend->remove(atomic_load(&loop->poller), entry->fd);
        rc = 0;
    } else {
        rc = -ENOENT;
        if (entry->events)
            rc = loop->backend->modify(atomic_load(&loop->poller), entry->fd,
                                       events, id);
        if (rc == -ENOENT)
            rc = poll_it(loop, entry->fd, events, id);
    }
    if (rc >= 0)
        entry->events = events;
    return rc;
}

int ka_loop_remove(struct ka_loop *loop, ka_id id) {
    struct ka_entry *entry = ka_loop_entry(loop, id);

    if (!entry)
        return 0;
    if (entry->events && ka_at_home(loop) >= 0)
        (void)loop->backend->remove(atomic_load(&loop->poller), entry->fd);
    if (entry->fd != KA_NO_FD)
        unchain(loop, KA_SLOT(id));
    entry->generation = 0;
    entry->events = 0;
    entry->user = NULL;
    (void)ka_table_release(&loop->table, id);
    return 1;
}

/* ---- activity and limits ------------------------------------------------ */

/* A due entry has a deadline again, maybe before the sleeper's end. */
static int after_touch(struct ka_loop *loop, int touched) {
    if (touched == KA_RESCUED) {
        ka_moved(loop);
        if (atomic_fetch_or(&loop->asleep, 0))
            (void)ka_wake_poller(loop);
    }
    return touched;
}

int ka_loop_touch(struct ka_loop *loop, ka_id id) {
    return after_touch(loop,
                       ka_touch(&loop->table, id, ka_clock_now(&loop->clock)));
}

int ka_loop_mark(struct ka_loop *loop, ka_id id, struct ka_mark *out) {
    struct ka_place place;

    if (!ka_table_place(&loop->table, id, &place))
        return 0;
    out->word = (void *)place.word;
    out->cold = place.cold;
    out->page = place.page;
    out->loop = loop;
    out->generation = place.generation;
    out->slot = place.slot;
    return 1;
}

int ka_mark_touch_slow(const struct ka_mark *mark, ka_tick now) {
    struct ka_place place = {mark->word, mark->cold, mark->page,
                             mark->generation, mark->slot};

    return after_touch(mark->loop, ka_place_touch(&place, now)) != KA_STALE;
}

int ka_touch_now(const struct ka_mark *mark) {
    return ka_mark_touch(mark);
}

int ka_loop_set_limit(struct ka_loop *loop, ka_id id, ka_tick limit) {
    ka_moved(loop);
    return ka_table_set_limit(&loop->table, id, limit, ka_owner_now(loop));
}

int ka_loop_pause(struct ka_loop *loop, ka_id id) {
    return ka_table_pause(&loop->table, id);
}

int ka_loop_resume(struct ka_loop *loop, ka_id id) {
    ka_moved(loop);
    return ka_table_resume(&loop->table, id, ka_owner_now(loop));
}

void ka_loop_put_back(struct ka_loop *loop) {
    int i;

    ka_moved(loop);
    for (i = 0; i < loop->count; i++)
        if (loop->event[i].events & KA_IDLENESS)
            (void)ka_table_put_back(&loop->table, loop->event[i].id);
}

int64_t ka_loop_idle_ms(struct ka_loop *loop, ka_id id) {
    int64_t ticks = ka_table_idle(&loop->table, id, ka_owner_now(loop));

    return ticks < 0 ? -1 : ticks * KA_TICK_MS;
}

int ka_loop_longest_idle(struct ka_loop *loop, ka_id *out, int n) {
    return ka_table_longest_idle(&loop->table, ka_owner_now(loop), out, n);
}

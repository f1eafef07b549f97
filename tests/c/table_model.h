/* table_model.h - a table beside a naive one, which must agree.
 *
 * The naive one keeps an array of entries and 64-bit time. Every function
 * does one thing to both and returns NULL, or in what they differ.
 */
#ifndef KA_TABLE_MODEL_H
#define KA_TABLE_MODEL_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

#define MODEL_SLOTS (3 * KA_PAGE)
#define MODEL_STALE 16
/* What an entry without a limit may be moved on by, at most. */
#define MODEL_MOVED (1 << 20)
/* Time that may pass between complete sweeps: below two weeks. */
#define MODEL_UNSWEPT 120000000

enum model_state { MODEL_FREE, MODEL_LIVE, MODEL_DUE, MODEL_PAUSED };

struct model_entry {
    int64_t last;
    uint32_t limit;
    uint32_t generation;
    uint32_t place; /* in `used` */
    enum model_state state;
};

struct model {
    struct ka_table table;
    int64_t now, swept;
    uint32_t count;
    uint32_t used[MODEL_SLOTS]; /* slots, in no order */
    struct model_entry entry[MODEL_SLOTS];
    ka_id stale[MODEL_STALE];
    unsigned stales;
    ka_id out[MODEL_SLOTS];
};

static inline void model_open(struct model *model, int64_t now) {
    memset(model, 0, sizeof *model);
    ka_table_init(&model->table);
    model->now = model->swept = now;
}

static inline void model_close(struct model *model) {
    ka_table_close(&model->table);
}

static inline ka_id model_id(const struct model *model, uint32_t slot) {
    return (ka_id)model->entry[slot].generation << 32 | slot;
}

/* The first ticks after a wrap have another meaning. */
static inline int64_t model_stamp(int64_t time) {
    uint32_t tick = (uint32_t)time;

    return tick < KA_FIRST ? time + (KA_FIRST - tick) : time;
}

static inline int64_t model_deadline(const struct model_entry *entry) {
    int64_t at = entry->last + entry->limit + 1;

    return (uint32_t)at == 0 ? at + 1 : at;
}

static inline int64_t model_idle(const struct model *model,
                                 const struct model_entry *entry) {
    int64_t idle = model->now - entry->last;

    if (entry->state == MODEL_PAUSED || idle < 0)
        return 0;
    idle = (uint32_t)idle;
    return idle > (int64_t)3 << 30 ? -1 : idle;
}

static inline int model_is_limited(const struct model_entry *entry) {
    return entry->limit != KA_NO_LIMIT;
}

/* ---- one entry ---------------------------------------------------------- */

static inline const char *model_add(struct model *model, uint32_t limit) {
    struct model_entry *entry;
    ka_id id = 0;

    if (model->count == MODEL_SLOTS)
        return NULL;
    if (ka_table_add(&model->table, limit, (ka_tick)model->now, &id) != 0)
        return "add fails";
    if (KA_SLOT(id) >= MODEL_SLOTS)
        return "add took a new slot with old ones free";
    entry = &model->entry[KA_SLOT(id)];
    if (entry->state != MODEL_FREE)
        return "add gave a slot that is in use";
    if (KA_GENERATION(id) <= entry->generation)
        return "add gave an old generation";
    entry->generation = KA_GENERATION(id);
    entry->last = model_stamp(model->now);
    entry->limit = limit;
    entry->state = MODEL_LIVE;
    entry->place = model->count;
    model->used[model->count++] = KA_SLOT(id);
    return NULL;
}

static inline const char *model_release(struct model *model, uint32_t slot) {
    struct model_entry *entry = &model->entry[slot];
    uint32_t moved;

    model->stale[model->stales++ % MODEL_STALE] = model_id(model, slot);
    if (ka_table_release(&model->table, model_id(model, slot)) != 1)
        return "release does not know the id";
    moved = model->used[--model->count];
    model->used[entry->place] = moved;
    model->entry[moved].place = entry->place;
    entry->state = MODEL_FREE;
    return NULL;
}

/* By a thread whose clock is `skew` ahead. */
static inline const char *model_touch(struct model *model, uint32_t slot,
                                      int64_t skew, int by_place) {
    struct model_entry *entry = &model->entry[slot];
    ka_id id = model_id(model, slot);
    int64_t stamp = model_stamp(model->now + skew);
    ka_tick tick = (ka_tick)(model->now + skew);
    struct ka_place place;
    int touched;

    if (by_place && ka_table_place(&model->table, id, &place) != 1)
        return "place does not know the id";
    touched = by_place ? ka_place_touch(&place, tick)
                       : ka_touch(&model->table, id, tick);
    if (touched != (entry->state == MODEL_DUE ? KA_RESCUED : KA_LIVE))
        return "touch says something else";
    if (entry->state == MODEL_DUE) {
        entry->state = MODEL_LIVE;
        entry->last = stamp;
    } else if (entry->state == MODEL_LIVE && entry->last < stamp)
        entry->last = stamp;
    return NULL;
}

static inline const char *model_set_limit(struct model *model, uint32_t slot,
                                          uint32_t limit) {
    struct model_entry *entry = &model->entry[slot];
    ka_id id = model_id(model, slot);
    int64_t idle = ka_table_idle(&model->table, id, (ka_tick)model->now);

    /* It may have been moved on, and when is the table's own affair. */
    if (!model_is_limited(entry) && entry->state == MODEL_LIVE && idle > 0)
        entry->last = model->now - idle;
    if (ka_table_set_limit(&model->table, id, limit, (ka_tick)model->now) != 1)
        return "set_limit does not know the id";
    entry->limit = limit;
    if (entry->state == MODEL_DUE) {
        entry->state = MODEL_LIVE;
        entry->last = model_stamp(model->now);
    }
    return NULL;
}

static inline const char *model_pause(struct model *model, uint32_t slot) {
    if (ka_table_pause(&model->table, model_id(model, slot)) != 1)
        return "pause does not know the id";
    model->entry[slot].state = MODEL_PAUSED;
    return NULL;
}

static inline const char *model_resume(struct model *model, uint32_t slot) {
    struct model_entry *entry = &model->entry[slot];

    if (ka_table_resume(&model->table, model_id(model, slot),
                        (ka_tick)model->now) != 1)
        return "resume does not know the id";
    if (entry->state == MODEL_PAUSED) {
        entry->state = MODEL_LIVE;
        entry->last = model_stamp(model->now);
    }
    return NULL;
}

static inline const char *model_look(const struct model *model,
                                     uint32_t slot) {
    const struct model_entry *entry = &model->entry[slot];
    const struct ka_table *table = &model->table;
    ka_id id = model_id(model, slot);
    int64_t want = model_idle(model, entry);
    int64_t got = ka_table_idle(table, id, (ka_tick)model->now);

    if (!ka_table_live(table, id))
        return "live does not know the id";
    if (ka_table_limit(table, id) != entry->limit)
        return "the limit is another";
    if (ka_table_paused(table, id) != (entry->state == MODEL_PAUSED))
        return "paused says something else";
    if (want >= 0 && got != want &&
        (model_is_limited(entry) || want < KA_NO_LIMIT - MODEL_MOVED ||
         got < KA_NO_LIMIT - MODEL_MOVED - KA_FIRST || got > want))
        return "the idle time is another";
    return NULL;
}

/* Ids of the past reach nothing. */
static inline const char *model_stale(struct model *model, unsigned which) {
    struct ka_table *table = &model->table;
    ka_id id = model->stale[which % MODEL_STALE];
    ka_tick now = (ka_tick)model->now;
    struct ka_place place;

    if (ka_table_live(table, id) || ka_touch(table, id, now) != KA_STALE ||
        ka_table_release(table, id) || ka_table_place(table, id, &place) ||
        ka_table_set_limit(table, id, 1, now) || ka_table_pause(table, id) ||
        ka_table_resume(table, id, now) || ka_table_paused(table, id) ||
        ka_table_limit(table, id) || ka_table_idle(table, id, now) != -1)
        return "a stale id reaches something";
    return NULL;
}

/* ---- all of them -------------------------------------------------------- */

static inline const char *model_take_claim(struct model *model, ka_id id) {
    struct model_entry *entry;

    if (KA_SLOT(id) >= MODEL_SLOTS)
        return "claimed a slot out of range";
    entry = &model->entry[KA_SLOT(id)];
    if (entry->state == MODEL_FREE || entry->generation != KA_GENERATION(id))
        return "claimed a stale id";
    if (entry->state != MODEL_LIVE)
        return "claimed an entry that has no deadline";
    if (!model_is_limited(entry))
        return "claimed an entry that has no limit";
    if (model_deadline(entry) > model->now)
        return "claimed early";
    entry->state = MODEL_DUE;
    return NULL;
}

/* After a complete sweep nothing may be left. */
static inline const char *model_nothing_left(const struct model *model) {
    const struct model_entry *entry;
    uint32_t i;

    for (i = 0; i < model->count; i++) {
        entry = &model->entry[model->used[i]];
        if (entry->state == MODEL_LIVE && model_is_limited(entry) &&
            model_deadline(entry) <= model->now)
            return "a due entry was not claimed";
    }
    return NULL;
}

static inline const char *model_expire(struct model *model, int room,
                                       int budget, int *more) {
    struct ka_table *table = &model->table;
    uint64_t opened = table->opened;
    const char *wrong = NULL;
    int count, i;

    if (room > MODEL_SLOTS)
        room = MODEL_SLOTS;
    count = ka_table_expire(table, (ka_tick)model->now, model->out, room,
                            budget, more);
    opened = table->opened - opened;
    if (count < 0 || count > (room > 0 ? room : 0))
        return "claimed more than there was room for";
    if (opened > (uint64_t)(budget > 0 ? budget : 0))
        return "opened more than the budget";
    for (i = 0; i < count && wrong == NULL; i++)
        wrong = model_take_claim(model, model->out[i]);
    if (wrong == NULL && !*more) {
        model->swept = model->now;
        wrong = model_nothing_left(model);
        if (wrong == NULL && ka_table_next(table, (ka_tick)model->now) == 0)
            wrong = "next says now, but nothing is left";
    }
    if (wrong == NULL && *more && count < room &&
        opened < (uint64_t)(budget > 0 ? budget : 0))
        wrong = "stopped early";
    return wrong;
}

/* In slices, until nothing is left. */
static inline const char *model_sweep(struct model *model, int room,
                                      int budget) {
    const char *wrong = NULL;
    int more = 1, slices;

    for (slices = 0; more && wrong == NULL; slices++) {
        wrong = model_expire(model, room, budget, &more);
        if (slices > 2 * MODEL_SLOTS)
            wrong = "a sweep comes to no end";
    }
    return wrong;
}

static inline const char *model_advance(struct model *model, int64_t ticks) {
    const char *wrong = NULL;

    if (model->now + ticks - model->swept > MODEL_UNSWEPT)
        wrong = model_sweep(model, 100, 100);
    model->now += ticks;
    return wrong;
}

static inline const char *model_next(const struct model *model) {
    int64_t got = ka_table_next(&model->table, (ka_tick)model->now);
    const struct model_entry *entry;
    int64_t left;
    uint32_t i;

    for (i = 0; i < model->count; i++) {
        entry = &model->entry[model->used[i]];
        left = model_deadline(entry) - model->now;
        if (entry->state == MODEL_LIVE && model_is_limited(entry) &&
            (got < 0 || got > (left < 0 ? 0 : left)))
            return "next comes after a deadline";
    }
    return NULL;
}

struct model_idler {
    int64_t idle;
    ka_id id;
};

static inline int model_compare(const void *left, const void *right) {
    const struct model_idler *a = left, *b = right;

    if (a->idle != b->idle)
        return a->idle < b->idle ? 1 : -1;
    return KA_SLOT(a->id) < KA_SLOT(b->id) ? -1 : 1;
}

static inline const char *model_longest(struct model *model, int n) {
    static struct model_idler want[MODEL_SLOTS];
    const struct model_entry *entry;
    int count = 0, got, i;

    for (i = 0; i < (int)model->count; i++) {
        entry = &model->entry[model->used[i]];
        want[count].idle = model_idle(model, entry);
        want[count].id = model_id(model, model->used[i]);
        if (want[count].idle < 0) /* longer than ticks can tell */
            return NULL;
        count += entry->state != MODEL_PAUSED && model_is_limited(entry);
    }
    qsort(want, (size_t)count, sizeof *want, model_compare);
    if (n > MODEL_SLOTS)
        n = MODEL_SLOTS;
    got = ka_table_longest_idle(&model->table, (ka_tick)model->now, model->out,
                                n);
    if (got != (n < 0 ? 0 : count < n ? count : n))
        return "longest_idle gives another number";
    for (i = 0; i < got; i++)
        if (model->out[i] != want[i].id)
            return "longest_idle gives others";
    return NULL;
}

#endif

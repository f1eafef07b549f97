/* table.c - the words, their bounds, and the sweep.
 *
 * What can go wrong, and what stops it:
 *
 * A touch is lost, and a busy connection is called idle. Touches and claims
 * change a word by compare-exchange alone. A claim replaces exactly the word
 * it judged: a touch that came first makes it fail, and the new word is
 * judged. A touch that comes after finds KA_DUE and rescues. Plain stores
 * would lose one of the two. A touch that writes nothing has found its own
 * tick or a later one. (Pausing and releasing exchange the word: no touch is
 * to outlive those.)
 *
 * A touch reaches another connection. The word holds the generation, and
 * release changes both in one exchange. Words stay where they are until
 * close, so a stale place reads a word.
 *
 * An entry sleeps for ever, because no bound covers its deadline. Touching a
 * live entry moves its deadline later, and a lower bound stays one. Only a
 * rescue by another thread brings a deadline into a block that the owner may
 * be sweeping. Both write, then read what the other writes:
 *
 *     rescue: word := tick;           then lower the block's bound
 *     sweep:  block's bound := never; then read the word, lower the bound
 *
 * All of these are sequentially consistent. If the sweep has not seen the
 * word, its read came first in the one order of all, so the bound was never
 * already when the rescue lowered it, and the sweep only lowers it further.
 * "Scan, then store the least" would lose the rescue, and so would a rescue
 * that looked at the bound with less than a sequentially consistent load: it
 * could see the one from before the sweep, low enough, and do nothing. The
 * same holds one level up, with the block's bound in place of the word and
 * the page's in place of the block's: lower the block first, then the page;
 * page := never first, then read the blocks.
 *
 * A changed limit meets a touch. The word holds when, the limit is apart and
 * changed by the owner, who is also the one that sweeps: no order of the two
 * loses either, and the new limit holds from its first sweep. A rescue that
 * still saw the old limit lowers the bounds too much or too little; set_limit
 * lowers them by the new one after its last look at the word, whatever the
 * rescue has done, and a bound that is too low costs one look.
 *
 * Limits lie apart from words, and most blocks have one for all of theirs. A
 * block that gets a second one is spread over its entries first and called
 * mixed after, so a rescue reads the old limit or the new one of its own
 * entry and never another's. It is common again when one entry is alone.
 *
 * The wrap. Ticks are compared by their difference, which must stay below
 * 2^31. A deadline can lie KA_MOST_TICKS ahead, and as far back: when an
 * entry that has been idle for so long is given a short limit. What is left
 * of 2^31, two weeks, is how late a sweep may come. An entry without a limit
 * is met by a sweep after KA_MOST_TICKS and moved on.
 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KA_BLOCKS (KA_PAGE / KA_BLOCK) /* to a page */
#define KA_MOST_PAGES (1u << 20)
#define KA_FIRST_PAGES 16
/* How much an entry without a limit is moved on: long enough to be rare,
 * short enough that its idle time stays near the truth. */
#define KA_MOVE_ON (1u << 20)
#define KA_NONE INT32_MAX

static uint64_t make_word(uint32_t generation, ka_tick tick) {
    return (uint64_t)generation << 32 | tick;
}

static void lower(KA_ATOMIC(ka_tick) * bound, ka_tick at) {
    ka_tick held = atomic_load(bound);

    while (held == KA_NEVER || ka_tick_since(at, held) < 0)
        if (atomic_compare_exchange_weak(bound, &held, at))
            return;
}

/* After the word was written; block first, then page. */
static void lower_both(struct ka_page *page, uint32_t at, ka_tick last) {
    ka_tick due = ka_deadline(last, ka_limit_at(page, at));

    lower(&page->bound[at / KA_BLOCK], due);
    lower(&page->page_bound, due);
}

/* ---- slots -------------------------------------------------------------- */

void ka_table_init(struct ka_table *table) {
    memset(table, 0, sizeof *table);
    atomic_init(&table->shared, NULL);
    atomic_init(&table->shared_pages, 0);
    table->free_first = table->free_last = KA_NO_SLOT;
}

/* A directory is preceded by the link to the one before. */
static void free_directories(void *directory) {
    void *before;

    for (; directory != NULL; directory = before) {
        before = ((void **)directory)[-1];
        free((void **)directory - 1);
    }
}

void ka_table_close(struct ka_table *table) {
    uint32_t i;

    for (i = 0; i < table->pages; i++)
        free(table->page[i]);
    free_directories(table->page);
    ka_table_init(table);
}

static int grow_directory(struct ka_table *table) {
    uint32_t room = table->room ? table->room * 2 : KA_FIRST_PAGES;
    void **larger = malloc((room + (size_t)1) * sizeof *larger);
    struct ka_page **page;

    if (larger == NULL)
        return -ENOMEM;
    larger[0] = table->page;
    page = (struct ka_page **)(larger + 1);
    if (table->pages > 0)
        memcpy(page, table->page, table->pages * sizeof *page);
    table->page = page;
    table->room = room;
    atomic_store_explicit(&table->shared, page, memory_order_release);
    return 0;
}

static struct ka_page *page_of(const struct ka_table *table, uint32_t slot) {
    return table->page[slot / KA_PAGE];
}

static struct ka_cold *cold_of(const struct ka_table *table, uint32_t slot) {
    return &page_of(table, slot)->cold[slot % KA_PAGE];
}

static void put_aside(struct ka_cold *cold, uint32_t value) {
    atomic_store_explicit(&cold->aside, value, memory_order_relaxed);
}

/* `first` to `last` are chained already. */
static void append_free(struct ka_table *table, uint32_t first,
                        uint32_t last) {
    if (table->free_first == KA_NO_SLOT)
        table->free_first = first;
    else
        put_aside(cold_of(table, table->free_last), first);
    table->free_last = last;
}

static int add_page(struct ka_table *table) {
    uint32_t first = table->pages * KA_PAGE, i;
    struct ka_page *page;

    if (table->pages == KA_MOST_PAGES ||
        (table->pages == table->room && grow_directory(table) < 0))
        return -ENOMEM;
    page = calloc(1, sizeof *page);
    if (page == NULL)
        return -ENOMEM;
    for (i = 0; i < KA_PAGE; i++) {
        atomic_init(&page->word[i], make_word(1, KA_FREE));
        atomic_init(&page->cold[i].aside, first + i + 1);
    }
    put_aside(&page->cold[KA_PAGE - 1], KA_NO_SLOT);
    table->page[table->pages++] = page;
    /* A reader of this number sees the page, and a directory that has it. */
    atomic_store_explicit(&table->shared_pages, table->pages,
                          memory_order_release);
    append_free(table, first, first + KA_PAGE - 1);
    return 0;
}

/* `others` live in the same block. */
static void put_limit(struct ka_page *page, uint32_t at, ka_tick limit,
                      unsigned others) {
    KA_ATOMIC(ka_tick) *common = &page->common[at / KA_BLOCK];
    ka_tick held = atomic_load_explicit(common, memory_order_relaxed);
    uint32_t first = at - at % KA_BLOCK, i;

    if (others == 0) {
        atomic_store(common, limit);
    } else if (held == KA_MIXED) {
        atomic_store(&page->limit[at], limit);
    } else if (held != limit) {
        for (i = first; i < first + KA_BLOCK; i++)
            atomic_store_explicit(&page->limit[i], i == at ? limit : held,
                                  memory_order_relaxed);
        atomic_store(common, KA_MIXED);
    }
}

int ka_table_add(struct ka_table *table, ka_tick limit, ka_tick now,
                 ka_id *out) {
    ka_tick last = ka_word_tick(now);
    struct ka_page *page;
    uint32_t slot, at, generation;

    if (table->free_first == KA_NO_SLOT && add_page(table) < 0)
        return -ENOMEM;
    slot = table->free_first;
    page = page_of(table, slot);
    at = slot % KA_PAGE;
    table->free_first =
        atomic_load_explicit(&page->cold[at].aside, memory_order_relaxed);
    if (table->free_first == KA_NO_SLOT)
        table->free_last = KA_NO_SLOT;
    if (limit > KA_NO_LIMIT)
        limit = KA_NO_LIMIT;
    put_limit(page, at, limit, page->live[at / KA_BLOCK]++);
    /* Nobody else writes to a free word. */
    generation = KA_GENERATION(
        atomic_load_explicit(&page->word[at], memory_order_relaxed));
    atomic_store_explicit(&page->word[at], make_word(generation, last),
                          memory_order_release);
    lower_both(page, at, last);
    table->live++;
    *out = (ka_id)generation << 32 | slot;
    return 0;
}

/* For the owner. 0 when stale. */
static int find(const struct ka_table *table, ka_id id,
                struct ka_place *place) {
    uint32_t slot = KA_SLOT(id), at = slot % KA_PAGE;
    uint64_t word;

    if (slot / KA_PAGE >= table->pages)
        return 0;
    place->page = page_of(table, slot);
    place->word = &place->page->word[at];
    place->cold = &place->page->cold[at];
    place->generation = KA_GENERATION(id);
    place->slot = slot;
    word = atomic_load_explicit(place->word, memory_order_relaxed);
    return KA_GENERATION(word) == place->generation &&
           (ka_tick)word != KA_FREE;
}

/* Whatever touches come in between; what the word held before. */
static ka_tick replace(const struct ka_place *place, uint32_t generation,
                       ka_tick tick) {
    return (ka_tick)atomic_exchange(place->word, make_word(generation, tick));
}

int ka_table_release(struct ka_table *table, ka_id id) {
    struct ka_place place;
    uint32_t next;

    if (!find(table, id, &place))
        return 0;
    next = place.generation + 1;
    (void)replace(&place, next ? next : 1, KA_FREE);
    place.page->live[place.slot % KA_PAGE / KA_BLOCK]--;
    put_aside(place.cold, KA_NO_SLOT);
    append_free(table, place.slot, place.slot);
    table->live--;
    return 1;
}

int ka_table_live(const struct ka_table *table, ka_id id) {
    struct ka_place place;

    return find(table, id, &place);
}

int ka_table_place(const struct ka_table *table, ka_id id,
                   struct ka_place *out) {
    return find(table, id, out);
}

/* ---- any thread --------------------------------------------------------- */

int ka_place_touch_slow(const struct ka_place *place, ka_tick now) {
    const ka_tick wanted = ka_word_tick(now);
    uint64_t seen = atomic_load_explicit(place->word, memory_order_relaxed);
    ka_tick held;

    do {
        held = (ka_tick)seen;
        if (KA_GENERATION(seen) != place->generation || held == KA_FREE)
            return KA_STALE;
        if (held == KA_PAUSED ||
            (held != KA_DUE && ka_tick_since(wanted, held) <= 0))
            return KA_LIVE;
    } while (!atomic_compare_exchange_weak(
        place->word, &seen, make_word(place->generation, wanted)));
    if (held != KA_DUE)
        return KA_LIVE;
    lower_both(place->page, place->slot % KA_PAGE, wanted);
    return KA_RESCUED;
}

static struct ka_page *shared_page(const struct ka_table *table,
                                   uint32_t slot) {
    struct ka_page **page;

    if (slot / KA_PAGE >=
        atomic_load_explicit(&table->shared_pages, memory_order_acquire))
        return NULL;
    page = atomic_load_explicit(&table->shared, memory_order_acquire);
    return page[slot / KA_PAGE];
}

int ka_touch(struct ka_table *table, ka_id id, ka_tick now) {
    uint32_t slot = KA_SLOT(id);
    struct ka_place place;

    place.page = shared_page(table, slot);
    if (place.page == NULL)
        return KA_STALE;
    place.word = &place.page->word[slot % KA_PAGE];
    place.cold = &place.page->cold[slot % KA_PAGE];
    place.generation = KA_GENERATION(id);
    place.slot = slot;
    return ka_place_touch(&place, now);
}

int64_t ka_table_idle(const struct ka_table *table, ka_id id, ka_tick now) {
    uint32_t slot = KA_SLOT(id), at = slot % KA_PAGE;
    const struct ka_page *page = shared_page(table, slot);
    uint64_t seen, again;
    ka_tick held;

    if (page == NULL)
        return -1;
    again = atomic_load_explicit(&page->word[at], memory_order_acquire);
    do { /* what lies aside belongs to a word that is still the same */
        seen = again;
        held = (ka_tick)seen;
        if (KA_GENERATION(seen) != KA_GENERATION(id) || held == KA_FREE)
            return -1;
        if (held == KA_PAUSED)
            return 0;
        if (held != KA_DUE)
            break;
        held =
            atomic_load_explicit(&page->cold[at].aside, memory_order_acquire);
        again = atomic_load_explicit(&page->word[at], memory_order_acquire);
    } while (again != seen);
    return ka_idle_ticks(held, now);
}

/* ---- the owner's changes ------------------------------------------------ */

int ka_table_set_limit(struct ka_table *table, ka_id id, ka_tick limit,
                       ka_tick now) {
    struct ka_place place;
    uint64_t seen;
    uint32_t at;
    ka_tick last = ka_word_tick(now);

    if (!find(table, id, &place))
        return 0;
    if (limit > KA_NO_LIMIT)
        limit = KA_NO_LIMIT;
    at = place.slot % KA_PAGE;
    put_limit(place.page, at, limit, place.page->live[at / KA_BLOCK] - 1u);
    seen = make_word(place.generation, KA_DUE);
    if (!atomic_compare_exchange_strong(place.word, &seen,
                                        make_word(place.generation, last)))
        last = (ka_tick)seen;
    if (last >= KA_FIRST)
        lower_both(place.page, at, last);
    return 1;
}

ka_tick ka_table_limit(const struct ka_table *table, ka_id id) {
    struct ka_place place;

    if (!find(table, id, &place))
        return 0;
    return ka_limit_at(place.page, place.slot % KA_PAGE);
}

int ka_table_pause(struct ka_table *table, ka_id id) {
    struct ka_place place;

    if (!find(table, id, &place))
        return 0;
    (void)replace(&place, place.generation, KA_PAUSED);
    return 1;
}

int ka_table_resume(struct ka_table *table, ka_id id, ka_tick now) {
    struct ka_place place;
    ka_tick last = ka_word_tick(now);

    if (!find(table, id, &place))
        return 0;
    if ((ka_tick)atomic_load(place.word) != KA_PAUSED)
        return 1;
    (void)replace(&place, place.generation, last); /* no touch moves it */
    lower_both(place.page, place.slot % KA_PAGE, last);
    return 1;
}

int ka_table_put_back(struct ka_table *table, ka_id id) {
    struct ka_place place;
    uint64_t seen;
    ka_tick last;

    if (!find(table, id, &place))
        return 0;
    last = atomic_load_explicit(&place.cold->aside, memory_order_relaxed);
    seen = make_word(place.generation, KA_DUE);
    if (atomic_compare_exchange_strong(place.word, &seen,
                                       make_word(place.generation, last)))
        lower_both(place.page, place.slot % KA_PAGE, last);
    return 1;
}

int ka_table_paused(const struct ka_table *table, ka_id id) {
    struct ka_place place;

    return find(table, id, &place) &&
           (ka_tick)atomic_load(place.word) == KA_PAUSED;
}

/* ---- the sweep ---------------------------------------------------------- */

struct sweep {
    struct ka_table *table;
    ka_id *out;
    ka_tick now;
    int room, count;
    int budget;
    int full; /* an entry is due that found no room */
};

/* Judge a word whose deadline has come: ticks until it comes again, not
 * positive when there was no room, KA_NONE when the entry was claimed. */
static int32_t claim(struct sweep *sweep, struct ka_page *page, uint32_t at,
                     uint32_t first_slot, uint64_t seen) {
    ka_tick limit = ka_limit_at(page, at);
    uint32_t generation = KA_GENERATION(seen);
    ka_tick held, wanted;
    int32_t left;

    for (;;) { /* until no touch comes in between */
        held = (ka_tick)seen;
        left = ka_tick_since(ka_deadline(held, limit), sweep->now);
        if (left > 0)
            return left;
        wanted = KA_DUE;
        if (limit == KA_NO_LIMIT)
            wanted = ka_word_tick(sweep->now - (KA_NO_LIMIT - KA_MOVE_ON));
        else if (sweep->count >= sweep->room) {
            sweep->full = 1;
            return left;
        } else
            put_aside(&page->cold[at], held);
        if (!atomic_compare_exchange_strong(&page->word[at], &seen,
                                            make_word(generation, wanted)))
            continue;
        if (wanted == KA_DUE) {
            sweep->out[sweep->count++] =
                (ka_id)generation << 32 | (first_slot + at);
            return KA_NONE;
        }
        seen = make_word(generation, wanted);
    }
}

static void open_block(struct sweep *sweep, struct ka_page *page,
                       uint32_t first_slot, uint32_t block) {
    uint32_t at = block * KA_BLOCK, end = at + KA_BLOCK;
    const ka_tick now = sweep->now;
    const ka_tick common =
        atomic_load_explicit(&page->common[block], memory_order_relaxed);
    int32_t left, least = KA_NONE;
    uint64_t seen;
    ka_tick limit;

    (void)atomic_exchange(&page->bound[block], KA_NEVER);
    for (; at < end; at++) {
        seen = atomic_load(&page->word[at]);
        if ((ka_tick)seen < KA_FIRST)
            continue;
        limit = common == KA_MIXED ? ka_limit_at(page, at) : common;
        left = ka_tick_since(ka_deadline((ka_tick)seen, limit), now);
        if (left <= 0)
            left = claim(sweep, page, at, first_slot, seen);
        if (left < least)
            least = left;
    }
    if (least != KA_NONE)
        lower(&page->bound[block], now + (ka_tick)least);
    sweep->budget--;
    sweep->table->opened++;
}

static int has_come(ka_tick bound, ka_tick now) {
    return bound != KA_NEVER && ka_tick_since(now, bound) >= 0;
}

/* Open what has come of the blocks from `block` to `end`; the block at which
 * it stopped. */
static uint32_t open_page(struct sweep *sweep, uint32_t index, uint32_t block,
                          uint32_t end) {
    struct ka_page *page = sweep->table->page[index];
    ka_tick bound;
    uint32_t i;

    if (!has_come(atomic_load(&page->page_bound), sweep->now))
        return end;
    (void)atomic_exchange(&page->page_bound, KA_NEVER);
    for (; block < end; block++) {
        if (!has_come(atomic_load(&page->bound[block]), sweep->now))
            continue;
        if (sweep->budget <= 0 || sweep->count >= sweep->room)
            break;
        open_block(sweep, page, index * KA_PAGE, block);
        if (sweep->full)
            break;
    }
    for (i = 0; i < KA_BLOCKS; i++) {
        bound = atomic_load(&page->bound[i]);
        if (bound != KA_NEVER)
            lower(&page->page_bound, bound);
    }
    return block;
}

int ka_table_expire(struct ka_table *table, ka_tick now, ka_id *out, int room,
                    int budget, int *more) {
    struct sweep sweep = {table, out, now, room, 0, budget, 0};
    const uint32_t pages = table->pages;
    const uint32_t begin = table->cursor % KA_BLOCKS;
    uint32_t index = table->cursor / KA_BLOCKS;
    uint32_t block = begin, end = KA_BLOCKS, left;

    *more = 0;
    /* Round from the cursor: its page comes first and, for the blocks before
     * the cursor, last again. */
    for (left = pages; pages > 0; left--) {
        if (left == 0)
            end = begin;
        if (block < end)
            block = open_page(&sweep, index, block, end);
        if (block < end) {
            table->cursor = index * KA_BLOCKS + block;
            *more = 1;
        }
        if (*more || left == 0)
            break;
        block = 0;
        index = index + 1 == pages ? 0 : index + 1;
    }
    table->claims += (uint64_t)sweep.count;
    return sweep.count;
}

int64_t ka_table_next(const struct ka_table *table, ka_tick now) {
    int32_t left, least = KA_NONE;
    ka_tick bound;
    uint32_t i;

    for (i = 0; i < table->pages; i++) {
        bound = atomic_load(&table->page[i]->page_bound);
        if (bound == KA_NEVER)
            continue;
        left = ka_tick_since(bound, now);
        if (left <= 0)
            return 0;
        if (left < least)
            least = left;
    }
    return least == KA_NONE ? -1 : least;
}

/* table_scan.c - what reads all of a table: who is idle longest, how large it
 * is, whether it is sound. None of it changes anything.
 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the longest idle --------------------------------------------------- */

struct idler {
    ka_tick idle;
    ka_id id;
};

/* Of equals, the lower slot is the longer idle. */
static int less_idle(const struct idler *a, const struct idler *b) {
    if (a->idle != b->idle)
        return a->idle < b->idle;
    return KA_SLOT(a->id) > KA_SLOT(b->id);
}

/* A heap with the least idle on top. */
static void sift_down(struct idler *heap, int count, int at) {
    const struct idler moved = heap[at];
    int child;

    while ((child = 2 * at + 1) < count) {
        if (child + 1 < count && less_idle(&heap[child + 1], &heap[child]))
            child++;
        if (!less_idle(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void keep(struct idler *heap, int *count, int n,
                 const struct idler *found) {
    int i;

    if (*count == n) {
        if (less_idle(&heap[0], found)) {
            heap[0] = *found;
            sift_down(heap, n, 0);
        }
        return;
    }
    heap[(*count)++] = *found;
    if (*count == n)
        for (i = n / 2 - 1; i >= 0; i--)
            sift_down(heap, n, i);
}

static void keep_of_page(const struct ka_page *page, uint32_t first_slot,
                         ka_tick now, struct idler *heap, int *count, int n) {
    struct idler found;
    uint64_t seen;
    ka_tick held;
    uint32_t at;

    for (at = 0; at < KA_PAGE; at++) {
        seen = atomic_load_explicit(&page->word[at], memory_order_relaxed);
        held = (ka_tick)seen;
        if (held == KA_FREE || held == KA_PAUSED ||
            ka_limit_at(page, at) == KA_NO_LIMIT)
            continue;
        if (held == KA_DUE)
            held = atomic_load_explicit(&page->cold[at].aside,
                                        memory_order_relaxed);
        found.idle = ka_idle_ticks(held, now);
        found.id = (ka_id)KA_GENERATION(seen) << 32 | (first_slot + at);
        keep(heap, count, n, &found);
    }
}

int ka_table_longest_idle(const struct ka_table *table, ka_tick now,
                          ka_id *out, int n) {
    struct idler *heap, last;
    int count = 0, i;
    uint32_t p;

    if (n > 0 && (uint32_t)n > table->live)
        n = (int)table->live;
    if (n <= 0)
        return 0;
    heap = malloc((size_t)n * sizeof *heap);
    if (heap == NULL)
        return -ENOMEM;
    for (p = 0; p < table->pages; p++)
        keep_of_page(table->page[p], p * KA_PAGE, now, heap, &count, n);
    if (count < n) /* keep() has made no heap of these */
        for (i = count / 2 - 1; i >= 0; i--)
            sift_down(heap, count, i);
    for (i = count - 1; i >= 0; i--) { /* the least idle goes last */
        last = heap[0];
        heap[0] = heap[i];
        sift_down(heap, i, 0);
        out[i] = last.id;
    }
    free(heap);
    return count;
}

/* ---- for stats and tests ------------------------------------------------ */

void ka_table_bytes(const struct ka_table *table, size_t *hot, size_t *all) {
    void *directory;
    size_t room = table->room;
    uint32_t p, block;

    *hot = table->pages * offsetof(struct ka_page, limit);
    for (p = 0; p < table->pages; p++)
        for (block = 0; block < KA_PAGE / KA_BLOCK; block++)
            if (atomic_load(&table->page[p]->common[block]) == KA_MIXED)
                *hot += KA_BLOCK * sizeof(ka_tick);
    *all = sizeof *table + table->pages * sizeof(struct ka_page);
    for (directory = table->page; directory != NULL; room /= 2) {
        *all += (room + 1) * sizeof(void *);
        directory = ((void **)directory)[-1];
    }
}

static const struct ka_page *page_of(const struct ka_table *table,
                                     uint32_t slot) {
    return table->page[slot / KA_PAGE];
}

static const char *verify_free(const struct ka_table *table) {
    uint32_t slot = table->free_first, last = KA_NO_SLOT;
    uint32_t left = table->pages * KA_PAGE - table->live;

    for (; slot != KA_NO_SLOT; left--) {
        if (left == 0)
            return "the free list is too long";
        if (slot / KA_PAGE >= table->pages)
            return "the free list leads out of the table";
        if ((ka_tick)atomic_load(
                &page_of(table, slot)->word[slot % KA_PAGE]) != KA_FREE)
            return "the free list has an entry that is not free";
        last = slot;
        slot = atomic_load(&page_of(table, slot)->cold[slot % KA_PAGE].aside);
    }
    if (left > 0)
        return "the free list is too short";
    return last == table->free_last ? NULL : "the free list ends elsewhere";
}

static int covers(ka_tick bound, ka_tick at) {
    return bound != KA_NEVER && ka_tick_since(at, bound) >= 0;
}

static const char *verify_page(const struct ka_page *page, uint32_t *live) {
    ka_tick bound, held;
    uint64_t word;
    uint32_t at, of_block = 0;

    for (at = 0; at < KA_PAGE; at++) {
        word = atomic_load(&page->word[at]);
        held = (ka_tick)word;
        bound = atomic_load(&page->bound[at / KA_BLOCK]);
        if (KA_GENERATION(word) == 0)
            return "a generation is 0";
        *live += held != KA_FREE;
        of_block = (at % KA_BLOCK ? of_block : 0) + (held != KA_FREE);
        if (at % KA_BLOCK == KA_BLOCK - 1 &&
            of_block != page->live[at / KA_BLOCK])
            return "a block's count of the living is wrong";
        if (held >= KA_FIRST &&
            !covers(bound, ka_deadline(held, ka_limit_at(page, at))))
            return "a deadline comes before its block's bound";
        if (bound != KA_NEVER &&
            !covers(atomic_load(&page->page_bound), bound))
            return "a block's bound comes before its page's";
    }
    return NULL;
}

const char *ka_table_verify(const struct ka_table *table) {
    const char *wrong = NULL;
    uint32_t live = 0, i;

    for (i = 0; i < table->pages && wrong == NULL; i++)
        wrong = verify_page(table->page[i], &live);
    if (wrong == NULL && live != table->live)
        wrong = "the number of live entries is wrong";
    return wrong != NULL ? wrong : verify_free(table);
}

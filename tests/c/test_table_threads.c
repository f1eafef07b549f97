/* Threads that touch while the owner sweeps, changes limits, releases, adds
 * and lets the table grow. The owner knows what must be true:
 *
 * early: claimed, although a touch that had ended before the sweep began
 *     puts the deadline later;
 * late:  a complete sweep past the deadline has left the entry alone,
 *     although nobody was touching it meanwhile. So an entry whose rescue is
 *     lost shows at the first sweep past its deadline.
 *
 * Time is a counter that the owner moves, across the wrap of the ticks. Few
 * entries share a page: where a bound is lost no neighbour makes up for it.
 */
#include "test.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "table.h"

#define TOUCHERS 3
#define OWNED 40 /* entries of each toucher */
#define ENTRIES (TOUCHERS * OWNED)
#define FOR_GOOD (ENTRIES / 2) /* these are never released */
#define MOST_PAGES 130         /* the directory is replaced at 64 and 128 */
#define SECONDS 2
#define WRAP 0x100000000
#define START (WRAP - 1000)
#define APART (KA_PAGE / 2)
#define LONGEST 30 /* limit, in ticks */

struct watched {
    KA_ATOMIC(ka_id) id;
    struct ka_place place; /* of those for good */
    /* The toucher's: ticks, and how many touches began and ended. */
    KA_ATOMIC(uint64_t) began_at, ended_at;
    KA_ATOMIC(uint32_t) begun, ended;
    /* The owner's. */
    int64_t base; /* no touch counts before */
    int64_t kept_at;
    uint32_t kept;
    ka_tick limit;
    int paused;
};

static struct ka_table table;
static struct watched watched[ENTRIES];
static KA_ATOMIC(uint64_t) clock_now; /* 64 bits, so that it never wraps */
static KA_ATOMIC(int) done, wrong_idle, wrong_guess, rescues, stales;
static int early, late, claimed, strangers;
static ka_id out[ENTRIES + KA_PAGE];

struct dice {
    uint64_t state;
};

static uint32_t chance(struct dice *dice, uint32_t below) {
    dice->state ^= dice->state << 13;
    dice->state ^= dice->state >> 7;
    dice->state ^= dice->state << 17;
    return (uint32_t)(dice->state >> 20) % below;
}

/* ---- touchers ----------------------------------------------------------- */

static void touch_one(struct watched *one, int by_place) {
    ka_id id = atomic_load(&one->id);
    int64_t now = atomic_load(&clock_now);
    int touched;

    /* First, so that the owner never misses a touch. */
    atomic_store(&one->began_at, now);
    atomic_fetch_add(&one->begun, 1);
    touched = by_place ? ka_place_touch(&one->place, (ka_tick)now)
                       : ka_touch(&table, id, (ka_tick)now);
    if (touched != KA_STALE)
        atomic_store(&one->ended_at, now);
    atomic_fetch_add(&one->ended, 1);
    if (touched == KA_RESCUED)
        atomic_fetch_add(&rescues, 1);
    if (touched == KA_STALE)
        atomic_fetch_add(&stales, 1);
    else if (ka_table_idle(&table, id, (ka_tick)now) > 0)
        atomic_fetch_add(&wrong_idle, 1);
}

/* Ids that nobody holds, of the page that came last. */
static void guess(struct dice *dice) {
    int i;

    for (i = 0; i < 200; i++) {
        uint32_t pages = atomic_load(&table.shared_pages);
        ka_id id =
            (ka_id)UINT32_MAX << 32 | (pages * KA_PAGE - 1 - (uint32_t)i);

        if (ka_touch(&table, id, 1) != KA_STALE ||
            ka_table_idle(&table, id + chance(dice, KA_PAGE), 1) >= 0)
            atomic_fetch_add(&wrong_guess, 1);
    }
}

/* Wait until it is due and rescue it while its block is still open. */
static void lie_in_wait(struct watched *one) {
    int tries;

    for (tries = 0; tries < 3000; tries++)
        if ((ka_tick)atomic_load(one->place.word) == KA_DUE) {
            touch_one(one, tries & 1);
            return;
        }
}

static void *touch_on(void *which) {
    int mine = (int)(intptr_t)which;
    struct dice dice = {(uint64_t)mine * 7919 + 1};
    struct watched *one;
    int i, at, few;

    while (!atomic_load(&done)) {
        /* A few of its entries for a while: the others become due. */
        at = (int)chance(&dice, OWNED);
        few = 1 + (int)chance(&dice, 12);
        for (i = (int)chance(&dice, 300); i > 0; i--) {
            one = &watched[(at + (int)chance(&dice, (uint32_t)few)) % OWNED *
                               TOUCHERS +
                           mine];
            touch_one(one, one < &watched[FOR_GOOD] && (i & 1));
        }
        guess(&dice);
        for (i = (int)chance(&dice, 20); i > 0; i--)
            lie_in_wait(
                &watched[(int)chance(&dice, FOR_GOOD / TOUCHERS) * TOUCHERS +
                         mine]);
    }
    return NULL;
}

/* ---- the owner ---------------------------------------------------------- */

static int64_t deadline_of(int64_t last, ka_tick limit) {
    while ((ka_tick)last < KA_FIRST)
        last++;
    last += limit + 1;
    return (ka_tick)last == KA_NEVER ? last + 1 : last;
}

static void add_one(struct watched *one, ka_tick limit) {
    int64_t now = atomic_load(&clock_now);
    ka_id id;

    if (ka_table_add(&table, limit, (ka_tick)now, &id) != 0)
        abort();
    one->limit = limit;
    one->base = now;
    one->paused = 0;
    atomic_store(&one->id, id);
}

static void change_one(struct watched *one, struct dice *dice) {
    ka_id id = atomic_load(&one->id);
    ka_tick now = (ka_tick)atomic_load(&clock_now);
    ka_tick limit = chance(dice, LONGEST);

    one->base = atomic_load(&clock_now);
    switch (chance(dice, 5)) {
        case 0:
            if (one < &watched[FOR_GOOD])
                break;
            ka_table_release(&table, id);
            add_one(one, limit);
            break;
        case 1:
            ka_table_pause(&table, id);
            one->paused = 1;
            break;
        default:
            ka_table_set_limit(&table, id, limit, now);
            one->limit = limit;
    }
    if (one->paused && chance(dice, 4)) {
        ka_table_resume(&table, id, now);
        one->paused = 0;
    }
}

static struct watched *find_watched(ka_id id) {
    int i;

    for (i = 0; i < ENTRIES; i++)
        if (atomic_load(&watched[i].id) == id)
            return &watched[i];
    return NULL;
}

static int is_due(const struct watched *one) {
    ka_id id = atomic_load(&one->id);
    struct ka_place place;

    if (!ka_table_place(&table, id, &place)) {
        strangers++;
        return 0;
    }
    return (ka_tick)atomic_load(place.word) == KA_DUE;
}

static void keep_what_is_known(void) {
    struct watched *one;

    for (one = watched; one < watched + ENTRIES; one++) {
        one->kept = atomic_load(&one->ended);
        one->kept_at = atomic_load(&one->ended_at);
    }
}

static void check_claims(int64_t now, int n) {
    struct watched *one;
    int i;

    claimed += n;
    for (i = 0; i < n; i++) {
        one = find_watched(out[i]);
        if (one == NULL)
            strangers++;
        else if (one->paused || deadline_of(one->kept_at, one->limit) > now)
            early++;
    }
}

static void check_rest(int64_t now) {
    struct watched *one;
    int64_t last;

    for (one = watched; one < watched + ENTRIES; one++) {
        last = atomic_load(&one->began_at);
        if (last < one->base)
            last = one->base;
        /* No touch was under way between the two looks. */
        if (!one->paused && deadline_of(last, one->limit) <= now &&
            !is_due(one) && atomic_load(&one->begun) == one->kept)
            late++;
    }
}

static void sweep_once(struct dice *dice) {
    int64_t now = atomic_load(&clock_now);
    int more = 1, n;
    int room = chance(dice, 4) ? ENTRIES : 1 + (int)chance(dice, 4);
    int budget = chance(dice, 4) ? KA_BUDGET : 1 + (int)chance(dice, 4);

    keep_what_is_known();
    while (more) {
        n = ka_table_expire(&table, (ka_tick)now, out, room, budget, &more);
        check_claims(now, n);
    }
    check_rest(now);
}

/* Two to a page stay; the others go. */
static void fill(void) {
    static ka_id id[APART * ENTRIES];
    struct dice dice = {99};
    struct watched *one = watched;
    int i;

    for (i = 0; i < APART * ENTRIES; i++)
        if (ka_table_add(&table, KA_NO_LIMIT, (ka_tick)START, &id[i]) != 0)
            abort();
    for (i = 0; i < APART * ENTRIES; i++) {
        if (i % APART != APART / 3) {
            ka_table_release(&table, id[i]);
            continue;
        }
        ka_table_place(&table, id[i], &one->place);
        one->base = START;
        one->limit = chance(&dice, LONGEST);
        atomic_init(&one->id, id[i]);
        atomic_init(&one->began_at, START);
        atomic_init(&one->ended_at, START);
        ka_table_set_limit(&table, id[i], one->limit, (ka_tick)START);
        one++;
    }
}

static int64_t now_ms(void) {
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static void own(void) {
    int64_t end = now_ms() + SECONDS * 1000;
    struct dice dice = {4711};
    int round, i;
    ka_id id;

    for (round = 0;
         round % 64 != 0 || now_ms() < end ||
         atomic_load(&clock_now) < WRAP + 500 || table.pages < MOST_PAGES;
         round++) {
        sweep_once(&dice);
        if (chance(&dice, 3) == 0)
            change_one(&watched[chance(&dice, ENTRIES)], &dice);
        if (round % 50 == 0) /* until the directory has been replaced */
            for (i = 0; i < 5000 && table.pages < MOST_PAGES; i++)
                ka_table_add(&table, KA_NO_LIMIT,
                             (ka_tick)atomic_load(&clock_now), &id);
        if (chance(&dice, 2))
            atomic_fetch_add(&clock_now, chance(&dice, 4));
    }
}

static void touches_and_sweeps(void) {
    pthread_t thread[TOUCHERS];
    struct dice dice = {1};
    int i;

    ka_table_init(&table);
    atomic_init(&clock_now, START);
    fill();
    for (i = 0; i < TOUCHERS; i++)
        if (pthread_create(&thread[i], NULL, touch_on, (void *)(intptr_t)i))
            abort();
    own();
    atomic_store(&done, 1);
    for (i = 0; i < TOUCHERS; i++)
        pthread_join(thread[i], NULL);
    /* Nobody touches now: all must become due. */
    atomic_fetch_add(&clock_now, 2 * LONGEST);
    sweep_once(&dice);
    for (i = 0; i < ENTRIES; i++)
        CHECK(watched[i].paused || is_due(&watched[i]));
    CHECK_EQ(strangers, 0);
    CHECK_EQ(early, 0);
    CHECK_EQ(late, 0);
    CHECK_EQ(wrong_idle, 0);
    CHECK_EQ(wrong_guess, 0);
    CHECK(ka_table_verify(&table) == NULL);
    CHECK(claimed > 100 && rescues > 100 && table.pages == MOST_PAGES);
    if (getenv("V"))
        printf("%d claims, %d rescues, %d stale, %lld ticks, %u pages\n",
               claimed, (int)rescues, (int)stales,
               (long long)(atomic_load(&clock_now) - START), table.pages);
    ka_table_close(&table);
}

int main(void) {
    RUN(touches_and_sweeps);
    return test_report("table_threads");
}

/* What table.h promises, one case each. */
#include "test.h"

#include <errno.h>

#include "table.h"

#define MANY (3 * KA_PAGE + 100)

static struct ka_table table;
static ka_id id[MANY];
static ka_id out[MANY];

static void open_table(void) {
    ka_table_init(&table);
}

static void close_table(void) {
    const char *wrong = ka_table_verify(&table);

    test_check(wrong == NULL, __FILE__, __LINE__, wrong ? wrong : "");
    ka_table_close(&table);
}

static ka_id add(ka_tick limit, ka_tick now) {
    ka_id added = 0;

    CHECK_EQ(ka_table_add(&table, limit, now, &added), 0);
    return added;
}

static void add_many(int n, ka_tick limit, ka_tick now) {
    int i;

    for (i = 0; i < n; i++)
        id[i] = add(limit, now);
}

/* A complete sweep; what it claimed is in `out`. */
static int sweep(ka_tick now) {
    int more, n = ka_table_expire(&table, now, out, MANY, MANY, &more);

    CHECK_EQ(more, 0);
    return n;
}

static int claims(ka_id wanted, ka_tick now) {
    return sweep(now) == 1 && out[0] == wanted;
}

/* ---- deadlines ---------------------------------------------------------- */

static void an_empty_table_has_nothing(void) {
    CHECK_EQ(sweep(5), 0);
    CHECK_EQ(ka_table_next(&table, 5), -1);
    CHECK_EQ(ka_table_longest_idle(&table, 5, out, 10), 0);
    CHECK(!ka_table_live(&table, 0));
    CHECK_EQ(ka_touch(&table, 1ull << 32, 5), KA_STALE);
}

static void never_early_never_late(void) {
    ka_id one = add(10, 1000);

    CHECK_EQ(ka_table_next(&table, 1000), 11);
    CHECK_EQ(sweep(1010), 0);
    CHECK_EQ(ka_table_next(&table, 1010), 1);
    CHECK_EQ(ka_table_next(&table, 1011), 0);
    CHECK(claims(one, 1011));
    CHECK_EQ(ka_table_next(&table, 1011), -1);
}

static void due_is_said_once(void) {
    ka_id one = add(10, 1000);

    CHECK(claims(one, 1011));
    CHECK_EQ(sweep(1012), 0);
    CHECK_EQ(sweep(999999), 0);
    CHECK(ka_table_live(&table, one));
    CHECK_EQ(ka_table_idle(&table, one, 1500), 500);
}

static void a_touch_moves_the_deadline(void) {
    ka_id one = add(10, 1000);
    struct ka_place place;

    CHECK_EQ(ka_touch(&table, one, 1005), KA_LIVE);
    CHECK_EQ(sweep(1015), 0);
    CHECK_EQ(ka_table_place(&table, one, &place), 1);
    CHECK_EQ(ka_place_touch(&place, 1015), KA_LIVE);
    CHECK_EQ(ka_place_touch(&place, 1015), KA_LIVE);
    CHECK_EQ(sweep(1025), 0);
    CHECK_EQ(ka_table_idle(&table, one, 1025), 10);
    CHECK(claims(one, 1026));
}

static void an_older_touch_takes_nothing_back(void) {
    ka_id one = add(10, 1000);

    CHECK_EQ(ka_touch(&table, one, 1005), KA_LIVE);
    CHECK_EQ(ka_touch(&table, one, 1003), KA_LIVE);
    CHECK_EQ(ka_table_idle(&table, one, 1005), 0);
    CHECK_EQ(ka_table_idle(&table, one, 1004), 0);
    CHECK_EQ(sweep(1015), 0);
    CHECK(claims(one, 1016));
}

static void a_touch_rescues_what_is_due(void) {
    ka_id one = add(10, 1000);
    ka_id other = add(1000, 1000);

    CHECK(claims(one, 1011));
    CHECK_EQ(ka_touch(&table, one, 1012), KA_RESCUED);
    CHECK_EQ(ka_touch(&table, one, 1012), KA_LIVE);
    CHECK_EQ(ka_table_idle(&table, one, 1015), 3);
    CHECK_EQ(ka_table_next(&table, 1012), 11);
    CHECK_EQ(sweep(1022), 0);
    CHECK(claims(one, 1023));
    CHECK(ka_table_live(&table, other));
}

static void across_the_wrap(void) {
    uint32_t before, limit;

    for (before = 0; before < 40; before++)
        for (limit = 0; limit < 40; limit++) {
            int64_t began = (int64_t)0xfffffff0 - 20 + before, at;
            int64_t stamp = began;
            int64_t due;
            ka_id one = add(limit, (ka_tick)began);

            while ((ka_tick)stamp < KA_FIRST)
                stamp++;
            due = stamp + limit + 1;
            due += (ka_tick)due == KA_NEVER; /* that is no bound */
            for (at = began; at < due; at++)
                if (!CHECK_EQ(sweep((ka_tick)at), 0))
                    return;
            if (!CHECK(claims(one, (ka_tick)due)))
                return;
            CHECK_EQ(ka_table_idle(&table, one, (ka_tick)due), due - stamp);
            CHECK_EQ(ka_table_release(&table, one), 1);
        }
}

static void a_late_sweep_across_the_wrap(void) {
    ka_id one = add(5, 0xfffffff0u), other = add(50, 0xfffffff0u);

    CHECK_EQ(ka_table_next(&table, 4), 0);
    CHECK(claims(one, 4));
    CHECK_EQ(ka_table_next(&table, 4), 50 + 1 - 20);
    CHECK(claims(other, 90));
}

static void touches_across_the_wrap(void) {
    ka_id one = add(5, 0xfffffffau);
    ka_tick now = 0xfffffffau;
    int i;

    for (i = 0; i < 30; i++, now++) {
        CHECK_EQ(sweep(now), 0);
        CHECK_EQ(ka_touch(&table, one, now), KA_LIVE);
        CHECK_EQ(ka_table_idle(&table, one, now), 0);
    }
    CHECK_EQ(sweep(now + 4), 0);
    CHECK(claims(one, now + 5));
}

static void no_tick_is_taken_for_a_state(void) {
    ka_tick now;

    for (now = 0; now < 8; now++) {
        ka_id one = add(KA_NO_LIMIT, now);

        CHECK(ka_table_live(&table, one));
        CHECK(!ka_table_paused(&table, one));
        CHECK_EQ(ka_touch(&table, one, now), KA_LIVE);
        CHECK_EQ(ka_table_resume(&table, one, now + 100), 1);
        CHECK_EQ(ka_table_idle(&table, one, 50),
                 50 - (now < KA_FIRST ? KA_FIRST : now));
        CHECK_EQ(sweep(now), 0);
    }
}

/* ---- limits and pauses -------------------------------------------------- */

static void a_longer_limit(void) {
    ka_id one = add(10, 1000);

    CHECK_EQ(ka_table_set_limit(&table, one, 100, 1009), 1);
    CHECK_EQ(ka_table_limit(&table, one), 100);
    CHECK_EQ(ka_table_idle(&table, one, 1009), 9);
    CHECK_EQ(sweep(1100), 0);
    CHECK(claims(one, 1101));
}

static void a_shorter_limit(void) {
    ka_id one = add(1000, 1000);

    CHECK_EQ(ka_table_set_limit(&table, one, 10, 1005), 1);
    CHECK_EQ(ka_table_next(&table, 1005), 6);
    CHECK_EQ(sweep(1010), 0);
    CHECK(claims(one, 1011));
}

static void a_limit_exceeded_already(void) {
    ka_id one = add(1000, 1000);

    CHECK_EQ(ka_table_set_limit(&table, one, 10, 1500), 1);
    CHECK_EQ(ka_table_next(&table, 1500), 0);
    CHECK_EQ(ka_table_idle(&table, one, 1500), 500);
    CHECK(claims(one, 1500));
}

static void a_new_limit_ends_being_due(void) {
    ka_id one = add(10, 1000);

    CHECK(claims(one, 1011));
    CHECK_EQ(ka_table_set_limit(&table, one, 20, 1013), 1);
    CHECK_EQ(ka_table_idle(&table, one, 1015), 2);
    CHECK_EQ(sweep(1033), 0);
    CHECK(claims(one, 1034));
}

static void a_paused_entry_has_no_deadline(void) {
    ka_id one = add(10, 1000);

    CHECK_EQ(ka_table_pause(&table, one), 1);
    CHECK(ka_table_paused(&table, one));
    CHECK_EQ(ka_table_idle(&table, one, 5000), 0);
    CHECK_EQ(ka_touch(&table, one, 5000), KA_LIVE);
    CHECK(ka_table_paused(&table, one));
    CHECK_EQ(ka_table_set_limit(&table, one, 7, 5000), 1);
    CHECK(ka_table_paused(&table, one));
    CHECK_EQ(sweep(5000), 0);
    CHECK_EQ(ka_table_next(&table, 5000), -1);
    CHECK_EQ(ka_table_resume(&table, one, 6000), 1);
    CHECK_EQ(ka_table_idle(&table, one, 6000), 0);
    CHECK_EQ(sweep(6007), 0);
    CHECK(claims(one, 6008));
}

static void resuming_what_runs_does_nothing(void) {
    ka_id one = add(10, 1000);

    CHECK_EQ(ka_table_resume(&table, one, 1005), 1);
    CHECK_EQ(ka_table_idle(&table, one, 1005), 5);
    CHECK(claims(one, 1011));
    CHECK_EQ(ka_table_resume(&table, one, 1012), 1);
    CHECK_EQ(sweep(1100), 0);
    CHECK_EQ(ka_table_idle(&table, one, 1100), 100);
}

static void a_due_entry_can_be_paused(void) {
    ka_id one = add(10, 1000);

    CHECK(claims(one, 1011));
    CHECK_EQ(ka_table_pause(&table, one), 1);
    CHECK_EQ(ka_touch(&table, one, 1012), KA_LIVE);
    CHECK_EQ(ka_table_resume(&table, one, 1013), 1);
    CHECK(claims(one, 1024));
}

static void without_a_limit(void) {
    ka_id one = add(KA_NO_LIMIT, 1000), two = add(UINT32_MAX, 1000);
    int64_t now = 1000, idle;

    CHECK_EQ(ka_table_limit(&table, two), KA_NO_LIMIT);
    while (now < 0x300000000) { /* the ticks wrap thrice */
        now += 50000000;
        CHECK_EQ(sweep((ka_tick)now), 0);
        CHECK(ka_table_next(&table, (ka_tick)now) > 0);
        idle = ka_table_idle(&table, one, (ka_tick)now);
        if (now - 1000 < KA_NO_LIMIT)
            CHECK_EQ(idle, now - 1000);
        else
            CHECK(idle > KA_NO_LIMIT - 55000000 && idle <= KA_NO_LIMIT);
    }
    CHECK_EQ(ka_touch(&table, one, (ka_tick)now), KA_LIVE);
    CHECK_EQ(ka_table_idle(&table, one, (ka_tick)now + 7), 7);
    CHECK_EQ(ka_table_set_limit(&table, two, 5, (ka_tick)now), 1);
    CHECK(claims(two, (ka_tick)now));
}

static void the_longest_limit_beside_the_longest_idle(void) {
    ka_id old = add(KA_NO_LIMIT - 1, 1000);
    ka_tick now = 1000 + KA_NO_LIMIT - 1;
    ka_id young = add(KA_NO_LIMIT - 1, now);

    CHECK_EQ(ka_table_set_limit(&table, old, 1, now), 1);
    CHECK(ka_table_verify(&table) == NULL);
    CHECK(claims(old, now + 100000000));
    CHECK(claims(young, now + KA_NO_LIMIT));
}

/* ---- ids ---------------------------------------------------------------- */

static void check_stale(ka_id old, ka_tick now) {
    struct ka_place place;

    CHECK(!ka_table_live(&table, old));
    CHECK_EQ(ka_table_release(&table, old), 0);
    CHECK_EQ(ka_touch(&table, old, now), KA_STALE);
    CHECK_EQ(ka_table_place(&table, old, &place), 0);
    CHECK_EQ(ka_table_set_limit(&table, old, 1, now), 0);
    CHECK_EQ(ka_table_limit(&table, old), 0);
    CHECK_EQ(ka_table_pause(&table, old), 0);
    CHECK_EQ(ka_table_resume(&table, old, now), 0);
    CHECK_EQ(ka_table_paused(&table, old), 0);
    CHECK_EQ(ka_table_idle(&table, old, now), -1);
}

static void ids_go_stale(void) {
    ka_id one = add(10, 1000), other;
    struct ka_place place;
    int i;

    check_stale(0, 1000);
    check_stale(one + 1, 1000); /* a slot that was never given out */
    check_stale(one + KA_PAGE, 1000);
    check_stale(one | UINT32_MAX, 1000);
    CHECK_EQ(ka_table_place(&table, one, &place), 1);
    CHECK_EQ(ka_table_release(&table, one), 1);
    check_stale(one, 1000);
    CHECK_EQ(ka_place_touch(&place, 1001), KA_STALE);
    for (i = 0; i < KA_PAGE; i++) { /* its slot lives again */
        other = add(10, 1000);
        if (KA_SLOT(other) == KA_SLOT(one))
            break;
        CHECK_EQ(ka_table_release(&table, other), 1);
    }
    CHECK_EQ(other, one + (1ull << 32));
    check_stale(one, 1000);
    CHECK_EQ(ka_place_touch(&place, 1005), KA_STALE);
    CHECK_EQ(ka_table_idle(&table, other, 1005), 5);
    CHECK(claims(other, 1011));
}

static void a_due_entry_can_be_released(void) {
    ka_id one = add(10, 1000);

    CHECK(claims(one, 1011));
    CHECK_EQ(ka_table_release(&table, one), 1);
    check_stale(one, 1011);
    CHECK_EQ(table.live, 0);
}

static void generations_leave_0_out(void) {
    ka_id one = add(10, 1000);
    struct ka_page *page = table.page[0];

    CHECK_EQ(KA_GENERATION(one), 1);
    atomic_store(&page->word[KA_SLOT(one)], (uint64_t)UINT32_MAX << 32 | 1000);
    one = (ka_id)UINT32_MAX << 32 | KA_SLOT(one);
    CHECK_EQ(ka_touch(&table, one, 1001), KA_LIVE);
    CHECK_EQ(ka_table_release(&table, one), 1);
    CHECK_EQ(atomic_load(&page->word[KA_SLOT(one)]) >> 32, 1);
}

static void a_slot_rests(void) {
    ka_id one = add(10, 1000), other;
    int i;

    CHECK_EQ(ka_table_release(&table, one), 1);
    for (i = 1; i < KA_PAGE; i++) {
        other = add(10, 1000);
        CHECK(KA_SLOT(other) != KA_SLOT(one));
        CHECK_EQ(ka_table_release(&table, other), 1);
    }
    CHECK_EQ(KA_SLOT(add(10, 1000)), KA_SLOT(one));
    CHECK_EQ(table.pages, 1);
}

/* The first in is the first out, also when the list runs empty between. */
static void free_slots_form_a_queue(void) {
    int i;

    add_many(KA_PAGE, 10, 1000);
    CHECK_EQ(ka_table_release(&table, id[7]), 1);
    CHECK_EQ(KA_SLOT(add(10, 1000)), KA_SLOT(id[7]));
    for (i = 0; i < 50; i++)
        CHECK_EQ(ka_table_release(&table, id[(i * 37 + 100) % KA_PAGE]), 1);
    for (i = 0; i < 50; i++)
        CHECK_EQ(KA_SLOT(add(10, 1000)),
                 KA_SLOT(id[(i * 37 + 100) % KA_PAGE]));
    CHECK_EQ(table.pages, 1);
    CHECK_EQ(KA_SLOT(add(10, 1000)), KA_PAGE);
    CHECK_EQ(table.pages, 2);
}

/* Words do not move, and places stay right, while the table grows. */
static void growth_moves_nothing(void) {
    struct ka_place place;
    size_t hot, all;
    int i;

    id[0] = add(10, 1000);
    CHECK_EQ(ka_table_place(&table, id[0], &place), 1);
    for (i = 1; i < MANY; i++)
        id[i] = add(10, 1000);
    for (; i < 20 * KA_PAGE; i++) /* the directory grows, too */
        (void)add(KA_NO_LIMIT, 1000);
    CHECK_EQ(table.pages, 20);
    CHECK_EQ(table.live, 20 * KA_PAGE);
    CHECK_EQ(ka_place_touch(&place, 1003), KA_LIVE);
    CHECK_EQ(ka_table_idle(&table, id[0], 1004), 1);
    CHECK_EQ(ka_touch(&table, id[MANY - 1], 1001), KA_LIVE);
    CHECK_EQ(sweep(1011), MANY - 2);
    CHECK(claims(id[MANY - 1], 1012));
    CHECK(claims(id[0], 1014));
    ka_table_bytes(&table, &hot, &all);
    CHECK(hot / (20 * KA_PAGE) == 8 && all / (20 * KA_PAGE) == 16);
}

static void a_block_with_two_limits(void) {
    size_t common, mixed, all;
    int i;

    for (i = 0; i < KA_BLOCK; i++)
        id[i] = add(10, 1000);
    ka_table_bytes(&table, &common, &all);
    CHECK_EQ(ka_table_set_limit(&table, id[7], 20, 1000), 1);
    ka_table_bytes(&table, &mixed, &all);
    CHECK_EQ(mixed, common + KA_BLOCK * sizeof(ka_tick));
    for (i = 0; i < KA_BLOCK; i++)
        CHECK_EQ(ka_table_limit(&table, id[i]), i == 7 ? 20 : 10);
    for (i = 0; i < KA_BLOCK; i++) /* until one is alone */
        CHECK_EQ(i == 7 || ka_table_release(&table, id[i]), 1);
    CHECK_EQ(ka_table_set_limit(&table, id[7], 20, 1000), 1);
    ka_table_bytes(&table, &mixed, &all);
    CHECK(mixed == common && claims(id[7], 1021));
}

/* ---- slices ------------------------------------------------------------- */

static int taken[MANY];

static void note_claims(int n) {
    int i;

    for (i = 0; i < n; i++) {
        CHECK_EQ(taken[KA_SLOT(out[i])], 0);
        taken[KA_SLOT(out[i])] = 1;
    }
}

static int in_slices(ka_tick now, int room, int budget) {
    int more = 1, n, all = 0, slices = 0;

    memset(taken, 0, sizeof taken);
    while (more && slices++ < MANY * 2) {
        n = ka_table_expire(&table, now, out, room, budget, &more);
        CHECK(n <= room);
        CHECK_EQ(ka_table_next(&table, now) == 0, more);
        note_claims(n);
        all += n;
        CHECK(ka_table_verify(&table) == NULL);
    }
    return all;
}

static void room_bounds_a_slice(void) {
    int more;

    add_many(MANY, 10, 1000);
    CHECK_EQ(ka_table_expire(&table, 1011, out, 10, 99, &more), 10);
    CHECK_EQ(more, 1);
    CHECK_EQ(ka_table_expire(&table, 1011, out, 0, 99, &more), 0);
    CHECK_EQ(more, 1);
    CHECK_EQ(in_slices(1011, 777, 9999), MANY - 10);
    CHECK_EQ(table.claims, MANY);
}

static void a_budget_bounds_a_slice(void) {
    int more;

    add_many(MANY, 10, 1000);
    CHECK_EQ(ka_table_expire(&table, 1011, out, MANY, 1, &more), KA_BLOCK);
    CHECK_EQ(more, 1);
    CHECK_EQ(table.opened, 1);
    CHECK_EQ(ka_table_expire(&table, 1011, out, MANY, 0, &more), 0);
    CHECK_EQ(more, 1);
    CHECK_EQ(in_slices(1011, MANY, 3), MANY - KA_BLOCK);
    CHECK_EQ(table.opened, (MANY + KA_BLOCK - 1) / KA_BLOCK);
}

/* An interrupted sweep goes on where it was: blocks that keep coming do not
 * hold up the others. */
static void the_sweep_goes_round(void) {
    ka_tick now = 1000;
    int more, n, all = 0, i;

    add_many(KA_PAGE, 0, now);
    memset(taken, 0, sizeof taken);
    for (; now < 1000 + 1 + 2 * KA_PAGE / KA_BLOCK; now++) {
        n = ka_table_expire(&table, now + 1, out, MANY, 1, &more);
        for (i = 0; i < n; i++) {
            all += !taken[KA_SLOT(out[i])];
            taken[KA_SLOT(out[i])] = 1;
            CHECK_EQ(ka_touch(&table, out[i], now + 1), KA_RESCUED);
        }
    }
    CHECK_EQ(all, KA_PAGE);
}

/* Nothing is opened that cannot have come. */
static void bounds_spare_the_blocks(void) {
    uint64_t opened;

    add_many(MANY, 1000, 1000);
    CHECK_EQ(sweep(2000), 0);
    CHECK_EQ(table.opened, 0);
    CHECK_EQ(ka_table_set_limit(&table, id[5000], 10, 1000), 1);
    CHECK(claims(id[5000], 1999));
    CHECK_EQ(table.opened, 1);
    opened = table.opened;
    CHECK_EQ(sweep(2000), 0);
    CHECK_EQ(table.opened, opened);
}

/* ---- the longest idle --------------------------------------------------- */

static void the_longest_idle_come_first(void) {
    int i;

    for (i = 0; i < 500; i++) /* 1000, 1037, 1074, ... in a mixed order */
        id[i] = add(900, 1000 + (ka_tick)(i * 37 % 500));
    CHECK_EQ(ka_table_longest_idle(&table, 1600, out, 100), 100);
    for (i = 0; i < 100; i++)
        CHECK_EQ(ka_table_idle(&table, out[i], 1600), 600 - i);
    CHECK_EQ(ka_table_longest_idle(&table, 1600, out, 9999), 500);
    CHECK_EQ(ka_table_idle(&table, out[499], 1600), 101);
    CHECK_EQ(ka_table_longest_idle(&table, 1600, out, 0), 0);
    CHECK_EQ(ka_table_longest_idle(&table, 1600, out, -1), 0);
    CHECK_EQ(table.claims, 0);
}

static void who_is_left_out_of_the_idle(void) {
    ka_id paused = add(100, 1000), endless = add(KA_NO_LIMIT, 1000);
    ka_id due = add(10, 1001), first = add(100, 1002), second = add(50, 1002);
    ka_id last = add(100, 1003);

    CHECK_EQ(ka_table_pause(&table, paused), 1);
    CHECK(claims(due, 1020));
    CHECK_EQ(ka_table_longest_idle(&table, 1020, out, 10), 4);
    CHECK(out[0] == due && out[1] == first && out[2] == second &&
          out[3] == last);
    CHECK_EQ(ka_table_longest_idle(&table, 1020, out, 2), 2);
    CHECK(out[0] == due && out[1] == first);
    CHECK(ka_table_live(&table, endless));
}

static void closing_starts_afresh(void) {
    ka_id one;

    add_many(MANY, 10, 1000);
    ka_table_close(&table);
    CHECK_EQ(table.pages, 0);
    CHECK_EQ(sweep(2000), 0);
    one = add(10, 1000);
    CHECK(claims(one, 1011));
}

int main(void) {
    test.before = open_table;
    test.after = close_table;
    RUN(an_empty_table_has_nothing);
    RUN(never_early_never_late);
    RUN(due_is_said_once);
    RUN(a_touch_moves_the_deadline);
    RUN(an_older_touch_takes_nothing_back);
    RUN(a_touch_rescues_what_is_due);
    RUN(across_the_wrap);
    RUN(a_late_sweep_across_the_wrap);
    RUN(touches_across_the_wrap);
    RUN(no_tick_is_taken_for_a_state);
    RUN(a_longer_limit);
    RUN(a_shorter_limit);
    RUN(a_limit_exceeded_already);
    RUN(a_new_limit_ends_being_due);
    RUN(a_paused_entry_has_no_deadline);
    RUN(resuming_what_runs_does_nothing);
    RUN(a_due_entry_can_be_paused);
    RUN(without_a_limit);
    RUN(the_longest_limit_beside_the_longest_idle);
    RUN(ids_go_stale);
    RUN(a_due_entry_can_be_released);
    RUN(generations_leave_0_out);
    RUN(a_slot_rests);
    RUN(free_slots_form_a_queue);
    RUN(growth_moves_nothing);
    RUN(a_block_with_two_limits);
    RUN(room_bounds_a_slice);
    RUN(a_budget_bounds_a_slice);
    RUN(the_sweep_goes_round);
    RUN(bounds_spare_the_blocks);
    RUN(the_longest_idle_come_first);
    RUN(who_is_left_out_of_the_idle);
    RUN(closing_starts_afresh);
    return test_report("table");
}

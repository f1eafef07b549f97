/* test_loop.c - descriptors that come, go, are reused, duplicated, inherited.
 */
#include "loop_fixture.h"

static int on_epoll(void) {
    return strcmp(chosen->name, "epoll") == 0;
}

static void readiness_is_told_and_stamps(void) {
    int pair[2], tag;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, &tag);
    CHECK_EQ(go(0), 0);
    ka_loop_advance(&loop, 40);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 400);
    say(pair[1]);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK(loop.event[0].user == &tag);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 0);
    hear(pair[0]);
    ka_loop_advance(&loop, LIMIT);
    CHECK_EQ(go(0), 0);
    ka_loop_advance(&loop, 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK(loop.event[0].user == &tag);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), (LIMIT + 1) * 10);
    close_pair(pair);
}

static void idleness_is_told_once_until_there_is_activity(void) {
    int pair[2];
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    ka_loop_advance(&loop, 5 * LIMIT);
    CHECK_EQ(go(0), 0);
    say(pair[1]);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_READ);
    hear(pair[0]);
    CHECK_EQ(go(0), 0);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(ka_loop_touch(&loop, id), KA_RESCUED);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(loop.stats.idle, 3);
    close_pair(pair);
}

static void readiness_and_idleness_in_one_batch(void) {
    int speaker[2], silent[2];
    ka_id spoke, idle;

    open_pair(speaker);
    open_pair(silent);
    spoke = add(speaker[0], KA_READ | KA_WRITE, LIMIT, NULL);
    idle = add(silent[0], KA_READ, LIMIT, NULL);
    say(speaker[1]);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(-1), 2);
    CHECK_EQ(said(spoke), KA_READ | KA_WRITE);
    CHECK_EQ(said(idle), KA_IDLENESS);
    close_pair(speaker);
    close_pair(silent);
}

static void what_had_come_before_the_deadline_counts(void) {
    int pair[2];
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    say(pair[1]);
    ka_loop_advance(&loop, 3 * LIMIT);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 0);
    CHECK_EQ(loop.stats.idle, 0);
    close_pair(pair);
}

static void everything_ready_comes_at_once(void) {
    enum { PAIRS = 300 };
    static int pair[PAIRS][2];
    int i;

    for (i = 0; i < PAIRS; i++) {
        open_pair(pair[i]);
        add(pair[i][0], KA_READ, LIMIT, pair[i]);
        say(pair[i][1]);
    }
    CHECK_EQ(go(-1), PAIRS);
    for (i = 0; i < PAIRS; i++)
        CHECK(said(ka_loop_find(&loop, pair[i][0])) == KA_READ);
    for (i = 0; i < PAIRS; i++)
        close_pair(pair[i]);
}

static void an_entry_removed_by_an_earlier_event_is_known_to_be_gone(void) {
    int first[2], second[2];
    ka_id id[2], other;

    open_pair(first);
    open_pair(second);
    id[0] = add(first[0], KA_READ, LIMIT, NULL);
    id[1] = add(second[0], KA_READ, LIMIT, NULL);
    say(first[1]);
    say(second[1]);
    CHECK_EQ(go(-1), 2);
    other = loop.event[1].id;
    CHECK(other == id[0] || other == id[1]);
    CHECK_EQ(ka_loop_remove(&loop, other), 1);
    CHECK_EQ(ka_loop_remove(&loop, other), 0);
    CHECK(ka_loop_entry(&loop, other) == NULL);
    CHECK(ka_loop_entry(&loop, loop.event[0].id) != NULL);
    CHECK_EQ(ka_loop_touch(&loop, other), KA_STALE);
    CHECK_EQ(ka_loop_idle_ms(&loop, other), -1);
    CHECK_EQ(ka_loop_modify(&loop, other, KA_WRITE), -ENOENT);
    CHECK_EQ(go(-1), 1);
    CHECK(loop.event[0].id != other);
    close_pair(first);
    close_pair(second);
}

static void a_descriptor_is_registered_once(void) {
    int pair[2];
    ka_id id, second = 7;

    open_pair(pair);
    CHECK(ka_loop_entry(&loop, 0) == NULL);
    CHECK_EQ(ka_loop_find(&loop, pair[0]), 0);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    CHECK(ka_loop_find(&loop, pair[0]) == id);
    CHECK(ka_loop_entry(&loop, (uint32_t)id) == NULL);
    CHECK_EQ(ka_loop_add(&loop, pair[0], KA_READ, LIMIT, NULL, &second),
             -EEXIST);
    CHECK_EQ(second, 7);
    close(pair[0]);
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    CHECK_EQ(ka_loop_find(&loop, pair[0]), 0);
    CHECK_EQ(ka_loop_add(&loop, pair[0], KA_READ, LIMIT, NULL, &second),
             -EBADF);
    CHECK_EQ(loop.table.live, 0);
    CHECK_EQ(loop.registered, 0);
    close(pair[1]);
}

static void asked_for_nothing_it_is_known_but_not_polled(void) {
    int pair[2];
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    say(pair[1]);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(ka_loop_modify(&loop, id, 0), 0);
    CHECK_EQ(go(0), 0);
    CHECK(ka_loop_find(&loop, pair[0]) == id);
    CHECK_EQ(ka_loop_modify(&loop, id, KA_WRITE), 0);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_WRITE);
    CHECK_EQ(ka_loop_modify(&loop, id, KA_READ | KA_WRITE), 0);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_READ | KA_WRITE);
    CHECK_EQ(ka_loop_modify(&loop, id, 0), 0);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    id = add(pair[0], 0, LIMIT, NULL);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(ka_loop_modify(&loop, id, KA_READ), 0);
    CHECK_EQ(go(0), 1);
    close_pair(pair);
}

/* ---- numbers that come back --------------------------------------------- */

#define STORM 24

static struct {
    int pair[2];
    ka_id id;
    ka_tick last, limit;
    int told; /* that it is idle */
} storm[STORM];

static ka_tick storm_now;

static void storm_open(int i) {
    open_pair(storm[i].pair);
    storm[i].limit = (ka_tick)(rand() % 20);
    storm[i].last = ka_word_tick(storm_now);
    storm[i].told = 0;
    storm[i].id = add(storm[i].pair[0], KA_READ, storm[i].limit, &storm[i]);
}

static void storm_close(int i) {
    int closed_first = rand() % 2;

    if (closed_first)
        close_pair(storm[i].pair);
    CHECK_EQ(ka_loop_remove(&loop, storm[i].id), 1);
    if (!closed_first)
        close_pair(storm[i].pair);
}

/* Every event is of somebody who is there, true, and due. */
static void storm_check(void) {
    int i, of;

    for (i = 0; i < loop.count; i++) {
        for (of = 0; of < STORM && storm[of].id != loop.event[i].id; of++)
            ;
        if (!CHECK(of < STORM) || !CHECK(loop.event[i].user == &storm[of]) ||
            !CHECK(ka_loop_entry(&loop, loop.event[i].id) != NULL))
            continue;
        if (loop.event[i].events & KA_IDLENESS) {
            CHECK_EQ(loop.event[i].events, KA_IDLENESS);
            CHECK(!storm[of].told);
            CHECK(ka_tick_since(storm_now, storm[of].last) >
                  (int32_t)storm[of].limit);
            storm[of].told = 1;
        } else {
            CHECK_EQ(loop.event[i].events, KA_READ);
            hear(storm[of].pair[0]);
            storm[of].last = ka_word_tick(storm_now);
            storm[of].told = 0;
        }
    }
    for (of = 0; of < STORM; of++) /* and nobody was forgotten */
        CHECK(storm[of].told || ka_tick_since(storm_now, storm[of].last) <=
                                    (int32_t)storm[of].limit + 1);
}

static void no_event_reaches_a_number_that_was_reused(void) {
    int step, i;

    srand(20);
    storm_now = BEGAN;
    for (i = 0; i < STORM; i++)
        storm_open(i);
    for (step = 0; step < 20000 && test.failures == 0; step++) {
        i = rand() % STORM;
        switch (rand() % 4) {
            case 0:
                say(storm[i].pair[1]);
                break;
            case 1:
                ka_loop_advance(&loop, 1);
                storm_now++;
                CHECK(go(0) >= 0);
                storm_check();
                break;
            default:
                say(storm[i].pair[1]); /* is ready when it goes */
                storm_close(i);
                storm_open(i);
        }
    }
    for (i = 0; i < STORM; i++)
        storm_close(i);
    CHECK_EQ(loop.registered, 0);
    CHECK_EQ(loop.stats.stale_events, 0);
}

static void a_dup_left_open_is_reported_no_more(void) {
    int gone[2], other[2], shut[2], copy;
    ka_id id, kept, closed;

    open_pair(gone);
    open_pair(other);
    open_pair(shut);
    id = add(gone[0], KA_READ, LIMIT, NULL);
    kept = add(other[0], KA_READ, LIMIT, NULL);
    closed = add(shut[0], KA_READ, LIMIT, NULL);
    copy = dup(gone[0]);
    close(gone[0]);
    close(shut[0]); /* is registered still */
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    say(gone[1]);
    say(other[1]);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(kept), KA_READ);
    CHECK_EQ(loop.stats.stale_events, on_epoll());
    CHECK_EQ(loop.stats.rebuilds, on_epoll());
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(kept), KA_READ);
    CHECK_EQ(loop.stats.stale_events, on_epoll());
    hear(other[0]);
    CHECK_EQ(go(0), 0);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(0), 2);
    CHECK_EQ(said(closed), KA_IDLENESS);
    close(copy);
    close(gone[1]);
    close(shut[1]);
    close_pair(other);
}

static void a_dup_that_comes_back_to_its_number_is_taken_over(void) {
    int pair[2], copy;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    copy = dup(pair[0]);
    close(pair[0]);
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    need(dup2(copy, pair[0]) == pair[0], "dup2");
    id = add(pair[0], KA_READ, LIMIT, NULL);
    say(pair[1]);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(loop.stats.stale_events, 0);
    close(copy);
    close_pair(pair);
}

/* ---- fork --------------------------------------------------------------- */

static int ended_well(pid_t child) {
    int status = -1;

    return waitpid(child, &status, 0) == child && status == 0;
}

static int child_life(ka_id inherited, int inherited_fd) {
    int own[2];
    ka_id id;

    ka_loop_wake(&loop); /* is nobody's business but the child's */
    if (go(-1) != 0)
        return 1;
    open_pair(own);
    id = add(own[0], KA_READ, LIMIT, own);
    say(own[1]);
    if (go(-1) != 1 || said(id) != KA_READ)
        return 2;
    hear(own[0]);
    if (!ka_loop_remove(&loop, inherited))
        return 3;
    close(inherited_fd);
    if (go(0) != 0)
        return 4;
    ka_loop_close(&loop);
    return test.failures;
}

static void a_child_has_a_set_of_its_own(void) {
    int pair[2];
    pid_t child;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    fflush(stdout);
    child = fork();
    if (child == 0)
        _exit(child_life(id, pair[0]));
    CHECK_EQ(ka_loop_begin(&loop, 30), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(loop.waited, 0); /* the child's wake was not ours */
    CHECK_EQ(ka_loop_finish(&loop), 0);
    CHECK(ended_well(child));
    say(pair[1]);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(loop.stats.rebuilds, 0);
    close_pair(pair);
}

static void a_child_that_only_removes_leaves_the_parent_s(void) {
    int pair[2];
    pid_t child;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        int rc = ka_loop_remove(&loop, id);

        ka_loop_close(&loop);
        _exit(rc != 1);
    }
    CHECK(ended_well(child));
    say(pair[1]);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_READ);
    close_pair(pair);
}

/* Forked with an answer in hand that the new poller did not give. */
static void a_fork_inside_a_round_looks_again(void) {
    int pair[2];
    pid_t child;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    CHECK_EQ(ka_loop_begin(&loop, 1000), KA_LOOP_WAIT);
    say(pair[1]);
    ka_loop_wait(&loop);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        int good = ka_loop_finish(&loop) == 1 && said(id) == KA_READ &&
                   loop.stats.rebuilds == 1;

        ka_loop_close(&loop);
        _exit(!good);
    }
    CHECK_EQ(ka_loop_finish(&loop), 1);
    CHECK(ended_well(child));
    close_pair(pair);
}

/* ---- the end ------------------------------------------------------------ */

static void after_shut_ids_and_marks_are_stale(void) {
    int pair[2], fd, lowest;
    struct ka_mark mark;
    ka_id id;

    ka_loop_close(&loop);
    lowest = dup(0);
    close(lowest);
    open_loop();
    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, pair);
    CHECK_EQ(ka_loop_mark(&loop, id, &mark), 1);
    ka_loop_shut(&loop);
    CHECK(ka_loop_entry(&loop, id) == NULL);
    CHECK_EQ(ka_loop_find(&loop, pair[0]), 0);
    CHECK_EQ(ka_loop_find(&loop, 0), 0);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), -1);
    CHECK_EQ(ka_loop_touch(&loop, id), KA_STALE);
    CHECK_EQ(ka_touch_now(&mark), 0);
    CHECK_EQ(ka_loop_wake(&loop), 0);
    CHECK_EQ(loop.table.live, 0);
    CHECK_EQ(write(pair[1], "x", 1), 1); /* descriptors stay open */
    close_pair(pair);
    fd = dup(0);
    CHECK_EQ(fd, lowest); /* the poller's own are closed */
    close(fd);
}

int main(void) {
    RUN_BOTH(readiness_is_told_and_stamps);
    RUN_BOTH(idleness_is_told_once_until_there_is_activity);
    RUN_BOTH(readiness_and_idleness_in_one_batch);
    RUN_BOTH(what_had_come_before_the_deadline_counts);
    RUN_BOTH(everything_ready_comes_at_once);
    RUN_BOTH(an_entry_removed_by_an_earlier_event_is_known_to_be_gone);
    RUN_BOTH(a_descriptor_is_registered_once);
    RUN_BOTH(asked_for_nothing_it_is_known_but_not_polled);
    RUN_BOTH(no_event_reaches_a_number_that_was_reused);
    RUN_BOTH(a_dup_left_open_is_reported_no_more);
    RUN_BOTH(a_dup_that_comes_back_to_its_number_is_taken_over);
    RUN_BOTH(a_child_has_a_set_of_its_own);
    RUN_BOTH(a_child_that_only_removes_leaves_the_parent_s);
    RUN_BOTH(a_fork_inside_a_round_looks_again);
    RUN_BOTH(after_shut_ids_and_marks_are_stale);
    return test_report("loop");
}

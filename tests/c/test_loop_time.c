/* test_loop_time.c - deadlines, waits, stops and signals. A poller that says
 * what the case wants stands in for the real one where those are the subject.
 */
#include "loop_fixture.h"

/* ---- a poller that follows a script ------------------------------------- */

struct ka_poller {
    struct ka_ready ready[2];
};

static struct ka_poller played;

static struct {
    struct step {
        int rc;        /* -errno, or so many of `ready` */
        uint32_t stop; /* ticks that go by in it, without anybody looking */
    } step[8];
    int at, steps, timeout_ms[32], waits;
    int add_rc, modify_rc, adds, modifies, removes;
    uint64_t tag;
    uint32_t events;
} script;

static int play_open(struct ka_poller **out) {
    *out = &played;
    return 0;
}

static void play_close(struct ka_poller *poller) {
    (void)poller;
}

static int play_add(struct ka_poller *poller, ka_sock fd, uint32_t events,
                    uint64_t tag) {
    (void)poller;
    (void)fd;
    script.adds++;
    script.tag = tag;
    script.events = events;
    return script.add_rc;
}

static int play_modify(struct ka_poller *poller, ka_sock fd, uint32_t events,
                       uint64_t tag) {
    (void)poller;
    (void)fd;
    script.modifies++;
    if (script.modify_rc == 0) {
        script.tag = tag;
        script.events = events;
    }
    return script.modify_rc;
}

static int play_remove(struct ka_poller *poller, ka_sock fd) {
    (void)poller;
    (void)fd;
    script.removes++;
    return -EBADF;
}

static int play_wait(struct ka_poller *poller, int timeout_ms,
                     const struct ka_ready **out) {
    const struct step *step = &script.step[script.at];

    if (script.waits < 32)
        script.timeout_ms[script.waits++] = timeout_ms;
    *out = poller->ready;
    if (script.at == script.steps)
        return 0;
    script.at++;
    ka_clock_advance(&loop.clock, step->stop);
    return step->rc;
}

static int play_wake(const struct ka_poller *poller) {
    (void)poller;
    return 0;
}

static int play_fileno(const struct ka_poller *poller) {
    (void)poller;
    return -1;
}

static const struct ka_backend ka_backend_script = {
    "script",    play_open, play_close, play_add,   play_modify,
    play_remove, play_wait, play_wake,  play_fileno};

static void run_played(const char *name, void (*body)(void)) {
    chosen = &ka_backend_script;
    memset(&script, 0, sizeof script);
    memset(&played, 0, sizeof played);
    test.before = open_loop;
    test.after = close_loop;
    test_run(name, body);
    test.before = test.after = NULL;
}

#define RUN_PLAYED(body) run_played(#body, body)

static void then(int rc, uint32_t stop) {
    script.step[script.steps].rc = rc;
    script.step[script.steps++].stop = stop;
}

static void will_be_ready(ka_id id) {
    played.ready[0].tag = id;
    played.ready[0].events = KA_READ;
}

/* ---- signals ------------------------------------------------------------ */

static void an_interrupted_poll_calls_nobody_idle(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);

    will_be_ready(id);
    ka_loop_advance(&loop, 2 * LIMIT);
    then(-EINTR, 0);
    then(-EINTR, 0);
    then(1, 0);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(loop.stats.idle, 0);
    CHECK_EQ(loop.stats.interrupted, 2);
}

static void nor_does_one_that_never_gets_through(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);
    int i;

    will_be_ready(id);
    ka_loop_advance(&loop, 2 * LIMIT);
    for (i = 0; i < 8; i++)
        then(-EINTR, 0);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(loop.stats.idle, 0);
    CHECK_EQ(go(0), 1); /* not forgotten: the poll that saw nothing */
    CHECK_EQ(said(id), KA_IDLENESS);
}

/* The deadline comes in the wait, and so do a signal and the data. */
static void a_signal_in_the_wait_means_look_again(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);

    will_be_ready(id);
    then(0, 0);
    then(-EINTR, LIMIT + 10);
    then(1, 0);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(loop.stats.idle, 0);
    CHECK_EQ(script.waits, 3);
    CHECK_EQ(script.timeout_ms[0], 0);
    CHECK_EQ(script.timeout_ms[2], 0);
}

/* The wait says nobody, the deadline has come, the data came in between. */
static void after_a_wait_idleness_needs_a_second_look(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);

    will_be_ready(id);
    then(0, 0);
    then(0, LIMIT + 10);
    then(1, 0);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(loop.stats.idle, 0);
}

static void without_a_deadline_a_wait_s_answer_is_enough(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);

    will_be_ready(id);
    then(0, 0);
    then(1, 10);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_READ);
    CHECK_EQ(script.waits, 2);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 0);
}

static void a_signal_leaves_the_rest_of_the_time(void) {
    int64_t began = real_ms();

    then(0, 0);
    then(-EINTR, 0);
    CHECK_EQ(ka_loop_begin(&loop, 60000), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(loop.waited, -EINTR);
    CHECK_EQ(ka_loop_finish(&loop), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(ka_loop_finish(&loop), 0);
    CHECK_EQ(script.timeout_ms[1], 60000);
    CHECK(script.timeout_ms[3] > 60000 - 5000 - (real_ms() - began));
    CHECK(script.timeout_ms[3] <= 60000 + 10);
}

static void a_failing_poll_is_an_error(void) {
    add(5, KA_READ, LIMIT, NULL);
    ka_loop_advance(&loop, 2 * LIMIT);
    then(-ENOMEM, 0);
    CHECK_EQ(ka_loop_begin(&loop, 0), -ENOMEM);
    CHECK_EQ(go(0), 1); /* the deadline is not forgotten */
    then(0, 0);
    then(-EIO, 0);
    CHECK_EQ(ka_loop_begin(&loop, 10), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(ka_loop_finish(&loop), -EIO);
}

/* ---- stops -------------------------------------------------------------- */

#define MINUTE 6000u

static void a_stop_in_the_wait_expires_nobody(void) {
    ka_id id = add(5, KA_READ, 500, NULL);

    then(0, 0);
    then(0, MINUTE);
    CHECK_EQ(go(20), 0);
    CHECK_EQ(loop.stats.stalls, 1);
    CHECK(loop.stats.skipped_ticks > MINUTE - 110);
    CHECK(loop.stats.skipped_ticks < MINUTE - 90);
    CHECK(ka_loop_idle_ms(&loop, id) >= 1000);
    CHECK(ka_loop_idle_ms(&loop, id) <= 1100);
    ka_loop_advance(&loop, 400);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
}

static void a_stop_in_a_poll_expires_nobody(void) {
    ka_id id = add(5, KA_READ, 500, NULL);

    then(0, MINUTE);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(loop.stats.stalls, 1);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 1000);
}

/* Also when the one that spoke and the one that did not are in one batch. */
static void a_long_callback_expires_nobody(void) {
    ka_id id = add(5, KA_READ, 500, NULL), born;

    CHECK_EQ(go(0), 0);
    ka_clock_advance(&loop.clock, MINUTE);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 1000);
    born = add(6, KA_READ, 500, NULL);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(loop.stats.stalls, 1);
    CHECK_EQ(loop.stats.skipped_ticks, MINUTE - 100);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 1000);
    CHECK_EQ(ka_loop_idle_ms(&loop, born), 0);
    ka_loop_advance(&loop, 401);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    ka_loop_advance(&loop, 100);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(born), KA_IDLENESS); /* no gift of a minute */
}

static void a_second_is_no_stop(void) {
    ka_id id = add(5, KA_READ, LIMIT, NULL);

    CHECK_EQ(go(0), 0);
    ka_clock_advance(&loop.clock, 100);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(loop.stats.stalls, 0);
}

/* ---- how long it waits -------------------------------------------------- */

static void a_wait_is_cut_into_days(void) {
    then(0, 0);
    CHECK_EQ(ka_loop_begin(&loop, INT64_MAX), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(script.timeout_ms[1], 86400000);
    CHECK_EQ(ka_loop_finish(&loop), KA_LOOP_WAIT);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(script.timeout_ms[3], -1);
}

static void a_clock_that_stands_is_not_waited_for(void) {
    ka_id id = add(KA_NO_FD, 0, LIMIT, NULL);

    CHECK_EQ(go(15), 0);
    CHECK_EQ(script.timeout_ms[1], 15);
    CHECK_EQ(ka_loop_begin(&loop, 15), KA_LOOP_WAIT);
    ka_loop_advance(&loop, LIMIT + 1);
    ka_loop_wait(&loop);
    CHECK_EQ(loop.wait_ms, 0);
    CHECK_EQ(ka_loop_finish(&loop), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
}

static void run_clock(void) {
    ka_clock_init(&loop.clock);
    loop.looked = ka_clock_now(&loop.clock);
}

static void the_next_deadline_ends_the_wait(void) {
    run_clock();
    add(KA_NO_FD, 0, 300, NULL);
    add(KA_NO_FD, 0, 100, NULL);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK(script.timeout_ms[1] > 900 && script.timeout_ms[1] <= 1020);
    CHECK_EQ(ka_loop_begin(&loop, 500), KA_LOOP_WAIT);
    add(KA_NO_FD, 0, 20, NULL); /* as a signal's handler may */
    ka_loop_wait(&loop);
    CHECK(script.timeout_ms[3] > 150 && script.timeout_ms[3] <= 220);
}

static void real_waits_are_never_short(void) {
    int64_t began;
    ka_id id;
    int i;

    run_clock();
    for (i = 0; i < 4; i++) {
        began = real_ms();
        CHECK_EQ(go(7), 0);
        CHECK(real_ms() - began >= 6); /* of a whole, and both cut */
    }
    id = add(KA_NO_FD, 0, (ka_tick)ka_clock_ticks(20), NULL);
    began = real_ms();
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK(real_ms() - began >= 20);
    CHECK_EQ(loop.stats.stalls, 0);
}

/* ---- limits and timers -------------------------------------------------- */

static void limits_change_and_rest(void) {
    int pair[2];
    ka_id id, ids[4];

    open_pair(pair);
    id = add(pair[0], KA_READ, KA_NO_LIMIT, NULL);
    ka_loop_advance(&loop, 90);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(ka_loop_longest_idle(&loop, ids, 4), 0);
    CHECK_EQ(ka_loop_set_limit(&loop, id, 50), 1); /* has passed already */
    CHECK_EQ(ka_loop_longest_idle(&loop, ids, 4), 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(ka_loop_touch(&loop, id), KA_RESCUED);
    CHECK_EQ(ka_loop_pause(&loop, id), 1);
    ka_loop_advance(&loop, 90);
    say(pair[1]);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_READ);
    hear(pair[0]);
    ka_loop_advance(&loop, 90);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 0);
    CHECK_EQ(ka_loop_resume(&loop, id), 1);
    ka_loop_advance(&loop, 50);
    CHECK_EQ(go(0), 0);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 500);
    ka_loop_advance(&loop, 1);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    CHECK_EQ(ka_loop_set_limit(&loop, id, 1), 0);
    CHECK_EQ(ka_loop_pause(&loop, id), 0);
    CHECK_EQ(ka_loop_resume(&loop, id), 0);
    close_pair(pair);
}

static void the_longest_idle_come_first(void) {
    ka_id id[3], found[3];
    int i;

    for (i = 0; i < 3; i++) {
        id[i] = add(KA_NO_FD, 0, 500, NULL);
        ka_loop_advance(&loop, 20);
    }
    ka_loop_touch(&loop, id[0]);
    CHECK_EQ(ka_loop_longest_idle(&loop, found, 2), 2);
    CHECK(found[0] == id[1] && found[1] == id[2]);
}

static void five_thousand_timers_in_order(void) {
    enum { TIMERS = 5000 };
    static ka_tick limit[TIMERS];
    const ka_tick born = 0x10000000; /* no wrap, which may be late */
    int i, told = 0;
    ka_tick passed;

    srand(5000);
    ka_loop_freeze(&loop, born);
    for (i = 0; i < TIMERS; i++) {
        limit[i] = (ka_tick)(rand() % 800);
        add(KA_NO_FD, 0, limit[i], &limit[i]);
    }
    for (passed = 0; told < TIMERS && passed < 900; passed++) {
        if (go(0) < 0)
            break;
        for (i = 0; i < loop.count; i++)
            CHECK_EQ(*(ka_tick *)loop.event[i].user + 1, passed);
        told += loop.count;
        ka_loop_advance(&loop, 1);
    }
    CHECK_EQ(told, TIMERS);
    CHECK_EQ(go(0), 0);
}

/* Its bound is left behind. */
static void a_deadline_that_has_gone_wakes_nobody(void) {
    ka_id id = add(KA_NO_FD, 0, LIMIT, NULL);

    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(ka_loop_begin(&loop, 20), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(loop.wait_ms, 20);
}

static void what_could_not_be_told_is_told_again(void) {
    ka_id silent = add(KA_NO_FD, 0, LIMIT, NULL);
    ka_id spoken = add(KA_NO_FD, 0, LIMIT, NULL);

    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(0), 2);
    CHECK_EQ(ka_loop_touch(&loop, spoken), KA_RESCUED);
    ka_loop_put_back(&loop);
    CHECK_EQ(ka_loop_idle_ms(&loop, silent), (LIMIT + 1) * KA_TICK_MS);
    CHECK_EQ(go(0), 1);
    CHECK_EQ(said(silent), KA_IDLENESS);
    CHECK_EQ(go(0), 0);
}

static void too_many_at_once_come_in_slices(void) {
    int i;

    for (i = 0; i < 2 * KA_SLICE + 1000; i++)
        add(KA_NO_FD, 0, LIMIT, NULL);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_SLICE);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_SLICE);
    CHECK_EQ(ka_loop_begin(&loop, -1), 1000);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_LOOP_WAIT);
}

/* ---- a poller that refuses ---------------------------------------------- */

static void what_the_poller_refuses_leaves_nothing(void) {
    ka_id id = 7;

    script.add_rc = -EPERM;
    CHECK_EQ(ka_loop_add(&loop, 5, KA_READ, LIMIT, NULL, &id), -EPERM);
    CHECK_EQ(id, 7);
    CHECK_EQ(ka_loop_find(&loop, 5), 0);
    CHECK_EQ(loop.table.live, 0);
    CHECK_EQ(loop.registered, 0);
    ka_loop_advance(&loop, 2 * LIMIT);
    CHECK_EQ(go(0), 0);
    script.add_rc = 0;
    id = add(5, KA_READ, LIMIT, NULL);
    script.modify_rc = -ENOMEM;
    CHECK_EQ(ka_loop_modify(&loop, id, KA_WRITE), -ENOMEM);
    CHECK_EQ(ka_loop_entry(&loop, id)->events, KA_READ);
    CHECK_EQ(ka_loop_remove(&loop, id), 1); /* the poller says -EBADF */
    CHECK_EQ(script.removes, 1);
}

static void what_the_poller_has_still_is_taken_over(void) {
    ka_id id;

    script.add_rc = -EEXIST;
    id = add(5, KA_READ, LIMIT, NULL);
    CHECK_EQ(script.modifies, 1);
    CHECK(script.tag == id);
    script.add_rc = 0;
    script.modify_rc = -ENOENT; /* it has lost it */
    CHECK_EQ(ka_loop_modify(&loop, id, KA_WRITE), 0);
    CHECK_EQ(script.adds, 2);
    CHECK_EQ(script.events, KA_WRITE);
}

int main(void) {
    RUN_PLAYED(an_interrupted_poll_calls_nobody_idle);
    RUN_PLAYED(nor_does_one_that_never_gets_through);
    RUN_PLAYED(a_signal_in_the_wait_means_look_again);
    RUN_PLAYED(after_a_wait_idleness_needs_a_second_look);
    RUN_PLAYED(without_a_deadline_a_wait_s_answer_is_enough);
    RUN_PLAYED(a_signal_leaves_the_rest_of_the_time);
    RUN_PLAYED(a_failing_poll_is_an_error);
    RUN_PLAYED(a_stop_in_the_wait_expires_nobody);
    RUN_PLAYED(a_stop_in_a_poll_expires_nobody);
    RUN_PLAYED(a_long_callback_expires_nobody);
    RUN_PLAYED(a_second_is_no_stop);
    RUN_PLAYED(a_wait_is_cut_into_days);
    RUN_PLAYED(a_clock_that_stands_is_not_waited_for);
    RUN_PLAYED(the_next_deadline_ends_the_wait);
    RUN_BOTH(real_waits_are_never_short);
    RUN_BOTH(limits_change_and_rest);
    RUN_BOTH(the_longest_idle_come_first);
    RUN_BOTH(five_thousand_timers_in_order);
    RUN_BOTH(a_deadline_that_has_gone_wakes_nobody);
    RUN_BOTH(what_could_not_be_told_is_told_again);
    RUN_BOTH(too_many_at_once_come_in_slices);
    RUN_PLAYED(what_the_poller_refuses_leaves_nothing);
    RUN_PLAYED(what_the_poller_has_still_is_taken_over);
    return test_report("loop_time");
}

/* Which connections are found let down: rows, sequences of looks, and random
 * lives of a modelled connection, looked at only when that is asked for.
 * SEED=n repeats the random ones from there, RUNS=n makes them longer. */
#include "chance.h"
#include "judge_model.h"
#include "judge_rows.h"
#include "test.h"

#include <stddef.h>

#define NOW 1000000

static const struct ka_limits none = {KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME};

/* ---- one look --------------------------------------------------------- */

static int64_t ms_or(int ms) {
    return ms == 0 ? 5000 : ms;
}

static void show(const struct shown *shown, struct ka_info *info) {
    memset(info, 0, sizeof *info);
    info->state = shown->state ? shown->state : KA_TCP_ESTABLISHED;
    info->last_data_sent_ms = ms_or(shown->sent);
    info->last_data_recv_ms = ms_or(shown->recv);
    info->last_ack_recv_ms = ms_or(shown->ack);
    info->data_segs_in = shown->segs_in;
    info->data_segs_out = shown->segs_out;
    info->bytes_received = shown->bytes_in;
    info->bytes_acked = shown->acked;
    info->unacked = shown->unacked;
    info->notsent_bytes = shown->unsent;
    info->probes = shown->probes;
    info->retransmits = shown->retransmits;
    info->total_retrans = shown->total_retrans;
}

static void or_none(int64_t *limit) {
    if (*limit == 0)
        *limit = KA_NO_TIME;
}

static void one_look(const struct row *row) {
    struct ka_limits limits = row->limits;
    struct ka_judgement got, twice;
    struct ka_past past;
    struct ka_info info;

    or_none(&limits.never_spoke_ms);
    or_none(&limits.unanswered_ms);
    or_none(&limits.answered_ms);
    or_none(&limits.stalled_ms);
    or_none(&limits.min_rate);
    or_none(&limits.detect_ms);
    or_none(&limits.idle_ms);
    show(&row->now, &info);
    ka_past_begin(
        &past, &info,
        row->since == 0 ? 0 : NOW - (row->since > 0 ? row->since : 0), NOW);
    ka_judge(&limits, &past, &info, NOW, &got);
    CHECK_EQ(got.klass, row->klass);
    CHECK_EQ(got.klass, ka_classify(&info));
    CHECK_EQ(got.cause, row->cause);
    CHECK_EQ(got.clock_ms, row->clock == NONE ? 0 : ms_or(row->clock));
    CHECK_EQ(got.again_ms, row->again ? row->again : KA_NO_TIME);
    ka_judge(&limits, &past, &info, NOW, &twice);
    CHECK(memcmp(&got, &twice, sizeof got) == 0);
}

static void every_row(void) {
    size_t i;

    for (i = 0; i < ROWS; i++) {
        test_begin(rows[i].label);
        one_look(&rows[i]);
        test_end();
    }
}

static void idle_needs_both_clocks(void) {
    struct shown shown = {.sent = 9, .recv = 7};
    struct ka_info info;

    show(&shown, &info);
    CHECK_EQ(ka_payload_idle_ms(&info), 7);
    info.last_data_sent_ms = 5;
    CHECK_EQ(ka_payload_idle_ms(&info), 5);
    info.last_data_sent_ms = -1;
    CHECK_EQ(ka_payload_idle_ms(&info), -1);
    info.last_data_sent_ms = 5;
    info.last_data_recv_ms = -1;
    CHECK_EQ(ka_payload_idle_ms(&info), -1);
}

/* ---- a life, looked at when that is asked for -------------------------- */

static struct life {
    struct model model;
    struct ka_limits limits;
    struct ka_past past;
    struct ka_judgement got;
    int64_t due; /* the next look */
    int looks;
} life;

static void begin(int64_t rtt, int64_t since) {
    model_open(&life.model, NOW + chance(4), rtt);
    life.limits = none;
    life.looks = 0;
    life.due = life.model.now;
    if (since)
        model_hold(&life.model);
    ka_past_begin(&life.past, model_info(&life.model), life.model.since,
                  life.model.now);
}

static int look(void) {
    struct ka_past before;
    struct ka_judgement twice;

    life.looks++;
    ka_judge(&life.limits, &life.past, model_info(&life.model), life.model.now,
             &life.got);
    before = life.past;
    ka_judge(&life.limits, &life.past, model_info(&life.model), life.model.now,
             &twice);
    CHECK(memcmp(&before, &life.past, sizeof before) == 0);
    CHECK(memcmp(&twice, &life.got, sizeof twice) == 0);
    CHECK(life.got.again_ms >= 10 || life.got.again_ms == KA_NO_TIME);
    life.due =
        life.got.again_ms < 0 ? INT64_MAX : life.model.now + life.got.again_ms;
    return life.got.cause;
}

/* The cause that is found within so many ms. */
static int live(int64_t ms) {
    while (ms-- > 0) {
        model_step(&life.model);
        if (life.model.now >= life.due && look())
            return life.got.cause;
    }
    return KA_NO_CAUSE;
}

static void a_quiet_connection_costs_two_looks(void) {
    begin(1, 0);
    life.limits.never_spoke_ms = 30000;
    CHECK_EQ(live(29990), KA_NO_CAUSE);
    CHECK_EQ(live(30), KA_FOR_NEVER_SPOKE);
    CHECK(life.got.clock_ms >= 30000);
    CHECK(life.looks <= 3);
}

static void a_busy_one_costs_a_look_per_limit(void) {
    int i;

    begin(20, 0);
    life.limits.unanswered_ms = life.limits.answered_ms = 30000;
    for (i = 0; i < 600; i++) {
        model_peer_speaks(&life.model, 100);
        live(100);
        model_owner_speaks(&life.model, 1000);
        CHECK_EQ(live(900), KA_NO_CAUSE);
    }
    CHECK(life.looks <= 25);
}

static void a_late_answer_is_not_stalled(void) {
    int i;

    begin(50, 0);
    life.limits.stalled_ms = 2000;
    for (i = 0; i < 20; i++) {
        CHECK_EQ(live(between(1, 9000)), KA_NO_CAUSE);
        model_owner_speaks(&life.model, between(1, 1000000));
    }
}

static void a_reader_that_takes_nothing_is_stalled(void) {
    begin(50, 0);
    life.limits.stalled_ms = 2000;
    live(5000);
    model_peer_reads(&life.model, 0);
    model_owner_speaks(&life.model, 5000);
    CHECK_EQ(live(1999), KA_NO_CAUSE);
    CHECK_EQ(live(520), KA_FOR_STALLED);
}

static void a_trickle_is_found_in_15_s(void) {
    int64_t ms;

    begin(1, 0);
    life.limits.min_rate = 100;
    for (ms = 0; ms < 10000; ms += 500) {
        model_peer_speaks(&life.model, 40);
        CHECK_EQ(live(500), KA_NO_CAUSE);
    }
    for (; ms < 15500 && life.got.cause == KA_NO_CAUSE; ms += 500) {
        model_peer_speaks(&life.model, 40);
        live(500);
    }
    CHECK_EQ(life.got.cause, KA_FOR_MIN_RATE);
    CHECK(model_trickled(&life.model, 100, life.got.clock_ms));
}

static void a_slow_handler_is_no_trickle(void) {
    int i;

    begin(1, 0);
    life.limits.min_rate = 100000;
    for (i = 0; i < 5; i++) {
        model_peer_speaks(&life.model, 40);
        CHECK_EQ(live(4990), KA_NO_CAUSE);
        model_peer_speaks(&life.model, 40);
        CHECK_EQ(live(60000), KA_NO_CAUSE);
        model_owner_speaks(&life.model, 100);
        CHECK_EQ(live(20), KA_NO_CAUSE);
    }
}

static void a_word_now_and_then_is_no_trickle(void) {
    int i;

    begin(1, 0);
    life.limits.min_rate = 100000;
    for (i = 0; i < 10; i++) {
        model_peer_speaks(&life.model, 40);
        CHECK_EQ(live(12000), KA_NO_CAUSE);
    }
}

static void who_has_closed_is_not_slow(void) {
    int i;

    begin(1, 0);
    life.limits.min_rate = 100;
    for (i = 0; i < 9; i++) {
        model_peer_speaks(&life.model, 1);
        CHECK_EQ(live(1000), KA_NO_CAUSE);
    }
    model_peer_closes(&life.model);
    CHECK_EQ(live(20000), KA_NO_CAUSE);
}

static void the_rate_asked_for_is_enough(void) {
    int i;

    begin(1, 0);
    life.limits.min_rate = 100;
    for (i = 0; i < 300; i++) {
        model_peer_speaks(&life.model, 11);
        CHECK_EQ(live(between(90, 109)), KA_NO_CAUSE);
    }
}

static void what_comes_after_the_mark_counts(void) {
    begin(1, 0);
    life.limits.min_rate = 100;
    while (life.model.now < NOW + 20000 && life.got.cause == KA_NO_CAUSE) {
        model_peer_speaks(&life.model, 1);
        live(1000);
    }
    CHECK_EQ(life.got.cause, KA_FOR_MIN_RATE);
    model_peer_speaks(&life.model, 5000);
    CHECK_EQ(look(), KA_NO_CAUSE);
}

static void old_questions_do_not_count(void) {
    begin(1, 0);
    life.model.keepalive_idle = life.model.keepalive_interval = 1000;
    life.model.cut = 1;
    while (life.model.asked < 5)
        model_step(&life.model);
    life.model.keepalive_interval = 10000; /* the next is a while off */
    model_hold(&life.model);
    ka_past_begin(&life.past, model_info(&life.model), life.model.since,
                  life.model.now);
    life.limits.detect_ms = 3000;
    look();
    CHECK_EQ(live(5500), KA_NO_CAUSE);
    CHECK_EQ(live(1000), KA_FOR_SILENT);
}

static void all_begins_anew_when_since_moves(void) {
    begin(1, 0);
    life.limits.never_spoke_ms = 8000;
    CHECK_EQ(live(7000), KA_NO_CAUSE);
    life.past.since_ms = life.model.since = life.model.now;
    CHECK_EQ(live(7990), KA_NO_CAUSE);
    CHECK_EQ(live(30), KA_FOR_NEVER_SPOKE);
}

/* Requests, answers, uploads, cuts: all of it within the limits. A wire that
 * is cut again before the last cut is mended is not: that is one long cut. */
static void healthy_lives_are_left_alone(void) {
    int i, part, mended;

    begin(between(1, 60), chance(2));
    life.model.keepalive_idle = life.model.keepalive_interval = 1000;
    life.limits.never_spoke_ms = life.limits.unanswered_ms = 6000;
    life.limits.answered_ms = life.limits.idle_ms = 6000;
    life.limits.stalled_ms = 2500;
    life.limits.detect_ms = 4000;
    life.limits.min_rate = 50;
    for (i = 0; i < 15; i++) {
        CHECK_EQ(live(between(1, 2800)), KA_NO_CAUSE);
        for (part = (int)chance(4); part >= 0; part--) {
            model_peer_speaks(&life.model, between(200, 5000));
            CHECK_EQ(live(between(1, 2800)), KA_NO_CAUSE);
        }
        mended = !model_outstanding(&life.model);
        model_owner_speaks(&life.model, between(1, 100000));
        life.model.cut = mended && chance(3) == 0;
        CHECK_EQ(live(between(1, 1300)), KA_NO_CAUSE);
        life.model.cut = 0;
        CHECK_EQ(live(300), KA_NO_CAUSE);
        model_peer_reads(&life.model, (int)chance(2));
        CHECK_EQ(live(between(1, 1000)), KA_NO_CAUSE);
        model_peer_reads(&life.model, 1);
    }
}

/* ---- random lives ----------------------------------------------------- */

static int64_t some_limit(void) {
    return chance(3) ? KA_NO_TIME : between(300, 6000);
}

static void begin_any(void) {
    begin(between(1, chance(2) ? 5 : 300), chance(2));
    life.limits.never_spoke_ms = some_limit();
    life.limits.unanswered_ms = some_limit();
    life.limits.answered_ms = some_limit();
    life.limits.stalled_ms = some_limit();
    life.limits.detect_ms = some_limit();
    life.limits.idle_ms = chance(3) ? KA_NO_TIME : some_limit();
    life.limits.min_rate = chance(2) ? KA_NO_TIME : between(1, 1000);
    if (chance(4) == 0) { /* else hardly a trickle gets far enough */
        life.limits = none;
        life.limits.min_rate = between(1, 1000);
    }
    if (chance(2)) {
        life.model.keepalive_idle = between(200, 3000);
        life.model.keepalive_interval = between(200, 1500);
    }
}

static void something_happens(void) {
    struct model *model = &life.model;

    switch (chance(12)) {
        case 0:
        case 1:
        case 2:
            model_peer_speaks(model, between(1, chance(2) ? 10 : 5000));
            break;
        case 3:
        case 4:
            model_owner_speaks(model, between(1, chance(2) ? 100 : 100000));
            break;
        case 5:
            model_peer_reads(model, !model->reading);
            break;
        case 6:
        case 7:
            model->cut = !model->cut && chance(2);
            break;
        case 8:
            if (chance(8) == 0)
                model_peer_closes(model);
            break;
        case 9:
            model_peer_probes(model);
            break;
        case 10:
            if (chance(4) == 0) { /* and it is looked at then */
                model_hold(model);
                life.past.since_ms = model->since;
                life.due = model->now;
            }
            break;
        default: /* a burst in one tick */
            model_peer_speaks(model, 1);
            model_owner_speaks(model, 1);
    }
}

/* Since when something has been due that no look has found. */
struct overdue {
    int64_t silent, idle, stalled, of_class, outstanding;
};

static int late(int64_t *since, int due, int64_t slack) {
    if (!due || *since == 0)
        *since = due ? life.model.now : 0;
    return due && life.model.now - *since > slack;
}

/* Under way until a moment ago: looked for every 100 ms. */
static int64_t slack_of_sending(const struct overdue *overdue) {
    return life.model.now - overdue->outstanding <= 110 ? 120 : 10;
}

static void nothing_is_late(struct overdue *overdue) {
    const struct model *model = &life.model;
    const struct ka_limits *limits = &life.limits;
    int64_t pace = limits->stalled_ms / 8;

    if (model_outstanding(model))
        overdue->outstanding = model->now;
    CHECK(
        !late(&overdue->silent, model_silent(model, limits->detect_ms), 110));
    CHECK(!late(&overdue->idle, model_idle(model, limits->idle_ms),
                slack_of_sending(overdue)));
    CHECK(!late(&overdue->of_class, model_due(model, limits) != 0,
                slack_of_sending(overdue)));
    CHECK(!late(&overdue->stalled, model_stalled(model, limits->stalled_ms),
                (pace > 100 ? pace : 100) + 410));
}

static void what_was_found_is_true(void) {
    const struct model *model = &life.model;
    const struct ka_limits *limits = &life.limits;
    int silent = model_silent(model, limits->detect_ms);
    int idle = model_idle(model, limits->idle_ms);
    int of_class = model_due(model, limits);

    CHECK_EQ(life.got.cause == KA_FOR_SILENT, silent);
    CHECK_EQ(life.got.cause == KA_FOR_IDLE, idle && !silent);
    if (life.got.cause == KA_FOR_STALLED)
        CHECK(model_stalled(model, limits->stalled_ms));
    if (life.got.cause == KA_FOR_MIN_RATE)
        CHECK(model_trickled(model, limits->min_rate, life.got.clock_ms));
    if (life.got.cause < KA_FOR_MIN_RATE && !silent && !idle)
        CHECK_EQ(life.got.cause, of_class);
    if (life.got.cause == KA_NO_CAUSE)
        CHECK_EQ(of_class, KA_NO_CAUSE);
}

/* The cause that it ended with. */
static int random_life(void) {
    int64_t end, gap = between(5, 4000), next;
    struct overdue overdue = {0, 0, 0, 0, 0};

    begin_any();
    end = life.model.now + between(1000, 30000);
    next = life.model.now + chance(gap);
    while (life.model.now < end && test.failures == 0) {
        model_step(&life.model);
        if (life.model.now >= next) {
            something_happens();
            next = life.model.now + between(1, gap);
        }
        nothing_is_late(&overdue);
        if (life.model.now < life.due)
            continue;
        look();
        what_was_found_is_true();
        if (life.got.cause)
            return life.got.cause;
        memset(&overdue, 0, offsetof(struct overdue, outstanding));
    }
    return KA_NO_CAUSE;
}

static void random_lives(void) {
    const char *wanted = getenv("RUNS");
    int runs = wanted ? atoi(wanted) : 3000, i, cause;
    int seen[KA_FOR_LOST + 1] = {0};

    for (i = 0; i < runs && test.failures == 0; i++) {
        uint64_t start = state;

        seen[random_life()]++;
        if (test.failures)
            printf("    life %d at %lld, SEED=%llu is that life alone\n", i,
                   (long long)(life.model.now - NOW),
                   (unsigned long long)start);
    }
    for (cause = KA_NO_CAUSE; cause <= KA_FOR_SILENT; cause++)
        if (runs >= 1000 && cause != KA_FOR_EVICTED && cause != KA_FOR_DRAINED)
            CHECK(seen[cause] > 0);
}

int main(void) {
    const char *wanted = getenv("SEED");
    int i;

    state = wanted ? strtoull(wanted, NULL, 0) : 88172645463325252u;
    if (wanted) {
        RUN(random_lives);
        for (i = 0; i < 200; i++)
            RUN(healthy_lives_are_left_alone);
        return test_report("test_judge");
    }
    every_row();
    RUN(idle_needs_both_clocks);
    RUN(a_quiet_connection_costs_two_looks);
    RUN(a_busy_one_costs_a_look_per_limit);
    RUN(a_late_answer_is_not_stalled);
    RUN(a_reader_that_takes_nothing_is_stalled);
    RUN(a_trickle_is_found_in_15_s);
    RUN(a_slow_handler_is_no_trickle);
    RUN(a_word_now_and_then_is_no_trickle);
    RUN(who_has_closed_is_not_slow);
    RUN(the_rate_asked_for_is_enough);
    RUN(what_comes_after_the_mark_counts);
    RUN(old_questions_do_not_count);
    RUN(all_begins_anew_when_since_moves);
    for (i = 0; i < 200; i++)
        RUN(healthy_lives_are_left_alone);
    RUN(random_lives);
    return test_report("test_judge");
}

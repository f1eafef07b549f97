/* test_sample_lives.c - random lives of the judge's model, behind a kernel
 * that has counters and no clocks: nobody is found let down before his time,
 * nor later than by the pace. SEED=n repeats the random ones from there,
 * RUNS=n makes them longer. */
#include "chance.h"
#include "judge_model.h"
#include "sample.h"
#include "test.h"

#define NOW 1000000

static const struct ka_limits none = {KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME};

static struct ka_info info;

/* What macOS tells. */
static void mac(int64_t in, int64_t segs_in, int64_t out) {
    memset(&info, -1, sizeof info);
    info.state = KA_TCP_ESTABLISHED;
    info.bytes_received = in;
    info.data_segs_in = segs_in;
    info.bytes_sent = out;
    info.bytes_retrans = 0;
    info.notsent_bytes = 0;
}

/* ---- a life behind a mask ---------------------------------------------- */

static struct life {
    struct model model;
    struct ka_limits limits;
    struct ka_past past;
    struct ka_sample sample;
    struct ka_judgement got;
    int64_t due, first;        /* the next look, and the first */
    int64_t old_bytes, probed; /* a byte of old data in each probe */
    int64_t pace;
    int looks;
} life;

/* The model counts segments where macOS counts bytes. */
static void mask(struct ka_info *out) {
    const struct ka_info *all = model_info(&life.model);

    mac(all->bytes_received - (all->state == KA_TCP_CLOSE_WAIT) +
            life.old_bytes,
        all->data_segs_in, all->data_segs_out);
    info.state = all->state;
    info.bytes_retrans = all->total_retrans;
    info.notsent_bytes = life.model.in_flight + life.model.unsent;
    info.rto_us = life.model.in_flight > 0 ? 200000 : -1;
    *out = info;
}

static void peer_probes(void) {
    if (life.model.cut || life.model.now - life.probed < 1000)
        return;
    life.probed = life.model.now;
    life.old_bytes++;
    model_peer_probes(&life.model);
}

static int look(void) {
    struct ka_info seen;

    life.looks++;
    mask(&seen);
    CHECK_EQ(
        ka_sample_look(&life.sample, &seen, life.model.now, life.model.now),
        1);
    ka_judge(&life.limits, &life.past, &seen, life.model.now, &life.got);
    if (life.pace >= 0 &&
        (life.got.again_ms < 0 || life.got.again_ms > life.pace))
        life.got.again_ms = life.pace;
    life.due =
        life.got.again_ms < 0 ? INT64_MAX : life.model.now + life.got.again_ms;
    return life.got.cause;
}

static void begin(int64_t rtt, const struct ka_limits *limits) {
    memset(&life, 0, sizeof life);
    model_open(&life.model, NOW + chance(4), rtt);
    life.limits = *limits;
    life.pace = ka_sample_pace(limits, 1);
    life.due = life.first = life.model.now + chance(2000); /* is found */
    life.probed = life.model.now;
    ka_past_begin(&life.past, model_info(&life.model), 0, life.model.now);
}

static int live(int64_t ms) {
    while (ms-- > 0) {
        model_step(&life.model);
        if (life.model.now >= life.due && look())
            return life.got.cause;
    }
    return KA_NO_CAUSE;
}

static void a_slow_handler_is_waited_for(void) {
    struct ka_limits limits = none;
    int i;

    limits.never_spoke_ms = limits.answered_ms = 4000;
    limits.unanswered_ms = 60000;
    begin(20, &limits);
    for (i = 0; i < 20; i++) {
        CHECK_EQ(live(between(1200, 3000)), KA_NO_CAUSE);
        model_peer_speaks(&life.model, 300);
        CHECK_EQ(live(between(1200, 50000)), KA_NO_CAUSE);
        model_owner_speaks(&life.model, between(1, 100000));
    }
}

static void events_and_probes_are_answered(void) {
    struct ka_limits limits = none;
    int i;

    limits.never_spoke_ms = limits.unanswered_ms = 4000;
    begin(20, &limits);
    model_peer_speaks(&life.model, 300);
    CHECK_EQ(live(1500), KA_NO_CAUSE);
    model_owner_speaks(&life.model, 300);
    for (i = 0; i < 40; i++) { /* server-sent events, a client on Windows */
        CHECK_EQ(live(between(1000, 15000)), KA_NO_CAUSE);
        if (chance(4) == 0)
            model_owner_speaks(&life.model, 80);
        else
            peer_probes();
    }
}

static void an_upload_and_a_slow_reader_are_alive(void) {
    struct ka_limits limits = none;
    int i;

    limits.never_spoke_ms = limits.unanswered_ms = 4000;
    limits.stalled_ms = 3000;
    begin(20, &limits);
    for (i = 0; i < 40; i++) {
        model_peer_speaks(&life.model, 1400);
        CHECK_EQ(live(between(1, 3000)), KA_NO_CAUSE);
    }
    model_owner_speaks(&life.model, 1000000);
    for (i = 0; i < 20; i++) {
        model_peer_reads(&life.model, 0);
        CHECK_EQ(live(between(1, 2400)), KA_NO_CAUSE);
        model_peer_reads(&life.model, 1);
        CHECK_EQ(live(between(100, 400)), KA_NO_CAUSE);
    }
}

static void pings_both_ways_go_on_for_ever(void) {
    struct ka_limits limits = none;
    int i;

    limits.never_spoke_ms = limits.unanswered_ms = 2000;
    limits.answered_ms = limits.idle_ms = 4000;
    begin(20, &limits);
    live(500);
    for (i = 0; i < 100; i++) {
        model_peer_speaks(&life.model, 6);
        CHECK_EQ(live(between(0, 10)), KA_NO_CAUSE);
        model_owner_speaks(&life.model, 2);
        CHECK_EQ(live(between(1, 2900)), KA_NO_CAUSE);
    }
}

static void the_bad_are_found_within_the_pace(void) {
    struct ka_limits limits = none;
    int64_t begun;

    limits.never_spoke_ms = limits.unanswered_ms = limits.answered_ms = 8000;
    begin(20, &limits);
    CHECK_EQ(live(life.first - life.model.now + 7999), KA_NO_CAUSE);
    CHECK_EQ(live(1010), KA_FOR_NEVER_SPOKE);
    begin(20, &limits);
    live(3000);
    model_peer_speaks(&life.model, 30); /* half a request */
    CHECK_EQ(live(7999), KA_NO_CAUSE);
    CHECK_EQ(live(2020), KA_FOR_UNANSWERED);
    begin(20, &limits);
    live(3000);
    model_peer_speaks(&life.model, 30);
    live(2000);
    model_owner_speaks(&life.model, 30);
    begun = life.model.now;
    while (life.model.now < begun + 12000 && life.got.cause == KA_NO_CAUSE)
        live(1);
    CHECK_EQ(life.got.cause, KA_FOR_ANSWERED);
    CHECK(life.model.now - begun >= 8000 && life.model.now - begun <= 10050);
}

static void looks_stay_few(void) {
    struct ka_limits limits = none;

    limits.never_spoke_ms = 30000;
    begin(20, &limits);
    live(29000);
    CHECK(life.looks <= 31);
}

/* ---- random lives ------------------------------------------------------ */

static int64_t some_limit(void) {
    return chance(3) ? KA_NO_TIME : between(300, 6000);
}

static int random_begin(void) {
    struct ka_limits limits = none;

    limits.never_spoke_ms = some_limit();
    limits.unanswered_ms = some_limit();
    limits.answered_ms = some_limit();
    limits.stalled_ms = some_limit();
    limits.idle_ms = chance(3) ? KA_NO_TIME : some_limit();
    begin(between(1, chance(2) ? 5 : 300), &limits);
    return (int)chance(2); /* its kernel asks by a byte */
}

static void something_happens(int probes) {
    struct model *model = &life.model;

    switch (chance(11)) {
        case 0:
        case 1:
        case 2:
            model_peer_speaks(model, between(2, chance(2) ? 10 : 5000));
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
            if (probes)
                peer_probes();
            break;
        default: /* a burst in one tick */
            model_peer_speaks(model, 2);
            model_owner_speaks(model, 1);
    }
}

/* The truth to the millisecond, not to the kernel's tick. */
static int is_true(int64_t event, int64_t limit) {
    return limit >= 0 && life.model.now - event >= limit;
}

/* So near to the owner's word that one look may have seen both. */
static int is_tie(void) {
    const struct model *model = &life.model;

    return model->word - model->word_of_owner <= life.pace + 10 ||
           model->word <= life.first;
}

static void what_was_found_is_true(void) {
    const struct model *model = &life.model;
    const struct ka_limits *limits = &life.limits;

    switch (life.got.cause) {
        case KA_FOR_NEVER_SPOKE:
            CHECK_EQ(model->last, NOBODY);
            CHECK(is_true(model->word, limits->never_spoke_ms));
            break;
        case KA_FOR_UNANSWERED:
            CHECK_EQ(model->last, THE_PEER);
            CHECK(is_true(model->word, limits->unanswered_ms));
            break;
        case KA_FOR_ANSWERED:
            CHECK(model->last == THE_OWNER || is_tie());
            CHECK(is_true(model->word, limits->answered_ms));
            break;
        case KA_FOR_IDLE:
            CHECK(is_true(model->word, limits->idle_ms));
            break;
        case KA_FOR_STALLED:
            CHECK(model_stalled(model, limits->stalled_ms));
            return;
        default:
            CHECK_EQ(life.got.cause, KA_NO_CAUSE);
            return;
    }
    CHECK(!model_outstanding(model));
}

struct overdue {
    int64_t idle, of_class, stalled, outstanding;
    int64_t first_sent, waiting, first_sent_ms; /* it begins once more */
};

static int late(int64_t *since, int due, int64_t slack) {
    if (!due || *since == 0)
        *since = due ? life.model.now : 0;
    return due && life.model.now - *since > slack;
}

static void nothing_is_late(struct overdue *overdue) {
    const struct model *model = &life.model;
    const struct ka_limits *limits = &life.limits;
    int64_t pace = limits->stalled_ms / 8, slack = life.pace + 10;
    int doubt = model->last == THE_PEER && is_tie();

    int64_t sent = model->info.data_segs_out - model->info.total_retrans;
    int64_t waiting = model->in_flight + model->unsent;

    if (sent != overdue->first_sent ||
        ((model->in_flight > 0 || !life.sample.timer_shows) &&
         waiting > overdue->waiting))
        overdue->first_sent_ms = model->now;
    overdue->first_sent = sent;
    overdue->waiting = waiting;
    if (model_outstanding(model))
        overdue->outstanding = model->now;
    /* What a look sees first when it could be seen: the word, and the end of
     * what was under way. */
    if (model->now - overdue->outstanding <= slack)
        slack += 110;
    if (model->now <= life.first + slack) /* not found yet */
        return;
    CHECK(!late(&overdue->idle,
                model_idle(model, limits->idle_ms) &&
                    is_true(life.first, limits->idle_ms),
                slack));
    CHECK(!late(
        &overdue->of_class,
        !doubt && model_due(model, limits) != 0 && is_true(life.first, 6000),
        slack));
    CHECK(!late(&overdue->stalled,
                model_stalled(model, limits->stalled_ms) &&
                    is_true(life.first, limits->stalled_ms) &&
                    is_true(overdue->first_sent_ms, limits->stalled_ms),
                (pace > 100 ? pace : 100) + 410));
}

static int random_life(void) {
    int64_t end, gap = between(5, 4000), next;
    struct overdue overdue = {0};
    int probes = random_begin();

    end = life.model.now + between(1000, 30000);
    next = life.model.now + chance(gap);
    while (life.model.now < end && test.failures == 0) {
        model_step(&life.model);
        if (life.model.now >= next) {
            something_happens(probes);
            next = life.model.now + between(1, gap);
        }
        if (!probes)
            nothing_is_late(&overdue);
        if (life.model.now < life.due)
            continue;
        look();
        what_was_found_is_true();
        if (life.got.cause)
            return life.got.cause;
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
    for (cause = KA_NO_CAUSE; cause <= KA_FOR_IDLE; cause++)
        if (runs >= 1000 && cause != KA_FOR_EVICTED &&
            cause != KA_FOR_DRAINED && cause != KA_FOR_MIN_RATE)
            CHECK(seen[cause] > 0);
}

int main(void) {
    const char *wanted = getenv("SEED");

    state = wanted ? strtoull(wanted, NULL, 0) : 88172645463325252u;
    if (wanted) {
        RUN(random_lives);
        return test_report("sample_lives");
    }
    RUN(a_slow_handler_is_waited_for);
    RUN(events_and_probes_are_answered);
    RUN(an_upload_and_a_slow_reader_are_alive);
    RUN(pings_both_ways_go_on_for_ever);
    RUN(the_bad_are_found_within_the_pace);
    RUN(looks_stay_few);
    RUN(random_lives);
    return test_report("sample_lives");
}

/* Any counters, limits and memory, at any times, under any order of calls:
 * nothing overflows, causes have their limits, the next look has its bounds,
 * and a second look at the same changes nothing. */
#include "fuzz.h"

#include <stddef.h>

#include "judge.h"

static struct {
    struct ka_limits limits;
    struct ka_past past;
    struct ka_info info;
    int64_t now;
} run;

/* Mostly lifelike: extremes alone hardly ever get past the first branch. */
static int64_t any_number(struct feed *feed) {
    uint64_t kind = feed_bytes(feed, 1);

    switch (kind & 7) {
        case 0:
            return (int64_t)feed_bytes(feed, 8);
        case 1:
            return kind & 8 ? INT64_MAX - (int64_t)(kind >> 4)
                            : INT64_MIN + (int64_t)(kind >> 4);
        case 2:
        case 3:
            return (int64_t)(kind >> 3) - 2;
        default:
            return (int64_t)feed_bytes(feed, 2);
    }
}

static void all_numbers(struct feed *feed, void *out, size_t size) {
    int64_t *number = out;
    size_t i;

    for (i = 0; i < size / sizeof *number; i++)
        number[i] = any_number(feed);
}

static void any_info(struct feed *feed) {
    all_numbers(feed, &run.info, sizeof run.info);
    if (feed->left % 4)
        run.info.state = (int64_t)feed_bytes(feed, 1) % 14;
    if (feed->left % 8)
        run.info.unacked = run.info.notsent_bytes = 0;
}

/* Whatever a watcher could have left in it, and more. */
static void any_past(struct feed *feed) {
    struct ka_past *past = &run.past;

    all_numbers(feed, past, offsetof(struct ka_past, marks));
    past->marks = (int32_t)feed_bytes(feed, 4);
    if (feed->left % 4)
        past->marks %= 4;
    past->slow = past->marks == 3 && (feed->left & 1);
    past->heard = (int32_t)feed_bytes(feed, 1) & 1;
    past->klass = (int32_t)feed_bytes(feed, 1) % 5;
}

static void move(struct feed *feed) {
    int64_t *number = (int64_t *)&run.info;
    size_t i = feed_bytes(feed, 1) % (sizeof run.info / sizeof *number);

    number[i] = any_number(feed);
}

static int64_t limit_of(int cause) {
    const int64_t limits[] = {
        [KA_FOR_NEVER_SPOKE] = run.limits.never_spoke_ms,
        [KA_FOR_UNANSWERED] = run.limits.unanswered_ms,
        [KA_FOR_ANSWERED] = run.limits.answered_ms,
        [KA_FOR_STALLED] = run.limits.stalled_ms,
        [KA_FOR_IDLE] = run.limits.idle_ms,
        [KA_FOR_SILENT] = run.limits.detect_ms,
    };

    PROMISE(cause > 0 && (size_t)cause < sizeof limits / sizeof *limits);
    return limits[cause];
}

static void check_cause(const struct ka_judgement *got) {
    switch (got->cause) {
        case KA_NO_CAUSE:
            return;
        case KA_FOR_NEVER_SPOKE:
        case KA_FOR_UNANSWERED:
        case KA_FOR_ANSWERED:
            PROMISE(got->cause == got->klass);
            break;
        case KA_FOR_MIN_RATE:
            PROMISE(run.limits.min_rate > 0 && got->klass == KA_UNANSWERED);
            return;
        case KA_FOR_STALLED:
            PROMISE(got->klass == KA_SENDING);
            break;
        case KA_FOR_SILENT:
            PROMISE(run.info.probes > 0 || run.info.retransmits > 0);
            break;
        default:
            PROMISE(got->cause == KA_FOR_IDLE && run.info.unacked <= 0 &&
                    run.info.notsent_bytes <= 0);
    }
    PROMISE(limit_of(got->cause) >= 0);
    PROMISE(got->clock_ms >= limit_of(got->cause));
}

static int without_limits(void) {
    const struct ka_limits *limits = &run.limits;

    return limits->never_spoke_ms < 0 && limits->unanswered_ms < 0 &&
           limits->answered_ms < 0 && limits->stalled_ms < 0 &&
           limits->min_rate < 0 && limits->detect_ms < 0 &&
           limits->idle_ms < 0;
}

static void look(void) {
    struct ka_past before, after;
    struct ka_judgement got, twice;

    before = run.past;
    ka_judge(&run.limits, &run.past, &run.info, run.now, &got);
    PROMISE(run.past.since_ms == before.since_ms);
    PROMISE(run.past.marks >= 0 && run.past.marks <= 3);
    PROMISE(got.klass == ka_classify(&run.info));
    PROMISE(got.klass >= KA_NO_CLASS && got.klass <= KA_SENDING);
    PROMISE(got.again_ms >= 10 || got.again_ms == KA_NO_TIME);
    PROMISE(got.clock_ms >= -1);
    PROMISE(!without_limits() ||
            (got.cause == KA_NO_CAUSE && got.again_ms == KA_NO_TIME));
    PROMISE(got.cause == KA_NO_CAUSE || got.again_ms != KA_NO_TIME);
    check_cause(&got);
    after = run.past;
    ka_judge(&run.limits, &run.past, &run.info, run.now, &twice);
    PROMISE(memcmp(&run.past, &after, sizeof after) == 0);
    PROMISE(memcmp(&twice, &got, sizeof got) == 0);
    PROMISE(ka_payload_idle_ms(&run.info) >= -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct feed feed = {data, size};

    memset(&run, 0, sizeof run);
    all_numbers(&feed, &run.limits, sizeof run.limits);
    any_info(&feed);
    run.now = any_number(&feed);
    ka_past_begin(&run.past, &run.info, any_number(&feed), run.now);
    while (feed.left > 0) {
        switch (feed_bytes(&feed, 1) & 15) {
            case 0:
                any_info(&feed);
                break;
            case 1:
                any_past(&feed);
                break;
            case 2:
                run.past.since_ms = any_number(&feed);
                break;
            case 3:
                run.now = any_number(&feed);
                break;
            case 4:
            case 5:
            case 6:
            case 7: /* mind the sign */
                run.now = (int64_t)((uint64_t)run.now + feed_bytes(&feed, 2));
                break;
            default:
                move(&feed);
        }
        look();
    }
    return 0;
}

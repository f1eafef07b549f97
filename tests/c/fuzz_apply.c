/* Any policy over any options, with any calls failing: all or nothing. */
#include "fuzz.h"

#include "sockopt.h"

static struct ka_policy before;

static struct fake_option *held(void) {
    return fake.socket[0].option;
}

static void feed_policy(struct feed *feed, struct ka_policy *policy) {
    uint64_t wanted = feed_bytes(feed, 1), wild = feed_bytes(feed, 1);
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        if (!(wanted >> option & 1))
            policy->value[option] = KA_LEAVE;
        else if (option == KA_ENABLED)
            policy->value[option] = wild & 1;
        else if (wild >> option & wanted >> 6 & 1)
            policy->value[option] = (int32_t)feed_bytes(feed, 4);
        else
            policy->value[option] = (int32_t)feed_range(
                feed, held()[option].low, held()[option].high);
}

/* The call that stopped it: a set that failed, or a get that was made to. A
 * get of a missing option stops nothing by itself. */
static int first_failure(void) {
    int i;

    for (i = 0; i < fake.calls; i++)
        if (fake.call[i].err &&
            (fake.call[i].op == FAKE_SET || fake.call[i].err == EPERM))
            return i;
    return -1;
}

/* Options that could not be put back after that. */
static unsigned prevented(void) {
    unsigned bits = 0;
    int i = first_failure();

    while (i >= 0 && ++i < fake.calls)
        if (fake.call[i].op == FAKE_SET && fake.call[i].err)
            bits |=
                1u << fake_option_of(fake.call[i].level, fake.call[i].number);
    return bits;
}

static void check_fault(const struct ka_fault *fault) {
    int i = first_failure();

    PROMISE(fault->option >= 0 && fault->option < KA_OPTIONS);
    if (i < 0) { /* an option is missing: found before anything was set */
        PROMISE(fault->setting == 0 && fake.sets == 0);
        return;
    }
    PROMISE(fault->setting == (fake.call[i].op == FAKE_SET));
    PROMISE(fault->option ==
            fake_option_of(fake.call[i].level, fake.call[i].number));
}

static void all(const struct ka_policy *policy, const struct ka_policy *out) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++) {
        if (policy->value[option] == KA_LEAVE)
            PROMISE(held()[option].value == before.value[option]);
        else
            PROMISE(held()[option].value == policy->value[option]);
        if (out)
            PROMISE(out->value[option] == held()[option].value ||
                    out->value[option] == KA_LEAVE);
    }
}

static void nothing(void) {
    unsigned excused = prevented();
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        PROMISE(held()[option].value == before.value[option] ||
                (excused >> option & 1));
}

static void apply(const struct ka_policy *policy) {
    struct ka_fault fault = {-1, -1};
    struct ka_policy out;
    int rc = ka_apply(FAKE_FD, policy, &out, &fault);

    PROMISE(rc <= 0);
    if (rc == 0) {
        all(policy, &out);
        return;
    }
    check_fault(&fault);
    nothing();
}

/* No promise of a way back, but the first failure ends it and is named. */
static void apply_fresh(const struct ka_policy *policy) {
    struct ka_fault fault = {-1, -1};
    int rc = ka_apply_fresh(FAKE_FD, policy, &fault);

    PROMISE(fake.gets == 0 && rc <= 0);
    if (rc == 0) {
        all(policy, NULL);
        return;
    }
    check_fault(&fault);
    PROMISE(fake.call[fake.calls - 1].err == -rc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct feed feed = {data, size};
    struct ka_policy policy;
    int option, fresh;

    fake_reset();
    feed_options(&feed, &fake.socket[0]);
    for (option = 0; option < KA_OPTIONS; option++)
        before.value[option] = held()[option].value;
    feed_policy(&feed, &policy);
    fresh = (int)feed_bytes(&feed, 1) > 0xd0;
    fake.fail_set = feed_bytes(&feed, 2);
    fake.fail_get = feed_bytes(&feed, 2) & feed_bytes(&feed, 2);
    fake.fail_err = EPERM;
    if (fresh)
        apply_fresh(&policy);
    else
        apply(&policy);
    PROMISE(fake.forbidden == NULL);
    return 0;
}

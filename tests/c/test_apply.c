/* A policy is set whole and in the right order, or not at all. */
#include "fake_test.h"

#include <errno.h>

#include "sockopt.h"

/* By enum ka_option. */
static const struct ka_policy full = {{1, 30, 10, 3, 5000, 2000}};
static const struct ka_policy nothing = {{-1, -1, -1, -1, -1, -1}};
#define FULL_ORDER                                     \
    {KA_ENABLED, 1}, {KA_INTERVAL, 10}, {KA_COUNT, 3}, \
        {KA_USER_TIMEOUT, 5000}, {KA_RTO_MAX, 2000}, {KA_IDLE, 30}

static struct ka_policy out;
static struct ka_fault fault;

static void everything_is_set_idle_last(void) {
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE(FULL_ORDER));
    CHECK(same_policy(&out, &full));
}

static void reading_comes_before_setting(void) {
    int i, reads = 0;

    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    for (i = 0; i < fake.calls && fake.call[i].op == FAKE_GET; i++)
        reads++;
    CHECK_EQ(reads, KA_OPTIONS);
    CHECK_EQ(fake_count(FAKE_GET), 2 * KA_OPTIONS);
    CHECK_EQ(fake_count(FAKE_SET), KA_OPTIONS);
}

static void result_is_what_the_kernel_holds(void) {
    struct ka_policy policy = nothing;

    policy.value[KA_ENABLED] = 1;
    fake_hold(KA_IDLE, 77);
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}));
    CHECK_EQ(out.value[KA_IDLE], 77);
    CHECK_EQ(out.value[KA_INTERVAL], 75);
    CHECK_EQ(out.value[KA_RTO_MAX], 120000);
}

static void leaving_everything_sets_nothing(void) {
    CHECK_EQ(ka_apply(FAKE_FD, &nothing, &out, &fault), 0);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    CHECK_EQ(ka_apply_fresh(FAKE_FD, &nothing, &fault), 0);
    CHECK_EQ(fake.gets, KA_OPTIONS * 2); /* none of them by the latter */
}

static void zero_is_a_value(void) {
    struct ka_policy policy = nothing;

    fake_hold(KA_ENABLED, 1);
    fake_hold(KA_USER_TIMEOUT, 9000);
    policy.value[KA_ENABLED] = 0;
    policy.value[KA_USER_TIMEOUT] = 0;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 0}, {KA_USER_TIMEOUT, 0}));
}

static void missing_option_changes_nothing(void) {
    struct ka_policy before;
    int option;

    for (option = 0; option < KA_OPTIONS; option++) {
        fake_reset();
        fake.socket[0].option[option].absent = 1;
        before = fake_policy();
        fault = (struct ka_fault){-1, -1};
        CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -ENOPROTOOPT);
        CHECK_EQ(fault.option, option);
        CHECK_EQ(fault.setting, 0);
        CHECK_EQ(fake_count(FAKE_SET), 0);
        before.value[option] = fake_policy().value[option];
        CHECK(same_policy(&before, (struct ka_policy[]){fake_policy()}));
    }
}

static void missing_option_not_asked_for_is_no_obstacle(void) {
    struct ka_policy policy = full;

    policy.value[KA_RTO_MAX] = KA_LEAVE;
    fake.socket[0].option[KA_RTO_MAX].absent = 1;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), 0);
    CHECK_EQ(out.value[KA_RTO_MAX], KA_LEAVE);
    CHECK_EQ(out.value[KA_IDLE], 30);
}

/* No idle time: no TCP socket, whatever else it has. */
static void read_tells_what_is_not_tcp(void) {
    fake.socket[0].option[KA_IDLE].absent = 1;
    CHECK_EQ(ka_read(FAKE_FD, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK_EQ(fault.setting, 0);
}

static void read_failing_for_another_reason_is_told(void) {
    int nth;

    for (nth = 0; nth < KA_OPTIONS; nth++) {
        fake_forget();
        fake.fail_get = 1u << nth;
        CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EIO);
        CHECK_EQ(fault.option, nth);
        CHECK_EQ(fault.setting, 0);
        CHECK_EQ(fake_count(FAKE_SET), 0);
    }
}

/* Setting fails at step n: n - 1 values go back, the last one first. */
static void failing_nth_set_puts_back(void) {
    const struct ka_policy before = {{0, 600, 60, 5, 1000, 60000}};
    int nth, option, i;

    for (nth = 0; nth < KA_OPTIONS; nth++) {
        fake_reset();
        for (option = 0; option < KA_OPTIONS; option++)
            fake_hold(option, before.value[option]);
        fake.fail_set = 1u << nth;
        fake.fail_err = EPERM;
        CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EPERM);
        CHECK_EQ(fault.option, ka_set_order[nth]);
        CHECK_EQ(fault.setting, 1);
        CHECK(same_policy(&before, (struct ka_policy[]){fake_policy()}));
        CHECK_EQ(fake_count(FAKE_SET), 2 * nth + 1);
        for (i = 0; i < nth; i++) {
            const struct fake_call *call = &fake.call[fake.calls - 1 - i];

            CHECK_EQ(fake_option_of(call->level, call->number),
                     ka_set_order[i]);
            CHECK_EQ(call->value, before.value[ka_set_order[i]]);
        }
    }
}

static void putting_back_skips_what_was_left(void) {
    struct ka_policy policy = nothing;

    policy.value[KA_INTERVAL] = 10;
    policy.value[KA_IDLE] = 32768;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), -EINVAL);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK(
        FAKE_SETS_ARE({KA_INTERVAL, 10}, {KA_IDLE, 32768}, {KA_INTERVAL, 75}));
}

static void putting_back_goes_on_after_a_failure(void) {
    fake.fail_set = 1u << 3 | 1u << 4; /* user timeout; then count's return */
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EIO);
    CHECK_EQ(fault.option, KA_USER_TIMEOUT);
    CHECK_EQ(fake_held(KA_COUNT), 3);
    CHECK_EQ(fake_held(KA_INTERVAL), 75);
    CHECK_EQ(fake_held(KA_ENABLED), 0);
}

static void failing_read_back_puts_back(void) {
    struct ka_policy before = fake_policy();

    fake.fail_get = 1u << (KA_OPTIONS + 2);
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EIO);
    CHECK_EQ(fault.option, KA_INTERVAL);
    CHECK_EQ(fault.setting, 0);
    CHECK(same_policy(&before, (struct ka_policy[]){fake_policy()}));
}

static void closed_descriptor_is_told(void) {
    CHECK_EQ(ka_apply(FAKE_FD + 1, &full, &out, &fault), -EBADF);
    CHECK_EQ(fault.option, KA_ENABLED);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    CHECK_EQ(ka_apply_fresh(FAKE_FD + 1, &full, &fault), -EBADF);
    CHECK_EQ(ka_read(FAKE_FD + 1, &out, &fault), -EBADF);
}

static void fresh_sets_in_order_and_reads_nothing(void) {
    CHECK_EQ(ka_apply_fresh(FAKE_FD, &full, &fault), 0);
    CHECK(FAKE_SETS_ARE(FULL_ORDER));
    CHECK_EQ(fake_count(FAKE_GET), 0);
}

static void fresh_stops_at_the_first_failure(void) {
    int nth;

    for (nth = 0; nth < KA_OPTIONS; nth++) {
        fake_reset();
        fake.fail_set = 1u << nth;
        CHECK_EQ(ka_apply_fresh(FAKE_FD, &full, &fault), -EIO);
        CHECK_EQ(fault.option, ka_set_order[nth]);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(fake_count(FAKE_SET), nth + 1);
    }
}

static void order_names_each_option_once(void) {
    unsigned seen = 0;
    int i;

    for (i = 0; i < KA_OPTIONS; i++)
        seen |= 1u << ka_set_order[i];
    CHECK_EQ(seen, (1u << KA_OPTIONS) - 1);
    CHECK_EQ(ka_set_order[0], KA_ENABLED);
    CHECK_EQ(ka_set_order[KA_OPTIONS - 1], KA_IDLE);
}

int main(void) {
    fake_begin();
    RUN(everything_is_set_idle_last);
    RUN(reading_comes_before_setting);
    RUN(result_is_what_the_kernel_holds);
    RUN(leaving_everything_sets_nothing);
    RUN(zero_is_a_value);
    RUN(missing_option_changes_nothing);
    RUN(missing_option_not_asked_for_is_no_obstacle);
    RUN(read_tells_what_is_not_tcp);
    RUN(read_failing_for_another_reason_is_told);
    RUN(failing_nth_set_puts_back);
    RUN(putting_back_skips_what_was_left);
    RUN(putting_back_goes_on_after_a_failure);
    RUN(failing_read_back_puts_back);
    RUN(closed_descriptor_is_told);
    RUN(fresh_sets_in_order_and_reads_nothing);
    RUN(fresh_stops_at_the_first_failure);
    RUN(order_names_each_option_once);
    return test_report("apply");
}

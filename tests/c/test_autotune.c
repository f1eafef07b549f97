/* A fresh socket is tuned whole; whatever is not fresh is left as it is. */
#include "fake_test.h"

#include <errno.h>

#include "autotune.h"
#include "sockopt.h"

/* By enum ka_option. */
static const struct ka_policy full = {{1, 30, 10, 3, 5000, 2000}};
static const struct ka_policy other = {{1, 90, 20, 6, -1, -1}};
static struct ka_policy usual;

/* A socket that has just been made, and a core that knows such sockets. */
static void begin(void) {
    fake.socket[0].info.field.tcpi_state = KA_TCP_CLOSE;
    usual = fake_policy();
    ka_autotune_fresh(&usual);
}

static int is(const struct ka_policy *wanted) {
    struct ka_policy held = fake_policy();

    return same_policy(&held, wanted);
}

static void nothing_is_tuned_without_a_rule(void) {
    begin();
    CHECK_EQ(ka_autotune_concerns(KA_AT_BIND), 0);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_LEFT);
    CHECK_EQ(fake.calls, 0);
}

static void a_fresh_socket_is_tuned_idle_last(void) {
    struct ka_rule *rule;

    begin();
    rule = ka_rule_add(&full, 1, 0);
    CHECK_EQ(ka_autotune_concerns(KA_AT_BIND), 1);
    CHECK_EQ(ka_autotune_concerns(KA_AT_CONNECT), 0);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_INTERVAL, 10}, {KA_COUNT, 3},
                        {KA_USER_TIMEOUT, 5000}, {KA_RTO_MAX, 2000},
                        {KA_IDLE, 30}));
    CHECK_EQ(ka_rule_tuned(rule), 1);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_LEFT);
    CHECK_EQ(ka_rule_tuned(rule), 1);
}

static void what_fresh_sockets_are_must_be_known(void) {
    fake.socket[0].info.field.tcpi_state = KA_TCP_CLOSE;
    usual = fake_policy();
    (void)ka_rule_add(&full, 1, 0);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_UNLIKE);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    ka_autotune_fresh(&usual);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
}

static void any_difference_is_the_owners(void) {
    int option;

    (void)ka_rule_add(&full, 1, 1);
    for (option = 0; option < KA_OPTIONS; option++) {
        fake_reset();
        begin();
        fake_hold(option, option == KA_ENABLED ? 1 : 2345);
        CHECK(ka_autotune(FAKE_FD, KA_AT_BIND) != KA_TUNED);
        CHECK(ka_autotune(FAKE_FD, KA_AT_CONNECT) != KA_TUNED);
        CHECK_EQ(fake_count(FAKE_SET), 0);
    }
}

static void a_connection_is_left(void) {
    begin();
    fake.socket[0].info.field.tcpi_state = KA_TCP_ESTABLISHED;
    (void)ka_rule_add(&full, 1, 1);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_CONNECT), KA_LEFT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

static void no_tcp_costs_one_question(void) {
    begin();
    fake.socket[0].option[KA_IDLE].absent = 1;
    (void)ka_rule_add(&full, 1, 1);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_LEFT);
    CHECK_EQ(fake.calls, 1);
}

static void a_missing_option_is_left_out(void) {
    begin();
    fake.socket[0].option[KA_USER_TIMEOUT].absent = 1;
    (void)ka_rule_add(&full, 1, 0);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    CHECK_EQ(fake_held(KA_IDLE), 30);
    CHECK_EQ(fake_held(KA_RTO_MAX), 2000);
}

static void a_failure_leaves_it_as_it_was(void) {
    struct ka_rule *rule = ka_rule_add(&full, 1, 0);
    int nth;

    for (nth = 0; nth < KA_OPTIONS; nth++) {
        fake_reset();
        begin();
        fake.fail_err = EIO;
        fake.fail_set = UINT64_C(1) << nth;
        CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), -EIO);
        CHECK(is(&usual));
    }
    CHECK_EQ(ka_rule_tuned(rule), 0);
}

static void a_question_that_fails_leaves_it(void) {
    uint64_t nth;

    (void)ka_rule_add(&full, 1, 0);
    for (nth = 0; nth < KA_OPTIONS; nth++) {
        fake_reset();
        begin();
        fake.fail_err = EIO;
        fake.fail_get = UINT64_C(1) << nth;
        CHECK(ka_autotune(FAKE_FD, KA_AT_BIND) != KA_TUNED);
        CHECK(is(&usual));
    }
}

static void who_connects_gets_its_values_back(void) {
    struct ka_rule *rule = ka_rule_add(&full, 1, 0);

    begin();
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    CHECK_EQ(ka_autotune_concerns(KA_AT_CONNECT), 1);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_CONNECT), KA_LEFT);
    CHECK(is(&usual));
    CHECK_EQ(ka_rule_given_back(rule), 1);
}

static void unless_one_was_changed(void) {
    int option;

    (void)ka_rule_add(&full, 1, 0);
    for (option = 0; option < KA_OPTIONS; option++) {
        fake_reset();
        fake_replace(&fake.socket[0]);
        begin();
        CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
        fake_hold(option, option == KA_ENABLED ? 0 : 1234);
        fake_forget();
        CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_CONNECT), KA_LEFT);
        CHECK_EQ(fake_count(FAKE_SET), 0);
    }
}

static void or_it_is_another_socket(void) {
    (void)ka_rule_add(&full, 1, 0);
    begin();
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    fake.socket[0].cookie += 1000; /* tuned alike, by its owner */
    fake_forget();
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_CONNECT), KA_LEFT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    CHECK(is(&full));
}

static void the_newest_that_applies_counts(void) {
    struct ka_rule *first, *second;

    begin();
    first = ka_rule_add(&full, 1, 0);
    second = ka_rule_add(&other, 0, 1);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    CHECK(is(&full));
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_CONNECT), KA_TUNED);
    CHECK_EQ(fake_held(KA_IDLE), 90);
    CHECK_EQ(fake_held(KA_USER_TIMEOUT), usual.value[KA_USER_TIMEOUT]);
    CHECK_EQ(ka_rule_given_back(first), 1);
    CHECK_EQ(ka_rule_tuned(second), 1);
}

static void rules_end_in_any_order(void) {
    struct ka_rule *rule[3];
    int i;

    begin();
    for (i = 0; i < 3; i++)
        rule[i] = ka_rule_add(&full, 1, 1);
    ka_rule_end(rule[1]);
    ka_rule_end(rule[1]);
    CHECK_EQ(ka_autotune_concerns(KA_AT_BIND), 1);
    ka_rule_end(rule[2]);
    CHECK_EQ(ka_autotune(FAKE_FD, KA_AT_BIND), KA_TUNED);
    CHECK_EQ(ka_rule_tuned(rule[0]), 1);
    ka_rule_end(rule[0]);
    CHECK_EQ(ka_autotune_concerns(KA_AT_BIND), 0);
    CHECK_EQ(ka_autotune_concerns(KA_AT_CONNECT), 0);
}

int main(void) {
    fake_begin();
    RUN_FORKED(nothing_is_tuned_without_a_rule);
    RUN_FORKED(a_fresh_socket_is_tuned_idle_last);
    RUN_FORKED(what_fresh_sockets_are_must_be_known);
    RUN_FORKED(any_difference_is_the_owners);
    RUN_FORKED(a_connection_is_left);
    RUN_FORKED(no_tcp_costs_one_question);
    RUN_FORKED(a_missing_option_is_left_out);
    RUN_FORKED(a_failure_leaves_it_as_it_was);
    RUN_FORKED(a_question_that_fails_leaves_it);
    RUN_FORKED(who_connects_gets_its_values_back);
    RUN_FORKED(unless_one_was_changed);
    RUN_FORKED(or_it_is_another_socket);
    RUN_FORKED(the_newest_that_applies_counts);
    RUN_FORKED(rules_end_in_any_order);
    return test_report("autotune");
}

/* Options borrowed for a question never let a probe kill, and come back. */
#include "fake_test.h"

#include <errno.h>

static struct ka_question question;
static struct ka_fault fault;
static struct ka_policy before;

/* As an owner might have it; every value differs from the borrowed ones. */
static void begin(int enabled, int user_timeout) {
    fake_hold(KA_ENABLED, enabled);
    fake_hold(KA_IDLE, 600);
    fake_hold(KA_INTERVAL, 60);
    fake_hold(KA_COUNT, 5);
    fake_hold(KA_USER_TIMEOUT, user_timeout);
    before = fake_policy();
    fault = (struct ka_fault){-1, -1};
    ka_question_begin(&question, FAKE_FD, fake.socket[0].cookie);
}

static int unchanged(void) {
    struct ka_policy now = fake_policy();

    return same_policy(&before, &now);
}

static void borrowing_disarms_before_it_asks(void) {
    begin(0, 5000);
    CHECK_EQ(ka_question_ask(&question, 1000, &fault), 1);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_COUNT, 127}, {KA_USER_TIMEOUT, 0},
                        {KA_IDLE, 1}));
    CHECK_EQ(question.asked, 1);
    CHECK(same_policy(&question.saved, &before));
}

static void unset_user_timeout_is_not_touched_while_asking(void) {
    begin(1, 0);
    CHECK_EQ(ka_question_ask(&question, 1000, &fault), 1);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_COUNT, 127}, {KA_IDLE, 1}));
    fake_forget();
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_IDLE, 600}, {KA_COUNT, 5},
                        {KA_USER_TIMEOUT, 0}));
    CHECK(unchanged());
}

static void later_asks_only_set_idle(void) {
    int i;

    begin(1, 5000);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    for (i = 1; i < 5; i++) {
        fake_forget();
        CHECK_EQ(ka_question_ask(&question, i * 750, &fault), 1);
        CHECK(FAKE_SETS_ARE({KA_IDLE, 1}));
        CHECK_EQ(question.asked, i + 1);
    }
    CHECK(same_policy(&question.saved, &before));
}

static void asks_are_750_ms_apart(void) {
    begin(1, 0);
    CHECK_EQ(ka_question_ask(&question, 10000, &fault), 1);
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 10000, &fault), 0);
    CHECK_EQ(ka_question_ask(&question, 10749, &fault), 0);
    CHECK_EQ(fake.calls, 0);
    CHECK_EQ(question.asked, 1);
    CHECK_EQ(ka_question_ask(&question, 10750, &fault), 1);
    CHECK_EQ(ka_question_ask(&question, 11499, &fault), 0);
    CHECK_EQ(ka_question_ask(&question, 11500, &fault), 1);
    CHECK_EQ(KA_ASK_SPACING_MS, 750);
}

static void ending_switches_off_first(void) {
    begin(0, 5000);
    ka_question_ask(&question, 0, &fault);
    fake_forget();
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 0}, {KA_IDLE, 600}, {KA_COUNT, 5},
                        {KA_USER_TIMEOUT, 5000}));
    CHECK(unchanged());
    CHECK_EQ(question.borrowed, 0);
}

static void ending_without_asking_does_nothing(void) {
    begin(0, 5000);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(fake.calls, 0);
}

static void ending_twice_restores_once(void) {
    begin(0, 5000);
    ka_question_ask(&question, 0, &fault);
    ka_question_end(&question, &fault);
    fake_hold(KA_IDLE, 42); /* the owner's new wish must stand */
    fake_forget();
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(fake.calls, 0);
    CHECK_EQ(fake_held(KA_IDLE), 42);
}

static void asking_again_after_the_end_borrows_again(void) {
    begin(0, 5000);
    ka_question_ask(&question, 0, &fault);
    ka_question_end(&question, &fault);
    fake_hold(KA_IDLE, 42);
    fake_hold(KA_USER_TIMEOUT, 0);
    before = fake_policy();
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 5000, &fault), 1);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_COUNT, 127}, {KA_IDLE, 1}));
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

static void another_socket_is_never_touched(void) {
    begin(0, 5000);
    fake_replace(&fake.socket[0]);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), -EBADF);
    CHECK_EQ(fault.option, -1);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(fake.sets, 0);

    begin(0, 5000);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    fake_replace(&fake.socket[0]);
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 5000, &fault), -EBADF);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(fake.sets, 0);
}

static void a_closed_descriptor_ends_quietly(void) {
    begin(0, 5000);
    ka_question_ask(&question, 0, &fault);
    fake.socket[0].open = 0;
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 5000, &fault), -EBADF);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(fake.sets, 0);
}

static void reading_failing_borrows_nothing(void) {
    int nth;

    for (nth = 0; nth <= KA_OPTIONS + 1; nth++) {
        fake_reset();
        begin(0, 5000);
        /* the identity, TCP_INFO, then the options */
        fake.fail_get = 1u << nth;
        CHECK_EQ(ka_question_ask(&question, 0, &fault), -EIO);
        CHECK_EQ(fault.option, nth < 2 ? -1 : nth - 2);
        CHECK_EQ(fake.sets, 0);
        fake_forget();
        CHECK_EQ(ka_question_end(&question, &fault), 0);
        CHECK_EQ(fake.sets, 0);
        CHECK_EQ(question.asked, 0);
    }
}

static void borrowing_failing_half_way_is_given_back(void) {
    static const int order[] = {KA_ENABLED, KA_COUNT, KA_USER_TIMEOUT,
                                KA_IDLE};
    int nth;

    for (nth = 0; nth < 4; nth++) {
        fake_reset();
        begin(0, 5000);
        fake.fail_set = 1u << nth;
        CHECK_EQ(ka_question_ask(&question, 0, &fault), -EIO);
        CHECK_EQ(fault.option, order[nth]);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(question.asked, 0);
        CHECK_EQ(ka_question_end(&question, &fault), 0);
        CHECK(unchanged());
    }
}

static void a_later_ask_failing_is_given_back(void) {
    begin(1, 5000);
    ka_question_ask(&question, 0, &fault);
    fake_forget();
    fake.fail_set = 1;
    CHECK_EQ(ka_question_ask(&question, 750, &fault), -EIO);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK_EQ(question.asked, 1);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

static void giving_back_goes_on_after_a_failure(void) {
    static const int order[] = {KA_ENABLED, KA_IDLE, KA_COUNT,
                                KA_USER_TIMEOUT};
    int nth;

    for (nth = 0; nth < 4; nth++) {
        fake_reset();
        begin(0, 5000);
        ka_question_ask(&question, 0, &fault);
        fake_forget();
        fake.fail_set = 1u << nth;
        CHECK_EQ(ka_question_end(&question, &fault), -EIO);
        CHECK_EQ(fault.option, order[nth]);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(fake.sets, 4);
        before.value[order[nth]] = fake_held(order[nth]);
        CHECK(unchanged());
    }
}

static void no_user_timeout_on_this_socket(void) {
    begin(0, 0);
    fake.socket[0].option[KA_USER_TIMEOUT].absent = 1;
    fake.socket[0].option[KA_RTO_MAX].absent = 1;
    before = fake_policy();
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    CHECK(FAKE_SETS_ARE({KA_ENABLED, 1}, {KA_COUNT, 127}, {KA_IDLE, 1}));
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

/* Without a count to raise, a probe could kill: no question then. */
static void no_count_no_question(void) {
    begin(0, 0);
    fake.socket[0].option[KA_COUNT].absent = 1;
    before = fake_policy();
    CHECK_EQ(ka_question_ask(&question, 0, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_COUNT);
    CHECK_EQ(fake_held(KA_IDLE), 600);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

static void after_a_failed_borrowing_the_next_disarms_too(void) {
    int nth;

    for (nth = 0; nth < 3; nth++) {
        fake_reset();
        begin(0, 5000);
        fake.fail_set = 1u << nth;
        CHECK_EQ(ka_question_ask(&question, 0, &fault), -EIO);
        CHECK(unchanged()); /* given back at once */
        fake.fail_set = 0;
        CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
        CHECK_EQ(fake_held(KA_ENABLED), 1);
        CHECK_EQ(fake_held(KA_COUNT), 127);
        CHECK_EQ(fake_held(KA_USER_TIMEOUT), 0);
        CHECK_EQ(ka_question_end(&question, &fault), 0);
        CHECK(unchanged());
    }
}

/* sysctl may give a socket more than setsockopt takes: 86400 s, 200 probes.
 * Then the socket must at least not be left asking every second. */
static void defaults_that_cannot_be_set_are_not_lost(void) {
    begin(1, 0);
    fake_hold(KA_IDLE, 86400);
    fake_hold(KA_COUNT, 200);
    before = fake_policy();
    ka_question_ask(&question, 0, &fault);
    ka_question_end(&question, &fault);
    CHECK(fake_held(KA_IDLE) >= 32767);
    CHECK(fake_held(KA_COUNT) >= 127);
    CHECK_EQ(fake_held(KA_ENABLED), 1);
}

/* The kernel ends a connection at 127 unanswered probes, whatever count is
 * set: a user timeout overrules it then. */
static void so_many_unanswered_are_overruled(void) {
    begin(1, 5000);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    fake.socket[0].info.field.tcpi_probes = KA_UNANSWERED_MAX;
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 1000, &fault), 1);
    CHECK(FAKE_SETS_ARE({KA_USER_TIMEOUT, INT32_MAX}, {KA_ENABLED, 1},
                        {KA_COUNT, 127}, {KA_IDLE, 1}));
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

static void and_given_back_where_there_was_none(void) {
    begin(0, 0);
    fake.socket[0].info.field.tcpi_probes = 126;
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    CHECK_EQ(fake_held(KA_USER_TIMEOUT), INT32_MAX);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK(unchanged());
}

/* MPTCP has no user timeout: then no more is asked. */
static void what_cannot_be_overruled_is_not_asked(void) {
    begin(1, 0);
    fake.socket[0].option[KA_USER_TIMEOUT].absent = 1;
    before = fake_policy();
    fake.socket[0].info.field.tcpi_probes = KA_UNANSWERED_MAX;
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 0);
    CHECK_EQ(fake.sets, 0);
    CHECK_EQ(question.asked, 0);
}

int main(void) {
    fake_begin();
    RUN(borrowing_disarms_before_it_asks);
    RUN(unset_user_timeout_is_not_touched_while_asking);
    RUN(later_asks_only_set_idle);
    RUN(asks_are_750_ms_apart);
    RUN(ending_switches_off_first);
    RUN(ending_without_asking_does_nothing);
    RUN(ending_twice_restores_once);
    RUN(asking_again_after_the_end_borrows_again);
    RUN(another_socket_is_never_touched);
    RUN(a_closed_descriptor_ends_quietly);
    RUN(reading_failing_borrows_nothing);
    RUN(borrowing_failing_half_way_is_given_back);
    RUN(a_later_ask_failing_is_given_back);
    RUN(giving_back_goes_on_after_a_failure);
    RUN(no_user_timeout_on_this_socket);
    RUN(no_count_no_question);
    RUN(so_many_unanswered_are_overruled);
    RUN(and_given_back_where_there_was_none);
    RUN(what_cannot_be_overruled_is_not_asked);
    RUN(after_a_failed_borrowing_the_next_disarms_too);
    RUN(defaults_that_cannot_be_set_are_not_lost);
    return test_report("question");
}

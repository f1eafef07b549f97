/* Options on three Windows: order, units, rounding, never half a pair, and
 * everything back when a call fails. */
#include "windows_fixture.h"

#define SO 8 /* SO_KEEPALIVE; the others by their numbers too */
#define IDLE 3
#define INTERVAL 17
#define COUNT 16
#define RT_MS 14
#define RT_S 5

/* ---- what there is ------------------------------------------------------ */

static void what_there_is_is_asked_once_and_cleaned_up(void) {
    on_newest();
    CHECK_EQ(ka_supported(), 0x1F);
    CHECK_EQ(fake.started, 0);
    CHECK_EQ(fake.sockets, 0);
    fake.count = 0;
    CHECK_EQ(ka_supported(), 0x1F);
    on_1703();
    CHECK_EQ(ka_supported(), 0x1F);
    on_old();
    CHECK_EQ(ka_supported(), 0x1F);
    fake.rt_s = 0;
    forget();
    CHECK_EQ(ka_supported(), 0x0F);
    fake.vals = 0;
    forget();
    CHECK_EQ(ka_supported(), 0x01);
    CHECK(untouched());
}

static void names_and_ranges(void) {
    struct ka_range range;

    CHECK(strcmp(ka_option_name(KA_IDLE), "TCP_KEEPIDLE") == 0);
    CHECK(strcmp(ka_option_name(KA_USER_TIMEOUT), "TCP_MAXRTMS") == 0);
    CHECK(strcmp(ka_option_name(KA_OPTIONS), "?") == 0);
    CHECK_EQ(ka_option_range(KA_COUNT, &range), 0);
    CHECK_EQ(range.low, 1);
    CHECK_EQ(range.high, 255);
    CHECK_EQ(ka_option_range(KA_RTO_MAX, &range), -ENOPROTOOPT);
    CHECK_EQ(ka_option_range(-1, &range), -EINVAL);
}

/* ---- the newest --------------------------------------------------------- */

static void each_option_is_its_own_with_keepalive_first(void) {
    on_newest();
    CHECK_EQ(apply(1, 30, 10, 4, 5500), 0);
    CHECK_SET(0, SO, 1);
    CHECK_SET(1, INTERVAL, 10);
    CHECK_SET(2, COUNT, 4);
    CHECK_SET(3, RT_MS, 5500);
    CHECK_SET(4, IDLE, 30);
    CHECK_EQ(fake.sets, 5);
    check_out(1, 30, 10, 4, 5500);
}

static void idle_alone_is_an_option_of_its_own(void) {
    on_newest();
    CHECK_EQ(apply(KA_LEAVE, 30, KA_LEAVE, KA_LEAVE, KA_LEAVE), 0);
    CHECK_SET(0, IDLE, 30);
    CHECK_EQ(fake.sets, 1);
    check_out(0, 30, 1, 10, 0);
}

static void any_call_may_fail_and_all_is_as_before(void) {
    int nth;

    for (nth = 1; nth <= 5; nth++) {
        on_newest();
        fake.idle = 77;
        fake.interval = 7;
        fake.keepcnt = 5;
        fake.rt = 4000;
        fake.fail_set = nth;
        fake.fail_error = WSAENOBUFS;
        CHECK_EQ(apply(1, 30, 10, 4, 5500), -ENOBUFS);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(fault.option, ka_set_order[nth == 5 ? 5 : nth - 1]);
        CHECK_EQ(fake.sets, 2 * nth - 1);
        CHECK_EQ(fake.on, 0);
        CHECK_EQ(fake.idle, 77);
        CHECK_EQ(fake.interval, 7);
        CHECK_EQ(fake.keepcnt, 5);
        CHECK_EQ(fake.rt, 4000);
    }
}

static void a_value_beyond_the_range_changes_nothing(void) {
    static const int32_t wrong[][2] = {
        {KA_ENABLED, 2},     {KA_IDLE, 0},      {KA_IDLE, 2147484},
        {KA_INTERVAL, 0},    {KA_COUNT, 0},     {KA_COUNT, 256},
        {KA_ENABLED, -3},    {KA_INTERVAL, -3}, {KA_USER_TIMEOUT, -3},
        {KA_IDLE, INT32_MIN}};
    struct ka_policy policy;
    size_t i;

    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        on_newest();
        policy = policy_of(1, 30, 10, 4, 5000);
        policy.value[wrong[i][0]] = wrong[i][1];
        CHECK_EQ(ka_apply(FAKE_SOCK, &policy, &out, &fault), -EINVAL);
        CHECK_EQ(fault.option, wrong[i][0]);
        CHECK_EQ(fake.on, 0);
        CHECK_EQ(fake.interval, 1);
        CHECK_EQ(fake.idle, 7200);
        on_old();
        CHECK_EQ(ka_apply(FAKE_SOCK, &policy, &out, &fault), -EINVAL);
        CHECK_EQ(fault.option, wrong[i][0]);
        CHECK(untouched());
    }
}

static void a_limit_of_retransmission_is_refused(void) {
    struct ka_policy policy = policy_of(1, 30, 10, 4, 5000);

    policy.value[KA_RTO_MAX] = 2000;
    on_newest();
    CHECK_EQ(ka_apply(FAKE_SOCK, &policy, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_RTO_MAX);
    CHECK(untouched());
}

static void fresh_sets_the_same_and_reads_nothing(void) {
    struct ka_policy policy = policy_of(1, 30, 10, 4, 5500);

    on_newest();
    CHECK_EQ(ka_apply_fresh(FAKE_SOCK, &policy, &fault), 0);
    CHECK_EQ(fake.sets, 5);
    CHECK_SET(0, SO, 1);
    CHECK_SET(4, IDLE, 30);
    on_old();
    CHECK_EQ(ka_apply_fresh(FAKE_SOCK, &policy, &fault), 0);
    CHECK_SET(0, SO, 1);
    CHECK_VALS(1, 30000, 4000);
    CHECK_SET(2, RT_S, 6);
    CHECK_EQ(fake.sets, 3);
}

/* ---- the user timeout --------------------------------------------------- */

static int32_t user_timeout(void) {
    int32_t value = -77;

    CHECK_EQ(ka_get(FAKE_SOCK, KA_USER_TIMEOUT, &value), 0);
    return value;
}

static void seconds_are_rounded_up(void) {
    static const int32_t cases[][3] = {{1, 1, 1000},
                                       {1000, 1, 1000},
                                       {1001, 2, 2000},
                                       {1999, 2, 2000},
                                       {30000, 30, 30000},
                                       {KA_NEVER_MS - 1, 2147484, KA_NEVER_MS},
                                       {2147482999, 2147483, 2147483000}};
    size_t i;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        on_old();
        CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, cases[i][0]), 0);
        CHECK_SET(0, RT_S, cases[i][1]);
        CHECK_EQ(user_timeout(), cases[i][2]);
        on_newest();
        CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, cases[i][0]), 0);
        CHECK_SET(0, RT_MS, cases[i][0]);
        CHECK_EQ(user_timeout(), cases[i][0]);
    }
}

static void off_is_what_a_fresh_socket_holds(void) {
    on_newest();
    CHECK_EQ(user_timeout(), 0);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, 5000), 0);
    CHECK_EQ(user_timeout(), 5000);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, 0), 0);
    CHECK_EQ(fake.rt, 21000);
    CHECK_EQ(user_timeout(), 0);
    on_old();
    CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, 0), 0);
    CHECK_EQ(fake.rt, 21);
    fake.own_rt = fake.rt = -1; /* if that is how off looks */
    forget();
    CHECK_EQ(user_timeout(), 0);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, 0), 0);
    CHECK_EQ(fake.rt, -1);
}

static void never_is_the_highest_value(void) {
    on_newest();
    fake.rt = -1;
    CHECK_EQ(user_timeout(), KA_NEVER_MS);
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_USER_TIMEOUT, 0), 0);
    CHECK_EQ(fake.rt, 21000);
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_USER_TIMEOUT, KA_NEVER_MS), 0);
    CHECK_EQ(fake.rt, -1);
    on_old();
    CHECK_EQ(ka_set(FAKE_SOCK, KA_USER_TIMEOUT, KA_NEVER_MS), 0);
    CHECK_EQ(fake.rt, -1);
}

/* ---- Windows 10 1703: a pair, and a count of its own -------------------- */

static void the_pair_is_one_call_and_the_count_another(void) {
    on_1703();
    CHECK_EQ(apply(1, 30, 10, 4, 5500), 0);
    CHECK_SET(0, SO, 1);
    CHECK_VALS(1, 30000, 10000);
    CHECK_SET(2, COUNT, 4);
    CHECK_SET(3, RT_MS, 5500);
    CHECK_EQ(fake.sets, 4);
    CHECK_EQ(fake.on, 1);
    check_out(1, 30, 10, 4, 5500);
    CHECK_EQ(ka_read(FAKE_SOCK, &out, &fault), 0);
    check_out(1, KA_UNREADABLE, KA_UNREADABLE, 4, 5500);
}

static void a_third_call_that_fails_gives_the_whole_pair_back(void) {
    on_1703();
    fake.keepcnt = 6;
    fake.fail_set = 3;
    fake.fail_error = WSAENOBUFS;
    CHECK_EQ(apply(1, 30, 10, 4, 5500), -ENOBUFS);
    CHECK_EQ(fault.option, KA_COUNT);
    CHECK_EQ(fault.setting, 1);
    CHECK_EQ(fake.idle_ms, 7200000);
    CHECK_EQ(fake.interval_ms, 1000);
    CHECK_EQ(fake.keepcnt, 6);
    CHECK_EQ(fake.on, 0);
}

static void a_fourth_call_that_fails_does_so_too(void) {
    on_1703();
    fake.on = 1;
    fake.keepcnt = 6;
    fake.fail_set = 4;
    fake.fail_error = WSAENOBUFS;
    CHECK_EQ(apply(1, 30, 10, 4, 5500), -ENOBUFS);
    CHECK_EQ(fault.option, KA_USER_TIMEOUT);
    CHECK_EQ(fake.idle_ms, 7200000);
    CHECK_EQ(fake.interval_ms, 1000);
    CHECK_EQ(fake.keepcnt, 6);
    CHECK_EQ(fake.on, 1);
}

static void a_pair_that_fails_leaves_the_old_one(void) {
    on_1703();
    fake.idle_ms = 5000;
    fake.interval_ms = 500;
    fake.fail_set = 2;
    fake.fail_error = WSAENOBUFS;
    CHECK_EQ(apply(1, 30, 10, 4, 5500), -ENOBUFS);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK_EQ(fake.idle_ms, 5000);
    CHECK_EQ(fake.interval_ms, 500);
    CHECK_EQ(fake.on, 0);
}

static void half_a_pair_is_refused(void) {
    void (*const systems[])(void) = {on_1703, on_old};
    struct ka_policy policy;
    size_t i;

    for (i = 0; i < 2; i++) {
        systems[i]();
        CHECK_EQ(apply(1, 30, KA_LEAVE, 4, 5500), -ENOPROTOOPT);
        CHECK_EQ(fault.option, KA_IDLE);
        CHECK_EQ(apply(1, KA_LEAVE, 10, 4, 5500), -ENOPROTOOPT);
        CHECK_EQ(fault.option, KA_INTERVAL);
        policy = policy_of(1, 30, KA_LEAVE, KA_LEAVE, KA_LEAVE);
        CHECK_EQ(ka_apply_fresh(FAKE_SOCK, &policy, &fault), -ENOPROTOOPT);
        CHECK_EQ(ka_set(FAKE_SOCK, KA_IDLE, 30), -ENOPROTOOPT);
        CHECK_EQ(ka_set(FAKE_SOCK, KA_INTERVAL, 10), -ENOPROTOOPT);
        CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_IDLE, 30), -ENOPROTOOPT);
        CHECK(untouched());
    }
}

static void a_count_alone_needs_an_option(void) {
    on_1703();
    CHECK_EQ(apply(1, KA_LEAVE, KA_LEAVE, 4, KA_LEAVE), 0);
    CHECK_SET(0, SO, 1);
    CHECK_SET(1, COUNT, 4);
    CHECK_EQ(fake.sets, 2);
    on_old();
    CHECK_EQ(apply(1, KA_LEAVE, KA_LEAVE, 4, KA_LEAVE), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_COUNT);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_COUNT, 4), -ENOPROTOOPT);
    CHECK(untouched());
}

static void keepalive_alone_is_no_pair(void) {
    on_old();
    CHECK_EQ(apply(1, KA_LEAVE, KA_LEAVE, KA_LEAVE, KA_LEAVE), 0);
    CHECK_SET(0, SO, 1);
    CHECK_EQ(fake.sets, 1);
    check_out(1, KA_UNREADABLE, KA_UNREADABLE, KA_UNREADABLE, 0);
}

/* ---- older: ten probes, whatever one wishes ----------------------------- */

static void the_total_is_kept(void) {
    static const int32_t cases[][3] = {
        /* interval, count, its ms */
        {10, 4, 4000}, {1, 1, 100},        {3, 10, 3000},
        {7, 3, 2100},  {75, 255, 1912500}, {10, KA_LEAVE, 10000}};
    size_t i;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        on_old();
        CHECK_EQ(apply(1, 30, cases[i][0], cases[i][1], KA_LEAVE), 0);
        CHECK_SET(0, SO, 1);
        CHECK_VALS(1, 30000, cases[i][2]);
        CHECK_EQ(fake.sets, 2);
        check_out(1, 30, cases[i][0],
                  cases[i][1] == KA_LEAVE ? KA_UNREADABLE : cases[i][1], 0);
    }
}

static void a_total_too_long_is_refused(void) {
    on_old();
    CHECK_EQ(apply(1, 30, 2147483, 255, KA_LEAVE), -EINVAL);
    CHECK_EQ(fault.option, KA_INTERVAL);
    CHECK(untouched());
    CHECK_EQ(apply(1, 2147483, 2147483, 10, KA_LEAVE), 0);
    CHECK_VALS(1, 2147483000L, 2147483000L);
}

static void off_stays_off_and_on_stays_on(void) {
    on_old();
    CHECK_EQ(apply(KA_LEAVE, 30, 10, KA_LEAVE, KA_LEAVE), 0);
    CHECK_VALS(0, 30000, 10000);
    CHECK_SET(1, SO, 0);
    CHECK_EQ(fake.on, 0);
    CHECK_EQ(fake.idle_ms, 30000);
    on_old();
    fake.on = 1;
    CHECK_EQ(apply(KA_LEAVE, 30, 10, KA_LEAVE, KA_LEAVE), 0);
    CHECK_EQ(fake.sets, 1);
    CHECK_EQ(fake.on, 1);
    on_old();
    fake.on = 1;
    CHECK_EQ(apply(0, 30, 10, 4, KA_LEAVE), 0);
    CHECK_EQ(fake.on, 0);
    CHECK_EQ(fake.idle_ms, 30000);
    CHECK_EQ(fake.interval_ms, 4000);
    check_out(0, 30, 10, 4, 0);
}

static void turned_on_by_the_pair_and_stuck_is_told(void) {
    on_old();
    fake.keepalive_error = WSAENOBUFS;
    CHECK_EQ(apply(KA_LEAVE, 30, 10, KA_LEAVE, KA_LEAVE), -ENOBUFS);
    CHECK_EQ(fault.option, KA_ENABLED);
    CHECK_EQ(fake.idle_ms, 7200000);
    CHECK_EQ(fake.interval_ms, 1000);
    CHECK_SET(fake.sets - 1, SO, 0); /* tried to the last */
}

static void put_back_is_the_pair_and_leaves_the_switch(void) {
    static const int options[] = {KA_IDLE, KA_INTERVAL, KA_COUNT};
    int i, on;

    for (i = 0; i < 6; i++) {
        on = i & 1;
        on_old();
        fake.on = on;
        fake.idle_ms = 30000;
        fake.interval_ms = 10000;
        CHECK_EQ(ka_os_put_back(FAKE_SOCK, options[i / 2], KA_UNREADABLE), 0);
        CHECK_EQ(fake.idle_ms, 7200000);
        CHECK_EQ(fake.interval_ms, 1000);
        CHECK_EQ(fake.on, on);
    }
    on_newest();
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_IDLE, 90), 0);
    CHECK_EQ(fake.idle, 90);
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_COUNT, 1000), 0);
    CHECK_EQ(fake.keepcnt, 255);
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_IDLE, KA_UNREADABLE), 0);
    CHECK_EQ(fake.idle, 7200);
    CHECK_EQ(ka_os_put_back(FAKE_SOCK, KA_OPTIONS, 1), -EINVAL);
}

/* ---- what is no TCP socket ---------------------------------------------- */

static void other_sockets_are_refused_and_left_alone(void) {
    void (*const systems[])(void) = {on_newest, on_1703, on_old};
    struct ka_policy policy = policy_of(KA_LEAVE, 30, 10, 4, 5000);
    size_t i;
    int32_t value;

    for (i = 0; i < 3; i++) {
        systems[i]();
        (void)ka_supported();
        fake.protocol = IPPROTO_UDP;
        fake.type = SOCK_DGRAM;
        CHECK_EQ(ka_get(FAKE_SOCK, KA_IDLE, &value), -ENOPROTOOPT);
        CHECK_EQ(ka_get(FAKE_SOCK, KA_ENABLED, &value), -ENOPROTOOPT);
        CHECK_EQ(ka_get(FAKE_SOCK, KA_USER_TIMEOUT, &value), -ENOPROTOOPT);
        CHECK_EQ(ka_read(FAKE_SOCK, &out, &fault), -ENOPROTOOPT);
        CHECK_EQ(ka_apply(FAKE_SOCK, &policy, &out, &fault), -ENOPROTOOPT);
        CHECK_EQ(fault.setting, 0);
        CHECK_EQ(ka_apply_fresh(FAKE_SOCK, &policy, &fault), -ENOPROTOOPT);
        CHECK(untouched());
    }
}

static void a_closed_socket_is_told(void) {
    int32_t value;

    on_newest();
    (void)ka_supported();
    fake.closed = 1;
    CHECK_EQ(ka_get(FAKE_SOCK, KA_IDLE, &value), -EBADF);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_IDLE, 30), -EBADF);
    CHECK_EQ(apply(1, 30, 10, 4, 5500), -EBADF);
    on_old();
    (void)ka_supported();
    fake.closed = 1;
    CHECK_EQ(ka_get(FAKE_SOCK, KA_IDLE, &value), -EBADF);
    CHECK_EQ(apply(1, 30, 10, 4, 5500), -EBADF);
}

static void unknown_options(void) {
    int32_t value;

    on_newest();
    CHECK_EQ(ka_get(FAKE_SOCK, KA_OPTIONS, &value), -EINVAL);
    CHECK_EQ(ka_get(FAKE_SOCK, -1, &value), -EINVAL);
    CHECK_EQ(ka_set(FAKE_SOCK, -1, 1), -EINVAL);
    CHECK_EQ(ka_get(FAKE_SOCK, KA_RTO_MAX, &value), -ENOPROTOOPT);
    CHECK_EQ(ka_set(FAKE_SOCK, KA_RTO_MAX, 2000), -ENOPROTOOPT);
}

static void nothing_is_asked_of_the_peer(void) {
    on_newest();
    CHECK_EQ(ka_os_asks, 0);
    CHECK_EQ(ka_os_ask(FAKE_SOCK, &out, KA_GUARD_COUNT, &fault), -ENOPROTOOPT);
    CHECK_EQ(ka_os_unask(FAKE_SOCK, &out, &fault), 0);
    CHECK(untouched());
}

int main(void) {
    RUN(what_there_is_is_asked_once_and_cleaned_up);
    RUN(names_and_ranges);
    RUN(each_option_is_its_own_with_keepalive_first);
    RUN(idle_alone_is_an_option_of_its_own);
    RUN(any_call_may_fail_and_all_is_as_before);
    RUN(a_value_beyond_the_range_changes_nothing);
    RUN(a_limit_of_retransmission_is_refused);
    RUN(fresh_sets_the_same_and_reads_nothing);
    RUN(seconds_are_rounded_up);
    RUN(off_is_what_a_fresh_socket_holds);
    RUN(never_is_the_highest_value);
    RUN(the_pair_is_one_call_and_the_count_another);
    RUN(a_third_call_that_fails_gives_the_whole_pair_back);
    RUN(a_fourth_call_that_fails_does_so_too);
    RUN(a_pair_that_fails_leaves_the_old_one);
    RUN(half_a_pair_is_refused);
    RUN(a_count_alone_needs_an_option);
    RUN(keepalive_alone_is_no_pair);
    RUN(the_total_is_kept);
    RUN(a_total_too_long_is_refused);
    RUN(off_stays_off_and_on_stays_on);
    RUN(turned_on_by_the_pair_and_stuck_is_told);
    RUN(put_back_is_the_pair_and_leaves_the_switch);
    RUN(other_sockets_are_refused_and_left_alone);
    RUN(a_closed_socket_is_told);
    RUN(unknown_options);
    RUN(nothing_is_asked_of_the_peer);
    return test_report("windows_options");
}

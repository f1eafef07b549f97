/* NetBSD: half-seconds that cannot be read back. */
#include "bsd_cases.h"

#define IDLE 3
#define INTERVAL 5
#define COUNT 6

const struct fake_system fake_system = {
    .row = {{0xffff, ON, 0, 0, UINT32_MAX, 0, 0},
            {6, IDLE, 14400, 1, UINT32_MAX, 1, 0},
            {6, INTERVAL, 150, 1, UINT32_MAX, 1, 0},
            {6, COUNT, 8, 1, UINT32_MAX, 1, 0}},
    .info_number = 9,
    .info_size = 236,
    .not_tcp = ENOPROTOOPT,
    .gone = ECONNRESET,
    .queue = 0x40046679ul,
};

static const struct ka_policy full = {{1, 60, 10, 4, KA_LEAVE, KA_LEAVE}};

static void half_seconds_and_on_comes_last(void) {
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {INTERVAL, 20}, {IDLE, 120}, {ON, 1}));
    CHECK(memcmp(&out, &full, sizeof out) == 0); /* what was set */
    fake_forget();
    CHECK_EQ(ka_apply_fresh(FAKE_FD, &full, &fault), 0);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {INTERVAL, 20}, {IDLE, 120}, {ON, 1}));
}

static void the_longest_does_not_wrap(void) {
    CHECK_EQ(ka_set(FAKE_FD, KA_IDLE, 2147483), 0);
    CHECK_EQ(held(IDLE), 4294966);
}

static void the_times_cannot_be_read(void) {
    CHECK_EQ(ka_read(FAKE_FD, &out, &fault), 0);
    CHECK_EQ(out.value[KA_ENABLED], 0);
    CHECK_EQ(out.value[KA_IDLE], KA_UNREADABLE);
    CHECK_EQ(out.value[KA_INTERVAL], KA_UNREADABLE);
    CHECK_EQ(out.value[KA_COUNT], KA_UNREADABLE);
    CHECK_EQ(out.value[KA_USER_TIMEOUT], KA_LEAVE);
    CHECK_EQ(out.value[KA_RTO_MAX], KA_LEAVE);
}

static void set_all(void) {
    fake_row(&fake.socket[0], IDLE)->value = 1;
    fake_row(&fake.socket[0], INTERVAL)->value = 2;
    fake_row(&fake.socket[0], COUNT)->value = 3;
}

static void put_all_back(void) {
    fake_forget();
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, KA_UNREADABLE), 0);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_INTERVAL, KA_UNREADABLE), 0);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_COUNT, KA_UNREADABLE), 0);
}

static void what_cannot_be_read_goes_to_the_system_s(void) {
    set_all();
    put_all_back(); /* sysctl tells nothing */
    CHECK(FAKE_SETS_ARE({IDLE, 14400}, {INTERVAL, 150}, {COUNT, 8}));
    fake.sysctl[0] = 1201; /* half-seconds already */
    fake.sysctl[1] = 31;
    fake.sysctl[2] = 5;
    put_all_back();
    CHECK(FAKE_SETS_ARE({IDLE, 1201}, {INTERVAL, 31}, {COUNT, 5}));
    fake.sysctl[0] = 0;
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, KA_UNREADABLE), 0);
    CHECK_EQ(held(IDLE), 14400);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_ENABLED, KA_UNREADABLE), -EINVAL);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, INT32_MAX), 0);
    CHECK_EQ(held(IDLE), 4294966);
}

static void a_failing_third_call_puts_back(void) {
    fake.sysctl[1] = 140;
    set_all();
    fake.fail_set = 1u << 2;
    fake.fail_err = EPERM;
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EPERM);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {INTERVAL, 20}, {IDLE, 120},
                        {INTERVAL, 140}, {COUNT, 8}));
    CHECK_EQ(held(ON), 0);
}

static void it_has_no_user_timeout(void) {
    struct ka_policy policy = full;

    policy.value[KA_USER_TIMEOUT] = 1000;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_USER_TIMEOUT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

static void an_old_kernel_lacks_them(void) {
    int i;

    /* of the socket that is made to find out */
    CHECK(fake_row(&fake.socket[0], IDLE) != NULL);
    fake.fail_set = 7;
    fake.fail_err = ENOPROTOOPT;
    CHECK_EQ(ka_supported(), 1u << KA_ENABLED);
    for (i = 1; i < FAKE_SOCKETS; i++)
        CHECK(!fake.socket[i].open);
}

static void the_owner_s_socket_is_not_tried(void) {
    (void)ka_supported();
    CHECK_EQ(held(IDLE), 14400);
    CHECK_EQ(fake_count(FAKE_SET), 3);
}

static void nothing_that_has_the_wrong_unit_is_told(void) {
    struct ka_info info;

    memset(fake.socket[0].info + 1, 1, sizeof fake.socket[0].info - 1);
    fake_put(120, 12, 4);
    info = info_now();
    CHECK_EQ(info.total_retrans, 12);
    CHECK_EQ(info.last_data_recv_ms, -1);
    CHECK_EQ(info.last_ack_recv_ms, -1);
    CHECK_EQ(info.rto_us, -1);
    CHECK_EQ(info.rtt_us, -1);
    CHECK_EQ(info.snd_wnd, -1);
    CHECK_EQ(info.retransmits, -1);
}

static void its_numbers_are_told(void) {
    struct ka_info info;

    fake_put(108, 4294967295u, 4);
    fake_put(112, 7, 4);
    fake.socket[0].queued = 77;
    info = info_now();
    CHECK_EQ(info.snd_nxt, 4294967295);
    CHECK_EQ(info.rcv_nxt, 7);
    CHECK_EQ(info.snd_max, -1);
    CHECK_EQ(info.queued_bytes, 77);
    CHECK_EQ(info.notsent_bytes, -1);
}

static void an_answer_would_not_show(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    CHECK_EQ(checked(0).state, KA_OPEN);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_UNKNOWN);
    CHECK_EQ(verdict.reason, KA_WHY_CANNOT_TELL);
    CHECK_EQ(ka_os_asks, 0);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

int main(void) {
    bsd_cases();
    RUN(half_seconds_and_on_comes_last);
    RUN(the_longest_does_not_wrap);
    RUN(the_times_cannot_be_read);
    RUN(what_cannot_be_read_goes_to_the_system_s);
    RUN(a_failing_third_call_puts_back);
    RUN(it_has_no_user_timeout);
    RUN_FORKED(an_old_kernel_lacks_them);
    RUN_FORKED(the_owner_s_socket_is_not_tried);
    RUN(nothing_that_has_the_wrong_unit_is_told);
    RUN(its_numbers_are_told);
    RUN(an_answer_would_not_show);
    return test_report("netbsd");
}

/* Darwin: SO_KEEPALIVE before TCP_KEEPALIVE, seconds, and no clock. */
#include "bsd_cases.h"

#define IDLE 0x10
#define HANDSHAKE 0x20
#define DROP 0x80
#define INTERVAL 0x101
#define COUNT 0x102

const struct fake_system fake_system = {
    .row = {{0xffff, ON, 0, 0, UINT32_MAX, 0, 0},
            {6, IDLE, 7200, 0, 4294967, 0, 0},
            {6, INTERVAL, 75, 0, 4294967, 0, 0},
            {6, COUNT, 8, 0, INT32_MAX, 0, 0},
            {6, DROP, 0, 0, INT32_MAX, 0, 0},
            {6, HANDSHAKE, 0, 0, 4294967, 0, 0}},
    .info_number = 0x106,
    .info_size = 112,
    .not_tcp = EINVAL,
    .gone = EINVAL,
};

static const struct ka_policy full = {{1, 60, 10, 4, 30000, KA_LEAVE}};

static void the_count_then_on_then_the_idle_time(void) {
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {ON, 1}, {INTERVAL, 10}, {DROP, 30},
                        {HANDSHAKE, 30}, {IDLE, 60}));
    CHECK(memcmp(&out, &full, sizeof out) == 0);
}

static void a_failing_third_call_puts_back(void) {
    failing_nth_puts_back(&full);
    fake_reset();
    fake.fail_set = 1u << 2;
    fake.fail_err = EPERM;
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EPERM);
    CHECK_EQ(fault.option, KA_INTERVAL);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {ON, 1}, {INTERVAL, 10}, {ON, 0},
                        {COUNT, 8}));
}

static void milliseconds_are_rounded_up(void) {
    static const struct {
        int32_t ms;
        unsigned s;
    } rows[] = {{0, 0},    {1, 1},      {999, 1},    {1000, 1},
                {1001, 2}, {30000, 30}, {29001, 30}, {2147483000, 2147483}};
    int32_t value;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, rows[i].ms), 0);
        CHECK_EQ(held(DROP), rows[i].s);
        CHECK_EQ(ka_get(FAKE_FD, KA_USER_TIMEOUT, &value), 0);
        CHECK_EQ(value, rows[i].s * 1000);
    }
    fake_row(&fake.socket[0], DROP)->value = 3000000;
    CHECK_EQ(ka_get(FAKE_FD, KA_USER_TIMEOUT, &value), 0);
    CHECK_EQ(value, INT32_MAX);
}

static void what_was_read_can_be_put_back(void) {
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_USER_TIMEOUT, INT32_MAX), 0);
    CHECK_EQ(held(DROP), 2147483);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, 0), 0); /* the system's */
    CHECK_EQ(held(IDLE), 0);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, INT32_MAX), 0);
    CHECK_EQ(held(IDLE), 4294967);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_IDLE, KA_UNREADABLE), -EINVAL);
}

static void without_a_conndroptime(void) {
    fake_row(&fake.socket[0], DROP)->absent = 1;
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_USER_TIMEOUT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

static void the_handshake_goes_along(void) {
    CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, 4000), 0);
    CHECK_EQ(held(HANDSHAKE), 4);
    CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, 0), 0);
    CHECK_EQ(held(HANDSHAKE), 0);
    CHECK_EQ(ka_set(FAKE_FD, KA_IDLE, 9), 0);
    CHECK_EQ(held(HANDSHAKE), 0);
    fake_row(&fake.socket[0], HANDSHAKE)->value = 20; /* its owner's */
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    CHECK_EQ(held(HANDSHAKE), 20);
    CHECK_EQ(held(DROP), 30);
    fake_row(&fake.socket[0], HANDSHAKE)->absent = 1;
    CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, 5000), 0);
    CHECK_EQ(held(DROP), 5);
}

static void half_of_the_two_is_put_back(void) {
    fake.fail_set = 1u << 1;
    fake.fail_err = EPERM;
    CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, 4000), -EPERM);
    CHECK(FAKE_SETS_ARE({DROP, 4}, {HANDSHAKE, 4}, {DROP, 0}));
    CHECK_EQ(held(DROP), 0);
    CHECK_EQ(held(HANDSHAKE), 0);
}

static void there_is_no_rto_max(void) {
    struct ka_policy policy = nothing;

    policy.value[KA_RTO_MAX] = 5000;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_RTO_MAX);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    CHECK(strcmp(ka_option_name(KA_IDLE), "TCP_KEEPALIVE") == 0);
}

static void connection_info(void) {
    struct ka_info info;

    fake_put(12, 230, 4);
    fake_put(28, 65535, 4);
    fake_put(32, 11, 4);
    fake_put(40, 99, 4);
    fake_put(44, 25, 4);
    fake_put(48, 3, 4);
    fake_put(56, 101, 8);
    fake_put(64, UINT64_C(5000000000), 8);
    fake_put(72, 103, 8);
    fake_put(80, 104, 8);
    fake_put(88, UINT64_C(6000000000), 8);
    fake_put(104, 107, 8);
    info = info_now();
    CHECK_EQ(info.rto_us, 230000);
    CHECK_EQ(info.rtt_us, 25000);
    CHECK_EQ(info.rttvar_us, 3000);
    CHECK_EQ(info.snd_wnd, 65535);
    CHECK_EQ(info.notsent_bytes, 11);
    CHECK_EQ(info.data_segs_out, 101);
    CHECK_EQ(info.bytes_sent, 5000000000);
    CHECK_EQ(info.bytes_retrans, 103);
    CHECK_EQ(info.data_segs_in, 104);
    CHECK_EQ(info.bytes_received, 6000000000);
    CHECK_EQ(info.total_retrans, 107);
    CHECK_EQ(info.segs_in, -1);
    CHECK_EQ(info.segs_out, -1);
    CHECK_EQ(info.last_ack_recv_ms, -1);
    CHECK_EQ(info.last_data_recv_ms, -1);
    CHECK_EQ(info.last_data_sent_ms, -1);
    CHECK_EQ(info.probes, -1);
    fake_put(12, 0, 4); /* no timer runs */
    CHECK_EQ(info_now().rto_us, -1);
}

static void an_answer_would_not_show(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_UNKNOWN);
    CHECK_EQ(verdict.reason, KA_WHY_CANNOT_TELL);
    CHECK_EQ(ka_os_asks, 0);
    CHECK_EQ(ka_os_ask(FAKE_FD, &full, 1, &fault), -ENOPROTOOPT);
    CHECK_EQ(ka_os_unask(FAKE_FD, &full, &fault), -ENOPROTOOPT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

int main(void) {
    bsd_cases();
    RUN(the_count_then_on_then_the_idle_time);
    RUN(a_failing_third_call_puts_back);
    RUN(milliseconds_are_rounded_up);
    RUN(what_was_read_can_be_put_back);
    RUN(without_a_conndroptime);
    RUN(the_handshake_goes_along);
    RUN(half_of_the_two_is_put_back);
    RUN(there_is_no_rto_max);
    RUN(connection_info);
    RUN(an_answer_would_not_show);
    return test_report("darwin");
}

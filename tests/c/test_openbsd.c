/* OpenBSD: SO_KEEPALIVE and nothing else, but three clocks. */
#include "bsd_cases.h"

const struct fake_system fake_system = {
    .row = {{0xffff, ON, 0, 0, UINT32_MAX, 0, 0}},
    .info_number = 9,
    .info_size = 212,
    .protocol_number = 0x1025,
    .not_tcp = ENOPROTOOPT,
    .gone = ECONNRESET,
};

static void only_on_and_off(void) {
    struct ka_policy policy = nothing;

    policy.value[KA_ENABLED] = 1;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({ON, 1}));
    CHECK_EQ(out.value[KA_ENABLED], 1);
    CHECK_EQ(out.value[KA_IDLE], KA_LEAVE);
    CHECK_EQ(out.value[KA_INTERVAL], KA_LEAVE);
    CHECK_EQ(out.value[KA_COUNT], KA_LEAVE);
    CHECK_EQ(out.value[KA_USER_TIMEOUT], KA_LEAVE);
    CHECK_EQ(out.value[KA_RTO_MAX], KA_LEAVE);
}

static void everything_else_is_refused_before_anything_is_set(void) {
    int option;

    for (option = KA_IDLE; option < KA_OPTIONS; option++) {
        struct ka_policy policy = {{1, -1, -1, -1, -1, -1}};

        policy.value[option] = 10;
        CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), -ENOPROTOOPT);
        CHECK_EQ(fault.option, option);
        CHECK_EQ(fake_count(FAKE_SET), 0);
    }
}

static void its_clocks_are_in_microseconds(void) {
    struct ka_info info;

    fake_put(8, 230000, 4);
    fake_put(44, 44999, 4);
    fake_put(52, 4294967295u, 4);
    fake_put(56, 7000, 4); /* data of ours acknowledged: not this */
    fake_put(68, 25000, 4);
    fake_put(72, 3000, 4);
    info = info_now();
    CHECK_EQ(info.rto_us, 230000);
    CHECK_EQ(info.last_data_sent_ms, 44);
    CHECK_EQ(info.last_ack_recv_ms, 4294967);
    CHECK_EQ(info.last_data_recv_ms, -1);
    CHECK_EQ(info.rtt_us, 25000);
    CHECK_EQ(info.rttvar_us, 3000);
    CHECK_EQ(info.snd_wnd, -1); /* 0 for all but root */
    CHECK_EQ(info.total_retrans, -1);
    CHECK_EQ(info.bytes_received, -1);
    CHECK_EQ(info.segs_in, -1);
}

static void its_numbers_are_root_s(void) {
    struct ka_info info = info_now();

    CHECK_EQ(info.snd_nxt, -1);
    CHECK_EQ(info.snd_max, -1);
    CHECK_EQ(info.rcv_nxt, -1);
    CHECK_EQ(info.queued_bytes, -1); /* 0 is no answer */
    fake_put(104, 1, 4);
    info = info_now();
    CHECK_EQ(info.snd_nxt, 1);
    CHECK_EQ(info.rcv_nxt, 0);
    CHECK_EQ(info.queued_bytes, 0);
    fake_put(104, 0, 4);
    fake_put(108, 8, 4);
    fake_put(160, 9, 4);
    fake_put(196, 77, 4);
    info = info_now();
    CHECK_EQ(info.snd_nxt, 0);
    CHECK_EQ(info.rcv_nxt, 8);
    CHECK_EQ(info.snd_max, 9);
    CHECK_EQ(info.queued_bytes, 77);
}

static void what_was_heard_is_told_and_nothing_asked(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    fake_put(52, 400000, 4);
    CHECK_EQ(checked(0).state, KA_ALIVE);
    CHECK_EQ(checked(0).heard_ms, 400);
    fake_put(52, 60000000, 4);
    CHECK_EQ(checked(0).state, KA_OPEN);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_UNKNOWN);
    CHECK_EQ(verdict.reason, KA_WHY_CANNOT_ASK);
    CHECK_EQ(ka_os_ask(FAKE_FD, &nothing, 1, &fault), -ENOPROTOOPT);
    fake_put(52, 2000, 4); /* something came all the same */
    CHECK_EQ(ka_witness_look(&witness, 0, 500, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    CHECK_EQ(verdict.reason, KA_WHY_ANSWERED);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

int main(void) {
    bsd_cases();
    RUN(only_on_and_off);
    RUN(everything_else_is_refused_before_anything_is_set);
    RUN(its_clocks_are_in_microseconds);
    RUN(its_numbers_are_root_s);
    RUN(what_was_heard_is_told_and_nothing_asked);
    return test_report("openbsd");
}

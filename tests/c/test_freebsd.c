/* FreeBSD: a question that no state on the way to it turns into a death.
 *
 * The model of the kernel's timer is the one in the essay of freebsd.c, with
 * always_keepalive on and 1000 ticks in a second.
 */
#include "bsd_cases.h"

#define IDLE 256
#define INTERVAL 512
#define COUNT 1024
#define UNACKED 68
#define FAR 2000000

const struct fake_system fake_system = {
    .row = {{0xffff, ON, 0, 0, UINT32_MAX, 0, 0},
            {6, IDLE, 7200, 0, 4294967, 0, 0},
            {6, INTERVAL, 75, 0, 4294967, 0, 0},
            {6, COUNT, 8, 0, UINT32_MAX, 0, 0},
            {6, UNACKED, 0, 0, 4294967, 0, 0}},
    .info_number = 32,
    .info_size = 256,
    .protocol_number = 0x1016,
    .not_tcp = EINVAL,
    .gone = ECONNRESET,
    .queue = 0x40046677ul,
};

static const struct ka_policy full = {{1, 60, 10, 4, 30000, KA_LEAVE}};

/* ---- setting ------------------------------------------------------------ */

static void the_idle_time_comes_last(void) {
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), 0);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {INTERVAL, 10}, {ON, 1}, {UNACKED, 30},
                        {IDLE, 60}));
    CHECK(memcmp(&out, &full, sizeof out) == 0);
}

static void a_failing_third_call_puts_back(void) {
    failing_nth_puts_back(&full);
    fake_reset();
    fake.fail_set = 1u << 2;
    fake.fail_err = EPERM;
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -EPERM);
    CHECK_EQ(fault.option, KA_ENABLED);
    CHECK(FAKE_SETS_ARE({COUNT, 4}, {INTERVAL, 10}, {ON, 1}, {INTERVAL, 75},
                        {COUNT, 8}));
}

static void an_older_kernel_has_no_maxunacktime(void) {
    struct ka_policy policy = full;

    fake_row(&fake.socket[0], UNACKED)->absent = 1;
    CHECK_EQ(ka_apply(FAKE_FD, &full, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_USER_TIMEOUT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    policy.value[KA_USER_TIMEOUT] = KA_LEAVE;
    CHECK_EQ(ka_apply(FAKE_FD, &policy, &out, &fault), 0);
    CHECK_EQ(out.value[KA_USER_TIMEOUT], KA_LEAVE);
}

static void units(void) {
    int32_t value;

    CHECK_EQ(ka_set(FAKE_FD, KA_USER_TIMEOUT, 1001), 0);
    CHECK_EQ(held(UNACKED), 2);
    CHECK_EQ(ka_get(FAKE_FD, KA_USER_TIMEOUT, &value), 0);
    CHECK_EQ(value, 2000);
    fake_row(&fake.socket[0], COUNT)->value = UINT32_MAX; /* any u_int */
    CHECK_EQ(ka_get(FAKE_FD, KA_COUNT, &value), 0);
    CHECK_EQ(value, INT32_MAX);
    CHECK_EQ(ka_os_put_back(FAKE_FD, KA_INTERVAL, 0), 0);
    CHECK_EQ(held(INTERVAL), 0);
}

/* ---- TCP_INFO ----------------------------------------------------------- */

static void heard(uint64_t seconds) {
    fake_put(52, seconds * 1000000, 4); /* 32 bits of microseconds */
}

static void its_one_clock_is_of_any_segment(void) {
    struct ka_info info;

    fake_put(8, 230000, 4);
    fake_put(52, 1999999, 4);
    fake_put(68, 25000, 4);
    fake_put(72, 3000, 4);
    fake_put(100, 65535, 4);
    fake_put(108, 1, 4); /* sequence numbers count nothing */
    fake_put(112, 1, 4);
    fake_put(120, 9, 4);
    info = info_now();
    CHECK_EQ(info.rto_us, 230000);
    CHECK_EQ(info.last_ack_recv_ms, 1999);
    CHECK_EQ(info.last_data_recv_ms, -1);
    CHECK_EQ(info.last_data_sent_ms, -1);
    CHECK_EQ(info.rtt_us, 25000);
    CHECK_EQ(info.rttvar_us, 3000);
    CHECK_EQ(info.snd_wnd, 65535);
    CHECK_EQ(info.total_retrans, 9);
    CHECK_EQ(info.bytes_received, -1);
    CHECK_EQ(info.bytes_acked, -1);
    CHECK_EQ(info.segs_in, -1);
    CHECK_EQ(info.probes, -1);
}

static void its_numbers_are_told(void) {
    struct ka_info info;

    fake_put(108, 4294967295u, 4);
    fake_put(112, 7, 4);
    fake_put(180, 11, 4);
    fake.socket[0].queued = 77;
    info = info_now();
    CHECK_EQ(info.snd_nxt, 4294967295);
    CHECK_EQ(info.rcv_nxt, 7);
    CHECK_EQ(info.snd_max, 11);
    CHECK_EQ(info.queued_bytes, 77);
    CHECK_EQ(info.notsent_bytes, -1); /* a part of it */
    fake.socket[0].queued = -1;
    CHECK_EQ(info_now().queued_bytes, -1);
}

static void an_older_kernel_s_padding_never_moves(void) {
    struct ka_info info;

    fake.socket[0].info_size = 236;
    fake_put(108, 5, 4);
    info = info_now();
    CHECK_EQ(info.snd_nxt, 5);
    CHECK_EQ(info.snd_max, 0);
    fake.socket[0].info_size = 112; /* none at all before 6.x */
    info = info_now();
    CHECK_EQ(info.snd_nxt, 5);
    CHECK_EQ(info.rcv_nxt, -1);
    CHECK_EQ(info.snd_max, -1);
}

static void a_card_s_connection_tells_no_number(void) {
    struct ka_info info;

    fake_put(5, 0x17, 1);
    fake_put(108, 5, 4);
    fake_put(112, 5, 4);
    info = info_now();
    CHECK_EQ(info.snd_nxt, -1);
    CHECK_EQ(info.snd_max, -1);
    CHECK_EQ(info.rcv_nxt, -1);
}

static void it_is_asked_and_the_answer_shows(void) {
    struct ka_question question;
    struct ka_witness witness;
    struct ka_verdict verdict;

    heard(300);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ASKING);
    CHECK_EQ(verdict.reason, KA_WHY_MUST_ASK);
    ka_question_begin(&question, FAKE_FD, witness.identity);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 0); /* it leaves later */
    heard(0);
    CHECK_EQ(ka_witness_look(&witness, 1, 1010, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(held(IDLE), 7200);
    CHECK_EQ(held(INTERVAL), 75);
    CHECK_EQ(held(COUNT), 8);
    CHECK_EQ(held(ON), 0);
}

/* ---- asking ------------------------------------------------------------- */

static struct ka_policy policy_now(void) {
    struct ka_policy policy;

    CHECK_EQ(ka_read(FAKE_FD, &policy, &fault), 0);
    return policy;
}

static void a_question_is_far_first_and_now_last(void) {
    struct ka_policy saved = policy_now();

    heard(300);
    CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
    CHECK(FAKE_SETS_ARE({IDLE, FAR}, {INTERVAL, 1}, {COUNT, FAR}, {ON, 1},
                        {IDLE, 1}));
    CHECK(held(COUNT) * (uint64_t)held(INTERVAL) * 1000 < INT32_MAX);
}

static void asking_again_arms_nothing_anew(void) {
    struct ka_policy saved = policy_now();
    int i;

    CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
    fake_forget();
    for (i = 0; i < 5; i++)
        CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_UNGUARDED, &fault), 0);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

/* Whoever has waited for less than a second has not been refused an answer. */
static void what_has_not_left_is_not_counted(void) {
    struct ka_question question;
    struct ka_witness witness;
    struct ka_verdict verdict;

    heard(300);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    ka_question_begin(&question, FAKE_FD, witness.identity);
    CHECK_EQ(ka_question_ask(&question, 5000, &fault), 0);
    fake_forget();
    CHECK_EQ(ka_question_ask(&question, 5999, &fault), 0);
    CHECK_EQ(question.asked, 0);
    CHECK_EQ(ka_witness_give_up(&witness, question.asked, 999, &verdict), 0);
    CHECK_EQ(verdict.state, KA_OPEN);
    CHECK_EQ(verdict.reason, KA_WHY_NO_QUESTION);
    CHECK_EQ(ka_question_ask(&question, 6000, &fault), 1);
    CHECK_EQ(ka_question_ask(&question, 6749, &fault), 0);
    CHECK_EQ(ka_question_ask(&question, 7000, &fault), 1);
    CHECK_EQ(question.asked, 2);
    CHECK_EQ(ka_witness_give_up(&witness, question.asked, 2000, &verdict), 0);
    CHECK_EQ(verdict.state, KA_SILENT);
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

static void giving_back_is_far_first_and_idle_last(void) {
    struct ka_policy saved = policy_now();

    CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
    fake_forget();
    CHECK_EQ(ka_os_unask(FAKE_FD, &saved, &fault), 0);
    CHECK(FAKE_SETS_ARE({IDLE, FAR}, {ON, 0}, {COUNT, 8}, {INTERVAL, 75},
                        {IDLE, 7200}));
}

static void a_handshake_is_left_alone(void) {
    static const unsigned char states[] = {0, 1, 2, 3};
    struct ka_policy saved = policy_now();
    size_t i;

    for (i = 0; i < sizeof states; i++) {
        fake.socket[0].info[0] = states[i];
        CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault),
                 -ENOTCONN);
        CHECK_EQ(fault.option, KA_IDLE);
        CHECK_EQ(ka_os_unask(FAKE_FD, &saved, &fault), 0);
    }
    CHECK_EQ(fake_count(FAKE_SET), 0);
}

static void an_ended_one_has_nothing_to_be_given_back(void) {
    struct ka_question question;
    uint64_t identity = identity_now();

    ka_question_begin(&question, FAKE_FD, identity);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 0);
    CHECK(question.borrowed);
    fake_end(&fake.socket[0], ECONNRESET);
    CHECK_EQ(ka_os_unask(FAKE_FD, &question.saved, &fault), 0);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
}

static void ends_within(struct fake_socket *socket, int number,
                        unsigned value) {
    if (number == COUNT && value == 8)
        fake_end(socket, ETIMEDOUT);
}

static void it_may_end_while_it_is_given_back(void) {
    struct ka_policy saved = policy_now();

    CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
    fake.on_set = ends_within;
    CHECK_EQ(ka_os_unask(FAKE_FD, &saved, &fault), 0);
    CHECK(fake.socket[0].gone);
}

static void one_lost_option_is_told_and_the_rest_goes_back(void) {
    struct ka_policy saved = policy_now();
    int nth;

    for (nth = 0; nth < 5; nth++) {
        fake_reset();
        CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
        fake_forget();
        fake.fail_set = UINT64_C(1) << nth;
        fake.fail_err = EPERM;
        CHECK_EQ(ka_os_unask(FAKE_FD, &saved, &fault), -EPERM);
        CHECK_EQ(fake_count(FAKE_SET), 5);
        CHECK(nth == 1 || held(ON) == 0);
        CHECK(nth == 2 || held(COUNT) == 8);
        CHECK(nth == 3 || held(INTERVAL) == 75);
        CHECK(nth == 4 || held(IDLE) == 7200);
    }
}

static void half_a_question_is_given_back(void) {
    struct ka_question question;
    uint64_t identity = identity_now();
    int nth;

    for (nth = 0; nth < 5; nth++) {
        fake_reset();
        ka_question_begin(&question, FAKE_FD, identity);
        fake.fail_set = UINT64_C(1) << nth;
        fake.fail_err = EPERM;
        CHECK_EQ(ka_question_ask(&question, 0, &fault), -EPERM);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(held(IDLE), 7200);
        CHECK_EQ(held(INTERVAL), 75);
        CHECK_EQ(held(COUNT), 8);
        CHECK_EQ(held(ON), 0);
    }
}

/* ---- the timer ---------------------------------------------------------- */

static struct {
    uint64_t silent;   /* seconds since a segment came in */
    uint64_t deadline; /* seconds from now, of the keepalive timer */
} timer;

/* Stopped here for ever, would the kernel drop it without a question? */
static int is_deadly(void) {
    uint64_t then = timer.silent + timer.deadline;
    uint32_t sum = 1000u * held(IDLE) + 1000u * held(INTERVAL) * held(COUNT);

    if (timer.deadline >= FAR || then < held(IDLE))
        return 0;
    return then * 1000 >= sum || (int32_t)sum < 0;
}

static void armed(struct fake_socket *socket, int number, unsigned value) {
    (void)socket;
    if (number == IDLE)
        timer.deadline = value;
    CHECK(!is_deadly());
}

static const struct {
    unsigned idle, interval, count;
} policies[] = {{7200, 75, 8}, {60, 10, 4},    {5, 1, 2},   {1, 1, 1},
                {7200, 1, 1},  {3600, 600, 9}, {10, 75, 1}, {86400, 75, 1}};

static void hold(size_t i) {
    fake_row(&fake.socket[0], IDLE)->value = policies[i].idle;
    fake_row(&fake.socket[0], INTERVAL)->value = policies[i].interval;
    fake_row(&fake.socket[0], COUNT)->value = policies[i].count;
}

/* The clock has begun anew, and who is silent looks as if he had answered. */
static int looks_heard(uint64_t silent) {
    return silent >= 4294 && (uint32_t)(silent * 1000000) < 3000000;
}

/* Asked after `silent` seconds, and given back `waited` later. */
static void borrow(size_t i, uint64_t silent, uint64_t waited, int answered) {
    struct ka_policy saved;

    fake_reset();
    hold(i);
    saved = policy_now();
    timer.silent = silent;
    timer.deadline = FAR;
    heard(silent);
    fake.on_set = armed;
    CHECK_EQ(ka_os_ask(FAKE_FD, &saved, KA_GUARD_COUNT, &fault), 1000);
    CHECK_EQ(timer.deadline, 1);
    timer.silent = answered ? 0 : silent + waited;
    heard(timer.silent);
    CHECK_EQ(ka_os_unask(FAKE_FD, &saved, &fault), 0);
    CHECK_EQ(held(IDLE), policies[i].idle);
    CHECK_EQ(held(INTERVAL), policies[i].interval);
    if (answered)
        CHECK_EQ(held(COUNT), policies[i].count);
    else
        CHECK(held(COUNT) >= policies[i].count);
}

static void no_state_on_the_way_is_deadly(void) {
    static const uint64_t waits[] = {0, 3, 60, 3600};
    size_t i, k;

    for (i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        uint64_t most = policies[i].idle +
                        (uint64_t)policies[i].interval * policies[i].count;
        uint64_t silent;

        for (silent = 0; silent < most; silent += 1 + most / 97)
            for (k = 0; k < sizeof waits / sizeof waits[0]; k++) {
                if (!looks_heard(silent + waits[k]))
                    borrow(i, silent, waits[k], 0);
                borrow(i, silent, waits[k], 1);
            }
    }
}

static void the_silent_keep_their_count_while_it_is_safe(void) {
    borrow(1, 30, 3, 0); /* 33 s are less than 4 * 10 */
    CHECK_EQ(held(COUNT), 4);
    borrow(0, 900, 0, 0); /* cancelled before the question left */
    CHECK(held(COUNT) > 8 && held(COUNT) < 200);
    borrow(0, 4400, 3, 0); /* its clock says 108 s */
    CHECK(held(COUNT) > 8 && held(COUNT) < 200);
}

int main(void) {
    bsd_cases();
    RUN(the_idle_time_comes_last);
    RUN(a_failing_third_call_puts_back);
    RUN(an_older_kernel_has_no_maxunacktime);
    RUN(units);
    RUN(its_one_clock_is_of_any_segment);
    RUN(its_numbers_are_told);
    RUN(an_older_kernel_s_padding_never_moves);
    RUN(a_card_s_connection_tells_no_number);
    RUN(it_is_asked_and_the_answer_shows);
    RUN(a_question_is_far_first_and_now_last);
    RUN(asking_again_arms_nothing_anew);
    RUN(what_has_not_left_is_not_counted);
    RUN(giving_back_is_far_first_and_idle_last);
    RUN(a_handshake_is_left_alone);
    RUN(an_ended_one_has_nothing_to_be_given_back);
    RUN(it_may_end_while_it_is_given_back);
    RUN(one_lost_option_is_told_and_the_rest_goes_back);
    RUN(half_a_question_is_given_back);
    RUN(no_state_on_the_way_is_deadly);
    RUN(the_silent_keep_their_count_while_it_is_safe);
    return test_report("freebsd");
}

/* test_sample.c - clocks made of counters: a few looks each. */
#include "sample.h"
#include "test.h"

#define NOW 1000000

static const struct ka_limits none = {KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME, KA_NO_TIME, KA_NO_TIME,
                                      KA_NO_TIME};
/* ---- a few looks ------------------------------------------------------- */

static struct ka_sample sample;
static struct ka_info info;

/* What macOS tells. */
static void mac(int64_t in, int64_t segs_in, int64_t out) {
    memset(&info, -1, sizeof info);
    info.state = KA_TCP_ESTABLISHED;
    info.bytes_received = in;
    info.data_segs_in = segs_in;
    info.bytes_sent = out;
    info.bytes_retrans = 0;
    info.notsent_bytes = 0;
}

static int look_at(int64_t ms) {
    return ka_sample_look(&sample, &info, NOW + ms, NOW + ms);
}

static int class_at(int64_t ms, int64_t in, int64_t segs_in, int64_t out) {
    mac(in, segs_in, out);
    CHECK_EQ(look_at(ms), 1);
    return ka_classify(&info);
}

static void fresh(void) {
    memset(&sample, 0, sizeof sample);
}

static void a_kernel_with_clocks_is_left_alone(void) {
    struct ka_info before;

    fresh();
    memset(&info, 0, sizeof info);
    info.state = KA_TCP_ESTABLISHED;
    before = info;
    CHECK_EQ(look_at(0), 0);
    CHECK(memcmp(&before, &info, sizeof info) == 0);
    CHECK_EQ(sample.begun, 0);
}

static void without_counters_nothing_is_made_up(void) {
    fresh();
    memset(&info, -1, sizeof info);
    info.state = KA_TCP_ESTABLISHED;
    info.last_ack_recv_ms = 5000; /* FreeBSD's one clock */
    CHECK_EQ(look_at(0), 0);
    CHECK_EQ(info.last_data_recv_ms, -1);
    CHECK_EQ(ka_classify(&info), KA_NO_CLASS);
}

static void what_is_not_connected_has_no_clock(void) {
    static const int states[] = {-1, KA_TCP_CLOSE, KA_TCP_LISTEN,
                                 KA_TCP_SYN_SENT, KA_TCP_SYN_RECV};
    size_t i;

    for (i = 0; i < sizeof states / sizeof *states; i++) {
        fresh();
        mac(0, 0, 0);
        info.state = states[i];
        CHECK_EQ(look_at(0), 0);
        CHECK_EQ(sample.begun, 0);
    }
}

static void a_change_is_dated_by_the_look_that_saw_it(void) {
    fresh();
    CHECK_EQ(class_at(0, 0, 0, 0), KA_NEVER_SPOKE);
    CHECK_EQ(class_at(700, 0, 0, 0), KA_NEVER_SPOKE);
    CHECK_EQ(info.last_data_recv_ms, 700);
    CHECK_EQ(class_at(1000, 80, 1, 0), KA_UNANSWERED);
    CHECK_EQ(info.last_data_recv_ms, 0);
    CHECK_EQ(info.last_data_sent_ms, 1000);
    CHECK_EQ(class_at(1500, 80, 1, 0), KA_UNANSWERED);
    CHECK_EQ(info.last_data_recv_ms, 500);
    CHECK_EQ(class_at(2000, 80, 1, 900), KA_ANSWERED);
    CHECK_EQ(class_at(2600, 80, 1, 900), KA_ANSWERED);
    CHECK_EQ(ka_payload_idle_ms(&info), 600);
    CHECK_EQ(class_at(3000, 160, 2, 900), KA_UNANSWERED);
}

static void a_stamp_is_not_before_the_reading(void) {
    fresh();
    class_at(0, 0, 0, 0);
    mac(80, 1, 0); /* the step began at 1000, and this was read at 1040 */
    CHECK_EQ(ka_sample_look(&sample, &info, NOW + 1040, NOW + 1000), 1);
    CHECK_EQ(info.last_data_recv_ms, 0);
    mac(80, 1, 0);
    CHECK_EQ(ka_sample_look(&sample, &info, NOW + 2000, NOW + 2000), 1);
    CHECK_EQ(info.last_data_recv_ms, 960);
}

static void both_in_one_look_is_a_tie(void) {
    fresh();
    class_at(0, 0, 0, 0);
    CHECK_EQ(class_at(1000, 80, 1, 900), KA_ANSWERED);
    CHECK_EQ(ka_payload_idle_ms(&info), 0);
    CHECK_EQ(class_at(9000, 160, 2, 1800), KA_ANSWERED);
    CHECK_EQ(ka_payload_idle_ms(&info), 0);
}

static void a_first_look_at_a_connection_in_use(void) {
    fresh();
    CHECK_EQ(class_at(0, 80, 1, 900), KA_ANSWERED);
    CHECK_EQ(ka_payload_idle_ms(&info), 0);
    fresh();
    CHECK_EQ(class_at(0, 80, 1, 0), KA_UNANSWERED);
    fresh();
    CHECK_EQ(class_at(0, 0, 0, 900), KA_ANSWERED);
    CHECK_EQ(class_at(500, 0, 0, 900), KA_ANSWERED);
    CHECK_EQ(ka_payload_idle_ms(&info), 500);
}

static void the_same_look_twice_changes_nothing(void) {
    struct ka_sample before;

    fresh();
    class_at(0, 1, 1, 0);
    class_at(500, 2, 2, 9);
    before = sample;
    class_at(500, 2, 2, 9);
    CHECK(memcmp(&before, &sample, sizeof sample) == 0);
}

static void a_byte_now_and_then_asks_nothing(void) {
    int i;

    fresh(); /* of one who was answered */
    class_at(0, 80, 1, 900);
    for (i = 1; i <= 20; i++) {
        CHECK_EQ(class_at(i * 45000, 80 + i, 1 + i, 900), KA_ANSWERED);
        CHECK_EQ(ka_payload_idle_ms(&info), 0);
    }
    fresh(); /* of one who never spoke: his clock runs on */
    class_at(0, 0, 0, 0);
    for (i = 1; i <= 20; i++) {
        CHECK_EQ(class_at(i * 45000, i, i, 0), KA_NEVER_SPOKE);
        CHECK_EQ(info.last_data_recv_ms, i * 45000);
    }
    fresh(); /* of one whom only the owner told something */
    class_at(0, 0, 0, 900);
    for (i = 1; i <= 20; i++)
        CHECK_EQ(class_at(i * 45000, i, i, 900), KA_ANSWERED);
    CHECK_EQ(class_at(990000, 100, 21, 900), KA_UNANSWERED); /* a word */
}

static void bytes_of_the_unanswered_are_bytes(void) {
    fresh();
    class_at(0, 80, 1, 0);
    CHECK_EQ(class_at(45000, 81, 2, 0), KA_UNANSWERED);
    CHECK_EQ(info.last_data_recv_ms, 0);
}

static void a_trickle_of_bytes_is_words(void) {
    int i, klass = KA_NEVER_SPOKE;

    fresh();
    class_at(0, 0, 0, 0);
    for (i = 1; i <= 20 && klass == KA_NEVER_SPOKE; i++)
        klass = class_at(i * 200, i, i, 0);
    CHECK_EQ(klass, KA_UNANSWERED);
    CHECK(i <= 5);
}

static void without_segments_one_byte_is_what_it_was(void) {
    fresh();
    class_at(0, 80, -1, 900);
    CHECK_EQ(class_at(45000, 81, -1, 900), KA_ANSWERED);
    CHECK_EQ(class_at(90000, 83, -1, 900), KA_UNANSWERED);
}

static void the_peer_s_end_is_no_word(void) {
    fresh();
    class_at(0, 0, 0, 0);
    mac(0, 0, 0);
    info.state = KA_TCP_CLOSE_WAIT;
    CHECK_EQ(look_at(500), 1);
    CHECK_EQ(ka_classify(&info), KA_NEVER_SPOKE);
    CHECK_EQ(info.last_data_recv_ms, 500);
    mac(1, 1, 9);
    fresh();
    info.state = KA_TCP_CLOSE_WAIT;
    CHECK_EQ(look_at(500), 1);
    CHECK_EQ(ka_classify(&info), KA_ANSWERED);
}

static void a_counter_that_goes_back_is_another_s(void) {
    struct ka_sample before;
    struct ka_info other;

    fresh();
    class_at(0, 80, 1, 900);
    before = sample;
    mac(79, 1, 900);
    other = info;
    CHECK_EQ(look_at(100), -1);
    CHECK(memcmp(&other, &info, sizeof info) == 0);
    mac(80, 1, 899);
    CHECK_EQ(look_at(100), -1);
    CHECK(memcmp(&before, &sample, sizeof sample) == 0);
    mac(80, 1, 900);
    CHECK_EQ(look_at(100), 1);
}

/* ---- numbers that only move --------------------------------------------- */

static void numbered(int64_t snd_nxt, int64_t snd_max, int64_t rcv_nxt) {
    memset(&info, -1, sizeof info);
    info.state = KA_TCP_ESTABLISHED;
    info.last_ack_recv_ms = 9999;
    info.snd_nxt = snd_nxt;
    info.snd_max = snd_max;
    info.rcv_nxt = rcv_nxt;
    info.queued_bytes = 0;
}

static void check_ages(int64_t ms, int64_t in, int64_t out) {
    CHECK_EQ(look_at(ms), 1);
    CHECK_EQ(info.last_data_recv_ms, in);
    CHECK_EQ(info.last_data_sent_ms, out);
    CHECK_EQ(ka_classify(&info), KA_NO_CLASS);
    CHECK_EQ(info.last_ack_recv_ms, 9999);
    CHECK_EQ(info.bytes_received, -1);
    CHECK_EQ(info.data_segs_out, -1);
    CHECK_EQ(info.bytes_acked, -1);
}

static void numbers_date_movement_and_no_more(void) {
    fresh();
    numbered(0, 0, 0);
    check_ages(0, 0, 0);
    numbered(0, 0, 0);
    check_ages(700, 700, 700);
    numbered(0, 0, 4294967295); /* before where it was, or far behind */
    check_ages(1000, 0, 1000);
    numbered(0, 0, 0); /* and round */
    check_ages(1500, 0, 1500);
    numbered(4294967295, 0, 0);
    check_ages(2000, 500, 0);
    numbered(4294967295, 7, 0); /* by one of both */
    check_ages(2600, 1100, 0);
    numbered(4294967290, 7, 0); /* to send it once more */
    check_ages(2650, 1150, 0);
    numbered(4294967290, 7, 0);
    check_ages(2700, 1200, 50);
}

static void numbers_are_dated_after_the_reading(void) {
    fresh();
    numbered(1, -1, 1);
    check_ages(0, 0, 0);
    numbered(2, -1, 2); /* the step began at 1000, and this was read at 1040 */
    CHECK_EQ(ka_sample_look(&sample, &info, NOW + 1040, NOW + 1000), 1);
    numbered(2, -1, 2);
    check_ages(2000, 960, 960);
}

static void one_number_alone_dates_nothing(void) {
    fresh();
    numbered(1, 1, -1);
    CHECK_EQ(look_at(0), 0);
    numbered(-1, 1, 1);
    CHECK_EQ(look_at(0), 0);
    numbered(1, 1, 1);
    info.state = KA_TCP_SYN_SENT;
    CHECK_EQ(look_at(0), 0);
    CHECK_EQ(sample.begun, 0);
}

static int64_t taken_at(int64_t ms, int64_t out, int64_t again,
                        int64_t waiting) {
    mac(0, 0, out);
    sample.timer_shows = 1; /* and none in flight */
    info.bytes_retrans = again;
    info.notsent_bytes = waiting;
    CHECK_EQ(look_at(ms), 1);
    CHECK_EQ(ka_classify(&info), KA_SENDING);
    return info.bytes_acked;
}

static void what_the_peer_takes_shows(void) {
    int64_t first;

    fresh();
    first = taken_at(0, 1000, 0, 5000);
    CHECK_EQ(taken_at(100, 1000, 0, 5000), first);
    CHECK_EQ(taken_at(200, 2000, 1000, 5000), first); /* sent once more */
    CHECK_EQ(taken_at(300, 2000, 1000, 9000), first); /* the owner wrote */
    CHECK(taken_at(400, 2000, 1000, 8000) > first);
    first = taken_at(500, 2000, 1000, 8000);
    CHECK(taken_at(600, 3000, 1000, 8000) > first);
    fresh();
    first = taken_at(0, 1000, 0, 5000);
    sample.in_flight = 1; /* some may have left behind those that came */
    mac(0, 0, 1000);
    info.notsent_bytes = 5001;
    info.rto_us = 200000;
    CHECK_EQ(look_at(100), 1);
    CHECK(info.bytes_acked > first);
}

static void the_pace_follows_the_limits(void) {
    struct ka_limits limits = none;

    CHECK_EQ(ka_sample_pace(&limits, 5), KA_NO_TIME);
    limits.stalled_ms = limits.min_rate = limits.detect_ms = 4000;
    CHECK_EQ(ka_sample_pace(&limits, 5), KA_NO_TIME);
    limits.answered_ms = 60000;
    CHECK_EQ(ka_sample_pace(&limits, 5), 1000);
    limits.never_spoke_ms = 4000;
    CHECK_EQ(ka_sample_pace(&limits, 5), 500);
    limits.idle_ms = 100;
    CHECK_EQ(ka_sample_pace(&limits, 5), 100);
    CHECK_EQ(ka_sample_pace(&limits, 100000), 10000);
}

int main(void) {
    RUN(a_kernel_with_clocks_is_left_alone);
    RUN(without_counters_nothing_is_made_up);
    RUN(what_is_not_connected_has_no_clock);
    RUN(a_change_is_dated_by_the_look_that_saw_it);
    RUN(a_stamp_is_not_before_the_reading);
    RUN(both_in_one_look_is_a_tie);
    RUN(a_first_look_at_a_connection_in_use);
    RUN(the_same_look_twice_changes_nothing);
    RUN(a_byte_now_and_then_asks_nothing);
    RUN(bytes_of_the_unanswered_are_bytes);
    RUN(a_trickle_of_bytes_is_words);
    RUN(without_segments_one_byte_is_what_it_was);
    RUN(the_peer_s_end_is_no_word);
    RUN(a_counter_that_goes_back_is_another_s);
    RUN(numbers_date_movement_and_no_more);
    RUN(numbers_are_dated_after_the_reading);
    RUN(one_number_alone_dates_nothing);
    RUN(what_the_peer_takes_shows);
    RUN(the_pace_follows_the_limits);
    return test_report("sample");
}

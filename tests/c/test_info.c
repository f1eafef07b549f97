/* TCP_INFO of every length a kernel may return, and what poll() shows. */
#include "fake_test.h"

#include <errno.h>
#include <poll.h>

#include "info_oracle.h"

static struct ka_info info;
static struct ka_pending pending;

static void number_bytes(void) {
    int i;

    for (i = 0; i < FAKE_INFO_BYTES; i++)
        fake.socket[0].info.raw[i] = (unsigned char)(i * 7 + 3) & 0x7f;
}

static void compare(void) {
    int i;

    for (i = 0; i < ORACLE_FIELDS; i++)
        if (oracle_got(&info, i) != oracle_want(&fake.socket[0], i)) {
            printf("field %s, %u bytes returned\n", oracle[i].name,
                   fake.socket[0].info_size);
            CHECK_EQ(oracle_got(&info, i), oracle_want(&fake.socket[0], i));
        }
}

static void every_field_is_where_the_header_says(void) {
    number_bytes();
    memset(&info, 0x55, sizeof info);
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    compare();
    /* And those that Linux has nothing of. */
    CHECK(info.snd_nxt == -1 && info.snd_max == -1 && info.rcv_nxt == -1);
    CHECK_EQ(info.queued_bytes, -1);
    CHECK_EQ(sizeof info, (ORACLE_FIELDS + 4) * sizeof(int64_t));
}

static void every_length_is_decoded_as_far_as_it_goes(void) {
    uint32_t size;

    number_bytes();
    for (size = 104; size <= FAKE_INFO_BYTES; size++) {
        fake.socket[0].info_size = size;
        CHECK_EQ(ka_info(FAKE_FD, &info), 0);
        compare();
    }
}

static void older_kernels_leave_fields_unknown(void) {
    number_bytes();
    fake.socket[0].info_size = 104;
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    CHECK(info.total_retrans > 0 && info.rtt_us > 0);
    CHECK(info.segs_in == -1 && info.segs_out == -1);
    CHECK(info.notsent_bytes == -1 && info.snd_wnd == -1);
    fake.socket[0].info_size = 192;
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    CHECK(info.segs_in > 0 && info.bytes_sent == -1);
    fake.socket[0].info_size = 232;
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    CHECK(info.bytes_retrans > 0 && info.snd_wnd > 0);
}

static void too_short_is_refused(void) {
    struct ka_verdict verdict;

    for (fake.socket[0].info_size = 0; fake.socket[0].info_size < 104;
         fake.socket[0].info_size++) {
        CHECK_EQ(ka_info(FAKE_FD, &info), -EOPNOTSUPP);
        CHECK_EQ(ka_check(FAKE_FD, &verdict), -EOPNOTSUPP);
    }
}

static void large_counters_are_not_negative(void) {
    memset(fake.socket[0].info.raw, 0xff, 232);
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    CHECK_EQ(info.segs_in, 0xffffffffLL);
    CHECK_EQ(info.last_ack_recv_ms, 0xffffffffLL);
    CHECK_EQ(info.state, 255);
}

static void errors_are_returned(void) {
    fake.socket[0].info_err = ENOPROTOOPT;
    CHECK_EQ(ka_info(FAKE_FD, &info), -ENOPROTOOPT);
    CHECK_EQ(ka_info(FAKE_FD + 1, &info), -EBADF);
}

static void nothing_pending(void) {
    fake.socket[0].unread = 99; /* not to be asked for without POLLIN */
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(!pending.error && !pending.hangup && pending.unread == 0);
    CHECK_EQ(fake_count(FAKE_IOCTL), 0);
}

static void pending_bytes_error_and_hangup(void) {
    fake.socket[0].revents = POLLIN;
    fake.socket[0].unread = 99;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(!pending.error && !pending.hangup && pending.unread == 99);
    fake.socket[0].revents = POLLERR;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(pending.error && !pending.hangup && pending.unread == 0);
    fake.socket[0].revents = POLLIN | POLLHUP;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(!pending.error && pending.hangup && pending.unread == 99);
}

static void bytes_that_cannot_be_counted_are_none(void) {
    fake.socket[0].revents = POLLIN;
    fake.socket[0].unread_err = EINVAL;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK_EQ(pending.unread, 0);
}

/* Only there does poll() know better than TCP_INFO; its FIN is a byte. */
static void the_fin_of_mptcp(void) {
    fake.socket[0].revents = POLLIN | POLLRDHUP;
    fake.socket[0].unread = 4;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(!pending.fin && pending.unread == 4);
    fake.socket[0].protocol = 262;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(pending.fin && pending.unread == 3);
    fake.socket[0].unread = 0;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(pending.fin && pending.unread == 0);
    fake.socket[0].revents = POLLIN;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK(!pending.fin);
}

static void closed_descriptor_is_told(void) {
    CHECK_EQ(ka_pending(FAKE_FD + 1, &pending), -EBADF);
}

/* poll() may be interrupted even when it does not wait. */
static void a_signal_is_no_answer(void) {
    struct ka_verdict verdict;

    fake.poll_interrupts = 3;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    fake.poll_interrupts = 1;
    CHECK_EQ(ka_check(FAKE_FD, &verdict), 0);
}

int main(void) {
    fake_begin();
    RUN(every_field_is_where_the_header_says);
    RUN(every_length_is_decoded_as_far_as_it_goes);
    RUN(older_kernels_leave_fields_unknown);
    RUN(too_short_is_refused);
    RUN(large_counters_are_not_negative);
    RUN(errors_are_returned);
    RUN(nothing_pending);
    RUN(pending_bytes_error_and_hangup);
    RUN(bytes_that_cannot_be_counted_are_none);
    RUN(the_fin_of_mptcp);
    RUN(closed_descriptor_is_told);
    RUN(a_signal_is_no_answer);
    return test_report("info");
}

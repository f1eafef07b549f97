/* From what the kernel shows to what is said about the peer. */
#include "fake_test.h"

#include <errno.h>

#include "verdict_rows.h"

static uint32_t number(int given, uint32_t usual) {
    return given == NONE ? 0 : given ? (uint32_t)given : usual;
}

static void show(const struct look *look) {
    struct fake_socket *socket = &fake.socket[0];
    struct tcp_info *info = &socket->info.field;

    info->tcpi_state = (uint8_t)number(look->state, KA_TCP_ESTABLISHED);
    info->tcpi_retransmits = (uint8_t)look->retransmits;
    info->tcpi_probes = (uint8_t)look->probes;
    info->tcpi_unacked = (uint32_t)look->unacked;
    info->tcpi_notsent_bytes = (uint32_t)look->notsent;
    info->tcpi_total_retrans = (uint32_t)look->total_retrans;
    info->tcpi_segs_in = number(look->segs_in, 10);
    info->tcpi_segs_out = number(look->segs_out, 10);
    info->tcpi_last_ack_recv = number(look->heard, 5000);
    info->tcpi_last_data_recv =
        number(look->heard_data, info->tcpi_last_ack_recv + 100);
    socket->info_size = number(look->size, sizeof(struct tcp_info));
    socket->revents = (short)look->poll;
    socket->unread = look->unread;
    socket->protocol = look->protocol ? look->protocol : 6;
    fake_hold(KA_USER_TIMEOUT, look->user_timeout);
    fake_hold(KA_COUNT, look->count ? look->count : 9);
    socket->option[KA_COUNT].absent = look->no_count;
}

static int conclude(const struct row *row, struct ka_verdict *verdict) {
    struct ka_witness witness;
    struct ka_verdict first;
    int64_t now = 1000000 + row->waited_ms;

    if (row->entry == LOOKED || row->entry == GIVEN_UP) {
        show(&row->first);
        CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 1000000, &first), 0);
    }
    show(&row->now);
    switch (row->entry) {
        case CHECKED:
            return ka_check(FAKE_FD, verdict);
        case BEGUN:
            return ka_witness_begin(&witness, FAKE_FD, now, verdict);
        case LOOKED: /* what only a counter shows is believed when it stays */
            (void)ka_witness_look(&witness, row->asked, now, verdict);
            return ka_witness_look(&witness, row->asked, now, verdict);
        default:
            return ka_witness_give_up(&witness, row->asked, now, verdict);
    }
}

static unsigned states_seen, reasons_seen;

static void judge_row(const struct row *row) {
    struct ka_verdict verdict;

    memset(&verdict, 0x5a, sizeof verdict);
    CHECK_EQ(conclude(row, &verdict), row->rc);
    CHECK_EQ(fake.sets, 0);
    if (row->rc < 0)
        return;
    CHECK_EQ(verdict.state, row->state);
    CHECK_EQ(verdict.reason, row->reason);
    CHECK_EQ(verdict.err, row->err);
    CHECK_EQ(verdict.asked, row->want_asked);
    CHECK_EQ(verdict.unread, row->now.unread);
    CHECK_EQ(verdict.unanswered, row->now.probes > row->now.retransmits
                                     ? row->now.probes
                                     : row->now.retransmits);
    if (row->now.state == KA_TCP_SYN_SENT || row->now.state == KA_TCP_SYN_RECV)
        CHECK_EQ(verdict.heard_ms, -1);
    else if (row->now.state == KA_TCP_CLOSE && row->now.segs_in == 1)
        CHECK_EQ(verdict.heard_ms, -1); /* refused: there was nothing before */
    else if (!row->now.heard_data)
        CHECK_EQ(verdict.heard_ms, number(row->now.heard, 5000));
    states_seen |= 1u << verdict.state;
    reasons_seen |= 1u << verdict.reason;
}

static void every_state_and_reason_was_reached(void) {
    CHECK_EQ(states_seen | 1u << KA_UNKNOWN, (1u << (KA_ASKING + 1)) - 1);
    CHECK_EQ(reasons_seen, (1u << (KA_WHY_KERNEL_ASKS + 1)) - 1);
}

static const struct look idle = {0};

/* The reset is handled between the kernel's reading of the state and of the
 * counters: the state says open, segs_in has counted the RST. */
static void rst_in_the_middle_of_a_look_is_not_life(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    show(&idle);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    fake.socket[0].info.field.tcpi_segs_in = 11;
    fake.socket[0].dies_after_info = 1;
    CHECK_EQ(ka_witness_look(&witness, 1, 40, &verdict), 0);
    CHECK_EQ(verdict.state, KA_RESET);
}

static void another_socket_is_told(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    show(&idle);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    fake_replace(&fake.socket[0]);
    CHECK_EQ(ka_witness_look(&witness, 0, 40, &verdict), -EBADF);
    CHECK_EQ(ka_witness_give_up(&witness, 0, 40, &verdict), -EBADF);
    fake.socket[0].open = 0;
    CHECK_EQ(ka_witness_look(&witness, 0, 40, &verdict), -EBADF);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), -EBADF);
    CHECK_EQ(ka_check(FAKE_FD, &verdict), -EBADF);
}

static void failing_calls_are_told(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;
    int nth;

    show(&idle);
    for (nth = 0; nth < 2; nth++) { /* TCP_INFO, the identity */
        fake_forget();
        fake.fail_get = 1u << nth;
        CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), -EIO);
    }
    fake_forget();
    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    for (nth = 0; nth < 2; nth++) {
        fake_forget();
        fake.fail_get = 1u << nth;
        CHECK_EQ(ka_witness_look(&witness, 0, 40, &verdict), -EIO);
    }
    fake.socket[0].info_err = ENOPROTOOPT;
    CHECK_EQ(ka_check(FAKE_FD, &verdict), -ENOPROTOOPT);
}

/* Ten looks at a silent peer, one answer: nothing is remembered wrongly. */
static void looks_do_not_disturb_each_other(void) {
    struct ka_witness early, late;
    struct ka_verdict verdict;
    int i;

    show(&idle);
    CHECK_EQ(ka_witness_begin(&early, FAKE_FD, 0, &verdict), 0);
    for (i = 1; i <= 10; i++) {
        CHECK_EQ(ka_witness_look(&early, i, i * 20, &verdict), 0);
        CHECK_EQ(verdict.state, KA_ASKING);
        CHECK_EQ(verdict.asked, i);
    }
    fake.socket[0].info.field.tcpi_segs_in++;
    CHECK_EQ(ka_witness_begin(&late, FAKE_FD, 300, &verdict), 0);
    CHECK_EQ(ka_witness_look(&early, 10, 310, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ASKING); /* it may be an RST on its way in */
    CHECK_EQ(ka_witness_look(&early, 10, 320, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    CHECK_EQ(ka_witness_look(&late, 0, 320, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ASKING);
}

int main(void) {
    int i;

    fake_begin();
    for (i = 0; i < ROWS; i++) {
        test_begin(rows[i].label);
        judge_row(&rows[i]);
        test_end();
    }
    RUN(every_state_and_reason_was_reached);
    RUN(rst_in_the_middle_of_a_look_is_not_life);
    RUN(another_socket_is_told);
    RUN(failing_calls_are_told);
    RUN(looks_do_not_disturb_each_other);
    return test_report("verdict");
}

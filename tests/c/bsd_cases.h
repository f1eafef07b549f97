/* bsd_cases.h - what must hold on each system of the BSD family.
 *
 * A test program defines fake_system, runs bsd_cases() and its own.
 */
#ifndef KA_BSD_CASES_H
#define KA_BSD_CASES_H

#include <errno.h>

#include "fake_bsd.h"
#include "test.h"

#define ON 0x0008 /* SO_KEEPALIVE */

static struct ka_policy out;
static struct ka_fault fault;
static const struct ka_policy nothing = {{-1, -1, -1, -1, -1, -1}};

static inline void bsd_verify(void) {
    if (fake.forbidden)
        test_check(0, __FILE__, __LINE__, fake.forbidden);
}

static inline unsigned held(int number) {
    return fake_row(&fake.socket[0], number)->value;
}

static inline struct ka_info info_now(void) {
    struct ka_info info;

    memset(&info, 0, sizeof info);
    CHECK_EQ(ka_info(FAKE_FD, &info), 0);
    return info;
}

/* ---- what it is --------------------------------------------------------- */

static void make_other(int family, int type, int protocol) {
    fake.socket[0].type = type;
    fake.socket[0].protocol = protocol;
    fake_peer(&fake.socket[0], family, 5000);
}

static void refused(void) {
    struct ka_verdict verdict;
    struct ka_info info;

    CHECK_EQ(ka_read(FAKE_FD, &out, &fault), -ENOPROTOOPT);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK_EQ(ka_info(FAKE_FD, &info), -ENOPROTOOPT);
    CHECK_EQ(ka_check(FAKE_FD, &verdict), -ENOPROTOOPT);
}

static void what_is_not_tcp_is_refused(void) {
    make_other(AF_INET, SOCK_DGRAM, 17);
    refused();
    make_other(AF_INET6, SOCK_DGRAM, 17);
    refused();
    make_other(AF_UNIX, SOCK_STREAM, 0);
    refused();
    if (fake_system.protocol_number) { /* SCTP is a stream */
        make_other(AF_INET, SOCK_STREAM, 132);
        refused();
    }
}

static void a_closed_descriptor_is_told(void) {
    struct ka_kind kind;
    struct ka_info info;
    struct ka_pending pending;
    uint64_t identity;

    CHECK_EQ(ka_read(FAKE_FD + 1, &out, &fault), -EBADF);
    CHECK_EQ(ka_kind(FAKE_FD + 1, &kind), -EBADF);
    CHECK_EQ(ka_info(FAKE_FD + 1, &info), -EBADF);
    CHECK_EQ(ka_pending(FAKE_FD + 1, &pending), -EBADF);
    CHECK_EQ(ka_identify(FAKE_FD + 1, &identity), -EBADF);
    CHECK_EQ(ka_set(FAKE_FD + 1, KA_ENABLED, 1), -EBADF);
}

static void its_kind(void) {
    struct ka_kind kind;

    fake.socket[0].listening = 1;
    CHECK_EQ(ka_kind(FAKE_FD, &kind), 0);
    CHECK_EQ(kind.family, AF_INET);
    CHECK_EQ(kind.type, SOCK_STREAM);
    CHECK_EQ(kind.protocol, 6);
    CHECK_EQ(kind.listening, 1);
    make_other(AF_UNIX, SOCK_STREAM, 0);
    fake.socket[0].listening = 0;
    CHECK_EQ(ka_kind(FAKE_FD, &kind), 0);
    CHECK_EQ(kind.family, AF_UNIX);
    CHECK_EQ(kind.protocol, 0);
    CHECK_EQ(kind.listening, 0);
}

static uint64_t identity_now(void) {
    uint64_t identity = 0;

    CHECK_EQ(ka_identify(FAKE_FD, &identity), 0);
    CHECK(identity != 0);
    return identity;
}

static void identity_is_both_ends(void) {
    uint64_t first = identity_now(), seen;

    CHECK(identity_now() == first);
    fake_peer(&fake.socket[0], AF_INET, 4001);
    CHECK(identity_now() != first);
    fake_peer(&fake.socket[0], AF_INET6, 4000);
    seen = identity_now();
    CHECK(seen != first);
    ((struct sockaddr_in6 *)(void *)&fake.socket[0].peer)->sin6_scope_id = 3;
    CHECK(identity_now() != seen);
    fake_peer(&fake.socket[0], AF_INET, 4000);
    CHECK(identity_now() == first);
    memset(&fake.socket[0].peer, 0, sizeof fake.socket[0].peer);
    CHECK(identity_now() != first); /* listening, or not connected */
    make_other(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(ka_identify(FAKE_FD, &seen), -ENOPROTOOPT);
}

/* ---- options ------------------------------------------------------------ */

static void on_is_1_though_the_kernel_says_8(void) {
    int32_t value = 99;

    CHECK_EQ(ka_get(FAKE_FD, KA_ENABLED, &value), 0);
    CHECK_EQ(value, 0);
    CHECK_EQ(ka_set(FAKE_FD, KA_ENABLED, 1), 0);
    CHECK_EQ(ka_get(FAKE_FD, KA_ENABLED, &value), 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(ka_set(FAKE_FD, KA_ENABLED, 2), -EINVAL);
    CHECK_EQ(fake_count(FAKE_SET), 1);
}

/* By ka_option_range, so that nothing wraps where a kernel does not look. */
static void out_of_range_never_reaches_the_kernel(void) {
    struct ka_range range;
    int option;

    for (option = 0; option < KA_OPTIONS; option++) {
        if (ka_option_range(option, &range) < 0) {
            CHECK_EQ(ka_set(FAKE_FD, option, 5), -ENOPROTOOPT);
            CHECK_EQ(ka_os_put_back(FAKE_FD, option, 5), -ENOPROTOOPT);
            continue;
        }
        fake_forget();
        CHECK_EQ(ka_set(FAKE_FD, option, range.low - 1), -EINVAL);
        if (range.high < INT32_MAX)
            CHECK_EQ(ka_set(FAKE_FD, option, range.high + 1), -EINVAL);
        CHECK_EQ(ka_set(FAKE_FD, option, INT32_MIN), -EINVAL);
        CHECK_EQ(fake_count(FAKE_SET), 0);
        CHECK_EQ(ka_set(FAKE_FD, option, range.low), 0);
        CHECK_EQ(ka_set(FAKE_FD, option, range.high), 0);
    }
    CHECK_EQ(ka_set(FAKE_FD, -1, 1), -EINVAL);
    CHECK_EQ(ka_set(FAKE_FD, KA_OPTIONS, 1), -EINVAL);
    CHECK_EQ(ka_option_range(KA_OPTIONS, &range), -EINVAL);
    CHECK(strcmp(ka_option_name(KA_OPTIONS), "?") == 0);
}

static unsigned options_there(void) {
    struct ka_range range;
    unsigned bits = 0;
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        if (ka_option_range(option, &range) == 0)
            bits |= 1u << option;
    return bits;
}

static void what_there_is_is_found_and_remembered(void) {
    CHECK_EQ(ka_supported(), options_there());
    CHECK_EQ(fake_count(FAKE_SOCKET), 1);
    CHECK_EQ(fake_count(FAKE_CLOSE), 1);
    CHECK(!fake.socket[1].open);
    CHECK_EQ(ka_supported(), options_there());
    CHECK_EQ(fake_count(FAKE_SOCKET), 1);
}

static void the_order_names_each_once(void) {
    unsigned seen = 0;
    int i;

    for (i = 0; i < KA_OPTIONS; i++)
        seen |= 1u << ka_set_order[i];
    CHECK_EQ(seen, (1u << KA_OPTIONS) - 1);
}

/* Setting fails at step n: what was set before goes back. For systems that
 * tell what they hold. */
static inline void failing_nth_puts_back(const struct ka_policy *policy) {
    struct fake_row before[FAKE_ROWS];
    int nth, n;

    CHECK_EQ(ka_apply(FAKE_FD, policy, &out, &fault), 0);
    n = fake_count(FAKE_SET);
    CHECK(n > 0);
    for (nth = 0; nth < n; nth++) {
        fake_reset();
        memcpy(before, fake.socket[0].row, sizeof before);
        fake.fail_set = UINT64_C(1) << nth;
        fake.fail_err = EPERM;
        CHECK_EQ(ka_apply(FAKE_FD, policy, &out, &fault), -EPERM);
        CHECK_EQ(fault.setting, 1);
        CHECK_EQ(fake_count(FAKE_SET), 2 * nth + 1);
        CHECK(memcmp(before, fake.socket[0].row, sizeof before) == 0);
    }
}

/* ---- a look ------------------------------------------------------------- */

static struct ka_pending look(int in_eof, int out_eof, int error,
                              int64_t data) {
    struct ka_pending pending;
    struct fake_socket *socket = &fake.socket[0];

    memset(&pending, 0xa5, sizeof pending);
    socket->in_eof = in_eof;
    socket->out_eof = out_eof;
    socket->error = error;
    socket->data = data;
    fake_forget();
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK_EQ(pending.fin, 0);
    CHECK_EQ(fake_count(FAKE_KQUEUE), 1);
    CHECK_EQ(fake_count(FAKE_CLOSE), 1);
    return pending;
}

#define PENDING(seen, error_, hangup_, rdhup_, code_, unread_)         \
    (CHECK_EQ((seen).error, error_), CHECK_EQ((seen).hangup, hangup_), \
     CHECK_EQ((seen).rdhup, rdhup_), CHECK_EQ((seen).code, code_),     \
     CHECK_EQ((seen).unread, unread_))

static void pictures_of_a_kqueue(void) {
    struct ka_pending seen = look(0, 0, 0, 0);

    PENDING(seen, 0, 0, 0, 0, 0); /* open */
    seen = look(0, 0, 0, 17);
    PENDING(seen, 0, 0, 0, 0, 17); /* unread */
    seen = look(1, 0, 0, 0);
    PENDING(seen, 0, 0, 1, 0, 0); /* FIN */
    seen = look(1, 0, 0, 5);
    PENDING(seen, 0, 0, 1, 0, 5); /* FIN behind bytes */
    seen = look(0, 1, 0, 0);
    PENDING(seen, 0, 0, 0, 0, 0); /* our own end */
    seen = look(1, 1, 0, 0);
    PENDING(seen, 0, 1, 1, 0, 0); /* both, or the error has been read */
    seen = look(1, 1, ECONNRESET, 0);
    PENDING(seen, 1, 1, 1, ECONNRESET, 0);
    seen = look(1, 1, ETIMEDOUT, 9);
    PENDING(seen, 1, 1, 1, ETIMEDOUT, 9);
    fake.socket[0].listening = 1;
    seen = look(0, 0, 0, 3);
    PENDING(seen, 0, 0, 0, 0, 0); /* three in the backlog */
}

static void a_look_that_fails(void) {
    struct ka_pending pending;

    fake.interrupts = 2;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), 0);
    CHECK_EQ(fake_count(FAKE_KEVENT), 3);
    fake.kqueue_err = EMFILE;
    CHECK_EQ(ka_pending(FAKE_FD, &pending), -EMFILE);
    fake_forget();
    fake.kqueue_err = 0;
    CHECK_EQ(ka_pending(FAKE_FD + 1, &pending), -EBADF);
    CHECK_EQ(fake_count(FAKE_CLOSE), 1);
}

/* ---- TCP_INFO ----------------------------------------------------------- */

static void states_are_mapped(void) {
    static const int want[] = {
        KA_TCP_CLOSE,     KA_TCP_LISTEN,      KA_TCP_SYN_SENT,
        KA_TCP_SYN_RECV,  KA_TCP_ESTABLISHED, KA_TCP_CLOSE_WAIT,
        KA_TCP_FIN_WAIT1, KA_TCP_CLOSING,     KA_TCP_LAST_ACK,
        KA_TCP_FIN_WAIT2, KA_TCP_TIME_WAIT,   -1};
    size_t i;

    for (i = 0; i < sizeof want / sizeof want[0]; i++) {
        fake.socket[0].info[0] = (unsigned char)i;
        CHECK_EQ(info_now().state, want[i]);
    }
    fake.socket[0].info[0] = 255;
    CHECK_EQ(info_now().state, -1);
}

/* An older kernel gives less; what it does not give is not told. */
static void every_length_is_decoded(void) {
    struct ka_info full, part;
    const int64_t *whole = (const int64_t *)(const void *)&full;
    const int64_t *some = (const int64_t *)(const void *)&part;
    uint32_t size;
    size_t i;

    memset(fake.socket[0].info + 1, 1, sizeof fake.socket[0].info - 1);
    fake.socket[0].queued = -1; /* not of this struct, where asked for */
    full = info_now();
    for (size = 1; size < fake_system.info_size; size++) {
        fake.socket[0].info_size = size;
        part = info_now();
        for (i = 0; i < sizeof full / sizeof *whole; i++)
            CHECK(some[i] == whole[i] || some[i] == -1);
    }
    fake.socket[0].info_size = 1;
    part = info_now();
    CHECK_EQ(part.state, KA_TCP_ESTABLISHED);
    for (i = 1; i < sizeof full / sizeof *whole; i++)
        CHECK_EQ(some[i], -1);
    fake.socket[0].info_size = 0;
    CHECK_EQ(ka_info(FAKE_FD, &part), -EOPNOTSUPP);
    fake.socket[0].info_size = FAKE_BYTES; /* newer than we are */
    CHECK_EQ(info_now().total_retrans, full.total_retrans);
}

static struct ka_verdict checked(int want) {
    struct ka_verdict verdict;

    memset(&verdict, 0, sizeof verdict);
    CHECK_EQ(ka_check(FAKE_FD, &verdict), want);
    return verdict;
}

static void what_was_never_connected(void) {
    fake.socket[0].info[0] = 1;
    checked(-EOPNOTSUPP); /* listens */
    fake.socket[0].info[0] = 0;
    memset(&fake.socket[0].peer, 0, sizeof fake.socket[0].peer);
    checked(-ENOTCONN);
}

static void ends_are_told_by_the_error_that_stays(void) {
    static const struct {
        int error, state, reason, err;
    } rows[] = {
        {ECONNRESET, KA_RESET, KA_WHY_RST, ECONNRESET},
        {ETIMEDOUT, KA_DEAD, KA_WHY_TIMED_OUT, ETIMEDOUT},
        {EHOSTUNREACH, KA_DEAD, KA_WHY_TIMED_OUT, EHOSTUNREACH},
        {0, KA_PEER_CLOSED, KA_WHY_CLOSED, 0},
    };
    struct ka_witness witness;
    struct ka_verdict verdict;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fake_reset();
        CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
        fake_end(&fake.socket[0], rows[i].error);
        verdict = checked(0);
        CHECK_EQ(verdict.state, rows[i].state);
        CHECK_EQ(verdict.reason, rows[i].reason);
        CHECK_EQ(verdict.err, rows[i].err);
        CHECK_EQ(ka_witness_look(&witness, 0, 900, &verdict), 0);
        CHECK_EQ(verdict.state, rows[i].state);
        CHECK_EQ(fake.socket[0].error, rows[i].error);
    }
}

static void an_ended_one_has_no_identity(void) {
    uint64_t identity;

    fake_end(&fake.socket[0], ECONNRESET);
    CHECK_EQ(ka_identify(FAKE_FD, &identity), -ENOTCONN);
    fake.socket[0].gone = 0; /* its control block stays, the peer is gone */
    memset(&fake.socket[0].peer, 0, sizeof fake.socket[0].peer);
    CHECK_EQ(ka_identify(FAKE_FD, &identity), -ENOTCONN);
}

static void another_connection_is_not_taken_for_it(void) {
    struct ka_witness witness;
    struct ka_verdict verdict;

    CHECK_EQ(ka_witness_begin(&witness, FAKE_FD, 0, &verdict), 0);
    fake_peer(&fake.socket[0], AF_INET, 4001);
    CHECK_EQ(ka_witness_look(&witness, 0, 900, &verdict), -EBADF);
}

static void a_fin_is_told(void) {
    fake.socket[0].info[0] = 5;
    fake.socket[0].in_eof = 1;
    fake.socket[0].data = 7;
    CHECK_EQ(checked(0).state, KA_PEER_CLOSED);
    CHECK_EQ(checked(0).unread, 7);
}

/* What waits, is sent and acknowledged between the two looks is in neither
 * when the numbers are read first. */
static void the_send_buffer_is_looked_at_before_the_numbers(void) {
    int i, looked = 0;

    fake_forget();
    (void)info_now();
    for (i = 0; i < fake.calls; i++)
        if (fake.call[i].op == FAKE_IOCTL)
            looked = 1;
        else if (fake.call[i].op == FAKE_GET &&
                 fake.call[i].number == fake_system.info_number)
            CHECK(looked || !fake_system.queue);
    CHECK_EQ(looked, fake_system.queue != 0);
}

static inline void bsd_cases(void) {
    test.before = fake_reset;
    test.after = bsd_verify;
    RUN(the_send_buffer_is_looked_at_before_the_numbers);
    RUN(what_is_not_tcp_is_refused);
    RUN(a_closed_descriptor_is_told);
    RUN(its_kind);
    RUN(identity_is_both_ends);
    RUN(on_is_1_though_the_kernel_says_8);
    RUN(out_of_range_never_reaches_the_kernel);
    RUN_FORKED(what_there_is_is_found_and_remembered);
    RUN(the_order_names_each_once);
    RUN(pictures_of_a_kqueue);
    RUN(a_look_that_fails);
    RUN(states_are_mapped);
    RUN(every_length_is_decoded);
    RUN(what_was_never_connected);
    RUN(ends_are_told_by_the_error_that_stays);
    RUN(an_ended_one_has_no_identity);
    RUN(another_connection_is_not_taken_for_it);
    RUN(a_fin_is_told);
}

#endif

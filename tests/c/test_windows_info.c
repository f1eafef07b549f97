/* What Windows says of a connection: TCP_INFO, WSAPoll, the kind of a socket,
 * its number, and what check() makes of it. */
#include "windows_fixture.h"

static struct ka_info info;
static struct ka_verdict verdict;

static void put_32(int offset, uint32_t value) {
    memcpy(fake.info + offset, &value, sizeof value);
}

static void put_64(int offset, uint64_t value) {
    memcpy(fake.info + offset, &value, sizeof value);
}

/* Every field of v0 by its offset, each with a number of its own. */
static void fill(uint32_t state) {
    memset(fake.info, 0, sizeof fake.info);
    put_32(0, state);
    put_32(4, 1460); /* Mss */
    put_64(8, 123456);
    fake.info[16] = 1;
    put_32(20, 30500); /* RttUs */
    put_32(24, 20100); /* MinRttUs */
    put_32(28, 2921);  /* BytesInFlight */
    put_32(32, 14600);
    put_32(36, 65535); /* SndWnd */
    put_32(40, 65536);
    put_32(44, 65537);
    put_64(48, UINT64_C(5000000001)); /* BytesOut */
    put_64(56, UINT64_C(6000000001)); /* BytesIn */
    put_32(64, 9);
    put_32(68, 4380); /* BytesRetrans */
    put_32(72, 2);
    put_32(76, 3);
    put_32(80, 7); /* TimeoutEpisodes */
}

static void the_fields_that_there_are(void) {
    int version;

    for (version = 0; version < 2; version++) {
        on_newest();
        fake.info_version = version;
        fill(4);
        CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
        CHECK_EQ(info.state, KA_TCP_ESTABLISHED);
        CHECK_EQ(info.rtt_us, 30500);
        CHECK_EQ(info.min_rtt_us, 20100);
        CHECK_EQ(info.unacked, 3); /* of 2 * 1460 + 1 bytes */
        CHECK_EQ(info.snd_wnd, 65535);
        CHECK_EQ(info.bytes_sent, 5000000001);
        CHECK_EQ(info.bytes_received, 6000000001);
        CHECK_EQ(info.bytes_retrans, 4380);
        CHECK_EQ(info.segs_in, -1);
        CHECK_EQ(info.segs_out, -1);
        CHECK_EQ(info.probes, -1);
        CHECK_EQ(info.retransmits, -1);
        CHECK_EQ(info.total_retrans, -1);
        CHECK_EQ(info.last_ack_recv_ms, -1);
        CHECK_EQ(info.last_data_recv_ms, -1);
        CHECK_EQ(info.last_data_sent_ms, -1);
        CHECK_EQ(info.notsent_bytes, -1); /* some is in flight */
    }
}

static void segments_in_flight_are_rounded_up(void) {
    static const uint32_t cases[][3] = {
        {0, 1460, 0},    {1, 1460, 1}, {1460, 1460, 1},
        {1461, 1460, 2}, {5, 0, 5},    {UINT32_MAX, 1, UINT32_MAX}};
    size_t i;

    on_newest();
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill(4);
        put_32(28, cases[i][0]);
        put_32(4, cases[i][1]);
        CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
        CHECK_EQ(info.unacked, cases[i][2]);
    }
}

static void nothing_waits_when_it_had_room(void) {
    static const uint32_t cases[][3] = {/* in flight, window, waiting */
                                        {0, 65535, 0},
                                        {0, 1460, 0},
                                        {0, 1459, UINT32_MAX},
                                        {0, 0, UINT32_MAX},
                                        {1, 65535, UINT32_MAX}};
    size_t i;

    on_newest();
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill(4);
        put_32(28, cases[i][0]);
        put_32(36, cases[i][1]);
        CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
        CHECK_EQ(info.notsent_bytes, (int32_t)cases[i][2]);
    }
}

static void states_have_our_numbers(void) {
    static const int ours[] = {-1,
                               KA_TCP_LISTEN,
                               KA_TCP_SYN_SENT,
                               KA_TCP_SYN_RECV,
                               KA_TCP_ESTABLISHED,
                               KA_TCP_FIN_WAIT1,
                               KA_TCP_FIN_WAIT2,
                               KA_TCP_CLOSE_WAIT,
                               KA_TCP_CLOSING,
                               KA_TCP_LAST_ACK,
                               KA_TCP_TIME_WAIT,
                               -1};
    uint32_t state;

    on_newest();
    for (state = 0; state < 12; state++) {
        fill(state);
        CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
        CHECK_EQ(info.state, ours[state]);
    }
}

static void without_tcp_info_the_state_is_not_told(void) {
    on_old();
    CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
    CHECK_EQ(info.state, -1);
    CHECK_EQ(info.bytes_received, -1);
    CHECK_EQ(info.snd_wnd, -1);
}

static void what_is_no_connection_is_told_apart(void) {
    void (*const systems[])(void) = {on_newest, on_old};
    size_t i;

    for (i = 0; i < 2; i++) {
        systems[i]();
        fake.info_version = -1;
        fake.connected = 0;
        CHECK_EQ(ka_info(FAKE_SOCK, &info), -ENOTCONN);
        CHECK_EQ(ka_check(FAKE_SOCK, &verdict), -ENOTCONN);
        fake.revents = POLLERR; /* a connect that failed */
        CHECK_EQ(ka_info(FAKE_SOCK, &info), 0);
        fake.revents = 0;
        fake.listening = 1;
        CHECK_EQ(ka_check(FAKE_SOCK, &verdict), -EOPNOTSUPP);
        fake.listening = 0;
        fake.protocol = IPPROTO_UDP;
        fake.connected = 1;
        CHECK_EQ(ka_check(FAKE_SOCK, &verdict), -ENOPROTOOPT);
        fake.closed = 1;
        CHECK_EQ(ka_check(FAKE_SOCK, &verdict), -EBADF);
    }
    on_newest();
    fill(0); /* closed, and never anything else */
    fake.connected = 0;
    CHECK_EQ(ka_check(FAKE_SOCK, &verdict), -ENOTCONN);
}

static void pending(int revents, uint32_t unread, struct ka_pending *found) {
    fake.revents = revents;
    fake.unread = unread;
    CHECK_EQ(ka_pending(FAKE_SOCK, found), 0);
    CHECK_EQ(found->code, 0);
    CHECK_EQ(found->fin, 0);
}

static void what_poll_shows(void) {
    struct ka_pending found;

    on_newest();
    pending(0, 99, &found);
    CHECK(!found.error && !found.hangup && !found.rdhup);
    CHECK_EQ(found.unread, 0);
    pending(POLLRDNORM, 5, &found);
    CHECK(!found.error && !found.hangup && !found.rdhup);
    CHECK_EQ(found.unread, 5);
    pending(POLLRDNORM | POLLHUP, 5, &found); /* the end behind data */
    CHECK(!found.error && !found.hangup && found.rdhup);
    CHECK_EQ(found.unread, 5);
    pending(POLLHUP | POLLERR, 0, &found);
    CHECK(found.error && found.hangup && found.rdhup);
    pending(POLLERR, 0, &found);
    CHECK(found.error && !found.hangup && !found.rdhup);
    fake.listening = 1;
    pending(POLLRDNORM, 5, &found); /* somebody waits to be accepted */
    CHECK_EQ(found.unread, 0);
    fake.revents = POLLNVAL;
    CHECK_EQ(ka_pending(FAKE_SOCK, &found), -EBADF);
    fake.closed = 1;
    CHECK_EQ(ka_pending(FAKE_SOCK, &found), -EBADF);
}

static void judged(int revents, int state, int reason, int line) {
    char text[80];

    fake.revents = revents;
    CHECK_EQ(ka_check(FAKE_SOCK, &verdict), 0);
    snprintf(text, sizeof text, "line %d: %d by %d", line, verdict.state,
             verdict.reason);
    test_check(verdict.state == state && verdict.reason == reason, __FILE__,
               __LINE__, text);
    CHECK_EQ(verdict.heard_ms, -1);
}
#define JUDGED(revents, state, reason) judged(revents, state, reason, __LINE__)

static void verdicts_with_tcp_info(void) {
    on_newest();
    fill(4);
    JUDGED(0, KA_OPEN, KA_WHY_QUIET);
    JUDGED(POLLRDNORM, KA_OPEN, KA_WHY_QUIET);
    fill(7);
    JUDGED(POLLHUP, KA_PEER_CLOSED, KA_WHY_FIN);
    JUDGED(0, KA_PEER_CLOSED, KA_WHY_FIN);
    fill(2);
    JUDGED(0, KA_OPEN, KA_WHY_CONNECTING);
    fill(0);
    JUDGED(POLLHUP | POLLERR, KA_DEAD, KA_WHY_RST_OR_TIMEOUT);
    JUDGED(POLLHUP, KA_PEER_CLOSED, KA_WHY_FIN);
}

static void verdicts_without(void) {
    on_old();
    JUDGED(0, KA_OPEN, KA_WHY_QUIET);
    JUDGED(POLLRDNORM, KA_OPEN, KA_WHY_QUIET);
    JUDGED(POLLHUP, KA_PEER_CLOSED, KA_WHY_FIN);
    JUDGED(POLLHUP | POLLRDNORM, KA_PEER_CLOSED, KA_WHY_FIN);
    JUDGED(POLLHUP | POLLERR, KA_DEAD, KA_WHY_RST_OR_TIMEOUT);
    fake.connected = 0;
    JUDGED(POLLERR, KA_DEAD, KA_WHY_RST_OR_TIMEOUT);
}

static void a_witness_says_that_nothing_would_show(void) {
    struct ka_witness witness;

    on_newest();
    fill(4);
    CHECK_EQ(ka_witness_begin(&witness, FAKE_SOCK, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_UNKNOWN);
    CHECK_EQ(verdict.reason, KA_WHY_CANNOT_TELL);
    fill(0);
    fake.revents = POLLHUP | POLLERR;
    CHECK_EQ(ka_witness_look(&witness, 0, 500, &verdict), 0);
    CHECK_EQ(verdict.state, KA_DEAD);
    fake.connected = 0; /* its name went with it */
    CHECK_EQ(ka_witness_look(&witness, 0, 600, &verdict), 0);
    CHECK_EQ(verdict.state, KA_DEAD);
    fake.revents = 0; /* the number means another socket now */
    CHECK_EQ(ka_witness_look(&witness, 0, 700, &verdict), -EBADF);
}

static void kinds(void) {
    struct ka_kind kind;

    on_newest();
    CHECK_EQ(ka_kind(FAKE_SOCK, &kind), 0);
    CHECK_EQ(kind.family, 2);
    CHECK_EQ(kind.type, 1);
    CHECK_EQ(kind.protocol, 6);
    CHECK_EQ(kind.listening, 0);
    fake.listening = 1;
    fake.family = 23;
    CHECK_EQ(ka_kind(FAKE_SOCK, &kind), 0);
    CHECK_EQ(kind.listening, 1);
    CHECK_EQ(kind.family, 23);
    fake.type = SOCK_DGRAM;
    fake.protocol = IPPROTO_UDP;
    CHECK_EQ(ka_kind(FAKE_SOCK, &kind), 0);
    CHECK_EQ(kind.protocol, 17);
    CHECK_EQ(kind.listening, 0);
    fake.closed = 1;
    CHECK_EQ(ka_kind(FAKE_SOCK, &kind), -EBADF);
}

static void numbers_follow_the_two_ends(void) {
    uint64_t a = 0, b = 0;

    on_newest();
    CHECK_EQ(ka_identify(FAKE_SOCK, &a), 0);
    CHECK_EQ(ka_identify(FAKE_SOCK, &b), 0);
    CHECK(a == b && a != 0);
    fake.connected = 0;
    CHECK_EQ(ka_identify(FAKE_SOCK, &b), 0);
    CHECK(a != b && b != 0);
    fake.named = 0;
    CHECK_EQ(ka_identify(FAKE_SOCK, &a), 0);
    CHECK(a != b && a != 0);
    fake.named = 1;
    fake.revents = POLLHUP; /* it has had a peer */
    CHECK_EQ(ka_identify(FAKE_SOCK, &a), -ENOTCONN);
    fake.closed = 1;
    CHECK_EQ(ka_identify(FAKE_SOCK, &a), -EBADF);
}

static void every_error_has_an_errno(void) {
    CHECK_EQ(ka_errno_of(0), 0);
    CHECK_EQ(ka_errno_of(WSAENOTSOCK), EBADF);
    CHECK_EQ(ka_errno_of(WSAENETRESET), ENETRESET);
    CHECK_EQ(ka_errno_of(WSAENOTCONN), ENOTCONN);
    CHECK_EQ(ka_errno_of(31337), EIO);
    fake.last_error = 0;
    CHECK_EQ(ka_winsock_failed(), -EIO);
}

int main(void) {
    RUN(the_fields_that_there_are);
    RUN(segments_in_flight_are_rounded_up);
    RUN(nothing_waits_when_it_had_room);
    RUN(states_have_our_numbers);
    RUN(without_tcp_info_the_state_is_not_told);
    RUN(what_is_no_connection_is_told_apart);
    RUN(what_poll_shows);
    RUN(verdicts_with_tcp_info);
    RUN(verdicts_without);
    RUN(a_witness_says_that_nothing_would_show);
    RUN(kinds);
    RUN(numbers_follow_the_two_ends);
    RUN(every_error_has_an_errno);
    return test_report("windows_info");
}

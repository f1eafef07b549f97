/* Options, kinds, numbers and verdicts of real sockets of Windows. What this
 * Windows lacks is left out: the fake has it. */
#include "windows_net.h"
#include "test.h"

#include "autotune.h"
#include "sockopt.h"
#include "../../ext/binding/audit.h"

static struct ka_fault fault;
static struct ka_policy out, again;
static struct ka_verdict verdict;
static struct ka_pending pending;

static int32_t keepalive(SOCKET sock) {
    int on = 0, size = sizeof on;

    net_need(
        getsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, (char *)&on, &size) == 0,
        "SO_KEEPALIVE");
    return on != 0;
}

/* Until it shows, for what arrives a moment later. */
static int await(SOCKET sock, int state) {
    int tries, rc = 0;

    for (tries = 0; tries < 200; tries++) {
        rc = ka_check(sock, &verdict);
        if (rc < 0 || verdict.state == state)
            break;
        Sleep(10);
    }
    return rc;
}

static int readable(int option) {
    struct ends ends = net_pair(AF_INET);
    int32_t value = KA_UNREADABLE;

    (void)ka_get(ends.our, option, &value);
    net_close(&ends);
    return value != KA_UNREADABLE;
}

static void a_policy_is_applied(void) {
    static const int families[] = {AF_INET, AF_INET6};
    const struct ka_policy wish = {{1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    size_t i;

    for (i = 0; i < 2; i++) {
        struct ends ends = net_pair(families[i]);

        CHECK_EQ(keepalive(ends.our), 0);
        CHECK_EQ(ka_apply(ends.our, &wish, &out, &fault), 0);
        CHECK(memcmp(out.value, wish.value, 4 * sizeof out.value[0]) == 0);
        CHECK_EQ(keepalive(ends.our), 1);
        CHECK_EQ(keepalive(ends.their), 0);
        CHECK_EQ(ka_read(ends.our, &again, &fault), 0);
        CHECK_EQ(again.value[KA_ENABLED], 1);
        CHECK_EQ(again.value[KA_IDLE], readable(KA_IDLE) ? 30 : KA_UNREADABLE);
        CHECK_EQ(again.value[KA_RTO_MAX], KA_LEAVE);
        CHECK_EQ(ka_check(ends.our, &verdict), 0);
        CHECK_EQ(verdict.state, KA_OPEN);
        net_close(&ends);
    }
}

static void off_is_off(void) {
    const struct ka_policy on = {{1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    const struct ka_policy off = {
        {0, KA_LEAVE, KA_LEAVE, KA_LEAVE, KA_LEAVE, KA_LEAVE}};
    const struct ka_policy times = {
        {KA_LEAVE, 40, 20, KA_LEAVE, KA_LEAVE, KA_LEAVE}};
    struct ends ends = net_pair(AF_INET);

    CHECK_EQ(ka_apply_fresh(ends.our, &on, &fault), 0);
    CHECK_EQ(ka_apply(ends.our, &off, &out, &fault), 0);
    CHECK_EQ(keepalive(ends.our), 0);
    CHECK_EQ(ka_apply(ends.our, &times, &out, &fault), 0);
    CHECK_EQ(keepalive(ends.our), 0);
    CHECK_EQ(out.value[KA_IDLE], 40);
    CHECK_EQ(ka_os_put_back(ends.our, KA_IDLE,
                            readable(KA_IDLE) ? 7200 : KA_UNREADABLE),
             0);
    CHECK_EQ(keepalive(ends.our), 0);
    net_close(&ends);
}

static void half_a_pair_is_refused(void) {
    const struct ka_policy half = {
        {1, 30, KA_LEAVE, KA_LEAVE, KA_LEAVE, KA_LEAVE}};
    struct ends ends = net_pair(AF_INET);

    if (!readable(KA_IDLE)) {
        CHECK_EQ(ka_apply(ends.our, &half, &out, &fault), -ENOPROTOOPT);
        CHECK_EQ(fault.option, KA_IDLE);
        CHECK_EQ(keepalive(ends.our), 0);
    } else {
        CHECK_EQ(ka_apply(ends.our, &half, &out, &fault), 0);
    }
    net_close(&ends);
}

static void the_user_timeout_is_there_or_refused(void) {
    const struct ka_policy wish = {{1, 30, 10, 4, 5500, KA_LEAVE}};
    struct ends ends = net_pair(AF_INET);
    int rc = ka_apply(ends.our, &wish, &out, &fault);

    if (ka_supported() >> KA_USER_TIMEOUT & 1) {
        CHECK_EQ(rc, 0);
        CHECK(out.value[KA_USER_TIMEOUT] >= 5500);
        CHECK_EQ(ka_set(ends.our, KA_USER_TIMEOUT, 0), 0);
        CHECK_EQ(ka_read(ends.our, &again, &fault), 0);
        CHECK_EQ(again.value[KA_USER_TIMEOUT], 0);
    } else {
        CHECK_EQ(rc, -ENOPROTOOPT);
        CHECK_EQ(fault.option, KA_USER_TIMEOUT);
        CHECK_EQ(keepalive(ends.our), 0);
    }
    net_close(&ends);
}

static void unconnected_and_listening_sockets_are_tuned(void) {
    const struct ka_policy wish = {{1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    SOCKET fresh = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    struct sockaddr_storage address;
    int size;
    SOCKET listener = net_listen(AF_INET, &address, &size);
    struct ends ends;

    CHECK_EQ(ka_apply(fresh, &wish, &out, &fault), 0);
    CHECK_EQ(keepalive(fresh), 1);
    CHECK_EQ(ka_check(fresh, &verdict), -ENOTCONN);
    CHECK_EQ(ka_apply(listener, &wish, &out, &fault), 0);
    CHECK_EQ(ka_check(listener, &verdict), -EOPNOTSUPP);
    ends = net_connect(listener, &address, size);
    CHECK_EQ(keepalive(ends.their), 1); /* inherited */
    net_close(&ends);
    closesocket(fresh);
    closesocket(listener);
}

static void what_is_no_tcp_socket_is_refused(void) {
    const struct ka_policy wish = {{1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    SOCKET sock = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    int rc = ka_apply(sock, &wish, &out, &fault);

    CHECK_EQ(rc, -ENOPROTOOPT);
    CHECK_EQ(ka_check(sock, &verdict), -ENOPROTOOPT);
    closesocket(sock);
    CHECK_EQ(ka_apply(sock, &wish, &out, &fault), -EBADF);
    CHECK_EQ(ka_check(sock, &verdict), -EBADF);
    CHECK_EQ(ka_pending(sock, &pending), -EBADF);
    CHECK_EQ(ka_check((ka_sock)INVALID_SOCKET, &verdict), -EBADF);
}

static void kinds(void) {
    struct sockaddr_storage address;
    int size;
    SOCKET listener = net_listen(AF_INET6, &address, &size);
    SOCKET datagrams = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    struct ka_kind kind;

    CHECK_EQ(ka_kind(listener, &kind), 0);
    CHECK_EQ(kind.family, AF_INET6);
    CHECK_EQ(kind.type, SOCK_STREAM);
    CHECK_EQ(kind.protocol, IPPROTO_TCP);
    CHECK_EQ(kind.listening, 1);
    CHECK_EQ(ka_kind(datagrams, &kind), 0);
    CHECK_EQ(kind.family, AF_INET);
    CHECK_EQ(kind.protocol, IPPROTO_UDP);
    CHECK_EQ(kind.listening, 0);
    closesocket(listener);
    closesocket(datagrams);
}

static void waiting_bytes_are_counted_and_left(void) {
    struct ends ends = net_pair(AF_INET);
    char buffer[16];
    int tries;

    CHECK_EQ(send(ends.their, "hello", 5, 0), 5);
    for (tries = 0; tries < 200; tries++) {
        CHECK_EQ(ka_pending(ends.our, &pending), 0);
        if (pending.unread == 5)
            break;
        Sleep(10);
    }
    CHECK_EQ(pending.unread, 5);
    CHECK(!pending.error && !pending.hangup && !pending.rdhup);
    CHECK_EQ(ka_check(ends.our, &verdict), 0);
    CHECK_EQ(verdict.state, KA_OPEN);
    CHECK_EQ(verdict.unread, 5);
    CHECK_EQ(recv(ends.our, buffer, sizeof buffer, 0), 5);
    net_close(&ends);
}

static void a_fin_is_seen_and_left(void) {
    struct ends ends = net_pair(AF_INET);
    char byte;

    shutdown(ends.their, SD_SEND);
    CHECK_EQ(await(ends.our, KA_PEER_CLOSED), 0);
    CHECK_EQ(verdict.state, KA_PEER_CLOSED);
    CHECK_EQ(verdict.reason, KA_WHY_FIN);
    CHECK_EQ(ka_check(ends.their, &verdict), 0);
    CHECK_EQ(verdict.state, KA_OPEN); /* our own shutdown is no end */
    CHECK_EQ(recv(ends.our, &byte, 1, 0), 0);
    CHECK_EQ(send(ends.our, "x", 1, 0), 1);
    net_close(&ends);
}

/* wine 8 shows it only when the data has been read. */
static void a_fin_behind_data(void) {
    struct ends ends = net_pair(AF_INET);
    char buffer[16];

    CHECK_EQ(send(ends.their, "hello", 5, 0), 5);
    closesocket(ends.their);
    Sleep(100);
    CHECK_EQ(ka_check(ends.our, &verdict), 0);
    CHECK(verdict.state == KA_PEER_CLOSED || verdict.state == KA_OPEN);
    CHECK_EQ(verdict.unread, 5);
    CHECK_EQ(recv(ends.our, buffer, sizeof buffer, 0), 5);
    CHECK_EQ(await(ends.our, KA_PEER_CLOSED), 0);
    CHECK_EQ(verdict.state, KA_PEER_CLOSED);
    closesocket(ends.our);
}

static void our_own_shutdown_shows_nothing(void) {
    struct ends ends = net_pair(AF_INET);

    shutdown(ends.our, SD_BOTH);
    Sleep(50);
    CHECK_EQ(ka_check(ends.our, &verdict), 0);
    CHECK_EQ(verdict.state, KA_OPEN);
    net_close(&ends);
}

static void a_reset_is_seen_and_the_error_left(void) {
    struct ends ends = net_pair(AF_INET), untouched = net_pair(AF_INET);
    uint64_t before = 0, after = 0;
    int i, rc;
    char byte = 'x';

    CHECK_EQ(ka_identify(ends.our, &before), 0);
    net_reset(ends.their);
    CHECK_EQ(await(ends.our, KA_DEAD), 0);
    for (i = 0; i < 3; i++) {
        CHECK_EQ(ka_check(ends.our, &verdict), 0);
        CHECK_EQ(verdict.state, KA_DEAD);
        CHECK_EQ(verdict.reason, KA_WHY_RST_OR_TIMEOUT);
    }
    rc = ka_identify(ends.our, &after);
    CHECK(rc == -ENOTCONN || (rc == 0 && before == after));
    net_reset(untouched.their);
    Sleep(100);
    CHECK_EQ(recv(ends.our, &byte, 1, 0), recv(untouched.our, &byte, 1, 0));
    CHECK_EQ(send(ends.our, &byte, 1, 0), send(untouched.our, &byte, 1, 0));
    CHECK_EQ(WSAGetLastError(), WSAECONNRESET);
    closesocket(ends.our);
    closesocket(untouched.our);
}

static void an_end_both_ways_is_an_end(void) {
    struct ends ends = net_pair(AF_INET);
    struct ka_witness witness;

    CHECK_EQ(ka_witness_begin(&witness, ends.our, 0, &verdict), 0);
    shutdown(ends.our, SD_SEND);
    shutdown(ends.their, SD_SEND);
    closesocket(ends.their);
    CHECK_EQ(await(ends.our, KA_PEER_CLOSED), 0);
    CHECK_EQ(verdict.state, KA_PEER_CLOSED);
    CHECK_EQ(ka_witness_look(&witness, 0, 100, &verdict), 0);
    CHECK_EQ(verdict.state, KA_PEER_CLOSED);
    closesocket(ends.our);
}

static void a_refused_connect_is_no_connection(void) {
    struct sockaddr_in nobody = net_nobody();
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    int tries, rc = 0;

    net_nonblocking(sock);
    CHECK_EQ(connect(sock, (struct sockaddr *)&nobody, sizeof nobody), -1);
    for (tries = 0; tries < 500; tries++) {
        rc = ka_check(sock, &verdict);
        if (rc == 0 && verdict.state != KA_OPEN)
            break;
        Sleep(10);
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(verdict.state, KA_DEAD);
    closesocket(sock);
}

static void numbers(void) {
    struct ends one = net_pair(AF_INET), two = net_pair(AF_INET);
    SOCKET same;
    WSAPROTOCOL_INFOW shared;
    uint64_t a = 0, b = 0, c = 0, d = 0;

    CHECK_EQ(ka_identify(one.our, &a), 0);
    CHECK_EQ(ka_identify(one.our, &b), 0);
    CHECK(a == b && a != 0);
    CHECK_EQ(ka_identify(two.our, &c), 0);
    CHECK_EQ(ka_identify(one.their, &d), 0);
    CHECK(a != c && a != d);
    CHECK_EQ(WSADuplicateSocketW(one.our, GetCurrentProcessId(), &shared), 0);
    same = WSASocketW(FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO,
                      FROM_PROTOCOL_INFO, &shared, 0, WSA_FLAG_OVERLAPPED);
    CHECK(same != INVALID_SOCKET);
    CHECK_EQ(ka_identify(same, &b), 0);
    CHECK(a == b);
    closesocket(same);
    net_close(&one);
    net_close(&two);
}

static void a_witness_cannot_tell(void) {
    struct ends ends = net_pair(AF_INET);
    struct ka_witness witness;
    struct ka_question question;

    CHECK_EQ(ka_witness_begin(&witness, ends.our, 0, &verdict), 0);
    CHECK_EQ(verdict.state, KA_UNKNOWN);
    CHECK_EQ(verdict.reason, KA_WHY_CANNOT_TELL);
    ka_question_begin(&question, ends.our, witness.identity);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), -ENOPROTOOPT);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(keepalive(ends.our), 0);
    net_reset(ends.their);
    CHECK_EQ(await(ends.our, KA_DEAD), 0);
    CHECK_EQ(ka_witness_look(&witness, 0, 100, &verdict), 0);
    CHECK_EQ(verdict.state, KA_DEAD);
    closesocket(ends.our);
}

static void a_rule_tunes_what_is_bound(void) {
    const struct ka_policy policy = {{1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    const struct ka_policy own = {{1, 90, 9, KA_LEAVE, KA_LEAVE, KA_LEAVE}};
    struct ka_rule *rule = ka_rule_add(&policy, 1, 0);
    SOCKET fresh = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    SOCKET tuned = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    SOCKET datagrams = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    struct ka_policy usual;

    CHECK_EQ(ka_autotune(fresh, KA_AT_BIND), KA_UNLIKE);
    CHECK_EQ(ka_audit_fresh(&usual), 0);
    CHECK_EQ(usual.value[KA_ENABLED], 0);
    ka_autotune_fresh(&usual);
    CHECK_EQ(ka_autotune(fresh, KA_AT_BIND), KA_TUNED);
    CHECK_EQ(keepalive(fresh), 1);
    CHECK_EQ(ka_apply_fresh(tuned, &own, &fault), 0);
    CHECK_EQ(ka_autotune(tuned, KA_AT_BIND), KA_LEFT); /* its owner has */
    CHECK_EQ(ka_autotune(datagrams, KA_AT_BIND), KA_LEFT);
    CHECK_EQ(ka_rule_tuned(rule), 1);
    ka_rule_end(rule);
    closesocket(fresh);
    closesocket(tuned);
    closesocket(datagrams);
}

static void many_looks_cost_no_handle(void) {
    struct ends ends = net_pair(AF_INET);
    DWORD before = 0, after = 0;
    int i;

    CHECK_EQ(ka_check(ends.our, &verdict), 0);
    GetProcessHandleCount(GetCurrentProcess(), &before);
    for (i = 0; i < 300; i++)
        CHECK_EQ(ka_check(ends.our, &verdict), 0);
    GetProcessHandleCount(GetCurrentProcess(), &after);
    CHECK_EQ(after, before);
    net_close(&ends);
}

int main(void) {
    struct ka_range range;

    CHECK_EQ(ka_option_range(KA_IDLE, &range), 0);
    CHECK(ka_supported() != 0); /* before anybody has started Winsock */
    net_start();
    printf("supported: %#x, idle %s\n", ka_supported(),
           readable(KA_IDLE) ? "an option" : "of a pair");
    RUN(a_policy_is_applied);
    RUN(off_is_off);
    RUN(half_a_pair_is_refused);
    RUN(the_user_timeout_is_there_or_refused);
    RUN(unconnected_and_listening_sockets_are_tuned);
    RUN(what_is_no_tcp_socket_is_refused);
    RUN(kinds);
    RUN(waiting_bytes_are_counted_and_left);
    RUN(a_fin_is_seen_and_left);
    RUN(a_fin_behind_data);
    RUN(our_own_shutdown_shows_nothing);
    RUN(a_reset_is_seen_and_the_error_left);
    RUN(an_end_both_ways_is_an_end);
    RUN(a_refused_connect_is_no_connection);
    RUN(numbers);
    RUN(a_witness_cannot_tell);
    RUN(a_rule_tunes_what_is_bound);
    RUN(many_looks_cost_no_handle);
    return test_report("windows_sockets");
}

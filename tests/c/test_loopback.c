/* Options, kinds and identities of real sockets. */
#include "loop.h"
#include "test.h"

#include <sys/un.h>

static struct ka_fault fault;

static int has(int option) {
    return (ka_supported() >> option) & 1;
}

static void the_host_has_the_old_options(void) {
    unsigned old = 1u << KA_ENABLED | 1u << KA_IDLE | 1u << KA_INTERVAL |
                   1u << KA_COUNT | 1u << KA_USER_TIMEOUT;

    CHECK_EQ(ka_supported() & old, old);
}

static void each_option_is_set_and_read_back(void) {
    static const int32_t want[KA_OPTIONS] = {1, 31, 11, 4, 5500, 2500};
    struct pair pair = loop_pair();
    int32_t value;
    int option;

    for (option = 0; option < KA_OPTIONS; option++) {
        if (!has(option))
            continue;
        CHECK_EQ(ka_set(pair.near, option, want[option]), 0);
        CHECK_EQ(ka_get(pair.near, option, &value), 0);
        CHECK_EQ(value, want[option]);
    }
    loop_close(&pair);
}

static void both_ends_of_each_range(void) {
    struct pair pair = loop_pair();
    struct ka_range range;
    int32_t value;
    int option;

    for (option = KA_IDLE; option < KA_OPTIONS; option++) {
        if (!has(option))
            continue;
        CHECK_EQ(ka_option_range(option, &range), 0);
        CHECK_EQ(ka_set(pair.near, option, range.high), 0);
        CHECK_EQ(ka_get(pair.near, option, &value), 0);
        CHECK_EQ(value, range.high);
        CHECK_EQ(ka_set(pair.near, option, range.low), 0);
        CHECK_EQ(ka_set(pair.near, option, range.low - 1), -EINVAL);
        if (range.high < INT32_MAX)
            CHECK_EQ(ka_set(pair.near, option, range.high + 1), -EINVAL);
        CHECK_EQ(ka_get(pair.near, option, &value), 0);
        CHECK_EQ(value, range.low);
    }
    loop_close(&pair);
}

static void enabled_has_two_values(void) {
    struct pair pair = loop_pair();

    CHECK_EQ(ka_set(pair.near, KA_ENABLED, 2), -EINVAL);
    CHECK_EQ(ka_set(pair.near, KA_ENABLED, -1), -EINVAL);
    loop_close(&pair);
}

static void a_policy_is_applied_and_undone(void) {
    const struct ka_policy good = {{1, 30, 10, 3, 5000, KA_LEAVE}};
    const struct ka_policy bad = {{1, 32768, 20, 6, 9000, KA_LEAVE}};
    struct pair pair = loop_pair();
    struct ka_policy out, after;

    CHECK_EQ(ka_apply(pair.near, &good, &out, &fault), 0);
    CHECK(memcmp(out.value, good.value, 5 * sizeof(int32_t)) == 0);
    CHECK_EQ(ka_apply(pair.near, &bad, &after, &fault), -EINVAL);
    CHECK_EQ(fault.option, KA_IDLE);
    CHECK_EQ(fault.setting, 1);
    CHECK_EQ(ka_read(pair.near, &after, &fault), 0);
    CHECK(memcmp(&out, &after, sizeof out) == 0);
    CHECK_EQ(ka_apply_fresh(pair.far, &good, &fault), 0);
    CHECK_EQ(ka_read(pair.far, &after, &fault), 0);
    CHECK(memcmp(&out, &after, sizeof out) == 0);
    loop_close(&pair);
}

static void accepted_sockets_inherit(void) {
    const struct ka_policy wish = {{1, 30, 10, 3, 5000, KA_LEAVE}};
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    struct ka_policy want, got;
    struct pair pair;

    CHECK_EQ(ka_apply(listener, &wish, &want, &fault), 0);
    pair = loop_connect(listener, &address);
    CHECK_EQ(ka_read(pair.far, &got, &fault), 0);
    CHECK(memcmp(&want, &got, sizeof got) == 0);
    loop_close(&pair);
    close(listener);
}

static int keepalive_of(int sock) {
    int on = -1;
    socklen_t size = sizeof on;

    getsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &on, &size);
    return on;
}

static void refuse(int sock) {
    const struct ka_policy wish = {{1, 30, 10, 3, 5000, KA_LEAVE}};
    struct ka_policy out;
    struct ka_verdict verdict;
    struct ka_witness witness;
    int rc = ka_apply(sock, &wish, &out, &fault);

    CHECK(rc == -ENOPROTOOPT || rc == -EOPNOTSUPP);
    CHECK_EQ(fault.setting, 0);
    CHECK_EQ(keepalive_of(sock), 0);
    rc = ka_check(sock, &verdict);
    CHECK(rc == -ENOPROTOOPT || rc == -EOPNOTSUPP);
    rc = ka_witness_begin(&witness, sock, 0, &verdict);
    CHECK(rc == -ENOPROTOOPT || rc == -EOPNOTSUPP);
    CHECK_EQ(keepalive_of(sock), 0);
}

static void udp_and_unix_are_refused_untouched(void) {
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    int unix_pair[2];
    struct ka_policy out;
    int pipes[2];

    refuse(udp);
    close(udp);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_pair), 0);
    refuse(unix_pair[0]);
    close(unix_pair[0]);
    close(unix_pair[1]);
    CHECK_EQ(pipe(pipes), 0);
    CHECK_EQ(ka_read(pipes[0], &out, &fault), -ENOTSOCK);
    close(pipes[0]);
    close(pipes[1]);
}

static void kinds(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    int udp = socket(AF_INET6, SOCK_DGRAM, 0);
    struct ka_kind kind;

    CHECK_EQ(ka_kind(listener, &kind), 0);
    CHECK(kind.family == AF_INET && kind.type == SOCK_STREAM);
    CHECK(kind.protocol == IPPROTO_TCP && kind.listening == 1);
    if (udp >= 0) {
        CHECK_EQ(ka_kind(udp, &kind), 0);
        CHECK(kind.family == AF_INET6 && kind.type == SOCK_DGRAM);
        CHECK(kind.protocol == IPPROTO_UDP && kind.listening == 0);
        close(udp);
    }
    close(listener);
    CHECK_EQ(ka_kind(listener, &kind), -EBADF);
}

static void identity_is_the_sockets_own(void) {
    struct pair pair = loop_pair();
    uint64_t first, copied, other;
    int copy = dup(pair.near), again;

    CHECK_EQ(ka_identify(pair.near, &first), 0);
    CHECK_EQ(ka_identify(copy, &copied), 0);
    CHECK_EQ(ka_identify(pair.far, &other), 0);
    CHECK(first == copied && first != other);
    close(copy);
    again = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(dup2(again, pair.near) == pair.near);
    close(again);
    CHECK_EQ(ka_identify(pair.near, &other), 0);
    CHECK(first != other);
    loop_close(&pair);
    CHECK_EQ(ka_identify(copy, &other), -EBADF);
}

/* A question begun on one socket, its number given to another meanwhile. */
static void reused_descriptor_is_left_alone(void) {
    struct pair old = loop_pair(), new = loop_pair();
    struct ka_question question;
    struct ka_witness witness;
    struct ka_verdict verdict;
    struct ka_policy before, after;

    CHECK_EQ(ka_witness_begin(&witness, old.near, 0, &verdict), 0);
    ka_question_begin(&question, old.near, witness.identity);
    CHECK_EQ(ka_question_ask(&question, 0, &fault), 1);
    CHECK_EQ(ka_read(new.near, &before, &fault), 0);
    CHECK(dup2(new.near, old.near) == old.near);
    CHECK_EQ(ka_witness_look(&witness, 1, 40, &verdict), -EBADF);
    CHECK_EQ(ka_question_ask(&question, 5000, &fault), -EBADF);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(ka_read(new.near, &after, &fault), 0);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    loop_close(&old);
    loop_close(&new);
}

int main(void) {
    RUN(the_host_has_the_old_options);
    RUN(each_option_is_set_and_read_back);
    RUN(both_ends_of_each_range);
    RUN(enabled_has_two_values);
    RUN(a_policy_is_applied_and_undone);
    RUN(accepted_sockets_inherit);
    RUN(udp_and_unix_are_refused_untouched);
    RUN(kinds);
    RUN(identity_is_the_sockets_own);
    RUN(reused_descriptor_is_left_alone);
    return test_report("loopback");
}

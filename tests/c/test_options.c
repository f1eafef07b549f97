/* Single options: numbers, units, names, and which of them exist. */
#include "fake_test.h"

#include <errno.h>

#define ALL ((1u << KA_OPTIONS) - 1)

static void numbers_and_units(void) {
    static const struct {
        int level, number;
        int32_t value;
    } want[KA_OPTIONS] = {
        [KA_ENABLED] = {SOL_SOCKET, SO_KEEPALIVE, 1},
        [KA_IDLE] = {6, 4, 17},     /* seconds */
        [KA_INTERVAL] = {6, 5, 18}, /* seconds */
        [KA_COUNT] = {6, 6, 19},
        [KA_USER_TIMEOUT] = {6, 18, 1750}, /* milliseconds */
        [KA_RTO_MAX] = {6, 44, 1250},      /* milliseconds */
    };
    int option;
    int32_t value;

    for (option = 0; option < KA_OPTIONS; option++) {
        CHECK_EQ(ka_set(FAKE_FD, option, want[option].value), 0);
        CHECK_EQ(fake.call[fake.calls - 1].level, want[option].level);
        CHECK_EQ(fake.call[fake.calls - 1].number, want[option].number);
        CHECK_EQ(fake.call[fake.calls - 1].value, want[option].value);
        CHECK_EQ(ka_get(FAKE_FD, option, &value), 0);
        CHECK_EQ(fake.call[fake.calls - 1].number, want[option].number);
        CHECK_EQ(value, want[option].value);
    }
}

static void names(void) {
    static const char *const want[KA_OPTIONS] = {
        "SO_KEEPALIVE", "TCP_KEEPIDLE",     "TCP_KEEPINTVL",
        "TCP_KEEPCNT",  "TCP_USER_TIMEOUT", "TCP_RTO_MAX_MS"};
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        CHECK(strcmp(ka_option_name(option), want[option]) == 0);
    CHECK(strcmp(ka_option_name(-1), "?") == 0);
    CHECK(strcmp(ka_option_name(KA_OPTIONS), "?") == 0);
}

static void ranges_are_what_the_kernel_takes(void) {
    struct ka_range range;
    int option;

    CHECK_EQ(ka_option_range(KA_ENABLED, &range), 0);
    CHECK(range.low == 0 && range.high == 1);
    for (option = KA_IDLE; option < KA_OPTIONS; option++) {
        CHECK_EQ(ka_option_range(option, &range), 0);
        CHECK_EQ(range.low, fake.socket[0].option[option].low);
        CHECK_EQ(range.high, fake.socket[0].option[option].high);
    }
    CHECK_EQ(ka_option_range(-1, &range), -EINVAL);
    CHECK_EQ(ka_option_range(KA_OPTIONS, &range), -EINVAL);
}

static void unknown_option_never_reaches_the_kernel(void) {
    int32_t value = 42;

    CHECK_EQ(ka_get(FAKE_FD, -1, &value), -EINVAL);
    CHECK_EQ(ka_get(FAKE_FD, KA_OPTIONS, &value), -EINVAL);
    CHECK_EQ(ka_set(FAKE_FD, -1, 1), -EINVAL);
    CHECK_EQ(ka_set(FAKE_FD, KA_OPTIONS, 1), -EINVAL);
    CHECK_EQ(value, 42);
    CHECK_EQ(fake.calls, 0);
}

static void errors_of_the_kernel_are_returned(void) {
    int32_t value;

    fake.socket[0].option[KA_RTO_MAX].absent = 1;
    CHECK_EQ(ka_get(FAKE_FD, KA_RTO_MAX, &value), -ENOPROTOOPT);
    CHECK_EQ(ka_set(FAKE_FD, KA_RTO_MAX, 1000), -ENOPROTOOPT);
    CHECK_EQ(ka_set(FAKE_FD, KA_COUNT, 128), -EINVAL);
    CHECK_EQ(ka_set(FAKE_FD + 1, KA_COUNT, 1), -EBADF);
    CHECK_EQ(ka_get(FAKE_FD + 1, KA_COUNT, &value), -EBADF);
}

static void kind_and_identity(void) {
    struct ka_kind kind;
    uint64_t first, second;

    fake.socket[0].listening = 1;
    CHECK_EQ(ka_kind(FAKE_FD, &kind), 0);
    CHECK_EQ(kind.family, AF_INET);
    CHECK_EQ(kind.type, SOCK_STREAM);
    CHECK_EQ(kind.protocol, 6);
    CHECK_EQ(kind.listening, 1);
    CHECK_EQ(ka_kind(FAKE_FD + 1, &kind), -EBADF);
    CHECK_EQ(ka_identify(FAKE_FD, &first), 0);
    CHECK_EQ(first, fake.socket[0].cookie);
    fake_replace(&fake.socket[0]);
    CHECK_EQ(ka_identify(FAKE_FD, &second), 0);
    CHECK(first != second);
    CHECK_EQ(ka_identify(FAKE_FD + 1, &first), -EBADF);
}

static void kind_failing_anywhere_is_told(void) {
    struct ka_kind kind;
    int nth;

    for (nth = 0; nth < 4; nth++) {
        fake_forget();
        fake.fail_get = 1u << nth;
        CHECK_EQ(ka_kind(FAKE_FD, &kind), -EIO);
        CHECK_EQ(fake.gets, nth + 1);
    }
}

static void all_are_found_and_remembered(void) {
    int i;

    CHECK_EQ(ka_supported(), ALL);
    CHECK_EQ(fake_count(FAKE_SET), 0);
    CHECK_EQ(fake_count(FAKE_SOCKET), 1);
    CHECK_EQ(fake_count(FAKE_CLOSE), 1);
    for (i = 1; i < FAKE_SOCKETS; i++)
        CHECK(!fake.socket[i].open);
    CHECK_EQ(ka_supported(), ALL);
    CHECK_EQ(fake_count(FAKE_SOCKET), 1);
}

static void older_kernel_lacks_rto_max(void) {
    fake.fail_get = 1u << KA_RTO_MAX;
    fake.fail_err = ENOPROTOOPT;
    CHECK_EQ(ka_supported(), ALL & ~(1u << KA_RTO_MAX));
    fake_forget();
    CHECK_EQ(ka_supported(), ALL & ~(1u << KA_RTO_MAX));
    CHECK_EQ(fake.calls, 0);
}

static void without_ipv4_it_asks_ipv6(void) {
    fake.no_ipv4 = 1;
    CHECK_EQ(ka_supported(), ALL);
    CHECK_EQ(fake_count(FAKE_SOCKET), 2);
    CHECK_EQ(fake.call[1].value, AF_INET6);
    CHECK_EQ(fake_count(FAKE_CLOSE), 1);
}

/* Out of descriptors today must not mean no options for ever. */
static void no_socket_is_not_remembered(void) {
    fake.no_ipv4 = fake.no_ipv6 = 1;
    CHECK_EQ(ka_supported(), 0);
    CHECK_EQ(fake_count(FAKE_CLOSE), 0);
    fake.no_ipv4 = fake.no_ipv6 = 0;
    CHECK_EQ(ka_supported(), ALL);
}

/* The guard of every other case: it must be able to fail. */
static void taking_the_error_is_noticed(void) {
    char byte = 0;
    int error;
    socklen_t size = sizeof error;

    CHECK(fake.forbidden == NULL);
    getsockopt(FAKE_FD, SOL_SOCKET, SO_ERROR, &error, &size);
    CHECK(fake.forbidden &&
          strcmp(fake.forbidden, "getsockopt(SO_ERROR)") == 0);
    fake.forbidden = NULL;
    CHECK(recv(FAKE_FD, &byte, 1, MSG_PEEK) < 0);
    CHECK(fake.forbidden && strcmp(fake.forbidden, "recv") == 0);
    fake.forbidden = NULL;
    CHECK(write(FAKE_FD, &byte, 1) < 0);
    CHECK(fake.forbidden && strcmp(fake.forbidden, "write") == 0);
    fake.forbidden = NULL;
}

int main(void) {
    fake_begin();
    RUN(numbers_and_units);
    RUN(names);
    RUN(ranges_are_what_the_kernel_takes);
    RUN(unknown_option_never_reaches_the_kernel);
    RUN(errors_of_the_kernel_are_returned);
    RUN(kind_and_identity);
    RUN(kind_failing_anywhere_is_told);
    RUN_FORKED(all_are_found_and_remembered);
    RUN_FORKED(older_kernel_lacks_rto_max);
    RUN_FORKED(without_ipv4_it_asks_ipv6);
    RUN_FORKED(no_socket_is_not_remembered);
    RUN(taking_the_error_is_noticed);
    return test_report("options");
}

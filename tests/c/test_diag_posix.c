/* test_diag_posix.c - discovery without FDSize and SO_COOKIE, by the real
 * kernel behind a mask. */
#include "mask.h"
#include "loop.h"
#include "test.h"

#include <sys/resource.h>

#include "diag.h"

static struct ka_found found;

static int look(int sock) {
    memset(&found, 0x55, sizeof found);
    return ka_diag_look(sock, &found);
}

static void limit_to(rlim_t files) {
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (files > limit.rlim_max)
        files = limit.rlim_max;
    limit.rlim_cur = files;
    loop_need(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
}

static void the_bound_is_the_highest_that_is_open(void) {
    int high;

    limit_to(9000);
    for (high = (int)ka_diag_bound(); high < 8999; high = high * 2 + 1) {
        loop_need(dup2(2, high) == high, "dup2");
        CHECK_EQ(ka_diag_bound(), high + 1);
    }
    for (high = 1023; high <= 1025; high++) {
        limit_to(9000);
        loop_need(dup2(2, 2000) == 2000 && dup2(2, high) == high, "dup2");
        CHECK(ka_diag_bound() > 2000);
        limit_to((rlim_t)high + 1);
        CHECK_EQ(ka_diag_bound(), high + 1);
    }
}

static void a_gap_hides_nobody(void) {
    limit_to(20000);
    loop_need(dup2(2, 19999) == 19999, "dup2");
    CHECK_EQ(ka_diag_bound(), 20000);
    close(19999);
    CHECK(ka_diag_bound() < 10000);
}

static void asking_takes_no_descriptor(void) {
    int next = dup(2);

    close(next);
    limit_to((rlim_t)next);
    CHECK_EQ(dup(2), -1);
    CHECK_EQ(ka_diag_bound(), next);
}

static void a_listener_and_what_it_accepts(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    struct pair pair = loop_connect(listener, &address);

    CHECK_EQ(look(listener), 0);
    CHECK_EQ(found.listening, 1);
    CHECK_EQ(found.connected, 0);
    CHECK_EQ(found.port, ntohs(address.sin_port));
    CHECK_EQ(look(pair.far), 0);
    CHECK_EQ(found.listening, 0);
    CHECK_EQ(found.connected, 1);
    CHECK_EQ(found.port, ntohs(address.sin_port));
    CHECK_EQ(look(pair.near), 0);
    CHECK_EQ(found.connected, 1);
    CHECK_EQ(found.port, loop_port(pair.near));
    shutdown(pair.near, SHUT_WR);
    loop_await(pair.far, POLLRDHUP);
    CHECK_EQ(look(pair.near), 0);
    CHECK_EQ(found.connected, 1);
    CHECK_EQ(look(pair.far), 0);
    CHECK_EQ(found.connected, 1);
    close(listener);
    CHECK_EQ(look(listener), -EBADF);
    CHECK_EQ(look(-1), -EBADF);
    loop_close(&pair);
}

static void the_ended_and_the_new_are_not_connected(void) {
    struct pair pair = loop_pair();
    int fresh = socket(AF_INET, SOCK_STREAM, 0);

    loop_reset(&pair.near);
    CHECK(loop_await(pair.far, POLLIN) & POLLERR);
    CHECK_EQ(look(pair.far), 0);
    CHECK_EQ(found.connected, 0);
    CHECK_EQ(loop_error(pair.far), ECONNRESET); /* still the owner's */
    CHECK_EQ(look(fresh), 0);
    CHECK_EQ(found.connected, 0);
    CHECK_EQ(found.listening, 0);
    close(fresh);
    loop_close(&pair);
}

static void others_are_told_apart(void) {
    static const struct {
        int family, type;
    } others[] = {{AF_INET, SOCK_DGRAM},
                  {AF_UNIX, SOCK_STREAM},
                  {AF_INET6, SOCK_DGRAM},
                  {AF_UNIX, SOCK_DGRAM}};
    size_t i;
    int end[2], sock;

    for (i = 0; i < sizeof others / sizeof others[0]; i++) {
        sock = socket(others[i].family, others[i].type, 0);
        if (sock < 0) {
            CHECK(others[i].family == AF_INET6);
            continue;
        }
        CHECK_EQ(look(sock), -EOPNOTSUPP);
        close(sock);
    }
    loop_need(pipe(end) == 0, "pipe");
    CHECK_EQ(look(end[0]), -ENOTSOCK);
    close(end[0]);
    close(end[1]);
}

int main(void) {
    for (mask = MAC; mask <= OPENBSD; mask++) {
        RUN_FORKED(the_bound_is_the_highest_that_is_open);
        RUN_FORKED(a_gap_hides_nobody);
        RUN_FORKED(asking_takes_no_descriptor);
        RUN(a_listener_and_what_it_accepts);
        RUN(the_ended_and_the_new_are_not_connected);
        RUN(others_are_told_apart);
    }
    return test_report("diag_posix");
}

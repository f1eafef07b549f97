/* Which descriptors there are, and what they are, by the real kernel. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/resource.h>

#include "diag.h"
#include "monitor.h"

static struct ka_found found;

static int look(int sock) {
    memset(&found, 0x55, sizeof found);
    return ka_diag_look(sock, &found);
}

/* ---- bound -------------------------------------------------------------- */

static void high_up(int fd) {
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    loop_need(limit.rlim_max > (rlim_t)fd, "the limit of open files");
    limit.rlim_cur = limit.rlim_max;
    loop_need(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
    loop_need(dup2(2, fd) == fd, "dup2");
}

static void every_descriptor_is_below(void) {
    int64_t bound = ka_diag_bound();

    CHECK(bound > 2);
    CHECK(bound <= 4096); /* of the table, not of what could be opened */
    high_up(3000);
    CHECK(ka_diag_bound() > 3000);
    high_up(5000);
    CHECK(ka_diag_bound() > 5000);
    close(5000);
    close(3000);
}

static void asking_leaves_no_descriptor(void) {
    int fd = dup(2), again, i;

    close(fd);
    for (i = 0; i < 10; i++)
        ka_diag_bound();
    again = dup(2);
    CHECK_EQ(again, fd);
    close(again);
}

static void without_a_number_left_it_is_the_limit(void) {
    struct rlimit full;
    int free_one = dup(2);

    close(free_one);
    getrlimit(RLIMIT_NOFILE, &full);
    full.rlim_cur = (rlim_t)free_one;
    setrlimit(RLIMIT_NOFILE, &full);
    CHECK_EQ(dup(2), -1);
    CHECK_EQ(ka_diag_bound(), free_one);
}

static void outlive_the_first_thread(void *unused) {
    char text[256], state = 0;

    (void)unused;
    while (state != 'Z') {
        FILE *file = fopen("/proc/self/stat", "r");

        loop_need(file && fgets(text, sizeof text, file), "/proc/self/stat");
        fclose(file);
        sscanf(strrchr(text, ')'), ") %c", &state);
    }
    CHECK(ka_diag_bound() > 900);
    CHECK(ka_diag_bound() <= 4096);
    fflush(stdout);
    _exit(test.failures != 0);
}

/* /proc/self shows no descriptors from then on. */
static void the_first_thread_may_have_ended(void) {
    struct ka_thread *thread = NULL;

    alarm(30);
    high_up(900);
    CHECK_EQ(ka_thread_start(&thread, outlive_the_first_thread, NULL, "next"),
             0);
    pthread_exit(NULL);
}

/* ---- look --------------------------------------------------------------- */

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
    CHECK_EQ(found.listening, 0);
    CHECK_EQ(found.connected, 1);
    CHECK_EQ(found.port, loop_port(pair.near));
    close(listener);
    CHECK_EQ(look(listener), -EBADF);
    CHECK_EQ(look(-1), -EBADF);
    loop_close(&pair);
}

static void half_closed_is_connected(void) {
    struct pair pair = loop_pair();

    shutdown(pair.near, SHUT_WR);
    loop_await(pair.far, POLLRDHUP);
    CHECK_EQ(look(pair.near), 0);
    CHECK_EQ(found.connected, 1);
    CHECK_EQ(look(pair.far), 0);
    CHECK_EQ(found.connected, 1);
    loop_close(&pair);
}

static void what_has_ended_was_connected(void) {
    int nearest;

    for (nearest = 0; nearest < 2; nearest++) {
        struct pair pair = loop_pair();
        int *reset = nearest ? &pair.far : &pair.near;
        int *sock = nearest ? &pair.near : &pair.far;

        loop_reset(reset);
        CHECK(loop_await(*sock, POLLIN) & POLLERR);
        CHECK_EQ(look(*sock), 0);
        CHECK_EQ(found.connected, 1);
        CHECK_EQ(found.listening, 0);
        CHECK_EQ(loop_error(*sock), ECONNRESET); /* still the owner's */
        loop_close(&pair);
    }
}

static void what_never_was_is_not_connected(void) {
    struct sockaddr_in address;
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(look(sock), 0);
    CHECK_EQ(found.connected, 0);
    CHECK_EQ(found.listening, 0);
    CHECK_EQ(found.port, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    loop_need(bind(sock, (struct sockaddr *)&address, sizeof address) == 0,
              "bind");
    CHECK_EQ(look(sock), 0);
    CHECK_EQ(found.connected, 0);
    CHECK_EQ(found.port, loop_port(sock));
    close(sock);
}

static void a_connection_in_the_making_is_none_yet(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address), sock[32], i, waiting = 0;

    listen(listener, 0); /* the second and all others must wait */
    for (i = 0; i < 32; i++) {
        sock[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(sock[i], (struct sockaddr *)&address, sizeof address);
        CHECK_EQ(look(sock[i]), 0);
        waiting += !found.connected;
        CHECK_EQ(found.listening, 0);
    }
    CHECK(waiting > 0);
    for (i = 0; i < 32; i++)
        close(sock[i]);
    close(listener);
}

static void others_are_told_apart(void) {
    static const struct {
        int family, type, protocol;
    } others[] = {
        {AF_INET, SOCK_DGRAM, 0},
        {AF_UNIX, SOCK_STREAM, 0},
        {AF_INET, SOCK_RAW, IPPROTO_TCP},
        {AF_NETLINK, SOCK_RAW, 6}, /* NETLINK_XFRM has TCP's number */
        {43, SOCK_STREAM, 0},      /* AF_SMC has a TCP connection inside */
        {43, SOCK_STREAM, 1},
    };
    size_t i;
    int end[2];

    for (i = 0; i < sizeof others / sizeof others[0]; i++) {
        int sock =
            socket(others[i].family, others[i].type, others[i].protocol);

        if (sock < 0) { /* not in every kernel, nor for everybody */
            CHECK(i >= 2);
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

static void ways_of_tcp(int family, int protocol) {
    struct sockaddr_storage name;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&name;
    struct sockaddr_in *four = (struct sockaddr_in *)&name;
    socklen_t size = family == AF_INET6 ? sizeof *six : sizeof *four;
    int listener = socket(family, SOCK_STREAM, protocol), near, far;

    if (listener < 0) /* a kernel without it */
        return;
    CHECK_EQ(look(listener), 0);
    CHECK_EQ(found.listening, 0);
    CHECK_EQ(found.connected, 0);
    memset(&name, 0, sizeof name);
    name.ss_family = (sa_family_t)family;
    if (family == AF_INET6)
        six->sin6_addr = in6addr_loopback;
    else
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&name, size) == 0 &&
        listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&name, &size) == 0) {
        CHECK_EQ(look(listener), 0);
        CHECK_EQ(found.listening, 1);
        CHECK_EQ(found.port, loop_port(listener));
        near = socket(family, SOCK_STREAM, protocol);
        loop_need(connect(near, (struct sockaddr *)&name, size) == 0,
                  "connect");
        far = accept(listener, NULL, NULL);
        CHECK_EQ(look(near), 0);
        CHECK_EQ(found.connected, 1);
        CHECK_EQ(found.port, loop_port(near));
        CHECK_EQ(look(far), 0);
        CHECK_EQ(found.connected, 1);
        CHECK_EQ(found.port, loop_port(listener));
        close(near);
        close(far);
    }
    close(listener);
}

static void version_6_is_tcp_too(void) {
    ways_of_tcp(AF_INET6, 0);
}

static void mptcp_is_tcp_too(void) {
    ways_of_tcp(AF_INET, 262);
    ways_of_tcp(AF_INET6, 262);
}

int main(void) {
    RUN_FORKED(every_descriptor_is_below);
    RUN(asking_leaves_no_descriptor);
    RUN_FORKED(without_a_number_left_it_is_the_limit);
    RUN_FORKED(the_first_thread_may_have_ended);
    RUN(a_listener_and_what_it_accepts);
    RUN(half_closed_is_connected);
    RUN(what_has_ended_was_connected);
    RUN(what_never_was_is_not_connected);
    RUN(a_connection_in_the_making_is_none_yet);
    RUN(others_are_told_apart);
    RUN(version_6_is_tcp_too);
    RUN(mptcp_is_tcp_too);
    return test_report("diag");
}

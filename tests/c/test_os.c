/* Sockets, poll and the wake of the system's own layer. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>

#include "os.h"

static int lowest; /* free descriptor before the case */

static int lowest_free(void) {
    int fd = dup(0);

    close(fd);
    return fd;
}

static void before(void) {
    lowest = lowest_free();
}

static void after(void) {
    CHECK_EQ(lowest_free(), lowest);
}

static struct ka_os_peer who;

/* The near end comes from ka_os_accept. */
static struct pair accepted_pair(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    struct pair pair = {-1, -1};

    fcntl(listener, F_SETFL, O_NONBLOCK);
    CHECK_EQ(ka_os_accept(listener, &pair.near, &who), -EAGAIN);
    CHECK_EQ(pair.near, -1);
    pair.far = socket(AF_INET, SOCK_STREAM, 0);
    loop_need(
        connect(pair.far, (struct sockaddr *)&address, sizeof address) == 0,
        "connect");
    CHECK_EQ(ka_os_accept(listener, &pair.near, &who), 0);
    close(listener);
    return pair;
}

static void accepted_sockets_are_ready_for_use(void) {
    struct pair pair = accepted_pair();
    char byte;

    CHECK(fcntl(pair.near, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(pair.near, F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(ka_os_receive(pair.near, &byte, 1), -EAGAIN);
    CHECK_EQ(ka_os_accept(pair.near, &pair.near, NULL), -EINVAL);
    CHECK_EQ(ka_os_accept(-1, &pair.near, NULL), -EBADF);
    CHECK_EQ(who.family, 4);
    CHECK_EQ(who.address[0], 127);
    CHECK_EQ(who.address[3], 1);
    CHECK_EQ(who.port, loop_port(pair.far));
    loop_close(&pair);
}

static void slices_go_out_in_order(void) {
    struct pair pair = accepted_pair();
    struct ka_os_slice slices[100];
    char digits[100], got[200];
    int i;

    for (i = 0; i < 100; i++) {
        digits[i] = (char)('0' + i % 10);
        slices[i].data = &digits[i];
        slices[i].size = 1;
    }
    slices[3].size = 0;
    CHECK_EQ(ka_os_send(pair.near, slices, 5), 4);
    CHECK_EQ(recv(pair.far, got, sizeof got, 0), 4);
    CHECK(memcmp(got, "0124", 4) == 0);
    CHECK_EQ(ka_os_send(pair.near, slices, 100), 63); /* 64 of them */
    CHECK_EQ(recv(pair.far, got, sizeof got, 0), 63);
    CHECK(memcmp(got, "0124567890", 10) == 0 && got[62] == '3');
    CHECK_EQ(send(pair.far, "abc", 3, 0), 3);
    CHECK_EQ(ka_os_receive(pair.near, got, 2), 2);
    CHECK_EQ(ka_os_receive(pair.near, got, sizeof got), 1);
    CHECK_EQ(got[0], 'c');
    loop_close(&pair);
}

static void a_full_socket_says_so(void) {
    struct pair pair = accepted_pair();
    static char block[1 << 20];
    struct ka_os_slice slice = {block, sizeof block};
    int64_t sent, all = 0;

    while ((sent = ka_os_send(pair.near, &slice, 1)) > 0)
        all += sent;
    CHECK_EQ(sent, -EAGAIN);
    CHECK(all > 0);
    loop_close(&pair);
}

static void the_end_of_a_stream(void) {
    struct pair pair = accepted_pair();
    struct ka_os_slice slice = {"x", 1};
    char byte;

    CHECK_EQ(ka_os_shut_write(pair.near), 0);
    CHECK_EQ(recv(pair.far, &byte, 1, 0), 0);
    signal(SIGPIPE, SIG_DFL); /* it would end the program */
    CHECK_EQ(ka_os_send(pair.near, &slice, 1), -EPIPE);
    loop_close(&pair);
    CHECK_EQ(ka_os_shut_write(-1), -EBADF);
    CHECK_EQ(ka_os_receive(-1, &byte, 1), -EBADF);
    CHECK_EQ(ka_os_send(-1, &slice, 1), -EBADF);
    CHECK_EQ(ka_os_pending_error(-1), EBADF);
}

static void a_reset_is_sent_and_seen(void) {
    struct pair pair = accepted_pair();
    char byte;

    ka_os_reset_on_close(pair.near);
    ka_os_close(pair.near);
    pair.near = -1;
    CHECK(loop_await(pair.far, POLLIN) & POLLERR);
    CHECK_EQ(ka_os_pending_error(pair.far), ECONNRESET);
    CHECK_EQ(ka_os_pending_error(pair.far), 0); /* taken */
    loop_close(&pair);
    pair = accepted_pair();
    loop_reset(&pair.far);
    loop_await(pair.near, POLLIN);
    CHECK_EQ(ka_os_receive(pair.near, &byte, 1), -ECONNRESET);
    loop_close(&pair);
}

static void local_sockets_work_as_well(void) {
    struct ka_os_slice slices[2] = {{"he", 2}, {"llo", 3}};
    char got[8];
    int end[2];

    loop_need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, end) == 0,
              "socketpair");
    CHECK_EQ(ka_os_send(end[0], slices, 2), 5);
    CHECK_EQ(ka_os_receive(end[1], got, sizeof got), 5);
    CHECK_EQ(ka_os_receive(end[1], got, sizeof got), -EAGAIN);
    ka_os_close(end[0]);
    CHECK_EQ(ka_os_receive(end[1], got, sizeof got), 0);
    CHECK_EQ(ka_os_send(end[1], slices, 2), -EPIPE);
    ka_os_close(end[1]);
}

static void poll_tells_closed_from_broken(void) {
    struct pair pair = loop_pair();
    struct ka_os_polled polled[5] = {{pair.near, KA_READ | KA_WRITE, 99},
                                     {pair.far, 0, 99},
                                     {INT_MAX, KA_READ, 99},
                                     {-1, KA_READ, 99},
                                     {-1, 0, 99}};
    void *room = malloc(ka_os_poll_room(5));

    CHECK_EQ(ka_os_poll(polled, 5, -1, room), 3);
    CHECK_EQ(polled[0].found, KA_WRITE);
    CHECK_EQ(polled[1].found, 0);
    CHECK_EQ(polled[2].found, KA_CLOSED);
    CHECK_EQ(polled[3].found, KA_CLOSED);
    CHECK_EQ(polled[4].found, 0);
    loop_reset(&pair.far);
    loop_await(pair.near, POLLIN);
    CHECK_EQ(ka_os_poll(polled, 1, -1, room), 1);
    CHECK_EQ(polled[0].found, KA_READ | KA_WRITE | KA_BROKEN | KA_HANGUP);
    polled[0].wanted = 0;
    CHECK_EQ(ka_os_poll(polled, 1, 0, room), 0);
    CHECK_EQ(polled[0].found, 0);
    free(room);
    loop_close(&pair);
}

static void a_wake_is_drained(void) {
    ka_sock wake[2];
    int i, refused = 0;

    CHECK_EQ(ka_os_wake_open(wake), 0);
    for (i = 0; i < 2; i++) {
        CHECK(fcntl(wake[i], F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(wake[i], F_GETFD) & FD_CLOEXEC);
    }
    ka_os_wake_drain(wake); /* of nothing */
    for (i = 0; i < 70000; i++)
        refused += ka_os_wake(wake) != 0;
    CHECK_EQ(refused, 0);
    CHECK_EQ(loop_await(wake[0], POLLIN), POLLIN);
    ka_os_wake_drain(wake);
    for (i = 0; i < 256; i++) /* just what it reads at a time */
        ka_os_wake(wake);
    ka_os_wake_drain(wake);
    errno = 66;
    CHECK_EQ(ka_os_wake(wake), 0);
    CHECK_EQ(errno, 66);
    ka_os_wake_drain(wake);
    {
        struct pollfd empty = {wake[0], POLLIN, 0};

        CHECK_EQ(poll(&empty, 1, 0), 0);
    }
    ka_os_wake_close(wake);
    CHECK_EQ(wake[0], -1);
    CHECK_EQ(wake[1], -1);
    CHECK_EQ(ka_os_wake(wake), -EBADF);
}

int main(void) {
    test.before = before;
    test.after = after;
    RUN(accepted_sockets_are_ready_for_use);
    RUN(slices_go_out_in_order);
    RUN(a_full_socket_says_so);
    RUN(the_end_of_a_stream);
    RUN(a_reset_is_sent_and_seen);
    RUN(local_sockets_work_as_well);
    RUN(poll_tells_closed_from_broken);
    RUN(a_wake_is_drained);
    return test_report("os");
}

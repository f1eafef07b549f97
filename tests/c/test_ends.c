/* What is done to a connection by the reserved number, and asked of it. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "reserve_fixture.h"
#include "monitor.h"

/* ---- what is done ------------------------------------------------------- */

struct reader {
    int sock;
    _Atomic long thread;
    ssize_t got;
    int error;
};

static void read_one(void *argument) {
    struct reader *reader = argument;
    char byte;

    atomic_store(&reader->thread, syscall(SYS_gettid));
    reader->got = recv(reader->sock, &byte, 1, 0);
    reader->error = errno;
}

static void await_sleep(const struct reader *reader) {
    char path[64], text[256], state = 0;
    FILE *file;

    while (atomic_load(&reader->thread) == 0)
        ;
    snprintf(path, sizeof path, "/proc/self/task/%ld/syscall",
             atomic_load(&reader->thread));
    for (state = 0; !state;) {
        file = fopen(path, "r");
        loop_need(file && fgets(text, sizeof text, file), path);
        fclose(file);
        state = atol(text) == SYS_recvfrom; /* "running" is 0 */
    }
}

/* What a recv that is blocked in another thread comes back with. */
static struct reader ended_by(int (*end)(ka_sock), struct pair *pair) {
    struct reader reader = {.sock = pair->near};
    struct ka_thread *thread = NULL;

    alarm(60);
    loop_need(ka_thread_start(&thread, read_one, &reader, "reader") == 0,
              "ka_thread_start");
    await_sleep(&reader);
    CHECK_EQ(ka_reserve_take(&reserve, pair->near), 0);
    CHECK_EQ(end(reserve.sock), 0);
    ka_reserve_give(&reserve);
    ka_thread_join(thread);
    alarm(0);
    return reader;
}

static void shutdown_shows_the_reader_an_end(void) {
    struct pair pair = loop_pair();
    struct reader reader = ended_by(ka_end_shutdown, &pair);
    char byte;

    CHECK_EQ(reader.got, 0);
    CHECK_EQ(send(pair.near, "x", 1, MSG_NOSIGNAL), -1);
    CHECK_EQ(errno, EPIPE);
    CHECK_EQ(recv(pair.far, &byte, 1, 0), 0);
    CHECK_EQ(ka_end_shutdown(pair.near), 0);
    loop_close(&pair);
    CHECK_EQ(ka_end_shutdown(-1), -EBADF);
    CHECK_EQ(ka_end_shutdown(reserve.filler), -ENOTSOCK);
}

static void disconnect_shows_the_reader_an_error(void) {
    struct pair pair = loop_pair();
    struct reader reader = ended_by(ka_end_disconnect, &pair);
    char byte;

    CHECK_EQ(reader.got, -1);
    CHECK(reader.error == EPIPE || reader.error == ECONNRESET);
    CHECK_EQ(recv(pair.far, &byte, 1, 0), -1);
    CHECK_EQ(errno, ECONNRESET);
    loop_close(&pair);
    CHECK_EQ(ka_end_disconnect(-1), -EBADF);
}

static void a_reader_who_comes_later_gets_an_error(void) {
    struct pair pair = loop_pair();
    char byte;

    CHECK_EQ(ka_end_disconnect(pair.near), 0);
    CHECK_EQ(recv(pair.near, &byte, 1, 0), -1);
    CHECK_EQ(errno, ECONNRESET);
    loop_close(&pair);
}

/* ---- what is asked ------------------------------------------------------ */

static void unread_bytes_are_counted(void) {
    struct pair pair = loop_pair();
    int64_t bytes = -1;
    char got[4];

    CHECK_EQ(ka_unread(pair.near, &bytes), 0);
    CHECK_EQ(bytes, 0);
    CHECK_EQ(send(pair.far, "seven b", 7, 0), 7);
    loop_await(pair.near, POLLIN);
    CHECK_EQ(ka_unread(pair.near, &bytes), 0);
    CHECK_EQ(bytes, 7);
    shutdown(pair.far, SHUT_WR);
    CHECK(loop_await(pair.near, POLLRDHUP) & POLLRDHUP);
    CHECK_EQ(recv(pair.near, got, 4, 0), 4);
    CHECK_EQ(ka_unread(pair.near, &bytes), 0);
    CHECK_EQ(bytes, 3); /* an end is no byte */
    loop_close(&pair);
    CHECK_EQ(ka_unread(-1, &bytes), -EBADF);
}

static struct pair pair_of(int family, int protocol) {
    struct sockaddr_storage name;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&name;
    struct sockaddr_in *four = (struct sockaddr_in *)&name;
    socklen_t size = family == AF_INET6 ? sizeof *six : sizeof *four;
    struct pair pair = {-1, -1};
    int listener = socket(family, SOCK_STREAM, protocol);

    if (listener < 0)
        return pair;
    memset(&name, 0, sizeof name);
    name.ss_family = (sa_family_t)family;
    if (family == AF_INET6)
        six->sin6_addr = in6addr_loopback;
    else
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&name, size) == 0 &&
        listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&name, &size) == 0) {
        pair.far = socket(family, SOCK_STREAM, protocol);
        if (connect(pair.far, (struct sockaddr *)&name, size) == 0)
            pair.near = accept(listener, NULL, NULL);
    }
    close(listener);
    if (pair.near < 0)
        loop_close(&pair);
    return pair;
}

static void mptcp_s_end_is_no_byte_either(void) {
    struct pair pair = pair_of(AF_INET, IPPROTO_MPTCP);
    int64_t bytes = -1;

    if (pair.near < 0) /* a kernel without it */
        return;
    CHECK_EQ(send(pair.far, "abc", 3, 0), 3);
    loop_await(pair.near, POLLIN);
    CHECK_EQ(ka_unread(pair.near, &bytes), 0);
    CHECK_EQ(bytes, 3);
    shutdown(pair.far, SHUT_WR);
    CHECK(loop_await(pair.near, POLLRDHUP) & POLLRDHUP);
    CHECK_EQ(ka_unread(pair.near, &bytes), 0);
    CHECK_EQ(bytes, 3);
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    CHECK_EQ(ka_end_shutdown(reserve.sock), 0);
    ka_reserve_give(&reserve);
    loop_close(&pair);
}

static void endpoints_of_version_4(void) {
    struct pair pair = loop_pair();
    struct ka_endpoint local, peer;

    CHECK_EQ(ka_endpoints(pair.near, &local, &peer), 0);
    CHECK_EQ(local.family, 4);
    CHECK(memcmp(local.address, "\x7f\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 16) == 0);
    CHECK_EQ(local.port, loop_port(pair.near));
    CHECK_EQ(peer.family, 4);
    CHECK_EQ(peer.port, loop_port(pair.far));
    CHECK(local.port != peer.port);
    loop_reset(&pair.far);
    loop_await(pair.near, POLLIN);
    CHECK_EQ(ka_endpoints(pair.near, &local, &peer), 0);
    CHECK_EQ(peer.family, 0); /* not told any more */
    CHECK_EQ(peer.port, 0);
    loop_close(&pair);
    CHECK_EQ(ka_endpoints(-1, &local, &peer), -EBADF);
}

static void endpoints_of_version_6(void) {
    struct pair pair = pair_of(AF_INET6, 0);
    struct ka_endpoint local, peer;

    if (pair.near < 0) /* a host without it */
        return;
    CHECK_EQ(ka_endpoints(pair.near, &local, &peer), 0);
    CHECK_EQ(local.family, 6);
    CHECK(memcmp(local.address, &in6addr_loopback, 16) == 0);
    CHECK_EQ(local.port, loop_port(pair.near));
    CHECK_EQ(peer.family, 6);
    CHECK_EQ(peer.port, loop_port(pair.far));
    loop_close(&pair);
}

static void a_mapped_address_is_version_4(void) {
    struct sockaddr_in address;
    struct sockaddr_in6 mapped;
    struct ka_endpoint local, peer;
    int listener = loop_listen(&address);
    int sock = socket(AF_INET6, SOCK_STREAM, 0);

    memset(&mapped, 0, sizeof mapped);
    mapped.sin6_family = AF_INET6;
    mapped.sin6_port = address.sin_port;
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    if (sock >= 0) {
        loop_need(
            connect(sock, (struct sockaddr *)&mapped, sizeof mapped) == 0,
            "connect");
        CHECK_EQ(ka_endpoints(sock, &local, &peer), 0);
        CHECK_EQ(local.family, 4);
        CHECK_EQ(peer.family, 4);
        CHECK(memcmp(peer.address, "\x7f\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 16) ==
              0);
        CHECK_EQ(peer.port, ntohs(address.sin_port));
        close(sock);
    }
    close(listener);
}

static void a_local_socket_has_no_endpoints(void) {
    struct ka_endpoint local, peer;
    int end[2];

    loop_need(socketpair(AF_UNIX, SOCK_STREAM, 0, end) == 0, "socketpair");
    CHECK_EQ(ka_endpoints(end[0], &local, &peer), 0);
    CHECK_EQ(local.family, 0);
    CHECK_EQ(peer.family, 0);
    close(end[0]);
    close(end[1]);
}

int main(void) {
    test.before = before;
    test.after = after;
    RUN(shutdown_shows_the_reader_an_end);
    RUN(disconnect_shows_the_reader_an_error);
    RUN(a_reader_who_comes_later_gets_an_error);
    RUN(unread_bytes_are_counted);
    RUN(mptcp_s_end_is_no_byte_either);
    RUN(endpoints_of_version_4);
    RUN(endpoints_of_version_6);
    RUN(a_mapped_address_is_version_4);
    RUN(a_local_socket_has_no_endpoints);
    return test_report("ends");
}

/* Readiness on Windows: the poller that WSAPoll makes, the loop above it and
 * the server above that, on real sockets. */
#include "../../ext/core/os_windows.c" /* whole, to look at its pieces */

#include "windows_net.h"
#include "test.h"

#include <stdint.h>

#include "atomics.h"
#include "backend.h"
#include "../core/loop.h"
#include "monitor.h"
#include "stream.h"

#define MANY 300 /* more than a set of select holds */

static const struct ka_backend *const backend = &ka_backend_poll;
static struct ka_poller *poller;
static const struct ka_ready *ready;
static int count; /* of the last wait */

static void before(void) {
    CHECK_EQ(backend->open(&poller), 0);
}

static void after(void) {
    backend->close(poller);
}

static int look(int timeout_ms) {
    count = backend->wait(poller, timeout_ms, &ready);
    return count;
}

static uint32_t found(uint64_t tag) {
    uint32_t events = 0;
    int i;

    for (i = 0; i < count; i++)
        if (ready[i].tag == tag) {
            CHECK_EQ(events, 0);
            events = ready[i].events;
        }
    return events;
}

static int64_t now_ms(void) {
    return (int64_t)GetTickCount64();
}

/* ---- the poller --------------------------------------------------------- */

static void reading_and_writing_are_told_apart(void) {
    struct ends ends = net_pair(AF_INET);

    CHECK_EQ(backend->add(poller, ends.our, KA_READ, 7), 0);
    CHECK_EQ(look(0), 0);
    CHECK_EQ(send(ends.their, "x", 1, 0), 1);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(found(7), KA_READ);
    CHECK_EQ(look(0), 1); /* it is level-triggered */
    CHECK_EQ(backend->modify(poller, ends.our, KA_WRITE, 8), 0);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(found(8), KA_WRITE);
    CHECK_EQ(found(7), 0);
    CHECK_EQ(backend->modify(poller, ends.our, KA_READ | KA_WRITE, 9), 0);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(found(9), KA_READ | KA_WRITE);
    CHECK_EQ(backend->remove(poller, ends.our), 0);
    CHECK_EQ(look(0), 0);
    CHECK_EQ(backend->remove(poller, ends.our), -ENOENT);
    CHECK_EQ(backend->modify(poller, ends.our, KA_READ, 1), -ENOENT);
    net_close(&ends);
}

static void a_full_buffer_is_not_writable(void) {
    struct ends ends = net_pair(AF_INET);
    static char block[1 << 16];
    int size, tries;

    net_nonblocking(ends.our);
    net_nonblocking(ends.their);
    do
        size = send(ends.our, block, sizeof block, 0);
    while (size > 0);
    CHECK_EQ(WSAGetLastError(), WSAEWOULDBLOCK);
    CHECK_EQ(backend->add(poller, ends.our, KA_WRITE, 1), 0);
    CHECK_EQ(look(0), 0);
    for (tries = 0; tries < 2000 && look(0) == 0; tries++)
        if (recv(ends.their, block, sizeof block, 0) < 0)
            Sleep(1);
    CHECK_EQ(found(1), KA_WRITE);
    net_close(&ends);
}

static void a_listener_is_readable(void) {
    struct sockaddr_storage address;
    int size;
    SOCKET listener = net_listen(AF_INET, &address, &size);
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);

    CHECK_EQ(backend->add(poller, listener, KA_READ, 1), 0);
    CHECK_EQ(look(0), 0);
    CHECK_EQ(connect(sock, (struct sockaddr *)&address, size), 0);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(found(1), KA_READ);
    closesocket(sock);
    closesocket(listener);
}

static void the_peers_end_shows(void) {
    struct ends ends = net_pair(AF_INET);

    CHECK_EQ(backend->add(poller, ends.our, KA_READ, 1), 0);
    shutdown(ends.their, SD_SEND);
    CHECK_EQ(look(2000), 1);
    CHECK(found(1) & (KA_READ | KA_HANGUP));
    CHECK_EQ(found(1) & KA_BROKEN, 0);
    net_close(&ends);
}

static void a_reset_shows(void) {
    struct ends ends = net_pair(AF_INET);

    CHECK_EQ(backend->add(poller, ends.our, KA_READ, 1), 0);
    net_reset(ends.their);
    CHECK_EQ(look(2000), 1);
    CHECK(found(1) & KA_BROKEN);
    closesocket(ends.our);
}

static void a_refused_connect_shows(void) {
    struct sockaddr_in nobody = net_nobody();
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    int64_t began = now_ms();

    net_nonblocking(sock);
    CHECK_EQ(connect(sock, (struct sockaddr *)&nobody, sizeof nobody), -1);
    CHECK_EQ(backend->add(poller, sock, KA_WRITE, 1), 0);
    CHECK_EQ(look(10000), 1);
    CHECK(found(1) & KA_BROKEN);
    CHECK(now_ms() - began < 8000);
    CHECK_EQ(ka_os_pending_error(sock), ECONNREFUSED);
    closesocket(sock);
}

static void a_closed_socket_is_dropped_and_the_wait_goes_on(void) {
    struct ends one = net_pair(AF_INET), two = net_pair(AF_INET);
    int64_t began;

    CHECK_EQ(backend->add(poller, one.our, KA_READ, 1), 0);
    CHECK_EQ(backend->add(poller, two.our, KA_READ, 2), 0);
    closesocket(one.our);
    began = now_ms();
    CHECK_EQ(look(120), 0);
    CHECK(now_ms() - began >= 120);
    CHECK_EQ(send(two.their, "x", 1, 0), 1);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(found(2), KA_READ);
    CHECK_EQ(backend->remove(poller, one.our), -EBADF);
    CHECK_EQ(backend->add(poller, one.our, KA_READ, 1), -EBADF);
    closesocket(one.their);
    net_close(&two);
}

static void every_socket_but_the_wake_may_be_closed(void) {
    struct ends one = net_pair(AF_INET);

    CHECK_EQ(backend->add(poller, one.our, KA_READ, 1), 0);
    net_close(&one);
    CHECK_EQ(look(50), 0);
    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(look(2000), 1);
    CHECK_EQ(ready[0].tag, KA_WAKE_TAG);
}

static void many_sockets(void) {
    static SOCKET sock[MANY];
    struct sockaddr_in address;
    int i, size = sizeof address;

    for (i = 0; i < MANY; i++) {
        sock[i] = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
        memset(&address, 0, sizeof address);
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        net_need(bind(sock[i], (struct sockaddr *)&address, size) == 0,
                 "bind");
        CHECK_EQ(backend->add(poller, sock[i], KA_READ, (uint64_t)i), 0);
    }
    CHECK_EQ(look(0), 0);
    for (i = 0; i < MANY; i += 3) {
        net_need(getsockname(sock[i], (struct sockaddr *)&address, &size) == 0,
                 "getsockname");
        sendto(sock[1], "x", 1, 0, (struct sockaddr *)&address, size);
    }
    for (i = 0; i < 200 && look(100) < MANY / 3; i++)
        Sleep(5);
    CHECK_EQ(count, MANY / 3);
    for (i = 0; i < MANY; i++)
        CHECK_EQ(found((uint64_t)i), i % 3 ? 0 : KA_READ);
    for (i = 0; i < MANY; i += 2)
        CHECK_EQ(backend->remove(poller, sock[i]), 0);
    look(0);
    for (i = 0; i < MANY; i++)
        CHECK_EQ(found((uint64_t)i), i % 3 || i % 2 == 0 ? 0 : KA_READ);
    for (i = 0; i < MANY; i++)
        closesocket(sock[i]);
    CHECK_EQ(look(0), 0);
}

static void a_wait_is_never_too_short(void) {
    static const int timeouts[] = {1, 7, 16, 33, 60};
    int64_t began;
    size_t i;

    for (i = 0; i < sizeof timeouts / sizeof timeouts[0]; i++) {
        began = ka_os_now_ms();
        CHECK_EQ(look(timeouts[i]), 0);
        CHECK(ka_os_now_ms() - began >= timeouts[i] - ka_os_clock_lag_ms());
    }
}

/* ---- before Windows 10 2004 --------------------------------------------- */

static void select_tells_a_failed_connect(void) {
    static WSAPOLLFD seen[2 * FD_SETSIZE];
    struct sockaddr_in nobody = net_nobody();
    struct ends ends = net_pair(AF_INET);
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    const ULONG n = 2 * FD_SETSIZE, last = n - 1;
    ULONG i;
    int tries, told = 0;

    for (i = 0; i < n; i++) {
        seen[i].fd = i == last - 1 ? sock : ends.our;
        seen[i].events = i >= last - 1 || i == 2 ? POLLWRNORM : POLLRDNORM;
        seen[i].revents = 0;
    }
    net_nonblocking(sock);
    CHECK_EQ(find_failed_connects(seen, n), 0);
    CHECK_EQ(connect(sock, (struct sockaddr *)&nobody, sizeof nobody), -1);
    for (tries = 0; tries < 500 && told == 0; tries++) {
        told = find_failed_connects(seen, n);
        Sleep(10);
    }
    CHECK_EQ(told, 1);
    CHECK_EQ(seen[last - 1].revents, POLLWRNORM | POLLERR);
    CHECK_EQ(seen[last].revents, 0);
    CHECK_EQ(seen[2].revents, 0);
    CHECK_EQ(send(ends.their, "!", 1, MSG_OOB), 1); /* urgent data is none */
    Sleep(50);
    seen[last - 1].events = POLLRDNORM;
    CHECK_EQ(find_failed_connects(seen, n), 0);
    CHECK_EQ(ka_os_pending_error(sock), ECONNREFUSED);
    closesocket(sock);
    net_close(&ends);
}

static void pieces_are_one_wait(void) {
    struct ends ends = net_pair(AF_INET);
    WSAPOLLFD seen = {ends.our, POLLRDNORM, 0};
    int64_t began = ka_os_now_ms();

    CHECK_EQ(poll_in_pieces(&seen, 1, 250), 0);
    CHECK(ka_os_now_ms() - began >= 250 - KA_LAG_MS);
    CHECK_EQ(poll_in_pieces(&seen, 1, 0), 0);
    CHECK_EQ(send(ends.their, "x", 1, 0), 1);
    CHECK_EQ(poll_in_pieces(&seen, 1, -1), 1);
    net_close(&ends);
}

/* ---- wakes -------------------------------------------------------------- */

static void wake_soon(void *unused) {
    (void)unused;
    Sleep(60);
    CHECK_EQ(backend->wake(poller), 0);
}

static void another_thread_ends_the_wait(void) {
    struct ka_thread *thread;
    int64_t began = now_ms();

    CHECK_EQ(ka_thread_start(&thread, wake_soon, NULL, "waker"), 0);
    CHECK_EQ(look(10000), 1);
    CHECK_EQ(ready[0].tag, KA_WAKE_TAG);
    CHECK(now_ms() - began < 8000);
    ka_thread_join(thread);
    CHECK_EQ(look(0), 0);
}

static void many_wakes_are_one(void) {
    int i, refused = 0;

    for (i = 0; i < 5000; i++)
        refused += backend->wake(poller) != 0;
    CHECK_EQ(refused, 0);
    CHECK_EQ(look(2000), 1);
    for (i = 0; i < 100 && look(0) > 0; i++)
        ; /* those that one look has left, or that were on their way */
    CHECK_EQ(look(0), 0);
    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(look(2000), 1);
}

/* Who wakes as fast as it drains would keep it. */
static void one_drain_ends(void) {
    ka_sock wake[2];
    WSAPOLLFD seen = {0, POLLRDNORM, 0};
    int i;

    CHECK_EQ(ka_os_wake_open(wake), 0);
    seen.fd = wake[0];
    for (i = 0; i < KA_MOST_DRAINED + 10; i++)
        CHECK_EQ(ka_os_wake(wake), 0);
    ka_os_wake_drain(wake);
    CHECK_EQ(WSAPoll(&seen, 1, 2000), 1);
    ka_os_wake_drain(wake);
    CHECK_EQ(WSAPoll(&seen, 1, 50), 0);
    ka_os_wake_close(wake);
}

static void a_wake_leaves_the_last_error_alone(void) {
    SetLastError(4711);
    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(GetLastError(), 4711);
}

static KA_ATOMIC(int) over;

static void keep_waking(void *unused) {
    (void)unused;
    while (!atomic_load(&over)) {
        (void)backend->wake(poller);
        Sleep(0);
    }
}

static void threads_wake_while_sockets_come_and_go(void) {
    struct ka_thread *thread[2];
    int i, wrong = 0;

    atomic_store(&over, 0);
    for (i = 0; i < 2; i++)
        CHECK_EQ(ka_thread_start(&thread[i], keep_waking, NULL, "waker"), 0);
    for (i = 0; i < 100; i++) {
        struct ends ends = net_pair(AF_INET);

        wrong += backend->add(poller, ends.our, KA_READ | KA_WRITE, 5) != 0;
        wrong += look(2000) < 1;
        if (i % 2)
            wrong += backend->remove(poller, ends.our) != 0;
        net_close(&ends);
    }
    atomic_store(&over, 1);
    for (i = 0; i < 2; i++)
        ka_thread_join(thread[i]);
    CHECK_EQ(wrong, 0);
}

/* ---- the loop ----------------------------------------------------------- */

static struct ka_loop loop;

static int go(int64_t timeout_ms) {
    int rc = ka_loop_begin(&loop, timeout_ms);

    while (rc == KA_LOOP_WAIT) {
        ka_loop_wait(&loop);
        rc = ka_loop_finish(&loop);
    }
    return rc;
}

static void names_of_the_mechanism(void) {
    CHECK(ka_loop_backend("poll") == backend);
    CHECK(ka_loop_backend("epoll") == NULL);
    CHECK(strstr(ka_loop_backend_names(), "poll") != NULL);
    CHECK_EQ(ka_loop_init(&loop, NULL), 0);
    CHECK(loop.backend == backend);
    ka_loop_close(&loop);
}

static void idleness_and_readiness_come_in_one_batch(void) {
    struct ends one = net_pair(AF_INET), two = net_pair(AF_INET);
    ka_id first = 0, second = 0;
    int i, rc;

    CHECK_EQ(ka_loop_init(&loop, backend), 0);
    CHECK_EQ(ka_loop_add(&loop, one.our, KA_READ, 5, &one, &first), 0);
    CHECK_EQ(ka_loop_add(&loop, two.our, KA_READ, 5, &two, &second), 0);
    CHECK_EQ(ka_loop_find(&loop, two.our), second);
    rc = go(10000);
    CHECK(rc >= 1);
    for (i = 0; i < rc; i++)
        CHECK_EQ(loop.event[i].events, KA_IDLENESS);
    CHECK_EQ(send(two.their, "x", 1, 0), 1);
    for (i = 0; i < 100 && ka_loop_find(&loop, two.our) == second; i++) {
        rc = go(2000);
        if (rc > 0 && loop.event[rc - 1].events & KA_READ)
            break;
    }
    CHECK(rc > 0 && loop.event[rc - 1].user == &two);
    CHECK_EQ(ka_loop_remove(&loop, first), 1);
    CHECK_EQ(ka_loop_remove(&loop, first), 0);
    ka_loop_close(&loop);
    net_close(&one);
    net_close(&two);
}

static void wake_the_loop(void *unused) {
    (void)unused;
    Sleep(50);
    CHECK_EQ(ka_loop_wake(&loop), 0);
}

static void the_loop_is_woken(void) {
    struct ka_thread *thread;
    int64_t began = now_ms();

    CHECK_EQ(ka_loop_init(&loop, backend), 0);
    CHECK_EQ(ka_thread_start(&thread, wake_the_loop, NULL, "waker"), 0);
    CHECK_EQ(go(10000), 0);
    CHECK(now_ms() - began < 8000);
    ka_thread_join(thread);
    ka_loop_close(&loop);
}

/* ---- the server --------------------------------------------------------- */

static struct ka_stream stream;
static struct ka_stream_event event;

/* wine 8 reads the end of a stream where Windows tells a reset. */
static int is_wine(void) {
    return GetProcAddress(GetModuleHandleW(L"ntdll.dll"),
                          "wine_get_version") != NULL;
}

static int next(int kind) {
    int tries, rc = 0;

    for (tries = 0; tries < 300; tries++) {
        rc = ka_stream_next(&stream, &event);
        if (rc == kind ||
            (rc != KA_STREAM_WAIT && rc != KA_STREAM_INTERRUPTED))
            break;
        Sleep(5);
    }
    CHECK_EQ(rc, kind);
    return rc == kind;
}

static void an_echo_server_serves(void) {
    static const struct ka_policy policy = {
        {1, 30, 10, 4, KA_LEAVE, KA_LEAVE}};
    struct ka_stream_limits limits = {60000, 0, 0, &policy};
    struct sockaddr_storage address;
    int size, on = 0, length = sizeof on;
    SOCKET listener = net_listen(AF_INET, &address, &size);
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    char buffer[16];

    net_nonblocking(listener);
    CHECK_EQ(ka_stream_init(&stream, listener, &limits, backend), 0);
    CHECK_EQ(connect(sock, (struct sockaddr *)&address, size), 0);
    if (next(KA_STREAM_ACCEPTED)) {
        struct ka_conn *conn = event.conn;

        CHECK_EQ(conn->peer.family, 4);
        CHECK_EQ(getsockopt(conn->fd, SOL_SOCKET, SO_KEEPALIVE, (char *)&on,
                            &length),
                 0);
        CHECK_EQ(on != 0, 1);
        CHECK_EQ(send(sock, "ping", 4, 0), 4);
        if (next(KA_STREAM_DATA)) {
            CHECK_EQ(event.size, 4);
            CHECK_EQ(ka_conn_write(&stream, conn, event.data, event.size), 0);
        }
        CHECK_EQ(recv(sock, buffer, sizeof buffer, 0), 4);
        shutdown(sock, SD_SEND);
        if (next(KA_STREAM_EOF))
            ka_conn_close(&stream, conn);
        if (next(KA_STREAM_LOST))
            CHECK_EQ(event.conn == conn, 1);
        CHECK_EQ(recv(sock, buffer, sizeof buffer, 0), 0);
    }
    CHECK_EQ(stream.stats.untuned, 0);
    ka_stream_free(&stream);
    closesocket(sock);
}

static void a_reset_is_told_with_its_error(void) {
    static const struct ka_stream_limits none;
    struct sockaddr_storage address;
    int size;
    SOCKET listener = net_listen(AF_INET, &address, &size);
    SOCKET sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);

    net_nonblocking(listener);
    CHECK_EQ(ka_stream_init(&stream, listener, &none, backend), 0);
    CHECK_EQ(connect(sock, (struct sockaddr *)&address, size), 0);
    if (next(KA_STREAM_ACCEPTED)) {
        net_reset(sock);
        if (is_wine()) {
            next(KA_STREAM_EOF);
        } else if (next(KA_STREAM_LOST)) {
            CHECK_EQ(event.reason, KA_BY_ERROR);
            CHECK_EQ(event.error, ECONNRESET);
        }
    }
    ka_stream_free(&stream);
}

/* On the WSAPoll that shows everything, and on the one that does not. */
#define RUN_ON_POLLER(body)              \
    do {                                 \
        test.before = before;            \
        test.after = after;              \
        atomic_store(&ka_blind, 1);      \
        RUN(body);                       \
        atomic_store(&ka_blind, 2);      \
        RUN(body);                       \
        test.before = test.after = NULL; \
        atomic_store(&ka_blind, 0);      \
    } while (0)

int main(void) {
    net_start();
    RUN_ON_POLLER(reading_and_writing_are_told_apart);
    RUN_ON_POLLER(a_full_buffer_is_not_writable);
    RUN_ON_POLLER(a_listener_is_readable);
    RUN_ON_POLLER(the_peers_end_shows);
    RUN_ON_POLLER(a_reset_shows);
    RUN_ON_POLLER(a_refused_connect_shows);
    RUN_ON_POLLER(a_closed_socket_is_dropped_and_the_wait_goes_on);
    RUN_ON_POLLER(every_socket_but_the_wake_may_be_closed);
    RUN_ON_POLLER(many_sockets);
    RUN_ON_POLLER(a_wait_is_never_too_short);
    RUN_ON_POLLER(another_thread_ends_the_wait);
    RUN_ON_POLLER(many_wakes_are_one);
    RUN(one_drain_ends);
    RUN_ON_POLLER(a_wake_leaves_the_last_error_alone);
    RUN_ON_POLLER(threads_wake_while_sockets_come_and_go);
    RUN(select_tells_a_failed_connect);
    RUN(pieces_are_one_wait);
    RUN(names_of_the_mechanism);
    RUN(idleness_and_readiness_come_in_one_batch);
    RUN(the_loop_is_woken);
    RUN(an_echo_server_serves);
    RUN(a_reset_is_told_with_its_error);
    return test_report("windows_loop");
}

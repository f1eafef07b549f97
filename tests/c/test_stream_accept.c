/* test_stream_accept.c - who is let in, and who has to go for it. */
#include "stream_fixture.h"

#include <sys/resource.h>
#include <sys/syscall.h>

/* The kernel's, unless a test wants a failure. */
static int accept_error;
static int accepts_fail; /* so often */

int accept4(int sock, __SOCKADDR_ARG address_, socklen_t *restrict size,
            int flags) {
    if (accepts_fail > 0) {
        accepts_fail--;
        errno = accept_error;
        return -1;
    }
    return (int)syscall(SYS_accept4, sock, address_.__sockaddr__, size, flags);
}

/* ---- max_connections ---------------------------------------------------- */

static void the_longest_idle_makes_room(struct ka_stream_limits *limits) {
    int peers[5], i;
    struct ka_conn *conn[5];

    open_stream(limits);
    for (i = 0; i < 3; i++) {
        conn[i] = meet(&peers[i]);
        advance(100);
    }
    say(peers[0], "busy");
    EXPECT(KA_STREAM_DATA);
    advance(100);
    conn[3] = meet(&peers[3]);
    expect_lost(conn[1], KA_BY_SHED, 0);
    CHECK_EQ(last_heard(peers[1]), 0);
    CHECK_EQ(stream.stats.open, 3);
    CHECK_EQ(stream.stats.lingering, 1);
    EXPECT_QUIET();
    /* Its socket goes before anybody else has to. */
    conn[4] = meet(&peers[4]);
    expect_lost(conn[2], KA_BY_SHED, 0);
    CHECK_EQ(stream.stats.lingering, 1);
    CHECK_EQ(stream.stats.shed, 2);
    for (i = 0; i < 5; i++)
        close(peers[i]);
    close_stream();
}

static void one_too_many_sheds_the_longest_idle(void) {
    struct ka_stream_limits limits = {.max_connections = 3};

    the_longest_idle_makes_room(&limits);
    limits.idle_ms = 60000;
    the_longest_idle_makes_room(&limits);
    limits.age_ms = 600000; /* its timers are not connections */
    the_longest_idle_makes_room(&limits);
}

static void many_too_many_are_shed_in_order(void) {
    struct ka_stream_limits limits = {.max_connections = 100,
                                      .age_ms = 600000};
    int peers[250], i;
    struct ka_conn *conn[250];

    open_stream(&limits);
    for (i = 0; i < 100; i++) {
        conn[i] = meet(&peers[i]);
        advance(20);
    }
    for (; i < 250; i++) {
        conn[i] = meet(&peers[i]);
        expect_lost(conn[i <= 124   ? i - 100
                         : i <= 218 ? i - 98
                         : i <= 220 ? i - 194
                                    : i - 100],
                    KA_BY_SHED, 0);
        advance(10);
        if (i == 120) { /* found as victims already, and spoken to */
            CHECK_EQ(ka_conn_write(&stream, conn[25], "you stay", 8), 0);
            CHECK_EQ(ka_conn_write(&stream, conn[26], "you stay", 8), 0);
        }
        advance(10);
    }
    for (i = 0; i < 250; i++)
        close(peers[i]);
    close_stream();
}

static void with_all_busy_nobody_comes_in(void) {
    struct ka_stream_limits limits = {.max_connections = 1};
    struct ka_conn *conn;
    int busy, next, last;

    open_stream(&limits);
    conn = meet(&busy);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    next = dial();
    last = dial();
    EXPECT_QUIET();
    /* One ends, */
    ka_conn_abort(&stream, conn, KA_BY_OWNER, 0);
    expect_lost(conn, KA_BY_OWNER, 0);
    EXPECT(KA_STREAM_ACCEPTED);
    conn = event.conn;
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    EXPECT_QUIET();
    /* or has sent everything. */
    while (conn->buffered > 0) {
        static char bytes[1 << 16];

        (void)recv(next, bytes, sizeof bytes, MSG_DONTWAIT);
        (void)ka_stream_next(&stream, &event);
    }
    if (event.kind != KA_STREAM_WRITABLE)
        EXPECT(KA_STREAM_WRITABLE);
    EXPECT(KA_STREAM_ACCEPTED);
    expect_lost(conn, KA_BY_SHED, 0);
    close(busy);
    close(next);
    close(last);
    close_stream();
}

/* Without a limit of its own a connection can be sent away, but it is never
 * due. */
static void who_has_no_limit_is_never_due(void) {
    struct ka_stream_limits limits = {.max_connections = 2};
    int peer, i;

    open_stream(&limits);
    (void)meet(&peer);
    for (i = 0; i < 3; i++) {
        ka_loop_advance(&stream.loop, KA_MOST_TICKS);
        EXPECT_QUIET();
    }
    CHECK_EQ(stream.stats.open, 1);
    close(peer);
    close_stream();
}

/* ---- the listener ------------------------------------------------------- */

static void without_descriptors_the_listener_rests(void) {
    struct rlimit limit, low;
    int peer, spare;

    open_stream(NULL);
    peer = dial();
    spare = dup(0);
    getrlimit(RLIMIT_NOFILE, &limit);
    low = limit;
    low.rlim_cur = (rlim_t)spare;
    close(spare);
    loop_need(setrlimit(RLIMIT_NOFILE, &low) == 0, "setrlimit");
    EXPECT(KA_STREAM_REFUSED);
    CHECK_EQ(event.error, EMFILE);
    EXPECT_QUIET();
    advance(120);
    EXPECT_QUIET(); /* told once */
    CHECK_EQ(stream.stats.refused, 2);
    setrlimit(RLIMIT_NOFILE, &limit);
    advance(120);
    EXPECT(KA_STREAM_ACCEPTED);
    close(dial());
    EXPECT(KA_STREAM_ACCEPTED);
    setrlimit(RLIMIT_NOFILE, &low);
    close(peer);
    close_stream();
}

/* A lingering socket goes, and its descriptor is the newcomer's. */
static void without_descriptors_the_lingering_go_first(void) {
    struct rlimit low;
    int peer, newcomer, spare;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    ka_conn_close(&stream, conn);
    expect_lost(conn, KA_BY_OWNER, 0);
    newcomer = dial();
    spare = dup(0);
    getrlimit(RLIMIT_NOFILE, &low);
    low.rlim_cur = (rlim_t)spare;
    close(spare);
    loop_need(setrlimit(RLIMIT_NOFILE, &low) == 0, "setrlimit");
    EXPECT(KA_STREAM_ACCEPTED);
    CHECK_EQ(stream.stats.lingering, 0);
    CHECK_EQ(stream.stats.refused, 0);
    close(peer);
    close(newcomer);
    close_stream();
}

static void one_that_broke_in_the_queue_hurts_nobody(void) {
    int peer, whole;
    struct ka_conn *conn;

    open_stream(NULL);
    peer = dial();
    loop_reset(&peer);
    conn = meet(&whole);
    if (stream.stats.aborted_accepts == 0) { /* Linux lets it in */
        EXPECT(KA_STREAM_ACCEPTED);
        expect_lost(conn, KA_BY_ERROR, ECONNRESET);
    }
    EXPECT_QUIET();
    close(whole);
    close_stream();
}

static void broken_ones_are_skipped(void) {
    static const int errors[] = {ECONNABORTED, EPROTO, EPERM, ENETDOWN,
                                 EHOSTUNREACH};
    size_t i;
    int peer;

    open_stream(NULL);
    for (i = 0; i < sizeof errors / sizeof *errors; i++) {
        accept_error = errors[i];
        accepts_fail = 70; /* more than are accepted at a time */
        (void)meet(&peer);
        CHECK_EQ(accepts_fail, 0);
        CHECK_EQ(stream.stats.aborted_accepts, 70 * (i + 1));
        close(peer);
        EXPECT(KA_STREAM_EOF);
    }
    CHECK_EQ(stream.stats.refused, 0);
    close_stream();
}

/* An error that will not go away by itself must not spin either. */
static void a_broken_listener_rests(void) {
    int peer;

    open_stream(NULL);
    accept_error = EINVAL;
    accepts_fail = 2;
    peer = dial();
    EXPECT(KA_STREAM_REFUSED);
    CHECK_EQ(event.error, EINVAL);
    EXPECT_QUIET();
    advance(120);
    EXPECT_QUIET();
    CHECK_EQ(accepts_fail, 0);
    advance(120);
    EXPECT(KA_STREAM_ACCEPTED);
    accepts_fail = 1; /* a new episode */
    close(dial());
    EXPECT(KA_STREAM_REFUSED);
    close(peer);
    close_stream();
}

static void what_is_accepted_has_the_policy(void) {
    struct ka_policy policy = {
        {1, 77, KA_LEAVE, KA_LEAVE, KA_LEAVE, KA_LEAVE}};
    struct ka_stream_limits limits = {.policy = &policy};
    int32_t value = 0;
    struct ka_conn *conn;
    int peer;

    open_stream(&limits);
    conn = meet(&peer);
    CHECK_EQ(ka_get(conn->fd, KA_IDLE, &value), 0);
    CHECK_EQ(value, 77);
    CHECK_EQ(stream.stats.untuned, 0);
    close(peer);
    close_stream();
    policy.value[KA_IDLE] = -77; /* what cannot be set ends nothing */
    open_stream(&limits);
    (void)meet(&peer);
    CHECK_EQ(stream.stats.untuned, 1);
    close(peer);
    close_stream();
}

int main(void) {
    static const char *const names[] = {BEST_POLLER, "poll"};
    size_t i;

    for (i = 0; i < 2; i++) {
        backend = ka_loop_backend(names[i]);
        RUN(one_too_many_sheds_the_longest_idle);
        RUN(many_too_many_are_shed_in_order);
        RUN(with_all_busy_nobody_comes_in);
        RUN(who_has_no_limit_is_never_due);
        RUN_FORKED(without_descriptors_the_listener_rests);
        RUN_FORKED(without_descriptors_the_lingering_go_first);
        RUN(one_that_broke_in_the_queue_hurts_nobody);
        RUN(broken_ones_are_skipped);
        RUN(a_broken_listener_rests);
        RUN(what_is_accepted_has_the_policy);
    }
    return test_report("test_stream_accept");
}

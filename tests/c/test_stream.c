/* test_stream.c - bytes in and out of a server, and who hears what. */
#include "stream_fixture.h"

#include <pthread.h>
#include <signal.h>

static void what_comes_is_told_and_what_is_written_arrives(void) {
    struct ka_conn *conn;
    int peer;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK(conn->user == NULL);
    say(peer, "hello");
    EXPECT(KA_STREAM_DATA);
    CHECK(event.conn == conn && event.size == 5 &&
          memcmp(event.data, "hello", 5) == 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "world", 5), 0);
    CHECK(hears(peer, "world"));
    CHECK_EQ(conn->received, 5);
    CHECK_EQ(conn->sent, 5);
    CHECK_EQ(stream.stats.buffered, 0);
    EXPECT_QUIET();
    close(peer);
    EXPECT(KA_STREAM_EOF);
    ka_conn_close(&stream, conn);
    expect_lost(conn, KA_BY_PEER, 0);
    CHECK_EQ(stream.stats.open, 0);
    CHECK_EQ(stream.stats.lingering, 0);
    close_stream();
}

/* The peer sends and reads as much as goes; the server echoes and heeds the
 * marks. */
static void a_megabyte_is_echoed_through_small_buffers(void) {
    const uint64_t size = 1 << 20;
    char *bytes = numbered(0, size);
    uint64_t sent = 0, got = 0, most = 0;
    int peer, small = 8192, ended = 0, good = 1, paused = 0, turns = 0;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    while (got < size && turns++ < 200000) {
        ssize_t some =
            send(peer, bytes + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        int kind = ka_stream_next(&stream, &event);

        sent += some > 0 ? (uint64_t)some : 0;
        if (kind == KA_STREAM_DATA &&
            ka_conn_write(&stream, conn, event.data, event.size) == 1) {
            paused++;
            ka_conn_pause_reading(&stream, conn);
        } else if (kind == KA_STREAM_WRITABLE) {
            ka_conn_resume_reading(&stream, conn);
        } else if (kind == KA_STREAM_WAIT) {
            int64_t more = sip(peer, got, &ended, &good);

            got += more > 0 ? (uint64_t)more : 0;
            if (more == 0)
                nap();
        }
        if (stream.stats.buffered > most)
            most = stream.stats.buffered;
    }
    CHECK_EQ(got, size);
    CHECK(good);
    CHECK(paused > 0);
    CHECK(most > conn->high && most <= conn->high + KA_READ_SIZE);
    CHECK_EQ(conn->sent, size);
    CHECK_EQ(stream.stats.buffered, 0);
    free(bytes);
    close(peer);
    close_stream();
}

static void many_small_writes_keep_their_order(void) {
    uint64_t put = 0, got = 0;
    size_t size;
    int peer, ended = 0, good = 1;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    put = PLENTY;
    for (size = 0; size < 3000; size++) {
        CHECK_EQ(pour(conn, put, size % 100 * 37), 0);
        put += size % 100 * 37;
    }
    ka_conn_close(&stream, conn);
    CHECK_EQ(pour(conn, put, 10), 0);
    while (!ended && good) {
        int64_t more = sip(peer, got, &ended, &good);

        if (more < 0)
            break;
        got += (uint64_t)more;
        if (more == 0 && !ended)
            (void)ka_stream_next(&stream, &event);
    }
    CHECK(good && ended);
    CHECK_EQ(got, put);
    close(peer);
    close_stream();
}

static void the_marks_are_told_once_each(void) {
    uint64_t got = 0;
    int peer, ended = 0, good = 1, writable = 0;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 10, 20), -EINVAL);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 40000, 10000), 0);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    CHECK_EQ(pour(conn, PLENTY, 50000), 0);
    CHECK_EQ(stream.stats.buffered, conn->buffered);
    while (got < PLENTY + 50000 && good && !ended) {
        int64_t more = sip(peer, got, &ended, &good);

        got += more > 0 ? (uint64_t)more : 0;
        if (ka_stream_next(&stream, &event) == KA_STREAM_WRITABLE) {
            CHECK(conn->buffered <= 10000);
            writable++;
        }
    }
    EXPECT_QUIET();
    CHECK(good);
    CHECK_EQ(writable, 1);
    /* A second round is told as well. */
    CHECK_EQ(pour(conn, got, PLENTY), 1);
    close(peer);
    close_stream();
}

static void marks_may_be_moved_at_any_time(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    ka_conn_set_marks(&stream, conn, (size_t)1 << 30, 0);
    CHECK_EQ(pour(conn, 0, PLENTY), 0);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 1000, 100), 1);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 1000, 100), 0);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, PLENTY, PLENTY), 2);
    /* Above the mark again before it was told: then there is nothing to
     * tell. */
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 1000, 100), 0);
    EXPECT_QUIET();
    CHECK_EQ(ka_conn_set_marks(&stream, conn, PLENTY, PLENTY), 2);
    EXPECT(KA_STREAM_WRITABLE);
    close(peer);
    close_stream();
}

static void a_paused_reader_does_not_spin(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK(ka_conn_is_reading(conn));
    CHECK_EQ(ka_conn_pause_reading(&stream, conn), 0);
    CHECK(!ka_conn_is_reading(conn));
    say(peer, "later");
    EXPECT_QUIET();
    ka_conn_resume_reading(&stream, conn);
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(event.size, 5);
    ka_conn_pause_reading(&stream, conn);
    loop_reset(&peer);
    EXPECT_QUIET();
    ka_conn_resume_reading(&stream, conn);
    expect_lost(conn, KA_BY_ERROR, ECONNRESET);
    close_stream();
}

static void data_before_a_reset_is_told_before_it(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    say(peer, "last words");
    loop_reset(&peer);
    if (next_event() == KA_STREAM_DATA) /* else the kernel dropped them */
        EXPECT(KA_STREAM_LOST);
    CHECK(event.kind == KA_STREAM_LOST && event.conn == conn &&
          event.error == ECONNRESET);
    EXPECT_QUIET();
    close_stream();
}

static void a_broken_writer_hears_of_it_once(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    ka_conn_pause_reading(&stream, conn);
    loop_reset(&peer);
    CHECK_EQ(ka_conn_write(&stream, conn, "a", 1), 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "b", 1), 0);
    CHECK(ka_conn_closing(conn));
    EXPECT(KA_STREAM_LOST);
    CHECK_EQ(event.reason, KA_BY_ERROR);
    CHECK(event.error == ECONNRESET || event.error == EPIPE);
    CHECK(event.conn == conn);
    EXPECT_QUIET();
    CHECK_EQ(stream.stats.ended[KA_BY_ERROR], 1);
    close_stream();
}

static void a_reset_while_bytes_wait_is_told(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    ka_conn_pause_reading(&stream, conn);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    loop_reset(&peer);
    expect_lost(conn, KA_BY_ERROR, ECONNRESET);
    CHECK_EQ(stream.stats.buffered, 0);
    EXPECT_QUIET();
    close_stream();
}

static void calls_between_the_end_and_its_event_do_nothing(void) {
    int peer;
    struct ka_conn *conn;
    char some[8];

    open_stream(NULL);
    conn = meet(&peer);
    ka_conn_abort(&stream, conn, KA_BY_OWNER, 0);
    ka_conn_abort(&stream, conn, KA_BY_ERROR, EIO);
    ka_conn_close(&stream, conn);
    CHECK_EQ(ka_conn_write(&stream, conn, "x", 1), 0);
    CHECK_EQ(ka_conn_write_eof(&stream, conn), 0);
    CHECK_EQ(ka_conn_pause_reading(&stream, conn), 0);
    CHECK_EQ(ka_conn_resume_reading(&stream, conn), 0);
    CHECK_EQ(ka_conn_set_marks(&stream, conn, 0, 0), 0);
    CHECK_EQ(ka_conn_set_idle(&stream, conn, 1000), 0);
    CHECK_EQ(ka_stream_receive(&stream, conn, some, sizeof some), -EAGAIN);
    CHECK(!ka_conn_is_reading(conn) && ka_conn_closing(conn));
    expect_lost(conn, KA_BY_OWNER, 0);
    EXPECT_QUIET();
    CHECK_EQ(last_heard(peer), ECONNRESET);
    close(peer);
    close_stream();
}

static void the_peer_may_end_its_side_first(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    say(peer, "question");
    shutdown(peer, SHUT_WR);
    EXPECT(KA_STREAM_DATA);
    EXPECT(KA_STREAM_EOF);
    EXPECT_QUIET();
    CHECK_EQ(ka_conn_write(&stream, conn, "answer", 6), 0);
    CHECK(hears(peer, "answer"));
    ka_conn_close(&stream, conn);
    expect_lost(conn, KA_BY_PEER, 0);
    CHECK_EQ(last_heard(peer), 0);
    CHECK_EQ(stream.stats.lingering, 0);
    close(peer);
    close_stream();
}

static void our_side_may_end_first(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK_EQ(ka_conn_write(&stream, conn, "that is all", 11), 0);
    CHECK_EQ(ka_conn_write_eof(&stream, conn), 0);
    CHECK_EQ(ka_conn_write_eof(&stream, conn), 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "no", 2), -EPIPE);
    CHECK(hears(peer, "that is all"));
    CHECK_EQ(last_heard(peer), 0);
    say(peer, "thanks");
    EXPECT(KA_STREAM_DATA);
    close(peer);
    EXPECT(KA_STREAM_EOF);
    CHECK(event.conn == conn);
    expect_lost(conn, KA_BY_PEER, 0);
    close_stream();
}

static void the_last_word_comes_after_what_waits(void) {
    uint64_t got = 0;
    int peer, ended = 0, good = 1;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    shutdown(peer, SHUT_WR);
    EXPECT(KA_STREAM_EOF);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    CHECK_EQ(ka_conn_write_eof(&stream, conn), 0);
    while (!ended && good && got <= PLENTY) {
        int64_t more = sip(peer, got, &ended, &good);

        got += more > 0 ? (uint64_t)more : 0;
        if (more == 0 && !ended &&
            ka_stream_next(&stream, &event) == KA_STREAM_LOST)
            CHECK_EQ(event.reason, KA_BY_PEER);
    }
    CHECK(good && ended);
    CHECK_EQ(got, PLENTY);
    CHECK_EQ(stream.stats.ended[KA_BY_PEER], 1);
    close(peer);
    close_stream();
}

static void the_owner_may_bring_the_buffer(void) {
    int peer;
    char own[4];
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    conn->own_buffer = 1;
    CHECK_EQ(ka_stream_receive(&stream, conn, own, sizeof own), -EAGAIN);
    say(peer, "sixsix");
    EXPECT(KA_STREAM_FILL);
    CHECK_EQ(ka_stream_receive(&stream, conn, own, sizeof own), 4);
    CHECK(memcmp(own, "sixs", 4) == 0);
    EXPECT(KA_STREAM_FILL);
    CHECK_EQ(ka_stream_receive(&stream, conn, own, sizeof own), 2);
    shutdown(peer, SHUT_WR);
    EXPECT(KA_STREAM_FILL);
    CHECK_EQ(ka_stream_receive(&stream, conn, own, sizeof own), 0);
    CHECK_EQ(ka_stream_receive(&stream, conn, own, sizeof own), -EAGAIN);
    EXPECT(KA_STREAM_EOF);
    CHECK(event.conn == conn);
    EXPECT_QUIET();
    CHECK_EQ(ka_conn_write_eof(&stream, conn), 0);
    expect_lost(conn, KA_BY_PEER, 0);
    close(peer);
    close_stream();
}

static void one_that_sends_much_starves_nobody(void) {
    struct ka_conn *loud, *low;
    int peer, other;
    char *much = numbered(0, 500000);

    open_stream(NULL);
    loud = meet(&peer);
    low = meet(&other);
    CHECK(send(peer, much, 500000, MSG_DONTWAIT) > 2 * KA_READ_SIZE);
    say(other, "me");
    EXPECT(KA_STREAM_DATA);
    if (event.conn == loud)
        EXPECT(KA_STREAM_DATA);
    CHECK(event.conn == low);
    free(much);
    close(peer);
    close(other);
    close_stream();
}

static void *wake_soon(void *unused) {
    (void)unused;
    nap();
    ka_stream_wake(&stream);
    return NULL;
}

static void on_alarm(int number) {
    (void)number;
}

/* The clock runs here. */
static void a_sleeper_is_woken_by_what_concerns_it(void) {
    struct ka_stream_limits limits = {.idle_ms = 60};
    struct itimerval soon = {{0, 0}, {0, 20000}};
    struct sigaction action = {.sa_handler = on_alarm};
    int listener = loop_listen(&address), peer, kind;
    pthread_t waker;

    need_nonblocking(listener);
    CHECK_EQ(ka_stream_init(&stream, listener, &limits, backend), 0);
    CHECK_EQ(ka_stream_next(&stream, &event), KA_STREAM_WAIT);
    pthread_create(&waker, NULL, wake_soon, NULL);
    while ((kind = ka_stream_next(&stream, &event)) == KA_STREAM_WAIT)
        ka_stream_wait(&stream);
    CHECK_EQ(kind, KA_STREAM_INTERRUPTED);
    pthread_join(waker, NULL);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    while ((kind = ka_stream_next(&stream, &event)) == KA_STREAM_WAIT)
        ka_stream_wait(&stream);
    CHECK_EQ(kind, KA_STREAM_INTERRUPTED);
    peer = dial();
    while ((kind = ka_stream_next(&stream, &event)) == KA_STREAM_WAIT)
        ka_stream_wait(&stream);
    CHECK_EQ(kind, KA_STREAM_ACCEPTED);
    while ((kind = ka_stream_next(&stream, &event)) == KA_STREAM_WAIT)
        ka_stream_wait(&stream);
    CHECK_EQ(kind, KA_STREAM_LOST);
    CHECK_EQ(event.reason, KA_BY_IDLE);
    close(peer);
    close_stream();
}

static void what_cannot_begin_leaves_the_listener_alone(void) {
    struct ka_stream_limits limits = {.idle_ms = -1};
    int listener = loop_listen(&address);

    CHECK_EQ(ka_stream_init(&stream, listener, &limits, backend), -EINVAL);
    limits.idle_ms = INT64_MAX;
    CHECK_EQ(ka_stream_init(&stream, listener, &limits, backend), -ERANGE);
    limits.idle_ms = 0;
    limits.age_ms = -1;
    CHECK_EQ(ka_stream_init(&stream, listener, &limits, backend), -EINVAL);
    CHECK(fcntl(listener, F_GETFD) >= 0);
    close(listener);
    ka_stream_free(&stream);
}

int main(void) {
    static const char *const names[] = {BEST_POLLER, "poll"};
    size_t i;

    for (i = 0; i < 2; i++) {
        backend = ka_loop_backend(names[i]);
        RUN(what_comes_is_told_and_what_is_written_arrives);
        RUN(a_megabyte_is_echoed_through_small_buffers);
        RUN(many_small_writes_keep_their_order);
        RUN(the_marks_are_told_once_each);
        RUN(marks_may_be_moved_at_any_time);
        RUN(a_paused_reader_does_not_spin);
        RUN(data_before_a_reset_is_told_before_it);
        RUN(a_broken_writer_hears_of_it_once);
        RUN(a_reset_while_bytes_wait_is_told);
        RUN(calls_between_the_end_and_its_event_do_nothing);
        RUN(the_peer_may_end_its_side_first);
        RUN(our_side_may_end_first);
        RUN(the_last_word_comes_after_what_waits);
        RUN(the_owner_may_bring_the_buffer);
        RUN(one_that_sends_much_starves_nobody);
        RUN(a_sleeper_is_woken_by_what_concerns_it);
        RUN(what_cannot_begin_leaves_the_listener_alone);
    }
    return test_report("test_stream");
}

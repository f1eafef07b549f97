/* test_stream_memory.c - a server that is refused memory, at each place where
 * it asks for some. */
#include "failing.h"
#include "stream_fixture.h"

static void refuse_after(int allowed) {
    failures = 0;
    until_failure = allowed;
}

static void refuse_no_more(void) {
    until_failure = -1;
}

static void birth_without_memory_leaves_the_listener(void) {
    struct ka_stream_limits limits = {.idle_ms = 1000, .age_ms = 1000};
    int before = open_descriptors(), listener, allowed = 0, rc;

    do {
        listener = loop_listen(&address);
        need_nonblocking(listener);
        refuse_after(allowed++);
        rc = ka_stream_init(&stream, listener, &limits, backend);
        refuse_no_more();
        CHECK_EQ(rc, failures ? -ENOMEM : 0);
        if (rc < 0) {
            CHECK(fcntl(listener, F_GETFD) >= 0);
            close(listener);
        }
    } while (rc < 0 && allowed < 100);
    CHECK(allowed > 4);
    close_stream();
    CHECK_EQ(open_descriptors(), before);
}

static void a_newcomer_without_memory_is_refused_for_now(void) {
    struct ka_stream_limits limits = {.idle_ms = 1000, .age_ms = 90000};
    int peer, kind, before = open_descriptors();

    open_stream(&limits);
    peer = dial();
    refuse_after(0);
    kind = next_event();
    refuse_no_more();
    CHECK_EQ(kind, KA_STREAM_REFUSED);
    CHECK_EQ(event.error, ENOMEM);
    CHECK_EQ(last_heard(peer), 0);
    CHECK_EQ(stream.stats.open, 0);
    close(peer);
    peer = dial();
    EXPECT_QUIET();
    advance(120);
    EXPECT(KA_STREAM_ACCEPTED);
    CHECK(consistent());
    close(peer);
    close_stream();
    CHECK_EQ(open_descriptors(), before);
}

static void a_write_is_refused_whole(void) {
    struct ka_stream_event lost = {0};
    uint64_t got = 0;
    int peer, ended = 0, good = 1, rc, tries;
    struct ka_conn *conn;
    char *more = numbered(PLENTY, 100000);

    open_stream(NULL);
    conn = meet(&peer);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    refuse_after(0);
    rc = ka_conn_write(&stream, conn, more, 100000);
    refuse_no_more();
    CHECK_EQ(rc, -ENOMEM);
    CHECK_EQ(failures, 1);
    CHECK_EQ(stream.stats.buffered, conn->buffered);
    CHECK_EQ(ka_conn_write(&stream, conn, more, 100000), 0);
    ka_conn_close(&stream, conn);
    for (tries = 0; tries < 10000 && !ended && good; tries++) {
        int64_t some = sip(peer, got, &ended, &good);

        got += some > 0 ? (uint64_t)some : 0;
        if (ka_stream_next(&stream, &event) == KA_STREAM_LOST)
            lost = event;
    }
    CHECK(good && ended);
    CHECK_EQ(got, PLENTY + 100000);
    CHECK_EQ(lost.reason, KA_BY_OWNER);
    free(more);
    close(peer);
    close_stream();
}

/* What the kernel has taken cannot be refused: it is an end, not a gap. */
static void half_a_write_is_an_end(void) {
    int peer, rc;
    struct ka_conn *conn;
    char *much = numbered(0, PLENTY);

    open_stream(NULL);
    conn = meet(&peer);
    refuse_after(0);
    rc = ka_conn_write(&stream, conn, much, PLENTY);
    refuse_no_more();
    CHECK_EQ(rc, 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "more", 4), 0);
    expect_lost(conn, KA_BY_ERROR, ENOMEM);
    CHECK_EQ(stream.stats.buffered, 0);
    free(much);
    close(peer);
    close_stream();
}

static void without_memory_nobody_is_sent_away(void) {
    struct ka_stream_limits limits = {.max_connections = 1};
    struct ka_conn *conn;
    int peer, other, kind;

    open_stream(&limits);
    conn = meet(&peer);
    other = dial();
    refuse_after(0);
    do {
        kind = ka_stream_next(&stream, &event);
    } while (kind == KA_STREAM_WAIT && !failures);
    refuse_no_more();
    CHECK_EQ(kind, KA_STREAM_WAIT);
    CHECK_EQ(stream.stats.open, 1);
    ka_conn_abort(&stream, conn, KA_BY_OWNER, 0);
    expect_lost(conn, KA_BY_OWNER, 0);
    EXPECT(KA_STREAM_ACCEPTED);
    close(peer);
    close(other);
    close_stream();
}

int main(void) {
    static const char *const names[] = {BEST_POLLER, "poll"};
    size_t i;

    for (i = 0; i < 2; i++) {
        backend = ka_loop_backend(names[i]);
        RUN(birth_without_memory_leaves_the_listener);
        RUN(a_newcomer_without_memory_is_refused_for_now);
        RUN(a_write_is_refused_whole);
        RUN(half_a_write_is_an_end);
        RUN(without_memory_nobody_is_sent_away);
    }
    return test_report("test_stream_memory");
}

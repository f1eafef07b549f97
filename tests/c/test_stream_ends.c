/* test_stream_ends.c - why and how connections end. */
#include "stream_fixture.h"

/* Read all that comes, with the server at work; whether it was numbered and
 * ended by FIN. */
static int swallow(int peer, uint64_t *got, struct ka_stream_event *lost) {
    int ended = 0, good = 1, tries = 0, told = lost == NULL;

    for (*got = 0; !(ended && told) && good && tries < 10000; tries++) {
        int64_t more = ended ? 0 : sip(peer, *got, &ended, &good);

        if (more < 0)
            return 0;
        *got += (uint64_t)more;
        if (more == 0 && !(ended && told)) {
            if (ka_stream_next(&stream, &event) == KA_STREAM_LOST && !told) {
                *lost = event;
                told = 1;
            }
            nap();
        }
    }
    return ended && good;
}

/* Until the lingering ones have met the peer's end. */
static void settle(void) {
    int tries;

    for (tries = 0; tries < 5000 && stream.stats.lingering > 0; tries++) {
        (void)ka_stream_next(&stream, &event);
        nap();
    }
    CHECK_EQ(stream.stats.lingering, 0);
}

/* ---- idle --------------------------------------------------------------- */

static void the_silent_one_ends_and_no_other(void) {
    struct ka_stream_limits limits = {.idle_ms = 1000};
    int silent, talking, reading, free_one;
    struct ka_conn *conn, *writer, *unlimited;
    uint64_t got;

    open_stream(&limits);
    conn = meet(&silent);
    (void)meet(&talking);
    writer = meet(&reading);
    unlimited = meet(&free_one);
    CHECK_EQ(ka_conn_set_idle(&stream, unlimited, 0), 0);
    CHECK_EQ(pour(writer, 0, PLENTY), 1);
    CHECK_EQ(lost_after(900), 0);
    say(talking, "here");
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(lost_after(90), 0);
    CHECK_EQ(lost_after(100), 1);
    CHECK(event.conn == conn);
    CHECK_EQ(event.reason, KA_BY_IDLE);
    CHECK_EQ(last_heard(silent), 0);
    CHECK_EQ(lost_after(900), 1); /* the one that talked */
    CHECK_EQ(lost_after(100000), 0);
    /* The last unsent byte has gone: the time begins. */
    ka_conn_close(&stream, unlimited);
    while (writer->buffered > 0) {
        static char bytes[1 << 16];

        (void)recv(reading, bytes, sizeof bytes, MSG_DONTWAIT);
        (void)ka_stream_next(&stream, &event);
    }
    CHECK_EQ(lost_after(990), 0);
    CHECK_EQ(lost_after(30), 1);
    CHECK(event.conn == writer && event.reason == KA_BY_IDLE);
    CHECK(recv(reading, &got, sizeof got, 0) > 0);
    close(silent);
    close(talking);
    close(reading);
    close(free_one);
    close_stream();
}

/* Two are due in one batch; the second is spoken to before its turn. */
static void an_idle_one_is_rescued_before_its_turn(void) {
    struct ka_stream_limits limits = {.idle_ms = 1000};
    int peers[2], i;
    struct ka_conn *conn[2], *other;

    open_stream(&limits);
    for (i = 0; i < 2; i++)
        conn[i] = meet(&peers[i]);
    advance(1100);
    EXPECT(KA_STREAM_LOST);
    other = event.conn == conn[0] ? conn[1] : conn[0];
    CHECK_EQ(ka_conn_write(&stream, other, "still there?", 12), 0);
    CHECK_EQ(lost_after(900), 0);
    CHECK_EQ(lost_after(200), 1);
    CHECK(event.conn == other);
    for (i = 0; i < 2; i++)
        close(peers[i]);
    close_stream();
}

static void the_limit_of_one_may_differ(void) {
    struct ka_stream_limits limits = {.idle_ms = 1000};
    int peer;
    struct ka_conn *conn;

    open_stream(&limits);
    conn = meet(&peer);
    CHECK_EQ(ka_conn_set_idle(&stream, conn, -1), -EINVAL);
    CHECK_EQ(ka_conn_set_idle(&stream, conn, 5000), 0);
    CHECK_EQ(lost_after(4000), 0);
    CHECK_EQ(lost_after(1100), 1);
    CHECK_EQ(event.reason, KA_BY_IDLE);
    close(peer);
    close_stream();
}

/* ---- close and abort ---------------------------------------------------- */

static void closing_with_unread_input_loses_no_answer(void) {
    struct ka_stream_event lost = {0};
    char *question = numbered(0, 300000);
    struct ka_conn *conn;
    uint64_t got;
    int peer;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK(send(peer, question, 300000, MSG_DONTWAIT) > KA_READ_SIZE);
    EXPECT(KA_STREAM_DATA);
    CHECK(pour(conn, 0, PLENTY) >= 0);
    ka_conn_close(&stream, conn);
    CHECK(swallow(peer, &got, &lost));
    CHECK_EQ(got, PLENTY);
    CHECK_EQ(lost.reason, KA_BY_OWNER);
    CHECK_EQ(stream.stats.open, 0);
    CHECK_EQ(stream.stats.lingering, 1);
    say(peer, "and nobody listens");
    shutdown(peer, SHUT_WR);
    settle();
    CHECK_EQ(last_heard(peer), 0);
    free(question);
    close(peer);
    close_stream();
}

static void a_small_answer_survives_unread_input(void) {
    char *question = numbered(0, 300000);
    struct ka_conn *conn;
    int peer;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK(send(peer, question, 300000, MSG_DONTWAIT) > KA_READ_SIZE);
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(ka_conn_write(&stream, conn, "no", 2), 0);
    ka_conn_close(&stream, conn);
    expect_lost(conn, KA_BY_OWNER, 0);
    EXPECT_QUIET();
    CHECK(hears(peer, "no"));
    CHECK_EQ(last_heard(peer), 0);
    free(question);
    close(peer);
    settle();
    close_stream();
}

static void lingering_has_an_end(void) {
    int peers[2], i, before = open_descriptors();
    struct ka_conn *conn;

    open_stream(NULL);
    for (i = 0; i < 2; i++) {
        conn = meet(&peers[i]);
        ka_conn_close(&stream, conn);
        expect_lost(conn, KA_BY_OWNER, 0);
        CHECK_EQ(lost_after(1000), 0);
    }
    CHECK_EQ(stream.stats.lingering, 2);
    (void)lost_after(30);
    CHECK_EQ(stream.stats.lingering, 1);
    (void)lost_after(1030);
    CHECK_EQ(stream.stats.lingering, 0);
    for (i = 0; i < 2; i++)
        close(peers[i]);
    close_stream();
    CHECK_EQ(open_descriptors(), before);
}

static void an_end_that_has_come_already_is_not_waited_for(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    shutdown(peer, SHUT_WR);
    loop_await(conn->fd, POLLIN);
    ka_conn_close(&stream, conn); /* EOF was not read */
    CHECK_EQ(stream.stats.lingering, 0);
    expect_lost(conn, KA_BY_OWNER, 0);
    CHECK_EQ(last_heard(peer), 0);
    close(peer);
    close_stream();
}

static void abort_drops_what_waits(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    ka_conn_close(&stream, conn);
    EXPECT_QUIET();
    ka_conn_abort(&stream, conn, KA_BY_OWNER, 0);
    CHECK_EQ(stream.stats.buffered, 0);
    expect_lost(conn, KA_BY_OWNER, 0);
    EXPECT_QUIET(); /* the number was taken until then */
    while (last_heard(peer) == -1)
        ;
    CHECK_EQ(last_heard(peer), 0); /* the error was taken above */
    close(peer);
    close_stream();
}

/* ---- max_age ------------------------------------------------------------ */

static void the_old_ones_end(void) {
    struct ka_stream_limits limits = {.age_ms = 60000};
    int peers[40], i;

    open_stream(&limits);
    for (i = 0; i < 40; i++)
        (void)meet(&peers[i]);
    CHECK_EQ(lost_after(53990), 0);
    i = lost_after(3000); /* not all at the same time */
    CHECK(i > 5 && i < 35);
    CHECK_EQ(i + lost_after(3100), 40);
    CHECK_EQ(event.reason, KA_BY_AGE);
    CHECK_EQ(stream.stats.ended[KA_BY_AGE], 40);
    CHECK_EQ(last_heard(peers[0]), 0);
    for (i = 0; i < 40; i++)
        close(peers[i]);
    close_stream();
}

static void an_owed_answer_is_given_before_age_ends_it(void) {
    struct ka_stream_limits limits = {.age_ms = 60000};
    int peer, mute;
    struct ka_conn *conn, *silent;

    open_stream(&limits);
    conn = meet(&peer);
    silent = meet(&mute);
    say(peer, "question");
    say(mute, "question");
    EXPECT(KA_STREAM_DATA);
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(lost_after(61000), 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "first ", 6), 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "second", 6), 0);
    expect_lost(conn, KA_BY_AGE, 0);
    CHECK(hears(peer, "first second"));
    CHECK_EQ(last_heard(peer), 0);
    EXPECT_QUIET();
    CHECK_EQ(lost_after(10100), 1);
    CHECK(event.conn == silent && event.reason == KA_BY_AGE);
    CHECK_EQ(last_heard(mute), 0);
    close(peer);
    close(mute);
    close_stream();
}

static void age_ends_one_whose_peer_does_not_read(void) {
    struct ka_stream_limits limits = {.age_ms = 5000};
    int peers[2], i;
    struct ka_conn *conn[2];

    open_stream(&limits);
    for (i = 0; i < 2; i++) {
        conn[i] = meet(&peers[i]);
        CHECK_EQ(pour(conn[i], 0, PLENTY), 1);
    }
    ka_conn_close(&stream, conn[0]);
    CHECK_EQ(lost_after(5100), 0);
    CHECK_EQ(lost_after(5100), 2); /* the delay is no longer than the age */
    CHECK_EQ(event.reason, KA_BY_AGE);
    CHECK_EQ(stream.stats.buffered, 0);
    for (i = 0; i < 2; i++)
        close(peers[i]);
    close_stream();
}

/* ---- shutdown ----------------------------------------------------------- */

static void closing_the_server_lets_answers_out(void) {
    int resting, asking, stuck, before = open_descriptors();
    struct ka_conn *idle, *owing, *full;

    open_stream(NULL);
    idle = meet(&resting);
    owing = meet(&asking);
    full = meet(&stuck);
    say(asking, "question");
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(pour(full, 0, PLENTY), 1);
    CHECK_EQ(ka_stream_close(&stream, 5000), 0);
    expect_lost(idle, KA_BY_SHUTDOWN, 0);
    CHECK_EQ(last_heard(resting), 0);
    EXPECT_QUIET();
    CHECK_EQ(ka_conn_write(&stream, owing, "answer", 6), 0);
    expect_lost(owing, KA_BY_SHUTDOWN, 0);
    CHECK(hears(asking, "answer"));
    close(resting);
    close(asking);
    CHECK_EQ(lost_after(4900), 0);
    advance(120);
    expect_lost(full, KA_BY_SHUTDOWN, 0);
    EXPECT(KA_STREAM_OVER);
    EXPECT(KA_STREAM_OVER);
    CHECK_EQ(ka_stream_close(&stream, 0), 0);
    EXPECT(KA_STREAM_OVER);
    close(stuck);
    close_stream();
    CHECK_EQ(open_descriptors(), before);
}

/* Half of the answer waits here when the server is closed. */
static void closing_the_server_lets_long_answers_out(void) {
    struct ka_stream_event lost = {0};
    int peer, half;
    struct ka_conn *conn, *other;
    uint64_t got;

    open_stream(NULL);
    conn = meet(&peer);
    other = meet(&half);
    say(peer, "question");
    say(half, "question");
    EXPECT(KA_STREAM_DATA);
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(ka_stream_close(&stream, INT64_MAX), -ERANGE);
    CHECK_EQ(ka_stream_close(&stream, 5000), 0);
    CHECK_EQ(pour(conn, 0, PLENTY), 1);
    CHECK(swallow(peer, &got, &lost));
    CHECK_EQ(got, PLENTY);
    CHECK_EQ(lost.reason, KA_BY_SHUTDOWN);
    EXPECT_QUIET();
    CHECK_EQ(ka_conn_write_eof(&stream, other), 0); /* is an answer */
    expect_lost(other, KA_BY_SHUTDOWN, 0);
    close(peer);
    close(half);
    settle();
    EXPECT(KA_STREAM_OVER);
    close_stream();
}

static void closing_at_once_cuts_all(void) {
    int peers[3], i;

    open_stream(NULL);
    for (i = 0; i < 3; i++)
        (void)meet(&peers[i]);
    ka_conn_close(&stream, event.conn);
    EXPECT(KA_STREAM_LOST); /* its struct must outlive this event */
    CHECK_EQ(ka_stream_close(&stream, 0), 0);
    CHECK(event.conn->user == NULL);
    EXPECT(KA_STREAM_LOST);
    EXPECT(KA_STREAM_LOST);
    EXPECT(KA_STREAM_OVER);
    CHECK_EQ(stream.stats.ended[KA_BY_SHUTDOWN], 2);
    for (i = 0; i < 3; i++) {
        CHECK(last_heard(peers[i]) != -1);
        close(peers[i]);
    }
    close_stream();
}

static void closing_without_a_bound_waits(void) {
    int peer;
    struct ka_conn *conn;

    open_stream(NULL);
    conn = meet(&peer);
    say(peer, "?");
    EXPECT(KA_STREAM_DATA);
    CHECK_EQ(ka_stream_close(&stream, -1), 0);
    CHECK_EQ(lost_after(1000000), 0);
    CHECK_EQ(ka_conn_write(&stream, conn, "!", 1), 0);
    expect_lost(conn, KA_BY_SHUTDOWN, 0);
    (void)lost_after(2100); /* lingering, the peer keeps its side open */
    EXPECT(KA_STREAM_OVER);
    close(peer);
    close_stream();
}

int main(void) {
    static const char *const names[] = {BEST_POLLER, "poll"};
    size_t i;

    for (i = 0; i < 2; i++) {
        backend = ka_loop_backend(names[i]);
        RUN(the_silent_one_ends_and_no_other);
        RUN(an_idle_one_is_rescued_before_its_turn);
        RUN(the_limit_of_one_may_differ);
        RUN(closing_with_unread_input_loses_no_answer);
        RUN(a_small_answer_survives_unread_input);
        RUN(lingering_has_an_end);
        RUN(an_end_that_has_come_already_is_not_waited_for);
        RUN(abort_drops_what_waits);
        RUN(the_old_ones_end);
        RUN(an_owed_answer_is_given_before_age_ends_it);
        RUN(age_ends_one_whose_peer_does_not_read);
        RUN(closing_the_server_lets_answers_out);
        RUN(closing_the_server_lets_long_answers_out);
        RUN(closing_at_once_cuts_all);
        RUN(closing_without_a_bound_waits);
    }
    return test_report("test_stream_ends");
}

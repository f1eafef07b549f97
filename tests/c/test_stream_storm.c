/* test_stream_storm.c - both sides do anything at any time, by a seed.
 *
 * Whatever happens: bytes arrive in order, each accepted connection is lost
 * once and never heard of again, the counts agree, no descriptor is left.
 *
 * SEED=n repeats one run.
 */
#include "stream_fixture.h"

#define SLOTS 200
#define ACTIONS 20000

struct side { /* what the owner knows; freed with the last event */
    struct ka_conn *conn;
    uint64_t got, put;
    int has_ended;
    int at; /* in the table below */
};

struct peer {
    int sock;
    uint64_t got, put;
};

static struct side *known[4 * SLOTS];
static int known_count;
static struct peer peers[SLOTS];
static uint64_t state;
static uint64_t accepted, lost;

static uint32_t any(uint32_t below) {
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static void remember(struct ka_conn *conn) {
    struct side *side = calloc(1, sizeof *side);

    loop_need(side != NULL && known_count < 4 * SLOTS, "room");
    CHECK(conn->user == NULL);
    side->conn = conn;
    side->at = known_count;
    known[known_count++] = side;
    conn->user = side;
    conn->own_buffer = any(4) == 0;
    accepted++;
}

static void forget(struct side *side) {
    known[side->at] = known[--known_count];
    known[side->at]->at = side->at;
    free(side);
    lost++;
}

static void owner_acts(struct side *side) {
    struct ka_conn *conn = side->conn;
    size_t size;
    int rc;

    switch (any(16)) {
        case 0:
            ka_conn_pause_reading(&stream, conn);
            break;
        case 1:
        case 2:
            ka_conn_resume_reading(&stream, conn);
            break;
        case 3:
            ka_conn_close(&stream, conn);
            break;
        case 4:
            if (any(4) == 0)
                ka_conn_abort(&stream, conn, KA_BY_OWNER, 0);
            break;
        case 5:
            if (any(2) == 0)
                ka_conn_write_eof(&stream, conn);
            break;
        case 6:
            ka_conn_set_idle(&stream, conn, any(20) * 1000);
            break;
        case 7:
            size = any(100000);
            ka_conn_set_marks(&stream, conn, size, size / (1 + any(4)));
            break;
        default:
            size = any(any(10) ? 3000 : 3000000);
            rc = pour(conn, side->put, size);
            CHECK(rc == 0 || rc == 1 || rc == -EPIPE);
            if (rc >= 0)
                side->put += size;
    }
}

static void owner_reads(struct side *side) {
    static char own[5000];
    int64_t got;

    if (!side->conn->own_buffer) {
        CHECK(is_numbered(event.data, side->got, event.size));
        side->got += event.size;
        return;
    }
    got = ka_stream_receive(&stream, side->conn, own, 1 + any(sizeof own));
    if (got > 0) {
        CHECK(is_numbered(own, side->got, (size_t)got));
        side->got += (uint64_t)got;
    }
}

/* One event, and what the owner makes of it. */
static int pull(void) {
    int kind = ka_stream_next(&stream, &event);
    struct side *side;

    if (kind == KA_STREAM_ACCEPTED)
        remember(event.conn);
    if (!event.conn)
        return kind;
    side = event.conn->user;
    if (!CHECK(side != NULL && side->conn == event.conn))
        return kind;
    if (kind == KA_STREAM_DATA || kind == KA_STREAM_FILL)
        owner_reads(side);
    if (kind == KA_STREAM_EOF) {
        CHECK(!side->has_ended);
        side->has_ended = 1;
    }
    if (kind == KA_STREAM_LOST) {
        CHECK(side->got == event.conn->received);
        if (any(3) == 0) /* on its last event: still harmless */
            owner_acts(side);
        forget(side);
    } else if (any(3) == 0) {
        owner_acts(side);
    }
    return kind;
}

static void peer_sends(struct peer *peer) {
    size_t size = 1 + any(any(10) ? 3000 : 300000);
    char *bytes = numbered(peer->put, size);
    ssize_t sent = send(peer->sock, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);

    peer->put += sent > 0 ? (uint64_t)sent : 0;
    free(bytes);
}

static void peer_acts(struct peer *peer) {
    int ended = 0, good = 1, i;
    int64_t got;

    if (peer->sock < 0) {
        peer->sock = dial();
        peer->got = peer->put = 0;
        return;
    }
    switch (any(20)) {
        case 0:
            close(peer->sock);
            peer->sock = -1;
            break;
        case 1:
            loop_reset(&peer->sock);
            break;
        case 2:
            shutdown(peer->sock, SHUT_WR);
            break;
        case 3:
        case 4:
        case 5:
        case 6:
        case 7:
        case 8:
            peer_sends(peer);
            break;
        default:
            for (i = 0; i < 4; i++) {
                got = sip(peer->sock, peer->got, &ended, &good);
                if (got > 0)
                    peer->got += (uint64_t)got;
            }
            CHECK(good);
    }
}

static void the_end(void) {
    int i, tries;

    CHECK_EQ(ka_stream_close(&stream, 3000), 0);
    for (tries = 0; tries < 100000; tries++) {
        if (pull() == KA_STREAM_OVER)
            break;
        if (event.kind == KA_STREAM_WAIT)
            advance(50);
    }
    CHECK_EQ(event.kind, KA_STREAM_OVER);
    CHECK_EQ(known_count, 0);
    CHECK_EQ(accepted, lost);
    CHECK_EQ(accepted, stream.stats.accepted);
    CHECK_EQ(stream.stats.open, 0);
    CHECK_EQ(stream.stats.lingering, 0);
    CHECK_EQ(stream.stats.buffered, 0);
    CHECK(consistent());
    for (i = 0; i < SLOTS; i++) {
        if (peers[i].sock >= 0)
            close(peers[i].sock);
    }
}

static void storm(uint64_t seed, const struct ka_stream_limits *limits) {
    int i, before = open_descriptors();

    state = seed;
    accepted = lost = 0;
    for (i = 0; i < SLOTS; i++)
        peers[i].sock = -1;
    open_stream(limits);
    for (i = 0; i < ACTIONS && !test.failures; i++) {
        if (any(3) == 0 && known_count > 0)
            owner_acts(known[any((uint32_t)known_count)]);
        else
            peer_acts(&peers[any(SLOTS)]);
        while (any(4))
            pull();
        if (any(50) == 0)
            advance(any(1000));
        CHECK(consistent());
        if (limits->max_connections > 0)
            CHECK(stream.stats.open <= limits->max_connections);
    }
    the_end();
    close_stream();
    CHECK_EQ(open_descriptors(), before);
    if (test.failures)
        printf("SEED=%llu\n", (unsigned long long)seed);
}

static uint64_t seed = 1;

static void without_limits(void) {
    struct ka_stream_limits limits = {0};

    storm(seed, &limits);
}

static void with_all_limits(void) {
    struct ka_stream_limits limits = {
        .idle_ms = 5000, .age_ms = 60000, .max_connections = 90};

    storm(seed + 1, &limits);
}

int main(void) {
    static const char *const names[] = {BEST_POLLER, "poll"};
    size_t i;

    if (getenv("SEED"))
        seed = strtoull(getenv("SEED"), NULL, 10);
    for (i = 0; i < 2; i++) {
        backend = ka_loop_backend(names[i]);
        RUN(without_limits);
        RUN(with_all_limits);
    }
    return test_report("test_stream_storm");
}

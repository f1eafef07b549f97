/* stream_fixture.h - a server on the loopback whose clock the test moves.
 *
 * The test is the owner: it pulls events one by one. The clock stands still,
 * so nothing falls idle unless the test says so. Peers are plain sockets that
 * give up after two seconds.
 */
#ifndef KA_STREAM_FIXTURE_H
#define KA_STREAM_FIXTURE_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

#include "test.h"
#include "stream.h"
#include "loop.h"
#include "pollers.h"

static const struct ka_backend *backend; /* of all that is opened */
static struct ka_stream stream;
static struct sockaddr_in address;
static struct ka_stream_event event; /* the last one */

static inline void need_nonblocking(int sock) {
    loop_need(fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) | O_NONBLOCK) == 0,
              "fcntl");
}

static inline void open_stream(const struct ka_stream_limits *limits) {
    static const struct ka_stream_limits none;
    int listener = loop_listen(&address);

    need_nonblocking(listener);
    CHECK_EQ(
        ka_stream_init(&stream, listener, limits ? limits : &none, backend),
        0);
    ka_loop_freeze(&stream.loop, 1000);
}

static inline void close_stream(void) {
    ka_stream_free(&stream);
}

static inline void advance(int64_t ms) {
    ka_loop_advance(&stream.loop, (uint32_t)(ms / KA_TICK_MS));
}

static inline void nap(void) {
    struct timespec little = {0, 200000};

    nanosleep(&little, NULL);
}

/* The next event; KA_STREAM_WAIT when none comes in two seconds. */
static inline int next_event(void) {
    int tries, kind = KA_STREAM_WAIT;

    for (tries = 0; tries < 5000 && kind == KA_STREAM_WAIT; tries++) {
        kind = ka_stream_next(&stream, &event);
        if (kind == KA_STREAM_WAIT)
            nap();
    }
    return kind;
}

#define EXPECT(kind) CHECK_EQ(next_event(), kind)

/* Nothing is to be told, and the poller finds nothing either: what nobody
 * waits for must not keep the loop awake. */
static inline int is_quiet(void) {
    uint64_t before;
    int i;

    for (i = 0; i < 20; i++) {
        if (ka_stream_next(&stream, &event) != KA_STREAM_WAIT)
            return 0;
        nap();
    }
    before = stream.loop.stats.events;
    for (i = 0; i < 20; i++) {
        if (ka_stream_next(&stream, &event) != KA_STREAM_WAIT)
            return 0;
        nap();
    }
    return stream.loop.stats.events == before;
}
#define EXPECT_QUIET() CHECK(is_quiet())

static inline int dial(void) {
    struct timeval patience = {2, 0};
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    loop_need(sock >= 0, "socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    loop_need(connect(sock, (struct sockaddr *)&address, sizeof address) == 0,
              "connect");
    return sock;
}

/* A peer and the connection that it is to the server. */
static inline struct ka_conn *meet(int *peer) {
    *peer = dial();
    EXPECT(KA_STREAM_ACCEPTED);
    return event.conn;
}

static inline void say(int peer, const char *text) {
    loop_need(
        send(peer, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text),
        "send");
}

/* Whether that is what the peer reads next. */
static inline int hears(int peer, const char *text) {
    size_t size = strlen(text);
    char got[256];

    return size <= sizeof got &&
           recv(peer, got, size, MSG_WAITALL) == (ssize_t)size &&
           memcmp(got, text, size) == 0;
}

/* What ends the peer's reading: 0 for FIN, or errno; -1 for more data. */
static inline int last_heard(int peer) {
    char got;
    ssize_t rc = recv(peer, &got, 1, 0);

    if (rc < 0)
        return errno;
    return rc == 0 ? 0 : -1;
}

/* The tail of what one connection was sent is known by its place. */
static inline char nth_byte(uint64_t place) {
    return (char)(place * 7 + (place >> 8));
}

static inline char *numbered(uint64_t from, size_t size) {
    char *bytes = malloc(size ? size : 1);
    size_t i;

    loop_need(bytes != NULL, "malloc");
    for (i = 0; i < size; i++)
        bytes[i] = nth_byte(from + i);
    return bytes;
}

static inline int is_numbered(const char *bytes, uint64_t from, size_t size) {
    size_t i;

    for (i = 0; i < size; i++) {
        if (bytes[i] != nth_byte(from + i))
            return 0;
    }
    return 1;
}

/* Write that many numbered bytes. */
static inline int pour(struct ka_conn *conn, uint64_t from, size_t size) {
    char *bytes = numbered(from, size);
    int rc = ka_conn_write(&stream, conn, bytes, size);

    free(bytes);
    return rc;
}

/* More than the kernel takes at once, with the peer not reading. */
#define PLENTY ((size_t)8 << 20)

/* What the peer can read without waiting; -1 and errno at an error, and
 * *ended at FIN. */
static inline int64_t sip(int peer, uint64_t from, int *ended, int *good) {
    static char bytes[1 << 16];
    ssize_t got = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT);

    if (got > 0)
        *good &= is_numbered(bytes, from, (size_t)got);
    if (got == 0)
        *ended = 1;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    return got;
}

static inline int consistent(void) {
    const struct ka_stream_stats *stats = &stream.stats;
    uint64_t ended = 0;
    int i;

    for (i = 0; i < 7; i++)
        ended += stats->ended[i];
    return stats->accepted == ended + stats->open;
}

static inline void expect_lost(const struct ka_conn *conn, int reason,
                               int error) {
    EXPECT(KA_STREAM_LOST);
    CHECK(event.conn == conn);
    CHECK_EQ(event.reason, reason);
    CHECK_EQ(event.error, error);
    CHECK(consistent());
}

/* Advance, and let everything be told that this brings about; how many
 * connections were lost, the last of them in `event`. */
static inline int lost_after(int64_t ms) {
    struct ka_stream_event last = event;
    int count = 0, quiet = 0;

    advance(ms);
    while (quiet < 5) {
        if (ka_stream_next(&stream, &event) == KA_STREAM_LOST) {
            last = event;
            count++;
            quiet = 0;
        } else {
            quiet +=
                event.kind == KA_STREAM_WAIT || event.kind == KA_STREAM_OVER;
            nap();
        }
    }
    event = last;
    return count;
}

static inline int open_descriptors(void) {
    int fd, count = 0;

    for (fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

#endif

/* loop_fixture.h - a loop on each poller in turn, with a clock that stands. */
#ifndef KA_LOOP_FIXTURE_H
#define KA_LOOP_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>

#include "test.h"
#include "../core/loop.h"
#include "pollers.h"

#define BEGAN 0xFFFFFFF0u /* a tick that soon wraps round */
#define LIMIT 50u

static const struct ka_backend *chosen;
static struct ka_loop loop;

static inline void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(99);
    }
}

static inline void open_loop(void) {
    need(ka_loop_init(&loop, chosen) == 0, "ka_loop_init");
    ka_loop_freeze(&loop, BEGAN);
}

static inline void close_loop(void) {
    CHECK(ka_table_verify(&loop.table) == NULL);
    ka_loop_close(&loop);
}

static inline void run_on(const char *name, void (*body)(void),
                          const char *poller) {
    char both[100];

    chosen = ka_loop_backend(poller);
    need(chosen != NULL, poller);
    snprintf(both, sizeof both, "%s on %s", name, poller);
    test.before = open_loop;
    test.after = close_loop;
    test_run(both, body);
    test.before = test.after = NULL;
}

#define RUN_BOTH(body)                    \
    do {                                  \
        run_on(#body, body, BEST_POLLER); \
        run_on(#body, body, "poll");      \
    } while (0)

/* One round, as a binding makes it. For ever is five seconds, so that a loop
 * that misses something fails and does not hang. */
static inline int go(int64_t timeout_ms) {
    int rc = ka_loop_begin(&loop, timeout_ms < 0 ? 5000 : timeout_ms);

    while (rc == KA_LOOP_WAIT) {
        ka_loop_wait(&loop);
        rc = ka_loop_finish(&loop);
    }
    return rc;
}

/* What the batch says of an entry. */
static inline uint32_t said(ka_id id) {
    int i;

    for (i = 0; i < loop.count; i++) {
        if (loop.event[i].id == id)
            return loop.event[i].events;
    }
    return 0;
}

static inline ka_id add(ka_sock fd, uint32_t events, ka_tick limit,
                        void *user) {
    ka_id id = 0;

    CHECK_EQ(ka_loop_add(&loop, fd, events, limit, user, &id), 0);
    return id;
}

static inline void open_pair(int pair[2]) {
    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                    pair) == 0,
         "socketpair");
}

static inline void close_pair(int pair[2]) {
    close(pair[0]);
    close(pair[1]);
}

static inline void say(int fd) {
    CHECK_EQ(write(fd, "x", 1), 1);
}

static inline void hear(int fd) {
    char buffer[64];

    CHECK(read(fd, buffer, sizeof buffer) > 0);
}

static inline int64_t real_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif

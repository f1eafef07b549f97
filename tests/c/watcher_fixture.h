/* watcher_fixture.h - a watcher that is stepped, and connections for it.
 *
 * Ages are the kernel's, so limits are short and time must really pass; the
 * watcher's thread runs only where a test starts it.
 */
#ifndef KA_WATCHER_FIXTURE_H
#define KA_WATCHER_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stddef.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <time.h>

#include "loop.h"
#include "test.h"
#include "../core/os.h"
#include "../core/ward.h"

#define QUEUE 4096
#define PATIENCE_MS 8000 /* of the tests, on a busy machine */

static struct ka_watcher *watcher;
static struct ka_watcher_settings settings;
static struct ka_occurrence event; /* the last that was taken */
static struct sockaddr_in place;   /* of `listener` */
static int listener;

/* What is asked for nothing and does nothing. */
static inline void blank_settings(void) {
    int i;

    memset(&settings, 0, sizeof settings);
    settings.limits.never_spoke_ms = settings.limits.unanswered_ms =
        settings.limits.answered_ms = settings.limits.stalled_ms =
            settings.limits.min_rate = settings.limits.detect_ms =
                settings.limits.idle_ms = KA_NO_TIME;
    settings.discover = 1;
    settings.evict_above = KA_NO_TIME;
    settings.closes_per_second = 1000000;
    for (i = 0; i < KA_OPTIONS; i++)
        settings.pace.value[i] = KA_LEAVE;
}

static inline void open_watcher(void) {
    loop_need(ka_watcher_new(&watcher, &settings, QUEUE) == 0,
              "ka_watcher_new");
}

static inline void update(void) {
    CHECK_EQ(ka_watcher_update(watcher, &settings), 0);
}

static inline void close_watcher(void) {
    if (watcher) {
        ka_watcher_stop(watcher);
        CHECK(ka_table_verify(&watcher->table) == NULL);
        ka_watcher_free(watcher);
    }
    watcher = NULL;
}

static inline void begin_case(void) {
    blank_settings();
    listener = loop_listen(&place);
    watcher = NULL;
}

static inline void end_case(void) {
    close_watcher();
    if (listener >= 0)
        close(listener);
}

/* near is the client, far is what a server accepted and is guarded. */
static inline struct pair meet(void) {
    return loop_connect(listener, &place);
}

static inline void part(struct pair *pair) {
    loop_close(pair);
}

static inline uint64_t name_of(int fd) {
    uint64_t identity = 0;

    CHECK_EQ(ka_identify(fd, &identity), 0);
    return identity;
}

static inline int64_t watch(int fd, int64_t detect_ms, int64_t idle_ms,
                            int deed) {
    int64_t token = ka_watcher_watch(watcher, fd, name_of(fd), NULL, detect_ms,
                                     idle_ms, deed);

    CHECK(token > 0);
    return token;
}

static inline void nap(int64_t ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

/* One event, when there is one now. */
static inline int taken(void) {
    return ka_watcher_take(watcher, &event, 1, 0) == 1;
}

static inline int64_t step_now(void) {
    return ka_watcher_step(watcher, ka_os_now_ms());
}

/* Steps for so long; not until an event. */
static inline void step_for(int64_t ms) {
    int64_t end = ka_os_now_ms() + ms, delay, left;

    while ((left = end - ka_os_now_ms()) > 0) {
        delay = step_now();
        if (delay != 0)
            nap(delay > 0 && delay < 5 ? delay : left < 5 ? left : 5);
    }
    (void)step_now();
}

/* Steps until there is an event, which it takes. */
static inline int told(void) {
    int64_t end = ka_os_now_ms() + PATIENCE_MS;

    while (ka_os_now_ms() < end) {
        if (taken())
            return 1;
        if (step_now() != 0)
            nap(3);
    }
    return CHECK(!"an event comes");
}

static inline int told_of(int fd, int cause) {
    uint64_t identity = name_of(fd);

    return told() && CHECK_EQ(event.cause, cause) &&
           CHECK_EQ(event.identity, identity);
}

/* Nothing to read, no end, no error; and takes nothing of it away. */
static inline int is_well(int fd) {
    struct pollfd seen = {.fd = fd, .events = POLLIN | POLLRDHUP};

    return poll(&seen, 1, 0) == 0;
}

/* A clean end of stream. */
static inline int at_end(int fd) {
    char byte;

    return (loop_await(fd, POLLIN) & POLLIN) &&
           recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static inline void say(int fd, const char *text) {
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static inline void hear(int fd, const char *text) {
    char heard[100];

    CHECK(loop_await(fd, POLLIN) & POLLIN);
    CHECK_EQ(recv(fd, heard, sizeof heard, 0), strlen(text));
}

/* One question, one answer: what then is answered. */
static inline void exchange(const struct pair *pair) {
    say(pair->near, "ping");
    hear(pair->far, "ping");
    nap(8); /* two ticks of the kernel: no tie */
    say(pair->far, "pong");
    hear(pair->near, "pong");
}

/* From now on nothing reaches `fd`, and it answers nothing: its peer sees a
 * host that has vanished. */
static inline void vanish(int fd) {
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {1, &drop};

    CHECK_EQ(
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program),
        0);
}

static inline uint64_t stat_of(size_t offset) {
    struct ka_watcher_stats stats;
    uint64_t value;

    ka_watcher_stats(watcher, &stats);
    memcpy(&value, (char *)&stats + offset, sizeof value);
    return value;
}
#define STAT(member) stat_of(offsetof(struct ka_watcher_stats, member))

#endif

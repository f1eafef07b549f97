/* limit.c - what the kernel itself costs, in C loops that time themselves.
 *
 * Compiled by native.py when the benchmarks start, together with the C core.
 * Every function returns the nanoseconds that all its rounds took, or -errno.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "stillalive.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define USER_TIMEOUT 18 /* TCP_USER_TIMEOUT */
#define RTO_MAX 44      /* TCP_RTO_MAX_MS, missing in older headers */
#define INFO_BYTES 280  /* as much of TCP_INFO as the C core asks for */
#define SEGS_IN_AT 140  /* tcpi_segs_in */

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

static int set_int(int fd, int level, int number, int value) {
    return setsockopt(fd, level, number, &value, sizeof value);
}

static int get_int(int fd, int level, int number) {
    int value = 0;
    socklen_t size = sizeof value;

    return getsockopt(fd, level, number, &value, &size);
}

/* The price of entering the kernel five times and doing nothing there. */
int64_t limit_five_getppid(long rounds) {
    int64_t began = now_ns();

    while (rounds-- > 0) {
        int i;

        for (i = 0; i < 5; i++)
            (void)syscall(SYS_getppid);
    }
    return now_ns() - began;
}

int64_t limit_tune(int fd, int idle, int interval, int count, int timeout_ms,
                   long rounds) {
    int64_t began = now_ns();

    while (rounds-- > 0)
        if (set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1) < 0 ||
            set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval) < 0 ||
            set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, count) < 0 ||
            set_int(fd, IPPROTO_TCP, USER_TIMEOUT, timeout_ms) < 0 ||
            set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle) < 0)
            return -errno;
    return now_ns() - began;
}

int64_t limit_apply_fresh(int fd, const struct ka_policy *policy,
                          long rounds) {
    int64_t began = now_ns();
    struct ka_fault fault;

    while (rounds-- > 0) {
        int rc = ka_apply_fresh(fd, policy, &fault);

        if (rc < 0)
            return rc;
    }
    return now_ns() - began;
}

int64_t limit_apply(int fd, const struct ka_policy *policy, long rounds) {
    int64_t began = now_ns();
    struct ka_policy held;
    struct ka_fault fault;

    while (rounds-- > 0) {
        int rc = ka_apply(fd, policy, &held, &fault);

        if (rc < 0)
            return rc;
    }
    return now_ns() - began;
}

static int tcp_info(int fd, unsigned char *raw) {
    socklen_t size = INFO_BYTES;

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, raw, &size);
}

int64_t limit_check(int fd, long rounds) {
    int64_t began = now_ns();
    unsigned char raw[INFO_BYTES];

    while (rounds-- > 0) {
        struct pollfd seen = {.fd = fd, .events = POLLIN | POLLRDHUP};

        if (poll(&seen, 1, 0) < 0 || tcp_info(fd, raw) < 0)
            return -errno;
    }
    return now_ns() - began;
}

int64_t limit_core_check(int fd, long rounds) {
    int64_t began = now_ns();
    struct ka_verdict verdict;

    while (rounds-- > 0) {
        int rc = ka_check(fd, &verdict);

        if (rc < 0)
            return rc;
    }
    return now_ns() - began;
}

/* An option that this kernel lacks costs about the same: no error here. */
int64_t limit_describe(int fd, long rounds) {
    int64_t began = now_ns();
    unsigned char raw[INFO_BYTES];

    while (rounds-- > 0) {
        (void)get_int(fd, SOL_SOCKET, SO_KEEPALIVE);
        (void)get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE);
        (void)get_int(fd, IPPROTO_TCP, TCP_KEEPINTVL);
        (void)get_int(fd, IPPROTO_TCP, TCP_KEEPCNT);
        (void)get_int(fd, IPPROTO_TCP, USER_TIMEOUT);
        (void)get_int(fd, IPPROTO_TCP, RTO_MAX);
        if (tcp_info(fd, raw) < 0)
            return -errno;
    }
    return now_ns() - began;
}

static int64_t segments_in(int fd) {
    unsigned char raw[INFO_BYTES];
    uint32_t segments;

    if (tcp_info(fd, raw) < 0)
        return -errno;
    memcpy(&segments, raw + SEGS_IN_AT, sizeof segments);
    return segments;
}

/* One probe of a connection idle for more than a second, watched without
 * sleeping: how soon the kernel asks and the answer is there. The options
 * are put back after the clock has stopped. */
int64_t limit_probe(int fd, int idle_before, long timeout_ms) {
    int64_t before = segments_in(fd), began, seen, took;

    if (before < 0)
        return before;
    began = now_ns();
    if (set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1) < 0 ||
        set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1) < 0)
        return -errno;
    do {
        seen = segments_in(fd);
        took = now_ns() - began;
    } while (seen == before && took < timeout_ms * 1000000);
    if (set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 0) < 0 ||
        set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_before) < 0)
        return -errno;
    if (seen < 0)
        return seen;
    return seen == before ? -ETIMEDOUT : took;
}

struct looked {
    volatile int64_t looks, took;
};

/* For ever: `count` connections are asked once in `limit_ms`, a handful ten
 * times a second, whatever else the machine is doing. */
void limit_looks(const int *fds, int count, long limit_ms,
                 struct looked *looked) {
    struct timespec pause = {0, 100 * 1000000};
    unsigned char raw[INFO_BYTES];
    int at = 0, left;
    int64_t before;

    for (;;) {
        nanosleep(&pause, NULL);
        before = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (left = (int)(count * 100L / limit_ms); left > 0; left--) {
            (void)tcp_info(fds[at], raw);
            at = (at + 1) % count;
            looked->looks++;
        }
        looked->took += clock_ns(CLOCK_THREAD_CPUTIME_ID) - before;
    }
}

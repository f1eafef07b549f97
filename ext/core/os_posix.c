/* os_posix.c - clock, poll, wake and sockets of Linux, macOS and the BSDs.
 *
 * What can go wrong, and how this file stops it:
 *
 * Clocks. CLOCK_MONOTONIC counts a suspended machine's time on some systems
 * and not on others, and then a laptop that wakes up finds every connection
 * idle. Each system's clock that stops is named below. Linux's coarse one
 * costs a fifth and lags by a jiffy, or two; it is taken when one is no more
 * than a tick. Tick and milliseconds come from the same clock by the same
 * rounding, so that one is always a tenth of the other.
 *
 * Signals. A read, write or accept that a signal interrupts is done again:
 * nothing here blocks. A poll is not: its caller has to look around. The
 * wake runs in signal handlers, so it leaves errno as it was. SIGPIPE never
 * comes.
 *
 * Fork and exec. Every descriptor is born with close-on-exec where the
 * system can do so. The number of forks is counted by a handler in the
 * child, which costs the loop one load to ask, where getpid is a system call.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE
#endif
#ifndef _NETBSD_SOURCE
#define _NETBSD_SOURCE
#endif
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define KA_TICK_NS 10000000
#define KA_MS_NS 1000000

/* The clock that stands still while the machine sleeps. */
#if defined(CLOCK_UPTIME_RAW) /* macOS */
#define KA_CLOCK CLOCK_UPTIME_RAW
#elif defined(CLOCK_UPTIME) /* FreeBSD, OpenBSD, DragonFly */
#define KA_CLOCK CLOCK_UPTIME
#else
#define KA_CLOCK CLOCK_MONOTONIC
#endif

/* Others have a clock of this name, but getres does not tell its lag. */
#if defined(__linux__) && defined(CLOCK_MONOTONIC_COARSE)
#define KA_CLOCK_COARSE CLOCK_MONOTONIC_COARSE
#else
#define KA_CLOCK_COARSE KA_CLOCK
#endif

/* Where sockets can be born so, accept4 and pipe2 exist, too. */
#if defined(SOCK_CLOEXEC) && defined(SOCK_NONBLOCK)
#define KA_BORN_READY 1
#else
#define KA_BORN_READY 0
#endif

#ifndef MSG_NOSIGNAL /* old macOS: SO_NOSIGPIPE instead */
#define MSG_NOSIGNAL 0
#endif

#define KA_MOST_SLICES 64
#define KA_MOST_BYTES ((size_t)1 << 30) /* macOS refuses more than INT_MAX */

/* ---- time --------------------------------------------------------------- */

/* The clock's number + 1; 0: not chosen. Threads that choose at the same
 * time choose the same. */
static _Atomic int ka_chosen;

static int choose_clock(void) {
    struct timespec step;
    int chosen = KA_CLOCK;

    if (clock_getres(KA_CLOCK_COARSE, &step) == 0 && step.tv_sec == 0 &&
        step.tv_nsec <= KA_TICK_NS)
        chosen = KA_CLOCK_COARSE;
    atomic_store_explicit(&ka_chosen, chosen + 1, memory_order_relaxed);
    return chosen;
}

static inline void read_clock(struct timespec *now) {
    int chosen = atomic_load_explicit(&ka_chosen, memory_order_relaxed) - 1;

    if (chosen < 0)
        chosen = choose_clock();
    clock_gettime((clockid_t)chosen, now);
}

int64_t ka_os_now_ms(void) {
    struct timespec now;

    read_clock(&now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / KA_MS_NS;
}

uint32_t ka_os_tick(void) {
    struct timespec now;

    read_clock(&now);
    /* 32 bit throughout: no division of 64 bit. */
    return (uint32_t)now.tv_sec * 100u + (uint32_t)now.tv_nsec / KA_TICK_NS;
}

int64_t ka_os_clock_lag_ms(void) {
    struct timespec step, now;

    read_clock(&now); /* so that the clock is chosen */
    if (clock_getres((clockid_t)(atomic_load_explicit(&ka_chosen,
                                                      memory_order_relaxed) -
                                 1),
                     &step) < 0)
        return KA_TICK_NS / KA_MS_NS;
    if (step.tv_sec == 0 && step.tv_nsec <= 1000)
        return 0; /* that is its unit, no lag */
    /* Twice: a busy processor brings it forward a jiffy late. */
    return (int64_t)step.tv_sec * 2000 +
           (2 * step.tv_nsec + KA_MS_NS - 1) / KA_MS_NS;
}

/* ---- fork --------------------------------------------------------------- */

static _Atomic unsigned ka_forks;
static pthread_once_t ka_forks_watched = PTHREAD_ONCE_INIT;

static void count_fork(void) {
    atomic_fetch_add_explicit(&ka_forks, 1, memory_order_relaxed);
}

static void watch_forks(void) {
    (void)pthread_atfork(NULL, NULL, count_fork);
}

unsigned ka_os_fork_generation(void) {
    pthread_once(&ka_forks_watched, watch_forks);
    return atomic_load_explicit(&ka_forks, memory_order_relaxed);
}

/* ---- poll --------------------------------------------------------------- */

size_t ka_os_poll_room(size_t n) {
    return n * sizeof(struct pollfd);
}

static uint32_t found_of(short revents) {
    return (revents & POLLIN ? (uint32_t)KA_READ : 0u) |
           (revents & POLLOUT ? (uint32_t)KA_WRITE : 0u) |
           (revents & POLLERR ? (uint32_t)KA_BROKEN : 0u) |
           (revents & POLLHUP ? (uint32_t)KA_HANGUP : 0u) |
           (revents & POLLNVAL ? (uint32_t)KA_CLOSED : 0u);
}

int ka_os_poll(struct ka_os_polled *polled, size_t n, int timeout_ms,
               void *room) {
    struct pollfd *seen = room;
    size_t i;
    int count;

    for (i = 0; i < n; i++) {
        /* poll passes over all that is negative, wanted or not. */
        seen[i].fd = polled[i].fd < 0 ? INT_MAX : polled[i].fd;
        if (!polled[i].wanted)
            seen[i].fd = -1;
        seen[i].events = (short)((polled[i].wanted & KA_READ ? POLLIN : 0) |
                                 (polled[i].wanted & KA_WRITE ? POLLOUT : 0));
        seen[i].revents = 0;
    }
    count = poll(seen, (nfds_t)n, timeout_ms < 0 ? -1 : timeout_ms);
    if (count < 0)
        return -errno;
    for (i = 0; i < n; i++)
        polled[i].found = count ? found_of(seen[i].revents) : 0;
    return count;
}

/* ---- wake --------------------------------------------------------------- */

/* What the system could not do at birth. */
static int make_ready(int fd) {
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int ka_os_wake_open(ka_sock wake[2]) {
#if KA_BORN_READY
    return pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
#else
    int rc;

    if (pipe(wake) < 0)
        return -errno;
    rc = make_ready(wake[0]);
    if (rc == 0)
        rc = make_ready(wake[1]);
    if (rc < 0)
        ka_os_wake_close(wake);
    return rc;
#endif
}

void ka_os_wake_close(ka_sock wake[2]) {
    ka_os_close(wake[0]);
    ka_os_close(wake[1]);
    wake[0] = wake[1] = -1;
}

int ka_os_wake(const ka_sock wake[2]) {
    int before = errno;
    int rc = 0;

    while (write(wake[1], "", 1) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) /* a full pipe wakes well enough */
            rc = -errno;
        break;
    }
    errno = before;
    return rc;
}

void ka_os_wake_drain(const ka_sock wake[2]) {
    char dropped[256];
    ssize_t size;

    do
        size = read(wake[0], dropped, sizeof dropped);
    while (size == (ssize_t)sizeof dropped || (size < 0 && errno == EINTR));
}

/* ---- sockets ------------------------------------------------------------ */

static void copy_peer(const struct sockaddr_storage *from,
                      struct ka_os_peer *peer) {
    const struct sockaddr_in *four = (const struct sockaddr_in *)from;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

    memset(peer, 0, sizeof *peer);
    if (from->ss_family == AF_INET) {
        peer->family = 4;
        peer->port = ntohs(four->sin_port);
        memcpy(peer->address, &four->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        peer->family = 6;
        peer->port = ntohs(six->sin6_port);
        peer->flow = ntohl(six->sin6_flowinfo);
        peer->scope = six->sin6_scope_id;
        memcpy(peer->address, &six->sin6_addr, 16);
    }
}

/* accept(2), and the flags that one may forget if a fork comes between. */
static int accept_one(int listener, struct sockaddr_storage *from) {
    socklen_t size = sizeof *from;
    int sock;

    from->ss_family = AF_UNSPEC;
    do
#if KA_BORN_READY
        sock = accept4(listener, (struct sockaddr *)from, &size,
                       SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
        sock = accept(listener, (struct sockaddr *)from, &size);
#endif
    while (sock < 0 && errno == EINTR);
    return sock;
}

int ka_os_accept(ka_sock listener, ka_sock *out, struct ka_os_peer *peer) {
    struct sockaddr_storage from;
    int sock = accept_one(listener, &from);

    if (sock < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    if (!KA_BORN_READY) {
        int rc = make_ready(sock);

        if (rc < 0) {
            ka_os_close(sock);
            return rc;
        }
    }
#ifdef SO_NOSIGPIPE
    {
        int on = 1;

        setsockopt(sock, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
    }
#endif
    if (peer)
        copy_peer(&from, peer);
    *out = sock;
    return 0;
}

int64_t ka_os_receive(ka_sock sock, void *buffer, size_t size) {
    ssize_t got;

    if (size > KA_MOST_BYTES)
        size = KA_MOST_BYTES;
    do
        got = recv(sock, buffer, size, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    return got;
}

int64_t ka_os_send(ka_sock sock, const struct ka_os_slice *slices, int count) {
    struct iovec part[KA_MOST_SLICES];
    struct msghdr message;
    size_t left = KA_MOST_BYTES;
    ssize_t sent;
    int i;

    if (count > KA_MOST_SLICES)
        count = KA_MOST_SLICES;
    for (i = 0; i < count && left > 0; i++) {
        part[i].iov_base = (void *)slices[i].data;
        part[i].iov_len = slices[i].size < left ? slices[i].size : left;
        left -= part[i].iov_len;
    }
    memset(&message, 0, sizeof message);
    message.msg_iov = part;
    message.msg_iovlen = (unsigned)i;
    do
        sent = sendmsg(sock, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    return sent;
}

int ka_os_shut_write(ka_sock sock) {
    return shutdown(sock, SHUT_WR) < 0 ? -errno : 0;
}

void ka_os_no_delay(ka_sock sock) {
    int on = 1;

    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int ka_os_pending_error(ka_sock sock) {
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return errno;
    return error;
}

void ka_os_reset_on_close(ka_sock sock) {
    struct linger now = {1, 0};

    setsockopt(sock, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void ka_os_close(ka_sock sock) {
    /* Not again after EINTR: the number may be another's by then. */
    (void)close(sock);
}

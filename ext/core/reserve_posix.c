/* reserve_posix.c - the reserved number on Linux, macOS and the BSDs.
 *
 * What can go wrong, and how this file stops it:
 *
 * Our own numbers. A daemon may close every descriptor it finds, and then
 * open a file or accept a connection that gets the number of our pipe. dup3
 * onto it, or close, would take that away from its owner. So each dup3 and
 * each close is preceded by a fstat: the number must be the pipe, or while
 * it is taken the socket that was put there. Between the two calls there is
 * a moment left, in which somebody would have to close and open. When he is
 * half-way, Linux says EBUSY; nothing has happened then.
 *
 * No number left. dup3 onto a number that is in use needs no new one, so all
 * of this works at EMFILE, where it is wanted most. It does not work when
 * the limit of open files was lowered below our number: Linux says EBADF for
 * this too, and a caller who believed it would forget a connection that is
 * there.
 *
 * Standard numbers. In a process that has closed its standard output the
 * pipe would become it, and take what is printed. So it is moved above 2,
 * and whoever finds it nevertheless does not block on it.
 *
 * Numbers of files. Elsewhere than on Linux the two ends of a pipe have a
 * number each, or none; then the time at which they were made must do, in the
 * kernel's tick. Sockets have none on the BSDs: there a duplicate is known by
 * the ends of its connection, and, when that has just ended and has none any
 * more, by being a socket.
 *
 * No dup3. On macOS a duplicate is put there first and closed on exec a moment
 * later. A program that another thread starts in between inherits it, and the
 * connection stays open until that program ends. It is the system's gap, and
 * that of every open descriptor there.
 *
 * Fork. A child gets its descriptors from one moment and its memory from a
 * later one, so what stands at our number there is what this knows to be
 * there only by chance. It knows the last that were put there.
 *
 * A number that leaks. When the pipe's other end is lost while a socket is
 * taken, the duplicate is closed instead of replaced: kept, it would hold
 * the connection open after its owner's close.
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
#include "reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif

#include "endpoint.h"

#define KA_LOWEST 3
#define KA_NAMELESS 0x40000000
#if defined(__APPLE__) || defined(__NetBSD__)
#define KA_MADE st_ctimespec
#else
#define KA_MADE st_ctim
#endif
#define KA_IPPROTO_MPTCP 262
#define KA_SOL_MPTCP 284
#define KA_MPTCP_INFO 1

/* ---- our own numbers ---------------------------------------------------- */

/* A pipe has an inode, or the moment in which it was made. */
static uint64_t number_of(const struct stat *seen) {
    if (seen->st_ino != 0)
        return (uint64_t)seen->st_ino;
    return S_ISFIFO(seen->st_mode)
               ? (uint64_t)seen->KA_MADE.tv_sec * UINT64_C(1000000000) +
                     (uint64_t)seen->KA_MADE.tv_nsec
               : 0;
}

static int is_pipe(const struct ka_reserve *reserve, int fd) {
    struct stat seen;

    return fd >= 0 && fstat(fd, &seen) == 0 &&
           (uint64_t)seen.st_dev == reserve->device &&
           (number_of(&seen) == reserve->inode ||
            number_of(&seen) == reserve->twin);
}

/* What fits into `taken`, never 0. Linux gives sockets numbers of 32 bits,
 * so all but the top one is there. Others give them none. */
static int32_t mark_of(int fd, const struct stat *seen) {
    uint64_t number = (uint64_t)seen->st_ino;

    if (number == 0 && ka_identify(fd, &number) < 0)
        return KA_NAMELESS;
    return (int32_t)((number ^ number >> 31) & INT32_MAX) | KA_NAMELESS;
}

/* A connection that has ended meanwhile may have no name any more. */
static int has_mark(int fd, const struct stat *seen, int32_t mark) {
    int32_t found = mark_of(fd, seen);

    return found == mark || (found == KA_NAMELESS && seen->st_ino == 0);
}

static int is_duplicate(const struct ka_reserve *reserve) {
    struct stat seen;

    return reserve->taken && fstat(reserve->sock, &seen) == 0 &&
           S_ISSOCK(seen.st_mode) &&
           has_mark(reserve->sock, &seen, reserve->taken);
}

static int duplicate_onto(int from, int to) {
#ifdef __APPLE__
    if (dup2(from, to) < 0)
        return -errno;
    (void)fcntl(to, F_SETFD, FD_CLOEXEC);
    return 0;
#else
    return dup3(from, to, O_CLOEXEC) < 0 ? -errno : 0;
#endif
}

/* In a child. Ours are closed when a program is executed; of somebody who has
 * got the number that would be a coincidence. */
static int is_one_of_late(const struct ka_reserve *reserve) {
    struct stat seen;
    int flags = fcntl(reserve->sock, F_GETFD), i;

    if (flags < 0 || !(flags & FD_CLOEXEC) ||
        fstat(reserve->sock, &seen) < 0 || !S_ISSOCK(seen.st_mode))
        return 0;
    for (i = 0; i < KA_LATELY; i++)
        if (reserve->lately[i] == mark_of(reserve->sock, &seen))
            return 1;
    return 0;
}

/* ---- open and close ----------------------------------------------------- */

static int make_pipe(int end[2]) {
#ifdef __APPLE__
    int i;

    if (pipe(end) < 0)
        return -errno;
    for (i = 0; i < 2; i++) {
        (void)fcntl(end[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(end[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
#else
    return pipe2(end, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
#endif
}

static int move_up(int *fd) {
    int moved;

    if (*fd >= KA_LOWEST)
        return 0;
    moved = fcntl(*fd, F_DUPFD_CLOEXEC, KA_LOWEST);
    if (moved < 0)
        return -errno;
    close(*fd);
    *fd = moved;
    return 0;
}

int ka_reserve_open(struct ka_reserve *reserve) {
    struct stat seen, twin;
    int end[2], rc;

    memset(reserve, 0, sizeof *reserve);
    reserve->sock = reserve->filler = -1;
    rc = make_pipe(end);
    if (rc < 0)
        return rc;
    rc = move_up(&end[0]);
    if (rc == 0)
        rc = move_up(&end[1]);
    if (rc == 0 && (fstat(end[0], &seen) < 0 || fstat(end[1], &twin) < 0))
        rc = -errno;
    if (rc < 0) {
        close(end[0]);
        close(end[1]);
        return rc;
    }
    reserve->sock = end[0];
    reserve->filler = end[1];
    reserve->device = (uint64_t)seen.st_dev;
    reserve->inode = number_of(&seen);
    reserve->twin = number_of(&twin);
    return 0;
}

void ka_reserve_close(struct ka_reserve *reserve) {
    /* Not again after EINTR: the number may be another's by then. */
    if (reserve->taken ? is_duplicate(reserve)
                       : is_pipe(reserve, reserve->sock))
        (void)close(reserve->sock);
    if (is_pipe(reserve, reserve->filler))
        (void)close(reserve->filler);
    reserve->sock = reserve->filler = -1;
    reserve->taken = 0;
}

void ka_reserve_abandon(struct ka_reserve *reserve) {
    if (is_pipe(reserve, reserve->sock) || is_one_of_late(reserve))
        (void)close(reserve->sock);
    if (is_pipe(reserve, reserve->filler))
        (void)close(reserve->filler);
    reserve->sock = reserve->filler = -1;
    reserve->taken = 0;
}

/* ---- take and give ------------------------------------------------------ */

/* Before it is put there, for a child that is forked meanwhile. */
static int note_taken(struct ka_reserve *reserve, int fd) {
    struct stat seen;

    if (fstat(fd, &seen) < 0)
        return -EBADF;
    reserve->lately[reserve->takes++ % KA_LATELY] = mark_of(fd, &seen);
    return 0;
}

int ka_reserve_take(struct ka_reserve *reserve, ka_sock sock) {
    struct stat seen;
    int rc;

    do {
        if (!is_pipe(reserve, reserve->filler) ||
            !is_pipe(reserve, reserve->sock))
            return -ESTALE;
        if (sock < 0 || sock == reserve->sock || sock == reserve->filler)
            return -EBADF;
        rc = note_taken(reserve, sock);
        if (rc == 0)
            rc = duplicate_onto(sock, reserve->sock);
    } while (rc == -EINTR);
    if (rc == -EBUSY)
        return -ESTALE;
    if (rc == -EBADF && fcntl(sock, F_GETFD) >= 0)
        return -EMFILE; /* it is our number that is above the limit */
    if (rc < 0)
        return rc;
    if (fstat(reserve->sock, &seen) < 0)
        return -ESTALE;
    reserve->taken = mark_of(reserve->sock, &seen);
    if (S_ISSOCK(seen.st_mode))
        return 0;
    /* The owner's number is a file by now, which give would not know. */
    rc = duplicate_onto(reserve->filler, reserve->sock);
    reserve->taken = 0;
    return rc < 0 ? -ESTALE : -EBADF;
}

void ka_reserve_give(struct ka_reserve *reserve) {
    int rc = -EINTR;

    while (rc == -EINTR && is_duplicate(reserve))
        if (is_pipe(reserve, reserve->filler)) {
            rc = duplicate_onto(reserve->filler, reserve->sock);
        } else {
            rc = 0;
            (void)close(reserve->sock);
        }
    reserve->taken = 0;
}

/* ---- on the duplicate --------------------------------------------------- */

int ka_end_shutdown(ka_sock sock) {
    return shutdown(sock, SHUT_RDWR) < 0 ? -errno : 0;
}

int ka_end_disconnect(ka_sock sock) {
#ifdef __linux__
    struct sockaddr nobody;

    memset(&nobody, 0, sizeof nobody);
    nobody.sa_family = AF_UNSPEC;
    return connect(sock, &nobody, sizeof nobody) < 0 ? -errno : 0;
#else
    (void)sock;
    return -EOPNOTSUPP;
#endif
}

/* MPTCP counts the peer's end as a byte. */
static int end_counts(int sock) {
#if defined(__linux__) && defined(SO_PROTOCOL)
    struct pollfd seen = {.fd = sock, .events = POLLRDHUP};
    int protocol = 0;
    socklen_t size = sizeof protocol;

    return getsockopt(sock, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
           protocol == KA_IPPROTO_MPTCP && poll(&seen, 1, 0) == 1 &&
           (seen.revents & POLLRDHUP);
#else
    (void)sock;
    return 0;
#endif
}

int ka_has_paths(ka_sock sock) {
#ifdef __linux__
    uint8_t others = 0; /* the first member of struct mptcp_info */
    socklen_t size = sizeof others;

    return getsockopt(sock, KA_SOL_MPTCP, KA_MPTCP_INFO, &others, &size) ==
               0 &&
           size == sizeof others && others > 0;
#else
    (void)sock;
    return 0;
#endif
}

int64_t ka_connected_ms(ka_sock sock) {
    (void)sock;
    return -1;
}

int ka_name_while_open(ka_sock sock, uint64_t *name) {
    struct stat seen;

    if (fstat(sock, &seen) < 0)
        return -errno;
    *name = ((uint64_t)seen.st_ino ^
             (uint64_t)sock * UINT64_C(0x9E3779B97F4A7C15)) |
            1;
    return 0;
}

int ka_unread(ka_sock sock, int64_t *bytes) {
    int unread = 0;

    if (ioctl(sock, FIONREAD, &unread) < 0)
        return -errno;
    if (unread > 0 && end_counts(sock))
        unread--;
    *bytes = unread;
    return 0;
}

int64_t ka_unacked(ka_sock sock) {
#ifdef __linux__
    int bytes = 0;

    return ioctl(sock, SIOCOUTQ, &bytes) < 0 ? -1 : bytes;
#else
    (void)sock;
    return -1;
#endif
}

int ka_endpoints(ka_sock sock, struct ka_endpoint *local,
                 struct ka_endpoint *peer) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;

    memset(local, 0, sizeof *local);
    memset(peer, 0, sizeof *peer);
    memset(&name, 0, sizeof name);
    if (getsockname(sock, (struct sockaddr *)&name, &size) < 0)
        return -errno;
    ka_copy_endpoint(&name, local);
    memset(&name, 0, sizeof name);
    size = sizeof name;
    /* A connection that was reset has no peer any more: family 0. */
    if (getpeername(sock, (struct sockaddr *)&name, &size) == 0)
        ka_copy_endpoint(&name, peer);
    return 0;
}

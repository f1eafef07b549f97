/* bsd.h - what Darwin, FreeBSD, NetBSD and OpenBSD have in common.
 *
 * Included by exactly one file of a build, which has filled `ka_rows`: the
 * options of its system with their numbers, ranges and units. The numbers are
 * our own, so that each file compiles anywhere against a fake kernel; on its
 * own system it asserts each of them against the headers.
 *
 * Four things are the same trap on all four systems:
 *
 * On and off. getsockopt(SO_KEEPALIVE) gives the flag's bit, 8, for "on".
 *
 * What is not TCP. A UDP or AF_UNIX socket refuses an option of level TCP with
 * EINVAL here and ENOPROTOOPT there. EINVAL is also what a connection answers
 * that has ended on Darwin, so the socket is asked what it is before the error
 * is passed on.
 *
 * The end. A dropped connection loses its control block at once: options and
 * TCP_INFO fail with ECONNRESET, and the peer's address is gone. TCP_INFO's
 * state is CLOSED then, and nothing else is known. Nobody can tell any more
 * which connection it was, therefore ka_identify says ENOTCONN: it is neither
 * the identity it had nor another. (Who began to look while the connection
 * was still being made sees its identity change when it is made: it has no
 * peer's address before.)
 *
 * Errors that are taken. There is no POLLRDHUP worth the name, POLLERR is not
 * set for a pending error, and SO_ERROR takes it from the owner, who would
 * then read a clean end of stream. One look by a kqueue of its own takes
 * nothing: EV_EOF says for each direction that it has ended, also behind
 * unread bytes, `data` how many of these there are, and with EV_EOF `fflags`
 * is the pending error. It costs three calls, and a descriptor for their
 * time: without one to be had it is -EMFILE. A kqueue is not inherited by a
 * forked child. NOTE_LOWAT shows bytes below an owner's SO_RCVLOWAT, too. A
 * listening socket's `data` is its backlog, not bytes.
 */
#ifndef KA_BSD_H
#define KA_BSD_H

#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <sys/event.h>
#ifdef KA_FIONWRITE
#include <sys/ioctl.h>
#endif
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "ends.h"
#include "raw.h"

#define KA_SOL_SOCKET 0xffff
#define KA_LEVEL_TCP 6
#define KA_SO_ACCEPTCONN 0x0002
#define KA_SO_KEEPALIVE 0x0008
#define KA_SO_TYPE 0x1008

#ifdef KA_REAL_SYSTEM
#define KA_SAME(ours, theirs) _Static_assert((ours) == (theirs), #theirs)
#define KA_AT(type, member, offset) \
    _Static_assert(offsetof(struct type, member) == offset, #type "." #member)
#define KA_SIZE(type, bytes) \
    _Static_assert(sizeof(struct type) == bytes, "sizeof " #type)
KA_SAME(KA_SOL_SOCKET, SOL_SOCKET);
KA_SAME(KA_LEVEL_TCP, IPPROTO_TCP);
KA_SAME(KA_SO_ACCEPTCONN, SO_ACCEPTCONN);
KA_SAME(KA_SO_KEEPALIVE, SO_KEEPALIVE);
KA_SAME(KA_SO_TYPE, SO_TYPE);
#endif

#ifndef SOCK_CLOEXEC
#define SOCK_CLOEXEC 0 /* Darwin; our socket lives for a few calls only */
#endif

/* The kernel's value is the backends', over `down` and rounded up, times
 * `up`: milliseconds that it takes as seconds, seconds as half-seconds. */
struct ka_row {
    int level; /* 0: no such option */
    int number;
    const char *name;
    struct ka_range range;
    int32_t down, up;
    int unreadable;
};
static const struct ka_row ka_rows[KA_OPTIONS];

/* ---- options ------------------------------------------------------------ */

static int known(int option) {
    return option >= 0 && option < KA_OPTIONS;
}

const char *ka_option_name(int option) {
    return known(option) ? ka_rows[option].name : "?";
}

int ka_option_range(int option, struct ka_range *range) {
    if (!known(option))
        return -EINVAL;
    *range = ka_rows[option].range;
    return ka_rows[option].level ? 0 : -ENOPROTOOPT;
}

static int get_int(ka_sock sock, int level, int number, int32_t *value) {
    int held = 0;
    socklen_t size = sizeof held;

    if (getsockopt(sock, level, number, &held, &size) < 0)
        return -errno;
    *value = held;
    return 0;
}

/* The address of an ended connection is gone; only TCP loses it. */
static int has_ended(int rc) {
    return rc < 0 && rc != -EBADF && rc != -ENOTSOCK && rc != -ENOBUFS &&
           rc != -EFAULT;
}

static int get_family(ka_sock sock, int32_t *family) {
    struct sockaddr_storage local;
    socklen_t size = sizeof local;
    int rc;

    memset(&local, 0, sizeof local);
    rc = getsockname(sock, (struct sockaddr *)&local, &size) < 0 ? -errno : 0;
    *family = local.ss_family;
    return has_ended(rc) ? 0 : rc;
}

static int get_protocol(ka_sock sock, const struct ka_kind *kind,
                        int32_t *protocol) {
#ifdef KA_SO_PROTOCOL /* also sees SCTP, which is a stream, too */
    (void)kind;
    return get_int(sock, KA_SOL_SOCKET, KA_SO_PROTOCOL, protocol);
#else
    (void)sock;
    *protocol = kind->type == SOCK_STREAM &&
                        (kind->family == AF_INET || kind->family == AF_INET6 ||
                         kind->family == AF_UNSPEC)
                    ? KA_LEVEL_TCP
                    : 0;
    return 0;
#endif
}

static int what_is(ka_sock sock, struct ka_kind *kind) {
    int rc = get_int(sock, KA_SOL_SOCKET, KA_SO_TYPE, &kind->type);

    if (rc == 0)
        rc = get_family(sock, &kind->family);
    return rc < 0 ? rc : get_protocol(sock, kind, &kind->protocol);
}

int ka_kind(ka_sock sock, struct ka_kind *kind) {
    int rc = what_is(sock, kind);

    if (rc == 0)
        rc = get_int(sock, KA_SOL_SOCKET, KA_SO_ACCEPTCONN, &kind->listening);
    if (rc == 0)
        kind->listening = kind->listening != 0;
    return rc;
}

/* 0, or why no option of level TCP can be had of it. */
static int must_be_tcp(ka_sock sock) {
    struct ka_kind kind;
    int rc = what_is(sock, &kind);

    if (rc == 0 && kind.protocol != KA_LEVEL_TCP)
        rc = -ENOPROTOOPT;
    return rc;
}

static int explain(ka_sock sock, int err) {
    int rc = err == EINVAL ? must_be_tcp(sock) : 0;

    return rc < 0 ? rc : -err;
}

int ka_get(ka_sock sock, int option, int32_t *value) {
    const struct ka_row *row;
    int64_t told;
    int32_t held = 0;
    int rc;

    if (!known(option))
        return -EINVAL;
    row = &ka_rows[option];
    if (!row->level)
        return -ENOPROTOOPT;
    if (row->unreadable) {
        rc = must_be_tcp(sock);
        if (rc == 0)
            *value = KA_UNREADABLE;
        return rc;
    }
    rc = get_int(sock, row->level, row->number, &held);
    if (rc < 0)
        return explain(sock, -rc);
    told = (int64_t)(uint32_t)held / row->up * row->down;
    if (told > INT32_MAX)
        told = INT32_MAX;
    *value = option == KA_ENABLED ? held != 0 : (int32_t)told;
    return 0;
}

static int set_native(ka_sock sock, int option, int wanted) {
    if (setsockopt(sock, ka_rows[option].level, ka_rows[option].number,
                   &wanted, sizeof wanted) < 0)
        return explain(sock, errno);
    return 0;
}

#ifdef KA_HANDSHAKE
/* Elsewhere a user timeout bounds the handshake, too. Here that has a time of
 * its own, which goes along as long as its owner has not made it another. */
static int set_user_timeout(ka_sock sock, int wanted) {
    const struct ka_row *row = &ka_rows[KA_USER_TIMEOUT];
    int32_t held = -1, handshake = -2;
    int rc;

    (void)get_int(sock, row->level, row->number, &held);
    (void)get_int(sock, row->level, KA_HANDSHAKE, &handshake);
    rc = set_native(sock, KA_USER_TIMEOUT, wanted);
    if (rc == 0 && handshake == held &&
        setsockopt(sock, row->level, KA_HANDSHAKE, &wanted, sizeof wanted) <
            0) {
        rc = explain(sock, errno);
        (void)set_native(sock, KA_USER_TIMEOUT, held);
    }
    return rc;
}
#endif

static int set_within(ka_sock sock, int option, int32_t value) {
    const struct ka_row *row = &ka_rows[option];
    int64_t wanted = ((int64_t)value + row->down - 1) / row->down * row->up;

#ifdef KA_HANDSHAKE
    if (option == KA_USER_TIMEOUT)
        return set_user_timeout(sock, (int)wanted);
#endif
    return set_native(sock, option, (int)wanted);
}

int ka_set(ka_sock sock, int option, int32_t value) {
    if (!known(option))
        return -EINVAL;
    if (!ka_rows[option].level)
        return -ENOPROTOOPT;
    /* Some kernels multiply without looking, and take 0 for the default. */
    if (value < ka_rows[option].range.low ||
        value > ka_rows[option].range.high)
        return -EINVAL;
    return set_within(sock, option, value);
}

int ka_os_set(ka_sock sock, const struct ka_policy *policy, unsigned *changed,
              struct ka_fault *fault) {
    return ka_set_in_order(sock, policy, changed, fault);
}

#ifndef KA_PUTS_BACK
/* What was read may be 0, below the range: the default from sysctl is less
 * than a second then, and 0 means just that default. */
int ka_os_put_back(ka_sock sock, int option, int32_t value) {
    if (!known(option))
        return -EINVAL;
    if (!ka_rows[option].level)
        return -ENOPROTOOPT;
    if (value > ka_rows[option].range.high)
        value = ka_rows[option].range.high;
    return value < 0 ? -EINVAL : set_within(sock, option, value);
}
#endif

unsigned ka_supported(void) {
    static _Atomic unsigned cached = 0;
    unsigned found = atomic_load_explicit(&cached, memory_order_relaxed);
    int sock, option, rc;
    int32_t value;

    if (found)
        return found;
    sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) /* a host without IPv4 */
        sock = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return 0;
    for (option = 0; option < KA_OPTIONS; option++) {
        rc = ka_rows[option].unreadable
                 ? ka_set(sock, option, ka_rows[option].range.low)
                 : ka_get(sock, option, &value);
        if (rc == 0)
            found |= 1u << option;
    }
    close(sock);
    atomic_store_explicit(&cached, found, memory_order_relaxed);
    return found;
}

/* ---- identity ----------------------------------------------------------- */

int ka_identify(ka_sock sock, uint64_t *identity) {
    struct sockaddr_storage local, peer;
    socklen_t size = sizeof local;
    struct ka_pending pending;
    uint64_t seed;
    int rc;

    memset(&local, 0, sizeof local);
    memset(&peer, 0, sizeof peer);
    rc = getsockname(sock, (struct sockaddr *)&local, &size) < 0 ? -errno : 0;
    if (rc < 0)
        return has_ended(rc) ? -ENOTCONN : rc;
    if (local.ss_family != AF_INET && local.ss_family != AF_INET6)
        return -ENOPROTOOPT;
    size = sizeof peer;
    if (getpeername(sock, (struct sockaddr *)&peer, &size) < 0) {
        rc = ka_pending(sock, &pending);
        if (rc == 0 && pending.hangup)
            rc = -ENOTCONN;
        if (rc < 0)
            return rc;
        memset(&peer, 0, sizeof peer); /* it has had none yet */
    }
    seed = ka_mix_end(ka_mix_end(KA_MIX_SEED, &local, 0), &peer, 0);
    *identity = seed ? seed : 1;
    return 0;
}

/* ---- what is pending ---------------------------------------------------- */

static void note(const struct kevent *seen, int is_read,
                 struct ka_pending *pending) {
    if (is_read)
        pending->unread = (int64_t)seen->data;
    if (!(seen->flags & EV_EOF))
        return;
    if (is_read)
        pending->rdhup = 1;
    if (seen->fflags != 0)
        pending->code = (int32_t)seen->fflags;
}

int ka_pending(ka_sock sock, struct ka_pending *pending) {
    static const struct timespec at_once = {0, 0};
    struct kevent wanted[2], seen[4];
    int32_t listening = 0;
    int i, n, err, sent_eof = 0;
    int queue = kqueue();

    if (queue < 0)
        return -errno;
    EV_SET(&wanted[0], sock, EVFILT_READ, EV_ADD, NOTE_LOWAT, 1, 0);
    EV_SET(&wanted[1], sock, EVFILT_WRITE, EV_ADD, 0, 0, 0);
    do
        n = kevent(queue, wanted, 2, seen, 4, &at_once);
    while (n < 0 && errno == EINTR);
    err = errno;
    close(queue);
    if (n < 0)
        return -err;
    memset(pending, 0, sizeof *pending);
    for (i = 0; i < n; i++) {
        int is_read = seen[i].filter == EVFILT_READ;

        if (seen[i].flags & EV_ERROR)
            return -(int)seen[i].data;
        note(&seen[i], is_read, pending);
        if (!is_read && (seen[i].flags & EV_EOF))
            sent_eof = 1;
    }
    pending->hangup = pending->rdhup && sent_eof;
    pending->error = pending->code != 0;
    if (pending->unread > 0 && !pending->rdhup &&
        get_int(sock, KA_SOL_SOCKET, KA_SO_ACCEPTCONN, &listening) == 0 &&
        listening)
        pending->unread = 0;
    return 0;
}

/* ---- TCP_INFO ----------------------------------------------------------- */

static int64_t state_of(unsigned char native) {
    static const unsigned char states[] = {
        KA_TCP_CLOSE,     KA_TCP_LISTEN,      KA_TCP_SYN_SENT,
        KA_TCP_SYN_RECV,  KA_TCP_ESTABLISHED, KA_TCP_CLOSE_WAIT,
        KA_TCP_FIN_WAIT1, KA_TCP_CLOSING,     KA_TCP_LAST_ACK,
        KA_TCP_FIN_WAIT2, KA_TCP_TIME_WAIT};

    return native < sizeof states ? states[native] : -1;
}

/* 1: the state is in *info, the rest is -1 and to be found in `raw`. 0: there
 * is nothing more to be found. */
static int read_info(ka_sock sock, int number, unsigned char *raw,
                     socklen_t *size, struct ka_info *info) {
    int rc = 0;

    memset(info, 0xff, sizeof *info); /* -1 in each */
    if (getsockopt(sock, KA_LEVEL_TCP, number, raw, size) < 0)
        rc = explain(sock, errno);
    if (rc == -ECONNRESET || rc == -EINVAL) {
        info->state = KA_TCP_CLOSE;
        return 0;
    }
    if (rc < 0)
        return rc;
    if (*size < 1)
        return -EOPNOTSUPP;
    info->state = state_of(raw[0]);
    return info->state != KA_TCP_CLOSE && info->state != KA_TCP_LISTEN;
}

#ifdef KA_FIONWRITE
#ifdef KA_REAL_SYSTEM
#include <sys/filio.h>
KA_SAME(KA_FIONWRITE, FIONWRITE);
#endif
/* To be asked before the sequence numbers: who asks after them misses what
 * had waited, was sent and was acknowledged between the two. */
static int64_t queued(ka_sock sock) {
    int bytes = -1;

    return ioctl(sock, KA_FIONWRITE, &bytes) < 0 || bytes < 0 ? -1 : bytes;
}
#endif

/* ---- systems on which no question can be put ---------------------------- */

#ifndef KA_ASKS
const int ka_os_asks = 0;

static int cannot_ask(struct ka_fault *fault) {
    fault->option = KA_IDLE;
    fault->setting = 1;
    return -ENOPROTOOPT;
}

int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    (void)guard;
    return cannot_ask(fault);
}

int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    return cannot_ask(fault);
}
#endif

#endif

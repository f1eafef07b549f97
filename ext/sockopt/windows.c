/* windows.c - TCP keepalive options, TCP_INFO and readiness on Windows.
 *
 * What can go wrong, and how this file stops it:
 *
 * Half a pair. Before Windows 10 1709 the idle time and the interval are set
 * together or not at all, by SIO_KEEPALIVE_VALS, and cannot be read: what is
 * not given is overwritten with whatever stands in its place, in milliseconds.
 * So the pair is set in one call; idle without interval, or the reverse, is
 * refused and nothing is changed; both read back as KA_UNREADABLE; and either
 * of them, put back, puts back both, as the system's defaults, two hours and
 * one second. Because what was there before is lost with that call, every
 * value of the policy is checked before the first.
 *
 * The count. Before Windows 10 1703 it is ten, whatever one wishes. A count
 * that comes with a pair is kept as a total: the interval becomes
 * interval * count / 10, so that ten probes end when the wanted number would
 * have. A count alone is refused there.
 *
 * On and off. SIO_KEEPALIVE_VALS takes the times only together with "on". A
 * socket that is or shall be off is switched off again behind it; the times
 * stay. SO_KEEPALIVE itself goes first, as on other systems, and the idle
 * time last where it is an option of its own. Since Windows Vista
 * SO_KEEPALIVE is refused (EINVAL) while a connect is under way.
 *
 * User timeout. TCP_MAXRTMS counts ms, the older TCP_MAXRT seconds: rounded
 * up on the way in, so that nothing ends too early. Their -1 means "never",
 * which is more than "off": off is the system's own limit, that is, what a
 * fresh socket holds; here it is 0 both ways. "Never" is the highest value
 * both ways. A socket set to exactly the system's own limit reads as off.
 *
 * Versions. What there is, is found by asking a socket of its own, once: a
 * program is shown the version number that its manifest wishes.
 *
 * TCP_INFO. It says nothing of when the peer was heard: see windows_layout.h.
 * An answer to a probe would not show, and so none is asked (ka_os_asks is
 * 0). A connection that has ended says "closed" and no more: its state is
 * left to WSAPoll, and so it is where the call is missing (before Windows 10
 * 1703), once it is clear that there is a connection. One that is being made
 * cannot be told from none there.
 *
 * WSAPoll. A hang-up alone is the peer's end (FIN), also behind unread data;
 * our own shutdown shows nothing, a socket that was never connected neither.
 * With an error it is a reset or a timeout, and nothing tells which without
 * taking the error away from its owner. An error alone is a connect that
 * failed. wine 8 does not show the end behind unread data.
 *
 * Names. Some Windows (and wine) forget the peer's address when a connection
 * has ended. Its number is not known then (ENOTCONN), which is not the same
 * as another number.
 *
 * AcceptEx. A socket that AcceptEx has filled, and that was not given
 * SO_UPDATE_ACCEPT_CONTEXT, has no addresses: what asks for them here fails
 * with ENOTCONN. What the listener was set to is not inherited before that.
 */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#ifndef NTDDI_VERSION
#define NTDDI_VERSION 0x0A000006 /* for the layouts that are checked below */
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "sockopt.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mstcpip.h>

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "atomics.h"
#include "ends.h"
#include "windows_errors.h"
#include "windows_layout.h"

#define KA_FIXED_PROBES 10
#define KA_DEFAULT_IDLE_S 7200
#define KA_DEFAULT_INTERVAL_S 1

#define KA_RT_NEVER (-1)
#define KA_NEVER_MS INT32_MAX

/* What this system has, above the bits of ka_supported(). */
#define KA_SUPPORTED_MASK ((1u << KA_OPTIONS) - 1)
#define KA_HAS_TIMES (1u << 8) /* TCP_KEEPIDLE and TCP_KEEPINTVL */
#define KA_HAS_PAIR (1u << 9)  /* SIO_KEEPALIVE_VALS instead of them */
#define KA_HAS_COUNT (1u << 10)
#define KA_HAS_RT_MS (1u << 11)
#define KA_HAS_RT_S (1u << 12)

static const struct {
    int level;
    int number;
    const char *name;
    struct ka_range range;
} ka_options[KA_OPTIONS] = {
    {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}},
    {IPPROTO_TCP, KA_TCP_KEEPIDLE, "TCP_KEEPIDLE", {1, 2147483}},
    {IPPROTO_TCP, KA_TCP_KEEPINTVL, "TCP_KEEPINTVL", {1, 2147483}},
    {IPPROTO_TCP, KA_TCP_KEEPCNT, "TCP_KEEPCNT", {1, 255}},
    {IPPROTO_TCP, KA_TCP_MAXRTMS, "TCP_MAXRTMS", {0, KA_NEVER_MS}},
    {0, 0, "TCP_RTO_MAX_MS", {0, 0}},
};

const int ka_set_order[KA_OPTIONS] = {KA_ENABLED,      KA_INTERVAL, KA_COUNT,
                                      KA_USER_TIMEOUT, KA_RTO_MAX,  KA_IDLE};

const int ka_os_asks = 0;

static int known(int option) {
    return option >= 0 && option < KA_OPTIONS;
}

const char *ka_option_name(int option) {
    return known(option) ? ka_options[option].name : "?";
}

int ka_option_range(int option, struct ka_range *range) {
    if (!known(option))
        return -EINVAL;
    *range = ka_options[option].range;
    return option == KA_RTO_MAX ? -ENOPROTOOPT : 0;
}

static int in_range(int option, int32_t value) {
    return value >= ka_options[option].range.low &&
           value <= ka_options[option].range.high;
}

static int get_int(ka_sock sock, int level, int number, int32_t *value) {
    int held = 0, size = sizeof held; /* one byte of it for SO_KEEPALIVE */

    if (getsockopt(sock, level, number, (char *)&held, &size) != 0)
        return ka_winsock_failed();
    *value = held;
    return 0;
}

static int set_int(ka_sock sock, int level, int number, int32_t value) {
    int wanted = value;

    if (setsockopt(sock, level, number, (const char *)&wanted,
                   sizeof wanted) != 0)
        return ka_winsock_failed();
    return 0;
}

/* ---- what this system has ----------------------------------------------- */

static int set_vals(ka_sock sock, uint32_t idle_ms, uint32_t interval_ms) {
    struct ka_vals vals = {1, idle_ms, interval_ms};
    DWORD unused = 0;

    if (WSAIoctl(sock, KA_SIO_KEEPALIVE_VALS, &vals, sizeof vals, NULL, 0,
                 &unused, NULL, NULL) != 0)
        return ka_winsock_failed();
    return 0;
}

static unsigned ask(ka_sock sock, int32_t *own_rt) {
    unsigned has = 0;
    int32_t value;

    if (get_int(sock, SOL_SOCKET, SO_KEEPALIVE, &value) == 0)
        has |= 1u << KA_ENABLED;
    if (get_int(sock, IPPROTO_TCP, KA_TCP_KEEPIDLE, &value) == 0 &&
        get_int(sock, IPPROTO_TCP, KA_TCP_KEEPINTVL, &value) == 0)
        has |= KA_HAS_TIMES | 1u << KA_IDLE | 1u << KA_INTERVAL;
    else if (set_vals(sock, KA_DEFAULT_IDLE_S * 1000u,
                      KA_DEFAULT_INTERVAL_S * 1000u) == 0)
        has |=
            KA_HAS_PAIR | 1u << KA_IDLE | 1u << KA_INTERVAL | 1u << KA_COUNT;
    if (get_int(sock, IPPROTO_TCP, KA_TCP_KEEPCNT, &value) == 0)
        has |= KA_HAS_COUNT | 1u << KA_COUNT;
    if (get_int(sock, IPPROTO_TCP, KA_TCP_MAXRTMS, own_rt) == 0)
        has |= KA_HAS_RT_MS | 1u << KA_USER_TIMEOUT;
    else if (get_int(sock, IPPROTO_TCP, KA_TCP_MAXRT, own_rt) == 0)
        has |= KA_HAS_RT_S | 1u << KA_USER_TIMEOUT;
    return has;
}

static KA_ATOMIC(unsigned) ka_found; /* 0: not yet */
static KA_ATOMIC(int32_t) ka_own_rt; /* of a fresh socket, as it counts */

static unsigned has_what(void) {
    unsigned has = atomic_load_explicit(&ka_found, memory_order_acquire);
    int32_t own_rt = 0;
    WSADATA unused;
    SOCKET sock;

    if (has || WSAStartup(MAKEWORD(2, 2), &unused) != 0)
        return has;
    sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (sock == INVALID_SOCKET) /* a host without IPv4 */
        sock = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    if (sock != INVALID_SOCKET) {
        has = ask(sock, &own_rt);
        closesocket(sock);
        atomic_store_explicit(&ka_own_rt, own_rt, memory_order_relaxed);
        atomic_store_explicit(&ka_found, has, memory_order_release);
    }
    WSACleanup();
    return has;
}

unsigned ka_supported(void) {
    return has_what() & KA_SUPPORTED_MASK;
}

/* ---- one option --------------------------------------------------------- */

int ka_kind(ka_sock sock, struct ka_kind *kind) {
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;

    if (getsockopt(sock, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info,
                   &size) != 0)
        return ka_winsock_failed();
    kind->family = info.iAddressFamily;
    kind->type = info.iSocketType;
    kind->protocol = info.iProtocol;
    if (get_int(sock, SOL_SOCKET, SO_ACCEPTCONN, &kind->listening) < 0)
        kind->listening = 0; /* of a kind that never listens */
    kind->listening = kind->listening != 0;
    return 0;
}

/* 0 for a TCP socket. */
static int want_tcp(ka_sock sock) {
    struct ka_kind kind;
    int rc = ka_kind(sock, &kind);

    if (rc < 0)
        return rc;
    return kind.protocol == IPPROTO_TCP ? 0 : -ENOPROTOOPT;
}

/* Any other kind of socket answers EINVAL, as TCP does to a wrong value. */
static int explain(ka_sock sock, int rc) {
    int other = rc == -EINVAL ? want_tcp(sock) : rc;

    return other < 0 ? other : rc;
}

static int get_tcp(ka_sock sock, int number, int32_t *value) {
    int rc = explain(sock, get_int(sock, IPPROTO_TCP, number, value));

    if (rc == 0 && *value < 0)
        *value = KA_UNREADABLE;
    return rc;
}

static int get_user_timeout(ka_sock sock, unsigned has, int32_t *value) {
    int in_ms = (has & KA_HAS_RT_MS) != 0;
    int32_t held = 0;
    int rc =
        explain(sock, get_int(sock, IPPROTO_TCP,
                              in_ms ? KA_TCP_MAXRTMS : KA_TCP_MAXRT, &held));

    if (rc < 0)
        return rc;
    if (held == atomic_load_explicit(&ka_own_rt, memory_order_relaxed))
        *value = 0;
    else if (held < 0 || (!in_ms && held > KA_NEVER_MS / 1000))
        *value = KA_NEVER_MS;
    else
        *value = in_ms ? held : held * 1000;
    return 0;
}

static int set_user_timeout(ka_sock sock, unsigned has, int32_t value) {
    int in_ms = (has & KA_HAS_RT_MS) != 0;
    int32_t wanted;

    if (value == 0)
        wanted = atomic_load_explicit(&ka_own_rt, memory_order_relaxed);
    else if (value == KA_NEVER_MS)
        wanted = KA_RT_NEVER;
    else
        wanted = in_ms ? value : value / 1000 + (value % 1000 != 0);
    return explain(
        sock, set_int(sock, IPPROTO_TCP, in_ms ? KA_TCP_MAXRTMS : KA_TCP_MAXRT,
                      wanted));
}

/* The options that are not one of their own on this system. */
static int is_of_pair(int option, unsigned has) {
    return (has & KA_HAS_PAIR) &&
           (option == KA_IDLE || option == KA_INTERVAL ||
            (option == KA_COUNT && !(has & KA_HAS_COUNT)));
}

int ka_get(ka_sock sock, int option, int32_t *value) {
    unsigned has = has_what();
    int rc;

    if (!known(option))
        return -EINVAL;
    if (!(has >> option & 1))
        return -ENOPROTOOPT;
    if (option == KA_ENABLED) {
        rc = get_int(sock, SOL_SOCKET, SO_KEEPALIVE, value);
        if (rc == 0)
            *value = *value != 0;
        return rc;
    }
    if (option == KA_USER_TIMEOUT)
        return get_user_timeout(sock, has, value);
    if (!is_of_pair(option, has))
        return get_tcp(sock, ka_options[option].number, value);
    *value = KA_UNREADABLE;
    return want_tcp(sock);
}

int ka_set(ka_sock sock, int option, int32_t value) {
    unsigned has = has_what();

    if (!known(option))
        return -EINVAL;
    if (!(has >> option & 1) || is_of_pair(option, has))
        return -ENOPROTOOPT;
    if (!in_range(option, value))
        return -EINVAL;
    if (option == KA_USER_TIMEOUT)
        return set_user_timeout(sock, has, value);
    return explain(sock, set_int(sock, ka_options[option].level,
                                 ka_options[option].number, value));
}

/* ---- a policy ----------------------------------------------------------- */

static int refuse(int rc, int option, struct ka_fault *fault) {
    fault->option = option;
    fault->setting = 1;
    return rc;
}

/* Of the policy, what SIO_KEEPALIVE_VALS takes: 1, or 0 when that is
 * nothing. */
static int make_pair(const struct ka_policy *policy, unsigned has,
                     struct ka_vals *vals, struct ka_fault *fault) {
    int32_t idle = policy->value[KA_IDLE];
    int32_t interval = policy->value[KA_INTERVAL];
    int32_t count = policy->value[KA_COUNT];
    uint64_t interval_ms;

    if (idle == KA_LEAVE && interval == KA_LEAVE) {
        if (count != KA_LEAVE && is_of_pair(KA_COUNT, has))
            return refuse(-ENOPROTOOPT, KA_COUNT, fault);
        return 0;
    }
    if (interval == KA_LEAVE)
        return refuse(-ENOPROTOOPT, KA_IDLE, fault);
    if (idle == KA_LEAVE)
        return refuse(-ENOPROTOOPT, KA_INTERVAL, fault);
    interval_ms = (uint64_t)interval * 1000;
    if (count != KA_LEAVE && is_of_pair(KA_COUNT, has))
        interval_ms = interval_ms * (uint64_t)count / KA_FIXED_PROBES;
    if (interval_ms > UINT32_MAX)
        return refuse(-EINVAL, KA_INTERVAL, fault);
    vals->idle_ms = (uint32_t)idle * 1000u;
    vals->interval_ms = (uint32_t)interval_ms;
    return 1;
}

/* The times, whether it is on or off. *turned_on: it ought to be off, but is
 * on now. */
static int give_pair(ka_sock sock, uint32_t idle_ms, uint32_t interval_ms,
                     int *turned_on) {
    int32_t on = 0;
    int rc = get_int(sock, SOL_SOCKET, SO_KEEPALIVE, &on);

    *turned_on = 0;
    if (rc == 0)
        rc = explain(sock, set_vals(sock, idle_ms, interval_ms));
    if (rc == 0 && !on) {
        rc = set_int(sock, SOL_SOCKET, SO_KEEPALIVE, 0);
        *turned_on = rc < 0;
    }
    return rc;
}

static int set_as_pair(ka_sock sock, const struct ka_policy *policy,
                       unsigned has, unsigned *changed,
                       struct ka_fault *fault) {
    struct ka_policy rest = *policy, first = *policy;
    struct ka_vals vals;
    int option, turned_on, rc = make_pair(policy, has, &vals, fault);

    if (rc <= 0)
        return rc < 0 ? rc : ka_set_in_order(sock, policy, changed, fault);
    for (option = 0; option < KA_OPTIONS; option++) {
        if (option != KA_ENABLED)
            first.value[option] = KA_LEAVE;
        if (option == KA_ENABLED || is_of_pair(option, has))
            rest.value[option] = KA_LEAVE;
    }
    rc = ka_set_in_order(sock, &first, changed, fault);
    if (rc < 0)
        return rc;
    rc = give_pair(sock, vals.idle_ms, vals.interval_ms, &turned_on);
    if (rc == 0 || turned_on) {
        *changed |= 1u << KA_IDLE | 1u << KA_INTERVAL;
        if (turned_on)
            *changed |= 1u << KA_ENABLED;
    }
    if (rc < 0)
        return refuse(rc, turned_on ? KA_ENABLED : KA_IDLE, fault);
    return ka_set_in_order(sock, &rest, changed, fault);
}

int ka_os_set(ka_sock sock, const struct ka_policy *policy, unsigned *changed,
              struct ka_fault *fault) {
    unsigned has = has_what();
    int option;

    if (!(has & KA_HAS_PAIR))
        return ka_set_in_order(sock, policy, changed, fault);
    for (option = 0; option < KA_OPTIONS; option++)
        if (policy->value[option] != KA_LEAVE &&
            !in_range(option, policy->value[option]))
            return refuse(-EINVAL, option, fault);
    return set_as_pair(sock, policy, has, changed, fault);
}

int ka_os_put_back(ka_sock sock, int option, int32_t value) {
    static const int32_t usual[KA_OPTIONS] = {
        0, KA_DEFAULT_IDLE_S, KA_DEFAULT_INTERVAL_S, KA_FIXED_PROBES, 0, 0};
    unsigned has = has_what();
    int turned_on;

    if (!known(option))
        return -EINVAL;
    if (is_of_pair(option, has)) {
        if (value != KA_UNREADABLE)
            return -ENOPROTOOPT; /* half of a pair */
        return give_pair(sock, KA_DEFAULT_IDLE_S * 1000u,
                         KA_DEFAULT_INTERVAL_S * 1000u, &turned_on);
    }
    if (value == KA_UNREADABLE)
        value = usual[option];
    if (value > ka_options[option].range.high)
        value = ka_options[option].range.high;
    return ka_set(sock, option, value);
}

int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    (void)guard;
    return refuse(-ENOPROTOOPT, KA_IDLE, fault);
}

int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    (void)fault;
    return 0; /* nothing was asked: there is nothing to give back */
}

/* ---- who and how -------------------------------------------------------- */

static int look(ka_sock sock, int *seen) {
    WSAPOLLFD one;

    one.fd = sock;
    one.events = POLLRDNORM;
    one.revents = 0;
    if (WSAPoll(&one, 1, 0) < 0)
        return ka_winsock_failed();
    if (one.revents & POLLNVAL)
        return -EBADF;
    *seen = one.revents;
    return 0;
}

/* No peer's name: has there been one? An end shows, where a socket that was
 * never connected shows nothing. */
static int has_ended(ka_sock sock) {
    int seen = 0;

    return look(sock, &seen) == 0 && (seen & (POLLERR | POLLHUP));
}

int ka_identify(ka_sock sock, uint64_t *identity) {
    struct sockaddr_storage address;
    int rc, size = sizeof address;
    uint64_t mixed = KA_MIX_SEED;

    if (getsockname(sock, (struct sockaddr *)&address, &size) == 0)
        mixed = ka_mix_end(mixed, &address, size);
    else if (WSAGetLastError() != WSAEINVAL) /* it has no name yet */
        return ka_winsock_failed();
    size = sizeof address;
    if (getpeername(sock, (struct sockaddr *)&address, &size) == 0)
        mixed = ka_mix_end(mixed, &address, size);
    else if ((rc = ka_winsock_failed()) != -ENOTCONN || has_ended(sock))
        return rc;
    *identity = mixed ? mixed : 1;
    return 0;
}

int ka_pending(ka_sock sock, struct ka_pending *pending) {
    u_long unread = 0;
    int seen = 0, rc = look(sock, &seen);

    if (rc < 0)
        return rc;
    /* EINVAL: a listening socket, which has no bytes. */
    if ((seen & POLLRDNORM) && ioctlsocket(sock, (long)FIONREAD, &unread) != 0)
        unread = 0;
    pending->error = (seen & POLLERR) != 0;
    pending->rdhup = (seen & POLLHUP) != 0;
    pending->hangup = pending->error && pending->rdhup;
    pending->fin = 0;
    pending->code = 0;
    pending->unread = (int64_t)unread;
    return 0;
}

/* Is there a connection, or was there one? 0, or why not. */
static int want_connection(ka_sock sock) {
    struct sockaddr_storage address;
    struct ka_kind kind;
    int size = sizeof address, rc = ka_kind(sock, &kind);

    if (rc < 0)
        return rc;
    if (kind.protocol != IPPROTO_TCP)
        return -ENOPROTOOPT;
    if (kind.listening)
        return -EOPNOTSUPP;
    if (getpeername(sock, (struct sockaddr *)&address, &size) == 0)
        return 0;
    rc = ka_winsock_failed();
    return rc == -ENOTCONN && has_ended(sock) ? 0 : rc;
}

static int ask_info(ka_sock sock, DWORD version, unsigned char *raw,
                    DWORD size) {
    DWORD got = 0;

    if (WSAIoctl(sock, KA_SIO_TCP_INFO, &version, sizeof version, raw, size,
                 &got, NULL, NULL) != 0)
        return ka_winsock_failed();
    return got < KA_INFO_V0_BYTES ? -EOPNOTSUPP : 0;
}

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_V1_BYTES];
    int rc = ask_info(sock, 1, raw, KA_INFO_V1_BYTES);

    if (rc == -EINVAL || rc == -EOPNOTSUPP)
        rc = ask_info(sock, 0, raw, KA_INFO_V0_BYTES);
    if (rc == -EBADF)
        return rc;
    memset(info, 0xFF, sizeof *info); /* -1 everywhere */
    if (rc == 0)
        ka_info_decode(raw, info);
    if (info->state == KA_TCP_CLOSE)
        info->state = -1;
    return info->state < 0 ? want_connection(sock) : 0;
}

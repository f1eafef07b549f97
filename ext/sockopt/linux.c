/* linux.c - TCP keepalive options, TCP_INFO and the probe on Linux.
 *
 * The traps, all measured on Linux 6.18 and read in net/ipv4/tcp_timer.c and
 * tcp.c:
 *
 * Order. SO_KEEPALIVE arms the timer with a full idle period counted from
 * now; TCP_KEEPIDLE re-arms it with what is left since the last segment. So
 * SO_KEEPALIVE comes first and TCP_KEEPIDLE last: a connection that has been
 * idle for long is asked at the next jiffy, and by then every other value
 * is in force.
 *
 * User timeout. Once TCP_USER_TIMEOUT is set the probe count is ignored, and
 * one unanswered probe is enough to kill a connection that has been idle for
 * longer than it. So it is 0 while we ask, and the count is 127. When so many
 * are unanswered that 127 is near, the same rule helps: under a user timeout
 * of 24 days no number of probes kills.
 *
 * Answers. An answered probe moves tcpi_segs_in and tcpi_last_ack_recv. An
 * RST moves tcpi_segs_in too, therefore the state is read before anything
 * else. The peer answers at most one such segment in 500 ms
 * (tcp_invalid_ratelimit), so asking faster only looks like loss.
 *
 * Errors. SO_ERROR, recv and MSG_PEEK all take the pending error away from
 * the owner, who would then read a clean end of stream where the connection
 * had died. Nothing here uses them: poll() shows that there is an error,
 * TCP_INFO which one it must be.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "raw.h"
#include "sockopt.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/sockios.h>

/* Headers older than the kernel lack these. */
#define KA_TCP_USER_TIMEOUT 18
#define KA_TCP_RTO_MAX_MS 44
#define KA_IPPROTO_MPTCP 262
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

/* TCP_INFO of the newest kernel known here; older ones return less. */
#define KA_INFO_BYTES 280

static const struct {
    int level;
    int number;
    const char *name;
    struct ka_range range;
} ka_options[KA_OPTIONS] = {
    {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}},
    {IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE", {1, 32767}},
    {IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL", {1, 32767}},
    {IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT", {1, 127}},
    {IPPROTO_TCP, KA_TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", {0, INT32_MAX}},
    {IPPROTO_TCP, KA_TCP_RTO_MAX_MS, "TCP_RTO_MAX_MS", {1000, 120000}},
};

const int ka_set_order[KA_OPTIONS] = {KA_ENABLED,      KA_INTERVAL, KA_COUNT,
                                      KA_USER_TIMEOUT, KA_RTO_MAX,  KA_IDLE};

const int ka_os_asks = 1;

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
    return 0;
}

static int get_int(ka_sock sock, int level, int number, int32_t *value) {
    int held = 0;
    socklen_t size = sizeof held;

    if (getsockopt(sock, level, number, &held, &size) < 0)
        return -errno;
    *value = held;
    return 0;
}

int ka_get(ka_sock sock, int option, int32_t *value) {
    if (!known(option))
        return -EINVAL;
    return get_int(sock, ka_options[option].level, ka_options[option].number,
                   value);
}

int ka_set(ka_sock sock, int option, int32_t value) {
    int wanted = value;

    /* The kernel takes any number for "on". */
    if (!known(option) || (option == KA_ENABLED && value != !!value))
        return -EINVAL;
    if (setsockopt(sock, ka_options[option].level, ka_options[option].number,
                   &wanted, sizeof wanted) < 0)
        return -errno;
    return 0;
}

unsigned ka_supported(void) {
    static _Atomic unsigned cached = 0;
    unsigned found = atomic_load_explicit(&cached, memory_order_relaxed);
    int sock, option;
    int32_t value;

    if (found)
        return found;
    sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) /* a host without IPv4 */
        sock = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return 0;
    for (option = 0; option < KA_OPTIONS; option++)
        if (ka_get(sock, option, &value) == 0)
            found |= 1u << option;
    close(sock);
    atomic_store_explicit(&cached, found, memory_order_relaxed);
    return found;
}

int ka_kind(ka_sock sock, struct ka_kind *kind) {
    int rc = get_int(sock, SOL_SOCKET, SO_DOMAIN, &kind->family);

    if (rc == 0)
        rc = get_int(sock, SOL_SOCKET, SO_TYPE, &kind->type);
    if (rc == 0)
        rc = get_int(sock, SOL_SOCKET, SO_PROTOCOL, &kind->protocol);
    if (rc == 0)
        rc = get_int(sock, SOL_SOCKET, SO_ACCEPTCONN, &kind->listening);
    return rc;
}

int ka_identify(ka_sock sock, uint64_t *identity) {
    socklen_t size = sizeof *identity;

    if (getsockopt(sock, SOL_SOCKET, SO_COOKIE, identity, &size) < 0)
        return -errno;
    return 0;
}

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_BYTES];
    socklen_t size = sizeof raw;

    if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, raw, &size) < 0)
        return -errno;
    if (size < 104) /* Linux 2.6's; nothing older is worth decoding */
        return -EOPNOTSUPP;
    info->state = raw[0];
    info->retransmits = raw[2];
    info->probes = raw[3];
    info->backoff = raw[4];
    info->rto_us = ka_u32_at(raw, size, 8);
    info->unacked = ka_u32_at(raw, size, 24);
    info->last_data_sent_ms = ka_u32_at(raw, size, 44);
    info->last_data_recv_ms = ka_u32_at(raw, size, 52);
    info->last_ack_recv_ms = ka_u32_at(raw, size, 56);
    info->rtt_us = ka_u32_at(raw, size, 68);
    info->rttvar_us = ka_u32_at(raw, size, 72);
    info->total_retrans = ka_u32_at(raw, size, 100);
    info->bytes_acked = ka_u64_at(raw, size, 120);
    info->bytes_received = ka_u64_at(raw, size, 128);
    info->segs_out = ka_u32_at(raw, size, 136);
    info->segs_in = ka_u32_at(raw, size, 140);
    info->notsent_bytes = ka_u32_at(raw, size, 144);
    info->min_rtt_us = ka_u32_at(raw, size, 148);
    info->data_segs_in = ka_u32_at(raw, size, 152);
    info->data_segs_out = ka_u32_at(raw, size, 156);
    info->bytes_sent = ka_u64_at(raw, size, 200);
    info->bytes_retrans = ka_u64_at(raw, size, 208);
    info->snd_wnd = ka_u32_at(raw, size, 228);
    info->snd_nxt = info->snd_max = info->rcv_nxt = -1; /* bytes tell more */
    info->queued_bytes = -1;
    return 0;
}

int ka_pending(ka_sock sock, struct ka_pending *pending) {
    struct pollfd seen = {.fd = sock, .events = POLLIN | POLLRDHUP};
    int32_t protocol = 0;
    int unread = 0;

    while (poll(&seen, 1, 0) < 0) /* EINTR: it does happen without waiting */
        if (errno != EINTR)
            return -errno;
    if (seen.revents & POLLNVAL)
        return -EBADF;
    /* EINVAL: a listening socket, which has no bytes. */
    if ((seen.revents & POLLIN) && ioctl(sock, SIOCINQ, &unread) < 0)
        unread = 0;
    /* On TCP this bit may be our own shutdown(SHUT_RD), and the state tells
     * the peer's FIN. An MPTCP connection ends above its subflows, whose
     * states TCP_INFO shows. */
    if (seen.revents & POLLRDHUP)
        (void)get_int(sock, SOL_SOCKET, SO_PROTOCOL, &protocol);
    pending->rdhup = (seen.revents & POLLRDHUP) != 0;
    pending->fin = protocol == KA_IPPROTO_MPTCP;
    pending->error = (seen.revents & POLLERR) != 0;
    pending->hangup = (seen.revents & POLLHUP) != 0;
    pending->code = 0;
    /* MPTCP counts its DATA_FIN as a byte. */
    pending->unread = pending->fin && unread > 0 ? unread - 1 : unread;
    return 0;
}

static int set_or_name(ka_sock sock, int option, int32_t value,
                       struct ka_fault *fault) {
    int rc = ka_set(sock, option, value);

    if (rc < 0) {
        fault->option = option;
        fault->setting = 1;
    }
    return rc;
}

int ka_os_set(ka_sock sock, const struct ka_policy *policy, unsigned *changed,
              struct ka_fault *fault) {
    return ka_set_in_order(sock, policy, changed, fault);
}

int ka_os_put_back(ka_sock sock, int option, int32_t value) {
    if (known(option) && value > ka_options[option].range.high)
        value = ka_options[option].range.high;
    return ka_set(sock, option, value);
}

int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault) {
    int rc = 0;

    if (guard == KA_GUARD_TIMEOUT)
        rc = set_or_name(sock, KA_USER_TIMEOUT, INT32_MAX, fault);
    if (rc == 0 && guard != KA_UNGUARDED)
        rc = set_or_name(sock, KA_ENABLED, 1, fault);
    if (rc == 0 && guard != KA_UNGUARDED)
        rc = set_or_name(sock, KA_COUNT, ka_options[KA_COUNT].range.high,
                         fault);
    if (rc == 0 && guard == KA_GUARD_COUNT &&
        saved->value[KA_USER_TIMEOUT] > 0)
        rc = set_or_name(sock, KA_USER_TIMEOUT, 0, fault);
    if (rc == 0)
        rc = set_or_name(sock, KA_IDLE, 1, fault);
    return rc;
}

int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault) {
    int rc = 0, worst = 0;
    size_t i;
    /* Off first where it was off: then the rest arms no timer. */
    static const int order[] = {KA_ENABLED, KA_IDLE, KA_COUNT,
                                KA_USER_TIMEOUT};

    for (i = 0; i < sizeof order / sizeof order[0]; i++) {
        if (saved->value[order[i]] == KA_LEAVE)
            continue;
        rc = ka_os_put_back(sock, order[i], saved->value[order[i]]);
        if (rc < 0) { /* go on: one lost option is better than four */
            fault->option = order[i];
            fault->setting = 1;
            worst = rc;
        }
    }
    return worst;
}

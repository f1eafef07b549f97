#include "mask.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define BEGUN (UINT32_MAX - 2) /* they go round soon */

enum mask mask = MAC;
int mask_code;

int __real_ka_info(ka_sock sock, struct ka_info *info);
int __real_ka_identify(ka_sock sock, uint64_t *identity);
int __real_ka_pending(ka_sock sock, struct ka_pending *pending);
int __real_ka_end_disconnect(ka_sock sock);
int __real_fstat(int fd, struct stat *out);
int __wrap_ka_info(ka_sock sock, struct ka_info *info);
int __wrap_ka_identify(ka_sock sock, uint64_t *identity);
int __wrap_ka_pending(ka_sock sock, struct ka_pending *pending);
int __wrap_ka_end_disconnect(ka_sock sock);
int __wrap_fstat(int fd, struct stat *out);

/* Linux counts the peer's end as a byte. */
static int64_t payload_in(const struct ka_info *all) {
    int ended = all->state == KA_TCP_CLOSE_WAIT ||
                all->state == KA_TCP_LAST_ACK ||
                all->state == KA_TCP_CLOSING || all->state == KA_TCP_TIME_WAIT;

    return all->bytes_received - (ended && all->bytes_received > 0);
}

static void show(ka_sock sock, const struct ka_info *all,
                 struct ka_info *info) {
    int waiting = -1;

    if (ioctl(sock, SIOCOUTQ, &waiting) < 0)
        waiting = -1;
    memset(info, -1, sizeof *info);
    info->state = all->state;
    info->rtt_us = all->rtt_us;
    if (mask == MAC || mask == WINDOWS) {
        info->bytes_received = payload_in(all);
        info->bytes_sent = all->bytes_sent;
        info->bytes_retrans = all->bytes_retrans;
    }
    if (mask == MAC) {
        info->data_segs_in = all->data_segs_in;
        info->data_segs_out = all->data_segs_out;
        info->notsent_bytes = waiting;
        info->rto_us = all->unacked > 0 ? all->rto_us : -1;
    }
    if (mask == WINDOWS) {
        info->unacked = all->unacked;
        info->snd_wnd = all->snd_wnd;
        if (all->unacked == 0 && all->snd_wnd >= 1460)
            info->notsent_bytes = 0;
    }
    if (mask == FREEBSD || mask == NUMBERS)
        info->last_ack_recv_ms = all->last_ack_recv_ms < all->last_data_recv_ms
                                     ? all->last_ack_recv_ms
                                     : all->last_data_recv_ms;
    if (mask == NUMBERS) {
        info->queued_bytes = waiting;
        info->snd_nxt = (BEGUN + all->bytes_sent) & UINT32_MAX;
        info->rcv_nxt = (BEGUN + all->bytes_received) & UINT32_MAX;
        info->snd_max = 0;
    }
    if (mask == OPENBSD) {
        info->last_ack_recv_ms = all->last_ack_recv_ms;
        info->last_data_recv_ms = all->last_data_recv_ms;
        info->last_data_sent_ms = all->last_data_sent_ms;
    }
}

int __wrap_ka_info(ka_sock sock, struct ka_info *info) {
    struct ka_info all;
    int rc = __real_ka_info(sock, mask == BARE ? info : &all);

    if (rc < 0 || mask == BARE)
        return rc;
    if (all.state == KA_TCP_CLOSE)
        return -ENOTCONN;
    show(sock, &all, info);
    return 0;
}

static uint64_t mix(uint64_t sum, const void *data, size_t size) {
    const unsigned char *byte = data;

    while (size-- > 0)
        sum = (sum ^ *byte++) * UINT64_C(1099511628211);
    return sum;
}

static uint64_t mix_name(uint64_t sum, const struct sockaddr_storage *name) {
    const struct sockaddr_in *four = (const struct sockaddr_in *)name;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)name;

    if (name->ss_family == AF_INET) {
        sum = mix(sum, &four->sin_port, sizeof four->sin_port);
        return mix(sum, &four->sin_addr, sizeof four->sin_addr);
    }
    sum = mix(sum, &six->sin6_port, sizeof six->sin6_port);
    return mix(sum, &six->sin6_addr, sizeof six->sin6_addr);
}

int __wrap_ka_identify(ka_sock sock, uint64_t *identity) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    struct ka_info all;
    uint64_t sum = UINT64_C(14695981039346656037);

    if (mask == BARE)
        return __real_ka_identify(sock, identity);
    memset(&name, 0, sizeof name);
    if (getsockname(sock, (struct sockaddr *)&name, &size) < 0)
        return -errno;
    if (name.ss_family != AF_INET && name.ss_family != AF_INET6)
        return -EOPNOTSUPP;
    if (mask == MAC && __real_ka_info(sock, &all) == 0 &&
        all.state == KA_TCP_CLOSE && all.segs_in > 0)
        return -EINVAL; /* a dead one does not even tell its own name */
    sum = mix_name(sum, &name);
    size = sizeof name;
    if (getpeername(sock, (struct sockaddr *)&name, &size) == 0)
        sum = mix_name(sum, &name);
    *identity = sum | 1;
    return 0;
}

int __wrap_ka_pending(ka_sock sock, struct ka_pending *pending) {
    int rc = __real_ka_pending(sock, pending);

    if (rc == 0 && mask != BARE && pending->error)
        pending->code = mask_code;
    return rc;
}

int __wrap_ka_end_disconnect(ka_sock sock) {
    return mask == BARE ? __real_ka_end_disconnect(sock) : -EOPNOTSUPP;
}

static ino_t is_write_end(int fd) {
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
}

/* Sockets without a number; the ends of a pipe with one each on MAC, and on
 * the others with none. */
int __wrap_fstat(int fd, struct stat *out) {
    int rc = __real_fstat(fd, out);

    if (rc < 0 || mask == BARE)
        return rc;
    if (S_ISSOCK(out->st_mode) && mask != MAC)
        out->st_ino = 0;
    if (S_ISFIFO(out->st_mode))
        out->st_ino = mask == MAC ? out->st_ino * 2 + is_write_end(fd) : 0;
    return 0;
}

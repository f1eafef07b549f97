/* linux.c - how far the descriptors go, and what one of them is, on Linux.
 *
 * The bound is the size of the kernel's table of descriptors, "FDSize" in
 * /proc. Of this thread: a process whose first thread has ended shows 0, and
 * a thread may have a table of its own. To read it needs a number; when none
 * is left, or there is no /proc, the limit of open files is the bound.
 *
 * A look is three system calls. SO_PROTOCOL comes first because TCP_INFO is
 * not enough: AF_SMC answers it for a TCP connection that it only began
 * with, whose counters stand still while the data goes another way.
 * SO_PROTOCOL is not enough either: 6 is also a protocol of AF_NETLINK and
 * of raw sockets. The state in TCP_INFO then tells listening from connected.
 * A connection that has ended and one that never was are both CLOSE, and
 * getpeername denies both; only the first has received segments. MPTCP shows
 * its first subflow.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "diag.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define KA_IPPROTO_MPTCP 262
#ifndef SO_PROTOCOL
#define SO_PROTOCOL 38
#endif

/* Name, state and the owner's numbers come before FDSize, all short. */
#define KA_STATUS_BYTES 1024

static int64_t table_size(const char *path) {
    char text[KA_STATUS_BYTES + 1];
    const char *digit;
    ssize_t size;
    int64_t value = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    do
        size = read(fd, text, KA_STATUS_BYTES);
    while (size < 0 && errno == EINTR);
    close(fd);
    text[size > 0 ? size : 0] = 0;
    digit = strstr(text, "\nFDSize:\t");
    if (digit)
        for (digit += 9; *digit >= '0' && *digit <= '9'; digit++)
            value = value * 10 + (*digit - '0');
    return value;
}

int64_t ka_diag_bound(void) {
    int64_t bound = table_size("/proc/thread-self/status");
    struct rlimit limit;

    if (bound <= 0) /* before Linux 3.17 */
        bound = table_size("/proc/self/status");
    if (bound > 0)
        return bound;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > KA_DIAG_MOST)
        return KA_DIAG_MOST;
    return (int64_t)limit.rlim_cur;
}

static int local_port(ka_sock sock, uint16_t *port) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;

    memset(&name, 0, sizeof name);
    if (getsockname(sock, (struct sockaddr *)&name, &size) < 0)
        return -errno;
    if (name.ss_family == AF_INET)
        *port = ntohs(((const struct sockaddr_in *)&name)->sin_port);
    else if (name.ss_family == AF_INET6)
        *port = ntohs(((const struct sockaddr_in6 *)&name)->sin6_port);
    else
        return -EOPNOTSUPP;
    return 0;
}

static int has_been_connected(const struct ka_info *info) {
    switch (info->state) {
        case KA_TCP_LISTEN:
        case KA_TCP_SYN_SENT:
        case KA_TCP_SYN_RECV:
            return 0;
        case KA_TCP_CLOSE:
            return info->segs_in > 0;
        default:
            return 1;
    }
}

int ka_diag_look(ka_sock sock, struct ka_found *found) {
    struct ka_info info;
    int protocol = 0, rc;
    socklen_t size = sizeof protocol;

    memset(found, 0, sizeof *found);
    if (getsockopt(sock, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) < 0)
        return -errno;
    if (protocol != IPPROTO_TCP && protocol != KA_IPPROTO_MPTCP)
        return -EOPNOTSUPP;
    rc = ka_info(sock, &info);
    if (rc < 0)
        return rc == -EBADF || rc == -ENOTSOCK ? rc : -EOPNOTSUPP;
    found->listening = info.state == KA_TCP_LISTEN;
    found->connected = has_been_connected(&info);
    return local_port(sock, &found->port);
}

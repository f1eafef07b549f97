/* posix.c - how far the descriptors go, and what one of them is, on macOS and
 * the BSDs.
 *
 * The bound. No portable call tells the highest descriptor. NetBSD does, by
 * F_MAXFD. Elsewhere the limit of open files bounds it; from there downwards
 * poll says of many numbers at once which are closed, until one is not. That
 * costs a system call for each 1024 numbers of the limit: nothing to speak of
 * where it is some thousands, and where it is a million about 25 ms for each
 * pass, which the share of CPU that discovery may take then spreads out. A
 * descriptor above a limit that was lowered later is not found.
 *
 * A look. TCP is what ka_info answers for; that it is a stream of one of the
 * two families is asked first, since it costs less and because other
 * protocols may answer alike. A connection that has ended has no peer any
 * more and cannot be told from one that never was: it is taken for the
 * latter, and nothing could be done with it anyhow.
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
#include "diag.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define AT_ONCE 1024

/* ---- the bound ---------------------------------------------------------- */

static int64_t limit_of_files(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > KA_DIAG_MOST)
        return KA_DIAG_MOST;
    return (int64_t)limit.rlim_cur;
}

/* One above the highest of [begin, begin + AT_ONCE) that is open, or 0. */
static int64_t highest_of(int64_t begin, int64_t end) {
    struct pollfd number[AT_ONCE];
    int count = (int)(end - begin), i;

    for (i = 0; i < count; i++) {
        number[i].fd = (int)(begin + i);
        number[i].events = number[i].revents = 0;
    }
    while (poll(number, (nfds_t)count, 0) < 0)
        if (errno != EINTR)
            return end; /* it may be open */
    for (i = count; i > 0; i--)
        if (!(number[i - 1].revents & POLLNVAL))
            return begin + i;
    return 0;
}

int64_t ka_diag_bound(void) {
    int64_t bound = limit_of_files(), found = 0, begin;

#ifdef F_MAXFD
    begin = fcntl(0, F_MAXFD);
    if (begin >= 0)
        return begin + 1;
#endif
    for (; bound > 0 && found == 0; bound = begin) {
        begin = (bound - 1) / AT_ONCE * AT_ONCE;
        found = highest_of(begin, bound);
    }
    return found;
}

/* ---- a look ------------------------------------------------------------- */

static int asked(ka_sock sock, int option, int *value) {
    socklen_t size = sizeof *value;

    return getsockopt(sock, SOL_SOCKET, option, value, &size) < 0 ? -errno : 0;
}

static int local_port(ka_sock sock, uint16_t *port) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;

    memset(&name, 0, sizeof name);
    if (getsockname(sock, (struct sockaddr *)&name, &size) < 0)
        return errno == EBADF || errno == ENOTSOCK ? -errno : -EOPNOTSUPP;
    if (name.ss_family == AF_INET)
        *port = ntohs(((const struct sockaddr_in *)&name)->sin_port);
    else if (name.ss_family == AF_INET6)
        *port = ntohs(((const struct sockaddr_in6 *)&name)->sin6_port);
    else
        return -EOPNOTSUPP;
    return 0;
}

/* Unconnected and listening ones may have no info, and be TCP all the same. */
static int is_tcp(int rc) {
    return rc == 0 || rc == -ENOTCONN || rc == -EOPNOTSUPP || rc == -EINVAL;
}

int ka_diag_look(ka_sock sock, struct ka_found *found) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    struct ka_info info;
    int type = 0, rc;

    memset(found, 0, sizeof *found);
    rc = asked(sock, SO_TYPE, &type);
    if (rc < 0)
        return rc;
    if (type != SOCK_STREAM)
        return -EOPNOTSUPP;
    rc = local_port(sock, &found->port);
    if (rc < 0)
        return rc;
    rc = ka_info(sock, &info);
    if (rc == -EBADF)
        return rc;
    if (!is_tcp(rc))
        return -EOPNOTSUPP;
    if (asked(sock, SO_ACCEPTCONN, &found->listening) < 0)
        found->listening = rc == 0 && info.state == KA_TCP_LISTEN;
    found->listening = found->listening != 0;
    found->connected = !found->listening &&
                       getpeername(sock, (struct sockaddr *)&name, &size) == 0;
    return 0;
}

#include "fake_kernel.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/types.h>

int __real_setsockopt(int, int, int, const void *, socklen_t);
int __real_getsockopt(int, int, int, void *, socklen_t *);
int __real_poll(struct pollfd *, nfds_t, int);
int __real_ioctl(int, unsigned long, ...);
int __real_socket(int, int, int);
int __real_close(int);
ssize_t __real_recv(int, void *, size_t, int);
ssize_t __real_recvmsg(int, struct msghdr *, int);
ssize_t __real_read(int, void *, size_t);
ssize_t __real_send(int, const void *, size_t, int);
ssize_t __real_write(int, const void *, size_t);

struct fake_kernel fake;

/* Written out, not taken from the core: this is the other opinion. */
static const struct {
    int level, number;
    struct fake_option initial;
} options[KA_OPTIONS] = {
    [KA_ENABLED] = {SOL_SOCKET, SO_KEEPALIVE, {0, INT32_MIN, INT32_MAX, 0, 0}},
    [KA_IDLE] = {6, 4, {7200, 1, 32767, 0, 0}},
    [KA_INTERVAL] = {6, 5, {75, 1, 32767, 0, 0}},
    [KA_COUNT] = {6, 6, {9, 1, 127, 0, 0}},
    [KA_USER_TIMEOUT] = {6, 18, {0, 0, INT32_MAX, 0, 0}},
    [KA_RTO_MAX] = {6, 44, {120000, 1000, 120000, 0, 0}},
};

int fake_option_of(int level, int number) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        if (options[option].level == level && options[option].number == number)
            return option;
    return -1;
}

static void renew(struct fake_socket *socket) {
    static uint64_t cookie = 7;
    int option;

    memset(socket, 0, sizeof *socket);
    socket->open = 1;
    socket->cookie = ++cookie;
    socket->family = AF_INET;
    socket->type = SOCK_STREAM;
    socket->protocol = IPPROTO_TCP;
    for (option = 0; option < KA_OPTIONS; option++)
        socket->option[option] = options[option].initial;
    socket->info.field.tcpi_state = KA_TCP_ESTABLISHED;
    socket->info_size = sizeof(struct tcp_info);
}

void fake_reset(void) {
    memset(&fake, 0, sizeof fake);
    renew(&fake.socket[0]);
    fake_forget();
}

void fake_forget(void) {
    fake.calls = fake.sets = fake.gets = 0;
    fake.fail_set = fake.fail_get = 0;
    fake.fail_err = EIO;
}

void fake_replace(struct fake_socket *socket) {
    renew(socket);
}

int fake_sets_are(const struct fake_pair *want, int n) {
    int i, seen = 0, good = 1;

    for (i = 0; i < fake.calls; i++) {
        const struct fake_call *call = &fake.call[i];
        int option = fake_option_of(call->level, call->number);

        if (call->op != FAKE_SET)
            continue;
        if (seen >= n || want[seen].option != option ||
            want[seen].value != call->value) {
            printf("set %d: option %d to %d\n", seen, option, call->value);
            good = 0;
        }
        seen++;
    }
    return good && seen == n;
}

static int note(enum fake_op op, int fd, int level, int number, int32_t value,
                int err) {
    if (fake.calls < FAKE_CALLS)
        fake.call[fake.calls++] =
            (struct fake_call){op, fd, level, number, value, err};
    errno = err;
    return err ? -1 : 0;
}

static int ours(int fd) {
    return fd >= FAKE_FD && fd < FAKE_FD + FAKE_SOCKETS;
}

static struct fake_socket *at(int fd) {
    struct fake_socket *socket = &fake.socket[fd - FAKE_FD];

    return socket->open ? socket : NULL;
}

static int ordered(uint64_t bits, int nth) {
    return nth < 64 && ((bits >> nth) & 1) ? fake.fail_err : 0;
}

static int set_option(int fd, int option, int32_t value, socklen_t size) {
    struct fake_socket *socket = at(fd);
    struct fake_option *held;
    int err = ordered(fake.fail_set, fake.sets++);

    if (!socket)
        return EBADF;
    if (option < 0 || socket->option[option].absent)
        return ENOPROTOOPT;
    held = &socket->option[option];
    if (held->set_err || err)
        return held->set_err ? held->set_err : err;
    if (size != sizeof value || value < held->low || value > held->high)
        return EINVAL;
    if (fake.on_set)
        fake.on_set(socket, option, value);
    held->value = option == KA_ENABLED ? value != 0 : value;
    return 0;
}

int __wrap_setsockopt(int fd, int level, int number, const void *value,
                      socklen_t size) {
    int32_t wanted = 0;

    if (!ours(fd))
        return __real_setsockopt(fd, level, number, value, size);
    if (size >= sizeof wanted)
        memcpy(&wanted, value, sizeof wanted);
    return note(FAKE_SET, fd, level, number, wanted,
                set_option(fd, fake_option_of(level, number), wanted, size));
}

static int answer(void *out, socklen_t *size, const void *value, size_t n) {
    if (*size > n)
        *size = (socklen_t)n;
    memcpy(out, value, *size);
    return 0;
}

static int get_socket(struct fake_socket *socket, int number, void *out,
                      socklen_t *size) {
    switch (number) {
        case SO_COOKIE:
            if (*size < sizeof socket->cookie)
                return EINVAL;
            return answer(out, size, &socket->cookie, sizeof socket->cookie);
        case SO_DOMAIN:
            return answer(out, size, &socket->family, sizeof(int));
        case SO_TYPE:
            return answer(out, size, &socket->type, sizeof(int));
        case SO_PROTOCOL:
            return answer(out, size, &socket->protocol, sizeof(int));
        case SO_ACCEPTCONN:
            return answer(out, size, &socket->listening, sizeof(int));
        case SO_ERROR:
            fake.forbidden = "getsockopt(SO_ERROR)";
            return ENOPROTOOPT;
        default:
            return ENOPROTOOPT;
    }
}

static int get_info(struct fake_socket *socket, void *out, socklen_t *size) {
    if (socket->info_err)
        return socket->info_err;
    /* What lies beyond the answer must not be read: give it a face. */
    memset(out, 0xa5, *size);
    answer(out, size, &socket->info, socket->info_size);
    if (socket->dies_after_info) {
        socket->info.field.tcpi_state = KA_TCP_CLOSE;
        socket->revents = POLLIN | POLLRDHUP | POLLERR | POLLHUP;
    }
    return 0;
}

static int get_any(int fd, int level, int number, void *out, socklen_t *size) {
    struct fake_socket *socket = at(fd);
    int option = fake_option_of(level, number);
    int err = ordered(fake.fail_get, fake.gets++);

    if (!socket)
        return EBADF;
    if (err)
        return err;
    if (option >= 0)
        return socket->option[option].absent
                   ? ENOPROTOOPT
                   : answer(out, size, &socket->option[option].value,
                            sizeof(int32_t));
    if (level == IPPROTO_TCP && number == TCP_INFO)
        return get_info(socket, out, size);
    return level == SOL_SOCKET ? get_socket(socket, number, out, size)
                               : ENOPROTOOPT;
}

int __wrap_getsockopt(int fd, int level, int number, void *value,
                      socklen_t *size) {
    if (!ours(fd))
        return __real_getsockopt(fd, level, number, value, size);
    return note(FAKE_GET, fd, level, number, 0,
                get_any(fd, level, number, value, size));
}

int __wrap_poll(struct pollfd *seen, nfds_t n, int timeout) {
    struct fake_socket *socket;

    if (n != 1 || !ours(seen->fd))
        return __real_poll(seen, n, timeout);
    if (timeout != 0)
        fake.forbidden = "poll that waits";
    if (fake.poll_interrupts > 0) {
        fake.poll_interrupts--;
        return note(FAKE_POLL, seen->fd, 0, 0, 0, EINTR);
    }
    note(FAKE_POLL, seen->fd, 0, 0, 0, 0);
    socket = at(seen->fd);
    seen->revents = socket
                        ? socket->revents & (seen->events | POLLERR | POLLHUP)
                        : POLLNVAL;
    return seen->revents != 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
    struct fake_socket *socket;
    va_list list;
    int *out;

    va_start(list, request);
    out = va_arg(list, int *);
    va_end(list);
    if (!ours(fd))
        return __real_ioctl(fd, request, out);
    socket = at(fd);
    if (!socket || request != SIOCINQ || socket->unread_err)
        return note(FAKE_IOCTL, fd, 0, 0, 0,
                    !socket              ? EBADF
                    : socket->unread_err ? socket->unread_err
                                         : EINVAL);
    *out = socket->unread;
    return note(FAKE_IOCTL, fd, 0, 0, 0, 0);
}

int __wrap_socket(int family, int type, int protocol) {
    int i, err = EMFILE;

    (void)type;
    (void)protocol;
    if (family == AF_INET ? fake.no_ipv4 : fake.no_ipv6)
        err = EAFNOSUPPORT;
    for (i = 0; i < FAKE_SOCKETS && err == EMFILE; i++)
        if (!fake.socket[i].open) {
            renew(&fake.socket[i]);
            fake.socket[i].family = family;
            note(FAKE_SOCKET, FAKE_FD + i, 0, 0, family, 0);
            return FAKE_FD + i;
        }
    return note(FAKE_SOCKET, -1, 0, 0, family, err);
}

int __wrap_close(int fd) {
    struct fake_socket *socket;

    if (!ours(fd))
        return __real_close(fd);
    socket = at(fd);
    if (socket)
        socket->open = 0;
    return note(FAKE_CLOSE, fd, 0, 0, 0, socket ? 0 : EBADF);
}

static int forbid(int fd, const char *name) {
    if (!ours(fd))
        return 0;
    fake.forbidden = name;
    errno = EIO;
    return 1;
}

ssize_t __wrap_recv(int fd, void *out, size_t n, int flags) {
    return forbid(fd, "recv") ? -1 : __real_recv(fd, out, n, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *out, int flags) {
    return forbid(fd, "recvmsg") ? -1 : __real_recvmsg(fd, out, flags);
}

ssize_t __wrap_read(int fd, void *out, size_t n) {
    return forbid(fd, "read") ? -1 : __real_read(fd, out, n);
}

ssize_t __wrap_send(int fd, const void *from, size_t n, int flags) {
    return forbid(fd, "send") ? -1 : __real_send(fd, from, n, flags);
}

ssize_t __wrap_write(int fd, const void *from, size_t n) {
    return forbid(fd, "write") ? -1 : __real_write(fd, from, n);
}

#include "fake_bsd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/event.h>
#include <sys/sysctl.h>

#define SOCKET_LEVEL 0xffff
#define TCP_LEVEL 6

int __real_setsockopt(int, int, int, const void *, socklen_t);
int __real_getsockopt(int, int, int, void *, socklen_t *);
int __real_getsockname(int, struct sockaddr *, socklen_t *);
int __real_getpeername(int, struct sockaddr *, socklen_t *);
int __real_close(int);
int __real_ioctl(int, unsigned long, ...);
int __wrap_setsockopt(int, int, int, const void *, socklen_t);
int __wrap_getsockopt(int, int, int, void *, socklen_t *);
int __wrap_getsockname(int, struct sockaddr *, socklen_t *);
int __wrap_getpeername(int, struct sockaddr *, socklen_t *);
int __wrap_socket(int, int, int);
int __wrap_close(int);
int __wrap_ioctl(int, unsigned long, ...);

struct fake_bsd fake;

static void place(struct sockaddr_storage *end, int family, int host,
                  int port) {
    struct sockaddr_in four;
    struct sockaddr_in6 six;

    memset(end, 0, sizeof *end);
    memset(&four, 0, sizeof four);
    memset(&six, 0, sizeof six);
    if (family == AF_INET6) {
        six.sin6_family = AF_INET6;
        six.sin6_port = htons((uint16_t)port);
        six.sin6_addr.s6_addr[15] = (unsigned char)host;
        memcpy(end, &six, sizeof six);
    } else {
        four.sin_family = (sa_family_t)family;
        four.sin_port = htons((uint16_t)port);
        four.sin_addr.s_addr = htonl(0x0a000000u + (unsigned)host);
        memcpy(end, &four, sizeof four);
    }
}

void fake_peer(struct fake_socket *socket, int family, int port) {
    socket->family = family;
    place(&socket->local, family, 1, 80);
    place(&socket->peer, family, 2, port);
}

static void renew(struct fake_socket *socket) {
    memset(socket, 0, sizeof *socket);
    socket->open = 1;
    socket->type = SOCK_STREAM;
    socket->protocol = TCP_LEVEL;
    memcpy(socket->row, fake_system.row, sizeof socket->row);
    socket->info_size = fake_system.info_size;
    fake_peer(socket, AF_INET, 4000);
    socket->info[0] = 4; /* ESTABLISHED */
}

void fake_reset(void) {
    memset(&fake, 0, sizeof fake);
    memset(fake.sysctl, 0xff, sizeof fake.sysctl);
    renew(&fake.socket[0]);
}

void fake_forget(void) {
    fake.calls = fake.sets = 0;
    fake.fail_set = 0;
}

void fake_end(struct fake_socket *socket, int error) {
    socket->gone = socket->in_eof = socket->out_eof = 1;
    socket->error = error;
}

void fake_put(int offset, uint64_t value, int bytes) {
    memcpy(fake.socket[0].info + offset, &value, (size_t)bytes);
}

struct fake_row *fake_row(struct fake_socket *socket, int number) {
    int i;

    for (i = 0; i < FAKE_ROWS; i++)
        if (socket->row[i].level && socket->row[i].number == number)
            return &socket->row[i];
    return NULL;
}

int fake_count(enum fake_op op) {
    int i, n = 0;

    for (i = 0; i < fake.calls; i++)
        n += fake.call[i].op == op;
    return n;
}

int fake_sets_are(const struct fake_pair *want, int n) {
    int i, seen = 0, good = 1;

    for (i = 0; i < fake.calls; i++) {
        if (fake.call[i].op != FAKE_SET)
            continue;
        if (seen >= n || want[seen].number != fake.call[i].number ||
            want[seen].value != (unsigned)fake.call[i].value) {
            printf("set %d: option %d to %d\n", seen, fake.call[i].number,
                   fake.call[i].value);
            good = 0;
        }
        seen++;
    }
    return good && seen == n;
}

static int note(enum fake_op op, int number, int value, int err) {
    if (fake.calls < FAKE_CALLS)
        fake.call[fake.calls++] = (struct fake_call){op, number, value, err};
    errno = err;
    return err ? -1 : 0;
}

static int ours(int fd) {
    return fd >= FAKE_FD;
}

static struct fake_socket *at(int fd) {
    int i = fd - FAKE_FD;

    return i < FAKE_SOCKETS && fake.socket[i].open ? &fake.socket[i] : NULL;
}

/* Why an option of this level cannot be had. */
static int refusal(const struct fake_socket *socket, int level) {
    if (!socket)
        return EBADF;
    if (level == TCP_LEVEL &&
        (socket->protocol != TCP_LEVEL || socket->type != SOCK_STREAM))
        return fake_system.not_tcp;
    return level == TCP_LEVEL && socket->gone ? fake_system.gone : 0;
}

static int set_option(int fd, int level, int number, unsigned value) {
    struct fake_socket *socket = at(fd);
    struct fake_row *row = socket ? fake_row(socket, number) : NULL;
    int nth = fake.sets++, err = refusal(socket, level);

    if (err)
        return err;
    if (!row || row->level != level || row->absent)
        return ENOPROTOOPT;
    if (nth < 64 && fake.fail_set >> nth & 1)
        return fake.fail_err;
    if (value < row->low || value > row->high)
        return EINVAL;
    row->value = value;
    if (fake.on_set)
        fake.on_set(socket, number, value);
    return 0;
}

int __wrap_setsockopt(int fd, int level, int number, const void *value,
                      socklen_t size) {
    int wanted = 0;

    if (!ours(fd))
        return __real_setsockopt(fd, level, number, value, size);
    if (size != sizeof wanted)
        fake.forbidden = "setsockopt of another size";
    else
        memcpy(&wanted, value, sizeof wanted);
    return note(FAKE_SET, number, wanted,
                set_option(fd, level, number, (unsigned)wanted));
}

static int answer(void *out, socklen_t *size, const void *value, size_t n) {
    memset(out, 0xa5, *size); /* what lies beyond must not be read */
    if (*size > n)
        *size = (socklen_t)n;
    memcpy(out, value, *size);
    return 0;
}

static int get_socket(const struct fake_socket *socket, int number, void *out,
                      socklen_t *size) {
    int listening = socket->listening ? 2 : 0; /* the flag's bit */

    if (number == 0x1008)
        return answer(out, size, &socket->type, sizeof(int));
    if (number == 0x0002)
        return answer(out, size, &listening, sizeof(int));
    if (number == fake_system.protocol_number)
        return answer(out, size, &socket->protocol, sizeof(int));
    if (number == 0x1007)
        fake.forbidden = "getsockopt(SO_ERROR)";
    return ENOPROTOOPT;
}

static int get_any(int fd, int level, int number, void *out, socklen_t *size) {
    struct fake_socket *socket = at(fd);
    struct fake_row *row = socket ? fake_row(socket, number) : NULL;
    int err = refusal(socket, level);
    unsigned value;

    if (err)
        return err;
    if (level == TCP_LEVEL && number == fake_system.info_number)
        return answer(out, size, socket->info, socket->info_size);
    if (!row || row->level != level)
        return level == SOCKET_LEVEL ? get_socket(socket, number, out, size)
                                     : ENOPROTOOPT;
    if (row->absent || row->unreadable)
        return ENOPROTOOPT;
    value = row->value;
    if (level == SOCKET_LEVEL && value)
        value = 8; /* the flag's bit */
    return answer(out, size, &value, sizeof value);
}

int __wrap_getsockopt(int fd, int level, int number, void *value,
                      socklen_t *size) {
    if (!ours(fd))
        return __real_getsockopt(fd, level, number, value, size);
    return note(FAKE_GET, number, 0, get_any(fd, level, number, value, size));
}

static int name(const struct fake_socket *socket,
                const struct sockaddr_storage *end, int missing,
                struct sockaddr *out, socklen_t *size) {
    errno = !socket                       ? EBADF
            : socket->gone                ? missing
            : end->ss_family == AF_UNSPEC ? missing
                                          : 0;
    if (errno)
        return -1;
    return answer(out, size, end,
                  end->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                             : sizeof(struct sockaddr_in));
}

int __wrap_getsockname(int fd, struct sockaddr *out, socklen_t *size) {
    struct fake_socket *socket = at(fd);

    if (!ours(fd))
        return __real_getsockname(fd, out, size);
    return name(socket, socket ? &socket->local : NULL, EINVAL, out, size);
}

int __wrap_getpeername(int fd, struct sockaddr *out, socklen_t *size) {
    struct fake_socket *socket = at(fd);

    if (!ours(fd))
        return __real_getpeername(fd, out, size);
    return name(socket, socket ? &socket->peer : NULL, ENOTCONN, out, size);
}

int __wrap_socket(int family, int type, int protocol) {
    int i;

    (void)type;
    (void)protocol;
    for (i = 0; i < FAKE_SOCKETS; i++)
        if (!fake.socket[i].open) {
            renew(&fake.socket[i]);
            fake.socket[i].info[0] = 0;
            fake_peer(&fake.socket[i], family, 0);
            memset(&fake.socket[i].peer, 0, sizeof fake.socket[i].peer);
            note(FAKE_SOCKET, 0, 0, 0);
            return FAKE_FD + i;
        }
    return note(FAKE_SOCKET, 0, 0, EMFILE);
}

int __wrap_close(int fd) {
    struct fake_socket *socket;

    if (!ours(fd))
        return __real_close(fd);
    socket = at(fd);
    if (socket)
        socket->open = 0;
    return note(FAKE_CLOSE, fd - FAKE_FD, 0,
                socket || fd == FAKE_QUEUE ? 0 : EBADF);
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
    struct fake_socket *socket = at(fd);
    va_list rest;
    int *out;

    va_start(rest, request);
    out = va_arg(rest, int *);
    va_end(rest);
    if (!ours(fd))
        return __real_ioctl(fd, request, out);
    if (request != fake_system.queue || request == 0)
        fake.forbidden = "ioctl that is no look at the send buffer";
    if (socket && socket->queued >= 0)
        *out = socket->queued;
    return note(FAKE_IOCTL, 0, 0,
                !socket              ? EBADF
                : socket->queued < 0 ? ENOTTY
                                     : 0);
}

int kqueue(void) {
    return note(FAKE_KQUEUE, 0, 0, fake.kqueue_err) < 0 ? -1 : FAKE_QUEUE;
}

static int is_look(const struct kevent *changes, int n,
                   const struct timespec *timeout) {
    return n == 2 && timeout && timeout->tv_sec == 0 &&
           timeout->tv_nsec == 0 && changes[0].filter == EVFILT_READ &&
           changes[0].fflags == NOTE_LOWAT && changes[0].data == 1 &&
           changes[1].filter == EVFILT_WRITE && changes[0].flags == EV_ADD &&
           changes[1].flags == EV_ADD && changes[0].ident == changes[1].ident;
}

int kevent(int queue, const struct kevent *changes, int n,
           struct kevent *events, int room, const struct timespec *timeout) {
    struct fake_socket *socket = at((int)changes[0].ident);
    int seen = 0, i;

    if (queue != FAKE_QUEUE || !is_look(changes, n, timeout) || room < 2)
        fake.forbidden = "kevent that is no look";
    if (fake.interrupts > 0) {
        fake.interrupts--;
        return note(FAKE_KEVENT, 0, 0, EINTR);
    }
    note(FAKE_KEVENT, 0, 0, 0);
    for (i = 0; i < 2; i++) {
        int in = i == 0;
        int eof = socket && (in ? socket->in_eof : socket->out_eof);

        events[seen] = changes[i];
        events[seen].fflags = eof ? (unsigned)socket->error : 0;
        events[seen].flags =
            (unsigned short)(EV_ADD | (!socket ? EV_ERROR : 0) |
                             (eof ? EV_EOF : 0));
        events[seen].data = !socket ? EBADF : in ? socket->data : 4096;
        if (!socket || eof || (in ? socket->data > 0 : socket->peer.ss_family))
            seen++;
    }
    return seen;
}

int sysctlbyname(const char *name_, void *old, size_t *size,
                 const void *wanted, size_t n) {
    static const char *const names[3] = {"net.inet.tcp.keepidle",
                                         "net.inet.tcp.keepintvl",
                                         "net.inet.tcp.keepcnt"};
    int i;

    if (wanted || n || *size != sizeof(int))
        fake.forbidden = "sysctl that sets";
    for (i = 0; i < 3; i++)
        if (strcmp(name_, names[i]) == 0 && fake.sysctl[i] >= 0) {
            memcpy(old, &fake.sysctl[i], sizeof(int));
            return note(FAKE_SYSCTL, i, 0, 0);
        }
    return note(FAKE_SYSCTL, -1, 0, ENOENT);
}

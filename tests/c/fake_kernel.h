/* fake_kernel.h - a kernel made of tables, that writes down what it is asked.
 *
 * Linked with -Wl,--wrap=..., it stands in for the system calls of the core.
 * Descriptors from FAKE_FD on are its own, all others go to the real system,
 * so that a sanitizer's or a fuzzer's own calls are left alone.
 *
 * What the core must never do on somebody's socket (SO_ERROR, recv, read, any
 * write) leaves its name in fake.forbidden, which fails the case
 * (fake_test.h).
 */
#ifndef KA_FAKE_KERNEL_H
#define KA_FAKE_KERNEL_H

#include <linux/tcp.h>
#include <stdint.h>
#include <sys/socket.h>

#include "stillalive.h"

#define FAKE_FD 1000000
#define FAKE_SOCKETS 4
#define FAKE_CALLS 256
#define FAKE_INFO_BYTES 512 /* of a kernel newer than the core knows */

enum fake_op {
    FAKE_SET,
    FAKE_GET,
    FAKE_POLL,
    FAKE_IOCTL,
    FAKE_SOCKET,
    FAKE_CLOSE
};

struct fake_call {
    enum fake_op op;
    int fd;
    int level;
    int number;
    int32_t value; /* FAKE_SET */
    int err;       /* 0 or what it failed with */
};

struct fake_option {
    int32_t value;
    int32_t low, high; /* what can be set; what is held may lie outside */
    int absent;        /* ENOPROTOOPT */
    int set_err;       /* every attempt to set it fails with this */
};

struct fake_socket {
    int open;
    uint64_t cookie;
    int family, type, protocol, listening;
    struct fake_option option[KA_OPTIONS];
    union {
        struct tcp_info field;
        unsigned char raw[FAKE_INFO_BYTES];
    } info;
    uint32_t info_size;
    int info_err;
    int dies_after_info; /* the state was read, then the reset was handled */
    short revents;
    int unread;
    int unread_err;
};

extern struct fake_kernel {
    struct fake_socket socket[FAKE_SOCKETS];
    struct fake_call call[FAKE_CALLS];
    int calls;
    int sets, gets;              /* so far, or since fake_forget() */
    uint64_t fail_set, fail_get; /* bit n: call n of its kind fails */
    int fail_err;
    int poll_interrupts; /* that many polls fail with EINTR first */
    int no_ipv4, no_ipv6;
    const char *forbidden;
    /* Called before an option takes a value that the kernel accepts. */
    void (*on_set)(struct fake_socket *socket, int option, int32_t value);
} fake;

/* One established connection at FAKE_FD, with Linux's defaults. */
void fake_reset(void);
/* Forget the calls and the failures ordered, keep the sockets. */
void fake_forget(void);
/* The descriptor closed, and its number given to a new connection. */
void fake_replace(struct fake_socket *socket);

/* The option whose number that is, or -1. */
int fake_option_of(int level, int number);

/* Compare the setsockopt calls so far with `want`, n pairs of option and
 * value; 1 when equal. */
struct fake_pair {
    int option;
    int32_t value;
};
int fake_sets_are(const struct fake_pair *want, int n);
#define FAKE_SETS_ARE(...)                                                \
    fake_sets_are((const struct fake_pair[]){__VA_ARGS__},                \
                  (int)(sizeof((const struct fake_pair[]){__VA_ARGS__}) / \
                        sizeof(struct fake_pair)))

#endif

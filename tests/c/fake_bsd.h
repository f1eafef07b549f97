/* fake_bsd.h - a kernel made of tables that answers as a BSD does.
 *
 * Linked with -Wl,--wrap=..., like fake_kernel.h. A test fills in what differs
 * between the systems (struct fake_system); values are the kernel's own, in
 * its own units. Descriptors below FAKE_FD go to the real system.
 */
#ifndef KA_FAKE_BSD_H
#define KA_FAKE_BSD_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#include "sockopt.h"

#define FAKE_FD 1000000
#define FAKE_SOCKETS 3
#define FAKE_QUEUE (FAKE_FD + 100)
#define FAKE_CALLS 128
#define FAKE_ROWS 7
#define FAKE_BYTES 512

enum fake_op {
    FAKE_SET,
    FAKE_GET,
    FAKE_SOCKET,
    FAKE_CLOSE,
    FAKE_KQUEUE,
    FAKE_KEVENT,
    FAKE_SYSCTL,
    FAKE_IOCTL
};

struct fake_call {
    enum fake_op op;
    int number, value, err;
};

struct fake_row {
    int level, number;
    unsigned value, low, high;
    int unreadable, absent;
};

struct fake_system {
    struct fake_row row[FAKE_ROWS]; /* level 0: no more */
    int info_number;
    uint32_t info_size;
    int protocol_number; /* SO_PROTOCOL, 0 none */
    int not_tcp;         /* errno of level TCP on what is not TCP */
    int gone;            /* of level TCP on an ended connection */
    unsigned long queue; /* the ioctl of the send buffer, 0 none */
};

struct fake_socket {
    int open, family, type, protocol, listening;
    int gone; /* the control block is */
    struct fake_row row[FAKE_ROWS];
    unsigned char info[FAKE_BYTES];
    uint32_t info_size;
    struct sockaddr_storage local, peer; /* family 0: none */
    int64_t data;
    int queued; /* bytes in the send buffer, -1 not told */
    int in_eof, out_eof, error;
};

extern const struct fake_system fake_system;

extern struct fake_bsd {
    struct fake_socket socket[FAKE_SOCKETS];
    struct fake_call call[FAKE_CALLS];
    int calls, sets;
    uint64_t fail_set; /* bit n: that setsockopt fails */
    int fail_err, kqueue_err, interrupts;
    int sysctl[3]; /* keepidle, keepintvl, keepcnt; -1 absent */
    const char *forbidden;
    void (*on_set)(struct fake_socket *socket, int number, unsigned value);
} fake;

/* One established connection at FAKE_FD. */
void fake_reset(void);
void fake_forget(void);
/* The peer's port, to make another connection of it. */
void fake_peer(struct fake_socket *socket, int family, int port);
/* Reset, timed out or closed in order: the control block is gone. */
void fake_end(struct fake_socket *socket, int error);
void fake_put(int offset, uint64_t value, int bytes);
struct fake_row *fake_row(struct fake_socket *socket, int number);
int fake_count(enum fake_op op);

/* Compare the setsockopt calls with `want`, n pairs; 1 when equal. */
struct fake_pair {
    int number;
    unsigned value;
};
int fake_sets_are(const struct fake_pair *want, int n);
#define FAKE_SETS_ARE(...)                                                \
    fake_sets_are((const struct fake_pair[]){__VA_ARGS__},                \
                  (int)(sizeof((const struct fake_pair[]){__VA_ARGS__}) / \
                        sizeof(struct fake_pair)))

#endif

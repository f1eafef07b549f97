/* reserve.h - one descriptor number, kept to act on other people's sockets.
 *
 * Numbers are reused: between a question about descriptor 7 and an act on
 * descriptor 7, its owner may have closed it and another thread may have
 * opened another connection under the same number. So nothing is ever done to
 * a number. The socket behind it is duplicated onto a number of our own
 * (which works even when the process has no number left), the duplicate is
 * asked who it is, and only then acted on. While the duplicate exists, the
 * socket cannot become another one.
 *
 * Somebody may close our numbers too (daemons close everything). What stands
 * there then is not ours, and dup3 onto it would close it. So before each use
 * the number must still be the pipe we put there.
 *
 * reserve_posix.c and reserve_windows.c hold the same functions; on Windows
 * there is no number to keep, and a duplicate gets one when it is made. One
 * thread at a time. Results are >= 0 or -errno.
 */
#ifndef KA_RESERVE_H
#define KA_RESERVE_H

#include <errno.h>

#include "stillalive.h"

/* 1 where a connection has no name of its own (SO_COOKIE) but is named by its
 * two ends: it loses that name when it ends, and gets it when it connects. */
#ifndef KA_NAMED_BY_ENDS
#ifdef __linux__
#define KA_NAMED_BY_ENDS 0
#else
#define KA_NAMED_BY_ENDS 1
#endif
#endif

#ifndef ESTALE /* Windows; the system's number */
#define ESTALE 10070
#endif

#define KA_LATELY 64

struct ka_reserve {
    ka_sock sock;   /* the number: the pipe, or while taken a duplicate */
    ka_sock filler; /* the other number of the pipe */
    uint64_t device, inode, twin; /* of the pipe, whose ends may differ */
    int32_t taken;
    int32_t started; /* Windows: Winsock was */
    uint32_t takes;  /* so far, and what the last of them were */
    int32_t lately[KA_LATELY];
};

struct ka_endpoint {
    unsigned char address[16];
    uint32_t scope;
    uint16_t port;
    uint8_t family; /* 4, 6 (v4-mapped addresses are 4), or 0: neither */
};

int ka_reserve_open(struct ka_reserve *reserve);
/* Close what is still ours. */
void ka_reserve_close(struct ka_reserve *reserve);
/* The same in a forked child, whatever the parent was in the middle of. */
void ka_reserve_abandon(struct ka_reserve *reserve);
/* Duplicate `sock` onto reserve->sock. -EBADF: it is not open. -ESTALE: our
 * own numbers are no longer ours; nothing was touched, and nothing may ever
 * be again. */
int ka_reserve_take(struct ka_reserve *reserve, ka_sock sock);
/* Close the duplicate; where there is a pipe, by putting that back. */
void ka_reserve_give(struct ka_reserve *reserve);

/* What is done to a connection, on the duplicate. */
int ka_end_shutdown(ka_sock sock); /* both ways: the owner reads an end */
/* Reset: the owner's calls fail. -EOPNOTSUPP where no call does that. */
int ka_end_disconnect(ka_sock sock);
/* A number that no other socket has while this one is open. */
int ka_name_while_open(ka_sock sock, uint64_t *name);
/* MPTCP, with more than the path whose counters can be seen. */
int ka_has_paths(ka_sock sock);
/* How long it has been connected at most: it cannot have been silent for
 * longer. -1 where that is not told. */
int64_t ka_connected_ms(ka_sock sock);
/* Bytes that the owner has not read. */
int ka_unread(ka_sock sock, int64_t *bytes);
/* Bytes, and an end, that the peer has not acknowledged; -1 not told. */
int64_t ka_unacked(ka_sock sock);
int ka_endpoints(ka_sock sock, struct ka_endpoint *local,
                 struct ka_endpoint *peer);

#endif

/* os.h - what the loop needs of an operating system beside its poller.
 *
 * One file per family, os_posix.c and os_windows.c, the same functions in
 * each. Results are >= 0, or -errno.
 */
#ifndef KA_OS_H
#define KA_OS_H

#include <stddef.h>
#include <stdint.h>

#include "stillalive.h"

/* Monotonic milliseconds and ticks of KA_TICK_MS, from the cheapest clock of
 * the system. It does not count the time that the machine is asleep. The
 * tick wraps round. */
int64_t ka_os_now_ms(void);
uint32_t ka_os_tick(void);
/* How far that clock may lag behind, in ms, rounded up. */
int64_t ka_os_clock_lag_ms(void);

/* Counts the forks above this process: a loop that finds another number than
 * at its birth is in a child, and must not touch what it shares. */
unsigned ka_os_fork_generation(void);

/* poll(2) as far as the loop uses it; the flags are those of KA_READ ...
 * KA_HANGUP below, and the system's layout is in the OS's file. */
struct ka_os_polled {
    ka_sock fd;
    uint32_t wanted;
    uint32_t found;
};
enum ka_readiness {
    KA_READ = 1,
    KA_WRITE = 2,
    KA_IDLENESS = 4, /* of the loop's events only */
    KA_BROKEN = 8,   /* POLLERR */
    KA_HANGUP = 16,  /* POLLHUP */
    KA_CLOSED = 32   /* of ka_os_poll only: there is no such descriptor */
};
/* timeout_ms < 0 waits for ever. The number of entries with something found,
 * -EINTR when a signal came. Entries with nothing wanted are passed over.
 * `room` is scratch of at least ka_os_poll_room(n) bytes. */
size_t ka_os_poll_room(size_t n);
int ka_os_poll(struct ka_os_polled *polled, size_t n, int timeout_ms,
               void *room);

/* A descriptor that becomes readable by ka_os_wake: [0] is to be polled, [1]
 * written. ka_os_wake may be called by any thread and by signal handlers. */
int ka_os_wake_open(ka_sock wake[2]);
void ka_os_wake_close(ka_sock wake[2]);
int ka_os_wake(const ka_sock wake[2]);
void ka_os_wake_drain(const ka_sock wake[2]);

/* Sockets that the stream owns. Non-blocking; never raises SIGPIPE. */
struct ka_os_slice {
    const void *data;
    size_t size;
};
/* Who is at the other end, while that can still be asked. */
struct ka_os_peer {
    unsigned char address[16];
    uint32_t flow, scope;
    uint16_t port;
    uint8_t family; /* 4, 6, or 0: neither */
};
/* -EAGAIN: none waits. `peer` may be NULL. */
int ka_os_accept(ka_sock listener, ka_sock *out, struct ka_os_peer *peer);
int64_t ka_os_receive(ka_sock sock, void *buffer, size_t size);
int64_t ka_os_send(ka_sock sock, const struct ka_os_slice *slices, int count);
int ka_os_shut_write(ka_sock sock);
/* Small writes leave at once; what a listener accepts inherits it. */
void ka_os_no_delay(ka_sock sock);
int ka_os_pending_error(ka_sock sock);   /* takes SO_ERROR: 0 or an errno */
void ka_os_reset_on_close(ka_sock sock); /* close will send RST */
void ka_os_close(ka_sock sock);

#endif

/* os_windows.c - clock, poll, wake and sockets of Windows.
 *
 * What can go wrong, and how this file stops it:
 *
 * Clock. The interrupt time without sleep costs one load, but moves only
 * with the timer interrupt, every 15.6 ms unless some program wants it
 * finer. That is the lag which limits are rounded up by.
 *
 * WSAPoll is poll(2) but for this: it refuses an empty set, and one in which
 * every socket is closed; passing over an entry is not dependable; there are
 * no signals. The set that it gets holds the wanted entries only.
 *
 * A peer's FIN is a hang-up there, wanted or not. Who only wants to write to
 * such a peer would get no rest from it while there is no room: the others are
 * waited for without him, and he is looked at every 10 ms.
 *
 * A connect that fails. Before Windows 10 2004 WSAPoll does not show it: who
 * waits for a connection to be writable waits for ever. select does show it.
 * There, while somebody waits to write and nothing is ready, the wait is cut
 * into pieces, and between two of them select is asked about those sockets.
 * It shows urgent data in the same way; that is told apart by the time of
 * connection, which a socket whose connect has failed has not.
 *
 * Wake. A UDP socket that is connected to itself: the system has no pipe
 * that WSAPoll takes. Nobody else can send to it. When its buffer is full it
 * is readable, and a lost datagram does no harm. Each wake costs a recv of its
 * own, and threads may wake as fast as those drain: a drain that went on until
 * nothing is left would keep the loop as long as they like. It ends, and the
 * next wait finds the rest.
 *
 * Errors. Every WSA error is made an errno of the C library in one place,
 * windows_errors.h.
 */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "os.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#include <realtimeapiset.h>

#include <errno.h>
#include <string.h>

#include "atomics.h"
#include "windows_errors.h"

#define KA_MS_UNITS 10000 /* of 100 ns */
#define KA_TICK_UNITS 100000
#define KA_LAG_MS 16

#define KA_BUILD_2004 19041
#define KA_PIECE_MS 100
#define KA_NEVER_CONNECTED 0xFFFFFFFFu
#ifndef SO_CONNECT_TIME
#define SO_CONNECT_TIME 0x700C
#endif

#define KA_MOST_DRAINED 64
#define KA_MOST_SLICES 64
#define KA_MOST_BYTES ((size_t)1 << 30)

/* ---- time and fork ------------------------------------------------------ */

int64_t ka_os_now_ms(void) {
    ULONGLONG now = 0;

    QueryUnbiasedInterruptTime(&now);
    return (int64_t)(now / KA_MS_UNITS);
}

uint32_t ka_os_tick(void) {
    ULONGLONG now = 0;

    QueryUnbiasedInterruptTime(&now);
    return (uint32_t)(now / KA_TICK_UNITS);
}

int64_t ka_os_clock_lag_ms(void) {
    return KA_LAG_MS;
}

unsigned ka_os_fork_generation(void) {
    return 0;
}

/* ---- connects that fail ------------------------------------------------- */

typedef LONG(WINAPI *ka_version)(OSVERSIONINFOW *);

static KA_ATOMIC(int) ka_blind; /* 0 unknown, 1 no, 2 yes */

/* The true number; the others are shown to a program as its manifest wishes.
 */
static int misses_failed_connects(void) {
    int known = atomic_load_explicit(&ka_blind, memory_order_relaxed);
    HMODULE library = GetModuleHandleW(L"ntdll.dll");
    OSVERSIONINFOW version;
    ka_version ask = NULL;

    if (known)
        return known == 2;
    if (library)
        ask = (ka_version)(void (*)(void))GetProcAddress(library,
                                                         "RtlGetVersion");
    memset(&version, 0, sizeof version);
    version.dwOSVersionInfoSize = sizeof version;
    known = ask && ask(&version) == 0 && version.dwBuildNumber < KA_BUILD_2004
                ? 2
                : 1;
    atomic_store_explicit(&ka_blind, known, memory_order_relaxed);
    return known == 2;
}

static int is_connected(SOCKET sock) {
    DWORD seconds = 0;
    int size = sizeof seconds;

    return getsockopt(sock, SOL_SOCKET, SO_CONNECT_TIME, (char *)&seconds,
                      &size) != 0 ||
           seconds != KA_NEVER_CONNECTED;
}

/* As many as a set of select takes, from seen[*from] on. */
static int find_some_failed(WSAPOLLFD *seen, ULONG n, ULONG *from) {
    struct timeval now = {0, 0};
    fd_set failed;
    ULONG i = *from;
    int count = 0;

    FD_ZERO(&failed);
    for (; *from < n && failed.fd_count < FD_SETSIZE; ++*from)
        if (seen[*from].events & POLLWRNORM)
            FD_SET(seen[*from].fd, &failed);
    if (failed.fd_count == 0 || select(0, NULL, NULL, &failed, &now) <= 0)
        return 0;
    for (; i < *from; i++)
        if ((seen[i].events & POLLWRNORM) && FD_ISSET(seen[i].fd, &failed) &&
            !is_connected(seen[i].fd)) {
            seen[i].revents = POLLWRNORM | POLLERR;
            count++;
        }
    return count;
}

static int find_failed_connects(WSAPOLLFD *seen, ULONG n) {
    ULONG from = 0;
    int count = 0;

    while (from < n)
        count += find_some_failed(seen, n, &from);
    return count;
}

static int poll_in_pieces(WSAPOLLFD *seen, ULONG n, int timeout_ms) {
    int64_t began = ka_os_now_ms();
    int64_t left = timeout_ms < 0 ? INT64_MAX : timeout_ms, piece;
    int count;

    for (;;) {
        piece = left < KA_PIECE_MS ? left : KA_PIECE_MS;
        count = WSAPoll(seen, n, (int)piece);
        if (count == 0)
            count = find_failed_connects(seen, n);
        if (count != 0 || piece == left)
            return count;
        if (timeout_ms >= 0) /* the clock may have lagged when it began */
            left = began + timeout_ms + KA_LAG_MS - ka_os_now_ms();
        left = left < 0 ? 0 : left;
    }
}

/* WSAPoll, which shows failed connects on every system. */
static int poll_all(WSAPOLLFD *seen, ULONG n, int timeout_ms) {
    ULONG i = 0;

    while (i < n && !(seen[i].events & POLLWRNORM))
        i++;
    if (i < n && misses_failed_connects())
        return poll_in_pieces(seen, n, timeout_ms);
    return WSAPoll(seen, n, timeout_ms < 0 ? -1 : timeout_ms);
}

/* ---- poll --------------------------------------------------------------- */

/* First what WSAPoll takes, then the places that it stands for. */
size_t ka_os_poll_room(size_t n) {
    return n * (sizeof(WSAPOLLFD) + sizeof(uint32_t));
}

#define KA_ENDED                                                \
    64u /* found in here only: an end that nobody wants to read \
         */
#define KA_LOOK_MS 10

/* A hang-up alone is the peer's FIN, which a reader finds by reading. */
static uint32_t found_of(short revents, uint32_t wanted) {
    uint32_t found = (revents & POLLRDNORM ? (uint32_t)KA_READ : 0u) |
                     (revents & POLLWRNORM ? (uint32_t)KA_WRITE : 0u) |
                     (revents & POLLERR ? (uint32_t)KA_BROKEN : 0u) |
                     (revents & POLLNVAL ? (uint32_t)KA_CLOSED : 0u);

    if (revents & POLLHUP && wanted & KA_READ)
        found |= KA_READ;
    return found == 0 && revents & POLLHUP ? KA_ENDED : found;
}

/* WSAPoll has refused the set for a socket that is none: find which. */
static int find_closed(struct ka_os_polled *polled, size_t n) {
    int type, size, count = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        if (!polled[i].wanted)
            continue;
        size = sizeof type;
        if (getsockopt(polled[i].fd, SOL_SOCKET, SO_TYPE, (char *)&type,
                       &size) == 0 ||
            WSAGetLastError() != WSAENOTSOCK)
            continue;
        polled[i].found = KA_CLOSED;
        count++;
    }
    return count ? count : -EBADF;
}

struct set {
    struct ka_os_polled *polled;
    size_t n;
    WSAPOLLFD *seen;
    uint32_t *place;
    size_t ended; /* that the last look at everybody has found */
};

/* One WSAPoll, of everybody or without those that have ended. */
static int poll_once(struct set *set, int timeout_ms, int everybody) {
    struct ka_os_polled *one;
    ULONG used = 0, i;
    int count = 0;

    for (one = set->polled; one < set->polled + set->n; one++) {
        if (!everybody && one->found == KA_ENDED)
            continue;
        one->found = 0;
        if (!one->wanted)
            continue;
        set->seen[used].fd = one->fd;
        set->seen[used].events =
            (SHORT)((one->wanted & KA_READ ? POLLRDNORM : 0) |
                    (one->wanted & KA_WRITE ? POLLWRNORM : 0));
        set->seen[used].revents = 0;
        set->place[used++] = (uint32_t)(one - set->polled);
    }
    if (everybody)
        set->ended = 0;
    if (used == 0) {
        Sleep(timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms);
        return 0;
    }
    if (poll_all(set->seen, used, timeout_ms) < 0)
        return WSAGetLastError() == WSAENOTSOCK
                   ? find_closed(set->polled, set->n)
                   : ka_winsock_failed();
    for (i = 0; i < used; i++) {
        one = &set->polled[set->place[i]];
        one->found = found_of(set->seen[i].revents, one->wanted);
        set->ended += one->found == KA_ENDED;
        count += one->found != 0 && one->found != KA_ENDED;
    }
    return count;
}

static void forget_ends(const struct set *set) {
    size_t i;

    for (i = 0; set->ended > 0 && i < set->n; i++)
        if (set->polled[i].found == KA_ENDED)
            set->polled[i].found = 0;
}

int ka_os_poll(struct ka_os_polled *polled, size_t n, int timeout_ms,
               void *room) {
    struct set set = {polled, n, room, (uint32_t *)((WSAPOLLFD *)room + n), 0};
    int64_t until = ka_os_now_ms() + timeout_ms + KA_LAG_MS;
    int64_t left = timeout_ms;
    int count;

    for (;;) {
        count = poll_once(&set, (int)left, 1);
        if (count != 0 || set.ended == 0)
            break;
        if (timeout_ms >= 0) {
            left = timeout_ms == 0 ? 0 : until - ka_os_now_ms();
            left = left < 0 ? 0 : left > timeout_ms ? timeout_ms : left;
        }
        if (left != 0)
            count = poll_once(
                &set, left > 0 && left < KA_LOOK_MS ? (int)left : KA_LOOK_MS,
                0);
        if (count != 0 || left == 0)
            break;
    }
    forget_ends(&set);
    return count;
}

/* ---- wake --------------------------------------------------------------- */

static int make_ready(ka_sock sock) {
    u_long on = 1;

    if (ioctlsocket(sock, (long)FIONBIO, &on) != 0)
        return ka_winsock_failed();
    SetHandleInformation((HANDLE)sock, HANDLE_FLAG_INHERIT, 0);
    return 0;
}

static int connect_to_itself(SOCKET sock) {
    struct sockaddr_in self;
    int size = sizeof self;
    BOOL only = TRUE;

    memset(&self, 0, sizeof self);
    self.sin_family = AF_INET;
    self.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(sock, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (const char *)&only,
               sizeof only);
    if (bind(sock, (const struct sockaddr *)&self, size) != 0 ||
        getsockname(sock, (struct sockaddr *)&self, &size) != 0 ||
        connect(sock, (const struct sockaddr *)&self, size) != 0)
        return ka_winsock_failed();
    return make_ready(sock);
}

/* Counted by the system: each start has its cleanup. */
int ka_os_wake_open(ka_sock wake[2]) {
    WSADATA unused;
    SOCKET sock;
    int rc = WSAStartup(MAKEWORD(2, 2), &unused);

    if (rc != 0)
        return -ka_errno_of(rc);
    sock = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    if (sock == INVALID_SOCKET) {
        rc = ka_winsock_failed();
    } else {
        rc = connect_to_itself(sock);
        if (rc < 0)
            closesocket(sock);
    }
    if (rc < 0)
        WSACleanup();
    else
        wake[0] = wake[1] = sock;
    return rc;
}

void ka_os_wake_close(ka_sock wake[2]) {
    ka_os_close(wake[0]);
    wake[0] = wake[1] = (ka_sock)INVALID_SOCKET;
    WSACleanup();
}

int ka_os_wake(const ka_sock wake[2]) {
    DWORD before = GetLastError();
    int rc = 0;

    if (send(wake[1], "", 1, 0) < 0 && WSAGetLastError() != WSAEWOULDBLOCK &&
        WSAGetLastError() != WSAENOBUFS)
        rc = ka_winsock_failed();
    SetLastError(before);
    return rc;
}

void ka_os_wake_drain(const ka_sock wake[2]) {
    char dropped[16];
    int left = KA_MOST_DRAINED;

    while (left-- > 0 && recv(wake[0], dropped, sizeof dropped, 0) >= 0)
        ;
}

/* ---- sockets ------------------------------------------------------------ */

static void copy_peer(const struct sockaddr_storage *from,
                      struct ka_os_peer *peer) {
    const struct sockaddr_in *four = (const struct sockaddr_in *)from;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

    memset(peer, 0, sizeof *peer);
    if (from->ss_family == AF_INET) {
        peer->family = 4;
        peer->port = ntohs(four->sin_port);
        memcpy(peer->address, &four->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        peer->family = 6;
        peer->port = ntohs(six->sin6_port);
        peer->flow = ntohl(six->sin6_flowinfo);
        peer->scope = six->sin6_scope_id;
        memcpy(peer->address, &six->sin6_addr, 16);
    }
}

int ka_os_accept(ka_sock listener, ka_sock *out, struct ka_os_peer *peer) {
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    int size = sizeof from, rc;
    SOCKET sock = accept(listener, (struct sockaddr *)&from, &size);

    if (sock == INVALID_SOCKET)
        return ka_winsock_failed();
    rc = make_ready(sock);
    if (rc < 0) {
        ka_os_close(sock);
        return rc;
    }
    if (peer)
        copy_peer(&from, peer);
    *out = sock;
    return 0;
}

int64_t ka_os_receive(ka_sock sock, void *buffer, size_t size) {
    int got = recv(sock, buffer,
                   (int)(size < KA_MOST_BYTES ? size : KA_MOST_BYTES), 0);

    return got < 0 ? ka_winsock_failed() : got;
}

int64_t ka_os_send(ka_sock sock, const struct ka_os_slice *slices, int count) {
    WSABUF part[KA_MOST_SLICES];
    size_t left = KA_MOST_BYTES;
    DWORD sent = 0;
    int i;

    if (count > KA_MOST_SLICES)
        count = KA_MOST_SLICES;
    for (i = 0; i < count && left > 0; i++) {
        part[i].buf = (char *)slices[i].data;
        part[i].len = (ULONG)(slices[i].size < left ? slices[i].size : left);
        left -= part[i].len;
    }
    if (WSASend(sock, part, (DWORD)i, &sent, 0, NULL, NULL) != 0)
        return ka_winsock_failed();
    return (int64_t)sent;
}

int ka_os_shut_write(ka_sock sock) {
    return shutdown(sock, SD_SEND) != 0 ? ka_winsock_failed() : 0;
}

void ka_os_no_delay(ka_sock sock) {
    int on = 1;

    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
}

int ka_os_pending_error(ka_sock sock) {
    int error = 0;
    int size = sizeof error;

    if (getsockopt(sock, SOL_SOCKET, SO_ERROR, (char *)&error, &size) != 0)
        return -ka_winsock_failed();
    return ka_errno_of(error);
}

void ka_os_reset_on_close(ka_sock sock) {
    struct linger now = {1, 0};

    setsockopt(sock, SOL_SOCKET, SO_LINGER, (const char *)&now, sizeof now);
}

void ka_os_close(ka_sock sock) {
    (void)closesocket(sock);
}

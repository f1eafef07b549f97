/* reserve_windows.c - a duplicate of other people's sockets on Windows.
 *
 * What is different there, and what can go wrong:
 *
 * No number is reserved. A SOCKET cannot be duplicated onto a number that one
 * has: WSADuplicateSocket describes it, and WSASocket makes a handle of our
 * own of the description, whatever its number. So there is no pipe that keeps
 * a place, and nobody who closes all small numbers hits ours: it lives for
 * some microseconds. The price is that each take needs a new handle. There
 * are millions for a process; when there are none the look is repeated a
 * moment later, and nothing is touched.
 *
 * Between the two calls the owner may close his socket, and another may get
 * its number. The description is that of the number as it was in the first
 * call, the handle that of the number as it is in the second. So the
 * duplicate may be another's, or no socket; it is asked who it is before
 * anything is done to it, as everywhere (reserve.h), and while we hold it it
 * stays who it is.
 *
 * A layered provider below Winsock (LSP) may give duplicates of a kind of its
 * own. What they say is asked of the duplicate; what they do not say is an
 * error, and then nothing is done.
 *
 * An owner's blocked call. On other systems shutdown brings it back. Here it
 * only stops what comes later, and whether a call that is under way comes back
 * is not told. So what is under way is cancelled behind it, on the duplicate:
 * it is another handle of the same file, whose requests they are. Who had
 * asked for a byte gets an end or ERROR_OPERATION_ABORTED, and later calls
 * get WSAESHUTDOWN.
 *
 * A living peer's connection cannot be aborted. Nothing that may be done to a
 * duplicate is sure to give its owner an error and never an end: there is no
 * connect to nowhere, SO_LINGER acts on the last close, and what a shutdown
 * makes of a call that waits is, as said, not told. So that is refused
 * (-EOPNOTSUPP), and above it nobody is promised more. A silent peer is the
 * kernel's, whose keepalive ends with an error of its own.
 *
 * Our close. As long as there is a duplicate the owner's close is not the
 * last one. Nothing waits meanwhile, and a duplicate that is closed leaves
 * the others open.
 *
 * There is no fork, and no child with half of a state.
 */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "reserve.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

#include <errno.h>
#include <string.h>

#include "endpoint.h"
#include "windows_errors.h"

#ifndef WSA_FLAG_NO_HANDLE_INHERIT
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#endif
#ifndef SO_CONNECT_TIME
#define SO_CONNECT_TIME 0x700C /* seconds; mswsock.h has it */
#endif

/* ---- open and close ----------------------------------------------------- */

int ka_reserve_open(struct ka_reserve *reserve) {
    WSADATA unused;

    memset(reserve, 0, sizeof *reserve);
    reserve->sock = reserve->filler = INVALID_SOCKET;
    if (WSAStartup(MAKEWORD(2, 2), &unused) != 0)
        return -ENOPROTOOPT;
    reserve->started = 1;
    return 0;
}

void ka_reserve_close(struct ka_reserve *reserve) {
    ka_reserve_give(reserve);
    if (reserve->started)
        (void)WSACleanup();
    reserve->started = 0;
}

void ka_reserve_abandon(struct ka_reserve *reserve) {
    ka_reserve_close(reserve);
}

/* ---- take and give ------------------------------------------------------ */

int ka_reserve_take(struct ka_reserve *reserve, ka_sock sock) {
    WSAPROTOCOL_INFOW described;
    SOCKET own;

    if (!reserve->started)
        return -ESTALE;
    if (sock == INVALID_SOCKET)
        return -EBADF;
    if (WSADuplicateSocketW(sock, GetCurrentProcessId(), &described) != 0)
        return ka_winsock_failed();
    own = WSASocketW(FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO,
                     FROM_PROTOCOL_INFO, &described, 0,
                     WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (own == INVALID_SOCKET)
        return ka_winsock_failed();
    reserve->sock = own;
    reserve->taken = 1;
    return 0;
}

void ka_reserve_give(struct ka_reserve *reserve) {
    if (reserve->taken)
        (void)closesocket(reserve->sock);
    reserve->sock = INVALID_SOCKET;
    reserve->taken = 0;
}

/* ---- on the duplicate --------------------------------------------------- */

int ka_end_shutdown(ka_sock sock) {
    if (shutdown(sock, SD_BOTH) != 0)
        return ka_winsock_failed();
    (void)CancelIoEx((HANDLE)sock, NULL); /* there may be none */
    return 0;
}

int ka_end_disconnect(ka_sock sock) {
    (void)sock;
    return -EOPNOTSUPP;
}

int ka_has_paths(ka_sock sock) {
    (void)sock;
    return 0;
}

int ka_name_while_open(ka_sock sock, uint64_t *name) {
    *name = (uint64_t)sock + 1;
    return 0;
}

int64_t ka_connected_ms(ka_sock sock) {
    DWORD seconds = 0;
    int size = sizeof seconds;

    if (getsockopt(sock, SOL_SOCKET, SO_CONNECT_TIME, (char *)&seconds,
                   &size) != 0 ||
        seconds == 0xFFFFFFFFu) /* it is not connected */
        return -1;
    return ((int64_t)seconds + 1) * 1000;
}

int ka_unread(ka_sock sock, int64_t *bytes) {
    u_long unread = 0;

    if (ioctlsocket(sock, (long)FIONREAD, &unread) != 0)
        return ka_winsock_failed();
    *bytes = (int64_t)unread;
    return 0;
}

int64_t ka_unacked(ka_sock sock) {
    (void)sock;
    return -1;
}

int ka_endpoints(ka_sock sock, struct ka_endpoint *local,
                 struct ka_endpoint *peer) {
    struct sockaddr_storage name;
    int size = sizeof name;

    memset(local, 0, sizeof *local);
    memset(peer, 0, sizeof *peer);
    memset(&name, 0, sizeof name);
    if (getsockname(sock, (struct sockaddr *)&name, &size) != 0)
        return ka_winsock_failed();
    ka_copy_endpoint(&name, local);
    memset(&name, 0, sizeof name);
    size = sizeof name;
    /* A connection that has ended may have no peer any more: family 0. */
    if (getpeername(sock, (struct sockaddr *)&name, &size) == 0)
        ka_copy_endpoint(&name, peer);
    return 0;
}

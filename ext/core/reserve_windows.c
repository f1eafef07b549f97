/* reserve_windows.c - nothing is done to other people's sockets on Windows.
 *
 * A SOCKET cannot be duplicated onto a number that one has: the safe way of
 * reserve.h does not exist here in this form, and there is no other yet. So
 * everything says -ENOPROTOOPT.
 */
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "reserve.h"

#include <errno.h>
#include <string.h>

#define KA_NOTHING (~(ka_sock)0) /* INVALID_SOCKET */

int ka_reserve_open(struct ka_reserve *reserve) {
    memset(reserve, 0, sizeof *reserve);
    reserve->sock = reserve->filler = KA_NOTHING;
    return -ENOPROTOOPT;
}

void ka_reserve_close(struct ka_reserve *reserve) {
    (void)reserve;
}

void ka_reserve_abandon(struct ka_reserve *reserve) {
    (void)reserve;
}

int ka_reserve_take(struct ka_reserve *reserve, ka_sock sock) {
    (void)reserve;
    (void)sock;
    return -ENOPROTOOPT;
}

void ka_reserve_give(struct ka_reserve *reserve) {
    (void)reserve;
}

int ka_end_shutdown(ka_sock sock) {
    (void)sock;
    return -ENOPROTOOPT;
}

int ka_end_disconnect(ka_sock sock) {
    (void)sock;
    return -ENOPROTOOPT;
}

int ka_has_paths(ka_sock sock) {
    (void)sock;
    return 0;
}

int ka_name_while_open(ka_sock sock, uint64_t *name) {
    *name = (uint64_t)sock + 1;
    return 0;
}

int ka_unread(ka_sock sock, int64_t *bytes) {
    (void)sock;
    *bytes = 0;
    return -ENOPROTOOPT;
}

int ka_endpoints(ka_sock sock, struct ka_endpoint *local,
                 struct ka_endpoint *peer) {
    (void)sock;
    memset(local, 0, sizeof *local);
    memset(peer, 0, sizeof *peer);
    return -ENOPROTOOPT;
}

/* none.c - a system whose connections this package cannot judge.
 *
 * Nothing is found, because nothing could be done with it: there is neither
 * an identity of sockets nor an account of their traffic.
 */
#include "diag.h"

#include <errno.h>
#include <string.h>

int64_t ka_diag_bound(void) {
    return 0;
}

int ka_diag_look(ka_sock sock, struct ka_found *found) {
    (void)sock;
    memset(found, 0, sizeof *found);
    return -ENOPROTOOPT;
}

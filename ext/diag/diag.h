/* diag.h - which descriptors this process may have open.
 *
 * linux.c and none.c hold the same functions. Discovery asks each number for
 * its socket's identity; that costs less than any list that a system gives of
 * sockets or of descriptors, needs no permission and no /proc.
 */
#ifndef KA_DIAG_H
#define KA_DIAG_H

#include <stdint.h>

#include "stillalive.h"

/* A bound: every open descriptor is below it. Costs a few system calls; ask
 * once per pass. Where the system does not tell, the limit of open files,
 * but at most KA_DIAG_MOST. */
#define KA_DIAG_MOST (1 << 20)
int64_t ka_diag_bound(void);

/* What discovery must know of a descriptor that it has not seen before.
 * -ENOTSOCK, -EBADF, or -EOPNOTSUPP for what is no TCP socket. */
struct ka_found {
    uint16_t port; /* local */
    int32_t listening;
    int32_t connected; /* has been: also half-closed, also ended */
};
int ka_diag_look(ka_sock sock, struct ka_found *found);

#endif

/* mask.h - a kernel that tells only what another system's would.
 *
 * Linked with --wrap, so the core under test sees nothing else. The sockets
 * are real, and so are the times.
 */
#ifndef KA_MASK_H
#define KA_MASK_H

#include "stillalive.h"

enum mask {
    BARE = 0, /* as Linux tells it */
    MAC,      /* bytes in and out, the send buffer; no clock */
    FREEBSD,  /* one clock of any segment, no counter */
    NUMBERS,  /* the same, sequence numbers and the send buffer */
    OPENBSD,  /* clocks, no counter */
    WINDOWS   /* bytes in and out, what is in flight */
};

extern enum mask mask;
/* What kqueue would show as the error of a socket that has one. */
extern int mask_code;

#endif

/* bsd.c - FreeBSD, NetBSD, OpenBSD and DragonFly.
 *
 * Not supported yet. The units differ (NetBSD counts half-seconds), OpenBSD
 * has no per-socket times at all, and lowering the idle time of a connection
 * that has been idle for long drops it without one probe.
 */
#include "sockopt.h"
#include "unsupported.h"

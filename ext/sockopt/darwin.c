/* darwin.c - macOS and the other Darwin systems.
 *
 * Not supported yet. Linux's order and rules would do harm here: the idle
 * time is TCP_KEEPALIVE and counts only when it follows SO_KEEPALIVE, an
 * accepted socket does not inherit it, and lowering it on a connection that
 * has been idle for long drops the connection without one probe.
 */
#include "sockopt.h"
#include "unsupported.h"

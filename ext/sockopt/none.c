/* none.c - a system whose keepalive options this package does not know.
 *
 * Everything answers -ENOPROTOOPT, so callers get a plain "not supported
 * here" instead of another system's numbers applied to this one.
 */
#include "sockopt.h"
#include "unsupported.h"

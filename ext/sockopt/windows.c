/* windows.c - Windows.
 *
 * Not supported yet. Before Windows 10 1703 the count is fixed and the times
 * are set by SIO_KEEPALIVE_VALS, which wipes whatever it is not given; the
 * errors are WSAE*, and a SOCKET is no small integer.
 */
#include "sockopt.h"
#include "unsupported.h"

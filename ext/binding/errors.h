/* errors.h - the number that Python has for an error of the core.
 *
 * The core knows errno of the C library. Python on Windows means Winsock's
 * numbers by errno.ECONNRESET and all others that sockets have, and chooses
 * the exception's class by those.
 */
#ifndef KA_ERRORS_H
#define KA_ERRORS_H

#include <errno.h>

#ifdef _WIN32
#include <winsock2.h>

static inline int ka_python_errno(int error) {
    static const struct {
        int ours;
        int pythons;
    } known[] = {
        {ECONNRESET, WSAECONNRESET},     {ECONNABORTED, WSAECONNABORTED},
        {ECONNREFUSED, WSAECONNREFUSED}, {ETIMEDOUT, WSAETIMEDOUT},
        {ENETRESET, WSAENETRESET},       {ENETDOWN, WSAENETDOWN},
        {ENETUNREACH, WSAENETUNREACH},   {EHOSTUNREACH, WSAEHOSTUNREACH},
        {ENOTCONN, WSAENOTCONN},         {EISCONN, WSAEISCONN},
        {EALREADY, WSAEALREADY},         {EINPROGRESS, WSAEINPROGRESS},
        {EWOULDBLOCK, WSAEWOULDBLOCK},   {ENOTSOCK, WSAENOTSOCK},
        {ENOBUFS, WSAENOBUFS},           {EMSGSIZE, WSAEMSGSIZE},
        {EADDRINUSE, WSAEADDRINUSE},     {EADDRNOTAVAIL, WSAEADDRNOTAVAIL},
        {EAFNOSUPPORT, WSAEAFNOSUPPORT}, {ENOPROTOOPT, WSAENOPROTOOPT},
        {EOPNOTSUPP, WSAEOPNOTSUPP},     {EPROTONOSUPPORT, WSAEPROTONOSUPPORT},
    };
    unsigned i;

    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].ours == error)
            return known[i].pythons;
    return error;
}
#else
static inline int ka_python_errno(int error) {
    return error;
}
#endif

#endif

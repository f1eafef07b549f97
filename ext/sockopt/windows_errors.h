/* windows_errors.h - what Windows calls an error, as an errno of the C
 * library: the one place where that is decided. Everything above knows errno
 * alone. Include it after winsock2.h.
 */
#ifndef KA_WINDOWS_ERRORS_H
#define KA_WINDOWS_ERRORS_H

#include <errno.h>
#include <stddef.h>

/* 0 for 0, and EIO for what is not in the table. */
static inline int ka_errno_of(int error) {
    static const struct {
        int theirs;
        int ours;
    } known[] = {
        {WSAEWOULDBLOCK, EAGAIN},
        {WSAEINTR, EINTR},
        {WSAECONNRESET, ECONNRESET},
        {WSAECONNABORTED, ECONNABORTED},
        {WSAENETRESET, ENETRESET},
        {WSAESHUTDOWN, EPIPE},
        {WSAETIMEDOUT, ETIMEDOUT},
        {WSAECONNREFUSED, ECONNREFUSED},
        {WSAEHOSTUNREACH, EHOSTUNREACH},
        {WSAENETUNREACH, ENETUNREACH},
        {WSAENETDOWN, ENETDOWN},
        {WSAENOTCONN, ENOTCONN},
        {WSAENOBUFS, ENOBUFS},
        {WSAEMFILE, EMFILE},
        {WSAENOTSOCK, EBADF},
        {WSAEBADF, EBADF},
        {WSA_INVALID_HANDLE, EBADF},
        {WSA_NOT_ENOUGH_MEMORY, ENOMEM},
        {WSAEINVAL, EINVAL},
        {WSAEFAULT, EFAULT},
        {WSAEACCES, EACCES},
        {WSAEMSGSIZE, EMSGSIZE},
        {WSAEOPNOTSUPP, EOPNOTSUPP},
        {WSAEAFNOSUPPORT, EAFNOSUPPORT},
        {WSAEPROTONOSUPPORT, EPROTONOSUPPORT},
        {WSAENOPROTOOPT, ENOPROTOOPT},
        {WSAEADDRINUSE, EADDRINUSE},
        {WSAEADDRNOTAVAIL, EADDRNOTAVAIL},
        {WSAEINPROGRESS, EINPROGRESS},
        {WSAEALREADY, EALREADY},
        {WSAEISCONN, EISCONN},
    };
    size_t i;

    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].theirs == error)
            return known[i].ours;
    return error ? EIO : 0;
}

/* The last call of Winsock has failed: -errno, never 0. */
static inline int ka_winsock_failed(void) {
    int error = ka_errno_of(WSAGetLastError());

    return -(error ? error : EIO);
}

#endif

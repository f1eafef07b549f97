/* audit.h - what the audit hook needs beside Python.h and the C core. */
#ifndef KA_AUDIT_H
#define KA_AUDIT_H

#include <errno.h>
#include <stdint.h>

#include "stillalive.h"

#ifdef _WIN32
#include <winsock2.h>
#else
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

#ifdef Py_LIMITED_API
/* Exported by every interpreter since 3.8; only the headers hide them. */
PyAPI_FUNC(int)
    PySys_AddAuditHook(int (*hook)(const char *, PyObject *, void *),
                       void *data);
PyAPI_FUNC(int) PySys_Audit(const char *event, const char *format, ...);
#endif

/* What a socket shows that nobody has touched yet. Made without Python, which
 * would raise an audit event inside of another. */
static inline int ka_audit_fresh(struct ka_policy *out) {
#ifdef _WIN32
    struct ka_fault fault;
    WSADATA unused;
    int rc = -ENOBUFS;
    SOCKET sock;

    if (WSAStartup(MAKEWORD(2, 2), &unused) != 0)
        return rc;
    sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (sock == INVALID_SOCKET) /* a host without IPv4 */
        sock = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    if (sock != INVALID_SOCKET) {
        rc = ka_read(sock, out, &fault);
        closesocket(sock);
    }
    WSACleanup();
    return rc;
#else
    struct ka_fault fault;
    int rc, sock = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);

    if (sock < 0) /* a host without IPv4 */
        sock = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    if (sock < 0)
        return -errno;
    rc = ka_read(sock, out, &fault);
    close(sock);
    return rc;
#endif
}

#endif

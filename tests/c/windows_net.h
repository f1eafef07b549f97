/* windows_net.h - real sockets of Windows on the loopback, for tests. */
#ifndef KA_WINDOWS_NET_H
#define KA_WINDOWS_NET_H

#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ends {
    SOCKET our, their; /* the peer's */
};

static inline void net_need(int good, const char *what) {
    if (!good) {
        printf("%s: %d\n", what, WSAGetLastError());
        exit(99);
    }
}

static inline void net_start(void) {
    WSADATA data;

    net_need(WSAStartup(MAKEWORD(2, 2), &data) == 0, "WSAStartup");
}

static inline void net_nonblocking(SOCKET sock) {
    u_long on = 1;

    net_need(ioctlsocket(sock, (long)FIONBIO, &on) == 0, "FIONBIO");
}

static inline SOCKET net_listen(int family, struct sockaddr_storage *address,
                                int *size) {
    SOCKET sock = socket(family, SOCK_STREAM, IPPROTO_TCP);
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;

    memset(address, 0, sizeof *address);
    address->ss_family = (short)family;
    if (family == AF_INET6) {
        six->sin6_addr.s6_addr[15] = 1;
        *size = sizeof *six;
    } else {
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *size = sizeof *four;
    }
    net_need(sock != INVALID_SOCKET, "socket");
    net_need(bind(sock, (struct sockaddr *)address, *size) == 0, "bind");
    net_need(listen(sock, 128) == 0, "listen");
    net_need(getsockname(sock, (struct sockaddr *)address, size) == 0,
             "getsockname");
    return sock;
}

static inline struct ends net_connect(SOCKET listener,
                                      const struct sockaddr_storage *address,
                                      int size) {
    struct ends ends;

    ends.our = socket(address->ss_family, SOCK_STREAM, IPPROTO_TCP);
    net_need(connect(ends.our, (const struct sockaddr *)address, size) == 0,
             "connect");
    ends.their = accept(listener, NULL, NULL);
    net_need(ends.their != INVALID_SOCKET, "accept");
    return ends;
}

static inline struct ends net_pair(int family) {
    struct sockaddr_storage address;
    int size;
    SOCKET listener = net_listen(family, &address, &size);
    struct ends ends = net_connect(listener, &address, size);

    closesocket(listener);
    return ends;
}

static inline void net_close(const struct ends *ends) {
    closesocket(ends->our);
    closesocket(ends->their);
}

static inline void net_reset(SOCKET sock) {
    struct linger now = {1, 0};

    setsockopt(sock, SOL_SOCKET, SO_LINGER, (const char *)&now, sizeof now);
    closesocket(sock);
}

/* A port that nobody listens on. */
static inline struct sockaddr_in net_nobody(void) {
    struct sockaddr_storage address;
    int size;

    closesocket(net_listen(AF_INET, &address, &size));
    return *(struct sockaddr_in *)&address;
}

#endif

/* loop.h - real TCP connections over the loopback. */
#ifndef KA_LOOPBACK_H
#define KA_LOOPBACK_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stillalive.h"

struct pair {
    int near; /* what the tests look at */
    int far;  /* the peer */
};

static inline void loop_need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(99);
    }
}

/* A listener at a port of the system's choice. */
static inline int loop_listen(struct sockaddr_in *address) {
    socklen_t size = sizeof *address;
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    loop_need(sock >= 0, "socket");
    loop_need(bind(sock, (struct sockaddr *)address, size) == 0, "bind");
    loop_need(listen(sock, 16) == 0, "listen");
    loop_need(getsockname(sock, (struct sockaddr *)address, &size) == 0,
              "getsockname");
    return sock;
}

static inline struct pair loop_connect(int listener,
                                       const struct sockaddr_in *address) {
    struct pair pair;

    pair.near = socket(AF_INET, SOCK_STREAM, 0);
    loop_need(pair.near >= 0, "socket");
    loop_need(connect(pair.near, (const struct sockaddr *)address,
                      sizeof *address) == 0,
              "connect");
    pair.far = accept(listener, NULL, NULL);
    loop_need(pair.far >= 0, "accept");
    return pair;
}

static inline struct pair loop_pair(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    struct pair pair = loop_connect(listener, &address);

    close(listener);
    return pair;
}

static inline void loop_close(struct pair *pair) {
    if (pair->near >= 0)
        close(pair->near);
    if (pair->far >= 0)
        close(pair->far);
    pair->near = pair->far = -1;
}

/* The peer ends the connection by a reset, not by a FIN. */
static inline void loop_reset(int *sock) {
    struct linger now = {1, 0};

    setsockopt(*sock, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(*sock);
    *sock = -1;
}

/* Wait until poll() shows what the peer did; never a fixed time. */
static inline int loop_await(int sock, short events) {
    struct pollfd seen = {.fd = sock, .events = events};

    return poll(&seen, 1, 2000) > 0 ? seen.revents : 0;
}

/* What the owner is told. It can be asked once: the tests own the socket. */
static inline int loop_error(int sock) {
    int error = 0;
    socklen_t size = sizeof error;

    getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

/* The local one. */
static inline int loop_port(int sock) {
    struct sockaddr_storage own;
    socklen_t size = sizeof own;

    loop_need(getsockname(sock, (struct sockaddr *)&own, &size) == 0,
              "getsockname");
    return ntohs(own.ss_family == AF_INET
                     ? ((struct sockaddr_in *)&own)->sin_port
                     : ((struct sockaddr_in6 *)&own)->sin6_port);
}

#endif

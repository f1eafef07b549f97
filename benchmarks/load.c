/* load.c - the clients of the server benchmarks, one process of plain C.
 *
 *   load echo PORT CONNECTIONS ACTIVE BYTES MILLISECONDS
 *   load http PORT CONNECTIONS ACTIVE 0 MILLISECONDS
 *   load storm PORT MILLISECONDS      connect, reset, connect ...
 *   load fill PORT CONNECTIONS        connect, say so, wait for stdin's end
 *
 * Loopback only. It prints one line of numbers: round trips or connections,
 * and the nanoseconds they took.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 20000
#define MOST_BYTES 65536
#define BATCH 500 /* at once on their way: fewer than a backlog holds */

static char buffer[MOST_BYTES];

/* What is sent again and again, and how much comes back each time. */
static const char *request = buffer;
static size_t request_bytes, answer_bytes;
#define GET "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

static int64_t now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* All of 127/8 is loopback: another source address for every 20,000. They end
 * with a reset: thousands in TIME_WAIT would soon leave no port. */
static int connected(int port, int number) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct linger reset = {1, 0};
    int sock = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    need(sock >= 0, "socket");
    setsockopt(sock, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(sock, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number / 20000);
    need(bind(sock, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    while (connect(sock, (struct sockaddr *)&address, sizeof address) < 0)
        need(errno == EINTR, "connect");
    return sock;
}

static void ask(int sock) {
    need(send(sock, request, request_bytes, 0) == (ssize_t)request_bytes,
         "send");
}

/* A message each, and its answer: then the server has accepted them, too. */
static void join(int port, int *sock, int n) {
    int i;

    for (i = 0; i < n; i++) {
        sock[i] = connected(port, 0);
        ask(sock[i]);
    }
    for (i = 0; i < n; i++)
        need(recv(sock[i], buffer, answer_bytes, MSG_WAITALL) ==
                 (ssize_t)answer_bytes,
             "recv");
}

/* All answers of these servers are as long as the first. */
static void learn(int port) {
    struct timeval quiet = {0, 300000};
    int sock = connected(port, 0);
    ssize_t got;

    request = GET;
    request_bytes = sizeof GET - 1;
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet);
    ask(sock);
    while ((got = recv(sock, buffer, sizeof buffer, 0)) > 0)
        answer_bytes += (size_t)got;
    need(answer_bytes > 0 && answer_bytes <= MOST_BYTES, "answer");
    close(sock);
}

/* Every active connection has one message on its way at any time. */
static int64_t ping_pong(int epoll, int64_t until) {
    struct epoll_event event[256];
    int64_t trips = 0;

    while (now_ns() < until) {
        int n = epoll_wait(epoll, event, 256, 100), i;

        for (i = 0; i < n; i++) {
            int sock = event[i].data.fd;
            ssize_t got = recv(sock, buffer, answer_bytes, 0);

            need(got > 0, "recv");
            if ((size_t)got < answer_bytes)
                need(recv(sock, buffer + got, answer_bytes - (size_t)got,
                          MSG_WAITALL) > 0,
                     "recv");
            ask(sock);
            trips++;
        }
    }
    return trips;
}

static int converse(int port, int connections, int active, int64_t ms) {
    static int sock[MOST];
    int epoll = epoll_create1(0), i;
    int64_t began, trips;

    need(epoll >= 0, "epoll_create1");
    need(connections <= MOST && request_bytes <= MOST_BYTES, "arguments");
    for (i = 0; i < connections; i += BATCH)
        join(port, sock + i,
             connections - i < BATCH ? connections - i : BATCH);
    for (i = 0; i < active; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = sock[i]};

        need(epoll_ctl(epoll, EPOLL_CTL_ADD, sock[i], &event) == 0,
             "epoll_ctl");
        ask(sock[i]);
    }
    ping_pong(epoll, now_ns() + 100000000); /* warm up */
    printf("begin\n");
    fflush(stdout);
    began = now_ns();
    trips = ping_pong(epoll, began + ms * 1000000);
    printf("%lld %lld\n", (long long)trips, (long long)(now_ns() - began));
    fflush(stdout);
    return getchar() == EOF ? 0 : 1; /* the CPU is read before we let go */
}

static int storm(int port, int64_t ms) {
    int64_t began, made = 0;

    printf("begin\n");
    fflush(stdout);
    began = now_ns();
    while (now_ns() - began < ms * 1000000) {
        close(connected(port, (int)(made % 400000)));
        made++;
    }
    printf("%lld %lld\n", (long long)made, (long long)(now_ns() - began));
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}

static int fill(int port, int connections) {
    int i;

    for (i = 0; i < connections; i++)
        connected(port, 0);
    printf("begin\n%d 0\n", connections);
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}

int main(int argc, char **argv) {
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc == 7 && strcmp(argv[1], "http") == 0)
        learn(atoi(argv[2]));
    else if (argc == 7)
        request_bytes = answer_bytes = (size_t)atoi(argv[5]);
    if (argc == 7)
        return converse(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]),
                        atoi(argv[6]));
    if (argc == 4 && strcmp(argv[1], "storm") == 0)
        return storm(atoi(argv[2]), atoi(argv[3]));
    if (argc == 4 && strcmp(argv[1], "fill") == 0)
        return fill(atoi(argv[2]), atoi(argv[3]));
    fprintf(stderr, "usage: load echo|http|storm|fill PORT ...\n");
    return 2;
}

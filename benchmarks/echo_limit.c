/* echo_limit.c - what a server costs when nothing stands between it and the
 * kernel: an epoll loop that echoes, with an idle timeout of 60 s.
 *
 *   echo_limit echo | accept N
 *
 * "accept" waits for a line on stdin before it accepts, and prints the
 * nanoseconds of CPU that N connections took. It prints its port first and
 * ends when stdin does. The timeout is a stamp per connection and a scan of
 * all of them each second, the cheapest way there is.
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
#define LIMIT_S 60
#define STDIN 0

static uint32_t stamp[MOST]; /* seconds, 0: not open */

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static uint32_t seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec + 1;
}

static int64_t cpu_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int listening(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    int idle = 60, interval = 10, count = 4;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    need(sock >= 0 && bind(sock, (struct sockaddr *)&address, size) == 0 &&
             listen(sock, 4096) == 0 &&
             getsockname(sock, (struct sockaddr *)&address, &size) == 0,
         "listener");
    /* Inherited by what it accepts. */
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return sock;
}

static int accept_all(int listener, int epoll) {
    int batch, sock;

    for (batch = 0; batch < 64; batch++) {
        struct epoll_event event = {.events = EPOLLIN};

        sock = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (sock < 0)
            break;
        event.data.fd = sock;
        need(sock < MOST && epoll_ctl(epoll, EPOLL_CTL_ADD, sock, &event) == 0,
             "epoll_ctl");
        stamp[sock] = seconds();
    }
    return batch;
}

static void drop(int sock) {
    stamp[sock] = 0;
    close(sock);
}

static void answer(int sock) {
    static char buffer[65536];
    ssize_t got = recv(sock, buffer, sizeof buffer, 0);

    if (got > 0 && send(sock, buffer, (size_t)got, MSG_NOSIGNAL) == got)
        stamp[sock] = seconds();
    else if (got == 0 || errno != EAGAIN)
        drop(sock);
}

static void sweep(void) {
    uint32_t now = seconds();
    int i;

    for (i = 0; i < MOST; i++)
        if (stamp[i] && now - stamp[i] > LIMIT_S)
            drop(i);
}

static void serve(int listener, int wanted) {
    int epoll = epoll_create1(0), accepted = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    struct epoll_event end = {.events = EPOLLIN, .data.fd = STDIN};
    struct epoll_event ready[256];
    uint32_t swept = seconds();
    int64_t began = cpu_ns();

    need(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) == 0,
         "epoll");
    if (!wanted)
        need(epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN, &end) == 0, "stdin");
    for (;;) {
        int n = epoll_wait(epoll, ready, 256, 1000), i;

        for (i = 0; i < n; i++) {
            int fd = ready[i].data.fd;

            if (fd == listener)
                accepted += accept_all(listener, epoll);
            else if (fd == STDIN)
                return;
            else
                answer(fd);
        }
        if (wanted && accepted >= wanted) {
            printf("%lld\n", (long long)(cpu_ns() - began));
            return;
        }
        if (seconds() != swept) {
            swept = seconds();
            sweep();
        }
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    char line[16];
    int listener, wanted = argc > 2 ? atoi(argv[2]) : 0;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    listener = listening();
    if (wanted)
        need(fgets(line, sizeof line, stdin) != NULL, "stdin");
    serve(listener, wanted);
    return 0;
}

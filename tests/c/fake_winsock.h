/* fake_winsock.h - one TCP socket of a Windows that never was, and a
 * duplicate.
 *
 * A table of what this Windows has, the values that the socket holds, and a
 * record of every call that changes it. Compiled on Linux with the headers
 * of winsock/, and for Windows with its own, its functions renamed. */
#ifndef KA_FAKE_WINSOCK_H
#define KA_FAKE_WINSOCK_H

#include <stdint.h>

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mstcpip.h>

#define FAKE_SOCK ((SOCKET)44)
#define FAKE_OWN ((SOCKET)52)  /* what socket() makes */
#define FAKE_TWIN ((SOCKET)60) /* the first duplicate, 64 the next */
#define FAKE_RECORDED 32
#define FAKE_VALS 0 /* as a number: SIO_KEEPALIVE_VALS */

struct fake_set {
    SOCKET sock;
    int number;        /* of the option, FAKE_VALS */
    long value, other; /* of FAKE_VALS: ms idle and interval */
};

struct fake_winsock {
    /* this Windows */
    int times;        /* TCP_KEEPIDLE and TCP_KEEPINTVL */
    int count;        /* TCP_KEEPCNT */
    int rt_ms, rt_s;  /* TCP_MAXRTMS, TCP_MAXRT */
    int vals;         /* SIO_KEEPALIVE_VALS */
    int info_version; /* the highest of SIO_TCP_INFO, -1 none */
    int32_t own_rt;   /* of a fresh socket */
    /* the socket */
    int32_t on, idle, interval, keepcnt, rt;
    long idle_ms, interval_ms; /* by SIO_KEEPALIVE_VALS */
    int family, type, protocol, listening;
    int named, connected;
    int revents;
    uint32_t unread;
    unsigned char info[136];
    int closed;
    int64_t connected_s; /* SO_CONNECT_TIME, -1 none */
    int ports;           /* of its ends: others for another connection */
    int twin_ports;      /* if not 0, those of what is duplicated instead */
    int twin_error;      /* of WSADuplicateSocketW, 0 none */
    int make_error;      /* of WSASocketW */
    /* what happened */
    SOCKET twin; /* 0: there is none */
    int twins, shutdowns, cancelled;
    int on_owner; /* changes that went by the owner's number */
    struct fake_set set[FAKE_RECORDED];
    int sets; /* of the socket, failed ones too */
    int started, sockets, sent_versions;
    int fail_set; /* the nth of them fails, from 1 */
    int fail_error;
    int keepalive_error; /* of SO_KEEPALIVE off, 0 none */
    int last_error;
};

extern struct fake_winsock fake;

void fake_reset(void);

#endif

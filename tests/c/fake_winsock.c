#include "fake_winsock.h"

#include <string.h>

struct fake_winsock fake;

void fake_reset(void) {
    memset(&fake, 0, sizeof fake);
    fake.info_version = -1;
    fake.idle = 7200;
    fake.interval = 1;
    fake.keepcnt = 10;
    fake.idle_ms = 7200000;
    fake.interval_ms = 1000;
    fake.family = AF_INET;
    fake.type = SOCK_STREAM;
    fake.protocol = IPPROTO_TCP;
    fake.named = fake.connected = 1;
}

static int fail(int error) {
    fake.last_error = error;
    return -1;
}

static int missing(SOCKET sock) {
    return fake.closed || (sock != FAKE_SOCK && sock != FAKE_OWN);
}

int WSAAPI WSAStartup(WORD version, WSADATA *data) {
    (void)version;
    (void)data;
    fake.started++;
    return 0;
}

int WSAAPI WSACleanup(void) {
    fake.started--;
    return 0;
}

int WSAAPI WSAGetLastError(void) {
    return fake.last_error;
}

SOCKET WSAAPI socket(int family, int type, int protocol) {
    if (fake.started == 0 || type != SOCK_STREAM || protocol != IPPROTO_TCP)
        return (SOCKET)fail(WSAEINVAL);
    (void)family;
    fake.sockets++;
    return FAKE_OWN;
}

int WSAAPI closesocket(SOCKET sock) {
    if (sock != FAKE_OWN)
        return fail(WSAENOTSOCK);
    fake.sockets--;
    return 0;
}

/* Where the value of a TCP option is held, or NULL. */
static int32_t *held(int number) {
    switch (number) {
        case 3:
            return fake.times ? &fake.idle : NULL;
        case 17:
            return fake.times ? &fake.interval : NULL;
        case 16:
            return fake.count ? &fake.keepcnt : NULL;
        case 14:
            return fake.rt_ms ? &fake.rt : NULL;
        case 5:
            return fake.rt_s ? &fake.rt : NULL;
        default:
            return NULL;
    }
}

int WSAAPI getsockopt(SOCKET sock, int level, int number, char *value,
                      int *size) {
    WSAPROTOCOL_INFOW *kind = (WSAPROTOCOL_INFOW *)(void *)value;
    int32_t *at, answer = 0;

    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (level == SOL_SOCKET && number == SO_PROTOCOL_INFOW) {
        memset(kind, 0, sizeof *kind);
        kind->iAddressFamily = fake.family;
        kind->iSocketType = fake.type;
        kind->iProtocol = fake.protocol;
        return 0;
    }
    if (level == SOL_SOCKET && number == SO_KEEPALIVE) {
        if (fake.protocol != IPPROTO_TCP)
            return fail(WSAENOPROTOOPT);
        *value = (char)fake.on; /* a BOOLEAN, of one byte */
        *size = 1;
        return 0;
    }
    if (level == SOL_SOCKET && number == SO_ACCEPTCONN) {
        if (fake.type != SOCK_STREAM)
            return fail(WSAENOPROTOOPT);
        answer = fake.listening;
    } else if (level == IPPROTO_TCP) {
        if (fake.protocol != IPPROTO_TCP)
            return fail(WSAEINVAL);
        at = held(number);
        if (at == NULL)
            return fail(WSAENOPROTOOPT);
        answer = *at;
        if (sock == FAKE_OWN && at == &fake.rt)
            answer = fake.own_rt;
    } else {
        return fail(WSAENOPROTOOPT);
    }
    memcpy(value, &answer, sizeof answer);
    return 0;
}

static int note(SOCKET sock, int number, long value, long other) {
    if (sock == FAKE_OWN)
        return 0;
    if (fake.sets < FAKE_RECORDED)
        fake.set[fake.sets] = (struct fake_set){number, value, other};
    fake.sets++;
    return fake.sets == fake.fail_set ? fail(fake.fail_error) : 0;
}

int WSAAPI setsockopt(SOCKET sock, int level, int number, const char *value,
                      int size) {
    int32_t wanted, *at;

    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (size != sizeof wanted)
        return fail(WSAEFAULT);
    memcpy(&wanted, value, sizeof wanted);
    if (fake.protocol != IPPROTO_TCP)
        return fail(level == SOL_SOCKET ? WSAENOPROTOOPT : WSAEINVAL);
    if (note(sock, number, wanted, 0) < 0)
        return -1;
    if (level == SOL_SOCKET && number == SO_KEEPALIVE) {
        if (!wanted && fake.keepalive_error)
            return fail(fake.keepalive_error);
        fake.on = wanted;
        return 0;
    }
    at = level == IPPROTO_TCP ? held(number) : NULL;
    if (at == NULL)
        return fail(WSAENOPROTOOPT);
    *at = wanted;
    return 0;
}

static int set_vals(SOCKET sock, const void *in, DWORD size) {
    struct tcp_keepalive vals;

    if (!fake.vals)
        return fail(WSAEOPNOTSUPP);
    if (size != 12)
        return fail(WSAEFAULT);
    memcpy(&vals, in, sizeof vals);
    if (note(sock, FAKE_VALS, (long)vals.keepalivetime,
             (long)vals.keepaliveinterval) < 0)
        return -1;
    if (sock == FAKE_OWN)
        return 0;
    fake.on = vals.onoff != 0;
    if (vals.onoff) {
        fake.idle_ms = (long)vals.keepalivetime;
        fake.interval_ms = (long)vals.keepaliveinterval;
    }
    return 0;
}

int WSAAPI WSAIoctl(SOCKET sock, DWORD code, void *in, DWORD in_size,
                    void *out, DWORD out_size, DWORD *got,
                    LPWSAOVERLAPPED overlapped,
                    LPWSAOVERLAPPED_COMPLETION_ROUTINE routine) {
    DWORD version;

    (void)overlapped;
    (void)routine;
    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (code == 0x98000004u)
        return set_vals(sock, in, in_size);
    if (code != 0xD8000027u || fake.info_version < 0)
        return fail(WSAEOPNOTSUPP);
    if (in_size != sizeof version)
        return fail(WSAEFAULT);
    memcpy(&version, in, sizeof version);
    if ((int)version > fake.info_version)
        return fail(WSAEINVAL);
    *got = version == 0 ? 88 : 136;
    if (out_size < *got)
        return fail(WSAEFAULT);
    memcpy(out, fake.info, *got);
    return 0;
}

int WSAAPI ioctlsocket(SOCKET sock, long code, u_long *value) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (code != (long)FIONREAD || fake.listening)
        return fail(WSAEINVAL);
    *value = fake.unread;
    return 0;
}

int WSAAPI WSAPoll(WSAPOLLFD *seen, ULONG count, int timeout) {
    if (count != 1 || timeout != 0)
        return fail(WSAEFAULT);
    if (missing(seen->fd))
        return fail(WSAENOTSOCK);
    seen->revents =
        (SHORT)(fake.revents & (seen->events | POLLERR | POLLHUP | POLLNVAL));
    return seen->revents != 0;
}

static int name(struct sockaddr *address, int *size, unsigned port) {
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)address;

    memset(four, 0, sizeof *four);
    four->sin_family = (short)fake.family;
    four->sin_port = (unsigned short)port;
    four->sin_addr.s_addr = 0x0100007F;
    *size = sizeof *four;
    return 0;
}

int WSAAPI getsockname(SOCKET sock, struct sockaddr *address, int *size) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    return fake.named ? name(address, size, 0x1111) : fail(WSAEINVAL);
}

int WSAAPI getpeername(SOCKET sock, struct sockaddr *address, int *size) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    return fake.connected ? name(address, size, 0x2222) : fail(WSAENOTCONN);
}

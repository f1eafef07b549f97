#include "fake_winsock.h"

#include <windows.h>

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
    fake.connected_s = -1;
}

static int fail(int error) {
    fake.last_error = error;
    return -1;
}

static int missing(SOCKET sock) {
    if (fake.twin != 0 && sock == fake.twin)
        return 0;
    return fake.closed || (sock != FAKE_SOCK && sock != FAKE_OWN);
}

/* A change of the connection. */
static void change(SOCKET sock) {
    fake.on_owner += sock == FAKE_SOCK;
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

int WSAAPI WSADuplicateSocketW(SOCKET sock, DWORD process,
                               WSAPROTOCOL_INFOW *out) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (process != GetCurrentProcessId() || fake.started == 0)
        return fail(WSAEINVAL);
    if (fake.twin_error)
        return fail(fake.twin_error);
    memset(out, 0, sizeof *out);
    out->iProtocol = IPPROTO_TCP;
    return 0;
}

SOCKET WSAAPI WSASocketW(int family, int type, int protocol,
                         WSAPROTOCOL_INFOW *info, GROUP group, DWORD flags) {
    if (family != FROM_PROTOCOL_INFO || type != FROM_PROTOCOL_INFO ||
        protocol != FROM_PROTOCOL_INFO || info == NULL ||
        info->iProtocol != IPPROTO_TCP || group != 0 || flags != 0x81 ||
        fake.twin != 0)
        return (SOCKET)fail(WSAEINVAL);
    if (fake.make_error)
        return (SOCKET)fail(fake.make_error);
    fake.twin = FAKE_TWIN + 4 * (SOCKET)(fake.twins++ % 8);
    return fake.twin;
}

int WSAAPI shutdown(SOCKET sock, int how) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    if (!fake.connected)
        return fail(WSAENOTCONN);
    change(sock);
    fake.shutdowns += how == SD_BOTH;
    return 0;
}

USHORT WSAAPI ntohs(USHORT number) {
    return (USHORT)(number << 8 | number >> 8);
}

#ifdef KA_FAKE_WINDOWS_H
DWORD GetCurrentProcessId(void) {
    return 4711;
}

BOOL CancelIoEx(HANDLE file, LPWSAOVERLAPPED one) {
    fake.cancelled += one == NULL && fake.shutdowns > 0 &&
                      (SOCKET)(uintptr_t)file == fake.twin;
    return 0;
}
#endif

int WSAAPI closesocket(SOCKET sock) {
    if (fake.twin != 0 && sock == fake.twin) {
        fake.twin = 0;
        return 0;
    }
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
    if (level == SOL_SOCKET && number == 0x700C) { /* SO_CONNECT_TIME */
        answer = (int32_t)fake.connected_s;
    } else if (level == SOL_SOCKET && number == SO_ACCEPTCONN) {
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
        fake.set[fake.sets] = (struct fake_set){sock, number, value, other};
    change(sock);
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

static int name(SOCKET sock, struct sockaddr *address, int *size, int port) {
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)address;

    memset(four, 0, sizeof *four);
    four->sin_family = (short)fake.family;
    port +=
        sock != FAKE_SOCK && fake.twin_ports ? fake.twin_ports : fake.ports;
    four->sin_port = (unsigned short)port;
    four->sin_addr.s_addr = 0x0100007F;
    *size = sizeof *four;
    return 0;
}

int WSAAPI getsockname(SOCKET sock, struct sockaddr *address, int *size) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    return fake.named ? name(sock, address, size, 0x1111) : fail(WSAEINVAL);
}

int WSAAPI getpeername(SOCKET sock, struct sockaddr *address, int *size) {
    if (missing(sock))
        return fail(WSAENOTSOCK);
    return fake.connected ? name(sock, address, size, 0x2222)
                          : fail(WSAENOTCONN);
}

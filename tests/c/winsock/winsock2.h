/* winsock2.h - as much of Windows' sockets as ext/sockopt/windows.c uses, so
 * that it can be compiled and tested on Linux against fake_winsock.c. The
 * numbers are Windows' own and were written down from its documentation, not
 * taken from the file under test. */
#ifndef KA_FAKE_WINSOCK2_H
#define KA_FAKE_WINSOCK2_H

#include <stddef.h>
#include <stdint.h>

typedef uintptr_t SOCKET;
typedef uint32_t DWORD, ULONG, GROUP;
typedef uint16_t WORD, USHORT;
typedef int16_t SHORT;
typedef unsigned char BYTE;
#define u_long uint32_t
#define INVALID_SOCKET (~(SOCKET)0)
#define SOCKET_ERROR (-1)
#define MAKEWORD(low, high) ((WORD)((low) | (high) << 8))

typedef struct {
    WORD wVersion;
} WSADATA;

typedef struct {
    char catalogue[76];
    int iAddressFamily, iMaxSockAddr, iMinSockAddr, iSocketType, iProtocol;
    char rest[532];
} WSAPROTOCOL_INFOW;

typedef struct {
    SOCKET fd;
    SHORT events, revents;
} WSAPOLLFD;
#define POLLERR 0x0001
#define POLLHUP 0x0002
#define POLLNVAL 0x0004
#define POLLWRNORM 0x0010
#define POLLRDNORM 0x0100

struct sockaddr {
    USHORT sa_family;
    char sa_data[14];
};
struct sockaddr_storage {
    USHORT ss_family;
    char rest[126];
};
struct in_addr {
    uint32_t s_addr;
};
struct in6_addr {
    BYTE s6_addr[16];
};
struct sockaddr_in {
    USHORT sin_family, sin_port;
    struct in_addr sin_addr;
    char sin_zero[8];
};
struct sockaddr_in6 {
    USHORT sin6_family, sin6_port;
    ULONG sin6_flowinfo;
    struct in6_addr sin6_addr;
    ULONG sin6_scope_id;
};

#define AF_INET 2
#define AF_INET6 23
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define SOL_SOCKET 0xFFFF
#define SO_ACCEPTCONN 0x0002
#define SO_KEEPALIVE 0x0008
#define SO_PROTOCOL_INFOW 0x2005
#define FIONREAD 0x4004667F
#define FROM_PROTOCOL_INFO (-1)
#define WSA_FLAG_OVERLAPPED 0x01
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#define SD_BOTH 2

#define WSA_INVALID_HANDLE 6
#define WSA_NOT_ENOUGH_MEMORY 8
#define WSAEINTR 10004
#define WSAEBADF 10009
#define WSAEACCES 10013
#define WSAEFAULT 10014
#define WSAEINVAL 10022
#define WSAEMFILE 10024
#define WSAEWOULDBLOCK 10035
#define WSAEINPROGRESS 10036
#define WSAEALREADY 10037
#define WSAENOTSOCK 10038
#define WSAEMSGSIZE 10040
#define WSAENOPROTOOPT 10042
#define WSAEPROTONOSUPPORT 10043
#define WSAEOPNOTSUPP 10045
#define WSAEAFNOSUPPORT 10047
#define WSAEADDRINUSE 10048
#define WSAEADDRNOTAVAIL 10049
#define WSAENETDOWN 10050
#define WSAENETUNREACH 10051
#define WSAENETRESET 10052
#define WSAECONNABORTED 10053
#define WSAECONNRESET 10054
#define WSAENOBUFS 10055
#define WSAEISCONN 10056
#define WSAENOTCONN 10057
#define WSAESHUTDOWN 10058
#define WSAETIMEDOUT 10060
#define WSAECONNREFUSED 10061
#define WSAEHOSTUNREACH 10065

#define WSAAPI
typedef void *LPWSAOVERLAPPED, *LPWSAOVERLAPPED_COMPLETION_ROUTINE;
int WSAStartup(WORD version, WSADATA *data);
int WSACleanup(void);
int WSAGetLastError(void);
SOCKET socket(int family, int type, int protocol);
int closesocket(SOCKET sock);
int getsockopt(SOCKET sock, int level, int number, char *value, int *size);
int setsockopt(SOCKET sock, int level, int number, const char *value,
               int size);
int WSAIoctl(SOCKET sock, DWORD code, void *in, DWORD in_size, void *out,
             DWORD out_size, DWORD *got, LPWSAOVERLAPPED overlapped,
             LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int ioctlsocket(SOCKET sock, long code, u_long *value);
int WSAPoll(WSAPOLLFD *seen, ULONG count, int timeout);
int WSADuplicateSocketW(SOCKET sock, DWORD process, WSAPROTOCOL_INFOW *out);
SOCKET WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info,
                  GROUP group, DWORD flags);
int shutdown(SOCKET sock, int how);
USHORT ntohs(USHORT number);
int getsockname(SOCKET sock, struct sockaddr *address, int *size);
int getpeername(SOCKET sock, struct sockaddr *address, int *size);

#endif

/* netbsd.c - NetBSD.
 *
 * Read in sys/netinet/tcp_usrreq.c, tcp_timer.c, tcp_input.c and
 * tcp_syncache.c (2015) and in the headers of 11, never run. The traps:
 *
 * Half-seconds. The manual says seconds, but TCP_KEEPIDLE and TCP_KEEPINTVL go
 * into the slow timer as they are, and that runs twice a second. Whoever sets
 * seconds gets half of them; here they are doubled.
 *
 * Unreadable. getsockopt knows none of the three (ENOPROTOOPT). What a socket
 * has is therefore KA_UNREADABLE, and what is given back is the system's
 * default: net.inet.tcp.keepidle, keepintvl and keepcnt, which are in the
 * kernel's half-seconds, too. That the options exist is found by setting them
 * on a socket of our own.
 *
 * Order. Whichever of the three is set arms the timer anew: with SO_KEEPALIVE
 * off with the idle time, with SO_KEEPALIVE on with the interval. SO_KEEPALIVE
 * itself arms nothing. So it comes last, and the first question leaves when
 * the idle time is over. Where it was on before, the first leaves after one
 * interval, which does no harm. The idle time is last of the three, so that
 * the timer has the new one.
 *
 * Death without a question. As on Darwin and FreeBSD the timer drops what has
 * been silent for idle + count * interval before it asks.
 *
 * Inheritance. An accepted socket has SO_KEEPALIVE, and the system's times.
 *
 * The clock that is none. tcpi_last_data_recv is the difference of two clocks
 * with different units, hardclock's ticks and the slow timer's half-seconds:
 * it says nothing. The retransmission timer and round-trip times are taken in
 * one unit for another, and the window is told in segments. None of them is
 * passed on; the state and the retransmitted segments are right. So nothing
 * shows whether the peer answers, and no question is asked.
 *
 * Moving. Sequence numbers have no unit that could be mistaken: they are
 * passed on, and that they move says that payload did. A keepalive probe and
 * a probe of a shut window move none; what waits behind such a window
 * FIONWRITE tells.
 */
#ifdef __NetBSD__
#define KA_REAL_SYSTEM
#include <sys/types.h>
#include <netinet/tcp.h>
#endif
#include "sockopt.h"

#define KA_PUTS_BACK
#define KA_FIONWRITE 0x40046679ul
#include "bsd.h"

#include <sys/param.h>
#include <sys/sysctl.h>

#define KA_TCP_KEEPIDLE 3
#define KA_TCP_KEEPINTVL 5
#define KA_TCP_KEEPCNT 6
#define KA_TCP_INFO 9
#define KA_INFO_BYTES 236

#ifdef KA_REAL_SYSTEM
KA_SAME(KA_TCP_KEEPIDLE, TCP_KEEPIDLE);
KA_SAME(KA_TCP_KEEPINTVL, TCP_KEEPINTVL);
KA_SAME(KA_TCP_KEEPCNT, TCP_KEEPCNT);
KA_SAME(KA_TCP_INFO, TCP_INFO);
KA_AT(tcp_info, tcpi_state, 0);
KA_AT(tcp_info, tcpi_snd_nxt, 108);
KA_AT(tcp_info, tcpi_rcv_nxt, 112);
KA_AT(tcp_info, tcpi_snd_rexmitpack, 120);
KA_SIZE(tcp_info, KA_INFO_BYTES);
#endif

/* INT_MAX / (hz / 2) half-seconds, at 1000 hz. */
#define KA_MOST_S 2147483

static const struct ka_row ka_rows[KA_OPTIONS] = {
    {KA_SOL_SOCKET, KA_SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPIDLE, "TCP_KEEPIDLE", {1, KA_MOST_S}, 1, 2, 1},
    {KA_LEVEL_TCP, KA_TCP_KEEPINTVL, "TCP_KEEPINTVL", {1, KA_MOST_S}, 1, 2, 1},
    {KA_LEVEL_TCP, KA_TCP_KEEPCNT, "TCP_KEEPCNT", {1, INT32_MAX}, 1, 1, 1},
    {0, 0, "TCP_USER_TIMEOUT", {0, 0}, 1, 1, 0},
    {0, 0, "TCP_RTO_MAX_MS", {0, 0}, 1, 1, 0},
};

const int ka_set_order[KA_OPTIONS] = {
    KA_COUNT, KA_INTERVAL, KA_IDLE, KA_USER_TIMEOUT, KA_RTO_MAX, KA_ENABLED};

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_BYTES];
    socklen_t size = sizeof raw;
    int64_t waiting = queued(sock);
    int rc = read_info(sock, KA_TCP_INFO, raw, &size, info);

    if (rc <= 0)
        return rc;
    info->snd_nxt = ka_u32_at(raw, size, 108);
    info->rcv_nxt = ka_u32_at(raw, size, 112);
    info->total_retrans = ka_u32_at(raw, size, 120);
    info->queued_bytes = waiting;
    return 0;
}

/* In the kernel's units. */
static int default_of(int option) {
    static const struct {
        const char *name;
        int usual;
    } defaults[KA_OPTIONS] = {
        [KA_IDLE] = {"net.inet.tcp.keepidle", 14400},
        [KA_INTERVAL] = {"net.inet.tcp.keepintvl", 150},
        [KA_COUNT] = {"net.inet.tcp.keepcnt", 8},
    };
    int value = 0;
    size_t size = sizeof value;

    if (sysctlbyname(defaults[option].name, &value, &size, NULL, 0) < 0 ||
        size != sizeof value || value <= 0)
        return defaults[option].usual;
    return value;
}

int ka_os_put_back(ka_sock sock, int option, int32_t value) {
    if (!known(option))
        return -EINVAL;
    if (value == KA_UNREADABLE && ka_rows[option].unreadable)
        return set_native(sock, option, default_of(option));
    if (value > ka_rows[option].range.high)
        value = ka_rows[option].range.high;
    return ka_set(sock, option, value);
}

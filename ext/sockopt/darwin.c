/* darwin.c - macOS, iOS and the other Darwin systems.
 *
 * Read in xnu's bsd/netinet/tcp_usrreq.c, tcp_timer.c and tcp_input.c, never
 * run. The traps:
 *
 * Order. The idle time is TCP_KEEPALIVE here; TCP_KEEPIDLE does not exist.
 * Setting it arms the timer anew, a whole idle time from now, but with the
 * system's two hours unless SO_KEEPALIVE is on already; SO_KEEPALIVE itself
 * arms nothing. So it comes before the idle time, and the count before both.
 *
 * Death without a question. When the timer goes off, the kernel first looks
 * whether the connection has been silent for idle + count * interval, and
 * drops it then, before it has asked once. A lower idle time kills a healthy
 * connection that has been silent for longer than that. The count comes
 * first, so that at least the new one is in force; who lowers the idle time
 * of a connection that may have been silent has to raise the count meanwhile.
 *
 * Inheritance. An accepted socket has its listener's interval and count, and
 * SO_KEEPALIVE, but not the idle time.
 *
 * Units. All times are seconds. TCP_RXT_CONNDROPTIME is what user_timeout is
 * elsewhere, looked at by the retransmission timer only; its clock begins at
 * the first retransmission. The kernel multiplies it without looking.
 *
 * Connecting. No retransmission of a SYN runs against that one; the handshake,
 * a connect as well as one that a listener has half of, has a time of its own,
 * TCP_CONNECTIONTIMEOUT: 0 is the system's 75 s. A user timeout sets both, as
 * it bounds both elsewhere, unless the two differed before: then somebody has
 * given the handshake a time, and keeps it.
 *
 * Answers. TCP_CONNECTION_INFO has no clock of what was received, and its
 * counters leave out segments without data, as the answer to a probe is. That
 * a peer is alive does therefore not show, and no question is asked: there
 * is nothing that its answer would move. A connection's end does show.
 *
 * tcpi_snd_sbbytes is what is not acknowledged, sent or not, and stands for
 * notsent_bytes; rxbytes does not count the peer's FIN as a byte. tcpi_rto is
 * 0 while nothing is to be retransmitted, which is "not told".
 */
#ifdef __APPLE__
#define KA_REAL_SYSTEM
#include <sys/types.h>
#include <netinet/tcp.h>
#endif
#include "sockopt.h"

#define KA_HANDSHAKE 0x20 /* TCP_CONNECTIONTIMEOUT */
#include "bsd.h"

#define KA_TCP_KEEPALIVE 0x10
#define KA_TCP_RXT_CONNDROPTIME 0x80
#define KA_TCP_KEEPINTVL 0x101
#define KA_TCP_KEEPCNT 0x102
#define KA_TCP_CONNECTION_INFO 0x106
#define KA_INFO_BYTES 112

#ifdef KA_REAL_SYSTEM
KA_SAME(KA_HANDSHAKE, TCP_CONNECTIONTIMEOUT);
KA_SAME(KA_TCP_KEEPALIVE, TCP_KEEPALIVE);
KA_SAME(KA_TCP_RXT_CONNDROPTIME, TCP_RXT_CONNDROPTIME);
KA_SAME(KA_TCP_KEEPINTVL, TCP_KEEPINTVL);
KA_SAME(KA_TCP_KEEPCNT, TCP_KEEPCNT);
KA_SAME(KA_TCP_CONNECTION_INFO, TCP_CONNECTION_INFO);
KA_AT(tcp_connection_info, tcpi_state, 0);
KA_AT(tcp_connection_info, tcpi_rto, 12);
KA_AT(tcp_connection_info, tcpi_snd_wnd, 28);
KA_AT(tcp_connection_info, tcpi_snd_sbbytes, 32);
KA_AT(tcp_connection_info, tcpi_srtt, 44);
KA_AT(tcp_connection_info, tcpi_rttvar, 48);
KA_AT(tcp_connection_info, tcpi_txpackets, 56);
KA_AT(tcp_connection_info, tcpi_txbytes, 64);
KA_AT(tcp_connection_info, tcpi_txretransmitbytes, 72);
KA_AT(tcp_connection_info, tcpi_rxpackets, 80);
KA_AT(tcp_connection_info, tcpi_rxbytes, 88);
KA_AT(tcp_connection_info, tcpi_txretransmitpackets, 104);
KA_SIZE(tcp_connection_info, KA_INFO_BYTES);
#endif

/* UINT32_MAX ms, and INT32_MAX ms in whole seconds. */
#define KA_MOST_S 4294967
#define KA_MOST_MS 2147483000

static const struct ka_row ka_rows[KA_OPTIONS] = {
    {KA_SOL_SOCKET, KA_SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPALIVE, "TCP_KEEPALIVE", {1, KA_MOST_S}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPINTVL, "TCP_KEEPINTVL", {1, KA_MOST_S}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPCNT, "TCP_KEEPCNT", {1, INT32_MAX}, 1, 1, 0},
    {KA_LEVEL_TCP,
     KA_TCP_RXT_CONNDROPTIME,
     "TCP_RXT_CONNDROPTIME",
     {0, KA_MOST_MS},
     1000,
     1,
     0},
    {0, 0, "TCP_RTO_MAX_MS", {0, 0}, 1, 1, 0},
};

const int ka_set_order[KA_OPTIONS] = {KA_COUNT,        KA_ENABLED, KA_INTERVAL,
                                      KA_USER_TIMEOUT, KA_RTO_MAX, KA_IDLE};

static int64_t us_at(const unsigned char *raw, socklen_t size, int offset) {
    int64_t ms = ka_u32_at(raw, size, offset);

    return ms < 0 ? -1 : ms * 1000;
}

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_BYTES];
    socklen_t size = sizeof raw;
    int rc = read_info(sock, KA_TCP_CONNECTION_INFO, raw, &size, info);

    if (rc <= 0)
        return rc;
    info->rto_us = us_at(raw, size, 12);
    if (info->rto_us == 0)
        info->rto_us = -1;
    info->rtt_us = us_at(raw, size, 44);
    info->rttvar_us = us_at(raw, size, 48);
    info->snd_wnd = ka_u32_at(raw, size, 28);
    info->notsent_bytes = ka_u32_at(raw, size, 32);
    info->data_segs_out = ka_u64_at(raw, size, 56);
    info->bytes_sent = ka_u64_at(raw, size, 64);
    info->bytes_retrans = ka_u64_at(raw, size, 72);
    info->data_segs_in = ka_u64_at(raw, size, 80);
    info->bytes_received = ka_u64_at(raw, size, 88);
    info->total_retrans = ka_u64_at(raw, size, 104);
    return 0;
}

/* openbsd.c - OpenBSD.
 *
 * Read in sys/netinet/tcp_usrreq.c, tcp_input.c and tcp_output.c (2022 to
 * 2025), never run.
 *
 * Per socket there is SO_KEEPALIVE and nothing else: times and count are the
 * system's (net.inet.tcp.keepidle and keepintvl; eight questions), so all
 * other options are -ENOPROTOOPT, and no question can be put by a shorter
 * time. Dropping a connection before asking it does not happen by our doing,
 * because nothing can be lowered.
 *
 * TCP_INFO tells more than elsewhere, in microseconds of 32 bits: each clock
 * begins anew every 71.6 minutes. tcpi_last_data_recv is the time since a
 * segment of any kind, and goes to last_ack_recv_ms, which is its meaning.
 * tcpi_last_ack_recv is the time since new data of ours was acknowledged,
 * which the answer to a keepalive probe does not do, and is left.
 * tcpi_last_data_sent is what it says. What comes from the window on in the
 * struct is 0 for all but root, and 0 is no answer: the sequence numbers,
 * which begin at the handshake here, and the send buffer are told when one of
 * the numbers is not 0. (They are both 0 again when each of the two sides has
 * sent a multiple of 4 GiB less the handshake's one; then they are not told
 * for that moment.)
 */
#ifdef __OpenBSD__
#define KA_REAL_SYSTEM
#include <sys/types.h>
#include <netinet/tcp.h>
#endif
#include "sockopt.h"

#define KA_SO_PROTOCOL 0x1025
#include "bsd.h"

#define KA_TCP_INFO 9
#define KA_INFO_BYTES 212

#ifdef KA_REAL_SYSTEM
KA_SAME(KA_SO_PROTOCOL, SO_PROTOCOL);
KA_SAME(KA_TCP_INFO, TCP_INFO);
KA_AT(tcp_info, tcpi_state, 0);
KA_AT(tcp_info, tcpi_rto, 8);
KA_AT(tcp_info, tcpi_last_data_sent, 44);
KA_AT(tcp_info, tcpi_last_data_recv, 52);
KA_AT(tcp_info, tcpi_last_ack_recv, 56);
KA_AT(tcp_info, tcpi_rtt, 68);
KA_AT(tcp_info, tcpi_rttvar, 72);
KA_AT(tcp_info, tcpi_snd_wnd, 100);
KA_AT(tcp_info, tcpi_snd_nxt, 104);
KA_AT(tcp_info, tcpi_rcv_nxt, 108);
KA_AT(tcp_info, tcpi_snd_max, 160);
KA_AT(tcp_info, tcpi_so_snd_sb_cc, 196);
KA_SIZE(tcp_info, KA_INFO_BYTES);
#endif

static const struct ka_row ka_rows[KA_OPTIONS] = {
    {KA_SOL_SOCKET, KA_SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}, 1, 1, 0},
    {0, 0, "TCP_KEEPIDLE", {0, 0}, 1, 1, 0},
    {0, 0, "TCP_KEEPINTVL", {0, 0}, 1, 1, 0},
    {0, 0, "TCP_KEEPCNT", {0, 0}, 1, 1, 0},
    {0, 0, "TCP_USER_TIMEOUT", {0, 0}, 1, 1, 0},
    {0, 0, "TCP_RTO_MAX_MS", {0, 0}, 1, 1, 0},
};

const int ka_set_order[KA_OPTIONS] = {KA_ENABLED, KA_IDLE,         KA_INTERVAL,
                                      KA_COUNT,   KA_USER_TIMEOUT, KA_RTO_MAX};

static int64_t ms_at(const unsigned char *raw, socklen_t size, int offset) {
    int64_t us = ka_u32_at(raw, size, offset);

    return us < 0 ? -1 : us / 1000;
}

static void tell_root(const unsigned char *raw, socklen_t size,
                      struct ka_info *info) {
    if (ka_u32_at(raw, size, 104) <= 0 && ka_u32_at(raw, size, 108) <= 0)
        return;
    info->snd_nxt = ka_u32_at(raw, size, 104);
    info->snd_max = ka_u32_at(raw, size, 160);
    info->rcv_nxt = ka_u32_at(raw, size, 108);
    info->queued_bytes = ka_u32_at(raw, size, 196);
}

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_BYTES];
    socklen_t size = sizeof raw;
    int rc = read_info(sock, KA_TCP_INFO, raw, &size, info);

    if (rc <= 0)
        return rc;
    info->last_ack_recv_ms = ms_at(raw, size, 52);
    info->last_data_sent_ms = ms_at(raw, size, 44);
    info->rto_us = ka_u32_at(raw, size, 8);
    info->rtt_us = ka_u32_at(raw, size, 68);
    info->rttvar_us = ka_u32_at(raw, size, 72);
    tell_root(raw, size, info);
    return 0;
}

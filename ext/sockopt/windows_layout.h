/* windows_layout.h - the numbers of Windows, what SIO_KEEPALIVE_VALS takes,
 * and what SIO_TCP_INFO says, as a ka_info.
 *
 * Headers older than the system do not declare all of it, so it stands here.
 * Where a header does declare it, the two are compared. Everything that is
 * used of TCP_INFO lies in the first version of the structure.
 *
 * There is no clock of the last segment in it and no count of segments. What
 * is in flight is counted in bytes: segments by the MSS, rounded up. What
 * waits to be sent is not told; but with nothing in flight and room for a
 * segment at the peer's it would have been sent, so then it is nothing.
 * TimeoutEpisodes count since the beginning, not what is outstanding, so they
 * stand for nothing here. Include it after winsock2.h and mstcpip.h.
 */
#ifndef KA_WINDOWS_LAYOUT_H
#define KA_WINDOWS_LAYOUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "raw.h"
#include "sockopt.h"

#define KA_TCP_KEEPIDLE 3
#define KA_TCP_MAXRT 5
#define KA_TCP_MAXRTMS 14
#define KA_TCP_KEEPCNT 16
#define KA_TCP_KEEPINTVL 17
#define KA_SIO_KEEPALIVE_VALS 0x98000004u
#define KA_SIO_TCP_INFO 0xD8000027u /* takes the version, a DWORD */
#define KA_INFO_V0_BYTES 88         /* Windows 10 1703 */
#define KA_INFO_V1_BYTES 136        /* Windows 10 1809 */

#define KA_SAME(a, b) _Static_assert((a) == (b), #a " is " #b)

struct ka_vals { /* as SIO_KEEPALIVE_VALS takes them */
    uint32_t on;
    uint32_t idle_ms;
    uint32_t interval_ms;
};

/* By Windows' numbers. */
static const unsigned char ka_states[] = {
    KA_TCP_CLOSE,       KA_TCP_LISTEN,    KA_TCP_SYN_SENT,  KA_TCP_SYN_RECV,
    KA_TCP_ESTABLISHED, KA_TCP_FIN_WAIT1, KA_TCP_FIN_WAIT2, KA_TCP_CLOSE_WAIT,
    KA_TCP_CLOSING,     KA_TCP_LAST_ACK,  KA_TCP_TIME_WAIT};

/* Leaves alone what is not told. */
static inline void ka_info_decode(const unsigned char *raw,
                                  struct ka_info *info) {
    int64_t state = ka_u32_at(raw, KA_INFO_V0_BYTES, 0),
            mss = ka_u32_at(raw, KA_INFO_V0_BYTES, 4);
    int64_t in_flight = ka_u32_at(raw, KA_INFO_V0_BYTES, 28);

    if (state < (int64_t)sizeof ka_states)
        info->state = ka_states[state];
    if (mss <= 0)
        mss = 1;
    info->unacked = (in_flight + mss - 1) / mss;
    info->rtt_us = ka_u32_at(raw, KA_INFO_V0_BYTES, 20);
    info->min_rtt_us = ka_u32_at(raw, KA_INFO_V0_BYTES, 24);
    info->snd_wnd = ka_u32_at(raw, KA_INFO_V0_BYTES, 36);
    if (in_flight == 0 && info->snd_wnd >= mss)
        info->notsent_bytes = 0;
    info->bytes_sent = ka_u64_at(raw, KA_INFO_V0_BYTES, 48);
    info->bytes_received = ka_u64_at(raw, KA_INFO_V0_BYTES, 56);
    info->bytes_retrans = ka_u32_at(raw, KA_INFO_V0_BYTES, 68);
}

KA_SAME(SOL_SOCKET, 0xFFFF);
KA_SAME(SO_KEEPALIVE, 8);
KA_SAME(IPPROTO_TCP, 6);
KA_SAME(SO_PROTOCOL_INFOW, 0x2005);
KA_SAME(SO_ACCEPTCONN, 2);
KA_SAME(sizeof(ka_sock), sizeof(SOCKET));
KA_SAME(SIO_KEEPALIVE_VALS, KA_SIO_KEEPALIVE_VALS);
KA_SAME(sizeof(struct tcp_keepalive), sizeof(struct ka_vals));
KA_SAME(offsetof(struct tcp_keepalive, keepalivetime), 4);
KA_SAME(offsetof(struct tcp_keepalive, keepaliveinterval), 8);
#ifdef TCP_KEEPIDLE
KA_SAME(TCP_KEEPIDLE, KA_TCP_KEEPIDLE);
#endif
#ifdef TCP_KEEPINTVL
KA_SAME(TCP_KEEPINTVL, KA_TCP_KEEPINTVL);
#endif
#ifdef TCP_KEEPCNT
KA_SAME(TCP_KEEPCNT, KA_TCP_KEEPCNT);
#endif
#ifdef TCP_MAXRT
KA_SAME(TCP_MAXRT, KA_TCP_MAXRT);
#endif
#ifdef TCP_MAXRTMS
KA_SAME(TCP_MAXRTMS, KA_TCP_MAXRTMS);
#endif
#if defined(SIO_TCP_INFO) && NTDDI_VERSION >= 0x0A000006
KA_SAME(SIO_TCP_INFO, KA_SIO_TCP_INFO);
KA_SAME(sizeof(TCP_INFO_v0), KA_INFO_V0_BYTES);
KA_SAME(sizeof(TCP_INFO_v1), KA_INFO_V1_BYTES);
KA_SAME(offsetof(TCP_INFO_v1, State), 0);
KA_SAME(offsetof(TCP_INFO_v1, Mss), 4);
KA_SAME(offsetof(TCP_INFO_v1, RttUs), 20);
KA_SAME(offsetof(TCP_INFO_v1, MinRttUs), 24);
KA_SAME(offsetof(TCP_INFO_v1, BytesInFlight), 28);
KA_SAME(offsetof(TCP_INFO_v1, SndWnd), 36);
KA_SAME(offsetof(TCP_INFO_v1, BytesOut), 48);
KA_SAME(offsetof(TCP_INFO_v1, BytesIn), 56);
KA_SAME(offsetof(TCP_INFO_v1, BytesRetrans), 68);
KA_SAME(offsetof(TCP_INFO_v0, State), 0);
KA_SAME(offsetof(TCP_INFO_v0, BytesIn), 56);
KA_SAME(offsetof(TCP_INFO_v0, BytesRetrans), 68);
KA_SAME(TCPSTATE_CLOSED, 0);
KA_SAME(TCPSTATE_LISTEN, 1);
KA_SAME(TCPSTATE_SYN_SENT, 2);
KA_SAME(TCPSTATE_SYN_RCVD, 3);
KA_SAME(TCPSTATE_ESTABLISHED, 4);
KA_SAME(TCPSTATE_FIN_WAIT_1, 5);
KA_SAME(TCPSTATE_FIN_WAIT_2, 6);
KA_SAME(TCPSTATE_CLOSE_WAIT, 7);
KA_SAME(TCPSTATE_CLOSING, 8);
KA_SAME(TCPSTATE_LAST_ACK, 9);
KA_SAME(TCPSTATE_TIME_WAIT, 10);
KA_SAME(sizeof ka_states, TCPSTATE_MAX);
#endif

#endif

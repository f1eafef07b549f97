/* freebsd.c - FreeBSD.
 *
 * Read in sys/netinet/tcp_usrreq.c and tcp_timer.c (13.0 to 15), never run.
 * Let I be the idle time, V the interval, C the count, E the time since a
 * segment of any kind came in. The keepalive timer, when it goes off:
 *
 *     E < I               go off again at I (since 13; before, every segment
 *                         armed it anew)
 *     E >= I + C * V      drop the connection; it has not been asked
 *     else                ask, and go off again in V
 *
 * TCP_KEEPIDLE arms it, I from now; nothing else does. SO_KEEPALIVE is a mere
 * flag, and not even that: by default net.inet.tcp.always_keepalive is 1 and
 * every connection is asked, on or off. I, V and C are sums of 32-bit ticks,
 * as a rule 1000 in a second: C * V above 2^31 of them is a number by chance.
 * So:
 *
 * Setting. The idle time comes last, when all else is in force. A lower one
 * kills a healthy connection for which E >= I + C * V already; the caller has
 * to know. While connect() is under way the same timer bounds it, and an idle
 * time set then is the time that is left to the handshake.
 *
 * Asking. No state in between may be a deadly one, however long this thread
 * is kept from going on in it, and always_keepalive leaves no state in which
 * the timer rests. Hence the idle time first is KA_FAR, which arms the timer
 * so far away that it is not heard of again; then V is 1 before C becomes
 * KA_FAR, so that their product never overflows, and in FIN_WAIT_2, whose
 * timer C * V also is, goes up at last. I = 1 comes last: the question leaves
 * one second later, not now, and the kernel repeats it every second by
 * itself. Asking again would arm the timer anew and put the question off for
 * ever, so it does nothing. KA_FAR is 23 days; whoever has been silent for
 * longer would be dropped.
 *
 * Giving back. The same way round: KA_FAR, then C, then V, then I. What cannot
 * be given back is the moment for which the timer had been set: it goes off I
 * from now, when E has grown by I. If the peer has not been heard for C * V,
 * because it did not answer or the question had no time to leave, that is
 * E >= I + C * V, death without a question, for somebody who may just have had
 * a short outage. Such a connection gets a count that is higher by the
 * silence: the kernel asks C times or more, I from now, before it gives up.
 * As the clock may have begun anew (see below), so does one whose idle time
 * leaves room for that. Who has answered gets back exactly what he had.
 *
 * Listening. TCP_INFO's tcpi_last_data_recv is, whatever its name, the time
 * since a segment of any kind, in microseconds: the clock that counts. It has
 * 32 bits and begins anew every 71.6 minutes. So a connection that has been
 * silent for longer seems to have been heard lately in one look of 4295, and
 * one whose clock begins anew while it is being asked seems to have answered.
 * Nothing else tells the two apart. There are no absolute counters of bytes
 * or segments; of the counters only retransmitted segments are told.
 *
 * Moving. What does show is that payload moved: in the sequence numbers.
 * How a TCP stack keeps tcpi_snd_nxt is its own affair, and there are others
 * than the usual one; the highest that was sent, tcpi_snd_max, all must keep.
 * That one is told since 14; before, it is padding, and 0. So both are told,
 * and who looks for movement looks at both. A keepalive probe carries the
 * number before the first that is not acknowledged, and moves none; nor does a
 * probe of a shut window, but then bytes wait in the send buffer, which
 * FIONWRITE tells. Of a connection that a network card has taken over the
 * numbers may be old: they are not told.
 *
 * TCP_MAXUNACKTIME is what user_timeout is elsewhere, in seconds. Kernels
 * before 14 know it in some TCP stacks only, or not at all.
 */
#ifdef __FreeBSD__
#define KA_REAL_SYSTEM
#include <sys/types.h>
#include <netinet/tcp.h>
#endif
#include "sockopt.h"

#define KA_ASKS
#define KA_SO_PROTOCOL 0x1016
#define KA_FIONWRITE 0x40046677ul
#include "bsd.h"

#define KA_TCP_INFO 32
#define KA_TCP_MAXUNACKTIME 68
#define KA_TCP_KEEPIDLE 256
#define KA_TCP_KEEPINTVL 512
#define KA_TCP_KEEPCNT 1024
#define KA_INFO_BYTES 256 /* 236 before 14 */
#define KA_OPT_TOE 0x10

#ifdef KA_REAL_SYSTEM
KA_SAME(KA_SO_PROTOCOL, SO_PROTOCOL);
KA_SAME(KA_TCP_INFO, TCP_INFO);
KA_SAME(KA_TCP_KEEPIDLE, TCP_KEEPIDLE);
KA_SAME(KA_TCP_KEEPINTVL, TCP_KEEPINTVL);
KA_SAME(KA_TCP_KEEPCNT, TCP_KEEPCNT);
#ifdef TCP_MAXUNACKTIME /* headers before 12 */
KA_SAME(KA_TCP_MAXUNACKTIME, TCP_MAXUNACKTIME);
#endif
KA_AT(tcp_info, tcpi_state, 0);
KA_AT(tcp_info, tcpi_options, 5);
KA_SAME(KA_OPT_TOE, TCPI_OPT_TOE);
KA_AT(tcp_info, tcpi_rto, 8);
KA_AT(tcp_info, tcpi_last_data_recv, 52);
KA_AT(tcp_info, tcpi_rtt, 68);
KA_AT(tcp_info, tcpi_rttvar, 72);
KA_AT(tcp_info, tcpi_snd_wnd, 100);
KA_AT(tcp_info, tcpi_snd_nxt, 108);
KA_AT(tcp_info, tcpi_rcv_nxt, 112);
KA_AT(tcp_info, tcpi_snd_rexmitpack, 120);
_Static_assert(sizeof(struct tcp_info) == KA_INFO_BYTES ||
                   sizeof(struct tcp_info) == 236,
               "sizeof tcp_info");
#if __FreeBSD__ >= 14
KA_AT(tcp_info, tcpi_snd_max, 180);
#endif
#endif

/* Seconds. In ticks: less than 2^31 of them, at up to 1073 in a second. */
#define KA_FAR 2000000
/* From the last step until the question leaves. */
#define KA_LEAVES_MS 1000
/* Who answers a question every second has been heard within this. */
#define KA_ANSWERED_MS 3000
/* 2^32 microseconds, and the longest that one question is put. */
#define KA_CLOCK_S 4295
#define KA_ASKED_MOST_S 3600
/* UINT32_MAX ms, and INT32_MAX ms in whole seconds. */
#define KA_MOST_S 4294967
#define KA_MOST_MS 2147483000

static const struct ka_row ka_rows[KA_OPTIONS] = {
    {KA_SOL_SOCKET, KA_SO_KEEPALIVE, "SO_KEEPALIVE", {0, 1}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPIDLE, "TCP_KEEPIDLE", {1, KA_MOST_S}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPINTVL, "TCP_KEEPINTVL", {1, KA_MOST_S}, 1, 1, 0},
    {KA_LEVEL_TCP, KA_TCP_KEEPCNT, "TCP_KEEPCNT", {1, INT32_MAX}, 1, 1, 0},
    {KA_LEVEL_TCP,
     KA_TCP_MAXUNACKTIME,
     "TCP_MAXUNACKTIME",
     {0, KA_MOST_MS},
     1000,
     1,
     0},
    {0, 0, "TCP_RTO_MAX_MS", {0, 0}, 1, 1, 0},
};

const int ka_set_order[KA_OPTIONS] = {KA_COUNT,        KA_INTERVAL, KA_ENABLED,
                                      KA_USER_TIMEOUT, KA_RTO_MAX,  KA_IDLE};

const int ka_os_asks = 1;

static void tell_numbers(const unsigned char *raw, socklen_t size,
                         struct ka_info *info) {
    if (size < 6 || raw[5] & KA_OPT_TOE)
        return;
    info->snd_nxt = ka_u32_at(raw, size, 108);
    info->snd_max = ka_u32_at(raw, size, 180);
    info->rcv_nxt = ka_u32_at(raw, size, 112);
}

int ka_info(ka_sock sock, struct ka_info *info) {
    unsigned char raw[KA_INFO_BYTES];
    socklen_t size = sizeof raw;
    int64_t waiting = queued(sock), silent_us;
    int rc = read_info(sock, KA_TCP_INFO, raw, &size, info);

    if (rc <= 0)
        return rc;
    silent_us = ka_u32_at(raw, size, 52);
    info->last_ack_recv_ms = silent_us < 0 ? -1 : silent_us / 1000;
    info->rto_us = ka_u32_at(raw, size, 8);
    info->rtt_us = ka_u32_at(raw, size, 68);
    info->rttvar_us = ka_u32_at(raw, size, 72);
    info->snd_wnd = ka_u32_at(raw, size, 100);
    info->total_retrans = ka_u32_at(raw, size, 120);
    info->queued_bytes = waiting;
    tell_numbers(raw, size, info);
    return 0;
}

static int set_or_name(ka_sock sock, int option, int32_t value,
                       struct ka_fault *fault) {
    int rc = ka_os_put_back(sock, option, value);

    if (rc < 0) {
        fault->option = option;
        fault->setting = 1;
    }
    return rc;
}

/* In all other states the timer is the handshake's, or nobody's. */
static int has_keepalive(const struct ka_info *info) {
    return info->state != KA_TCP_CLOSE && info->state != KA_TCP_LISTEN &&
           info->state != KA_TCP_SYN_SENT && info->state != KA_TCP_SYN_RECV;
}

int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault) {
    static const struct {
        int option;
        int32_t value;
    } steps[] = {{KA_IDLE, KA_FAR},
                 {KA_INTERVAL, 1},
                 {KA_COUNT, KA_FAR},
                 {KA_ENABLED, 1},
                 {KA_IDLE, 1}};
    struct ka_info info;
    size_t i;
    int rc;

    (void)saved;
    if (guard == KA_UNGUARDED) /* the kernel repeats it */
        return 0;
    rc = ka_info(sock, &info);
    if (rc == 0 && !has_keepalive(&info))
        rc = -ENOTCONN;
    if (rc < 0) {
        fault->option = KA_IDLE;
        fault->setting = 1;
        return rc;
    }
    for (i = 0; i < sizeof steps / sizeof steps[0] && rc == 0; i++)
        rc = set_or_name(sock, steps[i].option, steps[i].value, fault);
    return rc < 0 ? rc : KA_LEAVES_MS;
}

/* Nobody can have been silent for so long that the clock began anew: a kernel
 * that asks drops who is silent for longer than idle + budget. */
static int clock_is_good(int64_t idle, int64_t budget) {
    return idle + budget + KA_ASKED_MOST_S < KA_CLOCK_S;
}

/* Too long for the timer that will go off one idle time from now. */
static int is_too_silent(int64_t silent_ms, int64_t idle, int64_t budget) {
    if (silent_ms < 0 || silent_ms >= budget * 1000)
        return 1;
    return silent_ms >= KA_ANSWERED_MS && !clock_is_good(idle, budget);
}

/* The count with which the connection lives until it is asked again. */
static int32_t safe_count(const struct ka_policy *saved,
                          const struct ka_info *info) {
    int64_t count = saved->value[KA_COUNT], idle = saved->value[KA_IDLE];
    int64_t interval = saved->value[KA_INTERVAL], budget = count * interval;
    int64_t silent_ms = info->last_ack_recv_ms, safe;

    if (budget <= 0 || !is_too_silent(silent_ms, idle, budget))
        return (int32_t)count;
    safe = silent_ms >= 0 && clock_is_good(idle, budget)
               ? silent_ms / 1000
               : idle + budget + KA_CLOCK_S;
    safe = count + safe / interval + 1;
    if (safe > KA_FAR / interval)
        safe = KA_FAR / interval;
    return (int32_t)(safe > count ? safe : count);
}

int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault) {
    static const int order[] = {KA_ENABLED, KA_COUNT, KA_INTERVAL, KA_IDLE};
    struct ka_info info;
    int rc = ka_info(sock, &info), worst;
    size_t i;

    fault->option = KA_IDLE;
    fault->setting = 1;
    if (rc < 0 || !has_keepalive(&info)) /* ended, or never asked */
        return rc;
    worst = set_or_name(sock, KA_IDLE, KA_FAR, fault);
    for (i = 0; i < sizeof order / sizeof order[0]; i++) {
        int32_t value = saved->value[order[i]];

        if (value == KA_LEAVE)
            continue;
        if (order[i] == KA_COUNT)
            value = safe_count(saved, &info);
        rc = set_or_name(sock, order[i], value, fault);
        if (rc < 0) /* go on: one lost option is better than four */
            worst = rc;
    }
    /* It has ended meanwhile, and has no options any more. */
    return worst == -ECONNRESET ? 0 : worst;
}

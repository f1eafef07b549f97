/* info_oracle.h - where each field of struct ka_info comes from, by the
 * system's own header, and what it must be when the kernel returns less. */
#ifndef KA_INFO_ORACLE_H
#define KA_INFO_ORACLE_H

#include <stddef.h>

#include "fake_kernel.h"

struct oracle_field {
    const char *name;
    size_t in_core;
    size_t offset;
    size_t width;
};

#define FIELD(core, kernel)                 \
    {#core, offsetof(struct ka_info, core), \
     offsetof(struct tcp_info, kernel),     \
     sizeof(((struct tcp_info *)0)->kernel)}

static const struct oracle_field oracle[] = {
    FIELD(state, tcpi_state),
    FIELD(retransmits, tcpi_retransmits),
    FIELD(probes, tcpi_probes),
    FIELD(backoff, tcpi_backoff),
    FIELD(rto_us, tcpi_rto),
    FIELD(rtt_us, tcpi_rtt),
    FIELD(rttvar_us, tcpi_rttvar),
    FIELD(min_rtt_us, tcpi_min_rtt),
    FIELD(unacked, tcpi_unacked),
    FIELD(last_data_sent_ms, tcpi_last_data_sent),
    FIELD(last_data_recv_ms, tcpi_last_data_recv),
    FIELD(last_ack_recv_ms, tcpi_last_ack_recv),
    FIELD(total_retrans, tcpi_total_retrans),
    FIELD(bytes_acked, tcpi_bytes_acked),
    FIELD(bytes_received, tcpi_bytes_received),
    FIELD(segs_out, tcpi_segs_out),
    FIELD(segs_in, tcpi_segs_in),
    FIELD(notsent_bytes, tcpi_notsent_bytes),
    FIELD(data_segs_in, tcpi_data_segs_in),
    FIELD(data_segs_out, tcpi_data_segs_out),
    FIELD(bytes_sent, tcpi_bytes_sent),
    FIELD(bytes_retrans, tcpi_bytes_retrans),
    FIELD(snd_wnd, tcpi_snd_wnd),
};
#define ORACLE_FIELDS ((int)(sizeof oracle / sizeof oracle[0]))

static inline int64_t oracle_got(const struct ka_info *info, int i) {
    int64_t value;

    memcpy(&value, (const char *)info + oracle[i].in_core, sizeof value);
    return value;
}

/* Little-endian hosts only, as everywhere the suite runs. */
static inline int64_t oracle_want(const struct fake_socket *socket, int i) {
    int64_t value = 0;

    if (oracle[i].offset + oracle[i].width > socket->info_size)
        return -1;
    memcpy(&value, socket->info.raw + oracle[i].offset, oracle[i].width);
    return value;
}

#endif

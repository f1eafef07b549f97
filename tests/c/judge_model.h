/* judge_model.h - a connection with its peer, its wire and its kernel, in
 * steps of a millisecond, and what is true of it.
 *
 * `info` is what the kernel would show, in its ticks of 4 ms; the truth is
 * written down beside it as things happen, and judged from that alone.
 */
#ifndef KA_JUDGE_MODEL_H
#define KA_JUDGE_MODEL_H

#include <stdlib.h>
#include <string.h>

#include "judge.h"

#define MODEL_LOG 4096

enum speaker { NOBODY, THE_PEER, THE_OWNER };

struct model {
    int64_t now, since; /* since: 0 the connection's birth */
    /* The wire and the peer. */
    int cut, reading;
    int64_t rtt, keepalive_idle, keepalive_interval; /* idle 0: off */
    /* The kernel. */
    struct ka_info info;
    int64_t sent, recv, ack, rto, probe_at, probe_gap, answer_at;
    int64_t in_flight, unsent;
    int flight_lost;
    /* The truth. */
    enum speaker last;
    int64_t word;     /* when that was, or the handshake */
    int64_t progress; /* when the peer took bytes, or had none to take */
    int64_t word_of_owner;
    int asked, fresh; /* since it was heard; and one of them after `since` */
    int64_t log_ms[MODEL_LOG], log_bytes[MODEL_LOG]; /* what the peer sent */
    int logged;
};

static inline int64_t model_tick(int64_t ms) {
    return ms / 4 * 4;
}

static inline int64_t model_age(const struct model *model, int64_t event) {
    return model_tick(model->now) - model_tick(event);
}

static inline int model_outstanding(const struct model *model) {
    return model->in_flight > 0 || model->unsent > 0;
}

static inline void model_open(struct model *model, int64_t now, int64_t rtt) {
    memset(model, 0, sizeof *model);
    model->now = model->sent = model->recv = model->ack = now;
    model->word = model->progress = now;
    model->word_of_owner = -1000;
    model->rtt = rtt;
    model->reading = 1;
    model->info.state = KA_TCP_ESTABLISHED;
    model->fresh = 1;
}

static inline const struct ka_info *model_info(struct model *model) {
    struct ka_info *info = &model->info;

    info->last_data_sent_ms = model_age(model, model->sent);
    info->last_data_recv_ms = model_age(model, model->recv);
    info->last_ack_recv_ms = model_age(model, model->ack);
    info->unacked = (model->in_flight + 1447) / 1448;
    info->notsent_bytes = model->unsent;
    return info;
}

/* Silence counts from now on. */
static inline void model_hold(struct model *model) {
    model->since = model->now;
    model->fresh = 0;
}

static inline void model_heard(struct model *model) {
    model->ack = model->now;
    model->info.probes = model->asked = 0;
    model->answer_at = 0;
    model->fresh = 1;
}

static inline void model_question(struct model *model) {
    model->asked++;
    model->fresh = 1;
    model->info.segs_out++;
}

static inline void model_transmit(struct model *model) {
    model->sent = model->word = model->word_of_owner = model->now;
    model->last = THE_OWNER;
    model->info.data_segs_out++;
    model->flight_lost = model->cut;
}

static inline void model_push(struct model *model) {
    if (model->in_flight > 0 || model->unsent == 0 || !model->reading)
        return;
    model->in_flight = model->unsent < 14480 ? model->unsent : 14480;
    model->unsent -= model->in_flight;
    model->rto = 200 + model->rtt;
    model_transmit(model);
}

static inline void model_owner_speaks(struct model *model, int64_t bytes) {
    if (!model_outstanding(model))
        model->progress = model->now;
    model->unsent += bytes;
    model->probe_gap = 200 + model->rtt;
    model->probe_at = model->now + model->probe_gap;
    model_push(model);
}

static inline void model_peer_speaks(struct model *model, int64_t bytes) {
    if (model->cut || model->info.state != KA_TCP_ESTABLISHED)
        return;
    model_heard(model);
    model->recv = model->now;
    model->info.bytes_received += bytes;
    model->info.data_segs_in++;
    if (model->logged < MODEL_LOG) {
        model->log_ms[model->logged] = model->now;
        model->log_bytes[model->logged++] = bytes;
    }
    if (model_tick(model->now) != model_tick(model->word_of_owner))
        model->last = THE_PEER;
    model->word = model->now;
}

static inline void model_peer_closes(struct model *model) {
    if (model->cut || model->info.state != KA_TCP_ESTABLISHED)
        return;
    model_heard(model);
    model->info.state = KA_TCP_CLOSE_WAIT;
    model->info.bytes_received++;
}

static inline void model_peer_reads(struct model *model, int reading) {
    model->reading = reading;
    if (reading && !model->cut) {
        model_heard(model);
        model_push(model);
    }
}

/* A probe with a byte of old data in it. */
static inline void model_peer_probes(struct model *model) {
    if (model->cut)
        return;
    model_heard(model);
    model->info.data_segs_in++;
}

static inline void model_flight(struct model *model) {
    if (!model->cut && !model->flight_lost &&
        model->now - model->sent >= model->rtt) {
        model_heard(model);
        model->info.bytes_acked += model->in_flight;
        model->info.retransmits = 0;
        model->in_flight = 0;
        model->progress = model->now;
        model->probe_gap = 200 + model->rtt;
        model->probe_at = model->now + model->probe_gap;
        model_push(model);
    } else if (model->now - model->sent >= model->rto) {
        model->rto *= 2;
        model->info.retransmits++;
        model->info.total_retrans++;
        model_question(model);
        model_transmit(model);
    }
}

static inline void model_probe(struct model *model) {
    model->info.probes++;
    model_question(model);
    if (!model->cut)
        model->answer_at = model->now + model->rtt;
}

static inline void model_keepalive(struct model *model) {
    int64_t heard = model->ack > model->recv ? model->ack : model->recv;
    int64_t over = model->now - heard - model->keepalive_idle;

    if (model->keepalive_idle > 0 && over >= 0 &&
        over % model->keepalive_interval == 0)
        model_probe(model);
}

static inline void model_step(struct model *model) {
    model->now++;
    if (model->in_flight > 0) {
        model_flight(model);
    } else if (model->unsent > 0) {
        if (model->now >= model->probe_at) {
            model_probe(model);
            model->probe_gap *= 2;
            model->probe_at = model->now + model->probe_gap;
        }
    } else {
        model_keepalive(model);
    }
    if (model->answer_at > 0 && model->now >= model->answer_at &&
        !model->cut) {
        model_heard(model);
        model_push(model);
    }
}

/* ---- what is true ----------------------------------------------------- */

static inline int64_t model_clock(const struct model *model, int64_t event) {
    int64_t age = model_age(model, event), since = model->now - model->since;

    return age < since ? age : since;
}

static inline int model_silent(const struct model *model, int64_t limit) {
    int64_t heard = model->ack > model->recv ? model->ack : model->recv;

    return limit >= 0 && model_clock(model, heard) >= limit &&
           model->asked > 0 && model->fresh &&
           model->info.probes + model->info.retransmits >= KA_QUESTIONS;
}

static inline int model_idle(const struct model *model, int64_t limit) {
    return limit >= 0 && !model_outstanding(model) &&
           model_clock(model, model->word) >= limit;
}

static inline int model_stalled(const struct model *model, int64_t limit) {
    int64_t begun = model->progress;

    if (model->since > begun)
        begun = model->since;
    return limit >= 0 && model_outstanding(model) &&
           model->now - begun >= limit;
}

/* The cause, of the classes' three. */
static inline int model_due(const struct model *model,
                            const struct ka_limits *limits) {
    if (model->last == NOBODY)
        return model_idle(model, limits->never_spoke_ms) ? KA_FOR_NEVER_SPOKE
                                                         : KA_NO_CAUSE;
    if (model->last == THE_PEER)
        return model_idle(model, limits->unanswered_ms) ? KA_FOR_UNANSWERED
                                                        : KA_NO_CAUSE;
    return model_idle(model, limits->answered_ms) ? KA_FOR_ANSWERED
                                                  : KA_NO_CAUSE;
}

/* Bytes at less than `rate` in the last `ms`, some of them in each half, and
 * the owner without a word. */
static inline int model_trickled(const struct model *model, int64_t rate,
                                 int64_t ms) {
    int64_t begun = model->now - ms, bytes = 0, first = 0, last = 0;
    int i;

    for (i = 0; i < model->logged; i++) {
        if (model->log_ms[i] <= begun)
            continue;
        bytes += model->log_bytes[i];
        first = first ? first : model->log_ms[i];
        last = model->log_ms[i];
    }
    return ms >= 2 * KA_RATE_STRETCH_MS && first < last &&
           model->word_of_owner <= begun && model->last == THE_PEER &&
           bytes * 1000 < rate * ms;
}

#endif

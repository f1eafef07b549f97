/* sample.h - clocks from counters, where the kernel has no clocks.
 *
 * Arithmetic on ka_info and the time; no system call, no allocation. What a
 * sampled clock is worth, and what it cannot tell, stands in sample.c.
 */
#ifndef KA_SAMPLE_H
#define KA_SAMPLE_H

#include "judge.h"

/* What is remembered of one connection between two looks. All zero: nobody
 * has looked yet. */
struct ka_sample {
    int32_t begun;
    int64_t in, out, segs_in;    /* the counters when it was looked at last */
    int64_t in_ms, out_ms;       /* the looks that saw them change */
    int64_t hidden;              /* bytes that may have been no word */
    int64_t singles, singles_ms; /* such bytes in a row, and since when */
    int64_t first_sent;          /* without what was sent once more */
    int64_t waiting;             /* bytes in the send buffer */
    int64_t in_flight;           /* 0: none of them, at the last look */
    int32_t timer_shows;         /* that of retransmissions */
    int64_t snd_nxt, snd_max, rcv_nxt; /* where there are no counters */
    int64_t taken; /* how often the peer was seen to take some of them */
};

/* 1 where counters or sequence numbers tell what no clock does. */
int ka_sample_needed(const struct ka_info *info);

/* Note a look, and put into *info what the kernel does not tell. `read_ms`
 * is not before the time when *info was read; ages are counted up to `now_ms`.
 * Doing so twice with the same counters changes nothing more. 0 when nothing
 * is missing, 1 when it was put in, -1 when a counter has gone back: that is
 * another connection, and nothing was changed. */
int ka_sample_look(struct ka_sample *sample, struct ka_info *info,
                   int64_t read_ms, int64_t now_ms);

/* Milliseconds between two looks, KA_NO_TIME when no limit needs them.
 * `connections` are looked at in all. */
int64_t ka_sample_pace(const struct ka_limits *limits, uint64_t connections);

#endif

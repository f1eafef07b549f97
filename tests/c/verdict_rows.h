/* verdict_rows.h - what the kernel shows, and what must be concluded.
 *
 * Counters stand for a connection that has sent and received 10 segments and
 * heard the last one 5 s ago, unless a row says otherwise.
 */
#ifndef KA_VERDICT_ROWS_H
#define KA_VERDICT_ROWS_H

#include <errno.h>
#include <poll.h>

#include "stillalive.h"

struct look {
    int state; /* 0: KA_TCP_ESTABLISHED */
    int poll;
    int unread;
    int segs_in, segs_out; /* 0: 10; NONE: 0 */
    int heard;             /* ms since the last ACK; 0: 5000, NONE: 0 */
    int heard_data;        /* ms since the last data; 0: later than heard */
    int retransmits, probes, unacked, notsent, total_retrans;
    int size; /* of TCP_INFO; 0: all of it */
    int user_timeout, count;
    int no_count;
    int protocol; /* 0: TCP */
};
#define NONE (-1)
#define MPTCP 262

enum entry { CHECKED, BEGUN, LOOKED, GIVEN_UP };

struct row {
    const char *label;
    enum entry entry;
    struct look first; /* what the witness saw when it began */
    struct look now;
    int asked;
    int waited_ms;
    int rc;
    int state, reason, err;
    int want_asked;
};

#define ENDED .state = KA_TCP_CLOSE, .poll = POLLIN | POLLRDHUP | POLLHUP
#define BROKEN \
    .state = KA_TCP_CLOSE, .poll = POLLIN | POLLRDHUP | POLLHUP | POLLERR

static const struct row rows[] = {
    /* ---- judged without a question --------------------------------- */
    {"quiet", CHECKED, .state = KA_OPEN, .reason = KA_WHY_QUIET},
    {"heard 1000 ms ago", CHECKED, .now = {.heard = 1000}, .state = KA_ALIVE,
     .reason = KA_WHY_HEARD},
    {"heard 1001 ms ago", CHECKED, .now = {.heard = 1001}, .state = KA_OPEN,
     .reason = KA_WHY_QUIET},
    {"heard in this millisecond", CHECKED, .now = {.heard = NONE},
     .state = KA_ALIVE, .reason = KA_WHY_HEARD},
    {"data heard, no ACK", CHECKED, .now = {.heard = 9000, .heard_data = 20},
     .state = KA_ALIVE, .reason = KA_WHY_HEARD},
    {"probes outstanding", CHECKED, .now = {.probes = 2}, .state = KA_OPEN,
     .reason = KA_WHY_UNANSWERED},
    {"retransmissions outstanding", CHECKED,
     .now = {.retransmits = 3, .unacked = 1, .total_retrans = 3},
     .state = KA_OPEN, .reason = KA_WHY_UNANSWERED},
    {"stray data is no verdict", CHECKED,
     .now = {.poll = POLLIN, .unread = 24}, .state = KA_OPEN,
     .reason = KA_WHY_QUIET},
    {"an error in the queue of a standing connection", CHECKED,
     .now = {.poll = POLLERR}, .state = KA_OPEN, .reason = KA_WHY_QUIET},
    {"we closed, no ACK yet", CHECKED,
     .now = {.state = KA_TCP_FIN_WAIT1, .unacked = 1}, .state = KA_OPEN,
     .reason = KA_WHY_QUIET},
    {"we closed, peer has not", CHECKED, .now = {.state = KA_TCP_FIN_WAIT2},
     .state = KA_OPEN, .reason = KA_WHY_QUIET},
    {"SYN sent", CHECKED,
     .now = {.state = KA_TCP_SYN_SENT, .heard = NONE, .unacked = 1},
     .state = KA_OPEN, .reason = KA_WHY_CONNECTING},
    {"SYN received", CHECKED, .now = {.state = KA_TCP_SYN_RECV, .heard = NONE},
     .state = KA_OPEN, .reason = KA_WHY_CONNECTING},
    {"FIN", CHECKED, .now = {.state = KA_TCP_CLOSE_WAIT, .poll = POLLIN},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"FIN behind unread data", CHECKED,
     .now =
         {.state = KA_TCP_CLOSE_WAIT, .poll = POLLIN, .unread = 3, .heard = 5},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"FIN, then ours", CHECKED, .now = {.state = KA_TCP_LAST_ACK},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"both FINs crossed", CHECKED, .now = {.state = KA_TCP_CLOSING},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"time wait", CHECKED, .now = {.state = KA_TCP_TIME_WAIT},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"listener", CHECKED, .now = {.state = KA_TCP_LISTEN}, .rc = -EOPNOTSUPP},
    {"never connected", CHECKED,
     .now = {.state = KA_TCP_CLOSE,
             .poll = POLLHUP,
             .segs_in = NONE,
             .segs_out = NONE},
     .rc = -ENOTCONN},
    {"ended, no error left", CHECKED, .now = {ENDED}, .state = KA_PEER_CLOSED,
     .reason = KA_WHY_CLOSED},
    {"reset", CHECKED, .now = {BROKEN}, .state = KA_RESET,
     .reason = KA_WHY_RST, .err = ECONNRESET},
    {"reset behind unread data", CHECKED, .now = {BROKEN, .unread = 3},
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},
    {"reset a moment ago is not life", CHECKED, .now = {BROKEN, .heard = 1},
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},
    {"reset before the probes ran out", CHECKED,
     .now = {BROKEN, .probes = 8, .count = 9}, .state = KA_RESET,
     .reason = KA_WHY_RST, .err = ECONNRESET},
    {"probes ran out, or a reset then", CHECKED,
     .now = {BROKEN, .probes = 9, .count = 9}, .state = KA_DEAD,
     .reason = KA_WHY_RST_OR_TIMEOUT},
    {"reset before the user timeout", CHECKED,
     .now = {BROKEN, .probes = 1, .user_timeout = 5000, .heard = 4999},
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},
    {"user timeout, or a reset then", CHECKED,
     .now = {BROKEN, .probes = 1, .user_timeout = 5000, .heard = 5000},
     .state = KA_DEAD, .reason = KA_WHY_RST_OR_TIMEOUT},
    {"user timeout needs an unanswered probe", CHECKED,
     .now = {BROKEN, .user_timeout = 5000, .heard = 9000}, .state = KA_RESET,
     .reason = KA_WHY_RST, .err = ECONNRESET},
    {"user timeout overrules the count", CHECKED,
     .now = {BROKEN, .probes = 9, .count = 3, .user_timeout = 8000},
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},
    {"retransmissions, or a reset then", CHECKED,
     .now = {BROKEN, .retransmits = 1}, .state = KA_DEAD,
     .reason = KA_WHY_RST_OR_TIMEOUT},
    {"probes of a socket that tells no count", CHECKED,
     .now = {BROKEN, .probes = 1, .no_count = 1}, .state = KA_DEAD,
     .reason = KA_WHY_RST_OR_TIMEOUT},

    {"own shutdown(SHUT_RD) is no FIN", CHECKED,
     .now = {.poll = POLLIN | POLLRDHUP}, .state = KA_OPEN,
     .reason = KA_WHY_QUIET},
    {"MPTCP: FIN", CHECKED,
     .now = {.poll = POLLIN | POLLRDHUP, .protocol = MPTCP},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"MPTCP: FIN, its subflow closed before", CHECKED,
     .now = {.state = KA_TCP_CLOSE,
             .poll = POLLIN | POLLRDHUP,
             .protocol = MPTCP},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"MPTCP: first subflow gone", CHECKED,
     .now = {.state = KA_TCP_CLOSE, .protocol = MPTCP}, .state = KA_OPEN,
     .reason = KA_WHY_QUIET},
    {"MPTCP: reset", CHECKED, .now = {BROKEN, .protocol = MPTCP},
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},

    /* ---- a witness begins ------------------------------------------- */
    {"begun: just heard", BEGUN, .now = {.heard = 300}, .state = KA_ALIVE,
     .reason = KA_WHY_HEARD},
    {"begun: idle", BEGUN, .state = KA_ASKING, .reason = KA_WHY_MUST_ASK},
    {"begun: data in flight", BEGUN, .now = {.unacked = 1}, .state = KA_ASKING,
     .reason = KA_WHY_KERNEL_ASKS},
    {"begun: shut window", BEGUN, .now = {.notsent = 4096}, .state = KA_ASKING,
     .reason = KA_WHY_KERNEL_ASKS},
    {"begun: connecting", BEGUN, .now = {.state = KA_TCP_SYN_SENT},
     .state = KA_ASKING, .reason = KA_WHY_KERNEL_ASKS},
    {"begun: accepted half-way", BEGUN, .now = {.state = KA_TCP_SYN_RECV},
     .state = KA_ASKING, .reason = KA_WHY_KERNEL_ASKS},
    {"begun: our FIN in flight", BEGUN, .now = {.state = KA_TCP_FIN_WAIT1},
     .state = KA_ASKING, .reason = KA_WHY_KERNEL_ASKS},
    {"begun: half closed by us", BEGUN, .now = {.state = KA_TCP_FIN_WAIT2},
     .state = KA_ASKING, .reason = KA_WHY_MUST_ASK},
    {"begun: FIN", BEGUN, .now = {.state = KA_TCP_CLOSE_WAIT},
     .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"begun: reset", BEGUN, .now = {BROKEN}, .state = KA_RESET,
     .reason = KA_WHY_RST, .err = ECONNRESET},
    {"begun: never connected", BEGUN,
     .now = {.state = KA_TCP_CLOSE, .segs_in = NONE, .segs_out = NONE},
     .rc = -ENOTCONN},
    {"begun: listener", BEGUN, .now = {.state = KA_TCP_LISTEN},
     .rc = -EOPNOTSUPP},

    /* ---- a witness looks -------------------------------------------- */
    {"answered", LOOKED, .now = {.segs_in = 11, .heard = 3}, .waited_ms = 40,
     .asked = 1, .state = KA_ALIVE, .reason = KA_WHY_ANSWERED,
     .want_asked = 1},
    {"the peer's own probe counts", LOOKED, .now = {.segs_in = 11},
     .waited_ms = 40, .state = KA_ALIVE, .reason = KA_WHY_ANSWERED},
    {"counter went round", LOOKED, .first = {.segs_in = 12},
     .now = {.segs_in = 2}, .waited_ms = 40, .state = KA_ALIVE,
     .reason = KA_WHY_ANSWERED},
    {"no counter, heard since", LOOKED, .first = {.size = 104},
     .now = {.size = 104, .heard = 1500}, .waited_ms = 1501, .state = KA_ALIVE,
     .reason = KA_WHY_ANSWERED},
    {"no counter, heard before", LOOKED, .first = {.size = 104},
     .now = {.size = 104, .heard = 1500}, .waited_ms = 1500,
     .state = KA_ASKING, .reason = KA_WHY_MUST_ASK},
    {"no answer yet", LOOKED, .waited_ms = 40, .asked = 1, .state = KA_ASKING,
     .reason = KA_WHY_MUST_ASK, .want_asked = 1},
    {"no answer yet, data in flight", LOOKED, .now = {.unacked = 2},
     .waited_ms = 40, .state = KA_ASKING, .reason = KA_WHY_KERNEL_ASKS},
    {"FIN meanwhile", LOOKED,
     .now = {.state = KA_TCP_CLOSE_WAIT, .segs_in = 11, .heard = 2},
     .waited_ms = 40, .state = KA_PEER_CLOSED, .reason = KA_WHY_FIN},
    {"RST meanwhile is not life", LOOKED, .now = {BROKEN, .segs_in = 11},
     .waited_ms = 40, .asked = 1, .state = KA_RESET, .reason = KA_WHY_RST,
     .err = ECONNRESET, .want_asked = 1},
    {"RST to retransmitted data, nothing heard before", LOOKED,
     .now = {BROKEN, .segs_in = 11, .retransmits = 3, .heard = 9000,
             .user_timeout = 2000},
     .waited_ms = 4000, .state = KA_RESET, .reason = KA_WHY_RST,
     .err = ECONNRESET},
    {"RST meanwhile, heard just before", LOOKED,
     .now = {BROKEN, .segs_in = 12, .heard = 1}, .waited_ms = 40,
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNRESET},
    {"timed out meanwhile", LOOKED,
     .now = {BROKEN, .probes = 9, .count = 9, .heard = 60000}, .waited_ms = 40,
     .state = KA_DEAD, .reason = KA_WHY_TIMED_OUT, .err = ETIMEDOUT,
     .want_asked = 9},
    {"ended meanwhile, no counter", LOOKED, .first = {.size = 104},
     .now = {BROKEN, .size = 104, .segs_in = NONE, .segs_out = NONE,
             .retransmits = 5},
     .waited_ms = 40, .state = KA_DEAD, .reason = KA_WHY_RST_OR_TIMEOUT},
    {"ended before the witness began", LOOKED, .first = {BROKEN},
     .now = {BROKEN}, .waited_ms = 40, .state = KA_RESET, .reason = KA_WHY_RST,
     .err = ECONNRESET},
    {"timed out meanwhile, and the owner has read it", LOOKED,
     .now = {ENDED, .retransmits = 4, .total_retrans = 4}, .waited_ms = 40,
     .state = KA_DEAD, .reason = KA_WHY_TIMED_OUT, .err = ETIMEDOUT,
     .want_asked = 4},
    {"asked so often that no more is asked", GIVEN_UP,
     .first = {.probes = 120}, .now = {.probes = 120}, .waited_ms = 3000,
     .state = KA_SILENT, .reason = KA_WHY_NO_ANSWER},
    {"closed by the owner meanwhile", LOOKED, .now = {ENDED}, .waited_ms = 40,
     .state = KA_PEER_CLOSED, .reason = KA_WHY_CLOSED},
    {"still connecting", LOOKED, .first = {.state = KA_TCP_SYN_SENT},
     .now = {.state = KA_TCP_SYN_SENT}, .waited_ms = 40, .state = KA_ASKING,
     .reason = KA_WHY_KERNEL_ASKS},
    {"an ACK, then a timeout or a reset", LOOKED,
     .now = {BROKEN, .segs_in = 11, .retransmits = 4, .total_retrans = 4,
             .user_timeout = 2000, .heard = 2500},
     .waited_ms = 4000, .state = KA_DEAD, .reason = KA_WHY_RST_OR_TIMEOUT,
     .want_asked = 4},
    {"refused", LOOKED, .first = {.state = KA_TCP_SYN_SENT, .segs_in = NONE},
     .now = {BROKEN, .segs_in = 1, .segs_out = 1}, .waited_ms = 40,
     .state = KA_RESET, .reason = KA_WHY_RST, .err = ECONNREFUSED},
    {"reset after a FIN", LOOKED, .first = {.state = KA_TCP_CLOSE_WAIT},
     .now = {BROKEN, .segs_in = 11}, .waited_ms = 40, .state = KA_RESET,
     .reason = KA_WHY_RST, .err = EPIPE},

    /* ---- a witness gives up ----------------------------------------- */
    {"silent", GIVEN_UP, .waited_ms = 3000, .asked = 4, .state = KA_SILENT,
     .reason = KA_WHY_NO_ANSWER, .want_asked = 4},
    {"probes that we asked are not counted twice", GIVEN_UP,
     .now = {.probes = 4}, .waited_ms = 3000, .asked = 4, .state = KA_SILENT,
     .reason = KA_WHY_NO_ANSWER, .want_asked = 4},
    {"retransmissions are questions", GIVEN_UP,
     .first = {.unacked = 1, .total_retrans = 3},
     .now = {.unacked = 1, .retransmits = 2, .total_retrans = 5},
     .waited_ms = 3000, .state = KA_SILENT, .reason = KA_WHY_NO_ANSWER,
     .want_asked = 2},
    {"window probes are questions", GIVEN_UP, .first = {.notsent = 9},
     .now = {.notsent = 9, .probes = 2}, .waited_ms = 3000, .state = KA_SILENT,
     .reason = KA_WHY_NO_ANSWER, .want_asked = 2},
    {"both kinds add up", GIVEN_UP, .now = {.probes = 1, .total_retrans = 2},
     .waited_ms = 3000, .state = KA_SILENT, .reason = KA_WHY_NO_ANSWER,
     .want_asked = 3},
    {"ours and retransmissions add up", GIVEN_UP,
     .now = {.unacked = 1, .total_retrans = 2}, .waited_ms = 3000, .asked = 1,
     .state = KA_SILENT, .reason = KA_WHY_NO_ANSWER, .want_asked = 3},
    {"no question left", GIVEN_UP, .first = {.unacked = 1},
     .now = {.unacked = 1}, .waited_ms = 3000, .state = KA_OPEN,
     .reason = KA_WHY_NO_QUESTION},
    {"earlier questions are not this witness's", GIVEN_UP,
     .first = {.unacked = 1, .probes = 3, .total_retrans = 3},
     .now = {.unacked = 1, .probes = 3, .total_retrans = 3}, .waited_ms = 3000,
     .state = KA_OPEN, .reason = KA_WHY_NO_QUESTION},
    {"SYN unanswered", GIVEN_UP, .first = {.state = KA_TCP_SYN_SENT},
     .now = {.state = KA_TCP_SYN_SENT, .total_retrans = 1}, .waited_ms = 3000,
     .state = KA_SILENT, .reason = KA_WHY_NO_ANSWER, .want_asked = 1},
    {"answered at the last moment", GIVEN_UP, .now = {.segs_in = 11},
     .waited_ms = 3000, .asked = 4, .state = KA_ALIVE,
     .reason = KA_WHY_ANSWERED, .want_asked = 4},
    {"reset at the last moment", GIVEN_UP, .now = {BROKEN, .segs_in = 11},
     .waited_ms = 3000, .asked = 4, .state = KA_RESET, .reason = KA_WHY_RST,
     .err = ECONNRESET, .want_asked = 4},
};
#define ROWS ((int)(sizeof rows / sizeof rows[0]))

#endif

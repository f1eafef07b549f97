/* test_sample_numbers.c - a kernel that tells sequence numbers and nothing
 * else, as the BSDs do: idleness is never told early, nor later than by the
 * pace, and nothing else is told. SEED=n repeats the random lives from there,
 * RUNS=n makes them longer. */
#include "chance.h"
#include "sample.h"
#include "test.h"

#define NOW 1000000
#define MSS 1400

/* ---- a connection on a BSD --------------------------------------------- */

enum keeping { BOTH, NO_MAX, NO_NXT }; /* FreeBSD 13; a stack of its own */

static struct wire {
    int64_t now, rtt;
    enum keeping keeping;
    uint32_t snd_una, snd_nxt, snd_max, rcv_nxt, old_nxt;
    int64_t queued; /* from snd_una on */
    int64_t window, acked_at, rto_at;
    int cut, closed;
    int64_t word;  /* when payload moved, or was written */
    int64_t still; /* since when no number has moved, and nothing is queued */
} wire;

static void moved(void) {
    wire.still = wire.now;
}

/* Near the end of the 32 bits, as a rule, and sometimes at 0. */
static uint32_t somewhere(void) {
    return chance(4) ? (uint32_t)-between(1, 3000) : (uint32_t)chance(2);
}

static void connect_anew(void) {
    uint32_t before = wire.rcv_nxt;

    wire.snd_una = wire.snd_nxt = wire.snd_max = somewhere();
    do
        wire.rcv_nxt = somewhere();
    while (wire.rcv_nxt == before); /* once in 2^64 else */
    wire.old_nxt = wire.snd_nxt;
    wire.queued = wire.cut = wire.closed = 0;
    wire.window = 65535;
    wire.acked_at = wire.rto_at = 0;
    wire.word = wire.now;
    moved();
}

static void open_wire(void) {
    memset(&wire, 0, sizeof wire);
    wire.now = NOW + chance(1000);
    wire.rtt = between(1, chance(2) ? 5 : 200);
    wire.keeping = (enum keeping)chance(3);
    connect_anew();
}

static int64_t in_flight(void) {
    return (int32_t)(wire.snd_max - wire.snd_una);
}

/* What the window leaves room for, from snd_nxt on. */
static void output(void) {
    int64_t sent = (int32_t)(wire.snd_nxt - wire.snd_una);
    int64_t most = wire.queued < wire.window ? wire.queued : wire.window;

    if (most <= sent)
        return;
    wire.snd_nxt = wire.snd_una + (uint32_t)most;
    if ((int32_t)(wire.snd_nxt - wire.snd_max) > 0) {
        wire.snd_max = wire.snd_nxt;
        wire.word = wire.now;
    }
    moved();
    if (wire.acked_at == 0 && !wire.cut)
        wire.acked_at = wire.now + wire.rtt;
    if (wire.rto_at == 0)
        wire.rto_at = wire.now + 300;
}

static void owner_writes(int64_t bytes) {
    if (wire.closed)
        return;
    wire.queued += bytes;
    wire.word = wire.now;
    output();
}

static void peer_speaks(int64_t bytes) {
    if (wire.cut)
        return;
    wire.rcv_nxt += (uint32_t)bytes;
    wire.word = wire.now;
    moved();
}

static void step(void) {
    wire.now++;
    if (wire.acked_at > 0 && wire.now >= wire.acked_at) {
        wire.acked_at = 0;
        if (!wire.cut) {
            wire.queued -= in_flight();
            wire.snd_una = wire.snd_nxt = wire.snd_max;
            wire.rto_at = 0;
            output();
        }
    }
    if (wire.rto_at > 0 && wire.now >= wire.rto_at) {
        wire.rto_at = wire.now + 600;
        wire.snd_nxt = wire.snd_una; /* forward again a while later */
        moved();
    } else if (wire.rto_at > 0 && in_flight() > 0 && chance(20) == 0) {
        output();
    }
    if (wire.queued > 0)
        moved();
}

/* ---- who looks at it ---------------------------------------------------- */

static struct {
    struct ka_limits limits;
    struct ka_past past;
    struct ka_sample sample;
    struct ka_judgement got;
    int64_t due, first, pace;
} life;

static struct ka_info numbers(void) {
    struct ka_info info;

    memset(&info, -1, sizeof info);
    info.state = wire.closed ? KA_TCP_CLOSE_WAIT : KA_TCP_ESTABLISHED;
    info.snd_nxt = wire.keeping == NO_NXT ? wire.old_nxt : wire.snd_nxt;
    info.snd_max = wire.keeping == NO_MAX ? 0 : wire.snd_max;
    info.rcv_nxt = wire.rcv_nxt;
    info.queued_bytes = wire.queued;
    return info;
}

static void look(void) {
    struct ka_info info = numbers();
    int64_t step_ms = wire.now - chance(30); /* may have begun before */

    CHECK_EQ(ka_sample_look(&life.sample, &info, wire.now, step_ms), 1);
    ka_judge(&life.limits, &life.past, &info, step_ms, &life.got);
    life.due = life.got.again_ms < 0 || life.got.again_ms > life.pace
                   ? life.pace
                   : life.got.again_ms;
    life.due += wire.now;
}

static void begin(int64_t idle_ms) {
    struct ka_info info;

    open_wire();
    memset(&life, 0, sizeof life);
    life.limits.never_spoke_ms = life.limits.unanswered_ms = 100;
    life.limits.answered_ms = life.limits.stalled_ms = 100;
    life.limits.min_rate = INT32_MAX;
    life.limits.detect_ms = KA_NO_TIME;
    life.limits.idle_ms = idle_ms;
    life.pace = ka_sample_pace(&life.limits, 1);
    life.due = life.first = wire.now + chance(500);
    info = numbers();
    ka_past_begin(&life.past, &info, 0, wire.now);
}

/* 1 when it is told as idle. Nothing else can be. */
static int live(int64_t ms) {
    while (ms-- > 0) {
        step();
        if (wire.now < life.due)
            continue;
        look();
        CHECK(life.got.cause == KA_NO_CAUSE || life.got.cause == KA_FOR_IDLE);
        CHECK(life.got.klass == KA_NO_CLASS || life.got.klass == KA_SENDING);
        if (life.got.cause != KA_NO_CAUSE)
            return 1;
    }
    return 0;
}

/* ---- lives that mean something ------------------------------------------ */

static void a_trickle_is_never_idle(void) {
    int i;

    begin(2000);
    for (i = 0; i < 200; i++) {
        CHECK(!live(between(1, 1990)));
        if (chance(2))
            peer_speaks(1);
        else
            owner_writes(1);
    }
}

static void a_shut_window_is_not_idle(void) {
    int i;

    begin(1000);
    wire.window = 0;
    owner_writes(50000);
    for (i = 0; i < 30; i++)
        CHECK(!live(1000));
    wire.window = 65535;
    output();
    CHECK(!live(999));
    CHECK(live(2000));
}

static void who_retransmits_is_not_idle(void) {
    begin(700);
    wire.cut = 1;
    owner_writes(3 * MSS);
    CHECK(!live(20000));
}

static void the_next_of_the_same_ends_begins_anew(void) {
    int i;

    begin(2000);
    for (i = 0; i < 50; i++) {
        CHECK(!live(between(1, 1990)));
        connect_anew();
    }
    CHECK(!live(1999));
    CHECK(live(1100));
}

static void an_end_moves_too(void) {
    begin(2000);
    CHECK(!live(1500));
    wire.closed = 1;
    peer_speaks(1); /* its number in the sequence */
    CHECK(!live(1999));
    CHECK(live(1100));
}

/* ---- random ones -------------------------------------------------------- */

static void something_happens(void) {
    switch (chance(9)) {
        case 0:
        case 1:
            peer_speaks(between(1, chance(2) ? 10 : 5000));
            break;
        case 2:
        case 3:
            owner_writes(between(1, chance(2) ? 100 : 100000));
            break;
        case 4:
            wire.window = wire.window ? 0 : between(1, 65535);
            output();
            break;
        case 5:
            wire.cut = !wire.cut && chance(2);
            break;
        case 6:
            if (chance(8) == 0)
                connect_anew();
            break;
        default: /* both kernels ask: no number moves */
            break;
    }
}

static void random_life(void) {
    int64_t next = 0, late, slack;

    begin(between(300, 6000));
    slack = life.pace + 100 + 40; /* what was sending is looked at again */
    for (; wire.now < NOW + 60000 && !life.got.cause;) {
        if (wire.now >= next) {
            something_happens();
            next = wire.now + between(1, chance(4) ? 800 : 8000);
        }
        (void)live(1);
        late = wire.now - (wire.still > life.first ? wire.still : life.first) -
               life.limits.idle_ms;
        CHECK(late <= slack);
    }
    if (life.got.cause == KA_NO_CAUSE)
        return;
    CHECK_EQ(wire.queued, 0);
    CHECK(wire.now - wire.word >= life.limits.idle_ms);
    CHECK(life.got.clock_ms >= life.limits.idle_ms);
}

static void random_lives(void) {
    const char *seed = getenv("SEED"), *runs = getenv("RUNS");
    uint64_t from = seed ? strtoull(seed, NULL, 10) : 1, i;
    uint64_t most = runs ? strtoull(runs, NULL, 10) : 2000;

    for (i = from; i < from + most && test.failures == 0; i++) {
        state = i * UINT64_C(0x9E3779B97F4A7C15);
        random_life();
        if (test.failures)
            printf("SEED=%llu\n", (unsigned long long)i);
    }
}

int main(void) {
    int i;

    for (i = 1; i <= 30; i++) {
        state = (uint64_t)i * UINT64_C(0x9E3779B97F4A7C15);
        RUN(a_trickle_is_never_idle);
        RUN(a_shut_window_is_not_idle);
        RUN(who_retransmits_is_not_idle);
        RUN(the_next_of_the_same_ends_begins_anew);
        RUN(an_end_moves_too);
    }
    RUN(random_lives);
    return test_report("sample_numbers");
}

/* Any TCP_INFO, poll() result, options, failures and times, under any order
 * of calls: verdicts stay within their bounds, a question cannot kill, and
 * the owner's options come back. */
#include "fuzz.h"

#include <poll.h>

#include "info_oracle.h"

#define POLL_BITS (POLLIN | POLLERR | POLLHUP | POLLRDHUP)

static struct {
    struct ka_question question;
    struct ka_witness witness;
    int begun;           /* the witness */
    int asking;          /* a question is setting options now */
    unsigned unreturned; /* giving this option back was made to fail */
    int32_t owner[KA_OPTIONS];
} run;

static struct fake_socket *sock(void) {
    return &fake.socket[0];
}

/* A bit for each option that could not be set in this operation. */
static unsigned failed_sets(void) {
    unsigned bits = 0;
    int i;

    for (i = 0; i < fake.calls; i++)
        if (fake.call[i].op == FAKE_SET && fake.call[i].err)
            bits |=
                1u << fake_option_of(fake.call[i].level, fake.call[i].number);
    return bits;
}

/* The promise that no probe of ours kills: KEEPIDLE sends it. */
static void before_set(struct fake_socket *socket, int option, int32_t value) {
    struct fake_option *held = socket->option;

    if (!run.asking || option != KA_IDLE || value != 1)
        return;
    /* Given back, not asked: the owner's own value. */
    if (failed_sets() != 0 || held[KA_ENABLED].value == 0)
        return;
    if (held[KA_USER_TIMEOUT].value == INT32_MAX) /* overrules the count */
        return;
    PROMISE(held[KA_COUNT].value == 127);
    PROMISE(sock()->info.field.tcpi_probes < KA_UNANSWERED_MAX);
    PROMISE(held[KA_USER_TIMEOUT].absent || held[KA_USER_TIMEOUT].value == 0);
}

static void remember_owner(void) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        run.owner[option] = sock()->option[option].value;
    run.unreturned = 0;
}

static void check_owner(void) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        PROMISE(sock()->option[option].value == run.owner[option] ||
                (run.unreturned >> option & 1));
}

static void check_info(void) {
    struct ka_info info;
    int rc = ka_info(FAKE_FD, &info), i;

    PROMISE((rc == 0) == (sock()->info_size >= 104));
    for (i = 0; rc == 0 && i < ORACLE_FIELDS; i++)
        PROMISE(oracle_got(&info, i) == oracle_want(sock(), i));
}

static void check_verdict(int rc, const struct ka_verdict *verdict) {
    if (rc < 0)
        return;
    PROMISE(rc == 0);
    PROMISE(verdict->state >= KA_ALIVE && verdict->state <= KA_ASKING);
    PROMISE(verdict->state != KA_UNKNOWN);
    PROMISE(verdict->reason >= 0 && verdict->reason <= KA_WHY_KERNEL_ASKS);
    PROMISE(verdict->asked >= 0 && verdict->unanswered >= 0);
    PROMISE(verdict->heard_ms >= -1 && verdict->unread >= 0);
    PROMISE(verdict->err == 0 || verdict->state == KA_RESET ||
            verdict->state == KA_DEAD);
    PROMISE((verdict->state == KA_ASKING) ==
            (verdict->reason >= KA_WHY_MUST_ASK));
    if (sock()->info.field.tcpi_state != KA_TCP_CLOSE)
        return;
    PROMISE(verdict->state != KA_ALIVE);
    if (sock()->revents & (POLLERR | POLLHUP)) /* else MPTCP, one path lost */
        PROMISE(verdict->state == KA_PEER_CLOSED ||
                verdict->state == KA_RESET || verdict->state == KA_DEAD);
}

static void new_info(struct feed *feed) {
    size_t i;

    sock()->info_size = (uint32_t)feed_range(feed, 0, 300);
    if (sock()->info_size < 104 && feed->left % 8)
        sock()->info_size += 104;
    for (i = 0; i < 232; i++)
        sock()->info.raw[i] = (uint8_t)feed_bytes(feed, 1);
    sock()->info.field.tcpi_state %= 14;
    sock()->revents = (short)(feed_bytes(feed, 2) & POLL_BITS);
    sock()->protocol = feed_bytes(feed, 1) > 0xe0 ? 262 : 6;
    sock()->unread = (int)feed_range(feed, 0, INT32_MAX);
    sock()->unread_err = feed_bytes(feed, 1) > 250 ? EINVAL : 0;
}

/* Some fields move, as they do between two looks. */
static void move_info(struct feed *feed) {
    struct tcp_info *info = &sock()->info.field;
    uint64_t bits = feed_bytes(feed, 2);

    info->tcpi_segs_in += bits & 1;
    info->tcpi_total_retrans += bits >> 1 & 3;
    info->tcpi_probes = (uint8_t)(bits >> 3 & 7);
    info->tcpi_retransmits = (uint8_t)(bits >> 6 & 1);
    info->tcpi_last_ack_recv = (uint32_t)(bits >> 4);
    if (bits & 0x8000)
        info->tcpi_state = (uint8_t)(bits >> 8 & 15);
    sock()->revents = (short)((bits >> 4 | bits << 8) & POLL_BITS);
}

/* Apart by anything that a difference of two can still hold. */
static int64_t any_time(struct feed *feed) {
    int64_t time = (int64_t)feed_bytes(feed, 8);

    return (feed->left & 1) ? time / 4 : time % 4000;
}

static void ask(struct feed *feed) {
    struct ka_fault fault = {-1, -1};
    int asked = run.question.asked;
    int64_t now = any_time(feed);
    int rc;

    run.asking = 1;
    rc = ka_question_ask(&run.question, now, &fault);
    run.asking = 0;
    PROMISE(rc <= 1);
    PROMISE(run.question.asked == asked + (rc == 1));
    if (rc == 0 && sock()->info.field.tcpi_probes < KA_UNANSWERED_MAX)
        PROMISE(fake.calls == 0 && now - run.question.asked_ms < 750);
    if (rc < 0 && fake.sets > 0)
        PROMISE(fault.setting == 1 && fault.option >= 0);
    if (rc < 0 && !run.question.borrowed) { /* given back at once, or not */
        run.unreturned |= failed_sets();
        if (fake.sets > 0 && fake.fail_get)
            run.unreturned = (1u << KA_OPTIONS) - 1;
    }
}

static void end(void) {
    struct ka_fault fault = {-1, -1};
    int same = sock()->open && sock()->cookie == run.question.identity;
    int borrowed = run.question.borrowed;
    uint64_t fails = fake.fail_get;
    int rc = ka_question_end(&run.question, &fault);

    PROMISE(rc <= 0);
    if (rc < 0 && fault.option == -1) {
        /* Whose socket it is could not be told: to be tried again. */
        PROMISE(borrowed && run.question.borrowed && (fails & 1));
        PROMISE(fake.sets == 0);
        return;
    }
    PROMISE(!run.question.borrowed);
    if (!borrowed || !same)
        PROMISE(fake.sets == 0 && rc == 0);
    run.unreturned |= failed_sets();
    PROMISE(rc == 0 || fault.option >= 0);
}

static void look(struct feed *feed, int give_up) {
    struct ka_verdict verdict;
    int32_t asked = (int32_t)feed_range(feed, 0, 1000);
    int same = sock()->open && sock()->cookie == run.witness.identity;
    int64_t now = any_time(feed);
    int rc;

    if (!run.begun)
        return;
    rc = give_up ? ka_witness_give_up(&run.witness, asked, now, &verdict)
                 : ka_witness_look(&run.witness, asked, now, &verdict);
    check_verdict(rc, &verdict);
    PROMISE(same || rc < 0);
    PROMISE(fake.sets == 0);
    if (rc < 0)
        return;
    PROMISE(verdict.asked >= asked);
    PROMISE(give_up ? verdict.state != KA_ASKING : verdict.state != KA_SILENT);
    PROMISE(verdict.state != KA_SILENT || verdict.asked > 0 ||
            verdict.unanswered >= KA_UNANSWERED_MAX);
}

static void begin(struct feed *feed) {
    struct ka_verdict verdict;
    int rc = ka_witness_begin(&run.witness, FAKE_FD, any_time(feed), &verdict);

    run.begun = rc == 0;
    check_verdict(rc, &verdict);
    PROMISE(fake.sets == 0);
    if (rc == 0)
        PROMISE(verdict.state != KA_SILENT && verdict.asked == 0);
}

static void check(void) {
    struct ka_verdict verdict;
    int rc = ka_check(FAKE_FD, &verdict);

    check_verdict(rc, &verdict);
    PROMISE(fake.sets == 0);
    if (rc == 0)
        PROMISE(verdict.state != KA_ASKING && verdict.state != KA_SILENT);
}

/* The owner closes; now and then the number names another socket at once. */
static void replace(struct feed *feed) {
    int closed = feed_bytes(feed, 1) & 1;

    fake_replace(sock());
    sock()->open = !closed;
    remember_owner();
}

static void one_op(struct feed *feed) {
    uint64_t op = feed_bytes(feed, 1);

    fake_forget();
    if (op & 0x80) {
        fake.fail_set = feed_bytes(feed, 1);
        fake.fail_get = feed_bytes(feed, 1) << (op >> 4 & 7);
        fake.fail_err = op & 0x40 ? ENOMEM : EPERM;
    }
    switch (op & 15) {
        case 0:
        case 1:
            move_info(feed);
            break;
        case 2:
            new_info(feed);
            break;
        case 3:
            replace(feed);
            break;
        case 4:
        case 5:
            begin(feed);
            break;
        case 6:
        case 7:
        case 8:
            look(feed, op & 1);
            break;
        case 9:
            check();
            break;
        case 10:
        case 11:
            end();
            break;
        default:
            ask(feed);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct feed feed = {data, size};

    fake_reset();
    memset(&run, 0, sizeof run);
    fake.on_set = before_set;
    feed_options(&feed, sock());
    new_info(&feed);
    remember_owner();
    ka_question_begin(&run.question, FAKE_FD, sock()->cookie);
    while (feed.left > 0) {
        one_op(&feed);
        PROMISE(fake.forbidden == NULL);
        if (!run.question.borrowed) {
            check_owner();
            remember_owner(); /* what was excused is the owner's from now on */
        }
        fake_forget();
        if (sock()->open)
            check_info();
    }
    fake_forget();
    end();
    check_owner();
    return 0;
}

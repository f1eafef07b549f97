/* What is said about real peers. */
#include "loop.h"
#include "test.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>

static struct ka_verdict verdict;
static struct ka_fault fault;

static int64_t now_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void info_of_a_live_connection(void) {
    struct pair pair = loop_pair();
    struct ka_info info;
    char text[100];

    CHECK_EQ(write(pair.near, "hello", 5), 5);
    CHECK_EQ(read(pair.far, text, sizeof text), 5);
    CHECK_EQ(write(pair.far, "good day", 8), 8);
    CHECK(loop_await(pair.near, POLLIN) & POLLIN);
    CHECK_EQ(ka_info(pair.near, &info), 0);
    CHECK_EQ(info.state, KA_TCP_ESTABLISHED);
    CHECK_EQ(info.bytes_received, 8);
    CHECK(info.bytes_sent == 5 || info.bytes_sent == -1);
    CHECK(info.segs_in >= 2 && info.segs_out >= 3);
    CHECK(info.data_segs_in == 1 && info.data_segs_out == 1);
    CHECK(info.rtt_us > 0 && info.rto_us > 0 && info.rto_us < 5000000);
    CHECK(info.last_ack_recv_ms < 2000 && info.notsent_bytes == 0);
    CHECK(info.probes == 0 && info.retransmits == 0);
    loop_close(&pair);
}

static void heard_a_moment_ago(void) {
    struct pair pair = loop_pair();

    CHECK_EQ(ka_check(pair.near, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    CHECK_EQ(verdict.reason, KA_WHY_HEARD);
    CHECK(verdict.heard_ms >= 0 && verdict.heard_ms <= 1000);
    loop_close(&pair);
}

/* The data must still be there after any number of looks. */
static void fin_behind_unread_data(void) {
    struct pair pair = loop_pair();
    char text[10];
    int i;

    CHECK_EQ(write(pair.far, "abc", 3), 3);
    close(pair.far);
    pair.far = -1;
    CHECK(loop_await(pair.near, POLLRDHUP) & POLLRDHUP);
    for (i = 0; i < 3; i++) {
        CHECK_EQ(ka_check(pair.near, &verdict), 0);
        CHECK_EQ(verdict.state, KA_PEER_CLOSED);
        CHECK_EQ(verdict.reason, KA_WHY_FIN);
        CHECK_EQ(verdict.unread, 3);
    }
    CHECK_EQ(read(pair.near, text, sizeof text), 3);
    CHECK_EQ(read(pair.near, text, sizeof text), 0);
    loop_close(&pair);
}

/* The owner still gets his error, after any number of looks. */
static void reset_and_the_error_stays(void) {
    struct pair pair = loop_pair();
    int i;

    loop_reset(&pair.far);
    CHECK(loop_await(pair.near, POLLIN) & POLLERR);
    for (i = 0; i < 3; i++) {
        CHECK_EQ(ka_check(pair.near, &verdict), 0);
        CHECK_EQ(verdict.state, KA_RESET);
        CHECK_EQ(verdict.reason, KA_WHY_RST);
        CHECK(verdict.err == ECONNRESET || verdict.err == 0);
    }
    CHECK_EQ(loop_error(pair.near), ECONNRESET);
    CHECK_EQ(ka_check(pair.near, &verdict), 0);
    CHECK_EQ(verdict.reason, KA_WHY_CLOSED);
    loop_close(&pair);
}

static void both_closed(void) {
    struct pair pair = loop_pair();

    shutdown(pair.near, SHUT_WR);
    CHECK(loop_await(pair.far, POLLRDHUP) & POLLRDHUP);
    CHECK_EQ(ka_check(pair.near, &verdict), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    close(pair.far);
    pair.far = -1;
    CHECK(loop_await(pair.near, POLLRDHUP) & POLLHUP);
    CHECK_EQ(ka_check(pair.near, &verdict), 0);
    CHECK_EQ(verdict.state, KA_PEER_CLOSED);
    CHECK_EQ(verdict.reason, KA_WHY_CLOSED);
    loop_close(&pair);
}

static void what_is_no_connection(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    struct ka_witness witness;

    CHECK_EQ(ka_check(fresh, &verdict), -ENOTCONN);
    CHECK_EQ(ka_witness_begin(&witness, fresh, 0, &verdict), -ENOTCONN);
    CHECK_EQ(ka_check(listener, &verdict), -EOPNOTSUPP);
    CHECK_EQ(ka_witness_begin(&witness, listener, 0, &verdict), -EOPNOTSUPP);
    close(fresh);
    close(listener);
    CHECK_EQ(ka_check(fresh, &verdict), -EBADF);
    CHECK_EQ(ka_check(-1, &verdict), -EBADF);
}

/* Connections that end by an RST which is not told as ECONNRESET. */
static struct pair reset_after_fin(struct ka_witness *witness) {
    struct pair pair = loop_pair();

    shutdown(pair.far, SHUT_WR);
    CHECK(loop_await(pair.near, POLLRDHUP) & POLLRDHUP);
    CHECK_EQ(ka_witness_begin(witness, pair.near, 0, &verdict), 0);
    loop_reset(&pair.far);
    CHECK(loop_await(pair.near, 0) & POLLERR);
    return pair;
}

static int refused(void) {
    struct sockaddr_in address;
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    close(loop_listen(&address)); /* a port where nobody listens */
    connect(sock, (struct sockaddr *)&address, sizeof address);
    CHECK(loop_await(sock, POLLOUT) & POLLERR);
    return sock;
}

static void a_witness_names_the_owners_error(void) {
    struct ka_witness witness;
    struct pair pair = reset_after_fin(&witness);

    CHECK_EQ(ka_witness_look(&witness, 0, 10, &verdict), 0);
    CHECK_EQ(verdict.state, KA_RESET);
    CHECK_EQ(verdict.err, loop_error(pair.near));
    loop_close(&pair);
}

/* One look cannot know whether a FIN or a SYN came before the reset. */
static void a_check_calls_every_reset_a_reset(void) {
    struct ka_witness witness;
    struct pair pair = reset_after_fin(&witness);
    int sock = refused();

    CHECK_EQ(ka_check(pair.near, &verdict), 0);
    CHECK_EQ(verdict.err, ECONNRESET);
    CHECK_EQ(loop_error(pair.near), EPIPE);
    CHECK_EQ(ka_check(sock, &verdict), 0);
    CHECK_EQ(verdict.err, ECONNRESET);
    CHECK_EQ(verdict.heard_ms, -1);
    CHECK_EQ(loop_error(sock), ECONNREFUSED);
    loop_close(&pair);
    close(sock);
}

static _Atomic int victim = -1;

static void *reset_victims(void *rounds) {
    int left = *(const int *)rounds, sock;
    volatile int pause;

    while (left > 0) {
        sock = atomic_exchange(&victim, -1);
        if (sock < 0)
            continue;
        for (pause = 0; pause < 3000; pause++) {
        }
        loop_reset(&sock);
        left--;
    }
    return NULL;
}

/* Looks while the RST arrives: it is a segment, but never an answer. */
static void rst_is_never_an_answer(void) {
    struct sockaddr_in address;
    int listener = loop_listen(&address);
    int rounds = 2000, i, tries, answers = 0;
    pthread_t peer;

    CHECK_EQ(pthread_create(&peer, NULL, reset_victims, &rounds), 0);
    for (i = 0; i < rounds; i++) {
        struct pair pair = loop_connect(listener, &address);
        struct ka_witness witness;

        CHECK_EQ(ka_witness_begin(&witness, pair.near, 0, &verdict), 0);
        atomic_store(&victim, pair.far);
        for (tries = 0; tries < 1000000; tries++) {
            if (ka_witness_look(&witness, 0, 0, &verdict) < 0 ||
                verdict.state == KA_RESET)
                break;
            answers += verdict.reason == KA_WHY_ANSWERED;
        }
        CHECK_EQ(verdict.state, KA_RESET);
        close(pair.near);
    }
    pthread_join(peer, NULL);
    close(listener);
    CHECK_EQ(answers, 0);
}

static void ignore(int number) {
    (void)number;
}

/* A profiler's or a timer's signals must not make a check fail. */
static void signals_do_not_disturb(void) {
    struct sigaction action = {.sa_handler = ignore, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
    struct pair pair = loop_pair();
    int i, failed = 0;

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (i = 0; i < 300000; i++)
        failed += ka_check(pair.near, &verdict) != 0;
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK_EQ(failed, 0);
    loop_close(&pair);
}

/* ---- connections that have been idle for more than a second ----------- */

static struct {
    struct pair asked, watched, timed, dying, stuffed;
} idle;

/* The one sleep of the suite: Linux asks nothing before a second of
 * silence. */
static void grow_idle(void) {
    static char block[65536];

    idle.asked = loop_pair();
    idle.watched = loop_pair();
    idle.timed = loop_pair();
    idle.dying = loop_pair();
    idle.stuffed = loop_pair();
    while (send(idle.stuffed.near, block, sizeof block, MSG_DONTWAIT) > 0) {
    }
    usleep(1150000);
}

static int look_until_decided(struct ka_witness *witness,
                              struct ka_question *question) {
    int64_t limit = now_ms() + 2000;
    int rc = 0;

    while (rc == 0 && verdict.state == KA_ASKING && now_ms() < limit) {
        if (verdict.reason == KA_WHY_MUST_ASK)
            CHECK(ka_question_ask(question, now_ms(), &fault) >= 0);
        usleep(2000);
        rc = ka_witness_look(witness, question->asked, now_ms(), &verdict);
    }
    return rc;
}

static void idle_is_open_not_alive(void) {
    CHECK_EQ(ka_check(idle.watched.near, &verdict), 0);
    CHECK_EQ(verdict.state, KA_OPEN);
    CHECK_EQ(verdict.reason, KA_WHY_QUIET);
    CHECK(verdict.heard_ms > 1000 && verdict.heard_ms < 60000);
}

static void ask(struct pair *pair, const struct ka_policy *owner) {
    struct ka_witness witness;
    struct ka_question question;
    struct ka_policy before, after;
    char byte;

    CHECK_EQ(ka_apply(pair->near, owner, &before, &fault), 0);
    CHECK_EQ(ka_witness_begin(&witness, pair->near, now_ms(), &verdict), 0);
    CHECK_EQ(verdict.state, KA_ASKING);
    CHECK_EQ(verdict.reason, KA_WHY_MUST_ASK);
    ka_question_begin(&question, pair->near, witness.identity);
    CHECK_EQ(look_until_decided(&witness, &question), 0);
    CHECK_EQ(verdict.state, KA_ALIVE);
    CHECK_EQ(verdict.reason, KA_WHY_ANSWERED);
    CHECK_EQ(verdict.asked, 1);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
    CHECK_EQ(ka_read(pair->near, &after, &fault), 0);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK_EQ(recv(pair->far, &byte, 1, MSG_DONTWAIT), -1); /* no byte sent */
}

static void an_idle_peer_answers(void) {
    const struct ka_policy none = {{-1, -1, -1, -1, -1, -1}};

    ask(&idle.asked, &none);
}

/* A user timeout long passed, and one probe allowed: it survives. */
static void asking_does_not_kill(void) {
    const struct ka_policy strict = {{-1, 600, 60, 1, 500, -1}};

    ask(&idle.timed, &strict);
    CHECK_EQ(write(idle.timed.near, "x", 1), 1);
    CHECK(loop_await(idle.timed.far, POLLIN) & POLLIN);
}

static void a_reset_while_asking(void) {
    struct ka_witness witness;
    struct ka_question question;

    CHECK_EQ(ka_witness_begin(&witness, idle.dying.near, now_ms(), &verdict),
             0);
    CHECK_EQ(verdict.reason, KA_WHY_MUST_ASK);
    ka_question_begin(&question, idle.dying.near, witness.identity);
    loop_reset(&idle.dying.far);
    CHECK(loop_await(idle.dying.near, POLLIN) & POLLERR);
    CHECK_EQ(look_until_decided(&witness, &question), 0);
    CHECK_EQ(verdict.state, KA_RESET);
    CHECK_EQ(verdict.reason, KA_WHY_RST);
    CHECK_EQ(ka_question_end(&question, &fault), 0);
}

/* A slow reader: window probes are the questions, nothing is borrowed. */
static void a_shut_window_is_the_kernels_to_ask(void) {
    struct ka_witness witness;

    CHECK_EQ(ka_witness_begin(&witness, idle.stuffed.near, now_ms(), &verdict),
             0);
    CHECK(verdict.state == KA_ALIVE || verdict.reason == KA_WHY_KERNEL_ASKS);
    CHECK(witness.first.notsent_bytes > 0);
    CHECK_EQ(ka_check(idle.stuffed.near, &verdict), 0);
    CHECK(verdict.state == KA_ALIVE || verdict.state == KA_OPEN);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    RUN(info_of_a_live_connection);
    RUN(heard_a_moment_ago);
    RUN(fin_behind_unread_data);
    RUN(reset_and_the_error_stays);
    RUN(both_closed);
    RUN(what_is_no_connection);
    RUN(a_witness_names_the_owners_error);
    RUN(a_check_calls_every_reset_a_reset);
    RUN(rst_is_never_an_answer);
    RUN(signals_do_not_disturb);
    grow_idle();
    RUN(idle_is_open_not_alive);
    RUN(an_idle_peer_answers);
    RUN(asking_does_not_kill);
    RUN(a_reset_while_asking);
    RUN(a_shut_window_is_the_kernels_to_ask);
    loop_close(&idle.asked);
    loop_close(&idle.watched);
    loop_close(&idle.timed);
    loop_close(&idle.dying);
    loop_close(&idle.stuffed);
    return test_report("peers");
}

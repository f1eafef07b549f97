/* test_watcher.c - what is found and judged, who is ended, who is not. */
#include "watcher_fixture.h"

/* ---- each class ends ---------------------------------------------------- */

static void never_spoke_ends(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = 150;
    open_watcher();
    pair = meet();
    if (told_of(pair.far, KA_FOR_NEVER_SPOKE)) {
        CHECK_EQ(event.token, 0);
        CHECK_EQ(event.klass, KA_NEVER_SPOKE);
        CHECK_EQ(event.deed, KA_DEED_SHUTDOWN);
        CHECK_EQ(event.dry_run, 0);
        CHECK_EQ(event.sock, pair.far);
        CHECK(event.clock_ms >= 150 && event.clock_ms < PATIENCE_MS);
        CHECK_EQ(event.bytes_in, 0);
        CHECK_EQ(event.bytes_out, 0);
        CHECK_EQ(event.data_in_ms, -1);
        CHECK_EQ(event.data_out_ms, -1);
        CHECK_EQ(event.unread, 0);
        CHECK_EQ(event.local.family, 4);
        CHECK_EQ(event.local.port, ntohs(place.sin_port));
        CHECK_EQ(event.peer.family, 4);
        CHECK(memcmp(event.peer.address, "\177\0\0\1", 4) == 0);
    }
    CHECK(at_end(pair.far));
    CHECK(at_end(pair.near));
    step_for(100);
    CHECK(!taken());
    CHECK_EQ(STAT(ended), 1);
    CHECK_EQ(STAT(by_cause[KA_FOR_NEVER_SPOKE]), 1);
    CHECK_EQ(STAT(tracked), 0);
    part(&pair);
}

static void unanswered_ends(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 150;
    open_watcher();
    pair = meet();
    say(pair.near, "GET / HT");
    hear(pair.far, "GET / HT");
    if (told_of(pair.far, KA_FOR_UNANSWERED)) {
        CHECK_EQ(event.bytes_in, 8);
        CHECK_EQ(event.bytes_out, 0);
        CHECK(event.data_in_ms >= 150);
        CHECK(event.heard_ms >= 0 && event.heard_ms <= event.data_in_ms);
    }
    CHECK(at_end(pair.near));
    part(&pair);
}

static void answered_ends(void) {
    struct pair pair;

    settings.limits.answered_ms = 150;
    open_watcher();
    pair = meet();
    exchange(&pair);
    if (told_of(pair.far, KA_FOR_ANSWERED)) {
        CHECK_EQ(event.bytes_in, 4);
        CHECK_EQ(event.bytes_out, 4);
        CHECK(event.data_out_ms >= 150);
    }
    CHECK(at_end(pair.near));
    part(&pair);
}

/* Fill both buffers, so that the rest stays unsent. */
static void stuff(int fd) {
    static char block[1 << 16];

    while (send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
}

static void stalled_ends(void) {
    struct pair pair;

    settings.limits.stalled_ms = 300;
    open_watcher();
    pair = meet();
    stuff(pair.far);
    if (told_of(pair.far, KA_FOR_STALLED)) {
        CHECK_EQ(event.klass, KA_SENDING);
        CHECK(event.unsent > 0);
        CHECK(event.clock_ms >= 300);
    }
    part(&pair);
}

static void a_slow_reader_is_not_stalled(void) {
    static char block[1 << 18];
    struct pair pair;
    int i;

    settings.limits.stalled_ms = 400;
    open_watcher();
    pair = meet();
    for (i = 0; i < 12; i++) {
        stuff(pair.far);
        step_for(70);
        CHECK(recv(pair.near, block, sizeof block, MSG_DONTWAIT) > 0);
    }
    CHECK(!taken());
    part(&pair);
}

/* Ten seconds of a trickle, by the watcher's clock. */
static void a_trickle_ends(void) {
    struct pair slow, fast;
    int64_t now;
    int i;

    settings.limits.min_rate = 100;
    open_watcher();
    slow = meet();
    fast = meet();
    now = ka_os_now_ms();
    for (i = 0; i < 60 && !taken(); i++, now += 200) {
        char text[100];

        say(slow.near, "x");
        hear(slow.far, "x");
        memset(text, 'x', sizeof text);
        CHECK_EQ(send(fast.near, text, 60, 0), 60);
        CHECK_EQ(recv(fast.far, text, 100, MSG_WAITALL * 0), 60);
        while (ka_watcher_step(watcher, now) == 0)
            continue;
    }
    CHECK_EQ(event.cause, KA_FOR_MIN_RATE);
    CHECK_EQ(event.identity, name_of(slow.far));
    CHECK(i >= 50);
    CHECK(at_end(slow.near));
    CHECK(is_well(fast.far));
    CHECK(is_well(fast.near));
    CHECK(!taken());
    part(&slow);
    part(&fast);
}

static void a_vanished_peer_gets_an_abort(void) {
    struct pair pair;
    char byte;

    settings.limits.detect_ms = 300;
    open_watcher();
    pair = meet();
    exchange(&pair);
    step_for(50);
    vanish(pair.near);
    say(pair.far, "more"); /* its retransmissions are the questions */
    if (told_of(pair.far, KA_FOR_SILENT)) {
        CHECK_EQ(event.deed, KA_DEED_ABORT);
        CHECK(event.heard_ms >= 300);
    }
    while (is_well(pair.far) && STAT(looks) < 100000)
        step_for(10);
    CHECK_EQ(recv(pair.far, &byte, 1, MSG_DONTWAIT), -1);
    CHECK(errno == ETIMEDOUT || errno == ECONNRESET);
    CHECK(!taken());
    CHECK_EQ(STAT(tracked), 0);
    part(&pair);
}

/* ---- and the healthy do not --------------------------------------------- */

static void a_slow_handler_is_waited_for(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = settings.limits.answered_ms = 100;
    settings.limits.unanswered_ms = 60000;
    open_watcher();
    pair = meet();
    say(pair.near, "GET /slow");
    hear(pair.far, "GET /slow");
    step_for(350);
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

static void a_server_that_speaks_first_has_spoken(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = settings.limits.unanswered_ms = 100;
    open_watcher();
    pair = meet();
    say(pair.far, "220 ready");
    hear(pair.near, "220 ready");
    step_for(300);
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

static void a_tie_is_answered(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 100;
    settings.limits.answered_ms = 60000;
    open_watcher();
    pair = meet();
    say(pair.near, "a");
    hear(pair.far, "a");
    say(pair.far, "b"); /* in the same tick, as a rule */
    hear(pair.near, "b");
    step_for(300);
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

static void who_keeps_talking_stays(void) {
    struct pair pair;
    int i;

    settings.limits.never_spoke_ms = settings.limits.unanswered_ms =
        settings.limits.answered_ms = 200;
    open_watcher();
    pair = meet();
    for (i = 0; i < 12; i++) {
        exchange(&pair);
        step_for(40);
    }
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

static void a_half_closed_upload_is_waited_for(void) {
    struct pair pair;

    settings.limits.answered_ms = settings.limits.never_spoke_ms = 100;
    settings.limits.unanswered_ms = 60000;
    open_watcher();
    pair = meet();
    say(pair.near, "all of it");
    CHECK_EQ(shutdown(pair.near, SHUT_WR), 0);
    hear(pair.far, "all of it");
    step_for(300);
    CHECK(!taken());
    say(pair.far, "thanks"); /* it can still be answered */
    hear(pair.near, "thanks");
    part(&pair);
}

static void others_sockets_are_left_alone(void) {
    struct sockaddr_in address;
    int other = loop_listen(&address);
    struct pair ours, foreign;
    struct pair quiet;

    settings.limits.never_spoke_ms = 100;
    settings.ports = 1;
    settings.port[0] = ntohs(place.sin_port);
    open_watcher();
    ours = meet();
    foreign = loop_connect(other, &address);
    quiet = loop_connect(other, &address);
    CHECK(told_of(ours.far, KA_FOR_NEVER_SPOKE));
    step_for(250);
    CHECK(!taken());
    CHECK(is_well(foreign.far) && is_well(foreign.near));
    CHECK(is_well(quiet.far) && is_well(quiet.near));
    part(&ours);
    part(&foreign);
    part(&quiet);
    close(other);
}

/* ---- time in which nobody looked ---------------------------------------- */

static void a_stall_spares_all(void) {
    struct pair pair[3];
    int64_t now;
    int i;

    settings.limits.never_spoke_ms = 400;
    open_watcher();
    for (i = 0; i < 3; i++)
        pair[i] = meet();
    step_for(50);
    nap(500); /* as if the process had been stopped, and the clock with it */
    now = ka_os_now_ms() + 5000;
    for (i = 0; i < 20; i++)
        (void)ka_watcher_step(watcher, now);
    CHECK(!taken());
    CHECK_EQ(STAT(stalls), 1);
    /* Its clock begins anew and ends. */
    for (i = 0; i < 399; i++)
        (void)ka_watcher_step(watcher, now + i);
    CHECK(!taken());
    for (; i < 600; i++)
        (void)ka_watcher_step(watcher, now + i);
    for (i = 0; i < 3; i++)
        CHECK(taken());
    CHECK_EQ(STAT(stalls), 1);
    for (i = 0; i < 3; i++)
        part(&pair[i]);
}

static void not_everything_late_is_a_stall(void) {
    struct pair pair;
    int64_t now;

    settings.limits.never_spoke_ms = 300;
    open_watcher();
    pair = meet();
    step_for(50);
    nap(320);
    now = ka_os_now_ms() + 600;
    (void)ka_watcher_step(watcher, now);
    (void)ka_watcher_step(watcher, now + 20);
    CHECK(taken());
    CHECK_EQ(STAT(stalls), 0);
    part(&pair);
}

/* ---- settings ----------------------------------------------------------- */

static void limits_may_change(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    pair = meet();
    step_for(250);
    CHECK(!taken());
    CHECK_EQ(STAT(tracked), 1);
    settings.limits.never_spoke_ms = 100;
    update();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);
}

static void discovery_may_be_switched_off_and_on(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = 200;
    open_watcher();
    pair = meet();
    step_for(50);
    CHECK_EQ(STAT(tracked), 1);
    settings.discover = 0;
    update();
    step_for(300);
    CHECK_EQ(STAT(tracked), 0);
    CHECK(!taken());
    CHECK(is_well(pair.far));
    settings.discover = 1;
    update();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);
}

static void ports_may_change(void) {
    struct sockaddr_in address;
    int other = loop_listen(&address);
    struct pair ours, foreign;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    ours = meet();
    foreign = loop_connect(other, &address);
    step_for(50);
    CHECK_EQ(STAT(tracked), 2);
    settings.ports = 1;
    settings.port[0] = ntohs(address.sin_port);
    settings.limits.never_spoke_ms = 100;
    update();
    CHECK(told_of(foreign.far, KA_FOR_NEVER_SPOKE));
    step_for(200);
    CHECK(!taken());
    CHECK(is_well(ours.far));
    part(&ours);
    part(&foreign);
    close(other);
}

static void nothing_to_do_sleeps(void) {
    struct pair pair;
    int64_t delay;

    settings.discover = 0;
    open_watcher();
    CHECK_EQ(step_now(), KA_NO_TIME);
    close_watcher();
    settings.discover = 1;
    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    pair = meet();
    step_for(60);
    delay = step_now();
    CHECK(delay > 100 && delay <= 2000); /* the next pass */
    CHECK(STAT(looks) < 4);
    part(&pair);
}

/* How much later than its limit somebody is looked at next, give or take the
 * grain of three clocks; *at_ms is when. */
static int is_late_by(int fd, int64_t limit_ms, int64_t ms, int64_t *at_ms) {
    ka_id id = ka_ward_next(watcher, name_of(fd), NULL)->id;
    int64_t ticks = ka_table_limit(&watcher->table, id) + INT64_C(1) -
                    ka_table_idle(&watcher->table, id, watcher->tick);
    int64_t before = ka_os_now_ms(), after;
    struct ka_info info;

    loop_need(ka_info(fd, &info) == 0, "ka_info");
    after = ka_os_now_ms();
    *at_ms = (watcher->tick + ticks) * KA_TICK_MS;
    limit_ms -= info.last_data_recv_ms;
    return *at_ms > before + limit_ms - 30 &&
           *at_ms < after + limit_ms + ms + 30;
}

/* Looks cost less one after the other. A short limit is kept to the tick. */
static void who_has_time_is_looked_at_together(void) {
    struct pair pair[4];
    int64_t at_ms;
    int i;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    for (i = 0; i < 4; i++, nap(23)) {
        pair[i] = meet();
        watcher->discovery.next_ms = 0;
        step_for(15);
        CHECK(is_late_by(pair[i].far, 60000, 100, &at_ms));
        CHECK_EQ(at_ms % 100, 0);
    }
    settings.limits.never_spoke_ms = 900;
    update();
    step_for(15);
    for (i = 0; i < 4; i++) {
        CHECK(is_late_by(pair[i].far, 900, 0, &at_ms));
        part(&pair[i]);
    }
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(never_spoke_ends);
    RUN(unanswered_ends);
    RUN(answered_ends);
    RUN(stalled_ends);
    RUN(a_slow_reader_is_not_stalled);
    RUN(a_trickle_ends);
    RUN(a_vanished_peer_gets_an_abort);
    RUN(a_slow_handler_is_waited_for);
    RUN(a_server_that_speaks_first_has_spoken);
    RUN(a_tie_is_answered);
    RUN(who_keeps_talking_stays);
    RUN(a_half_closed_upload_is_waited_for);
    RUN(others_sockets_are_left_alone);
    RUN(a_stall_spares_all);
    RUN(not_everything_late_is_a_stall);
    RUN(limits_may_change);
    RUN(discovery_may_be_switched_off_and_on);
    RUN(ports_may_change);
    RUN(nothing_to_do_sleeps);
    RUN(who_has_time_is_looked_at_together);
    return test_report("test_watcher");
}

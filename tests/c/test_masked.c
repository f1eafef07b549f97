/* test_masked.c - Guard behind the mask of another system: real sockets, real
 * time, and only what such a kernel would tell. */
#include "mask.h"
#include "watcher_fixture.h"

/* ---- macOS: each class ends, and not before ------------------------------
 */

static void never_spoke_ends(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = 300;
    open_watcher();
    pair = meet();
    if (told_of(pair.far, KA_FOR_NEVER_SPOKE)) {
        CHECK_EQ(event.klass, KA_NEVER_SPOKE);
        CHECK_EQ(event.deed, KA_DEED_SHUTDOWN);
        CHECK(event.clock_ms >= 300 && event.clock_ms < PATIENCE_MS);
        CHECK_EQ(event.bytes_in, 0);
        CHECK_EQ(event.data_in_ms, -1);
    }
    CHECK(at_end(pair.far));
    CHECK(at_end(pair.near));
    CHECK_EQ(STAT(tracked), 0);
    part(&pair);
}

static void unanswered_ends(void) {
    struct pair pair;
    int64_t begun;

    settings.limits.unanswered_ms = 400;
    open_watcher();
    pair = meet();
    step_for(300);
    begun = ka_os_now_ms();
    say(pair.near, "GET / HT");
    hear(pair.far, "GET / HT");
    if (told_of(pair.far, KA_FOR_UNANSWERED)) {
        CHECK(ka_os_now_ms() - begun >= 400);
        CHECK_EQ(event.bytes_in, 8);
        CHECK_EQ(event.bytes_out, 0);
        CHECK(event.data_in_ms >= 400);
    }
    CHECK(at_end(pair.near));
    part(&pair);
}

static void answered_ends(void) {
    struct pair pair;
    int64_t begun;

    settings.limits.answered_ms = 400;
    open_watcher();
    pair = meet();
    say(pair.near, "ping");
    hear(pair.far, "ping");
    step_for(250);
    begun = ka_os_now_ms();
    say(pair.far, "pong");
    hear(pair.near, "pong");
    if (told_of(pair.far, KA_FOR_ANSWERED)) {
        CHECK(ka_os_now_ms() - begun >= 400);
        CHECK_EQ(event.bytes_in, 4);
        CHECK_EQ(event.bytes_out, 4);
    }
    CHECK(at_end(pair.near));
    part(&pair);
}

static void a_tie_is_answered(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 60000;
    settings.limits.answered_ms = 400;
    open_watcher();
    pair = meet();
    exchange(&pair);
    CHECK(told_of(pair.far, KA_FOR_ANSWERED));
    part(&pair);
}

static void stuff(int fd) {
    static char block[1 << 16];

    while (send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
}

static void stalled_ends(void) {
    struct pair pair;

    settings.limits.stalled_ms = 500;
    open_watcher();
    pair = meet();
    stuff(pair.far);
    if (told_of(pair.far, KA_FOR_STALLED)) {
        CHECK_EQ(event.klass, KA_SENDING);
        CHECK(event.unsent > 0);
        CHECK(event.clock_ms >= 500);
    }
    part(&pair);
}

/* Ten seconds of a trickle, by the watcher's clock. */
static void a_trickle_ends(void) {
    struct pair slow, fast;
    int64_t now;
    char text[100];
    int i;

    settings.limits.min_rate = 100;
    open_watcher();
    slow = meet();
    fast = meet();
    now = ka_os_now_ms();
    memset(text, 'x', sizeof text);
    for (i = 0; i < 90 && !taken(); i++, now += 200) {
        say(slow.near, "xy");
        hear(slow.far, "xy");
        CHECK_EQ(send(fast.near, text, 60, 0), 60);
        CHECK_EQ(recv(fast.far, text, 100, 0), 60);
        while (ka_watcher_step(watcher, now) == 0)
            continue;
    }
    CHECK_EQ(event.cause, KA_FOR_MIN_RATE);
    CHECK_EQ(event.identity, name_of(slow.far));
    CHECK(i >= 50);
    CHECK(is_well(fast.far) && is_well(fast.near));
    part(&slow);
    part(&fast);
}

static void the_longest_idle_goes_first(void) {
    struct pair old, young;

    settings.evict_above = 1;
    settings.evict_idle_ms = 1500;
    open_watcher();
    old = meet();
    exchange(&old);
    step_for(1200);
    young = meet();
    exchange(&young);
    CHECK(told_of(old.far, KA_FOR_EVICTED));
    CHECK(is_well(young.far));
    part(&old);
    part(&young);
}

/* Looks by the watcher's clock: not each second without need, and no less. */
static void looks_come_at_the_pace(void) {
    struct pair pair;
    uint64_t before;
    int64_t now, end;

    settings.limits.unanswered_ms = 60000;
    open_watcher();
    pair = meet();
    step_for(50);
    before = STAT(looks);
    now = ka_os_now_ms();
    for (end = now + 20000; now < end; now += 50)
        while (ka_watcher_step(watcher, now) == 0)
            continue;
    CHECK(STAT(looks) - before >= 18 && STAT(looks) - before <= 22);
    part(&pair);
}

/* ---- and the healthy are left alone ---------------------------------------
 */

enum { HANDLER, EVENTS, PINGS, UPLOAD, READER, FIRST, KINDS };

static void live_on(const struct pair *of, int kind, int turn) {
    static char block[1 << 18];

    if (kind == EVENTS && turn % 4 == 0) {
        say(of->far, "event");
        hear(of->near, "event");
    } else if (kind == PINGS) {
        say(of->near, "ping12");
        hear(of->far, "ping12");
        say(of->far, "pong");
        hear(of->near, "pong");
    } else if (kind == UPLOAD && turn % 3 == 0) {
        say(of->near, "a part");
        hear(of->far, "a part");
    } else if (kind == READER) {
        stuff(of->far);
        CHECK(recv(of->near, block, sizeof block, MSG_DONTWAIT) > 0);
    }
}

static void the_healthy_are_left_alone(void) {
    struct pair pair[KINDS];
    int i, turn;

    settings.limits.never_spoke_ms = settings.limits.answered_ms = 900;
    settings.limits.unanswered_ms = 900;
    settings.limits.stalled_ms = 900;
    settings.limits.min_rate = 1;
    open_watcher();
    for (i = 0; i < KINDS; i++)
        pair[i] = meet();
    say(pair[HANDLER].near, "GET /slow");
    hear(pair[HANDLER].far, "GET /slow");
    say(pair[EVENTS].near, "GET /events");
    hear(pair[EVENTS].far, "GET /events");
    say(pair[FIRST].far, "220 ready");
    hear(pair[FIRST].near, "220 ready");
    for (turn = 0; turn < 24; turn++) {
        if (turn == 5) { /* the answer of the slow one, and a new request */
            say(pair[HANDLER].far, "200 OK");
            hear(pair[HANDLER].near, "200 OK");
            say(pair[FIRST].near, "EHLO");
            hear(pair[FIRST].far, "EHLO");
        }
        if (turn == 10)
            break;
        for (i = 0; i < KINDS; i++)
            live_on(&pair[i], i, turn);
        step_for(70);
    }
    for (; turn < 40; turn++) {
        for (i = EVENTS; i <= READER; i++)
            live_on(&pair[i], i, turn);
        if (turn % 6 == 0) {
            say(pair[HANDLER].near, "GET");
            hear(pair[HANDLER].far, "GET");
            say(pair[FIRST].far, "250");
            hear(pair[FIRST].near, "250");
        }
        step_for(70);
    }
    CHECK(!taken());
    CHECK_EQ(STAT(ended), 0);
    for (i = 0; i < KINDS; i++) {
        if (i != READER)
            CHECK(is_well(pair[i].far) && is_well(pair[i].near));
        part(&pair[i]);
    }
}

static void unread_bytes_spare(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 200;
    open_watcher();
    pair = meet();
    say(pair.near, "waits");
    step_for(700);
    CHECK(!taken());
    CHECK_EQ(STAT(spared_unread), 1);
    hear(pair.far, "waits");
    CHECK(told_of(pair.far, KA_FOR_UNANSWERED));
    part(&pair);
}

/* ---- another connection of the same name ---------------------------------
 */

static int dial(const struct sockaddr_in *from) {
    int sock = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(sock, (const struct sockaddr *)from, sizeof *from) == 0 &&
        connect(sock, (struct sockaddr *)&place, sizeof place) == 0)
        return sock;
    close(sock);
    return -1;
}

/* 0: somebody else has got the port meanwhile. */
static int meet_again(struct pair *pair) {
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    uint64_t name = name_of(pair->far);
    int number = pair->far;

    getsockname(pair->near, (struct sockaddr *)&from, &size);
    loop_reset(&pair->near);
    close(pair->far);
    pair->far = -1;
    pair->near = dial(&from);
    if (pair->near < 0)
        return 0;
    pair->far = accept(listener, NULL, NULL);
    return CHECK_EQ(pair->far, number) && CHECK_EQ(name_of(pair->far), name);
}

static void the_next_of_the_same_ends_is_another(void) {
    struct pair pair;
    int64_t begun;
    int tries = 0, met;

    settings.limits.unanswered_ms = 500;
    open_watcher();
    do {
        pair = meet();
        say(pair.near, "a long request");
        hear(pair.far, "a long request");
        step_for(400);
        met = meet_again(&pair);
        begun = ka_os_now_ms();
        if (!met)
            part(&pair);
    } while (!met && ++tries < 20);
    if (!CHECK(met))
        return;
    say(pair.near, "GET");
    hear(pair.far, "GET");
    if (told_of(pair.far, KA_FOR_UNANSWERED)) {
        CHECK(ka_os_now_ms() - begun >= 500);
        CHECK_EQ(event.bytes_in, 3);
    }
    part(&pair);
}

/* ---- dead peers: the kernel decides ---------------------------------------
 */

static int32_t value_of(int fd, int option) {
    int32_t value = -1;

    CHECK_EQ(ka_get(fd, option, &value), 0);
    return value;
}

static void pace_of_4(void) {
    settings.limits.detect_ms = 3800;
    settings.pace.value[KA_ENABLED] = 1;
    settings.pace.value[KA_IDLE] = settings.pace.value[KA_INTERVAL] = 1;
    settings.pace.value[KA_COUNT] = 127;
    settings.pace.value[KA_USER_TIMEOUT] = 0;
}

static void the_count_comes_when_it_cannot_kill(void) {
    struct pair pair;
    int64_t begun;

    pace_of_4();
    open_watcher();
    pair = meet();
    step_for(50);
    CHECK_EQ(value_of(pair.far, KA_ENABLED), 1);
    CHECK_EQ(value_of(pair.far, KA_IDLE), 1);
    CHECK_EQ(value_of(pair.far, KA_COUNT), 127); /* Linux's highest */
    step_for(4500);
    CHECK_EQ(value_of(pair.far, KA_COUNT), 127);
    step_for(700);
    CHECK_EQ(value_of(pair.far, KA_COUNT), 2);
    CHECK(is_well(pair.far));
    vanish(pair.near);
    begun = ka_os_now_ms();
    while (is_well(pair.far) && ka_os_now_ms() - begun < 6000)
        step_for(20);
    CHECK(ka_os_now_ms() - begun < 4300);
    CHECK_EQ(loop_error(pair.far), ETIMEDOUT);
    CHECK(!taken());
    part(&pair);
}

static void the_owner_s_own_probes_are_left_to_him(void) {
    struct pair pair;

    pace_of_4();
    pair = meet();
    CHECK_EQ(ka_set(pair.far, KA_ENABLED, 1), 0);
    CHECK_EQ(ka_set(pair.far, KA_IDLE, 1), 0);
    CHECK_EQ(ka_set(pair.far, KA_INTERVAL, 1), 0);
    CHECK_EQ(ka_set(pair.far, KA_COUNT, 7), 0);
    open_watcher();
    step_for(5500);
    CHECK_EQ(value_of(pair.far, KA_COUNT), 7);
    part(&pair);
}

/* ---- what cannot be told is not guessed -----------------------------------
 */

static void nobody_is_hit_blindly(void) {
    struct pair quiet, asked, answered, late;

    settings.limits.never_spoke_ms = settings.limits.unanswered_ms =
        settings.limits.answered_ms = settings.limits.stalled_ms = 100;
    settings.limits.min_rate = 1000000;
    settings.limits.detect_ms = 100;
    settings.evict_above = 0;
    open_watcher();
    quiet = meet();
    asked = meet();
    answered = meet();
    late = meet();
    say(asked.near, "GET");
    hear(asked.far, "GET");
    exchange(&answered);
    stuff(late.far);
    ka_watcher_drain(watcher, 1);
    step_for(900);
    CHECK(!taken());
    CHECK_EQ(STAT(ended), 0);
    CHECK_EQ(STAT(tracked), 4);
    CHECK(is_well(quiet.far) && is_well(asked.far) && is_well(answered.far));
    part(&quiet);
    part(&asked);
    part(&answered);
    part(&late);
}

static void bytes_are_counted_on_windows_too(void) {
    struct pair asked, answered;

    settings.limits.unanswered_ms = 300;
    open_watcher();
    asked = meet();
    answered = meet();
    exchange(&answered);
    say(asked.near, "GET");
    hear(asked.far, "GET");
    CHECK(told_of(asked.far, KA_FOR_UNANSWERED));
    step_for(400);
    CHECK(!taken());
    CHECK(is_well(answered.far));
    part(&asked);
    part(&answered);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    mask = MAC;
    RUN(never_spoke_ends);
    RUN(unanswered_ends);
    RUN(answered_ends);
    RUN(a_tie_is_answered);
    RUN(stalled_ends);
    RUN(a_trickle_ends);
    RUN(the_longest_idle_goes_first);
    RUN(looks_come_at_the_pace);
    RUN(the_healthy_are_left_alone);
    RUN(unread_bytes_spare);
    RUN(the_next_of_the_same_ends_is_another);
    RUN(the_count_comes_when_it_cannot_kill);
    RUN(the_owner_s_own_probes_are_left_to_him);
    mask = WINDOWS;
    RUN(bytes_are_counted_on_windows_too);
    mask = FREEBSD;
    RUN(nobody_is_hit_blindly);
    RUN(the_count_comes_when_it_cannot_kill);
    mask = NUMBERS;
    RUN(nobody_is_hit_blindly);
    RUN(the_count_comes_when_it_cannot_kill);
    mask = OPENBSD;
    RUN(nobody_is_hit_blindly);
    return test_report("masked");
}

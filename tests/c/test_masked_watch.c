/* test_masked_watch.c - watches behind the mask of another system: how an end
 * is told of a connection that has lost its name with it, and what an abort
 * does where nothing can disconnect. */
#include "mask.h"
#include "watcher_fixture.h"

static void idle_is_told_and_nothing_is_early(void) {
    struct pair pair = meet();
    int64_t token, begun = ka_os_now_ms();
    int i;

    settings.discover = 0;
    open_watcher();
    token = watch(pair.far, KA_NO_TIME, 500, KA_DEED_NONE);
    for (i = 0; i < 8; i++) {
        step_for(150);
        begun = ka_os_now_ms();
        say(i % 2 ? pair.near : pair.far, "word");
        hear(i % 2 ? pair.far : pair.near, "word");
        CHECK(!taken());
    }
    if (told_of(pair.far, KA_FOR_IDLE)) {
        CHECK_EQ(event.token, token);
        CHECK(ka_os_now_ms() - begun >= 500);
    }
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

static void unsent_is_not_idle(void) {
    static char block[1 << 16];
    struct pair pair = meet();

    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 300, KA_DEED_NONE);
    while (send(pair.far, block, sizeof block, MSG_DONTWAIT) > 0)
        continue;
    step_for(900);
    CHECK(!taken());
    part(&pair);
}

/* What is told when nobody can see what is unsent. */
static void idle_is_not_guessed(void) {
    struct pair pair = meet();

    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 200, KA_DEED_NONE);
    step_for(600);
    CHECK(!taken());
    part(&pair);
}

static void an_abort_is_never_an_end(void) {
    struct pair pair = meet();
    int32_t idle = 0;
    int i;

    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 300, KA_DEED_ABORT);
    CHECK(told_of(pair.far, KA_FOR_IDLE));
    for (i = 0; i < 25; i++) {
        step_for(100);
        if (is_well(pair.far))
            continue;
        CHECK(!at_end(pair.far) || loop_error(pair.far) != 0);
        break;
    }
    CHECK(!taken());
    CHECK_EQ(ka_get(pair.far, KA_IDLE, &idle), 0);
    CHECK(idle == 1 || idle == 4); /* the kernel is pressed */
    part(&pair);
}

static void it_is_pressed_again_and_again(void) {
    struct pair pair = meet();
    int32_t idle = 0;
    int64_t now;
    int i;

    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 300, KA_DEED_ABORT);
    CHECK(told_of(pair.far, KA_FOR_IDLE));
    CHECK_EQ(ka_set(pair.far, KA_USER_TIMEOUT, 0), 0); /* it would end it */
    step_for(400);
    CHECK_EQ(ka_set(pair.far, KA_IDLE, 600), 0);
    for (i = 0; i < 400 && idle != 4; i++) {
        step_for(10);
        CHECK_EQ(ka_get(pair.far, KA_IDLE, &idle), 0);
        CHECK(idle != 1);
    }
    CHECK_EQ(idle, 4); /* quiet first */
    for (i = 0; i < 400 && idle != 1; i++) {
        step_for(10);
        CHECK_EQ(ka_get(pair.far, KA_IDLE, &idle), 0);
    }
    CHECK_EQ(idle, 1);
    for (now = ka_os_now_ms(); now < ka_os_now_ms() + 40000; now += 500)
        (void)ka_watcher_step(watcher, now);
    CHECK_EQ(watcher->wards, 0); /* and given up at last */
    CHECK(is_well(pair.far) && is_well(pair.near));
    part(&pair);
}

/* FreeBSD's keepalive timer, by the values on a socket whose peer answers
 * each question at once. Before 13 every segment armed it for an idle time. */
struct timer {
    int older;
    int64_t heard, deadline;
    int32_t idle;
};

static int gives_up(struct timer *timer, int fd, int64_t now) {
    int32_t idle = 0, interval = 0, count = 0;
    int64_t silent = now - timer->heard;

    CHECK_EQ(ka_get(fd, KA_IDLE, &idle), 0);
    CHECK_EQ(ka_get(fd, KA_INTERVAL, &interval), 0);
    CHECK_EQ(ka_get(fd, KA_COUNT, &count), 0);
    if (idle != timer->idle)
        timer->deadline = now + idle * 1000;
    timer->idle = idle;
    if (now < timer->deadline)
        return 0;
    if (silent < idle * 1000) {
        timer->deadline = timer->heard + idle * 1000;
        return 0;
    }
    if (silent >= (idle + (int64_t)interval * count) * 1000)
        return 1;
    timer->heard = now;
    timer->deadline = now + (timer->older ? idle : interval) * 1000;
    return 0;
}

static void abort_a_living_one(int older) {
    struct pair pair = meet();
    struct timer timer = {older, ka_os_now_ms(), INT64_MAX, 0};
    int64_t begun;
    int ended = 0;

    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 300, KA_DEED_ABORT);
    CHECK(told_of(pair.far, KA_FOR_IDLE));
    begun = ka_os_now_ms();
    while (!ended && ka_os_now_ms() - begun < 12000) {
        step_for(5);
        ended = gives_up(&timer, pair.far, ka_os_now_ms());
    }
    CHECK(ended);
    part(&pair);
    close_watcher();
}

static void a_living_idle_one_is_given_up_by_freebsd(void) {
    abort_a_living_one(0);
    abort_a_living_one(1);
}

static int64_t begin_watch(const struct pair *pair) {
    int64_t token;

    settings.discover = 0;
    open_watcher();
    token = watch(pair->far, KA_NO_TIME, 60000, KA_DEED_NONE);
    step_for(50);
    return token;
}

static void a_reset_is_told(void) {
    struct pair pair = meet();
    int64_t token = begin_watch(&pair);

    mask_code = ECONNRESET;
    loop_reset(&pair.near);
    if (CHECK(told())) {
        CHECK_EQ(event.cause, KA_FOR_RESET);
        CHECK_EQ(event.token, token);
        CHECK_EQ(event.err, ECONNRESET);
        CHECK_EQ(event.local.port, ntohs(place.sin_port));
        CHECK_EQ(event.peer.family, 4);
    }
    CHECK_EQ(loop_error(pair.far), ECONNRESET); /* still the owner's */
    CHECK_EQ(watcher->wards, 0);
    step_for(100);
    CHECK(!taken());
    part(&pair);
}

static void a_timeout_is_told(void) {
    struct pair pair = meet();

    CHECK_EQ(ka_set(pair.far, KA_USER_TIMEOUT, 300), 0);
    begin_watch(&pair);
    mask_code = ETIMEDOUT;
    vanish(pair.near);
    say(pair.far, "into the void");
    if (CHECK(told())) {
        CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
        CHECK_EQ(event.err, ETIMEDOUT);
    }
    part(&pair);
}

static void without_a_code_it_is_one_of_both(void) {
    struct pair pair = meet();

    begin_watch(&pair);
    mask_code = 0;
    loop_reset(&pair.near);
    if (CHECK(told())) {
        CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
        CHECK_EQ(event.err, 0);
    }
    part(&pair);
}

/* Our clock of what came in began with the watch, the kernel's long before. */
static void who_was_heard_is_the_kernel_s_to_say(void) {
    struct pair pair = meet();

    say(pair.near, "word");
    hear(pair.far, "word");
    usleep(400000);
    settings.discover = 0;
    open_watcher();
    watch(pair.far, KA_NO_TIME, 300, KA_DEED_NONE);
    if (CHECK(told_of(pair.far, KA_FOR_IDLE))) {
        CHECK(event.heard_ms >= 690);
        CHECK(event.clock_ms >= 300);
        CHECK(event.heard_ms - event.clock_ms >= 350);
        CHECK_EQ(event.data_in_ms, -1);
        CHECK_EQ(event.bytes_in, -1);
        CHECK_EQ(event.klass, KA_NO_CLASS);
    }
    part(&pair);
}

static void its_owner_s_close_is_told(void) {
    struct pair pair = meet();

    begin_watch(&pair);
    close(pair.far);
    if (CHECK(told()))
        CHECK_EQ(event.cause, KA_FOR_GONE);
    pair.far = -1;
    part(&pair);
}

/* Nothing of it shows an error, so nothing is made of it. */
static void who_got_its_number_is_not_its_corpse(void) {
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    struct pair pair = meet();
    int number = pair.far, other, on = 1;

    begin_watch(&pair);
    mask_code = ECONNRESET;
    getsockname(pair.far, (struct sockaddr *)&name, &size);
    loop_reset(&pair.far);
    other = socket(AF_INET, SOCK_STREAM, 0);
    loop_need(other == number, "the same number");
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    close(listener);
    listener = -1;
    loop_need(bind(other, (struct sockaddr *)&name, size) == 0, "bind");
    if (CHECK(told()))
        CHECK_EQ(event.cause, KA_FOR_GONE);
    close(other);
    part(&pair);
}

static void a_found_one_that_ended_is_only_forgotten(void) {
    struct pair pair;

    settings.limits.answered_ms = 60000;
    open_watcher();
    pair = meet();
    step_for(300);
    CHECK_EQ(STAT(tracked), 1);
    mask_code = ECONNRESET;
    loop_reset(&pair.near);
    step_for(1500);
    CHECK(!taken());
    CHECK_EQ(STAT(tracked), 0);
    part(&pair);
}

/* The watch has its pace from its owner; the count is the watcher's to set. */
static void a_watch_s_count_comes_late_too(void) {
    struct pair pair = meet();
    int32_t count = 0;
    int64_t begun;

    settings.discover = 0;
    CHECK_EQ(ka_set(pair.far, KA_ENABLED, 1), 0);
    CHECK_EQ(ka_set(pair.far, KA_COUNT, 127), 0);
    CHECK_EQ(ka_set(pair.far, KA_INTERVAL, 1), 0);
    CHECK_EQ(ka_set(pair.far, KA_IDLE, 1), 0);
    open_watcher();
    watch(pair.far, 3800, KA_NO_TIME, KA_DEED_ABORT);
    step_for(4500);
    CHECK_EQ(ka_get(pair.far, KA_COUNT, &count), 0);
    CHECK_EQ(count, 127);
    step_for(1000);
    CHECK_EQ(ka_get(pair.far, KA_COUNT, &count), 0);
    CHECK_EQ(count, 2);
    CHECK(!taken() && is_well(pair.far));
    mask_code = ETIMEDOUT;
    begun = ka_os_now_ms();
    vanish(pair.near);
    if (CHECK(told())) {
        CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
        CHECK(ka_os_now_ms() - begun < 4300);
    }
    part(&pair);
}

static void ends_are_told(void) {
    RUN(a_reset_is_told);
    RUN(a_timeout_is_told);
    RUN(without_a_code_it_is_one_of_both);
    RUN(its_owner_s_close_is_told);
    RUN(who_got_its_number_is_not_its_corpse);
    RUN(a_watch_s_count_comes_late_too);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    mask = MAC;
    RUN(idle_is_told_and_nothing_is_early);
    RUN(unsent_is_not_idle);
    RUN(an_abort_is_never_an_end);
    RUN(it_is_pressed_again_and_again);
    RUN(a_found_one_that_ended_is_only_forgotten);
    ends_are_told();
    mask = FREEBSD;
    RUN(idle_is_not_guessed);
    ends_are_told();
    mask = NUMBERS;
    RUN(idle_is_told_and_nothing_is_early);
    if (test.failures) /* the rest would wait for what does not come */
        return test_report("masked_watch");
    RUN(unsent_is_not_idle);
    RUN(who_was_heard_is_the_kernel_s_to_say);
    RUN(an_abort_is_never_an_end);
    RUN(it_is_pressed_again_and_again);
    RUN(a_living_idle_one_is_given_up_by_freebsd);
    ends_are_told();
    mask = OPENBSD;
    RUN(idle_is_not_guessed);
    return test_report("masked_watch");
}

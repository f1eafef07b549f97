/* test_watcher_threads.c - numbers that change hands, the watcher's own
 * thread, and a child that has none.
 */
#include "watcher_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

/* To duplicate other threads' descriptors without asking them is the point of
 * it; the sanitizer takes each for an object that needs a lock. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_options(void);

const char *__tsan_default_suppressions(void) {
    return "race:duplicate_onto\nrace:note_taken\n";
}

const char *__tsan_default_options(void) {
    return "print_suppressions=0";
}

/* ---- numbers that change hands ------------------------------------------ */

static _Atomic int storm_over;

/* Connections that are due are closed, and young ones take their numbers, as
 * fast as that goes. The young ones live for far less than the limit and are
 * used: whoever touches one of them has hit an innocent. */
static void *reuse(void *argument) {
    struct sockaddr_in address;
    int own = loop_listen(&address);
    struct pair pair;
    char byte;
    int *hits = argument, i;

    for (i = 0; !atomic_load(&storm_over); i++) {
        pair = loop_connect(own, &address);
        if (i % 64 == 0)
            nap(3);
        if (send(pair.near, "a", 1, MSG_NOSIGNAL) != 1 ||
            recv(pair.far, &byte, 1, 0) != 1 ||
            send(pair.far, "b", 1, MSG_NOSIGNAL) != 1 ||
            recv(pair.near, &byte, 1, 0) != 1)
            ++*hits;
        loop_reset(&pair.near); /* no TIME-WAIT of thousands of ports */
        close(pair.far);
    }
    close(own);
    return NULL;
}

#define OLD 40

static void an_innocent_is_never_hit(void) {
    struct ka_watcher_stats stats;
    struct pair old[OLD];
    pthread_t thread;
    int hits = 0, round, i;

    settings.limits.never_spoke_ms = settings.limits.unanswered_ms = 500;
    settings.limits.answered_ms = 500;
    open_watcher();
    CHECK_EQ(ka_watcher_start(watcher), 0);
    atomic_store(&storm_over, 0);
    for (round = 0; round < 4; round++) {
        for (i = 0; i < OLD; i++)
            old[i] = meet();
        nap(480);
        if (round == 0)
            loop_need(pthread_create(&thread, NULL, reuse, &hits) == 0,
                      "pthread_create");
        for (i = 0; i < OLD; i++) { /* across the deadline */
            part(&old[i]);
            nap(1);
        }
    }
    atomic_store(&storm_over, 1);
    pthread_join(thread, NULL);
    ka_watcher_stats(watcher, &stats);
    CHECK_EQ(hits, 0);
    CHECK(stats.looks > 0);
    while (taken()) /* only of those that were due */
        CHECK(event.clock_ms >= 500);
}

#define FLIPS 20

static struct {
    pthread_mutex_t lock;
    int number[FLIPS];   /* what is watched */
    int guilty[FLIPS];   /* another number of what it is when it is watched */
    int innocent[FLIPS]; /* silent for as long, and nobody's to touch */
} flip = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *flip_numbers(void *argument) {
    int i;

    while (!atomic_load(&storm_over))
        for (i = 0; i < FLIPS; i++) {
            pthread_mutex_lock(&flip.lock);
            (void)dup2(flip.innocent[i], flip.number[i]);
            (void)dup2(flip.guilty[i], flip.number[i]);
            pthread_mutex_unlock(&flip.lock);
        }
    return argument;
}

/* One round: all are due, while each number is now the one, now the other. */
static void a_round_of_flips(struct pair *pair) {
    int i, over = 0;

    pthread_mutex_lock(&flip.lock);
    for (i = 0; i < FLIPS; i++) {
        pair[i] = meet();
        flip.guilty[i] = pair[i].far;
        CHECK_EQ(dup2(pair[i].far, flip.number[i]), flip.number[i]);
        CHECK(ka_watcher_watch(watcher, flip.number[i], name_of(pair[i].far),
                               NULL, KA_NO_TIME, 20, KA_DEED_SHUTDOWN) > 0);
    }
    pthread_mutex_unlock(&flip.lock);
    while (over < FLIPS && ka_watcher_take(watcher, &event, 1, 2000) == 1)
        over++; /* ended, or gone for who came at the wrong moment */
    CHECK_EQ(over, FLIPS);
    pthread_mutex_lock(&flip.lock);
    for (i = 0; i < FLIPS; i++) {
        flip.guilty[i] = flip.innocent[i];
        part(&pair[i]);
    }
    pthread_mutex_unlock(&flip.lock);
}

static void the_old_and_innocent_are_not_hit(void) {
    struct pair old[FLIPS], pair[FLIPS];
    pthread_t thread;
    int i, round;

    settings.discover = 0;
    open_watcher();
    for (i = 0; i < FLIPS; i++) {
        old[i] = meet();
        flip.innocent[i] = flip.guilty[i] = old[i].far;
        flip.number[i] = dup(old[i].far);
    }
    nap(40);
    CHECK_EQ(ka_watcher_start(watcher), 0);
    atomic_store(&storm_over, 0);
    loop_need(pthread_create(&thread, NULL, flip_numbers, NULL) == 0,
              "pthread_create");
    for (round = 0; round < 25; round++)
        a_round_of_flips(pair);
    atomic_store(&storm_over, 1);
    pthread_join(thread, NULL);
    ka_watcher_stop(watcher);
    CHECK(STAT(ended) > 10);
    for (i = 0; i < FLIPS; i++) {
        CHECK(is_well(old[i].far) && is_well(old[i].near));
        close(flip.number[i]);
        part(&old[i]);
    }
}

/* The same by hand, so that it happens for certain: looked at, judged, and
 * then the number is another's. */
static void a_number_that_changes_between_look_and_deed(void) {
    struct ka_ward *ward;
    struct pair old, fresh;
    int64_t now;

    settings.limits.never_spoke_ms = 200;
    open_watcher();
    old = meet();
    step_for(40);
    nap(200);
    fresh = meet();
    ward = ka_ward_next(watcher, name_of(old.far), NULL);
    loop_need(ward != NULL, "no ward");
    CHECK_EQ(dup2(fresh.far, old.far), old.far);
    now = ka_os_now_ms();
    watcher->entered_ms = now;
    CHECK_EQ(ka_deed_act(watcher, ward, KA_FOR_NEVER_SPOKE, now), KA_LET_GO);
    CHECK(!taken());
    CHECK(is_well(fresh.far) && is_well(fresh.near));
    step_for(20);
    CHECK(!taken());
    say(fresh.near, "alive");
    hear(fresh.far, "alive");
    part(&old);
    part(&fresh);
}

/* ---- the thread --------------------------------------------------------- */

static int waited_for(int count) {
    static struct ka_occurrence many[64];
    int64_t end = ka_os_now_ms() + PATIENCE_MS;
    int got = 0, n;

    while (got < count && ka_os_now_ms() < end) {
        n = ka_watcher_take(watcher, many, 64, 100);
        got += n > 0 ? n : 0;
    }
    return got;
}

static void the_thread_does_it_alone(void) {
    struct pair pair[5];
    int64_t began = ka_os_now_ms();
    int i;

    settings.limits.never_spoke_ms = 300;
    open_watcher();
    CHECK_EQ(ka_watcher_start(watcher), 0);
    CHECK_EQ(ka_watcher_start(watcher), 0);
    for (i = 0; i < 5; i++)
        pair[i] = meet();
    CHECK_EQ(waited_for(5), 5);
    CHECK(ka_os_now_ms() - began >= 280);
    for (i = 0; i < 5; i++) {
        CHECK(at_end(pair[i].near));
        part(&pair[i]);
    }
    CHECK(STAT(cpu_us) > 0);
    ka_watcher_stop(watcher);
    ka_watcher_stop(watcher);
    CHECK_EQ(ka_watcher_take(watcher, &event, 1, -1), -ESHUTDOWN);
    CHECK_EQ(ka_watcher_start(watcher), -ESHUTDOWN);
}

static void a_watch_wakes_the_sleeper(void) {
    struct pair pair;

    settings.discover = 0;
    open_watcher();
    CHECK_EQ(ka_watcher_start(watcher), 0);
    pair = meet();
    nap(30); /* it sleeps, without a deadline */
    (void)watch(pair.near, KA_NO_TIME, 100, KA_DEED_NONE);
    CHECK_EQ(waited_for(1), 1);
    part(&pair);
}

static void *take_for_ever(void *argument) {
    int *taken_up = argument, n;
    struct ka_occurrence many[16];

    while ((n = ka_watcher_take(watcher, many, 16, -1)) >= 0)
        *taken_up += n;
    return NULL;
}

static void *call_everything(void *argument) {
    struct pair *pair = argument;
    uint64_t identity = 0;
    struct ka_watcher_stats stats;
    int64_t token;
    int i;

    (void)ka_identify(pair->near, &identity);
    for (i = 0; i < 300; i++) {
        (void)ka_watcher_hold(watcher, identity);
        token = ka_watcher_watch(watcher, pair->near, identity, NULL, 60000,
                                 60000, KA_DEED_NONE);
        ka_watcher_stats(watcher, &stats);
        if (i % 50 == 0)
            (void)ka_watcher_update(watcher, &settings);
        if (i % 70 == 0)
            ka_watcher_drain(watcher, i % 140 == 0);
        (void)ka_watcher_cancel(watcher, token);
        ka_watcher_release(watcher, identity);
    }
    return NULL;
}

static void stops_while_everybody_is_busy(void) {
    pthread_t taker, caller[2];
    struct pair pair[30];
    int i, taken_up = 0;

    settings.limits.never_spoke_ms = 50;
    settings.evict_above = 3;
    open_watcher();
    for (i = 0; i < 30; i++)
        pair[i] = meet();
    CHECK_EQ(ka_watcher_start(watcher), 0);
    loop_need(pthread_create(&taker, NULL, take_for_ever, &taken_up) == 0,
              "pthread_create");
    for (i = 0; i < 2; i++)
        loop_need(
            pthread_create(&caller[i], NULL, call_everything, &pair[i]) == 0,
            "pthread_create");
    nap(80);
    ka_watcher_stop(watcher);
    for (i = 0; i < 2; i++)
        pthread_join(caller[i], NULL);
    pthread_join(taker, NULL);
    CHECK_EQ(STAT(held), 0);
    CHECK_EQ(STAT(watched), 0);
    for (i = 0; i < 30; i++)
        part(&pair[i]);
}

/* Callers get in although there is always more to do. */
static void callers_do_not_starve(void) {
    struct ka_watcher_stats stats;
    int64_t began, longest = 0, spent;
    struct pair pair[20];
    int i;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    for (i = 0; i < 20; i++)
        pair[i] = meet();
    watcher->discovery.page[0] = calloc(KA_PAGE, sizeof(struct ka_seen));
    CHECK_EQ(ka_watcher_start(watcher), 0);
    for (i = 0; i < 200; i++) {
        if (i % 4 == 0)
            (void)ka_watcher_update(watcher, &settings); /* a pass at once */
        began = ka_os_now_ms();
        ka_watcher_stats(watcher, &stats);
        spent = ka_os_now_ms() - began;
        longest = spent > longest ? spent : longest;
    }
    CHECK(longest < 300);
    for (i = 0; i < 20; i++)
        part(&pair[i]);
}

/* ---- fork --------------------------------------------------------------- */

static void a_child_abandons(void) {
    struct pair pair[10];
    int i, status = -1, left = 0;
    pid_t child;

    settings.limits.never_spoke_ms = 200;
    open_watcher();
    for (i = 0; i < 10; i++)
        pair[i] = meet();
    (void)watch(pair[0].near, 60000, KA_NO_TIME, KA_DEED_NONE);
    CHECK_EQ(ka_watcher_hold(watcher, 12345), 0);
    CHECK_EQ(ka_watcher_start(watcher), 0);
    for (i = 0; i < 15; i++) {
        fflush(stdout);
        child = fork();
        if (child == 0) {
            int mine = watcher->reserve.sock, other = watcher->reserve.filler;

            ka_watcher_abandon(watcher);
            _exit(fcntl(mine, F_GETFD) >= 0 || fcntl(other, F_GETFD) >= 0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status));
        left += WEXITSTATUS(status);
        nap(17);
    }
    /* When a fork comes between the taking and the noting of a duplicate the
     * child has one number left over. */
    CHECK(left <= 2);
    CHECK_EQ(waited_for(10), 10); /* the parent's goes on */
    for (i = 0; i < 10; i++) {
        CHECK(at_end(pair[i].far));
        part(&pair[i]);
    }
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(an_innocent_is_never_hit);
    RUN(the_old_and_innocent_are_not_hit);
    RUN(a_number_that_changes_between_look_and_deed);
    RUN(the_thread_does_it_alone);
    RUN(a_watch_wakes_the_sleeper);
    RUN(stops_while_everybody_is_busy);
    RUN(callers_do_not_starve);
    RUN(a_child_abandons);
    return test_report("test_watcher_threads");
}

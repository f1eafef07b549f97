/* test_loop_memory.c - a loop for which there is no memory: each allocation
 * fails in its turn, and what was there is there still.
 */
#include <stdint.h>

#include "failing.h"
#include "loop_fixture.h"

static void birth_gives_all_back(void) {
    struct ka_loop born;
    int n, rc = -1;

    for (n = 0; rc < 0 && n < 50; n++) {
        until_failure = n;
        rc = ka_loop_init(&born, chosen);
        if (rc < 0)
            CHECK_EQ(rc, -ENOMEM);
    }
    until_failure = -1;
    CHECK(n > 2);
    if (CHECK_EQ(rc, 0))
        ka_loop_close(&born);
}

#define MANY 300 /* more than one growth of the hash and of the batch */

/* Registers one, at the failure of each allocation that it takes. */
static ka_id add_at_last(int fd, int *failures) {
    uint32_t live = loop.table.live, registered = loop.registered;
    ka_id id = 0;
    int n, rc = -1;

    for (n = 0; rc < 0 && n < 20; n++) {
        until_failure = n;
        rc = ka_loop_add(&loop, fd, KA_READ, LIMIT, NULL, &id);
        until_failure = -1;
        if (rc < 0) {
            ++*failures;
            CHECK_EQ(rc, -ENOMEM);
            CHECK_EQ(ka_loop_find(&loop, fd), 0);
            CHECK_EQ(loop.table.live, live);
            CHECK_EQ(loop.registered, registered);
        }
    }
    CHECK_EQ(rc, 0);
    return id;
}

static void a_failing_add_changes_nothing(void) {
    static int pair[MANY][2];
    static ka_id id[MANY];
    int i, failures = 0;

    for (i = 0; i < MANY; i++) {
        open_pair(pair[i]);
        id[i] = add_at_last(pair[i][0], &failures);
    }
    CHECK(failures >= 5);
    for (i = 0; i < MANY; i++) {
        CHECK(ka_loop_find(&loop, pair[i][0]) == id[i]);
        say(pair[i][1]);
    }
    until_failure = 0; /* those that fit, and the rest later */
    CHECK(go(0) > 0);
    CHECK(loop.count < MANY);
    until_failure = -1;
    CHECK_EQ(go(0), MANY);
    for (i = 0; i < MANY; i++) {
        CHECK_EQ(said(id[i]), KA_READ);
        close_pair(pair[i]);
    }
}

static void what_finds_no_room_is_idle_later(void) {
    int i;

    for (i = 0; i < MANY; i++)
        add(KA_NO_FD, 0, LIMIT, NULL);
    ka_loop_advance(&loop, LIMIT + 1);
    until_failure = 0;
    i = go(0);
    CHECK(i > 0 && i < MANY);
    until_failure = -1;
    CHECK_EQ(i + go(0), MANY);
    CHECK_EQ(loop.stats.idle, MANY);
}

/* A child without memory has nothing, and does not use the parent's. */
static void a_child_gets_its_poller_when_there_is_memory(void) {
    int pair[2], rc, status = -1;
    pid_t child;
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    say(pair[1]);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        until_failure = 0;
        rc = ka_loop_begin(&loop, 0) == -ENOMEM &&
             ka_loop_modify(&loop, id, KA_WRITE) == -ENOMEM;
        until_failure = -1;
        rc = rc && go(0) == 1 && said(id) == KA_READ;
        ka_loop_close(&loop);
        _exit(!rc);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQ(go(0), 1);
    close_pair(pair);
}

int main(void) {
    RUN_BOTH(birth_gives_all_back);
    RUN_BOTH(a_failing_add_changes_nothing);
    RUN_BOTH(what_finds_no_room_is_idle_later);
    RUN_BOTH(a_child_gets_its_poller_when_there_is_memory);
    return test_report("loop_memory");
}

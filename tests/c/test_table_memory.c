/* The table when there is no memory: each allocation fails in its turn,
 * nothing is lost, and once there is memory it goes on. */
#include "test.h"

#include <errno.h>
#include <stdint.h>

#include "table.h"
#include "failing.h"

#define MANY (40 * KA_PAGE) /* the directory grows twice */

static struct ka_table table;
static ka_id id[MANY], out[MANY];

/* Add until it fails or all are there; how many there are. */
static int fill(int n, int *rc) {
    *rc = 0;
    while (n < MANY && (*rc = ka_table_add(&table, 10, 1000, &id[n])) == 0)
        n++;
    return n;
}

static void check_all(int n) {
    const char *wrong = ka_table_verify(&table);
    int more, i;

    test_check(wrong == NULL, __FILE__, __LINE__, wrong ? wrong : "");
    CHECK_EQ(table.live, n);
    for (i = 0; i < n; i++)
        if (!CHECK(ka_touch(&table, id[i], 1001) != KA_STALE))
            break;
    CHECK_EQ(ka_table_expire(&table, 1011, out, MANY, MANY, &more), 0);
    CHECK_EQ(ka_table_expire(&table, 1012, out, MANY, MANY, &more), n);
    for (i = 0; i < n; i++)
        if (!CHECK(ka_touch(&table, id[i], 1000) == KA_RESCUED))
            break;
}

static void each_allocation_fails_once(void) {
    int n = 0, rounds = 0, rc;

    ka_table_init(&table);
    for (; n < MANY; rounds++) {
        until_failure = 0;
        CHECK_EQ(ka_table_add(&table, 10, 1000, &out[0]), -ENOMEM);
        until_failure = 1; /* sometimes the directory only */
        n = fill(n, &rc);
        CHECK(n == MANY || rc == -ENOMEM);
        until_failure = -1;
        if (rounds % 7 == 0)
            check_all(n);
    }
    until_failure = -1;
    check_all(n);
    CHECK(failures >= rounds);
    CHECK_EQ(table.pages, MANY / KA_PAGE);
    ka_table_close(&table);
}

/* A full table takes the slot of one that left, without memory. */
static void released_slots_need_no_memory(void) {
    int rc;

    ka_table_init(&table);
    until_failure = 2;
    CHECK_EQ(fill(0, &rc), KA_PAGE);
    CHECK_EQ(rc, -ENOMEM);
    CHECK_EQ(ka_table_release(&table, id[9]), 1);
    CHECK_EQ(ka_table_add(&table, 10, 1000, &id[9]), 0);
    CHECK_EQ(ka_table_add(&table, 10, 1000, &out[0]), -ENOMEM);
    until_failure = -1;
    check_all(KA_PAGE);
    ka_table_close(&table);
}

static void asking_for_the_idle_fails_cleanly(void) {
    int rc;

    ka_table_init(&table);
    until_failure = 2;
    CHECK_EQ(fill(0, &rc), KA_PAGE);
    CHECK_EQ(ka_table_longest_idle(&table, 1005, out, 10), -ENOMEM);
    until_failure = -1;
    CHECK_EQ(ka_table_longest_idle(&table, 1005, out, 10), 10);
    check_all(KA_PAGE);
    ka_table_close(&table);
}

int main(void) {
    RUN(each_allocation_fails_once);
    RUN(released_slots_need_no_memory);
    RUN(asking_for_the_idle_fails_cleanly);
    return test_report("table_memory");
}

/* reserve_fixture.h - a reserve for each case, and no number lost by it. */
#ifndef KA_RESERVE_FIXTURE_H
#define KA_RESERVE_FIXTURE_H

#include <fcntl.h>

#include "loop.h"
#include "reserve.h"
#include "test.h"

static int lowest; /* free descriptor before the case */
static struct ka_reserve reserve;

static int lowest_free(void) {
    int fd = fcntl(2, F_DUPFD, 0);

    close(fd);
    return fd;
}

static void before(void) {
    lowest = lowest_free();
    loop_need(ka_reserve_open(&reserve) == 0, "ka_reserve_open");
}

static void after(void) {
    ka_reserve_close(&reserve);
    CHECK_EQ(lowest_free(), lowest);
}

#endif

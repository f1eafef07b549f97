/* reserve_windows.c over the fake: how a duplicate is made, what it says, and
 * what is left when something fails. */
#include "windows_fixture.h"

#include "reserve_windows.c"

static struct ka_reserve reserve;

static void begin(void) {
    fake_reset();
    CHECK_EQ(ka_reserve_open(&reserve), 0);
    CHECK_EQ(fake.started, 1);
}

static void end(void) {
    ka_reserve_close(&reserve);
    CHECK_EQ(fake.started, 0);
    CHECK_EQ(fake.twin, 0);
    CHECK_EQ(fake.on_owner, 0);
}

static void taken_and_given(void) {
    int i;

    for (i = 0; i < 3; i++) {
        CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
        CHECK_EQ(reserve.sock, FAKE_TWIN + (SOCKET)(4 * i));
        CHECK_EQ(fake.twin, reserve.sock);
        ka_reserve_give(&reserve);
        CHECK_EQ(fake.twin, 0);
        CHECK_EQ(reserve.sock, INVALID_SOCKET);
        ka_reserve_give(&reserve);
    }
    CHECK_EQ(fake.twins, 3);
}

static void what_is_closed_is_gone(void) {
    fake.closed = 1;
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, INVALID_SOCKET), -EBADF);
    CHECK_EQ(reserve.taken, 0);
}

static void what_fails_leaves_nothing(void) {
    fake.twin_error = WSAENOBUFS;
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), -ENOBUFS);
    fake.twin_error = 0;
    fake.make_error = WSAEMFILE; /* no handle is left: later */
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), -EMFILE);
    CHECK_EQ(fake.twins, 0);
    ka_reserve_give(&reserve);
    fake.make_error = WSAENOTSOCK; /* closed between the two calls */
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), -EBADF);
    fake.make_error = 0;
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
}

static void closing_gives_it_back(void) {
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
    ka_reserve_close(&reserve);
    CHECK_EQ(fake.twin, 0);
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), -ESTALE);
}

static void a_shutdown_cancels_what_is_under_way(void) {
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
    CHECK_EQ(ka_end_shutdown(reserve.sock), 0);
    CHECK_EQ(fake.shutdowns, 1);
#ifdef KA_FAKE_WINDOWS_H
    CHECK_EQ(fake.cancelled, 1);
#endif
    fake.connected = 0;
    CHECK_EQ(ka_end_shutdown(reserve.sock), -ENOTCONN);
    CHECK_EQ(ka_end_disconnect(reserve.sock), -EOPNOTSUPP);
    CHECK_EQ(fake.shutdowns, 1);
}

static void how_long_it_is_connected(void) {
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
    CHECK_EQ(ka_connected_ms(reserve.sock), -1);
    fake.connected_s = 0;
    CHECK_EQ(ka_connected_ms(reserve.sock), 1000); /* whole seconds */
    fake.connected_s = 3600;
    CHECK_EQ(ka_connected_ms(reserve.sock), 3601000);
    ka_reserve_give(&reserve);
    CHECK_EQ(ka_connected_ms(reserve.sock), -1);
}

static void what_the_duplicate_says(void) {
    struct ka_endpoint local, peer;
    int64_t unread = 0;

    fake.unread = 17;
    CHECK_EQ(ka_reserve_take(&reserve, FAKE_SOCK), 0);
    CHECK_EQ(ka_unread(reserve.sock, &unread), 0);
    CHECK_EQ(unread, 17);
    CHECK_EQ(ka_endpoints(reserve.sock, &local, &peer), 0);
    CHECK_EQ(local.family, 4);
    CHECK_EQ(local.port, 0x1111);
    CHECK_EQ(peer.port, 0x2222);
    CHECK_EQ(local.address[0], 127);
    fake.connected = 0; /* it has ended: no peer */
    CHECK_EQ(ka_endpoints(reserve.sock, &local, &peer), 0);
    CHECK_EQ(local.port, 0x1111);
    CHECK_EQ(peer.family, 0);
    fake.listening = 1;
    CHECK_EQ(ka_unread(reserve.sock, &unread), -EINVAL);
    ka_reserve_give(&reserve);
    CHECK_EQ(ka_endpoints(reserve.sock, &local, &peer), -EBADF);
}

int main(void) {
    test.before = begin;
    test.after = end;
    RUN(taken_and_given);
    RUN(what_is_closed_is_gone);
    RUN(what_fails_leaves_nothing);
    RUN(closing_gives_it_back);
    RUN(a_shutdown_cancels_what_is_under_way);
    RUN(how_long_it_is_connected);
    RUN(what_the_duplicate_says);
    return test_report("windows_duplicate");
}

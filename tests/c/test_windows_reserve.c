/* The duplicate of a real socket of Windows: it is the same connection, it
 * leaves nothing behind, and what is done to it reaches its owner. */
#include "windows_net.h"
#include "test.h"

#include "reserve.h"
#include "sockopt.h"

static struct ka_reserve reserve;

static DWORD handles(void) {
    DWORD count = 0;

    GetProcessHandleCount(GetCurrentProcess(), &count);
    return count;
}

static int say(SOCKET sock, const char *word) {
    return send(sock, word, (int)strlen(word), 0);
}

static int hear(SOCKET sock, char *into, int room) {
    return recv(sock, into, room, 0);
}

static int talks(const struct ends *ends) {
    char word[8];

    return say(ends->our, "there") == 5 && hear(ends->their, word, 8) == 5 &&
           say(ends->their, "back") == 4 && hear(ends->our, word, 8) == 4;
}

static void it_is_the_same_connection(void) {
    static const int families[] = {AF_INET, AF_INET6};
    struct ka_endpoint local, peer, own_local, own_peer;
    uint64_t own, its;
    size_t i;

    for (i = 0; i < 2; i++) {
        struct ends ends = net_pair(families[i]);

        CHECK_EQ(ka_identify(ends.our, &own), 0);
        CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
        CHECK(reserve.sock != ends.our && reserve.sock != INVALID_SOCKET);
        CHECK_EQ(ka_identify(reserve.sock, &its), 0);
        CHECK(own == its);
        CHECK_EQ(ka_endpoints(ends.our, &own_local, &own_peer), 0);
        CHECK_EQ(ka_endpoints(reserve.sock, &local, &peer), 0);
        CHECK(memcmp(&local, &own_local, sizeof local) == 0);
        CHECK(memcmp(&peer, &own_peer, sizeof peer) == 0);
        CHECK_EQ(local.family, i == 0 ? 4 : 6);
        CHECK(local.port != 0 && peer.port != 0 && local.port != peer.port);
        ka_reserve_give(&reserve);
        CHECK(talks(&ends));
        net_close(&ends);
    }
}

static void what_is_unread_is_counted(void) {
    struct ends ends = net_pair(AF_INET);
    int64_t unread = -1;
    int i;

    CHECK_EQ(say(ends.their, "word"), 4);
    CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
    for (i = 0; i < 100 && unread != 4; i++) {
        CHECK_EQ(ka_unread(reserve.sock, &unread), 0);
        Sleep(10);
    }
    CHECK_EQ(unread, 4);
    ka_reserve_give(&reserve);
    net_close(&ends);
}

static void how_long_it_is_connected(void) {
    struct ends ends = net_pair(AF_INET);
    SOCKET fresh = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    int64_t age;

    Sleep(1200);
    CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
    age = ka_connected_ms(reserve.sock);
    CHECK(age >= 1200 && age < 10000);
    ka_reserve_give(&reserve);
    CHECK_EQ(ka_reserve_take(&reserve, ends.their), 0); /* was accepted */
    age = ka_connected_ms(reserve.sock);
    CHECK(age >= 1200 && age < 10000);
    ka_reserve_give(&reserve);
    CHECK_EQ(ka_connected_ms(fresh), -1);
    closesocket(fresh);
    net_close(&ends);
}

static void nothing_is_left(void) {
    struct ends ends = net_pair(AF_INET);
    u_long blocking = 0;
    DWORD before;
    int i;

    (void)blocking;
    CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
    ka_reserve_give(&reserve);
    before = handles();
    for (i = 0; i < 300; i++) {
        CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
        ka_reserve_give(&reserve);
        ka_reserve_give(&reserve); /* twice is once */
    }
    CHECK_EQ(handles(), before);
    CHECK(talks(&ends));
    net_close(&ends);
}

static void what_is_no_socket_is_refused(void) {
    struct ends ends = net_pair(AF_INET);
    HANDLE event = CreateEventW(NULL, 0, 0, NULL);

    CHECK_EQ(ka_reserve_take(&reserve, (ka_sock)event), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, INVALID_SOCKET), -EBADF);
    closesocket(ends.our);
    CHECK_EQ(ka_reserve_take(&reserve, ends.our), -EBADF);
    CloseHandle(event);
    closesocket(ends.their);
}

/* A duplicate must not keep what its owner closes. */
static void the_owners_close_is_an_end(void) {
    struct ends ends = net_pair(AF_INET);
    char byte;

    CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
    ka_reserve_give(&reserve);
    closesocket(ends.our);
    CHECK_EQ(hear(ends.their, &byte, 1), 0);
    closesocket(ends.their);
}

static void a_blocking_socket_goes_on_to_block(void) {
    struct ends ends = net_pair(AF_INET);
    char byte;

    net_nonblocking(ends.their);
    CHECK_EQ(ka_reserve_take(&reserve, ends.their), 0);
    ka_reserve_give(&reserve);
    CHECK_EQ(hear(ends.their, &byte, 1), -1);
    CHECK_EQ(WSAGetLastError(), WSAEWOULDBLOCK);
    net_close(&ends);
}

static SOCKET listened;
static int heard, error;

static DWORD WINAPI listen_to(LPVOID unused) {
    char byte;

    (void)unused;
    heard = hear(listened, &byte, 1);
    error = heard < 0 ? WSAGetLastError() : 0;
    return 0;
}

static void a_shutdown_brings_a_blocked_call_back(void) {
    struct ends ends = net_pair(AF_INET);
    HANDLE thread;
    char byte;

    listened = ends.our;
    thread = CreateThread(NULL, 0, listen_to, NULL, 0, NULL);
    Sleep(200);
    CHECK_EQ(ka_reserve_take(&reserve, ends.our), 0);
    CHECK_EQ(ka_end_disconnect(reserve.sock), -EOPNOTSUPP);
    CHECK_EQ((int)WaitForSingleObject(thread, 100), (int)WAIT_TIMEOUT);
    CHECK_EQ(ka_end_shutdown(reserve.sock), 0);
    ka_reserve_give(&reserve);
    CHECK_EQ((int)WaitForSingleObject(thread, 5000), (int)WAIT_OBJECT_0);
    CHECK(heard <= 0);
    printf("a blocked recv: %d, error %d\n", heard, error);
    CHECK(hear(ends.our, &byte, 1) <= 0);
    CHECK_EQ(say(ends.our, "more"), -1);
    CHECK_EQ(WSAGetLastError(), WSAESHUTDOWN);
    CHECK_EQ(hear(ends.their, &byte, 1), 0);
    CloseHandle(thread);
    net_close(&ends);
}

int main(void) {
    net_start();
    CHECK_EQ(ka_reserve_open(&reserve), 0);
    RUN(it_is_the_same_connection);
    RUN(what_is_unread_is_counted);
    RUN(how_long_it_is_connected);
    RUN(nothing_is_left);
    RUN(what_is_no_socket_is_refused);
    RUN(the_owners_close_is_an_end);
    RUN(a_blocking_socket_goes_on_to_block);
    RUN(a_shutdown_brings_a_blocked_call_back);
    ka_reserve_close(&reserve);
    CHECK_EQ(ka_reserve_take(&reserve, 4), -ESTALE);
    return test_report("windows_reserve");
}

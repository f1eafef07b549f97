/* A system without an implementation says so, everywhere. Linked with none.c
 * here and with windows.c by the cross compiler. */
#include "stillalive.h"

#include <errno.h>
#include <stdio.h>

#include "sockopt.h"

static int passed, failed;

static void refused(const char *what, int rc) {
    if (rc == -ENOPROTOOPT) {
        passed++;
        return;
    }
    failed++;
    printf("%s returned %d\n", what, rc);
}

int main(void) {
    struct ka_policy policy = {{1, -1, -1, -1, -1, -1}}, out;
    struct ka_fault fault = {-1, -1};
    struct ka_range range;
    struct ka_kind kind;
    struct ka_info info;
    struct ka_pending pending;
    struct ka_verdict verdict;
    struct ka_witness witness;
    struct ka_question question;
    uint64_t identity;
    int32_t value;
    ka_sock sock = 0;

    refused("supported", ka_supported() == 0 ? -ENOPROTOOPT : 0);
    refused("range", ka_option_range(KA_IDLE, &range));
    refused("get", ka_get(sock, KA_IDLE, &value));
    refused("set", ka_set(sock, KA_IDLE, 1));
    refused("read", ka_read(sock, &out, &fault));
    refused("apply", ka_apply(sock, &policy, &out, &fault));
    refused("fresh", ka_apply_fresh(sock, &policy, &fault));
    refused("kind", ka_kind(sock, &kind));
    refused("identify", ka_identify(sock, &identity));
    refused("info", ka_info(sock, &info));
    refused("pending", ka_pending(sock, &pending));
    refused("check", ka_check(sock, &verdict));
    refused("begin", ka_witness_begin(&witness, sock, 0, &verdict));
    refused("os ask", ka_os_ask(sock, &policy, 1, &fault));
    refused("os unask", ka_os_unask(sock, &policy, &fault));
    ka_question_begin(&question, sock, 1);
    refused("ask", ka_question_ask(&question, 0, &fault));
    refused("end", ka_question_end(&question, &fault) == 0 ? -ENOPROTOOPT : 0);
    refused("names", ka_option_name(KA_IDLE)[0] == 'T' ? -ENOPROTOOPT : 0);
    if (failed)
        printf("unsupported: %d FAILED, ", failed);
    else
        printf("unsupported: ");
    printf("%d passed\n", passed);
    return failed != 0;
}

/* test_reserve_masked.c - the reserved number where files have other numbers
 * than on Linux: all of test_reserve.c, once for each kind. */
#include "mask.h"

#define main reserve_main
#include "test_reserve.c"
#undef main

int main(void) {
    int failed;

    mask = MAC;
    failed = reserve_main();
    mask = FREEBSD;
    return reserve_main() || failed;
}

/* fuzz_smoke.c - drives a fuzz target without libFuzzer: the files named, or
 * RUNS inputs from a fixed seed. For compilers that have no fuzzer, and for
 * the other sanitizers. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LONGEST 1024

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t next(void) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int replay(const char *path) {
    static uint8_t data[1 << 16];
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file) {
        perror(path);
        return 1;
    }
    size = fread(data, 1, sizeof data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    return 0;
}

int main(int argc, char **argv) {
    const char *wanted = getenv("RUNS");
    long runs = wanted ? atol(wanted) : 20000, i;
    static uint8_t data[LONGEST];
    size_t size, n;
    int bad = 0;

    for (i = 1; i < argc; i++)
        bad |= replay(argv[i]);
    if (argc > 1)
        return bad;
    for (i = 0; i < runs; i++) {
        size = next() % LONGEST;
        for (n = 0; n < size; n++)
            data[n] = (uint8_t)(next() >> 24);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld passed\n", runs);
    return 0;
}

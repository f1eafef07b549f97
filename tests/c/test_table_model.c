/* A million random operations, on the table and on a naive one. SEED=n
 * repeats a run. */
#include "table_model.h"
#include "test.h"

#include <time.h>

static struct model model;
static uint64_t seed, state;

static uint32_t chance(uint32_t below) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

struct config {
    const char *name;
    int64_t start;  /* of the ticks */
    uint32_t limit; /* up to this */
    uint32_t most;  /* entries */
    uint32_t step;  /* ticks at a time, up to this */
    int room, budget;
    int operations;
    int busy; /* in a hundred, this many are touches */
};

/* Near the wrap, so that each run goes across it; and a jump now and then
 * goes far. */
#define WRAP 0x100000000
static const struct config configs[] = {
    {"small limits", WRAP - 20000, 40, 300, 3, 5000, 1000, 150000, 40},
    {"tiny slices", WRAP - 20000, 40, 300, 3, 3, 1, 150000, 40},
    {"room for one", WRAP - 1000, 5, 100, 2, 1, 50, 100000, 40},
    {"large limits", WRAP - 500000000, 1u << 29, 300, 1u << 22, 64, 3, 150000,
     40},
    {"one limit", WRAP - 300000, 1, 500, 4, 70, 7, 100000, 50},
    {"few entries", WRAP - 3000, 9, 4, 2, 2, 2, 150000, 20},
    {"many entries", WRAP - 4000, 800, 12000, 5, 4096, 64, 100000, 60},
    {"more come than go", WRAP - 9000, 300, 10000, 1, 50, 2, 100000, 5},
};
#define CONFIGS (sizeof configs / sizeof *configs)

static uint32_t some_limit(const struct config *config) {
    if (chance(20) == 0)
        return KA_NO_LIMIT;
    if (chance(200) == 0)
        return KA_NO_LIMIT - 1;
    return chance(config->limit + 1);
}

static uint32_t some_slot(void) {
    return model.used[chance(model.count)];
}

static const char *move_time(const struct config *config) {
    if (chance(500) == 0)
        return model_advance(&model, chance(100000000));
    return model_advance(&model, chance(config->step + 1));
}

static const char *change_one(const struct config *config) {
    if (model.count == 0)
        return model_add(&model, some_limit(config));
    switch (chance(8)) {
        case 0:
            return model_release(&model, some_slot());
        case 1:
            return model_set_limit(&model, some_slot(), some_limit(config));
        case 2:
            return model_pause(&model, some_slot());
        case 3:
        case 4:
            return model_resume(&model, some_slot());
        case 5:
            return model.stales ? model_stale(&model, chance(MODEL_STALE))
                                : NULL;
        default:
            return model_look(&model, some_slot());
    }
}

static const char *one_operation(const struct config *config) {
    int budget = config->budget, room = config->room, more;

    if (model.count > 0 && (int)chance(100) < config->busy)
        return model_touch(&model, some_slot(), (int64_t)chance(5) - 2,
                           (int)chance(2));
    switch (chance(8)) {
        case 0:
        case 1:
            return model.count < config->most
                       ? model_add(&model, some_limit(config))
                       : model_release(&model, some_slot());
        case 2:
            return move_time(config);
        case 3:
            return model_expire(&model, room, budget, &more);
        case 4:
            return chance(40) ? model_next(&model)
                              : model_longest(&model, (int)chance(40));
        default:
            return change_one(config);
    }
}

static void run_config(const struct config *config) {
    const char *wrong = NULL;
    int i;

    test_begin(config->name);
    model_open(&model, config->start);
    while (model.count < config->most / 2 && wrong == NULL)
        wrong = model_add(&model, some_limit(config));
    for (i = 0; i < config->operations && wrong == NULL; i++) {
        wrong = one_operation(config);
        if (wrong == NULL && i % 500 == 0)
            wrong = ka_table_verify(&model.table);
    }
    if (wrong == NULL)
        wrong = model_sweep(&model, config->room, config->budget);
    if (wrong == NULL)
        wrong = ka_table_verify(&model.table);
    if (wrong != NULL)
        printf("SEED=%llu, operation %d of '%s': %s\n",
               (unsigned long long)seed, i, config->name, wrong);
    CHECK(wrong == NULL);
    CHECK(model.now > WRAP);
    CHECK(model.table.claims > 0);
    model_close(&model);
    test_end();
}

int main(void) {
    const char *wanted = getenv("SEED");
    size_t i;

    seed = wanted ? strtoull(wanted, NULL, 0)
                  : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    state = seed * 0x9e3779b97f4a7c15u | 1;
    printf("SEED=%llu\n", (unsigned long long)seed);
    for (i = 0; i < CONFIGS; i++)
        run_config(&configs[i]);
    return test_report("table_model");
}

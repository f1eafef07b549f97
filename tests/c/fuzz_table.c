/* Bytes into operations on a table and on a naive one, which must agree
 * after each. */
#include "fuzz.h"

#include "table_model.h"

#define OPERATIONS 400
#define VERIFIED 8 /* looking at every word takes longer than all the rest */

static struct model model;

static void agree(const char *difference) {
    if (difference != NULL)
        fprintf(stderr, "table: %s\n", difference);
    PROMISE(difference == NULL);
}

static uint32_t feed_limit(struct feed *feed) {
    switch (feed_bytes(feed, 1) % 8) {
        case 0:
            return KA_NO_LIMIT;
        case 1:
            return KA_NO_LIMIT - 1 - (uint32_t)feed_bytes(feed, 1);
        case 2:
            return (uint32_t)feed_range(feed, 0, KA_NO_LIMIT);
        default:
            return (uint32_t)feed_bytes(feed, 1);
    }
}

/* Near the wrap, near a state's value, or anywhere. */
static int64_t feed_start(struct feed *feed) {
    int64_t start = (int64_t)feed_bytes(feed, 4);

    if (start & 1)
        start = 0x100000000 - (start >> 1) % 400;
    return start;
}

static int64_t feed_jump(struct feed *feed) {
    switch (feed_bytes(feed, 1) % 8) {
        case 0:
            return feed_range(feed, 0, 110000000);
        case 1: { /* to the wrap, if it is in sight */
            int64_t left = 0x100000000 - (model.now & UINT32_MAX);

            return left < 110000000
                       ? left - 1 + (int64_t)feed_bytes(feed, 1) % 4
                       : 1;
        }
        case 2:
            return feed_range(feed, 0, 2000);
        default:
            return feed_range(feed, 0, 12);
    }
}

static void add_some(struct feed *feed) {
    int n = 1;

    if (feed_bytes(feed, 1) >= 250)
        n = (int)feed_range(feed, 1, KA_PAGE / 2);
    while (n-- > 0)
        agree(model_add(&model, feed_limit(feed)));
}

static void expire_some(struct feed *feed) {
    int room = (int)feed_range(feed, -1, 70);
    int budget = (int)feed_range(feed, -1, 20), more;

    agree(model_expire(&model, room, budget, &more));
}

static void on_one(struct feed *feed, unsigned operation) {
    uint32_t slot = model.used[feed_range(feed, 0, (int64_t)model.count - 1)];

    switch (operation) {
        case 0:
            agree(model_release(&model, slot));
            break;
        case 1:
            agree(model_set_limit(&model, slot, feed_limit(feed)));
            break;
        case 2:
            agree(model_pause(&model, slot));
            break;
        case 3:
            agree(model_resume(&model, slot));
            break;
        case 4:
            agree(model_touch(&model, slot, 0, 1));
            break;
        default:
            agree(model_touch(&model, slot, feed_range(feed, -20, 20), 0));
    }
    if (operation != 0)
        agree(model_look(&model, slot));
}

static void one_operation(struct feed *feed) {
    unsigned operation = (unsigned)feed_bytes(feed, 1) % 14;

    switch (operation) {
        case 6:
        case 7:
            add_some(feed);
            break;
        case 8:
            agree(model_advance(&model, feed_jump(feed)));
            break;
        case 9:
        case 10:
            expire_some(feed);
            break;
        case 11:
            agree(model_sweep(&model, 1 + (int)feed_bytes(feed, 1), 5));
            break;
        case 12:
            agree(model_longest(&model, (int)feed_range(feed, -1, 30)));
            break;
        case 13:
            if (model.stales > 0)
                agree(model_stale(&model, (unsigned)feed_bytes(feed, 1)));
            break;
        default:
            if (model.count > 0)
                on_one(feed, operation);
    }
    agree(model_next(&model));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct feed feed = {data, size};
    int i;

    model_open(&model, feed_start(&feed));
    for (i = 0; i < OPERATIONS && feed.left > 0; i++) {
        one_operation(&feed);
        if (i % VERIFIED == 0)
            agree(ka_table_verify(&model.table));
    }
    agree(model_sweep(&model, 50, 3));
    agree(ka_table_verify(&model.table));
    model_close(&model);
    return 0;
}

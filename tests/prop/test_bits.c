/* SPDX-License-Identifier: Apache-2.0 */
/* Same bits: random schedules (bits_schedule.h) at every level of kernels that this machine has, over every block
 * type that a random model can be made of and every type of pages that has a layout, on models of several
 * shapes; then a few on SmolLM2 where it is at hand ($KVASIR_MODEL).
 *
 *   test_bits [--schedules N] [--seed N] [--level NAME] [--type NAME] [--kv N] [--verbose]
 *
 * Without a number ($KVASIR_SCHEDULES) as many run as a few seconds allow. Schedule i has the seed SEED + i, so
 * `--seed THAT --schedules 1` runs a failing one again ($KVASIR_SEED is the first seed). A schedule that differs is
 * run again with less and less in it, as long as it still differs; what is left is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/base/sanitizer.h"
#include "common/gguf/file.h"
#include "common/shm/pool.h"
#include "tests/data/random_model.h"
#include "tests/prop/bits_schedule.h"

enum { LEVELS_MAX = 8, KV_TYPES_MAX = 16, RANDOM_SECONDS = 10, REAL_SECONDS = 4, REAL_SHARE = 40 };

static struct {
    uint64_t seed;
    uint32_t schedules; // 0: as many as fit
    const char *level, *type;
    int kv_type; // -1: any
    bool verbose;
} options = {.seed = 20250106, .kv_type = -1};

static const enum tensor_type types[] = {
#define X(type) type,
    RANDOM_MODEL_TYPES(X)
#undef X
};

/* Heads alone, in groups, and wider than the model; a vocabulary that fills no tile. */
static const struct random_model_shape shapes[] = {
    {2, 256, 8, 2, 32, 512, 96, false},
    {2, 256, 12, 4, 64, 256, 97, false},
    {1, 256, 4, 4, 64, 768, 200, true},
    {1, 512, 6, 2, 128, 512, 35, false},
};

struct level {
    const struct kern_ops *ops;
    uint32_t kv_types[KV_TYPES_MAX];
    uint32_t kv_count;
};

struct totals {
    uint32_t schedules;
    uint64_t rows;
    struct schedule_result sum;
};

static uint32_t level_count;
static struct level levels[LEVELS_MAX]; // best first

static int open_shaped(const struct random_model_shape *shape, enum tensor_type type, uint64_t seed,
                       struct buf *ret_file, struct gguf **ret_gguf, struct model_facts *ret_facts)
{
    struct err err = {0};
    random_model_make_shaped(shape, type, seed, ret_file);
    int r = gguf_parse(ret_file->bytes, ret_file->len, ret_gguf, &err);
    if (r == 0) r = model_facts_read(*ret_gguf, ret_facts, &err);
    if (r < 0) fail_msg("random model: %s", err.text);
    return r;
}

/* Which pages a level can keep: every type that has a layout, when the level does not refuse it. */
static int find_levels(void **state)
{
    (void)state;
    struct buf file;
    struct gguf *gguf;
    struct model_facts facts;
    uint32_t count;
    const struct kern_ops *const *ops = kern_levels(&count);
    open_shaped(&shapes[0], TENSOR_F32, 1, &file, &gguf, &facts);
    for (uint32_t i = 0; i < count; i++) {
        if (options.level && strcmp(options.level, ops[i]->name) != 0) continue;
        CHECK(level_count < LEVELS_MAX);
        struct level *level = &levels[level_count++];
        level->ops = ops[i];
        printf("%s, types of pages:", ops[i]->name);
        for (uint32_t kv = 0; kv < KV_TYPES_MAX; kv++) {
            struct schedule_conf conf = {.ops = ops[i],
                                         .gguf = gguf,
                                         .facts = &facts,
                                         .kv_type = kv,
                                         .seqs_max = 1,
                                         .positions_max = 2};
            struct schedule_result result;
            if (options.kv_type >= 0 && kv != (uint32_t)options.kv_type) continue;
            if (pool_page_bytes((enum kv_type)kv, 1, 1, 16) == 0) continue;
            if (schedule_run(&conf, &result, NULL) != 0) continue;
            level->kv_types[level->kv_count++] = kv;
            printf(" %u", kv);
        }
        printf("\n");
        if (level->kv_count == 0) level_count--;
    }
    gguf_free(gguf);
    buf_done(&file);
    return level_count > 0 ? 0 : -1;
}

static bool differs(const struct schedule_conf *conf, struct schedule_result *ret_result)
{
    struct err err = {0};
    int r = schedule_run(conf, ret_result, &err);
    if (r < 0) fail_msg("schedule of seed %llu: %s", (unsigned long long)conf->seed, err.text);
    return ret_result->differs;
}

/* Leaves out what is not needed to differ, then prints what is left and fails. */
static void report(struct schedule_conf *conf, const char *model)
{
    static const uint32_t features[] = {
#define X(name, value, text) name,
        SCHEDULE_FEATURES(X)
#undef X
    };
    struct schedule_result result;
    bool is_smaller = true;
    while (is_smaller) {
        is_smaller = false;
        for (size_t i = 0; i < COUNT_OF(features) + 2; i++) {
            struct schedule_conf less = *conf;
            if (i < COUNT_OF(features)) less.features &= ~features[i];
            else if (i == COUNT_OF(features)) less.seqs_max = (less.seqs_max + 1) / 2;
            else less.positions_max = less.positions_max > 3 ? less.positions_max * 2 / 3 : 2;
            bool is_same = less.features == conf->features && less.seqs_max == conf->seqs_max &&
                           less.positions_max == conf->positions_max;
            if (is_same || !differs(&less, &result)) continue;
            *conf = less;
            is_smaller = true;
        }
    }
    CHECK(differs(conf, &result));
    printf("seed %llu: level %s, %s, pages of type %u, up to %u sequences of %u positions", //
           (unsigned long long)conf->seed, conf->ops->name, model, conf->kv_type, conf->seqs_max,
           conf->positions_max);
#define X(name, value, text) \
    if (conf->features & (name)) printf(", " text);
    SCHEDULE_FEATURES(X)
#undef X
    printf("\n");
    fail_msg("seed %llu: %s", (unsigned long long)conf->seed, result.text);
}

static void run(struct schedule_conf *conf, const char *model, struct totals *totals)
{
    struct schedule_result result;
    uint64_t start_ns = clock_mono_ns();
    if (differs(conf, &result)) report(conf, model);
    totals->schedules++;
    totals->rows += result.rows;
    totals->sum.logit_rows += result.logit_rows;
    totals->sum.page_hits += result.page_hits;
    totals->sum.tail_copies += result.tail_copies;
    totals->sum.evictions += result.evictions;
    totals->sum.preemptions += result.preemptions;
    totals->sum.replays += result.replays;
    totals->sum.restarts += result.restarts;
    if (options.verbose)
        printf("seed %llu: %s %s, pages of type %u: %u steps, %u rows, %.0f ms\n",
               (unsigned long long)conf->seed, conf->ops->name, model, conf->kv_type, result.steps,
               result.rows, (double)(clock_mono_ns() - start_ns) * 1e-6);
}

static void print_totals(const struct totals *totals)
{
    const struct schedule_result *sum = &totals->sum;
    printf("%u schedules: %llu rows, %u rows of logits compared; %u pages shared, %u beginnings copied, %u "
           "evictions, "
           "%u preemptions, %u steps lost, %u restarts\n",
           totals->schedules, (unsigned long long)totals->rows, sum->logit_rows, sum->page_hits,
           sum->tail_copies, sum->evictions, sum->preemptions, sum->replays, sum->restarts);
}

/* Schedule number i: what it runs on follows from its seed. The best level takes half. */
static void run_random(uint32_t i, struct totals *totals)
{
    struct schedule_conf conf = {
        .seed = options.seed + i, .features = SCHEDULE_ALL, .seqs_max = SCHEDULE_SEQS_MAX};
    struct rng rng = {.state = conf.seed};
    struct buf file;
    struct gguf *gguf;
    struct model_facts facts;
    bool is_best = rng_below(&rng, 2) == 0;
    const struct level *level = &levels[is_best ? 0 : rng_below(&rng, level_count)];
    const struct random_model_shape *shape = &shapes[rng_below(&rng, COUNT_OF(shapes))];
    enum tensor_type type = types[rng_below(&rng, COUNT_OF(types))];
    for (size_t k = 0; options.type && k < COUNT_OF(types); k++)
        if (strcmp(options.type, tensor_type_info(types[k])->name) == 0) type = types[k];
    open_shaped(shape, type, conf.seed % 16, &file, &gguf, &facts);
    conf.ops = level->ops;
    conf.gguf = gguf;
    conf.facts = &facts;
    conf.kv_type = level->kv_types[rng_below(&rng, level->kv_count)];
    conf.positions_max = level == &levels[0] ? 600 : 150; // other levels are slower
    run(&conf, tensor_type_info(type)->name, totals);
    gguf_free(gguf);
    buf_done(&file);
}

static void test_bits_random_schedules(void **state)
{
    (void)state;
    struct totals totals = {0};
    uint64_t end_ns = clock_mono_ns() + UINT64_C(1000000000) * RANDOM_SECONDS;
    for (uint32_t i = 0; options.schedules ? i < options.schedules : clock_mono_ns() < end_ns; i++)
        run_random(i, &totals);
    print_totals(&totals);
}

static void test_bits_real_model(void **state)
{
    (void)state;
    const char *path = getenv("KVASIR_MODEL"), *home = getenv("HOME");
    char at_home[512];
    (void)snprintf(at_home, sizeof at_home, "%s/.cache/kvasir/SmolLM2-135M-Instruct.Q4_1.gguf",
                   home ? home : "");
    if (!path && access(at_home, R_OK) == 0) path = at_home;
#if SANITIZES_ADDRESS
    path = NULL; // too slow
#endif
    if (!path) {
        printf("no model, or a sanitizer: not tested\n");
        skip();
    }
    struct err err = {0};
    struct gguf_file file;
    struct model_facts facts;
    struct totals totals = {0};
    if (gguf_file_open(path, &file, &err) < 0 || model_facts_read(file.gguf, &facts, &err) < 0)
        fail_msg("%s", err.text);
    uint64_t end_ns = clock_mono_ns() + UINT64_C(1000000000) * REAL_SECONDS;
    uint32_t count = (options.schedules + REAL_SHARE - 1) / REAL_SHARE;
    for (uint32_t i = 0; options.schedules ? i < count : clock_mono_ns() < end_ns; i++) {
        struct schedule_conf conf = {.ops = levels[0].ops,
                                     .gguf = file.gguf,
                                     .facts = &facts,
                                     .kv_type = levels[0].kv_types[i % levels[0].kv_count],
                                     .seed = options.seed + i,
                                     .features = SCHEDULE_ALL,
                                     .seqs_max = 4,
                                     .positions_max = 100};
        run(&conf, "real model", &totals);
    }
    print_totals(&totals);
    gguf_file_close(&file);
}

static bool parse(int argc, char **argv)
{
    const char *seed = getenv("KVASIR_SEED"), *schedules = getenv("KVASIR_SCHEDULES");
    if (seed) options.seed = strtoull(seed, NULL, 0);
    if (schedules) options.schedules = (uint32_t)strtoul(schedules, NULL, 0);
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--verbose") == 0) {
            options.verbose = true;
            continue;
        }
        if (!value) return false;
        if (strcmp(name, "--schedules") == 0) options.schedules = (uint32_t)strtoul(value, NULL, 0);
        else if (strcmp(name, "--seed") == 0) options.seed = strtoull(value, NULL, 0);
        else if (strcmp(name, "--level") == 0) options.level = value;
        else if (strcmp(name, "--type") == 0) options.type = value;
        else if (strcmp(name, "--kv") == 0) options.kv_type = atoi(value);
        else return false;
        i++;
    }
    return true;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: test_bits [--schedules N] [--seed N] [--level NAME] [--type NAME] [--kv N] "
                        "[--verbose]\n");
        return 64;
    }
    printf("seed %llu\n", (unsigned long long)options.seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_random_schedules),
        cmocka_unit_test(test_bits_real_model),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}

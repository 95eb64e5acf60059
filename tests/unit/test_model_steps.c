/* SPDX-License-Identifier: Apache-2.0 */
/* Determinism of a step, at every level of kernels this machine has: the logits of a row are the same
 * bits however the prompt was chunked, wherever its pages lie, whatever else is in the batch, and on
 * however many threads. Random models, so that no file is needed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/data/random_model.h"
#include "tests/unit/kern_rig.h"
#include "tests/unit/model_rig.h"

enum { TOKENS = 75, ROWS_MAX = 96, PAGES = 32, SEQS_MAX = 4, VOCAB = RANDOM_MODEL_VOCAB };

static uint64_t seed;

struct fixture {
    struct buf file;
    struct model_rig rig;
    uint32_t tokens[TOKENS];
};

static void open_model(const struct kern_ops *ops, enum tensor_type type, uint32_t threads,
                       struct fixture *fixture)
{
    struct err err = {0};
    struct rng rng = {.state = seed};
    random_model_make(type, seed, &fixture->file);
    const struct model_rig_conf conf = {.ops = ops,
                                        .threads = threads,
                                        .rows_max = ROWS_MAX,
                                        .logits_max = ROWS_MAX,
                                        .position_max = 256,
                                        .page_count = PAGES};
    int r = model_rig_open_bytes(fixture->file.bytes, fixture->file.len, &conf, &fixture->rig, &err);
    if (r < 0) fail_msg("%s: %s", ops->name, err.text);
    for (uint32_t i = 0; i < TOKENS; i++) fixture->tokens[i] = (uint32_t)rng_below(&rng, VOCAB);
}

static void close_model(struct fixture *fixture)
{
    model_rig_close(&fixture->rig);
    buf_done(&fixture->file);
}

/* The first `count` tokens in chunks, logits of every row into out: (count, VOCAB). */
static void run_chunks(struct fixture *fixture, uint32_t count, uint32_t chunk, const uint32_t *pages,
                       float *out)
{
    struct err err = {0};
    const float *logits;
    for (uint32_t first = 0; first < count; first += chunk) {
        uint32_t rows = count - first < chunk ? count - first : chunk;
        int r = model_rig_step(&fixture->rig, fixture->tokens + first, rows, first, pages, PAGES / 2, rows,
                               &logits, &err);
        if (r < 0) fail_msg("%s", err.text);
        memcpy(out + (size_t)first * VOCAB, logits, (size_t)rows * VOCAB * sizeof(float));
    }
}

static void shuffle_pages(struct rng *rng, uint32_t pages[PAGES])
{
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = i;
    for (uint32_t i = PAGES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)rng_below(rng, i + 1), page = pages[i];
        pages[i] = pages[j];
        pages[j] = page;
    }
}

static void expect_same(const struct kern_ops *ops, const char *what, const float *got, const float *expected,
                        uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++) {
        const float *a = got + (size_t)row * VOCAB, *b = expected + (size_t)row * VOCAB;
        if (memcmp(a, b, VOCAB * sizeof(float)) == 0) continue;
        for (uint32_t i = 0; i < VOCAB; i++) {
            if (memcmp(&a[i], &b[i], sizeof(float)) == 0) continue;
            fail_msg("%s, %s: row %u, logit %u is %.9g, expected %.9g", ops->name, what, row, i, a[i], b[i]);
        }
    }
}

static float expected[TOKENS * VOCAB], got[TOKENS * VOCAB];

/* Calls check for every level and some block types. */
static void for_each_level(void (*check)(const struct kern_ops *ops, struct fixture *fixture))
{
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_Q4_K};
    uint32_t level_count;
    const struct kern_ops *const *levels = kern_levels(&level_count);
    for (uint32_t level = 0; level < level_count; level++) {
        if (!kern_rig_wants(levels[level])) continue;
        for (size_t i = 0; i < COUNT_OF(types); i++) {
            struct fixture fixture = {0};
            uint32_t pages[PAGES];
            for (uint32_t k = 0; k < PAGES; k++) pages[k] = k;
            open_model(levels[level], types[i], 1, &fixture);
            run_chunks(&fixture, TOKENS, TOKENS, pages, expected);
            check(levels[level], &fixture);
            close_model(&fixture);
        }
    }
}

static void check_chunks(const struct kern_ops *ops, struct fixture *fixture)
{
    static const uint32_t chunks[] = {1, 2, 7, 16, 33, 74};
    uint32_t pages[PAGES];
    for (uint32_t k = 0; k < PAGES; k++) pages[k] = PAGES - 1 - k;
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        run_chunks(fixture, TOKENS, chunks[i], pages, got);
        expect_same(ops, "in chunks", got, expected, TOKENS);
    }
}

static void test_model_chunks_give_the_same_bits(void **state)
{
    (void)state;
    for_each_level(check_chunks);
}

static void check_random_pages(const struct kern_ops *ops, struct fixture *fixture)
{
    struct rng rng = {.state = seed + 1};
    for (int round = 0; round < 4; round++) {
        uint32_t pages[PAGES], first = 1 + (uint32_t)rng_below(&rng, TOKENS - 1);
        shuffle_pages(&rng, pages);
        run_chunks(fixture, TOKENS, first, pages, got);
        expect_same(ops, "random pages", got, expected, TOKENS);
    }
}

static void test_model_pages_anywhere_give_the_same_bits(void **state)
{
    (void)state;
    for_each_level(check_random_pages);
}

/* Several sequences of the same tokens at different places of their lives, each with pages of its own; every
 * step takes random numbers of rows from each. */
static void check_batches(const struct kern_ops *ops, struct fixture *fixture)
{
    struct rng rng = {.state = seed + 2};
    uint32_t pages[PAGES], done[SEQS_MAX] = {0};
    const uint32_t seq_pages = PAGES / SEQS_MAX, length = TOKENS;
    CHECK(seq_pages * PAGE_TOKENS >= TOKENS);
    shuffle_pages(&rng, pages);
    for (uint32_t left = SEQS_MAX * length; left > 0;) {
        struct kern_seq seqs[SEQS_MAX];
        uint32_t who[SEQS_MAX], tokens[ROWS_MAX], positions[ROWS_MAX], rows[ROWS_MAX], seq_count = 0,
                                                                                       row_count = 0;
        for (uint32_t s = 0; s < SEQS_MAX; s++) {
            uint32_t take = (uint32_t)rng_below(&rng, 3) ? (uint32_t)rng_below(&rng, 20) : 1;
            if (take > length - done[s]) take = length - done[s];
            if (take == 0) continue;
            for (uint32_t i = 0; i < take; i++) {
                rows[row_count + i] = row_count + i;
                tokens[row_count + i] = fixture->tokens[done[s] + i];
                positions[row_count + i] = done[s] + i;
            }
            who[seq_count] = s;
            seqs[seq_count++] = (struct kern_seq){.row_first = row_count,
                                                  .row_count = take,
                                                  .pos_first = done[s],
                                                  .pages = pages + s * seq_pages,
                                                  .page_count = seq_pages};
            row_count += take;
        }
        if (seq_count == 0) continue;
        const struct kern_batch batch = {.row_count = row_count,
                                         .tokens = tokens,
                                         .positions = positions,
                                         .seq_count = seq_count,
                                         .seqs = seqs};
        struct err err = {0};
        const float *logits;
        int r = model_forward(fixture->rig.model, &batch, rows, row_count, &logits, &err);
        if (r < 0) fail_msg("%s", err.text);
        for (uint32_t i = 0; i < seq_count; i++) {
            expect_same(ops, "in a batch", logits + (size_t)seqs[i].row_first * VOCAB,
                        expected + (size_t)seqs[i].pos_first * VOCAB, seqs[i].row_count);
            done[who[i]] += seqs[i].row_count;
            left -= seqs[i].row_count;
        }
    }
}

static void test_model_batches_give_the_same_bits(void **state)
{
    (void)state;
    for_each_level(check_batches);
}

/* Only some rows' logits asked for, as a worker does. */
static void check_some_rows(const struct kern_ops *ops, struct fixture *fixture)
{
    struct err err = {0};
    uint32_t pages[PAGES], positions[TOKENS];
    const uint32_t rows[] = {0, 5, 6, 40, TOKENS - 1};
    const float *logits;
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = i;
    for (uint32_t i = 0; i < TOKENS; i++) positions[i] = i;
    const struct kern_seq seq = {.row_count = TOKENS, .pages = pages, .page_count = PAGES};
    const struct kern_batch batch = {
        .row_count = TOKENS, .tokens = fixture->tokens, .positions = positions, .seq_count = 1, .seqs = &seq};
    assert_int_equal(model_forward(fixture->rig.model, &batch, rows, COUNT_OF(rows), &logits, &err), 0);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        expect_same(ops, "some rows", logits + i * VOCAB, expected + (size_t)rows[i] * VOCAB, 1);
    }
    assert_int_equal(model_forward(fixture->rig.model, &batch, NULL, 0, &logits, &err), 0);
}

static void test_model_logits_of_some_rows_are_those_of_all(void **state)
{
    (void)state;
    for_each_level(check_some_rows);
}

static void check_threads(const struct kern_ops *ops, struct fixture *fixture)
{
    uint32_t pages[PAGES];
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = i;
    for (uint32_t threads = 2; threads <= 3; threads++) {
        struct fixture other = {0};
        open_model(ops, gguf_tensor_find(fixture->rig.gguf, "token_embd.weight")->type, threads, &other);
        run_chunks(&other, TOKENS, 16, pages, got);
        expect_same(ops, "threads", got, expected, TOKENS);
        close_model(&other);
    }
}

static void test_model_threads_give_the_same_bits(void **state)
{
    (void)state;
    for_each_level(check_threads);
}

/* Every block type at every level, against float pages at the reference level: KL divergence of each row. */
static void test_model_levels_agree_with_the_reference(void **state)
{
    static const enum tensor_type types[] = {
#define X(type) type,
        RANDOM_MODEL_TYPES(X)
#undef X
    };
    (void)state;
    uint32_t level_count, pages[PAGES];
    const struct kern_ops *const *levels = kern_levels(&level_count);
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = i;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct fixture fixture = {0};
        open_model(levels[level_count - 1], types[i], 1, &fixture); // the last level is ref
        run_chunks(&fixture, TOKENS, TOKENS, pages, expected);
        close_model(&fixture);
        for (uint32_t level = 0; level + 1 < level_count; level++) {
            if (!kern_rig_wants(levels[level])) continue;
            struct fixture fast = {0};
            double worst = 0;
            open_model(levels[level], types[i], 1, &fast);
            run_chunks(&fast, TOKENS, TOKENS, pages, got);
            close_model(&fast);
            for (uint32_t row = 0; row < TOKENS; row++) {
                worst = fmax(worst, model_rig_divergence(expected + row * VOCAB, got + row * VOCAB, VOCAB));
            }
            printf("%s %s: KL at most %.6f\n", levels[level]->name, tensor_type_info(types[i])->name, worst);
            assert_true(worst < 0.06);
        }
    }
}

int main(void)
{
    const char *text = getenv("KVASIR_SEED");
    seed = text ? strtoull(text, NULL, 0) : 20250102;
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_chunks_give_the_same_bits),
        cmocka_unit_test(test_model_pages_anywhere_give_the_same_bits),
        cmocka_unit_test(test_model_batches_give_the_same_bits),
        cmocka_unit_test(test_model_logits_of_some_rows_are_those_of_all),
        cmocka_unit_test(test_model_threads_give_the_same_bits),
        cmocka_unit_test(test_model_levels_agree_with_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

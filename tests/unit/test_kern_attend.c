/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of attention: the reference against the formula in double, every level against the reference, and the promise
 * that a row's bits do not depend on the batch, the chunks or the threads; plain, with windows, soft-capping and
 * sinks, in every type of pages.
 *
 * Tolerance against the reference: keys and values may round to another f16 (2^-11). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "tests/unit/kern_data.h"
#include "tests/unit/kern_rig.h"
#include "worker/kern/ref/ref.h"

enum { SEQS_MAX = 8, PAGES_MAX = 128, ROWS_MAX = 2048, HEADS_MAX = 8 };

struct choice { // of options
    uint32_t window;
    float softcap;
    bool sinks;
};

/* Sequences from their first token on, and what attends to them. Pages are dealt out so that neighbours in time are
 * not neighbours in memory. */
struct work {
    struct kern_rig_shape shape;
    struct choice choice;
    uint32_t seq_count, row_count, page_count;
    uint32_t first[SEQS_MAX], length[SEQS_MAX]; // rows of each sequence
    uint32_t cols, out_cols;
    float *qkv; // (row_count, cols), owned
    /* The first shared[s] tokens of sequence s, whole pages, are those of sequence source[s] < s. */
    uint32_t source[SEQS_MAX], shared[SEQS_MAX];
};

/* How a work's rows go through attend. */
struct run {
    uint32_t threads;
    uint32_t chunk; // rows of a sequence in a step
    bool alone;     // one sequence a step
    bool release;   // a page before the windows of a step's rows is gone: NaN, and no index
    bool share;     // what a sequence shares is computed by its source, and lies in its pages
};

static void work_init(struct work *work, const struct kern_rig_shape *shape, enum kern_kv kv_type,
                      const uint32_t *lengths, uint32_t seq_count)
{
    uint32_t pages = 0;
    *work = (struct work){.shape = *shape, .seq_count = seq_count};
    CHECK(seq_count <= SEQS_MAX);
    CHECK(shape->heads <= HEADS_MAX);
    work->shape.kv_type = kv_type;
    for (uint32_t s = 0; s < seq_count; s++) {
        work->first[s] = work->row_count;
        work->length[s] = lengths[s];
        work->row_count += lengths[s];
        uint32_t needed = (lengths[s] + shape->page_tokens - 1) / shape->page_tokens;
        if (needed > pages) pages = needed;
    }
    CHECK(pages <= PAGES_MAX && work->row_count <= ROWS_MAX);
    work->page_count = pages * SEQS_MAX;
    work->cols = (shape->heads + 2 * shape->heads_kv) * shape->dims;
    work->out_cols = shape->heads * shape->dims;
}

static float *new_out(const struct work *work)
{
    float *out = calloc((size_t)work->row_count * work->out_cols, sizeof(*out));
    assert_non_null(out);
    return out;
}

static float sink_of(uint32_t head)
{
    return (float)head * 0.75f - 1.0f;
}

static struct kern_attend_options options_of(struct kern_rig *rig, const struct choice *choice)
{
    struct kern_attend_options options = {.window = choice->window, .softcap = choice->softcap};
    float sinks[HEADS_MAX];
    for (uint32_t h = 0; h < rig->conf.head_count; h++) sinks[h] = sink_of(h);
    if (choice->sinks) options.sinks = kern_rig_vector(rig, sinks, rig->conf.head_count);
    return options;
}

/* Takes the pages that no row from `position` on sees. */
static void release_pages(struct kern_rig *rig, const struct work *work, uint32_t position, uint32_t *pages)
{
    const struct kern_cache *cache = &rig->conf.cache;
    if (work->choice.window == 0 || position < work->choice.window) return;
    uint32_t count = (position - work->choice.window + 1) / cache->page_tokens;
    for (uint32_t p = 0; p < count; p++) {
        memset((uint8_t *)cache->base + pages[p] * cache->page_bytes, 0xFF, cache->page_bytes);
        pages[p] = UINT32_MAX;
    }
}

/* Where a page of a sequence lies. */
static uint32_t page_of(const struct work *work, const struct run *run, uint32_t seq, uint32_t page)
{
    while (run->share && page < work->shared[seq] / work->shape.page_tokens) seq = work->source[seq];
    return (page * SEQS_MAX + seq) % work->page_count;
}

/* Rows of a sequence in the next step. done: (SEQS_MAX) rows behind it of each. */
static uint32_t rows_due(const struct work *work, const struct run *run, uint32_t seq, const uint32_t *done)
{
    if (run->share && done[work->source[seq]] < work->shared[seq]) return 0;
    uint32_t left = work->length[seq] - done[seq];
    return left < run->chunk ? left : run->chunk;
}

/* out: (row_count, out_cols) */
static void attend_all(const struct kern_ops *ops, const struct work *work, const struct run *run, float *out)
{
    static uint32_t pages[SEQS_MAX][PAGES_MAX], positions[ROWS_MAX], source[ROWS_MAX];
    struct kern_rig rig;
    kern_rig_open(&rig, ops, &work->shape, run->threads, work->row_count, work->page_count);
    struct kern_attend_options options = options_of(&rig, &work->choice);
    const size_t cols = work->cols, out_cols = work->out_cols;
    uint32_t done[SEQS_MAX] = {0};
    for (uint32_t s = 0; s < work->seq_count && run->share; s++) done[s] = work->shared[s];
    for (;;) {
        struct kern_seq seqs[SEQS_MAX];
        struct kern_batch batch = {.positions = positions, .seqs = seqs};
        float *values = malloc(work->row_count * cols * sizeof(*values));
        assert_non_null(values);
        for (uint32_t s = 0; s < work->seq_count; s++) {
            uint32_t count = rows_due(work, run, s, done);
            if (count == 0 || (run->alone && batch.seq_count > 0)) continue;
            for (uint32_t p = 0; p < PAGES_MAX; p++) pages[s][p] = page_of(work, run, s, p);
            if (run->release) release_pages(&rig, work, done[s], pages[s]);
            seqs[batch.seq_count++] = (struct kern_seq){.row_first = batch.row_count,
                                                        .row_count = count,
                                                        .pos_first = done[s],
                                                        .pages = pages[s],
                                                        .page_count = work->page_count / SEQS_MAX};
            for (uint32_t i = 0; i < count; i++, batch.row_count++) {
                source[batch.row_count] = work->first[s] + done[s];
                positions[batch.row_count] = done[s]++;
                memcpy(values + batch.row_count * cols, work->qkv + source[batch.row_count] * cols,
                       cols * sizeof(*values));
            }
        }
        if (batch.row_count > 0) {
            struct kern_rows *rows = kern_rig_rows_with(&rig, values, batch.row_count, work->cols);
            struct kern_rows *result = kern_rig_rows(&rig, batch.row_count, work->out_cols);
            ops->attend(rig.kern, 1, &options, rows, &batch, result);
            const float *got = ops->fetch(rig.kern, result, batch.row_count);
            for (size_t i = 0; i < batch.row_count; i++)
                memcpy(out + source[i] * out_cols, got + i * out_cols, out_cols * sizeof(*out));
        }
        free(values);
        if (batch.row_count == 0) break;
    }
    for (uint32_t s = 0; s < work->seq_count && run->share; s++)
        memcpy(out + work->first[s] * out_cols, out + work->first[work->source[s]] * out_cols,
               work->shared[s] * out_cols * sizeof(*out));
    kern_rig_close(&rig);
}

static const struct run at_once = {.threads = 2, .chunk = ROWS_MAX};

/* ---- the reference against the formula */

/* One head of one row, without rotation; out: (dims) */
static void attend_formula(const struct work *work, uint32_t seq, uint32_t position, uint32_t head,
                           double *out)
{
    const struct choice *choice = &work->choice;
    const uint32_t dims = work->shape.dims, kv_head = head / (work->shape.heads / work->shape.heads_kv);
    const float *rows = work->qkv + (size_t)work->first[seq] * work->cols;
    const float *q = rows + (size_t)position * work->cols + (size_t)head * dims;
    double sum = choice->sinks ? exp((double)sink_of(head)) : 0;
    for (uint32_t d = 0; d < dims; d++) out[d] = 0;
    for (uint32_t key = 0; key <= position; key++) {
        if (choice->window > 0 && position - key >= choice->window) continue;
        const float *k = rows + (size_t)key * work->cols + (size_t)(work->shape.heads + kv_head) * dims;
        const float *v = k + (size_t)work->shape.heads_kv * dims;
        double score = 0, cap = (double)choice->softcap;
        for (uint32_t d = 0; d < dims; d++) score += (double)q[d] * (double)k[d];
        score /= sqrt(dims);
        if (cap > 0) score = cap * tanh(score / cap);
        sum += exp(score);
        for (uint32_t d = 0; d < dims; d++) out[d] += exp(score) * (double)v[d];
    }
    for (uint32_t d = 0; d < dims; d++) out[d] /= sum;
}

/* Scores are some 3 in size: exponentials in float err by some 1e-6. */
static void test_kern_attend_reference_matches_formula(void **state)
{
    (void)state;
    static const struct kern_rig_shape shape = {6, 2, 16, 0, false, KERN_RIG_PAGE, KERN_KV_F32};
    static const uint32_t lengths[] = {1, 40, 133};
    static const struct choice choices[] = {{0, 0, false},    {1, 0, false}, {5, 0, false},   {132, 0, false},
                                            {133, 0, false},  {0, 2, false}, {0, 0, true},    {20, 0, true},
                                            {64, 1.5f, true}, {1, 2, true},  {0, 50.0f, true}};
    struct rng rng = {17};
    for (size_t c = 0; c < COUNT_OF(choices); c++) {
        struct work work;
        work_init(&work, &shape, KERN_KV_F32, lengths, COUNT_OF(lengths));
        work.choice = choices[c];
        work.qkv = kern_data_floats(&rng, (size_t)work.row_count * work.cols, 2.0f);
        float *got = new_out(&work);
        attend_all(&kern_ref_ops, &work, &(struct run){.threads = 2, .chunk = c % 2 == 0 ? ROWS_MAX : 37},
                   got);
        for (uint32_t s = 0; s < work.seq_count; s++) {
            for (uint32_t i = 0; i < work.length[s] * shape.heads; i++) {
                double expected[16];
                attend_formula(&work, s, i / shape.heads, i % shape.heads, expected);
                const float *head = got + ((size_t)work.first[s] * shape.heads + i) * shape.dims;
                for (uint32_t d = 0; d < shape.dims; d++) {
                    if (!(fabs((double)head[d] - expected[d]) <= 1e-5))
                        fail_msg("choice %zu sequence %u row %u head %u: %g, not %g", c, s, i / shape.heads,
                                 i % shape.heads, (double)head[d], expected[d]);
                }
            }
        }
        free(work.qkv);
        free(got);
    }
}

/* ---- the levels against the reference */

/* Outliers where pages keep each element's own exponent; a code of a few bits that falls on the other side of its
 * border would show as an error of the outlier's size. */
static void check_attend(size_t s, enum kern_kv kv_type, const struct choice *choice, const uint32_t *lengths,
                         uint32_t seq_count)
{
    const bool is_float = kv_type == KERN_KV_F16 || kv_type == KERN_KV_BF16;
    struct rng rng = {20 + s};
    struct work work;
    work_init(&work, &kern_rig_shapes[s], kv_type, lengths, seq_count);
    work.choice = *choice;
    const size_t count = (size_t)work.row_count * work.cols;
    work.qkv = is_float ? kern_data_outliers(&rng, count, 1.0f) : kern_data_floats(&rng, count, 2.0f);
    float *expected = new_out(&work), *got = new_out(&work);
    const size_t out_count = (size_t)work.row_count * work.out_cols;
    attend_all(&kern_ref_ops, &work, &at_once, expected);
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        attend_all(kern_rig_machines[m], &work, &at_once, got);
        for (size_t i = 0; i < out_count; i += 16) {
            double largest = 0; // |v| is at most 20, weights move by 2^-11 * |q . k|
            for (size_t k = i / 32 * 32; k < i / 32 * 32 + 32 && k < out_count; k++)
                largest = fmax(largest, fabs((double)expected[k]));
            for (size_t k = i; k < i + 16; k++) {
                if (!(fabs((double)got[k] - (double)expected[k]) <= largest / 200 + 0.01))
                    fail_msg(
                        "%s pages %d shape %zu window %u softcap %g sinks %d row %zu out %zu: %g, not %g",
                        kern_rig_machines[m]->name, (int)kv_type, s, choice->window, (double)choice->softcap,
                        choice->sinks, k / work.out_cols, k % work.out_cols, (double)got[k],
                        (double)expected[k]);
            }
        }
    }
    free(work.qkv);
    free(expected);
    free(got);
}

static void test_kern_attend_matches_reference(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 17, 64, 130, 300};
    static const struct choice plain = {0};
    for (enum kern_kv type = KERN_KV_F16; type <= KERN_KV_Q4; type++)
        for (size_t s = 0; s < KERN_RIG_SHAPES; s++)
            check_attend(s, type, &plain, lengths, COUNT_OF(lengths));
}

/* Windows with both edges at, before and behind the borders of blocks (128 keys) and of what is read (16). */
static void test_kern_attend_options_match_reference(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {5, 150, 280};
    static const struct choice choices[] = {{1, 0, false},   {16, 0, false},   {127, 0, false},
                                            {128, 0, false}, {129, 0, false},  {279, 0, false},
                                            {280, 0, false}, {1000, 0, false}, {0, 2.5f, false},
                                            {0, 0, true},    {40, 2.5f, true}, {200, 50, true}};
    for (enum kern_kv type = KERN_KV_F16; type <= KERN_KV_Q4; type++)
        for (size_t c = 0; c < COUNT_OF(choices); c++)
            check_attend(0, type, &choices[c], lengths, COUNT_OF(lengths));
    for (size_t s = 1; s < KERN_RIG_SHAPES; s++)
        check_attend(s, KERN_KV_F16, &choices[10], lengths, COUNT_OF(lengths));
}

/* ---- bits */

static void check_work(const struct work *work, const struct kern_ops *ops, const struct run *runs,
                       size_t run_count)
{
    float *first = new_out(work), *got = new_out(work);
    for (size_t i = 0; i < run_count; i++) {
        attend_all(ops, work, &runs[i], i == 0 ? first : got);
        if (i > 0 && memcmp(first, got, (size_t)work->row_count * work->out_cols * sizeof(float)) != 0)
            fail_msg("%s pages %d window %u: run %zu differs", ops->name, (int)work->shape.kv_type,
                     work->choice.window, i);
    }
    free(first);
    free(got);
}

/* With small steps only on the best level: the others are slow. */
static void check_bits(struct work *work, const struct kern_ops *ops, const struct run *runs,
                       size_t run_count)
{
    struct rng rng = {30};
    struct run taken[8];
    size_t count = 0;
    CHECK(run_count <= COUNT_OF(taken));
    for (size_t i = 0; i < run_count; i++)
        if (runs[i].chunk >= 48 || ops == kern_rig_machines[0]) taken[count++] = runs[i];
    work->qkv = kern_data_floats(&rng, (size_t)work->row_count * work->cols, 2.0f);
    check_work(work, ops, taken, count);
    free(work->qkv);
}

static const struct run bits_runs[] = {
    {1, 2048, true}, {2, 2048, false}, {4, 48, false}, {3, 7, true}, {4, 257, false}, {4, 1, true},
};

static void test_kern_attend_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {700, 5, 290, 64};
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        for (size_t s = 0; s < 5; s++) { // two shapes, then the first in other types of pages
            struct work work;
            work_init(&work, &kern_rig_shapes[s < 2 ? s : 0], s < 2 ? KERN_KV_F16 : (enum kern_kv)(s - 1),
                      lengths, COUNT_OF(lengths));
            check_bits(&work, kern_rig_machines[m], bits_runs, COUNT_OF(bits_runs));
        }
    }
}

/* The longer windows reach over more keys than a span has at least: with some threads their tiles are cut. Pages before
 * the window may go. */
static void test_kern_attend_options_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {420, 5, 290, 64};
    static const struct choice choices[] = {
        {1, 0, false}, {129, 3, true}, {300, 0, true}, {390, 0, false}, {0, 3, false}};
    static const struct run runs[] = {
        {1, 2048, true, false}, {2, 2048, false, false}, {4, 48, false, true},
        {3, 7, true, false},    {2, 257, false, true},   {4, 1, true, true},
    };
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        for (size_t c = 0; c < 4 + COUNT_OF(choices) - 1;
             c++) { // one in all types of pages, the others in f16
            struct work work;
            work_init(&work, &kern_rig_shapes[0], c < 4 ? (enum kern_kv)c : KERN_KV_F16, lengths,
                      COUNT_OF(lengths));
            work.choice = choices[c < 4 ? 1 : c == 4 ? 0 : c - 3];
            check_bits(&work, kern_rig_machines[m], runs, COUNT_OF(runs));
        }
    }
}

/* Sequences that decode on the same pages: all of them, some on a longer prefix, one with the prefix of another's
 * own, and one that has nothing in common with them. */
static void test_kern_attend_bits_do_not_depend_on_shared_pages(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {300, 290, 280, 300, 200, 310, 299};
    static const uint32_t source[] = {0, 0, 0, 1, 4, 0, 2}, shared[] = {0, 256, 128, 272, 0, 256, 144};
    static const struct run runs[] = {
        {2, 2048, true, false, false}, {1, 1, false, false, true}, {2, 1, false, false, true},
        {4, 1, false, false, true},    {3, 7, false, false, true},
    };
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        for (size_t c = 0; c < 6; c++) { // plain in all types of pages; another shape; with a cap and sinks
            struct work work;
            struct rng rng = {60};
            work_init(&work, &kern_rig_shapes[c == 4], c < 4 ? (enum kern_kv)c : KERN_KV_F16, lengths,
                      COUNT_OF(lengths));
            if (c == 5) work.choice = (struct choice){0, 3, true};
            memcpy(work.source, source, sizeof source);
            memcpy(work.shared, shared, sizeof shared);
            work.qkv = kern_data_floats(&rng, (size_t)work.row_count * work.cols, 2.0f);
            for (size_t s = 0; s < COUNT_OF(lengths); s++)
                memcpy(work.qkv + (size_t)work.first[s] * work.cols,
                       work.qkv + (size_t)work.first[source[s]] * work.cols,
                       (size_t)shared[s] * work.cols * sizeof(float));
            const size_t runs_taken = kern_rig_machines[m] == kern_rig_machines[0] ? COUNT_OF(runs) : 3;
            check_work(&work, kern_rig_machines[m], runs, runs_taken);
            free(work.qkv);
        }
    }
}

/* As long as the sequence: the same as none, to the bit. */
static void test_kern_attend_whole_window_is_no_window(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {300, 128, 129};
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        struct work work;
        struct rng rng = {50};
        work_init(&work, &kern_rig_shapes[0], KERN_KV_F16, lengths, COUNT_OF(lengths));
        work.qkv = kern_data_floats(&rng, (size_t)work.row_count * work.cols, 2.0f);
        float *plain = new_out(&work), *windowed = new_out(&work);
        attend_all(kern_rig_machines[m], &work, &at_once, plain);
        work.choice.window = 300;
        attend_all(kern_rig_machines[m], &work, &at_once, windowed);
        assert_memory_equal(windowed, plain, (size_t)work.row_count * work.out_cols * sizeof(float));
        work.choice.window = 299; // the last row loses its first key
        attend_all(kern_rig_machines[m], &work, &at_once, windowed);
        const size_t last = (size_t)299 * work.out_cols;
        assert_memory_equal(windowed, plain, last * sizeof(float));
        assert_true(memcmp(windowed + last, plain + last, work.out_cols * sizeof(float)) != 0);
        free(work.qkv);
        free(plain);
        free(windowed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kern_attend_reference_matches_formula),
        cmocka_unit_test(test_kern_attend_matches_reference),
        cmocka_unit_test(test_kern_attend_options_match_reference),
        cmocka_unit_test(test_kern_attend_bits_do_not_depend_on_batch),
        cmocka_unit_test(test_kern_attend_options_bits_do_not_depend_on_batch),
        cmocka_unit_test(test_kern_attend_bits_do_not_depend_on_shared_pages),
        cmocka_unit_test(test_kern_attend_whole_window_is_no_window),
    };
    kern_rig_find_machines();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

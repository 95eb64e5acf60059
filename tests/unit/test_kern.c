/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of kern: every level against the reference machine, op by op, and the promise that a row's bits do not
 * depend on the batch, the chunks or the threads.
 *
 * Tolerances against the reference. Rounding x to 8 bits per block of 32 errs uniformly within scale / 2, so an
 * output w . x errs with variance sum over blocks of (largest / 127)^2 / 12 * |w|^2; a test value may be 6
 * of these deviations off (all tests are seeded, so none is flaky), plus 2^-11 for f16 scales. Float
 * weights: 1e-5. Attention: keys and values may round to another f16 (2^-11), results are then rounded
 * to 8 bits. */
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
#include "tests/unit/kern_data.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/ref.h"

enum { PAGE = 16, VOCAB = 512 };

static const struct kern_ops *machines[5];
static size_t machine_count;

/* $KVASIR_KERNELS: only this one (under an emulator each takes its time). */
static void find_machines(void)
{
    const char *only = getenv("KVASIR_KERNELS");
    uint32_t count;
    const struct kern_ops *const *found = kern_levels(&count);
    for (uint32_t i = 0; i < count; i++) {
        if (found[i] == &kern_ref_ops) continue;
        if (only != NULL && strcmp(only, "auto") != 0 && strcmp(found[i]->name, only) != 0) continue;
        CHECK(machine_count < COUNT_OF(machines));
        machines[machine_count++] = found[i];
    }
}

/* A machine with one attention shape and its pages. */
struct rig {
    const struct kern_ops *ops;
    struct kern *kern;
    struct kern_conf conf;
    float angles[128];
};

struct shape {
    uint32_t heads, heads_kv, dims, rope_dims;
    bool adjacent;
    uint32_t page_tokens;
    enum kern_kv kv_type; // f16 where nothing is said
};

static const struct shape shapes[] = {{3, 1, 64, 64, true, PAGE},
                                      {4, 4, 32, 32, false, PAGE},
                                      {8, 2, 16, 8, false, 32},
                                      {6, 2, 80, 80, true, PAGE},
                                      {2, 1, 128, 64, true, 48}};

static void rig_open(struct rig *rig, const struct kern_ops *ops, const struct shape *shape, uint32_t threads,
                     uint32_t rows_max, uint32_t page_count)
{
    struct err err = {0};
    *rig = (struct rig){.ops = ops};
    for (uint32_t i = 0; i < shape->rope_dims / 2; i++)
        rig->angles[i] = powf(10000.0f, -2.0f * (float)i / (float)shape->rope_dims);
    uint64_t page_bytes = 2 * shape->heads_kv *
                          kern_kv_head_bytes(shape->kv_type, shape->dims, shape->page_tokens);
    rig->conf = (struct kern_conf){.threads = threads,
                                   .rows_max = rows_max,
                                   .cache = {.page_bytes = page_bytes,
                                             .page_count = page_count,
                                             .page_tokens = shape->page_tokens,
                                             .layer_count = 2,
                                             .head_count_kv = shape->heads_kv,
                                             .head_dims = shape->dims,
                                             .kv_type = shape->kv_type},
                                   .rope = {.adjacent = shape->adjacent,
                                            .dims = shape->rope_dims,
                                            .angles = rig->angles,
                                            .position_max = page_count * shape->page_tokens},
                                   .head_count = shape->heads,
                                   .head_count_kv = shape->heads_kv,
                                   .head_dims = shape->dims,
                                   .attention_scale = 1.0f / sqrtf((float)shape->dims),
                                   .rms_epsilon = 1e-5f};
    /* Pages start as NaN: a kernel that lets a key past the end count would show it. */
    rig->conf.cache.base = malloc(page_bytes * page_count);
    assert_non_null(rig->conf.cache.base);
    memset(rig->conf.cache.base, 0xFF, page_bytes * page_count);
    if (ops->open(&rig->conf, &rig->kern, &err) < 0) fail_msg("%s: %s", ops->name, err.text);
}

static void rig_close(struct rig *rig)
{
    rig->ops->close(rig->kern);
    free(rig->conf.cache.base);
}

static struct kern_rows *rows_of(struct rig *rig, uint32_t count, uint32_t cols)
{
    struct kern_rows *rows = NULL;
    assert_int_equal(rig->ops->rows_new(rig->kern, count, cols, &rows, NULL), 0);
    return rows;
}

static struct kern_vector *vector_of(struct rig *rig, const float *values, uint32_t count)
{
    struct kern_vector *vector = NULL;
    assert_int_equal(rig->ops->vector_new(rig->kern, values, count, &vector, NULL), 0);
    return vector;
}

static struct kern_weight *weight_of(struct rig *rig, const struct kern_matrix *parts, uint32_t count,
                                     enum kern_pack pack)
{
    struct kern_weight *weight = NULL;
    struct err err = {0};
    if (rig->ops->weight_new(rig->kern, parts, count, pack, &weight, &err) < 0) fail_msg("%s", err.text);
    return weight;
}

/* Rows of chosen floats: embed of an F32 table. */
static struct kern_rows *rows_with(struct rig *rig, const float *values, uint32_t row_count, uint32_t cols)
{
    struct kern_rows *rows = rows_of(rig, row_count, cols);
    struct kern_matrix table = {.data = values, .type = 0, .rows = row_count, .cols = cols};
    struct kern_weight *weight = weight_of(rig, &table, 1, KERN_CONCAT);
    uint32_t *tokens = calloc(row_count, sizeof(*tokens));
    assert_non_null(tokens);
    for (uint32_t i = 0; i < row_count; i++) tokens[i] = i;
    rig->ops->embed(rig->kern, weight, &(struct kern_batch){.row_count = row_count, .tokens = tokens}, rows);
    free(tokens);
    return rows;
}

/* out of one product op on x, by machine `ops`. */
struct product_case {
    struct kern_matrix parts[3];
    uint32_t part_count;
    uint32_t row_count, cols, outs;
    const float *x, *norm, *bias, *start; // (row_count, cols), (cols), (outs), (row_count, outs)
    enum { OP_PROJECT, OP_ADD, OP_GATE_UP, OP_HEAD } op;
};

static float *run_product(const struct kern_ops *ops, const struct product_case *c)
{
    struct rig rig;
    rig_open(&rig, ops, &shapes[0], 2, 80, 1);
    struct kern_rows *x = rows_with(&rig, c->x, c->row_count, c->cols);
    struct kern_weight *w = weight_of(&rig, c->parts, c->part_count,
                                      c->op == OP_GATE_UP ? KERN_GATE_UP : KERN_CONCAT);
    struct kern_vector *norm = vector_of(&rig, c->norm, c->cols);
    struct kern_vector *bias = c->bias != NULL ? vector_of(&rig, c->bias, c->outs) : NULL;
    struct kern_rows *out = c->op == OP_ADD ? rows_with(&rig, c->start, c->row_count, c->outs)
                                            : rows_of(&rig, c->row_count, c->outs);
    uint32_t backwards[80];
    for (uint32_t i = 0; i < c->row_count; i++) backwards[i] = c->row_count - 1 - i;
    switch (c->op) {
    case OP_PROJECT: ops->norm_project(rig.kern, x, norm, w, bias, c->row_count, out); break;
    case OP_ADD: ops->project_add(rig.kern, x, w, bias, c->row_count, out); break;
    case OP_GATE_UP: ops->norm_gate_up(rig.kern, x, norm, w, bias, bias, c->row_count, out); break;
    case OP_HEAD: ops->norm_head(rig.kern, x, backwards, c->row_count, norm, w, out); break;
    }
    assert_int_equal(ops->sync(rig.kern, NULL), 0);
    size_t bytes = (size_t)c->row_count * c->outs * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, ops->fetch(rig.kern, out, c->row_count), bytes);
    rig_close(&rig);
    return copy;
}

/* Deviation of row r, output o of a product from rounding the input to 8 bits; see the head comment. */
static double deviation(const struct product_case *c, const struct kern_matrix *part, uint32_t o, uint32_t r)
{
    float w[2048];
    const float *x = c->x + (size_t)r * c->cols;
    double squares = 0, variance = 0, scaled = 0;
    kern_data_row(part, o, w);
    for (uint32_t k = 0; k < c->cols; k++) squares += (double)x[k] * (double)x[k];
    double factor = c->op == OP_ADD ? 1 : 1 / sqrt(squares / c->cols + 1e-5);
    for (uint32_t b = 0; b < c->cols; b += 32) {
        double largest = 0, weights = 0;
        for (uint32_t k = b; k < b + 32 && k < c->cols; k++) {
            double value = fabs((double)x[k]) * factor * (c->op == OP_ADD ? 1 : fabs((double)c->norm[k]));
            largest = fmax(largest, value);
            weights += (double)w[k] * (double)w[k];
            scaled += value * fabs((double)w[k]);
        }
        variance += largest / 127 * largest / 127 / 12 * weights;
    }
    if (part->type <= 1 || part->type == 30) return 1e-5 * scaled / 6;
    return sqrt(variance) + (kern_data_pack_error(part->type) > 0 ? 0x1.0p-11 * scaled / 6 : 1e-6 * scaled);
}

static void compare_product(const struct product_case *c)
{
    float *expected = run_product(&kern_ref_ops, c);
    for (size_t m = 0; m < machine_count; m++) {
        float *got = run_product(machines[m], c);
        for (uint32_t r = 0; r < c->row_count; r++) {
            uint32_t part = 0, part_first = 0;
            for (uint32_t o = 0; o < c->outs; o++) {
                if (o - part_first >= c->parts[part].rows) part_first += c->parts[part++].rows;
                uint32_t from = c->op == OP_HEAD ? c->row_count - 1 - r : r;
                double tolerance = 6 * deviation(c, &c->parts[part], o - part_first, from);
                float want = expected[(size_t)r * c->outs + o], have = got[(size_t)r * c->outs + o];
                if (c->op == OP_GATE_UP) {
                    /* silu has a slope below 1.1; both factors err, then the product is rounded to 8 bits. */
                    double up = 6 * deviation(c, &c->parts[1], o, from);
                    double largest = 0;
                    for (uint32_t k = o / 32 * 32; k < o / 32 * 32 + 32 && k < c->outs; k++)
                        largest = fmax(largest, fabs((double)expected[(size_t)r * c->outs + k]));
                    tolerance = 1.1 * tolerance * 4 + up * 4 + tolerance * up + largest / 100 + 1e-4;
                }
                if (!(fabs((double)have - (double)want) <= tolerance + 1e-5 * fabs((double)want)))
                    fail_msg("%s op %d type %u, %u rows x %u -> %u: row %u out %u is %g, not %g +- %g",
                             machines[m]->name, (int)c->op, c->parts[part].type, c->row_count, c->cols,
                             c->outs, r, o, (double)have, (double)want, tolerance);
            }
        }
        free(got);
    }
    free(expected);
}

static void check_op(int op, const uint32_t *types, uint32_t type_count, uint32_t rows, uint32_t cols,
                     uint32_t outs, bool bias, struct rng *rng)
{
    struct product_case c = {.op = op, .row_count = rows, .cols = cols, .part_count = type_count};
    for (uint32_t i = 0; i < type_count; i++) {
        c.parts[i] = kern_data_matrix(rng, types[i], outs, cols, 1.5f / sqrtf((float)cols));
        c.outs += op == OP_GATE_UP && i > 0 ? 0 : outs;
    }
    float *x = kern_data_outliers(rng, (size_t)rows * cols, 1.0f), *norm = kern_data_floats(rng, cols, 1.0f);
    float *start = kern_data_floats(rng, (size_t)rows * c.outs, 1.0f);
    float *biases = kern_data_floats(rng, c.outs, 1.0f);
    c.x = x;
    c.norm = norm;
    c.start = start;
    c.bias = bias ? biases : NULL;
    compare_product(&c);
    for (uint32_t i = 0; i < type_count; i++) free((void *)c.parts[i].data);
    free(x);
    free(norm);
    free(start);
    free(biases);
}

static void test_kern_products_match_reference(void **state)
{
    (void)state;
    struct rng rng = {10};
    static const uint32_t row_counts[] = {1, 3, 5, 70};
    for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
        uint32_t type = kern_data_types[t], pair[2] = {type, type};
        uint32_t cols = dequant_find(type)->block_elements == 256 ? 256 : 96;
        for (size_t i = 0; i < COUNT_OF(row_counts); i++) {
            check_op(OP_PROJECT, &type, 1, row_counts[i], cols, 41, i % 2 == 0, &rng);
            check_op(OP_ADD, &type, 1, row_counts[i], cols, 72, i % 2 == 1, &rng);
            check_op(OP_GATE_UP, pair, 2, row_counts[i], cols, 96, i % 2 == 0, &rng);
        }
        check_op(OP_HEAD, &type, 1, 6, cols, VOCAB, false, &rng);
    }
    check_op(OP_PROJECT, (uint32_t[]){3}, 1, 7, 1536, 576, false, &rng);
    check_op(OP_ADD, (uint32_t[]){3}, 1, 7, 1536, 100, false, &rng);
    check_op(OP_GATE_UP, (uint32_t[]){0, 0}, 2, 3, 50, 44, true, &rng); // float rows need no whole blocks
}

/* q, k, v of different types, as the K_M mixes have; float and integer parts side by side. */
static void test_kern_parts_may_differ_in_type(void **state)
{
    (void)state;
    struct rng rng = {11};
    check_op(OP_PROJECT, (uint32_t[]){12, 14, 1}, 3, 9, 256, 40, true, &rng);
    check_op(OP_PROJECT, (uint32_t[]){6, 8, 30}, 3, 2, 96, 33, false, &rng);
    check_op(OP_PROJECT, (uint32_t[]){10, 11, 23}, 3, 5, 512, 33, false, &rng);
    check_op(OP_PROJECT, (uint32_t[]){20, 39, 6}, 3, 9, 96, 33, false, &rng);
    check_op(OP_GATE_UP, (uint32_t[]){8, 1}, 2, 5, 64, 64, false, &rng);
}

static void test_kern_embed_matches_reference(void **state)
{
    (void)state;
    struct rng rng = {12};
    for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
        struct kern_matrix table = kern_data_matrix(&rng, kern_data_types[t], VOCAB, 256, 1.0f);
        static const uint32_t tokens[] = {0, 1, VOCAB - 1, 77, 77, 300, 8, 9, 10};
        struct kern_batch batch = {.row_count = COUNT_OF(tokens), .tokens = tokens};
        float expected[256];
        for (size_t m = 0; m < machine_count; m++) {
            struct rig rig;
            rig_open(&rig, machines[m], &shapes[0], 2, 16, 1);
            struct kern_rows *x = rows_of(&rig, 16, 256);
            rig.ops->embed(rig.kern, weight_of(&rig, &table, 1, KERN_CONCAT), &batch, x);
            const float *got = rig.ops->fetch(rig.kern, x, batch.row_count);
            float tolerance = kern_data_pack_error(table.type);
            for (uint32_t r = 0; r < batch.row_count; r++) {
                kern_data_row(&table, tokens[r], expected);
                for (uint32_t k = 0; k < 256; k++)
                    assert_true(fabsf(got[(size_t)r * 256 + k] - expected[k]) <= tolerance);
            }
            rig_close(&rig);
        }
        free((void *)table.data);
    }
}

/* Sequences of one attend: pages are dealt out so that neighbours in time are not neighbours in memory. */
struct deal {
    struct kern_seq seqs[8];
    uint32_t seq_count;
    uint32_t pages[8][128];
};

static void deal_pages(struct deal *deal, uint32_t page_count)
{
    for (uint32_t s = 0; s < 8; s++) {
        for (uint32_t p = 0; p < 128; p++) deal->pages[s][p] = (p * 8 + s) % page_count;
        deal->seqs[s].pages = deal->pages[s];
        deal->seqs[s].page_count = page_count / 8;
    }
}

/* Runs the rows of `qkv` (all rows of all sequences from position 0) through attend in steps of `chunk` rows a
 * sequence, one sequence a step if alone; out: (rows, heads * dims). */
static void run_attend(struct rig *rig, const struct deal *deal, const float *qkv, uint32_t chunk, bool alone,
                       float *out)
{
    const struct kern_conf *conf = &rig->conf;
    uint32_t cols = (conf->head_count + 2 * conf->head_count_kv) * conf->head_dims;
    uint32_t out_cols = conf->head_count * conf->head_dims;
    uint32_t done[8] = {0}, positions[2048];
    for (uint32_t turn = 0;; turn++) {
        struct kern_seq seqs[8];
        struct kern_batch batch = {.positions = positions, .seqs = seqs};
        float *values = malloc((size_t)conf->rows_max * cols * sizeof(*values));
        uint32_t source[2048];
        assert_non_null(values);
        for (uint32_t s = 0; s < deal->seq_count; s++) {
            uint32_t left = deal->seqs[s].row_count - done[s];
            uint32_t count = left < chunk ? left : chunk;
            if (count == 0 || (alone && batch.seq_count > 0)) continue;
            seqs[batch.seq_count] = deal->seqs[s];
            seqs[batch.seq_count].row_first = batch.row_count;
            seqs[batch.seq_count].row_count = count;
            seqs[batch.seq_count++].pos_first = done[s];
            for (uint32_t i = 0; i < count; i++) {
                source[batch.row_count] = deal->seqs[s].row_first + done[s];
                positions[batch.row_count] = done[s]++;
                memcpy(values + (size_t)batch.row_count * cols, qkv + (size_t)source[batch.row_count] * cols,
                       cols * sizeof(*values));
                batch.row_count++;
            }
        }
        if (batch.row_count == 0) {
            free(values);
            return;
        }
        struct kern_rows *rows = rows_with(rig, values, batch.row_count, cols);
        struct kern_rows *result = rows_of(rig, batch.row_count, out_cols);
        rig->ops->attend(rig->kern, 1, rows, &batch, result);
        const float *got = rig->ops->fetch(rig->kern, result, batch.row_count);
        for (uint32_t i = 0; i < batch.row_count; i++)
            memcpy(out + (size_t)source[i] * out_cols, got + (size_t)i * out_cols, out_cols * sizeof(*out));
        free(values);
    }
}

/* Outliers where pages keep each element's own exponent; a code of a few bits that falls on the other side of its
 * border would show as an error of the outlier's size. */
static void check_attend(enum kern_kv kv_type)
{
    static const uint32_t lengths[] = {1, 17, 64, 130, 300};
    const bool is_float = kv_type == KERN_KV_F16 || kv_type == KERN_KV_BF16;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        struct rng rng = {20 + s};
        struct shape shape = shapes[s];
        shape.kv_type = kv_type;
        struct deal deal = {.seq_count = COUNT_OF(lengths)};
        uint32_t rows = 0, pages = 8 * 24;
        deal_pages(&deal, pages);
        for (uint32_t i = 0; i < deal.seq_count; i++) {
            deal.seqs[i].row_first = rows;
            deal.seqs[i].row_count = lengths[i];
            rows += lengths[i];
        }
        uint32_t cols = (shapes[s].heads + 2 * shapes[s].heads_kv) * shapes[s].dims;
        uint32_t out_cols = shapes[s].heads * shapes[s].dims;
        float *qkv = is_float ? kern_data_outliers(&rng, (size_t)rows * cols, 1.0f)
                              : kern_data_floats(&rng, (size_t)rows * cols, 2.0f);
        float *expected = calloc((size_t)rows * out_cols, sizeof(float));
        float *got = calloc((size_t)rows * out_cols, sizeof(float));
        assert_true(expected != NULL && got != NULL);
        struct rig rig;
        rig_open(&rig, &kern_ref_ops, &shape, 2, rows, pages);
        run_attend(&rig, &deal, qkv, 2048, false, expected);
        rig_close(&rig);
        for (size_t m = 0; m < machine_count; m++) {
            rig_open(&rig, machines[m], &shape, 2, rows, pages);
            run_attend(&rig, &deal, qkv, 2048, false, got);
            rig_close(&rig);
            for (size_t i = 0; i < (size_t)rows * out_cols; i += 16) {
                double largest = 0; // |v| is at most 20, weights move by 2^-11 * |q . k|
                for (size_t k = i / 32 * 32; k < i / 32 * 32 + 32 && k < (size_t)rows * out_cols; k++)
                    largest = fmax(largest, fabs((double)expected[k]));
                for (size_t k = i; k < i + 16; k++) {
                    if (!(fabs((double)got[k] - (double)expected[k]) <= largest / 200 + 0.01))
                        fail_msg("%s pages %d shape %zu row %zu out %zu: %g, not %g", machines[m]->name,
                                 (int)kv_type, s, k / out_cols, k % out_cols, (double)got[k],
                                 (double)expected[k]);
                }
            }
        }
        free(qkv);
        free(expected);
        free(got);
    }
}

static void test_kern_attend_matches_reference(void **state)
{
    (void)state;
    for (enum kern_kv type = KERN_KV_F16; type <= KERN_KV_Q4; type++) check_attend(type);
}

static void test_kern_attend_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {700, 5, 290, 64};
    static const struct {
        uint32_t threads, chunk;
        bool alone;
    } runs[] = {{1, 2048, true}, {2, 2048, false}, {4, 48, false},
                {3, 7, true},    {4, 257, false},  {4, 1, true}};
    for (size_t m = 0; m < machine_count; m++) {
        for (size_t s = 0; s < 5; s++) { // two shapes, then the first in other types of pages
            struct shape shape = shapes[s < 2 ? s : 0];
            struct rng rng = {30};
            shape.kv_type = s < 2 ? KERN_KV_F16 : (enum kern_kv)(s - 1);
            struct deal deal = {.seq_count = COUNT_OF(lengths)};
            uint32_t rows = 0, pages = 8 * 44;
            deal_pages(&deal, pages);
            for (uint32_t i = 0; i < deal.seq_count; i++) {
                deal.seqs[i].row_first = rows;
                deal.seqs[i].row_count = lengths[i];
                rows += lengths[i];
            }
            uint32_t cols = (shape.heads + 2 * shape.heads_kv) * shape.dims;
            size_t out_bytes = (size_t)rows * shape.heads * shape.dims * sizeof(float);
            float *qkv = kern_data_floats(&rng, (size_t)rows * cols, 2.0f);
            float *first = malloc(out_bytes), *got = malloc(out_bytes);
            assert_true(first != NULL && got != NULL);
            for (size_t i = 0; i < COUNT_OF(runs); i++) {
                if (runs[i].chunk < 48 && machines[m] != machines[0])
                    continue; // slow levels: the larger steps only
                struct rig rig;
                rig_open(&rig, machines[m], &shape, runs[i].threads, rows, pages);
                run_attend(&rig, &deal, qkv, runs[i].chunk, runs[i].alone, i == 0 ? first : got);
                rig_close(&rig);
                if (i > 0 && memcmp(first, got, out_bytes) != 0)
                    fail_msg("%s shape %zu: run %zu differs", machines[m]->name, s, i);
            }
            free(qkv);
            free(first);
            free(got);
        }
    }
}

/* Every product of 70 rows at once, and of rows 0..n alone, on other thread counts: same bits. */
static void test_kern_product_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    struct rng rng = {40};
    for (size_t m = 0; m < machine_count; m++) {
        for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
            enum { COLS = 256, OUTS = 72, ROWS = 70 };
            struct kern_matrix parts[2] = {kern_data_matrix(&rng, kern_data_types[t], OUTS, COLS, 0.1f),
                                           kern_data_matrix(&rng, kern_data_types[t], OUTS, COLS, 0.1f)};
            float *x = kern_data_floats(&rng, ROWS * COLS, 1.0f), *norm = kern_data_floats(&rng, COLS, 1.0f);
            float all[ROWS * OUTS], gated[ROWS * OUTS];
            static const uint32_t counts[] = {ROWS, 1, 2, 3, 4, 5, 6, 7, 11, 64};
            for (size_t i = 0; i < COUNT_OF(counts); i++) {
                struct rig rig;
                rig_open(&rig, machines[m], &shapes[0], 1 + (uint32_t)i % 4, ROWS, 1);
                struct kern_rows *out = rows_of(&rig, ROWS, OUTS);
                struct kern_vector *scale = vector_of(&rig, norm, COLS);
                uint32_t first = ROWS -
                                 counts[i]; // the last rows, so that they change their place in the tiles
                struct kern_rows *in = rows_with(&rig, x + (size_t)first * COLS, counts[i], COLS);
                rig.ops->norm_project(rig.kern, in, scale, weight_of(&rig, parts, 1, KERN_CONCAT), NULL,
                                      counts[i], out);
                const float *got = rig.ops->fetch(rig.kern, out, counts[i]);
                if (i == 0) memcpy(all, got, sizeof(all));
                assert_memory_equal(got, all + (size_t)first * OUTS,
                                    (size_t)counts[i] * OUTS * sizeof(float));
                rig.ops->norm_gate_up(rig.kern, in, scale, weight_of(&rig, parts, 2, KERN_GATE_UP), NULL,
                                      NULL, counts[i], out);
                got = rig.ops->fetch(rig.kern, out, counts[i]);
                if (i == 0) memcpy(gated, got, sizeof(gated));
                assert_memory_equal(got, gated + (size_t)first * OUTS,
                                    (size_t)counts[i] * OUTS * sizeof(float));
                rig_close(&rig);
            }
            free(x);
            free(norm);
            free((void *)parts[0].data);
            free((void *)parts[1].data);
        }
    }
}

static void test_kern_select_names(void **state)
{
    (void)state;
    const struct kern_ops *ops = NULL;
    uint32_t count;
    const struct kern_ops *const *found = kern_levels(&count);
    assert_true(count >= 2);
    assert_int_equal(kern_select(NULL, &ops, NULL), 0);
    printf("best: %s\n", ops->name);
    assert_ptr_equal(ops, found[0]);
    assert_int_equal(kern_select("auto", &ops, NULL), 0);
    assert_ptr_equal(ops, found[0]);
    assert_int_equal(kern_select("ref", &ops, NULL), 0);
    assert_ptr_equal(ops, &kern_ref_ops);
    assert_int_equal(kern_select("portable", &ops, NULL), 0);
    assert_ptr_equal(ops, &kern_portable_ops);
    assert_int_equal(kern_select("sse9", &ops, NULL), ERR_CONFIG);
}

static void test_kern_open_refuses_what_it_cannot_run(void **state)
{
    (void)state;
    static const struct shape odd[] = {
        {2, 1, 24, 24, true, PAGE}, {2, 1, 32, 32, true, 24}, {49, 1, 16, 16, true, PAGE}};
    for (size_t m = 0; m < machine_count; m++) {
        for (size_t i = 0; i < COUNT_OF(odd); i++) {
            struct kern_conf conf = {.threads = 1,
                                     .rows_max = 1,
                                     .cache = {.page_tokens = odd[i].page_tokens,
                                               .layer_count = 1,
                                               .head_count_kv = 1,
                                               .head_dims = odd[i].dims},
                                     .head_count = odd[i].heads,
                                     .head_count_kv = 1,
                                     .head_dims = odd[i].dims};
            struct kern *kern = NULL;
            assert_int_equal(machines[m]->open(&conf, &kern, NULL), ERR_UNSUPPORTED);
            assert_null(kern);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kern_select_names),
        cmocka_unit_test(test_kern_open_refuses_what_it_cannot_run),
        cmocka_unit_test(test_kern_embed_matches_reference),
        cmocka_unit_test(test_kern_products_match_reference),
        cmocka_unit_test(test_kern_parts_may_differ_in_type),
        cmocka_unit_test(test_kern_attend_matches_reference),
        cmocka_unit_test(test_kern_attend_bits_do_not_depend_on_batch),
        cmocka_unit_test(test_kern_product_bits_do_not_depend_on_batch),
    };
    find_machines();
    CHECK(machine_count > 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

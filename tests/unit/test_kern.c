/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of kern: every level against the reference machine, op by op, and the promise that a row's bits do not
 * depend on the batch or the threads. Attention is tested in test_kern_attend.c.
 *
 * Tolerances against the reference. Rounding x to 8 bits per block of 32 errs uniformly within scale / 2, so an
 * output w . x errs with variance sum over blocks of (largest / 127)^2 / 12 * |w|^2; a test value may be 6
 * of these deviations off (all tests are seeded, so none is flaky), plus 2^-11 for f16 scales. Float
 * weights: 1e-5. */
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
#include "tests/unit/kern_rig.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/ref.h"

enum { VOCAB = 512 };

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
    struct kern_rig rig;
    kern_rig_open(&rig, ops, &kern_rig_shapes[0], 2, 80, 1);
    struct kern_rows *x = kern_rig_rows_with(&rig, c->x, c->row_count, c->cols);
    struct kern_weight *w = kern_rig_weight(&rig, c->parts, c->part_count,
                                            c->op == OP_GATE_UP ? KERN_GATE_UP : KERN_CONCAT);
    struct kern_vector *norm = kern_rig_vector(&rig, c->norm, c->cols);
    struct kern_vector *bias = c->bias != NULL ? kern_rig_vector(&rig, c->bias, c->outs) : NULL;
    struct kern_rows *out = c->op == OP_ADD ? kern_rig_rows_with(&rig, c->start, c->row_count, c->outs)
                                            : kern_rig_rows(&rig, c->row_count, c->outs);
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
    kern_rig_close(&rig);
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
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        float *got = run_product(kern_rig_machines[m], c);
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
                             kern_rig_machines[m]->name, (int)c->op, c->parts[part].type, c->row_count,
                             c->cols, c->outs, r, o, (double)have, (double)want, tolerance);
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
        for (size_t m = 0; m < kern_rig_machine_count; m++) {
            struct kern_rig rig;
            kern_rig_open(&rig, kern_rig_machines[m], &kern_rig_shapes[0], 2, 16, 1);
            struct kern_rows *x = kern_rig_rows(&rig, 16, 256);
            rig.ops->embed(rig.kern, kern_rig_weight(&rig, &table, 1, KERN_CONCAT), &batch, x);
            const float *got = rig.ops->fetch(rig.kern, x, batch.row_count);
            float tolerance = kern_data_pack_error(table.type);
            for (uint32_t r = 0; r < batch.row_count; r++) {
                kern_data_row(&table, tokens[r], expected);
                for (uint32_t k = 0; k < 256; k++)
                    assert_true(fabsf(got[(size_t)r * 256 + k] - expected[k]) <= tolerance);
            }
            kern_rig_close(&rig);
        }
        free((void *)table.data);
    }
}

/* Every product of 70 rows at once, and of rows 0..n alone, on other thread counts: same bits. */
static void test_kern_product_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    struct rng rng = {40};
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
        for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
            enum { COLS = 256, OUTS = 72, ROWS = 70 };
            struct kern_matrix parts[2] = {kern_data_matrix(&rng, kern_data_types[t], OUTS, COLS, 0.1f),
                                           kern_data_matrix(&rng, kern_data_types[t], OUTS, COLS, 0.1f)};
            float *x = kern_data_floats(&rng, ROWS * COLS, 1.0f), *norm = kern_data_floats(&rng, COLS, 1.0f);
            float all[ROWS * OUTS], gated[ROWS * OUTS];
            static const uint32_t counts[] = {ROWS, 1, 2, 3, 4, 5, 6, 7, 11, 64};
            for (size_t i = 0; i < COUNT_OF(counts); i++) {
                struct kern_rig rig;
                kern_rig_open(&rig, kern_rig_machines[m], &kern_rig_shapes[0], 1 + (uint32_t)i % 4, ROWS, 1);
                struct kern_rows *out = kern_rig_rows(&rig, ROWS, OUTS);
                struct kern_vector *scale = kern_rig_vector(&rig, norm, COLS);
                uint32_t first = ROWS -
                                 counts[i]; // the last rows, so that they change their place in the tiles
                struct kern_rows *in = kern_rig_rows_with(&rig, x + (size_t)first * COLS, counts[i], COLS);
                rig.ops->norm_project(rig.kern, in, scale, kern_rig_weight(&rig, parts, 1, KERN_CONCAT), NULL,
                                      counts[i], out);
                const float *got = rig.ops->fetch(rig.kern, out, counts[i]);
                if (i == 0) memcpy(all, got, sizeof(all));
                assert_memory_equal(got, all + (size_t)first * OUTS,
                                    (size_t)counts[i] * OUTS * sizeof(float));
                rig.ops->norm_gate_up(rig.kern, in, scale, kern_rig_weight(&rig, parts, 2, KERN_GATE_UP),
                                      NULL, NULL, counts[i], out);
                got = rig.ops->fetch(rig.kern, out, counts[i]);
                if (i == 0) memcpy(gated, got, sizeof(gated));
                assert_memory_equal(got, gated + (size_t)first * OUTS,
                                    (size_t)counts[i] * OUTS * sizeof(float));
                kern_rig_close(&rig);
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
    static const struct kern_rig_shape odd[] = {
        {2, 1, 24, 24, true, KERN_RIG_PAGE}, {2, 1, 32, 32, true, 24}, {49, 1, 16, 16, true, KERN_RIG_PAGE}};
    for (size_t m = 0; m < kern_rig_machine_count; m++) {
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
            assert_int_equal(kern_rig_machines[m]->open(&conf, &kern, NULL), ERR_UNSUPPORTED);
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
        cmocka_unit_test(test_kern_product_bits_do_not_depend_on_batch),
    };
    kern_rig_find_machines();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of what a CPU level provides (worker/kern/cpu/cpu.h), one function at a time and against arithmetic in
 * double, at every level this machine has. Whole ops are compared with the reference machine in test_kern.c. */
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
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/half.h"

static const struct cpu_level *levels[4];
static size_t level_count;

static void find_levels(void)
{
    uint32_t count;
    const struct kern_ops *const *ops = kern_levels(&count);
    for (uint32_t i = 0; i < count; i++) {
        if (!kern_rig_wants(ops[i])) continue;
#define X(level, level_name) \
    if (ops[i] == &kern_##level##_ops) levels[level_count++] = &cpu_level_##level;
        CPU_LEVELS(X)
#undef X
    }
}

static struct cpu_packed pack(const struct cpu_level *level, const struct kern_matrix *matrix)
{
    struct cpu_packed packed;
    struct err err = {0};
    assert_int_equal(cpu_pack_plan(matrix, level, &packed, &err), 0);
    packed.data = aligned_alloc(64, cpu_packed_bytes(&packed));
    assert_non_null(packed.data);
    cpu_pack(matrix, level, &packed, 0, packed.strip_count);
    return packed;
}

static bool is_float_type(uint32_t type)
{
    return type <= 1 || type == 30;
}

static bool is_super(uint32_t type) // has super-blocks of 256 columns
{
    return dequant_find(type)->block_elements == 256;
}

static void test_kern_level_pack_keeps_values(void **state)
{
    (void)state;
    struct rng rng = {1};
    for (size_t l = 0; l < level_count; l++) {
        for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
            uint32_t type = kern_data_types[t];
            uint32_t rows = 37, cols = is_super(type) ? 512 : 96;
            struct kern_matrix matrix = kern_data_matrix(&rng, type, rows, cols, 1.0f);
            struct cpu_packed packed = pack(levels[l], &matrix);
            float expected[512], got[512];
            for (uint32_t r = 0; r < rows; r++) {
                kern_data_row(&matrix, r, expected);
                cpu_unpack_row(&packed, levels[l], r, got);
                float tolerance = kern_data_pack_error(type);
                for (uint32_t k = 0; k < cols; k++) {
                    if (!(fabsf(got[k] - expected[k]) <= tolerance))
                        fail_msg("%s type %u row %u col %u: %g, not %g", levels[l]->name, type, r, k,
                                 (double)got[k], (double)expected[k]);
                }
            }
            free(packed.data);
            free((void *)matrix.data);
        }
    }
}

/* MXFP4 scales reach from 2^-127 to 2^126: none may be lost on the way through the kernels. One block of each
 * exponent, a row each; x is 1, or what keeps the result finite. */
static void test_kern_level_keeps_every_exponent(void **state)
{
    (void)state;
    enum { ROWS = 256, COLS = 32 };
    uint8_t data[ROWS][17];
    for (int r = 0; r < ROWS; r++) {
        memset(data[r], 0x20, sizeof(data[r])); // 0 and 1, the sum is 16 * 2^(r - 127)
        data[r][0] = (uint8_t)r;
    }
    struct kern_matrix matrix = {.data = data, .type = 39, .rows = ROWS, .cols = COLS};
    for (size_t l = 0; l < level_count; l++) {
        struct cpu_packed packed = pack(levels[l], &matrix);
        float expected[COLS], got[COLS], out[GROUP_ROWS];
        struct cpu_block x = {.scales = {.scale = 0x1.0p-8f, .sum = COLS, .half = {COLS / 2, COLS / 2}}};
        memset(x.codes, 1, sizeof(x.codes));
        x.scales.sum *= x.scales.scale;
        struct cpu_input input = {.blocks = &x, .block_count = 1};
        for (uint32_t r = 0; r < ROWS; r++) {
            kern_data_row(&matrix, r, expected);
            cpu_unpack_row(&packed, levels[l], r, got);
            assert_memory_equal(got, expected, sizeof(got));
            uint32_t tile = r / GROUP_ROWS * (GROUP_ROWS / packed.tile_rows);
            levels[l]->product(&packed, tile, GROUP_ROWS / packed.tile_rows, &input, 0, 1, out);
            if (r >= 10 && r < 250) assert_true(out[r % GROUP_ROWS] == ldexpf(16, (int)r - 127 - 8));
        }
        free(packed.data);
    }
}

/* Bytes packed are those of the file: decoding one stream reads each once. Q4_K, Q5_K and Q6_K store their scales
 * in f16, Q3_K and IQ4_XS in whole bytes. */
static void test_kern_level_pack_is_small(void **state)
{
    (void)state;
    static const struct {
        uint32_t type, bytes; // of 256 columns
    } expected[] = {{2, 144},  {3, 160}, {6, 176}, {7, 192},  {8, 272},  {12, 160}, {13, 192},
                    {14, 224}, {1, 512}, {10, 84}, {11, 114}, {20, 144}, {23, 138}, {39, 136}};
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        struct kern_matrix matrix = {.type = expected[i].type, .rows = 64, .cols = 2048};
        struct cpu_packed packed;
        assert_int_equal(cpu_pack_plan(&matrix, levels[0], &packed, NULL), 0);
        assert_int_equal(cpu_packed_bytes(&packed), 64 * 8 * expected[i].bytes);
    }
    struct kern_matrix unknown = {.type = 9, .rows = 8, .cols = 256};
    struct cpu_packed packed;
    assert_int_equal(cpu_pack_plan(&unknown, levels[0], &packed, NULL), ERR_UNSUPPORTED);
    struct kern_matrix uneven = {.type = 3, .rows = 8, .cols = 40};
    assert_int_equal(cpu_pack_plan(&uneven, levels[0], &packed, NULL), ERR_FORMAT);
}

static void test_kern_level_quantize_rounds_to_nearest(void **state)
{
    (void)state;
    struct rng rng = {2};
    for (size_t l = 0; l < level_count; l++) {
        float *values = kern_data_outliers(&rng, 64 * 32, 3.0f);
        struct cpu_block blocks[64];
        memset(values, 0, 32 * sizeof(float));
        for (int i = 32; i < 64; i++)
            values[i] = (float)(i - 40) * 1e-38f; // too small to scale: counts as zero
        levels[l]->quantize(values, 64, blocks);
        for (size_t b = 0; b < 64; b++) {
            float largest = 0;
            int sums[2] = {0, 0};
            for (size_t k = 0; k < 32; k++) largest = fmaxf(largest, fabsf(values[b * 32 + k]));
            for (size_t k = 0; k < 32; k++) {
                int code = blocks[b].codes[k];
                assert_in_range(code + 127, 0, 254);
                float error = fabsf(values[b * 32 + k] - blocks[b].scales.scale * (float)code);
                assert_true(error <= largest / 127 * 0.5001f + 1e-30f);
                sums[k / 16] += code;
            }
            for (int h = 0; h < 2; h++)
                assert_true(blocks[b].scales.half[h] == blocks[b].scales.scale * (float)sums[h]);
            assert_true(blocks[b].scales.sum == blocks[b].scales.scale * (float)(sums[0] + sums[1]));
        }
        free(values);
    }
}

/* Outliers: every chunk gives its four largest values, each exactly; what is left rounds to nearest as if they
 * were 0; the values come back as they were. */
static void test_kern_level_quantize_fine_keeps_outliers_apart(void **state)
{
    (void)state;
    static const uint32_t block_counts[] = {1, 2, 18, 19, 48, 64};
    struct rng rng = {5};
    for (size_t l = 0; l < level_count; l++) {
        for (size_t c = 0; c < COUNT_OF(block_counts); c++) {
            uint32_t count = block_counts[c], chunk = cpu_chunk_blocks(count);
            float *values = kern_data_outliers(&rng, count * 32, 3.0f), left[64 * 32], before[64 * 32];
            struct cpu_block blocks[64], plain[64];
            struct cpu_outlier outliers[4 * CHUNK_OUTLIERS];
            assert_true(cpu_outlier_count(count) <= COUNT_OF(outliers));
            if (c == 1) memset(values, 0, 63 * sizeof(float)); // fewer values than outliers
            memcpy(before, values, count * 32 * sizeof(float));
            memcpy(left, values, count * 32 * sizeof(float));
            levels[l]->quantize_fine(values, count, blocks, outliers);
            assert_memory_equal(values, before, count * 32 * sizeof(float));
            for (uint32_t first = 0; first < count; first += chunk) {
                const struct cpu_outlier *of_chunk = outliers + first / chunk * CHUNK_OUTLIERS;
                uint32_t end = first + chunk < count ? first + chunk : count;
                for (int i = 0; i < CHUNK_OUTLIERS; i++) {
                    float largest = 0;
                    assert_true(of_chunk[i].block < end - first && of_chunk[i].col < 32);
                    for (uint32_t k = first * 32; k < end * 32; k++) largest = fmaxf(largest, fabsf(left[k]));
                    float *taken = &left[(first + of_chunk[i].block) * 32 + of_chunk[i].col];
                    assert_true(of_chunk[i].value == *taken && fabsf(*taken) == largest);
                    *taken = 0;
                }
            }
            levels[l]->quantize(left, count, plain);
            assert_memory_equal(blocks, plain, count * sizeof(blocks[0]));
            free(values);
        }
    }
}

/* One product against double. Float work: each block adds two terms of at most 4 * max|w| * sum|x| with a
 * relative rounding of 2^-24 each (float forms: one a column); packed weights and quantized rows are
 * taken as they are. */
static void check_product(const struct cpu_level *level, const struct kern_matrix *matrix, uint32_t row_count,
                          bool fine, struct rng *rng)
{
    struct cpu_packed packed = pack(level, matrix);
    uint32_t padded = packed.block_count * BLOCK_COLS, outlier_count = cpu_outlier_count(packed.block_count);
    float *x = kern_data_outliers(rng, (size_t)row_count * padded, 2.0f);
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t k = matrix->cols; k < padded; k++) x[(size_t)r * padded + k] = 0;
    struct cpu_block *blocks = malloc((size_t)row_count * packed.block_count * sizeof(*blocks));
    struct cpu_outlier *outliers = malloc((size_t)row_count * outlier_count * sizeof(*outliers));
    float *out = calloc((size_t)row_count * GROUP_ROWS, sizeof(*out)), *w = malloc(padded * sizeof(*w));
    assert_true(blocks != NULL && outliers != NULL && out != NULL && w != NULL);
    for (uint32_t r = 0; r < row_count; r++) {
        float *row = x + (size_t)r * padded;
        struct cpu_block *row_blocks = blocks + (size_t)r * packed.block_count;
        struct cpu_outlier *row_outliers = outliers + (size_t)r * outlier_count;
        level->quantize(row, packed.block_count, row_blocks);
        if (fine) level->quantize_fine(row, packed.block_count, row_blocks, row_outliers);
        if (is_float_type(matrix->type)) continue;
        for (uint32_t k = 0; k < padded; k++)
            row[k] = row_blocks[k / 32].scales.scale * (float)row_blocks[k / 32].codes[k % 32];
        for (uint32_t i = 0; fine && i < outlier_count; i++) {
            uint32_t block = i / CHUNK_OUTLIERS * cpu_chunk_blocks(packed.block_count) +
                             row_outliers[i].block;
            row[block * 32 + row_outliers[i].col] += row_outliers[i].value;
        }
    }
    struct cpu_input input = {
        .blocks = blocks, .outliers = fine ? outliers : NULL, .values = x, .block_count = packed.block_count};
    for (uint32_t tile = 0; tile < packed.tile_count; tile += GROUP_ROWS / packed.tile_rows) {
        uint32_t tiles = packed.tile_count - tile, most = GROUP_ROWS / packed.tile_rows;
        level->product(&packed, tile, tiles < most ? tiles : most, &input, 0, row_count, out);
        for (uint32_t i = 0; i < GROUP_ROWS && tile * packed.tile_rows + i < matrix->rows; i++) {
            cpu_unpack_row(&packed, level, tile * packed.tile_rows + i, w);
            for (uint32_t r = 0; r < row_count; r++) {
                double sum = 0, bound = 0, largest = 0;
                for (uint32_t k = 0; k < matrix->cols; k++) {
                    sum += (double)w[k] * (double)x[(size_t)r * padded + k];
                    largest = fmax(largest, fabs((double)w[k]));
                    bound += fabs((double)x[(size_t)r * padded + k]);
                }
                uint32_t steps = is_float_type(matrix->type) ? padded
                                                             : 2 * packed.block_count + outlier_count;
                bound *= 4 * largest * (steps + 4) * 0x1.0p-24;
                double got = (double)out[(size_t)r * GROUP_ROWS + i];
                if (!(fabs(got - sum) <= bound))
                    fail_msg("%s type %u %u x %u, %u rows: row %u out %u is %g, not %g +- %g", level->name,
                             matrix->type, matrix->rows, matrix->cols, row_count, r, i, got, sum, bound);
            }
        }
    }
    free(packed.data);
    free(blocks);
    free(outliers);
    free(out);
    free(w);
    free(x);
}

static void test_kern_level_product_matches_double(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{32, 32}, {1, 64}, {13, 96}, {72, 576}, {40, 1536}, {100, 256}};
    struct rng rng = {3};
    for (size_t l = 0; l < level_count; l++) {
        for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
            for (size_t s = 0; s < COUNT_OF(shapes); s++) {
                uint32_t cols = shapes[s][1];
                if (cols % dequant_find(kern_data_types[t])->block_elements != 0) cols = 512;
                struct kern_matrix matrix = kern_data_matrix(&rng, kern_data_types[t], shapes[s][0], cols,
                                                             0.1f);
                for (uint32_t rows = 1; rows <= 13; rows += s == 0 ? 1 : 4) {
                    check_product(levels[l], &matrix, rows, false, &rng);
                    check_product(levels[l], &matrix, rows, true, &rng);
                }
                free((void *)matrix.data);
            }
        }
        struct kern_matrix odd = kern_data_matrix(&rng, 0, 20, 51, 0.1f); // float rows need no whole blocks
        check_product(levels[l], &odd, 3, false, &rng);
        free((void *)odd.data);
    }
}

static void fill_block(const int8_t pattern[2], struct cpu_block *out)
{
    float half = (float)(8 * (pattern[0] + pattern[1]));
    for (size_t k = 0; k < 32; k++) out->codes[k] = pattern[k % 2];
    out->scales = (struct cpu_scales){.scale = 1, .sum = 2 * half, .half = {half, half}};
}

/* All codes the same bits, every scale 1, every minimum 0. */
static void fill_weight_block(const struct dequant_type *type, uint8_t fill, uint8_t *block)
{
    const uint16_t one = half_f16_of_f32(1.0f);
    size_t d_at = 0;
    memset(block, fill, type->block_bytes);
    switch (type->id) {
    case 3:
    case 7: memset(block + 2, 0, 2); break;
    case 10:
        d_at = 80;
        memset(block, 1, 16);
        memset(block + 82, 0, 2);
        break;
    case 11: // 33 - 32, its low bits in nibbles, its high ones in pairs
        d_at = 108;
        memset(block + 96, 0x11, 8);
        memset(block + 104, 0xAA, 4);
        break;
    case 14:
        d_at = 208;
        memset(block + 192, 1, 16);
        break;
    case 23:
        memset(block + 2, 0xAA, 2);
        memset(block + 4, 0x11, 4);
        break;
    case 39: block[0] = 128; return; // 2^(128 - 128) * doubled values
    default: break;
    }
    memcpy(block + d_at, &one, sizeof(one));
}

/* The largest codes against the largest activations: sums must be exact integers, so nothing saturated. */
static void test_kern_level_product_never_saturates(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        uint8_t fill;
        int value;
    } cases[] = {{2, 0xFF, 7},    {2, 0x00, -8},    {3, 0xFF, 15},  {6, 0xFF, 15},   {6, 0x00, -16},
                 {7, 0xFF, 31},   {8, 0x80, -128},  {8, 0x7F, 127}, {14, 0xFF, 31},  {14, 0x00, -32},
                 {10, 0xFF, 3},   {11, 0xFF, 3},    {11, 0x00, -4}, {20, 0xFF, 113}, {20, 0x00, -127},
                 {23, 0xFF, 113}, {23, 0x00, -127}, {39, 0x77, 12}, {39, 0xFF, -12}};
    static const int8_t patterns[][2] = {{127, 127}, {-127, -127}, {127, -127}, {-127, 127}};
    for (size_t l = 0; l < level_count; l++) {
        for (size_t c = 0; c < COUNT_OF(cases); c++) {
            const struct dequant_type *type = dequant_find(cases[c].type);
            uint32_t cols = is_super(type->id) ? 256 : 64, rows = 32;
            uint32_t count = rows * cols / type->block_elements;
            uint8_t *data = malloc((size_t)count * type->block_bytes);
            assert_non_null(data);
            for (uint32_t b = 0; b < count; b++)
                fill_weight_block(type, cases[c].fill, data + (size_t)b * type->block_bytes);
            struct kern_matrix matrix = {.data = data, .type = cases[c].type, .rows = rows, .cols = cols};
            struct cpu_packed packed = pack(levels[l], &matrix);
            for (size_t p = 0; p < COUNT_OF(patterns); p++) {
                struct cpu_block x[9 * 8];
                int sum = 0;
                for (size_t b = 0; b < COUNT_OF(x); b++) fill_block(patterns[p], &x[b]);
                for (uint32_t k = 0; k < cols; k++) sum += cases[c].value * patterns[p][k % 2];
                for (uint32_t x_rows = 5; x_rows <= 9; x_rows += 4) { // below and above the rows of a panel
                    struct cpu_input input = {.blocks = x, .block_count = packed.block_count};
                    float out[9 * GROUP_ROWS];
                    levels[l]->product(&packed, 0, rows / packed.tile_rows, &input, 0, x_rows, out);
                    for (size_t i = 0; i < x_rows * GROUP_ROWS; i++) {
                        if (out[i] != (float)sum)
                            fail_msg("%s type %u fill %02x pattern %zu: %g, not %d", levels[l]->name,
                                     cases[c].type, cases[c].fill, p, (double)out[i], sum);
                    }
                }
            }
            free(packed.data);
            free(data);
        }
    }
}

static void test_kern_level_norm_matches_double(void **state)
{
    (void)state;
    struct rng rng = {4};
    for (size_t l = 0; l < level_count; l++) {
        for (uint32_t cols = 1; cols < 1600; cols = cols * 3 + 1) {
            float *x = kern_data_floats(&rng, cols, 5.0f), *norm = kern_data_floats(&rng, cols, 1.0f);
            float *out = malloc(cols * sizeof(*out));
            assert_non_null(out);
            levels[l]->norm(x, norm, cols, 1e-5f, out);
            double squares = 0;
            for (uint32_t k = 0; k < cols; k++) squares += (double)x[k] * (double)x[k];
            for (uint32_t k = 0; k < cols; k++) {
                double expected = (double)x[k] / sqrt(squares / cols + 1e-5) * (double)norm[k];
                assert_true(fabs((double)out[k] - expected) <= 4e-6 * fabs(expected)); // some 30 roundings
            }
            free(x);
            free(norm);
            free(out);
        }
    }
}

/* exp within 3e-7, a division and three products: 1e-6; far negative gates must end in (minus) zero. */
static void test_kern_level_swiglu_matches_double(void **state)
{
    (void)state;
    for (size_t l = 0; l < level_count; l++) {
        float gate[1024], up[1024], out[1024];
        for (int i = 0; i < 1024; i++) {
            gate[i] = (float)(i - 512) * 0.25f;
            up[i] = (float)(i % 7) - 3.0f;
        }
        levels[l]->swiglu(gate, up, 1024, out);
        for (int i = 0; i < 1024; i++) {
            double expected = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
            assert_true(fabs((double)out[i] - expected) <= 1e-6 * fabs(expected) + 1e-30);
        }
    }
}

static void test_kern_level_gated_blocks_are_the_quantized_values(void **state)
{
    (void)state;
    enum { ROWS = 5, STRIDE = 3 };
    for (size_t l = 0; l < level_count; l++) {
        float gate[ROWS * GROUP_ROWS], up[ROWS * GROUP_ROWS], values[GROUP_ROWS];
        struct cpu_block blocks[ROWS * STRIDE], expected;
        for (int i = 0; i < ROWS * GROUP_ROWS; i++) {
            gate[i] = i < GROUP_ROWS ? 0 : (float)(i % 37 - 18) * 0.5f; // the first row counts as zero
            up[i] = (float)(i % 11) - 5.0f;
        }
        memset(blocks, 0x5A, sizeof(blocks));
        levels[l]->swiglu_blocks(gate, up, ROWS, blocks, STRIDE);
        for (size_t r = 0; r < ROWS; r++) {
            levels[l]->swiglu(gate + r * GROUP_ROWS, up + r * GROUP_ROWS, GROUP_ROWS, values);
            levels[l]->quantize(values, 1, &expected);
            assert_memory_equal(&blocks[r * STRIDE], &expected, sizeof(expected));
            for (size_t b = 1; b < STRIDE; b++)
                assert_int_equal(((const uint8_t *)&blocks[r * STRIDE + b])[0], 0x5A);
        }
    }
}

/* Scores of one visible key come out as the maximum of its state, to the base 2. tanh within 1e-6, four roundings. */
static void test_kern_level_softcap_matches_double(void **state)
{
    (void)state;
    enum { DIMS = 16, TOKENS = 16 };
    static const float caps[] = {0.5f, 1.0f, 30.0f, 50.0f, 1000.0f};
    uint16_t page[2 * DIMS * TOKENS] = {0}; // K (DIMS, TOKENS), V
    static const uint32_t pages[] = {0};
    page[0] = half_f16_of_f32(1.0f);
    for (size_t l = 0; l < level_count; l++) {
        for (size_t c = 0; c < COUNT_OF(caps); c++) {
            float queries[QUERIES_MAX][DIMS] = {{0}}, values[QUERIES_MAX * DIMS];
            struct cpu_softmax states[QUERIES_MAX];
            for (int i = 0; i < QUERIES_MAX; i++) // both signs, 1e-5 to 4e4
                queries[i][0] = (i % 2 == 0 ? 1e-5f : -1e-5f) * powf(2.5f, (float)(i / 2));
            struct cpu_attend piece = {.queries = queries[0],
                                       .query_stride = (size_t)QUERIES_MAX * DIMS,
                                       .row_count = 1,
                                       .group = QUERIES_MAX,
                                       .head_dims = DIMS,
                                       .softcap = caps[c],
                                       .key_end = 1,
                                       .pages = pages,
                                       .payload = (const uint8_t *)page,
                                       .page_bytes = sizeof(page),
                                       .page_tokens = TOKENS,
                                       .kv_type = KERN_KV_F16};
            levels[l]->attend(&piece, states, values);
            for (int i = 0; i < QUERIES_MAX; i++) {
                double score = (double)queries[i][0] * log(2), cap = (double)caps[c]; // given times log2(e)
                double expected = cap * tanh(score / cap) / log(2);
                if (!(fabs((double)states[i].max - expected) <= 1.3e-6 * fabs(expected)))
                    fail_msg("%s cap %g score %g: %.9g, not %.9g", levels[l]->name, cap, score,
                             (double)states[i].max, expected);
                assert_true(states[i].sum == 1);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kern_level_pack_keeps_values),
        cmocka_unit_test(test_kern_level_keeps_every_exponent),
        cmocka_unit_test(test_kern_level_pack_is_small),
        cmocka_unit_test(test_kern_level_quantize_rounds_to_nearest),
        cmocka_unit_test(test_kern_level_quantize_fine_keeps_outliers_apart),
        cmocka_unit_test(test_kern_level_product_matches_double),
        cmocka_unit_test(test_kern_level_product_never_saturates),
        cmocka_unit_test(test_kern_level_norm_matches_double),
        cmocka_unit_test(test_kern_level_swiglu_matches_double),
        cmocka_unit_test(test_kern_level_gated_blocks_are_the_quantized_values),
        cmocka_unit_test(test_kern_level_softcap_matches_double),
    };
    find_levels();
    CHECK(level_count > 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* product - template of the matrix products, over the vocabulary of a simd_*.h included before.
 *
 * A cell is CELL_TILES weight tiles x CELL_ROWS activation rows. For each block of 32 columns the codes are
 * multiplied and summed as integers, exactly; then
 *   f += float(sum) * (d * scale);  f += minimum * activation_sum
 * in this order, block after block. The order is the same in cells of every size, so a result is the same
 * bits wherever its row lands. Float forms add column after column with one fused multiply-add each. */
#ifndef KVASIR_KERN_CPU_PRODUCT_H
#define KVASIR_KERN_CPU_PRODUCT_H

#include "common/base/check.h"
#include "worker/kern/cpu/cpu.h"

enum { VECTOR_BYTES = LANES * 4 };

INLINE bool form_has_min(enum cpu_form form)
{
    return form == FORM_N4M || form == FORM_N5M;
}

INLINE int form_scales(enum cpu_form form)
{
    return form_has_min(form) || form == FORM_B6 ? 2 : 1;
}

INLINE int form_vectors(enum cpu_form form) // code vectors of a block
{
    if (form == FORM_B8) return 8;
    if (form == FORM_B6) return 6;
    return form == FORM_N5 || form == FORM_N5M ? 5 : 4;
}

INLINE int form_sum_groups(enum cpu_form form)
{
    if (form == FORM_B6) return SUM_GROUPS_6;
    return form == FORM_N5 || form == FORM_N5M ? SUM_GROUPS_5 : SUM_GROUPS_4;
}

INLINE float form_centre(enum cpu_form form)
{
    switch (form) {
    case FORM_N4: return 8;
    case FORM_N5: return 16;
    case FORM_B6: return 32;
    case FORM_B8: return BYTE_OFFSET;
    default: return 0;
    }
}

/* The codes of group g of a block. */
INLINE vcode group_codes(enum cpu_form form, const uint8_t *codes, int g)
{
    if (form == FORM_B8) return code_load(codes + g * VECTOR_BYTES);
    vcode pair = code_load(codes + g / 2 * VECTOR_BYTES);
    vcode nibbles = g % 2 == 0 ? code_low_nibbles(pair) : code_high_nibbles(pair);
    if (form == FORM_N5 || form == FORM_N5M)
        return code_add_high(nibbles, code_load(codes + 4 * VECTOR_BYTES), g, 1);
    if (form == FORM_B6)
        return code_add_high(nibbles, code_load(codes + (4 + g / 4) * VECTOR_BYTES), g % 4 * 2, 2);
    return nibbles;
}

/* Integer sums of groups [g_first, g_end) of one block for a cell. */
INLINE void sum_groups(enum cpu_form form, int tiles, int rows, int g_first, int g_end,
                       const uint8_t *const *codes, const struct cpu_block *const *x,
                       vsum sums[CELL_TILES][CELL_ROWS])
{
    vpart parts[CELL_TILES][CELL_ROWS];
    int per_sum = form_sum_groups(form);
    UNROLL for (int t = 0; t < tiles; t++)
    {
        UNROLL for (int r = 0; r < rows; r++) sums[t][r] = sum_zero();
    }
    UNROLL for (int g = g_first; g < g_end; g++)
    {
        vcode w[CELL_TILES];
        UNROLL for (int t = 0; t < tiles; t++) w[t] = group_codes(form, codes[t], g);
        UNROLL for (int r = 0; r < rows; r++)
        {
            vcode a = activation_load(x[r]->codes + g * 4);
            UNROLL for (int t = 0; t < tiles; t++)
            {
                if (form == FORM_B8) {
                    sums[t][r] = sum_add_bytes(sums[t][r], w[t], a);
                    continue;
                }
                parts[t][r] = part_add((g - g_first) % per_sum == 0 ? part_zero() : parts[t][r], w[t], a);
                if ((g - g_first) % per_sum == per_sum - 1 || g == g_end - 1)
                    sums[t][r] = sum_add_part(sums[t][r], parts[t][r]);
            }
        }
    }
}

INLINE void integer_cell(enum cpu_form form, int tiles, int rows, const struct cpu_packed *weight,
                         uint32_t tile, const struct cpu_block *blocks, size_t row_blocks, float *out)
{
    const uint8_t *codes[CELL_TILES];
    const uint16_t *scales[CELL_TILES];
    const struct cpu_block *x[CELL_ROWS];
    vf f[CELL_TILES][CELL_ROWS];
    const size_t code_bytes = (size_t)form_vectors(form) * VECTOR_BYTES;
    const int scale_count = form_scales(form);
    const int halves = form == FORM_B6 ? 2 : 1;
    UNROLL for (int t = 0; t < tiles; t++)
    {
        codes[t] = weight->data + (tile + (uint32_t)t) * weight->tile_bytes;
        scales[t] = (const uint16_t *)(const void *)(codes[t] + code_bytes * weight->block_count);
        UNROLL for (int r = 0; r < rows; r++) f[t][r] = vf_zero();
    }
    UNROLL for (int r = 0; r < rows; r++) x[r] = blocks + (size_t)r * row_blocks;
    for (uint32_t b = 0; b < weight->block_count; b++) {
        UNROLL for (int h = 0; h < halves; h++)
        {
            vsum sums[CELL_TILES][CELL_ROWS];
            sum_groups(form, tiles, rows, h * 8 / halves, (h + 1) * 8 / halves, codes, x, sums);
            UNROLL for (int t = 0; t < tiles; t++)
            {
                vf d = vf_load_f16(scales[t] + h * LANES);
                vf minimum = form_has_min(form) ? vf_load_f16(scales[t] + LANES)
                                                : vf_mul(d, vf_set1(-form_centre(form)));
                UNROLL for (int r = 0; r < rows; r++)
                {
                    float sum = halves == 2 ? x[r]->half[h] : x[r]->sum;
                    f[t][r] = vf_fma(vf_of_sum(sums[t][r]), vf_mul(d, vf_set1(x[r]->scale)), f[t][r]);
                    if (form_has_min(form) || form_centre(form) != 0)
                        f[t][r] = vf_fma(minimum, vf_set1(sum), f[t][r]);
                }
            }
        }
        UNROLL for (int t = 0; t < tiles; t++)
        {
            codes[t] += code_bytes;
            scales[t] += scale_count * LANES;
        }
        UNROLL for (int r = 0; r < rows; r++) x[r]++;
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int t = 0; t < tiles; t++) vf_store(out + r * GROUP_ROWS + t * LANES, f[t][r]);
    }
}

INLINE vf float_codes(enum cpu_form form, const uint8_t *tile, size_t k)
{
    if (form == FORM_F32) return vf_load((const float *)(const void *)tile + k * LANES);
    const uint16_t *halves = (const uint16_t *)(const void *)tile + k * LANES;
    return form == FORM_F16 ? vf_load_f16(halves) : vf_load_bf16(halves);
}

INLINE void float_cell(enum cpu_form form, int tiles, int rows, const struct cpu_packed *weight,
                       uint32_t tile, const float *values, size_t row_values, float *out)
{
    const uint8_t *w = weight->data + tile * weight->tile_bytes;
    vf f[CELL_TILES][CELL_ROWS];
    UNROLL for (int t = 0; t < tiles; t++)
    {
        UNROLL for (int r = 0; r < rows; r++) f[t][r] = vf_zero();
    }
    for (size_t k = 0; k < (size_t)weight->block_count * BLOCK_COLS; k++) {
        vf column[CELL_TILES];
        UNROLL for (int t = 0; t < tiles; t++)
            column[t] = float_codes(form, w + (size_t)t * weight->tile_bytes, k);
        UNROLL for (int r = 0; r < rows; r++)
        {
            vf a = vf_set1(values[(size_t)r * row_values + k]);
            UNROLL for (int t = 0; t < tiles; t++) f[t][r] = vf_fma(column[t], a, f[t][r]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int t = 0; t < tiles; t++) vf_store(out + r * GROUP_ROWS + t * LANES, f[t][r]);
    }
}

INLINE void cell(enum cpu_form form, int tiles, int rows, const struct cpu_packed *weight, uint32_t tile,
                 const struct cpu_input *input, uint32_t row, float *out)
{
    size_t row_blocks = input->block_count;
    if (form == FORM_F32 || form == FORM_F16 || form == FORM_BF16)
        float_cell(form, tiles, rows, weight, tile, input->values + row * row_blocks * BLOCK_COLS,
                   row_blocks * BLOCK_COLS, out);
    else integer_cell(form, tiles, rows, weight, tile, input->blocks + row * row_blocks, row_blocks, out);
}

/* All cells of CELL_TILES tiles over the rows. `rows` stays a constant in each call, so that a cell is
 * straight code on registers. */
INLINE void product_rows(enum cpu_form form, int tiles, const struct cpu_packed *weight, uint32_t tile,
                         const struct cpu_input *input, uint32_t row, uint32_t row_count, float *out)
{
    uint32_t r = 0;
    for (; r + CELL_ROWS <= row_count; r += CELL_ROWS)
        cell(form, tiles, CELL_ROWS, weight, tile, input, row + r, out + (size_t)r * GROUP_ROWS);
    for (; CELL_ROWS > 4 && r + 4 <= row_count; r += 4)
        cell(form, tiles, CELL_ROWS < 4 ? CELL_ROWS : 4, weight, tile, input, row + r,
             out + (size_t)r * GROUP_ROWS);
    for (; r + 2 <= row_count; r += 2)
        cell(form, tiles, 2, weight, tile, input, row + r, out + (size_t)r * GROUP_ROWS);
    if (r < row_count) cell(form, tiles, 1, weight, tile, input, row + r, out + (size_t)r * GROUP_ROWS);
}

#define DEFINE_PRODUCT(form) \
    static void product_##form(const struct cpu_packed *weight, uint32_t tile_first, uint32_t tile_count, \
                               const struct cpu_input *input, uint32_t row, uint32_t row_count, float *out) \
    { \
        uint32_t t = 0; \
        for (; t + CELL_TILES <= tile_count; t += CELL_TILES) \
            product_rows(form, CELL_TILES, weight, tile_first + t, input, row, row_count, out + t * LANES); \
        for (; t < tile_count; t++) \
            product_rows(form, 1, weight, tile_first + t, input, row, row_count, out + t * LANES); \
    }
#define X(form, code_bytes, scales) DEFINE_PRODUCT(form)
CPU_FORMS(X)
#undef X

static void product(const struct cpu_packed *weight, uint32_t tile_first, uint32_t tile_count,
                    const struct cpu_input *input, uint32_t row_first, uint32_t row_count, float *out)
{
    CHECK(weight->tile_rows == LANES);
    CHECK(input->block_count == weight->block_count);
    CHECK(tile_count * LANES <= GROUP_ROWS);
    switch (weight->form) {
#define X(form, code_bytes, scales) \
    case form: product_##form(weight, tile_first, tile_count, input, row_first, row_count, out); return;
        CPU_FORMS(X)
#undef X
    case FORMS_COUNT: break;
    }
    CHECK(!"known form");
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* rows - template of the ops along one row: norm, quantize, SwiGLU, rotation, f16. Each result has one order
 * of operations that depends on the row's length alone. */
#ifndef KVASIR_KERN_CPU_ROWS_H
#define KVASIR_KERN_CPU_ROWS_H

#include <math.h>

#include "worker/kern/cpu/cpu.h"

/* exp(x) with a relative error below 3e-7 for x in [-87, 88]; outside the end value. 2^n * e^r with
 * |r| <= ln(2) / 2, ln(2) in two parts (Cody and Waite), Taylor to r^6. */
INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_max(x, vf_set1(-87.0f)), vf_set1(88.0f));
    vf n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
    vf r = vf_fma(n, vf_set1(-0.693145752f), x);
    r = vf_fma(n, vf_set1(-1.42860677e-6f), r);
    vf p = vf_set1(1.0f / 720.0f);
    p = vf_fma(p, r, vf_set1(1.0f / 120.0f));
    p = vf_fma(p, r, vf_set1(1.0f / 24.0f));
    p = vf_fma(p, r, vf_set1(1.0f / 6.0f));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_mul(p, vf_pow2(n));
}

/* (2^r - 1) / r for r in [-1/2, 1/2]: 1 + r times it is the polynomial of degree 5 with p(0) = 1 and the least
 * relative error from 2^r (9e-8; found by iterated least squares). Itself off by 3e-7 at most. */
INLINE vf vf_exp2_slope(vf r)
{
    vf p = vf_set1(0x1.5bba14p-10f);
    p = vf_fma(p, r, vf_set1(0x1.3cea88p-7f));
    p = vf_fma(p, r, vf_set1(0x1.c6b752p-5f));
    p = vf_fma(p, r, vf_set1(0x1.ebf9bcp-3f));
    return vf_fma(p, r, vf_set1(0x1.62e42ap-1f));
}

/* 2^x with a relative error below 2e-7 for x <= 0; below -125 that of the end value. Adding 1.5 * 2^23 leaves the
 * nearest whole number in the low bits. */
INLINE vf vf_exp2(vf x)
{
    const vf magic = vf_set1(12582912.0f);
    x = vf_max(x, vf_set1(-125.0f));
    vf n = vf_add(x, magic);
    vf r = vf_sub(x, vf_sub(n, magic));
    return vf_move_exponent(vf_fma(vf_exp2_slope(r), r, vf_set1(1.0f)), n);
}

/* tanh(x * ln(2) / 2) = (2^x - 1) / (2^x + 1) with a relative error below 1e-6. 2^x - 1 = 2^n * (2^r - 1) + (2^n - 1)
 * loses nothing near 0; beyond |x| = 30 the result is 1 or -1. */
INLINE vf vf_tanh2(vf x)
{
    x = vf_min(vf_max(x, vf_set1(-30.0f)), vf_set1(30.0f));
    vf n = vf_round(x), power = vf_pow2(n), r = vf_sub(x, n);
    vf less = vf_fma(power, vf_mul(vf_exp2_slope(r), r), vf_sub(power, vf_set1(1.0f)));
    return vf_div(less, vf_add(less, vf_set1(2.0f)));
}

static void norm_row(const float *x, const float *norm, uint32_t cols, float epsilon, float *out)
{
    enum { CHAINS = 4 };
    vf sums[CHAINS] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    uint32_t k = 0;
    for (; k + CHAINS * LANES <= cols; k += CHAINS * LANES) {
        for (uint32_t c = 0; c < CHAINS; c++) {
            vf v = vf_load(x + k + c * LANES);
            sums[c] = vf_fma(v, v, sums[c]);
        }
    }
    float square_sum = vf_reduce_add(vf_add(vf_add(sums[0], sums[1]), vf_add(sums[2], sums[3])));
    for (; k < cols; k++) square_sum += x[k] * x[k];
    float scale = 1.0f / sqrtf(square_sum / (float)cols + epsilon);
    vf scales = vf_set1(scale);
    for (k = 0; k + LANES <= cols; k += LANES)
        vf_store(out + k, vf_mul(vf_mul(vf_load(x + k), scales), vf_load(norm + k)));
    for (; k < cols; k++) out[k] = x[k] * scale * norm[k];
}

/* Blocks whose largest value is below this count as zero: the inverse scale must not overflow. */
#define TINY 1e-30f

INLINE float largest_of(const float *x)
{
    vf most = vf_zero();
    for (uint32_t k = 0; k < BLOCK_COLS; k += LANES) most = vf_max(most, vf_abs(vf_load(x + k)));
    return vf_reduce_max(most);
}

INLINE struct cpu_scales scales_of(float scale, const int32_t sums[2])
{
    return (struct cpu_scales){.scale = scale,
                               .sum = scale * (float)(sums[0] + sums[1]),
                               .half = {scale * (float)sums[0], scale * (float)sums[1]}};
}

INLINE void quantize_block(const float *x, float largest, struct cpu_block *out)
{
    int32_t sums[2];
    quantize_codes(x, largest > TINY ? 127.0f / largest : 0, out->codes, sums);
    out->scales = scales_of(largest > TINY ? largest / 127.0f : 0, sums);
}

static void quantize_row(const float *values, uint32_t block_count, struct cpu_block *out)
{
    for (uint32_t b = 0; b < block_count; b++) {
        const float *x = values + (size_t)b * BLOCK_COLS;
        quantize_block(x, largest_of(x), &out[b]);
    }
}

/* Takes the largest value out of `block_count` blocks; largest: of each block, kept up to date. */
INLINE struct cpu_outlier take_outlier(float *values, uint32_t block_count, float *largest)
{
    uint32_t b = 0, k = 0;
    for (uint32_t i = 1; i < block_count; i++) b = largest[i] > largest[b] ? i : b;
    float *x = values + (size_t)b * BLOCK_COLS;
    while (k < BLOCK_COLS - 1 && fabsf(x[k]) != largest[b]) k++;
    struct cpu_outlier outlier = {.value = x[k], .block = (uint16_t)b, .col = (uint16_t)k};
    x[k] = 0;
    largest[b] = largest_of(x);
    return outlier;
}

static void quantize_fine_row(float *values, uint32_t block_count, struct cpu_block *out,
                              struct cpu_outlier *outliers)
{
    const uint32_t chunk = cpu_chunk_blocks(block_count);
    for (uint32_t first = 0; first < block_count; first += chunk, outliers += CHUNK_OUTLIERS) {
        uint32_t count = block_count - first < chunk ? block_count - first : chunk;
        float *x = values + (size_t)first * BLOCK_COLS;
        float largest[CHUNK_BLOCKS_MAX];
        for (uint32_t b = 0; b < count; b++) largest[b] = largest_of(x + b * BLOCK_COLS);
        for (int i = 0; i < CHUNK_OUTLIERS; i++) outliers[i] = take_outlier(x, count, largest);
        for (uint32_t b = 0; b < count; b++) quantize_block(x + b * BLOCK_COLS, largest[b], &out[first + b]);
        for (int i = CHUNK_OUTLIERS - 1; i >= 0; i--) // the last taken first: one may have been taken twice
            x[outliers[i].block * BLOCK_COLS + outliers[i].col] = outliers[i].value;
    }
}

static void swiglu(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i += LANES) {
        vf g = vf_load(gate + i);
        vf silu = vf_div(g, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), g))));
        vf_store(out + i, vf_mul(silu, vf_load(up + i)));
    }
}

/* Rows follow each other in one loop, so that the chains of some of them run at the same time. */
static void swiglu_blocks(const float *gate, const float *up, uint32_t row_count, struct cpu_block *out,
                          size_t out_stride)
{
    _Static_assert(GROUP_ROWS == BLOCK_COLS, "a group of outputs is a block of inputs");
    for (uint32_t r = 0; r < row_count; r++, gate += GROUP_ROWS, up += GROUP_ROWS) {
        _Alignas(64) float values[GROUP_ROWS];
        swiglu(gate, up, GROUP_ROWS, values);
        quantize_block(values, largest_of(values), &out[r * out_stride]);
    }
}

static void rotate(float *head, uint32_t dims, bool adjacent, const float *cosines, const float *sines)
{
    uint32_t half = dims / 2;
    uint32_t i = 0;
    if (adjacent) {
        for (; i + LANES <= dims; i += LANES) {
            vf x = vf_load(head + i);
            vf turned = vf_mul(vf_swap_pairs(x), vf_load(sines + i));
            vf_store(head + i, vf_fma(x, vf_load(cosines + i), turned));
        }
        for (; i < dims; i += 2) {
            float a = head[i], b = head[i + 1];
            head[i] = a * cosines[i] + b * sines[i];
            head[i + 1] = b * cosines[i + 1] + a * sines[i + 1];
        }
        return;
    }
    for (; i + LANES <= half; i += LANES) {
        vf a = vf_load(head + i), b = vf_load(head + half + i);
        vf_store(head + i, vf_fma(a, vf_load(cosines + i), vf_mul(b, vf_load(sines + i))));
        vf_store(head + half + i,
                 vf_fma(b, vf_load(cosines + half + i), vf_mul(a, vf_load(sines + half + i))));
    }
    for (; i < half; i++) {
        float a = head[i], b = head[half + i];
        head[i] = a * cosines[i] + b * sines[i];
        head[half + i] = b * cosines[half + i] + a * sines[half + i];
    }
}

static void to_f16(const float *values, uint32_t count, uint16_t *out)
{
    for (uint32_t i = 0; i < count; i += LANES) vf_store_f16(out + i, vf_load(values + i));
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* scan - see scan.h. */
#include "worker/scan.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/check.h"

#define LOG2_E 1.44269504f

enum { LANES = 8 };

/* Eight floats (GCC vector extension); a machine with shorter registers uses several. They are passed by
 * pointer because the ABI of passing them by value depends on the machine. */
typedef float vec8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t mask8 __attribute__((vector_size(32), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE const vec8 *as_vec8(const float *floats)
{
    return (const vec8 *)floats;
}

/* *x = 2^x for x <= 0, and 0 below -126. n = round(x), 2^x = 2^n * exp(r ln 2) with r = x - n exact and
 * |r| <= 1/2, as a Taylor polynomial of degree 6, whose remainder is 1.2e-7. */
INLINE void exp2_vec8(vec8 *x)
{
    /* Added to a small number, 1.5 * 2^23 leaves the nearest whole one in the low bits of the sum; with
     * 127 on top of it these bits, moved up, are 2^n. */
    const float round_magic = 12582912.0f + 127.0f;
    const vec8 v = *x, zero = {0};
    const vec8 shifted = v + round_magic, r = v - (shifted - round_magic);
    vec8 p = r * 1.5403530e-4f + 1.3333558e-3f; // ln(2)^k / k!
    p = p * r + 9.6181291e-3f;
    p = p * r + 5.5504109e-2f;
    p = p * r + 2.4022651e-1f;
    p = p * r + 6.9314718e-1f;
    p = p * r + 1.0f;
    p *= (vec8)((mask8)shifted << 23);
    const mask8 tiny = v < zero - 126.0f; // false for NaN, which stays
    *x = (vec8)((mask8)p & ~tiny);
}

/* *best = the greater of the two, lane by lane; NaN in v is passed over. */
INLINE void keep_greater(vec8 *best, const vec8 *v)
{
    const mask8 above = *v > *best;
    *best = (vec8)((above & (mask8)*v) | (~above & (mask8)*best));
}

INLINE float block_max(const float *block)
{
    const vec8 lowest = {-INFINITY, -INFINITY, -INFINITY, -INFINITY,
                         -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    vec8 a = lowest, b = lowest;
    for (int i = 0; i < SCAN_BLOCK; i += 4 * LANES) {
        keep_greater(&a, as_vec8(block + i));
        keep_greater(&b, as_vec8(block + i + LANES));
        keep_greater(&a, as_vec8(block + i + 2 * LANES));
        keep_greater(&b, as_vec8(block + i + 3 * LANES));
    }
    keep_greater(&a, &b);
    float max = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) max = a[lane] > max ? a[lane] : max;
    return max;
}

/* Two chains, so that the polynomials overlap; lanes are added in double at the end. */
INLINE double block_sum(const float *block, float max, float scale)
{
    vec8 sum_a = {0}, sum_b = {0};
    for (int i = 0; i < SCAN_BLOCK; i += 2 * LANES) {
        vec8 a = (*as_vec8(block + i) - max) * scale, b = (*as_vec8(block + i + LANES) - max) * scale;
        exp2_vec8(&a);
        exp2_vec8(&b);
        sum_a += a;
        sum_b += b;
    }
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += (double)sum_a[lane] + (double)sum_b[lane];
    return sum;
}

/* The last block, filled up with -INFINITY. */
INLINE void pad_block(const float *row, uint32_t count, float padded[SCAN_BLOCK])
{
    uint32_t whole = count / SCAN_BLOCK * SCAN_BLOCK;
    for (uint32_t i = 0; i < SCAN_BLOCK; i++) padded[i] = whole + i < count ? row[whole + i] : -INFINITY;
}

INLINE void maxima_body(const float *row, uint32_t count, float *maxima)
{
    uint32_t whole = count / SCAN_BLOCK;
    for (uint32_t b = 0; b < whole; b++) maxima[b] = block_max(row + (size_t)b * SCAN_BLOCK);
    if (count % SCAN_BLOCK == 0) return;
    float padded[SCAN_BLOCK];
    pad_block(row, count, padded);
    maxima[whole] = block_max(padded);
}

INLINE void sums_body(const float *row, uint32_t count, float max, float scale, double *sums)
{
    uint32_t whole = count / SCAN_BLOCK;
    for (uint32_t b = 0; b < whole; b++) sums[b] = block_sum(row + (size_t)b * SCAN_BLOCK, max, scale);
    if (count % SCAN_BLOCK == 0) return;
    float padded[SCAN_BLOCK];
    pad_block(row, count, padded);
    sums[whole] = block_sum(padded, max, scale);
}

/* Elements >= threshold: how many, and the sum of their weights. Blocks without any are passed over. */
INLINE void above_body(const float *row, uint32_t count, const float *maxima, float threshold, float max,
                       float scale, struct scan_above *ret_above)
{
    const vec8 limit = threshold - (vec8){0};
    struct scan_above above = {0};
    for (uint32_t b = 0; b < scan_blocks(count); b++) {
        if (!(maxima[b] >= threshold)) continue;
        float padded[SCAN_BLOCK];
        const float *block = row + (size_t)b * SCAN_BLOCK;
        if (count - b * SCAN_BLOCK < SCAN_BLOCK) {
            pad_block(row, count, padded);
            block = padded;
        }
        vec8 sums = {0};
        mask8 counts = {0};
        for (int i = 0; i < SCAN_BLOCK; i += LANES) {
            const mask8 in = *as_vec8(block + i) >= limit;
            vec8 v = (*as_vec8(block + i) - max) * scale;
            exp2_vec8(&v);
            sums += (vec8)((mask8)v & in);
            counts -= in;
        }
        for (int lane = 0; lane < LANES; lane++) {
            above.mass += (double)sums[lane];
            above.count += (uint32_t)counts[lane];
        }
    }
    *ret_above = above;
}

static void maxima_any(const float *row, uint32_t count, float *maxima)
{
    maxima_body(row, count, maxima);
}

static void sums_any(const float *row, uint32_t count, float max, float scale, double *sums)
{
    sums_body(row, count, max, scale, sums);
}

static void above_any(const float *row, uint32_t count, const float *maxima, float threshold, float max,
                      float scale, struct scan_above *ret_above)
{
    above_body(row, count, maxima, threshold, max, scale, ret_above);
}

#if defined(__x86_64__)
/* AVX2 without FMA: the same operations, eight at a time. */
__attribute__((target("avx2"))) static void maxima_avx2(const float *row, uint32_t count, float *maxima)
{
    maxima_body(row, count, maxima);
}

__attribute__((target("avx2"))) static void sums_avx2(const float *row, uint32_t count, float max,
                                                      float scale, double *sums)
{
    sums_body(row, count, max, scale, sums);
}

__attribute__((target("avx2"))) static void above_avx2(const float *row, uint32_t count, const float *maxima,
                                                       float threshold, float max, float scale,
                                                       struct scan_above *ret_above)
{
    above_body(row, count, maxima, threshold, max, scale, ret_above);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
#define maxima_avx2 maxima_any
#define sums_avx2 sums_any
#define above_avx2 above_any

static bool has_avx2(void)
{
    return false;
}
#endif

float scan_maxima(const float *row, uint32_t count, float *maxima)
{
    if (has_avx2()) maxima_avx2(row, count, maxima);
    else maxima_any(row, count, maxima);
    float max = -INFINITY;
    for (uint32_t b = 0; b < scan_blocks(count); b++) max = maxima[b] > max ? maxima[b] : max;
    return max;
}

double scan_sums(const float *row, uint32_t count, float max, float scale, double *sums)
{
    if (has_avx2()) sums_avx2(row, count, max, scale * LOG2_E, sums);
    else sums_any(row, count, max, scale * LOG2_E, sums);
    double total = 0;
    for (uint32_t b = 0; b < scan_blocks(count); b++) total += sums[b];
    return total;
}

struct scan_above scan_above(const float *row, uint32_t count, const float *maxima, float threshold,
                             float max, float scale)
{
    struct scan_above above;
    if (has_avx2()) above_avx2(row, count, maxima, threshold, max, scale * LOG2_E, &above);
    else above_any(row, count, maxima, threshold, max, scale * LOG2_E, &above);
    return above;
}

float scan_weight(float logit, float max, float scale)
{
    vec8 v = {(logit - max) * (scale * LOG2_E)};
    exp2_vec8(&v);
    return v[0];
}

uint32_t scan_find(const float *row, uint32_t count, const float *maxima, float value)
{
    uint32_t b = 0, blocks = scan_blocks(count);
    while (b < blocks && maxima[b] != value) b++;
    CHECK(b < blocks);
    uint32_t i = b * SCAN_BLOCK;
    while (i < count && row[i] != value) i++;
    CHECK(i < count);
    return i;
}

static uint32_t block_end(uint32_t block, uint32_t count)
{
    uint32_t left = count - block * SCAN_BLOCK;
    return block * SCAN_BLOCK + (left < SCAN_BLOCK ? left : SCAN_BLOCK);
}

uint32_t scan_rank(const float *row, uint32_t count, const float *maxima, uint32_t index)
{
    const float value = row[index];
    uint32_t before = 0;
    for (uint32_t b = 0; b < scan_blocks(count); b++) {
        if (maxima[b] < value) continue;
        for (uint32_t i = b * SCAN_BLOCK; i < block_end(b, count); i++) {
            before += row[i] > value || (row[i] == value && i < index);
        }
    }
    return before;
}

/* Bits of a float flip so that ascending integers are descending floats. */
static uint64_t key_of(float value, uint32_t index)
{
    uint32_t bits;
    value += 0.0f; // -0 becomes 0
    memcpy(&bits, &value, sizeof(bits));
    bits = bits >> 31 ? bits : ~bits & 0x7FFFFFFFu;
    return (uint64_t)bits << 32 | index;
}

uint32_t scan_gather(const float *row, uint32_t count, const float *maxima, float threshold, uint64_t *keys)
{
    uint32_t found = 0;
    for (uint32_t b = 0; b < scan_blocks(count); b++) {
        if (!(maxima[b] >= threshold)) continue;
        for (uint32_t i = b * SCAN_BLOCK; i < block_end(b, count); i++) {
            keys[found] = key_of(row[i], i);
            found += row[i] >= threshold && row[i] > -INFINITY;
        }
    }
    return found;
}

/* Least significant byte first over the value's four bytes; stable, so equal values stay by index. */
void scan_sort(uint64_t *keys, uint32_t key_count, uint64_t *scratch)
{
    uint32_t starts[4][256] = {{0}};
    for (uint32_t i = 0; i < key_count; i++) {
        for (int pass = 0; pass < 4; pass++) starts[pass][keys[i] >> (32 + 8 * pass) & 255]++;
    }
    uint64_t *from = keys, *to = scratch;
    for (int pass = 0; pass < 4; pass++) {
        uint32_t start = 0;
        for (int digit = 0; digit < 256; digit++) {
            uint32_t digit_count = starts[pass][digit];
            starts[pass][digit] = start;
            start += digit_count;
        }
        for (uint32_t i = 0; i < key_count; i++)
            to[starts[pass][from[i] >> (32 + 8 * pass) & 255]++] = from[i];
        uint64_t *swapped = from;
        from = to;
        to = swapped;
    }
    CHECK(from == keys); // an even number of passes ends where it began
}

float scan_threshold(const float *maxima, uint32_t count, uint32_t k, uint64_t *keys, uint64_t *scratch)
{
    uint32_t blocks = scan_blocks(count);
    CHECK(k > 0);
    if (k > blocks) return -INFINITY;
    for (uint32_t b = 0; b < blocks; b++) keys[b] = key_of(maxima[b], b);
    scan_sort(keys, blocks, scratch);
    return maxima[scan_key_index(keys[k - 1])];
}

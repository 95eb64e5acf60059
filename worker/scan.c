/* SPDX-License-Identifier: Apache-2.0 */
/* scan - see scan.h. */
#include "worker/scan.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/check.h"

enum { LANES = 8 };

/* Eight floats (GCC vector extension); a machine with shorter registers uses several. They are passed by
 * pointer because the ABI of passing them by value depends on the machine. */
typedef float vec8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t mask8 __attribute__((vector_size(32), may_alias));

#define EXP_MIN (-87.0f) // exp of it is still a normal float

#define INLINE static inline __attribute__((always_inline))

INLINE const vec8 *as_vec8(const float *floats)
{
    return (const vec8 *)floats;
}

/* *x = mask ? a : b */
INLINE void choose(const mask8 *mask, const vec8 *a, const vec8 *b, vec8 *x)
{
    *x = (vec8)((*mask & (mask8)*a) | (~*mask & (mask8)*b));
}

/* exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n ln 2 (Cody, Waite 1980), |r| <= 0.347. exp(r) is the
 * Taylor polynomial of degree 7: its remainder is 5e-9. ln 2 is split so that n * LN2_HIGH is exact. */
INLINE void exp_vec8(vec8 *x)
{
    const float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const float round_magic = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest whole number below
    const vec8 zero = {0};
    const mask8 one_exponent = {127, 127, 127, 127, 127, 127, 127, 127};
    const mask8 tiny = *x < zero + EXP_MIN;
    vec8 v;
    choose(&tiny, &zero, x, &v);
    const vec8 shifted = v * log2_e + round_magic, n = shifted - round_magic;
    const vec8 r = (v - n * ln2_high) - n * ln2_low;
    vec8 p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const mask8 whole = (mask8)shifted - (mask8)(zero + round_magic);
    v = p * (vec8)((whole + one_exponent) << 23);
    choose(&tiny, &zero, &v, x);
}

INLINE float block_max(const float *block)
{
    vec8 best[2] = {*as_vec8(block), *as_vec8(block + LANES)};
    for (int i = 2; i < SCAN_BLOCK / LANES; i++) {
        const vec8 v = *as_vec8(block + i * LANES);
        const mask8 above = v > best[i % 2];
        choose(&above, &v, &best[i % 2], &best[i % 2]);
    }
    float max = -INFINITY;
    for (int lane = 0; lane < 2 * LANES; lane++) {
        float v = best[lane / LANES][lane % LANES];
        max = v > max ? v : max;
    }
    return max;
}

/* Four chains, so that the polynomial's latency is covered; lanes are added in double at the end. */
INLINE double block_sum(const float *block, float max, float scale)
{
    vec8 sums[2] = {{0}};
    for (int i = 0; i < SCAN_BLOCK / LANES; i++) {
        vec8 v = (*as_vec8(block + i * LANES) - max) * scale;
        exp_vec8(&v);
        sums[i % 2] += v;
    }
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += (double)sums[0][lane] + (double)sums[1][lane];
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

static void maxima_any(const float *row, uint32_t count, float *maxima)
{
    maxima_body(row, count, maxima);
}

static void sums_any(const float *row, uint32_t count, float max, float scale, double *sums)
{
    sums_body(row, count, max, scale, sums);
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

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
#define maxima_avx2 maxima_any
#define sums_avx2 sums_any

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
    if (has_avx2()) sums_avx2(row, count, max, scale, sums);
    else sums_any(row, count, max, scale, sums);
    double total = 0;
    for (uint32_t b = 0; b < scan_blocks(count); b++) total += sums[b];
    return total;
}

float scan_exp(float x)
{
    vec8 v = {x};
    exp_vec8(&v);
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

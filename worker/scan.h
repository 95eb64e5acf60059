/* SPDX-License-Identifier: Apache-2.0 */
/* scan - passes over one row of logits in blocks of 64: maxima, sums of exponentials, ordered selection.
 *
 * The same bits on every machine that rounds as IEEE 754 says: vectors of eight floats written out, no
 * fused multiply-add, one order of every sum. On x86 a copy compiled for AVX2 is chosen at run time; it
 * performs the same operations. NaN: maxima ignore it, sums become NaN. */
#ifndef KVASIR_WORKER_SCAN_H
#define KVASIR_WORKER_SCAN_H

#include <stdint.h>

enum { SCAN_BLOCK = 64 };

static inline uint32_t scan_blocks(uint32_t count)
{
    return count / SCAN_BLOCK + (count % SCAN_BLOCK != 0);
}

/* maxima: (scan_blocks(count)) largest of each block. Returns the largest of all, -INFINITY when none. */
float scan_maxima(const float *row, uint32_t count, float *maxima);

/* The weight of a logit, exp((logit - max) * scale) for logit <= max, scale > 0: relative error below
 * 3e-7 + 1e-7 * |(logit - max) * scale|; exactly 1 at max, 0 below 2^-126. */
float scan_weight(float logit, float max, float scale);

/* sums: (scan_blocks(count)) the weights of each block added up. Returns the sum of the sums, block by block
 * in double. */
double scan_sums(const float *row, uint32_t count, float max, float scale, double *sums);

/* How many elements are >= threshold, and the sum of their weights. */
struct scan_above {
    double mass;
    uint32_t count;
};
struct scan_above scan_above(const float *row, uint32_t count, const float *maxima, float threshold,
                             float max, float scale);

/* Index of the first element equal to value, which is one of the maxima. */
uint32_t scan_find(const float *row, uint32_t count, const float *maxima, float value);

/* How many elements come before row[index]: greater ones, and equal ones of a lower index. */
uint32_t scan_rank(const float *row, uint32_t count, const float *maxima, uint32_t index);

/* A key orders elements: ascending keys are descending values, equal values by ascending index. -0 is 0. */
static inline uint32_t scan_key_index(uint64_t key)
{
    return (uint32_t)key;
}

/* Keys of all elements >= threshold, -INFINITY never, by ascending index. keys: room for count. Returns how
 * many. */
uint32_t scan_gather(const float *row, uint32_t count, const float *maxima, float threshold, uint64_t *keys);

/* Sorts keys, which are in the order of scan_gather. scratch: (key_count). */
void scan_sort(uint64_t *keys, uint32_t key_count, uint64_t *scratch);

/* A threshold that at least k > 0 elements reach: the k-th largest of the maxima, -INFINITY when there are
 * fewer blocks. keys, scratch: (scan_blocks(count)), overwritten. */
float scan_threshold(const float *maxima, uint32_t count, uint32_t k, uint64_t *keys, uint64_t *scratch);

#endif

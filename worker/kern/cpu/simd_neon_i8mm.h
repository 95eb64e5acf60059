/* SPDX-License-Identifier: Apache-2.0 */
/* simd_neon_i8mm - the vocabulary of the kernel templates for 64-bit ARM with the integer matrix instructions: that
 * of simd_neon.h, with lanes of 64 bits for the integer products.
 *
 * smmla multiplies two rows of 8 signed bytes with two others: 32 products an instruction where sdot has 16. In cells
 * of pairs of rows a block of 32 columns takes 4 smmla and a zip for 4 sums instead of 8 sdot, and half the loads of
 * activations: 265 instructions a block and cell of 4 x 4 instead of 551 for bytes, 309 instead of 543 for unpacked
 * nibbles (gcc 12 -O2). One row alone would waste half of an smmla: it goes by sdot. usdot would bring nothing:
 * packing has made the codes fit signed bytes. */
#ifndef KVASIR_KERN_CPU_SIMD_NEON_I8MM_H
#define KVASIR_KERN_CPU_SIMD_NEON_I8MM_H

#define SIMD_WIDE_LANES
#include "worker/kern/cpu/simd_neon.h"

/* The 32-bit lanes 0 and 2, or 1 and 3, of a, then of b. */
INLINE vcode code_even_lanes(vcode a, vcode b)
{
    return vreinterpretq_s8_s32(vuzp1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
INLINE vcode code_odd_lanes(vcode a, vcode b)
{
    return vreinterpretq_s8_s32(vuzp2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
/* 8 codes of each of two rows */
INLINE vcode activation_load_wide(const int8_t *p, const int8_t *q)
{
    return vcombine_s8(vld1_s8(p), vld1_s8(q));
}
/* Sums of 8 products: a's first row with both of w, a's second row with both of w. */
INLINE vsum sum_add_pairs(vsum sum, vcode a, vcode w)
{
    return vmmlaq_s32(sum, a, w);
}
/* Neighbours added: those of a, then those of b. */
INLINE vsum sum_of_neighbours(vsum a, vsum b)
{
    return vpaddq_s32(a, b);
}
/* The first, or the second, half of a, then of b. */
INLINE vsum sum_low_halves(vsum a, vsum b)
{
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
INLINE vsum sum_high_halves(vsum a, vsum b)
{
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

#endif

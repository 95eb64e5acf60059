/* SPDX-License-Identifier: Apache-2.0 */
/* simd_neon - the vocabulary of the kernel templates for 64-bit ARM with the dot product instructions
 * (asimddp; every core since 2018. Machines without run the portable level).
 *
 * Integer products: sdot multiplies signed bytes with signed bytes and adds four of them to 32 bits without
 * saturating: exact for every code, whose values all fit in a signed byte. */
#ifndef KVASIR_KERN_CPU_SIMD_NEON_H
#define KVASIR_KERN_CPU_SIMD_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "worker/kern/cpu/simd.h"

enum {
    LANES = 4,
    BYTE_OFFSET = 0, // B8 holds code - 128
    CELL_TILES = 4,  // register tile of a product: 4 x 4 outputs, 4 activation rows
    CELL_ROWS = 4,
    GEMM_ROWS = 6,    // register tile of attention: 6 queries x 16 columns
    SUM_GROUPS_4 = 8, // sums are 32 bits wide from the start
    SUM_GROUPS_5 = 8,
    SUM_GROUPS_6 = 8,
    PANEL_ROWS = 8, // from here on unpacking once pays
};

typedef float32x4_t vf;  // LANES floats
typedef int8x16_t vcode; // LANES x 4 bytes
typedef int32x4_t vpart; // LANES 32-bit sums
typedef int32x4_t vsum;  // LANES 32-bit sums

INLINE vf vf_zero(void)
{
    return vdupq_n_f32(0);
}
INLINE vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}
INLINE vf vf_load(const float *p)
{
    return vld1q_f32(p);
}
INLINE void vf_store(float *p, vf x)
{
    vst1q_f32(p, x);
}
INLINE vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return vmaxq_f32(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return vminq_f32(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) // a * b + c
{
    return vfmaq_f32(c, a, b);
}
INLINE vf vf_abs(vf a)
{
    return vabsq_f32(a);
}
INLINE vf vf_round(vf a) // to nearest, ties to even
{
    return vrndnq_f32(a);
}
INLINE vf vf_pow2(vf n) // 2^n for whole n in [-126, 127]
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
INLINE vf vf_move_exponent(vf a, vf n) // a * 2^k for whole k, n = k + 1.5 * 2^23, both normal
{
    return vreinterpretq_f32_s32(
        vaddq_s32(vreinterpretq_s32_f32(a), vshlq_n_s32(vreinterpretq_s32_f32(n), 23)));
}
INLINE float vf_reduce_add(vf a) // (0 + 1) + (2 + 3)
{
    a = vpaddq_f32(a, a);
    return vgetq_lane_f32(vpaddq_f32(a, a), 0);
}
INLINE float vf_reduce_max(vf a)
{
    return vmaxvq_f32(a);
}
/* Lanes below `count` of a, the others of b. */
INLINE vf vf_first(int count, vf a, vf b)
{
    static const int32_t lanes[LANES] = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(count)), a, b);
}
INLINE vf vf_swap_pairs(vf a)
{
    return vrev64q_f32(a);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
INLINE void vf_store_f16(uint16_t *p, vf x) // to nearest even
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
INLINE vf vf_of_sum(vsum a)
{
    return vcvtq_f32_s32(a);
}
/* LANES bytes, signed; the low or the high nibbles of bytes */
INLINE vsum sum_load_u8(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)));
}
INLINE vf vf_load_i8(const uint8_t *p)
{
    return vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(sum_load_u8(p), 24), 24));
}
INLINE vf vf_load_low_nibbles(const uint8_t *p)
{
    return vcvtq_f32_s32(vandq_s32(sum_load_u8(p), vdupq_n_s32(15)));
}
INLINE vf vf_load_high_nibbles(const uint8_t *p)
{
    return vcvtq_f32_s32(vshrq_n_s32(sum_load_u8(p), 4));
}
INLINE vf vf_load_nibbles(const uint8_t *p, int shift) // bits [shift, shift + 4) of each byte
{
    return vcvtq_f32_s32(vandq_s32(vshlq_s32(sum_load_u8(p), vdupq_n_s32(-shift)), vdupq_n_s32(15)));
}
/* Floats whose exponent bits are the bytes, fractions 0. */
INLINE vf vf_load_exponents(const uint8_t *p)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(sum_load_u8(p), 23));
}

/* 8 floats times scale, rounded to nearest even, in 16 bits. */
INLINE int16x8_t words_of(const float *x, float scale)
{
    int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), scale));
    int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), scale));
    return vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
}

/* x: 32 floats in [-127, 127] after scaling by `inverse`; out: rounded to nearest even. ret_sums: sums of codes
 * 0..15 and 16..31. */
INLINE void quantize_codes(const float *x, float inverse, int8_t *out, int32_t ret_sums[2])
{
    for (int i = 0; i < 2; i++) {
        int16x8_t low = words_of(x + i * 16, inverse), high = words_of(x + i * 16 + 8, inverse);
        int8x16_t codes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
        vst1q_s8(out + i * 16, codes);
        ret_sums[i] = vaddlvq_s8(codes);
    }
}

/* codes */

INLINE vcode code_load(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}
INLINE void code_store(uint8_t *p, vcode v)
{
    vst1q_u8(p, vreinterpretq_u8_s8(v));
}
INLINE vcode code_low_nibbles(vcode v)
{
    return vandq_s8(v, vdupq_n_s8(15));
}
INLINE vcode code_high_nibbles(vcode v)
{
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4));
}
/* Bits [bit, bit + width) of each byte, moved to bits `to` and up. A shift by a vector, to the right where it is
 * negative, takes counts that are constants only after unrolling. */
INLINE vcode code_bits(vcode v, int bit, int width, int to)
{
    uint8x16_t moved = vshlq_u8(vreinterpretq_u8_s8(v), vdupq_n_s8((int8_t)(to - bit)));
    return vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8((uint8_t)(((1 << width) - 1) << to))));
}
INLINE vcode code_or(vcode a, vcode b)
{
    return vorrq_s8(a, b);
}
/* table[index] of each byte; indexes below 16 */
INLINE vcode code_lookup(const uint8_t table[16], vcode indexes)
{
    return vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_s8(indexes)));
}
/* Byte `byte` of each 32-bit lane as 0..255, its bits turned by `flip`. */
INLINE vsum code_column(vcode codes, uint32_t byte, int flip)
{
    int32x4_t moved = vshlq_s32(vreinterpretq_s32_s8(codes), vdupq_n_s32(-(int32_t)byte * 8));
    return vandq_s32(veorq_s32(moved, vdupq_n_s32(flip)), vdupq_n_s32(0xFF));
}
INLINE vcode activation_load(const int8_t *p) // 4 codes, to all lanes
{
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
INLINE vpart part_zero(void)
{
    return vdupq_n_s32(0);
}
INLINE vpart part_add(vpart part, vcode codes, vcode activations)
{
    return vdotq_s32(part, codes, activations);
}
INLINE vsum sum_zero(void)
{
    return vdupq_n_s32(0);
}
INLINE vsum sum_add_part(vsum sum, vpart part)
{
    return vaddq_s32(sum, part);
}
INLINE vsum sum_add_bytes(vsum sum, vcode codes, vcode activations)
{
    return vdotq_s32(sum, codes, activations);
}
INLINE void prefetch(const void *p)
{
    __builtin_prefetch(p);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* simd_avx512 - the vocabulary of the kernel templates for AVX-512 F, BW, VL, DQ and VNNI.
 *
 * Integer products: vpdpbusd multiplies unsigned codes with signed activations and adds four of them to 32
 * bits without saturating in between: exact for every code width. */
#ifndef KVASIR_KERN_CPU_SIMD_AVX512_H
#define KVASIR_KERN_CPU_SIMD_AVX512_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef KVASIR_EMULATE // tests on machines without it: the same names on plain vectors
#include "worker/kern/cpu/avx512_emulation.h"
#else
#include <immintrin.h>
#endif

#include "worker/kern/cpu/simd.h"

enum {
    LANES = 16,
    BYTE_OFFSET = 128, // B8 holds unsigned codes
    CELL_TILES = 2,    // register tile of a product: 2 x 16 outputs, 6 activation rows
    CELL_ROWS = 6,
    GEMM_ROWS = 6,    // register tile of attention: 6 queries x 32 columns
    SUM_GROUPS_4 = 8, // sums are 32 bits wide from the start
    SUM_GROUPS_5 = 8,
    SUM_GROUPS_6 = 8,
    PANEL_ROWS = 8, // from here on unpacking once pays
};

typedef __m512 vf;     // LANES floats
typedef __m512i vcode; // LANES x 4 bytes
typedef __m512i vpart; // LANES 32-bit sums
typedef __m512i vsum;  // LANES 32-bit sums

INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) // a * b + c
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
INLINE vf vf_round(vf a) // to nearest, ties to even
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_pow2(vf n) // 2^n for whole n in [-126, 127]
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
INLINE vf vf_move_exponent(vf a, vf n) // a * 2^k for whole k, n = k + 1.5 * 2^23, both normal
{
    __m512i moved = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), moved));
}
/* Halves, quarters, pairs: the tree is written out, so that the order is ours and not the compiler's. */
INLINE float vf_reduce_add(vf a)
{
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0x4E));
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0xB1));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4E));
    return _mm512_cvtss_f32(_mm512_add_ps(a, _mm512_permute_ps(a, 0xB1)));
}
INLINE float vf_reduce_max(vf a)
{
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4E));
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xB1));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4E));
    return _mm512_cvtss_f32(_mm512_max_ps(a, _mm512_permute_ps(a, 0xB1)));
}
/* Lanes below `count` of a, the others of b. */
INLINE vf vf_first(int count, vf a, vf b)
{
    __mmask16 mask = (__mmask16)(count >= LANES ? 0xFFFF : (1 << count) - 1);
    return _mm512_mask_blend_ps(mask, b, a);
}
INLINE vf vf_swap_pairs(vf a)
{
    return _mm512_permute_ps(a, 0xB1);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE void vf_store_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE vf vf_load_nibbles(const uint8_t *p, int shift) // bits [shift, shift + 4) of each byte
{
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    bytes = _mm512_srli_epi32(bytes, (unsigned)shift);
    return _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
}
INLINE vf vf_of_sum(vsum a)
{
    return _mm512_cvtepi32_ps(a);
}
/* LANES bytes, signed; the low or the high nibbles of bytes */
INLINE vf vf_load_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
INLINE vsum sum_load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vf vf_load_low_nibbles(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(sum_load_u8(p), _mm512_set1_epi32(15)));
}
INLINE vf vf_load_high_nibbles(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_srli_epi32(sum_load_u8(p), 4));
}
/* Floats whose exponent bits are the bytes, fractions 0. */
INLINE vf vf_load_exponents(const uint8_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(sum_load_u8(p), 23));
}

INLINE int32_t sum_reduce(vsum a)
{
    a = _mm512_add_epi32(a, _mm512_shuffle_i32x4(a, a, 0x4E));
    a = _mm512_add_epi32(a, _mm512_shuffle_i32x4(a, a, 0xB1));
    a = _mm512_add_epi32(a, _mm512_shuffle_epi32(a, 0x4E));
    return _mm512_cvtsi512_si32(_mm512_add_epi32(a, _mm512_shuffle_epi32(a, 0xB1)));
}

/* x: 32 floats in [-127, 127] after scaling by `inverse`; out: rounded to nearest even. ret_sums: sums of codes
 * 0..15 and 16..31. */
INLINE void quantize_codes(const float *x, float inverse, int8_t *out, int32_t ret_sums[2])
{
    for (int i = 0; i < 2; i++) {
        __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(vf_load(x + i * LANES), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(void *)(out + i * LANES), _mm512_cvtepi32_epi8(codes));
        ret_sums[i] = sum_reduce(codes);
    }
}

/* codes */

INLINE vcode code_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
INLINE void code_store(uint8_t *p, vcode v)
{
    _mm512_storeu_si512(p, v);
}
INLINE vcode code_low_nibbles(vcode v)
{
    return _mm512_and_si512(v, _mm512_set1_epi32(0x0F0F0F0F));
}
INLINE vcode code_high_nibbles(vcode v)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi32(0x0F0F0F0F));
}
/* Bits [bit, bit + width) of each byte, moved to bits `to` and up. */
INLINE vcode code_bits(vcode v, int bit, int width, int to)
{
    vcode moved = bit <= to ? _mm512_slli_epi16(v, (unsigned)(to - bit))
                            : _mm512_srli_epi16(v, (unsigned)(bit - to));
    return _mm512_and_si512(moved, _mm512_set1_epi32(((1 << width) - 1) * (0x01010101 << to)));
}
INLINE vcode code_or(vcode a, vcode b)
{
    return _mm512_or_si512(a, b);
}
/* table[index] of each byte; indexes below 16 */
INLINE vcode code_lookup(const uint8_t table[16], vcode indexes)
{
    __m128i values = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), indexes);
}
/* Byte `byte` of each 32-bit lane as 0..255, its bits turned by `flip`. */
INLINE vsum code_column(vcode codes, uint32_t byte, int flip)
{
    __m512i moved = _mm512_srl_epi32(codes, _mm_cvtsi32_si128((int)byte * 8));
    return _mm512_and_si512(_mm512_xor_si512(moved, _mm512_set1_epi32(flip)), _mm512_set1_epi32(0xFF));
}
INLINE vcode activation_load(const int8_t *p) // 4 codes, to all lanes
{
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
}
INLINE vpart part_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vpart part_add(vpart part, vcode codes, vcode activations)
{
    return _mm512_dpbusd_epi32(part, codes, activations);
}
INLINE vsum sum_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vsum sum_add_part(vsum sum, vpart part)
{
    return _mm512_add_epi32(sum, part);
}
INLINE vsum sum_add_bytes(vsum sum, vcode codes, vcode activations)
{
    return _mm512_dpbusd_epi32(sum, codes, activations);
}
INLINE void prefetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

#endif

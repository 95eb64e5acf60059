/* SPDX-License-Identifier: Apache-2.0 */
/* simd_avx2 - the vocabulary of the kernel templates for AVX2, FMA and F16C. simd_avxvnni.h takes all but the
 * integer products from here.
 *
 * Integer products: vpmaddubsw multiplies unsigned codes with signed activations and adds pairs in 16 bits.
 * With codes of b bits a pair is at most 2 * (2^b - 1) * 127, so several pairs fit before 16 bits overflow
 * and one vpmaddwd widens them together:
 *   4 bits   3810 a pair, 8 pairs 30480    5 bits   7874 a pair, 4 pairs 31496
 *   6 bits  16002 a pair, 2 pairs 32004    all < 32768: exact
 * Bytes: |w| <= 128 against the activation with the sign of w: 32512 a pair, one pair; exact. */
#ifndef KVASIR_KERN_CPU_SIMD_AVX2_H
#define KVASIR_KERN_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "worker/kern/cpu/simd.h"

enum {
    LANES = 8,
    GEMM_ROWS = 6, // register tile of attention: 6 queries x 16 columns
};
#ifndef SIMD_AVXVNNI
enum {
    BYTE_OFFSET = 0, // B8 holds code - 128
    CELL_TILES = 2,  // register tile of a product: 2 x 8 outputs, 4 activation rows
    CELL_ROWS = 4,
    SUM_GROUPS_4 = 8, // groups that fit in 16 bits, by bits of the code
    SUM_GROUPS_5 = 4,
    SUM_GROUPS_6 = 2,
    PANEL_ROWS = 15, // from here on unpacking once pays
};
#endif

/* Keeps the compiler from building a tree of sums, which would spill every product. */
#define KEEP_ORDER(sum) __asm__("" : "+x"(sum))

typedef __m256 vf;     // LANES floats
typedef __m256i vcode; // LANES x 4 bytes
typedef __m256i vpart; // LANES x 2 16-bit partial sums (AVX-VNNI: LANES 32-bit ones)
typedef __m256i vsum;  // LANES 32-bit sums

INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) // a * b + c
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
INLINE vf vf_round(vf a) // to nearest, ties to even
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_pow2(vf n) // 2^n for whole n in [-126, 127]
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
INLINE vf vf_move_exponent(vf a, vf n) // a * 2^k for whole k, n = k + 1.5 * 2^23, both normal
{
    __m256i moved = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), moved));
}
INLINE float vf_reduce_add(vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
INLINE float vf_reduce_max(vf a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
/* Lanes below `count` of a, the others of b. */
INLINE vf vf_first(int count, vf a, vf b)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
}
INLINE vf vf_swap_pairs(vf a)
{
    return _mm256_permute_ps(a, 0xB1);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE vf vf_load_nibbles(const uint8_t *p, int shift) // bits [shift, shift + 4) of each byte
{
    __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(bytes, shift), _mm256_set1_epi32(15)));
}
INLINE vf vf_of_sum(vsum a)
{
    return _mm256_cvtepi32_ps(a);
}
/* LANES bytes, signed; the low or the high nibbles of bytes */
INLINE vf vf_load_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
INLINE vsum sum_load_u8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
INLINE vf vf_load_low_nibbles(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_and_si256(sum_load_u8(p), _mm256_set1_epi32(15)));
}
INLINE vf vf_load_high_nibbles(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(sum_load_u8(p), 4));
}
/* Floats whose exponent bits are the bytes, fractions 0. */
INLINE vf vf_load_exponents(const uint8_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(sum_load_u8(p), 23));
}

/* x: 32 floats in [-127, 127] after scaling by `inverse`; out: rounded to nearest even. ret_sums: sums of codes
 * 0..15 and 16..31. */
INLINE void quantize_codes(const float *x, float inverse, int8_t *out, int32_t ret_sums[2])
{
    __m256 scale = _mm256_set1_ps(inverse);
    __m256i i0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
    __m256i i1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), scale));
    __m256i i2 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16), scale));
    __m256i i3 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 24), scale));
    /* The packs work within 128-bit halves; the permutation puts their dwords back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)out, bytes);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i low = _mm256_castsi256_si128(quads), high = _mm256_extracti128_si256(quads, 1);
    __m128i sums = _mm_hadd_epi32(low, high);
    sums = _mm_hadd_epi32(sums, sums);
    ret_sums[0] = _mm_cvtsi128_si32(sums);
    ret_sums[1] = _mm_extract_epi32(sums, 1);
}

/* codes */

INLINE vcode code_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE void code_store(uint8_t *p, vcode v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v);
}
INLINE vcode code_low_nibbles(vcode v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
INLINE vcode code_high_nibbles(vcode v)
{
    return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}
/* Bits [bit, bit + width) of each byte, moved to bits `to` and up. */
INLINE vcode code_bits(vcode v, int bit, int width, int to)
{
    vcode moved = bit <= to ? _mm256_slli_epi16(v, to - bit) : _mm256_srli_epi16(v, bit - to);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)(((1 << width) - 1) << to)));
}
INLINE vcode code_or(vcode a, vcode b)
{
    return _mm256_or_si256(a, b);
}
/* table[index] of each byte; indexes below 16 */
INLINE vcode code_lookup(const uint8_t table[16], vcode indexes)
{
    __m128i values = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), indexes);
}
/* Shuffles within 128 bits: byte b of each 32-bit lane, the rest zero. */
_Alignas(16) static const uint8_t column_picks[4][16] = {
    {0, 128, 128, 128, 4, 128, 128, 128, 8, 128, 128, 128, 12, 128, 128, 128},
    {1, 128, 128, 128, 5, 128, 128, 128, 9, 128, 128, 128, 13, 128, 128, 128},
    {2, 128, 128, 128, 6, 128, 128, 128, 10, 128, 128, 128, 14, 128, 128, 128},
    {3, 128, 128, 128, 7, 128, 128, 128, 11, 128, 128, 128, 15, 128, 128, 128}};

/* Byte `byte` of each 32-bit lane as 0..255, its bits turned by `flip`. */
INLINE vsum code_column(vcode codes, uint32_t byte, int flip)
{
    __m128i pick = _mm_load_si128((const __m128i *)(const void *)column_picks[byte]);
    __m256i column = _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(pick));
    return flip == 0 ? column : _mm256_xor_si256(column, _mm256_set1_epi32(flip));
}
INLINE vcode activation_load(const int8_t *p) // 4 codes, to all lanes
{
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm256_set1_epi32(four);
}
INLINE vpart part_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vsum sum_zero(void)
{
    return _mm256_setzero_si256();
}
#ifndef SIMD_AVXVNNI
INLINE vpart part_add(vpart part, vcode codes, vcode activations)
{
    part = _mm256_add_epi16(part, _mm256_maddubs_epi16(codes, activations));
    KEEP_ORDER(part);
    return part;
}
INLINE vsum sum_add_part(vsum sum, vpart part)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
}
INLINE vsum sum_add_bytes(vsum sum, vcode codes, vcode activations)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(activations, codes));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    KEEP_ORDER(sum);
    return sum;
}
#endif
INLINE void prefetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

#endif

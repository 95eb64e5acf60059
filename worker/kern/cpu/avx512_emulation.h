/* SPDX-License-Identifier: Apache-2.0 */
/* avx512_emulation - the intrinsics that worker/kern/cpu/simd_avx512.h uses, on plain 64-byte vectors, so that
 * the AVX-512 kernels run and are tested on a machine that has only AVX2 and F16C. Written from the
 * instruction descriptions of Intel's Software Developer's Manual, lane by lane; not fast.
 *
 * <immintrin.h> declares the real ones, so each name is redirected to an `emulated_` function. */
#ifndef KVASIR_TESTS_AVX512_EMULATION_H
#define KVASIR_TESTS_AVX512_EMULATION_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "worker/kern/cpu/avxvnni_emulation.h"

#define EMULATED static inline __attribute__((always_inline, unused))
#define EMULATED_CALL \
    static __attribute__((noinline, unused)) // loops: inlined everywhere they take minutes to compile

typedef float emulated_m512 __attribute__((vector_size(64)));
typedef int32_t emulated_m512i __attribute__((vector_size(64)));
typedef uint32_t emulated_u32 __attribute__((vector_size(64)));
typedef uint16_t emulated_u16 __attribute__((vector_size(64)));

EMULATED emulated_m512 emulated_setzero_ps(void)
{
    return (emulated_m512){0};
}
EMULATED emulated_m512 emulated_set1_ps(float x)
{
    return x - (emulated_m512){0};
}
EMULATED emulated_m512 emulated_loadu_ps(const void *p)
{
    emulated_m512 r;
    memcpy(&r, p, sizeof(r));
    return r;
}
EMULATED void emulated_storeu_ps(void *p, emulated_m512 a)
{
    memcpy(p, &a, sizeof(a));
}
EMULATED emulated_m512 emulated_add_ps(emulated_m512 a, emulated_m512 b)
{
    return a + b;
}
EMULATED emulated_m512 emulated_sub_ps(emulated_m512 a, emulated_m512 b)
{
    return a - b;
}
EMULATED emulated_m512 emulated_mul_ps(emulated_m512 a, emulated_m512 b)
{
    return a * b;
}
EMULATED emulated_m512 emulated_div_ps(emulated_m512 a, emulated_m512 b)
{
    return a / b;
}
EMULATED_CALL emulated_m512 emulated_max_ps(emulated_m512 a, emulated_m512 b) // the second where not a > b
{
    for (int i = 0; i < 16; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
EMULATED_CALL emulated_m512 emulated_min_ps(emulated_m512 a, emulated_m512 b)
{
    for (int i = 0; i < 16; i++) a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}
/* One rounding, by the 256-bit instruction. */
EMULATED emulated_m512 emulated_fmadd_ps(emulated_m512 a, emulated_m512 b, emulated_m512 c)
{
    __m256 parts[3][2];
    memcpy(parts[0], &a, sizeof(a));
    memcpy(parts[1], &b, sizeof(b));
    memcpy(parts[2], &c, sizeof(c));
    for (int i = 0; i < 2; i++) parts[2][i] = _mm256_fmadd_ps(parts[0][i], parts[1][i], parts[2][i]);
    memcpy(&c, parts[2], sizeof(c));
    return c;
}
EMULATED emulated_m512 emulated_abs_ps(emulated_m512 a)
{
    return (emulated_m512)((emulated_m512i)a & INT32_MAX);
}
/* Only what is used: to a whole number, to nearest even. */
EMULATED_CALL emulated_m512 emulated_roundscale_ps(emulated_m512 a, int control)
{
    (void)control;
    for (int i = 0; i < 16; i++) a[i] = nearbyintf(a[i]);
    return a;
}
EMULATED emulated_m512i emulated_castps_si512(emulated_m512 a)
{
    return (emulated_m512i)a;
}
EMULATED emulated_m512 emulated_castsi512_ps(emulated_m512i a)
{
    return (emulated_m512)a;
}
EMULATED_CALL emulated_m512i emulated_cvtps_epi32(emulated_m512 a) // to nearest even
{
    emulated_m512i r;
    for (int i = 0; i < 16; i++) r[i] = (int32_t)lrintf(a[i]);
    return r;
}
EMULATED emulated_m512 emulated_cvtepi32_ps(emulated_m512i a)
{
    return __builtin_convertvector(a, emulated_m512);
}
EMULATED emulated_m512i emulated_setzero_si512(void)
{
    return (emulated_m512i){0};
}
EMULATED emulated_m512i emulated_set1_epi32(int32_t x)
{
    return x - (emulated_m512i){0};
}
EMULATED emulated_m512i emulated_loadu_si512(const void *p)
{
    emulated_m512i r;
    memcpy(&r, p, sizeof(r));
    return r;
}
EMULATED emulated_m512i emulated_add_epi32(emulated_m512i a, emulated_m512i b)
{
    return (emulated_m512i)((emulated_u32)a + (emulated_u32)b);
}
EMULATED emulated_m512i emulated_and_si512(emulated_m512i a, emulated_m512i b)
{
    return a & b;
}
EMULATED emulated_m512i emulated_or_si512(emulated_m512i a, emulated_m512i b)
{
    return a | b;
}
EMULATED emulated_m512i emulated_xor_si512(emulated_m512i a, emulated_m512i b)
{
    return a ^ b;
}
EMULATED emulated_m512i emulated_srl_epi32(emulated_m512i a, __m128i count) // by its low 32 bits, below 32
{
    return (emulated_m512i)((emulated_u32)a >> (uint32_t)_mm_cvtsi128_si32(count));
}
EMULATED emulated_m512i emulated_slli_epi32(emulated_m512i a, unsigned count)
{
    return (emulated_m512i)((emulated_u32)a << count);
}
EMULATED emulated_m512i emulated_srli_epi32(emulated_m512i a, unsigned count)
{
    return (emulated_m512i)((emulated_u32)a >> count);
}
EMULATED emulated_m512i emulated_slli_epi16(emulated_m512i a, unsigned count)
{
    return (emulated_m512i)((emulated_u16)a << (uint16_t)count);
}
EMULATED emulated_m512i emulated_srli_epi16(emulated_m512i a, unsigned count)
{
    return (emulated_m512i)((emulated_u16)a >> (uint16_t)count);
}
EMULATED emulated_m512i emulated_broadcast_i32x4(__m128i a)
{
    emulated_m512i r;
    for (int q = 0; q < 4; q++) memcpy((char *)&r + q * 16, &a, sizeof(a));
    return r;
}
/* Within quarters; 0 where bit 7 of the index is set. */
EMULATED_CALL emulated_m512i emulated_shuffle_epi8(emulated_m512i a, emulated_m512i indexes)
{
    uint8_t from[64], at[64], to[64];
    memcpy(from, &a, sizeof(from));
    memcpy(at, &indexes, sizeof(at));
    for (int i = 0; i < 64; i++) to[i] = at[i] & 0x80 ? 0 : from[i / 16 * 16 + (at[i] & 15)];
    memcpy(&a, to, sizeof(to));
    return a;
}
/* Quarters of 128 bits: two from a, two from b, chosen by pairs of bits. */
EMULATED_CALL emulated_m512 emulated_shuffle_f32x4(emulated_m512 a, emulated_m512 b, int control)
{
    emulated_m512 r;
    for (int q = 0; q < 4; q++) {
        for (int i = 0; i < 4; i++) r[q * 4 + i] = (q < 2 ? a : b)[(control >> (q * 2) & 3) * 4 + i];
    }
    return r;
}
EMULATED emulated_m512i emulated_shuffle_i32x4(emulated_m512i a, emulated_m512i b, int control)
{
    return (emulated_m512i)emulated_shuffle_f32x4((emulated_m512)a, (emulated_m512)b, control);
}
EMULATED_CALL emulated_m512 emulated_permute_ps(emulated_m512 a, int control) // within quarters
{
    emulated_m512 r;
    for (int i = 0; i < 16; i++) r[i] = a[i / 4 * 4 + (control >> (i % 4 * 2) & 3)];
    return r;
}
EMULATED emulated_m512i emulated_shuffle_epi32(emulated_m512i a, int control)
{
    return (emulated_m512i)emulated_permute_ps((emulated_m512)a, control);
}
EMULATED float emulated_cvtss_f32(emulated_m512 a)
{
    return a[0];
}
EMULATED int32_t emulated_cvtsi512_si32(emulated_m512i a)
{
    return a[0];
}
EMULATED_CALL emulated_m512 emulated_mask_blend_ps(uint16_t mask, emulated_m512 a,
                                                   emulated_m512 b) // b where set
{
    for (int i = 0; i < 16; i++) a[i] = mask >> i & 1 ? b[i] : a[i];
    return a;
}
EMULATED emulated_m512 emulated_cvtph_ps(__m256i halves)
{
    __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    emulated_m512 r;
    memcpy(&r, &low, 32);
    memcpy((char *)&r + 32, &high, 32);
    return r;
}
EMULATED __m256i emulated_cvtps_ph(emulated_m512 a, int control)
{
    (void)control; // to nearest even
    __m256 low, high;
    memcpy(&low, &a, 32);
    memcpy(&high, (char *)&a + 32, 32);
    return _mm256_set_m128i(_mm256_cvtps_ph(high, 0), _mm256_cvtps_ph(low, 0));
}
EMULATED_CALL emulated_m512i emulated_cvtepu16_epi32(__m256i a)
{
    uint16_t from[16];
    memcpy(from, &a, sizeof(from));
    emulated_m512i r;
    for (int i = 0; i < 16; i++) r[i] = from[i];
    return r;
}
EMULATED_CALL emulated_m512i emulated_cvtepi8_epi32(__m128i a)
{
    int8_t from[16];
    memcpy(from, &a, sizeof(from));
    emulated_m512i r;
    for (int i = 0; i < 16; i++) r[i] = from[i];
    return r;
}
EMULATED_CALL emulated_m512i emulated_cvtepu8_epi32(__m128i a)
{
    uint8_t from[16];
    memcpy(from, &a, sizeof(from));
    emulated_m512i r;
    for (int i = 0; i < 16; i++) r[i] = from[i];
    return r;
}
EMULATED_CALL __m128i emulated_cvtepi32_epi8(emulated_m512i a) // cuts, does not saturate
{
    int8_t to[16];
    for (int i = 0; i < 16; i++) to[i] = (int8_t)a[i];
    __m128i r;
    memcpy(&r, to, sizeof(r));
    return r;
}
EMULATED void emulated_storeu_si512(void *p, emulated_m512i a)
{
    memcpy(p, &a, sizeof(a));
}
/* Four products of unsigned bytes of b and signed bytes of c, added to each 32-bit lane; wraps. */
EMULATED emulated_m512i emulated_dpbusd_epi32(emulated_m512i sum, emulated_m512i b, emulated_m512i c)
{
    __m256i parts[3][2];
    memcpy(parts[0], &sum, sizeof(sum));
    memcpy(parts[1], &b, sizeof(b));
    memcpy(parts[2], &c, sizeof(c));
    for (int i = 0; i < 2; i++)
        parts[0][i] = emulated_dpbusd_avx_epi32(parts[0][i], parts[1][i], parts[2][i]);
    memcpy(&sum, parts[0], sizeof(sum));
    return sum;
}

/* Some of the names are macros in <immintrin.h> when it does not optimize. */
#undef _mm512_roundscale_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_i32x4
#undef _mm512_permute_ps
#undef _mm512_shuffle_epi32
#undef _mm512_slli_epi16
#undef _mm512_srl_epi32
#undef _mm512_xor_si512
#undef _mm512_srli_epi16
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#undef _mm512_cvtps_ph

#define __m512 emulated_m512
#define __m512i emulated_m512i
#define __mmask16 uint16_t
#define _mm512_setzero_ps emulated_setzero_ps
#define _mm512_set1_ps emulated_set1_ps
#define _mm512_loadu_ps emulated_loadu_ps
#define _mm512_storeu_ps emulated_storeu_ps
#define _mm512_add_ps emulated_add_ps
#define _mm512_sub_ps emulated_sub_ps
#define _mm512_mul_ps emulated_mul_ps
#define _mm512_div_ps emulated_div_ps
#define _mm512_max_ps emulated_max_ps
#define _mm512_min_ps emulated_min_ps
#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_abs_ps emulated_abs_ps
#define _mm512_roundscale_ps emulated_roundscale_ps
#define _mm512_castps_si512 emulated_castps_si512
#define _mm512_castsi512_ps emulated_castsi512_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_setzero_si512 emulated_setzero_si512
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_loadu_si512 emulated_loadu_si512
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_and_si512 emulated_and_si512
#define _mm512_xor_si512 emulated_xor_si512
#define _mm512_srl_epi32 emulated_srl_epi32
#define _mm512_or_si512 emulated_or_si512
#define _mm512_slli_epi32 emulated_slli_epi32
#define _mm512_srli_epi32 emulated_srli_epi32
#define _mm512_broadcast_i32x4 emulated_broadcast_i32x4
#define _mm512_shuffle_epi8 emulated_shuffle_epi8
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_slli_epi16 emulated_slli_epi16
#define _mm512_srli_epi16 emulated_srli_epi16
#define _mm512_shuffle_f32x4 emulated_shuffle_f32x4
#define _mm512_shuffle_i32x4 emulated_shuffle_i32x4
#define _mm512_permute_ps emulated_permute_ps
#define _mm512_shuffle_epi32 emulated_shuffle_epi32
#define _mm512_cvtss_f32 emulated_cvtss_f32
#define _mm512_cvtsi512_si32 emulated_cvtsi512_si32
#define _mm512_mask_blend_ps emulated_mask_blend_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtps_ph emulated_cvtps_ph
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_storeu_si512 emulated_storeu_si512
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#define _mm512_dpbusd_epi32 emulated_dpbusd_epi32

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* simd_portable - the vocabulary of the kernel templates in GCC's vector extension: any machine, no
 * instruction set assumed. The compiler splits the 8-lane vectors into what the target has. vf_fma rounds
 * twice here, so results differ from other levels in the last places. */
#ifndef KVASIR_KERN_CPU_SIMD_PORTABLE_H
#define KVASIR_KERN_CPU_SIMD_PORTABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "common/base/sanitizer.h"
#if SANITIZES_ADDRESS || SANITIZES_THREAD
#define KVASIR_NO_UNROLL // the compiler takes many minutes over unrolled code that it also instruments
#endif
#include "worker/kern/cpu/simd.h"
#include "worker/kern/ref/half.h"

enum {
    LANES = 8,
    BYTE_OFFSET = 128, // B8 holds unsigned codes
    CELL_TILES = 1,
    CELL_ROWS = 2,
    GEMM_ROWS = 3,
    SUM_GROUPS_4 = 8, // sums are 32 bits wide from the start
    SUM_GROUPS_5 = 8,
    SUM_GROUPS_6 = 8,
    PANEL_ROWS = 8,
};

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vsum __attribute__((vector_size(4 * LANES)));
typedef int32_t vpart __attribute__((vector_size(8 * LANES))); // a lane's even and odd columns
typedef int16_t vcode __attribute__((vector_size(8 * LANES))); // LANES x 4 codes
typedef uint8_t bytes_of_codes __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves_of_lanes __attribute__((vector_size(2 * LANES)));
typedef uint8_t bytes_of_lanes __attribute__((vector_size(LANES)));
typedef int8_t signed_bytes_of_lanes __attribute__((vector_size(LANES)));
typedef uint32_t bits_of_lanes __attribute__((vector_size(4 * LANES)));

INLINE vf vf_zero(void)
{
    return (vf){0};
}
INLINE vf vf_set1(float x)
{
    return (vf){x, x, x, x, x, x, x, x};
}
INLINE vf vf_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof(x));
    return x;
}
INLINE void vf_store(float *p, vf x)
{
    memcpy(p, &x, sizeof(x));
}
INLINE vf vf_add(vf a, vf b)
{
    return a + b;
}
INLINE vf vf_sub(vf a, vf b)
{
    return a - b;
}
INLINE vf vf_mul(vf a, vf b)
{
    return a * b;
}
INLINE vf vf_div(vf a, vf b)
{
    return a / b;
}
INLINE vf vf_choose(vsum mask, vf a, vf b) // lanes of a where the mask is all ones, else of b
{
    return (vf)(((vsum)a & mask) | ((vsum)b & ~mask));
}
INLINE vf vf_max(vf a, vf b)
{
    return vf_choose(a > b, a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return vf_choose(a < b, a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) // a * b + c
{
    return a * b + c;
}
INLINE vf vf_abs(vf a)
{
    return (vf)((vsum)a & INT32_MAX);
}
INLINE vf
vf_round(vf a) // to nearest, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no fraction bits
{
    vf magic = vf_set1(12582912.0f);
    return (a + magic) - magic;
}
INLINE vf vf_pow2(vf n) // 2^n for whole n in [-126, 127]
{
    return (vf)((__builtin_convertvector(n, vsum) + 127) << 23);
}
INLINE vf vf_move_exponent(vf a, vf n) // a * 2^k for whole k, n = k + 1.5 * 2^23, both normal
{
    return (vf)((bits_of_lanes)a + ((bits_of_lanes)n << 23));
}
INLINE float vf_reduce_add(vf a)
{
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}
INLINE float vf_reduce_max(vf a)
{
    float max = a[0];
    for (int i = 1; i < LANES; i++) max = a[i] > max ? a[i] : max;
    return max;
}
/* Lanes below `count` of a, the others of b. */
INLINE vf vf_first(int count, vf a, vf b)
{
    const vsum lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return vf_choose(lane < count, a, b);
}
INLINE vf vf_swap_pairs(vf a)
{
    return (vf){a[1], a[0], a[3], a[2], a[5], a[4], a[7], a[6]};
}
/* Exponent and fraction move up; the factor 2^112 corrects the bias and makes subnormals right as well
 * (infinities, which pages and weights do not hold, come out as 65536). */
INLINE vf vf_load_f16(const uint16_t *p)
{
    halves_of_lanes halves;
    memcpy(&halves, p, sizeof(halves));
    bits_of_lanes bits = __builtin_convertvector(halves, bits_of_lanes);
    vf magnitude = (vf)((bits & 0x7FFF) << 13) * vf_set1(0x1.0p112f);
    return (vf)((bits_of_lanes)magnitude | (bits & 0x8000) << 16);
}
INLINE void vf_store_f16(uint16_t *p, vf x)
{
    for (int i = 0; i < LANES; i++) p[i] = half_f16_of_f32(x[i]);
}
INLINE vf vf_load_nibbles(const uint8_t *p, int shift) // bits [shift, shift + 4) of each byte
{
    uint8_t bytes __attribute__((vector_size(LANES)));
    memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(__builtin_convertvector(bytes, vsum) >> shift & 15, vf);
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    halves_of_lanes halves;
    memcpy(&halves, p, sizeof(halves));
    return (vf)(__builtin_convertvector(halves, bits_of_lanes) << 16);
}
INLINE vf vf_of_sum(vsum a)
{
    return __builtin_convertvector(a, vf);
}
/* LANES bytes, signed; the low or the high nibbles of bytes */
INLINE vf vf_load_i8(const uint8_t *p)
{
    signed_bytes_of_lanes bytes;
    memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, vf);
}
INLINE vsum sum_load_u8(const uint8_t *p)
{
    bytes_of_lanes bytes;
    memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, vsum);
}
INLINE vf vf_load_low_nibbles(const uint8_t *p)
{
    return vf_of_sum(sum_load_u8(p) & 15);
}
INLINE vf vf_load_high_nibbles(const uint8_t *p)
{
    return vf_of_sum(sum_load_u8(p) >> 4);
}
/* Floats whose exponent bits are the bytes, fractions 0. */
INLINE vf vf_load_exponents(const uint8_t *p)
{
    return (vf)(sum_load_u8(p) << 23);
}

/* x: 32 floats in [-127, 127] after scaling by `inverse`; out: rounded to nearest even. ret_sums: sums of codes
 * 0..15 and 16..31. */
INLINE void quantize_codes(const float *x, float inverse, int8_t *out, int32_t ret_sums[2])
{
    ret_sums[0] = ret_sums[1] = 0;
    for (int i = 0; i < 32; i += LANES) {
        vsum codes = __builtin_convertvector(vf_round(vf_load(x + i) * vf_set1(inverse)), vsum);
        for (int j = 0; j < LANES; j++) {
            out[i + j] = (int8_t)codes[j];
            ret_sums[i / 16] += codes[j];
        }
    }
}

/* codes */

INLINE vcode code_load(const uint8_t *p)
{
    bytes_of_codes bytes;
    memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, vcode);
}
INLINE void code_store(uint8_t *p, vcode v)
{
    bytes_of_codes bytes = __builtin_convertvector(v, bytes_of_codes);
    memcpy(p, &bytes, sizeof(bytes));
}
INLINE vcode code_low_nibbles(vcode v)
{
    return v & 15;
}
INLINE vcode code_high_nibbles(vcode v)
{
    return v >> 4;
}
/* Bits [bit, bit + width) of each code, moved to bits `to` and up. */
INLINE vcode code_bits(vcode v, int bit, int width, int to)
{
    return (v >> bit & (int16_t)((1 << width) - 1)) << to;
}
INLINE vcode code_or(vcode a, vcode b)
{
    return a | b;
}
/* table[index] of each code; indexes below 16 */
INLINE vcode code_lookup(const uint8_t table[16], vcode indexes)
{
    for (int i = 0; i < 4 * LANES; i++) indexes[i] = table[indexes[i]];
    return indexes;
}
/* Code `byte` of each lane as 0..255, its bits turned by `flip`. */
INLINE vsum code_column(vcode codes, uint32_t byte, int flip)
{
    vsum column;
    for (uint32_t i = 0; i < LANES; i++) column[i] = codes[i * 4 + byte] ^ flip;
    return column;
}
INLINE vcode activation_load(const int8_t *p) // 4 codes, to all lanes
{
#if defined(__SSE2__) // one by one the compiler takes a dozen instructions
    int32_t bytes;
    memcpy(&bytes, p, sizeof(bytes));
    __m128i four = _mm_cvtsi32_si128(bytes);
    four = _mm_srai_epi16(_mm_unpacklo_epi8(four, four), 8);
    four = _mm_unpacklo_epi64(four, four);
    const __m128i all[4] = {four, four, four, four};
    vcode codes;
    memcpy(&codes, all, sizeof(codes));
    return codes;
#else
    vcode four = {p[0], p[1], p[2], p[3], p[0], p[1], p[2], p[3], p[0], p[1], p[2],
                  p[3], p[0], p[1], p[2], p[3], p[0], p[1], p[2], p[3], p[0], p[1],
                  p[2], p[3], p[0], p[1], p[2], p[3], p[0], p[1], p[2], p[3]};
    return four;
#endif
}
INLINE vpart part_zero(void)
{
    return (vpart){0};
}
/* Adds the products of two columns each. */
INLINE vpart part_add(vpart part, vcode codes, vcode activations)
{
#if defined(__SSE2__) // every x86-64 has it, and the compiler does not find it by itself
    __m128i c[4], a[4], p[4];
    memcpy(c, &codes, sizeof(c));
    memcpy(a, &activations, sizeof(a));
    for (int i = 0; i < 4; i++) p[i] = _mm_madd_epi16(c[i], a[i]);
    vpart sums;
    memcpy(&sums, p, sizeof(sums));
    return part + sums;
#else // 255 * 127 fits in 16 bits; the two products in the halves of a 32-bit lane are added as 32 bits
    vpart products = (vpart)(codes * activations);
    return part + (products << 16 >> 16) + (products >> 16);
#endif
}
INLINE vsum sum_zero(void)
{
    return (vsum){0};
}
INLINE vsum sum_add_part(vsum sum, vpart part)
{
    vsum even = __builtin_shufflevector(part, part, 0, 2, 4, 6, 8, 10, 12, 14);
    vsum odd = __builtin_shufflevector(part, part, 1, 3, 5, 7, 9, 11, 13, 15);
    return sum + even + odd;
}
INLINE vsum sum_add_bytes(vsum sum, vcode codes, vcode activations)
{
    return sum_add_part(sum, part_add(part_zero(), codes, activations));
}
INLINE void prefetch(const void *p)
{
    __builtin_prefetch(p);
}

#endif

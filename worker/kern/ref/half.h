/* SPDX-License-Identifier: Apache-2.0 */
/* half - 16-bit floats to 32-bit and back: IEEE 754 binary16 and bfloat16. Exact upwards; downwards to the
 * nearest, ties to even, with overflow to infinity and subnormals kept. NaN stays a (quiet) NaN. Plain
 * integer arithmetic: no F16C, no rounding mode, the same bits everywhere. */
#ifndef KVASIR_KERN_REF_HALF_H
#define KVASIR_KERN_REF_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_bits_of_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float half_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* binary16: sign 1 | exponent 5 (bias 15) | fraction 10 */
static inline float half_f32_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = half & 0x7FFFu;
    if (rest >= 0x7C00u) return half_f32_of_bits(sign | 0x7F800000u | (rest & 0x03FFu) << 13);
    if (rest >= 0x0400u) return half_f32_of_bits(sign | ((rest << 13) + (112u << 23)));
    /* Subnormal or zero: fraction * 2^-24, exact in binary32. */
    float magnitude = (float)rest * 0x1.0p-24f;
    return half_f32_of_bits(sign | half_bits_of_f32(magnitude));
}

static inline uint16_t half_f16_of_f32(float value)
{
    uint32_t bits = half_bits_of_f32(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t rest = bits & 0x7FFFFFFFu;
    if (rest > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (rest >> 13 & 0x01FFu));
    if (rest >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); // >= 65520 rounds to infinity
    if (rest >= 0x38800000u) {                                  // >= 2^-14: a normal half
        uint32_t odd = rest >> 13 & 1u;
        return (uint16_t)(sign | ((rest - (112u << 23) + 0x0FFFu + odd) >> 13));
    }
    /* Below 2^-14. Adding 0.5 lines the sum's last place up with 2^-24, the spacing of subnormal halves, so
     * the float unit rounds (to nearest even, the only mode this house uses). */
    float aligned = half_f32_of_bits(rest) + 0.5f;
    return (uint16_t)(sign | (half_bits_of_f32(aligned) - 0x3F000000u));
}

/* bfloat16: the upper half of a binary32 */
static inline float half_f32_of_bf16(uint16_t half)
{
    return half_f32_of_bits((uint32_t)half << 16);
}

static inline uint16_t half_bf16_of_f32(float value)
{
    uint32_t bits = half_bits_of_f32(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x0040u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#endif

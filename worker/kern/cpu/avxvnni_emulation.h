/* SPDX-License-Identifier: Apache-2.0 */
/* avxvnni_emulation - vpdpbusd on 32 bytes for machines that have AVX2 only, to test the kernels that use it.
 * Written from the instruction's description in Intel's Software Developer's Manual. */
#ifndef KVASIR_KERN_CPU_AVXVNNI_EMULATION_H
#define KVASIR_KERN_CPU_AVXVNNI_EMULATION_H

#include <immintrin.h>

/* Four products of unsigned bytes of b and signed bytes of c, added to each 32-bit lane; wraps. A product fits in
 * 16 bits, a sum of two does not: even and odd bytes go apart. */
static inline __attribute__((always_inline)) __m256i emulated_dpbusd_avx_epi32(__m256i sum, __m256i b,
                                                                               __m256i c)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i even = _mm256_mullo_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0xFF)),
                                      _mm256_srai_epi16(_mm256_slli_epi16(c, 8), 8));
    __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(b, 8), _mm256_srai_epi16(c, 8));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, ones));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, ones));
}

#define _mm256_dpbusd_avx_epi32 emulated_dpbusd_avx_epi32

#endif

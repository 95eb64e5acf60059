/* SPDX-License-Identifier: Apache-2.0 */
/* simd_avxvnni - the vocabulary of the kernel templates for AVX2 with AVX-VNNI: that of AVX2 but for the integer
 * products.
 *
 * vpdpbusd multiplies unsigned codes with signed activations and adds four of them to 32 bits without saturating
 * in between: exact for every code width, with no sums of 16 bits on the way. */
#ifndef KVASIR_KERN_CPU_SIMD_AVXVNNI_H
#define KVASIR_KERN_CPU_SIMD_AVXVNNI_H

#ifdef KVASIR_EMULATE // tests on machines without it: the same name for AVX2
#include "worker/kern/cpu/avxvnni_emulation.h"
#endif

#define SIMD_AVXVNNI
#include "worker/kern/cpu/simd_avx2.h"

enum {
    BYTE_OFFSET = 128, // B8 holds unsigned codes
    /* Register tile of a product: 2 x 8 outputs, 6 activation rows. Of 16 registers 12 hold sums, 2 codes and 1 an
     * activation; a sum is ready after 5 cycles and two start in each, so that fewer than 10 would wait. */
    CELL_TILES = 2,
    CELL_ROWS = 6,
    SUM_GROUPS_4 = 8, // sums are 32 bits wide from the start
    SUM_GROUPS_5 = 8,
    SUM_GROUPS_6 = 8,
    PANEL_ROWS = 8, // from here on unpacking once pays
};

INLINE vpart part_add(vpart part, vcode codes, vcode activations)
{
    return _mm256_dpbusd_avx_epi32(part, codes, activations);
}
INLINE vsum sum_add_part(vsum sum, vpart part)
{
    return _mm256_add_epi32(sum, part);
}
INLINE vsum sum_add_bytes(vsum sum, vcode codes, vcode activations)
{
    return _mm256_dpbusd_avx_epi32(sum, codes, activations);
}

#endif

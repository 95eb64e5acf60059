/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx512 - the kernels for AVX-512 with VNNI; called only where kern_select found them. */
#include "worker/kern/cpu/simd_avx512.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/attention.h"
#include "worker/kern/cpu/product.h"

const struct cpu_level cpu_level_avx512 = {
    .name = "avx512",
    .tile_rows = LANES,
    .byte_offset = BYTE_OFFSET,
    .product = product,
    .norm = norm_row,
    .quantize = quantize_row,
    .quantize_fine = quantize_fine_row,
    .swiglu = swiglu,
    .rotate = rotate,
    .to_f16 = to_f16,
    .attend = attend,
    .merge = merge,
    .divide = divide,
};

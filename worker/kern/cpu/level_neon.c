/* SPDX-License-Identifier: Apache-2.0 */
/* level_neon - the kernels for 64-bit ARM with dot products; called only where kern_select found them. */
#include "worker/kern/cpu/simd_neon.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/attention.h"
#include "worker/kern/cpu/product.h"

const struct cpu_level cpu_level_neon = {
    .name = "neon",
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

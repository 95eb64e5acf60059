/* SPDX-License-Identifier: Apache-2.0 */
/* level_portable - the kernels for any machine. */
#include "worker/kern/cpu/simd_portable.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/attention.h"
#include "worker/kern/cpu/product.h"

const struct cpu_level cpu_level_portable = {
    .name = "portable",
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

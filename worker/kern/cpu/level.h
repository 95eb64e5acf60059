/* SPDX-License-Identifier: Apache-2.0 */
/* level - the kernels of a level, made of the vocabulary of a simd_*.h included before. */
#ifndef KVASIR_KERN_CPU_LEVEL_H
#define KVASIR_KERN_CPU_LEVEL_H

#include "worker/kern/cpu/attention.h"
#include "worker/kern/cpu/product.h"

/* Initializer of the level's struct cpu_level. */
#define CPU_LEVEL(level_name) \
    { \
        .name = (level_name), .tile_rows = LANES, .strip_tiles = CELL_TILES, .byte_offset = BYTE_OFFSET, \
        .lane_cols = LANE_COLS, .product = product, .norm = norm_row, .quantize = quantize_row, \
        .quantize_fine = quantize_fine_row, .swiglu = swiglu, .swiglu_blocks = swiglu_blocks, \
        .rotate = rotate, .to_f16 = to_f16, .attend = attend, .merge = merge, .divide = divide, \
    }

#endif

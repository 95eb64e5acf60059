/* SPDX-License-Identifier: Apache-2.0 */
/* product_wide - the integer sums of product.h for lanes of 64 bits, each 8 columns of a row, over instructions
 * that multiply two such lanes with two rows of activations: four sums of eight products each. The sums are the
 * same exact integers. */
#ifndef KVASIR_KERN_CPU_PRODUCT_WIDE_H
#define KVASIR_KERN_CPU_PRODUCT_WIDE_H

#include <assert.h>

#include "worker/kern/cpu/product.h"

enum { LANE_COLS = 8 };

/* The codes that hold column `col` of a block, in byte col % 4 of each row's 32 bits. */
INLINE vcode column_codes(struct kind kind, const uint8_t *codes, uint32_t col)
{
    int g = (int)col / 8 * 2;
    vcode first = group_codes(kind, codes, g), second = group_codes(kind, codes, g + 1);
    return col % 8 < 4 ? code_even_lanes(first, second) : code_odd_lanes(first, second);
}

/* Integer sums of groups [g_first, g_end) of one block for a cell. An even group is of the first rows of the tile,
 * the odd one after it of the others. */
INLINE void sum_groups(struct kind kind, int tiles, int rows, int g_first, int g_end, const struct place *at,
                       const struct cpu_block *const *x, vsum sums[CELL_TILES][CELL_ROWS])
{
    vsum first[CELL_TILES][CELL_ROWS], second[CELL_TILES][CELL_ROWS]; // of a pair of rows, or one row
    const int step = rows == 1 ? 1 : 2;
    static_assert(CELL_ROWS % 2 == 0, "pairs");
    UNROLL for (int t = 0; t < tiles; t++)
    {
        UNROLL for (int r = 0; r < rows; r += step) first[t][r] = second[t][r] = sum_zero();
    }
    UNROLL for (int g = g_first; g < g_end; g += 2)
    {
        vcode a[CELL_ROWS];
        UNROLL for (int r = 0; r < rows; r += step)
            a[r] = rows == 1 ? activation_load_wide(x[r]->codes + g * 4, x[r]->codes + g * 4)
                             : activation_load_wide(x[r]->codes + g * 4, x[r + 1]->codes + g * 4);
        UNROLL for (int t = 0; t < tiles; t++)
        {
            vcode w_first = group_codes(kind, at[t].codes, g),
                  w_second = group_codes(kind, at[t].codes, g + 1);
            UNROLL for (int r = 0; r < rows; r += step)
            {
                first[t][r] = rows == 1 ? sum_add_bytes(first[t][r], w_first, a[r])
                                        : sum_add_pairs(first[t][r], a[r], w_first);
                second[t][r] = rows == 1 ? sum_add_bytes(second[t][r], w_second, a[r])
                                         : sum_add_pairs(second[t][r], a[r], w_second);
            }
        }
    }
    UNROLL for (int t = 0; t < tiles; t++)
    {
        UNROLL for (int r = 0; r < rows; r += step)
        {
            if (rows == 1) {
                sums[t][r] = sum_of_neighbours(first[t][r], second[t][r]);
                continue;
            }
            sums[t][r] = sum_low_halves(first[t][r], second[t][r]);
            sums[t][r + 1] = sum_high_halves(first[t][r], second[t][r]);
        }
    }
}

#endif

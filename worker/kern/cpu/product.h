/* SPDX-License-Identifier: Apache-2.0 */
/* product - template of the matrix products, over the vocabulary of a simd_*.h included before.
 *
 * A cell is a register tile: CELL_TILES weight tiles x CELL_ROWS activation rows. For each block of 32 columns
 * codes are multiplied and summed as integers, exactly; then
 *   f += float(sum) * (d * scale);  f += minimum * activation_sum
 * in this order, block after block; after each chunk of blocks, for each of its outliers in their order,
 *   f += (d * code + minimum) * outlier
 * The order is the same in cells of every size, packed or unpacked first, so a result is the same bits wherever
 * its row lands. Float forms add column after column with one fused multiply-add each. */
#ifndef KVASIR_KERN_CPU_PRODUCT_H
#define KVASIR_KERN_CPU_PRODUCT_H

#include "common/base/check.h"
#include "common/base/limits.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/dequant.h"

enum {
    VECTOR_BYTES = LANES * 4,
    /* Rows that go through the largest cell: where weights come from memory, two cells for three rows took longer
     * than one for four. */
    FULL_CELL_FROM = CELL_ROWS > 2 ? CELL_ROWS - 1 : CELL_ROWS,
    /* How far a cell asks ahead. On Zen 3, two threads: 1 to 2 KiB read at 0.90 to 0.96 of a plain loop's pace, 4 KiB
     * and nothing at all at 0.76 to 0.86; which level of cache is asked for makes no difference. */
    AHEAD_BYTES = 1536,
};
_Static_assert(GROUP_ROWS % (CELL_TILES * LANES) == 0, "a piece of work is whole strips");

/* How a product reads its operands; a constant everywhere it is used, so that each kind becomes its own
 * straight code. */
struct kind {
    enum cpu_form form;
    int bits;             // of a stored code; 8: bytes
    const uint8_t *table; // codes that the stored ones stand for; NULL: themselves
    int product_bits;     // of a code as it is multiplied; 8: bytes, signed where BYTE_OFFSET is 0
    int halves;           // scales of a block
    bool panel;           // codes unpacked, scales in f32
    bool has_min;         // packed scales hold a minimum; else it is -centre * d
    int centre;           // 0: codes are signed, there is no minimum at all
};

enum { E2M1_CENTRE = 12 }; // makes the doubled values codes of 5 bits, [0, 24]

#define X(value) (uint8_t)((value) + BYTE_OFFSET),
static const uint8_t iq4_table[16] = {DEQUANT_IQ4_VALUES(X)};
#undef X
#define X(value) (uint8_t)((value) + E2M1_CENTRE),
static const uint8_t e2m1_table[16] = {DEQUANT_E2M1_DOUBLED(X)};
#undef X

INLINE struct kind kind_of(enum cpu_form form)
{
    struct kind kind = {.form = form, .halves = 1, .bits = 4};
    switch (form) {
    case FORM_N4: kind.centre = 8; break;
    case FORM_N4M: kind.has_min = true; break;
    case FORM_N5: kind.bits = 5, kind.centre = 16; break;
    case FORM_N5M: kind.bits = 5, kind.has_min = true; break;
    case FORM_B6: kind.bits = 6, kind.centre = 32, kind.halves = 2; break;
    case FORM_K2: kind.bits = 2, kind.has_min = true, kind.halves = 2; break;
    case FORM_K3: kind.bits = 3, kind.centre = 4, kind.halves = 2; break;
    case FORM_T4:
    case FORM_T4K: kind.table = iq4_table, kind.product_bits = 8, kind.centre = BYTE_OFFSET; break;
    case FORM_E4: kind.table = e2m1_table, kind.product_bits = 5, kind.centre = E2M1_CENTRE; break;
    default: kind.bits = 8, kind.centre = BYTE_OFFSET; break;
    }
    if (kind.product_bits == 0) kind.product_bits = kind.bits;
    return kind;
}

/* A block of a tile, packed or unpacked. */
struct place {
    const uint8_t *codes, *scales, *supers;
};

INLINE struct cpu_place place_in_strip(struct kind kind, uint32_t tile, uint32_t block)
{
    return cpu_place_of(cpu_form_facts(kind.form), LANES, CELL_TILES, tile, block);
}

/* Of a block of a strip, with its part of the super-block's. */
INLINE size_t kind_block_bytes(struct kind kind)
{
    return place_in_strip(kind, 0, SUPER_BLOCKS).supers / SUPER_BLOCKS;
}

INLINE size_t kind_panel_scales(struct kind kind) // floats of a block
{
    return (size_t)kind.halves * 2 * LANES;
}

INLINE struct place place_of(struct kind kind, const struct cpu_packed *weight, uint32_t tile, uint32_t block)
{
    const uint8_t *strip = weight->data + tile / CELL_TILES * weight->strip_bytes;
    const struct cpu_place at = place_in_strip(kind, tile % CELL_TILES, block);
    return (struct place){strip + at.codes, strip + at.scales, strip + at.supers};
}

/* `count` blocks after block `block`, which is at `at`. */
INLINE struct place place_after(struct kind kind, struct place at, uint32_t block, uint32_t count)
{
    if (kind.panel) {
        at.codes += (size_t)count * 8 * VECTOR_BYTES;
        at.scales += count * kind_panel_scales(kind) * sizeof(float);
        return at;
    }
    const uint32_t supers = (block + count) / SUPER_BLOCKS - block / SUPER_BLOCKS;
    const struct cpu_place second = place_in_strip(kind, 0, 1), next = place_in_strip(kind, 0, SUPER_BLOCKS);
    const size_t first = place_in_strip(kind, 0, 0).codes; // behind what a super-block shares, if anything
    const size_t step = count * (second.codes - first) + supers * first;
    at.codes += step;
    at.scales += step;
    at.supers += supers * next.supers;
    return at;
}

/* Tile t of a strip at the block where its first tile is at `at`. */
INLINE struct place place_beside(struct kind kind, struct place at, uint32_t t)
{
    const struct cpu_place first = place_in_strip(kind, 0, 0), other = place_in_strip(kind, t, 0);
    return (struct place){at.codes + (other.codes - first.codes), at.scales + (other.scales - first.scales),
                          at.supers + (other.supers - first.supers)};
}

/* Moves each of a cell's tiles from block `block` by count. */
INLINE void cell_forward(struct kind kind, int tiles, uint32_t block, uint32_t count,
                         struct place w[CELL_TILES])
{
    w[0] = place_after(kind, w[0], block, count);
    UNROLL for (int t = 1; t < tiles; t++)
    {
        w[t] = kind.panel ? place_after(kind, w[t], block, count) : place_beside(kind, w[0], (uint32_t)t);
    }
}

INLINE int kind_sum_groups(struct kind kind)
{
    return kind.product_bits == 6 ? SUM_GROUPS_6 : kind.product_bits == 5 ? SUM_GROUPS_5 : SUM_GROUPS_4;
}

/* The codes of group g of a block. */
INLINE vcode group_codes(struct kind kind, const uint8_t *codes, int g)
{
    if (kind.panel || kind.bits == 8) return code_load(codes + g * VECTOR_BYTES);
    if (kind.bits < 4) {
        vcode low = code_bits(code_load(codes + g / 4 * VECTOR_BYTES), g % 4 * 2, 2, 0);
        return kind.bits == 2 ? low : code_or(low, code_bits(code_load(codes + 2 * VECTOR_BYTES), g, 1, 2));
    }
    vcode pair = code_load(codes + g / 2 * VECTOR_BYTES);
    vcode nibbles = g % 2 == 0 ? code_low_nibbles(pair) : code_high_nibbles(pair);
    const uint8_t *high = codes + 4 * VECTOR_BYTES;
    if (kind.bits == 5) return code_or(nibbles, code_bits(code_load(high), g, 1, 4));
    if (kind.bits == 6)
        return code_or(nibbles, code_bits(code_load(high + g / 4 * VECTOR_BYTES), g % 4 * 2, 2, 4));
    return kind.table != NULL ? code_lookup(kind.table, nibbles) : nibbles;
}

#ifdef SIMD_WIDE_LANES
#include "worker/kern/cpu/product_wide.h"
#else
enum { LANE_COLS = 4 };

/* The codes that hold column `col` of a block, in byte col % 4 of each row's 32 bits. */
INLINE vcode column_codes(struct kind kind, const uint8_t *codes, uint32_t col)
{
    return group_codes(kind, codes, (int)col / 4);
}

/* Integer sums of groups [g_first, g_end) of one block for a cell. */
INLINE void sum_groups(struct kind kind, int tiles, int rows, int g_first, int g_end, const struct place *at,
                       const struct cpu_block *const *x, vsum sums[CELL_TILES][CELL_ROWS])
{
    const int per_sum = kind_sum_groups(kind);
    vpart parts[CELL_TILES][CELL_ROWS];
    UNROLL for (int t = 0; t < tiles; t++)
    {
        UNROLL for (int r = 0; r < rows; r++)
        {
            sums[t][r] = sum_zero();
            parts[t][r] = part_zero();
        }
    }
    UNROLL for (int g = g_first; g < g_end; g++)
    {
        vcode w[CELL_TILES];
        bool starts = (g - g_first) % per_sum == 0,
             ends = (g - g_first) % per_sum == per_sum - 1 || g == g_end - 1;
        UNROLL for (int t = 0; t < tiles; t++) w[t] = group_codes(kind, at[t].codes, g);
        UNROLL for (int r = 0; r < rows; r++)
        {
            vcode a = activation_load(x[r]->codes + g * 4);
            UNROLL for (int t = 0; t < tiles; t++)
            {
                if (kind.product_bits == 8) {
                    sums[t][r] = sum_add_bytes(sums[t][r], w[t], a);
                    continue;
                }
                parts[t][r] = part_add(starts ? part_zero() : parts[t][r], w[t], a);
                if (ends) sums[t][r] = sum_add_part(sums[t][r], parts[t][r]);
            }
        }
    }
}
#endif

INLINE const uint16_t *f16_at(const uint8_t *scales)
{
    return (const uint16_t *)(const void *)scales;
}

/* 2^(e - 128) of bytes e: one exponent less than the float with these exponent bits. e = 0 and 1 give
 * subnormals, 255 counts as 2^127. */
INLINE vf power_scales(const uint8_t *exponents)
{
    vf twice = vf_load_exponents(exponents);
    return vf_min(vf_max(vf_mul(twice, vf_set1(0.5f)), vf_set1(0x1.0p-128f)), vf_set1(0x1.0p127f));
}

/* d and minimum of a block (half h of it) of one tile. */
INLINE void read_scales(struct kind kind, struct place at, int h, vf *ret_d, vf *ret_minimum)
{
    if (kind.panel) {
        const float *f32 = (const float *)(const void *)at.scales + h * 2 * LANES;
        *ret_d = vf_load(f32);
        *ret_minimum = vf_load(f32 + LANES);
        return;
    }
    const struct cpu_form_facts facts = cpu_form_facts(kind.form);
    const uint16_t *super = f16_at(at.supers);
    const uint8_t *own = at.scales;
    if (kind.form == FORM_K2) { // scale and minimum are the nibbles of a byte
        *ret_d = vf_mul(vf_load_f16(super), vf_load_low_nibbles(own + h * LANES));
        *ret_minimum = vf_mul(vf_load_f16(super + LANES), vf_load_high_nibbles(own + h * LANES));
        return;
    }
    if (facts.supers > 0) *ret_d = vf_mul(vf_load_f16(super), vf_load_i8(own + h * LANES));
    else if (kind.form == FORM_E4) *ret_d = power_scales(own);
    else *ret_d = vf_load_f16(f16_at(own) + h * LANES);
    *ret_minimum = kind.has_min ? vf_load_f16(f16_at(own) + LANES)
                                : vf_mul(*ret_d, vf_set1((float)-kind.centre));
}

/* What a cell asks for while it computes: as many bytes as it reads, the even or the odd lines or both. */
struct ahead {
    const uint8_t *from;
    bool even, odd;
};

/* Adds blocks [block_first, block_end) to f. w, x: the first of them, of each tile and row. ahead: what to bring
 * into the cache meanwhile, in one line through memory. */
INLINE void add_blocks(struct kind kind, int tiles, int rows, uint32_t block_first, uint32_t block_end,
                       struct place w[CELL_TILES], const struct cpu_block **x, struct ahead ahead,
                       vf f[CELL_TILES][CELL_ROWS])
{
    const int halves = kind.halves;
    const size_t ahead_bytes = kind_block_bytes(kind);
    for (uint32_t b = block_first; b < block_end; b++) {
        if (!kind.panel) { // panels are in the cache; panel_rows looks ahead for them
            if (ahead.even) {
                UNROLL for (size_t i = 0; i < ahead_bytes; i += 2 * CACHELINE_BYTES) prefetch(ahead.from + i);
            }
            if (ahead.odd) {
                UNROLL for (size_t i = CACHELINE_BYTES; i < ahead_bytes; i += 2 * CACHELINE_BYTES)
                    prefetch(ahead.from + i);
            }
            ahead.from += ahead_bytes;
        }
        UNROLL for (int h = 0; h < halves; h++)
        {
            vsum sums[CELL_TILES][CELL_ROWS];
            sum_groups(kind, tiles, rows, h * 8 / halves, (h + 1) * 8 / halves, w, x, sums);
            UNROLL for (int t = 0; t < tiles; t++)
            {
                vf d, minimum;
                read_scales(kind, w[t], h, &d, &minimum);
                UNROLL for (int r = 0; r < rows; r++)
                {
                    const struct cpu_scales *xs = &x[r]->scales;
                    f[t][r] = vf_fma(vf_of_sum(sums[t][r]), vf_mul(d, vf_set1(xs->scale)), f[t][r]);
                    if (kind.has_min || kind.centre != 0)
                        f[t][r] = vf_fma(minimum, vf_set1(halves == 2 ? xs->half[h] : xs->sum), f[t][r]);
                }
            }
        }
        cell_forward(kind, tiles, b, 1, w);
        UNROLL for (int r = 0; r < rows; r++) x[r]++;
    }
}

/* Column `col` of a block as floats. */
INLINE vf column_weights(struct kind kind, struct place at, uint32_t col)
{
    vf d, minimum;
    vcode group = column_codes(kind, at.codes, col);
    read_scales(kind, at, kind.halves == 2 ? (int)col / 16 : 0, &d, &minimum);
    if (kind.product_bits == 8) { // signed bytes are turned to unsigned ones
        vf code = vf_of_sum(code_column(group, col % 4, 128 - BYTE_OFFSET));
        return vf_mul(d, vf_sub(code, vf_set1(128)));
    }
    return vf_fma(vf_of_sum(code_column(group, col % 4, 0)), d, minimum);
}

/* Adds the outliers of a chunk of each row to f. w: the chunk's first block, `block_first`, of each tile;
 * outliers: of the chunk, of each row. */
INLINE void add_outliers(struct kind kind, int tiles, int rows, uint32_t block_first, const struct place *w,
                         const struct cpu_outlier *const *outliers, vf f[CELL_TILES][CELL_ROWS])
{
    for (int i = 0; i < CHUNK_OUTLIERS; i++) {
        UNROLL for (int r = 0; r < rows; r++)
        {
            const struct cpu_outlier *outlier = outliers[r] + i;
            UNROLL for (int t = 0; t < tiles; t++)
            {
                vf column = column_weights(kind, place_after(kind, w[t], block_first, outlier->block),
                                           outlier->col);
                f[t][r] = vf_fma(column, vf_set1(outlier->value), f[t][r]);
            }
        }
    }
}

INLINE void load_cell(int tiles, int rows, int valid, const float *out, vf f[CELL_TILES][CELL_ROWS])
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int t = 0; t < tiles; t++)
            f[t][r] = out != NULL && r < valid ? vf_load(out + r * GROUP_ROWS + t * LANES) : vf_zero();
    }
}

INLINE void store_cell(int tiles, int rows, int valid, vf f[CELL_TILES][CELL_ROWS], float *out)
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        if (r >= valid) continue;
        UNROLL for (int t = 0; t < tiles; t++) vf_store(out + r * GROUP_ROWS + t * LANES, f[t][r]);
    }
}

/* A chunk of CELL_TILES tiles, unpacked once for many rows. */
struct panel {
    _Alignas(64) uint8_t codes[CELL_TILES][CHUNK_BLOCKS_MAX * 8 * VECTOR_BYTES];
    _Alignas(64) float scales[CELL_TILES][CHUNK_BLOCKS_MAX * 2 * 2 * LANES];
};

INLINE void unpack_panel(struct kind kind, const struct cpu_packed *weight, uint32_t tile,
                         uint32_t block_first, uint32_t block_count, struct panel *panel)
{
    const int halves = kind.halves;
    for (uint32_t t = 0; t < CELL_TILES; t++) {
        struct place at = place_of(kind, weight, tile + t, block_first);
        for (uint32_t b = 0; b < block_count; b++) {
            UNROLL for (int g = 0; g < 8; g++) code_store(
                panel->codes[t] + (b * 8 + (uint32_t)g) * VECTOR_BYTES, group_codes(kind, at.codes, g));
            UNROLL for (int h = 0; h < halves; h++)
            {
                vf d, minimum;
                float *to = panel->scales[t] + (b * (uint32_t)halves + (uint32_t)h) * 2 * LANES;
                read_scales(kind, at, h, &d, &minimum);
                vf_store(to, d);
                vf_store(to + LANES, minimum);
            }
            at = place_after(kind, at, block_first + b, 1);
        }
    }
}

/* Rows of an input as a cell reads them. */
struct cell_rows {
    const struct cpu_block *blocks; // (rows, block_count)
    uint32_t block_count;
    const struct cpu_outlier *outliers; // (rows, outlier_count), or NULL
    size_t outlier_count;
};

INLINE struct cell_rows rows_from(const struct cell_rows *rows, uint32_t row, uint32_t block)
{
    struct cell_rows from = *rows;
    from.blocks += (size_t)row * rows->block_count + block;
    if (rows->outliers != NULL)
        from.outliers += row * rows->outlier_count +
                         block / cpu_chunk_blocks(rows->block_count) * CHUNK_OUTLIERS;
    return from;
}

/* Where a cell reads each of its rows. Rows from `valid` on are its last one again: their results are not kept. */
INLINE void cell_pointers(const struct cell_rows *x, int rows, int valid, const struct cpu_block **row,
                          const struct cpu_outlier **outliers)
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        size_t from = (size_t)(r < valid ? r : valid - 1);
        row[r] = x->blocks + from * x->block_count;
        outliers[r] = x->outliers != NULL ? x->outliers + from * x->outlier_count : NULL;
    }
}

/* A register tile of outputs for blocks that lie packed in the weight, or unpacked in a panel. */
INLINE void packed_cell(struct kind kind, int tiles, int rows, int valid, const struct cpu_packed *weight,
                        uint32_t tile, const struct cell_rows *x, struct ahead ahead, float *out)
{
    const uint32_t chunk = cpu_chunk_blocks(weight->block_count);
    struct place w[CELL_TILES];
    const struct cpu_block *row[CELL_ROWS];
    const struct cpu_outlier *outliers[CELL_ROWS];
    vf f[CELL_TILES][CELL_ROWS];
    w[0] = place_of(kind, weight, tile, 0);
    UNROLL for (int t = 1; t < tiles; t++) w[t] = place_beside(kind, w[0], (uint32_t)t);
    cell_pointers(x, rows, valid, row, outliers);
    load_cell(tiles, rows, valid, NULL, f);
    for (uint32_t first = 0; first < weight->block_count; first += chunk) {
        uint32_t left = weight->block_count - first, count = left < chunk ? left : chunk;
        struct place chunk_first[CELL_TILES];
        UNROLL for (int t = 0; t < tiles; t++) chunk_first[t] = w[t];
        add_blocks(kind, tiles, rows, first, first + count, w, row, ahead, f);
        ahead.from += count * kind_block_bytes(kind);
        if (x->outliers == NULL) continue;
        add_outliers(kind, tiles, rows, first, chunk_first, outliers, f);
        UNROLL for (int r = 0; r < rows; r++) outliers[r] += CHUNK_OUTLIERS;
    }
    store_cell(tiles, rows, valid, f, out);
}

INLINE void panel_cell(struct kind kind, int rows, int valid, const struct panel *panel, uint32_t block_count,
                       bool first, const struct cell_rows *x, float *out)
{
    struct place w[CELL_TILES], chunk_first[CELL_TILES];
    const struct cpu_block *row[CELL_ROWS];
    const struct cpu_outlier *outliers[CELL_ROWS];
    vf f[CELL_TILES][CELL_ROWS];
    kind.panel = true;
    UNROLL for (int t = 0; t < CELL_TILES; t++)
    {
        chunk_first[t] = w[t] = (struct place){.codes = panel->codes[t],
                                               .scales = (const uint8_t *)panel->scales[t]};
    }
    cell_pointers(x, rows, valid, row, outliers);
    load_cell(CELL_TILES, rows, valid, first ? NULL : out, f);
    add_blocks(kind, CELL_TILES, rows, 0, block_count, w, row, (struct ahead){0}, f);
    if (x->outliers != NULL) add_outliers(kind, CELL_TILES, rows, 0, chunk_first, outliers, f);
    store_cell(CELL_TILES, rows, valid, f, out);
}

/* Few rows: codes are unpacked in registers, each cell anew. `rows` is a constant in each call, so that a cell
 * is straight code on registers. One cell asks for what it reads soon. Of more, the first two bring the next strip
 * into the cache, half of it each: more at a time than the memory gives would hold up the loads. */
INLINE void packed_rows(struct kind kind, int tiles, const struct cpu_packed *weight, uint32_t tile,
                        const struct cell_rows *x, uint32_t row_count, float *out)
{
    const bool one_cell = row_count <= CELL_ROWS;
    const uint8_t *strip = weight->data + tile / CELL_TILES * weight->strip_bytes;
    struct ahead ahead = {// past the last strip: a hint, no access
                          .from = strip + (one_cell ? AHEAD_BYTES : weight->strip_bytes),
                          .even = true,
                          .odd = one_cell};
    for (uint32_t r = 0; r < row_count;) {
        const struct cell_rows from = rows_from(x, r, 0);
        const uint32_t left = row_count - r;
        float *to = out + (size_t)r * GROUP_ROWS;
        uint32_t done = 1;
        if (tiles == CELL_TILES && left >= FULL_CELL_FROM) {
            done = left < CELL_ROWS ? left : CELL_ROWS;
            packed_cell(kind, tiles, CELL_ROWS, (int)done, weight, tile, &from, ahead, to);
        } else if (tiles == CELL_TILES && CELL_ROWS > 2 && left >= 2) {
            done = 2;
            packed_cell(kind, tiles, 2, 2, weight, tile, &from, ahead, to);
        } else packed_cell(kind, tiles, 1, 1, weight, tile, &from, ahead, to);
        r += done;
        ahead.odd = ahead.even && !ahead.odd;
        ahead.even = false;
    }
}

/* Many rows: a chunk is unpacked once and stays in the first-level cache while the rows stream. */
INLINE void panel_rows(struct kind kind, const struct cpu_packed *weight, uint32_t tile,
                       const struct cell_rows *x, uint32_t row_count, float *out)
{
    const uint32_t chunk = cpu_chunk_blocks(weight->block_count);
    /* The next tiles come into the cache a few lines with each cell. */
    const uint8_t *ahead = weight->data + (tile / CELL_TILES + 1) * weight->strip_bytes;
    const size_t ahead_lines = weight->strip_bytes / CACHELINE_BYTES;
    const size_t cells = (row_count / CELL_ROWS) * ((weight->block_count + chunk - 1) / chunk);
    const size_t step = (ahead_lines / cells + 1) * CACHELINE_BYTES;
    struct panel panel;
    for (uint32_t first = 0; first < weight->block_count; first += chunk) {
        uint32_t left = weight->block_count - first, count = left < chunk ? left : chunk;
        unpack_panel(kind, weight, tile, first, count, &panel);
        for (uint32_t r = 0; r < row_count;) {
            const struct cell_rows from = rows_from(x, r, first);
            uint32_t done = row_count - r < CELL_ROWS ? row_count - r : CELL_ROWS;
            float *to = out + (size_t)r * GROUP_ROWS;
            if (done < FULL_CELL_FROM) {
                done = 1;
                panel_cell(kind, 1, 1, &panel, count, first == 0, &from, to);
            } else {
                for (size_t i = 0; i < step; i += CACHELINE_BYTES) prefetch(ahead + i);
                ahead += step;
                panel_cell(kind, CELL_ROWS, (int)done, &panel, count, first == 0, &from, to);
            }
            r += done;
        }
    }
}

INLINE vf float_codes(enum cpu_form form, const uint8_t *tile, size_t k)
{
    if (form == FORM_F32) return vf_load((const float *)(const void *)tile + k * LANES);
    const uint16_t *halves = (const uint16_t *)(const void *)tile + k * LANES;
    return form == FORM_F16 ? vf_load_f16(halves) : vf_load_bf16(halves);
}

INLINE void float_cell(enum cpu_form form, int tiles, int rows, int valid, const struct cpu_packed *weight,
                       uint32_t tile, const float *values, size_t row_values, float *out)
{
    const uint8_t *w = weight->data + tile * weight->strip_bytes;
    const float *x[CELL_ROWS];
    vf f[CELL_TILES][CELL_ROWS];
    UNROLL for (int r = 0; r < rows; r++) x[r] = values + (size_t)(r < valid ? r : valid - 1) * row_values;
    load_cell(tiles, rows, valid, NULL, f);
    for (size_t k = 0; k < (size_t)weight->block_count * BLOCK_COLS; k++) {
        vf column[CELL_TILES];
        UNROLL for (int t = 0; t < tiles; t++)
            column[t] = float_codes(form, w + (size_t)t * weight->strip_bytes, k);
        UNROLL for (int r = 0; r < rows; r++)
        {
            vf a = vf_set1(x[r][k]);
            UNROLL for (int t = 0; t < tiles; t++) f[t][r] = vf_fma(column[t], a, f[t][r]);
        }
    }
    store_cell(tiles, rows, valid, f, out);
}

/* As packed_rows. */
INLINE void float_rows(enum cpu_form form, int tiles, const struct cpu_packed *weight, uint32_t tile,
                       const float *values, size_t row_values, uint32_t row_count, float *out)
{
    for (uint32_t r = 0; r < row_count;) {
        const float *from = values + r * row_values;
        const uint32_t left = row_count - r;
        float *to = out + (size_t)r * GROUP_ROWS;
        uint32_t done = 1;
        if (tiles == CELL_TILES && left >= FULL_CELL_FROM) {
            done = left < CELL_ROWS ? left : CELL_ROWS;
            float_cell(form, tiles, CELL_ROWS, (int)done, weight, tile, from, row_values, to);
        } else if (tiles == CELL_TILES && CELL_ROWS > 2 && left >= 2) {
            done = 2;
            float_cell(form, tiles, 2, 2, weight, tile, from, row_values, to);
        } else float_cell(form, tiles, 1, 1, weight, tile, from, row_values, to);
        r += done;
    }
}

/* Rows of a piece on some tiles; the form is a constant. */
INLINE void product_rows(enum cpu_form form, int tiles, const struct cpu_packed *weight, uint32_t tile,
                         const struct cpu_input *input, uint32_t row, uint32_t row_count, float *out)
{
    if (form == FORM_F32 || form == FORM_F16 || form == FORM_BF16) {
        size_t row_values = (size_t)input->block_count * BLOCK_COLS;
        float_rows(form, tiles, weight, tile, input->values + row * row_values, row_values, row_count, out);
        return;
    }
    const struct kind kind = kind_of(form);
    const struct cell_rows all = {.blocks = input->blocks,
                                  .block_count = input->block_count,
                                  .outliers = input->outliers,
                                  .outlier_count = cpu_outlier_count(input->block_count)};
    const struct cell_rows x = rows_from(&all, row, 0);
    if (tiles == CELL_TILES && kind.bits < 8 && row_count >= PANEL_ROWS)
        panel_rows(kind, weight, tile, &x, row_count, out);
    else packed_rows(kind, tiles, weight, tile, &x, row_count, out);
}

#define DEFINE_PRODUCT(form) \
    static __attribute__((noinline)) void product_##form( \
        const struct cpu_packed *weight, uint32_t tile_first, uint32_t tile_count, \
        const struct cpu_input *input, uint32_t row, uint32_t row_count, float *out) \
    { \
        uint32_t t = 0; \
        for (; t + CELL_TILES <= tile_count; t += CELL_TILES) \
            product_rows(form, CELL_TILES, weight, tile_first + t, input, row, row_count, out + t * LANES); \
        for (; t < tile_count; t++) \
            product_rows(form, 1, weight, tile_first + t, input, row, row_count, out + t * LANES); \
    }
#define X(form, code_bytes, halves, bytes, supers) DEFINE_PRODUCT(form)
CPU_FORMS(X)
#undef X

static void product(const struct cpu_packed *weight, uint32_t tile_first, uint32_t tile_count,
                    const struct cpu_input *input, uint32_t row_first, uint32_t row_count, float *out)
{
    CHECK(weight->tile_rows == LANES && tile_first % weight->strip_tiles == 0);
    CHECK(input->block_count == weight->block_count);
    CHECK(tile_count * LANES <= GROUP_ROWS);
    switch (weight->form) {
#define X(form, code_bytes, halves, bytes, supers) \
    case form: product_##form(weight, tile_first, tile_count, input, row_first, row_count, out); return;
        CPU_FORMS(X)
#undef X
    case FORMS_COUNT: break;
    }
    CHECK(!"known form");
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* cpu - the contract inside kern/cpu: how weights and activations lie in memory, and what one instruction
 * set (a level) must provide. The files cpu*.c are compiled for the baseline and do everything that is
 * not arithmetic; a level is one file (level_*.c) compiled for its instruction set from the templates
 * product.h, rows.h and attention.h over the vocabulary of its simd_*.h.
 *
 * Weights. A matrix is cut into tiles of tile_rows outputs (as many as a float vector has lanes) and its
 * columns into blocks of 32. The strip_tiles tiles that are multiplied together are a strip, which lies as it is
 * read, in one line of memory: decoding one sequence is bound by reading it, and the machine's prefetchers follow
 * one line better than a line of each tile's codes and of its scales. A strip is, padded to 64 bytes,
 *
 *   [block 0 | block 1 | ...]    block: [codes of tile 0 | of tile 1 .. | scales of tile 0 | of tile 1 ..]
 *
 * where 8 blocks of a form with super-block scales follow what they share:
 *
 *   [d, (minimum) f16 of tile 0 | of tile 1 .. | block 0 | .. | block 7]
 *
 * Codes of a block are vectors of tile_rows * 4 bytes; lane r of such a vector holds 4 consecutive columns of
 * row r, so that one 32-bit broadcast of 4 activations serves all rows. "group g" is columns 4g .. 4g+3.
 *   bits 0, 1    2 vectors; vector h: bits 2i, 2i+1 belong to group 4h+i; bit 2 like the fifth bits
 *   nibbles      4 vectors; vector v: low nibbles group 2v, high nibbles group 2v+1
 *   fifth bits   1 vector; bit g of a byte belongs to group g
 *   bits 5, 6    2 vectors; vector h: bits 2i, 2i+1 belong to group 4h+i
 *   bytes        8 vectors; vector g is group g; stored as code - 128 + level->byte_offset
 * A level may want 8 consecutive columns of a row side by side (lane_cols). Then groups 2v and 2v+1 are columns
 * 8v .. 8v+7 of the first and of the second half of the rows:
 *
 *   lanes of 4 columns   group 2v    [row 0: 8v..8v+3 | row 1: 8v..8v+3 | row 2 ... | row 3 ...]
 *                        group 2v+1  [row 0: 8v+4..+7 | row 1: 8v+4..+7 | row 2 ... | row 3 ...]
 *   lanes of 8 columns   group 2v    [row 0: 8v..8v+3 | row 0: 8v+4..+7 | row 1 ... | row 1 ...]
 *                        group 2v+1  [row 2: 8v..8v+3 | row 2: 8v+4..+7 | row 3 ... | row 3 ...]
 *
 * Scales of a block are vectors of tile_rows: f16 d, then (forms with two) the minimum or the second d; or
 * bytes that are factors of the super-block's d (and minimum): what the files of these types hold.
 * Float forms hold for each column one vector of tile_rows elements and no scales, a tile is a strip; columns are
 * padded with zeros to blocks.
 *
 * Value of a weight: d * (code - centre) for N4 (8), N5 (16), B6 (32, d per 16 columns), B8 (128);
 * d * code + minimum for N4M, N5M. Scales of K types (f32 products in the file) are rounded to f16. With
 * the scales of the file, exactly:
 *   K2   d * low nibble * code + minimum * high nibble, a byte per 16 columns
 *   K3   d * (signed byte) * (code - 4), a byte per 16 columns
 *   T4   d * iq4[code]             T4K  d * (signed byte) * iq4[code]
 *   E4   2^(byte - 128) * e2m1[code], twice the values of the microscaling format
 *
 * Activations. Integer forms multiply rows quantized per block of 32 to [-127, 127] with a float scale; the
 * integer sums are exact, and each block adds to the float result in one fixed order, so a result does not
 * depend on how rows or tiles were grouped. A few columns of a normed row are far larger than the rest and
 * cost the other columns of their blocks their precision: the largest of each chunk of blocks (outliers)
 * are left out of the codes and added as floats after the chunk. */
#ifndef KVASIR_KERN_CPU_CPU_H
#define KVASIR_KERN_CPU_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/kern/kern.h"

/* X(form, code bytes, f16 scales, byte scales: of a row and block; f16 scales of a row and super-block) */
#define CPU_INTEGER_FORMS(X) \
    X(FORM_N4, 16, 1, 0, 0) \
    X(FORM_N4M, 16, 2, 0, 0) \
    X(FORM_N5, 20, 1, 0, 0) \
    X(FORM_N5M, 20, 2, 0, 0) \
    X(FORM_B6, 24, 2, 0, 0) \
    X(FORM_B8, 32, 1, 0, 0) \
    X(FORM_K2, 8, 0, 2, 2) \
    X(FORM_K3, 12, 0, 2, 1) \
    X(FORM_T4, 16, 1, 0, 0) \
    X(FORM_T4K, 16, 0, 1, 1) \
    X(FORM_E4, 16, 0, 1, 0)
#define CPU_FLOAT_FORMS(X) \
    X(FORM_F32, 128, 0, 0, 0) \
    X(FORM_F16, 64, 0, 0, 0) \
    X(FORM_BF16, 64, 0, 0, 0)
#define CPU_FORMS(X) CPU_INTEGER_FORMS(X) CPU_FLOAT_FORMS(X)

enum cpu_form {
#define X(form, code_bytes, halves, bytes, supers) form,
    CPU_FORMS(X)
#undef X
        FORMS_COUNT
};

enum {
    BLOCK_COLS = 32,
    SUPER_BLOCKS = 8,      // blocks of a super-block
    CHUNK_BLOCKS_MAX = 18, // blocks of a chunk: unpacked codes of a few tiles fit the first-level cache
    CHUNK_OUTLIERS = 4,    // columns of a chunk that are multiplied as floats
    GROUP_ROWS = 32,       // outputs of a piece of work; a multiple of every tile_rows
    KEY_BLOCK = 128,       // keys whose softmax is summed on its own
    QUERIES_MAX = 48,      // query rows (rows x heads of a group) of an attention piece
    HEAD_DIMS_MAX = 256,
};

#define LOG2_E 1.44269504088896340736f

struct cpu_form_facts { // of a row; all 0 but code_bytes: a float form
    uint32_t code_bytes;
    uint32_t halves, bytes; // scales of a block
    uint32_t supers;        // f16 scales of a super-block
};

static inline __attribute__((always_inline)) struct cpu_form_facts cpu_form_facts(enum cpu_form form)
{
    switch (form) {
#define X(form, code_bytes, halves, bytes, supers) \
    case form: return (struct cpu_form_facts){code_bytes, halves, bytes, supers};
        CPU_FORMS(X)
#undef X
    case FORMS_COUNT: break;
    }
    return (struct cpu_form_facts){0};
}

/* Where a block of a tile lies in its strip. */
struct cpu_place {
    size_t codes, scales; // f16 scales, then bytes
    size_t supers;        // what its super-block shares
};

static inline __attribute__((always_inline)) struct cpu_place cpu_place_of(struct cpu_form_facts facts,
                                                                           uint32_t tile_rows,
                                                                           uint32_t strip_tiles,
                                                                           uint32_t tile, uint32_t block)
{
    const size_t code_bytes = (size_t)tile_rows * facts.code_bytes,
                 scale_bytes = (size_t)tile_rows * (2 * facts.halves + facts.bytes),
                 super_bytes = (size_t)tile_rows * 2 * facts.supers,
                 block_bytes = strip_tiles * (code_bytes + scale_bytes);
    const size_t super = block / SUPER_BLOCKS * (strip_tiles * super_bytes + SUPER_BLOCKS * block_bytes),
                 first = super + strip_tiles * super_bytes + block % SUPER_BLOCKS * block_bytes;
    return (struct cpu_place){.codes = first + tile * code_bytes,
                              .scales = first + strip_tiles * code_bytes + tile * scale_bytes,
                              .supers = super + tile * super_bytes};
}

struct cpu_packed { // one matrix in tiles
    enum cpu_form form;
    uint32_t rows, cols; // of the file
    uint32_t block_count;
    uint32_t tile_rows, tile_count;
    uint32_t strip_tiles, strip_count; // the last strip may have fewer tiles than room
    size_t strip_bytes;                // a multiple of 64
    uint8_t *data;                     // (strip_count, strip_bytes), 64-byte aligned
};

/* Factors of 32 activations. */
struct cpu_scales {
    float scale;
    float sum;     // scale * (sum of all codes)
    float half[2]; // scale * (sum of codes 0..15), scale * (sum of codes 16..31)
};

/* 32 activations in 8 bits: x[i] ~ scale * codes[i]. */
struct cpu_block {
    int8_t codes[BLOCK_COLS]; // [-127, 127]
    struct cpu_scales scales;
};

/* One activation that its block holds as 0. */
struct cpu_outlier {
    float value;
    uint16_t block; // of its chunk
    uint16_t col;   // of its block
};

/* Blocks of a chunk, but for the last one, of a row of `block_count`: chunks are as equal as they can be. */
static inline uint32_t cpu_chunk_blocks(uint32_t block_count)
{
    uint32_t chunks = (block_count + CHUNK_BLOCKS_MAX - 1) / CHUNK_BLOCKS_MAX;
    return (block_count + chunks - 1) / chunks;
}

/* Outliers of a row. */
static inline uint32_t cpu_outlier_count(uint32_t block_count)
{
    uint32_t chunk = cpu_chunk_blocks(block_count);
    return (block_count + chunk - 1) / chunk * CHUNK_OUTLIERS;
}

/* Input rows of a product in the shapes that its forms read. */
struct cpu_input {
    const struct cpu_block *blocks;     // (rows, block_count); NULL when nobody reads it
    const struct cpu_outlier *outliers; // (rows, cpu_outlier_count(block_count)), or NULL for none
    const float *values;                // (rows, block_count * 32), zero padded, for float forms
    uint32_t block_count;               // of a row
};

/* One attention piece: row_count * group query rows of one sequence and KV head over keys
 * [key_first, key_end), in blocks that end at multiples of KEY_BLOCK; key_first is one of 16. Query i is row
 * i / group, head i % group. */
struct cpu_attend {
    const float *
        queries; // rotated, times the scale of attention and log2(e); row r, head h at r * query_stride + h * head_dims
    size_t query_stride;
    const uint32_t *query_rows; // (row_count) of queries; NULL: the first ones
    uint32_t row_count, group, head_dims;
    uint32_t pos_first; // position of row 0; row r sees keys up to pos_first + r
    uint32_t window;    // as many of them; 0: all
    float softcap;      // as in kern_attend_options
    uint32_t key_first, key_end;
    const uint32_t *pages;
    const uint8_t *payload; // of page 0, this layer and KV head; see kern_cache
    uint64_t page_bytes;
    uint32_t page_tokens;
    enum kern_kv kv_type;
    /* What this thread does next, so that its pages are asked for early; or NULL. */
    const struct cpu_attend *then;
};

/* Softmax state of one query over the keys seen so far: sum and values are relative to 2^max. */
struct cpu_softmax {
    float max, sum;
};

struct cpu_level {
    const char *name;
    uint32_t tile_rows, strip_tiles;
    uint8_t byte_offset; // 128: bytes of B8 are unsigned codes, 0: signed code - 128
    uint8_t lane_cols;   // consecutive columns of a row in a vector: 4 or 8

    /* out[(r - row_first) * GROUP_ROWS + i] = W[tile_first * tile_rows + i] . x[r], i < tile_count * tile_rows.
     * tile_first begins a strip. */
    void (*product)(const struct cpu_packed *weight, uint32_t tile_first, uint32_t tile_count,
                    const struct cpu_input *input, uint32_t row_first, uint32_t row_count, float *out);

    /* out = x / sqrt(mean(x^2) + epsilon) * norm; (cols) each. */
    void (*norm)(const float *x, const float *norm, uint32_t cols, float epsilon, float *out);
    /* values: (block_count * 32); out: (block_count) */
    void (*quantize)(const float *values, uint32_t block_count, struct cpu_block *out);
    /* The same without the outliers, which go to (cpu_outlier_count). values come back as they were. */
    void (*quantize_fine)(float *values, uint32_t block_count, struct cpu_block *out,
                          struct cpu_outlier *outliers);
    /* out[i] = silu(gate[i]) * up[i]; count is a multiple of 32 */
    void (*swiglu)(const float *gate, const float *up, uint32_t count, float *out);
    /* The same of (row_count, GROUP_ROWS) values, quantized: one block a row, `out_stride` blocks apart. */
    void (*swiglu_blocks)(const float *gate, const float *up, uint32_t row_count, struct cpu_block *out,
                          size_t out_stride);

    /* head = (head * cosines + partner(head) * sines) * scale over dims; the partner is the neighbour in a pair
     * (adjacent) or half the dims away. cosines, sines: (dims), the sines signed. */
    void (*rotate)(float *head, uint32_t dims, bool adjacent, const float *cosines, const float *sines);
    void (*to_f16)(const float *values, uint32_t count, uint16_t *out); // count: a multiple of 16
    /* states: (row_count * group); values: (row_count * group, head_dims), not yet divided by sum. */
    void (*attend)(const struct cpu_attend *piece, struct cpu_softmax *states, float *values);
    /* Adds `more` (later keys) to a state. */
    void (*merge)(struct cpu_softmax *state, float *values, const struct cpu_softmax *more,
                  const float *more_values, uint32_t head_dims);
    /* out = values / sum */
    void (*divide)(const float *values, float sum, uint32_t head_dims, float *out);
};

/* X(level, name): the levels of this build, best first. */
#if defined(__x86_64__) && defined(KVASIR_HAVE_AVXVNNI)
#define CPU_LEVELS(X) X(avx512, "avx512") X(avxvnni, "avxvnni") X(avx2, "avx2") X(portable, "portable")
#elif defined(__x86_64__)
#define CPU_LEVELS(X) X(avx512, "avx512") X(avx2, "avx2") X(portable, "portable")
#elif defined(__aarch64__)
#define CPU_LEVELS(X) X(neon_i8mm, "neon-i8mm") X(neon, "neon") X(portable, "portable")
#else
#define CPU_LEVELS(X) X(portable, "portable")
#endif

/* The levels, and their ops tables; kern_select checks the machine first. */
#define X(level, level_name) \
    extern const struct cpu_level cpu_level_##level; \
    extern const struct kern_ops kern_##level##_ops;
CPU_LEVELS(X)
#undef X

/* pack.c */

/* Form for a type id of the file; ERR_UNSUPPORTED for one that has no kernel. */
int cpu_form_of(uint32_t type, enum cpu_form *ret_form, struct err *err);
/* Shape of the packed matrix; data stays NULL. */
int cpu_pack_plan(const struct kern_matrix *matrix, const struct cpu_level *level,
                  struct cpu_packed *ret_packed, struct err *err);
/* Bytes of packed->data. */
size_t cpu_packed_bytes(const struct cpu_packed *packed);
/* Fills strips [strip_first, strip_first + strip_count) of packed->data from the file's rows. */
void cpu_pack(const struct kern_matrix *matrix, const struct cpu_level *level, struct cpu_packed *packed,
              uint32_t strip_first, uint32_t strip_count);
/* Hash of the packed bytes of one small matrix of each type that has a form: any change of forms, order or
 * rounding changes it, so nobody has to remember a version. */
uint64_t cpu_pack_layout(const struct cpu_level *level);
/* One row back to floats. out: (cols) */
void cpu_unpack_row(const struct cpu_packed *packed, const struct cpu_level *level, uint32_t row, float *out);

#endif

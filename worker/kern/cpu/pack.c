/* SPDX-License-Identifier: Apache-2.0 */
/* pack - file blocks to the tiles drawn in cpu.h, and single rows back (the embedding). Every type goes
 * through one picture of 32 columns: unsigned codes, scales, minimum. Layouts of the file blocks are drawn
 * in worker/kern/ref/dequant.c. */
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/dequant.h"
#include "worker/kern/ref/half.h"

enum { // ids of the file
    TYPE_F32 = 0,
    TYPE_F16 = 1,
    TYPE_Q4_0 = 2,
    TYPE_Q4_1 = 3,
    TYPE_Q5_0 = 6,
    TYPE_Q5_1 = 7,
    TYPE_Q8_0 = 8,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_BF16 = 30,
};

enum { SUPER_COLS = 256 };

/* 32 columns of one row. */
struct codes {
    uint8_t code[BLOCK_COLS];
    uint16_t scale[2]; // f16: d, and the minimum (N4M, N5M) or the d of columns 16..31 (B6)
};

static const struct {
    uint16_t code_bytes; // of a row and block
    uint16_t scales;
} form_facts[FORMS_COUNT] = {
#define X(form, code_bytes, scales) [form] = {code_bytes, scales},
    CPU_FORMS(X)
#undef X
};

int cpu_form_of(uint32_t type, enum cpu_form *ret_form, struct err *err)
{
    enum cpu_form form;
    switch (type) {
    case TYPE_F32: form = FORM_F32; break;
    case TYPE_F16: form = FORM_F16; break;
    case TYPE_BF16: form = FORM_BF16; break;
    case TYPE_Q4_0: form = FORM_N4; break;
    case TYPE_Q4_1:
    case TYPE_Q4_K: form = FORM_N4M; break;
    case TYPE_Q5_0: form = FORM_N5; break;
    case TYPE_Q5_1:
    case TYPE_Q5_K: form = FORM_N5M; break;
    case TYPE_Q6_K: form = FORM_B6; break;
    case TYPE_Q8_0: form = FORM_B8; break;
    default: {
        const struct dequant_type *known = dequant_find(type);
        return ERR(err, ERR_UNSUPPORTED, "tensor type %u (%s) has no CPU kernel yet", type,
                   known != NULL ? known->name : "unknown");
    }
    }
    *ret_form = form;
    return 0;
}

static uint16_t read_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static void read_nibbles(const uint8_t *qs, uint8_t *code)
{
    for (int j = 0; j < BLOCK_COLS / 2; j++) {
        code[j] = qs[j] & 15;
        code[j + BLOCK_COLS / 2] = qs[j] >> 4;
    }
}

static void read_fifth_bits(const uint8_t *qh, uint8_t *code)
{
    for (int j = 0; j < BLOCK_COLS; j++) code[j] |= (uint8_t)((qh[j / 8] >> (j % 8) & 1) << 4);
}

/* Sub-block `sub` of a Q4_K or Q5_K super-block; qh is NULL for Q4_K. */
static void read_k(const uint8_t *block, const uint8_t *qh, const uint8_t *qs, uint32_t sub,
                   struct codes *ret)
{
    uint8_t scales[8], mins[8];
    dequant_k_scales(block + 4, scales, mins);
    float d = half_f32_of_f16(read_u16(block)), dmin = half_f32_of_f16(read_u16(block + 2));
    for (uint32_t j = 0; j < BLOCK_COLS; j++) {
        ret->code[j] = qs[sub / 2 * BLOCK_COLS + j] >> (sub % 2 * 4) & 15;
        if (qh != NULL) ret->code[j] |= (uint8_t)((qh[j] >> sub & 1) << 4);
    }
    ret->scale[0] = half_f16_of_f32(d * (float)scales[sub]);
    ret->scale[1] = half_f16_of_f32(-dmin * (float)mins[sub]);
}

static void read_q6_k(const uint8_t *block, uint32_t sub, struct codes *ret)
{
    const uint8_t *ql = block, *qh = block + 128;
    const int8_t *scales = (const int8_t *)block + 192;
    float d = half_f32_of_f16(read_u16(block + 208));
    uint32_t half = sub / 4, quarter = sub % 4;
    for (uint32_t j = 0; j < BLOCK_COLS; j++) {
        int low = ql[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
        int high = qh[half * 32 + j] >> (quarter * 2) & 3;
        ret->code[j] = (uint8_t)(low | high << 4);
    }
    for (uint32_t i = 0; i < 2; i++) ret->scale[i] = half_f16_of_f32(d * (float)scales[sub * 2 + i]);
}

/* Columns 32 * block .. + 31 of a row of an integer type. */
static void read_block(uint32_t type, const uint8_t *row, uint32_t block, struct codes *ret)
{
    uint32_t sub = block % (SUPER_COLS / BLOCK_COLS);
    uint32_t super = block / (SUPER_COLS / BLOCK_COLS);
    const uint8_t *p;
    switch (type) {
    case TYPE_Q4_0:
        p = row + (size_t)block * 18;
        read_nibbles(p + 2, ret->code);
        break;
    case TYPE_Q4_1:
        p = row + (size_t)block * 20;
        read_nibbles(p + 4, ret->code);
        break;
    case TYPE_Q5_0:
        p = row + (size_t)block * 22;
        read_nibbles(p + 6, ret->code);
        read_fifth_bits(p + 2, ret->code);
        break;
    case TYPE_Q5_1:
        p = row + (size_t)block * 24;
        read_nibbles(p + 8, ret->code);
        read_fifth_bits(p + 4, ret->code);
        break;
    case TYPE_Q8_0:
        p = row + (size_t)block * 34;
        for (int j = 0; j < BLOCK_COLS; j++) ret->code[j] = (uint8_t)(p[2 + j] ^ 0x80); // q + 128
        break;
    case TYPE_Q4_K:
        p = row + (size_t)super * 144;
        read_k(p, NULL, p + 16, sub, ret);
        return;
    case TYPE_Q5_K:
        p = row + (size_t)super * 176;
        read_k(p, p + 16, p + 48, sub, ret);
        return;
    case TYPE_Q6_K: read_q6_k(row + (size_t)super * 210, sub, ret); return;
    default: CHECK(!"integer type"); return;
    }
    ret->scale[0] = read_u16(p);
    ret->scale[1] = read_u16(p + 2); // read only by forms with two scales
}

/* Codes of one row into its lanes of a block's vectors; vectors start zeroed. lanes: tile_rows * 4 bytes */
static void place(enum cpu_form form, const struct codes *codes, uint8_t byte_offset, size_t vector_bytes,
                  uint8_t *lane)
{
    for (uint32_t j = 0; j < BLOCK_COLS; j++) {
        uint32_t group = j / 4;
        uint8_t *at = lane + j % 4;
        uint8_t code = codes->code[j];
        if (form == FORM_B8) {
            at[group * vector_bytes] = (uint8_t)(code - 128 + byte_offset);
            continue;
        }
        at[group / 2 * vector_bytes] |= (uint8_t)((code & 15) << (group % 2 * 4));
        uint8_t *high = at + 4 * vector_bytes;
        if (form == FORM_N5 || form == FORM_N5M) *high |= (uint8_t)(code >> 4 << group);
        if (form == FORM_B6) high[group / 4 * vector_bytes] |= (uint8_t)(code >> 4 << (group % 4 * 2));
    }
}

/* The inverse of place. */
static uint8_t pick(enum cpu_form form, const uint8_t *lane, uint8_t byte_offset, size_t vector_bytes,
                    uint32_t j)
{
    uint32_t group = j / 4;
    const uint8_t *at = lane + j % 4;
    if (form == FORM_B8) return (uint8_t)(at[group * vector_bytes] + 128 - byte_offset);
    uint8_t code = at[group / 2 * vector_bytes] >> (group % 2 * 4) & 15;
    const uint8_t *high = at + 4 * vector_bytes;
    if (form == FORM_N5 || form == FORM_N5M) code |= (uint8_t)((*high >> group & 1) << 4);
    if (form == FORM_B6) code |= (uint8_t)((high[group / 4 * vector_bytes] >> (group % 4 * 2) & 3) << 4);
    return code;
}

static bool form_is_float(enum cpu_form form)
{
    return form_facts[form].scales == 0;
}

int cpu_pack_plan(const struct kern_matrix *matrix, const struct cpu_level *level,
                  struct cpu_packed *ret_packed, struct err *err)
{
    struct cpu_packed packed = {.rows = matrix->rows, .cols = matrix->cols, .tile_rows = level->tile_rows};
    int r = cpu_form_of(matrix->type, &packed.form, err);
    if (r < 0) return r;
    const struct dequant_type *type = dequant_find(matrix->type);
    CHECK(type != NULL);
    if (matrix->rows == 0 || matrix->cols == 0 || matrix->cols % type->block_elements != 0)
        return ERR(err, ERR_FORMAT, "%s matrix of %u x %u", type->name, matrix->rows, matrix->cols);
    packed.block_count = (matrix->cols + BLOCK_COLS - 1) / BLOCK_COLS;
    packed.tile_count = (matrix->rows + level->tile_rows - 1) / level->tile_rows;
    size_t row_block_bytes = form_facts[packed.form].code_bytes + 2u * form_facts[packed.form].scales;
    size_t bytes = row_block_bytes * packed.block_count * level->tile_rows;
    packed.tile_bytes = (bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
    *ret_packed = packed;
    return 0;
}

static void pack_float_row(const struct kern_matrix *matrix, const uint8_t *row, uint32_t tile_rows,
                           uint32_t r, uint8_t *tile)
{
    size_t width = matrix->type == TYPE_F32 ? 4 : 2;
    for (uint32_t k = 0; k < matrix->cols; k++)
        memcpy(tile + ((size_t)k * tile_rows + r) * width, row + k * width, width);
}

static void pack_integer_row(const struct kern_matrix *matrix, const uint8_t *row, uint8_t byte_offset,
                             const struct cpu_packed *packed, uint32_t r, uint8_t *tile)
{
    size_t vector_bytes = (size_t)packed->tile_rows * 4;
    size_t code_bytes = (size_t)form_facts[packed->form].code_bytes * packed->tile_rows;
    uint32_t scales = form_facts[packed->form].scales;
    uint8_t *scale_at = tile + code_bytes * packed->block_count;
    for (uint32_t b = 0; b < packed->block_count; b++) {
        struct codes codes;
        read_block(matrix->type, row, b, &codes);
        place(packed->form, &codes, byte_offset, vector_bytes, tile + b * code_bytes + (size_t)r * 4);
        for (uint32_t s = 0; s < scales; s++)
            memcpy(scale_at + (((size_t)b * scales + s) * packed->tile_rows + r) * 2, &codes.scale[s], 2);
    }
}

void cpu_pack(const struct kern_matrix *matrix, const struct cpu_level *level, struct cpu_packed *packed,
              uint32_t tile_first, uint32_t tile_count)
{
    CHECK(tile_first + tile_count <= packed->tile_count);
    const struct dequant_type *type = dequant_find(matrix->type);
    CHECK(type != NULL);
    size_t row_bytes = dequant_row_bytes(type, matrix->cols);
    for (uint32_t t = tile_first; t < tile_first + tile_count; t++) {
        uint8_t *tile = packed->data + t * packed->tile_bytes;
        memset(tile, 0, packed->tile_bytes);
        for (uint32_t r = 0; r < packed->tile_rows && t * packed->tile_rows + r < packed->rows; r++) {
            const uint8_t *row = (const uint8_t *)matrix->data +
                                 (t * (size_t)packed->tile_rows + r) * row_bytes;
            if (form_is_float(packed->form)) pack_float_row(matrix, row, packed->tile_rows, r, tile);
            else pack_integer_row(matrix, row, level->byte_offset, packed, r, tile);
        }
    }
}

static float float_at(enum cpu_form form, const uint8_t *tile, size_t index)
{
    if (form == FORM_F32) return ((const float *)(const void *)tile)[index];
    uint16_t half = ((const uint16_t *)(const void *)tile)[index];
    return form == FORM_F16 ? half_f32_of_f16(half) : half_f32_of_bf16(half);
}

void cpu_unpack_row(const struct cpu_packed *packed, uint8_t byte_offset, uint32_t row, float *out)
{
    static const float centres[FORMS_COUNT] = {
        [FORM_N4] = 8, [FORM_N5] = 16, [FORM_B6] = 32, [FORM_B8] = 128};
    CHECK(row < packed->rows);
    const uint8_t *tile = packed->data + row / packed->tile_rows * packed->tile_bytes;
    uint32_t r = row % packed->tile_rows;
    if (form_is_float(packed->form)) {
        for (uint32_t k = 0; k < packed->cols; k++)
            out[k] = float_at(packed->form, tile, (size_t)k * packed->tile_rows + r);
        return;
    }
    size_t code_bytes = (size_t)form_facts[packed->form].code_bytes * packed->tile_rows;
    uint32_t scales = form_facts[packed->form].scales;
    const uint16_t *scale_at = (const uint16_t *)(const void *)(tile + code_bytes * packed->block_count) + r;
    float centre = centres[packed->form];
    bool has_min = packed->form == FORM_N4M || packed->form == FORM_N5M;
    for (uint32_t b = 0; b < packed->block_count; b++) {
        float d[2];
        for (uint32_t s = 0; s < scales; s++)
            d[s] = half_f32_of_f16(scale_at[((size_t)b * scales + s) * packed->tile_rows]);
        const uint8_t *lane = tile + b * code_bytes + (size_t)r * 4;
        for (uint32_t j = 0; j < BLOCK_COLS; j++) {
            float code = pick(packed->form, lane, byte_offset, (size_t)packed->tile_rows * 4, j);
            float scale = packed->form == FORM_B6 ? d[j / 16] : d[0];
            out[b * BLOCK_COLS + j] = has_min ? scale * code + d[1] : scale * (code - centre);
        }
    }
}

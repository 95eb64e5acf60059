/* SPDX-License-Identifier: Apache-2.0 */
/* pack - file blocks to the tiles drawn in cpu.h, and single rows back (the embedding). Every type goes
 * through one picture of 32 columns: unsigned codes, scales, minimum. Layouts of the file blocks are drawn
 * in worker/kern/ref/dequant.c. */
#include <math.h>
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
    TYPE_Q2_K = 10,
    TYPE_Q3_K = 11,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_IQ4_NL = 20,
    TYPE_IQ4_XS = 23,
    TYPE_BF16 = 30,
    TYPE_MXFP4 = 39,
};

/* 32 columns of one row. */
struct codes {
    uint8_t code[BLOCK_COLS];
    uint16_t scale[2]; // f16: d, and the minimum (N4M, N5M) or the d of columns 16..31 (B6)
    uint8_t byte[2];   // of columns 0..15 and 16..31, or of all
    uint16_t super[2]; // f16: d and minimum of the super-block
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
    case TYPE_Q2_K: form = FORM_K2; break;
    case TYPE_Q3_K: form = FORM_K3; break;
    case TYPE_IQ4_NL: form = FORM_T4; break;
    case TYPE_IQ4_XS: form = FORM_T4K; break;
    case TYPE_MXFP4: form = FORM_E4; break;
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

/* The two low bits of Q2_K and Q3_K. */
static void read_pairs_of_bits(const uint8_t *qs, uint32_t sub, uint8_t *code)
{
    for (uint32_t j = 0; j < BLOCK_COLS; j++) code[j] = qs[sub / 4 * BLOCK_COLS + j] >> (sub % 4 * 2) & 3;
}

static void read_q2_k(const uint8_t *block, uint32_t sub, struct codes *ret)
{
    read_pairs_of_bits(block + 16, sub, ret->code);
    memcpy(ret->byte, block + (size_t)sub * 2, 2);
    ret->super[0] = read_u16(block + 80);
    ret->super[1] = read_u16(block + 82) ^ 0x8000; // the minimum is subtracted
}

static void read_q3_k(const uint8_t *block, uint32_t sub, struct codes *ret)
{
    read_pairs_of_bits(block + 32, sub, ret->code);
    for (uint32_t j = 0; j < BLOCK_COLS; j++) ret->code[j] |= (uint8_t)((block[j] >> sub & 1) << 2);
    for (uint32_t i = 0; i < 2; i++) ret->byte[i] = (uint8_t)dequant_q3_scale(block + 96, sub * 2 + i);
    ret->super[0] = read_u16(block + 108);
}

static void read_iq4_xs(const uint8_t *block, uint32_t sub, struct codes *ret)
{
    int low = block[4 + sub / 2] >> (sub % 2 * 4) & 15, high = read_u16(block + 2) >> (2 * sub) & 3;
    read_nibbles(block + 8 + (size_t)sub * 16, ret->code);
    ret->byte[0] = (uint8_t)((low | high << 4) - 32);
    ret->super[0] = read_u16(block);
}

/* Columns 32 * block .. + 31 of a row of an integer type. */
static void read_block(uint32_t type, const uint8_t *row, uint32_t block, struct codes *ret)
{
    uint32_t sub = block % SUPER_BLOCKS, super = block / SUPER_BLOCKS;
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
    case TYPE_Q2_K: read_q2_k(row + (size_t)super * 84, sub, ret); return;
    case TYPE_Q3_K: read_q3_k(row + (size_t)super * 110, sub, ret); return;
    case TYPE_IQ4_XS: read_iq4_xs(row + (size_t)super * 136, sub, ret); return;
    case TYPE_IQ4_NL:
        p = row + (size_t)block * 18;
        read_nibbles(p + 2, ret->code);
        break;
    case TYPE_MXFP4:
        p = row + (size_t)block * 17;
        read_nibbles(p + 1, ret->code);
        ret->byte[0] = p[0];
        return;
    default: CHECK(!"integer type"); return;
    }
    ret->scale[0] = read_u16(p);
    ret->scale[1] = read_u16(p + 2); // read only by forms with two scales
}

/* Codes of one row into its lanes of a block's vectors; vectors start zeroed. lanes: tile_rows * 4 bytes */
static void place(enum cpu_form form, const struct codes *codes, uint8_t byte_offset, size_t vector_bytes,
                  uint8_t *lane)
{
    const uint8_t *code = codes->code;
    if (form == FORM_B8) {
        for (uint32_t j = 0; j < BLOCK_COLS; j++)
            lane[j / 4 * vector_bytes + j % 4] = (uint8_t)(code[j] - 128 + byte_offset);
        return;
    }
    if (form == FORM_K2 || form == FORM_K3) {
        for (uint32_t j = 0; j < BLOCK_COLS; j++)
            lane[j / 16 * vector_bytes + j % 4] |= (uint8_t)((code[j] & 3) << (j / 4 % 4 * 2));
        for (uint32_t j = 0; j < BLOCK_COLS && form == FORM_K3; j++)
            lane[2 * vector_bytes + j % 4] |= (uint8_t)(code[j] >> 2 << j / 4);
        return;
    }
    for (uint32_t j = 0; j < BLOCK_COLS; j++)
        lane[j / 8 * vector_bytes + j % 4] |= (uint8_t)((code[j] & 15) << (j / 4 % 2 * 4));
    uint8_t *high = lane + 4 * vector_bytes;
    if (form == FORM_N5 || form == FORM_N5M) {
        for (uint32_t j = 0; j < BLOCK_COLS; j++) high[j % 4] |= (uint8_t)(code[j] >> 4 << j / 4);
    }
    if (form == FORM_B6) {
        for (uint32_t j = 0; j < BLOCK_COLS; j++)
            high[j / 16 * vector_bytes + j % 4] |= (uint8_t)(code[j] >> 4 << (j / 4 % 4 * 2));
    }
}

/* The same for lanes of 8 columns (cpu.h): the row's even fours of columns go into the groups of its half of the
 * tile as if of one row, its odd fours as if of the next. tile: vectors of the block */
static void place_wide(enum cpu_form form, const struct codes *codes, uint8_t byte_offset, uint32_t tile_rows,
                       uint32_t r, uint8_t *tile)
{
    const size_t vector_bytes = (size_t)tile_rows * 4, half = r / (tile_rows / 2);
    uint8_t *lanes = tile + (size_t)(r % (tile_rows / 2)) * 8;
    if (form == FORM_B8) {
        for (uint32_t j = 0; j < BLOCK_COLS; j++)
            lanes[(j / 8 * 2 + half) * vector_bytes + j % 8] = (uint8_t)(codes->code[j] - 128 + byte_offset);
        return;
    }
    for (uint32_t odd = 0; odd < 2; odd++) {
        struct codes part = {0};
        for (uint32_t j = 0; j < BLOCK_COLS; j += 8)
            memcpy(part.code + j + half * 4, codes->code + j + (size_t)odd * 4, 4);
        place(form, &part, byte_offset, vector_bytes, lanes + (size_t)odd * 4);
    }
}

/* The inverse of place. */
static uint8_t pick(enum cpu_form form, const uint8_t *lane, uint8_t byte_offset, size_t vector_bytes,
                    uint32_t j)
{
    uint32_t group = j / 4;
    const uint8_t *at = lane + j % 4;
    if (form == FORM_B8) return (uint8_t)(at[group * vector_bytes] + 128 - byte_offset);
    if (form == FORM_K2 || form == FORM_K3) {
        int low = at[group / 4 * vector_bytes] >> (group % 4 * 2) & 3;
        return (uint8_t)(form == FORM_K2 ? low : low | (at[2 * vector_bytes] >> group & 1) << 2);
    }
    uint8_t code = at[group / 2 * vector_bytes] >> (group % 2 * 4) & 15;
    const uint8_t *high = at + 4 * vector_bytes;
    if (form == FORM_N5 || form == FORM_N5M) code |= (uint8_t)((*high >> group & 1) << 4);
    if (form == FORM_B6) code |= (uint8_t)((high[group / 4 * vector_bytes] >> (group % 4 * 2) & 3) << 4);
    return code;
}

static bool form_is_float(enum cpu_form form)
{
    struct cpu_form_facts facts = cpu_form_facts(form);
    return facts.halves == 0 && facts.bytes == 0;
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
    packed.strip_tiles = form_is_float(packed.form) ? 1 : level->strip_tiles;
    packed.strip_count = (packed.tile_count + packed.strip_tiles - 1) / packed.strip_tiles;
    struct cpu_form_facts facts = cpu_form_facts(packed.form);
    CHECK(facts.supers == 0 || packed.block_count % SUPER_BLOCKS == 0);
    /* The place of a next super-block's factors, or block. */
    struct cpu_place end = cpu_place_of(facts, level->tile_rows, packed.strip_tiles, 0, packed.block_count);
    size_t bytes = facts.supers > 0 ? end.supers : end.codes;
    packed.strip_bytes = (bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
    *ret_packed = packed;
    return 0;
}

size_t cpu_packed_bytes(const struct cpu_packed *packed)
{
    return packed->strip_bytes * packed->strip_count;
}

static void pack_float_row(const struct kern_matrix *matrix, const uint8_t *row, uint32_t tile_rows,
                           uint32_t r, uint8_t *tile)
{
    size_t width = matrix->type == TYPE_F32 ? 4 : 2;
    for (uint32_t k = 0; k < matrix->cols; k++)
        memcpy(tile + ((size_t)k * tile_rows + r) * width, row + k * width, width);
}

static void pack_integer_row(const struct kern_matrix *matrix, const uint8_t *row,
                             const struct cpu_level *level, const struct cpu_packed *packed, uint32_t tile,
                             uint32_t r, uint8_t *strip)
{
    size_t vector_bytes = (size_t)packed->tile_rows * 4;
    const struct cpu_form_facts facts = cpu_form_facts(packed->form);
    const size_t rows = packed->tile_rows;
    for (uint32_t b = 0; b < packed->block_count; b++) {
        struct codes codes;
        read_block(matrix->type, row, b, &codes);
        const struct cpu_place at = cpu_place_of(facts, packed->tile_rows, packed->strip_tiles, tile, b);
        if (level->lane_cols == 4)
            place(packed->form, &codes, level->byte_offset, vector_bytes, strip + at.codes + (size_t)r * 4);
        else place_wide(packed->form, &codes, level->byte_offset, packed->tile_rows, r, strip + at.codes);
        uint8_t *super = strip + at.supers, *own = strip + at.scales;
        for (uint32_t s = 0; s < facts.supers && b % SUPER_BLOCKS == 0; s++)
            memcpy(super + (s * rows + r) * 2, &codes.super[s], 2);
        for (uint32_t s = 0; s < facts.halves; s++) memcpy(own + (s * rows + r) * 2, &codes.scale[s], 2);
        for (uint32_t s = 0; s < facts.bytes; s++) own[(2 * facts.halves + s) * rows + r] = codes.byte[s];
    }
}

void cpu_pack(const struct kern_matrix *matrix, const struct cpu_level *level, struct cpu_packed *packed,
              uint32_t strip_first, uint32_t strip_count)
{
    CHECK(strip_first + strip_count <= packed->strip_count);
    const struct dequant_type *type = dequant_find(matrix->type);
    CHECK(type != NULL);
    size_t row_bytes = dequant_row_bytes(type, matrix->cols);
    const uint32_t strip_rows = packed->strip_tiles * packed->tile_rows;
    for (uint32_t s = strip_first; s < strip_first + strip_count; s++) {
        uint8_t *strip = packed->data + s * packed->strip_bytes;
        memset(strip, 0, packed->strip_bytes);
        for (uint32_t r = 0; r < strip_rows && s * strip_rows + r < packed->rows; r++) {
            const uint8_t *row = (const uint8_t *)matrix->data + (s * (size_t)strip_rows + r) * row_bytes;
            if (form_is_float(packed->form)) pack_float_row(matrix, row, packed->tile_rows, r, strip);
            else
                pack_integer_row(matrix, row, level, packed, r / packed->tile_rows, r % packed->tile_rows,
                                 strip);
        }
    }
}

static float float_at(enum cpu_form form, const uint8_t *tile, size_t index)
{
    if (form == FORM_F32) return ((const float *)(const void *)tile)[index];
    uint16_t half = ((const uint16_t *)(const void *)tile)[index];
    return form == FORM_F16 ? half_f32_of_f16(half) : half_f32_of_bf16(half);
}

/* Factor and addend of the values of block b, half h, of a row: f16 scales of the super-block, then the block's
 * own, at the row's place. */
static void unpack_scales(const struct cpu_packed *packed, const uint8_t *strip, struct cpu_place at,
                          uint32_t r, uint32_t h, float *ret_d, float *ret_minimum)
{
    const struct cpu_form_facts facts = cpu_form_facts(packed->form);
    size_t rows = packed->tile_rows;
    const uint8_t *super = strip + at.supers + (size_t)r * 2, *own = strip + at.scales;
    const uint8_t *halves = own + (size_t)r * 2, *byte = own + 2 * facts.halves * rows + r;
    float d = facts.supers > 0 ? half_f32_of_f16(read_u16(super)) : 1;
    *ret_minimum = 0;
    switch (packed->form) {
    case FORM_N4M:
    case FORM_N5M:
        *ret_d = half_f32_of_f16(read_u16(halves));
        *ret_minimum = half_f32_of_f16(read_u16(halves + 2 * rows));
        return;
    case FORM_K2:
        *ret_d = d * (float)(byte[h * rows] & 15);
        *ret_minimum = half_f32_of_f16(read_u16(super + 2 * rows)) * (float)(byte[h * rows] >> 4);
        return;
    case FORM_K3: *ret_d = d * (float)(int8_t)byte[h * rows]; return;
    case FORM_T4K: *ret_d = d * (float)(int8_t)byte[0]; return;
    case FORM_E4: *ret_d = byte[0] == 255 ? 0x1.0p127f : ldexpf(1, byte[0] - 128); return;
    case FORM_B6: *ret_d = half_f32_of_f16(read_u16(halves + h * 2 * rows)); return;
    default: *ret_d = half_f32_of_f16(read_u16(halves)); return;
    }
}

/* What a code of the form stands for, before scales. */
static float code_value(enum cpu_form form, uint8_t code)
{
    static const int centres[FORMS_COUNT] = {
        [FORM_N4] = 8, [FORM_N5] = 16, [FORM_B6] = 32, [FORM_B8] = 128, [FORM_K3] = 4};
    if (form == FORM_T4 || form == FORM_T4K) return dequant_iq4_values[code];
    if (form == FORM_E4) return dequant_e2m1_doubled[code];
    return (float)(code - centres[form]);
}

/* Where column j of row r is: as if lanes were of 4 columns, this column of the row of this lane. */
struct spot {
    size_t lane;
    uint32_t col;
};

static struct spot spot_of(const struct cpu_level *level, uint32_t r, uint32_t j)
{
    if (level->lane_cols == 4) return (struct spot){r, j};
    const uint32_t half_rows = level->tile_rows / 2;
    return (struct spot){r % half_rows * 2 + j / 4 % 2, j / 8 * 8 + r / half_rows * 4 + j % 4};
}

void cpu_unpack_row(const struct cpu_packed *packed, const struct cpu_level *level, uint32_t row, float *out)
{
    CHECK(row < packed->rows);
    const uint32_t tile = row / packed->tile_rows, r = row % packed->tile_rows;
    const uint8_t *strip = packed->data + tile / packed->strip_tiles * packed->strip_bytes;
    if (form_is_float(packed->form)) {
        for (uint32_t k = 0; k < packed->cols; k++)
            out[k] = float_at(packed->form, strip, (size_t)k * packed->tile_rows + r);
        return;
    }
    for (uint32_t b = 0; b < packed->block_count; b++) {
        const struct cpu_place at = cpu_place_of(cpu_form_facts(packed->form), packed->tile_rows,
                                                 packed->strip_tiles, tile % packed->strip_tiles, b);
        for (uint32_t h = 0; h < 2; h++) {
            float d, minimum;
            unpack_scales(packed, strip, at, r, h, &d, &minimum);
            for (uint32_t j = h * 16; j < h * 16 + 16; j++) {
                const struct spot spot = spot_of(level, r, j);
                uint8_t code = pick(packed->form, strip + at.codes + spot.lane * 4, level->byte_offset,
                                    (size_t)packed->tile_rows * 4, spot.col);
                out[b * BLOCK_COLS + j] = d * code_value(packed->form, code) + minimum;
            }
        }
    }
}

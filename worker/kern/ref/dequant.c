/* SPDX-License-Identifier: Apache-2.0 */
/* dequant - see dequant.h. All numbers are little-endian. Products are rounded in the order written
 * (scale of the block * scale of the sub-block first, then * q), as the makers of the files compute them.
 * Layouts: the ggml project's block structs, GGUF specification; written from their description. */
#include "worker/kern/ref/dequant.h"

#include "common/base/check.h"
#include "worker/kern/ref/half.h"

/* Elements of a "32" block lie as nibbles: byte j holds element j below and element j + 16 above. */
enum { HALF_BLOCK = 16 };

#define X(value) value,
const int8_t dequant_iq4_values[16] = {DEQUANT_IQ4_VALUES(X)};
const int8_t dequant_e2m1_doubled[16] = {DEQUANT_E2M1_DOUBLED(X)};
#undef X

static uint16_t read_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t read_u32(const uint8_t *bytes)
{
    return (uint32_t)read_u16(bytes) | (uint32_t)read_u16(bytes + 2) << 16;
}

static float read_f16(const uint8_t *bytes)
{
    return half_f32_of_f16(read_u16(bytes));
}

/* | f32 | */
static void dequant_f32(const uint8_t *block, float *out)
{
    *out = half_f32_of_bits(read_u32(block));
}

/* | f16 | */
static void dequant_f16(const uint8_t *block, float *out)
{
    *out = read_f16(block);
}

/* | bf16 | */
static void dequant_bf16(const uint8_t *block, float *out)
{
    *out = half_f32_of_bf16(read_u16(block));
}

/* | d f16 | qs 16 x (low: j, high: j + 16) |    w = d * (q - 8) */
static void dequant_q4_0(const uint8_t *block, float *out)
{
    float d = read_f16(block);
    const uint8_t *qs = block + 2;
    for (int j = 0; j < HALF_BLOCK; j++) {
        out[j] = (float)((qs[j] & 15) - 8) * d;
        out[j + HALF_BLOCK] = (float)((qs[j] >> 4) - 8) * d;
    }
}

/* | d f16 | m f16 | qs 16 |    w = d * q + m */
static void dequant_q4_1(const uint8_t *block, float *out)
{
    float d = read_f16(block), m = read_f16(block + 2);
    const uint8_t *qs = block + 4;
    for (int j = 0; j < HALF_BLOCK; j++) {
        out[j] = (float)(qs[j] & 15) * d + m;
        out[j + HALF_BLOCK] = (float)(qs[j] >> 4) * d + m;
    }
}

/* | d f16 | qh u32: bit j is bit 4 of element j | qs 16 |    w = d * (q - 16) */
static void dequant_q5_0(const uint8_t *block, float *out)
{
    float d = read_f16(block);
    uint32_t high = read_u32(block + 2);
    const uint8_t *qs = block + 6;
    for (int j = 0; j < HALF_BLOCK; j++) {
        int q0 = (qs[j] & 15) | (int)(high >> j & 1) << 4;
        int q1 = (qs[j] >> 4) | (int)(high >> (j + HALF_BLOCK) & 1) << 4;
        out[j] = (float)(q0 - 16) * d;
        out[j + HALF_BLOCK] = (float)(q1 - 16) * d;
    }
}

/* | d f16 | m f16 | qh u32 | qs 16 |    w = d * q + m */
static void dequant_q5_1(const uint8_t *block, float *out)
{
    float d = read_f16(block), m = read_f16(block + 2);
    uint32_t high = read_u32(block + 4);
    const uint8_t *qs = block + 8;
    for (int j = 0; j < HALF_BLOCK; j++) {
        int q0 = (qs[j] & 15) | (int)(high >> j & 1) << 4;
        int q1 = (qs[j] >> 4) | (int)(high >> (j + HALF_BLOCK) & 1) << 4;
        out[j] = (float)q0 * d + m;
        out[j + HALF_BLOCK] = (float)q1 * d + m;
    }
}

/* | d f16 | i8 32 |    w = d * q */
static void dequant_q8_0(const uint8_t *block, float *out)
{
    float d = read_f16(block);
    for (int j = 0; j < 2 * HALF_BLOCK; j++) out[j] = (float)(int8_t)block[2 + j] * d;
}

/* | scales 16: low nibble scale, high nibble min | qs 64 | d f16 | dmin f16 |
 * Each 32 bytes of qs hold 128 elements: the two bits at shift 0 are elements 0..31, at shift 2 elements
 * 32..63, and so on; a scale serves 16 elements.    w = d * scale * q - dmin * min */
static void dequant_q2_k(const uint8_t *block, float *out)
{
    const uint8_t *scales = block, *qs = block + 16;
    float d = read_f16(block + 80), dmin = read_f16(block + 82);
    for (int e = 0; e < 256; e++) {
        int scale = scales[e / 16];
        int q = qs[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        out[e] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
    }
}

/* 16 scales of 6 bits: the low nibbles of bytes 0..7 are the low bits of 0..7, the high nibbles those of 8..15;
 * byte 8 + i % 4 holds at shift i / 4 * 2 the upper two bits of scale i. */
int dequant_q3_scale(const uint8_t packed[12], uint32_t i)
{
    CHECK(i < 16);
    int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    int high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

/* | hmask 32 | qs 64 | scales 12 | d f16 |
 * qs as in Q2_K. Bit e / 32 of hmask[e % 32] set means q, clear means q - 4.    w = d * (scale - 32) * q */
static void dequant_q3_k(const uint8_t *block, float *out)
{
    const uint8_t *hmask = block, *qs = block + 32, *packed = block + 96;
    float d = read_f16(block + 108);
    float scales[16];
    for (uint32_t i = 0; i < 16; i++) scales[i] = d * (float)dequant_q3_scale(packed, i);
    for (int e = 0; e < 256; e++) {
        int q = qs[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        if ((hmask[e % 32] >> (e / 32) & 1) == 0) q -= 4;
        out[e] = scales[e / 16] * (float)q;
    }
}

/* 12 bytes: for j < 4 the scale is the low 6 bits of byte j and the min those of byte j + 4; for j >= 4 the
 * low 4 bits of both share byte j + 4, and their upper 2 bits top bytes j - 4 (scale) and j (min). */
void dequant_k_scales(const uint8_t packed[12], uint8_t ret_scales[8], uint8_t ret_mins[8])
{
    for (int j = 0; j < 4; j++) {
        ret_scales[j] = packed[j] & 63;
        ret_mins[j] = packed[j + 4] & 63;
    }
    for (int j = 4; j < 8; j++) {
        ret_scales[j] = (uint8_t)((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
        ret_mins[j] = (uint8_t)(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
    }
}

/* | d f16 | dmin f16 | scales 12 | qs 128 |
 * Each 32 bytes of qs hold 64 elements: low nibbles sub-block 2k, high nibbles sub-block 2k + 1.
 * w = d * scale * q - dmin * min */
static void dequant_q4_k(const uint8_t *block, float *out)
{
    float d = read_f16(block), dmin = read_f16(block + 2);
    const uint8_t *qs = block + 16;
    uint8_t scales[8], mins[8];
    dequant_k_scales(block + 4, scales, mins);
    for (int e = 0; e < 256; e++) {
        int sub = e / 32;
        int q = qs[sub / 2 * 32 + e % 32] >> (sub % 2 * 4) & 15;
        out[e] = d * (float)scales[sub] * (float)q - dmin * (float)mins[sub];
    }
}

/* | d f16 | dmin f16 | scales 12 | qh 32 | qs 128 |
 * As Q4_K; bit `sub-block` of qh[e % 32] is bit 4 of the element. */
static void dequant_q5_k(const uint8_t *block, float *out)
{
    float d = read_f16(block), dmin = read_f16(block + 2);
    const uint8_t *qh = block + 16, *qs = block + 48;
    uint8_t scales[8], mins[8];
    dequant_k_scales(block + 4, scales, mins);
    for (int e = 0; e < 256; e++) {
        int sub = e / 32;
        int q = (qs[sub / 2 * 32 + e % 32] >> (sub % 2 * 4) & 15) | (qh[e % 32] >> sub & 1) << 4;
        out[e] = d * (float)scales[sub] * (float)q - dmin * (float)mins[sub];
    }
}

/* | ql 128 | qh 64 | scales i8 16 | d f16 |
 * In each half of 128 elements, quarter k = 0..3 of 32: the low nibbles of ql[0..63] are quarters 0 and 1,
 * the high ones quarters 2 and 3; qh[l] holds at shift 2k the upper two bits.    w = d * scale * (q - 32) */
static void dequant_q6_k(const uint8_t *block, float *out)
{
    const uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    float d = read_f16(block + 208);
    for (int e = 0; e < 256; e++) {
        int half = e / 128, quarter = e % 128 / 32, l = e % 32;
        int low = ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
        int high = qh[half * 32 + l] >> (quarter * 2) & 3;
        out[e] = d * (float)(int8_t)scales[e / 16] * (float)((low | high << 4) - 32);
    }
}

/* | d f16 | qs 16 |    w = d * value[q] */
static void dequant_iq4_nl(const uint8_t *block, float *out)
{
    float d = read_f16(block);
    const uint8_t *qs = block + 2;
    for (int j = 0; j < HALF_BLOCK; j++) {
        out[j] = d * (float)dequant_iq4_values[qs[j] & 15];
        out[j + HALF_BLOCK] = d * (float)dequant_iq4_values[qs[j] >> 4];
    }
}

/* | d f16 | scales_h u16 | scales_l 4 | qs 128 |
 * Eight sub-blocks of 32 with nibbles as in IQ4_NL; scale of sub-block i: 4 low bits in a nibble of
 * scales_l, 2 high bits at shift 2i of scales_h.    w = d * (scale - 32) * value[q] */
static void dequant_iq4_xs(const uint8_t *block, float *out)
{
    float d = read_f16(block);
    uint32_t scales_high = read_u16(block + 2);
    const uint8_t *scales_low = block + 4, *qs = block + 8;
    for (int sub = 0; sub < 8; sub++) {
        int scale = (scales_low[sub / 2] >> (sub % 2 * 4) & 15) | (int)(scales_high >> (2 * sub) & 3) << 4;
        float sub_d = d * (float)(scale - 32);
        for (int j = 0; j < HALF_BLOCK; j++) {
            uint8_t pair = qs[sub * HALF_BLOCK + j];
            out[sub * 32 + j] = sub_d * (float)dequant_iq4_values[pair & 15];
            out[sub * 32 + j + HALF_BLOCK] = sub_d * (float)dequant_iq4_values[pair >> 4];
        }
    }
}

/* | e u8 | qs 16 |    w = 2^(e - 127) * E2M1(q), the OCP microscaling format. The table holds doubled values
 * so that it is whole (without a negative zero); 2^(e - 128) as bits: exponent e - 1, subnormal for e < 2. */
static void dequant_mxfp4(const uint8_t *block, float *out)
{
    uint32_t e = block[0];
    float d = half_f32_of_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    const uint8_t *qs = block + 1;
    for (int j = 0; j < HALF_BLOCK; j++) {
        out[j] = (float)dequant_e2m1_doubled[qs[j] & 15] * d;
        out[j + HALF_BLOCK] = (float)dequant_e2m1_doubled[qs[j] >> 4] * d;
    }
}

const struct dequant_type *dequant_find(uint32_t type_id)
{
    static const struct dequant_type types[] = {
#define X(type_number, elements, bytes, text, function) \
    {.id = type_number, .block_elements = elements, .block_bytes = bytes, .name = text, .block = function},
        DEQUANT_TYPES(X)
#undef X
    };
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        if (types[i].id == type_id) return &types[i];
    }
    return NULL;
}

void dequant_row(const struct dequant_type *type, const void *row, uint32_t cols, float *out)
{
    const uint8_t *block = row;
    CHECK(cols % type->block_elements == 0);
    for (uint32_t col = 0; col < cols; col += type->block_elements) {
        type->block(block, out + col);
        block += type->block_bytes;
    }
}

size_t dequant_row_bytes(const struct dequant_type *type, uint32_t cols)
{
    CHECK(cols % type->block_elements == 0);
    return (size_t)(cols / type->block_elements) * type->block_bytes;
}

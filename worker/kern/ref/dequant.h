/* SPDX-License-Identifier: Apache-2.0 */
/* dequant - rows of quantized blocks to floats: the definition of what each stored weight means. One
 * function per block type, its layout drawn beside it; packers of fast machines are tested against it.
 *
 * Ids, block sizes and names repeat common/gguf/types.h because kern/ sees nothing outside common/base;
 * tests/unit/test_dequant.c holds the two tables together. */
#ifndef KVASIR_KERN_REF_DEQUANT_H
#define KVASIR_KERN_REF_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

/* X(id in the file, elements a block, bytes a block, name, function over one block) */
#define DEQUANT_TYPES(X) \
    X(0, 1, 4, "F32", dequant_f32) \
    X(1, 1, 2, "F16", dequant_f16) \
    X(2, 32, 18, "Q4_0", dequant_q4_0) \
    X(3, 32, 20, "Q4_1", dequant_q4_1) \
    X(6, 32, 22, "Q5_0", dequant_q5_0) \
    X(7, 32, 24, "Q5_1", dequant_q5_1) \
    X(8, 32, 34, "Q8_0", dequant_q8_0) \
    X(10, 256, 84, "Q2_K", dequant_q2_k) \
    X(11, 256, 110, "Q3_K", dequant_q3_k) \
    X(12, 256, 144, "Q4_K", dequant_q4_k) \
    X(13, 256, 176, "Q5_K", dequant_q5_k) \
    X(14, 256, 210, "Q6_K", dequant_q6_k) \
    X(20, 32, 18, "IQ4_NL", dequant_iq4_nl) \
    X(23, 256, 136, "IQ4_XS", dequant_iq4_xs) \
    X(30, 1, 2, "BF16", dequant_bf16) \
    X(39, 32, 17, "MXFP4", dequant_mxfp4)

struct dequant_type {
    uint32_t id; // of the file
    uint32_t block_elements;
    uint32_t block_bytes;
    const char *name;
    void (*block)(const uint8_t *block, float *out); // (block_bytes) -> (block_elements); any alignment
};

/* NULL for an id that has no reader here. */
const struct dequant_type *dequant_find(uint32_t type_id);

/* row: cols / block_elements blocks, any alignment; out: (cols). cols is a multiple of block_elements. */
void dequant_row(const struct dequant_type *type, const void *row, uint32_t cols, float *out);

/* Bytes of a row of cols elements. */
size_t dequant_row_bytes(const struct dequant_type *type, uint32_t cols);

/* The 8 scales and 8 minimums (6 bits each) that Q4_K and Q5_K keep in 12 bytes. */
void dequant_k_scales(const uint8_t packed[12], uint8_t ret_scales[8], uint8_t ret_mins[8]);

/* Scale i of the 16 of a Q3_K block, [-32, 31], from the 12 bytes that keep them. */
int dequant_q3_scale(const uint8_t packed[12], uint32_t i);

/* X(value): the 16 values that a nibble of IQ4_NL and IQ4_XS stands for. */
#define DEQUANT_IQ4_VALUES(X) \
    X(-127) X(-104) X(-83) X(-65) X(-49) X(-35) X(-22) X(-10) X(1) X(13) X(25) X(38) X(53) X(69) X(89) X(113)
extern const int8_t dequant_iq4_values[16];

/* X(value): those of a nibble of MXFP4 (E2M1), doubled so that they are whole. */
#define DEQUANT_E2M1_DOUBLED(X) \
    X(0) X(1) X(2) X(3) X(4) X(6) X(8) X(12) X(0) X(-1) X(-2) X(-3) X(-4) X(-6) X(-8) X(-12)
extern const int8_t dequant_e2m1_doubled[16];

#endif

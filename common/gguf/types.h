/* SPDX-License-Identifier: Apache-2.0 */
/* types - tensor element types of GGUF and the sizes of their blocks. Layouts of the blocks are
 * described where they are read: worker/kern/ref/dequant.c. */
#ifndef KVASIR_GGUF_TYPES_H
#define KVASIR_GGUF_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* X(enumerator, id in the file, elements a block, bytes a block, name) */
#define TENSOR_TYPES(X) \
    X(TENSOR_F32, 0, 1, 4, "F32") \
    X(TENSOR_F16, 1, 1, 2, "F16") \
    X(TENSOR_Q4_0, 2, 32, 18, "Q4_0") \
    X(TENSOR_Q4_1, 3, 32, 20, "Q4_1") \
    X(TENSOR_Q5_0, 6, 32, 22, "Q5_0") \
    X(TENSOR_Q5_1, 7, 32, 24, "Q5_1") \
    X(TENSOR_Q8_0, 8, 32, 34, "Q8_0") \
    X(TENSOR_Q2_K, 10, 256, 84, "Q2_K") \
    X(TENSOR_Q3_K, 11, 256, 110, "Q3_K") \
    X(TENSOR_Q4_K, 12, 256, 144, "Q4_K") \
    X(TENSOR_Q5_K, 13, 256, 176, "Q5_K") \
    X(TENSOR_Q6_K, 14, 256, 210, "Q6_K") \
    X(TENSOR_IQ4_NL, 20, 32, 18, "IQ4_NL") \
    X(TENSOR_IQ4_XS, 23, 256, 136, "IQ4_XS") \
    X(TENSOR_BF16, 30, 1, 2, "BF16") \
    X(TENSOR_MXFP4, 39, 32, 17, "MXFP4")

enum tensor_type {
#define X(name, id, elements, bytes, text) name = id,
    TENSOR_TYPES(X)
#undef X
};

/* Facts of one type; NULL from tensor_type_info for an id this build does not know. */
struct tensor_type_info {
    const char *name;
    uint32_t block_elements;
    uint32_t block_bytes;
};

const struct tensor_type_info *tensor_type_info(uint32_t type_id);

#endif

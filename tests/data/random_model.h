/* SPDX-License-Identifier: Apache-2.0 */
/* random_model - a small llama of random weights as GGUF bytes, so that tests of steps and kernels need no
 * file. Unless another shape is asked for: 2 layers, 256 wide, 8 heads of 32 over 2 kv heads, 512 feed-forward,
 * context 512, 96 tokens, head tied, q/k/v biases. */
#ifndef KVASIR_TESTS_DATA_RANDOM_MODEL_H
#define KVASIR_TESTS_DATA_RANDOM_MODEL_H

#include <stdbool.h>

#include "common/base/buf.h"
#include "common/base/rng.h"
#include "common/gguf/types.h"
#include "tests/data/gguf_writer.h"

enum { RANDOM_MODEL_VOCAB = 96, RANDOM_MODEL_CONTEXT = 512 };

struct random_model_shape { // dims are a multiple of every block that the type has
    uint32_t layers, width, heads, heads_kv, head_dims, feed_forward, vocab;
    bool without_biases;    // of q, k and v
    bool with_other_biases; // of the other matrices of a layer
};

/* Matrices of the given type, norms and biases F32. out is initialized here; buf_done frees. Aborts without
 * memory. */
void random_model_make(enum tensor_type type, uint64_t seed, struct buf *out);
void random_model_make_shaped(const struct random_model_shape *shape, enum tensor_type type, uint64_t seed,
                              struct buf *out);

/* The two halves of it, for who writes a model larger than memory: keys and tensors into the writer (no
 * vocabulary), then the bytes of one tensor, or of a part of it of whole blocks. */
void random_model_describe(struct gguf_writer *writer, const struct random_model_shape *shape,
                           enum tensor_type type);
void random_model_fill(struct rng *rng, const char *name, enum tensor_type type, uint8_t *data, size_t bytes);

/* X(type): every type that this can make. */
#define RANDOM_MODEL_TYPES(X) \
    X(TENSOR_F32) \
    X(TENSOR_F16) \
    X(TENSOR_BF16) \
    X(TENSOR_Q4_0) \
    X(TENSOR_Q4_1) \
    X(TENSOR_Q5_0) \
    X(TENSOR_Q5_1) \
    X(TENSOR_Q8_0) \
    X(TENSOR_Q2_K) \
    X(TENSOR_Q3_K) \
    X(TENSOR_Q4_K) \
    X(TENSOR_Q5_K) \
    X(TENSOR_Q6_K) \
    X(TENSOR_IQ4_NL) \
    X(TENSOR_IQ4_XS) \
    X(TENSOR_MXFP4)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* ops - the arithmetic of a transformer over float rows, in plain C: the definition that fast kernels are
 * compared with. Pure functions on one thread; ref.c spreads them over rows and outputs.
 *
 * Every sum has one order that depends on the length alone (see ops_project), so a result does not depend
 * on how rows are grouped or on the number of threads. */
#ifndef KVASIR_KERN_REF_OPS_H
#define KVASIR_KERN_REF_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPS_HEAD_DIMS_MAX = 1024 };

/* out = x * norm / sqrt(mean(x^2) + epsilon).  x, norm, out: (count). Zhang, Sennrich 2019. */
void ops_norm(const float *x, const float *norm, uint32_t count, float epsilon, float *out);

/* Product of every row of x with every row of w.
 * x: (x_rows, cols), stride in floats; w: (w_rows, cols) dense; out: (x_rows, w_rows), stride in floats.
 * bias: (w_rows) or NULL. add: out += instead of =.
 * Order of each dot product: eight partial sums, k to sum k % 8, over the whole eights; then
 * ((s0+s4) + (s2+s6)) + ((s1+s5) + (s3+s7)); then the sum of the remaining products in order; then bias. */
struct ops_product {
    const float *x, *w, *bias;
    size_t x_stride, out_stride;
    uint32_t x_rows, w_rows, cols;
    bool add;
    float *out;
};
void ops_project(const struct ops_product *product);

/* Rotation of one head by the angles of its position (Su et al. 2021). */
struct ops_rotation {
    uint32_t dims; // rotated; even
    bool adjacent; // pairs (2i, 2i+1), else (i, i + dims/2)
    float cosines[OPS_HEAD_DIMS_MAX / 2], sines[OPS_HEAD_DIMS_MAX / 2]; // (dims/2)
};
/* angles: (dims/2) at position 1. The angle is the float product position * angle, as the models' training
 * code computes it. */
void ops_rotation_at(const float *angles, uint32_t dims, bool adjacent, uint32_t position,
                     struct ops_rotation *ret_rotation);
void ops_rotate(const struct ops_rotation *rotation, float *head); // (head_dims), in place

/* out = softmax(scale * query . keys) . values, keys in order. softcap > 0: of softcap * tanh(score / softcap). sink:
 * one more logit, of a key without a value, or NULL. */
struct ops_attention {
    const float *query;         // (head_dims)
    const float *keys, *values; // (key_count, head_dims)
    uint32_t key_count;         // > 0
    uint32_t head_dims;
    float scale;
    float softcap; // 0: none
    const float *sink;
    float *out; // (head_dims)
};
void ops_attend(const struct ops_attention *attention);

/* out = silu(gate) * up, silu(g) = g / (1 + exp(-g)).  (count) each. */
void ops_silu_times(const float *gate, const float *up, uint32_t count, float *out);

#endif

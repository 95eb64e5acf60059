/* SPDX-License-Identifier: Apache-2.0 */
/* kv - the page types, in plain C: how the key and the value of one token lie in a page (kern.h draws it) and
 * what a type keeps of them. */
#ifndef KVASIR_KERN_REF_KV_H
#define KVASIR_KERN_REF_KV_H

#include "worker/kern/kern.h"

enum { KV_DIMS_MAX = 1024 };

enum kv_plane { KV_K, KV_V };

struct kv_head { // one layer and KV head of one page
    uint8_t *base;
    enum kern_kv type;
    uint32_t dims; // at most KV_DIMS_MAX
    uint32_t tokens;
};

/* x, ret_x: (dims). What get returns is the nearest that the type has to what was put. */
void kv_put(const struct kv_head *head, enum kv_plane plane, uint32_t slot, const float *x);
void kv_get(const struct kv_head *head, enum kv_plane plane, uint32_t slot, float *ret_x);

/* The rotation of q4: the orthonormal Hadamard matrix of the largest power of two that divides dims, on each run of
 * as many elements. Its own inverse. (Walsh-Hadamard transform; rotating before quantizing: QuaRot, Ashkboos et
 * al. 2024.) */
void kv_hadamard(float *x, uint32_t dims);

#endif

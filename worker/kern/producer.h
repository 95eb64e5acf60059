/* SPDX-License-Identifier: Apache-2.0 */
/* producer - which bits a machine's kernels give, as a hash of what they do. */
#ifndef KVASIR_KERN_PRODUCER_H
#define KVASIR_KERN_PRODUCER_H

#include "worker/kern/kern.h"

/* What of a model decides which of a machine's ways of computing are taken. */
struct kern_probe {
    uint32_t kv_type, head_dims;
    struct kern_rope rope; // position_max is not looked at
    float attention_scale, rms_epsilon;
    const uint32_t *types; // (type_count) of its weights: those that dequant.h has, each once
    uint32_t type_count;
};

/* A hash, not 0, of the bits that these ops give for such a model: pages of two machines, or of two builds, may be read
 * by each other when it is equal. Takes a few milliseconds of one thread. Errors are those of the ops. */
int kern_producer(const struct kern_ops *ops, const struct kern_probe *like, uint64_t *ret_producer,
                  struct err *err);

#endif

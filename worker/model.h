/* SPDX-License-Identifier: Apache-2.0 */
/* model - a bound model: the weights of one file on one machine, and its forward pass as a list of ops. */
#ifndef KVASIR_WORKER_MODEL_H
#define KVASIR_WORKER_MODEL_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/facts.h"
#include "common/gguf/gguf.h"
#include "common/gguf/shard.h"
#include "worker/dist.h"
#include "worker/kern/kern.h"

struct model; // owns kern, weights and activations

struct model_conf {
    const struct kern_ops *ops;
    uint32_t threads;
    bool pin_threads;
    uint32_t rows_max;   // rows of a step
    uint32_t logits_max; // rows of a step that need logits
    uint32_t position_max;
    struct kern_cache cache; // of this rank's KV heads
    struct dist *dist;       // borrowed until close: the group that computes the model; NULL: alone
    struct kern_store store; // of model_measure's bytes; {NULL}: packed weights in the model's own memory
    void (*progress)(void *arg, uint32_t permille); // called while weights are packed; may be NULL
    void *progress_arg;
};

/* What the packed weights of a file are on a machine: bytes, and a hash of everything that the packed bytes
 * depend on but the file's content: kernels, their packing, tensors, order, what of them is the shard's (NULL: all).
 * -> 0 with *ret_bytes 0 when this machine keeps weights in no kern_store; errors as of model_open. */
int model_measure(const struct gguf *gguf, const struct model_facts *facts, const struct shard *shard,
                  const struct kern_ops *ops, uint64_t *ret_bytes, struct hash128 *ret_content,
                  struct err *err);

/* Binds: finds every tensor the architecture needs, verifies names, shapes and types (ERR_FORMAT names the
 * tensor), packs. gguf is borrowed until return. */
int model_open(const struct gguf *gguf, const struct model_facts *facts, const struct model_conf *conf,
               struct model **ret_model, struct err *err);
void model_close(struct model *model); // NULL is fine

/* Here lie the packed weights of another rank of this host (bytes of model_mate_bytes, its store when filled,
 * borrowed until close): from now on we take pieces of its outputs when ours are done. local: not we, below
 * dist_local_count. Bytes 0: this machine cannot. */
uint64_t model_mate_bytes(const struct model *model, uint32_t local);
void model_mate_attach(struct model *model, uint32_t local, const void *base);

/* Runs one step. logit_rows: (logit_count) row numbers of the batch, ascending. *ret_logits: (logit_count,
 * vocab_count) floats, valid until the next call. Row results are independent of the rest of the batch. All ranks of a
 * group call it with the same; then err may also be what their dist's look said. */
int model_forward(struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                  uint32_t logit_count, const float **ret_logits, struct err *err);

/* For sampling and checksums on the machine's threads: see kern_ops.parallel. */
void model_parallel(struct model *model, void (*fn)(void *arg, uint32_t piece), void *arg,
                    uint32_t piece_count);
/* A hash of the bits that this build and machine give for such a model, not 0: kern_producer. */
uint64_t model_producer(const struct model *model);
uint64_t model_weight_bytes(const struct model *model);

#endif

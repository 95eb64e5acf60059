/* SPDX-License-Identifier: Apache-2.0 */
/* model_arch - inside of a model, shared by model.c and the architectures, one model_<arch>.c each.
 *
 * An architecture is three functions over these fields: angles of its rope, binding of its tensors, and
 * its forward pass as a list of ops. A new one adds its file, its row in model.c, its row of facts in
 * common/gguf/facts.c, and fields here where it has weights that no other has. */
#ifndef KVASIR_WORKER_MODEL_ARCH_H
#define KVASIR_WORKER_MODEL_ARCH_H

#include "worker/bind.h"
#include "worker/model.h"

/* A rank's matrices are its outputs of the file's (common/gguf/shard.h). */
struct model_layer { // biases are NULL where the file has none
    struct kern_vector *attention_norm;
    struct kern_weight *qkv; // outputs q, k, v
    struct kern_vector *qkv_bias;
    struct kern_weight *attention_out;
    struct kern_vector *attention_out_bias;
    struct kern_vector *ffn_norm;
    struct kern_weight *gate_up;
    struct kern_vector *gate_bias, *up_bias;
    struct kern_weight *down;
    struct kern_vector *down_bias;
};

struct model {
    const struct model_arch *arch;
    const struct kern_ops *ops;
    struct kern *kern; // owned, with everything below that the kern made
    struct model_facts facts;
    struct dist *dist; // NULL: alone
    struct shard shard;
    struct kern_steal steal; // among the ranks of this host, lent to kern; of one alone not used
    uint32_t *own_tokens;    // owned; (rows_max): of a step, UINT32_MAX for those of another rank
    uint16_t *owners;        // owned; (rows_max): ranks of them
    struct kern_cache cache;
    uint32_t rows_max, logits_max, position_max;
    uint64_t producer; // see model.h

    float *angles; // owned; (rope_dims / 2), lent to kern
    struct kern_weight *embedding;
    struct kern_weight *head; // == embedding where tied
    struct kern_vector *output_norm;
    struct model_layer *layers; // owned; (layer_count)

    /* Activations of a step, one row a token. */
    struct kern_rows *x;         // (rows_max, embedding_dims) residual stream
    struct kern_rows *qkv;       // (rows_max, (head_count + 2 head_count_kv) * head_dims), of our heads
    struct kern_rows *attention; // (rows_max, head_count * head_dims)
    struct kern_rows *ffn;       // (rows_max, feed_forward_dims)
    struct kern_rows *logits;    // (logits_max, vocab_count)
};

struct model_arch {
    const char *name; // general.architecture
    /* ret_angles: (rope_dims / 2) angle of each pair at position 1. */
    int (*angles)(struct bind *bind, const struct model_facts *facts, float *ret_angles, struct err *err);
    /* Fills embedding, head, output_norm and layers. */
    int (*bind)(struct bind *bind, struct model *model, struct err *err);
    /* Queues the ops of one verified step; logits only when logit_count > 0. Negative: of a gather. */
    int (*forward)(struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                   uint32_t logit_count);
};

extern const struct model_arch model_arch_llama;

/* model.c: a model without kern, to be bound. */
int model_new(const struct model_facts *facts, const struct shard *shard, const struct kern_ops *ops,
              struct model **ret_model, struct err *err);

/* model_mates.c: whether the ranks of this host take pieces of each other's outputs, and how; and the weights of the
 * others, once all of ours are bound. */
const struct kern_steal *model_steal(struct model *model);
int model_join_mates(struct model *model, const struct gguf *gguf, struct err *err);

/* model_ranks.c: the rows of a step; x = embedding of all tokens; and what stands between an op that writes to rows
 * and one that reads all of their columns. 0, or the negative code of dist. */
int model_make_rows(struct model *model, struct err *err);
int model_embed(struct model *model, const struct kern_batch *batch);
int model_gather(struct model *model, const struct kern_rows *rows, const struct shard_cut *cut,
                 uint32_t row_count);

#endif

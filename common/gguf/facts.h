/* SPDX-License-Identifier: Apache-2.0 */
/* facts - what the daemon and the workers must know of a model before any weight is read: its shape,
 * context, rope, and so the geometry of its KV pages. A row of facts per architecture. */
#ifndef KVASIR_GGUF_FACTS_H
#define KVASIR_GGUF_FACTS_H

#include <stdint.h>

#include "common/gguf/gguf.h"

enum rope_order {
    ROPE_ADJACENT, // pairs (2i, 2i+1): the `llama` architecture ("NORM")
    ROPE_HALVES,   // pairs (i, i + rope_dims/2): NEOX
};

struct model_facts {
    char architecture[32];   // general.architecture, e.g. "llama"
    char name[64];           // general.name, "" when absent; printable UTF-8 only
    uint32_t vocab_count;    // rows of token_embd
    uint32_t context_length; // tokens the model was trained for
    uint32_t layer_count;
    uint32_t embedding_dims; // hidden size
    uint32_t feed_forward_dims;
    uint32_t head_count;    // query heads
    uint32_t head_count_kv; // divides head_count
    uint32_t head_dims;     // of keys and values; even
    float rms_epsilon;
    float attention_scale; // multiplies q.k; 1/sqrt(head_dims) unless the file says otherwise
    enum rope_order rope_order;
    uint32_t rope_dims; // even, <= head_dims
    float rope_base;
    float rope_scale;         // multiplies the angle: 1/factor for linear scaling, else 1
    uint64_t parameter_count; // sum of tensor elements
    uint64_t weight_bytes;    // sum of tensor bytes
};

/* Reads and verifies the facts. ERR_UNSUPPORTED names an architecture, rope scaling or feature that
 * this build does not run (never silently ignored); ERR_FORMAT names the key and why it is wrong. */
int model_facts_read(const struct gguf *gguf, struct model_facts *ret_facts, struct err *err);

#endif

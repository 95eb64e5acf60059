/* SPDX-License-Identifier: Apache-2.0 */
/* model_rig - a model of a file with private pages, for tests and check programs: what a worker sets up
 * from a plan, without the worker. */
#ifndef KVASIR_TESTS_MODEL_RIG_H
#define KVASIR_TESTS_MODEL_RIG_H

#include "common/gguf/file.h"
#include "worker/model.h"

struct model_rig {
    struct gguf_file file;    // owned; zeroed after model_rig_open_bytes
    struct gguf *gguf;        // owned unless it is file.gguf
    struct model_facts facts; // of gguf
    struct model *model;      // owned
    struct kern_cache cache;  // base owned
    uint32_t rows_max, logits_max;
    uint32_t *positions; // owned; (rows_max)
};

struct model_rig_conf {
    const struct kern_ops *ops;
    uint32_t threads;
    uint32_t rows_max, logits_max, position_max;
    uint32_t page_count;
    uint32_t page_tokens; // 0: PAGE_TOKENS
    enum kern_kv kv_type;
    struct kern_store store; // {NULL}: none
    struct dist *dist;       // NULL: alone
};

/* The file at path, or bytes that the caller keeps until close. */
int model_rig_open(const char *path, const struct model_rig_conf *conf, struct model_rig *ret_rig,
                   struct err *err);
int model_rig_open_bytes(const uint8_t *bytes, size_t size, const struct model_rig_conf *conf,
                         struct model_rig *ret_rig, struct err *err);
void model_rig_close(struct model_rig *rig); // a zeroed struct is fine

/* One step of one sequence: tokens (count) at pos_first.. in the pages given. Logits of the last
 * logit_count rows. */
int model_rig_step(struct model_rig *rig, const uint32_t *tokens, uint32_t count, uint32_t pos_first,
                   const uint32_t *pages, uint32_t page_count, uint32_t logit_count, const float **ret_logits,
                   struct err *err);

/* log(sum(exp(logits))) in double, and the lowest index of the largest. */
double model_rig_log_sum(const float *logits, uint32_t count);
uint32_t model_rig_argmax(const float *logits, uint32_t count);

/* KL divergence of the softmax of `logits` from that of `reference`, in nats. */
double model_rig_divergence(const float *reference, const float *logits, uint32_t count);

/* out = $KVASIR_VECTORS/name, or ../shared/vectors/name from the project's root. 0, or -ENOENT when there
 * is no such file. */
int model_rig_vector_path(const char *name, size_t out_bytes, char *out);

/* The whole file as a NUL-terminated text; free() it. NULL when it cannot be read. */
char *model_rig_read_text(const char *path, size_t *ret_len);

#endif

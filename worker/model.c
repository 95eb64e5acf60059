/* SPDX-License-Identifier: Apache-2.0 */
/* model - see model.h: opening, the table of architectures, and the checks around a step. */
#include "worker/model.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/shm/layout.h"
#include "worker/bind.h"
#include "worker/kern/producer.h"
#include "worker/kern/ref/dequant.h"
#include "worker/model_arch.h"

enum { TYPES_MAX = 64 }; // ids of the file are below it

static_assert((int)KERN_KV_F16 == (int)KV_F16 && (int)KERN_KV_BF16 == (int)KV_BF16 &&
                  (int)KERN_KV_Q8 == (int)KV_Q8 && (int)KERN_KV_Q4 == (int)KV_Q4 &&
                  (int)KERN_KV_F32 == (int)KV_F32,
              "one numbering of page types");

static const struct model_arch *const archs[] = {
    &model_arch_llama,
};

static const struct model_arch *find_arch(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(archs); i++) {
        if (strcmp(archs[i]->name, name) == 0) return archs[i];
    }
    return NULL;
}

static int open_kern(struct model *model, const struct model_conf *conf, struct err *err)
{
    const struct model_facts *facts = &model->facts;
    const struct kern_conf kern_conf = {
        .threads = conf->threads,
        .pin_threads = conf->pin_threads,
        .rows_max = conf->rows_max,
        .cache = conf->cache,
        .rope = {.adjacent = facts->rope_order == ROPE_ADJACENT,
                 .dims = facts->rope_dims,
                 .angles = model->angles,
                 .position_max = conf->position_max},
        .head_count = model->shard.head_count,
        .head_count_kv = model->shard.kv_count,
        .head_dims = facts->head_dims,
        .attention_scale = facts->attention_scale,
        .rms_epsilon = facts->rms_epsilon,
        .store = conf->store,
        .steal = model_steal(model),
    };
    return conf->ops->open(&kern_conf, &model->kern, err);
}

/* Of the types of weights only those that the file has: another's kernels may change. */
static int find_producer(struct model *model, const struct gguf *gguf, const struct model_conf *conf,
                         struct err *err)
{
    uint32_t types[TYPES_MAX], type_count = 0;
    uint64_t seen = 0;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        uint32_t type = gguf_tensor_at(gguf, i)->type;
        if (type >= TYPES_MAX || (seen >> type & 1) != 0 || !dequant_find(type)) continue;
        seen |= UINT64_C(1) << type;
        types[type_count++] = type;
    }
    const struct kern_probe like = {
        .kv_type = conf->cache.kv_type,
        .head_dims = model->facts.head_dims,
        .rope = {.adjacent = model->facts.rope_order == ROPE_ADJACENT,
                 .dims = model->facts.rope_dims,
                 .angles = model->angles},
        .attention_scale = model->facts.attention_scale,
        .rms_epsilon = model->facts.rms_epsilon,
        .types = types,
        .type_count = type_count,
    };
    return kern_producer(model->ops, &like, &model->producer, err);
}

/* The caller derives these from the same facts; a difference is a mistake in the house, not in a file. */
static void check_conf(const struct model_facts *facts, const struct shard *shard,
                       const struct model_conf *conf)
{
    CHECK(conf->threads > 0);
    CHECK(conf->rows_max > 0);
    CHECK(conf->logits_max > 0);
    CHECK(conf->logits_max <= conf->rows_max);
    CHECK(conf->position_max > 0);
    CHECK(conf->cache.base);
    CHECK(conf->cache.page_tokens > 0);
    CHECK(conf->cache.layer_count == facts->layer_count);
    CHECK(conf->cache.head_count_kv == shard->kv_count);
    CHECK(conf->cache.head_dims == facts->head_dims);
}

int model_new(const struct model_facts *facts, const struct shard *shard, const struct kern_ops *ops,
              struct model **ret_model, struct err *err)
{
    struct model *model = calloc(1, sizeof(*model));
    if (!model) return err_sys(err, ENOMEM, "model");
    model->facts = *facts;
    model->shard = *shard;
    model->ops = ops;
    model->arch = find_arch(facts->architecture);
    model->angles = calloc(facts->rope_dims / 2 + 1, sizeof(*model->angles));
    model->layers = calloc(facts->layer_count, sizeof(*model->layers));
    int r = 0;
    if (!model->angles || !model->layers)
        r = err_sys(err, ENOMEM, "model of %" PRIu32 " layers", facts->layer_count);
    else if (!model->arch)
        r = ERR(err, ERR_UNSUPPORTED, "architecture %s has no forward pass", facts->architecture);
    if (r < 0) {
        model_close(model);
        return r;
    }
    *ret_model = model;
    return 0;
}

int model_measure(const struct gguf *gguf, const struct model_facts *facts, const struct shard *shard,
                  const struct kern_ops *ops, uint64_t *ret_bytes, struct hash128 *ret_content,
                  struct err *err)
{
    struct shard whole;
    *ret_bytes = 0;
    *ret_content = (struct hash128){0};
    if (!ops->weight_measure) return 0;
    struct bind *bind = NULL;
    struct model *model;
    int r = shard ? 0 : shard_make(facts, 1, 0, &whole, err);
    if (r == 0) r = model_new(facts, shard ? shard : &whole, ops, &model, err);
    if (r < 0) return r;
    r = bind_new(gguf, NULL, NULL, &bind, err);
    if (r == 0) {
        bind_measure(bind, ops);
        r = model->arch->bind(bind, model, err);
    }
    if (r == 0) {
        const uint64_t layout = ops->weight_layout();
        bind_measured(bind, ret_bytes, ret_content);
        *ret_content = hash128_chain(*ret_content, &layout, sizeof layout);
        *ret_content = hash128_chain(*ret_content, ops->name, strlen(ops->name));
    }
    bind_free(bind);
    model_close(model);
    return r;
}

int model_open(const struct gguf *gguf, const struct model_facts *facts, const struct model_conf *conf,
               struct model **ret_model, struct err *err)
{
    struct shard shard;
    struct bind *bind = NULL;
    struct model *model;
    int r = shard_make(facts, dist_rank_count(conf->dist), dist_rank(conf->dist), &shard, err);
    if (r < 0) return r;
    check_conf(facts, &shard, conf);
    r = model_new(facts, &shard, conf->ops, &model, err);
    if (r < 0) return r;
    model->dist = conf->dist;
    model->cache = conf->cache;
    model->rows_max = conf->rows_max;
    model->logits_max = conf->logits_max;
    model->position_max = conf->position_max;
    model->own_tokens = calloc(model->rows_max, sizeof(*model->own_tokens));
    model->owners = calloc(model->rows_max, sizeof(*model->owners));
    if (!model->own_tokens || !model->owners) r = err_sys(err, ENOMEM, "model");
    if (r < 0) goto out;
    r = bind_new(gguf, conf->progress, conf->progress_arg, &bind, err);
    if (r < 0) goto out;
    r = model->arch->angles(bind, facts, model->angles, err);
    if (r < 0) goto out;
    r = find_producer(model, gguf, conf, err);
    if (r < 0) goto out;
    r = open_kern(model, conf, err);
    if (r < 0) goto out;
    bind_target(bind, model->ops, model->kern);
    r = model->arch->bind(bind, model, err);
    if (r < 0) goto out;
    r = bind_finish(bind, err);
    if (r == 0) r = model_join_mates(model, gguf, err);
    if (r < 0) goto out;
    r = model_make_rows(model, err);
    if (r < 0) goto out;
    *ret_model = model;
    model = NULL;
out:
    bind_free(bind);
    model_close(model);
    return r;
}

void model_close(struct model *model)
{
    if (!model) return;
    if (model->kern) model->ops->close(model->kern);
    free(model->own_tokens);
    free(model->owners);
    free(model->layers);
    free(model->angles);
    free(model);
}

static int verify_seq(const struct model *model, const struct kern_batch *batch, uint32_t seq_idx,
                      uint32_t row_first, struct err *err)
{
    const struct kern_seq *seq = &batch->seqs[seq_idx];
    const char *why = NULL;
    if (seq->row_first != row_first) why = "its rows do not follow those before";
    else if (seq->row_count == 0 || seq->row_count > batch->row_count - row_first) why = "row count";
    else if (seq->pos_first >= model->position_max) why = "position past the context";
    else if (seq->row_count > model->position_max - seq->pos_first) why = "rows past the context";
    else if ((seq->pos_first + seq->row_count - 1) / model->cache.page_tokens >= seq->page_count) {
        why = "page table too short";
    }
    for (uint32_t i = 0; !why && i < seq->row_count; i++) {
        if (batch->positions[row_first + i] != seq->pos_first + i) why = "positions out of order";
        else if (batch->tokens[row_first + i] >= model->facts.vocab_count) why = "token out of range";
    }
    for (uint32_t i = 0; !why && i < seq->page_count; i++) {
        if (seq->pages[i] >= model->cache.page_count) why = "page out of range";
    }
    return why ? ERR(err, ERR_INPUT, "batch: sequence %" PRIu32 ": %s", seq_idx, why) : 0;
}

/* The plan was verified before; this is the second of the pair, so that a mistake between them ends in a
 * failed step and not in memory of another process. */
static int verify_batch(const struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                        uint32_t logit_count, struct err *err)
{
    if (batch->row_count == 0 || batch->row_count > model->rows_max) {
        return ERR(err, ERR_INPUT, "batch of %" PRIu32 " rows, at most %" PRIu32, batch->row_count,
                   model->rows_max);
    }
    uint32_t row = 0;
    for (uint32_t i = 0; i < batch->seq_count; i++) {
        int r = verify_seq(model, batch, i, row, err);
        if (r < 0) return r;
        row += batch->seqs[i].row_count;
    }
    if (row != batch->row_count) return ERR(err, ERR_INPUT, "batch: rows without a sequence");
    if (logit_count > model->logits_max) {
        return ERR(err, ERR_INPUT, "batch of %" PRIu32 " logit rows, at most %" PRIu32, logit_count,
                   model->logits_max);
    }
    for (uint32_t i = 0; i < logit_count; i++) {
        if (logit_rows[i] >= batch->row_count || (i > 0 && logit_rows[i] <= logit_rows[i - 1])) {
            return ERR(err, ERR_INPUT, "batch: logit rows out of range or order");
        }
    }
    return 0;
}

int model_forward(struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                  uint32_t logit_count, const float **ret_logits, struct err *err)
{
    int r = verify_batch(model, batch, logit_rows, logit_count, err);
    if (r < 0) return r;
    r = model->arch->forward(model, batch, logit_rows, logit_count);
    if (r < 0) return ERR(err, r, "a step of the group of ranks: %s", err_name(r));
    r = model->ops->sync(model->kern, err);
    if (r < 0) return r;
    *ret_logits = model->ops->fetch(model->kern, model->logits, logit_count);
    return 0;
}

void model_parallel(struct model *model, void (*fn)(void *arg, uint32_t piece), void *arg,
                    uint32_t piece_count)
{
    model->ops->parallel(model->kern, fn, arg, piece_count);
}

uint64_t model_producer(const struct model *model)
{
    return model->producer;
}

uint64_t model_weight_bytes(const struct model *model)
{
    return model->ops->weight_bytes(model->kern);
}

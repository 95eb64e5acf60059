/* SPDX-License-Identifier: Apache-2.0 */
/* model_llama - the `llama` architecture of GGUF: Llama 1 to 3.x, Mistral 7B and Nemo, SmolLM2, TinyLlama.
 * Pre-norm RMSNorm, rope, grouped-query attention, SwiGLU; head tied to the embedding unless the file has
 * its own. Touvron et al. 2023; tensor names by the GGUF specification. */
#include <errno.h>
#include <math.h>

#include "worker/model_arch.h"

/* Float arithmetic throughout, power included, as the reference implementation (transformers) computes its
 * inverse frequencies: an error of one place here grows with the position. */
static int llama_angles(struct bind *bind, const struct model_facts *facts, float *ret_angles,
                        struct err *err)
{
    uint32_t pairs = facts->rope_dims / 2;
    int r = bind_floats(bind, BIND_GLOBAL, "rope_freqs", pairs, ret_angles, err);
    if (r < 0 && r != -ENOENT) return r;
    bool has_divisors = r == 0; // Llama 3.1 and later stretch long wavelengths by these
    for (uint32_t i = 0; i < pairs; i++) {
        float angle = 1.0f / powf(facts->rope_base, (float)(2 * i) / (float)facts->rope_dims);
        if (has_divisors) {
            if (!(ret_angles[i] > 0) || !isfinite(ret_angles[i])) {
                return ERR(err, ERR_FORMAT, "tensor rope_freqs.weight: element %u is not positive", i);
            }
            angle /= ret_angles[i];
        }
        ret_angles[i] = angle * facts->rope_scale;
    }
    return 0;
}

/* A rank's outputs of a tensor. */
static struct bind_part part_of(const char *stem, uint32_t rows, const struct shard *shard,
                                const struct shard_cut *cut)
{
    return (struct bind_part){stem, rows, shard_first(cut, shard->rank), shard_count(cut, shard->rank)};
}

static int bind_attention(struct bind *bind, struct model *model, uint32_t il, struct err *err)
{
    const struct model_facts *facts = &model->facts;
    const struct shard *shard = &model->shard;
    const uint32_t dims = facts->head_dims, q_rows = facts->head_count * dims,
                   kv_rows = facts->head_count_kv * dims;
    const uint32_t kv_first = shard->kv_first * dims, kv_count = shard->kv_count * dims;
    struct model_layer *layer = &model->layers[il];
    const struct bind_part qkv[] = {{"attn_q", q_rows, shard->head_first * dims, shard->head_count * dims},
                                    {"attn_k", kv_rows, kv_first, kv_count},
                                    {"attn_v", kv_rows, kv_first, kv_count}};
    const struct bind_part out = part_of("attn_output", facts->embedding_dims, shard, &shard->stream);
    int r = bind_vector(bind, il, "attn_norm", facts->embedding_dims, &layer->attention_norm, err);
    if (r < 0) return r;
    r = bind_weight(bind, il, qkv, 3, facts->embedding_dims, KERN_CONCAT, &layer->qkv, err);
    if (r < 0) return r;
    r = bind_bias(bind, il, qkv, 3, &layer->qkv_bias, err);
    if (r < 0) return r;
    r = bind_weight(bind, il, &out, 1, q_rows, KERN_CONCAT, &layer->attention_out, err);
    if (r < 0) return r;
    return bind_bias(bind, il, &out, 1, &layer->attention_out_bias, err);
}

static int bind_ffn(struct bind *bind, struct model *model, uint32_t il, struct err *err)
{
    const struct model_facts *facts = &model->facts;
    struct model_layer *layer = &model->layers[il];
    const struct shard *shard = &model->shard;
    const struct bind_part gate_up[] = {
        part_of("ffn_gate", facts->feed_forward_dims, shard, &shard->feed_forward),
        part_of("ffn_up", facts->feed_forward_dims, shard, &shard->feed_forward)};
    const struct bind_part down = part_of("ffn_down", facts->embedding_dims, shard, &shard->stream);
    int r = bind_vector(bind, il, "ffn_norm", facts->embedding_dims, &layer->ffn_norm, err);
    if (r < 0) return r;
    r = bind_weight(bind, il, gate_up, 2, facts->embedding_dims, KERN_GATE_UP, &layer->gate_up, err);
    if (r < 0) return r;
    r = bind_bias(bind, il, &gate_up[0], 1, &layer->gate_bias, err);
    if (r < 0) return r;
    r = bind_bias(bind, il, &gate_up[1], 1, &layer->up_bias, err);
    if (r < 0) return r;
    r = bind_weight(bind, il, &down, 1, facts->feed_forward_dims, KERN_CONCAT, &layer->down, err);
    if (r < 0) return r;
    return bind_bias(bind, il, &down, 1, &layer->down_bias, err);
}

static int llama_bind(struct bind *bind, struct model *model, struct err *err)
{
    const struct model_facts *facts = &model->facts;
    const struct shard *shard = &model->shard;
    const struct bind_part embedding = part_of("token_embd", facts->vocab_count, shard, &shard->vocab);
    const struct bind_part head = part_of("output", facts->vocab_count, shard, &shard->vocab);
    int r = bind_weight(bind, BIND_GLOBAL, &embedding, 1, facts->embedding_dims, KERN_CONCAT,
                        &model->embedding, err);
    for (uint32_t il = 0; il < facts->layer_count && r == 0; il++) {
        r = bind_attention(bind, model, il, err);
        if (r == 0) r = bind_ffn(bind, model, il, err);
    }
    if (r < 0) return r;
    r = bind_vector(bind, BIND_GLOBAL, "output_norm", facts->embedding_dims, &model->output_norm, err);
    if (r < 0) return r;
    model->head = model->embedding;
    if (!bind_has(bind, BIND_GLOBAL, "output", "weight")) return 0;
    return bind_weight(bind, BIND_GLOBAL, &head, 1, facts->embedding_dims, KERN_CONCAT, &model->head, err);
}

static int llama_layer(struct model *model, const struct kern_batch *batch, uint32_t il)
{
    const struct kern_ops *ops = model->ops;
    const struct model_layer *layer = &model->layers[il];
    const struct shard *shard = &model->shard;
    struct kern *kern = model->kern;
    const uint32_t rows = batch->row_count;
    ops->norm_project(kern, model->x, layer->attention_norm, layer->qkv, layer->qkv_bias, rows, model->qkv);
    ops->attend(kern, il, NULL, model->qkv, batch, model->attention);
    int r = model_gather(model, model->attention, &shard->attention, rows);
    if (r < 0) return r;
    ops->project_add(kern, model->attention, layer->attention_out, layer->attention_out_bias, rows, model->x);
    r = model_gather(model, model->x, &shard->stream, rows);
    if (r < 0) return r;
    ops->norm_gate_up(kern, model->x, layer->ffn_norm, layer->gate_up, layer->gate_bias, layer->up_bias, rows,
                      model->ffn);
    r = model_gather(model, model->ffn, &shard->feed_forward, rows);
    if (r < 0) return r;
    ops->project_add(kern, model->ffn, layer->down, layer->down_bias, rows, model->x);
    return model_gather(model, model->x, &shard->stream, rows);
}

static int llama_forward(struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                         uint32_t logit_count)
{
    int r = model_embed(model, batch);
    for (uint32_t il = 0; il < model->facts.layer_count && r == 0; il++) r = llama_layer(model, batch, il);
    if (r < 0 || logit_count == 0) return r;
    model->ops->norm_head(model->kern, model->x, logit_rows, logit_count, model->output_norm, model->head,
                          model->logits);
    return model_gather(model, model->logits, &model->shard.vocab, logit_count);
}

const struct model_arch model_arch_llama = {
    .name = "llama",
    .angles = llama_angles,
    .bind = llama_bind,
    .forward = llama_forward,
};

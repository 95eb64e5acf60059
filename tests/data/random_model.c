/* SPDX-License-Identifier: Apache-2.0 */
/* random_model - see random_model.h. Blocks are random bits with scales set so that weights are about as
 * large as 1 / sqrt(width). */
#include "tests/data/random_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "tests/data/gguf_writer.h"
#include "worker/kern/ref/half.h"

static const struct random_model_shape default_shape = {.layers = 2,
                                                        .width = 256,
                                                        .heads = 8,
                                                        .heads_kv = 2,
                                                        .head_dims = 32,
                                                        .feed_forward = 512,
                                                        .vocab = RANDOM_MODEL_VOCAB};

/* Where a block keeps its scale and its min or offset (f16), and what to put there. */
static const struct block_scales {
    enum tensor_type type;
    int scale_at, min_at; // -1: none
    float scale, min;
} block_scales[] = {
    {TENSOR_Q4_0, 0, -1, 0.0125f, 0},      {TENSOR_Q4_1, 0, 2, 0.0125f, -0.1f},
    {TENSOR_Q5_0, 0, -1, 0.006f, 0},       {TENSOR_Q5_1, 0, 2, 0.006f, -0.1f},
    {TENSOR_Q8_0, 0, -1, 0.0008f, 0},      {TENSOR_Q4_K, 0, 2, 0.0004f, 0.003f},
    {TENSOR_Q5_K, 0, 2, 0.0002f, 0.003f},  {TENSOR_Q6_K, 208, -1, 0.00005f, 0},
    {TENSOR_Q2_K, 80, 82, 0.006f, 0.008f}, {TENSOR_Q3_K, 108, -1, 0.0015f, 0},
    {TENSOR_IQ4_NL, 0, -1, 0.0015f, 0},    {TENSOR_IQ4_XS, 0, -1, 0.00008f, 0},
    {TENSOR_MXFP4, -1, -1, 0, 0},
};

static float random_float(struct rng *rng, float limit)
{
    return ((float)rng_below(rng, 20001) / 10000.0f - 1.0f) * limit;
}

static void put_half(uint8_t *bytes, float value)
{
    uint16_t half = half_f16_of_f32(value);
    memcpy(bytes, &half, sizeof(half));
}

static void fill_blocks(struct rng *rng, const struct block_scales *scales, uint8_t *data, size_t bytes)
{
    uint32_t block_bytes = tensor_type_info(scales->type)->block_bytes;
    for (size_t at = 0; at < bytes; at++) data[at] = (uint8_t)rng_next(rng);
    for (size_t at = 0; at < bytes; at += block_bytes) {
        float spread = 0.75f + random_float(rng, 0.25f);
        if (scales->type == TENSOR_MXFP4) data[at] = 121; // 2^(121 - 127) * E2M1
        if (scales->scale_at >= 0) put_half(data + at + scales->scale_at, scales->scale * spread);
        if (scales->min_at >= 0) put_half(data + at + scales->min_at, scales->min * spread);
    }
}

/* Weights in [-limit, limit] around center. */
static void fill(struct rng *rng, enum tensor_type type, float center, float limit, uint8_t *data,
                 size_t bytes)
{
    for (size_t i = 0; i < COUNT_OF(block_scales); i++) {
        if (block_scales[i].type != type) continue;
        fill_blocks(rng, &block_scales[i], data, bytes);
        return;
    }
    size_t element_bytes = type == TENSOR_F32 ? 4 : 2;
    for (size_t at = 0; at < bytes; at += element_bytes) {
        float value = center + random_float(rng, limit);
        uint16_t bf16 = half_bf16_of_f32(value);
        if (type == TENSOR_F32) memcpy(data + at, &value, sizeof(value));
        else if (type == TENSOR_BF16) memcpy(data + at, &bf16, sizeof(bf16));
        else put_half(data + at, value);
    }
}

static void add(struct gguf_writer *writer, const char *stem, int layer, enum tensor_type type, uint64_t rows,
                uint64_t cols)
{
    char name[64];
    if (layer < 0) (void)snprintf(name, sizeof(name), "%s", stem);
    else (void)snprintf(name, sizeof(name), "blk.%d.%s", layer, stem);
    const uint64_t dims[2] = {cols, rows};
    (void)writer_add_tensor(writer, name, type, rows > 1 ? 2 : 1, dims);
}

void random_model_describe(struct gguf_writer *writer, const struct random_model_shape *shape,
                           enum tensor_type type)
{
    const uint32_t width = shape->width, wide = shape->feed_forward;
    const uint32_t q = shape->heads * shape->head_dims, kv = shape->heads_kv * shape->head_dims;
    writer_set_string(writer, "general.architecture", "llama");
    writer_set_u32(writer, "llama.block_count", shape->layers);
    writer_set_u32(writer, "llama.context_length", RANDOM_MODEL_CONTEXT);
    writer_set_u32(writer, "llama.embedding_length", width);
    writer_set_u32(writer, "llama.feed_forward_length", wide);
    writer_set_u32(writer, "llama.attention.head_count", shape->heads);
    writer_set_u32(writer, "llama.attention.head_count_kv", shape->heads_kv);
    writer_set_u32(writer, "llama.attention.key_length", shape->head_dims);
    writer_set_u32(writer, "llama.attention.value_length", shape->head_dims);
    writer_set_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add(writer, "token_embd.weight", -1, type, shape->vocab, width);
    add(writer, "output_norm.weight", -1, TENSOR_F32, 1, width);
    for (int layer = 0; layer < (int)shape->layers; layer++) {
        add(writer, "attn_norm.weight", layer, TENSOR_F32, 1, width);
        add(writer, "attn_q.weight", layer, type, q, width);
        add(writer, "attn_k.weight", layer, type, kv, width);
        add(writer, "attn_v.weight", layer, type, kv, width);
        if (!shape->without_biases) {
            add(writer, "attn_q.bias", layer, TENSOR_F32, 1, q);
            add(writer, "attn_k.bias", layer, TENSOR_F32, 1, kv);
            add(writer, "attn_v.bias", layer, TENSOR_F32, 1, kv);
        }
        add(writer, "attn_output.weight", layer, type, width, q);
        add(writer, "ffn_norm.weight", layer, TENSOR_F32, 1, width);
        add(writer, "ffn_gate.weight", layer, type, wide, width);
        add(writer, "ffn_up.weight", layer, type, wide, width);
        add(writer, "ffn_down.weight", layer, type, width, wide);
        if (!shape->with_other_biases) continue;
        add(writer, "attn_output.bias", layer, TENSOR_F32, 1, width);
        add(writer, "ffn_gate.bias", layer, TENSOR_F32, 1, wide);
        add(writer, "ffn_up.bias", layer, TENSOR_F32, 1, wide);
        add(writer, "ffn_down.bias", layer, TENSOR_F32, 1, width);
    }
}

void random_model_fill(struct rng *rng, const char *name, enum tensor_type type, uint8_t *data, size_t bytes)
{
    fill(rng, type, strstr(name, "norm") != NULL ? 1.0f : 0.0f, 0.1f, data, bytes);
}

void random_model_make(enum tensor_type type, uint64_t seed, struct buf *out)
{
    random_model_make_shaped(&default_shape, type, seed, out);
}

void random_model_make_shaped(const struct random_model_shape *shape, enum tensor_type type, uint64_t seed,
                              struct buf *out)
{
    static struct gguf_writer writer;
    struct rng rng = {.state = seed};
    struct gguf *gguf;
    writer_init(&writer);
    random_model_describe(&writer, shape, type);
    writer_finish(&writer, out);
    writer_done(&writer);
    CHECK(gguf_parse(out->bytes, out->len, &gguf, NULL) == 0);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        char name[64]; // of add()
        (void)snprintf(name, sizeof(name), "%.*s", (int)tensor->name.len, tensor->name.bytes);
        random_model_fill(&rng, name, tensor->type,
                          (uint8_t *)(uintptr_t)tensor->data, // bytes of our own buf
                          tensor->data_bytes);
    }
    gguf_free(gguf);
}

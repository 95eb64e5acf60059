/* SPDX-License-Identifier: Apache-2.0 */
/* See gguf_writer.h. */
#include "tests/data/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"

static void put(struct buf *buf, const void *bytes, size_t len)
{
    if (buf_append(buf, bytes, len) < 0) abort();
}

static void put_u32(struct buf *buf, uint32_t value)
{
    put(buf, &value, sizeof value);
}

static void put_u64(struct buf *buf, uint64_t value)
{
    put(buf, &value, sizeof value);
}

static void put_string(struct buf *buf, const void *bytes, size_t len)
{
    put_u64(buf, len);
    put(buf, bytes, len);
}

static bool name_is(const struct buf *name, const char *text)
{
    return strcmp(buf_text(name), text) == 0;
}

void writer_init(struct gguf_writer *writer)
{
    *writer = (struct gguf_writer){.magic = {'G', 'G', 'U', 'F'}, .version = 3, .alignment = 32};
}

static void key_done(struct writer_key *key)
{
    buf_done(&key->name);
    buf_done(&key->payload);
}

void writer_done(struct gguf_writer *writer)
{
    for (size_t i = 0; i < writer->key_count; i++) key_done(&writer->keys[i]);
    for (size_t i = 0; i < writer->tensor_count; i++) buf_done(&writer->tensors[i].name);
    writer->key_count = writer->tensor_count = 0;
}

/* ---- keys ---- */

struct writer_key *writer_find_key(struct gguf_writer *writer, const char *name)
{
    for (size_t i = 0; i < writer->key_count; i++) {
        if (name_is(&writer->keys[i].name, name)) return &writer->keys[i];
    }
    return NULL;
}

struct writer_key *writer_add_key(struct gguf_writer *writer, const char *name, uint32_t type,
                                  const void *payload, size_t payload_bytes)
{
    CHECK(writer->key_count < WRITER_KEYS_MAX);
    struct writer_key *key = &writer->keys[writer->key_count++];
    key->type = type;
    buf_init(&key->name, MIB(1));
    buf_init(&key->payload, MIB(64));
    put(&key->name, name, strlen(name));
    put(&key->payload, payload, payload_bytes);
    return key;
}

void writer_set_raw(struct gguf_writer *writer, const char *name, uint32_t type, const void *payload,
                    size_t payload_bytes)
{
    struct writer_key *key = writer_find_key(writer, name);
    if (!key) {
        (void)writer_add_key(writer, name, type, payload, payload_bytes); // found again by its name
        return;
    }
    key->type = type;
    buf_clear(&key->payload);
    put(&key->payload, payload, payload_bytes);
}

void writer_set_u32(struct gguf_writer *writer, const char *name, uint32_t value)
{
    writer_set_raw(writer, name, GGUF_U32, &value, sizeof value);
}

void writer_set_i32(struct gguf_writer *writer, const char *name, int32_t value)
{
    writer_set_raw(writer, name, GGUF_I32, &value, sizeof value);
}

void writer_set_u64(struct gguf_writer *writer, const char *name, uint64_t value)
{
    writer_set_raw(writer, name, GGUF_U64, &value, sizeof value);
}

void writer_set_f32(struct gguf_writer *writer, const char *name, float value)
{
    writer_set_raw(writer, name, GGUF_F32, &value, sizeof value);
}

void writer_set_bool(struct gguf_writer *writer, const char *name, uint8_t value)
{
    writer_set_raw(writer, name, GGUF_BOOL, &value, sizeof value);
}

void writer_set_string(struct gguf_writer *writer, const char *name, const char *value)
{
    struct buf payload;
    buf_init(&payload, MIB(64));
    put_string(&payload, value, strlen(value));
    writer_set_raw(writer, name, GGUF_STRING, payload.bytes, payload.len);
    buf_done(&payload);
}

void writer_set_array(struct gguf_writer *writer, const char *name, uint32_t element_type, uint64_t count,
                      const void *elements, size_t bytes)
{
    struct buf payload;
    buf_init(&payload, MIB(64));
    put_u32(&payload, element_type);
    put_u64(&payload, count);
    put(&payload, elements, bytes);
    writer_set_raw(writer, name, GGUF_ARRAY, payload.bytes, payload.len);
    buf_done(&payload);
}

void writer_set_strings(struct gguf_writer *writer, const char *name, size_t count,
                        const char *const *strings)
{
    struct buf elements;
    buf_init(&elements, MIB(64));
    for (size_t i = 0; i < count; i++) put_string(&elements, strings[i], strlen(strings[i]));
    writer_set_array(writer, name, GGUF_STRING, count, buf_text(&elements), elements.len);
    buf_done(&elements);
}

void writer_remove_key(struct gguf_writer *writer, const char *name)
{
    struct writer_key *key = writer_find_key(writer, name);
    CHECK(key != NULL);
    key_done(key);
    size_t after = (size_t)(writer->keys + writer->key_count - (key + 1));
    memmove(key, key + 1, after * sizeof *key);
    writer->key_count--;
}

/* ---- tensors ---- */

struct writer_tensor *writer_add_tensor(struct gguf_writer *writer, const char *name, enum tensor_type type,
                                        uint32_t dim_count, const uint64_t *dims)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    CHECK(writer->tensor_count < WRITER_TENSORS_MAX);
    CHECK(info != NULL);
    CHECK(dim_count <= WRITER_DIMS_MAX);
    struct writer_tensor *tensor = &writer->tensors[writer->tensor_count++];
    *tensor = (struct writer_tensor){.type_id = type, .dim_count = dim_count};
    buf_init(&tensor->name, MIB(1));
    put(&tensor->name, name, strlen(name));
    uint64_t elements = 1;
    for (uint32_t i = 0; i < dim_count; i++) elements *= tensor->dims[i] = dims[i];
    tensor->data_bytes = elements / info->block_elements * info->block_bytes;
    tensor->offset = (writer->data_bytes + writer->alignment - 1) / writer->alignment * writer->alignment;
    writer->data_bytes = tensor->offset + tensor->data_bytes;
    return tensor;
}

struct writer_tensor *writer_find_tensor(struct gguf_writer *writer, const char *name)
{
    for (size_t i = 0; i < writer->tensor_count; i++) {
        if (name_is(&writer->tensors[i].name, name)) return &writer->tensors[i];
    }
    return NULL;
}

void writer_remove_tensor(struct gguf_writer *writer, const char *name)
{
    struct writer_tensor *tensor = writer_find_tensor(writer, name);
    CHECK(tensor != NULL);
    buf_done(&tensor->name);
    size_t after = (size_t)(writer->tensors + writer->tensor_count - (tensor + 1));
    memmove(tensor, tensor + 1, after * sizeof *tensor);
    writer->tensor_count--;
}

/* ---- whole files ---- */

static void add_llama_keys(struct gguf_writer *writer)
{
    static const char *const tokens[] = {"a", "b", "c", "ab", "abc", "<unk>", "<s>", "</s>"};
    static const char *const merges[] = {"a b", "ab c"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 2, 3, 3}; // normal, unknown, control
    writer_set_string(writer, "general.architecture", "llama");
    writer_set_string(writer, "general.name", "Small test model");
    writer_set_u32(writer, "llama.context_length", 64);
    writer_set_u32(writer, "llama.embedding_length", 32);
    writer_set_u32(writer, "llama.block_count", 1);
    writer_set_u32(writer, "llama.feed_forward_length", 48);
    writer_set_u32(writer, "llama.attention.head_count", 4);
    writer_set_u32(writer, "llama.attention.head_count_kv", 2);
    writer_set_u32(writer, "llama.rope.dimension_count", 8);
    writer_set_f32(writer, "llama.rope.freq_base", 10000.0f);
    writer_set_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    writer_set_string(writer, "tokenizer.ggml.model", "gpt2");
    writer_set_string(writer, "tokenizer.ggml.pre", "gpt-2");
    writer_set_strings(writer, "tokenizer.ggml.tokens", COUNT_OF(tokens), tokens);
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_I32, COUNT_OF(types), types, sizeof types);
    writer_set_strings(writer, "tokenizer.ggml.merges", COUNT_OF(merges), merges);
    writer_set_u32(writer, "tokenizer.ggml.bos_token_id", 6);
    writer_set_u32(writer, "tokenizer.ggml.eos_token_id", 7);
}

void writer_init_llama(struct gguf_writer *writer)
{
    enum { VOCAB = 8, EMBEDDING = 32, FEED_FORWARD = 48, KV = 16 };
    writer_init(writer);
    add_llama_keys(writer);
    static const struct {
        const char *name;
        uint32_t dim_count;
        uint64_t dims[2];
    } tensors[] = {
        {"token_embd.weight", 2, {EMBEDDING, VOCAB}},
        {"blk.0.attn_norm.weight", 1, {EMBEDDING}},
        {"blk.0.attn_q.weight", 2, {EMBEDDING, EMBEDDING}},
        {"blk.0.attn_k.weight", 2, {EMBEDDING, KV}},
        {"blk.0.attn_v.weight", 2, {EMBEDDING, KV}},
        {"blk.0.attn_output.weight", 2, {EMBEDDING, EMBEDDING}},
        {"blk.0.ffn_norm.weight", 1, {EMBEDDING}},
        {"blk.0.ffn_gate.weight", 2, {EMBEDDING, FEED_FORWARD}},
        {"blk.0.ffn_up.weight", 2, {EMBEDDING, FEED_FORWARD}},
        {"blk.0.ffn_down.weight", 2, {FEED_FORWARD, EMBEDDING}},
        {"output_norm.weight", 1, {EMBEDDING}},
    };
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        (void)writer_add_tensor(writer, tensors[i].name, TENSOR_F32, tensors[i].dim_count, tensors[i].dims);
    }
}

/* Tensor data: small floats around zero, a function of the position alone. */
static void put_data(const struct gguf_writer *writer, struct buf *out)
{
    for (uint64_t at = 0; at < writer->data_bytes; at += sizeof(float)) {
        float value = ((float)(at / sizeof(float) * 7 % 64) - 31.5f) / 64.0f;
        uint64_t left = writer->data_bytes - at;
        put(out, &value, left < sizeof value ? (size_t)left : sizeof value);
    }
}

void writer_finish(const struct gguf_writer *writer, struct buf *out)
{
    static const uint8_t zero;
    buf_init(out, MIB(128));
    put(out, writer->magic, sizeof writer->magic);
    put_u32(out, writer->version);
    put_u64(out, writer->tensor_count + writer->tensor_count_lie);
    put_u64(out, writer->key_count + writer->key_count_lie);
    for (size_t i = 0; i < writer->key_count; i++) {
        const struct writer_key *key = &writer->keys[i];
        put_string(out, buf_text(&key->name), key->name.len);
        put_u32(out, key->type);
        put(out, buf_text(&key->payload), key->payload.len);
    }
    for (size_t i = 0; i < writer->tensor_count; i++) {
        const struct writer_tensor *tensor = &writer->tensors[i];
        put_string(out, buf_text(&tensor->name), tensor->name.len);
        put_u32(out, tensor->dim_count);
        uint32_t written = tensor->dim_count < WRITER_DIMS_MAX ? tensor->dim_count : WRITER_DIMS_MAX;
        put(out, tensor->dims, written * sizeof tensor->dims[0]);
        put_u32(out, tensor->type_id);
        put_u64(out, tensor->offset);
    }
    if (writer->tensor_count == 0) return;
    while (out->len % writer->alignment != 0) put(out, &zero, 1);
    put_data(writer, out);
}

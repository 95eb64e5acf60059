/* SPDX-License-Identifier: Apache-2.0 */
/* See facts.h. Keys and their defaults are those of the GGUF specification and of the files in the wild:
 * An architecture is a row of `archs`; what a row or this
 * build does not run is refused by name, because a model that runs wrong looks like one that runs.
 * Sizes are bounded so that every product of two of them fits 64 bits with room to spare; the largest,
 * the bytes of one KV page, stays at or below 2^36. */
#include "common/gguf/facts.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"

enum {
    KEY_BYTES = 96, // "ARCHITECTURE.attention.layer_norm_rms_epsilon" and the like
    EMBEDDING_DIMS_MAX = 1 << 17,
    FEED_FORWARD_DIMS_MAX = 1 << 20,
    HEADS_MAX = 1 << 10,
    HEAD_DIMS_MAX = 1 << 10,
};

struct arch {
    const char *name; // general.architecture
    enum rope_order rope_order;
};

static const struct arch archs[] = {
    {.name = "llama", .rope_order = ROPE_ADJACENT},
};

/* Keys whose presence with a value other than 0 changes the arithmetic in a way that no row of `archs`
 * has. attention.sliding_window is not among them: llama files that carry one were trained with it and
 * are run without, as every engine does. */
static const struct {
    const char *suffix;
    const char *feature;
} unbuilt[] = {
    {"expert_count", "mixture of experts"},
    {"attn_logit_softcapping", "attention soft cap"},
    {"final_logit_softcapping", "logit soft cap"},
    {"attention.clamp_kqv", "clamped q, k, v"},
    {"attention.max_alibi_bias", "ALiBi positions"},
    {"attention.temperature_scale", "attention temperature"},
    {"embedding_scale", "embedding multiplier"},
    {"residual_scale", "residual multiplier"},
    {"logit_scale", "logit multiplier"},
};

/* What every read below needs. */
struct source {
    const struct gguf *gguf;
    const struct arch *arch;
    struct err *err;
};

struct key {
    char text[KEY_BYTES];
};

/* "ARCHITECTURE.suffix" */
static struct key key_of(const struct source *source, const char *suffix)
{
    struct key key;
    int len = snprintf(key.text, sizeof key.text, "%s.%s", source->arch->name, suffix);
    CHECK(len > 0 && len < (int)sizeof key.text);
    return key;
}

/* Integer in [min, max]. -ENOENT when absent, without touching err. */
static int read_u32_if_present(const struct source *source, const char *suffix, uint32_t min, uint32_t max,
                               uint32_t *ret_value)
{
    struct key key = key_of(source, suffix);
    uint64_t value = 0;
    size_t count;
    const void *data;
    int r = gguf_get_u64(source->gguf, key.text, &value);
    if (r == -ENOENT) return r;
    if (r < 0) {
        bool per_layer = gguf_get_array(source->gguf, key.text, GGUF_I32, &count, &data) == 0 ||
                         gguf_get_array(source->gguf, key.text, GGUF_U32, &count, &data) == 0;
        if (per_layer)
            return ERR(source->err, ERR_UNSUPPORTED, "%s: values per layer are not built", key.text);
        return ERR(source->err, ERR_FORMAT, "%s is not a whole number >= 0", key.text);
    }
    if (value > max) {
        return ERR(source->err, ERR_LIMIT, "%s is %" PRIu64 ", at most %" PRIu32, key.text, value, max);
    }
    if (value < min) {
        return ERR(source->err, ERR_FORMAT, "%s is %" PRIu64 ", at least %" PRIu32, key.text, value, min);
    }
    *ret_value = (uint32_t)value;
    return 0;
}

static int read_u32(const struct source *source, const char *suffix, uint32_t min, uint32_t max,
                    uint32_t *ret_value)
{
    int r = read_u32_if_present(source, suffix, min, max, ret_value);
    if (r != -ENOENT) return r;
    return ERR(source->err, ERR_FORMAT, "%s is missing", key_of(source, suffix).text);
}

static int read_u32_or(const struct source *source, const char *suffix, uint32_t min, uint32_t max,
                       uint32_t fallback, uint32_t *ret_value)
{
    int r = read_u32_if_present(source, suffix, min, max, ret_value);
    if (r != -ENOENT) return r;
    *ret_value = fallback;
    return 0;
}

/* Number >= 0 and finite. */
static int read_f32_or(const struct source *source, const char *suffix, float fallback, float *ret_value)
{
    struct key key = key_of(source, suffix);
    float value = 0;
    int r = gguf_get_f32(source->gguf, key.text, &value);
    if (r == -ENOENT) {
        *ret_value = fallback;
        return 0;
    }
    if (r < 0 || value < 0) return ERR(source->err, ERR_FORMAT, "%s is not a finite number >= 0", key.text);
    *ret_value = value;
    return 0;
}

static bool string_is(struct gguf_string string, const char *text)
{
    return string.len == strlen(text) && memcmp(string.bytes, text, string.len) == 0;
}

/* Copies what is printable of string, whole characters only. Left out: malformed bytes, controls, and
 * the line separators and direction marks that could forge a log line or a terminal's output. */
static void copy_printable(struct gguf_string string, size_t out_bytes, char *out)
{
    const uint8_t *p = (const uint8_t *)string.bytes;
    size_t used = 0;
    for (size_t at = 0; at < string.len;) {
        uint32_t c = 0;
        size_t n = utf8_decode(p + at, string.len - at, &c);
        bool skip = n == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
                    (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
        if (n == 0) n = 1;
        if (!skip) {
            if (used + n >= out_bytes) break;
            memcpy(out + used, p + at, n);
            used += n;
        }
        at += n;
    }
    out[used] = '\0';
}

/* ---- one group of facts each ---- */

static int read_arch(struct source *source, struct model_facts *facts)
{
    struct gguf_string string;
    uint32_t splits;
    int r = gguf_get_string(source->gguf, "general.architecture", &string);
    if (r == -ENOENT) return ERR(source->err, ERR_FORMAT, "general.architecture is missing");
    if (r < 0) return ERR(source->err, ERR_FORMAT, "general.architecture is not a string");
    copy_printable(string, sizeof facts->architecture, facts->architecture);
    for (size_t i = 0; i < COUNT_OF(archs); i++) {
        if (string_is(string, archs[i].name)) source->arch = &archs[i];
    }
    if (!source->arch) {
        return ERR(source->err, ERR_UNSUPPORTED, "general.architecture '%s' is not built (built: llama)",
                   facts->architecture);
    }

    r = gguf_get_string(source->gguf, "general.type", &string); // "model" | "adapter" | "mmproj" | ...
    if (r == 0 && !string_is(string, "model")) {
        char type[32];
        copy_printable(string, sizeof type, type);
        return ERR(source->err, ERR_UNSUPPORTED, "general.type '%s' is not built", type);
    }
    if (r == ERR_FORMAT) return ERR(source->err, ERR_FORMAT, "general.type is not a string");
    r = gguf_get_u32(source->gguf, "split.count", &splits);
    if (r == ERR_FORMAT) return ERR(source->err, ERR_FORMAT, "split.count is not a whole number >= 0");
    if (r == 0 && splits > 1) {
        return ERR(source->err, ERR_UNSUPPORTED,
                   "split.count %" PRIu32 ": models in several files are not built", splits);
    }

    r = gguf_get_string(source->gguf, "general.name", &string);
    if (r == ERR_FORMAT) return ERR(source->err, ERR_FORMAT, "general.name is not a string");
    if (r == 0) copy_printable(string, sizeof facts->name, facts->name);
    return 0;
}

static int refuse_unbuilt(const struct source *source)
{
    for (size_t i = 0; i < COUNT_OF(unbuilt); i++) {
        float value;
        int r = read_f32_or(source, unbuilt[i].suffix, 0, &value);
        if (r < 0) return r;
        if (value == 0) continue;
        return ERR(source->err, ERR_UNSUPPORTED, "%s: %s is not built",
                   key_of(source, unbuilt[i].suffix).text, unbuilt[i].feature);
    }
    struct key key = key_of(source, "attention.causal");
    bool causal = true;
    int r = gguf_get_bool(source->gguf, key.text, &causal);
    if (r == ERR_FORMAT) return ERR(source->err, ERR_FORMAT, "%s is not a bool", key.text);
    if (!causal)
        return ERR(source->err, ERR_UNSUPPORTED, "%s: attention to later tokens is not built", key.text);
    return 0;
}

static int read_shape(const struct source *source, struct model_facts *facts)
{
    int r = read_u32(source, "context_length", 1, MODEL_CONTEXT_MAX, &facts->context_length);
    if (r < 0) return r;
    r = read_u32(source, "block_count", 1, MODEL_LAYERS_MAX, &facts->layer_count);
    if (r < 0) return r;
    r = read_u32(source, "embedding_length", 2, EMBEDDING_DIMS_MAX, &facts->embedding_dims);
    if (r < 0) return r;
    if (facts->embedding_dims % 2 != 0) {
        return ERR(source->err, ERR_FORMAT, "%s is odd", key_of(source, "embedding_length").text);
    }
    r = read_u32(source, "feed_forward_length", 1, FEED_FORWARD_DIMS_MAX, &facts->feed_forward_dims);
    if (r < 0) return r;
    r = read_f32_or(source, "attention.layer_norm_rms_epsilon", 0, &facts->rms_epsilon);
    if (r < 0) return r;
    if (!(facts->rms_epsilon > 0 && facts->rms_epsilon < 1)) {
        return ERR(source->err, ERR_FORMAT, "%s is missing, or not between 0 and 1",
                   key_of(source, "attention.layer_norm_rms_epsilon").text);
    }
    return 0;
}

static int read_heads(const struct source *source, struct model_facts *facts)
{
    uint32_t value_dims;
    int r = read_u32(source, "attention.head_count", 1, HEADS_MAX, &facts->head_count);
    if (r < 0) return r;
    r = read_u32_or(source, "attention.head_count_kv", 1, HEADS_MAX, facts->head_count,
                    &facts->head_count_kv);
    if (r < 0) return r;
    if (facts->head_count % facts->head_count_kv != 0) {
        return ERR(source->err, ERR_FORMAT, "%s %" PRIu32 " does not divide attention.head_count %" PRIu32,
                   key_of(source, "attention.head_count_kv").text, facts->head_count_kv, facts->head_count);
    }

    /* Without key_length the heads share the embedding out evenly; 0 stands for "does not come out". */
    uint32_t share = facts->embedding_dims % facts->head_count ? 0
                                                               : facts->embedding_dims / facts->head_count;
    r = read_u32_or(source, "attention.key_length", 2, HEAD_DIMS_MAX, share, &facts->head_dims);
    if (r < 0) return r;
    r = read_u32_or(source, "attention.value_length", 2, HEAD_DIMS_MAX, share, &value_dims);
    if (r < 0) return r;
    if (facts->head_dims == 0 || value_dims == 0) {
        return ERR(source->err, ERR_FORMAT, "%s %" PRIu32 " does not divide embedding_length %" PRIu32,
                   key_of(source, "attention.head_count").text, facts->head_count, facts->embedding_dims);
    }
    if (facts->head_dims > HEAD_DIMS_MAX) {
        return ERR(source->err, ERR_LIMIT, "heads of %" PRIu32 " dimensions, at most %d", facts->head_dims,
                   HEAD_DIMS_MAX);
    }
    if (facts->head_dims % 2 != 0) {
        return ERR(source->err, ERR_FORMAT, "heads of %" PRIu32 " dimensions, an odd number",
                   facts->head_dims);
    }
    if (value_dims != facts->head_dims) {
        return ERR(source->err, ERR_UNSUPPORTED,
                   "%s %" PRIu32 " differs from attention.key_length %" PRIu32 ": not built",
                   key_of(source, "attention.value_length").text, value_dims, facts->head_dims);
    }

    r = read_f32_or(source, "attention.scale", 0, &facts->attention_scale);
    if (r < 0) return r;
    if (facts->attention_scale == 0) facts->attention_scale = 1.0f / sqrtf((float)facts->head_dims);
    return 0;
}

static int read_rope_scaling(const struct source *source, struct model_facts *facts)
{
    struct key key = key_of(source, "rope.scaling.type");
    struct gguf_string type = {.bytes = "linear", .len = strlen("linear")}; // so does a factor without a type
    int r = gguf_get_string(source->gguf, key.text, &type);
    if (r == ERR_FORMAT) return ERR(source->err, ERR_FORMAT, "%s is not a string", key.text);

    float factor, old_factor;
    r = read_f32_or(source, "rope.scale_linear", 0, &old_factor); // the factor's name in old files
    if (r < 0) return r;
    r = read_f32_or(source, "rope.scaling.factor", old_factor, &factor);
    if (r < 0) return r;
    facts->rope_scale = 1;
    if (string_is(type, "none")) return 0;
    if (!string_is(type, "linear")) {
        char shown[32];
        copy_printable(type, sizeof shown, shown);
        return ERR(source->err, ERR_UNSUPPORTED, "%s '%s' is not built (built: none, linear)", key.text,
                   shown);
    }
    if (factor == 0) return 0; // written for "no scaling"
    facts->rope_scale = 1.0f / factor;
    if (!isnormal(facts->rope_scale)) {
        return ERR(source->err, ERR_FORMAT, "%s is not usable as a divisor",
                   key_of(source, "rope.scaling.factor").text);
    }
    return 0;
}

static int read_rope(const struct source *source, struct model_facts *facts)
{
    facts->rope_order = source->arch->rope_order;
    int r = read_u32_or(source, "rope.dimension_count", 1, HEAD_DIMS_MAX, facts->head_dims,
                        &facts->rope_dims);
    if (r < 0) return r;
    if (facts->rope_dims != facts->head_dims) {
        return ERR(source->err, ERR_UNSUPPORTED,
                   "%s %" PRIu32 " differs from the head's %" PRIu32 " dimensions: not built",
                   key_of(source, "rope.dimension_count").text, facts->rope_dims, facts->head_dims);
    }
    r = read_f32_or(source, "rope.freq_base", 10000, &facts->rope_base);
    if (r < 0) return r;
    if (facts->rope_base < 1) {
        return ERR(source->err, ERR_FORMAT, "%s is below 1", key_of(source, "rope.freq_base").text);
    }
    return read_rope_scaling(source, facts);
}

static int read_vocabulary(const struct source *source, struct model_facts *facts)
{
    const struct gguf_tensor *embedding = gguf_tensor_find(source->gguf, "token_embd.weight");
    if (!embedding) return ERR(source->err, ERR_FORMAT, "tensor token_embd.weight is missing");
    if (embedding->dim_count != 2 || embedding->dims[0] != facts->embedding_dims) {
        return ERR(source->err, ERR_FORMAT,
                   "tensor token_embd.weight has not rows of embedding_length %" PRIu32,
                   facts->embedding_dims);
    }
    if (embedding->dims[1] > MODEL_VOCAB_MAX) {
        return ERR(source->err, ERR_LIMIT, "tensor token_embd.weight has %" PRIu64 " rows, at most %d",
                   embedding->dims[1], MODEL_VOCAB_MAX);
    }
    facts->vocab_count = (uint32_t)embedding->dims[1];

    size_t token_count;
    const struct gguf_string *tokens;
    int r = gguf_get_string_array(source->gguf, "tokenizer.ggml.tokens", &token_count, &tokens);
    if (r == ERR_FORMAT) {
        return ERR(source->err, ERR_FORMAT, "tokenizer.ggml.tokens is not an array of strings");
    }
    if (r == 0 && token_count != facts->vocab_count) {
        return ERR(source->err, ERR_FORMAT,
                   "tokenizer.ggml.tokens has %zu entries, token_embd.weight %" PRIu32 " rows", token_count,
                   facts->vocab_count);
    }
    return 0;
}

static void sum_tensors(const struct gguf *gguf, struct model_facts *facts)
{
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        /* No overflow: tensors lie apart in one file, and no type packs more than four elements a byte. */
        facts->parameter_count += tensor->dims[0] * tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
        facts->weight_bytes += tensor->data_bytes;
    }
}

int model_facts_read(const struct gguf *gguf, struct model_facts *ret_facts, struct err *err)
{
    struct model_facts facts = {0};
    struct source source = {.gguf = gguf, .err = err};
    int r = read_arch(&source, &facts);
    if (r < 0) return r;
    r = refuse_unbuilt(&source);
    if (r < 0) return r;
    r = read_shape(&source, &facts);
    if (r < 0) return r;
    r = read_heads(&source, &facts);
    if (r < 0) return r;
    r = read_rope(&source, &facts);
    if (r < 0) return r;
    r = read_vocabulary(&source, &facts);
    if (r < 0) return r;
    sum_tensors(gguf, &facts);
    *ret_facts = facts;
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* See gguf_hostile.h. Two tables: `cases`, one hand-made fault each, and `numbers` x `values`, every
 * hyperparameter at every value that has ever broken a loader. */
#include "tests/data/gguf_hostile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "tests/data/gguf_writer.h"

/* ---- preamble ---- */

static void bad_magic(struct gguf_writer *w)
{
    w->magic[3] = 'X';
}

static void version_0(struct gguf_writer *w)
{
    w->version = 0;
}

static void version_1(struct gguf_writer *w)
{
    w->version = 1;
}

static void version_4(struct gguf_writer *w)
{
    w->version = 4;
}

static void version_big_endian(struct gguf_writer *w)
{
    w->version = 3u << 24;
}

static void keys_2_63(struct gguf_writer *w)
{
    w->key_count_lie = UINT64_C(1) << 63;
}

static void keys_wrap(struct gguf_writer *w)
{
    w->key_count_lie = UINT64_MAX / 64 + 1; // count * 64 bytes wraps to little
}

static void keys_one_more(struct gguf_writer *w)
{
    w->key_count_lie = 1;
}

static void keys_one_less(struct gguf_writer *w)
{
    w->key_count_lie = UINT64_MAX; // the last key is read as a tensor
}

static void tensors_2_63(struct gguf_writer *w)
{
    w->tensor_count_lie = UINT64_C(1) << 63;
}

static void tensors_wrap(struct gguf_writer *w)
{
    w->tensor_count_lie = UINT64_MAX / 88 + 1;
}

static void tensors_one_more(struct gguf_writer *w)
{
    w->tensor_count_lie = 1;
}

/* ---- keys ---- */

static void key_empty(struct gguf_writer *w)
{
    (void)writer_add_key(w, "", GGUF_U8, "x", 1);
}

static void key_too_long(struct gguf_writer *w)
{
    char *name = malloc((1 << 16) + 1);
    if (!name) abort();
    memset(name, 'k', 1 << 16);
    name[1 << 16] = '\0';
    (void)writer_add_key(w, name, GGUF_U8, "x", 1);
    free(name);
}

static void key_duplicate(struct gguf_writer *w)
{
    (void)writer_add_key(w, "llama.block_count", GGUF_U32, "\1\0\0", 4);
}

static void type_13(struct gguf_writer *w)
{
    writer_set_raw(w, "general.name", 13, "\0\0\0\0\0\0\0", 8);
}

static void type_max(struct gguf_writer *w)
{
    writer_set_raw(w, "general.name", UINT32_MAX, "\0\0\0\0\0\0\0", 8);
}

static void bool_of_2(struct gguf_writer *w)
{
    writer_set_bool(w, "tokenizer.ggml.add_bos_token", 2);
}

static void string_2_63(struct gguf_writer *w)
{
    writer_set_raw(w, "general.name", GGUF_STRING, "\0\0\0\0\0\0\0\200", 8);
}

static void string_max(struct gguf_writer *w)
{
    writer_set_raw(w, "general.name", GGUF_STRING, "\377\377\377\377\377\377\377\377", 8); // len + 1 wraps
}

static void array_of_arrays(struct gguf_writer *w)
{
    writer_set_array(w, "x.nested", GGUF_ARRAY, 1, "\0\0\0\0\0\0\0\0\0\0\0", 12);
}

static void array_of_type_13(struct gguf_writer *w)
{
    writer_set_array(w, "x.unknown", 13, 1, "\0\0\0\0\0\0\0", 8);
}

static void array_count_wrap(struct gguf_writer *w)
{
    writer_set_array(w, "x.wrap", GGUF_F32, (UINT64_C(1) << 62) + 1, "\0\0\0", 4); // * 4 bytes = 4
}

static void array_strings_2_61(struct gguf_writer *w)
{
    writer_set_array(w, "x.strings", GGUF_STRING, UINT64_C(1) << 61, "\0\0\0\0\0\0\0", 8); // * 8 bytes = 0
}

static void array_string_inside_long(struct gguf_writer *w)
{
    writer_set_array(w, "x.strings", GGUF_STRING, 1, "\0\0\0\0\0\0\0\1", 8);
}

static void alignment_0(struct gguf_writer *w)
{
    writer_set_u32(w, "general.alignment", 0);
}

static void alignment_1(struct gguf_writer *w)
{
    writer_set_u32(w, "general.alignment", 1);
}

static void alignment_48(struct gguf_writer *w)
{
    writer_set_u32(w, "general.alignment", 48);
}

static void alignment_2_31(struct gguf_writer *w)
{
    writer_set_u32(w, "general.alignment", UINT32_C(1) << 31);
}

static void alignment_max(struct gguf_writer *w)
{
    writer_set_u32(w, "general.alignment", UINT32_MAX); // rounding up to it wraps
}

static void alignment_u64(struct gguf_writer *w)
{
    writer_set_u64(w, "general.alignment", 32);
}

static void alignment_string(struct gguf_writer *w)
{
    writer_set_string(w, "general.alignment", "32");
}

/* ---- tensors ---- */

static struct writer_tensor *last_tensor(struct gguf_writer *w)
{
    return &w->tensors[w->tensor_count - 1];
}

static void rename_tensor(struct gguf_writer *w, const char *name, size_t len)
{
    buf_clear(&last_tensor(w)->name);
    if (buf_append(&last_tensor(w)->name, name, len) < 0) abort();
}

static void tensor_unnamed(struct gguf_writer *w)
{
    rename_tensor(w, "", 0);
}

static void tensor_name_65(struct gguf_writer *w)
{
    char name[65];
    memset(name, 'n', sizeof name);
    rename_tensor(w, name, sizeof name);
}

static void tensor_duplicate(struct gguf_writer *w)
{
    rename_tensor(w, "blk.0.attn_norm.weight", strlen("blk.0.attn_norm.weight"));
}

static void tensor_dims_0(struct gguf_writer *w)
{
    last_tensor(w)->dim_count = 0;
}

static void tensor_dims_5(struct gguf_writer *w)
{
    last_tensor(w)->dim_count = 5;
}

static void tensor_dims_max(struct gguf_writer *w)
{
    last_tensor(w)->dim_count = UINT32_MAX;
}

static void tensor_zero_dim(struct gguf_writer *w)
{
    last_tensor(w)->dims[0] = 0;
}

static void tensor_negative_dim(struct gguf_writer *w)
{
    last_tensor(w)->dims[0] = UINT64_MAX;
}

static void tensor_dims_overflow(struct gguf_writer *w)
{
    struct writer_tensor *tensor = last_tensor(w);
    tensor->dim_count = 4;
    for (int i = 0; i < 4; i++) tensor->dims[i] = UINT64_C(1) << 16; // the product is 2^64: wraps to 0
}

static void tensor_bytes_overflow(struct gguf_writer *w)
{
    last_tensor(w)->dims[0] = UINT64_C(1) << 62; // times 4 bytes is 2^64
}

static void tensor_type_unknown(struct gguf_writer *w)
{
    last_tensor(w)->type_id = 4; // a type removed from the format long ago
}

static void tensor_type_max(struct gguf_writer *w)
{
    last_tensor(w)->type_id = UINT32_MAX;
}

static void tensor_broken_block(struct gguf_writer *w)
{
    last_tensor(w)->type_id = TENSOR_Q4_K; // 256 elements a block, the row has 32
}

static void tensor_offset_unaligned(struct gguf_writer *w)
{
    last_tensor(w)->offset += 4;
}

static void tensor_offset_beyond(struct gguf_writer *w)
{
    last_tensor(w)->offset += 1 << 20;
}

static void tensor_offset_max(struct gguf_writer *w)
{
    last_tensor(w)->offset = UINT64_MAX - 31; // plus its bytes wraps
}

static void tensor_longer_than_file(struct gguf_writer *w)
{
    last_tensor(w)->dims[0] += 1;
}

static void tensor_overlap(struct gguf_writer *w)
{
    last_tensor(w)->offset -= 32;
}

static void tensor_overlap_exact(struct gguf_writer *w)
{
    last_tensor(w)->offset = writer_find_tensor(w, "blk.0.attn_norm.weight")->offset;
}

static void tensors_only_infos(struct gguf_writer *w)
{
    w->data_bytes = 0;
}

/* ---- facts ---- */

static void arch_missing(struct gguf_writer *w)
{
    writer_remove_key(w, "general.architecture");
}

static void arch_number(struct gguf_writer *w)
{
    writer_set_u32(w, "general.architecture", 7);
}

static void arch_unknown(struct gguf_writer *w)
{
    writer_set_string(w, "general.architecture", "no\n\x1b[2Jsuch\xff");
}

static void arch_huge(struct gguf_writer *w)
{
    char name[4096];
    memset(name, 'l', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    writer_set_string(w, "general.architecture", name);
}

static void name_number(struct gguf_writer *w)
{
    writer_set_u32(w, "general.name", 7);
}

static void adapter(struct gguf_writer *w)
{
    writer_set_string(w, "general.type", "adapter");
}

static void split_file(struct gguf_writer *w)
{
    writer_set_raw(w, "split.count", GGUF_U16, "\3", 2);
}

static void experts(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.expert_count", 8);
}

static void soft_cap(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.final_logit_softcapping", 30);
}

static void not_causal(struct gguf_writer *w)
{
    writer_set_bool(w, "llama.attention.causal", 0);
}

static void yarn(struct gguf_writer *w)
{
    writer_set_string(w, "llama.rope.scaling.type", "yarn");
    writer_set_f32(w, "llama.rope.scaling.factor", 4);
}

static void longrope(struct gguf_writer *w)
{
    writer_set_string(w, "llama.rope.scaling.type", "longrope");
}

static void rope_factor_nan(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.rope.scaling.factor", __builtin_nanf(""));
}

static void rope_factor_tiny(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.rope.scaling.factor", 1e-45f); // its inverse is infinite
}

static void rope_base_inf(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.rope.freq_base", __builtin_inff());
}

static void rope_base_0(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.rope.freq_base", 0);
}

static void epsilon_nan(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.attention.layer_norm_rms_epsilon", __builtin_nanf(""));
}

static void epsilon_negative(struct gguf_writer *w)
{
    writer_set_f32(w, "llama.attention.layer_norm_rms_epsilon", -1e-5f);
}

static void epsilon_missing(struct gguf_writer *w)
{
    writer_remove_key(w, "llama.attention.layer_norm_rms_epsilon");
}

static void layers_missing(struct gguf_writer *w)
{
    writer_remove_key(w, "llama.block_count");
}

static void heads_per_layer(struct gguf_writer *w)
{
    writer_set_array(w, "llama.attention.head_count_kv", GGUF_I32, 1, "\2\0\0", 4);
}

static void heads_string(struct gguf_writer *w)
{
    writer_set_string(w, "llama.attention.head_count", "4");
}

static void kv_heads_indivisible(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.attention.head_count_kv", 3);
}

static void kv_heads_more(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.attention.head_count_kv", 8);
}

static void heads_indivisible(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.attention.head_count", 6);
}

static void key_length_odd(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.attention.key_length", 7);
}

static void value_length_other(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.attention.value_length", 16);
}

static void rope_partial(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.rope.dimension_count", 4);
}

static void embedding_odd(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.embedding_length", 33);
}

static void embedding_other(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.embedding_length", 64);
}

static void embd_missing(struct gguf_writer *w)
{
    writer_remove_tensor(w, "token_embd.weight");
}

static void embd_3d(struct gguf_writer *w)
{
    struct writer_tensor *tensor = writer_find_tensor(w, "token_embd.weight");
    tensor->dim_count = 3;
    tensor->dims[1] = 4;
    tensor->dims[2] = 2;
}

static void tokens_fewer(struct gguf_writer *w)
{
    static const char *const tokens[] = {"a", "b"};
    writer_set_strings(w, "tokenizer.ggml.tokens", COUNT_OF(tokens), tokens);
}

static void tokens_numbers(struct gguf_writer *w)
{
    writer_set_array(w, "tokenizer.ggml.tokens", GGUF_U64, 8, (uint64_t[8]){0}, 64);
}

/* ---- tokenizer ---- */

static void tokens_missing(struct gguf_writer *w)
{
    writer_remove_key(w, "tokenizer.ggml.tokens");
}

static void model_unknown(struct gguf_writer *w)
{
    writer_set_string(w, "tokenizer.ggml.model", "nosuch");
}

static void model_missing(struct gguf_writer *w)
{
    writer_remove_key(w, "tokenizer.ggml.model");
}

static void types_fewer(struct gguf_writer *w)
{
    writer_set_array(w, "tokenizer.ggml.token_type", GGUF_I32, 2, (int32_t[2]){1, 1}, 8);
}

static void types_strings(struct gguf_writer *w)
{
    static const char *const types[] = {"1", "1", "1", "1", "1", "2", "3", "3"};
    writer_set_strings(w, "tokenizer.ggml.token_type", COUNT_OF(types), types);
}

static void merges_numbers(struct gguf_writer *w)
{
    writer_set_array(w, "tokenizer.ggml.merges", GGUF_U64, 1, (uint64_t[1]){0}, 8);
}

static void eos_beyond(struct gguf_writer *w)
{
    writer_set_u32(w, "tokenizer.ggml.eos_token_id", 8);
}

static void bos_negative(struct gguf_writer *w)
{
    writer_set_i32(w, "tokenizer.ggml.bos_token_id", -2);
}

/* ---- worker ---- */

static void query_missing(struct gguf_writer *w)
{
    writer_remove_tensor(w, "blk.0.attn_q.weight");
}

static void norm_missing(struct gguf_writer *w)
{
    writer_remove_tensor(w, "output_norm.weight");
}

static void layers_more(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.block_count", 2);
}

static void layers_512(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.block_count", 512);
}

static void key_transposed(struct gguf_writer *w)
{
    struct writer_tensor *tensor = writer_find_tensor(w, "blk.0.attn_k.weight");
    tensor->dims[0] = 16;
    tensor->dims[1] = 32;
}

static void feed_forward_other(struct gguf_writer *w)
{
    writer_set_u32(w, "llama.feed_forward_length", 96);
}

static void norm_2d(struct gguf_writer *w)
{
    struct writer_tensor *tensor = writer_find_tensor(w, "output_norm.weight");
    tensor->dim_count = 2;
    tensor->dims[0] = 16;
    tensor->dims[1] = 2;
}

/* X(stage, function and name, code, part of the error text) */
#define CASES(X) \
    X(PARSE, bad_magic, ERR_FORMAT, "offset 0: not a GGUF file") \
    X(PARSE, version_0, ERR_VERSION, "offset 4: version 0") \
    X(PARSE, version_1, ERR_VERSION, "offset 4: version 1") \
    X(PARSE, version_4, ERR_VERSION, "offset 4: version 4") \
    X(PARSE, version_big_endian, ERR_VERSION, "big-endian") \
    X(PARSE, keys_2_63, ERR_FORMAT, "offset 8: truncated") \
    X(PARSE, keys_wrap, ERR_FORMAT, "offset 8: truncated") \
    X(PARSE, keys_one_more, ERR_FORMAT, "offset ") \
    X(PARSE, keys_one_less, ERR_FORMAT, "offset ") \
    X(PARSE, tensors_2_63, ERR_FORMAT, "offset 8: truncated") \
    X(PARSE, tensors_wrap, ERR_FORMAT, "offset 8: truncated") \
    X(PARSE, tensors_one_more, ERR_FORMAT, "offset ") \
    X(PARSE, key_empty, ERR_FORMAT, "key of 0 bytes") \
    X(PARSE, key_too_long, ERR_FORMAT, "key of 65536 bytes") \
    X(PARSE, key_duplicate, ERR_FORMAT, "duplicate key 'llama.block_count'") \
    X(PARSE, type_13, ERR_FORMAT, "unknown value type 13") \
    X(PARSE, type_max, ERR_FORMAT, "unknown value type 4294967295") \
    X(PARSE, bool_of_2, ERR_FORMAT, "bool of value 2") \
    X(PARSE, string_2_63, ERR_FORMAT, "needs 9223372036854775808 bytes") \
    X(PARSE, string_max, ERR_FORMAT, "needs 18446744073709551615 bytes") \
    X(PARSE, array_of_arrays, ERR_FORMAT, "array of elements of type 9") \
    X(PARSE, array_of_type_13, ERR_FORMAT, "array of elements of type 13") \
    X(PARSE, array_count_wrap, ERR_FORMAT, "array of 4611686018427387905 elements") \
    X(PARSE, array_strings_2_61, ERR_FORMAT, "array of 2305843009213693952 elements") \
    X(PARSE, array_string_inside_long, ERR_FORMAT, "string of an array needs 72057594037927936") \
    X(PARSE, alignment_0, ERR_FORMAT, "general.alignment 0 ") \
    X(PARSE, alignment_1, ERR_FORMAT, "general.alignment 1 ") \
    X(PARSE, alignment_48, ERR_FORMAT, "general.alignment 48 ") \
    X(PARSE, alignment_2_31, ERR_FORMAT, "general.alignment 2147483648 ") \
    X(PARSE, alignment_max, ERR_FORMAT, "general.alignment 4294967295 ") \
    X(PARSE, alignment_u64, ERR_FORMAT, "general.alignment is not a u32") \
    X(PARSE, alignment_string, ERR_FORMAT, "general.alignment is not a u32") \
    X(PARSE, tensor_unnamed, ERR_FORMAT, "tensor name of 0 bytes") \
    X(PARSE, tensor_name_65, ERR_FORMAT, "tensor name of 65 bytes") \
    X(PARSE, tensor_duplicate, ERR_FORMAT, "duplicate tensor 'blk.0.attn_norm.weight'") \
    X(PARSE, tensor_dims_0, ERR_FORMAT, "0 dimensions") \
    X(PARSE, tensor_dims_5, ERR_FORMAT, "5 dimensions") \
    X(PARSE, tensor_dims_max, ERR_FORMAT, "4294967295 dimensions") \
    X(PARSE, tensor_zero_dim, ERR_FORMAT, "dimension 0 is zero") \
    X(PARSE, tensor_negative_dim, ERR_FORMAT, "overflow") \
    X(PARSE, tensor_dims_overflow, ERR_FORMAT, "overflow") \
    X(PARSE, tensor_bytes_overflow, ERR_FORMAT, "overflow") \
    X(PARSE, tensor_type_unknown, ERR_UNSUPPORTED, "element type 4 ") \
    X(PARSE, tensor_type_max, ERR_UNSUPPORTED, "element type 4294967295 ") \
    X(PARSE, tensor_broken_block, ERR_FORMAT, "not whole blocks of Q4_K") \
    X(PARSE, tensor_offset_unaligned, ERR_FORMAT, "not aligned to 32") \
    X(PARSE, tensor_offset_beyond, ERR_FORMAT, "outside the file") \
    X(PARSE, tensor_offset_max, ERR_FORMAT, "outside the file") \
    X(PARSE, tensor_longer_than_file, ERR_FORMAT, "outside the file") \
    X(PARSE, tensor_overlap, ERR_FORMAT, "overlap") \
    X(PARSE, tensor_overlap_exact, ERR_FORMAT, "overlap") \
    X(PARSE, tensors_only_infos, ERR_FORMAT, "outside the file") \
    X(FACTS, arch_missing, ERR_FORMAT, "general.architecture is missing") \
    X(FACTS, arch_number, ERR_FORMAT, "general.architecture is not a string") \
    X(FACTS, arch_unknown, ERR_UNSUPPORTED, "'no[2Jsuch' is not built") \
    X(FACTS, arch_huge, ERR_UNSUPPORTED, "is not built") \
    X(FACTS, name_number, ERR_FORMAT, "general.name") \
    X(FACTS, adapter, ERR_UNSUPPORTED, "general.type 'adapter'") \
    X(FACTS, split_file, ERR_UNSUPPORTED, "split.count 3") \
    X(FACTS, experts, ERR_UNSUPPORTED, "mixture of experts") \
    X(FACTS, soft_cap, ERR_UNSUPPORTED, "soft cap") \
    X(FACTS, not_causal, ERR_UNSUPPORTED, "attention.causal") \
    X(FACTS, yarn, ERR_UNSUPPORTED, "rope.scaling.type 'yarn'") \
    X(FACTS, longrope, ERR_UNSUPPORTED, "rope.scaling.type 'longrope'") \
    X(FACTS, rope_factor_nan, ERR_FORMAT, "rope.scaling.factor") \
    X(FACTS, rope_factor_tiny, ERR_FORMAT, "rope.scaling.factor") \
    X(FACTS, rope_base_inf, ERR_FORMAT, "rope.freq_base") \
    X(FACTS, rope_base_0, ERR_FORMAT, "rope.freq_base") \
    X(FACTS, epsilon_nan, ERR_FORMAT, "rms_epsilon") \
    X(FACTS, epsilon_negative, ERR_FORMAT, "rms_epsilon") \
    X(FACTS, epsilon_missing, ERR_FORMAT, "rms_epsilon") \
    X(FACTS, layers_missing, ERR_FORMAT, "llama.block_count is missing") \
    X(FACTS, heads_per_layer, ERR_UNSUPPORTED, "attention.head_count_kv: values per layer") \
    X(FACTS, heads_string, ERR_FORMAT, "attention.head_count") \
    X(FACTS, kv_heads_indivisible, ERR_FORMAT, "attention.head_count_kv 3 does not divide") \
    X(FACTS, kv_heads_more, ERR_FORMAT, "attention.head_count_kv 8 does not divide") \
    X(FACTS, heads_indivisible, ERR_FORMAT, "attention.head_count") \
    X(FACTS, key_length_odd, ERR_FORMAT, "odd") \
    X(FACTS, value_length_other, ERR_UNSUPPORTED, "attention.value_length 16") \
    X(FACTS, rope_partial, ERR_UNSUPPORTED, "rope.dimension_count 4") \
    X(FACTS, embedding_odd, ERR_FORMAT, "odd") \
    X(FACTS, embedding_other, ERR_UNSUPPORTED, "rope.dimension_count 8") \
    X(FACTS, embd_missing, ERR_FORMAT, "token_embd.weight is missing") \
    X(FACTS, embd_3d, ERR_FORMAT, "token_embd.weight") \
    X(FACTS, tokens_fewer, ERR_FORMAT, "tokenizer.ggml.tokens has 2 entries") \
    X(FACTS, tokens_numbers, ERR_FORMAT, "tokenizer.ggml.tokens") \
    X(TOKENIZER, tokens_missing, 0, "") \
    X(TOKENIZER, model_unknown, 0, "") \
    X(TOKENIZER, model_missing, 0, "") \
    X(TOKENIZER, types_fewer, 0, "") \
    X(TOKENIZER, types_strings, 0, "") \
    X(TOKENIZER, merges_numbers, 0, "") \
    X(TOKENIZER, eos_beyond, 0, "") \
    X(TOKENIZER, bos_negative, 0, "") \
    X(BIND, query_missing, 0, "") \
    X(BIND, norm_missing, 0, "") \
    X(BIND, layers_more, 0, "") \
    X(BIND, layers_512, 0, "") \
    X(BIND, key_transposed, 0, "") \
    X(BIND, feed_forward_other, 0, "") \
    X(BIND, norm_2d, 0, "")

static const struct {
    enum hostile_stage stage;
    const char *name;
    void (*edit)(struct gguf_writer *w);
    int code;
    const char *why;
} cases[] = {
#define X(stage, function, code, why) {HOSTILE_##stage, #function, function, code, why},
    CASES(X)
#undef X
};

/* Hyperparameters, each of which must refuse each of `values`. */
static const char *const numbers[] = {
    "context_length",       "block_count",
    "embedding_length",     "feed_forward_length",
    "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length",
    "rope.dimension_count",
};

static const struct {
    const char *name;
    enum gguf_value_type type;
    uint64_t bits;
    int code;
} values[] = {
    {"zero", GGUF_U32, 0, ERR_FORMAT},
    {"minus_1", GGUF_I32, UINT32_MAX, ERR_FORMAT},
    {"minus_1_wide", GGUF_I64, UINT64_MAX, ERR_FORMAT},
    {"int_min", GGUF_I32, UINT64_C(1) << 31, ERR_FORMAT},
    {"int_max", GGUF_U32, INT32_MAX, ERR_LIMIT},
    {"2_31", GGUF_U32, UINT64_C(1) << 31, ERR_LIMIT},
    {"u32_max", GGUF_U32, UINT32_MAX, ERR_LIMIT},
    {"2_32", GGUF_U64, UINT64_C(1) << 32, ERR_LIMIT}, // 0 when cut to 32 bits
    {"2_63", GGUF_U64, UINT64_C(1) << 63, ERR_LIMIT},
    {"u64_max", GGUF_U64, UINT64_MAX, ERR_LIMIT},
};

/* Files cut short: of a valid file, these shares of its bytes in 1/8ths. */
enum { CUTS = 8 };

size_t hostile_count(void)
{
    return COUNT_OF(cases) + COUNT_OF(numbers) * COUNT_OF(values) + CUTS;
}

static struct hostile build_number(size_t idx, struct gguf_writer *w)
{
    const char *suffix = numbers[idx / COUNT_OF(values)];
    size_t value = idx % COUNT_OF(values);
    char key[64];
    struct hostile hostile = {.stage = HOSTILE_FACTS, .code = values[value].code, .why = suffix};
    (void)snprintf(key, sizeof key, "llama.%s", suffix);
    (void)snprintf(hostile.name, sizeof hostile.name, "facts_%s_%s", suffix, values[value].name);
    for (char *c = hostile.name; *c; c++) {
        if (*c == '.') *c = '_';
    }
    bool wide = values[value].type == GGUF_U64 || values[value].type == GGUF_I64;
    writer_set_raw(w, key, values[value].type, &values[value].bits, wide ? 8 : 4);
    return hostile;
}

struct hostile hostile_build(size_t hostile_idx, struct buf *out)
{
    static const char *const stages[] = {"parse", "facts", "tokenizer", "bind"};
    CHECK(hostile_idx < hostile_count());
    struct hostile hostile = {0};
    size_t cut_idx = SIZE_MAX;
    struct gguf_writer *w = malloc(sizeof *w);
    if (!w) abort();
    writer_init_llama(w);
    if (hostile_idx < COUNT_OF(cases)) {
        hostile.stage = cases[hostile_idx].stage;
        hostile.code = cases[hostile_idx].code;
        hostile.why = cases[hostile_idx].why;
        (void)snprintf(hostile.name, sizeof hostile.name, "%s_%s", stages[hostile.stage],
                       cases[hostile_idx].name);
        cases[hostile_idx].edit(w);
    } else if (hostile_idx < COUNT_OF(cases) + COUNT_OF(numbers) * COUNT_OF(values)) {
        hostile = build_number(hostile_idx - COUNT_OF(cases), w);
    } else {
        cut_idx = hostile_idx - COUNT_OF(cases) - COUNT_OF(numbers) * COUNT_OF(values);
        hostile = (struct hostile){.stage = HOSTILE_PARSE, .code = ERR_FORMAT, .why = "offset "};
        (void)snprintf(hostile.name, sizeof hostile.name, "parse_cut_%zu_of_%d", cut_idx, CUTS);
    }
    writer_finish(w, out);
    if (cut_idx != SIZE_MAX) out->len = out->len * cut_idx / CUTS;
    writer_done(w);
    free(w);
    return hostile;
}

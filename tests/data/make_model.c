/* SPDX-License-Identifier: Apache-2.0 */
/* make_model SHAPE TYPE OUT.gguf [SEED] - writes a llama of random weights with the shape of a real one, for
 * measuring: llama-1b (Llama-3.2-1B), llama-8b (Llama-3.1-8B), smollm2-135m, or tiny. TYPE is a block type's name
 * (q4_0, Q4_K, f16, ...), that of all matrices; the head is tied to the embedding as in the smaller ones. The
 * vocabulary is made up: a token for each byte, one merge, fillers, and two control tokens at the end, so that
 * servers that want a tokenizer load the file.
 *
 * Weights are random codes with scales that keep activations finite (random_model.h): what is computed has no
 * meaning, but costs what the real model does. Tensors are written piece by piece, so that the file may be larger
 * than memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/check.h"
#include "common/text/vocab.h"
#include "tests/data/random_model.h"
#include "tests/data/sample_vocab.h"

enum { BLOCKS_A_TURN = 8192, BYTE_TOKENS = 256, CONTROL_TOKENS = 2, TEXT_BYTES = 12 };

static const struct shape {
    const char *name;
    struct random_model_shape shape;
    float rope_base;
    uint32_t context;
} shapes[] = {
    {"llama-1b", {16, 2048, 32, 8, 64, 8192, 128256, true}, 500000, 131072},
    {"llama-8b", {32, 4096, 32, 8, 128, 14336, 128256, true}, 500000, 131072},
    {"smollm2-135m", {30, 576, 9, 3, 64, 1536, 49152, true}, 100000, 8192},
    {"tiny", {2, 256, 4, 2, 64, 512, 512, true}, 10000, 2048},
};

static const struct shape *find_shape(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    return NULL;
}

static int find_type(const char *name)
{
    static const enum tensor_type types[] = {
#define X(type) type,
        RANDOM_MODEL_TYPES(X)
#undef X
    };
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcasecmp(tensor_type_info(types[i])->name, name) == 0) return (int)types[i];
    return -1;
}

static void set_vocabulary(struct gguf_writer *writer, uint32_t count)
{
    static const char *const merges[] = {"a a"};
    const char **texts = calloc(count, sizeof(*texts));
    char(*fillers)[TEXT_BYTES] = calloc(count, sizeof(*fillers));
    int32_t *kinds = calloc(count, sizeof(*kinds));
    CHECK(texts && fillers && kinds);
    CHECK(count > BYTE_TOKENS + 1 + CONTROL_TOKENS);
    memcpy(texts, sample_vocab_texts(), BYTE_TOKENS * sizeof(*texts));
    for (uint32_t i = 0; i < count; i++) {
        kinds[i] = i < count - CONTROL_TOKENS ? TOKEN_KIND_NORMAL : TOKEN_KIND_CONTROL;
        if (i < BYTE_TOKENS) continue;
        (void)snprintf(fillers[i], TEXT_BYTES, "w%u", i); // fits
        texts[i] = fillers[i];
    }
    texts[BYTE_TOKENS] = "aa";
    texts[count - 2] = "<|begin|>";
    texts[count - 1] = "<|end|>";
    writer_set_string(writer, "tokenizer.ggml.model", "gpt2");
    writer_set_string(writer, "tokenizer.ggml.pre", "llama-bpe");
    writer_set_strings(writer, "tokenizer.ggml.tokens", count, texts);
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_I32, count, kinds, count * sizeof(*kinds));
    writer_set_strings(writer, "tokenizer.ggml.merges", COUNT_OF(merges), merges);
    writer_set_u32(writer, "tokenizer.ggml.bos_token_id", count - 2);
    writer_set_u32(writer, "tokenizer.ggml.eos_token_id", count - 1);
    writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 0);
    free(texts);
    free(fillers);
    free(kinds);
}

/* Everything before the data of the first tensor. */
static int write_header(struct gguf_writer *writer, const struct shape *shape, enum tensor_type type,
                        FILE *out)
{
    struct buf header;
    char name[64];
    (void)snprintf(name, sizeof(name), "random %s %s", shape->name, tensor_type_info(type)->name);
    writer_init(writer);
    random_model_describe(writer, &shape->shape, type);
    writer_set_string(writer, "general.name", name);
    writer_set_u32(writer, "llama.context_length", shape->context);
    writer_set_u32(writer, "llama.rope.dimension_count", shape->shape.head_dims);
    writer_set_f32(writer, "llama.rope.freq_base", shape->rope_base);
    writer_set_u32(writer, "llama.vocab_size", shape->shape.vocab);
    set_vocabulary(writer, shape->shape.vocab);
    writer->data_bytes = 0; // written below, piece by piece
    writer_finish(writer, &header);
    size_t written = fwrite(header.bytes, 1, header.len, out);
    bool is_whole = written == header.len;
    buf_done(&header);
    return is_whole ? 0 : -EIO;
}

static int write_tensor(const struct writer_tensor *tensor, uint32_t alignment, struct rng *rng, FILE *out)
{
    static const char zeros[256];
    const struct tensor_type_info *info = tensor_type_info(tensor->type_id);
    uint64_t bytes = info->block_bytes;
    for (uint32_t i = 0; i < tensor->dim_count; i++) bytes *= tensor->dims[i];
    bytes /= info->block_elements;
    size_t turn = (size_t)info->block_bytes * BLOCKS_A_TURN;
    uint8_t *data = malloc(turn);
    CHECK(data);
    int r = 0;
    for (uint64_t at = 0; at < bytes && r == 0; at += turn) {
        size_t count = bytes - at < turn ? (size_t)(bytes - at) : turn;
        random_model_fill(rng, buf_text(&tensor->name), (enum tensor_type)tensor->type_id, data, count);
        if (fwrite(data, 1, count, out) != count) r = -EIO;
    }
    free(data);
    size_t pad = (size_t)((alignment - bytes % alignment) % alignment);
    if (r == 0 && fwrite(zeros, 1, pad, out) != pad) r = -EIO;
    return r;
}

int main(int argc, char **argv)
{
    static struct gguf_writer writer;
    const struct shape *shape = argc > 2 ? find_shape(argv[1]) : NULL;
    int type = argc > 2 ? find_type(argv[2]) : -1;
    if (!shape || type < 0 || argc < 4 || argc > 5) {
        fprintf(stderr, "usage: make_model SHAPE TYPE OUT.gguf [SEED]\nshapes:");
        for (size_t i = 0; i < COUNT_OF(shapes); i++) fprintf(stderr, " %s", shapes[i].name);
        fprintf(stderr, "\ntypes:");
#define X(type) fprintf(stderr, " %s", tensor_type_info(type)->name);
        RANDOM_MODEL_TYPES(X)
#undef X
        fprintf(stderr, "\n");
        return 64;
    }
    struct rng rng = {.state = argc == 5 ? strtoull(argv[4], NULL, 0) : 1};
    FILE *out = fopen(argv[3], "wb");
    int r = out ? write_header(&writer, shape, (enum tensor_type)type, out) : -errno;
    for (size_t i = 0; i < writer.tensor_count && r == 0; i++)
        r = write_tensor(&writer.tensors[i], writer.alignment, &rng, out);
    if (out && fclose(out) != 0 && r == 0) r = -errno;
    if (r < 0) fprintf(stderr, "make_model: %s: %s\n", argv[3], strerror(-r));
    writer_done(&writer);
    return r < 0 ? 1 : 0;
}

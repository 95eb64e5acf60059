/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/data/sample_vocab.h"

#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/vocab.h"

static const char *const merges[] = {
    "t h",           "th e", "\u0120 the", "i n",    "a a", "aa aa", "h e",
    "\u0120 \u0120", "l l",  "he ll",      "hell o", "s y", "sy s",
};

static const struct {
    const char *text;
    int32_t type;
} others[] = {
    {"th", TOKEN_KIND_NORMAL},           {"the", TOKEN_KIND_NORMAL},
    {"\u0120the", TOKEN_KIND_NORMAL},    {"in", TOKEN_KIND_NORMAL},
    {"aa", TOKEN_KIND_NORMAL},           {"aaaa", TOKEN_KIND_NORMAL},
    {"he", TOKEN_KIND_NORMAL},           {"\u0120\u0120", TOKEN_KIND_NORMAL},
    {"ll", TOKEN_KIND_NORMAL},           {"hell", TOKEN_KIND_NORMAL},
    {"hello", TOKEN_KIND_NORMAL},        {"sy", TOKEN_KIND_NORMAL},
    {"hey", TOKEN_KIND_NORMAL},          {"hey", TOKEN_KIND_NORMAL},
    {"<|bos|>", TOKEN_KIND_CONTROL},     {"<|im_end|>", TOKEN_KIND_CONTROL},
    {"sys", TOKEN_KIND_CONTROL},         {"<unk>", TOKEN_KIND_UNKNOWN},
    {"<tool>", TOKEN_KIND_USER_DEFINED}, {"<tool><tool>", TOKEN_KIND_USER_DEFINED},
    {"\u00E9", TOKEN_KIND_USER_DEFINED}, {"<pad>", TOKEN_KIND_UNUSED},
};

/* The stand-ins of GPT-2's bytes_to_unicode(), counted as it counts them. */
static const char *byte_text(int byte)
{
    static char texts[256][5];
    uint32_t next = 0x100;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
        size_t n = utf8_encode(printable ? (uint32_t)b : next++, (uint8_t *)texts[b]);
        texts[b][n] = 0;
    }
    return texts[byte];
}

const char *const *sample_vocab_texts(void)
{
    static const char *texts[SAMPLE_COUNT];
    CHECK(256 + COUNT_OF(others) == SAMPLE_COUNT);
    for (int byte = 0; byte < 256; byte++) texts[byte] = byte_text(byte);
    for (size_t i = 0; i < COUNT_OF(others); i++) texts[256 + i] = others[i].text;
    return texts;
}

const int32_t *sample_vocab_types(void)
{
    static int32_t types[SAMPLE_COUNT];
    for (int byte = 0; byte < 256; byte++) types[byte] = TOKEN_KIND_NORMAL;
    for (size_t i = 0; i < COUNT_OF(others); i++) types[256 + i] = others[i].type;
    return types;
}

void sample_vocab_write(struct gguf_writer *writer)
{
    writer_set_string(writer, "tokenizer.ggml.model", "gpt2");
    writer_set_string(writer, "tokenizer.ggml.pre", "gpt-2");
    writer_set_strings(writer, "tokenizer.ggml.tokens", SAMPLE_COUNT, sample_vocab_texts());
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_I32, SAMPLE_COUNT, sample_vocab_types(),
                     SAMPLE_COUNT * sizeof(int32_t));
    writer_set_strings(writer, "tokenizer.ggml.merges", COUNT_OF(merges), merges);
    writer_set_u32(writer, "tokenizer.ggml.bos_token_id", SAMPLE_BOS);
    writer_set_u32(writer, "tokenizer.ggml.eos_token_id", SAMPLE_IM_END);
}

int sample_vocab_open(const struct gguf_writer *writer, struct tokenizer **ret_tokenizer, struct err *err)
{
    struct buf bytes;
    struct gguf *gguf = NULL;
    writer_finish(writer, &bytes);
    int r = gguf_parse(bytes.bytes, bytes.len, &gguf, err);
    if (r == 0) r = tokenizer_open(gguf, ret_tokenizer, err);
    gguf_free(gguf);
    buf_done(&bytes);
    return r;
}

struct tokenizer *sample_vocab_new(void)
{
    struct tokenizer *tokenizer = NULL;
    struct gguf_writer *writer = malloc(sizeof *writer);
    if (!writer) abort();
    writer_init(writer);
    sample_vocab_write(writer);
    CHECK(sample_vocab_open(writer, &tokenizer, NULL) == 0);
    writer_done(writer);
    free(writer);
    return tokenizer;
}

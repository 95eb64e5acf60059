/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target of common/text/{tokenizer,detok}. The low bits of the first byte pick one of three games:
 *   00    the rest is text for the sample vocabulary, under the pre-tokenizer and flags of the next two
 *         bytes; what comes back must be the text, and no special token may come of a user's text;
 *   10    the same by tokenizer_encode_spans, with runs that the next byte seeds;
 *   x1    the rest edits the bytes of a vocabulary file, which then must open or be refused, and tokenize
 *         without harm if it opens. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/utf8.h"
#include "common/text/detok.h"
#include "common/text/pretokenizer.h"
#include "tests/data/sample_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FLAGS = TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, NAMES_MAX = 64 };

static struct buf sample_file(const char *pre)
{
    struct buf bytes;
    struct gguf_writer *writer = malloc(sizeof *writer);
    CHECK(writer);
    writer_init(writer);
    sample_vocab_write(writer);
    writer_set_string(writer, "tokenizer.ggml.pre", pre);
    writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 1);
    writer_finish(writer, &bytes);
    writer_done(writer);
    free(writer);
    return bytes;
}

static int open_bytes(const struct buf *bytes, struct tokenizer **ret_tokenizer)
{
    struct gguf *gguf = NULL;
    struct err err;
    int r = gguf_parse(bytes->bytes, bytes->len, &gguf, &err);
    if (r == 0) r = tokenizer_open(gguf, ret_tokenizer, &err);
    gguf_free(gguf);
    return r;
}

/* One tokenizer for each pre-tokenizer, opened at first use. */
static struct tokenizer *tokenizer_of(uint8_t pick)
{
    static struct tokenizer *tokenizers[NAMES_MAX];
    size_t count = 0;
    while (pretokenizer_name_at(count)) count++;
    CHECK(count <= NAMES_MAX);
    size_t i = pick % count;
    if (!tokenizers[i]) {
        struct buf bytes = sample_file(pretokenizer_name_at(i));
        CHECK(open_bytes(&bytes, &tokenizers[i]) == 0);
        buf_done(&bytes);
    }
    return tokenizers[i];
}

static void check_detok(const struct tokenizer *tokenizer, const struct token_list *list,
                        const struct buf *want)
{
    struct detok detok;
    struct buf out;
    buf_init(&out, 1 << 24);
    detok_init(&detok, tokenizer, false);
    for (size_t i = 0; i < list->count; i++) {
        CHECK(detok_push(&detok, list->ids[i], &out) == 0);
        CHECK(utf8_is_valid(out.bytes, out.len));
    }
    CHECK(detok_flush(&detok, &out) == 0);
    CHECK(out.len == want->len && memcmp(buf_text(&out), buf_text(want), out.len) == 0);
    buf_done(&out);
}

static void play_text(uint8_t pick, uint8_t knobs, const uint8_t *text, size_t len)
{
    const struct tokenizer *tokenizer = tokenizer_of(pick);
    unsigned flags = knobs & FLAGS;
    size_t ids_max = knobs & 0x80 ? knobs & 0x7C : SIZE_MAX;
    struct token_list list = {0};
    struct buf out;
    int r = tokenizer_encode(tokenizer, (const char *)text, len, flags, ids_max, &list, NULL);
    CHECK(r == 0 || r == ERR_INPUT || (r == -EMSGSIZE && ids_max != SIZE_MAX));
    CHECK(list.count <= ids_max);
    if (r < 0) CHECK(list.count == 0);
    if (r == ERR_INPUT) CHECK(!utf8_is_valid(text, len));
    if (r == 0 && list.count) {
        size_t bos = flags & TOKENIZER_ADD_BOS ? 1 : 0;
        if (!(flags & TOKENIZER_PARSE_SPECIAL))
            for (size_t i = bos; i < list.count; i++) CHECK(!tokenizer_is_special(tokenizer, list.ids[i]));
        buf_init(&out, 1 << 24);
        CHECK(tokenizer_decode(tokenizer, list.ids + bos, list.count - bos, false, &out) == 0);
        CHECK(out.len == len && memcmp(buf_text(&out), text, len) == 0);
        buf_clear(&out);
        CHECK(tokenizer_decode(tokenizer, list.ids, list.count, false, &out) == 0);
        check_detok(tokenizer, &list, &out);
        buf_done(&out);
    }
    token_list_done(&list);
}

/* Runs of up to 15 bytes, some left out. A special token must lie in runs of the template. */
static void play_spans(uint8_t pick, const uint8_t *text, size_t len)
{
    enum { SPANS_MAX = 256 };
    const struct tokenizer *tokenizer = tokenizer_of(0);
    struct text_span spans[SPANS_MAX];
    struct token_list list = {0};
    size_t span_count = 0;
    struct rng rng = {pick};
    for (size_t first = 0; first < len && span_count < SPANS_MAX;) {
        size_t span_len = rng_below(&rng, 16);
        if (span_len > len - first) span_len = len - first;
        if (rng_below(&rng, 8)) spans[span_count++] = (struct text_span){first, span_len, rng_below(&rng, 2)};
        first += span_len;
    }
    int r = tokenizer_encode_spans(tokenizer, (const char *)text, len, spans, span_count, 0, SIZE_MAX, &list,
                                   NULL);
    CHECK(r == (utf8_is_valid(text, len) ? 0 : ERR_INPUT));
    size_t pos = 0, i = 0;
    for (size_t at = 0; at < list.count; at++) {
        size_t token_len;
        const uint8_t *bytes = tokenizer_token_bytes(tokenizer, list.ids[at], &token_len);
        CHECK(pos + token_len <= len && memcmp(text + pos, bytes, token_len) == 0);
        for (size_t end = pos + token_len; pos < end; pos++) {
            while (i < span_count && spans[i].first + spans[i].len <= pos) i++;
            bool trusted = i < span_count && spans[i].first <= pos && !spans[i].is_user;
            CHECK(trusted || !tokenizer_is_special(tokenizer, list.ids[at]));
        }
    }
    if (r == 0) CHECK(pos == len);
    token_list_done(&list);
}

/* Edits: two bytes of offset, one of the new value. */
static void play_file(const uint8_t *data, size_t size)
{
    static const char text[] = "in the hello<tool><|im_end|> aaaaaaaaa \xC3\xA9 sys 123\n\n";
    static struct buf sample; // built once, never freed
    struct buf bytes;
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    if (sample.len == 0) sample = sample_file("gpt-2");
    buf_init(&bytes, sample.len);
    CHECK(buf_append(&bytes, sample.bytes, sample.len) == 0);
    for (; size >= 3; data += 3, size -= 3) bytes.bytes[(data[0] | data[1] << 8) % bytes.len] = data[2];
    if (open_bytes(&bytes, &tokenizer) == 0) {
        int r = tokenizer_encode(tokenizer, text, strlen(text), FLAGS, 1000, &list, NULL);
        CHECK(r == 0 || r == -EMSGSIZE);
        for (size_t i = 0; i < list.count; i++) CHECK(list.ids[i] < tokenizer_vocab_count(tokenizer));
    }
    token_list_done(&list);
    tokenizer_close(tokenizer);
    buf_done(&bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    if (data[0] & 1) play_file(data + 1, size - 1);
    else if (size >= 3 && data[0] & 2) play_spans(data[1], data + 2, size - 2);
    else if (size >= 3) play_text(data[1], data[2], data + 3, size - 3);
    return 0;
}

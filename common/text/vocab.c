/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"
#include "common/text/byte_alphabet.h"
#include "common/text/tokenizer.h"

/* Written in the byte alphabet. UNUSED is: should a merge produce one, it is a token like others. */
static bool is_alphabet_kind(enum token_kind kind)
{
    return kind != TOKEN_KIND_UNKNOWN && kind != TOKEN_KIND_CONTROL && kind != TOKEN_KIND_USER_DEFINED;
}

static bool is_printable_ascii(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] < 0x21 || bytes[i] > 0x7E) return false;
    return true;
}

uint32_t vocab_find_mergeable(const struct vocab *vocab, const uint8_t *bytes, size_t len)
{
    if (len == 1) return vocab->byte_tokens[bytes[0]];
    uint64_t hash = hash64(bytes, len);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (uint32_t at = (uint32_t)hash & vocab->slot_mask;; at = (at + 1) & vocab->slot_mask) {
        const struct vocab_slot *slot = &vocab->slots[at];
        if (slot->id == TOKEN_NONE) return TOKEN_NONE;
        if (slot->tag != tag) continue;
        size_t slot_len;
        const uint8_t *slot_bytes = vocab_bytes(vocab, slot->id, &slot_len);
        if (slot_len == len && memcmp(slot_bytes, bytes, len) == 0) return slot->id;
    }
}

static void insert_mergeable(struct vocab *vocab, uint32_t id)
{
    size_t len;
    const uint8_t *bytes = vocab_bytes(vocab, id, &len);
    if (len == 0 || vocab_find_mergeable(vocab, bytes, len) != TOKEN_NONE) return; // the lowest id wins
    if (len == 1) {
        vocab->byte_tokens[bytes[0]] = id;
        return;
    }
    uint64_t hash = hash64(bytes, len);
    uint32_t at = (uint32_t)hash & vocab->slot_mask;
    while (vocab->slots[at].id != TOKEN_NONE) at = (at + 1) & vocab->slot_mask;
    vocab->slots[at] = (struct vocab_slot){(uint32_t)(hash >> 32), id};
}

/* The kinds array, or all NORMAL when the file has none. */
static int read_kinds(struct vocab *vocab, const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.token_type";
    size_t count;
    const void *data;
    int r = gguf_get_array(gguf, key, GGUF_I32, &count, &data);
    if (r == ERR_FORMAT) r = gguf_get_array(gguf, key, GGUF_U32, &count, &data);
    if (r == -ENOENT) {
        memset(vocab->kinds, TOKEN_KIND_NORMAL, vocab->count);
        return 0;
    }
    if (r < 0) return ERR(err, r, "%s: not an array of 32-bit integers", key);
    if (count != vocab->count)
        return ERR(err, ERR_FORMAT, "%s: %zu entries for %u tokens", key, count, vocab->count);
    for (uint32_t id = 0; id < vocab->count; id++) {
        uint32_t kind;
        memcpy(&kind, (const uint8_t *)data + (size_t)id * sizeof kind, sizeof kind);
        if (kind >= TOKEN_KIND_COUNT)
            return ERR(err, ERR_FORMAT, "%s: token %u has unknown type %u", key, id, kind);
        vocab->kinds[id] = (uint8_t)kind;
    }
    return 0;
}

/* BPE needs no scores; a file whose scores do not fit its tokens is damaged all the same. */
static int verify_scores(const struct vocab *vocab, const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.scores";
    size_t count;
    const void *data;
    int r = gguf_get_array(gguf, key, GGUF_F32, &count, &data);
    if (r == -ENOENT) return 0;
    if (r < 0) return ERR(err, r, "%s: not an array of f32", key);
    if (count != vocab->count)
        return ERR(err, ERR_FORMAT, "%s: %zu entries for %u tokens", key, count, vocab->count);
    return 0;
}

/* Writes the bytes of one token at `at` (room for string->len); returns their count or -EILSEQ.
 * *ret_mergeable: its text is in the byte alphabet, so BPE may produce it. */
static int write_token(uint8_t *at, const struct gguf_string *string, enum token_kind kind,
                       bool *ret_mergeable)
{
    if (is_alphabet_kind(kind)) {
        int n = byte_alphabet_decode(string->bytes, string->len, at);
        *ret_mergeable = n >= 0;
        if (n >= 0) return n;
    }
    if (!utf8_is_valid((const uint8_t *)string->bytes, string->len)) return -EILSEQ;
    if (string->len) memcpy(at, string->bytes, string->len);
    return (int)string->len;
}

static int alloc_arrays(struct vocab *vocab, size_t text_bytes)
{
    uint32_t slot_count = 16;
    while (slot_count < 2 * vocab->count) slot_count *= 2; // load at most one half
    vocab->slot_mask = slot_count - 1;
    vocab->text = malloc(text_bytes + 1); // never a NULL text
    vocab->offsets = calloc((size_t)vocab->count + 1, sizeof *vocab->offsets);
    vocab->kinds = calloc(vocab->count, 1);
    vocab->slots = malloc(slot_count * sizeof *vocab->slots);
    if (!vocab->text || !vocab->offsets || !vocab->kinds || !vocab->slots) return -ENOMEM;
    for (uint32_t at = 0; at < slot_count; at++) vocab->slots[at] = (struct vocab_slot){0, TOKEN_NONE};
    for (int byte = 0; byte < 256; byte++) vocab->byte_tokens[byte] = TOKEN_NONE;
    return 0;
}

static int fill_tokens(struct vocab *vocab, const struct gguf_string *strings, struct err *err)
{
    uint32_t used = 0;
    vocab->longest_bytes = 1;
    for (uint32_t id = 0; id < vocab->count; id++) {
        bool mergeable = false;
        int n = write_token(vocab->text + used, &strings[id], vocab->kinds[id], &mergeable);
        if (n < 0) return ERR(err, ERR_FORMAT, "tokenizer.ggml.tokens: token %u is not UTF-8", id);
        used += (uint32_t)n;
        vocab->offsets[id + 1] = used;
        if ((uint32_t)n > vocab->longest_bytes) vocab->longest_bytes = (uint32_t)n;
        if (mergeable) insert_mergeable(vocab, id);
    }
    /* USER_DEFINED tokens come last: one with the bytes of a normal token must not displace the
     * token that the merges were trained on. */
    for (uint32_t id = 0; id < vocab->count; id++) {
        size_t len;
        const uint8_t *bytes = vocab_bytes(vocab, id, &len);
        bool is_user = vocab->kinds[id] == TOKEN_KIND_USER_DEFINED;
        if (is_user && is_printable_ascii(bytes, len)) insert_mergeable(vocab, id);
    }
    return 0;
}

int vocab_open(struct vocab *vocab, const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.tokens";
    const struct gguf_string *strings;
    size_t count, text_bytes = 0;
    int r = gguf_get_string_array(gguf, key, &count, &strings);
    if (r == -ENOENT) return ERR(err, ERR_FORMAT, "%s: missing", key);
    if (r < 0) return ERR(err, r, "%s: not an array of strings", key);
    if (count == 0) return ERR(err, ERR_FORMAT, "%s: empty", key);
    if (count > MODEL_VOCAB_MAX)
        return ERR(err, ERR_LIMIT, "%s: %zu tokens, at most %d", key, count, MODEL_VOCAB_MAX);
    for (size_t id = 0; id < count; id++) {
        if (strings[id].len > VOCAB_TOKEN_BYTES_MAX)
            return ERR(err, ERR_LIMIT, "%s: token %zu has %zu bytes, at most %d", key, id, strings[id].len,
                       VOCAB_TOKEN_BYTES_MAX);
        text_bytes += strings[id].len;
    }
    if (text_bytes > VOCAB_TEXT_BYTES_MAX)
        return ERR(err, ERR_LIMIT, "%s: %zu bytes of text, at most %d", key, text_bytes,
                   VOCAB_TEXT_BYTES_MAX);

    vocab->count = (uint32_t)count;
    r = alloc_arrays(vocab, text_bytes);
    if (r < 0) {
        r = ERR(err, r, "%s: out of memory", key);
        goto out;
    }
    r = read_kinds(vocab, gguf, err);
    if (r < 0) goto out;
    r = verify_scores(vocab, gguf, err);
    if (r < 0) goto out;
    r = fill_tokens(vocab, strings, err);
out:
    if (r < 0) vocab_close(vocab);
    return r;
}

void vocab_close(struct vocab *vocab)
{
    free(vocab->text);
    free(vocab->offsets);
    free(vocab->kinds);
    free(vocab->slots);
    *vocab = (struct vocab){0};
}

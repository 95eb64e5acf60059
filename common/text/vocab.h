/* SPDX-License-Identifier: Apache-2.0 */
/* vocab - the token list of a byte-level vocabulary: bytes and kind of each id, and the way back.
 *
 * Two namespaces, because a file has two spellings. Normal tokens are written in the byte alphabet
 * and are *mergeable*: BPE may produce them. CONTROL, UNKNOWN and USER_DEFINED tokens are literal
 * text. A literal token is never found by vocab_find_mergeable, so no text of a user can
 * become a control token by way of the merges; the one exception is a USER_DEFINED token of
 * printable ASCII, where both spellings are the same text.
 *
 * Of several tokens with the same bytes the lowest id wins: converters append padding after the
 * trained tokens. Empty tokens and normal tokens outside the byte alphabet have bytes but are never
 * found. Owns copies of everything; immutable after open. */
#ifndef KVASIR_TEXT_VOCAB_H
#define KVASIR_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/gguf.h"

/* Values of tokenizer.ggml.token_type (GGUF specification). */
enum token_kind {
    TOKEN_KIND_UNDEFINED,
    TOKEN_KIND_NORMAL,
    TOKEN_KIND_UNKNOWN,
    TOKEN_KIND_CONTROL,
    TOKEN_KIND_USER_DEFINED,
    TOKEN_KIND_UNUSED,
    TOKEN_KIND_BYTE,
    TOKEN_KIND_COUNT,
};

enum {
    VOCAB_TOKEN_BYTES_MAX = 1 << 16,
    VOCAB_TEXT_BYTES_MAX = 1 << 28, // all tokens together; offsets fit 32 bits
};

struct vocab_slot {
    uint32_t tag; // upper half of the hash
    uint32_t id;  // TOKEN_NONE: empty
};

struct vocab {
    uint32_t count;
    uint32_t longest_bytes;    // of any token, at least 1
    uint8_t *text;             // owned; bytes of all tokens, back to back
    uint32_t *offsets;         // owned; count + 1 offsets into text
    uint8_t *kinds;            // owned; enum token_kind of each id
    struct vocab_slot *slots;  // owned; open addressing over the mergeable tokens
    uint32_t slot_mask;        // slots - 1, slots is a power of two
    uint32_t byte_tokens[256]; // mergeable token of each single byte, or TOKEN_NONE
};

/* Reads tokenizer.ggml.{tokens,token_type,scores} (scores are only verified). The vocab must be
 * zero-initialized; on an error it is as good as closed. ERR_FORMAT, ERR_LIMIT, -ENOMEM. */
int vocab_open(struct vocab *vocab, const struct gguf *gguf, struct err *err);
void vocab_close(struct vocab *vocab);

/* Lowest mergeable id whose bytes these are, or TOKEN_NONE. */
uint32_t vocab_find_mergeable(const struct vocab *vocab, const uint8_t *bytes, size_t len);

static inline const uint8_t *vocab_bytes(const struct vocab *vocab, uint32_t id, size_t *ret_len)
{
    *ret_len = vocab->offsets[id + 1] - vocab->offsets[id];
    return vocab->text + vocab->offsets[id];
}

/* CONTROL or UNKNOWN: only text of the operator's template may become one. */
static inline bool vocab_is_special(const struct vocab *vocab, uint32_t id)
{
    return vocab->kinds[id] == TOKEN_KIND_CONTROL || vocab->kinds[id] == TOKEN_KIND_UNKNOWN;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer - text to token ids and back for one vocabulary.
 *
 * Immutable after open, usable from several threads at once. Text is UTF-8 bytes of a given length
 * and may hold NUL. Special tokens (CONTROL and UNKNOWN of the vocabulary) are only ever produced
 * from text marked TOKENIZER_PARSE_SPECIAL, which is text of the operator's template, never of a
 * user; USER_DEFINED tokens are matched in both. */
#ifndef KVASIR_TEXT_TOKENIZER_H
#define KVASIR_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/gguf/gguf.h"

#define TOKEN_NONE UINT32_MAX

struct tokenizer; // opaque

enum tokenizer_flags {
    TOKENIZER_PARSE_SPECIAL = 1, // special tokens in the text become their ids
    TOKENIZER_ADD_BOS = 2,       // BOS first, if the vocabulary asks for one (add_bos_token)
};

/* Growable array of token ids; zero-initialize, token_list_done frees. */
struct token_list {
    uint32_t *ids; // owned
    size_t count, cap;
};
int token_list_push(struct token_list *list, uint32_t id); // 0 or -ENOMEM
void token_list_done(struct token_list *list);

/* Builds from tokenizer.* keys; copies what it needs, so gguf may be freed afterwards.
 * ERR_UNSUPPORTED names a tokenizer model or pre-tokenizer that this build does not have. */
int tokenizer_open(const struct gguf *gguf, struct tokenizer **ret_tokenizer, struct err *err);
void tokenizer_close(struct tokenizer *tokenizer); // NULL is fine

/* Appends the ids of text to list. At most ids_max in the list afterwards: -EMSGSIZE past it (so
 * that a huge prompt is refused early). ERR_INPUT for invalid UTF-8. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     size_t ids_max, struct token_list *list, struct err *err);

/* A run of a text by its origin. Runs are in order and do not overlap; what none covers is the user's. */
struct text_span {
    size_t first, len;
    bool is_user; // no special token may be found in it, not even in part
};

/* Like tokenizer_encode over the whole text at once (pieces may span runs), but special tokens are found
 * only where every byte of theirs lies in runs that are not the user's; USER_DEFINED ones anywhere. flags:
 * TOKENIZER_ADD_BOS adds one unless the text itself begins with that token; no other flag counts. Linear in
 * the text and the runs. */
int tokenizer_encode_spans(const struct tokenizer *tokenizer, const char *text, size_t len,
                           const struct text_span *spans, size_t span_count, unsigned flags, size_t ids_max,
                           struct token_list *list, struct err *err);

/* Raw bytes of one token (its text after byte-decoding); borrowed, not NUL-terminated. Special
 * tokens give their literal text. id out of range: len 0. */
const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, size_t *ret_len);

/* Appends the bytes of ids to out; skip_special leaves CONTROL and UNKNOWN tokens out. */
int tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, bool skip_special,
                     struct buf *out);

uint32_t tokenizer_vocab_count(const struct tokenizer *tokenizer);
bool tokenizer_is_special(const struct tokenizer *tokenizer, uint32_t id); // CONTROL or UNKNOWN
bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id); // ends a generation (EOS, EOT, ...)
const uint32_t *tokenizer_ends(const struct tokenizer *tokenizer, size_t *ret_count); // all such ids
uint32_t tokenizer_bos(const struct tokenizer *tokenizer); // TOKEN_NONE when absent
uint32_t tokenizer_eos(const struct tokenizer *tokenizer);
uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text,
                        size_t len); // exact token or TOKEN_NONE

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* pretokenizer - cuts text into the pieces that BPE merges within, by `tokenizer.ggml.pre`.
 *
 * A pre-tokenizer is a list of regular expressions applied in sequence: each one splits the pieces
 * left by the one before, and the text between its matches becomes pieces of its own. A piece is
 * the whole subject of the next expression, so that lookarounds cannot see past it. The pieces in
 * order are exactly the text.
 *
 * Compiled once (PCRE2, UTF and UCP, just-in-time where the system allows writable code, else the
 * interpreter: same pieces, slower). Immutable after open, usable from several threads at once. */
#ifndef KVASIR_TEXT_PRETOKENIZER_H
#define KVASIR_TEXT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct pretokenizer;       // opaque
struct pretokenizer_split; // opaque; the state of one caller

struct pretokenizer_facts {
    bool ignore_merges; // a piece that is a token becomes it, whatever the merges say
    bool add_bos;       // default where the file has no add_bos_token
};

enum { PRETOKENIZER_NO_JIT = 1 }; // flags: leave the just-in-time compiler out (tests)

/* ERR_UNSUPPORTED names an unknown pre-tokenizer. */
int pretokenizer_open(const char *name, size_t len, unsigned flags, struct pretokenizer **ret_pretokenizer,
                      struct err *err);
void pretokenizer_close(struct pretokenizer *pretokenizer); // NULL is fine

struct pretokenizer_facts pretokenizer_facts(const struct pretokenizer *pretokenizer);

/* Takes one piece (never empty); a negative return ends the split with that code. */
typedef int pretokenizer_piece_fn(void *context, const uint8_t *piece, size_t len);

/* Calls piece for each piece of text, in order. The text must be valid UTF-8. Returns what piece
 * returned if negative, -ENOMEM, or ERR_LIMIT when an expression passed its match limit. */
int pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_split *split,
                     const uint8_t *text, size_t len, pretokenizer_piece_fn *piece, void *context);

/* Scratch of one caller; not shared between threads. NULL when out of memory. */
struct pretokenizer_split *pretokenizer_split_new(void);
void pretokenizer_split_free(struct pretokenizer_split *split); // NULL is fine

/* Name of the i-th known pre-tokenizer, NULL past the last. */
const char *pretokenizer_name_at(size_t i);

#endif

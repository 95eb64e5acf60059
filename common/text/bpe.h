/* SPDX-License-Identifier: Apache-2.0 */
/* bpe - merges the bytes of one piece into tokens (byte-pair encoding: Sennrich, Haddow, Birch 2016).
 *
 * Of all adjacent pairs that have a merge, the one with the lowest rank is merged first, leftmost
 * among equals, until none is left. Short pieces scan an array; long ones use a heap over a linked
 * list, O(n log n), so that a megabyte of one letter costs a fraction of a second.
 *
 * A byte that the vocabulary has no token for is left out before merging, as Hugging Face's
 * tokenizers does without an unknown token. (SmolLM2 lacks six control characters.)
 *
 * The struct borrows the vocab and owns its tables; immutable after open but for `whole`, a cache
 * whose races are benign: every thread that fills an entry computes the same value. */
#ifndef KVASIR_TEXT_BPE_H
#define KVASIR_TEXT_BPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/gguf.h"
#include "common/text/special.h"
#include "common/text/tokenizer.h"
#include "common/text/vocab.h"

enum { BPE_MERGES_MAX = 1 << 22 };

struct bpe_merge {
    uint32_t left, right; // token ids
    uint32_t merged;      // token id, or TOKEN_NONE: the merge is never made
};

struct bpe_slot {
    uint32_t left, right; // TOKEN_NONE: empty slot
    uint32_t rank;        // index into merges
    uint32_t merged;
};

struct bpe {
    const struct vocab *vocab; // borrowed
    struct bpe_merge *merges;  // owned; by rank
    struct bpe_slot *slots;    // owned; open addressing by (left, right)
    uint32_t slot_mask;        // slots - 1, slots is a power of two
    bool ignore_merges;     // set by the caller; a piece that is a token becomes it, whatever the merges say
    _Atomic uint8_t *whole; // owned; enum whole of each token
};

/* Scratch of one caller, for long pieces; zero-initialize, bpe_scratch_done frees. */
struct bpe_scratch {
    struct bpe_symbol *symbols; // owned
    size_t symbol_cap;
    uint64_t *heap; // owned
    size_t heap_count, heap_cap;
};

/* Reads tokenizer.ggml.merges. bpe must be zero-initialized; the vocab must outlive it. ERR_FORMAT
 * names a merge that is not two tokens or whose result is none; a merge that would make a CONTROL
 * or UNKNOWN token is left out. ERR_LIMIT, -ENOMEM. */
int bpe_open(struct bpe *bpe, const struct vocab *vocab, const struct special *special,
             const struct gguf *gguf, struct err *err);
void bpe_close(struct bpe *bpe);

/* Appends the ids of one piece. -EMSGSIZE when the list would pass ids_max, -ENOMEM. */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t len,
               size_t ids_max, struct token_list *list);
void bpe_scratch_done(struct bpe_scratch *scratch);

#endif

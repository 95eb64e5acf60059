/* SPDX-License-Identifier: Apache-2.0 */
/* detok - incremental detokenizer of one generated sequence: never emits half a UTF-8 character.
 *
 * Bytes that are a proper prefix of a well-formed sequence are held back (at most 3) until they
 * complete; bytes that can never complete come out as U+FFFD. Concatenating everything pushed out,
 * with the flush at the end, equals decoding all ids at once with malformed bytes replaced. */
#ifndef KVASIR_TEXT_DETOK_H
#define KVASIR_TEXT_DETOK_H

#include "common/text/tokenizer.h"

struct detok {
    const struct tokenizer *tokenizer; // borrowed
    bool skip_special;
    uint8_t held[4]; // incomplete tail
    uint32_t held_count;
};

void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special);
int detok_push(struct detok *detok, uint32_t id, struct buf *out); // appends complete text; 0 or buf error
int detok_flush(struct detok *detok, struct buf *out);             // held bytes become U+FFFD

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* special - finds the tokens that are matched in text as a whole, before pre-tokenizing: CONTROL,
 * UNKNOWN and USER_DEFINED ones. A trie over their literal bytes; matches are leftmost, then longest,
 * as Hugging Face's tokenizers takes its added tokens. Owns the trie; immutable after open. */
#ifndef KVASIR_TEXT_SPECIAL_H
#define KVASIR_TEXT_SPECIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/text/vocab.h"

/* Which tokens a search may find. */
enum special_scope {
    SPECIAL_USER_DEFINED, // text of a user
    SPECIAL_ALL,          // text of the operator's template
    SPECIAL_SCOPE_COUNT,
};

struct special_node {
    uint32_t ids[SPECIAL_SCOPE_COUNT]; // token that ends here, or TOKEN_NONE
};

struct special_edge {
    uint32_t key;   // parent node << 8 | byte
    uint32_t child; // 0: empty slot (the root is nobody's child)
};

struct special {
    struct special_node *nodes; // owned; node 0 is the root
    uint32_t node_count;
    struct special_edge *edges; // owned; open addressing
    uint32_t edge_mask;
    bool starts[SPECIAL_SCOPE_COUNT][256]; // some token in scope starts with this byte
};

struct special_match {
    size_t offset, len; // in the text
    uint32_t id;
};

/* special must be zero-initialized. ERR_LIMIT, -ENOMEM. */
int special_open(struct special *special, const struct vocab *vocab, struct err *err);
void special_close(struct special *special);

/* Where a search may find what; offsets in the text. */
struct special_window {
    size_t from, until; // a match starts in [from, until); it may end past `until`
    size_t trusted_end; // a CONTROL or UNKNOWN token must end at or before this; 0: none is found
};

/* First match in the window; false when there is none. */
bool special_next(const struct special *special, const uint8_t *text, size_t len,
                  struct special_window window, struct special_match *ret_match);

/* Token whose whole text this is, or TOKEN_NONE. */
uint32_t special_find(const struct special *special, enum special_scope scope, const uint8_t *text,
                      size_t len);

#endif

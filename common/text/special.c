/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/special.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/text/tokenizer.h"

/* A node number shifted by 8 must fit the 32 bits of an edge's key. */
enum { NODES_MAX = 1 << 24 };

static bool is_whole(const struct vocab *vocab, uint32_t id)
{
    return vocab_is_special(vocab, id) || vocab->kinds[id] == TOKEN_KIND_USER_DEFINED;
}

/* Slot of the key, or the empty slot where it belongs. Multiplicative hashing (Knuth, vol. 3, 6.4). */
static struct special_edge *find_edge(const struct special *special, uint32_t node, uint8_t byte)
{
    uint32_t key = node << 8 | byte;
    uint32_t at = (key * 2654435769u) >> 7;
    for (;; at++) {
        struct special_edge *edge = &special->edges[at & special->edge_mask];
        if (edge->child == 0 || edge->key == key) return edge;
    }
}

static void add_token(struct special *special, const struct vocab *vocab, uint32_t id)
{
    size_t len;
    const uint8_t *bytes = vocab_bytes(vocab, id, &len);
    bool is_user = vocab->kinds[id] == TOKEN_KIND_USER_DEFINED;
    uint32_t node = 0;
    if (len == 0) return;
    for (size_t i = 0; i < len; i++) {
        struct special_edge *edge = find_edge(special, node, bytes[i]);
        if (edge->child == 0) {
            uint32_t child = special->node_count++;
            special->nodes[child] = (struct special_node){{TOKEN_NONE, TOKEN_NONE}};
            *edge = (struct special_edge){node << 8 | bytes[i], child};
        }
        node = edge->child;
    }
    uint32_t *ids = special->nodes[node].ids;
    if (ids[SPECIAL_ALL] == TOKEN_NONE) ids[SPECIAL_ALL] = id; // the lowest id wins
    special->starts[SPECIAL_ALL][bytes[0]] = true;
    if (!is_user) return;
    if (ids[SPECIAL_USER_DEFINED] == TOKEN_NONE) ids[SPECIAL_USER_DEFINED] = id;
    special->starts[SPECIAL_USER_DEFINED][bytes[0]] = true;
}

int special_open(struct special *special, const struct vocab *vocab, struct err *err)
{
    size_t node_count = 1, edge_count = 16;
    for (uint32_t id = 0; id < vocab->count; id++) {
        size_t len;
        (void)vocab_bytes(vocab, id, &len); // only the length
        if (is_whole(vocab, id)) node_count += len;
    }
    if (node_count > NODES_MAX)
        return ERR(err, ERR_LIMIT, "special tokens have %zu bytes of text, at most %d", node_count - 1,
                   NODES_MAX - 1);
    while (edge_count < 2 * node_count) edge_count *= 2;
    special->nodes = malloc(node_count * sizeof *special->nodes);
    special->edges = calloc(edge_count, sizeof *special->edges);
    special->edge_mask = (uint32_t)(edge_count - 1);
    if (!special->nodes || !special->edges) {
        special_close(special);
        return ERR(err, -ENOMEM, "special tokens: out of memory");
    }
    special->nodes[0] = (struct special_node){{TOKEN_NONE, TOKEN_NONE}};
    special->node_count = 1;
    for (uint32_t id = 0; id < vocab->count; id++)
        if (is_whole(vocab, id)) add_token(special, vocab, id);
    CHECK(special->node_count <= node_count);
    return 0;
}

void special_close(struct special *special)
{
    free(special->nodes);
    free(special->edges);
    *special = (struct special){0};
}

/* Longest token that starts at text, its length or 0. Those of the whole scope end within the first
 * trusted_len bytes. */
static size_t match_here(const struct special *special, const uint8_t *text, size_t len, size_t trusted_len,
                         uint32_t *ret_id)
{
    uint32_t node = 0;
    size_t longest = 0;
    for (size_t i = 0; i < len; i++) {
        node = find_edge(special, node, text[i])->child;
        if (node == 0) break;
        uint32_t id = special->nodes[node].ids[i < trusted_len ? SPECIAL_ALL : SPECIAL_USER_DEFINED];
        if (id == TOKEN_NONE) continue;
        longest = i + 1;
        *ret_id = id;
    }
    return longest;
}

bool special_next(const struct special *special, const uint8_t *text, size_t len,
                  struct special_window window, struct special_match *ret_match)
{
    CHECK(window.until <= len);
    for (size_t offset = window.from; offset < window.until; offset++) {
        size_t trusted_len = window.trusted_end > offset ? window.trusted_end - offset : 0;
        if (!special->starts[trusted_len ? SPECIAL_ALL : SPECIAL_USER_DEFINED][text[offset]]) continue;
        uint32_t id = TOKEN_NONE;
        size_t match_len = match_here(special, text + offset, len - offset, trusted_len, &id);
        if (match_len == 0) continue;
        *ret_match = (struct special_match){offset, match_len, id};
        return true;
    }
    return false;
}

uint32_t special_find(const struct special *special, enum special_scope scope, const uint8_t *text,
                      size_t len)
{
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        node = find_edge(special, node, text[i])->child;
        if (node == 0) return TOKEN_NONE;
    }
    return special->nodes[node].ids[scope];
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/bpe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/text/byte_alphabet.h"

enum {
    SHORT_SYMBOLS_MAX = 64,                          // longer pieces take the heap
    MERGE_BYTES_MAX = 2 * VOCAB_TOKEN_BYTES_MAX + 1, // text of one merge
};
#define NOT_RANKED UINT32_MAX

/* Whether the merges turn a token's own bytes back into that token. Almost always, but not for a
 * token that was added after training, so it is computed at first use. */
enum whole { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

/* A node of the linked list; position order is array order. */
struct bpe_symbol {
    uint32_t id;         // TOKEN_NONE: merged into its left neighbour
    uint32_t prev, next; // index, TOKEN_NONE at the ends
};

/* ---- merge table ---- */

static uint32_t hash_pair(uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    key *= UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(key >> 32) ^ (uint32_t)(key >> 54);
}

/* The pair's slot, or the empty slot where it belongs. */
static struct bpe_slot *find_slot(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    for (uint32_t at = hash_pair(left, right);; at++) {
        struct bpe_slot *slot = &bpe->slots[at & bpe->slot_mask];
        if (slot->left == left && slot->right == right) return slot;
        if (slot->left == TOKEN_NONE) return slot;
    }
}

/* Rank of the pair; NOT_RANKED (which an empty slot holds) when it has no merge. */
static uint32_t rank_of(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    return find_slot(bpe, left, right)->rank;
}

/* Splits "left right" into its two sides. */
static int split_merge(const struct gguf_string *string, struct gguf_string *ret_left,
                       struct gguf_string *ret_right)
{
    const char *space = string->len ? memchr(string->bytes, ' ', string->len) : NULL;
    if (!space) return -EINVAL;
    size_t left_len = (size_t)(space - string->bytes);
    size_t right_len = string->len - left_len - 1;
    if (left_len == 0 || right_len == 0) return -EINVAL;
    *ret_left = (struct gguf_string){string->bytes, left_len};
    *ret_right = (struct gguf_string){space + 1, right_len}; // a second space is not in the alphabet
    return 0;
}

/* Mergeable token of a text in the byte alphabet. 0 when it is a special token, whose merge is left
 * out (*ret_id = TOKEN_NONE); ERR_FORMAT when the vocabulary does not hold it. bytes: room for len. */
static int resolve_text(const struct bpe *bpe, const struct special *special, const char *text, size_t len,
                        uint8_t *bytes, uint32_t *ret_id)
{
    int n = byte_alphabet_decode(text, len, bytes);
    *ret_id = n > 0 ? vocab_find_mergeable(bpe->vocab, bytes, (size_t)n) : TOKEN_NONE;
    if (*ret_id != TOKEN_NONE) return 0;
    return special_find(special, SPECIAL_ALL, (const uint8_t *)text, len) != TOKEN_NONE ? 0 : ERR_FORMAT;
}

/* scratch: room for two merges. */
static int resolve_merge(const struct bpe *bpe, const struct special *special,
                         const struct gguf_string *string, uint8_t *scratch, struct bpe_merge *ret_merge)
{
    struct gguf_string left, right;
    if (split_merge(string, &left, &right) < 0) return ERR_FORMAT;
    char *joined = (char *)scratch + MERGE_BYTES_MAX;
    memcpy(joined, left.bytes, left.len);
    memcpy(joined + left.len, right.bytes, right.len);
    struct bpe_merge merge;
    int r = resolve_text(bpe, special, left.bytes, left.len, scratch, &merge.left);
    if (r == 0) r = resolve_text(bpe, special, right.bytes, right.len, scratch, &merge.right);
    if (r == 0) r = resolve_text(bpe, special, joined, left.len + right.len, scratch, &merge.merged);
    if (r < 0) return r;
    if (merge.left == TOKEN_NONE || merge.right == TOKEN_NONE) merge.merged = TOKEN_NONE;
    *ret_merge = merge;
    return 0;
}

static int alloc_tables(struct bpe *bpe, size_t merge_count)
{
    size_t slot_count = 16;
    while (slot_count < 2 * merge_count) slot_count *= 2; // load at most one half
    bpe->slot_mask = (uint32_t)(slot_count - 1);
    bpe->merges = malloc((merge_count + 1) * sizeof *bpe->merges); // + 1: never of size 0
    bpe->slots = malloc(slot_count * sizeof *bpe->slots);
    bpe->whole = calloc(bpe->vocab->count, sizeof *bpe->whole);
    if (!bpe->merges || !bpe->slots || !bpe->whole) return -ENOMEM;
    for (size_t at = 0; at < slot_count; at++)
        bpe->slots[at] = (struct bpe_slot){TOKEN_NONE, TOKEN_NONE, NOT_RANKED, TOKEN_NONE};
    return 0;
}

static int fill_tables(struct bpe *bpe, const struct special *special, const struct gguf_string *strings,
                       size_t merge_count, struct err *err)
{
    const char *key = "tokenizer.ggml.merges";
    uint8_t *scratch = malloc(2 * MERGE_BYTES_MAX);
    int r = scratch ? 0 : ERR(err, -ENOMEM, "%s: out of memory", key);
    for (size_t rank = 0; r == 0 && rank < merge_count; rank++) {
        struct bpe_merge *merge = &bpe->merges[rank];
        r = strings[rank].len > MERGE_BYTES_MAX ? ERR_FORMAT
                                                : resolve_merge(bpe, special, &strings[rank], scratch, merge);
        if (r < 0) {
            r = ERR(err, r, "%s: merge %zu is not two tokens that make a third", key, rank);
            break;
        }
        if (merge->merged == TOKEN_NONE) continue;
        struct bpe_slot *slot = find_slot(bpe, merge->left, merge->right);
        if (slot->left != TOKEN_NONE) continue; // listed twice: the lower rank stays
        *slot = (struct bpe_slot){merge->left, merge->right, (uint32_t)rank, merge->merged};
    }
    free(scratch);
    return r;
}

int bpe_open(struct bpe *bpe, const struct vocab *vocab, const struct special *special,
             const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.merges";
    const struct gguf_string *strings;
    size_t merge_count;
    int r = gguf_get_string_array(gguf, key, &merge_count, &strings);
    if (r == -ENOENT) return ERR(err, ERR_FORMAT, "%s: missing", key);
    if (r < 0) return ERR(err, r, "%s: not an array of strings", key);
    if (merge_count > BPE_MERGES_MAX)
        return ERR(err, ERR_LIMIT, "%s: %zu merges, at most %d", key, merge_count, BPE_MERGES_MAX);
    bpe->vocab = vocab;
    r = alloc_tables(bpe, merge_count);
    if (r < 0) (void)ERR(err, r, "%s: out of memory", key); // the code is r already
    else r = fill_tables(bpe, special, strings, merge_count, err);
    if (r < 0) bpe_close(bpe);
    return r;
}

void bpe_close(struct bpe *bpe)
{
    free(bpe->merges);
    free(bpe->slots);
    free(bpe->whole);
    *bpe = (struct bpe){0};
}

/* ---- encoding ---- */

static int push(struct token_list *list, size_t ids_max, uint32_t id)
{
    if (list->count >= ids_max) return -EMSGSIZE;
    return token_list_push(list, id);
}

/* Tokens of the single bytes that have one; returns their count. */
static uint32_t byte_ids(const struct vocab *vocab, const uint8_t *piece, size_t len, uint32_t *ids)
{
    uint32_t count = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t id = vocab->byte_tokens[piece[i]];
        if (id != TOKEN_NONE) ids[count++] = id;
    }
    return count;
}

/* Merges ids[0, count) in place, count <= SHORT_SYMBOLS_MAX; returns the count left. */
static uint32_t merge_short(const struct bpe *bpe, uint32_t *ids, uint32_t count)
{
    uint32_t ranks[SHORT_SYMBOLS_MAX]; // of the pair (i, i + 1)
    for (uint32_t i = 0; i + 1 < count; i++) ranks[i] = rank_of(bpe, ids[i], ids[i + 1]);
    while (count > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < count; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NOT_RANKED) break;
        ids[best] = bpe->merges[ranks[best]].merged;
        count--;
        for (uint32_t i = best + 1; i < count; i++) ids[i] = ids[i + 1];
        for (uint32_t i = best + 1; i + 1 < count; i++) ranks[i] = ranks[i + 1];
        if (best + 1 < count) ranks[best] = rank_of(bpe, ids[best], ids[best + 1]);
        if (best > 0) ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best]);
    }
    return count;
}

/* The heap holds rank << 32 | index of the left symbol, smallest on top: lowest rank, then leftmost.
 * Entries are not removed when their pair goes away; they are recognised as stale when popped. */
static void sift_down(uint64_t *heap, size_t count, size_t hole, uint64_t entry)
{
    for (size_t child; (child = 2 * hole + 1) < count; hole = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (entry <= heap[child]) break;
        heap[hole] = heap[child];
    }
    heap[hole] = entry;
}

static void heap_pop(struct bpe_scratch *scratch)
{
    scratch->heap_count--;
    sift_down(scratch->heap, scratch->heap_count, 0, scratch->heap[scratch->heap_count]);
}

static int heap_push(struct bpe_scratch *scratch, uint64_t entry)
{
    if (scratch->heap_count == scratch->heap_cap) {
        size_t cap = scratch->heap_cap ? 2 * scratch->heap_cap : 1024;
        uint64_t *heap = realloc(scratch->heap, cap * sizeof *heap);
        if (!heap) return -ENOMEM;
        scratch->heap = heap;
        scratch->heap_cap = cap;
    }
    size_t hole = scratch->heap_count++;
    while (hole > 0 && entry < scratch->heap[(hole - 1) / 2]) {
        scratch->heap[hole] = scratch->heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    scratch->heap[hole] = entry;
    return 0;
}

static int push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left_idx,
                     uint32_t right_idx)
{
    if (left_idx == TOKEN_NONE || right_idx == TOKEN_NONE) return 0;
    uint32_t rank = rank_of(bpe, scratch->symbols[left_idx].id, scratch->symbols[right_idx].id);
    return rank == NOT_RANKED ? 0 : heap_push(scratch, (uint64_t)rank << 32 | left_idx);
}

/* Lists the symbols of the piece and the pairs that have a merge. Returns 0 or -ENOMEM. */
static int load_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t len,
                        uint32_t *ret_count)
{
    if (len > scratch->symbol_cap) {
        free(scratch->symbols); // nothing in it outlives a piece
        scratch->symbol_cap = 0;
        scratch->symbols = malloc(len * sizeof *scratch->symbols);
        if (!scratch->symbols) return -ENOMEM;
        scratch->symbol_cap = len;
    }
    uint32_t count = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t id = bpe->vocab->byte_tokens[piece[i]];
        if (id == TOKEN_NONE) continue;
        scratch->symbols[count] = (struct bpe_symbol){id, count ? count - 1 : TOKEN_NONE, count + 1};
        count++;
    }
    if (count) scratch->symbols[count - 1].next = TOKEN_NONE;
    scratch->heap_count = 0;
    for (uint32_t i = 0; i + 1 < count; i++) {
        /* In order of index the entries of one rank are nearly a heap already: pushes are cheap. */
        int r = push_pair(bpe, scratch, i, i + 1);
        if (r < 0) return r;
    }
    *ret_count = count;
    return 0;
}

static int merge_long(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    while (scratch->heap_count) {
        const struct bpe_merge *merge = &bpe->merges[scratch->heap[0] >> 32];
        uint32_t left_idx = (uint32_t)scratch->heap[0];
        heap_pop(scratch);
        struct bpe_symbol *left = &symbols[left_idx];
        if (left->id != merge->left || left->next == TOKEN_NONE) continue; // stale
        struct bpe_symbol *right = &symbols[left->next];
        if (right->id != merge->right) continue; // stale
        left->id = merge->merged;
        left->next = right->next;
        right->id = TOKEN_NONE;
        if (left->next != TOKEN_NONE) symbols[left->next].prev = left_idx;
        int r = push_pair(bpe, scratch, left->prev, left_idx);
        if (r == 0) r = push_pair(bpe, scratch, left_idx, left->next);
        if (r < 0) return r;
    }
    return 0;
}

static int encode_long(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t len,
                       size_t ids_max, struct token_list *list)
{
    uint32_t count;
    /* No token covers more than longest_bytes: refuse before the work, not after. Bytes without a
     * token count as if they had one, which errs on the side of refusing. */
    if (len / bpe->vocab->longest_bytes > ids_max || len >= INT32_MAX) return -EMSGSIZE;
    int r = load_symbols(bpe, scratch, piece, len, &count);
    if (r == 0) r = merge_long(bpe, scratch);
    if (r < 0) return r;
    for (uint32_t i = count ? 0 : TOKEN_NONE; i != TOKEN_NONE; i = scratch->symbols[i].next) {
        r = push(list, ids_max, scratch->symbols[i].id);
        if (r < 0) return r;
    }
    return 0;
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t len,
               size_t ids_max, struct token_list *list)
{
    uint32_t token = TOKEN_NONE;
    enum whole whole = WHOLE_NO;
    if (len <= bpe->vocab->longest_bytes) token = vocab_find_mergeable(bpe->vocab, piece, len);
    if (token != TOKEN_NONE)
        whole = bpe->ignore_merges ? WHOLE_YES
                                   : atomic_load_explicit(&bpe->whole[token], memory_order_relaxed);
    if (whole == WHOLE_YES) return push(list, ids_max, token);
    if (len > SHORT_SYMBOLS_MAX) return encode_long(bpe, scratch, piece, len, ids_max, list);

    uint32_t ids[SHORT_SYMBOLS_MAX];
    uint32_t count = byte_ids(bpe->vocab, piece, len, ids);
    count = merge_short(bpe, ids, count);
    if (token != TOKEN_NONE && whole == WHOLE_UNKNOWN) {
        /* Relaxed: the value depends on nothing but the immutable tables. */
        whole = count == 1 && ids[0] == token ? WHOLE_YES : WHOLE_NO;
        atomic_store_explicit(&bpe->whole[token], (uint8_t)whole, memory_order_relaxed);
    }
    for (uint32_t i = 0; i < count; i++) {
        int r = push(list, ids_max, ids[i]);
        if (r < 0) return r;
    }
    return 0;
}

void bpe_scratch_done(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

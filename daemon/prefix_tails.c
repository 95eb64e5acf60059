/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prefix_tails.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"

struct links { // of a page in its bucket's list
    uint32_t previous, next;
};

struct tails {
    const struct pool *pool; // borrowed
    uint32_t *buckets;       // (bucket_mask + 1) first page of each list or PAGE_NONE
    uint32_t bucket_mask;    // at least as many buckets as pages
    struct links *links;     // (page_count), valid when SEALED
};

int tails_new(const struct pool *pool, struct tails **ret_tails)
{
    uint32_t pages = pool_geometry(pool)->page_count, buckets = 16;
    struct tails *tails = calloc(1, sizeof *tails);
    if (!tails) return -ENOMEM;
    while (buckets < pages) buckets *= 2;
    tails->pool = pool;
    tails->bucket_mask = buckets - 1;
    tails->buckets = huge_calloc(buckets, sizeof *tails->buckets);
    tails->links = huge_calloc(pages, sizeof *tails->links);
    if (!tails->buckets || !tails->links) {
        tails_free(tails);
        return -ENOMEM;
    }
    memset(tails->buckets, 0xFF, buckets * sizeof *tails->buckets);
    *ret_tails = tails;
    return 0;
}

void tails_free(struct tails *tails)
{
    if (!tails) return;
    free(tails->buckets);
    free(tails->links);
    free(tails);
}

/* A root page's key is not in the hash, because the root key is not in its descriptor. */
static uint32_t *bucket_of(const struct tails *tails, uint32_t parent, uint32_t token)
{
    uint64_t both = (uint64_t)parent << 32 | token;
    both *= UINT64_C(0x9E3779B97F4A7C15); // 2^64 / golden ratio: Knuth's multiplicative hash
    return &tails->buckets[(uint32_t)(both >> 32) & tails->bucket_mask];
}

static uint32_t *bucket_of_page(const struct tails *tails, uint32_t page_idx)
{
    return bucket_of(tails, pool_desc(tails->pool, page_idx)->parent, pool_tokens(tails->pool, page_idx)[0]);
}

void tails_prefetch(const struct tails *tails, uint32_t page_idx, uint32_t parent, uint32_t token)
{
    __builtin_prefetch(bucket_of(tails, parent, token), 1);
    __builtin_prefetch(&tails->links[page_idx], 1);
}

void tails_add(struct tails *tails, uint32_t page_idx)
{
    uint32_t *bucket = bucket_of_page(tails, page_idx);
    tails->links[page_idx] = (struct links){PAGE_NONE, *bucket};
    if (*bucket != PAGE_NONE) tails->links[*bucket].previous = page_idx;
    *bucket = page_idx;
}

void tails_remove(struct tails *tails, uint32_t page_idx)
{
    uint32_t *bucket = bucket_of_page(tails, page_idx);
    struct links at = tails->links[page_idx];
    CHECK((at.previous == PAGE_NONE) == (*bucket == page_idx));
    if (at.previous == PAGE_NONE) *bucket = at.next;
    else tails->links[at.previous].next = at.next;
    if (at.next != PAGE_NONE) tails->links[at.next].previous = at.previous;
}

void tails_touch(struct tails *tails, uint32_t page_idx)
{
    if (tails->links[page_idx].previous == PAGE_NONE) return; // in front already: nearly always
    tails_remove(tails, page_idx);
    tails_add(tails, page_idx);
}

static uint32_t shared_front(const uint32_t *a, const uint32_t *b, uint32_t count)
{
    uint32_t i = 0;
    while (i < count && a[i] == b[i]) i++;
    return i;
}

uint32_t tails_find(const struct tails *tails, struct hash128 root_key, uint32_t parent,
                    const uint32_t *tokens, uint32_t count, uint32_t *ret_shared)
{
    uint32_t best = PAGE_NONE, best_shared = 0, looked = 0;
    if (count == 0) return PAGE_NONE;
    if (count > PAGE_TOKENS) count = PAGE_TOKENS;
    for (uint32_t page_idx = *bucket_of(tails, parent, tokens[0]);
         page_idx != PAGE_NONE && looked < TAILS_SEARCH_MAX && best_shared < count;
         page_idx = tails->links[page_idx].next, looked++) {
        const struct page_desc *desc = pool_desc(tails->pool, page_idx);
        if (desc->parent != parent) continue; // another's bucket
        const uint32_t *its_tokens = pool_tokens(tails->pool, page_idx);
        uint32_t shared = shared_front(its_tokens, tokens, count);
        if (shared <= best_shared) continue;
        if (parent == PAGE_NONE &&
            !hash128_equal(hash128_chain(root_key, its_tokens, PAGE_TOKENS * sizeof *its_tokens), desc->key))
            continue; // another root: other keys and values under the same tokens, or another tenant's
        best = page_idx;
        best_shared = shared;
    }
    if (best != PAGE_NONE) *ret_shared = best_shared;
    return best;
}

int tails_check(const struct tails *tails, struct err *err)
{
    uint32_t pages = pool_geometry(tails->pool)->page_count, listed = 0, sealed = 0;
    for (uint32_t page_idx = 0; page_idx < pages; page_idx++)
        sealed += pool_desc(tails->pool, page_idx)->state == PAGE_SEALED;
    for (uint32_t i = 0; i <= tails->bucket_mask; i++) {
        uint32_t previous = PAGE_NONE;
        for (uint32_t page_idx = tails->buckets[i]; page_idx != PAGE_NONE;
             page_idx = tails->links[page_idx].next) {
            bool is_sealed = pool_desc(tails->pool, page_idx)->state == PAGE_SEALED;
            if (!is_sealed || bucket_of_page(tails, page_idx) != &tails->buckets[i] ||
                tails->links[page_idx].previous != previous || ++listed > sealed)
                return ERR(err, ERR_FORMAT, "prefix: page %u in the list of tails %u", page_idx, i);
            previous = page_idx;
        }
    }
    if (listed == sealed) return 0;
    return ERR(err, ERR_FORMAT, "prefix: lists of tails hold %u of %u pages", listed, sealed);
}

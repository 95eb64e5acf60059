/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prefix.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/prefix_tails.h"

enum { HEAP_NONE = UINT32_MAX };

struct prefix {
    struct pool *pool;    // borrowed
    uint32_t *table;      // (table_mask + 1) page indices or PAGE_NONE; linear probing
    uint32_t table_mask;  // at least twice as many places as pages
    uint32_t *heap;       // evictable leaves, least recently used on top
    uint32_t *heap_place; // (page_count) position in heap or HEAP_NONE
    uint32_t heap_count;
    uint32_t idle_count; // SEALED with refcount 0
    uint64_t evictions;
    struct tails *tails; // owned; every page of the table
};

int prefix_new(struct pool *pool, struct prefix **ret_prefix)
{
    uint32_t pages = pool_geometry(pool)->page_count;
    struct prefix *prefix = calloc(1, sizeof *prefix);
    if (!prefix) return -ENOMEM;
    uint32_t places = 16;
    while (places < 2 * pages) places *= 2;
    prefix->pool = pool;
    prefix->table_mask = places - 1;
    prefix->table = malloc(places * sizeof *prefix->table);
    prefix->heap = malloc(pages * sizeof *prefix->heap);
    prefix->heap_place = malloc(pages * sizeof *prefix->heap_place);
    int r = tails_new(pool, &prefix->tails);
    if (r < 0 || !prefix->table || !prefix->heap || !prefix->heap_place) {
        prefix_free(prefix);
        return -ENOMEM;
    }
    memset(prefix->table, 0xFF, places * sizeof *prefix->table);
    memset(prefix->heap_place, 0xFF, pages * sizeof *prefix->heap_place);
    *ret_prefix = prefix;
    return 0;
}

void prefix_free(struct prefix *prefix)
{
    if (!prefix) return;
    free(prefix->table);
    free(prefix->heap);
    free(prefix->heap_place);
    tails_free(prefix->tails);
    free(prefix);
}

struct hash128 prefix_key(struct hash128 parent_key, const uint32_t *tokens)
{
    return hash128_chain(parent_key, tokens, PAGE_TOKENS * sizeof *tokens);
}

/* ---- table: linear probing, deletion by shifting back, so there are no tombstones ---- */

static uint32_t table_home(const struct prefix *prefix, struct hash128 key)
{
    return (uint32_t)key.low & prefix->table_mask;
}

uint32_t prefix_find(const struct prefix *prefix, struct hash128 key, uint32_t parent, const uint32_t *tokens)
{
    for (uint32_t i = table_home(prefix, key);; i = (i + 1) & prefix->table_mask) {
        uint32_t page_idx = prefix->table[i];
        if (page_idx == PAGE_NONE) return PAGE_NONE;
        const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
        if (!hash128_equal(desc->key, key) || desc->parent != parent) continue;
        if (memcmp(pool_tokens(prefix->pool, page_idx), tokens, PAGE_TOKENS * sizeof *tokens) == 0)
            return page_idx;
    }
}

uint32_t prefix_find_tail(const struct prefix *prefix, struct hash128 root_key, uint32_t parent,
                          const uint32_t *tokens, uint32_t count, uint32_t *ret_shared)
{
    return tails_find(prefix->tails, root_key, parent, tokens, count, ret_shared);
}

static void table_insert(struct prefix *prefix, uint32_t page_idx)
{
    uint32_t i = table_home(prefix, pool_desc(prefix->pool, page_idx)->key);
    while (prefix->table[i] != PAGE_NONE) i = (i + 1) & prefix->table_mask;
    prefix->table[i] = page_idx;
}

static void table_remove(struct prefix *prefix, uint32_t page_idx)
{
    uint32_t mask = prefix->table_mask;
    uint32_t hole = table_home(prefix, pool_desc(prefix->pool, page_idx)->key);
    while (prefix->table[hole] != page_idx) {
        CHECK(prefix->table[hole] != PAGE_NONE);
        hole = (hole + 1) & mask;
    }
    for (uint32_t i = (hole + 1) & mask; prefix->table[i] != PAGE_NONE; i = (i + 1) & mask) {
        uint32_t home = table_home(prefix, pool_desc(prefix->pool, prefix->table[i])->key);
        if (((i - home) & mask) < ((i - hole) & mask)) continue; // it may not move before its home
        prefix->table[hole] = prefix->table[i];
        hole = i;
    }
    prefix->table[hole] = PAGE_NONE;
}

/* ---- heap of evictable leaves ---- */

static bool leaves_before(const struct prefix *prefix, uint32_t a, uint32_t b)
{
    uint64_t use_a = pool_desc(prefix->pool, a)->last_use_ns, use_b = pool_desc(prefix->pool, b)->last_use_ns;
    return use_a != use_b ? use_a < use_b : a < b;
}

static void heap_put(struct prefix *prefix, uint32_t place, uint32_t page_idx)
{
    prefix->heap[place] = page_idx;
    prefix->heap_place[page_idx] = place;
}

static void heap_sift(struct prefix *prefix, uint32_t place)
{
    uint32_t page_idx = prefix->heap[place];
    while (place > 0 && leaves_before(prefix, page_idx, prefix->heap[(place - 1) / 2])) {
        heap_put(prefix, place, prefix->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= prefix->heap_count) break;
        if (child + 1 < prefix->heap_count &&
            leaves_before(prefix, prefix->heap[child + 1], prefix->heap[child]))
            child++;
        if (!leaves_before(prefix, prefix->heap[child], page_idx)) break;
        heap_put(prefix, place, prefix->heap[child]);
        place = child;
    }
    heap_put(prefix, place, page_idx);
}

/* Enters or removes the page so that I2 holds again after its refcount or child_count changed. */
static void heap_update(struct prefix *prefix, uint32_t page_idx)
{
    const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
    bool evictable = desc->state == PAGE_SEALED && desc->refcount == 0 && desc->child_count == 0;
    uint32_t place = prefix->heap_place[page_idx];
    if (evictable == (place != HEAP_NONE)) return;
    if (evictable) {
        prefix->heap[prefix->heap_count] = page_idx;
        heap_sift(prefix, prefix->heap_count++);
        return;
    }
    prefix->heap_place[page_idx] = HEAP_NONE;
    uint32_t last = prefix->heap[--prefix->heap_count];
    if (place == prefix->heap_count) return;
    prefix->heap[place] = last;
    heap_sift(prefix, place);
}

/* ---- pages ---- */

void prefix_seal(struct prefix *prefix, uint32_t page_idx, struct hash128 key, uint32_t parent,
                 const uint64_t *sums)
{
    pool_seal(prefix->pool, page_idx, key, parent, sums);
    table_insert(prefix, page_idx);
    tails_add(prefix->tails, page_idx);
    if (parent != PAGE_NONE) heap_update(prefix, parent);
}

void prefix_hold(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns)
{
    if (pool_desc(prefix->pool, page_idx)->refcount == 0) prefix->idle_count--;
    pool_pin(prefix->pool, page_idx, now_ns);
    tails_touch(prefix->tails, page_idx);
    heap_update(prefix, page_idx);
}

void prefix_release(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns)
{
    pool_unpin(prefix->pool, page_idx, now_ns);
    if (pool_desc(prefix->pool, page_idx)->refcount == 0) prefix->idle_count++;
    heap_update(prefix, page_idx);
}

int prefix_evict(struct prefix *prefix)
{
    if (prefix->heap_count == 0) return -ENOSPC;
    uint32_t page_idx = prefix->heap[0];
    uint32_t parent = pool_desc(prefix->pool, page_idx)->parent;
    table_remove(prefix, page_idx);
    tails_remove(prefix->tails, page_idx);
    pool_evict(prefix->pool, page_idx);
    heap_update(prefix, page_idx); // no longer SEALED: leaves the heap
    if (parent != PAGE_NONE) heap_update(prefix, parent);
    prefix->idle_count--;
    prefix->evictions++;
    return 0;
}

uint32_t prefix_idle_count(const struct prefix *prefix)
{
    return prefix->idle_count;
}

uint64_t prefix_evictions(const struct prefix *prefix)
{
    return prefix->evictions;
}

int prefix_check(const struct prefix *prefix, struct err *err)
{
    uint32_t idle = 0, leaves = 0, sealed = 0;
    for (uint32_t page_idx = 0; page_idx < pool_geometry(prefix->pool)->page_count; page_idx++) {
        const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
        bool is_sealed = desc->state == PAGE_SEALED, in_heap = prefix->heap_place[page_idx] != HEAP_NONE;
        bool is_leaf = is_sealed && desc->refcount == 0 && desc->child_count == 0;
        sealed += is_sealed;
        idle += is_sealed && desc->refcount == 0;
        leaves += is_leaf;
        if (is_leaf != in_heap)
            return ERR(err, ERR_FORMAT, "prefix: page %u is%s in the heap", page_idx, in_heap ? "" : " not");
        if (in_heap && prefix->heap[prefix->heap_place[page_idx]] != page_idx)
            return ERR(err, ERR_FORMAT, "prefix: heap place of page %u", page_idx);
        if (is_sealed &&
            prefix_find(prefix, desc->key, desc->parent, pool_tokens(prefix->pool, page_idx)) == PAGE_NONE)
            return ERR(err, ERR_FORMAT, "prefix: sealed page %u is not in the table", page_idx);
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i <= prefix->table_mask; i++) used += prefix->table[i] != PAGE_NONE;
    if (used != sealed)
        return ERR(err, ERR_FORMAT, "prefix: table holds %u pages, %u are sealed", used, sealed);
    if (leaves != prefix->heap_count)
        return ERR(err, ERR_FORMAT, "prefix: heap holds %u of %u leaves", prefix->heap_count, leaves);
    if (idle != prefix->idle_count)
        return ERR(err, ERR_FORMAT, "prefix: idle count %u, is %u", prefix->idle_count, idle);
    for (uint32_t i = 1; i < prefix->heap_count; i++)
        if (leaves_before(prefix, prefix->heap[i], prefix->heap[(i - 1) / 2]))
            return ERR(err, ERR_FORMAT, "prefix: heap order at %u", i);
    return tails_check(prefix->tails, err);
}

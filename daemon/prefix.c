/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prefix.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"
#include "daemon/prefix_tails.h"

/* A place of the table. With part of the key beside it a descriptor, which is one more cache miss, is looked at only
 * where it is the page's that is looked for. */
struct entry {
    uint32_t page_idx; // or PAGE_NONE
    uint32_t key_low;
};

struct prefix {
    struct pool *pool;     // borrowed
    struct entry *table;   // (table_mask + 1); linear probing
    uint32_t table_mask;   // at least twice as many places as pages
    struct leaves *leaves; // owned
    uint32_t idle_count;   // SEALED with refcount 0
    uint64_t evictions;
    struct tails *tails; // owned; every page of the table
    struct pins *pins;   // owned
};

static void pages_enter(struct prefix *prefix);

int prefix_new(struct pool *pool, struct prefix **ret_prefix)
{
    return prefix_new_ordered(pool, LEAVES_BY_REUSE, ret_prefix);
}

int prefix_new_ordered(struct pool *pool, enum leaves_order order, struct prefix **ret_prefix)
{
    uint32_t pages = pool_geometry(pool)->page_count;
    struct prefix *prefix = calloc(1, sizeof *prefix);
    if (!prefix) return -ENOMEM;
    uint32_t places = 16;
    while (places < 2 * pages) places *= 2;
    prefix->pool = pool;
    prefix->table_mask = places - 1;
    prefix->table = huge_calloc(places, sizeof *prefix->table);
    int r = tails_new(pool, &prefix->tails);
    if (r == 0) r = leaves_new(pool, order, &prefix->leaves);
    if (r == 0) r = pins_new(prefix, pool, &prefix->pins);
    if (r < 0 || !prefix->table) {
        prefix_free(prefix);
        return -ENOMEM;
    }
    memset(prefix->table, 0xFF, places * sizeof *prefix->table);
    pages_enter(prefix);
    *ret_prefix = prefix;
    return 0;
}

void prefix_free(struct prefix *prefix)
{
    if (!prefix) return;
    free(prefix->table);
    leaves_free(prefix->leaves);
    tails_free(prefix->tails);
    pins_free(prefix->pins);
    free(prefix);
}

struct pins *prefix_pins(struct prefix *prefix)
{
    return prefix->pins;
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
        uint32_t page_idx = prefix->table[i].page_idx;
        if (page_idx == PAGE_NONE) return PAGE_NONE;
        if (prefix->table[i].key_low != (uint32_t)key.low) continue;
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
    while (prefix->table[i].page_idx != PAGE_NONE) i = (i + 1) & prefix->table_mask;
    prefix->table[i] = (struct entry){page_idx, (uint32_t)pool_desc(prefix->pool, page_idx)->key.low};
}

static void table_remove(struct prefix *prefix, uint32_t page_idx)
{
    uint32_t mask = prefix->table_mask;
    uint32_t hole = table_home(prefix, pool_desc(prefix->pool, page_idx)->key);
    while (prefix->table[hole].page_idx != page_idx) {
        CHECK(prefix->table[hole].page_idx != PAGE_NONE);
        hole = (hole + 1) & mask;
    }
    for (uint32_t i = (hole + 1) & mask; prefix->table[i].page_idx != PAGE_NONE; i = (i + 1) & mask) {
        uint32_t home = prefix->table[i].key_low & mask;
        if (((i - home) & mask) < ((i - hole) & mask)) continue; // it may not move before its home
        prefix->table[hole] = prefix->table[i];
        hole = i;
    }
    prefix->table[hole].page_idx = PAGE_NONE;
}

/* ---- pages ---- */

/* I1 of a pool that has pages already; I2 is leaves_new's. */
static void pages_enter(struct prefix *prefix)
{
    if (pool_sealed_count(prefix->pool) == 0) return;
    for (uint32_t page_idx = 0; page_idx < pool_geometry(prefix->pool)->page_count; page_idx++) {
        const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
        if (desc->state != PAGE_SEALED) continue;
        table_insert(prefix, page_idx);
        tails_add(prefix->tails, page_idx);
        prefix->idle_count += desc->refcount == 0;
    }
}

void prefix_seal(struct prefix *prefix, uint32_t page_idx, struct hash128 key, uint32_t parent,
                 const uint64_t *sums)
{
    pool_seal(prefix->pool, page_idx, key, parent, sums);
    table_insert(prefix, page_idx);
    tails_add(prefix->tails, page_idx);
    leaves_sealed(prefix->leaves, page_idx);
    if (parent != PAGE_NONE) leaves_update(prefix->leaves, parent);
}

void prefix_seal_prefetch(const struct prefix *prefix, uint32_t page_idx, struct hash128 key, uint32_t parent,
                          uint32_t first_token)
{
    __builtin_prefetch(&prefix->table[table_home(prefix, key)], 1);
    __builtin_prefetch(pool_sums(prefix->pool, page_idx), 1);
    tails_prefetch(prefix->tails, page_idx, parent, first_token);
    leaves_prefetch(prefix->leaves, page_idx, key);
    if (parent != PAGE_NONE) leaves_prefetch(prefix->leaves, parent, key);
}

void prefix_hold(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns)
{
    if (pool_desc(prefix->pool, page_idx)->refcount == 0) prefix->idle_count--;
    pool_pin(prefix->pool, page_idx, now_ns);
    tails_touch(prefix->tails, page_idx);
    leaves_taken(prefix->leaves, page_idx);
    leaves_update(prefix->leaves, page_idx);
}

void prefix_release_as(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns, uint32_t tenant,
                       struct retain_hint hint)
{
    pool_unpin(prefix->pool, page_idx, now_ns);
    if (pool_desc(prefix->pool, page_idx)->refcount == 0) prefix->idle_count++;
    leaves_let_go(prefix->leaves, page_idx, tenant, hint, now_ns);
    leaves_update(prefix->leaves, page_idx);
}

void prefix_release(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns)
{
    prefix_release_as(prefix, page_idx, now_ns, 0, retain_plain);
}

void prefix_release_prefetch(const struct prefix *prefix, uint32_t page_idx)
{
    leaves_prefetch(prefix->leaves, page_idx, pool_desc(prefix->pool, page_idx)->key);
}

void prefix_expire(struct prefix *prefix, uint64_t now_ns)
{
    leaves_expire(prefix->leaves, now_ns);
}

int prefix_retain(struct prefix *prefix, uint32_t tenant_count, uint32_t limit)
{
    return leaves_retain(prefix->leaves, tenant_count, limit);
}

uint32_t prefix_retained_count(const struct prefix *prefix)
{
    return leaves_retained_count(prefix->leaves);
}

/* Of a page that may be evicted soon: its tokens, and what its own eviction will ask for. */
static void chain_prefetch(const struct prefix *prefix, uint32_t page_idx)
{
    uint32_t parent = pool_desc(prefix->pool, page_idx)->parent;
    __builtin_prefetch(pool_tokens(prefix->pool, page_idx));
    if (parent == PAGE_NONE) return;
    __builtin_prefetch(pool_desc(prefix->pool, parent), 1);
    __builtin_prefetch(pool_tokens(prefix->pool, parent));
}

/* Frees a leaf that nobody holds. -> its parent or PAGE_NONE. */
static uint32_t leaf_remove(struct prefix *prefix, uint32_t page_idx)
{
    uint32_t parent = pool_desc(prefix->pool, page_idx)->parent;
    table_remove(prefix, page_idx);
    tails_remove(prefix->tails, page_idx);
    pool_evict(prefix->pool, page_idx);
    leaves_update(prefix->leaves, page_idx); // no longer SEALED
    if (parent != PAGE_NONE) {
        leaves_update(prefix->leaves, parent);
        chain_prefetch(prefix, parent);
    }
    prefix->idle_count--;
    return parent;
}

/* Evictions come in a row: asks for what the next ones will touch. Of the first in the order what its descriptor leads
 * to, of the two that may be the first after it the descriptors. */
static void evict_prefetch(const struct prefix *prefix)
{
    for (uint32_t place = 0; place <= 2; place++) {
        uint32_t page_idx = leaves_near(prefix->leaves, place);
        if (page_idx == PAGE_NONE) return;
        const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
        if (place > 0) {
            __builtin_prefetch(desc, 1);
            __builtin_prefetch(pool_tokens(prefix->pool, page_idx));
            continue;
        }
        __builtin_prefetch(&prefix->table[table_home(prefix, desc->key)], 1);
        tails_prefetch(prefix->tails, page_idx, desc->parent, pool_tokens(prefix->pool, page_idx)[0]);
        if (desc->parent == PAGE_NONE) continue;
        leaves_prefetch(prefix->leaves, desc->parent, desc->key);
        chain_prefetch(prefix, desc->parent);
        __builtin_prefetch(&prefix->table[table_home(prefix, pool_desc(prefix->pool, desc->parent)->key)], 1);
    }
}

static int page_evict(struct prefix *prefix, uint32_t page_idx)
{
    if (page_idx == PAGE_NONE) return -ENOSPC;
    (void)leaf_remove(prefix, page_idx); // its parent may be next, in its turn
    prefix->evictions++;
    evict_prefetch(prefix);
    return 0;
}

int prefix_evict(struct prefix *prefix)
{
    return page_evict(prefix, leaves_first_of_all(prefix->leaves));
}

int prefix_evict_for(struct prefix *prefix, uint32_t tenant)
{
    return page_evict(prefix, leaves_first(prefix->leaves, tenant));
}

int prefix_share(struct prefix *prefix, uint32_t tenant_count, uint32_t share_pages)
{
    return leaves_share(prefix->leaves, tenant_count, share_pages);
}

void prefix_give(struct prefix *prefix, uint32_t page_idx, uint32_t tenant)
{
    leaves_give(prefix->leaves, page_idx, tenant);
}

uint32_t prefix_idle_count_for(const struct prefix *prefix, uint32_t tenant)
{
    return prefix->idle_count - leaves_kept_from(prefix->leaves, tenant);
}

uint32_t prefix_clear(struct prefix *prefix)
{
    uint32_t count = 0;
    for (uint32_t at; (at = leaves_first_of_all(prefix->leaves)) != PAGE_NONE; count++)
        (void)leaf_remove(prefix, at); // parents follow
    return count;
}

void prefix_mark_descendants(const struct prefix *prefix, uint8_t *marks)
{
    enum { CLEAN = 2 }; // known to descend from none
    uint32_t page_count = pool_geometry(prefix->pool)->page_count;
    for (uint32_t i = 0; i < page_count; i++) {
        if (pool_desc(prefix->pool, i)->state != PAGE_SEALED) continue;
        uint32_t at = i;
        while (at != PAGE_NONE && marks[at] == 0) at = pool_desc(prefix->pool, at)->parent;
        uint8_t mark = at == PAGE_NONE ? CLEAN : marks[at];
        for (at = i; at != PAGE_NONE && marks[at] == 0; at = pool_desc(prefix->pool, at)->parent)
            marks[at] = mark;
    }
    for (uint32_t i = 0; i < page_count; i++) marks[i] = marks[i] == 1;
}

uint32_t prefix_drop_marked(struct prefix *prefix, const uint8_t *marks)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < pool_geometry(prefix->pool)->page_count; i++) {
        uint32_t at = i; // up from each leaf, for as long as what was freed leaves another
        while (at != PAGE_NONE && marks[at] && pool_desc(prefix->pool, at)->state == PAGE_SEALED &&
               pool_desc(prefix->pool, at)->child_count == 0) {
            at = leaf_remove(prefix, at);
            count++;
        }
    }
    return count;
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
    uint32_t idle = 0, sealed = 0;
    for (uint32_t page_idx = 0; page_idx < pool_geometry(prefix->pool)->page_count; page_idx++) {
        const struct page_desc *desc = pool_desc(prefix->pool, page_idx);
        bool is_sealed = desc->state == PAGE_SEALED;
        sealed += is_sealed;
        idle += is_sealed && desc->refcount == 0;
        if (is_sealed &&
            prefix_find(prefix, desc->key, desc->parent, pool_tokens(prefix->pool, page_idx)) == PAGE_NONE)
            return ERR(err, ERR_FORMAT, "prefix: sealed page %u is not in the table", page_idx);
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i <= prefix->table_mask; i++) used += prefix->table[i].page_idx != PAGE_NONE;
    if (used != sealed)
        return ERR(err, ERR_FORMAT, "prefix: table holds %u pages, %u are sealed", used, sealed);
    if (idle != prefix->idle_count)
        return ERR(err, ERR_FORMAT, "prefix: idle count %u, is %u", prefix->idle_count, idle);
    int r = leaves_check(prefix->leaves, err);
    if (r == 0) r = pins_check(prefix->pins, err);
    return r < 0 ? r : tails_check(prefix->tails, err);
}

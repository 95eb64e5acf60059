/* SPDX-License-Identifier: Apache-2.0 */
/* pool - descriptors in shared meta, free list in private memory.
 *
 * The free list is a stack of indices: the page freed last is granted first, while its payload is
 * still in a cache. A new pool grants 0, 1, 2, ...; the same calls always give the same pages.
 *
 * Other processes read descriptors while this one writes. Two fields are read by them as atomics, state
 * and generation, and only set_state() stores those:
 *   - into SEALED, state is stored last, so whoever sees SEALED sees tokens, key and sums too;
 *   - out of any state, it is stored first, and generation grows before a page is FILLING again, so a
 *     reader that finds state and generation unchanged after it read the rest has read one life of
 *     the page (audit.c, worker/pages.c).
 * A daemon that dies between any two stores leaves pages FREE, FILLING or completely SEALED. */
#include "common/shm/pool.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/shm/pool_impl.h"

enum { META_ALIGN = 4096 };

/* Pages in layout order; each part starts on a cache line. */
struct meta_offsets {
    uint64_t desc, token, sum, end;
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* No overflow: a verified geometry keeps every product below 2^40. */
static struct meta_offsets offsets_of(const struct pool_geometry *geometry)
{
    uint64_t pages = geometry->page_count;
    struct meta_offsets at;
    at.desc = round_up(sizeof(struct pool_header), CACHELINE_BYTES);
    at.token = at.desc + pages * sizeof(struct page_desc);
    at.sum = round_up(at.token + pages * geometry->page_tokens * sizeof(uint32_t), CACHELINE_BYTES);
    at.end = round_up(at.sum + pages * geometry->rank_count * sizeof(uint64_t), META_ALIGN);
    return at;
}

uint64_t pool_page_bytes(enum kv_type type, uint32_t layer_count, uint32_t head_count_kv, uint32_t head_dims)
{
    uint64_t bytes, dims = head_dims; // bytes: K and V of one token and head
    switch (type) {
    case KV_F16:
    case KV_BF16: bytes = 2 * 2 * dims; break;
    case KV_F32: bytes = 2 * 4 * dims; break;
    case KV_Q8: bytes = 2 * dims + 2 * 2; break;                             // a scale each
    case KV_Q4: bytes = dims / 2 + (dims + 31) / 32 * 16 + 2 * 2 * 2; break; // a scale and a minimum each
    default: return 0;
    }
    const uint64_t factors[] = {layer_count, head_count_kv, PAGE_TOKENS};
    for (size_t i = 0; i < COUNT_OF(factors); i++)
        if (__builtin_mul_overflow(bytes, factors[i], &bytes)) return 0;
    return bytes;
}

void pool_rank_heads(uint32_t head_count, uint32_t rank_count, uint32_t rank, uint32_t *ret_first,
                     uint32_t *ret_count)
{
    CHECK(head_count > 0);
    CHECK(rank < rank_count);
    uint32_t first = (uint32_t)((uint64_t)head_count * rank / rank_count),
             next = (uint32_t)((uint64_t)head_count * (rank + 1) / rank_count);
    *ret_first = first;
    *ret_count = next > first ? next - first : 1;
}

void pool_payload_part(uint32_t rank, char ret_part[static POOL_PART_BYTES])
{
    (void)snprintf(ret_part, POOL_PART_BYTES, "kv.%u", rank); // fits
}

uint64_t pool_rank_page_bytes(const struct pool_geometry *geometry, uint32_t rank)
{
    if (geometry->page_bytes == 0) return 0;
    uint32_t first, count;
    pool_rank_heads(geometry->head_count_kv, geometry->rank_count, rank, &first, &count);
    return geometry->page_bytes / geometry->head_count_kv * count; // linear in heads: pool_page_bytes
}

uint64_t pool_all_page_bytes(const struct pool_geometry *geometry)
{
    uint64_t bytes = 0;
    for (uint32_t rank = 0; rank < geometry->rank_count; rank++)
        bytes += pool_rank_page_bytes(geometry, rank);
    return bytes;
}

size_t pool_meta_bytes(const struct pool_geometry *geometry)
{
    CHECK(geometry->page_count <= PAGES_MAX);
    CHECK(geometry->rank_count <= RANKS_MAX);
    return offsets_of(geometry).end;
}

uint64_t pool_layout_sum(void)
{
    const uint64_t facts[] = {
        SHM_LAYOUT_VERSION,
        sizeof(struct pool_header),
        offsetof(struct pool_header, layout_version),
        offsetof(struct pool_header, header_bytes),
        offsetof(struct pool_header, layout_sum),
        offsetof(struct pool_header, meta_bytes),
        offsetof(struct pool_header, epoch),
        offsetof(struct pool_header, daemon_pid),
        offsetof(struct pool_header, daemon_start),
        offsetof(struct pool_header, desc_offset),
        offsetof(struct pool_header, token_offset),
        offsetof(struct pool_header, sum_offset),
        offsetof(struct pool_header, geometry),
        offsetof(struct pool_header, producer),
        sizeof(struct pool_geometry),
        offsetof(struct pool_geometry, page_count),
        offsetof(struct pool_geometry, page_tokens),
        offsetof(struct pool_geometry, rank_count),
        offsetof(struct pool_geometry, kv_type),
        offsetof(struct pool_geometry, layer_count),
        offsetof(struct pool_geometry, head_count_kv),
        offsetof(struct pool_geometry, head_dims),
        offsetof(struct pool_geometry, page_bytes),
        offsetof(struct pool_geometry, model_digest),
        sizeof(struct page_desc),
        offsetof(struct page_desc, state),
        offsetof(struct page_desc, generation),
        offsetof(struct page_desc, refcount),
        offsetof(struct page_desc, filled),
        offsetof(struct page_desc, key),
        offsetof(struct page_desc, parent),
        offsetof(struct page_desc, parent_generation),
        offsetof(struct page_desc, child_count),
        offsetof(struct page_desc, priority),
        offsetof(struct page_desc, last_use_ns),
    };
    return hash64(facts, sizeof facts);
}

int pool_geometry_verify(const struct pool_geometry *g, struct err *err)
{
    if (g->page_count == 0 || g->page_count > PAGES_MAX)
        return ERR(err, ERR_LIMIT, "pool: %u pages, wanted 1 to %d", g->page_count, PAGES_MAX);
    if (g->page_tokens != PAGE_TOKENS)
        return ERR(err, ERR_LIMIT, "pool: %u tokens a page, this build has %d", g->page_tokens, PAGE_TOKENS);
    if (g->rank_count == 0 || g->rank_count > RANKS_MAX)
        return ERR(err, ERR_LIMIT, "pool: %u ranks, wanted 1 to %d", g->rank_count, RANKS_MAX);
    if (g->remote_count >= g->rank_count)
        return ERR(err, ERR_LIMIT, "pool: %u of %u ranks on other hosts", g->remote_count, g->rank_count);
    if (g->page_bytes == 0) return 0;
    uint64_t page_bytes = pool_page_bytes(g->kv_type, g->layer_count, g->head_count_kv, g->head_dims), all;
    if (page_bytes == 0) return ERR(err, ERR_UNSUPPORTED, "pool: no page layout for KV type %u", g->kv_type);
    if (g->page_bytes != page_bytes)
        return ERR(err, ERR_LIMIT, "pool: %llu bytes a page, its shape says %llu",
                   (unsigned long long)g->page_bytes, (unsigned long long)page_bytes);
    // At most all heads for each rank.
    if (__builtin_mul_overflow(page_bytes, (uint64_t)g->page_count * g->rank_count, &all) || all > INT64_MAX)
        return ERR(err, ERR_LIMIT, "pool: the payload does not fit 63 bits");
    return 0;
}

int pool_new(void *meta, const struct pool_geometry *geometry, struct pool **ret_pool, struct err *err)
{
    struct meta_offsets at = offsets_of(geometry);
    struct pool *pool = calloc(1, sizeof *pool);
    if (pool) pool->free_stack = malloc(geometry->page_count * sizeof *pool->free_stack);
    if (!pool || !pool->free_stack) {
        pool_free(pool);
        return ERR(err, -ENOMEM, "pool: no memory for a free list of %u pages", geometry->page_count);
    }
    pool->header = meta;
    pool->descs = (struct page_desc *)((uint8_t *)meta + at.desc);
    pool->tokens = (uint32_t *)((uint8_t *)meta + at.token);
    pool->sums = (uint64_t *)((uint8_t *)meta + at.sum);
    pool->geometry = *geometry;
    for (uint32_t i = 0; i < geometry->page_count; i++) pool->free_stack[i] = geometry->page_count - 1 - i;
    pool->free_count = geometry->page_count;
    *ret_pool = pool;
    return 0;
}

int pool_format(void *meta, size_t meta_bytes, const struct pool_geometry *geometry,
                const struct pool_owner *owner, struct pool **ret_pool, struct err *err)
{
    CHECK((uintptr_t)meta % CACHELINE_BYTES == 0);
    int r = pool_geometry_verify(geometry, err);
    if (r < 0) return r;
    struct meta_offsets at = offsets_of(geometry);
    CHECK(meta_bytes >= at.end);
    struct pool *pool = NULL;
    r = pool_new(meta, geometry, &pool, err);
    if (r < 0) return r;
    struct pool_header *header = meta;
    header->layout_version = SHM_LAYOUT_VERSION;
    header->header_bytes = sizeof *header;
    header->layout_sum = pool_layout_sum();
    header->meta_bytes = meta_bytes;
    header->epoch = owner->epoch;
    header->daemon_pid = owner->pid;
    header->daemon_start = owner->start;
    header->desc_offset = at.desc;
    header->token_offset = at.token;
    header->sum_offset = at.sum;
    header->geometry = *geometry;
    for (uint32_t i = 0; i < geometry->page_count; i++) pool->descs[i].parent = PAGE_NONE;
    // Release: partner is the acquire load in pool_header_copy. Rule 3.
    atomic_store_explicit(&header->magic, POOL_MAGIC, memory_order_release);
    *ret_pool = pool;
    return 0;
}

void pool_close(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->geometry.page_count; i++) {
        struct page_desc *desc = &pool->descs[i];
        if (desc->state == PAGE_FILLING) pool_drop(pool, i);
        desc->refcount = 0;
    }
    pool->header->daemon_pid = 0; // nobody's
}

void pool_free(struct pool *pool)
{
    if (!pool) return;
    free(pool->free_stack);
    free(pool);
}

int pool_header_copy(const void *meta, size_t meta_bytes, struct pool_header *ret_header, struct err *err)
{
    const struct pool_header *shared = meta;
    if (meta_bytes < sizeof *shared)
        return ERR(err, ERR_FORMAT, "pool: %zu bytes hold no header", meta_bytes);
    // Acquire: partner is the release store in pool_format. Rule 3.
    uint64_t magic = atomic_load_explicit((_Atomic uint64_t *)&shared->magic, memory_order_acquire);
    if (magic == 0)
        return ERR(err, -EAGAIN, "pool: not ready (its daemon is starting, or died while starting)");
    if (magic != POOL_MAGIC)
        return ERR(err, ERR_FORMAT, "pool: wrong magic %016llx", (unsigned long long)magic);
    struct pool_header header; // a copy: what is verified is what is used
    memcpy((void *)&header, shared, sizeof header);
    if (header.layout_version != SHM_LAYOUT_VERSION)
        return ERR(err, ERR_VERSION, "pool: layout version %u, this build has %u", header.layout_version,
                   SHM_LAYOUT_VERSION);
    if (header.header_bytes != sizeof header || header.layout_sum != pool_layout_sum())
        return ERR(err, ERR_VERSION, "pool: its structs are laid out differently from this build's");
    int r = pool_geometry_verify(&header.geometry, err);
    if (r < 0) return r;
    struct meta_offsets at = offsets_of(&header.geometry);
    if (header.desc_offset != at.desc || header.token_offset != at.token || header.sum_offset != at.sum)
        return ERR(err, ERR_FORMAT, "pool: offsets do not follow from the geometry");
    if (header.meta_bytes != meta_bytes || meta_bytes < at.end)
        return ERR(err, ERR_FORMAT, "pool: segment of %zu bytes, header says %llu, geometry needs %llu",
                   meta_bytes, (unsigned long long)header.meta_bytes, (unsigned long long)at.end);
    memcpy((void *)ret_header, &header, sizeof header);
    return 0;
}

int pool_header_verify(const void *meta, size_t meta_bytes, struct err *err)
{
    struct pool_header header;
    return pool_header_copy(meta, meta_bytes, &header, err);
}

const struct pool_geometry *pool_geometry(const struct pool *pool)
{
    return &pool->geometry;
}

static struct page_desc *desc_at(const struct pool *pool, uint32_t page_idx)
{
    CHECK(page_idx < pool->geometry.page_count);
    return &pool->descs[page_idx];
}

const struct page_desc *pool_desc(const struct pool *pool, uint32_t page_idx)
{
    return desc_at(pool, page_idx);
}

static uint32_t *tokens_at(const struct pool *pool, uint32_t page_idx)
{
    CHECK(page_idx < pool->geometry.page_count);
    return pool->tokens + (size_t)page_idx * pool->geometry.page_tokens;
}

const uint32_t *pool_tokens(const struct pool *pool, uint32_t page_idx)
{
    return tokens_at(pool, page_idx);
}

static uint64_t *sums_at(const struct pool *pool, uint32_t page_idx)
{
    CHECK(page_idx < pool->geometry.page_count);
    return pool->sums + (size_t)page_idx * pool->geometry.rank_count;
}

const uint64_t *pool_sums(const struct pool *pool, uint32_t page_idx)
{
    return sums_at(pool, page_idx);
}

uint64_t pool_producer(const struct pool *pool)
{
    return pool->header->producer;
}

void pool_stamp(struct pool *pool, uint64_t producer)
{
    // Release: behind the pages that had to go first, and before those to come, for whoever finds us dead.
    __atomic_store_n(&pool->header->producer, producer, __ATOMIC_RELEASE);
}

uint32_t pool_free_count(const struct pool *pool)
{
    return pool->free_count;
}

uint32_t pool_filling_count(const struct pool *pool)
{
    return pool->filling_count;
}

uint32_t pool_sealed_count(const struct pool *pool)
{
    return pool->sealed_count;
}

static uint32_t *count_of(struct pool *pool, enum page_state state)
{
    switch (state) {
    case PAGE_FREE: return &pool->free_count;
    case PAGE_FILLING: return &pool->filling_count;
    case PAGE_SEALED: return &pool->sealed_count;
    }
    CHECK(!"a page state");
    return NULL;
}

static bool edge_exists(enum page_state from, enum page_state to)
{
#define X(edge_from, edge_to, why) \
    if (from == PAGE_##edge_from && to == PAGE_##edge_to) return true;
    PAGE_EDGES(X)
#undef X
    return false;
}

/* The only function that changes a page's state, and the counts and free list with it. */
static void set_state(struct pool *pool, uint32_t page_idx, enum page_state to)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    enum page_state from = (enum page_state)desc->state;
    CHECK(edge_exists(from, to));
    if (from == PAGE_FREE) {
        CHECK(pool->free_count > 0);
        CHECK(pool->free_stack[pool->free_count - 1] == page_idx);
        // Release: partner is the acquire load of state in readers; see the head comment.
        __atomic_store_n(&desc->generation, desc->generation + 1, __ATOMIC_RELEASE);
    }
    (*count_of(pool, from))--;
    if (to == PAGE_FREE) pool->free_stack[pool->free_count] = page_idx;
    (*count_of(pool, to))++;
    // Release: partner is the acquire load of state in audit.c and worker/pages.c.
    __atomic_store_n(&desc->state, (uint32_t)to, __ATOMIC_RELEASE);
    // What is written to the page next, here or by whoever we tell, must not be seen before the new state. Release:
    // partner is the acquire fence between a reader's copy and its second look at the state.
    if (from == PAGE_SEALED) __atomic_thread_fence(__ATOMIC_RELEASE);
}

int pool_grant(struct pool *pool, uint64_t now_ns, uint32_t *ret_page_idx)
{
    if (pool->free_count == 0) return -ENOSPC;
    uint32_t page_idx = pool->free_stack[pool->free_count - 1];
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->refcount == 0);
    CHECK(desc->child_count == 0);
    desc->refcount = 1; // I2
    desc->filled = 0;
    desc->parent = PAGE_NONE;
    desc->parent_generation = 0;
    desc->last_use_ns = now_ns;
    set_state(pool, page_idx, PAGE_FILLING);
    *ret_page_idx = page_idx;
    return 0;
}

void pool_fill(struct pool *pool, uint32_t page_idx, const uint32_t *tokens, uint32_t count)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_FILLING);
    CHECK(count <= pool->geometry.page_tokens - desc->filled);
    if (count > 0) memcpy(tokens_at(pool, page_idx) + desc->filled, tokens, count * sizeof *tokens);
    desc->filled += count;
}

void pool_empty(struct pool *pool, uint32_t page_idx)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_FILLING);
    desc->filled = 0;
}

void pool_seal(struct pool *pool, uint32_t page_idx, struct hash128 key, uint32_t parent,
               const uint64_t *sums)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_FILLING);
    CHECK(desc->filled == pool->geometry.page_tokens); // I3
    CHECK(parent != page_idx);
    if (parent != PAGE_NONE) {
        struct page_desc *up = desc_at(pool, parent);
        CHECK(up->state == PAGE_SEALED); // I4
        CHECK_SLOW(hash128_equal(key, hash128_chain(up->key, tokens_at(pool, page_idx),
                                                    pool->geometry.page_tokens * sizeof(uint32_t))));
        up->child_count++;
        desc->parent_generation = up->generation;
    }
    desc->parent = parent;
    desc->key = key;
    memcpy(sums_at(pool, page_idx), sums, pool->geometry.rank_count * sizeof *sums);
    set_state(pool, page_idx, PAGE_SEALED);
}

void pool_drop(struct pool *pool, uint32_t page_idx)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_FILLING);
    CHECK(desc->refcount == 1); // I2
    set_state(pool, page_idx, PAGE_FREE);
    desc->refcount = 0;
    desc->filled = 0;
}

void pool_pin(struct pool *pool, uint32_t page_idx, uint64_t now_ns)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_SEALED);
    CHECK(desc->refcount < UINT32_MAX);
    desc->refcount++;
    desc->last_use_ns = now_ns;
}

void pool_unpin(struct pool *pool, uint32_t page_idx, uint64_t now_ns)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_SEALED);
    CHECK(desc->refcount > 0);
    desc->refcount--;
    desc->last_use_ns = now_ns;
}

void pool_evict(struct pool *pool, uint32_t page_idx)
{
    struct page_desc *desc = desc_at(pool, page_idx);
    CHECK(desc->state == PAGE_SEALED);
    CHECK(desc->refcount == 0);
    CHECK(desc->child_count == 0);
    set_state(pool, page_idx, PAGE_FREE);
    if (desc->parent != PAGE_NONE) {
        struct page_desc *up = desc_at(pool, desc->parent);
        CHECK(up->state == PAGE_SEALED); // I4: a parent outlives its children
        CHECK(up->generation == desc->parent_generation);
        CHECK(up->child_count > 0);
        up->child_count--;
    }
    desc->parent = PAGE_NONE;
    desc->parent_generation = 0;
    desc->filled = 0;
}

/* I1..I4 of one page as far as it and its parent tell. */
static int check_page(const struct pool *pool, uint32_t page_idx, bool on_free_list, struct err *err)
{
    const struct page_desc *desc = desc_at(pool, page_idx);
    uint32_t page_tokens = pool->geometry.page_tokens;
    if (desc->state > PAGE_SEALED) return ERR(err, ERR_FORMAT, "page %u: state %u", page_idx, desc->state);
    if ((desc->state == PAGE_FREE) != on_free_list)
        return ERR(err, ERR_FORMAT, "page %u: state %u, free list says %d", page_idx, desc->state,
                   on_free_list);
    if (desc->state == PAGE_FREE && desc->refcount != 0)
        return ERR(err, ERR_FORMAT, "page %u: free with refcount %u", page_idx, desc->refcount);
    if (desc->state == PAGE_FILLING && desc->refcount != 1)
        return ERR(err, ERR_FORMAT, "page %u: filling with refcount %u", page_idx, desc->refcount);
    if (desc->filled > page_tokens) return ERR(err, ERR_FORMAT, "page %u: filled %u", page_idx, desc->filled);
    if (desc->state != PAGE_SEALED) {
        if (desc->parent != PAGE_NONE || desc->child_count != 0)
            return ERR(err, ERR_FORMAT, "page %u: unsealed, with parent or children", page_idx);
        return 0;
    }
    if (desc->filled != page_tokens)
        return ERR(err, ERR_FORMAT, "page %u: sealed with %u tokens", page_idx, desc->filled);
    if (desc->parent == PAGE_NONE) return 0;
    if (desc->parent >= pool->geometry.page_count || desc->parent == page_idx)
        return ERR(err, ERR_FORMAT, "page %u: parent %u", page_idx, desc->parent);
    const struct page_desc *up = desc_at(pool, desc->parent);
    if (up->state != PAGE_SEALED || up->generation != desc->parent_generation)
        return ERR(err, ERR_FORMAT, "page %u: its parent %u is gone", page_idx, desc->parent);
    struct hash128 key = hash128_chain(up->key, tokens_at(pool, page_idx), page_tokens * sizeof(uint32_t));
    if (!hash128_equal(key, desc->key))
        return ERR(err, ERR_FORMAT, "page %u: key does not follow from its parent's", page_idx);
    return 0;
}

static int check_totals(const struct pool *pool, const uint32_t *children, const uint32_t *states,
                        struct err *err)
{
    for (uint32_t i = 0; i < pool->geometry.page_count; i++)
        if (children[i] != pool->descs[i].child_count)
            return ERR(err, ERR_FORMAT, "page %u: %u children, it counts %u", i, children[i],
                       pool->descs[i].child_count);
    if (states[PAGE_FREE] != pool->free_count || states[PAGE_FILLING] != pool->filling_count ||
        states[PAGE_SEALED] != pool->sealed_count)
        return ERR(err, ERR_FORMAT, "pool: %u free, %u filling, %u sealed, counted %u, %u, %u",
                   pool->free_count, pool->filling_count, pool->sealed_count, states[PAGE_FREE],
                   states[PAGE_FILLING], states[PAGE_SEALED]);
    return 0;
}

int pool_check(const struct pool *pool, struct err *err)
{
    uint32_t page_count = pool->geometry.page_count, states[3] = {0};
    if (pool->free_count > page_count) return ERR(err, ERR_FORMAT, "pool: free count %u", pool->free_count);
    uint32_t *children = calloc(page_count, sizeof *children);
    bool *is_free = calloc(page_count, sizeof *is_free);
    int r = children && is_free ? 0 : ERR(err, -ENOMEM, "pool: no memory for a check");
    for (uint32_t i = 0; r == 0 && i < pool->free_count; i++) {
        uint32_t page_idx = pool->free_stack[i];
        if (page_idx >= page_count || is_free[page_idx])
            r = ERR(err, ERR_FORMAT, "free list: entry %u names page %u", i, page_idx);
        else is_free[page_idx] = true;
    }
    for (uint32_t i = 0; r == 0 && i < page_count; i++) {
        r = check_page(pool, i, is_free[i], err);
        if (r < 0) break;
        states[pool->descs[i].state]++;
        if (pool->descs[i].parent != PAGE_NONE) children[pool->descs[i].parent]++;
    }
    if (r == 0) r = check_totals(pool, children, states, err);
    free(children);
    free(is_free);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* adopt - a dead daemon's pool becomes ours.
 *
 *   1 header: magic, version, sum, sizes, and the geometry that we want
 *   2 owner: ours from here on
 *   3 every page is judged from the bytes alone: SEALED stays if it is full, has lived, and its key follows from its
 *     parent's and its tokens (a root's key hangs on a salt that only requests know: a wrong one is never found)
 *   4 of those, the ones that a chain of such pages joins to a root
 *   5 what stays loses its holders and counts its children anew; everything else becomes FREE
 *
 * Nothing that was counted is believed. We may die between any two stores as well: a page that 5 has dealt with is
 * judged the same way again, and its fellows do not depend on the fields that 5 writes but on state, parent, key and
 * tokens, which it keeps. Payload is not looked at here: that would be every byte of the pool. Whoever reads a page
 * for the first time compares its checksum (plan.h, checks). */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/shm/pool_impl.h"

enum verdict { UNKNOWN = 0, VISITED, KEPT, DROPPED };

static int geometry_compare(const struct pool_geometry *have, const struct pool_geometry *want,
                            struct err *err)
{
    if (!hash128_equal(have->model_digest, want->model_digest))
        return ERR(err, ERR_UNSUPPORTED, "it is of another model: digest %016llx, wanted %016llx",
                   (unsigned long long)have->model_digest.low, (unsigned long long)want->model_digest.low);
    const struct {
        const char *name;
        uint64_t have, want;
    } rows[] = {
        {"KV type", have->kv_type, want->kv_type},
        {"ranks", have->rank_count, want->rank_count},
        {"ranks on other hosts", have->remote_count, want->remote_count},
        {"tokens a page", have->page_tokens, want->page_tokens},
        {"layers", have->layer_count, want->layer_count},
        {"KV heads", have->head_count_kv, want->head_count_kv},
        {"head dimensions", have->head_dims, want->head_dims},
        {"bytes a page", have->page_bytes, want->page_bytes},
        {"pages", have->page_count, want->page_count},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (rows[i].have != rows[i].want)
            return ERR(err, ERR_UNSUPPORTED, "its %s: %llu, wanted %llu", rows[i].name,
                       (unsigned long long)rows[i].have, (unsigned long long)rows[i].want);
    return 0;
}

/* Step 3: whether a page can stay as far as it and its parent's descriptor tell. */
static bool page_holds(const struct pool *pool, uint32_t page_idx)
{
    const struct page_desc *desc = &pool->descs[page_idx];
    uint32_t page_tokens = pool->geometry.page_tokens;
    if (desc->state != PAGE_SEALED || desc->filled != page_tokens || desc->generation == 0) return false;
    if (desc->parent == PAGE_NONE) return true;
    if (desc->parent >= pool->geometry.page_count || desc->parent == page_idx) return false;
    const struct page_desc *up = &pool->descs[desc->parent];
    if (up->state != PAGE_SEALED || up->generation != desc->parent_generation) return false;
    const uint32_t *tokens = pool->tokens + (size_t)page_idx * page_tokens;
    return hash128_equal(desc->key, hash128_chain(up->key, tokens, page_tokens * sizeof *tokens));
}

/* Step 4: walks up to a page whose verdict is known, or to a root, or to where the walk came by; then down the same
 * way in thought: all of it has that verdict. */
static void judge_chain(const struct pool *pool, uint8_t *verdicts, uint32_t page_idx)
{
    uint32_t at = page_idx;
    enum verdict end = KEPT;
    while (at != PAGE_NONE && verdicts[at] == UNKNOWN) {
        verdicts[at] = VISITED;
        at = pool->descs[at].parent; // in range: page_holds
    }
    if (at != PAGE_NONE) end = verdicts[at] == KEPT ? KEPT : DROPPED; // VISITED: a ring
    for (at = page_idx; at != PAGE_NONE && verdicts[at] == VISITED; at = pool->descs[at].parent)
        verdicts[at] = (uint8_t)end;
}

static void page_keep(struct pool *pool, uint32_t page_idx, uint32_t child_count)
{
    struct page_desc *desc = &pool->descs[page_idx];
    desc->refcount = 0;
    desc->child_count = child_count;
    pool->sealed_count++;
}

static void page_drop(struct pool *pool, uint32_t page_idx)
{
    struct page_desc *desc = &pool->descs[page_idx];
    // First, as in set_state(); auditors look on.
    __atomic_store_n(&desc->state, (uint32_t)PAGE_FREE, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    desc->refcount = 0;
    desc->filled = 0;
    desc->parent = PAGE_NONE;
    desc->parent_generation = 0;
    desc->child_count = 0;
}

/* Steps 3 to 5. */
static void pages_adopt(struct pool *pool, uint8_t *verdicts, uint32_t *children,
                        struct pool_adoption *adoption)
{
    uint32_t page_count = pool->geometry.page_count;
    for (uint32_t i = 0; i < page_count; i++) verdicts[i] = page_holds(pool, i) ? UNKNOWN : DROPPED;
    for (uint32_t i = 0; i < page_count; i++) {
        if (verdicts[i] == UNKNOWN) judge_chain(pool, verdicts, i);
        uint32_t parent = pool->descs[i].parent;
        if (verdicts[i] == KEPT && parent != PAGE_NONE) children[parent]++;
    }
    pool->free_count = 0;
    for (uint32_t i = page_count; i-- > 0;) {
        uint32_t state = pool->descs[i].state;
        adoption->sealed_count += state == PAGE_SEALED;
        adoption->filling_count += state != PAGE_SEALED && state != PAGE_FREE;
        if (verdicts[i] == KEPT) {
            page_keep(pool, i, children[i]);
        } else {
            page_drop(pool, i);
            pool->free_stack[pool->free_count++] = i;
        }
    }
    adoption->kept_count = pool->sealed_count;
}

int pool_adoptable(const void *meta, size_t meta_bytes, const struct pool_geometry *wanted, struct err *err)
{
    struct pool_header header;
    int r = pool_header_copy(meta, meta_bytes, &header, err);
    return r < 0 ? r : geometry_compare(&header.geometry, wanted, err);
}

int pool_adopt(void *meta, size_t meta_bytes, const struct pool_geometry *wanted,
               const struct pool_owner *owner, struct pool **ret_pool, struct pool_adoption *ret_adoption,
               struct err *err)
{
    CHECK((uintptr_t)meta % CACHELINE_BYTES == 0);
    struct pool_header header;
    int r = pool_header_copy(meta, meta_bytes, &header, err);
    if (r == 0) r = geometry_compare(&header.geometry, wanted, err);
    if (r < 0) return r;
    struct pool *pool = NULL;
    uint8_t *verdicts = calloc(wanted->page_count, sizeof *verdicts);
    uint32_t *children = calloc(wanted->page_count, sizeof *children);
    r = verdicts && children ? pool_new(meta, wanted, &pool, err)
                             : ERR(err, -ENOMEM, "no memory to judge %u pages", wanted->page_count);
    if (r == 0) {
        struct pool_adoption adoption = {.daemon_pid = header.daemon_pid, .epoch = header.epoch};
        pool->header->daemon_start = owner->start; // pid and start of two lives are nobody's
        pool->header->daemon_pid = owner->pid;
        pool->header->epoch = owner->epoch;
        pages_adopt(pool, verdicts, children, &adoption);
        *ret_adoption = adoption;
        *ret_pool = pool;
    }
    free(verdicts);
    free(children);
    return r;
}

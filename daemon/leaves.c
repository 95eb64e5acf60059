/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/leaves.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"
#include "daemon/reuse.h"

enum {
    HEAP_NONE = UINT32_MAX,
    VISITS = 4, // at an eviction: leaves whose index is computed anew
};

struct leaf {       // of every page
    uint64_t since; // when its wait began, by the clock of reuse
    uint32_t place; // in the heap or HEAP_NONE
    uint8_t uses;   // requests that used it, 0 before it is sealed
    uint8_t tenant; // below tenant_count + 1
    bool waits;     // let go of and not taken since
    bool is_idle;   // SEALED, and nobody holds it
};
static_assert(TENANTS_MAX < 256, "leaf.tenant");

/* What the order of a leaf is by lies in the heap itself: a comparison then looks at nothing of the page, which would
 * be three cache misses. */
struct item {
    uint64_t rank; // its level, then its index as last seen: rank_of
    uint64_t last_use_ns;
    uint32_t page_idx;
};

struct heap {           // of a tenant
    struct item *items; // owned, (page_count) in use: count
    uint32_t count;
    uint32_t visit; // place that is visited next
    uint32_t sealed_count, idle_count;
};

struct leaves {
    struct pool *pool;   // borrowed
    struct reuse *reuse; // NULL: by last use alone
    struct retain *retain;
    struct leaf *leaf; // (page_count)
    struct heap heaps[1 + TENANTS_MAX];
    uint32_t tenant_count, share_pages;
    uint32_t heap_visit; // heap that is visited next
};

/* ---- heap ---- */

static float index_now(const struct leaves *leaves, uint32_t page_idx)
{
    const struct leaf *leaf = &leaves->leaf[page_idx];
    return leaves->reuse ? reuse_index(leaves->reuse, leaf->uses, leaf->since) : 0;
}

/* The bits of floats that are not negative are in their order. */
static uint64_t rank_of(uint8_t level, float index)
{
    uint32_t bits;
    static_assert(sizeof bits == sizeof index, "a float of 32 bits");
    memcpy(&bits, &index, sizeof bits);
    return (uint64_t)level << 32 | bits;
}

static bool item_before(const struct item *a, const struct item *b)
{
    if (a->rank != b->rank) return a->rank < b->rank;
    return a->last_use_ns != b->last_use_ns ? a->last_use_ns < b->last_use_ns : a->page_idx < b->page_idx;
}

static void heap_put(struct leaves *leaves, struct heap *heap, uint32_t place, struct item item)
{
    heap->items[place] = item;
    leaves->leaf[item.page_idx].place = place;
}

static void heap_sift(struct leaves *leaves, struct heap *heap, uint32_t place)
{
    const struct item item = heap->items[place];
    for (; place > 0 && item_before(&item, &heap->items[(place - 1) / 2]); place = (place - 1) / 2)
        heap_put(leaves, heap, place, heap->items[(place - 1) / 2]);
    for (uint32_t child; (child = 2 * place + 1) < heap->count; place = child) {
        if (child + 1 < heap->count && item_before(&heap->items[child + 1], &heap->items[child])) child++;
        if (!item_before(&heap->items[child], &item)) break;
        heap_put(leaves, heap, place, heap->items[child]);
    }
    heap_put(leaves, heap, place, item);
}

static void heap_insert(struct leaves *leaves, uint32_t page_idx)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    struct heap *heap = &leaves->heaps[leaf->tenant];
    heap->items[heap->count] = (struct item){
        .rank = rank_of(retain_level(leaves->retain, page_idx), index_now(leaves, page_idx)),
        .last_use_ns = pool_desc(leaves->pool, page_idx)->last_use_ns,
        .page_idx = page_idx};
    heap_sift(leaves, heap, heap->count++);
}

static void heap_remove(struct leaves *leaves, uint32_t page_idx)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    struct heap *heap = &leaves->heaps[leaf->tenant];
    uint32_t place = leaf->place;
    heap->count--;
    leaf->place = HEAP_NONE;
    if (place == heap->count) return;
    heap->items[place] = heap->items[heap->count];
    heap_sift(leaves, heap, place);
}

void leaves_update(struct leaves *leaves, uint32_t page_idx)
{
    const struct page_desc *desc = pool_desc(leaves->pool, page_idx);
    struct leaf *leaf = &leaves->leaf[page_idx];
    struct heap *heap = &leaves->heaps[leaf->tenant];
    bool is_sealed = desc->state == PAGE_SEALED, is_idle = is_sealed && desc->refcount == 0;
    bool is_leaf = is_idle && desc->child_count == 0;
    if (is_idle != leaf->is_idle) heap->idle_count += is_idle ? 1u : UINT32_MAX;
    leaf->is_idle = is_idle;
    if (is_leaf != (leaf->place != HEAP_NONE)) (is_leaf ? heap_insert : heap_remove)(leaves, page_idx);
    if (is_sealed || leaf->uses == 0) return;
    heap->sealed_count--; // evicted
    leaf->uses = leaf->tenant = 0;
    retain_forget(leaves->retain, page_idx);
}

/* Whether the index of the page at this place was another. */
static bool leaf_visit(struct leaves *leaves, struct heap *heap, uint32_t place)
{
    struct item *item = &heap->items[place];
    uint64_t rank = rank_of((uint8_t)(item->rank >> 32), index_now(leaves, item->page_idx));
    if (rank == item->rank) return false;
    item->rank = rank;
    heap_sift(leaves, heap, place);
    return true;
}

static void top_settle(struct leaves *leaves, struct heap *heap)
{
    for (uint32_t i = 0; i < VISITS && heap->count > 0; i++)
        if (!leaf_visit(leaves, heap, 0)) return;
}

static void leaves_visit(struct leaves *leaves)
{
    struct heap *heap;
    uint32_t heaps = 0;
    do { // the next that is not empty
        leaves->heap_visit = leaves->heap_visit < leaves->tenant_count ? leaves->heap_visit + 1 : 0;
        heap = &leaves->heaps[leaves->heap_visit];
    } while (heap->count == 0 && heaps++ < leaves->tenant_count);
    for (uint32_t i = 0; i < VISITS && heap->count > 0; i++) {
        if (heap->visit >= heap->count) heap->visit = 0;
        (void)leaf_visit(leaves, heap, heap->visit++); // what moved here instead is visited in the next round
    }
    for (uint32_t t = 0; t <= leaves->tenant_count; t++) top_settle(leaves, &leaves->heaps[t]);
    for (uint32_t i = heap->visit; i < heap->visit + VISITS && i < heap->count; i++)
        __builtin_prefetch(&leaves->leaf[heap->items[i].page_idx], 1); // for the next visit
}

/* Pages that a tenant has to lose to others. */
static uint32_t surplus(const struct leaves *leaves, uint32_t tenant)
{
    uint32_t sealed = leaves->heaps[tenant].sealed_count, share = tenant ? leaves->share_pages : 0;
    return sealed > share ? sealed - share : 0;
}

static uint32_t first(struct leaves *leaves, uint32_t tenant, bool of_all)
{
    const struct item *best = NULL;
    if (leaves->reuse) leaves_visit(leaves);
    for (uint32_t t = 0; t <= leaves->tenant_count; t++) {
        const struct heap *heap = &leaves->heaps[t];
        if (heap->count == 0 || !(of_all || t == tenant || surplus(leaves, t) > 0)) continue;
        if (!best || item_before(&heap->items[0], best)) best = &heap->items[0];
    }
    return best ? best->page_idx : PAGE_NONE;
}

uint32_t leaves_first(struct leaves *leaves, uint32_t tenant)
{
    return first(leaves, tenant <= leaves->tenant_count ? tenant : 0, false);
}

uint32_t leaves_first_of_all(struct leaves *leaves)
{
    return first(leaves, 0, true);
}

uint32_t leaves_kept_from(const struct leaves *leaves, uint32_t tenant)
{
    uint32_t kept = 0;
    for (uint32_t t = 1; t <= leaves->tenant_count; t++) {
        uint32_t idle = leaves->heaps[t].idle_count, lost = surplus(leaves, t);
        if (t != tenant && idle > lost) kept += idle - lost;
    }
    return kept;
}

uint32_t leaves_near(const struct leaves *leaves, uint32_t place)
{
    const struct heap *heap = &leaves->heaps[0];
    return place < heap->count ? heap->items[place].page_idx : PAGE_NONE;
}

void leaves_prefetch(const struct leaves *leaves, uint32_t page_idx, struct hash128 key)
{
    __builtin_prefetch(&leaves->leaf[page_idx], 1);
    if (leaves->reuse) reuse_prefetch(leaves->reuse, key);
}

/* ---- what happens to pages ---- */

static void wait_begin(struct leaves *leaves, uint32_t page_idx)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    if (leaves->reuse)
        leaf->since = reuse_let_go(leaves->reuse, pool_desc(leaves->pool, page_idx)->key, leaf->uses);
    leaf->waits = true;
}

static void uses_set(struct leaf *leaf, uint32_t uses)
{
    leaf->uses = uses < REUSE_USES_MAX ? (uint8_t)uses : REUSE_USES_MAX;
    leaf->waits = false;
}

void leaves_sealed(struct leaves *leaves, uint32_t page_idx)
{
    uint32_t uses = leaves->reuse ? reuse_wanted(leaves->reuse, pool_desc(leaves->pool, page_idx)->key) : 0;
    uses_set(&leaves->leaf[page_idx], uses + 1);
    leaves->heaps[0].sealed_count++;
}

void leaves_taken(struct leaves *leaves, uint32_t page_idx)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    if (leaf->waits && leaves->reuse)
        (void)reuse_wanted(leaves->reuse, pool_desc(leaves->pool, page_idx)->key);
    uses_set(leaf, leaf->uses + 1);
    retain_taken(leaves->retain, page_idx);
}

/* Its level has fallen. */
static void leaf_sink(struct leaves *leaves, uint32_t page_idx)
{
    const struct leaf *leaf = &leaves->leaf[page_idx];
    if (leaf->place == HEAP_NONE) return;
    struct heap *heap = &leaves->heaps[leaf->tenant];
    uint64_t *rank = &heap->items[leaf->place].rank;
    *rank = (uint64_t)retain_level(leaves->retain, page_idx) << 32 | (uint32_t)*rank;
    heap_sift(leaves, heap, leaf->place);
}

void leaves_let_go(struct leaves *leaves, uint32_t page_idx, uint32_t tenant, struct retain_hint hint,
                   uint64_t now_ns)
{
    bool is_idle = pool_desc(leaves->pool, page_idx)->refcount == 0;
    uint32_t displaced = retain_let_go(leaves->retain, page_idx, tenant, hint, is_idle, now_ns);
    if (displaced != PAGE_NONE) leaf_sink(leaves, displaced);
    wait_begin(leaves, page_idx);
}

void leaves_expire(struct leaves *leaves, uint64_t now_ns)
{
    for (uint32_t at; (at = retain_expired(leaves->retain, now_ns)) != PAGE_NONE;) leaf_sink(leaves, at);
}

void leaves_give(struct leaves *leaves, uint32_t page_idx, uint32_t tenant)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    CHECK(leaf->uses > 0);
    if (tenant > leaves->tenant_count) tenant = 0;
    if (leaf->tenant == tenant) return;
    bool is_leaf = leaf->place != HEAP_NONE;
    if (is_leaf) heap_remove(leaves, page_idx);
    struct heap *from = &leaves->heaps[leaf->tenant], *to = &leaves->heaps[tenant];
    from->sealed_count--;
    to->sealed_count++;
    from->idle_count -= leaf->is_idle;
    to->idle_count += leaf->is_idle;
    leaf->tenant = (uint8_t)tenant;
    if (is_leaf) heap_insert(leaves, page_idx);
}

/* ---- making and freeing ---- */

struct adopted {
    uint64_t last_use_ns;
    uint32_t page_idx;
};

static int adopted_compare(const void *a, const void *b)
{
    const struct adopted *x = a, *y = b;
    if (x->last_use_ns != y->last_use_ns) return x->last_use_ns < y->last_use_ns ? -1 : 1;
    return x->page_idx < y->page_idx ? -1 : x->page_idx > y->page_idx;
}

static int pages_adopt(struct leaves *leaves)
{
    uint32_t total = pool_sealed_count(leaves->pool), count = 0;
    if (total == 0) return 0;
    struct adopted *pages = calloc(total, sizeof *pages);
    if (!pages) return -ENOMEM;
    for (uint32_t i = 0; i < pool_geometry(leaves->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(leaves->pool, i);
        if (desc->state == PAGE_SEALED) pages[count++] = (struct adopted){desc->last_use_ns, i};
    }
    CHECK(count == total);
    qsort(pages, count, sizeof *pages, adopted_compare);
    for (uint32_t i = 0; i < count; i++) {
        uses_set(&leaves->leaf[pages[i].page_idx], 1);
        leaves->heaps[0].sealed_count++;
        (void)retain_let_go(leaves->retain, pages[i].page_idx, 0, retain_plain, true, 0); // displaces none
        wait_begin(leaves, pages[i].page_idx);
        leaves_update(leaves, pages[i].page_idx);
    }
    free(pages);
    return 0;
}

int leaves_new(struct pool *pool, enum leaves_order order, struct leaves **ret_leaves)
{
    uint32_t pages = pool_geometry(pool)->page_count;
    struct leaves *leaves = calloc(1, sizeof *leaves);
    if (!leaves) return -ENOMEM;
    leaves->pool = pool;
    leaves->leaf = huge_calloc(pages, sizeof *leaves->leaf);
    leaves->heaps[0].items = malloc(pages * sizeof *leaves->heaps[0].items);
    int r = order == LEAVES_BY_REUSE ? reuse_new(pages, &leaves->reuse) : 0;
    if (r == 0) r = retain_new(pages, &leaves->retain);
    if (!leaves->leaf || !leaves->heaps[0].items) r = -ENOMEM;
    if (r == 0) {
        for (uint32_t i = 0; i < pages; i++) leaves->leaf[i].place = HEAP_NONE;
        r = pages_adopt(leaves);
    }
    if (r < 0) {
        leaves_free(leaves);
        return r;
    }
    *ret_leaves = leaves;
    return 0;
}

void leaves_free(struct leaves *leaves)
{
    if (!leaves) return;
    reuse_free(leaves->reuse);
    retain_free(leaves->retain);
    free(leaves->leaf);
    for (uint32_t t = 0; t <= TENANTS_MAX; t++) free(leaves->heaps[t].items);
    free(leaves);
}

int leaves_retain(struct leaves *leaves, uint32_t tenant_count, uint32_t limit)
{
    return retain_limit(leaves->retain, tenant_count, limit);
}

uint32_t leaves_retained_count(const struct leaves *leaves)
{
    return retain_count(leaves->retain);
}

int leaves_share(struct leaves *leaves, uint32_t tenant_count, uint32_t share_pages)
{
    uint32_t pages = pool_geometry(leaves->pool)->page_count;
    CHECK(leaves->tenant_count == 0);
    if (tenant_count > TENANTS_MAX || (uint64_t)tenant_count * share_pages > pages) return ERR_LIMIT;
    for (uint32_t t = 1; t <= tenant_count; t++) {
        leaves->heaps[t].items = malloc(pages * sizeof *leaves->heaps[t].items);
        if (!leaves->heaps[t].items) return -ENOMEM;
    }
    leaves->tenant_count = tenant_count;
    leaves->share_pages = share_pages;
    return 0;
}

static int heap_check(const struct leaves *leaves, uint32_t tenant, struct err *err)
{
    const struct heap *heap = &leaves->heaps[tenant];
    uint32_t sealed = 0, idle = 0, count = 0;
    for (uint32_t i = 0; i < pool_geometry(leaves->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(leaves->pool, i);
        if (leaves->leaf[i].tenant != tenant || desc->state != PAGE_SEALED) continue;
        sealed++;
        idle += desc->refcount == 0;
        count += desc->refcount == 0 && desc->child_count == 0;
    }
    if (count != heap->count || sealed != heap->sealed_count || idle != heap->idle_count)
        return ERR(err, ERR_FORMAT, "leaves: of tenant %u: %u leaves, %u sealed, %u idle; are %u, %u, %u",
                   tenant, heap->count, heap->sealed_count, heap->idle_count, count, sealed, idle);
    for (uint32_t i = 0; i < heap->count; i++) {
        const struct item *item = &heap->items[i];
        if (item->rank >> 32 != retain_level(leaves->retain, item->page_idx) ||
            item->last_use_ns != pool_desc(leaves->pool, item->page_idx)->last_use_ns)
            return ERR(err, ERR_FORMAT, "leaves: order of page %u", item->page_idx);
    }
    for (uint32_t i = 1; i < heap->count; i++)
        if (item_before(&heap->items[i], &heap->items[(i - 1) / 2]))
            return ERR(err, ERR_FORMAT, "leaves: heap order of tenant %u at %u", tenant, i);
    return 0;
}

int leaves_check(const struct leaves *leaves, struct err *err)
{
    int r = retain_check(leaves->retain, err);
    for (uint32_t i = 0; i < pool_geometry(leaves->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(leaves->pool, i);
        const struct leaf *leaf = &leaves->leaf[i];
        const struct heap *heap = &leaves->heaps[leaf->tenant];
        bool is_sealed = desc->state == PAGE_SEALED;
        bool is_leaf = is_sealed && desc->refcount == 0 && desc->child_count == 0;
        if (is_leaf != (leaf->place != HEAP_NONE))
            return ERR(err, ERR_FORMAT, "leaves: page %u is%s in a heap", i, is_leaf ? " not" : "");
        if (is_leaf && (leaf->place >= heap->count || heap->items[leaf->place].page_idx != i))
            return ERR(err, ERR_FORMAT, "leaves: heap place of page %u", i);
        if (is_sealed != (leaf->uses > 0)) return ERR(err, ERR_FORMAT, "leaves: uses of page %u", i);
    }
    for (uint32_t t = 0; r == 0 && t <= leaves->tenant_count; t++) r = heap_check(leaves, t, err);
    return r;
}

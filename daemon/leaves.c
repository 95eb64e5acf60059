/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/leaves.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/reuse.h"

enum {
    HEAP_NONE = UINT32_MAX,
    VISITS = 4, // at an eviction: leaves whose index is computed anew
};

struct leaf {       // of every page
    uint64_t since; // when its wait began, by the clock of reuse
    float index;    // as last seen; valid in the heap
    uint32_t place; // in the heap or HEAP_NONE
    uint8_t uses;   // requests that used it, 0 before it is sealed
    bool waits;     // let go of and not taken since
};

struct leaves {
    struct pool *pool;   // borrowed
    struct reuse *reuse; // NULL: by last use alone
    struct leaf *leaf;   // (page_count)
    uint32_t *heap;      // (page_count) in use: count
    uint32_t count;
    uint32_t visit; // place in the heap that is visited next
};

/* ---- heap ---- */

static float index_now(const struct leaves *leaves, uint32_t page_idx)
{
    const struct leaf *leaf = &leaves->leaf[page_idx];
    return leaves->reuse ? reuse_index(leaves->reuse, leaf->uses, leaf->since) : 0;
}

static bool leaves_before(const struct leaves *leaves, uint32_t a, uint32_t b)
{
    float index_a = leaves->leaf[a].index, index_b = leaves->leaf[b].index;
    if (index_a != index_b) return index_a < index_b;
    uint64_t use_a = pool_desc(leaves->pool, a)->last_use_ns, use_b = pool_desc(leaves->pool, b)->last_use_ns;
    return use_a != use_b ? use_a < use_b : a < b;
}

static void heap_put(struct leaves *leaves, uint32_t place, uint32_t page_idx)
{
    leaves->heap[place] = page_idx;
    leaves->leaf[page_idx].place = place;
}

static void heap_sift(struct leaves *leaves, uint32_t place)
{
    uint32_t page_idx = leaves->heap[place];
    while (place > 0 && leaves_before(leaves, page_idx, leaves->heap[(place - 1) / 2])) {
        heap_put(leaves, place, leaves->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= leaves->count) break;
        if (child + 1 < leaves->count && leaves_before(leaves, leaves->heap[child + 1], leaves->heap[child]))
            child++;
        if (!leaves_before(leaves, leaves->heap[child], page_idx)) break;
        heap_put(leaves, place, leaves->heap[child]);
        place = child;
    }
    heap_put(leaves, place, page_idx);
}

void leaves_update(struct leaves *leaves, uint32_t page_idx)
{
    const struct page_desc *desc = pool_desc(leaves->pool, page_idx);
    struct leaf *leaf = &leaves->leaf[page_idx];
    bool is_leaf = desc->state == PAGE_SEALED && desc->refcount == 0 && desc->child_count == 0;
    if (is_leaf == (leaf->place != HEAP_NONE)) return;
    if (is_leaf) {
        leaf->index = index_now(leaves, page_idx);
        leaves->heap[leaves->count] = page_idx;
        heap_sift(leaves, leaves->count++);
        return;
    }
    uint32_t place = leaf->place, last = leaves->heap[--leaves->count];
    leaf->place = HEAP_NONE;
    if (place == leaves->count) return;
    leaves->heap[place] = last;
    heap_sift(leaves, place);
}

/* Whether the index of the page at this place was another. */
static bool leaf_visit(struct leaves *leaves, uint32_t place)
{
    uint32_t page_idx = leaves->heap[place];
    float index = index_now(leaves, page_idx);
    if (index == leaves->leaf[page_idx].index) return false;
    leaves->leaf[page_idx].index = index;
    heap_sift(leaves, place);
    return true;
}

uint32_t leaves_first(struct leaves *leaves)
{
    if (leaves->count == 0) return PAGE_NONE;
    if (!leaves->reuse) return leaves->heap[0];
    for (uint32_t i = 0; i < VISITS; i++) {
        if (leaves->visit >= leaves->count) leaves->visit = 0;
        (void)leaf_visit(leaves, leaves->visit++); // what moved here instead is visited in the next round
    }
    for (uint32_t i = 0; i < VISITS && leaf_visit(leaves, 0); i++) {
    }
    return leaves->heap[0];
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
}

void leaves_taken(struct leaves *leaves, uint32_t page_idx)
{
    struct leaf *leaf = &leaves->leaf[page_idx];
    if (leaf->waits && leaves->reuse)
        (void)reuse_wanted(leaves->reuse, pool_desc(leaves->pool, page_idx)->key);
    uses_set(leaf, leaf->uses + 1);
}

void leaves_let_go(struct leaves *leaves, uint32_t page_idx)
{
    wait_begin(leaves, page_idx);
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
    leaves->leaf = calloc(pages, sizeof *leaves->leaf);
    leaves->heap = malloc(pages * sizeof *leaves->heap);
    int r = order == LEAVES_BY_REUSE ? reuse_new(pages, &leaves->reuse) : 0;
    if (!leaves->leaf || !leaves->heap) r = -ENOMEM;
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
    free(leaves->leaf);
    free(leaves->heap);
    free(leaves);
}

int leaves_check(const struct leaves *leaves, struct err *err)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < pool_geometry(leaves->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(leaves->pool, i);
        uint32_t place = leaves->leaf[i].place;
        bool is_leaf = desc->state == PAGE_SEALED && desc->refcount == 0 && desc->child_count == 0;
        count += is_leaf;
        if (is_leaf != (place != HEAP_NONE))
            return ERR(err, ERR_FORMAT, "leaves: page %u is%s in the heap", i, is_leaf ? " not" : "");
        if (is_leaf && (place >= leaves->count || leaves->heap[place] != i))
            return ERR(err, ERR_FORMAT, "leaves: heap place of page %u", i);
        if (desc->state == PAGE_SEALED && leaves->leaf[i].uses == 0)
            return ERR(err, ERR_FORMAT, "leaves: page %u was used by nobody", i);
    }
    if (count != leaves->count)
        return ERR(err, ERR_FORMAT, "leaves: heap holds %u of %u leaves", leaves->count, count);
    for (uint32_t i = 1; i < leaves->count; i++)
        if (leaves_before(leaves, leaves->heap[i], leaves->heap[(i - 1) / 2]))
            return ERR(err, ERR_FORMAT, "leaves: heap order at %u", i);
    return 0;
}

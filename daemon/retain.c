/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/retain.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/shm/layout.h"

enum { PLACE_NONE = UINT32_MAX };

struct kept { // of every page
    uint64_t end_ns;
    uint64_t order; // of being let go of: the end of a chain comes first
    uint32_t place; // in its tenant's heap, or PLACE_NONE
    uint32_t duration_s;
    uint16_t tenant; // above RETAIN_NORMAL: who retains it
};
static_assert(RETAIN_TENANTS_MAX < UINT16_MAX, "kept.tenant");

struct heap {        // of a tenant: idle retained pages, the first to end on top
    uint32_t *pages; // owned, (limit)
    uint32_t count;
    uint32_t retained; // idle or not
};

/* Of a page that nobody retains, which is nearly every one, the level is all that is looked at. */
struct retain {
    struct kept *kept; // owned, (page_count)
    uint8_t *levels;   // owned, (page_count); 0 also where nobody has said anything
    uint32_t page_count;
    struct heap *heaps; // owned, (tenant_count + 1); NULL: nothing may be retained
    uint32_t tenant_count, limit;
    uint32_t retained; // sum over heaps
    uint64_t order;
    uint64_t next_ns; // nothing ends before it
};

/* ---- hints ---- */

struct retain_hint retain_hint_join(struct retain_hint a, struct retain_hint b)
{
    if (a.level <= RETAIN_NORMAL || b.level <= RETAIN_NORMAL) return a.level >= b.level ? a : b;
    return (struct retain_hint){
        .level = a.level > b.level ? a.level : b.level,
        .duration_s = a.duration_s > b.duration_s ? a.duration_s : b.duration_s,
    };
}

struct retain_hint retain_hint_at(const struct retain_range *ranges, uint32_t range_count, uint32_t first,
                                  uint32_t end)
{
    struct retain_hint hint = {.level = 0};
    if (range_count == 0) return retain_plain;
    for (uint32_t at = first; at < end; at++) {
        bool is_covered = false;
        for (uint32_t i = 0; i < range_count; i++) {
            if (at < ranges[i].first || at >= ranges[i].end) continue;
            hint = retain_hint_join(hint, ranges[i].hint);
            is_covered = true;
        }
        if (!is_covered) hint = retain_hint_join(hint, retain_plain);
    }
    return hint;
}

/* ---- heaps ---- */

static bool ends_before(const struct retain *retain, uint32_t a, uint32_t b)
{
    const struct kept *x = &retain->kept[a], *y = &retain->kept[b];
    return x->end_ns != y->end_ns ? x->end_ns < y->end_ns : x->order < y->order;
}

static void heap_put(struct retain *retain, struct heap *heap, uint32_t place, uint32_t page_idx)
{
    heap->pages[place] = page_idx;
    retain->kept[page_idx].place = place;
}

static void heap_sift(struct retain *retain, struct heap *heap, uint32_t place)
{
    uint32_t page_idx = heap->pages[place];
    for (; place > 0 && ends_before(retain, page_idx, heap->pages[(place - 1) / 2]); place = (place - 1) / 2)
        heap_put(retain, heap, place, heap->pages[(place - 1) / 2]);
    for (uint32_t child; (child = 2 * place + 1) < heap->count; place = child) {
        if (child + 1 < heap->count && ends_before(retain, heap->pages[child + 1], heap->pages[child]))
            child++;
        if (!ends_before(retain, heap->pages[child], page_idx)) break;
        heap_put(retain, heap, place, heap->pages[child]);
    }
    heap_put(retain, heap, place, page_idx);
}

static void heap_leave(struct retain *retain, uint32_t page_idx)
{
    struct kept *kept = &retain->kept[page_idx];
    if (kept->place == PLACE_NONE) return;
    struct heap *heap = &retain->heaps[kept->tenant];
    uint32_t place = kept->place, last = heap->pages[--heap->count];
    kept->place = PLACE_NONE;
    if (place == heap->count) return;
    heap->pages[place] = last;
    heap_sift(retain, heap, place);
}

static void heap_enter(struct retain *retain, uint32_t page_idx, uint64_t now_ns)
{
    struct kept *kept = &retain->kept[page_idx];
    struct heap *heap = &retain->heaps[kept->tenant];
    kept->end_ns = kept->duration_s == RETAIN_FOREVER ? UINT64_MAX : now_ns + kept->duration_s * NS_PER_S;
    kept->order = retain->order++;
    if (kept->end_ns < retain->next_ns) retain->next_ns = kept->end_ns;
    heap->pages[heap->count] = page_idx;
    heap_sift(retain, heap, heap->count++);
}

/* ---- what happens to pages ---- */

/* A retained page becomes a normal one. */
static void give_up(struct retain *retain, uint32_t page_idx)
{
    struct kept *kept = &retain->kept[page_idx];
    heap_leave(retain, page_idx);
    retain->heaps[kept->tenant].retained--;
    retain->retained--;
    retain->levels[page_idx] = RETAIN_NORMAL;
}

/* Room for one more retained page of a tenant. *ret_page_idx: the one that went for it, or PAGE_NONE. */
static bool room_make(struct retain *retain, uint32_t tenant, uint32_t *ret_page_idx)
{
    if (!retain->heaps || retain->limit == 0) return false;
    struct heap *heap = &retain->heaps[tenant];
    if (heap->retained < retain->limit) return true;
    if (heap->count == 0) return false;
    *ret_page_idx = heap->pages[0];
    give_up(retain, *ret_page_idx);
    return true;
}

uint32_t retain_let_go(struct retain *retain, uint32_t page_idx, uint32_t tenant, struct retain_hint hint,
                       bool is_idle, uint64_t now_ns)
{
    uint8_t *level = &retain->levels[page_idx];
    uint32_t displaced = PAGE_NONE;
    CHECK(hint.level <= RETAIN_LEVEL_MAX);
    if (hint.level <= RETAIN_NORMAL && *level <= RETAIN_NORMAL) { // RETAIN_NORMAL and below have no time
        if (hint.level > *level) *level = hint.level;
        return PAGE_NONE;
    }
    struct kept *kept = &retain->kept[page_idx];
    bool was_retained = *level > RETAIN_NORMAL;
    CHECK(kept->place == PLACE_NONE); // it was held
    if (tenant > retain->tenant_count) tenant = 0;
    hint = retain_hint_join((struct retain_hint){*level, kept->duration_s}, hint);
    if (!was_retained) {
        if (room_make(retain, tenant, &displaced)) {
            kept->tenant = (uint16_t)tenant;
            retain->heaps[tenant].retained++;
            retain->retained++;
        } else {
            hint = retain_plain;
        }
    }
    *level = hint.level;
    kept->duration_s = hint.duration_s;
    if (is_idle && *level > RETAIN_NORMAL) heap_enter(retain, page_idx, now_ns);
    return displaced;
}

void retain_taken(struct retain *retain, uint32_t page_idx)
{
    if (retain->levels[page_idx] > RETAIN_NORMAL) heap_leave(retain, page_idx);
}

void retain_forget(struct retain *retain, uint32_t page_idx)
{
    if (retain->levels[page_idx] > RETAIN_NORMAL) give_up(retain, page_idx);
    retain->levels[page_idx] = 0;
}

uint32_t retain_expired(struct retain *retain, uint64_t now_ns)
{
    if (now_ns < retain->next_ns || !retain->heaps) return PAGE_NONE;
    retain->next_ns = UINT64_MAX;
    for (uint32_t tenant = 0; tenant <= retain->tenant_count; tenant++) {
        const struct heap *heap = &retain->heaps[tenant];
        if (heap->count == 0) continue;
        uint32_t page_idx = heap->pages[0];
        uint64_t end_ns = retain->kept[page_idx].end_ns;
        if (end_ns <= now_ns) {
            retain->next_ns = end_ns; // there may be more
            give_up(retain, page_idx);
            return page_idx;
        }
        if (end_ns < retain->next_ns) retain->next_ns = end_ns;
    }
    return PAGE_NONE;
}

uint8_t retain_level(const struct retain *retain, uint32_t page_idx)
{
    return retain->levels[page_idx];
}

uint32_t retain_count(const struct retain *retain)
{
    return retain->retained;
}

/* ---- making and freeing ---- */

int retain_new(uint32_t page_count, struct retain **ret_retain)
{
    struct retain *retain = calloc(1, sizeof *retain);
    if (!retain) return -ENOMEM;
    retain->kept = calloc(page_count, sizeof *retain->kept);
    retain->levels = calloc(page_count, sizeof *retain->levels);
    if (!retain->kept || !retain->levels) {
        retain_free(retain);
        return -ENOMEM;
    }
    retain->page_count = page_count;
    retain->next_ns = UINT64_MAX;
    for (uint32_t i = 0; i < page_count; i++) retain->kept[i].place = PLACE_NONE;
    *ret_retain = retain;
    return 0;
}

void retain_free(struct retain *retain)
{
    if (!retain) return;
    for (uint32_t t = 0; retain->heaps && t <= retain->tenant_count; t++) free(retain->heaps[t].pages);
    free(retain->heaps);
    free(retain->kept);
    free(retain->levels);
    free(retain);
}

int retain_limit(struct retain *retain, uint32_t tenant_count, uint32_t limit)
{
    CHECK(!retain->heaps);
    if (tenant_count > RETAIN_TENANTS_MAX) return ERR_LIMIT;
    if (limit > retain->page_count) limit = retain->page_count;
    retain->heaps = calloc(tenant_count + 1u, sizeof *retain->heaps);
    if (!retain->heaps) return -ENOMEM;
    retain->tenant_count = tenant_count;
    retain->limit = limit;
    for (uint32_t t = 0; t <= tenant_count; t++) {
        retain->heaps[t].pages = malloc((limit + 1u) * sizeof *retain->heaps[t].pages);
        if (!retain->heaps[t].pages) return -ENOMEM;
    }
    return 0;
}

static int heap_check(const struct retain *retain, uint32_t tenant, struct err *err)
{
    const struct heap *heap = &retain->heaps[tenant];
    uint32_t retained = 0, idle = 0;
    for (uint32_t i = 0; i < retain->page_count; i++) {
        const struct kept *kept = &retain->kept[i];
        if (retain->levels[i] <= RETAIN_NORMAL || kept->tenant != tenant) continue;
        retained++;
        idle += kept->place != PLACE_NONE;
    }
    if (retained != heap->retained || retained > retain->limit || idle != heap->count)
        return ERR(err, ERR_FORMAT, "retain: tenant %u has %u pages, %u idle; counted %u, %u; limit %u",
                   tenant, retained, idle, heap->retained, heap->count, retain->limit);
    for (uint32_t i = 0; i < heap->count; i++)
        if (retain->kept[heap->pages[i]].place != i ||
            (i > 0 && ends_before(retain, heap->pages[i], heap->pages[(i - 1) / 2])))
            return ERR(err, ERR_FORMAT, "retain: heap of tenant %u at %u", tenant, i);
    return 0;
}

int retain_check(const struct retain *retain, struct err *err)
{
    uint32_t retained = 0, in_heaps = 0;
    int r = 0;
    for (uint32_t i = 0; i < retain->page_count; i++) {
        retained += retain->levels[i] > RETAIN_NORMAL;
        in_heaps += retain->kept[i].place != PLACE_NONE;
    }
    for (uint32_t t = 0; retain->heaps && r == 0 && t <= retain->tenant_count; t++) {
        r = heap_check(retain, t, err);
        in_heaps -= retain->heaps[t].count;
    }
    if (r == 0 && (retained != retain->retained || in_heaps != 0))
        r = ERR(err, ERR_FORMAT, "retain: %u pages, counted %u", retained, retain->retained);
    return r;
}

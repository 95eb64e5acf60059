/* SPDX-License-Identifier: Apache-2.0 */
/* retain - what requests say about how long their pages are worth keeping.
 *
 * A page has a level, 0..100. RETAIN_NORMAL is everybody's; pages below it leave the cache before all others, pages
 * above it are retained: they leave after all others, until nobody has used them for as long as the hint says. A hint
 * only orders: where nothing else can leave, retained pages do. Numbers and meaning are TensorRT-LLM's
 * (KvCacheRetentionConfig), but that a time counts from the last use, as Anthropic's cache_control does.
 *
 * Each tenant retains a bounded number of pages. Past it, the one of its own whose time ends first becomes a normal
 * page; where all are in use the new hint is not taken. So no tenant's hints keep more than the bound from others.
 *
 * A page keeps the highest level that was asked for it as long as that lasts, whoever uses it meanwhile. Pages of a
 * chain are let go of from its end, each at no lower level than what hangs on it (the scheduler's part), so that what
 * is counted is all that is kept.
 *   I1: count of a tenant == its pages above RETAIN_NORMAL <= limit; of these, the idle ones are in its heap.
 *   I2: no entry of a heap ends before its parent (i - 1) / 2. */
#ifndef KVASIR_DAEMON_RETAIN_H
#define KVASIR_DAEMON_RETAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { RETAIN_NORMAL = 35, RETAIN_LEVEL_MAX = 100, RETAIN_RANGES_MAX = 8, RETAIN_TENANTS_MAX = 1024 };
#define RETAIN_FOREVER UINT32_MAX // duration_s

struct retain_hint {
    uint8_t level;       // 0..RETAIN_LEVEL_MAX
    uint32_t duration_s; // of a level above RETAIN_NORMAL, from the last use
};

static const struct retain_hint retain_plain = {.level = RETAIN_NORMAL};

struct retain_range { // of a request: positions [first, end)
    uint32_t first, end;
    struct retain_hint hint;
};

/* The hint for positions [first, end): the highest of any; one that no range covers is plain. */
struct retain_hint retain_hint_at(const struct retain_range *ranges, uint32_t range_count, uint32_t first,
                                  uint32_t end);
/* Both: the higher level, and of two above RETAIN_NORMAL the longer time. */
struct retain_hint retain_hint_join(struct retain_hint a, struct retain_hint b);

struct retain; // opaque

/* Nothing may be retained before retain_limit. 0 or -ENOMEM. */
int retain_new(uint32_t page_count, struct retain **ret_retain);
void retain_free(struct retain *retain); // NULL is fine
/* Tenants 0..tenant_count retain up to limit pages each; tenant numbers above count as 0. Once, before anything is
 * retained. -ENOMEM, ERR_LIMIT: more than RETAIN_TENANTS_MAX. */
int retain_limit(struct retain *retain, uint32_t tenant_count, uint32_t limit);

static inline uint32_t retain_tenant_count(uint32_t key_count) // beyond it they are one
{
    return key_count < RETAIN_TENANTS_MAX ? key_count : RETAIN_TENANTS_MAX;
}

/* A request of this tenant lets go of a page; idle: nobody else holds it. -> another page, whose level has fallen to
 * RETAIN_NORMAL for it, or PAGE_NONE. */
uint32_t retain_let_go(struct retain *retain, uint32_t page_idx, uint32_t tenant, struct retain_hint hint,
                       bool is_idle, uint64_t now_ns);
void retain_taken(struct retain *retain, uint32_t page_idx);  // a request uses it: its time stands still
void retain_forget(struct retain *retain, uint32_t page_idx); // it left the cache
/* A page whose time is over, now RETAIN_NORMAL; PAGE_NONE: no more by now_ns. */
uint32_t retain_expired(struct retain *retain, uint64_t now_ns);

uint8_t retain_level(const struct retain *retain, uint32_t page_idx);
uint32_t retain_count(const struct retain *retain); // pages above RETAIN_NORMAL

int retain_check(const struct retain *retain, struct err *err); // I1, I2; 0 or ERR_FORMAT

#endif

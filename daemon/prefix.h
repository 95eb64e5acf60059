/* SPDX-License-Identifier: Apache-2.0 */
/* prefix - index of sealed pages by chain key, and the order in which they leave.
 *
 * Private to the daemon and rebuildable from the descriptors. A page's key is hash(parent's key, its
 * token ids); page 0 chains to the root key (model digest, KV type, later tenant and adapter). Token ids and the parent
 * are compared on every hit, so a hash collision costs time, never correctness. Only leaves that nobody
 * holds are evicted, in the order of leaves.h.
 *   I1: every SEALED page of the pool is in the table, no other is.
 *   I2: leaves.h offers exactly the SEALED pages with refcount 0 and child_count 0. */
#ifndef KVASIR_DAEMON_PREFIX_H
#define KVASIR_DAEMON_PREFIX_H

#include "common/shm/pool.h"
#include "daemon/leaves.h"
#include "daemon/prefix_pins.h"

struct prefix; // owns table and leaves, borrows the pool

/* Enters what is SEALED already (an adopted pool). */
int prefix_new(struct pool *pool, struct prefix **ret_prefix);
/* With another order of eviction, for comparison. */
int prefix_new_ordered(struct pool *pool, enum leaves_order order, struct prefix **ret_prefix);
void prefix_free(struct prefix *prefix); // NULL is fine

/* Key of a page: (page_tokens) ids under a parent key. */
struct hash128 prefix_key(struct hash128 parent_key, const uint32_t *tokens);

/* The page with this key, parent page (PAGE_NONE for the first) and token ids, or PAGE_NONE. */
uint32_t prefix_find(const struct prefix *prefix, struct hash128 key, uint32_t parent,
                     const uint32_t *tokens);

/* The page under parent (PAGE_NONE: one whose key is of root_key) whose tokens share the longest front with the
 * `count` given, and how many, 1..page_tokens; PAGE_NONE when none has the first. root_key is not looked at under a
 * parent. Looks at a bounded number, those sealed or held last first. */
uint32_t prefix_find_tail(const struct prefix *prefix, struct hash128 root_key, uint32_t parent,
                          const uint32_t *tokens, uint32_t count, uint32_t *ret_shared);

/* Seals a full FILLING page under key and parent and enters it; its refcount stays 1. */
void prefix_seal(struct prefix *prefix, uint32_t page_idx, struct hash128 key, uint32_t parent,
                 const uint64_t *sums);
/* Asks for the memory that prefix_seal of this page will touch; first_token: of the page. */
void prefix_seal_prefetch(const struct prefix *prefix, uint32_t page_idx, struct hash128 key, uint32_t parent,
                          uint32_t first_token);
void prefix_hold(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns);    // refcount + 1
void prefix_release(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns); // refcount - 1; stays cached
/* The same of a request that says how long that is worth it. Of a chain the last page first. */
void prefix_release_as(struct prefix *prefix, uint32_t page_idx, uint64_t now_ns, uint32_t tenant,
                       struct retain_hint hint);
/* Asks for the memory that releasing the page will touch; looks at its descriptor. */
void prefix_release_prefetch(const struct prefix *prefix, uint32_t page_idx);
void prefix_expire(struct prefix *prefix, uint64_t now_ns); // hints whose time is over end
/* See retain_limit. */
int prefix_retain(struct prefix *prefix, uint32_t tenant_count, uint32_t limit);
uint32_t prefix_retained_count(const struct prefix *prefix);

struct pins *prefix_pins(struct prefix *prefix); // what the operator pinned

/* Makes one page free: the first of the leaves. -ENOSPC when every sealed page is held. */
int prefix_evict(struct prefix *prefix);
/* The same for a tenant, by the shares of leaves.h: -ENOSPC also when only pages are left that others are to keep. */
int prefix_evict_for(struct prefix *prefix, uint32_t tenant);
/* For pages that turned out to be bad. marks: (page_count), 1 for each of them; afterwards also for every page that
 * descends from one. */
void prefix_mark_descendants(const struct prefix *prefix, uint8_t *marks);
/* Frees the marked pages: descendants among them, nobody holds one. -> their number. No eviction: nobody is to keep
 * them elsewhere. */
uint32_t prefix_drop_marked(struct prefix *prefix, const uint8_t *marks);
uint32_t prefix_clear(
    struct prefix *prefix); // frees every page that nobody holds; none counts as evicted. -> how many
/* See leaves_share; before any page is sealed or held. */
int prefix_share(struct prefix *prefix, uint32_t tenant_count, uint32_t share_pages);
void prefix_give(struct prefix *prefix, uint32_t page_idx,
                 uint32_t tenant); // the page is this tenant's from now on
/* Pages that prefix_evict_for can free, all together. */
uint32_t prefix_idle_count_for(const struct prefix *prefix, uint32_t tenant);
/* Pages that eviction can free, all together: SEALED with refcount 0. */
uint32_t prefix_idle_count(const struct prefix *prefix);
uint64_t prefix_evictions(const struct prefix *prefix); // since prefix_new

/* Audits I1, I2 and the tails against the pool. 0 or ERR_FORMAT. */
int prefix_check(const struct prefix *prefix, struct err *err);

#endif

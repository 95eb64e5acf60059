/* SPDX-License-Identifier: Apache-2.0 */
/* leaves - the pages that may be evicted, in the order in which they leave.
 *
 * Heaps of the leaves: SEALED pages with refcount 0 and child_count 0; only the prefix index uses it. The order is by
 * the level of retain.h, the learnt index of reuse.h, then by the time of the last use. An index changes while its
 * page waits. So the pages of a heap are visited in turn, some at each eviction, and the page on top once more before
 * it leaves: what is on top is the least up to changes of the last few evictions.
 *
 * Pages belong to tenants. Tenants may have a share: of one that has no more pages than its share, no page leaves for
 * another tenant, unless nobody minds (leaves_first_of_all).
 *   I1: the heaps hold exactly the leaves, each in its tenant's above no page that leaves before it by the indices
 *       last seen.
 *   I2: a tenant's counts are those of its SEALED pages, and of the ones among them that nobody holds. */
#ifndef KVASIR_DAEMON_LEAVES_H
#define KVASIR_DAEMON_LEAVES_H

#include "common/shm/pool.h"
#include "daemon/retain.h"

struct leaves; // owns heaps and what was learnt, borrows the pool

enum { TENANTS_MAX = 64 }; // with a share of the cache

enum leaves_order {
    LEAVES_BY_REUSE,
    LEAVES_BY_LAST_USE, // for comparison
};

/* Pages that are SEALED already (an adopted pool) count as used once, in the order of their last use. */
int leaves_new(struct pool *pool, enum leaves_order order, struct leaves **ret_leaves);
void leaves_free(struct leaves *leaves); // NULL is fine

/* What happened to a page: it was sealed under its key; a request took it; a request let go of it. */
void leaves_sealed(struct leaves *leaves, uint32_t page_idx);
void leaves_taken(struct leaves *leaves, uint32_t page_idx);
void leaves_let_go(struct leaves *leaves, uint32_t page_idx, uint32_t tenant, struct retain_hint hint,
                   uint64_t now_ns);
void leaves_expire(struct leaves *leaves, uint64_t now_ns); // hints whose time is over end

/* See retain_limit. */
int leaves_retain(struct leaves *leaves, uint32_t tenant_count, uint32_t limit);
uint32_t leaves_retained_count(const struct leaves *leaves);

/* Tenants 1..tenant_count have a share of share_pages each, all others are tenant 0 together, which has none. Before
 * any page is let go of. -ENOMEM, ERR_LIMIT: more than TENANTS_MAX or than the pool has. */
int leaves_share(struct leaves *leaves, uint32_t tenant_count, uint32_t share_pages);
/* The SEALED page belongs to this tenant from now on; one without a share: 0. */
void leaves_give(struct leaves *leaves, uint32_t page_idx, uint32_t tenant);

/* Enters or removes the page so that I1 and I2 hold again after its state, refcount or child_count changed. */
void leaves_update(struct leaves *leaves, uint32_t page_idx);

/* The page to evict now for a tenant, which stays until it is updated, or PAGE_NONE. */
uint32_t leaves_first(struct leaves *leaves, uint32_t tenant);
uint32_t leaves_first_of_all(struct leaves *leaves); // whatever the shares are
/* Pages that nobody holds, but which are kept from a tenant by the shares of others. */
uint32_t leaves_kept_from(const struct leaves *leaves, uint32_t tenant);

/* Place 0: the page that leaves next where nobody has a share, as far as it is known before it is asked for; 1 and 2:
 * those of which one follows it. PAGE_NONE: there is none. */
uint32_t leaves_near(const struct leaves *leaves, uint32_t place);
/* Asks for the memory that sealing or updating the page of this key will touch. */
void leaves_prefetch(const struct leaves *leaves, uint32_t page_idx, struct hash128 key);

/* Audits I1 and I2 against the pool. 0 or ERR_FORMAT. */
int leaves_check(const struct leaves *leaves, struct err *err);

#endif

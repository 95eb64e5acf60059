/* SPDX-License-Identifier: Apache-2.0 */
/* leaves - the pages that may be evicted, in the order in which they leave.
 *
 * A heap of the leaves: SEALED pages with refcount 0 and child_count 0; only the prefix index uses it. The order is by
 * the learnt index of reuse.h, then by the time of the last use. An index changes while its page waits. So the pages
 * of the heap are visited in turn, some at each eviction, and the page on top once more before it leaves: what is on
 * top is the least up to changes of the last few evictions.
 *   I1: the heap holds exactly the leaves, each above no page that leaves before it by the indices last seen. */
#ifndef KVASIR_DAEMON_LEAVES_H
#define KVASIR_DAEMON_LEAVES_H

#include "common/shm/pool.h"

struct leaves; // owns heap and what was learnt, borrows the pool

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
void leaves_let_go(struct leaves *leaves, uint32_t page_idx);

/* Enters or removes the page so that I1 holds again after its state, refcount or child_count changed. */
void leaves_update(struct leaves *leaves, uint32_t page_idx);

/* The page to evict now, which stays until it is updated, or PAGE_NONE. */
uint32_t leaves_first(struct leaves *leaves);

/* Audits I1 against the pool. 0 or ERR_FORMAT. */
int leaves_check(const struct leaves *leaves, struct err *err);

#endif

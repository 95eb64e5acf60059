/* SPDX-License-Identifier: Apache-2.0 */
/* prefix_tails - sealed pages by (parent, first token), to find the one that a hit can end in.
 *
 * The chain key finds whole pages only: two prompts that part ways inside a page have no key in common there.
 * So pages also stand in lists, one a bucket of (parent, first token), last sealed or held first, and a search
 * compares tokens along the list. It stops after TAILS_SEARCH_MAX pages: a parent with thousands of children that
 * begin alike, or as many tenants whose prompts do, cost no more than that, and may then miss the best one.
 *   I1: every SEALED page of the pool is in the list of its bucket once, no other is. */
#ifndef KVASIR_DAEMON_PREFIX_TAILS_H
#define KVASIR_DAEMON_PREFIX_TAILS_H

#include "common/shm/pool.h"

enum { TAILS_SEARCH_MAX = 64 };

struct tails; // opaque; borrows the pool

int tails_new(const struct pool *pool, struct tails **ret_tails);
void tails_free(struct tails *tails); // NULL is fine

/* Asks for the memory that tails_add or tails_remove of a page with this parent and first token will touch. */
void tails_prefetch(const struct tails *tails, uint32_t page_idx, uint32_t parent, uint32_t token);
void tails_add(struct tails *tails, uint32_t page_idx);    // became SEALED
void tails_touch(struct tails *tails, uint32_t page_idx);  // to the front of its list
void tails_remove(struct tails *tails, uint32_t page_idx); // still SEALED, evicted next

/* See prefix_find_tail. */
uint32_t tails_find(const struct tails *tails, struct hash128 root_key, uint32_t parent,
                    const uint32_t *tokens, uint32_t count, uint32_t *ret_shared);

int tails_check(const struct tails *tails, struct err *err); // I1; ERR_FORMAT

#endif

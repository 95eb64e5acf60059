/* SPDX-License-Identifier: Apache-2.0 */
/* pages - a rank's view of the page pool: meta read-only, its own payload read-write, and the check of a plan
 * against the descriptors. */
#ifndef KVASIR_WORKER_PAGES_H
#define KVASIR_WORKER_PAGES_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/ipc/plan.h"
#include "common/shm/layout.h"

struct pages; // owns the mappings

/* Opens kv.<rank>, under a shared lock that ends with us, and meta; verifies header and sizes. */
int pages_open(const char *instance, uint32_t rank, struct pages **ret_pages, struct err *err);
/* On a host that is not the daemon's: kv.<rank> alone. What the header says is the charter's (host.h). There are no
 * descriptors: whether a plan fits them is rank 0's to say, for all. */
int pages_open_far(const char *instance, uint32_t rank, const struct pool_geometry *geometry, uint64_t epoch,
                   struct pages **ret_pages, struct err *err);
void pages_close(struct pages *pages); // NULL is fine

const struct pool_header *pages_header(const struct pages *pages); // verified private copy
void *pages_payload(const struct pages *pages);                    // (page_count, pages_bytes), writable

uint64_t pages_bytes(const struct pages *pages); // payload of one page, ours
/* Of a rank's payload, as sealed. Where descriptors are. */
uint64_t pages_sum(const struct pages *pages, uint32_t page_idx, uint32_t rank);

/* Checks a verified plan against the descriptors (rule 2): every page's generation is the plan's; a page that
 * the step writes is FILLING and stands in the plan once; one that it only reads is FILLING or SEALED; one that is
 * copied from, or whose checksum is asked for, is SEALED.
 * ERR_PEER names the first that is not. Without descriptors everything is. */
int pages_check(struct pages *pages, const struct plan_view *plan, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* pool_impl - what pool.c (life of a page) and adopt.c (a dead daemon's pool) share. Nobody else includes this. */
#ifndef KVASIR_SHM_POOL_IMPL_H
#define KVASIR_SHM_POOL_IMPL_H

#include "common/shm/pool.h"

struct pool {
    struct pool_header *header;    // in meta
    struct page_desc *descs;       // in meta, (page_count)
    uint32_t *tokens;              // in meta, (page_count, page_tokens)
    uint64_t *sums;                // in meta, (page_count, rank_count)
    struct pool_geometry geometry; // private copy of the header's
    uint32_t *free_stack;          // owned, (page_count); [0, free_count) are free, the top is granted next
    uint32_t free_count, filling_count, sealed_count;
};

/* A pool over meta with every page on the free list, page 0 on top; meta is not looked at. geometry: verified. */
int pool_new(void *meta, const struct pool_geometry *geometry, struct pool **ret_pool, struct err *err);

#endif

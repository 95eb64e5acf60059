/* SPDX-License-Identifier: Apache-2.0 */
/* pool_rig - a pool in private memory and without payload: for what keeps books of pages and never reads one. */
#ifndef KVASIR_TESTS_DATA_POOL_RIG_H
#define KVASIR_TESTS_DATA_POOL_RIG_H

#include <errno.h>

#include "common/base/huge.h"
#include "common/shm/pool.h"

/* 0 or negative. *ret_meta: under the pool, for free() after pool_free; NULL where there is no memory. */
static inline int pool_rig_open(uint32_t pages, void **ret_meta, struct pool **ret_pool)
{
    const struct pool_geometry geometry = {.page_count = pages, .page_tokens = PAGE_TOKENS, .rank_count = 1};
    const struct pool_owner owner = {1, 2, 7};
    size_t bytes = pool_meta_bytes(&geometry);
    *ret_meta = huge_calloc(1, bytes); // like a segment of that size
    return *ret_meta ? pool_format(*ret_meta, bytes, &geometry, &owner, ret_pool, NULL) : -ENOMEM;
}

#endif

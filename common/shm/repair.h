/* SPDX-License-Identifier: Apache-2.0 */
/* repair - makes a dead pool sound without its daemon: what adoption would drop, and pages whose payload is not what
 * was sealed, with their descendants. A live pool is refused: the caller holds the instance's lock
 * (segment_lock), and workers are waited for. */
#ifndef KVASIR_SHM_REPAIR_H
#define KVASIR_SHM_REPAIR_H

#include <stdint.h>

#include "common/base/err.h"

struct pool_repair {
    uint32_t sealed_count;  // pages before
    uint32_t corrupt_count; // of which payload was wrong
    uint32_t kept_count;    // pages after
    uint32_t filling_count; // were being written; dropped
};

/* 0; -ENOENT: no pool; -EBUSY: somebody still maps its payload; ERR_FORMAT, ERR_VERSION, -EAGAIN: it cannot be
 * repaired, only removed. */
int pool_repair(const char *instance, struct pool_repair *ret_repair, struct err *err);

#endif

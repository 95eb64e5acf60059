/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/huge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/limits.h"

#define HUGE_BYTES ((size_t)2 << 20)

static void *huge_new(size_t count, size_t bytes, size_t *ret_total)
{
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX - HUGE_BYTES) return NULL;
    size_t unit = total < HUGE_BYTES ? CACHELINE_BYTES : HUGE_BYTES;
    total = (total + unit - 1) / unit * unit;
    void *memory = aligned_alloc(unit, total ? total : unit);
    if (!memory) return NULL;
    // A wish, so no result.
    if (unit == HUGE_BYTES) (void)madvise(memory, total, MADV_HUGEPAGE);
    *ret_total = total;
    return memory;
}

void *huge_calloc(size_t count, size_t bytes)
{
    size_t total;
    void *memory = huge_new(count, bytes, &total);
    if (memory) memset(memory, 0, total);
    return memory;
}

void *huge_alloc(size_t count, size_t bytes)
{
    size_t total;
    return huge_new(count, bytes, &total);
}

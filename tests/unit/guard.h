/* SPDX-License-Identifier: Apache-2.0 */
/* guard - test input that ends at a page without access, so that a parser reading one byte past its
 * input dies at once instead of passing by luck. A zeroed struct guard is ready; guard_copy() may be
 * called again and again and keeps its pages, guard_done() gives them back. */
#ifndef KVASIR_TESTS_UNIT_GUARD_H
#define KVASIR_TESTS_UNIT_GUARD_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct guard {
    uint8_t *map;      // owned: body_bytes of read-write pages, then one without access
    size_t body_bytes; // whole pages
};

static inline void guard_done(struct guard *guard)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (guard->map) (void)munmap(guard->map, guard->body_bytes + page); // our own mapping
    *guard = (struct guard){0};
}

/* Copies [bytes, bytes+len) to the end of the pages. -> the copy, valid until the next call; the byte
 * after it faults. Aborts when there is no memory: a test cannot go on. */
static inline const uint8_t *guard_copy(struct guard *guard, const void *bytes, size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!guard->map || len > guard->body_bytes) {
        guard_done(guard);
        size_t body = (len / page + 1) * page;
        void *map = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) abort();
        if (mprotect((uint8_t *)map + body, page, PROT_NONE) < 0) abort();
        *guard = (struct guard){.map = map, .body_bytes = body};
    }
    uint8_t *start = guard->map + guard->body_bytes - len;
    if (len > 0) memcpy(start, bytes, len);
    return start;
}

#endif

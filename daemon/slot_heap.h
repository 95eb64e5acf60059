/* SPDX-License-Identifier: Apache-2.0 */
/* slot_heap - slots (small numbers) in the order of a key, any of which can leave at any time.
 *
 * A binary heap with the place of each slot beside it: push and remove take O(log n), looking at the first O(1).
 * Equal keys leave in the order of `order`. All memory is taken at the start. */
#ifndef KVASIR_DAEMON_SLOT_HEAP_H
#define KVASIR_DAEMON_SLOT_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#define SLOT_NONE UINT32_MAX

struct slot_entry {
    int64_t key;
    uint64_t order;
    uint32_t slot;
};

struct slot_heap {
    struct slot_entry *entries; // owned, (slot_count); no entry comes before its parent (i - 1) / 2
    uint32_t *places;           // owned, (slot_count): index in entries, or SLOT_NONE
    uint32_t slot_count, count;
};

int slot_heap_init(struct slot_heap *heap, uint32_t slot_count); // 0 or -ENOMEM
void slot_heap_done(struct slot_heap *heap);                     // a zeroed struct is fine

void slot_heap_push(struct slot_heap *heap, uint32_t slot, int64_t key, uint64_t order); // it is not in it
void slot_heap_remove(struct slot_heap *heap, uint32_t slot); // nothing if it is not in it

static inline bool slot_heap_has(const struct slot_heap *heap, uint32_t slot)
{
    return heap->places[slot] != SLOT_NONE;
}

static inline uint32_t slot_heap_first(const struct slot_heap *heap) // SLOT_NONE: it is empty
{
    return heap->count ? heap->entries[0].slot : SLOT_NONE;
}

bool slot_heap_check(const struct slot_heap *heap); // order and places are right

#endif

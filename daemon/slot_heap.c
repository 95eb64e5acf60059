/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/slot_heap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"

int slot_heap_init(struct slot_heap *heap, uint32_t slot_count)
{
    *heap = (struct slot_heap){.slot_count = slot_count};
    heap->entries = malloc((slot_count + 1ULL) * sizeof *heap->entries);
    heap->places = malloc((slot_count + 1ULL) * sizeof *heap->places);
    if (!heap->entries || !heap->places) {
        slot_heap_done(heap);
        return -ENOMEM;
    }
    memset(heap->places, 0xFF, slot_count * sizeof *heap->places);
    return 0;
}

void slot_heap_done(struct slot_heap *heap)
{
    free(heap->entries);
    free(heap->places);
    *heap = (struct slot_heap){0};
}

static bool before(const struct slot_entry *a, const struct slot_entry *b)
{
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

static void put(struct slot_heap *heap, uint32_t place, struct slot_entry entry)
{
    heap->entries[place] = entry;
    heap->places[entry.slot] = place;
}

/* Brings an entry to a place from which it fits, starting at `place`, whose content does not count. */
static void sift(struct slot_heap *heap, uint32_t place, struct slot_entry entry)
{
    while (place > 0 && before(&entry, &heap->entries[(place - 1) / 2])) {
        put(heap, place, heap->entries[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= heap->count) break;
        if (child + 1 < heap->count && before(&heap->entries[child + 1], &heap->entries[child])) child++;
        if (!before(&heap->entries[child], &entry)) break;
        put(heap, place, heap->entries[child]);
        place = child;
    }
    put(heap, place, entry);
}

void slot_heap_push(struct slot_heap *heap, uint32_t slot, int64_t key, uint64_t order)
{
    CHECK(slot < heap->slot_count);
    CHECK(heap->places[slot] == SLOT_NONE);
    uint32_t place = heap->count++;
    sift(heap, place, (struct slot_entry){key, order, slot});
}

void slot_heap_remove(struct slot_heap *heap, uint32_t slot)
{
    CHECK(slot < heap->slot_count);
    uint32_t place = heap->places[slot];
    if (place == SLOT_NONE) return;
    heap->places[slot] = SLOT_NONE;
    heap->count--;
    if (place < heap->count) sift(heap, place, heap->entries[heap->count]);
}

bool slot_heap_check(const struct slot_heap *heap)
{
    uint32_t held = 0;
    for (uint32_t slot = 0; slot < heap->slot_count; slot++) {
        uint32_t place = heap->places[slot];
        if (place == SLOT_NONE) continue;
        if (place >= heap->count || heap->entries[place].slot != slot) return false;
        if (place > 0 && before(&heap->entries[place], &heap->entries[(place - 1) / 2])) return false;
        held++;
    }
    return held == heap->count;
}

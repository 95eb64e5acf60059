/* SPDX-License-Identifier: Apache-2.0 */
/* ring - see ring.h for the protocol and its invariant. */
#include "common/ipc/ring.h"

#include <errno.h>

#include "common/base/check.h"
#include "common/base/err.h"

/* The line before the payload. */
struct ring_slot {
    _Alignas(CACHELINE_BYTES) uint32_t bytes; // of the payload; valid while the slot is published
    _Alignas(CACHELINE_BYTES) uint8_t payload[];
};

static size_t slot_stride(uint32_t payload_bytes)
{
    size_t lines = ((size_t)payload_bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES;
    return sizeof(struct ring_slot) + lines * CACHELINE_BYTES;
}

static struct ring_slot *slot_at(const struct ring_end *end, uint64_t number)
{
    size_t slot_idx = number & (end->slots_total - 1);
    return (struct ring_slot *)(end->ring->slots + slot_idx * slot_stride(end->payload_bytes));
}

size_t ring_bytes(uint32_t slots_total, uint32_t payload_bytes)
{
    CHECK(slots_total > 0);
    CHECK((slots_total & (slots_total - 1)) == 0);
    return sizeof(struct ring) + slots_total * slot_stride(payload_bytes);
}

void ring_format(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes)
{
    CHECK((uintptr_t)ring % CACHELINE_BYTES == 0);
    ring->slots_total = slots_total;
    ring->payload_bytes = payload_bytes;
    // Relaxed: nobody else maps the segment yet; its magic is stored with release later.
    atomic_store_explicit(&ring->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ring->head, 0, memory_order_relaxed);
}

static int attach(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes, struct ring_end *ret_end)
{
    CHECK((uintptr_t)ring % CACHELINE_BYTES == 0);
    if (ring->slots_total != slots_total || ring->payload_bytes != payload_bytes) return ERR_PEER;
    *ret_end = (struct ring_end){.ring = ring, .slots_total = slots_total, .payload_bytes = payload_bytes};
    return 0;
}

/* Both counters, the other side's with acquire: its partner is the release store in ring_publish or
 * ring_release. Our own was stored by this side, in this life or, before a death, in the last. */
int ring_attach_producer(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes,
                         struct ring_end *ret_end)
{
    struct ring_end end;
    int r = attach(ring, slots_total, payload_bytes, &end);
    if (r < 0) return r;
    end.own = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (end.own - head > slots_total) return ERR_PEER; // I1
    *ret_end = end;
    return 0;
}

int ring_attach_consumer(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes,
                         struct ring_end *ret_end)
{
    struct ring_end end;
    int r = attach(ring, slots_total, payload_bytes, &end);
    if (r < 0) return r;
    end.own = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (tail - end.own > slots_total) return ERR_PEER; // I1
    *ret_end = end;
    return 0;
}

int ring_next(const struct ring_end *end, void **ret_payload)
{
    // Acquire: partner is the release store of head in ring_release; its reads of the slot are over.
    uint64_t head = atomic_load_explicit(&end->ring->head, memory_order_acquire);
    uint64_t used = end->own - head;
    if (used > end->slots_total) return ERR_PEER; // I1; also when head ran ahead of tail
    if (used == end->slots_total) return -EAGAIN;
    *ret_payload = slot_at(end, end->own)->payload;
    return 0;
}

void ring_publish(struct ring_end *end, uint32_t bytes)
{
    CHECK(bytes <= end->payload_bytes);
    slot_at(end, end->own)->bytes = bytes;
    end->own++;
    // Release: partner is the acquire load of tail in ring_peek. The last store: a death before it
    // publishes nothing.
    atomic_store_explicit(&end->ring->tail, end->own, memory_order_release);
}

int ring_peek(const struct ring_end *end, const void **ret_payload, uint32_t *ret_bytes)
{
    // Acquire: partner is the release store of tail in ring_publish.
    uint64_t tail = atomic_load_explicit(&end->ring->tail, memory_order_acquire);
    if (tail == end->own) return -EAGAIN;
    if (tail - end->own > end->slots_total) return ERR_PEER; // I1
    const struct ring_slot *slot = slot_at(end, end->own);
    uint32_t bytes = *(const volatile uint32_t *)&slot->bytes; // once: what is checked is what is used
    if (bytes > end->payload_bytes) return ERR_PEER;
    *ret_payload = slot->payload;
    *ret_bytes = bytes;
    return 0;
}

void ring_release(struct ring_end *end)
{
    end->own++;
    // Release: partner is the acquire load of head in ring_next.
    atomic_store_explicit(&end->ring->head, end->own, memory_order_release);
}

uint64_t ring_published(const struct ring *ring)
{
    // Acquire: partner is the release store of tail in ring_publish.
    return atomic_load_explicit((_Atomic uint64_t *)&ring->tail, memory_order_acquire);
}

/* Relaxed in both: the peer is dead; its successor learns the counters from a start that orders them. */
void ring_reset_producer(struct ring_end *end)
{
    atomic_store_explicit(&end->ring->tail, end->own, memory_order_relaxed);
    atomic_store_explicit(&end->ring->head, end->own, memory_order_relaxed);
}

void ring_reset_consumer(struct ring_end *end)
{
    atomic_store_explicit(&end->ring->head, end->own, memory_order_relaxed);
    atomic_store_explicit(&end->ring->tail, end->own, memory_order_relaxed);
}

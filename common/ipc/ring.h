/* SPDX-License-Identifier: Apache-2.0 */
/* ring - one producer, one consumer, fixed slots, in shared memory; either side may die at any store.
 *
 *   tail   written by the producer only   slots ever published
 *   head   written by the consumer only   slots ever released
 * Slots [head, tail) belong to the consumer, all others to the producer. The producer fills a slot,
 * then stores tail (release); the consumer loads tail (acquire), then reads. Freeing mirrors this.
 *   I1: 0 <= tail - head <= slots_total; both counters only grow within an epoch.
 *
 *   slot  | bytes u32 | pad to a cache line | payload, payload_bytes rounded up to cache lines |
 *
 * Each side keeps its own counter and the sizes in private memory (struct ring_end) and believes of the
 * peer's counter only what I1 allows: ERR_PEER otherwise. A side that starts again after a death takes its
 * counter from the ring: an unpublished slot is lost, an unreleased one is seen again. No waiting here:
 * see wake.h. */
#ifndef KVASIR_IPC_RING_H
#define KVASIR_IPC_RING_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/limits.h"

struct ring {
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t tail;
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t head;
    _Alignas(CACHELINE_BYTES) uint32_t slots_total; // power of two, immutable
    uint32_t payload_bytes;                         // of one slot at most, immutable
    _Alignas(CACHELINE_BYTES) uint8_t slots[];
};
static_assert(sizeof(struct ring) == 3 * CACHELINE_BYTES, "layout v1");

/* One side's private view. */
struct ring_end {
    struct ring *ring;    // borrowed
    uint32_t slots_total; // private copies: the peer can write the shared ones
    uint32_t payload_bytes;
    uint64_t own; // producer: tail; consumer: head
};

/* Bytes of a ring; a multiple of the cache line. slots_total: a power of two. */
size_t ring_bytes(uint32_t slots_total, uint32_t payload_bytes);
void ring_format(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes); // empty, counters 0

/* Attach one side to a ring of known sizes. ERR_PEER when the ring says other sizes or breaks I1. */
int ring_attach_producer(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes,
                         struct ring_end *ret_end);
int ring_attach_consumer(struct ring *ring, uint32_t slots_total, uint32_t payload_bytes,
                         struct ring_end *ret_end);

/* Producer: the next free slot's payload (payload_bytes long, cache line aligned), to fill and publish.
 * Asking again gives the same slot. -EAGAIN when all are taken, ERR_PEER. */
int ring_next(const struct ring_end *end, void **ret_payload);
void ring_publish(struct ring_end *end, uint32_t bytes); // after ring_next gave a slot

/* Consumer: the oldest published slot. *ret_bytes <= payload_bytes was read once and may be used; the payload
 * may change under a broken peer: copy, then verify. -EAGAIN when none, ERR_PEER. */
int ring_peek(const struct ring_end *end, const void **ret_payload, uint32_t *ret_bytes);
void ring_release(struct ring_end *end); // after ring_peek gave a slot

/* Slots ever published, for a third party that waits for a change. */
uint64_t ring_published(const struct ring *ring);

/* Empty the ring while the peer of this side is dead. */
void ring_reset_producer(struct ring_end *end);
void ring_reset_consumer(struct ring_end *end);

#endif

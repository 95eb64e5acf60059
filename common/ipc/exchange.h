/* SPDX-License-Identifier: Apache-2.0 */
/* exchange - the shared segment in which the ranks of one group and host compute a step together.
 *
 *   | header | cells[rank_count] | plan | notes[group_count] | x | attention | feed forward | logits |
 *
 * Named /kvasir-<instance>-exchange.<group>, made by the daemon before the group starts, mapped by the group's ranks
 * of its host. Cells carry the ranks' barrier (worker/dist.h). Behind them lie areas: the plan as rank 0 hands it on,
 * a note of each rank to rank 0, and the activations that every rank reads whole and writes its part of. What of an
 * area is whose, and when, is the barrier's: nothing here is locked.
 *   Rule E1: a cell is written by its rank only, but for the counter of its wake and its lanes.
 *   Rule E2: what was written before a barrier may be read after it, and be written again after the next one. */
#ifndef KVASIR_IPC_EXCHANGE_H
#define KVASIR_IPC_EXCHANGE_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/ipc/plan.h"
#include "common/ipc/wake.h"

/* What it is for. All counts > 0, but plan_bytes and note_bytes. */
struct exchange_shape {
    uint32_t rank_count, group_count; // ranks of this host, of the group
    uint32_t rows_max, logits_max;    // of a step
    uint32_t embedding_dims, attention_dims, feed_forward_dims, vocab_count;
    uint32_t plan_bytes; // of the largest plan
    uint32_t note_bytes; // of one rank's note
};
static_assert(sizeof(struct exchange_shape) == 40, "no padding: it is compared");

enum exchange_area {
    EXCHANGE_PLAN,      // uint64_t bytes, then the plan
    EXCHANGE_NOTES,     // (group_count, note_bytes rounded up to a cache line)
    EXCHANGE_X,         // (rows_max, embedding_dims) float
    EXCHANGE_ATTENTION, // (rows_max, attention_dims): of the kernels, at most EXCHANGE_BLOCK_BYTES for 32 columns
    EXCHANGE_FEED_FORWARD, // (rows_max, feed_forward_dims) likewise
    EXCHANGE_LOGITS,       // (logits_max, vocab_count) float
    EXCHANGE_AREAS
};

enum { EXCHANGE_BLOCK_BYTES = 32 * 4 + 64 }; // 32 floats, and their codes and scales

enum { EXCHANGE_LANES = 8 }; // a line of words

/* One rank. */
struct exchange_cell {
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t arrived; // barriers that it came to
    int32_t statuses[2];                                // what it brought to barrier e: statuses[e % 2]
    _Atomic int32_t
        hosts_failed; // of the first rank: 0, or the code with which the messages between hosts ended
    struct wake wake; // it sleeps there
    /* Its pieces of the op in hand, in ranges of neighbours: op << 32 | pieces taken of the range. Whoever takes one
     * of an op first writes the op. */
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t lanes[EXCHANGE_LANES];
    struct hash128 weights; // where its packed weights lie for others (common/shm/weights.h), or zero
};

/* What local_count ranks of a group (limits->rank_count in all) need to run plans of these limits; the caller adds the
 * model's embedding_dims, attention_dims (all query heads) and feed_forward_dims. note_bytes is what
 * worker/step.c leaves for rank 0: a checksum for each page that a step checks, later for each that it fills. */
struct exchange_shape exchange_shape_of(const struct plan_limits *limits, uint32_t local_count);
/* Rows of logits at once: one row of every sequence, and for scoring as many as fit a fixed memory. */
uint32_t exchange_logits_max(const struct plan_limits *limits);
/* Pages that one step can fill. */
static inline uint32_t exchange_seals_max(const struct plan_limits *limits)
{
    return limits->tokens_max / limits->page_tokens + limits->seqs_max;
}

/* Bytes of the segment; below 2^63. */
uint64_t exchange_bytes(const struct exchange_shape *shape);
/* Makes an exchange of memory of that size, or makes one new for the next life of a group. No rank may be alive. */
void exchange_init(void *base, const struct exchange_shape *shape, uint64_t epoch);
/* Whether it is one of this shape, epoch and build. ERR_FORMAT. */
int exchange_verify(const void *base, size_t bytes, const struct exchange_shape *shape, uint64_t epoch,
                    struct err *err);
/* Barriers that its ranks came to, all together: grows as long as a step gets on. Any process that maps it may ask. */
uint64_t exchange_progress(void *base, uint32_t rank_count);
/* base: verified, or made here. */
struct exchange_cell *exchange_cells(void *base);
uint64_t exchange_note_stride(const struct exchange_shape *shape);
void *exchange_area(void *base, const struct exchange_shape *shape, enum exchange_area area,
                    uint64_t *ret_bytes);

#endif

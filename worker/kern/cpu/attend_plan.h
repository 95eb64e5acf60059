/* SPDX-License-Identifier: Apache-2.0 */
/* attend_plan - how the attention of a step is cut into pieces for the team.
 *
 * A tile is up to QUERIES_MAX query rows that share a KV head (rows x heads of the group) and see the same keys: rows
 * of one sequence, or, of a prefix that several sequences have in common, one row of each. A span is a tile and a range
 * of its keys, a unit a span and KV head, a piece a run of units that one thread takes: pieces cost about the same, and
 * within one the next unit's pages are asked for early.
 *
 * A tile that is worth more than a thread's share is cut into spans at blocks of KEY_BLOCK keys. Each unit then
 * leaves the softmax states of its blocks, and whoever finishes the last unit of (tile, KV head) merges them in
 * the order of keys, which is what an uncut unit does inside, bit for bit.
 *
 * Sequences that decode and whose page tables begin with the same pages - a common system prompt, several choices of
 * one request - have these keys read once for all: a shared tile leaves the states of its blocks for each of them, and
 * each merges its own behind. Blocks lie at fixed positions and a query's sums do not know the other queries of a tile,
 * so this changes no bit. (The idea is cascade attention's: Ye et al., FlashInfer, 2024; here without its reordering
 * of sums.) */
#ifndef KVASIR_KERN_CPU_ATTEND_PLAN_H
#define KVASIR_KERN_CPU_ATTEND_PLAN_H

#include <stdatomic.h>

#include "worker/kern/cpu/machine.h"

enum { TILE_NONE = -1, UNCUT = -1 };

struct attend_tile {
    uint32_t seq; // whose pages are read
    uint32_t row_first, row_count;
    uint32_t key_first, key_end; // what its rows see; the first rounded down to a multiple of 16
    int32_t cut;                 // which of the cut tiles, or UNCUT
    uint32_t span_count;
    size_t partials; // a cut tile's first float in plan->partials: (kv heads, blocks, states and values)

    /* A shared tile: rows plan->rows[member_first + i] of tiles plan->members[member_first + i], i < row_count. */
    bool is_shared;
    uint32_t member_first;
    /* A tile whose keys before key_first a shared tile takes: which, as which of its rows. */
    int32_t shared; // or TILE_NONE
    uint32_t shared_row;
};

struct attend_span {
    uint32_t tile, key_first, key_end;
};

struct attend_plan {
    uint32_t tile_count, span_count, piece_count, cut_count, member_count;
    uint32_t tiles_max, spans_max, pieces_max, cuts_max;
    struct attend_tile *tiles; // (tiles_max)
    struct attend_span *spans; // (spans_max)
    uint32_t *pieces;          // (pieces_max + 1): first unit of each
    float *partials;           // what cut tiles leave
    size_t partial_floats;     // of them in use
    uint32_t *members, *rows;  // (rows_max): see attend_tile
    uint32_t *heads, *next;    // (heads_count), (rows_max): single rows by their first page
    uint32_t heads_count;      // a power of 2
    /* (cuts_max, kv heads): units still to be done. A finisher subtracts with acq_rel: whoever takes the last
     * sees what all have written. */
    _Atomic uint32_t *left;
};

struct attend_job {
    struct kern *kern;
    const struct kern_batch *batch;
    struct kern_rows *qkv, *out;
    struct kern_attend_options options;
    uint32_t layer;
    uint32_t group; // query heads of a KV head
};

/* Fills kern->plan for the job. */
void attend_plan_make(const struct attend_job *job);

static inline uint32_t attend_query_count(const struct attend_job *job, const struct attend_tile *tile)
{
    return tile->row_count * job->group;
}

/* Blocks that the keys [key_first, key_end) lie in. */
static inline size_t attend_blocks_between(uint32_t key_first, uint32_t key_end)
{
    return (key_end + KEY_BLOCK - 1) / KEY_BLOCK - key_first / KEY_BLOCK;
}

static inline size_t attend_blocks_of(const struct attend_tile *tile)
{
    return attend_blocks_between(tile->key_first, tile->key_end);
}

/* Floats that a block of a cut tile leaves for one KV head: states, then values, of its queries. */
static inline size_t attend_block_floats(const struct attend_job *job, const struct attend_tile *tile)
{
    return (size_t)attend_query_count(job, tile) * (2 + job->kern->conf.head_dims);
}

#endif

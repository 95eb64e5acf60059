/* SPDX-License-Identifier: Apache-2.0 */
/* shard - which part of a model each rank of a group computes and keeps.
 *
 * Every matrix is cut by its outputs: attention by KV heads, the feed-forward by its columns, what is added to the
 * residual stream by the stream's columns, the head by tokens; a token's embedding lies with the rank that has its
 * row of the head. Shares differ by one unit at most. Where there are fewer KV heads than ranks, several ranks keep
 * the same one and share its query heads. */
#ifndef KVASIR_GGUF_SHARD_H
#define KVASIR_GGUF_SHARD_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/gguf/facts.h"

enum { SHARD_UNIT = 32 }; // columns of a border: of blocks of codes, and of two lines of floats

struct shard_cut { // [0, count) over ranks
    uint32_t
        unit; // every border but the last is a multiple of it; SHARD_UNIT, or less where there are too few
    uint32_t bounds[RANKS_MAX + 1]; // rank r has [bounds[r], bounds[r + 1]), r < rank_count; never empty
};

struct shard {
    uint32_t rank, rank_count;
    uint32_t kv_first, kv_count;     // KV heads
    uint32_t head_first, head_count; // query heads; kv_count divides head_count
    struct shard_cut stream;         // columns of the residual stream
    struct shard_cut attention;      // columns of attention's output; unit: head_dims
    struct shard_cut feed_forward;   // columns between its two products
    struct shard_cut vocab;          // tokens
};

/* ERR_CONFIG when the model cannot be cut into so many, with the most that it can. */
int shard_make(const struct model_facts *facts, uint32_t rank_count, uint32_t rank, struct shard *ret_shard,
               struct err *err);
/* KV heads of the rank that has most: what a page of any rank has room for. rank_count as shard_make takes it. */
uint32_t shard_kv_heads_max(const struct model_facts *facts, uint32_t rank_count);

static inline uint32_t shard_first(const struct shard_cut *cut, uint32_t rank)
{
    return cut->bounds[rank];
}

static inline uint32_t shard_count(const struct shard_cut *cut, uint32_t rank)
{
    return cut->bounds[rank + 1] - cut->bounds[rank];
}

/* Who has it. i: below bounds[rank_count]. */
uint32_t shard_owner(const struct shard_cut *cut, uint32_t rank_count, uint32_t i);

#endif

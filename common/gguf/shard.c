/* SPDX-License-Identifier: Apache-2.0 */
/* See shard.h. */
#include "common/gguf/shard.h"

#include <inttypes.h>

#include "common/base/check.h"

static void cut_evenly(uint32_t count, uint32_t rank_count, struct shard_cut *ret_cut)
{
    uint32_t unit = SHARD_UNIT;
    CHECK(count >= rank_count);
    while (count / unit < rank_count) unit /= 2;
    ret_cut->unit = unit;
    for (uint32_t r = 0; r < rank_count; r++)
        ret_cut->bounds[r] = (uint32_t)((uint64_t)(count / unit) * r / rank_count) * unit;
    ret_cut->bounds[rank_count] = count;
}

/* Part i of n of [0, count). */
static uint32_t part_first(uint32_t count, uint32_t n, uint32_t i)
{
    return (uint32_t)((uint64_t)count * i / n);
}

/* The first rank r for which part_first(kv, rank_count, r) is `head`; kv < rank_count. */
static uint32_t sharers_first(uint32_t kv, uint32_t rank_count, uint32_t head)
{
    return (uint32_t)(((uint64_t)rank_count * head + kv - 1) / kv);
}

/* Query heads and KV heads of a rank. */
static void cut_heads(const struct model_facts *facts, uint32_t rank_count, uint32_t rank,
                      struct shard *shard)
{
    const uint32_t kv = facts->head_count_kv, group = facts->head_count / kv;
    if (kv >= rank_count) {
        shard->kv_first = part_first(kv, rank_count, rank);
        shard->kv_count = part_first(kv, rank_count, rank + 1) - shard->kv_first;
        shard->head_first = shard->kv_first * group;
        shard->head_count = shard->kv_count * group;
        return;
    }
    const uint32_t head = part_first(kv, rank_count,
                                     rank); // shared by the ranks for which this says the same
    const uint32_t first = sharers_first(kv, rank_count, head);
    const uint32_t sharers = sharers_first(kv, rank_count, head + 1) - first;
    const uint32_t from = part_first(group, sharers, rank - first),
                   to = part_first(group, sharers, rank - first + 1);
    shard->kv_first = head;
    shard->kv_count = 1;
    shard->head_first = head * group + from;
    shard->head_count = to - from;
}

int shard_make(const struct model_facts *facts, uint32_t rank_count, uint32_t rank, struct shard *ret_shard,
               struct err *err)
{
    uint32_t most = facts->head_count;
    if (facts->embedding_dims < most) most = facts->embedding_dims;
    if (facts->feed_forward_dims < most) most = facts->feed_forward_dims;
    if (facts->vocab_count < most) most = facts->vocab_count;
    if (most > RANKS_MAX) most = RANKS_MAX;
    if (rank_count == 0 || rank_count > most)
        return ERR(err, ERR_CONFIG,
                   "%" PRIu32 " ranks: this model has %" PRIu32 " query heads, so 1 to %" PRIu32, rank_count,
                   facts->head_count, most);
    CHECK(rank < rank_count);
    struct shard *shard = ret_shard;
    *shard = (struct shard){.rank = rank, .rank_count = rank_count};
    cut_evenly(facts->embedding_dims, rank_count, &shard->stream);
    cut_evenly(facts->feed_forward_dims, rank_count, &shard->feed_forward);
    cut_evenly(facts->vocab_count, rank_count, &shard->vocab);
    shard->attention.unit = facts->head_dims;
    for (uint32_t r = 0; r < rank_count; r++) {
        cut_heads(facts, rank_count, r, shard);
        CHECK(shard->head_count > 0);
        shard->attention.bounds[r] = shard->head_first * facts->head_dims;
    }
    shard->attention.bounds[rank_count] = facts->head_count * facts->head_dims;
    cut_heads(facts, rank_count, rank, shard);
    return 0;
}

uint32_t shard_kv_heads_max(const struct model_facts *facts, uint32_t rank_count)
{
    CHECK(rank_count > 0);
    return (facts->head_count_kv + rank_count - 1) / rank_count;
}

uint32_t shard_owner(const struct shard_cut *cut, uint32_t rank_count, uint32_t i)
{
    uint32_t rank = 0;
    CHECK(i < cut->bounds[rank_count]);
    while (cut->bounds[rank + 1] <= i) rank++;
    return rank;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* mates_rig - the packed weights of a group's ranks in memory that all of them map, for tests and benchmarks: what
 * worker/mates.c finds by name, without names. */
#ifndef KVASIR_TESTS_UNIT_MATES_RIG_H
#define KVASIR_TESTS_UNIT_MATES_RIG_H

#include "tests/unit/ranks_rig.h"
#include "worker/model.h"

struct mates_rig {
    struct kern_store stores[RANKS_MAX]; // {NULL} for kernels that keep weights elsewhere
    uint32_t count;
};

/* The parent's: before any rank. memory: (bytes) shared, zeroed. */
static inline void mates_rig_open(const struct gguf *gguf, const struct model_facts *facts,
                                  const struct kern_ops *ops, uint32_t rank_count,
                                  void *(*memory)(size_t bytes), struct mates_rig *ret_rig)
{
    *ret_rig = (struct mates_rig){.count = rank_count};
    for (uint32_t rank = 0; rank < rank_count; rank++) {
        struct kern_store *store = &ret_rig->stores[rank];
        struct shard shard;
        struct hash128 content;
        struct err err = {0};
        if (shard_make(facts, rank_count, rank, &shard, &err) < 0) abort();
        if (model_measure(gguf, facts, &shard, ops, &store->bytes, &content, &err) < 0) abort();
        if (store->bytes > 0) store->base = memory(store->bytes);
    }
}

static inline void mates_rig_close(struct mates_rig *rig)
{
    for (uint32_t rank = 0; rank < rig->count; rank++)
        if (rig->stores[rank].base) (void)munmap(rig->stores[rank].base, rig->stores[rank].bytes);
}

/* A rank's, between two steps: it takes pieces of the local-th one from now on, which has packed its weights. */
static inline void mates_rig_attach(const struct mates_rig *rig, const struct dist *dist, struct model *model,
                                    uint32_t local)
{
    const struct kern_store *store = &rig->stores[dist_local_first(dist) + local];
    if (dist_local_first(dist) + local == dist_rank(dist) || !store->base) return;
    CHECK(model_mate_bytes(model, local) == store->bytes);
    model_mate_attach(model, local, store->base);
}

#endif

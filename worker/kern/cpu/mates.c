/* SPDX-License-Identifier: Apache-2.0 */
/* mates - what the other ranks of this host compute, so that we can take pieces of it (kern_steal). Of each of their
 * weights we know the shape at once and the place once they have packed it; project.c runs pieces of both. */
#include <inttypes.h>

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"

struct mate {
    struct kern_weight *weights; // all, linked by next_of_mate
    uint64_t bytes;              // of its store
};

int machine_mates_init(struct kern *kern, struct err *err)
{
    const struct kern_steal *steal = kern->conf.steal;
    if (!steal) return 0;
    CHECK(steal->mate < steal->mate_count);
    void *memory;
    int r = machine_memory(kern, steal->mate_count * sizeof(struct mate), &memory, err);
    if (r < 0) return r;
    kern->mates = memory;
    return 0;
}

int machine_mate_weight(struct kern *kern, uint32_t mate_index, const struct kern_matrix *parts,
                        uint32_t part_count, enum kern_pack pack, struct kern_weight **ret_weight,
                        struct err *err)
{
    CHECK(mate_index < kern->conf.steal->mate_count && mate_index != kern->conf.steal->mate);
    struct mate *mate = &kern->mates[mate_index];
    struct kern_weight *weight;
    int r = machine_weight_plan(kern, parts, part_count, pack, &weight, err);
    if (r < 0) return r;
    weight->store_offset = mate->bytes;
    for (uint32_t i = 0; i < part_count; i++) mate->bytes += cpu_packed_bytes(&weight->parts[i]);
    weight->next_of_mate = mate->weights;
    mate->weights = weight;
    *ret_weight = weight;
    return 0;
}

int machine_mate_join(struct kern *kern, struct kern_weight *weight, uint32_t mate,
                      const struct kern_outputs *outputs, struct err *err)
{
    const struct kern_steal *steal = kern->conf.steal;
    CHECK(mate < steal->mate_count && mate != steal->mate && outputs->weight->cols == weight->cols);
    if (!weight->mates) {
        void *memory;
        int r = machine_memory(kern, steal->mate_count * sizeof(struct outputs), &memory, err);
        if (r < 0) return r;
        weight->mates = memory;
    }
    weight->mates[mate] = (struct outputs){.weight = outputs->weight,
                                           .bias = outputs->bias ? outputs->bias->values : NULL,
                                           .up_bias = outputs->up_bias ? outputs->up_bias->values : NULL,
                                           .col_first = outputs->col_first};
    return 0;
}

uint64_t machine_mate_bytes(const struct kern *kern, uint32_t mate)
{
    CHECK(mate < kern->conf.steal->mate_count);
    return kern->mates[mate].bytes;
}

void machine_mate_attach(struct kern *kern, uint32_t mate, const void *base)
{
    CHECK(mate < kern->conf.steal->mate_count);
    CHECK((uintptr_t)base % CACHELINE_BYTES == 0);
    for (struct kern_weight *weight = kern->mates[mate].weights; weight; weight = weight->next_of_mate) {
        const uint8_t *data = (const uint8_t *)base + weight->store_offset;
        for (uint32_t i = 0; i < weight->part_count; i++) {
            weight->parts[i].data = (uint8_t *)(uintptr_t)data; // products only read
            data += cpu_packed_bytes(&weight->parts[i]);
        }
    }
}

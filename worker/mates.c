/* SPDX-License-Identifier: Apache-2.0 */
/* See mates.h. */
#include "worker/mates.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "common/shm/weights.h"

struct mates {
    uint32_t count;
    struct weights *weights[]; // (count) NULL: ours, or not mapped
};

int mates_attach(const struct dist *dist, struct model *model, struct mates **ret_mates, struct err *err)
{
    const uint32_t count = dist_local_count(dist), first = dist_local_first(dist);
    struct mates *mates = calloc(1, sizeof *mates + count * sizeof *mates->weights);
    if (!mates) return err_sys(err, ENOMEM, "ranks of this host");
    mates->count = count;
    *ret_mates = mates;
    for (uint32_t local = 0; local < count; local++) {
        const struct hash128 key = dist_weights_of(dist, local);
        const uint64_t bytes = model_mate_bytes(model, local);
        struct err why = {0};
        if (first + local == dist_rank(dist) || bytes == 0 || hash128_equal(key, (struct hash128){0}))
            continue;
        if (weights_find(key, first + local, bytes, &mates->weights[local], &why) == 0)
            model_mate_attach(model, local, weights_base(mates->weights[local]));
        else
            log_warn("rank %" PRIu32 " computes alone what rank %" PRIu32 " could take part in: %s",
                     first + local, dist_rank(dist), why.text);
    }
    return 0;
}

void mates_detach(struct mates *mates)
{
    if (!mates) return;
    for (uint32_t local = 0; local < mates->count; local++) weights_close(mates->weights[local]);
    free(mates);
}

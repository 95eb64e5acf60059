/* SPDX-License-Identifier: Apache-2.0 */
/* mates - the packed weights of this host's other ranks, mapped to take pieces of their outputs (kern_steal). They lie
 * where each rank's do (common/shm/weights.h); a rank that keeps its own to itself computes alone. */
#ifndef KVASIR_WORKER_MATES_H
#define KVASIR_WORKER_MATES_H

#include "common/base/hash.h"
#include "worker/dist.h"
#include "worker/model.h"

struct mates; // owns the mappings

/* Behind a barrier that all ranks came to with their weights published and told of (dist_weights_tell), before the
 * first step. What cannot be mapped is said in the log. -ENOMEM. dist: not NULL. */
int mates_attach(const struct dist *dist, struct model *model, struct mates **ret_mates, struct err *err);
void mates_detach(struct mates *mates); // after the model; NULL is fine

#endif

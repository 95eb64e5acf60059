/* SPDX-License-Identifier: Apache-2.0 */
/* step - one plan into one completion: verify, run the model, sample, sum up full pages. Keeps nothing between
 * plans but scratch memory. */
#ifndef KVASIR_WORKER_STEP_H
#define KVASIR_WORKER_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/ipc/plan.h"
#include "worker/model.h"
#include "worker/pages.h"

struct step;

struct step_conf {
    const struct plan_limits *limits; // copied
    uint64_t epoch;                   // of the pool and the link
    uint32_t rank;
    uint32_t threads;
    uint32_t logits_max; // what the model was opened with, > 0
    struct dist *dist;   // borrowed until step_free; NULL: rank 0 alone
    struct model *model; // borrowed until step_free
    struct pages *pages; // borrowed until step_free
};

/* Rows of logits to ask of model_open: enough for one row of every sequence, and for scoring as many as fit a
 * fixed memory. Steps that need more run the model more than once (its results are the same each time). */
uint32_t step_logits_max(const struct plan_limits *limits);

int step_new(const struct step_conf *conf, struct step **ret_step, struct err *err);
void step_free(struct step *step); // NULL is fine

/* Runs the plan in [plan, plan + len), private memory, and writes its completion to slot (done_bytes_max). Always
 * writes one: with a negative status when the plan was refused or the model failed. All ranks of a group call it with
 * the same plan; rank 0 answers for all of them, and the others' slot may be NULL. Between two steps of a group lies a
 * barrier: dist_share of the plan.
 * -> 0, or that status with the reason. */
int step_run(struct step *step, const void *plan, size_t len, void *slot, size_t slot_bytes,
             size_t *ret_bytes, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* sched_rig - a scheduler with a pool of its own, a clock that stands still, and a worker that answers every plan at
 * once with made-up tokens. For tests of order and for bench/sched; what the tokens must be is the
 * matter of tests/sim. */
#ifndef KVASIR_TESTS_DATA_SCHED_RIG_H
#define KVASIR_TESTS_DATA_SCHED_RIG_H

#include "daemon/sched.h"

struct sched_rig {
    struct sched_conf conf;
    struct plan_limits limits;
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_writer *writer;
    struct done_writer *answer;
    void *plan_bytes, *done_bytes; // owned, (plan_size) and (done_size)
    size_t plan_size, done_size;
    struct sched_event *events; // owned, (2 * seqs_max)
    uint64_t now_ns;
    struct plan_view plan; // of the last sched_rig_plan
};

/* 0 or negative with nothing left behind. */
int sched_rig_open(struct sched_rig *rig, uint32_t pages, const struct sched_conf *conf);
void sched_rig_close(struct sched_rig *rig);

/* With conf.ageing_ns, arrival now_ns. -> as sched_submit. */
int sched_rig_submit(struct sched_rig *rig, const struct sched_request *request, uint64_t *ret_seq_id);

/* sched_plan. -> sequences planned, whose plan is then rig->plan. */
int sched_rig_plan(struct sched_rig *rig);
/* The worker's answer to it, as a verified view. */
void sched_rig_answer(struct sched_rig *rig, struct done_view *ret_done);
/* The same, not verified. -> its bytes, in done_bytes. */
size_t sched_rig_answer_write(struct sched_rig *rig);
/* sched_complete of that. -> events in rig->events. */
int sched_rig_complete(struct sched_rig *rig, const struct done_view *done);

#endif

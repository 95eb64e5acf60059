/* SPDX-License-Identifier: Apache-2.0 */
/* sim_group - see sim.h. One group: what engine.c and group.c do for it, and when its worker dies of what. */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

/* ---- rings ---- */

static void worker_start(struct sim *sim, struct sim_group *group)
{
    uint32_t plan_bytes = (uint32_t)sim->plan_size, done_bytes = (uint32_t)sim->done_size;
    LAW(ring_attach_consumer(group->plan_ring, SIM_SLOTS, plan_bytes, &group->plan_in) == 0);
    LAW(ring_attach_producer(group->done_ring, SIM_SLOTS, done_bytes, &group->done_out) == 0);
}

void sim_groups_open(struct sim *sim)
{
    uint32_t plan_bytes = (uint32_t)sim->plan_size, done_bytes = (uint32_t)sim->done_size;
    sim_groups_close(sim);
    for (uint32_t i = 0; i < sim->group_count; i++) {
        struct sim_group *group = &sim->groups[i];
        group->plan_ring = sim_must(aligned_alloc(CACHELINE_BYTES, ring_bytes(SIM_SLOTS, plan_bytes)));
        group->done_ring = sim_must(aligned_alloc(CACHELINE_BYTES, ring_bytes(SIM_SLOTS, done_bytes)));
        group->plan_bytes = sim_must(malloc(sim->plan_size));
        ring_format(group->plan_ring, SIM_SLOTS, plan_bytes);
        ring_format(group->done_ring, SIM_SLOTS, done_bytes);
        LAW(ring_attach_producer(group->plan_ring, SIM_SLOTS, plan_bytes, &group->plan_out) == 0);
        LAW(ring_attach_consumer(group->done_ring, SIM_SLOTS, done_bytes, &group->done_in) == 0);
        worker_start(sim, group);
    }
}

void sim_groups_close(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->group_count; i++) {
        struct sim_group *group = &sim->groups[i];
        free(group->plan_ring);
        free(group->done_ring);
        free(group->plan_bytes);
        *group = (struct sim_group){.flies = false};
    }
}

bool sim_flies_any(const struct sim *sim)
{
    bool flies = false;
    for (uint32_t i = 0; i < sim->group_count; i++) flies |= sim->groups[i].flies;
    return flies;
}

/* ---- plan ---- */

int sim_group_plan(struct sim *sim, uint32_t at)
{
    struct sim_group *group = &sim->groups[at];
    void *slot;
    struct err err = {0};
    sim_note_running(sim);
    int seqs = sched_plan(sim->sched, at, sim->now_ns, sim->writer);
    LAW(seqs >= 0);
    if (seqs == 0) return 0;
    sim->counts.overlaps += sim_flies_any(sim);
    LAW(ring_next(&group->plan_out, &slot) == 0);
    size_t bytes = plan_writer_finish(sim->writer, group->plan_bytes, sim->plan_size);
    if (plan_verify(group->plan_bytes, bytes, &sim->limits, &group->plan, &err) < 0)
        sim_broken(__FILE__, __LINE__, "plan_verify", err.text);
    memcpy(slot, group->plan_bytes, bytes);
    ring_publish(&group->plan_out, (uint32_t)bytes);
    LAW((int)group->plan.header->seq_count == seqs);
    LAW(sched_in_flight(sim->sched, at));
    uint32_t free_count = pool_free_count(sim->pool);
    sched_reserve(sim->sched, sim->reserve_max);
    LAW(pool_free_count(sim->pool) == free_count || pool_free_count(sim->pool) <= sim->reserve_max);
    LAW(sched_plan(sim->sched, at, sim->now_ns, sim->writer) == 0); // one at a time
    group->flies = true;
    group->ran = false;
    sim_check_plan(sim, at);
    return seqs;
}

/* ---- the worker's turn ---- */

static bool step_is_poisoned(struct sim *sim, const struct plan_view *plan)
{
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        const struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
        if (client && client->poison && plan->seqs[i].flags & PLAN_SAMPLE) return true;
    }
    return false;
}

enum sim_fault sim_fault_draw(struct sim *sim, uint32_t at)
{
    if (step_is_poisoned(sim, &sim->groups[at].plan)) return SIM_DIES_AMIDST;
    if (sim->fault_every == 0 || rng_below(&sim->rng, sim->fault_every) != 0) return SIM_FINE;
    enum sim_fault fault = (enum sim_fault)(1 + rng_below(&sim->rng, SIM_FAULTS - 1));
    if (fault == SIM_DAEMON_DIES && rng_below(&sim->rng, 10) != 0) return SIM_FINE; // it ends all requests
    return fault;
}

/* Takes the plan, does it as far as the fault lets it, publishes. */
void sim_group_run(struct sim *sim, uint32_t at, enum sim_fault fault)
{
    struct sim_group *group = &sim->groups[at];
    const void *slot;
    void *out;
    uint32_t bytes;
    struct plan_view plan;
    LAW(group->flies && !group->ran);
    group->ran = true;
    group->fault = fault;
    if (fault == SIM_DIES_BEFORE) return;
    LAW(ring_peek(&group->plan_in, &slot, &bytes) == 0);
    memcpy(sim->worker_plan, slot, bytes);
    ring_release(&group->plan_in);
    if (fault == SIM_DIES_TAKEN) return;
    struct err err = {0};
    if (plan_verify(sim->worker_plan, bytes, &sim->limits, &plan, &err) < 0)
        sim_broken(__FILE__, __LINE__, "plan_verify", err.text);
    uint64_t rows_max = fault == SIM_DIES_AMIDST
                            ? rng_below(&sim->rng, plan.header->token_count + plan.header->copy_count)
                            : UINT64_MAX;
    int32_t status = 0;
    if (!sim_worker_checks(sim, &plan)) status = -EBADMSG;
    else if (!sim_worker_run(sim, &plan, rows_max)) return;
    else if (fault == SIM_REFUSES) status = ERR_PEER;
    LAW(ring_next(&group->done_out, &out) == 0);
    size_t done_bytes = done_writer_finish(sim->answer, status, 3, 2, 1, out, sim->done_size);
    if (fault == SIM_DIES_UNTOLD) return;
    ring_publish(&group->done_out, (uint32_t)done_bytes);
}

/* ---- the daemon's side of an answer ---- */

/* As engine.c's pages_drop. */
static void bad_pages_take(struct sim *sim, uint32_t at, const struct done_view *done)
{
    for (uint32_t i = 0; i < done->header->bad_count; i++)
        LAW(sim->damages[done->bads[i].page_idx] == done->bads[i].generation);
    sim->counts.found += done->header->bad_count;
    int dropped = sched_corrupt(sim->sched, at, sim->now_ns, done->bads, done->header->bad_count);
    LAW(!sched_in_flight(sim->sched, at));
    LAW(sched_is_barred(sim->sched) == sched_flies_any(sim->sched));
    LAW(sched_is_barred(sim->sched) ? dropped == 0 : dropped >= (int)done->header->bad_count);
}

/* The losses of those in a plan begin anew, or grow by one. */
static void losses_count(struct sim *sim, const struct plan_view *plan, bool lost)
{
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
        if (client) client->losses = lost ? client->losses + 1 : 0;
    }
}

/* As engine.c's completions_pop and completion_take. -> whether the step in flight was answered. */
static bool answer_take(struct sim *sim, uint32_t at, bool lies)
{
    struct sim_group *group = &sim->groups[at];
    const struct plan_view *plan = &group->plan;
    const void *slot;
    uint32_t bytes;
    struct done_view done;
    struct err err = {0};
    if (ring_peek(&group->done_in, &slot, &bytes) < 0) return false;
    memcpy(sim->done_bytes, slot, bytes);
    ring_release(&group->done_in);
    if (lies) { // what is refused costs the step; what is not tells nothing here: the next line has the truth
        ((uint8_t *)sim->done_bytes)[rng_below(&sim->rng, bytes)] ^= (uint8_t)(1 + rng_below(&sim->rng, 255));
        if (done_verify(sim->done_bytes, bytes, &sim->limits, plan, &done, &err) < 0) return false;
        memcpy(sim->done_bytes, slot, bytes);
    }
    int r = done_verify(sim->done_bytes, bytes, &sim->limits, plan, &done, &err);
    if (r < 0) sim_broken(__FILE__, __LINE__, "done_verify", err.text);
    if (done.header->bad_count > 0) {
        bad_pages_take(sim, at, &done);
        return true;
    }
    if (done.header->status < 0) return false;
    bool is_void = sim->sched->groups[at].is_void; // then nothing of it is looked at
    if (!is_void && done.header->seal_count &&
        rng_below(&sim->rng, 20) == 0) { // one seal short: nothing may change
        struct done_header header = *done.header;
        struct done_view cut = done;
        header.seal_count--;
        cut.header = &header;
        LAW(sched_complete(sim->sched, at, sim->now_ns, &cut, sim->events) == ERR_PEER);
        LAW(sched_in_flight(sim->sched, at));
    }
    if (!is_void) losses_count(sim, plan, false);
    sim->counts.voids += is_void;
    int events = sched_complete(sim->sched, at, sim->now_ns, &done, sim->events);
    LAW(events >= 0 && events <= (int)(2 * sim->conf.seqs_max));
    LAW(!is_void || events == 0);
    for (int i = 0; i < events; i++) sim_client_event(sim, &sim->events[i], plan->header->step);
    return true;
}

void sim_damage(struct sim *sim)
{
    if (rng_below(&sim->rng, 4) != 0) return;
    for (uint64_t n = 1 + rng_below(&sim->rng, 3); n > 0; n--) {
        uint32_t page_idx = (uint32_t)rng_below(&sim->rng, sim->page_count);
        const struct page_desc *desc = pool_desc(sim->pool, page_idx);
        if (desc->state != PAGE_SEALED || sim->damages[page_idx] == desc->generation) continue;
        sim->payload[(size_t)page_idx * PAGE_TOKENS + rng_below(&sim->rng, PAGE_TOKENS)] ^=
            UINT64_C(1) << rng_below(&sim->rng, 64);
        sim->damages[page_idx] = desc->generation;
        sim->counts.damaged++;
    }
}

/* Part-filled pages have no checksum: whoever may have done this has them filled anew. */
static void damage_filling(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->page_count; i++)
        if (pool_desc(sim->pool, i)->state == PAGE_FILLING)
            sim->payload[(size_t)i * PAGE_TOKENS + rng_below(&sim->rng, PAGE_TOKENS)] ^= 1;
}

/* The worker is dead, or killed for its answer: as group.c's process_exited. */
static void worker_died(struct sim *sim, uint32_t at)
{
    struct sim_group *group = &sim->groups[at];
    if (sched_in_flight(sim->sched, at) && !answer_take(sim, at, false)) {
        losses_count(sim, &group->plan, true);
        int events = sched_lost(sim->sched, at, sim->now_ns, sim->events);
        LAW(events >= 0 && events <= (int)sim->conf.seqs_max);
        for (int i = 0; i < events; i++) sim_client_event(sim, &sim->events[i], group->plan.header->step);
    }
    sim_damage(sim);
    sched_distrust(sim->sched, at);
    if (rng_below(&sim->rng, 2) == 0) {
        damage_filling(sim);
        sched_refill(sim->sched);
    }
    ring_reset_producer(&group->plan_out);
    ring_reset_consumer(&group->done_in);
    worker_start(sim, group);
    if (sim->group_count > 1 && !sim->quiet) group->down = (uint32_t)rng_below(&sim->rng, SIM_DOWN_MAX);
}

void sim_group_end(struct sim *sim, uint32_t at)
{
    struct sim_group *group = &sim->groups[at];
    enum sim_fault fault = group->fault;
    LAW(group->flies && group->ran);
    bool dies = fault != SIM_FINE && fault != SIM_LIES && fault != SIM_REFUSES;
    if (dies || !answer_take(sim, at, fault == SIM_LIES)) worker_died(sim, at);
    LAW(!sched_in_flight(sim->sched, at));
    group->flies = false;
}

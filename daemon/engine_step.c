/* SPDX-License-Identifier: Apache-2.0 */
/* See engine_state.h. */
#include "daemon/engine_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"

/* ---- one step ---- */

static void step_report(struct engine_group *at, bool planned)
{
    struct engine *engine = at->engine;
    if (at->done_ns == 0) return;
    at->step.turn_ns = planned ? clock_mono_ns() - at->done_ns : 0;
    at->done_ns = 0;
    engine->conf.callbacks->on_step(engine->conf.owner, &at->step);
}

/* Tells the owners of those whose deadline has come. */
static void deadlines_expire(struct engine *engine)
{
    int count;
    while ((count = sched_expire(engine->sched, clock_mono_ns(), engine->events)) > 0) {
        for (int i = 0; i < count; i++) {
            if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
            engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], NULL);
        }
    }
    engine_deadline_arm(engine);
}

static void deadline_came(uv_timer_t *timer)
{
    struct engine *engine = timer->data;
    engine->deadline_ns = UINT64_MAX;
    deadlines_expire(engine);
}

/* A timer that fires early finds nobody and is armed again. */
void engine_deadline_arm(struct engine *engine)
{
    uint64_t next_ns = sched_deadline_next(engine->sched), now_ns = clock_mono_ns();
    if (next_ns >= engine->deadline_ns) return;
    engine->deadline_ns = next_ns;
    uv_timer_start(&engine->deadline, deadline_came,
                   next_ns > now_ns ? (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS : 0, 0);
}

bool engine_can_compute(const struct engine_group *at)
{
    return at->serves && group_state(at->group) == GROUP_READY;
}

/* Plans a group's next step and pushes it. Nobody sees the slot before that: the plan is put together in it. The answer
 * is verified against what the writer keeps of it, not against the slot. -> whether there is one. */
static bool group_plan(struct engine_group *at)
{
    struct engine *engine = at->engine;
    if (!engine_can_compute(at) || sched_in_flight(engine->sched, at->idx)) return false;
    size_t slot_bytes;
    void *slot = link_plan_slot(group_link(at->group), &slot_bytes);
    if (!slot) { // one step in flight, LINK_SLOTS slots: only a broken ring has none
        group_kill(at->group, "the plan ring is broken");
        return false;
    }
    int seqs = sched_plan(engine->sched, at->idx, clock_mono_ns(), at->writer);
    if (seqs == 0 && engine->offload && !sched_flies_any(engine->sched) &&
        offload_yield(engine->offload)) // somebody may fit now
        seqs = sched_plan(engine->sched, at->idx, clock_mono_ns(), at->writer);
    if (seqs == 0) return false;
    size_t bytes = plan_writer_finish(at->writer, slot, slot_bytes);
    CHECK_SLOW(plan_verify(slot, bytes, &engine->limits, &at->plan, NULL) == 0); // our own writer
    plan_writer_view(at->writer, &at->plan);
    link_plan_push(group_link(at->group), bytes);
    group_step_begin(at->group);
    step_report(at, true);
    /* While the worker computes. */
    sched_reserve(engine->sched, pool_geometry(engine->pool)->page_count / SCHED_RESERVE_SHARE);
    return true;
}

/* A plan may give sequences to a group that was asked before: until none has anything to do. */
static void step_plan(struct engine *engine)
{
    deadlines_expire(engine); // never computed: also those whose timer is late
    uint32_t count = engine->conf.group_count;
    for (uint32_t i = 0, still = 0; still < count; i = (i + 1) % count, still++)
        if (group_plan(&engine->groups[i])) still = 0;
    for (uint32_t i = 0; i < count; i++) step_report(&engine->groups[i], false);
    if (engine->offload) offload_turn(engine->offload);
}

static void before_sleep(uv_prepare_t *prepare)
{
    struct engine *engine = prepare->data;
    uv_prepare_stop(prepare);
    step_plan(engine);
    engine->conf.callbacks->on_turn(engine->conf.owner);
}

void engine_dirty(struct engine *engine)
{
    if (!uv_is_active((uv_handle_t *)&engine->prepare)) uv_prepare_start(&engine->prepare, before_sleep);
}

/* Where bad pages are to be dropped, nobody but sequences may hold any. */
static void tier_step_back(struct engine *engine)
{
    if (engine->offload && sched_is_barred(engine->sched)) offload_abandon(engine->offload);
}

/* Nothing of the step was computed: it is planned again without the bad pages. */
static void pages_drop(struct engine_group *at, const struct done_view *done)
{
    struct engine *engine = at->engine;
    uint32_t bad_count = done->header->bad_count;
    if (engine->offload) offload_abandon(engine->offload);
    int dropped = sched_corrupt(engine->sched, at->idx, clock_mono_ns(), done->bads, bad_count);
    engine->conf.callbacks->on_corrupt(engine->conf.owner, bad_count, (uint32_t)dropped);
}

/* Full pages go to the tier as well, and what a prompt's rows cost tells whether fetching pays. */
static void step_offload(struct engine_group *at, const struct done_view *done)
{
    struct offload *offload = at->engine->offload;
    for (uint32_t i = 0; i < done->header->seal_count; i++) offload_sealed(offload, done->seals[i].page_idx);
    if (at->step.prefill_count > 0) offload_computed(offload, at->step.token_count, done->header->forward_ns);
}

static void step_note(struct engine_group *at, const struct done_view *done)
{
    struct sched_step planned;
    sched_last_step(at->engine->sched, at->idx, &planned);
    at->done_ns = clock_mono_ns();
    at->step = (struct engine_step){
        .seq_count = done->header->seq_count,
        .token_count = at->plan.header->token_count,
        .prefill_count = planned.prefill_rows,
        .step_ns = done->header->step_ns,
        .forward_ns = done->header->forward_ns,
        .sample_ns = done->header->sample_ns,
        .predicted_ns = planned.predicted_ns,
    };
}

static int completion_take(struct engine_group *at, size_t bytes, struct err *err)
{
    struct engine *engine = at->engine;
    struct done_view done;
    int r = done_verify(engine->done_bytes, bytes, &engine->limits, &at->plan, &done, err);
    if (r < 0) return r;
    if (done.header->bad_count > 0) {
        pages_drop(at, &done);
        return 0;
    }
    if (done.header->status < 0)
        return ERR(err, done.header->status, "its step failed: %s", err_name(done.header->status));
    step_note(at, &done);
    tier_step_back(engine);
    int count = sched_complete(engine->sched, at->idx, at->done_ns, &done, engine->events);
    if (count < 0) return ERR(err, count, "a page or sequence that was not asked for");
    if (engine->offload) step_offload(at, &done);
    for (int i = 0; i < count; i++) {
        at->step.sampled_count += engine->events[i].kind == SCHED_TOKEN;
        if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
        engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], done.tops);
    }
    return 0;
}

static void completions_pop(struct engine_group *at)
{
    struct engine *engine = at->engine;
    size_t bytes;
    for (;;) {
        struct err err = {0};
        int r = link_done_pop(group_link(at->group), engine->done_bytes, engine->done_bytes_max, &bytes);
        if (r == -EAGAIN) return;
        if (r == 0 && !sched_in_flight(engine->sched, at->idx)) r = ERR_PEER; // an answer nobody asked for
        if (r == 0) r = completion_take(at, bytes, &err);
        if (r < 0) {
            group_step_end(at->group);
            group_kill(at->group, err.text[0] ? err.text : err_name(r));
            return;
        }
        group_step_done(at->group);
        engine_dirty(engine);
    }
}

/* ---- the groups' callbacks ---- */

/* Nothing is planned before a worker is ready, so that no adopted page is read before this. A build may also be
 * replaced while we live: then sequences compute anew what the one before had computed. No other group has a step in
 * flight. */
static void producer_take(struct engine *engine, uint64_t producer)
{
    uint32_t pool_count = 0, tier_count = 0;
    if (pool_producer(engine->pool) != producer) {
        if (engine->offload) offload_abandon(engine->offload);
        pool_count = sched_forget(engine->sched, clock_mono_ns());
        CHECK(pool_sealed_count(engine->pool) == 0);
        pool_stamp(engine->pool, producer);
    }
    if (engine->offload) tier_count = offload_begin(engine->offload, producer);
    if (pool_count + tier_count > 0)
        engine->conf.callbacks->on_foreign(engine->conf.owner, pool_count, tier_count);
}

/* Whether no worker that computes gives other bits than this one, which comes from the program as it is now: those of
 * an older one are replaced, and the last of them that dies lets this one in. */
static bool producer_agreed(struct engine_group *at, uint64_t producer)
{
    struct engine *engine = at->engine;
    bool agreed = true;
    if (pool_producer(engine->pool) == producer) return true;
    for (uint32_t i = 0; i < engine->conf.group_count; i++) {
        if (!engine->groups[i].serves) continue;
        group_replace(engine->groups[i].group, "its kernels give other bits than those of a newer worker");
        agreed = false;
    }
    return agreed;
}

static void group_ready(void *owner)
{
    struct engine_group *at = owner;
    struct engine *engine = at->engine;
    uint64_t producer = group_producer(at->group);
    if (producer == 0) { // a worker of this layout of the link says it
        group_kill(at->group, "no word on the bits of its kernels");
        return;
    }
    if (!producer_agreed(at, producer)) return;
    producer_take(engine, producer);
    at->serves = true;
    engine->ever_ready = true;
    engine->conf.callbacks->on_ready(engine->conf.owner, at->idx);
    engine_dirty(engine);
}

static void group_progress(void *owner, uint32_t permille)
{
    struct engine *engine = ((struct engine_group *)owner)->engine;
    engine->conf.callbacks->on_progress(engine->conf.owner, permille);
}

static void group_done(void *owner)
{
    completions_pop(owner);
}

static void step_lost(struct engine_group *at)
{
    struct engine *engine = at->engine;
    tier_step_back(engine);
    int count = sched_lost(engine->sched, at->idx, clock_mono_ns(), engine->events);
    for (int i = 0; i < count; i++) {
        if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
        engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], NULL);
    }
}

static void group_lost(void *owner, const char *reason)
{
    struct engine_group *at = owner;
    struct engine *engine = at->engine;
    completions_pop(at); // what it finished before it died counts
    if (sched_in_flight(engine->sched, at->idx)) step_lost(at);
    at->serves = false;
    sched_distrust(engine->sched, at->idx);
    if (group_is_wild(at->group)) {
        sched_refill(engine->sched);
        if (engine->offload) offload_abandon(engine->offload); // what is read was compared already
    }
    step_report(at, false);
    engine->conf.callbacks->on_turn(engine->conf.owner);
    engine->conf.callbacks->on_lost(engine->conf.owner, at->idx, reason);
    engine_dirty(engine); // what it had goes on in another
    /* producer_agreed may have been waiting for this. */
    for (uint32_t i = 0; i < engine->conf.group_count; i++) {
        struct engine_group *other = &engine->groups[i];
        if (other != at && !other->serves && group_state(other->group) == GROUP_READY) group_ready(other);
    }
}

void engine_groups_stop(struct engine *engine)
{
    engine->groups_left = engine->conf.group_count;
    for (uint32_t i = 0; i < engine->conf.group_count; i++) group_stop(engine->groups[i].group);
}

/* Its reason is told when no worker is left. */
void engine_group_failed(void *owner, int exit_status, const char *reason)
{
    struct engine *engine = ((struct engine_group *)owner)->engine;
    if (engine->groups_left > 0) return; // stopping already
    engine->is_failing = true;
    engine->failed_status = exit_status;
    (void)snprintf(engine->failed_reason, sizeof engine->failed_reason, "%s", reason); // may be cut
    engine_groups_stop(engine);
}

static void group_stopped(void *owner)
{
    struct engine *engine = ((struct engine_group *)owner)->engine;
    if (--engine->groups_left > 0) return;
    if (engine->is_failing)
        engine->conf.callbacks->on_failed(engine->conf.owner, engine->failed_status, engine->failed_reason);
    else engine->conf.callbacks->on_stopped(engine->conf.owner);
}

const struct group_callbacks engine_group_callbacks = {
    .on_ready = group_ready,
    .on_progress = group_progress,
    .on_done = group_done,
    .on_lost = group_lost,
    .on_failed = engine_group_failed,
    .on_stopped = group_stopped,
};

void engine_step_init(struct engine *engine)
{
    (void)uv_prepare_init(engine->conf.loop, &engine->prepare); // neither can fail
    (void)uv_timer_init(engine->conf.loop, &engine->deadline);
    engine->prepare.data = engine->deadline.data = engine;
    engine->deadline_ns = UINT64_MAX;
    engine->handles_open = 2;
}

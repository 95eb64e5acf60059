/* SPDX-License-Identifier: Apache-2.0 */
/* sim - see sim.h. */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"

enum { EPOCH_FIRST = 7 };

static void *must(void *memory)
{
    LAW(memory != NULL);
    return memory;
}

/* ---- a world ---- */

static void open_rings(struct sim *sim)
{
    uint32_t plan_bytes = (uint32_t)sim->plan_size, done_bytes = (uint32_t)sim->done_size;
    sim->plan_ring = must(aligned_alloc(CACHELINE_BYTES, ring_bytes(SIM_SLOTS, plan_bytes)));
    sim->done_ring = must(aligned_alloc(CACHELINE_BYTES, ring_bytes(SIM_SLOTS, done_bytes)));
    ring_format(sim->plan_ring, SIM_SLOTS, plan_bytes);
    ring_format(sim->done_ring, SIM_SLOTS, done_bytes);
    LAW(ring_attach_producer(sim->plan_ring, SIM_SLOTS, plan_bytes, &sim->plan_out) == 0);
    LAW(ring_attach_consumer(sim->done_ring, SIM_SLOTS, done_bytes, &sim->done_in) == 0);
}

static void worker_start(struct sim *sim)
{
    uint32_t plan_bytes = (uint32_t)sim->plan_size, done_bytes = (uint32_t)sim->done_size;
    LAW(ring_attach_consumer(sim->plan_ring, SIM_SLOTS, plan_bytes, &sim->plan_in) == 0);
    LAW(ring_attach_producer(sim->done_ring, SIM_SLOTS, done_bytes, &sim->done_out) == 0);
}

static void open_sched(struct sim *sim)
{
    LAW(prefix_new(sim->pool, &sim->prefix) == 0);
    LAW(prefix_share(sim->prefix, 1, sim->page_count / 3) == 0);
    LAW(prefix_retain(sim->prefix, 1, sim->page_count / 4) == 0);
    uint32_t longest = (sim->conf.model_len_max + PAGE_TOKENS - 1) / PAGE_TOKENS,
             eighth = sim->page_count / 8;
    uint32_t spare = sim->page_count > longest ? sim->page_count - longest : 0; // as engine_pin_limit
    pins_limit(prefix_pins(sim->prefix), spare < eighth ? spare : eighth);
    LAW(sched_new(&sim->conf, sim->pool, sim->prefix, &sim->sched) == 0);
}

static void open_pool(struct sim *sim)
{
    sim->geometry = (struct pool_geometry){.page_count = sim->page_count,
                                           .page_tokens = PAGE_TOKENS,
                                           .rank_count = sim->rank_count,
                                           .layer_count = 1,
                                           .head_count_kv = 1,
                                           .head_dims = 2,
                                           .page_bytes = pool_page_bytes(KV_F16, 1, 1, 2)};
    struct pool_owner owner = {1, 2, sim->conf.epoch};
    size_t bytes = pool_meta_bytes(&sim->geometry);
    sim->meta = must(aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095));
    memset(sim->meta, 0, bytes);
    LAW(pool_format(sim->meta, bytes, &sim->geometry, &owner, &sim->pool, NULL) == 0);
    open_sched(sim);
    sched_plan_limits(&sim->conf, &sim->geometry, SIM_VOCAB, &sim->limits);
}

static void open_world(struct sim *sim)
{
    open_pool(sim);
    LAW(plan_writer_new(&sim->limits, &sim->writer) == 0);
    LAW(done_writer_new(&sim->limits, &sim->answer) == 0);
    sim->plan_size = plan_bytes_max(&sim->limits);
    sim->done_size = done_bytes_max(&sim->limits);
    sim->plan_bytes = must(malloc(sim->plan_size));
    sim->worker_plan = must(malloc(sim->plan_size));
    sim->done_bytes = must(malloc(sim->done_size));
    sim->payload = must(calloc((size_t)sim->page_count * PAGE_TOKENS, sizeof *sim->payload));
    sim->seals = must(calloc(sim->page_count, sizeof *sim->seals));
    sim->salts = must(calloc(sim->page_count, sizeof *sim->salts));
    sim->damages = must(calloc(sim->page_count, sizeof *sim->damages));
    sim->seal_generations = must(calloc(sim->page_count, sizeof *sim->seal_generations));
    sim->events = must(calloc(2 * (size_t)sim->conf.seqs_max, sizeof *sim->events));
    open_rings(sim);
    worker_start(sim);
}

void sim_open(struct sim *sim, uint64_t seed)
{
    memset(sim, 0, sizeof *sim);
    sim->rng.state = seed;
    sim->page_count = 13 + (uint32_t)rng_below(&sim->rng, rng_below(&sim->rng, 4) ? 20 : 120);
    sim->rank_count = 1 + (uint32_t)rng_below(&sim->rng, 2);
    sim->has_poison = rng_below(&sim->rng, 3) == 0;
    sim->fault_every = sim->has_poison ? 0 : 10;
    sim->has_priorities = rng_below(&sim->rng, 2) == 0;
    sim->prompt_max = rng_below(&sim->rng, 2) ? 20 : SIM_LEN_MAX - 40;
    uint32_t seqs = 1 + (uint32_t)rng_below(&sim->rng, 24);
    sim->conf = (struct sched_conf){.seqs_max = seqs,
                                    .tokens_max = seqs + (uint32_t)rng_below(&sim->rng, 100),
                                    .queue_max = 1 + (uint32_t)rng_below(&sim->rng, 40),
                                    .model_len_max = SIM_LEN_MAX,
                                    .epoch = EPOCH_FIRST,
                                    // 0: by the cost of a step
                                    .itl_target_ns = rng_below(&sim->rng, 2) ? 0 : UINT64_MAX,
                                    .ageing_ns = 1 + rng_below(&sim->rng, 100 * NS_PER_MS)};
    open_world(sim);
}

void sim_open_quiet(struct sim *sim, uint32_t pages)
{
    memset(sim, 0, sizeof *sim);
    sim->quiet = true;
    sim->page_count = pages;
    sim->rank_count = 1;
    sim->conf = (struct sched_conf){.seqs_max = 8,
                                    .tokens_max = 64,
                                    .queue_max = 8,
                                    .model_len_max = SIM_LEN_MAX,
                                    .epoch = EPOCH_FIRST,
                                    .itl_target_ns = UINT64_MAX};
    open_world(sim);
}

void sim_close(struct sim *sim)
{
    plan_writer_free(sim->writer);
    done_writer_free(sim->answer);
    sched_free(sim->sched);
    prefix_free(sim->prefix);
    pool_free(sim->pool);
    free(sim->meta);
    free(sim->plan_ring);
    free(sim->done_ring);
    free(sim->plan_bytes);
    free(sim->worker_plan);
    free(sim->done_bytes);
    free(sim->payload);
    free(sim->seals);
    free(sim->salts);
    free(sim->damages);
    free(sim->seal_generations);
    free(sim->events);
}

/* ---- the worker's turn ---- */

/* Takes the plan, does it as far as the fault lets it, publishes. */
static void worker_turn(struct sim *sim, enum sim_fault fault)
{
    const void *slot;
    void *out;
    uint32_t bytes;
    struct plan_view plan;
    if (fault == SIM_DIES_BEFORE) return;
    LAW(ring_peek(&sim->plan_in, &slot, &bytes) == 0);
    memcpy(sim->worker_plan, slot, bytes);
    ring_release(&sim->plan_in);
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
    LAW(ring_next(&sim->done_out, &out) == 0);
    size_t done_bytes = done_writer_finish(sim->answer, status, 3, 2, 1, out, sim->done_size);
    if (fault == SIM_DIES_UNTOLD) return;
    ring_publish(&sim->done_out, (uint32_t)done_bytes);
}

/* ---- the daemon's side of an answer ---- */

/* As engine.c's pages_drop. */
static void bad_pages_take(struct sim *sim, const struct done_view *done)
{
    for (uint32_t i = 0; i < done->header->bad_count; i++)
        LAW(sim->damages[done->bads[i].page_idx] == done->bads[i].generation);
    sim->counts.found += done->header->bad_count;
    LAW(sched_corrupt(sim->sched, 0, sim->now_ns, done->bads, done->header->bad_count) >=
        (int)done->header->bad_count);
    LAW(!sched_in_flight(sim->sched, 0));
}

/* As engine.c's completions_pop and completion_take. -> whether the step in flight was answered. */
static bool answer_take(struct sim *sim, const struct plan_view *plan, bool lies)
{
    const void *slot;
    uint32_t bytes;
    struct done_view done;
    struct err err = {0};
    if (ring_peek(&sim->done_in, &slot, &bytes) < 0) return false;
    memcpy(sim->done_bytes, slot, bytes);
    ring_release(&sim->done_in);
    if (lies) { // what is refused costs the step; what is not tells nothing here: the next line has the truth
        ((uint8_t *)sim->done_bytes)[rng_below(&sim->rng, bytes)] ^= (uint8_t)(1 + rng_below(&sim->rng, 255));
        if (done_verify(sim->done_bytes, bytes, &sim->limits, plan, &done, &err) < 0) return false;
        memcpy(sim->done_bytes, slot, bytes);
    }
    int r = done_verify(sim->done_bytes, bytes, &sim->limits, plan, &done, &err);
    if (r < 0) sim_broken(__FILE__, __LINE__, "done_verify", err.text);
    if (done.header->bad_count > 0) {
        bad_pages_take(sim, &done);
        return true;
    }
    if (done.header->status < 0) return false;
    if (done.header->seal_count && rng_below(&sim->rng, 20) == 0) { // one seal short: nothing may change
        struct done_header header = *done.header;
        struct done_view cut = done;
        header.seal_count--;
        cut.header = &header;
        LAW(sched_complete(sim->sched, 0, sim->now_ns, &cut, sim->events) == ERR_PEER);
        LAW(sched_in_flight(sim->sched, 0));
    }
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
        if (client) client->losses = 0;
    }
    int events = sched_complete(sim->sched, 0, sim->now_ns, &done, sim->events);
    LAW(events >= 0 && events <= (int)(2 * sim->conf.seqs_max));
    for (int i = 0; i < events; i++) sim_client_event(sim, &sim->events[i], plan->header->step);
    return true;
}

/* What a dying writer may do to pages that it should only read. Until they are sealed pages are nobody's but their
 * sequence's, and a worker that writes there by mistake is not found out. */
static void damage(struct sim *sim)
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

/* The worker is dead, or killed for its answer: as group.c's process_exited. */
static void worker_died(struct sim *sim, const struct plan_view *plan)
{
    if (sched_in_flight(sim->sched, 0) && !answer_take(sim, plan, false)) {
        for (uint32_t i = 0; i < plan->header->seq_count; i++) {
            struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
            if (client) client->losses++;
        }
        int events = sched_lost(sim->sched, 0, sim->now_ns, sim->events);
        LAW(events >= 0 && events <= (int)sim->conf.seqs_max);
        for (int i = 0; i < events; i++) sim_client_event(sim, &sim->events[i], plan->header->step);
    }
    damage(sim);
    sched_distrust(sim->sched, 0);
    ring_reset_producer(&sim->plan_out);
    ring_reset_consumer(&sim->done_in);
    worker_start(sim);
}

static void stats_take(struct sim *sim)
{
    struct sched_stats stats;
    sched_stats(sim->sched, &stats);
    sim->counts.preempted += stats.preemptions;
    sim->counts.hits += stats.prefix_hits;
    sim->counts.queries += stats.prefix_queries;
    sim->counts.evicted += prefix_evictions(sim->prefix);
}

/* The daemon is dead, its requests with it, and so is its worker. Another adopts the pool, and all that was sealed. */
static void daemon_died(struct sim *sim)
{
    struct pool_owner owner = {1, 2, ++sim->conf.epoch};
    struct pool_adoption adoption;
    uint32_t sealed = pool_sealed_count(sim->pool);
    damage(sim);
    stats_take(sim);
    sched_free(sim->sched);
    prefix_free(sim->prefix);
    pool_free(sim->pool);
    for (int i = 0; i < SIM_CLIENTS; i++) sim->clients[i].live = false;
    memset(sim->seq_id_last, 0, sizeof sim->seq_id_last);
    struct err err = {0};
    if (pool_adopt(sim->meta, pool_meta_bytes(&sim->geometry), &sim->geometry, &owner, &sim->pool, &adoption,
                   &err) < 0)
        sim_broken(__FILE__, __LINE__, "pool_adopt", err.text);
    LAW(adoption.sealed_count == sealed && adoption.kept_count == sealed);
    LAW(pool_sealed_count(sim->pool) == sealed && pool_filling_count(sim->pool) == 0);
    sim->counts.adopted += sealed;
    open_sched(sim);
    free(sim->plan_ring);
    free(sim->done_ring);
    open_rings(sim);
    worker_start(sim);
}

/* ---- a step ---- */

static bool step_is_poisoned(struct sim *sim, const struct plan_view *plan)
{
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        const struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
        if (client && client->poison && plan->seqs[i].flags & PLAN_SAMPLE) return true;
    }
    return false;
}

static enum sim_fault fault_draw(struct sim *sim, const struct plan_view *plan)
{
    if (step_is_poisoned(sim, plan)) return SIM_DIES_AMIDST;
    if (sim->fault_every == 0 || rng_below(&sim->rng, sim->fault_every) != 0) return SIM_FINE;
    enum sim_fault fault = (enum sim_fault)(1 + rng_below(&sim->rng, SIM_FAULTS - 1));
    if (fault == SIM_DAEMON_DIES && rng_below(&sim->rng, 10) != 0) return SIM_FINE; // it ends all requests
    return fault;
}

/* -> sequences planned, and the plan is in the ring. */
static int plan_push(struct sim *sim, struct plan_view *ret_plan)
{
    void *slot;
    struct err err = {0};
    sim_note_running(sim);
    int seqs = sched_plan(sim->sched, 0, sim->now_ns, sim->writer);
    LAW(seqs >= 0);
    if (seqs == 0) sim_check_idle(sim);
    if (seqs == 0) return 0;
    LAW(ring_next(&sim->plan_out, &slot) == 0);
    size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
    if (plan_verify(sim->plan_bytes, bytes, &sim->limits, ret_plan, &err) < 0)
        sim_broken(__FILE__, __LINE__, "plan_verify", err.text);
    memcpy(slot, sim->plan_bytes, bytes);
    ring_publish(&sim->plan_out, (uint32_t)bytes);
    LAW((int)ret_plan->header->seq_count == seqs);
    LAW(sched_in_flight(sim->sched, 0));
    LAW(sched_plan(sim->sched, 0, sim->now_ns, sim->writer) == 0); // one at a time
    sim_check_plan(sim, ret_plan);
    return seqs;
}

/* Plans, works, answers; busy: clients act meanwhile. -> sequences planned. */
static int step_once(struct sim *sim, bool busy)
{
    struct plan_view plan;
    sim->counts.steps++;
    int seqs = plan_push(sim, &plan);
    if (seqs == 0) return 0;
    enum sim_fault fault = fault_draw(sim, &plan);
    sim->counts.faults[fault]++;
    if (fault == SIM_DAEMON_DIES) {
        worker_turn(sim, (enum sim_fault)(SIM_FINE + rng_below(&sim->rng, SIM_DIES_TOLD + 1)));
        daemon_died(sim);
        return seqs;
    }
    worker_turn(sim, fault);
    for (uint64_t turns = busy ? 1 + (rng_below(&sim->rng, 20) == 0) * 10 : 0; turns > 0; turns--) {
        sim->now_ns += rng_below(&sim->rng, 1000000); // a slow step
        sim_clients_act(sim);
        sim_clients_expire(sim);
    }
    bool dies = fault != SIM_FINE && fault != SIM_LIES && fault != SIM_REFUSES;
    if (dies || !answer_take(sim, &plan, fault == SIM_LIES)) worker_died(sim, &plan);
    return seqs;
}

static void pins_clear(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->page_count; i++) pins_remove(prefix_pins(sim->prefix), i, sim->now_ns);
}

/* The operator pins some cached chain, or lets go of all. */
static void operator_acts(struct sim *sim)
{
    if (rng_below(&sim->rng, 100) != 0) return;
    uint32_t page_idx = (uint32_t)rng_below(&sim->rng, sim->page_count);
    if (rng_below(&sim->rng, 4) == 0) pins_clear(sim);
    if (pool_desc(sim->pool, page_idx)->state != PAGE_SEALED) return;
    int r = pins_add(prefix_pins(sim->prefix), page_idx, sim->now_ns);
    LAW(r == 0 || r == ERR_LIMIT);
}

void sim_step(struct sim *sim)
{
    sim->now_ns += 1 + rng_below(&sim->rng, 1000000);
    sim_clients_act(sim);
    operator_acts(sim);
    sim_clients_expire(sim);
    (void)step_once(sim, true); // an idle one is a step as well
    sim_check_pool(sim);
}

int sim_step_quiet(struct sim *sim)
{
    sim->now_ns++;
    int seqs = step_once(sim, false);
    sim_check_pool(sim);
    return seqs;
}

void sim_drain(struct sim *sim)
{
    uint64_t steps_max = 0;
    for (int i = 0; i < SIM_CLIENTS; i++) {
        struct sim_client *client = &sim->clients[i];
        if (!client->live) continue;
        client->paused = false;
        sched_pause(sim->sched, client->seq_id, false);
        steps_max += client->prompt_count + client->output_max + SCHED_LOSSES_MAX;
    }
    sim->fault_every = 0;
    for (uint64_t step = 0;; step++) {
        struct sched_stats stats;
        sched_stats(sim->sched, &stats);
        if (stats.running_count + stats.waiting_count == 0) break;
        LAW(step < steps_max); // the oldest always gets on, so that each step brings one nearer to its end
        sim->now_ns++;
        sim_clients_expire(sim);
        LAW(step_once(sim, false) > 0); // never idle with work to do
        sim_check_pool(sim);
    }
    for (int i = 0; i < SIM_CLIENTS; i++) LAW(!sim->clients[i].live);
    LAW(pool_filling_count(sim->pool) == 0);
    pins_clear(sim);
    LAW(prefix_idle_count(sim->prefix) == pool_sealed_count(sim->pool));
    stats_take(sim);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* sim - see sim.h. */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"

enum { EPOCH_FIRST = 7 };

void *sim_must(void *memory)
{
    LAW(memory != NULL);
    return memory;
}

/* ---- a world ---- */

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
    sim->meta = sim_must(aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095));
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
    sim->worker_plan = sim_must(malloc(sim->plan_size));
    sim->done_bytes = sim_must(malloc(sim->done_size));
    sim->payload = sim_must(calloc((size_t)sim->page_count * PAGE_TOKENS, sizeof *sim->payload));
    sim->seals = sim_must(calloc(sim->page_count, sizeof *sim->seals));
    sim->salts = sim_must(calloc(sim->page_count, sizeof *sim->salts));
    sim->damages = sim_must(calloc(sim->page_count, sizeof *sim->damages));
    sim->seal_generations = sim_must(calloc(sim->page_count, sizeof *sim->seal_generations));
    sim->events = sim_must(calloc(2 * (size_t)sim->conf.seqs_max, sizeof *sim->events));
    sim_groups_open(sim);
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
    sim->group_count = rng_below(&sim->rng, 2) ? 1 : 2 + (uint32_t)rng_below(&sim->rng, SIM_GROUPS - 1);
    uint32_t seqs = 1 + (uint32_t)rng_below(&sim->rng, 24);
    sim->conf = (struct sched_conf){.group_count = sim->group_count,
                                    .seqs_max = seqs,
                                    .tokens_max = seqs + (uint32_t)rng_below(&sim->rng, 100),
                                    .queue_max = 1 + (uint32_t)rng_below(&sim->rng, 40),
                                    .model_len_max = SIM_LEN_MAX,
                                    .epoch = EPOCH_FIRST,
                                    // 0: by the cost of a step
                                    .itl_target_ns = rng_below(&sim->rng, 2) ? 0 : UINT64_MAX,
                                    .ageing_ns = 1 + rng_below(&sim->rng, 100 * NS_PER_MS)};
    sim->reserve_max = rng_below(&sim->rng, 2) ? 0 : (uint32_t)rng_below(&sim->rng, 1 + sim->page_count / 4);
    open_world(sim);
}

void sim_open_quiet(struct sim *sim, uint32_t pages)
{
    sim_open_quiet_groups(sim, pages, 1);
}

void sim_open_quiet_groups(struct sim *sim, uint32_t pages, uint32_t groups)
{
    memset(sim, 0, sizeof *sim);
    sim->quiet = true;
    sim->page_count = pages;
    sim->rank_count = 1;
    sim->group_count = groups;
    sim->conf = (struct sched_conf){.group_count = groups,
                                    .seqs_max = 8,
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
    sim_groups_close(sim);
    free(sim->worker_plan);
    free(sim->done_bytes);
    free(sim->payload);
    free(sim->seals);
    free(sim->salts);
    free(sim->damages);
    free(sim->seal_generations);
    free(sim->events);
}

/* ---- steps ---- */

static void stats_take(struct sim *sim)
{
    struct sched_stats stats;
    sched_stats(sim->sched, &stats);
    sim->counts.preempted += stats.preemptions;
    sim->counts.hits += stats.prefix_hits;
    sim->counts.queries += stats.prefix_queries;
    sim->counts.evicted += prefix_evictions(sim->prefix);
    sim->counts.moves += stats.moves;
}

/* The daemon is dead, its requests with it, and so are its workers. Another adopts the pool, and all that was sealed.
 */
static void daemon_died(struct sim *sim)
{
    for (uint32_t at = 0; at < sim->group_count; at++)
        if (sim->groups[at].flies && !sim->groups[at].ran)
            sim_group_run(sim, at, (enum sim_fault)(SIM_FINE + rng_below(&sim->rng, SIM_DIES_TOLD + 1)));
    struct pool_owner owner = {1, 2, ++sim->conf.epoch};
    struct pool_adoption adoption;
    uint32_t sealed = pool_sealed_count(sim->pool);
    sim_damage(sim);
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
    sim_groups_open(sim);
}

/* Plans for every group whose worker is there until there is nothing left to plan, as engine.c does before it sleeps.
 * -> sequences planned. */
static int plan_all(struct sim *sim)
{
    int seqs = 0;
    uint32_t first = (uint32_t)rng_below(&sim->rng, sim->group_count), still = 0;
    for (uint32_t i = first; still < sim->group_count; i = (i + 1) % sim->group_count, still++) {
        if (sim->groups[i].flies || sim->groups[i].down > 0) continue;
        int planned = sim_group_plan(sim, i);
        seqs += planned;
        if (planned > 0) still = 0;
    }
    if (!sim_flies_any(sim)) sim_check_idle(sim);
    return seqs;
}

/* A group whose step is in flight. */
static uint32_t group_draw(struct sim *sim)
{
    uint32_t at = (uint32_t)rng_below(&sim->rng, sim->group_count);
    while (!sim->groups[at].flies) at = (at + 1) % sim->group_count;
    return at;
}

/* Clients act while a worker computes. */
static void turns_pass(struct sim *sim)
{
    for (uint64_t turns = 1 + (rng_below(&sim->rng, 20) == 0) * 10; turns > 0; turns--) {
        sim->now_ns += rng_below(&sim->rng, 1000000); // a slow step
        sim_clients_act(sim);
        sim_clients_expire(sim);
    }
}

static void downs_pass(struct sim *sim)
{
    uint32_t down = 0;
    for (uint32_t i = 0; i < sim->group_count; i++) {
        if (sim->groups[i].down > 0) sim->groups[i].down--;
        down += sim->groups[i].down > 0;
    }
    if (down == sim->group_count) sim->groups[0].down = 0; // waiting for it would be nothing to look at
}

/* Plans, lets one worker compute, takes its answer, at once or later; busy: clients act meanwhile. -> whether anything
 * was to be done. */
static bool step_once(struct sim *sim, bool busy)
{
    sim->counts.steps++;
    downs_pass(sim);
    (void)plan_all(sim);
    if (!sim_flies_any(sim)) return false;
    uint32_t at = group_draw(sim);
    struct sim_group *group = &sim->groups[at];
    if (!group->ran) {
        enum sim_fault fault = sim_fault_draw(sim, at);
        sim->counts.faults[fault]++;
        if (fault == SIM_DAEMON_DIES) {
            daemon_died(sim);
            return true;
        }
        sim_group_run(sim, at, fault);
        if (busy) turns_pass(sim);
        if (sim->group_count > 1 && rng_below(&sim->rng, 4) == 0) return true;
    }
    sim_group_end(sim, at);
    return true;
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

int sim_plan_quiet(struct sim *sim, uint32_t group)
{
    sim->now_ns++;
    return sim_group_plan(sim, group);
}

void sim_answer_quiet(struct sim *sim, uint32_t group)
{
    sim_group_run(sim, group, SIM_FINE);
    sim_group_end(sim, group);
    sim_check_pool(sim);
}

void sim_kill_quiet(struct sim *sim, uint32_t group)
{
    sim_group_run(sim, group, SIM_DIES_TAKEN);
    sim_group_end(sim, group);
    sim_check_pool(sim);
}

int sim_step_quiet(struct sim *sim)
{
    sim->now_ns++;
    int seqs = plan_all(sim);
    for (uint32_t i = 0; i < sim->group_count; i++)
        if (sim->groups[i].flies) sim_answer_quiet(sim, i);
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
        if (client->poison) steps_max += SCHED_LOSSES_MAX * SIM_DOWN_MAX;
    }
    sim->fault_every = 0;
    for (uint64_t step = 0;; step++) {
        struct sched_stats stats;
        sched_stats(sim->sched, &stats);
        if (stats.running_count + stats.waiting_count == 0) break;
        LAW(step <
            2 * sim->group_count *
                steps_max); // the oldest always gets on, so that each step brings one nearer to its end
        sim->now_ns++;
        sim_clients_expire(sim);
        LAW(step_once(sim, false) || sim_suspect_waits(sim)); // never idle with work to do
        sim_check_pool(sim);
    }
    for (int i = 0; i < SIM_CLIENTS; i++) LAW(!sim->clients[i].live);
    LAW(pool_filling_count(sim->pool) == 0);
    pins_clear(sim);
    LAW(prefix_idle_count(sim->prefix) == pool_sealed_count(sim->pool));
    stats_take(sim);
}

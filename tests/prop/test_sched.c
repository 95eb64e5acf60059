/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded simulation of scheduler, prefix index and pool against a virtual clock and a simulated worker.
 *
 * The simulated worker keeps, as payload of each page slot, the hash of all tokens up to that position. A
 * row is computed only from the slot before it, so a wrong page table, a page reused too early, a lost or
 * repeated token shows as a hash that does not fit. Every sequence's tokens are a function of its own
 * history, so what comes out is known in advance whatever the schedule was. After every step the audit of
 * scheduler, prefix index and pool runs, and the laws of conservation are checked.
 *
 * KVASIR_SEED reruns a seed, KVASIR_STEPS sets the number of steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "daemon/sched.h"

enum { VOCAB = 64, CLIENTS = 96, LEN_MAX = 200, AUDIT_EVERY_LARGE = 1 };

struct client { // what the simulation knows of one request
    bool live;
    uint64_t seq_id, salt_prompt;
    uint32_t prompt_count, output_max, output_count;
    uint32_t scored;
    bool scores;
    uint32_t tokens[LEN_MAX];
    uint64_t waited_steps;
};

struct sim {
    struct rng rng;
    struct sched_conf conf;
    struct plan_limits limits;
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_writer *writer;
    struct done_writer *answer;
    uint64_t *payload; // (page_count, PAGE_TOKENS) history hashes
    void *plan_bytes, *done_bytes;
    size_t plan_size, done_size;
    struct sched_event *events;
    struct client clients[CLIENTS];
    uint64_t now_ns;
    uint64_t finished, cancelled, lost, tokens;
};

/* The token that follows a history: any function will do. */
static uint32_t token_after(uint64_t history)
{
    return (uint32_t)(hash64(&history, sizeof history) % VOCAB);
}

static uint64_t history_step(uint64_t history, uint32_t token)
{
    uint64_t pair[2] = {history, token};
    return hash64(pair, sizeof pair);
}

static void sim_init(struct sim *sim, uint64_t seed)
{
    memset(sim, 0, sizeof *sim);
    sim->rng.state = seed;
    uint32_t pages = 14 + (uint32_t)rng_below(&sim->rng, 120);
    struct pool_geometry geometry = {.page_count = pages,
                                     .page_tokens = PAGE_TOKENS,
                                     .rank_count = 1 + (uint32_t)rng_below(&sim->rng, 2),
                                     .layer_count = 1,
                                     .head_count_kv = 1,
                                     .head_dims = 2,
                                     .page_bytes = pool_page_bytes(KV_F16, 1, 1, 2)};
    uint32_t seqs = 1 + (uint32_t)rng_below(&sim->rng, 24);
    sim->conf = (struct sched_conf){.seqs_max = seqs,
                                    .tokens_max = seqs + (uint32_t)rng_below(&sim->rng, 100),
                                    .queue_max = 1 + (uint32_t)rng_below(&sim->rng, 40),
                                    .model_len_max = LEN_MAX,
                                    .epoch = 7};
    size_t bytes = (pool_meta_bytes(&geometry) + 4095) & ~(size_t)4095;
    sim->meta = aligned_alloc(4096, bytes);
    memset(sim->meta, 0, bytes);
    struct pool_owner owner = {1, 2, 7};
    assert_int_equal(pool_format(sim->meta, pool_meta_bytes(&geometry), &geometry, &owner, &sim->pool, NULL),
                     0);
    assert_int_equal(prefix_new(sim->pool, &sim->prefix), 0);
    assert_int_equal(sched_new(&sim->conf, sim->pool, sim->prefix, &sim->sched), 0);
    sched_plan_limits(&sim->conf, &geometry, VOCAB, &sim->limits);
    assert_int_equal(plan_writer_new(&sim->limits, &sim->writer), 0);
    assert_int_equal(done_writer_new(&sim->limits, &sim->answer), 0);
    sim->plan_size = plan_bytes_max(&sim->limits);
    sim->done_size = done_bytes_max(&sim->limits);
    sim->plan_bytes = malloc(sim->plan_size);
    sim->done_bytes = malloc(sim->done_size);
    sim->payload = calloc((size_t)pages * PAGE_TOKENS, sizeof *sim->payload);
    sim->events = calloc(2 * seqs, sizeof *sim->events);
}

static void sim_done(struct sim *sim)
{
    plan_writer_free(sim->writer);
    done_writer_free(sim->answer);
    sched_free(sim->sched);
    prefix_free(sim->prefix);
    pool_free(sim->pool);
    free(sim->meta);
    free(sim->plan_bytes);
    free(sim->done_bytes);
    free(sim->payload);
    free(sim->events);
}

/* ---- the simulated worker ---- */

static uint64_t *slot_of(const struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq,
                         uint32_t position)
{
    uint32_t page_idx = plan->pages[seq->page_first + position / PAGE_TOKENS].page_idx;
    return &sim->payload[(size_t)page_idx * PAGE_TOKENS + position % PAGE_TOKENS];
}

static void worker_seals(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq)
{
    uint32_t end = seq->pos_first + seq->token_count;
    for (uint32_t page = seq->pos_first / PAGE_TOKENS; page < end / PAGE_TOKENS; page++) {
        struct plan_page at = plan->pages[seq->page_first + page];
        for (uint32_t rank = 0; rank < pool_geometry(sim->pool)->rank_count; rank++) {
            struct done_seal seal = {
                .page_idx = at.page_idx,
                .generation = at.generation,
                .rank = rank,
                .checksum = hash64(&sim->payload[(size_t)at.page_idx * PAGE_TOKENS], PAGE_TOKENS * 8)};
            assert_true(done_writer_seal(sim->answer, &seal) >= 0);
        }
    }
}

static void worker_seq(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq)
{
    uint64_t history = seq->pos_first ? *slot_of(sim, plan, seq, seq->pos_first - 1) : 0;
    struct done_seq out = {.seq_id = seq->seq_id};
    for (uint32_t i = 0; i < seq->token_count; i++) {
        uint32_t position = seq->pos_first + i;
        const struct page_desc *desc = pool_desc(
            sim->pool, plan->pages[seq->page_first + position / PAGE_TOKENS].page_idx);
        assert_int_equal(desc->state, PAGE_FILLING); // rule 5: sealed pages never change
        history = history_step(history, plan->tokens[seq->token_first + i]);
        *slot_of(sim, plan, seq, position) = history;
        if (!(seq->flags & PLAN_SCORE)) continue;
        uint32_t target = i + 1 < seq->token_count ? plan->tokens[seq->token_first + i + 1]
                                                   : seq->score_target;
        struct done_score score = {.token = target};
        if (target != PLAN_TOKEN_NONE) {
            score.logprob = -1.0F;
            score.rank = 1;
        }
        int at = done_writer_score(sim->answer, &score);
        assert_true(at >= 0);
        if (i == 0) out.score_first = (uint32_t)at;
        out.score_count++;
    }
    worker_seals(sim, plan, seq);
    if (seq->flags & PLAN_SAMPLE) {
        out.flags = DONE_SAMPLED;
        out.token = token_after(history);
        out.logprob = -0.5F;
        out.rank = 1;
    }
    assert_true(done_writer_seq(sim->answer, &out) >= 0);
}

static void worker_step(struct sim *sim, const struct plan_view *plan)
{
    done_writer_begin(sim->answer, plan->header->step, plan->header->epoch);
    for (uint32_t i = 0; i < plan->header->seq_count; i++) worker_seq(sim, plan, &plan->seqs[i]);
}

/* ---- the simulated clients ---- */

static struct client *client_of(struct sim *sim, void *owner)
{
    struct client *client = owner;
    assert_true(client >= sim->clients && client < sim->clients + CLIENTS);
    return client;
}

static void client_submit(struct sim *sim, struct client *client)
{
    uint32_t family = (uint32_t)rng_below(&sim->rng, 4), shared = (uint32_t)rng_below(&sim->rng, 80);
    *client = (struct client){.prompt_count = 1 + (uint32_t)rng_below(&sim->rng, LEN_MAX - 40)};
    client->output_max = 1 + (uint32_t)rng_below(&sim->rng, LEN_MAX - client->prompt_count);
    client->scores = rng_below(&sim->rng, 20) == 0;
    for (uint32_t i = 0; i < client->prompt_count; i++)
        client->tokens[i] = i < shared ? token_after(family * 1000 + i)
                                       : (uint32_t)rng_below(&sim->rng, VOCAB);
    struct sched_request request = {.prompt = client->tokens,
                                    .prompt_count = client->prompt_count,
                                    .output_max = client->output_max,
                                    .params = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
                                    .score_prompt = client->scores,
                                    .use_history = rng_below(&sim->rng, 10) == 0,
                                    .owner = client};
    struct plan_bias bias[3] = {{1, 1.0F}, {2, 2.0F}, {3, -1.0F}};
    if (rng_below(&sim->rng, 10) == 0) {
        request.biases = bias;
        request.bias_count = 3;
    }
    int r = sched_submit(sim->sched, &request, &client->seq_id);
    bool fits = (client->prompt_count + client->output_max + 15) / 16 <= pool_geometry(sim->pool)->page_count;
    if (r == 0) client->live = true;
    else assert_true(r == ERR_FULL || (r == ERR_LIMIT && !fits));
}

static void client_event(struct sim *sim, const struct sched_event *event)
{
    struct client *client = client_of(sim, event->owner);
    assert_true(client->live);
    assert_int_equal(event->seq_id, client->seq_id);
    if (event->kind == SCHED_SCORES) {
        assert_true(client->scores);
        assert_int_equal(event->score_position, client->scored);
        for (uint32_t i = 0; i < event->score_count && client->scored + i + 1 < client->prompt_count; i++)
            assert_int_equal(event->scores[i].token, client->tokens[client->scored + i + 1]);
        client->scored += event->score_count;
        return;
    }
    assert_int_equal(event->kind, SCHED_TOKEN);
    if (client->scores) assert_true(client->scored >= client->prompt_count);
    uint64_t history = 0; // what must come, from the whole history
    for (uint32_t i = 0; i < client->prompt_count + client->output_count; i++)
        history = history_step(history, client->tokens[i]);
    assert_int_equal(event->seq->token, token_after(history));
    client->tokens[client->prompt_count + client->output_count++] = event->seq->token;
    client->waited_steps = 0;
    sim->tokens++;
    if (client->output_count < client->output_max && rng_below(&sim->rng, 60) != 0) return;
    sched_remove(sim->sched, client->seq_id, sim->now_ns); // length, or a stop
    client->live = false;
    sim->finished++;
}

static void clients_act(struct sim *sim)
{
    for (uint64_t n = rng_below(&sim->rng, 4); n > 0; n--) {
        struct client *client = &sim->clients[rng_below(&sim->rng, CLIENTS)];
        if (!client->live) {
            client_submit(sim, client);
        } else if (rng_below(&sim->rng, 8) == 0) {
            sched_remove(sim->sched, client->seq_id, sim->now_ns);
            client->live = false;
            sim->cancelled++;
        } else {
            sched_pause(sim->sched, client->seq_id, rng_below(&sim->rng, 6) == 0);
        }
    }
}

/* ---- steps ---- */

static void conservation_check(struct sim *sim, const char *where, uint64_t step)
{
    struct err err = {0};
    int r = sched_check(sim->sched, &err);
    uint32_t sum = pool_free_count(sim->pool) + pool_filling_count(sim->pool) + pool_sealed_count(sim->pool);
    if (r == 0 && sum == pool_geometry(sim->pool)->page_count) return;
    print_error("step %llu, %s: %s (%u pages of %u)\n", (unsigned long long)step, where, err.text, sum,
                pool_geometry(sim->pool)->page_count);
    fail();
}

static void sim_answer(struct sim *sim, const struct plan_view *plan)
{
    struct done_view done;
    struct err err = {0};
    size_t bytes = done_writer_finish(sim->answer, 0, 1, 1, 1, sim->done_bytes, sim->done_size);
    int r = done_verify(sim->done_bytes, bytes, &sim->limits, plan, &done, &err);
    if (r < 0) print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    int events = sched_complete(sim->sched, sim->now_ns, &done, sim->events);
    assert_true(events >= 0);
    for (int i = 0; i < events; i++) client_event(sim, &sim->events[i]);
}

static void sim_step(struct sim *sim, uint64_t step)
{
    sim->now_ns += 1 + rng_below(&sim->rng, 1000000);
    clients_act(sim);
    int seqs = sched_plan(sim->sched, sim->now_ns, sim->writer);
    conservation_check(sim, "planned", step);
    if (seqs == 0) return;
    struct plan_view plan;
    struct err err = {0};
    size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
    int r = plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, &err);
    if (r < 0) print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    assert_int_equal(plan.header->seq_count, seqs);
    assert_true(plan.header->token_count <= sim->conf.tokens_max);
    worker_step(sim, &plan);
    clients_act(sim); // while the step is in flight
    conservation_check(sim, "in flight", step);
    if (rng_below(&sim->rng, 25) == 0) {
        sched_lost(sim->sched, sim->now_ns);
        sim->lost++;
    } else {
        sim_answer(sim, &plan);
    }
    conservation_check(sim, "completed", step);
}

/* Everybody unpaused and nobody new: all that is live must finish within a bounded number of steps. */
static void sim_drain(struct sim *sim)
{
    for (int i = 0; i < CLIENTS; i++)
        if (sim->clients[i].live) sched_pause(sim->sched, sim->clients[i].seq_id, false);
    for (uint64_t step = 0;; step++) {
        struct sched_stats stats;
        sched_stats(sim->sched, &stats);
        if (stats.running_count + stats.waiting_count == 0) break;
        assert_true(step < 200000);
        int seqs = sched_plan(sim->sched, ++sim->now_ns, sim->writer);
        assert_true(seqs > 0); // never idle with work to do
        struct plan_view plan;
        size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
        assert_int_equal(plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, NULL), 0);
        worker_step(sim, &plan);
        sim_answer(sim, &plan);
    }
    conservation_check(sim, "drained", 0);
    assert_int_equal(pool_filling_count(sim->pool), 0);
    assert_int_equal(prefix_idle_count(sim->prefix), pool_sealed_count(sim->pool));
}

static uint64_t env_u64(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static void test_sched_keeps_its_laws_over_random_steps(void **state)
{
    (void)state;
    uint64_t steps = env_u64("KVASIR_STEPS", 100000), seed_first = env_u64("KVASIR_SEED", 1), rounds = 20;
    if (getenv("KVASIR_SEED")) rounds = 1;
    for (uint64_t round = 0; round < rounds; round++) {
        struct sim sim;
        print_message("seed %llu\n", (unsigned long long)(seed_first + round));
        sim_init(&sim, seed_first + round);
        for (uint64_t step = 0; step < steps / rounds; step++) sim_step(&sim, step);
        sim_drain(&sim);
        struct sched_stats stats;
        sched_stats(sim.sched, &stats);
        print_message(
            "  %llu finished, %llu cancelled, %llu steps lost, %llu tokens, %llu of %llu prefix tokens hit, "
            "%llu preempted, %llu evicted\n",
            (unsigned long long)sim.finished, (unsigned long long)sim.cancelled, (unsigned long long)sim.lost,
            (unsigned long long)sim.tokens, (unsigned long long)stats.prefix_hits,
            (unsigned long long)stats.prefix_queries, (unsigned long long)stats.preemptions,
            (unsigned long long)prefix_evictions(sim.prefix));
        sim_done(&sim);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sched_keeps_its_laws_over_random_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

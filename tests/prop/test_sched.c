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
#include "daemon/sched_state.h"

enum { VOCAB = 64, CLIENTS = 96, LEN_MAX = 200, SLOTS_MAX = 128 };

struct client { // what the simulation knows of one request
    bool live, paused;
    uint64_t seq_id, seed;
    uint32_t prompt_count, output_max, output_count;
    uint32_t scored;
    bool scores, history;
    bool poison; // a step with its last prompt row kills the worker
    uint32_t bias_count, min_output, min_bias_count;
    uint32_t tokens[LEN_MAX];
    uint64_t token_step; // of the plan that gave the last token
    uint32_t cached;     // as first told
    uint64_t deadline_ns;
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
    uint64_t finished, cancelled, lost, refused, poisoned, tokens;
    bool has_poison;     // in this round, and then no other losses
    uint32_t prompt_max; // of this round: short prompts with long outputs make for preemptions
    uint64_t seq_id_last[SLOTS_MAX];
    bool was_running[SLOTS_MAX]; // before the plan
    uint32_t running_before;
    uint64_t preemptions_before;
};

static const struct plan_bias biases[] = {{1, 1.0F}, {2, 2.0F}, {3, -1.0F}};

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

static void sim_open(struct sim *sim, uint32_t pages, uint32_t ranks, const struct sched_conf *conf)
{
    struct pool_geometry geometry = {.page_count = pages,
                                     .page_tokens = PAGE_TOKENS,
                                     .rank_count = ranks,
                                     .layer_count = 1,
                                     .head_count_kv = 1,
                                     .head_dims = 2,
                                     .page_bytes = pool_page_bytes(KV_F16, 1, 1, 2)};
    sim->conf = *conf;
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
    sim->events = calloc(2 * conf->seqs_max, sizeof *sim->events);
}

static void sim_init(struct sim *sim, uint64_t seed)
{
    memset(sim, 0, sizeof *sim);
    sim->rng.state = seed;
    uint32_t pages = 13 + (uint32_t)rng_below(&sim->rng, rng_below(&sim->rng, 2) ? 20 : 120);
    uint32_t ranks = 1 + (uint32_t)rng_below(&sim->rng, 2);
    uint32_t seqs = 1 + (uint32_t)rng_below(&sim->rng, 24);
    sim->has_poison = rng_below(&sim->rng, 3) == 0;
    sim->prompt_max = rng_below(&sim->rng, 2) ? 20 : LEN_MAX - 40;
    struct sched_conf conf = {.seqs_max = seqs,
                              .tokens_max = seqs + (uint32_t)rng_below(&sim->rng, 100),
                              .queue_max = 1 + (uint32_t)rng_below(&sim->rng, 40),
                              .model_len_max = LEN_MAX,
                              .itl_target_ns = UINT64_MAX, // steps are full; test_pace has the others
                              .epoch = 7,
                              .ageing_ns = 20000000};
    sim_open(sim, pages, ranks, &conf);
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

/* ---- what a plan may hold ---- */

static const struct client *planned_client(const struct sim *sim, uint64_t seq_id)
{
    for (int i = 0; i < CLIENTS; i++)
        if (sim->clients[i].live && sim->clients[i].seq_id == seq_id) return &sim->clients[i];
    fail_msg("a sequence that nobody waits for is planned");
    return NULL;
}

static void plan_seq_check(const struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq)
{
    const struct client *client = planned_client(sim, seq->seq_id);
    uint32_t known = client->prompt_count + client->output_count, end = seq->pos_first + seq->token_count;
    assert_false(client->paused);
    assert_true(end <= known);
    for (uint32_t i = 0; i < seq->page_count; i++) {
        struct plan_page page = plan->pages[seq->page_first + i];
        assert_int_equal(page.generation, pool_desc(sim->pool, page.page_idx)->generation);
    }
    assert_memory_equal(plan->tokens + seq->token_first, client->tokens + seq->pos_first,
                        seq->token_count * sizeof(uint32_t));
    assert_int_equal(!!(seq->flags & PLAN_SAMPLE), end == known);
    assert_int_equal(seq->seed, client->seed);
    assert_int_equal(seq->history_count, client->history ? known : 0);
    if (client->history) {
        assert_int_equal(seq->history_prompt, client->prompt_count);
        assert_memory_equal(plan->history + seq->history_first, client->tokens, known * sizeof(uint32_t));
    }
    bool is_short = client->output_count < client->min_output;
    assert_int_equal(seq->bias_count, client->bias_count - (is_short ? 0 : client->min_bias_count));
    if (seq->bias_count)
        assert_memory_equal(plan->biases + seq->bias_first, biases, seq->bias_count * sizeof *biases);
    assert_int_equal(!!(seq->flags & PLAN_SCORE),
                     client->scores && client->scored < client->prompt_count && end > client->scored);
    if (seq->flags & PLAN_SCORE)
        assert_int_equal(seq->score_target,
                         end < client->prompt_count ? client->tokens[end] : PLAN_TOKEN_NONE);
}

/* What a plan leaves undone: with the insides of the scheduler, because only they tell the order. */
static void fairness_check(const struct sim *sim, uint32_t seq_count, uint32_t rows)
{
    const struct sched *sched = sim->sched;
    bool first_seen = false, admitted = false, suspect_seen = false;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        suspect_seen |= seq->losses >= SCHED_LOSSES_ALONE && seq->rows_in_flight;
    }
    if (suspect_seen) assert_int_equal(seq_count, 1); // alone
    uint64_t need = 0, preempted = sched->preemptions - sim->preemptions_before, gave_way = 0;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        uint32_t pages = sched_pages_for(seq->token_count);
        need += pages > seq->page_count ? pages - seq->page_count : 0;
        admitted |= !sim->was_running[slot];
        if (seq->paused || suspect_seen) continue;
        if (seq->losses >= SCHED_LOSSES_ALONE) continue;       // the next step is its own
        if (!first_seen) assert_true(seq->rows_in_flight > 0); // the first in the order always gets on
        first_seen = true;
        bool has_place = seq->page_count * PAGE_TOKENS > seq->computed;
        bool scoring = seq->score_prompt && seq->scored < seq->prompt_count;
        if (!seq->rows_in_flight && has_place && !scoring) assert_int_equal(rows, sim->conf.tokens_max);
    }
    for (uint32_t slot = sched->waiting.first; slot != SEQ_NONE; slot = sched->seqs[slot].next)
        gave_way += sim->was_running[slot] && sched->seqs[slot].paused;
    if (preempted > gave_way &&
        sim->running_before > preempted) // nobody comes in, nor back, where somebody had to go
        assert_int_equal(sched->running.count, sim->running_before - preempted);
    if (admitted) assert_true(need <= pool_free_count(sim->pool) + prefix_idle_count(sim->prefix));
}

/* An empty plan: nobody who runs has anything to do. */
static void idle_check(const struct sim *sim)
{
    const struct sched *sched = sim->sched;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next)
        assert_true(sched->seqs[slot].paused);
}

static void running_note(struct sim *sim)
{
    const struct sched *sched = sim->sched;
    memset(sim->was_running, 0, sizeof sim->was_running);
    sim->running_before = sched->running.count;
    sim->preemptions_before = sched->preemptions;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next)
        sim->was_running[slot] = true;
}

static void plan_check(const struct sim *sim, const struct plan_view *plan)
{
    uint32_t rows = 0, score_rows = 0;
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        const struct plan_seq *seq = &plan->seqs[i];
        plan_seq_check(sim, plan, seq);
        rows += seq->token_count;
        if (seq->flags & PLAN_SCORE) score_rows += seq->token_count;
        for (uint32_t k = 0; k < i; k++) assert_true(plan->seqs[k].seq_id != seq->seq_id);
    }
    assert_int_equal(rows, plan->header->token_count);
    assert_true(rows <= sim->conf.tokens_max);
    assert_true(plan->header->seq_count <= sim->conf.seqs_max);
    assert_true(score_rows <= PLAN_SCORE_ROWS_MAX);
    fairness_check(sim, plan->header->seq_count, rows);
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
    plan_check(sim, plan);
    for (uint32_t i = 0; i < plan->header->copy_count; i++) { // whole pages, as the worker does
        const struct plan_seq *seq = &plan->seqs[plan->copies[i].seq_idx];
        const uint64_t *from = &sim->payload[(size_t)plan->copies[i].page_idx * PAGE_TOKENS];
        memcpy(slot_of(sim, plan, seq, seq->pos_first & ~15U), from, PAGE_TOKENS * sizeof *from);
    }
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
    *client = (struct client){.prompt_count = 1 + (uint32_t)rng_below(&sim->rng, sim->prompt_max)};
    client->output_max = 1 + (uint32_t)rng_below(&sim->rng, LEN_MAX - client->prompt_count);
    client->scores = rng_below(&sim->rng, 8) == 0;
    for (uint32_t i = 0; i < client->prompt_count; i++)
        client->tokens[i] = i < shared ? token_after(family * 1000 + i)
                                       : (uint32_t)rng_below(&sim->rng, VOCAB);
    client->seed = rng_next(&sim->rng);
    client->poison = sim->has_poison && rng_below(&sim->rng, 20) == 0;
    client->history = rng_below(&sim->rng, 10) == 0;
    if (rng_below(&sim->rng, 10) == 0) {
        client->bias_count = 1 + (uint32_t)rng_below(&sim->rng, COUNT_OF(biases));
        client->min_bias_count = (uint32_t)rng_below(&sim->rng, client->bias_count + 1);
        client->min_output = (uint32_t)rng_below(&sim->rng, 20);
    }
    if (rng_below(&sim->rng, 10) == 0) client->deadline_ns = sim->now_ns + rng_below(&sim->rng, 50000000);
    struct sched_request request = {
        .prompt = client->tokens,
        .prompt_count = client->prompt_count,
        .output_max = client->output_max,
        .priority = (int32_t)rng_below(&sim->rng, 6) / 3,
        .arrival_ns = sim->now_ns,
        .deadline_ns = client->deadline_ns,
        .root_key = {rng_below(&sim->rng, 4) == 0, 0}, // a salt of its own
        .params = {.seed = client->seed, .temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .biases = biases,
        .bias_count = client->bias_count,
        .min_output = client->min_output,
        .min_bias_count = client->min_bias_count,
        .score_prompt = client->scores,
        .use_history = client->history,
        .owner = client};
    int r = sched_submit(sim->sched, &request, &client->seq_id);
    bool fits = (client->prompt_count + client->output_max + 15) / 16 <= pool_geometry(sim->pool)->page_count;
    if (r == 0) {
        uint32_t slot = (uint32_t)client->seq_id;
        client->live = true;
        assert_true(slot < sim->sched->slot_count && slot < SLOTS_MAX);
        assert_true(client->seq_id > sim->seq_id_last[slot]); // an id never comes twice
        sim->seq_id_last[slot] = client->seq_id;
    } else assert_true(r == ERR_FULL || (r == ERR_LIMIT && !fits));
}

static void client_cancel(struct sim *sim, struct client *client)
{
    sched_remove(sim->sched, client->seq_id, sim->now_ns);
    assert_false(sched_has(sim->sched, client->seq_id));
    sched_remove(sim->sched, client->seq_id, sim->now_ns); // twice is nothing
    sched_pause(sim->sched, client->seq_id, true);
    client->live = false;
    sim->cancelled++;
}

static void client_event(struct sim *sim, const struct sched_event *event, uint64_t step)
{
    struct client *client = client_of(sim, event->owner);
    if (!sched_has(sim->sched, event->seq_id)) { // an earlier event of the step made an end of it
        assert_false(client->live && client->seq_id == event->seq_id);
        return;
    }
    struct client *other = &sim->clients[rng_below(&sim->rng, CLIENTS)];
    if (other != client && other->live && rng_below(&sim->rng, 50) == 0) client_cancel(sim, other);
    assert_true(client->live);
    assert_int_equal(event->seq_id, client->seq_id);
    if (event->kind == SCHED_SCORES) {
        assert_true(client->scores);
        assert_int_equal(event->score_position, client->scored);
        assert_true(client->scored + event->score_count <= client->prompt_count);
        for (uint32_t i = 0; i < event->score_count; i++) {
            uint32_t next = client->scored + i + 1;
            assert_int_equal(event->scores[i].token,
                             next < client->prompt_count ? client->tokens[next] : PLAN_TOKEN_NONE);
        }
        client->scored += event->score_count;
        return;
    }
    if (event->kind == SCHED_EXPIRED) {
        assert_in_range(client->deadline_ns, 1, sim->now_ns);
        client_cancel(sim, client);
        return;
    }
    if (event->kind == SCHED_FAILED) { // nobody but the one that killed the worker
        assert_true(client->poison);
        sched_remove(sim->sched, client->seq_id, sim->now_ns);
        client->live = false;
        sim->poisoned++;
        return;
    }
    assert_int_equal(event->kind, SCHED_TOKEN);
    if (client->scores) assert_int_equal(client->scored, client->prompt_count);
    assert_true(client->deadline_ns == 0 || sim->now_ns <= client->deadline_ns + 1000000);
    assert_true(client->output_count == 0 || client->token_step != step); // one token a step
    client->token_step = step;
    struct sched_seq_info info;
    sched_seq_info(sim->sched, event->seq_id, &info);
    assert_true(info.running && info.admitted && info.cached_count < client->prompt_count);
    if (client->output_count > 0) assert_int_equal(info.cached_count, client->cached);
    client->cached = info.cached_count;
    uint64_t history = 0; // what must come, from the whole history
    for (uint32_t i = 0; i < client->prompt_count + client->output_count; i++)
        history = history_step(history, client->tokens[i]);
    assert_int_equal(event->seq->token, token_after(history));
    client->tokens[client->prompt_count + client->output_count++] = event->seq->token;
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
            client_cancel(sim, client);
        } else {
            client->paused = rng_below(&sim->rng, 6) == 0;
            sched_pause(sim->sched, client->seq_id, client->paused);
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
    if (done.header->seal_count && rng_below(&sim->rng, 20) == 0) { // one seal short: nothing may change
        struct done_header header = *done.header;
        struct done_view cut = done;
        header.seal_count--;
        cut.header = &header;
        assert_int_equal(sched_complete(sim->sched, sim->now_ns, &cut, sim->events), ERR_PEER);
        assert_true(sched_in_flight(sim->sched));
        sim->refused++;
    }
    int events = sched_complete(sim->sched, sim->now_ns, &done, sim->events);
    assert_in_range(events, 0, 2 * sim->conf.seqs_max);
    for (int i = 0; i < events; i++) client_event(sim, &sim->events[i], plan->header->step);
}

/* A step with a poisoned sequence kills the worker where it computes the last row of the prompt. */
static bool step_kills(const struct sim *sim, const struct plan_view *plan)
{
    for (uint32_t i = 0; i < plan->header->seq_count; i++)
        for (int c = 0; c < CLIENTS; c++)
            if (sim->clients[c].poison && sim->clients[c].seq_id == plan->seqs[i].seq_id &&
                plan->seqs[i].flags & PLAN_SAMPLE)
                return true;
    return false;
}

static void sim_lose(struct sim *sim, const struct plan_view *plan)
{
    int events = sched_lost(sim->sched, sim->now_ns, sim->events);
    assert_in_range(events, 0, plan->header->seq_count);
    for (int i = 0; i < events; i++) client_event(sim, &sim->events[i], plan->header->step);
    sim->lost++;
}

static void sim_expire(struct sim *sim)
{
    int events;
    while ((events = sched_expire(sim->sched, sim->now_ns, sim->events)) > 0)
        for (int i = 0; i < events; i++) client_event(sim, &sim->events[i], 0);
}

static void sim_step(struct sim *sim, uint64_t step)
{
    sim->now_ns += 1 + rng_below(&sim->rng, 1000000);
    clients_act(sim);
    sim_expire(sim);
    running_note(sim);
    int seqs = sched_plan(sim->sched, sim->now_ns, sim->writer);
    conservation_check(sim, "planned", step);
    if (seqs == 0) {
        idle_check(sim);
        return;
    }
    struct plan_view plan;
    struct err err = {0};
    size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
    int r = plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, &err);
    if (r < 0) print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    assert_int_equal(plan.header->seq_count, seqs);
    assert_true(sched_in_flight(sim->sched));
    assert_int_equal(sched_plan(sim->sched, sim->now_ns, sim->writer), 0); // one at a time
    worker_step(sim, &plan);
    clients_act(sim); // while the step is in flight
    sim_expire(sim);
    conservation_check(sim, "in flight", step);
    if (sim->has_poison ? step_kills(sim, &plan) : rng_below(&sim->rng, 25) == 0) sim_lose(sim, &plan);
    else sim_answer(sim, &plan);
    conservation_check(sim, "completed", step);
}

/* Everybody unpaused and nobody new: all that is live must finish, and as the oldest always gets on and is never
 * preempted, each step brings one sequence nearer to its end by a row. */
static void sim_drain(struct sim *sim)
{
    uint64_t steps_max = 0;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &sim->clients[i];
        if (!client->live) continue;
        client->paused = false;
        sched_pause(sim->sched, client->seq_id, false);
        steps_max += client->prompt_count + client->output_max + (client->poison ? SCHED_LOSSES_MAX : 0);
    }
    for (uint64_t step = 0;; step++) {
        struct sched_stats stats;
        sched_stats(sim->sched, &stats);
        if (stats.running_count + stats.waiting_count == 0) break;
        assert_true(step < steps_max);
        sim_expire(sim);
        running_note(sim);
        int seqs = sched_plan(sim->sched, ++sim->now_ns, sim->writer);
        assert_true(seqs > 0); // never idle with work to do
        struct plan_view plan;
        size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
        assert_int_equal(plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, NULL), 0);
        worker_step(sim, &plan);
        if (step_kills(sim, &plan)) sim_lose(sim, &plan);
        else sim_answer(sim, &plan);
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
            "%llu preempted, %llu evicted, %llu failed\n",
            (unsigned long long)sim.finished, (unsigned long long)sim.cancelled, (unsigned long long)sim.lost,
            (unsigned long long)sim.tokens, (unsigned long long)stats.prefix_hits,
            (unsigned long long)stats.prefix_queries, (unsigned long long)stats.preemptions,
            (unsigned long long)prefix_evictions(sim.prefix), (unsigned long long)sim.poisoned);
        sim_done(&sim);
    }
}

/* ---- by hand ---- */

static void quiet_open(struct sim *sim, uint32_t pages)
{
    memset(sim, 0, sizeof *sim);
    struct sched_conf conf = {
        .seqs_max = 8, .tokens_max = 64, .queue_max = 8, .model_len_max = LEN_MAX,
        .itl_target_ns = UINT64_MAX, .epoch = 7};
    sim_open(sim, pages, 1, &conf);
}

/* Tokens 0, 1, 2, ... of a family, so that families differ from the first token on. */
static struct client *quiet_submit(struct sim *sim, int slot, uint32_t family, uint32_t prompt_count,
                                   uint32_t output_max)
{
    struct client *client = &sim->clients[slot];
    *client = (struct client){.live = true, .prompt_count = prompt_count, .output_max = output_max};
    for (uint32_t i = 0; i < prompt_count; i++) client->tokens[i] = (family + i) % VOCAB;
    struct sched_request request = {.prompt = client->tokens,
                                    .prompt_count = prompt_count,
                                    .output_max = output_max,
                                    .params = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
                                    .owner = client};
    assert_int_equal(sched_submit(sim->sched, &request, &client->seq_id), 0);
    return client;
}

/* A step in which nobody acts; ends a client that has all its tokens. -> sequences planned. */
static int quiet_step(struct sim *sim)
{
    struct plan_view plan;
    struct done_view done;
    running_note(sim);
    int seqs = sched_plan(sim->sched, ++sim->now_ns, sim->writer);
    conservation_check(sim, "planned", sim->now_ns);
    if (seqs == 0) return 0;
    size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, sim->plan_size);
    assert_int_equal(plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, NULL), 0);
    worker_step(sim, &plan);
    bytes = done_writer_finish(sim->answer, 0, 1, 1, 1, sim->done_bytes, sim->done_size);
    assert_int_equal(done_verify(sim->done_bytes, bytes, &sim->limits, &plan, &done, NULL), 0);
    int events = sched_complete(sim->sched, sim->now_ns, &done, sim->events);
    for (int i = 0; i < events; i++) {
        struct client *client = sim->events[i].owner;
        client->tokens[client->prompt_count + client->output_count++] = sim->events[i].seq->token;
        if (client->output_count < client->output_max) continue;
        sched_remove(sim->sched, client->seq_id, sim->now_ns);
        client->live = false;
    }
    conservation_check(sim, "completed", sim->now_ns);
    return seqs;
}

static uint32_t cached_of(const struct sim *sim, const struct client *client)
{
    struct sched_seq_info info;
    sched_seq_info(sim->sched, client->seq_id, &info);
    return info.cached_count;
}

/* All that is in full pages comes back from the cache, but never the last token: its logits are needed. */
static void test_sched_finds_what_it_computed(void **state)
{
    (void)state;
    for (uint32_t count = 15; count <= 50; count++) {
        struct sim sim;
        quiet_open(&sim, 20);
        struct client *first = quiet_submit(&sim, 0, 3, count, 1);
        while (first->live) assert_true(quiet_step(&sim) > 0);
        assert_int_equal(pool_sealed_count(sim.pool), count / PAGE_TOKENS);
        struct client *again = quiet_submit(&sim, 1, 3, count, 2);
        assert_int_equal(quiet_step(&sim), 1);
        assert_int_equal(cached_of(&sim, again), count % PAGE_TOKENS ? count / PAGE_TOKENS * 16 : count - 1);
        struct client *other = quiet_submit(&sim, 2, 4, count, 2);
        assert_true(quiet_step(&sim) > 0);
        assert_int_equal(cached_of(&sim, other), 0);
        sim_done(&sim);
    }
}

static void test_sched_keeps_one_copy_of_duplicates(void **state)
{
    (void)state;
    struct sim sim;
    quiet_open(&sim, 40);
    for (int i = 0; i < 4; i++) (void)quiet_submit(&sim, i, 5, 50, 14); // the same request four times at once
    while (quiet_step(&sim) > 0) continue;
    for (int i = 1; i < 4; i++) {
        assert_false(sim.clients[i].live);
        assert_memory_equal(sim.clients[i].tokens, sim.clients[0].tokens, sizeof sim.clients[0].tokens);
    }
    assert_int_equal(pool_sealed_count(sim.pool),
                     63 / PAGE_TOKENS); // the last token's keys are never computed
    sim_done(&sim);
}

/* Pages for exactly one sequence of full length: two of them go one after the other, none is lost. */
static void test_sched_lives_with_a_pool_exactly_full(void **state)
{
    (void)state;
    for (uint32_t prompt = 1; prompt < LEN_MAX; prompt += 7) {
        struct sim sim;
        quiet_open(&sim, (LEN_MAX + PAGE_TOKENS - 1) / PAGE_TOKENS);
        for (int i = 0; i < 3; i++) (void)quiet_submit(&sim, i, 10 * (uint32_t)i, prompt, LEN_MAX - prompt);
        uint64_t steps = 0;
        while (quiet_step(&sim) > 0) assert_true(++steps < 3 * LEN_MAX);
        for (int i = 0; i < 3; i++) {
            assert_false(sim.clients[i].live);
            assert_int_equal(sim.clients[i].output_count, LEN_MAX - prompt);
        }
        sim_done(&sim);
    }
}

static void quiet_pause(struct sim *sim, struct client *client, bool paused)
{
    client->paused = paused;
    sched_pause(sim->sched, client->seq_id, paused);
}

/* An older sequence that wants pages gets those that are left, none of one whose rows are in the plan already. */
static void test_sched_takes_no_page_from_the_planned(void **state)
{
    (void)state;
    struct sim sim;
    quiet_open(&sim, 13);
    struct client *older = quiet_submit(&sim, 0, 1, 150, 1);
    assert_int_equal(quiet_step(&sim), 1); // 64 rows of it
    quiet_pause(&sim, older, true);
    struct client *younger = quiet_submit(&sim, 1, 30, 1, 150);
    while (younger->output_count < 100) assert_int_equal(quiet_step(&sim), 1);
    assert_int_equal(pool_free_count(sim.pool), 13 - 4 - 7);
    quiet_pause(&sim, older, false);
    assert_int_equal(quiet_step(&sim), 2); // both get on: the younger's row, the older's as far as pages go
    assert_int_equal(younger->output_count, 101);
    assert_int_equal(pool_free_count(sim.pool), 0);
    assert_int_equal(quiet_step(&sim), 1); // now the older takes all, before the younger is planned
    sim_done(&sim);
}

/* Clients that do not read give their place and pages to one that waits, and get on when they read again. */
static void test_sched_paused_give_way(void **state)
{
    (void)state;
    struct sim sim;
    quiet_open(&sim, 26);
    for (int i = 0; i < 8; i++) (void)quiet_submit(&sim, i, 5 * (uint32_t)i, 20, 30);
    while (sim.clients[7].output_count == 0) assert_true(quiet_step(&sim) > 0);
    for (int i = 0; i < 8; i++) quiet_pause(&sim, &sim.clients[i], true);
    assert_int_equal(quiet_step(&sim), 0);
    struct client *reader = quiet_submit(&sim, 8, 50, 150,
                                         20); // eight run already, and most pages are theirs
    while (reader->live) assert_int_equal(quiet_step(&sim), 1);
    for (int i = 0; i < 8; i++) quiet_pause(&sim, &sim.clients[i], false);
    while (quiet_step(&sim) > 0) continue;
    for (int i = 0; i < 9; i++) assert_false(sim.clients[i].live);
    sim_done(&sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sched_finds_what_it_computed),
        cmocka_unit_test(test_sched_keeps_one_copy_of_duplicates),
        cmocka_unit_test(test_sched_lives_with_a_pool_exactly_full),
        cmocka_unit_test(test_sched_takes_no_page_from_the_planned),
        cmocka_unit_test(test_sched_paused_give_way),
        cmocka_unit_test(test_sched_keeps_its_laws_over_random_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

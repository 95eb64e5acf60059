/* SPDX-License-Identifier: Apache-2.0 */
/* pace - the division of rows at random, and the scheduler with a simulated machine against a virtual clock: the time
 * between tokens of eight streams while a long prompt is computed, a short prompt behind it, targets set by hand, and
 * that nobody starves.
 *
 * The machine costs what the real engine costs per step, row and key (SmolLM2-135M on two cores), with 5 % of noise.
 * KVASIR_SEED reruns a seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "daemon/pace.h"
#include "daemon/sched.h"

enum { LEN_MAX = 8192, SEQS_MAX = 24, TOKENS_MAX = 512, CLIENTS = 64, GAPS_MAX = 1 << 16 };

static uint64_t seed_get(void)
{
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- pace_share alone ---- */

/* A cost model that has seen a machine whose steps cost fixed_ns, row_ns a row and key_ns a key of a row. */
static void cost_teach(struct step_cost *cost, struct rng *rng, double fixed_ns, double row_ns, double key_ns)
{
    step_cost_init(cost);
    for (int i = 0; i < 600; i++) {
        struct step_load load = {0};
        step_load_add(&load, 1u << rng_below(rng, 10), (uint32_t)rng_below(rng, 4000), 1);
        step_cost_learn(cost, &load,
                        (uint64_t)(fixed_ns + row_ns * load.rows + key_ns * (double)load.row_keys));
    }
}

static uint32_t share_random(struct rng *rng, struct pace *pace, struct pace_prompt *prompts,
                             uint32_t *ret_count)
{
    uint32_t count = 1 + (uint32_t)rng_below(rng, 12), decodes = (uint32_t)rng_below(rng, 20);
    uint64_t wanted = 0;
    bool burst;
    pace->decodes = (struct step_load){0};
    for (uint32_t i = 0; i < decodes; i++)
        step_load_add(&pace->decodes, 1, (uint32_t)rng_below(rng, 4000), 1);
    pace->target_ns = rng_below(rng, 3) ? 0 : rng_below(rng, 100) * NS_PER_MS;
    if (rng_below(rng, 10) == 0) pace->target_ns = PACE_TARGET_NONE;
    pace->rows_max = 1 + (uint32_t)rng_below(rng, TOKENS_MAX);
    pace->may_burst = rng_below(rng, 2);
    for (uint32_t i = 0; i < count; i++) {
        prompts[i] = (struct pace_prompt){
            .slot = i,
            .rows_wanted = 1 + (uint32_t)rng_below(rng, 1u << (1 + rng_below(rng, 12))),
            .pos_first = (uint32_t)rng_below(rng, 4000),
            .served_step = rng_below(rng, 50)};
        wanted += prompts[i].rows_wanted;
    }
    uint32_t rows = pace_share(pace, prompts, count, &burst),
             most = wanted < pace->rows_max ? (uint32_t)wanted : pace->rows_max;
    assert_in_range(rows, 1, most);
    if (pace->target_ns == PACE_TARGET_NONE) assert_int_equal(rows, most);
    if (decodes == 0 && rows < most) { // not full: it would take too long, or this does
        struct step_load load = {0};
        assert_in_range(rows, PACE_STEP_ROWS_MIN, most);
        for (uint32_t i = 0; i < count; i++)
            if (prompts[i].rows > 0)
                step_load_add(&load, prompts[i].rows, prompts[i].pos_first,
                              prompts[i].rows == prompts[i].rows_wanted);
        if (rows > PACE_STEP_ROWS_MIN)
            assert_true(step_cost_predict(pace->cost, &load) <= (double)PACE_STEP_NS_MAX);
    }
    if (burst) assert_true(pace->may_burst && pace->target_ns == 0);
    *ret_count = count;
    return rows;
}

static void test_pace_divides_all_rows(void **state)
{
    (void)state;
    struct rng rng = {.state = seed_get()};
    struct step_cost cost;
    struct pace_prompt prompts[16];
    for (int machine = 0; machine < 20; machine++) {
        cost_teach(&cost, &rng, 1e5 + (double)rng_below(&rng, 20000000), (double)rng_below(&rng, 1000000),
                   (double)rng_below(&rng, 1000));
        for (int i = 0; i < 500; i++) {
            struct pace pace = {.cost = &cost};
            uint32_t count, sum = 0, rows = share_random(&rng, &pace, prompts, &count), unserved = 0;
            for (uint32_t k = 0; k < count; k++) {
                assert_true(prompts[k].rows <= prompts[k].rows_wanted);
                sum += prompts[k].rows;
                if (prompts[k].served_step < prompts[unserved].served_step) unserved = k;
                if (k > 1) assert_true(prompts[k].rows_wanted >= prompts[k - 1].rows_wanted);
            }
            assert_int_equal(sum, rows);
            assert_int_equal(prompts[0].slot, 0); // the first in order stays
            assert_true(prompts[0].rows > 0);
            if (rows > 1) assert_true(prompts[unserved].rows > 0);
        }
    }
}

/* ---- the scheduler with a machine ---- */

struct client {
    uint64_t seq_id, submitted_ns, first_ns, last_ns;
    uint32_t prompt_count, output_max, output_count;
    uint64_t served_step; // the last step with rows of it
    bool live;
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
    void *plan_bytes, *done_bytes;
    struct sched_event *events;
    struct client clients[CLIENTS];
    uint64_t now_ns, step;
    double speed; // of the machine, 1: as measured
    double *gaps; // ns between two tokens of one client, since gap_count was last 0
    uint32_t gap_count;
    uint32_t prefill_rows_max; // of one step
    uint32_t wait_steps_max;   // of a prompt in prefill for rows
};

static void sim_open(struct sim *sim, uint64_t target_ns)
{
    struct pool_geometry geometry = {.page_count = 4096,
                                     .page_tokens = PAGE_TOKENS,
                                     .rank_count = 1,
                                     .layer_count = 1,
                                     .head_count_kv = 1,
                                     .head_dims = 2,
                                     .page_bytes = pool_page_bytes(KV_F16, 1, 1, 2)};
    *sim = (struct sim){.rng.state = seed_get(), .speed = 1, .now_ns = 1};
    sim->conf = (struct sched_conf){.seqs_max = SEQS_MAX,
                                    .tokens_max = TOKENS_MAX,
                                    .queue_max = CLIENTS,
                                    .model_len_max = LEN_MAX,
                                    .itl_target_ns = target_ns,
                                    .epoch = 7};
    size_t bytes = (pool_meta_bytes(&geometry) + 4095) & ~(size_t)4095;
    struct pool_owner owner = {1, 2, 7};
    sim->meta = aligned_alloc(4096, bytes);
    memset(sim->meta, 0, bytes);
    assert_int_equal(pool_format(sim->meta, pool_meta_bytes(&geometry), &geometry, &owner, &sim->pool, NULL),
                     0);
    assert_int_equal(prefix_new(sim->pool, &sim->prefix), 0);
    assert_int_equal(sched_new(&sim->conf, sim->pool, sim->prefix, &sim->sched), 0);
    sched_plan_limits(&sim->conf, &geometry, 1 << 16, &sim->limits);
    assert_int_equal(plan_writer_new(&sim->limits, &sim->writer), 0);
    assert_int_equal(done_writer_new(&sim->limits, &sim->answer), 0);
    sim->plan_bytes = malloc(plan_bytes_max(&sim->limits));
    sim->done_bytes = malloc(done_bytes_max(&sim->limits));
    sim->events = calloc(2 * SEQS_MAX, sizeof *sim->events);
    sim->gaps = calloc(GAPS_MAX, sizeof *sim->gaps);
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
    free(sim->events);
    free(sim->gaps);
}

static struct client *submit(struct sim *sim, uint32_t prompt_count, uint32_t output_max)
{
    static uint32_t prompt[LEN_MAX];
    struct client *client = sim->clients;
    while (client->live) client++;
    assert_true(client < sim->clients + CLIENTS);
    for (uint32_t i = 0; i < prompt_count; i++) prompt[i] = (uint32_t)rng_below(&sim->rng, 1 << 16);
    *client = (struct client){.live = true,
                              .prompt_count = prompt_count,
                              .output_max = output_max,
                              .submitted_ns = sim->now_ns,
                              .served_step = sim->step};
    struct sched_request request = {.prompt = prompt,
                                    .prompt_count = prompt_count,
                                    .output_max = output_max,
                                    .params = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
                                    .owner = client};
    assert_int_equal(sched_submit(sim->sched, &request, &client->seq_id), 0);
    return client;
}

/* What the machine takes for a plan. */
static double machine_ns(struct sim *sim, const struct plan_view *plan)
{
    struct step_load load = {0};
    double noise = ((double)rng_below(&sim->rng, 1001) - 500) / 5000; // +- 10 %, evenly
    for (uint32_t i = 0; i < plan->header->seq_count; i++)
        step_load_add(&load, plan->seqs[i].token_count, plan->seqs[i].pos_first,
                      plan->seqs[i].flags & PLAN_SAMPLE ? 1 : 0);
    double ns = 3.5e6 + 0.65e6 * load.rows + 0.15e6 * load.logit_rows + 850.0 * (double)load.row_keys +
                500.0 * (double)load.seq_keys;
    return ns * (1 + noise) / sim->speed;
}

static void answer_write(struct sim *sim, const struct plan_view *plan)
{
    done_writer_begin(sim->answer, plan->header->step, plan->header->epoch);
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        const struct plan_seq *seq = &plan->seqs[i];
        struct done_seq out = {.seq_id = seq->seq_id};
        uint32_t end = seq->pos_first + seq->token_count;
        for (uint32_t page = seq->pos_first / PAGE_TOKENS; page < end / PAGE_TOKENS; page++) {
            struct plan_page at = plan->pages[seq->page_first + page];
            struct done_seal seal = {.page_idx = at.page_idx, .generation = at.generation};
            assert_true(done_writer_seal(sim->answer, &seal) >= 0);
        }
        if (seq->flags & PLAN_SAMPLE) {
            out.flags = DONE_SAMPLED;
            out.token = (uint32_t)rng_below(&sim->rng, 1 << 16);
            out.logprob = -0.5F;
            out.rank = 1;
        }
        assert_true(done_writer_seq(sim->answer, &out) >= 0);
    }
}

static void token_take(struct sim *sim, struct client *client)
{
    if (client->output_count++ == 0) client->first_ns = sim->now_ns;
    else if (sim->gap_count < GAPS_MAX) sim->gaps[sim->gap_count++] = (double)(sim->now_ns - client->last_ns);
    client->last_ns = sim->now_ns;
    if (client->output_count < client->output_max) return;
    sched_remove(sim->sched, client->seq_id, sim->now_ns);
    client->live = false;
}

static void rows_note(struct sim *sim, const struct plan_view *plan)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < plan->header->seq_count; i++)
        for (struct client *client = sim->clients; client < sim->clients + CLIENTS; client++) {
            if (!client->live || client->seq_id != plan->seqs[i].seq_id) continue;
            client->served_step = sim->step;
            if (client->output_count == 0) rows += plan->seqs[i].token_count;
        }
    for (struct client *client = sim->clients; client < sim->clients + CLIENTS; client++) {
        struct sched_seq_info info;
        if (!client->live || client->output_count > 0) continue;
        sched_seq_info(sim->sched, client->seq_id, &info);
        uint32_t waited = (uint32_t)(sim->step - client->served_step);
        if (info.running && waited > sim->wait_steps_max) sim->wait_steps_max = waited;
        if (!info.running) client->served_step = sim->step;
    }
    if (rows > sim->prefill_rows_max) sim->prefill_rows_max = rows;
}

static void step(struct sim *sim)
{
    struct plan_view plan;
    struct done_view done;
    sim->step++;
    assert_true(sched_plan(sim->sched, 0, sim->now_ns, sim->writer) > 0);
    size_t bytes = plan_writer_finish(sim->writer, sim->plan_bytes, plan_bytes_max(&sim->limits));
    assert_int_equal(plan_verify(sim->plan_bytes, bytes, &sim->limits, &plan, NULL), 0);
    rows_note(sim, &plan);
    answer_write(sim, &plan);
    uint64_t ns = (uint64_t)machine_ns(sim, &plan);
    bytes = done_writer_finish(sim->answer, 0, ns, ns, 0, sim->done_bytes, done_bytes_max(&sim->limits));
    assert_int_equal(done_verify(sim->done_bytes, bytes, &sim->limits, &plan, &done, NULL), 0);
    sim->now_ns += ns + 100000; // and the daemon's turn
    int events = sched_complete(sim->sched, 0, sim->now_ns, &done, sim->events);
    for (int i = 0; i < events; i++) token_take(sim, sim->events[i].owner);
    assert_int_equal(sched_check(sim->sched, NULL), 0);
}

static double seconds_to_first(struct sim *sim, struct client *client)
{
    while (client->output_count == 0) step(sim);
    return (double)(client->first_ns - client->submitted_ns) / (double)NS_PER_S;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ms of the gaps since the last call; forgets them. */
static double gaps_percentile(struct sim *sim, uint32_t percent)
{
    assert_true(sim->gap_count > 0);
    qsort(sim->gaps, sim->gap_count, sizeof *sim->gaps, compare);
    double ns = sim->gaps[(size_t)sim->gap_count * percent / 100];
    return ns / (double)NS_PER_MS;
}

static void streams_start(struct sim *sim, uint32_t count)
{
    struct client *last = NULL;
    for (uint32_t i = 0; i < count; i++) last = submit(sim, 200, 4000);
    while (last->output_count < 20) step(sim);
    sim->gap_count = sim->wait_steps_max = sim->prefill_rows_max = 0;
}

static double alone(uint32_t prompt_count)
{
    struct sim sim;
    sim_open(&sim, 0);
    double s = seconds_to_first(&sim, submit(&sim, prompt_count, 1));
    sim_done(&sim);
    return s;
}

/* The same streams for as many steps with nothing beside them: their keys grow, and with them the steps. */
static void calm_run(uint32_t count, uint64_t steps, double *ret_p50, double *ret_p99)
{
    struct sim sim;
    sim_open(&sim, 0);
    streams_start(&sim, count);
    while (sim.step < steps) step(&sim);
    *ret_p50 = gaps_percentile(&sim, 50);
    *ret_p99 = gaps_percentile(&sim, 99);
    sim_done(&sim);
}

/* Shows 6 of the scheduler in small: eight streams, a prompt of 7,000 tokens, a short one behind it. What the target
 * costs the long one is arithmetic: of a step that is 1.5 times as long as the decodes' a third is the prompt's. */
static void test_pace_holds_the_automatic_target(void **state)
{
    (void)state;
    struct sim sim;
    double long_alone = alone(7000), short_alone = alone(64);
    sim_open(&sim, 0);
    streams_start(&sim, 8);
    struct client *prompt = submit(&sim, 7000, 1);
    for (int i = 0; i < 100; i++) step(&sim);
    double short_s = seconds_to_first(&sim, submit(&sim, 64, 1)), long_s = seconds_to_first(&sim, prompt);
    double p50 = gaps_percentile(&sim, 50), p99 = gaps_percentile(&sim, 99);
    double calm_p50, calm_p99;
    calm_run(8, sim.step, &calm_p50, &calm_p99);
    print_message(
        "ITL p50 %.1f ms -> %.1f, p99 %.1f -> %.1f (%.2f x); 7,000 tokens: %.2f s -> %.2f (%.2f x); "
        "64 tokens: %.3f s -> %.3f (%.2f x)\n",
        calm_p50, p50, calm_p99, p99, p99 / calm_p99, long_alone, long_s, long_s / long_alone, short_alone,
        short_s, short_s / short_alone);
    assert_true(p99 <= 1.55 * calm_p99);
    assert_true(p50 >= 1.2 * calm_p50);      // the target is made use of
    assert_true(short_s <= 3 * short_alone); // by a burst: eight rows a step would take twice that
    assert_true(long_s <= 5 * long_alone);
    sim_done(&sim);
}

static void test_pace_follows_a_target_set_by_hand(void **state)
{
    (void)state;
    for (uint32_t target_ms = 30; target_ms <= 240; target_ms *= 2) {
        struct sim sim;
        sim_open(&sim, target_ms * NS_PER_MS);
        streams_start(&sim, 4);
        struct client *prompt = submit(&sim, 2500, 1);
        (void)seconds_to_first(&sim, prompt);
        double p50 = gaps_percentile(&sim, 50), p99 = gaps_percentile(&sim, 99);
        print_message("%u ms: p50 %.1f, p99 %.1f\n", target_ms, p50, p99);
        assert_true(p99 <= 1.25 * target_ms);
        assert_true(p50 >= 0.7 * target_ms);
        sim_done(&sim);
    }
}

/* Twice as slow within a run, and the target holds on. */
static void test_pace_follows_the_machine(void **state)
{
    (void)state;
    struct sim sim;
    sim_open(&sim, 40 * NS_PER_MS);
    streams_start(&sim, 4);
    (void)submit(&sim, 7000, 1);
    for (int i = 0; i < 60; i++) step(&sim);
    sim.speed = 0.5;
    for (int i = 0; i < 60; i++) step(&sim);
    sim.gap_count = 0;
    for (int i = 0; i < 60; i++) step(&sim);
    double p50 = gaps_percentile(&sim, 50);
    print_message("40 ms at half the speed: p50 %.1f\n", p50);
    assert_true(p50 > 30 && p50 < 50);
    sim_done(&sim);
}

/* A tiny target: prompts get on nevertheless. */
static void test_pace_starves_no_prompt(void **state)
{
    (void)state;
    struct sim sim;
    sim_open(&sim, 1);
    streams_start(&sim, 8);
    struct client *prompts[6];
    for (int i = 0; i < 6; i++) prompts[i] = submit(&sim, 300 + 50 * (uint32_t)i, 1);
    for (int i = 0; i < 6; i++) (void)seconds_to_first(&sim, prompts[i]);
    print_message("waited %u steps for rows\n", sim.wait_steps_max);
    assert_true(sim.wait_steps_max <= 6);
    sim_done(&sim);
}

/* A stream of short prompts takes no more than three quarters from a long one. */
static void test_pace_lets_short_ones_pass_within_bounds(void **state)
{
    (void)state;
    struct sim sim;
    sim_open(&sim, 0);
    streams_start(&sim, 8);
    struct client *prompt = submit(&sim, 2000, 1), *shorter = submit(&sim, 100, 1);
    uint64_t steps = sim.step;
    uint32_t passed = 0;
    while (prompt->output_count == 0) {
        step(&sim);
        if (shorter->live) continue;
        passed++;
        shorter = submit(&sim, 100, 1);
    }
    steps = sim.step - steps;
    print_message("2,000 tokens in %llu steps, %u prompts of 100 tokens passed\n", (unsigned long long)steps,
                  passed);
    assert_true(passed > 10);
    assert_true(steps < 2000);
    sim_done(&sim);
}

/* Full steps as long as they are short; at long contexts fewer rows, which costs the prompt little. */
static void test_pace_fills_steps_where_nobody_decodes(void **state)
{
    (void)state;
    struct sim sim;
    double times[2], longest = 0;
    for (int bounded = 0; bounded < 2; bounded++) {
        sim_open(&sim, bounded ? 0 : PACE_TARGET_NONE);
        struct client *prompt = submit(&sim, 5000, 1);
        step(&sim);
        assert_int_equal(sim.prefill_rows_max, TOKENS_MAX);
        while (prompt->output_count == 0) {
            uint64_t before_ns = sim.now_ns;
            step(&sim);
            if (bounded && sim.step > 4) longest = fmax(longest, (double)(sim.now_ns - before_ns));
        }
        times[bounded] = (double)(prompt->first_ns - prompt->submitted_ns);
        if (!bounded) assert_int_equal(sim.step, (5000 + TOKENS_MAX - 1) / TOKENS_MAX);
        sim_done(&sim);
    }
    print_message("5,000 tokens: %.2f times the time of full steps, the longest %.0f ms\n",
                  times[1] / times[0], longest / (double)NS_PER_MS);
    assert_true(times[1] < 1.1 * times[0]);
    assert_true(longest < 1.3 * (double)PACE_STEP_NS_MAX); // 10 % of noise, and what was not learnt yet
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace_divides_all_rows),
        cmocka_unit_test(test_pace_holds_the_automatic_target),
        cmocka_unit_test(test_pace_follows_a_target_set_by_hand),
        cmocka_unit_test(test_pace_follows_the_machine),
        cmocka_unit_test(test_pace_starves_no_prompt),
        cmocka_unit_test(test_pace_lets_short_ones_pass_within_bounds),
        cmocka_unit_test(test_pace_fills_steps_where_nobody_decodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* step_cost - learns synthetic machines (bound by arithmetic, by memory, with steps in between), through noise,
 * outliers and a change of speed, and a log of a real engine's steps; stays sane whatever it is told.
 *
 * Errors are relative, of predictions made before the measurement is shown, and the median of them is judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "daemon/step_cost.h"

enum { STEPS_MAX = 4000, SEQS_MAX = 64 };

/* ---- machines: ns of a load */

static double machine_arithmetic(const struct step_load *load)
{
    return 2e6 + 0.6e6 * load->rows + 900.0 * (double)load->row_keys + 0.2e6 * load->logit_rows;
}

/* Weights are read in 12 ms, while which 300 rows are computed; keys are read once a sequence. */
static double machine_memory(const struct step_load *load)
{
    double compute = 40e3 * load->rows + 2.0 * (double)load->row_keys;
    return 0.3e6 + fmax(12e6 + 60.0 * (double)load->seq_keys, compute);
}

/* Rows in tiles of 8: whole ones are paid for. */
static double machine_tiles(const struct step_load *load)
{
    double tiles = (load->rows + 7) / 8;
    return 5e6 + 4e6 * tiles + 400.0 * (double)load->row_keys + 1500.0 * (double)load->seq_keys;
}

/* ---- traffic: some sequences decode, now and then a prompt comes in chunks */

struct traffic {
    struct rng rng;
    uint32_t seq_count, contexts[SEQS_MAX];
    uint32_t prompt_position, prompt_left, chunk;
};

static struct step_load traffic_step(struct traffic *traffic)
{
    struct rng *rng = &traffic->rng;
    struct step_load load = {0};
    if (traffic->seq_count > 0 && rng_below(rng, 40) == 0) traffic->seq_count--;
    for (uint32_t i = 0; i < traffic->seq_count; i++) step_load_add(&load, 1, traffic->contexts[i]++, 1);
    if (traffic->prompt_left == 0 && (traffic->seq_count == 0 || rng_below(rng, 12) == 0)) {
        traffic->prompt_position = 0;
        traffic->prompt_left = 10 + (uint32_t)rng_below(rng, rng_below(rng, 4) ? 400 : 5000);
        traffic->chunk = 1u << rng_below(rng, 10);
    }
    if (traffic->prompt_left == 0) return load;
    uint32_t rows = traffic->chunk < traffic->prompt_left ? traffic->chunk : traffic->prompt_left;
    traffic->prompt_left -= rows;
    step_load_add(&load, rows, traffic->prompt_position, traffic->prompt_left == 0);
    traffic->prompt_position += rows;
    if (traffic->prompt_left == 0 && traffic->seq_count < SEQS_MAX)
        traffic->contexts[traffic->seq_count++] = traffic->prompt_position;
    return load;
}

/* ---- judging */

struct trial {
    struct step_cost cost;
    double errors[STEPS_MAX];
    uint32_t count;
};

static void trial_step(struct trial *trial, const struct step_load *load, double truth, double measured)
{
    double predicted = step_cost_predict(&trial->cost, load);
    CHECK(trial->count < STEPS_MAX);
    trial->errors[trial->count++] = fabs(predicted - truth) / truth;
    step_cost_learn(&trial->cost, load, (uint64_t)measured);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of the errors [first, count). Sorts them. */
static double median(struct trial *trial, uint32_t first)
{
    uint32_t count = trial->count - first;
    qsort(trial->errors + first, count, sizeof(double), compare);
    return trial->errors[first + count / 2];
}

typedef double machine_ns(const struct step_load *load);

/* steps steps on a machine whose speed and noise are given; sigma and outliers: shares. */
static void trial_run(struct trial *trial, struct traffic *traffic, machine_ns *machine, uint32_t steps,
                      double slowness, double sigma, double outliers)
{
    for (uint32_t i = 0; i < steps; i++) {
        struct step_load load = traffic_step(traffic);
        double truth = slowness * machine(&load), noise = 0;
        for (int k = 0; k < 12; k++) noise += (double)rng_below(&traffic->rng, 1u << 20) / (1u << 20) - 0.5;
        double measured = truth * fmax(1 + sigma * noise, 0.1);
        if ((double)rng_below(&traffic->rng, 10000) < outliers * 10000)
            measured *= 3 + (double)rng_below(&traffic->rng, 20);
        trial_step(trial, &load, truth, measured);
    }
}

static void expect_learnt(const char *name, machine_ns *machine, double sigma, double outliers,
                          double error_max)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct trial trial = {.count = 0};
        struct traffic traffic = {.rng.state = seed};
        step_cost_init(&trial.cost);
        trial_run(&trial, &traffic, machine, 1500, 1, sigma, outliers);
        double late = median(&trial, 500);
        double early = median(&trial, 0); // the rest is sorted already, which does not matter
        print_message("%s, seed %llu: median error %.1f %%, %.1f %% from the first step on\n", name,
                      (unsigned long long)seed, 100 * late, 100 * early);
        assert_true(late < error_max);
        assert_true(early < 2 * error_max);
    }
}

static void test_step_cost_learns_arithmetic(void **state)
{
    (void)state;
    expect_learnt("arithmetic", machine_arithmetic, 0, 0, 0.02);
}

static void test_step_cost_learns_memory(void **state)
{
    (void)state;
    expect_learnt("memory", machine_memory, 0, 0, 0.05);
}

static void test_step_cost_learns_tiles(void **state)
{
    (void)state;
    expect_learnt("tiles", machine_tiles, 0, 0, 0.08);
}

static void test_step_cost_learns_through_noise(void **state)
{
    (void)state;
    expect_learnt("arithmetic, 10 % noise, 3 % outliers", machine_arithmetic, 0.1, 0.03, 0.06);
    expect_learnt("memory, 10 % noise, 3 % outliers", machine_memory, 0.1, 0.03, 0.08);
}

/* Half the speed, as when another process takes a core: followed within 60 steps, in everything at once. */
static void test_step_cost_follows_a_change_of_speed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct trial trial = {.count = 0};
        struct traffic traffic = {.rng.state = seed};
        step_cost_init(&trial.cost);
        trial_run(&trial, &traffic, machine_arithmetic, 500, 1, 0.05, 0.02);
        trial_run(&trial, &traffic, machine_arithmetic, 60, 2, 0.05, 0.02);
        uint32_t first = trial.count;
        trial_run(&trial, &traffic, machine_arithmetic, 200, 2, 0.05, 0.02);
        double slow = median(&trial, first);
        first = trial.count;
        trial_run(&trial, &traffic, machine_arithmetic, 60, 1, 0.05, 0.02);
        trial_run(&trial, &traffic, machine_arithmetic, 200, 1, 0.05, 0.02);
        double fast = median(&trial, first);
        print_message("seed %llu: %.1f %% after slowing down, %.1f %% and back\n", (unsigned long long)seed,
                      100 * slow, 100 * fast);
        assert_true(slow < 0.08);
        assert_true(fast < 0.10);
    }
}

/* One measurement that is a hundred times too long moves what is expected by less than a fifth. */
static void test_step_cost_shrugs_off_an_outlier(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct trial trial = {.count = 0};
        struct traffic traffic = {.rng.state = seed};
        step_cost_init(&trial.cost);
        trial_run(&trial, &traffic, machine_arithmetic, 300, 1, 0.05, 0);
        struct step_load load = traffic_step(&traffic);
        double before = step_cost_predict(&trial.cost, &load);
        step_cost_learn(&trial.cost, &load, (uint64_t)(100 * before));
        double after = step_cost_predict(&trial.cost, &load);
        assert_true(after > before && after < 1.2 * before);
    }
}

/* A mind of its own: more work never costs less, and nothing becomes negative or not a number, whatever it is told. */
static void test_step_cost_stays_sane(void **state)
{
    (void)state;
    struct rng rng = {.state = 7};
    struct step_cost cost;
    step_cost_init(&cost);
    struct step_load none = {0};
    assert_true(step_cost_predict(&cost, &none) == 0);
    for (int i = 0; i < 20000; i++) {
        struct step_load load = {0};
        step_load_add(&load, 1 + (uint32_t)rng_below(&rng, 8192), (uint32_t)rng_below(&rng, 1 << 20),
                      (uint32_t)rng_below(&rng, 2));
        uint64_t ns = rng_next(&rng) >> rng_below(&rng, 64);
        if (i % 1000 < 100) ns = 0;
        if (i % 1000 > 900) ns = 1;
        step_cost_learn(&cost, &load, ns);
        struct step_load more = load;
        step_load_add(&more, (uint32_t)rng_below(&rng, 20), (uint32_t)rng_below(&rng, 1000), 1);
        double a = step_cost_predict(&cost, &load), b = step_cost_predict(&cost, &more);
        assert_true(isfinite(a) && isfinite(b));
        assert_true(a >= 0);
        assert_true(b >= a);
    }
}

/* Steps of the real engine: SmolLM2-135M Q4_1, avx2, one thread's CPU time, eight sequences and prompts in chunks of 1
 * to 128 rows, keys up to 3,300. */
static void test_step_cost_predicts_a_real_engine(void **state)
{
    (void)state;
    char path[1024];
    const char *srcdir = getenv("srcdir");
    (void)snprintf(path, sizeof path, "%s/tests/data/steps.csv", srcdir ? srcdir : ".");
    FILE *file = fopen(path, "r");
    if (!file) {
        print_message("no %s here\n", path);
        skip();
    }
    struct trial trial = {.count = 0};
    step_cost_init(&trial.cost);
    char line[256];
    while (fgets(line, sizeof line, file)) {
        struct step_load load;
        unsigned long long row_keys, seq_keys, us;
        if (sscanf(line, "%u,%u,%llu,%llu,%llu", &load.rows, &load.logit_rows, &row_keys, &seq_keys, &us) !=
            5)
            continue;
        load.row_keys = row_keys;
        load.seq_keys = seq_keys;
        trial_step(&trial, &load, (double)us * 1e3, (double)us * 1e3);
    }
    (void)fclose(file);
    assert_true(trial.count >= 500);
    uint32_t count = trial.count;
    double late = median(&trial, 50);
    print_message("%u steps: after the first 50 the median error is %.1f %%, the 90th percentile %.1f %%\n",
                  count, 100 * late, 100 * trial.errors[50 + (count - 50) * 9 / 10]);
    assert_true(late < 0.10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_cost_learns_arithmetic),
        cmocka_unit_test(test_step_cost_learns_memory),
        cmocka_unit_test(test_step_cost_learns_tiles),
        cmocka_unit_test(test_step_cost_learns_through_noise),
        cmocka_unit_test(test_step_cost_follows_a_change_of_speed),
        cmocka_unit_test(test_step_cost_shrugs_off_an_outlier),
        cmocka_unit_test(test_step_cost_stays_sane),
        cmocka_unit_test(test_step_cost_predicts_a_real_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

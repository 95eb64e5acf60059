/* SPDX-License-Identifier: Apache-2.0 */
/* The sampler against a naive one written here: sort everything, weigh in double, cut, walk. Draws of both
 * must agree wherever the random number is not within rounding of a border. */
#include <math.h>
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
#include "worker/sample.h"
#include "worker/scan.h"

enum { VOCAB_MAX = 49152, HISTORY_MAX = 64 };

static uint64_t seed;

static struct plan_seq plain_seq(void)
{
    return (struct plan_seq){
        .flags = PLAN_SAMPLE, .token_count = 1, .temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

/* About as peaked as a language model's. */
static void fill_logits(struct rng *rng, float *logits, uint32_t count, float spread)
{
    for (uint32_t i = 0; i < count; i++) {
        double a = (double)(rng_next(rng) >> 11) * 0x1p-53, b = (double)(rng_next(rng) >> 11) * 0x1p-53;
        logits[i] = (float)(sqrt(-2 * log(a + 1e-300)) * cos(6.283185307179586 * b)) * spread - 3;
    }
}

/* ---- the naive sampler ---- */

static const float *order_logits; // for the comparison

static int compare_likelier(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (order_logits[x] != order_logits[y]) return order_logits[x] > order_logits[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static void order_by_logit(const float *logits, uint32_t count, uint32_t *ids)
{
    for (uint32_t i = 0; i < count; i++) ids[i] = i;
    order_logits = logits;
    qsort(ids, count, sizeof(*ids), compare_likelier);
}

static double naive_log_total(const float *logits, uint32_t count)
{
    double max = -INFINITY, total = 0;
    for (uint32_t i = 0; i < count; i++) max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < count; i++) total += exp(logits[i] - max);
    return max + log(total);
}

/* Logits after penalties and bias, straight from the definitions. */
static void naive_adjust(const struct sample_input *input, float *out)
{
    const struct plan_seq *seq = input->seq;
    memcpy(out, input->logits, input->vocab_count * sizeof(float));
    for (uint32_t token = 0; token < input->vocab_count; token++) {
        uint32_t seen = 0, generated = 0;
        for (uint32_t i = 0; i < seq->history_count; i++) {
            if (input->history[i] != token) continue;
            seen++;
            if (i >= seq->history_prompt) generated++;
        }
        if (seen > 0) {
            out[token] = out[token] > 0 ? out[token] / seq->repetition_penalty
                                        : out[token] * seq->repetition_penalty;
        }
        if (generated > 0) out[token] -= seq->frequency_penalty * (float)generated + seq->presence_penalty;
    }
    for (uint32_t i = 0; i < seq->bias_count; i++) out[input->biases[i].token] += input->biases[i].bias;
}

/* A distribution: tokens in the order in which the sampler walks them, with probabilities. */
struct naive {
    uint32_t *ids; // (vocab)
    double *probabilities;
    uint32_t count;
    double cut_gap; // relative distance of a cut from its border: below rounding, sets may differ
};

static struct naive naive_distribution(const struct sample_input *input, const float *adjusted)
{
    const struct plan_seq *seq = input->seq;
    uint32_t vocab = input->vocab_count;
    struct naive naive = {.ids = calloc(vocab, sizeof(uint32_t)),
                          .probabilities = calloc(vocab, sizeof(double)),
                          .count = vocab,
                          .cut_gap = 1};
    bool by_k = seq->top_k > 0 && (uint32_t)seq->top_k < vocab;
    if (by_k || seq->top_p < 1 || seq->min_p > 0) {
        order_by_logit(adjusted, vocab, naive.ids);
        if (by_k) naive.count = (uint32_t)seq->top_k;
    } else {
        for (uint32_t i = 0; i < vocab; i++) naive.ids[i] = i;
    }
    double max = -INFINITY, total = 0, sum = 0;
    for (uint32_t i = 0; i < vocab; i++) max = fmax(max, adjusted[i]);
    for (uint32_t i = 0; i < naive.count; i++) {
        naive.probabilities[i] = exp((adjusted[naive.ids[i]] - max) / seq->temperature);
        total += naive.probabilities[i];
    }
    if (seq->top_p < 1) {
        for (uint32_t i = 0; i < naive.count; i++) {
            sum += naive.probabilities[i];
            naive.cut_gap = fmin(naive.cut_gap, fabs(sum / total - seq->top_p));
            if (sum >= seq->top_p * total) naive.count = i + 1;
        }
    }
    for (uint32_t i = 1; i < naive.count && seq->min_p > 0; i++) {
        naive.cut_gap = fmin(naive.cut_gap, fabs(naive.probabilities[i] / seq->min_p - 1));
        if (naive.probabilities[i] < seq->min_p) naive.count = i;
    }
    total = 0;
    for (uint32_t i = 0; i < naive.count; i++) total += naive.probabilities[i];
    for (uint32_t i = 0; i < naive.count; i++) naive.probabilities[i] /= total;
    return naive;
}

static void naive_done(struct naive *naive)
{
    free(naive->ids);
    free(naive->probabilities);
}

/* The token that unit falls on; *ret_margin: its distance from the nearest border. */
static uint32_t naive_draw(const struct naive *naive, double unit, double *ret_margin)
{
    double sum = 0;
    for (uint32_t i = 0; i < naive->count; i++) {
        double before = sum;
        sum += naive->probabilities[i];
        if (unit < sum) {
            *ret_margin = fmin(unit - before, sum - unit);
            return naive->ids[i];
        }
    }
    *ret_margin = 0;
    return naive->ids[naive->count - 1];
}

/* ---- draws ---- */

static float logits[VOCAB_MAX], adjusted[VOCAB_MAX];

/* Draws with one set of parameters, at many positions. */
static void check_draws(struct sampler *sampler, const struct sample_input *input, uint32_t draws)
{
    naive_adjust(input, adjusted);
    struct naive naive = naive_distribution(input, adjusted);
    uint32_t compared = 0;
    for (uint32_t i = 0; i < draws; i++) {
        struct sample_input at = *input;
        struct sample_output output;
        double margin;
        at.position = i;
        assert_int_equal(sample_token(sampler, &at, &output), 0);
        uint32_t expected = naive_draw(&naive, rng_unit_at(input->seq->seed, i, 0), &margin);
        if (margin < 2e-6 || naive.cut_gap < 2e-6) continue;
        compared++;
        if (output.token != expected) {
            fail_msg(
                "vocab %u, T %g, top_k %d, top_p %g, min_p %g, seed %llu, draw %u: token %u, expected %u "
                "(margin %g)",
                input->vocab_count, (double)input->seq->temperature, input->seq->top_k,
                (double)input->seq->top_p, (double)input->seq->min_p, (unsigned long long)input->seq->seed, i,
                output.token, expected, margin);
        }
    }
    if (naive.cut_gap >= 2e-6) assert_true(compared * 2 > draws);
    naive_done(&naive);
}

static void test_sample_draws_are_those_of_the_naive_sampler(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 5, 63, 64, 65, 500, 4096, 5001, 49152};
    static const float temperatures[] = {0.05f, 0.7f, 1, 1.9f}, top_ps[] = {1, 0.999f, 0.9f, 0.4f, 0.01f, 0},
                       min_ps[] = {0, 0.001f, 0.1f, 0.5f, 1};
    static const int32_t top_ks[] = {0, -1, 1, 2, 20, 50, 64, 65, 700, 3000, 1 << 30};
    (void)state;
    struct rng rng = {.state = seed};
    for (size_t v = 0; v < COUNT_OF(vocabs); v++) {
        struct sampler *sampler;
        assert_int_equal(sampler_new(vocabs[v], &sampler), 0);
        for (int round = 0; round < (vocabs[v] > 10000 ? 30 : 60); round++) {
            struct plan_seq seq = plain_seq();
            seq.seed = rng_next(&rng);
            seq.temperature = temperatures[rng_below(&rng, COUNT_OF(temperatures))];
            seq.top_k = top_ks[rng_below(&rng, COUNT_OF(top_ks))];
            seq.top_p = top_ps[rng_below(&rng, COUNT_OF(top_ps))];
            seq.min_p = min_ps[rng_below(&rng, COUNT_OF(min_ps))];
            fill_logits(&rng, logits, vocabs[v], 0.1f + 0.5f * (float)rng_below(&rng, 9));
            for (uint32_t i = 0; i < vocabs[v] / 8; i++) { // ties
                logits[rng_below(&rng, vocabs[v])] = logits[rng_below(&rng, vocabs[v])];
            }
            const struct sample_input input = {.logits = logits, .vocab_count = vocabs[v], .seq = &seq};
            check_draws(sampler, &input, 12);
        }
        sampler_free(sampler);
    }
}

/* Pearson's statistic of many draws against the exact probabilities. 30 tokens: 29 degrees of freedom at most,
 * mean 29, standard deviation 7.6; the seed is fixed, so 29 + 5 deviations is no gamble. */
static void check_chi_square(const struct plan_seq *seq)
{
    enum { VOCAB = 30, DRAWS = 40000 };
    struct rng rng = {.state = 7};
    struct sampler *sampler;
    uint32_t counts[VOCAB] = {0};
    fill_logits(&rng, logits, VOCAB, 1.0f);
    const struct sample_input base = {.logits = logits, .vocab_count = VOCAB, .seq = seq};
    assert_int_equal(sampler_new(VOCAB, &sampler), 0);
    for (uint32_t i = 0; i < DRAWS; i++) {
        struct sample_input input = base;
        struct sample_output output;
        input.position = i;
        assert_int_equal(sample_token(sampler, &input, &output), 0);
        counts[output.token]++;
    }
    naive_adjust(&base, adjusted);
    struct naive naive = naive_distribution(&base, adjusted);
    double statistic = 0;
    uint32_t covered = 0;
    for (uint32_t i = 0; i < naive.count; i++) {
        double expected = naive.probabilities[i] * DRAWS, deviation = counts[naive.ids[i]] - expected;
        statistic += deviation * deviation / expected;
        covered += counts[naive.ids[i]];
    }
    assert_int_equal(covered, DRAWS); // nothing outside the set
    if (statistic > 29 + 5 * 7.6) fail_msg("chi-square %g over %u tokens", statistic, naive.count);
    naive_done(&naive);
    sampler_free(sampler);
}

static void test_sample_frequencies_fit_the_distribution(void **state)
{
    (void)state;
    struct plan_seq seq = plain_seq();
    seq.seed = 1234;
    check_chi_square(&seq);
    seq.temperature = 0.6f;
    seq.top_k = 12;
    check_chi_square(&seq);
    seq.top_k = 0;
    seq.top_p = 0.8f;
    check_chi_square(&seq);
    seq.top_p = 1;
    seq.min_p = 0.05f;
    check_chi_square(&seq);
}

static void test_sample_draw_depends_on_seed_and_position_only(void **state)
{
    (void)state;
    struct rng rng = {.state = seed};
    struct sampler *sampler;
    struct plan_seq seq = plain_seq();
    struct sample_output first, second;
    uint32_t same = 0;
    assert_int_equal(sampler_new(1000, &sampler), 0);
    fill_logits(&rng, logits, 1000, 1.0f);
    for (uint32_t position = 0; position < 100; position++) {
        seq.seed = 5;
        struct sample_input input = {
            .logits = logits, .vocab_count = 1000, .seq = &seq, .position = position};
        assert_int_equal(sample_token(sampler, &input, &first), 0);
        seq.seed = 6;
        assert_int_equal(sample_token(sampler, &input, &second), 0);
        same += first.token == second.token;
        seq.seed = 5;
        assert_int_equal(sample_token(sampler, &input, &second), 0);
        assert_int_equal(first.token, second.token);
    }
    assert_true(same < 50);
    sampler_free(sampler);
}

/* ---- greedy ---- */

static uint32_t greedy(uint32_t vocab, const struct plan_bias *biases, uint32_t bias_count)
{
    struct sampler *sampler;
    struct sample_output output;
    struct plan_seq seq = plain_seq();
    seq.temperature = 0;
    seq.bias_count = bias_count;
    const struct sample_input input = {.logits = logits, .vocab_count = vocab, .seq = &seq, .biases = biases};
    assert_int_equal(sampler_new(vocab, &sampler), 0);
    assert_int_equal(sample_token(sampler, &input, &output), 0);
    sampler_free(sampler);
    return output.token;
}

static void test_sample_greedy_takes_the_lowest_of_equals(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 300; i++) logits[i] = -5;
    assert_int_equal(greedy(300, NULL, 0), 0);
    logits[299] = 1;
    assert_int_equal(greedy(300, NULL, 0), 299);
    logits[130] = logits[77] = 1;
    assert_int_equal(greedy(300, NULL, 0), 77);
    logits[0] = -0.0f;
    logits[3] = 0.0f;
    logits[77] = logits[130] = logits[299] = -1;
    assert_int_equal(greedy(300, NULL, 0), 0); // -0 equals 0
}

static void test_sample_bias_moves_and_bans(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++) logits[i] = (float)i * 0.01f;
    const struct plan_bias up[] = {{.token = 3, .bias = 5}},
                           ban[] = {{.token = 99, .bias = -INFINITY}, {.token = 98, .bias = -100}};
    assert_int_equal(greedy(100, up, 1), 3);
    assert_int_equal(greedy(100, ban, 2), 97);
    struct plan_bias all[100];
    for (uint32_t i = 0; i < 100; i++) all[i] = (struct plan_bias){.token = i, .bias = -INFINITY};
    assert_int_equal(greedy(100, all, 99), 99);
    assert_int_equal(greedy(100, all, 100), 0); // nothing left: token 0
    all[40].bias = INFINITY;
    assert_int_equal(greedy(100, all, 100), 40);
}

static void test_sample_tiny_temperature_is_greedy(void **state)
{
    (void)state;
    struct sampler *sampler;
    struct sample_output output;
    struct plan_seq seq = plain_seq();
    for (uint32_t i = 0; i < 200; i++) logits[i] = i == 150 ? 2.0f : 1.0f;
    const struct sample_input input = {.logits = logits, .vocab_count = 200, .seq = &seq};
    assert_int_equal(sampler_new(200, &sampler), 0);
    const float temperatures[] = {1e-30f, 1e-6f, 1e-5f, 1e-4f};
    for (size_t i = 0; i < COUNT_OF(temperatures); i++) {
        seq.temperature = temperatures[i];
        for (seq.seed = 0; seq.seed < 50; seq.seed++) {
            assert_int_equal(sample_token(sampler, &input, &output), 0);
            assert_int_equal(output.token, 150);
        }
    }
    sampler_free(sampler);
}

/* ---- penalties ---- */

static void test_sample_penalties_are_those_of_the_naive_sampler(void **state)
{
    (void)state;
    struct rng rng = {.state = seed + 1};
    struct sampler *sampler;
    enum { VOCAB = 200 };
    assert_int_equal(sampler_new(VOCAB, &sampler), 0);
    for (int round = 0; round < 300; round++) {
        uint32_t history[HISTORY_MAX];
        struct plan_bias biases[4];
        struct plan_seq seq = plain_seq();
        seq.seed = rng_next(&rng);
        seq.history_count = (uint32_t)rng_below(&rng, HISTORY_MAX + 1);
        seq.history_prompt = (uint32_t)rng_below(&rng, seq.history_count + 1);
        seq.bias_count = (uint32_t)rng_below(&rng, 5);
        if (rng_below(&rng, 2)) seq.repetition_penalty = 0.5f + (float)rng_below(&rng, 100) * 0.02f;
        if (rng_below(&rng, 2)) seq.presence_penalty = -2 + (float)rng_below(&rng, 100) * 0.04f;
        if (rng_below(&rng, 2)) seq.frequency_penalty = -2 + (float)rng_below(&rng, 100) * 0.04f;
        if (rng_below(&rng, 3) == 0) seq.top_p = 0.9f;
        for (uint32_t i = 0; i < seq.history_count; i++) history[i] = (uint32_t)rng_below(&rng, 40);
        for (uint32_t i = 0; i < seq.bias_count; i++) {
            biases[i] = (struct plan_bias){.token = (uint32_t)rng_below(&rng, VOCAB), .bias = 2};
        }
        fill_logits(&rng, logits, VOCAB, 2.0f);
        const struct sample_input input = {
            .logits = logits, .vocab_count = VOCAB, .seq = &seq, .history = history, .biases = biases};
        check_draws(sampler, &input, 8);

        struct sample_output output;
        struct plan_seq cold = seq;
        struct sample_input cold_input = input;
        cold.temperature = 0;
        cold_input.seq = &cold;
        uint32_t order[VOCAB];
        assert_int_equal(sample_token(sampler, &cold_input, &output), 0);
        naive_adjust(&cold_input, adjusted);
        order_by_logit(adjusted, VOCAB, order);
        assert_int_equal(output.token, order[0]);
    }
    sampler_free(sampler);
}

/* ---- log-probabilities ---- */

static void check_description(const struct sample_output *output, uint32_t vocab, uint32_t logprobs,
                              const uint32_t *order)
{
    double log_total = naive_log_total(logits, vocab);
    uint32_t rank = 1, expected_tops = logprobs < vocab ? logprobs : vocab;
    while (order[rank - 1] != output->token) rank++;
    assert_int_equal(output->rank, rank);
    assert_true(fabs(output->logprob - (logits[output->token] - log_total)) < 2e-6 * (1 - output->logprob));
    assert_int_equal(output->top_count, expected_tops);
    for (uint32_t i = 0; i < expected_tops; i++) {
        assert_int_equal(output->tops[i].token, order[i]);
        double expected = logits[order[i]] - log_total;
        assert_true(fabs(output->tops[i].logprob - expected) < 2e-6 * (1 - expected));
    }
}

static void test_sample_logprobs_are_raw(void **state)
{
    static const uint32_t vocabs[] = {1, 3, 19, 64, 1000, 49152};
    static uint32_t order[VOCAB_MAX];
    (void)state;
    struct rng rng = {.state = seed + 2};
    for (size_t v = 0; v < COUNT_OF(vocabs); v++) {
        uint32_t vocab = vocabs[v];
        struct sampler *sampler;
        assert_int_equal(sampler_new(vocab, &sampler), 0);
        for (int round = 0; round < 10; round++) {
            struct sample_output output;
            struct plan_seq seq = plain_seq();
            fill_logits(&rng, logits, vocab, 3.0f);
            for (uint32_t i = 0; i < vocab / 4; i++) {
                logits[rng_below(&rng, vocab)] = logits[rng_below(&rng, vocab)];
            }
            order_by_logit(logits, vocab, order);
            seq.seed = rng_next(&rng);
            seq.temperature = 1.5f; // must not show
            seq.bias_count = 1;
            seq.logprobs = (uint32_t)rng_below(&rng, LOGPROBS_MAX + 1);
            const struct plan_bias bias = {.token = 0, .bias = 20};
            const struct sample_input input = {
                .logits = logits, .vocab_count = vocab, .seq = &seq, .biases = &bias};
            assert_int_equal(sample_token(sampler, &input, &output), 0);
            check_description(&output, vocab, seq.logprobs, order);
            uint32_t target = (uint32_t)rng_below(&rng, vocab);
            assert_int_equal(sample_score(sampler, logits, vocab, target, 20, &output), 0);
            assert_int_equal(output.token, target);
            check_description(&output, vocab, 20, order);
        }
        sampler_free(sampler);
    }
}

static void test_sample_refuses_what_is_not_finite(void **state)
{
    (void)state;
    struct sampler *sampler;
    struct sample_output output;
    struct plan_seq seq = plain_seq();
    const struct sample_input input = {.logits = logits, .vocab_count = 333, .seq = &seq};
    assert_int_equal(sampler_new(333, &sampler), 0);
    const uint32_t places[] = {0, 7, 100, 319, 320, 332};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        for (uint32_t k = 0; k < 333; k++) logits[k] = (float)k * 0.1f;
        logits[places[i]] = NAN;
        assert_int_equal(sample_token(sampler, &input, &output), ERR_FORMAT);
        assert_int_equal(sample_score(sampler, logits, 333, 1, 0, &output), ERR_FORMAT);
        logits[places[i]] = INFINITY;
        assert_int_equal(sample_token(sampler, &input, &output), ERR_FORMAT);
        logits[places[i]] = -INFINITY; // a banned token is fine
        assert_int_equal(sample_token(sampler, &input, &output), 0);
        assert_int_not_equal(output.token, places[i]);
    }
    for (uint32_t k = 0; k < 333; k++) logits[k] = -INFINITY;
    assert_int_equal(sample_token(sampler, &input, &output), ERR_FORMAT);
    sampler_free(sampler);
}

/* ---- scan ---- */

static void test_scan_weight_is_accurate(void **state)
{
    (void)state;
    double worst = 0;
    for (double x = 0; x > -86.9; x -= 0.00137) {
        float rounded = (float)x;
        double error = fabs(scan_weight(rounded, 0, 1) / exp(rounded) - 1);
        worst = fmax(worst, error / (3e-7 - 1e-7 * x));
    }
    printf("weight: %.3f of the error allowed\n", worst);
    assert_true(worst < 1);
    assert_true(scan_weight(5, 5, 0.3f) == 1);
    assert_true(scan_weight(-INFINITY, 5, 1) == 0);
    assert_true(scan_weight(-1000, 5, 1) == 0);
    assert_true(isnan(scan_weight(NAN, 5, 1)));
}

/* The copy for this machine must do what the plain one does: sums rebuilt from scan_weight in the same order. */
static void test_scan_sums_are_the_same_on_every_machine(void **state)
{
    (void)state;
    struct rng rng = {.state = seed + 3};
    const uint32_t count = 1000;
    double sums[16];
    float maxima[16];
    fill_logits(&rng, logits, count, 4.0f);
    float max = scan_maxima(logits, count, maxima);
    double total = scan_sums(logits, count, max, 0.7f, sums), expected_total = 0;
    for (uint32_t block = 0; block < scan_blocks(count); block++) {
        float lanes[2][8] = {{0}}, block_max = -INFINITY;
        for (uint32_t i = 0; i < SCAN_BLOCK; i++) {
            uint32_t at = block * SCAN_BLOCK + i;
            float value = at < count ? logits[at] : -INFINITY;
            block_max = fmaxf(block_max, value);
            lanes[i / 8 % 2][i % 8] += scan_weight(value, max, 0.7f);
        }
        double sum = 0;
        for (int lane = 0; lane < 8; lane++) sum += (double)lanes[0][lane] + (double)lanes[1][lane];
        assert_true(maxima[block] == block_max);
        assert_true(sums[block] == sum);
        expected_total += sum;
    }
    assert_true(total == expected_total);

    const float threshold = max - 5;
    struct scan_above above = scan_above(logits, count, maxima, threshold, max, 0.7f);
    uint32_t expected_count = 0;
    double expected_mass = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (logits[i] < threshold) continue;
        expected_count++;
        expected_mass += (double)scan_weight(logits[i], max, 0.7f);
    }
    assert_int_equal(above.count, expected_count);
    assert_true(fabs(above.mass / expected_mass - 1) < 1e-6); // another order of sums
}

int main(void)
{
    const char *text = getenv("KVASIR_SEED");
    seed = text ? strtoull(text, NULL, 0) : 20250103;
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_draws_are_those_of_the_naive_sampler),
        cmocka_unit_test(test_sample_frequencies_fit_the_distribution),
        cmocka_unit_test(test_sample_draw_depends_on_seed_and_position_only),
        cmocka_unit_test(test_sample_greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(test_sample_bias_moves_and_bans),
        cmocka_unit_test(test_sample_tiny_temperature_is_greedy),
        cmocka_unit_test(test_sample_penalties_are_those_of_the_naive_sampler),
        cmocka_unit_test(test_sample_logprobs_are_raw),
        cmocka_unit_test(test_sample_refuses_what_is_not_finite),
        cmocka_unit_test(test_scan_weight_is_accurate),
        cmocka_unit_test(test_scan_sums_are_the_same_on_every_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* sample - see sample.h.
 *
 * Nothing sorts the vocabulary unless the distribution is so flat that most of it is wanted. Selection
 * rests on one fact: with the row in blocks of 64, at least k elements reach the k-th largest of the
 * blocks' maxima, so the k likeliest are among the elements that do, and only blocks whose maximum does
 * need to be looked at (scan.h). The nucleus of top_p is cut from 64 such candidates; where their mass is
 * short, and for a k above the number of blocks, a threshold is found by halving. */
#include "worker/sample.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "worker/scan.h"

#define TEMPERATURE_MIN 1e-5f // below: greedy, as vLLM does

#define WEIGHTS_END 87.0f // exp(-87) is the last weight that is not 0

enum {
    NUCLEUS_FIRST = 64,   // candidates of the first try
    THRESHOLD_ROUNDS = 9, // halvings of WEIGHTS_END: to 0.34 in the exponent
};

#define MARK_SEEN 0x80000000u // in sampler.marks: repetition penalty applied; below it, output count

struct sampler {
    uint32_t vocab_count;
    float *raw_maxima, *maxima; // (blocks) of the raw and of the penalized row
    double *raw_sums, *sums;    // (blocks)
    float *adjusted;            // (vocab_count) row after penalties and bias
    uint64_t *keys, *scratch;   // (vocab_count)
    float *weights;             // (vocab_count) of the candidates
    uint32_t *marks;            // (vocab_count) zero between calls
};

/* A row after penalties, and the temperature. */
struct row {
    const float *logits; // (vocab_count)
    const float *maxima;
    float max;
    float scale;        // 1 / temperature
    const double *sums; // after weigh_all: (blocks) weights of each block
    double total;       // of all weights
};

void sampler_free(struct sampler *sampler)
{
    if (!sampler) return;
    free(sampler->raw_maxima);
    free(sampler->maxima);
    free(sampler->raw_sums);
    free(sampler->sums);
    free(sampler->adjusted);
    free(sampler->keys);
    free(sampler->scratch);
    free(sampler->weights);
    free(sampler->marks);
    free(sampler);
}

int sampler_new(uint32_t vocab_count, struct sampler **ret_sampler)
{
    CHECK(vocab_count > 0);
    uint32_t blocks = scan_blocks(vocab_count);
    struct sampler *sampler = calloc(1, sizeof(*sampler));
    if (!sampler) return -ENOMEM;
    sampler->vocab_count = vocab_count;
    sampler->raw_maxima = calloc(blocks, sizeof(*sampler->raw_maxima));
    sampler->maxima = calloc(blocks, sizeof(*sampler->maxima));
    sampler->raw_sums = calloc(blocks, sizeof(*sampler->raw_sums));
    sampler->sums = calloc(blocks, sizeof(*sampler->sums));
    sampler->adjusted = calloc(vocab_count, sizeof(*sampler->adjusted));
    sampler->keys = calloc(vocab_count, sizeof(*sampler->keys));
    sampler->scratch = calloc(vocab_count, sizeof(*sampler->scratch));
    sampler->weights = calloc(vocab_count, sizeof(*sampler->weights));
    sampler->marks = calloc(vocab_count, sizeof(*sampler->marks));
    if (!sampler->raw_maxima || !sampler->maxima || !sampler->raw_sums || !sampler->sums ||
        !sampler->adjusted || !sampler->keys || !sampler->scratch || !sampler->weights || !sampler->marks) {
        sampler_free(sampler);
        return -ENOMEM;
    }
    *ret_sampler = sampler;
    return 0;
}

/* ---- raw log-probabilities ---- */

/* The raw row: its maximum, and total = sum(exp(logits - max)). */
struct raw {
    float max;
    double total, log_total;
};

static int scan_raw(struct sampler *sampler, const float *logits, struct raw *ret_raw)
{
    float max = scan_maxima(logits, sampler->vocab_count, sampler->raw_maxima);
    double total = scan_sums(logits, sampler->vocab_count, max, 1.0f, sampler->raw_sums);
    if (!isfinite(total)) return ERR_FORMAT; // NaN in the row, or max is infinite: inf - inf
    *ret_raw = (struct raw){.max = max, .total = total, .log_total = log(total)};
    return 0;
}

static float logprob_of(const struct raw *raw, float logit)
{
    return (float)fmin(((double)logit - raw->max) - raw->log_total, 0);
}

static void describe(struct sampler *sampler, const float *logits, const struct raw *raw, uint32_t token,
                     uint32_t logprobs, struct sample_output *output)
{
    const uint32_t vocab_count = sampler->vocab_count;
    output->token = token;
    output->logprob = logprob_of(raw, logits[token]);
    output->rank = 1 + scan_rank(logits, vocab_count, sampler->raw_maxima, token);
    output->top_count = 0;
    if (logprobs == 0) return;
    CHECK(logprobs <= LOGPROBS_MAX);
    float threshold = scan_threshold(sampler->raw_maxima, vocab_count, logprobs, sampler->keys,
                                     sampler->scratch);
    uint32_t found = scan_gather(logits, vocab_count, sampler->raw_maxima, threshold, sampler->keys);
    scan_sort(sampler->keys, found, sampler->scratch);
    output->top_count = found < logprobs ? found : logprobs;
    for (uint32_t i = 0; i < output->top_count; i++) {
        uint32_t id = scan_key_index(sampler->keys[i]);
        output->tops[i] = (struct done_top){.token = id, .logprob = logprob_of(raw, logits[id])};
    }
}

/* ---- penalties and bias ---- */

/* Keeps what a penalty or bias made within the floats: NaN (infinity minus infinity) counts as banned. */
static float bounded(float logit)
{
    return isnan(logit) ? -INFINITY : fminf(logit, FLT_MAX);
}

/* Each token once: repetition divides what is positive and multiplies what is not (Keskar et al. 2019, as
 * vLLM applies it); then frequency times its count in the output, and presence once (OpenAI). */
static void penalize(struct sampler *sampler, const struct sample_input *input)
{
    const struct plan_seq *seq = input->seq;
    float *logits = sampler->adjusted;
    uint32_t *marks = sampler->marks;
    for (uint32_t i = 0; i < seq->history_count; i++) {
        uint32_t token = input->history[i];
        CHECK(token < sampler->vocab_count);
        if (!(marks[token] & MARK_SEEN)) {
            marks[token] |= MARK_SEEN;
            float penalty = seq->repetition_penalty;
            logits[token] = bounded(logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty);
        }
        if (i >= seq->history_prompt) marks[token]++;
    }
    for (uint32_t i = 0; i < seq->history_count; i++) {
        uint32_t token = input->history[i], count = marks[token] & ~MARK_SEEN;
        marks[token] = 0;
        if (count == 0) continue;
        float penalty = seq->frequency_penalty * (float)count + seq->presence_penalty;
        logits[token] = bounded(logits[token] - penalty);
    }
}

/* The row to draw from: the raw one where nothing changes it. */
static void adjust(struct sampler *sampler, const struct sample_input *input, const struct raw *raw,
                   struct row *ret_row)
{
    const struct plan_seq *seq = input->seq;
    bool penalties = seq->history_count > 0 && (seq->repetition_penalty != 1 || seq->presence_penalty != 0 ||
                                                seq->frequency_penalty != 0);
    *ret_row = (struct row){.logits = input->logits, .maxima = sampler->raw_maxima, .max = raw->max};
    if (!penalties && seq->bias_count == 0) return;
    memcpy(sampler->adjusted, input->logits, sampler->vocab_count * sizeof(float));
    if (penalties) penalize(sampler, input);
    for (uint32_t i = 0; i < seq->bias_count; i++) {
        uint32_t token = input->biases[i].token;
        CHECK(token < sampler->vocab_count);
        sampler->adjusted[token] = bounded(sampler->adjusted[token] + input->biases[i].bias);
    }
    ret_row->logits = sampler->adjusted;
    ret_row->maxima = sampler->maxima;
    ret_row->max = scan_maxima(sampler->adjusted, sampler->vocab_count, sampler->maxima);
}

/* ---- drawing ---- */

static float weight_of(const struct row *row, uint32_t token)
{
    return scan_weight(row->logits[token], row->max, row->scale);
}

/* Weights of the whole row; those of the raw row are known already. */
static void weigh_all(struct sampler *sampler, const struct raw *raw, struct row *row)
{
    if (row->maxima == sampler->raw_maxima && row->scale == 1) {
        row->sums = sampler->raw_sums;
        row->total = raw->total;
    } else {
        row->sums = sampler->sums;
        row->total = scan_sums(row->logits, sampler->vocab_count, row->max, row->scale, sampler->sums);
    }
}

/* Draws from the whole vocabulary: the block by the blocks' sums, then the token within it, by id. */
static uint32_t draw_all(const struct sampler *sampler, const struct row *row, double unit)
{
    double target = unit * row->total, before = 0;
    uint32_t block = 0, blocks = scan_blocks(sampler->vocab_count), token = UINT32_MAX;
    while (block + 1 < blocks && before + row->sums[block] <= target) before += row->sums[block++];
    /* Rounding may carry the target past the last weight: then the last token that has any is taken. */
    while (block > 0 && row->sums[block] == 0) block--;
    for (uint32_t i = block * SCAN_BLOCK; i < sampler->vocab_count && i < (block + 1) * SCAN_BLOCK; i++) {
        float weight = weight_of(row, i);
        if (weight == 0) continue;
        token = i;
        before += (double)weight;
        if (before > target) break;
    }
    CHECK(token != UINT32_MAX);
    return token;
}

/* Puts the tokens >= threshold that are not banned into keys, likeliest first. Returns how many. */
static uint32_t take_above(struct sampler *sampler, const struct row *row, float threshold)
{
    uint32_t found = scan_gather(row->logits, sampler->vocab_count, row->maxima, threshold, sampler->keys);
    scan_sort(sampler->keys, found, sampler->scratch);
    return found;
}

/* A threshold that at least k tokens with at least that mass reach, not far below the highest such one:
 * halving between the maximum and where weights end. -INFINITY when there are not that many above. */
static float find_threshold(const struct sampler *sampler, const struct row *row, uint32_t k, double mass)
{
    float low = row->max - WEIGHTS_END / row->scale, high = row->max;
    for (int round = 0; round < THRESHOLD_ROUNDS; round++) {
        float middle = round == 0 ? low : low + (high - low) / 2;
        struct scan_above above = scan_above(row->logits, sampler->vocab_count, row->maxima, middle, row->max,
                                             row->scale);
        bool is_enough = above.count >= k && above.mass >= mass;
        if (round == 0 && !is_enough) return -INFINITY;
        if (is_enough) low = middle;
        else high = middle;
        if (is_enough && above.count <= 2 * k) break; // close enough to sort
    }
    return low;
}

/* Puts at least the k likeliest tokens (fewer when more are banned) into keys, likeliest first. */
static uint32_t select_likeliest(struct sampler *sampler, const struct row *row, uint32_t k)
{
    if (k > scan_blocks(sampler->vocab_count))
        return take_above(sampler, row, find_threshold(sampler, row, k, 0));
    return take_above(sampler, row,
                      scan_threshold(row->maxima, sampler->vocab_count, k, sampler->keys, sampler->scratch));
}

/* Weights of the sorted candidates. Returns how many come before their mass reaches `mass`, that one
 * included, or UINT32_MAX when it does not. */
static uint32_t weigh(struct sampler *sampler, const struct row *row, uint32_t count, double mass)
{
    double sum = 0;
    uint32_t enough = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        sampler->weights[i] = weight_of(row, scan_key_index(sampler->keys[i]));
        sum += (double)sampler->weights[i];
        if (enough == UINT32_MAX && sum >= mass) enough = i + 1;
    }
    return enough;
}

/* Puts the likeliest tokens whose weights reach mass into keys. Returns how many it takes. */
static uint32_t select_nucleus(struct sampler *sampler, const struct row *row, double mass)
{
    uint32_t count = select_likeliest(sampler, row, NUCLEUS_FIRST);
    uint32_t enough = weigh(sampler, row, count, mass);
    if (enough != UINT32_MAX) return enough;
    count = take_above(sampler, row, find_threshold(sampler, row, NUCLEUS_FIRST, mass));
    enough = weigh(sampler, row, count, mass);
    if (enough != UINT32_MAX) return enough;
    count = take_above(sampler, row, -INFINITY); // rounding of sums in another order: mass is nearly all
    enough = weigh(sampler, row, count, mass);
    return enough < count ? enough : count;
}

static bool limits_k(const struct sampler *sampler, const struct plan_seq *seq)
{
    return seq->top_k > 0 && (uint32_t)seq->top_k < sampler->vocab_count;
}

/* Candidates in keys, their weights in weights, likeliest first. */
static uint32_t select_candidates(struct sampler *sampler, const struct row *row, const struct plan_seq *seq)
{
    uint32_t count;
    if (limits_k(sampler, seq)) {
        count = select_likeliest(sampler, row, (uint32_t)seq->top_k);
        if (count > (uint32_t)seq->top_k) count = (uint32_t)seq->top_k;
        (void)weigh(sampler, row, count, INFINITY); // for the weights
        if (seq->top_p < 1) {
            double total = 0;
            for (uint32_t i = 0; i < count; i++) total += (double)sampler->weights[i];
            uint32_t enough = weigh(sampler, row, count, (double)seq->top_p * total);
            if (enough < count) count = enough;
        }
    } else if (seq->top_p < 1) {
        count = select_nucleus(sampler, row, (double)seq->top_p * row->total);
    } else {
        /* min_p alone: exp((logit - max) * scale) >= min_p, with room for rounding; cut exactly below. */
        float threshold = row->max + (logf(seq->min_p) - 1e-3f) / row->scale;
        count = scan_gather(row->logits, sampler->vocab_count, row->maxima, threshold, sampler->keys);
        scan_sort(sampler->keys, count, sampler->scratch);
        (void)weigh(sampler, row, count, INFINITY); // for the weights
    }
    while (count > 1 && sampler->weights[count - 1] < seq->min_p) count--;
    return count;
}

static uint32_t draw_candidate(const struct sampler *sampler, uint32_t count, double unit)
{
    double total = 0, before = 0;
    for (uint32_t i = 0; i < count; i++) total += (double)sampler->weights[i];
    uint32_t chosen = 0; // the likeliest has weight 1
    for (uint32_t i = 0; i < count; i++) {
        if (sampler->weights[i] == 0) break;
        chosen = i;
        before += (double)sampler->weights[i];
        if (before > unit * total) break;
    }
    return scan_key_index(sampler->keys[chosen]);
}

static uint32_t draw(struct sampler *sampler, const struct sample_input *input, const struct raw *raw,
                     struct row *row)
{
    const struct plan_seq *seq = input->seq;
    double unit = rng_unit_at(seq->seed, input->position, 0);
    bool by_k = limits_k(sampler, seq), by_p = seq->top_p<1, by_min = seq->min_p> 0;
    if (!by_k && (by_p || !by_min)) weigh_all(sampler, raw, row);
    if (!by_k && !by_p && !by_min) return draw_all(sampler, row, unit);
    uint32_t count = select_candidates(sampler, row, seq);
    CHECK(count > 0);
    return draw_candidate(sampler, count, unit);
}

int sample_token(struct sampler *sampler, const struct sample_input *input, struct sample_output *ret_output)
{
    CHECK(input->vocab_count == sampler->vocab_count);
    struct raw raw;
    struct row row;
    int r = scan_raw(sampler, input->logits, &raw);
    if (r < 0) return r;
    adjust(sampler, input, &raw, &row);
    uint32_t token;
    if (row.max == -INFINITY) {
        token = 0; // every token is banned
    } else if (input->seq->temperature < TEMPERATURE_MIN) {
        token = scan_find(row.logits, sampler->vocab_count, row.maxima, row.max);
    } else {
        row.scale = 1 / input->seq->temperature;
        token = draw(sampler, input, &raw, &row);
    }
    describe(sampler, input->logits, &raw, token, input->seq->logprobs, ret_output);
    return 0;
}

int sample_score(struct sampler *sampler, const float *logits, uint32_t vocab_count, uint32_t target,
                 uint32_t logprobs, struct sample_output *ret_output)
{
    CHECK(vocab_count == sampler->vocab_count);
    CHECK(target < vocab_count);
    struct raw raw;
    int r = scan_raw(sampler, logits, &raw);
    if (r < 0) return r;
    describe(sampler, logits, &raw, target, logprobs, ret_output);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* sample - one row of logits and its parameters -> one token. Pure; no state between calls, random numbers
 * from rng_unit_at(seed, position, 0), so that a replayed request draws the same tokens.
 *
 * Order: raw log-probabilities are taken first (what `logprobs` reports); then repetition penalty over
 * prompt and output, presence and frequency penalties over the output; logit bias; temperature; top_k;
 * top_p of what top_k left; min_p; draw. Equal logits are ordered by id, lowest first, everywhere.
 * Temperature below 1e-5 is argmax after penalties and bias. A row whose every token is banned gives
 * token 0. ERR_FORMAT for logits that are NaN, +infinity, or all -infinity: a fault of the model. */
#ifndef KVASIR_WORKER_SAMPLE_H
#define KVASIR_WORKER_SAMPLE_H

#include <stdint.h>

#include "common/ipc/plan.h"

struct sample_input {
    const float *logits; // (vocab_count)
    uint32_t vocab_count;
    const struct plan_seq *seq;     // parameters
    uint64_t position;              // of the token drawn
    const uint32_t *history;        // (seq->history_count)
    const struct plan_bias *biases; // (seq->bias_count)
};

struct sample_output {
    uint32_t token;
    float logprob; // raw
    uint32_t rank; // 1 = likeliest, raw
    uint32_t top_count;
    struct done_top tops[LOGPROBS_MAX]; // likeliest first, ties to the lowest id
};

struct sampler; // scratch of one thread
int sampler_new(uint32_t vocab_count, struct sampler **ret_sampler);
void sampler_free(struct sampler *sampler);

int sample_token(struct sampler *sampler, const struct sample_input *input, struct sample_output *ret_output);
/* Log-probability, rank and alternatives of a given target under the raw logits. */
int sample_score(struct sampler *sampler, const float *logits, uint32_t vocab_count, uint32_t target,
                 uint32_t logprobs, struct sample_output *ret_output);

#endif

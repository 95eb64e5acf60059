/* SPDX-License-Identifier: Apache-2.0 */
/* sample - one row of logits and its parameters -> one token. Pure; no state between calls, random numbers
 * from rng_unit_at(seed, position, 0), so that a replayed request draws the same tokens.
 *
 * Order: raw log-probabilities are taken first (what `logprobs` reports); then repetition, presence and
 * frequency penalties over the history; logit bias; temperature; top_k; top_p; min_p; draw. Temperature 0
 * is argmax after penalties and bias, ties to the lowest id. NaN logits: ERR_FORMAT. */
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

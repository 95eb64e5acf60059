/* SPDX-License-Identifier: Apache-2.0 */
/* perplexity - the windows of a text and the sum over what a server says of their tokens. Pure: no I/O.
 *
 * Window w is tokens [w * stride, w * stride + context) of the text. Each is scored alone: its first `skip` tokens
 * give context only, of the others the server tells the log-probability given all tokens of the window before.
 * An incomplete window at the end is left out.
 *
 *     text    ................................................
 *     w = 0   [ skip |    scored   ]
 *     w = 1              [ skip |    scored   ]        stride apart
 *
 * stride = context, skip = context / 2 + 1 scores what llama-perplexity scores; skip = 1 all that can be; stride =
 * context - skip each token of the text once (but the first `skip`). */
#ifndef KVASIR_CLIENT_PERPLEXITY_H
#define KVASIR_CLIENT_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#include "client/kvasir.h"

struct perplexity {
    size_t context, stride, skip; // tokens; 0 < skip < context
    uint64_t scored;              // tokens so far
    double nll_sum, square_sum;   // of their negative log-probabilities, in nats
};

/* Complete windows in token_count tokens. */
size_t perplexity_windows(const struct perplexity *perplexity, size_t token_count);

/* Adds a window whose tokens were sent with prompt_logprobs. answer_json: the server's body, vLLM's shape:
 * choices[0].prompt_logprobs = [null, {"ID": {"logprob": X, ...}, ...}, ...]. KVASIR_ERR_PROTOCOL when it does not
 * tell of these tokens; nothing is added then. */
int perplexity_add(struct perplexity *perplexity, const int32_t *tokens, const char *answer_json,
                   struct kvasir_error *error);

/* Mean negative log-likelihood of a token, and its standard error; both in nats, scored > 0. The error takes tokens
 * for independent, as is usual. */
double perplexity_mean(const struct perplexity *perplexity);
double perplexity_mean_error(const struct perplexity *perplexity);

#endif

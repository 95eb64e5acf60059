/* SPDX-License-Identifier: Apache-2.0 */
/* perplexity - see perplexity.h. */
#include "client/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/answer.h"
#include "client/fail.h"
#include "common/base/check.h"

size_t perplexity_windows(const struct perplexity *perplexity, size_t token_count)
{
    CHECK(perplexity->stride > 0);
    if (token_count < perplexity->context) return 0;
    return (token_count - perplexity->context) / perplexity->stride + 1;
}

/* What one entry says of a token. */
static int read_logprob(const cJSON *entry, int32_t token, double *ret_logprob)
{
    char name[16];
    (void)snprintf(name, sizeof(name), "%" PRId32, token); // fits
    const cJSON *told = cJSON_GetObjectItemCaseSensitive(entry, name);
    const cJSON *logprob = cJSON_GetObjectItemCaseSensitive(told, "logprob");
    if (!cJSON_IsNumber(logprob) || !isfinite(logprob->valuedouble)) return KVASIR_ERR_PROTOCOL;
    *ret_logprob = logprob->valuedouble;
    return 0;
}

static int add_scores(struct perplexity *perplexity, const int32_t *tokens, const cJSON *json,
                      struct kvasir_error *error)
{
    const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "choices"), 0);
    const cJSON *scores = cJSON_GetObjectItemCaseSensitive(choice, "prompt_logprobs");
    if (!cJSON_IsArray(scores))
        return fail(error, KVASIR_ERR_PROTOCOL, "the server does not tell prompt_logprobs");
    struct perplexity sum = *perplexity;
    size_t i = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, scores)
    {
        double logprob;
        if (i >= perplexity->context) break;
        if (i >= perplexity->skip) {
            if (read_logprob(entry, tokens[i], &logprob) < 0)
                return fail(error, KVASIR_ERR_PROTOCOL, "prompt_logprobs: nothing of token %zu", i);
            sum.scored++;
            sum.nll_sum -= logprob;
            sum.square_sum += logprob * logprob;
        }
        i++;
    }
    if (i < perplexity->context)
        return fail(error, KVASIR_ERR_PROTOCOL, "prompt_logprobs: %zu tokens of %zu", i, perplexity->context);
    *perplexity = sum;
    return 0;
}

int perplexity_add(struct perplexity *perplexity, const int32_t *tokens, const char *answer_json,
                   struct kvasir_error *error)
{
    CHECK(perplexity->skip > 0 && perplexity->skip < perplexity->context);
    cJSON *json = NULL;
    int r = answer_parse(answer_json, strlen(answer_json), "/v1/completions", &json, error);
    if (r == 0) r = add_scores(perplexity, tokens, json, error);
    cJSON_Delete(json);
    return r;
}

double perplexity_mean(const struct perplexity *perplexity)
{
    CHECK(perplexity->scored > 0);
    return perplexity->nll_sum / (double)perplexity->scored;
}

double perplexity_mean_error(const struct perplexity *perplexity)
{
    double mean = perplexity_mean(perplexity), count = (double)perplexity->scored;
    double variance = perplexity->square_sum / count - mean * mean;
    return perplexity->scored > 1 && variance > 0 ? sqrt(variance / (count - 1)) : 0;
}

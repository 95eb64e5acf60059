/* SPDX-License-Identifier: Apache-2.0 */
/* sampling - the request options that chat and complete share. */
#ifndef KVASIR_CLIENT_SAMPLING_H
#define KVASIR_CLIENT_SAMPLING_H

#include "client/kvasir.h"
#include "client/opts.h"

struct sampling {
    const char *model;
    struct kvasir_maybe_int max_tokens, top_k, seed;
    struct kvasir_maybe_double temperature, top_p, min_p;
    const char *extra_json;
};

#define SAMPLING_OPTS(s) \
    {NULL, OPT_FLAG, NULL, NULL, "Answer:", 0, 0}, \
        {"model", OPT_TEXT, "NAME", &(s)->model, "a model of the server (its own by default)", 0, 0}, \
        {"max-tokens", OPT_INT, "N", &(s)->max_tokens, "longest answer", 1, INT32_MAX}, \
        {"temperature", OPT_REAL, "T", &(s)->temperature, "0 takes the likeliest token always", 0, 0}, \
        {"top-p", OPT_REAL, "P", &(s)->top_p, "keep the likeliest tokens up to this sum", 0, 0}, \
        {"top-k", OPT_INT, "N", &(s)->top_k, "keep the N likeliest tokens", -1, INT32_MAX}, \
        {"min-p", OPT_REAL, "P", &(s)->min_p, "keep tokens of at least this share of the likeliest", 0, 0}, \
        {"seed", OPT_INT, "N", &(s)->seed, "the same seed gives the same answer", INT64_MIN, INT64_MAX}, \
    { \
        "extra", OPT_TEXT, "JSON", &(s)->extra_json, "more request fields, as a JSON object", 0, 0 \
    }

static inline struct kvasir_request sampling_request(const struct sampling *sampling)
{
    return (struct kvasir_request){
        .size = sizeof(struct kvasir_request),
        .model = sampling->model,
        .max_tokens = sampling->max_tokens,
        .temperature = sampling->temperature,
        .top_p = sampling->top_p,
        .top_k = sampling->top_k,
        .min_p = sampling->min_p,
        .seed = sampling->seed,
        .extra_json = sampling->extra_json,
    };
}

#endif

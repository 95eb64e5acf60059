/* SPDX-License-Identifier: Apache-2.0 */
/* params - the body of a completion or chat request, verified field by field before anything is computed.
 *
 * Numbers stand in one table of ranges. null counts as absent. Unknown fields are accepted (clients send
 * vendor fields); known fields that this build does not act on are refused, never ignored in silence.
 * Strings and arrays are borrowed from the parsed JSON, which params own; what is not borrowed from it is freed
 * at once, and what a prompt is made from by params_drop_prompt, so that a waiting request is small. */
#ifndef KVASIR_DAEMON_PARAMS_H
#define KVASIR_DAEMON_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/ipc/plan.h"
#include "daemon/generation.h"

struct cJSON;

#define RETAIN_OUTPUT UINT32_MAX // first of a range: the output

enum params_kind { PARAMS_CHAT, PARAMS_COMPLETION };

struct params {
    enum params_kind kind;
    struct cJSON *json; // owned; only the fields that are borrowed below
    size_t json_bytes;  // about what the JSON takes in memory until params_drop_prompt
    const char *model;  // NULL: not named
    /* what to generate from */
    const struct cJSON *messages; // chat: verified array
    const struct cJSON *prompt;   // completion: string, array of strings, of ids, or of arrays of ids
    const struct cJSON *template_variables; // chat_template_kwargs or NULL
    bool add_generation_prompt, continue_final_message;
    bool add_special_tokens;
    const char *cache_salt;                         // NULL: none
    struct retain_range retains[RETAIN_RANGES_MAX]; // positions of the prompt, or from RETAIN_OUTPUT on
    uint32_t retain_count;
    /* how */
    struct plan_seq sampling; // sampling fields and logprobs
    bool seed_given;
    int32_t max_tokens; // -1: not given
    int32_t n, min_tokens;
    int32_t priority; // lower first
    float timeout_s;  // 0: not given
    bool ignore_eos, include_stop, skip_special;
    struct stop_string stops[STOP_MAX];
    uint32_t stop_count;
    uint32_t stop_tokens[STOP_MAX];
    uint32_t stop_token_count;
    struct plan_bias *biases; // owned, (bias_count)
    uint32_t bias_count;
    /* what to answer */
    bool stream, include_usage, continuous_usage;
    bool echo;
    bool logprobs;           // sampling.logprobs alternatives with each token
    int32_t prompt_logprobs; // -1: not asked
    bool return_token_ids, tokens_as_ids;
    bool return_token_strings; // tokenize
};

/* Error of a request, in vLLM's shape: the field at fault and the HTTP status. */
struct params_error {
    int status;        // 400, 404, 413, 422
    const char *field; // static or from the table; NULL when no single field is at fault
    struct err err;
};

/* Parses body (strict JSON). vocab_count bounds token ids. -> 0 or negative with *error filled. Status 413 for a
 * body of more than JSON_VALUES_MAX values, 500 when memory runs out, else 400. */
int params_parse(enum params_kind kind, const char *body, size_t len, uint32_t vocab_count,
                 struct params *ret_params, struct params_error *error);
void params_done(struct params *params); // a zeroed struct is fine

/* Frees messages, prompt and template_variables, once the prompts are made. */
void params_drop_prompt(struct params *params);

/* The hints for a prompt of so many tokens, as the scheduler counts positions. ret_ranges: (RETAIN_RANGES_MAX).
 * -> their number. */
uint32_t params_retains(const struct params *params, uint32_t prompt_count, struct retain_range *ret_ranges);

/* The prompts of a completion: count, and prompt number i as text or ids. */
uint32_t params_prompt_count(const struct params *params);
const struct cJSON *params_prompt_at(const struct params *params, uint32_t prompt_idx);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/generation.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"

enum { TEXT_BYTES_MAX = 1 << 20 }; // held text of one update; a token has at most a few hundred bytes

struct generation {
    struct engine *engine; // borrowed
    const struct tokenizer *tokenizer;
    generation_update_fn on_update;
    void *owner;
    uint64_t seq_id; // 0: not in the engine any more
    struct detok detok;
    struct buf text; // decoded and not given out: may be the start of a stop string
    struct stop_string stops[STOP_MAX];
    char *stop_bytes; // owned; stops point into it
    uint32_t stop_count;
    size_t stop_bytes_max; // of the longest
    uint32_t stop_tokens[STOP_MAX];
    uint32_t stop_token_count;
    uint32_t output_count, output_max, min_tokens, cached_count;
    bool ignore_end, include_stop;
    bool busy, freed; // inside on_update; freed there
    uint64_t started_ns, admitted_ns, first_ns;
};

/* ---- starting ---- */

static int stops_copy(struct generation *generation, const struct generation_params *params)
{
    size_t total = 0;
    CHECK(params->stop_count <= STOP_MAX && params->stop_token_count <= STOP_MAX);
    for (uint32_t i = 0; i < params->stop_count; i++) total += params->stops[i].len;
    generation->stop_bytes = malloc(total + 1);
    if (!generation->stop_bytes) return -ENOMEM;
    char *at = generation->stop_bytes;
    for (uint32_t i = 0; i < params->stop_count; i++) {
        size_t len = params->stops[i].len;
        memcpy(at, params->stops[i].text, len);
        generation->stops[i] = (struct stop_string){at, len};
        if (len > generation->stop_bytes_max) generation->stop_bytes_max = len;
        at += len;
    }
    generation->stop_count = params->stop_count;
    generation->stop_token_count = params->stop_token_count;
    if (params->stop_token_count)
        memcpy(generation->stop_tokens, params->stop_tokens,
               params->stop_token_count * sizeof *params->stop_tokens);
    return 0;
}

/* The request's biases, then bans of everything that ends a generation, for min_tokens. */
static int biases_build(const struct generation *generation, const struct generation_params *params,
                        struct plan_bias **ret_biases, struct sched_request *request)
{
    size_t end_count = 0;
    const uint32_t *ends = tokenizer_ends(generation->tokenizer, &end_count);
    size_t bans = params->min_tokens ? end_count + params->stop_token_count : 0;
    if (params->bias_count + bans > LOGIT_BIAS_MAX) return ERR_LIMIT;
    struct plan_bias *biases = malloc((params->bias_count + bans + 1) * sizeof *biases);
    if (!biases) return -ENOMEM;
    uint32_t count = params->bias_count;
    if (count) memcpy(biases, params->biases, count * sizeof *biases);
    for (size_t i = 0; bans && i < end_count; i++) biases[count++] = (struct plan_bias){ends[i], -INFINITY};
    for (uint32_t i = 0; bans && i < params->stop_token_count; i++)
        biases[count++] = (struct plan_bias){params->stop_tokens[i], -INFINITY};
    request->biases = *ret_biases = biases;
    request->bias_count = count;
    request->min_output = params->min_tokens;
    request->min_bias_count = (uint32_t)bans;
    return 0;
}

static int sequence_submit(struct generation *generation, const struct generation_params *params)
{
    struct plan_bias *biases = NULL;
    const struct plan_seq *sampling = &params->sampling;
    struct sched_request request = {
        .prompt = params->prompt,
        .prompt_count = params->prompt_count,
        .output_max = params->output_max,
        .params = *sampling,
        .use_history = sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 ||
                       sampling->frequency_penalty != 0,
        .score_prompt = params->score_prompt,
        .priority = params->priority,
        .arrival_ns = params->arrival_ns,
        .deadline_ns = params->deadline_ns,
        .root_key = params->salt,
        .tenant = params->tenant,
        .retains = params->retains,
        .retain_count = params->retain_count,
        .owner = generation,
    };
    int r = biases_build(generation, params, &biases, &request);
    if (r == 0) r = engine_submit(generation->engine, &request, &generation->seq_id);
    free(biases);
    return r;
}

int generation_start(struct engine *engine, const struct tokenizer *tokenizer,
                     const struct generation_params *params, generation_update_fn on_update, void *owner,
                     struct generation **ret_generation)
{
    struct generation *generation = calloc(1, sizeof *generation);
    if (!generation) return -ENOMEM;
    generation->engine = engine;
    generation->tokenizer = tokenizer;
    generation->on_update = on_update;
    generation->owner = owner;
    generation->output_max = params->output_max;
    generation->min_tokens = params->min_tokens;
    generation->ignore_end = params->ignore_end;
    generation->include_stop = params->include_stop;
    generation->started_ns = clock_mono_ns();
    buf_init(&generation->text, TEXT_BYTES_MAX);
    detok_init(&generation->detok, tokenizer, params->skip_special);
    int r = stops_copy(generation, params);
    if (r == 0) r = sequence_submit(generation, params);
    if (r < 0) {
        generation_free(generation);
        return r;
    }
    *ret_generation = generation;
    return 0;
}

static void sequence_remove(struct generation *generation)
{
    if (generation->seq_id == 0) return;
    engine_remove(generation->engine, generation->seq_id);
    generation->seq_id = 0;
}

void generation_free(struct generation *generation)
{
    if (!generation) return;
    sequence_remove(generation);
    if (generation->busy) {
        generation->freed = true; // the update in progress frees it
        return;
    }
    buf_done(&generation->text);
    free(generation->stop_bytes);
    free(generation);
}

void generation_pause(struct generation *generation, bool paused)
{
    if (generation->seq_id) engine_pause(generation->engine, generation->seq_id, paused);
}

uint32_t generation_output_count(const struct generation *generation)
{
    return generation->output_count;
}

uint32_t generation_cached_count(const struct generation *generation)
{
    return generation->cached_count;
}

uint64_t generation_started_ns(const struct generation *generation)
{
    return generation->started_ns;
}

uint64_t generation_admitted_ns(const struct generation *generation)
{
    return generation->admitted_ns;
}

uint64_t generation_first_ns(const struct generation *generation)
{
    return generation->first_ns;
}

/* ---- text and stops ---- */

/* The stop string in the held text that ends first, the longest of several; -1 when there is none. */
static int32_t stop_find(const struct generation *generation, size_t *ret_at)
{
    int32_t found = -1;
    size_t best_at = 0, best_end = SIZE_MAX;
    const char *text = buf_text(&generation->text);
    for (uint32_t i = 0; i < generation->stop_count; i++) {
        const struct stop_string *stop = &generation->stops[i];
        const char *match = memmem(text, generation->text.len, stop->text, stop->len);
        if (!match) continue;
        size_t at = (size_t)(match - text), end = at + stop->len;
        if (end > best_end || (end == best_end && at >= best_at)) continue;
        best_at = at;
        best_end = end;
        found = (int32_t)i;
    }
    *ret_at = best_at;
    return found;
}

/* Bytes at the end of the held text that may still become a stop string. */
static size_t stop_prefix_bytes(const struct generation *generation)
{
    size_t len = generation->text.len;
    const char *text = buf_text(&generation->text);
    size_t longest = generation->stop_bytes_max ? generation->stop_bytes_max - 1 : 0;
    for (size_t keep = longest < len ? longest : len; keep > 0; keep--)
        for (uint32_t i = 0; i < generation->stop_count; i++)
            if (generation->stops[i].len > keep &&
                memcmp(text + len - keep, generation->stops[i].text, keep) == 0)
                return keep;
    return 0;
}

static bool stop_token_matches(const struct generation *generation, uint32_t id)
{
    for (uint32_t i = 0; i < generation->stop_token_count; i++)
        if (generation->stop_tokens[i] == id) return true;
    return false;
}

/* Why the token itself ends the generation, if it does. */
static enum finish_reason token_finish(const struct generation *generation, uint32_t id, uint32_t *stop_token)
{
    bool end = !generation->ignore_end && tokenizer_is_end(generation->tokenizer, id);
    bool stop = stop_token_matches(generation, id);
    if (stop && !end) *stop_token = id;
    if (end || stop) return FINISH_STOP;
    return generation->output_count >= generation->output_max ? FINISH_LENGTH : FINISH_NONE;
}

/* Decides whether the token ends the generation, and how much of the held text may go out. */
static void token_judge(struct generation *generation, uint32_t id, struct generation_update *update)
{
    struct buf *text = &generation->text;
    update->finish = token_finish(generation, id, &update->stop_token);
    if (update->finish != FINISH_STOP || generation->include_stop)
        (void)detok_push(&generation->detok, id, text); // its error is sticky in text
    /* Before the stop strings are looked for: the end may complete one. */
    if (update->finish != FINISH_NONE) (void)detok_flush(&generation->detok, text); // as above
    if (text->error) {
        update->finish = FINISH_ERROR;
        return;
    }
    /* As vLLM: a stop string counts when it is completed past the first min_tokens tokens. */
    bool past_min = generation->output_count > generation->min_tokens || generation->min_tokens == 0;
    size_t at;
    int32_t stop = past_min ? stop_find(generation, &at) : -1;
    if (stop >= 0) {
        update->finish = FINISH_STOP;
        update->stop_idx = stop;
        update->stop_token = TOKEN_NONE;
        update->text_len = at + (generation->include_stop ? generation->stops[stop].len : 0);
        return;
    }
    update->text_len = text->len - (update->finish == FINISH_NONE ? stop_prefix_bytes(generation) : 0);
}

static void update_send(struct generation *generation, struct generation_update *update)
{
    update->text = buf_text(&generation->text);
    if (update->finish != FINISH_NONE) sequence_remove(generation);
    generation->busy = true;
    generation->on_update(generation->owner, update);
    generation->busy = false;
    if (generation->freed) {
        generation_free(generation);
        return;
    }
    buf_consume(&generation->text, update->text_len);
}

/* ---- events ---- */

static void token_event(struct generation *generation, const struct sched_event *event,
                        const struct done_top *tops)
{
    const struct done_seq *seq = event->seq;
    struct generation_token token = {
        .id = seq->token,
        .logprob = seq->logprob,
        .rank = seq->rank,
        .tops = tops + seq->top_first,
        .top_count = seq->top_count,
    };
    struct generation_update update = {.token = &token, .stop_token = TOKEN_NONE, .stop_idx = -1};
    if (generation->output_count++ == 0) generation->first_ns = clock_mono_ns();
    token_judge(generation, seq->token, &update);
    update_send(generation, &update);
}

void generation_event(const struct sched_event *event, const struct done_top *tops)
{
    struct generation *generation = event->owner;
    if (generation->seq_id != event->seq_id) return; // finished by an earlier event of the same step
    struct sched_seq_info info;
    engine_seq_info(generation->engine, generation->seq_id, &info);
    generation->cached_count = info.cached_count;
    generation->admitted_ns = info.admitted_ns;
    if (event->kind == SCHED_TOKEN) {
        token_event(generation, event, tops);
        return;
    }
    struct generation_update update = {.stop_token = TOKEN_NONE, .stop_idx = -1};
    if (event->kind == SCHED_FAILED) update.finish = FINISH_ERROR;
    if (event->kind == SCHED_EXPIRED) update.finish = FINISH_TIMEOUT;
    update.scores = event->scores;
    update.score_tops = tops;
    update.score_position = event->score_position;
    update.score_count = event->score_count;
    update_send(generation, &update);
}

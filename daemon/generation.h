/* SPDX-License-Identifier: Apache-2.0 */
/* generation - one generated choice: a sequence of the engine, its text, and why it ends.
 *
 * Tokens come in from the engine; out go updates with text that is complete UTF-8 and can no longer become part of
 * a stop string. Of several stop strings the one that is complete first wins, and of those the longest, so that the
 * answer does not depend on how the text falls into tokens. The generation removes its sequence from the engine
 * itself when it finishes. Loop thread only. */
#ifndef KVASIR_DAEMON_GENERATION_H
#define KVASIR_DAEMON_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/text/detok.h"
#include "common/text/tokenizer.h"
#include "daemon/engine.h"

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,    // an end token, a stop token or a stop string
    FINISH_LENGTH,  // max_tokens, or the context is full
    FINISH_ERROR,   // the worker could not compute it, or there is no memory for the text
    FINISH_TIMEOUT, // its deadline has come
};

struct generation_token {
    uint32_t id;
    float logprob;
    uint32_t rank;               // 1 = likeliest
    const struct done_top *tops; // (top_count), likeliest first; borrowed for the callback
    uint32_t top_count;
};

struct generation_update {
    const char *text; // (text_len) complete UTF-8 to append; may be empty
    size_t text_len;
    const struct generation_token *token; // the new output token; NULL in updates that carry only scores
    enum finish_reason finish;            // != FINISH_NONE: the last update
    int32_t stop_idx;                     // of the stop string that matched (FINISH_STOP), or -1
    uint32_t stop_token;                  // the stop token id of the request that matched, or TOKEN_NONE
    /* Prompt scores: of prompt tokens [score_position + 1, score_position + 1 + score_count). */
    const struct done_score *scores;
    const struct done_top *score_tops; // base that scores[i].top_first indexes
    uint32_t score_position, score_count;
};

struct stop_string {
    const char *text;
    size_t len; // > 0, at most STOP_BYTES_MAX
};

/* Everything is copied by generation_start. */
struct generation_params {
    const uint32_t *prompt;
    uint32_t prompt_count;
    uint32_t output_max;      // > 0
    struct plan_seq sampling; // seed, temperature, top_k, top_p, min_p, penalties, logprobs
    const struct plan_bias *biases;
    uint32_t bias_count;
    const struct stop_string *stops;
    uint32_t stop_count; // at most STOP_MAX
    const uint32_t *stop_tokens;
    uint32_t stop_token_count; // at most STOP_MAX
    uint32_t min_tokens;
    bool ignore_end;   // end tokens of the vocabulary do not stop (ignore_eos)
    bool include_stop; // the stop string, or the stop token's text, stays in the text
    bool skip_special; // special tokens give no text
    bool score_prompt;
    int32_t priority;                   // lower first
    uint64_t arrival_ns;                // of the request
    uint64_t deadline_ns;               // 0: none
    struct hash128 salt;                // keeps its cached prefixes apart from others'; zero: shared
    uint32_t tenant;                    // whose share of the cache they count in; 0: nobody's
    const struct retain_range *retains; // what they are worth afterwards
    uint32_t retain_count;
};

struct generation; // opaque

typedef void (*generation_update_fn)(void *owner, const struct generation_update *update);

/* Submits to the engine. ERR_FULL, ERR_LIMIT, -ENOMEM as engine_submit. on_update never fires before return. */
int generation_start(struct engine *engine, const struct tokenizer *tokenizer,
                     const struct generation_params *params, generation_update_fn on_update, void *owner,
                     struct generation **ret_generation);
/* Cancels when it still runs; no update follows. May be called inside on_update. NULL is fine. */
void generation_free(struct generation *generation);
void generation_pause(struct generation *generation, bool paused);

uint32_t generation_output_count(const struct generation *generation);
uint32_t generation_cached_count(const struct generation *generation); // prompt tokens from the cache
uint64_t generation_started_ns(const struct generation *generation);   // submitted
uint64_t generation_admitted_ns(const struct generation *generation);  // first computed; 0: no token yet
uint64_t generation_first_ns(const struct generation *generation);     // first output token; 0: not yet

/* The engine's on_event: hands an event to the generation it belongs to. */
void generation_event(const struct sched_event *event, const struct done_top *tops);

#endif

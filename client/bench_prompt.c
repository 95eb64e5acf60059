/* SPDX-License-Identifier: Apache-2.0 */
/* bench_prompt - prompts from a counter-based generator: position p of request i is rng_at(seed, p, lane
 * of i), so any request can be made alone and a rerun sends the same bytes. Words are short and common,
 * about one token each for the usual vocabularies; token ids are exact. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "client/bench.h"
#include "client/request.h"
#include "common/base/check.h"
#include "common/base/rng.h"

/* Below these lie the special and the byte tokens of the usual vocabularies. */
enum { TOKEN_ID_MIN = 300, LANE_SHARED = 0, LANE_PRIVATE = 1 };

static const char *const WORDS[] = {
    "time",   "year",  "people", "way",   "day",   "man",    "thing", "woman", "life",  "child", "world",
    "school", "state", "house",  "book",  "night", "water",  "room",  "hand",  "place", "case",  "week",
    "home",   "side",  "work",   "right", "word",  "fact",   "head",  "month", "story", "line",  "city",
    "name",   "team",  "minute", "idea",  "body",  "back",   "face",  "door",  "war",   "law",   "car",
    "air",    "force", "tree",   "road",  "river", "stone",  "light", "fire",  "green", "blue",  "white",
    "black",  "red",   "small",  "large", "old",   "new",    "good",  "long",  "great", "first", "last",
    "early",  "young", "high",   "open",  "see",   "come",   "think", "look",  "want",  "give",  "use",
    "find",   "tell",  "ask",    "feel",  "try",   "leave",  "call",  "keep",  "let",   "begin", "help",
    "show",   "hear",  "play",   "run",   "move",  "live",   "bring", "write", "sit",   "stand", "lose",
    "pay",    "meet",  "learn",  "lead",  "watch", "follow", "stop",  "speak", "read",  "spend", "grow",
    "walk",   "win",   "teach",  "offer", "love",  "buy",    "wait",  "serve", "send",  "build", "stay",
    "fall",   "reach", "cut",    "plan",  "kind",  "five",   "four",
};
_Static_assert(COUNT_OF(WORDS) == 128, "any number would do; this one leaves no modulo bias to think of");

static uint64_t draw(const struct bench_config *config, int64_t idx, int64_t at)
{
    uint32_t lane = at < config->shared_tokens ? LANE_SHARED : LANE_PRIVATE;
    uint64_t counter = (uint64_t)at;
    if (lane == LANE_PRIVATE)
        counter += (uint64_t)(idx + BENCH_REQUESTS_MAX) * BENCH_TOKENS_MAX; // idx may be negative
    return rng_at((uint64_t)config->seed, counter, lane);
}

static int make_tokens(const struct bench_config *config, int64_t idx, int32_t **ret_tokens)
{
    int32_t *tokens = calloc((size_t)config->prompt_tokens, sizeof(*tokens));
    if (tokens == NULL) return -ENOMEM;
    for (int64_t i = 0; i < config->prompt_tokens; i++)
        tokens[i] = (int32_t)(TOKEN_ID_MIN + draw(config, idx, i) % (uint64_t)(config->vocab - TOKEN_ID_MIN));
    *ret_tokens = tokens;
    return 0;
}

static int make_words(const struct bench_config *config, int64_t idx, struct buf *text)
{
    for (int64_t i = 0; i < config->prompt_tokens; i++) {
        if (i > 0) (void)buf_putc(text, ' '); // the error is sticky
        (void)buf_puts(text, WORDS[draw(config, idx, i) % COUNT_OF(WORDS)]);
    }
    return text->error;
}

int bench_prompt(const struct bench_config *config, int64_t idx, char **ret_body, struct kvasir_error *error)
{
    CHECK(config->prompt_tokens >= 1 && config->prompt_tokens <= BENCH_TOKENS_MAX);
    CHECK(config->vocab > TOKEN_ID_MIN);
    struct buf text;
    int32_t *tokens = NULL;
    struct kvasir_message message = {.role = "user"};
    struct kvasir_request request = {
        .size = sizeof(request),
        .model = config->model,
        .max_tokens = KVASIR_SOME(config->output_tokens),
        .temperature = KVASIR_SOME(config->temperature),
        .seed = KVASIR_SOME(config->seed + llabs(idx)), // some servers refuse negative ones
        .ignore_eos = config->is_ignore_eos,
    };
    buf_init(&text, 16 * (size_t)BENCH_TOKENS_MAX);
    int r = config->is_token_ids ? make_tokens(config, idx, &tokens) : make_words(config, idx, &text);
    if (config->is_chat) {
        message.content = buf_text(&text);
        request.messages = &message;
        request.message_count = 1;
    } else if (config->is_token_ids) {
        request.prompt_tokens = tokens;
        request.prompt_token_count = (size_t)config->prompt_tokens;
    } else {
        request.prompt = buf_text(&text);
    }
    enum request_kind kind = config->is_chat ? REQUEST_CHAT : REQUEST_COMPLETE;
    r = r < 0 ? KVASIR_ERR_MEMORY : request_body(&request, kind, config->is_stream, ret_body, error);
    free(tokens);
    buf_done(&text);
    return r;
}

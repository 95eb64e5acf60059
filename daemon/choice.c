/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/choice.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/utf8.h"

enum { CAP_FIRST = 32 };

void choice_init(struct choice *choice, void *request, uint32_t index, uint32_t prompt_idx,
                 size_t text_bytes_max)
{
    *choice = (struct choice){
        .request = request,
        .index = index,
        .prompt_idx = prompt_idx,
        .stop_token = TOKEN_NONE,
        .stop_idx = -1,
    };
    buf_init(&choice->text, text_bytes_max);
}

static void tokens_done(struct choice_tokens *tokens)
{
    free(tokens->items);
    free(tokens->tops);
    *tokens = (struct choice_tokens){0};
}

void choice_done(struct choice *choice)
{
    generation_free(choice->generation);
    choice->generation = NULL;
    buf_done(&choice->text);
    tokens_done(&choice->tokens);
    tokens_done(&choice->scores);
}

/* Room for one more element; doubles. */
static void *grown(void *items, uint32_t count, uint32_t *cap, uint32_t more, size_t item_bytes)
{
    if (count + more <= *cap) return items;
    uint32_t next = *cap ? *cap * 2 : CAP_FIRST;
    while (next < count + more) next *= 2;
    void *grown_items = realloc(items, next * item_bytes);
    if (grown_items) *cap = next;
    return grown_items;
}

static int tokens_push(struct choice_tokens *tokens, struct choice_token token, const struct done_top *tops)
{
    void *items = grown(tokens->items, tokens->count, &tokens->cap, 1, sizeof *tokens->items);
    if (!items) return -ENOMEM;
    tokens->items = items;
    if (token.top_count) {
        void *grown_tops = grown(tokens->tops, tokens->top_count, &tokens->top_cap, token.top_count,
                                 sizeof *tokens->tops);
        if (!grown_tops) return -ENOMEM;
        tokens->tops = grown_tops;
        memcpy(tokens->tops + tokens->top_count, tops, token.top_count * sizeof *tops);
    }
    token.top_first = tokens->top_count;
    tokens->top_count += token.top_count;
    tokens->items[tokens->count++] = token;
    return 0;
}

static int scores_record(struct choice *choice, const struct generation_update *update)
{
    for (uint32_t i = 0; i < update->score_count; i++) {
        const struct done_score *score = &update->scores[i];
        if (score->token == PLAN_TOKEN_NONE) continue; // the last row of the prompt has no known next token
        struct choice_token token = {.id = score->token,
                                     .logprob = score->logprob,
                                     .rank = score->rank,
                                     .top_count = score->top_count};
        int r = tokens_push(&choice->scores, token, update->score_tops + score->top_first);
        if (r < 0) return r;
    }
    return 0;
}

int choice_record(struct choice *choice, const struct generation_update *update)
{
    int r = scores_record(choice, update);
    if (r == 0 && update->text_len) r = buf_append(&choice->text, update->text, update->text_len);
    if (r == 0) choice->text_chars += utf8_count((const uint8_t *)update->text, update->text_len);
    if (r == 0 && update->token) {
        struct choice_token token = {
            .id = update->token->id,
            .logprob = update->token->logprob,
            .rank = update->token->rank,
            .top_count = update->token->top_count,
            .text_end = choice->text_chars,
        };
        r = tokens_push(&choice->tokens, token, update->token->tops);
    }
    if (choice->generation) choice->cached_count = generation_cached_count(choice->generation);
    choice->finish = update->finish;
    choice->stop_idx = update->stop_idx;
    choice->stop_token = update->stop_token;
    return r;
}

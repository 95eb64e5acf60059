/* SPDX-License-Identifier: Apache-2.0 */
/* choice - what has been generated of one choice of a request: text, tokens, log-probabilities, and why it
 * ended. Recorded as the generation's updates come, read by answer.c. */
#ifndef KVASIR_DAEMON_CHOICE_H
#define KVASIR_DAEMON_CHOICE_H

#include "common/base/buf.h"
#include "daemon/generation.h"

struct choice_token {
    uint32_t id; // TOKEN_NONE in a score of a token that has none (the first of a prompt)
    float logprob;
    uint32_t rank;
    uint32_t top_first, top_count; // into tops
    size_t text_end;               // characters of the choice's text after this token
};

struct choice_tokens { // growable; owned
    struct choice_token *items;
    uint32_t count, cap;
    struct done_top *tops;
    uint32_t top_count, top_cap;
};

struct choice {
    struct generation *generation; // owned; NULL before it starts and after it ended
    void *request;                 // back to the struct request
    uint32_t index, prompt_idx;
    struct buf text;
    size_t text_chars;
    struct choice_tokens tokens; // output tokens
    struct choice_tokens scores; // prompt tokens 1.. with prompt_logprobs
    enum finish_reason finish;
    int32_t stop_idx; // of params.stops, or -1
    uint32_t stop_token;
    uint32_t cached_count;
    bool started, role_sent;
};

void choice_init(struct choice *choice, void *request, uint32_t index, uint32_t prompt_idx,
                 size_t text_bytes_max);
void choice_done(struct choice *choice); // cancels a running generation

/* Records an update: text, token, scores, finish. 0 or -ENOMEM / -EMSGSIZE. */
int choice_record(struct choice *choice, const struct generation_update *update);

#endif

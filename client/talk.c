/* SPDX-License-Identifier: Apache-2.0 */
#include "client/talk.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"

static void drop(struct kvasir_message *message)
{
    free((char *)message->content); // ours: talk_push copied it
}

void talk_done(struct talk *talk)
{
    for (size_t i = 0; i < talk->count; i++) drop(&talk->messages[i]);
    free(talk->messages);
    *talk = (struct talk){0};
}

int talk_push(struct talk *talk, const char *role, const char *text)
{
    if (talk->count == talk->cap) {
        size_t cap = talk->cap > 0 ? 2 * talk->cap : 16;
        struct kvasir_message *more = realloc(talk->messages, cap * sizeof(*more));
        if (more == NULL) return -ENOMEM;
        talk->messages = more;
        talk->cap = cap;
    }
    char *copy = strdup(text);
    if (copy == NULL) return -ENOMEM;
    talk->messages[talk->count++] = (struct kvasir_message){.role = role, .content = copy};
    return 0;
}

void talk_pop(struct talk *talk)
{
    CHECK(talk->count > 0);
    drop(&talk->messages[--talk->count]);
}

static bool has_system(const struct talk *talk)
{
    return talk->count > 0 && strcmp(talk->messages[0].role, "system") == 0;
}

int talk_set_system(struct talk *talk, const char *text)
{
    if (text != NULL && text[0] != '\0') {
        int r = talk_push(talk, "system", text);
        if (r < 0) return r;
        struct kvasir_message system = talk->messages[talk->count - 1];
        memmove(talk->messages + 1, talk->messages, (talk->count - 1) * sizeof(system));
        talk->messages[0] = system;
        if (talk->count < 2 || strcmp(talk->messages[1].role, "system") != 0) return 0;
        drop(&talk->messages[1]);
        talk->count--;
        memmove(talk->messages + 1, talk->messages + 2, (talk->count - 1) * sizeof(system));
        return 0;
    }
    if (!has_system(talk)) return 0;
    drop(&talk->messages[0]);
    talk->count--;
    memmove(talk->messages, talk->messages + 1, talk->count * sizeof(*talk->messages));
    return 0;
}

void talk_reset(struct talk *talk)
{
    size_t kept = has_system(talk) ? 1 : 0;
    while (talk->count > kept) talk_pop(talk);
}

void talk_count(struct talk *talk, const struct kvasir_answer *answer)
{
    const struct kvasir_usage *usage = kvasir_answer_usage(answer);
    talk->answers++;
    talk->first_ns_last = kvasir_answer_first_ns(answer);
    talk->total_ns_last = kvasir_answer_total_ns(answer);
    talk->completion_tokens_last = usage != NULL ? usage->completion_tokens : 0;
    if (usage == NULL) return;
    talk->prompt_tokens += usage->prompt_tokens;
    talk->completion_tokens += usage->completion_tokens;
    if (usage->cached_tokens > 0) talk->cached_tokens += usage->cached_tokens;
}

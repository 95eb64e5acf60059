/* SPDX-License-Identifier: Apache-2.0 */
/* client_pair - a scripted server, a client of it, and the replies that test_client makes of pieces. */
#ifndef KVASIR_TESTS_UNIT_CLIENT_PAIR_H
#define KVASIR_TESTS_UNIT_CLIENT_PAIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "client/kvasir.h"
#include "tests/unit/fake_server.h"

static const struct kvasir_message HELLO[] = {{.role = "user", .content = "Hello"}};
#define CHAT(...) KVASIR_REQUEST(.messages = HELLO, .message_count = 1, __VA_ARGS__)

#define EVENT(json) "data: " json "\n\n"
#define ROLE_EVENT \
    EVENT("{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"," \
          "\"content\":null}}]}")
#define TEXT_EVENT(text) \
    EVENT("{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"},\"finish_reason\":null}]}")
#define END_EVENT EVENT("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}")
#define USAGE \
    "{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7,\"prompt_tokens_details\":{\"cached_" \
    "tokens\":3}}"
#define USAGE_EVENT EVENT("{\"choices\":[],\"usage\":" USAGE "}")
#define WHOLE_STREAM \
    ROLE_EVENT TEXT_EVENT("Hi \\u00e9") TEXT_EVENT("!") END_EVENT USAGE_EVENT "data: [DONE]\n\n"
#define ANSWER \
    "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\"," \
    "\"content\":\"Hi\"}," \
    "\"finish_reason\":\"length\"}],\"usage\":" USAGE "}"

/* A server with one script, and a client of it. */
struct pair {
    struct fake_server *server;
    struct kvasir_client *client;
    struct kvasir_error error;
};

static inline void pair_open(struct pair *pair, const struct fake_step *steps,
                             const struct kvasir_options *given)
{
    struct kvasir_options options = given != NULL ? *given : (struct kvasir_options){.size = sizeof(options)};
    pair->server = fake_server_start(steps, NULL);
    options.url = fake_server_url(pair->server);
    assert_int_equal(kvasir_open(&options, &pair->client, &pair->error), 0);
}

static inline void pair_close(struct pair *pair)
{
    kvasir_close(pair->client);
    fake_server_stop(pair->server);
}

/* Gathers "idx:text[finish];" of each delta; cancels after `cancel_after` of them when > 0. */
struct gather {
    char text[4096];
    int count, cancel_after;
};

static inline int on_delta(void *user, const struct kvasir_delta *delta)
{
    struct gather *gather = user;
    size_t len = strlen(gather->text);
    assert_int_equal(strlen(delta->text), delta->text_bytes);
    (void)snprintf(gather->text + len, sizeof(gather->text) - len, "%zu:%s[%s];", delta->choice_idx,
                   delta->text,
                   delta->finish_reason != NULL ? delta->finish_reason : ""); // cut is seen by the comparison
    return ++gather->count == gather->cancel_after;
}

/* Runs one streamed chat against a script and returns its code. */
static inline int stream_code(const struct fake_step *steps, const struct kvasir_options *options,
                              struct kvasir_error *ret_error)
{
    struct pair pair;
    struct gather gather = {0};
    pair_open(&pair, steps, options);
    int r = kvasir_chat_stream(pair.client, CHAT(), on_delta, &gather, NULL, ret_error);
    pair_close(&pair);
    return r;
}

static inline int stream_reply_code(const char *reply, struct kvasir_error *ret_error)
{
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_SEND, reply, 0}, {FAKE_END, NULL, 0}};
    return stream_code(steps, NULL, ret_error);
}

static inline int chat_reply_code(const char *reply, struct kvasir_error *ret_error)
{
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_SEND, reply, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    struct kvasir_answer *answer = NULL;
    pair_open(&pair, steps, NULL);
    int r = kvasir_chat(pair.client, CHAT(), &answer, ret_error);
    assert_true((r == 0) == (answer != NULL));
    kvasir_answer_free(answer);
    pair_close(&pair);
    return r;
}

#endif

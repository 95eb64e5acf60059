/* SPDX-License-Identifier: Apache-2.0 */
/* answer - what is written is JSON, and in the shapes of OpenAI's reference (chat.completion, text_completion, their
 * chunks, both forms of logprobs) and of vLLM's additions (stop_reason, token_ids, prompt_logprobs). Every answer is
 * read again with json_parse; fields are compared with what was recorded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/json.h"
#include "daemon/answer.h"
#include "tests/data/sample_vocab.h"

enum { CHOICES = 3 };

static struct tokenizer *tokenizer;

struct call { // one request and what came of it
    struct params params;
    struct answer_context context;
    struct token_list prompt;
    struct choice choices[CHOICES];
    struct buf out;
};

static void call_open(struct call *call, enum params_kind kind, const char *members)
{
    static const uint32_t prompt[] = {SAMPLE_BOS, SAMPLE_HELLO, 0xC3,
                                      0xA9}; // <|bos|>hello é, the é in two bytes
    char *body = NULL;
    struct params_error error;
    memset(call, 0, sizeof *call);
    if (asprintf(&body, "{%s%s%s}",
                 kind == PARAMS_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                     : "\"prompt\":\"x\"",
                 members[0] ? "," : "", members) < 0)
        abort();
    if (params_parse(kind, body, strlen(body), SAMPLE_COUNT, &call->params, &error) < 0)
        fail_msg("%s", error.err.text);
    free(body);
    for (size_t i = 0; i < COUNT_OF(prompt); i++)
        assert_int_equal(token_list_push(&call->prompt, prompt[i]), 0);
    call->context = (struct answer_context){.params = &call->params,
                                            .tokenizer = tokenizer,
                                            .id = "id-1",
                                            .model = "a \"model\"",
                                            .created_s = 1700000000,
                                            .prompts = &call->prompt,
                                            .prompt_count = 1};
    for (uint32_t i = 0; i < CHOICES; i++) choice_init(&call->choices[i], NULL, i, 0, 1 << 20);
    buf_init(&call->out, 1 << 20);
}

static void call_done(struct call *call)
{
    for (uint32_t i = 0; i < CHOICES; i++) choice_done(&call->choices[i]);
    token_list_done(&call->prompt);
    params_done(&call->params);
    buf_done(&call->out);
}

/* One output token of a choice, with alternatives; text as the generation would give it out. */
static struct generation_update token_update(uint32_t id, float logprob, const struct done_top *tops,
                                             uint32_t top_count, const char *text)
{
    static struct generation_token token;
    token = (struct generation_token){
        .id = id, .logprob = logprob, .rank = 1, .tops = tops, .top_count = top_count};
    return (struct generation_update){
        .text = text, .text_len = strlen(text), .token = &token, .stop_idx = -1, .stop_token = TOKEN_NONE};
}

static void record(struct choice *choice, uint32_t id, float logprob, const char *text)
{
    struct generation_update update = token_update(id, logprob, NULL, 0, text);
    assert_int_equal(choice_record(choice, &update), 0);
}

static void record_end(struct choice *choice, enum finish_reason finish, int32_t stop_idx,
                       uint32_t stop_token)
{
    struct generation_update update = {
        .text = "", .finish = finish, .stop_idx = stop_idx, .stop_token = stop_token};
    assert_int_equal(choice_record(choice, &update), 0);
}

/* ---- reading what was written ---- */

static cJSON *read_json(const char *text, size_t len)
{
    cJSON *json = NULL;
    struct err err = {0};
    if (json_parse(text, len, 64, &json, &err) < 0) fail_msg("%s: %.*s", err.text, (int)len, text);
    return json;
}

static cJSON *whole(struct call *call, uint32_t choice_count)
{
    struct answer_usage usage = {10, 5, 3};
    buf_clear(&call->out);
    answer_write(&call->out, &call->context, call->choices, choice_count, &usage);
    assert_int_equal(call->out.error, 0);
    return read_json(buf_text(&call->out), call->out.len);
}

/* The one event that out holds. */
static cJSON *event(struct call *call)
{
    const char *text = buf_text(&call->out);
    assert_int_equal(call->out.error, 0);
    assert_memory_equal(text, "data: ", 6);
    assert_true(call->out.len > 8);
    assert_string_equal(text + call->out.len - 2, "\n\n");
    assert_null(memchr(text, '\n', call->out.len - 2)); // one line
    cJSON *json = read_json(text + 6, call->out.len - 8);
    buf_clear(&call->out);
    return json;
}

/* A path of keys and indices, "choices.0.text"; NULL when there is none. */
static const cJSON *at(const cJSON *json, const char *path)
{
    char part[64];
    while (json && *path) {
        size_t len = strcspn(path, ".");
        (void)snprintf(part, sizeof part, "%.*s", (int)len, path);
        json = cJSON_IsArray(json) ? cJSON_GetArrayItem(json, atoi(part))
                                   : cJSON_GetObjectItemCaseSensitive(json, part);
        path += len + (path[len] == '.');
    }
    return json;
}

static void expect_text(const cJSON *json, const char *path, const char *want)
{
    const char *text = cJSON_GetStringValue(at(json, path));
    if (!text) fail_msg("%s is no string", path);
    assert_string_equal(text, want);
}

static void expect_number(const cJSON *json, const char *path, double want)
{
    const cJSON *item = at(json, path);
    if (!cJSON_IsNumber(item)) fail_msg("%s is no number", path);
    if (fabs(item->valuedouble - want) > 1e-5 * fabs(want))
        fail_msg("%s is %g, not %g", path, item->valuedouble, want);
}

static void expect_json(const cJSON *json, const char *path, const char *want)
{
    const cJSON *item = at(json, path);
    if (!item) fail_msg("%s is absent", path);
    cJSON *wanted = read_json(want, strlen(want));
    if (!cJSON_Compare(item, wanted, true)) {
        char *text = cJSON_PrintUnformatted(item);
        fail_msg("%s is %s, not %s", path, text, want);
    }
    cJSON_Delete(wanted);
}

/* ---- whole answers ---- */

static void test_answer_of_a_chat(void **state)
{
    (void)state;
    struct call call;
    call_open(&call, PARAMS_CHAT, "");
    record(&call.choices[0], SAMPLE_HELLO, -0.5F, "he said: \"\xC3\xA9\"\n\\");
    record_end(&call.choices[0], FINISH_STOP, -1, TOKEN_NONE);
    cJSON *json = whole(&call, 1);
    expect_text(json, "id", "id-1");
    expect_text(json, "object", "chat.completion");
    expect_number(json, "created", 1700000000);
    expect_text(json, "model", "a \"model\"");
    expect_number(json, "choices.0.index", 0);
    expect_text(json, "choices.0.message.role", "assistant");
    expect_text(json, "choices.0.message.content", "he said: \"\xC3\xA9\"\n\\");
    expect_text(json, "choices.0.finish_reason", "stop");
    expect_json(json, "choices.0.stop_reason", "null");
    expect_json(json, "choices.0.logprobs", "null");
    expect_json(json, "usage",
                "{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15,"
                "\"prompt_tokens_details\":{\"cached_tokens\":3}}");
    assert_null(at(json, "prompt_logprobs"));
    assert_null(at(json, "choices.0.token_ids"));
    assert_null(at(json, "prompt_token_ids"));
    cJSON_Delete(json);
    call_done(&call);
}

static void test_answer_of_a_completion_with_choices(void **state)
{
    (void)state;
    struct call call;
    call_open(&call, PARAMS_COMPLETION, "\"stop\":[\"a\",\"E\\\"ND\"],\"n\":3");
    record(&call.choices[0], 'x', -1, "x");
    record_end(&call.choices[0], FINISH_STOP, 1, TOKEN_NONE);
    record(&call.choices[1], 'y', -1, "y");
    record_end(&call.choices[1], FINISH_STOP, -1, SAMPLE_THE);
    record(&call.choices[2], 'z', -1, "z");
    record_end(&call.choices[2], FINISH_LENGTH, -1, TOKEN_NONE);
    cJSON *json = whole(&call, 3);
    expect_text(json, "object", "text_completion");
    assert_int_equal(cJSON_GetArraySize(at(json, "choices")), 3);
    expect_text(json, "choices.0.text", "x");
    expect_text(json, "choices.0.stop_reason", "E\"ND"); // the string
    expect_number(json, "choices.1.index", 1);
    expect_number(json, "choices.1.stop_reason", SAMPLE_THE); // the id
    expect_text(json, "choices.2.finish_reason", "length");
    expect_json(json, "choices.2.stop_reason", "null");
    cJSON_Delete(json);
    call_done(&call);
}

static void test_answer_with_token_ids(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct call call;
        char want[64];
        call_open(&call, (enum params_kind)kind, "\"return_token_ids\":true");
        record(&call.choices[0], 'x', -1, "x");
        record(&call.choices[0], SAMPLE_IM_END, -1, "");
        cJSON *json = whole(&call, 1);
        (void)snprintf(want, sizeof want, "[%d,%d]", 'x', SAMPLE_IM_END);
        expect_json(json, "choices.0.token_ids", want);
        (void)snprintf(want, sizeof want, "[%d,%d,195,169]", SAMPLE_BOS, SAMPLE_HELLO);
        expect_json(json, kind == PARAMS_CHAT ? "prompt_token_ids" : "choices.0.prompt_token_ids", want);
        cJSON_Delete(json);
        call_done(&call);
    }
}

/* ---- log-probabilities ---- */

/* OpenAI: content[] of {token, logprob, bytes, top_logprobs[] of {token, logprob, bytes}}. */
static void test_answer_chat_logprobs(void **state)
{
    (void)state;
    struct call call;
    struct done_top tops[] = {{SAMPLE_HELLO, -0.25F}, {0xF0, -2.5F}, {'"', -INFINITY}};
    call_open(&call, PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":3");
    struct generation_update update = token_update(0xF0, -2.5F, tops, 3, "");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    record(&call.choices[0], SAMPLE_IM_END, -INFINITY, "\uFFFD");
    cJSON *json = whole(&call, 1);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.content")), 2);
    expect_text(json, "choices.0.logprobs.content.0.token", "\uFFFD"); // no character
    expect_json(json, "choices.0.logprobs.content.0.bytes", "[240]");  // but all of its bytes
    expect_number(json, "choices.0.logprobs.content.0.logprob", -2.5);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.content.0.top_logprobs")), 3);
    expect_text(json, "choices.0.logprobs.content.0.top_logprobs.0.token", "hello");
    expect_json(json, "choices.0.logprobs.content.0.top_logprobs.0.bytes", "[104,101,108,108,111]");
    expect_number(json, "choices.0.logprobs.content.0.top_logprobs.0.logprob", -0.25);
    expect_text(json, "choices.0.logprobs.content.0.top_logprobs.2.token", "\"");
    expect_number(json, "choices.0.logprobs.content.0.top_logprobs.2.logprob", -9999); // JSON has no -inf
    expect_text(json, "choices.0.logprobs.content.1.token", "<|im_end|>");
    expect_number(json, "choices.0.logprobs.content.1.logprob", -9999);
    expect_json(json, "choices.0.logprobs.content.1.top_logprobs", "[]");
    cJSON_Delete(json);
    call_done(&call);
}

/* OpenAI's older form: tokens, token_logprobs, top_logprobs, text_offset, one entry a token; offsets in characters. */
static void test_answer_completion_logprobs(void **state)
{
    (void)state;
    struct call call;
    struct done_top tops[] = {{'a', -0.25F}, {'b', -1.5F}};
    call_open(&call, PARAMS_COMPLETION, "\"logprobs\":2");
    struct generation_update update = token_update(SAMPLE_ACCENT, -3.5F, tops, 2, "\xC3\xA9");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    update = token_update('a', -0.25F, tops, 2, "a");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    record(&call.choices[0], 'z', -1, "z");
    cJSON *json = whole(&call, 1);
    expect_json(json, "choices.0.logprobs.tokens", "[\"\xC3\xA9\",\"a\",\"z\"]");
    expect_json(json, "choices.0.logprobs.token_logprobs", "[-3.5,-0.25,-1]");
    expect_json(json, "choices.0.logprobs.text_offset", "[0,1,2]"); // é is one character
    expect_json(json, "choices.0.logprobs.top_logprobs",
                "[{\"a\":-0.25,\"b\":-1.5,\"\xC3\xA9\":-3.5},{\"a\":-0.25,\"b\":-1.5},{\"z\":-1}]");
    cJSON_Delete(json);
    call_done(&call);
}

/* Two tokens may have one text, and bytes that are no character all look alike: a key comes once, the likeliest's. */
static void test_answer_top_logprobs_have_no_key_twice(void **state)
{
    (void)state;
    struct call call;
    struct done_top tops[] = {{0x80, -0.5F}, {0x81, -1}, {SAMPLE_HEY_TWIN, -2}, {SAMPLE_HEY, -3}, {0xFF, -4}};
    call_open(&call, PARAMS_COMPLETION, "\"logprobs\":5");
    struct generation_update update = token_update(0xFE, -5, tops, 5, "");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    cJSON *json = whole(&call, 1);
    const cJSON *map = at(json, "choices.0.logprobs.top_logprobs.0");
    assert_int_equal(cJSON_GetArraySize(map), 2);
    expect_number(map, "\uFFFD", -0.5);
    expect_number(map, "hey", -2);
    cJSON_Delete(json);
    call_done(&call);
    call_open(&call, PARAMS_COMPLETION, "\"logprobs\":5,\"return_tokens_as_token_ids\":true");
    update = token_update(0xFE, -5, tops, 5, "");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    json = whole(&call, 1);
    expect_json(json, "choices.0.logprobs.tokens", "[\"token_id:254\"]");
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.top_logprobs.0")), 6);
    expect_number(json, "choices.0.logprobs.top_logprobs.0.token_id:129", -1);
    cJSON_Delete(json);
    call_done(&call);
}

static void scores_record(struct choice *choice)
{
    static const struct done_top tops[] = {{'a', -0.5F}, {SAMPLE_HELLO, -0.75F}, {'b', -1}};
    static const struct done_score scores[] = {
        {.token = SAMPLE_HELLO, .logprob = -0.75F, .rank = 2, .top_first = 0, .top_count = 3},
        {.token = 0xC3, .logprob = -INFINITY, .rank = 99, .top_first = 1, .top_count = 1},
        {.token = 0xA9, .logprob = -0.125F, .rank = 1},
        {.token = PLAN_TOKEN_NONE}, // the last row's: not known yet
    };
    struct generation_update update = {.text = "",
                                       .stop_idx = -1,
                                       .stop_token = TOKEN_NONE,
                                       .scores = scores,
                                       .score_tops = tops,
                                       .score_count = COUNT_OF(scores)};
    assert_int_equal(choice_record(choice, &update), 0);
}

/* vLLM: null, then a map by token id of {logprob, rank, decoded_token}; the prompt's token is always among them. */
static void test_answer_prompt_logprobs(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct call call;
        call_open(&call, (enum params_kind)kind, "\"prompt_logprobs\":1");
        scores_record(&call.choices[0]);
        record(&call.choices[0], 'x', -1, "x");
        cJSON *json = whole(&call, 1);
        const cJSON *list = at(json, kind == PARAMS_CHAT ? "prompt_logprobs" : "choices.0.prompt_logprobs");
        assert_int_equal(cJSON_GetArraySize(list), 4);
        expect_json(list, "0", "null");
        assert_int_equal(cJSON_GetArraySize(at(list, "1")), 2); // one asked for, and the token itself
        expect_json(list, "1.97", "{\"logprob\":-0.5,\"rank\":1,\"decoded_token\":\"a\"}");
        expect_json(list, "1.266", "{\"logprob\":-0.75,\"rank\":2,\"decoded_token\":\"hello\"}");
        expect_json(list, "2.195", "{\"logprob\":-9999,\"rank\":99,\"decoded_token\":\"\uFFFD\"}");
        expect_json(list, "3", "{\"169\":{\"logprob\":-0.125,\"rank\":1,\"decoded_token\":\"\uFFFD\"}}");
        cJSON_Delete(json);
        call_done(&call);
    }
}

/* What was asked for the prompt does not show with the output, nor the other way round. */
static void test_answer_shows_as_many_alternatives_as_asked(void **state)
{
    (void)state;
    struct call call;
    struct done_top tops[] = {{'a', -0.25F}, {'b', -1.5F}, {'c', -2}};
    call_open(&call, PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":1,\"prompt_logprobs\":3");
    scores_record(&call.choices[0]);
    struct generation_update update = token_update('b', -1.5F, tops, 3, "b");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    cJSON *json = whole(&call, 1);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.content.0.top_logprobs")), 1);
    assert_int_equal(cJSON_GetArraySize(at(json, "prompt_logprobs.1")), 3);
    cJSON_Delete(json);
    call_done(&call);
    call_open(&call, PARAMS_COMPLETION, "\"logprobs\":2,\"prompt_logprobs\":0");
    scores_record(&call.choices[0]);
    update = token_update('b', -1.5F, tops, 3, "b");
    assert_int_equal(choice_record(&call.choices[0], &update), 0);
    json = whole(&call, 1);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.top_logprobs.0")), 2);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.prompt_logprobs.1")), 1);
    cJSON_Delete(json);
    call_done(&call);
}

/* echo: the prompt's text in front, and with logprobs its tokens; the first has none. */
static void test_answer_echo(void **state)
{
    (void)state;
    struct call call;
    call_open(&call, PARAMS_COMPLETION, "\"echo\":true,\"logprobs\":1");
    scores_record(&call.choices[0]);
    record(&call.choices[0], 'x', -1, "x");
    record(&call.choices[0], 'y', -2, "y");
    cJSON *json = whole(&call, 1);
    expect_text(json, "choices.0.text", "hello\xC3\xA9xy"); // without the special token
    expect_json(json, "choices.0.logprobs.tokens",
                "[\"<|bos|>\",\"hello\",\"\uFFFD\",\"\uFFFD\",\"x\",\"y\"]");
    expect_json(json, "choices.0.logprobs.token_logprobs", "[null,-0.75,-9999,-0.125,-1,-2]");
    /* As the text has them: nothing of <|bos|>, and é at its second byte. */
    expect_json(json, "choices.0.logprobs.text_offset", "[0,0,5,5,6,7]");
    expect_json(json, "choices.0.logprobs.top_logprobs.0", "null");
    expect_json(json, "choices.0.logprobs.top_logprobs.1", "{\"a\":-0.5,\"hello\":-0.75}");
    cJSON_Delete(json);
    call_done(&call);
    call_open(&call, PARAMS_COMPLETION, "\"echo\":true,\"skip_special_tokens\":false");
    record(&call.choices[0], 'x', -1, "x");
    json = whole(&call, 1);
    expect_text(json, "choices.0.text", "<|bos|>hello\xC3\xA9x");
    expect_json(json, "choices.0.logprobs", "null");
    cJSON_Delete(json);
    call_done(&call);
}

/* ---- streams ---- */

static cJSON *chunk(struct call *call, const struct generation_update *update,
                    const struct answer_usage *usage)
{
    assert_int_equal(choice_record(&call->choices[0], update), 0);
    answer_write_chunk(&call->out, &call->context, &call->choices[0], update, usage);
    return event(call);
}

static void test_answer_chunks_of_a_chat(void **state)
{
    (void)state;
    struct call call;
    struct answer_usage usage = {10, 1, 0};
    call_open(&call, PARAMS_CHAT, "\"stream\":true,\"logprobs\":true,\"return_token_ids\":true");
    struct generation_update update = token_update('h', -1, NULL, 0, "h");
    cJSON *json = chunk(&call, &update, &usage);
    expect_text(json, "object", "chat.completion.chunk");
    expect_json(json, "choices.0.delta", "{\"role\":\"assistant\",\"content\":\"h\"}");
    expect_json(json, "choices.0.finish_reason", "null");
    expect_json(json, "choices.0.token_ids", "[104]");
    assert_int_equal(cJSON_GetArraySize(at(json, "prompt_token_ids")), 4);
    expect_number(json, "usage.completion_tokens", 1);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices.0.logprobs.content")), 1);
    cJSON_Delete(json);
    update = token_update(0xF0, -1, NULL, 0, ""); // text held back, the token told
    update.finish = FINISH_LENGTH;
    json = chunk(&call, &update, NULL);
    expect_json(json, "choices.0.delta", "{\"content\":\"\"}"); // the role comes once
    expect_text(json, "choices.0.finish_reason", "length");
    expect_json(json, "choices.0.token_ids", "[240]");
    assert_null(at(json, "prompt_token_ids"));
    assert_null(at(json, "usage"));
    cJSON_Delete(json);
    call_done(&call);
}

static void test_answer_chunks_of_a_completion(void **state)
{
    (void)state;
    struct call call;
    call_open(&call, PARAMS_COMPLETION, "\"stream\":true,\"logprobs\":0,\"stop\":\"!\"");
    struct generation_update update = token_update(SAMPLE_ACCENT, -1, NULL, 0, "\xC3\xA9");
    cJSON *json = chunk(&call, &update, NULL);
    expect_text(json, "object", "text_completion");
    expect_text(json, "choices.0.text", "\xC3\xA9");
    expect_json(json, "choices.0.logprobs.text_offset", "[0]");
    cJSON_Delete(json);
    update = token_update('!', -2, NULL, 0, "");
    update.finish = FINISH_STOP;
    update.stop_idx = 0;
    json = chunk(&call, &update, NULL);
    expect_json(json, "choices.0.logprobs.tokens", "[\"!\"]"); // of this chunk alone
    expect_json(json, "choices.0.logprobs.text_offset", "[1]");
    expect_text(json, "choices.0.finish_reason", "stop");
    expect_text(json, "choices.0.stop_reason", "!");
    cJSON_Delete(json);
    call_done(&call);
}

static void test_answer_end_of_a_stream(void **state)
{
    (void)state;
    struct call call;
    struct answer_usage usage = {10, 5, 3};
    call_open(&call, PARAMS_CHAT, "\"stream\":true");
    answer_write_end(&call.out, &call.context, NULL);
    assert_string_equal(buf_text(&call.out), "data: [DONE]\n\n");
    buf_clear(&call.out);
    answer_write_end(&call.out, &call.context, &usage);
    const char *done = "data: [DONE]\n\n";
    assert_string_equal(buf_text(&call.out) + call.out.len - strlen(done), done);
    call.out.len -= strlen(done);
    call.out.bytes[call.out.len] = 0;
    cJSON *json = event(&call);
    expect_json(json, "choices", "[]");
    expect_text(json, "object", "chat.completion.chunk");
    expect_number(json, "usage.total_tokens", 15);
    cJSON_Delete(json);
    call_done(&call);
}

/* ---- errors ---- */

static void test_answer_errors_have_one_shape(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {413, "invalid_request_error"},
                 {422, "invalid_request_error"}, {401, "authentication_error"},
                 {404, "not_found_error"},       {429, "rate_limit_error"},
                 {500, "server_error"},          {503, "unavailable_error"}};
    struct buf out;
    buf_init(&out, 1 << 16);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        buf_clear(&out);
        answer_write_error(&out, types[i].status, i ? "max_tokens" : NULL, "why \"so\" \xFF");
        cJSON *json = read_json(buf_text(&out), out.len);
        expect_text(json, "error.message", "why \"so\" \uFFFD"); // a cut text is still JSON
        expect_text(json, "error.type", types[i].type);
        expect_number(json, "error.code", types[i].status);
        if (i) expect_text(json, "error.param", "max_tokens");
        else expect_json(json, "error.param", "null");
        cJSON_Delete(json);
    }
    struct call call;
    call_open(&call, PARAMS_CHAT, "");
    answer_write_error_event(&call.out, 500, "gone");
    cJSON *json = event(&call);
    expect_text(json, "error.message", "gone");
    cJSON_Delete(json);
    call_done(&call);
    buf_done(&out);
}

/* A bound that is too small leaves an error, never a text that looks whole. */
static void test_answer_tells_when_it_does_not_fit(void **state)
{
    (void)state;
    struct call call;
    struct answer_usage usage = {0};
    call_open(&call, PARAMS_COMPLETION, "\"echo\":true,\"logprobs\":1");
    scores_record(&call.choices[0]);
    record(&call.choices[0], 'x', -1, "x");
    answer_write(&call.out, &call.context, call.choices, 1, &usage);
    size_t len = call.out.len;
    for (size_t max = 0; max < len; max++) {
        struct buf out;
        buf_init(&out, max);
        answer_write(&out, &call.context, call.choices, 1, &usage);
        assert_int_not_equal(out.error, 0);
        buf_done(&out);
    }
    call_done(&call);
}

static int tokenizer_make(void **state)
{
    (void)state;
    tokenizer = sample_vocab_new();
    return 0;
}

static int tokenizer_drop(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_of_a_chat),
        cmocka_unit_test(test_answer_of_a_completion_with_choices),
        cmocka_unit_test(test_answer_with_token_ids),
        cmocka_unit_test(test_answer_chat_logprobs),
        cmocka_unit_test(test_answer_completion_logprobs),
        cmocka_unit_test(test_answer_top_logprobs_have_no_key_twice),
        cmocka_unit_test(test_answer_prompt_logprobs),
        cmocka_unit_test(test_answer_shows_as_many_alternatives_as_asked),
        cmocka_unit_test(test_answer_echo),
        cmocka_unit_test(test_answer_chunks_of_a_chat),
        cmocka_unit_test(test_answer_chunks_of_a_completion),
        cmocka_unit_test(test_answer_end_of_a_stream),
        cmocka_unit_test(test_answer_errors_have_one_shape),
        cmocka_unit_test(test_answer_tells_when_it_does_not_fit),
    };
    return cmocka_run_group_tests(tests, tokenizer_make, tokenizer_drop);
}

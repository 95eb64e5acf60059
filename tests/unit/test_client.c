/* SPDX-License-Identifier: Apache-2.0 */
/* test_client - libkvasir against a scripted server: answers, streams, failures, hostile servers,
 * cancellation and threads. What the server says is written by hand from the API's documents. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client/kvasir.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "tests/unit/client_pair.h"
#include "tests/unit/fake_server.h"

/* ---- answers ---- */

static void test_client_chat_reads_an_answer(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON ANSWER, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    struct kvasir_answer *answer = NULL;
    size_t len = 0;
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat(pair.client, CHAT(.max_tokens = KVASIR_SOME(2)), &answer, &pair.error), 0);
    assert_int_equal(kvasir_answer_choice_count(answer), 1);
    assert_string_equal(kvasir_answer_text(answer, 0, &len), "Hi");
    assert_int_equal(len, 2);
    assert_string_equal(kvasir_answer_text(answer, 1, &len), "");
    assert_string_equal(kvasir_answer_finish_reason(answer, 0), "length");
    assert_null(kvasir_answer_finish_reason(answer, 1));
    assert_string_equal(kvasir_answer_id(answer), "c1");
    assert_string_equal(kvasir_answer_model(answer), "m");
    assert_string_equal(kvasir_answer_json(answer), ANSWER);
    assert_int_equal(kvasir_answer_usage(answer)->prompt_tokens, 5);
    assert_int_equal(kvasir_answer_usage(answer)->completion_tokens, 2);
    assert_int_equal(kvasir_answer_usage(answer)->cached_tokens, 3);
    assert_true(kvasir_answer_total_ns(answer) >= kvasir_answer_first_ns(answer));
    kvasir_answer_free(answer);
    assert_true(fake_server_saw(pair.server, "POST /v1/chat/completions HTTP/1.1\r\n"));
    assert_true(fake_server_saw(pair.server, "Content-Type: application/json\r\n"));
    assert_true(fake_server_saw(
        pair.server, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":2}"));
    assert_false(fake_server_saw(pair.server, "Expect:"));
    assert_false(fake_server_saw(pair.server, "Authorization"));
    pair_close(&pair);
}

static void test_client_complete_reads_several_choices(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0},
        {FAKE_SEND, FAKE_JSON "{\"choices\":[{\"index\":1,\"text\":\"b\"},{\"index\":0,\"text\":\"a\"}]}", 0},
        {FAKE_END, NULL, 0}};
    struct pair pair;
    struct kvasir_answer *answer = NULL;
    const int32_t tokens[] = {1, 2, 300};
    pair_open(&pair, steps, NULL);
    assert_int_equal(
        kvasir_complete(pair.client,
                        KVASIR_REQUEST(.prompt_tokens = tokens, .prompt_token_count = 3, .choice_count = 2),
                        &answer, &pair.error),
        0);
    assert_int_equal(kvasir_answer_choice_count(answer), 2);
    assert_string_equal(kvasir_answer_text(answer, 0, NULL), "a");
    assert_string_equal(kvasir_answer_text(answer, 1, NULL), "b");
    assert_null(kvasir_answer_usage(answer));
    assert_null(kvasir_answer_finish_reason(answer, 0));
    assert_true(fake_server_saw(pair.server, "{\"prompt\":[1,2,300],\"n\":2}"));
    kvasir_answer_free(answer);
    pair_close(&pair);
}

static void expect_whole_stream(const struct fake_step *steps)
{
    struct pair pair;
    struct gather gather = {0};
    struct kvasir_answer *answer = NULL;
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), on_delta, &gather, &answer, &pair.error), 0);
    assert_string_equal(gather.text, "0:[];0:Hi é[];0:![];0:[stop];");
    assert_string_equal(kvasir_answer_text(answer, 0, NULL), "Hi é!");
    assert_string_equal(kvasir_answer_finish_reason(answer, 0), "stop");
    assert_string_equal(kvasir_answer_id(answer), "c1");
    assert_int_equal(kvasir_answer_usage(answer)->total_tokens, 7);
    assert_null(kvasir_answer_json(answer));
    kvasir_answer_free(answer);
    assert_true(fake_server_saw(pair.server, "\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    pair_close(&pair);
}

static void test_client_stream_hands_on_deltas_and_the_whole(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_STREAM WHOLE_STREAM, 0}, {FAKE_END, NULL, 0}};
    expect_whole_stream(steps);
}

static void test_client_stream_may_come_byte_by_byte(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND_BYTES, FAKE_STREAM WHOLE_STREAM, 0}, {FAKE_END, NULL, 0}};
    expect_whole_stream(steps);
}

static void test_client_stream_ends_at_done_though_the_connection_stays(void **state)
{
    (void)state;
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0},
                                      {FAKE_SEND, FAKE_STREAM WHOLE_STREAM "data: not json\n\n", 0},
                                      {FAKE_STALL, NULL, 0},
                                      {FAKE_END, NULL, 0}};
    expect_whole_stream(steps);
}

static void test_client_stream_from_a_server_that_does_not_stream(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON ANSWER, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    struct gather gather = {0};
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), on_delta, &gather, NULL, &pair.error), 0);
    assert_string_equal(gather.text, "0:Hi[length];");
    pair_close(&pair);
}

static void test_client_reads_reasoning_by_both_names(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0},
        {FAKE_SEND,
         FAKE_STREAM EVENT("{\"choices\":[{\"delta\":{\"reasoning_content\":\"mm\"}}]}") EVENT(
             "{\"choices\":[{\"delta\":{\"reasoning\":\"hm\",\"content\":\"yes\"}}]}") "data: [DONE]\n\n",
         0},
        {FAKE_END, NULL, 0}};
    struct pair pair;
    struct kvasir_answer *answer = NULL;
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), NULL, NULL, &answer, &pair.error), 0);
    assert_string_equal(kvasir_answer_reasoning(answer, 0, NULL), "mmhm");
    assert_string_equal(kvasir_answer_text(answer, 0, NULL), "yes");
    kvasir_answer_free(answer);
    pair_close(&pair);
}

/* ---- the address ---- */

static void test_client_keeps_its_connection(void **state)
{
    (void)state;
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0},
                                      {FAKE_SEND, FAKE_JSON_HEAD(2) "{}", 0},
                                      {FAKE_READ, NULL, 0},
                                      {FAKE_SEND,
                                       "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; "
                                       "charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
                                       "8\r\ndata: [D\r\n7\r\nONE]\n\n\n\r\n0\r\n\r\n",
                                       0},
                                      {FAKE_AGAIN, NULL, 0}};
    struct pair pair;
    pair_open(&pair, steps, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kvasir_health(pair.client, &pair.error), 0);
        assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), NULL, NULL, NULL, &pair.error), 0);
    }
    assert_int_equal(fake_server_connections(pair.server), 1);
    assert_int_equal(fake_server_requests(pair.server), 6);
    pair_close(&pair);
}

static void test_client_speaks_over_a_unix_socket(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON ANSWER, 0}, {FAKE_END, NULL, 0}};
    struct fake_server *server = fake_server_start_unix(steps, NULL);
    struct kvasir_client *client = NULL;
    struct kvasir_answer *answer = NULL;
    struct kvasir_error error;
    assert_int_equal(
        kvasir_open(KVASIR_OPTIONS(.uds = fake_server_path(server), .api_key = "sk-1"), &client, &error), 0);
    assert_int_equal(kvasir_chat(client, CHAT(), &answer, &error), 0);
    assert_true(fake_server_saw(server, "Host: localhost\r\n"));
    assert_true(fake_server_saw(server, "Authorization: Bearer sk-1\r\n"));
    kvasir_answer_free(answer);
    kvasir_close(client);
    fake_server_stop(server);
    assert_int_equal(
        kvasir_open(KVASIR_OPTIONS(.uds = P_tmpdir "/kvasir-no-such-folder/socket"), &client, &error), 0);
    assert_int_equal(kvasir_health(client, &error), KVASIR_ERR_CONNECT);
    kvasir_close(client);
}

static void test_client_drops_slash_and_v1_from_the_url(void **state)
{
    (void)state;
    static const char *const ENDS[] = {"", "/", "/v1", "/v1/", "//v1//"};
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON "{}", 0}, {FAKE_END, NULL, 0}};
    struct fake_server *server = fake_server_start(steps, NULL);
    struct kvasir_error error;
    for (size_t i = 0; i < COUNT_OF(ENDS); i++) {
        struct kvasir_client *client = NULL;
        char url[128];
        (void)snprintf(url, sizeof(url), "%s%s", fake_server_url(server), ENDS[i]); // fits
        assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = url), &client, &error), 0);
        assert_int_equal(kvasir_health(client, &error), 0);
        assert_true(fake_server_saw(server, "GET /health HTTP/1.1\r\n"));
        kvasir_close(client);
    }
    fake_server_stop(server);
}

static void test_client_refuses_wrong_options(void **state)
{
    (void)state;
    struct kvasir_client *client = NULL;
    struct kvasir_error error;
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = "ftp://127.0.0.1"), &client, &error),
                     KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = "not an address"), &client, &error),
                     KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(error.text, "http://HOST:PORT"));
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.api_key = "a\r\nX: y"), &client, &error),
                     KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.user_agent = "a\n"), &client, &error), KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.uds = ""), &client, &error), KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_open(&(struct kvasir_options){.url = "http://x"}, &client, &error),
                     KVASIR_ERR_ARGUMENT);
    assert_null(client);
}

static void test_client_takes_older_and_newer_structs(void **state)
{
    (void)state;
    struct {
        struct kvasir_options known;
        char appended[64];
    } newer = {.known = {.size = sizeof(newer), .url = "http://127.0.0.1:1"}};
    struct kvasir_options older = {.size = offsetof(struct kvasir_options, uds), .url = "http://127.0.0.1:1"};
    older.uds = "not looked at";
    struct kvasir_client *client = NULL;
    memset(newer.appended, 1, sizeof(newer.appended));
    assert_int_equal(kvasir_open(&newer.known, &client, NULL), 0);
    kvasir_close(client);
    assert_int_equal(kvasir_open(&older, &client, NULL), 0);
    assert_int_equal(kvasir_health(client, NULL), KVASIR_ERR_CONNECT); // port 1 of loopback: nobody
    kvasir_close(client);
}

/* ---- failures ---- */

static void test_client_tells_that_nobody_listens(void **state)
{
    (void)state;
    const struct fake_step steps[] = {{FAKE_END, NULL, 0}};
    struct fake_server *server = fake_server_start(steps, NULL);
    char url[64];
    (void)snprintf(url, sizeof(url), "%s", fake_server_url(server)); // fits
    fake_server_stop(server);                                        // the port is free again
    struct kvasir_client *client = NULL;
    struct kvasir_error error;
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = url), &client, &error), 0);
    assert_int_equal(kvasir_chat(client, CHAT(), NULL, &error), KVASIR_ERR_CONNECT);
    assert_int_equal(error.code, KVASIR_ERR_CONNECT);
    assert_non_null(strstr(error.text, url));
    kvasir_close(client);
}

static void test_client_reads_the_errors_of_vllm(void **state)
{
    (void)state;
    struct kvasir_error error;
    assert_int_equal(
        chat_reply_code("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
                        "{\"error\":{\"message\":\"too small\",\"type\":\"invalid_request_error\","
                        "\"param\":\"max_tokens\",\"code\":400}}",
                        &error),
        KVASIR_ERR_HTTP);
    assert_int_equal(error.http_status, 400);
    assert_int_equal(error.retry_after_s, -1);
    assert_string_equal(error.server_message, "too small");
    assert_string_equal(error.server_type, "invalid_request_error");
    assert_string_equal(error.server_param, "max_tokens");
    assert_string_equal(error.text,
                        "/v1/chat/completions answered with HTTP status 400: too small (field: max_tokens)");
}

static void test_client_reads_the_errors_of_others(void **state)
{
    (void)state;
    static const struct {
        const char *reply, *message;
        int status, retry_after_s;
    } CASES[] = {
        {"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "", 429, 7},
        {"HTTP/1.1 503 X\r\nContent-Length: 36\r\n\r\n{\"object\":\"error\",\"message\":\"no room\"}",
         "no room", 503, -1},
        {"HTTP/1.1 422 X\r\nConnection: close\r\n\r\n{\"detail\":\"bad body\"}", "bad body", 422, -1},
        {"HTTP/1.1 500 X\r\nConnection: close\r\n\r\n{\"error\":\"boom\"}", "boom", 500, -1},
        {"HTTP/1.1 502 X\r\nConnection: close\r\n\r\n<html>\n<body>", "", 502, -1},
        {"HTTP/1.1 500 X\r\nConnection: close\r\n\r\nout of \x1b[31mbeans\nmore", "out of  [31mbeans", 500,
         -1},
        {"HTTP/1.1 301 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "", 301, -1},
        {"HTTP/1.1 400 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{\"error\":\"no\"}",
         "no", 400, -1},
    };
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        struct kvasir_error error;
        assert_int_equal(stream_reply_code(CASES[i].reply, &error), KVASIR_ERR_HTTP);
        assert_int_equal(error.http_status, CASES[i].status);
        assert_int_equal(error.retry_after_s, CASES[i].retry_after_s);
        if (i == 1) continue; // its Content-Length is short on purpose: the JSON is cut, the status counts
        assert_string_equal(error.server_message, CASES[i].message);
    }
}

static void test_client_reads_an_error_within_the_stream(void **state)
{
    (void)state;
    struct kvasir_error error;
    assert_int_equal(stream_reply_code(FAKE_STREAM TEXT_EVENT("Hi")
                                           EVENT("{\"error\":{\"message\":\"worker died\",\"code\":500}}"),
                                       &error),
                     KVASIR_ERR_SERVER);
    assert_string_equal(error.server_message, "worker died");
}

static void test_client_tells_a_lost_connection(void **state)
{
    (void)state;
    const struct fake_step reset[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_STREAM ROLE_EVENT TEXT_EVENT("Hi"), 0}, {FAKE_RESET, NULL, 0}};
    const struct fake_step nothing[] = {{FAKE_READ, NULL, 0}, {FAKE_END, NULL, 0}};
    struct kvasir_error error;
    assert_int_equal(stream_code(reset, NULL, &error), KVASIR_ERR_LOST);
    assert_int_equal(stream_code(nothing, NULL, &error), KVASIR_ERR_LOST);
    assert_int_equal(stream_reply_code(FAKE_STREAM TEXT_EVENT("Hi") END_EVENT, &error), KVASIR_ERR_LOST);
    assert_int_equal(chat_reply_code(FAKE_JSON_HEAD(1000) "{\"choices\"", &error), KVASIR_ERR_LOST);
}

/* Every prefix of a good reply is a failure and no crash. */
static void test_client_refuses_every_prefix_of_a_reply(void **state)
{
    (void)state;
    static const char REPLY[] = FAKE_STREAM ROLE_EVENT TEXT_EVENT("Hi") "data: [DONE]\n";
    struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_SEND, REPLY, 0}, {FAKE_END, NULL, 0}};
    for (size_t len = 1; len < sizeof(REPLY); len += 1) {
        struct kvasir_error error;
        steps[1].text_bytes = len;
        assert_true(stream_code(steps, NULL, &error) < 0);
        assert_int_not_equal(error.text[0], '\0');
    }
}

static void test_client_refuses_malformed_answers(void **state)
{
    (void)state;
    static const char *const EVENTS[] = {
        "{",
        "",
        "[]",
        "null",
        "7",
        "\"x\"",
        "{}",
        "{\"choices\":{}}",
        "{\"choices\":null}",
        "{\"choices\":[7]}",
        "{\"choices\":[{\"index\":-1,\"text\":\"x\"}]}",
        "{\"choices\":[{\"index\":128,\"text\":\"x\"}]}",
        "{\"choices\":[{\"index\":1e400,\"text\":\"x\"}]}",
        "{\"choices\":[{\"index\":0.5,\"text\":\"x\"}]}",
        "{\"choices\":[{\"index\":\"0\",\"text\":\"x\"}]}",
        "{\"choices\":[{\"text\":7}]}",
        "{\"choices\":[{\"delta\":{\"content\":[]}}]}",
        "{\"choices\":[{\"delta\":{\"reasoning_content\":1}}]}",
        "{\"choices\":[{\"text\":\"x\",\"finish_reason\":1}]}",
        "{\"choices\":[]} {}",
        "{\"choices\":[],}",
        "{\"choices\":[{\"text\":\"\xFF\"}]}",
        "{\"choices\":[{\"text\":\"\\ud800\"}]}",
        "NaN",
    };
    for (size_t i = 0; i < COUNT_OF(EVENTS); i++) {
        struct kvasir_error error;
        char reply[512];
        (void)snprintf(reply, sizeof(reply), "%sdata: %s\n\ndata: [DONE]\n\n", FAKE_STREAM,
                       EVENTS[i]); // fits
        assert_int_equal(stream_reply_code(reply, &error), KVASIR_ERR_PROTOCOL);
        (void)snprintf(reply, sizeof(reply), "%s%s", FAKE_JSON, EVENTS[i]); // fits
        assert_int_equal(chat_reply_code(reply, &error), KVASIR_ERR_PROTOCOL);
    }
    struct kvasir_error error;
    assert_int_equal(chat_reply_code("SSH-2.0-OpenSSH_9.2\r\n", &error), KVASIR_ERR_PROTOCOL);
    assert_int_equal(chat_reply_code(FAKE_JSON "{\"choices\":[]}", &error), KVASIR_ERR_PROTOCOL);
}

static void test_client_refuses_deep_json(void **state)
{
    (void)state;
    static char reply[200000];
    size_t len = strlen(FAKE_JSON);
    memcpy(reply, FAKE_JSON, len);
    memset(reply + len, '[', sizeof(reply) - len - 1);
    struct kvasir_error error;
    assert_int_equal(chat_reply_code(reply, &error), KVASIR_ERR_PROTOCOL);
}

static void test_client_bounds_what_a_server_sends(void **state)
{
    (void)state;
    const struct kvasir_options options = {.size = sizeof(options),
                                           .body_bytes_max = 1 << 18,
                                           .event_bytes_max = 1 << 16,
                                           .stream_bytes_max = 1 << 20};
    static char filler[4096];
    memset(filler, 'x', sizeof(filler) - 1);
    const struct fake_step scripts[][5] = {
        {{FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_STREAM "data: ", 0}, {FAKE_SEND_FOREVER, filler, 0}},
        {{FAKE_READ, NULL, 0},
         {FAKE_SEND, FAKE_STREAM, 0},
         {FAKE_SEND_FOREVER, "data: 01234567890123456789\n", 0}},
        {{FAKE_READ, NULL, 0},
         {FAKE_SEND, FAKE_STREAM, 0},
         {FAKE_SEND_FOREVER, ": ping\n\n: ping\n\n: ping\n\n", 0}},
        {{FAKE_READ, NULL, 0},
         {FAKE_SEND, FAKE_STREAM, 0},
         {FAKE_SEND_FOREVER, TEXT_EVENT("a long stream of text"), 0}},
        {{FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON, 0}, {FAKE_SEND_FOREVER, filler, 0}},
        {{FAKE_READ, NULL, 0}, {FAKE_SEND, "HTTP/1.1 400 X\r\n\r\n", 0}, {FAKE_SEND_FOREVER, filler, 0}},
        {{FAKE_READ, NULL, 0},
         {FAKE_SEND, "HTTP/1.1 200 OK\r\n", 0},
         {FAKE_SEND_FOREVER, "X-Header: and one more\r\n", 0}},
        {{FAKE_READ, NULL, 0}, {FAKE_SEND_FOREVER, "HTTP/1.1 100 Continue\r\n\r\n", 0}},
    };
    for (size_t i = 0; i < COUNT_OF(scripts); i++) {
        struct kvasir_error error;
        assert_int_equal(stream_code(scripts[i], &options, &error), KVASIR_ERR_LIMIT);
    }
}

/* ---- time ---- */

static void test_client_gives_up_on_silence(void **state)
{
    (void)state;
    const struct kvasir_options options = {.size = sizeof(options), .idle_timeout_ms = 30};
    const struct fake_step mute[] = {{FAKE_READ, NULL, 0}, {FAKE_STALL, NULL, 0}, {FAKE_END, NULL, 0}};
    const struct fake_step midway[] = {{FAKE_READ, NULL, 0},
                                       {FAKE_SEND, FAKE_STREAM ROLE_EVENT, 0},
                                       {FAKE_STALL, NULL, 0},
                                       {FAKE_END, NULL, 0}};
    struct kvasir_error error;
    assert_int_equal(stream_code(mute, &options, &error), KVASIR_ERR_TIMEOUT);
    assert_int_equal(stream_code(midway, &options, &error), KVASIR_ERR_TIMEOUT);
    assert_non_null(strstr(error.text, "silent for 30 ms"));
}

static void test_client_bounds_the_total_time(void **state)
{
    (void)state;
    const struct kvasir_options options = {
        .size = sizeof(options), .total_timeout_ms = 30, .stream_bytes_max = SIZE_MAX};
    const struct fake_step pings[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_STREAM, 0}, {FAKE_SEND_FOREVER, ": ping\n\n", 0}};
    struct kvasir_error error;
    assert_int_equal(stream_code(pings, &options, &error), KVASIR_ERR_TIMEOUT);
    assert_non_null(strstr(error.text, "within 30 ms"));
}

static void test_client_bounds_short_calls(void **state)
{
    (void)state;
    const struct kvasir_options options = {.size = sizeof(options), .short_timeout_ms = 30};
    const struct fake_step mute[] = {{FAKE_READ, NULL, 0}, {FAKE_STALL, NULL, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    pair_open(&pair, mute, &options);
    assert_int_equal(kvasir_health(pair.client, &pair.error), KVASIR_ERR_TIMEOUT);
    pair_close(&pair);
}

/* ---- cancellation ---- */

struct canceller {
    struct fake_server *server;
    struct kvasir_cancel *cancel;
};

static void *cancel_when_stalled(void *user)
{
    struct canceller *canceller = user;
    fake_server_await(canceller->server, 1);
    kvasir_cancel_trigger(canceller->cancel);
    return NULL;
}

static void test_client_is_cancelled_from_another_thread(void **state)
{
    (void)state;
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0},
                                      {FAKE_SEND, FAKE_STREAM ROLE_EVENT, 0},
                                      {FAKE_STALL, NULL, 0},
                                      {FAKE_AWAIT_CLOSE, NULL, 0}};
    struct pair pair;
    struct canceller canceller;
    pthread_t thread;
    pair_open(&pair, steps, NULL);
    canceller.server = pair.server;
    assert_int_equal(kvasir_cancel_new(&canceller.cancel), 0);
    assert_int_equal(pthread_create(&thread, NULL, cancel_when_stalled, &canceller), 0);
    assert_int_equal(
        kvasir_chat_stream(pair.client, CHAT(.cancel = canceller.cancel), NULL, NULL, NULL, &pair.error),
        KVASIR_ERR_CANCELLED);
    pthread_join(thread, NULL);
    fake_server_release(pair.server);
    fake_server_await(pair.server, 2); // the server sees the connection go: that is how it learns

    /* Sticky until reset. */
    assert_int_equal(kvasir_chat(pair.client, CHAT(.cancel = canceller.cancel), NULL, &pair.error),
                     KVASIR_ERR_CANCELLED);
    assert_int_equal(fake_server_requests(pair.server), 1);
    kvasir_cancel_free(canceller.cancel);
    pair_close(&pair);
}

static void test_client_works_again_after_a_cancel_is_reset(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_JSON ANSWER, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    struct kvasir_cancel *cancel = NULL;
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_cancel_new(&cancel), 0);
    kvasir_cancel_trigger(cancel);
    kvasir_cancel_trigger(cancel);
    assert_int_equal(kvasir_chat(pair.client, CHAT(.cancel = cancel), NULL, &pair.error),
                     KVASIR_ERR_CANCELLED);
    kvasir_cancel_reset(cancel);
    kvasir_cancel_reset(cancel);
    assert_int_equal(kvasir_chat(pair.client, CHAT(.cancel = cancel), NULL, &pair.error), 0);
    kvasir_cancel_free(cancel);
    pair_close(&pair);
}

static void test_client_is_cancelled_by_its_callback(void **state)
{
    (void)state;
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0},
                                      {FAKE_SEND, FAKE_STREAM ROLE_EVENT TEXT_EVENT("a") TEXT_EVENT("b"), 0},
                                      {FAKE_AWAIT_CLOSE, NULL, 0}};
    struct pair pair;
    struct gather gather = {.cancel_after = 2};
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), on_delta, &gather, NULL, &pair.error),
                     KVASIR_ERR_CANCELLED);
    assert_string_equal(gather.text, "0:[];0:a[];");
    fake_server_await(pair.server, 1);
    pair_close(&pair);
}

static int call_again(void *user, const struct kvasir_delta *delta)
{
    (void)delta;
    struct pair *pair = user;
    return kvasir_health(pair->client, NULL) != KVASIR_ERR_PROTOCOL; // the stream as a health body: good
}

static void test_client_may_be_used_within_a_callback(void **state)
{
    (void)state;
    const struct fake_step steps[] = {
        {FAKE_READ, NULL, 0}, {FAKE_SEND, FAKE_STREAM WHOLE_STREAM, 0}, {FAKE_END, NULL, 0}};
    struct pair pair;
    pair_open(&pair, steps, NULL);
    assert_int_equal(kvasir_chat_stream(pair.client, CHAT(), call_again, &pair, NULL, &pair.error),
                     KVASIR_ERR_CANCELLED);
    assert_int_equal(fake_server_requests(pair.server), 2);
    pair_close(&pair);
}

/* ---- threads ---- */

enum { THREADS = 8, CALLS = 20 };

static void *call_many(void *user)
{
    struct pair *pair = user;
    for (int i = 0; i < CALLS; i++) {
        struct gather gather = {0};
        struct kvasir_error error;
        int r = kvasir_chat_stream(pair->client, CHAT(), on_delta, &gather, NULL, &error);
        if (r != 0 || strcmp(gather.text, "0:[];0:Hi é[];0:![];0:[stop];") != 0) return "a wrong answer";
    }
    return NULL;
}

static void test_client_serves_many_threads(void **state)
{
    (void)state;
    static char reply[4096];
    (void)snprintf(reply, sizeof(reply),
                   "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(WHOLE_STREAM), WHOLE_STREAM); // fits
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_SEND, reply, 0}, {FAKE_AGAIN, NULL, 0}};
    struct pair pair;
    pthread_t threads[THREADS];
    pair_open(&pair, steps, NULL);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_many, &pair), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(fake_server_requests(pair.server), THREADS * CALLS);
    assert_true(fake_server_connections(pair.server) <= THREADS);
    pair_close(&pair);
}

/* ---- other calls ---- */

static void test_client_makes_the_short_calls(void **state)
{
    (void)state;
    const struct fake_route routes[] = {
        {"/v1/models", FAKE_JSON "{\"data\":[{\"id\":\"a\",\"max_model_len\":2048},{\"id\":\"b\",\"meta\":{"
                                 "\"n_ctx\":512}},{\"id\":\"c\"}]}"},
        {"/tokenize", FAKE_JSON "{\"count\":3,\"max_model_len\":9,\"tokens\":[1,2,2147483647]}"},
        {"/detokenize", FAKE_JSON "{\"prompt\":\"a b\"}"},
        {"/health", FAKE_JSON ""},
        {"/metrics", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n# HELP x\nx 1\n"},
        {"/version", FAKE_JSON "{\"version\":\"0.1\"}"},
        {NULL, NULL}};
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_ROUTE, NULL, 0}, {FAKE_END, NULL, 0}};
    struct fake_server *server = fake_server_start(steps, routes);
    struct kvasir_client *client = NULL;
    struct kvasir_models *models = NULL;
    struct kvasir_error error;
    int32_t *tokens = NULL;
    size_t count = 0;
    char *text = NULL;
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = fake_server_url(server)), &client, &error), 0);

    assert_int_equal(kvasir_models_get(client, &models, &error), 0);
    assert_int_equal(kvasir_models_count(models), 3);
    assert_string_equal(kvasir_models_id(models, 1), "b");
    assert_string_equal(kvasir_models_id(models, 3), "");
    assert_int_equal(kvasir_models_context_tokens(models, 0), 2048);
    assert_int_equal(kvasir_models_context_tokens(models, 1), 512);
    assert_int_equal(kvasir_models_context_tokens(models, 2), 0);
    kvasir_models_free(models);

    assert_int_equal(
        kvasir_tokenize(client, NULL, "a b", KVASIR_TOKENIZE_NO_SPECIAL, &tokens, &count, &error), 0);
    assert_int_equal(count, 3);
    assert_int_equal(tokens[2], INT32_MAX);
    assert_true(fake_server_saw(server, "{\"prompt\":\"a b\",\"add_special_tokens\":false}"));
    assert_int_equal(kvasir_detokenize(client, "m", tokens, count, &text, &error), 0);
    assert_string_equal(text, "a b");
    assert_true(fake_server_saw(server, "{\"tokens\":[1,2,2147483647],\"model\":\"m\"}"));
    kvasir_memory_free(text);
    assert_int_equal(kvasir_detokenize(client, NULL, NULL, 0, &text, &error), 0);
    assert_true(fake_server_saw(server, "{\"tokens\":[]}"));
    kvasir_memory_free(text);
    kvasir_memory_free(tokens);

    assert_int_equal(kvasir_ready(client, &error), 0); // 404, so /health
    assert_true(fake_server_saw(server, "GET /health "));
    assert_int_equal(kvasir_metrics(client, &text, &error), 0);
    assert_string_equal(text, "# HELP x\nx 1\n");
    kvasir_memory_free(text);
    assert_int_equal(kvasir_server_version(client, &text, &error), 0);
    assert_string_equal(text, "0.1");
    kvasir_memory_free(text);
    kvasir_close(client);
    fake_server_stop(server);
}

static void test_client_refuses_malformed_short_answers(void **state)
{
    (void)state;
    const struct fake_route routes[] = {{"/v1/models", FAKE_JSON "{\"data\":[{\"id\":7}]}"},
                                        {"/tokenize", FAKE_JSON "{\"tokens\":[1,-2]}"},
                                        {"/detokenize", FAKE_JSON "{\"prompt\":7}"},
                                        {"/ready", "HTTP/1.1 503 X\r\nConnection: close\r\n\r\n"},
                                        {"/version", FAKE_JSON "[1]"},
                                        {NULL, NULL}};
    const struct fake_step steps[] = {{FAKE_READ, NULL, 0}, {FAKE_ROUTE, NULL, 0}, {FAKE_END, NULL, 0}};
    struct fake_server *server = fake_server_start(steps, routes);
    struct kvasir_client *client = NULL;
    struct kvasir_models *models = NULL;
    struct kvasir_error error;
    int32_t *tokens = NULL;
    size_t count = 0;
    char *text = NULL;
    assert_int_equal(kvasir_open(KVASIR_OPTIONS(.url = fake_server_url(server)), &client, &error), 0);
    assert_int_equal(kvasir_models_get(client, &models, &error), KVASIR_ERR_PROTOCOL);
    assert_int_equal(kvasir_tokenize(client, NULL, "a", 0, &tokens, &count, &error), KVASIR_ERR_PROTOCOL);
    assert_int_equal(kvasir_tokenize(client, NULL, "\xFF", 0, &tokens, &count, &error), KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_detokenize(client, NULL, NULL, 0, &text, &error), KVASIR_ERR_PROTOCOL);
    assert_int_equal(kvasir_ready(client, &error), KVASIR_ERR_HTTP);
    assert_int_equal(error.http_status, 503);
    assert_int_equal(kvasir_server_version(client, &text, &error), KVASIR_ERR_PROTOCOL);
    assert_int_equal(kvasir_metrics(client, &text, &error), KVASIR_ERR_HTTP);
    assert_null(models);
    assert_null(tokens);
    assert_null(text);
    kvasir_close(client);
    fake_server_stop(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_chat_reads_an_answer),
        cmocka_unit_test(test_client_complete_reads_several_choices),
        cmocka_unit_test(test_client_stream_hands_on_deltas_and_the_whole),
        cmocka_unit_test(test_client_stream_may_come_byte_by_byte),
        cmocka_unit_test(test_client_stream_ends_at_done_though_the_connection_stays),
        cmocka_unit_test(test_client_stream_from_a_server_that_does_not_stream),
        cmocka_unit_test(test_client_reads_reasoning_by_both_names),
        cmocka_unit_test(test_client_keeps_its_connection),
        cmocka_unit_test(test_client_speaks_over_a_unix_socket),
        cmocka_unit_test(test_client_drops_slash_and_v1_from_the_url),
        cmocka_unit_test(test_client_refuses_wrong_options),
        cmocka_unit_test(test_client_takes_older_and_newer_structs),
        cmocka_unit_test(test_client_tells_that_nobody_listens),
        cmocka_unit_test(test_client_reads_the_errors_of_vllm),
        cmocka_unit_test(test_client_reads_the_errors_of_others),
        cmocka_unit_test(test_client_reads_an_error_within_the_stream),
        cmocka_unit_test(test_client_tells_a_lost_connection),
        cmocka_unit_test(test_client_refuses_every_prefix_of_a_reply),
        cmocka_unit_test(test_client_refuses_malformed_answers),
        cmocka_unit_test(test_client_refuses_deep_json),
        cmocka_unit_test(test_client_bounds_what_a_server_sends),
        cmocka_unit_test(test_client_gives_up_on_silence),
        cmocka_unit_test(test_client_bounds_the_total_time),
        cmocka_unit_test(test_client_bounds_short_calls),
        cmocka_unit_test(test_client_is_cancelled_from_another_thread),
        cmocka_unit_test(test_client_works_again_after_a_cancel_is_reset),
        cmocka_unit_test(test_client_is_cancelled_by_its_callback),
        cmocka_unit_test(test_client_may_be_used_within_a_callback),
        cmocka_unit_test(test_client_serves_many_threads),
        cmocka_unit_test(test_client_makes_the_short_calls),
        cmocka_unit_test(test_client_refuses_malformed_short_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* test_request - requests as JSON bodies, in every field and with every refusal. */
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "client/request.h"
#include "common/base/check.h"

static const struct kvasir_message HELLO[] = {{.role = "user", .content = "a\"\\\n\x01 é"}};

static void expect_body(const struct kvasir_request *request, enum request_kind kind, bool is_stream,
                        const char *expected)
{
    char *body = NULL;
    struct kvasir_error error = {0};
    assert_int_equal(request_body(request, kind, is_stream, &body, &error), 0);
    assert_string_equal(body, expected);
    cJSON_free(body);
}

static void expect_refusal(const struct kvasir_request *request, enum request_kind kind, const char *text)
{
    char *body = NULL;
    struct kvasir_error error = {0};
    assert_int_equal(request_body(request, kind, false, &body, &error), KVASIR_ERR_ARGUMENT);
    assert_int_equal(error.code, KVASIR_ERR_ARGUMENT);
    assert_string_equal(error.text, text);
    assert_null(body);
}

static void test_request_writes_every_field(void **state)
{
    (void)state;
    const char *const stop[] = {"\n\n", "END"};
    expect_body(KVASIR_REQUEST(.model = "m", .messages = HELLO, .message_count = 1,
                               .max_tokens = KVASIR_SOME(7), .temperature = KVASIR_SOME(0),
                               .top_p = KVASIR_SOME(0.9), .top_k = KVASIR_SOME(-1),
                               .min_p = KVASIR_SOME(0.05), .seed = KVASIR_SOME(INT64_MIN),
                               .frequency_penalty = KVASIR_SOME(-2), .presence_penalty = KVASIR_SOME(1.5),
                               .stop = stop, .stop_count = 2, .choice_count = 3, .ignore_eos = 1),
                REQUEST_CHAT, true,
                "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\\\"\\\\\\n\\u0001 é\"}],"
                "\"max_tokens\":7,\"temperature\":0,\"top_p\":0.9,\"top_k\":-1,\"min_p\":0.05,"
                "\"seed\":-9223372036854775808,\"frequency_penalty\":-2,\"presence_penalty\":1.5,\"n\":3,"
                "\"ignore_eos\":true,\"stop\":[\"\\n\\n\",\"END\"],\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}}");
}

static void test_request_leaves_out_what_is_not_set(void **state)
{
    (void)state;
    expect_body(KVASIR_REQUEST(.prompt = ""), REQUEST_COMPLETE, false, "{\"prompt\":\"\"}");
}

static void test_request_writes_token_prompts(void **state)
{
    (void)state;
    const int32_t tokens[] = {0, 5, INT32_MAX};
    const int32_t negative[] = {3, -1};
    expect_body(KVASIR_REQUEST(.prompt_tokens = tokens, .prompt_token_count = 3), REQUEST_COMPLETE, false,
                "{\"prompt\":[0,5,2147483647]}");
    expect_body(KVASIR_REQUEST(.prompt_tokens = tokens), REQUEST_COMPLETE, false, "{\"prompt\":[]}");
    expect_refusal(KVASIR_REQUEST(.prompt_tokens = negative, .prompt_token_count = 2), REQUEST_COMPLETE,
                   "prompt: token 1 is negative");
}

static void test_request_lets_extra_json_add_and_replace(void **state)
{
    (void)state;
    expect_body(KVASIR_REQUEST(.prompt = "a", .max_tokens = KVASIR_SOME(3),
                               .extra_json = "{\"max_tokens\":4,\"logit_bias\":{\"7\":-1},\"echo\":true}"),
                REQUEST_COMPLETE, false,
                "{\"prompt\":\"a\",\"max_tokens\":4,\"logit_bias\":{\"7\":-1},\"echo\":true}");
    expect_body(KVASIR_REQUEST(.prompt = "a", .extra_json = "{}"), REQUEST_COMPLETE, false,
                "{\"prompt\":\"a\"}");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .extra_json = "[]"), REQUEST_COMPLETE,
                   "extra_json: not an object");
}

static void test_request_refuses_malformed_extra_json(void **state)
{
    (void)state;
    char *body = NULL;
    struct kvasir_error error = {0};
    assert_int_equal(request_body(KVASIR_REQUEST(.prompt = "a", .extra_json = "{\"a\":}"), REQUEST_COMPLETE,
                                  false, &body, &error),
                     KVASIR_ERR_ARGUMENT);
    assert_memory_equal(error.text, "extra_json: ", 12);
}

static void test_request_refuses_wrong_fields(void **state)
{
    (void)state;
    const struct kvasir_message no_role[] = {{.content = "a"}};
    const struct kvasir_message bad_text[] = {{.role = "user", .content = "a"},
                                              {.role = "user", .content = "\xC0\x80"}};
    const char *const stop[] = {"\xFF"};
    const int32_t tokens[] = {1};
    expect_refusal(KVASIR_REQUEST(.messages = HELLO), REQUEST_CHAT, "messages: a chat needs at least one");
    expect_refusal(KVASIR_REQUEST(.messages = no_role, .message_count = 1), REQUEST_CHAT, "role: NULL");
    expect_refusal(KVASIR_REQUEST(.messages = bad_text, .message_count = 2), REQUEST_CHAT,
                   "content: not UTF-8");
    expect_refusal(KVASIR_REQUEST(.model = "m"), REQUEST_COMPLETE,
                   "prompt, prompt_tokens: a completion needs one of them");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .prompt_tokens = tokens), REQUEST_COMPLETE,
                   "prompt, prompt_tokens: a completion needs one of them");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .temperature = KVASIR_SOME(NAN)), REQUEST_COMPLETE,
                   "temperature: not a finite number");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .top_p = KVASIR_SOME(INFINITY)), REQUEST_COMPLETE,
                   "top_p: not a finite number");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .choice_count = 129), REQUEST_COMPLETE,
                   "choice_count: 129 is not in 0..128");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .choice_count = -1), REQUEST_COMPLETE,
                   "choice_count: -1 is not in 0..128");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .stop = stop, .stop_count = 1), REQUEST_COMPLETE,
                   "stop: string 0 is not UTF-8");
    expect_refusal(KVASIR_REQUEST(.prompt = "a", .stop_count = 1), REQUEST_COMPLETE, "stop: NULL");
}

static void test_request_copies_structs_of_any_age(void **state)
{
    (void)state;
    struct kvasir_request given = {
        .size = offsetof(struct kvasir_request, prompt), .model = "m", .prompt = "not looked at"};
    struct kvasir_request copy;
    assert_int_equal(request_copy(&given, &copy, NULL), 0);
    assert_string_equal(copy.model, "m");
    assert_null(copy.prompt);
    given.size = 0;
    assert_int_equal(request_copy(&given, &copy, NULL), KVASIR_ERR_ARGUMENT);
    assert_int_equal(request_copy(NULL, &copy, NULL), KVASIR_ERR_ARGUMENT);
}

static void test_request_does_not_depend_on_the_locale(void **state)
{
    (void)state;
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") == NULL && setlocale(LC_NUMERIC, "de_DE") == NULL) {
        print_message("no locale with a decimal comma here: skipped\n");
        skip();
    }
    expect_body(KVASIR_REQUEST(.prompt = "a", .temperature = KVASIR_SOME(0.5)), REQUEST_COMPLETE, false,
                "{\"prompt\":\"a\",\"temperature\":0.5}");
    setlocale(LC_NUMERIC, "C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_writes_every_field),
        cmocka_unit_test(test_request_leaves_out_what_is_not_set),
        cmocka_unit_test(test_request_writes_token_prompts),
        cmocka_unit_test(test_request_lets_extra_json_add_and_replace),
        cmocka_unit_test(test_request_refuses_malformed_extra_json),
        cmocka_unit_test(test_request_refuses_wrong_fields),
        cmocka_unit_test(test_request_copies_structs_of_any_age),
        cmocka_unit_test(test_request_does_not_depend_on_the_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* params - every field at its limits and past them, wrong types, null, and the shapes of prompts and messages. The
 * limits are written out here from the API references (OpenAI, vLLM), not taken from params_fields.h. */
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
#include "daemon/params.h"
#include "tests/unit/guard.h"

enum { VOCAB = 1000 };

static struct guard guard;

static int parse(enum params_kind kind, const char *body, struct params *params, struct params_error *error)
{
    size_t len = strlen(body);
    return params_parse(kind, (const char *)guard_copy(&guard, body, len), len, VOCAB, params, error);
}

/* A body of the kind with one more member, "name":value. */
static char *body_with(enum params_kind kind, const char *member)
{
    const char *base = kind == PARAMS_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                           : "\"prompt\":\"x\"";
    char *body = NULL;
    if (asprintf(&body, "{%s%s%s}", base, member[0] ? "," : "", member) < 0) abort();
    return body;
}

static struct params accept_body(enum params_kind kind, const char *body)
{
    struct params params;
    struct params_error error;
    if (parse(kind, body, &params, &error) < 0) fail_msg("%.200s: %s", body, error.err.text);
    return params;
}

static void refuse_body(enum params_kind kind, const char *body, int status, const char *field)
{
    struct params params;
    struct params_error error;
    if (parse(kind, body, &params, &error) == 0) fail_msg("accepted: %.200s", body);
    assert_int_equal(error.status, status);
    assert_true(error.err.text[0] != 0);
    if (field && !error.field) fail_msg("%.200s: no field named", body);
    if (field) assert_string_equal(error.field, field);
    else assert_null(error.field);
}

static struct params take(enum params_kind kind, const char *member)
{
    char *body = body_with(kind, member);
    struct params params = accept_body(kind, body);
    free(body);
    return params;
}

static void accept_member(enum params_kind kind, const char *member)
{
    struct params params = take(kind, member);
    params_done(&params);
}

static void refuse_member(enum params_kind kind, const char *member, const char *field)
{
    char *body = body_with(kind, member);
    refuse_body(kind, body, 400, field);
    free(body);
}

static void refuse_value(const char *field, const char *value)
{
    char member[256];
    (void)snprintf(member, sizeof member, "\"%s\":%s", field, value);
    refuse_member(PARAMS_CHAT, member, field);
    refuse_member(PARAMS_COMPLETION, member, field);
}

static void accept_value(const char *field, const char *value)
{
    char member[256];
    (void)snprintf(member, sizeof member, "\"%s\":%s", field, value);
    accept_member(PARAMS_CHAT, member);
    accept_member(PARAMS_COMPLETION, member);
}

/* ---- numbers ---- */

static const struct {
    const char *field;
    const char *good[4], *bad[4]; // lowest, highest; just outside
} numbers[] = {
    {"temperature", {"0", "0.0", "100", "1e-30"}, {"-0.0001", "100.1"}},
    {"top_p", {"0.000001", "1", "1.0"}, {"0", "-1", "1.0001"}},
    {"min_p", {"0", "1"}, {"-0.0001", "1.0001"}},
    {"repetition_penalty", {"0.001", "100", "1"}, {"0", "-1", "100.1"}},
    {"presence_penalty", {"-2", "2"}, {"-2.0001", "2.0001"}},
    {"frequency_penalty", {"-2", "2"}, {"-2.0001", "2.0001"}},
    {"timeout", {"0.001", "30", "31536000"}, {"0", "-1", "31536001"}},
    {"top_k", {"-1", "0", "1", "2147483647"}, {"-2", "1.5", "2147483648"}},
    {"max_tokens", {"1", "2147483647", "1e3", "5.0"}, {"0", "-1", "1.5", "2147483648"}},
    {"max_completion_tokens", {"1", "2147483647"}, {"0", "-1", "1.5", "2147483648"}},
    {"n", {"1", "128"}, {"0", "-1", "129", "1.5"}},
    {"priority", {"-2147483648", "2147483647"}, {"-2147483649", "2147483648", "1.5"}},
    {"prompt_logprobs", {"0", "20"}, {"-1", "21", "1.5"}},
};

/* Each is past the limits of every number above; 1e400 is infinite as a double. */
static const char *const far[] = {
    "-2147483649", "4294967296", "-9223372036854775808", "9223372036854775808", "18446744073709551616",
    "1e400",       "-1e400"};
static const char *const wrong[] = {"\"1\"", "true", "[]", "[1]", "{}", "\"\"", "\"NaN\""};

static void test_params_numbers_have_limits(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        for (size_t k = 0; k < 4 && numbers[i].good[k]; k++)
            accept_value(numbers[i].field, numbers[i].good[k]);
        for (size_t k = 0; k < 4 && numbers[i].bad[k]; k++) refuse_value(numbers[i].field, numbers[i].bad[k]);
        for (size_t k = 0; k < COUNT_OF(far); k++) refuse_value(numbers[i].field, far[k]);
        for (size_t k = 0; k < COUNT_OF(wrong); k++) refuse_value(numbers[i].field, wrong[k]);
        accept_value(numbers[i].field, "null");
    }
}

/* NaN is no JSON: no field is at fault, the text is. */
static void test_params_refuses_nan_as_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        char member[64];
        (void)snprintf(member, sizeof member, "\"%s\":NaN", numbers[i].field);
        refuse_member(PARAMS_COMPLETION, member, NULL);
    }
    refuse_member(PARAMS_CHAT, "\"temperature\":Infinity", NULL);
    refuse_member(PARAMS_CHAT, "\"temperature\":-Infinity", NULL);
    refuse_member(PARAMS_CHAT, "\"temperature\":+1", NULL);
    refuse_member(PARAMS_CHAT, "\"temperature\":.5", NULL);
}

static void test_params_numbers_arrive(void **state)
{
    (void)state;
    struct params params = take(
        PARAMS_CHAT,
        "\"temperature\":0.5,\"top_p\":0.25,\"min_p\":0.125,\"repetition_penalty\":1.5,"
        "\"presence_penalty\":-1.5,\"frequency_penalty\":0.75,\"top_k\":40,\"n\":3,\"min_tokens\":2,"
        "\"prompt_logprobs\":4,\"max_tokens\":7,\"max_completion_tokens\":9");
    assert_true(params.sampling.temperature == 0.5F && params.sampling.top_p == 0.25F &&
                params.sampling.min_p == 0.125F);
    assert_true(params.sampling.repetition_penalty == 1.5F && params.sampling.presence_penalty == -1.5F &&
                params.sampling.frequency_penalty == 0.75F);
    assert_int_equal(params.sampling.top_k, 40);
    assert_int_equal(params.n, 3);
    assert_int_equal(params.min_tokens, 2);
    assert_int_equal(params.prompt_logprobs, 4);
    assert_int_equal(params.max_tokens, 9); // the newer name wins
    params_done(&params);
    params = take(PARAMS_CHAT, "\"top_k\":-1");
    assert_int_equal(params.sampling.top_k, 0); // off
    params_done(&params);
}

static void test_params_defaults(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct params params = take((enum params_kind)kind, "");
        assert_true(params.sampling.temperature == 1 && params.sampling.top_p == 1 &&
                    params.sampling.min_p == 0);
        assert_true(params.sampling.repetition_penalty == 1 && params.sampling.presence_penalty == 0);
        assert_int_equal(params.sampling.top_k, 0);
        assert_int_equal(params.sampling.logprobs, 0);
        assert_int_equal(params.max_tokens, kind == PARAMS_CHAT ? -1 : 16);
        assert_int_equal(params.n, 1);
        assert_int_equal(params.prompt_logprobs, -1);
        assert_int_equal(params.min_tokens, 0);
        assert_false(params.seed_given || params.stream || params.logprobs || params.echo ||
                     params.ignore_eos);
        assert_true(params.skip_special && params.add_generation_prompt);
        assert_int_equal(params.add_special_tokens, kind == PARAMS_COMPLETION);
        assert_null(params.model);
        assert_null(params.cache_salt);
        params_done(&params);
    }
}

static void test_params_min_tokens_stays_below_max_tokens(void **state)
{
    (void)state;
    refuse_member(PARAMS_CHAT, "\"min_tokens\":-1", "min_tokens");
    refuse_member(PARAMS_CHAT, "\"min_tokens\":2147483648", "min_tokens");
    accept_member(PARAMS_CHAT, "\"min_tokens\":2147483647"); // no max_tokens: the context ends it
    accept_member(PARAMS_CHAT, "\"min_tokens\":5,\"max_tokens\":5");
    refuse_member(PARAMS_CHAT, "\"min_tokens\":6,\"max_tokens\":5", "min_tokens");
    refuse_member(PARAMS_COMPLETION, "\"min_tokens\":17",
                  "min_tokens"); // its max_tokens is 16 when not given
}

/* All of 64 bits arrive, though a double holds 53. */
static void test_params_seed_is_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } seeds[] = {
        {"0", 0},
        {"-1", -1},
        {"9007199254740993", 9007199254740993},
        {" 9007199254740995 ", 9007199254740995},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
        {"1e3", 1000},
        {"12.0", 12},
        {"2147483648", INT64_C(2147483648)},
    };
    static const char *const bad[] = {"9223372036854775808",
                                      "-9223372036854775809",
                                      "1e19",
                                      "-1e19",
                                      "1e400",
                                      "1.5",
                                      "\"1\"",
                                      "true",
                                      "[1]"};
    for (size_t i = 0; i < COUNT_OF(seeds); i++) {
        char member[64];
        (void)snprintf(member, sizeof member, "\"seed\":%s", seeds[i].text);
        struct params params = take(PARAMS_CHAT, member);
        assert_true(params.seed_given);
        assert_true(params.sampling.seed == (uint64_t)seeds[i].value);
        params_done(&params);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) refuse_value("seed", bad[i]);
    struct params params = take(PARAMS_CHAT, "\"seed\":null");
    assert_false(params.seed_given);
    params_done(&params);
    params = take(PARAMS_CHAT, "\"\\u0073eed\":9007199254740992,\"user\":\"\\\"seed\\\":5\"");
    assert_true(params.sampling.seed == UINT64_C(9007199254740992));
    params_done(&params);
}

/* ---- flags ---- */

static void test_params_flags_are_true_or_false(void **state)
{
    (void)state;
    static const char *const flags[] = {"stream",
                                        "ignore_eos",
                                        "include_stop_str_in_output",
                                        "skip_special_tokens",
                                        "echo",
                                        "add_special_tokens",
                                        "add_generation_prompt",
                                        "continue_final_message",
                                        "return_token_ids",
                                        "return_tokens_as_token_ids",
                                        "return_token_strs"};
    static const char *const bad[] = {"0", "1", "\"true\"", "[]", "{}", "[true]"};
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        for (size_t k = 0; k < COUNT_OF(bad); k++) refuse_value(flags[i], bad[k]);
        accept_value(flags[i], "false");
        accept_value(flags[i], "null");
    }
    struct params params = take(PARAMS_COMPLETION,
                                "\"ignore_eos\":true,\"include_stop_str_in_output\":true,\"echo\":true,"
                                "\"skip_special_tokens\":false,\"add_special_tokens\":false,"
                                "\"return_token_ids\":true,\"return_tokens_as_token_ids\":true");
    assert_true(params.ignore_eos && params.include_stop && params.echo && params.return_token_ids &&
                params.tokens_as_ids);
    assert_false(params.skip_special || params.add_special_tokens);
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"continue_final_message\":true,\"add_generation_prompt\":false");
    refuse_member(PARAMS_CHAT, "\"continue_final_message\":true", "continue_final_message");
    refuse_member(PARAMS_CHAT, "\"echo\":true", "echo");
    refuse_member(PARAMS_COMPLETION, "\"echo\":true,\"stream\":true", "echo");
    refuse_member(PARAMS_COMPLETION, "\"prompt_logprobs\":0,\"stream\":true", "prompt_logprobs");
}

static void test_params_stream_options(void **state)
{
    (void)state;
    struct params params = take(PARAMS_CHAT, "\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    assert_true(params.stream && params.include_usage && !params.continuous_usage);
    params_done(&params);
    params = take(PARAMS_CHAT,
                  "\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":true,\"x\":1}");
    assert_true(params.continuous_usage && !params.include_usage);
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"stream_options\":null");
    refuse_member(PARAMS_CHAT, "\"stream_options\":{\"include_usage\":true}", "stream_options");
    refuse_member(PARAMS_CHAT, "\"stream\":false,\"stream_options\":{}", "stream_options");
    refuse_member(PARAMS_CHAT, "\"stream\":true,\"stream_options\":true", "stream_options");
    refuse_member(PARAMS_CHAT, "\"stream\":true,\"stream_options\":[]", "stream_options");
    refuse_member(PARAMS_CHAT, "\"stream\":true,\"stream_options\":{\"include_usage\":1}", "include_usage");
}

static void test_params_logprobs_of_chat_and_completion(void **state)
{
    (void)state;
    struct params params = take(PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":20");
    assert_true(params.logprobs);
    assert_int_equal(params.sampling.logprobs, 20);
    params_done(&params);
    params = take(PARAMS_CHAT, "\"logprobs\":true");
    assert_true(params.logprobs);
    assert_int_equal(params.sampling.logprobs, 0);
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"logprobs\":false,\"top_logprobs\":0");
    refuse_member(PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs");
    refuse_member(PARAMS_CHAT, "\"logprobs\":true,\"top_logprobs\":-1", "top_logprobs");
    refuse_member(PARAMS_CHAT, "\"top_logprobs\":1", "top_logprobs");
    refuse_member(PARAMS_CHAT, "\"logprobs\":false,\"top_logprobs\":1", "top_logprobs");
    refuse_member(PARAMS_CHAT, "\"logprobs\":1", "logprobs");
    params = take(PARAMS_COMPLETION, "\"logprobs\":0");
    assert_true(params.logprobs);
    assert_int_equal(params.sampling.logprobs, 0);
    params_done(&params);
    params = take(PARAMS_COMPLETION, "\"logprobs\":20");
    assert_int_equal(params.sampling.logprobs, 20);
    params_done(&params);
    params = take(PARAMS_COMPLETION, "\"logprobs\":null");
    assert_false(params.logprobs);
    params_done(&params);
    refuse_member(PARAMS_COMPLETION, "\"logprobs\":21", "logprobs");
    refuse_member(PARAMS_COMPLETION, "\"logprobs\":-1", "logprobs");
    refuse_member(PARAMS_COMPLETION, "\"logprobs\":true", "logprobs");
}

/* ---- stops, bias, strings ---- */

static void test_params_stop_strings_have_bounds(void **state)
{
    (void)state;
    char text[2048], many[1024] = "\"stop\":[";
    struct params params = take(PARAMS_CHAT, "\"stop\":[\"a\",\"\\u00e9\\n\"]");
    assert_int_equal(params.stop_count, 2);
    assert_int_equal(params.stops[1].len, 3);
    assert_memory_equal(params.stops[1].text, "\xC3\xA9\n", 3);
    params_done(&params);
    params = take(PARAMS_CHAT, "\"stop\":\"END\"");
    assert_int_equal(params.stop_count, 1);
    assert_string_equal(params.stops[0].text, "END");
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"stop\":[]");
    accept_member(PARAMS_CHAT, "\"stop\":null");
    refuse_member(PARAMS_CHAT, "\"stop\":\"\"", "stop");
    refuse_member(PARAMS_CHAT, "\"stop\":[\"a\",\"\"]", "stop");
    refuse_member(PARAMS_CHAT, "\"stop\":[null]", "stop");
    refuse_member(PARAMS_CHAT, "\"stop\":[1]", "stop");
    refuse_member(PARAMS_CHAT, "\"stop\":5", "stop");
    refuse_member(PARAMS_CHAT, "\"stop\":{}", "stop");
    (void)snprintf(text, sizeof text, "\"stop\":\"%0256d\"", 0);
    accept_member(PARAMS_CHAT, text);
    (void)snprintf(text, sizeof text, "\"stop\":\"%0257d\"", 0);
    refuse_member(PARAMS_CHAT, text, "stop");
    for (int i = 0; i < 16; i++) (void)strcat(many, i ? ",\"x\"" : "\"x\"");
    (void)snprintf(text, sizeof text, "%s]", many);
    accept_member(PARAMS_CHAT, text);
    (void)snprintf(text, sizeof text, "%s,\"x\"]", many);
    refuse_member(PARAMS_CHAT, text, "stop");
}

static void test_params_stop_token_ids_are_of_the_vocabulary(void **state)
{
    (void)state;
    struct params params = take(PARAMS_CHAT, "\"stop_token_ids\":[0,999]");
    assert_int_equal(params.stop_token_count, 2);
    assert_int_equal(params.stop_tokens[1], 999);
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"stop_token_ids\":[]");
    static const char *const bad[] = {"[1000]",
                                      "[-1]",
                                      "[1.5]",
                                      "[\"1\"]",
                                      "[null]",
                                      "[4294967296]",
                                      "[1e400]",
                                      "\"1\"",
                                      "1",
                                      "{}",
                                      "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) refuse_value("stop_token_ids", bad[i]);
    accept_member(PARAMS_CHAT, "\"stop_token_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]");
}

static void test_params_logit_bias_has_bounds(void **state)
{
    (void)state;
    struct params params = take(PARAMS_CHAT, "\"logit_bias\":{\"999\":-100,\"0\":100,\"7\":-0.5}");
    assert_int_equal(params.bias_count, 3);
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        if (params.biases[i].token == 999) assert_true(isinf(params.biases[i].bias)); // -100 bans
        else sum += params.biases[i].bias;
    }
    assert_true(sum == 99.5F);
    params_done(&params);
    accept_member(PARAMS_CHAT, "\"logit_bias\":{}");
    accept_member(PARAMS_CHAT, "\"logit_bias\":null");
    static const char *const bad[] = {"[]",
                                      "\"x\"",
                                      "{\"1000\":1}",
                                      "{\"-1\":1}",
                                      "{\"\":1}",
                                      "{\"1e1\":1}",
                                      "{\"1.0\":1}",
                                      "{\" 1\":1}",
                                      "{\"1 \":1}",
                                      "{\"+1\":1}",
                                      "{\"0x1\":1}",
                                      "{\"a\":1}",
                                      "{\"1\":-100.1}",
                                      "{\"1\":100.1}",
                                      "{\"1\":1e400}",
                                      "{\"1\":null}",
                                      "{\"1\":\"1\"}",
                                      "{\"1\":1,\"1\":2}",
                                      "{\"1\":1,\"01\":2}",
                                      "{\"1\":true}",
                                      "{\"4294967297\":1}",
                                      "{\"18446744073709551617\":1}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) refuse_value("logit_bias", bad[i]);
    for (int count = 1024; count <= 1025; count++) {
        struct params_error error;
        struct buf body;
        buf_init(&body, 1 << 20);
        buf_puts(&body, "{\"prompt\":\"x\",\"logit_bias\":{");
        for (int i = 0; i < count; i++) buf_printf(&body, "%s\"%d\":1", i ? "," : "", i);
        buf_puts(&body, "}}");
        int r = params_parse(PARAMS_COMPLETION, buf_text(&body), body.len, 2000, &params, &error);
        assert_int_equal(r, count == 1024 ? 0 : ERR_INPUT);
        if (r == 0) params_done(&params);
        else assert_string_equal(error.field, "logit_bias");
        buf_done(&body);
    }
}

static void test_params_strings(void **state)
{
    (void)state;
    char text[2048];
    struct params params = take(PARAMS_CHAT, "\"model\":\"m\",\"cache_salt\":\"s\"");
    assert_string_equal(params.model, "m");
    assert_string_equal(params.cache_salt, "s");
    params_done(&params);
    static const char *const bad[] = {"1", "true", "[]", "{}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        refuse_value("model", bad[i]);
        refuse_value("cache_salt", bad[i]);
    }
    refuse_value("cache_salt", "\"\"");
    (void)snprintf(text, sizeof text, "\"cache_salt\":\"%01024d\"", 0);
    accept_member(PARAMS_CHAT, text);
    (void)snprintf(text, sizeof text, "\"cache_salt\":\"%01025d\"", 0);
    refuse_member(PARAMS_CHAT, text, "cache_salt");
}

/* ---- what is not built, and what is not known ---- */

static void test_params_refuses_what_is_not_built(void **state)
{
    (void)state;
    static const struct {
        const char *field, *harmless, *bad;
    } fields[] = {
        {"allowed_token_ids", "[]", "[1]"},
        {"audio", "null", "{}"},
        {"bad_words", "[]", "[\"a\"]"},
        {"best_of", "1", "2"},
        {"chat_template", "null", "\"x\""},
        {"documents", "[]", "[{}]"},
        {"ebnf", "null", "\"x\""},
        {"function_call", "\"none\"", "\"auto\""},
        {"functions", "[]", "[{}]"},
        {"guided_choice", "null", "[\"a\"]"},
        {"guided_grammar", "null", "\"x\""},
        {"guided_json", "null", "{}"},
        {"guided_regex", "null", "\"x\""},
        {"grammar", "null", "\"x\""},
        {"json_schema", "null", "{}"},
        {"kv_transfer_params", "null", "{}"},
        {"length_penalty", "1.0", "0.9"},
        {"logits_processors", "[]", "[\"x\"]"},
        {"logprob_token_ids", "null", "[1]"},
        {"lora_path", "null", "\"x\""},
        {"mm_processor_kwargs", "null", "{}"},
        {"modalities", "[\"text\"]", "[\"text\",\"audio\"]"},
        {"prediction", "null", "{}"},
        {"prompt_embeds", "null", "\"x\""},
        {"reasoning_effort", "\"none\"", "\"high\""},
        {"regex", "null", "\"x\""},
        {"repetition_detection", "null", "{}"},
        {"response_format", "{\"type\":\"text\"}", "{\"type\":\"json_object\"}"},
        {"spaces_between_special_tokens", "true", "false"},
        {"stop_regex", "null", "\"x\""},
        {"structured_outputs", "null", "{}"},
        {"suffix", "\"\"", "\"x\""},
        {"thinking_token_budget", "null", "1"},
        {"tool_choice", "\"none\"", "\"auto\""},
        {"tools", "[]", "[{\"type\":\"function\"}]"},
        {"truncate_prompt_tokens", "null", "1"},
        {"use_beam_search", "false", "true"},
        {"vllm_xargs", "{}", "{\"a\":1}"},
        {"web_search_options", "null", "{}"},
    };
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        accept_value(fields[i].field, fields[i].harmless);
        accept_value(fields[i].field, "null");
        refuse_value(fields[i].field, fields[i].bad);
    }
    refuse_value("response_format", "{\"type\":\"text\",\"x\":1}");
    refuse_value("response_format", "{}");
}

static void test_params_accepts_unknown_fields(void **state)
{
    (void)state;
    accept_value("user", "\"me\"");
    accept_value("metadata", "{\"a\":[1,{\"b\":null}]}");
    accept_value("Temperature", "\"not the field\""); // names have one case
    accept_value("", "1");
}

/* ---- the body as a whole ---- */

static void test_params_refuses_bodies_that_are_no_object(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      " ",
                                      "null",
                                      "1",
                                      "\"x\"",
                                      "[]",
                                      "[{}]",
                                      "{",
                                      "{}x",
                                      "{]",
                                      "{,}",
                                      "{\"a\"}",
                                      "'x'",
                                      "nul",
                                      "{\"a\":1,}",
                                      "\xEF\xBB\xBF{}",
                                      "{\"prompt\":\"\xFF\"}",
                                      "{\"prompt\":\"\\ud800\"}",
                                      "{\"prompt\":\"a\",\"prompt\":\"b\"}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        refuse_body(PARAMS_CHAT, bad[i], 400, NULL);
        refuse_body(PARAMS_COMPLETION, bad[i], 400, NULL);
    }
    refuse_body(PARAMS_CHAT, "{}", 400, "messages");
    refuse_body(PARAMS_COMPLETION, "{}", 400, "prompt");
}

static void test_params_refuses_depth_and_bulk(void **state)
{
    (void)state;
    struct buf body;
    buf_init(&body, 64 << 20);
    for (int depth = 63; depth <= 64; depth++) { // inside the object: 64 and 65 levels
        buf_clear(&body);
        buf_puts(&body, "{\"prompt\":\"x\",\"y\":");
        for (int i = 0; i < depth; i++) buf_putc(&body, '[');
        for (int i = 0; i < depth; i++) buf_putc(&body, ']');
        buf_putc(&body, '}');
        if (depth == 63) {
            struct params params = accept_body(PARAMS_COMPLETION, buf_text(&body));
            params_done(&params);
        } else {
            refuse_body(PARAMS_COMPLETION, buf_text(&body), 400, NULL);
        }
    }
    buf_clear(&body);
    buf_puts(&body, "{\"prompt\":[1");
    for (int i = 0; i < JSON_VALUES_MAX; i++) buf_puts(&body, ",1");
    buf_puts(&body, "]}");
    refuse_body(PARAMS_COMPLETION, buf_text(&body), 413, NULL);
    buf_clear(&body);
    buf_puts(&body, "{\"prompt\":\"x\"");
    for (int i = 0; i < JSON_TOP_KEYS_MAX; i++) buf_printf(&body, ",\"k%d\":1", i);
    buf_puts(&body, "}");
    refuse_body(PARAMS_COMPLETION, buf_text(&body), 413, NULL);
    buf_done(&body);
}

static void test_params_refuses_every_prefix_of_a_body(void **state)
{
    (void)state;
    const char *body =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}],\"stop\":[\"a\"],\"seed\":12,"
        "\"logit_bias\":{\"5\":-1.5e0},\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
    struct params params;
    struct params_error error;
    for (size_t len = 0; len < strlen(body); len++) {
        const char *cut = (const char *)guard_copy(&guard, body, len);
        assert_int_equal(params_parse(PARAMS_CHAT, cut, len, VOCAB, &params, &error), ERR_INPUT);
        assert_int_equal(error.status, 400);
    }
    params = accept_body(PARAMS_CHAT, body);
    params_done(&params);
    params_done(&params); // a done one is fine
}

/* What nothing is borrowed from goes at once, what makes the prompt goes when it is made; the rest stays valid. */
static void test_params_keeps_only_what_it_borrows(void **state)
{
    (void)state;
    struct params params = take(PARAMS_CHAT,
                                "\"user\":\"u\",\"stop\":[\"S\"],\"model\":\"M\",\"cache_salt\":\"C\","
                                "\"prompt\":[1,2],\"chat_template_kwargs\":{\"a\":1},\"seed\":3");
    int kept = cJSON_GetArraySize(params.json);
    assert_int_equal(kept, 5); // messages, stop, model, cache_salt, chat_template_kwargs
    assert_non_null(params.template_variables);
    assert_true(params.json_bytes > 0);
    params_drop_prompt(&params);
    assert_int_equal(cJSON_GetArraySize(params.json), 3);
    assert_null(params.messages);
    assert_string_equal(params.stops[0].text, "S");
    assert_string_equal(params.model, "M");
    assert_string_equal(params.cache_salt, "C");
    params_drop_prompt(&params);
    params_done(&params);
}

/* ---- messages and prompts ---- */

static void messages(const char *text, bool good)
{
    char *body = NULL;
    if (asprintf(&body, "{\"messages\":%s}", text) < 0) abort();
    if (good) {
        struct params params = accept_body(PARAMS_CHAT, body);
        params_done(&params);
    } else {
        refuse_body(PARAMS_CHAT, body, 400, "messages");
    }
    free(body);
}

static void test_params_messages_have_a_shape(void **state)
{
    (void)state;
    messages("[{\"role\":\"user\",\"content\":\"\"}]", true);
    messages("[{\"role\":\"anything\",\"content\":\"x\",\"name\":\"n\",\"z\":[1]}]", true);
    messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
             "\"text\":\"\"}]}]",
             true);
    messages("[{\"role\":\"user\",\"content\":[]}]", true);
    messages("[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}]", true);
    messages("[{\"role\":\"assistant\",\"tool_calls\":[]}]", true);
    messages("null", false);
    messages("[]", false);
    messages("{}", false);
    messages("\"hello\"", false);
    messages("[1]", false);
    messages("[null]", false);
    messages("[[]]", false);
    messages("[[\"role\",\"user\"]]", false);
    messages("[\"hello\"]", false);
    messages("[{}]", false);
    messages("[{\"role\":\"user\"}]", false);
    messages("[{\"content\":\"x\"}]", false);
    messages("[{\"role\":\"\",\"content\":\"x\"}]", false);
    messages("[{\"role\":1,\"content\":\"x\"}]", false);
    messages("[{\"role\":\"user\",\"content\":null}]", false);
    messages("[{\"role\":\"user\",\"content\":1}]", false);
    messages("[{\"role\":\"user\",\"content\":{}}]", false);
    messages("[{\"role\":\"user\",\"content\":[\"x\"]}]", false);
    messages("[{\"role\":\"user\",\"content\":[[]]}]", false);
    messages("[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]", false);
    messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", false);
    messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}]", false);
    messages("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]",
             false);
    messages("[{\"role\":\"user\",\"content\":\"x\"},5]", false);
    refuse_member(PARAMS_CHAT, "\"chat_template_kwargs\":[]", "chat_template_kwargs");
    refuse_member(PARAMS_CHAT, "\"chat_template_kwargs\":1", "chat_template_kwargs");
    accept_member(PARAMS_CHAT, "\"chat_template_kwargs\":null");
}

/* count: of prompts; 0: refused. */
static void prompt(const char *text, uint32_t count)
{
    char *body = NULL;
    if (asprintf(&body, "{\"prompt\":%s}", text) < 0) abort();
    if (count) {
        struct params params = accept_body(PARAMS_COMPLETION, body);
        assert_int_equal(params_prompt_count(&params), count);
        for (uint32_t i = 0; i < count; i++) assert_non_null(params_prompt_at(&params, i));
        params_done(&params);
    } else {
        refuse_body(PARAMS_COMPLETION, body, 400, "prompt");
    }
    free(body);
}

static void test_params_prompts_have_four_shapes(void **state)
{
    (void)state;
    prompt("\"\"", 1);
    prompt("\"x\"", 1);
    prompt("[\"a\"]", 1);
    prompt("[\"a\",\"\",\"c\"]", 3);
    prompt("[0,999]", 1);
    prompt("[[1]]", 1);
    prompt("[[1,2],[3]]", 2);
    static const char *const bad[] = {"null",         "1",
                                      "true",         "{}",
                                      "[]",           "[[]]",
                                      "[[1],[]]",     "[null]",
                                      "[1,\"a\"]",    "[\"a\",1]",
                                      "[[1],2]",      "[\"a\",[1]]",
                                      "[1000]",       "[-1]",
                                      "[1.5]",        "[[1000]]",
                                      "[[\"a\"]]",    "[[[1]]]",
                                      "[1,null]",     "[1e400]",
                                      "[4294967296]", "[9223372036854775808]",
                                      "[{}]"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) prompt(bad[i], 0);
}

static void test_params_bounds_prompts_times_n(void **state)
{
    (void)state;
    for (int count = 127; count <= 129; count++) {
        struct buf body;
        buf_init(&body, 1 << 16);
        buf_puts(&body, "{\"prompt\":[\"x\"");
        for (int i = 1; i < count; i++) buf_puts(&body, ",\"x\"");
        buf_puts(&body, "]}");
        if (count <= 128) {
            struct params params = accept_body(PARAMS_COMPLETION, buf_text(&body));
            params_done(&params);
        } else {
            refuse_body(PARAMS_COMPLETION, buf_text(&body), 400, "prompt");
        }
        buf_done(&body);
    }
    refuse_body(PARAMS_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"n\":65}", 400, "prompt");
    refuse_body(PARAMS_COMPLETION, "{\"prompt\":[[1],[2]],\"n\":65}", 400, "prompt");
    struct params params = accept_body(PARAMS_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"n\":64}");
    params_done(&params);
}

static int guard_drop(void **state)
{
    (void)state;
    guard_done(&guard);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params_numbers_have_limits),
        cmocka_unit_test(test_params_refuses_nan_as_text),
        cmocka_unit_test(test_params_numbers_arrive),
        cmocka_unit_test(test_params_defaults),
        cmocka_unit_test(test_params_min_tokens_stays_below_max_tokens),
        cmocka_unit_test(test_params_seed_is_exact),
        cmocka_unit_test(test_params_flags_are_true_or_false),
        cmocka_unit_test(test_params_stream_options),
        cmocka_unit_test(test_params_logprobs_of_chat_and_completion),
        cmocka_unit_test(test_params_stop_strings_have_bounds),
        cmocka_unit_test(test_params_stop_token_ids_are_of_the_vocabulary),
        cmocka_unit_test(test_params_logit_bias_has_bounds),
        cmocka_unit_test(test_params_strings),
        cmocka_unit_test(test_params_refuses_what_is_not_built),
        cmocka_unit_test(test_params_accepts_unknown_fields),
        cmocka_unit_test(test_params_refuses_bodies_that_are_no_object),
        cmocka_unit_test(test_params_refuses_depth_and_bulk),
        cmocka_unit_test(test_params_refuses_every_prefix_of_a_body),
        cmocka_unit_test(test_params_keeps_only_what_it_borrows),
        cmocka_unit_test(test_params_messages_have_a_shape),
        cmocka_unit_test(test_params_prompts_have_four_shapes),
        cmocka_unit_test(test_params_bounds_prompts_times_n),
    };
    return cmocka_run_group_tests(tests, NULL, guard_drop);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* params_retention - hints of OpenAI's, Anthropic's and TensorRT-LLM's shape at their limits and past them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/params.h"

static int parse_member(const char *member, struct params *params, struct params_error *error)
{
    char body[2048];
    (void)snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],%s}", member);
    return params_parse(PARAMS_CHAT, body, strlen(body), 1000, params, error);
}

static struct params take(const char *member)
{
    struct params params;
    struct params_error error;
    if (parse_member(member, &params, &error) < 0) fail_msg("%s: %s", member, error.err.text);
    return params;
}

static void refuse_member(const char *member, const char *field)
{
    struct params params;
    struct params_error error;
    if (parse_member(member, &params, &error) == 0) fail_msg("accepted: %s", member);
    assert_int_equal(error.status, 400);
    assert_string_equal(error.field, field);
}

static void refuse_value(const char *field, const char *value)
{
    char member[1024];
    (void)snprintf(member, sizeof member, "\"%s\":%s", field, value);
    refuse_member(member, field);
}

static void take_range(const char *member, uint32_t first, uint32_t end, uint8_t level, uint32_t duration_s)
{
    struct params params = take(member);
    struct retain_range ranges[RETAIN_RANGES_MAX];
    assert_int_equal(params_retains(&params, 100, ranges), 1);
    assert_int_equal(ranges[0].first, first);
    assert_int_equal(ranges[0].end, end);
    assert_int_equal(ranges[0].hint.level, level);
    assert_int_equal(ranges[0].hint.duration_s, duration_s);
    params_done(&params);
}

static void take_no_range(const char *member)
{
    struct params params = take(member);
    assert_int_equal(params.retain_count, 0);
    params_done(&params);
}

static void test_params_retention_in_words(void **state)
{
    (void)state;
    take_no_range("\"prompt_cache_key\":\"user-7\"");
    take_no_range("\"prompt_cache_retention\":\"in_memory\"");
    take_no_range("\"prompt_cache_retention\":\"in-memory\"");
    take_no_range("\"prompt_cache_retention\":null,\"cache_control\":null");
    take_range("\"prompt_cache_retention\":\"24h\"", 0, 100, 60, 86400);
    take_range("\"cache_control\":{\"type\":\"ephemeral\"}", 0, 100, 60, 300);
    take_range("\"cache_control\":{\"type\":\"ephemeral\",\"ttl\":\"1h\"}", 0, 100, 60, 3600);
    refuse_value("prompt_cache_key", "1");
    refuse_value("prompt_cache_retention", "\"1h\"");
    refuse_value("prompt_cache_retention", "24");
    static const char *const bad[] = {"1",
                                      "\"ephemeral\"",
                                      "{}",
                                      "[]",
                                      "{\"type\":\"forever\"}",
                                      "{\"type\":\"ephemeral\",\"ttl\":\"2h\"}",
                                      "{\"type\":\"ephemeral\",\"ttl\":300}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) refuse_value("cache_control", bad[i]);
}

static void test_params_retention_of_a_part_is_that_of_the_prompt(void **state)
{
    (void)state;
    struct params params;
    struct params_error error;
    const char *body = "{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\","
                       "\"cache_control\":{\"type\":\"ephemeral\",\"ttl\":\"1h\"}}]},"
                       "{\"role\":\"user\",\"content\":\"b\",\"cache_control\":{\"type\":\"ephemeral\"}}]}";
    assert_int_equal(params_parse(PARAMS_CHAT, body, strlen(body), 1000, &params, &error), 0);
    assert_int_equal(params.retain_count, 1);
    assert_int_equal(params.retains[0].hint.duration_s, 3600);
    params_done(&params);
    body = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\","
           "\"cache_control\":{\"type\":\"x\"}}]}]}";
    assert_int_equal(params_parse(PARAMS_CHAT, body, strlen(body), 1000, &params, &error), ERR_INPUT);
    assert_string_equal(error.field, "messages");
}

#define CONFIG(text) "\"kv_cache_retention_config\":{" text "}"
#define RANGES(text) CONFIG("\"token_range_retention_configs\":[" text "]")

static void test_params_retention_in_ranges(void **state)
{
    (void)state;
    take_no_range(CONFIG(""));
    take_no_range(RANGES(""));
    take_no_range(CONFIG("\"decode_retention_priority\":35"));
    take_range(RANGES("{\"priority\":100}"), 0, 100, 100, RETAIN_FOREVER);
    take_range(RANGES("{\"token_start\":16,\"token_end\":48,\"priority\":0,\"duration_ms\":1001}"), 16, 48, 0,
               2);
    take_range(RANGES("{\"token_start\":16,\"token_end\":null,\"priority\":36,\"duration_ms\":0}"), 16, 100,
               36, 0);
    take_range(CONFIG("\"decode_retention_priority\":10,\"decode_duration_ms\":5000"), 100, UINT32_MAX, 10,
               5);
    static const char *const bad[] = {
        "1",
        "[]",
        "{\"token_range_retention_configs\":{}}",
        "{\"token_range_retention_configs\":[1]}",
        "{\"token_range_retention_configs\":[{}]}",
        "{\"token_range_retention_configs\":[{\"priority\":101}]}",
        "{\"token_range_retention_configs\":[{\"priority\":-1}]}",
        "{\"token_range_retention_configs\":[{\"priority\":50.5}]}",
        "{\"token_range_retention_configs\":[{\"priority\":50,\"token_start\":5,\"token_end\":5}]}",
        "{\"token_range_retention_configs\":[{\"priority\":50,\"token_end\":4294967296}]}",
        "{\"token_range_retention_configs\":[{\"priority\":50,\"duration_ms\":-1}]}",
        "{\"decode_retention_priority\":\"50\"}",
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) refuse_value("kv_cache_retention_config", bad[i]);
    char many[1024] = CONFIG("\"token_range_retention_configs\":[{\"priority\":1}");
    many[strlen(many) - 1] = '\0'; // the brace of CONFIG
    for (int i = 1; i < RETAIN_RANGES_MAX; i++) strcat(many, ",{\"priority\":1}");
    char whole[1100];
    (void)snprintf(whole, sizeof whole, "%s]}", many);
    struct params params = take(whole);
    assert_int_equal(params.retain_count, RETAIN_RANGES_MAX);
    params_done(&params);
    (void)snprintf(whole, sizeof whole, "%s,{\"priority\":1}]}", many);
    refuse_member(whole, "kv_cache_retention_config");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params_retention_in_words),
        cmocka_unit_test(test_params_retention_of_a_part_is_that_of_the_prompt),
        cmocka_unit_test(test_params_retention_in_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

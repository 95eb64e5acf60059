/* SPDX-License-Identifier: Apache-2.0 */
/* params_retention - how long what a request leaves in the cache is worth keeping, in the words that clients have for
 * it:
 *
 *   prompt_cache_retention     OpenAI: "in_memory" (or "in-memory") says nothing new, "24h" keeps the prompt for a day
 *   cache_control              Anthropic: {"type": "ephemeral", "ttl": "5m" | "1h"}, of the request or of a part of a
 *                              message; 5m is the default. It keeps the whole prompt: pages are found by their
 *                              tokens, so where a mark stands says nothing about what can be found again
 *   kv_cache_retention_config  TensorRT-LLM's KvCacheRetentionConfig: token_range_retention_configs, each with token_start,
 *                              token_end (null: the end of the prompt), priority (0..100, 35 is everybody's) and duration_ms
 *                              (null: for ever); decode_retention_priority and decode_duration_ms for the output
 *
 * All of them count; where two say something about a token the higher one holds. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/params_state.h"

enum {
    LEVEL_MARKED = 60, // of words without a number: above normal, below what somebody put a high number on
    DAY_S = 86400,
    DURATION_S_MAX = 365 * DAY_S,
};

static int range_add(struct params *params, struct retain_range range, const char *field,
                     struct params_error *error)
{
    if (params->retain_count == RETAIN_RANGES_MAX)
        return params_refuse(error, 400, field, "%s: at most %d hints of retention", field,
                             RETAIN_RANGES_MAX);
    params->retains[params->retain_count++] = range;
    return 0;
}

static int prompt_keep(struct params *params, uint32_t duration_s, const char *field,
                       struct params_error *error)
{
    struct retain_range range = {.end = RETAIN_OUTPUT, .hint = {LEVEL_MARKED, duration_s}};
    return range_add(params, range, field, error);
}

static int openai_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const char *field = "prompt_cache_retention";
    const cJSON *item = params_field(json, field), *key = params_field(json, "prompt_cache_key");
    if (key && !cJSON_IsString(key)) // a hint for routing; here equal prompts are found by themselves
        return params_refuse(error, 400, "prompt_cache_key", "prompt_cache_key must be a string");
    if (!item) return 0;
    const char *text = cJSON_IsString(item) ? item->valuestring : "";
    if (strcmp(text, "in_memory") == 0 || strcmp(text, "in-memory") == 0) return 0;
    if (strcmp(text, "24h") != 0)
        return params_refuse(error, 400, field, "%s must be \"in_memory\" or \"24h\"", field);
    return prompt_keep(params, DAY_S, field, error);
}

/* *duration_s: the longest so far. */
static int control_read(const cJSON *holder, const char *field, uint32_t *duration_s,
                        struct params_error *error)
{
    const cJSON *control = params_field(holder, "cache_control");
    if (!control) return 0;
    const cJSON *type = params_field(control, "type"), *ttl = params_field(control, "ttl");
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "ephemeral") != 0)
        return params_refuse(error, 400, field, "cache_control must be {\"type\": \"ephemeral\"}");
    bool is_hour = cJSON_IsString(ttl) && strcmp(ttl->valuestring, "1h") == 0;
    if (ttl && !is_hour && (!cJSON_IsString(ttl) || strcmp(ttl->valuestring, "5m") != 0))
        return params_refuse(error, 400, field, "cache_control: ttl must be \"5m\" or \"1h\"");
    uint32_t wanted_s = is_hour ? 3600 : 300;
    if (wanted_s > *duration_s) *duration_s = wanted_s;
    return 0;
}

static int controls_read(const cJSON *json, struct params *params, struct params_error *error)
{
    uint32_t duration_s = 0;
    const cJSON *messages = params->kind == PARAMS_CHAT ? params_field(json, "messages") : NULL;
    const cJSON *message, *part;
    int r = control_read(json, "cache_control", &duration_s, error);
    cJSON_ArrayForEach(message, messages)
    {
        if (r == 0) r = control_read(message, "messages", &duration_s, error);
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
        if (!cJSON_IsArray(content)) continue;
        cJSON_ArrayForEach(part, content) if (r == 0) r = control_read(part, "messages", &duration_s, error);
    }
    if (r < 0 || duration_s == 0) return r;
    return prompt_keep(params, duration_s, "cache_control", error);
}

static const char config_field[] = "kv_cache_retention_config";

/* A whole number in [0, highest]; *value stays where it is absent. */
static int number_read(const cJSON *json, const char *name, double highest, double *value,
                       struct params_error *error)
{
    const cJSON *item = params_field(json, name);
    if (!item) return 0;
    if (!params_is_integer(item) || item->valuedouble < 0 || item->valuedouble > highest)
        return params_refuse(error, 400, config_field, "%s: %s must be an integer from 0 to %.0f",
                             config_field, name, highest);
    *value = item->valuedouble;
    return 0;
}

static int hint_read(const cJSON *json, const char *level_name, const char *duration_name,
                     struct retain_hint *ret_hint, struct params_error *error)
{
    double level = RETAIN_NORMAL, duration_ms = -1;
    int r = number_read(json, level_name, RETAIN_LEVEL_MAX, &level, error);
    if (r == 0) r = number_read(json, duration_name, DURATION_S_MAX * 1e3, &duration_ms, error);
    ret_hint->level = (uint8_t)level;
    ret_hint->duration_s = duration_ms < 0 ? RETAIN_FOREVER : (uint32_t)ceil(duration_ms / 1e3);
    return r;
}

static int token_range_read(const cJSON *item, struct params *params, struct params_error *error)
{
    struct retain_range range;
    double first = 0, end = RETAIN_OUTPUT;
    if (!cJSON_IsObject(item) || !params_field(item, "priority"))
        return params_refuse(error, 400, config_field, "%s: each range must be an object with a priority",
                             config_field);
    int r = number_read(item, "token_start", RETAIN_OUTPUT - 1, &first, error);
    if (r == 0) r = number_read(item, "token_end", RETAIN_OUTPUT, &end, error);
    if (r == 0) r = hint_read(item, "priority", "duration_ms", &range.hint, error);
    if (r < 0) return r;
    if (first >= end)
        return params_refuse(error, 400, config_field, "%s: token_start must be below token_end",
                             config_field);
    range.first = (uint32_t)first;
    range.end = (uint32_t)end;
    return range_add(params, range, config_field, error);
}

static int config_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const cJSON *config = params_field(json, config_field), *item;
    if (!config) return 0;
    if (!cJSON_IsObject(config))
        return params_refuse(error, 400, config_field, "%s must be an object", config_field);
    const cJSON *ranges = params_field(config, "token_range_retention_configs");
    if (ranges && !cJSON_IsArray(ranges))
        return params_refuse(error, 400, config_field, "%s: token_range_retention_configs must be an array",
                             config_field);
    cJSON_ArrayForEach(item, ranges)
    {
        int r = token_range_read(item, params, error);
        if (r < 0) return r;
    }
    struct retain_range range = {.first = RETAIN_OUTPUT, .end = RETAIN_OUTPUT};
    int r = hint_read(config, "decode_retention_priority", "decode_duration_ms", &range.hint, error);
    if (r < 0 || range.hint.level == RETAIN_NORMAL) return r;
    return range_add(params, range, config_field, error);
}

int params_retention_read(const cJSON *json, struct params *params, struct params_error *error)
{
    int r = openai_read(json, params, error);
    if (r == 0) r = controls_read(json, params, error);
    return r == 0 ? config_read(json, params, error) : r;
}

uint32_t params_retains(const struct params *params, uint32_t prompt_count, struct retain_range *ret_ranges)
{
    for (uint32_t i = 0; i < params->retain_count; i++) {
        struct retain_range range = params->retains[i];
        if (range.first == RETAIN_OUTPUT) range.first = prompt_count;
        else if (range.end > prompt_count) range.end = prompt_count;
        ret_ranges[i] = range;
    }
    return params->retain_count;
}

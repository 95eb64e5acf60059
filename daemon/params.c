/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/params.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/json.h"
#include "daemon/params_fields.h"
#include "daemon/params_state.h"

int params_refuse(struct params_error *error, int status, const char *field, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->err.text, sizeof error->err.text, format, args); // a cut text is still a text
    va_end(args);
    error->err.code = ERR_INPUT;
    error->status = status;
    error->field = field;
    return ERR_INPUT;
}

const cJSON *params_field(const cJSON *json, const char *field)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

bool params_is_integer(const cJSON *item)
{
    return cJSON_IsNumber(item) && isfinite(item->valuedouble) &&
           item->valuedouble == trunc(item->valuedouble);
}

/* ---- scalars by table ---- */

static int float_read(const cJSON *json, const char *field, double lowest, double highest, float *value,
                      struct params_error *error)
{
    const cJSON *item = params_field(json, field);
    if (!item) return 0;
    if (!cJSON_IsNumber(item)) return params_refuse(error, 400, field, "%s must be a number", field);
    if (!(item->valuedouble >= lowest && item->valuedouble <= highest)) {
        if (lowest > 0)
            return params_refuse(error, 400, field, "%s must be above 0 and at most %g", field, highest);
        return params_refuse(error, 400, field, "%s must be between %g and %g", field, lowest, highest);
    }
    *value = (float)item->valuedouble;
    return 0;
}

static int integer_read(const cJSON *json, const char *field, int32_t lowest, int32_t highest, int32_t *value,
                        struct params_error *error)
{
    const cJSON *item = params_field(json, field);
    if (!item) return 0;
    if (!params_is_integer(item)) return params_refuse(error, 400, field, "%s must be an integer", field);
    if (item->valuedouble < lowest || item->valuedouble > highest)
        return params_refuse(error, 400, field, "%s must be between %d and %d", field, lowest, highest);
    *value = (int32_t)item->valuedouble;
    return 0;
}

static int flag_read(const cJSON *json, const char *field, bool *value, struct params_error *error)
{
    const cJSON *item = params_field(json, field);
    if (!item) return 0;
    if (!cJSON_IsBool(item)) return params_refuse(error, 400, field, "%s must be true or false", field);
    *value = cJSON_IsTrue(item);
    return 0;
}

static int scalars_read(const cJSON *json, struct params *params, struct params_error *error)
{
    int r = 0;
#define X(field, member, lowest, highest) \
    if (r == 0) r = float_read(json, field, lowest, highest, &params->member, error);
    PARAMS_FLOATS(X)
#undef X
#define X(field, member, lowest, highest) \
    if (r == 0) r = integer_read(json, field, lowest, highest, &params->member, error);
    PARAMS_INTEGERS(X)
#undef X
#define X(field, member) \
    if (r == 0) r = flag_read(json, field, &params->member, error);
    PARAMS_FLAGS(X)
#undef X
    if (params->sampling.top_k < 0) params->sampling.top_k = 0; // -1 is vLLM's "off"
    return r;
}

static int unsupported_refuse(const cJSON *json, struct params_error *error)
{
    static const struct {
        const char *field, *harmless;
    } fields[] = {
#define X(field, harmless) {field, harmless},
        PARAMS_UNSUPPORTED(X)
#undef X
    };
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        const cJSON *item = params_field(json, fields[i].field);
        if (!item) continue;
        cJSON *harmless = fields[i].harmless ? cJSON_Parse(fields[i].harmless) : NULL;
        bool ok = harmless && cJSON_Compare(item, harmless, true);
        cJSON_Delete(harmless);
        if (!ok)
            return params_refuse(error, 400, fields[i].field, "%s is not supported by this server",
                                 fields[i].field);
    }
    return 0;
}

/* ---- fields with a shape of their own ---- */

/* Bytes at the start of text that are among these. */
static size_t strspn_bounded(const char *text, size_t len, const char *among)
{
    size_t n = 0;
    while (n < len && text[n] && strchr(among, text[n])) n++;
    return n;
}

/* A double holds not every 64-bit integer: digits are read from the text, so that no two seeds are the same. */
static int seed_read(const cJSON *json, const char *body, size_t len, struct params *params,
                     struct params_error *error)
{
    const cJSON *item = params_field(json, "seed");
    if (!item) return 0;
    if (!params_is_integer(item)) return params_refuse(error, 400, "seed", "seed must be an integer");
    size_t text_len = 0;
    const char *text = json_top_value(body, len, "seed", &text_len);
    size_t digits = text ? strspn_bounded(text, text_len, "-0123456789") : 0;
    double value = item->valuedouble;
    if (digits > 0 && (digits == text_len || !strchr(".eE", text[digits]))) {
        char copy[JSON_NUMBER_BYTES_MAX + 1] = "";
        memcpy(copy, text, digits); // json_parse let no longer number through
        errno = 0;
        params->sampling.seed = (uint64_t)strtoll(copy, NULL, 10);
        if (errno == ERANGE) return params_refuse(error, 400, "seed", "seed must be a 64-bit integer");
    } else if (value >= -0x1p63 && value < 0x1p63) { // as 1e3, or under a key with escapes
        params->sampling.seed = (uint64_t)(int64_t)value;
    } else {
        return params_refuse(error, 400, "seed", "seed must be a 64-bit integer");
    }
    params->seed_given = true;
    return 0;
}

static int stop_add(struct params *params, const cJSON *item, struct params_error *error)
{
    if (!cJSON_IsString(item))
        return params_refuse(error, 400, "stop", "stop must be a string or an array of strings");
    size_t len = strlen(item->valuestring);
    if (len == 0) return params_refuse(error, 400, "stop", "stop must not hold an empty string");
    if (len > STOP_BYTES_MAX)
        return params_refuse(error, 400, "stop", "stop strings are at most %d bytes", STOP_BYTES_MAX);
    if (params->stop_count == STOP_MAX)
        return params_refuse(error, 400, "stop", "stop holds at most %d strings", STOP_MAX);
    params->stops[params->stop_count++] = (struct stop_string){item->valuestring, len};
    return 0;
}

static int stops_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const cJSON *stop = params_field(json, "stop"), *item;
    if (!stop) return 0;
    if (!cJSON_IsArray(stop)) return stop_add(params, stop, error);
    cJSON_ArrayForEach(item, stop)
    {
        int r = stop_add(params, item, error);
        if (r < 0) return r;
    }
    return 0;
}

static bool is_token_id(const cJSON *item, uint32_t vocab_count)
{
    return params_is_integer(item) && item->valuedouble >= 0 && item->valuedouble < vocab_count;
}

static int stop_tokens_read(const cJSON *json, uint32_t vocab_count, struct params *params,
                            struct params_error *error)
{
    const char *field = "stop_token_ids";
    const cJSON *ids = params_field(json, field), *item;
    if (!ids) return 0;
    if (!cJSON_IsArray(ids))
        return params_refuse(error, 400, field, "%s must be an array of token ids", field);
    cJSON_ArrayForEach(item, ids)
    {
        if (!is_token_id(item, vocab_count))
            return params_refuse(error, 400, field, "%s holds something that is no token id below %u", field,
                                 vocab_count);
        if (params->stop_token_count == STOP_MAX)
            return params_refuse(error, 400, field, "%s holds at most %d ids", field, STOP_MAX);
        params->stop_tokens[params->stop_token_count++] = (uint32_t)item->valuedouble;
    }
    return 0;
}

static int biases_compare(const void *a, const void *b)
{
    uint32_t x = ((const struct plan_bias *)a)->token, y = ((const struct plan_bias *)b)->token;
    return (x > y) - (x < y);
}

static int biases_read(const cJSON *json, uint32_t vocab_count, struct params *params,
                       struct params_error *error)
{
    const char *field = "logit_bias";
    const cJSON *map = params_field(json, field), *item;
    if (!map) return 0;
    if (!cJSON_IsObject(map))
        return params_refuse(error, 400, field, "%s must be an object of token id to number", field);
    int count = cJSON_GetArraySize(map);
    if (count > LOGIT_BIAS_MAX)
        return params_refuse(error, 400, field, "%s holds at most %d entries", field, LOGIT_BIAS_MAX);
    if (count == 0) return 0;
    params->biases = calloc((size_t)count, sizeof *params->biases);
    if (!params->biases) return params_refuse(error, 500, NULL, "out of memory");
    cJSON_ArrayForEach(item, map)
    {
        char *end;
        errno = 0;
        unsigned long id = strtoul(item->string, &end, 10);
        if (errno || *end || item->string[0] < '0' || item->string[0] > '9' || id >= vocab_count)
            return params_refuse(error, 400, field, "%s: a key is no token id below %u", field, vocab_count);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= -100 && item->valuedouble <= 100))
            return params_refuse(error, 400, field, "%s: values must be numbers between -100 and 100", field);
        /* OpenAI: -100 "should result in a ban". */
        float bias = item->valuedouble <= -100 ? -INFINITY : (float)item->valuedouble;
        params->biases[params->bias_count++] = (struct plan_bias){(uint32_t)id, bias};
    }
    qsort(params->biases, params->bias_count, sizeof *params->biases, biases_compare);
    for (uint32_t i = 1; i < params->bias_count; i++)
        if (params->biases[i].token == params->biases[i - 1].token)
            return params_refuse(error, 400, field, "%s names token %u twice", field,
                                 params->biases[i].token);
    return 0;
}

static int stream_options_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const cJSON *options = params_field(json, "stream_options");
    if (!options) return 0;
    if (!cJSON_IsObject(options))
        return params_refuse(error, 400, "stream_options", "stream_options must be an object");
    if (!params->stream)
        return params_refuse(error, 400, "stream_options",
                             "stream_options is only allowed when stream is true");
    int r = flag_read(options, "include_usage", &params->include_usage, error);
    if (r == 0) r = flag_read(options, "continuous_usage_stats", &params->continuous_usage, error);
    return r;
}

/* chat: logprobs is a flag, top_logprobs a number; completion: logprobs is the number. */
static int logprobs_read(const cJSON *json, struct params *params, struct params_error *error)
{
    int32_t count = -1;
    int r;
    if (params->kind == PARAMS_COMPLETION) {
        r = integer_read(json, "logprobs", 0, LOGPROBS_MAX, &count, error);
        params->logprobs = count >= 0;
    } else {
        r = flag_read(json, "logprobs", &params->logprobs, error);
        if (r == 0) r = integer_read(json, "top_logprobs", 0, LOGPROBS_MAX, &count, error);
        if (r == 0 && count > 0 && !params->logprobs)
            return params_refuse(error, 400, "top_logprobs", "top_logprobs needs logprobs to be true");
    }
    if (r == 0 && params->logprobs && count > 0) params->sampling.logprobs = (uint32_t)count;
    return r;
}

static int strings_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const cJSON *model = params_field(json, "model"), *salt = params_field(json, "cache_salt");
    if (model && !cJSON_IsString(model)) return params_refuse(error, 400, "model", "model must be a string");
    if (model) params->model = model->valuestring;
    if (!salt) return 0;
    if (!cJSON_IsString(salt) || !salt->valuestring[0] || strlen(salt->valuestring) > 1024)
        return params_refuse(error, 400, "cache_salt", "cache_salt must be a string of 1 to 1024 bytes");
    params->cache_salt = salt->valuestring;
    return 0;
}

/* ---- what to generate from ---- */

static int content_check(const cJSON *content, struct params_error *error)
{
    const cJSON *part;
    if (!content || cJSON_IsNull(content) || cJSON_IsString(content)) return 0;
    if (!cJSON_IsArray(content))
        return params_refuse(error, 400, "messages",
                             "messages: content must be a string or an array of parts");
    cJSON_ArrayForEach(part, content)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
        if (!cJSON_IsString(type))
            return params_refuse(error, 400, "messages", "messages: a content part needs a type");
        if (strcmp(type->valuestring, "text") != 0)
            return params_refuse(error, 400, "messages",
                                 "messages: only text content is supported by this server");
        if (!cJSON_IsString(text))
            return params_refuse(error, 400, "messages", "messages: a text part needs a text");
    }
    return 0;
}

static int messages_read(const cJSON *json, struct params *params, struct params_error *error)
{
    const cJSON *messages = params_field(json, "messages"), *message;
    if (!messages) return params_refuse(error, 400, "messages", "messages is required");
    if (!cJSON_IsArray(messages) || cJSON_GetArraySize(messages) == 0)
        return params_refuse(error, 400, "messages", "messages must be an array with at least one message");
    cJSON_ArrayForEach(message, messages)
    {
        const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
        if (!cJSON_IsObject(message))
            return params_refuse(error, 400, "messages", "messages: each message must be an object");
        if (!cJSON_IsString(role) || !role->valuestring[0])
            return params_refuse(error, 400, "messages", "messages: each message needs a role");
        int r = content_check(content, error);
        if (r < 0) return r;
        if ((!content || cJSON_IsNull(content)) && !params_field(message, "tool_calls"))
            return params_refuse(error, 400, "messages", "messages: a message needs content");
    }
    params->messages = messages;
    const cJSON *variables = params_field(json, "chat_template_kwargs");
    if (variables && !cJSON_IsObject(variables))
        return params_refuse(error, 400, "chat_template_kwargs", "chat_template_kwargs must be an object");
    params->template_variables = variables;
    if (params->continue_final_message && params->add_generation_prompt)
        return params_refuse(error, 400, "continue_final_message",
                             "continue_final_message needs add_generation_prompt to be false");
    return 0;
}

static int ids_check(const cJSON *ids, uint32_t vocab_count, struct params_error *error)
{
    const cJSON *id;
    if (cJSON_GetArraySize(ids) == 0) return params_refuse(error, 400, "prompt", "prompt must not be empty");
    cJSON_ArrayForEach(id, ids) if (!is_token_id(id, vocab_count)) return params_refuse(
        error, 400, "prompt", "prompt holds something that is no token id below %u", vocab_count);
    return 0;
}

static int prompt_read(const cJSON *json, uint32_t vocab_count, struct params *params,
                       struct params_error *error)
{
    const cJSON *prompt = params_field(json, "prompt"), *item;
    if (!prompt) return params_refuse(error, 400, "prompt", "prompt is required");
    params->prompt = prompt;
    if (cJSON_IsString(prompt)) return 0;
    if (!cJSON_IsArray(prompt) || !prompt->child)
        return params_refuse(error, 400, "prompt",
                             "prompt must be a string, an array of strings, or token ids");
    if (cJSON_IsNumber(prompt->child)) return ids_check(prompt, vocab_count, error);
    bool strings = cJSON_IsString(prompt->child);
    cJSON_ArrayForEach(item, prompt)
    {
        if (strings ? !cJSON_IsString(item) : !cJSON_IsArray(item))
            return params_refuse(error, 400, "prompt",
                                 "prompt must be a string, an array of strings, or token ids");
        int r = strings ? 0 : ids_check(item, vocab_count, error);
        if (r < 0) return r;
    }
    if (params_prompt_count(params) * (uint64_t)params->n > CHOICES_MAX)
        return params_refuse(error, 400, "prompt", "prompts times n is at most %d", CHOICES_MAX);
    return 0;
}

uint32_t params_prompt_count(const struct params *params)
{
    if (!cJSON_IsArray(params->prompt) || cJSON_IsNumber(params->prompt->child)) return 1;
    return (uint32_t)cJSON_GetArraySize(params->prompt);
}

const struct cJSON *params_prompt_at(const struct params *params, uint32_t prompt_idx)
{
    if (!cJSON_IsArray(params->prompt) || cJSON_IsNumber(params->prompt->child)) return params->prompt;
    return cJSON_GetArrayItem(params->prompt, (int)prompt_idx);
}

/* ---- the whole ---- */

static void defaults_set(enum params_kind kind, struct params *params)
{
    *params = (struct params){
        .kind = kind,
        .add_generation_prompt = true,
        .add_special_tokens = kind == PARAMS_COMPLETION,
        .skip_special = true,
        .max_tokens = kind == PARAMS_COMPLETION ? 16 : -1, // OpenAI's defaults
        .n = 1,
        .prompt_logprobs = -1,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
    };
}

static int relations_check(const struct params *params, struct params_error *error)
{
    if (params->max_tokens >= 0 && params->min_tokens > params->max_tokens)
        return params_refuse(error, 400, "min_tokens", "min_tokens must not be above max_tokens");
    if (params->echo && params->kind == PARAMS_CHAT)
        return params_refuse(error, 400, "echo", "echo is not supported for chat");
    if (params->echo && params->stream) return params_refuse(error, 400, "echo", "echo cannot be streamed");
    if (params->prompt_logprobs >= 0 && params->stream)
        return params_refuse(error, 400, "prompt_logprobs", "prompt_logprobs cannot be streamed");
    return 0;
}

/* Frees the top fields that nothing is borrowed from. */
static void rest_drop(struct params *params)
{
    bool chat = params->kind == PARAMS_CHAT;
    const char *const kept[] = {"model", "cache_salt", "stop", chat ? "messages" : "prompt",
                                chat ? "chat_template_kwargs" : "prompt"};
    for (cJSON *item = params->json->child, *next; item; item = next) {
        bool keep = false;
        next = item->next;
        for (size_t i = 0; i < COUNT_OF(kept); i++) keep |= strcmp(item->string, kept[i]) == 0;
        if (!keep) cJSON_Delete(cJSON_DetachItemViaPointer(params->json, item));
    }
}

int params_parse(enum params_kind kind, const char *body, size_t len, uint32_t vocab_count,
                 struct params *ret_params, struct params_error *error)
{
    struct params params;
    size_t values = 0;
    defaults_set(kind, &params);
    *error = (struct params_error){.status = 400};
    int r = json_parse_bounded(body, len, JSON_DEPTH_MAX, JSON_VALUES_MAX, &params.json, &values,
                               &error->err);
    if (r == ERR_LIMIT) error->status = 413;
    if (r == -ENOMEM) error->status = 500;
    if (r < 0) return r;
    params.json_bytes = len + values * JSON_VALUE_BYTES;
    const cJSON *json = params.json;
    if (!cJSON_IsObject(json)) r = params_refuse(error, 400, NULL, "the body must be a JSON object");
    if (r == 0) r = strings_read(json, &params, error);
    if (r == 0) r = scalars_read(json, &params, error);
    if (r == 0) r = unsupported_refuse(json, error);
    if (r == 0) r = seed_read(json, body, len, &params, error);
    if (r == 0) r = stops_read(json, &params, error);
    if (r == 0) r = stop_tokens_read(json, vocab_count, &params, error);
    if (r == 0) r = biases_read(json, vocab_count, &params, error);
    if (r == 0) r = params_retention_read(json, &params, error);
    if (r == 0) r = stream_options_read(json, &params, error);
    if (r == 0) r = logprobs_read(json, &params, error);
    if (r == 0)
        r = kind == PARAMS_CHAT ? messages_read(json, &params, error)
                                : prompt_read(json, vocab_count, &params, error);
    if (r == 0) r = relations_check(&params, error);
    if (r < 0) {
        params_done(&params);
        return r;
    }
    rest_drop(&params);
    *ret_params = params;
    return 0;
}

void params_drop_prompt(struct params *params)
{
    static const char *const fields[] = {"messages", "prompt", "chat_template_kwargs"};
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        cJSON_DeleteItemFromObjectCaseSensitive(params->json, fields[i]);
    params->messages = params->prompt = params->template_variables = NULL;
}

void params_done(struct params *params)
{
    cJSON_Delete(params->json);
    free(params->biases);
    *params = (struct params){0};
}

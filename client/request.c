/* SPDX-License-Identifier: Apache-2.0 */
/* request - see request.h. Built as a cJSON tree, because extra_json may replace any member; integers
 * go in as raw text, because a double would round a 64-bit seed. */
#include "client/request.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/fail.h"
#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"

_Static_assert(KVASIR_CHOICES_MAX == CHOICES_MAX, "the public bound is the daemon's");

int request_copy(const struct kvasir_request *given, struct kvasir_request *ret_request,
                 struct kvasir_error *error)
{
    if (given == NULL) return fail(error, KVASIR_ERR_ARGUMENT, "request: NULL");
    if (given->size <= sizeof(size_t) || given->size > 4 * KIB(1))
        return fail(error, KVASIR_ERR_ARGUMENT, "request.size: %zu is no size of it", given->size);
    *ret_request = (struct kvasir_request){.size = sizeof(*ret_request)};
    memcpy(ret_request, given, given->size < sizeof(*ret_request) ? given->size : sizeof(*ret_request));
    return 0;
}

static int no_memory(struct kvasir_error *error)
{
    return fail(error, KVASIR_ERR_MEMORY, "out of memory for a request");
}

static int add_text(cJSON *json, const char *key, const char *text, struct kvasir_error *error)
{
    if (text == NULL) return fail(error, KVASIR_ERR_ARGUMENT, "%s: NULL", key);
    if (!utf8_is_valid((const uint8_t *)text, strlen(text)))
        return fail(error, KVASIR_ERR_ARGUMENT, "%s: not UTF-8", key);
    return cJSON_AddStringToObject(json, key, text) != NULL ? 0 : no_memory(error);
}

static int add_int(cJSON *json, const char *key, const struct kvasir_maybe_int *number,
                   struct kvasir_error *error)
{
    if (!number->is_set) return 0;
    char digits[24];
    (void)snprintf(digits, sizeof(digits), "%" PRId64, number->value); // 20 digits and a sign fit
    return cJSON_AddRawToObject(json, key, digits) != NULL ? 0 : no_memory(error);
}

static int add_double(cJSON *json, const char *key, const struct kvasir_maybe_double *number,
                      struct kvasir_error *error)
{
    if (!number->is_set) return 0;
    if (!isfinite(number->value)) return fail(error, KVASIR_ERR_ARGUMENT, "%s: not a finite number", key);
    return cJSON_AddNumberToObject(json, key, number->value) != NULL ? 0 : no_memory(error);
}

static int add_numbers(cJSON *json, const struct kvasir_request *request, struct kvasir_error *error)
{
    int r = add_int(json, "max_tokens", &request->max_tokens, error);
    if (r == 0) r = add_double(json, "temperature", &request->temperature, error);
    if (r == 0) r = add_double(json, "top_p", &request->top_p, error);
    if (r == 0) r = add_int(json, "top_k", &request->top_k, error);
    if (r == 0) r = add_double(json, "min_p", &request->min_p, error);
    if (r == 0) r = add_int(json, "seed", &request->seed, error);
    if (r == 0) r = add_double(json, "frequency_penalty", &request->frequency_penalty, error);
    if (r == 0) r = add_double(json, "presence_penalty", &request->presence_penalty, error);
    if (r < 0) return r;
    if (request->choice_count < 0 || request->choice_count > KVASIR_CHOICES_MAX)
        return fail(error, KVASIR_ERR_ARGUMENT, "choice_count: %" PRId64 " is not in 0..%d",
                    request->choice_count, KVASIR_CHOICES_MAX);
    struct kvasir_maybe_int n = {request->choice_count > 0, request->choice_count};
    r = add_int(json, "n", &n, error);
    if (r == 0 && request->ignore_eos && cJSON_AddTrueToObject(json, "ignore_eos") == NULL)
        r = no_memory(error);
    return r;
}

static int add_messages(cJSON *json, const struct kvasir_request *request, struct kvasir_error *error)
{
    if (request->messages == NULL || request->message_count == 0)
        return fail(error, KVASIR_ERR_ARGUMENT, "messages: a chat needs at least one");
    cJSON *list = cJSON_AddArrayToObject(json, "messages");
    if (list == NULL) return no_memory(error);
    for (size_t i = 0; i < request->message_count; i++) {
        cJSON *item = cJSON_CreateObject();
        if (item == NULL) return no_memory(error);
        if (!cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            return no_memory(error);
        }
        int r = add_text(item, "role", request->messages[i].role, error);
        if (r == 0) r = add_text(item, "content", request->messages[i].content, error);
        if (r < 0) return r;
    }
    return 0;
}

/* Token ids go in as one raw text: a tree node for each of a hundred thousand would be 6 MB. */
static int add_tokens(cJSON *json, const char *key, const int32_t *tokens, size_t token_count,
                      struct kvasir_error *error)
{
    struct buf text;
    buf_init(&text, SIZE_MAX / 2);
    (void)buf_putc(&text, '['); // errors are sticky, read below
    for (size_t i = 0; i < token_count; i++) {
        if (tokens[i] < 0) {
            buf_done(&text);
            return fail(error, KVASIR_ERR_ARGUMENT, "%s: token %zu is negative", key, i);
        }
        (void)buf_printf(&text, i > 0 ? ",%" PRId32 : "%" PRId32, tokens[i]);
    }
    (void)buf_putc(&text, ']');
    int r = text.error < 0 || cJSON_AddRawToObject(json, key, buf_text(&text)) == NULL ? no_memory(error) : 0;
    buf_done(&text);
    return r;
}

static int add_prompt(cJSON *json, const struct kvasir_request *request, struct kvasir_error *error)
{
    if ((request->prompt != NULL) == (request->prompt_tokens != NULL))
        return fail(error, KVASIR_ERR_ARGUMENT, "prompt, prompt_tokens: a completion needs one of them");
    if (request->prompt != NULL) return add_text(json, "prompt", request->prompt, error);
    return add_tokens(json, "prompt", request->prompt_tokens, request->prompt_token_count, error);
}

static int add_stop(cJSON *json, const struct kvasir_request *request, struct kvasir_error *error)
{
    if (request->stop_count == 0) return 0;
    if (request->stop == NULL) return fail(error, KVASIR_ERR_ARGUMENT, "stop: NULL");
    for (size_t i = 0; i < request->stop_count; i++)
        if (request->stop[i] == NULL ||
            !utf8_is_valid((const uint8_t *)request->stop[i], strlen(request->stop[i])))
            return fail(error, KVASIR_ERR_ARGUMENT, "stop: string %zu is not UTF-8", i);
    if (request->stop_count > INT32_MAX) return fail(error, KVASIR_ERR_ARGUMENT, "stop: too many");
    cJSON *list = cJSON_CreateStringArray(request->stop, (int)request->stop_count);
    if (list == NULL) return no_memory(error);
    if (cJSON_AddItemToObject(json, "stop", list)) return 0;
    cJSON_Delete(list);
    return no_memory(error);
}

static int add_stream(cJSON *json, struct kvasir_error *error)
{
    cJSON *options = NULL;
    if (cJSON_AddTrueToObject(json, "stream") != NULL)
        options = cJSON_AddObjectToObject(json, "stream_options");
    if (options == NULL || cJSON_AddTrueToObject(options, "include_usage") == NULL) return no_memory(error);
    return 0;
}

/* Moves the members of the caller's own object over; one of the same name is replaced. */
static int add_extra(cJSON *json, const char *text, struct kvasir_error *error)
{
    struct err why = {0};
    cJSON *extra = NULL;
    if (json_parse(text, strlen(text), JSON_DEPTH_MAX, &extra, &why) < 0)
        return fail(error, KVASIR_ERR_ARGUMENT, "extra_json: %s", why.text);
    int r = 0;
    if (!cJSON_IsObject(extra)) r = fail(error, KVASIR_ERR_ARGUMENT, "extra_json: not an object");
    while (r == 0 && extra->child != NULL) {
        cJSON *item = cJSON_DetachItemViaPointer(extra, extra->child);
        cJSON_DeleteItemFromObjectCaseSensitive(json, item->string);
        if (!cJSON_AddItemToObject(json, item->string, item)) {
            cJSON_Delete(item);
            r = no_memory(error);
        }
    }
    cJSON_Delete(extra);
    return r;
}

int request_body(const struct kvasir_request *request, enum request_kind kind, bool is_stream,
                 char **ret_body, struct kvasir_error *error)
{
    cJSON *json = cJSON_CreateObject();
    if (json == NULL) return no_memory(error);
    int r = request->model != NULL ? add_text(json, "model", request->model, error) : 0;
    if (r == 0)
        r = kind == REQUEST_CHAT ? add_messages(json, request, error) : add_prompt(json, request, error);
    if (r == 0) r = add_numbers(json, request, error);
    if (r == 0) r = add_stop(json, request, error);
    if (r == 0 && is_stream) r = add_stream(json, error);
    if (r == 0 && request->extra_json != NULL) r = add_extra(json, request->extra_json, error);
    if (r == 0) {
        *ret_body = cJSON_PrintUnformatted(json);
        if (*ret_body == NULL) r = no_memory(error);
    }
    cJSON_Delete(json);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "client/answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/fail.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/limits.h"

int answer_new(size_t text_bytes_max, struct kvasir_answer **ret_answer)
{
    struct kvasir_answer *answer = calloc(1, sizeof(*answer));
    if (answer == NULL) return KVASIR_ERR_MEMORY;
    answer->text_bytes_max = text_bytes_max;
    answer->start_ns = clock_mono_ns();
    *ret_answer = answer;
    return 0;
}

void kvasir_answer_free(struct kvasir_answer *answer)
{
    if (answer == NULL) return;
    for (size_t i = 0; i < answer->choice_count; i++) {
        buf_done(&answer->choices[i].text);
        buf_done(&answer->choices[i].reasoning);
    }
    free(answer->choices);
    free(answer->json);
    free(answer);
}

int answer_parse(const char *text, size_t len, const char *what, cJSON **ret_json, struct kvasir_error *error)
{
    /* Not json_parse: what it refuses on top of the grammar (a model may well answer with a NUL, or a
     * proxy repeat a key) must not end an answer. A text is then cut at its NUL. */
    struct err why = {0};
    if (json_check(text, len, JSON_DEPTH_MAX, &why) < 0)
        return fail(error, KVASIR_ERR_PROTOCOL, "%s is not valid JSON: %s", what, why.text);
    *ret_json = cJSON_ParseWithLength(text, len);
    if (*ret_json == NULL) return fail(error, KVASIR_ERR_PROTOCOL, "%s holds JSON that cannot be read", what);
    return 0;
}

int64_t answer_count(const cJSON *number, int64_t fallback)
{
    if (!cJSON_IsNumber(number)) return fallback;
    double value = number->valuedouble;
    if (!(value >= 0 && value <= 0x1p53) || value != floor(value)) return fallback;
    return (int64_t)value;
}

static const cJSON *member(const cJSON *json, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(json, key); // NULL too when json is none or no object
}

/* The string at key; "" when absent or null; NULL when it is of another type. */
static const char *text_at(const cJSON *json, const char *key)
{
    const cJSON *item = member(json, key);
    if (item == NULL || cJSON_IsNull(item)) return "";
    return cJSON_GetStringValue(item);
}

static void copy_text(char *out, size_t cap, const char *text)
{
    if (text != NULL && text[0] != '\0') text_clean(out, cap, text, strlen(text));
}

/* NULL when out of memory. */
static struct answer_choice *choice_at(struct kvasir_answer *answer, size_t idx)
{
    if (idx < answer->choice_count) return &answer->choices[idx];
    struct answer_choice *more = realloc(answer->choices, (idx + 1) * sizeof(*more));
    if (more == NULL) return NULL;
    for (size_t i = answer->choice_count; i <= idx; i++) {
        more[i] = (struct answer_choice){0};
        buf_init(&more[i].text, answer->text_bytes_max);
        buf_init(&more[i].reasoning, answer->text_bytes_max);
    }
    answer->choices = more;
    answer->choice_count = idx + 1;
    return &more[idx];
}

static int append(struct kvasir_answer *answer, struct buf *buf, const char *text, size_t len,
                  struct kvasir_error *error)
{
    if (len == 0) return 0;
    if (len > answer->text_bytes_max - answer->text_bytes)
        return fail(error, KVASIR_ERR_LIMIT, "the answer's text is longer than %zu bytes",
                    answer->text_bytes_max);
    if (buf_append(buf, text, len) < 0) return fail_buf(error, buf->error, "the answer's text");
    answer->text_bytes += len;
    if (answer->first_ns == 0) answer->first_ns = clock_mono_ns() - answer->start_ns;
    return 0;
}

/* One element of "choices": a delta, a message or a text. */
static int read_choice(struct kvasir_answer *answer, const cJSON *item, const char *json_text,
                       struct kvasir_error *error)
{
    const cJSON *index = member(item, "index");
    int64_t idx = index == NULL ? 0 : answer_count(index, -1);
    if (!cJSON_IsObject(item) || idx < 0 || idx >= KVASIR_CHOICES_MAX)
        return fail(error, KVASIR_ERR_PROTOCOL, "the answer has a choice without a sane index");

    const cJSON *part = member(item, "delta");
    if (part == NULL) part = member(item, "message");
    const char *text = part != NULL ? text_at(part, "content") : text_at(item, "text");
    const char *reasoning = text_at(part, "reasoning_content");
    if (reasoning != NULL && reasoning[0] == '\0')
        reasoning = text_at(part, "reasoning"); // vLLM's newer name
    const char *finish_reason = text_at(item, "finish_reason");
    if (text == NULL || reasoning == NULL || finish_reason == NULL)
        return fail(error, KVASIR_ERR_PROTOCOL, "the answer's text or finish_reason is not a string");

    struct answer_choice *choice = choice_at(answer, (size_t)idx);
    if (choice == NULL) return fail(error, KVASIR_ERR_MEMORY, "out of memory for an answer");
    struct kvasir_delta delta = {.choice_idx = (size_t)idx,
                                 .text = text,
                                 .text_bytes = strlen(text),
                                 .reasoning = reasoning,
                                 .reasoning_bytes = strlen(reasoning),
                                 .json = json_text};
    int r = append(answer, &choice->text, text, delta.text_bytes, error);
    if (r == 0) r = append(answer, &choice->reasoning, reasoning, delta.reasoning_bytes, error);
    if (r < 0) return r;
    copy_text(choice->finish_reason, sizeof(choice->finish_reason), finish_reason);
    if (finish_reason[0] != '\0') delta.finish_reason = choice->finish_reason;
    if (answer->on_delta != NULL && answer->on_delta(answer->user, &delta) != 0)
        return fail(error, KVASIR_ERR_CANCELLED, "cancelled by the callback");
    return 0;
}

static void read_usage(struct kvasir_answer *answer, const cJSON *usage)
{
    if (!cJSON_IsObject(usage)) return;
    const cJSON *details = member(usage, "prompt_tokens_details");
    answer->has_usage = true;
    answer->usage = (struct kvasir_usage){
        .prompt_tokens = answer_count(member(usage, "prompt_tokens"), 0),
        .completion_tokens = answer_count(member(usage, "completion_tokens"), 0),
        .total_tokens = answer_count(member(usage, "total_tokens"), 0),
        .cached_tokens = answer_count(member(details, "cached_tokens"), -1),
    };
}

static int read_tree(struct kvasir_answer *answer, const cJSON *json, const char *json_text,
                     struct kvasir_error *error)
{
    const cJSON *choices = member(json, "choices");
    if (!cJSON_IsArray(choices)) {
        if (fail_read_json(NULL, json)) return fail_stream(error, json);
        return fail(error, KVASIR_ERR_PROTOCOL, "the answer has no choices");
    }
    copy_text(answer->id, sizeof(answer->id), text_at(json, "id"));
    copy_text(answer->model, sizeof(answer->model), text_at(json, "model"));
    read_usage(answer, member(json, "usage"));
    const cJSON *item;
    cJSON_ArrayForEach(item, choices)
    {
        int r = read_choice(answer, item, json_text, error);
        if (r < 0) return r;
    }
    return 0;
}

int answer_read(struct kvasir_answer *answer, const char *json_text, size_t json_bytes,
                struct kvasir_error *error)
{
    cJSON *json = NULL;
    int r = answer_parse(json_text, json_bytes, "the answer", &json, error);
    if (r < 0) return r;
    r = read_tree(answer, json, json_text, error);
    cJSON_Delete(json);
    return r;
}

/* ---- what the caller sees ---- */

size_t kvasir_answer_choice_count(const struct kvasir_answer *answer)
{
    return answer->choice_count;
}

static const char *text_of(const struct buf *buf, size_t *ret_bytes)
{
    if (ret_bytes != NULL) *ret_bytes = buf != NULL ? buf->len : 0;
    return buf != NULL ? buf_text(buf) : "";
}

const char *kvasir_answer_text(const struct kvasir_answer *answer, size_t choice_idx, size_t *ret_bytes)
{
    return text_of(choice_idx < answer->choice_count ? &answer->choices[choice_idx].text : NULL, ret_bytes);
}

const char *kvasir_answer_reasoning(const struct kvasir_answer *answer, size_t choice_idx, size_t *ret_bytes)
{
    return text_of(choice_idx < answer->choice_count ? &answer->choices[choice_idx].reasoning : NULL,
                   ret_bytes);
}

const char *kvasir_answer_finish_reason(const struct kvasir_answer *answer, size_t choice_idx)
{
    if (choice_idx >= answer->choice_count || answer->choices[choice_idx].finish_reason[0] == '\0')
        return NULL;
    return answer->choices[choice_idx].finish_reason;
}

const struct kvasir_usage *kvasir_answer_usage(const struct kvasir_answer *answer)
{
    return answer->has_usage ? &answer->usage : NULL;
}

const char *kvasir_answer_id(const struct kvasir_answer *answer)
{
    return answer->id;
}

const char *kvasir_answer_model(const struct kvasir_answer *answer)
{
    return answer->model;
}

const char *kvasir_answer_json(const struct kvasir_answer *answer)
{
    return answer->json;
}

uint64_t kvasir_answer_first_ns(const struct kvasir_answer *answer)
{
    return answer->first_ns;
}

uint64_t kvasir_answer_total_ns(const struct kvasir_answer *answer)
{
    return answer->total_ns;
}

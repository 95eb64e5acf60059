/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"

static int refuse(struct prompt_result *result, int status, const char *field, int code)
{
    result->error.status = status;
    result->error.field = field;
    result->error.err.code = code;
    return code;
}

static const char *prompt_field(const struct params *params)
{
    return params->kind == PARAMS_CHAT ? "messages" : "prompt";
}

/* What a failed encode means to the client. */
static int encode_refuse(const struct prompt_source *source, const struct params *params,
                         struct prompt_result *result, int r)
{
    if (r == -EMSGSIZE)
        (void)snprintf(result->error.err.text, sizeof result->error.err.text,
                       "This model's maximum context length is %u tokens, and your prompt is longer",
                       source->model_len_max);
    return refuse(result, r == -ENOMEM ? 500 : 400, prompt_field(params), r);
}

/* ---- completion prompts ---- */

static int ids_copy(const struct prompt_source *source, const struct params *params, const cJSON *ids,
                    struct token_list *list, struct prompt_result *result)
{
    const cJSON *id;
    cJSON_ArrayForEach(id, ids)
    {
        int r = list->count >= source->model_len_max ? -EMSGSIZE
                                                     : token_list_push(list, (uint32_t)id->valuedouble);
        if (r < 0) return encode_refuse(source, params, result, r);
    }
    return 0;
}

static int prompts_encode(const struct prompt_source *source, const struct params *params,
                          struct prompt_result *result)
{
    for (uint32_t i = 0; i < result->prompt_count; i++) {
        const cJSON *prompt = params_prompt_at(params, i);
        struct token_list *list = &result->prompts[i];
        if (cJSON_IsArray(prompt)) {
            int r = ids_copy(source, params, prompt, list, result);
            if (r < 0) return r;
            continue;
        }
        unsigned flags = params->add_special_tokens ? TOKENIZER_ADD_BOS : 0;
        int r = tokenizer_encode(source->tokenizer, prompt->valuestring, strlen(prompt->valuestring), flags,
                                 source->model_len_max, list, &result->error.err);
        if (r < 0) return encode_refuse(source, params, result, r);
    }
    return 0;
}

/* ---- chat ---- */

/* Text parts of a content array as one string, parts separated by newlines, as vLLM does for templates that
 * expect a string. */
static cJSON *content_flatten(const cJSON *parts)
{
    struct buf text;
    const cJSON *part;
    buf_init(&text, SIZE_MAX / 2); // the body's own limit holds
    cJSON_ArrayForEach(part, parts)
    {
        if (part != parts->child) buf_putc(&text, '\n');
        buf_puts(&text, cJSON_GetObjectItemCaseSensitive(part, "text")->valuestring);
    }
    cJSON *string = text.error ? NULL : cJSON_CreateString(buf_text(&text));
    buf_done(&text);
    return string;
}

static cJSON *messages_normalize(const cJSON *messages)
{
    cJSON *copy = cJSON_Duplicate(messages, true), *message;
    if (!copy) return NULL;
    cJSON_ArrayForEach(message, copy)
    {
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
        if (!cJSON_IsArray(content)) continue;
        cJSON *string = content_flatten(content);
        if (!string || !cJSON_ReplaceItemInObjectCaseSensitive(message, "content", string)) {
            cJSON_Delete(copy);
            return NULL;
        }
    }
    return copy;
}

/* Takes out what the server itself gives to a template: every one of several of the same name. */
static void server_names_drop(cJSON *variables)
{
    static const char *const ours[] = {"messages", "add_generation_prompt", "bos_token", "eos_token",
                                       "tools"};
    for (cJSON *item = variables->child, *next; item; item = next) {
        bool is_ours = false;
        next = item->next;
        for (size_t i = 0; i < COUNT_OF(ours); i++) is_ours |= strcmp(item->string, ours[i]) == 0;
        if (is_ours) cJSON_Delete(cJSON_DetachItemViaPointer(variables, item));
    }
}

/* The template's variables: the client's own first, which the server's then replace. */
static cJSON *variables_make(const struct params *params)
{
    cJSON *variables = params->template_variables ? cJSON_Duplicate(params->template_variables, true)
                                                  : cJSON_CreateObject();
    cJSON *messages = messages_normalize(params->messages);
    if (!variables || !messages) {
        cJSON_Delete(variables);
        cJSON_Delete(messages);
        return NULL;
    }
    server_names_drop(variables);
    bool ok = cJSON_AddItemToObject(variables, "messages", messages);
    ok = ok && cJSON_AddBoolToObject(variables, "add_generation_prompt", params->add_generation_prompt);
    if (ok) return variables;
    cJSON_Delete(variables);
    return NULL;
}

/* ---- continue_final_message ---- */

/* Where needle stands last in [text, text + len); -1: nowhere; -ENOMEM. Knuth, Morris and Pratt 1977, run from the
 * end: linear whatever the two are, where a comparison at each place is not. needle_len > 0. */
static ptrdiff_t find_last(const char *text, size_t len, const char *needle, size_t needle_len)
{
    uint32_t *borders = malloc(needle_len * sizeof *borders); // of the reversed needle's prefixes
    if (!borders) return -ENOMEM;
    const char *needle_end = needle + needle_len - 1;
    size_t matched = 0;
    ptrdiff_t found = -1;
    borders[0] = 0;
    for (size_t i = 1; i < needle_len; i++) {
        while (matched > 0 && needle_end[-(ptrdiff_t)i] != needle_end[-(ptrdiff_t)matched])
            matched = borders[matched - 1];
        matched += needle_end[-(ptrdiff_t)i] == needle_end[-(ptrdiff_t)matched];
        borders[i] = (uint32_t)matched; // a body has less than 4 GiB
    }
    matched = 0;
    for (size_t at = len; at-- > 0 && found < 0;) {
        while (matched > 0 && text[at] != needle_end[-(ptrdiff_t)matched]) matched = borders[matched - 1];
        matched += text[at] == needle_end[-(ptrdiff_t)matched];
        if (matched == needle_len) found = (ptrdiff_t)at;
    }
    free(borders);
    return found;
}

static void output_truncate(struct template_output *output, size_t len)
{
    size_t span = 0;
    output->text.len = len;
    while (span < output->span_count && output->spans[span].first < len) span++;
    output->span_count = span;
    if (span) output->spans[span - 1].len = len - output->spans[span - 1].first;
}

/* Ends the rendering where the final message's text ends. Templates may trim: what is looked for is the text
 * without white space at its ends, and white space that followed it stays where the rendering has it too, as
 * transformers does. Only the user's text is looked at: the same letters may stand in the template. */
static int final_message_cut(const cJSON *messages, struct template_output *output)
{
    const cJSON *last = cJSON_GetArrayItem(messages, cJSON_GetArraySize(messages) - 1);
    const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "content"));
    if (!content) return ERR_INPUT;
    content += strspn(content, " \t\r\n");
    size_t whole = strlen(content), len = whole;
    while (len && strchr(" \t\r\n", content[len - 1])) len--;
    if (len == 0) return ERR_INPUT;
    const char *text = buf_text(&output->text);
    for (size_t i = output->span_count; i-- > 0;) {
        const struct template_span *span = &output->spans[i];
        if (!span->is_user || span->len < len) continue;
        ptrdiff_t at = find_last(text + span->first, span->len, content, len);
        if (at == -ENOMEM) return -ENOMEM;
        if (at < 0) continue;
        bool is_whole = span->len - (size_t)at >= whole &&
                        memcmp(text + span->first + at, content, whole) == 0;
        output_truncate(output, span->first + (size_t)at + (is_whole ? whole : len));
        return 0;
    }
    return ERR_INPUT;
}

static int output_encode(const struct prompt_source *source, const struct params *params,
                         const struct template_output *output, struct prompt_result *result)
{
    struct text_span *spans = malloc((output->span_count + 1) * sizeof *spans);
    if (!spans) return refuse(result, 500, NULL, -ENOMEM);
    for (size_t i = 0; i < output->span_count; i++)
        spans[i] = (struct text_span){output->spans[i].first, output->spans[i].len, output->spans[i].is_user};
    unsigned flags = params->add_special_tokens ? TOKENIZER_ADD_BOS : 0;
    int r = tokenizer_encode_spans(source->tokenizer, buf_text(&output->text), output->text.len, spans,
                                   output->span_count, flags, source->model_len_max, &result->prompts[0],
                                   &result->error.err);
    free(spans);
    return r < 0 ? encode_refuse(source, params, result, r) : 0;
}

static int chat_encode(const struct prompt_source *source, const struct params *params, int64_t now_s,
                       struct prompt_result *result)
{
    if (!source->template) {
        (void)snprintf(result->error.err.text, sizeof result->error.err.text,
                       "this model has no chat template: use /v1/completions"); // fits
        return refuse(result, 400, "messages", ERR_UNSUPPORTED);
    }
    cJSON *variables = variables_make(params);
    if (!variables) return refuse(result, 500, NULL, -ENOMEM);
    struct template_inputs inputs = {
        .variables = variables,
        .bos_token = source->bos_text,
        .eos_token = source->eos_text,
        .now_s = now_s,
    };
    struct template_output output = {0};
    int r = template_render(source->template, &inputs, &template_limits_default, &output, &result->error.err);
    if (r < 0) {
        cJSON_Delete(variables);
        return refuse(result, r == -ENOMEM ? 500 : 400, "messages", r);
    }
    if (params->continue_final_message)
        r = final_message_cut(cJSON_GetObjectItemCaseSensitive(variables, "messages"), &output);
    cJSON_Delete(variables);
    if (r == ERR_INPUT)
        (void)snprintf(
            result->error.err.text, sizeof result->error.err.text,
            "continue_final_message: the template does not show the final message's content"); // fits
    if (r < 0) r = refuse(result, r == ERR_INPUT ? 400 : 500, "continue_final_message", r);
    else r = output_encode(source, params, &output, result);
    template_output_done(&output);
    return r;
}

int prompt_build(const struct prompt_source *source, const struct params *params, int64_t now_s,
                 struct prompt_result *ret_result)
{
    *ret_result = (struct prompt_result){0};
    uint32_t count = params->kind == PARAMS_CHAT ? 1 : params_prompt_count(params);
    ret_result->prompts = calloc(count, sizeof *ret_result->prompts);
    if (!ret_result->prompts) return refuse(ret_result, 500, NULL, -ENOMEM);
    ret_result->prompt_count = count;
    int r = params->kind == PARAMS_CHAT ? chat_encode(source, params, now_s, ret_result)
                                        : prompts_encode(source, params, ret_result);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (ret_result->prompts[i].count > 0) continue;
        (void)snprintf(ret_result->error.err.text, sizeof ret_result->error.err.text,
                       "the prompt has no tokens"); // fits
        r = refuse(ret_result, 400, prompt_field(params), ERR_INPUT);
    }
    if (r == -ENOMEM)
        (void)snprintf(ret_result->error.err.text, sizeof ret_result->error.err.text,
                       "out of memory"); // fits
    return r;
}

void prompt_result_done(struct prompt_result *result)
{
    for (uint32_t i = 0; i < result->prompt_count; i++) token_list_done(&result->prompts[i]);
    free(result->prompts);
    result->prompts = NULL;
    result->prompt_count = 0;
}

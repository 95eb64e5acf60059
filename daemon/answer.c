/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/answer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/base/utf8.h"
#include "common/text/detok.h"

static const char *finish_name(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_STOP: return "stop";
    case FINISH_LENGTH: return "length";
    case FINISH_ERROR:
    case FINISH_TIMEOUT: return "error";
    case FINISH_NONE: break;
    }
    return NULL;
}

static void put_text(struct buf *out, const char *text)
{
    buf_put_json_string(out, text, strlen(text));
}

/* -inf has no JSON form; OpenAI and vLLM write -9999 for it. */
static void put_logprob(struct buf *out, float logprob)
{
    buf_printf(out, "%.6g", isfinite(logprob) && logprob > -9999.0F ? (double)logprob : -9999.0);
}

static void put_ids(struct buf *out, const uint32_t *ids, size_t count)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < count; i++) buf_printf(out, "%s%" PRIu32, i ? "," : "", ids[i]);
    buf_putc(out, ']');
}

static void put_token_ids(struct buf *out, const struct choice_token *tokens, uint32_t count)
{
    buf_putc(out, '[');
    for (uint32_t i = 0; i < count; i++) buf_printf(out, "%s%" PRIu32, i ? "," : "", tokens[i].id);
    buf_putc(out, ']');
}

static void put_usage(struct buf *out, const struct answer_usage *usage)
{
    buf_printf(out,
               "{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64
               ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64 "}}",
               usage->prompt_tokens, usage->completion_tokens,
               usage->prompt_tokens + usage->completion_tokens, usage->cached_tokens);
}

static void put_head(struct buf *out, const struct answer_context *context, const char *object)
{
    buf_puts(out, "{\"id\":");
    put_text(out, context->id);
    buf_printf(out, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", object, context->created_s);
    put_text(out, context->model);
}

/* ---- log-probabilities ---- */

static void put_token_name(struct buf *out, const struct answer_context *context, uint32_t id)
{
    if (context->params->tokens_as_ids) {
        buf_printf(out, "\"token_id:%" PRIu32 "\"", id);
        return;
    }
    size_t len;
    const uint8_t *bytes = tokenizer_token_bytes(context->tokenizer, id, &len);
    buf_put_json_string(out, bytes, len);
}

static void put_token_bytes(struct buf *out, const struct answer_context *context, uint32_t id)
{
    size_t len;
    const uint8_t *bytes = tokenizer_token_bytes(context->tokenizer, id, &len);
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < len; i++) buf_printf(out, "%s%u", i ? "," : "", bytes[i]);
    buf_putc(out, ']');
}

static void put_chat_entry(struct buf *out, const struct answer_context *context, uint32_t id, float logprob)
{
    buf_puts(out, "{\"token\":");
    put_token_name(out, context, id);
    buf_puts(out, ",\"logprob\":");
    put_logprob(out, logprob);
    put_token_bytes(out, context, id);
}

/* Alternatives to show: the engine may have been asked for more, for prompt_logprobs. */
static uint32_t tops_shown(const struct choice_token *token, uint32_t tops_max)
{
    return token->top_count < tops_max ? token->top_count : tops_max;
}

static void put_chat_logprobs(struct buf *out, const struct answer_context *context,
                              const struct choice_tokens *tokens, uint32_t first)
{
    buf_puts(out, "{\"content\":[");
    for (uint32_t i = first; i < tokens->count; i++) {
        const struct choice_token *token = &tokens->items[i];
        if (i > first) buf_putc(out, ',');
        put_chat_entry(out, context, token->id, token->logprob);
        buf_puts(out, ",\"top_logprobs\":[");
        uint32_t top_count = tops_shown(token, context->params->sampling.logprobs);
        for (uint32_t k = 0; k < top_count; k++) {
            const struct done_top *top = &tokens->tops[token->top_first + k];
            if (k) buf_putc(out, ',');
            put_chat_entry(out, context, top->token, top->logprob);
            buf_putc(out, '}');
        }
        buf_puts(out, "]}");
    }
    buf_puts(out, "]}");
}

/* Whether put_token_name writes the same for both: two tokens may have one text, and all bytes that are no
 * character look alike. */
static bool names_are_equal(const struct answer_context *context, uint32_t a, uint32_t b)
{
    size_t a_len, b_len;
    if (a == b || context->params->tokens_as_ids) return a == b;
    const uint8_t *a_bytes = tokenizer_token_bytes(context->tokenizer, a, &a_len);
    const uint8_t *b_bytes = tokenizer_token_bytes(context->tokenizer, b, &b_len);
    if (a_len == b_len && memcmp(a_bytes, b_bytes, a_len) == 0) return true;
    if (utf8_is_valid(a_bytes, a_len) && utf8_is_valid(b_bytes, b_len)) return false;
    struct buf a_name, b_name;
    buf_init(&a_name, SIZE_MAX / 2);
    buf_init(&b_name, SIZE_MAX / 2);
    buf_put_json_string(&a_name, a_bytes, a_len);
    buf_put_json_string(&b_name, b_bytes, b_len);
    bool equal = a_name.len == b_name.len && memcmp(buf_text(&a_name), buf_text(&b_name), a_name.len) == 0;
    buf_done(&a_name);
    buf_done(&b_name);
    return equal;
}

/* {"token": logprob, ...} of the alternatives and the token itself; of equal names the likeliest alone. */
static void put_top_map(struct buf *out, const struct answer_context *context,
                        const struct choice_tokens *tokens, const struct choice_token *token)
{
    const struct done_top *tops = token->top_count ? &tokens->tops[token->top_first] : NULL;
    const struct done_top self = {token->id, token->logprob};
    uint32_t top_count = tops_shown(token, context->params->sampling.logprobs);
    buf_putc(out, '{');
    for (uint32_t k = 0; k <= top_count; k++) {
        const struct done_top *top = k < top_count ? &tops[k] : &self;
        bool is_known = false;
        for (uint32_t i = 0; i < k; i++) is_known |= names_are_equal(context, tops[i].token, top->token);
        if (is_known) continue;
        if (k) buf_putc(out, ',');
        put_token_name(out, context, top->token);
        buf_putc(out, ':');
        put_logprob(out, top->logprob);
    }
    buf_putc(out, '}');
}

/* The tokens a completion's logprobs speak of: with echo the prompt's, then the output's. */
struct logprob_walk {
    const struct answer_context *context;
    const struct choice *choice;
    uint32_t output_first; // output tokens from here on
    bool echo;
};

enum logprob_column { COLUMN_TOKENS, COLUMN_LOGPROBS, COLUMN_TOPS, COLUMN_OFFSETS };

static void put_column_entry(struct buf *out, const struct logprob_walk *walk, enum logprob_column column,
                             const struct choice_tokens *tokens, const struct choice_token *token,
                             size_t offset)
{
    switch (column) {
    case COLUMN_TOKENS: put_token_name(out, walk->context, token->id); break;
    case COLUMN_LOGPROBS: put_logprob(out, token->logprob); break;
    case COLUMN_TOPS: put_top_map(out, walk->context, tokens, token); break;
    case COLUMN_OFFSETS: buf_printf(out, "%zu", offset); break;
    }
}

/* The prompt's entries of a column. -> characters of the prompt's text. */
static size_t put_prompt_column(struct buf *out, const struct logprob_walk *walk, enum logprob_column column)
{
    const struct choice *choice = walk->choice;
    const struct token_list *prompt = &walk->context->prompts[choice->prompt_idx];
    struct detok detok; // as put_echo_text
    struct buf text;
    size_t offset = 0;
    detok_init(&detok, walk->context->tokenizer, walk->context->params->skip_special);
    buf_init(&text, out->bytes_max);
    for (size_t i = 0; i < prompt->count; i++) {
        struct choice_token token = {.id = prompt->ids[i]};
        bool scored = i > 0 && i - 1 < choice->scores.count;
        if (i) buf_putc(out, ',');
        if (!scored && (column == COLUMN_LOGPROBS || column == COLUMN_TOPS)) buf_puts(out, "null");
        else
            put_column_entry(out, walk, column, &choice->scores,
                             scored ? &choice->scores.items[i - 1] : &token, offset);
        buf_clear(&text);
        (void)detok_push(&detok, prompt->ids[i], &text);              // its error is sticky in text
        if (i + 1 == prompt->count) (void)detok_flush(&detok, &text); // as above
        offset += utf8_count(text.bytes, text.len);
        if (text.error) out->error = text.error;
    }
    buf_done(&text);
    return offset;
}

/* Offsets are in characters, as OpenAI and vLLM count them. */
static void put_column(struct buf *out, const struct logprob_walk *walk, enum logprob_column column)
{
    const struct choice *choice = walk->choice;
    size_t offset = 0;
    bool any = walk->echo;
    buf_putc(out, '[');
    if (walk->echo) offset = put_prompt_column(out, walk, column);
    for (uint32_t i = walk->output_first; i < choice->tokens.count; i++, any = true) {
        size_t start = offset + (i ? choice->tokens.items[i - 1].text_end : 0);
        if (any) buf_putc(out, ',');
        put_column_entry(out, walk, column, &choice->tokens, &choice->tokens.items[i], start);
    }
    buf_putc(out, ']');
}

static void put_completion_logprobs(struct buf *out, const struct answer_context *context,
                                    const struct choice *choice, uint32_t first, bool echo)
{
    struct logprob_walk walk = {context, choice, first, echo};
    buf_puts(out, "{\"tokens\":");
    put_column(out, &walk, COLUMN_TOKENS);
    buf_puts(out, ",\"token_logprobs\":");
    put_column(out, &walk, COLUMN_LOGPROBS);
    buf_puts(out, ",\"top_logprobs\":");
    put_column(out, &walk, COLUMN_TOPS);
    buf_puts(out, ",\"text_offset\":");
    put_column(out, &walk, COLUMN_OFFSETS);
    buf_putc(out, '}');
}

static void put_logprobs(struct buf *out, const struct answer_context *context, const struct choice *choice,
                         uint32_t first, bool echo)
{
    buf_puts(out, ",\"logprobs\":");
    if (!context->params->logprobs) buf_puts(out, "null");
    else if (context->params->kind == PARAMS_CHAT) put_chat_logprobs(out, context, &choice->tokens, first);
    else put_completion_logprobs(out, context, choice, first, echo);
}

static void put_prompt_entry(struct buf *out, const struct answer_context *context, uint32_t id,
                             float logprob, uint32_t rank)
{
    size_t len;
    const uint8_t *bytes = tokenizer_token_bytes(context->tokenizer, id, &len);
    buf_printf(out, "\"%" PRIu32 "\":{\"logprob\":", id);
    put_logprob(out, logprob);
    buf_printf(out, ",\"rank\":%" PRIu32 ",\"decoded_token\":", rank);
    buf_put_json_string(out, bytes, len);
    buf_putc(out, '}');
}

/* vLLM's prompt_logprobs: null for the first token, then a map by token id. */
static void put_prompt_logprobs(struct buf *out, const struct answer_context *context,
                                const struct choice *choice)
{
    if (context->params->prompt_logprobs < 0) return;
    buf_puts(out, ",\"prompt_logprobs\":[null");
    for (uint32_t i = 0; i < choice->scores.count; i++) {
        const struct choice_token *token = &choice->scores.items[i];
        bool has_token = false;
        uint32_t top_count = tops_shown(token, (uint32_t)context->params->prompt_logprobs);
        buf_puts(out, ",{");
        for (uint32_t k = 0; k < top_count; k++) {
            const struct done_top *top = &choice->scores.tops[token->top_first + k];
            if (k) buf_putc(out, ',');
            put_prompt_entry(out, context, top->token, top->logprob, k + 1);
            has_token |= top->token == token->id;
        }
        if (!has_token) {
            if (top_count) buf_putc(out, ',');
            put_prompt_entry(out, context, token->id, token->logprob, token->rank);
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

/* ---- whole answers ---- */

static void put_finish(struct buf *out, const struct params *params, const struct choice *choice)
{
    const char *name = finish_name(choice->finish);
    buf_puts(out, ",\"finish_reason\":");
    if (name) put_text(out, name);
    else buf_puts(out, "null");
    buf_puts(out, ",\"stop_reason\":");
    if (choice->stop_idx >= 0) put_text(out, params->stops[choice->stop_idx].text);
    else if (choice->stop_token != TOKEN_NONE) buf_printf(out, "%" PRIu32, choice->stop_token);
    else buf_puts(out, "null");
}

static void put_echo_text(struct buf *out, const struct answer_context *context, const struct choice *choice)
{
    struct buf text;
    struct detok detok;
    const struct token_list *prompt = &context->prompts[choice->prompt_idx];
    buf_init(&text, out->bytes_max);
    detok_init(&detok, context->tokenizer, context->params->skip_special);
    for (size_t i = 0; i < prompt->count; i++)
        (void)detok_push(&detok, prompt->ids[i], &text); // a sticky error shows below
    (void)detok_flush(&detok, &text);                    // as above
    buf_append(&text, choice->text.bytes, choice->text.len);
    if (text.error) out->error = text.error;
    buf_put_json_string(out, buf_text(&text), text.len);
    buf_done(&text);
}

static void put_choice(struct buf *out, const struct answer_context *context, const struct choice *choice)
{
    const struct params *params = context->params;
    buf_printf(out, "{\"index\":%" PRIu32, choice->index);
    if (params->kind == PARAMS_CHAT) {
        buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
        buf_put_json_string(out, buf_text(&choice->text), choice->text.len);
        buf_putc(out, '}');
    } else {
        buf_puts(out, ",\"text\":");
        if (params->echo) put_echo_text(out, context, choice);
        else buf_put_json_string(out, buf_text(&choice->text), choice->text.len);
    }
    put_logprobs(out, context, choice, 0, params->echo);
    put_finish(out, params, choice);
    if (params->kind == PARAMS_COMPLETION) put_prompt_logprobs(out, context, choice);
    if (params->return_token_ids) {
        buf_puts(out, ",\"token_ids\":");
        put_token_ids(out, choice->tokens.items, choice->tokens.count);
        if (params->kind == PARAMS_COMPLETION) {
            const struct token_list *prompt = &context->prompts[choice->prompt_idx];
            buf_puts(out, ",\"prompt_token_ids\":");
            put_ids(out, prompt->ids, prompt->count);
        }
    }
    buf_putc(out, '}');
}

void answer_write(struct buf *out, const struct answer_context *context, const struct choice *choices,
                  uint32_t choice_count, const struct answer_usage *usage)
{
    const struct params *params = context->params;
    put_head(out, context, params->kind == PARAMS_CHAT ? "chat.completion" : "text_completion");
    buf_puts(out, ",\"choices\":[");
    for (uint32_t i = 0; i < choice_count; i++) {
        if (i) buf_putc(out, ',');
        put_choice(out, context, &choices[i]);
    }
    buf_puts(out, "],\"usage\":");
    put_usage(out, usage);
    if (params->kind == PARAMS_CHAT) {
        put_prompt_logprobs(out, context, &choices[0]);
        if (params->return_token_ids) {
            buf_puts(out, ",\"prompt_token_ids\":");
            put_ids(out, context->prompts[0].ids, context->prompts[0].count);
        }
    }
    buf_putc(out, '}');
}

/* ---- streams ---- */

static void put_delta(struct buf *out, const struct answer_context *context, struct choice *choice,
                      const struct generation_update *update)
{
    if (context->params->kind == PARAMS_COMPLETION) {
        buf_puts(out, ",\"text\":");
        buf_put_json_string(out, update->text, update->text_len);
        return;
    }
    buf_puts(out, ",\"delta\":{");
    if (!choice->role_sent) buf_puts(out, "\"role\":\"assistant\",");
    choice->role_sent = true;
    buf_puts(out, "\"content\":");
    buf_put_json_string(out, update->text, update->text_len);
    buf_putc(out, '}');
}

void answer_write_chunk(struct buf *out, const struct answer_context *context, struct choice *choice,
                        const struct generation_update *update, const struct answer_usage *usage)
{
    const struct params *params = context->params;
    uint32_t first = choice->tokens.count - (update->token != NULL);
    bool is_first = first == 0;
    buf_puts(out, "data: ");
    put_head(out, context, params->kind == PARAMS_CHAT ? "chat.completion.chunk" : "text_completion");
    buf_printf(out, ",\"choices\":[{\"index\":%" PRIu32, choice->index);
    put_delta(out, context, choice, update);
    put_logprobs(out, context, choice, first, false);
    put_finish(out, params, choice);
    if (params->return_token_ids) {
        buf_puts(out, ",\"token_ids\":");
        put_token_ids(out, choice->tokens.items + first, choice->tokens.count - first);
        if (is_first && params->kind == PARAMS_COMPLETION) {
            const struct token_list *prompt = &context->prompts[choice->prompt_idx];
            buf_puts(out, ",\"prompt_token_ids\":");
            put_ids(out, prompt->ids, prompt->count);
        }
    }
    buf_puts(out, "}]");
    if (is_first && params->return_token_ids && params->kind == PARAMS_CHAT) {
        buf_puts(out, ",\"prompt_token_ids\":");
        put_ids(out, context->prompts[0].ids, context->prompts[0].count);
    }
    if (usage) {
        buf_puts(out, ",\"usage\":");
        put_usage(out, usage);
    }
    buf_puts(out, "}\n\n");
}

void answer_write_end(struct buf *out, const struct answer_context *context, const struct answer_usage *usage)
{
    if (usage) {
        buf_puts(out, "data: ");
        put_head(out, context,
                 context->params->kind == PARAMS_CHAT ? "chat.completion.chunk" : "text_completion");
        buf_puts(out, ",\"choices\":[],\"usage\":");
        put_usage(out, usage);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

/* ---- errors ---- */

/* OpenAI's names; vLLM and the SDKs know them. */
static const char *error_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 408: return "timeout_error";
    case 429: return "rate_limit_error";
    case 500: return "server_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    default: return "invalid_request_error";
    }
}

void answer_write_error(struct buf *out, int status, const char *field, const char *message)
{
    buf_puts(out, "{\"error\":{\"message\":");
    put_text(out, message);
    buf_printf(out, ",\"type\":\"%s\",\"param\":", error_type(status));
    if (field) put_text(out, field);
    else buf_puts(out, "null");
    buf_printf(out, ",\"code\":%d}}", status);
}

void answer_write_error_event(struct buf *out, int status, const char *message)
{
    buf_puts(out, "data: ");
    answer_write_error(out, status, NULL, message);
    buf_puts(out, "\n\n");
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target of daemon/params, prompt and answer: the first byte says which kind, and whether the rest is a body or
 * further members of a good one. What is accepted is within the limits that the rest of the daemon stands on; its
 * prompts hold no special token that the template did not write; and answers to it, with bytes of the input as
 * output tokens, are JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/json.h"
#include "daemon/answer.h"
#include "daemon/prompt.h"
#include "tests/data/sample_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static const char template_source[] =
    "{% for m in messages %}<|bos|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>a\n{% endif %}";

static const struct prompt_source *source_get(void)
{
    static struct prompt_source source;
    if (source.tokenizer) return &source;
    struct template *template = NULL;
    CHECK(template_compile(template_source, strlen(template_source), &template_limits_default, &template,
                           NULL) == 0);
    source = (struct prompt_source){.tokenizer = sample_vocab_new(),
                                    .template = template,
                                    .bos_text = "<|bos|>",
                                    .eos_text = "<|im_end|>",
                                    .model_len_max = 500};
    return &source;
}

static void error_check(int status, const char *field, const char *text)
{
    struct buf out;
    buf_init(&out, 1 << 16);
    CHECK(status >= 400 && status < 600);
    CHECK(text[0]);
    answer_write_error(&out, status, field, text);
    CHECK(json_check(buf_text(&out), out.len, 64, NULL) == 0);
    buf_done(&out);
}

static void params_check(const struct params *params)
{
    CHECK(params->n >= 1 && params->n <= CHOICES_MAX);
    CHECK(params->max_tokens == -1 || params->max_tokens >= 1);
    CHECK(params->min_tokens >= 0);
    CHECK(params->stop_count <= STOP_MAX && params->stop_token_count <= STOP_MAX);
    CHECK(params->bias_count <= LOGIT_BIAS_MAX);
    CHECK(params->sampling.logprobs <= LOGPROBS_MAX && params->prompt_logprobs <= LOGPROBS_MAX);
    CHECK(params->sampling.temperature >= 0 && params->sampling.temperature <= 100);
    CHECK(params->sampling.top_p > 0 && params->sampling.top_p <= 1);
    CHECK(params->sampling.repetition_penalty > 0);
    CHECK(params->sampling.top_k >= 0);
    for (uint32_t i = 0; i < params->stop_count; i++)
        CHECK(params->stops[i].len > 0 && params->stops[i].len <= STOP_BYTES_MAX);
    for (uint32_t i = 0; i < params->bias_count; i++) CHECK(params->biases[i].token < SAMPLE_COUNT);
}

/* Two special tokens a message and one for the answer are the template's; without a template none is. */
static void prompts_check(const struct prompt_result *result, uint32_t specials_max)
{
    uint32_t specials = 0;
    for (uint32_t i = 0; i < result->prompt_count; i++) {
        CHECK(result->prompts[i].count > 0 && result->prompts[i].count <= 500);
        for (size_t k = 0; k < result->prompts[i].count; k++) {
            CHECK(result->prompts[i].ids[k] < SAMPLE_COUNT);
            specials += tokenizer_is_special(source_get()->tokenizer, result->prompts[i].ids[k]);
        }
    }
    CHECK(specials <= specials_max);
}

static void choice_fill(struct choice *choice, const struct params *params, const uint8_t *bytes, size_t len)
{
    struct done_top tops[LOGPROBS_MAX];
    uint32_t top_count = params->sampling.logprobs;
    for (uint32_t i = 0; i < top_count; i++)
        tops[i] = (struct done_top){(i * 37 + bytes[0]) % SAMPLE_COUNT, -1.0F};
    for (size_t i = 0; i < len && i < 20; i++) {
        struct generation_token token = {
            .id = bytes[i] % SAMPLE_COUNT, .logprob = -0.5F, .rank = 1, .tops = tops, .top_count = top_count};
        struct generation_update update = {
            .text = "\u00E9", .text_len = 2, .token = &token, .stop_idx = -1, .stop_token = TOKEN_NONE};
        if (i == 19) update.finish = FINISH_STOP;
        if (i == 19 && params->stop_count) update.stop_idx = 0;
        CHECK(choice_record(choice, &update) == 0);
    }
}

static void answers_check(const struct params *params, const struct prompt_result *prompts,
                          const uint8_t *bytes, size_t len)
{
    struct choice choice;
    struct buf out;
    struct answer_usage usage = {1, 2, 3};
    struct answer_context context = {.params = params,
                                     .tokenizer = source_get()->tokenizer,
                                     .id = "cmpl-0",
                                     .model = "m",
                                     .prompts = prompts->prompts,
                                     .prompt_count = prompts->prompt_count};
    choice_init(&choice, NULL, 0, 0, 1 << 20);
    choice_fill(&choice, params, bytes, len);
    buf_init(&out, 64 << 20);
    answer_write(&out, &context, &choice, 1, &usage);
    CHECK(out.error == 0);
    CHECK(json_check(buf_text(&out), out.len, 64, NULL) == 0);
    buf_clear(&out);
    struct generation_update update = {.text = "x", .text_len = 1, .stop_idx = -1, .stop_token = TOKEN_NONE};
    answer_write_chunk(&out, &context, &choice, &update, params->continuous_usage ? &usage : NULL);
    CHECK(out.error == 0 && out.len > 8);
    CHECK(json_check(buf_text(&out) + 6, out.len - 8, 64, NULL) == 0);
    buf_done(&out);
    choice_done(&choice);
}

static void body_check(enum params_kind kind, const char *body, size_t len, const uint8_t *bytes,
                       size_t bytes_len)
{
    struct params params;
    struct params_error error;
    if (params_parse(kind, body, len, SAMPLE_COUNT, &params, &error) < 0) {
        error_check(error.status, error.field, error.err.text);
        return;
    }
    params_check(&params);
    struct prompt_result prompts;
    uint32_t specials_max = UINT32_MAX; // ids may be any
    if (kind == PARAMS_CHAT) specials_max = 2 * (uint32_t)cJSON_GetArraySize(params.messages) + 1;
    else if (cJSON_IsString(params.prompt)) specials_max = 0;
    if (prompt_build(source_get(), &params, 0, &prompts) < 0) {
        error_check(prompts.error.status, prompts.error.field, prompts.error.err.text);
    } else {
        params_drop_prompt(&params);
        prompts_check(&prompts, specials_max);
        answers_check(&params, &prompts, bytes, bytes_len);
    }
    prompt_result_done(&prompts);
    params_done(&params);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0) return 0;
    enum params_kind kind = bytes[0] & 1 ? PARAMS_CHAT : PARAMS_COMPLETION;
    const char *rest = (const char *)bytes + 1;
    struct buf body;
    buf_init(&body, 1 << 24);
    if (bytes[0] & 2)
        buf_puts(&body, kind == PARAMS_CHAT ? "{\"messages\":[{\"role\":\"u\",\"content\":\"the\"}],"
                                            : "{\"prompt\":[\"the\",\"hello\"],");
    buf_append(&body, rest, len - 1);
    if (bytes[0] & 2) buf_putc(&body, '}');
    if (body.error == 0) body_check(kind, buf_text(&body), body.len, bytes, len);
    buf_done(&body);
    return 0;
}

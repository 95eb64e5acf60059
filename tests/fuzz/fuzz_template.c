/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a template and its variables, separated by the first NUL byte (JSON after it; without
 * one, fixed variables). Whatever renders must have spans that cover the output, neighbours different,
 * each between characters, and must render to the same again. Start it from a folder of templates. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const struct template_limits limits = {
    .steps_max = 100000, .depth_max = 300, .output_bytes_max = 1 << 16, .memory_bytes_max = 4 << 20};

static const char fixed_variables[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi <|x|>\\n\"}, "
                                      "{\"role\": \"assistant\", \"content\": null,"
                                      " \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": "
                                      "{\"a\": 1, \"b\": [1.5, true, null]}}}]}],"
                                      " \"n\": 5, \"f\": 2.5, \"s\": \"Straße, 你好\", \"l\": [3, 1, 2], "
                                      "\"d\": {\"b\": 1, \"a\": \"z\"}, \"nul\": null,"
                                      " \"j\": \"{\\\"k\\\": [1]}\"}";

static void check_output(const struct template_output *output)
{
    size_t at = 0;
    CHECK(output->text.len <= limits.output_bytes_max);
    for (size_t i = 0; i < output->span_count; i++) {
        const struct template_span *span = &output->spans[i];
        CHECK(span->first == at);
        CHECK(span->len > 0);
        CHECK(span->len <= output->text.len - at);
        CHECK(utf8_is_valid(output->text.bytes + at, span->len));
        if (i > 0) CHECK(span->is_user != output->spans[i - 1].is_user);
        at += span->len;
    }
    CHECK(at == output->text.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *nul = size ? memchr(bytes, 0, size) : NULL;
    size_t source_len = nul ? (size_t)(nul - bytes) : size;
    cJSON *variables = nul ? cJSON_ParseWithLength((const char *)nul + 1, size - source_len - 1) : NULL;
    if (!cJSON_IsObject(variables)) {
        cJSON_Delete(variables);
        variables = cJSON_Parse(fixed_variables);
    }
    struct template *template;
    struct err err = {0};
    int r = template_compile((const char *)bytes, source_len, &limits, &template, &err);
    if (r < 0) {
        CHECK(r == ERR_FORMAT || r == ERR_LIMIT);
        CHECK(err.code == r);
    } else {
        struct template_inputs inputs = {
            .variables = variables, .bos_token = "<s>", .eos_token = "</s>", .now_s = 1767323045};
        struct template_output output = {0}, again = {0};
        r = template_render(template, &inputs, &limits, &output, &err);
        if (r < 0) CHECK(r == ERR_INPUT || r == ERR_LIMIT);
        if (r == 0) check_output(&output);
        CHECK(template_render(template, &inputs, &limits, &again, &err) == r);
        CHECK(output.text.len == again.text.len && output.span_count == again.span_count);
        template_output_done(&output);
        template_output_done(&again);
        template_free(template);
    }
    cJSON_Delete(variables);
    return 0;
}

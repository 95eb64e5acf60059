/* SPDX-License-Identifier: Apache-2.0 */
/* template_rig - renders a template over variables given as JSON text, for the template tests. The
 * source lies at the end of a page, so that an over-read of the lexer faults. */
#ifndef KVASIR_TESTS_UNIT_TEMPLATE_RIG_H
#define KVASIR_TESTS_UNIT_TEMPLATE_RIG_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/text/template.h"
#include "tests/unit/guard.h"

static const int64_t template_rig_now_s = 1767323045; // 2026-01-02 03:04:05 UTC

static inline int template_rig_render(const char *source, size_t len, const cJSON *variables,
                                      const struct template_limits *limits,
                                      struct template_output *ret_output, struct err *err)
{
    static struct guard guard;
    struct template *template = NULL;
    const char *guarded = (const char *)guard_copy(&guard, source, len);
    int r = template_compile(guarded, len, limits, &template, err);
    if (r == 0) {
        struct template_inputs inputs = {
            .variables = variables, .bos_token = "<s>", .eos_token = "</s>", .now_s = template_rig_now_s};
        r = template_render(template, &inputs, limits, ret_output, err);
    }
    template_free(template);
    return r;
}

/* The same from texts, under the default limits. */
static inline int template_rig_render_text(const char *source, const char *variables,
                                           struct template_output *ret_output, struct err *err)
{
    cJSON *json = cJSON_Parse(variables);
    CHECK(json);
    int r = template_rig_render(source, strlen(source), json, &template_limits_default, ret_output, err);
    cJSON_Delete(json);
    return r;
}

/* The invariants that template.h promises of an output. */
static inline void template_rig_check(const struct template_output *output)
{
    size_t at = 0;
    for (size_t i = 0; i < output->span_count; i++) {
        CHECK(output->spans[i].first == at);
        CHECK(output->spans[i].len > 0);
        if (i > 0) CHECK(output->spans[i].is_user != output->spans[i - 1].is_user);
        at += output->spans[i].len;
    }
    CHECK(at == output->text.len);
}

/* The text with user spans in angle quotes: "abc«user»def". free() it. */
static inline char *template_rig_marked(const struct template_output *output)
{
    struct buf buf;
    size_t len;
    buf_init(&buf, SIZE_MAX / 4);
    template_rig_check(output);
    for (size_t i = 0; i < output->span_count; i++) {
        const struct template_span *span = &output->spans[i];
        if (span->is_user) buf_puts(&buf, "«");
        buf_append(&buf, output->text.bytes + span->first, span->len);
        if (span->is_user) buf_puts(&buf, "»");
    }
    buf_append(&buf, "", 1);
    CHECK(buf.error == 0);
    return buf_take(&buf, &len);
}

#endif

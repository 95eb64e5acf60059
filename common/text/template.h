/* SPDX-License-Identifier: Apache-2.0 */
/* template - renders chat templates (the Jinja subset that model files carry) under limits.
 *
 * The output is a list of spans, each either text of the template (literals and constants of the
 * template itself: may produce special tokens) or text of the user (came in through `inputs`: never
 * may). Marking follows the data through filters, concatenation, slices, methods and macros; a string
 * built of both keeps its runs apart. */
#ifndef KVASIR_TEXT_TEMPLATE_H
#define KVASIR_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"

struct cJSON;
struct template; // compiled, immutable, usable from several threads at once

struct template_limits {
    uint64_t steps_max; // evaluated nodes
    uint32_t depth_max; // nesting of evaluation and of the source
    size_t output_bytes_max;
    size_t memory_bytes_max; // live values of one rendering
};
extern const struct template_limits template_limits_default;

struct template_span {
    size_t first, len; // range of the output's bytes
    bool is_user;
};

struct template_output {
    struct buf text;             // owned
    struct template_span *spans; // owned; cover text without gaps, neighbours differ in is_user
    size_t span_count;
};
void template_output_done(struct template_output *output);

struct template_inputs {
    const struct cJSON
        *variables; // object: messages, tools, add_generation_prompt, ...; strings are user text
    const char *bos_token, *eos_token; // template text; "" when absent
    int64_t now_s;                     // wall time for strftime_now (UTC)
};

/* Compiles source. ERR_FORMAT: "template: line L: why". */
int template_compile(const char *source, size_t len, const struct template_limits *limits,
                     struct template **ret_template, struct err *err);
void template_free(struct template *template); // NULL is fine

/* ERR_INPUT with the message of raise_exception() or of a run-time error; ERR_LIMIT past a limit. */
int template_render(const struct template *template, const struct template_inputs *inputs,
                    const struct template_limits *limits, struct template_output *ret_output,
                    struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* template_scope - frames of variables. Lookup goes outwards; assignment stays in the frame, which is
 * why a set inside of a loop does not leak. */
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"

enum { FRAME_CAP_MIN = 4, LOOKUPS_PER_STEP = 16 };

struct tmpl_frame *tmpl_frame_new(struct tmpl_run *run, struct tmpl_frame *parent)
{
    struct tmpl_frame *frame = tmpl_alloc(run, sizeof *frame);
    if (frame) *frame = (struct tmpl_frame){.parent = parent};
    return frame;
}

struct tmpl_value tmpl_frame_get(struct tmpl_run *run, const struct tmpl_frame *frame, uint32_t symbol)
{
    size_t looked = 0;
    for (; frame->parent; frame = frame->parent) {
        for (uint32_t i = 0; i < frame->count; i++)
            if (frame->variables[i].symbol == symbol) return frame->variables[i].value;
        looked += frame->count + 1;
    }
    (void)tmpl_charge(run, looked / LOOKUPS_PER_STEP); // sticky; the next step sees it
    CHECK(symbol < run->template->symbol_count);
    return run->globals[symbol];
}

int tmpl_frame_set(struct tmpl_run *run, struct tmpl_frame *frame, uint32_t symbol, struct tmpl_value value)
{
    CHECK(value.kind != VALUE_MISSING);
    if (!frame->parent) {
        CHECK(symbol < run->template->symbol_count);
        run->globals[symbol] = value;
        return 0;
    }
    if (tmpl_charge(run, frame->count / LOOKUPS_PER_STEP) < 0) return run->code;
    for (uint32_t i = 0; i < frame->count; i++) {
        if (frame->variables[i].symbol != symbol) continue;
        frame->variables[i].value = value;
        return 0;
    }
    if (frame->count == frame->cap) {
        uint32_t cap = frame->cap ? 2 * frame->cap : FRAME_CAP_MIN;
        struct tmpl_variable *variables = tmpl_alloc_array(run, cap, sizeof *variables);
        if (!variables) return run->code;
        if (frame->count) memcpy(variables, frame->variables, frame->count * sizeof *variables);
        frame->variables = variables;
        frame->cap = cap;
    }
    frame->variables[frame->count++] = (struct tmpl_variable){.symbol = symbol, .value = value};
    return 0;
}

/* What a name means before the template sets it: the special tokens, which a request must not be
 * able to replace, then the request's variables, then the functions. */
static int initial_value(struct tmpl_run *run, const struct tmpl_string *name, struct tmpl_value *ret_value)
{
    const struct template_inputs *inputs = run->inputs;
    const char *token = tmpl_string_is(name, "bos_token")   ? inputs->bos_token
                        : tmpl_string_is(name, "eos_token") ? inputs->eos_token
                                                            : NULL;
    if (token) return tmpl_string_borrow(run, token, strlen(token), false, ret_value);
    for (const cJSON *item = inputs->variables ? inputs->variables->child : NULL; item; item = item->next)
        if (item->string && tmpl_string_is(name, item->string)) return tmpl_from_cjson(run, item, ret_value);
    const struct tmpl_builtin *function = tmpl_builtin_find(TMPL_FUNCTIONS, name->bytes, name->len);
    if (function) {
        *ret_value = (struct tmpl_value){.kind = VALUE_FUNCTION, .function = function};
        return 0;
    }
    return tmpl_undefined_named(run, NULL, name, ret_value);
}

int tmpl_globals_init(struct tmpl_run *run)
{
    uint32_t count = run->template->symbol_count;
    run->globals = tmpl_alloc_array(run, count, sizeof *run->globals);
    if (!run->globals) return run->code;
    for (uint32_t i = 0; i < count; i++)
        if (initial_value(run, run->template->symbols[i], &run->globals[i]) < 0) return run->code;
    return 0;
}

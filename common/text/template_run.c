/* SPDX-License-Identifier: Apache-2.0 */
/* template_run - limits, failure and memory of one rendering. */
#include "common/text/template_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"

static int note(struct tmpl_run *run, int code, const char *format, va_list args)
{
    if (run->code < 0) return run->code; // the first failure is the one to tell
    char why[384];
    (void)vsnprintf(why, sizeof why, format, args); // a cut text is still a text
    return run->code = ERR(run->err, code, "template: line %u: %s", run->line, why);
}

int tmpl_fail(struct tmpl_run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int r = note(run, ERR_INPUT, format, args);
    va_end(args);
    return r;
}

int tmpl_fail_limit(struct tmpl_run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int r = note(run, ERR_LIMIT, format, args);
    va_end(args);
    return r;
}

int tmpl_fail_undefined(struct tmpl_run *run, struct tmpl_value value)
{
    CHECK(value.kind == VALUE_UNDEFINED);
    const struct tmpl_undefined *undefined = value.undefined;
    if (undefined->hint) return tmpl_fail(run, "%s", undefined->hint);
    const struct tmpl_string *name = undefined->name;
    bool is_told = name && !tmpl_string_has_user(name); // never user text in a message
    int len = !is_told ? 0 : name->len < 64 ? (int)name->len : 64;
    const char *text = is_told ? (const char *)name->bytes : "";
    if (!undefined->owner) return tmpl_fail(run, "'%.*s' is undefined", len, text);
    if (undefined->is_security)
        return tmpl_fail(run, "access to attribute '%.*s' of '%s' object is unsafe", len, text,
                         undefined->owner);
    if (!is_told) return tmpl_fail(run, "%s has no such element", undefined->owner);
    return tmpl_fail(run, "'%s' has no attribute '%.*s'", undefined->owner, len, text);
}

int tmpl_charge(struct tmpl_run *run, size_t units)
{
    if (run->code < 0) return run->code;
    if (units > run->limits.steps_max - run->steps)
        return tmpl_fail_limit(run, "more than %llu steps", (unsigned long long)run->limits.steps_max);
    run->steps += units;
    return 0;
}

int tmpl_enter(struct tmpl_run *run)
{
    if (tmpl_charge(run, 1) < 0) return run->code;
    if (run->depth >= run->limits.depth_max)
        return tmpl_fail_limit(run, "nested deeper than %u", run->limits.depth_max);
    run->depth++;
    return 0;
}

void *tmpl_alloc(struct tmpl_run *run, size_t bytes)
{
    if (run->code < 0) return NULL;
    void *result = tmpl_arena_alloc(&run->arena, bytes);
    if (!result) (void)tmpl_fail_limit(run, "more than %zu bytes of memory", run->limits.memory_bytes_max);
    return result;
}

void *tmpl_alloc_array(struct tmpl_run *run, size_t count, size_t item_bytes)
{
    CHECK(item_bytes > 0);
    if (count > SIZE_MAX / item_bytes) {
        (void)tmpl_fail_limit(run, "more than %zu bytes of memory", run->limits.memory_bytes_max);
        return NULL;
    }
    return tmpl_alloc(run, count * item_bytes);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* template_function - global functions: range, dict, namespace, and what chat templates are given
 * besides: raise_exception and strftime_now. */
#include <string.h>
#include <time.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_builtin.h"

#define RANGE_ITEMS_MAX 100000 // jinja2's sandbox has the same bound
#define RANGE_BOUND_MAX (INT64_C(1) << 53)
enum { STRFTIME_FORMAT_BYTES_MAX = 256, STRFTIME_BYTES_MAX = 4096 };

BUILTIN(function_range)
{
    (void)self, (void)args;
    int64_t start = 0, stop, step = 1;
    if (tmpl_arg_int(run, argv[0], 0, "range", &stop) < 0) return run->code;
    if (argv[1].kind != VALUE_MISSING) {
        start = stop;
        if (tmpl_arg_int(run, argv[1], 0, "range", &stop) < 0 ||
            tmpl_arg_int(run, argv[2], 1, "range", &step) < 0)
            return run->code;
    }
    if (step == 0) return tmpl_fail(run, "range() arg 3 must not be zero");
    if (start > RANGE_BOUND_MAX || start < -RANGE_BOUND_MAX || stop > RANGE_BOUND_MAX ||
        stop < -RANGE_BOUND_MAX || step > RANGE_BOUND_MAX || step < -RANGE_BOUND_MAX)
        return tmpl_fail_limit(run, "range() bounds too large");
    int64_t count = 0;
    if (step > 0 && start < stop) count = (stop - start - 1) / step + 1;
    if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
    if (count > RANGE_ITEMS_MAX)
        return tmpl_fail_limit(run, "range() of more than %d items", RANGE_ITEMS_MAX);
    struct tmpl_range *range = tmpl_alloc(run, sizeof *range);
    if (!range) return run->code;
    *range = (struct tmpl_range){.start = start, .stop = stop, .step = step, .count = count};
    *ret_value = (struct tmpl_value){.kind = VALUE_RANGE, .range = range};
    return 0;
}

/* Pairs of an iterable into a dict. */
static int merge_pairs(struct tmpl_run *run, struct tmpl_dict *dict, struct tmpl_value pairs)
{
    struct tmpl_iter iter;
    struct tmpl_value item;
    int r;
    if (tmpl_iter_init(run, pairs, &iter) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        struct tmpl_list *pair;
        if (tmpl_list_from(run, item, &pair) < 0) return run->code;
        if (pair->count != 2) return tmpl_fail(run, "dict() wants pairs, got %zu items", pair->count);
        if (tmpl_dict_set(run, dict, pair->items[0], pair->items[1]) < 0) return run->code;
    }
    return r;
}

/* dict(mapping or pairs, key=value, ...); a namespace takes the same. */
static int make_dict(struct tmpl_run *run, const struct tmpl_args *args, const char *what,
                     enum tmpl_kind kind, struct tmpl_value *ret_value)
{
    struct tmpl_dict *dict;
    if (args->count > 1) return tmpl_fail(run, "%s() takes at most 1 positional argument", what);
    if (tmpl_dict_new(run, args->keyword_count, &dict) < 0) return run->code;
    if (args->count == 1) {
        struct tmpl_value from = args->positional[0];
        int r = from.kind == VALUE_DICT ? tmpl_dict_merge(run, dict, from) : merge_pairs(run, dict, from);
        if (r < 0) return r;
    }
    for (size_t i = 0; i < args->keyword_count; i++)
        if (tmpl_dict_set(run, dict, value_string(args->keywords[i].name), args->keywords[i].value) < 0)
            return run->code;
    *ret_value = (struct tmpl_value){.kind = kind, .dict = dict};
    return 0;
}

BUILTIN(function_dict)
{
    (void)self, (void)argv;
    return make_dict(run, args, "dict", VALUE_DICT, ret_value);
}

BUILTIN(function_namespace)
{
    (void)self, (void)argv;
    return make_dict(run, args, "namespace", VALUE_NAMESPACE, ret_value);
}

/* Ends the rendering with the template's own words, which go to the client whose request it was:
 * on one line, cut to what an err holds. */
BUILTIN(function_raise_exception)
{
    (void)self, (void)args, (void)ret_value;
    struct tmpl_value text;
    char message[ERR_TEXT_BYTES];
    size_t n = 0;
    if (tmpl_str(run, argv[0], &text) < 0) return run->code;
    for (size_t i = 0; i < text.string->len;) {
        size_t bytes = utf8_sequence_bytes(text.string->bytes + i, text.string->len - i);
        CHECK(bytes > 0); // strings are well-formed
        if (n + bytes >= sizeof message) break;
        memcpy(message + n, text.string->bytes + i, bytes);
        if (bytes == 1 && ((unsigned char)message[n] < 0x20 || message[n] == 0x7F)) message[n] = ' ';
        n += bytes;
        i += bytes;
    }
    message[n] = 0;
    return run->code = ERR(run->err, ERR_INPUT, "%s", message);
}

BUILTIN(function_strftime_now)
{
    (void)self, (void)args;
    struct tmpl_string *format;
    char format_text[STRFTIME_FORMAT_BYTES_MAX + 2], text[STRFTIME_BYTES_MAX];
    struct tm tm;
    time_t now = (time_t)run->inputs->now_s;
    if (tmpl_arg_string(run, argv[0], "strftime_now", &format) < 0) return run->code;
    if (format->len > STRFTIME_FORMAT_BYTES_MAX || (format->len && memchr(format->bytes, 0, format->len)))
        return tmpl_fail(run, "strftime_now() format is too long or holds NUL");
    if (!gmtime_r(&now, &tm)) return tmpl_fail(run, "strftime_now(): the time is out of range");
    memcpy(format_text, format->bytes, format->len);
    format_text[format->len] = '.'; // so that an empty result differs from one that does not fit
    format_text[format->len + 1] = 0;
    size_t n = strftime(text, sizeof text, format_text, &tm);
    if (n == 0 || !utf8_is_valid((uint8_t *)text, n - 1))
        return tmpl_fail(run, "strftime_now() result is too long");
    return tmpl_string_copy(run, text, n - 1, tmpl_string_has_user(format), ret_value);
}

const struct tmpl_builtin tmpl_functions[] = {
    {"range", function_range, "start stop step", 1},
    {"dict", function_dict, TMPL_ANY_ARGS, 0},
    {"namespace", function_namespace, TMPL_ANY_ARGS, 0},
    {"raise_exception", function_raise_exception, "message", 1},
    {"strftime_now", function_strftime_now, "format", 1},
    {NULL, NULL, NULL, 0},
};

/* SPDX-License-Identifier: Apache-2.0 */
/* template_method_str - methods of str: case, stripping, searching, replacing, padding. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

static struct tmpl_string blank = {.bytes = (const uint8_t *)" ", .len = 1, .char_count = 1};
static struct tmpl_string zero = {.bytes = (const uint8_t *)"0", .len = 1, .char_count = 1};

#define CASE_METHOD(function_name, to) \
    BUILTIN(function_name) \
    { \
        IGNORE_ARGS; \
        return tmpl_text_case(run, self.string, to, ret_value); \
    }

CASE_METHOD(method_upper, CASE_UPPER)
CASE_METHOD(method_lower, CASE_LOWER)
CASE_METHOD(method_swapcase, CASE_SWAP)
CASE_METHOD(method_capitalize, CASE_CAPITALIZE)
CASE_METHOD(method_title, CASE_TITLE)

#define STRIP_METHOD(function_name, sides) \
    BUILTIN(function_name) \
    { \
        (void)args; \
        return tmpl_text_strip(run, self.string, argv[0], sides, ret_value); \
    }

STRIP_METHOD(method_strip, SIDE_BOTH)
STRIP_METHOD(method_lstrip, SIDE_LEFT)
STRIP_METHOD(method_rstrip, SIDE_RIGHT)

/* The bytes [first, end) that the arguments start and end (characters, from argv) select. */
static int resolve_range(struct tmpl_run *run, struct tmpl_string *string, const struct tmpl_value *argv,
                         size_t *ret_first, size_t *ret_end)
{
    size_t count;
    *ret_first = 0;
    *ret_end = string->len;
    if (argv[0].kind == VALUE_MISSING && argv[1].kind == VALUE_MISSING) return 0;
    if (tmpl_string_chars(run, string, &count) < 0) return run->code;
    int64_t n = (int64_t)count, bounds[2] = {0, n};
    for (int i = 0; i < 2; i++) {
        if (argv[i].kind == VALUE_NONE) continue;
        if (tmpl_arg_int(run, argv[i], bounds[i], "str method", &bounds[i]) < 0) return run->code;
        if (bounds[i] < 0) bounds[i] = bounds[i] < -n ? 0 : bounds[i] + n;
        if (bounds[i] > n) bounds[i] = n + (i == 0); // a start behind the end matches nothing
    }
    if (bounds[0] > bounds[1]) {
        *ret_first = 1;
        *ret_end = 0;
        return 0;
    }
    if (tmpl_string_offset(run, string, (size_t)bounds[0], ret_first) < 0) return run->code;
    return tmpl_string_offset(run, string, (size_t)bounds[1], ret_end);
}

static bool affix_matches(const struct tmpl_string *string, size_t first, size_t end,
                          const struct tmpl_string *affix, bool at_end)
{
    if (first > end || affix->len > end - first) return false;
    size_t at = at_end ? end - affix->len : first;
    return affix->len == 0 || memcmp(string->bytes + at, affix->bytes, affix->len) == 0;
}

/* startswith and endswith: one affix or a tuple of them. */
static int check_affix(struct tmpl_run *run, struct tmpl_string *string, const struct tmpl_value *argv,
                       bool at_end, struct tmpl_value *ret_value)
{
    const char *what = at_end ? "endswith" : "startswith";
    struct tmpl_string *affix;
    size_t first, end;
    if (resolve_range(run, string, argv + 1, &first, &end) < 0) return run->code;
    if (argv[0].kind != VALUE_TUPLE) {
        if (tmpl_arg_string(run, argv[0], what, &affix) < 0) return run->code;
        *ret_value = value_bool(affix_matches(string, first, end, affix, at_end));
        return tmpl_charge(run, affix->len / TMPL_BYTES_PER_STEP);
    }
    *ret_value = value_bool(false);
    for (size_t i = 0; i < argv[0].list->count && !ret_value->boolean; i++) {
        if (tmpl_arg_string(run, argv[0].list->items[i], what, &affix) < 0 ||
            tmpl_charge(run, 1 + affix->len / TMPL_BYTES_PER_STEP) < 0)
            return run->code;
        *ret_value = value_bool(affix_matches(string, first, end, affix, at_end));
    }
    return 0;
}

BUILTIN(method_startswith)
{
    (void)args;
    return check_affix(run, self.string, argv, false, ret_value);
}

BUILTIN(method_endswith)
{
    (void)args;
    return check_affix(run, self.string, argv, true, ret_value);
}

static int remove_affix(struct tmpl_run *run, struct tmpl_value self, struct tmpl_value arg, bool at_end,
                        struct tmpl_value *ret_value)
{
    struct tmpl_string *string = self.string, *affix;
    if (tmpl_arg_string(run, arg, at_end ? "removesuffix" : "removeprefix", &affix) < 0) return run->code;
    bool matches = affix_matches(string, 0, string->len, affix, at_end);
    size_t cut = matches ? affix->len : 0;
    return tmpl_string_range(run, string, at_end ? 0 : cut, string->len - cut, ret_value);
}

BUILTIN(method_removeprefix)
{
    (void)args;
    return remove_affix(run, self, argv[0], false, ret_value);
}

BUILTIN(method_removesuffix)
{
    (void)args;
    return remove_affix(run, self, argv[0], true, ret_value);
}

/* Byte offset of the first (or last) occurrence within [first, end): 1 when found. */
static int search(struct tmpl_run *run, const struct tmpl_string *string, const struct tmpl_string *needle,
                  size_t first, size_t end, bool is_last, size_t *ret_offset)
{
    struct tmpl_string part = {.bytes = string->bytes, .len = end}; // ends where the search does
    if (first > end) return 0;
    if (is_last) return tmpl_string_rfind(run, string, needle, first, end, ret_offset);
    return tmpl_string_find(run, &part, needle, first, ret_offset);
}

static int find_index(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv,
                      bool is_last, bool must, struct tmpl_value *ret_value)
{
    struct tmpl_string *needle;
    size_t first, end, offset = 0;
    if (tmpl_arg_string(run, argv[0], "find", &needle) < 0 ||
        resolve_range(run, self.string, argv + 1, &first, &end) < 0)
        return run->code;
    int r = search(run, self.string, needle, first, end, is_last, &offset);
    if (r < 0) return r;
    if (r == 0 && must) return tmpl_fail(run, "substring not found");
    if (tmpl_charge(run, offset / TMPL_BYTES_PER_STEP) < 0) return run->code;
    *ret_value = value_int(r == 0 ? -1 : (int64_t)tmpl_count_chars(self.string->bytes, offset));
    return 0;
}

BUILTIN(method_find)
{
    (void)args;
    return find_index(run, self, argv, false, false, ret_value);
}

BUILTIN(method_rfind)
{
    (void)args;
    return find_index(run, self, argv, true, false, ret_value);
}

BUILTIN(method_index)
{
    (void)args;
    return find_index(run, self, argv, false, true, ret_value);
}

BUILTIN(method_rindex)
{
    (void)args;
    return find_index(run, self, argv, true, true, ret_value);
}

BUILTIN(method_count)
{
    (void)args;
    struct tmpl_string *needle;
    size_t first, end, found;
    int64_t count = 0;
    int r = 0;
    if (tmpl_arg_string(run, argv[0], "count", &needle) < 0 ||
        resolve_range(run, self.string, argv + 1, &first, &end) < 0)
        return run->code;
    if (needle->len == 0 && first <= end) {
        if (tmpl_charge(run, (end - first) / 16) < 0) return run->code;
        *ret_value = value_int((int64_t)tmpl_count_chars(self.string->bytes + first, end - first) + 1);
        return 0;
    }
    while (tmpl_charge(run, 1) >= 0 &&
           (r = search(run, self.string, needle, first, end, false, &found)) == 1) {
        count++;
        first = found + needle->len;
    }
    *ret_value = value_int(count);
    return run->code;
}

BUILTIN(method_replace)
{
    (void)args;
    struct tmpl_string *from, *to;
    int64_t count;
    if (tmpl_arg_string(run, argv[0], "replace", &from) < 0 ||
        tmpl_arg_string(run, argv[1], "replace", &to) < 0 ||
        tmpl_arg_int(run, argv[2], -1, "replace", &count) < 0)
        return run->code;
    return tmpl_text_replace(run, self.string, from, to, count, ret_value);
}

static int pad(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv,
               enum tmpl_sides sides, struct tmpl_value *ret_value)
{
    struct tmpl_string *fill = &blank;
    int64_t width;
    size_t count = 1;
    if (tmpl_arg_int(run, argv[0], 0, "pad", &width) < 0) return run->code;
    if (argv[1].kind != VALUE_MISSING &&
        (tmpl_arg_string(run, argv[1], "pad", &fill) < 0 || tmpl_string_chars(run, fill, &count) < 0))
        return run->code;
    if (count != 1) return tmpl_fail(run, "the fill character must be exactly one character long");
    return tmpl_text_pad(run, self.string, width, fill, sides, ret_value);
}

BUILTIN(method_center)
{
    (void)args;
    return pad(run, self, argv, SIDE_BOTH, ret_value);
}

BUILTIN(method_ljust)
{
    (void)args;
    return pad(run, self, argv, SIDE_RIGHT, ret_value);
}

BUILTIN(method_rjust)
{
    (void)args;
    return pad(run, self, argv, SIDE_LEFT, ret_value);
}

BUILTIN(method_zfill)
{
    (void)args;
    struct tmpl_string *string = self.string;
    struct tmpl_value sign, rest;
    int64_t width;
    bool has_sign = string->len > 0 && (string->bytes[0] == '-' || string->bytes[0] == '+');
    if (tmpl_arg_int(run, argv[0], 0, "zfill", &width) < 0) return run->code;
    if (!has_sign) return tmpl_text_pad(run, string, width, &zero, SIDE_LEFT, ret_value);
    if (tmpl_string_range(run, string, 0, 1, &sign) < 0 ||
        tmpl_string_range(run, string, 1, string->len - 1, &rest) < 0 ||
        tmpl_text_pad(run, rest.string, width > 0 ? width - 1 : 0, &zero, SIDE_LEFT, &rest) < 0)
        return run->code;
    return tmpl_string_concat(run, sign, rest, ret_value);
}

BUILTIN(method_join)
{
    (void)args;
    return tmpl_text_join(run, self.string, argv[0], false, ret_value);
}

const struct tmpl_builtin tmpl_str_methods[] = {
    {"upper", method_upper, "", 0},
    {"lower", method_lower, "", 0},
    {"swapcase", method_swapcase, "", 0},
    {"capitalize", method_capitalize, "", 0},
    {"title", method_title, "", 0},
    {"strip", method_strip, "chars", 0},
    {"lstrip", method_lstrip, "chars", 0},
    {"rstrip", method_rstrip, "chars", 0},
    {"startswith", method_startswith, "prefix start end", 1},
    {"endswith", method_endswith, "suffix start end", 1},
    {"removeprefix", method_removeprefix, "prefix", 1},
    {"removesuffix", method_removesuffix, "suffix", 1},
    {"find", method_find, "sub start end", 1},
    {"rfind", method_rfind, "sub start end", 1},
    {"index", method_index, "sub start end", 1},
    {"rindex", method_rindex, "sub start end", 1},
    {"count", method_count, "sub start end", 1},
    {"replace", method_replace, "old new count", 2},
    {"center", method_center, "width fillchar", 1},
    {"ljust", method_ljust, "width fillchar", 1},
    {"rjust", method_rjust, "width fillchar", 1},
    {"zfill", method_zfill, "width", 1},
    {"join", method_join, "iterable", 1},
    {"format", tmpl_str_format, TMPL_ANY_ARGS, 0},
    {NULL, NULL, NULL, 0},
};

/* SPDX-License-Identifier: Apache-2.0 */
/* template_method_split - methods of str that take it apart, and its character classes. */
#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

struct parts {
    struct tmpl_run *run;
    const struct tmpl_string *string;
    struct tmpl_list_builder list;
};

static int push_part(struct parts *parts, size_t first, size_t end)
{
    struct tmpl_value part;
    if (tmpl_charge(parts->run, 1) < 0 ||
        tmpl_string_range(parts->run, parts->string, first, end - first, &part) < 0)
        return parts->run->code;
    return tmpl_list_push(parts->run, &parts->list, part);
}

static int finish_parts(struct parts *parts, bool is_reversed, struct tmpl_value *ret_value)
{
    struct tmpl_list *list;
    if (parts->run->code < 0 || tmpl_list_finish(parts->run, &parts->list, &list) < 0)
        return parts->run->code;
    for (size_t i = 0; is_reversed && i < list->count / 2; i++) {
        struct tmpl_value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
    *ret_value = (struct tmpl_value){.kind = VALUE_LIST, .list = list};
    return 0;
}

static bool space_at(const struct tmpl_string *string, size_t i, size_t *ret_bytes)
{
    uint32_t codepoint = 0;
    *ret_bytes = 1;
    if (string->bytes[i] < 0x80) return tmpl_is_space(string->bytes[i]);
    *ret_bytes = utf8_decode(string->bytes + i, string->len - i, &codepoint);
    CHECK(*ret_bytes > 0);
    return tmpl_is_space(codepoint);
}

/* split() without separator: runs of whitespace separate, none at the ends. */
static int split_space(struct parts *parts, int64_t max)
{
    const struct tmpl_string *string = parts->string;
    const char *text = (const char *)string->bytes;
    if (tmpl_charge(parts->run, string->len / 4) < 0) return parts->run->code;
    size_t i = tmpl_space_prefix(text, string->len), n;
    while (i < string->len) {
        size_t first = i;
        if (max >= 0 && (int64_t)parts->list.count >= max)
            return push_part(parts, first, string->len); // the rest as it is
        while (i < string->len && !space_at(string, i, &n)) i += n;
        if (push_part(parts, first, i) < 0) return parts->run->code;
        i += tmpl_space_prefix(text + i, string->len - i);
    }
    return 0;
}

/* The same from the right; parts come last first. */
static int rsplit_space(struct parts *parts, int64_t max)
{
    const struct tmpl_string *string = parts->string;
    const char *text = (const char *)string->bytes;
    if (tmpl_charge(parts->run, string->len / 4) < 0) return parts->run->code;
    size_t end = string->len - tmpl_space_suffix(text, string->len), n;
    while (end > 0) {
        size_t first = end;
        if (max >= 0 && (int64_t)parts->list.count >= max) return push_part(parts, 0, end);
        while (first > 0) {
            n = tmpl_last_char_bytes(string->bytes, first);
            if (tmpl_space_prefix(text + first - n, n) == n) break;
            first -= n;
        }
        if (push_part(parts, first, end) < 0) return parts->run->code;
        end = first - tmpl_space_suffix(text, first);
    }
    return 0;
}

static int split_at(struct parts *parts, const struct tmpl_string *separator, int64_t max)
{
    size_t first = 0, found = 0;
    int r = 0;
    while ((max < 0 || (int64_t)parts->list.count < max) &&
           (r = tmpl_string_find(parts->run, parts->string, separator, first, &found)) == 1) {
        if (push_part(parts, first, found) < 0) return parts->run->code;
        first = found + separator->len;
    }
    return r < 0 ? r : push_part(parts, first, parts->string->len);
}

static int rsplit_at(struct parts *parts, const struct tmpl_string *separator, int64_t max)
{
    size_t end = parts->string->len, found = 0;
    int r = 0;
    while ((max < 0 || (int64_t)parts->list.count < max) &&
           (r = tmpl_string_rfind(parts->run, parts->string, separator, 0, end, &found)) == 1) {
        if (push_part(parts, found + separator->len, end) < 0) return parts->run->code;
        end = found;
    }
    return r < 0 ? r : push_part(parts, 0, end);
}

static int split(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv, bool is_right,
                 struct tmpl_value *ret_value)
{
    struct parts parts = {.run = run, .string = self.string};
    struct tmpl_string *separator;
    int64_t max;
    if (tmpl_arg_int(run, argv[1], -1, "split", &max) < 0) return run->code;
    if (argv[0].kind == VALUE_MISSING || argv[0].kind == VALUE_NONE) {
        if ((is_right ? rsplit_space(&parts, max) : split_space(&parts, max)) < 0) return run->code;
        return finish_parts(&parts, is_right, ret_value);
    }
    if (tmpl_arg_string(run, argv[0], "split", &separator) < 0) return run->code;
    if (separator->len == 0) return tmpl_fail(run, "empty separator");
    if ((is_right ? rsplit_at(&parts, separator, max) : split_at(&parts, separator, max)) < 0)
        return run->code;
    return finish_parts(&parts, is_right, ret_value);
}

BUILTIN(method_split)
{
    (void)args;
    return split(run, self, argv, false, ret_value);
}

BUILTIN(method_rsplit)
{
    (void)args;
    return split(run, self, argv, true, ret_value);
}

BUILTIN(method_splitlines)
{
    (void)args;
    struct parts parts = {.run = run, .string = self.string};
    const struct tmpl_string *string = self.string;
    bool keeps = tmpl_arg_flag(run, argv[0]);
    if (tmpl_charge(run, string->len / 2) < 0) return run->code;
    for (size_t first = 0; first < string->len;) {
        size_t end = first, n = 0;
        while (end < string->len && !(n = tmpl_line_break(string->bytes + end, string->len - end))) end++;
        if (push_part(&parts, first, keeps ? end + n : end) < 0) return run->code;
        first = end + n;
    }
    return finish_parts(&parts, false, ret_value);
}

static int partition(struct tmpl_run *run, struct tmpl_value self, struct tmpl_value arg, bool is_right,
                     struct tmpl_value *ret_value)
{
    struct parts parts = {.run = run, .string = self.string};
    struct tmpl_string *separator;
    size_t len = self.string->len, found = 0;
    if (tmpl_arg_string(run, arg, "partition", &separator) < 0) return run->code;
    if (separator->len == 0) return tmpl_fail(run, "empty separator");
    int r = is_right ? tmpl_string_rfind(run, self.string, separator, 0, len, &found)
                     : tmpl_string_find(run, self.string, separator, 0, &found);
    if (r < 0) return r;
    size_t head = r ? found : is_right ? 0 : len;
    size_t tail = r ? found + separator->len : head;
    if (push_part(&parts, 0, head) < 0 || push_part(&parts, head, tail) < 0 ||
        push_part(&parts, tail, len) < 0 || finish_parts(&parts, false, ret_value) < 0)
        return run->code;
    ret_value->kind = VALUE_TUPLE;
    return 0;
}

BUILTIN(method_partition)
{
    (void)args;
    return partition(run, self, argv[0], false, ret_value);
}

BUILTIN(method_rpartition)
{
    (void)args;
    return partition(run, self, argv[0], true, ret_value);
}

const struct tmpl_builtin tmpl_str_split_methods[] = {
    {"split", method_split, "sep maxsplit", 0},       {"rsplit", method_rsplit, "sep maxsplit", 0},
    {"splitlines", method_splitlines, "keepends", 0}, {"partition", method_partition, "sep", 1},
    {"rpartition", method_rpartition, "sep", 1},      {NULL, NULL, NULL, 0},
};

/* --- classes ------------------------------------------------------------------------------------ */

static bool is_alnum(uint32_t codepoint)
{
    return codepoint != '_' && tmpl_is_word(codepoint);
}

static bool is_numeric(uint32_t codepoint)
{
    return tmpl_is_word(codepoint) && codepoint != '_' && !tmpl_is_alpha(codepoint);
}

static bool is_ascii(uint32_t codepoint)
{
    return codepoint < 0x80;
}

/* Whether all characters are of the class; `of_empty` is the answer for "". */
static int all_are(struct tmpl_run *run, struct tmpl_value self, bool (*is)(uint32_t codepoint),
                   bool of_empty, struct tmpl_value *ret_value)
{
    const struct tmpl_string *string = self.string;
    if (tmpl_charge(run, string->len / 2) < 0) return run->code;
    bool all = string->len > 0 || of_empty;
    for (size_t i = 0; i < string->len && all;) {
        uint32_t codepoint = 0;
        i += utf8_decode(string->bytes + i, string->len - i, &codepoint); // well-formed: never 0
        all = is(codepoint);
    }
    *ret_value = value_bool(all);
    return 0;
}

#define CLASS_METHOD(function_name, is, of_empty) \
    BUILTIN(function_name) \
    { \
        IGNORE_ARGS; \
        return all_are(run, self, is, of_empty, ret_value); \
    }

CLASS_METHOD(method_isalpha, tmpl_is_alpha, false)
CLASS_METHOD(method_isdigit, tmpl_is_digit, false)
CLASS_METHOD(method_isnumeric, is_numeric, false)
CLASS_METHOD(method_isalnum, is_alnum, false)
CLASS_METHOD(method_isspace, tmpl_is_space, false)
CLASS_METHOD(method_isascii, is_ascii, true)
CLASS_METHOD(method_isprintable, tmpl_is_printable, true)

BUILTIN(method_isupper)
{
    IGNORE_ARGS;
    *ret_value = value_bool(tmpl_text_is_case(self.string, true));
    return tmpl_charge(run, self.string->len / 2);
}

BUILTIN(method_islower)
{
    IGNORE_ARGS;
    *ret_value = value_bool(tmpl_text_is_case(self.string, false));
    return tmpl_charge(run, self.string->len / 2);
}

const struct tmpl_builtin tmpl_str_class_methods[] = {
    {"isalpha", method_isalpha, "", 0},
    {"isdigit", method_isdigit, "", 0},
    {"isdecimal", method_isdigit, "", 0},
    {"isnumeric", method_isnumeric, "", 0},
    {"isalnum", method_isalnum, "", 0},
    {"isspace", method_isspace, "", 0},
    {"isascii", method_isascii, "", 0},
    {"isprintable", method_isprintable, "", 0},
    {"isupper", method_isupper, "", 0},
    {"islower", method_islower, "", 0},
    {NULL, NULL, NULL, 0},
};

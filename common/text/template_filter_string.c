/* SPDX-License-Identifier: Apache-2.0 */
/* template_filter_string - filters whose result is text. Those of jinja2 that call str() on what
 * they get do so here. */
#include <string.h>

#include "common/base/utf8.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

static struct tmpl_string blank = {.bytes = (const uint8_t *)" ", .len = 1, .char_count = 1};

BUILTIN(filter_string)
{
    IGNORE_ARGS;
    return tmpl_str(run, self, ret_value);
}

static int filter_case(struct tmpl_run *run, struct tmpl_value self, enum tmpl_case to,
                       struct tmpl_value *ret_value)
{
    struct tmpl_value text;
    if (tmpl_str(run, self, &text) < 0) return run->code;
    return tmpl_text_case(run, text.string, to, ret_value);
}

BUILTIN(filter_upper)
{
    IGNORE_ARGS;
    return filter_case(run, self, CASE_UPPER, ret_value);
}

BUILTIN(filter_lower)
{
    IGNORE_ARGS;
    return filter_case(run, self, CASE_LOWER, ret_value);
}

BUILTIN(filter_title)
{
    IGNORE_ARGS;
    return filter_case(run, self, CASE_TITLE_FILTER, ret_value);
}

BUILTIN(filter_capitalize)
{
    IGNORE_ARGS;
    return filter_case(run, self, CASE_CAPITALIZE, ret_value);
}

BUILTIN(filter_trim)
{
    (void)args;
    struct tmpl_value text;
    if (tmpl_str(run, self, &text) < 0) return run->code;
    return tmpl_text_strip(run, text.string, argv[0], SIDE_BOTH, ret_value);
}

BUILTIN(filter_replace)
{
    (void)args;
    struct tmpl_value text, from, to;
    int64_t count = -1;
    if (tmpl_str(run, self, &text) < 0 || tmpl_str(run, argv[0], &from) < 0 ||
        tmpl_str(run, argv[1], &to) < 0)
        return run->code;
    if (argv[2].kind != VALUE_NONE && tmpl_arg_int(run, argv[2], -1, "replace", &count) < 0) return run->code;
    return tmpl_text_replace(run, text.string, from.string, to.string, count, ret_value);
}

static int indent_lines(struct tmpl_builder *builder, const struct tmpl_string *text,
                        const struct tmpl_string *indent, bool blank_too)
{
    /* jinja2 appends a newline first, so that text that ends in one gets an empty last line. */
    bool is_more = true;
    for (size_t first = 0; is_more;) {
        size_t end = first, newline = 0;
        while (end < text->len && !(newline = tmpl_line_break(text->bytes + end, text->len - end))) end++;
        is_more = newline > 0;
        if (tmpl_charge(builder->run, 1) < 0) return builder->run->code;
        if (first > 0) {
            tmpl_builder_putc(builder, '\n');
            if (end > first || blank_too) tmpl_builder_add_string(builder, indent);
        }
        tmpl_builder_add_range(builder, text, first, end - first);
        first = end + newline;
    }
    return builder->run->code;
}

BUILTIN(filter_indent)
{
    (void)args;
    struct tmpl_string *text;
    struct tmpl_value indent = argv[0];
    int64_t width;
    struct tmpl_builder builder;
    if (tmpl_arg_string(run, self, "indent", &text) < 0) return run->code;
    if (indent.kind != VALUE_STRING) {
        if (tmpl_arg_int(run, indent, 4, "indent", &width) < 0) return run->code;
        if (tmpl_string_repeat(run, &blank, width, &indent) < 0) return run->code;
    }
    tmpl_builder_init(&builder, run);
    if (tmpl_arg_flag(run, argv[1])) tmpl_builder_add_string(&builder, indent.string);
    if (indent_lines(&builder, text, indent.string, tmpl_arg_flag(run, argv[2])) < 0) return run->code;
    return tmpl_builder_finish(&builder, ret_value);
}

/* The entities are the user's where the character was. */
BUILTIN(filter_escape)
{
    IGNORE_ARGS;
    struct tmpl_value text;
    struct tmpl_builder builder;
    struct tmpl_piece piece;
    if (tmpl_str(run, self, &text) < 0) return run->code;
    tmpl_builder_init(&builder, run);
    for (uint32_t k = 0; tmpl_string_piece(text.string, k, &piece); k++) {
        const uint8_t *p = text.string->bytes + piece.first;
        for (size_t i = 0, plain = 0; i <= piece.len; i++) {
            char c = i < piece.len ? (char)p[i] : 0;
            const char *entity = c == '&'    ? "&amp;"
                                 : c == '<'  ? "&lt;"
                                 : c == '>'  ? "&gt;"
                                 : c == '\'' ? "&#39;"
                                 : c == '"'  ? "&#34;"
                                             : NULL;
            if (!entity && i < piece.len) continue;
            tmpl_builder_add(&builder, p + plain, i - plain, piece.is_user);
            if (entity) tmpl_builder_add(&builder, entity, strlen(entity), piece.is_user);
            if (tmpl_charge(run, 1 + (i - plain) / 16) < 0) return run->code;
            plain = i + 1;
        }
    }
    return tmpl_builder_finish(&builder, ret_value);
}

BUILTIN(filter_format)
{
    (void)argv;
    struct tmpl_value text, values;
    if (tmpl_str(run, self, &text) < 0) return run->code;
    if (args->count > 0 && args->keyword_count > 0)
        return tmpl_fail(run, "format takes positional or keyword arguments, not both");
    if (args->keyword_count > 0) {
        struct tmpl_dict *dict;
        if (tmpl_dict_new(run, args->keyword_count, &dict) < 0) return run->code;
        for (size_t i = 0; i < args->keyword_count; i++)
            if (tmpl_dict_set(run, dict, value_string(args->keywords[i].name), args->keywords[i].value) < 0)
                return run->code;
        values = value_dict(dict);
    } else {
        struct tmpl_list *list;
        if (tmpl_list_new(run, args->count, &list) < 0) return run->code;
        for (size_t i = 0; i < args->count; i++) list->items[i] = args->positional[i];
        values = (struct tmpl_value){.kind = VALUE_TUPLE, .list = list};
    }
    return tmpl_format_percent(run, text.string, values, ret_value);
}

BUILTIN(filter_center)
{
    (void)args;
    struct tmpl_value text;
    int64_t width;
    if (tmpl_str(run, self, &text) < 0 || tmpl_arg_int(run, argv[0], 80, "center", &width) < 0)
        return run->code;
    return tmpl_text_pad(run, text.string, width, &blank, SIDE_BOTH, ret_value);
}

/* Offset where the last word that fits begins to be cut: behind the last blank before `end`. */
static size_t cut_at_blank(const struct tmpl_string *text, size_t end)
{
    for (size_t i = end; i > 0; i--)
        if (text->bytes[i - 1] == ' ') return i - 1;
    return end;
}

BUILTIN(filter_truncate)
{
    (void)args;
    struct tmpl_string *text, *end_text;
    struct tmpl_value end = argv[2], head;
    int64_t length, leeway;
    size_t count, end_count, offset;
    if (tmpl_arg_string(run, self, "truncate", &text) < 0 ||
        tmpl_arg_int(run, argv[0], 255, "truncate", &length) < 0 ||
        tmpl_arg_int(run, argv[3], 5, "truncate", &leeway) < 0)
        return run->code;
    if (end.kind == VALUE_MISSING && tmpl_string_borrow(run, "...", 3, false, &end) < 0) return run->code;
    if (tmpl_arg_string(run, end, "truncate", &end_text) < 0 || tmpl_string_chars(run, text, &count) < 0 ||
        tmpl_string_chars(run, end_text, &end_count) < 0)
        return run->code;
    if (length < (int64_t)end_count || leeway < 0)
        return tmpl_fail(run, "truncate() to less than its end's length");
    if (leeway > INT64_MAX - length || (int64_t)count <= length + leeway) {
        *ret_value = self;
        return 0;
    }
    if (tmpl_string_offset(run, text, (size_t)length - end_count, &offset) < 0) return run->code;
    if (!tmpl_arg_flag(run, argv[1])) offset = cut_at_blank(text, offset);
    if (tmpl_string_range(run, text, 0, offset, &head) < 0) return run->code;
    return tmpl_string_concat(run, head, end, ret_value);
}

BUILTIN(filter_wordcount)
{
    IGNORE_ARGS;
    struct tmpl_value text;
    int64_t words = 0;
    bool in_word = false;
    if (tmpl_str(run, self, &text) < 0 || tmpl_charge(run, text.string->len / 2) < 0) return run->code;
    for (size_t i = 0; i < text.string->len;) {
        uint32_t codepoint = 0;
        i += utf8_decode(text.string->bytes + i, text.string->len - i, &codepoint); // well-formed: never 0
        bool is_word = tmpl_is_word(codepoint);
        words += is_word && !in_word;
        in_word = is_word;
    }
    *ret_value = value_int(words);
    return 0;
}

const struct tmpl_builtin tmpl_string_filters[] = {
    {"string", filter_string, "", 0},
    {"safe", filter_string, "", 0}, // output is never escaped
    {"upper", filter_upper, "", 0},
    {"lower", filter_lower, "", 0},
    {"title", filter_title, "", 0},
    {"capitalize", filter_capitalize, "", 0},
    {"trim", filter_trim, "chars", 0},
    {"replace", filter_replace, "old new count", 2},
    {"indent", filter_indent, "width first blank", 0},
    {"escape", filter_escape, "", 0},
    {"e", filter_escape, "", 0},
    {"forceescape", filter_escape, "", 0},
    {"format", filter_format, TMPL_ANY_ARGS, 0},
    {"center", filter_center, "width", 0},
    {"truncate", filter_truncate, "length killwords end leeway", 0},
    {"wordcount", filter_wordcount, "", 0},
    {NULL, NULL, NULL, 0},
};

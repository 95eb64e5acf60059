/* SPDX-License-Identifier: Apache-2.0 */
/* template_json - tojson as Python's json.dumps writes it, from_json, and the values of a request. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

/* --- tojson ------------------------------------------------------------------------------------- */

struct dump {
    struct tmpl_builder builder;
    bool is_ascii, sorts_keys;
    bool has_indent;
    const struct tmpl_string *indent;        // one level of it
    const struct tmpl_string *comma, *colon; // separators
};

static int dump_value(struct dump *dump, struct tmpl_value value, size_t level);

static void dump_char(struct dump *dump, const uint8_t *p, size_t n, bool is_user)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    char text[16];
    uint32_t codepoint = 0;
    (void)utf8_decode(p, n, &codepoint); // strings are well-formed
    const char *known = codepoint && codepoint < 0x80 ? strchr(from, (int)codepoint) : NULL;
    int len = 2;
    if (known) {
        text[0] = '\\';
        text[1] = to[known - from];
    } else if (codepoint < 0x20 || (dump->is_ascii && codepoint > 0x7E && codepoint < 0x10000))
        len = snprintf(text, sizeof text, "\\u%04x", (unsigned)codepoint);
    else if (dump->is_ascii && codepoint >= 0x10000)
        len = snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (codepoint >> 10)),
                       (unsigned)(0xDC00 | (codepoint & 0x3FF)));
    else {
        tmpl_builder_add(&dump->builder, p, n, is_user);
        return;
    }
    tmpl_builder_add(&dump->builder, text, (size_t)len, is_user);
}

/* The quotes are template text; what stands between them keeps its marks, escapes included. */
static void dump_string(struct dump *dump, const struct tmpl_string *string)
{
    struct tmpl_piece piece;
    tmpl_builder_putc(&dump->builder, '"');
    for (uint32_t k = 0; tmpl_string_piece(string, k, &piece); k++) {
        const uint8_t *p = string->bytes + piece.first;
        for (size_t i = 0; i < piece.len;) {
            size_t plain = i; // a run that needs no escape
            while (plain < piece.len && p[plain] >= 0x20 && p[plain] != '"' && p[plain] != '\\' &&
                   (p[plain] < 0x7F || !dump->is_ascii))
                plain++;
            tmpl_builder_add(&dump->builder, p + i, plain - i, piece.is_user);
            i = plain;
            if (i == piece.len || tmpl_charge(dump->builder.run, 2) < 0) break;
            size_t n = tmpl_char_bytes(p + i, piece.len - i);
            dump_char(dump, p + i, n, piece.is_user);
            i += n;
        }
    }
    tmpl_builder_putc(&dump->builder, '"');
}

static void dump_newline(struct dump *dump, size_t level)
{
    if (!dump->has_indent) return;
    tmpl_builder_putc(&dump->builder, '\n');
    tmpl_builder_fill(&dump->builder, dump->indent, level);
}

static int dump_list(struct dump *dump, const struct tmpl_list *list, size_t level)
{
    tmpl_builder_putc(&dump->builder, '[');
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) tmpl_builder_add_string(&dump->builder, dump->comma);
        dump_newline(dump, level + 1);
        if (dump_value(dump, list->items[i], level + 1) < 0) return dump->builder.run->code;
    }
    if (list->count > 0) dump_newline(dump, level);
    tmpl_builder_putc(&dump->builder, ']');
    return dump->builder.run->code;
}

static int dump_key(struct dump *dump, struct tmpl_value key)
{
    struct tmpl_run *run = dump->builder.run;
    if (key.kind == VALUE_STRING) {
        dump_string(dump, key.string);
        return run->code;
    }
    if (key.kind != VALUE_BOOL && key.kind != VALUE_NONE && key.kind != VALUE_INT && key.kind != VALUE_FLOAT)
        return tmpl_fail(run, "keys must be str, int, float, bool or None, not %s", tmpl_type_name(key));
    tmpl_builder_putc(&dump->builder, '"');
    (void)dump_value(dump, key, 0); // sticky in the run
    tmpl_builder_putc(&dump->builder, '"');
    return run->code;
}

static int dump_dict(struct dump *dump, const struct tmpl_dict *dict, size_t level)
{
    struct tmpl_run *run = dump->builder.run;
    struct tmpl_value sorted = {0};
    if (dump->sorts_keys) {
        struct tmpl_value case_sensitive = value_bool(true);
        struct tmpl_args args = {.positional = &case_sensitive, .count = 1};
        const struct tmpl_builtin *dictsort = tmpl_builtin_find(TMPL_FILTERS, (const uint8_t *)"dictsort", 8);
        if (tmpl_builtin_call(run, dictsort, value_dict((struct tmpl_dict *)dict), &args, &sorted) < 0)
            return run->code;
    }
    tmpl_builder_putc(&dump->builder, '{');
    for (size_t i = 0; i < dict->count; i++) {
        const struct tmpl_value *pair = dump->sorts_keys ? sorted.list->items[i].list->items : NULL;
        if (i > 0) tmpl_builder_add_string(&dump->builder, dump->comma);
        dump_newline(dump, level + 1);
        if (dump_key(dump, pair ? pair[0] : dict->entries[i].key) < 0) return run->code;
        tmpl_builder_add_string(&dump->builder, dump->colon);
        if (dump_value(dump, pair ? pair[1] : dict->entries[i].value, level + 1) < 0) return run->code;
    }
    if (dict->count > 0) dump_newline(dump, level);
    tmpl_builder_putc(&dump->builder, '}');
    return run->code;
}

static int dump_inner(struct dump *dump, struct tmpl_value value, size_t level)
{
    struct tmpl_run *run = dump->builder.run;
    switch (value.kind) {
    case VALUE_NONE: tmpl_builder_puts(&dump->builder, "null"); return run->code;
    case VALUE_BOOL: tmpl_builder_puts(&dump->builder, value.boolean ? "true" : "false"); return run->code;
    case VALUE_FLOAT:
        if (isnan(value.real)) tmpl_builder_puts(&dump->builder, "NaN");
        else if (isinf(value.real))
            tmpl_builder_puts(&dump->builder, value.real < 0 ? "-Infinity" : "Infinity");
        else return tmpl_repr_to(&dump->builder, value);
        return run->code;
    case VALUE_INT: return tmpl_repr_to(&dump->builder, value);
    case VALUE_STRING: dump_string(dump, value.string); return run->code;
    case VALUE_LIST:
    case VALUE_TUPLE: return dump_list(dump, value.list, level);
    case VALUE_DICT: return dump_dict(dump, value.dict, level);
    default: return tmpl_fail(run, "Object of type %s is not JSON serializable", tmpl_type_name(value));
    }
}

static int dump_value(struct dump *dump, struct tmpl_value value, size_t level)
{
    struct tmpl_run *run = dump->builder.run;
    if (tmpl_enter(run) < 0) return run->code;
    int r = dump_inner(dump, value, level);
    run->depth--;
    return r < 0 ? r : run->code;
}

static bool is_given(struct tmpl_value arg)
{
    return arg.kind != VALUE_MISSING && arg.kind != VALUE_NONE;
}

BUILTIN(filter_tojson) // ensure_ascii indent separators sort_keys
{
    (void)args;
    static const struct tmpl_string comma_space = {.bytes = (const uint8_t *)", ", .len = 2},
                                    comma = {.bytes = (const uint8_t *)",", .len = 1},
                                    colon = {.bytes = (const uint8_t *)": ", .len = 2},
                                    blank = {.bytes = (const uint8_t *)" ", .len = 1};
    struct dump dump = {.is_ascii = tmpl_arg_flag(run, argv[0]),
                        .sorts_keys = tmpl_arg_flag(run, argv[3]),
                        .has_indent = is_given(argv[1]),
                        .colon = &colon};
    struct tmpl_value indent = argv[1];
    int64_t width;
    dump.comma = dump.has_indent ? &comma : &comma_space;
    if (dump.has_indent && indent.kind != VALUE_STRING &&
        (tmpl_arg_int(run, indent, 0, "tojson", &width) < 0 ||
         tmpl_string_repeat(run, &blank, width, &indent) < 0))
        return run->code;
    if (dump.has_indent) dump.indent = indent.string;
    if (is_given(argv[2])) {
        if (!value_is_list(argv[2]) || argv[2].list->count != 2 ||
            argv[2].list->items[0].kind != VALUE_STRING || argv[2].list->items[1].kind != VALUE_STRING)
            return tmpl_fail(run, "tojson() separators must be two strings");
        dump.comma = argv[2].list->items[0].string;
        dump.colon = argv[2].list->items[1].string;
    }
    tmpl_builder_init(&dump.builder, run);
    if (dump_value(&dump, self, 0) < 0) return run->code;
    return tmpl_builder_finish(&dump.builder, ret_value);
}

/* --- from_json ---------------------------------------------------------------------------------- */

struct reader {
    struct tmpl_run *run;
    const char *text;
    size_t len, pos;
    bool is_user;
};

static int read_value(struct reader *reader, struct tmpl_value *ret_value);

static int fail_json(struct reader *reader)
{
    return tmpl_fail(reader->run, "from_json: malformed at byte %zu", reader->pos);
}

static char peek(struct reader *reader)
{
    while (reader->pos < reader->len && strchr(" \t\n\r", reader->text[reader->pos]) &&
           reader->text[reader->pos])
        reader->pos++;
    return reader->pos < reader->len ? reader->text[reader->pos] : 0;
}

static int read_hex4(struct reader *reader, uint32_t *ret_unit)
{
    uint32_t unit = 0;
    for (int i = 0; i < 4; i++, reader->pos++) {
        int h = reader->pos < reader->len ? tmpl_hex_digit(reader->text[reader->pos]) : -1;
        if (h < 0) return fail_json(reader);
        unit = unit * 16 + (uint32_t)h;
    }
    *ret_unit = unit;
    return 0;
}

/* After a backslash. */
static int read_escape(struct reader *reader, struct tmpl_builder *builder)
{
    static const char from[] = "\"\\/nrtbf", to[] = "\"\\/\n\r\t\b\f";
    char c = reader->pos < reader->len ? reader->text[reader->pos++] : 0;
    const char *known = c ? strchr(from, c) : NULL;
    uint8_t out[4];
    uint32_t unit = 0, low = 0;
    if (known) {
        tmpl_builder_add(builder, &to[known - from], 1, reader->is_user);
        return 0;
    }
    if (c != 'u' || read_hex4(reader, &unit) < 0) return fail_json(reader);
    if (unit >= 0xD800 && unit < 0xDC00) { // a pair
        if (reader->len - reader->pos < 2 || reader->text[reader->pos] != '\\' ||
            reader->text[reader->pos + 1] != 'u')
            return fail_json(reader);
        reader->pos += 2;
        if (read_hex4(reader, &low) < 0 || low < 0xDC00 || low > 0xDFFF) return fail_json(reader);
        unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    } else if (unit >= 0xDC00 && unit < 0xE000) {
        return fail_json(reader);
    }
    tmpl_builder_add(builder, out, utf8_encode(unit, out), reader->is_user);
    return 0;
}

static int read_string(struct reader *reader, struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, reader->run);
    reader->pos++; // the quote
    for (;;) {
        size_t first = reader->pos;
        while (reader->pos < reader->len && reader->text[reader->pos] != '"' &&
               reader->text[reader->pos] != '\\' && (unsigned char)reader->text[reader->pos] >= 0x20)
            reader->pos++;
        tmpl_builder_add(&builder, reader->text + first, reader->pos - first, reader->is_user);
        char c = reader->pos < reader->len ? reader->text[reader->pos++] : 0;
        if (c == '"') break;
        if (c != '\\') return fail_json(reader);
        if (read_escape(reader, &builder) < 0 || tmpl_charge(reader->run, 1) < 0) return reader->run->code;
    }
    return tmpl_builder_finish(&builder, ret_value);
}

static int read_number(struct reader *reader, struct tmpl_value *ret_value)
{
    char text[64];
    size_t n = 0;
    bool is_real = false;
    while (reader->pos + n < reader->len && n + 1 < sizeof text) {
        char c = reader->text[reader->pos + n];
        if (!(c >= '0' && c <= '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E') break;
        is_real |= c == '.' || c == 'e' || c == 'E';
        text[n++] = c;
    }
    text[n] = 0;
    const char *digits = text[0] == '-' ? text + 1 : text;
    char *end;
    double real = strtod(text, &end);
    bool has_zero = digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9';
    if (n == 0 || *end || !(digits[0] >= '0' && digits[0] <= '9') || end[-1] == '.' || has_zero)
        return fail_json(reader);
    reader->pos += n;
    *ret_value = is_real || n > 18 ? value_float(real) : value_int(strtoll(text, NULL, 10));
    return 0;
}

static int read_word(struct reader *reader, const char *word, struct tmpl_value value,
                     struct tmpl_value *ret_value)
{
    size_t n = strlen(word);
    if (reader->len - reader->pos < n || memcmp(reader->text + reader->pos, word, n) != 0)
        return fail_json(reader);
    reader->pos += n;
    *ret_value = value;
    return 0;
}

/* Members up to the closing bracket: of a list when dict is NULL. */
static int read_members(struct reader *reader, char close, struct tmpl_list_builder *list,
                        struct tmpl_dict *dict)
{
    reader->pos++; // the opening bracket
    if (peek(reader) == close) {
        reader->pos++;
        return 0;
    }
    for (;;) {
        struct tmpl_value key = {0}, value;
        if (dict) {
            if (peek(reader) != '"') return fail_json(reader);
            if (read_string(reader, &key) < 0) return reader->run->code;
            if (peek(reader) != ':') return fail_json(reader);
            reader->pos++;
        }
        if (read_value(reader, &value) < 0) return reader->run->code;
        int r = dict ? tmpl_dict_set(reader->run, dict, key, value)
                     : tmpl_list_push(reader->run, list, value);
        if (r < 0) return r;
        char c = peek(reader);
        if (c != ',' && c != close) return fail_json(reader);
        reader->pos++;
        if (c == close) return 0;
    }
}

static int read_inner(struct reader *reader, struct tmpl_value *ret_value)
{
    struct tmpl_list_builder builder = {0};
    struct tmpl_list *list;
    struct tmpl_dict *dict;
    switch (peek(reader)) {
    case '"': return read_string(reader, ret_value);
    case 't': return read_word(reader, "true", value_bool(true), ret_value);
    case 'f': return read_word(reader, "false", value_bool(false), ret_value);
    case 'n': return read_word(reader, "null", value_none(), ret_value);
    case '[':
        if (read_members(reader, ']', &builder, NULL) < 0 ||
            tmpl_list_finish(reader->run, &builder, &list) < 0)
            return reader->run->code;
        *ret_value = (struct tmpl_value){.kind = VALUE_LIST, .list = list};
        return 0;
    case '{':
        if (tmpl_dict_new(reader->run, 0, &dict) < 0 || read_members(reader, '}', NULL, dict) < 0)
            return reader->run->code;
        *ret_value = value_dict(dict);
        return 0;
    default: return read_number(reader, ret_value);
    }
}

static int read_value(struct reader *reader, struct tmpl_value *ret_value)
{
    if (tmpl_enter(reader->run) < 0) return reader->run->code;
    int r = read_inner(reader, ret_value);
    reader->run->depth--;
    return r;
}

/* Not of jinja2, but some models' templates call it where tool arguments come as JSON text. All of
 * its result is user text if any of its input is. */
BUILTIN(filter_from_json)
{
    IGNORE_ARGS;
    struct tmpl_string *text;
    if (tmpl_arg_string(run, self, "from_json", &text) < 0) return run->code;
    struct reader reader = {.run = run,
                            .text = (const char *)text->bytes,
                            .len = text->len,
                            .is_user = tmpl_string_has_user(text)};
    if (tmpl_charge(run, text->len) < 0 || read_value(&reader, ret_value) < 0) return run->code;
    (void)peek(&reader); // moves over blanks
    return reader.pos == reader.len ? 0 : fail_json(&reader);
}

const struct tmpl_builtin tmpl_json_filters[] = {
    {"tojson", filter_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"from_json", filter_from_json, "", 0},
    {NULL, NULL, NULL, 0},
};

/* --- a request's values ------------------------------------------------------------------------- */

static int string_from_cjson(struct tmpl_run *run, const char *text, struct tmpl_value *ret_value)
{
    size_t len = strlen(text);
    if (!utf8_is_valid((const uint8_t *)text, len)) return tmpl_fail(run, "a variable holds invalid UTF-8");
    return tmpl_string_borrow(run, text, len, true, ret_value);
}

static int container_from_cjson(struct tmpl_run *run, const struct cJSON *json, struct tmpl_value *ret_value)
{
    struct tmpl_list_builder builder = {0};
    struct tmpl_list *list;
    struct tmpl_dict *dict = NULL;
    bool is_object = cJSON_IsObject(json);
    if (is_object && tmpl_dict_new(run, 0, &dict) < 0) return run->code;
    for (const cJSON *item = json->child; item; item = item->next) {
        struct tmpl_value key, value;
        if (tmpl_from_cjson(run, item, &value) < 0) return run->code;
        if (!is_object) {
            if (tmpl_list_push(run, &builder, value) < 0) return run->code;
            continue;
        }
        if (string_from_cjson(run, item->string ? item->string : "", &key) < 0 ||
            tmpl_dict_set(run, dict, key, value) < 0)
            return run->code;
    }
    if (!is_object && tmpl_list_finish(run, &builder, &list) < 0) return run->code;
    *ret_value = is_object ? value_dict(dict) : (struct tmpl_value){.kind = VALUE_LIST, .list = list};
    return 0;
}

static int inner_from_cjson(struct tmpl_run *run, const struct cJSON *json, struct tmpl_value *ret_value)
{
    double number;
    switch (json->type & 0xFF) {
    case cJSON_NULL: *ret_value = value_none(); return 0;
    case cJSON_False: *ret_value = value_bool(false); return 0;
    case cJSON_True: *ret_value = value_bool(true); return 0;
    case cJSON_Number: // cJSON does not keep how it was written: a whole number is an int
        number = json->valuedouble;
        *ret_value = number == floor(number) && fabs(number) < 0x1p53 ? value_int((int64_t)number)
                                                                      : value_float(number);
        return 0;
    case cJSON_String: return string_from_cjson(run, json->valuestring ? json->valuestring : "", ret_value);
    case cJSON_Array:
    case cJSON_Object: return container_from_cjson(run, json, ret_value);
    default: return tmpl_fail(run, "a variable holds no JSON value");
    }
}

int tmpl_from_cjson(struct tmpl_run *run, const struct cJSON *json, struct tmpl_value *ret_value)
{
    if (tmpl_enter(run) < 0) return run->code;
    int r = inner_from_cjson(run, json, ret_value);
    run->depth--;
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* template_format - str() and repr() of values, byte for byte as Python prints them. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"
#include "common/text/template_unicode.h"

/* The shortest digits that read back as the same number; an exponent below 1e-4 and from 1e16 on. */
size_t tmpl_float_text(double real, char out[TMPL_FLOAT_TEXT_BYTES])
{
    if (isnan(real)) return (size_t)snprintf(out, TMPL_FLOAT_TEXT_BYTES, "nan");
    if (isinf(real)) return (size_t)snprintf(out, TMPL_FLOAT_TEXT_BYTES, "%sinf", real < 0 ? "-" : "");
    char text[TMPL_FLOAT_TEXT_BYTES];
    for (int precision = 0; precision < 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, real); // at most 24 characters
        if (strtod(text, NULL) == real) break;
    }
    const char *p = text;
    char digits[20];
    size_t digit_count = 0;
    bool is_negative = *p == '-';
    if (is_negative) p++;
    for (; *p != 'e'; p++)
        if (*p != '.') digits[digit_count++] = *p;
    int exponent = atoi(p + 1);
    while (digit_count > 1 && digits[digit_count - 1] == '0') digit_count--;
    size_t n = 0;
    if (is_negative) out[n++] = '-';
    if (exponent < -4 || exponent >= 16) {
        out[n++] = digits[0];
        if (digit_count > 1) out[n++] = '.';
        for (size_t i = 1; i < digit_count; i++) out[n++] = digits[i];
        return n + (size_t)snprintf(out + n, TMPL_FLOAT_TEXT_BYTES - n, "e%c%02d", exponent < 0 ? '-' : '+',
                                    abs(exponent));
    }
    if (exponent < 0) { // 0.000ddd
        out[n++] = '0';
        out[n++] = '.';
        for (int i = -1; i > exponent; i--) out[n++] = '0';
    }
    for (int i = 0; i < (int)digit_count || i <= exponent; i++) {
        out[n++] = i < (int)digit_count ? digits[i] : '0';
        if (i == exponent) out[n++] = '.';
    }
    if (out[n - 1] == '.') out[n++] = '0';
    out[n] = 0;
    return n;
}

static void repr_char(struct tmpl_builder *builder, const uint8_t *p, size_t len, char quote, bool is_user)
{
    char text[16];
    uint32_t codepoint = 0;
    (void)utf8_decode(p, len, &codepoint); // strings are well-formed
    int n = 2;
    text[0] = '\\';
    if (codepoint == (unsigned char)quote || codepoint == '\\') text[1] = (char)codepoint;
    else if (codepoint == '\n') text[1] = 'n';
    else if (codepoint == '\r') text[1] = 'r';
    else if (codepoint == '\t') text[1] = 't';
    else if (tmpl_is_printable(codepoint)) {
        tmpl_builder_add(builder, p, len, is_user);
        return;
    } else if (codepoint <= 0xFF) n = snprintf(text, sizeof text, "\\x%02x", (unsigned)codepoint);
    else if (codepoint <= 0xFFFF) n = snprintf(text, sizeof text, "\\u%04x", (unsigned)codepoint);
    else n = snprintf(text, sizeof text, "\\U%08x", (unsigned)codepoint);
    tmpl_builder_add(builder, text, (size_t)n, is_user);
}

/* Quotes are template text; what stands between them keeps its marks, escapes included. */
static void repr_string(struct tmpl_builder *builder, const struct tmpl_string *string)
{
    bool has_single = string->len > 0 && memchr(string->bytes, '\'', string->len);
    bool has_double = string->len > 0 && memchr(string->bytes, '"', string->len);
    char quote = has_single && !has_double ? '"' : '\'';
    struct tmpl_piece piece;
    tmpl_builder_putc(builder, quote);
    for (uint32_t k = 0; tmpl_string_piece(string, k, &piece); k++) {
        const uint8_t *p = string->bytes + piece.first;
        for (size_t i = 0; i < piece.len;) {
            size_t plain = i; // a run that needs no escape
            while (plain < piece.len && p[plain] >= 0x20 && p[plain] < 0x7F && p[plain] != '\\' &&
                   p[plain] != '\'' && p[plain] != '"')
                plain++;
            tmpl_builder_add(builder, p + i, plain - i, piece.is_user);
            i = plain;
            if (i == piece.len || tmpl_charge(builder->run, 1) < 0) break;
            size_t n = tmpl_char_bytes(p + i, piece.len - i);
            repr_char(builder, p + i, n, quote, piece.is_user);
            i += n;
        }
    }
    tmpl_builder_putc(builder, quote);
}

static int repr_list(struct tmpl_builder *builder, const struct tmpl_list *list, const char *open,
                     const char *close)
{
    tmpl_builder_puts(builder, open);
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) tmpl_builder_puts(builder, ", ");
        if (tmpl_repr_to(builder, list->items[i]) < 0) break;
    }
    tmpl_builder_puts(builder, close);
    return builder->run->code;
}

static int repr_dict(struct tmpl_builder *builder, const struct tmpl_dict *dict)
{
    tmpl_builder_puts(builder, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0) tmpl_builder_puts(builder, ", ");
        if (tmpl_repr_to(builder, dict->entries[i].key) < 0) break;
        tmpl_builder_puts(builder, ": ");
        if (tmpl_repr_to(builder, dict->entries[i].value) < 0) break;
    }
    tmpl_builder_puts(builder, "}");
    return builder->run->code;
}

static int repr_view(struct tmpl_builder *builder, struct tmpl_value value)
{
    struct tmpl_list *items;
    if (tmpl_list_from(builder->run, value, &items) < 0) return builder->run->code;
    tmpl_builder_puts(builder, tmpl_type_name(value));
    return repr_list(builder, items, "([", "])");
}

static void repr_range(struct tmpl_builder *builder, const struct tmpl_range *range)
{
    char text[96];
    if (range->step == 1)
        (void)snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", range->start, range->stop);
    else
        (void)snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start,
                       range->stop, range->step);
    tmpl_builder_puts(builder, text);
}

static size_t int_text(int64_t integer, char out[TMPL_FLOAT_TEXT_BYTES])
{
    char digits[20];
    size_t n = 0, used = 0;
    uint64_t size = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
    do digits[used++] = (char)('0' + size % 10);
    while (size /= 10);
    if (integer < 0) out[n++] = '-';
    while (used > 0) out[n++] = digits[--used];
    return n;
}

static int repr_inner(struct tmpl_builder *builder, struct tmpl_value value)
{
    char text[TMPL_FLOAT_TEXT_BYTES];
    switch (value.kind) {
    case VALUE_MISSING: CHECK(!"a missing argument is no value"); break;
    case VALUE_UNDEFINED: tmpl_builder_puts(builder, "Undefined"); break;
    case VALUE_NONE: tmpl_builder_puts(builder, "None"); break;
    case VALUE_BOOL: tmpl_builder_puts(builder, value.boolean ? "True" : "False"); break;
    case VALUE_INT: tmpl_builder_add(builder, text, int_text(value.integer, text), false); break;
    case VALUE_FLOAT: tmpl_builder_add(builder, text, tmpl_float_text(value.real, text), false); break;
    case VALUE_STRING: repr_string(builder, value.string); break;
    case VALUE_LIST: return repr_list(builder, value.list, "[", "]");
    case VALUE_TUPLE: return repr_list(builder, value.list, "(", value.list->count == 1 ? ",)" : ")");
    case VALUE_DICT: return repr_dict(builder, value.dict);
    case VALUE_NAMESPACE:
        tmpl_builder_puts(builder, "<Namespace ");
        (void)repr_dict(builder, value.dict); // sticky in the run
        tmpl_builder_puts(builder, ">");
        break;
    case VALUE_VIEW: return repr_view(builder, value);
    case VALUE_RANGE: repr_range(builder, value.range); break;
    case VALUE_MACRO:
        tmpl_builder_puts(builder, "<Macro ");
        repr_string(builder, value.macro->node->macro.name);
        tmpl_builder_puts(builder, ">");
        break;
    case VALUE_GENERATOR:
    case VALUE_FUNCTION:
    case VALUE_METHOD:
    case VALUE_LOOP:
        /* Python prints an address here. No template means that, so it is an error, not silence. */
        return tmpl_fail(builder->run, "cannot print a value of type '%s'", tmpl_type_name(value));
    }
    return builder->run->code;
}

int tmpl_repr_to(struct tmpl_builder *builder, struct tmpl_value value)
{
    struct tmpl_run *run = builder->run;
    if (tmpl_enter(run) < 0) return run->code;
    int r = repr_inner(builder, value);
    run->depth--;
    return r < 0 ? r : run->code;
}

int tmpl_str_to(struct tmpl_builder *builder, struct tmpl_value value)
{
    if (value.kind == VALUE_UNDEFINED) return builder->run->code; // prints as nothing
    if (value.kind != VALUE_STRING) return tmpl_repr_to(builder, value);
    tmpl_builder_add_string(builder, value.string);
    return builder->run->code;
}

int tmpl_str(struct tmpl_run *run, struct tmpl_value value, struct tmpl_value *ret_text)
{
    if (value.kind == VALUE_STRING) {
        *ret_text = value;
        return 0;
    }
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, run);
    (void)tmpl_str_to(&builder, value); // sticky in the run
    return tmpl_builder_finish(&builder, ret_text);
}

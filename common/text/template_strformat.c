/* SPDX-License-Identifier: Apache-2.0 */
/* template_strformat - "{} {name!r:>10}".format(...) and "%s" % x. The format's own bytes and the
 * values' bytes keep their marks. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

enum { WIDTH_MAX = 100000, PRECISION_MAX = 340, NUMBER_BYTES_MAX = 720 };

/* --- one value ---------------------------------------------------------------------------------- */

/* Puts commas between groups of three in the leading digits of text. */
static void group_digits(char text[NUMBER_BYTES_MAX])
{
    char grouped[NUMBER_BYTES_MAX];
    size_t digits = strspn(text, "0123456789"), n = 0;
    if (strlen(text) + digits / 3 >= sizeof grouped) return;
    for (size_t i = 0; i < digits; i++) {
        if (i > 0 && (digits - i) % 3 == 0) grouped[n++] = ',';
        grouped[n++] = text[i];
    }
    (void)snprintf(grouped + n, sizeof grouped - n, "%s", text + digits); // room was checked
    memcpy(text, grouped, sizeof grouped);
}

/* Digits of |value| for an integer type. */
static int integer_digits(struct tmpl_run *run, const struct tmpl_format_spec *spec, uint64_t size,
                          char text[NUMBER_BYTES_MAX])
{
    size_t n = 0;
    switch (spec->type) {
    case 0:
    case 'd':
    case 'i':
    case 'u':
    case 'n': (void)snprintf(text, NUMBER_BYTES_MAX, "%" PRIu64, size); return 0;
    case 'x':
    case 'X':
        (void)snprintf(text, NUMBER_BYTES_MAX, spec->type == 'x' ? "%s%" PRIx64 : "%s%" PRIX64,
                       !spec->is_alternate ? ""
                       : spec->type == 'x' ? "0x"
                                           : "0X",
                       size);
        return 0;
    case 'o':
        (void)snprintf(text, NUMBER_BYTES_MAX, "%s%" PRIo64, spec->is_alternate ? "0o" : "", size);
        return 0;
    case 'b':
        if (spec->is_alternate) n = (size_t)snprintf(text, NUMBER_BYTES_MAX, "0b");
        for (int bit = size ? 63 - __builtin_clzll(size) : 0; bit >= 0; bit--)
            text[n++] = (char)('0' + (size >> bit & 1));
        text[n] = 0;
        return 0;
    default: return tmpl_fail(run, "unknown format code '%c' for an int", spec->type);
    }
}

static int real_digits(struct tmpl_run *run, const struct tmpl_format_spec *spec, double size,
                       char text[NUMBER_BYTES_MAX])
{
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    if (spec->type == 0 && spec->precision < 0) {
        (void)tmpl_float_text(size, text);
        return 0;
    }
    switch (spec->type) {
    case 'f':
    case 'F': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*f", precision, size); return 0;
    case 'e': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*e", precision, size); return 0;
    case 'E': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*E", precision, size); return 0;
    case 'g': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*g", precision, size); return 0;
    case 'G': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*G", precision, size); return 0;
    case '%': (void)snprintf(text, NUMBER_BYTES_MAX, "%.*f%%", precision, size * 100); return 0;
    default: return tmpl_fail(run, "unknown format code '%c' for a float", spec->type);
    }
}

static int number_text(struct tmpl_run *run, const struct tmpl_format_spec *spec, struct tmpl_value value,
                       char sign[2], char text[NUMBER_BYTES_MAX])
{
    int64_t integer;
    double real = 0;
    bool is_int = tmpl_as_int(value, &integer);
    bool as_real = !is_int || (spec->type && strchr("fFeEgG%", spec->type));
    if (spec->precision > PRECISION_MAX)
        return tmpl_fail_limit(run, "format precision above %d", PRECISION_MAX);
    if (as_real) {
        CHECK(tmpl_as_real(value, &real));
        sign[0] = signbit(real) ? '-' : spec->sign;
        if (real_digits(run, spec, fabs(real), text) < 0) return run->code;
    } else {
        sign[0] = integer < 0 ? '-' : spec->sign;
        uint64_t size = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
        if (integer_digits(run, spec, size, text) < 0) return run->code;
    }
    sign[1] = 0;
    if (spec->is_grouped) group_digits(text);
    return 0;
}

int tmpl_format_value(struct tmpl_builder *builder, const struct tmpl_format_spec *spec,
                      struct tmpl_value value)
{
    struct tmpl_run *run = builder->run;
    char sign[2] = "", number[NUMBER_BYTES_MAX];
    struct tmpl_value text, fill = spec->fill;
    size_t count;
    bool is_number = value.kind == VALUE_INT || value.kind == VALUE_FLOAT ||
                     (value.kind == VALUE_BOOL && spec->type);
    if (spec->width > WIDTH_MAX) return tmpl_fail_limit(run, "format width above %d", WIDTH_MAX);
    if (is_number) {
        if (number_text(run, spec, value, sign, number) < 0 ||
            tmpl_string_copy(run, number, strlen(number), false, &text) < 0)
            return run->code;
    } else {
        if (spec->type && spec->type != 's')
            return tmpl_fail(run, "unknown format code '%c' for a %s", spec->type, tmpl_type_name(value));
        if (tmpl_str(run, value, &text) < 0 || tmpl_string_chars(run, text.string, &count) < 0)
            return run->code;
        size_t offset;
        if (spec->precision >= 0 && (uint64_t)spec->precision < count &&
            (tmpl_string_offset(run, text.string, (size_t)spec->precision, &offset) < 0 ||
             tmpl_string_range(run, text.string, 0, offset, &text) < 0))
            return run->code;
    }
    if (tmpl_string_chars(run, text.string, &count) < 0) return run->code;
    count += strlen(sign);
    size_t pad = spec->width > 0 && (uint64_t)spec->width > count ? (size_t)spec->width - count : 0;
    char align = spec->align ? spec->align : is_number ? (spec->is_zero_padded ? '=' : '>') : '<';
    const char *fallback = spec->is_zero_padded && (is_number || spec->align == 0) ? "0" : " ";
    if (fill.kind == VALUE_MISSING && tmpl_string_borrow(run, fallback, 1, false, &fill) < 0)
        return run->code;
    size_t left = align == '<' || align == '=' ? 0 : align == '^' ? pad / 2 : pad;
    tmpl_builder_fill(builder, fill.string, left);
    tmpl_builder_puts(builder, sign);
    if (align == '=') tmpl_builder_fill(builder, fill.string, pad);
    tmpl_builder_add_string(builder, text.string);
    if (align != '=') tmpl_builder_fill(builder, fill.string, pad - left);
    return run->code;
}

/* A number at text[*pos], at most WIDTH_MAX + 1; 0 when there is none. */
static int64_t take_number(const struct tmpl_string *text, size_t *pos, size_t end)
{
    int64_t number = 0;
    for (; *pos < end && text->bytes[*pos] >= '0' && text->bytes[*pos] <= '9'; ++*pos)
        if (number <= WIDTH_MAX) number = number * 10 + (text->bytes[*pos] - '0');
    return number;
}

/* --- str.format --------------------------------------------------------------------------------- */

struct formatter {
    struct tmpl_run *run;
    const struct tmpl_string *text;
    const struct tmpl_args *args;
    size_t next_auto;
    bool is_manual;
    struct tmpl_builder builder;
};

static int fail_format(struct formatter *formatter)
{
    return tmpl_fail(formatter->run, "format(): malformed replacement field");
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static int parse_spec(struct formatter *formatter, size_t pos, size_t end, struct tmpl_format_spec *ret_spec)
{
    const struct tmpl_string *text = formatter->text;
    struct tmpl_format_spec spec = {.precision = -1};
    if (pos < end) {
        size_t n = tmpl_char_bytes(text->bytes + pos, end - pos);
        if (pos + n < end && strchr("<>^=", text->bytes[pos + n]) && text->bytes[pos + n]) {
            if (tmpl_string_range(formatter->run, text, pos, n, &spec.fill) < 0) return formatter->run->code;
            spec.align = (char)text->bytes[pos + n];
            pos += n + 1;
        } else if (text->bytes[pos] && strchr("<>^=", text->bytes[pos])) {
            spec.align = (char)text->bytes[pos++];
        }
    }
    if (pos < end && text->bytes[pos] && strchr("+- ", text->bytes[pos])) {
        spec.sign = text->bytes[pos] == '-' ? 0 : (char)text->bytes[pos];
        pos++;
    }
    if (pos < end && text->bytes[pos] == '#') spec.is_alternate = true, pos++;
    if (pos < end && text->bytes[pos] == '0') spec.is_zero_padded = true, pos++;
    spec.width = take_number(text, &pos, end);
    if (pos < end && text->bytes[pos] == ',') spec.is_grouped = true, pos++;
    if (pos < end && text->bytes[pos] == '.') {
        size_t first = ++pos;
        spec.precision = take_number(text, &pos, end);
        if (pos == first) return fail_format(formatter);
    }
    if (pos < end && text->bytes[pos] < 0x80) spec.type = (char)text->bytes[pos++];
    if (pos != end) return fail_format(formatter);
    *ret_spec = spec;
    return 0;
}

/* The argument that a field starts with: a number, a name, or the next one. */
static int first_value(struct formatter *formatter, size_t first, size_t end, struct tmpl_value *ret_value)
{
    const struct tmpl_args *args = formatter->args;
    size_t pos = first;
    int64_t number = take_number(formatter->text, &pos, end);
    if (pos == end) {
        bool is_auto = first == end;
        if (is_auto ? formatter->is_manual : formatter->next_auto > 0)
            return tmpl_fail(formatter->run, "format(): automatic and manual field numbering are mixed");
        formatter->is_manual = !is_auto;
        size_t idx = is_auto ? formatter->next_auto++ : (size_t)number;
        if (idx >= args->count)
            return tmpl_fail(formatter->run, "format(): replacement index %zu out of range", idx);
        *ret_value = args->positional[idx];
        return 0;
    }
    for (size_t i = 0; i < args->keyword_count; i++) {
        const struct tmpl_string *name = args->keywords[i].name;
        if (name->len != end - first || memcmp(name->bytes, formatter->text->bytes + first, name->len) != 0)
            continue;
        *ret_value = args->keywords[i].value;
        return 0;
    }
    return tmpl_fail(formatter->run, "format(): no argument of that name");
}

/* first(.name | [key])* */
static int field_value(struct formatter *formatter, size_t first, size_t end, struct tmpl_value *ret_value)
{
    const struct tmpl_string *text = formatter->text;
    size_t pos = first;
    while (pos < end && text->bytes[pos] != '.' && text->bytes[pos] != '[') pos++;
    if (first_value(formatter, first, pos, ret_value) < 0) return formatter->run->code;
    while (pos < end) {
        bool is_item = text->bytes[pos] == '[';
        size_t stop = ++pos, digits = pos;
        while (stop < end &&
               (is_item ? text->bytes[stop] != ']' : text->bytes[stop] != '.' && text->bytes[stop] != '['))
            stop++;
        if (stop == pos || (is_item && stop == end)) return fail_format(formatter);
        struct tmpl_value key;
        if (tmpl_string_range(formatter->run, text, pos, stop - pos, &key) < 0) return formatter->run->code;
        int64_t number = take_number(text, &digits, stop);
        int r = !is_item ? tmpl_get_attribute(formatter->run, *ret_value, key.string, ret_value)
                         : tmpl_get_item(formatter->run, *ret_value, digits == stop ? value_int(number) : key,
                                         ret_value);
        if (r < 0) return r;
        pos = stop + is_item;
        if (is_item && pos < end && text->bytes[pos] != '.' && text->bytes[pos] != '[')
            return fail_format(formatter);
    }
    return 0;
}

/* The field in [pos, end), between its braces. */
static int format_field(struct formatter *formatter, size_t pos, size_t end)
{
    const struct tmpl_string *text = formatter->text;
    size_t name_end = pos;
    int depth = 0;
    for (; name_end < end && (depth > 0 || (text->bytes[name_end] != '!' && text->bytes[name_end] != ':'));
         name_end++)
        depth += (text->bytes[name_end] == '[') - (text->bytes[name_end] == ']');
    struct tmpl_value value;
    struct tmpl_format_spec spec;
    if (field_value(formatter, pos, name_end, &value) < 0) return formatter->run->code;
    pos = name_end;
    if (pos < end && text->bytes[pos] == '!') {
        char conversion = pos + 1 < end ? (char)text->bytes[pos + 1] : 0;
        struct tmpl_builder builder;
        tmpl_builder_init(&builder, formatter->run);
        if (conversion == 'r') (void)tmpl_repr_to(&builder, value); // sticky in the run
        else if (conversion == 's') (void)tmpl_str_to(&builder, value);
        else return tmpl_fail(formatter->run, "format(): unknown conversion");
        if (tmpl_builder_finish(&builder, &value) < 0) return formatter->run->code;
        pos += 2;
    }
    if (pos < end && text->bytes[pos] != ':') return fail_format(formatter);
    if (parse_spec(formatter, pos < end ? pos + 1 : end, end, &spec) < 0) return formatter->run->code;
    return tmpl_format_value(&formatter->builder, &spec, value);
}

int tmpl_str_format(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv,
                    const struct tmpl_args *args, struct tmpl_value *ret_value)
{
    (void)argv;
    const struct tmpl_string *text = self.string;
    struct formatter formatter = {.run = run, .text = text, .args = args};
    tmpl_builder_init(&formatter.builder, run);
    for (size_t pos = 0; pos < text->len && tmpl_charge(run, 1) >= 0;) {
        size_t plain = pos;
        while (pos < text->len && text->bytes[pos] != '{' && text->bytes[pos] != '}') pos++;
        tmpl_builder_add_range(&formatter.builder, text, plain, pos - plain);
        if (pos == text->len) break;
        bool is_doubled = pos + 1 < text->len && text->bytes[pos + 1] == text->bytes[pos];
        if (is_doubled) {
            tmpl_builder_add_range(&formatter.builder, text, pos, 1);
            pos += 2;
            continue;
        }
        if (text->bytes[pos] == '}') return tmpl_fail(run, "format(): single '}' in the format");
        size_t end = ++pos;
        while (end < text->len && text->bytes[end] != '}' && text->bytes[end] != '{') end++;
        if (end == text->len) return tmpl_fail(run, "format(): expected '}' before the end");
        if (text->bytes[end] == '{')
            return tmpl_fail(run, "format(): nested replacement fields are not supported");
        if (format_field(&formatter, pos, end) < 0) return run->code;
        pos = end + 1;
    }
    return tmpl_builder_finish(&formatter.builder, ret_value);
}

/* --- % ------------------------------------------------------------------------------------------ */

struct percent {
    struct tmpl_run *run;
    const struct tmpl_string *format;
    struct tmpl_value values;
    size_t next; // values taken
    size_t pos;
};

static int next_percent_value(struct percent *percent, struct tmpl_value *ret_value)
{
    bool is_tuple = percent->values.kind == VALUE_TUPLE;
    size_t count = is_tuple ? percent->values.list->count : 1;
    if (percent->next >= count) return tmpl_fail(percent->run, "not enough arguments for format string");
    *ret_value = is_tuple ? percent->values.list->items[percent->next] : percent->values;
    percent->next++;
    return 0;
}

/* %(name) after the percent sign, when there is one: 1. */
static int named_percent_value(struct percent *percent, struct tmpl_value *ret_value)
{
    const struct tmpl_string *format = percent->format;
    if (percent->pos >= format->len || format->bytes[percent->pos] != '(') return 0;
    const uint8_t *close = memchr(format->bytes + percent->pos, ')', format->len - percent->pos);
    if (!close) return tmpl_fail(percent->run, "incomplete format key");
    if (percent->values.kind != VALUE_DICT) return tmpl_fail(percent->run, "format requires a mapping");
    size_t first = percent->pos + 1, end = (size_t)(close - format->bytes);
    struct tmpl_value key;
    if (tmpl_string_range(percent->run, format, first, end - first, &key) < 0) return percent->run->code;
    int r = tmpl_dict_get(percent->run, percent->values.dict, key, ret_value);
    if (r == 0) return tmpl_fail(percent->run, "format: no value of that name");
    percent->pos = end + 1;
    return r;
}

static int star_or_number(struct percent *percent, int64_t *ret_number)
{
    struct tmpl_value value;
    if (percent->pos < percent->format->len && percent->format->bytes[percent->pos] == '*') {
        percent->pos++;
        if (next_percent_value(percent, &value) < 0) return percent->run->code;
        return tmpl_arg_int(percent->run, value, 0, "%", ret_number);
    }
    *ret_number = take_number(percent->format, &percent->pos, percent->format->len);
    return 0;
}

static int percent_flags(struct percent *percent, struct tmpl_format_spec *spec)
{
    const struct tmpl_string *format = percent->format;
    spec->align = '>'; // also for text
    for (; percent->pos < format->len; percent->pos++) {
        switch (format->bytes[percent->pos]) {
        case '-': spec->align = '<'; continue;
        case '0': spec->is_zero_padded = true; continue;
        case '+': spec->sign = '+'; continue;
        case ' ': spec->sign = spec->sign ? spec->sign : ' '; continue;
        case '#': spec->is_alternate = true; continue;
        default: break;
        }
        break;
    }
    if (star_or_number(percent, &spec->width) < 0) return percent->run->code;
    if (spec->width < 0) {
        spec->align = '<';
        spec->width = spec->width < -WIDTH_MAX ? WIDTH_MAX + 1 : -spec->width;
    }
    if (percent->pos < format->len && format->bytes[percent->pos] == '.') {
        percent->pos++;
        if (star_or_number(percent, &spec->precision) < 0) return percent->run->code;
        if (spec->precision < 0) spec->precision = 0;
    }
    return 0;
}

/* One conversion; pos is behind the percent sign. */
static int percent_one(struct percent *percent, struct tmpl_builder *builder)
{
    struct tmpl_run *run = percent->run;
    struct tmpl_format_spec spec = {.precision = -1};
    struct tmpl_value value = {0};
    int64_t integer;
    double real;
    int named = named_percent_value(percent, &value);
    if (named < 0 || percent_flags(percent, &spec) < 0) return run->code;
    if (percent->pos >= percent->format->len) return tmpl_fail(run, "incomplete format");
    char type = (char)percent->format->bytes[percent->pos++];
    if (type == '%') {
        tmpl_builder_add_range(builder, percent->format, percent->pos - 1, 1);
        return run->code;
    }
    if (named == 0 && next_percent_value(percent, &value) < 0) return run->code;
    if (type == 's' || type == 'r' || type == 'a') {
        struct tmpl_builder text;
        tmpl_builder_init(&text, run);
        if (type == 's') (void)tmpl_str_to(&text, value); // sticky in the run
        else (void)tmpl_repr_to(&text, value);
        if (tmpl_builder_finish(&text, &value) < 0) return run->code;
        spec.is_zero_padded = false;
        return tmpl_format_value(builder, &spec, value);
    }
    if (!type || !strchr("diuxXoeEfFgG", type)) return tmpl_fail(run, "unsupported format character");
    if (!tmpl_as_real(value, &real))
        return tmpl_fail(run, "%%%c format: a number is required, not %s", type, tmpl_type_name(value));
    if (strchr("diuxXo", type)) {
        if (!tmpl_as_int(value, &integer)) {
            if (!strchr("diu", type) || !(fabs(real) < 0x1p63))
                return tmpl_fail(run, "%%%c format: an integer is required, not float", type);
            integer = (int64_t)real;
        }
        value = value_int(integer);
        spec.precision = -1;
    } else if (tmpl_as_int(value, &integer)) {
        value = value_float((double)integer);
    }
    spec.type = type;
    if (spec.is_zero_padded && spec.align == '>') spec.align = '=';
    else spec.is_zero_padded = false;
    return tmpl_format_value(builder, &spec, value);
}

int tmpl_format_percent(struct tmpl_run *run, const struct tmpl_string *format, struct tmpl_value values,
                        struct tmpl_value *ret_value)
{
    struct percent percent = {.run = run, .format = format, .values = values};
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, run);
    while (percent.pos < format->len && tmpl_charge(run, 1) >= 0) {
        size_t plain = percent.pos;
        const uint8_t *sign = memchr(format->bytes + plain, '%', format->len - plain);
        percent.pos = sign ? (size_t)(sign - format->bytes) : format->len;
        tmpl_builder_add_range(&builder, format, plain, percent.pos - plain);
        if (!sign) break;
        percent.pos++;
        if (percent_one(&percent, &builder) < 0) return run->code;
    }
    if (run->code < 0) return run->code;
    bool is_all_taken = values.kind == VALUE_TUPLE
                            ? percent.next == values.list->count
                            : percent.next > 0 || values.kind == VALUE_DICT || values.kind == VALUE_LIST ||
                                  values.kind == VALUE_UNDEFINED;
    if (!is_all_taken) return tmpl_fail(run, "not all arguments converted during string formatting");
    return tmpl_builder_finish(&builder, ret_value);
}

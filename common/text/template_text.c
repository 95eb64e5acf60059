/* SPDX-License-Identifier: Apache-2.0 */
/* template_text - what string filters and string methods share. Every result keeps the marks of the
 * bytes it came from; padding is template text unless a fill was given. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_builtin.h"
#include "common/text/template_unicode.h"

/* --- case --------------------------------------------------------------------------------------- */

struct case_walk {
    enum tmpl_case to;
    bool is_first;    // no character was mapped yet
    bool after_cased; // the last character has a case
    bool after_start; // the last character started a word of the title filter
    bool after_break; // the last character separates words for the title filter
};

static bool is_title_break(uint32_t codepoint)
{
    return tmpl_is_space(codepoint) || codepoint == '-' || codepoint == '(' || codepoint == '{' ||
           codepoint == '[' || codepoint == '<';
}

static size_t map_char(struct case_walk *walk, uint32_t codepoint, uint8_t *out)
{
    bool starts_word = walk->to == CASE_TITLE ? !walk->after_cased : walk->after_break;
    bool is_first = walk->is_first;
    walk->is_first = false;
    walk->after_cased = tmpl_is_cased(codepoint);
    walk->after_start = walk->to == CASE_TITLE_FILTER && starts_word;
    walk->after_break = walk->to == CASE_TITLE_FILTER && is_title_break(codepoint);
    switch (walk->to) {
    case CASE_UPPER: return tmpl_to_upper(codepoint, out);
    case CASE_LOWER: return tmpl_to_lower(codepoint, out);
    case CASE_SWAP:
        return tmpl_is_upper(codepoint) ? tmpl_to_lower(codepoint, out) : tmpl_to_upper(codepoint, out);
    case CASE_CAPITALIZE: return is_first ? tmpl_to_title(codepoint, out) : tmpl_to_lower(codepoint, out);
    case CASE_TITLE: return starts_word ? tmpl_to_title(codepoint, out) : tmpl_to_lower(codepoint, out);
    case CASE_TITLE_FILTER:
        return starts_word ? tmpl_to_upper(codepoint, out) : tmpl_to_lower(codepoint, out);
    }
    CHECK(!"no such case");
    return 0;
}

/* Capital sigma is written differently at the end of a word: after a letter, with none behind. */
static bool is_final_sigma(const struct tmpl_string *string, size_t offset, size_t bytes)
{
    uint32_t before = 0, after = 0;
    size_t n = offset ? tmpl_last_char_bytes(string->bytes, offset) : 0, next = offset + bytes;
    if (n) (void)utf8_decode(string->bytes + offset - n, n, &before); // strings are well-formed
    if (next < string->len) (void)utf8_decode(string->bytes + next, string->len - next, &after);
    return n && tmpl_is_cased(before) && !(next < string->len && tmpl_is_cased(after));
}

int tmpl_text_case(struct tmpl_run *run, const struct tmpl_string *string, enum tmpl_case to,
                   struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    struct tmpl_piece piece;
    struct case_walk walk = {.to = to, .is_first = true, .after_break = true};
    uint8_t out[256];
    tmpl_builder_init(&builder, run);
    if (tmpl_charge(run, string->len) < 0) return run->code;
    for (uint32_t k = 0; tmpl_string_piece(string, k, &piece); k++) {
        size_t used = 0, end = piece.first + piece.len;
        for (size_t i = piece.first; i < end;) {
            uint32_t codepoint = 0;
            size_t n = utf8_decode(string->bytes + i, end - i, &codepoint);
            CHECK(n > 0); // runs end between characters
            bool lowers = to != CASE_UPPER && !(to == CASE_CAPITALIZE && walk.is_first);
            if (codepoint == 0x3A3 && lowers && walk.after_cased && !walk.after_start &&
                is_final_sigma(string, i, n)) {
                (void)map_char(&walk, codepoint, out + used); // for the walk's state
                used += utf8_encode(0x3C2, out + used);
            } else {
                used += map_char(&walk, codepoint, out + used);
            }
            i += n;
            if (used + TMPL_CASE_BYTES_MAX <= sizeof out && i < end) continue;
            tmpl_builder_add(&builder, out, used, piece.is_user);
            used = 0;
        }
    }
    return tmpl_builder_finish(&builder, ret_value);
}

bool tmpl_text_is_case(const struct tmpl_string *string, bool is_upper)
{
    bool has_cased = false;
    for (size_t i = 0; i < string->len;) {
        uint32_t codepoint = 0;
        size_t n = utf8_decode(string->bytes + i, string->len - i, &codepoint);
        CHECK(n > 0);
        if (tmpl_is_cased(codepoint)) {
            if (is_upper ? !tmpl_is_upper(codepoint) : !tmpl_is_lower(codepoint)) return false;
            has_cased = true;
        }
        i += n;
    }
    return has_cased;
}

/* --- strip, replace, pad, join ------------------------------------------------------------------ */

static bool in_set(const struct tmpl_string *set, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i + n <= set->len; i += tmpl_char_bytes(set->bytes + i, set->len - i))
        if (memcmp(set->bytes + i, p, n) == 0) return true;
    return false;
}

int tmpl_text_strip(struct tmpl_run *run, const struct tmpl_string *string, struct tmpl_value chars,
                    enum tmpl_sides sides, struct tmpl_value *ret_value)
{
    const uint8_t *p = string->bytes;
    size_t first = 0, end = string->len;
    if (chars.kind == VALUE_MISSING || chars.kind == VALUE_NONE) {
        if (sides & SIDE_LEFT) first = tmpl_space_prefix((const char *)p, end);
        if (sides & SIDE_RIGHT) end -= tmpl_space_suffix((const char *)p + first, end - first);
        if (tmpl_charge(run, (string->len - (end - first)) / 8) < 0) return run->code;
        return tmpl_string_range(run, string, first, end - first, ret_value);
    }
    struct tmpl_string *set;
    if (tmpl_arg_string(run, chars, "strip", &set) < 0) return run->code;
    size_t each = 1 + set->len / 2; // steps a character
    while ((sides & SIDE_LEFT) && first < end && tmpl_charge(run, each) >= 0) {
        size_t n = tmpl_char_bytes(p + first, end - first);
        if (!in_set(set, p + first, n)) break;
        first += n;
    }
    while ((sides & SIDE_RIGHT) && first < end && tmpl_charge(run, each) >= 0) {
        size_t n = tmpl_last_char_bytes(p + first, end - first);
        if (!in_set(set, p + end - n, n)) break;
        end -= n;
    }
    return run->code < 0 ? run->code : tmpl_string_range(run, string, first, end - first, ret_value);
}

/* Replacing nothing puts `to` before every character and at the end. */
static void replace_empty(struct tmpl_builder *builder, const struct tmpl_string *string,
                          const struct tmpl_string *to, int64_t count_max)
{
    size_t i = 0;
    for (int64_t done = 0; tmpl_charge(builder->run, 1) >= 0; done++) {
        if (count_max >= 0 && done >= count_max) break;
        tmpl_builder_add_string(builder, to);
        if (i == string->len) return;
        size_t n = tmpl_char_bytes(string->bytes + i, string->len - i);
        tmpl_builder_add_range(builder, string, i, n);
        i += n;
    }
    if (builder->run->code >= 0) tmpl_builder_add_range(builder, string, i, string->len - i);
}

int tmpl_text_replace(struct tmpl_run *run, const struct tmpl_string *string, const struct tmpl_string *from,
                      const struct tmpl_string *to, int64_t count_max, struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, run);
    if (from->len == 0) {
        replace_empty(&builder, string, to, count_max);
        return tmpl_builder_finish(&builder, ret_value);
    }
    size_t first = 0, found;
    for (int64_t done = 0; count_max < 0 || done < count_max; done++) {
        int r = tmpl_charge(run, 1);
        if (r == 0) r = tmpl_string_find(run, string, from, first, &found);
        if (r < 0) return r;
        if (r == 0) break;
        tmpl_builder_add_range(&builder, string, first, found - first);
        tmpl_builder_add_string(&builder, to);
        first = found + from->len;
    }
    tmpl_builder_add_range(&builder, string, first, string->len - first);
    return tmpl_builder_finish(&builder, ret_value);
}

int tmpl_text_pad(struct tmpl_run *run, struct tmpl_string *string, int64_t width,
                  const struct tmpl_string *fill, enum tmpl_sides sides, struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    size_t count;
    if (tmpl_string_chars(run, string, &count) < 0) return run->code;
    if (width < 0 || (uint64_t)width <= count) {
        *ret_value = value_string(string);
        return 0;
    }
    tmpl_builder_init(&builder, run);
    size_t pad = (size_t)width - count, left = sides == SIDE_LEFT ? pad : 0;
    if (sides == SIDE_BOTH) left = pad / 2 + (pad & (size_t)width & 1); // CPython's rounding of str.center
    tmpl_builder_fill(&builder, fill, left);
    tmpl_builder_add_string(&builder, string);
    tmpl_builder_fill(&builder, fill, pad - left);
    return tmpl_builder_finish(&builder, ret_value);
}

int tmpl_text_join(struct tmpl_run *run, const struct tmpl_string *separator, struct tmpl_value items,
                   bool convert, struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    struct tmpl_iter iter;
    struct tmpl_value item;
    int r;
    tmpl_builder_init(&builder, run);
    if (tmpl_iter_init(run, items, &iter) < 0) return run->code;
    for (size_t i = 0; (r = tmpl_iter_next(run, &iter, &item)) == 1; i++) {
        if (!convert && item.kind != VALUE_STRING)
            return tmpl_fail(run, "sequence item %zu: expected str instance, %s found", i,
                             tmpl_type_name(item));
        if (i > 0) tmpl_builder_add_string(&builder, separator);
        if (tmpl_str_to(&builder, item) < 0) return run->code;
    }
    return r < 0 ? r : tmpl_builder_finish(&builder, ret_value);
}

/* --- numbers ------------------------------------------------------------------------------------ */

enum { NUMBER_BYTES_MAX = 400 }; // longer than any double needs

/* Copies the digits without blanks around and underscores between digits; false when malformed. */
static bool clean_number(const struct tmpl_string *string, char out[NUMBER_BYTES_MAX])
{
    const char *p = (const char *)string->bytes;
    size_t first = tmpl_space_prefix(p, string->len);
    size_t end = string->len - tmpl_space_suffix(p + first, string->len - first), n = 0;
    for (size_t i = first; i < end; i++) {
        bool is_inner = i > first && i + 1 < end && tmpl_hex_digit(p[i - 1]) >= 0 &&
                        tmpl_hex_digit(p[i + 1]) >= 0;
        if (p[i] == '_' && is_inner) continue;
        if (p[i] == '_' || p[i] == 0 || n + 1 >= NUMBER_BYTES_MAX) return false;
        out[n++] = p[i];
    }
    out[n] = 0;
    return n > 0;
}

int tmpl_text_to_int(const struct tmpl_string *string, int base, int64_t *ret_integer)
{
    char text[NUMBER_BYTES_MAX];
    if (!clean_number(string, text)) return 0;
    const char *p = text;
    bool is_negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    char mark = p[0] == '0' ? (char)(p[1] | 32) : 0;
    int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (base == 0) base = marked ? marked : 10;
    if (marked == base && p[2]) p += 2;
    if (!*p) return 0;
    int64_t value = 0; // negative while it is built, so that INT64_MIN fits
    for (; *p; p++) {
        int digit = *p >= '0' && *p <= '9'                 ? *p - '0'
                    : (*p | 32) >= 'a' && (*p | 32) <= 'z' ? (*p | 32) - 'a' + 10
                                                           : 99;
        if (digit >= base) return 0;
        if (__builtin_mul_overflow(value, (int64_t)base, &value) ||
            __builtin_sub_overflow(value, (int64_t)digit, &value))
            return 0;
    }
    if (!is_negative && __builtin_sub_overflow((int64_t)0, value, &value)) return 0;
    *ret_integer = value;
    return 1;
}

int tmpl_text_to_real(const struct tmpl_string *string, double *ret_real)
{
    char text[NUMBER_BYTES_MAX], *end;
    if (!clean_number(string, text) || strpbrk(text, "xXpP(")) return 0; // C's extras: hexadecimal, nan(...)
    double value = strtod(text, &end);
    if (*end) return 0;
    *ret_real = value;
    return 1;
}

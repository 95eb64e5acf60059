/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/template_unicode.h"

#include <utf8proc.h>

#include "common/base/check.h"
#include "common/base/utf8.h"

bool tmpl_is_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool tmpl_is_word(uint32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool tmpl_is_printable(uint32_t c)
{
    if (c < 0x80) return c >= 0x20 && c < 0x7F;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    default: return true;
    }
}

bool tmpl_is_alpha(uint32_t c)
{
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool tmpl_is_digit(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

bool tmpl_is_lower(uint32_t c)
{
    if (c < 0x80) return c >= 'a' && c <= 'z';
    return utf8proc_islower((utf8proc_int32_t)c) != 0;
}

bool tmpl_is_upper(uint32_t c)
{
    if (c < 0x80) return c >= 'A' && c <= 'Z';
    return utf8proc_isupper((utf8proc_int32_t)c) != 0;
}

bool tmpl_is_title(uint32_t c)
{
    if (c < 0x80) return false;
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LT;
}

size_t tmpl_char_bytes(const uint8_t *p, size_t len)
{
    CHECK(len > 0);
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    return n <= len ? n : len;
}

size_t tmpl_last_char_bytes(const uint8_t *p, size_t len)
{
    CHECK(len > 0);
    size_t n = 1;
    while (n < len && n < 4 && (p[len - n] & 0xC0) == 0x80) n++;
    return n;
}

size_t tmpl_space_prefix(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;
    while (i < len) {
        uint32_t codepoint;
        if (p[i] < 0x80) {
            if (!tmpl_is_space(p[i])) break;
            i++;
            continue;
        }
        size_t n = utf8_decode(p + i, len - i, &codepoint);
        if (n == 0 || !tmpl_is_space(codepoint)) break;
        i += n;
    }
    return i;
}

size_t tmpl_space_suffix(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t end = len;
    while (end > 0) {
        uint32_t codepoint;
        if (p[end - 1] < 0x80) {
            if (!tmpl_is_space(p[end - 1])) break;
            end--;
            continue;
        }
        size_t n = tmpl_last_char_bytes(p, end);
        if (utf8_decode(p + end - n, n, &codepoint) != n || !tmpl_is_space(codepoint)) break;
        end -= n;
    }
    return len - end;
}

size_t tmpl_line_break(const uint8_t *p, size_t len)
{
    if (len == 0) return 0;
    if (p[0] == '\r') return len > 1 && p[1] == '\n' ? 2 : 1;
    if ((p[0] >= '\n' && p[0] <= '\f') || (p[0] >= 0x1C && p[0] <= 0x1E)) return 1;
    if (len >= 2 && p[0] == 0xC2 && p[1] == 0x85) return 2;
    if (len >= 3 && p[0] == 0xE2 && p[1] == 0x80 && (p[2] == 0xA8 || p[2] == 0xA9)) return 3;
    return 0;
}

/* Unconditional expansions of SpecialCasing.txt (Unicode 15) that are met in living text. */
static const struct {
    uint16_t from, to[3];
} upper_expansions[] = {
    {0x00DF, {'S', 'S', 0}},          {0x0149, {0x02BC, 'N', 0}},       {0x01F0, {'J', 0x030C, 0}},
    {0x0390, {0x0399, 0x308, 0x301}}, {0x03B0, {0x03A5, 0x308, 0x301}}, {0x0587, {0x0535, 0x0552, 0}},
    {0xFB00, {'F', 'F', 0}},          {0xFB01, {'F', 'I', 0}},          {0xFB02, {'F', 'L', 0}},
    {0xFB03, {'F', 'F', 'I'}},        {0xFB04, {'F', 'F', 'L'}},        {0xFB05, {'S', 'T', 0}},
    {0xFB06, {'S', 'T', 0}},
};

size_t tmpl_to_upper(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)(c >= 'a' && c <= 'z' ? c - 32 : c);
        return 1;
    }
    for (size_t i = 0; i < COUNT_OF(upper_expansions); i++) {
        if (upper_expansions[i].from != c) continue;
        size_t n = 0;
        for (int k = 0; k < 3 && upper_expansions[i].to[k]; k++)
            n += utf8_encode(upper_expansions[i].to[k], out + n);
        return n;
    }
    return utf8_encode((uint32_t)utf8proc_toupper((utf8proc_int32_t)c), out);
}

size_t tmpl_to_lower(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        return 1;
    }
    if (c == 0x0130) { // dotted capital I keeps its dot
        out[0] = 'i';
        return 1 + utf8_encode(0x0307, out + 1);
    }
    return utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), out);
}

size_t tmpl_to_title(uint32_t c, uint8_t *out)
{
    if (c == 0x00DF) {
        out[0] = 'S';
        out[1] = 's';
        return 2;
    }
    if (c >= 0xFB00 && c <= 0xFB06) { // the ligatures: first letter upper, the others lower
        size_t n = tmpl_to_upper(c, out);
        for (size_t i = 1; i < n; i++) out[i] = (uint8_t)(out[i] | 32);
        return n;
    }
    if (c < 0x80) return tmpl_to_upper(c, out);
    return utf8_encode((uint32_t)utf8proc_totitle((utf8proc_int32_t)c), out);
}

int tmpl_hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f') return (c | 32) - 'a' + 10;
    return -1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* template_unicode - character classes and case mapping as Python's str has them. Pure functions;
 * bytes given must be well-formed UTF-8. */
#ifndef KVASIR_TEXT_TEMPLATE_UNICODE_H
#define KVASIR_TEXT_TEMPLATE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool tmpl_is_space(uint32_t codepoint);     // str.isspace
bool tmpl_is_word(uint32_t codepoint);      // \w of a Unicode regular expression
bool tmpl_is_printable(uint32_t codepoint); // str.isprintable
bool tmpl_is_alpha(uint32_t codepoint);
bool tmpl_is_digit(uint32_t codepoint); // decimal digits of any script
bool tmpl_is_lower(uint32_t codepoint);
bool tmpl_is_upper(uint32_t codepoint);
bool tmpl_is_title(uint32_t codepoint);
static inline bool tmpl_is_cased(uint32_t codepoint)
{
    return tmpl_is_lower(codepoint) || tmpl_is_upper(codepoint) || tmpl_is_title(codepoint);
}

/* Bytes of whitespace at the start and at the end of text. */
size_t tmpl_space_prefix(const char *text, size_t len);
size_t tmpl_space_suffix(const char *text, size_t len);

/* Bytes of the line break that starts at p as str.splitlines sees it, or 0. */
size_t tmpl_line_break(const uint8_t *p, size_t len);

/* Bytes (1..4) of the character at p, or of the last one before p + len. len > 0. */
size_t tmpl_char_bytes(const uint8_t *p, size_t len);
size_t tmpl_last_char_bytes(const uint8_t *p, size_t len);

/* Full case mappings: write up to 12 bytes, return how many. */
enum { TMPL_CASE_BYTES_MAX = 12 };
size_t tmpl_to_upper(uint32_t codepoint, uint8_t *out);
size_t tmpl_to_lower(uint32_t codepoint, uint8_t *out);
size_t tmpl_to_title(uint32_t codepoint, uint8_t *out);

int tmpl_hex_digit(char c); // 0..15 or -1

#endif

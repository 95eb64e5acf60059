/* SPDX-License-Identifier: Apache-2.0 */
/* utf8 - well-formedness of UTF-8 by the Unicode Standard, table 3-7: no overlong forms, no
 * surrogates, nothing past U+10FFFF. Pure functions over bytes. */
#ifndef KVASIR_BASE_UTF8_H
#define KVASIR_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes (1..4) of the well-formed sequence that starts at p, or 0 when malformed or cut short. */
size_t utf8_sequence_bytes(const uint8_t *p, size_t len);

/* True when [p, p+len) is a proper prefix of some well-formed sequence (1..3 bytes, more may come).
 * False for an empty, complete or malformed one. */
bool utf8_is_incomplete(const uint8_t *p, size_t len);

bool utf8_is_valid(const uint8_t *p, size_t len);

/* Code points of valid UTF-8. */
size_t utf8_count(const uint8_t *p, size_t len);

/* Decodes one sequence; ret_codepoint is set when the return is > 0. Same return as sequence_bytes. */
size_t utf8_decode(const uint8_t *p, size_t len, uint32_t *ret_codepoint);

/* Encodes codepoint (<= 0x10FFFF, no surrogate) to out[4]; returns the bytes written. */
size_t utf8_encode(uint32_t codepoint, uint8_t *out);

#endif

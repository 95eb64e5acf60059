/* SPDX-License-Identifier: Apache-2.0 */
/* byte_alphabet - the 256 printable code points in which byte-level vocabularies write bytes.
 *
 * Bytes 21..7E, A1..AC and AE..FF stand for themselves; the other 68, in rising order, are U+0100
 * and on (so a space is U+0120). The mapping is that of GPT-2's encoder (Radford et al., 2019),
 * which every `tokenizer.ggml.model = gpt2` file uses for the text of normal tokens and merges. */
#ifndef KVASIR_TEXT_BYTE_ALPHABET_H
#define KVASIR_TEXT_BYTE_ALPHABET_H

#include <stddef.h>
#include <stdint.h>

/* Byte (0..255) of a code point, or -1 when the alphabet does not hold it. */
int byte_alphabet_byte(uint32_t codepoint);

/* Decodes text[0, len) to out (room for len bytes; never grows). Returns the bytes written, or
 * -EILSEQ when the text is malformed UTF-8 or holds a code point outside the alphabet. */
int byte_alphabet_decode(const char *text, size_t len, uint8_t *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/byte_alphabet.h"

#include <errno.h>
#include <limits.h>

#include "common/base/check.h"
#include "common/base/utf8.h"

int byte_alphabet_byte(uint32_t codepoint)
{
    if (codepoint >= 0x21 && codepoint <= 0x7E) return (int)codepoint;
    if (codepoint >= 0xA1 && codepoint <= 0xFF) return codepoint == 0xAD ? -1 : (int)codepoint;
    if (codepoint < 0x100) return -1;
    /* The stand-ins: 00..20 (33 of them), 7F..A0 (34), AD. */
    uint32_t place = codepoint - 0x100;
    if (place < 33) return (int)place;
    if (place < 67) return (int)(0x7F + place - 33);
    return place == 67 ? 0xAD : -1;
}

int byte_alphabet_decode(const char *text, size_t len, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t written = 0;
    CHECK(len <= INT_MAX);
    for (size_t i = 0; i < len;) {
        uint32_t codepoint;
        size_t n = utf8_decode(p + i, len - i, &codepoint);
        if (n == 0) return -EILSEQ;
        int byte = byte_alphabet_byte(codepoint);
        if (byte < 0) return -EILSEQ;
        out[written++] = (uint8_t)byte;
        i += n;
    }
    return (int)written;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/utf8.h"

#include <string.h>

#include "common/base/check.h"

/* The second byte's range for each lead byte (Unicode table 3-7); later bytes are 80..BF. */
static size_t lead_info(uint8_t lead, uint8_t *ret_low, uint8_t *ret_high)
{
    *ret_low = 0x80;
    *ret_high = 0xBF;
    if (lead < 0x80) return 1;
    if (lead < 0xC2) return 0;
    if (lead < 0xE0) return 2;
    if (lead == 0xE0) return *ret_low = 0xA0, 3;
    if (lead == 0xED) return *ret_high = 0x9F, 3;
    if (lead < 0xF0) return 3;
    if (lead == 0xF0) return *ret_low = 0x90, 4;
    if (lead < 0xF4) return 4;
    if (lead == 0xF4) return *ret_high = 0x8F, 4;
    return 0;
}

/* How many of the sequence's bytes are present and right; ret_need is its full length, 0 = bad lead. */
static size_t match(const uint8_t *p, size_t len, size_t *ret_need)
{
    uint8_t low, high;
    *ret_need = 0;
    if (len == 0) return 0;
    size_t need = lead_info(p[0], &low, &high);
    *ret_need = need;
    if (need == 0) return 0;
    size_t n = 1;
    for (; n < need && n < len; n++) {
        if (p[n] < low || p[n] > high) return n;
        low = 0x80;
        high = 0xBF;
    }
    return n;
}

size_t utf8_sequence_bytes(const uint8_t *p, size_t len)
{
    size_t need;
    size_t n = match(p, len, &need);
    return need && n == need ? n : 0;
}

bool utf8_is_incomplete(const uint8_t *p, size_t len)
{
    size_t need;
    size_t n = match(p, len, &need);
    return need && n == len && n < need;
}

bool utf8_is_valid(const uint8_t *p, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t word;
        while (i + 8 <= len) { // eight ASCII bytes at a time
            memcpy(&word, p + i, 8);
            if (word & 0x8080808080808080u) break;
            i += 8;
        }
        if (i == len) break;
        size_t n = utf8_sequence_bytes(p + i, len - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

size_t utf8_decode(const uint8_t *p, size_t len, uint32_t *ret_codepoint)
{
    size_t n = utf8_sequence_bytes(p, len);
    if (n == 0) return 0;
    if (n == 1) {
        *ret_codepoint = p[0];
        return 1;
    }
    uint32_t c = p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3Fu);
    *ret_codepoint = c;
    return n;
}

size_t utf8_encode(uint32_t codepoint, uint8_t *out)
{
    CHECK(codepoint <= 0x10FFFF);
    if (codepoint < 0x80) {
        out[0] = (uint8_t)codepoint;
        return 1;
    }
    size_t n = codepoint < 0x800 ? 2 : codepoint < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, codepoint >>= 6) out[i] = (uint8_t)(0x80 | (codepoint & 0x3F));
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (uint8_t)(lead[n] | codepoint);
    return n;
}

size_t utf8_count(const uint8_t *p, size_t len)
{
    size_t count = 0;
    for (size_t i = 0; i < len; i++) count += (p[i] & 0xC0) != 0x80; // all but continuation bytes
    return count;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/detok.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"

#define REPLACEMENT "\xEF\xBF\xBD" // U+FFFD

void detok_init(struct detok *detok, const struct tokenizer *tokenizer, bool skip_special)
{
    *detok = (struct detok){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Feeds one byte to the held ones. What can no longer become a character is replaced once per
 * maximal subpart (Unicode Standard 3.9), and the byte that broke it starts anew. */
static void push_byte(struct detok *detok, uint8_t byte, struct buf *out)
{
    CHECK(detok->held_count < sizeof detok->held);
    detok->held[detok->held_count++] = byte;
    if (utf8_is_incomplete(detok->held, detok->held_count)) return;
    if (utf8_sequence_bytes(detok->held, detok->held_count) == detok->held_count) {
        (void)buf_append(out, detok->held, detok->held_count); // buf errors are sticky
        detok->held_count = 0;
        return;
    }
    bool was_first = detok->held_count == 1;
    detok->held_count = 0;
    (void)buf_puts(out, REPLACEMENT);
    if (!was_first) push_byte(detok, byte, out); // once: a single byte is first
}

int detok_push(struct detok *detok, uint32_t id, struct buf *out)
{
    size_t len;
    if (detok->skip_special && tokenizer_is_special(detok->tokenizer, id)) return out->error;
    const uint8_t *bytes = tokenizer_token_bytes(detok->tokenizer, id, &len);
    size_t i = 0;
    while (i < len && detok->held_count) push_byte(detok, bytes[i++], out);
    /* The common case: a token of whole characters. */
    if (utf8_is_valid(bytes + i, len - i)) return buf_append(out, bytes + i, len - i);
    while (i < len) push_byte(detok, bytes[i++], out);
    return out->error;
}

int detok_flush(struct detok *detok, struct buf *out)
{
    if (detok->held_count) (void)buf_puts(out, REPLACEMENT); // buf errors are sticky
    detok->held_count = 0;
    return out->error;
}

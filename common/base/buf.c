/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"

enum { CAP_MIN = 64 };

void buf_init(struct buf *buf, size_t bytes_max)
{
    *buf = (struct buf){.bytes_max = bytes_max};
}

void buf_done(struct buf *buf)
{
    free(buf->bytes);
    *buf = (struct buf){.bytes_max = buf->bytes_max};
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    buf->error = 0;
    if (buf->bytes) buf->bytes[0] = 0;
}

int buf_reserve(struct buf *buf, size_t more)
{
    if (buf->error) return buf->error;
    if (more > buf->bytes_max - buf->len) return buf->error = -EMSGSIZE;
    size_t need = buf->len + more + 1;
    if (need <= buf->cap) return 0;
    size_t cap = buf->cap ? buf->cap : CAP_MIN;
    while (cap < need) cap *= 2;
    uint8_t *bytes = realloc(buf->bytes, cap);
    if (!bytes) return buf->error = -ENOMEM;
    buf->bytes = bytes;
    buf->cap = cap;
    return 0;
}

int buf_append(struct buf *buf, const void *bytes, size_t len)
{
    int r = buf_reserve(buf, len);
    if (r < 0) return r;
    if (len) memcpy(buf->bytes + buf->len, bytes, len);
    buf->len += len;
    buf->bytes[buf->len] = 0;
    CHECK(buf->len < buf->cap);
    return 0;
}

int buf_puts(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

int buf_putc(struct buf *buf, char c)
{
    return buf_append(buf, &c, 1);
}

int buf_printf(struct buf *buf, const char *format, ...)
{
    char small[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    CHECK(n >= 0);
    if ((size_t)n < sizeof small) return buf_append(buf, small, (size_t)n);
    int r = buf_reserve(buf, (size_t)n);
    if (r < 0) return r;
    va_start(args, format);
    (void)vsnprintf((char *)buf->bytes + buf->len, (size_t)n + 1, format, args); // room was reserved
    va_end(args);
    buf->len += (size_t)n;
    return 0;
}

void buf_consume(struct buf *buf, size_t len)
{
    CHECK(len <= buf->len);
    if (!buf->bytes) return;
    memmove(buf->bytes, buf->bytes + len, buf->len - len);
    buf->len -= len;
    buf->bytes[buf->len] = 0;
}

const char *buf_text(const struct buf *buf)
{
    return buf->bytes ? (const char *)buf->bytes : "";
}

void *buf_take(struct buf *buf, size_t *ret_len)
{
    void *bytes = buf->bytes;
    *ret_len = buf->len;
    *buf = (struct buf){.bytes_max = buf->bytes_max};
    return bytes;
}

int buf_put_json_string(struct buf *buf, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    size_t i = 0;
    buf_putc(buf, '"');
    while (i < len) {
        size_t plain = i; // the run that needs no escape
        while (plain < len && p[plain] >= 0x20 && p[plain] < 0x80 && p[plain] != '"' && p[plain] != '\\')
            plain++;
        if (plain > i) buf_append(buf, p + i, plain - i);
        i = plain;
        if (i == len) break;
        if (p[i] >= 0x80) {
            size_t n = utf8_sequence_bytes(p + i, len - i);
            if (n) buf_append(buf, p + i, n);
            else buf_puts(buf, "\xEF\xBF\xBD");
            i += n ? n : 1;
            continue;
        }
        switch (p[i]) {
        case '"': buf_puts(buf, "\\\""); break;
        case '\\': buf_puts(buf, "\\\\"); break;
        case '\n': buf_puts(buf, "\\n"); break;
        case '\r': buf_puts(buf, "\\r"); break;
        case '\t': buf_puts(buf, "\\t"); break;
        default: buf_printf(buf, "\\u%04x", p[i]); break;
        }
        i++;
    }
    return buf_putc(buf, '"');
}

/* SPDX-License-Identifier: Apache-2.0 */
/* buf - growable bytes with an upper bound and a sticky error.
 *
 * A buf owns its bytes. Appending past bytes_max, or when memory runs out, sets `error` (-EMSGSIZE or
 * -ENOMEM) and leaves the content as it was; later appends are no-ops, so a writer checks once at
 * its end. The bytes are always followed by a NUL that len does not count, once anything was
 * appended; buf_text() is never NULL. */
#ifndef KVASIR_BASE_BUF_H
#define KVASIR_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *bytes;   // owned; NULL while empty
    size_t len;       // bytes in use
    size_t cap;       // bytes allocated, NUL's place included
    size_t bytes_max; // bound on len
    int error;        // 0, -EMSGSIZE or -ENOMEM; sticky
};

void buf_init(struct buf *buf, size_t bytes_max);
void buf_done(struct buf *buf);  // frees; the buf may be init'ed again
void buf_clear(struct buf *buf); // len = 0, error = 0, keeps the memory

int buf_reserve(struct buf *buf, size_t more); // room for `more` bytes after len; 0 or buf->error
int buf_append(struct buf *buf, const void *bytes, size_t len);
int buf_puts(struct buf *buf, const char *text);
int buf_putc(struct buf *buf, char c);
int buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *buf, size_t len);    // drops the first len bytes
const char *buf_text(const struct buf *buf);      // NUL-terminated; "" while empty
void *buf_take(struct buf *buf, size_t *ret_len); // gives the bytes (free() them), empties the buf

/* Appends bytes as a JSON string with its quotes. Input must be UTF-8; malformed sequences are
 * written as U+FFFD. Escapes ", \, and control characters only (RFC 8259). */
int buf_put_json_string(struct buf *buf, const void *bytes, size_t len);

#endif

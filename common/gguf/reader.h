/* SPDX-License-Identifier: Apache-2.0 */
/* reader - a bounded cursor over untrusted little-endian bytes, inside common/gguf only.
 *
 * Borrows the bytes. Every read checks what is left first and never moves past `size`; a failed read
 * leaves `at` where it was and fills err with "gguf: offset N: why". Big-endian hosts are not built. */
#ifndef KVASIR_GGUF_READER_H
#define KVASIR_GGUF_READER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/gguf.h"

struct reader {
    const uint8_t *bytes; // borrowed
    size_t size;
    size_t at;       // 0 .. size
    struct err *err; // may be NULL
};

/* Sets err to "gguf: offset OFFSET: ..." and returns code. */
int reader_fail(const struct reader *reader, int code, size_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

size_t reader_left(const struct reader *reader);

/* 0, or ERR_FORMAT when fewer bytes are left. `what` names the field in the error. */
int reader_take(struct reader *reader, uint64_t len, const char *what, const uint8_t **ret_bytes);
int reader_u32(struct reader *reader, const char *what, uint32_t *ret_value);
int reader_u64(struct reader *reader, const char *what, uint64_t *ret_value);

/* u64 length, then that many bytes. */
int reader_string(struct reader *reader, const char *what, struct gguf_string *ret_string);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* See reader.h. Lengths are compared with what is left, never added to a position first, so no
 * length in the input can wrap. */
#include "common/gguf/reader.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"

static_assert(BYTE_ORDER == LITTLE_ENDIAN, "tensor data is used in place");

int reader_fail(const struct reader *reader, int code, size_t offset, const char *format, ...)
{
    char why[ERR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args); // a cut text is still a text
    va_end(args);
    return ERR(reader->err, code, "gguf: offset %zu: %s", offset, why);
}

size_t reader_left(const struct reader *reader)
{
    CHECK(reader->at <= reader->size);
    return reader->size - reader->at;
}

int reader_take(struct reader *reader, uint64_t len, const char *what, const uint8_t **ret_bytes)
{
    size_t left = reader_left(reader);
    if (len > left) {
        return reader_fail(reader, ERR_FORMAT, reader->at,
                           "truncated: %s needs %" PRIu64 " bytes, %zu are left", what, len, left);
    }
    *ret_bytes = reader->bytes + reader->at;
    reader->at += (size_t)len;
    return 0;
}

int reader_u32(struct reader *reader, const char *what, uint32_t *ret_value)
{
    const uint8_t *bytes = NULL;
    int r = reader_take(reader, sizeof *ret_value, what, &bytes);
    if (r < 0) return r;
    memcpy(ret_value, bytes, sizeof *ret_value);
    return 0;
}

int reader_u64(struct reader *reader, const char *what, uint64_t *ret_value)
{
    const uint8_t *bytes = NULL;
    int r = reader_take(reader, sizeof *ret_value, what, &bytes);
    if (r < 0) return r;
    memcpy(ret_value, bytes, sizeof *ret_value);
    return 0;
}

int reader_string(struct reader *reader, const char *what, struct gguf_string *ret_string)
{
    size_t start = reader->at;
    uint64_t len;
    const uint8_t *bytes = NULL;
    int r = reader_u64(reader, what, &len);
    if (r < 0) return r;
    r = reader_take(reader, len, what, &bytes);
    if (r < 0) {
        reader->at = start;
        return r;
    }
    *ret_string = (struct gguf_string){.bytes = (const char *)bytes, .len = (size_t)len};
    return 0;
}

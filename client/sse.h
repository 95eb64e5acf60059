/* SPDX-License-Identifier: Apache-2.0 */
/* sse - server-sent events out of chunks of bytes, by the WHATWG HTML standard, section 9.2.6.
 *
 * Knows lines and events, nothing of JSON or HTTP. Chunks may be cut anywhere. An event is handed on
 * at its blank line; one without data is dropped, and so is an unfinished one at the end, as the
 * standard says. `id` and `retry` are read over: nothing here reconnects.
 *
 * Bounds: a line holds at most event_bytes_max bytes, the joined data of an event too; what the
 * parser owns stays below twice that. Zero bytes and malformed UTF-8 pass through to the data. */
#ifndef KVASIR_CLIENT_SSE_H
#define KVASIR_CLIENT_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"

enum { SSE_NAME_BYTES = 64 }; // a longer event name is cut

/* name is "message" when the server gave none; data is NUL-terminated after data_bytes. Both are
 * borrowed until the callback returns. Returns 0 to go on; anything else stops the parser. */
typedef int sse_callback(void *user, const char *name, const char *data, size_t data_bytes);

struct sse {
    sse_callback *on_event;
    void *user;
    struct buf line;           // the unfinished line, without its end
    struct buf data;           // data lines of the unfinished event, each followed by LF
    char name[SSE_NAME_BYTES]; // of the unfinished event; "" is none
    bool at_start;             // nothing but a part of a byte order mark was seen
    bool after_cr;             // the last byte was CR: an LF now belongs to it
    int stopped;               // what the callback or a bound stopped with; sticky
};

void sse_init(struct sse *sse, size_t event_bytes_max, sse_callback *on_event, void *user);
void sse_done(struct sse *sse);

/* 0; the callback's non-zero return; -EMSGSIZE past a bound; -ENOMEM. After a non-zero return further
 * calls return the same and read nothing. */
int sse_feed(struct sse *sse, const void *bytes, size_t len);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* http - one HTTP/1.x request read from bytes, however they arrive. No sockets, no clock.
 *
 * A reader takes bytes in pieces of any size and ends in a request or in a refusal with the status to
 * answer. Two opinions must agree on every byte: http_gate (RFC 9112's grammar, strict) and libhttp_parser
 * (structure). What neither decides is decided in http.c: Host, target forms, framing headers, limits.
 *
 * Refused: 400 malformed, smuggling shapes (Content-Length with Transfer-Encoding, repeated framing
 * headers, folded lines, bare CR or LF), missing, repeated or invalid Host; 413 body over the limit, before
 * it is read when Content-Length says so; 414, 431 over limits.h; 417 unknown expectation; 501 unknown
 * method, CONNECT, transfer codings other than chunked; 505 other versions.
 *
 * A repeated Authorization, Content-Type or Expect is refused too, so that a lookup has one answer. */
#ifndef KVASIR_DAEMON_HTTP_H
#define KVASIR_DAEMON_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* All strings are NUL-terminated, hold no other NUL, and live as long as the reader. */
struct http_request {
    const char *method; // as sent, e.g. "GET"
    const char *path;   // raw, not percent-decoded: begins with '/', or is "*" (OPTIONS only)
    const char *query;  // raw, behind '?'; NULL when there is none
    const char *body;   // body_bytes bytes and a NUL behind them; "" when empty or dropped
    size_t body_bytes;
    const char *request_id;           // X-Request-Id when it is 1..128 token characters, else NULL
    const struct http_reader *reader; // for http_request_header
    uint8_t version_minor;            // HTTP/1.0 or HTTP/1.1
    bool keep_alive;                  // the client allows another request on this connection
    bool is_head;                     // the answer must have no body
};

/* Value of a header by name, case-insensitive, without surrounding blanks; the first one when repeated;
 * NULL when absent. Bytes 0x80.. may occur in it. */
const char *http_request_header(const struct http_request *request, const char *name);

/* Reason phrase of a status; "" when it has none. */
const char *http_reason(int status);

struct http_reader;

/* NULL when out of memory. */
struct http_reader *http_reader_new(size_t body_bytes_max);
void http_reader_free(struct http_reader *reader);

enum http_feed {
    HTTP_FEED_MORE,     // all bytes are used, the request goes on
    HTTP_FEED_CONTINUE, // as MORE; the client waits for "100 Continue" (given at most once)
    HTTP_FEED_COMPLETE, // the request is whole; bytes from *ret_used on belong to the next one
};

/* Feeds bytes. ERR_INPUT or -ENOMEM: refused for good, see http_reader_status. Not to be called again
 * after COMPLETE or an error. */
int http_reader_feed(struct http_reader *reader, const void *bytes, size_t len, size_t *ret_used,
                     struct err *err);

/* After an error of feed: the HTTP status to answer with (the text is in err). */
int http_reader_status(const struct http_reader *reader);

/* Whole after COMPLETE. Before it, and after an error, only method, version_minor, is_head and request_id
 * may be read, and it is NULL when no head was understood. */
const struct http_request *http_reader_request(const struct http_reader *reader);

bool http_reader_is_in_body(const struct http_reader *reader); // the head is accepted
size_t http_reader_bytes(const struct http_reader *reader);    // memory held, in bytes
void http_reader_drop_body(struct http_reader *reader);        // frees the body; request->body becomes ""

#endif

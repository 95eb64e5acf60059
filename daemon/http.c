/* SPDX-License-Identifier: Apache-2.0 */
/* The head is collected in one piece behind the gate and given to libhttp_parser whole, so its callbacks
 * deliver every field in one slice of that piece, and the request needs no copies: the slices are ended
 * in place with NULs over the delimiters. The body goes through the parser as it arrives. */
#include "daemon/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <http_parser.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/http_gate.h"

enum {
    REQUEST_LINE_BYTES_MAX = HTTP_URL_BYTES_MAX + 64,
    HEAD_BYTES_MAX = REQUEST_LINE_BYTES_MAX + HTTP_HEADER_BYTES_MAX,
    REQUEST_ID_BYTES_MAX = 128,
    LENGTH_DIGITS_MAX = 18, // below 2^63
};
_Static_assert(HEAD_BYTES_MAX <= UINT16_MAX, "slices are 16 bit");

struct slice {
    uint16_t start, len; // of reader->head
};

struct field {
    struct slice name, value;
};

/* I1: phase HEAD: head holds what the gate let pass. Later phases: head is ended in place, never moved.
 * I2: phase BODY: body.len bytes of the body are read; is_chunked or body_left says how much is to come. */
struct http_reader {
    enum { PHASE_HEAD, PHASE_BODY, PHASE_COMPLETE, PHASE_REFUSED } phase;
    struct http_gate gate;
    http_parser parser;
    struct buf head; // owned
    struct buf body; // owned
    struct slice target;
    struct field fields[HTTP_HEADERS_MAX];
    unsigned fields_count;
    uint64_t body_left; // bytes; when not is_chunked
    bool is_chunked;
    bool wants_continue;
    bool head_seen;     // by the parser
    bool complete_seen; // by the parser
    struct http_refusal refusal;
    struct http_request request;
};

/* ---- callbacks of libhttp_parser ---- */

static struct http_reader *reader_of(http_parser *parser)
{
    return parser->data;
}

static int slice_at(const struct http_reader *reader, const char *at, size_t len, struct slice *ret_slice)
{
    size_t start = (size_t)(at - (const char *)reader->head.bytes);
    if (start > reader->head.len || len > reader->head.len - start) return 1;
    *ret_slice = (struct slice){(uint16_t)start, (uint16_t)len};
    return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
    struct http_reader *reader = reader_of(parser);
    if (reader->target.len) return 1; // one piece, or the two opinions differ
    return slice_at(reader, at, len, &reader->target);
}

static int on_header_field(http_parser *parser, const char *at, size_t len)
{
    struct http_reader *reader = reader_of(parser);
    if (reader->head_seen) return 0; // a trailer: checked by the gate, of no use to us
    if (reader->fields_count >= HTTP_HEADERS_MAX) return 1;
    return slice_at(reader, at, len, &reader->fields[reader->fields_count++].name);
}

static int on_header_value(http_parser *parser, const char *at, size_t len)
{
    struct http_reader *reader = reader_of(parser);
    if (reader->head_seen) return 0;
    if (reader->fields_count == 0) return 1;
    struct slice *value = &reader->fields[reader->fields_count - 1].value;
    if (value->start) return 1;
    while (len && (at[len - 1] == ' ' || at[len - 1] == '\t')) len--;
    if (len) return slice_at(reader, at, len, value);
    /* The parser reports an empty value behind its line: place it on the ':' instead, which will be a NUL. */
    struct slice name = reader->fields[reader->fields_count - 1].name;
    *value = (struct slice){(uint16_t)(name.start + name.len), 0};
    return 0;
}

static int on_headers_complete(http_parser *parser)
{
    struct http_reader *reader = reader_of(parser);
    reader->head_seen = true;
    bool close = parser->flags & F_CONNECTION_CLOSE; // close wins over keep-alive, also in HTTP/1.0
    reader->request.keep_alive = !close && http_should_keep_alive(parser);
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    return buf_append(&reader_of(parser)->body, at, len) < 0;
}

static int on_message_complete(http_parser *parser)
{
    reader_of(parser)->complete_seen = true;
    return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* ---- what the head means ---- */

static int refuse(struct http_reader *reader, int status, const char *why)
{
    reader->refusal = (struct http_refusal){.status = status, .why = why};
    return ERR_INPUT;
}

static const char *text_of(const struct http_reader *reader, struct slice slice)
{
    return (const char *)reader->head.bytes + slice.start;
}

static const char *header(const struct http_reader *reader, const char *name)
{
    for (unsigned i = 0; i < reader->fields_count; i++) {
        const struct field *field = &reader->fields[i];
        if (strcasecmp(text_of(reader, field->name), name) == 0) return text_of(reader, field->value);
    }
    return NULL;
}

/* Writes the NULs that make C strings of the slices. Each falls on a delimiter: the blank behind method and
 * target, the ':' behind a name, the CR or a blank behind a value. The gate let no NUL in. */
static int end_slices(struct http_reader *reader)
{
    char *head = (char *)reader->head.bytes;
    if (reader->target.len == 0) return refuse(reader, 400, "ambiguous request line");
    head[strcspn(head, " ")] = 0;
    head[reader->target.start + reader->target.len] = 0;
    for (unsigned i = 0; i < reader->fields_count; i++) {
        struct slice name = reader->fields[i].name, value = reader->fields[i].value;
        if (value.start == 0) return refuse(reader, 400, "ambiguous header");
        head[name.start + name.len] = 0;
        head[value.start + value.len] = 0;
    }
    return 0;
}

static int check_single_fields(struct http_reader *reader)
{
    static const char *const single[] = {"Host",          "Content-Length", "Transfer-Encoding",
                                         "Authorization", "Content-Type",   "Expect"};
    unsigned seen = 0;
    for (unsigned i = 0; i < reader->fields_count; i++) {
        for (unsigned s = 0; s < COUNT_OF(single); s++) {
            if (strcasecmp(text_of(reader, reader->fields[i].name), single[s]) != 0) continue;
            if (seen & 1u << s) return refuse(reader, 400, "a header that may occur once is repeated");
            seen |= 1u << s;
        }
    }
    return 0;
}

/* uri-host [ ":" port ] of RFC 3986 without userinfo; empty is allowed (RFC 9110, 7.2). The gate knows
 * the bytes of a target; a Host value has passed it as a field value only. */
static bool authority_is_valid(const char *text, size_t len)
{
    size_t i = 0;
    if (len && text[0] == '[') { // IP-literal
        for (i = 1; i < len && text[i] != ']'; i++)
            if (!strchr("0123456789abcdefABCDEF:.", text[i])) return false;
        if (i < 3 || i == len) return false; // the shortest is [::]
        i++;
    } else {
        for (; i < len && text[i] != ':'; i++) {
            uint8_t c = (uint8_t)text[i];
            if (c == '%' && (len - i < 3 || !strchr("0123456789abcdefABCDEF", text[i + 1]) ||
                             !strchr("0123456789abcdefABCDEF", text[i + 2])))
                return false;
            if (!(c == '%' || strchr("-._~!$&'()*+,;=", c) || (c >= '0' && c <= '9') ||
                  ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')))
                return false;
        }
        if (i == 0 && len) return false; // a port alone
    }
    if (i == len) return true;
    if (text[i++] != ':' || len - i > 5) return false;
    unsigned port = 0;
    for (; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        port = port * 10 + (unsigned)(text[i] - '0');
    }
    return port <= UINT16_MAX;
}

static int check_host(struct http_reader *reader)
{
    const char *host = header(reader, "Host");
    if (!host) return reader->gate.version_minor == 0 ? 0 : refuse(reader, 400, "no Host header");
    if (!authority_is_valid(host, strlen(host))) return refuse(reader, 400, "invalid Host header");
    return 0;
}

/* origin-form, absolute-form whose authority is the Host, or "*" with OPTIONS (RFC 9112, 3.2). An absolute
 * form that names another host than Host is how a proxy and we could disagree: refused. */
static int read_target(struct http_reader *reader)
{
    struct http_request *request = &reader->request;
    char *target = (char *)reader->head.bytes + reader->target.start;
    if (strcmp(target, "*") == 0) {
        request->path = target;
        return strcmp(request->method, "OPTIONS") == 0 ? 0 : refuse(reader, 400, "invalid request target");
    }
    size_t scheme = strncasecmp(target, "http://", 7) == 0    ? 7
                    : strncasecmp(target, "https://", 8) == 0 ? 8
                                                              : 0;
    if (scheme) {
        const char *authority = target + scheme, *host = header(reader, "Host");
        size_t len = strcspn(authority, "/?");
        if (len == 0 || !authority_is_valid(authority, len))
            return refuse(reader, 400, "invalid request target");
        if (host && (strlen(host) != len || strncasecmp(host, authority, len) != 0))
            return refuse(reader, 400, "request target and Host differ");
        target += scheme + len;
    } else if (target[0] != '/') {
        return refuse(reader, 400, "invalid request target");
    }
    char *query = strchr(target, '?');
    if (query) {
        *query = 0;
        request->query = query + 1;
    }
    request->path = target[0] ? target : "/";
    return 0;
}

static int read_length(struct http_reader *reader, const char *text)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits]) return refuse(reader, 400, "malformed Content-Length");
    text += strspn(text, "0");
    bool too_large = strlen(text) > LENGTH_DIGITS_MAX;
    reader->body_left = too_large ? 0 : strtoull(text, NULL, 10);
    if (too_large || reader->body_left > reader->body.bytes_max)
        return refuse(reader, 413, "request body too large");
    return 0;
}

/* Message body length, RFC 9112, 6.3, without its lenient branches. */
static int read_framing(struct http_reader *reader)
{
    const char *length = header(reader, "Content-Length"), *coding = header(reader, "Transfer-Encoding");
    if (length && coding) return refuse(reader, 400, "Content-Length and Transfer-Encoding together");
    if (length) return read_length(reader, length);
    if (!coding) return 0;
    if (reader->gate.version_minor == 0) return refuse(reader, 400, "Transfer-Encoding in HTTP/1.0");
    if (strcasecmp(coding, "chunked") != 0) {
        size_t len = strlen(coding);
        bool list = len > 8 && strcasecmp(coding + len - 7, "chunked") == 0 &&
                    strchr(", \t", coding[len - 8]);
        return refuse(reader, list ? 501 : 400, "the only transfer coding spoken here is chunked");
    }
    reader->is_chunked = true;
    http_gate_start_chunks(&reader->gate);
    return 0;
}

static int read_expect(struct http_reader *reader)
{
    const char *expect = header(reader, "Expect");
    if (!expect || reader->gate.version_minor == 0) return 0; // RFC 9110, 10.1.1: 1.0 cannot expect
    if (strcasecmp(expect, "100-continue") != 0) return refuse(reader, 417, "unknown expectation");
    reader->wants_continue = reader->is_chunked || reader->body_left;
    return 0;
}

static void read_request_id(struct http_reader *reader)
{
    const char *id = header(reader, "X-Request-Id");
    size_t len = 0;
    if (!id) return;
    while (http_is_token_char((uint8_t)id[len])) len++;
    if (len && len <= REQUEST_ID_BYTES_MAX && id[len] == 0) reader->request.request_id = id;
}

static int read_head(struct http_reader *reader)
{
    int r = end_slices(reader);
    if (r < 0) return r;
    reader->request.method = (const char *)reader->head.bytes;
    reader->request.version_minor = reader->gate.version_minor;
    reader->request.is_head = strcmp(reader->request.method, "HEAD") == 0;
    read_request_id(reader);
    if (strcmp(reader->request.method, "CONNECT") == 0) return refuse(reader, 501, "CONNECT is not offered");
    if ((r = check_single_fields(reader)) < 0) return r;
    if ((r = check_host(reader)) < 0) return r;
    if ((r = read_target(reader)) < 0) return r;
    if ((r = read_framing(reader)) < 0) return r;
    return read_expect(reader);
}

/* The parser's own refusals. Nearly all are the gate's or read_head's before; a few are its alone. */
static int refuse_as_parser(struct http_reader *reader)
{
    enum http_errno number = HTTP_PARSER_ERRNO(&reader->parser);
    if (number == HPE_INVALID_METHOD) return refuse(reader, 501, "unknown method");
    if (number == HPE_CB_body)
        return refuse(reader, 503, "no memory for the request body"); // bounds were checked
    return refuse(reader, 400, http_errno_description(number));
}

static int parse_head(struct http_reader *reader)
{
    size_t len = reader->head.len;
    size_t used = http_parser_execute(&reader->parser, &settings, (const char *)reader->head.bytes, len);
    if (!reader->head_seen) return refuse_as_parser(reader);
    int r = read_head(reader); // first, because its reasons are the precise ones
    if (r < 0) return r;
    if (HTTP_PARSER_ERRNO(&reader->parser) != HPE_OK) return refuse_as_parser(reader);
    bool has_body = reader->is_chunked || reader->body_left;
    if (used != len || reader->complete_seen == has_body) return refuse(reader, 400, "ambiguous framing");
    reader->phase = has_body ? PHASE_BODY : PHASE_COMPLETE;
    return 0;
}

/* ---- feeding ---- */

static int feed_head(struct http_reader *reader, const uint8_t *bytes, size_t len, size_t *ret_used)
{
    size_t skip = 0;
    int end = http_gate_head(&reader->gate, bytes, len, ret_used, &skip, &reader->refusal);
    if (end < 0) return end;
    CHECK(*ret_used <= len);
    CHECK(skip <= *ret_used);
    if (buf_append(&reader->head, bytes + skip, *ret_used - skip) < 0)
        return refuse(reader, 503, "no memory for the request head"); // the gate bounds it below bytes_max
    return end == HTTP_GATE_END ? parse_head(reader) : 0;
}

static int feed_body(struct http_reader *reader, const uint8_t *bytes, size_t len, size_t *ret_used)
{
    bool end;
    if (reader->is_chunked) {
        int r = http_gate_chunked(&reader->gate, bytes, len, reader->body.bytes_max, &len, &reader->refusal);
        if (r < 0) return r;
        end = r == HTTP_GATE_END;
    } else {
        if (len > reader->body_left) len = reader->body_left;
        reader->body_left -= len;
        end = reader->body_left == 0;
    }
    size_t used = http_parser_execute(&reader->parser, &settings, (const char *)bytes, len);
    if (HTTP_PARSER_ERRNO(&reader->parser) != HPE_OK) return refuse_as_parser(reader);
    if (used != len || reader->complete_seen != end) return refuse(reader, 400, "ambiguous framing");
    if (end && reader->is_chunked && reader->body.len != reader->gate.body_bytes)
        return refuse(reader, 400, "ambiguous framing");
    if (end) reader->phase = PHASE_COMPLETE;
    *ret_used = len;
    return 0;
}

int http_reader_feed(struct http_reader *reader, const void *bytes, size_t len, size_t *ret_used,
                     struct err *err)
{
    const uint8_t *at = bytes;
    size_t left = len;
    CHECK(reader->phase == PHASE_HEAD || reader->phase == PHASE_BODY);
    while (left && reader->phase < PHASE_COMPLETE) {
        size_t used = 0;
        int r = reader->phase == PHASE_HEAD ? feed_head(reader, at, left, &used)
                                            : feed_body(reader, at, left, &used);
        if (r < 0) {
            reader->phase = PHASE_REFUSED;
            return ERR(err, r, "%s", reader->refusal.why);
        }
        at += used;
        left -= used;
    }
    *ret_used = len - left;
    if (reader->phase == PHASE_COMPLETE) {
        reader->request.body = buf_text(&reader->body);
        reader->request.body_bytes = reader->body.len;
        return HTTP_FEED_COMPLETE;
    }
    CHECK(left == 0);
    /* A client that has begun the body does not wait (RFC 9110, 10.1.1: the 100 may be left out then). */
    bool ask = reader->wants_continue && reader->phase == PHASE_BODY && reader->body.len == 0;
    if (reader->phase == PHASE_BODY) reader->wants_continue = false;
    return ask ? HTTP_FEED_CONTINUE : HTTP_FEED_MORE;
}

/* ---- lifetime and access ---- */

struct http_reader *http_reader_new(size_t body_bytes_max)
{
    struct http_reader *reader = calloc(1, sizeof(*reader));
    if (!reader) return NULL;
    buf_init(&reader->head, HEAD_BYTES_MAX);
    buf_init(&reader->body, body_bytes_max);
    http_parser_init(&reader->parser, HTTP_REQUEST);
    reader->parser.data = reader;
    reader->request.reader = reader;
    reader->request.body = "";
    return reader;
}

void http_reader_free(struct http_reader *reader)
{
    if (!reader) return;
    buf_done(&reader->head);
    buf_done(&reader->body);
    free(reader);
}

int http_reader_status(const struct http_reader *reader)
{
    CHECK(reader->phase == PHASE_REFUSED);
    return reader->refusal.status;
}

const struct http_request *http_reader_request(const struct http_reader *reader)
{
    return reader->request.method ? &reader->request : NULL;
}

bool http_reader_is_in_body(const struct http_reader *reader)
{
    return reader->phase == PHASE_BODY;
}

size_t http_reader_bytes(const struct http_reader *reader)
{
    return sizeof(*reader) + reader->head.cap + reader->body.cap;
}

void http_reader_drop_body(struct http_reader *reader)
{
    buf_done(&reader->body);
    reader->request.body = "";
    reader->request.body_bytes = 0;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    return header(request->reader, name);
}

const char *http_reason(int status)
{
    switch (status) {
#define X(number, name, text) \
    case number: return #text;
        HTTP_STATUS_MAP(X)
#undef X
    default: return "";
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/http_gate.h"

#include <stdbool.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/limits.h"

enum {
    METHOD_BYTES_MAX = 32,
    SIZE_DIGITS_MAX = 16, // hex digits of one chunk size
};

/* The first state must be 0: a zeroed gate stands before a head. */
enum state {
    HEAD_START,       // at most one empty line, then the method
    HEAD_START_LF,    // of that empty line
    METHOD,           //
    TARGET,           //
    VERSION,          // "HTTP/d.d"
    REQUEST_LINE_LF,  //
    FIELD_START,      // a name, or the CR that ends the block
    FIELD_NAME,       //
    FIELD_VALUE,      //
    FIELD_LF,         //
    BLOCK_LF,         // the last LF of a head or of trailers
    CHUNK_SIZE_START, // entered by http_gate_start_chunks
    CHUNK_SIZE,       //
    CHUNK_EXT,        //
    CHUNK_SIZE_LF,    //
    CHUNK_DATA,       //
    CHUNK_DATA_CR,    //
    CHUNK_DATA_LF,    //
    MESSAGE_END,      // of the head too: what follows is not the gate's to know
};

/* What each byte may be. URI: RFC 3986 reserved and unreserved without '#', and '%'. VALUE: field-vchar,
 * SP, HTAB (RFC 9110, 5.5). */
enum {
    TCHAR = 1,
    URI = 2,
    VALUE = 4,
    HEX = 8,
    TUV = TCHAR | URI | VALUE,
    TV = TCHAR | VALUE,
    UV = URI | VALUE
};

/* clang-format off */
static const uint8_t classes[256] = {
    ['\t'] = VALUE, [' '] = VALUE, ['0' ... '9'] = TUV | HEX,
    ['a' ... 'f'] = TUV | HEX, ['g' ... 'z'] = TUV, ['A' ... 'F'] = TUV | HEX, ['G' ... 'Z'] = TUV,
    ['!'] = TUV, ['$'] = TUV, ['%'] = TUV, ['&'] = TUV, ['\''] = TUV, ['*'] = TUV,
    ['+'] = TUV, ['-'] = TUV, ['.'] = TUV, ['_'] = TUV, ['~'] = TUV,
    ['#'] = TV, ['^'] = TV, ['`'] = TV, ['|'] = TV,
    [':'] = UV, ['/'] = UV, ['?'] = UV, ['['] = UV, [']'] = UV, ['@'] = UV,
    ['('] = UV, [')'] = UV, [','] = UV, [';'] = UV, ['='] = UV,
    ['"'] = VALUE, ['<'] = VALUE, ['>'] = VALUE, ['\\'] = VALUE, ['{'] = VALUE, ['}'] = VALUE,
    [0x80 ... 0xff] = VALUE,
};
/* clang-format on */

int http_is_token_char(uint8_t c)
{
    return classes[c] & TCHAR;
}

static int refuse(struct http_refusal *refusal, int status, const char *why)
{
    *refusal = (struct http_refusal){.status = status, .why = why};
    return ERR_INPUT;
}

static int want_lf(struct http_gate *gate, uint8_t c, enum state next, struct http_refusal *refusal)
{
    if (c != '\n') return refuse(refusal, 400, "CR without LF");
    gate->state = next;
    return 0;
}

static int target_byte(struct http_gate *gate, uint8_t c, struct http_refusal *refusal)
{
    if (gate->matched) { // inside %HH
        if (!(classes[c] & HEX))
            return refuse(refusal, 400, "malformed percent-encoding in the request target");
        gate->matched--;
    } else if (c == ' ') {
        if (gate->url_bytes == 0) return refuse(refusal, 400, "empty request target");
        gate->state = VERSION;
        return 0;
    } else if (c == '\r' || c == '\n') {
        return refuse(refusal, 400, "request line without a version");
    } else if (!(classes[c] & URI)) {
        return refuse(refusal, 400, "invalid byte in the request target");
    } else if (c == '%') {
        gate->matched = 2;
    }
    if (++gate->url_bytes > HTTP_URL_BYTES_MAX) return refuse(refusal, 414, "request target too long");
    return 0;
}

static int version_byte(struct http_gate *gate, uint8_t c, struct http_refusal *refusal)
{
    static const char shape[] = "HTTP/d.d";
    bool digit = c >= '0' && c <= '9';
    if (gate->matched == sizeof(shape) - 1) {
        if (c != '\r') return refuse(refusal, 400, "malformed request line");
        if (gate->version_major != 1 || gate->version_minor > 1)
            return refuse(refusal, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        gate->matched = 0;
        gate->state = REQUEST_LINE_LF;
        return 0;
    }
    char want = shape[gate->matched];
    if (want == 'd' ? !digit : c != (uint8_t)want) return refuse(refusal, 400, "malformed HTTP version");
    if (gate->matched == 5) gate->version_major = (uint8_t)(c - '0');
    if (gate->matched == 7) gate->version_minor = (uint8_t)(c - '0');
    gate->matched++;
    return 0;
}

static int request_line_byte(struct http_gate *gate, uint8_t c, struct http_refusal *refusal)
{
    switch ((enum state)gate->state) {
    case HEAD_START:
        if (c == '\r' && gate->empty_lines++ == 0) {
            gate->state = HEAD_START_LF;
            return 0;
        }
        gate->state = METHOD;
        /* fallthrough */
    case METHOD:
        if (c == ' ' && gate->method_bytes) {
            gate->state = TARGET;
            return 0;
        }
        if (!http_is_token_char(c)) return refuse(refusal, 400, "invalid byte in the method");
        if (++gate->method_bytes > METHOD_BYTES_MAX) return refuse(refusal, 501, "unknown method");
        return 0;
    case HEAD_START_LF: return want_lf(gate, c, HEAD_START, refusal);
    case TARGET: return target_byte(gate, c, refusal);
    case VERSION: return version_byte(gate, c, refusal);
    default: CHECK(gate->state == REQUEST_LINE_LF); return want_lf(gate, c, FIELD_START, refusal);
    }
}

/* One byte of a header block or of trailers. */
static int field_byte(struct http_gate *gate, uint8_t c, struct http_refusal *refusal)
{
    if (++gate->block_bytes > HTTP_HEADER_BYTES_MAX) return refuse(refusal, 431, "header fields too large");
    switch ((enum state)gate->state) {
    case FIELD_START:
        if (c == '\r') {
            gate->state = BLOCK_LF;
            return 0;
        }
        if (c == ' ' || c == '\t') return refuse(refusal, 400, "folded or indented header line");
        if (++gate->fields > HTTP_HEADERS_MAX) return refuse(refusal, 431, "too many header fields");
        if (!http_is_token_char(c)) return refuse(refusal, 400, "invalid byte in a header name");
        gate->state = FIELD_NAME;
        return 0;
    case FIELD_NAME:
        if (c == ':') gate->state = FIELD_VALUE;
        else if (!http_is_token_char(c)) return refuse(refusal, 400, "invalid byte in a header name");
        return 0;
    case FIELD_VALUE:
        if (c == '\r') gate->state = FIELD_LF;
        else if (!(classes[c] & VALUE)) return refuse(refusal, 400, "invalid byte in a header value");
        return 0;
    case FIELD_LF: return want_lf(gate, c, FIELD_START, refusal);
    default: CHECK(gate->state == BLOCK_LF); return want_lf(gate, c, MESSAGE_END, refusal);
    }
}

int http_gate_head(struct http_gate *gate, const uint8_t *bytes, size_t len, size_t *ret_used,
                   size_t *ret_skip, struct http_refusal *ret_refusal)
{
    size_t i = 0, skip = 0;
    CHECK(gate->state <= BLOCK_LF);
    while (i < len && gate->state != MESSAGE_END) {
        uint8_t c = bytes[i++];
        int r = gate->state < FIELD_START ? request_line_byte(gate, c, ret_refusal)
                                          : field_byte(gate, c, ret_refusal);
        if (r < 0) return r;
        if (gate->state <= HEAD_START_LF) skip = i;
    }
    *ret_used = i;
    *ret_skip = skip;
    return gate->state == MESSAGE_END ? HTTP_GATE_END : HTTP_GATE_MORE;
}

static int hex_value(uint8_t c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* chunk-size, chunk-ext and their CRLF. `bytes_left` is what the body may still grow by. */
static int size_line_byte(struct http_gate *gate, uint8_t c, uint64_t bytes_left,
                          struct http_refusal *refusal)
{
    if (gate->state == CHUNK_EXT && c != '\r') {
        if (++gate->ext_bytes > HTTP_CHUNK_EXT_BYTES_MAX)
            return refuse(refusal, 400, "chunk extensions too long");
        if (!(classes[c] & VALUE) || c >= 0x80)
            return refuse(refusal, 400, "invalid byte in a chunk extension");
        return 0;
    }
    if (gate->state == CHUNK_SIZE_LF) {
        gate->body_bytes += gate->chunk_bytes;
        return want_lf(gate, c, gate->chunk_bytes ? CHUNK_DATA : FIELD_START, refusal);
    }
    if (classes[c] & HEX && gate->state != CHUNK_EXT) {
        if (gate->state == CHUNK_SIZE_START) gate->chunk_bytes = gate->matched = 0;
        if (++gate->matched > SIZE_DIGITS_MAX) return refuse(refusal, 400, "chunk size too long");
        gate->chunk_bytes = gate->chunk_bytes << 4 | (unsigned)hex_value(c);
        if (gate->chunk_bytes > bytes_left) return refuse(refusal, 413, "request body too large");
        gate->state = CHUNK_SIZE;
        return 0;
    }
    if (gate->state == CHUNK_SIZE_START || (c != ';' && c != '\r'))
        return refuse(refusal, 400, "malformed chunk size");
    gate->state = c == ';' ? CHUNK_EXT : CHUNK_SIZE_LF;
    return 0;
}

void http_gate_start_chunks(struct http_gate *gate)
{
    CHECK(gate->state == MESSAGE_END);
    gate->state = CHUNK_SIZE_START;
}

int http_gate_chunked(struct http_gate *gate, const uint8_t *bytes, size_t len, uint64_t body_bytes_max,
                      size_t *ret_used, struct http_refusal *ret_refusal)
{
    size_t i = 0;
    while (i < len && gate->state != MESSAGE_END) {
        int r = 0;
        uint8_t c = bytes[i];
        if (gate->state == CHUNK_DATA) {
            uint64_t take = gate->chunk_bytes < len - i ? gate->chunk_bytes : len - i;
            gate->chunk_bytes -= take;
            if (gate->chunk_bytes == 0) gate->state = CHUNK_DATA_CR;
            i += take;
            continue;
        }
        if (gate->state == CHUNK_DATA_CR) {
            if (c != '\r') return refuse(ret_refusal, 400, "no CRLF behind a chunk");
            gate->state = CHUNK_DATA_LF;
        } else if (gate->state == CHUNK_DATA_LF) {
            r = want_lf(gate, c, CHUNK_SIZE_START, ret_refusal);
        } else if (gate->state >= CHUNK_SIZE_START) {
            r = size_line_byte(gate, c, body_bytes_max - gate->body_bytes, ret_refusal);
        } else {
            r = field_byte(gate, c, ret_refusal);
        }
        if (r < 0) return r;
        i++;
    }
    CHECK(gate->body_bytes <= body_bytes_max);
    *ret_used = i;
    return gate->state == MESSAGE_END ? HTTP_GATE_END : HTTP_GATE_MORE;
}

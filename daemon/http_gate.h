/* SPDX-License-Identifier: Apache-2.0 */
/* http_gate - every byte of an HTTP/1.x head and of chunked framing, looked at before the parser.
 *
 * Why it exists: Debian's libhttp_parser is compiled without its strict mode, whatever the header says.
 * It then takes bare LF, a space inside or behind a field name, folded lines, any byte in place of the
 * CRLF behind a chunk, and chunk extensions without bound: each a known way to smuggle a request past a
 * proxy. The gate is a state machine of RFC 9112's grammar that keeps no bytes. It only says how far the
 * bytes are fit to be parsed and where the head or the message ends; what they mean is http.c's. */
#ifndef KVASIR_DAEMON_HTTP_GATE_H
#define KVASIR_DAEMON_HTTP_GATE_H

#include <stddef.h>
#include <stdint.h>

/* Why a request was refused and how to answer. `why` is a static text without client bytes. */
struct http_refusal {
    int status; // HTTP status, 4xx or 5xx
    const char *why;
};

/* Zeroed means the start of a head. Fields are the gate's own; readers may use those marked so. */
struct http_gate {
    uint8_t state;         // enum of http_gate.c
    uint8_t matched;       // bytes of "HTTP/d.d" seen; hex digits of a %HH still due; hex digits of a size
    uint8_t empty_lines;   // leading CRLF seen, at most 1
    uint8_t method_bytes;  // bounded by METHOD_BYTES_MAX
    uint8_t version_major; // readable once the head is complete
    uint8_t version_minor; // readable once the head is complete
    uint16_t fields;       // fields seen, trailers included
    uint32_t url_bytes;    // of the request target
    uint32_t block_bytes;  // of the header block, trailers included
    uint32_t ext_bytes;    // chunk extensions of the whole message
    uint64_t chunk_bytes;  // of the current chunk: its size, then what is left of it
    uint64_t body_bytes;   // readable: sum of all chunk sizes so far
};

enum http_gate_result { HTTP_GATE_MORE, HTTP_GATE_END };

/* Looks at the next bytes of a head. HTTP_GATE_END: *ret_used bytes end with the empty line.
 * HTTP_GATE_MORE: all bytes are fit and the head goes on. *ret_skip of the used bytes, at their start, are
 * an empty line before the request line that the parser need not see (RFC 9112, 2.2).
 * ERR_INPUT: *ret_refusal is set. */
int http_gate_head(struct http_gate *gate, const uint8_t *bytes, size_t len, size_t *ret_used,
                   size_t *ret_skip, struct http_refusal *ret_refusal);

/* After the end of a head with a chunked body. */
void http_gate_start_chunks(struct http_gate *gate);

/* As http_gate_head for a chunked body, from the byte behind the head through the empty line that ends the
 * trailers. Sizes that add up to more than body_bytes_max are refused with 413 before their data. */
int http_gate_chunked(struct http_gate *gate, const uint8_t *bytes, size_t len, uint64_t body_bytes_max,
                      size_t *ret_used, struct http_refusal *ret_refusal);

/* RFC 9110, 5.6.2: tchar. */
int http_is_token_char(uint8_t c);

#endif

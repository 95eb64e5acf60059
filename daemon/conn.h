/* SPDX-License-Identifier: Apache-2.0 */
/* conn - one client connection as the API layer sees it: a request to answer.
 *
 * An exchange begins with on_request and ends with conn_respond, conn_stream_end, conn_abort or on_close
 * (http_server.h). The functions below that write are for a conn within an exchange only.
 *
 * conn_respond and conn_stream_end end the exchange whatever they return: no on_close follows, and conn is
 * not to be touched any more but in callbacks. conn_stream_start and conn_stream_write return 0, or 1: more
 * than HTTP_OUT_BYTES_MAX bytes are unsent, make no more until on_drain; or negative: the client is gone,
 * on_close will come from the loop. All negative returns may be ignored. Bytes are borrowed for the call:
 * what the socket does not take at once is copied.
 *
 * Each answer carries Date, Content-Length or chunked coding, X-Request-Id when the client sent a sane
 * one, and Connection where it matters. HEAD gets the head only. HTTP/1.0 gets streams up to the close. */
#ifndef KVASIR_DAEMON_CONN_H
#define KVASIR_DAEMON_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct conn;
struct http_request;

/* A whole answer. `headers`: further header lines, each ended by CRLF, or NULL. content_type may be NULL
 * when there is no body. Ends the exchange. */
int conn_respond(struct conn *conn, int status, const char *content_type, const char *headers,
                 const void *body, size_t body_bytes);

/* A streamed answer of status 200, chunked, with "Cache-Control: no-cache" and "X-Accel-Buffering: no". For
 * SSE content_type is "text/event-stream". One write is one chunk; an empty one does nothing. A stream
 * whose unsent bytes pass four times HTTP_OUT_BYTES_MAX is cut. */
int conn_stream_start(struct conn *conn, const char *content_type, const char *headers);
int conn_stream_write(struct conn *conn, const void *bytes, size_t len);
int conn_stream_end(struct conn *conn); // ends the exchange

/* Gives the exchange up: closes the connection with the answer unfinished. No on_close follows. */
void conn_abort(struct conn *conn);

size_t conn_out_pending_bytes(const struct conn *conn);

/* The request of the current exchange. conn_drop_body frees its body early; its strings stay. */
const struct http_request *conn_request(const struct conn *conn);
void conn_drop_body(struct conn *conn);

/* The API layer's own pointer; NULL at on_request. */
void conn_set_user(struct conn *conn, void *user);
void *conn_user(const struct conn *conn);

bool conn_is_unix(const struct conn *conn);
int conn_peer_uid(const struct conn *conn, uid_t *ret_uid); // unix only, else -ENOTSUP

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* http - one exchange with the server over libcurl: a request out, a body or a stream in, with
 * bounds, times and cancellation. Knows nothing of JSON beyond handing error bodies to fail.h.
 *
 * A lane is one connection with its curl handles. A call takes one from the client's stack or makes
 * one, and gives it back, so that the next call finds the connection open. */
#ifndef KVASIR_CLIENT_HTTP_H
#define KVASIR_CLIENT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <curl/curl.h>

#include "client/kvasir.h"
#include "common/base/buf.h"

struct http_lane {
    CURLM *multi;           // owned; keeps the connection
    CURL *easy;             // owned
    struct http_lane *next; // in the client's stack of idle ones
};

enum {
    HTTP_STREAM_GO_ON = 0,
    HTTP_STREAM_DONE = 1, // the stream's own end was seen; what follows is not looked at
    HTTP_REPLY_HEADER_BYTES_MAX = 64 << 10,
};

/* Bytes of a 2xx event stream. HTTP_STREAM_*, or a negative code with *error set by the callee. */
typedef int http_stream_callback(void *user, const char *bytes, size_t len);

struct http_order {
    const char *path;             // "/v1/models"
    const char *body;             // JSON to POST; NULL: GET
    size_t body_bytes;            //
    int64_t total_timeout_ms;     // < 0: none
    struct kvasir_cancel *cancel; // NULL: none
    http_stream_callback *on_stream;
    void *user;
};

struct http_reply {
    long status;     // 200..299
    bool is_stream;  // text/event-stream came and went to on_stream
    bool is_done;    // on_stream said HTTP_STREAM_DONE
    struct buf body; // of anything else; the caller buf_done()s it after a good return
};

/* 0 when a whole reply with a 2xx status came (or HTTP_STREAM_DONE did). */
int http_run(struct kvasir_client *client, const struct http_order *order, struct http_reply *ret_reply,
             struct kvasir_error *error);

void http_lanes_close(struct http_lane *first); // NULL is fine

/* For callers with loops of their own (the load generator): sets address, socket, agent, protocols,
 * body and *ret_headers (curl_slist_free_all it after the transfer) on a fresh or reset handle.
 * url must outlive the transfer; so must body. 0 or KVASIR_ERR_MEMORY. */
int http_easy_prepare(const struct kvasir_client *client, CURL *easy, const char *path, const char *body,
                      size_t body_bytes, struct curl_slist **ret_headers);

#endif

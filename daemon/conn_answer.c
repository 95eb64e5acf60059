/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of a connection and their way out.
 *
 * A write goes to the socket at once (uv_try_write). Only what the socket does not take is copied: to `next`,
 * which becomes the flight as soon as the flight before it is through. So the common stream event costs one
 * system call and no memory, and a slow reader costs two buffers with a bound. */
#include "daemon/conn.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/sockios.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/conn_state.h"

enum {
    HEAD_BYTES_MAX = 16 << 10,
    STREAM_PENDING_BYTES_MAX = 4 * HTTP_OUT_BYTES_MAX,
};

/* A whole answer is in memory already; sending it may hold a second copy of it, and no more. */
static const size_t answer_pending_bytes_max = SIZE_MAX / 4;

/* ---- output ---- */

void conn_out_free(struct conn *conn)
{
    if (!conn->out) return;
    buf_done(&conn->out->flight);
    buf_done(&conn->out->next);
    free(conn->out);
    conn->out = NULL;
}

size_t conn_out_pending_bytes(const struct conn *conn)
{
    if (!conn->out) return 0;
    return uv_stream_get_write_queue_size(&conn->uv.stream) + conn->out->next.len;
}

static void on_written(uv_write_t *req, int status);

/* Sends what is in next. */
static int start_flight(struct conn *conn)
{
    struct conn_out *out = conn->out;
    struct buf sent = out->flight;
    CHECK(out->next.len > 0);
    out->flight = out->next;
    out->next = sent;
    buf_clear(&out->next);
    out->left_bytes = SIZE_MAX; // progress, for the next look
    out->stalls = 0;
    out->req.data = conn;
    uv_buf_t part = uv_buf_init((char *)out->flight.bytes, (unsigned)out->flight.len);
    int r = uv_write(&out->req, &conn->uv.stream, &part, 1, on_written);
    if (r < 0) conn_close(conn);
    return r;
}

static void on_written(uv_write_t *req, int status)
{
    struct conn *conn = req->data;
    if (conn->state == CONN_CLOSING) return; // cancelled; freed in the close callback
    if (status < 0) {
        conn_close(conn);
        return;
    }
    if (conn->out->next.len) {
        if (start_flight(conn) < 0) return;
    } else {
        conn_out_free(conn);
    }
    conn_account(conn);
    bool drained = conn->is_over_mark && conn_out_pending_bytes(conn) < HTTP_OUT_BYTES_MAX / 2;
    if (drained) conn->is_over_mark = false;
    if (!conn->out) conn_on_flushed(conn);
    if (drained && conn->in_exchange && conn->state != CONN_CLOSING)
        conn->server->handler.on_drain(conn, conn->server->user);
}

/* Bytes of the flight and of the kernel's send queue. The latter shows a slow reader's progress long before
 * the kernel, with megabytes queued, takes the next byte from us. */
static size_t unread_bytes(const struct conn *conn)
{
    int queued = 0;
    uv_os_fd_t fd;
    if (uv_fileno(&conn->uv.handle, &fd) < 0 || ioctl(fd, SIOCOUTQ, &queued) < 0) queued = 0;
    return uv_stream_get_write_queue_size(&conn->uv.stream) + (size_t)queued;
}

/* Called WRITE_CHECKS times a write_ms. */
bool conn_out_is_stuck(struct conn *conn)
{
    struct conn_out *out = conn->out;
    size_t left = unread_bytes(conn);
    CHECK(out);
    bool progress = left < out->left_bytes;
    out->left_bytes = left;
    out->stalls = progress ? 0 : out->stalls + 1;
    return out->stalls >= WRITE_CHECKS;
}

/* Appends the parts behind their first `skip` bytes to next. */
static int queue(struct conn *conn, const uv_buf_t *parts, unsigned count, size_t skip)
{
    if (!conn->out) {
        conn->out = calloc(1, sizeof(*conn->out));
        if (!conn->out) return -ENOMEM;
        buf_init(&conn->out->flight, answer_pending_bytes_max);
        buf_init(&conn->out->next, answer_pending_bytes_max);
    }
    for (unsigned i = 0; i < count; i++) {
        size_t drop = skip < parts[i].len ? skip : parts[i].len;
        skip -= drop;
        int r = buf_append(&conn->out->next, parts[i].base + drop, parts[i].len - drop);
        if (r < 0) return r;
    }
    return 0;
}

int conn_send(struct conn *conn, uv_buf_t *parts, unsigned count, size_t pending_bytes_max)
{
    size_t total = 0, sent = 0;
    bool was_empty = !conn->out;
    int r = 0;
    if (conn->state == CONN_CLOSING) return -EPIPE;
    for (unsigned i = 0; i < count; i++) total += parts[i].len;
    if (was_empty) {
        r = uv_try_write(&conn->uv.stream, parts, count);
        if (r >= 0) sent = (size_t)r;
        if (sent == total) return 0;
        if (r == UV_EAGAIN) r = 0;
    }
    if (r >= 0 && conn_out_pending_bytes(conn) + total - sent > pending_bytes_max) r = ERR_FULL;
    if (r >= 0) r = queue(conn, parts, count, sent);
    if (r < 0) {
        conn_close(conn);
        return r;
    }
    if (was_empty && (r = start_flight(conn)) < 0) return r; // closed there
    conn_account(conn);
    if (was_empty) conn_rewait_answer(conn); // the slow reader's clock starts
    if (conn_out_pending_bytes(conn) > HTTP_OUT_BYTES_MAX) conn->is_over_mark = true;
    return conn->is_over_mark;
}

/* ---- answers ---- */

static void put_head(struct conn *conn, struct buf *head, int status, const char *content_type,
                     const char *headers)
{
    const struct http_request *request = conn->reader ? http_reader_request(conn->reader) : NULL;
    buf_printf(head, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, http_reason(status),
               server_date(conn->server));
    if (content_type) buf_printf(head, "Content-Type: %s\r\n", content_type);
    if (!conn->keep_alive) buf_puts(head, "Connection: close\r\n");
    else if (request && request->version_minor == 0) buf_puts(head, "Connection: keep-alive\r\n");
    if (request && request->request_id) buf_printf(head, "X-Request-Id: %s\r\n", request->request_id);
    if (headers) {
        size_t len = strlen(headers);
        CHECK(len >= 2 && strcmp(headers + len - 2, "\r\n") == 0);
        buf_append(head, headers, len);
    }
}

static bool status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

/* Sends head and body of a whole answer. */
static int send_answer(struct conn *conn, int status, const char *content_type, const char *headers,
                       const void *body, size_t body_bytes)
{
    struct buf head;
    buf_init(&head, HEAD_BYTES_MAX);
    if (conn->server->is_draining) conn->keep_alive = false;
    put_head(conn, &head, status, content_type, headers);
    if (status_has_body(status)) buf_printf(&head, "Content-Length: %zu\r\n", body_bytes);
    buf_puts(&head, "\r\n");
    int r = head.error;
    if (r < 0 && conn->state != CONN_CLOSING) conn_close(conn);
    if (r == 0) {
        bool has_body = status_has_body(status) && !conn->is_head && body_bytes;
        uv_buf_t parts[] = {uv_buf_init((char *)head.bytes, (unsigned)head.len), {.base = (char *)body}};
        parts[1].len = body_bytes;
        r = conn_send(conn, parts, has_body ? 2 : 1, answer_pending_bytes_max);
    }
    buf_done(&head);
    return r;
}

/* The answer is complete, sent or not. */
static void end_answer(struct conn *conn)
{
    conn->in_exchange = false;
    conn->is_over_mark = false;
    conn->user = NULL;
    if (conn->state == CONN_CLOSING) return;
    conn_goto(conn, CONN_FLUSH);
    if (!conn->out) conn_on_flushed(conn);
}

int conn_respond(struct conn *conn, int status, const char *content_type, const char *headers,
                 const void *body, size_t body_bytes)
{
    CHECK(conn->in_exchange);
    CHECK(conn->state == CONN_PENDING || conn->state == CONN_CLOSING);
    int r = send_answer(conn, status, content_type, headers, body, body_bytes);
    end_answer(conn);
    return r < 0 ? r : 0;
}

static int put_error(struct buf *body, int status, const char *why)
{
    const char *type = status < 500    ? "invalid_request_error"
                       : status == 503 ? "unavailable_error"
                                       : "server_error";
    buf_puts(body, "{\"error\":{\"message\":");
    buf_put_json_string(body, why, strlen(why));
    return buf_printf(body, ",\"type\":\"%s\",\"param\":null,\"code\":%d}}", type, status);
}

void conn_refuse(struct conn *conn, int status, const char *why)
{
    const struct http_request *request = conn->reader ? http_reader_request(conn->reader) : NULL;
    struct buf body;
    CHECK(!conn->in_exchange);
    conn->server->stats.refusals++;
    conn->keep_alive = false;
    conn->is_head = request && request->is_head;
    buf_init(&body, HEAD_BYTES_MAX);
    conn_goto(conn, CONN_FLUSH);
    if (put_error(&body, status, why) < 0) {
        conn_close(conn);
    } else {
        (void)send_answer(conn, status, "application/json", status == 503 ? "Retry-After: 1\r\n" : NULL,
                          body.bytes,
                          body.len); // on failure it has closed the connection
        if (conn->state == CONN_FLUSH && !conn->out) conn_on_flushed(conn);
    }
    buf_done(&body);
}

int conn_stream_start(struct conn *conn, const char *content_type, const char *headers)
{
    struct buf head;
    CHECK(conn->in_exchange);
    if (conn->state == CONN_CLOSING) return -EPIPE;
    conn->is_chunked = http_reader_request(conn->reader)->version_minor > 0;
    if (!conn->is_chunked || conn->server->is_draining)
        conn->keep_alive = false; // 1.0: the close ends the body
    buf_init(&head, HEAD_BYTES_MAX);
    put_head(conn, &head, 200, content_type, headers);
    buf_puts(&head, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    if (conn->is_chunked) buf_puts(&head, "Transfer-Encoding: chunked\r\n");
    buf_puts(&head, "\r\n");
    conn_goto(conn, CONN_STREAM);
    int r = head.error;
    uv_buf_t part = uv_buf_init((char *)head.bytes, (unsigned)head.len);
    if (r == 0) r = conn_send(conn, &part, 1, STREAM_PENDING_BYTES_MAX);
    else conn_close(conn);
    buf_done(&head);
    return r;
}

int conn_stream_write(struct conn *conn, const void *bytes, size_t len)
{
    char size[24];
    CHECK(conn->in_exchange);
    CHECK(conn->state == CONN_STREAM || conn->state == CONN_CLOSING);
    if (conn->state == CONN_CLOSING) return -EPIPE;
    if (len == 0 || conn->is_head) return conn->is_over_mark; // an empty chunk would end the stream
    int size_len = snprintf(size, sizeof(size), "%zx\r\n", len);
    uv_buf_t parts[] = {
        uv_buf_init(size, (unsigned)size_len), {.base = (char *)bytes}, uv_buf_init((char *)"\r\n", 2)};
    parts[1].len = len;
    return conn->is_chunked ? conn_send(conn, parts, 3, STREAM_PENDING_BYTES_MAX)
                            : conn_send(conn, parts + 1, 1, STREAM_PENDING_BYTES_MAX);
}

int conn_stream_end(struct conn *conn)
{
    CHECK(conn->in_exchange);
    CHECK(conn->state == CONN_STREAM || conn->state == CONN_CLOSING);
    uv_buf_t part = uv_buf_init((char *)"0\r\n\r\n", 5);
    int r = 0;
    if (conn->is_chunked && !conn->is_head)
        r = conn_send(conn, &part, 1, STREAM_PENDING_BYTES_MAX + part.len);
    end_answer(conn);
    return r < 0 ? r : 0;
}

void conn_abort(struct conn *conn)
{
    CHECK(conn->in_exchange);
    conn->in_exchange = false;
    conn->user = NULL;
    if (conn->state != CONN_CLOSING) conn_close(conn);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a connection: its states, its reading, its deadlines. Answers are conn_answer.c's. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // struct ucred, POLLRDHUP
#endif
#include "daemon/conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/check.h"
#include "daemon/conn_state.h"

enum {
    TCP_KEEPALIVE_S = 30,
    TCP_UNSENT_BYTES = 128 << 10, // the kernel queues no more for a reader that does not read
    SMALL_BYTES = 64 << 10,       // a request that holds no more is served however much the others hold
};

/* ---- states ---- */

static bool edge_exists(enum conn_state from, enum conn_state to)
{
#define X(a, b, why) \
    if (from == CONN_##a && to == CONN_##b) return true;
    CONN_EDGES(X)
#undef X
    return false;
}

void conn_goto(struct conn *conn, enum conn_state state)
{
    CHECK(edge_exists(conn->state, state));
    conn->state = (uint8_t)state;
    conn->progress_bytes = 0;
    conn_rewait(conn);
}

void conn_rewait(struct conn *conn)
{
    switch ((enum conn_state)conn->state) {
    case CONN_HEAD: server_wait(conn, WAIT_HEAD); break;
    case CONN_BODY: server_wait(conn, WAIT_BODY); break;
    case CONN_IDLE: server_wait(conn, WAIT_IDLE); break;
    case CONN_LINGER: server_wait(conn, WAIT_LINGER); break;
    case CONN_CLOSING: server_wait(conn, WAIT_NONE); break;
    case CONN_PENDING:
    case CONN_STREAM:
    case CONN_FLUSH:
        server_wait(conn, conn->out ? WAIT_WRITE : conn->is_paused ? WAIT_PEEK : WAIT_NONE);
        break;
    }
}

/* Brings this connection's share of the server's memory up to date. */
void conn_account(struct conn *conn)
{
    size_t held = 0;
    if (conn->reader) held += http_reader_bytes(conn->reader);
    if (conn->ahead) held += conn->ahead->cap;
    if (conn->out) held += conn->out->flight.cap + conn->out->next.cap;
    conn->server->stats.held_bytes += held - conn->held_bytes;
    conn->held_bytes = held;
}

static void free_request(struct conn *conn)
{
    http_reader_free(conn->reader);
    conn->reader = NULL;
}

static void free_ahead(struct conn *conn)
{
    if (conn->ahead) buf_done(conn->ahead);
    free(conn->ahead);
    conn->ahead = NULL;
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    struct http_server *server = conn->server;
    if (conn->in_exchange) {
        server->stats.clients_gone++;
        server->handler.on_close(conn, server->user);
    }
    free_request(conn);
    free_ahead(conn);
    conn_out_free(conn);
    conn_account(conn);
    link_remove(&conn->by_wait);
    link_remove(&conn->by_resume);
    free(conn);
    server_conn_gone(server);
    listen_accept_waiting(server);
    server_handle_closed(server);
}

/* on_close is called from the close callback, so never from inside a conn_ function. */
void conn_close(struct conn *conn)
{
    link_remove(&conn->by_resume);
    conn_goto(conn, CONN_CLOSING);
    uv_close(&conn->uv.handle, on_closed);
}

/* ---- reading ---- */

static bool is_reading(const struct conn *conn)
{
    return conn->state == CONN_HEAD || conn->state == CONN_BODY || conn->state == CONN_IDLE;
}

void conn_rewait_answer(struct conn *conn)
{
    if (conn->state == CONN_PENDING || conn->state == CONN_STREAM || conn->state == CONN_FLUSH)
        conn_rewait(conn);
}

/* Keeps bytes for later. In full, reading pauses and hang-ups are looked for by the clock. */
static void stash(struct conn *conn, const void *bytes, size_t len)
{
    if (!conn->ahead) {
        conn->ahead = malloc(sizeof(*conn->ahead));
        if (conn->ahead) buf_init(conn->ahead, AHEAD_BYTES_MAX);
    }
    if (!conn->ahead || buf_append(conn->ahead, bytes, len) < 0) { // -ENOMEM: reads are cut to what fits
        conn_close(conn);
        return;
    }
    conn_account(conn);
    if (conn->ahead->len < AHEAD_BYTES_MAX) return;
    (void)uv_read_stop(&conn->uv.stream); // always 0
    conn->is_paused = true;
    conn_rewait_answer(conn);
}

static void begin_exchange(struct conn *conn)
{
    struct http_server *server = conn->server;
    const struct http_request *request = http_reader_request(conn->reader);
    conn->in_exchange = true;
    conn->keep_alive = request->keep_alive;
    conn->is_head = request->is_head;
    conn->user = NULL;
    conn_goto(conn, CONN_PENDING);
    server->stats.requests++;
    server->handler.on_request(conn, request, server->user);
}

static const char continue_line[] = "HTTP/1.1 100 Continue\r\n\r\n";

/* One step of reading a request; the state may be any afterwards. -> bytes used */
static size_t read_step(struct conn *conn, const uint8_t *bytes, size_t len)
{
    size_t used = len;
    struct err err = {0};
    if (conn->state == CONN_IDLE) conn_goto(conn, CONN_HEAD);
    if (!conn->reader) {
        conn->reader = http_reader_new(conn->server->conf.body_bytes_max);
        if (!conn->reader) {
            conn_close(conn);
            return len;
        }
    }
    int r = http_reader_feed(conn->reader, bytes, len, &used, &err);
    conn_account(conn);
    if (r < 0) {
        conn_refuse(conn, http_reader_status(conn->reader), err.text);
        return len;
    }
    if (conn->held_bytes > SMALL_BYTES &&
        conn->server->stats.held_bytes > conn->server->conf.held_bytes_max) {
        conn_refuse(conn, 503, "the server holds too many request bytes, try again");
        return len;
    }
    if (conn->state == CONN_HEAD && http_reader_is_in_body(conn->reader)) conn_goto(conn, CONN_BODY);
    conn->progress_bytes += used;
    if (r == HTTP_FEED_CONTINUE) {
        uv_buf_t part = uv_buf_init((char *)continue_line, sizeof(continue_line) - 1);
        (void)conn_send(conn, &part, 1, 4096); // on failure the connection is closing
    } else if (r == HTTP_FEED_COMPLETE) {
        begin_exchange(conn);
    }
    return used;
}

/* Reads requests from bytes until one waits for its answer, or its turn is over. -> bytes used */
static size_t read_requests(struct conn *conn, const uint8_t *bytes, size_t len)
{
    size_t used = 0;
    uint64_t requests = conn->server->stats.requests;
    while (used < len && is_reading(conn)) {
        if (conn->server->stats.requests - requests >= REQUESTS_PER_TURN) break;
        used += read_step(conn, bytes + used, len - used);
    }
    return used;
}

/* No further request will be read: bytes are dropped, within bounds. */
static bool is_ending(const struct conn *conn)
{
    return conn->state == CONN_LINGER || (conn->state == CONN_FLUSH && !conn->keep_alive);
}

static void on_bytes(struct conn *conn, const uint8_t *bytes, size_t len)
{
    if (is_ending(conn)) {
        conn->progress_bytes += len;
        if (conn->progress_bytes > LINGER_BYTES_MAX) conn_close(conn);
        return;
    }
    size_t used = conn->ahead ? 0 : read_requests(conn, bytes, len); // never past what came before
    if (used == len || conn->state == CONN_CLOSING || is_ending(conn)) return;
    stash(conn, bytes + used, len - used);
    if (is_reading(conn)) server_resume_later(conn);
}

/* The client ended its side or the connection broke. */
static void on_end(struct conn *conn, bool is_eof)
{
    if (is_eof && conn->state == CONN_FLUSH) { // its answer is whole and on the way
        (void)uv_read_stop(&conn->uv.stream);  // always 0
        conn->has_eof = true;
        return;
    }
    conn_close(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct conn *conn = handle->data;
    size_t kept = conn->ahead ? conn->ahead->len : 0;
    (void)suggested;
    CHECK(kept < READ_BYTES); // else reading pauses
    *ret_buf = uv_buf_init((char *)conn->server->read_bytes, (unsigned)(READ_BYTES - kept));
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct conn *conn = stream->data;
    if (conn->state == CONN_CLOSING || len == 0) return; // 0: EAGAIN
    if (len < 0) on_end(conn, len == UV_EOF);
    else on_bytes(conn, (const uint8_t *)buf->base, (size_t)len);
}

static void start_reading(struct conn *conn)
{
    int r = uv_read_start(&conn->uv.stream, on_alloc, on_read);
    if (r < 0) conn_close(conn);
}

/* Reads what is kept, in a turn of the loop of its own. */
void conn_resume(struct conn *conn)
{
    if (!conn->ahead || !is_reading(conn)) return;
    size_t used = read_requests(conn, conn->ahead->bytes, conn->ahead->len);
    if (conn->state == CONN_CLOSING || conn->state == CONN_LINGER) return; // ahead is or will be freed
    buf_consume(conn->ahead, used);
    if (conn->ahead->len == 0) free_ahead(conn);
    conn_account(conn);
    if (conn->is_paused && (!conn->ahead || conn->ahead->len < AHEAD_BYTES_MAX)) {
        conn->is_paused = false;
        conn_rewait_answer(conn);
        start_reading(conn);
    }
    if (conn->ahead && is_reading(conn)) server_resume_later(conn);
}

/* ---- after an answer ---- */

/* Our side ends; the client may still send, and would lose our last bytes to a reset if we closed now
 * (RFC 9112, 9.6). Nothing to wait for when it has ended its side. */
static void linger(struct conn *conn)
{
    uv_os_fd_t fd;
    free_request(conn);
    free_ahead(conn);
    conn_account(conn);
    if (conn->has_eof || uv_fileno(&conn->uv.handle, &fd) < 0 || shutdown(fd, SHUT_WR) < 0) {
        conn_close(conn);
        return;
    }
    conn_goto(conn, CONN_LINGER);
    if (conn->is_paused) start_reading(conn);
    conn->is_paused = false;
}

void conn_on_flushed(struct conn *conn)
{
    CHECK(!conn->out);
    if (conn->state != CONN_FLUSH) {
        conn_rewait_answer(conn);
        return;
    }
    if (!conn->keep_alive || conn->has_eof || conn->server->is_draining) {
        linger(conn);
        return;
    }
    free_request(conn);
    conn_account(conn);
    conn_goto(conn, CONN_IDLE);
    if (conn->ahead) server_resume_later(conn);
}

/* ---- deadlines ---- */

static bool peer_hung_up(const struct conn *conn)
{
    uv_os_fd_t fd;
    if (uv_fileno(&conn->uv.handle, &fd) < 0) return true;
    struct pollfd look = {.fd = fd, .events = POLLRDHUP};
    return poll(&look, 1, 0) > 0 && look.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

void conn_on_deadline(struct conn *conn)
{
    struct http_stats *stats = &conn->server->stats;
    switch ((enum wait)conn->wait) {
    case WAIT_BODY:
        if (conn->progress_bytes >= conn->server->conf.body_window_bytes) {
            conn->progress_bytes = 0;
            conn_rewait(conn);
            return;
        }
        stats->timeouts++;
        conn_refuse(conn, 408, "the request body came too slowly");
        return;
    case WAIT_HEAD:
        stats->timeouts++;
        if (conn->reader) conn_refuse(conn, 408, "the request head took too long");
        else conn_close(conn); // nothing was said, nothing is answered
        return;
    case WAIT_WRITE:
        if (!conn_out_is_stuck(conn)) {
            conn_rewait(conn);
            return;
        }
        stats->timeouts++;
        conn_close(conn);
        return;
    case WAIT_PEEK:
        if (peer_hung_up(conn)) conn_close(conn);
        else conn_rewait(conn);
        return;
    default: conn_close(conn); // idle or lingered long enough
    }
}

/* ---- lifetime and access ---- */

/* Wishes: the connection works without. */
static void tune_tcp(struct conn *conn)
{
    uv_os_fd_t fd;
    int unsent = TCP_UNSENT_BYTES;
    (void)uv_tcp_nodelay(&conn->uv.tcp, 1);
    (void)uv_tcp_keepalive(&conn->uv.tcp, 1, TCP_KEEPALIVE_S);
    if (uv_fileno(&conn->uv.handle, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

int conn_open(struct http_server *server, struct listener *listener)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    /* Without memory the client stays in libuv's hands, unaccepted; the listener is tried again when a
     * connection goes. */
    if (!conn) {
        listener->has_waiting = true;
        return -ENOMEM;
    }
    conn->server = server;
    conn->is_unix = listener->is_unix;
    conn->state = CONN_HEAD;
    link_init(&conn->by_wait);
    link_init(&conn->by_resume);
    int r = conn->is_unix ? uv_pipe_init(server->loop, &conn->uv.pipe, 0)
                          : uv_tcp_init(server->loop, &conn->uv.tcp);
    CHECK(r == 0); // neither opens anything yet
    conn->uv.handle.data = conn;
    server->handles++;
    server->stats.conns++;
    server->stats.conns_accepted++;
    conn_rewait(conn);
    r = uv_accept(&listener->uv.stream, &conn->uv.stream);
    if (r < 0) {
        conn_close(conn);
        return r;
    }
    if (!conn->is_unix) tune_tcp(conn);
    start_reading(conn);
    if (conn->state == CONN_CLOSING || server->stats.conns <= server->conf.conns_max) return 0;
    server->stats.conns_refused++;
    conn_refuse(conn, 503, "too many connections");
    return 0;
}

const struct http_request *conn_request(const struct conn *conn)
{
    CHECK(conn->in_exchange);
    return http_reader_request(conn->reader);
}

void conn_drop_body(struct conn *conn)
{
    CHECK(conn->in_exchange);
    http_reader_drop_body(conn->reader);
    conn_account(conn);
}

void conn_set_user(struct conn *conn, void *user)
{
    conn->user = user;
}

void *conn_user(const struct conn *conn)
{
    return conn->user;
}

bool conn_is_unix(const struct conn *conn)
{
    return conn->is_unix;
}

int conn_peer_uid(const struct conn *conn, uid_t *ret_uid)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    uv_os_fd_t fd;
    if (!conn->is_unix) return -ENOTSUP;
    int r = uv_fileno(&conn->uv.handle, &fd);
    if (r < 0) return r;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) return -errno;
    *ret_uid = peer.uid;
    return 0;
}

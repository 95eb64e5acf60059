/* SPDX-License-Identifier: Apache-2.0 */
/* http_server - all HTTP state of one loop: its connections, their clocks, its listeners. No globals.
 *
 *   listen (sockets) -> http_server -> conn (bytes, timeouts) -> http (requests) -> on_request
 *
 * One thread, the loop's. A handler is called from the loop only, never from inside a conn_ function, so
 * that it may keep its own state half changed while it answers. The process must ignore SIGPIPE.
 *
 * Bounds. Connections: conns_max are served; up to 64 more are accepted, answered 503 and closed; beyond
 * that the kernel's backlog waits (a listener is not polled then, so nothing spins). When the process has
 * no file descriptor left libuv closes new connections with its reserve descriptor. Memory:
 * held_bytes_max for request bodies, pipelined bytes and unsent output of all connections; a body over
 * 64 KiB that would pass it is answered 503, smaller ones are always taken (so /health answers while
 * bodies crowd). Time: see struct http_conf. With no connection no timer runs; with idle ones it sleeps
 * until the first is due. */
#ifndef KVASIR_DAEMON_HTTP_SERVER_H
#define KVASIR_DAEMON_HTTP_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct conn;
struct http_request;
struct http_server;
struct uv_loop_s;

/* Every time is at least 1 ms. */
struct http_conf {
    size_t body_bytes_max; // of one request; over it: 413
    size_t held_bytes_max; // of all connections
    unsigned conns_max;
    unsigned head_ms;           // a whole head, from its first byte (the first one: from accept); then 408
    unsigned body_ms;           // in each such window of a body ...
    unsigned body_window_bytes; // ... at least this many bytes come; else 408
    unsigned idle_ms;           // between requests
    unsigned write_ms;          // without any progress of unsent output (found within 1/4 more)
    unsigned linger_ms;         // from our last byte until the client closes
};

/* 10 s head, 4 KiB in 10 s of body, 75 s idle, 60 s slow reader, 2 s linger, 8 MiB body, 512 MiB held,
 * 4096 connections. */
struct http_conf http_conf_default(void);

/* on_request: a whole request. `request` is valid until its answer is ended (conn_respond, conn_stream_end,
 * conn_abort) or on_close returns. Answering may happen inside or any time later.
 *
 * on_close: the client of an unanswered or half-streamed request has gone (reset, closed, or it does not
 * read); called once, `conn` is invalid afterwards. A client that only shuts down its sending side while
 * its request is unanswered counts as gone: that is how a dropped request is cancelled at once. It is
 * never called for a request whose answer was ended, nor after conn_abort.
 *
 * on_drain: unsent bytes fell below half of HTTP_OUT_BYTES_MAX after they had passed it.
 *
 * on_drained: http_server_drain, and no connection is left. May be NULL. */
struct http_handler {
    void (*on_request)(struct conn *conn, const struct http_request *request, void *user);
    void (*on_close)(struct conn *conn, void *user);
    void (*on_drain)(struct conn *conn, void *user);
    void (*on_drained)(void *user);
};

/* Since start, except where said. */
struct http_stats {
    uint64_t conns_accepted;
    uint64_t conns_refused; // over conns_max
    uint64_t requests;      // handed to on_request
    uint64_t refusals;      // malformed or over a limit, 408 included
    uint64_t timeouts;      // connections ended by a deadline, idle ones not counted
    uint64_t clients_gone;  // calls of on_close
    unsigned conns;         // now
    size_t held_bytes;      // now
};

/* The loop and user are borrowed until the server is free. */
int http_server_new(struct uv_loop_s *loop, const struct http_conf *conf, const struct http_handler *handler,
                    void *user, struct http_server **ret_server, struct err *err);

/* Graceful: no new connections, idle ones closed, the others after their current answer. */
void http_server_drain(struct http_server *server);

/* Hard: closes every handle; on_close is called for pending requests. Run the loop until
 * http_server_is_stopped, then free. */
void http_server_stop(struct http_server *server);
int http_server_is_stopped(const struct http_server *server);
void http_server_free(struct http_server *server); // NULL is fine; else it must be stopped

struct http_stats http_server_stats(const struct http_server *server);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* conn_state - what http_server.c, conn.c, conn_answer.c and listen.c share. Nobody else includes it.
 *
 *  accept                first byte             whole request         answered           sent, kept alive
 *    |        +--> IDLE ------------+                                                        |
 *    v        |                     v                                                        |
 *   HEAD -----|---------------> HEAD/BODY --------> PENDING [--> STREAM] ------> FLUSH ------+--> IDLE
 *             |                     |  refused, too slow                           ^  |
 *             |                     +----------------------------------------------+  +--> LINGER --> CLOSING
 *             +-- next request
 *
 * Clocks: a connection stands in the list of exactly one wait; each list has one duration, so appending keeps
 * it sorted by deadline and only its first is ever looked at. */
#ifndef KVASIR_DAEMON_CONN_STATE_H
#define KVASIR_DAEMON_CONN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/buf.h"
#include "daemon/http.h"
#include "daemon/http_server.h"

enum {
    READ_BYTES = 64 << 10,        // one read; shared by all connections of a loop
    AHEAD_BYTES_MAX = READ_BYTES, // pipelined bytes kept while an answer is due; then reading pauses
    CONNS_OVER_MAX = 64,          // connections above conns_max that are answered 503
    LINGER_BYTES_MAX = 1 << 20,   // read and dropped behind our last byte
    REQUESTS_PER_TURN = 16,       // pipelined requests of one connection before others have their turn
    WRITE_CHECKS = 4,             // looks at unsent output per write_ms
    PEEK_MS = 250,                // between looks for a hang-up while reading pauses
};

#define CONN_EDGES(X) \
    X(HEAD, BODY, "head accepted") \
    X(HEAD, PENDING, "request without a body") \
    X(BODY, PENDING, "body complete") \
    X(HEAD, FLUSH, "refused") \
    X(BODY, FLUSH, "refused") \
    X(PENDING, STREAM, "stream started") \
    X(PENDING, FLUSH, "answered") \
    X(STREAM, FLUSH, "stream ended") \
    X(FLUSH, IDLE, "sent, kept alive") \
    X(IDLE, HEAD, "first byte") \
    X(FLUSH, LINGER, "sent, last answer") \
    X(HEAD, CLOSING, "closed or silent") \
    X(BODY, CLOSING, "closed") \
    X(PENDING, CLOSING, "client gone") \
    X(STREAM, CLOSING, "client gone") \
    X(FLUSH, CLOSING, "client gone") \
    X(IDLE, CLOSING, "closed or idle too long") \
    X(LINGER, CLOSING, "closed")

enum conn_state {
    CONN_HEAD, // also from accept, without a reader until the first byte
    CONN_BODY,
    CONN_PENDING,
    CONN_STREAM,
    CONN_FLUSH,
    CONN_IDLE,
    CONN_LINGER,
    CONN_CLOSING,
};

enum wait { WAIT_NONE, WAIT_HEAD, WAIT_BODY, WAIT_IDLE, WAIT_WRITE, WAIT_LINGER, WAIT_PEEK, WAIT_COUNT };

/* Circular list with a head; a node that is in no list points to itself. */
struct link {
    struct link *prev, *next;
};

/* Unsent output; exists while there is some. The flight is libuv's until its callback. */
struct conn_out {
    uv_write_t req;
    struct buf flight; // being written
    struct buf next;   // behind it
    size_t left_bytes; // not taken by the client when last looked at
    unsigned stalls;   // looks without progress
};

/* I1: reader exists in BODY, PENDING and STREAM, and in HEAD and FLUSH except before the first byte.
 * I2: in_exchange means that on_request was called and the answer is not ended.
 * I3: out is NULL or has bytes in flight. I4: IDLE and LINGER have no out. */
struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct http_server *server;
    struct link by_wait;   // in server->waits[wait]
    struct link by_resume; // in server->resumes, when ahead is to be read later
    uint64_t due_ms;       // loop time; valid when wait is not WAIT_NONE
    struct http_reader *reader;
    struct conn_out *out;
    struct buf *ahead; // bytes behind the current request; NULL when none
    void *user;
    size_t held_bytes;     // this connection's share of server->held_bytes
    size_t progress_bytes; // BODY: of this window; LINGER: dropped so far
    uint8_t state;         // enum conn_state
    uint8_t wait;          // enum wait
    bool is_unix : 1;      //
    bool in_exchange : 1;  //
    bool keep_alive : 1;   // of the current answer
    bool is_chunked : 1;   // of the current stream
    bool is_head : 1;      // the answer has no body
    bool is_over_mark : 1; // unsent bytes passed HTTP_OUT_BYTES_MAX; on_drain is due
    bool is_paused : 1;    // reading is stopped because ahead is full
    bool has_eof : 1;      // the client ended its side while its answer was being sent
};

struct listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct http_server *server;
    struct listener *next;
    bool is_unix;
    bool has_waiting; // a connection is not accepted because of the limit; libuv does not poll meanwhile
    bool is_closing;
    char *path;     // owned; of a socket file that we made, else NULL
    dev_t path_dev; //
    ino_t path_ino; //
};

struct http_server {
    uv_loop_t *loop;
    struct http_conf conf;
    struct http_handler handler;
    void *user;
    struct http_stats stats;
    struct link waits[WAIT_COUNT]; // connections, each list in order of due_ms
    struct link resumes;
    struct listener *listeners; // owned
    uv_timer_t sweep;
    uint64_t sweep_due_ms; // UINT64_MAX while the timer does not run
    uv_idle_t resume;
    unsigned handles; // not yet closed, connections and listeners included
    bool is_draining, is_drained, is_stopping;
    uint64_t date_s; // of date
    char date[80];   // IMF-fixdate, 29 bytes; the rest keeps the compiler quiet
    uint8_t read_bytes[READ_BYTES];
};

/* http_server.c */
void server_wait(struct conn *conn, enum wait wait); // (re)starts the connection's clock
void server_resume_later(struct conn *conn);
void server_conn_gone(struct http_server *server);     // counts it out
void server_handle_closed(struct http_server *server); // one of server->handles
const char *server_date(struct http_server *server);

/* listen.c */
void listen_close_all(struct http_server *server);
void listen_accept_waiting(struct http_server *server); // after a connection went

/* conn.c */
int conn_open(struct http_server *server, struct listener *listener); // accepts one
void conn_close(struct conn *conn);
void conn_goto(struct conn *conn, enum conn_state state);
void conn_rewait(struct conn *conn); // the wait that state and output call for
void conn_rewait_answer(
    struct conn *conn);               // only while answering: the clocks of a request must not start anew
void conn_account(struct conn *conn); // brings its share of held_bytes up to date
void conn_resume(struct conn *conn);
void conn_on_deadline(struct conn *conn);
void conn_on_flushed(struct conn *conn); // out has just become empty

/* conn_answer.c */
int conn_send(struct conn *conn, uv_buf_t *parts, unsigned count, size_t pending_bytes_max);
void conn_refuse(struct conn *conn, int status, const char *why); // error answer of the transport, then close
void conn_out_free(struct conn *conn);
bool conn_out_is_stuck(struct conn *conn); // called WRITE_CHECKS times per write_ms

static inline void link_init(struct link *link)
{
    link->prev = link->next = link;
}

static inline bool link_is_alone(const struct link *link)
{
    return link->next == link;
}

static inline void link_remove(struct link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link_init(link);
}

static inline void link_append(struct link *list, struct link *link)
{
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

#define CONN_OF(pointer, member) ((struct conn *)((char *)(pointer)-offsetof(struct conn, member)))

#endif

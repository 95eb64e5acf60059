/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/http_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "daemon/conn_state.h"

struct http_conf http_conf_default(void)
{
    return (struct http_conf){
        .body_bytes_max = HTTP_BODY_BYTES_DEFAULT,
        .held_bytes_max = MIB(512),
        .conns_max = 4096,
        .head_ms = 10 * 1000,
        .body_ms = 10 * 1000,
        .body_window_bytes = KIB(4),
        .idle_ms = 75 * 1000,
        .write_ms = 60 * 1000,
        .linger_ms = 2 * 1000,
    };
}

/* ---- clocks ---- */

static uint64_t wait_ms(const struct http_server *server, enum wait wait)
{
    switch (wait) {
    case WAIT_HEAD: return server->conf.head_ms;
    case WAIT_BODY: return server->conf.body_ms;
    case WAIT_IDLE: return server->conf.idle_ms;
    case WAIT_WRITE: return (server->conf.write_ms + WRITE_CHECKS - 1) / WRITE_CHECKS;
    case WAIT_LINGER: return server->conf.linger_ms;
    case WAIT_PEEK: return PEEK_MS;
    case WAIT_NONE:
    case WAIT_COUNT: break;
    }
    CHECK(!"a wait with a duration");
    return 0;
}

static void on_sweep(uv_timer_t *timer);

static void sweep_at(struct http_server *server, uint64_t due_ms)
{
    if (due_ms >= server->sweep_due_ms) return;
    uint64_t now_ms = uv_now(server->loop);
    int r = uv_timer_start(&server->sweep, on_sweep, due_ms > now_ms ? due_ms - now_ms : 0, 0);
    CHECK(r == 0); // fails for a closing handle or a missing callback only
    server->sweep_due_ms = due_ms;
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *server = timer->data;
    uint64_t now_ms = uv_now(server->loop), next_ms = UINT64_MAX;
    server->sweep_due_ms = UINT64_MAX;
    for (int wait = WAIT_NONE + 1; wait < WAIT_COUNT; wait++) {
        struct link *list = &server->waits[wait];
        while (!link_is_alone(list)) {
            struct conn *conn = CONN_OF(list->next, by_wait);
            if (conn->due_ms > now_ms) {
                if (conn->due_ms < next_ms) next_ms = conn->due_ms;
                break;
            }
            conn_on_deadline(conn);                                       // moves it: to another wait, or
            CHECK(list->next != &conn->by_wait || conn->due_ms > now_ms); // behind with a later deadline
        }
    }
    if (next_ms != UINT64_MAX) sweep_at(server, next_ms);
}

void server_wait(struct conn *conn, enum wait wait)
{
    struct http_server *server = conn->server;
    link_remove(&conn->by_wait);
    link_append(&server->waits[wait], &conn->by_wait);
    conn->wait = (uint8_t)wait;
    if (wait == WAIT_NONE) return;
    conn->due_ms = uv_now(server->loop) + wait_ms(server, wait);
    sweep_at(server, conn->due_ms);
}

void server_conn_gone(struct http_server *server)
{
    CHECK(server->stats.conns > 0);
    if (--server->stats.conns || server->is_stopping) return;
    (void)uv_timer_stop(&server->sweep); // always 0
    server->sweep_due_ms = UINT64_MAX;
}

/* ---- turns ---- */

static void tell_drained(struct http_server *server)
{
    if (!server->is_draining || server->is_drained || server->stats.conns) return;
    server->is_drained = true;
    if (server->handler.on_drained) server->handler.on_drained(server->user);
}

/* Runs once for what was queued before it; the loop does not block while the handle is active. */
static void on_resume(uv_idle_t *idle)
{
    struct http_server *server = idle->data;
    struct link turn;
    link_init(&turn);
    if (!link_is_alone(&server->resumes)) { // splice
        turn = server->resumes;
        turn.next->prev = turn.prev->next = &turn;
        link_init(&server->resumes);
    }
    while (!link_is_alone(&turn)) {
        struct conn *conn = CONN_OF(turn.next, by_resume);
        link_remove(&conn->by_resume);
        conn_resume(conn);
    }
    if (link_is_alone(&server->resumes)) (void)uv_idle_stop(idle); // always 0
    tell_drained(server);
}

void server_resume_later(struct conn *conn)
{
    struct http_server *server = conn->server;
    if (server->is_stopping || !link_is_alone(&conn->by_resume)) return;
    link_append(&server->resumes, &conn->by_resume);
    (void)uv_idle_start(&server->resume, on_resume); // fails without a callback only
}

/* RFC 9110, 5.6.7. Own names of days and months, since strftime's follow the locale. */
const char *server_date(struct http_server *server)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    uint64_t now_s = clock_wall_ns() / NS_PER_S;
    if (now_s == server->date_s) return server->date;
    time_t seconds = (time_t)now_s;
    struct tm t;
    if (!gmtime_r(&seconds, &t)) return server->date;
    (void)snprintf(server->date, sizeof(server->date), "%.3s, %02d %.3s %d %02d:%02d:%02d GMT",
                   &days[3 * t.tm_wday], t.tm_mday, &months[3 * t.tm_mon], t.tm_year + 1900, t.tm_hour,
                   t.tm_min, t.tm_sec); // 29 bytes
    server->date_s = now_s;
    return server->date;
}

/* ---- lifetime ---- */

static int check_conf(const struct http_conf *conf, struct err *err)
{
    if (!conf->head_ms || !conf->body_ms || !conf->idle_ms || !conf->write_ms || !conf->linger_ms)
        return ERR(err, ERR_CONFIG, "http: every timeout must be at least 1 ms");
    if (!conf->conns_max) return ERR(err, ERR_CONFIG, "http: at least one connection must be allowed");
    if (conf->held_bytes_max < conf->body_bytes_max)
        return ERR(err, ERR_CONFIG, "http: memory for all connections is below one request body");
    return 0;
}

int http_server_new(struct uv_loop_s *loop, const struct http_conf *conf, const struct http_handler *handler,
                    void *user, struct http_server **ret_server, struct err *err)
{
    int r = check_conf(conf, err);
    if (r < 0) return r;
    struct http_server *server = calloc(1, sizeof(*server));
    if (!server) return ERR(err, -ENOMEM, "http: no memory for the server");
    CHECK(handler->on_request);
    CHECK(handler->on_close);
    CHECK(handler->on_drain);
    server->loop = loop;
    server->conf = *conf;
    server->handler = *handler;
    server->user = user;
    server->sweep_due_ms = UINT64_MAX;
    for (int wait = 0; wait < WAIT_COUNT; wait++) link_init(&server->waits[wait]);
    link_init(&server->resumes);
    (void)uv_timer_init(loop, &server->sweep); // both always 0
    (void)uv_idle_init(loop, &server->resume);
    server->sweep.data = server->resume.data = server;
    server->handles = 2;
    *ret_server = server;
    return 0;
}

static void for_each_conn(struct http_server *server, void (*visit)(struct conn *conn))
{
    for (int wait = 0; wait < WAIT_COUNT; wait++) {
        struct link *list = &server->waits[wait];
        for (struct link *link = list->next, *next; link != list; link = next) {
            next = link->next; // visit may move this one, and no other
            visit(CONN_OF(link, by_wait));
        }
    }
}

static void close_if_idle(struct conn *conn)
{
    if (conn->state == CONN_IDLE || (conn->state == CONN_HEAD && !conn->reader)) conn_close(conn);
}

static void close_any(struct conn *conn)
{
    if (conn->state != CONN_CLOSING) conn_close(conn);
}

void http_server_drain(struct http_server *server)
{
    if (server->is_draining || server->is_stopping) return;
    server->is_draining = true;
    listen_close_all(server);
    for_each_conn(server, close_if_idle);
    (void)uv_idle_start(&server->resume, on_resume); // tells "drained" from the loop if nobody is left
}

static void on_handle_closed(uv_handle_t *handle)
{
    server_handle_closed(handle->data);
}

void server_handle_closed(struct http_server *server)
{
    CHECK(server->handles > 0);
    server->handles--;
    if (!server->is_stopping) tell_drained(server);
}

void http_server_stop(struct http_server *server)
{
    if (server->is_stopping) return;
    server->is_stopping = true;
    listen_close_all(server);
    for_each_conn(server, close_any);
    uv_close((uv_handle_t *)&server->sweep, on_handle_closed);
    uv_close((uv_handle_t *)&server->resume, on_handle_closed);
}

int http_server_is_stopped(const struct http_server *server)
{
    return server->is_stopping && server->handles == 0;
}

void http_server_free(struct http_server *server)
{
    if (!server) return;
    CHECK(http_server_is_stopped(server));
    CHECK(server->stats.conns == 0);
    CHECK(server->stats.held_bytes == 0);
    CHECK(!server->listeners);
    free(server);
}

struct http_stats http_server_stats(const struct http_server *server)
{
    return server->stats;
}

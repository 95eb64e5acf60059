/* SPDX-License-Identifier: Apache-2.0 */
/* http_world - an http_server and raw socket clients in one loop, for tests of the transport.
 *
 * Nothing sleeps: WAIT_FOR runs the loop until its condition holds, and a fail-safe timer ends a test
 * that would hang. A request on "/now" is answered at once with its body, any other is kept in `held`. */
#ifndef KVASIR_TESTS_UNIT_HTTP_WORLD_H
#define KVASIR_TESTS_UNIT_HTTP_WORLD_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <uv.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/conn.h"
#include "daemon/http.h"
#include "daemon/http_server.h"
#include "daemon/listen.h"

enum { HELD_MAX = 256, FAIL_SAFE_MS = 20 * 1000 };

struct world {
    uv_loop_t loop;
    uv_timer_t fail_safe;
    struct http_server *server;
    uint16_t port;
    struct conn *held[HELD_MAX]; // pending, in order of arrival
    char paths[HELD_MAX][64];    // of the held
    int held_count, gone_count, drain_count, drained_count;
    struct conn *gone; // the last one
    bool is_late;
};

struct client {
    uv_poll_t poll;
    int fd;
    struct buf got;
    bool is_closed; // EOF or reset seen
    bool is_reset;
    bool handle_closed;
};

static inline void world_on_request(struct conn *conn, const struct http_request *request, void *user)
{
    struct world *world = user;
    assert_null(conn_user(conn));
    if (strcmp(request->path, "/now") == 0) {
        (void)conn_respond(conn, 200, "text/plain", NULL, request->body, request->body_bytes);
        return;
    }
    assert_true(world->held_count < HELD_MAX);
    snprintf(world->paths[world->held_count], sizeof(world->paths[0]), "%s", request->path);
    world->held[world->held_count++] = conn;
    conn_set_user(conn, world);
}

static inline void world_on_close(struct conn *conn, void *user)
{
    struct world *world = user;
    assert_ptr_equal(conn_user(conn), world);
    world->gone_count++;
    world->gone = conn;
}

static inline void world_on_drain(struct conn *conn, void *user)
{
    (void)conn;
    ((struct world *)user)->drain_count++;
}

static inline void world_on_drained(void *user)
{
    ((struct world *)user)->drained_count++;
}

static inline void world_on_late(uv_timer_t *timer)
{
    ((struct world *)timer->data)->is_late = true;
}

static inline void world_open(struct world *world, const struct http_conf *conf)
{
    static const struct http_handler handler = {world_on_request, world_on_close, world_on_drain,
                                                world_on_drained};
    struct err err = {0};
    *world = (struct world){0};
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(uv_loop_init(&world->loop), 0);
    assert_int_equal(uv_timer_init(&world->loop, &world->fail_safe), 0);
    world->fail_safe.data = world;
    assert_int_equal(uv_timer_start(&world->fail_safe, world_on_late, FAIL_SAFE_MS, 0), 0);
    assert_int_equal(http_server_new(&world->loop, conf, &handler, world, &world->server, &err), 0);
    assert_int_equal(listen_tcp(world->server, "127.0.0.1", 0, &world->port, &err), 0);
    assert_true(world->port > 0);
}

#define WAIT_FOR(world, condition) \
    do { \
        while (!(condition)) { \
            uv_run(&(world)->loop, UV_RUN_ONCE); \
            if ((world)->is_late) fail_msg("line %d: waited too long for: %s", __LINE__, #condition); \
        } \
    } while (0)

/* Stops everything; a handle left open fails here. */
static inline void world_close(struct world *world)
{
    if (world->server) http_server_stop(world->server);
    WAIT_FOR(world, !world->server || http_server_is_stopped(world->server));
    http_server_free(world->server);
    uv_close((uv_handle_t *)&world->fail_safe, NULL);
    uv_run(&world->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&world->loop), 0);
}

static inline void client_on_event(uv_poll_t *poll, int status, int events)
{
    struct client *client = poll->data;
    (void)events;
    assert_int_equal(status, 0);
    for (;;) {
        char bytes[64 << 10];
        ssize_t len = read(client->fd, bytes, sizeof(bytes));
        if (len < 0 && errno == EAGAIN) return;
        if (len <= 0) {
            client->is_closed = true;
            client->is_reset = len < 0;
            uv_poll_stop(poll);
            return;
        }
        assert_int_equal(buf_append(&client->got, bytes, (size_t)len), 0);
    }
}

static inline void client_read_start(struct client *client)
{
    assert_int_equal(uv_poll_start(&client->poll, UV_READABLE, client_on_event), 0);
}

static inline void client_read_stop(struct client *client)
{
    uv_poll_stop(&client->poll);
}

static inline void client_wrap(struct world *world, struct client *client, int fd)
{
    *client = (struct client){.fd = fd};
    buf_init(&client->got, MIB(256));
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(uv_poll_init(&world->loop, &client->poll, fd), 0);
    client->poll.data = client;
    client_read_start(client);
}

/* Connected over TCP. receive_bytes > 0 bounds the receive buffer, so that a slow reader is one soon. */
static inline void client_open_small(struct world *world, struct client *client, int receive_bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(world->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (receive_bytes)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0); // the backlog takes it
    client_wrap(world, client, fd);
}

static inline void client_open(struct world *world, struct client *client)
{
    client_open_small(world, client, 0);
}

static inline void client_open_unix(struct world *world, struct client *client, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_true(strlen(path) < sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    client_wrap(world, client, fd);
}

static inline void client_send_bytes(struct client *client, const void *bytes, size_t len)
{
    assert_int_equal(send(client->fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline void client_send(struct client *client, const char *text)
{
    client_send_bytes(client, text, strlen(text));
}

static inline void client_on_handle_closed(uv_handle_t *handle)
{
    ((struct client *)handle->data)->handle_closed = true;
}

static inline void client_close_handle(struct world *world, struct client *client)
{
    uv_close((uv_handle_t *)&client->poll, client_on_handle_closed);
    WAIT_FOR(world, client->handle_closed);
    buf_done(&client->got);
}

static inline void client_close(struct world *world, struct client *client)
{
    client_close_handle(world, client);
    close(client->fd);
}

/* Ends with RST instead of FIN. */
static inline void client_reset(struct world *world, struct client *client)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    client_close(world, client);
}

static inline bool client_has(const struct client *client, const char *text)
{
    return strstr(buf_text(&client->got), text) != NULL;
}

static inline bool client_ends_with(const struct client *client, const char *text)
{
    size_t len = strlen(text);
    return client->got.len >= len && memcmp(client->got.bytes + client->got.len - len, text, len) == 0;
}

static inline int client_count(const struct client *client, const char *text)
{
    int count = 0;
    for (const char *at = buf_text(&client->got); (at = strstr(at, text)); at++) count++;
    return count;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of daemon/conn, conn_answer, http_server: exchanges, streams, back-pressure, deadlines, limits.
 * Real sockets in a real loop (http_world.h); deadlines are made tiny where a test is about them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/http_world.h"

#define HOST "Host: a\r\n"

static struct http_conf conf_of_test(void)
{
    struct http_conf conf = http_conf_default();
    conf.body_bytes_max = MIB(1);
    return conf;
}

static void test_conn_keeps_alive(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client,
                "POST /now HTTP/1.1\r\n" HOST "X-Request-Id: abc-1\r\nContent-Length: 5\r\n\r\nhello");
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\nhello"));
    assert_int_equal(strncmp(buf_text(&client.got), "HTTP/1.1 200 OK\r\nDate: ", 23), 0);
    assert_true(client_has(&client, " GMT\r\nContent-Type: text/plain\r\n"));
    assert_true(client_has(&client, "\r\nX-Request-Id: abc-1\r\n"));
    assert_true(client_has(&client, "\r\nContent-Length: 5\r\n"));
    assert_false(client_has(&client, "Connection:"));
    buf_clear(&client.got);
    client_send(&client, "HEAD /now HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello");
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\n")); // the length of the body, without the body
    assert_true(client_has(&client, "\r\nContent-Length: 5\r\n"));
    buf_clear(&client.got);
    client_send(&client, "GET /now HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    WAIT_FOR(&world, client.is_closed);
    assert_true(client_has(&client, "\r\nConnection: close\r\n"));
    assert_false(client.is_reset);
    client_close(&world, &client);
    assert_int_equal(http_server_stats(world.server).requests, 3);
    assert_int_equal(http_server_stats(world.server).conns_accepted, 1);
    world_close(&world);
}

static void test_conn_http_1_0(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\n"));
    assert_true(client_has(&client, "\r\nConnection: keep-alive\r\n"));
    buf_clear(&client.got);
    client_send(&client, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    assert_int_equal(conn_stream_start(world.held[0], "text/event-stream", NULL), 0);
    assert_int_equal(conn_stream_write(world.held[0], "data: 1\n\n", 9), 0);
    assert_int_equal(conn_stream_end(world.held[0]), 0);
    WAIT_FOR(&world, client.is_closed);
    assert_false(client_has(&client, "chunked"));
    assert_true(client_has(&client, "\r\nConnection: close\r\n"));
    assert_true(client_ends_with(&client, "\r\n\r\ndata: 1\n\n"));
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_answers_pipelined_requests_in_order(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /a HTTP/1.1\r\n" HOST "\r\nPOST /b HTTP/1.1\r\n" HOST
                         "Content-Length: 3\r\n\r\nxyzGET /c HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 3; i++) {
        WAIT_FOR(&world, world.held_count == i + 1);
        char path[] = {'/', (char)('a' + i), 0};
        assert_string_equal(world.paths[i], path);
        assert_string_equal(conn_request(world.held[i])->path, path);
        assert_string_equal(conn_request(world.held[i])->body, i == 1 ? "xyz" : "");
        conn_drop_body(world.held[i]);
        char body[] = {'=', (char)('a' + i), 0};
        assert_int_equal(conn_respond(world.held[i], 200, "text/plain", NULL, body, 2), 0);
        assert_int_equal(world.held_count, i + 1); // never from inside a conn_ function
    }
    WAIT_FOR(&world, client_ends_with(&client, "=c"));
    const char *text = buf_text(&client.got);
    assert_true(strstr(text, "=a") < strstr(text, "=b"));
    assert_true(strstr(text, "=b") < strstr(text, "=c"));
    client_close(&world, &client);
    world_close(&world);
}

/* More than a turn's worth of them, all answered at once. */
static void test_conn_many_pipelined_requests(void **state)
{
    (void)state;
    enum { REQUESTS = 1000 };
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    for (int i = 0; i < REQUESTS; i++) client_send(&client, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, client_count(&client, "HTTP/1.1 200 OK\r\n") == REQUESTS &&
                         client_ends_with(&client, "\r\n\r\n"));
    assert_int_equal(http_server_stats(world.server).requests, REQUESTS);
    client_close(&world, &client);
    world_close(&world);
}

/* Pipelined bytes are kept up to a bound; behind it reading pauses, goes on later, and a hang-up is seen. */
static void test_conn_bounds_pipelined_bytes(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    char *body = calloc(1, MIB(1));
    assert_non_null(body);
    memset(body, 'z', MIB(1));
    size_t sent = 0;
    client_send(&client, "POST /big HTTP/1.1\r\n" HOST "Content-Length: 1048576\r\n\r\n");
    while (http_server_stats(world.server).held_bytes < KIB(64)) { // until it pauses
        ssize_t r = send(client.fd, body + sent, MIB(1) - sent, MSG_NOSIGNAL);
        if (r > 0) sent += (size_t)r;
        WAIT_FOR(&world, true);
        uv_run(&world.loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < 100; i++) uv_run(&world.loop, UV_RUN_NOWAIT);
    assert_true(http_server_stats(world.server).held_bytes <=
                KIB(64 + 64 + 8)); // doubled capacity, the request
    assert_int_equal(conn_respond(world.held[0], 200, NULL, NULL, NULL, 0), 0);
    while (sent < MIB(1)) {
        ssize_t r = send(client.fd, body + sent, MIB(1) - sent, MSG_NOSIGNAL);
        if (r > 0) sent += (size_t)r;
        uv_run(&world.loop, UV_RUN_NOWAIT);
        assert_false(world.is_late);
    }
    WAIT_FOR(&world, world.held_count == 2);
    assert_int_equal(conn_request(world.held[1])->body_bytes, MIB(1));
    assert_memory_equal(conn_request(world.held[1])->body, body, MIB(1));
    for (int i = 0; i < 64; i++) (void)!send(client.fd, body, KIB(64), MSG_NOSIGNAL); // pause again
    while (http_server_stats(world.server).held_bytes < MIB(1) + KIB(64)) uv_run(&world.loop, UV_RUN_NOWAIT);
    client_reset(&world, &client);
    WAIT_FOR(&world, world.gone_count == 1);
    free(body);
    world_close(&world);
}

static void test_conn_continues_when_asked(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "POST /now HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\n"));
    assert_string_equal(buf_text(&client.got), "HTTP/1.1 100 Continue\r\n\r\n");
    client_send(&client, "hi");
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\nhi"));
    buf_clear(&client.got);
    client_send(&client,
                "POST /now HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    WAIT_FOR(&world, client.is_closed);
    assert_int_equal(strncmp(buf_text(&client.got), "HTTP/1.1 413 Payload Too Large\r\n", 32), 0);
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_reads_chunked_bodies_in_pieces(void **state)
{
    (void)state;
    static const char text[] = "POST /now HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                               "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: v\r\n\r\n";
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        client_send_bytes(&client, text + i, 1);
        uv_run(&world.loop, UV_RUN_NOWAIT);
    }
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\nhello world"));
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_streams_chunks(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /s HTTP/1.1\r\n" HOST "X-Request-Id: r1\r\n\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    struct conn *conn = world.held[0];
    assert_int_equal(conn_stream_start(conn, "text/event-stream", "X-Extra: 1\r\n"), 0);
    WAIT_FOR(&world, client_ends_with(&client, "\r\n\r\n"));
    static const char *const wanted[] = {
        "HTTP/1.1 200 OK\r\n",
        "\r\nContent-Type: text/event-stream\r\n",
        "\r\nX-Request-Id: r1\r\n",
        "\r\nX-Extra: 1\r\n",
        "\r\nCache-Control: no-cache\r\n",
        "\r\nX-Accel-Buffering: no\r\n",
        "\r\nTransfer-Encoding: chunked\r\n",
    };
    for (size_t i = 0; i < COUNT_OF(wanted); i++) assert_true(client_has(&client, wanted[i]));
    assert_false(client_has(&client, "Content-Length"));
    buf_clear(&client.got);
    assert_int_equal(conn_stream_write(conn, "data: hello\n\n", 13), 0);
    assert_int_equal(conn_stream_write(conn, "", 0), 0);
    assert_int_equal(conn_stream_write(conn, "data: 0123456789abcdef\n\n", 24), 0);
    assert_int_equal(conn_stream_end(conn), 0);
    WAIT_FOR(&world, client_ends_with(&client, "0\r\n\r\n"));
    assert_string_equal(buf_text(&client.got),
                        "d\r\ndata: hello\n\n\r\n18\r\ndata: 0123456789abcdef\n\n\r\n0\r\n\r\n");
    client_send(&client, "GET /now HTTP/1.1\r\n" HOST "\r\n"); // the connection lives on
    WAIT_FOR(&world, client_has(&client, "HTTP/1.1 200 OK\r\n"));
    assert_int_equal(world.gone_count, 0);
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_head_of_a_stream_has_no_body(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "HEAD /s HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    assert_int_equal(conn_stream_start(world.held[0], "text/event-stream", NULL), 0);
    assert_int_equal(conn_stream_write(world.held[0], "x", 1), 0);
    assert_int_equal(conn_stream_end(world.held[0]), 0);
    client_send(&client, "HEAD /now HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, client_count(&client, "HTTP/1.1 200 OK\r\n") == 2);
    assert_true(client_has(&client, "\r\n\r\nHTTP/1.1 200 OK\r\n")); // nothing between the heads
    client_close(&world, &client);
    world_close(&world);
}

enum leaving { LEAVES_BY_RESET, LEAVES_BY_CLOSE, LEAVES_BY_SHUTDOWN };

static void leave(struct world *world, struct client *client, enum leaving how)
{
    if (how == LEAVES_BY_RESET) client_reset(world, client);
    if (how == LEAVES_BY_CLOSE) client_close(world, client);
    if (how == LEAVES_BY_SHUTDOWN) shutdown(client->fd, SHUT_WR);
}

static void test_conn_notices_a_client_that_goes(void **state)
{
    (void)state;
    struct world world;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    int goes = 0;
    for (int how = LEAVES_BY_RESET; how <= LEAVES_BY_SHUTDOWN; how++) {
        for (int streaming = 0; streaming < 2; streaming++) {
            struct client client;
            client_open(&world, &client);
            client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
            WAIT_FOR(&world, world.held_count == goes + 1);
            struct conn *conn = world.held[goes];
            if (streaming) assert_int_equal(conn_stream_start(conn, "text/event-stream", NULL), 0);
            leave(&world, &client, (enum leaving)how);
            WAIT_FOR(&world, world.gone_count == goes + 1);
            assert_ptr_equal(world.gone, conn);
            if (how == LEAVES_BY_SHUTDOWN) client_close(&world, &client);
            goes++;
        }
    }
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    assert_int_equal(http_server_stats(world.server).clients_gone, 6);
    assert_int_equal(http_server_stats(world.server).held_bytes, 0);
    world_close(&world);
}

/* No on_close after the answer's end, whatever happens to the connection then. */
static void test_conn_answered_requests_do_not_close(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    client_reset(&world, &client); // not noticed yet: the loop may or may not have run
    if (world.gone_count == 0) (void)conn_respond(world.held[0], 200, NULL, NULL, NULL, 0);
    int gone = world.gone_count;
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    assert_int_equal(world.gone_count, gone);

    client_open(&world, &client);
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 2);
    assert_int_equal(conn_stream_start(world.held[1], "text/event-stream", NULL), 0);
    conn_abort(world.held[1]);
    WAIT_FOR(&world, client.is_closed);
    assert_int_equal(world.gone_count, gone);
    assert_false(client_ends_with(&client, "0\r\n\r\n"));
    client_close(&world, &client);
    world_close(&world);
}

/* A reader that stops: writes say "enough", nothing is lost, on_drain tells when it reads again. */
static void test_conn_back_pressure(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open_small(&world, &client, 4096);
    client_send(&client, "GET /s HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    struct conn *conn = world.held[0];
    client_read_stop(&client);
    assert_int_equal(conn_stream_start(conn, "text/event-stream", NULL), 0);
    char event[1024];
    size_t sent = 0;
    memset(event, 'e', sizeof(event));
    for (int r = 0; r == 0; sent += sizeof(event)) {
        r = conn_stream_write(conn, event, sizeof(event));
        assert_true(r >= 0);
        uv_run(&world.loop, UV_RUN_NOWAIT);
    }
    assert_true(conn_out_pending_bytes(conn) > HTTP_OUT_BYTES_MAX);
    assert_true(conn_out_pending_bytes(conn) < HTTP_OUT_BYTES_MAX + 2048);
    assert_int_equal(world.drain_count, 0);
    client_read_start(&client);
    WAIT_FOR(&world, world.drain_count == 1);
    assert_true(conn_out_pending_bytes(conn) < HTTP_OUT_BYTES_MAX / 2);
    assert_int_equal(conn_stream_write(conn, event, sizeof(event)), 0);
    sent += sizeof(event);
    assert_int_equal(conn_stream_end(conn), 0);
    WAIT_FOR(&world, client_ends_with(&client, "\r\n0\r\n\r\n"));
    size_t events = 0;
    for (size_t i = 0; i < client.got.len; i++) events += client.got.bytes[i] == 'e';
    const char *body = strstr(buf_text(&client.got), "\r\n\r\n");
    for (const char *at = buf_text(&client.got); at < body; at++) events -= *at == 'e';
    assert_int_equal(events, sent);
    assert_int_equal(http_server_stats(world.server).held_bytes, 0);
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_cuts_a_stream_that_ignores_back_pressure(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open_small(&world, &client, 4096);
    client_send(&client, "GET /s HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    client_read_stop(&client);
    static char event[64 << 10];
    int r = conn_stream_start(world.held[0], "text/event-stream", NULL);
    while (r >= 0) {
        assert_true(http_server_stats(world.server).held_bytes <=
                    MIB(3)); // 1 MiB, as capacity of two buffers
        r = conn_stream_write(world.held[0], event, sizeof(event));
    }
    assert_int_equal(r, ERR_FULL);
    assert_int_equal(world.gone_count, 0); // not from inside the call
    WAIT_FOR(&world, world.gone_count == 1);
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_drops_a_reader_without_progress(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    conf.write_ms = 40;
    world_open(&world, &conf);
    client_open_small(&world, &client, 4096);
    client_send(&client, "GET /s HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    client_read_stop(&client);
    assert_int_equal(conn_stream_start(world.held[0], "text/event-stream", NULL), 0);
    static char event[16 << 10];
    while (conn_stream_write(world.held[0], event, sizeof(event)) == 0) continue;
    WAIT_FOR(&world, world.gone_count == 1);
    assert_int_equal(http_server_stats(world.server).timeouts, 1);
    client_close(&world, &client);

    client_open_small(&world, &client,
                      4096); // the same for a whole answer: no exchange any more, no on_close
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 2);
    client_read_stop(&client);
    char *body = calloc(1, MIB(16));
    assert_non_null(body);
    assert_int_equal(conn_respond(world.held[1], 200, "text/plain", NULL, body, MIB(16)), 0);
    free(body);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    assert_int_equal(http_server_stats(world.server).timeouts, 2);
    assert_int_equal(world.gone_count, 1);
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_deadlines_of_a_request(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    conf.head_ms = 30;
    conf.body_ms = 30;
    conf.idle_ms = 30;
    world_open(&world, &conf);

    client_open(&world, &client); // silent: closed without a word
    WAIT_FOR(&world, client.is_closed);
    assert_int_equal(client.got.len, 0);
    client_close(&world, &client);

    client_open(&world, &client); // half a head, and the time is not extended by more of it
    client_send(&client, "GET /now HTTP/1.1\r\nX: ");
    while (!client.is_closed) {
        (void)!send(client.fd, "a", 1, MSG_NOSIGNAL);
        uv_run(&world.loop, UV_RUN_ONCE);
        assert_false(world.is_late);
        if (client_has(&client, "408")) shutdown(client.fd, SHUT_WR);
    }
    assert_int_equal(strncmp(buf_text(&client.got), "HTTP/1.1 408 Request Timeout\r\n", 30), 0);
    client_close(&world, &client);

    client_open(&world, &client); // half a body
    client_send(&client, "POST /now HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nabc");
    WAIT_FOR(&world, client.is_closed);
    assert_int_equal(strncmp(buf_text(&client.got), "HTTP/1.1 408 Request Timeout\r\n", 30), 0);
    client_close(&world, &client);

    client_open(&world, &client); // idle after an answer: closed without a word
    client_send(&client, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, client.is_closed);
    assert_int_equal(client_count(&client, "HTTP/1.1"), 1);
    client_close(&world, &client);
    assert_int_equal(http_server_stats(world.server).timeouts, 3);
    world_close(&world);
}

/* Slow is not stuck: a body and a reader that go on are let alone. The test is busy, not asleep, for as
 * long as several windows last. */
static void test_conn_deadlines_spare_progress(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    conf.body_ms = 200;
    conf.body_window_bytes = 100;
    conf.write_ms = 400;
    world_open(&world, &conf);
    client_open_small(&world, &client, 4096);
    client_send(&client, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
    static char body[1000000];
    size_t sent = 0;
    uint64_t start_ms = uv_now(&world.loop);
    while (uv_now(&world.loop) - start_ms < 500 && sent + 50 < sizeof(body)) {
        client_send_bytes(&client, body + sent, 50);
        sent += 50;
        uv_run(&world.loop, UV_RUN_ONCE);
    }
    client_read_stop(&client);
    while (sent < sizeof(body)) {
        ssize_t r = send(client.fd, body + sent, sizeof(body) - sent, MSG_NOSIGNAL);
        if (r > 0) sent += (size_t)r;
        uv_run(&world.loop, UV_RUN_NOWAIT);
        assert_false(world.is_late);
    }
    WAIT_FOR(&world, world.held_count == 1);
    char *answer = calloc(1, MIB(64));
    assert_non_null(answer);
    assert_int_equal(conn_respond(world.held[0], 200, "text/plain", NULL, answer, MIB(64)), 0);
    free(answer);
    start_ms = uv_now(&world.loop);
    while (uv_now(&world.loop) - start_ms < 700) {
        (void)!read(client.fd, body, 4096);
        uv_run(&world.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(http_server_stats(world.server).timeouts, 0);
    assert_int_equal(http_server_stats(world.server).conns, 1);
    client_close(&world, &client);
    world_close(&world);
}

/* A client that ends its side when its answer is already on the way gets it whole. */
static void test_conn_sends_on_to_a_half_closed_client(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open_small(&world, &client, 4096);
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    client_read_stop(&client);
    char *answer = malloc(MIB(16));
    assert_non_null(answer);
    memset(answer, 'x', MIB(16));
    assert_int_equal(conn_respond(world.held[0], 200, "text/plain", NULL, answer, MIB(16)), 0);
    assert_true(http_server_stats(world.server).held_bytes > 0);
    shutdown(client.fd, SHUT_WR);
    for (int i = 0; i < 10; i++) uv_run(&world.loop, UV_RUN_NOWAIT); // it sees the end, in FLUSH
    client_read_start(&client);
    WAIT_FOR(&world, client.is_closed);
    const char *body = strstr(buf_text(&client.got), "\r\n\r\n");
    assert_non_null(body);
    assert_int_equal(client.got.len - (size_t)(body + 4 - buf_text(&client.got)), MIB(16));
    assert_memory_equal(body + 4, answer, MIB(16));
    assert_int_equal(world.gone_count, 0);
    free(answer);
    client_close(&world, &client);
    world_close(&world);
}

/* A pending answer has no deadline of the transport's: the model may take its time. */
static void test_conn_pending_has_no_deadline(void **state)
{
    (void)state;
    struct world world;
    struct client client, other;
    struct http_conf conf = conf_of_test();
    conf.head_ms = conf.body_ms = conf.idle_ms = conf.write_ms = conf.linger_ms = 5;
    world_open(&world, &conf);
    client_open(&world, &client);
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1);
    for (int i = 0; i < 5; i++) { // each runs into the head's deadline
        client_open(&world, &other);
        WAIT_FOR(&world, other.is_closed);
        client_close(&world, &other);
    }
    assert_int_equal(world.gone_count, 0);
    assert_int_equal(conn_respond(world.held[0], 200, NULL, NULL, "late", 4), 0);
    WAIT_FOR(&world, client_ends_with(&client, "late"));
    client_close(&world, &client);
    world_close(&world);
}

/* The client can read the answer although it was still sending: no reset in between. */
static void test_conn_lingers_after_a_refusal(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = conf_of_test();
    world_open(&world, &conf);
    client_open(&world, &client);
    static char body[256 << 10];
    client_send(&client, "POST /now HTTP/1.1\r\n" HOST "Content-Length: 99999999\r\n\r\n");
    for (int i = 0; i < 3; i++) {
        (void)!send(client.fd, body, sizeof(body), MSG_NOSIGNAL);
        uv_run(&world.loop, UV_RUN_NOWAIT);
    }
    WAIT_FOR(&world, client.is_closed);
    assert_false(client.is_reset);
    assert_true(client_has(&client, "HTTP/1.1 413 "));
    assert_true(client_has(&client, "\r\nConnection: close\r\n"));
    assert_true(client_ends_with(&client,
                                 "\r\n\r\n{\"error\":{\"message\":\"request body too large\",\"type\":"
                                 "\"invalid_request_error\",\"param\":null,\"code\":413}}"));
    client_close(&world, &client);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    assert_int_equal(http_server_stats(world.server).refusals, 1);

    client_open(&world, &client); // one that neither closes nor stops sending is bounded
    client_send(&client, "GET / HTTP/9.9\r\n\r\n");
    while (http_server_stats(world.server).conns || http_server_stats(world.server).conns_accepted < 2) {
        (void)!send(client.fd, body, sizeof(body), MSG_NOSIGNAL);
        uv_run(&world.loop, UV_RUN_ONCE);
        assert_false(world.is_late);
    }
    client_close(&world, &client);
    world_close(&world);
}

static void test_conn_bounds_memory_of_all(void **state)
{
    (void)state;
    struct world world;
    struct client clients[4];
    struct http_conf conf = conf_of_test();
    conf.held_bytes_max = MIB(1) + KIB(512);
    world_open(&world, &conf);
    char *body = calloc(1, KIB(600));
    assert_non_null(body);
    for (int i = 0; i < 3; i++) {
        client_open(&world, &clients[i]);
        client_send(&clients[i], "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 614400\r\n\r\n");
        for (size_t sent = 0; sent < KIB(600) && !clients[i].is_closed;) {
            ssize_t r = send(clients[i].fd, body, KIB(600) - sent, MSG_NOSIGNAL);
            if (r > 0) sent += (size_t)r;
            uv_run(&world.loop, UV_RUN_NOWAIT);
        }
    }
    WAIT_FOR(&world, clients[2].is_closed || clients[1].is_closed);
    assert_true(client_has(&clients[2], "HTTP/1.1 503 ") || client_has(&clients[1], "HTTP/1.1 503 "));
    assert_true(client_has(&clients[2], "\r\nRetry-After: 1\r\n") ||
                client_has(&clients[1], "\r\nRetry-After: 1\r\n"));
    for (int i = 0; i < 3; i++) client_close(&world, &clients[i]);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    assert_int_equal(http_server_stats(world.server).held_bytes, 0);
    free(body);
    world_close(&world);
}

static void test_conn_limit_answers_503(void **state)
{
    (void)state;
    enum { SERVED = 2, REFUSED = 64 };
    struct world world;
    static struct client clients[SERVED + REFUSED], last;
    struct http_conf conf = conf_of_test();
    conf.conns_max = SERVED;
    world_open(&world, &conf);
    for (int i = 0; i < SERVED + REFUSED; i++) client_open(&world, &clients[i]);
    WAIT_FOR(&world, http_server_stats(world.server).conns_refused == REFUSED);
    /* The refused ones linger until their clients close, so the next one waits unaccepted. */
    client_open(&world, &last);
    client_send(&last, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    for (int i = SERVED; i < SERVED + REFUSED; i++) {
        WAIT_FOR(&world, clients[i].is_closed);
        assert_int_equal(strncmp(buf_text(&clients[i].got), "HTTP/1.1 503 Service Unavailable\r\n", 34), 0);
    }
    assert_int_equal(http_server_stats(world.server).conns_accepted, SERVED + REFUSED);
    client_send(&clients[0], "GET /now HTTP/1.1\r\n" HOST "\r\n"); // the served are served
    WAIT_FOR(&world, client_has(&clients[0], "HTTP/1.1 200 OK"));
    client_close(&world, &clients[1]);
    WAIT_FOR(&world, http_server_stats(world.server).conns_accepted == SERVED + REFUSED + 1);
    for (int i = SERVED; i < SERVED + REFUSED; i++) client_close(&world, &clients[i]);
    WAIT_FOR(&world, last.is_closed); // refused too: at its accept there were still too many
    client_close(&world, &last);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 1);
    client_open(&world, &last);
    client_send(&last, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, client_has(&last, "HTTP/1.1 200 OK"));
    client_close(&world, &last);
    client_close(&world, &clients[0]);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conn_keeps_alive),
        cmocka_unit_test(test_conn_http_1_0),
        cmocka_unit_test(test_conn_answers_pipelined_requests_in_order),
        cmocka_unit_test(test_conn_many_pipelined_requests),
        cmocka_unit_test(test_conn_bounds_pipelined_bytes),
        cmocka_unit_test(test_conn_continues_when_asked),
        cmocka_unit_test(test_conn_reads_chunked_bodies_in_pieces),
        cmocka_unit_test(test_conn_streams_chunks),
        cmocka_unit_test(test_conn_head_of_a_stream_has_no_body),
        cmocka_unit_test(test_conn_notices_a_client_that_goes),
        cmocka_unit_test(test_conn_answered_requests_do_not_close),
        cmocka_unit_test(test_conn_back_pressure),
        cmocka_unit_test(test_conn_cuts_a_stream_that_ignores_back_pressure),
        cmocka_unit_test(test_conn_drops_a_reader_without_progress),
        cmocka_unit_test(test_conn_deadlines_of_a_request),
        cmocka_unit_test(test_conn_deadlines_spare_progress),
        cmocka_unit_test(test_conn_sends_on_to_a_half_closed_client),
        cmocka_unit_test(test_conn_pending_has_no_deadline),
        cmocka_unit_test(test_conn_lingers_after_a_refusal),
        cmocka_unit_test(test_conn_bounds_memory_of_all),
        cmocka_unit_test(test_conn_limit_answers_503),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

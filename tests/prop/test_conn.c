/* SPDX-License-Identifier: Apache-2.0 */
/* Random clients against an http_server: requests pipelined and cut anywhere, answers given late, whole or
 * streamed, clients that stop reading, close or reset at any time. After every run: each client that
 * stayed got exactly its answers in order, each request was answered or told to on_close, and the server
 * holds nothing. Prints its seed; KVASIR_SEED reruns one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "common/base/rng.h"
#include "tests/unit/http_world.h"

enum { FILL = '#' }; // of every body; in no header and no framing of ours
enum { RUNS = 60, CLIENTS = 6, STEPS = 400, SCRIPT_REQUESTS_MAX = 12 };

/* One client, its script of requests, and how far it is. */
struct actor {
    struct client client;
    struct buf script;
    size_t sent;
    int requests, first_id;
    size_t body_bytes; // of all its answers
    bool is_open, is_reading;
};

struct play {
    struct world world;
    struct rng rng;
    struct actor actors[CLIENTS];
    int next_id;
    uint64_t answered;
    bool started[HELD_MAX]; // stream begun, by index of world.held
};

/* Bytes of the answer to a held request: known to the script, which has the id. */
static size_t answer_bytes(int id)
{
    return (size_t)(id * 37 % 3000);
}

static void write_request(struct play *play, struct actor *actor)
{
    int id = play->next_id++;
    char body[512];
    size_t len = rng_below(&play->rng, sizeof(body));
    memset(body, FILL, sizeof(body));
    struct buf *script = &actor->script;
    bool now = rng_below(&play->rng, 2);
    buf_printf(script, "POST /%s HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n", now ? "now" : "later", id);
    actor->body_bytes += now ? len : answer_bytes(id);
    if (rng_below(&play->rng, 2)) {
        buf_printf(script, "Content-Length: %zu\r\n\r\n", len);
        buf_append(script, body, len);
        return;
    }
    buf_puts(script, "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < len;) {
        size_t chunk = 1 + rng_below(&play->rng, len - at);
        buf_printf(script, "%zx\r\n", chunk);
        buf_append(script, body, chunk);
        buf_puts(script, "\r\n");
        at += chunk;
    }
    buf_puts(script, "0\r\n\r\n");
}

static void actor_open(struct play *play, struct actor *actor)
{
    *actor = (struct actor){.is_open = true, .is_reading = true, .first_id = play->next_id};
    client_open_small(&play->world, &actor->client, rng_below(&play->rng, 2) ? 4096 : 0);
    buf_init(&actor->script, MIB(1));
    actor->requests = 1 + (int)rng_below(&play->rng, SCRIPT_REQUESTS_MAX);
    for (int i = 0; i < actor->requests; i++) write_request(play, actor);
    assert_int_equal(actor->script.error, 0);
}

static void actor_send(struct play *play, struct actor *actor)
{
    size_t left = actor->script.len - actor->sent;
    size_t len = rng_below(&play->rng, 4) ? 1 + rng_below(&play->rng, 200) : left;
    if (len > left) len = left;
    ssize_t r = len ? send(actor->client.fd, actor->script.bytes + actor->sent, len, MSG_NOSIGNAL) : 0;
    if (r > 0) actor->sent += (size_t)r;
}

static void actor_leave(struct play *play, struct actor *actor)
{
    if (rng_below(&play->rng, 2)) client_reset(&play->world, &actor->client);
    else client_close(&play->world, &actor->client);
    buf_done(&actor->script);
    actor->is_open = false;
}

/* Answers one held request that is still there, whole or one more piece of its stream. Gone ones were nulled
 * by on_gone. */
static void answer_one(struct play *play, bool to_the_end)
{
    static char body[4096];
    memset(body, FILL, sizeof(body));
    struct world *world = &play->world;
    if (world->held_count == 0) return;
    int k = (int)rng_below(&play->rng, (uint64_t)world->held_count);
    struct conn *conn = world->held[k];
    if (!conn) return;
    size_t len = answer_bytes(atoi(conn_request(conn)->request_id));
    if (!play->started[k] && rng_below(&play->rng, 2)) {
        (void)conn_respond(conn, 200, "text/plain", NULL, body, len); // a client that has gone is a case too
    } else {
        if (!play->started[k]) (void)conn_stream_start(conn, "text/event-stream", NULL);
        if (!play->started[k]) (void)conn_stream_write(conn, body, len); // as above
        play->started[k] = true;
        if (!to_the_end && rng_below(&play->rng, 2)) return;
        (void)conn_stream_end(conn);
    }
    world->held[k] = NULL;
    play->answered++;
}

static void on_request(struct conn *conn, const struct http_request *request, void *user)
{
    struct play *play = user;
    if (strcmp(request->path, "/now") == 0) play->answered++;
    if (play->world.held_count == HELD_MAX) { // reuse the places of those that are over
        int kept = 0;
        for (int i = 0; i < HELD_MAX; i++) {
            if (!play->world.held[i]) continue;
            play->started[kept] = play->started[i];
            play->world.held[kept++] = play->world.held[i];
        }
        play->world.held_count = kept;
    }
    int before = play->world.held_count;
    world_on_request(conn, request, &play->world);
    if (play->world.held_count > before) play->started[before] = false;
}

static void on_gone(struct conn *conn, void *user)
{
    struct play *play = user;
    world_on_close(conn, &play->world);
    for (int i = 0; i < play->world.held_count; i++)
        if (play->world.held[i] == conn) play->world.held[i] = NULL;
}

static void on_drain(struct conn *conn, void *user)
{
    world_on_drain(conn, &((struct play *)user)->world);
}

static bool is_answered(const struct actor *actor)
{
    size_t fill = 0;
    for (size_t i = 0; i < actor->client.got.len; i++) fill += actor->client.got.bytes[i] == FILL;
    assert_true(fill <= actor->body_bytes);
    return fill == actor->body_bytes &&
           client_count(&actor->client, "HTTP/1.1 200 OK\r\n") == actor->requests;
}

static void check_answers(const struct actor *actor)
{
    const char *at = buf_text(&actor->client.got);
    for (int i = 0; i < actor->requests; i++) {
        at = strstr(at, "X-Request-Id: ");
        assert_non_null(at);
        at += strlen("X-Request-Id: ");
        assert_int_equal(atoi(at), actor->first_id + i);
    }
    assert_null(strstr(at, "X-Request-Id: "));
}

static void run(uint64_t seed)
{
    static struct play play;
    static const struct http_handler handler = {on_request, on_gone, on_drain, NULL};
    struct http_conf conf = http_conf_default();
    play = (struct play){.rng = {seed}};
    world_open(&play.world, &conf);
    http_server_stop(play.world.server); // this play has a handler of its own
    WAIT_FOR(&play.world, http_server_is_stopped(play.world.server));
    http_server_free(play.world.server);
    assert_int_equal(http_server_new(&play.world.loop, &conf, &handler, &play, &play.world.server, NULL), 0);
    assert_int_equal(listen_tcp(play.world.server, "127.0.0.1", 0, &play.world.port, NULL), 0);
    for (int step = 0; step < STEPS; step++) {
        struct actor *actor = &play.actors[rng_below(&play.rng, CLIENTS)];
        uint64_t what = rng_below(&play.rng, 100);
        if (!actor->is_open) actor_open(&play, actor);
        else if (what < 50) actor_send(&play, actor);
        else if (what < 85) answer_one(&play, false);
        else if (what < 88) actor_leave(&play, actor);
        else if (what < 92) {
            if (actor->is_reading) client_read_stop(&actor->client);
            else client_read_start(&actor->client);
            actor->is_reading = !actor->is_reading;
        }
        if (rng_below(&play.rng, 3)) uv_run(&play.world.loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < CLIENTS; i++) {
        struct actor *actor = &play.actors[i];
        if (!actor->is_open) continue;
        if (!actor->is_reading) client_read_start(&actor->client);
        while (!is_answered(actor)) {
            actor_send(&play, actor);
            answer_one(&play, true);
            uv_run(&play.world.loop, UV_RUN_NOWAIT);
            if (play.world.is_late) fail_msg("a client waits for its answers");
            if (actor->client.is_closed) fail_msg("a client was cut off");
        }
        check_answers(actor);
        actor_leave(&play, actor);
    }
    WAIT_FOR(&play.world, http_server_stats(play.world.server).conns == 0);
    struct http_stats stats = http_server_stats(play.world.server);
    assert_int_equal(stats.held_bytes, 0);
    assert_int_equal(stats.requests, play.answered + (uint64_t)play.world.gone_count); // conservation
    assert_int_equal(stats.refusals, 0);
    assert_int_equal(stats.timeouts, 0);
    world_close(&play.world);
}

static void test_conn_random_clients(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
    for (int i = 0; i < (text ? 1 : RUNS); i++, seed++) {
        print_message("KVASIR_SEED=%llu\n", (unsigned long long)seed);
        run(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conn_random_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

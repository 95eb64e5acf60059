/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of daemon/listen and of what an http_server costs and how it goes down: unix sockets, inherited
 * descriptors, draining, no timer without need, ten thousand idle connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/http_world.h"

#define HOST "Host: a\r\n"
#define GET_NOW "GET /now HTTP/1.1\r\n" HOST "\r\n"

static char folder[64];

struct path {
    char text[100];
};

static struct path path_in_folder(const char *name)
{
    struct path path;
    snprintf(path.text, sizeof(path.text), "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%.40s/kvasir-XXXXXX", root ? root : P_tmpdir);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder); // fails when a test left a file
}

static void test_listen_unix_serves(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct stat st;
    struct err err = {0};
    struct http_conf conf = http_conf_default();
    struct path path = path_in_folder("s");
    world_open(&world, &conf);
    mode_t before = umask(0);
    assert_int_equal(listen_unix(world.server, path.text, &err), 0);
    umask(before);
    assert_int_equal(stat(path.text, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0660);
    client_open_unix(&world, &client, path.text);
    client_send(&client, GET_NOW "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 1 && client_has(&client, "HTTP/1.1 200 OK\r\n"));
    assert_true(conn_is_unix(world.held[0]));
    uid_t uid = (uid_t)-1;
    assert_int_equal(conn_peer_uid(world.held[0], &uid), 0);
    assert_int_equal(uid, getuid());
    client_close(&world, &client);
    WAIT_FOR(&world, world.gone_count == 1);

    client_open(&world, &client); // TCP at the same time
    client_send(&client, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 2);
    assert_false(conn_is_unix(world.held[1]));
    assert_int_equal(conn_peer_uid(world.held[1], &uid), -ENOTSUP);
    client_close(&world, &client);
    world_close(&world);
    assert_int_equal(stat(path.text, &st), -1); // removed with its listener
}

static void test_listen_unix_takes_over_only_what_is_dead(void **state)
{
    (void)state;
    struct world world, other;
    struct stat st;
    struct err err = {0};
    struct http_conf conf = http_conf_default();
    struct path path = path_in_folder("s");
    world_open(&world, &conf);
    world_open(&other, &conf);
    assert_int_equal(listen_unix(world.server, path.text, &err), 0);
    assert_int_equal(listen_unix(other.server, path.text, &err), ERR_BUSY); // somebody listens
    assert_int_equal(stat(path.text, &st), 0);

    struct sockaddr_un address = {.sun_family = AF_UNIX}; // a socket file whose owner died
    struct path stale = path_in_folder("t");
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", stale.text);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_int_equal(listen_unix(other.server, stale.text, &err), 0);

    assert_int_equal(unlink(stale.text), 0); // replaced by a stranger's file: not ours to remove
    fd = open(stale.text, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    world_close(&other);
    assert_int_equal(stat(stale.text, &st), 0);
    assert_int_equal(listen_unix(world.server, stale.text, &err), ERR_CONFIG); // no socket
    assert_int_equal(unlink(stale.text), 0);

    char *long_path = calloc(1, 200);
    memset(long_path, 'x', 199);
    assert_int_equal(listen_unix(world.server, long_path, &err), ERR_CONFIG);
    assert_int_equal(listen_unix(world.server, "", &err), ERR_CONFIG);
    free(long_path);
    world_close(&world);
}

static void test_listen_tcp_errors_say_what(void **state)
{
    (void)state;
    struct world world;
    struct err err = {0};
    struct http_conf conf = http_conf_default();
    world_open(&world, &conf);
    assert_int_equal(listen_tcp(world.server, "127.0.0.1", world.port, NULL, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "127.0.0.1"));
    assert_int_equal(listen_tcp(world.server, "not an address", 0, NULL, &err), ERR_CONFIG);
    world_close(&world);
}

static void test_listen_adopts_descriptors(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct err err = {0};
    struct http_conf conf = http_conf_default();
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    world_open(&world, &conf);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(listen_adopt(world.server, fd, &err), 0);
    world.port = ntohs(address.sin_port);
    client_open(&world, &client);
    client_send(&client, GET_NOW);
    WAIT_FOR(&world, client_has(&client, "HTTP/1.1 200 OK\r\n"));
    client_close(&world, &client);

    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(listen_adopt(world.server, pair[0], &err), ERR_CONFIG); // it does not listen
    assert_int_equal(fcntl(pair[0], F_GETFD), -1);                           // and is closed
    close(pair[1]);
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(listen_adopt(world.server, file, &err), -ENOTSOCK);
    world_close(&world);
}

static bool is_local(const char *host, const char *want_text)
{
    char text[INET6_ADDRSTRLEN];
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    bool is_v6 = inet_pton(AF_INET6, host, &v6.sin6_addr) == 1;
    if (!is_v6) assert_int_equal(inet_pton(AF_INET, host, &v4.sin_addr), 1);
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = bind(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, is_v6 ? sizeof v6 : sizeof v4);
    bool local = listen_is_local(fd, text);
    close(fd);
    if (r < 0) skip(); // no such address here
    assert_string_equal(text, want_text);
    return local;
}

static void test_listen_knows_what_others_can_reach(void **state)
{
    (void)state;
    char text[INET6_ADDRSTRLEN];
    int pair[2], file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(listen_is_local(pair[0], text));
    assert_string_equal(text, "");
    assert_false(listen_is_local(file, text)); // cannot be told
    close(pair[0]);
    close(pair[1]);
    close(file);
    assert_true(is_local("127.0.0.1", "127.0.0.1"));
    assert_true(is_local("127.1.2.3", "127.1.2.3"));
    assert_false(is_local("0.0.0.0", "0.0.0.0"));
    assert_true(is_local("::1", "::1")); // from here on IPv6 is needed
    assert_false(is_local("::", "::"));
}

static void test_http_server_drains(void **state)
{
    (void)state;
    struct world world;
    struct client idle, fresh, busy, streaming;
    struct http_conf conf = http_conf_default();
    world_open(&world, &conf);
    client_open(&world, &idle);
    client_send(&idle, GET_NOW);
    client_open(&world, &fresh); // has sent nothing yet
    client_open(&world, &busy);
    client_open(&world, &streaming);
    client_send(&busy, "GET /busy HTTP/1.1\r\n" HOST "\r\n" GET_NOW); // the pipelined one is dropped
    WAIT_FOR(&world, world.held_count == 1);
    client_send(&streaming, "GET /s HTTP/1.1\r\n" HOST "\r\n");
    WAIT_FOR(&world, world.held_count == 2 && idle.got.len);
    assert_int_equal(conn_stream_start(world.held[1], "text/event-stream", NULL), 0);
    http_server_drain(world.server);
    WAIT_FOR(&world, idle.is_closed && fresh.is_closed);
    assert_int_equal(world.drained_count, 0);
    assert_int_equal(conn_respond(world.held[0], 200, "text/plain", NULL, "ok", 2), 0);
    WAIT_FOR(&world, busy.is_closed);
    assert_true(client_has(&busy, "\r\nConnection: close\r\n"));
    assert_true(client_ends_with(&busy, "\r\n\r\nok"));
    assert_int_equal(conn_stream_write(world.held[1], "x", 1), 0);
    assert_int_equal(conn_stream_end(world.held[1]), 0);
    WAIT_FOR(&world, streaming.is_closed);
    assert_true(client_ends_with(&streaming, "1\r\nx\r\n0\r\n\r\n"));
    client_close(&world, &idle);
    client_close(&world, &fresh);
    client_close(&world, &busy);
    client_close(&world, &streaming);
    WAIT_FOR(&world, world.drained_count == 1);
    assert_int_equal(world.gone_count, 0);
    world_close(&world);

    world_open(&world, &conf); // with nobody there: told too, from the loop
    http_server_drain(world.server);
    assert_int_equal(world.drained_count, 0);
    WAIT_FOR(&world, world.drained_count == 1);
    world_close(&world);
    assert_int_equal(world.drained_count, 1);
}

static void test_http_server_stop_tells_pending_requests(void **state)
{
    (void)state;
    struct world world;
    struct client clients[3];
    struct http_conf conf = http_conf_default();
    world_open(&world, &conf);
    for (int i = 0; i < 3; i++) client_open(&world, &clients[i]);
    client_send(&clients[0], "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    client_send(&clients[1], GET_NOW);
    client_send(&clients[2], "GET /half HTTP/1.1\r\n");
    WAIT_FOR(&world, world.held_count == 1 && clients[1].got.len);
    http_server_stop(world.server);
    WAIT_FOR(&world, http_server_is_stopped(world.server));
    assert_int_equal(world.gone_count, 1);
    for (int i = 0; i < 3; i++) client_close(&world, &clients[i]);
    world_close(&world);
}

static void test_http_server_refuses_a_bad_conf(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct http_server *server = NULL;
    const struct http_handler handler = {world_on_request, world_on_close, world_on_drain, NULL};
    assert_int_equal(uv_loop_init(&loop), 0);
    struct http_conf conf = http_conf_default();
    conf.idle_ms = 0;
    assert_int_equal(http_server_new(&loop, &conf, &handler, NULL, &server, NULL), ERR_CONFIG);
    conf = http_conf_default();
    conf.conns_max = 0;
    assert_int_equal(http_server_new(&loop, &conf, &handler, NULL, &server, NULL), ERR_CONFIG);
    conf = http_conf_default();
    conf.held_bytes_max = conf.body_bytes_max - 1;
    assert_int_equal(http_server_new(&loop, &conf, &handler, NULL, &server, NULL), ERR_CONFIG);
    assert_null(server);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* Out of descriptors: clients are shed, the loop does not spin, and service goes on afterwards. */
static void test_listen_survives_want_of_descriptors(void **state)
{
    (void)state;
    struct world world;
    struct client clients[3], served;
    struct rlimit limit, none;
    struct http_conf conf = http_conf_default();
    world_open(&world, &conf);
    uv_run(&world.loop, UV_RUN_NOWAIT); // the loop has its own descriptors now
    for (int i = 0; i < 3; i++) client_open(&world, &clients[i]);
    int lowest = dup(STDIN_FILENO); // all below it are in use
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    WAIT_FOR(&world, clients[0].is_closed && clients[1].is_closed && clients[2].is_closed);
    uv_run(&world.loop, UV_RUN_NOWAIT);
    assert_true(uv_backend_timeout(&world.loop) != 0); // nothing is left to do
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(http_server_stats(world.server).conns_accepted, 0);
    client_open(&world, &served);
    client_send(&served, GET_NOW);
    WAIT_FOR(&world, client_has(&served, "HTTP/1.1 200 OK\r\n"));
    client_close(&world, &served);
    for (int i = 0; i < 3; i++) client_close(&world, &clients[i]);
    world_close(&world);
}

/* ---- cost of idle connections ---- */

/* Raises the limit of descriptors; gives what is possible. */
static unsigned raise_descriptors(unsigned wanted)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        (void)setrlimit(RLIMIT_NOFILE, &limit); // what we got is read back
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    }
    return (unsigned)limit.rlim_cur;
}

/* Child: opens `count` connections, has one request answered on each, then idles until gate closes. */
static void hold_connections(uint16_t port, unsigned count, int gate)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (unsigned i = 0; i < count; i++) {
        char answer[512];
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct linger hard = {.l_onoff = 1, .l_linger = 0}; // leave no TIME_WAIT behind
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) _exit(1);
        if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)) < 0) _exit(2);
        if (send(fd, GET_NOW, strlen(GET_NOW), MSG_NOSIGNAL) < 0 || recv(fd, answer, sizeof(answer), 0) <= 0)
            _exit(3);
    }
    char byte;
    (void)!read(gate, &byte, 1);
    _exit(0);
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void test_http_server_idle_connections_are_small(void **state)
{
    (void)state;
    unsigned count = raise_descriptors(10100) - 100;
    if (count > 10000) count = 10000;
    struct world world;
    struct http_conf conf = http_conf_default();
    conf.conns_max = count + 1;
    world_open(&world, &conf);
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(gate[1]);
        hold_connections(world.port, count, gate[0]);
    }
    close(gate[0]);
    struct mallinfo2 before = mallinfo2();
    long before_kib = resident_kib();
    WAIT_FOR(&world, http_server_stats(world.server).requests == count);
    struct mallinfo2 after = mallinfo2();
    assert_int_equal(http_server_stats(world.server).conns, count);
    assert_int_equal(http_server_stats(world.server).held_bytes, 0);
    double bytes = ((double)after.uordblks - (double)before.uordblks) / count;
    print_message("%u idle connections: %.0f heap bytes each, %ld KiB more resident\n", count, bytes,
                  resident_kib() - before_kib);
    assert_true(bytes <= 1024);
    close(gate[1]);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    world_close(&world);
}

/* The loop sleeps in the kernel: no timer without a connection, and for idle ones the first deadline only. */
static void test_http_server_sleeps_when_idle(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct http_conf conf = http_conf_default();
    conf.head_ms = 20;
    world_open(&world, &conf);
    uv_timer_stop(&world.fail_safe);
    uv_run(&world.loop, UV_RUN_NOWAIT);
    assert_int_equal(uv_backend_timeout(&world.loop), -1); // for ever
    client_open(&world, &client);
    client_send(&client, GET_NOW);
    WAIT_FOR(&world, client.got.len);
    while (uv_backend_timeout(&world.loop) <= 1000)
        uv_run(&world.loop, UV_RUN_ONCE); // the head's is over soon
    assert_true(uv_backend_timeout(&world.loop) <= 75 * 1000);
    client_close(&world, &client);
    WAIT_FOR(&world, http_server_stats(world.server).conns == 0);
    while (uv_backend_timeout(&world.loop) == 0)
        uv_run(&world.loop, UV_RUN_NOWAIT); // closed handles are handed back
    assert_int_equal(uv_backend_timeout(&world.loop), -1);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listen_unix_serves),
        cmocka_unit_test(test_listen_unix_takes_over_only_what_is_dead),
        cmocka_unit_test(test_listen_tcp_errors_say_what),
        cmocka_unit_test(test_listen_adopts_descriptors),
        cmocka_unit_test(test_listen_knows_what_others_can_reach),
        cmocka_unit_test(test_listen_survives_want_of_descriptors),
        cmocka_unit_test(test_http_server_drains),
        cmocka_unit_test(test_http_server_stop_tells_pending_requests),
        cmocka_unit_test(test_http_server_refuses_a_bad_conf),
        cmocka_unit_test(test_http_server_idle_connections_are_small),
        cmocka_unit_test(test_http_server_sleeps_when_idle),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

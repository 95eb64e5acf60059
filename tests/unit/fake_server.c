/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // memmem, strcasestr, accept4
#endif
#include "tests/unit/fake_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 256, REQUEST_BYTES_MAX = 1 << 20, URL_BYTES = 64 };

struct connection {
    struct fake_server *server;
    int fd; // -1 once closed, which its thread does under the server's lock
    pthread_t thread;
};

struct fake_server {
    const struct fake_step *steps;
    const struct fake_route *routes;
    int listen_fd;
    char url[URL_BYTES];
    char folder[32], path[64]; // "" for TCP
    pthread_t thread;

    pthread_mutex_t lock; // guards all below
    pthread_cond_t changed;
    bool is_stopped, is_released;
    unsigned reached_count, request_count;
    char *last_request; // owned
    struct connection connections[CONNECTIONS_MAX];
    unsigned connection_count;
};

static void must(bool condition, const char *what)
{
    if (condition) return;
    perror(what);
    abort();
}

/* One request in memory: head, blank line, and as much body as its Content-Length says. */
struct request {
    char *bytes; // (REQUEST_BYTES_MAX + 1); owned
    size_t len;
};

static size_t request_bytes(const char *text, size_t len)
{
    const char *head_end = memmem(text, len, "\r\n\r\n", 4);
    if (head_end == NULL) return SIZE_MAX;
    size_t head_bytes = (size_t)(head_end - text) + 4;
    const char *length = strcasestr(text, "content-length:");
    if (length == NULL || length > head_end) return head_bytes;
    return head_bytes + strtoul(length + strlen("content-length:"), NULL, 10);
}

static bool read_request(struct connection *c, struct request *request)
{
    request->len = 0;
    while (request->len < request_bytes(request->bytes, request->len)) {
        must(request->len < REQUEST_BYTES_MAX, "a request past the fake server's bound");
        ssize_t n = recv(c->fd, request->bytes + request->len, REQUEST_BYTES_MAX - request->len, 0);
        if (n <= 0) return false;
        request->len += (size_t)n;
        request->bytes[request->len] = '\0';
    }
    pthread_mutex_lock(&c->server->lock);
    free(c->server->last_request);
    c->server->last_request = strdup(request->bytes);
    c->server->request_count++;
    pthread_mutex_unlock(&c->server->lock);
    return true;
}

static bool send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static void reach(struct fake_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->reached_count++;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

static bool stall(struct fake_server *server)
{
    reach(server);
    pthread_mutex_lock(&server->lock);
    while (!server->is_released && !server->is_stopped) pthread_cond_wait(&server->changed, &server->lock);
    bool go_on = !server->is_stopped;
    pthread_mutex_unlock(&server->lock);
    return go_on;
}

static bool route(struct connection *c, const struct request *request)
{
    const char *path = strchr(request->bytes, ' ');
    must(path != NULL, "a request without a path");
    path++;
    for (const struct fake_route *r = c->server->routes; r != NULL && r->path != NULL; r++) {
        size_t len = strlen(r->path);
        if (strncmp(path, r->path, len) == 0 && path[len] == ' ')
            return send_all(c->fd, r->reply, strlen(r->reply));
    }
    static const char NOT_FOUND[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    return send_all(c->fd, NOT_FOUND, sizeof(NOT_FOUND) - 1);
}

static bool run_step(struct connection *c, const struct fake_step *step, struct request *request)
{
    size_t len = step->text_bytes > 0 || step->text == NULL ? step->text_bytes : strlen(step->text);
    switch (step->kind) {
    case FAKE_READ: return read_request(c, request);
    case FAKE_SEND: return send_all(c->fd, step->text, len);
    case FAKE_SEND_BYTES:
        for (size_t i = 0; i < len; i++)
            if (!send_all(c->fd, step->text + i, 1)) return false;
        return true;
    case FAKE_SEND_FOREVER:
        while (send_all(c->fd, step->text, len)) continue;
        reach(c->server);
        return false;
    case FAKE_STALL: return stall(c->server);
    case FAKE_AWAIT_CLOSE: {
        char byte;
        while (recv(c->fd, &byte, 1, 0) > 0) continue;
        reach(c->server);
        return false;
    }
    case FAKE_RESET: {
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        must(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0, "SO_LINGER");
        return false;
    }
    case FAKE_ROUTE: return route(c, request);
    case FAKE_END:
    case FAKE_AGAIN: break;
    }
    return false;
}

static void *serve(void *user)
{
    struct connection *c = user;
    struct request request = {.bytes = calloc(1, REQUEST_BYTES_MAX + 1)};
    must(request.bytes != NULL, "memory");
    const struct fake_step *step = c->server->steps;
    while (step->kind != FAKE_END && (step->kind == FAKE_AGAIN || run_step(c, step, &request)))
        step = step->kind == FAKE_AGAIN ? c->server->steps : step + 1;
    free(request.bytes);
    pthread_mutex_lock(&c->server->lock);
    close(c->fd);
    c->fd = -1;
    pthread_mutex_unlock(&c->server->lock);
    return NULL;
}

static void *accept_all(void *user)
{
    struct fake_server *server = user;
    for (;;) {
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        pthread_mutex_lock(&server->lock);
        if (server->is_stopped || fd < 0) {
            pthread_mutex_unlock(&server->lock);
            if (fd >= 0) close(fd);
            return NULL;
        }
        int one = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); // not for a unix socket; no matter
        must(server->connection_count < CONNECTIONS_MAX, "connections past the fake server's bound");
        struct connection *c = &server->connections[server->connection_count++];
        *c = (struct connection){.server = server, .fd = fd};
        must(pthread_create(&c->thread, NULL, serve, c) == 0, "pthread_create");
        pthread_mutex_unlock(&server->lock);
    }
}

static struct fake_server *server_new(const struct fake_step *steps, const struct fake_route *routes,
                                      int family)
{
    struct fake_server *server = calloc(1, sizeof(*server));
    must(server != NULL, "memory");
    server->steps = steps;
    server->routes = routes;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    server->listen_fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(server->listen_fd >= 0, "socket");
    return server;
}

static struct fake_server *server_run(struct fake_server *server)
{
    must(listen(server->listen_fd, 128) == 0, "listen");
    must(pthread_create(&server->thread, NULL, accept_all, server) == 0, "pthread_create");
    return server;
}

struct fake_server *fake_server_start(const struct fake_step *steps, const struct fake_route *routes)
{
    struct fake_server *server = server_new(steps, routes, AF_INET);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    must(bind(server->listen_fd, (struct sockaddr *)&address, len) == 0, "bind");
    must(getsockname(server->listen_fd, (struct sockaddr *)&address, &len) == 0, "getsockname");
    (void)snprintf(server->url, sizeof(server->url), "http://127.0.0.1:%d", ntohs(address.sin_port)); // fits
    return server_run(server);
}

struct fake_server *fake_server_start_unix(const struct fake_step *steps, const struct fake_route *routes)
{
    struct fake_server *server = server_new(steps, routes, AF_UNIX);
    (void)snprintf(server->folder, sizeof(server->folder), P_tmpdir "/kvasir-test-XXXXXX"); // fits
    must(mkdtemp(server->folder) != NULL, "mkdtemp");
    (void)snprintf(server->path, sizeof(server->path), "%s/socket", server->folder); // fits
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, server->path, strlen(server->path) + 1);
    must(bind(server->listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0, "bind");
    return server_run(server);
}

void fake_server_stop(struct fake_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->is_stopped = true;
    pthread_cond_broadcast(&server->changed);
    (void)shutdown(server->listen_fd, SHUT_RDWR); // wakes accept
    for (unsigned i = 0; i < server->connection_count; i++)
        if (server->connections[i].fd >= 0)
            (void)shutdown(server->connections[i].fd, SHUT_RDWR); // wakes recv, send
    pthread_mutex_unlock(&server->lock);
    pthread_join(server->thread, NULL);
    for (unsigned i = 0; i < server->connection_count; i++) pthread_join(server->connections[i].thread, NULL);
    close(server->listen_fd);
    if (server->path[0] != '\0') {
        unlink(server->path);
        rmdir(server->folder);
    }
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server->last_request);
    free(server);
}

const char *fake_server_url(const struct fake_server *server)
{
    return server->url;
}

const char *fake_server_path(const struct fake_server *server)
{
    return server->path;
}

void fake_server_await(struct fake_server *server, unsigned reached_count)
{
    pthread_mutex_lock(&server->lock);
    while (server->reached_count < reached_count) pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
}

void fake_server_release(struct fake_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->is_released = true;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

unsigned fake_server_connections(struct fake_server *server)
{
    pthread_mutex_lock(&server->lock);
    unsigned count = server->connection_count;
    pthread_mutex_unlock(&server->lock);
    return count;
}

unsigned fake_server_requests(struct fake_server *server)
{
    pthread_mutex_lock(&server->lock);
    unsigned count = server->request_count;
    pthread_mutex_unlock(&server->lock);
    return count;
}

bool fake_server_saw(struct fake_server *server, const char *text)
{
    pthread_mutex_lock(&server->lock);
    bool saw = server->last_request != NULL && strstr(server->last_request, text) != NULL;
    pthread_mutex_unlock(&server->lock);
    return saw;
}

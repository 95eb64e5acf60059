/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/check.h"
#include "daemon/conf.h"
#include "daemon/conn_state.h"

enum { BACKLOG = 1024, UNIX_MODE = 0660 };

static void on_listener_closed(uv_handle_t *handle)
{
    struct listener *listener = handle->data;
    struct http_server *server = listener->server;
    struct listener **at = &server->listeners;
    while (*at != listener) at = &(*at)->next;
    *at = listener->next;
    free(listener->path);
    free(listener);
    server_handle_closed(server);
}

/* Removes the socket file if it is still the one we made. */
static void remove_file(const struct listener *listener)
{
    struct stat st;
    if (!listener->path || lstat(listener->path, &st) < 0) return;
    if (st.st_dev != listener->path_dev || st.st_ino != listener->path_ino) return;
    (void)unlink(listener->path); // nothing would be done about a failure
}

static void listener_close(struct listener *listener)
{
    if (listener->is_closing) return;
    listener->is_closing = true;
    remove_file(listener);
    uv_close(&listener->uv.handle, on_listener_closed);
}

void listen_close_all(struct http_server *server)
{
    for (struct listener *listener = server->listeners; listener; listener = listener->next)
        listener_close(listener);
}

static bool is_over_limit(const struct http_server *server)
{
    return server->stats.conns >= server->conf.conns_max + CONNS_OVER_MAX;
}

/* Not accepting is the brake: libuv polls a listener no more until its connection is accepted. */
static void on_connection(uv_stream_t *stream, int status)
{
    struct listener *listener = stream->data;
    if (status < 0) return; // the connection is gone already, or libuv has shed it for want of descriptors
    if (is_over_limit(listener->server)) listener->has_waiting = true;
    else (void)conn_open(listener->server, listener); // on failure that client is dropped; the rest go on
}

void listen_accept_waiting(struct http_server *server)
{
    for (struct listener *listener = server->listeners; listener; listener = listener->next) {
        if (!listener->has_waiting || listener->is_closing || is_over_limit(server)) continue;
        listener->has_waiting = false;
        (void)conn_open(server, listener); // as above
    }
}

/* A listener in the server's list with an initialized handle. listener_close undoes it. */
static int listener_new(struct http_server *server, bool is_unix, struct listener **ret_listener,
                        struct err *err)
{
    if (server->is_draining || server->is_stopping)
        return ERR(err, -EINVAL, "http: the server is going down");
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener) return ERR(err, -ENOMEM, "http: no memory for a listener");
    listener->server = server;
    listener->is_unix = is_unix;
    int r = is_unix ? uv_pipe_init(server->loop, &listener->uv.pipe, 0)
                    : uv_tcp_init(server->loop, &listener->uv.tcp);
    CHECK(r == 0); // neither opens anything yet
    listener->uv.handle.data = listener;
    listener->next = server->listeners;
    server->listeners = listener;
    server->handles++;
    *ret_listener = listener;
    return 0;
}

static int resolve(const char *host, uint16_t port, struct sockaddr_storage *ret_address, struct err *err)
{
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    (void)snprintf(service, sizeof(service), "%u", port); // fits
    int r = getaddrinfo(host, service, &hints, &list);
    if (r != 0) return ERR(err, ERR_CONFIG, "cannot resolve %s: %s", host, gai_strerror(r));
    memcpy(ret_address, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    return 0;
}

int listen_tcp(struct http_server *server, const char *host, uint16_t port, uint16_t *ret_port,
               struct err *err)
{
    struct sockaddr_storage address = {0};
    struct listener *listener = NULL;
    int r = resolve(host, port, &address, err);
    if (r < 0) return r;
    r = listener_new(server, false, &listener, err);
    if (r < 0) return r;
    CHECK(listener);
    r = uv_tcp_bind(&listener->uv.tcp, (struct sockaddr *)&address, 0);
    if (r == 0) r = uv_listen(&listener->uv.stream, BACKLOG, on_connection);
    int len = sizeof(address);
    if (r == 0) r = uv_tcp_getsockname(&listener->uv.tcp, (struct sockaddr *)&address, &len);
    if (r < 0) {
        listener_close(listener);
        return err_sys(err, -r, "cannot listen on %s port %u", host, port);
    }
    in_port_t bound = address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                    : ((struct sockaddr_in *)&address)->sin_port;
    if (ret_port) *ret_port = ntohs(bound);
    return 0;
}

/* Makes way for our socket file. A file there must be a socket that nobody listens on. */
static int remove_stale(const struct sockaddr_un *address, struct err *err)
{
    struct stat st;
    const char *path = address->sun_path;
    if (lstat(path, &st) < 0) return errno == ENOENT ? 0 : err_sys(err, errno, "cannot look at %s", path);
    if (!S_ISSOCK(st.st_mode)) return ERR(err, ERR_CONFIG, "%s is there and is no socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_sys(err, errno, "no socket");
    int r = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    (void)close(fd); // nothing was written
    if (r == 0 || r == -EAGAIN)
        return ERR(err, ERR_BUSY, "somebody listens on %s", path); // EAGAIN: backlog full
    if (r != -ECONNREFUSED) return err_sys(err, -r, "cannot tell whether somebody listens on %s", path);
    return unlink(path) < 0 && errno != ENOENT ? err_sys(err, errno, "cannot remove %s", path) : 0;
}

/* A bound unix socket of mode UNIX_MODE. On Linux the mode of the socket itself, less the umask, becomes that
 * of the file: it is narrow from its first moment, without touching the process-wide umask, and chmod can
 * only widen it. */
static int bind_unix(const struct sockaddr_un *address, struct err *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_sys(err, errno, "no socket");
    int r = fchmod(fd, UNIX_MODE);
    if (r == 0) r = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    if (r == 0) r = chmod(address->sun_path, UNIX_MODE);
    if (r == 0) return fd;
    r = err_sys(err, errno, "cannot bind %s", address->sun_path);
    (void)close(fd); // nothing was written
    return r;
}

int listen_unix(struct http_server *server, const char *path, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct listener *listener = NULL;
    struct stat st;
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(address.sun_path))
        return ERR(err, ERR_CONFIG, "the path of a unix socket has 1 to %zu bytes, not %zu",
                   sizeof(address.sun_path) - 1, len);
    memcpy(address.sun_path, path, len + 1);
    int r = remove_stale(&address, err);
    if (r < 0) return r;
    int fd = bind_unix(&address, err);
    if (fd < 0) return fd;
    r = listener_new(server, true, &listener, err);
    if (r < 0) {
        (void)close(fd); // nothing was written
        return r;
    }
    CHECK(listener);
    listener->path = strdup(path);
    if (!listener->path || lstat(path, &st) < 0) {
        (void)close(fd); // nothing was written
        listener_close(listener);
        return ERR(err, -ENOMEM, "cannot keep the path of %s", path);
    }
    listener->path_dev = st.st_dev;
    listener->path_ino = st.st_ino;
    r = uv_pipe_open(&listener->uv.pipe, fd); // the handle owns fd now
    if (r == 0) r = uv_listen(&listener->uv.stream, BACKLOG, on_connection);
    if (r == 0) return 0;
    listener_close(listener);
    return err_sys(err, -r, "cannot listen on %s", path);
}

int listen_adopt(struct http_server *server, int fd, struct err *err)
{
    struct listener *listener = NULL;
    int family = 0, type = 0, listens = 0;
    socklen_t len = sizeof(int);
    int r = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
    if (r == 0) r = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
    if (r == 0) r = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len);
    if (r < 0) r = err_sys(err, errno, "inherited descriptor %d", fd);
    else if (!listens || type != SOCK_STREAM ||
             (family != AF_INET && family != AF_INET6 && family != AF_UNIX))
        r = ERR(err, ERR_CONFIG, "inherited descriptor %d is no listening stream socket", fd);
    else r = listener_new(server, family == AF_UNIX, &listener, err);
    if (r < 0) {
        (void)close(fd); // nothing was written
        return r;
    }
    CHECK(listener);
    r = listener->is_unix ? uv_pipe_open(&listener->uv.pipe, fd) : uv_tcp_open(&listener->uv.tcp, fd);
    if (r == 0) r = uv_listen(&listener->uv.stream, BACKLOG, on_connection);
    if (r == 0) return 0;
    listener_close(listener);
    return err_sys(err, -r, "cannot listen on inherited descriptor %d", fd);
}

bool listen_is_local(int fd, char *ret_text)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    ret_text[0] = 0;
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0) return false;
    if (address.ss_family == AF_UNIX) return true;
    const void *number = address.ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)&address)->sin6_addr
                                                       : (void *)&((struct sockaddr_in *)&address)->sin_addr;
    if (!inet_ntop(address.ss_family, number, ret_text, INET6_ADDRSTRLEN)) return false;
    return conf_host_is_loopback(ret_text);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* listen - sockets that accept connections for an http_server. A server may have any number; they are
 * closed by http_server_drain and http_server_stop. */
#ifndef KVASIR_DAEMON_LISTEN_H
#define KVASIR_DAEMON_LISTEN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

struct http_server;

/* Host is an address or a name (the first address it resolves to is bound; resolving blocks). Port 0 takes a
 * free one. *ret_port is the bound port; may be NULL. */
int listen_tcp(struct http_server *server, const char *host, uint16_t port, uint16_t *ret_port,
               struct err *err);

/* A socket file of mode 0660, never wider in between. A socket that is there already is removed when nobody
 * listens on it; ERR_BUSY when somebody does; ERR_CONFIG when it is another kind of file. The file is
 * removed when the listener closes, unless it has been replaced. */
int listen_unix(struct http_server *server, const char *path, struct err *err);

/* An inherited listening stream socket, TCP or unix (socket activation). Takes fd, also on error. The file
 * of a unix socket is left to its owner. */
int listen_adopt(struct http_server *server, int fd, struct err *err);

/* Whether only this machine can reach a bound socket: unix, or a loopback address. False when it cannot be told.
 * *ret_text (INET6_ADDRSTRLEN bytes) is the address, "" for none. */
bool listen_is_local(int fd, char *ret_text);

#endif

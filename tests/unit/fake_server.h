/* SPDX-License-Identifier: Apache-2.0 */
/* fake_server - an HTTP server for tests that says exactly what a script tells it, on a real socket:
 * a port of the system's choice on 127.0.0.1, or a unix socket in a fresh folder. A thread a
 * connection, each running the script from its start. No sleeps: a stall ends by fake_server_release
 * or at fake_server_stop. Aborts where the system refuses it something; a test cannot go on then. */
#ifndef KVASIR_TESTS_UNIT_FAKE_SERVER_H
#define KVASIR_TESTS_UNIT_FAKE_SERVER_H

#include <stdbool.h>
#include <stddef.h>

enum fake_kind {
    FAKE_END,          // closes the connection in order
    FAKE_READ,         // reads one request, head and Content-Length body; ends when the peer is gone
    FAKE_SEND,         // sends text
    FAKE_SEND_BYTES,   // sends text, one send(2) a byte
    FAKE_SEND_FOREVER, // sends text again and again until the peer is gone
    FAKE_STALL,        // counts as reached, then waits for a release
    FAKE_AWAIT_CLOSE,  // waits until the peer is gone, then counts as reached
    FAKE_RESET,        // closes with a TCP reset
    FAKE_ROUTE,        // answers the request read by the route of its path (404 without), keep-alive
    FAKE_AGAIN,        // starts the script again on this connection
};

struct fake_step {
    enum fake_kind kind;
    const char *text;  // of the sends
    size_t text_bytes; // 0: strlen(text)
};

struct fake_route {
    const char *path;  // "/v1/models"; NULL ends the list
    const char *reply; // a whole reply, "HTTP/1.1 200 ..." and on
};

struct fake_server;

/* steps end with FAKE_END; routes may be NULL. Both are borrowed until the stop. */
struct fake_server *fake_server_start(const struct fake_step *steps, const struct fake_route *routes);
struct fake_server *fake_server_start_unix(const struct fake_step *steps, const struct fake_route *routes);
void fake_server_stop(struct fake_server *server); // joins its threads, removes its socket

const char *fake_server_url(const struct fake_server *server);  // "http://127.0.0.1:PORT"
const char *fake_server_path(const struct fake_server *server); // of the unix socket
void fake_server_await(struct fake_server *server, unsigned reached_count);
void fake_server_release(struct fake_server *server); // all stalls, now and later

unsigned fake_server_connections(struct fake_server *server);
bool fake_server_saw(struct fake_server *server, const char *text); // in the last request read
unsigned fake_server_requests(struct fake_server *server);

#define FAKE_JSON_HEAD(length) \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " #length "\r\n\r\n"
/* A body that ends with the connection: for replies whose length a test does not want to count. */
#define FAKE_JSON "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
#define FAKE_STREAM "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

#endif

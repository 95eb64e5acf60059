/* SPDX-License-Identifier: Apache-2.0 */
/* client - the inside of struct kvasir_client: an address, bounds, and a stack of idle connections.
 * Everything but the stack is fixed at open, so calls share it without a lock. */
#ifndef KVASIR_CLIENT_CLIENT_H
#define KVASIR_CLIENT_CLIENT_H

#include <pthread.h>
#include <stdint.h>

#include "client/kvasir.h"

struct http_lane;

enum { CLIENT_LANES_IDLE_MAX = 64 }; // kept for reuse; above it a lane is closed when its call ends

struct kvasir_client {
    char *base_url;    // "scheme://host[:port][/path]", no slash at its end; owned
    char *uds;         // NULL for TCP; owned
    char *auth_header; // "Authorization: Bearer ..." or NULL; owned
    char *user_agent;  // owned
    int64_t connect_timeout_ms, idle_timeout_ms, total_timeout_ms, short_timeout_ms; // < 0: no limit
    size_t body_bytes_max, stream_bytes_max, event_bytes_max;

    pthread_mutex_t lock;   // guards the two below
    struct http_lane *idle; // a stack, linked by http_lane.next
    unsigned idle_count;    // <= CLIENT_LANES_IDLE_MAX
};

#endif

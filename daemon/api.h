/* SPDX-License-Identifier: Apache-2.0 */
/* api - the HTTP routes of kvasird: from a whole HTTP request to its answer.
 *
 * Owns nothing of what its conf points to. All on the loop thread, but for templates and tokenizing, which
 * run on the thread pool. */
#ifndef KVASIR_DAEMON_API_H
#define KVASIR_DAEMON_API_H

#include <uv.h>

#include "daemon/engine.h"
#include "daemon/http_server.h"
#include "daemon/metrics.h"
#include "daemon/prompt.h"

struct request;

struct api_conf {
    uv_loop_t *loop;
    struct engine *engine;
    struct metrics *metrics;
    struct prompt_source source;
    const char *model_name;
    char *const *keys;  // (key_count) API keys; none: open
    size_t key_count;   // a tenant each, numbered from 1
    uint64_t seed;      // of requests that bring none
    uint32_t timeout_s; // longest of a request; 0: none
};

struct api {
    struct api_conf conf;
    struct http_server *http; // borrowed, for its figures; NULL until there is one
    int64_t started_s;
    uint8_t id_secret[16]; // random: ids of this life
    uint64_t request_count, http_requests;
    uint32_t tenant;          // of the HTTP request that is being handled; 0: no keys
    size_t preparing_bytes;   // memory of requests whose prompts are being made
    struct request *requests; // all live ones
    struct request *held;     // those with unsent events of their streams
    bool in_events;           // a step's events are being handled; their bytes are sent after the next plan
    bool draining;            // no new generations
    const char *state_text;   // why it is not ready: "loading", "restarting", "draining"
};

int api_init(struct api *api, const struct api_conf *conf, struct err *err);

/* The http_server's handler. */
void api_on_request(struct conn *conn, const struct http_request *request, void *user);
void api_on_close(struct conn *conn, void *user);
void api_on_drain(struct conn *conn, void *user);

bool api_idle(const struct api *api); // no request is live
void api_cancel_all(struct api *api); // ends every request with an error

/* Answers with an error in vLLM's shape. */
void api_refuse(struct conn *conn, int status, const char *field, const char *message);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/api.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "config.h"
#include "daemon/answer.h"
#include "daemon/conn.h"
#include "daemon/http.h"
#include "daemon/request.h"

enum {
    SMALL_ANSWER_BYTES_MAX = 4 << 20,
    PREPARING_BYTES_MAX = 256 << 20, // parsed bodies whose prompts are being made; past it 503
};

int api_init(struct api *api, const struct api_conf *conf, struct err *err)
{
    *api = (struct api){
        .conf = *conf,
        .started_s = (int64_t)(clock_wall_ns() / NS_PER_S),
        .state_text = "loading",
    };
    if (getrandom(api->id_secret, sizeof api->id_secret, 0) != (ssize_t)sizeof api->id_secret)
        return err_sys(err, errno, "getrandom");
    return 0;
}

/* ---- answers of one call ---- */

void api_refuse(struct conn *conn, int status, const char *field, const char *message)
{
    struct buf out;
    buf_init(&out, KIB(64));
    answer_write_error(&out, status, field, message);
    bool later = status == 408 || status == 429 || status == 503;
    const char *headers = later           ? "Retry-After: 1\r\n"
                          : status == 401 ? "WWW-Authenticate: Bearer\r\n"
                                          : NULL;
    (void)conn_respond(conn, status, "application/json", headers, out.bytes, out.len); // gone: on_close comes
    buf_done(&out);
}

static void answer_json(struct conn *conn, int status, struct buf *out)
{
    if (out->error) api_refuse(conn, 500, NULL, "out of memory");
    else
        (void)conn_respond(conn, status, "application/json", NULL, out->bytes,
                           out->len); // gone: on_close comes
    buf_done(out);
}

/* ---- routes without a body ---- */

static void route_health(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)api;
    (void)request;
    (void)conn_respond(conn, 200, "application/json", NULL, "{\"status\":\"ok\"}",
                       15); // gone: on_close comes
}

static void route_ready(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)request;
    struct buf out;
    bool ready = engine_ready(api->conf.engine) && !api->draining;
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    buf_printf(&out, "{\"status\":\"%s\"}", ready ? "ready" : api->draining ? "draining" : api->state_text);
    answer_json(conn, ready ? 200 : 503, &out);
}

static void route_version(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)api;
    (void)request;
    struct buf out;
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    buf_puts(&out, "{\"version\":\"" PACKAGE_VERSION "\"}");
    answer_json(conn, 200, &out);
}

/* vLLM's name. What running requests hold stays; they need it. */
static void route_reset_cache(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)request;
    struct buf out;
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    buf_printf(&out, "{\"pages_dropped\":%" PRIu32 "}", engine_cache_clear(api->conf.engine));
    answer_json(conn, 200, &out);
}

static void put_model(struct buf *out, const struct api *api)
{
    buf_puts(out, "{\"id\":");
    buf_put_json_string(out, api->conf.model_name, strlen(api->conf.model_name));
    buf_printf(out, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"kvasir\",\"root\":",
               api->started_s);
    buf_put_json_string(out, api->conf.model_name, strlen(api->conf.model_name));
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%" PRIu32 ",\"permission\":[]}",
               api->conf.source.model_len_max);
}

static void route_models(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)request;
    struct buf out;
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    buf_puts(&out, "{\"object\":\"list\",\"data\":[");
    put_model(&out, api);
    buf_puts(&out, "]}");
    answer_json(conn, 200, &out);
}

static bool model_is_served(const struct api *api, const char *name)
{
    return strcmp(name, api->conf.model_name) == 0;
}

static void refuse_model(struct conn *conn, const char *name)
{
    char text[256];
    (void)snprintf(text, sizeof text, "The model `%.128s` does not exist.",
                   name); // cut names are still told apart
    api_refuse(conn, 404, "model", text);
}

static void route_model(struct api *api, struct conn *conn, const struct http_request *request)
{
    const char *name = request->path + strlen("/v1/models/");
    if (!model_is_served(api, name)) {
        refuse_model(conn, name);
        return;
    }
    struct buf out;
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    put_model(&out, api);
    answer_json(conn, 200, &out);
}

static void route_metrics(struct api *api, struct conn *conn, const struct http_request *request)
{
    (void)request;
    struct buf out;
    struct engine_stats stats;
    engine_stats(api->conf.engine, &stats);
    struct metrics_engine engines[GROUPS_MAX];
    for (uint32_t i = 0; i < stats.group_count; i++) {
        struct engine_group_stats group;
        engine_group_stats(api->conf.engine, i, &group);
        engines[i] = (struct metrics_engine){group.is_ready, group.running, group.steps, group.restarts};
    }
    struct metrics_gauges gauges = {
        .engines = engines,
        .engine_count = stats.group_count,
        .waiting = stats.sched.waiting_count,
        .page_tokens = PAGE_TOKENS,
        .page_count = stats.page_count,
        .pages_used = stats.page_count - stats.pages_free - stats.pages_idle,
        .pages_pinned = stats.pages_pinned,
        .pages_retained = stats.pages_retained,
        .prefix_queries = stats.sched.prefix_queries,
        .prefix_hits = stats.sched.prefix_hits,
        .preemptions = stats.sched.preemptions,
        .expired = stats.sched.expired,
        .held = stats.sched.held_count,
        .evictions = stats.evictions,
        .pages_checked = stats.sched.pages_checked,
        .pages_corrupt = stats.sched.pages_corrupt,
        .has_tier = stats.has_tier,
        .tier_places = stats.offload.tier.place_count,
        .tier_pages = stats.offload.tier.page_count,
        .tier_evictions = stats.offload.tier.evictions,
        .tier_pages_written = stats.offload.pages_written,
        .tier_pages_read = stats.offload.pages_read,
        .tier_pages_failed = stats.offload.pages_failed,
        .page_bytes = stats.page_bytes,
        .http_requests = api->http_requests,
        .http_conns = api->http ? http_server_stats(api->http).conns : 0,
        .cache_dtype = "f16",
    };
    buf_init(&out, SMALL_ANSWER_BYTES_MAX);
    metrics_render(api->conf.metrics, &gauges, &out);
    if (out.error) api_refuse(conn, 500, NULL, "out of memory");
    else
        (void)conn_respond(conn, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, out.bytes,
                           out.len); // as above
    buf_done(&out);
}

/* ---- routes with a body ---- */

/* The body's, else the header's, else the server's, and never more than the server's. False: the header is no time. */
static bool timeout_decide(const struct api *api, const struct http_request *request, struct params *params)
{
    const char *text = http_request_header(request, "X-Request-Timeout");
    float server_s = (float)api->conf.timeout_s;
    if (params->timeout_s == 0 && text) {
        char *end;
        params->timeout_s = strtof(text, &end);
        if (end == text || *end || !(params->timeout_s >= 1e-3F && params->timeout_s <= 86400.0F * 365))
            return false;
    }
    if (server_s > 0 && (params->timeout_s == 0 || params->timeout_s > server_s))
        params->timeout_s = server_s;
    return true;
}

static void generate(struct api *api, struct conn *conn, const struct http_request *request,
                     enum params_kind kind, enum request_goal goal)
{
    struct params params;
    struct params_error error;
    if (api->draining) {
        api_refuse(conn, 503, NULL, "the server is shutting down");
        return;
    }
    if (goal == REQUEST_GENERATE &&
        engine_queue_full(api->conf.engine)) { // before anything is parsed or tokenized
        api_refuse(conn, 429, NULL, "the queue is full: try again later");
        return;
    }
    if (api->preparing_bytes > PREPARING_BYTES_MAX) {
        api_refuse(conn, 503, NULL, "too many large requests at once: try again later");
        return;
    }
    if (params_parse(kind, request->body, request->body_bytes,
                     tokenizer_vocab_count(api->conf.source.tokenizer), &params, &error) < 0) {
        api_refuse(conn, error.status, error.field, error.err.text);
        return;
    }
    if (params.model && !model_is_served(api, params.model)) {
        refuse_model(conn, params.model);
        params_done(&params);
        return;
    }
    if (!timeout_decide(api, request, &params)) {
        api_refuse(conn, 400, NULL, "X-Request-Timeout must be a number of seconds above 0");
        params_done(&params);
        return;
    }
    request_start(api, conn, &params, goal);
}

static void route_chat(struct api *api, struct conn *conn, const struct http_request *request)
{
    generate(api, conn, request, PARAMS_CHAT, REQUEST_GENERATE);
}

static void route_completion(struct api *api, struct conn *conn, const struct http_request *request)
{
    generate(api, conn, request, PARAMS_COMPLETION, REQUEST_GENERATE);
}

/* The body as JSON, or NULL after an answer that says why not. */
static cJSON *body_parse(struct conn *conn, const struct http_request *request)
{
    struct err err = {0};
    cJSON *json = NULL;
    size_t values;
    int r = json_parse_bounded(request->body, request->body_bytes, JSON_DEPTH_MAX, JSON_VALUES_MAX, &json,
                               &values, &err);
    if (r == 0) return json;
    api_refuse(conn, r == -ENOMEM ? 500 : r == ERR_LIMIT ? 413 : 400, NULL, err.text);
    return NULL;
}

/* vLLM's two shapes: {"prompt"} as for completions, {"messages"} as for chat. */
static void route_tokenize(struct api *api, struct conn *conn, const struct http_request *request)
{
    cJSON *json = body_parse(conn, request);
    if (!json) return;
    bool chat = cJSON_GetObjectItemCaseSensitive(json, "messages") != NULL;
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(json, "prompt");
    bool fits = chat || cJSON_IsString(prompt);
    cJSON_Delete(json);
    if (!fits) api_refuse(conn, 400, "prompt", "prompt must be a string");
    else generate(api, conn, request, chat ? PARAMS_CHAT : PARAMS_COMPLETION, REQUEST_TOKENIZE);
}

static int ids_read(const cJSON *tokens, uint32_t vocab_count, struct token_list *list)
{
    const cJSON *id;
    cJSON_ArrayForEach(id, tokens)
    {
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < vocab_count) ||
            id->valuedouble != (double)(uint32_t)id->valuedouble)
            return ERR_INPUT;
        int r = token_list_push(list, (uint32_t)id->valuedouble);
        if (r < 0) return r;
    }
    return 0;
}

static void detokenize(struct api *api, struct conn *conn, const cJSON *tokens)
{
    const struct tokenizer *tokenizer = api->conf.source.tokenizer;
    struct token_list list = {0};
    struct buf text, out;
    buf_init(&text, MIB(64));
    buf_init(&out, MIB(256));
    if (!cJSON_IsArray(tokens) || ids_read(tokens, tokenizer_vocab_count(tokenizer), &list) < 0) {
        api_refuse(conn, 400, "tokens", "tokens must be an array of token ids of this model");
    } else {
        (void)tokenizer_decode(tokenizer, list.ids, list.count, false, &text); // its error is sticky in text
        buf_puts(&out, "{\"prompt\":");
        buf_put_json_string(&out, buf_text(&text), text.len);
        buf_putc(&out, '}');
        if (text.error) out.error = text.error;
        answer_json(conn, 200, &out);
    }
    buf_done(&text);
    buf_done(&out);
    token_list_done(&list);
}

static void route_detokenize(struct api *api, struct conn *conn, const struct http_request *request)
{
    cJSON *json = body_parse(conn, request);
    if (!json) return;
    detokenize(api, conn, cJSON_GetObjectItemCaseSensitive(json, "tokens"));
    cJSON_Delete(json);
}

/* ---- routing ---- */

struct route {
    const char *method, *path;
    bool is_prefix; // path is the beginning
    bool is_open;   // needs no key
    void (*handle)(struct api *api, struct conn *conn, const struct http_request *request);
};

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", false, false, route_chat},
    {"POST", "/v1/completions", false, false, route_completion},
    {"GET", "/v1/models", false, false, route_models},
    {"GET", "/v1/models/", true, false, route_model},
    {"GET", "/health", false, true, route_health},
    {"GET", "/ready", false, true, route_ready},
    {"GET", "/metrics", false, false, route_metrics},
    {"GET", "/version", false, false, route_version},
    {"POST", "/reset_prefix_cache", false, false, route_reset_cache},
    {"POST", "/tokenize", false, false, route_tokenize},
    {"POST", "/detokenize", false, false, route_detokenize},
};

static bool route_matches(const struct route *route, const char *path)
{
    if (!route->is_prefix) return strcmp(route->path, path) == 0;
    size_t len = strlen(route->path);
    return strncmp(route->path, path, len) == 0 && path[len];
}

/* Compares without telling by its time where the first difference is. */
static bool equal_in_constant_time(const char *a, size_t a_len, const char *b)
{
    size_t b_len = strlen(b);
    unsigned char difference = a_len != b_len;
    for (size_t i = 0; i < a_len; i++) difference |= (unsigned char)(a[i] ^ b[b_len ? i % b_len : 0]);
    return difference == 0;
}

/* *ret_tenant: whose key it is, from 1; 0 where there are no keys. */
static bool key_is_right(const struct api *api, const struct http_request *request, uint32_t *ret_tenant)
{
    *ret_tenant = 0;
    if (api->conf.key_count == 0) return true;
    const char *value = http_request_header(request, "Authorization");
    if (!value || strncasecmp(value, "Bearer ", 7) != 0) return false;
    uint32_t tenant = 0; // no branch on which key it was
    for (uint32_t i = 0; i < api->conf.key_count; i++)
        tenant += (tenant == 0) * (i + 1) *
                  equal_in_constant_time(value + 7, strlen(value + 7), api->conf.keys[i]);
    *ret_tenant = tenant;
    return tenant != 0;
}

void api_on_request(struct conn *conn, const struct http_request *request, void *user)
{
    struct api *api = user;
    api->http_requests++;
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    const struct route *found = NULL;
    for (size_t i = 0; i < COUNT_OF(routes) && !found; i++)
        if (route_matches(&routes[i], request->path)) found = &routes[i];
    if ((!found || !found->is_open) && !key_is_right(api, request, &api->tenant)) {
        api_refuse(conn, 401, NULL, "a valid API key is needed: Authorization: Bearer KEY");
    } else if (!found) {
        api_refuse(conn, 404, NULL, "no such route");
    } else if (strcmp(found->method, method) != 0) {
        struct buf out;
        char allow[32];
        (void)snprintf(allow, sizeof allow, "Allow: %s\r\n", found->method); // fits
        buf_init(&out, KIB(4));
        answer_write_error(&out, 405, NULL, "method not allowed");
        (void)conn_respond(conn, 405, "application/json", allow, out.bytes, out.len); // gone: on_close comes
        buf_done(&out);
    } else {
        found->handle(api, conn, request);
    }
}

void api_on_close(struct conn *conn, void *user)
{
    (void)user;
    struct request *request = conn_user(conn);
    if (request) request_client_gone(request);
}

void api_on_drain(struct conn *conn, void *user)
{
    (void)user;
    struct request *request = conn_user(conn);
    if (request) request_client_drained(request);
}

bool api_idle(const struct api *api)
{
    return api->requests == NULL;
}

void api_cancel_all(struct api *api)
{
    struct request *next;
    for (struct request *request = api->requests; request; request = next) {
        next = request_next(request);
        request_abort(request, 503, "the server is shutting down");
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/server.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uv.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/base/log.h"
#include "daemon/api.h"
#include "daemon/engine.h"
#include "daemon/hosts_load.h"
#include "daemon/http_server.h"
#include "daemon/listen.h"
#include "daemon/metrics.h"
#include "daemon/model_info.h"
#include "daemon/notify.h"
#include "daemon/pinned.h"
#include "daemon/progress.h"
#include "daemon/request.h"

enum {
    STALL_NS_MAX_S = 120,       // a step without a sign of life
    HELD_BYTES_MAX = 512 << 20, // bodies and unsent answers of all connections
};

enum server_state { SERVER_LOADING, SERVER_SERVING, SERVER_DRAINING, SERVER_STOPPING, SERVER_ENDED };

struct server {
    uv_loop_t loop;
    const struct conf *conf; // borrowed
    struct model_info model;
    char *model_name, *worker_path; // owned
    char group_cpus[GROUPS_MAX][CPUS_TEXT_BYTES];
    struct hosts hosts; // of the ranks
    char *model_path;   // owned: absolute where ranks of other hosts open it, else as it was given
    uint32_t model_len_max;
    struct engine *engine;
    struct metrics *metrics;
    struct pinned *pinned; // NULL: no prefix is
    struct api api;
    struct http_server *http;
    uv_signal_t sigterm, sigint;
    uv_timer_t watchdog, drain;
    enum server_state state;
    int exit_status;
    uint16_t port;
    uint64_t start_ns;
};

/* ---- ending ---- */

static void handles_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->sigterm, NULL);
    uv_close((uv_handle_t *)&server->sigint, NULL);
    uv_close((uv_handle_t *)&server->watchdog, NULL);
    uv_close((uv_handle_t *)&server->drain, NULL);
}

static void engine_freed(void *owner)
{
    struct server *server = owner;
    server->engine = NULL;
    server->state = SERVER_ENDED;
    handles_close(server);
}

/* The worker is gone: nothing can be answered any more. */
static void engine_stopped(void *owner)
{
    struct server *server = owner;
    server->state = SERVER_STOPPING;
    api_cancel_all(&server->api);
    pinned_free(server->pinned);
    server->pinned = NULL;
    http_server_stop(server->http);
    engine_free(server->engine, engine_freed);
}

static void http_drained(void *user)
{
    struct server *server = (struct server *)((char *)user - offsetof(struct server, api)); // user is our api
    if (server->state != SERVER_DRAINING) return;
    server->state = SERVER_STOPPING;
    uv_timer_stop(&server->drain);
    engine_stop(server->engine);
}

static void drain_over(uv_timer_t *timer)
{
    struct server *server = timer->data;
    api_cancel_all(&server->api);
    if (server->state != SERVER_DRAINING) return;
    server->state = SERVER_STOPPING;
    engine_stop(server->engine);
}

static void signalled(uv_signal_t *handle, int signum)
{
    struct server *server = handle->data;
    if (server->state == SERVER_DRAINING) { // the second time: no more patience
        uv_timer_start(&server->drain, drain_over, 0, 0);
        return;
    }
    if (server->state != SERVER_SERVING && server->state != SERVER_LOADING) return;
    log_info("%s: finishing what runs, taking nothing new", signum == SIGINT ? "SIGINT" : "SIGTERM");
    notify_stopping();
    server->state = SERVER_DRAINING;
    server->api.draining = true;
    uv_timer_start(&server->drain, drain_over, server->conf->shutdown_timeout_s * UINT64_C(1000), 0);
    http_server_drain(server->http);
}

/* ---- the engine's callbacks ---- */

static void address_describe(const struct server *server, char *text, size_t text_bytes)
{
    if (server->port) {
        bool v6 = strchr(server->conf->host, ':') != NULL;
        (void)snprintf(text, text_bytes, "http://%s%s%s:%u%s%s", v6 ? "[" : "", server->conf->host,
                       v6 ? "]" : "", server->port, server->conf->uds[0] ? " and unix:" : "",
                       server->conf->uds); // may be cut
    } else {
        (void)snprintf(text, text_bytes, "%s%s", server->conf->uds[0] ? "unix:" : "inherited sockets",
                       server->conf->uds); // as above
    }
}

/* "worker", and which, where there are several. */
static const char *worker_name(const struct server *server, uint32_t group, char text[static 32])
{
    if (server->conf->data_parallel_size == 1) return "worker";
    (void)snprintf(text, 32, "worker of group %" PRIu32, group); // fits
    return text;
}

static void engine_ready_now(void *owner, uint32_t group)
{
    struct server *server = owner;
    char address[256], name[32], note[512];
    struct engine_stats stats;
    struct engine_group_stats worker;
    engine_stats(server->engine, &stats);
    if (server->pinned) pinned_refresh(server->pinned);
    engine_group_stats(server->engine, group, &worker);
    engine_worker_note(server->engine, group, note, sizeof note);
    if (worker.restarts > 0) {
        log_info("the %s is back: process %" PRId64 ", restart %" PRIu64 ", %s",
                 worker_name(server, group, name), worker.worker_pid, worker.restarts, note);
        return;
    }
    log_info("%s %" PRId64 ": %s", worker_name(server, group, name), worker.worker_pid, note);
    if (server->state != SERVER_LOADING) return; // another group was ready before
    server->state = SERVER_SERVING;
    server->api.state_text = "restarting";
    address_describe(server, address, sizeof address);
    log_info("ready after %.2f s: %s, context %" PRIu32 ", %" PRIu32 " pages of %" PRIu64 " KiB (%" PRIu64
             " MiB), at %s",
             (double)(clock_mono_ns() - server->start_ns) / 1e9, server->model_name, server->model_len_max,
             stats.page_count, stats.page_bytes >> 10, stats.page_count * stats.page_bytes >> 20, address);
    if (server->conf->progress)
        progress_ready(server->model_name, stats.page_count * stats.page_bytes, address);
    notify_ready("serving");
}

static void engine_progress(void *owner, uint32_t permille)
{
    struct server *server = owner;
    if (server->conf->progress && server->state == SERVER_LOADING)
        progress_loading(server->model_name, permille);
}

static void engine_lost(void *owner, uint32_t group, const char *reason)
{
    struct server *server = owner;
    char name[32];
    metrics_worker_lost(server->metrics);
    log_warn("the %s died: %s; starting it again, requests go on %s", worker_name(server, group, name),
             reason, engine_ready(server->engine) ? "meanwhile" : "after it");
}

static void engine_corrupt(void *owner, uint32_t bad_count, uint32_t dropped_count)
{
    struct server *server = owner;
    if (dropped_count == 0)
        log_warn("%" PRIu32 " cached pages are not what was sealed; dropped with what hangs on them when no "
                 "step reads them, to be computed anew",
                 bad_count);
    else
        log_warn("%" PRIu32 " cached pages are not what was sealed; %" PRIu32
                 " dropped with what hangs on them, to be computed anew",
                 bad_count, dropped_count);
    if (server->pinned) pinned_refresh(server->pinned);
}

static void engine_foreign(void *owner, uint32_t pool_count, uint32_t tier_count)
{
    (void)owner;
    if (pool_count > 0)
        log_warn("%" PRIu32
                 " cached pages are dropped: another build, or other kernels, computed them, which differ "
                 "from these in some bits",
                 pool_count);
    if (tier_count > 0)
        log_info("%" PRIu32 " pages of the cache file are of other kernels and not used", tier_count);
}

static void engine_failed(void *owner, int exit_status, const char *reason)
{
    struct server *server = owner;
    if (server->conf->progress) progress_end();
    log_error("%s", reason);
    server->exit_status = exit_status;
    engine_stopped(owner);
}

static void engine_stepped(void *owner, const struct engine_step *step)
{
    struct server *server = owner;
    metrics_step(server->metrics, step->token_count, step->step_ns, step->turn_ns);
    metrics_step_cost(server->metrics, step->prefill_count, step->predicted_ns, step->step_ns);
}

static void engine_event(void *owner, const struct sched_event *event, const struct done_top *tops)
{
    struct server *server = owner;
    server->api.in_events = true;
    generation_event(event, tops);
    server->api.in_events = false;
}

static void engine_turned(void *owner)
{
    struct server *server = owner;
    request_send_held(&server->api);
    if (engine_pins_lost(server->engine) && server->pinned) pinned_refresh(server->pinned);
}

static const struct engine_callbacks engine_callbacks = {
    .on_event = engine_event,
    .on_ready = engine_ready_now,
    .on_progress = engine_progress,
    .on_lost = engine_lost,
    .on_corrupt = engine_corrupt,
    .on_foreign = engine_foreign,
    .on_failed = engine_failed,
    .on_step = engine_stepped,
    .on_turn = engine_turned,
    .on_stopped = engine_stopped,
};

/* ---- starting ---- */

static char *name_of_file(const char *path)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t len = strlen(base);
    if (len > 5 && strcmp(base + len - 5, ".gguf") == 0) len -= 5;
    return strndup(base, len);
}

static int model_load(struct server *server, struct err *err)
{
    const struct conf *conf = server->conf;
    int r = model_info_open(conf->model, &server->model, err);
    if (r < 0) return r;
    const struct model_facts *facts = &server->model.facts;
    server->model_name = conf->served_model_name[0] ? strdup(conf->served_model_name)
                                                    : name_of_file(conf->model);
    if (!server->model_name) return ERR(err, -ENOMEM, "out of memory");
    server->model_len_max = conf->max_model_len ? conf->max_model_len : facts->context_length;
    if (server->model_len_max > facts->context_length)
        return ERR(err, ERR_CONFIG,
                   "--max-model-len %u is above the %u tokens that the model was trained for",
                   server->model_len_max, facts->context_length);
    if (server->model_len_max < 2)
        return ERR(err, ERR_CONFIG, "a context of %u tokens has no room for a prompt and an answer",
                   server->model_len_max);
    if (server->model.template_problem[0])
        log_warn("the model's chat template cannot be used, chat is refused: %s",
                 server->model.template_problem);
    return 0;
}

static enum kv_type kv_type_of(uint32_t conf_dtype)
{
    switch (conf_dtype) {
    case CONF_KV_BF16: return KV_BF16;
    case CONF_KV_Q8: return KV_Q8;
    case CONF_KV_Q4: return KV_Q4;
    default: return KV_F16;
    }
}

static uint64_t itl_target_ns(const struct conf *conf)
{
    if (conf->itl_target_ms == CONF_ITL_TARGET_NONE) return UINT64_MAX;
    return conf->itl_target_ms * NS_PER_MS;
}

/* Each group has CPUs of its own, in whole NUMA nodes where there are as many, if there are enough cores. */
static void groups_place(struct server *server, struct engine_conf *engine)
{
    uint32_t count = engine->group_count, threads = cpus_threads() / count;
    if (count > 1) {
        for (uint32_t i = 0; i < count; i++) cpus_part(i, count, server->group_cpus[i]);
        engine->group_cpus = server->group_cpus;
        if (server->group_cpus[0][0] == '\0') // threads of several groups would be pinned to one CPU
            engine->pin_threads = false;
    }
    if (engine->threads == 0) engine->threads = threads > 0 ? threads : 1;
}

static int path_make_absolute(char **path, struct err *err)
{
    char *absolute = realpath(*path, NULL);
    if (!absolute) return err_sys(err, errno, "%s", *path);
    free(*path);
    *path = absolute;
    return 0;
}

/* Which ranks run where, and what they start with: on other hosts from another working directory. */
static int hosts_place(struct server *server, struct err *err)
{
    const struct conf *conf = server->conf;
    int r = conf_find_worker(conf, &server->worker_path, err);
    if (r == 0) r = hosts_load(conf, &server->hosts, err);
    if (r < 0) return r;
    server->model_path = strdup(conf->model);
    if (!server->model_path) return ERR(err, -ENOMEM, "out of memory");
    if (server->hosts.count < 2) return 0;
    r = path_make_absolute(&server->model_path, err);
    return r < 0 ? r : path_make_absolute(&server->worker_path, err);
}

static int engine_make(struct server *server, struct err *err)
{
    const struct conf *conf = server->conf;
    struct engine_found found = {.is_loss = false};
    int r = hosts_place(server, err);
    if (r < 0) return r;
    struct engine_conf engine = {
        .loop = &server->loop,
        .instance = conf->instance,
        .worker_path = server->worker_path,
        .model_path = server->model_path,
        .group_count = conf->data_parallel_size,
        .rank_count = conf->tensor_parallel_size,
        .hosts = server->hosts.count > 1 ? &server->hosts : NULL,
        .threads = conf->threads,
        .pin_threads = conf->cpus[0] != '\0',
        .private_weights = conf->weights == CONF_WEIGHTS_PRIVATE,
        .cache_bytes = conf->kv_cache_memory_bytes,
        .cache_file = conf->cache_file,
        .cache_file_bytes = conf->cache_file_bytes,
        .tenant_count = (uint32_t)conf->api_keys.count,
        .tenant_share_percent = conf->cache_tenant_share,
        .pin_percent = conf->cache_pin_share,
        .retention_percent = conf->cache_retention_share,
        .kv_type = kv_type_of(conf->kv_cache_dtype),
        .sched = {.seqs_max = conf->max_num_seqs,
                  .tokens_max = conf->max_num_batched_tokens,
                  .queue_max = conf->max_num_queued_reqs,
                  .itl_target_ns = itl_target_ns(conf),
                  .ageing_ns = conf->priority_ageing_s * NS_PER_S,
                  .model_len_max = server->model_len_max},
        .facts = server->model.facts,
        .model_digest = server->model.digest,
        .stall_ns_max = STALL_NS_MAX_S * NS_PER_S,
        .cache_keep = conf->cache_keep,
        .callbacks = &engine_callbacks,
        .owner = server,
    };
    groups_place(server, &engine);
    r = engine_new(&engine, &server->engine, &found, err);
    if (found.text[0] && found.is_loss) log_warn("%s", found.text);
    else if (found.text[0]) log_info("%s", found.text);
    if (r == 0 && conf->cache_file[0]) log_info("cache file %s", engine_tier_note(server->engine));
    return r;
}

static int api_make(struct server *server, struct err *err)
{
    const struct conf *conf = server->conf;
    struct api_conf api = {
        .loop = &server->loop,
        .engine = server->engine,
        .metrics = server->metrics,
        .source = {.tokenizer = server->model.tokenizer,
                   .template = server->model.template,
                   .bos_text = server->model.bos_text,
                   .eos_text = server->model.eos_text,
                   .model_len_max = server->model_len_max},
        .model_name = server->model_name,
        .keys = conf->api_keys.texts,
        .key_count = conf->api_keys.count,
        .seed = conf->seed,
        .timeout_s = conf->request_timeout_s,
    };
    return api_init(&server->api, &api, err);
}

static int pinned_make(struct server *server, struct err *err)
{
    struct pinned_conf pinned = {
        .engine = server->engine,
        .source = &server->api.conf.source,
        .keys = server->conf->api_keys.texts,
        .key_count = server->conf->api_keys.count,
    };
    if (!server->conf->cache_pin[0]) return 0;
    return pinned_open(server->conf->cache_pin, &pinned, &server->pinned, err);
}

static int http_make(struct server *server, struct err *err)
{
    static const struct http_handler handler = {
        .on_request = api_on_request,
        .on_close = api_on_close,
        .on_drain = api_on_drain,
        .on_drained = http_drained,
    };
    const struct conf *conf = server->conf;
    struct http_conf http = http_conf_default();
    http.body_bytes_max = conf->max_body_bytes;
    http.held_bytes_max = HELD_BYTES_MAX + conf->max_body_bytes; // one of the longest always fits
    http.conns_max = conf->max_connections;
    http.head_ms = conf->header_timeout_s * 1000;
    http.body_ms = conf->body_timeout_s * 1000;
    http.idle_ms = conf->idle_timeout_s * 1000;
    http.write_ms = conf->slow_reader_timeout_s * 1000;
    int r = http_server_new(&server->loop, &http, &handler, &server->api, &server->http, err);
    if (r == 0) server->api.http = server->http;
    return r;
}

static int sockets_listen(struct server *server, struct err *err)
{
    const struct conf *conf = server->conf;
    int fd_first;
    int count = notify_listen_fds(&fd_first);
    for (int i = 0; i < count; i++) {
        char address[INET6_ADDRSTRLEN];
        if (conf->api_keys.count == 0 && !listen_is_local(fd_first + i, address)) // as conf does for --host
            return ERR(err, ERR_CONFIG,
                       "inherited socket %d: %s can be reached from other machines, so it needs an API key "
                       "(--api-key-file)",
                       fd_first + i, address[0] ? address : "its address");
        int r = listen_adopt(server->http, fd_first + i, err);
        if (r < 0) return r;
    }
    if (count > 0) return 0;
    int r = listen_tcp(server->http, conf->host, (uint16_t)conf->port, &server->port, err);
    if (r == 0 && conf->uds[0]) r = listen_unix(server->http, conf->uds, err);
    return r;
}

static void watchdog_feed(uv_timer_t *timer)
{
    (void)timer;
    notify_watchdog();
}

static void handles_init(struct server *server)
{
    (void)uv_signal_init(&server->loop, &server->sigterm); // these four cannot fail on a fresh loop
    (void)uv_signal_init(&server->loop, &server->sigint);
    (void)uv_timer_init(&server->loop, &server->watchdog);
    (void)uv_timer_init(&server->loop, &server->drain);
    server->sigterm.data = server->sigint.data = server->drain.data = server;
    (void)uv_signal_start(&server->sigterm, signalled, SIGTERM); // valid signals: cannot fail
    (void)uv_signal_start(&server->sigint, signalled, SIGINT);
    uint64_t watchdog_ns = notify_watchdog_ns();
    if (watchdog_ns)
        uv_timer_start(&server->watchdog, watchdog_feed, watchdog_ns / 3 / NS_PER_MS,
                       watchdog_ns / 3 / NS_PER_MS);
}

static int parts_start(struct server *server, struct err *err)
{
    /* First, so that all memory comes from these CPUs' node. */
    int r = server->conf->cpus[0] ? cpus_restrict(server->conf->cpus, err) : 0;
    if (r == 0) r = model_load(server, err);
    if (r == 0) r = metrics_new(server->model_name, server->model_len_max, &server->metrics);
    if (r == 0) r = engine_make(server, err);
    if (r == 0) r = api_make(server, err);
    if (r == 0) r = pinned_make(server, err);
    if (r == 0) r = http_make(server, err);
    if (r == 0) r = sockets_listen(server, err);
    if (r == 0) r = engine_start(server->engine, err);
    return r;
}

static void server_free(struct server *server)
{
    http_server_free(server->http);
    metrics_free(server->metrics);
    model_info_close(&server->model);
    free(server->model_name);
    free(server->worker_path);
    free(server->model_path);
    int r = uv_loop_close(&server->loop);
    if (r < 0) log_warn("closing the loop: %s", uv_strerror(r));
}

int server_run(const struct conf *conf)
{
    struct server server = {.conf = conf, .start_ns = clock_mono_ns()};
    struct err err = {0};
    (void)signal(SIGPIPE, SIG_IGN); // a write to a socket nobody reads answers EPIPE
    int r = uv_loop_init(&server.loop);
    if (r < 0) {
        log_error("event loop: %s", uv_strerror(r));
        return err_exit_status(r);
    }
    handles_init(&server);
    if (conf->progress) progress_loading(conf->model, 0);
    r = parts_start(&server, &err);
    if (r < 0) {
        if (conf->progress) progress_end();
        log_error("%s", err.text[0] ? err.text : err_name(r));
        server.exit_status = err_exit_status(r);
        pinned_free(server.pinned);
        server.pinned = NULL;
        if (server.http) http_server_stop(server.http);
        if (server.engine) engine_free(server.engine, engine_freed);
        else handles_close(&server);
    }
    (void)uv_run(&server.loop, UV_RUN_DEFAULT); // returns when every handle is closed
    server_free(&server);
    return server.exit_status;
}

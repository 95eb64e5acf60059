/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "daemon/answer.h"
#include "daemon/choice.h"
#include "daemon/conn.h"
#include "daemon/tenant.h"

enum {
    ID_BYTES = 48,
    TEXT_BYTES_MAX = 64 << 20,  // of one choice: a full context of the longest tokens
    CHUNK_BYTES_MAX = 16 << 20, // of one event: with return_token_ids the first holds the prompt
    HELD_BYTES_MAX = 64 << 10,  // of events held until the plan is out; more are sent at once
    ANSWER_BYTES_MAX = 1 << 30, // of a whole answer with log-probabilities
    TOKENIZE_IDS_MAX = 4 << 20,
};

struct request {
    struct api *api;
    struct conn *conn; // NULL: the client has gone
    enum request_goal goal;
    struct params params;
    struct prompt_source source; // a copy: the tokenize goal has a bound of its own
    struct prompt_result prompts;
    int prompt_status; // of prompt_build
    uv_work_t work;
    bool working;           // the pool thread has it
    uint32_t tenant;        // of the key that it carries
    struct choice *choices; // (choice_count), prompt by prompt
    uint32_t choice_count, started_count, finished_count;
    size_t preparing_bytes; // its part of the api's, while working
    char id[ID_BYTES];
    int64_t created_s;
    uint64_t number;
    bool stream_started;
    bool is_held;                  // in the api's list
    struct request *held_next;     // there
    struct buf held;               // events of its stream, not sent yet
    uint64_t arrival_ns, token_ns; // token_ns: of the last output token
    uint64_t deadline_ns;          // 0: none
    struct request *previous, *next;
};

static void request_free(struct request *request);

/* ---- list of live requests ---- */

static void list_add(struct request *request)
{
    struct api *api = request->api;
    request->next = api->requests;
    if (request->next) request->next->previous = request;
    api->requests = request;
}

static void list_remove(struct request *request)
{
    struct api *api = request->api;
    if (request->next) request->next->previous = request->previous;
    *(request->previous ? &request->previous->next : &api->requests) = request->next;
}

struct request *request_next(const struct request *request)
{
    return request->next;
}

/* ---- events on their way out ----
 *
 * A write to a socket costs as much as all else about a token, and wakes a client that then wants a core. So
 * events of a step are held until the next plan is with the worker. */

static void held_remove(struct request *request)
{
    struct request **at = &request->api->held;
    if (!request->is_held) return;
    while (*at != request) at = &(*at)->held_next;
    *at = request->held_next;
    request->is_held = false;
    buf_clear(&request->held);
}

/* Everybody pauses while the client does not read; request_client_drained lets them go on. */
static void choices_pause(struct request *request, bool paused)
{
    for (uint32_t i = 0; i < request->choice_count; i++)
        if (request->choices[i].generation) generation_pause(request->choices[i].generation, paused);
}

static void stream_send(struct request *request, const struct buf *out)
{
    int r = 0;
    if (out->len == 0) return;
    if (!request->stream_started)
        r = conn_stream_start(request->conn, "text/event-stream; charset=utf-8", NULL);
    request->stream_started = true;
    if (r >= 0) r = conn_stream_write(request->conn, out->bytes, out->len);
    if (r == 1) choices_pause(request, true); // a client that has gone ends by on_close
}

static void held_send(struct request *request)
{
    if (!request->is_held) return;
    stream_send(request, &request->held);
    held_remove(request);
}

void request_send_held(struct api *api)
{
    while (api->held) held_send(api->held);
}

static void stream_write(struct request *request, const struct buf *out)
{
    if (!request->api->in_events || request->held.len + out->len > HELD_BYTES_MAX ||
        buf_append(&request->held, out->bytes, out->len) < 0) { // no memory to hold it
        held_send(request);
        buf_clear(&request->held);
        stream_send(request, out);
        return;
    }
    if (request->is_held) return;
    request->is_held = true;
    request->held_next = request->api->held;
    request->api->held = request;
}

static void request_free(struct request *request)
{
    CHECK(!request->working);
    CHECK(!request->is_held);
    for (uint32_t i = 0; i < request->choice_count; i++) choice_done(&request->choices[i]);
    free(request->choices);
    prompt_result_done(&request->prompts);
    params_done(&request->params);
    buf_done(&request->held);
    list_remove(request);
    free(request);
}

/* Stops the work for nobody: the client has its answer or is gone, and conn is not ours any more. */
static void request_end(struct request *request)
{
    request->conn = NULL;
    held_remove(request);
    for (uint32_t i = 0; i < request->choice_count; i++) {
        generation_free(request->choices[i].generation);
        request->choices[i].generation = NULL;
    }
    if (!request->working) request_free(request);
}

void request_client_gone(struct request *request)
{
    metrics_request_aborted(request->api->conf.metrics);
    request_end(request);
}

/* ---- errors ---- */

static void fail(struct request *request, int status, const char *field, const char *message)
{
    CHECK(request->conn);
    metrics_request_failed(request->api->conf.metrics);
    held_send(request);
    if (request->stream_started) {
        struct buf out;
        buf_init(&out, KIB(8));
        answer_write_error_event(&out, status, message);
        (void)conn_stream_write(request->conn, out.bytes, out.len); // a client that has gone needs no error
        (void)conn_stream_end(request->conn);                       // likewise
        buf_done(&out);
    } else {
        api_refuse(request->conn, status, field, message);
    }
    request_end(request);
}

void request_abort(struct request *request, int status, const char *message)
{
    if (request->conn) fail(request, status, NULL, message);
}

/* ---- answers ---- */

static struct answer_context answer_context(const struct request *request)
{
    return (struct answer_context){
        .params = &request->params,
        .tokenizer = request->source.tokenizer,
        .id = request->id,
        .model = request->api->conf.model_name,
        .created_s = request->created_s,
        .prompts = request->prompts.prompts,
        .prompt_count = request->prompts.prompt_count,
    };
}

static struct answer_usage usage_count(const struct request *request)
{
    struct answer_usage usage = {0};
    uint32_t n = (uint32_t)request->params.n;
    for (uint32_t i = 0; i < request->choice_count; i++) {
        const struct choice *choice = &request->choices[i];
        usage.completion_tokens += choice->tokens.count;
        if (i % n) continue;
        usage.prompt_tokens += request->prompts.prompts[choice->prompt_idx].count;
        usage.cached_tokens += choice->cached_count;
    }
    return usage;
}

static void answer_whole(struct request *request)
{
    struct buf out;
    struct answer_context context = answer_context(request);
    struct answer_usage usage = usage_count(request);
    buf_init(&out, ANSWER_BYTES_MAX);
    answer_write(&out, &context, request->choices, request->choice_count, &usage);
    if (out.error) api_refuse(request->conn, 500, NULL, "the answer does not fit into memory");
    else
        (void)conn_respond(request->conn, 200, "application/json", NULL, out.bytes,
                           out.len); // gone: on_close comes
    buf_done(&out);
}

void request_client_drained(struct request *request)
{
    choices_pause(request, false);
}

/* 0, or the error of a chunk that does not fit. */
static int stream_chunk(struct request *request, struct choice *choice,
                        const struct generation_update *update)
{
    const struct params *params = &request->params;
    bool has_role = params->kind == PARAMS_CHAT && !choice->role_sent;
    /* Nothing to say: text held back, no log-probabilities, no end. */
    if (update->text_len == 0 && update->finish == FINISH_NONE && !params->logprobs &&
        !params->return_token_ids && !has_role)
        return 0;
    struct buf out;
    struct answer_context context = answer_context(request);
    struct answer_usage usage = {0};
    if (params->continuous_usage) usage = usage_count(request);
    buf_init(&out, CHUNK_BYTES_MAX);
    answer_write_chunk(&out, &context, choice, update, params->continuous_usage ? &usage : NULL);
    int r = out.error;
    if (r == 0) stream_write(request, &out);
    buf_done(&out);
    return r;
}

static void stream_finish(struct request *request)
{
    struct buf out;
    struct answer_context context = answer_context(request);
    struct answer_usage usage = usage_count(request);
    buf_init(&out, KIB(64));
    answer_write_end(&out, &context, request->params.include_usage ? &usage : NULL);
    stream_write(request, &out);
    held_send(request);                   // the last events with the end
    (void)conn_stream_end(request->conn); // gone: nobody is left to tell
    buf_done(&out);
}

/* ---- running choices ---- */

static int choice_start(struct request *request, struct choice *choice);

/* What a failed start means to the client. */
static void start_fail(struct request *request, int r)
{
    if (r == ERR_FULL) fail(request, 429, NULL, "the queue is full: try again later");
    else if (r == ERR_LIMIT)
        fail(request, 400, NULL, "the request does not fit the KV cache or the limits of a step");
    else fail(request, 500, NULL, err_name(r));
}

/* Starts the choices whose prompt is in the cache by now. 0, or negative when it cannot be and nothing is left
 * whose next update would try again. */
static int siblings_start(struct request *request)
{
    uint32_t n = (uint32_t)request->params.n;
    int r = 0;
    for (uint32_t i = 0; i < request->choice_count && r == 0; i++) {
        struct choice *choice = &request->choices[i];
        if (choice->started || request->choices[i - i % n].tokens.count == 0) continue;
        r = choice_start(request, choice);
    }
    return r == ERR_FULL && request->finished_count < request->started_count ? 0 : r;
}

static void metrics_token(struct request *request, const struct choice *choice)
{
    struct metrics *metrics = request->api->conf.metrics;
    uint64_t now_ns = clock_mono_ns();
    if (choice->tokens.count == 1) metrics_first_token(metrics, now_ns - request->arrival_ns);
    else metrics_next_token(metrics, now_ns - request->token_ns);
    request->token_ns = now_ns;
}

static void choice_report(struct request *request, const struct choice *choice)
{
    const struct generation *generation = choice->generation;
    uint64_t now_ns = clock_mono_ns(), first_ns = generation_first_ns(generation);
    uint64_t admitted_ns = generation_admitted_ns(generation); // set whenever first_ns is
    struct metrics_request report = {
        .finish = choice->finish == FINISH_LENGTH ? METRICS_LENGTH
                  : choice->finish == FINISH_STOP ? METRICS_STOP
                                                  : METRICS_ERROR,
        .prompt_tokens = (uint32_t)request->prompts.prompts[choice->prompt_idx].count,
        .cached_tokens = choice->cached_count,
        .output_tokens = choice->tokens.count,
        .max_tokens = request->params.max_tokens < 0 ? 0 : (uint32_t)request->params.max_tokens,
        .n = (uint32_t)request->params.n,
        .e2e_ns = now_ns - request->arrival_ns,
        .queue_ns = first_ns ? admitted_ns - generation_started_ns(generation) : 0,
        .prefill_ns = first_ns ? first_ns - admitted_ns : 0,
        .decode_ns = first_ns ? now_ns - first_ns : 0,
    };
    metrics_request_done(request->api->conf.metrics, &report);
}

static void choice_updated(void *owner, const struct generation_update *update)
{
    struct choice *choice = owner;
    struct request *request = choice->request;
    if (choice_record(choice, update) < 0) {
        fail(request, 500, NULL, "out of memory");
        return;
    }
    if (update->token) metrics_token(request, choice);
    if (update->finish == FINISH_TIMEOUT) {
        fail(request, 408, NULL, "the request was not finished within its timeout: try again later");
        return;
    }
    if (update->finish == FINISH_ERROR) {
        fail(request, 500, NULL, "the model could not compute this request");
        return;
    }
    if (request->params.stream && stream_chunk(request, choice, update) < 0) {
        fail(request, 500, NULL, "the answer does not fit into memory");
        return;
    }
    if (update->finish != FINISH_NONE) {
        choice_report(request, choice);
        generation_free(choice->generation);
        choice->generation = NULL;
        request->finished_count++;
    }
    if (request->started_count < request->choice_count) {
        int r = siblings_start(request);
        if (r < 0) {
            start_fail(request, r); // frees the request
            return;
        }
    }
    if (request->finished_count < request->choice_count) return;
    if (request->params.stream) stream_finish(request);
    else answer_whole(request);
    request_end(request);
}

static uint64_t choice_seed(const struct request *request, const struct choice *choice)
{
    uint32_t k = choice->index % (uint32_t)request->params.n;
    if (request->params.seed_given) return request->params.sampling.seed + k; // as vLLM
    uint64_t parts[3] = {request->api->conf.seed, request->number, choice->index};
    return hash64(parts, sizeof parts);
}

static struct hash128 salt_of(const struct request *request)
{
    const char *key = request->tenant ? request->api->conf.keys[request->tenant - 1] : NULL;
    return tenant_salt(key, request->params.cache_salt);
}

static int choice_start(struct request *request, struct choice *choice)
{
    const struct params *params = &request->params;
    const struct token_list *prompt = &request->prompts.prompts[choice->prompt_idx];
    uint32_t room = request->source.model_len_max - (uint32_t)prompt->count;
    uint32_t output_max = params->max_tokens >= 0 && (uint32_t)params->max_tokens < room
                              ? (uint32_t)params->max_tokens
                              : room;
    struct generation_params generation = {
        .prompt = prompt->ids,
        .prompt_count = (uint32_t)prompt->count,
        .output_max = output_max,
        .sampling = params->sampling,
        .biases = params->biases,
        .bias_count = params->bias_count,
        .stops = params->stops,
        .stop_count = params->stop_count,
        .stop_tokens = params->stop_tokens,
        .stop_token_count = params->stop_token_count,
        .min_tokens = (uint32_t)params->min_tokens,
        .ignore_end = params->ignore_eos,
        .include_stop = params->include_stop,
        .skip_special = params->skip_special,
        .score_prompt = params->prompt_logprobs >= 0 || (params->echo && params->logprobs),
        .priority = params->priority,
        .arrival_ns = request->arrival_ns,
        .deadline_ns = request->deadline_ns,
    };
    generation.sampling.seed = choice_seed(request, choice);
    if (params->prompt_logprobs > (int32_t)generation.sampling.logprobs)
        generation.sampling.logprobs = (uint32_t)params->prompt_logprobs;
    struct retain_range retains[RETAIN_RANGES_MAX];
    generation.retains = retains;
    generation.retain_count = params_retains(params, (uint32_t)prompt->count, retains);
    generation.tenant = request->tenant;
    generation.salt = salt_of(request);
    int r = generation_start(request->api->conf.engine, request->source.tokenizer, &generation,
                             choice_updated, choice, &choice->generation);
    if (r < 0) return r;
    choice->started = true;
    request->started_count++;
    return 0;
}

/* ---- after the pool thread ---- */

static bool room_check(struct request *request)
{
    char text[192];
    uint32_t len_max = request->source.model_len_max;
    bool chat = request->params.kind == PARAMS_CHAT;
    for (uint32_t i = 0; i < request->prompts.prompt_count; i++) {
        uint64_t count = request->prompts.prompts[i].count;
        uint64_t wanted = request->params.max_tokens < 0 ? 1 : (uint64_t)request->params.max_tokens;
        if (count + wanted <= len_max) continue;
        bool prompt_alone = count >= len_max;
        (void)snprintf(text, sizeof text,
                       "This model's maximum context length is %u tokens. However, you requested %" PRIu64
                       " tokens (%" PRIu64 " in the %s, %" PRIu64 " in the completion)",
                       len_max, count + wanted, count, chat ? "messages" : "prompt", wanted); // fits
        fail(request, 400, prompt_alone ? (chat ? "messages" : "prompt") : "max_tokens", text);
        return false;
    }
    return true;
}

static void generate(struct request *request)
{
    uint32_t n = (uint32_t)request->params.n;
    if (!room_check(request)) return;
    request->choice_count = request->prompts.prompt_count * n;
    request->choices = calloc(request->choice_count, sizeof *request->choices);
    if (!request->choices) {
        request->choice_count = 0;
        fail(request, 500, NULL, "out of memory");
        return;
    }
    for (uint32_t i = 0; i < request->choice_count; i++)
        choice_init(&request->choices[i], request, i, i / n, TEXT_BYTES_MAX);
    for (uint32_t i = 0; i < request->choice_count; i += n) {
        int r = choice_start(request, &request->choices[i]);
        if (r == 0) continue;
        start_fail(request, r);
        return;
    }
}

static void put_token_strings(struct buf *out, const struct request *request, const struct token_list *prompt)
{
    buf_puts(out, ",\"token_strs\":[");
    for (size_t i = 0; i < prompt->count; i++) {
        size_t len;
        const uint8_t *bytes = tokenizer_token_bytes(request->source.tokenizer, prompt->ids[i], &len);
        if (i) buf_putc(out, ',');
        buf_put_json_string(out, bytes, len);
    }
    buf_putc(out, ']');
}

static void tokens_answer(struct request *request)
{
    struct buf out;
    const struct token_list *prompt = &request->prompts.prompts[0];
    buf_init(&out, ANSWER_BYTES_MAX);
    buf_printf(&out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", prompt->count,
               request->api->conf.source.model_len_max);
    for (size_t i = 0; i < prompt->count; i++) buf_printf(&out, "%s%" PRIu32, i ? "," : "", prompt->ids[i]);
    buf_putc(&out, ']');
    if (request->params.return_token_strings) put_token_strings(&out, request, prompt);
    buf_putc(&out, '}');
    if (out.error) api_refuse(request->conn, 500, NULL, "the answer does not fit into memory");
    else
        (void)conn_respond(request->conn, 200, "application/json", NULL, out.bytes,
                           out.len); // gone: on_close comes
    buf_done(&out);
    request_end(request);
}

static void prompt_work(uv_work_t *work)
{
    struct request *request = work->data;
    request->prompt_status = prompt_build(&request->source, &request->params, request->created_s,
                                          &request->prompts);
    params_drop_prompt(&request->params);
}

static void prompt_ready(uv_work_t *work, int status)
{
    struct request *request = work->data;
    request->working = false;
    request->api->preparing_bytes -= request->preparing_bytes;
    if (!request->conn) {
        request_free(request);
    } else if (status < 0 || request->api->draining) {
        fail(request, 503, NULL, "the server is shutting down");
    } else if (request->prompt_status < 0) {
        const struct params_error *error = &request->prompts.error;
        fail(request, error->status, error->field, error->err.text);
    } else if (request->goal == REQUEST_TOKENIZE) {
        tokens_answer(request);
    } else {
        generate(request);
    }
}

/* ---- start ---- */

static void id_make(struct request *request)
{
    struct {
        uint8_t secret[16];
        uint64_t number;
    } seed;
    memcpy(seed.secret, request->api->id_secret, sizeof seed.secret);
    seed.number = request->number;
    struct hash128 id = hash128(&seed, sizeof seed);
    (void)snprintf(request->id, sizeof request->id, "%s-%016" PRIx64 "%016" PRIx64,
                   request->params.kind == PARAMS_CHAT ? "chatcmpl" : "cmpl", id.high, id.low); // fits
}

void request_start(struct api *api, struct conn *conn, struct params *params, enum request_goal goal)
{
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        params_done(params);
        api_refuse(conn, 500, NULL, "out of memory");
        return;
    }
    *request = (struct request){
        .api = api,
        .conn = conn,
        .goal = goal,
        .params = *params,
        .source = api->conf.source,
        .tenant = api->tenant,
        .number = api->request_count++,
        .created_s = (int64_t)(clock_wall_ns() / NS_PER_S),
        .arrival_ns = clock_mono_ns(),
    };
    buf_init(&request->held, HELD_BYTES_MAX);
    if (params->timeout_s > 0)
        request->deadline_ns = request->arrival_ns + (uint64_t)((double)params->timeout_s * NS_PER_S);
    *params = (struct params){0};
    if (goal == REQUEST_TOKENIZE) request->source.model_len_max = TOKENIZE_IDS_MAX;
    id_make(request);
    list_add(request);
    conn_set_user(conn, request);
    conn_drop_body(conn);
    request->work.data = request;
    int r = uv_queue_work(api->conf.loop, &request->work, prompt_work, prompt_ready);
    if (r < 0) {
        fail(request, 500, NULL, uv_strerror(r));
        return;
    }
    request->working = true;
    request->preparing_bytes = request->params.json_bytes;
    api->preparing_bytes += request->preparing_bytes;
}

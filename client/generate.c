/* SPDX-License-Identifier: Apache-2.0 */
/* generate - the four calls that make text: request.c writes the body, http.c carries it, sse.c cuts
 * the stream into events, answer.c reads them. */
#include <errno.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/answer.h"
#include "client/client.h"
#include "client/fail.h"
#include "client/http.h"
#include "client/request.h"
#include "client/sse.h"
#include "common/base/clock.h"

static const char *const PATHS[] = {
    [REQUEST_CHAT] = "/v1/chat/completions",
    [REQUEST_COMPLETE] = "/v1/completions",
};

struct stream {
    struct sse sse;
    struct kvasir_answer *answer; // borrowed
    struct kvasir_error *error;   // borrowed; may be NULL
};

static int on_event(void *user, const char *name, const char *data, size_t data_bytes)
{
    (void)name; // the OpenAI API names none
    struct stream *stream = user;
    if (strcmp(data, "[DONE]") == 0) return HTTP_STREAM_DONE;
    return answer_read(stream->answer, data, data_bytes, stream->error);
}

static int on_stream(void *user, const char *bytes, size_t len)
{
    struct stream *stream = user;
    int r = sse_feed(&stream->sse, bytes, len);
    if (r == -EMSGSIZE || r == -ENOMEM) return fail_buf(stream->error, r, "an event of the stream");
    return r;
}

/* An answer in one piece, also where a stream was asked for and the server does not stream. */
static int read_body(struct kvasir_answer *answer, struct http_reply *reply, struct kvasir_error *error)
{
    int r = answer_read(answer, buf_text(&reply->body), reply->body.len, error);
    if (r < 0) return r;
    if (answer->choice_count == 0) return fail(error, KVASIR_ERR_PROTOCOL, "the answer has no choices");
    size_t len;
    answer->json = buf_take(&reply->body, &len);
    return 0;
}

static int exchange(struct kvasir_client *client, struct http_order *order, struct kvasir_answer *answer,
                    struct kvasir_error *error)
{
    struct stream stream = {.answer = answer, .error = error};
    struct http_reply reply;
    order->user = &stream;
    sse_init(&stream.sse, client->event_bytes_max, on_event, &stream);
    int r = http_run(client, order, &reply, error);
    sse_done(&stream.sse);
    if (r < 0) return r;
    if (!reply.is_stream) {
        r = read_body(answer, &reply, error);
    } else if (!reply.is_done) {
        r = fail(error, KVASIR_ERR_LOST, "the stream ended before its [DONE]");
    }
    buf_done(&reply.body);
    return r;
}

static int generate(struct kvasir_client *client, const struct kvasir_request *given, enum request_kind kind,
                    struct kvasir_answer *answer, http_stream_callback *stream_callback,
                    struct kvasir_error *error)
{
    struct kvasir_request request;
    char *body = NULL;
    int r = request_copy(given, &request, error);
    if (r < 0) return r;
    r = request_body(&request, kind, stream_callback != NULL, &body, error);
    if (r < 0) return r;
    struct http_order order = {
        .path = PATHS[kind],
        .body = body,
        .body_bytes = strlen(body),
        .total_timeout_ms = client->total_timeout_ms,
        .cancel = request.cancel,
        .on_stream = stream_callback,
    };
    r = exchange(client, &order, answer, error);
    cJSON_free(body);
    return r;
}

static int call(struct kvasir_client *client, const struct kvasir_request *request, enum request_kind kind,
                kvasir_delta_callback *on_delta, void *user, http_stream_callback *stream_callback,
                struct kvasir_answer **ret_answer, struct kvasir_error *error)
{
    struct kvasir_answer *answer = NULL;
    fail_clear(error);
    if (client == NULL) return fail(error, KVASIR_ERR_ARGUMENT, "client: NULL");
    if (answer_new(client->body_bytes_max, &answer) < 0)
        return fail(error, KVASIR_ERR_MEMORY, "out of memory");
    answer->on_delta = on_delta;
    answer->user = user;
    int r = generate(client, request, kind, answer, stream_callback, error);
    answer->total_ns = clock_mono_ns() - answer->start_ns;
    if (answer->first_ns == 0) answer->first_ns = answer->total_ns;
    if (r == 0 && ret_answer != NULL) {
        *ret_answer = answer;
        return 0;
    }
    kvasir_answer_free(answer);
    return r;
}

int kvasir_chat(struct kvasir_client *client, const struct kvasir_request *request,
                struct kvasir_answer **ret_answer, struct kvasir_error *error)
{
    return call(client, request, REQUEST_CHAT, NULL, NULL, NULL, ret_answer, error);
}

int kvasir_complete(struct kvasir_client *client, const struct kvasir_request *request,
                    struct kvasir_answer **ret_answer, struct kvasir_error *error)
{
    return call(client, request, REQUEST_COMPLETE, NULL, NULL, NULL, ret_answer, error);
}

int kvasir_chat_stream(struct kvasir_client *client, const struct kvasir_request *request,
                       kvasir_delta_callback *on_delta, void *user, struct kvasir_answer **ret_answer,
                       struct kvasir_error *error)
{
    return call(client, request, REQUEST_CHAT, on_delta, user, on_stream, ret_answer, error);
}

int kvasir_complete_stream(struct kvasir_client *client, const struct kvasir_request *request,
                           kvasir_delta_callback *on_delta, void *user, struct kvasir_answer **ret_answer,
                           struct kvasir_error *error)
{
    return call(client, request, REQUEST_COMPLETE, on_delta, user, on_stream, ret_answer, error);
}

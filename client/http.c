/* SPDX-License-Identifier: Apache-2.0 */
/* http - see http.h. The loop is curl_multi_perform and curl_multi_poll on a multi handle of one, not
 * curl_easy_perform: only a poll can be woken by the cancel descriptor and by our own deadlines. */
#include "client/http.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "client/cancel.h"
#include "client/client.h"
#include "client/fail.h"
#include "common/base/check.h"
#include "common/base/clock.h"

/* How long a finished stream may take to end its HTTP body, so that its connection can be kept. */
enum { STREAM_END_GRACE_MS = 200, POLL_MS_MAX = 60000 };

struct exchange {
    const struct kvasir_client *client;
    const struct http_order *order;
    struct kvasir_error *error;
    CURL *easy;
    char curl_text[CURL_ERROR_SIZE];
    long status;              // of the last header block; set by decide()
    curl_off_t retry_after_s; // 0: none; set by decide()
    bool is_stream;           // decided at the first body byte
    bool is_decided;          //
    bool is_done;             // the stream said so
    int stopped;              // negative code why a callback of ours stopped curl
    size_t header_bytes;      // of all header blocks
    uint64_t stream_bytes;    // handed to on_stream
    struct buf body;          //
    uint64_t start_ns;        //
    uint64_t active_ns;       // when bytes last moved
    uint64_t done_ns;         // when is_done was set
    curl_off_t moved_bytes;   // both ways, as curl last told
};

static void lane_close(struct http_lane *lane)
{
    if (lane == NULL) return;
    curl_easy_cleanup(lane->easy);
    (void)curl_multi_cleanup(lane->multi); // its only handle is off it
    free(lane);
}

void http_lanes_close(struct http_lane *first)
{
    while (first != NULL) {
        struct http_lane *next = first->next;
        lane_close(first);
        first = next;
    }
}

static struct http_lane *lane_take(struct kvasir_client *client)
{
    pthread_mutex_lock(&client->lock);
    struct http_lane *lane = client->idle;
    if (lane != NULL) {
        client->idle = lane->next;
        client->idle_count--;
    }
    pthread_mutex_unlock(&client->lock);
    if (lane != NULL) return lane;

    lane = calloc(1, sizeof(*lane));
    if (lane == NULL) return NULL;
    lane->multi = curl_multi_init();
    lane->easy = curl_easy_init();
    if (lane->multi == NULL || lane->easy == NULL) {
        lane_close(lane);
        return NULL;
    }
    (void)curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, 1L); // a hint; the default works too
    return lane;
}

static void lane_give(struct kvasir_client *client, struct http_lane *lane)
{
    pthread_mutex_lock(&client->lock);
    bool is_kept = client->idle_count < CLIENT_LANES_IDLE_MAX;
    if (is_kept) {
        lane->next = client->idle;
        client->idle = lane;
        client->idle_count++;
    }
    pthread_mutex_unlock(&client->lock);
    if (!is_kept) lane_close(lane);
}

/* Called for every header line; lines of 1xx and of trailers too. */
static size_t on_header(char *bytes, size_t size, size_t count, void *user)
{
    (void)bytes;
    struct exchange *x = user;
    x->active_ns = clock_mono_ns();
    x->header_bytes += size * count;
    if (x->header_bytes > HTTP_REPLY_HEADER_BYTES_MAX) {
        x->stopped = fail(x->error, KVASIR_ERR_LIMIT, "the server's header is larger than %d bytes",
                          HTTP_REPLY_HEADER_BYTES_MAX);
        return 0;
    }
    return size * count;
}

static void decide(struct exchange *x)
{
    char *type = NULL;
    (void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &x->status); // knows its own handle
    (void)curl_easy_getinfo(x->easy, CURLINFO_CONTENT_TYPE, &type);
    (void)curl_easy_getinfo(x->easy, CURLINFO_RETRY_AFTER, &x->retry_after_s);
    x->is_stream = x->order->on_stream != NULL && x->status >= 200 && x->status < 300 && type != NULL &&
                   strncasecmp(type, "text/event-stream", strlen("text/event-stream")) == 0;
    x->is_decided = true;
}

static int take_stream(struct exchange *x, const char *bytes, size_t len)
{
    if (x->is_done) return 0;
    x->stream_bytes += len;
    if (x->stream_bytes > x->client->stream_bytes_max)
        return fail(x->error, KVASIR_ERR_LIMIT, "the stream is longer than %zu bytes",
                    x->client->stream_bytes_max);
    int r = x->order->on_stream(x->order->user, bytes, len);
    if (r == HTTP_STREAM_DONE) {
        x->is_done = true;
        x->done_ns = clock_mono_ns();
    }
    return r < 0 ? r : 0;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct exchange *x = user;
    size_t len = size * count;
    x->active_ns = clock_mono_ns();
    if (!x->is_decided) decide(x);
    int r;
    if (x->is_stream) {
        r = take_stream(x, bytes, len);
    } else {
        r = buf_append(&x->body, bytes, len);
        if (r < 0) r = fail_buf(x->error, r, "the answer's body");
    }
    if (r < 0) {
        x->stopped = r;
        return len == 0 ? 1 : 0; // anything but len stops the transfer
    }
    return len;
}

/* Notices bytes moving that the other two do not see: an upload. */
static int on_progress(void *user, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    (void)down_total;
    (void)up_total;
    struct exchange *x = user;
    if (down + up != x->moved_bytes) x->active_ns = clock_mono_ns();
    x->moved_bytes = down + up;
    return 0;
}

static bool list_add(struct curl_slist **list, const char *text)
{
    struct curl_slist *longer = curl_slist_append(*list, text);
    if (longer != NULL) *list = longer;
    return longer != NULL;
}

int http_easy_prepare(const struct kvasir_client *client, CURL *easy, const char *path, const char *body,
                      size_t body_bytes, struct curl_slist **ret_headers)
{
    struct curl_slist *headers = NULL;
    struct buf url;
    buf_init(&url, 16 << 10);
    bool ok = buf_printf(&url, "%s%s", client->base_url, path) == 0;
    ok = ok && curl_easy_setopt(easy, CURLOPT_URL, buf_text(&url)) == CURLE_OK; // copied
    buf_done(&url);
    if (client->uds != NULL)
        ok = ok && curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, client->uds) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_USERAGENT, client->user_agent) == CURLE_OK;
    ok = ok &&
         curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK; // not the environment's: the address is meant
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    if (client->auth_header != NULL) ok = ok && list_add(&headers, client->auth_header);
    if (body != NULL) {
        /* No Expect: a round trip before every long prompt would cost more than it saves. */
        ok = ok && list_add(&headers, "Content-Type: application/json") && list_add(&headers, "Expect:");
        ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_bytes) == CURLE_OK;
        ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body) == CURLE_OK;
    }
    ok = ok && curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers) == CURLE_OK;
    if (!ok) {
        curl_slist_free_all(headers);
        return KVASIR_ERR_MEMORY;
    }
    /* These take a number, a function or a pointer as it is, and cannot fail on a known option. */
    (void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_HTTP09_ALLOWED, 0L);
    long connect_ms = client->connect_timeout_ms;
    if (connect_ms < 0 || connect_ms > INT_MAX) connect_ms = INT_MAX;
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    *ret_headers = headers;
    return 0;
}

/* The code and the line of a transfer that curl ended. */
static int translate(struct exchange *x, CURLcode code)
{
    if (x->stopped < 0) return x->stopped;
    const char *why = x->curl_text[0] != '\0' ? x->curl_text : curl_easy_strerror(code);
    const char *where = x->client->uds != NULL ? x->client->uds : x->client->base_url;
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
        return fail(x->error, KVASIR_ERR_CONNECT, "cannot connect to %s: %s", where, why);
    case CURLE_OPERATION_TIMEDOUT:
        return fail(x->error, KVASIR_ERR_TIMEOUT, "cannot connect to %s within %" PRId64 " ms", where,
                    x->client->connect_timeout_ms);
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
        return fail(x->error, KVASIR_ERR_LOST, "%s: the connection ended before the answer did: %s", where,
                    why);
    case CURLE_OUT_OF_MEMORY: return fail(x->error, KVASIR_ERR_MEMORY, "out of memory");
    default:
        return fail(x->error, KVASIR_ERR_PROTOCOL, "%s does not speak HTTP as it should: %s", where, why);
    }
}

static uint64_t deadline_ns(uint64_t from_ns, int64_t ms)
{
    if (ms < 0 || (uint64_t)ms > (UINT64_MAX - from_ns) / NS_PER_MS) return UINT64_MAX;
    return from_ns + (uint64_t)ms * NS_PER_MS;
}

/* Milliseconds until the nearest deadline, rounded up; 0 or a negative code when one has passed.
 * *ret_wait_ms is set on 0. */
static int check_times(struct exchange *x, int *ret_wait_ms)
{
    uint64_t now_ns = clock_mono_ns();
    if (x->is_done && now_ns >= deadline_ns(x->done_ns, STREAM_END_GRACE_MS)) return HTTP_STREAM_DONE;
    uint64_t idle_ns = deadline_ns(x->active_ns, x->client->idle_timeout_ms);
    uint64_t total_ns = deadline_ns(x->start_ns, x->order->total_timeout_ms);
    if (now_ns >= total_ns)
        return fail(x->error, KVASIR_ERR_TIMEOUT, "%s was not answered within %" PRId64 " ms", x->order->path,
                    x->order->total_timeout_ms);
    if (now_ns >= idle_ns)
        return fail(x->error, KVASIR_ERR_TIMEOUT, "the server was silent for %" PRId64 " ms on %s",
                    x->client->idle_timeout_ms, x->order->path);
    uint64_t next_ns = idle_ns < total_ns ? idle_ns : total_ns;
    if (x->is_done) next_ns = deadline_ns(x->done_ns, STREAM_END_GRACE_MS);
    uint64_t wait_ms = (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
    *ret_wait_ms = wait_ms < POLL_MS_MAX ? (int)wait_ms : POLL_MS_MAX;
    return 0;
}

/* Drives the transfer to its end. 0 or a negative code with the text set. */
static int drive(struct exchange *x, struct http_lane *lane)
{
    struct kvasir_cancel *cancel = x->order->cancel;
    for (;;) {
        int running = 0, wait_ms = 0, queued = 0;
        if (curl_multi_perform(lane->multi, &running) != CURLM_OK)
            return fail(x->error, KVASIR_ERR_MEMORY, "libcurl cannot go on");
        CURLMsg *message = curl_multi_info_read(lane->multi, &queued);
        if (message != NULL && message->msg == CURLMSG_DONE) {
            CURLcode code = message->data.result;
            if (code == CURLE_OK || (x->is_done && x->stopped == 0)) return 0;
            return translate(x, code);
        }
        if (cancel_is_set(cancel)) return fail(x->error, KVASIR_ERR_CANCELLED, "cancelled");
        int r = check_times(x, &wait_ms);
        if (r != 0) return r == HTTP_STREAM_DONE ? 0 : r;
        struct curl_waitfd wake = {.fd = cancel != NULL ? cancel->fd : -1, .events = CURL_WAIT_POLLIN};
        if (curl_multi_poll(lane->multi, cancel != NULL ? &wake : NULL, cancel != NULL ? 1 : 0, wait_ms,
                            NULL) != CURLM_OK)
            return fail(x->error, KVASIR_ERR_MEMORY, "libcurl cannot wait");
    }
}

static int run_on_lane(struct exchange *x, struct http_lane *lane)
{
    struct curl_slist *headers = NULL;
    x->easy = lane->easy;
    curl_easy_reset(lane->easy); // keeps the connection, drops every option
    int r = http_easy_prepare(x->client, lane->easy, x->order->path, x->order->body, x->order->body_bytes,
                              &headers);
    if (r < 0) return fail(x->error, r, "out of memory for a request");
    (void)curl_easy_setopt(lane->easy, CURLOPT_ERRORBUFFER, x->curl_text); // as in http_easy_prepare
    (void)curl_easy_setopt(lane->easy, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(lane->easy, CURLOPT_HEADERDATA, x);
    (void)curl_easy_setopt(lane->easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(lane->easy, CURLOPT_WRITEDATA, x);
    (void)curl_easy_setopt(lane->easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(lane->easy, CURLOPT_XFERINFODATA, x);
    (void)curl_easy_setopt(lane->easy, CURLOPT_NOPROGRESS, 0L);
    if (curl_multi_add_handle(lane->multi, lane->easy) != CURLM_OK) {
        r = fail(x->error, KVASIR_ERR_MEMORY, "libcurl takes no request");
    } else {
        r = drive(x, lane);
        if (r == 0 && !x->is_decided) decide(x); // a reply without a body
        /* Off the multi: a transfer cut midway closes its connection here, a whole one keeps it. */
        (void)curl_multi_remove_handle(lane->multi, lane->easy);
    }
    curl_easy_reset(lane->easy); // no pointer into *x survives
    curl_slist_free_all(headers);
    return r;
}

int http_run(struct kvasir_client *client, const struct http_order *order, struct http_reply *ret_reply,
             struct kvasir_error *error)
{
    CHECK(order->path[0] == '/');
    if (cancel_is_set(order->cancel)) return fail(error, KVASIR_ERR_CANCELLED, "cancelled");
    struct http_lane *lane = lane_take(client);
    if (lane == NULL) return fail(error, KVASIR_ERR_MEMORY, "out of memory for a connection");
    uint64_t now_ns = clock_mono_ns();
    struct exchange x = {
        .client = client, .order = order, .error = error, .start_ns = now_ns, .active_ns = now_ns};
    buf_init(&x.body, client->body_bytes_max);
    int r = run_on_lane(&x, lane);
    if (r == 0 && (x.status < 200 || x.status >= 300)) { // redirects are not followed: the key would go along
        if (error != NULL && x.retry_after_s > 0)
            error->retry_after_s = x.retry_after_s < INT32_MAX ? (int32_t)x.retry_after_s : INT32_MAX;
        r = fail_http(error, x.status, order->path, buf_text(&x.body), x.body.len);
    }
    lane_give(client, lane);
    if (r < 0) {
        buf_done(&x.body);
        return r;
    }
    *ret_reply = (struct http_reply){
        .status = x.status, .is_stream = x.is_stream, .is_done = x.is_done, .body = x.body};
    return 0;
}

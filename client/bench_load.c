/* SPDX-License-Identifier: Apache-2.0 */
/* bench_load - the loop. A slot is one request under way; a finished one is refilled at once, so that
 * the concurrency holds until the requests run out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cjson/cJSON.h>
#include <curl/curl.h>

#include "client/answer.h"
#include "client/bench.h"
#include "client/cancel.h"
#include "client/client.h"
#include "client/fail.h"
#include "client/http.h"
#include "client/sse.h"
#include "common/base/check.h"
#include "common/base/clock.h"

enum { EVENT_BYTES_MAX = 4 << 20, BODY_BYTES_MAX = 64 << 20, POLL_MS = 1000 };

struct slot {
    struct load *load;
    CURL *easy; // owned; NULL while the slot is empty
    struct curl_slist *headers;
    char *body; // owned
    char curl_text[CURL_ERROR_SIZE];
    struct sse sse;               // of a stream
    struct buf reply;             // of anything else
    struct kvasir_answer *answer; // owned
    struct kvasir_error error;    // of this request
    bool is_decided, is_stream;   // set at the first byte of the body
    bool is_done;                 // [DONE] was seen
    int64_t texts;                // events with text
    uint64_t start_ns, first_ns, last_ns;
};

struct load {
    struct kvasir_client *client;
    const struct bench_config *config;
    struct bench_result *result;
    CURLM *multi;
    struct slot *slots; // (concurrency)
    int64_t next_idx, end_idx, finished;
    uint64_t start_ns, last_ns; // of the run; of its last good end
    bool is_out_of_memory;
};

/* ---- what comes in ---- */

static int on_delta(void *user, const struct kvasir_delta *delta)
{
    struct slot *slot = user;
    if (delta->text_bytes == 0 && delta->reasoning_bytes == 0) return 0;
    uint64_t now_ns = clock_mono_ns();
    if (slot->texts == 0) {
        slot->first_ns = now_ns;
    } else if (slot->is_stream &&
               bench_values_push(&slot->load->result->gap_s, (double)(now_ns - slot->last_ns) / 1e9) < 0) {
        slot->load->is_out_of_memory = true;
    }
    slot->texts++;
    slot->last_ns = now_ns;
    return 0;
}

static int on_event(void *user, const char *name, const char *data, size_t data_bytes)
{
    (void)name;
    struct slot *slot = user;
    if (strcmp(data, "[DONE]") == 0) {
        slot->is_done = true;
        return HTTP_STREAM_DONE;
    }
    return answer_read(slot->answer, data, data_bytes, &slot->error);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct slot *slot = user;
    size_t len = size * count;
    if (!slot->is_decided) {
        long status = 0;
        char *type = NULL;
        (void)curl_easy_getinfo(slot->easy, CURLINFO_RESPONSE_CODE, &status); // knows its own handle
        (void)curl_easy_getinfo(slot->easy, CURLINFO_CONTENT_TYPE, &type);
        slot->is_stream = status == 200 && type != NULL && strncasecmp(type, "text/event-stream", 17) == 0;
        slot->is_decided = true;
    }
    if (slot->is_done) return len;
    int r = slot->is_stream ? sse_feed(&slot->sse, bytes, len) : buf_append(&slot->reply, bytes, len);
    if (r == -EMSGSIZE || r == -ENOMEM) r = fail_buf(&slot->error, r, "an answer");
    return r < 0 ? (len == 0 ? 1 : 0) : len;
}

/* ---- slots ---- */

static void slot_clear(struct slot *slot)
{
    if (slot->easy != NULL) {
        (void)curl_multi_remove_handle(slot->load->multi, slot->easy); // also when it was never added
        curl_easy_cleanup(slot->easy);
        sse_done(&slot->sse);
        buf_done(&slot->reply);
    }
    curl_slist_free_all(slot->headers);
    cJSON_free(slot->body);
    kvasir_answer_free(slot->answer);
    *slot = (struct slot){.load = slot->load};
}

static int slot_start(struct slot *slot, int64_t idx)
{
    struct load *load = slot->load;
    const struct bench_config *config = load->config;
    fail_clear(&slot->error);
    int r = bench_prompt(config, idx, &slot->body, &slot->error);
    if (r < 0) return r;
    if (answer_new(BODY_BYTES_MAX, &slot->answer) < 0) return KVASIR_ERR_MEMORY;
    slot->answer->on_delta = on_delta;
    slot->answer->user = slot;
    slot->easy = curl_easy_init();
    if (slot->easy == NULL) return KVASIR_ERR_MEMORY;
    sse_init(&slot->sse, EVENT_BYTES_MAX, on_event, slot);
    buf_init(&slot->reply, BODY_BYTES_MAX);
    r = http_easy_prepare(load->client, slot->easy,
                          config->is_chat ? "/v1/chat/completions" : "/v1/completions", slot->body,
                          strlen(slot->body), &slot->headers);
    if (r < 0) return r;
    (void)curl_easy_setopt(slot->easy, CURLOPT_ERRORBUFFER,
                           slot->curl_text); // take numbers and pointers as they are
    (void)curl_easy_setopt(slot->easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(slot->easy, CURLOPT_WRITEDATA, slot);
    (void)curl_easy_setopt(slot->easy, CURLOPT_PRIVATE, slot);
    (void)curl_easy_setopt(slot->easy, CURLOPT_TIMEOUT_MS, (long)(1000 * config->timeout_s));
    slot->start_ns = clock_mono_ns();
    return curl_multi_add_handle(load->multi, slot->easy) == CURLM_OK ? 0 : KVASIR_ERR_MEMORY;
}

/* Judges a finished request: 0 or a negative code with slot->error set. */
static int slot_judge(struct slot *slot, CURLcode code)
{
    if (slot->error.code < 0) return slot->error.code; // a callback of ours stopped it
    long status = 0;
    (void)curl_easy_getinfo(slot->easy, CURLINFO_RESPONSE_CODE, &status); // knows its own handle
    if (code != CURLE_OK && !slot->is_done) {
        int r = code == CURLE_COULDNT_CONNECT      ? KVASIR_ERR_CONNECT
                : code == CURLE_OPERATION_TIMEDOUT ? KVASIR_ERR_TIMEOUT
                                                   : KVASIR_ERR_LOST;
        return fail(&slot->error, r, "%s", slot->curl_text[0] ? slot->curl_text : curl_easy_strerror(code));
    }
    const char *path = slot->load->config->is_chat ? "/v1/chat/completions" : "/v1/completions";
    if (status != 200) return fail_http(&slot->error, status, path, buf_text(&slot->reply), slot->reply.len);
    if (!slot->is_stream)
        return answer_read(slot->answer, buf_text(&slot->reply), slot->reply.len, &slot->error);
    if (!slot->is_done) return fail(&slot->error, KVASIR_ERR_LOST, "the stream ended before its [DONE]");
    return 0;
}

static void slot_record(struct slot *slot)
{
    struct bench_result *result = slot->load->result;
    uint64_t now_ns = clock_mono_ns();
    double whole_s = (double)(now_ns - slot->start_ns) / 1e9;
    const struct kvasir_usage *usage = kvasir_answer_usage(slot->answer);
    int64_t tokens = usage != NULL ? usage->completion_tokens : slot->texts;
    int r = bench_values_push(&result->whole_s, whole_s);
    if (slot->is_stream && slot->texts > 0) {
        double first_s = (double)(slot->first_ns - slot->start_ns) / 1e9;
        if (r == 0) r = bench_values_push(&result->first_s, first_s);
        if (r == 0 && tokens > 1)
            r = bench_values_push(&result->token_s, (whole_s - first_s) / (double)(tokens - 1));
    }
    if (r < 0) slot->load->is_out_of_memory = true;
    result->ok_count++;
    result->output_tokens += tokens;
    if (usage != NULL) result->prompt_tokens += usage->prompt_tokens;
    if (usage != NULL && usage->cached_tokens >= 0) {
        result->cached_tokens += usage->cached_tokens;
        result->is_cached_told = true;
    }
    slot->load->last_ns = now_ns;
}

static void slot_finish(struct slot *slot, CURLcode code)
{
    struct load *load = slot->load;
    if (slot_judge(slot, code) == 0) {
        slot_record(slot);
    } else {
        load->result->failed_count++;
        if (load->result->first_error.code == 0) load->result->first_error = slot->error;
    }
    load->finished++;
    slot_clear(slot);
}

/* ---- the loop ---- */

static bool is_time_over(const struct load *load)
{
    int64_t bound_s = load->config->duration_s;
    return bound_s > 0 && clock_mono_ns() - load->start_ns >= (uint64_t)bound_s * NS_PER_S;
}

/* Starts requests in the empty slots. 0 or a negative code. */
static int fill(struct load *load, struct kvasir_error *error)
{
    for (int64_t i = 0; i < load->config->concurrency; i++) {
        if (load->next_idx == load->end_idx || is_time_over(load)) return 0;
        if (load->slots[i].easy != NULL) continue;
        int r = slot_start(&load->slots[i], load->next_idx);
        if (r < 0) return fail(error, r, "cannot start a request: %s", load->slots[i].error.text);
        load->next_idx++;
    }
    return 0;
}

static int64_t count_busy(const struct load *load)
{
    int64_t busy = 0;
    for (int64_t i = 0; i < load->config->concurrency; i++) busy += load->slots[i].easy != NULL;
    return busy;
}

static int run(struct load *load, struct kvasir_cancel *cancel, FILE *progress, struct kvasir_error *error)
{
    int r = fill(load, error);
    while (r == 0 && count_busy(load) > 0 && !cancel_is_set(cancel)) {
        int running = 0, queued = 0;
        if (curl_multi_perform(load->multi, &running) != CURLM_OK)
            return fail(error, KVASIR_ERR_MEMORY, "libcurl cannot go on");
        int64_t finished_before = load->finished;
        for (CURLMsg *message; (message = curl_multi_info_read(load->multi, &queued)) != NULL;) {
            struct slot *slot = NULL;
            CURLcode code = message->data.result;
            (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
                                    (char **)&slot); // set by slot_start
            slot_finish(slot, code);
        }
        if (load->is_out_of_memory)
            return fail(error, KVASIR_ERR_MEMORY, "out of memory for the measurements");
        if (load->finished > finished_before) {
            if (progress != NULL)
                fprintf(progress, "\r%lld of %lld", (long long)load->finished,
                        (long long)load->config->requests);
            r = fill(load, error);
            continue; // the new ones want a perform at once
        }
        struct curl_waitfd wake = {.fd = cancel->fd, .events = CURL_WAIT_POLLIN};
        if (curl_multi_poll(load->multi, &wake, 1, POLL_MS, NULL) != CURLM_OK)
            return fail(error, KVASIR_ERR_MEMORY, "libcurl cannot wait");
    }
    return r;
}

int bench_load(struct kvasir_client *client, const struct bench_config *config, int64_t first_idx,
               int64_t count, struct kvasir_cancel *cancel, FILE *progress, struct bench_result *result,
               struct kvasir_error *error)
{
    CHECK(config->concurrency >= 1 && config->concurrency <= BENCH_CONCURRENCY_MAX);
    struct load load = {
        .client = client,
        .config = config,
        .result = result,
        .next_idx = first_idx,
        .end_idx = first_idx + count,
        .multi = curl_multi_init(),
        .slots = calloc((size_t)config->concurrency, sizeof(*load.slots)),
        .start_ns = clock_mono_ns(),
    };
    int r = 0;
    if (load.multi == NULL || load.slots == NULL) {
        r = fail(error, KVASIR_ERR_MEMORY, "out of memory for %lld requests at once",
                 (long long)config->concurrency);
    } else {
        (void)curl_multi_setopt(load.multi, CURLMOPT_MAXCONNECTS, (long)config->concurrency); // a hint
        for (int64_t i = 0; i < config->concurrency; i++) load.slots[i].load = &load;
        r = run(&load, cancel, progress, error);
        result->cut_count = count_busy(&load);
        for (int64_t i = 0; i < config->concurrency; i++) slot_clear(&load.slots[i]);
        if (progress != NULL) fprintf(progress, "\r%20s\r", "");
    }
    if (load.last_ns > 0) result->wall_s = (double)(load.last_ns - load.start_ns) / 1e9;
    if (load.multi != NULL) (void)curl_multi_cleanup(load.multi); // its handles are off it
    free(load.slots);
    return r;
}

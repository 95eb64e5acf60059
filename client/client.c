/* SPDX-License-Identifier: Apache-2.0 */
/* client - opening and closing. curl_global_init counts its callers and takes its own lock since
 * libcurl 7.84, so each client holds one count and this library holds no state. */
#include "client/client.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <curl/curl.h>

#include "client/fail.h"
#include "client/http.h"
#include "common/base/buf.h"
#include "common/base/limits.h"

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)
static const char VERSION[] = VERSION_TEXT(KVASIR_VERSION_MAJOR, KVASIR_VERSION_MINOR, KVASIR_VERSION_PATCH);

static const char URL_DEFAULT[] = "http://127.0.0.1:8000";
enum { CONNECT_MS_DEFAULT = 5000, IDLE_MS_DEFAULT = 600000, SHORT_MS_DEFAULT = 10000 };

const char *kvasir_version(void)
{
    return VERSION;
}

const char *kvasir_code_text(int code)
{
    switch (code) {
    case KVASIR_OK: return "success";
    case KVASIR_ERR_ARGUMENT: return "wrong argument";
    case KVASIR_ERR_MEMORY: return "out of memory or descriptors";
    case KVASIR_ERR_CONNECT: return "cannot connect";
    case KVASIR_ERR_TIMEOUT: return "timed out";
    case KVASIR_ERR_CANCELLED: return "cancelled";
    case KVASIR_ERR_HTTP: return "the server refused the request";
    case KVASIR_ERR_SERVER: return "the server failed within the stream";
    case KVASIR_ERR_LOST: return "the connection was lost";
    case KVASIR_ERR_PROTOCOL: return "the answer is malformed";
    case KVASIR_ERR_LIMIT: return "the answer is too large";
    default: return "unknown code";
    }
}

static bool is_visible_ascii(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text < 0x20 || *text > 0x7E) return false;
    return true;
}

/* Checks the address and keeps it in the form that paths are appended to. */
static int set_url(struct kvasir_client *client, const char *url, struct kvasir_error *error)
{
    CURLU *parts = curl_url();
    char *scheme = NULL, *whole = NULL;
    int r = 0;
    if (parts == NULL) return fail(error, KVASIR_ERR_MEMORY, "out of memory");
    if (curl_url_set(parts, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)) {
        r = fail(error, KVASIR_ERR_ARGUMENT, "url: \"%s\" is not of the form http://HOST:PORT", url);
        goto out;
    }
    (void)curl_url_set(parts, CURLUPART_QUERY, NULL, 0); // removing a part cannot fail
    (void)curl_url_set(parts, CURLUPART_FRAGMENT, NULL, 0);
    if (curl_url_get(parts, CURLUPART_URL, &whole, 0) != CURLUE_OK ||
        (client->base_url = strdup(whole)) == NULL) {
        r = fail(error, KVASIR_ERR_MEMORY, "out of memory");
        goto out;
    }
    size_t len = strlen(client->base_url);
    while (len > 0 && client->base_url[len - 1] == '/') len--;
    if (len >= 3 && memcmp(client->base_url + len - 3, "/v1", 3) == 0) len -= 3; // OpenAI clients' base URL
    while (len > 0 && client->base_url[len - 1] == '/') len--;
    client->base_url[len] = '\0';
out:
    curl_free(scheme);
    curl_free(whole);
    curl_url_cleanup(parts);
    return r;
}

static int set_key(struct kvasir_client *client, const char *key, struct kvasir_error *error)
{
    if (!is_visible_ascii(key))
        return fail(error, KVASIR_ERR_ARGUMENT, "api_key: may hold visible ASCII only");
    struct buf header;
    size_t len;
    buf_init(&header, KIB(8));
    if (buf_printf(&header, "Authorization: Bearer %s", key) < 0) {
        int r = fail_buf(error, header.error, "api_key");
        buf_done(&header);
        return r;
    }
    client->auth_header = buf_take(&header, &len);
    return 0;
}

static int set_strings(struct kvasir_client *client, const struct kvasir_options *options,
                       struct kvasir_error *error)
{
    const char *url = options->url != NULL   ? options->url
                      : options->uds != NULL ? "http://localhost"
                                             : URL_DEFAULT;
    int r = set_url(client, url, error);
    if (r < 0) return r;
    if (options->api_key != NULL && options->api_key[0] != '\0') {
        r = set_key(client, options->api_key, error);
        if (r < 0) return r;
    }
    if (options->uds != NULL) {
        size_t path_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
        size_t len = strlen(options->uds);
        if (len == 0 || len > path_max)
            return fail(error, KVASIR_ERR_ARGUMENT, "uds: a socket path has 1 to %zu bytes, this one %zu",
                        path_max, len);
        client->uds = strdup(options->uds);
    }
    const char *agent = options->user_agent;
    if (agent != NULL && !is_visible_ascii(agent))
        return fail(error, KVASIR_ERR_ARGUMENT, "user_agent: may hold visible ASCII only");
    struct buf text;
    size_t len;
    buf_init(&text, KIB(8));
    int short_of_memory = agent != NULL ? buf_puts(&text, agent) : buf_printf(&text, "libkvasir/%s", VERSION);
    client->user_agent = buf_take(&text, &len);
    if (short_of_memory < 0 || client->user_agent == NULL || (options->uds != NULL && client->uds == NULL))
        return fail(error, KVASIR_ERR_MEMORY, "out of memory");
    return 0;
}

static int64_t time_or(int64_t ms, int64_t ms_default)
{
    return ms == 0 ? ms_default : ms;
}

int kvasir_open(const struct kvasir_options *options, struct kvasir_client **ret_client,
                struct kvasir_error *error)
{
    fail_clear(error);
    /* A caller built against an older header gives a shorter struct: what it lacks is zero. */
    struct kvasir_options o = {.size = sizeof(o)};
    if (options != NULL) {
        if (options->size < sizeof(size_t) + sizeof(char *) || options->size > 4 * KIB(1))
            return fail(error, KVASIR_ERR_ARGUMENT, "options.size: %zu is no size of it", options->size);
        memcpy(&o, options, options->size < sizeof(o) ? options->size : sizeof(o));
    }
    struct kvasir_client *client = calloc(1, sizeof(*client));
    if (client == NULL) return fail(error, KVASIR_ERR_MEMORY, "out of memory");
    if (pthread_mutex_init(&client->lock, NULL) != 0) {
        free(client);
        return fail(error, KVASIR_ERR_MEMORY, "no mutex");
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        pthread_mutex_destroy(&client->lock);
        free(client);
        return fail(error, KVASIR_ERR_MEMORY, "libcurl does not start");
    }
    client->connect_timeout_ms = time_or(o.connect_timeout_ms, CONNECT_MS_DEFAULT);
    client->idle_timeout_ms = time_or(o.idle_timeout_ms, IDLE_MS_DEFAULT);
    client->total_timeout_ms = time_or(o.total_timeout_ms, -1);
    client->short_timeout_ms = time_or(o.short_timeout_ms, SHORT_MS_DEFAULT);
    client->body_bytes_max = o.body_bytes_max ? o.body_bytes_max : MIB(64);
    client->stream_bytes_max = o.stream_bytes_max ? o.stream_bytes_max : GIB(1);
    client->event_bytes_max = o.event_bytes_max ? o.event_bytes_max : MIB(4);
    int r = set_strings(client, &o, error);
    if (r < 0) {
        kvasir_close(client);
        return r;
    }
    *ret_client = client;
    return KVASIR_OK;
}

void kvasir_close(struct kvasir_client *client)
{
    if (client == NULL) return;
    http_lanes_close(client->idle);
    pthread_mutex_destroy(&client->lock);
    free(client->base_url);
    free(client->uds);
    free(client->auth_header);
    free(client->user_agent);
    free(client);
    curl_global_cleanup();
}

void kvasir_memory_free(void *memory)
{
    free(memory);
}

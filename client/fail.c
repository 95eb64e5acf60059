/* SPDX-License-Identifier: Apache-2.0 */
#include "client/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"

_Static_assert(sizeof(struct kvasir_error) == 2048, "public layout, fixed for good");

void text_clean(char *out, size_t cap, const char *bytes, size_t len)
{
    const uint8_t *p = (const uint8_t *)bytes;
    size_t at = 0;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence_bytes(p + i, len - i);
        size_t width = n > 0 ? n : 1;
        if (width > cap - 1 - at) break;
        bool is_c1 = n == 2 && p[i] == 0xC2 && p[i + 1] < 0xA0; // U+0080..U+009F
        if (n == 0) {
            out[at++] = '?';
        } else if (p[i] < 0x20 || p[i] == 0x7F || is_c1) {
            out[at++] = ' ';
        } else {
            memcpy(out + at, p + i, n);
            at += n;
        }
        i += width;
    }
    while (at > 0 && out[at - 1] == ' ') at--; // the newlines that servers end their messages with
    out[at] = '\0';
}

void fail_clear(struct kvasir_error *error)
{
    if (error != NULL) *error = (struct kvasir_error){.retry_after_s = -1};
}

int fail(struct kvasir_error *error, int code, const char *format, ...)
{
    if (error == NULL) return code;
    char text[2 * sizeof(error->text)];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args); // a longer text is cut
    va_end(args);
    error->code = code;
    text_clean(error->text, sizeof(error->text), text, strlen(text));
    return code;
}

int fail_buf(struct kvasir_error *error, int buf_error, const char *what)
{
    if (buf_error == -EMSGSIZE)
        return fail(error, KVASIR_ERR_LIMIT, "%s is larger than the bound set for it", what);
    return fail(error, KVASIR_ERR_MEMORY, "out of memory for %s", what);
}

static void copy_string(char *out, size_t cap, const cJSON *json, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
    if (text != NULL) text_clean(out, cap, text, strlen(text));
}

int fail_read_json(struct kvasir_error *error, const cJSON *json)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, "error");
    const char *object = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "object"));
    if (cJSON_IsNull(item)) item = NULL;
    if (item == NULL && object != NULL && strcmp(object, "error") == 0) item = json;
    const cJSON *detail = cJSON_GetObjectItemCaseSensitive(json, "detail");
    if (item == NULL && detail == NULL) return 0;
    if (error == NULL) return 1;

    if (cJSON_IsObject(item)) {
        copy_string(error->server_message, sizeof(error->server_message), item, "message");
        copy_string(error->server_type, sizeof(error->server_type), item, "type");
        copy_string(error->server_param, sizeof(error->server_param), item, "param");
    } else if (cJSON_IsString(item)) {
        copy_string(error->server_message, sizeof(error->server_message), json, "error");
    } else {
        copy_string(error->server_message, sizeof(error->server_message), json, "detail");
    }
    return 1;
}

/* "prefix: message (field: param)"; the prefix alone where the server said nothing. */
static int fail_with_server_words(struct kvasir_error *error, int code, const char *prefix)
{
    if (error == NULL) return code;
    const char *message = error->server_message, *param = error->server_param;
    return fail(error, code, "%s%s%s%s%s%s", prefix, message[0] ? ": " : "", message,
                param[0] ? " (field: " : "", param, param[0] ? ")" : "");
}

int fail_http(struct kvasir_error *error, long status, const char *path, const char *body, size_t body_bytes)
{
    if (error == NULL) return KVASIR_ERR_HTTP;
    error->http_status = (int32_t)status;
    cJSON *json = NULL;
    if (json_check(body, body_bytes, JSON_DEPTH_MAX, NULL) >= 0)
        json = cJSON_ParseWithLength(body, body_bytes);
    bool was_read = json != NULL && fail_read_json(error, json);
    cJSON_Delete(json);
    if (!was_read && body_bytes > 0 && body[0] != '<') { // an HTML page of a proxy says nothing in a line
        const char *line_end = memchr(body, '\n', body_bytes);
        size_t len = line_end != NULL ? (size_t)(line_end - body) : body_bytes;
        text_clean(error->server_message, 256, body, len);
    }
    char prefix[128];
    (void)snprintf(prefix, sizeof(prefix), "%s answered with HTTP status %ld", path, status); // cut is fine
    return fail_with_server_words(error, KVASIR_ERR_HTTP, prefix);
}

int fail_stream(struct kvasir_error *error, const cJSON *json)
{
    (void)fail_read_json(error, json); // without words the prefix stands alone
    return fail_with_server_words(error, KVASIR_ERR_SERVER, "the server ended the stream with an error");
}
